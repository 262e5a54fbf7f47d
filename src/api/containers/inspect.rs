//! `GET /containers/{id}/json`: a container with everything that is needed to make another one like it.

use super::describe::{command_line, endpoints, mode, mounts, network_mode, sizes};
use super::list::UNKNOWN;
use crate::api::reply::{self, Query, Reply};
use crate::api::types::{
    BindOptions, CommandLine, ContainerConfig, ContainerInspect, DeviceMapping, Empty, GraphDriver, HealthConfig, HostConfig,
    IdMapping, ImageOptions, InspectedHealth, InspectedState, LogConfig, Mount, NEVER, NetworkSettings, OlderNetworkSettings,
    PortBinding, ProbeResult, RestartPolicyConfig, STORAGE_DRIVER, ThrottleDevice, UlimitConfig, UnknownContainer, UnknownState,
    VolumeOptions, WeightDevice, signed,
};
use crate::engine::Engine;
use crate::engine::record::{
    ContainerRecord, ContainerSpec, HealthSpec, MountKind, MountSpec, Probe, RestartPolicy, Sharing, Status,
};
use crate::engine::recovery::RecordKind;
use crate::units::ByteSize;
use indexmap::IndexMap;
use jiff::Timestamp;
use std::net::Ipv4Addr;

pub(in crate::api) fn inspect(engine: &Engine, id: &str, query: &Query) -> Reply {
    if let (Err(_), Some(unknown)) = (engine.containers.find(id), engine.state.find_unknown(RecordKind::Container, id)) {
        let state = UnknownState { status: UNKNOWN, running: unknown.runs(), exit_code: 0 };
        let name = format!("/{}", unknown.name);
        let shown = UnknownContainer { id: unknown.id.clone(), name, state, record: unknown.record.clone() };
        return reply::json(200, &shown);
    }
    let record = engine.containers.find(id)?.record();
    let argv = command_line(&record);
    let files = engine.config.data_root.join("containers").join(&record.id);
    let path = |name: &str| files.join(name).to_string_lossy().into_owned();
    let layer = [("UpperDir", "upper"), ("WorkDir", "work"), ("MergedDir", "merged")];
    let (own, root) = query.flag("size").then(|| sizes(engine, &record)).unzip();
    let inspected = ContainerInspect {
        id: record.id.clone(),
        created: record.created_at.to_string(),
        path: argv.first().cloned().unwrap_or_default(),
        args: argv.get(1..).unwrap_or_default().to_vec(),
        state: state(&record),
        image: record.image_id_text(),
        resolv_conf_path: path("etc/resolv.conf"),
        hostname_path: path("etc/hostname"),
        hosts_path: path("etc/hosts"),
        log_path: engine.config.log_path(&record.id).to_string_lossy().into_owned(),
        name: format!("/{}", record.name),
        restart_count: record.restart_count,
        driver: STORAGE_DRIVER.into(),
        platform: "linux".into(),
        exec_ids: reply::or_null(engine.execs.of_container(&record.id)),
        host_config: host_config(&record),
        graph_driver: GraphDriver {
            name: STORAGE_DRIVER.into(),
            data: layer.into_iter().map(|(key, name)| (key.to_string(), path(name))).collect(),
        },
        mounts: mounts(engine, &record),
        config: config(engine, &record),
        network_settings: network_settings(engine, &record, query),
        size_rw: own,
        size_root_fs: root,
        ..ContainerInspect::default()
    };
    reply::json(200, &inspected)
}

fn state(record: &ContainerRecord) -> InspectedState {
    let state = &record.state;
    let time = |t: Option<Timestamp>| t.map_or_else(|| NEVER.to_string(), |t| t.to_string());
    let probe = |probe: &Probe| ProbeResult {
        start: probe.start.to_string(),
        end: probe.end.to_string(),
        exit_code: probe.exit_code,
        output: probe.output.clone(),
    };
    InspectedState {
        status: state.status().as_str().into(),
        running: state.status().is_alive(),
        paused: state.status() == Status::Paused,
        restarting: state.status() == Status::Restarting,
        oom_killed: state.oom_killed,
        dead: false,
        pid: state.pid,
        exit_code: state.exit_code,
        error: state.error.clone(),
        started_at: time(state.started_at),
        output_since: time(state.output_since),
        finished_at: time(state.finished_at),
        health: state.health.as_ref().map(|health| InspectedHealth {
            status: health.status.as_str().into(),
            failing_streak: health.failing_streak,
            log: health.log.iter().map(probe).collect(),
            restarts: record.on_unhealthy().map(|_| record.unhealthy_restarts),
        }),
    }
}

fn health_config(check: &HealthSpec) -> HealthConfig {
    HealthConfig {
        test: check.test.clone(),
        interval: signed(Some(check.interval.0)),
        timeout: signed(Some(check.timeout.0)),
        start_period: signed(Some(check.start_period.0)),
        start_interval: signed(Some(check.start_interval.0)),
        retries: i64::from(check.retries),
    }
}

fn config(engine: &Engine, record: &ContainerRecord) -> ContainerConfig {
    let (spec, image) = (&record.spec, &record.image);
    let line = |words: Vec<String>| (!words.is_empty()).then_some(CommandLine(words));
    let (entrypoint, command) = record.entrypoint_and_command();
    ContainerConfig {
        image: spec.image.clone(),
        hostname: engine.containers.host_name(record),
        domainname: spec.domainname.clone().unwrap_or_default(),
        user: spec.user.clone().unwrap_or_else(|| image.user.clone()),
        attach_stdin: spec.as_created.attach_stdin,
        attach_stdout: spec.as_created.attach_stdout,
        attach_stderr: spec.as_created.attach_stderr,
        exposed_ports: record.as_exposed().iter().map(|port| (port.to_string(), Some(Empty {}))).collect(),
        tty: spec.tty,
        open_stdin: spec.stdin_open,
        stdin_once: spec.stdin_once,
        // A name without a value takes a variable of the image away; clients see it all the same.
        env: record.env().into_iter().chain(spec.env.iter().filter(|variable| !variable.contains('=')).cloned()).collect(),
        cmd: line(command),
        entrypoint: line(entrypoint),
        healthcheck: spec.health.as_ref().or(image.health.as_ref()).map(health_config),
        volumes: spec.mounts.iter().filter(|m| m.anonymous).map(|m| (m.target.clone(), Some(Empty {}))).collect(),
        working_dir: spec.working_dir.clone().unwrap_or_else(|| image.working_dir.clone()),
        labels: spec.labels.clone(),
        stop_signal: spec.stop_signal.clone().or_else(|| image.stop_signal.clone()).unwrap_or_default(),
        stop_timeout: spec.stop_timeout.and_then(|seconds| i64::try_from(seconds).ok()),
        on_build: None,
    }
}

/// Whether Docker's short form says all of a mount.
fn is_bind(mount: &MountSpec) -> bool {
    let plain = !mount.not_recursive && mount.id_map.is_none() && mount.subpath.is_none();
    let plain = plain && !mount.source.contains(':') && !mount.target.contains(':');
    plain && !mount.anonymous && (mount.kind == MountKind::Volume || mount.kind == MountKind::Bind && mount.create_host_path)
}

fn long_mount(mount: &MountSpec) -> Mount {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let of = |kind: MountKind| mount.kind == kind;
    Mount {
        kind: match mount.kind {
            MountKind::Bind => "bind",
            MountKind::Volume => "volume",
            MountKind::Image => "image",
        }
        .into(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        read_only: mount.read_only,
        bind_options: of(MountKind::Bind).then(|| BindOptions {
            propagation: text(&mount.propagation),
            non_recursive: mount.not_recursive,
            create_mountpoint: mount.create_host_path,
            id_mapping: mount.id_map.as_ref().map(IdMapping::from),
            ..BindOptions::default()
        }),
        volume_options: of(MountKind::Volume).then(|| VolumeOptions {
            no_copy: mount.no_copy,
            subpath: text(&mount.subpath),
            labels: mount.labels.clone(),
            ..VolumeOptions::default()
        }),
        image_options: of(MountKind::Image).then(|| ImageOptions { subpath: text(&mount.subpath) }),
        ..Mount::default()
    }
}

/// The bindings that were asked for, whatever is bound.
fn bindings(spec: &ContainerSpec) -> IndexMap<String, Option<Vec<PortBinding>>> {
    let mut bindings: IndexMap<String, Option<Vec<PortBinding>>> = IndexMap::new();
    for port in &spec.ports {
        let host_port = port.published.to_string();
        let host_ip = port.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
        let list = bindings.entry(port.container_port().to_string()).or_default();
        list.get_or_insert_default().push(PortBinding { host_ip, host_port });
    }
    bindings
}

fn host_config(record: &ContainerRecord) -> HostConfig {
    let spec = &record.spec;
    let retries = if let RestartPolicy::OnFailure { max } = spec.restart { i64::from(max) } else { 0 };
    let (short, long): (Vec<&MountSpec>, Vec<&MountSpec>) = spec.mounts.iter().filter(|m| !m.anonymous).partition(|m| is_bind(m));
    let bind = |m: &&MountSpec| match mode(m) {
        mode if mode.is_empty() => format!("{}:{}", m.source, m.target),
        mode => format!("{}:{}:{mode}", m.source, m.target),
    };
    HostConfig {
        binds: short.iter().map(bind).collect(),
        mounts: long.into_iter().map(long_mount).collect(),
        tmpfs: spec.tmpfs.iter().map(|(path, options)| (path.clone(), options.join(","))).collect(),
        volumes_from: spec.as_created.volumes_from.clone(),
        container_id_file: spec.as_created.container_id_file.clone(),
        isolation: spec.as_created.isolation.clone(),
        volume_driver: spec.as_created.volume_driver.clone(),
        log_config: log_config(spec),
        network_mode: network_mode(record),
        port_bindings: bindings(spec),
        publish_all_ports: spec.as_created.publish_all_ports,
        restart_policy: RestartPolicyConfig { name: spec.restart.name().into(), maximum_retry_count: retries },
        auto_remove: spec.auto_remove,
        client_removes: spec.client_removes,
        links: spec.links.iter().map(|(alias, name)| format!("/{name}:/{}/{alias}", record.name)).collect(),
        init: Some(spec.init),
        runtime: spec.runtime.clone().unwrap_or_else(|| crate::api::spec::OWN_RUNTIME.into()),
        privileged: spec.privileged,
        readonly_rootfs: spec.read_only,
        cap_add: spec.cap_add.clone(),
        cap_drop: spec.cap_drop.clone(),
        security_opt: spec.security_opt.clone(),
        group_add: spec.group_add.clone(),
        extra_hosts: spec.extra_hosts.clone(),
        dns: spec.dns.clone(),
        dns_options: spec.dns_opt.clone(),
        dns_search: spec.dns_search.clone(),
        ipc_mode: sharing(&spec.ipc, if spec.as_created.shareable_ipc { "shareable" } else { "private" }),
        pid_mode: sharing(&spec.pid, ""),
        uts_mode: if spec.uts_host { "host".into() } else { String::new() },
        cgroupns_mode: match spec.cgroup_private.unwrap_or(crate::api::system::has_unified_groups() && !spec.privileged) {
            true => "private".into(),
            false => "host".into(),
        },
        sysctls: spec.sysctls.clone(),
        storage_opt: spec.storage_opt.clone(),
        annotations: spec.annotations.clone(),
        shm_size: i64::try_from(spec.shm_size.unwrap_or(64 << 20)).unwrap_or(i64::MAX),
        oom_score_adj: i64::from(spec.oom_score_adj),
        console_size: Some(spec.console_size.unwrap_or_default()),
        ..limits(spec)
    }
}

fn log_config(spec: &ContainerSpec) -> LogConfig {
    let mut config = spec.as_created.log_options.clone();
    if config.is_empty() && spec.log.max_size > 0 {
        config.insert("max-size".into(), spec.log.max_size.to_string());
        config.insert("max-file".into(), spec.log.max_files.to_string());
    }
    LogConfig { kind: if spec.log.none { "none".into() } else { "json-file".into() }, config }
}

fn limits(spec: &ContainerSpec) -> HostConfig {
    let resources = &spec.resources;
    let throttles =
        |list: &[(String, u64)]| list.iter().map(|(path, rate)| ThrottleDevice { path: path.clone(), rate: *rate }).collect();
    let bytes = |size: Option<ByteSize>| size.unwrap_or_default().0;
    let blkio = &resources.blkio;
    HostConfig {
        memory: bytes(resources.memory),
        memory_reservation: bytes(resources.memory_reservation),
        memory_swap: bytes(resources.memory_swap),
        memory_swappiness: resources.memory_swappiness.map(|n| signed(Some(n))),
        oom_kill_disable: Some(resources.oom_kill_disable),
        nano_cpus: resources.cpus.map_or(0, |cpus| (cpus * 1e9) as i64),
        cpu_shares: signed(resources.cpu_shares),
        cpu_period: signed(resources.cpu_period),
        cpu_quota: resources.cpu_quota.unwrap_or(0),
        cpu_realtime_period: signed(resources.cpu_rt_period),
        cpu_realtime_runtime: resources.cpu_rt_runtime.unwrap_or(0),
        cpuset_cpus: resources.cpuset.clone().unwrap_or_default(),
        cpuset_mems: resources.cpuset_mems.clone().unwrap_or_default(),
        pids_limit: resources.pids,
        cgroup_parent: spec.cgroup_parent.clone().unwrap_or_default(),
        blkio_weight: blkio.weight.unwrap_or(0),
        blkio_weight_device: blkio
            .weight_device
            .iter()
            .map(|(path, weight)| WeightDevice { path: path.clone(), weight: *weight })
            .collect(),
        blkio_device_read_bps: throttles(&blkio.read_bps),
        blkio_device_write_bps: throttles(&blkio.write_bps),
        blkio_device_read_iops: throttles(&blkio.read_iops),
        blkio_device_write_iops: throttles(&blkio.write_iops),
        devices: spec
            .devices
            .iter()
            .map(|device| DeviceMapping {
                path_on_host: device.source.clone(),
                path_in_container: device.target.clone(),
                cgroup_permissions: device.permissions.clone(),
            })
            .collect(),
        device_cgroup_rules: spec.device_cgroup_rules.clone(),
        ulimits: spec
            .ulimits
            .iter()
            .map(|(name, soft, hard)| UlimitConfig { name: name.clone(), soft: *soft, hard: *hard })
            .collect(),
        ..HostConfig::default()
    }
}

fn sharing(sharing: &Sharing, own: &str) -> String {
    match sharing {
        Sharing::Own => own.into(),
        Sharing::Bare => "none".into(),
        Sharing::Host => "host".into(),
        Sharing::Container(id) => format!("container:{id}"),
    }
}

fn network_settings(engine: &Engine, record: &ContainerRecord, query: &Query) -> NetworkSettings {
    let alive = record.state.status().is_alive();
    let mut ports: IndexMap<String, Option<Vec<PortBinding>>> = IndexMap::new();
    if alive {
        ports.extend(record.as_exposed().iter().map(|port| (port.to_string(), None)));
        for bound in &record.bound_ports {
            let host_ip = bound.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()).to_string();
            let list = ports.entry(bound.container_port().to_string()).or_default();
            list.get_or_insert_default().push(PortBinding { host_ip, host_port: bound.host_port.to_string() });
        }
    }
    let networks = endpoints(&engine.networks.all(), record);
    let sandbox = match record.state.pid {
        pid if alive && pid > 0 => format!("/proc/{pid}/ns/net"),
        _ => String::new(),
    };
    // From before there were other networks than `bridge`.
    let older = (query.version < (1, 52)).then(|| {
        let bridge = networks.get(crate::engine::networks::DEFAULT_NETWORK).cloned().unwrap_or_default();
        OlderNetworkSettings {
            endpoint_id: bridge.endpoint_id,
            gateway: bridge.gateway,
            ip_address: bridge.ip_address,
            ip_prefix_len: bridge.ip_prefix_len,
            ipv6_gateway: bridge.ipv6_gateway,
            global_ipv6_address: bridge.global_ipv6_address,
            global_ipv6_prefix_len: bridge.global_ipv6_prefix_len,
            mac_address: bridge.mac_address,
            ..OlderNetworkSettings::default()
        }
    });
    NetworkSettings {
        sandbox_id: if alive { record.id.clone() } else { String::new() },
        sandbox_key: sandbox,
        ports,
        networks,
        older,
    }
}
