//! `build` of a service.

use super::{FileMount, Ulimit};
use crate::units::{ByteSize, as_text};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// `build`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Build {
    pub additional_contexts: IndexMap<String, String>,
    pub args: IndexMap<String, Option<String>>,
    pub cache_from: Vec<String>,
    pub cache_to: Vec<String>,
    pub context: Option<String>,
    pub dockerfile: Option<String>,
    pub dockerfile_inline: Option<String>,
    pub entitlements: Vec<String>,
    pub extra_hosts: Vec<String>,
    pub isolation: Option<String>,
    pub labels: IndexMap<String, String>,
    pub network: Option<String>,
    pub no_cache: bool,
    pub no_cache_filter: Vec<String>,
    pub platforms: Vec<String>,
    pub privileged: bool,
    pub provenance: Option<String>,
    pub pull: bool,
    pub sbom: Option<String>,
    pub secrets: Vec<FileMount>,
    #[serde(with = "as_text")]
    pub shm_size: Option<ByteSize>,
    /// By their ids; `None` is the agent.
    pub ssh: IndexMap<String, Option<String>>,
    pub tags: Vec<String>,
    pub target: Option<String>,
    pub ulimits: IndexMap<String, Ulimit>,
}
