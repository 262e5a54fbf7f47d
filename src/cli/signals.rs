//! Ctrl-C and SIGTERM: what a command that is cancelled says, and its exit code.

use super::Failure;
use crate::sys::signals::Disposition;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::signal::unix::{SignalKind, signal};

/// The signals that end a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Interrupt,
    Terminate,
}

impl Signal {
    /// How a command ends that has ended for it.
    pub fn failure(self) -> Failure {
        Failure::Code(match self {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
        })
    }
}

/// The effects of the signals that somebody listens to, or did.
static KNOWN: Mutex<BTreeMap<i32, ListenedSignal>> = Mutex::new(BTreeMap::new());

struct ListenedSignal {
    listeners: usize,
    /// The signal's disposition before anybody listened.
    before: Disposition,
    /// tokio's handler, which tokio installs once and never takes away.
    heard: Disposition,
}

/// Listens to one signal. With its last listener the signal does again what it did before: it ends the process.
pub struct Listener {
    number: i32,
    heard: tokio::signal::unix::Signal,
}

impl Listener {
    /// # Errors
    /// When the kernel has no descriptor or memory left.
    pub fn of(kind: SignalKind) -> io::Result<Self> {
        let number = kind.as_raw_value();
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let before = Disposition::of(number)?;
        let heard = signal(kind)?;
        match known.get_mut(&number) {
            Some(known) => {
                known.heard.restore(number)?;
                known.listeners += 1;
            }
            None => {
                known.insert(number, ListenedSignal { listeners: 1, before, heard: Disposition::of(number)? });
            }
        }
        Ok(Listener { number, heard })
    }

    /// The same, where the signal is not one that this process was started to ignore, as with `nohup`.
    ///
    /// # Errors
    /// As [`Listener::of`].
    pub fn unless_ignored(kind: SignalKind) -> io::Result<Option<Self>> {
        let ignored = Disposition::of(kind.as_raw_value())?.is_ignored();
        if ignored { Ok(None) } else { Listener::of(kind).map(Some) }
    }

    pub async fn next(&mut self) {
        self.heard.recv().await;
    }

    /// Whether the signal has come. It is dealt with then.
    fn take(&mut self) -> bool {
        self.heard.poll_recv(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = known.get_mut(&self.number) else { return };
        known.listeners -= 1;
        if known.listeners > 0 || known.before.restore(self.number).is_err() {
            return;
        }
        // It came as nobody looked any more.
        if self.take() {
            let _ = nix::sys::signal::Signal::try_from(self.number).and_then(nix::sys::signal::raise);
        }
    }
}

fn listen_to(kind: SignalKind) -> Result<Listener, Failure> {
    Listener::of(kind).map_err(not_heard)
}

fn not_heard(error: io::Error) -> Failure {
    Failure::Message(format!("listening to signals: {error}"))
}

/// Listens to Ctrl-C and SIGTERM: neither ends the process by itself meanwhile, and none is missed.
pub struct Signals {
    interrupt: Listener,
    terminate: Listener,
}

impl Signals {
    /// # Errors
    /// When the kernel has no descriptor or memory left.
    pub fn listen() -> Result<Self, Failure> {
        Ok(Signals { interrupt: listen_to(SignalKind::interrupt())?, terminate: listen_to(SignalKind::terminate())? })
    }

    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            () = self.interrupt.next() => Signal::Interrupt,
            () = self.terminate.next() => Signal::Terminate,
        }
    }
}

/// Keeps Ctrl-C and SIGTERM from ending the process between two listeners. They are for those, not for this.
pub struct HeldSignals(Signals);

impl HeldSignals {
    /// # Errors
    /// As [`Signals::listen`].
    pub fn new() -> Result<Self, Failure> {
        Signals::listen().map(HeldSignals)
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        self.0.interrupt.take();
        self.0.terminate.take();
    }
}

/// The signals that are another process's, from before its start on: none ends this one meanwhile, and none is lost.
///
/// Those are all that Docker's client passes on. It leaves out SIGCHLD, SIGURG and SIGPIPE; the terminal's own (SIGTSTP, SIGTTIN,
/// SIGTTOU, SIGCONT, SIGWINCH) do here what they do to any program. Those that the kernel sends for a program's own faults end it.
pub struct PassedSignals(Vec<Listener>);

/// Passed on wherever they come from, as somebody listens for the container's sake.
const ENDING: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGQUIT];
/// Passed on unless this process was started to ignore them.
const OTHERS: [libc::c_int; 13] = [
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSYS,
];
/// The C library keeps the two before for itself.
const FIRST_REAL_TIME: libc::c_int = 34;
const LAST_REAL_TIME: libc::c_int = 64;

impl PassedSignals {
    /// # Errors
    /// When the kernel has no descriptor or memory left.
    pub fn listen() -> Result<Self, Failure> {
        let mut listeners = Vec::new();
        for number in ENDING {
            listeners.push(listen_to(SignalKind::from_raw(number))?);
        }
        for number in OTHERS.into_iter().chain(FIRST_REAL_TIME..=LAST_REAL_TIME) {
            listeners.extend(Listener::unless_ignored(SignalKind::from_raw(number)).map_err(not_heard)?);
        }
        Ok(PassedSignals(listeners))
    }

    /// Passes the end of the session on as well, for a container without a terminal. With one it ends the client: the container
    /// would outlive its user's window.
    ///
    /// # Errors
    /// As [`PassedSignals::listen`].
    pub fn with_hangup(mut self) -> Result<Self, Failure> {
        self.0.extend(Listener::unless_ignored(SignalKind::hangup()).map_err(not_heard)?);
        Ok(self)
    }

    /// Those that have come were another listener's.
    pub fn dismiss(mut self) {
        self.take();
    }

    /// Forgets those that have come. They are dealt with.
    pub fn take(&mut self) {
        for listener in &mut self.0 {
            listener.take();
        }
    }

    /// The number of the next one.
    pub async fn next(&mut self) -> i32 {
        self.next_of(|_| true).await
    }

    /// The number of the next one that is to end a program. The others are kept.
    pub async fn next_that_ends(&mut self) -> i32 {
        self.next_of(|number| ENDING.contains(&number) || number == libc::SIGHUP).await
    }

    async fn next_of(&mut self, wanted: impl Fn(i32) -> bool) -> i32 {
        std::future::poll_fn(|context| {
            let mut of_them = self.0.iter_mut().filter(|listener| wanted(listener.number));
            let come = of_them.find_map(|listener| listener.heard.poll_recv(context).is_ready().then_some(listener.number));
            come.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Ends at the next signal.
pub async fn signalled() -> Signal {
    match Signals::listen() {
        Ok(mut signals) => signals.next().await,
        // They end the process, then.
        Err(_) => std::future::pending().await,
    }
}

/// Does something that a signal cancels. Its connections close then, by which it ends in the engine as well.
///
/// # Errors
/// Its own, or the signal's.
pub async fn or_cancelled<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        // What does not wait for anything, such as reading the files, a signal ends as ever.
        biased;
        outcome = work => outcome,
        signal = signalled() => {
            eprintln!("canceled");
            Err(signal.failure())
        }
    }
}
