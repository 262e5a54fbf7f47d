//! Hard links of what one COPY or ADD copies: the further names of a file are names of its first copy. A link never leads to the
//! source, nor to what another instruction has made.

use crate::image::build::first_names::FirstNames;
use crate::sys::{self, Beneath};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::{LinkatFlags, linkat};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The first copies of files that have several names.
#[derive(Default)]
pub struct CopiedLinks {
    places: FirstNames,
    /// The copies' inodes, by the sources' devices and inodes.
    inodes: HashMap<(u64, u64), u64>,
    /// The copies' device: the layer's.
    device: Option<u64>,
    /// There is no room for the names of more.
    is_full: bool,
}

impl CopiedLinks {
    /// Gives the copy of a file a further name. `false` where there is no copy, or the file system allows no more names: then it is
    /// to be copied.
    ///
    /// # Errors
    /// The kernel's.
    pub fn link(&self, root: BorrowedFd<'_>, source: &FileStat, parent: &OwnedFd, name: &Path) -> io::Result<bool> {
        let Some(copy) = self.copy_of(root, source)? else { return Ok(false) };
        match linkat(&copy, Path::new(""), parent, name, LinkatFlags::from_bits_retain(libc::AT_EMPTY_PATH)) {
            Err(nix::Error::EMLINK | nix::Error::EXDEV | nix::Error::ENOENT) => Ok(false),
            linked => Ok(linked.map(|()| true)?),
        }
    }

    /// Remembers the copy of a file that has several names, at a path from the root.
    ///
    /// # Errors
    /// The kernel's.
    pub fn keep(&mut self, source: &FileStat, place: &Path, copy: &File) -> io::Result<()> {
        let copy = fstat(copy)?;
        // Those that find no room are files of their own.
        self.is_full = self.is_full || self.places.keep(source, place).is_err();
        if !self.is_full {
            self.inodes.insert((source.st_dev, source.st_ino), copy.st_ino);
            self.device = Some(copy.st_dev);
        }
        Ok(())
    }

    /// The copy of a file, where it is still at its place: another source of the instruction may have taken that.
    fn copy_of(&self, root: BorrowedFd<'_>, source: &FileStat) -> io::Result<Option<OwnedFd>> {
        let Some(place) = self.places.of(source) else { return Ok(None) };
        let directory = place.parent().unwrap_or(Path::new("/"));
        let directory = directory.strip_prefix("/").unwrap_or(directory);
        let open = || -> io::Result<OwnedFd> {
            let directory = sys::open_beneath(root, directory, libc::O_PATH | libc::O_DIRECTORY, 0, Beneath::AsRoot)?;
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            Ok(openat(directory, place.file_name().unwrap_or_default(), flags, Mode::empty())?)
        };
        let copy = match open() {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => return Ok(None),
            other => other?,
        };
        let stat = fstat(copy.as_fd())?;
        let inode = self.inodes.get(&(source.st_dev, source.st_ino)).copied();
        Ok((inode == Some(stat.st_ino) && self.device == Some(stat.st_dev)).then_some(copy))
    }
}
