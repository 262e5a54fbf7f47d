//! Leftovers of a run whose processes the kernel keeps for a disk that does not answer.

use crate::engine::launch::control_groups::{Groups, LOOK_AGAIN};
use crate::engine::{Container, Engine};
use crate::image::store::remove_files;
use std::sync::Arc;

impl Engine {
    /// Waits for the control groups of containers that have ended: the last engine has not seen the end of these.
    pub(in crate::engine) fn end_leftovers(self: &Arc<Self>) {
        for container in self.containers.all() {
            let group = container.group();
            if container.status().has_process() || !self.launcher.groups.hierarchy.exists(&group) {
                continue;
            }
            let engine = self.clone();
            tokio::spawn(async move { engine.launcher.groups.end_leftover(&container).await });
        }
    }

    /// Removes the run directory of a container that nobody knows any more. By it the next engine finds that there are control groups, so
    /// it stays as long as these.
    pub(in crate::engine) fn remove_run(self: &Arc<Self>, id: &str, groups: Vec<String>) {
        let directory = self.config.run_directory(id);
        if !groups.iter().any(|group| self.launcher.groups.hierarchy.exists(group)) {
            let _ = remove_files(&directory);
            return;
        }
        let engine = self.clone();
        tokio::spawn(async move {
            for group in &groups {
                engine.launcher.groups.end_at_last(group).await;
            }
            let _ = remove_files(&directory);
        });
    }
}

impl Groups {
    /// Waits until the control group of a container is gone that has ended, or until that is started again.
    pub(super) async fn end_leftover(&self, container: &Container) {
        loop {
            {
                let Ok(_guard) = container.begin_operation().await else {
                    // Removed: nobody starts it any more.
                    return self.end_at_last(&container.group()).await;
                };
                if container.status().has_process() || self.end_once(&container.group()) {
                    return;
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
