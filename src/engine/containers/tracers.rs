//! Containers that could trace another one while it is set up among their processes.
//!
//! Who joins a pid namespace sets itself up in it, with every capability and with descriptors of the host: it has to, since procfs
//! is mounted from within. A container there with SYS_PTRACE would take both. It does not run meanwhile.

use super::Container;
use super::registry::Containers;
use crate::engine::error::EngineError;
use crate::engine::record::{ContainerRecord, Status};
use crate::runtime::cgroup::{Frozen, Hierarchy};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The kernel freezes processes at once, but for one that waits for a disk.
const FREEZING_MAY_TAKE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Containers that are frozen until this is dropped.
pub(in crate::engine) struct Still {
    hierarchy: Hierarchy,
    containers: Vec<Arc<Container>>,
}

impl Drop for Still {
    fn drop(&mut self) {
        for container in self.containers.iter().filter(|container| container.status() != Status::Paused) {
            let _ = self.hierarchy.set_frozen(&container.group(), Frozen::No);
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
    /// Freezes the containers that could trace a container while it joins the pid namespace that they are in.
    ///
    /// # Errors
    /// When one cannot be frozen.
    pub(in crate::engine) async fn hold_tracers(
        &self,
        record: &ContainerRecord,
        hierarchy: &Hierarchy,
    ) -> Result<Option<Still>, EngineError> {
        let Some(id) = record.spec.pid.container() else { return Ok(None) };
        let owner = self.find(id)?;
        let namespace = |container: &Container| pid_namespace(container.with_record(|record| record.state.pid));
        let joined = namespace(&owner);
        let is_tracer = |other: &Arc<Container>| {
            other.id != record.id
                && other.status() == Status::Running
                && other.with_record(ContainerRecord::may_trace)
                && namespace(other) == joined
        };
        let containers: Vec<_> = self.all().into_iter().filter(is_tracer).collect();
        let still = Still { hierarchy: hierarchy.clone(), containers };
        let failed = |container: &Container, why: String| EngineError::Start {
            name: record.name.clone(),
            message: format!(
                "the processes of {}, which may trace it (SYS_PTRACE), cannot be paused meanwhile: {why}",
                container.name()
            ),
            code: 128,
        };
        for container in &still.containers {
            hierarchy.set_frozen(&container.group(), Frozen::Yes).map_err(|e| failed(container, e.to_string()))?;
            let begun = Instant::now();
            while !hierarchy.is_frozen(&container.group()) && container.status().is_alive() {
                if begun.elapsed() > FREEZING_MAY_TAKE {
                    return Err(failed(container, "one of them waits for a disk".into()));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Ok(Some(still))
    }
}

fn pid_namespace(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}
