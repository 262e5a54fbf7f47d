//! What the engine knows of containers, networks and volumes, in the form that the journal keeps.

use crate::network::address::{Addresses, Pool, Subnet};
use crate::runtime::capabilities::Capabilities;
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a container was created with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// The reference as the user wrote it.
    pub image: String,
    pub entrypoint: Option<Vec<String>>,
    pub command: Option<Vec<String>>,
    /// `NAME=VALUE`; a bare `NAME` unsets what the image sets.
    pub env: Vec<String>,
    pub user: Option<String>,
    pub group_add: Vec<String>,
    pub working_dir: Option<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub labels: IndexMap<String, String>,
    pub tty: bool,
    pub stdin_open: bool,
    pub stop_signal: Option<String>,
    /// Seconds between the stop signal and SIGKILL.
    pub stop_timeout: Option<u64>,
    pub health: Option<HealthSpec>,
    pub init: bool,
    pub privileged: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub security_opt: Vec<String>,
    pub read_only: bool,
    pub mounts: Vec<MountSpec>,
    /// Destination and mount options.
    pub tmpfs: Vec<(String, Vec<String>)>,
    pub ports: Vec<PortSpec>,
    pub networks: Vec<EndpointSpec>,
    pub network_mode: NetworkMode,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_opt: Vec<String>,
    pub extra_hosts: Vec<String>,
    pub restart: RestartPolicy,
    pub resources: ResourceSpec,
    /// Name (`nofile`), soft, hard; -1 is without limit.
    pub ulimits: Vec<(String, i64, i64)>,
    pub sysctls: IndexMap<String, String>,
    pub shm_size: Option<u64>,
    pub oom_score_adj: i32,
    pub log: LogSpec,
    pub annotations: IndexMap<String, String>,
    pub ipc: Sharing,
    pub pid: Sharing,
    pub uts_host: bool,
    /// A cgroup namespace of its own (true) or the host's (false); absent is Docker's default: its own with cgroup v2 alone.
    pub cgroup_private: Option<bool>,
    /// The group, from the root of the hierarchies, in which the container's is made.
    pub cgroup_parent: Option<String>,
    /// The OCI runtime, by its name or path; wharf's own where it is absent.
    pub runtime: Option<String>,
    pub devices: Vec<DeviceSpec>,
    /// `TYPE MAJOR:MINOR ACCESS`, as in the devices controller's files.
    pub device_cgroup_rules: Vec<String>,
    /// Configs and secrets.
    pub files: Vec<FileSpec>,
    /// Further names of others, for this container alone: alias and what it stands for.
    pub links: Vec<(String, String)>,
    pub post_start: Vec<HookSpec>,
    pub pre_stop: Vec<HookSpec>,
    pub pre_start: Vec<PreStartSpec>,
    /// Nanoseconds before each restart, instead of Docker's back-off.
    pub restart_delay: Option<u64>,
    /// Nanoseconds after which a restart has succeeded, and the count of attempts begins anew.
    pub restart_window: Option<u64>,
    /// The first client that attaches to standard input ends it when it leaves.
    pub stdin_once: bool,
    /// It is removed, with its anonymous volumes, when it has ended.
    pub auto_remove: bool,
}

/// Whose namespace a container has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    #[default]
    Own,
    /// Its own, without /dev/shm: `ipc: none`.
    Bare,
    Host,
    /// That of another container, by its id.
    Container(String),
}

impl Sharing {
    /// The container whose namespace it is.
    pub fn container(&self) -> Option<&str> {
        if let Sharing::Container(id) = self { Some(id) } else { None }
    }
}

/// A device of the host, or all in a directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceSpec {
    pub source: String,
    pub target: String,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

/// A config or a secret as a file in the container. Its content is nowhere in the state: it is a file of the host, or it was
/// written into the container's directory when that was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileSpec {
    pub target: String,
    /// A file of the host, which is mounted as it is; absent where the container has a file of its own.
    pub source: Option<String>,
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    /// Taken when the container is made.
    #[serde(skip)]
    pub content: Option<Vec<u8>>,
}

/// A command that runs in a container after its start or before its stop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HookSpec {
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub privileged: bool,
}

/// A command that runs to its end in a container of its own before a service's containers start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreStartSpec {
    pub hook: HookSpec,
    /// Absent: the service's.
    pub image: Option<String>,
    /// It runs for each container of the service, not once for all.
    pub per_replica: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceSpec {
    pub memory: Option<i64>,
    pub memory_reservation: Option<i64>,
    pub memory_swap: Option<i64>,
    pub cpus: Option<f64>,
    pub cpu_shares: Option<u64>,
    pub cpu_quota: Option<i64>,
    pub cpu_period: Option<u64>,
    pub cpuset: Option<String>,
    pub pids: Option<i64>,
    /// Microseconds; cgroup v1 alone.
    pub cpu_rt_period: Option<u64>,
    pub cpu_rt_runtime: Option<i64>,
    /// 0 to 100; cgroup v1 alone.
    pub memory_swappiness: Option<u64>,
    /// cgroup v1 alone.
    pub oom_kill_disable: bool,
    pub blkio: BlkioSpec,
}

/// Limits of block devices, each by the device's path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioSpec {
    /// 10 to 1000.
    pub weight: Option<u16>,
    pub weight_device: Vec<(String, u16)>,
    /// Bytes a second.
    pub read_bps: Vec<(String, u64)>,
    pub write_bps: Vec<(String, u64)>,
    /// Operations a second.
    pub read_iops: Vec<(String, u64)>,
    pub write_iops: Vec<(String, u64)>,
}

/// A health check. Durations are nanoseconds, as in Docker's API; 0 stands for Docker's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthSpec {
    /// `["CMD", ...]`, `["CMD-SHELL", TEXT]`, `["NONE"]`; empty takes the image's.
    pub test: Vec<String>,
    pub interval: u64,
    pub timeout: u64,
    pub start_period: u64,
    pub start_interval: u64,
    pub retries: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    Bind,
    #[default]
    Volume,
    /// An image's files, read-only; the source is its name.
    Image,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MountSpec {
    pub kind: MountKind,
    /// A path of the host, or a volume's name.
    pub source: String,
    pub target: String,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub propagation: Option<String>,
    #[serde(default)]
    pub create_host_path: bool,
    #[serde(default)]
    pub no_copy: bool,
    #[serde(default)]
    pub subpath: Option<String>,
    /// A volume without a name of the user's: it goes with the container, and stays when the container is recreated.
    #[serde(default)]
    pub anonymous: bool,
    /// What is mounted below a bind's source does not come along.
    #[serde(default)]
    pub not_recursive: bool,
    /// Of an anonymous volume.
    #[serde(default)]
    pub labels: IndexMap<String, String>,
    /// Of an image's mount: its layers, the lowest first.
    #[serde(default)]
    pub layers: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortSpec {
    pub target: u16,
    pub protocol: String,
    /// Absent: every address of the host.
    pub host_ip: Option<IpAddr>,
    /// First and last of the host's ports to choose from; (0, 0) for any.
    pub published: (u16, u16),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// The network's name.
    pub network: String,
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub ipv4_address: Option<Ipv4Addr>,
    #[serde(default)]
    pub ipv6_address: Option<Ipv6Addr>,
    #[serde(default)]
    pub mac_address: Option<[u8; 6]>,
    #[serde(default)]
    pub link_local_ips: Vec<IpAddr>,
    /// The interface's name in the container; `ethN` where it is absent.
    #[serde(default)]
    pub interface_name: Option<String>,
    /// Of the networks with a way out, the one with the highest has the default route.
    #[serde(default)]
    pub gw_priority: i64,
    /// Settings of the interface: `net.ipv4.conf.IFNAME.log_martians` and the like, and their values.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// On the networks named.
    #[default]
    Bridge,
    Host,
    None,
    /// In the namespace of another container, by its id.
    Container(String),
}

impl ContainerSpec {
    /// What its processes may hold: Docker's default or all, with what is added and dropped.
    ///
    /// # Errors
    /// The first name that is not a capability.
    pub fn capabilities(&self) -> Result<Capabilities, String> {
        let base = if self.privileged { Capabilities::all() } else { Capabilities::docker_default() };
        base.adjusted(&self.cap_add, &self.cap_drop)
    }
}

impl NetworkMode {
    /// Whether the container has a network namespace of its own.
    pub fn has_own_namespace(&self) -> bool {
        matches!(self, NetworkMode::Bridge | NetworkMode::None)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    No,
    Always,
    UnlessStopped,
    /// At most so many times; 0 is without limit.
    OnFailure {
        max: u32,
    },
}

impl RestartPolicy {
    /// Reads `no`, `always`, `unless-stopped`, `on-failure[:N]`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "" | "no" => RestartPolicy::No,
            "always" => RestartPolicy::Always,
            "unless-stopped" => RestartPolicy::UnlessStopped,
            "on-failure" => RestartPolicy::OnFailure { max: 0 },
            _ => RestartPolicy::OnFailure { max: text.strip_prefix("on-failure:")?.parse().ok()? },
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            RestartPolicy::No => "no",
            RestartPolicy::Always => "always",
            RestartPolicy::UnlessStopped => "unless-stopped",
            RestartPolicy::OnFailure { .. } => "on-failure",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSpec {
    pub none: bool,
    pub max_size: u64,
    pub max_files: u32,
}

/// What an image says of the containers that are made from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub stop_signal: Option<String>,
    pub health: Option<HealthSpec>,
}

/// A container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: String,
    pub name: String,
    pub created_at: Timestamp,
    pub image_id: String,
    /// The image's part of the configuration, as it was when the container was created.
    #[serde(default)]
    pub image: ImageConfig,
    /// Chain ids, the lowest layer first.
    pub layers: Vec<String>,
    pub spec: ContainerSpec,
    /// By the network's id.
    #[serde(default)]
    pub endpoints: IndexMap<String, Addresses>,
    /// The host's ends of its veth pairs, by the network's id.
    #[serde(default)]
    pub interfaces: IndexMap<String, String>,
    /// Its control group since its last start, where systemd has delegated one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_group: Option<String>,
    /// Published ports as they were bound: target, protocol, host address, host port.
    #[serde(default)]
    pub bound_ports: Vec<(u16, String, Option<IpAddr>, u16)>,
    pub state: State,
    /// The user has stopped it: restart policies leave it alone.
    #[serde(default)]
    pub stopped_by_user: bool,
    #[serde(default)]
    pub restart_count: u32,
    /// Its `pre_start` hooks have been run.
    #[serde(default)]
    pub prepared: bool,
}

impl ContainerSpec {
    /// Mounts what another container has, where nothing of its own is.
    pub fn take_mounts_of(&mut self, other: &ContainerRecord, read_only: bool) {
        for mount in &other.spec.mounts {
            if !self.mounts.iter().any(|own| own.target == mount.target) {
                let read_only = read_only || mount.read_only;
                self.mounts.push(MountSpec { read_only, anonymous: false, ..mount.clone() });
            }
        }
    }
}

impl LogSpec {
    /// Docker's driver and its options; what only another driver knows is left out.
    ///
    /// # Errors
    /// Of an option's value: its name and what it should be.
    pub fn of(driver: Option<&str>, options: &IndexMap<String, String>) -> Result<Self, String> {
        if driver == Some("none") {
            return Ok(LogSpec { none: true, ..LogSpec::default() });
        }
        let max_size = options.get("max-size").map(|t| {
            crate::units::bytes(t).filter(|b| *b >= 0).ok_or_else(|| format!("max-size`: `{t}` is not a size such as `10m`"))
        });
        let max_files =
            options.get("max-file").map(|t| t.parse::<u32>().map_err(|_| format!("max-file`: `{t}` is not a number")));
        let (max_size, max_files) = (max_size.transpose()?.unwrap_or(0) as u64, max_files.transpose()?.unwrap_or(1));
        Ok(LogSpec { none: false, max_size, max_files })
    }
}

impl ContainerRecord {
    /// Its control group: [`crate::runtime::cgroup::Hierarchy::directories`] tells where that is.
    pub fn group(&self) -> String {
        match (&self.control_group, &self.spec.cgroup_parent) {
            (Some(group), _) => group.clone(),
            (None, Some(parent)) => format!("/{}/{}", parent.trim_matches('/'), self.id),
            (None, None) => self.id.clone(),
        }
    }

    /// The layers that it needs: its root's and those of mounted images.
    pub fn all_layers(&self) -> impl Iterator<Item = &String> {
        self.layers.iter().chain(self.spec.mounts.iter().flat_map(|mount| &mount.layers))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    #[default]
    Created,
    Running,
    Paused,
    Restarting,
    Exited,
    Removing,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Restarting => "restarting",
            Status::Exited => "exited",
            Status::Removing => "removing",
        }
    }

    /// The container has a process, or is about to have one again.
    pub fn is_alive(self) -> bool {
        matches!(self, Status::Running | Status::Paused | Status::Restarting)
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    pub status: Status,
    pub pid: i32,
    pub exit_code: i32,
    pub oom_killed: bool,
    /// Why the last start failed.
    pub error: String,
    pub started_at: Option<Timestamp>,
    /// What it has written from here on is of its last start.
    pub output_since: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub health: Option<Health>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    pub status: HealthStatus,
    pub failing_streak: u32,
    /// The last five probes, as Docker keeps them.
    pub log: Vec<Probe>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub start: Timestamp,
    pub end: Timestamp,
    pub exit_code: i32,
    pub output: String,
}

/// A network. It has addresses of one family or of both.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "StoredNetwork")]
pub struct NetworkRecord {
    pub id: String,
    pub name: String,
    pub created_at: Timestamp,
    pub ipv4: Option<Pool>,
    pub ipv6: Option<Pool>,
    pub internal: bool,
    pub labels: IndexMap<String, String>,
    pub driver: NetworkDriver,
    /// Docker's options of the driver.
    pub options: IndexMap<String, String>,
}

/// A network as journals have it. Those of before there was IPv6 have IPv4's pool in fields of its own.
#[derive(Deserialize)]
struct StoredNetwork {
    id: String,
    name: String,
    created_at: Timestamp,
    #[serde(default)]
    ipv4: Option<Pool>,
    #[serde(default)]
    ipv6: Option<Pool>,
    #[serde(default)]
    subnet: Option<Subnet>,
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    ip_range: Option<Subnet>,
    #[serde(default)]
    reserved: IndexMap<String, IpAddr>,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    labels: IndexMap<String, String>,
    #[serde(default)]
    driver: NetworkDriver,
    #[serde(default)]
    options: IndexMap<String, String>,
}

impl From<StoredNetwork> for NetworkRecord {
    fn from(stored: StoredNetwork) -> Self {
        let (range, reserved) = (stored.ip_range, stored.reserved);
        let older = stored.subnet.map(|subnet| {
            let gateway = stored.gateway.unwrap_or_else(|| subnet.gateway());
            Pool { subnet, gateway, range, reserved }
        });
        NetworkRecord {
            id: stored.id,
            name: stored.name,
            created_at: stored.created_at,
            ipv4: stored.ipv4.or(older),
            ipv6: stored.ipv6,
            internal: stored.internal,
            labels: stored.labels,
            driver: stored.driver,
            options: stored.options,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkDriver {
    #[default]
    Bridge,
    /// Interfaces with MAC addresses of their own on one of the host's.
    Macvlan,
    /// Interfaces that share the MAC address of one of the host's.
    Ipvlan,
}

impl NetworkDriver {
    pub fn as_str(self) -> &'static str {
        match self {
            NetworkDriver::Bridge => "bridge",
            NetworkDriver::Macvlan => "macvlan",
            NetworkDriver::Ipvlan => "ipvlan",
        }
    }
}

impl NetworkRecord {
    /// Its pool of a family.
    pub fn pool(&self, ipv6: bool) -> Option<&Pool> {
        if ipv6 { self.ipv6.as_ref() } else { self.ipv4.as_ref() }
    }

    /// Its pools, IPv4's first.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.ipv4.iter().chain(&self.ipv6)
    }

    /// The bridge's name on the host: 15 characters are what the kernel allows.
    pub fn bridge(&self) -> String {
        self.option("com.docker.network.bridge.name").map_or_else(|| format!("br-{}", &self.id[..12]), str::to_string)
    }

    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// An option that is on unless it says otherwise.
    pub fn is_on(&self, name: &str) -> bool {
        !matches!(self.option(name), Some("false" | "0"))
    }

    /// Bytes of the largest packet.
    pub fn mtu(&self) -> u32 {
        self.option("com.docker.network.driver.mtu").and_then(|mtu| mtu.parse().ok()).unwrap_or(1500)
    }

    /// The link group of its veth ends; 0 is the kernel's default group.
    pub fn group(&self) -> u32 {
        u32::from_str_radix(&self.id[..7], 16).unwrap_or(0) | 0x1000_0000
    }
}

/// A volume; its files are in `DATA_ROOT/volumes/NAME/_data`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeRecord {
    pub name: String,
    pub created_at: Timestamp,
    #[serde(default)]
    pub labels: IndexMap<String, String>,
    #[serde(default)]
    pub anonymous: bool,
    /// Of the driver `local`: `type`, `o` and `device`, as mount(8) has them.
    #[serde(default)]
    pub options: IndexMap<String, String>,
}

/// A project as it was last brought up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProjectRecord {
    pub project: crate::compose::model::Project,
    pub config_files: String,
    pub working_dir: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journals_of_before_ipv6_are_read() {
        let text = r#"{"id": "0123456789abcdef", "name": "n", "created_at": "2026-01-01T00:00:00Z", "subnet": "10.1.0.0/24",
            "gateway": "10.1.0.1", "internal": true, "ip_range": "10.1.0.128/25", "reserved": {"other": "10.1.0.9"}}"#;
        let network: NetworkRecord = serde_json::from_str(text).expect("network");
        let pool = network.ipv4.clone().expect("pool");
        assert_eq!((pool.subnet.to_string(), pool.gateway.to_string()), ("10.1.0.0/24".into(), "10.1.0.1".into()));
        assert!(pool.range.is_some() && pool.reserved.contains_key("other") && network.ipv6.is_none() && network.internal);
        let again: NetworkRecord = serde_json::from_str(&serde_json::to_string(&network).expect("text")).expect("network");
        assert_eq!((again.ipv4, again.ipv6), (network.ipv4, None));
    }
}
