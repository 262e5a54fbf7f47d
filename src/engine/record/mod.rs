//! Records of containers, networks and volumes, in the form that the journal keeps. [`spec`] is what a container is
//! to be, `state` how it changes and what follows; here is what has become of it.

mod limits;
mod merged;
mod network;
pub mod revision;
pub mod spec;
mod state;

pub use network::{NetworkDriver, NetworkRecord};
pub use spec::*;
pub use state::{State, Status, Transition, Verdict, verdict};

use crate::compose::model::OnUnhealthy;
use crate::image::{ChainId, Digest};
use crate::network::address::Addresses;
use crate::units::{ContainerPort, Protocol, known_ports};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The image's defaults for its containers.
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
    #[serde(deserialize_with = "known_ports")]
    pub exposed_ports: Vec<ContainerPort>,
}

/// A container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: String,
    pub name: String,
    pub created_at: Timestamp,
    /// Journals have an empty text for none.
    #[serde(with = "digest_or_empty")]
    pub image_id: Option<Digest>,
    /// The image's part of the configuration, as it was when the container was created.
    #[serde(default)]
    pub image: ImageConfig,
    /// The lowest layer first.
    pub layers: Vec<ChainId>,
    pub spec: ContainerSpec,
    /// By the network's id.
    #[serde(default)]
    pub endpoints: IndexMap<String, Addresses>,
    /// Those that it had while another container had the addresses of its definition, by the network's id: it keeps them beside its
    /// own until it ends.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub former_addresses: IndexMap<String, Addresses>,
    /// The host's ends of its veth pairs, by the network's id.
    #[serde(default)]
    pub interfaces: IndexMap<String, String>,
    /// Its control group since its last start, where systemd has delegated one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_group: Option<String>,
    #[serde(default)]
    pub bound_ports: Vec<BoundPort>,
    pub state: State,
    /// The user has stopped it: restart policies leave it alone.
    #[serde(default)]
    pub stopped_by_user: bool,
    #[serde(default)]
    pub restart_count: u32,
    /// Its `pre_start` hooks have been run.
    #[serde(default)]
    pub prepared: bool,
    /// It is being stopped in order to be started again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restart_begun: bool,
    /// The stop that is under way: an engine that finds it in the journal ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_begun: Option<BegunStop>,
    /// It is being stopped because it is unhealthy, and is to be started again whatever its restart policy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unhealthy_restart: bool,
    /// How often that has been since a user has started it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unhealthy_restarts: u32,
    /// It has replaced a container that ran, and is to be started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start_owed: bool,
    /// It is about to replace another container. Absent once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Replacement>,
}

/// A published port as it was bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredBoundPort", into = "StoredBoundPort")]
pub struct BoundPort {
    pub target: u16,
    pub protocol: Protocol,
    /// Absent: every IPv4 address of the host.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
}

/// A bound port in a journal.
type StoredBoundPort = (u16, Protocol, Option<IpAddr>, u16);

impl From<StoredBoundPort> for BoundPort {
    fn from((target, protocol, host_ip, host_port): StoredBoundPort) -> Self {
        BoundPort { target, protocol, host_ip, host_port }
    }
}

impl From<BoundPort> for StoredBoundPort {
    fn from(port: BoundPort) -> Self {
        (port.target, port.protocol, port.host_ip, port.host_port)
    }
}

impl BoundPort {
    pub fn container_port(&self) -> ContainerPort {
        ContainerPort { port: self.target, protocol: self.protocol }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// How a container is being stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BegunStop {
    /// Seconds until SIGKILL; absent: the container's own.
    pub timeout: Option<u64>,
    /// Absent: the container's own.
    pub signal: Option<i32>,
}

/// How a recreation ends: an engine that finds one in the journal ends it. The new container has a name of its own until the old
/// one is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replacement {
    /// The id of the old container.
    pub id: String,
    /// The name that the new one gets.
    pub name: String,
    /// The old one ran.
    pub start: bool,
    /// Of an update that starts the new one first; absent where the old one is stopped first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
}

/// How far a container has come that runs beside the one which it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Beside {
    /// The old one has the names and the ports.
    Waiting,
    /// It has them itself, and the old one ends.
    Switched,
}

/// A digest that need not be there, as an empty text then.
mod digest_or_empty {
    use crate::image::Digest;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(digest: &Option<Digest>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(digest.as_ref().map(Digest::as_str).unwrap_or_default())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Digest>, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(D::Error::custom),
        }
    }

    /// A text that is no digest is read as none.
    pub(super) fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Digest>, D::Error> {
        Ok(String::deserialize(deserializer)?.parse().ok())
    }
}

impl ContainerRecord {
    /// The id of its image as clients and plans have it; empty where it has none.
    pub fn image_id_text(&self) -> String {
        self.image_id.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    /// A container that nothing has happened to yet, made now and of no image.
    pub fn new(id: String, name: String, spec: ContainerSpec, layers: Vec<ChainId>) -> Self {
        ContainerRecord {
            id,
            name,
            created_at: Timestamp::now(),
            image_id: None,
            image: ImageConfig::default(),
            layers,
            spec,
            endpoints: IndexMap::new(),
            former_addresses: IndexMap::new(),
            interfaces: IndexMap::new(),
            control_group: None,
            bound_ports: Vec::new(),
            state: State::default(),
            stopped_by_user: false,
            restart_count: 0,
            prepared: false,
            restart_begun: false,
            stop_begun: None,
            unhealthy_restart: false,
            unhealthy_restarts: 0,
            start_owed: false,
            replaces: None,
        }
    }

    /// The action when its health check fails: what its service says, or the label that people's files have for a container
    /// which restarts others.
    pub fn on_unhealthy(&self) -> Option<OnUnhealthy> {
        let labelled = self.spec.labels.get("autoheal").is_some_and(|label| label == "true");
        self.spec.on_unhealthy.or(labelled.then_some(OnUnhealthy::Restart))
    }

    /// Whether another container has the names and the ports that it is to have.
    pub fn waits_beside(&self) -> bool {
        self.replaces.as_ref().is_some_and(|replaced| replaced.beside == Some(Beside::Waiting))
    }

    /// Its control group: [`crate::runtime::cgroup::Hierarchy::directories`] tells where that is.
    pub fn group(&self) -> String {
        match (&self.control_group, &self.spec.cgroup_parent) {
            (Some(group), _) => group.clone(),
            (None, Some(parent)) => format!("/{}/{}", parent.trim_matches('/'), self.id),
            (None, None) => self.id.clone(),
        }
    }

    /// The ports that it, or its image, exposes, or that are published, without repetition.
    pub fn as_exposed(&self) -> Vec<ContainerPort> {
        let listed = self.spec.as_created.exposed_ports.iter().chain(&self.image.exposed_ports).copied();
        let mut ports = Vec::new();
        for port in listed.chain(self.spec.ports.iter().map(PortSpec::container_port)) {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports
    }

    /// The layers that it needs: its root's and those of mounted images.
    pub fn all_layers(&self) -> impl Iterator<Item = &ChainId> {
        self.layers.iter().chain(self.spec.mounts.iter().flat_map(|mount| &mount.layers))
    }
}

/// `State.Health.Status` of a container with a health check.
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

/// The results of a container's health check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    pub status: HealthStatus,
    pub failing_streak: u32,
    /// The last five probes, as Docker keeps them.
    pub log: Vec<Probe>,
}

impl Health {
    /// How the last probe has ended, and what it has said.
    pub fn last_words(&self) -> Option<String> {
        let last = self.log.last()?;
        let said = last.output.trim();
        let code = last.exit_code;
        Some(if said.is_empty() {
            format!("its health check ended with {code}")
        } else {
            format!("its health check ended with {code} and says: {said}")
        })
    }
}

/// A run of a health check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub start: Timestamp,
    pub end: Timestamp,
    pub exit_code: i32,
    pub output: String,
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
    /// Of the driver `local`: `type`, `o` and `device`, as mount(8) has them, or `size`, what its directory may grow to.
    #[serde(default)]
    pub options: IndexMap<String, String>,
}

impl VolumeRecord {
    /// Whether it is something that is mounted, not a directory of wharf's.
    pub fn has_device(&self) -> bool {
        self.options.contains_key("type") || self.options.contains_key("device")
    }
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

    /// Times were bare numbers once: the journals of earlier versions have them so, and earlier versions read what this one writes.
    #[test]
    fn times_in_journals_are_numbers_of_nanoseconds() {
        let written = serde_json::json!({
            "health": {"test": ["CMD", "true"], "interval": 500_000_000, "timeout": 0, "start_period": 7, "start_interval": 0, "retries": 3},
            "restart_delay": 5_000_000_000_u64, "restart_window": null,
            "resources": {"memory": 67_108_864}, "shm_size": 1024,
        });
        let spec: ContainerSpec = serde_json::from_value(written.clone()).expect("a specification of an earlier version");
        assert_eq!(spec.health.as_ref().map(|health| health.interval.to_string()).as_deref(), Some("500ms"));
        let again = serde_json::to_value(&spec).expect("JSON");
        for key in ["health", "restart_delay", "restart_window", "shm_size"] {
            assert_eq!(again[key], written[key], "{key}");
        }
        assert_eq!(again["resources"]["memory"], written["resources"]["memory"]);
    }

    /// Ports were tuples and texts once: journals have them so.
    #[test]
    fn ports_in_journals_are_tuples_and_texts() {
        let record = ContainerRecord::new("i".into(), "n".into(), ContainerSpec::default(), Vec::new());
        let mut written = serde_json::to_value(&record).expect("JSON");
        written["bound_ports"] = serde_json::json!([[80, "tcp", null, 8080], [53, "udp", "127.0.0.1", 53]]);
        written["spec"]["ports"] =
            serde_json::json!([{"target": 80, "protocol": "tcp", "host_ip": null, "published": [8080, 8090]}]);
        written["spec"]["as_created"]["exposed_ports"] = serde_json::json!(["9/sctp"]);
        let read: ContainerRecord = serde_json::from_value(written.clone()).expect("a record of an earlier version");
        assert_eq!((read.bound_ports[1].host_port, read.bound_ports[1].protocol), (53, Protocol::Udp));
        assert_eq!(read.as_exposed().iter().map(ContainerPort::to_string).collect::<Vec<_>>(), ["9/sctp", "80/tcp"]);
        assert_eq!(serde_json::to_value(&read).expect("JSON"), written);
        // An image may name what is no port.
        written["image"]["exposed_ports"] = serde_json::json!(["x", "80-90/tcp", "70"]);
        let read: ContainerRecord = serde_json::from_value(written).expect("a record of an earlier version");
        assert_eq!(read.image.exposed_ports.iter().map(ContainerPort::to_string).collect::<Vec<_>>(), ["70/tcp"]);
    }

    /// Layers were text once; what is no digest is no layer.
    #[test]
    fn layers_in_journals_are_chain_ids() {
        let record = |layer: &str| {
            serde_json::from_value::<ContainerRecord>(serde_json::json!({
                "id": "0123456789abcdef", "name": "n", "created_at": "2026-01-01T00:00:00Z", "image_id": "",
                "layers": [layer], "spec": ContainerSpec::default(), "state": State::default(),
            }))
        };
        let chain = format!("sha256:{}", "a".repeat(64));
        let read = record(&chain).expect("a record");
        assert_eq!(serde_json::to_value(&read).expect("JSON")["layers"], serde_json::json!([chain]));
        for wrong in ["../../etc", "/etc", "sha256:../../etc", ""] {
            assert!(record(wrong).is_err(), "{wrong}");
        }
    }

    /// The text of an image's id in journals is as it was when it was no type; none is an empty text.
    #[test]
    fn image_ids_in_journals_are_texts() {
        let record = |id: &str| {
            serde_json::from_value::<ContainerRecord>(serde_json::json!({
                "id": "0123456789abcdef", "name": "n", "created_at": "2026-01-01T00:00:00Z", "image_id": id,
                "layers": [], "spec": ContainerSpec::default(), "state": State::default(),
            }))
        };
        let digest = format!("sha256:{}", "a".repeat(64));
        for id in ["", &digest] {
            let read = record(id).expect("a record");
            assert_eq!((read.image_id.is_none(), read.image_id_text()), (id.is_empty(), id.to_string()));
            assert_eq!(serde_json::to_value(&read).expect("JSON")["image_id"], id);
        }
        assert!(record("busybox").is_err());
    }
}
