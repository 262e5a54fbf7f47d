//! Paths beneath a root of which something is missing yet, and is made.
//!
//! The kernel follows a symlink to what is there. An image may have one to what is not: `/etc/localtime -> /run/zone`, with an empty
//! /run. Here each part of a path is opened by its name in the directory before it, without following anything. A symlink's text
//! takes its place, and what is absolute begins at the root again. No step leaves the root, whatever is swapped meanwhile.

use super::{Beneath, open_beneath};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat, mknodat};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Symlinks in a path, as the kernel has it (MAXSYMLINKS).
const MAX_LINKS: usize = 40;
/// Bytes of a path that the kernel is given (PATH_MAX).
const MAX_PATH: usize = 4096;
/// Parts of a path that may be missing: more are in no path.
const MAX_MISSING: usize = MAX_PATH / 2;

/// What is made where the end of a path is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum MissingEnd {
    Directory,
    /// An empty file.
    File,
}

/// Gets each directory that is made, opened for reading.
pub type OnMade<'a> = &'a dyn Fn(&OwnedFd) -> io::Result<()>;

/// Where a path leads beneath a root.
#[derive(Debug, PartialEq, Eq)]
pub struct PlaceBeneath {
    /// From the root, without symlinks and `..`.
    pub path: PathBuf,
    /// How many parts at its end are not there.
    pub missing: usize,
}

/// Opens a path beneath a root (O_PATH), and makes what is missing: directories of mode 0755, a file of mode 0644, less the umask.
/// `made` gets each new directory, opened for reading.
///
/// # Errors
/// The kernel's: ELOOP for a forbidden symlink, too many, or one of procfs. `PermissionDenied` where something is missing on procfs,
/// sysfs or among the control groups: what is made there is no file.
pub fn make_beneath(
    root: BorrowedFd<'_>,
    path: &Path,
    end: MissingEnd,
    how: Beneath,
    made: Option<OnMade<'_>>,
) -> io::Result<OwnedFd> {
    let mut way = Descent::new(root, path, how)?;
    // Somebody in the container may remove what is made, again and again.
    for _ in 0..2 * MAX_MISSING {
        let mut lacking = way.advance()?;
        if lacking.is_empty() {
            return Ok(way.at);
        }
        refuse_kernel_files(&way.at)?;
        let name = Path::new(&lacking[0]);
        let is_file = lacking.len() == 1 && end == MissingEnd::File;
        let result = match is_file {
            true => mknodat(&way.at, name, SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0),
            false => mkdirat(&way.at, name, Mode::from_bits_truncate(0o755)),
        };
        match result {
            Ok(()) if !is_file && made.is_some() => {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let directory = openat(&way.at, name, flags, Mode::empty())?;
                made.map_or(Ok(()), |made| made(&directory))?;
            }
            // Made by somebody else: it is looked at as anything else that is there.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        lacking.reverse();
        way.left.append(&mut lacking);
    }
    Err(Errno::ELOOP.into())
}

/// Where a path leads beneath a root, when symlinks are followed, to what is missing as well. Nothing is made.
///
/// # Errors
/// As [`make_beneath`].
pub fn place_beneath(root: BorrowedFd<'_>, path: &Path) -> io::Result<PlaceBeneath> {
    let mut way = Descent::new(root, path, Beneath::AsRoot)?;
    let lacking = way.advance()?;
    way.here.extend(&lacking);
    Ok(PlaceBeneath { path: way.here, missing: lacking.len() })
}

/// The way to a path.
struct Descent<'a> {
    root: BorrowedFd<'a>,
    /// Where it has come to, from the root, without symlinks.
    here: PathBuf,
    at: OwnedFd,
    /// The parts that are left, the next one last.
    left: Vec<OsString>,
    links: usize,
    how: Beneath,
}

impl<'a> Descent<'a> {
    fn new(root: BorrowedFd<'a>, path: &Path, how: Beneath) -> io::Result<Self> {
        let at = open_beneath(root, Path::new("."), libc::O_PATH | libc::O_DIRECTORY, 0, Beneath::NoSymlinks)?;
        let mut way = Descent { root, here: PathBuf::new(), at, left: Vec::new(), links: 0, how };
        way.put(path)?;
        Ok(way)
    }

    /// Puts the parts of a path before those that are left.
    fn put(&mut self, path: &Path) -> io::Result<()> {
        self.left.extend(path.components().rev().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        }));
        if path.as_os_str().len() > MAX_PATH { Err(Errno::ENAMETOOLONG.into()) } else { Ok(()) }
    }

    /// Goes as far as there is something, and returns the parts that are missing.
    fn advance(&mut self) -> io::Result<Vec<OsString>> {
        let mut lacking = Vec::new();
        while let Some(part) = self.left.pop() {
            match part.as_os_str() == ".." {
                true if lacking.pop().is_none() => self.up()?,
                true => {}
                false if lacking.is_empty() => lacking.extend(self.enter(part)?),
                false if lacking.len() == MAX_MISSING => return Err(Errno::ENAMETOOLONG.into()),
                false => lacking.push(part),
            }
        }
        Ok(lacking)
    }

    /// Enters what has a name here, or follows the symlink. Returns the name where there is nothing.
    fn enter(&mut self, name: OsString) -> io::Result<Option<OsString>> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let found = match open_beneath(self.at.as_fd(), Path::new(&name), flags, 0, Beneath::NoSymlinks) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(name)),
            other => other?,
        };
        if file_type(&found)? == SFlag::S_IFLNK {
            self.follow(&found)?;
        } else {
            self.here.push(name);
            self.at = found;
        }
        Ok(None)
    }

    fn follow(&mut self, link: &OwnedFd) -> io::Result<()> {
        self.links += 1;
        let forbidden = matches!(self.how, Beneath::NoSymlinks) || self.links > MAX_LINKS;
        // Those of procfs lead to what their text does not name.
        if forbidden || fstatfs(link)?.filesystem_type() == PROC_SUPER_MAGIC {
            return Err(Errno::ELOOP.into());
        }
        let text = PathBuf::from(readlinkat(link, "")?);
        if text.is_absolute() {
            self.here.clear();
            self.reopen()?;
        }
        self.put(&text)
    }

    /// The directory above, by its path: one that was moved away meanwhile has another.
    fn up(&mut self) -> io::Result<()> {
        if file_type(&self.at)? != SFlag::S_IFDIR {
            return Err(Errno::ENOTDIR.into());
        }
        self.here.pop();
        self.reopen()
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.at = open_beneath(self.root, &self.here, libc::O_PATH | libc::O_DIRECTORY, 0, Beneath::NoSymlinks)?;
        Ok(())
    }
}

fn file_type(file: &OwnedFd) -> io::Result<SFlag> {
    Ok(SFlag::from_bits_truncate(fstat(file)?.st_mode) & SFlag::S_IFMT)
}

fn refuse_kernel_files(directory: &OwnedFd) -> io::Result<()> {
    match is_of_kernel(directory.as_fd())? {
        true => {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, "it leads to the kernel's own files, where nothing can be made"))
        }
        false => Ok(()),
    }
}

/// Whether a file is the kernel's own: on procfs, sysfs or among the control groups. Its size is not that of its content.
///
/// # Errors
/// The kernel's.
pub fn is_of_kernel(file: BorrowedFd<'_>) -> io::Result<bool> {
    let found = fstatfs(file)?.filesystem_type();
    Ok([PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC].contains(&found))
}

#[cfg(test)]
mod tests;
