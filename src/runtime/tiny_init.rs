//! Process 1 of a container with `init: true`: passes signals on to its child and reaps whatever is orphaned.

use crate::sys;

/// Runs until the child has ended, and ends as it did.
pub fn run(child: i32) -> ! {
    sys::block_signals();
    loop {
        while let Some(ended) = sys::reap() {
            if ended.pid == child {
                sys::exit_now(ended.code);
            }
        }
        if let Some(signal) = sys::wait_for_signal().filter(|signal| *signal != libc::SIGCHLD) {
            sys::signal_child(child, signal);
        }
    }
}
