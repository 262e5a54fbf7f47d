//! The control groups that a container has made below its own: as many, and as deep, as it likes. They are walked by descriptors and
//! without recursion, so that neither the stack nor the length of a path is in the way.

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Removes a group with all below it; false while a process is left in one.
pub(super) fn remove(path: &Path) -> bool {
    match std::fs::remove_dir(path) {
        Ok(()) => return true,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return true,
        Err(_) => {}
    }
    let emptied = walk(path, |_| (), true);
    emptied && std::fs::remove_dir(path).is_ok()
}

/// The processes of a group and of those below it, by their ids on the host.
pub(super) fn processes(path: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    let mut text = String::new();
    walk(
        path,
        |group| {
            text.clear();
            if let Ok(file) = openat(group, "cgroup.procs", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
                let _ = std::fs::File::from(file).read_to_string(&mut text);
            }
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        },
        false,
    );
    found
}

/// Visits a group, then each below it, the deepest last. With `remove`, a group below the first goes when all below it have gone.
/// False when a group could not be removed.
fn walk(path: &Path, mut visit: impl FnMut(BorrowedFd<'_>), remove: bool) -> bool {
    let Ok(top) = nix::fcntl::open(path, DIRECTORY, Mode::empty()) else { return false };
    let mut levels = vec![GroupLevel { name: OsString::new(), below: below(top.as_fd()) }];
    visit(top.as_fd());
    let mut here = top;
    let mut all = true;
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.below.pop() {
            // One that has gone meanwhile is no loss.
            if let Ok(inner) = openat(here.as_fd(), name.as_os_str(), DIRECTORY, Mode::empty()) {
                visit(inner.as_fd());
                levels.push(GroupLevel { name, below: below(inner.as_fd()) });
                here = inner;
            }
            continue;
        }
        let Some(done) = levels.pop() else { break };
        if levels.is_empty() {
            break;
        }
        // No container can move a group to another parent: above is where this came from.
        let Ok(above) = openat(here.as_fd(), "..", DIRECTORY, Mode::empty()) else { return false };
        if remove {
            let gone = unlinkat(above.as_fd(), done.name.as_os_str(), UnlinkatFlags::RemoveDir);
            all &= matches!(gone, Ok(()) | Err(Errno::ENOENT));
        }
        here = above;
    }
    all
}

struct GroupLevel {
    /// In the level above.
    name: OsString,
    /// The groups below that are still to be visited.
    below: Vec<OsString>,
}

fn below(group: BorrowedFd<'_>) -> Vec<OsString> {
    let opened = || -> nix::Result<Dir> { Dir::from_fd(openat(group, ".", DIRECTORY, Mode::empty())?) };
    let Ok(mut directory) = opened() else { return Vec::new() };
    let groups = directory.iter().flatten().filter(|entry| entry.file_type() == Some(Type::Directory));
    let names = groups.map(|entry| OsString::from_vec(entry.file_name().to_bytes().to_vec()));
    names.filter(|name| name != "." && name != "..").collect()
}
