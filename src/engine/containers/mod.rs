//! A container's life: created, started, stopped, removed.

pub mod container;
mod create;
pub(super) mod dependencies;
mod donors;
pub mod exec;
pub mod files;
pub mod followers;
pub(super) mod health;
pub(super) mod hooks;
pub mod incarnations;
mod leftovers;
pub(super) mod link;
pub mod path_stat;
pub(super) mod registry;
pub(super) mod setup;
pub(super) mod sharing;
pub mod signals;
pub(super) mod supervise;
mod tracers;
pub mod usage;
mod uses;
pub mod verify;

use super::error::{EngineError, state_error};
use super::networks::DEFAULT_NETWORK;
use super::networks::endpoints::Attached;
use super::record::{BegunStop, ContainerRecord, ContainerSpec, Status, Transition};
use super::recovery::RecordKind;
use super::{Container, Engine, locked};
use crate::engine::containers::container::OperationGuard;
use crate::engine::containers::incarnations::Leaves;
use crate::engine::containers::link::MonitorLink;
use crate::engine::containers::setup::Setup;
use crate::engine::launch::{etc, find_runtime, oci_limits};
use crate::engine::state::directories::DirectoryRemoval;
use crate::runtime::control::MonitorRequest;
use crate::runtime::error::SetupStep;
use crate::runtime::launch::{Exit, Join};
use crate::runtime::quota;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Docker's, where neither service nor image says another.
const DEFAULT_STOP_TIMEOUT: u64 = 10;
/// The end of a container that was killed is known at once, or something is wrong.
const KILLED_AT_ONCE: Duration = Duration::from_secs(1);
const KILLED_AT_LAST: Duration = Duration::from_secs(30);
/// A start takes milliseconds; one that takes this long waits for something, such as a disk that does not answer.
pub(in crate::engine) const START_MAY_TAKE: Duration = Duration::from_secs(5);

fn broken_off(name: &str) -> EngineError {
    let message = format!(
        "it was not set up within {} s, and was broken off: a mount of it, or its volume, may be on a disk that does not answer",
        START_MAY_TAKE.as_secs()
    );
    EngineError::Start { name: name.into(), message, step: SetupStep::Mounts }
}

/// The signal by which a container is stopped.
fn stop_signal(record: &ContainerRecord) -> i32 {
    record.stop_signal().and_then(signals::parse_signal).unwrap_or(libc::SIGTERM)
}

impl Engine {
    /// Starts a container; one that runs is left alone.
    ///
    /// # Errors
    /// Why it cannot run; it is as it was then, with the reason in its state.
    pub async fn start(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), EngineError> {
        let _guard = container.begin_operation().await?;
        if container.status().has_process() {
            return self.containers.take_back_stale_stop(container);
        }
        if let Some(timer) = locked(&container.live).restart.take() {
            timer.abort();
        }
        self.containers.change(container, ContainerRecord::start_requested)?;
        self.prepare(container).await?;
        let started = self.start_locked(container).await;
        container.dismiss_parting();
        started?;
        self.execs.run_hooks(container, |spec| &spec.post_start, "post_start").await
    }

    /// Starts a container whose operation lock the caller holds.
    pub(super) async fn start_locked(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), EngineError> {
        let result = self.try_start(container).await;
        if let Err(error) = &result {
            self.networks.detach(container);
            let step = if let EngineError::Start { step, .. } = error { *step } else { SetupStep::Monitor };
            let code = step.exit_code();
            let text = error.to_string();
            self.containers.transition(container, &Transition::StartFailed { message: &text, code });
        }
        result
    }

    async fn try_start(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), EngineError> {
        let mut slot = self.launcher.starting.acquire().await;
        let record = container.record();
        let placed = self.networks.attach(container).await?;
        let record = ContainerRecord { endpoints: container.record().endpoints, ..record };
        let mut joined: Vec<(Join, Arc<OwnedFd>)> = placed.namespace.clone().map(|fd| (Join::Network, fd)).into_iter().collect();
        let by_other_runtime = find_runtime(record.spec.runtime.as_deref()).is_ok_and(|program| program.is_some());
        joined.extend(self.containers.shared_namespaces(&record, by_other_runtime)?);
        let mut guards = Vec::new();
        let mut shared = Vec::new();
        let volumes = self.volumes.own_file_systems(&record);
        if !volumes.is_empty() || record.spec.ipc.container().is_some() {
            // Others may keep it waiting for seconds, and must not keep all starts waiting.
            drop(slot);
            // Held until it runs: the next one finds the file systems that it has mounted.
            for name in volumes {
                guards.push(self.volumes.mounting.take(&name).await);
            }
            for mount in self.volumes.shared_mounts(&record).await? {
                joined.extend([(Join::MountNamespace, mount.namespace), (Join::Mount, mount.mount)]);
                shared.push(mount.destination);
            }
            slot = self.launcher.starting.acquire().await;
        }
        let setup = Setup::new();
        locked(&container.live).setup = setup.breakable();
        let mut running = std::pin::pin!(self.set_up(container, record, setup, placed, (joined, shared)));
        match tokio::time::timeout(START_MAY_TAKE, &mut running).await {
            Ok(ended) => ended,
            Err(_) => {
                // It may wait for a disk that does not answer, and other starts need not.
                drop(slot);
                running.await
            }
        }
    }

    /// Starts the monitor, and waits until the container's program runs.
    async fn set_up(
        self: &Arc<Self>,
        container: &Arc<Container>,
        mut record: ContainerRecord,
        setup: Setup,
        placed: Attached,
        (joined, shared): (Vec<(Join, Arc<OwnedFd>)>, Vec<PathBuf>),
    ) -> Result<(), EngineError> {
        let (this, started, gate) = (self.clone(), container.clone(), setup.clone());
        // Files, a fork and an exec: off the threads that answer requests.
        let spawned = tokio::task::spawn_blocking(move || -> Result<_, EngineError> {
            let run = this.config.run_directory(&record.id);
            // Which disk it is that refuses: the run root is another than the data root.
            let doing = |at: &Path| EngineError::io(format!("preparing the container {} in {}", record.name, at.display()));
            fs::create_dir_all(&run).map_err(doing(&run))?;
            if let Some(directory) = this.config.output_path(&record).parent() {
                fs::create_dir_all(directory).map_err(doing(directory))?;
            }
            let gateway = this.networks.host_gateway(&record);
            let etc_directory = this.config.etc_directory(&record.id);
            etc::write(&this.containers, &record, &etc_directory, placed.addresses, gateway)?;
            let scope;
            (record.control_group, scope) = this.launcher.groups.choose(&record)?;
            // Journaled with the start: without that it is nobody's.
            locked(&started.record).control_group.clone_from(&record.control_group);
            let mut launch = this.launch_files().make(&record)?;
            launch.joins = joined.iter().map(|(join, _)| *join).collect();
            launch.shared = shared;
            (launch.log.holds, launch.log.expected) = locked(&started.live).followers.for_launch();
            let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|e| doing(&run)(e.into()))?;
            let mut fds = vec![theirs.as_fd()];
            fds.extend(joined.iter().map(|(_, fd)| fd.as_fd()));
            let spawn = || -> Result<_, EngineError> {
                let write = |path: &Path, json: serde_json::Result<Vec<u8>>| -> Result<(), EngineError> {
                    json.map_err(io::Error::from).and_then(|json| fs::write(path, json)).map_err(doing(path))
                };
                write(&run.join("launch.json"), serde_json::to_vec(&launch))?;
                // For an engine whose journal has lost it.
                write(&this.config.start_record(&record.id), serde_json::to_vec(&record))?;
                let exit = this.config.exit_file(&record.id);
                Exit::reserve(&exit).map_err(doing(&exit))?;
                this.launcher.spawn(&run, &fds)
            };
            let monitor = gate.unless_broken_off(spawn).ok_or_else(|| broken_off(&record.name))??;
            Ok((ours, monitor, scope))
        });
        let followed = async {
            let (socket, monitor, _scope) = spawned.await.map_err(EngineError::from)??;
            let link = Arc::new(MonitorLink::new(socket, monitor).map_err(EngineError::io("talking to the monitor"))?);
            self.follow_new(container, link).await
        };
        tokio::select! {
            followed = followed => followed,
            () = setup.broken_off() => Err(broken_off(&container.name())),
        }
    }

    /// Ends a container that is being set up, whatever that waits for. Its start fails.
    pub(in crate::engine) fn break_off_start(&self, container: &Container) {
        // While the monitor is spawned, this waits: without the lock.
        let setup = std::mem::take(&mut locked(&container.live).setup);
        if !setup.break_off() {
            return;
        }
        tracing::warn!(
            "the start of {} goes on for more than {} s: it is broken off",
            container.name(),
            START_MAY_TAKE.as_secs()
        );
        self.launcher.groups.hierarchy.kill(&container.group());
        container.link().iter().for_each(|link| link.kill_monitor());
    }

    /// Waits for the right to end a container, and breaks off a start that does not come to its end.
    async fn begin_end<'a>(&self, container: &'a Container) -> Result<OperationGuard<'a>, EngineError> {
        if let Ok(guard) = tokio::time::timeout(START_MAY_TAKE, container.begin_operation()).await {
            return guard;
        }
        self.break_off_start(container);
        container.begin_operation().await
    }

    /// Stops a container: its stop signal, or another, its grace period in seconds, SIGKILL.
    ///
    /// # Errors
    /// When the container cannot be signalled.
    pub async fn stop(
        self: &Arc<Self>,
        container: &Arc<Container>,
        timeout: Option<u64>,
        signal: Option<i32>,
    ) -> Result<(), EngineError> {
        let _guard = self.begin_end(container).await?;
        self.stop_for_good(container, BegunStop { timeout, signal }).await
    }

    /// Stops a container whose operation lock the caller holds. The next engine goes on where this one dies.
    pub(super) async fn stop_for_good(self: &Arc<Self>, container: &Arc<Container>, stop: BegunStop) -> Result<(), EngineError> {
        let was_stopped = self.containers.change(container, |record| record.begin_stop(stop, false))?;
        let stopped = self.stop_locked(container, stop.timeout, stop.signal).await;
        stopped.inspect_err(|_| self.containers.take_back_stop(container, was_stopped))
    }

    pub(super) async fn stop_locked(
        self: &Arc<Self>,
        container: &Arc<Container>,
        timeout: Option<u64>,
        signal: Option<i32>,
    ) -> Result<(), EngineError> {
        if let Some(timer) = locked(&container.live).restart.take() {
            timer.abort();
        }
        let record = container.record();
        if record.state.status() == Status::Restarting {
            self.networks.detach(container);
            self.containers.transition(container, &Transition::RestartCancelled);
            container.dismiss_parting();
            self.containers.emit(container, "stop", &[]);
            return Ok(());
        }
        if !record.state.status().is_alive() {
            return Ok(());
        }
        if record.state.status() == Status::Paused {
            self.containers.set_paused(container, false).await?;
        }
        let seconds = timeout.or(record.spec.stop_timeout).unwrap_or(DEFAULT_STOP_TIMEOUT);
        if !record.spec.pre_stop.is_empty() {
            // What a hook cannot do, or not in the container's own grace period, must not keep it from being stopped. A shorter
            // time of the command is about the container's process.
            let seconds = seconds.max(record.spec.stop_timeout.unwrap_or(DEFAULT_STOP_TIMEOUT));
            let hooks = self.execs.run_hooks(container, |spec| &spec.pre_stop, "pre_stop");
            let failure = match tokio::time::timeout(Duration::from_secs(seconds), hooks).await {
                Ok(ran) => ran.err().map(|error| error.to_string()),
                Err(_) => Some(format!("the pre_stop hooks of {} took longer than {seconds} s", record.name)),
            };
            failure.iter().for_each(|why| tracing::warn!("{why}"));
            locked(&container.live).pre_stop_failure = failure;
        }
        let signal = signal.unwrap_or_else(|| stop_signal(&record));
        // At a shutdown it is about to be restarted then, by another engine.
        let over = |record: &ContainerRecord| !record.state.status().has_process();
        // One that has ended by itself just now is stopped as well, once its end is noticed.
        let send = |signal: i32| {
            // Before its end can be reported.
            self.containers.emit(container, "kill", &[("signal", signal.to_string())]);
            match container.ask(&MonitorRequest::Signal(signal), &[]) {
                Err(EngineError::NotRunning { .. }) => Ok(()),
                sent => sent,
            }
        };
        send(signal)?;
        let stopped = container.wait_until(over);
        if signal != libc::SIGKILL && tokio::time::timeout(Duration::from_secs(seconds), stopped).await.is_err() {
            send(libc::SIGKILL)?;
        }
        self.await_killed(container).await?;
        self.containers.emit(container, "stop", &[]);
        Ok(())
    }

    /// Waits for the end of a container that was sent SIGKILL. A monitor that hangs reports none: it is killed with the container.
    async fn await_killed(&self, container: &Container) -> Result<(), EngineError> {
        let over = |record: &ContainerRecord| !record.state.status().has_process();
        if tokio::time::timeout(KILLED_AT_ONCE, container.wait_until(over)).await.is_ok() {
            return Ok(());
        }
        if !container.monitor_answers(crate::engine::containers::exec::SILENCE).await
            && let Some(link) = container.link()
        {
            tracing::warn!("the monitor of {} does not answer; it is killed", container.name());
            self.launcher.groups.hierarchy.kill(&container.group());
            link.kill_monitor();
        }
        tokio::time::timeout(KILLED_AT_LAST, container.wait_until(over)).await.map_err(|_| {
            EngineError::Conflict(format!(
                "the container {} goes on though it was killed: the kernel keeps one of its processes, perhaps for a disk that does not answer",
                container.name()
            ))
        })
    }

    /// Changes the limits and the restart policy of a container, of a running one at once.
    ///
    /// # Errors
    /// A limit that the kernel refuses; nothing is changed in the state then.
    pub fn update_limits(&self, container: &Container, change: impl FnOnce(&mut ContainerSpec)) -> Result<(), EngineError> {
        let mut record = container.record();
        change(&mut record.spec);
        if container.status().is_alive() {
            let resources = oci_limits(&record)?;
            self.launcher
                .groups
                .hierarchy
                .apply(&container.group(), &resources)
                .map_err(|e| EngineError::Invalid(format!("changing the limits of {}: {e}", record.name)))?;
        }
        self.containers.change(container, |known| known.spec = record.spec)?;
        self.state.renew_manifest(&container.record());
        self.containers.emit(container, "update", &[]);
        Ok(())
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// When the name is taken, or cannot be one.
    pub async fn rename_container(&self, container: &Container, name: &str) -> Result<(), EngineError> {
        create::check_name(name)?;
        let _guard = container.begin_operation().await?;
        if container.name() == name {
            return Err(EngineError::Invalid(format!("the container is called {name} already")));
        }
        self.rename(container, name, |_| {})
    }

    /// Stops and starts a container.
    ///
    /// # Errors
    /// As [`Engine::stop`] and [`Engine::start`].
    pub async fn restart(
        self: &Arc<Self>,
        container: &Arc<Container>,
        timeout: Option<u64>,
        signal: Option<i32>,
    ) -> Result<(), EngineError> {
        let guard = self.begin_end(container).await?;
        self.restart_locked_by(container, &guard, timeout, signal).await
    }

    /// Restarts a container whose guard the caller holds.
    pub(super) async fn restart_locked_by(
        self: &Arc<Self>,
        container: &Arc<Container>,
        _guard: &OperationGuard<'_>,
        timeout: Option<u64>,
        signal: Option<i32>,
    ) -> Result<(), EngineError> {
        let begun = BegunStop { timeout, signal };
        let was_stopped = self.containers.change(container, |record| record.begin_stop(begun, true))?;
        let stopped = self.stop_locked(container, timeout, signal).await;
        stopped.inspect_err(|_| self.containers.take_back_stop(container, was_stopped))?;
        self.containers.update(container, ContainerRecord::start_requested);
        let started = self.start_locked(container).await;
        container.dismiss_parting();
        started?;
        self.containers.emit(container, "restart", &[]);
        self.execs.run_hooks(container, |spec| &spec.post_start, "post_start").await
    }

    /// Removes a container, and its anonymous volumes where `volumes`.
    ///
    /// # Errors
    /// When it runs and is not to be killed.
    pub async fn remove(self: &Arc<Self>, container: &Arc<Container>, force: bool, volumes: bool) -> Result<(), EngineError> {
        let _guard = if force { self.begin_end(container).await? } else { container.begin_operation().await? };
        if container.status().is_alive() {
            if !force {
                return Err(EngineError::Conflict(format!(
                    "cannot remove container \"/{}\": container is running: stop the container before removing or force remove",
                    container.name()
                )));
            }
            let was_stopped = container.mark_stopped(BegunStop { timeout: Some(0), signal: None });
            let stopped = self.stop_locked(container, Some(0), None).await;
            stopped.inspect_err(|_| self.containers.take_back_stop(container, was_stopped))?;
        }
        self.remove_locked(container, volumes)
    }

    /// Stops and removes in one operation, as `down` does.
    ///
    /// # Errors
    /// As [`Engine::stop`] and [`Engine::remove`].
    pub(in crate::engine) async fn stop_and_remove(
        self: &Arc<Self>,
        container: &Arc<Container>,
        timeout: Option<u64>,
        volumes: bool,
        leaves: Leaves,
    ) -> Result<(), EngineError> {
        let _guard = self.begin_end(container).await?;
        if container.status().is_alive() {
            let was_stopped = container.mark_stopped(BegunStop { timeout, signal: None });
            let stopped = self.stop_locked(container, timeout, None).await;
            stopped.inspect_err(|_| self.containers.take_back_stop(container, was_stopped))?;
        }
        if let Leaves::Log(why) = leaves {
            self.incarnations.keep(&container.record(), why);
        }
        self.remove_locked(container, volumes)
    }

    fn remove_locked(self: &Arc<Self>, container: &Container, volumes: bool) -> Result<(), EngineError> {
        self.networks.detach(container);
        let doing = || EngineError::io(format!("removing the files of {}", container.name()));
        let (record, removal) = {
            // The lock makes it one step: nobody can journal the container again.
            let mut record = locked(&container.record);
            let removing = EngineError::io(format!("removing the files of {}", record.name));
            let removal = DirectoryRemoval::begin(&self.config.container_directory(&container.id)).map_err(removing)?;
            if let Err(error) = self.state.journal.delete(&format!("container/{}", container.id)) {
                removal.undo();
                return Err(state_error(error));
            }
            record.apply(&Transition::Removed);
            (record.clone(), removal)
        };
        container.dismiss_parting();
        self.containers.remove(container);
        container.changed.send_modify(|count| *count += 1);
        self.remove_run(&container.id, vec![container.group()]);
        if !record.spec.storage_opt.is_empty() {
            quota::release(&removal.path().join("upper"));
        }
        // The container is gone whether its files are or not: what belongs to it goes as well.
        let finished = removal.finish().map_err(doing());
        self.containers.emit(container, "destroy", &[]);
        if record.spec.networks.iter().any(|endpoint| endpoint.network == DEFAULT_NETWORK) {
            // It goes with the last container that it was made for.
            self.networks.remove_unused(DEFAULT_NETWORK);
        }
        if volumes {
            for mount in record.spec.mounts.iter().filter(|m| m.anonymous) {
                // Another container may have taken it over.
                let _ = create::aside_if(record.spec.mounts.len() > create::MANY_VOLUMES, || self.volumes.remove(&mount.source));
            }
        }
        finished
    }

    /// Gives a container another name, in one step with a further change of its record. The caller holds its guard.
    ///
    /// # Errors
    /// When another has the name, or the disk refuses; it has its old name then.
    pub(super) fn rename(
        &self,
        container: &Container,
        name: &str,
        change: impl FnOnce(&mut ContainerRecord),
    ) -> Result<(), EngineError> {
        self.state.refuse_unknown(RecordKind::Container, name)?;
        let reserved = self.containers.reserve(name)?;
        let old = self.containers.change(container, |record| {
            change(record);
            std::mem::replace(&mut record.name, name.to_string())
        })?;
        self.containers.rename(container, &old, reserved);
        self.state.renew_manifest(&container.record());
        self.containers.emit(container, "rename", &[("oldName", old)]);
        if container.status().is_alive() {
            let record = container.record();
            self.networks.enter_names_anew(&record);
        }
        Ok(())
    }
}
