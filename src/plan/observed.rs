//! The observed state of a project.

use crate::compose::model::{Condition, Dependency};
use indexmap::IndexMap;
use std::collections::HashMap;

/// Containers, networks, volumes and images that exist: the project's own, and others that it may use.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub containers: Vec<ObservedContainer>,
    /// By name, the project's own and others.
    pub networks: HashMap<String, ObservedNetwork>,
    /// By name, the project's own and others.
    pub volumes: HashMap<String, ObservedVolume>,
    /// Image references as services write them, with the id of the image that is here.
    pub images: HashMap<String, String>,
    /// Seconds since each of them was pulled, where that is known.
    pub image_ages: HashMap<String, u64>,
    /// The hashes of the jobs that are registered, by their names.
    pub jobs: HashMap<String, String>,
    /// Images that were built for the project, with the service, where the image is one service's alone.
    pub built: Vec<(String, Option<String>)>,
}

/// A network that the engine has.
#[derive(Clone, Debug, Default)]
pub struct ObservedNetwork {
    /// The project that has made it, and its key in the project's file, by its labels.
    pub project: Option<String>,
    pub key: Option<String>,
    /// That of the definition it was made from; networks of earlier versions have none.
    pub hash: Option<String>,
}

/// A volume that the engine has.
#[derive(Clone, Debug, Default)]
pub struct ObservedVolume {
    pub project: Option<String>,
    pub hash: Option<String>,
}

/// A container's state, as far as a plan depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContainerState {
    #[default]
    Created,
    Running,
    Paused,
    Restarting,
    Exited,
}

impl ContainerState {
    /// It has a process, or is about to have one again.
    pub fn is_alive(self) -> bool {
        self.has_process() || self == ContainerState::Restarting
    }

    pub fn has_process(self) -> bool {
        matches!(self, ContainerState::Running | ContainerState::Paused)
    }
}

/// A container that the engine has.
#[derive(Clone, Debug, Default)]
pub struct ObservedContainer {
    pub id: String,
    pub name: String,
    pub service: String,
    pub number: u32,
    pub config_hash: String,
    pub image_id: String,
    pub state: ContainerState,
    /// `run` has made it: it is none of the service's own.
    pub one_off: bool,
    /// It is of a run of a job.
    pub of_job: bool,
    /// Its `pre_start` hooks have been run.
    pub prepared: bool,
    /// The services it depends on, from its label.
    pub depends_on: IndexMap<String, Dependency>,
    /// Names of the networks it is configured for.
    pub networks: Vec<String>,
    /// Names of the volumes that it mounts.
    pub volumes: Vec<String>,
    /// Something that it needs and that is gone: a cause to replace it.
    pub lost: Option<String>,
}

impl ObservedContainer {
    /// A container of a service or a job that the project does not have, or of a `run` that has ended.
    pub fn is_orphan(&self, known: impl FnOnce(&str) -> bool) -> bool {
        if self.one_off && !self.of_job { self.state == ContainerState::Exited } else { !known(&self.service) }
    }
}

/// Reads Docker Compose's label of the services that a container depends on: `SERVICE:CONDITION:RESTART,...`.
pub fn depends_on_label(text: &str) -> IndexMap<String, Dependency> {
    let one = |entry: &str| {
        let mut parts = entry.split(':');
        let name = parts.next().filter(|name| !name.is_empty())?;
        let condition = match parts.next() {
            Some("service_healthy") => Condition::ServiceHealthy,
            Some("service_completed_successfully") => Condition::ServiceCompletedSuccessfully,
            _ => Condition::ServiceStarted,
        };
        Some((name.to_string(), Dependency { condition, required: true, restart: parts.next() == Some("true"), runtime: false }))
    };
    text.split(',').filter_map(one).collect()
}
