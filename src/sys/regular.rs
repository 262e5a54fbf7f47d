//! Small regular files of images, containers and build contexts: whoever wrote them may be hostile.
//!
//! The path is resolved beneath a root, and what it names is looked at before it is opened: opening a FIFO waits for its other
//! end, opening a device acts on the host's hardware, and what procfs and sysfs hold is the host's. The file is then opened by
//! its descriptor, so that nothing can take its place in between.

use super::{Beneath, open_beneath};
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Opens a regular file for reading. Symlinks are followed within the root, `..` and absolute ones included.
///
/// # Errors
/// The kernel's; `InvalidInput` where it is a directory, a FIFO, a device, a socket or a file of procfs or sysfs.
pub fn open_regular(root: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    let found = open_beneath(root, path, libc::O_PATH, 0, Beneath::AsRoot)?;
    let file_system = fstatfs(&found)?.filesystem_type();
    if [PROC_SUPER_MAGIC, SYSFS_MAGIC].contains(&file_system) {
        return Err(irregular());
    }
    reopen(&found)
}

/// Opens the regular file that has a name in a directory, wherever it is mounted. A symlink is none.
///
/// # Errors
/// The kernel's; `InvalidInput` where it is anything else.
pub fn open_regular_at(directory: BorrowedFd<'_>, name: &Path) -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    reopen(&openat(directory, name, flags, Mode::empty())?)
}

/// Bytes that are copied at a time.
const PORTION: u64 = 64 << 20;

/// Copies a file's content to an empty one, holes as holes: what takes no room in one takes none in the other. Of a file that grows
/// meanwhile the copy has what was there at the beginning, and of one that becomes shorter what is left. `before_each` portion of 64 MiB
/// may end it.
///
/// # Errors
/// The disk's, and those of `before_each`.
pub fn copy_with_holes(from: &File, to: &mut File, mut before_each: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let size = from.metadata()?.len();
    let (mut from, mut at) = (from, 0);
    while at < size {
        before_each()?;
        let (begin, end) = match lseek(from, at as i64, Whence::SeekData) {
            Ok(begin) => (begin as u64, lseek(from, begin, Whence::SeekHole)? as u64),
            // No data behind this.
            Err(nix::Error::ENXIO) => break,
            // A file system that does not know.
            Err(nix::Error::EINVAL) => (at, size),
            Err(error) => return Err(error.into()),
        };
        let end = end.min(begin + PORTION);
        from.seek(io::SeekFrom::Start(begin))?;
        to.seek(io::SeekFrom::Start(begin))?;
        let copied = io::copy(&mut from.take(end - begin), to)?;
        at = begin + copied;
        if copied < end - begin {
            return to.set_len(at);
        }
    }
    // What was lost is not taken for a hole.
    to.set_len(size.min(from.metadata()?.len()))
}

fn irregular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

/// Opens a file for reading that was opened as a path.
fn reopen(found: &OwnedFd) -> io::Result<File> {
    if SFlag::from_bits_truncate(fstat(found)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(irregular());
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    Ok(File::from(open(format!("/proc/self/fd/{}", found.as_raw_fd()).as_str(), flags, Mode::empty())?))
}

/// Reads a regular file as [`open_regular`] opens it.
///
/// # Errors
/// As [`open_regular`]; `FileTooLarge` where it holds more than `limit` bytes.
pub fn read_regular(root: BorrowedFd<'_>, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_at_most(open_regular(root, path)?, limit)
}

/// Reads a regular file of the host. Symlinks are followed.
///
/// # Errors
/// The kernel's; `InvalidInput` where it is no regular file, `FileTooLarge` where it holds more than `limit` bytes.
pub fn read_regular_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let found = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    read_at_most(reopen(&found)?, limit)
}

fn read_at_most(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The length is read, not asked for: a file may grow meanwhile.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::mknod;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_becomes_shorter_is_not_filled_up() {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (directory.path().join("from"), directory.path().join("to"));
        let copied = |before: &[u8], left: u64| {
            std::fs::write(&source, before).unwrap();
            let from = File::open(&source).unwrap();
            let shorten = || File::options().write(true).open(&source)?.set_len(left);
            copy_with_holes(&from, &mut File::create(&target).unwrap(), shorten).unwrap();
            std::fs::read(&target).unwrap()
        };
        assert_eq!(copied(b"content", 7), b"content");
        assert_eq!(copied(b"content", 4), b"cont");
        assert_eq!(copied(b"content", 0), b"");
        assert_eq!(copied(&[0; 10_000], 9_000), [0; 9_000]);
    }

    #[test]
    fn only_regular_files_beneath_the_root_are_read() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir_all(root.join("d")).unwrap();
        std::fs::write(outer.path().join("secret"), "of the host").unwrap();
        std::fs::write(root.join("file"), "text").unwrap();
        for (target, link) in [("../secret", "up"), ("/secret", "absolute"), ("../file", "d/inside"), ("/d/inside", "twice")] {
            symlink(target, root.join(link)).unwrap();
        }
        let mode = Mode::from_bits_truncate(0o666);
        mknod(&root.join("fifo"), SFlag::S_IFIFO, mode, 0).unwrap();
        mknod(&root.join("zero"), SFlag::S_IFCHR, mode, nix::sys::stat::makedev(1, 5)).unwrap();
        let directory = File::open(&root).unwrap();
        let read = |path: &str, limit| read_regular(directory.as_fd(), Path::new(path), limit);
        for path in ["file", "/file", "d/inside", "twice", "../file"] {
            assert_eq!(read(path, 4).expect(path), b"text", "{path}");
        }
        assert_eq!(read("file", 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        for path in ["up", "absolute", "none"] {
            assert_eq!(read(path, 100).unwrap_err().kind(), io::ErrorKind::NotFound, "{path}");
        }
        for path in ["fifo", "zero", "d", "."] {
            assert_eq!(read(path, 100).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path}");
        }
        let host = File::open("/").unwrap();
        let read = read_regular(host.as_fd(), Path::new("proc/version"), 1 << 20);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
