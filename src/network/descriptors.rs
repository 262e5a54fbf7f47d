//! The descriptors that strangers can make the engine open: connections to published ports that it leads on, TCP connections
//! and questions to resolvers. They have a budget of their own, so that the rest is there for the API and for containers.

use nix::sys::resource::{Resource, getrlimit};
use std::sync::{Arc, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most descriptors that the proxies and resolvers of all containers have open together, whatever the limit of open files is.
/// A connection of the proxy takes two; what the kernel has not taken yet is kept in 32 KiB at most, so all of them hold 64 MiB.
const MOST: u64 = 4096;
/// Their part of the limit of open files where that is small.
const PART: u64 = 4;

/// Descriptors of the budget, given back when this is dropped.
pub type Descriptors = OwnedSemaphorePermit;

/// The budget of the process. The engine raises its limit of open files before it is first asked for.
pub fn budget() -> &'static Arc<Semaphore> {
    static BUDGET: OnceLock<Arc<Semaphore>> = OnceLock::new();
    BUDGET.get_or_init(|| Arc::new(Semaphore::new(part(MOST))))
}

/// So many descriptors, or a quarter of the limit of open files where that is small.
pub fn part(most: u64) -> usize {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    part_of(limit, most)
}

fn part_of(limit: u64, most: u64) -> usize {
    (limit / PART).min(most) as usize
}

/// Takes descriptors of the budget, if there are as many.
pub fn take(number: u32) -> Option<Descriptors> {
    budget().clone().try_acquire_many_owned(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_descriptors_are_the_engines_own() {
        assert_eq!([256, 1024, 16_384, 1 << 20].map(|limit| part_of(limit, MOST)), [64, 256, 4096, 4096]);
    }
}
