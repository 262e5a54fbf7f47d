//! The host's procfs, for what decides what a container may: nothing else can stand in its place.

use super::{Beneath, open_beneath};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Opens a file of procfs, by its path in it. It is what is mounted on /proc: the host's, before a container is entered.
///
/// # Errors
/// The kernel's; an explanation where something else is mounted there (CVE-2019-16884).
pub fn open_file(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let root = open("/proc", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    is_procfs(&root)?;
    let file = open_beneath(root.as_fd(), path, flags, 0, Beneath::AsRoot)?;
    is_procfs(&file)?;
    Ok(file)
}

/// Writes a file of procfs as [`open_file`] opens it.
///
/// # Errors
/// As [`open_file`].
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    File::from(open_file(path, libc::O_WRONLY)?).write_all(text.as_bytes())
}

fn is_procfs(file: &OwnedFd) -> io::Result<()> {
    if fstatfs(file)?.filesystem_type() == PROC_SUPER_MAGIC {
        return Ok(());
    }
    Err(io::Error::other("what is mounted on /proc is not procfs"))
}
