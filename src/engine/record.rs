//! What the engine knows of containers, networks and volumes, in the form that the journal keeps.

use crate::network::address::Subnet;
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    Bind,
    Volume,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortSpec {
    pub target: u16,
    pub protocol: String,
    pub host_ip: Option<Ipv4Addr>,
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
    pub endpoints: IndexMap<String, Ipv4Addr>,
    /// Published ports as they were bound: target, protocol, host address, host port.
    #[serde(default)]
    pub bound_ports: Vec<(u16, String, Option<Ipv4Addr>, u16)>,
    pub state: State,
    /// The user has stopped it: restart policies leave it alone.
    #[serde(default)]
    pub stopped_by_user: bool,
    #[serde(default)]
    pub restart_count: u32,
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

/// A network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkRecord {
    pub id: String,
    pub name: String,
    pub created_at: Timestamp,
    pub subnet: Subnet,
    pub gateway: Ipv4Addr,
    #[serde(default)]
    pub internal: bool,
    #[serde(default)]
    pub labels: IndexMap<String, String>,
}

impl NetworkRecord {
    /// The bridge's name on the host: 15 characters are what the kernel allows.
    pub fn bridge(&self) -> String {
        format!("br-{}", &self.id[..12])
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
}

/// A project as it was last brought up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProjectRecord {
    pub project: crate::compose::model::Project,
    pub config_files: String,
    pub working_dir: String,
}
