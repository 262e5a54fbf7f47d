//! One command at a time changes a project; the next waits, and plans by what it finds then.

use super::progress::Commands;
use super::{Progress, ProgressSender};
use crate::engine::error::EngineError;
use crate::engine::locked;
use crate::plan::Lifecycle;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::{OwnedMutexGuard, watch};

/// A command that changes a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Change {
    Up,
    Run,
    Down,
    Lifecycle(Lifecycle),
    /// `x-update`.
    Update,
    /// A run of a job.
    Job,
    /// Containers are restarted with one whose namespaces they share.
    Follow,
    /// An earlier engine has died within a change, and this one ends it.
    Recovery,
}

impl Change {
    /// Whether others should not wait for what may never come while it waits for them.
    fn ends_waits(self) -> bool {
        matches!(self, Change::Down | Change::Lifecycle(Lifecycle::Stop | Lifecycle::Rm))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Up => f.write_str("`up`"),
            Change::Run => f.write_str("`run`"),
            Change::Down => f.write_str("`down`"),
            Change::Lifecycle(command) => command.fmt(f),
            Change::Update => f.write_str("`x-update`"),
            Change::Job => f.write_str("a run of a job"),
            Change::Follow => f.write_str("a restart of containers that share namespaces"),
            Change::Recovery => f.write_str("the recovery from a crash"),
        }
    }
}

/// The queues of all projects, by their names.
#[derive(Default)]
pub(in crate::engine) struct Queues {
    queues: Mutex<HashMap<String, Weak<Queue>>>,
    /// The commands that go on, waiting or not.
    pub(super) commands: Commands,
}

#[derive(Default)]
struct Queue {
    lock: Arc<tokio::sync::Mutex<()>>,
    /// The operation that holds the lock.
    holder: Mutex<Option<Change>>,
    waiting: watch::Sender<WaitingCounts>,
}

#[derive(Clone, Copy, Default)]
struct WaitingCounts {
    all: usize,
    downs: usize,
}

impl WaitingCounts {
    fn count(&mut self, change: Change, by: isize) {
        self.all = self.all.saturating_add_signed(by);
        if change.ends_waits() {
            self.downs = self.downs.saturating_add_signed(by);
        }
    }
}

/// The right to change a project.
pub(in crate::engine) struct ProjectGuard {
    queue: Arc<Queue>,
    _guard: OwnedMutexGuard<()>,
}

impl Drop for ProjectGuard {
    fn drop(&mut self) {
        *locked(&self.queue.holder) = None;
    }
}

/// Counts a command as waiting while it does.
struct InQueue<'a>(&'a Queue, Change);

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| waiting.count(self.1, -1));
    }
}

impl Queues {
    /// Waits for the project's lock, and reports to the client who holds it.
    ///
    /// # Errors
    /// When the client leaves before.
    pub async fn take(&self, project: &str, change: Change, progress: &ProgressSender) -> Result<ProjectGuard, EngineError> {
        let queue = {
            let mut queues = locked(&self.queues);
            let known = queues.get(project).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                queues.retain(|_, queue| queue.strong_count() > 0);
                let queue = Arc::default();
                queues.insert(project.to_string(), Arc::downgrade(&queue));
                queue
            })
        };
        let guard = match queue.lock.clone().try_lock_owned() {
            Ok(guard) => guard,
            Err(_) => {
                queue.waiting.send_modify(|waiting| waiting.count(change, 1));
                let _counted = InQueue(&queue, change);
                let holder = locked(&queue.holder).map_or_else(|| "another command".to_string(), |holder| holder.to_string());
                progress.send(Progress::Warning(format!("{holder} of the project {project} goes first; waiting for its end")));
                tokio::select! {
                    guard = queue.lock.clone().lock_owned() => guard,
                    () = progress.closed() => return Err(EngineError::Cancelled),
                }
            }
        };
        *locked(&queue.holder) = Some(change);
        Ok(ProjectGuard { queue, _guard: guard })
    }
}

impl ProjectGuard {
    /// Ends when the holder of the lock should no longer wait for something that may never come: `down` waits, or the client has
    /// gone and anybody waits.
    pub async fn superseded(&self, progress: &ProgressSender) {
        let mut waiting = self.queue.waiting.subscribe();
        let down = async { drop(waiting.wait_for(|waiting| waiting.downs > 0).await.map(drop)) };
        let mut others = self.queue.waiting.subscribe();
        let abandoned = async {
            progress.closed().await;
            drop(others.wait_for(|waiting| waiting.all > 0).await.map(drop));
        };
        tokio::select! {
            () = down => {}
            () = abandoned => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::sync::mpsc::unbounded_channel;

    #[tokio::test]
    async fn commands_of_a_project_have_their_turns_in_order() {
        let queues = Queues::default();
        let (progress, mut shown) = unbounded_channel();
        let progress = ProgressSender::from(progress);
        let first = queues.take("p", Change::Up, &progress).await.expect("free");
        drop(queues.take("other", Change::Up, &progress).await.expect("another project"));
        assert!(shown.try_recv().is_err(), "nobody has waited");
        let mut second = Box::pin(queues.take("p", Change::Up, &progress));
        let mut third = Box::pin(queues.take("p", Change::Run, &progress));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        let Ok(Progress::Warning(text)) = shown.try_recv() else { panic!("it does not say for whom it waits") };
        assert!(text.contains("`up` of the project p"), "{text}");
        drop(first);
        assert!((&mut third).now_or_never().is_none(), "the second is before the third");
        drop(second.await.expect("its turn"));
        drop(third.await.expect("its turn"));
    }

    #[tokio::test]
    async fn what_may_never_come_is_given_up_for_a_down() {
        let queues = Queues::default();
        let (progress, _shown) = unbounded_channel();
        let (gone, client) = unbounded_channel();
        let (progress, gone) = (ProgressSender::from(progress), ProgressSender::from(gone));
        let first = queues.take("p", Change::Up, &progress).await.expect("free");
        let mut waiting = Box::pin(queues.take("p", Change::Up, &progress));
        assert!((&mut waiting).now_or_never().is_none());
        assert!(first.superseded(&progress).now_or_never().is_none(), "another `up` waits");
        drop(client);
        assert!(first.superseded(&gone).now_or_never().is_some(), "its client has gone, and another `up` waits");
        drop(waiting);
        assert!(first.superseded(&gone).now_or_never().is_none(), "nobody waits any more");
        let mut down = Box::pin(queues.take("p", Change::Down, &progress));
        assert!((&mut down).now_or_never().is_none());
        assert!(first.superseded(&progress).now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_leaves_the_queue_does_nothing() {
        let queues = Queues::default();
        let (progress, client) = unbounded_channel();
        let progress = ProgressSender::from(progress);
        let _first = queues.take("p", Change::Up, &progress).await.expect("free");
        drop(client);
        assert!(queues.take("p", Change::Down, &progress).await.is_err());
    }
}
