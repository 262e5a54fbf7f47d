//! Ctrl-C and SIGTERM: what a command that is cancelled says, and its exit code.

use super::Failure;
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

/// Listens to Ctrl-C and SIGTERM: neither ends the process by itself any more, and none is missed.
pub struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// # Errors
    /// When the kernel has no descriptor or memory left.
    pub fn listen() -> Result<Self, Failure> {
        let of = |kind| signal(kind).map_err(|e| Failure::Message(format!("listening to signals: {e}")));
        Ok(Signals { interrupt: of(SignalKind::interrupt())?, terminate: of(SignalKind::terminate())? })
    }

    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
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
