//! User namespaces that map one user and one group, for id-mapped mounts.

use super::{Forked, exit_now, fork_into, pidfd_open, procfs, wait_for};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// An id of a file system, and the one that is seen instead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedId {
    pub stored: u32,
    pub seen: u32,
}

impl MappedId {
    /// A line of uid_map(5).
    fn line(self) -> String {
        format!("{} {} 1\n", self.stored, self.seen)
    }
}

/// A descriptor of a user namespace that maps one user and one group, and nobody else. A child makes it, and has ended when this
/// returns; it ends with its parent in any case. The caller has one thread, and the host's procfs on /proc.
///
/// # Errors
/// The kernel's: ENOSPC where there may be no more user namespaces (`user.max_user_namespaces`), EPERM without privilege.
pub fn of_one(user: MappedId, group: MappedId) -> io::Result<OwnedFd> {
    let (held, holds) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let child = match fork_into(libc::CLONE_NEWUSER as u64)? {
        Forked::Parent(child) => child,
        Forked::Child => {
            drop(holds);
            // EOF: the parent has what it wants, or is gone.
            let _ = std::fs::File::from(held).read(&mut [0]);
            exit_now(0)
        }
    };
    let namespace = namespace_of(child, user, group);
    drop(holds);
    let _ = wait_for(child);
    namespace
}

fn namespace_of(child: i32, user: MappedId, group: MappedId) -> io::Result<OwnedFd> {
    let directory = PathBuf::from(pid_in_procfs(child)?.to_string());
    procfs::write(&directory.join("uid_map"), &user.line())?;
    procfs::write(&directory.join("gid_map"), &group.line())?;
    let namespaces = procfs::open_file(&directory.join("ns"), libc::O_RDONLY | libc::O_DIRECTORY)?;
    // A magic link, and the only way to the namespace; the directory is procfs's own.
    Ok(openat(&namespaces, "user", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// A child's id as the procfs on /proc has it: that is another pid namespace's, where the caller is the first process of its own.
fn pid_in_procfs(child: i32) -> io::Result<u32> {
    let child = pidfd_open(child)?;
    let info = procfs::open_file(&Path::new("self/fdinfo").join(child.as_raw_fd().to_string()), libc::O_RDONLY)?;
    let mut text = String::new();
    std::fs::File::from(info).read_to_string(&mut text)?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.ok_or_else(|| io::Error::other("the kernel does not tell a child's process id"))
}
