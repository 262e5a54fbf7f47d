//! Owner, mode and time of a file by its descriptor, whatever it is: a name may lead to another file by the second time that it is
//! used, a mode that is set by name follows a symlink, and a device is not to be opened to set its mode.

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// A file that was found by name once. A symlink is the symlink itself.
#[derive(Debug)]
pub struct FoundNode(OwnedFd);

impl FoundNode {
    /// The file of a name that has just been made there: one of another kind or of another device is somebody else's.
    ///
    /// # Errors
    /// The kernel's; ESTALE where the name has become another file's.
    pub fn made(parent: impl AsFd, name: &Path, kind: SFlag, device: u64) -> io::Result<Self> {
        let node = openat(parent, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        let stat = fstat(&node)?;
        let found = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        if found != kind || (matches!(kind, SFlag::S_IFCHR | SFlag::S_IFBLK) && stat.st_rdev != device) {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        Ok(FoundNode(node))
    }

    /// procfs's link leads to the very file, also where it was opened as a path alone.
    fn link(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    /// # Errors
    /// The kernel's.
    pub fn set_owner(&self, uid: Uid, gid: Gid) -> io::Result<()> {
        Ok(fchownat(AT_FDCWD, self.link().as_str(), Some(uid), Some(gid), AtFlags::empty())?)
    }

    /// # Errors
    /// The kernel's; EOPNOTSUPP for a symlink, which has no mode.
    pub fn set_mode(&self, mode: Mode) -> io::Result<()> {
        Ok(fchmodat(AT_FDCWD, self.link().as_str(), mode, FchmodatFlags::FollowSymlink)?)
    }

    /// Sets the times of the last access and of the last modification.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_time(&self, time: TimeSpec) -> io::Result<()> {
        Ok(utimensat(AT_FDCWD, self.link().as_str(), &time, &time, UtimensatFlags::FollowSymlink)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::{lstat, makedev, mknodat};
    use std::fs::File;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_name_that_leads_elsewhere_by_now_changes_nothing_there() {
        let outer = tempfile::tempdir().unwrap();
        let victim = outer.path().join("victim");
        std::fs::write(&victim, "").unwrap();
        let directory = File::open(outer.path()).unwrap();
        let device = makedev(1, 3);
        let mode = |path: &Path| lstat(path).unwrap().st_mode & 0o7777;
        let make = || mknodat(&directory, "node", SFlag::S_IFCHR, Mode::empty(), device).unwrap();
        make();
        let node = FoundNode::made(&directory, Path::new("node"), SFlag::S_IFCHR, device).unwrap();
        std::fs::rename(outer.path().join("node"), outer.path().join("moved")).unwrap();
        symlink(&victim, outer.path().join("node")).unwrap();
        node.set_owner(Uid::from_raw(7), Gid::from_raw(8)).unwrap();
        node.set_mode(Mode::from_bits_truncate(0o4777)).unwrap();
        node.set_time(TimeSpec::new(5, 0)).unwrap();
        let moved = lstat(&outer.path().join("moved")).unwrap();
        assert_eq!((moved.st_uid, moved.st_gid, moved.st_mode & 0o7777, moved.st_mtime), (7, 8, 0o4777, 5));
        assert_eq!((mode(&victim), lstat(&victim).unwrap().st_uid), (0o644, 0));
        // It was replaced before it was opened.
        let error = FoundNode::made(&directory, Path::new("node"), SFlag::S_IFCHR, device).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
        std::fs::remove_file(outer.path().join("node")).unwrap();
        make();
        assert!(FoundNode::made(&directory, Path::new("node"), SFlag::S_IFCHR, makedev(1, 5)).is_err(), "another device");
        symlink(&victim, outer.path().join("link")).unwrap();
        let link = FoundNode::made(&directory, Path::new("link"), SFlag::S_IFLNK, 0).unwrap();
        link.set_owner(Uid::from_raw(9), Gid::from_raw(9)).unwrap();
        assert_eq!((lstat(&outer.path().join("link")).unwrap().st_uid, lstat(&victim).unwrap().st_uid), (9, 0));
    }
}
