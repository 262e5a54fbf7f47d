//! Limits, scheduling and the umask that an engine inherits from its starter, and would hand on to every container.
//!
//! An engine that a command has started in the background serves all users and all projects: it has what a service manager
//! would give it, whatever the command's shell has. One that a service manager or a person runs in the foreground keeps its
//! limits and its scheduling: whoever runs it has chosen them.

use crate::sys;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use std::fs;

/// Limits as systemd and Docker's unit give them: soft, hard. The others are the kernel's.
const LIMITS: [(Resource, u64, u64); 15] = [
    (Resource::RLIMIT_AS, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_CPU, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_DATA, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_FSIZE, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_LOCKS, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_MEMLOCK, 8 << 20, 8 << 20),
    (Resource::RLIMIT_MSGQUEUE, 819_200, 819_200),
    (Resource::RLIMIT_NOFILE, 1024, 524_288),
    (Resource::RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_RSS, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_RTTIME, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_STACK, 8 << 20, RLIM_INFINITY),
    (Resource::RLIMIT_NICE, 0, 0),
    (Resource::RLIMIT_RTPRIO, 0, 0),
];

/// Resets the starter's limits and scheduling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starters {
    /// Those of a service manager or a person, or of the engine before this one.
    Kept,
    /// Those of some command's shell.
    Forgotten,
}

/// Process settings of every engine, however it was started. To be called before it has threads.
pub(super) fn prepare() {
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    let _ = sys::reset_signals_of_service();
}

/// Forgets the limits, the scheduling and the rest of the process that started this one in the background. Before it has threads.
pub(super) fn forget_starter() {
    // The kernel's own, of the machine's memory.
    let threads = fs::read_to_string("/proc/sys/kernel/threads-max").ok().and_then(|text| text.trim().parse::<u64>().ok());
    let signals = threads.map(|threads| (Resource::RLIMIT_SIGPENDING, threads / 2, threads / 2));
    for (resource, soft, hard) in LIMITS.into_iter().chain(signals) {
        // Only a process with CAP_SYS_RESOURCE raises its hard limit.
        if setrlimit(resource, soft, hard).is_err() {
            let (_, now) = getrlimit(resource).unwrap_or((soft, hard));
            let _ = setrlimit(resource, soft.min(now), now);
        }
    }
    sys::reset_scheduling();
    sys::reset_personality();
    let _ = fs::write("/proc/self/oom_score_adj", "0");
}

/// Why an engine that this process starts would be none for everybody: nothing takes no_new_privs away from a process and its
/// children again. Where the whole machine, or the container in which wharf runs, has it, there is no other.
pub fn cannot_start() -> Option<&'static str> {
    let has = |process: &str| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("NoNewPrivs:").is_some_and(|value| value.trim() == "1"))
    };
    (has("self") && !has("1")).then_some(
        "this process has no_new_privs, and so would every container: sudo and su would not work in them; run it outside of `setpriv --no-new-privs` or the unit with NoNewPrivileges=, or start the engine there first (`wharf engine`, dist/wharf.service)",
    )
}
