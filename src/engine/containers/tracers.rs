//! Containers that could trace another one while it is set up among their processes.
//!
//! Who joins a pid namespace sets itself up in it, with every capability and with descriptors of the host: it has to, since procfs
//! is mounted from within. A container there with SYS_PTRACE would take both. It does not run meanwhile.

use super::Container;
use super::registry::Containers;
use crate::engine::error::EngineError;
use crate::engine::record::{ContainerRecord, Status};
use crate::runtime::cgroup::{self, Hierarchy};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedMutexGuard;

/// The kernel freezes processes at once, but for one that waits for a disk.
const FREEZING_MAY_TAKE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Containers that are frozen until this is dropped, and their pid namespace, which nobody else joins meanwhile.
pub(in crate::engine) struct Frozen {
    hierarchy: Hierarchy,
    /// Nobody thaws one whose freezer is held.
    containers: Vec<(Arc<Container>, OwnedMutexGuard<()>)>,
    _namespace: OwnedMutexGuard<()>,
}

impl Frozen {
    /// Leaves them frozen: a process that they would see cannot be ended.
    pub(in crate::engine) fn stay(mut self) {
        self.containers.clear();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for (container, _freezer) in &self.containers {
            if container.status() != Status::Paused {
                let _ = self.hierarchy.set_frozen(&container.group(), cgroup::Frozen::No);
            }
        }
    }
}

impl ContainerRecord {
    /// Whether its processes may trace those of others in their pid namespace. One that is privileged needs no such way.
    pub(in crate::engine) fn may_trace(&self) -> bool {
        !self.spec.privileged && self.spec.capabilities().is_ok_and(|held| held.has("SYS_PTRACE"))
    }
}

impl Containers {
    /// Freezes the containers that could trace a container while it joins the pid namespace that they are in. None starts in it
    /// or is thawed until then.
    ///
    /// # Errors
    /// When one cannot be frozen.
    pub(in crate::engine) async fn freeze_tracers(
        &self,
        record: &ContainerRecord,
        hierarchy: &Hierarchy,
    ) -> Result<Option<Frozen>, EngineError> {
        let Some(id) = record.spec.pid.container() else { return Ok(None) };
        let owner = self.find(id)?;
        let namespace = |container: &Container| pid_namespace(container.with_record(|record| record.state.pid));
        let Some(joined) = namespace(&owner) else { return Ok(None) };
        let guard = self.joining.take(&joined.to_string_lossy()).await;
        let mut frozen = Frozen { hierarchy: hierarchy.clone(), containers: Vec::new(), _namespace: guard };
        for container in self.all() {
            if container.id == record.id
                || !container.with_record(ContainerRecord::may_trace)
                || namespace(&container).is_none_or(|own| own != joined)
            {
                continue;
            }
            let freezer = container.freezer.clone().lock_owned().await;
            frozen.containers.push((container, freezer));
        }
        for (container, _) in &frozen.containers {
            freeze(container, hierarchy).await.map_err(|why| EngineError::Start {
                name: record.name.clone(),
                message: format!(
                    "the processes of {}, which may trace it (SYS_PTRACE), cannot be paused meanwhile: {why}",
                    container.name()
                ),
                code: 128,
            })?;
        }
        Ok(Some(frozen))
    }
}

async fn freeze(container: &Container, hierarchy: &Hierarchy) -> Result<(), String> {
    hierarchy.set_frozen(&container.group(), cgroup::Frozen::Yes).map_err(|error| error.to_string())?;
    let begun = Instant::now();
    while !hierarchy.is_frozen(&container.group()) && container.status().is_alive() {
        if begun.elapsed() > FREEZING_MAY_TAKE {
            return Err("one of them waits for a disk".into());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

fn pid_namespace(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}
