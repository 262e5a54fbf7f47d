//! Followers of a container's output: rotation keeps what they have not read, whichever monitor writes the log.

use super::{Container, locked};
use crate::engine::Engine;
use crate::engine::record::Status;
use crate::logs::holds::{ALL, GRACE, Hold};
use crate::logs::{drop_late_files, has_late_files};
use crate::runtime::control::MonitorRequest;
use crate::sys::foreign_disk::ask;
use nix::fcntl::{Flock, FlockArg};
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A monitor that has not answered by then hangs, and rotates nothing either.
const ANSWER: Duration = Duration::from_secs(1);

/// The readers of a container's log.
#[derive(Debug, Default)]
pub(in crate::engine) struct Followers {
    /// The position from which each reader still needs the log.
    holds: HashMap<u64, u64>,
    /// Readers that the next run's monitor shall wait for.
    expected: Vec<u64>,
    /// Waiters until the monitor keeps every file.
    waiting: HashMap<u64, oneshot::Sender<()>>,
    /// Whether the monitor knows of holds: one of an earlier version does not.
    known: bool,
}

impl Followers {
    /// The holds for the monitor of the next run.
    pub(in crate::engine) fn for_launch(&mut self) -> (Vec<Hold>, Vec<u64>) {
        (self.list(), std::mem::take(&mut self.expected))
    }

    /// A monitor has connected. Returns the holds that it lacks: readers may have come since its launch file was written.
    pub(in crate::engine) fn monitor_knows(&mut self, known: bool) -> Vec<Hold> {
        self.known = known;
        if known { self.list() } else { Vec::new() }
    }

    pub(in crate::engine) fn held(&mut self, reader: u64) {
        if let Some(sender) = self.waiting.remove(&reader) {
            let _ = sender.send(());
        }
    }

    fn list(&self) -> Vec<Hold> {
        self.holds.iter().map(|(reader, file)| Hold { reader: *reader, file: *file }).collect()
    }
}

impl Container {
    /// A client is going to follow the container's output from its next start on.
    pub(in crate::engine) fn expect_follower(&self, reader: u64) {
        locked(&self.live).followers.expected.push(reader);
    }

    /// Waits until nobody has followed the container for a while, or it runs again or is gone. A follower that takes nothing is
    /// not waited for any longer than its own patience.
    pub(in crate::engine) async fn wait_until_unfollowed(&self, quiet: Duration) {
        let mut changes = self.changed.subscribe();
        loop {
            changes.borrow_and_update();
            let followed = !locked(&self.live).followers.holds.is_empty();
            if self.status() != Status::Exited {
                return;
            }
            if followed {
                if changes.changed().await.is_err() {
                    return;
                }
            } else if tokio::time::timeout(quiet, changes.changed()).await.is_err() {
                return;
            }
        }
    }

    /// From the return of this on, no file of the log is removed that the reader has not read.
    pub async fn hold_log(self: &Arc<Self>, reader: u64) -> Lease {
        let asked = {
            let mut live = locked(&self.live);
            live.followers.holds.insert(reader, ALL);
            live.followers.known.then(|| {
                let (sender, held) = oneshot::channel();
                live.followers.waiting.insert(reader, sender);
                held
            })
        };
        let lease = Lease { container: self.clone(), reader, file: Some(ALL) };
        if let Some(held) = asked
            && self.ask(&MonitorRequest::Hold(Hold { reader, file: ALL }), &[]).is_ok()
        {
            let _ = tokio::time::timeout(ANSWER, held).await;
        }
        locked(&self.live).followers.waiting.remove(&reader);
        lease
    }
}

impl Engine {
    /// Removes the files that rotation has kept of an ended container's log for its readers, once the last of them has left, or has not
    /// come back to the next engine. The monitor, which does that while it runs, is gone.
    pub(in crate::engine) fn drop_late_files(self: &Arc<Self>, container: &Arc<Container>) {
        let log = container.with_record(|record| record.spec.log.clone());
        if log.none || log.max_size == 0 {
            return;
        }
        let (path, directory) = (self.config.log_path(&container.id), self.config.run_directory(&container.id));
        let (container, max_files) = (container.clone(), log.max_files);
        tokio::spawn(async move {
            let asked = path.clone();
            let looking = tokio::task::spawn_blocking(move || ask(|| Ok(has_late_files(&asked, max_files))));
            if !matches!(looking.await, Ok(Ok(true))) {
                return;
            }
            container.wait_until_unfollowed(GRACE).await;
            let subject = container.clone();
            let dropping = tokio::task::spawn_blocking(move || {
                // A monitor that still writes, or is about to, has the lock, and drops them itself.
                let alone = File::open(&directory).map(|directory| Flock::lock(directory, FlockArg::LockExclusiveNonblock));
                let is_alone = !matches!(alone, Ok(Err(_)));
                let is_read = !locked(&subject.live).followers.holds.is_empty();
                if is_alone && !is_read && subject.status() == Status::Exited {
                    return ask(|| drop_late_files(&path, max_files));
                }
                Ok(())
            });
            if let Ok(Err(error)) = dropping.await {
                tracing::warn!("removing old files of the log of {}: {error}", container.name());
            }
        });
    }
}

/// A reader's hold on a container's log, until this is dropped.
pub struct Lease {
    container: Arc<Container>,
    reader: u64,
    /// The oldest file that is needed; `None` while nothing is held.
    file: Option<u64>,
}

impl Lease {
    /// The reader has read, and its client has received, what is before a file.
    pub fn at(&mut self, file: u64) {
        if file == ALL || self.file == Some(file) {
            return;
        }
        self.file = Some(file);
        locked(&self.container.live).followers.holds.insert(self.reader, file);
        let _ = self.container.ask(&MonitorRequest::Hold(Hold { reader: self.reader, file }), &[]);
    }

    /// The reader is not waited for any more, until it goes on.
    pub fn release(&mut self) {
        if self.file.take().is_some() {
            locked(&self.container.live).followers.holds.remove(&self.reader);
            let _ = self.container.ask(&MonitorRequest::Release { reader: self.reader }, &[]);
            self.container.changed.send_modify(|count| *count += 1);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release();
    }
}
