//! Runs that a schedule begins.

use super::JobRecord;
use crate::compose::model::{Concurrency, Job};
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::state::journal::Room;
use crate::jobs::{Admission, Due, RecordedRun, RunTrigger, due};
use jiff::Timestamp;
use std::sync::Arc;

/// The outcome of a look at all jobs.
#[derive(Debug, Default)]
pub(in crate::engine) struct JobSchedules {
    pub any: bool,
    pub next: Option<Timestamp>,
    /// A fire could not be noted.
    pub failed: bool,
}

impl Engine {
    /// Begins the runs that are due.
    pub(in crate::engine) fn fire_due_jobs(self: &Arc<Self>, running_since: Timestamp, now: Timestamp) -> JobSchedules {
        let mut all = JobSchedules::default();
        for record in self.state.job_records().into_iter().filter(|record| !record.paused) {
            let Some(job) = record.definition().filter(|job| job.is_scheduled()) else { continue };
            let Some(runs) = self.state.job_runs(&record.key()) else { continue };
            let found = due(&job.triggers.schedule, runs.until, running_since, now);
            all.any = true;
            all.next = all.next.into_iter().chain(found.next).min();
            if let Err(error) = self.fire(&record, runs.until, &found) {
                tracing::warn!("the job {} is due, and its run cannot be noted: {error}", record.key().as_str());
                all.failed = true;
            }
        }
        all
    }

    /// Notes a fire and its run in one step. Where nothing is due, the time of the look is not worth a write, but where the clock was
    /// put back: from there on its fires are new.
    fn fire(self: &Arc<Self>, record: &JobRecord, until: Timestamp, found: &Due) -> Result<(), EngineError> {
        let key = record.key();
        let Some(at) = found.fire else {
            if found.until < until {
                self.change_runs(&key, Room::Ordinary, |runs| runs.until = found.until)?;
            }
            return Ok(());
        };
        let concurrency = record.definition().map_or(Concurrency::Forbid, Job::concurrency);
        let run = RecordedRun { trigger: RunTrigger::Schedule, due: Some(at), ..super::worker::new_run()? };
        let admission = self.change_runs(&key, Room::Ordinary, |runs| {
            runs.until = found.until;
            runs.admit(run, concurrency)
        })?;
        match admission {
            Some(Admission::Admitted) => self.work_on(&key),
            Some(Admission::Refused(other)) => {
                tracing::warn!("the job {} is due, and its run {other} goes on: this fire is left out", key.as_str());
            }
            Some(Admission::Joined(_)) | None => {}
        }
        Ok(())
    }
}
