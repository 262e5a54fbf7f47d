//! Memory that a process shares with a child, and hides from the child's children.

use super::check;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering};

/// Bytes of a message that fit.
const ROOM: usize = 4096 - 8;

/// The report of a helper to its parent: a process id and a message. A pipe would do, but every child of the helper would have it as well.
#[repr(C)]
pub struct HelperReport {
    pid: AtomicI32,
    length: AtomicU32,
    text: [AtomicU8; ROOM],
}

impl HelperReport {
    pub fn set_pid(&self, pid: i32) {
        self.pid.store(pid, Ordering::Release);
    }

    /// The process id, once there is one.
    pub fn pid(&self) -> Option<i32> {
        Some(self.pid.load(Ordering::Acquire)).filter(|pid| *pid > 0)
    }

    /// Leaves a message; what does not fit is cut.
    pub fn write(&self, text: &[u8]) {
        let length = text.len().min(ROOM);
        self.text.iter().zip(text).for_each(|(to, from)| to.store(*from, Ordering::Relaxed));
        self.length.store(length as u32, Ordering::Release);
    }

    /// The message, empty where there is none.
    pub fn text(&self) -> Vec<u8> {
        let length = (self.length.load(Ordering::Acquire) as usize).min(ROOM);
        self.text[..length].iter().map(|byte| byte.load(Ordering::Relaxed)).collect()
    }
}

/// A [`HelperReport`] in memory that is shared with every process that is forked from now on.
pub struct SharedReport(NonNull<HelperReport>);

impl SharedReport {
    /// # Errors
    /// When there is no memory.
    pub fn new() -> io::Result<Self> {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<HelperReport>(), access, flags, -1, 0) };
        match NonNull::new(address.cast()) {
            Some(report) if address != libc::MAP_FAILED => Ok(SharedReport(report)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Has no process that this one forks from now on find the memory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn hide_from_children(&self) -> io::Result<()> {
        // SAFETY: the mapping is this value's; only forked children lose it, and they do not use it.
        check(libc::c_long::from(unsafe {
            libc::madvise(self.0.as_ptr().cast(), size_of::<HelperReport>(), libc::MADV_DONTFORK)
        }))
        .map(drop)
    }
}

impl Deref for SharedReport {
    type Target = HelperReport;

    fn deref(&self) -> &HelperReport {
        // SAFETY: the mapping is as large as the value, lives as long as `self`, and is zeroed, which is valid for each field. All
        // fields are atomic, so other processes may write.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedReport {
    fn drop(&mut self) {
        // SAFETY: nothing borrows it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<HelperReport>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut() {
        let report = SharedReport::new().expect("memory");
        assert_eq!((report.pid(), report.text()), (None, Vec::new()));
        report.set_pid(7);
        report.write(&vec![b'x'; 5000]);
        assert_eq!((report.pid(), report.text().len()), (Some(7), ROOM));
    }
}
