//! Projects of ext4 and XFS: directories whose content is counted, and limited, together (`quotactl_fd(2)`, Linux 5.14).

use super::check;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

const PRJQUOTA: i32 = 2;
const XGETQSTAT: i32 = (('X' as i32) << 8) + 5;
const PROJECTS_ENFORCED: u16 = 1 << 5;
const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;
const FS_XFLAG_IMMUTABLE: u32 = 0x8;
const FS_XFLAG_APPEND: u32 = 0x10;

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct FsXattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// The beginning of `struct fs_quota_stat` of linux/dqblk_xfs.h, with room for the rest.
#[repr(C)]
struct QuotaStatus {
    version: i8,
    flags: u16,
    rest: [u64; 16],
}

/// Limits and usage of a project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaProject {
    /// KiB; 0 is without limit.
    pub limit: u64,
    /// Bytes.
    pub used: u64,
    pub inodes: u64,
}

/// `quotactl_fd` about projects, on the file system of `fd`.
///
/// # Safety
/// `address` is valid for what the command reads or writes.
unsafe fn quotactl<T>(fd: BorrowedFd<'_>, command: i32, project: u32, address: *mut T) -> io::Result<()> {
    let command = (command << 8) | PRJQUOTA;
    // SAFETY: the caller's; the descriptor is borrowed for the call.
    check(unsafe { libc::syscall(libc::SYS_quotactl_fd, fd.as_raw_fd(), command, project, address) }).map(drop)
}

/// Whether the file system holds projects to their limits.
///
/// # Errors
/// ENOSYS where it has no quotas, or the kernel no `quotactl_fd`.
pub fn enforced(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut status = QuotaStatus { version: 1, flags: 0, rest: [0; 16] };
    // SAFETY: the status is larger than the kernel's struct, which it writes.
    unsafe { quotactl(fd, XGETQSTAT, 0, &raw mut status) }?;
    Ok(status.flags & PROJECTS_ENFORCED != 0)
}

/// Limits and usage of a project.
///
/// # Errors
/// ENOENT for one that the file system has never heard of (XFS).
pub fn project(fd: BorrowedFd<'_>, project: u32) -> io::Result<QuotaProject> {
    // SAFETY: dqblk is plain integers, for which all zeroes is valid.
    let mut block: libc::dqblk = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: Q_GETQUOTA writes a dqblk.
    unsafe { quotactl(fd, libc::Q_GETQUOTA, project, &raw mut block) }?;
    Ok(QuotaProject { limit: block.dqb_bhardlimit, used: block.dqb_curspace, inodes: block.dqb_curinodes })
}

/// Limits a project to so many KiB; 0 ends its limit.
///
/// # Errors
/// The kernel's: ESRCH where the file system keeps no projects.
pub fn set_limit(fd: BorrowedFd<'_>, project: u32, kib: u64) -> io::Result<()> {
    // SAFETY: dqblk is plain integers, for which all zeroes is valid.
    let mut block: libc::dqblk = unsafe { MaybeUninit::zeroed().assume_init() };
    (block.dqb_bhardlimit, block.dqb_bsoftlimit, block.dqb_valid) = (kib, kib, libc::QIF_BLIMITS);
    // SAFETY: Q_SETQUOTA reads a dqblk.
    unsafe { quotactl(fd, libc::Q_SETQUOTA, project, &raw mut block) }
}

/// The project of a directory; 0 is none.
///
/// # Errors
/// ENOTTY where the file system knows no projects.
pub fn project_of(directory: BorrowedFd<'_>) -> io::Result<u32> {
    attributes(directory).map(|attributes| attributes.project)
}

/// Gives a directory, and what will be made in it, a project.
///
/// # Errors
/// EOPNOTSUPP where the file system knows no projects.
pub fn set_project(directory: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let old = attributes(directory)?;
    let new = FsXattr { project, flags: old.flags | FS_XFLAG_PROJINHERIT, ..old };
    // SAFETY: the request reads a struct fsxattr, which outlives the call.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const new) }.into()).map(drop)
}

/// Takes from a file or a directory that it is immutable or can be appended to alone.
///
/// # Errors
/// The kernel's.
pub fn allow_changes(file: BorrowedFd<'_>) -> io::Result<()> {
    let old = attributes(file)?;
    let new = FsXattr { flags: old.flags & !(FS_XFLAG_IMMUTABLE | FS_XFLAG_APPEND), ..old };
    if new.flags == old.flags {
        return Ok(());
    }
    // SAFETY: the request reads a struct fsxattr, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const new) }.into()).map(drop)
}

fn attributes(directory: BorrowedFd<'_>) -> io::Result<FsXattr> {
    let mut attributes = FsXattr::default();
    // SAFETY: the request writes a struct fsxattr, which outlives the call.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut attributes) }.into())?;
    Ok(attributes)
}
