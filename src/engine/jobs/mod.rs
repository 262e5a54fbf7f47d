//! Jobs: which are registered, and the records of their runs.
//!
//! The journal has a job's definition under `job/PROJECT.JOB`, and its runs with the time up to which fires were seen to under
//! `jobruns/PROJECT.JOB`: one record, so that a fire and its run are noted in one step. [`schedule`] begins runs that are due,
//! [`worker`] carries them out, one of a job at a time; [`commands`] are what users ask for.

pub mod commands;
mod schedule;
mod worker;

use super::containers::incarnations::Leaves;
use super::error::{EngineError, state_error};
use super::projects::convert::Origin;
use super::projects::wall_clock;
use super::state::StateStore;
use super::state::directories::{read_manifest, write_manifest};
use super::state::journal::Room;
use super::{Container, Engine, locked};
use crate::compose::model::{FileObject, Job, Project};
use crate::jobs::{RecordedRun, RunEnding, RunEvent, Runs};
use crate::labels::{LABEL_JOB, LABEL_RUN};
use crate::plan::{job_hash, part_for_job};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use worker::ClientRun;

const JOBS: &str = "job/";
const RUNS: &str = "jobruns/";

/// A registered job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::engine) struct JobRecord {
    pub id: String,
    pub job: String,
    /// Of the part of the project below, with the contents of its files.
    pub hash: String,
    pub registered_at: Timestamp,
    /// Its schedule starts nothing.
    #[serde(default)]
    pub paused: bool,
    /// What it needs: itself, what it depends on, their networks, volumes and files, without contents.
    pub project: Project,
    #[serde(default)]
    pub config_files: String,
    #[serde(default)]
    pub working_dir: String,
    #[serde(default)]
    pub proxies: Vec<(String, String)>,
}

impl JobRecord {
    pub fn definition(&self) -> Option<&Job> {
        self.project.jobs.get(&self.job)
    }

    fn key(&self) -> JobKey {
        JobKey::new(&self.project.name, &self.job)
    }
}

/// A job's project and name, as `PROJECT.JOB`: a project's name has no dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::engine) struct JobKey(String);

impl JobKey {
    pub fn new(project: &str, job: &str) -> Self {
        JobKey(format!("{project}.{job}"))
    }

    /// The key of its record in the journal.
    fn record_key(&self) -> String {
        format!("{JOBS}{}", self.0)
    }

    /// The key of its runs in the journal.
    fn runs_key(&self) -> String {
        format!("{RUNS}{}", self.0)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn project(&self) -> &str {
        self.0.split_once('.').map_or("", |(project, _)| project)
    }

    pub fn job(&self) -> &str {
        self.0.split_once('.').map_or(&self.0, |(_, job)| job)
    }
}

/// The contents of configs and secrets that a job's later runs need: they are not journaled.
#[derive(Debug, Default, Serialize, Deserialize)]
struct KeptContents {
    configs: IndexMap<String, String>,
    secrets: IndexMap<String, String>,
}

/// What the engine knows of jobs beside the journal.
#[derive(Default)]
pub(in crate::engine) struct Jobs {
    /// Held while a job's records are read and written.
    records: Mutex<()>,
    /// The jobs whose runs are being carried out.
    working: Mutex<HashSet<JobKey>>,
    /// Clients that wait for their run to begin, by its id.
    clients: Mutex<HashMap<String, ClientRun>>,
    /// Counts changes of runs.
    changed: watch::Sender<u64>,
}

/// How much of a job's past goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunsFate {
    Keep,
    Remove,
    RemoveFinished,
}

impl StateStore {
    /// The hashes of a project's registered jobs, by their names.
    pub(in crate::engine) fn job_hashes(&self, project: &str) -> HashMap<String, String> {
        let records = self.journal.all::<JobRecord>(&format!("{JOBS}{project}."));
        records.into_iter().filter_map(|(job, record)| Some((job, record.ok()?.hash))).collect()
    }

    /// The registered jobs that this version understands.
    fn job_records(&self) -> Vec<JobRecord> {
        self.journal.all::<JobRecord>(JOBS).into_iter().filter_map(|(_, record)| record.ok()).collect()
    }

    fn job_record(&self, key: &JobKey) -> Option<JobRecord> {
        self.journal.get(&key.record_key())
    }

    fn job_runs(&self, key: &JobKey) -> Option<Runs> {
        self.journal.get(&key.runs_key())
    }

    fn keys_of_runs(&self) -> Vec<JobKey> {
        self.journal.all::<Runs>(RUNS).into_iter().map(|(key, _)| JobKey(key)).collect()
    }
}

impl Engine {
    /// Whether something is due one day, or goes on.
    pub(in crate::engine) fn jobs_need_the_engine(&self) -> bool {
        let scheduled = |job: &JobRecord| !job.paused && job.definition().is_some_and(Job::is_scheduled);
        !locked(&self.jobs.working).is_empty() || self.state.job_records().iter().any(scheduled)
    }

    /// Has the engine know a job as a project has it. Its schedule begins anew where it is another definition.
    ///
    /// # Errors
    /// The disk's; the job is as it was then.
    pub(in crate::engine) fn register_job(&self, project: &Project, job: &str, origin: &Origin) -> Result<(), EngineError> {
        let key = JobKey::new(&project.name, job);
        let _records = locked(&self.jobs.records);
        let earlier = self.state.job_record(&key);
        let hash = job_hash(project, job);
        if earlier.as_ref().is_some_and(|earlier| earlier.hash == hash) {
            return Ok(());
        }
        let mut part = part_for_job(project, job);
        let take = |objects: &mut IndexMap<String, FileObject>| {
            objects.iter_mut().filter_map(|(name, object)| Some((name.clone(), object.content.take()?))).collect()
        };
        let contents = KeptContents { configs: take(&mut part.configs), secrets: take(&mut part.secrets) };
        let record = JobRecord {
            id: match earlier {
                Some(ref earlier) => earlier.id.clone(),
                None => super::new_id().map_err(EngineError::io("choosing an id"))?,
            },
            job: job.into(),
            hash,
            registered_at: Timestamp::now(),
            paused: earlier.is_some_and(|earlier| earlier.paused),
            project: part,
            config_files: origin.config_files.clone(),
            working_dir: origin.working_dir.clone(),
            proxies: origin.proxies.clone(),
        };
        self.write_contents(&record.id, &contents)?;
        let mut runs = self.state.job_runs(&key).unwrap_or_default();
        runs.until = wall_clock();
        self.state.journal.put(&key.runs_key(), &runs).map_err(state_error)?;
        self.state.journal.put(&key.record_key(), &record).map_err(state_error)?;
        self.schedules.look_again(true);
        Ok(())
    }

    /// Has the engine start a job no more. A run whose container is there comes to its end, others are cancelled; the records of runs stay.
    ///
    /// # Errors
    /// The disk's.
    pub(in crate::engine) fn deregister_job(&self, project: &str, job: &str) -> Result<(), EngineError> {
        let key = JobKey::new(project, job);
        let runs = self.state.job_runs(&key).unwrap_or_default().runs;
        let pending = runs.iter().filter(|run| !run.state.is_finished() && run.container.is_none());
        pending.map(|run| &run.id).try_for_each(|id| self.ask_to_end(&key, id, RunEnding::Cancel))?;
        let _records = locked(&self.jobs.records);
        if let Some(record) = self.state.job_record(&key) {
            self.state.journal.delete(&key.record_key()).map_err(state_error)?;
            let _ = std::fs::remove_file(self.contents_path(&record.id));
        }
        self.schedules.look_again(false);
        Ok(())
    }

    /// Cancels the runs of a project's jobs: of those that are named, or of all.
    pub(in crate::engine) fn cancel_jobs_of(
        self: &Arc<Self>,
        project: &str,
        named: &[String],
        timeout: Option<u32>,
    ) -> Result<(), EngineError> {
        let keys = self.state.keys_of_runs().into_iter().filter(|key| key.project() == project);
        for key in keys.filter(|key| named.is_empty() || named.iter().any(|name| name == key.job())) {
            self.cancel_all(&key)?;
            if let Some(seconds) = timeout {
                self.kill_after(&key, Duration::from_secs(seconds.into()));
            }
        }
        Ok(())
    }

    /// Kills the run of a job that has been asked to end and takes longer.
    fn kill_after(self: &Arc<Self>, key: &JobKey, timeout: Duration) {
        let Some(run) = self.state.job_runs(key).and_then(|runs| runs.current().cloned()) else { return };
        let (engine, key) = (self.clone(), key.clone());
        tokio::spawn(async move {
            let ended = tokio::time::timeout(timeout, engine.finished(&key, &run.id)).await;
            if let (Err(_), Some(container)) = (ended, engine.container_of_run(&run.id)) {
                match engine.kill(&container, libc::SIGKILL).await {
                    Ok(()) | Err(EngineError::NotRunning { .. }) => {}
                    Err(error) => tracing::warn!("killing a run of {}: {error}", key.as_str()),
                }
            }
        });
    }

    /// Forgets the jobs of a project and their runs. Their containers are gone.
    pub(in crate::engine) fn forget_jobs_of(&self, project: &str) -> Result<(), EngineError> {
        for record in self.state.job_records().into_iter().filter(|record| record.project.name == project) {
            self.deregister_job(project, &record.job)?;
        }
        let _records = locked(&self.jobs.records);
        for key in self.state.keys_of_runs().into_iter().filter(|key| key.project() == project) {
            self.state.journal.delete(&key.runs_key()).map_err(state_error)?;
        }
        self.jobs.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    fn cancel_all(&self, key: &JobKey) -> Result<(), EngineError> {
        let Some(runs) = self.state.job_runs(key).filter(|runs| runs.current().is_some()) else { return Ok(()) };
        let unfinished = runs.runs.iter().filter(|run| !run.state.is_finished());
        unfinished.map(|run| &run.id).try_for_each(|id| self.ask_to_end(key, id, RunEnding::Cancel))
    }

    /// Asks a run to end. One that waits for another to end never begins.
    fn ask_to_end(&self, key: &JobKey, id: &str, ending: RunEnding) -> Result<(), EngineError> {
        self.change_runs(key, Room::Ending, |runs| {
            let is_current = runs.current().is_some_and(|current| current.id == id);
            if let Some(run) = runs.runs.iter_mut().find(|run| run.id == id && !run.state.is_finished()) {
                run.ending.get_or_insert(ending);
                if !is_current {
                    run.apply(&RunEvent::Ended, Timestamp::now());
                    // Nobody makes its container any more.
                    drop(locked(&self.jobs.clients).remove(id));
                }
            }
        })
        .map(drop)
    }

    /// Changes the runs of a job that has any. What has happened is kept even where the disk refuses it for now.
    ///
    /// # Errors
    /// The disk's, for what is only asked for (`room` is [`Room::Ordinary`]): it is as it was then.
    fn change_runs<T>(&self, key: &JobKey, room: Room, change: impl FnOnce(&mut Runs) -> T) -> Result<Option<T>, EngineError> {
        let _records = locked(&self.jobs.records);
        let Some(mut runs) = self.state.job_runs(key) else { return Ok(None) };
        let changed = change(&mut runs);
        let journal_key = key.runs_key();
        match room {
            Room::Ordinary => self.state.journal.put(&journal_key, &runs).map_err(state_error)?,
            room => {
                if self.state.journal.put_anyway(&journal_key, &runs, room).is_err() {
                    self.state.owing.notify_one();
                }
            }
        }
        self.jobs.changed.send_modify(|count| *count += 1);
        Ok(Some(changed))
    }

    fn run_of(&self, key: &JobKey, id: &str) -> Option<RecordedRun> {
        self.state.job_runs(key)?.find(id).cloned()
    }

    fn contents_path(&self, id: &str) -> PathBuf {
        self.config.data_root.join("jobs").join(format!("{id}.json"))
    }

    fn write_contents(&self, id: &str, contents: &KeptContents) -> Result<(), EngineError> {
        use std::os::unix::fs::DirBuilderExt;
        let path = self.contents_path(id);
        if contents.configs.is_empty() && contents.secrets.is_empty() {
            let _ = std::fs::remove_file(path);
            return Ok(());
        }
        let doing = || EngineError::io("keeping the configs and secrets of a job");
        std::fs::DirBuilder::new().mode(0o700).recursive(true).create(self.config.data_root.join("jobs")).map_err(doing())?;
        write_manifest(&path, contents).map_err(doing())
    }

    /// The part of a project that a job needs, with the contents of its files.
    fn project_of(&self, record: &JobRecord) -> Project {
        let mut project = record.project.clone();
        let Ok(contents) = read_manifest::<KeptContents>(&self.contents_path(&record.id)) else { return project };
        for (objects, contents) in [(&mut project.configs, contents.configs), (&mut project.secrets, contents.secrets)] {
            for (name, content) in contents {
                if let Some(object) = objects.get_mut(&name) {
                    object.content = Some(content);
                }
            }
        }
        project
    }

    /// The container of a run.
    fn container_of_run(&self, id: &str) -> Option<Arc<Container>> {
        self.containers.all().into_iter().find(|container| container.has_label(LABEL_RUN, id))
    }

    /// Goes on with the runs that an earlier engine has begun, and removes what it was about to remove.
    pub(in crate::engine) fn recover_jobs(self: &Arc<Self>) {
        let records = self.state.journal.all::<JobRecord>(JOBS);
        for (key, _) in records.iter().filter(|(_, record)| record.is_err()) {
            tracing::warn!("the job {key} was registered by another version: it does not run until `up` registers it anew");
        }
        // Before any run goes on: it may register a job that comes before it.
        self.remove_unknown_contents(&records);
        for key in self.state.keys_of_runs() {
            let Some(runs) = self.state.job_runs(&key) else { continue };
            if runs.current().is_some() {
                self.work_on(&key);
            }
            let succeeded = runs.runs.iter().filter(|run| run.state == crate::jobs::RunState::Succeeded);
            for container in succeeded.filter_map(|run| self.container_of_run(&run.id)) {
                let engine = self.clone();
                tokio::spawn(async move { engine.drop_container(&container, Leaves::Log("its run has succeeded")).await });
            }
        }
    }

    /// Removes the files of a registration or a removal that a crash has broken off. A record of another version has a file of its
    /// own, which nobody here knows: they all stay then.
    fn remove_unknown_contents(&self, records: &[(String, Result<JobRecord, String>)]) {
        let Some(known) = records.iter().map(|(_, record)| Some(self.contents_path(&record.as_ref().ok()?.id))).collect() else {
            return;
        };
        let known: HashSet<PathBuf> = known;
        for entry in std::fs::read_dir(self.config.data_root.join("jobs")).into_iter().flatten().flatten() {
            if !known.contains(&entry.path()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Removes a run's container.
    async fn drop_container(self: &Arc<Self>, container: &Arc<Container>, leaves: Leaves) {
        match self.stop_and_remove(container, None, true, leaves).await {
            Ok(()) | Err(EngineError::NoSuch { .. }) => {}
            Err(error) => tracing::error!("removing the container of a run: {error}"),
        }
    }

    /// The containers of a job's runs.
    fn containers_of_job(&self, id: &str) -> Vec<Arc<Container>> {
        self.containers.all().into_iter().filter(|container| container.has_label(LABEL_JOB, id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of a later version has more in it; one of an earlier version less.
    #[test]
    fn records_of_other_versions_are_read() {
        let project = r#"{"name": "p", "later": 1, "jobs": {"a.b": {"image": "x", "later": {}, "triggers": {"schedule": [{"cron": "0 3 * * *"}]}}}}"#;
        let text = format!(
            r#"{{"id": "i", "job": "a.b", "hash": "h", "registered_at": "2026-01-01T00:00:00Z", "project": {project}, "later": []}}"#
        );
        let record: JobRecord = serde_json::from_str(&text).expect("a record");
        assert!(record.definition().is_some_and(|job| job.is_scheduled() && job.service.image.as_deref() == Some("x")));
        assert!(!record.paused);
        let key = record.key();
        assert_eq!((key.as_str(), key.project(), key.job()), ("p.a.b", "p", "a.b"));
        let again: JobRecord = serde_json::from_value(serde_json::to_value(&record).expect("JSON")).expect("a record");
        assert_eq!(again.project, record.project);
    }
}
