//! Compose files to a typed project. Pure but for reading files: no clock, no socket, no process.
//!
//! The stages, in the order in which a file goes through them:
//! [`yaml`] → [`interpolate`] → [`check`] (types, by the tables of [`schema`]) → [`canonical`] (long forms) → [`extends`] →
//! [`include`] → [`merge`] (several files) → [`defaults`] and [`paths`] → [`finish`] (canonical scalars) → [`profiles`] →
//! [`consistency`] (references) → [`environment`] → [`model`]. [`loader`] is the order; [`render`] prints the outcome.

pub mod canonical;
pub mod check;
pub mod consistency;
pub mod defaults;
mod deserialize;
pub mod diagnostic;
pub mod dotenv;
pub mod environment;
pub mod extends;
pub mod files;
pub mod finish;
pub mod graph;
pub mod include;
pub mod interpolate;
mod loader;
pub mod merge;
pub mod model;
pub mod mounts;
pub mod node;
pub mod paths;
pub mod ports;
pub mod profiles;
pub mod publish;
pub mod remote;
pub mod render;
pub mod schema;
pub mod short;
pub use crate::units;
pub mod words;
pub mod yaml;

use diagnostic::{Diagnostic, LoadError, Sources};
use indexmap::IndexMap;
use interpolate::UsedVariable;
use model::Project;
use node::Node;
use remote::{Remote, RemoteFile};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

/// The options that decide which project is loaded, and how.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// `-f`, in order; `-` is standard input. Empty: COMPOSE_FILE, else found upwards from `directory`.
    pub files: Vec<String>,
    /// `-p`.
    pub project_name: Option<String>,
    /// `--project-directory`.
    pub project_directory: Option<PathBuf>,
    /// `--env-file`, in order. Empty: COMPOSE_ENV_FILES, else `.env` in the project directory, where there is one.
    pub env_files: Vec<PathBuf>,
    /// `--profile`; `*` is every profile. Empty: COMPOSE_PROFILES.
    pub profiles: Vec<String>,
    /// Services that the command line names: active whatever their profiles. Env files of others may be missing.
    pub services: Vec<String>,
    /// The process environment.
    pub environment: HashMap<String, String>,
    /// The working directory.
    pub directory: PathBuf,
    pub skip: Skip,
    /// `--all-resources`: keep what no service uses.
    pub all_resources: bool,
    /// Fetches files that are not on this machine; without it they are refused.
    pub remote: Option<Arc<dyn Remote>>,
    /// Fill [`Loaded::variables`].
    pub list_variables: bool,
}

/// Stages to leave out, for `wharf config`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Skip {
    /// `--no-interpolate`: variables stay as they are, and so does what depends on them.
    pub interpolation: bool,
    /// `--no-normalize`: no implied networks, names and dependencies.
    pub normalisation: bool,
    /// `--no-path-resolution`.
    pub paths: bool,
    /// `--no-consistency`.
    pub consistency: bool,
    /// `--no-env-resolution`: env files are left where they are.
    pub environment: bool,
    /// For commands that make no container: two services may ask for one name.
    pub container_names: bool,
    /// For a cluster: no warning of attributes that have no effect on one machine.
    pub one_machine: bool,
}

/// Contents of configs and secrets that are in the project itself: by `configs` or `secrets`, and the name.
pub type Contents = HashMap<(&'static str, String), String>;

/// A loaded project.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub project: Project,
    /// The finished tree with every attribute, also those that the model does not have: what `wharf config` prints.
    pub root: Node,
    pub warnings: Vec<Diagnostic>,
    pub sources: Sources,
    pub files: Vec<PathBuf>,
    /// Those of the files, included and extended ones that were fetched.
    pub remote: Vec<RemoteFile>,
    pub directory: PathBuf,
    /// Services that the selected profiles leave out, with their profiles.
    pub inactive: IndexMap<String, Vec<String>>,
    /// The variables of interpolation: the process environment over the env files.
    pub environment: BTreeMap<String, String>,
    /// Contents of configs and secrets of `environment`, by section and name: an included file has variables of its own.
    pub contents: Contents,
    /// The variables of the files, with what each says about its absence.
    pub variables: BTreeMap<String, UsedVariable>,
}

/// Loads a project.
///
/// # Errors
/// Every error of the files at once, rendered with file, line, column and the line itself.
pub fn load(options: &LoadOptions) -> Result<Loaded, LoadError> {
    loader::Loader::new(options).finish()
}
