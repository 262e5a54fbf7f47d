//! wharf's one nftables table on the host: NAT for what goes out, DNAT for published ports, walls between networks.
//!
//! A change of a network rewrites the whole table in one transaction; a published port is an element of a map in it.

use super::address::Subnet;
use super::netlink::Netlink;
use super::nft::{self, Expression as E, Hook, Transaction};
use std::io;
use std::net::Ipv4Addr;
use std::sync::Mutex;

/// A network as the firewall sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wall {
    pub bridge: String,
    pub subnet: Subnet,
    /// No way out and none in.
    pub internal: bool,
    /// What leaves has the host's address.
    pub masquerade: bool,
    /// Containers on the network reach each other.
    pub connected: bool,
}

/// A published port: what arrives at the host's port goes to the container's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Forward {
    /// `None` for every address of the host.
    pub host_ip: Option<Ipv4Addr>,
    /// IPPROTO_TCP or IPPROTO_UDP.
    pub protocol: u8,
    pub port: u16,
    pub to: (Ipv4Addr, u16),
}

pub struct Firewall {
    table: String,
    state: Mutex<State>,
}

struct State {
    netlink: Netlink,
    walls: Vec<Wall>,
    forwards: Vec<Forward>,
    written: bool,
}

const ANY_ADDRESS: &str = "ports";
const ONE_ADDRESS: &str = "ports_on";

impl Firewall {
    /// Nothing is written before there is a network.
    ///
    /// # Errors
    /// When the kernel has no nfnetlink.
    pub fn new(table: &str) -> io::Result<Self> {
        let state = State { netlink: Netlink::netfilter()?, walls: Vec::new(), forwards: Vec::new(), written: false };
        Ok(Firewall { table: table.to_string(), state: Mutex::new(state) })
    }

    /// Sets the networks; the table is deleted with the last one.
    ///
    /// # Errors
    /// The kernel's; the rules are as they were then.
    pub fn set_walls(&self, walls: Vec<Wall>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if state.written && state.walls == walls {
            return Ok(());
        }
        let mut change = Transaction::new(&self.table);
        if walls.is_empty() {
            change.delete_table();
        } else {
            compose(&mut change, &walls);
            state.forwards.iter().for_each(|forward| add(&mut change, forward));
        }
        change.apply(&state.netlink)?;
        others::let_through(&state.netlink, &self.table, &walls)?;
        state.walls = walls;
        state.written = true;
        Ok(())
    }

    /// Publishes ports.
    ///
    /// # Errors
    /// The kernel's; none of the ports is published then.
    pub fn publish(&self, forwards: &[Forward]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if forwards.is_empty() {
            return Ok(());
        }
        let mut change = Transaction::new(&self.table);
        forwards.iter().for_each(|forward| add(&mut change, forward));
        change.apply(&state.netlink)?;
        state.forwards.extend_from_slice(forwards);
        Ok(())
    }

    /// Takes ports back.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unpublish(&self, forwards: &[Forward]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let known: Vec<&Forward> = forwards.iter().filter(|f| state.forwards.contains(f)).collect();
        if known.is_empty() {
            return Ok(());
        }
        let mut change = Transaction::new(&self.table);
        for forward in known {
            let (set, key, _) = element(forward);
            change.delete_element(set, &key);
        }
        change.apply(&state.netlink)?;
        state.forwards.retain(|f| !forwards.contains(f));
        Ok(())
    }

    /// Deletes the table, at the engine's end.
    pub fn clear(&self) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let mut change = Transaction::new(&self.table);
        change.delete_table();
        let _ = change.apply(&state.netlink);
        state.written = false;
        state.walls.clear();
    }
}

/// The set, key and data of a forward. A shorter field is padded to the four bytes of a register.
fn element(forward: &Forward) -> (&'static str, Vec<u8>, Vec<u8>) {
    let pad_port = |port: u16| [port.to_be_bytes(), [0; 2]].concat();
    let mut key = forward.host_ip.map_or_else(Vec::new, |ip| ip.octets().to_vec());
    key.extend([forward.protocol, 0, 0, 0]);
    key.extend(pad_port(forward.port));
    let mut data = forward.to.0.octets().to_vec();
    data.extend(pad_port(forward.to.1));
    (if forward.host_ip.is_some() { ONE_ADDRESS } else { ANY_ADDRESS }, key, data)
}

fn add(change: &mut Transaction, forward: &Forward) {
    let (set, key, data) = element(forward);
    change.add_element(set, &key, &data);
}

fn compose(change: &mut Transaction, walls: &[Wall]) {
    let port_key = nft::TYPE_PROTOCOL << 6 | nft::TYPE_PORT;
    change.replace_table();
    change.port_map(ANY_ADDRESS, port_key, 8);
    change.port_map(ONE_ADDRESS, nft::TYPE_IPV4 << 12 | port_key, 12);
    change.chain("guard", &Hook { kind: "filter", number: nft::PREROUTING, priority: -300 });
    change.chain("prerouting", &Hook { kind: "nat", number: nft::PREROUTING, priority: -100 });
    change.chain("output", &Hook { kind: "nat", number: nft::OUTPUT, priority: -100 });
    change.chain("forward", &Hook { kind: "filter", number: nft::FORWARD, priority: 0 });
    change.chain("postrouting", &Hook { kind: "nat", number: nft::POSTROUTING, priority: 100 });
    for chain in ["prerouting", "output"] {
        // fib daddr type local dnat to ip daddr . meta l4proto . th dport map @ports_on
        change.rule(chain, &[E::DestinationIsLocal, E::DnatByAddressAndPort(ONE_ADDRESS)]);
        // fib daddr type local dnat to meta l4proto . th dport map @ports
        change.rule(chain, &[E::DestinationIsLocal, E::DnatByPort(ANY_ADDRESS)]);
    }
    let loopback =
        |offset| E::Address { offset, base: Ipv4Addr::new(127, 0, 0, 0), mask: Ipv4Addr::new(255, 0, 0, 0), equal: true };
    for wall in walls {
        let from = |equal| E::Interface { meta: nft::IIFNAME, name: wall.bridge.clone(), equal };
        let to = |equal| E::Interface { meta: nft::OIFNAME, name: wall.bridge.clone(), equal };
        let inside = || E::Address { offset: nft::SADDR, base: wall.subnet.base(), mask: wall.subnet.mask(), equal: true };
        // The bridge routes 127.0.0.0/8, so that published ports answer on 127.0.0.1; containers must not use that.
        // iifname "br" ip daddr 127.0.0.0/8 drop
        change.rule("guard", &[from(true), loopback(nft::DADDR), E::Drop]);
        // iifname "br" oifname "br" accept
        change.rule("forward", &[from(true), to(true), if wall.connected { E::Accept } else { E::Drop }]);
        if wall.internal {
            // iifname "br" oifname != "br" drop
            change.rule("forward", &[from(true), to(false), E::Drop]);
        } else if wall.masquerade {
            // ip saddr SUBNET oifname != "br" masquerade
            change.rule("postrouting", &[inside(), to(false), E::Masquerade]);
        }
        // oifname "br" ip saddr 127.0.0.0/8 masquerade
        change.rule("postrouting", &[to(true), loopback(nft::SADDR), E::Masquerade]);
        // A container that reaches its neighbour by the host's address must get the answer from that address.
        // oifname "br" ip saddr SUBNET ct status dnat masquerade
        change.rule("postrouting", &[to(true), inside(), E::Conntrack { key: nft::CT_STATUS, bits: nft::DNAT }, E::Masquerade]);
    }
    for wall in walls {
        let to = || E::Interface { meta: nft::OIFNAME, name: wall.bridge.clone(), equal: true };
        // Into a network comes what it has asked for and what is published; nothing else, from other networks or elsewhere.
        // oifname "br" ct state established,related accept
        change.rule("forward", &[to(), E::Conntrack { key: nft::CT_STATE, bits: nft::ESTABLISHED }, E::Accept]);
        if !wall.internal {
            // oifname "br" ct status dnat accept
            change.rule("forward", &[to(), E::Conntrack { key: nft::CT_STATUS, bits: nft::DNAT }, E::Accept]);
        }
        // oifname "br" drop
        change.rule("forward", &[to(), E::Drop]);
    }
}

/// The `FORWARD` chain of iptables, where its policy is to drop: Docker sets it so. What another table drops, ours cannot
/// accept, so wharf's bridges are let through at the head of that chain; our own table still decides about them.
mod others {
    use super::super::netlink::Netlink;
    use super::super::nft::{self, Expression as E, Transaction};
    use super::Wall;
    use std::io;

    const TABLE: &str = "filter";
    const CHAIN: &str = "FORWARD";

    /// Replaces the rules that carry `owner` by those for the walls.
    pub fn let_through(netlink: &Netlink, owner: &str, walls: &[Wall]) -> io::Result<()> {
        if !nft::drops_by_default(netlink, TABLE, CHAIN) && nft::rules_of(netlink, TABLE, CHAIN, owner).is_empty() {
            return Ok(());
        }
        let mut change = Transaction::new(TABLE);
        for handle in nft::rules_of(netlink, TABLE, CHAIN, owner) {
            change.delete_rule(CHAIN, handle);
        }
        for wall in walls {
            for meta in [nft::IIFNAME, nft::OIFNAME] {
                change.insert_rule(CHAIN, owner, &[E::Interface { meta, name: wall.bridge.clone(), equal: true }, E::Accept]);
            }
        }
        change.apply(netlink)
    }
}
