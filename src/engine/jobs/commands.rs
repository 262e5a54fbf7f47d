//! What users ask for: `run` of a job, and the commands of `wharf job`.

use super::worker::{ClientRun, how_it_ended, new_run};
use super::{JobKey, JobRecord, RunsFate};
use crate::compose::model::{Concurrency, Job};
use crate::engine::containers::incarnations::Leaves;
use crate::engine::error::{EngineError, state_error};
use crate::engine::projects::convert::Origin;
use crate::engine::projects::{ProgressSender, wall_clock};
use crate::engine::state::journal::Room;
use crate::engine::{Engine, locked};
use crate::jobs::{Admission, RecordedRun, RunEnding, RunState, RunTrigger, Runs};
use crate::labels::{LABEL_JOB, LABEL_PROJECT};
use crate::wire::{JobDetails, JobRun, JobRunRequest, JobSummary, Progress};
use jiff::Timestamp;
use std::sync::Arc;
use tokio::sync::oneshot;

impl Engine {
    /// Runs a job of a project as its client's file has it: registers it, brings up what it depends on, and makes the container.
    ///
    /// # Errors
    /// When the job may not be run, another run goes on, or what comes before fails.
    pub async fn run_job_for_client(
        self: &Arc<Self>,
        job: &str,
        request: JobRunRequest,
        progress: ProgressSender,
    ) -> Result<(), EngineError> {
        let JobRunRequest { up, detach } = request;
        let missing = || EngineError::NoSuch { what: "job", name: job.into() };
        let definition = up.project.jobs.get(job).ok_or_else(missing)?;
        may_be_run(job, definition)?;
        let concurrency = definition.concurrency();
        let origin = Origin { config_files: up.config_files, working_dir: up.working_dir, proxies: up.proxies };
        self.register_job(&up.project, job, &origin)?;
        let mut options = up.options;
        options.inactive = up.inactive;
        let key = JobKey::new(&up.project.name, job);
        let run = RecordedRun { trigger: RunTrigger::Manual, attached: !detach, ..new_run()? };
        let (made, is_made) = oneshot::channel();
        let client = ClientRun { project: up.project, options, origin, progress: progress.clone(), made };
        locked(&self.jobs.clients).insert(run.id.clone(), client);
        let id = run.id.clone();
        let begun = self.begin(&key, run, concurrency, |_| ());
        if begun.is_err() {
            locked(&self.jobs.clients).remove(&id);
        }
        begun?;
        progress.send(Progress::Run(id.clone()));
        let runs = self.state.job_runs(&key).unwrap_or_default();
        if let Some(other) = runs.current().filter(|other| other.id != id) {
            let text = format!("the run {} of the job {} goes first; waiting for its end", other.iteration, key.as_str());
            progress.send(Progress::Warning(text));
        }
        let made = tokio::select! {
            made = is_made => made,
            () = progress.closed() => {
                self.ask_to_end(&key, &id, RunEnding::Cancel)?;
                return Err(EngineError::Cancelled);
            }
        };
        match made {
            Ok(Ok(container)) => progress.send(Progress::Created(container)),
            Ok(Err(why)) => return Err(EngineError::Conflict(why)),
            Err(_) => return Err(EngineError::Conflict("the run was cancelled".into())),
        }
        Ok(())
    }

    /// Begins a run of a registered job. With `reschedule` it stands for the next fire of its schedule.
    ///
    /// # Errors
    /// As [`Engine::run_job_for_client`].
    pub fn run_job(self: &Arc<Self>, name: &str, reschedule: bool) -> Result<JobRun, EngineError> {
        let record = self.find_job(name)?;
        let definition = record.definition().ok_or_else(|| no_job(name))?;
        may_be_run(&record.job, definition)?;
        let run = new_run()?;
        let id = run.id.clone();
        let next = next_fire(definition, wall_clock()).filter(|_| reschedule);
        let key = record.key();
        self.begin(&key, run, definition.concurrency(), |runs| runs.until = next.unwrap_or(runs.until))?;
        if reschedule {
            self.schedules.look_again(true);
        }
        self.run_of(&key, &id).as_ref().map(JobRun::from).ok_or_else(|| no_job(name))
    }

    fn begin(
        self: &Arc<Self>,
        key: &JobKey,
        run: RecordedRun,
        concurrency: Concurrency,
        also: impl FnOnce(&mut Runs),
    ) -> Result<(), EngineError> {
        let admission = self.change_runs(key, Room::Ordinary, |runs| {
            let admission = runs.admit(run, concurrency);
            if admission == Admission::Admitted {
                also(runs);
            }
            admission
        })?;
        let name = key.as_str();
        match admission {
            Some(Admission::Admitted) => {
                self.work_on(key);
                Ok(())
            }
            Some(Admission::Refused(other)) => Err(EngineError::Conflict(format!(
                "the run {other} of the job {name} goes on: wait for it (`wharf job wait {name}`), or end it (`wharf job cancel {name}`)"
            ))),
            Some(Admission::Joined(_)) => Err(EngineError::Conflict(format!(
                "a run of the job {name} goes on and another one waits for its end: no more than one waits"
            ))),
            None => Err(no_job(name)),
        }
    }

    /// The job of a name: `PROJECT.JOB`, the beginning of an id, or the job's own name where one project has it.
    fn find_job(&self, name: &str) -> Result<JobRecord, EngineError> {
        let mut records = self.state.job_records();
        if let Some(at) = records.iter().position(|record| record.key().as_str() == name) {
            return Ok(records.swap_remove(at));
        }
        records.retain(|record| record.job == name || (name.len() >= 4 && record.id.starts_with(name)));
        match records.len() {
            0 => Err(no_job(name)),
            1 => Ok(records.swap_remove(0)),
            _ => {
                let names: Vec<String> = records.iter().map(|record| record.key().as_str().to_string()).collect();
                Err(EngineError::Conflict(format!("`{name}` is several jobs: {}; name one of them", names.join(", "))))
            }
        }
    }

    /// The key of a name, of a job that is registered or of which runs are kept.
    fn find_runs(&self, name: &str) -> Result<JobKey, EngineError> {
        match self.find_job(name) {
            Ok(record) => Ok(record.key()),
            Err(error) => {
                let mut keys = self.state.keys_of_runs();
                keys.retain(|key| key.as_str() == name || key.job() == name);
                if let [key] = &keys[..] { Ok(key.clone()) } else { Err(error) }
            }
        }
    }

    fn summary(&self, record: &JobRecord) -> JobSummary {
        let key = record.key();
        let runs = self.state.job_runs(&key).unwrap_or_default();
        let current = runs.current();
        let next = record.definition().filter(|_| !record.paused && current.is_none());
        JobSummary {
            id: record.id.clone(),
            name: key.as_str().into(),
            project: record.project.name.clone(),
            job: record.job.clone(),
            trigger: record.definition().map(Job::trigger_text).unwrap_or_default(),
            state: current.map_or("idle", |run| run.state.as_str()).into(),
            paused: record.paused,
            last_run: runs.runs.iter().rev().find(|run| run.state != RunState::Pending).or(runs.runs.last()).map(JobRun::from),
            next_fire: next.and_then(|job| next_fire(job, runs.until.max(wall_clock()))),
            registered_at: record.registered_at,
        }
    }

    /// The registered jobs, by their names.
    pub fn list_jobs(&self) -> Vec<JobSummary> {
        let mut all: Vec<JobSummary> = self.state.job_records().iter().map(|record| self.summary(record)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// A job and its runs.
    ///
    /// # Errors
    /// When there is none of the name.
    pub fn inspect_job(&self, name: &str) -> Result<JobDetails, EngineError> {
        let record = self.find_job(name)?;
        let definition = record.definition().cloned();
        Ok(JobDetails { runs: self.list_runs(name)?, definition, summary: self.summary(&record) })
    }

    /// The runs of a job that are kept, the newest first.
    ///
    /// # Errors
    /// When there is neither a job nor a run of the name.
    pub fn list_runs(&self, name: &str) -> Result<Vec<JobRun>, EngineError> {
        let runs = self.state.job_runs(&self.find_runs(name)?).unwrap_or_default();
        Ok(runs.runs.iter().rev().map(JobRun::from).collect())
    }

    /// The run of an id or number; without one that which goes on, else the last.
    fn find_run(&self, key: &JobKey, run: Option<&str>) -> Result<RecordedRun, EngineError> {
        let runs = self.state.job_runs(key).unwrap_or_default();
        let found = match run {
            Some(wanted) => runs.runs.iter().find(|run| run.id == wanted || run.iteration.to_string() == wanted),
            None => runs.current().or(runs.runs.last()),
        };
        let which = run.map_or_else(String::new, |run| format!(" `{run}`"));
        found.cloned().ok_or_else(|| EngineError::Conflict(format!("the job {} has no run{which}", key.as_str())))
    }

    /// Waits for the end of a run.
    ///
    /// # Errors
    /// When there is none, or it is removed meanwhile.
    pub async fn wait_for_run(&self, name: &str, run: Option<&str>) -> Result<JobRun, EngineError> {
        let key = self.find_runs(name)?;
        let run = self.find_run(&key, run)?;
        let removed = || EngineError::Conflict(format!("the job {} was removed with its runs", key.as_str()));
        self.finished(&key, &run.id).await.as_ref().map(JobRun::from).ok_or_else(removed)
    }

    /// Waits for the first run of a job after another one, by their numbers, that has a container.
    ///
    /// # Errors
    /// When there is no such job, or it is removed meanwhile.
    pub async fn next_run_of(&self, name: &str, after: u64) -> Result<JobRun, EngineError> {
        let key = self.find_runs(name)?;
        let mut changes = self.jobs.changed.subscribe();
        loop {
            changes.borrow_and_update();
            let runs = self.state.job_runs(&key).ok_or_else(|| no_job(name))?;
            if let Some(run) = runs.runs.iter().find(|run| run.iteration > after && run.container.is_some()) {
                return Ok(JobRun::from(run));
            }
            changes.changed().await.map_err(|_| no_job(name))?;
        }
    }

    /// Cancels a run: the one that goes on where none is named.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cancel_run(&self, name: &str, run: Option<&str>) -> Result<JobRun, EngineError> {
        let key = self.find_runs(name)?;
        let found = self.find_run(&key, run)?;
        if found.state.is_finished() {
            let what = if run.is_some() { format!("the run {} of", found.iteration) } else { "no run of".into() };
            let how = if run.is_some() { how_it_ended(&found) } else { "goes on".into() };
            return Err(EngineError::Conflict(format!("{what} the job {} {how}", key.as_str())));
        }
        self.ask_to_end(&key, &found.id, RunEnding::Cancel)?;
        Ok(JobRun::from(&found))
    }

    /// Has a job's schedule start nothing, or go on from now.
    ///
    /// # Errors
    /// When it has no schedule, or the disk refuses.
    pub fn pause_job(&self, name: &str, paused: bool) -> Result<(), EngineError> {
        let found = self.find_job(name)?;
        let key = found.key();
        if !found.definition().is_some_and(Job::is_scheduled) {
            return Err(EngineError::Conflict(format!("the job {} has no schedule that could be paused", key.as_str())));
        }
        if !paused && found.paused {
            // What was due meanwhile was not missed.
            self.change_runs(&key, Room::Ordinary, |runs| runs.until = wall_clock())?;
        }
        {
            let _records = locked(&self.jobs.records);
            let mut record = self.state.job_record(&key).ok_or_else(|| no_job(name))?;
            if record.paused != paused {
                record.paused = paused;
                self.state.journal.put(&key.record_key(), &record).map_err(state_error)?;
            }
        }
        self.schedules.look_again(true);
        Ok(())
    }

    /// Removes a job.
    ///
    /// # Errors
    /// When there is none, or the disk refuses.
    pub async fn remove_job(self: &Arc<Self>, name: &str, fate: RunsFate) -> Result<(), EngineError> {
        let key = self.find_runs(name)?;
        let record = self.state.job_record(&key);
        if let Some(record) = &record {
            self.deregister_job(&record.project.name, &record.job)?;
        }
        if fate == RunsFate::Keep {
            return Ok(());
        }
        let runs = self.state.job_runs(&key).unwrap_or_default();
        if fate == RunsFate::Remove {
            for run in runs.runs.iter().filter(|run| !run.state.is_finished()) {
                let _ = self.finished(&key, &run.id).await;
            }
        }
        let gone = self.change_runs(&key, Room::Removal, |runs| {
            runs.runs.extract_if(.., |run| run.state.is_finished()).collect::<Vec<RecordedRun>>()
        })?;
        for container in gone.iter().flatten().filter_map(|run| self.container_of_run(&run.id)) {
            self.drop_container(&container, Leaves::Nothing).await;
        }
        if fate == RunsFate::Remove {
            if let Some(record) = record {
                for container in self.containers_of_job(&record.id) {
                    self.drop_container(&container, Leaves::Nothing).await;
                }
            }
            let _records = locked(&self.jobs.records);
            self.state.journal.delete(&key.runs_key()).map_err(state_error)?;
        }
        self.incarnations.forget(key.project(), &[key.job().to_string()]);
        Ok(())
    }

    /// Removes the jobs without a schedule that have no run, with their past; only those with a label where one is given.
    ///
    /// # Errors
    /// The disk's.
    pub async fn prune_jobs(self: &Arc<Self>, labels: &[String]) -> Result<Vec<String>, EngineError> {
        let mut gone = Vec::new();
        for record in self.state.job_records() {
            let key = record.key();
            let is_idle = self.state.job_runs(&key).is_none_or(|runs| runs.current().is_none());
            let manual = record.definition().is_none_or(|job| !job.is_scheduled());
            if is_idle && manual && labels.iter().all(|label| has_label(&record, label)) {
                self.remove_job(key.as_str(), RunsFate::Remove).await?;
                gone.push(key.as_str().to_string());
            }
        }
        Ok(gone)
    }
}

/// Whether a job has a label, `NAME` or `NAME=VALUE`: its own, and those of its containers.
fn has_label(record: &JobRecord, wanted: &str) -> bool {
    let (name, value) = wanted.split_once('=').map_or((wanted, None), |(name, value)| (name, Some(value)));
    let own = record.definition().and_then(|job| job.service.labels.get(name)).map(String::as_str);
    let found = match name {
        LABEL_PROJECT => Some(record.project.name.as_str()),
        LABEL_JOB => Some(record.id.as_str()),
        _ => own,
    };
    found.is_some_and(|found| value.is_none_or(|value| found == value))
}

fn may_be_run(name: &str, job: &Job) -> Result<(), EngineError> {
    if job.is_manual() {
        return Ok(());
    }
    let help = if job.is_scheduled() { "its schedule alone starts it" } else { "nothing starts it" };
    Err(EngineError::Conflict(format!("the job `{name}` has `triggers.manual: false`: {help}; leave `manual` out to run it")))
}

fn next_fire(job: &Job, after: Timestamp) -> Option<Timestamp> {
    job.triggers.schedule.iter().filter_map(|schedule| schedule.cron.next(after)).min()
}

fn no_job(name: &str) -> EngineError {
    EngineError::NoSuch { what: "job", name: name.into() }
}
