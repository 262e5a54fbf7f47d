//! `GET /containers/{id}/json`.

use super::{CommandLine, EndpointInspect, HealthConfig, HostConfig, PortBinding, Set, StringMap, null_if_empty};
use indexmap::IndexMap;

wire! {
    /// A container with everything that is needed to make another one like it.
    pub struct ContainerInspect {
        pub id: String,
        pub created: String,
        pub path: String,
        pub args: Vec<String>,
        pub state: InspectedState,
        /// The image's id.
        pub image: String,
        pub resolv_conf_path: String,
        pub hostname_path: String,
        pub hosts_path: String,
        pub log_path: String,
        pub name: String,
        pub restart_count: u32,
        pub driver: String,
        pub platform: String,
        pub mount_label: String,
        pub process_label: String,
        pub app_armor_profile: String,
        #[serde(rename = "ExecIDs")]
        pub exec_ids: Option<Vec<String>>,
        pub host_config: HostConfig,
        pub graph_driver: GraphDriver,
        pub mounts: Vec<MountPoint>,
        pub config: ContainerConfig,
        pub network_settings: NetworkSettings,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_rw: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_root_fs: Option<u64>,
    }

    /// A container's state. Times are RFC 3339, and year 1 for never.
    pub struct InspectedState {
        pub status: String,
        pub running: bool,
        pub paused: bool,
        pub restarting: bool,
        #[serde(rename = "OOMKilled")]
        pub oom_killed: bool,
        pub dead: bool,
        pub pid: i32,
        pub exit_code: i32,
        pub error: String,
        pub started_at: String,
        /// wharf's own: clients show what came since the last start from here on.
        pub output_since: String,
        pub finished_at: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub health: Option<InspectedHealth>,
    }

    /// `State.Health`.
    pub struct InspectedHealth {
        pub status: String,
        pub failing_streak: u32,
        pub log: Vec<ProbeResult>,
        /// wharf's own: restarts for being unhealthy, where that is asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub restarts: Option<u32>,
    }

    /// A run of a health check.
    pub struct ProbeResult {
        pub start: String,
        pub end: String,
        pub exit_code: i32,
        pub output: String,
    }

    /// The driver of an image's and a container's layers, and its paths.
    pub struct GraphDriver {
        pub name: String,
        pub data: StringMap,
    }

    /// A mount of a container.
    pub struct MountPoint {
        #[serde(rename = "Type")]
        pub kind: String,
        /// The volume's; empty for the other kinds.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub name: String,
        pub source: String,
        pub destination: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub driver: String,
        pub mode: String,
        #[serde(rename = "RW")]
        pub writable: bool,
        pub propagation: String,
    }

    /// The settings of a container that are not about its host.
    pub struct ContainerConfig {
        pub image: String,
        pub hostname: String,
        pub domainname: String,
        pub user: String,
        pub attach_stdin: bool,
        pub attach_stdout: bool,
        pub attach_stderr: bool,
        #[serde(skip_serializing_if = "IndexMap::is_empty")]
        pub exposed_ports: Set,
        pub tty: bool,
        pub open_stdin: bool,
        pub stdin_once: bool,
        pub env: Vec<String>,
        pub cmd: Option<CommandLine>,
        pub entrypoint: Option<CommandLine>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub healthcheck: Option<HealthConfig>,
        /// Paths that have anonymous volumes.
        #[serde(serialize_with = "null_if_empty")]
        pub volumes: Set,
        pub working_dir: String,
        pub labels: StringMap,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub stop_signal: String,
        /// Seconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub stop_timeout: Option<i64>,
        pub on_build: Option<Vec<String>>,
    }

    /// `NetworkSettings` of `GET /containers/{id}/json`.
    pub struct NetworkSettings {
        #[serde(rename = "SandboxID")]
        pub sandbox_id: String,
        pub sandbox_key: String,
        /// `null` for one that is exposed alone.
        pub ports: IndexMap<String, Option<Vec<PortBinding>>>,
        pub networks: IndexMap<String, EndpointInspect>,
        /// Before 1.52.
        #[serde(flatten)]
        pub older: Option<OlderNetworkSettings>,
    }

    /// The endpoint on the network `bridge`, from before there were other networks.
    pub struct OlderNetworkSettings {
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        pub gateway: String,
        #[serde(rename = "IPAddress")]
        pub ip_address: String,
        #[serde(rename = "IPPrefixLen")]
        pub ip_prefix_len: u8,
        #[serde(rename = "IPv6Gateway")]
        pub ipv6_gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        pub global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        pub global_ipv6_prefix_len: u8,
        pub mac_address: String,
        pub bridge: String,
        pub hairpin_mode: bool,
        #[serde(rename = "LinkLocalIPv6Address")]
        pub link_local_ipv6_address: String,
        #[serde(rename = "LinkLocalIPv6PrefixLen")]
        pub link_local_ipv6_prefix_len: u8,
        #[serde(rename = "SecondaryIPAddresses")]
        pub secondary_ip_addresses: Option<Vec<String>>,
        #[serde(rename = "SecondaryIPv6Addresses")]
        pub secondary_ipv6_addresses: Option<Vec<String>>,
    }
}

/// A container that this version does not understand.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UnknownContainer {
    pub id: String,
    pub name: String,
    pub state: UnknownState,
    /// As the journal has it.
    pub record: serde_json::Value,
}

/// The known parts of the state of an [`UnknownContainer`].
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UnknownState {
    pub status: &'static str,
    pub running: bool,
    pub exit_code: i32,
}
