//! Calls that may reach a file system of which nobody knows whether it answers: a path that a user names can be on a network's disk
//! whose server is gone, or on a container's own FUSE.

use super::blocking::in_place;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads that may wait at the same time. The rest of the async runtime's 512 are for others.
const MOST_WAITING: usize = 64;
static WAITING: AtomicUsize = AtomicUsize::new(0);

struct WaitingCall;

impl Drop for WaitingCall {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes such a call. On a worker of the async runtime, its other tasks go on by another thread.
///
/// # Errors
/// The call's; ResourceBusy while 64 others wait.
pub fn ask<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = WAITING.fetch_add(1, Ordering::Relaxed);
    let _call = WaitingCall;
    if before >= MOST_WAITING {
        let why = format!("{MOST_WAITING} calls wait for disks that do not answer: unmount them, or bring their servers back");
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
    }
    in_place(call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn so_many_wait_and_no_more() {
        let (release, gate) = mpsc::channel::<()>();
        let gate = std::sync::Arc::new(std::sync::Mutex::new(gate));
        let (entered, count) = mpsc::channel();
        let waiting: Vec<_> = (0..MOST_WAITING)
            .map(|_| {
                let (gate, entered) = (gate.clone(), entered.clone());
                std::thread::spawn(move || {
                    ask(|| {
                        entered.send(()).expect("counted");
                        let _ = gate.lock().map(|gate| gate.recv());
                        Ok(())
                    })
                })
            })
            .collect();
        (0..MOST_WAITING).for_each(|_| count.recv().expect("it has begun"));
        assert_eq!(ask(|| Ok(())).expect_err("one too many").kind(), io::ErrorKind::ResourceBusy);
        drop(release);
        waiting.into_iter().for_each(|thread| thread.join().expect("ended").expect("done"));
        ask(|| Ok(())).expect("there is room again");
    }
}
