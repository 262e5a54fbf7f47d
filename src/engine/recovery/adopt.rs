//! Taking over what an earlier engine left: containers that run, those that ended meanwhile, those that a reboot ended.

use super::load;
use crate::engine::containers::link::{MonitorLink, Reached};
use crate::engine::networks::DEFAULT_NETWORK;
use crate::engine::networks::Networks;
use crate::engine::process::docker_socket;
use crate::engine::record::{Beside, ContainerRecord, Status, Transition};
use crate::engine::{Container, Engine, locked};
use crate::network::sandbox;
use crate::runtime::control::{self, MonitorEvent, MonitorRequest};
use crate::runtime::launch::Exit;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A monitor answers at once; one that is stopped does not.
const MONITOR_MAY_TAKE: Duration = Duration::from_secs(5);

impl Networks {
    /// Connects a running container's network namespace, and publishes its ports again.
    async fn adopt(&self, container: &Arc<Container>, pid: i32) {
        let record = container.record();
        let endpoints = self.endpoints_of(&record);
        if !endpoints.is_empty() {
            let name = record.name.clone();
            let namespace = File::open(format!("/proc/{pid}/ns/net"));
            let adopted = tokio::task::spawn_blocking(move || {
                sandbox::adopt(
                    &name,
                    namespace
                        .map_err(|source| crate::network::NetworkError::Sandbox {
                            container: name.clone(),
                            doing: "opening the network namespace",
                            source,
                        })?
                        .into(),
                )
            });
            match adopted.await {
                Ok(Ok(sandbox)) => {
                    if let Err(error) = self.attach_sandbox(container, sandbox, &endpoints) {
                        tracing::error!("{error}");
                    }
                    if let Err(error) = self.publish(container, &endpoints) {
                        tracing::error!("publishing the ports of {} again: {error}", record.name);
                    }
                }
                Ok(Err(error)) => tracing::error!("{error}"),
                Err(error) => tracing::error!("{error}"),
            }
        }
    }
}

impl Engine {
    /// Reads the state and takes every container over. Containers that must run and do not are started in the background.
    pub(in crate::engine) async fn adopt(self: &Arc<Self>) {
        let found = load::load(&self.state, &self.launcher.groups);
        self.volumes.restore(found.volumes);
        found.containers.into_iter().for_each(|record| self.containers.restore(Container::new(record)));
        // Two of one name and one port run where an update was broken off: the names and ports are the new one's.
        for container in self.containers.all() {
            let replaced = container.with_record(|record| record.replaces.clone().filter(|r| r.beside == Some(Beside::Switched)));
            if let Some(old) = replaced.and_then(|replaced| self.containers.find(&replaced.id).ok()) {
                locked(&old.live).replaced = true;
            }
        }
        for id in found.lingering {
            self.remove_run(&id, self.launcher.groups.strays(&id).collect());
        }
        self.networks.restore(found.networks);
        let adoptions = self.containers.all().into_iter().map(|container| self.adopt_container(container));
        futures::future::join_all(adoptions).await;
        self.networks.give_up_expected();
        self.thaw_tracers().await;
        self.end_leftovers();
        let _ = self.containers.adopted.send_replace(true);
        self.recover_restarts();
        // With something missing, nothing is removed.
        let may_remove = !self.state.is_incomplete();
        self.recover_stops_and_replacements(may_remove).await;
        self.recover_followers();
        self.recover_jobs();
        self.start_after_boot();
        self.remove_build_steps().await;
        if may_remove {
            // An engine that dies in the removal of the last container on it leaves it.
            self.networks.remove_unused(DEFAULT_NETWORK);
        }
    }

    async fn adopt_container(self: &Arc<Self>, container: Arc<Container>) {
        let record = container.record();
        match reach(&self.config.run_directory(&container.id)).await {
            Some(link) => self.adopt_running(&container, Arc::new(link)).await,
            None if record.state.status().is_alive() => self.adopt_ended(&container, &record).await,
            // Its client goes on with this engine, or has died with the last one.
            None if record.spec.client_removes && record.state.status() == Status::Created => {
                self.remove_unless_started(&container);
            }
            // Whoever has made it to be removed after its run has died with the engine, or has lost it.
            None if record.spec.auto_remove || record.spec.client_removes => self.clone().remove_ended(container),
            None => self.drop_late_files(&container),
        }
    }

    async fn adopt_running(self: &Arc<Self>, container: &Arc<Container>, link: Arc<MonitorLink>) {
        locked(&container.live).link = Some(link.clone());
        let status = async {
            link.send(&MonitorRequest::Status, &[]).ok()?;
            loop {
                let event = match link.receive().await {
                    Err(error) if control::is_of_another_version(&error) => continue,
                    received => received.ok()??.0,
                };
                if matches!(event, MonitorEvent::Status { .. } | MonitorEvent::Exited(_) | MonitorEvent::Failed { .. }) {
                    return Some(event);
                }
            }
        };
        let known = tokio::time::timeout(MONITOR_MAY_TAKE, status).await;
        let (pid, started_at, paused) = match known {
            Ok(Some(MonitorEvent::Status { pid, started_at, paused, keeps_mounts, holds_log, starting: false })) => {
                let holds = {
                    let mut live = locked(&container.live);
                    live.keeps_mounts = keeps_mounts;
                    live.followers.monitor_knows(holds_log)
                };
                holds.into_iter().for_each(|hold| drop(link.send(&MonitorRequest::Hold(hold), &[])));
                (pid, started_at, paused)
            }
            other => {
                let has_ended = matches!(other, Ok(Some(MonitorEvent::Exited(_))));
                match other {
                    // Nobody waits for the start any more, and others must not see a container that is being set up.
                    Ok(Some(MonitorEvent::Status { .. })) => {
                        locked(&container.live).link = None;
                        self.launcher.groups.hierarchy.kill(&container.group());
                        link.kill_monitor();
                        self.launcher.groups.end(&container.group()).await;
                    }
                    // It has ended meanwhile, and its monitor stays until that is dealt with.
                    Ok(Some(_)) => container.keep_parting(link),
                    Ok(None) => locked(&container.live).link = None,
                    // It must not go on beside the next.
                    Err(_) => {
                        locked(&container.live).link = None;
                        link.kill_monitor();
                    }
                }
                let record = container.record();
                let status = record.state.status();
                // The last engine may have been killed before it had noted that the container runs.
                if status.is_alive() || (status == Status::Created && has_ended) {
                    self.adopt_ended(container, &record).await;
                } else if record.spec.auto_remove {
                    self.clone().remove_ended(container.clone());
                }
                container.dismiss_parting();
                return;
            }
        };
        self.containers.transition(container, &Transition::Found { pid, started_at, paused });
        self.networks.adopt(container, pid).await;
        docker_socket::renew_sockets(&self.config, container, pid);
        self.clone().spawn_follower(container.clone(), link, None);
        self.watch_health(container, container.record().state.health);
    }

    /// A container that had a process when the last engine saw it, and has none now.
    async fn adopt_ended(self: &Arc<Self>, container: &Arc<Container>, record: &ContainerRecord) {
        self.launcher.groups.end(&container.group()).await;
        locked(&container.live).brought_back = true;
        if let Some(ended) = record.state.finished_at.filter(|_| record.state.status() == Status::Restarting) {
            // It has ended before, and waited. When the host went down meanwhile, that was long ago.
            let waited = jiff::Timestamp::now().duration_since(ended).try_into().unwrap_or_default();
            self.restart_after(container, record.state.backoff.unwrap_or_default().saturating_sub(waited));
            return;
        }
        let exit = self.config.recorded_exit(&container.id).unwrap_or_else(|| {
            // A reboot, or a monitor that was killed: nobody knows the exit code. The program is not to blame, so `on-failure:N` has
            // all of its attempts again, as after a start of Docker's daemon.
            self.containers.update(container, |record| record.restart_count = 0);
            Exit::now(255)
        });
        self.ended(container, &exit);
    }
}

/// The monitor of a run directory; `None` when it is gone. One that takes no connection for long is ended: it must not go on
/// beside the next.
async fn reach(run_directory: &Path) -> Option<MonitorLink> {
    let given_up = Instant::now() + MONITOR_MAY_TAKE;
    loop {
        match MonitorLink::reach(run_directory) {
            Reached::Monitor(link) => return Some(link),
            Reached::Nobody => return None,
            Reached::Silent if Instant::now() >= given_up => {
                MonitorLink::kill_silent(run_directory);
                return None;
            }
            Reached::Silent => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
