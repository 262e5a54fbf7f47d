//! Connections that the kernel goes on translating after what they were translated by has changed (ctnetlink).
//!
//! A flow of UDP lives as long as its client sends: one that began before a port was published is never led to the container, and
//! one that was led to a container that is gone never to the next. So the entries are deleted, and the next packet makes a new one.

use super::firewall::Forward;
use super::netlink::{Netlink, NetlinkMessage, attribute};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const SUBSYSTEM: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const NLM_F_DUMP: u16 = 0x300;
/// struct nfgenmsg, before the attributes.
const NFGENMSG: usize = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
/// Messages that are sent at once.
const BATCH: usize = 256;

/// Changes of published ports and addresses.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Ports of UDP that lead to a container now.
    pub published: HashSet<Forward>,
    /// Ports that do no longer, of whatever protocol.
    pub withdrawn: HashSet<Forward>,
    /// Addresses that no container has any more.
    pub released: HashSet<IpAddr>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.published.is_empty() && self.withdrawn.is_empty() && self.released.is_empty()
    }
}

/// Deletes the entries that the changes have made wrong, of flows to the host's addresses `local`; gives their number. Reading them
/// takes a while: `review` takes out of the changes what has changed again meanwhile.
///
/// # Errors
/// The kernel's; EOPNOTSUPP or EINVAL where it has no ctnetlink.
pub fn forget(mut changes: Changes, local: &HashSet<IpAddr>, review: impl FnOnce(&mut Changes)) -> io::Result<usize> {
    let mut found = Vec::new();
    let question = NetlinkMessage::new(SUBSYSTEM | IPCTNL_MSG_CT_GET, NLM_F_DUMP, &[libc::AF_UNSPEC as u8, 0, 0, 0]);
    Netlink::netfilter()?.ask_each(question, |answer| {
        let wrong = Flow::parse(answer).filter(|entry| entry.is_wrong(&changes, local));
        found.extend(wrong.and_then(|entry| Some((entry, deletion(answer)?))));
    })?;
    review(&mut changes);
    let wrong: Vec<NetlinkMessage> =
        found.into_iter().filter(|(entry, _)| entry.is_wrong(&changes, local)).map(|(_, message)| message).collect();
    // An entry that is gone by itself meanwhile is no failure, and neither stops the others.
    let netlink = Netlink::netfilter()?;
    for batch in wrong.chunks(BATCH) {
        let _ = netlink.send(batch);
    }
    Ok(wrong.len())
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    protocol: u8,
}

/// A flow as it was begun, and as its answers come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    original: Tuple,
    reply: Tuple,
}

impl Tuple {
    fn parse(tuple: &[u8]) -> Option<Tuple> {
        const CTA_TUPLE_IP: u16 = 1;
        const CTA_TUPLE_PROTO: u16 = 2;
        const CTA_IP_V4: [u16; 2] = [1, 2];
        const CTA_IP_V6: [u16; 2] = [3, 4];
        const CTA_PROTO_NUM: u16 = 1;
        const CTA_PROTO_PORTS: [u16; 2] = [2, 3];
        let (ip, proto) = (attribute(tuple, CTA_TUPLE_IP)?, attribute(tuple, CTA_TUPLE_PROTO)?);
        let address = |side: usize| -> Option<IpAddr> {
            if let Some(octets) = attribute(ip, CTA_IP_V4[side]) {
                return Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into());
            }
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(attribute(ip, CTA_IP_V6[side])?).ok()?).into())
        };
        // ICMP has none.
        let port = |side: usize| {
            let bytes = attribute(proto, CTA_PROTO_PORTS[side]).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u16::from_be_bytes)
        };
        let protocol = *attribute(proto, CTA_PROTO_NUM)?.first()?;
        Some(Tuple { from: (address(0)?, port(0)), to: (address(1)?, port(1)), protocol })
    }
}

impl Flow {
    /// Reads an answer of the kernel's; `None` where it is no flow of IP.
    pub fn parse(answer: &[u8]) -> Option<Flow> {
        let attributes = answer.get(NFGENMSG..)?;
        let tuple = |kind| Tuple::parse(attribute(attributes, kind)?);
        Some(Flow { original: tuple(CTA_TUPLE_ORIG)?, reply: tuple(CTA_TUPLE_REPLY)? })
    }

    fn is_wrong(&self, changes: &Changes, local: &HashSet<IpAddr>) -> bool {
        let at = |forward: &Forward| {
            let (address, port) = self.original.to;
            let asked = forward.host_ip.map_or_else(
                || (address.is_loopback() || local.contains(&address)) && address.is_ipv6() == forward.to.0.is_ipv6(),
                |host_ip| host_ip == address,
            );
            asked && port == forward.port && self.original.protocol == forward.protocol.number()
        };
        let leads_to = |forward: &Forward| self.reply.from == forward.to;
        changes.published.iter().any(|forward| at(forward) && !leads_to(forward))
            || changes.withdrawn.iter().any(|forward| at(forward) && leads_to(forward))
            || [self.original.from.0, self.original.to.0, self.reply.from.0].iter().any(|a| changes.released.contains(a))
    }
}

/// The message that deletes an entry: its tuple, zone and id, so that it is this one.
pub fn deletion(answer: &[u8]) -> Option<NetlinkMessage> {
    let attributes = answer.get(NFGENMSG..)?;
    let mut message = NetlinkMessage::new(SUBSYSTEM | IPCTNL_MSG_CT_DELETE, 0, &answer[..NFGENMSG]);
    let tuple = attribute(attributes, CTA_TUPLE_ORIG)?;
    message = message.nest(CTA_TUPLE_ORIG, |m| m.raw(tuple));
    for kind in [CTA_ZONE, CTA_ID] {
        if let Some(value) = attribute(attributes, kind) {
            message = message.attr(kind, value);
        }
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::address::octets;
    use crate::units::Protocol;

    const UDP: u8 = 17;

    fn entry(from: &str, to: &str, answered_by: &str) -> Flow {
        let end = |text: &str| {
            let address: std::net::SocketAddr = text.parse().expect("address");
            (address.ip(), address.port())
        };
        let (from, to, answered_by) = (end(from), end(to), end(answered_by));
        Flow { original: Tuple { from, to, protocol: UDP }, reply: Tuple { from: answered_by, to: from, protocol: UDP } }
    }

    fn message(entry: &Flow) -> Vec<u8> {
        let tuple = |m: NetlinkMessage, tuple: Tuple| {
            let kinds = if tuple.from.0.is_ipv6() { [3, 4] } else { [1, 2] };
            m.nest(1, |m| m.attr(kinds[0], &octets(tuple.from.0)).attr(kinds[1], &octets(tuple.to.0)))
                .nest(2, |m| m.attr(1, &[tuple.protocol]).attr(2, &tuple.from.1.to_be_bytes()).attr(3, &tuple.to.1.to_be_bytes()))
        };
        let message = NetlinkMessage::new(SUBSYSTEM, 0, &[libc::AF_INET as u8, 0, 0, 0])
            .nest(CTA_TUPLE_ORIG, |m| tuple(m, entry.original))
            .nest(CTA_TUPLE_REPLY, |m| tuple(m, entry.reply))
            .attr(CTA_ID, &7u32.to_be_bytes());
        message.payload().to_vec()
    }

    #[test]
    fn entries_are_read_and_deleted_by_their_tuple() {
        for (from, to, by) in
            [("10.0.0.9:5000", "10.0.0.1:53", "172.17.0.2:5353"), ("[fd00::9]:5000", "[fd00::1]:53", "[fd00:1::2]:5353")]
        {
            let entry = entry(from, to, by);
            let bytes = message(&entry);
            assert_eq!(Flow::parse(&bytes), Some(entry));
            let deletion = deletion(&bytes).expect("message");
            let attributes = &deletion.payload()[NFGENMSG..];
            assert_eq!(Tuple::parse(attribute(attributes, CTA_TUPLE_ORIG).expect("tuple")), Some(entry.original));
            assert_eq!(attribute(attributes, CTA_ID), Some(&7u32.to_be_bytes()[..]));
            for length in 0..bytes.len() {
                let _ = Flow::parse(&bytes[..length]);
            }
        }
    }

    #[test]
    fn only_what_a_change_makes_wrong_is_deleted() {
        let host: IpAddr = "192.168.1.1".parse().expect("address");
        let container: IpAddr = "172.17.0.2".parse().expect("address");
        let local = HashSet::from([host]);
        let forward = |host_ip| Forward { host_ip, protocol: Protocol::Udp, port: 53, to: (container, 5353) };
        let published = |host_ip| Changes { published: [forward(host_ip)].into(), ..Changes::default() };
        let withdrawn = Changes { withdrawn: [forward(None)].into(), ..Changes::default() };
        let released = Changes { released: [container].into(), ..Changes::default() };
        let led = entry("10.0.0.9:5000", "192.168.1.1:53", "172.17.0.2:5353");
        let to_another = entry("10.0.0.9:5000", "192.168.1.1:53", "172.17.0.3:5353");
        let not_led = entry("10.0.0.9:5000", "192.168.1.1:53", "192.168.1.1:53");
        let loopback = entry("127.0.0.1:5000", "127.0.0.1:53", "127.0.0.1:53");
        let out = entry("172.17.0.9:5000", "9.9.9.9:53", "9.9.9.9:53");
        let its_own = entry("172.17.0.2:5000", "9.9.9.9:443", "9.9.9.9:443");
        let table = [
            (published(None), [false, true, true, true, false, false]),
            (published(Some(host)), [false, true, true, false, false, false]),
            (withdrawn, [true, false, false, false, false, false]),
            (released, [true, false, false, false, false, true]),
            (Changes::default(), [false; 6]),
        ];
        for (changes, wrong) in table {
            let found = [led, to_another, not_led, loopback, out, its_own].map(|entry| entry.is_wrong(&changes, &local));
            assert_eq!(found, wrong, "{changes:?}");
        }
    }
}
