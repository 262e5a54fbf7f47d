//! Signal dispositions of this process.

use super::check;
use std::io;
use std::mem::MaybeUninit;

/// The effect of a signal: its default, none, or a handler.
pub struct Disposition(libc::sigaction);

impl Disposition {
    /// The effect that a signal has now.
    ///
    /// # Errors
    /// EINVAL when there is no such signal.
    pub fn of(signal: i32) -> io::Result<Self> {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: nothing is changed where the new action is null; the kernel writes the current one into `action`.
        check(libc::c_long::from(unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) }))?;
        // SAFETY: the call has succeeded, and zeroes are valid for what it has not written.
        Ok(Disposition(unsafe { action.assume_init() }))
    }

    /// Whether the signal does nothing: so it was left by who started this process (`nohup`, a shell's `&`).
    pub fn is_ignored(&self) -> bool {
        self.0.sa_sigaction == libc::SIG_IGN
    }

    /// Gives a signal this effect again.
    ///
    /// # Errors
    /// EINVAL when it cannot be changed.
    pub fn restore(&self, signal: i32) -> io::Result<()> {
        // SAFETY: the action was this process's own before. A handler in it is a function of this program, which stays mapped.
        check(libc::c_long::from(unsafe { libc::sigaction(signal, &raw const self.0, std::ptr::null_mut()) })).map(drop)
    }
}
