//! /dev of a container: its device nodes, its links, its terminal.

use crate::runtime::error::{Doing, StepFailed};
use crate::runtime::targets::{Target, clean, open_target};
use crate::sys::{self, Beneath, Recursive};
use nix::sys::stat::{Mode, SFlag, mknodat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The devices of every container (OCI runtime specification, "Default Devices").
const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Whether a mount is the container's /dev.
pub(super) fn is_dev(entry: &Mount) -> bool {
    clean(entry.destination()) == Path::new("dev")
}

/// Makes a device of the host in the container.
pub(super) fn make_device(root: BorrowedFd<'_>, device: &LinuxDevice) -> Result<(), StepFailed> {
    let path = device.path();
    let doing = || format!("making the device {}", path.display());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(StepFailed::because(doing(), "it has no name"));
    };
    let directory = open_target(root, parent, Target::Directory)?;
    let kind = match device.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        _ => SFlag::S_IFCHR,
    };
    let mode = Mode::from_bits_truncate(device.file_mode().unwrap_or(0o666) & 0o7777);
    let number = nix::sys::stat::makedev(device.major() as u64, device.minor() as u64);
    let name = Path::new(name);
    match mknodat(&directory, name, kind, mode, number) {
        // One that every container has, or that was named twice.
        Err(nix::Error::EEXIST) => return Ok(()),
        other => other.doing(doing())?,
    }
    let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
    nix::unistd::fchownat(&directory, name, Some(owner.0.into()), Some(owner.1.into()), flags).doing(doing())
}

/// Device nodes and links in the new /dev. Returns its null device.
pub(super) fn populate_dev(root: BorrowedFd<'_>) -> Result<OwnedFd, StepFailed> {
    let dev =
        sys::open_beneath(root, Path::new("dev"), libc::O_PATH | libc::O_DIRECTORY, 0, Beneath::AsRoot).doing("opening /dev")?;
    for (name, major, minor) in DEVICES {
        mknodat(&dev, name, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), nix::sys::stat::makedev(major, minor))
            .doing(format_args!("making /dev/{name}"))?;
    }
    for (name, target) in LINKS {
        nix::unistd::symlinkat(target, &dev, name).doing(format_args!("linking /dev/{name}"))?;
    }
    sys::open_beneath(dev.as_fd(), Path::new("null"), libc::O_PATH | libc::O_NOFOLLOW, 0, Beneath::NoSymlinks)
        .doing("opening /dev/null")
}

/// A terminal of the container's own devpts, shown as /dev/console as well.
pub(super) fn open_terminal(root: BorrowedFd<'_>) -> Result<(OwnedFd, OwnedFd), StepFailed> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = sys::open_beneath(root, Path::new("dev/pts/ptmx"), flags, 0, Beneath::NoSymlinks).doing("opening a terminal")?;
    let peer = sys::pty_peer(master.as_fd()).doing("opening the terminal's other end")?;
    let console = open_target(root, Path::new("/dev/console"), Target::File)?;
    let tree = sys::open_tree(peer.as_fd(), Path::new(""), Recursive::No).doing("mounting /dev/console")?;
    sys::attach(tree.as_fd(), console.as_fd()).doing("mounting /dev/console")?;
    Ok((master, peer))
}
