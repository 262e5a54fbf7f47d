//! The end that a start may be brought to before its program runs.

use crate::engine::locked;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// A container's start, for whoever may break it off.
#[derive(Clone)]
pub(in crate::engine) struct Setup(Arc<State>);

struct State {
    /// Held while the monitor is spawned: a start that was broken off spawns none.
    broken_off: Mutex<bool>,
    told: watch::Sender<bool>,
}

impl Setup {
    pub(super) fn new() -> Self {
        Setup(Arc::new(State { broken_off: Mutex::new(false), told: watch::Sender::new(false) }))
    }

    pub(super) fn break_off(&self) {
        *locked(&self.0.broken_off) = true;
        self.0.told.send_replace(true);
    }

    /// Spawns the monitor, unless the start was broken off.
    pub(super) fn unless_broken_off<T>(&self, spawn: impl FnOnce() -> T) -> Option<T> {
        let broken_off = locked(&self.0.broken_off);
        (!*broken_off).then(spawn)
    }

    /// Waits until the start is broken off.
    pub(super) async fn broken_off(&self) {
        // The sender lives as long as this.
        let _ = self.0.told.subscribe().wait_for(|told| *told).await;
    }
}
