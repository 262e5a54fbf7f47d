//! A container as this engine knows it: its record, what lives beside it, and who may operate on it.

use super::exec;
use super::followers::Followers;
use super::link::MonitorLink;
use super::setup::Breakable;
use crate::engine::error::EngineError;
use crate::engine::images::build::is_build_id;
use crate::engine::locked;
use crate::engine::networks::Published;
use crate::engine::record::{BegunStop, ContainerRecord, Status};
use crate::network::dns::Serving;
use crate::runtime::control::MonitorRequest;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// A container, and what of it lives in this engine.
pub struct Container {
    pub id: String,
    pub(in crate::engine) record: Mutex<ContainerRecord>,
    /// Held by whoever starts, stops or removes it.
    operation: tokio::sync::Mutex<()>,
    pub(in crate::engine) live: Mutex<Live>,
    /// Counts the changes of the record.
    pub(in crate::engine) changed: watch::Sender<u64>,
    /// Whenever its monitor has sent something.
    pub(in crate::engine) heard: Notify,
}

/// A container as this engine has it: nothing of it is in the journal.
#[derive(Default)]
pub(in crate::engine) struct Live {
    pub link: Option<Arc<MonitorLink>>,
    /// Of its last start.
    pub setup: Breakable,
    /// The monitor of the last run, which stays until it is told that its end is dealt with: until the next run, where there is one.
    pub parting: Option<Arc<MonitorLink>>,
    /// Keeps the network namespace over restarts.
    pub namespace: Option<Arc<OwnedFd>>,
    pub resolver: Option<Serving>,
    pub published: Published,
    pub execs: exec::Running,
    /// Whether the monitor hands out the container's mounts: one of an earlier version does not.
    pub keeps_mounts: bool,
    /// Waiters for such a mount, in the order of the requests.
    pub mounts: VecDeque<oneshot::Sender<Vec<OwnedFd>>>,
    pub input: Vec<oneshot::Sender<Option<OwnedFd>>>,
    pub followers: Followers,
    pub health: Option<tokio::task::AbortHandle>,
    pub restart: Option<tokio::task::AbortHandle>,
    /// An engine brings it back that has found it ended: its next start waits for what it depends on.
    pub brought_back: bool,
    /// This engine has started it: nobody who follows it has lost an engine, and is about to come back.
    pub started_here: bool,
    /// It has its addresses, running or about to: its networks stay.
    pub on_networks: bool,
    /// Another container has its names and ports already, and it is about to be stopped.
    pub replaced: bool,
    /// Failures of the hooks of its last stop, for the caller of the stop.
    pub pre_stop_failure: Option<String>,
    /// The reader of its hooks' output.
    pub hook_output: Option<mpsc::Sender<HookOutput>>,
}

/// Output of a hook on a stream: 1 is stdout, 2 stderr.
pub(in crate::engine) type HookOutput = (u8, Vec<u8>);

/// A monitor reports an exit at once, and what it has been asked before fails a moment earlier.
const EXIT_NOTICED: Duration = Duration::from_secs(1);

/// The right to start, stop or remove a container, which exists.
pub(in crate::engine) struct OperationGuard<'a> {
    _guard: tokio::sync::MutexGuard<'a, ()>,
}

impl Container {
    /// The errors of the hooks of its last stop; reported once.
    pub(in crate::engine) fn take_pre_stop_failure(&self) -> Option<String> {
        locked(&self.live).pre_stop_failure.take()
    }

    pub(in crate::engine) fn new(record: ContainerRecord) -> Arc<Self> {
        Arc::new(Container {
            id: record.id.clone(),
            record: Mutex::new(record),
            operation: tokio::sync::Mutex::new(()),
            live: Mutex::default(),
            changed: watch::Sender::new(0),
            heard: Notify::new(),
        })
    }

    /// Waits for the right to start, stop or remove it.
    ///
    /// # Errors
    /// When it was removed meanwhile.
    pub(in crate::engine) async fn begin_operation(&self) -> Result<OperationGuard<'_>, EngineError> {
        let guard = self.operation.lock().await;
        if self.status() == Status::Removing {
            return Err(EngineError::no_container(&self.name()));
        }
        Ok(OperationGuard { _guard: guard })
    }

    /// The same, where nobody has it.
    pub(in crate::engine) fn try_begin_operation(&self) -> Option<OperationGuard<'_>> {
        let guard = self.operation.try_lock().ok()?;
        (self.status() != Status::Removing).then_some(OperationGuard { _guard: guard })
    }

    /// Its control group.
    pub(in crate::engine) fn group(&self) -> String {
        self.with_record(ContainerRecord::group)
    }

    /// A copy of what is known of it.
    pub fn record(&self) -> ContainerRecord {
        locked(&self.record).clone()
    }

    /// Looks at what is known of it, without a copy: for questions that are asked of every container.
    pub fn with_record<T>(&self, look: impl FnOnce(&ContainerRecord) -> T) -> T {
        look(&locked(&self.record))
    }

    pub(in crate::engine) fn has_label(&self, key: &str, value: &str) -> bool {
        self.with_record(|record| record.spec.labels.get(key).is_some_and(|label| label == value))
    }

    pub fn status(&self) -> Status {
        locked(&self.record).state.status()
    }

    pub fn name(&self) -> String {
        locked(&self.record).name.clone()
    }

    pub(in crate::engine) fn link(&self) -> Option<Arc<MonitorLink>> {
        locked(&self.live).link.clone()
    }

    /// Keeps the monitor of a run that has ended; an earlier one may go.
    pub(in crate::engine) fn keep_parting(&self, link: Arc<MonitorLink>) {
        let earlier = {
            let mut live = locked(&self.live);
            live.link = None;
            live.parting.replace(link)
        };
        dismiss(earlier);
    }

    /// Lets the monitor of the last run go, unless the container waits for its restart.
    pub(in crate::engine) fn dismiss_parting(&self) {
        if self.status() != Status::Restarting {
            let parting = locked(&self.live).parting.take();
            dismiss(parting);
        }
    }

    /// It is about to be removed, so its end is no reason to start it again. That is not written: what the disk has left is for
    /// the removal itself. Tells whether the user had stopped it before.
    pub(in crate::engine) fn mark_stopped(&self, stop: BegunStop) -> bool {
        locked(&self.record).begin_stop(stop, false)
    }

    /// A signal is about to be sent to it after which it is to stay ended. That is not written before it is sent. Tells whether the
    /// user had stopped it before.
    pub(in crate::engine) fn mark_killed(&self) -> bool {
        let mut record = locked(&self.record);
        let begun = record.stop_begun;
        let was_stopped = record.stop_requested(false);
        // A stop that goes on meanwhile still does.
        record.stop_begun = begun;
        was_stopped
    }

    /// Tells its monitors that the engine leaves on purpose.
    pub(in crate::engine) fn say_goodbye(&self) {
        let (link, parting) = {
            let live = locked(&self.live);
            (live.link.clone(), live.parting.clone())
        };
        dismiss(link);
        dismiss(parting);
    }

    /// Whether something of its record holds within the time in which an exit is noticed.
    pub(in crate::engine) async fn ends_soon(&self, ended: impl FnMut(&ContainerRecord) -> bool) -> bool {
        tokio::time::timeout(EXIT_NOTICED, self.wait_until(ended)).await.is_ok()
    }

    /// Why nothing can be done in it, in Docker's words: between two runs it counts as running there.
    pub fn not_running(&self) -> EngineError {
        let name = self.name();
        match self.status() {
            Status::Restarting => {
                EngineError::Conflict(format!("container {name} is restarting, wait until the container is running"))
            }
            _ => EngineError::NotRunning { name },
        }
    }

    /// Sends its monitor a request.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`] when it has no monitor, or one that has just gone: its end is about to be noticed.
    pub(in crate::engine) fn ask(&self, request: &MonitorRequest, fds: &[BorrowedFd<'_>]) -> Result<(), EngineError> {
        let gone = || EngineError::NotRunning { name: self.name() };
        self.link().ok_or_else(gone)?.send(request, fds).map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::NotConnected => gone(),
            ErrorKind::WouldBlock => EngineError::Unresponsive { name: self.name() },
            _ => EngineError::Io { doing: format!("asking the monitor of {}", self.name()), source: error },
        })
    }

    /// Whether it is a build's step.
    pub fn is_build_step(&self) -> bool {
        is_build_id(&self.id)
    }

    /// Sends a signal to a container's first process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: i32) -> Result<(), EngineError> {
        self.ask(&MonitorRequest::Signal(signal), &[])
    }

    /// The writing end of a container's standard input, or its terminal; `None` where it has neither.
    ///
    /// # Errors
    /// When the container does not run.
    pub async fn input(&self) -> Result<Option<OwnedFd>, EngineError> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        locked(&self.live).input.push(sender);
        self.ask(&MonitorRequest::Input, &[])?;
        receiver.await.map_err(|_| EngineError::NotRunning { name: self.name() })
    }

    /// Ends a container's standard input.
    pub fn close_input(&self) {
        let _ = self.ask(&MonitorRequest::CloseInput, &[]);
    }

    /// Sets the size of a container's terminal.
    pub fn resize(&self, rows: u16, columns: u16) {
        let _ = self.ask(&MonitorRequest::Resize { rows, columns }, &[]);
    }

    /// Whether its monitor sends anything within a time, when it is asked to.
    pub(in crate::engine) async fn monitor_answers(&self, within: Duration) -> bool {
        let heard = self.heard.notified();
        self.ask(&MonitorRequest::Status, &[]).is_ok() && tokio::time::timeout(within, heard).await.is_ok()
    }

    /// Tells of every change of the record from now on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits until the record fulfils a condition.
    pub async fn wait_until(&self, mut fulfilled: impl FnMut(&ContainerRecord) -> bool) {
        let mut changes = self.changed.subscribe();
        loop {
            changes.borrow_and_update();
            if fulfilled(&locked(&self.record)) || changes.changed().await.is_err() {
                return;
            }
        }
    }
}

fn dismiss(link: Option<Arc<MonitorLink>>) {
    // One that is gone needs no goodbye.
    link.iter().for_each(|link| drop(link.send(&MonitorRequest::Goodbye, &[])));
}
