//! Process 1 of a container with `init: true`: passes signals on to its child and reaps whatever is orphaned.

use super::sys;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Runs until the child has ended, and ends as it did.
pub fn run(child: i32) -> ! {
    let signals = SigSet::all();
    let _ = signals.thread_block();
    let child = Pid::from_raw(child);
    loop {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == child => sys::exit_now(code),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => sys::exit_now(128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(signal) => {
                let _ = kill(child, signal);
            }
        }
    }
}
