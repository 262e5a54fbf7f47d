//! Containers that an engine of before 2026-11-28 has paused, and did not live to resume.
//!
//! A container that joined a pid namespace was set up in it then, with every capability and with descriptors of the host.
//! Containers there with SYS_PTRACE would have taken both, and were paused meanwhile. Since then a container is set up outside of
//! the namespace.

use super::Container;
use super::registry::Containers;
use crate::engine::Engine;
use crate::engine::launch::control_groups;
use crate::engine::record::{ContainerRecord, Status};
use crate::runtime::cgroup::Frozen;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl ContainerRecord {
    /// Whether its processes may trace those of others in their pid namespace. One that is privileged needs no such way.
    fn may_trace(&self) -> bool {
        !self.spec.privileged && self.spec.capabilities().is_ok_and(|held| held.has("SYS_PTRACE"))
    }
}

impl Engine {
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
            let engine = self.clone();
            tokio::spawn(async move {
                while engine.containers.has_strangers(&namespace) {
                    tokio::time::sleep(control_groups::LOOK_AGAIN).await;
                }
                for tracer in tracers.iter().filter(|tracer| tracer.status() == Status::Running) {
                    let _ = engine.launcher.groups.hierarchy.set_frozen(&tracer.group(), Frozen::No);
                }
            });
        }
    }
}

impl Containers {
    /// Whether a process of a pid namespace is in the control group of no container that runs.
    fn has_strangers(&self, namespace: &Path) -> bool {
        let running = self.all().into_iter().filter(|container| container.status().has_process());
        let groups: Vec<String> = running.map(|container| container.group()).collect();
        let is_stranger = |process: PathBuf| {
            fs::read_link(process.join("ns/pid")).is_ok_and(|own| own == namespace)
                && fs::read_to_string(process.join("cgroup")).is_ok_and(|text| !groups.iter().any(|group| text.contains(group)))
        };
        fs::read_dir("/proc").into_iter().flatten().flatten().any(|process| is_stranger(process.path()))
    }
}

/// The pid namespace of a container's first process; `None` where it has none.
fn pid_namespace(container: &Container) -> Option<PathBuf> {
    let pid = container.with_record(|record| record.state.pid);
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}
