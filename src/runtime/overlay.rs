//! Layers as one tree, mounted detached.

use crate::sys;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// No device can be opened, and no program run: of mounts that are the engine's own.
pub const INERT: u64 = sys::ATTR_NODEV | sys::ATTR_NOSUID | sys::ATTR_NOEXEC;

/// Mounts layers (the lowest first) detached, so that it goes with its descriptor: on top of them, where it is given, an upper
/// directory that takes what is written, and its work directory.
///
/// # Errors
/// The kernel's.
pub fn mount(layers: &[PathBuf], upper: Option<(&Path, &Path)>) -> io::Result<OwnedFd> {
    mount_with(layers, upper, 0)
}

/// As [`mount`], for the engine's own use: no device in it can be opened, and no program in it can be run.
///
/// # Errors
/// The kernel's.
pub fn mount_inert(layers: &[PathBuf], upper: Option<(&Path, &Path)>) -> io::Result<OwnedFd> {
    mount_with(layers, upper, INERT)
}

fn mount_with(layers: &[PathBuf], upper: Option<(&Path, &Path)>, attributes: u64) -> io::Result<OwnedFd> {
    let open = |path: &Path| nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let lower: Vec<OwnedFd> = layers.iter().rev().map(|path| open(path)).collect::<Result<_, _>>()?;
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lowers: Vec<String> = lower.iter().map(name).collect();
    let joined = lowers.join(":");
    let mut options: Vec<(&str, Option<&str>)> = Vec::new();
    // One parameter has room for 255 characters; `lowerdir+` takes a layer each, since Linux 6.7.
    if joined.len() < 256 {
        options.push(("lowerdir", Some(&joined)));
    } else {
        options.extend(lowers.iter().map(|layer| ("lowerdir+", Some(layer.as_str()))));
    }
    let upper = match upper {
        Some((upper, work)) => Some((open(upper)?, open(work)?)),
        None => None,
    };
    let names = upper.as_ref().map(|(upper, work)| (name(upper), name(work)));
    if let Some((upper, work)) = &names {
        options.push(("upperdir", Some(upper)));
        options.push(("workdir", Some(work)));
    }
    let tree = sys::new_mount("overlay", "wharf", &options, attributes)?;
    if let Some((_, work)) = &upper {
        check_writable(&tree, work)?;
    }
    Ok(tree)
}

/// Refuses an overlay that cannot be written: overlayfs mounts it read-only, and says only in the kernel's log that its work
/// directory has no room.
///
/// # Errors
/// Why not.
pub fn check_writable(tree: &OwnedFd, work: &OwnedFd) -> io::Result<()> {
    if !fstatvfs(tree)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    mkdirat(work, "probe", Mode::S_IRWXU)?;
    unlinkat(work, "probe", UnlinkatFlags::RemoveDir)?;
    Err(Errno::EROFS.into())
}
