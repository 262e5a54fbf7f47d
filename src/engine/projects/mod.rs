//! Projects: observed, planned, and brought to where they are wanted, with as much at once as the plan allows.

pub mod convert;

mod condition;
mod execute;
mod image_updates;
mod jobs;
mod observe;
mod progress;
mod queue;
mod recovery;
mod revisions;
mod schedules;
mod spec;
mod steps;
pub(super) mod update;

use crate::engine::state::StateStore;
pub(super) use image_updates::ImageUpdates;
pub(super) use jobs::JobContainer;
pub use progress::{Commands, ProgressSender};
use queue::Change;
pub(super) use queue::Queues as Projects;
pub(super) use schedules::{Schedules, wall_clock};

use super::containers::incarnations::Leaves;
use super::error::{EngineError, state_error};
use super::record::ProjectRecord;
use super::{Container, Engine};
use crate::compose::model::Project;
use crate::image::ImageRef;
use crate::plan::{
    self, ContainerState, DesiredOutline, DownOptions, Lifecycle, LifecycleOptions, ObservedContainer, Plan, UpOptions,
};
use crate::wire::{Follower, Progress, RunRequest, UpRequest};
use convert::Origin;
use execute::execute;
use indexmap::IndexMap;
use queue::ProjectGuard;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use update::Tallies;

/// The context of every step of an execution.
struct StepContext {
    engine: Arc<Engine>,
    project: Project,
    origin: Origin,
    timeout: Option<u64>,
    renew_anonymous: bool,
    progress: ProgressSender,
    /// The right to change the project, where the command needs it.
    guard: Option<ProjectGuard>,
    follower: Option<Follower>,
    hook_output: bool,
    options: UpOptions,
    tallies: Tallies,
    /// The images of services by their ids, where these are not what the services' names for them are now.
    images: HashMap<String, String>,
    /// The remains of containers that are removed and not replaced.
    leaves: Leaves,
    /// Rollbacks that the disk had no room for.
    unnoted_rollbacks: Mutex<IndexMap<String, u32>>,
}

impl StepContext {
    fn new(engine: &Arc<Engine>, project: Project, progress: ProgressSender, guard: Option<ProjectGuard>) -> Self {
        let origin = Origin::default();
        StepContext {
            engine: engine.clone(),
            project,
            origin,
            timeout: None,
            renew_anonymous: false,
            progress,
            guard,
            follower: None,
            hook_output: false,
            options: UpOptions::default(),
            tallies: Tallies::default(),
            images: HashMap::new(),
            leaves: Leaves::Nothing,
            unnoted_rollbacks: Mutex::default(),
        }
    }
}

impl Engine {
    /// Brings a project up, telling what is done as it is done.
    ///
    /// # Errors
    /// Planning errors. A failed step is reported as progress and counted.
    pub async fn up(self: &Arc<Self>, request: UpRequest, progress: ProgressSender) -> Result<(), EngineError> {
        let UpRequest { project, mut options, config_files, working_dir, proxies, inactive, plan_only, follower } = request;
        options.inactive = inactive;
        let selected = plan::selected(&project, &options.services, options.no_deps);
        let mut images = HashSet::new();
        for (name, service) in project.services.iter().filter(|(name, _)| selected.contains(*name)) {
            for image in service.images() {
                let parsed: Result<ImageRef, _> = image.parse();
                parsed.map_err(|why| EngineError::Invalid(format!("services.{name}: {why}")))?;
                images.insert(image.to_string());
            }
        }
        if options.services.is_empty() {
            images.extend(project.jobs.values().flat_map(|job| job.service.images().map(str::to_string).collect::<Vec<_>>()));
        }
        // The plan is made under the project's lock.
        let guard = if plan_only { None } else { Some(self.projects.take(&project.name, Change::Up, &progress).await?) };
        let observed = self.observe(&project.name, images.into_iter())?;
        let plan = plan::up(&project, &observed, &options)?;
        let Some(guard) = guard else {
            show(&plan, &progress);
            warn(&plan, &progress);
            return Ok(());
        };
        if !plan.changed_volumes.is_empty() {
            progress.send(Progress::ChangedVolumes(plan.changed_volumes));
            return Ok(());
        }
        steps::check_resources(self, &project, &plan)?;
        warn(&plan, &progress);
        steps::tell_of_lent_socket(self, &project, &plan, &progress);
        let causes = plan.causes();
        self.clear_pending_rollbacks(&project.name)?;
        if !causes.is_empty() {
            self.note_earlier(self.state.project_record(&project.name).as_ref(), &causes)?;
        }
        let mut record =
            ProjectRecord { project: project.clone(), config_files: config_files.clone(), working_dir: working_dir.clone() };
        // The state must not hold what is secret.
        record.project.secrets.values_mut().chain(record.project.configs.values_mut()).for_each(|o| o.content = None);
        self.state.journal.put(&key(&project.name), &record).map_err(state_error)?;
        self.schedules.look_again(project.services.values().any(|service| service.auto_update.is_some()));
        let own = |c: &&ObservedContainer| c.state.is_alive() && !c.one_off && project.services.contains_key(&c.service);
        let touches = |c: &ObservedContainer| plan.graph.node_weights().any(|step| step.operation.touches(&c.id, &c.name));
        self.leave_running(observed.containers.iter().filter(own).filter(|c| !touches(c)), &progress)?;
        for interruption in &plan.interruptions {
            let object = format!("Service {}", interruption.service);
            progress.send(Progress::Step { object, status: format!("Is {}", interruption.text), done: true });
        }
        let context = StepContext {
            origin: Origin { config_files, working_dir, proxies },
            timeout: options.timeout.map(u64::from),
            renew_anonymous: options.renew_anon_volumes,
            hook_output: follower.is_some(),
            follower,
            leaves: Leaves::Log("scaled down"),
            tallies: Tallies::new(plan.updates()),
            options,
            ..StepContext::new(self, project, progress, Some(guard))
        };
        let changed = !plan.is_empty();
        let context = Arc::new(context);
        let result = execute(context.clone(), plan).await;
        self.note_revisions_if_it_can(&context, &causes);
        if result.is_err() {
            self.roll_back_failed(&context).await;
        }
        // What it has not started, it was not to, or could not.
        self.containers
            .of_project(&context.project.name)
            .iter()
            .for_each(|container| self.containers.clear_pending_start(container));
        if changed {
            self.state.sync_and_trim().await?;
        }
        result
    }

    /// Containers are as `up` wants them, and run.
    fn leave_running<'a>(
        &self,
        containers: impl Iterator<Item = &'a ObservedContainer>,
        progress: &ProgressSender,
    ) -> Result<(), EngineError> {
        for container in containers {
            self.containers.take_back_stale_stop_of(&container.id)?;
            let object = format!("Container {}", container.name);
            progress.send(Progress::Step { object, status: "Running".into(), done: true });
        }
        Ok(())
    }

    /// The commands of projects that go on.
    pub fn commands(&self) -> &Commands {
        &self.projects.commands
    }

    /// Makes a container of its own for one command of a service, and brings up what the service depends on. It is not started.
    ///
    /// # Errors
    /// As [`Engine::up`].
    pub async fn run(self: &Arc<Self>, request: RunRequest, progress: ProgressSender) -> Result<(), EngineError> {
        let RunRequest { mut up, service, name, use_aliases, stdin, labels, console_size, auto_remove, client_removes } = request;
        let images: HashSet<String> = up.project.services.values().flat_map(|s| s.images()).map(str::to_string).collect();
        up.options.inactive = up.inactive;
        let guard = self.projects.take(&up.project.name, Change::Run, &progress).await?;
        let observed = self.observe(&up.project.name, images.into_iter())?;
        let plan = plan::one_off(&up.project, &observed, &up.options, &service)?;
        steps::check_resources(self, &up.project, &plan)?;
        warn(&plan, &progress);
        let context = Arc::new(StepContext {
            origin: Origin { config_files: up.config_files, working_dir: up.working_dir, proxies: up.proxies },
            ..StepContext::new(self, up.project, progress, Some(guard))
        });
        execute(context.clone(), plan).await?;
        let mut spec = self.service_spec(&context.project, &service, 1, &context.origin)?;
        spec.labels.extend(labels);
        spec.labels.insert(crate::labels::LABEL_ONEOFF.into(), "True".into());
        spec.labels.insert("com.docker.compose.slug".into(), name.rsplit('-').next().unwrap_or_default().into());
        if !use_aliases {
            spec.networks.iter_mut().for_each(|endpoint| endpoint.aliases.clear());
        }
        (spec.stdin_open, spec.stdin_once) = (stdin, stdin);
        (spec.auto_remove, spec.client_removes) = (auto_remove, client_removes);
        spec.console_size = console_size;
        if context.progress.is_closed() {
            return Err(EngineError::Cancelled);
        }
        let container = self.create(&name, spec)?;
        self.remove_unless_started(&container);
        self.state.sync_and_trim().await?;
        context.progress.send(Progress::Created(container.id.clone()));
        Ok(())
    }

    /// Takes a project down.
    ///
    /// # Errors
    /// None of a step: a failed step is reported as progress and counted.
    pub async fn down(self: &Arc<Self>, name: &str, options: DownOptions, progress: ProgressSender) -> Result<(), EngineError> {
        if !options.plan_only {
            // What waits for something that may never come gives the project's lock back.
            self.cancel_jobs_of(name, &options.services, options.timeout)?;
        }
        let guard = if options.plan_only { None } else { Some(self.projects.take(name, Change::Down, &progress).await?) };
        let outline = options.outline.clone().or_else(|| self.state.outline(name));
        let images = outline.iter().filter(|_| options.rmi.is_some()).flat_map(|outline| outline.services.values());
        let mut observed = self.observe(name, images.filter_map(|service| service.image.clone()))?;
        if options.rmi.is_some() {
            observed.built = self.images.built_for(name)?;
        }
        let plan = plan::down(name, &observed, outline.as_ref(), &options);
        warn(&plan, &progress);
        if plan.is_empty() {
            progress.send(Progress::Warning(format!("No resource found to remove for project \"{name}\".")));
        }
        let Some(guard) = guard else {
            show(&plan, &progress);
            return Ok(());
        };
        let project = Project { name: name.into(), ..Project::default() };
        let context = StepContext {
            timeout: options.timeout.map(u64::from),
            leaves: if options.keep_logs { Leaves::Log("down") } else { Leaves::Nothing },
            ..StepContext::new(self, project, progress, Some(guard))
        };
        let result = execute(Arc::new(context), plan).await;
        if !options.keep_logs {
            self.incarnations.forget(name, &options.services);
        }
        if result.is_ok() && options.services.is_empty() {
            self.clear_pending_rollbacks(name)?;
            self.state.forget_revisions(name)?;
            self.forget_updates(name)?;
            self.forget_jobs_of(name)?;
            self.state.journal.delete(&key(name)).map_err(state_error)?;
        }
        self.state.sync_and_trim().await?;
        result
    }

    /// Starts, stops, restarts, kills, pauses or removes containers of a project.
    ///
    /// # Errors
    /// As [`Engine::up`].
    pub async fn lifecycle(
        self: &Arc<Self>,
        name: &str,
        command: Lifecycle,
        options: LifecycleOptions,
        progress: ProgressSender,
    ) -> Result<(), EngineError> {
        // A signal waits for nobody.
        let at_once = options.plan_only || matches!(command, Lifecycle::Kill | Lifecycle::Pause | Lifecycle::Unpause);
        let guard = if at_once { None } else { Some(self.projects.take(name, Change::Lifecycle(command), &progress).await?) };
        let outline = options.outline.clone().or_else(|| self.state.outline(name));
        let observed = self.observe(name, std::iter::empty())?;
        let plan = plan::lifecycle(command, &observed, outline.as_ref(), &options)?;
        if options.plan_only {
            show(&plan, &progress);
            return Ok(());
        }
        if command == Lifecycle::Stop {
            // Those that have ended before are stopped as well.
            let named = |c: &&ObservedContainer| options.services.is_empty() || options.services.contains(&c.service);
            let ended = observed.containers.iter().filter(|c| c.state == ContainerState::Exited && !c.one_off).filter(named);
            for container in ended {
                let object = format!("Container {}", container.name);
                progress.send(Progress::Step { object, status: "Stopped".into(), done: true });
            }
        }
        if command == Lifecycle::Start {
            let asked = |c: &&ObservedContainer| options.services.is_empty() || options.services.contains(&c.service);
            for container in observed.containers.iter().filter(|c| c.state.has_process() && !c.one_off).filter(asked) {
                self.containers.take_back_stale_stop_of(&container.id)?;
            }
        }
        if plan.is_empty() {
            return Ok(());
        }
        let project = Project { name: name.into(), ..Project::default() };
        let (timeout, hook_output) = (options.timeout.map(u64::from), options.hook_output);
        let context = StepContext { timeout, hook_output, ..StepContext::new(self, project, progress, guard) };
        let result = execute(Arc::new(context), plan).await;
        self.state.sync().await?;
        result
    }
}

impl StateStore {
    /// The project as the journal has it.
    pub(super) fn project_record(&self, name: &str) -> Option<ProjectRecord> {
        self.journal.get(&key(name))
    }

    /// The project as its last `up` sent it.
    pub(in crate::engine) fn outline(&self, project: &str) -> Option<DesiredOutline> {
        let record = self.project_record(project);
        record.map(|record| DesiredOutline::of(&record.project, Vec::new()))
    }

    /// Writes the journal, and gives back the memory of a plan.
    pub(super) async fn sync_and_trim(self: &Arc<Self>) -> Result<(), EngineError> {
        let synced = self.sync().await;
        // A plan's graph, its records and its progress are gone by now.
        let _trimmed = tokio::task::spawn_blocking(crate::sys::trim_memory).await;
        synced
    }
}

/// Tells what would be done.
fn show(plan: &Plan, progress: &ProgressSender) {
    for line in plan.lines() {
        progress.send(Progress::Plan(line));
    }
    for interruption in &plan.interruptions {
        progress.send(Progress::Plan(format!("{} is {}", interruption.service, interruption.text)));
    }
}

/// Warns of what the plan leaves as it is.
fn warn(plan: &Plan, progress: &ProgressSender) {
    for warning in &plan.warnings {
        progress.send(Progress::Warning(warning.clone()));
    }
    if !plan.orphans.is_empty() {
        progress.send(Progress::Warning(format!(
            "Found orphan containers ([{}]) for this project. If you removed or renamed this service in your compose file, you can run this command with the --remove-orphans flag to clean it up.",
            plan.orphans.join(" ")
        )));
    }
}

/// A project's key in the journal.
fn key(project: &str) -> String {
    format!("project/{project}")
}

/// Whether a container was made by `run`: it is none of its service's own.
pub(in crate::engine) fn is_one_off(container: &Container) -> bool {
    container.has_label(crate::labels::LABEL_ONEOFF, "True")
}
