//! The files of a container that does not run, as its processes would find them: its layers, and what is mounted in them.
//!
//! `cp` reads and writes them from outside. They are mounted in a mount namespace of their own, which goes with its descriptor:
//! nothing is mounted on the host, and nothing has to be unmounted. Docker has such a view too (`daemon/containerfs_linux.go`).

use super::id_map::IdMaps;
use super::mounts::{attach_image, bind_tree, file_system, fill_volumes, is_directory, split_options};
use super::pivot;
use super::sharing::tree_of;
use crate::runtime::error::{Doing, StepFailed};
use crate::runtime::launch::OwnMounts;
use crate::runtime::overlay::{INERT, mount_inert};
use crate::runtime::spec::sort_by_depth;
use crate::runtime::targets::{Target, check_kind, open_target};
use crate::sys::attributes::CopiedAttributes;
use crate::sys::{self, Recursive};
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, fchmod, fstat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown};
use oci_spec::runtime::Mount;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Bytes that mount points may take which are missing in the layers.
const SCRATCH: &str = "4m";

/// What a view is of.
pub struct ViewParts<'a> {
    /// The lowest first, with the container's own where nothing is written.
    pub layers: Vec<PathBuf>,
    /// The container's own layer and its work directory, where it is written.
    pub upper: Option<(&'a Path, &'a Path)>,
    /// Everything but the volumes is only read.
    pub read_only: bool,
    /// A directory of the host's, on which each view mounts its own.
    pub mountpoint: &'a Path,
    pub mounts: OwnMounts,
    /// Volumes that a running container has mounted: the destination here, that container's mount namespace, and the mount in it.
    pub shared: Vec<(PathBuf, &'a OwnedFd, &'a OwnedFd)>,
    /// `user[:group]`, for [`OwnMounts::id_maps`].
    pub user: &'a str,
}

/// A view, as long as the namespace is open.
pub struct View {
    pub root: OwnedFd,
    pub namespace: OwnedFd,
}

/// Mounts a view. Where it is written, mount points that are missing are made in the container's layer, as at its start.
///
/// # Errors
/// What could not be mounted.
pub fn mount_view(parts: &ViewParts<'_>) -> Result<View, StepFailed> {
    // A thread of its own: its root and directory are the view's from then on.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("view".into()).spawn_scoped(scope, || mount_here(parts));
        let made = thread.doing("starting a thread")?.join();
        made.unwrap_or_else(|_| Err(StepFailed::because("mounting the files of a container", "the thread has ended early")))
    })
}

fn mount_here(parts: &ViewParts<'_>) -> Result<View, StepFailed> {
    unshare(CloneFlags::CLONE_FS).doing("having a directory of its own")?;
    let mut shared = Vec::new();
    for (destination, namespace, mount) in &parts.shared {
        shared.push((destination, tree_of(namespace, mount).doing(format_args!("sharing {}", destination.display()))?));
    }
    unshare(CloneFlags::CLONE_NEWNS).doing("making a mount namespace")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).doing("detaching from the host's mounts")?;
    let namespace = open("/proc/thread-self/ns/mnt", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
    let namespace = namespace.doing("opening a mount namespace")?;
    let root = layers(parts)?;
    let OwnMounts { binds, copy_up, images, subpaths, id_maps } = &parts.mounts;
    fill_volumes(root.as_fd(), binds, copy_up, subpaths)?;
    let id_maps = IdMaps::find(root.as_fd(), id_maps, parts.user)?;
    let mut entries: Vec<&Mount> = binds.iter().collect();
    sort_by_depth(&mut entries);
    let read_only = if parts.upper.is_none() { sys::ATTR_RDONLY } else { 0 };
    for entry in entries {
        let destination = entry.destination();
        let doing = || format!("mounting {}", destination.display());
        let (attributes, _, rest) = split_options(entry.options().as_deref().unwrap_or_default());
        let (tree, recursive) = match shared.iter().position(|(shared, _)| *shared == destination) {
            Some(at) => {
                let tree = shared.swap_remove(at).1;
                // As the other has it.
                sys::clear_mount_attributes(tree.as_fd(), sys::ATTR_RDONLY).doing(doing())?;
                (tree, Recursive::No)
            }
            None if super::is_bind(entry) => {
                let (tree, recursive) = bind_tree(entry, subpaths)?;
                id_maps.apply(entry, tree.as_fd(), recursive)?;
                (tree, recursive)
            }
            None => {
                let fstype = entry.typ().as_deref().unwrap_or("none");
                let own = file_system(entry, fstype, &rest, attributes).doing(doing())?;
                // Nobody has it, and what were written would be gone with the view.
                if fstype == "tmpfs" {
                    sys::set_mount_attributes(own.as_fd(), sys::ATTR_RDONLY, 0, Recursive::No).doing(doing())?;
                }
                (own, Recursive::No)
            }
        };
        let attributes = attributes | read_only | INERT;
        sys::set_mount_attributes(tree.as_fd(), attributes, MsFlags::MS_PRIVATE.bits(), recursive).doing(doing())?;
        attach(root.as_fd(), destination, &tree)?;
    }
    for image in images {
        attach_image(root.as_fd(), image, subpaths)?;
    }
    if parts.read_only || parts.upper.is_none() {
        sys::set_mount_attributes(root.as_fd(), sys::ATTR_RDONLY, 0, Recursive::No).doing("making the root read-only")?;
    }
    // The host's mounts are not held by it.
    pivot(root.as_fd())?;
    Ok(View { root, namespace })
}

fn attach(root: BorrowedFd<'_>, destination: &Path, tree: &OwnedFd) -> Result<(), StepFailed> {
    let doing = || format!("mounting {}", destination.display());
    let kind = if is_directory(tree.as_fd()).doing(doing())? { Target::Directory } else { Target::File };
    let target = open_target(root, destination, kind)?;
    check_kind(target.as_fd(), destination, kind, "a volume")?;
    sys::attach(tree.as_fd(), target.as_fd()).doing(doing())
}

/// The layers, attached to the mount point. Where they are only read, what is made of mount points is in memory.
fn layers(parts: &ViewParts<'_>) -> Result<OwnedFd, StepFailed> {
    let doing = || "mounting the layers";
    let place = || open(parts.mountpoint, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let root = match parts.upper {
        Some(upper) => mount_inert(&parts.layers, Some(upper)).doing(doing())?,
        None => {
            let options = [("size", Some(SCRATCH)), ("mode", Some("700"))];
            let scratch = sys::new_mount("tmpfs", "wharf", &options, INERT).doing(doing())?;
            sys::attach(scratch.as_fd(), place().doing(doing())?.as_fd()).doing(doing())?;
            for name in ["upper", "work"] {
                mkdirat(&scratch, name, Mode::S_IRWXU).doing(doing())?;
            }
            let [upper, work] = ["upper", "work"].map(|name| parts.mountpoint.join(name));
            if let Some(top) = parts.layers.last() {
                be_like(&upper, top).doing(doing())?;
            }
            mount_inert(&parts.layers, Some((&upper, &work))).doing(doing())?
        }
    };
    sys::attach(root.as_fd(), place().doing(doing())?.as_fd()).doing(doing())?;
    Ok(root)
}

/// The root of an overlay is as that of its upper layer.
fn be_like(upper: &Path, top: &Path) -> std::io::Result<()> {
    let directory = |path: &Path| open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let (from, to) = (directory(top)?, directory(upper)?);
    let stat = fstat(&from)?;
    fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(&to, Mode::from_bits_truncate(stat.st_mode))?;
    CopiedAttributes::of(&from)?.set_on(&to)?;
    let time = |seconds, nanos| TimeSpec::new(seconds, nanos);
    futimens(&to, &time(stat.st_atime, stat.st_atime_nsec), &time(stat.st_mtime, stat.st_mtime_nsec))?;
    Ok(())
}
