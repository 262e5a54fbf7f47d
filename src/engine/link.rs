//! The engine's end of a monitor's control socket.

use crate::runtime::control::{self, Event, Request};
use crate::runtime::sys;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
    ///
    /// # Errors
    /// ECONNREFUSED or ENOENT when the monitor is gone.
    pub fn connect(run_directory: &Path) -> io::Result<Self> {
        let socket = connect_to(run_directory)?;
        // Of whoever listens there.
        let peer = getsockopt(&socket, PeerCredentials)?;
        Self::new(socket, peer.pid())
    }

    /// Whether a monitor listens in a run directory. An engine that is connected to it loses its
    /// link, so nobody asks while one runs.
    pub fn is_answered(run_directory: &Path) -> bool {
        connect_to(run_directory).is_ok()
    }

    /// Sends a request, with descriptors where it needs them.
    ///
    /// # Errors
    /// EPIPE when the monitor is gone.
    pub fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        control::send(self.socket.as_fd(), request, fds)
    }

    /// Ends a monitor that hangs; the end of the connection is what tells.
    pub fn kill_monitor(&self) {
        let Ok(process) = sys::pidfd_open(self.pid) else { return };
        // What was opened is a monitor, and not another process that has got its id since.
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        if line.split(|byte| *byte == 0).nth(1) == Some(b"monitor") {
            sys::pidfd_signal(process.as_fd(), libc::SIGKILL);
        }
    }

    /// Waits for the monitor's next word; `None` when it is gone.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn receive(&self) -> io::Result<Option<(Event, Vec<OwnedFd>)>> {
        let take = || BUFFER.with_borrow_mut(|buffer| control::receive(self.socket.as_fd(), buffer));
        self.socket.async_io(Interest::READABLE, take).await
    }
}

/// A monitor's control socket.
fn connect_to(run_directory: &Path) -> io::Result<OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use std::os::fd::AsRawFd;
    // Through the directory's descriptor, since a socket's path may have only 107 bytes.
    let directory = std::fs::File::open(run_directory)?;
    let path = format!("/proc/self/fd/{}/control", directory.as_raw_fd());
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path.as_str())?)?;
    Ok(fd)
}
