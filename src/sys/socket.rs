//! Sockets of this machine.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// Connects to a socket in the file system, and waits for nobody: one whose queue of connections is full is EAGAIN.
///
/// # Errors
/// The kernel's.
pub fn connect_at_once(path: &Path, kind: SockType) -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}
