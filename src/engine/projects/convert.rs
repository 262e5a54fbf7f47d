//! A Compose service as the specification of a container, with Docker Compose's labels.

use crate::compose::model::{
    FileMount, FileObject, Hook, IpamConfig, Project, Service, ServiceNetwork, ServiceVolume, Throttle, Ulimit,
};
use crate::compose::units;
use crate::engine::networks::{NewPool, interface_sysctls};
use crate::engine::record::{
    AsCreated, BlkioSpec, ContainerSpec, DeviceSpec, EndpointSpec, FileSpec, HealthSpec, HookSpec, LogSpec, MountKind, MountSpec,
    NetworkMode, PortSpec, PreStartSpec, ResourceSpec, RestartPolicy, Sharing,
};
use crate::labels::{
    LABEL_DEPENDS_ON, LABEL_DIRECTORY, LABEL_FILES, LABEL_HASH, LABEL_NUMBER, LABEL_ONEOFF, LABEL_PROJECT, LABEL_SERVICE,
    LABEL_VERSION,
};
use crate::plan::config_hash;
use indexmap::IndexMap;

/// Where a project comes from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    pub config_files: String,
    pub working_dir: String,
}

/// Containers whose namespaces a service's container shares, by their ids.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    pub network: Option<String>,
    pub ipc: Option<String>,
    pub pid: Option<String>,
}

/// The specification of a service's n-th container.
///
/// # Errors
/// A sentence: which attribute has a value that cannot be meant.
pub fn container(project: &Project, name: &str, number: u32, origin: &Origin, shared: Shared) -> Result<ContainerSpec, String> {
    let service = &project.services[name];
    let wrong = |attribute: &str, value: &str, expected: &str| {
        format!("`services.{name}.{attribute}` is `{value}`, and must be {expected}")
    };
    // `networks: {x: {name: host, external: true}}` is the older way to say `network_mode: host`.
    let named: Vec<&str> = service.networks.keys().filter_map(|key| project.networks.get(key)).map(|n| n.name.as_str()).collect();
    let of_networks = if let ["host" | "none"] = named[..] { named.first().copied() } else { None };
    let network_mode = match (service.network_mode.as_deref().or(of_networks), shared.network) {
        (_, Some(id)) => NetworkMode::Container(id),
        (Some("host"), _) => NetworkMode::Host,
        (Some("none"), _) => NetworkMode::None,
        (None | Some("bridge" | "default"), _) => NetworkMode::Bridge,
        (Some(other), _) => {
            return Err(wrong("network_mode", other, "`host`, `none`, `bridge`, `service:NAME` or `container:NAME`"));
        }
    };
    let mut keys: Vec<_> = service.networks.iter().collect();
    keys.sort_by(|(a, x), (b, y)| {
        let priority = |n: &Option<ServiceNetwork>| n.as_ref().and_then(|n| n.priority).unwrap_or(0);
        priority(y).cmp(&priority(x)).then(a.cmp(b))
    });
    let mut networks = Vec::new();
    for (key, options) in keys.into_iter().filter(|_| network_mode == NetworkMode::Bridge) {
        let network = project.networks.get(key).map_or_else(|| key.clone(), |n| n.name.clone());
        let mut aliases = vec![name.to_string()];
        aliases.extend(options.iter().flat_map(|o| o.aliases.iter().cloned()));
        let address = options.as_ref().and_then(|o| o.ipv4_address.clone());
        let ipv4_address = address.map(|a| a.parse().map_err(|_| wrong("networks.ipv4_address", &a, "an IPv4 address")));
        let address = options.as_ref().and_then(|o| o.ipv6_address.clone());
        let ipv6_address = address.map(|a| a.parse().map_err(|_| wrong("networks.ipv6_address", &a, "an IPv6 address")));
        let options = options.clone().unwrap_or_default();
        let first = networks.is_empty();
        let mac = options.mac_address.as_ref().or(service.mac_address.as_ref().filter(|_| first));
        let mac_address = mac
            .map(|text| {
                crate::network::link::parse_mac(text).ok_or_else(|| wrong("mac_address", text, "six bytes: `02:42:ac:11:00:02`"))
            })
            .transpose()?;
        let link_local =
            options.link_local_ips.iter().map(|a| a.parse().map_err(|_| wrong("networks.link_local_ips", a, "an IP address")));
        networks.push(EndpointSpec {
            network,
            aliases,
            ipv4_address: ipv4_address.transpose()?,
            ipv6_address: ipv6_address.transpose()?,
            mac_address,
            link_local_ips: link_local.collect::<Result<_, _>>()?,
            interface_name: options
                .interface_name
                .or_else(|| options.driver_opts.get("com.docker.network.endpoint.ifname").cloned()),
            gw_priority: options.gw_priority.unwrap_or(0),
            sysctls: interface_sysctls(options.driver_opts.get("com.docker.network.endpoint.sysctls").map_or("", String::as_str)),
        });
    }
    let mut mounts = Vec::new();
    let mut tmpfs: Vec<(String, Vec<String>)> = service
        .tmpfs
        .iter()
        .map(|entry| match entry.split_once(':') {
            Some((path, options)) => (path.to_string(), options.split(',').map(str::to_string).collect()),
            None => (entry.clone(), Vec::new()),
        })
        .collect();
    for volume in &service.volumes {
        if !volume.target.starts_with('/') {
            let target = &volume.target;
            return Err(format!(
                "`services.{name}` mounts `{target}`, which is no absolute path in a container; a volume's name needs two letters or more"
            ));
        }
        match volume.kind.as_str() {
            "tmpfs" => tmpfs.push((volume.target.clone(), tmpfs_options(volume))),
            "bind" => mounts.push(MountSpec {
                create_host_path: volume.bind.as_ref().is_none_or(|b| b.create_host_path),
                ..mount(MountKind::Bind, volume, volume.source.clone())
            }),
            "volume" => {
                let source =
                    volume.source.as_ref().map(|key| project.volumes.get(key).map_or_else(|| key.clone(), |v| v.name.clone()));
                mounts.push(mount(MountKind::Volume, volume, source));
            }
            "image" => mounts.push(MountSpec {
                read_only: true,
                subpath: volume.image.as_ref().and_then(|i| i.subpath.clone()),
                ..mount(MountKind::Image, volume, volume.source.clone())
            }),
            other => return Err(wrong("volumes.type", other, "`bind`, `volume`, `tmpfs` or `image`")),
        }
    }
    check_what_the_host_has(name, service)?;
    let sharing = |attribute: &str, mode: Option<&str>, id: Option<String>| match (mode, id) {
        (_, Some(id)) => Ok(Sharing::Container(id)),
        (None | Some("" | "private" | "shareable"), None) => Ok(Sharing::Own),
        (Some("host"), None) => Ok(Sharing::Host),
        (Some("none"), None) if attribute == "ipc" => Ok(Sharing::Bare),
        (Some(other), None) => Err(wrong(attribute, other, "`host`, `service:NAME` or `container:NAME`")),
    };
    let ipc = sharing("ipc", service.ipc.as_deref(), shared.ipc)?;
    let pid = sharing("pid", service.pid.as_deref(), shared.pid)?;
    let mut files = Vec::new();
    for (mounted, objects, what, directory) in
        [(&service.configs, &project.configs, "configs", "/"), (&service.secrets, &project.secrets, "secrets", "/run/secrets/")]
    {
        for one in mounted {
            files.push(file(name, what, directory, one, objects.get(&one.source))?);
        }
    }
    let link = |text: &String| {
        let (target, alias) = text.split_once(':').unwrap_or((text, text));
        (alias.to_string(), target.to_string())
    };
    let policy = service.deploy.as_ref().and_then(|d| d.restart_policy.as_ref());
    let nanos = |text: Option<&String>| text.and_then(|text| units::duration(text)).filter(|nanos| *nanos > 0);
    let grace = service.stop_grace_period.as_deref().and_then(units::duration);
    Ok(ContainerSpec {
        as_created: AsCreated::default(),
        image: service.image.clone().unwrap_or_default(),
        entrypoint: service.entrypoint.clone(),
        command: service.command.clone(),
        env: service.environment.iter().map(|(k, v)| v.as_ref().map_or_else(|| k.clone(), |v| format!("{k}={v}"))).collect(),
        user: service.user.clone(),
        group_add: service.group_add.clone(),
        working_dir: service.working_dir.clone(),
        hostname: service.hostname.clone(),
        domainname: service.domainname.clone(),
        labels: labels(project, name, number, origin),
        tty: service.tty,
        stdin_open: service.stdin_open,
        stop_signal: service.stop_signal.clone(),
        stop_timeout: grace.map(|nanos| nanos.div_ceil(1_000_000_000)),
        health: health(name, service)?,
        init: service.init.unwrap_or(false),
        privileged: service.privileged,
        cap_add: service.cap_add.clone(),
        cap_drop: service.cap_drop.clone(),
        security_opt: service.security_opt.clone(),
        read_only: service.read_only,
        mounts,
        tmpfs,
        ports: ports(name, service)?,
        networks,
        network_mode,
        dns: service.dns.clone(),
        dns_search: service.dns_search.clone(),
        dns_opt: service.dns_opt.clone(),
        extra_hosts: service.extra_hosts.clone(),
        restart: restart_policy(name, service)?,
        resources: resources(service),
        ulimits: service
            .ulimits
            .iter()
            .map(|(limit, value)| match value {
                Ulimit::Both(n) => (limit.clone(), *n, *n),
                Ulimit::Pair { soft, hard } => (limit.clone(), *soft, *hard),
            })
            .collect(),
        sysctls: service.sysctls.clone(),
        storage_opt: service.storage_opt.clone(),
        shm_size: service.shm_size.as_deref().and_then(|s| s.parse().ok()),
        oom_score_adj: service.oom_score_adj.unwrap_or(0) as i32,
        log: log(name, service)?,
        annotations: service.annotations.clone(),
        ipc,
        pid,
        uts_host: service.uts.as_deref() == Some("host"),
        runtime: service.runtime.clone().filter(|runtime| !runtime.is_empty()),
        cgroup_parent: service.cgroup_parent.clone().filter(|parent| !parent.is_empty()),
        cgroup_private: service.cgroup.as_deref().map(|cgroup| cgroup == "private"),
        devices: service
            .devices
            .iter()
            .map(|device| DeviceSpec {
                source: device.source.clone(),
                target: device.target.clone().unwrap_or_else(|| device.source.clone()),
                permissions: device.permissions.clone().unwrap_or_else(|| "rwm".into()),
            })
            .chain(requested_devices(name, service)?)
            .collect(),
        device_cgroup_rules: service.device_cgroup_rules.clone(),
        files,
        links: service.links.iter().chain(&service.external_links).map(link).collect(),
        post_start: service.post_start.iter().map(hook).collect(),
        pre_stop: service.pre_stop.iter().map(hook).collect(),
        pre_start: service
            .pre_start
            .iter()
            .map(|h| PreStartSpec { hook: hook(h), image: h.image.clone(), per_replica: h.per_replica })
            .collect(),
        restart_delay: nanos(policy.and_then(|p| p.delay.as_ref())),
        restart_window: nanos(policy.and_then(|p| p.window.as_ref())),
        stdin_once: false,
        console_size: None,
        auto_remove: false,
        client_removes: false,
    })
}

/// Refuses what this host cannot give, in words of its own instead of the kernel's.
fn check_what_the_host_has(name: &str, service: &Service) -> Result<(), String> {
    if let Some(parent) = service.cgroup_parent.as_deref().filter(|p| p.split('/').any(|part| part == "..")) {
        return Err(format!(
            "`services.{name}.cgroup_parent` is `{parent}`: it is a path from the root of the control groups, without `..`"
        ));
    }
    if let Some(model) = service.models.keys().next() {
        return Err(format!(
            "`services.{name}` uses the model `{model}`: wharf runs no models; run it as a service, and give its address in `environment`"
        ));
    }
    if service.credential_spec.is_some() {
        return Err(format!("`services.{name}.credential_spec` is of Windows' containers; this is Linux"));
    }
    if let Some(mode) = service.userns_mode.as_deref().filter(|mode| !matches!(*mode, "" | "host")) {
        return Err(format!(
            "`services.{name}.userns_mode` is `{mode}`: wharf has no user namespaces yet; `host` is what it does"
        ));
    }
    if let Some(mode) = service.uts.as_deref().filter(|mode| !matches!(*mode, "" | "host")) {
        return Err(format!("`services.{name}.uts` is `{mode}`, and must be `host` or absent"));
    }
    if let Some(platform) = service.platform.as_deref().filter(|platform| !crate::image::is_native(platform)) {
        return Err(format!(
            "`services.{name}.platform` is `{platform}`, and this machine is linux/{}: wharf emulates no other processor",
            crate::image::architecture()
        ));
    }
    Ok(())
}

/// What `gpus` and `deploy.resources.reservations.devices` ask for.
fn requested_devices(name: &str, service: &Service) -> Result<Vec<DeviceSpec>, String> {
    let reservations = service.deploy.as_ref().and_then(|d| d.resources.reservations.as_ref());
    let gpus = service.gpus.iter().map(|request| (true, request));
    let requests = gpus.chain(reservations.iter().flat_map(|r| &r.devices).map(|request| (false, request)));
    let mut found = Vec::new();
    for (is_gpu, request) in requests {
        let mut capabilities = request.capabilities.clone();
        if is_gpu && !capabilities.iter().any(|capability| capability == "gpu") {
            capabilities.push("gpu".into());
        }
        let driver = request.driver.as_deref().unwrap_or_default();
        let devices = crate::engine::launch::devices::requested(driver, &capabilities, &request.device_ids, request.count);
        found.extend(devices.map_err(|why| format!("`services.{name}` {why}"))?);
    }
    Ok(found)
}

/// A config or a secret. A file of the host with an owner and mode of its own is mounted as it is, so that a change of it is
/// seen; everything else is a copy.
fn file(
    service: &str,
    what: &str,
    directory: &str,
    mounted: &FileMount,
    object: Option<&FileObject>,
) -> Result<FileSpec, String> {
    let one = what.trim_end_matches('s');
    let source = &mounted.source;
    let Some(object) = object else {
        return Err(format!("`services.{service}.{what}` names `{source}`, and the project has no such {one}"));
    };
    let number = |key: &str, text: &Option<String>| match text.as_deref() {
        None | Some("") => Ok(0),
        Some(text) => text
            .parse::<u32>()
            .map_err(|_| format!("`services.{service}.{what}`: the {key} of `{source}` is `{text}`, and must be a number")),
    };
    let target = mounted.target.clone().unwrap_or_else(|| source.clone());
    let target = if target.starts_with('/') { target } else { format!("{directory}{target}") };
    let as_it_is = mounted.uid.is_none() && mounted.gid.is_none() && mounted.mode.is_none();
    let read = |path: &String| std::fs::read(path).map_err(|e| format!("the {one} `{source}` cannot be read from {path}: {e}"));
    let (source, content) = match (&object.content, &object.file) {
        (Some(content), _) => (None, Some(content.clone().into_bytes())),
        (None, Some(path)) if as_it_is => {
            std::fs::metadata(path).map_err(|e| format!("the {one} `{source}` cannot be read from {path}: {e}"))?;
            (Some(path.clone()), None)
        }
        (None, Some(path)) => (None, Some(read(path)?)),
        (None, None) if object.external => {
            return Err(format!(
                "the {one} `{source}` is external, and wharf keeps none of its own: give it a `file` or an `environment`"
            ));
        }
        (None, None) => return Err(format!("the {one} `{source}` has no content: give it a `file` or an `environment`")),
    };
    Ok(FileSpec {
        target,
        source,
        uid: number("uid", &mounted.uid)?,
        gid: number("gid", &mounted.gid)?,
        mode: mounted.mode.unwrap_or(0o444),
        content,
    })
}

/// A pool of a network's `ipam`.
pub fn pool(config: &IpamConfig) -> NewPool {
    NewPool {
        subnet: config.subnet.clone(),
        gateway: config.gateway.clone(),
        ip_range: config.ip_range.clone(),
        reserved: config.aux_addresses.clone(),
    }
}

fn hook(hook: &Hook) -> HookSpec {
    let variable = |(name, value): (&String, &Option<String>)| Some(format!("{name}={}", value.as_ref()?));
    HookSpec {
        command: hook.command.clone().unwrap_or_default(),
        env: hook.environment.iter().filter_map(variable).collect(),
        user: hook.user.clone(),
        working_dir: hook.working_dir.clone(),
        privileged: hook.privileged,
    }
}

/// The labels that `docker compose` puts on a container, after the user's own.
fn labels(project: &Project, name: &str, number: u32, origin: &Origin) -> IndexMap<String, String> {
    let service = &project.services[name];
    let mut labels = service.labels.clone();
    let depends_on: Vec<String> =
        service.depends_on.iter().map(|(dependency, d)| format!("{dependency}:{}:{}", d.condition.as_str(), d.restart)).collect();
    let own = [
        (LABEL_PROJECT, project.name.clone()),
        (LABEL_SERVICE, name.to_string()),
        (LABEL_NUMBER, number.to_string()),
        (LABEL_HASH, config_hash(project, service)),
        (LABEL_DEPENDS_ON, depends_on.join(",")),
        (LABEL_ONEOFF, "False".to_string()),
        (LABEL_VERSION, env!("CARGO_PKG_VERSION").to_string()),
        (LABEL_FILES, origin.config_files.clone()),
        (LABEL_DIRECTORY, origin.working_dir.clone()),
    ];
    labels.extend(own.map(|(key, value)| (key.to_string(), value)));
    labels
}

fn mount(kind: MountKind, volume: &ServiceVolume, source: Option<String>) -> MountSpec {
    MountSpec {
        kind,
        anonymous: source.is_none(),
        source: source.unwrap_or_default(),
        target: volume.target.clone(),
        read_only: volume.read_only,
        propagation: volume.bind.as_ref().and_then(|b| b.propagation.clone()),
        create_host_path: false,
        no_copy: volume.volume.as_ref().is_some_and(|v| v.nocopy),
        subpath: volume.volume.as_ref().and_then(|v| v.subpath.clone()),
        not_recursive: volume.bind.as_ref().is_some_and(|b| b.recursive.as_deref() == Some("disabled")),
        labels: volume.volume.as_ref().map(|v| v.labels.clone()).unwrap_or_default(),
        layers: Vec::new(),
    }
}

fn tmpfs_options(volume: &ServiceVolume) -> Vec<String> {
    let mut options = Vec::new();
    if let Some(tmpfs) = &volume.tmpfs {
        options.extend(tmpfs.size.as_ref().map(|size| format!("size={size}")));
        options.extend(tmpfs.mode.map(|mode| format!("mode={mode:o}")));
    }
    if volume.read_only {
        options.push("ro".into());
    }
    options
}

fn ports(name: &str, service: &Service) -> Result<Vec<PortSpec>, String> {
    let mut ports = Vec::new();
    for port in &service.ports {
        let text = port.published.as_deref().unwrap_or("0");
        let number = |t: &str| t.parse::<u16>().map_err(|_| format!("`services.{name}.ports`: `{text}` is not a port"));
        let published = match text.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(text)?, number(text)?),
        };
        let host_ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty());
        let host_ip = host_ip
            .map(|ip| ip.parse().map_err(|_| format!("`services.{name}.ports`: the host address `{ip}` is not an IP address")))
            .transpose()?;
        ports.push(PortSpec { target: port.target, protocol: port.protocol.clone(), host_ip, published });
    }
    Ok(ports)
}

/// The restart policy: `deploy.restart_policy` before `restart`, as Docker Compose has it.
fn restart_policy(name: &str, service: &Service) -> Result<RestartPolicy, String> {
    let deployed = service.deploy.as_ref().and_then(|d| d.restart_policy.as_ref());
    let wrong =
        |attribute: &str, value: &str| format!("`services.{name}.{attribute}` is `{value}`, and must be a restart policy");
    Ok(match deployed.and_then(|policy| Some((policy, policy.condition.as_deref()?))) {
        Some((_, "none")) => RestartPolicy::No,
        Some((_, "any")) => RestartPolicy::Always,
        Some((policy, "on-failure")) => RestartPolicy::OnFailure { max: policy.max_attempts.unwrap_or(0) },
        Some((_, other)) => RestartPolicy::parse(other).ok_or_else(|| wrong("deploy.restart_policy.condition", other))?,
        None => match service.restart.as_deref() {
            Some(text) => RestartPolicy::parse(text).ok_or_else(|| wrong("restart", text))?,
            None => RestartPolicy::No,
        },
    })
}

fn health(name: &str, service: &Service) -> Result<Option<HealthSpec>, String> {
    let Some(check) = service.healthcheck.as_ref() else { return Ok(None) };
    if check.start_interval.is_some() && check.start_period.is_none() && !check.disable {
        return Err(format!("`services.{name}`: healthcheck.start_interval requires healthcheck.start_period to be set"));
    }
    let nanos = |text: &Option<String>| text.as_deref().and_then(units::duration).unwrap_or(0);
    Ok(Some(HealthSpec {
        test: if check.disable { vec!["NONE".into()] } else { check.test.clone().unwrap_or_default() },
        interval: nanos(&check.interval),
        timeout: nanos(&check.timeout),
        start_period: nanos(&check.start_period),
        start_interval: nanos(&check.start_interval),
        retries: check.retries.unwrap_or(0),
    }))
}

fn resources(service: &Service) -> ResourceSpec {
    let limits = service.deploy.as_ref().and_then(|d| d.resources.limits.clone()).unwrap_or_default();
    let reserved = service.deploy.as_ref().and_then(|d| d.resources.reservations.as_ref()).and_then(|r| r.memory.clone());
    let bytes = |text: &Option<String>| text.as_ref().and_then(|t| t.parse::<i64>().ok()).filter(|n| *n != 0);
    let throttles =
        |list: &[Throttle]| list.iter().filter_map(|t| Some((t.path.clone(), t.rate.parse().ok()?))).collect::<Vec<_>>();
    let blkio = service.blkio_config.as_ref().map(|config| BlkioSpec {
        weight: config.weight,
        weight_device: config.weight_device.iter().map(|d| (d.path.clone(), d.weight)).collect(),
        read_bps: throttles(&config.device_read_bps),
        write_bps: throttles(&config.device_write_bps),
        read_iops: throttles(&config.device_read_iops),
        write_iops: throttles(&config.device_write_iops),
    });
    ResourceSpec {
        memory: bytes(&service.mem_limit).or(bytes(&limits.memory)),
        memory_reservation: bytes(&service.mem_reservation).or(bytes(&reserved)),
        memory_swap: bytes(&service.memswap_limit),
        cpus: service.cpus.or(limits.cpus).filter(|c| *c > 0.0),
        cpu_shares: service.cpu_shares.and_then(|shares| u64::try_from(shares).ok()),
        cpu_quota: service.cpu_quota,
        cpu_period: service.cpu_period.and_then(|period| u64::try_from(period).ok()),
        cpuset: service.cpuset.clone().filter(|c| !c.is_empty()),
        cpuset_mems: None,
        pids: service.pids_limit.or(limits.pids).filter(|p| *p != 0),
        cpu_rt_period: service.cpu_rt_period.and_then(|period| u64::try_from(period).ok()),
        cpu_rt_runtime: service.cpu_rt_runtime,
        memory_swappiness: service.mem_swappiness.as_ref().and_then(|text| text.parse().ok()),
        oom_kill_disable: service.oom_kill_disable,
        blkio: blkio.unwrap_or_default(),
    }
}

fn log(name: &str, service: &Service) -> Result<LogSpec, String> {
    let Some(logging) = &service.logging else { return Ok(LogSpec::default()) };
    LogSpec::of(logging.driver.as_deref(), &logging.options).map_err(|why| format!("`services.{name}.logging.options.{why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies_are_composes() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        let table = [
            ("{}", Ok(No)),
            ("{restart: unless-stopped}", Ok(UnlessStopped)),
            ("{restart: 'on-failure:3'}", Ok(OnFailure { max: 3 })),
            ("{deploy: {restart_policy: {condition: any}}}", Ok(Always)),
            ("{deploy: {restart_policy: {condition: always}}}", Ok(Always)),
            ("{deploy: {restart_policy: {condition: unless-stopped}}}", Ok(UnlessStopped)),
            ("{deploy: {restart_policy: {condition: on-failure, max_attempts: 2}}}", Ok(OnFailure { max: 2 })),
            ("{restart: always, deploy: {restart_policy: {condition: none}}}", Ok(No)),
            ("{restart: always, deploy: {restart_policy: {delay: 5s}}}", Ok(Always)),
            ("{deploy: {restart_policy: {condition: sometimes}}}", Err(())),
            ("{restart: sometimes}", Err(())),
        ];
        for (yaml, expected) in table {
            let service: Service = serde_yaml::from_str(yaml).expect("service");
            assert_eq!(restart_policy("a", &service).map_err(drop), expected, "{yaml}");
        }
    }

    #[test]
    fn start_interval_needs_start_period() {
        for (yaml, fits) in [
            ("{healthcheck: {test: [CMD, 'true'], start_interval: 1s}}", false),
            ("{healthcheck: {test: [CMD, 'true'], start_interval: 1s, start_period: 5s}}", true),
            ("{healthcheck: {test: [CMD, 'true']}}", true),
        ] {
            let service: Service = serde_yaml::from_str(yaml).expect("service");
            assert_eq!(health("a", &service).is_ok(), fits, "{yaml}");
        }
    }
}
