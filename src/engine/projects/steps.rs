//! The operations of a plan.

use super::condition::{AwaitedCondition, await_condition};
use super::update::{Update, may_go_on, update, watch};
use super::{Progress, ProgressSender, StepContext, convert};
use crate::compose::model::{Network, Project, Volume, VolumeKind};
use crate::engine::containers::incarnations::Leaves;
use crate::engine::containers::{START_MAY_TAKE, verify};
use crate::engine::error::EngineError;
use crate::engine::networks::NewNetwork;
use crate::engine::record::{ContainerSpec, Replacement};
use crate::engine::volumes::NewVolume;
use crate::engine::{Container, Engine, is_docker_socket, locked};
use crate::image::platform_warning;
use crate::labels::LABEL_SERVICE;
use crate::plan::{Operation, Plan, network_hash, volume_hash};
use indexmap::IndexMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A hook's line that is longer is shown as several.
const LONGEST_LINE: usize = 64 * 1024;

impl StepContext {
    pub(super) fn step(&self, object: &str, status: &str, done: bool) {
        self.progress.send(Progress::Step { object: object.into(), status: status.into(), done });
    }

    /// The log of what is started is kept from its first line on for the client that shows it.
    pub(super) fn expect_follower(&self, container: &Container) {
        let Some(follower) = &self.follower else { return };
        if self.is_shown(container) {
            container.expect_follower(follower.reader);
        }
    }

    /// Whether the client shows a container's output, where it shows any.
    fn is_shown(&self, container: &Container) -> bool {
        let Some(follower) = &self.follower else { return true };
        follower.services.is_empty() || follower.services.iter().any(|service| container.has_label(LABEL_SERVICE, service))
    }

    /// Does something to a container. A client that shows its output gets that of its hooks meanwhile.
    async fn with_hooks_shown<T>(&self, container: &Container, work: impl Future<Output = T>) -> T {
        let Some(output) = self.progress.output().filter(|_| self.hook_output && self.is_shown(container)) else {
            return work.await;
        };
        let (sender, mut pieces) = mpsc::channel(4);
        locked(&container.live).hook_output = Some(sender);
        let (name, service) = (container.name(), container.with_record(|r| r.spec.labels.get(LABEL_SERVICE).cloned()));
        let line = |text: &[u8]| Progress::HookOutput {
            container: name.clone(),
            service: service.clone().unwrap_or_default(),
            line: String::from_utf8_lossy(text).into_owned(),
        };
        let passing = async move {
            let mut unfinished = [Vec::new(), Vec::new()];
            while let Some((stream, piece)) = pieces.recv().await {
                let unfinished: &mut Vec<u8> = &mut unfinished[usize::from(stream == 2)];
                unfinished.extend(piece);
                while let Some(end) = end_of_line(unfinished) {
                    let rest = unfinished.split_off(end + 1);
                    let whole = std::mem::replace(unfinished, rest);
                    // Nobody reads any more when this fails; then nobody takes pieces either.
                    if output.send(line(whole.strip_suffix(b"\n").unwrap_or(&whole))).await.is_err() {
                        return;
                    }
                }
            }
            for last in unfinished.iter().filter(|last| !last.is_empty()) {
                let _ = output.send(line(last)).await;
            }
        };
        let working = async {
            let done = work.await;
            locked(&container.live).hook_output = None;
            done
        };
        tokio::join!(working, passing).0
    }

    /// The labels of a network or a volume, by which another `up` finds it and tells whether its definition has changed.
    fn labels(&self, key: &str, name: &str, hash: String) -> IndexMap<String, String> {
        [
            (crate::labels::LABEL_PROJECT.to_string(), self.project.name.clone()),
            (key.to_string(), name.to_string()),
            ("com.docker.compose.version".to_string(), env!("CARGO_PKG_VERSION").to_string()),
            (crate::labels::LABEL_HASH.to_string(), hash),
        ]
        .into()
    }
}

/// Where the first line ends, or what is shown as one.
fn end_of_line(text: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', text).or((text.len() > LONGEST_LINE).then_some(LONGEST_LINE))
}

pub(super) async fn perform(context: &StepContext, operation: &Operation) -> Result<(), EngineError> {
    let engine = &context.engine;
    let object = operation.object();
    match operation {
        Operation::CreateNetwork { key } => create_network(context, key).await?,
        Operation::CreateVolume { key } => create_volume(context, key)?,
        Operation::PullImage { image } => pull_image(context, &object, image).await?,
        Operation::CreateContainer { service, number, name } => {
            context.step(&object, "Creating", false);
            let spec = service_spec(context, service, *number)?;
            engine.create(name, spec)?;
            context.step(&object, "Created", true);
        }
        Operation::UpdateContainer { service, number, name, replaces, monitor, delay, .. } => {
            let (number, monitor, delay) = (*number, Duration::from_nanos(*monitor), Duration::from_nanos(*delay));
            update(context, &object, &Update { service, number, name, replaces, monitor, delay }).await?;
        }
        Operation::NextUpdate { service, delay, .. } => {
            may_go_on(context, &object, service, Duration::from_nanos(*delay)).await?;
        }
        Operation::WatchContainer { name, monitor, .. } => {
            watch(context, &object, &engine.containers.find(name)?, Duration::from_nanos(*monitor)).await?;
        }
        Operation::RecreateContainer { service, number, name, replaces } => {
            context.step(&object, "Recreate", false);
            recreate(context, service, *number, name, &engine.containers.find(replaces)?).await?;
            context.step(&object, "Recreated", true);
        }
        Operation::PreStart { name, per_replica, .. } => {
            context.step(&object, "Preparing", false);
            let container = engine.containers.find(name)?;
            engine.pre_start(&container, *per_replica, superseded(context, &object)).await?;
            context.step(&object, "Prepared", true);
        }
        Operation::StartContainer { name, .. } => start_container(context, &object, name).await?,
        Operation::Await { service, condition, dependent, required } => {
            let awaited =
                AwaitedCondition { service, condition: *condition, dependent: dependent.as_deref(), required: *required };
            await_condition(context, &awaited).await?;
        }
        Operation::StopContainer { id, .. }
        | Operation::RestartContainer { id, .. }
        | Operation::KillContainer { id, .. }
        | Operation::PauseContainer { id, .. }
        | Operation::UnpauseContainer { id, .. }
        | Operation::RemoveContainer { id, .. } => match engine.containers.find(id) {
            Ok(container) => change(context, operation, &object, &container).await?,
            // Somebody else has removed it.
            Err(EngineError::NoSuch { .. }) if !matches!(operation, Operation::RestartContainer { .. }) => {}
            Err(error) => return Err(error),
        },
        Operation::RemoveNetwork { name, unless_used } => {
            let (engine, name) = (engine.clone(), name.clone());
            let removal = tokio::task::spawn_blocking(move || engine.networks.remove(&name));
            let removal = async { removal.await.map_err(EngineError::from)? };
            removed(context, &object, *unless_used, removal).await?;
        }
        Operation::RemoveVolume { name, unless_used } => {
            removed(context, &object, *unless_used, async { engine.volumes.remove(name) }).await?;
        }
        Operation::RegisterJob { job, .. } => {
            context.step(&object, "Registering", false);
            engine.register_job(&context.project, job, &context.origin)?;
            context.step(&object, "Registered", true);
        }
        Operation::DeregisterJob { job } => {
            context.step(&object, "Removing", false);
            engine.deregister_job(&context.project.name, job)?;
            context.step(&object, "Removed", true);
        }
        Operation::RemoveImage { image } => {
            removed(context, &object, true, async { engine.images.remove(image, false).map(drop) }).await?
        }
    }
    Ok(())
}

async fn pull_image(context: &StepContext, object: &str, image: &str) -> Result<(), EngineError> {
    context.step(object, "Pulling", false);
    tokio::select! {
        pulled = context.engine.images.pull(image, context.progress.plain()) => pulled?,
        () = context.progress.closed() => return Err(EngineError::Cancelled),
    }
    context.step(object, "Pulled", true);
    Ok(())
}

async fn start_container(context: &StepContext, object: &str, name: &str) -> Result<(), EngineError> {
    context.step(object, "Starting", false);
    let container = context.engine.containers.find(name)?;
    context.expect_follower(&container);
    let started = context.with_hooks_shown(&container, context.engine.start(&container));
    or_broken_off(context, object, &container, started).await?;
    context.step(object, "Started", true);
    Ok(())
}

/// Removes a network, a volume or an image. One that is in use may stay, and one that is gone is no failure.
async fn removed(
    context: &StepContext,
    object: &str,
    unless_used: bool,
    removal: impl Future<Output = Result<(), EngineError>>,
) -> Result<(), EngineError> {
    context.step(object, "Removing", false);
    match removal.await {
        Err(EngineError::Conflict(why)) if unless_used => {
            context.progress.send(Progress::Warning(format!("{object}: {why}")));
            context.step(object, "Resource is still in use", true);
        }
        Err(EngineError::NoSuch { .. }) | Ok(()) => context.step(object, "Removed", true),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Does something to a container that exists.
async fn change(
    context: &StepContext,
    operation: &Operation,
    object: &str,
    container: &Arc<Container>,
) -> Result<(), EngineError> {
    let engine = &context.engine;
    // That of an earlier stop, which nobody has asked for.
    drop(container.take_pre_stop_failure());
    match operation {
        Operation::StopContainer { .. } => {
            context.step(object, "Stopping", false);
            context.with_hooks_shown(container, engine.stop(container, context.timeout, None)).await?;
            context.step(object, "Stopped", true);
        }
        Operation::RestartContainer { .. } => {
            context.step(object, "Restarting", false);
            context.expect_follower(container);
            or_broken_off(context, object, container, engine.restart(container, context.timeout, None)).await?;
            context.step(object, "Started", true);
        }
        Operation::KillContainer { signal, .. } => {
            context.step(object, "Killing", false);
            let number = crate::engine::containers::signals::parse_signal(signal)
                .ok_or_else(|| EngineError::Invalid(format!("Invalid signal: {signal}")))?;
            match engine.kill(container, number).await {
                // It has ended by itself just now.
                Ok(()) | Err(EngineError::NotRunning { .. }) => context.step(object, "Killed", true),
                Err(error) => return Err(error),
            }
        }
        Operation::PauseContainer { .. } => {
            engine.containers.pause(container, true).await?;
            context.step(object, "Paused", true);
        }
        Operation::UnpauseContainer { .. } => {
            engine.containers.pause(container, false).await?;
            context.step(object, "Unpaused", true);
        }
        Operation::RemoveContainer { stop: true, volumes, .. } => {
            let alive = container.status().is_alive();
            context.step(object, if alive { "Stopping" } else { "Removing" }, false);
            engine.stop_and_remove(container, context.timeout, *volumes, context.leaves).await?;
            if alive {
                context.step(object, "Stopped", false);
                context.step(object, "Removing", false);
            }
            context.step(object, "Removed", true);
        }
        Operation::RemoveContainer { volumes, .. } => {
            context.step(object, "Removing", false);
            engine.remove(container, false, *volumes).await?;
            context.step(object, "Removed", true);
        }
        _ => {}
    }
    // The container is stopped in any case, and what comes after goes on; the command fails.
    if let Some(message) = container.take_pre_stop_failure() {
        context.progress.send(Progress::Error { object: object.into(), message });
    }
    Ok(())
}

/// Refuses networks and volumes of a plan that cannot be made, before anything is stopped or removed for them.
pub(super) fn check_resources(engine: &Engine, project: &Project, plan: &Plan) -> Result<(), EngineError> {
    let operations = || plan.graph.node_weights().map(|step| &step.operation);
    let going: Vec<&str> = operations()
        .filter_map(|operation| if let Operation::RemoveNetwork { name, .. } = operation { Some(name.as_str()) } else { None })
        .collect();
    for operation in operations() {
        match operation {
            Operation::CreateNetwork { key } => engine.networks.check(&new_network(&project.networks[key]), &going)?,
            Operation::CreateVolume { key } => engine.volumes.check(&new_volume(key, &project.volumes[key])?)?,
            _ => {}
        }
    }
    for (service, path) in docker_sockets(project, plan) {
        if let Some(why) = engine.config.refusal_of_bind(path) {
            return Err(EngineError::Invalid(format!("services.{service}: {why}")));
        }
    }
    Ok(())
}

/// Services of which a container is made that binds Docker's socket, and its path.
fn docker_sockets<'a>(project: &'a Project, plan: &'a Plan) -> impl Iterator<Item = (&'a str, &'a str)> {
    let made = |operation: &'a Operation| match operation {
        Operation::CreateContainer { service, .. }
        | Operation::RecreateContainer { service, .. }
        | Operation::UpdateContainer { service, .. } => Some(service.as_str()),
        _ => None,
    };
    let services: std::collections::BTreeSet<&str> = plan.graph.node_weights().filter_map(|step| made(&step.operation)).collect();
    services.into_iter().filter_map(|name| {
        let binds = project.services.get(name)?.volumes.iter().filter(|volume| volume.kind == VolumeKind::Bind);
        let path = binds.filter_map(|bind| bind.source.as_deref()).find(|path| is_docker_socket(path))?;
        Some((name, path))
    })
}

/// Says which new containers get the engine's socket in the place of Docker's: who has it is root.
pub(super) fn tell_of_lent_socket(engine: &Engine, project: &Project, plan: &Plan, progress: &ProgressSender) {
    let lent = docker_sockets(project, plan).filter(|(_, path)| engine.config.is_lent(path));
    let names: Vec<&str> = lent.map(|(service, _)| service).collect();
    if !names.is_empty() {
        progress.send(Progress::Warning(format!(
            "{}: the socket of Docker that is mounted is wharf's own, since this host has no Docker; who uses it is root here (`wharf engine --no-docker-socket` switches this off)",
            names.join(", ")
        )));
    }
}

/// A network as the file has it, without labels of ours.
fn new_network(network: &Network) -> NewNetwork {
    NewNetwork {
        of_builds: false,
        name: network.name.clone(),
        pools: network.ipam.config.iter().map(convert::pool).collect(),
        ipv4: network.enable_ipv4.unwrap_or(true),
        ipv6: network.enable_ipv6.unwrap_or(false),
        internal: network.internal,
        attachable: network.attachable,
        labels: network.labels.clone(),
        driver: network.driver.clone().unwrap_or_default(),
        options: network.driver_opts.clone(),
    }
}

async fn create_network(context: &StepContext, key: &str) -> Result<(), EngineError> {
    let network = &context.project.networks[key];
    let object = format!("Network {}", network.name);
    context.step(&object, "Creating", false);
    let mut new = new_network(network);
    new.labels.extend(context.labels(crate::labels::LABEL_NETWORK, key, network_hash(network)));
    let engine = context.engine.clone();
    let made = tokio::task::spawn_blocking(move || engine.networks.create(&new)).await;
    made.map_err(EngineError::from)??;
    context.step(&object, "Created", true);
    Ok(())
}

/// A volume as the file has it, without labels of ours.
fn new_volume(key: &str, volume: &Volume) -> Result<NewVolume, EngineError> {
    if let Some(driver) = volume.driver.as_deref().filter(|d| !matches!(*d, "local" | "default" | "")) {
        return Err(EngineError::Invalid(format!("the volume {key} has the driver `{driver}`; wharf has `local`")));
    }
    let (labels, options) = (volume.labels.clone(), volume.driver_opts.clone());
    Ok(NewVolume { name: volume.name.clone(), labels, options, anonymous: false })
}

fn create_volume(context: &StepContext, key: &str) -> Result<(), EngineError> {
    let volume = &context.project.volumes[key];
    let object = format!("Volume {}", volume.name);
    context.step(&object, "Creating", false);
    let mut new = new_volume(key, volume)?;
    new.labels.extend(context.labels(crate::labels::LABEL_VOLUME, key, volume_hash(volume)));
    context.engine.volumes.create(new)?;
    context.step(&object, "Created", true);
    Ok(())
}

/// Ends when nobody should wait any longer for what may never come, such as a health check that never succeeds, since somebody
/// else needs the project.
pub(super) async fn superseded(context: &StepContext, object: &str) -> EngineError {
    let superseded = async {
        match &context.guard {
            Some(guard) => guard.superseded(&context.progress).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = superseded => {}
        () = context.progress.cancelled() => return EngineError::Cancelled,
    }
    EngineError::Conflict(format!(
        "{object} is not waited for any longer: another command for the project {} wants to go on",
        context.project.name
    ))
}

/// Waits for a container's start. One that does not come to its end, since a disk does not answer, is broken off when it is
/// cancelled, or somebody else needs the project.
pub(super) async fn or_broken_off(
    context: &StepContext,
    object: &str,
    container: &Container,
    start: impl Future<Output = Result<(), EngineError>>,
) -> Result<(), EngineError> {
    let mut start = std::pin::pin!(start);
    tokio::select! {
        started = &mut start => return started,
        _ = superseded(context, object) => {}
    }
    if let Ok(started) = tokio::time::timeout(START_MAY_TAKE, &mut start).await {
        return started;
    }
    context.engine.break_off_start(container);
    start.await
}

pub(super) fn service_spec(context: &StepContext, service: &str, number: u32) -> Result<ContainerSpec, EngineError> {
    let mut spec = context.engine.service_spec(&context.project, service, number, &context.origin)?;
    if let Some(image) = context.images.get(service) {
        spec.image.clone_from(image);
    }
    let has_platform = context.project.services.get(service).is_some_and(|service| service.platform.is_some());
    let is_first = number == 1;
    let image = if has_platform || !is_first { None } else { context.engine.images.find(&spec.image).ok() };
    let of_image = image.and_then(|(_, image)| platform_warning(&image));
    for warning in verify::warnings(&spec).into_iter().chain(of_image).filter(|_| is_first) {
        context.progress.send(Progress::Warning(format!("{service}: {warning}")));
    }
    spec.labels.insert(crate::labels::LABEL_ONEOFF.into(), "False".into());
    Ok(spec)
}

/// Makes the new container first, under a name of its own: when that fails, the old one still runs. The journal knows what it
/// replaces, so that an engine which finds it half done can end it.
async fn recreate(
    context: &StepContext,
    service: &str,
    number: u32,
    name: &str,
    old: &Arc<Container>,
) -> Result<(), EngineError> {
    let engine = &context.engine;
    let spec = service_spec(context, service, number)?;
    let temporary = format!("{}_{name}", &old.id[..12.min(old.id.len())]);
    let replacement = Replacement { id: old.id.clone(), name: name.into(), start: old.status().is_alive(), beside: None };
    let before = old.record();
    let inherit_from = Some(&before).filter(|_| !context.renew_anonymous);
    let new = engine.create_in_place(&temporary, spec, inherit_from, Some(replacement))?;
    let replaced = async {
        // What the start will find out anyway, before anything is stopped.
        engine.launch_files().make(&new.record())?;
        // Before it is touched: an engine that finds it ended must know that it was to go.
        engine.containers.change(old, |record| record.stop_requested(false))?;
        engine.stop_and_remove(old, context.timeout, false, Leaves::Log("replaced")).await
    };
    if let Err(error) = replaced.await {
        engine.containers.take_back_stop(old, before.stopped_by_user);
        let _ = engine.remove(&new, true, false).await;
        return Err(error);
    }
    engine.take_place(&new, name).await
}
