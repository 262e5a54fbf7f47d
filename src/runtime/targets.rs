//! Where a mount goes: a path of the container's, resolved beneath its root, and what a mount there must not cover.
//!
//! The path is the user's or the image's, and so is what lies on the way: a directory of the image may be a symlink to /proc/sys.
//! The check is therefore of the opened descriptor, not of the path (CVE-2019-16884, CVE-2023-27561).

use super::error::{Doing, StepFailed};
use crate::sys::beneath::{MissingEnd, make_beneath};
use crate::sys::{self, Beneath};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Files of /proc that lxcfs and the like have others in the place of (runc, `libcontainer/rootfs_linux.go`).
pub const STAND_INS: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "slabinfo",
    "stat",
    "swaps",
    "uptime",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

/// The file type that a mount's target must have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Directory,
    File,
}

/// Files that every container has of its own.
const OWN_FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// Opens a mount's target beneath the root, making what is missing.
///
/// A symlink at the place of a container's own file is covered, not followed: it may lead to what is not there, or to where another
/// mount would hide the file (a tmpfs on /run). Docker has a file there instead.
///
/// # Errors
/// When it is one of the kernel's files, other than those that may be replaced.
pub fn open_target(root: BorrowedFd<'_>, path: &Path, kind: Target) -> Result<OwnedFd, StepFailed> {
    let target = match OWN_FILES.iter().any(|own| Path::new(own) == path) {
        true => match open_symlink(root, path)? {
            Some(link) => link,
            None => open_or_make(root, path, kind, Beneath::AsRoot)?,
        },
        false => open_or_make(root, path, kind, Beneath::AsRoot)?,
    };
    check(root, path, target.as_fd())?;
    Ok(target)
}

/// The symlink itself, where a path beneath the root ends in one. Symlinks on the way are followed.
fn open_symlink(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, StepFailed> {
    let inside = path.strip_prefix("/").unwrap_or(path);
    let found = match sys::open_beneath(root, inside, libc::O_PATH | libc::O_NOFOLLOW, 0, Beneath::AsRoot) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.doing(format_args!("opening {} in the container", path.display()))?,
    };
    let mode = fstat(&found).doing(format_args!("opening {} in the container", path.display()))?.st_mode;
    Ok((SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFLNK).then_some(found))
}

/// Refuses a directory on a file, or a file on a directory; `what` is mounted there.
///
/// # Errors
/// Docker's words, with what is what.
pub fn check_kind(target: BorrowedFd<'_>, path: &Path, kind: Target, what: &str) -> Result<(), StepFailed> {
    let mode = fstat(target).doing(format_args!("mounting {what} on {}", path.display()))?.st_mode;
    let there = if SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFDIR { Target::Directory } else { Target::File };
    if there == kind {
        return Ok(());
    }
    let named = |kind: Target| if kind == Target::Directory { "a directory" } else { "a file" };
    Err(StepFailed::because(
        format!("mounting {what} ({}) on {} ({})", named(kind), path.display(), named(there)),
        "not a directory: Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type",
    ))
}

/// The same for procfs and sysfs themselves: an image that has a symlink in the place of one would have it elsewhere, and what
/// the masks name would be the image's own.
pub fn open_ordinary_directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, StepFailed> {
    let target = open_or_make(root, path, Target::Directory, Beneath::NoSymlinks)?;
    check(root, path, target.as_fd())?;
    Ok(target)
}

fn check(root: BorrowedFd<'_>, path: &Path, target: BorrowedFd<'_>) -> Result<(), StepFailed> {
    let doing = || format!("mounting on {} in the container", path.display());
    // Nobody would find it there: the root itself is what processes have already.
    if is_same(root, target).doing(doing())? {
        return Err(StepFailed::because(doing(), "it leads to the root of the container, on which nothing can be mounted"));
    }
    let clean = clean(path);
    let is_allowed = match fstatfs(target).doing(doing())?.filesystem_type() {
        PROC_SUPER_MAGIC => match clean.strip_prefix("proc") {
            Ok(inside) if STAND_INS.iter().any(|file| Path::new(file) == inside) => {
                let file = sys::open_beneath(root, &clean, libc::O_PATH, 0, Beneath::NoSymlinks).doing(doing())?;
                is_same(file.as_fd(), target).doing(doing())?
            }
            _ => false,
        },
        // What is masked there is masked afterwards, whatever has been mounted.
        SYSFS_MAGIC | CGROUP_SUPER_MAGIC | CGROUP2_SUPER_MAGIC => clean.starts_with("sys"),
        _ => true,
    };
    if is_allowed {
        return Ok(());
    }
    Err(StepFailed::because(doing(), "it leads to the kernel's own files, which nothing can take the place of"))
}

fn is_same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> nix::Result<bool> {
    let (a, b) = (fstat(a)?, fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// A path without its root, `.` and `..`.
pub fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

/// Opens a path beneath the root, making what is missing, of what a symlink leads to as well. No magic link of procfs is followed.
pub fn open_or_make(root: BorrowedFd<'_>, path: &Path, kind: Target, how: Beneath) -> Result<OwnedFd, StepFailed> {
    let inside = path.strip_prefix("/").unwrap_or(path);
    match sys::open_beneath(root, inside, libc::O_PATH, 0, how) {
        Ok(fd) => return Ok(fd),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(StepFailed::new(format!("opening {} in the container", path.display()), e)),
    }
    let end = if kind == Target::File { MissingEnd::File } else { MissingEnd::Directory };
    make_beneath(root, inside, end, how, None).doing(format_args!("making {} in the container", path.display()))
}
