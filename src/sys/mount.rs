//! Mounts by descriptor: copies, attributes, new file systems.

use super::{check, cstr, owned};
use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: u32 = 0x8000;

/// A copy of the mount at `path` that is attached nowhere yet.
///
/// # Errors
/// The kernel's.
pub fn open_tree(dir: BorrowedFd<'_>, path: &Path, recursive: Recursive) -> io::Result<OwnedFd> {
    let path = cstr(path.as_os_str().as_bytes())?;
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | libc::AT_EMPTY_PATH as u32;
    if recursive == Recursive::Yes {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: the path is NUL-terminated and outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// Whether mounts below are meant as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recursive {
    Yes,
    No,
}

/// Attaches a detached mount on what `target` is open on: no path is looked up again, so none can be swapped.
///
/// # Errors
/// The kernel's.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both paths are empty NUL-terminated strings; the descriptors are borrowed for the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// Whether something is mounted on what has a name in a directory: in the mount namespace of that directory, which need not be the
/// caller's. rename(2) and unlink(2) of another namespace's mount point succeed, and take the mount away there.
///
/// # Errors
/// The kernel's.
pub fn is_mount_root(directory: BorrowedFd<'_>, name: &Path) -> io::Result<bool> {
    let name = cstr(name.as_os_str().as_bytes())?;
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    // SAFETY: the name is NUL-terminated and outlives the call, as does the buffer.
    check(unsafe { libc::statx(directory.as_raw_fd(), name.as_ptr(), flags, 0, found.as_mut_ptr()) }.into())?;
    // SAFETY: the kernel has filled it, and all zeroes are valid for it.
    let found = unsafe { found.assume_init() };
    Ok(found.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0)
}

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

pub const ATTR_RDONLY: u64 = 0x1;
pub const ATTR_NOSUID: u64 = 0x2;
pub const ATTR_NODEV: u64 = 0x4;
pub const ATTR_NOEXEC: u64 = 0x8;

/// Sets attributes (ATTR_*) and, where not 0, the propagation (MS_*) of the mount that a descriptor is open on.
///
/// # Errors
/// The kernel's.
pub fn set_mount_attributes(mount: BorrowedFd<'_>, set: u64, propagation: u64, recursive: Recursive) -> io::Result<()> {
    change_mount(mount, MountAttr { set, propagation, ..MountAttr::default() }, recursive)
}

/// Maps the owners of what a mount shows by a user namespace (MOUNT_ATTR_IDMAP). The mount is attached nowhere yet.
///
/// # Errors
/// The kernel's: EINVAL for a file system that cannot, EPERM for a mount that is mapped already.
pub fn map_ids(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>, recursive: Recursive) -> io::Result<()> {
    const ATTR_IDMAP: u64 = 0x0010_0000;
    let userns = u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
    change_mount(mount, MountAttr { set: ATTR_IDMAP, userns, ..MountAttr::default() }, recursive)
}

/// Clears attributes (ATTR_*) of the mount that a descriptor is open on.
///
/// # Errors
/// The kernel's.
pub fn clear_mount_attributes(mount: BorrowedFd<'_>, clear: u64) -> io::Result<()> {
    change_mount(mount, MountAttr { clear, ..MountAttr::default() }, Recursive::No)
}

fn change_mount(mount: BorrowedFd<'_>, attr: MountAttr, recursive: Recursive) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH as u32 | if recursive == Recursive::Yes { AT_RECURSIVE } else { 0 };
    // SAFETY: attr is the kernel's struct mount_attr and valid for the size given.
    check(unsafe {
        libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, size_of::<MountAttr>())
    })
    .map(drop)
}

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSCONFIG_CMD_RECONFIGURE: u32 = 7;

/// Makes a file system that is attached nowhere yet: `fsopen`, options, `fsmount`.
///
/// # Errors
/// The kernel's, of the step that failed.
pub fn new_mount(fstype: &str, source: &str, options: &[(&str, Option<&str>)], attributes: u64) -> io::Result<OwnedFd> {
    let fstype = cstr(fstype)?;
    // SAFETY: the name is NUL-terminated and outlives the call.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), 1) })?;
    let config = |command: u32, key: Option<&str>, value: Option<&str>| -> io::Result<()> {
        let key = key.map(cstr).transpose()?;
        let value = value.map(cstr).transpose()?;
        let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |t| t.as_ptr());
        // SAFETY: key and value are null or NUL-terminated, and outlive the call.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, pointer(&key), pointer(&value), 0) })
            .map(drop)
    };
    config(FSCONFIG_SET_STRING, Some("source"), Some(source))?;
    if attributes & ATTR_RDONLY != 0 {
        config(FSCONFIG_SET_FLAG, Some("ro"), None)?;
    }
    for (key, value) in options {
        config(if value.is_some() { FSCONFIG_SET_STRING } else { FSCONFIG_SET_FLAG }, Some(key), *value)?;
    }
    config(FSCONFIG_CMD_CREATE, None, None)?;
    // SAFETY: plain integers.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, attributes) })
}

/// Has a whole file system take writes again, whose mount a descriptor is open on (`fspick`). Its other mounts stay as they are.
///
/// # Errors
/// The kernel's, such as EROFS of a disk that cannot be written.
pub fn make_writable(mount: BorrowedFd<'_>) -> io::Result<()> {
    const FSPICK_CLOEXEC: u32 = 1;
    const FSPICK_EMPTY_PATH: u32 = 8;
    let flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH;
    // SAFETY: the path is NUL-terminated and static.
    let context = owned(unsafe { libc::syscall(libc::SYS_fspick, mount.as_raw_fd(), c"".as_ptr(), flags) })?;
    for (command, key) in [(FSCONFIG_SET_FLAG, c"rw".as_ptr()), (FSCONFIG_CMD_RECONFIGURE, std::ptr::null())] {
        let value: *const libc::c_char = std::ptr::null();
        // SAFETY: the key is null or NUL-terminated and static; there is no value.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) })?;
    }
    Ok(())
}
