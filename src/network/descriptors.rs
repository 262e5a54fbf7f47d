//! The descriptors that strangers can make the engine open: connections to published ports that it forwards, and TCP connections to
//! resolvers. Both have budgets of their own, so that the rest is there for the API and for containers, and neither takes the
//! other's. The sockets by which resolvers ask by UDP are in none: a container, and the host, has a handful of them.

use super::budget::Budget;
use nix::sys::resource::{Resource, getrlimit};
use std::sync::{Arc, OnceLock};

/// The most descriptors that the proxies of all ports have open together, whatever the limit of open files is. A connection takes
/// two; what the kernel has not taken yet is kept in 32 KiB at most, so all of them hold 64 MiB.
const MOST_OF_PROXIES: u64 = 4096;
/// The same of the resolvers of all containers, for TCP.
const MOST_OF_RESOLVERS: u64 = 2048;
/// Their part of the limit of open files where that is small.
const PART: u64 = 4;

/// The budget of published ports. The engine raises its limit of open files before it is first asked for.
pub fn of_proxies() -> &'static Arc<Budget> {
    static BUDGET: OnceLock<Arc<Budget>> = OnceLock::new();
    BUDGET.get_or_init(|| Budget::new(part(MOST_OF_PROXIES)))
}

/// The budget of resolvers: half of that.
pub fn of_resolvers() -> &'static Arc<Budget> {
    static BUDGET: OnceLock<Arc<Budget>> = OnceLock::new();
    BUDGET.get_or_init(|| Budget::new(part(2 * MOST_OF_RESOLVERS) / 2))
}

/// So many descriptors, or a quarter of the limit of open files where that is small.
pub fn part(most: u64) -> usize {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    part_of(limit, most)
}

fn part_of(limit: u64, most: u64) -> usize {
    (limit / PART).min(most) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_descriptors_are_the_engines_own() {
        assert_eq!([256, 1024, 16_384, 1 << 20].map(|limit| part_of(limit, MOST_OF_PROXIES)), [64, 256, 4096, 4096]);
    }
}
