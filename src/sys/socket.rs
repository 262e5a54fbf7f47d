//! Sockets of this machine.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// A name for a socket in a directory, whose own path may be longer than the 107 bytes of an address. It is good as long as the
/// directory is open, in this process.
pub fn short_name(directory: impl AsFd, name: impl std::fmt::Display) -> String {
    format!("/proc/self/fd/{}/{name}", directory.as_fd().as_raw_fd())
}

/// Connects to a socket in the file system, and waits for nobody: one whose queue of connections is full is EAGAIN.
///
/// # Errors
/// The kernel's.
pub fn connect_at_once(path: &Path, kind: SockType) -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}
