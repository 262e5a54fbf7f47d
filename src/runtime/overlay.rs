//! Layers as one tree, mounted detached.

use super::sys;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Mounts layers (the lowest first) detached, so that it goes with its descriptor: on top of them, where it is given, an upper
/// directory that takes what is written, and its work directory.
///
/// # Errors
/// The kernel's.
pub fn mount(layers: &[PathBuf], upper: Option<(&Path, &Path)>) -> io::Result<OwnedFd> {
    let open = |path: &Path| nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let lower: Vec<OwnedFd> = layers.iter().rev().map(|path| open(path)).collect::<Result<_, _>>()?;
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lowers: Vec<String> = lower.iter().map(name).collect();
    let joined = lowers.join(":");
    let mut options: Vec<(&str, Option<&str>)> = Vec::new();
    // One parameter has room for 255 characters; `lowerdir+` takes a layer each, since Linux 6.7.
    if joined.len() < 256 {
        options.push(("lowerdir", Some(&joined)));
    } else {
        options.extend(lowers.iter().map(|layer| ("lowerdir+", Some(layer.as_str()))));
    }
    let upper = match upper {
        Some((upper, work)) => Some((open(upper)?, open(work)?)),
        None => None,
    };
    let names = upper.as_ref().map(|(upper, work)| (name(upper), name(work)));
    if let Some((upper, work)) = &names {
        options.push(("upperdir", Some(upper)));
        options.push(("workdir", Some(work)));
    }
    sys::new_mount("overlay", "wharf", &options, 0)
}
