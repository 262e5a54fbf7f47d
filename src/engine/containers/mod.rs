//! A container's life: created, started, stopped, removed.

pub mod container;
pub mod exec;
pub mod files;
pub(super) mod health;
pub(super) mod hooks;
pub(super) mod link;
pub(super) mod registry;
pub(super) mod sharing;
pub(super) mod supervise;
pub mod usage;

use super::error::{EngineError, state_error};
use super::networks::DEFAULT_NETWORK;
use super::record::{
    ContainerRecord, ContainerSpec, EndpointSpec, FileSpec, HealthSpec, ImageConfig, MountKind, MountSpec, NetworkMode,
    Replacement, State, Status, Transition,
};
use super::recovery::Kind;
use super::volumes::NewVolume;
use super::{Container, Engine, locked, new_id};
use crate::engine::containers::container::Turn;
use crate::engine::containers::link::MonitorLink;
use crate::engine::containers::registry::NameReservation;
use crate::engine::state::directories::{Draft, Removal, manifest_of, write_manifest};
use crate::image::store::remove_files;
use crate::image::{Image, ImageRef};
use crate::runtime::control::Request;
use crate::runtime::launch::{Exit, Join};
use crate::runtime::{quota, sys};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Docker's, where neither service nor image says another.
const DEFAULT_STOP_TIMEOUT: u64 = 10;
/// The end of a container that was killed is known at once, or something is wrong.
const KILLED_AT_ONCE: Duration = Duration::from_secs(1);
const KILLED_AT_LAST: Duration = Duration::from_secs(30);

impl Engine {
    /// The image that a reference means here.
    ///
    /// # Errors
    /// When it is not here.
    pub fn image(&self, reference: &str) -> Result<(Option<ImageRef>, Image), EngineError> {
        self.images.find_loosely(reference)?.ok_or_else(|| EngineError::NoSuch { what: "image", name: reference.into() })
    }

    /// Creates a container.
    ///
    /// # Errors
    /// When the name is taken, the image is missing, or the disk refuses. Nothing is left then.
    pub fn create(&self, name: &str, spec: ContainerSpec) -> Result<Arc<Container>, EngineError> {
        self.create_in_place(name, spec, None, None)
    }

    /// Creates a container that takes another's place: anonymous volumes of `inherit_from` are taken over.
    ///
    /// # Errors
    /// As [`Engine::create`].
    pub(super) fn create_in_place(
        &self,
        name: &str,
        mut spec: ContainerSpec,
        inherit_from: Option<&ContainerRecord>,
        replaces: Option<Replacement>,
    ) -> Result<Arc<Container>, EngineError> {
        check_name(name)?;
        let reserved = self.containers.reserve(name)?;
        self.refuse_unknown(Kind::Container, name)?;
        spec.layer_size().map_err(EngineError::Invalid)?;
        let (_, image) = self.image(&spec.image)?;
        let volumes = image.config.config().as_ref().and_then(|c| c.volumes().clone()).unwrap_or_default();
        for target in volumes {
            let covered = spec.mounts.iter().any(|m| m.target == target) || spec.tmpfs.iter().any(|(path, _)| *path == target);
            if !covered {
                spec.mounts.push(MountSpec { kind: MountKind::Volume, target, anonymous: true, ..MountSpec::default() });
            }
        }
        // Until the container is known, nobody else could tell that it needs them.
        let mut announced = Vec::new();
        for mount in spec.mounts.iter_mut().filter(|m| m.anonymous && m.source.is_empty()) {
            let earlier = inherit_from.and_then(|old| old.spec.mounts.iter().find(|m| m.anonymous && m.target == mount.target));
            mount.source = match earlier {
                Some(earlier) => earlier.source.clone(),
                None => {
                    let id = new_id().map_err(EngineError::io("making an id"))?;
                    announced.push(self.volume_uses.announce(&id));
                    let mut labels = mount.labels.clone();
                    labels.insert("com.docker.volume.anonymous".into(), String::new());
                    self.create_volume(NewVolume { name: id, labels, anonymous: true, ..NewVolume::default() })?.name
                }
            };
        }
        for mount in spec.mounts.iter().filter(|m| m.kind == MountKind::Volume) {
            announced.push(self.volume_uses.announce(&mount.source));
            if !mount.anonymous {
                self.create_volume(NewVolume { name: mount.source.clone(), ..NewVolume::default() })?;
            }
        }
        announced.push(self.network_uses.announce(DEFAULT_NETWORK));
        if spec.network_mode == NetworkMode::Bridge && spec.networks.is_empty() {
            spec.networks.push(EndpointSpec { network: DEFAULT_NETWORK.into(), ..EndpointSpec::default() });
        }
        if spec.networks.iter().any(|endpoint| endpoint.network == DEFAULT_NETWORK) {
            self.make_default_network()?;
        }
        if spec.as_created.publish_all_ports {
            spec.publish_exposed(&image.facts().exposed_ports);
        }
        for mount in spec.mounts.iter_mut().filter(|m| m.kind == MountKind::Image) {
            mount.layers = self.image(&mount.source)?.1.layers;
        }
        inherit_labels(&mut spec, &image);
        let id = new_id().map_err(EngineError::io("making an id"))?;
        let record = ContainerRecord {
            id,
            name: name.into(),
            created_at: jiff::Timestamp::now(),
            image: image.facts(),
            image_id: image.id.to_string(),
            layers: image.layers,
            spec,
            endpoints: inherit_from.map(|old| old.endpoints.clone()).unwrap_or_default(),
            interfaces: indexmap::IndexMap::new(),
            bound_ports: Vec::new(),
            control_group: None,
            state: State::default(),
            stopped_by_user: false,
            restart_count: 0,
            prepared: false,
            restart_begun: false,
            start_owed: false,
            replaces,
        };
        let container = self.keep_record(record, reserved, || format!("making the container {name}"))?;
        self.emit_container(&container, "create", &[]);
        Ok(container)
    }

    /// Gives a new container its directories and its place in the journal, or leaves nothing.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn keep_record(
        &self,
        record: ContainerRecord,
        name: NameReservation<'_>,
        doing: impl FnOnce() -> String,
    ) -> Result<Arc<Container>, EngineError> {
        let id = record.id.clone();
        let size = record.spec.layer_size().map_err(EngineError::Invalid)?;
        let keep = || {
            let draft = Draft::new(&self.config.data_root.join("containers"), &id)?;
            let own = ["upper", "work", "etc"].map(|name| draft.path().join(name));
            own.iter().try_for_each(fs::create_dir)?;
            let made = (|| {
                if let Some(size) = size {
                    quota::limit(&own.each_ref().map(|path| path.as_path()), size)?;
                }
                write_files(&draft.path().join("files"), &record.spec.files)?;
                write_manifest(&manifest_of(draft.path()), &record)?;
                self.journal.put(&format!("container/{id}"), &record)
            })();
            if made.is_err() && size.is_some() {
                quota::release(&own[0]);
            }
            made?;
            draft.finish().inspect_err(|_| drop(self.journal.delete(&format!("container/{id}"))))
        };
        if let Err(error) = keep() {
            return Err(match error.kind() {
                std::io::ErrorKind::Unsupported => EngineError::Invalid(format!(
                    "the layer of {} cannot have a size in {}: {error}",
                    record.name,
                    self.config.data_root.display()
                )),
                _ => EngineError::Io { doing: doing(), source: error },
            });
        }
        let container = Container::new(record);
        self.containers.insert(container.clone(), name);
        Ok(container)
    }

    /// Starts a container; one that runs is left alone.
    ///
    /// # Errors
    /// Why it cannot run; it is as it was then, with the reason in its state.
    pub async fn start(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), EngineError> {
        let _turn = container.turn().await?;
        if container.status().has_process() {
            return Ok(());
        }
        if let Some(timer) = locked(&container.live).restart.take() {
            timer.abort();
        }
        self.change(container, ContainerRecord::start_requested)?;
        self.prepare(container).await?;
        let started = self.start_locked(container).await;
        container.dismiss_parting();
        started?;
        self.run_hooks(container, |spec| &spec.post_start, "post_start").await
    }

    /// Starts a container whose operation lock the caller holds.
    pub(super) async fn start_locked(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), EngineError> {
        let result = self.try_start(container).await;
        if let Err(error) = &result {
            self.unplace(container);
            let code = if let EngineError::Start { code, .. } = error { *code } else { 128 };
            let text = error.to_string();
            self.transition(container, &Transition::StartFailed { message: &text, code });
        }
        result
    }

    async fn try_start(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), EngineError> {
        let mut slot = self.starting.acquire().await;
        let record = container.record();
        let placed = self.place(container).await?;
        let mut record = ContainerRecord { endpoints: container.record().endpoints, ..record };
        let (this, started) = (self.clone(), container.clone());
        let mut joined: Vec<(Join, Arc<OwnedFd>)> = placed.namespace.clone().map(|fd| (Join::Network, fd)).into_iter().collect();
        joined.extend(self.shared_namespaces(&record)?);
        let mut turns = Vec::new();
        let mut shared = Vec::new();
        let volumes = self.own_file_systems(&record);
        if !volumes.is_empty() || record.spec.ipc.container().is_some() {
            // Others may keep it waiting for seconds, and must not keep all starts waiting.
            drop(slot);
            // Held until it runs: the next one finds the file systems that it has mounted.
            for name in volumes {
                turns.push(self.mounting.take(&name).await);
            }
            for mount in self.shared_mounts(&record).await? {
                joined.extend([(Join::MountNamespace, mount.namespace), (Join::Mount, mount.mount)]);
                shared.push(mount.destination);
            }
            slot = self.starting.acquire().await;
        }
        // Files, a fork and an exec: off the threads that answer requests.
        let spawned = tokio::task::spawn_blocking(move || -> Result<_, EngineError> {
            let run = this.run_directory(&record.id);
            let doing = || EngineError::io(format!("preparing the container {}", record.name));
            fs::create_dir_all(&run).map_err(doing())?;
            if let Some(directory) = this.output_path(&record).parent() {
                fs::create_dir_all(directory).map_err(doing())?;
            }
            this.write_etc(&record, placed.addresses)?;
            let scope;
            (record.control_group, scope) = this.choose_control_group(&record)?;
            // Journaled with the start: without that it is nobody's.
            locked(&started.record).control_group.clone_from(&record.control_group);
            let mut launch = this.launch_file(&record)?;
            launch.joins = joined.iter().map(|(join, _)| *join).collect();
            launch.shared = shared;
            fs::write(run.join("launch.json"), serde_json::to_vec(&launch).map_err(|e| doing()(e.into()))?).map_err(doing())?;
            // For an engine whose journal has lost it.
            fs::write(this.start_record(&record.id), serde_json::to_vec(&record).map_err(|e| doing()(e.into()))?)
                .map_err(doing())?;
            Exit::reserve(&this.exit_file(&record.id)).map_err(doing())?;
            let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|e| doing()(e.into()))?;
            let program = CString::new(format!("/proc/self/fd/{}", this.program.as_raw_fd())).unwrap_or_default();
            let run_argument = CString::new(run.as_os_str().as_encoded_bytes()).unwrap_or_default();
            let args = [c"wharf".to_owned(), c"monitor".to_owned(), run_argument];
            let mut fds = vec![theirs.as_fd()];
            fds.extend(joined.iter().map(|(_, fd)| fd.as_fd()));
            let monitor = sys::spawn(&program, &args, &fds).map_err(EngineError::io("starting a monitor"))?;
            locked(&this.monitors).insert(monitor);
            Ok((ours, monitor, scope))
        });
        let (socket, monitor, _scope) = spawned.await.map_err(|e| EngineError::Invalid(e.to_string()))??;
        let link = Arc::new(MonitorLink::new(socket, monitor).map_err(EngineError::io("talking to the monitor"))?);
        let followed = self.follow_new(container, link).await;
        drop(slot);
        followed
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
        let _turn = container.turn().await?;
        let was_stopped = self.change(container, |record| record.stop_requested(false))?;
        let stopped = self.stop_locked(container, timeout, signal).await;
        stopped.inspect_err(|_| self.take_back_stop(container, was_stopped))
    }

    /// A container could not be stopped: as long as it runs, it is restarted as before.
    pub(super) fn take_back_stop(&self, container: &Container, was_stopped: bool) {
        self.update(container, |record| {
            record.restart_begun = false;
            if record.state.status().is_alive() {
                record.stopped_by_user = was_stopped;
            }
        });
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
            self.unplace(container);
            self.transition(container, &Transition::RestartCancelled);
            container.dismiss_parting();
            return Ok(());
        }
        if !record.state.status().is_alive() {
            return Ok(());
        }
        if record.state.status() == Status::Paused {
            self.pause_locked(container, false)?;
        }
        let seconds = timeout.or(record.spec.stop_timeout).unwrap_or(DEFAULT_STOP_TIMEOUT);
        if !record.spec.pre_stop.is_empty() {
            // What a hook cannot do, or not in the container's grace period, must not keep it from being stopped.
            let hooks = self.run_hooks(container, |spec| &spec.pre_stop, "pre_stop");
            match tokio::time::timeout(Duration::from_secs(seconds), hooks).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("{error}"),
                Err(_) => tracing::warn!("the pre_stop hooks of {} took longer than {seconds} s", record.name),
            }
        }
        let signal = signal.unwrap_or_else(|| Self::stop_signal(&record));
        // At a shutdown it is about to be restarted then, by another engine.
        let over = |record: &ContainerRecord| !record.state.status().has_process();
        // One that has ended by itself just now is stopped as well, once its end is noticed.
        let send = |signal| match container.ask(&Request::Signal(signal), &[]) {
            Err(EngineError::NotRunning { .. }) => Ok(()),
            sent => sent,
        };
        send(signal)?;
        let stopped = container.wait_until(over);
        if signal != libc::SIGKILL && tokio::time::timeout(Duration::from_secs(seconds), stopped).await.is_err() {
            send(libc::SIGKILL)?;
        }
        self.await_killed(container).await?;
        self.emit_container(container, "stop", &[]);
        Ok(())
    }

    /// Waits for the end of a container that was sent SIGKILL. A monitor that hangs tells no end: it is ended with the container.
    async fn await_killed(&self, container: &Container) -> Result<(), EngineError> {
        let over = |record: &ContainerRecord| !record.state.status().has_process();
        if tokio::time::timeout(KILLED_AT_ONCE, container.wait_until(over)).await.is_ok() {
            return Ok(());
        }
        if !container.monitor_answers(crate::engine::containers::exec::SILENCE).await
            && let Some(link) = container.link()
        {
            tracing::warn!("the monitor of {} does not answer; it is killed", container.name());
            self.cgroups.kill(&container.group());
            link.kill_monitor();
        }
        tokio::time::timeout(KILLED_AT_LAST, container.wait_until(over)).await.map_err(|_| {
            EngineError::Conflict(format!(
                "the container {} goes on though it was killed: the kernel keeps one of its processes, perhaps for a disk that does not answer",
                container.name()
            ))
        })
    }

    fn stop_signal(record: &ContainerRecord) -> i32 {
        let name = record.spec.stop_signal.clone().or_else(|| record.image.stop_signal.clone());
        name.and_then(|name| parse_signal(&name)).unwrap_or(libc::SIGTERM)
    }

    /// Sends a signal to a container's first process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, container: &Container, signal: i32) -> Result<(), EngineError> {
        container.ask(&Request::Signal(signal), &[])
    }

    /// The writing end of a container's standard input, or its terminal; `None` where it has neither.
    ///
    /// # Errors
    /// When the container does not run.
    pub async fn input(&self, container: &Container) -> Result<Option<OwnedFd>, EngineError> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        locked(&container.live).input.push(sender);
        container.ask(&Request::Input, &[])?;
        receiver.await.map_err(|_| EngineError::NotRunning { name: container.name() })
    }

    /// Ends a container's standard input.
    pub fn close_input(&self, container: &Container) {
        let _ = container.ask(&Request::CloseInput, &[]);
    }

    /// Sets the size of a container's terminal.
    pub fn resize(&self, container: &Container, rows: u16, columns: u16) {
        let _ = container.ask(&Request::Resize { rows, columns }, &[]);
    }

    /// Changes the limits and the restart policy of a container, of a running one at once.
    ///
    /// # Errors
    /// What the kernel refuses; nothing is changed in the state then.
    pub fn update_limits(&self, container: &Container, change: impl FnOnce(&mut ContainerSpec)) -> Result<(), EngineError> {
        let mut record = container.record();
        change(&mut record.spec);
        if container.status().is_alive() {
            let resources = self.oci_limits(&record)?;
            self.cgroups
                .apply(&container.group(), &resources)
                .map_err(|e| EngineError::Invalid(format!("changing the limits of {}: {e}", record.name)))?;
        }
        self.change(container, |known| known.spec = record.spec)?;
        self.renew_manifest(&container.record());
        self.emit_container(container, "update", &[]);
        Ok(())
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// When the name is taken, or cannot be one.
    pub async fn rename_container(&self, container: &Container, name: &str) -> Result<(), EngineError> {
        check_name(name)?;
        let _turn = container.turn().await?;
        if container.name() == name {
            return Err(EngineError::Invalid(format!("the container is called {name} already")));
        }
        self.rename(container, name, |_| {})
    }

    /// Sends a signal on the user's behalf: SIGKILL and SIGTERM count as stopping, so that it is not restarted.
    ///
    /// # Errors
    /// As [`Engine::signal`].
    pub fn kill(&self, container: &Container, signal: i32) -> Result<(), EngineError> {
        let ends = matches!(signal, libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGQUIT);
        let was_stopped = if ends { Some(self.change(container, |record| record.stop_requested(false))?) } else { None };
        if let Err(error) = self.signal(container, signal) {
            if let Some(was_stopped) = was_stopped {
                self.take_back_stop(container, was_stopped);
            }
            return Err(error);
        }
        self.emit_container(container, "kill", &[("signal", signal.to_string())]);
        Ok(())
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
        let turn = container.turn().await?;
        self.restart_in_turn(container, &turn, timeout, signal).await
    }

    /// Restarts a container whose turn the caller has.
    pub(super) async fn restart_in_turn(
        self: &Arc<Self>,
        container: &Arc<Container>,
        _turn: &Turn<'_>,
        timeout: Option<u64>,
        signal: Option<i32>,
    ) -> Result<(), EngineError> {
        let was_stopped = self.change(container, |record| record.stop_requested(true))?;
        let stopped = self.stop_locked(container, timeout, signal).await;
        stopped.inspect_err(|_| self.take_back_stop(container, was_stopped))?;
        self.update(container, ContainerRecord::start_requested);
        let started = self.start_locked(container).await;
        container.dismiss_parting();
        started?;
        self.emit_container(container, "restart", &[]);
        Ok(())
    }

    /// Freezes or thaws a container.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn pause(&self, container: &Arc<Container>, pause: bool) -> Result<(), EngineError> {
        let _turn = container.turn().await?;
        let wanted = if pause { Status::Running } else { Status::Paused };
        if container.status() != wanted {
            return Err(EngineError::Conflict(format!("the container {} is {}", container.name(), container.status().as_str())));
        }
        self.pause_locked(container, pause)
    }

    fn pause_locked(&self, container: &Container, pause: bool) -> Result<(), EngineError> {
        container.ask(&Request::Pause(pause), &[])?;
        self.transition(container, &Transition::Paused(pause));
        Ok(())
    }

    /// Removes a container, and its anonymous volumes where `volumes`.
    ///
    /// # Errors
    /// When it runs and is not to be killed.
    pub async fn remove(self: &Arc<Self>, container: &Arc<Container>, force: bool, volumes: bool) -> Result<(), EngineError> {
        let _turn = container.turn().await?;
        if container.status().is_alive() {
            if !force {
                return Err(EngineError::Conflict(format!(
                    "the container {} is running: stop it first, or remove it by force",
                    container.name()
                )));
            }
            let was_stopped = container.mark_stopped();
            let stopped = self.stop_locked(container, Some(0), None).await;
            stopped.inspect_err(|_| self.take_back_stop(container, was_stopped))?;
        }
        self.remove_locked(container, volumes)
    }

    /// Stops and removes in one operation, as `down` does.
    ///
    /// # Errors
    /// As [`Engine::stop`] and [`Engine::remove`].
    pub async fn stop_and_remove(
        self: &Arc<Self>,
        container: &Arc<Container>,
        timeout: Option<u64>,
        volumes: bool,
    ) -> Result<(), EngineError> {
        let _turn = container.turn().await?;
        if container.status().is_alive() {
            let was_stopped = container.mark_stopped();
            let stopped = self.stop_locked(container, timeout, None).await;
            stopped.inspect_err(|_| self.take_back_stop(container, was_stopped))?;
        }
        self.remove_locked(container, volumes)
    }

    fn remove_locked(&self, container: &Container, volumes: bool) -> Result<(), EngineError> {
        self.unplace(container);
        let doing = || EngineError::io(format!("removing the files of {}", container.name()));
        let (record, removal) = {
            // The lock makes it one step: nobody can journal the container again.
            let mut record = locked(&container.record);
            let removing = EngineError::io(format!("removing the files of {}", record.name));
            let removal = Removal::begin(&self.container_directory(&container.id)).map_err(removing)?;
            if let Err(error) = self.journal.delete(&format!("container/{}", container.id)) {
                removal.undo();
                return Err(state_error(error));
            }
            record.apply(&Transition::Removed);
            (record.clone(), removal)
        };
        container.dismiss_parting();
        self.containers.remove(container);
        container.changed.send_modify(|count| *count += 1);
        let _ = remove_files(&self.run_directory(&container.id));
        if !record.spec.storage_opt.is_empty() {
            quota::release(&removal.path().join("upper"));
        }
        removal.finish().map_err(doing())?;
        self.emit_container(container, "destroy", &[]);
        if record.spec.networks.iter().any(|endpoint| endpoint.network == DEFAULT_NETWORK) {
            // It goes with the last container that it was made for.
            self.remove_unused_network(DEFAULT_NETWORK);
        }
        if volumes {
            for mount in record.spec.mounts.iter().filter(|m| m.anonymous) {
                // Another container may have taken it over.
                let _ = self.remove_volume(&mount.source);
            }
        }
        Ok(())
    }

    /// Gives a container another name, in one step with a further change of its record. The caller has its turn.
    ///
    /// # Errors
    /// When another has the name, or the disk refuses; it has its old name then.
    pub(super) fn rename(
        &self,
        container: &Container,
        name: &str,
        change: impl FnOnce(&mut ContainerRecord),
    ) -> Result<(), EngineError> {
        self.refuse_unknown(Kind::Container, name)?;
        let reserved = self.containers.reserve(name)?;
        let old = self.change(container, |record| {
            change(record);
            std::mem::replace(&mut record.name, name.to_string())
        })?;
        self.containers.rename(container, &old, reserved);
        self.renew_manifest(&container.record());
        self.emit_container(container, "rename", &[("oldName", old)]);
        if container.status().is_alive() {
            let record = container.record();
            let places = self.places(&record);
            for (network, _) in &places {
                self.names.remove(&network.id, &record.id);
            }
            self.enter_names(&record, &places);
        }
        Ok(())
    }
}

/// Refuses what cannot be a container's name.
/// The image's labels are the container's, under its own. Those by which a project knows its containers are not the image's to give.
fn inherit_labels(spec: &mut ContainerSpec, image: &Image) {
    let labels = image.config.config().as_ref().and_then(|config| config.labels().clone()).unwrap_or_default();
    let is_ours = |name: &str| name.starts_with("com.docker.compose.") || name.starts_with("dev.wharf.");
    let mut labels: Vec<_> = labels.into_iter().filter(|(name, _)| !is_ours(name)).collect();
    labels.sort_unstable();
    let own = std::mem::replace(&mut spec.labels, labels.into_iter().collect());
    spec.labels.extend(own);
}

fn check_name(name: &str) -> Result<(), EngineError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(allowed) {
        return Ok(());
    }
    Err(EngineError::Invalid(format!("`{name}` cannot be a container's name: it has letters, digits, `_`, `.` and `-`")))
}

/// Writes the configs and secrets that are a container's own. Nobody else on the host can enter the directory.
fn write_files(directory: &Path, files: &[FileSpec]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
    let own: Vec<_> = files.iter().enumerate().filter_map(|(n, file)| Some((n, file, file.content.as_ref()?))).collect();
    if own.is_empty() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    for (n, file, content) in own {
        let mut to =
            fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(directory.join(n.to_string()))?;
        to.write_all(content)?;
        fchown(&to, Some(file.uid), Some(file.gid))?;
        to.set_permissions(fs::Permissions::from_mode(file.mode))?;
    }
    Ok(())
}

impl Image {
    /// What the image says of its containers.
    pub fn facts(&self) -> ImageConfig {
        let config = self.config.config().clone().unwrap_or_default();
        let check = self.healthcheck.as_ref();
        let number = |key: &str| check.and_then(|c| c.get(key)).and_then(serde_json::Value::as_u64).unwrap_or(0);
        let test = check.and_then(|c| c.get("Test")).and_then(|t| serde_json::from_value(t.clone()).ok());
        ImageConfig {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            command: config.cmd().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            user: config.user().clone().unwrap_or_default(),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            stop_signal: config.stop_signal().clone(),
            health: test.map(|test| HealthSpec {
                test,
                interval: number("Interval"),
                timeout: number("Timeout"),
                start_period: number("StartPeriod"),
                start_interval: number("StartInterval"),
                retries: number("Retries") as u32,
            }),
            exposed_ports: config.exposed_ports().clone().unwrap_or_default(),
        }
    }
}

/// `SIGTERM`, `TERM` or `15`; images say it as well.
pub fn parse_signal(text: &str) -> Option<i32> {
    use nix::sys::signal::Signal;
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    if let Some(offset) = name.strip_prefix("SIGRTMIN") {
        // The C library keeps the first two real-time signals for itself.
        let offset = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse::<i32>().ok()? };
        return Some(offset).filter(|offset| (0..=30).contains(offset)).map(|offset| 34 + offset);
    }
    name.parse::<Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::parse_signal;

    #[test]
    fn signals_are_signals() {
        for (text, signal) in
            [("SIGTERM", Some(15)), ("term", Some(15)), ("9", Some(9)), ("SIGRTMIN", Some(34)), ("RTMIN+3", Some(37))]
        {
            assert_eq!(parse_signal(text), signal, "{text}");
        }
        for wrong in ["0", "-9", "65", "", "SIGRTMIN-30", "SIGRTMIN+31", "SIGRTMIN+2147483647", "SIGRTMINx", "SIGRTMIN+-4"] {
            assert_eq!(parse_signal(wrong), None, "{wrong}");
        }
    }
}
