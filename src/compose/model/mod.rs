//! The typed project: what the rest of wharf knows of a Compose file. Field names are the specification's.

mod build;
mod deploy;
mod devices;
mod job;
mod mounts;
mod service;
mod values;

pub use build::*;
pub use deploy::*;
pub use devices::*;
pub use job::*;
pub use mounts::*;
pub use service::*;
pub use values::{NamespaceMode, PullPolicy, RestartCondition, RestartPolicy, VolumeKind};

use super::diagnostic::Diagnostic;
use super::node::Node;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// A canonical project, as `wharf config --format json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Project {
    pub name: String,
    pub services: IndexMap<String, Service>,
    /// Absent of a project without jobs, as for engines and files of earlier versions.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub jobs: IndexMap<String, Job>,
    pub networks: IndexMap<String, Network>,
    pub volumes: IndexMap<String, Volume>,
    pub configs: IndexMap<String, FileObject>,
    pub secrets: IndexMap<String, FileObject>,
    pub models: IndexMap<String, Model>,
}

impl Project {
    /// The project of a finished tree.
    ///
    /// # Errors
    /// When the tree holds what no stage refused and no type has room for: a number out of range.
    pub fn from_tree(root: &Node) -> Result<Project, Vec<Diagnostic>> {
        Project::deserialize(root).map_err(|misfit| {
            let message = misfit.to_string();
            vec![misfit.at.map_or_else(|| Diagnostic::global(&message), |at| Diagnostic::error(&at, &message))]
        })
    }
}

/// `networks.*`; the name is the one in the engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    pub name: String,
    pub driver: Option<String>,
    pub external: bool,
    pub internal: bool,
    pub attachable: bool,
    pub driver_opts: IndexMap<String, String>,
    pub enable_ipv4: Option<bool>,
    pub enable_ipv6: Option<bool>,
    pub labels: IndexMap<String, String>,
    pub ipam: NetworkIpam,
}

/// `networks.*.ipam`: which addresses a network has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkIpam {
    pub driver: Option<String>,
    pub config: Vec<IpamConfig>,
    pub options: IndexMap<String, String>,
}

/// `networks.*.ipam.config[]`: a subnet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamConfig {
    pub subnet: Option<String>,
    pub gateway: Option<String>,
    pub ip_range: Option<String>,
    pub aux_addresses: IndexMap<String, String>,
}

/// `volumes.*`; the name is the one in the engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    pub name: String,
    pub driver: Option<String>,
    pub external: bool,
    pub labels: IndexMap<String, String>,
    pub driver_opts: IndexMap<String, String>,
}

/// A config or a secret: where its content comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileObject {
    pub name: String,
    pub content: Option<String>,
    /// The content is in base64, since it is no text. Not of a Compose file.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub encoded: bool,
    pub environment: Option<String>,
    pub external: bool,
    pub file: Option<String>,
    pub labels: IndexMap<String, String>,
    pub driver: Option<String>,
    pub driver_opts: IndexMap<String, String>,
    pub template_driver: Option<String>,
}

/// `models.*`: a language model that services use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Model {
    pub model: String,
    pub name: Option<String>,
    pub context_size: Option<i64>,
    pub runtime_flags: Vec<String>,
    /// The URL at which something else runs the model.
    #[serde(rename = "x-endpoint")]
    pub endpoint: Option<String>,
}
