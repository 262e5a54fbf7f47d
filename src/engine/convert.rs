//! A Compose service as the specification of a container, with Docker Compose's labels.

use super::record::{
    ContainerSpec, EndpointSpec, HealthSpec, LogSpec, MountKind, MountSpec, NetworkMode, PortSpec, ResourceSpec, RestartPolicy,
};
use crate::compose::model::{Project, Service, ServiceVolume, Ulimit};
use crate::compose::units;
use crate::plan::config_hash;
use indexmap::IndexMap;

pub const LABEL_PROJECT: &str = "com.docker.compose.project";
pub const LABEL_SERVICE: &str = "com.docker.compose.service";
pub const LABEL_NUMBER: &str = "com.docker.compose.container-number";
pub const LABEL_HASH: &str = "com.docker.compose.config-hash";
pub const LABEL_DEPENDS_ON: &str = "com.docker.compose.depends_on";
pub const LABEL_NETWORK: &str = "com.docker.compose.network";
pub const LABEL_VOLUME: &str = "com.docker.compose.volume";
const LABEL_ONEOFF: &str = "com.docker.compose.oneoff";
const LABEL_VERSION: &str = "com.docker.compose.version";
const LABEL_FILES: &str = "com.docker.compose.project.config_files";
const LABEL_DIRECTORY: &str = "com.docker.compose.project.working_dir";

/// Where a project comes from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    pub config_files: String,
    pub working_dir: String,
}

/// The specification of a service's n-th container. `network_of` is the id of the container whose network it shares.
///
/// # Errors
/// A sentence: which attribute has a value that cannot be meant.
pub fn container(
    project: &Project,
    name: &str,
    number: u32,
    origin: &Origin,
    network_of: Option<String>,
) -> Result<ContainerSpec, String> {
    let service = &project.services[name];
    let wrong = |attribute: &str, value: &str, expected: &str| {
        format!("`services.{name}.{attribute}` is `{value}`, and must be {expected}")
    };
    let restart = service.restart.as_deref().unwrap_or_else(|| {
        let condition = service.deploy.as_ref().and_then(|d| d.restart_policy.as_ref()).and_then(|p| p.condition.as_deref());
        match condition {
            Some("any") => "always",
            Some("on-failure") => "on-failure",
            _ => "no",
        }
    });
    let network_mode = match (service.network_mode.as_deref(), network_of) {
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
        let priority = |n: &Option<crate::compose::model::ServiceNetwork>| n.as_ref().and_then(|n| n.priority).unwrap_or(0);
        priority(y).cmp(&priority(x)).then(a.cmp(b))
    });
    let mut networks = Vec::new();
    for (key, options) in keys {
        let network = project.networks.get(key).map_or_else(|| key.clone(), |n| n.name.clone());
        let mut aliases = vec![name.to_string()];
        aliases.extend(options.iter().flat_map(|o| o.aliases.iter().cloned()));
        let address = options.as_ref().and_then(|o| o.ipv4_address.as_deref());
        let ipv4_address =
            address.map(|a| a.parse().map_err(|_| wrong("networks.ipv4_address", a, "an IPv4 address"))).transpose()?;
        networks.push(EndpointSpec { network, aliases, ipv4_address });
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
            other => return Err(wrong("volumes.type", other, "`bind`, `volume` or `tmpfs`")),
        }
    }
    let grace = service.stop_grace_period.as_deref().and_then(units::duration);
    Ok(ContainerSpec {
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
        health: health(service),
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
        restart: RestartPolicy::parse(restart).ok_or_else(|| wrong("restart", restart, "a restart policy"))?,
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
        shm_size: service.shm_size.as_deref().and_then(|s| s.parse().ok()),
        oom_score_adj: service.oom_score_adj.unwrap_or(0) as i32,
        log: log(name, service)?,
    })
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
        (LABEL_HASH, config_hash(service)),
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
        let host_ip = match port.host_ip.as_deref() {
            None | Some("" | "0.0.0.0") => None,
            Some(ip) => Some(ip.parse().map_err(|_| {
                format!("`services.{name}.ports`: the host address {ip} is IPv6, which wharf does not publish on yet")
            })?),
        };
        if port.protocol == "sctp" {
            return Err(format!("`services.{name}.ports`: sctp cannot be published yet; tcp and udp can"));
        }
        ports.push(PortSpec { target: port.target, protocol: port.protocol.clone(), host_ip, published });
    }
    Ok(ports)
}

fn health(service: &Service) -> Option<HealthSpec> {
    let check = service.healthcheck.as_ref()?;
    let nanos = |text: &Option<String>| text.as_deref().and_then(units::duration).unwrap_or(0);
    Some(HealthSpec {
        test: if check.disable { vec!["NONE".into()] } else { check.test.clone().unwrap_or_default() },
        interval: nanos(&check.interval),
        timeout: nanos(&check.timeout),
        start_period: nanos(&check.start_period),
        start_interval: nanos(&check.start_interval),
        retries: check.retries.unwrap_or(0),
    })
}

fn resources(service: &Service) -> ResourceSpec {
    let limits = service.deploy.as_ref().and_then(|d| d.resources.limits.clone()).unwrap_or_default();
    let bytes = |text: &Option<String>| text.as_ref().and_then(|t| t.parse::<i64>().ok()).filter(|n| *n != 0);
    ResourceSpec {
        memory: bytes(&service.mem_limit).or(bytes(&limits.memory)),
        memory_reservation: bytes(&service.mem_reservation),
        memory_swap: bytes(&service.memswap_limit),
        cpus: service.cpus.or(limits.cpus).filter(|c| *c > 0.0),
        cpu_shares: service.cpu_shares.and_then(|shares| u64::try_from(shares).ok()),
        cpu_quota: service.cpu_quota,
        cpu_period: service.cpu_period.and_then(|period| u64::try_from(period).ok()),
        cpuset: service.cpuset.clone().filter(|c| !c.is_empty()),
        pids: service.pids_limit.or(limits.pids).filter(|p| *p != 0),
    }
}

fn log(name: &str, service: &Service) -> Result<LogSpec, String> {
    let Some(logging) = &service.logging else { return Ok(LogSpec::default()) };
    if logging.driver.as_deref() == Some("none") {
        return Ok(LogSpec { none: true, ..LogSpec::default() });
    }
    let option = |key: &str| logging.options.get(key);
    let max_size = option("max-size")
        .map(|t| {
            units::bytes(t)
                .filter(|b| *b >= 0)
                .ok_or_else(|| format!("`services.{name}.logging.options.max-size`: `{t}` is not a size such as `10m`"))
        })
        .transpose()?;
    let max_files = option("max-file")
        .map(|t| t.parse::<u32>().map_err(|_| format!("`services.{name}.logging.options.max-file`: `{t}` is not a number")))
        .transpose()?;
    Ok(LogSpec { none: false, max_size: max_size.unwrap_or(0) as u64, max_files: max_files.unwrap_or(1) })
}
