//! Projects: observed, planned, and brought to where they are wanted, with as much at once as the plan allows.

pub mod convert;

mod queue;
mod recovery;
mod steps;

use queue::Change;
pub(super) use queue::Queues;

use super::error::{EngineError, state_error};
use super::record::{self, ContainerRecord, ContainerSpec, NetworkMode, ProjectRecord};
use super::{Container, Engine};
use crate::compose::model::Project;
use crate::image::{ImageRef, Progress as PullProgress};
use crate::plan::{self, DownOptions, Observed, ObservedContainer, ObservedNetwork, Operation, Plan, UpOptions};
use convert::{Origin, Shared};
use indexmap::IndexMap;
use queue::ProjectTurn;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use steps::execute;
use tokio::sync::mpsc::UnboundedSender;

/// What the CLI sends to bring a project up.
#[derive(Debug, Serialize, Deserialize)]
pub struct UpRequest {
    pub project: Project,
    #[serde(default)]
    pub options: UpOptions,
    #[serde(default)]
    pub config_files: String,
    #[serde(default)]
    pub working_dir: String,
    /// Services of inactive profiles: their containers are no orphans.
    #[serde(default)]
    pub inactive: Vec<String>,
    /// Tell the plan and change nothing.
    #[serde(default)]
    pub plan_only: bool,
}

/// What the CLI sends for `run`: the project with the service as the command wants it.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunRequest {
    pub up: UpRequest,
    pub service: String,
    /// The container's.
    pub name: String,
    /// The container is found by its service's names, too.
    pub use_aliases: bool,
    /// Its standard input stays open until the client that attaches to it leaves.
    pub stdin: bool,
    pub labels: IndexMap<String, String>,
    /// The engine removes it when it has ended.
    pub auto_remove: bool,
    /// The client does.
    #[serde(default)]
    pub client_removes: bool,
}

/// A line of the answer to `up` and `down`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// `Container p-web-1` is `Starting`, `Started`, ...
    Step {
        object: String,
        status: String,
        done: bool,
    },
    /// A layer of an image that is pulled.
    Layer {
        image: String,
        id: String,
        status: String,
        current: u64,
        total: u64,
    },
    /// A container of `run`, which is not started yet, by its id.
    Created(String),
    Warning(String),
    /// A line of the plan.
    Plan(String),
    Error {
        object: String,
        message: String,
    },
    /// The last line: everything has been done, or not.
    Done {
        ok: bool,
    },
}

/// Takes progress; nobody listening is no failure.
pub type ProgressSender = UnboundedSender<Progress>;

/// What every step of an execution needs.
struct Context {
    engine: Arc<Engine>,
    project: Project,
    origin: Origin,
    timeout: Option<u64>,
    renew_anonymous: bool,
    remove_volumes: bool,
    progress: ProgressSender,
    turn: ProjectTurn,
}

impl Engine {
    /// What exists of a project; with `one_offs`, the containers of `run` as well.
    ///
    /// # Errors
    /// When the image store is damaged.
    pub fn observe(&self, project: &str, images: impl Iterator<Item = String>, one_offs: bool) -> Result<Observed, EngineError> {
        let network_names: HashMap<String, String> = self.networks().into_iter().map(|n| (n.id, n.name)).collect();
        let containers = self.project_containers(project).into_iter().filter(|c| one_offs || !is_one_off(c));
        let observe = |record: &ContainerRecord| ObservedContainer {
            lost: self.lost_by(record, &network_names),
            ..observe_container(record, &network_names)
        };
        let containers = containers.map(|c| observe(&c.record())).collect();
        let networks = self
            .networks()
            .into_iter()
            .map(|n| (n.name, ObservedNetwork { project: n.labels.get(convert::LABEL_PROJECT).cloned() }))
            .collect();
        let volumes = self.volumes().into_iter().map(|v| v.name).collect();
        let (mut known, mut image_ages) = (HashMap::new(), HashMap::new());
        let now = jiff::Timestamp::now();
        for image in images {
            if let Some((name, found)) = self.images.find_loosely(&image)? {
                let age = self.images.pulled_at(&name).map(|then| now.duration_since(then).as_secs());
                image_ages.extend(age.and_then(|age| u64::try_from(age).ok()).map(|age| (image.clone(), age)));
                known.insert(image, found.id.to_string());
            }
        }
        Ok(Observed { containers, networks, volumes, images: known, image_ages })
    }

    /// What a container has that is gone: a network that it runs on, or a container whose namespace it shares.
    fn lost_by(&self, record: &ContainerRecord, networks: &HashMap<String, String>) -> Option<String> {
        if record.state.status().is_alive() && record.endpoints.keys().any(|id| !networks.contains_key(id)) {
            return Some("a network that it is on is gone".into());
        }
        let network = if let NetworkMode::Container(id) = &record.spec.network_mode { Some(id.as_str()) } else { None };
        let shared = [network, record.spec.ipc.container(), record.spec.pid.container()];
        let gone = shared.into_iter().flatten().any(|id| !self.containers.contains(id));
        gone.then(|| "a container whose namespace it shares is gone".into())
    }

    /// The containers with a project's label.
    pub fn project_containers(&self, project: &str) -> Vec<Arc<Container>> {
        self.containers().into_iter().filter(|c| c.has_label(convert::LABEL_PROJECT, project)).collect()
    }

    /// Brings a project up, telling what is done as it is done.
    ///
    /// # Errors
    /// What could not be planned; failures of steps are told and counted.
    pub async fn up(self: &Arc<Self>, request: UpRequest, progress: ProgressSender) -> Result<(), EngineError> {
        let UpRequest { project, options, config_files, working_dir, inactive, plan_only } = request;
        let images: HashSet<String> = project.services.values().flat_map(|s| s.images()).map(str::to_string).collect();
        for image in &images {
            image.parse::<ImageRef>().map_err(crate::image::ImageError::from)?;
        }
        // A plan is made of what is there when its turn has come.
        let turn = if plan_only { None } else { Some(self.projects.take(&project.name, Change::Up, &progress).await?) };
        let mut observed = self.observe(&project.name, images.into_iter(), false)?;
        observed.containers.retain(|c| !inactive.contains(&c.service));
        let plan = plan::up(&project, &observed, &options)?;
        let Some(turn) = turn else {
            plan.lines().into_iter().for_each(|line| drop(progress.send(Progress::Plan(line))));
            warn_of_orphans(&plan, &progress);
            return Ok(());
        };
        warn_of_orphans(&plan, &progress);
        let mut record =
            ProjectRecord { project: project.clone(), config_files: config_files.clone(), working_dir: working_dir.clone() };
        // The state must not hold what is secret.
        record.project.secrets.values_mut().chain(record.project.configs.values_mut()).for_each(|o| o.content = None);
        self.journal.put(&format!("project/{}", project.name), &record).map_err(state_error)?;
        for container in observed.containers.iter().filter(|c| c.running && project.services.contains_key(&c.service)) {
            let untouched =
                !plan.graph.node_weights().any(|step| names_container(&step.operation, &container.id, &container.name));
            if untouched {
                let _ = progress.send(Progress::Step {
                    object: format!("Container {}", container.name),
                    status: "Running".into(),
                    done: true,
                });
            }
        }
        let context = Context {
            engine: self.clone(),
            project,
            origin: Origin { config_files, working_dir },
            timeout: options.timeout.map(u64::from),
            renew_anonymous: options.renew_anon_volumes,
            remove_volumes: true,
            progress,
            turn,
        };
        let changed = !plan.is_empty();
        let context = Arc::new(context);
        let result = execute(context.clone(), plan).await;
        // What it has not started, it was not to, or could not.
        self.project_containers(&context.project.name).iter().for_each(|container| self.owe_no_start(container));
        if changed {
            self.sync_and_trim().await?;
        }
        result
    }

    /// Makes a container of its own for one command of a service, and brings up what the service depends on. It is not started.
    ///
    /// # Errors
    /// As [`Engine::up`].
    pub async fn run(self: &Arc<Self>, request: RunRequest, progress: ProgressSender) -> Result<(), EngineError> {
        let RunRequest { up, service, name, use_aliases, stdin, labels, auto_remove, client_removes } = request;
        let images: HashSet<String> = up.project.services.values().flat_map(|s| s.images()).map(str::to_string).collect();
        let turn = self.projects.take(&up.project.name, Change::Run, &progress).await?;
        let mut observed = self.observe(&up.project.name, images.into_iter(), false)?;
        observed.containers.retain(|c| !up.inactive.contains(&c.service));
        let plan = plan::one_off(&up.project, &observed, &up.options, &service)?;
        let context = Arc::new(Context {
            engine: self.clone(),
            project: up.project,
            origin: Origin { config_files: up.config_files, working_dir: up.working_dir },
            timeout: None,
            renew_anonymous: false,
            remove_volumes: true,
            progress,
            turn,
        });
        execute(context.clone(), plan).await?;
        let mut spec = self.service_spec(&context.project, &service, 1, &context.origin)?;
        spec.labels.extend(labels);
        spec.labels.insert(convert::LABEL_ONEOFF.into(), "True".into());
        spec.labels.insert("com.docker.compose.slug".into(), name.rsplit('-').next().unwrap_or_default().into());
        if !use_aliases {
            spec.networks.iter_mut().for_each(|endpoint| endpoint.aliases.clear());
        }
        (spec.stdin_open, spec.stdin_once) = (stdin, stdin);
        (spec.auto_remove, spec.client_removes) = (auto_remove, client_removes);
        let container = self.create(&name, spec)?;
        self.sync_and_trim().await?;
        let _ = context.progress.send(Progress::Created(container.id.clone()));
        Ok(())
    }

    /// Takes a project down.
    ///
    /// # Errors
    /// Failures of steps are told and counted.
    pub async fn down(
        self: &Arc<Self>,
        name: &str,
        mut options: DownOptions,
        progress: ProgressSender,
    ) -> Result<(), EngineError> {
        let turn = if options.plan_only { None } else { Some(self.projects.take(name, Change::Down, &progress).await?) };
        let record: Option<ProjectRecord> = self.journal.get(&format!("project/{name}"));
        let own = |labels: &IndexMap<String, String>| labels.get(convert::LABEL_PROJECT).is_some_and(|p| p == name);
        options.own_networks = self.networks().into_iter().filter(|n| own(&n.labels)).map(|n| n.name).collect();
        options.own_volumes = self.volumes().into_iter().filter(|v| own(&v.labels)).map(|v| v.name).collect();
        if options.rmi.as_deref() == Some("all") {
            let services = record.iter().flat_map(|r| r.project.services.values());
            options.images = services.filter_map(|s| s.image.clone()).collect();
            options.images.sort();
            options.images.dedup();
        }
        let observed = self.observe(name, options.images.iter().cloned(), true)?;
        let plan = plan::down(&observed, &options);
        if options.plan_only {
            plan.lines().into_iter().for_each(|line| drop(progress.send(Progress::Plan(line))));
        }
        warn_of_orphans(&plan, &progress);
        if plan.is_empty() {
            let _ = progress.send(Progress::Warning(format!("there is nothing of the project {name} to remove")));
        }
        let Some(turn) = turn else { return Ok(()) };
        let context = Context {
            engine: self.clone(),
            project: Project { name: name.into(), ..Project::default() },
            origin: Origin::default(),
            timeout: options.timeout.map(u64::from),
            renew_anonymous: false,
            remove_volumes: true,
            progress,
            turn,
        };
        let context = Arc::new(context);
        let result = execute(context.clone(), plan).await;
        if result.is_ok() && options.services.is_empty() {
            self.journal.delete(&format!("project/{name}")).map_err(state_error)?;
        }
        self.sync_and_trim().await?;
        result
    }

    /// Waits until what has been done is on the disk: a request that has been answered is not undone by a loss of power.
    ///
    /// # Errors
    /// The disk's.
    pub async fn sync(self: &Arc<Self>) -> Result<(), EngineError> {
        let engine = self.clone();
        let synced = tokio::task::spawn_blocking(move || engine.journal.sync()).await;
        synced.map_err(|e| EngineError::Invalid(e.to_string()))?.map_err(state_error)
    }

    async fn sync_and_trim(self: &Arc<Self>) -> Result<(), EngineError> {
        let synced = self.sync().await;
        // A plan's graph, its records and its progress are gone by now.
        let _trimmed = tokio::task::spawn_blocking(crate::runtime::sys::trim_memory).await;
        synced
    }

    /// Pulls an image; two who want the same one wait for each other.
    ///
    /// # Errors
    /// The registry's or the disk's.
    pub async fn pull(self: &Arc<Self>, image: &str, progress: ProgressSender) -> Result<(), EngineError> {
        let name: ImageRef = image.parse().map_err(crate::image::ImageError::from)?;
        let _turn = self.pulls.take(&name.to_string()).await;
        let shown = image.to_string();
        let report = Arc::new(move |event: PullProgress| {
            let PullProgress::Layer { id, status, current, total } = event;
            let _ = progress.send(Progress::Layer { image: shown.clone(), id, status: status.into(), current, total });
        });
        self.registry.pull(&self.images, &name, report).await?;
        self.emit("image", "pull", &name.familiar(), IndexMap::new());
        Ok(())
    }
}

fn warn_of_orphans(plan: &Plan, progress: &ProgressSender) {
    if !plan.orphans.is_empty() {
        let _ = progress.send(Progress::Warning(format!(
            "found containers of services that the project does not have: {}; --remove-orphans removes them",
            plan.orphans.join(", ")
        )));
    }
}

fn names_container(operation: &Operation, id: &str, name: &str) -> bool {
    match operation {
        Operation::RecreateContainer { replaces, .. } => replaces == id,
        Operation::StartContainer { name: n, .. } => n == name,
        Operation::RemoveContainer { id: i, .. } | Operation::RestartContainer { id: i, .. } => i == id,
        _ => false,
    }
}

fn observe_container(record: &ContainerRecord, networks: &HashMap<String, String>) -> ObservedContainer {
    let label = |key: &str| record.spec.labels.get(key).cloned().unwrap_or_default();
    let depends_on = label(convert::LABEL_DEPENDS_ON);
    ObservedContainer {
        id: record.id.clone(),
        name: record.name.clone(),
        service: label(convert::LABEL_SERVICE),
        number: label(convert::LABEL_NUMBER).parse().unwrap_or(1),
        config_hash: label(convert::LABEL_HASH),
        image_id: record.image_id.clone(),
        running: record.state.status().is_alive(),
        prepared: record.prepared,
        depends_on: depends_on
            .split(',')
            .filter_map(|d| d.split(':').next())
            .filter(|d| !d.is_empty())
            .map(str::to_string)
            .collect(),
        networks: record.endpoints.keys().filter_map(|id| networks.get(id).cloned()).collect(),
        lost: None,
    }
}

impl Engine {
    /// The specification of a service's container, with what it shares with others' containers.
    ///
    /// # Errors
    /// When one of those does not exist, or an attribute cannot be meant.
    pub(super) fn service_spec(
        &self,
        project: &Project,
        service: &str,
        number: u32,
        origin: &Origin,
    ) -> Result<ContainerSpec, EngineError> {
        let definition = &project.services[service];
        let other = |what: &str, mode: &str| -> Result<Option<Arc<Container>>, EngineError> {
            if let Some(name) = mode.strip_prefix("container:") {
                return self.container(name).map(Some);
            }
            let Some(other) = mode.strip_prefix("service:") else { return Ok(None) };
            let mut containers = self.project_containers(&project.name).into_iter();
            let found = containers.find(|c| c.has_label(convert::LABEL_SERVICE, other) && !is_one_off(c));
            found.map(Some).ok_or_else(|| {
                EngineError::Invalid(format!("the service `{service}` shares the {what} of `{other}`, which has no container"))
            })
        };
        let id = |what: &str, mode: &Option<String>| -> Result<Option<String>, EngineError> {
            Ok(other(what, mode.as_deref().unwrap_or_default())?.map(|container| container.id.clone()))
        };
        let shared = Shared {
            network: id("network", &definition.network_mode)?,
            ipc: id("IPC namespace", &definition.ipc)?,
            pid: id("processes", &definition.pid)?,
        };
        let mut spec = convert::container(project, service, number, origin, shared).map_err(EngineError::Invalid)?;
        for from in &definition.volumes_from {
            let (from, read_only) = record::volumes_from(from);
            let mode = if from.starts_with("container:") { from.to_string() } else { format!("service:{from}") };
            let Some(source) = other("volumes", &mode)? else { continue };
            spec.take_mounts_of(&source.record(), read_only);
        }
        Ok(spec)
    }
}

/// Whether a container was made by `run`: it is none of its service's own.
pub(super) fn is_one_off(container: &Container) -> bool {
    container.has_label(convert::LABEL_ONEOFF, "True")
}

impl Engine {
    /// Removes an image's name, and its content where nothing else needs it.
    ///
    /// # Errors
    /// When it is not here, or is the last name of what a container uses.
    pub fn remove_image(&self, reference: &str) -> Result<(), EngineError> {
        if let Ok(name) = reference.parse::<ImageRef>()
            && self.images.forget_left_out(&name)?
        {
            self.emit("image", "delete", &name.familiar(), IndexMap::new());
            return Ok(());
        }
        let (name, image) = self.image(reference)?;
        let uses = |record: &ContainerRecord| {
            record.image_id == image.id.as_str()
                || record.spec.mounts.iter().any(|m| !m.layers.is_empty() && m.layers == image.layers)
        };
        let user = self.containers().into_iter().find(|c| c.with_record(uses));
        if let Some(user) = user
            && !self.images.list()?.iter().any(|(other, known)| known.id == image.id && *other != name)
        {
            return Err(EngineError::Conflict(format!("the image {reference} is in use by the container {}", user.name())));
        }
        let layers: HashSet<crate::image::ChainId> = self
            .containers()
            .iter()
            .flat_map(|c| c.with_record(|record| record.all_layers().cloned().collect::<Vec<_>>()))
            .collect();
        // Where it cannot be told what needs them, every layer stays.
        let uncertain = self.check_prunable().is_err();
        self.images.remove(&name, &|layer| uncertain || layers.contains(layer))?;
        self.emit("image", "delete", &name.familiar(), IndexMap::new());
        Ok(())
    }
}
