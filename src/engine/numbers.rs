//! Numbers that no earlier engine has given out.

use nix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Numbers of execs, interfaces and scopes. The first is the nanoseconds since the machine's start: no earlier engine, whose
/// execs may still run, can have come so far.
pub(super) struct Numbers(AtomicU64);

impl Default for Numbers {
    fn default() -> Self {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
        Numbers(AtomicU64::new(now.as_nanos() as u64))
    }
}

impl Numbers {
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}
