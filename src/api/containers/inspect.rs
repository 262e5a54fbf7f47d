//! `GET /containers/{id}/json`: a container with everything that is needed to make another one like it.

use super::describe::{command_line, endpoints, mode, mounts, network_mode, sizes};
use super::list::UNKNOWN;
use crate::api::reply::{self, Query, Reply};
use crate::api::types::{
    BindOptions, CommandLine, ContainerCreate, DeviceMapping, Empty, HealthConfig, HostConfig, ImageOptions, LogConfig, Mount,
    PortBinding, RestartPolicyConfig, ThrottleDevice, UlimitConfig, VolumeOptions, WeightDevice, signed,
};
use crate::engine::record::{ContainerRecord, ContainerSpec, HealthSpec, MountKind, MountSpec, RestartPolicy, Sharing, Status};
use crate::engine::recovery::Kind;
use crate::engine::{Engine, EngineError};
use crate::units::ByteSize;
use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

pub(in crate::api) fn inspect(engine: &Engine, id: &str, query: &Query) -> Reply {
    if let (Err(_), Some(unknown)) = (engine.containers.find(id), engine.state.find_unknown(Kind::Container, id)) {
        let state = json!({"Status": UNKNOWN, "Running": unknown.runs(), "ExitCode": 0});
        let name = format!("/{}", unknown.name);
        return reply::json(200, &json!({"Id": unknown.id, "Name": name, "State": state, "Record": unknown.record}));
    }
    let record = engine.containers.find(id)?.record();
    let argv = command_line(&record);
    let files = engine.config.data_root.join("containers").join(&record.id);
    let mut value = json!({
        "Id": record.id,
        "Created": record.created_at.to_string(),
        "Path": argv.first().cloned().unwrap_or_default(),
        "Args": argv.get(1..).unwrap_or_default(),
        "State": state(&record),
        "Image": record.image_id,
        "ResolvConfPath": files.join("etc/resolv.conf"),
        "HostnamePath": files.join("etc/hostname"),
        "HostsPath": files.join("etc/hosts"),
        "LogPath": engine.config.log_path(&record.id),
        "Name": format!("/{}", record.name),
        "RestartCount": record.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config(&record)?,
        "GraphDriver": {"Name": "overlay2", "Data": {
            "UpperDir": files.join("upper"), "WorkDir": files.join("work"), "MergedDir": files.join("merged"),
        }},
        "Mounts": mounts(engine, &record),
        "Config": config(engine, &record)?,
        "NetworkSettings": network_settings(engine, &record, query),
    });
    if query.flag("size") {
        let (own, root) = sizes(engine, &record);
        value["SizeRw"] = json!(own);
        value["SizeRootFs"] = json!(root);
    }
    reply::json(200, &value)
}

fn state(record: &ContainerRecord) -> Value {
    let state = &record.state;
    let time = |t: Option<Timestamp>| t.map_or_else(|| "0001-01-01T00:00:00Z".to_string(), |t| t.to_string());
    let mut value = json!({
        "Status": state.status().as_str(),
        "Running": state.status().is_alive(),
        "Paused": state.status() == Status::Paused,
        "Restarting": state.status() == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": false,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": time(state.started_at),
        // wharf's own: clients show what came since the last start from here on.
        "OutputSince": time(state.output_since),
        "FinishedAt": time(state.finished_at),
    });
    if let Some(health) = &state.health {
        let log: Vec<Value> = health
            .log
            .iter()
            .map(|p| json!({"Start": p.start.to_string(), "End": p.end.to_string(), "ExitCode": p.exit_code, "Output": p.output}))
            .collect();
        value["Health"] = json!({"Status": health.status.as_str(), "FailingStreak": health.failing_streak, "Log": log});
        if record.on_unhealthy().is_some() {
            value["Health"]["Restarts"] = json!(record.unhealthy_restarts);
        }
    }
    value
}

/// Types as JSON, without some of their fields.
fn without(value: &impl serde::Serialize, fields: &[&str]) -> Result<Value, EngineError> {
    let mut value = serde_json::to_value(value).map_err(|e| EngineError::Invalid(e.to_string()))?;
    if let Some(map) = value.as_object_mut() {
        fields.iter().for_each(|field| drop(map.shift_remove(*field)));
    }
    Ok(value)
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

fn config(engine: &Engine, record: &ContainerRecord) -> Result<Value, EngineError> {
    let (spec, image) = (&record.spec, &record.image);
    let line = |words: Vec<String>| (!words.is_empty()).then_some(CommandLine(words));
    let (entrypoint, command) = record.entrypoint_and_command();
    let health = spec.health.as_ref().or(image.health.as_ref()).map(health_config);
    let config = ContainerCreate {
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
        env: record.env(),
        cmd: line(command),
        entrypoint: line(entrypoint),
        healthcheck: health.clone(),
        volumes: spec.mounts.iter().filter(|m| m.anonymous).map(|m| (m.target.clone(), Some(Empty {}))).collect(),
        working_dir: spec.working_dir.clone().unwrap_or_else(|| image.working_dir.clone()),
        labels: spec.labels.clone(),
        stop_signal: spec.stop_signal.clone().or_else(|| image.stop_signal.clone()).unwrap_or_default(),
        stop_timeout: spec.stop_timeout.and_then(|seconds| i64::try_from(seconds).ok()),
        ..ContainerCreate::default()
    };
    let mut value = without(&config, &["HostConfig", "NetworkingConfig", "MacAddress", "NetworkDisabled"])?;
    let absent = |value: &Value| value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty) || value == "";
    if let Some(map) = value.as_object_mut() {
        for field in ["ExposedPorts", "Healthcheck", "StopSignal", "StopTimeout"] {
            if map.get(field).is_some_and(absent) {
                map.shift_remove(field);
            }
        }
        if map.get("Volumes").is_some_and(absent) {
            map["Volumes"] = Value::Null;
        }
        map.insert("OnBuild".into(), Value::Null);
    }
    Ok(value)
}

/// Whether Docker's short form says all of a mount.
fn is_bind(mount: &MountSpec) -> bool {
    let plain = !mount.not_recursive && mount.subpath.is_none() && !mount.source.contains(':') && !mount.target.contains(':');
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

fn host_config(record: &ContainerRecord) -> Result<Value, EngineError> {
    let spec = &record.spec;
    let retries = if let RestartPolicy::OnFailure { max } = spec.restart { i64::from(max) } else { 0 };
    let (short, long): (Vec<&MountSpec>, Vec<&MountSpec>) = spec.mounts.iter().filter(|m| !m.anonymous).partition(|m| is_bind(m));
    let bind = |m: &&MountSpec| match mode(m) {
        mode if mode.is_empty() => format!("{}:{}", m.source, m.target),
        mode => format!("{}:{}:{mode}", m.source, m.target),
    };
    let config = HostConfig {
        binds: short.iter().map(bind).collect(),
        mounts: long.into_iter().map(long_mount).collect(),
        tmpfs: spec.tmpfs.iter().map(|(path, options)| (path.clone(), options.join(","))).collect(),
        volumes_from: spec.as_created.volumes_from.clone(),
        container_id_file: spec.as_created.container_id_file.clone(),
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
    };
    let mut value = serde_json::to_value(&config).map_err(|e| EngineError::Invalid(e.to_string()))?;
    if let Some(map) = value.as_object_mut() {
        without_empties(map);
    }
    Ok(value)
}

/// Empty lists and mappings as Docker shows them.
fn without_empties(map: &mut serde_json::Map<String, Value>) {
    // Lists that nothing was asked of are null.
    const NULL: [&str; 12] = [
        "Binds",
        "VolumesFrom",
        "Links",
        "CapAdd",
        "CapDrop",
        "SecurityOpt",
        "GroupAdd",
        "ExtraHosts",
        "DeviceCgroupRules",
        "DeviceRequests",
        "Ulimits",
        "BlkioWeightDevice",
    ];
    for field in NULL {
        if map.get(field).and_then(Value::as_array).is_some_and(Vec::is_empty) {
            map.insert(field.into(), Value::Null);
        }
    }
    // Absent where nothing was asked for: an empty list would unmask the paths of who makes another one of it.
    for field in ["MaskedPaths", "ReadonlyPaths", "Mounts", "Tmpfs", "Sysctls", "StorageOpt", "Annotations"] {
        let empty = |v: &Value| {
            v.is_null() || v.as_array().is_some_and(Vec::is_empty) || v.as_object().is_some_and(serde_json::Map::is_empty)
        };
        if map.get(field).is_some_and(empty) {
            map.shift_remove(field);
        }
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

fn network_settings(engine: &Engine, record: &ContainerRecord, query: &Query) -> Value {
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
    let mut settings = json!({
        "SandboxID": if alive { record.id.as_str() } else { "" },
        "SandboxKey": sandbox,
        "Ports": ports,
        "Networks": networks,
    });
    if query.version < (1, 52) {
        // Those of the network `bridge`, from before there were others.
        let bridge = networks.get(crate::engine::networks::DEFAULT_NETWORK).cloned().unwrap_or_default();
        for (field, empty) in [
            ("EndpointID", json!("")),
            ("Gateway", json!("")),
            ("IPAddress", json!("")),
            ("IPPrefixLen", json!(0)),
            ("IPv6Gateway", json!("")),
            ("GlobalIPv6Address", json!("")),
            ("GlobalIPv6PrefixLen", json!(0)),
            ("MacAddress", json!("")),
        ] {
            settings[field] = bridge.get(field).cloned().unwrap_or(empty);
        }
        for (field, value) in [
            ("Bridge", json!("")),
            ("HairpinMode", json!(false)),
            ("LinkLocalIPv6Address", json!("")),
            ("LinkLocalIPv6PrefixLen", json!(0)),
            ("SecondaryIPAddresses", Value::Null),
            ("SecondaryIPv6Addresses", Value::Null),
        ] {
            settings[field] = value;
        }
    }
    settings
}
