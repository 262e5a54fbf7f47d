//! The end that a start may be brought to before its program runs.

use std::sync::{Arc, Weak};
use tokio::sync::watch;

/// A container's start, which lasts as long as this: whether it was broken off.
#[derive(Clone)]
pub(super) struct Setup(Arc<watch::Sender<bool>>);

/// The start of a container, for whoever may break it off.
#[derive(Default)]
pub(in crate::engine) struct Breakable(Weak<watch::Sender<bool>>);

impl Setup {
    pub fn new() -> Self {
        Setup(Arc::new(watch::Sender::new(false)))
    }

    pub fn breakable(&self) -> Breakable {
        Breakable(Arc::downgrade(&self.0))
    }

    /// Spawns the monitor, unless the start was broken off; who breaks it off meanwhile waits for that.
    pub fn unless_broken_off<T>(&self, spawn: impl FnOnce() -> T) -> Option<T> {
        let broken_off = self.0.borrow();
        (!*broken_off).then(spawn)
    }

    /// Waits until the start is broken off.
    pub async fn broken_off(&self) {
        // The sender lives as long as this.
        let _ = self.0.subscribe().wait_for(|broken_off| *broken_off).await;
    }
}

impl Breakable {
    /// Whether there is a start, which is broken off by this.
    pub(super) fn break_off(&self) -> bool {
        self.0.upgrade().map(|start| start.send_replace(true)).is_some()
    }
}
