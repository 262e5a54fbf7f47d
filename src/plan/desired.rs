//! The desired state: the options of commands, and the part of a Compose file that they need.

use crate::compose::model::{Dependency, Project, PullPolicy};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// Options of `up`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UpOptions {
    /// Empty: every service.
    pub services: Vec<String>,
    pub force_recreate: bool,
    /// The same for what the named services depend on.
    pub always_recreate_deps: bool,
    pub no_recreate: bool,
    pub no_deps: bool,
    pub no_start: bool,
    pub remove_orphans: bool,
    /// Names have `_` between their parts.
    #[serde(default)]
    pub compatible_names: bool,
    /// They are not warned of.
    #[serde(default)]
    pub ignore_orphans: bool,
    /// Networks and volumes that no service uses are made as well.
    #[serde(default)]
    pub all_resources: bool,
    /// Wait until services run, and are healthy where they have a health check.
    pub wait: bool,
    /// Seconds that a container may take to be good.
    pub wait_timeout: Option<u64>,
    /// Containers that are replaced run until the new ones are good.
    pub start_first: bool,
    /// `deploy.rollback_config` holds, not `update_config`.
    pub rolling_back: bool,
    /// Each container that is replaced is looked at until it is good.
    pub watched: bool,
    /// An update that fails is rolled back, whatever the file says.
    pub roll_back: bool,
    pub scale: IndexMap<String, u32>,
    /// Seconds to wait for a container that is stopped; its own grace period otherwise.
    pub timeout: Option<u32>,
    /// Instead of each service's `pull_policy`.
    pub pull: Option<PullPolicy>,
    /// New anonymous volumes instead of the ones of the container that is replaced.
    pub renew_anon_volumes: bool,
    pub changed_volumes: ChangedVolumes,
    /// Services of inactive profiles: their containers are no orphans.
    pub inactive: Vec<String>,
}

/// How a volume whose definition has changed is treated: recreating it loses its data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangedVolumes {
    /// It stays as it is, with a warning.
    #[default]
    Keep,
    /// Nothing is done before the user has been asked.
    Ask,
    /// The named ones are recreated.
    Recreate(Vec<String>),
    RecreateAll,
}

/// `down --rmi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemoveImages {
    /// Every image of a service.
    All,
    /// Those that were built for the project, and those without a name of their own.
    Local,
}

/// Options of `down`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DownOptions {
    /// Named and anonymous volumes as well.
    pub volumes: bool,
    pub rmi: Option<RemoveImages>,
    pub timeout: Option<u32>,
    pub remove_orphans: bool,
    /// Empty: every service, networks and all.
    pub services: Vec<String>,
    /// The logs of what is removed are kept.
    pub keep_logs: bool,
    /// Absent where there is no file.
    pub outline: Option<DesiredOutline>,
    /// Tell the plan, and do nothing.
    pub plan_only: bool,
}

/// Options of `start`, `stop`, ...
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LifecycleOptions {
    /// Empty: every service.
    pub services: Vec<String>,
    /// Seconds to wait for a container that is stopped; its own grace period otherwise.
    pub timeout: Option<u32>,
    /// Of `restart`: leave out who depends on the named services with `restart: true`.
    pub no_deps: bool,
    /// Of `kill`.
    pub signal: Option<String>,
    /// Of `kill`: containers of services that the file does not have are removed.
    pub remove_orphans: bool,
    /// Of `rm`: running containers are stopped first.
    pub stop: bool,
    /// Of `rm`: anonymous volumes as well.
    pub volumes: bool,
    /// Of `start`: wait until services run, and are healthy where they have a health check.
    pub wait: bool,
    /// The client shows the output of hooks.
    pub hook_output: bool,
    /// Absent where there is no file.
    pub outline: Option<DesiredOutline>,
    /// Tell the plan, and do nothing.
    pub plan_only: bool,
}

/// The parts of a Compose file that commands for existing containers need.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DesiredOutline {
    pub services: IndexMap<String, OutlineService>,
    /// Services of inactive profiles: their containers are no orphans.
    pub inactive: Vec<String>,
    /// Names of the project's own volumes.
    pub volumes: Vec<String>,
    pub jobs: Vec<String>,
}

/// The attributes of a service that commands without a file need.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutlineService {
    pub replicas: u32,
    pub depends_on: IndexMap<String, Dependency>,
    pub image: Option<String>,
    /// The image's name is the one that wharf gives to what it builds.
    pub unnamed: bool,
}

impl DesiredOutline {
    pub fn of(project: &Project, inactive: Vec<String>) -> Self {
        let service = |(name, service): (&String, &crate::compose::model::Service)| {
            let default = format!("{}-{name}", project.name);
            let unnamed = service.image.as_ref().is_none_or(|image| *image == default && service.build.is_some());
            let image = service.image.clone().or_else(|| service.build.as_ref().map(|_| default));
            let depends_on = service.depends_on.clone();
            (name.clone(), OutlineService { replicas: service.replicas(), depends_on, image, unnamed })
        };
        DesiredOutline {
            services: project.services.iter().map(service).collect(),
            inactive,
            jobs: project.jobs.keys().cloned().collect(),
            volumes: project.volumes.values().filter(|volume| !volume.external).map(|volume| volume.name.clone()).collect(),
        }
    }

    /// Whether the file has a service, active or not.
    pub fn knows(&self, service: &str) -> bool {
        self.services.contains_key(service) || self.inactive.iter().any(|name| name == service)
    }
}
