//! Namespaces and mounted volumes that running containers share.

use super::registry::Containers;
use crate::engine::error::EngineError;
use crate::engine::record::{ContainerRecord, MountKind, MountSpec, Sharing};
use crate::engine::volumes::Volumes;
use crate::engine::{Container, locked};
use crate::runtime::control::MonitorRequest;
use crate::runtime::error::SetupStep;
use crate::runtime::launch::Join;
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

const SHM: &str = "/dev/shm";
/// A monitor answers at once; one that is stopped does not.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(5);

/// A container whose first process has ended is known to have within this time.
const END_MAY_TAKE: Duration = Duration::from_secs(2);

/// A mount of another container's, and the mount namespace in which it is.
pub(in crate::engine) struct SharedMount {
    pub destination: PathBuf,
    pub namespace: Arc<OwnedFd>,
    pub mount: Arc<OwnedFd>,
}

impl Volumes {
    /// Volumes of a container that are file systems of their own, which the first who uses them mounts. In order, so that two
    /// containers never wait for each other.
    pub(in crate::engine) fn own_file_systems(&self, record: &ContainerRecord) -> BTreeSet<String> {
        let mounts = record.spec.mounts.iter().filter(|mount| mount.kind == MountKind::Volume);
        mounts.filter(|mount| self.is_file_system(&mount.source)).map(|mount| mount.source.clone()).collect()
    }

    /// Mounts of a container that others may share with it: /dev/shm, unless it is the host's, and volumes that are file systems.
    pub(in crate::engine) fn kept_mounts(&self, record: &ContainerRecord) -> Vec<PathBuf> {
        let volumes = self.own_file_systems(record);
        let mounts = record.spec.mounts.iter().filter(|mount| volumes.contains(&mount.source));
        let mut kept: Vec<PathBuf> = mounts.map(|mount| PathBuf::from(&mount.target)).collect();
        if matches!(record.spec.ipc, Sharing::Own | Sharing::Container(_)) && !kept.iter().any(|path| path == Path::new(SHM)) {
            kept.push(SHM.into());
        }
        kept
    }

    /// Mounts of other containers that a container shares, by their destination in it: /dev/shm with the IPC namespace, and volumes.
    ///
    /// # Errors
    /// When the other container has ended, or was started by a version of wharf that keeps no mounts.
    pub(in crate::engine) async fn shared_mounts(&self, record: &ContainerRecord) -> Result<Vec<SharedMount>, EngineError> {
        let mut shared = Vec::new();
        if let Some(id) = record.spec.ipc.container() {
            let other = self.containers.find(id)?;
            let found = mount_of(record, &other, Path::new(SHM), PathBuf::from(SHM)).await;
            shared.push(found.map_err(|error| match error {
                EngineError::NotRunning { name: other } => EngineError::Start {
                    name: record.name.clone(),
                    message: format!("it shares {SHM} with {other}, which is not running"),
                    step: SetupStep::Namespaces,
                },
                error => error,
            })?);
        }
        shared.extend(self.shared_volumes(record).await?);
        Ok(shared)
    }

    /// Volumes that are file systems of their own and that another running container has mounted, by their destination in this one.
    ///
    /// # Errors
    /// As [`Volumes::shared_mounts`].
    pub(in crate::engine) async fn shared_volumes(&self, record: &ContainerRecord) -> Result<Vec<SharedMount>, EngineError> {
        let mut shared = Vec::new();
        let volumes = self.own_file_systems(record);
        for mount in record.spec.mounts.iter().filter(|mount| volumes.contains(&mount.source)) {
            let has = |other: &ContainerRecord| {
                let same = |theirs: &&MountSpec| theirs.kind == MountKind::Volume && theirs.source == mount.source;
                let theirs = other.spec.mounts.iter().find(same)?;
                let runs = other.id != record.id && other.state.pid != 0 && other.state.status().is_alive();
                runs.then(|| PathBuf::from(&theirs.target))
            };
            let candidates = self.containers.all().into_iter();
            for (other, theirs) in candidates.filter_map(|other| other.with_record(has).map(|theirs| (other, theirs))) {
                match mount_of(record, &other, &theirs, PathBuf::from(&mount.target)).await {
                    Ok(found) => {
                        shared.push(found);
                        break;
                    }
                    // It has ended meanwhile, though that may not have been noticed yet.
                    Err(EngineError::NotRunning { .. }) => {}
                    Err(_) if !other.status().is_alive() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(shared)
    }
}

/// A mount of another container, as its monitor keeps it. It is not looked up in the other's mount namespace, where a symlink
/// could be in its place.
async fn mount_of(
    record: &ContainerRecord,
    other: &Container,
    theirs: &Path,
    destination: PathBuf,
) -> Result<SharedMount, EngineError> {
    let failed = |why: &str| EngineError::Start {
        name: record.name.clone(),
        message: format!("it shares {} with {}, which {why}", theirs.display(), other.name()),
        step: SetupStep::Namespaces,
    };
    let gone = EngineError::NotRunning { name: other.name() };
    let Some(link) = other.link() else { return Err(gone) };
    let (sender, receiver) = oneshot::channel();
    {
        // Requests and those who wait for the answers are in the same order.
        let mut live = locked(&other.live);
        if !live.keeps_mounts {
            return Err(failed("an earlier version of wharf has started: restart it"));
        }
        if link.send(&MonitorRequest::Mount(theirs.to_path_buf()), &[]).is_err() {
            return Err(gone);
        }
        live.mounts.push_back(sender);
    }
    let answer = tokio::time::timeout(MONITOR_TIMEOUT, receiver).await.map_err(|_| failed("does not answer"))?;
    // Its end has ended the question.
    let Ok(answer) = answer else { return Err(gone) };
    let fds: [OwnedFd; 2] = match answer.try_into() {
        Ok(fds) => fds,
        // A container that is ending has no mount namespace any more.
        Err(_) => {
            let ended = other.wait_until(|record| !record.state.status().has_process());
            let ends = tokio::time::timeout(END_MAY_TAKE, ended).await.is_ok();
            return Err(if ends { gone } else { failed("has it no more") });
        }
    };
    let [namespace, mount] = fds.map(Arc::new);
    Ok(SharedMount { destination, namespace, mount })
}

impl Containers {
    /// Opens the namespaces that a container shares with other containers, which must run. The pid namespace is that of a first
    /// process, whose /proc is taken as well; another runtime wants the namespace itself.
    pub(in crate::engine) fn shared_namespaces(
        &self,
        record: &ContainerRecord,
        by_other_runtime: bool,
    ) -> Result<Vec<(Join, Arc<OwnedFd>)>, EngineError> {
        let mut joined = Vec::new();
        for (sharing, what, join) in [(&record.spec.ipc, "IPC namespace", Join::Ipc), (&record.spec.pid, "processes", Join::Pid)]
        {
            let Some(id) = sharing.container() else { continue };
            let other = self.find(id)?;
            let failed = |message: String| EngineError::Start { name: record.name.clone(), message, step: SetupStep::Namespaces };
            let gone = || failed(format!("it shares the {what} of {}, which is not running", other.name()));
            let pid_now = || other.with_record(|record| record.state.pid);
            let pid = pid_now();
            let namespace = |name: &str| fs::File::open(format!("/proc/{pid}/ns/{name}")).map(OwnedFd::from);
            let fd = match join {
                Join::Ipc => namespace("ipc"),
                _ if by_other_runtime => namespace("pid"),
                _ => crate::sys::pidfd_open(pid),
            };
            joined.push((join, Arc::new(fd.map_err(|_| gone())?)));
            // What was opened is that container's as long as the process has not been another one by then.
            if pid == 0 || pid_now() != pid {
                return Err(gone());
            }
            if join == Join::Ipc && other.with_record(|record| matches!(record.spec.ipc, Sharing::Bare | Sharing::Host)) {
                return Err(failed(format!("it shares the {what} of {}, which has none of its own", other.name())));
            }
        }
        Ok(joined)
    }
}
