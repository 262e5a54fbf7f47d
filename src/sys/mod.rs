//! The kernel calls of the runtime that neither std nor nix wraps. All `unsafe` of this room is in this file and below it.

pub mod attributes;
pub mod beneath;
pub mod blocking;
pub mod disk_usage;
pub mod foreign_disk;
mod inherited;
mod malloc;
mod mount;
pub mod node;
mod process;
pub mod procfs;
pub mod quota;
pub mod regular;
pub mod removal;
pub mod shared;
pub mod signals;
pub mod socket;
pub mod userns;

pub use inherited::{reset_personality, reset_scheduling, reset_signals_of_service};
pub use malloc::{few_malloc_arenas, trim_memory};
pub use mount::*;
pub use process::*;

use nix::errno::Errno;
use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn cstr(text: impl AsRef<[u8]>) -> io::Result<CString> {
    CString::new(text.as_ref()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the text holds a NUL byte"))
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)? as RawFd;
    // SAFETY: the kernel has just returned this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// How `openat2` resolves a path.
#[derive(Clone, Copy)]
pub enum Beneath {
    /// The directory is the root: absolute paths and symlinks, and `..` at the top, stay inside (RESOLVE_IN_ROOT).
    AsRoot,
    /// No component may be a symlink (RESOLVE_NO_SYMLINKS) and nothing may leave the directory.
    NoSymlinks,
    /// As `NoSymlinks`, and nothing that is mounted on the way is entered (RESOLVE_NO_XDEV).
    OneMount,
}

/// `openat2(2)`. Magic links of procfs are never followed; O_CLOEXEC is always set.
///
/// # Errors
/// The kernel's; ELOOP for a forbidden link, EXDEV for a way out or a mount that is not to be entered.
pub fn open_beneath(dir: BorrowedFd<'_>, path: &Path, flags: i32, mode: u32, how: Beneath) -> io::Result<OwnedFd> {
    let path = cstr(if path.as_os_str().is_empty() { b"." } else { path.as_os_str().as_bytes() })?;
    // SAFETY: open_how is plain integers, for which all zeroes is valid.
    let mut open_how: libc::open_how = unsafe { MaybeUninit::zeroed().assume_init() };
    open_how.flags = (flags | libc::O_CLOEXEC) as u64;
    open_how.mode = u64::from(mode);
    open_how.resolve = libc::RESOLVE_NO_MAGICLINKS
        | match how {
            Beneath::AsRoot => libc::RESOLVE_IN_ROOT,
            Beneath::NoSymlinks => libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_BENEATH,
            Beneath::OneMount => libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_BENEATH | libc::RESOLVE_NO_XDEV,
        };
    loop {
        // SAFETY: the path is NUL-terminated and open_how is valid for the size given; both outlive the call.
        let result = unsafe {
            libc::syscall(libc::SYS_openat2, dir.as_raw_fd(), path.as_ptr(), &raw const open_how, size_of::<libc::open_how>())
        };
        match owned(result) {
            // EAGAIN: a rename raced with the resolution; the kernel asks to try again.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
            other => return other,
        }
    }
}

/// Marks every descriptor from `first` on close-on-exec, so that none can leak into a container.
///
/// # Errors
/// The kernel's.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: plain integers; no descriptor is closed.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// The kernel's.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: callers have just been executed or forked and own every descriptor of the process.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Closes every descriptor of this process but the standard streams and one, which gets another number. Whoever owned the others must
/// not use or drop them: the caller is a forked child that leaves by [`exit_now`].
///
/// # Errors
/// The kernel's.
pub fn keep_only(kept: &OwnedFd) -> io::Result<OwnedFd> {
    const NUMBER: RawFd = 3;
    // SAFETY: the number is given up by whoever had it, as the caller has agreed.
    let kept = unsafe {
        if kept.as_raw_fd() != NUMBER {
            check(libc::c_long::from(libc::dup3(kept.as_raw_fd(), NUMBER, libc::O_CLOEXEC)))?;
        }
        OwnedFd::from_raw_fd(NUMBER)
    };
    close_from(NUMBER as u32 + 1)?;
    Ok(kept)
}

/// `prctl(2)` with integer arguments.
///
/// # Errors
/// The kernel's.
pub fn prctl(option: i32, a: u64, b: u64) -> io::Result<()> {
    // SAFETY: the options used (dumpable, keepcaps, no_new_privs, capbset, ambient, pdeathsig) take integers alone.
    check(libc::c_long::from(unsafe { libc::prctl(option, a, b, 0u64, 0u64) })).map(drop)
}

/// Whether a capability is in this process's bounding set; `None` where the kernel has none of that number. Asked of the kernel
/// and not read in /proc, which may be a container's.
pub fn bounding_capability(number: u32) -> Option<bool> {
    // SAFETY: PR_CAPBSET_READ takes integers alone.
    match unsafe { libc::prctl(libc::PR_CAPBSET_READ, u64::from(number), 0u64, 0u64, 0u64) } {
        0 => Some(false),
        1.. => Some(true),
        _ => None,
    }
}

/// The three capability sets of this process, as bit masks.
#[derive(Clone, Copy)]
pub struct CapabilitySets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

/// `capset(2)` of this thread.
///
/// # Errors
/// EPERM when a capability is added that the thread does not have.
pub fn set_capabilities(sets: CapabilitySets) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let low = |mask: u64| mask as u32;
    let high = |mask: u64| (mask >> 32) as u32;
    let words = [
        low(sets.effective),
        low(sets.permitted),
        low(sets.inheritable),
        high(sets.effective),
        high(sets.permitted),
        high(sets.inheritable),
    ];
    // SAFETY: header and words are the kernel's cap_user_header and two cap_user_data, in its layout.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), words.as_ptr()) }).map(drop)
}

/// One classic BPF instruction, in the kernel's layout.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BpfInstruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// Installs a seccomp filter on this thread, for good.
///
/// # Errors
/// EACCES without CAP_SYS_ADMIN or no_new_privs, EINVAL for a program that the kernel refuses.
pub fn install_seccomp(program: &[BpfInstruction]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const BpfInstruction,
    }
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = Program { len, filter: program.as_ptr() };
    // SAFETY: program points to len instructions that outlive the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) }).map(drop)
}

/// Makes a terminal the controlling terminal of this session (TIOCSCTTY).
///
/// Bytes that were sent by a unix socket and that its peer has not read yet (SIOCOUTQ).
///
/// # Errors
/// The kernel's.
pub fn unread_by_peer(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes an int into a variable of that type, which outlives the call.
    check(libc::c_long::from(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) }))?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// # Errors
/// The kernel's.
pub fn set_controlling_terminal(tty: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(libc::c_long::from(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSCTTY, 0) })).map(drop)
}

/// Unlocks a pty and opens its other end by descriptor (TIOCGPTPEER), so that no path in the container is trusted.
///
/// # Errors
/// The kernel's.
pub fn pty_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let zero: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int; TIOCGPTPEER takes open flags and returns a descriptor.
    unsafe {
        check(libc::c_long::from(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const zero)))?;
        owned(libc::c_long::from(libc::ioctl(
            master.as_raw_fd(),
            libc::TIOCGPTPEER,
            libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC,
        )))
    }
}

/// Sets a terminal's size in characters.
///
/// # Errors
/// The kernel's.
pub fn set_window_size(tty: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize.
    check(libc::c_long::from(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })).map(drop)
}

/// The size of the terminal that a descriptor is open on: rows and columns.
pub fn window_size(tty: BorrowedFd<'_>) -> Option<(u16, u16)> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: TIOCGWINSZ fills a winsize; all zeroes is a valid one.
    let size = unsafe {
        if libc::ioctl(tty.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) < 0 {
            return None;
        }
        size.assume_init()
    };
    (size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}

/// The supplementary groups and ids of the process, in the order in which they must be set.
///
/// # Errors
/// The kernel's.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // The raw calls: glibc's wrappers would signal threads that a forked child does not have.
    // SAFETY: groups is valid for its length; the others take integers.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Sets the size of a pipe's buffer, in bytes; a refusal keeps the kernel's default.
pub fn set_pipe_size(pipe: impl AsFd, bytes: i32) {
    // SAFETY: F_SETPIPE_SZ takes an integer.
    unsafe { libc::fcntl(pipe.as_fd().as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
}

/// Loads an eBPF program of type CGROUP_DEVICE and attaches it to a cgroup v2 directory.
///
/// # Errors
/// The kernel's; EPERM or EINVAL where eBPF is not available.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: &[u64]) -> io::Result<()> {
    const BPF_PROG_LOAD: i32 = 5;
    const BPF_PROG_ATTACH: i32 = 8;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const BPF_CGROUP_DEVICE: u32 = 6;
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
    }
    #[repr(C)]
    struct ProgAttach {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
    }
    let license = c"Apache-2.0";
    let load = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the structures follow the kernel's union bpf_attr, and what they point to outlives the calls.
    unsafe {
        let fd = owned(libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()))?;
        let attach = ProgAttach {
            target_fd: cgroup.as_raw_fd() as u32,
            attach_bpf_fd: fd.as_raw_fd() as u32,
            attach_type: BPF_CGROUP_DEVICE,
            attach_flags: 0,
        };
        check(libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of::<ProgAttach>())).map(drop)
    }
}

/// The errno of an error, for messages that decide by it.
pub fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// A descriptor that the kernel has just put into this process by SCM_RIGHTS.
pub fn received(fd: RawFd) -> OwnedFd {
    // SAFETY: recvmsg made this descriptor for us alone, and the caller takes it once from the control message.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Leaves the session keyring that was inherited from the host, so that its keys are not the container's.
/// Kernels without keyrings have nothing to leave.
pub fn new_session_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: a null name asks for a new anonymous keyring.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
}

/// Asks ext4 to spread what is made in a directory over the disk (`chattr +T`, the top of a hierarchy for its allocator).
/// Else the directories of containers lie in one group of blocks, where making one means walking past all that were deleted
/// there within the last seconds. Other file systems refuse, which is as well.
pub fn spread_directories(directory: impl AsFd) {
    const FS_IOC_GETFLAGS: libc::c_ulong = 0x8008_6601;
    const FS_IOC_SETFLAGS: libc::c_ulong = 0x4008_6602;
    const FS_TOPDIR_FL: libc::c_int = 0x0002_0000;
    let fd = directory.as_fd().as_raw_fd();
    let mut flags: libc::c_int = 0;
    // SAFETY: both calls take a pointer to an int, which outlives them.
    unsafe {
        if libc::ioctl(fd, FS_IOC_GETFLAGS, &raw mut flags) == 0 {
            flags |= FS_TOPDIR_FL;
            libc::ioctl(fd, FS_IOC_SETFLAGS, &raw const flags);
        }
    }
}
