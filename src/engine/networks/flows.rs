//! Flows that a change of published ports or addresses has made wrong are forgotten by the kernel, beside what is going on.
//!
//! Nothing waits for it: until then the firewall drops what is led to a port that is published no longer. Reading the kernel's table
//! takes some 30 ms where that is large, so changes are gathered.

use crate::network::conntrack::{self, Changes};
use crate::network::firewall::{Firewall, Forward};
use crate::units::Protocol;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Changes are gathered until there was none for this long, before the table is read.
const GATHER: Duration = Duration::from_millis(100);

/// How often that is waited for: a change waits at most this many times [`GATHER`].
const GATHERINGS: u32 = 5;

/// The changes that the kernel has not got yet.
pub(in crate::engine) struct Flows {
    firewall: Arc<Firewall>,
    state: Mutex<FlowState>,
    /// A missing ctnetlink was reported.
    warned: AtomicBool,
}

#[derive(Debug, Default)]
struct FlowState {
    changes: Changes,
    /// Addresses that containers have got while the table was read.
    taken: HashSet<IpAddr>,
    /// Changes so far.
    made: u64,
    running: bool,
}

impl Flows {
    pub(in crate::engine) fn new(firewall: Arc<Firewall>) -> Arc<Self> {
        Arc::new(Flows { firewall, state: Mutex::default(), warned: AtomicBool::new(false) })
    }

    fn state(&self) -> MutexGuard<'_, FlowState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A container has these ports and addresses from now on.
    pub(super) fn taken(self: &Arc<Self>, forwards: &[Forward], addresses: impl Iterator<Item = IpAddr>) {
        let mut state = self.state();
        for address in addresses {
            state.changes.released.remove(&address);
            state.taken.insert(address);
        }
        for forward in forwards {
            state.changes.withdrawn.remove(forward);
        }
        state.changes.published.extend(forwards.iter().filter(|forward| is_udp(forward)).cloned());
        self.begin(state);
    }

    /// It has them no longer.
    pub(super) fn given_back(self: &Arc<Self>, forwards: &[Forward], addresses: impl Iterator<Item = IpAddr>) {
        let mut state = self.state();
        state.changes.released.extend(addresses);
        for forward in forwards {
            state.changes.published.remove(forward);
            state.changes.withdrawn.insert(forward.clone());
        }
        self.begin(state);
    }

    /// Tells the kernel, after a while, of what there is by then.
    fn begin(self: &Arc<Self>, mut state: MutexGuard<'_, FlowState>) {
        state.made += 1;
        if state.running || state.changes.is_empty() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        state.running = true;
        let flows = self.clone();
        runtime.spawn(async move {
            loop {
                flows.gather().await;
                let worker = flows.clone();
                let _ = tokio::task::spawn_blocking(move || worker.forget()).await;
                let mut state = flows.state();
                if state.changes.is_empty() {
                    state.running = false;
                    return;
                }
            }
        });
    }

    /// Waits until no more changes come, as in the middle of the end of many containers.
    async fn gather(&self) {
        for _ in 0..GATHERINGS {
            let before = self.state().made;
            tokio::time::sleep(GATHER).await;
            if self.state().made == before {
                return;
            }
        }
    }

    /// Tells the kernel now.
    pub(in crate::engine) fn forget(&self) {
        let changes = {
            let mut state = self.state();
            state.taken.clear();
            std::mem::take(&mut state.changes)
        };
        if changes.is_empty() {
            return;
        }
        let review = |changes: &mut Changes| {
            let state = self.state();
            changes.released.retain(|address| !state.taken.contains(address));
        };
        let withdrawn = changes.withdrawn.clone();
        match conntrack::forget(changes, &local_addresses(), review) {
            Ok(number) => {
                tracing::debug!("{number} flows are forgotten");
                if let Err(error) = self.firewall.forgotten(withdrawn.iter()) {
                    tracing::error!("forgetting withdrawn ports in the firewall: {error}");
                }
            }
            Err(error) if !self.warned.swap(true, Ordering::Relaxed) => {
                tracing::warn!("flows of UDP may keep their earlier targets: no ctnetlink: {error}");
            }
            Err(_) => {}
        }
    }
}

fn is_udp(forward: &Forward) -> bool {
    forward.protocol == Protocol::Udp
}

fn local_addresses() -> HashSet<IpAddr> {
    let of = |address: nix::sys::socket::SockaddrStorage| {
        let ipv4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        ipv4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    interfaces.filter_map(|interface| of(interface.address?)).collect()
}
