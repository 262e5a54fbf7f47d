//! Containers that share another's namespaces follow it: when it has new ones, they are restarted with it.

use crate::engine::error::EngineError;
use crate::engine::record::{ContainerRecord, NetworkMode, Status};
use crate::engine::{Container, Engine};
use crate::labels::LABEL_PROJECT;
use jiff::SignedDuration;
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// The exits of a container and of one that shares its processes are noticed so far from each other.
const TOGETHER: SignedDuration = SignedDuration::from_secs(1);

/// The namespaces that a container joins: the name of each, and the id of the container that owns it.
fn shared(record: &ContainerRecord) -> impl Iterator<Item = (&'static str, &str)> {
    let network = if let NetworkMode::Container(id) = &record.spec.network_mode { Some(id.as_str()) } else { None };
    let pairs = [("net", network), ("ipc", record.spec.ipc.container()), ("pid", record.spec.pid.container())];
    pairs.into_iter().filter_map(|(name, id)| Some((name, id?)))
}

fn namespaces(record: &ContainerRecord, donor: &str) -> Vec<&'static str> {
    shared(record).filter(|(_, id)| *id == donor).map(|(name, _)| name).collect()
}

/// Whether a container is to be restarted because another, whose namespaces it shares, runs anew. `is_joined`: it is in those that
/// the other has now. What ends with the other's processes was killed by the kernel, and comes back with it.
fn follows(record: &ContainerRecord, donor: &ContainerRecord, is_joined: impl Fn(&str) -> bool) -> bool {
    let names = namespaces(record, &donor.id);
    if names.is_empty() || donor.state.status() != Status::Running || record.stopped_by_user || record.waits_beside() {
        return false;
    }
    match record.state.status() {
        Status::Running | Status::Paused => names.iter().any(|name| !is_joined(name)),
        Status::Exited => {
            let ends = record.state.finished_at.zip(donor.state.finished_at);
            names.contains(&"pid") && record.state.exit_code == 137 && ends.is_some_and(|(own, other)| own + TOGETHER >= other)
        }
        Status::Created | Status::Restarting | Status::Removing => false,
    }
}

/// Whether two processes are in the same namespace.
fn is_same(name: &str, one: i32, other: i32) -> bool {
    let inode = |pid: i32| std::fs::metadata(format!("/proc/{pid}/ns/{name}")).map(|file| file.ino()).ok();
    inode(one).is_some_and(|inode_of_one| inode(other) == Some(inode_of_one))
}

impl Engine {
    /// Restarts the containers that share the namespaces which a container had before it was started just now. A command of their project that
    /// goes on may do so itself, so they wait for its end.
    pub(in crate::engine) fn restart_followers(self: &Arc<Self>, donor: &Arc<Container>) {
        let shares = |other: &Arc<Container>| other.with_record(|record| !namespaces(record, &donor.id).is_empty());
        let mut followers: HashMap<Option<String>, Vec<Arc<Container>>> = HashMap::new();
        for follower in self.containers.all().into_iter().filter(shares) {
            let project = follower.with_record(|record| record.spec.labels.get(LABEL_PROJECT).cloned());
            followers.entry(project).or_default().push(follower);
        }
        for (project, followers) in followers {
            let (engine, donor) = (self.clone(), donor.clone());
            tokio::spawn(async move {
                let follow = futures::future::join_all(followers.iter().map(async |follower| {
                    if let Err(error) = engine.follow_donor(follower, &donor).await {
                        tracing::warn!("restarting {}, which shares namespaces of {}: {error}", follower.name(), donor.name());
                    }
                }));
                match project {
                    Some(project) => drop(engine.between_commands(&project, follow).await),
                    None => drop(follow.await),
                }
            });
        }
    }

    async fn follow_donor(self: &Arc<Self>, follower: &Arc<Container>, donor: &Container) -> Result<(), EngineError> {
        let guard = follower.begin_operation().await?;
        let (own, other) = (follower.record(), donor.record());
        if !follows(&own, &other, |name| is_same(name, own.state.pid, other.state.pid)) {
            return Ok(());
        }
        tracing::info!("{} is restarted, since {} was", own.name, other.name);
        self.restart_locked_by(follower, &guard, None, None).await
    }

    /// Does what an earlier engine has left undone of it.
    pub(in crate::engine) fn recover_followers(self: &Arc<Self>) {
        let shared = |container: &Arc<Container>| {
            container.with_record(|record| shared(record).map(|(_, id)| id.to_string()).collect::<Vec<_>>())
        };
        let donors: HashSet<String> = self.containers.all().iter().flat_map(shared).collect();
        for donor in donors.iter().filter_map(|id| self.containers.find(id).ok()) {
            self.restart_followers(&donor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::{ContainerSpec, Sharing, Transition, Verdict};
    use crate::runtime::launch::Exit;
    use jiff::Timestamp;

    fn container(id: &str, spec: ContainerSpec) -> ContainerRecord {
        let mut record = ContainerRecord::new(id.into(), id.into(), spec, Vec::new());
        record.apply(&Transition::Started { pid: 1, at: Timestamp::UNIX_EPOCH });
        record
    }

    fn end(record: &mut ContainerRecord, code: i32, second: i64) {
        let finished_at = Timestamp::from_second(second).expect("time");
        let exit = Exit { code, oom_killed: false, finished_at, started_at: None };
        record.apply(&Transition::Ended { exit: &exit, verdict: Verdict::Stay });
    }

    #[test]
    fn who_shares_follows() {
        let donor = || {
            let mut donor = container("donor", ContainerSpec::default());
            end(&mut donor, 1, 100);
            donor.apply(&Transition::Started { pid: 2, at: Timestamp::from_second(101).expect("time") });
            donor
        };
        let of_donor = || Sharing::Container("donor".into());
        let pid = || container("a", ContainerSpec { pid: of_donor(), ..ContainerSpec::default() });
        let ipc = || container("b", ContainerSpec { ipc: of_donor(), ..ContainerSpec::default() });
        let network = NetworkMode::Container("donor".into());
        let net = || container("c", ContainerSpec { network_mode: network.clone(), ..ContainerSpec::default() });
        let ended = |mut record: ContainerRecord, code, second| {
            end(&mut record, code, second);
            record
        };
        let stopped = |mut record: ContainerRecord| {
            record.stopped_by_user = true;
            record
        };
        // The container, whether it is in the namespaces of now, whether it follows.
        let table = [
            (net(), true, false),
            (net(), false, true),
            (ipc(), false, true),
            (stopped(ipc()), false, false),
            (container("d", ContainerSpec::default()), false, false),
            (ended(pid(), 137, 100), false, true),
            (ended(pid(), 137, 99), false, true),
            (ended(pid(), 137, 50), false, false),
            (ended(pid(), 0, 100), false, false),
            (ended(ipc(), 137, 100), false, false),
            (stopped(ended(pid(), 137, 100)), false, false),
        ];
        for (n, (record, joined, expected)) in table.into_iter().enumerate() {
            assert_eq!(follows(&record, &donor(), |_| joined), expected, "{n}");
        }
        let mut gone = donor();
        end(&mut gone, 0, 200);
        assert!(!follows(&net(), &gone, |_| false), "whom it follows does not run");
    }
}
