//! Following what monitors say, and Docker's restart policies.

use super::health::HealthNews;
use super::link::MonitorLink;
use crate::compose::model::OnUnhealthy;
use crate::engine::error::EngineError;
use crate::engine::record::{BegunStop, ContainerRecord, Health, HealthStatus, Status, Transition, Verdict, verdict};
use crate::engine::{Container, Engine, locked};
use crate::logs::holds::GRACE;
use crate::runtime::control::{self, MonitorEvent, MonitorRequest};
use crate::runtime::error::{FailureReport, SetupStep};
use crate::runtime::launch::Exit;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Reports what has become of a command that runs in a container.
fn on_exec(container: &Container, link: &MonitorLink, id: u64, event: MonitorEvent) {
    let started = matches!(event, MonitorEvent::ExecStarted { .. });
    let awaited = {
        let mut live = locked(&container.live);
        let awaited = live.execs.get(&id).is_some_and(|sender| sender.send(event).is_ok());
        if !started {
            live.execs.remove(&id);
        }
        awaited
    };
    // Whoever wanted it has given up, such as a health check whose time is over.
    if started && !awaited {
        let _ = link.send(&MonitorRequest::SignalExec { id, signal: libc::SIGKILL }, &[]);
    }
}

/// How long a client that has made a container for itself may take to ask for its start.
const UNTIL_START: Duration = Duration::from_secs(30);

impl Engine {
    /// Waits until a new monitor has started its container, and follows it from then on.
    pub(in crate::engine) async fn follow_new(
        self: &Arc<Self>,
        container: &Arc<Container>,
        link: Arc<MonitorLink>,
    ) -> Result<(), EngineError> {
        let (sender, started) = oneshot::channel();
        locked(&container.live).link = Some(link.clone());
        self.clone().spawn_follower(container.clone(), link, Some(sender));
        match started.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(FailureReport { step, message })) => Err(EngineError::Start { name: container.name(), message, step }),
            Err(_) => {
                let message = "its monitor was killed".into();
                Err(EngineError::Start { name: container.name(), message, step: SetupStep::Monitor })
            }
        }
    }

    pub(in crate::engine) fn spawn_follower(
        self: Arc<Self>,
        container: Arc<Container>,
        link: Arc<MonitorLink>,
        started: Option<oneshot::Sender<Result<(), FailureReport>>>,
    ) {
        tokio::spawn(async move { self.follow(container, link, started).await });
    }

    async fn follow(
        self: Arc<Self>,
        container: Arc<Container>,
        link: Arc<MonitorLink>,
        mut started: Option<oneshot::Sender<Result<(), FailureReport>>>,
    ) {
        loop {
            let received = link.receive().await;
            container.heard.notify_waiters();
            let (event, fds) = match received {
                Ok(Some(received)) => received,
                Err(error) if control::is_of_another_version(&error) => {
                    tracing::warn!("the monitor of {} says what this version does not know", container.name());
                    continue;
                }
                Ok(None) | Err(_) => {
                    locked(&container.live).link = None;
                    // EOF without an exit: the monitor was killed, and its container ends with it.
                    self.launcher.groups.end(&container.group()).await;
                    if started.is_none() {
                        let exit = self.config.recorded_exit(&container.id).unwrap_or_else(|| Exit::now(137));
                        self.ended(&container, &exit);
                    }
                    return;
                }
            };
            match event {
                MonitorEvent::Started { pid, at, keeps_mounts, holds_log } => {
                    {
                        // Under the lock: the release of one that leaves now comes after its hold.
                        let mut live = locked(&container.live);
                        live.keeps_mounts = keeps_mounts;
                        let holds = live.followers.monitor_knows(holds_log);
                        holds.into_iter().for_each(|hold| drop(link.send(&MonitorRequest::Hold(hold), &[])));
                    }
                    self.on_started(&container, pid, at);
                    if let Some(sender) = started.take() {
                        let _ = sender.send(Ok(()));
                    }
                }
                MonitorEvent::Failed { message, code, step } => {
                    container.keep_parting(link);
                    match started.take() {
                        Some(sender) => {
                            let step = step.unwrap_or_else(|| SetupStep::of_code(code));
                            drop(sender.send(Err(FailureReport { step, message })));
                        }
                        None => self.ended(&container, &Exit::now(code)),
                    }
                    return;
                }
                MonitorEvent::Exited(exit) => {
                    container.keep_parting(link);
                    self.ended(&container, &exit);
                    return;
                }
                // An answer to the question whether it is there.
                MonitorEvent::Status { .. } => {}
                MonitorEvent::Held { reader } => locked(&container.live).followers.held(reader),
                MonitorEvent::Input => {
                    // Each has asked: all are answered by the first answer, and nobody waits for the others.
                    let waiting = std::mem::take(&mut locked(&container.live).input);
                    let fd = fds.into_iter().next();
                    let copied = || fd.as_ref().and_then(|fd| fd.try_clone().ok());
                    waiting.into_iter().for_each(|sender| drop(sender.send(copied())));
                }
                MonitorEvent::Mount => {
                    if let Some(sender) = locked(&container.live).mounts.pop_front() {
                        let _ = sender.send(fds);
                    }
                }
                MonitorEvent::ExecStarted { id, .. }
                | MonitorEvent::ExecFailed { id, .. }
                | MonitorEvent::ExecExited { id, .. } => {
                    on_exec(&container, &link, id, event);
                }
            }
        }
    }

    fn on_started(self: &Arc<Self>, container: &Arc<Container>, pid: i32, at: Timestamp) {
        // Docker's events of them come before that of the start.
        self.networks.emit_use(container, "connect");
        self.volumes.emit_use(container, "mount");
        self.containers.transition(container, &Transition::Started { pid, at });
        locked(&container.live).started_here = true;
        container.dismiss_parting();
        self.watch_health(container, None);
        self.restart_followers(container);
    }

    /// Watches the health of a container, and acts on it as its service says.
    pub(in crate::engine) fn watch_health(self: &Arc<Self>, container: &Arc<Container>, known: Option<Health>) {
        let engine = self.clone();
        let act = move |container: &Arc<Container>, news| {
            let HealthNews::Unhealthy(todo) = news else { return engine.restart_dependents(container, Timestamp::now()) };
            let (engine, container) = (engine.clone(), container.clone());
            tokio::spawn(async move {
                if let Err(error) = engine.heal(&container, todo).await {
                    tracing::warn!("{} is unhealthy, and: {error}", container.name());
                }
            });
        };
        self.execs.watch_health(container, known, Box::new(act));
    }

    /// Ends a container that is unhealthy, unless somebody else acts on it already.
    async fn heal(self: &Arc<Self>, container: &Arc<Container>, todo: OnUnhealthy) -> Result<(), EngineError> {
        let _guard = container.begin_operation().await?;
        let is_due = |record: &ContainerRecord| {
            let unhealthy = record.state.health.as_ref().is_some_and(|health| health.status == HealthStatus::Unhealthy);
            unhealthy && record.state.status() == Status::Running && !record.stopped_by_user && !record.waits_beside()
        };
        if !container.with_record(is_due) {
            return Ok(());
        }
        match todo {
            OnUnhealthy::Kill => self.stop_locked(container, Some(0), Some(libc::SIGKILL)).await,
            OnUnhealthy::Stop => self.stop_for_good(container, BegunStop::default()).await,
            OnUnhealthy::Restart => {
                self.containers.change(container, |record| {
                    record.unhealthy_restart = true;
                    record.unhealthy_restarts += 1;
                })?;
                let reason = container.with_record(|record| record.state.health.as_ref().and_then(Health::last_words));
                self.containers.emit(container, "restart", &[("reason", format!("unhealthy: {}", reason.unwrap_or_default()))]);
                let stopped = self.stop_locked(container, None, None).await;
                stopped.inspect_err(|_| self.containers.update(container, |record| record.unhealthy_restart = false))
            }
        }
    }

    /// Handles the exit of a container, however it became known: its execs, its health check and, unless it is started
    /// again, its endpoints end; the exit is journaled and its event emitted; then the [`verdict`] is carried out.
    pub(in crate::engine) fn ended(self: &Arc<Self>, container: &Arc<Container>, exit: &Exit) {
        {
            let mut live = locked(&container.live);
            live.execs.clear();
            live.input.clear();
            live.mounts.clear();
            if let Some(health) = live.health.take() {
                health.abort();
            }
        }
        self.execs.container_ended(&container.id);
        let going_down = self.shutdown.host_goes_down();
        let decide = |record: &ContainerRecord| verdict(record, exit, going_down);
        let mut placed = true;
        let verdict = loop {
            let verdict = container.with_record(decide);
            // Its ports are free before anybody can see that it has ended. From then on its place may be that of the next start.
            if placed && !matches!(verdict, Verdict::Restart { .. }) {
                self.networks.detach(container);
                placed = false;
            }
            let noted = self.containers.update(container, |record| {
                // Somebody may have stopped it just now.
                let stands = decide(record) == verdict;
                if stands {
                    record.apply(&Transition::Ended { exit, verdict });
                }
                stands
            });
            if noted {
                break verdict;
            }
        };
        container.dismiss_parting();
        if matches!(verdict, Verdict::Restart { .. }) {
            self.networks.names.set_fit(&container.id, false);
        }
        self.containers.emit_transition(container, &Transition::Ended { exit, verdict });
        self.networks.emit_use(container, "disconnect");
        self.volumes.emit_use(container, "unmount");
        match verdict {
            Verdict::Restart { after, .. } if !going_down => self.restart_after(container, after),
            Verdict::Stay if container.with_record(|record| record.spec.client_removes) => {
                self.clone().remove_ended(container.clone())
            }
            Verdict::Stay => self.drop_late_files(container),
            Verdict::Restart { .. } => {}
            Verdict::Remove => self.clone().remove_ended(container.clone()),
        }
    }

    /// Removes a container that has ended and is not to be kept, once those who follow it have its last lines. A client that
    /// removes it itself may have died, or may be about to come back after the last engine's death.
    pub(in crate::engine) fn remove_ended(self: Arc<Self>, container: Arc<Container>) {
        tokio::spawn(async move {
            let for_client = container.with_record(|record| record.spec.client_removes && !record.spec.auto_remove);
            let may_come_back = for_client && !locked(&container.live).started_here;
            container.wait_until_unfollowed(if may_come_back { GRACE } else { Duration::ZERO }).await;
            match self.remove(&container, false, true).await {
                // Somebody else has removed it, or has started it again.
                Ok(()) | Err(EngineError::NoSuch { .. } | EngineError::Conflict(_)) => {}
                Err(error) => tracing::error!("{error}"),
            }
        });
    }

    /// Removes a container that its client was going to start, to stay with and to remove, where the client has left instead.
    pub fn remove_unless_started(self: &Arc<Self>, container: &Arc<Container>) {
        if !container.with_record(|record| record.spec.client_removes) {
            return;
        }
        let (this, made) = (self.clone(), Arc::downgrade(container));
        tokio::spawn(async move {
            tokio::time::sleep(UNTIL_START).await;
            if let Some(container) = made.upgrade().filter(|container| container.status() == Status::Created) {
                this.remove_ended(container);
            }
        });
    }

    /// Starts a container again when its delay is over, unless somebody has stopped or started it meanwhile.
    pub(in crate::engine) fn restart_after(self: &Arc<Self>, container: &Arc<Container>, delay: Duration) {
        let (this, again) = (self.clone(), container.clone());
        let brought_back = std::mem::take(&mut locked(&container.live).brought_back);
        let task = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            if brought_back {
                this.containers.await_dependencies(&again).await;
            }
            // From here on nobody may abort the task half-way: it does not listen to its handle any more.
            locked(&again.live).restart = None;
            tokio::spawn(async move {
                let Ok(_turn) = again.begin_operation().await else { return };
                if again.status() != Status::Restarting || this.shutdown.host_goes_down() {
                    return;
                }
                let since = Timestamp::now();
                match this.start_locked(&again).await {
                    Ok(()) if !brought_back => this.restart_dependents(&again, since),
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!("restarting {}: {error}", again.name());
                        this.ended(&again, &Exit::now(128));
                    }
                }
            });
        });
        locked(&container.live).restart = Some(task.abort_handle());
    }
}
