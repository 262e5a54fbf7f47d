//! Ctrl-C and SIGTERM: what a command that is cancelled says, and its exit code.

use super::Failure;
use tokio::signal::unix::{SignalKind, signal};

/// What tells a command to end.
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

/// Ends at Ctrl-C, and when the process is told to end. From its first poll on, neither ends the process by itself.
pub async fn signalled() -> Signal {
    let Ok(mut terminated) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return Signal::Interrupt;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => Signal::Interrupt,
        _ = terminated.recv() => Signal::Terminate,
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
