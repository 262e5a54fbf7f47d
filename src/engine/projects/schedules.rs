//! Schedules: one task looks at those of jobs and of `x-update` when the next is due.

use super::image_updates::NextLooks;
use crate::engine::Engine;
use jiff::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// The wall clock may be set: it is looked at so often where there is a schedule.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// A fire that could not be noted is tried again so much later: the disk may have room by then.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Wakes the task that follows the schedules.
#[derive(Default)]
pub(in crate::engine) struct Schedules {
    changed: Notify,
    /// There was a schedule at the last look.
    follows: AtomicBool,
}

impl Schedules {
    /// What is scheduled is something else by now; `scheduled` where there is something.
    pub(in crate::engine) fn look_again(&self, scheduled: bool) {
        if scheduled || self.follows.load(Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }
}

/// The wall clock. In a debug build a test may put it forward and back: by the seconds in the file that TEST_CLOCK names.
pub(in crate::engine) fn wall_clock() -> Timestamp {
    let now = Timestamp::now();
    #[cfg(debug_assertions)]
    if let Some(path) = std::env::var_os("TEST_CLOCK") {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        return now + jiff::SignedDuration::from_secs(text.trim().parse().unwrap_or_default());
    }
    now
}

impl Engine {
    /// Follows the schedules of jobs and of `x-update`.
    pub(in crate::engine) async fn follow_schedules(self: Arc<Self>) {
        let running_since = wall_clock();
        let mut looks = NextLooks::default();
        loop {
            let mut changed = std::pin::pin!(self.schedules.changed.notified());
            changed.as_mut().enable();
            let now = wall_clock();
            let updates = self.due_updates(&mut looks, now);
            self.update_by_schedule(updates.due);
            let jobs = self.fire_due_jobs(running_since, now);
            self.schedules.follows.store(updates.any || jobs.any, Ordering::Relaxed);
            let until = |next: Timestamp| Duration::try_from(next.duration_since(wall_clock())).unwrap_or_default();
            let wait = match updates.next.into_iter().chain(jobs.next).min() {
                _ if jobs.failed => TRY_AGAIN,
                Some(next) => until(next).min(LOOK_AGAIN),
                None => {
                    changed.await;
                    continue;
                }
            };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}
