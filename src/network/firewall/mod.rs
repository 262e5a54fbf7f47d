//! wharf's nftables tables on the host: NAT for what goes out, DNAT for published ports, isolation of networks, and what a
//! container may say of itself on its network.
//!
//! [`neighbours`] guards what a container says on its network, [`foreign_tables`] sees to what tables of other programs drop.
//! A change of a network rewrites the tables of `ip` and `ip6` in one transaction; a published port is an element of a map in them.

mod foreign_tables;
mod neighbours;

pub use foreign_tables::keep_through;
pub use neighbours::try_guard;

use super::address::{IpFamily, Subnet, octets};
use super::netlink::Netlink;
use super::nft::{self, ChainHook, Expression as E, Family, Side, Transaction};
use crate::units::Protocol;
use foreign_tables::Anew;
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;

/// A network as the firewall sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Isolation {
    pub bridge: String,
    /// One of each family at most.
    pub subnets: Vec<Subnet>,
    /// No way out and none in.
    pub internal: bool,
    /// Outgoing packets get the host's address.
    pub masquerade: bool,
    /// Containers on the network reach each other.
    pub connected: bool,
}

impl Isolation {
    fn subnet(&self, family: Family) -> Option<Subnet> {
        self.subnets.iter().copied().find(|subnet| Family::from(subnet.family()) == family)
    }
}

/// A published port: what arrives at the host's port goes to the container's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Forward {
    /// `None` for every address of the host, of the container's family.
    pub host_ip: Option<IpAddr>,
    pub protocol: Protocol,
    pub port: u16,
    pub to: (IpAddr, u16),
}

/// A container's end on a bridge, and the addresses that it may say are its own. One that is not listed may say anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sender {
    pub interface: String,
    pub addresses: Vec<IpAddr>,
}

/// The engine's nftables table.
pub struct Firewall {
    table: String,
    state: Mutex<Tables>,
}

struct Tables {
    netlink: Netlink,
    isolations: Vec<Isolation>,
    forwards: Vec<Forward>,
    /// Those of the set of that name, one for each target. They outlive the last network: the kernel may still know their flows
    /// when the next one has its addresses.
    withdrawn: Vec<Forward>,
    /// Those by which no connection begins any more, and connections of before go on.
    draining: Vec<Forward>,
    senders: Vec<Sender>,
    written: bool,
    /// There is a table of the family `bridge`.
    guarded: bool,
    /// The kernel has refused it: it is not asked again.
    unguardable: bool,
}

const ANY_ADDRESS: &str = "ports";
const ONE_ADDRESS: &str = "ports_on";
/// Where ports lead no longer, as long as the kernel may know flows to there: `daddr . meta l4proto . th dport`.
const WITHDRAWN: &str = "withdrawn";
const BOTH: [Family; 2] = [Family::Ip, Family::Ip6];

impl Firewall {
    /// Nothing is written before there is a network.
    ///
    /// # Errors
    /// When the kernel has no nfnetlink.
    pub fn new(table: &str) -> io::Result<Self> {
        let state = Tables {
            netlink: Netlink::netfilter()?,
            isolations: Vec::new(),
            forwards: Vec::new(),
            withdrawn: Vec::new(),
            draining: Vec::new(),
            senders: Vec::new(),
            written: false,
            guarded: false,
            unguardable: false,
        };
        Ok(Firewall { table: table.to_string(), state: Mutex::new(state) })
    }

    /// Sets the networks; the tables are deleted with the last one.
    ///
    /// # Errors
    /// The kernel's; the rules are as they were then.
    pub fn set_isolation(&self, isolations: Vec<Isolation>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if state.written && state.isolations == isolations {
            return Ok(());
        }
        let mut change = Transaction::new(Family::Ip, &self.table);
        for family in BOTH {
            change.switch_to(family);
            if has_table(&isolations, family) {
                compose(&mut change, family, &isolations);
                let of_family = |forward: &&Forward| forward.family() == family;
                state.forwards.iter().filter(of_family).for_each(|forward| add(&mut change, forward));
                for forward in state.withdrawn.iter().filter(of_family) {
                    change.add_element(WITHDRAWN, &forward.target(), None);
                }
            } else if has_table(&state.isolations, family) || !state.written {
                change.delete_table();
            }
        }
        change.apply(&state.netlink)?;
        foreign_tables::let_through(&state.netlink, &self.table, &isolations, Anew::Yes)?;
        if state.guarded == isolations.is_empty() && !state.unguardable {
            self.guard(&mut state, !isolations.is_empty());
        }
        state.isolations = isolations;
        state.written = true;
        Ok(())
    }

    /// Lets wharf's bridges pass the chains of other programs.
    fn let_through_again(&self) -> io::Result<()> {
        let state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        foreign_tables::let_through(&state.netlink, &self.table, &state.isolations, Anew::No)
    }

    /// Makes or deletes the table that guards the neighbours. A kernel without nftables for bridges has it not: what it guards
    /// against is possible there, as it is with Docker.
    fn guard(&self, state: &mut Tables, wanted: bool) {
        let mut change = Transaction::new(Family::Bridge, &self.table);
        if wanted {
            neighbours::compose(&mut change);
            state.senders.iter().for_each(|sender| neighbours::change(&mut change, sender, true));
        } else {
            change.delete_table();
        }
        match change.apply(&state.netlink) {
            Ok(()) => state.guarded = wanted,
            Err(error) => {
                state.unguardable = true;
                tracing::warn!("containers may pass for their neighbours: no nftables for bridges: {error}");
            }
        }
    }

    /// Ports that were published when the last engine died: they are written with the networks, so that they are published
    /// throughout. Each is published again, or given up by [`Firewall::retain`].
    pub fn expect(&self, forwards: Vec<Forward>) {
        self.state.lock().unwrap_or_else(|e| e.into_inner()).forwards.extend(forwards);
    }

    /// Takes back what of the published ports nobody has.
    ///
    /// # Errors
    /// The kernel's.
    pub fn retain(&self, has: &HashSet<Forward>) -> io::Result<()> {
        let state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let given_up: Vec<Forward> = state.forwards.iter().filter(|forward| !has.contains(forward)).cloned().collect();
        drop(state);
        if given_up.is_empty() { Ok(()) } else { self.withdraw(&given_up, &[]) }
    }

    /// Publishes ports, and says which addresses containers have.
    ///
    /// # Errors
    /// The kernel's; nothing has changed then.
    pub fn publish(&self, forwards: &[Forward], senders: &[Sender]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let mut change = Transaction::new(Family::Ip, &self.table);
        forwards.iter().for_each(|forward| add(&mut change, forward));
        let targets: HashSet<Vec<u8>> = forwards.iter().map(Forward::target).collect();
        let again = |withdrawn: &Forward| targets.contains(&withdrawn.target());
        for forward in state.withdrawn.iter().filter(|withdrawn| again(withdrawn)) {
            change.switch_to(forward.family());
            change.delete_element(WITHDRAWN, &forward.target());
        }
        if state.guarded {
            change.switch_to(Family::Bridge);
            senders.iter().for_each(|sender| neighbours::change(&mut change, sender, true));
        }
        if !change.is_empty() {
            change.apply(&state.netlink)?;
        }
        state.withdrawn.retain(|withdrawn| !again(withdrawn));
        let expected: HashSet<Forward> = state.forwards.iter().filter(|f| targets.contains(&f.target())).cloned().collect();
        state.forwards.extend(forwards.iter().filter(|forward| !expected.contains(forward)).cloned());
        state.senders.extend_from_slice(senders);
        Ok(())
    }

    /// Has ports lead elsewhere, in one transaction: each new connection goes to where they led before or to where they lead now.
    /// Connections of before go on until `before` is withdrawn.
    ///
    /// # Errors
    /// The kernel's; nothing has changed then.
    pub fn redirect(&self, before: &[Forward], after: &[Forward]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let mut change = Transaction::new(Family::Ip, &self.table);
        let known: HashSet<&Forward> = state.forwards.iter().collect();
        for forward in before.iter().filter(|forward| known.contains(forward)) {
            let (set, key, _) = element(forward);
            change.switch_to(forward.family());
            change.delete_element(set, &key);
        }
        let targets: HashSet<Vec<u8>> = after.iter().map(Forward::target).collect();
        let again = |withdrawn: &Forward| targets.contains(&withdrawn.target());
        for forward in state.withdrawn.iter().filter(|withdrawn| again(withdrawn)) {
            change.switch_to(forward.family());
            change.delete_element(WITHDRAWN, &forward.target());
        }
        after.iter().for_each(|forward| add(&mut change, forward));
        if !change.is_empty() {
            change.apply(&state.netlink)?;
        }
        state.withdrawn.retain(|withdrawn| !again(withdrawn));
        state.forwards.retain(|forward| !before.contains(forward));
        state.forwards.extend_from_slice(after);
        state.draining.extend_from_slice(before);
        Ok(())
    }

    /// Takes back what was admitted. What goes on to a container by a port that led there is dropped until [`Firewall::forgotten`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn withdraw(&self, forwards: &[Forward], senders: &[Sender]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let mut change = Transaction::new(Family::Ip, &self.table);
        // There may be thousands: a range, or what an image exposes.
        let going: HashSet<&Forward> = forwards.iter().collect();
        let known: HashSet<&Forward> = state.forwards.iter().collect();
        let draining: HashSet<&Forward> = state.draining.iter().collect();
        let staying = state.forwards.iter().filter(|forward| !going.contains(forward));
        // Another of the host's ports may lead there still.
        let mut spared: HashSet<Vec<u8>> = staying.chain(&state.withdrawn).map(Forward::target).collect();
        let mut withdrawn: Vec<Forward> = Vec::new();
        for forward in forwards.iter().filter(|forward| known.contains(forward) || draining.contains(forward)) {
            let (set, key, _) = element(forward);
            change.switch_to(forward.family());
            if known.contains(forward) {
                change.delete_element(set, &key);
            }
            if spared.insert(forward.target()) {
                change.add_element(WITHDRAWN, &forward.target(), None);
                withdrawn.push(forward.clone());
            }
        }
        if state.guarded {
            change.switch_to(Family::Bridge);
            senders
                .iter()
                .filter(|s| state.senders.contains(s))
                .for_each(|sender| neighbours::change(&mut change, sender, false));
        }
        if !change.is_empty() {
            change.apply(&state.netlink)?;
        }
        state.withdrawn.append(&mut withdrawn);
        state.forwards.retain(|forward| !going.contains(forward));
        state.draining.retain(|forward| !going.contains(forward));
        state.senders.retain(|s| !senders.contains(s));
        Ok(())
    }

    /// The kernel knows no flow by these ports any more: whoever else leads something to where they led may do so.
    ///
    /// # Errors
    /// The kernel's.
    pub fn forgotten<'a>(&self, forwards: impl Iterator<Item = &'a Forward>) -> io::Result<()> {
        let targets: HashSet<Vec<u8>> = forwards.map(Forward::target).collect();
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let (over, kept): (Vec<_>, _) =
            std::mem::take(&mut state.withdrawn).into_iter().partition(|f| targets.contains(&f.target()));
        state.withdrawn = kept;
        let mut change = Transaction::new(Family::Ip, &self.table);
        for forward in over.iter().filter(|forward| has_table(&state.isolations, forward.family())) {
            change.switch_to(forward.family());
            change.delete_element(WITHDRAWN, &forward.target());
        }
        if change.is_empty() { Ok(()) } else { change.apply(&state.netlink) }
    }

    /// Deletes the tables, at the engine's end.
    pub fn clear(&self) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        for family in [Family::Ip, Family::Ip6, Family::Bridge] {
            let mut change = Transaction::new(family, &self.table);
            change.delete_table();
            let _ = change.apply(&state.netlink);
        }
        state.written = false;
        state.guarded = false;
        state.isolations.clear();
        state.withdrawn.clear();
        state.draining.clear();
    }
}

/// A family has a table as long as a network is of it.
fn has_table(isolations: &[Isolation], family: Family) -> bool {
    isolations.iter().any(|isolation| isolation.subnet(family).is_some())
}

impl Forward {
    fn family(&self) -> Family {
        IpFamily::of(self.to.0).into()
    }

    /// The key of where it leads.
    fn target(&self) -> Vec<u8> {
        key(Some(self.to.0), self.protocol, self.to.1)
    }
}

/// Address, protocol and port as registers hold them: a shorter field is padded to four bytes.
fn key(address: Option<IpAddr>, protocol: Protocol, port: u16) -> Vec<u8> {
    let mut key = address.map_or_else(Vec::new, octets);
    key.extend([protocol.number(), 0, 0, 0]);
    key.extend(pad(port));
    key
}

fn pad(port: u16) -> Vec<u8> {
    [port.to_be_bytes(), [0; 2]].concat()
}

/// The set, key and data of a forward.
fn element(forward: &Forward) -> (&'static str, Vec<u8>, Vec<u8>) {
    let mut data = octets(forward.to.0);
    data.extend(pad(forward.to.1));
    let set = if forward.host_ip.is_some() { ONE_ADDRESS } else { ANY_ADDRESS };
    (set, key(forward.host_ip, forward.protocol, forward.port), data)
}

fn add(change: &mut Transaction, forward: &Forward) {
    let (set, key, data) = element(forward);
    change.switch_to(forward.family());
    change.add_element(set, &key, Some(&data));
}

fn compose(change: &mut Transaction, family: Family, isolations: &[Isolation]) {
    let port_key = nft::TYPE_PROTOCOL << 6 | nft::TYPE_PORT;
    let address_bytes = if family == Family::Ip6 { 16 } else { 4 };
    change.replace_table();
    change.port_map(ANY_ADDRESS, port_key, 8);
    change.port_map(ONE_ADDRESS, family.address_type() << 12 | port_key, address_bytes + 8);
    change.set(WITHDRAWN, family.address_type() << 12 | port_key, address_bytes + 8);
    change.chain("guard", &ChainHook { kind: "filter", number: nft::PREROUTING, priority: -300 });
    change.chain("prerouting", &ChainHook { kind: "nat", number: nft::PREROUTING, priority: -100 });
    change.chain("output", &ChainHook { kind: "nat", number: nft::OUTPUT, priority: -100 });
    change.chain("forward", &ChainHook { kind: "filter", number: nft::FORWARD, priority: 0 });
    change.chain("postrouting", &ChainHook { kind: "nat", number: nft::POSTROUTING, priority: 100 });
    let loopback = match family {
        Family::Ip6 => Subnet::new(Ipv6Addr::LOCALHOST, 128),
        _ => Subnet::new(Ipv4Addr::new(127, 0, 0, 0), 8),
    };
    let on_loopback = |side| E::Address { side, subnet: loopback, equal: true };
    // A port that is published on 127.0.0.1 is translated before the kernel would drop what a neighbour sends there, and bridges
    // route 127.0.0.0/8, so that published ports answer on it: that network is the host's own. Nor does anybody else come from
    // there: where br_netfilter shows bridged packets to these chains, it would be masqueraded.
    for side in [Side::Destination, Side::Source] {
        // ip daddr 127.0.0.0/8 iifname != "lo" drop
        // ip saddr 127.0.0.0/8 iifname != "lo" drop
        let elsewhere = E::Interface { meta: nft::IIFNAME, name: "lo".into(), equal: false };
        change.rule("guard", &[on_loopback(side), elsewhere, E::Drop]);
    }
    if family == Family::Ip6 {
        // The kernel routes ::1 nowhere: who asks for it is served by the engine.
        // ip6 daddr ::1 accept
        change.rule("output", &[on_loopback(Side::Destination), E::Accept]);
    }
    for chain in ["prerouting", "output"] {
        // fib daddr type local dnat to ip daddr . meta l4proto . th dport map @ports_on
        change.rule(chain, &[E::DestinationIsLocal, E::DnatByAddressAndPort(ONE_ADDRESS)]);
        // fib daddr type local dnat to meta l4proto . th dport map @ports
        change.rule(chain, &[E::DestinationIsLocal, E::DnatByPort(ANY_ADDRESS)]);
    }
    let isolations: Vec<(&Isolation, Subnet)> =
        isolations.iter().filter_map(|isolation| Some((isolation, isolation.subnet(family)?))).collect();
    for (isolation, subnet) in &isolations {
        way_out(change, isolation, *subnet, loopback);
    }
    for (isolation, _) in &isolations {
        way_in(change, isolation);
    }
}

/// Rules of what leaves a network.
fn way_out(change: &mut Transaction, isolation: &Isolation, subnet: Subnet, loopback: Subnet) {
    let from = |equal| E::Interface { meta: nft::IIFNAME, name: isolation.bridge.clone(), equal };
    let to = |equal| E::Interface { meta: nft::OIFNAME, name: isolation.bridge.clone(), equal };
    let inside = || E::Address { side: Side::Source, subnet, equal: true };
    // iifname "br" oifname "br" accept
    change.rule("forward", &[from(true), to(true), if isolation.connected { E::Accept } else { E::Drop }]);
    if isolation.internal {
        // iifname "br" oifname != "br" drop
        change.rule("forward", &[from(true), to(false), E::Drop]);
    } else if isolation.masquerade {
        // ip saddr SUBNET oifname != "br" masquerade
        change.rule("postrouting", &[inside(), to(false), E::Masquerade]);
    }
    // oifname "br" ip saddr 127.0.0.0/8 masquerade
    change.rule("postrouting", &[to(true), E::Address { side: Side::Source, subnet: loopback, equal: true }, E::Masquerade]);
    // A container that reaches its neighbour by the host's address must get the answer from that address.
    // oifname "br" ip saddr SUBNET ct status dnat masquerade
    change.rule("postrouting", &[to(true), inside(), E::Conntrack { key: nft::CT_STATUS, bits: nft::DNAT }, E::Masquerade]);
}

/// Rules of what enters a network.
fn way_in(change: &mut Transaction, isolation: &Isolation) {
    let to = || E::Interface { meta: nft::OIFNAME, name: isolation.bridge.clone(), equal: true };
    // A connection that was led to a port that is published no longer: the kernel goes on translating it until it has forgotten
    // it, and its address may be another container's now. What others than wharf lead to a container is theirs to take back.
    // oifname "br" ct status dnat ct direction original ct state new,established
    //   ip daddr . meta l4proto . th dport @withdrawn drop
    change.rule(
        "forward",
        &[
            to(),
            E::Conntrack { key: nft::CT_STATUS, bits: nft::DNAT },
            E::OriginalDirection,
            E::Conntrack { key: nft::CT_STATE, bits: nft::OF_CONNECTION },
            E::DestinationAmong(WITHDRAWN),
            E::Drop,
        ],
    );
    // Into a network comes what it has asked for and what is published; nothing else, from other networks or elsewhere.
    // oifname "br" ct state established,related accept
    change.rule("forward", &[to(), E::Conntrack { key: nft::CT_STATE, bits: nft::ESTABLISHED }, E::Accept]);
    if !isolation.internal {
        // oifname "br" ct status dnat accept
        change.rule("forward", &[to(), E::Conntrack { key: nft::CT_STATUS, bits: nft::DNAT }, E::Accept]);
    }
    // oifname "br" drop
    change.rule("forward", &[to(), E::Drop]);
}
