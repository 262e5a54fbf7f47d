//! Ending what an earlier engine has left half done: restarts and recreations of containers.

use super::queue::Change;
use super::update::{Ending, ending};
use crate::engine::containers::incarnations::Leaves;
use crate::engine::containers::registry::Containers;
use crate::engine::error::EngineError;
use crate::engine::record::{Beside, Replacement};
use crate::engine::recovery::RecordKind;
use crate::engine::{Container, Engine};
use crate::labels::LABEL_PROJECT;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc::unbounded_channel;

/// What an engine has begun and died in.
enum HalfDone {
    Stop(Arc<Container>),
    /// Of the container that replaces another, or has and is not started yet.
    Replacement(Arc<Container>),
}

impl Engine {
    /// Does what the engine does to a project by itself, while no command changes that.
    pub(in crate::engine) async fn between_commands<T>(&self, project: &str, work: impl Future<Output = T>) -> T {
        let (progress, _listener) = unbounded_channel();
        let guard = self.projects.take(project, Change::Follow, &progress.into()).await;
        let done = work.await;
        drop(guard);
        done
    }

    /// Ends every restart that a user has begun: what was stopped for it is to run again.
    pub(in crate::engine) fn recover_restarts(self: &Arc<Self>) {
        for container in self.containers.all().into_iter().filter(|c| c.with_record(|record| record.restart_begun)) {
            let engine = self.clone();
            tokio::spawn(async move {
                let ended = async {
                    let guard = container.begin_operation().await?;
                    // Somebody may have stopped it meanwhile.
                    if !container.with_record(|record| record.restart_begun) {
                        return Ok(());
                    }
                    let begun = container.with_record(|record| record.stop_begun).unwrap_or_default();
                    engine.restart_locked_by(&container, &guard, begun.timeout, begun.signal).await
                };
                if let Err(error) = ended.await {
                    tracing::error!("ending the restart of {}: {error}", container.name());
                }
            });
        }
    }

    /// Ends every stop and every recreation that the journal has begun; with `remove` off, recreations for which nothing has to be
    /// removed. The projects' locks are held when this returns, so that a command which comes next plans by the end of it; the
    /// rest, which may have to wait for a container to stop, is done beside that.
    pub(in crate::engine) async fn recover_stops_and_replacements(self: &Arc<Self>, remove: bool) {
        let mut half_done: HashMap<String, Vec<HalfDone>> = HashMap::new();
        for container in self.containers.all() {
            let (replacement, start_owed) = container.with_record(|record| (record.replaces.clone(), record.start_owed));
            // What is not understood may be the old one.
            let old = replacement.as_ref().map(|replacement| &replacement.id);
            let removes = old
                .is_some_and(|id| self.containers.contains(id) || self.state.find_unknown(RecordKind::Container, id).is_some());
            let replaces = (replacement.is_some() || start_owed) && (remove || !removes);
            let stops = container.with_record(|record| record.stop_begun.filter(|_| !record.restart_begun)).is_some();
            let project = container.with_record(|record| record.spec.labels.get(LABEL_PROJECT).cloned());
            let half_done = || half_done.entry(project.unwrap_or_default()).or_default();
            match (stops, replaces) {
                (false, false) => {}
                (true, false) => half_done().push(HalfDone::Stop(container)),
                (false, true) => half_done().push(HalfDone::Replacement(container)),
                (true, true) => half_done().extend([HalfDone::Stop(container.clone()), HalfDone::Replacement(container)]),
            }
        }
        if remove {
            for project in self.projects_with_rollbacks() {
                half_done.entry(project).or_default();
            }
        }
        // Progress goes nowhere: there is no client yet.
        let (progress, _nobody) = unbounded_channel();
        let progress = progress.into();
        for (project, changes) in half_done {
            let Ok(guard) = self.projects.take(&project, Change::Recovery, &progress).await else { continue };
            let engine = self.clone();
            tokio::spawn(async move {
                let ends = changes.iter().map(async |change| match change {
                    HalfDone::Stop(container) => (engine.end_stop(container).await, "stop"),
                    HalfDone::Replacement(new) => (engine.end_replacement_of(new).await, "recreation"),
                });
                for (result, what) in futures::future::join_all(ends).await {
                    if let Err(error) = result {
                        tracing::error!("ending a {what} in the project {project}: {error}");
                    }
                }
                if remove {
                    engine.recover_rollbacks(&project).await;
                }
                drop(guard);
            });
        }
    }

    /// Ends a stop, from its signal on.
    async fn end_stop(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), EngineError> {
        let Ok(_guard) = container.begin_operation().await else { return Ok(()) };
        // Somebody may have started it meanwhile.
        match container.with_record(|record| record.stop_begun.filter(|_| !record.restart_begun)) {
            Some(stop) => self.stop_for_good(container, stop).await,
            None => Ok(()),
        }
    }

    async fn end_replacement_of(self: &Arc<Self>, new: &Arc<Container>) -> Result<(), EngineError> {
        match new.with_record(|record| record.replaces.clone()) {
            Some(replacement) => self.end_replacement(new, &replacement).await,
            None => self.start_pending(new).await,
        }
    }

    /// Undoes a recreation or an update, or finishes it, as [`ending`] says.
    async fn end_replacement(self: &Arc<Self>, new: &Arc<Container>, replacement: &Replacement) -> Result<(), EngineError> {
        let old = self.containers.find(&replacement.id).ok();
        let touched = old.as_ref().map(|old| old.with_record(|record| record.stopped_by_user));
        match (ending(replacement, touched), old) {
            (Ending::Undo, _) => {
                return self.stop_and_remove(new, Some(0), false, Leaves::Log("its update was broken off")).await;
            }
            (Ending::Finish, Some(old)) if replacement.beside.is_some() => {
                self.retire(new, &old, &replacement.name, None).await?
            }
            (Ending::Finish, old) => {
                if let Some(old) = old {
                    self.stop_and_remove(&old, None, false, Leaves::Log("replaced")).await?;
                }
                self.take_place(new, &replacement.name).await?;
            }
        }
        // Nobody was there any more to take the ports over from.
        if replacement.beside == Some(Beside::Waiting) && new.status().has_process() {
            self.networks.publish(new, &self.networks.endpoints_of(&new.record()))?;
        }
        self.start_pending(new).await
    }

    /// Starts a container that has taken the place of one that ran, once: one that cannot be started is not tried again.
    async fn start_pending(self: &Arc<Self>, new: &Arc<Container>) -> Result<(), EngineError> {
        if !new.with_record(|record| record.start_owed) {
            return Ok(());
        }
        let started = self.start(new).await;
        started.inspect_err(|_| self.containers.clear_pending_start(new))
    }

    /// Gives a new container the name of the one that it replaces, which is gone. Where that ran, its start is owed from then on:
    /// hooks and health checks of others may come first.
    pub(super) async fn take_place(&self, new: &Container, name: &str) -> Result<(), EngineError> {
        let _guard = new.begin_operation().await?;
        // It goes on with the addresses that it has.
        if let Err(error) = self.networks.hand_over(new).await {
            tracing::warn!("giving {} the addresses of {name}: {error}", new.name());
        }
        self.rename(new, name, |record| {
            let ran = record.replaces.take().is_some_and(|replaced| replaced.start);
            record.start_owed = ran && !record.state.status().is_alive();
        })
    }
}

impl Containers {
    /// Whoever was to start it has, or has failed.
    pub(super) fn clear_pending_start(&self, container: &Container) {
        if container.with_record(|record| record.start_owed) {
            self.update(container, |record| record.start_owed = false);
        }
    }
}
