//! The image's content at a mount point, copied into a volume that is still empty: names, modes, owners, times, symlinks, and what
//! a file has of extended attributes. Hard links of one file stay links.

use crate::sys::attributes::CopiedAttributes;
use crate::sys::regular::copy_with_holes;
use crate::sys::{self, Beneath};
use nix::dir::Dir;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};
use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Beside the volume's data while it is being filled: what was half filled, when the disk was full or the monitor was killed, gets the
/// rest at the next start. A file has its name only while it is whole, and none that is there by then is written over.
pub const MARK: &str = ".filling";

/// Copies a directory's content and its own mode and owner, unless the volume holds something by now. `beside` is a directory that
/// no container has: it is locked, so that two that start together do not both fill the volume, and a container keeps nobody waiting.
pub fn copy(image: BorrowedFd<'_>, volume: BorrowedFd<'_>, beside: &Path) -> io::Result<()> {
    let here = Path::new(".");
    let read = libc::O_RDONLY | libc::O_DIRECTORY;
    let to = sys::open_beneath(volume, here, read, 0, Beneath::NoSymlinks)?;
    let mark = beside.join(MARK);
    let has_content = || -> io::Result<bool> { Ok(!mark.exists() && !names(to.as_fd())?.is_empty()) };
    if has_content()? {
        return Ok(());
    }
    let _lock = Flock::lock(File::open(beside)?, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    if has_content()? {
        return Ok(());
    }
    let from = match sys::open_beneath(image, here, read, 0, Beneath::NoSymlinks) {
        Err(e) if e.raw_os_error() == Some(libc::ENOTDIR) => return Ok(()),
        other => other?,
    };
    File::options().create(true).truncate(true).write(true).mode(0o600).open(&mark)?;
    let mut filling = Filling { volume: to.as_fd(), here: PathBuf::new(), depth: 0, links: HashMap::new(), remembered: 0 };
    filling.directory(from.as_fd(), to.as_fd())?;
    std::fs::remove_file(&mark)
}

fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<std::ffi::CString>> {
    let own = openat(directory, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut dir = Dir::from_fd(own)?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Directories in each other. Each has descriptors and a frame of the stack, and what is in the image is anybody's.
const MAX_DEPTH: usize = 400;
/// Bytes of the paths of files that have several names. Those that find no room become files of their own.
const MAX_REMEMBERED: usize = 8 << 20;

/// A volume that is being filled.
struct Filling<'a> {
    volume: BorrowedFd<'a>,
    /// From the volume's root.
    here: PathBuf,
    depth: usize,
    /// By the device and inode of a file of the image that has several names: the first copy, and its inode.
    links: HashMap<(u64, u64), (PathBuf, u64)>,
    remembered: usize,
}

impl Filling<'_> {
    fn directory(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
        if self.depth == MAX_DEPTH {
            return Err(io::Error::other(format!("its directories are nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        for name in names(from)? {
            self.here.push(OsStr::from_bytes(name.to_bytes()));
            self.entry(from, to, &name)?;
            self.here.pop();
        }
        self.depth -= 1;
        let stat = fstat(from)?;
        fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        fchmod(to, Mode::from_bits_truncate(stat.st_mode))?;
        CopiedAttributes::of(from)?.set_on(to)
    }

    fn entry(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let safe = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let open_new =
            |flags: OFlag| -> io::Result<OwnedFd> { Ok(openat(to, name, flags | safe, Mode::from_bits_truncate(0o600))?) };
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind != SFlag::S_IFDIR && fstatat(to, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
            return Ok(());
        }
        // Another container may have the volume by now, and rename what is in it: from here on each is its descriptor, not its name.
        match kind {
            SFlag::S_IFDIR => {
                match mkdirat(to, name, Mode::from_bits_truncate(0o700)) {
                    // Of a copy that was broken off.
                    Err(nix::Error::EEXIST) => {}
                    made => made?,
                }
                let read = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
                let source = openat(from, name, read | safe, Mode::empty())?;
                let target = open_new(read)?;
                self.directory(source.as_fd(), target.as_fd())?;
                futimens(&target, &accessed(&stat), &modified(&stat))?;
            }
            SFlag::S_IFREG if self.is_linked(&stat, to, name)? => {}
            SFlag::S_IFREG => {
                let source = File::from(openat(from, name, OFlag::O_RDONLY | safe, Mode::empty())?);
                let unnamed =
                    openat(to, ".", OFlag::O_WRONLY | OFlag::O_TMPFILE | OFlag::O_CLOEXEC, Mode::from_bits_truncate(0o600));
                let has_name = unnamed.is_err();
                let mut target = match unnamed {
                    Ok(unnamed) => File::from(unnamed),
                    // A file system that has no files without a name.
                    Err(_) => File::from(open_new(OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL)?),
                };
                copy_with_holes(&source, &mut target, || Ok(()))?;
                own(target.as_fd(), &stat)?;
                fchmod(&target, Mode::from_bits_truncate(stat.st_mode))?;
                // After the owner: a change of it takes capabilities away.
                CopiedAttributes::of(&source)?.set_on(&target)?;
                futimens(&target, &accessed(&stat), &modified(&stat))?;
                if !has_name {
                    match linkat(&target, c"", to, name, AtFlags::AT_EMPTY_PATH) {
                        Err(nix::Error::EEXIST) => {}
                        linked => linked?,
                    }
                }
                self.remember(&stat, &target)?;
            }
            kind => {
                match kind {
                    SFlag::S_IFLNK => symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?,
                    kind => mknodat(to, name, kind, Mode::from_bits_truncate(stat.st_mode), stat.st_rdev)?,
                }
                let target = open_new(OFlag::O_PATH)?;
                if fstat(&target)?.st_mode & SFlag::S_IFMT.bits() == kind.bits() {
                    own(target.as_fd(), &stat)?;
                }
                utimensat(to, name, &accessed(&stat), &modified(&stat), UtimensatFlags::NoFollowSymlink)?;
            }
        }
        Ok(())
    }

    /// Gives the copy of a file a further name, where it has been copied and is still there: another container may have the volume.
    fn is_linked(&self, stat: &FileStat, to: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
        let Some((first, inode)) = self.links.get(&(stat.st_dev, stat.st_ino)) else { return Ok(false) };
        let Ok(copy) = sys::open_beneath(self.volume, first, libc::O_PATH | libc::O_NOFOLLOW, 0, Beneath::NoSymlinks) else {
            return Ok(false);
        };
        if fstat(&copy)?.st_ino != *inode {
            return Ok(false);
        }
        match linkat(&copy, c"", to, name, AtFlags::AT_EMPTY_PATH) {
            Err(nix::Error::EMLINK) => Ok(false),
            Err(nix::Error::EEXIST) => Ok(true),
            linked => Ok(linked.map(|()| true)?),
        }
    }

    fn remember(&mut self, stat: &FileStat, copy: &File) -> io::Result<()> {
        let bytes = self.here.as_os_str().len();
        if stat.st_nlink > 1 && self.remembered + bytes <= MAX_REMEMBERED {
            self.remembered += bytes;
            self.links.insert((stat.st_dev, stat.st_ino), (self.here.clone(), fstat(copy)?.st_ino));
        }
        Ok(())
    }
}

fn own(file: BorrowedFd<'_>, stat: &FileStat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    Ok(fchownat(file, c"", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?)
}

fn accessed(stat: &FileStat) -> TimeSpec {
    TimeSpec::new(stat.st_atime, stat.st_atime_nsec)
}

fn modified(stat: &FileStat) -> TimeSpec {
    TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec)
}
