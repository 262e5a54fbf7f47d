//! The chains of others by which forwarded packets are dropped that no rule lets through: iptables' `FORWARD` where its policy is
//! so (Docker's and ufw's), and firewalld's, which refuses what is left at its end. What another table drops, ours cannot
//! accept, so wharf's bridges are let through at the head of these chains; our own tables still decide about them.

use super::super::netlink::{self, Netlink};
use super::super::nft::{self, Expression as E, Family, Transaction};
use super::{Firewall, Isolation};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Weak;
use std::time::Duration;

/// A chain of somebody else that packets of containers pass.
pub struct ForeignChain {
    family: Family,
    pub table: &'static str,
    chain: &'static str,
    /// It lets through what no rule decides about, unless its policy says otherwise.
    by_policy: bool,
}

pub const FOREIGN_CHAINS: [ForeignChain; 3] = [
    ForeignChain { family: Family::Ip, table: "filter", chain: "FORWARD", by_policy: true },
    ForeignChain { family: Family::Ip6, table: "filter", chain: "FORWARD", by_policy: true },
    ForeignChain { family: Family::Inet, table: "firewalld", chain: "filter_FORWARD", by_policy: false },
];

/// Whether to write what seems to be there already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Anew {
    Yes,
    No,
}

/// Replaces the rules that carry `owner` by those for the networks.
pub fn let_through(netlink: &Netlink, owner: &str, isolations: &[Isolation], anew: Anew) -> io::Result<()> {
    for ForeignChain { family, table, chain, by_policy } in FOREIGN_CHAINS {
        let Some(found) = nft::chain(netlink, family, table, chain) else { continue };
        let wanted = !by_policy || found.drops_by_default;
        let ours = nft::rules_of(netlink, family, table, chain, owner);
        let concerned = |isolation: &&Isolation| wanted && (family == Family::Inet || isolation.subnet(family).is_some());
        let bridges: Vec<&Isolation> = isolations.iter().filter(concerned).collect();
        if ours.len() == bridges.len() * 2 && (anew == Anew::No || ours.is_empty()) {
            continue;
        }
        let mut change = Transaction::new(family, table);
        ours.into_iter().for_each(|handle| change.delete_rule(chain, handle));
        for isolation in bridges {
            for meta in [nft::IIFNAME, nft::OIFNAME] {
                change.insert_rule(
                    chain,
                    owner,
                    &[E::Interface { meta, name: isolation.bridge.clone(), equal: true }, E::Accept],
                );
            }
        }
        change.apply(netlink)?;
    }
    Ok(())
}

/// Lets wharf's bridges through again whenever somebody else has changed his rules: ufw and firewalld write theirs anew when they
/// are reloaded, and Docker may be started later. Blocks; ends after the first change without a firewall.
///
/// # Errors
/// The kernel's.
pub fn keep_through(firewall: &Weak<Firewall>) -> io::Result<()> {
    /// Programs write their rules one after the other.
    const SETTLED: Duration = Duration::from_millis(50);
    let changes = netlink::nftables_changes()?;
    let mut buffer = vec![0; 64 * 1024];
    let tables = FOREIGN_CHAINS.map(|place| place.table);
    loop {
        let others = match recv(changes.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => nft::concerns(&buffer[..length], &tables),
            // There was more than the socket has room for: something has changed.
            Err(Errno::ENOBUFS) => true,
            Err(Errno::EINTR) => false,
            Err(error) => return Err(error.into()),
        };
        if !others {
            continue;
        }
        std::thread::sleep(SETTLED);
        let Some(firewall) = firewall.upgrade() else { return Ok(()) };
        if let Err(error) = firewall.let_through_again() {
            tracing::warn!("another's firewall rules have changed, and networks may be cut off by them: {error}");
        }
    }
}
