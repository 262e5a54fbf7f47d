//! An update that no client notices: the new container starts beside the old one, is looked at until it is good, takes over names
//! and ports, and only then does the old one end. Until it takes over, the old one is not touched.
//!
//! [`judge`] and [`ending`] decide, without a clock or a process.

use super::steps::{or_broken_off, service_spec, superseded};
use super::{Progress, StepContext};
use crate::compose::model::Project;
use crate::engine::containers::health::health_spec;
use crate::engine::containers::incarnations::Leaves;
use crate::engine::error::EngineError;
use crate::engine::record::{Beside, BoundPort, ContainerRecord, HealthStatus, PortSpec, Replacement, RestartPolicy, Status};
use crate::engine::{Container, Engine, locked};
use crate::plan::{FailureAction, Operation, UpOptions, UpdatePolicy};
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Who has asked for the old one's address, or has connected to it, just before the switch, is served before its stop signal.
const LAST_CLIENTS: Duration = Duration::from_millis(250);

/// A container that is to be replaced.
pub(super) struct Update<'a> {
    pub service: &'a str,
    pub number: u32,
    pub name: &'a str,
    pub replaces: &'a str,
    /// How long it has to run where it has no health check.
    pub monitor: Duration,
    /// Before it begins.
    pub delay: Duration,
}

/// Outcomes of the updates of services.
#[derive(Default)]
pub(super) struct Tallies(Mutex<HashMap<String, Tally>>);

#[derive(Clone, Default)]
struct Tally {
    all: usize,
    failed: usize,
    /// Why the first of them has.
    why: Option<String>,
    /// One has failed by what its image does, and not by this machine.
    of_image: bool,
}

impl Tallies {
    pub fn new(all: HashMap<String, usize>) -> Self {
        let tally = |(service, all)| (service, Tally { all, ..Tally::default() });
        Tallies(Mutex::new(all.into_iter().map(tally).collect()))
    }

    fn after(&self, service: &str, policy: &UpdatePolicy) -> Option<FailureAction> {
        let tally = locked(&self.0).get(service).cloned().unwrap_or_default();
        policy.after(tally.failed, tally.all)
    }

    /// Notes that a service is not as it is to be; with `container`, that one of its containers has failed.
    fn failed(&self, service: &str, why: &EngineError, container: bool) {
        let mut tallies = locked(&self.0);
        let tally = tallies.entry(service.to_string()).or_default();
        tally.failed += usize::from(container);
        tally.why.get_or_insert_with(|| why.to_string());
        tally.of_image |= container && !why.is_of_machine();
    }

    /// Whether a container of a service has failed by what its image does.
    pub fn is_of_image(&self, service: &str) -> bool {
        locked(&self.0).get(service).is_some_and(|tally| tally.of_image)
    }

    /// Why a container of a service has failed.
    pub fn why(&self, service: &str) -> Option<String> {
        locked(&self.0).get(service)?.why.clone()
    }

    /// Whether the update of a service has failed, and is to be rolled back.
    fn rolls_back(&self, service: &str, project: &Project, options: &UpOptions) -> bool {
        let is_update = locked(&self.0).get(service).is_some_and(|tally| tally.all > 0);
        let policy = project.services.get(service).map(|service| UpdatePolicy::of(service, options));
        is_update && policy.is_some_and(|policy| self.after(service, &policy) == Some(FailureAction::Rollback))
    }
}

impl StepContext {
    /// Counts the failure of a step with those of its service's update. A rollback that follows is noted: an engine that dies before its
    /// end leaves it to the next.
    pub(super) fn count_failure(&self, operation: &Operation, error: &EngineError) {
        let (service, container) = match operation {
            Operation::CreateContainer { service, .. }
            | Operation::RecreateContainer { service, .. }
            | Operation::UpdateContainer { service, .. }
            | Operation::StartContainer { service, .. }
            | Operation::PreStart { service, .. }
            | Operation::WatchContainer { service, .. } => (service, true),
            Operation::Await { service, .. } => (service, false),
            _ => return,
        };
        self.tallies.failed(service, error, container);
        if self.tallies.rolls_back(service, &self.project, &self.options) {
            self.engine.note_pending_rollback(self, service);
        }
    }
}

/// Whether a container that has started beside another may take over.
#[derive(Debug, PartialEq)]
pub(in crate::engine) enum UpdateVerdict {
    Good,
    Failed(String),
    /// It is to be looked at again when something has changed, or so much later.
    NotYet(Option<Duration>),
}

/// Whether a container is good enough to take over. One that ends is not, however it would be restarted.
pub(in crate::engine) fn judge(record: &ContainerRecord, monitor: Duration, now: Timestamp) -> UpdateVerdict {
    let state = &record.state;
    let name = &record.name;
    if state.status() != Status::Running || record.restart_count > 0 {
        return UpdateVerdict::Failed(match state.status() {
            Status::Paused => format!("{name} was paused"),
            Status::Removing => format!("{name} was removed"),
            _ if state.oom_killed => format!("{name} ran out of memory ({})", state.exit_code),
            _ => format!("{name} exited ({})", state.exit_code),
        });
    }
    let Some(health) = &state.health else {
        if health_spec(record).is_some() {
            return UpdateVerdict::NotYet(None);
        }
        let ran = state.started_at.map_or(Duration::ZERO, |start| now.duration_since(start).try_into().unwrap_or_default());
        return if ran >= monitor { UpdateVerdict::Good } else { UpdateVerdict::NotYet(Some(monitor - ran)) };
    };
    match health.status {
        HealthStatus::Healthy => UpdateVerdict::Good,
        HealthStatus::Starting => UpdateVerdict::NotYet(None),
        HealthStatus::Unhealthy => {
            let said = health.last_words().map(|said| format!(": {said}"));
            UpdateVerdict::Failed(format!("{name} is unhealthy{}", said.unwrap_or_default()))
        }
    }
}

/// The end of a replacement that an earlier engine has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Ending {
    /// The old container goes on, and the new one is removed.
    Undo,
    /// The old one ends, if it is still there, and the new one has its name.
    Finish,
}

/// `touched`: somebody has begun to stop the old container; `None` where it is gone.
pub(in crate::engine) fn ending(replacement: &Replacement, touched: Option<bool>) -> Ending {
    match (touched, replacement.beside) {
        (None, _) | (Some(_), Some(Beside::Switched)) | (Some(true), None) => Ending::Finish,
        (Some(_), Some(Beside::Waiting)) | (Some(false), None) => Ending::Undo,
    }
}

/// Waits for the time between one container and the next, and refuses to go on when too many have failed by then.
pub(super) async fn may_go_on(context: &StepContext, object: &str, service: &str, delay: Duration) -> Result<(), EngineError> {
    let policy = UpdatePolicy::of(&context.project.services[service], &context.options);
    let check = || match context.tallies.after(service, &policy) {
        None => Ok(()),
        Some(_) => {
            context.step(object, "Paused", true);
            Err(EngineError::Paused)
        }
    };
    check()?;
    if delay.is_zero() {
        return Ok(());
    }
    context.step(object, "Delayed", false);
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        error = superseded(context, object) => return Err(error),
    }
    // Another may have failed meanwhile.
    check()
}

/// Replaces a container. `update_config` decides whether others follow one that fails.
pub(super) async fn update(context: &StepContext, object: &str, update: &Update<'_>) -> Result<(), EngineError> {
    may_go_on(context, object, update.service, update.delay).await?;
    let old = context.engine.containers.find(update.replaces)?;
    replace(context, object, update, &old).await
}

/// Waits until a container is good that was started after the one before it had ended.
pub(super) async fn watch(
    context: &StepContext,
    object: &str,
    container: &Arc<Container>,
    monitor: Duration,
) -> Result<(), EngineError> {
    context.step(object, "Waiting", false);
    tokio::select! {
        good = until_good(container, monitor, context.options.wait_timeout) => good.map_err(|why| {
            // A job may be at its end by then.
            let has_done = |record: &ContainerRecord| {
                let again = matches!(record.spec.restart, RestartPolicy::Always | RestartPolicy::UnlessStopped);
                record.state.status() == Status::Exited && record.state.exit_code == 0 && !again
            };
            if container.with_record(has_done) { None } else { Some(why) }
        }),
        error = superseded(context, object) => return Err(error),
    }
    .or_else(|why| why.map_or(Ok(()), |why| Err(EngineError::Conflict(with_last_lines(&context.engine, container, why)))))?;
    context.step(object, "Good", true);
    Ok(())
}

/// Why a container is not good, and the last lines of its log.
fn with_last_lines(engine: &Engine, container: &Container, why: String) -> String {
    match engine.config.last_words(container) {
        lines if lines.is_empty() => why,
        lines => format!("{why}\nits last lines{lines}"),
    }
}

async fn replace(context: &StepContext, object: &str, update: &Update<'_>, old: &Arc<Container>) -> Result<(), EngineError> {
    let engine = &context.engine;
    context.step(object, "Updating", false);
    let spec = service_spec(context, update.service, update.number)?;
    let temporary = format!("{}_{}", &old.id[..12.min(old.id.len())], update.name);
    let replacement = Replacement { id: old.id.clone(), name: update.name.into(), start: true, beside: Some(Beside::Waiting) };
    let before = old.record();
    let inherit_from = Some(&before).filter(|_| !context.renew_anonymous);
    let new = engine.create_in_place(&temporary, spec, inherit_from, Some(replacement))?;
    engine.networks.names.set_leaving(&old.id, true);
    let switched = async {
        engine.launch_files().make(&new.record())?;
        context.expect_follower(&new);
        or_broken_off(context, object, &new, engine.start(&new)).await?;
        context.step(object, "Waiting", false);
        tokio::select! {
            good = until_good(&new, update.monitor, context.options.wait_timeout) => good.map_err(|why| {
                let why = with_last_lines(engine, &new, why);
                let ending = if why.ends_with('\n') { "" } else { "; " };
                EngineError::Conflict(format!("{why}{ending}{} runs on as it was", before.name))
            })?,
            error = superseded(context, object) => return Err(error),
        }
        engine.take_over(&new, old).await
    };
    if let Err(error) = switched.await {
        engine.networks.names.set_leaving(&old.id, false);
        let _ = engine.stop_and_remove(&new, Some(0), false, Leaves::Log("it was not good")).await;
        return Err(error);
    }
    context.step(object, "Draining", false);
    drop(old.take_pre_stop_failure());
    engine.retire(&new, old, update.name, context.timeout).await?;
    if let Some(message) = old.take_pre_stop_failure() {
        context.progress.send(Progress::Error { object: object.into(), message });
    }
    context.step(object, "Updated", true);
    Ok(())
}

/// Waits until a container is good, or fails with why it never will be.
async fn until_good(container: &Container, monitor: Duration, bound: Option<u64>) -> Result<(), String> {
    let good = async {
        loop {
            let mut judged = UpdateVerdict::NotYet(None);
            let change = container.wait_until(|record| {
                judged = judge(record, monitor, Timestamp::now());
                !matches!(judged, UpdateVerdict::NotYet(None))
            });
            change.await;
            match judged {
                UpdateVerdict::Good => return Ok(()),
                UpdateVerdict::Failed(why) => return Err(why),
                UpdateVerdict::NotYet(later) => {
                    let failed = container
                        .wait_until(|record| matches!(judge(record, monitor, Timestamp::now()), UpdateVerdict::Failed(_)));
                    let _either = tokio::time::timeout(later.unwrap_or_default(), failed).await;
                }
            }
        }
    };
    match bound {
        None => good.await,
        Some(seconds) => tokio::time::timeout(Duration::from_secs(seconds), good)
            .await
            .unwrap_or_else(|_| Err(format!("{} was not good within {seconds} s", container.name()))),
    }
}

/// The ports of a container that the one in its place is to have as well, by its definition.
fn kept_ports(old: &ContainerRecord, new: &ContainerRecord) -> Vec<BoundPort> {
    let is_kept = |bound: &&BoundPort| {
        let is_of = |port: &PortSpec| {
            let number = port.published.is_any() || port.published.ports().contains(&bound.host_port);
            number && port.container_port() == bound.container_port()
        };
        new.spec.ports.iter().any(is_of)
    };
    old.bound_ports.iter().filter(is_kept).cloned().collect()
}

impl Engine {
    /// Has a container take over the names and ports of the one that it runs beside. Noted before: the next engine goes on.
    async fn take_over(self: &Arc<Self>, new: &Arc<Container>, old: &Arc<Container>) -> Result<(), EngineError> {
        let _guard = new.begin_operation().await?;
        if !new.status().has_process() {
            return Err(EngineError::Conflict(format!("{} has ended just now; {} runs on as it was", new.name(), old.name())));
        }
        // With its ports, in one step: an engine that dies now leaves them to the next, which publishes them before anything else.
        let ports = kept_ports(&old.record(), &new.record());
        let set = |beside, ports| {
            self.containers.change(new, |record| {
                record.replaces.iter_mut().for_each(|replaced| replaced.beside = Some(beside));
                record.bound_ports = ports;
            })
        };
        set(Beside::Switched, ports)?;
        if let Err(error) = self.networks.switch(old, new) {
            set(Beside::Waiting, Vec::new())?;
            return Err(error);
        }
        let flows = self.networks.flows.clone();
        let forgotten = tokio::task::spawn_blocking(move || flows.forget());
        forgotten.await.map_err(EngineError::from)
    }

    /// Ends the container that another has taken over from, and gives that one its name.
    pub(super) async fn retire(
        self: &Arc<Self>,
        new: &Arc<Container>,
        old: &Arc<Container>,
        name: &str,
        timeout: Option<u64>,
    ) -> Result<(), EngineError> {
        // Before it is touched: no policy brings it back.
        match self.containers.change(old, |record| record.stop_requested(false)) {
            // Somebody else has removed it.
            Err(EngineError::NoSuch { .. }) => return self.take_place(new, name).await,
            changed => drop(changed?),
        }
        if old.status().has_process() {
            tokio::time::sleep(LAST_CLIENTS).await;
        }
        match self.stop_and_remove(old, timeout, false, Leaves::Log("replaced")).await {
            Ok(()) | Err(EngineError::NoSuch { .. }) => self.take_place(new, name).await,
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::{ContainerSpec, Health, HealthSpec, Probe, Transition, Verdict};
    use crate::runtime::launch::Exit;

    fn started(at: i64) -> ContainerRecord {
        let mut record = ContainerRecord::new("id".into(), "new".into(), ContainerSpec::default(), Vec::new());
        record.apply(&Transition::Started { pid: 1, at: Timestamp::from_second(at).expect("time") });
        record
    }

    #[test]
    fn what_is_good_takes_over() {
        let monitor = Duration::from_secs(5);
        let at = |second| Timestamp::from_second(second).expect("time");
        let judged = |record: &ContainerRecord, second| judge(record, monitor, at(second));
        let record = started(100);
        assert_eq!(judged(&record, 103), UpdateVerdict::NotYet(Some(Duration::from_secs(2))));
        assert_eq!(judged(&record, 105), UpdateVerdict::Good);
        assert_eq!(judged(&record, 99), UpdateVerdict::NotYet(Some(monitor)), "the clock was set back");
        let mut ended = started(100);
        let exit = Exit { code: 3, oom_killed: false, finished_at: at(101), started_at: None };
        ended.apply(&Transition::Ended { exit: &exit, verdict: Verdict::Restart { after: Duration::ZERO, attempt: 1 } });
        assert_eq!(judged(&ended, 101), UpdateVerdict::Failed("new exited (3)".into()));
        ended.apply(&Transition::Started { pid: 2, at: at(102) });
        assert!(matches!(judged(&ended, 200), UpdateVerdict::Failed(_)), "it has been restarted");
        let mut checked = started(100);
        checked.spec.health = Some(HealthSpec { test: vec!["CMD".into(), "true".into()], ..HealthSpec::default() });
        assert_eq!(judged(&checked, 200), UpdateVerdict::NotYet(None), "its first check is still to come");
        let probe = Probe { start: at(1), end: at(1), exit_code: 1, output: "no database\n".into() };
        for (status, expected) in [
            (HealthStatus::Starting, UpdateVerdict::NotYet(None)),
            (HealthStatus::Healthy, UpdateVerdict::Good),
            (
                HealthStatus::Unhealthy,
                UpdateVerdict::Failed("new is unhealthy: its health check ended with 1 and says: no database".into()),
            ),
        ] {
            checked.state.health = Some(Health { status, failing_streak: 0, log: vec![probe.clone()] });
            assert_eq!(judged(&checked, 101), expected);
        }
    }

    #[test]
    fn what_was_begun_is_undone_or_finished() {
        let replacement = |beside| Replacement { id: "old".into(), name: "n".into(), start: true, beside };
        // How far it had come, what has become of the old one, the ending.
        let table = [
            (None, Some(false), Ending::Undo),
            (None, Some(true), Ending::Finish),
            (None, None, Ending::Finish),
            (Some(Beside::Waiting), Some(false), Ending::Undo),
            (Some(Beside::Waiting), Some(true), Ending::Undo),
            (Some(Beside::Waiting), None, Ending::Finish),
            (Some(Beside::Switched), Some(false), Ending::Finish),
            (Some(Beside::Switched), Some(true), Ending::Finish),
            (Some(Beside::Switched), None, Ending::Finish),
        ];
        for (beside, touched, expected) in table {
            assert_eq!(ending(&replacement(beside), touched), expected, "{beside:?} {touched:?}");
        }
    }
}
