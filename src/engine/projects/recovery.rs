//! Ending what an earlier engine has left half done: restarts and recreations of containers.

use super::queue::Change;
use crate::engine::convert::LABEL_PROJECT;
use crate::engine::error::EngineError;
use crate::engine::record::Replacement;
use crate::engine::{Container, Engine};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc::unbounded_channel;

impl Engine {
    /// Ends every restart that a user has begun: what was stopped for it is to run again.
    pub(in crate::engine) fn recover_restarts(self: &Arc<Self>) {
        for container in self.containers().into_iter().filter(|c| c.with_record(|record| record.restart_begun)) {
            let engine = self.clone();
            tokio::spawn(async move {
                let ended = async {
                    let turn = container.turn().await?;
                    // Somebody may have stopped it meanwhile.
                    if !container.with_record(|record| record.restart_begun) {
                        return Ok(());
                    }
                    engine.restart_in_turn(&container, &turn, None, None).await
                };
                if let Err(error) = ended.await {
                    tracing::error!("ending the restart of {}: {error}", container.name());
                }
            });
        }
    }

    /// Ends every recreation that the journal has begun. The projects have their turns taken when this returns, so that a command
    /// which comes next plans by the end of it; the rest, which may have to wait for a container to stop, is done beside that.
    pub(in crate::engine) async fn recover_replacements(self: &Arc<Self>) {
        let mut half_done: HashMap<String, Vec<(Arc<Container>, Replacement)>> = HashMap::new();
        for container in self.containers() {
            let Some(replacement) = container.with_record(|record| record.replaces.clone()) else { continue };
            let project = container.with_record(|record| record.spec.labels.get(LABEL_PROJECT).cloned());
            half_done.entry(project.unwrap_or_default()).or_default().push((container, replacement));
        }
        // Nobody is told: there is no client yet.
        let (progress, _nobody) = unbounded_channel();
        for (project, replacements) in half_done {
            let Ok(turn) = self.projects.take(&project, Change::Recovery, &progress).await else { continue };
            let engine = self.clone();
            tokio::spawn(async move {
                let ends = replacements.iter().map(|(new, replacement)| engine.end_replacement(new, replacement));
                for result in futures::future::join_all(ends).await {
                    if let Err(error) = result.map_err(|error| format!("ending a recreation in the project {project}: {error}")) {
                        tracing::error!("{error}");
                    }
                }
                drop(turn);
            });
        }
    }

    /// Undoes a recreation where nobody has touched the old container yet, and finishes it otherwise.
    async fn end_replacement(self: &Arc<Self>, new: &Arc<Container>, replacement: &Replacement) -> Result<(), EngineError> {
        match self.container(&replacement.id) {
            Ok(old) if !old.with_record(|record| record.stopped_by_user) => self.remove(new, true, false).await,
            old => {
                if let Ok(old) = old {
                    self.stop_and_remove(&old, None, replacement.renew_volumes).await?;
                }
                self.take_place(new, &replacement.name).await?;
                if replacement.start { self.start(new).await } else { Ok(()) }
            }
        }
    }

    /// Gives a new container the name of the one that it replaces, which is gone.
    pub(super) async fn take_place(&self, new: &Container, name: &str) -> Result<(), EngineError> {
        let _turn = new.turn().await?;
        self.rename(new, name, |record| record.replaces = None)
    }
}
