//! Processes: how they are started, waited for and signalled.

use super::{check, cstr, owned};
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The result of `fork`.
pub enum Forked {
    Child,
    Parent(i32),
}

/// `clone(2)` without a new stack: like fork, into new namespaces. `flags` are CLONE_NEW* and CLONE_PARENT.
///
/// # Errors
/// The kernel's: EPERM without privilege, EAGAIN or ENOSPC at a limit.
pub fn fork_into(flags: u64) -> io::Result<Forked> {
    // SAFETY: with a null stack the child runs on a copy of the caller's, as after fork. The callers of this module are
    // single-threaded processes (monitors), so no lock can be held by a thread that the child does not have.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD as u64, 0, 0, 0, 0) })?;
    Ok(if pid == 0 { Forked::Child } else { Forked::Parent(pid as i32) })
}

/// Leaves the process without running destructors or exit handlers, as a forked child must.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// `execve(2)`. Returns only on failure.
pub fn exec(path: &Path, args: &[CString], env: &[CString]) -> io::Error {
    let Ok(path) = cstr(path.as_os_str().as_bytes()) else { return io::Error::from_raw_os_error(libc::EINVAL) };
    let pointers = |list: &[CString]| list.iter().map(|t| t.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with null and point to NUL-terminated strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Starts a program in a session of its own, with descriptor `3 + i` being `fds[i]` and standard streams on /dev/null.
/// Uses posix_spawn, which does not copy the address space of a large parent.
///
/// # Errors
/// The kernel's.
pub fn spawn(program: &CStr, args: &[CString], fds: &[BorrowedFd<'_>]) -> io::Result<i32> {
    // dup2 onto 3.. must not meet a source that lies there: move the sources out of the way first.
    let floor = 3 + fds.len() as i32 + 8;
    let sources: Vec<OwnedFd> = fds
        .iter()
        // SAFETY: F_DUPFD_CLOEXEC returns a new descriptor or -1.
        .map(|fd| owned(libc::c_long::from(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, floor) })))
        .collect::<io::Result<_>>()?;
    let argv: Vec<_> = args.iter().map(|a| a.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect();
    let envp: [*mut libc::c_char; 1] = [std::ptr::null_mut()];
    let mut actions = MaybeUninit::uninit();
    let mut attributes = MaybeUninit::uninit();
    let mut pid = 0;
    // SAFETY: actions and attributes are initialised before use and destroyed after; argv and envp end with null and point
    // to NUL-terminated strings; all outlive the call.
    let result = unsafe {
        libc::posix_spawn_file_actions_init(actions.as_mut_ptr());
        libc::posix_spawnattr_init(attributes.as_mut_ptr());
        for fd in 0..3 {
            libc::posix_spawn_file_actions_addopen(actions.as_mut_ptr(), fd, c"/dev/null".as_ptr(), libc::O_RDWR, 0);
        }
        for (i, fd) in sources.iter().enumerate() {
            libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), fd.as_raw_fd(), 3 + i as i32);
        }
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::posix_spawnattr_setsigmask(attributes.as_mut_ptr(), none.as_ptr());
        let mut all = MaybeUninit::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::posix_spawnattr_setsigdefault(attributes.as_mut_ptr(), all.as_ptr());
        const POSIX_SPAWN_SETSID: i16 = 0x80;
        let flags = POSIX_SPAWN_SETSID | (libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF) as i16;
        libc::posix_spawnattr_setflags(attributes.as_mut_ptr(), flags);
        let result = libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            actions.as_ptr(),
            attributes.as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
        );
        libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr());
        libc::posix_spawnattr_destroy(attributes.as_mut_ptr());
        result
    };
    if result == 0 { Ok(pid) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// Has a command ignore SIGINT and SIGQUIT, which a terminal sends to it and to this process together.
pub fn ignore_interrupts(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let ignore = || {
        for signal in [libc::SIGINT, libc::SIGQUIT] {
            // SAFETY: signal is async-signal-safe (signal-safety(7)), as what runs between fork and exec has to be.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(ignore) };
}

/// A descriptor that this process was given at its start. May be called once for each number.
pub fn inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl tells whether the number is open; the caller has just been executed, so nobody else owns it.
    unsafe {
        if libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) < 0 {
            return None;
        }
        Some(OwnedFd::from_raw_fd(fd))
    }
}

/// Joins all of a process's namespaces named by `flags` in one call (Linux 5.8).
///
/// # Errors
/// The kernel's; ESRCH when the process is gone.
pub fn join_namespaces(pidfd: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: plain integers and a borrowed descriptor.
    check(unsafe { libc::syscall(libc::SYS_setns, pidfd.as_raw_fd(), flags) }).map(drop)
}

/// # Errors
/// ESRCH when there is no such process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Sends a signal to the process of a pidfd; false when it is gone.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> bool {
    // SAFETY: a null siginfo asks for the default one.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<u8>(), 0) == 0 }
}

/// Restores the default action of every signal and unblocks all: what a container's first process expects.
pub fn reset_signals() {
    // SAFETY: SIG_DFL is valid for every signal; failures (SIGKILL, SIGSTOP) are of no consequence.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Ends the process as SIGPIPE does by default.
pub fn end_by_sigpipe() -> ! {
    reset_signals();
    // The signal ends the process before `raise` returns.
    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGPIPE);
    std::process::exit(128 + libc::SIGPIPE)
}

/// A child that has ended, and its exit code as a shell has it: 128 and the signal's number for one that a signal has ended.
pub struct Ended {
    pub pid: i32,
    pub code: i32,
}

/// Reaps a child that has ended, if one has. nix has no value for a real-time signal, and reports a child that one has ended as
/// an error.
pub fn reap() -> Option<Ended> {
    wait_for_child(-1, libc::WNOHANG)
}

/// Whether a process is this one's child, and was not reaped yet.
pub fn is_child(pid: i32) -> bool {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(nix::unistd::Pid::from_raw(pid)), flags).is_ok()
}

/// Waits for a child's end; `None` when there is no such child.
pub fn wait_for(pid: i32) -> Option<i32> {
    wait_for_child(pid, 0).map(|ended| ended.code)
}

fn wait_for_child(pid: i32, options: i32) -> Option<Ended> {
    loop {
        let mut status = 0;
        // SAFETY: status outlives the call.
        match unsafe { libc::waitpid(pid, &raw mut status, options) } {
            0 => return None,
            pid if pid > 0 && libc::WIFEXITED(status) => return Some(Ended { pid, code: libc::WEXITSTATUS(status) }),
            pid if pid > 0 && libc::WIFSIGNALED(status) => return Some(Ended { pid, code: 128 + libc::WTERMSIG(status) }),
            // A child that was stopped, or goes on.
            pid if pid > 0 => {}
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
}

/// Blocks every signal of this thread, the real-time ones as well.
pub fn block_signals() {
    // SAFETY: the set is initialised before it is used.
    unsafe {
        let mut all = MaybeUninit::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut());
    }
}

/// Waits for a signal that is blocked and gives its number; `None` where the waiting was interrupted.
pub fn wait_for_signal() -> Option<i32> {
    // SAFETY: the set is initialised before it is used; a null siginfo is not filled in.
    let signal = unsafe {
        let mut all = MaybeUninit::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::sigwaitinfo(all.as_ptr(), std::ptr::null_mut())
    };
    (signal > 0).then_some(signal)
}

/// `kill(2)`, for a child that is not reaped yet: its id cannot be another's.
pub fn signal_child(pid: i32, signal: i32) {
    // SAFETY: plain integers.
    unsafe { libc::kill(pid, signal) };
}

/// Makes this process's group the foreground group of its terminal. The kernel would stop a background process that does so by
/// SIGTTOU, but for one that blocks the signal.
pub fn take_foreground(terminal: BorrowedFd<'_>) {
    // SAFETY: both sets are initialised before they are used; the others are plain integers.
    unsafe {
        let (mut set, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTTOU);
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr());
        libc::tcsetpgrp(terminal.as_raw_fd(), libc::getpgrp());
        libc::sigprocmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
    }
}

/// Names this process in `ps` and `top`, which would show the file that was executed: `exe`, or a descriptor's number.
pub fn set_process_name() {
    // SAFETY: the kernel copies at most 16 bytes of a text that ends with NUL.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"wharf".as_ptr(), 0, 0, 0) };
}
