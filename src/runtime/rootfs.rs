//! The container's file system: overlay, mounts, devices, masks, pivot_root.
//!
//! Everything happens in the container's own mount namespace, before its program runs, so nothing is mounted on the host
//! and nothing has to be unmounted: the kernel does it when the last process is gone. Each mount is made detached, and
//! attached to a descriptor that was resolved beneath the root (openat2), so that a symlink of the image cannot lead it out.

mod dev;
mod id_map;
mod mounts;
mod sharing;
pub mod view;

use super::error::{Doing, StepFailed};
use super::launch::{Launch, Rootfs};
use super::targets::{Target, open_or_make};
use super::user::{self, Identity};
use crate::runtime::error::{InStep, SetupStep};
use crate::sys::{self, Beneath, Recursive};
use dev::{is_dev, make_device, open_terminal, populate_dev};
use id_map::IdMaps;
use mounts::{attach_image, attach_mount, bind_tree, file_system, fill_volumes, image_tree, is_directory, split_options};
pub use mounts::{procfs_of, remote};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use oci_spec::runtime::Mount;
use sharing::{Kept, attach_shared};
pub use sharing::{SharedMounts, root_of, shared};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The result of [`enter`].
pub struct Entered {
    /// Whom the container runs as.
    pub identity: Identity,
    /// The terminal's master and the other end.
    pub console: Option<(OwnedFd, OwnedFd)>,
    /// Of [`Launch::kept`], in its order.
    pub kept: Vec<OwnedFd>,
}

/// Builds the file system and makes it the root. Afterwards the host's files cannot be named any more.
pub fn enter(launch: &Launch, shared: &SharedMounts, remote: &SharedMounts) -> Result<Entered, StepFailed> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).doing("detaching from the host's mounts")?;
    let root = overlay(&launch.rootfs)?;
    fill_volumes(root.as_fd(), launch.oci.mounts().iter().flatten(), &launch.copy_up, &launch.subpaths)?;
    let id_maps = IdMaps::find(root.as_fd(), &launch.id_maps, &launch.user)?;
    let linux = launch.oci.linux().as_ref();
    let mut null = None;
    let mut kept = Kept::new(launch);
    for entry in launch.oci.mounts().iter().flatten() {
        let mount = match shared.iter().find(|(destination, _)| entry.destination() == destination) {
            Some((destination, tree)) => attach_shared(root.as_fd(), destination, tree, entry)?,
            None => attach_mount(root.as_fd(), entry, launch, (remote, &id_maps))?,
        };
        kept.add(entry, mount);
        if is_dev(entry) && !is_bind(entry) {
            null = Some(populate_dev(root.as_fd())?);
        }
    }
    let own_dev = null.is_some();
    for mount in &launch.images {
        attach_image(root.as_fd(), mount, &launch.subpaths)?;
    }
    // In a directory of the host's, nodes would be made on the host; it has its own.
    for device in linux.and_then(|l| l.devices().as_ref()).into_iter().flatten().filter(|_| own_dev) {
        make_device(root.as_fd(), device)?;
    }
    let console = match launch.oci.process().as_ref().and_then(|p| p.terminal()) {
        Some(true) => Some(open_terminal(root.as_fd())?),
        _ => None,
    };
    let null = match null {
        Some(own) => own,
        None => open("/dev/null", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).doing("opening /dev/null")?,
    };
    for path in linux.and_then(|l| l.masked_paths().as_ref()).into_iter().flatten() {
        mask(root.as_fd(), Path::new(path), null.as_fd())?;
    }
    for path in linux.and_then(|l| l.readonly_paths().as_ref()).into_iter().flatten() {
        make_readonly(root.as_fd(), Path::new(path))?;
    }
    // While /proc is the host's.
    let identity = user::lookup(root.as_fd(), &launch.user, &launch.group_add).in_step(SetupStep::User)?;
    id_maps.check(&identity)?;
    pivot(root.as_fd())?;
    Ok(Entered { identity, console, kept: kept.finish()? })
}

fn is_bind(entry: &Mount) -> bool {
    entry.options().iter().flatten().any(|option| option == "bind" || option == "rbind")
}

/// The mounts for another OCI runtime.
pub struct Staged {
    pub root: OwnedFd,
    /// The mounts that are left to it.
    pub mounts: Vec<Mount>,
    /// Of [`Launch::kept`], in its order. They are mounted in the caller's mount namespace.
    pub kept: Vec<OwnedFd>,
}

/// Mounts the layers, and what another runtime cannot mount: subpaths, images' files, mounts that are shared with another
/// container. Fills new volumes.
pub fn stage(launch: &Launch, mut shared: SharedMounts) -> Result<Staged, StepFailed> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).doing("detaching from the host's mounts")?;
    let root = overlay(&launch.rootfs)?;
    fill_volumes(root.as_fd(), launch.oci.mounts().iter().flatten(), &launch.copy_up, &launch.subpaths)?;
    let id_maps = IdMaps::find(root.as_fd(), &launch.id_maps, &launch.user)?;
    let staged = std::env::current_dir().doing("finding the run directory")?.join("staged");
    let mut mounts = Vec::new();
    let mut kept = Kept::new(launch);
    let place = |tree: OwnedFd, entry: &Mount, n: usize| -> Result<Mount, StepFailed> {
        let doing = || format!("mounting {}", entry.destination().display());
        let here = staged.join(n.to_string());
        std::fs::create_dir_all(&staged).doing(doing())?;
        let made =
            if is_directory(tree.as_fd()).doing(doing())? { std::fs::create_dir(&here) } else { std::fs::write(&here, "") };
        made.or_else(|e| if e.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) }).doing(doing())?;
        let target = open(&here, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).doing(doing())?;
        sys::attach(tree.as_fd(), target.as_fd()).doing(doing())?;
        let mut entry = entry.clone();
        entry.set_typ(Some("bind".into())).set_source(Some(here));
        Ok(entry)
    };
    for entry in launch.oci.mounts().iter().flatten() {
        let destination = entry.destination();
        let options = entry.options().clone().unwrap_or_default();
        let bind = is_bind(entry);
        let made = match shared.iter().position(|(shared, _)| destination == shared) {
            Some(at) => Some(shared.swap_remove(at).1),
            None if !bind && launch.kept.contains(destination) => {
                let (attributes, _, rest) = split_options(&options);
                let fstype = entry.typ().as_deref().unwrap_or("none");
                let doing = format_args!("mounting {}", destination.display());
                Some(file_system(entry, fstype, &rest, attributes).doing(doing)?)
            }
            None => None,
        };
        if let Some(tree) = made {
            let copy = tree.try_clone().doing("duplicating a descriptor")?;
            kept.add(entry, Some(copy));
            let mut entry = entry.clone();
            let read_only = options.iter().any(|option| option == "ro").then(|| "ro".to_string());
            entry.set_options(Some(["rbind".to_string()].into_iter().chain(read_only).collect()));
            mounts.push(place(tree, &entry, mounts.len())?);
            continue;
        }
        if !bind {
            mounts.push(entry.clone());
            continue;
        }
        let (tree, recursive) = bind_tree(entry, &launch.subpaths)?;
        id_maps.apply(entry, tree.as_fd(), recursive)?;
        let copy = tree.try_clone().doing("duplicating a descriptor")?;
        kept.add(entry, Some(copy));
        mounts.push(place(tree, entry, mounts.len())?);
    }
    for image in &launch.images {
        let tree = image_tree(image, &launch.subpaths)?;
        let mut entry = Mount::default();
        entry.set_destination(image.destination.clone()).set_options(Some(vec![
            "bind".into(),
            "ro".into(),
            "nosuid".into(),
            "nodev".into(),
        ]));
        mounts.push(place(tree, &entry, mounts.len())?);
    }
    Ok(Staged { root, mounts, kept: kept.finish()? })
}

/// Makes the root read-only, where the container asks for it: after the working directory has been made in it.
pub fn seal(launch: &Launch) -> Result<(), StepFailed> {
    if launch.oci.root().as_ref().and_then(|r| r.readonly()) != Some(true) {
        return Ok(());
    }
    let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).doing("opening the new root")?;
    sys::set_mount_attributes(root.as_fd(), sys::ATTR_RDONLY, 0, Recursive::No).doing("making the root read-only")
}

/// Mounts the layers. They are named by descriptors: any number of them fits into one page of options, and the
/// container's /proc/self/mountinfo tells nothing of the host's paths.
fn overlay(rootfs: &Rootfs) -> Result<OwnedFd, StepFailed> {
    let open_dir = |path: &Path| {
        open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .doing(format_args!("opening {}", path.display()))
    };
    let lower: Vec<OwnedFd> = rootfs.lower.iter().map(|path| open_dir(path)).collect::<Result<_, _>>()?;
    let (upper, work) = (open_dir(&rootfs.upper)?, open_dir(&rootfs.work)?);
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lowers: Vec<String> = lower.iter().map(name).collect();
    let options = format!("lowerdir={},upperdir={},workdir={}", lowers.join(":"), name(&upper), name(&work));
    mount(Some("overlay"), &rootfs.mountpoint, Some("overlay"), MsFlags::empty(), Some(options.as_str())).doing(format_args!(
        "mounting {} layers by overlayfs on {}",
        lower.len(),
        rootfs.mountpoint.display()
    ))?;
    let root = open_dir(&rootfs.mountpoint)?;
    super::overlay::check_writable(&root, &work).doing("making the container's layer writable")?;
    Ok(root)
}

/// Hides a path: a file behind the container's null device, a directory behind an empty read-only tmpfs. Both sources
/// are mounts that no other process can reach yet, so neither can be swapped for something else meanwhile.
fn mask(root: BorrowedFd<'_>, path: &Path, null: BorrowedFd<'_>) -> Result<(), StepFailed> {
    let inside = path.strip_prefix("/").unwrap_or(path);
    let target = match sys::open_beneath(root, inside, libc::O_PATH, 0, Beneath::AsRoot) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.doing(format_args!("opening {}", path.display()))?,
    };
    let doing = format!("masking {}", path.display());
    let cover = if is_directory(target.as_fd()).doing(&doing)? {
        sys::new_mount("tmpfs", "tmpfs", &[("size", Some("0k"))], sys::ATTR_RDONLY).doing(&doing)?
    } else {
        sys::open_tree(null, Path::new(""), Recursive::No).doing(&doing)?
    };
    sys::attach(cover.as_fd(), target.as_fd()).doing(&doing)
}

fn make_readonly(root: BorrowedFd<'_>, path: &Path) -> Result<(), StepFailed> {
    let inside = path.strip_prefix("/").unwrap_or(path);
    let target = match sys::open_beneath(root, inside, libc::O_PATH, 0, Beneath::AsRoot) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.doing(format_args!("opening {}", path.display()))?,
    };
    let doing = format!("making {} read-only", path.display());
    let tree = sys::open_tree(target.as_fd(), Path::new(""), Recursive::Yes).doing(&doing)?;
    sys::set_mount_attributes(tree.as_fd(), sys::ATTR_RDONLY, MsFlags::MS_PRIVATE.bits(), Recursive::Yes).doing(&doing)?;
    sys::attach(tree.as_fd(), target.as_fd()).doing(&doing)
}

/// pivot_root(2) with both paths the same: the old root lies under the new one for a moment, and is then detached.
fn pivot(root: BorrowedFd<'_>) -> Result<(), StepFailed> {
    nix::unistd::fchdir(root).doing("entering the new root")?;
    nix::unistd::pivot_root(".", ".").doing("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).doing("detaching the old root")?;
    nix::unistd::chdir("/").doing("entering /")
}

/// Makes the working directory where the image has none, and enters it.
pub fn make_and_enter_directory(path: &str) -> Result<(), StepFailed> {
    let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).doing("opening the root")?;
    // No magic link: with another's processes in sight, /proc/1/root is not the container's own root.
    let directory = open_or_make(root.as_fd(), Path::new(path), Target::Directory, Beneath::AsRoot)?;
    change_to(directory, path)
}

/// Enters the working directory of a further process, which has to be there: 127 where it is not, as with Docker.
pub fn enter_directory(path: &str) -> Result<(), StepFailed> {
    let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).doing("opening the root")?;
    let inside = Path::new(path).strip_prefix("/").unwrap_or(Path::new(path));
    let directory = sys::open_beneath(root.as_fd(), inside, libc::O_PATH | libc::O_DIRECTORY, 0, Beneath::AsRoot);
    let directory = directory.map_err(|error| {
        let (step, why) = match error.raw_os_error() {
            Some(libc::ENOENT) => (SetupStep::WorkingDirectoryMissing, "no such file or directory".into()),
            Some(libc::ENOTDIR) => (SetupStep::NotADirectory, "not a directory".into()),
            _ => (SetupStep::NotADirectory, error.to_string()),
        };
        StepFailed::because(format!("chdir to cwd (\"{path}\")"), why).in_step(step)
    })?;
    change_to(directory, path)
}

fn change_to(directory: OwnedFd, path: &str) -> Result<(), StepFailed> {
    nix::unistd::fchdir(directory).doing(format_args!("entering the working directory {path}"))?;
    // A working directory outside of the root shows as an unreachable path (CVE-2024-21626).
    let here = nix::unistd::getcwd().doing("finding the working directory")?;
    if !here.is_absolute() {
        return Err(StepFailed::because(format!("entering the working directory {path}"), "it lies outside of the container"));
    }
    Ok(())
}
