//! A service, as its canonical tree has it.

use super::build::Build;
use super::deploy::Deploy;
use super::devices::{BlkioConfig, Device, DeviceReservation};
use super::mounts::{FileMount, ServiceVolume};
use super::values::{NamespaceMode, PullPolicy, RestartPolicy, VolumeKind};
use crate::cron::Cron;
use crate::units::{ByteSize, Nanos, Protocol, as_text};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// A service, as compose-spec names its attributes, after merging and with defaults left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    pub annotations: IndexMap<String, String>,
    pub attach: Option<bool>,
    pub blkio_config: Option<BlkioConfig>,
    pub build: Option<Build>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub cgroup: Option<String>,
    pub cgroup_parent: Option<String>,
    pub command: Option<Vec<String>>,
    pub configs: Vec<FileMount>,
    pub container_name: Option<String>,
    pub cpu_count: Option<i64>,
    pub cpu_percent: Option<f64>,
    /// Microseconds.
    pub cpu_period: Option<i64>,
    /// Microseconds.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_rt_period: Option<i64>,
    /// Microseconds.
    pub cpu_rt_runtime: Option<i64>,
    pub cpu_shares: Option<i64>,
    pub cpus: Option<f64>,
    pub cpuset: Option<String>,
    pub credential_spec: Option<CredentialSpec>,
    pub depends_on: IndexMap<String, Dependency>,
    pub deploy: Option<Deploy>,
    pub develop: Option<Develop>,
    pub device_cgroup_rules: Vec<String>,
    pub devices: Vec<Device>,
    pub dns: Vec<String>,
    pub dns_opt: Vec<String>,
    pub dns_search: Vec<String>,
    pub domainname: Option<String>,
    pub entrypoint: Option<Vec<String>>,
    pub environment: IndexMap<String, Option<String>>,
    pub expose: Vec<String>,
    pub external_links: Vec<String>,
    pub extra_hosts: Vec<String>,
    pub gpus: Vec<DeviceReservation>,
    pub group_add: Vec<String>,
    pub healthcheck: Option<Healthcheck>,
    pub hostname: Option<String>,
    pub image: Option<String>,
    pub init: Option<bool>,
    pub ipc: Option<NamespaceMode>,
    pub isolation: Option<String>,
    pub labels: IndexMap<String, String>,
    pub links: Vec<String>,
    pub logging: Option<Logging>,
    pub mac_address: Option<String>,
    #[serde(with = "as_text")]
    pub mem_limit: Option<ByteSize>,
    #[serde(with = "as_text")]
    pub mem_reservation: Option<ByteSize>,
    /// 0 to 100. Compose reads it as it reads sizes.
    #[serde(with = "as_text")]
    pub mem_swappiness: Option<ByteSize>,
    /// Bytes of memory and swap together; `-1` is without limit.
    #[serde(with = "as_text")]
    pub memswap_limit: Option<ByteSize>,
    pub models: IndexMap<String, Option<ServiceModel>>,
    pub network_mode: Option<NamespaceMode>,
    pub networks: IndexMap<String, Option<ServiceNetwork>>,
    pub oom_kill_disable: bool,
    pub oom_score_adj: Option<i64>,
    pub pid: Option<NamespaceMode>,
    pub pids_limit: Option<i64>,
    pub platform: Option<String>,
    pub ports: Vec<Port>,
    pub post_start: Vec<Hook>,
    pub pre_start: Vec<Hook>,
    pub pre_stop: Vec<Hook>,
    pub privileged: bool,
    pub profiles: Vec<String>,
    pub provider: Option<Provider>,
    #[serde(with = "as_text")]
    pub pull_policy: Option<PullPolicy>,
    pub read_only: bool,
    #[serde(with = "as_text")]
    pub restart: Option<RestartPolicy>,
    pub runtime: Option<String>,
    pub scale: Option<u32>,
    pub secrets: Vec<FileMount>,
    pub security_opt: Vec<String>,
    #[serde(with = "as_text")]
    pub shm_size: Option<ByteSize>,
    pub stdin_open: bool,
    /// A Go duration; 10 s where absent.
    #[serde(with = "as_text")]
    pub stop_grace_period: Option<Nanos>,
    pub stop_signal: Option<String>,
    #[serde(with = "as_text")]
    pub pull_refresh_after: Option<Nanos>,
    pub storage_opt: IndexMap<String, String>,
    pub sysctls: IndexMap<String, String>,
    pub tmpfs: Vec<String>,
    pub tty: bool,
    pub ulimits: IndexMap<String, Ulimit>,
    pub use_api_socket: bool,
    /// wharf's own: its image is updated by the engine.
    #[serde(rename = "x-update", skip_serializing_if = "Option::is_none")]
    pub auto_update: Option<AutoUpdate>,
    pub user: Option<String>,
    pub userns_mode: Option<String>,
    pub uts: Option<String>,
    pub volumes: Vec<ServiceVolume>,
    pub volumes_from: Vec<String>,
    pub working_dir: Option<String>,
}

/// `depends_on.*.condition`.
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

/// An entry of `depends_on`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dependency {
    pub condition: Condition,
    #[serde(default = "yes")]
    pub required: bool,
    /// Restart the dependent when the dependency is recreated or restarted.
    #[serde(default)]
    pub restart: bool,
    /// wharf's own: also when its restart policy has restarted the dependency, and when that is healthy again.
    #[serde(default, rename = "x-runtime", skip_serializing_if = "std::ops::Not::not")]
    pub runtime: bool,
}

fn yes() -> bool {
    true
}

/// The action on an unhealthy container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnhealthy {
    /// It is stopped and started again, with the delay of a crash.
    Restart,
    /// It is stopped, and its restart policy leaves it alone.
    Stop,
    /// It is killed, and its restart policy decides.
    Kill,
}

/// When and how the engine updates a service's image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AutoUpdate {
    pub schedule: Cron,
    #[serde(default)]
    pub policy: UpdateSource,
    #[serde(default)]
    pub wait: WaitFor,
    /// An update that fails is undone.
    #[serde(default = "yes")]
    pub rollback: bool,
    /// Images that were replaced, and that nothing needs, are removed.
    #[serde(default)]
    pub cleanup: bool,
    /// Where what has happened is posted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<String>,
}

/// The difference by which an image counts as newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpdateSource {
    /// The registry has another digest under the tag.
    #[default]
    Digest,
}

/// The condition that an update by the engine waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitFor {
    /// Each container is healthy, or has run for `monitor` without a health check.
    #[default]
    Healthy,
    Started,
}

impl OnUnhealthy {
    pub fn as_str(self) -> &'static str {
        match self {
            OnUnhealthy::Restart => "restart",
            OnUnhealthy::Stop => "stop",
            OnUnhealthy::Kill => "kill",
        }
    }
}

/// `healthcheck`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    pub disable: bool,
    #[serde(with = "as_text")]
    pub interval: Option<Nanos>,
    pub retries: Option<u32>,
    #[serde(with = "as_text")]
    pub start_interval: Option<Nanos>,
    #[serde(with = "as_text")]
    pub start_period: Option<Nanos>,
    pub test: Option<Vec<String>>,
    #[serde(with = "as_text")]
    pub timeout: Option<Nanos>,
    /// wharf's own: what is done with a container that is unhealthy.
    #[serde(rename = "x-on-failure", skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnUnhealthy>,
}

/// `logging`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    pub driver: Option<String>,
    pub options: IndexMap<String, String>,
}

/// A service's place on a network: an entry of its `networks`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceNetwork {
    pub aliases: Vec<String>,
    pub driver_opts: IndexMap<String, String>,
    pub gw_priority: Option<i64>,
    pub interface_name: Option<String>,
    pub ipv4_address: Option<String>,
    pub ipv6_address: Option<String>,
    pub link_local_ips: Vec<String>,
    pub mac_address: Option<String>,
    pub priority: Option<i64>,
}

/// An entry of `ports`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    pub target: u16,
    /// A port or a range `8000-8010` of which any free one; absent or 0 lets the kernel choose.
    #[serde(default)]
    pub published: Option<String>,
    #[serde(default)]
    pub protocol: Protocol,
    #[serde(default)]
    pub host_ip: Option<String>,
    #[serde(default)]
    pub app_protocol: Option<String>,
    #[serde(default)]
    pub mode: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
}

/// An entry of `ulimits`: one limit, or soft and hard; -1 is without limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Ulimit {
    Both(i64),
    Pair { soft: i64, hard: i64 },
}

/// `credential_spec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CredentialSpec {
    pub config: Option<String>,
    pub file: Option<String>,
    pub registry: Option<String>,
}

/// `develop`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Develop {
    pub watch: Vec<Trigger>,
}

/// The action when a file under a path changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trigger {
    pub action: String,
    pub exec: Option<Hook>,
    pub ignore: Vec<String>,
    pub include: Vec<String>,
    pub initial_sync: bool,
    /// Its name before it was part of the specification.
    #[serde(rename = "x-initialSync", skip_serializing_if = "Option::is_none")]
    pub x_initial_sync: Option<bool>,
    pub path: String,
    pub target: Option<String>,
}

/// A command that runs at a moment of a container's life.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    pub command: Option<Vec<String>>,
    pub environment: IndexMap<String, Option<String>>,
    /// Of `pre_start` alone: the image of the container that runs it.
    pub image: Option<String>,
    pub per_replica: bool,
    pub privileged: bool,
    pub user: Option<String>,
    pub working_dir: Option<String>,
}

/// `provider`: a program that stands for the service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provider {
    #[serde(rename = "type")]
    pub kind: String,
    pub options: IndexMap<String, Json>,
}

/// An entry of the service's `models`: the variables that name it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceModel {
    pub endpoint_var: Option<String>,
    pub model_var: Option<String>,
}

impl Service {
    /// How many containers the service wants: `scale`, else `deploy.replicas`, else 1.
    pub fn replicas(&self) -> u32 {
        self.scale.or(self.deploy.as_ref().and_then(|deploy| deploy.replicas)).unwrap_or(1)
    }

    /// The services whose namespaces this one's containers join, as `service:NAME` says.
    pub fn shares_with(&self) -> impl Iterator<Item = &str> {
        [&self.network_mode, &self.ipc, &self.pid].into_iter().filter_map(|mode| mode.as_ref()?.service())
    }

    /// The services whose volumes this one's containers have as well.
    pub fn takes_volumes_of(&self) -> impl Iterator<Item = &str> {
        let service = |from: &'_ String| -> bool { !from.starts_with("container:") };
        self.volumes_from.iter().filter(move |from| service(from)).map(|from| from.split(':').next().unwrap_or(from))
    }

    /// The images that its containers need: their own, those that are mounted, and those of its `pre_start` hooks.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let hooks = self.pre_start.iter().filter_map(|hook| hook.image.as_deref());
        self.image.as_deref().into_iter().chain(self.mounted_images()).chain(hooks)
    }

    pub fn mounted_images(&self) -> impl Iterator<Item = &str> {
        self.volumes.iter().filter(|v| v.kind == VolumeKind::Image).filter_map(|v| v.source.as_deref())
    }

    /// The keys of the project's volumes that it mounts.
    pub fn volume_keys(&self) -> impl Iterator<Item = &String> {
        self.volumes.iter().filter(|v| v.kind == VolumeKind::Volume).filter_map(|v| v.source.as_ref())
    }

    /// Whether the file gives it a health check; the image may have one in any case.
    pub fn has_health_check(&self) -> bool {
        let tests = |test: &Vec<String>| test.first().is_some_and(|first| first != "NONE");
        self.healthcheck.as_ref().is_some_and(|check| !check.disable && check.test.as_ref().is_some_and(tests))
    }
}
