//! Containers that could trace another one while it is set up among their processes.
//!
//! Who joins a pid namespace sets itself up in it, with every capability and with descriptors of the host: it has to, since procfs
//! is mounted from within. A container there with SYS_PTRACE would take both. It does not run meanwhile.

use super::registry::Containers;
use super::{Container, START_MAY_TAKE};
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::launch::control_groups;
use crate::engine::record::{ContainerRecord, Status};
use crate::runtime::cgroup::{Frozen, Hierarchy};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedMutexGuard;

/// The kernel freezes processes at once, but for one that waits for a disk.
const FREEZING_MAY_TAKE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Containers that are frozen until this is dropped, and their pid namespace, which nobody else joins meanwhile.
pub(in crate::engine) struct FrozenTracers {
    hierarchy: Hierarchy,
    /// Nobody thaws one whose freezer is held.
    containers: Vec<(Arc<Container>, OwnedMutexGuard<()>)>,
    _namespace: OwnedMutexGuard<()>,
}

impl Drop for FrozenTracers {
    fn drop(&mut self) {
        for (container, _freezer) in &self.containers {
            if container.status() != Status::Paused {
                let _ = self.hierarchy.set_frozen(&container.group(), Frozen::No);
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
    /// Waits until no other container joins a pid namespace.
    async fn join_namespace(&self, namespace: &Path) -> OwnedMutexGuard<()> {
        self.joining.take(&namespace.to_string_lossy()).await
    }

    /// Freezes the containers that could trace a container while it joins the pid namespace that they are in. None starts in it
    /// or is thawed until then.
    ///
    /// # Errors
    /// When one cannot be frozen.
    pub(in crate::engine) async fn freeze_tracers(
        &self,
        record: &ContainerRecord,
        hierarchy: &Hierarchy,
    ) -> Result<Option<FrozenTracers>, EngineError> {
        let Some(id) = record.spec.pid.container() else { return Ok(None) };
        let owner = self.find(id)?;
        let Some(joined) = pid_namespace(&owner) else { return Ok(None) };
        let too_long = |what: &str| EngineError::Start {
            name: record.name.clone(),
            message: format!("{what} for more than {} s: look for a disk that does not answer", START_MAY_TAKE.as_secs()),
            code: 128,
        };
        let guard = tokio::time::timeout(START_MAY_TAKE, self.join_namespace(&joined)).await;
        let guard = guard.map_err(|_| too_long("another container joins the same processes"))?;
        let mut frozen = FrozenTracers { hierarchy: hierarchy.clone(), containers: Vec::new(), _namespace: guard };
        for container in self.all() {
            if container.id == record.id
                || !container.with_record(ContainerRecord::may_trace)
                || pid_namespace(&container).is_none_or(|own| own != joined)
            {
                continue;
            }
            let freezer = tokio::time::timeout(START_MAY_TAKE, container.freezer.clone().lock_owned()).await;
            let freezer = freezer.map_err(|_| too_long("one that may trace it is being paused"))?;
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

impl Engine {
    /// Lets the containers go on that may trace one whose start has failed, once its processes are gone: the kernel may keep one
    /// of these for a disk that does not answer.
    pub(super) async fn thaw_without(self: &Arc<Self>, container: &Arc<Container>, frozen: FrozenTracers) {
        let group = container.group();
        self.launcher.groups.end(&group).await;
        if !self.launcher.groups.hierarchy.exists(&group) {
            return;
        }
        tracing::warn!(
            "a process of {} cannot be ended: containers that may trace it stay paused until it is gone",
            container.name()
        );
        let (engine, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            engine.end_leftover(&container).await;
            drop(frozen);
        });
    }

    /// Lets the containers go on that the last engine has frozen, once no process that they would see is one of a container that was
    /// being set up: of none that runs.
    pub(in crate::engine) async fn thaw_tracers(self: &Arc<Self>) {
        let hierarchy = &self.launcher.groups.hierarchy;
        let is_frozen = |container: &Arc<Container>| {
            container.status() == Status::Running
                && container.with_record(ContainerRecord::may_trace)
                && hierarchy.is_frozen(&container.group())
        };
        let mut frozen: HashMap<PathBuf, Vec<Arc<Container>>> = HashMap::new();
        for container in self.containers.all().into_iter().filter(is_frozen) {
            frozen.entry(pid_namespace(&container).unwrap_or_default()).or_default().push(container);
        }
        for (namespace, tracers) in frozen {
            let guard = self.containers.join_namespace(&namespace).await;
            let engine = self.clone();
            tokio::spawn(async move {
                let _guard = guard;
                while engine.has_strangers(&namespace) {
                    tokio::time::sleep(control_groups::LOOK_AGAIN).await;
                }
                for tracer in tracers.iter().filter(|tracer| tracer.status() == Status::Running) {
                    let _ = engine.launcher.groups.hierarchy.set_frozen(&tracer.group(), Frozen::No);
                }
            });
        }
    }

    /// Whether a process of a pid namespace is in the control group of no container that runs.
    fn has_strangers(&self, namespace: &Path) -> bool {
        let running = self.containers.all().into_iter().filter(|container| container.status().has_process());
        let groups: Vec<String> = running.map(|container| container.group()).collect();
        let is_stranger = |process: PathBuf| {
            fs::read_link(process.join("ns/pid")).is_ok_and(|own| own == namespace)
                && fs::read_to_string(process.join("cgroup")).is_ok_and(|text| !groups.iter().any(|group| text.contains(group)))
        };
        fs::read_dir("/proc").into_iter().flatten().flatten().any(|process| is_stranger(process.path()))
    }
}

async fn freeze(container: &Container, hierarchy: &Hierarchy) -> Result<(), String> {
    hierarchy.set_frozen(&container.group(), Frozen::Yes).map_err(|error| error.to_string())?;
    let begun = Instant::now();
    while !hierarchy.is_frozen(&container.group()) && container.status().is_alive() {
        if begun.elapsed() > FREEZING_MAY_TAKE {
            return Err("one of them waits for a disk".into());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// The pid namespace of a container's first process; `None` where it has none.
fn pid_namespace(container: &Container) -> Option<PathBuf> {
    let pid = container.with_record(|record| record.state.pid);
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}
