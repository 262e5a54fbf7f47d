//! Ctrl-C and SIGTERM: what a command that is cancelled says, and its exit code.

use super::Failure;
use crate::sys::signals::Disposition;
use nix::sys::signal::Signal as Passed;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Waker};
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
pub struct PassedSignals {
    interrupt: Listener,
    terminate: Listener,
    quit: Listener,
    hangup: Option<Listener>,
}

impl PassedSignals {
    /// # Errors
    /// When the kernel has no descriptor or memory left.
    pub fn listen() -> Result<Self, Failure> {
        Ok(PassedSignals {
            interrupt: listen_to(SignalKind::interrupt())?,
            terminate: listen_to(SignalKind::terminate())?,
            quit: listen_to(SignalKind::quit())?,
            hangup: None,
        })
    }

    /// Passes the end of the session on as well, for a container without a terminal. With one it ends the client: the container
    /// would outlive its user's window.
    ///
    /// # Errors
    /// As [`PassedSignals::listen`].
    pub fn with_hangup(mut self) -> Result<Self, Failure> {
        self.hangup = Listener::unless_ignored(SignalKind::hangup()).map_err(not_heard)?;
        Ok(self)
    }

    /// Those that have come were another listener's.
    pub fn dismiss(mut self) {
        for listener in [&mut self.interrupt, &mut self.terminate, &mut self.quit] {
            listener.take();
        }
    }

    /// The next one.
    pub async fn next(&mut self) -> Passed {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.interrupt.next() => Passed::SIGINT,
            () = self.terminate.next() => Passed::SIGTERM,
            () = hangup => Passed::SIGHUP,
            () = self.quit.next() => Passed::SIGQUIT,
        }
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
