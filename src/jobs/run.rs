//! Runs of a job: their states, and which may begin.

use crate::compose::model::Concurrency;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Finished runs that are kept of a job, as Docker Compose keeps them.
const KEPT: usize = 5;

/// The state of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It has a record, and its container is not started yet.
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
}

impl RunState {
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Pending => "pending",
            RunState::Running => "running",
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
            RunState::TimedOut => "timed_out",
            RunState::Cancelled => "cancelled",
        }
    }

    pub fn is_finished(self) -> bool {
        !matches!(self, RunState::Pending | RunState::Running)
    }
}

/// What has started a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunTrigger {
    #[default]
    Manual,
    Schedule,
    /// Another job depends on it.
    Dependency,
}

impl RunTrigger {
    pub fn as_str(self) -> &'static str {
        match self {
            RunTrigger::Manual => "manual",
            RunTrigger::Schedule => "schedule",
            RunTrigger::Dependency => "dependency",
        }
    }
}

/// Why a run is ended before its process ends by itself. Noted before the process is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnding {
    Cancel,
    TimeOut,
}

/// A run of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordedRun {
    pub id: String,
    /// Counted from 1 on.
    pub iteration: u64,
    pub trigger: RunTrigger,
    pub state: RunState,
    /// The fire that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    pub created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// The container's id, from its creation on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it has failed, beside the exit code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ending: Option<RunEnding>,
    /// A client starts its container and shows its output: without the client it does not begin.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub attached: bool,
}

/// Something that happens to a run.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEvent {
    Started,
    /// Its process has ended by itself, or because it was asked to.
    Exited(i32),
    /// It cannot begin, or its container is gone.
    Failed(String),
    /// It is ended before its container was started.
    Ended,
}

impl RecordedRun {
    /// The state after an event; `None` where the event cannot happen in this state.
    fn after(&self, event: &RunEvent) -> Option<RunState> {
        use RunState::{Cancelled, Failed, Pending, Running, Succeeded, TimedOut};
        match (self.state, event) {
            (Pending, RunEvent::Started) => Some(Running),
            // A process may end before anybody sees that it was started.
            (Pending | Running, RunEvent::Exited(code)) => Some(match (self.ending, code) {
                (Some(RunEnding::Cancel), _) => Cancelled,
                (Some(RunEnding::TimeOut), _) => TimedOut,
                (None, 0) => Succeeded,
                (None, _) => Failed,
            }),
            (Pending | Running, RunEvent::Failed(_)) => {
                Some(if self.ending == Some(RunEnding::Cancel) { Cancelled } else { Failed })
            }
            (Pending, RunEvent::Ended) => Some(if self.ending == Some(RunEnding::TimeOut) { TimedOut } else { Cancelled }),
            (Running, RunEvent::Started | RunEvent::Ended) | (Succeeded | Failed | TimedOut | Cancelled, _) => None,
        }
    }

    /// Applies an event. False where it cannot happen any more: the run stays as it is.
    pub fn apply(&mut self, event: &RunEvent, at: Timestamp) -> bool {
        let Some(state) = self.after(event) else { return false };
        self.state = state;
        match event {
            RunEvent::Started => self.started_at = Some(at),
            RunEvent::Exited(code) => self.exit_code = Some(*code),
            RunEvent::Failed(why) => self.error = Some(why.clone()),
            RunEvent::Ended => {}
        }
        if state.is_finished() {
            self.finished_at = Some(at);
        }
        true
    }
}

/// The runs of a job, the oldest first, and what is counted of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Runs {
    /// Fires up to here have been seen to.
    pub until: Timestamp,
    pub iterations: u64,
    pub runs: Vec<RecordedRun>,
}

/// Whether a run may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It has a record now.
    Admitted,
    /// Another one goes on; its number.
    Refused(u64),
    /// Another waits already; its id.
    Joined(String),
}

impl Runs {
    /// Adds a run, where the job's other runs permit it. At most one waits for the one that goes on.
    pub fn admit(&mut self, mut run: RecordedRun, concurrency: Concurrency) -> Admission {
        let unfinished: Vec<&RecordedRun> = self.runs.iter().filter(|run| !run.state.is_finished()).collect();
        match (unfinished[..].first(), unfinished.get(1), concurrency) {
            (Some(other), _, Concurrency::Forbid) => return Admission::Refused(other.iteration),
            (Some(_), Some(waiting), Concurrency::Queue) => return Admission::Joined(waiting.id.clone()),
            _ => {}
        }
        self.iterations += 1;
        run.iteration = self.iterations;
        self.runs.push(run);
        Admission::Admitted
    }

    /// The run that is to go on: one at a time.
    pub fn current(&self) -> Option<&RecordedRun> {
        self.runs.iter().find(|run| !run.state.is_finished())
    }

    pub fn find(&self, id: &str) -> Option<&RecordedRun> {
        self.runs.iter().find(|run| run.id == id)
    }

    /// Takes out the oldest finished runs that are too many.
    pub fn forget_oldest(&mut self) -> Vec<RecordedRun> {
        let finished = self.runs.iter().filter(|run| run.state.is_finished()).count();
        let mut beyond = finished.saturating_sub(KEPT);
        let is_beyond = |run: &mut RecordedRun| {
            let goes = beyond > 0 && run.state.is_finished();
            beyond -= usize::from(goes);
            goes
        };
        self.runs.extract_if(.., is_beyond).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_in_every_state() {
        use RunState::{Cancelled, Failed, Pending, Running, Succeeded, TimedOut};
        let failed = || RunEvent::Failed("why".into());
        let table = [
            (Pending, None, RunEvent::Started, Some(Running)),
            (Pending, None, RunEvent::Exited(0), Some(Succeeded)),
            (Pending, None, failed(), Some(Failed)),
            (Pending, Some(RunEnding::Cancel), failed(), Some(Cancelled)),
            (Pending, Some(RunEnding::Cancel), RunEvent::Ended, Some(Cancelled)),
            (Pending, Some(RunEnding::TimeOut), RunEvent::Ended, Some(TimedOut)),
            (Running, None, RunEvent::Started, None),
            (Running, None, RunEvent::Ended, None),
            (Running, None, RunEvent::Exited(0), Some(Succeeded)),
            (Running, None, RunEvent::Exited(7), Some(Failed)),
            (Running, None, failed(), Some(Failed)),
            (Running, Some(RunEnding::Cancel), RunEvent::Exited(143), Some(Cancelled)),
            (Running, Some(RunEnding::Cancel), RunEvent::Exited(0), Some(Cancelled)),
            (Running, Some(RunEnding::TimeOut), RunEvent::Exited(137), Some(TimedOut)),
            (Running, Some(RunEnding::Cancel), failed(), Some(Cancelled)),
        ];
        for (state, ending, event, expected) in table {
            let mut run = RecordedRun { state, ending, ..RecordedRun::default() };
            assert_eq!(run.apply(&event, Timestamp::UNIX_EPOCH), expected.is_some(), "{state:?} {ending:?} {event:?}");
            assert_eq!(run.state, expected.unwrap_or(state), "{state:?} {ending:?} {event:?}");
            assert_eq!(run.finished_at.is_some(), expected.is_some_and(RunState::is_finished));
        }
        // What has ended stays as it is.
        for state in [Succeeded, Failed, TimedOut, Cancelled] {
            for event in [RunEvent::Started, RunEvent::Exited(0), RunEvent::Exited(1), failed(), RunEvent::Ended] {
                let mut run = RecordedRun { state, ..RecordedRun::default() };
                assert!(
                    !run.apply(&event, Timestamp::UNIX_EPOCH) && run == RecordedRun { state, ..RecordedRun::default() },
                    "{state:?} {event:?}"
                );
            }
        }
    }

    #[test]
    fn one_run_goes_on_and_at_most_one_waits() {
        let run = |id: &str| RecordedRun { id: id.into(), ..RecordedRun::default() };
        let mut runs = Runs::default();
        assert_eq!(runs.admit(run("a"), Concurrency::Forbid), Admission::Admitted);
        assert_eq!(runs.admit(run("b"), Concurrency::Forbid), Admission::Refused(1));
        assert_eq!(runs.admit(run("b"), Concurrency::Queue), Admission::Admitted);
        assert_eq!(runs.admit(run("c"), Concurrency::Queue), Admission::Joined("b".into()));
        assert_eq!(runs.current().map(|run| run.iteration), Some(1));
        runs.runs[0].apply(&RunEvent::Exited(0), Timestamp::UNIX_EPOCH);
        assert_eq!(runs.current().map(|run| run.iteration), Some(2));
        assert_eq!(runs.admit(run("d"), Concurrency::Forbid), Admission::Refused(2));
    }

    #[test]
    fn the_last_finished_runs_are_kept() {
        let mut runs = Runs::default();
        for n in 0..10 {
            let state = if n == 0 { RunState::Running } else { RunState::Succeeded };
            runs.runs.push(RecordedRun { iteration: n, state, ..RecordedRun::default() });
        }
        let gone: Vec<u64> = runs.forget_oldest().iter().map(|run| run.iteration).collect();
        assert_eq!(gone, [1, 2, 3, 4]);
        assert_eq!(runs.runs.len(), 6, "the one that runs is kept");
        assert!(runs.forget_oldest().is_empty());
    }

    /// A record of a later version has more in it; one of an earlier version less.
    #[test]
    fn records_of_other_versions_are_read() {
        let runs: Runs = serde_json::from_str(r#"{"runs": [{"id": "a", "weight": 3}], "later": {}}"#).expect("runs");
        assert_eq!((runs.runs[0].id.as_str(), runs.runs[0].state, runs.iterations), ("a", RunState::Pending, 0));
        assert_eq!(serde_json::to_value(RunState::TimedOut).expect("JSON"), "timed_out");
    }
}
