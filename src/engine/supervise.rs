//! Following what monitors say, and Docker's restart policies.

use super::error::EngineError;
use super::link::MonitorLink;
use super::record::{RestartPolicy, Status};
use super::{Container, Engine, locked};
use crate::runtime::control::Event;
use crate::runtime::launch::Exit;
use jiff::Timestamp;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// Docker's back-off: it begins here, doubles, and starts over when a container has run long enough.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
const LONG_ENOUGH: i64 = 10;
/// A program may have written so long before its monitor noticed that it runs.
pub(super) const OUTPUT_BEFORE_START: jiff::SignedDuration = jiff::SignedDuration::from_millis(50);

impl Engine {
    /// Waits until a new monitor has started its container, and follows it from then on.
    pub(super) async fn follow_new(
        self: &Arc<Self>,
        container: &Arc<Container>,
        link: Arc<MonitorLink>,
    ) -> Result<(), EngineError> {
        let (sender, started) = oneshot::channel();
        locked(&container.live).link = Some(link.clone());
        self.clone().spawn_follower(container.clone(), link, Some(sender));
        match started.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err((message, code))) => Err(EngineError::Start { name: container.name(), message, code }),
            Err(_) => Err(EngineError::Start { name: container.name(), message: "its monitor was killed".into(), code: 128 }),
        }
    }

    pub(super) fn spawn_follower(
        self: Arc<Self>,
        container: Arc<Container>,
        link: Arc<MonitorLink>,
        started: Option<oneshot::Sender<Result<(), (String, i32)>>>,
    ) {
        tokio::spawn(async move { self.follow(container, link, started).await });
    }

    async fn follow(
        self: Arc<Self>,
        container: Arc<Container>,
        link: Arc<MonitorLink>,
        mut started: Option<oneshot::Sender<Result<(), (String, i32)>>>,
    ) {
        loop {
            let (event, fds) = match link.receive().await {
                Ok(Some(received)) => received,
                Ok(None) | Err(_) => {
                    locked(&container.live).link = None;
                    if started.is_none() {
                        // A monitor that goes without a word was killed, and its container with it.
                        self.cgroups.kill(&container.group());
                        let exit = self.recorded_exit(&container.id).unwrap_or(Exit {
                            code: 137,
                            oom_killed: false,
                            finished_at: Timestamp::now(),
                            started_at: None,
                        });
                        self.on_exit(&container, &exit);
                    }
                    self.cgroups.remove(&container.group());
                    return;
                }
            };
            match event {
                Event::Started { pid, at, keeps_mounts } => {
                    locked(&container.live).keeps_mounts = keeps_mounts;
                    self.on_started(&container, pid, at);
                    if let Some(sender) = started.take() {
                        let _ = sender.send(Ok(()));
                    }
                }
                Event::Failed { message, code } => {
                    locked(&container.live).link = None;
                    match started.take() {
                        Some(sender) => drop(sender.send(Err((message, code)))),
                        None => self.on_exit(
                            &container,
                            &Exit { code, oom_killed: false, finished_at: Timestamp::now(), started_at: None },
                        ),
                    }
                    return;
                }
                Event::Exited(exit) => {
                    locked(&container.live).link = None;
                    self.on_exit(&container, &exit);
                    return;
                }
                Event::Status { pid, started_at, paused, keeps_mounts } => {
                    locked(&container.live).keeps_mounts = keeps_mounts;
                    self.update(&container, |record| {
                        record.state.pid = pid;
                        record.state.started_at = Some(started_at);
                        record.state.status = if paused { Status::Paused } else { Status::Running };
                    });
                }
                Event::Input => {
                    let waiting = std::mem::take(&mut locked(&container.live).input);
                    let mut fd = fds.into_iter().next();
                    waiting.into_iter().for_each(|sender| drop(sender.send(fd.take())));
                }
                Event::Mount => {
                    if let Some(sender) = locked(&container.live).mounts.pop_front() {
                        let _ = sender.send(fds);
                    }
                }
                Event::ExecStarted { id, .. } | Event::ExecFailed { id, .. } | Event::ExecExited { id, .. } => {
                    let mut live = locked(&container.live);
                    let over = !matches!(event, Event::ExecStarted { .. });
                    if let Some(sender) = live.execs.get(&id) {
                        let _ = sender.send(event);
                    }
                    if over {
                        live.execs.remove(&id);
                    }
                }
            }
        }
    }

    fn on_started(self: &Arc<Self>, container: &Arc<Container>, pid: i32, at: Timestamp) {
        self.update(container, |record| {
            record.state.status = Status::Running;
            record.state.pid = pid;
            record.state.started_at = Some(at);
            // Not before it had ended the last time.
            let noticed = at - OUTPUT_BEFORE_START;
            let ended = record.state.finished_at.map(|ended| ended + jiff::SignedDuration::from_nanos(1));
            record.state.output_since = Some(ended.map_or(noticed, |ended| ended.max(noticed)));
            record.state.error.clear();
            record.state.oom_killed = false;
        });
        self.emit_container(container, "start", &[]);
        self.watch_health(container);
    }

    /// What a monitor has written about the end of a container.
    pub(super) fn recorded_exit(&self, id: &str) -> Option<Exit> {
        serde_json::from_slice(&std::fs::read(self.container_directory(id).join("exit.json")).ok()?).ok()
    }

    /// Notes an exit and does what the restart policy says.
    pub(super) fn on_exit(self: &Arc<Self>, container: &Arc<Container>, exit: &Exit) {
        {
            let mut live = locked(&container.live);
            live.execs.clear();
            live.input.clear();
            live.mounts.clear();
            if let Some(health) = live.health.take() {
                health.abort();
            }
        }
        let record = container.record();
        let ran_for = record.state.started_at.map_or(0, |start| exit.finished_at.duration_since(start).as_nanos());
        // A restart that has succeeded begins the count of attempts anew.
        let succeeded = record.spec.restart_window.is_some_and(|window| ran_for >= i128::from(window));
        let restarts = if succeeded { 0 } else { record.restart_count };
        let again = should_restart(record.spec.restart, exit.code, restarts, record.stopped_by_user);
        let ran_long =
            record.state.started_at.is_some_and(|start| exit.finished_at.as_second() - start.as_second() >= LONG_ENOUGH);
        let going_down = self.going_down.load(Ordering::Acquire);
        if !again {
            self.unplace(container);
        }
        self.update(container, |record| {
            record.state.status = if again { Status::Restarting } else { Status::Exited };
            record.state.pid = 0;
            record.state.exit_code = exit.code;
            record.state.oom_killed = exit.oom_killed;
            record.state.finished_at = Some(exit.finished_at);
            if again && !going_down {
                record.restart_count = restarts + 1;
            }
        });
        if exit.oom_killed {
            self.emit_container(container, "oom", &[]);
        }
        self.emit_container(container, "die", &[("exitCode", exit.code.to_string())]);
        if !again && record.spec.auto_remove {
            self.clone().remove_ended(container.clone());
        }
        if again && !going_down {
            let delay = {
                let mut live = locked(&container.live);
                let delay = match live.backoff {
                    Some(delay) if !ran_long => (delay * 2).min(LONGEST_DELAY),
                    _ => FIRST_DELAY,
                };
                live.backoff = Some(delay);
                record.spec.restart_delay.map_or(delay, Duration::from_nanos)
            };
            self.restart_after(container, delay);
        }
    }

    /// Removes a container that has ended and is not to be kept.
    pub(super) fn remove_ended(self: Arc<Self>, container: Arc<Container>) {
        tokio::spawn(async move {
            match self.remove(&container, false, true).await {
                // Somebody else has removed it, or has started it again.
                Ok(()) | Err(EngineError::NoSuch { .. } | EngineError::Conflict(_)) => {}
                Err(error) => tracing::error!("{error}"),
            }
        });
    }

    /// Starts a container again when its delay is over, unless somebody has stopped or started it meanwhile.
    pub(super) fn restart_after(self: &Arc<Self>, container: &Arc<Container>, delay: Duration) {
        let (this, again) = (self.clone(), container.clone());
        let task = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            // From here on nobody may abort the task half-way: it does not listen to its handle any more.
            locked(&again.live).restart = None;
            tokio::spawn(async move {
                let _operation = again.operation.lock().await;
                if again.status() != Status::Restarting || this.going_down.load(Ordering::Acquire) {
                    return;
                }
                if let Err(error) = this.start_locked(&again).await {
                    tracing::warn!("restarting {}: {error}", again.name());
                    let exit = Exit { code: 128, oom_killed: false, finished_at: Timestamp::now(), started_at: None };
                    this.on_exit(&again, &exit);
                }
            });
        });
        locked(&container.live).restart = Some(task.abort_handle());
    }
}

/// Docker's rule for each policy.
pub(super) fn should_restart(policy: RestartPolicy, code: i32, restarts: u32, stopped_by_user: bool) -> bool {
    !stopped_by_user
        && match policy {
            RestartPolicy::No => false,
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
            RestartPolicy::OnFailure { max } => code != 0 && (max == 0 || restarts < max),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_dockers() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        let table = [
            (No, 1, 0, false, false),
            (Always, 0, 99, false, true),
            (Always, 0, 0, true, false),
            (UnlessStopped, 1, 0, false, true),
            (OnFailure { max: 0 }, 0, 0, false, false),
            (OnFailure { max: 0 }, 1, 50, false, true),
            (OnFailure { max: 2 }, 1, 1, false, true),
            (OnFailure { max: 2 }, 1, 2, false, false),
        ];
        for (policy, code, restarts, stopped, expected) in table {
            assert_eq!(should_restart(policy, code, restarts, stopped), expected, "{policy:?} {code} {restarts} {stopped}");
        }
    }
}
