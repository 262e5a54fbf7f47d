//! Mounts that containers share: kept for others, and taken from those who have them.

use crate::runtime::error::{Doing, StepFailed};
use crate::runtime::launch::Launch;
use crate::runtime::targets::{Target, check_kind, open_target};
use crate::sys::{self, Recursive};
use nix::fcntl::{OFlag, open};
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use oci_spec::runtime::Mount;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Mounts that others may share, by their descriptors: no container can put anything else in the place of one.
pub(super) struct Kept<'a> {
    destinations: &'a [PathBuf],
    /// The container may unmount them.
    can_unmount: bool,
    mounts: Vec<Option<OwnedFd>>,
}

impl<'a> Kept<'a> {
    pub(super) fn new(launch: &'a Launch) -> Self {
        let capabilities = launch.oci.process().as_ref().and_then(|process| process.capabilities().as_ref());
        let bounding = capabilities.and_then(|sets| sets.bounding().as_ref());
        let can_unmount = bounding.is_some_and(|set| set.contains(&oci_spec::runtime::Capability::SysAdmin));
        Kept { destinations: &launch.kept, can_unmount, mounts: launch.kept.iter().map(|_| None).collect() }
    }

    /// Adds a mount, if it is one of them.
    pub(super) fn add(&mut self, entry: &Mount, mount: Option<OwnedFd>) {
        if let Some(at) = self.destinations.iter().position(|destination| destination == entry.destination()) {
            self.mounts[at] = mount.map(|mount| if self.can_unmount { copy_or_itself(mount) } else { mount });
        }
    }

    pub(super) fn finish(self) -> Result<Vec<OwnedFd>, StepFailed> {
        let all = self.destinations.iter().zip(self.mounts);
        let missing = |path: &Path| StepFailed::because(format!("keeping {} for others", path.display()), "it is not mounted");
        all.map(|(destination, mount)| mount.ok_or_else(|| missing(destination))).collect()
    }
}

/// A copy of a mount that is attached nowhere, where the kernel can share such a one (Linux 6.15): a descriptor of the mount
/// itself has umount(2) say EBUSY.
fn copy_or_itself(mount: OwnedFd) -> OwnedFd {
    let copy_of = |mount: &OwnedFd| sys::open_tree(mount.as_fd(), Path::new(""), Recursive::No);
    match copy_of(&mount) {
        Ok(copy) if copy_of(&copy).is_ok() => copy,
        _ => mount,
    }
}

/// Mounts of other containers that are attached nowhere yet, by where they are to be in this one.
pub type SharedMounts = Vec<(PathBuf, OwnedFd)>;

/// Takes what is shared out of the mount namespaces of those who have it. The caller's own mount namespace is entered again
/// afterwards; nothing of the image is mounted in it yet.
pub fn shared(launch: &Launch, namespaces: Vec<OwnedFd>, mounts: Vec<OwnedFd>) -> Result<SharedMounts, StepFailed> {
    let mut found = Vec::new();
    for ((destination, namespace), mount) in launch.shared.iter().zip(namespaces).zip(mounts) {
        let doing = || format!("sharing {} with the container that has it", destination.display());
        let tree = tree_of(&namespace, &mount).doing(doing())?;
        // The other container may have it read-only, and may have made it so; whether this one has is its own affair. Where the
        // volume itself is to be read-only, that is among the options of each of its mounts.
        sys::clear_mount_attributes(tree.as_fd(), sys::ATTR_RDONLY).doing(doing())?;
        let entry = launch.oci.mounts().iter().flatten().find(|entry| entry.destination() == destination);
        let read_only = entry.is_some_and(|entry| entry.options().iter().flatten().any(|option| option == "ro"));
        let state = nix::sys::statvfs::fstatvfs(&tree).doing(doing())?;
        if !read_only && state.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
            sys::make_writable(tree.as_fd()).doing(doing())?;
        }
        found.push((destination.clone(), tree));
    }
    Ok(found)
}

/// The root of a process's mount namespace.
pub fn root_of(process: &OwnedFd) -> io::Result<OwnedFd> {
    within(process, || Ok(open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?))
}

/// A copy of a mount of another mount namespace, which is entered for it: before Linux 6.15 only mounts of the caller's own
/// namespace are copied. Nothing is looked up by a path there: that would be the other container's to say.
pub(super) fn tree_of(namespace: &OwnedFd, mount: &OwnedFd) -> io::Result<OwnedFd> {
    within(namespace, || sys::open_tree(mount.as_fd(), Path::new(""), Recursive::No))
}

/// Does something in another mount namespace, of which there is a descriptor, or one of a process in it.
pub(super) fn within<T>(namespace: &OwnedFd, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = open("/proc/thread-self/ns/mnt", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let here = open(".", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    setns(namespace, CloneFlags::CLONE_NEWNS)?;
    let result = act();
    setns(own, CloneFlags::CLONE_NEWNS)?;
    // Entering a mount namespace is entering its root.
    nix::unistd::fchdir(here)?;
    result
}

/// Attaches a mount that is shared, with this container's own attributes. Returns the mount.
pub(super) fn attach_shared(
    root: BorrowedFd<'_>,
    destination: &Path,
    tree: &OwnedFd,
    entry: &Mount,
) -> Result<Option<OwnedFd>, StepFailed> {
    let doing = || format!("mounting {}", destination.display());
    if entry.options().iter().flatten().any(|option| option == "ro") {
        let private = MsFlags::MS_PRIVATE.bits();
        sys::set_mount_attributes(tree.as_fd(), sys::ATTR_RDONLY, private, Recursive::No).doing(doing())?;
    }
    let target = open_target(root, destination, Target::Directory)?;
    check_kind(target.as_fd(), destination, Target::Directory, "a volume")?;
    sys::attach(tree.as_fd(), target.as_fd()).doing(doing())?;
    tree.try_clone().map(Some).doing(doing())
}
