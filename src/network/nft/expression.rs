//! Expressions of a rule, as the kernel takes them.

use super::attributes::{bitwise, cmp, ct, data, expr, fib, immediate, lookup, meta, nat, payload, range};
use super::{Family, R0};
use crate::network::address::{Subnet, octets};
use crate::network::netlink::NetlinkMessage;

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

pub const IIFNAME: u32 = libc::NFT_META_IIFNAME as u32;
pub const OIFNAME: u32 = libc::NFT_META_OIFNAME as u32;
pub const CT_STATE: u32 = libc::NFT_CT_STATE as u32;
pub const CT_STATUS: u32 = libc::NFT_CT_STATUS as u32;

/// Established and related, as bits of `ct state`.
pub const ESTABLISHED: u32 = 2 | 4;

/// New and established, as bits of `ct state`: not the errors (ICMP) about a connection.
pub const OF_CONNECTION: u32 = 2 | 8;

/// IPS_DST_NAT of `ct status`.
pub const DNAT: u32 = 0x20;

/// One expression of the kernel's; most of ours are several.
type Part = Box<dyn FnOnce(NetlinkMessage) -> NetlinkMessage>;

fn expr(name: &'static str, fill: impl FnOnce(NetlinkMessage) -> NetlinkMessage + 'static) -> Part {
    Box::new(move |m| m.string(expr::NAME, name).nest(expr::DATA, fill))
}

fn meta(key: u32, register: u32) -> Part {
    expr("meta", move |m| m.be32(meta::DREG, register).be32(meta::KEY, key))
}

fn payload(base: u32, offset: u32, len: u32, register: u32) -> Part {
    expr("payload", move |m| {
        m.be32(payload::DREG, register).be32(payload::BASE, base).be32(payload::OFFSET, offset).be32(payload::LEN, len)
    })
}

fn compare(register: u32, equal: bool, value: Vec<u8>) -> Part {
    let op = if equal { libc::NFT_CMP_EQ } else { libc::NFT_CMP_NEQ } as u32;
    expr("cmp", move |m| m.be32(cmp::SREG, register).be32(cmp::OP, op).nest(cmp::DATA, |m| m.attr(data::VALUE, &value)))
}

/// From one byte to another, both included.
fn range(register: u32, from: u8, to: u8) -> Part {
    expr("range", move |m| {
        let bound = |m: NetlinkMessage, kind, value: u8| m.nest(kind, |m| m.attr(data::VALUE, &[value]));
        let m = m.be32(range::SREG, register).be32(range::OP, libc::NFT_RANGE_EQ as u32);
        bound(bound(m, range::FROM, from), range::TO, to)
    })
}

fn mask(register: u32, bits: Vec<u8>) -> Part {
    expr("bitwise", move |m| {
        m.be32(bitwise::SREG, register)
            .be32(bitwise::DREG, register)
            .be32(bitwise::LEN, bits.len() as u32)
            .nest(bitwise::MASK, |m| m.attr(data::VALUE, &bits))
            .nest(bitwise::XOR, |m| m.attr(data::VALUE, &vec![0; bits.len()]))
    })
}

fn lookup(set: &'static str) -> Part {
    expr("lookup", move |m| m.string(lookup::SET, set).be32(lookup::SREG, R0).be32(lookup::DREG, R0))
}

/// Whether the set has the key in the registers, or has it not.
fn is_in(set: &'static str, holds: bool) -> Part {
    let flags = if holds { 0 } else { libc::NFT_LOOKUP_F_INV as u32 };
    expr("lookup", move |m| m.string(lookup::SET, set).be32(lookup::SREG, R0).be32(lookup::FLAGS, flags))
}

fn verdict(code: i32) -> Part {
    expr("immediate", move |m| {
        let m = m.be32(immediate::DREG, libc::NFT_REG_VERDICT as u32);
        m.nest(immediate::DATA, |m| m.nest(data::VERDICT, |m| m.be32(data::VERDICT_CODE, code as u32)))
    })
}

/// Loads `daddr . meta l4proto . th dport`.
fn destination(family: Family) -> Vec<Part> {
    let (offset, width) = (Side::Destination.offset(family), family.width());
    vec![payload(NETWORK, offset, width * 4, R0), meta(META_L4PROTO, R0 + width), payload(TRANSPORT, 2, 2, R0 + width + 1)]
}

/// To the address in the first registers and the port behind it.
fn dnat(family: Family) -> Part {
    expr("nat", move |m| {
        let m = m.be32(nat::TYPE, libc::NFT_NAT_DNAT as u32).be32(nat::FAMILY, family as u32);
        m.be32(nat::REG_ADDR_MIN, R0).be32(nat::REG_PROTO_MIN, R0 + family.width())
    })
}

const NETWORK: u32 = libc::NFT_PAYLOAD_NETWORK_HEADER as u32;
const TRANSPORT: u32 = libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32;
const META_L4PROTO: u32 = libc::NFT_META_L4PROTO as u32;

/// Writes a port into the header of UDP or TCP.
fn set_port(offset: u32, port: u16, protocol: u8) -> Vec<Part> {
    let value = port.to_be_bytes();
    // Where the header of UDP, or of TCP, has its checksum.
    let checksum = if i32::from(protocol) == libc::IPPROTO_UDP { 6 } else { 16 };
    vec![
        expr("immediate", move |m| m.be32(immediate::DREG, R0).nest(immediate::DATA, |m| m.attr(data::VALUE, &value))),
        expr("payload", move |m| {
            let m = m.be32(payload::SREG, R0).be32(payload::BASE, TRANSPORT).be32(payload::OFFSET, offset);
            let m = m.be32(payload::LEN, 2).be32(payload::CSUM_TYPE, libc::NFT_PAYLOAD_CSUM_INET as u32);
            m.be32(payload::CSUM_OFFSET, checksum).be32(payload::CSUM_FLAGS, 0)
        }),
    ]
}

impl Expression {
    pub(super) fn parts(&self, family: Family) -> Vec<Part> {
        match self {
            Expression::Interface { meta: key, name, equal } => {
                let mut value = name.clone().into_bytes();
                value.resize(16, 0);
                const NAME: u32 = libc::NFT_REG_1 as u32;
                vec![meta(*key, NAME), compare(NAME, *equal, value)]
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
                    expr("ct", move |m| m.be32(ct::DREG, R0).be32(ct::KEY, key)),
                    mask(R0, bits.to_ne_bytes().to_vec()),
                    compare(R0, false, vec![0; 4]),
                ]
            }
            Expression::OriginalDirection => {
                const CT_DIRECTION: u32 = libc::NFT_CT_DIRECTION as u32;
                vec![expr("ct", |m| m.be32(ct::DREG, R0).be32(ct::KEY, CT_DIRECTION)), compare(R0, true, vec![0])]
            }
            Expression::DestinationAmong(set) => {
                let mut parts = destination(family);
                parts.push(is_in(set, true));
                parts
            }
            Expression::DestinationIsLocal => {
                const ADDRESS_TYPE: u32 = 3; // NFT_FIB_RESULT_ADDRTYPE
                const DESTINATION: u32 = 2; // NFTA_FIB_F_DADDR
                vec![
                    expr("fib", |m| m.be32(fib::DREG, R0).be32(fib::RESULT, ADDRESS_TYPE).be32(fib::FLAGS, DESTINATION)),
                    compare(R0, true, u32::from(libc::RTN_LOCAL).to_ne_bytes().to_vec()),
                ]
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
                const META_PROTOCOL: u32 = libc::NFT_META_PROTOCOL as u32;
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
            Expression::Accept => vec![verdict(libc::NF_ACCEPT)],
            Expression::Drop => vec![verdict(libc::NF_DROP)],
            Expression::SetPort { offset, port, protocol } => set_port(*offset, *port, *protocol),
        }
    }
}
