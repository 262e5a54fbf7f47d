//! What a container shares with others that run: namespaces, and volumes that one of them has mounted.

use super::Engine;
use super::error::EngineError;
use super::record::{ContainerRecord, MountKind, MountSpec, Sharing};
use crate::runtime::launch::{Join, SharedMount};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;

impl Engine {
    /// Volumes of a container that are file systems of their own, which the first who uses them mounts. In order, so that two
    /// containers never wait for each other.
    pub(super) fn own_file_systems(&self, record: &ContainerRecord) -> BTreeSet<String> {
        let mounts = record.spec.mounts.iter().filter(|mount| mount.kind == MountKind::Volume);
        mounts.filter(|mount| self.is_file_system(&mount.source)).map(|mount| mount.source.clone()).collect()
    }

    /// The mount namespaces of running containers that have such a volume mounted, and where it is there and is to be here.
    pub(super) fn shared_volumes(&self, record: &ContainerRecord) -> Vec<(Arc<OwnedFd>, SharedMount)> {
        let volumes = self.own_file_systems(record);
        let mut shared = Vec::new();
        for mount in record.spec.mounts.iter().filter(|mount| volumes.contains(&mount.source)) {
            let has = |other: &ContainerRecord| {
                let same = |theirs: &&MountSpec| theirs.kind == MountKind::Volume && theirs.source == mount.source;
                let theirs = other.spec.mounts.iter().find(same)?;
                let runs = other.id != record.id && other.state.pid != 0 && other.state.status.is_alive();
                runs.then(|| (other.state.pid, std::path::PathBuf::from(&theirs.target)))
            };
            for other in self.containers() {
                let Some((pid, source)) = other.with_record(has) else { continue };
                let Ok(namespace) = fs::File::open(format!("/proc/{pid}/ns/mnt")) else { continue };
                // What was opened is that container's as long as the process has not been another one by then.
                if other.with_record(|record| record.state.pid) == pid {
                    let destination = (&mount.target).into();
                    shared.push((Arc::new(namespace.into()), SharedMount { destination, source }));
                    break;
                }
            }
        }
        shared
    }

    /// Opens what a container shares of others: they must run.
    pub(super) fn shared_namespaces(&self, record: &ContainerRecord) -> Result<Vec<(Join, Arc<OwnedFd>)>, EngineError> {
        let mut joined = Vec::new();
        for (sharing, what, joins) in [
            (&record.spec.ipc, "IPC namespace", &[(Join::Ipc, "ipc"), (Join::Shm, "mnt")][..]),
            (&record.spec.pid, "processes", &[(Join::Pid, "pid")][..]),
        ] {
            let Some(id) = sharing.container() else { continue };
            let other = self.container(id)?;
            let failed = |message: String| EngineError::Start { name: record.name.clone(), message, code: 128 };
            let gone = || failed(format!("it shares the {what} of {}, which is not running", other.name()));
            let pid_now = || other.with_record(|record| record.state.pid);
            let pid = pid_now();
            for (join, name) in joins {
                let fd = fs::File::open(format!("/proc/{pid}/ns/{name}")).map_err(|_| gone())?;
                joined.push((*join, Arc::new(fd.into())));
            }
            // What was opened is that container's as long as the process has not been another one by then.
            if pid == 0 || pid_now() != pid {
                return Err(gone());
            }
            if joins.len() > 1 && other.with_record(|record| matches!(record.spec.ipc, Sharing::Bare | Sharing::Host)) {
                return Err(failed(format!("it shares the {what} of {}, which has none of its own", other.name())));
            }
        }
        Ok(joined)
    }
}
