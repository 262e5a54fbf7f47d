//! Directories of a limited size, where the file system keeps them to it: project quotas of ext4 and XFS.
//!
//! Nothing of it is in wharf's state. A directory knows its project, and the file system the project's limit.

use crate::sys::{self, quota};
use nix::sys::statfs;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Projects below are left to others: people number theirs by hand, and Docker counts from one.
const FIRST_PROJECT: u32 = 1 << 20;

/// Limits new directories of one file system to so many bytes together.
///
/// # Errors
/// A sentence: why the file system cannot do it, and what would let it.
pub fn limit(directories: &[&Path], bytes: u64) -> io::Result<()> {
    let directories = directories.iter().map(File::open).collect::<io::Result<Vec<_>>>()?;
    let Some(first) = directories.first() else { return Ok(()) };
    refuse_without_quotas(first)?;
    let project = free_project(first)?;
    quota::set_limit(first.as_fd(), project, bytes.div_ceil(1024))?;
    directories.iter().try_for_each(|directory| quota::set_project(directory.as_fd(), project))
}

/// Whether directories there can be limited.
///
/// # Errors
/// As [`limit`].
pub fn check(directory: &Path) -> io::Result<()> {
    refuse_without_quotas(&File::open(directory)?)
}

fn refuse_without_quotas(directory: &File) -> io::Result<()> {
    match quota::enforced(directory.as_fd()) {
        Ok(true) => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, advice(directory))),
    }
}

/// Forgets the limit of a directory that is about to be removed.
pub fn release(directory: &Path) {
    let Ok(directory) = File::open(directory) else { return };
    if let Ok(project @ FIRST_PROJECT..) = quota::project_of(directory.as_fd()) {
        let _ = quota::set_limit(directory.as_fd(), project, 0);
    }
}

/// A project id that is unused and without limits. It is chosen at random: other data roots on the file system choose too.
fn free_project(root: &File) -> io::Result<u32> {
    for _ in 0..64 {
        let project = FIRST_PROJECT + u32::from_ne_bytes(crate::random::bytes()?) % (u32::MAX / 2);
        match quota::project(root.as_fd(), project) {
            Ok(found) if found == quota::QuotaProject::default() => return Ok(project),
            Ok(_) => {}
            Err(e) if sys::errno(&e) == nix::Error::ENOENT => return Ok(project),
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other("the file system has no free project for a quota"))
}

/// The remedy for a file system without project quotas.
fn advice(root: &File) -> &'static str {
    match statfs::fstatfs(root).map(|found| found.filesystem_type()) {
        Ok(statfs::EXT4_SUPER_MAGIC) => {
            "its file system, ext4, keeps no project quotas: unmount it, `tune2fs -O quota,project` its device, and mount it with `prjquota`"
        }
        Ok(statfs::XFS_SUPER_MAGIC) => {
            "its file system, XFS, keeps no project quotas: mount it with `prjquota` (the root file system: `rootflags=prjquota` for the kernel)"
        }
        _ => "its file system has no project quotas: ext4 and XFS have, mounted with `prjquota`",
    }
}
