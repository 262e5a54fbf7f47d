//! A mount of a running container that is replaced by another.

use crate::sys::{self, Recursive};
use nix::fcntl::AT_FDCWD;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// How long a container's file system may take to find a path.
const PATIENCE: Duration = Duration::from_secs(5);

/// Mounts a socket in a container, in the place of the socket that is mounted there. Only the container's own mounts change,
/// wherever its paths lead.
///
/// # Errors
/// When there is no socket at the path, the path is not found in [`PATIENCE`], or the kernel's.
pub fn renew_socket(socket: &Path, process: i32, target: &str, read_only: bool) -> io::Result<()> {
    let tree = sys::open_tree(AT_FDCWD, socket, Recursive::No)?;
    if read_only {
        sys::set_mount_attributes(tree.as_fd(), sys::ATTR_RDONLY, 0, Recursive::No)?;
    }
    let namespace = File::open(format!("/proc/{process}/ns/mnt"))?;
    let target = target.to_string();
    let (done, ended) = mpsc::channel();
    let remount = move || -> io::Result<()> {
        unshare(CloneFlags::CLONE_FS)?;
        setns(namespace, CloneFlags::CLONE_NEWNS)?;
        let open = || File::options().read(true).custom_flags(libc::O_PATH).open(&target);
        if !open()?.metadata()?.file_type().is_socket() {
            return Err(io::Error::other("there is no socket any more"));
        }
        umount2(Path::new(&target), MntFlags::MNT_DETACH)?;
        sys::attach(tree.as_fd(), open()?.as_fd())
    };
    // A thread of its own: its root and directory are the container's from then on, and the container may hold it up for ever.
    std::thread::Builder::new().name("remount".into()).stack_size(128 * 1024).spawn(move || {
        let _ = done.send(remount());
    })?;
    ended
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "its file system does not answer")))
}
