//! The user's own `ssh` as a stream of bytes to a command of another machine.

use super::destination::Destination;
use crate::cli::last_bytes::LastBytes;
use crate::printable;
use crate::sys;
use std::io::{self, IsTerminal};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::Join;
use tokio::net::unix::pipe;

/// Bytes that are kept of ssh's stderr, the last ones.
const MAX_STDERR: usize = 8 << 10;
/// Characters of it that a message shows.
const MAX_SHOWN: usize = 300;
/// How long ssh may take to end after its standard output has.
const END: Duration = Duration::from_secs(5);
/// Looks at a process that is ending.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// A running `ssh`.
#[derive(Debug)]
pub struct Ssh {
    child: Mutex<Child>,
    stderr: LastBytes,
}

/// Its standard input and output as one stream.
pub type Streams = Join<pipe::Receiver, pipe::Sender>;

/// Whether somebody at a terminal sees this command.
fn is_watched() -> bool {
    std::io::stdin().is_terminal() || std::io::stdout().is_terminal() || std::io::stderr().is_terminal()
}

/// The user's `ssh` with a command of another machine.
pub fn ssh(destination: &Destination, command: &[&str]) -> Command {
    let mut ssh = Command::new("ssh");
    // Nobody is there to be asked for a password or about a host's key.
    if !is_watched() && std::env::var_os("SSH_ASKPASS").is_none() {
        ssh.args(["-o", "BatchMode=yes"]);
    }
    ssh.args(destination.arguments(command));
    ssh
}

/// The message about an `ssh` that cannot be started.
pub fn not_started(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no `ssh` on this machine: install it (Debian: openssh-client)".to_string(),
        _ => format!("running ssh: {error}"),
    }
}

/// The last line of what was written to stderr, as a terminal may get it; empty where there was none.
pub fn last_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    printable::line(&last.chars().take(MAX_SHOWN).collect::<String>()).into_owned()
}

impl Ssh {
    /// Starts `ssh`. It ignores Ctrl-C at the terminal that it shares with this process: what is done there is cancelled by a request.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub fn start(destination: &Destination, command: &[&str]) -> Result<(Arc<Self>, Streams), String> {
        let failed = |e: io::Error| format!("running ssh: {e}");
        let mut ssh = ssh(destination, command);
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        sys::ignore_interrupts(&mut ssh);
        let mut child = ssh.spawn().map_err(not_started)?;
        let (Some(stdin), Some(stdout), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err("running ssh: it has no streams".into());
        };
        let to = pipe::Sender::from_owned_fd(stdin.into()).map_err(failed)?;
        let from = pipe::Receiver::from_owned_fd(stdout.into()).map_err(failed)?;
        let errors = pipe::Receiver::from_owned_fd(errors.into()).map_err(failed)?;
        // A shared connection's master may keep it open for longer than ssh runs.
        let stderr = LastBytes::of(errors, MAX_STDERR);
        Ok((Arc::new(Ssh { child: Mutex::new(child), stderr }), tokio::io::join(from, to)))
    }

    /// Its last line on stderr, or that of the command there; empty where there was none.
    pub fn last_line(&self) -> String {
        last_line(&self.stderr.so_far())
    }

    /// How it has ended, once it has; it is given a moment.
    pub async fn ended(&self) -> Option<ExitStatus> {
        let looking = async {
            loop {
                if let Ok(Some(status)) = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait() {
                    return status;
                }
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
        };
        let status = tokio::time::timeout(END, looking).await.ok()?;
        // What it has written is read by another task of this thread.
        tokio::time::sleep(BETWEEN_LOOKS).await;
        Some(status)
    }

    /// Ends it where it has not connected yet.
    pub fn give_up(&self) {
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).kill();
    }
}
