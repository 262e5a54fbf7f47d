//! Schedules: one task looks at those of jobs and of `x-update` when the next is due.

use crate::cron::Cron;
use crate::engine::Engine;
use jiff::Timestamp;
use std::collections::HashMap;
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

/// Services with `x-update`.
pub(super) struct UpdateSchedules {
    pub any: bool,
    /// Their projects and names.
    pub due: Vec<(String, String)>,
    pub next: Option<Timestamp>,
}

/// When services are looked at next, by project and service. A schedule is followed from when it is known.
pub(super) type NextLooks = HashMap<(String, String), (Cron, Option<Timestamp>)>;

/// The services that are due; `known` is brought up to date.
fn due_services(known: &mut NextLooks, schedules: Vec<(String, String, Cron)>, now: Timestamp) -> Vec<(String, String)> {
    let before = std::mem::take(known);
    let mut due = Vec::new();
    for (project, service, cron) in schedules {
        let (key, next) = ((project, service), cron.next(now));
        let expected = before.get(&key).filter(|(known, _)| *known == cron).and_then(|(_, expected)| *expected);
        if expected.is_some_and(|expected| expected <= now) {
            due.push(key.clone());
        }
        known.insert(key, (cron, next));
    }
    due
}

impl Engine {
    /// The services whose images are to be looked at. What was due while no engine ran is not made up for.
    pub(super) fn due_updates(&self, known: &mut NextLooks, now: Timestamp) -> UpdateSchedules {
        let due = due_services(known, self.update_schedules(), now);
        UpdateSchedules { any: !known.is_empty(), next: known.values().filter_map(|(_, next)| *next).min(), due }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_followed_from_when_it_is_known() {
        let at = |text: &str| text.parse::<Timestamp>().expect("time");
        let cron = |text: &str| text.parse::<Cron>().expect("schedule");
        let mut known = NextLooks::default();
        let mut look = |list: &[(&str, &str)], now: &str| {
            let schedules = list.iter().map(|(service, text)| ("p".into(), (*service).into(), cron(text))).collect();
            let due = due_services(&mut known, schedules, at(now));
            due.into_iter().map(|(_, service)| service).collect::<Vec<String>>().join(" ")
        };
        let (a, b) = (("a", "0 4 * * *"), ("b", "*/10 * * * *"));
        // Nothing is due for being new, after however long a time without schedules.
        assert_eq!(look(&[], "2026-11-26T12:00:00Z"), "");
        assert_eq!(look(&[a], "2026-11-27T12:00:00Z"), "");
        assert_eq!(look(&[a, b], "2026-11-27T12:05:01Z"), "");
        assert_eq!(look(&[a, b], "2026-11-27T12:09:59Z"), "");
        // Woken for another reason in that very second.
        assert_eq!(look(&[a, b, ("c", "* * * * *")], "2026-11-27T12:10:00Z"), "b");
        assert_eq!(look(&[a, b], "2026-11-27T12:10:00Z"), "");
        // Another schedule is a new one.
        assert_eq!(look(&[("a", "15 12 * * *"), b], "2026-11-27T12:16:00Z"), "");
        // The clock is put forward by days: each once. And back: the next fires come again.
        assert_eq!(look(&[a, b], "2026-11-27T12:16:00Z"), "");
        assert_eq!(look(&[a, b], "2026-12-03T00:00:00Z"), "a b");
        assert_eq!(look(&[a, b], "2026-11-27T03:55:00Z"), "");
        assert_eq!(look(&[a, b], "2026-11-27T04:00:00Z"), "a b");
    }
}
