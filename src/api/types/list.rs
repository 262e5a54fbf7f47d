//! `GET /containers/json`.

use super::{EndpointInspect, MountPoint, StringMap};
use indexmap::IndexMap;

wire! {
    /// A container in a list.
    pub struct ContainerSummary {
        pub id: String,
        pub names: Vec<String>,
        pub image: String,
        #[serde(rename = "ImageID")]
        pub image_id: String,
        pub command: String,
        /// Seconds since 1970.
        pub created: i64,
        pub ports: Vec<PortSummary>,
        pub labels: StringMap,
        pub state: String,
        /// For people.
        pub status: String,
        /// wharf's own, as the next one: Docker's clients have to inspect each container for them.
        pub exit_code: i32,
        pub restart_count: u32,
        pub host_config: SummaryHostConfig,
        pub network_settings: SummaryNetworks,
        pub mounts: Vec<MountPoint>,
        /// wharf's own: its log is not bounded.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub log_unlimited: bool,
        /// Since 1.52.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub health: Option<HealthSummary>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_rw: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_root_fs: Option<u64>,
    }

    /// A port that is published, or, without an address, only exposed.
    pub struct PortSummary {
        #[serde(rename = "IP", skip_serializing_if = "String::is_empty")]
        pub ip: String,
        pub private_port: u16,
        #[serde(skip_serializing_if = "is_zero")]
        pub public_port: u16,
        #[serde(rename = "Type")]
        pub protocol: String,
    }

    /// `HostConfig` in the list of containers.
    pub struct SummaryHostConfig {
        pub network_mode: String,
        #[serde(skip_serializing_if = "IndexMap::is_empty")]
        pub annotations: StringMap,
    }

    /// `NetworkSettings` in the list of containers.
    pub struct SummaryNetworks {
        pub networks: IndexMap<String, EndpointInspect>,
    }

    /// `none` is a container without a health check.
    pub struct HealthSummary {
        pub status: String,
        pub failing_streak: u32,
    }
}

fn is_zero(port: &u16) -> bool {
    *port == 0
}

impl ContainerSummary {
    /// Its name without Docker's slash.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", |name| name.trim_start_matches('/'))
    }

    /// Empty where it has no such label.
    pub fn label(&self, key: &str) -> &str {
        self.labels.get(key).map_or("", String::as_str)
    }

    /// The health of one with a health check, else nothing.
    pub fn health_status(&self) -> &str {
        self.health.as_ref().map(|health| health.status.as_str()).filter(|status| *status != "none").unwrap_or_default()
    }

    /// Whether it has a process, or is about to have one again.
    pub fn is_alive(&self) -> bool {
        matches!(self.state.as_str(), "running" | "paused" | "restarting")
    }
}
