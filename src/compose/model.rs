//! The typed project: what the rest of wharf knows of a Compose file. Field names are the specification's.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// A canonical project, as `wharf config --format json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Project {
    pub name: String,
    #[serde(default)]
    pub services: IndexMap<String, Service>,
    #[serde(default)]
    pub networks: IndexMap<String, Network>,
    #[serde(default)]
    pub volumes: IndexMap<String, Volume>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    pub annotations: IndexMap<String, String>,
    pub build: Option<Json>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub command: Option<Vec<String>>,
    pub container_name: Option<String>,
    pub cpu_period: Option<Json>,
    pub cpu_quota: Option<Json>,
    pub cpu_shares: Option<Json>,
    pub cpus: Option<f64>,
    pub cpuset: Option<String>,
    pub depends_on: IndexMap<String, Dependency>,
    pub deploy: Option<Deploy>,
    pub dns: Vec<String>,
    pub dns_opt: Vec<String>,
    pub dns_search: Vec<String>,
    pub domainname: Option<String>,
    pub entrypoint: Option<Vec<String>>,
    pub environment: IndexMap<String, Option<String>>,
    pub expose: Vec<String>,
    pub extra_hosts: Vec<String>,
    pub group_add: Vec<String>,
    pub healthcheck: Option<Healthcheck>,
    pub hostname: Option<String>,
    pub image: Option<String>,
    pub init: Option<bool>,
    pub labels: IndexMap<String, String>,
    pub logging: Option<Logging>,
    /// Bytes, as a decimal string.
    pub mem_limit: Option<String>,
    pub mem_reservation: Option<String>,
    /// Bytes of memory and swap together; `-1` is without limit.
    pub memswap_limit: Option<String>,
    pub network_mode: Option<String>,
    pub networks: IndexMap<String, Option<ServiceNetwork>>,
    pub oom_score_adj: Option<i64>,
    pub pids_limit: Option<i64>,
    pub ports: Vec<Port>,
    pub privileged: bool,
    pub profiles: Vec<String>,
    pub pull_policy: Option<String>,
    pub read_only: bool,
    pub restart: Option<String>,
    pub scale: Option<u32>,
    pub security_opt: Vec<String>,
    pub shm_size: Option<String>,
    pub stdin_open: bool,
    /// A Go duration; 10 s where absent.
    pub stop_grace_period: Option<String>,
    pub stop_signal: Option<String>,
    pub sysctls: IndexMap<String, String>,
    pub tmpfs: Vec<String>,
    pub tty: bool,
    pub ulimits: IndexMap<String, Ulimit>,
    pub user: Option<String>,
    pub volumes: Vec<ServiceVolume>,
    pub working_dir: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    ServiceStarted,
    ServiceHealthy,
    ServiceCompletedSuccessfully,
}

impl Condition {
    pub fn as_str(self) -> &'static str {
        match self {
            Condition::ServiceStarted => "service_started",
            Condition::ServiceHealthy => "service_healthy",
            Condition::ServiceCompletedSuccessfully => "service_completed_successfully",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dependency {
    pub condition: Condition,
    #[serde(default = "yes")]
    pub required: bool,
    /// Restart the dependent when the dependency is recreated or restarted.
    #[serde(default)]
    pub restart: bool,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Deploy {
    pub mode: Option<String>,
    pub replicas: Option<u32>,
    pub labels: IndexMap<String, String>,
    pub resources: DeployResources,
    pub restart_policy: Option<DeployRestartPolicy>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeployResources {
    pub limits: Option<Limits>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub cpus: Option<f64>,
    pub memory: Option<String>,
    pub pids: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeployRestartPolicy {
    pub condition: Option<String>,
    pub max_attempts: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    pub disable: bool,
    pub interval: Option<String>,
    pub retries: Option<u32>,
    pub start_interval: Option<String>,
    pub start_period: Option<String>,
    pub test: Option<Vec<String>>,
    pub timeout: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    pub driver: Option<String>,
    pub options: IndexMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceNetwork {
    pub aliases: Vec<String>,
    pub ipv4_address: Option<String>,
    pub priority: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    pub target: u16,
    /// A port or a range `8000-8010` of which any free one; absent or 0 lets the kernel choose.
    #[serde(default)]
    pub published: Option<String>,
    #[serde(default = "tcp")]
    pub protocol: String,
    #[serde(default)]
    pub host_ip: Option<String>,
}

fn tcp() -> String {
    "tcp".into()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceVolume {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub source: Option<String>,
    pub target: String,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub bind: Option<BindOptions>,
    #[serde(default)]
    pub volume: Option<VolumeOptions>,
    #[serde(default)]
    pub tmpfs: Option<TmpfsOptions>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindOptions {
    pub create_host_path: bool,
    pub propagation: Option<String>,
    pub recursive: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeOptions {
    pub nocopy: bool,
    pub subpath: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsOptions {
    /// Bytes, as a decimal string.
    pub size: Option<String>,
    pub mode: Option<Json>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Ulimit {
    Both(i64),
    Pair { soft: i64, hard: i64 },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    pub name: String,
    pub driver: Option<String>,
    pub external: bool,
    pub internal: bool,
    pub attachable: bool,
    pub labels: IndexMap<String, String>,
    pub ipam: Ipam,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ipam {
    pub driver: Option<String>,
    pub config: Vec<IpamConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamConfig {
    pub subnet: Option<String>,
    pub gateway: Option<String>,
    pub ip_range: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    pub name: String,
    pub driver: Option<String>,
    pub external: bool,
    pub labels: IndexMap<String, String>,
    pub driver_opts: IndexMap<String, String>,
}

impl Service {
    /// How many containers the service wants: `scale`, else `deploy.replicas`, else 1.
    pub fn replicas(&self) -> u32 {
        self.scale.or(self.deploy.as_ref().and_then(|deploy| deploy.replicas)).unwrap_or(1)
    }

    /// The service or container whose network namespace this one joins, as `service:NAME` says.
    pub fn shares_network_of(&self) -> Option<&str> {
        self.network_mode.as_deref()?.strip_prefix("service:")
    }
}
