//! What each operation of a plan does, and how all of them are done: as soon as those before them are.

use super::{Context, Progress, is_one_off};
use crate::compose::model::Condition;
use crate::engine::Container;
use crate::engine::error::EngineError;
use crate::engine::networks::NewNetwork;
use crate::engine::projects::convert;
use crate::engine::record::{ContainerRecord, ContainerSpec, HealthStatus, Replacement, Status};
use crate::engine::volumes::NewVolume;
use crate::plan::{Operation, Plan};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use indexmap::IndexMap;
use petgraph::Direction;
use petgraph::graph::NodeIndex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Runs every step as soon as those before it are done. A step that fails takes those that depend on it along; the others go on.
pub(super) async fn execute(context: Arc<Context>, plan: Plan) -> Result<(), EngineError> {
    let graph = &plan.graph;
    let mut waiting: HashMap<NodeIndex, usize> =
        graph.node_indices().map(|n| (n, graph.neighbors_directed(n, Direction::Incoming).count())).collect();
    let mut running: FuturesUnordered<BoxFuture<'_, (NodeIndex, Result<(), EngineError>)>> = FuturesUnordered::new();
    let mut failed: HashSet<NodeIndex> = HashSet::new();
    let mut errors = Vec::new();
    // A container is created and started: what is skipped of it is said once, and not at all below its own error.
    let mut told: HashSet<String> = HashSet::new();
    let launch = |node: NodeIndex, running: &mut FuturesUnordered<BoxFuture<'_, _>>| {
        let (context, operation) = (context.clone(), graph[node].operation.clone());
        // A task of its own, so that steps run on every processor; it ends even when the client goes away half-way.
        let task = tokio::spawn(async move { perform(&context, &operation).await });
        running.push(Box::pin(async move {
            (node, task.await.unwrap_or_else(|e| Err(EngineError::Invalid(format!("a step of the plan panicked: {e}")))))
        }));
    };
    for node in graph.node_indices().filter(|n| waiting[n] == 0) {
        launch(node, &mut running);
    }
    while let Some((node, result)) = running.next().await {
        let mut done = vec![node];
        if let Err(error) = result {
            failed.insert(node);
            let object = object_of(&graph[node].operation);
            let _ = context.progress.send(Progress::Error { object: object.clone(), message: error.to_string() });
            told.insert(object);
            errors.push(error.to_string());
        }
        while let Some(node) = done.pop() {
            for next in graph.neighbors_directed(node, Direction::Outgoing) {
                if failed.contains(&node) && failed.insert(next) {
                    let object = object_of(&graph[next].operation);
                    if told.insert(object.clone()) {
                        let _ = context.progress.send(Progress::Step { object, status: "Skipped".into(), done: true });
                    }
                }
                let Some(count) = waiting.get_mut(&next) else { continue };
                *count -= 1;
                if *count == 0 {
                    if failed.contains(&next) { done.push(next) } else { launch(next, &mut running) }
                }
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(EngineError::Several(errors)) }
}

pub(super) fn object_of(operation: &Operation) -> String {
    match operation {
        Operation::CreateNetwork { key: name } | Operation::RemoveNetwork { name } => format!("Network {name}"),
        Operation::CreateVolume { key: name } | Operation::RemoveVolume { name } => format!("Volume {name}"),
        Operation::PullImage { image } | Operation::RemoveImage { image } => format!("Image {image}"),
        Operation::Await { service, .. } => format!("Service {service}"),
        Operation::CreateContainer { name, .. }
        | Operation::RecreateContainer { name, .. }
        | Operation::StartContainer { name, .. }
        | Operation::PreStart { name, .. }
        | Operation::RestartContainer { name, .. }
        | Operation::RemoveContainer { name, .. } => format!("Container {name}"),
    }
}

impl Context {
    pub(super) fn step(&self, object: &str, status: &str, done: bool) {
        let _ = self.progress.send(Progress::Step { object: object.into(), status: status.into(), done });
    }

    fn labels(&self, key: &str, name: &str) -> IndexMap<String, String> {
        [
            (convert::LABEL_PROJECT.to_string(), self.project.name.clone()),
            (key.to_string(), name.to_string()),
            ("com.docker.compose.version".to_string(), env!("CARGO_PKG_VERSION").to_string()),
        ]
        .into()
    }
}

pub(super) async fn perform(context: &Context, operation: &Operation) -> Result<(), EngineError> {
    let engine = &context.engine;
    let object = object_of(operation);
    match operation {
        Operation::CreateNetwork { key } => {
            let network = &context.project.networks[key];
            let object = format!("Network {}", network.name);
            context.step(&object, "Creating", false);
            let mut labels = network.labels.clone();
            labels.extend(context.labels(convert::LABEL_NETWORK, key));
            let new = NewNetwork {
                of_builds: false,
                name: network.name.clone(),
                pools: network.ipam.config.iter().map(convert::pool).collect(),
                ipv4: network.enable_ipv4.unwrap_or(true),
                ipv6: network.enable_ipv6.unwrap_or(false),
                internal: network.internal,
                labels,
                driver: network.driver.clone().unwrap_or_default(),
                options: network.driver_opts.clone(),
            };
            let engine = engine.clone();
            let made = tokio::task::spawn_blocking(move || engine.create_network(&new)).await;
            made.map_err(|e| EngineError::Invalid(e.to_string()))??;
            context.step(&object, "Created", true);
        }
        Operation::CreateVolume { key } => {
            let volume = &context.project.volumes[key];
            let object = format!("Volume \"{}\"", volume.name);
            context.step(&object, "Creating", false);
            if let Some(driver) = volume.driver.as_deref().filter(|d| !matches!(*d, "local" | "default" | "")) {
                return Err(EngineError::Invalid(format!("the volume {key} has the driver `{driver}`; wharf has `local`")));
            }
            let mut labels = volume.labels.clone();
            labels.extend(context.labels(convert::LABEL_VOLUME, key));
            let options = volume.driver_opts.clone();
            engine.create_volume(NewVolume { name: volume.name.clone(), labels, options, anonymous: false })?;
            context.step(&object, "Created", true);
        }
        Operation::PullImage { image } => {
            context.step(&object, "Pulling", false);
            engine.pull(image, context.progress.clone()).await?;
            context.step(&object, "Pulled", true);
        }
        Operation::CreateContainer { service, number, name } => {
            context.step(&object, "Creating", false);
            let spec = service_spec(context, service, *number)?;
            engine.create(name, spec)?;
            context.step(&object, "Created", true);
        }
        Operation::RecreateContainer { service, number, name, replaces, start_first } => {
            context.step(&object, "Recreate", false);
            recreate(context, service, *number, name, &engine.container(replaces)?, *start_first).await?;
            context.step(&object, "Recreated", true);
        }
        Operation::PreStart { name, per_replica, .. } => {
            context.step(&object, "Preparing", false);
            let container = engine.container(name)?;
            engine.pre_start(&container, *per_replica, superseded(context, &object)).await?;
            context.step(&object, "Prepared", true);
        }
        Operation::StartContainer { name, .. } => {
            context.step(&object, "Starting", false);
            let container = engine.container(name)?;
            engine.start(&container).await?;
            context.step(&object, "Started", true);
        }
        Operation::RestartContainer { id, .. } => {
            context.step(&object, "Restarting", false);
            engine.restart(&engine.container(id)?, context.timeout, None).await?;
            context.step(&object, "Started", true);
        }
        Operation::Await { service, condition } => {
            tokio::select! {
                result = await_condition(context, service, *condition) => result?,
                error = superseded(context, &object) => return Err(error),
            }
        }
        Operation::RemoveContainer { id, .. } => {
            let container = engine.container(id)?;
            let alive = container.status().is_alive();
            context.step(&object, if alive { "Stopping" } else { "Removing" }, false);
            engine.stop_and_remove(&container, context.timeout, context.remove_volumes).await?;
            context.step(&object, "Removed", true);
        }
        Operation::RemoveNetwork { name } => {
            context.step(&object, "Removing", false);
            let (engine, name) = (engine.clone(), name.clone());
            let removed = tokio::task::spawn_blocking(move || engine.remove_network(&name)).await;
            removed.map_err(|e| EngineError::Invalid(e.to_string()))??;
            context.step(&object, "Removed", true);
        }
        Operation::RemoveVolume { name } => {
            context.step(&object, "Removing", false);
            engine.remove_volume(name)?;
            context.step(&object, "Removed", true);
        }
        Operation::RemoveImage { image } => {
            context.step(&object, "Removing", false);
            engine.remove_image(image)?;
            context.step(&object, "Removed", true);
        }
    }
    Ok(())
}

/// Ends when nobody should wait any longer for what may never come, such as a health check that never succeeds, since somebody
/// else needs the project.
async fn superseded(context: &Context, object: &str) -> EngineError {
    context.turn.superseded(&context.progress).await;
    EngineError::Conflict(format!(
        "{object} is not waited for any longer: another command for the project {} wants to go on",
        context.project.name
    ))
}

fn service_spec(context: &Context, service: &str, number: u32) -> Result<ContainerSpec, EngineError> {
    let mut spec = context.engine.service_spec(&context.project, service, number, &context.origin)?;
    spec.labels.insert(convert::LABEL_ONEOFF.into(), "False".into());
    Ok(spec)
}

/// Makes the new container first, under a name of its own: when that fails, the old one still runs. The journal knows what it
/// replaces, so that an engine which finds it half done can end it.
async fn recreate(
    context: &Context,
    service: &str,
    number: u32,
    name: &str,
    old: &Arc<Container>,
    start_first: bool,
) -> Result<(), EngineError> {
    let engine = &context.engine;
    let spec = service_spec(context, service, number)?;
    let temporary = format!("{}_{name}", &old.id[..12.min(old.id.len())]);
    let replacement = Replacement {
        id: old.id.clone(),
        name: name.into(),
        start: old.status().is_alive(),
        renew_volumes: context.renew_anonymous,
    };
    let before = old.record();
    let inherit_from = Some(&before).filter(|_| !context.renew_anonymous);
    let new = engine.create_in_place(&temporary, spec, inherit_from, Some(replacement))?;
    let replaced = async {
        if start_first {
            engine.start(&new).await?;
        }
        // Before it is touched: an engine that finds it ended must know that it was to go.
        engine.change(old, |record| record.stop_requested(false))?;
        engine.stop_and_remove(old, context.timeout, context.renew_anonymous).await
    };
    if let Err(error) = replaced.await {
        engine.take_back_stop(old, before.stopped_by_user);
        let _ = engine.remove(&new, true, false).await;
        return Err(error);
    }
    engine.take_place(&new, name).await
}

/// Waits for every container of a service; one that cannot fulfil the condition any more is an error.
async fn await_condition(context: &Context, service: &str, condition: Condition) -> Result<(), EngineError> {
    let containers: Vec<_> = context
        .engine
        .project_containers(&context.project.name)
        .into_iter()
        .filter(|c| c.has_label(convert::LABEL_SERVICE, service) && !is_one_off(c))
        .collect();
    for container in containers {
        let object = format!("Container {}", container.name());
        let mut outcome = None;
        // Only `--wait` awaits a mere start, and it means the health check as well, where the image has one.
        let judged = |record: &ContainerRecord| match (&record.state.health, record.state.status().is_alive()) {
            (Some(_), true) if condition == Condition::ServiceStarted => judge(record, Condition::ServiceHealthy),
            _ => judge(record, condition),
        };
        if condition != Condition::ServiceStarted {
            context.step(&object, "Waiting", false);
        }
        container
            .wait_until(|record| {
                outcome = judged(record);
                outcome.is_some()
            })
            .await;
        match outcome {
            Some(Ok(status)) => context.step(&object, status, true),
            Some(Err(why)) => return Err(EngineError::Conflict(format!("{} {why}", container.name()))),
            None => return Err(EngineError::no_container(&container.name())),
        }
    }
    Ok(())
}

/// Whether a container fulfils a condition, or never will; `None`: not yet.
fn judge(record: &ContainerRecord, condition: Condition) -> Option<Result<&'static str, String>> {
    let state = &record.state;
    let ended = matches!(state.status(), Status::Exited | Status::Removing);
    let exited = || {
        format!(
            "has exited with code {}; `wharf logs {}` may tell why",
            state.exit_code,
            record.spec.labels.get(convert::LABEL_SERVICE).map_or("", String::as_str)
        )
    };
    match condition {
        Condition::ServiceStarted if ended && state.exit_code != 0 => Some(Err(exited())),
        Condition::ServiceStarted => Some(Ok("Started")),
        Condition::ServiceCompletedSuccessfully => match (ended, state.exit_code) {
            (true, 0) => Some(Ok("Exited")),
            (true, _) => Some(Err(format!("did not complete: it {}", exited()))),
            _ => None,
        },
        Condition::ServiceHealthy => match &state.health {
            _ if ended => Some(Err(format!("did not become healthy: it {}", exited()))),
            Some(health) if health.status == HealthStatus::Healthy => Some(Ok("Healthy")),
            Some(health) if health.status == HealthStatus::Unhealthy => {
                let last = health.log.last().map(|p| p.output.trim().to_string()).filter(|t| !t.is_empty());
                Some(Err(format!("is unhealthy{}", last.map(|t| format!(": its check says: {t}")).unwrap_or_default())))
            }
            Some(_) => None,
            None if state.status() == Status::Running => {
                Some(Err("has no health check, so it never becomes healthy; give it a `healthcheck`".into()))
            }
            None => None,
        },
    }
}
