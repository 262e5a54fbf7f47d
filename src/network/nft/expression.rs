//! Expressions of a rule, as the kernel takes them.

use super::{Family, NFTA_DATA_VALUE, R0};
use crate::network::address::{Subnet, octets};
use crate::network::netlink::Message;

/// A step of a rule.
pub enum Expression {
    /// `iifname` or `oifname`, equal or not.
    Interface {
        meta: u32,
        name: String,
        equal: bool,
    },
    /// `ip saddr` or `ip daddr` (of the table's family) in a subnet.
    Address {
        side: Side,
        subnet: Subnet,
        equal: bool,
    },
    /// `meta l4proto`.
    Protocol(u8),
    /// `th sport` (offset 0) or `th dport` (2).
    Port {
        offset: u32,
        port: u16,
    },
    /// `ct state` (key 0) or `ct status` (key 2) has one of the bits.
    Conntrack {
        key: u32,
        bits: u32,
    },
    /// `ct direction original`.
    OriginalDirection,
    /// `ADDRESS daddr . meta l4proto . th dport @NAME`.
    DestinationAmong(&'static str),
    /// `fib daddr type local`.
    DestinationIsLocal,
    /// `dnat to meta l4proto . th dport map @NAME`.
    DnatByPort(&'static str),
    /// `dnat to ip daddr . meta l4proto . th dport map @NAME`.
    DnatByAddressAndPort(&'static str),
    /// `meta protocol`, an ETH_P_*.
    EtherType(u16),
    /// `icmpv6 type`, after [`Expression::Protocol`].
    IcmpType {
        kind: u8,
        up_to: u8,
    },
    /// `iifname @NAME`.
    FromOneOf(&'static str),
    /// `iifname . FIELD != @NAME`.
    NotAmong {
        set: &'static str,
        field: Field,
    },
    /// The field is not in a subnet.
    FieldOutside {
        field: Field,
        subnet: Subnet,
    },
    Masquerade,
    Accept,
    Drop,
    /// `th sport|dport set PORT`, with the checksum kept right; for UDP (17) or TCP (6).
    SetPort {
        offset: u32,
        port: u16,
        protocol: u8,
    },
}

/// An address inside of a packet by which neighbours learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `arp saddr ip`.
    ArpSender,
    /// `ip6 saddr`.
    Ip6Source,
    /// The target of a neighbour advertisement.
    Target,
}

impl Field {
    fn load(self, register: u32) -> Part {
        let (base, offset, len) = match self {
            Field::ArpSender => (NETWORK, 14, 4),
            Field::Ip6Source => (NETWORK, 8, 16),
            Field::Target => (TRANSPORT, 8, 16),
        };
        payload(base, offset, len, register)
    }
}

/// Which of a packet's two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

impl Side {
    /// The address's offset in the header.
    fn offset(self, family: Family) -> u32 {
        match (self, family) {
            (Side::Source, Family::Ip6) => 8,
            (Side::Destination, Family::Ip6) => 24,
            (Side::Source, _) => 12,
            (Side::Destination, _) => 16,
        }
    }
}

pub const IIFNAME: u32 = 6;

pub const OIFNAME: u32 = 7;

pub const CT_STATE: u32 = 0;

pub const CT_STATUS: u32 = 2;

/// Established and related, as bits of `ct state`.
pub const ESTABLISHED: u32 = 2 | 4;

/// New and established, as bits of `ct state`: not the errors (ICMP) about a connection.
pub const OF_CONNECTION: u32 = 2 | 8;

/// IPS_DST_NAT of `ct status`.
pub const DNAT: u32 = 0x20;

/// One expression of the kernel's; most of ours are several.
type Part = Box<dyn FnOnce(Message) -> Message>;

fn expr(name: &'static str, fill: impl FnOnce(Message) -> Message + 'static) -> Part {
    Box::new(move |m| m.string(1, name).nest(2, fill))
}

fn meta(key: u32, register: u32) -> Part {
    expr("meta", move |m| m.be32(1, register).be32(2, key))
}

fn payload(base: u32, offset: u32, len: u32, register: u32) -> Part {
    expr("payload", move |m| m.be32(1, register).be32(2, base).be32(3, offset).be32(4, len))
}

fn compare(register: u32, equal: bool, value: Vec<u8>) -> Part {
    expr("cmp", move |m| m.be32(1, register).be32(2, u32::from(!equal)).nest(3, |m| m.attr(NFTA_DATA_VALUE, &value)))
}

/// From one byte to another, both included.
fn range(register: u32, from: u8, to: u8) -> Part {
    expr("range", move |m| {
        let bound = |m: Message, kind, value: u8| m.nest(kind, |m| m.attr(NFTA_DATA_VALUE, &[value]));
        bound(bound(m.be32(1, register).be32(2, 0), 3, from), 4, to)
    })
}

fn mask(register: u32, bits: Vec<u8>) -> Part {
    expr("bitwise", move |m| {
        m.be32(1, register)
            .be32(2, register)
            .be32(3, bits.len() as u32)
            .nest(4, |m| m.attr(NFTA_DATA_VALUE, &bits))
            .nest(5, |m| m.attr(NFTA_DATA_VALUE, &vec![0; bits.len()]))
    })
}

fn lookup(set: &'static str) -> Part {
    expr("lookup", move |m| m.string(1, set).be32(2, R0).be32(3, R0))
}

/// Whether the set has the key in the registers, or has it not.
fn is_in(set: &'static str, holds: bool) -> Part {
    const NFT_LOOKUP_F_INV: u32 = 1;
    expr("lookup", move |m| m.string(1, set).be32(2, R0).be32(5, if holds { 0 } else { NFT_LOOKUP_F_INV }))
}

fn verdict(code: u32) -> Part {
    expr("immediate", move |m| m.be32(1, 0).nest(2, |m| m.nest(2, |m| m.be32(1, code))))
}

/// Loads `daddr . meta l4proto . th dport`.
fn destination(family: Family) -> Vec<Part> {
    let (offset, width) = (Side::Destination.offset(family), family.width());
    vec![payload(NETWORK, offset, width * 4, R0), meta(META_L4PROTO, R0 + width), payload(TRANSPORT, 2, 2, R0 + width + 1)]
}

/// To the address in the first registers and the port behind it.
fn dnat(family: Family) -> Part {
    expr("nat", move |m| m.be32(1, 1).be32(2, family as u32).be32(3, R0).be32(5, R0 + family.width()))
}

const NETWORK: u32 = 1;

const TRANSPORT: u32 = 2;

const META_L4PROTO: u32 = 16;

impl Expression {
    pub(super) fn parts(&self, family: Family) -> Vec<Part> {
        match self {
            Expression::Interface { meta: key, name, equal } => {
                let mut value = name.clone().into_bytes();
                value.resize(16, 0);
                vec![meta(*key, 1), compare(1, *equal, value)]
            }
            Expression::Address { side, subnet, equal } => {
                let (base, bits) = (octets(subnet.base()), octets(subnet.mask()));
                let offset = side.offset(family);
                vec![payload(NETWORK, offset, base.len() as u32, R0), mask(R0, bits), compare(R0, *equal, base)]
            }
            Expression::Protocol(protocol) => vec![meta(META_L4PROTO, R0), compare(R0, true, vec![*protocol])],
            Expression::Port { offset, port } => {
                vec![payload(TRANSPORT, *offset, 2, R0), compare(R0, true, port.to_be_bytes().to_vec())]
            }
            Expression::Conntrack { key, bits } => {
                let key = *key;
                vec![
                    expr("ct", move |m| m.be32(1, R0).be32(2, key)),
                    mask(R0, bits.to_ne_bytes().to_vec()),
                    compare(R0, false, vec![0; 4]),
                ]
            }
            Expression::OriginalDirection => {
                const CT_DIRECTION: u32 = 1;
                vec![expr("ct", |m| m.be32(1, R0).be32(2, CT_DIRECTION)), compare(R0, true, vec![0])]
            }
            Expression::DestinationAmong(set) => {
                let mut parts = destination(family);
                parts.push(is_in(set, true));
                parts
            }
            Expression::DestinationIsLocal => {
                const RTN_LOCAL: u32 = 2;
                vec![expr("fib", |m| m.be32(1, R0).be32(2, 3).be32(3, 2)), compare(R0, true, RTN_LOCAL.to_ne_bytes().to_vec())]
            }
            Expression::DnatByPort(set) => {
                vec![meta(META_L4PROTO, R0), payload(TRANSPORT, 2, 2, R0 + 1), lookup(set), dnat(family)]
            }
            Expression::DnatByAddressAndPort(set) => {
                let mut parts = destination(family);
                parts.extend([lookup(set), dnat(family)]);
                parts
            }
            Expression::EtherType(kind) => {
                const META_PROTOCOL: u32 = 1;
                vec![meta(META_PROTOCOL, R0), compare(R0, true, kind.to_be_bytes().to_vec())]
            }
            Expression::IcmpType { kind, up_to } => {
                vec![payload(TRANSPORT, 0, 1, R0), range(R0, *kind, *up_to)]
            }
            Expression::FromOneOf(set) => vec![meta(IIFNAME, R0), is_in(set, true)],
            Expression::NotAmong { set, field } => {
                const NAME_WIDTH: u32 = 4;
                vec![meta(IIFNAME, R0), field.load(R0 + NAME_WIDTH), is_in(set, false)]
            }
            Expression::FieldOutside { field, subnet } => {
                vec![field.load(R0), mask(R0, octets(subnet.mask())), compare(R0, false, octets(subnet.base()))]
            }
            Expression::Masquerade => vec![expr("masq", |m| m)],
            Expression::Accept => vec![verdict(1)],
            Expression::Drop => vec![verdict(0)],
            Expression::SetPort { offset, port, protocol } => {
                let (offset, value) = (*offset, port.to_be_bytes());
                let checksum = if *protocol == 17 { 6 } else { 16 };
                vec![
                    expr("immediate", move |m| m.be32(1, R0).nest(2, |m| m.attr(NFTA_DATA_VALUE, &value))),
                    expr("payload", move |m| {
                        m.be32(5, R0).be32(2, TRANSPORT).be32(3, offset).be32(4, 2).be32(6, 1).be32(7, checksum).be32(8, 0)
                    }),
                ]
            }
        }
    }
}
