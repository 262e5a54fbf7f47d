//! Where a container's control group is: below `/wharf`, in the scope that systemd has delegated, or where its service says.

use crate::engine::error::EngineError;
use crate::engine::numbers::Numbers;
use crate::engine::process::lifecycle::WhenIdle;
use crate::engine::record::ContainerRecord;
use crate::runtime::cgroup::{Frozen, Hierarchy};
use crate::runtime::error::SetupStep;
use crate::runtime::scope::Scope;
use std::sync::Arc;
use std::time::Duration;

/// An engine's part of the control groups, where systemd wants it to have one. An engine that a command has started goes there
/// itself: in its user's session it would end with that. One that systemd has started stays in its service.
fn delegated(cgroups: &Hierarchy, name: &str, when_idle: WhenIdle) -> Option<Scope> {
    let opened = Scope::open(cgroups, name).and_then(|mut scope| {
        if let Some(scope) = scope.as_mut().filter(|_| when_idle == WhenIdle::Leave) {
            scope.enter()?;
        }
        Ok(scope)
    });
    opened.unwrap_or_else(|error| {
        tracing::warn!("systemd has delegated no control groups, so containers are in /wharf: {error}");
        None
    })
}

/// Whether a parent group is a slice of systemd's, in which nobody else makes groups.
fn is_slice(parent: &str) -> bool {
    parent.ends_with(".slice") && !parent.contains('/')
}

/// A process that was killed is gone within so many looks at its group, or never will be.
const TRIES: u32 = 400;
const PAUSE: Duration = Duration::from_millis(5);
/// Between two looks at a process that the kernel keeps.
pub(in crate::engine) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The control groups of an engine's containers.
pub(crate) struct Groups {
    pub(in crate::engine) hierarchy: Hierarchy,
    /// The part of it that systemd has delegated, where it does.
    pub(in crate::engine) scope: Option<Scope>,
    numbers: Arc<Numbers>,
}

impl Groups {
    /// Finds the hierarchy, and asks systemd for a part of it.
    ///
    /// # Errors
    /// When there is none that can be written.
    pub(in crate::engine) fn open(name: &str, when_idle: WhenIdle, numbers: Arc<Numbers>) -> Result<Self, EngineError> {
        let hierarchy = Hierarchy::find().map_err(EngineError::io("finding the control groups"))?;
        let scope = delegated(&hierarchy, name, when_idle);
        if scope.is_none() {
            hierarchy.make_parents().map_err(|failed| EngineError::Io { doing: failed.doing, source: failed.source })?;
        }
        Ok(Groups { hierarchy, scope, numbers })
    }

    /// The control group of a container that is about to start: `None` for the one that its id and its service say. With it
    /// comes the scope that it has alone, in a slice; that has to be held until the container runs.
    pub(in crate::engine) fn choose(&self, record: &ContainerRecord) -> Result<(Option<String>, Option<Scope>), EngineError> {
        let (Some(shared), Hierarchy::V2(point)) = (&self.scope, &self.hierarchy) else { return Ok((None, None)) };
        match record.spec.cgroup_parent.as_deref().map(|parent| parent.trim_matches('/')) {
            None => Ok((Some(shared.group_of(&record.id)), None)),
            Some(slice) if is_slice(slice) => {
                // An earlier one of the same container may not have ended yet.
                let turn = self.numbers.next();
                let unit = format!("wharf-{}-{turn:x}.scope", &record.id[..12]);
                let own = Scope::request(point, slice, &unit).map_err(|error| EngineError::Start {
                    name: record.name.clone(),
                    message: error.to_string(),
                    step: SetupStep::ControlGroup,
                })?;
                Ok((Some(own.group_of(&record.id)), Some(own)))
            }
            Some(_) => Ok((None, None)),
        }
    }

    /// Where a container's group may be of which nobody knows that.
    pub(in crate::engine) fn strays(&self, id: &str) -> impl Iterator<Item = String> + use<> {
        [Some(id.to_string()), self.scope.as_ref().map(|scope| scope.group_of(id))].into_iter().flatten()
    }

    /// Ends and removes what is left of a container that nobody knows any more; `false` where the kernel keeps one of its processes.
    pub(in crate::engine) fn remove_strays(&self, id: &str) -> bool {
        let is_left = |group: &String| {
            if self.hierarchy.remove(group) {
                return false;
            }
            self.kill_frozen(group);
            (0..TRIES).all(|_| {
                self.hierarchy.kill(group);
                std::thread::sleep(PAUSE);
                !self.hierarchy.remove(group)
            })
        };
        // Each of them, whether or not one is left.
        self.strays(id).filter(is_left).count() == 0
    }

    /// A frozen process does not die before it is thawed, and does nothing else then.
    fn kill_frozen(&self, group: &str) {
        self.hierarchy.kill(group);
        let _ = self.hierarchy.set_frozen(group, Frozen::No);
    }

    /// Kills what is left in a container's group, and removes that: a process that was killed takes a moment to be gone.
    pub(in crate::engine) async fn end(&self, group: &str) {
        if self.hierarchy.remove(group) {
            return;
        }
        self.kill_frozen(group);
        for _ in 0..TRIES {
            self.hierarchy.kill(group);
            tokio::time::sleep(PAUSE).await;
            if self.hierarchy.remove(group) {
                return;
            }
        }
        tracing::warn!("the control group {group} still has processes, though they were killed");
    }

    /// Waits until a group is gone whose processes were killed, however long the kernel keeps one of them.
    pub(in crate::engine) async fn end_at_last(&self, group: &str) {
        while !self.end_once(group) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Removes a group, or kills what is in it; whether it is gone.
    pub(in crate::engine) fn end_once(&self, group: &str) -> bool {
        let gone = self.hierarchy.remove(group);
        if !gone {
            self.hierarchy.kill(group);
        }
        gone
    }
}
