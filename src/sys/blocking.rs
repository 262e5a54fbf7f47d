//! Work that waits, on a thread of the async runtime.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does work that may take long. On a worker of a runtime with several threads, its other tasks go on by another thread; what runs on
/// one thread alone serves nobody else meanwhile.
pub fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}
