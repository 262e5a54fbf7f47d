//! A container's state, the only ways in which it changes, and what follows an exit: pure, so that a table can test it.

use super::{BegunStop, ContainerRecord, Health, RestartPolicy};
use crate::runtime::launch::Exit;
use crate::units::Nanos;
use crate::wire::RunEnd;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Docker's back-off: it begins here, doubles, and starts over when a container has run long enough.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
const LONG_ENOUGH: SignedDuration = SignedDuration::from_secs(10);
/// A monitor of an earlier version may have logged output so long before it noticed that the program runs.
const OUTPUT_BEFORE_START: SignedDuration = SignedDuration::from_millis(50);

/// `State.Status`. Docker's `removing` and `dead` do not occur.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    #[default]
    Created,
    Running,
    Paused,
    Restarting,
    Exited,
    Removing,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Restarting => "restarting",
            Status::Exited => "exited",
            Status::Removing => "removing",
        }
    }

    /// The container has a process, or is about to have one again.
    pub fn is_alive(self) -> bool {
        self.has_process() || self == Status::Restarting
    }

    /// The container has a process.
    pub fn has_process(self) -> bool {
        matches!(self, Status::Running | Status::Paused)
    }
}

/// The state of a container, which changes by [`Transition`] alone.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    status: Status,
    pub pid: i32,
    pub exit_code: i32,
    pub oom_killed: bool,
    /// Why the last start failed.
    pub error: String,
    pub started_at: Option<Timestamp>,
    /// Output from here on is of its last start.
    pub output_since: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub health: Option<Health>,
    /// For whom its start waits.
    #[serde(skip)]
    pub waits_for: Option<String>,
    /// The delay of the last restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Duration>,
    /// Its last runs, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<RunEnd>,
}

/// Ends of runs that are kept.
const KEPT_ENDS: usize = 5;
/// Characters of a reason; a health check may say more.
const LONGEST_REASON: usize = 200;

impl State {
    pub fn status(&self) -> Status {
        self.status
    }
}

/// A change of a container's state.
#[derive(Clone, Debug)]
pub enum Transition<'a> {
    /// Its program runs.
    Started { pid: i32, at: Timestamp },
    /// It runs, as its monitor describes it to another engine.
    Found { pid: i32, started_at: Timestamp, paused: bool },
    /// It was frozen or thawed.
    Paused(bool),
    /// Its first process has ended, and this is what follows.
    Ended { exit: &'a Exit, verdict: Verdict },
    /// It could not be started.
    StartFailed { message: &'a str, code: i32 },
    /// It was stopped while it waited for its restart.
    RestartCancelled,
    /// The host has been booted since somebody stopped it, and it is to be started all the same.
    DueAfterBoot,
    /// It is gone for good.
    Removed,
}

/// The consequence of a container's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays as it is.
    Stay,
    /// It is started again. `attempt` is the count of restarts with this one.
    Restart { after: Duration, attempt: u32 },
    /// Nobody wants it any more.
    Remove,
}

/// The consequence of an exit, by Docker's rules. When the host goes down the next engine restarts the container, and this is no attempt.
pub fn verdict(record: &ContainerRecord, exit: &Exit, going_down: bool) -> Verdict {
    // A start that fails has run for no time: the record has the last start that did not.
    let of_record = record.state.started_at.filter(|_| record.state.status.has_process());
    let ran_for = exit.started_at.or(of_record).map(|start| exit.finished_at.duration_since(start));
    // A restart that has succeeded begins the count of attempts anew.
    let succeeded = |window: Nanos| ran_for.is_some_and(|ran| ran.as_nanos() >= i128::from(window.0));
    let restarts = if record.spec.restart_window.is_some_and(succeeded) { 0 } else { record.restart_count };
    let attempts_left = match record.spec.restart {
        RestartPolicy::OnFailure { max } => max == 0 || restarts < max,
        _ => record.spec.restart_attempts.is_none_or(|max| restarts < max),
    };
    let unhealthy = record.unhealthy_restart && attempts_left;
    let by_policy = || match record.spec.restart {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => attempts_left,
        RestartPolicy::OnFailure { .. } => exit.code != 0 && attempts_left,
    };
    let again = !record.stopped_by_user && (unhealthy || by_policy());
    match again {
        false if record.spec.auto_remove => Verdict::Remove,
        false => Verdict::Stay,
        true => {
            let ran_long = ran_for.is_some_and(|ran| ran >= LONG_ENOUGH);
            let delay = match record.state.backoff {
                Some(last) if !ran_long => (last * 2).min(LONGEST_DELAY),
                _ => FIRST_DELAY,
            };
            let after = record.spec.restart_delay.map_or(delay, Nanos::duration);
            Verdict::Restart { after, attempt: if going_down { record.restart_count } else { restarts + 1 } }
        }
    }
}

impl ContainerRecord {
    /// Notes what has happened. Nothing else changes the status.
    pub fn apply(&mut self, transition: &Transition<'_>) {
        let reason = if let Transition::Ended { exit, .. } = transition { self.reason_of(exit) } else { String::new() };
        let state = &mut self.state;
        state.status = match *transition {
            Transition::Started { pid, at } => {
                state.pid = pid;
                state.started_at = Some(at);
                // Not before it had ended the last time.
                let noticed = at - OUTPUT_BEFORE_START;
                let ended = state.finished_at.map(|ended| ended + SignedDuration::from_nanos(1));
                state.output_since = Some(ended.map_or(noticed, |ended| ended.max(noticed)));
                state.error.clear();
                state.oom_killed = false;
                // As with Docker: that of the run before is in `ends`.
                state.exit_code = 0;
                (self.restart_begun, self.start_owed, self.unhealthy_restart) = (false, false, false);
                Status::Running
            }
            Transition::Found { pid, started_at, paused } => {
                state.pid = pid;
                state.started_at = Some(started_at);
                // An earlier version's record has not noted it.
                state.output_since.get_or_insert(started_at - OUTPUT_BEFORE_START);
                if paused { Status::Paused } else { Status::Running }
            }
            // It may have ended meanwhile.
            Transition::Paused(_) if !state.status.has_process() => state.status,
            Transition::Paused(true) => Status::Paused,
            Transition::Paused(false) => Status::Running,
            Transition::Ended { exit, verdict } => {
                state.ends.push(RunEnd { at: exit.finished_at, exit_code: exit.code, oom_killed: exit.oom_killed, reason });
                let beyond = state.ends.len().saturating_sub(KEPT_ENDS);
                state.ends.drain(..beyond);
                state.pid = 0;
                self.stop_begun = None;
                state.exit_code = exit.code;
                state.oom_killed = exit.oom_killed;
                state.finished_at = Some(exit.finished_at);
                if let Verdict::Restart { after, attempt } = verdict {
                    state.backoff = Some(after);
                    self.restart_count = attempt;
                    Status::Restarting
                } else {
                    Status::Exited
                }
            }
            Transition::StartFailed { message, code } => {
                state.error = message.to_string();
                state.exit_code = code;
                (self.restart_begun, self.start_owed) = (false, false);
                if state.status.is_alive() { Status::Exited } else { state.status }
            }
            Transition::RestartCancelled => {
                state.waits_for = None;
                self.stop_begun = None;
                Status::Exited
            }
            Transition::DueAfterBoot => {
                (self.stopped_by_user, self.restart_count) = (false, 0);
                Status::Restarting
            }
            Transition::Removed => Status::Removing,
        };
    }

    /// The cause of a run's end.
    fn reason_of(&self, exit: &Exit) -> String {
        let unhealthy = || {
            let words = self.state.health.as_ref().and_then(Health::last_words).unwrap_or_default();
            format!("unhealthy: {}", words.chars().take(LONGEST_REASON).collect::<String>())
        };
        match () {
            () if exit.oom_killed => "out of memory".into(),
            () if self.unhealthy_restart => unhealthy(),
            () if self.restart_begun => "restarted".into(),
            () if self.stopped_by_user => "stopped".into(),
            () if exit.code == 137 => "killed".into(),
            () => "exited".into(),
        }
    }

    /// The user stops it, for good or in order to start it again: restart policies leave it alone. Tells whether they did before.
    pub fn stop_requested(&mut self, restart: bool) -> bool {
        self.stop_begun = None;
        (self.restart_begun, self.start_owed, self.unhealthy_restart) = (restart, false, false);
        std::mem::replace(&mut self.stopped_by_user, true)
    }

    /// The same for a stop that goes on until it has ended, whichever engine ends it.
    pub fn begin_stop(&mut self, stop: BegunStop, restart: bool) -> bool {
        let was_stopped = self.stop_requested(restart);
        self.stop_begun = Some(stop).filter(|_| self.state.status.is_alive());
        was_stopped
    }

    /// It runs on: it was not stopped, or is not to be any more.
    pub fn take_back_stop(&mut self, was_stopped: bool) {
        (self.restart_begun, self.stop_begun) = (false, None);
        if self.state.status.is_alive() {
            self.stopped_by_user = was_stopped;
        }
    }

    /// The user starts it: what was counted of its restarts is over.
    pub fn start_requested(&mut self) {
        (self.stopped_by_user, self.stop_begun) = (false, None);
        (self.restart_count, self.unhealthy_restarts) = (0, 0);
        self.state.backoff = None;
    }
}

impl Transition<'_> {
    /// Docker's events of it, each with its attributes.
    pub fn events(&self) -> Vec<(&'static str, Vec<(&'static str, String)>)> {
        match self {
            Transition::Started { .. } => vec![("start", Vec::new())],
            Transition::Paused(paused) => vec![(if *paused { "pause" } else { "unpause" }, Vec::new())],
            Transition::Ended { exit, .. } => {
                let oom = exit.oom_killed.then(|| ("oom", Vec::new()));
                oom.into_iter().chain([("die", vec![("exitCode", exit.code.to_string())])]).collect()
            }
            Transition::Found { .. }
            | Transition::StartFailed { .. }
            | Transition::RestartCancelled
            | Transition::DueAfterBoot
            | Transition::Removed => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(restart: RestartPolicy) -> ContainerRecord {
        let text = r#"{"id": "i", "name": "n", "created_at": "2026-01-01T00:00:00Z", "image_id": "", "layers": [], "spec": {}, "state": {}}"#;
        let mut record: ContainerRecord = serde_json::from_str(text).expect("record");
        record.spec.restart = restart;
        record
    }

    fn exit(code: i32, after_seconds: i64) -> Exit {
        let finished_at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(after_seconds);
        Exit { code, oom_killed: false, finished_at, started_at: None }
    }

    #[test]
    fn what_follows_an_exit() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        let again = |millis, attempt| Verdict::Restart { after: Duration::from_millis(millis), attempt };
        let plain = |_: &mut ContainerRecord| {};
        let stopped = |record: &mut ContainerRecord| record.stopped_by_user = true;
        // So many seconds after the last start that did not fail.
        let failed = |record: &mut ContainerRecord| {
            record.state.status = Status::Restarting;
            record.state.backoff = Some(Duration::from_millis(400));
            record.spec.restart_window = Some(Nanos(4_000_000_000));
        };
        type Change = fn(&mut ContainerRecord);
        // Policy, restarts before, code, seconds it ran, further facts, whether the host goes down, verdict.
        let table: Vec<(RestartPolicy, u32, i32, i64, Change, bool, Verdict)> = vec![
            (No, 0, 1, 1, plain, false, Verdict::Stay),
            (No, 0, 0, 1, |r| r.spec.auto_remove = true, false, Verdict::Remove),
            (Always, 99, 0, 1, plain, false, again(100, 100)),
            (Always, 0, 0, 1, stopped, false, Verdict::Stay),
            (UnlessStopped, 0, 1, 1, plain, false, again(100, 1)),
            (OnFailure { max: 0 }, 0, 0, 1, plain, false, Verdict::Stay),
            (OnFailure { max: 0 }, 50, 1, 1, plain, false, again(100, 51)),
            (OnFailure { max: 2 }, 1, 1, 1, plain, false, again(100, 2)),
            (OnFailure { max: 2 }, 2, 1, 1, plain, false, Verdict::Stay),
            (OnFailure { max: 2 }, 2, 1, 5, |r| r.spec.restart_window = Some(Nanos(4_000_000_000)), false, again(100, 1)),
            (Always, 3, 1, 1, |r| r.state.backoff = Some(Duration::from_millis(400)), false, again(800, 4)),
            (Always, 3, 1, 1, |r| r.state.backoff = Some(Duration::from_secs(50)), false, again(60_000, 4)),
            (Always, 3, 1, 10, |r| r.state.backoff = Some(Duration::from_secs(50)), false, again(100, 4)),
            (Always, 2, 0, 1, |r| r.spec.restart_attempts = Some(3), false, again(100, 3)),
            (Always, 3, 0, 1, |r| r.spec.restart_attempts = Some(3), false, Verdict::Stay),
            (Always, 3, 128, 50, failed, false, again(800, 4)),
            (OnFailure { max: 2 }, 1, 128, 50, failed, false, again(800, 2)),
            (OnFailure { max: 2 }, 2, 128, 50, failed, false, Verdict::Stay),
            (Always, 3, 1, 1, |r| r.spec.restart_delay = Some(Nanos(7_000_000)), false, again(7, 4)),
            (No, 0, 143, 1, |r| r.unhealthy_restart = true, false, again(100, 1)),
            (OnFailure { max: 2 }, 1, 0, 1, |r| r.unhealthy_restart = true, false, again(100, 2)),
            (OnFailure { max: 2 }, 2, 0, 1, |r| r.unhealthy_restart = true, false, Verdict::Stay),
            (Always, 3, 143, 1, plain, true, again(100, 3)),
            (No, 3, 143, 1, |r| r.spec.auto_remove = true, true, Verdict::Remove),
        ];
        for (policy, restarts, code, seconds, change, going_down, expected) in table {
            let mut record = record(policy);
            record.restart_count = restarts;
            record.state.started_at = Some(Timestamp::UNIX_EPOCH);
            record.state.status = Status::Running;
            change(&mut record);
            let got = verdict(&record, &exit(code, seconds), going_down);
            assert_eq!(got, expected, "{policy:?} {restarts} {code} {seconds}");
        }
    }

    #[test]
    fn each_transition_has_one_status() {
        let end = exit(3, 1);
        let at = Timestamp::UNIX_EPOCH;
        let restart = Verdict::Restart { after: Duration::from_millis(100), attempt: 1 };
        let table = [
            (Transition::Started { pid: 7, at }, Status::Running),
            (Transition::Paused(true), Status::Paused),
            (Transition::Paused(false), Status::Running),
            (Transition::Ended { exit: &end, verdict: restart }, Status::Restarting),
            (Transition::Paused(true), Status::Restarting),
            (Transition::RestartCancelled, Status::Exited),
            (Transition::Found { pid: 8, started_at: at, paused: true }, Status::Paused),
            (Transition::Ended { exit: &end, verdict: Verdict::Stay }, Status::Exited),
            (Transition::StartFailed { message: "no", code: 127 }, Status::Exited),
            (Transition::Removed, Status::Removing),
        ];
        let mut record = record(RestartPolicy::Always);
        assert_eq!(record.state.status(), Status::Created);
        record.apply(&Transition::StartFailed { message: "no", code: 127 });
        assert_eq!((record.state.status(), record.state.exit_code), (Status::Created, 127), "it never ran");
        for (transition, expected) in table {
            record.apply(&transition);
            assert_eq!(record.state.status(), expected, "{transition:?}");
            if record.state.status() == Status::Running {
                assert_eq!(record.state.exit_code, 0, "what runs has no code");
            }
        }
        assert_eq!((record.restart_count, record.state.exit_code), (1, 127));
    }
}
