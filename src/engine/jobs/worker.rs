//! Runs that are carried out: of each job one at a time, by a task that ends with the last of them.
//!
//! A run's record is written before its container is made, and the container has the run's id: an engine that takes over finds by
//! it how far the run has come.

use super::JobKey;
use crate::compose::model::{Concurrency, Project};
use crate::engine::containers::incarnations::Leaves;
use crate::engine::error::EngineError;
use crate::engine::projects::convert::Origin;
use crate::engine::projects::{JobContainer, ProgressSender};
use crate::engine::record::{ContainerRecord, Status};
use crate::engine::state::journal::Room;
use crate::engine::{Container, Engine, locked};
use crate::jobs::{Admission, RecordedRun, RunEnding, RunEvent, RunState, RunTrigger};
use crate::labels::{LABEL_JOB, LABEL_RUN};
use crate::plan::UpOptions;
use crate::wire::Progress;
use futures::future::BoxFuture;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How long a client may take to start the container of its run.
const CLIENT_MAY_TAKE: Duration = Duration::from_secs(30);

/// A run whose client is connected: what it runs by, and who is told of it.
pub(super) struct ClientRun {
    pub project: Project,
    pub options: UpOptions,
    pub origin: Origin,
    pub progress: ProgressSender,
    /// The container's id, once it is made; or why there is none.
    pub made: oneshot::Sender<Result<String, String>>,
}

/// A run that nothing has happened to.
pub(super) fn new_run() -> Result<RecordedRun, EngineError> {
    let id = crate::random::hex::<6>().map_err(EngineError::io("choosing an id"))?;
    Ok(RecordedRun { id, created_at: Timestamp::now(), ..RecordedRun::default() })
}

/// What a run's container is at its end, or that it has none any more.
fn has_ended(record: &ContainerRecord) -> bool {
    let status = record.state.status();
    matches!(status, Status::Exited | Status::Removing) || (status == Status::Created && !record.state.error.is_empty())
}

impl Engine {
    /// Has a task carry out the runs of a job.
    pub(super) fn work_on(self: &Arc<Self>, key: &JobKey) {
        if locked(&self.jobs.working).insert(key.clone()) {
            let (engine, key) = (self.clone(), key.clone());
            tokio::spawn(async move {
                while let Some(run) = engine.next_run(&key) {
                    engine.carry_out(&key, run).await;
                }
            });
        }
    }

    /// The run that is to go on; without one the task ends, and the next run has another.
    fn next_run(&self, key: &JobKey) -> Option<RecordedRun> {
        let mut working = locked(&self.jobs.working);
        let run = self.state.job_runs(key).and_then(|runs| runs.current().cloned());
        if run.is_none() {
            working.remove(key);
        }
        run
    }

    /// Carries a run out, from wherever it is, to its end.
    async fn carry_out(self: &Arc<Self>, key: &JobKey, run: RecordedRun) {
        let client = locked(&self.jobs.clients).remove(&run.id);
        let begins = self.clone().container_for(key, &run, client);
        let container = {
            let mut begins = std::pin::pin!(begins);
            let timeout = self.state.job_record(key).and_then(|record| record.definition()?.timeout);
            let timed_out = async {
                match timeout {
                    Some(timeout) => tokio::time::sleep(timeout.duration()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                begun = &mut begins => begun,
                // It gives up what it waits for.
                () = timed_out => {
                    let _ = self.ask_to_end(key, &run.id, RunEnding::TimeOut);
                    begins.await
                }
            }
        };
        let event = match container {
            Err(event) => event,
            Ok(container) => self.follow_run(key, &run.id, &container).await,
        };
        let finished = self.note(key, &run.id, &event).filter(|run| run.state.is_finished());
        if finished.is_none() && self.run_of(key, &run.id).is_some_and(|run| !run.state.is_finished()) {
            // An event that cannot happen in its state: it would be carried out for ever.
            self.note(key, &run.id, &RunEvent::Failed("it is in a state that it cannot be in".into()));
        }
        let beyond = self.change_runs(key, Room::Ending, |runs| runs.forget_oldest()).ok().flatten().unwrap_or_default();
        if let Some(container) =
            self.container_of_run(&run.id).filter(|_| finished.is_some_and(|run| run.state == RunState::Succeeded))
        {
            let engine = self.clone();
            tokio::spawn(async move {
                // Its client may still read its last lines.
                container.wait_until_unfollowed(Duration::ZERO).await;
                engine.drop_container(&container, Leaves::Log("its run has succeeded")).await;
            });
        }
        for container in beyond.iter().filter_map(|run| self.container_of_run(&run.id)) {
            self.drop_container(&container, Leaves::Log("later runs are kept")).await;
        }
        if let Err(error) = self.state.sync().await {
            tracing::warn!("the end of a run of {} is not on the disk yet: {error}", key.as_str());
        }
    }

    /// Notes what has happened to a run: the run as it is then, where it has changed.
    fn note(&self, key: &JobKey, id: &str, event: &RunEvent) -> Option<RecordedRun> {
        let change = |runs: &mut crate::jobs::Runs| {
            let run = runs.runs.iter_mut().find(|run| run.id == id)?;
            run.apply(event, Timestamp::now()).then(|| run.clone())
        };
        self.change_runs(key, Room::Ending, change).ok().flatten().flatten()
    }

    /// The container of a run, which is made where there is none, and started; or how the run has ended without.
    async fn container_for(
        self: Arc<Self>,
        key: &JobKey,
        run: &RecordedRun,
        client: Option<ClientRun>,
    ) -> Result<Arc<Container>, RunEvent> {
        let failed = |error: EngineError| RunEvent::Failed(error.to_string());
        let (container, made) = match self.container_of_run(&run.id) {
            Some(container) => (container, None),
            None if run.state == RunState::Running => return Err(RunEvent::Failed("its container is gone".into())),
            None if run.attached && client.is_none() => {
                return Err(RunEvent::Failed("the engine has ended before it was started".into()));
            }
            None => {
                let (input, made) = match client {
                    Some(ClientRun { project, options, origin, progress, made }) => {
                        (Some((project, options, origin, progress)), Some(made))
                    }
                    None => (None, None),
                };
                match self.make_container(key, run, input).await {
                    Ok(container) => (container, made),
                    Err(error) => {
                        let asked = self.run_of(key, &run.id).is_none_or(|run| run.ending.is_some());
                        if let Some(made) = made {
                            let _ = made.send(Err(if asked { "the run was cancelled".into() } else { error.to_string() }));
                        }
                        return Err(if asked { RunEvent::Ended } else { failed(error) });
                    }
                }
            }
        };
        if container.status() != Status::Created || container.with_record(has_ended) {
            return Ok(container);
        }
        if run.attached {
            let Some(made) = made else {
                // Its client has gone with the engine before this one.
                self.drop_container(&container, Leaves::Nothing).await;
                return Err(RunEvent::Failed("the engine has ended before it was started".into()));
            };
            let gone = made.send(Ok(container.id.clone())).is_err();
            let started = container.wait_until(|record| record.state.status() != Status::Created || has_ended(record));
            tokio::select! {
                () = started, if !gone => return Ok(container),
                () = self.asked_to_end(key, &run.id) => {}
                () = tokio::time::sleep(CLIENT_MAY_TAKE), if !gone => {}
            }
            if container.status() != Status::Created {
                return Ok(container);
            }
            self.drop_container(&container, Leaves::Nothing).await;
            let asked = self.run_of(key, &run.id).is_none_or(|run| run.ending.is_some());
            return Err(if asked {
                RunEvent::Ended
            } else {
                RunEvent::Failed("its client has left before it was started".into())
            });
        }
        let started = self.start(&container).await;
        if let Some(made) = made {
            let _ = made.send(started.as_ref().map(|()| container.id.clone()).map_err(ToString::to_string));
        }
        match started {
            Ok(()) => Ok(container),
            Err(_) if container.with_record(has_ended) => Ok(container),
            Err(error) => Err(failed(error)),
        }
    }

    /// Follows a run whose container was started.
    async fn follow_run(self: &Arc<Self>, key: &JobKey, id: &str, container: &Arc<Container>) -> RunEvent {
        self.note(key, id, &RunEvent::Started);
        let started_at = container.with_record(|record| record.state.started_at).unwrap_or_else(Timestamp::now);
        let timeout = self.state.job_record(key).and_then(|record| record.definition()?.timeout);
        let mut asked = false;
        while !container.with_record(has_ended) {
            let left = timeout.map(|timeout| {
                let ran = Duration::try_from(Timestamp::now().duration_since(started_at)).unwrap_or_default();
                timeout.duration().saturating_sub(ran)
            });
            let timed_out = async {
                match left {
                    Some(left) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = container.wait_until(has_ended) => {}
                () = self.asked_to_end(key, id), if !asked => {
                    asked = true;
                    self.end_container(container).await;
                }
                () = timed_out, if !asked => {
                    asked = true;
                    let _ = self.ask_to_end(key, id, RunEnding::TimeOut);
                    self.end_container(container).await;
                }
            }
        }
        let (code, error, gone) = container.with_record(|record| {
            let state = &record.state;
            (state.exit_code, state.error.clone(), state.status() == Status::Removing && state.finished_at.is_none())
        });
        match (error.is_empty(), gone) {
            (false, _) => RunEvent::Failed(error),
            (true, true) => RunEvent::Failed("its container is gone".into()),
            (true, false) => RunEvent::Exited(code),
        }
    }

    async fn end_container(self: &Arc<Self>, container: &Arc<Container>) {
        match self.stop(container, None, None).await {
            Ok(()) | Err(EngineError::NoSuch { .. } | EngineError::NotRunning { .. }) => {}
            Err(error) => tracing::error!("ending a run: {error}"),
        }
    }

    /// Ends when a run is to end, or nobody knows it any more.
    async fn asked_to_end(&self, key: &JobKey, id: &str) {
        let mut changes = self.jobs.changed.subscribe();
        loop {
            changes.borrow_and_update();
            if self.run_of(key, id).is_none_or(|run| run.ending.is_some() || run.state.is_finished()) {
                return;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits for the end of a run; `None` where nobody knows it any more.
    pub(super) async fn finished(&self, key: &JobKey, id: &str) -> Option<RecordedRun> {
        let mut changes = self.jobs.changed.subscribe();
        loop {
            changes.borrow_and_update();
            let run = self.run_of(key, id)?;
            if run.state.is_finished() {
                return Some(run);
            }
            changes.changed().await.ok()?;
        }
    }

    /// Makes a run's container: what it depends on comes first.
    async fn make_container(
        self: &Arc<Self>,
        key: &JobKey,
        run: &RecordedRun,
        client: Option<(Project, UpOptions, Origin, ProgressSender)>,
    ) -> Result<Arc<Container>, EngineError> {
        let gone = || EngineError::Conflict(format!("the job {} is not registered", key.as_str()));
        let record = self.state.job_record(key).ok_or_else(gone)?;
        let (project, options, origin, shown) = match client {
            Some((project, options, origin, progress)) => (project, options, origin, Some(progress)),
            None => {
                // What runs is left as it is: it may be of a later `up`.
                let options = UpOptions { no_recreate: true, ignore_orphans: true, ..UpOptions::default() };
                let (config_files, working_dir) = (record.config_files.clone(), record.working_dir.clone());
                let origin = Origin { config_files, working_dir, proxies: record.proxies.clone() };
                (self.project_of(&record), options, origin, None)
            }
        };
        if !options.no_deps {
            let left = async {
                match &shown {
                    Some(shown) => shown.closed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ran = self.run_jobs_before(&project, key.job(), &origin, shown.is_some()) => ran?,
                () = self.asked_to_end(key, &run.id) => return Err(EngineError::Cancelled),
                () = left => {
                    self.ask_to_end(key, &run.id, RunEnding::Cancel)?;
                    return Err(EngineError::Cancelled);
                }
            }
        }
        let (sender, mut steps) = mpsc::unbounded_channel::<Progress>();
        let (cancel, cancelled) = watch::channel(false);
        let progress = ProgressSender::new(sender, cancelled);
        let container = JobContainer {
            job: key.job().into(),
            name: [key.project(), key.job(), "run", &run.id].join(if options.compatible_names { "_" } else { "-" }),
            labels: [(LABEL_JOB.to_string(), record.id.clone()), (LABEL_RUN.to_string(), run.id.clone())].into(),
            project,
            options,
            origin,
        };
        let wanted = || self.run_of(key, &run.id).is_some_and(|run| run.ending.is_none());
        let making = self.make_job_container(container, progress, &wanted);
        let showing = async {
            while let Some(step) = steps.recv().await {
                shown.iter().for_each(|shown| shown.send(step.clone()));
            }
        };
        let watching = async {
            match &shown {
                Some(shown) => tokio::select! {
                    () = self.asked_to_end(key, &run.id) => {}
                    () = shown.closed() => drop(self.ask_to_end(key, &run.id, RunEnding::Cancel)),
                },
                None => self.asked_to_end(key, &run.id).await,
            }
            let _ = cancel.send(true);
            std::future::pending::<()>().await
        };
        let (made, ()) = tokio::select! {
            done = async { tokio::join!(making, showing) } => done,
            () = watching => unreachable!("it has no end"),
        };
        let container = made?;
        let id = container.id.clone();
        self.change_runs(key, Room::Ending, |runs| {
            runs.runs.iter_mut().filter(|known| known.id == run.id).for_each(|run| run.container = Some(id.clone()));
        })?;
        Ok(container)
    }

    /// Runs the jobs that a job depends on, each to its end, one after the other. With `newest`, the project is as a
    /// client has read it just now; otherwise they run as they are registered.
    fn run_jobs_before<'a>(
        self: &'a Arc<Self>,
        project: &'a Project,
        job: &'a str,
        origin: &'a Origin,
        newest: bool,
    ) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move {
            let Some(definition) = project.jobs.get(job) else { return Ok(()) };
            for (name, dependency) in &definition.service.depends_on {
                let Some(before) = project.jobs.get(name) else { continue };
                let result = match before.is_manual() {
                    true => self.run_before(project, name, origin, newest).await,
                    false => Err(EngineError::Conflict(format!(
                        "the job `{name}` has `manual: false`, and runs neither by itself nor for `{job}`"
                    ))),
                };
                match result {
                    Err(error) if dependency.required => return Err(error),
                    Err(error) => tracing::warn!("the optional dependency {name} of the job {job}: {error}"),
                    Ok(()) => {}
                }
            }
            Ok(())
        })
    }

    async fn run_before(
        self: &Arc<Self>,
        project: &Project,
        job: &str,
        origin: &Origin,
        newest: bool,
    ) -> Result<(), EngineError> {
        let key = JobKey::new(&project.name, job);
        if newest || self.state.job_record(&key).is_none() {
            self.register_job(project, job, origin)?;
        }
        let run = RecordedRun { trigger: RunTrigger::Dependency, ..new_run()? };
        let mut id = run.id.clone();
        match self.change_runs(&key, Room::Ordinary, |runs| runs.admit(run, Concurrency::Queue))? {
            Some(Admission::Joined(other)) => id = other,
            _ => self.work_on(&key),
        }
        let ended = self.finished(&key, &id).await;
        match ended {
            Some(run) if run.state == RunState::Succeeded => Ok(()),
            Some(run) => Err(EngineError::Conflict(format!("the job `{job}`, which comes before, {}", how_it_ended(&run)))),
            None => Err(EngineError::Conflict(format!("the job `{job}`, which comes before, was removed"))),
        }
    }
}

/// `has failed (3): why`.
pub(super) fn how_it_ended(run: &RecordedRun) -> String {
    let code = run.exit_code.map(|code| format!(" ({code})")).unwrap_or_default();
    let why = run.error.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    let how = match run.state {
        RunState::Pending | RunState::Running => "has not ended",
        RunState::Succeeded => "has succeeded",
        RunState::Failed => "has failed",
        RunState::TimedOut => "has taken too long",
        RunState::Cancelled => "was cancelled",
    };
    format!("{how}{code}{why}")
}
