//! How a step on a thread of its own learns that its build was given up: a thread cannot be dropped as a future can.

use std::cell::RefCell;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    static STEP: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// Held by who waits for a step: the step is given up when it is dropped.
#[derive(Debug, Default)]
pub struct Waiting(Arc<AtomicBool>);

impl Waiting {
    /// The check of the step's thread: [`check`] fails within it once nobody waits any more.
    pub fn step<T, W: FnOnce() -> T>(&self, work: W) -> impl FnOnce() -> T + use<T, W> {
        let flag = self.0.clone();
        move || {
            STEP.set(Some(flag));
            let done = work();
            STEP.set(None);
            done
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// # Errors
/// When this thread's step was given up.
pub fn check() -> io::Result<()> {
    let given_up = STEP.with_borrow(|step| step.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)));
    if given_up { Err(io::Error::other("the build was given up")) } else { Ok(()) }
}

/// A reader that ends with an error when the step is given up.
#[derive(Debug)]
pub struct GivenUpReader<R>(pub R);

impl<R: Read> Read for GivenUpReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check()?;
        self.0.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_ends_when_nobody_waits_for_it() {
        let waiting = Waiting::default();
        let step = waiting.step(|| io::copy(&mut GivenUpReader(io::repeat(0)), &mut io::sink()));
        let thread = std::thread::spawn(step);
        assert!(!thread.is_finished());
        drop(waiting);
        assert!(thread.join().expect("thread").is_err());
        assert!(check().is_ok(), "another thread's");
    }
}
