//! The container's file system: overlay, mounts, devices, masks, pivot_root.
//!
//! Everything happens in the container's own mount namespace, before its program runs, so nothing is mounted on the host
//! and nothing has to be unmounted: the kernel does it when the last process is gone. Each mount is made detached, and
//! attached to a descriptor that was resolved beneath the root (openat2), so that a symlink of the image cannot lead it out.

use super::error::{Doing, StepFailed};
use super::launch::{ImageMount, Launch, Rootfs};
use super::targets::{Target, clean, open_or_make, open_ordinary_directory, open_target};
use super::user::{self, Identity};
use crate::sys::{self, Beneath, Recursive};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat, mknodat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

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

/// What comes of [`enter`].
pub struct Entered {
    /// Whom the container runs as.
    pub identity: Identity,
    /// The terminal's master and the other end.
    pub console: Option<(OwnedFd, OwnedFd)>,
    /// Of [`Launch::kept`], in its order.
    pub kept: Vec<OwnedFd>,
}

/// Builds the file system and makes it the root. Afterwards the host's files cannot be named any more.
pub fn enter(launch: &Launch, shared: &Shared, remote: &Shared) -> Result<Entered, StepFailed> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).doing("detaching from the host's mounts")?;
    let root = overlay(&launch.rootfs)?;
    fill_volumes(root.as_fd(), launch)?;
    let linux = launch.oci.linux().as_ref();
    let mut null = None;
    let mut kept = Kept::new(launch);
    for entry in launch.oci.mounts().iter().flatten() {
        let mount = match shared.iter().find(|(destination, _)| entry.destination() == destination) {
            Some((destination, tree)) => attach_shared(root.as_fd(), destination, tree, entry)?,
            None => attach_mount(root.as_fd(), entry, launch, remote)?,
        };
        kept.add(entry, mount);
        if is_dev(entry) && !is_bind(entry) {
            null = Some(populate_dev(root.as_fd())?);
        }
    }
    let own_dev = null.is_some();
    for mount in &launch.images {
        attach_image(root.as_fd(), mount, launch)?;
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
    let identity = user::lookup(root.as_fd(), &launch.user, &launch.group_add)?;
    pivot(root.as_fd())?;
    Ok(Entered { identity, console, kept: kept.finish()? })
}

/// Whether a mount is the container's /dev.
fn is_dev(entry: &Mount) -> bool {
    clean(entry.destination()) == Path::new("dev")
}

fn is_bind(entry: &Mount) -> bool {
    entry.options().iter().flatten().any(|option| option == "bind" || option == "rbind")
}

/// Mounts that others may share, by their descriptors: no container can put anything else in the place of one.
struct Kept<'a> {
    destinations: &'a [PathBuf],
    /// The container may unmount them.
    can_unmount: bool,
    mounts: Vec<Option<OwnedFd>>,
}

impl<'a> Kept<'a> {
    fn new(launch: &'a Launch) -> Self {
        let capabilities = launch.oci.process().as_ref().and_then(|process| process.capabilities().as_ref());
        let bounding = capabilities.and_then(|sets| sets.bounding().as_ref());
        let can_unmount = bounding.is_some_and(|set| set.contains(&oci_spec::runtime::Capability::SysAdmin));
        Kept { destinations: &launch.kept, can_unmount, mounts: launch.kept.iter().map(|_| None).collect() }
    }

    /// Adds a mount, if it is one of them.
    fn add(&mut self, entry: &Mount, mount: Option<OwnedFd>) {
        if let Some(at) = self.destinations.iter().position(|destination| destination == entry.destination()) {
            self.mounts[at] = mount.map(|mount| if self.can_unmount { copy_or_itself(mount) } else { mount });
        }
    }

    fn finish(self) -> Result<Vec<OwnedFd>, StepFailed> {
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

/// What a runtime of somebody else's is given.
pub struct Staged {
    pub root: OwnedFd,
    /// The mounts that are left to it.
    pub mounts: Vec<Mount>,
    /// Of [`Launch::kept`], in its order. They are mounted in the caller's mount namespace.
    pub kept: Vec<OwnedFd>,
}

/// Mounts the layers, and beside them what a runtime of somebody else's cannot: subpaths, images' files, what is another
/// container's or may be shared with one. Fills new volumes.
pub fn stage(launch: &Launch, mut shared: Shared) -> Result<Staged, StepFailed> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).doing("detaching from the host's mounts")?;
    let root = overlay(&launch.rootfs)?;
    fill_volumes(root.as_fd(), launch)?;
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
        let (tree, _) = bind_tree(entry, launch)?;
        let copy = tree.try_clone().doing("duplicating a descriptor")?;
        kept.add(entry, Some(copy));
        mounts.push(place(tree, entry, mounts.len())?);
    }
    for image in &launch.images {
        let tree = image_tree(image, launch)?;
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

/// Mounts of other containers that are attached nowhere yet, by where they are to be in this one.
pub type Shared = Vec<(PathBuf, OwnedFd)>;

/// Takes what is shared out of the mount namespaces of those who have it. The caller's own mount namespace is entered again
/// afterwards; nothing of the image is mounted in it yet.
pub fn shared(launch: &Launch, namespaces: Vec<OwnedFd>, mounts: Vec<OwnedFd>) -> Result<Shared, StepFailed> {
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
fn tree_of(namespace: &OwnedFd, mount: &OwnedFd) -> io::Result<OwnedFd> {
    within(namespace, || sys::open_tree(mount.as_fd(), Path::new(""), Recursive::No))
}

/// Does something in another mount namespace, of which there is a descriptor, or one of a process in it.
fn within<T>(namespace: &OwnedFd, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = open("/proc/self/ns/mnt", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let here = open(".", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    setns(namespace, CloneFlags::CLONE_NEWNS)?;
    let result = act();
    setns(own, CloneFlags::CLONE_NEWNS)?;
    // Entering a mount namespace is entering its root.
    nix::unistd::fchdir(here)?;
    result
}

/// Attaches a mount that is shared, with this container's own attributes. Returns the mount.
fn attach_shared(root: BorrowedFd<'_>, destination: &Path, tree: &OwnedFd, entry: &Mount) -> Result<Option<OwnedFd>, StepFailed> {
    let doing = || format!("mounting {}", destination.display());
    if entry.options().iter().flatten().any(|option| option == "ro") {
        let private = MsFlags::MS_PRIVATE.bits();
        sys::set_mount_attributes(tree.as_fd(), sys::ATTR_RDONLY, private, Recursive::No).doing(doing())?;
    }
    let target = open_target(root, destination, Target::Directory)?;
    sys::attach(tree.as_fd(), target.as_fd()).doing(doing())?;
    tree.try_clone().map(Some).doing(doing())
}

/// Mounts an image's files, read-only.
fn attach_image(root: BorrowedFd<'_>, mount: &ImageMount, launch: &Launch) -> Result<(), StepFailed> {
    let doing = || format!("mounting an image on {}", mount.destination.display());
    let tree = image_tree(mount, launch)?;
    let directory = is_directory(tree.as_fd()).doing(doing())?;
    let target = open_target(root, &mount.destination, if directory { Target::Directory } else { Target::File })?;
    sys::attach(tree.as_fd(), target.as_fd()).doing(doing())
}

/// An image's files, or what is at a subpath in them, read-only and attached nowhere yet.
fn image_tree(mount: &ImageMount, launch: &Launch) -> Result<OwnedFd, StepFailed> {
    let doing = || format!("mounting an image on {}", mount.destination.display());
    let tree = super::overlay::mount(&mount.layers, None).doing(doing())?;
    let protected = sys::ATTR_RDONLY | sys::ATTR_NODEV | sys::ATTR_NOSUID;
    let protect = |tree: &OwnedFd| {
        sys::set_mount_attributes(tree.as_fd(), protected, MsFlags::MS_PRIVATE.bits(), Recursive::No).doing(doing())
    };
    let Some(subpath) = subpath(launch, &mount.destination) else {
        protect(&tree)?;
        return Ok(tree);
    };
    let part = part_of(&tree, subpath).doing(finding(subpath, &mount.destination))?;
    protect(&part)?;
    Ok(part)
}

/// What a bind mount binds, attached nowhere yet, and whether what is mounted below it comes along.
fn bind_tree(entry: &Mount, launch: &Launch) -> Result<(OwnedFd, Recursive), StepFailed> {
    let (source, destination) = (entry.source().as_deref().unwrap_or(Path::new("")), entry.destination());
    let deep = entry.options().iter().flatten().any(|option| option == "rbind");
    let recursive = if deep { Recursive::Yes } else { Recursive::No };
    let mounting = || format!("mounting {} on {}", source.display(), destination.display());
    let whole = open(source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).doing(mounting())?;
    let tree = match subpath(launch, destination) {
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
fn fill_volumes(root: BorrowedFd<'_>, launch: &Launch) -> Result<(), StepFailed> {
    for entry in launch.oci.mounts().iter().flatten() {
        let destination = entry.destination();
        if !launch.copy_up.iter().any(|path| Path::new(path) == destination) {
            continue;
        }
        let doing = || format!("copying the image's {} into the new volume", destination.display());
        let inside = destination.strip_prefix("/").unwrap_or(destination);
        let image = match sys::open_beneath(root, inside, libc::O_PATH, 0, Beneath::AsRoot) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            other => other.doing(doing())?,
        };
        let (volume, _) = bind_tree(entry, launch)?;
        super::copy_up::copy(image.as_fd(), volume.as_fd()).doing(doing())?;
    }
    Ok(())
}

/// The part of what is mounted there that is to be mounted, where it is not all. No symlink leads out of the whole.
fn subpath<'a>(launch: &'a Launch, destination: &Path) -> Option<&'a Path> {
    launch.subpaths.get(destination.to_str()?).map(PathBuf::as_path)
}

fn finding(subpath: &Path, destination: &Path) -> String {
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

/// Makes a device of the host in the container.
fn make_device(root: BorrowedFd<'_>, device: &LinuxDevice) -> Result<(), StepFailed> {
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

/// Attaches what an entry says. Returns the mount, where it is one.
fn attach_mount(root: BorrowedFd<'_>, entry: &Mount, launch: &Launch, remote: &Shared) -> Result<Option<OwnedFd>, StepFailed> {
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
        let (tree, recursive) = bind_tree(entry, launch)?;
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
    if bind {
        sys::set_mount_attributes(mounted.as_fd(), attributes, propagation, recursive).doing(doing())?;
    }
    sys::attach(mounted.as_fd(), target.as_fd()).doing(doing())?;
    Ok(Some(mounted))
}

/// A file system that is attached nowhere yet; `options` are its own.
fn file_system(entry: &Mount, fstype: &str, options: &[String], attributes: u64) -> io::Result<OwnedFd> {
    let pairs: Vec<(&str, Option<&str>)> =
        options.iter().map(|o| o.split_once('=').map_or((o.as_str(), None), |(k, v)| (k, Some(v)))).collect();
    let source = entry.source().as_deref().and_then(Path::to_str).unwrap_or(fstype);
    sys::new_mount(fstype, source, &pairs, attributes)
}

/// The file systems of other machines, attached nowhere yet. The kernel reaches them by the network of who makes them: that is
/// the host's, as with Docker, so this comes before the container's own is joined.
pub fn remote(launch: &Launch) -> Result<Shared, StepFailed> {
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

fn is_directory(fd: BorrowedFd<'_>) -> nix::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

/// Mount options into attributes, propagation, and what belongs to the file system itself.
fn split_options(options: &[String]) -> (u64, u64, Vec<String>) {
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
        super::cgroup::Hierarchy::V2(_) => {
            let mounted = sys::new_mount("cgroup2", "cgroup", &[], attributes).doing("mounting cgroup2")?;
            sys::attach(mounted.as_fd(), target.as_fd()).doing("mounting /sys/fs/cgroup")
        }
        super::cgroup::Hierarchy::V1(mounts) => {
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

/// Device nodes and links in the new /dev. Returns its null device.
fn populate_dev(root: BorrowedFd<'_>) -> Result<OwnedFd, StepFailed> {
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
fn open_terminal(root: BorrowedFd<'_>) -> Result<(OwnedFd, OwnedFd), StepFailed> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = sys::open_beneath(root, Path::new("dev/pts/ptmx"), flags, 0, Beneath::NoSymlinks).doing("opening a terminal")?;
    let peer = sys::pty_peer(master.as_fd()).doing("opening the terminal's other end")?;
    let console = open_target(root, Path::new("/dev/console"), Target::File)?;
    let tree = sys::open_tree(peer.as_fd(), Path::new(""), Recursive::No).doing("mounting /dev/console")?;
    sys::attach(tree.as_fd(), console.as_fd()).doing("mounting /dev/console")?;
    Ok((master, peer))
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
pub fn enter_directory(path: &str) -> Result<(), StepFailed> {
    let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).doing("opening the root")?;
    // No magic link: with another's processes in sight, /proc/1/root is not the container's own root.
    let directory = open_or_make(root.as_fd(), Path::new(path), Target::Directory, Beneath::AsRoot)?;
    nix::unistd::fchdir(directory).doing(format_args!("entering the working directory {path}"))?;
    // A working directory outside of the root shows as an unreachable path (CVE-2024-21626).
    let here = nix::unistd::getcwd().doing("finding the working directory")?;
    if !here.is_absolute() {
        return Err(StepFailed::because(format!("entering the working directory {path}"), "it lies outside of the container"));
    }
    Ok(())
}
