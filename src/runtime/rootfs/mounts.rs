//! Mounts of a container: file systems, bind mounts, images, control groups, made detached and attached beneath the root.

use super::id_map::IdMaps;
use super::sharing::within;
use super::{SharedMounts, is_bind};
use crate::runtime::error::{Doing, StepFailed};
use crate::runtime::launch::{CopyUp, ImageMount, Launch, Subpaths};
use crate::runtime::targets::{Target, check_kind, open_ordinary_directory, open_target};
use crate::sys::{self, Beneath, Recursive};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use oci_spec::runtime::Mount;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Mounts an image's files, read-only.
pub(super) fn attach_image(root: BorrowedFd<'_>, mount: &ImageMount, subpaths: &Subpaths) -> Result<(), StepFailed> {
    let doing = || format!("mounting an image on {}", mount.destination.display());
    let tree = image_tree(mount, subpaths)?;
    let directory = is_directory(tree.as_fd()).doing(doing())?;
    let kind = if directory { Target::Directory } else { Target::File };
    let target = open_target(root, &mount.destination, kind)?;
    check_kind(target.as_fd(), &mount.destination, kind, "a part of an image")?;
    sys::attach(tree.as_fd(), target.as_fd()).doing(doing())
}

/// An image's files, or what is at a subpath in them, read-only and attached nowhere yet.
pub(super) fn image_tree(mount: &ImageMount, subpaths: &Subpaths) -> Result<OwnedFd, StepFailed> {
    let doing = || format!("mounting an image on {}", mount.destination.display());
    let tree = super::super::overlay::mount(&mount.layers, None).doing(doing())?;
    let protected = sys::ATTR_RDONLY | sys::ATTR_NODEV | sys::ATTR_NOSUID;
    let protect = |tree: &OwnedFd| {
        sys::set_mount_attributes(tree.as_fd(), protected, MsFlags::MS_PRIVATE.bits(), Recursive::No).doing(doing())
    };
    let Some(subpath) = subpath(subpaths, &mount.destination) else {
        protect(&tree)?;
        return Ok(tree);
    };
    let part = part_of(&tree, subpath).doing(finding(subpath, &mount.destination))?;
    protect(&part)?;
    Ok(part)
}

/// The tree of a bind mount, attached nowhere yet, and whether mounts below it come along.
pub(super) fn bind_tree(entry: &Mount, subpaths: &Subpaths) -> Result<(OwnedFd, Recursive), StepFailed> {
    let (source, destination) = (entry.source().as_deref().unwrap_or(Path::new("")), entry.destination());
    let deep = entry.options().iter().flatten().any(|option| option == "rbind");
    let recursive = if deep { Recursive::Yes } else { Recursive::No };
    let mounting = || format!("mounting {} on {}", source.display(), destination.display());
    let whole = open(source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).doing(mounting())?;
    let tree = match subpath(subpaths, destination) {
        None => sys::open_tree(whole.as_fd(), Path::new(""), recursive).doing(mounting())?,
        // Before it is copied: before Linux 6.15 a mount that is attached nowhere is not copied in part.
        Some(subpath) => sys::open_beneath(whole.as_fd(), subpath, libc::O_PATH, 0, Beneath::AsRoot)
            .and_then(|part| sys::open_tree(part.as_fd(), Path::new(""), recursive))
            .doing(finding(subpath, destination))?,
    };
    Ok((tree, recursive))
}

/// Fills volumes that are still empty with what the image has where they are to be mounted. Nothing is mounted in the root yet:
/// a symlink of the image leads to its own files, and not to those of the kernel's that will be masked.
pub(super) fn fill_volumes<'a>(
    root: BorrowedFd<'_>,
    mounts: impl IntoIterator<Item = &'a Mount>,
    copy_up: &[CopyUp],
    subpaths: &Subpaths,
) -> Result<(), StepFailed> {
    for entry in mounts {
        let destination = entry.destination();
        let Some(copy) = copy_up.iter().find(|copy| copy.destination == *destination) else { continue };
        let doing = || format!("copying the image's {} into the new volume", destination.display());
        let inside = destination.strip_prefix("/").unwrap_or(destination);
        let image = match sys::open_beneath(root, inside, libc::O_PATH, 0, Beneath::AsRoot) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            other => other.doing(doing())?,
        };
        let (volume, _) = bind_tree(entry, subpaths)?;
        super::super::copy_up::copy(image.as_fd(), volume.as_fd(), &copy.beside).doing(doing())?;
    }
    Ok(())
}

/// The part of what is mounted there that is to be mounted, where it is not all. No symlink leads out of the whole.
fn subpath<'a>(subpaths: &'a Subpaths, destination: &Path) -> Option<&'a Path> {
    subpaths.get(destination.to_str()?).map(PathBuf::as_path)
}

pub(super) fn finding(subpath: &Path, destination: &Path) -> String {
    format!("finding the subpath {} of what is mounted on {}", subpath.display(), destination.display())
}

/// A part of a mount that is attached nowhere. Before Linux 6.15 only what is attached is copied: it is for a moment, on the working
/// directory, in this mount namespace.
fn part_of(tree: &OwnedFd, subpath: &Path) -> io::Result<OwnedFd> {
    let here = open(".", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    sys::attach(tree.as_fd(), here.as_fd())?;
    let part = sys::open_beneath(tree.as_fd(), subpath, libc::O_PATH, 0, Beneath::AsRoot)
        .and_then(|part| sys::open_tree(part.as_fd(), Path::new(""), Recursive::No));
    nix::unistd::fchdir(tree)?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::fchdir(here)?;
    part
}

/// Attaches what an entry says. Returns the mount, where it is one.
pub(super) fn attach_mount(
    root: BorrowedFd<'_>,
    entry: &Mount,
    launch: &Launch,
    (remote, id_maps): (&SharedMounts, &IdMaps),
) -> Result<Option<OwnedFd>, StepFailed> {
    let destination = entry.destination();
    let options = entry.options().clone().unwrap_or_default();
    let doing = || format!("mounting {}", destination.display());
    let (attributes, propagation, rest) = split_options(&options);
    let fstype = entry.typ().as_deref().unwrap_or("none");
    if fstype == "cgroup" {
        return mount_cgroups(root, destination, attributes, launch).map(|()| None);
    }
    let bind = is_bind(entry);
    let (mounted, recursive, kind) = if bind {
        let (tree, recursive) = bind_tree(entry, &launch.subpaths)?;
        id_maps.apply(entry, tree.as_fd(), recursive)?;
        let directory = is_directory(tree.as_fd()).doing(doing())?;
        (tree, recursive, if directory { Target::Directory } else { Target::File })
    } else if let Some((_, tree)) = remote.iter().find(|(remote, _)| remote == destination) {
        (tree.try_clone().doing(doing())?, Recursive::No, Target::Directory)
    } else {
        (file_system(entry, fstype, &rest, attributes).doing(doing())?, Recursive::No, Target::Directory)
    };
    let target = match fstype {
        "proc" | "sysfs" if !bind => open_ordinary_directory(root, destination)?,
        _ => open_target(root, destination, kind)?,
    };
    let source = entry.source().as_deref().filter(|_| bind).map_or_else(|| fstype.to_string(), |path| path.display().to_string());
    check_kind(target.as_fd(), destination, kind, &source)?;
    if bind {
        sys::set_mount_attributes(mounted.as_fd(), attributes, propagation, recursive).doing(doing())?;
    }
    sys::attach(mounted.as_fd(), target.as_fd()).doing(doing())?;
    Ok(Some(mounted))
}

/// A file system that is attached nowhere yet; `options` are its own.
pub(super) fn file_system(entry: &Mount, fstype: &str, options: &[String], attributes: u64) -> io::Result<OwnedFd> {
    let pairs: Vec<(&str, Option<&str>)> =
        options.iter().map(|o| o.split_once('=').map_or((o.as_str(), None), |(k, v)| (k, Some(v)))).collect();
    let source = entry.source().as_deref().and_then(Path::to_str).unwrap_or(fstype);
    sys::new_mount(fstype, source, &pairs, attributes)
}

/// The file systems of other machines, attached nowhere yet. The kernel reaches them by the network of who makes them: that is
/// the host's, as with Docker, so this comes before the container's own is joined.
pub fn remote(launch: &Launch) -> Result<SharedMounts, StepFailed> {
    const REMOTE: [&str; 7] = ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs"];
    let is_shared = |destination: &Path| launch.shared.iter().any(|shared| shared == destination);
    let mut found = Vec::new();
    for entry in launch.oci.mounts().iter().flatten() {
        let (fstype, destination) = (entry.typ().as_deref().unwrap_or_default(), entry.destination());
        if REMOTE.contains(&fstype) && !is_shared(destination) {
            let (attributes, _, rest) = split_options(entry.options().as_deref().unwrap_or_default());
            let tree = file_system(entry, fstype, &rest, attributes).doing(format_args!("mounting {}", destination.display()))?;
            found.push((destination.clone(), tree));
        }
    }
    Ok(found)
}

/// The procfs of another container's processes, attached nowhere yet: it shows the pid namespace of who has mounted it, and this
/// process is in the host's.
pub fn procfs_of(launch: &Launch, process: &OwnedFd) -> Result<SharedMounts, StepFailed> {
    /// The root of every procfs (`PROC_ROOT_INO`).
    const ROOT: u64 = 1;
    let find = || {
        let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        let mount = sys::open_beneath(root.as_fd(), Path::new("proc"), libc::O_PATH, 0, Beneath::NoSymlinks)?;
        if fstatfs(&mount)?.filesystem_type() != PROC_SUPER_MAGIC || fstat(&mount)?.st_ino != ROOT {
            return Err(io::Error::other("it has no procfs there"));
        }
        sys::open_tree(mount.as_fd(), Path::new(""), Recursive::No)
    };
    let mut found = Vec::new();
    for entry in launch.oci.mounts().iter().flatten().filter(|entry| entry.typ().as_deref() == Some("proc") && !is_bind(entry)) {
        let doing = || format!("mounting {}, of the other container's /proc", entry.destination().display());
        let tree = within(process, find).doing(doing())?;
        let (attributes, propagation, _) = split_options(entry.options().as_deref().unwrap_or_default());
        sys::clear_mount_attributes(tree.as_fd(), sys::ATTR_RDONLY).doing(doing())?;
        sys::set_mount_attributes(tree.as_fd(), attributes, propagation, Recursive::No).doing(doing())?;
        found.push((entry.destination().clone(), tree));
    }
    Ok(found)
}

pub(super) fn is_directory(fd: BorrowedFd<'_>) -> nix::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

/// Mount options into attributes, propagation, and what belongs to the file system itself.
pub(super) fn split_options(options: &[String]) -> (u64, u64, Vec<String>) {
    const STRICTATIME: u64 = 0x20;
    let (mut attributes, mut propagation, mut rest) = (0, MsFlags::MS_PRIVATE.bits(), Vec::new());
    for option in options {
        match option.as_str() {
            "ro" => attributes |= sys::ATTR_RDONLY,
            "nosuid" => attributes |= sys::ATTR_NOSUID,
            "nodev" => attributes |= sys::ATTR_NODEV,
            "noexec" => attributes |= sys::ATTR_NOEXEC,
            "strictatime" => attributes |= STRICTATIME,
            "private" | "rprivate" => propagation = MsFlags::MS_PRIVATE.bits(),
            "slave" | "rslave" => propagation = MsFlags::MS_SLAVE.bits(),
            "shared" | "rshared" => propagation = MsFlags::MS_SHARED.bits(),
            "bind" | "rbind" | "rw" | "suid" | "dev" | "exec" | "relatime" | "newinstance" => {}
            _ => rest.push(option.clone()),
        }
    }
    (attributes, propagation, rest)
}

/// /sys/fs/cgroup: the container's own groups, read-only where it is not privileged.
fn mount_cgroups(root: BorrowedFd<'_>, destination: &Path, attributes: u64, launch: &Launch) -> Result<(), StepFailed> {
    let target = open_target(root, destination, Target::Directory)?;
    match &launch.cgroup {
        super::super::cgroup::Hierarchy::V2(_) => {
            let mounted = sys::new_mount("cgroup2", "cgroup", &[], attributes).doing("mounting cgroup2")?;
            sys::attach(mounted.as_fd(), target.as_fd()).doing("mounting /sys/fs/cgroup")
        }
        super::super::cgroup::Hierarchy::V1(mounts) => {
            let base = sys::new_mount("tmpfs", "tmpfs", &[("mode", Some("755"))], attributes & !sys::ATTR_RDONLY)
                .doing("making /sys/fs/cgroup")?;
            for (controllers, point) in mounts {
                let name = point.file_name().unwrap_or_default();
                mkdirat(&base, name, Mode::from_bits_truncate(0o755)).doing("making a cgroup directory")?;
                for controller in controllers.iter().filter(|c| Path::new(c.as_str()) != name && !c.starts_with("name=")) {
                    nix::unistd::symlinkat(name, &base, controller.as_str()).doing("linking a cgroup controller")?;
                }
            }
            sys::attach(base.as_fd(), target.as_fd()).doing("mounting /sys/fs/cgroup")?;
            for ((_, point), (_, own)) in mounts.iter().zip(launch.cgroup.directories(&launch.group)) {
                let name = point.file_name().unwrap_or_default();
                let tree =
                    sys::open_tree(target.as_fd(), &own, Recursive::No).doing(format_args!("opening {}", own.display()))?;
                sys::set_mount_attributes(tree.as_fd(), attributes, MsFlags::MS_PRIVATE.bits(), Recursive::No)
                    .doing("protecting a cgroup's mount")?;
                let place = sys::open_beneath(
                    root,
                    &destination.strip_prefix("/").unwrap_or(destination).join(name),
                    libc::O_PATH,
                    0,
                    Beneath::AsRoot,
                )
                .doing("opening a cgroup directory")?;
                sys::attach(tree.as_fd(), place.as_fd()).doing("mounting a cgroup")?;
            }
            Ok(())
        }
    }
}
