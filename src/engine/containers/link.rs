//! The engine's end of a monitor's control socket.

use crate::runtime::control::{self, MonitorEvent, MonitorRequest};
use crate::sys;
use crate::sys::socket::{connect_at_once, short_name};
use nix::sys::socket::{SockType, getsockopt, sockopt::PeerCredentials};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tokio::io::Interest;
use tokio::net::UnixDatagram;

thread_local! {
    /// One for each thread, not one for each monitor that is waited for.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connection to a monitor. Sending does not wait: requests are small and the monitor reads at once.
#[derive(Debug)]
pub struct MonitorLink {
    /// A SOCK_SEQPACKET, of which tokio has no type of its own: readiness is the same.
    socket: UnixDatagram,
    /// The monitor's process.
    pid: i32,
}

impl MonitorLink {
    /// Takes the engine's end of a socket pair with the monitor of a process id.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(socket: OwnedFd, pid: i32) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        Ok(MonitorLink { socket: UnixDatagram::from_std(socket)?, pid })
    }

    /// Connects to a monitor that an earlier engine started.
    pub fn reach(run_directory: &Path) -> Reached {
        let linked = connect_to(run_directory).and_then(|socket| {
            // Of whoever listens there.
            let peer = getsockopt(&socket, PeerCredentials)?;
            Self::new(socket, peer.pid())
        });
        match linked {
            Ok(link) => Reached::Monitor(link),
            Err(error) if is_absence(&error) => Reached::Nobody,
            Err(_) => Reached::Silent,
        }
    }

    /// Whether there is a monitor in a run directory. An engine that is connected to it loses its
    /// link, so nobody asks while one runs.
    pub fn is_there(run_directory: &Path) -> bool {
        !connect_to(run_directory).is_err_and(|error| is_absence(&error))
    }

    /// Ends the monitor of a run directory that takes no connection: its working directory tells which it is.
    pub fn kill_silent(run_directory: &Path) {
        let identity = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        let Some(directory) = identity(run_directory) else { return };
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Ok(process) = sys::pidfd_open(pid)
                && is_monitor(pid)
                && identity(&entry.path().join("cwd")) == Some(directory)
            {
                sys::pidfd_signal(process.as_fd(), libc::SIGKILL);
            }
        }
    }

    /// Sends a request, with descriptors where it needs them.
    ///
    /// # Errors
    /// EPIPE when the monitor is gone.
    pub fn send(&self, request: &MonitorRequest, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        control::send(self.socket.as_fd(), request, fds)
    }

    /// Kills a monitor that hangs; the end of the connection shows it.
    pub fn kill_monitor(&self) {
        let Ok(process) = sys::pidfd_open(self.pid) else { return };
        // What was opened is a monitor, and not another process that has got its id since.
        if is_monitor(self.pid) {
            sys::pidfd_signal(process.as_fd(), libc::SIGKILL);
        }
    }

    /// Waits for the monitor's next word; `None` when it is gone.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn receive(&self) -> io::Result<Option<(MonitorEvent, Vec<OwnedFd>)>> {
        let take = || BUFFER.with_borrow_mut(|buffer| control::receive(self.socket.as_fd(), buffer));
        self.socket.async_io(Interest::READABLE, take).await
    }
}

/// The state of a run directory's control socket.
#[derive(Debug)]
pub enum Reached {
    Monitor(MonitorLink),
    /// A monitor that takes no connection: it is stopped, or waits for its disk.
    Silent,
    Nobody,
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::ConnectionRefused)
}

fn is_monitor(pid: i32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(b"monitor")
}

/// A monitor's control socket. Nobody waits for one that is stopped, whose queue of connections may be full.
fn connect_to(run_directory: &Path) -> io::Result<OwnedFd> {
    let directory = std::fs::File::open(run_directory)?;
    Ok(connect_at_once(Path::new(&short_name(&directory, "control")), SockType::SeqPacket)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, UnixAddr, bind, listen, socket};
    use std::os::fd::AsRawFd;

    #[tokio::test]
    async fn a_monitor_that_takes_no_connection_is_there_and_is_not_waited_for() {
        let directory = tempfile::tempdir().expect("directory");
        assert!(matches!(MonitorLink::reach(directory.path()), Reached::Nobody) && !MonitorLink::is_there(directory.path()));
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
        bind(listener.as_raw_fd(), &UnixAddr::new(&directory.path().join("control")).expect("address")).expect("bind");
        listen(&listener, Backlog::new(4).expect("backlog")).expect("listen");
        // A connection that is closed stays in the queue.
        let reached = (0..100).find(|_| !matches!(MonitorLink::reach(directory.path()), Reached::Monitor(_)));
        assert!(reached.is_some_and(|n| n > 0));
        assert!(matches!(MonitorLink::reach(directory.path()), Reached::Silent) && MonitorLink::is_there(directory.path()));
        drop(listener);
        assert!(matches!(MonitorLink::reach(directory.path()), Reached::Nobody) && !MonitorLink::is_there(directory.path()));
    }
}
