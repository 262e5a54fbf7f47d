//! Attributes that a process inherits from its starter, and hands on to its children, beside its limits and its environment.

use super::check;
use std::io;
use std::mem::{MaybeUninit, size_of};

/// Gives this process the scheduling of a process that nobody has changed: policy, nice value, priority of its disk accesses,
/// every processor and every memory node that its control group allows. What the kernel refuses stays. Threads that run
/// already keep theirs.
pub fn reset_scheduling() {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: plain integers, a parameter of zeroes and a set of processors, each of which outlives its call; a null node mask
    // is what MPOL_DEFAULT wants.
    unsafe {
        let parameter: libc::sched_param = MaybeUninit::zeroed().assume_init();
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameter);
        libc::setpriority(libc::PRIO_PROCESS, 0, 0);
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0);
        let processors = [u8::MAX; size_of::<libc::cpu_set_t>()];
        libc::sched_setaffinity(0, processors.len(), processors.as_ptr().cast());
        libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_DEFAULT, std::ptr::null::<libc::c_ulong>(), 0);
    }
}

/// Has programs run as this machine's own (`setarch`), with the default timer slack and transparent huge pages.
pub fn reset_personality() {
    const PER_LINUX: libc::c_ulong = 0;
    // SAFETY: plain integers.
    unsafe {
        libc::personality(PER_LINUX);
        libc::prctl(libc::PR_SET_THP_DISABLE, 0, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECUREBITS, 0, 0, 0, 0);
    }
}

/// Gives every signal its default action but SIGPIPE, which Rust's programs ignore, and unblocks all: a shell may have had some
/// ignored (`nohup`), and SIGCHLD would then reap children unseen.
pub fn reset_signals_of_service() -> io::Result<()> {
    // SAFETY: SIG_DFL and SIG_IGN are valid for every signal; the set is initialised before it is used.
    unsafe {
        // The handlers of Rust's guard pages are its own, and no shell can have set them.
        for signal in (1..=64).filter(|signal| !matches!(*signal, libc::SIGPIPE | libc::SIGSEGV | libc::SIGBUS)) {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        check(libc::c_long::from(libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()))).map(drop)
    }
}
