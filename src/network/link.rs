//! Bridges, veth pairs, addresses and routes, as rtnetlink messages.

use super::address::{Subnet, octets};
use super::netlink::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Netlink, NetlinkMessage, attribute};
use std::io;
use std::net::IpAddr;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const IFF_UP: u32 = 1;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// struct ifinfomsg.
fn ifinfo(index: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

/// A MAC address made of an IP address, as Docker makes them of IPv4's: the same address keeps the same MAC, so that the
/// neighbours' caches stay right when a container is replaced.
pub fn mac_of(address: IpAddr) -> [u8; 6] {
    let [a, b, c, d] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => (address.to_bits() as u32).to_be_bytes(),
    };
    [0x02, 0x42, a, b, c, d]
}

/// Six bytes in hexadecimal, with colons or dashes between them.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        *byte = parts.next().filter(|part| part.len() == 2).and_then(|part| u8::from_str_radix(part, 16).ok())?;
    }
    parts.next().is_none().then_some(bytes)
}

/// The index of an interface of the host.
pub fn index_of(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// An interface as it is found.
#[derive(Debug)]
pub struct FoundLink {
    pub index: u32,
    /// `bridge`, `veth`, ...; a device of the hardware and the loopback device have none.
    pub kind: Option<String>,
    pub group: u32,
    pub is_up: bool,
}

/// The interface with a name in the network namespace of the socket.
///
/// # Errors
/// The kernel's.
pub fn find(netlink: &Netlink, name: &str) -> io::Result<Option<FoundLink>> {
    let answers = match netlink.ask(NetlinkMessage::new(RTM_GETLINK, 0, &ifinfo(0, 0)).string(IFLA_IFNAME, name)) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
        answers => answers?,
    };
    let read = |answer: &Vec<u8>| {
        let word = |bytes: &[u8]| Some(u32::from_ne_bytes(bytes.try_into().ok()?));
        let attributes = answer.get(16..)?;
        let kind = attribute(attributes, IFLA_LINKINFO).and_then(|info| attribute(info, IFLA_INFO_KIND));
        Some(FoundLink {
            index: word(answer.get(4..8)?)?,
            kind: kind.map(|kind| String::from_utf8_lossy(kind).trim_end_matches('\0').to_string()),
            group: attribute(attributes, IFLA_GROUP).and_then(word).unwrap_or(0),
            is_up: word(answer.get(8..12)?)? & IFF_UP != 0,
        })
    };
    Ok(answers.first().and_then(read))
}

/// The addresses of an interface and the length of their prefixes, without those that the kernel makes for the link alone.
///
/// # Errors
/// The kernel's.
pub fn addresses(netlink: &Netlink, index: u32) -> io::Result<Vec<(IpAddr, u8)>> {
    const RTM_GETADDR: u16 = 22;
    const NLM_F_DUMP: u16 = 0x300;
    const RT_SCOPE_LINK: u8 = 253;
    let mut found = Vec::new();
    netlink.ask_each(NetlinkMessage::new(RTM_GETADDR, NLM_F_DUMP, &[0; 8]), |answer| {
        let (Some(&[family, prefix, _, scope]), Some(attributes)) = (answer.first_chunk::<4>(), answer.get(8..)) else { return };
        if answer[4..8] != index.to_ne_bytes() || scope == RT_SCOPE_LINK {
            return;
        }
        let value = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS)).unwrap_or_default();
        let address = match i32::from(family) {
            libc::AF_INET => value.try_into().ok().map(|bytes: [u8; 4]| IpAddr::from(bytes)),
            libc::AF_INET6 => value.try_into().ok().map(|bytes: [u8; 16]| IpAddr::from(bytes)),
            _ => None,
        };
        found.extend(address.map(|address| (address, prefix)));
    })?;
    Ok(found)
}

/// A new bridge that is up; EEXIST where an interface has the name. The group is that of its network's veth ends too.
pub fn make_bridge(netlink: &Netlink, name: &str, group: u32, mtu: u32, mac: [u8; 6]) -> io::Result<u32> {
    let create = NetlinkMessage::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, IFF_UP))
        .string(IFLA_IFNAME, name)
        .attr(IFLA_ADDRESS, &mac)
        .u32(IFLA_GROUP, group)
        .u32(IFLA_MTU, mtu)
        .nest(IFLA_LINKINFO, |m| m.string(IFLA_INFO_KIND, "bridge"));
    netlink.send(&[create]).map_err(|(_, error)| error)?;
    index_of(name)
}

/// Gives a link an address, unless it has it.
pub fn add_address(netlink: &Netlink, index: u32, ip: IpAddr, prefix: u8) -> io::Result<()> {
    unless_there(netlink.send(&[address(index, ip, prefix)]))
}

fn unless_there(result: Result<(), (usize, io::Error)>) -> io::Result<()> {
    match result {
        Err((_, e)) if e.raw_os_error() != Some(libc::EEXIST) => Err(e),
        _ => Ok(()),
    }
}

/// One end of a veth pair on the host's bridge, the other in a container's network namespace.
#[derive(Debug)]
pub struct Veth<'a> {
    pub host_name: &'a str,
    pub bridge: u32,
    /// The link group by which all ends of a network are deleted at once.
    pub group: u32,
    pub container_name: &'a str,
    pub namespace: i32,
    pub mac: [u8; 6],
    pub mtu: u32,
}

impl Veth<'_> {
    /// One message makes both ends, enslaves the host's and brings it up, and moves the other. That one cannot be brought up
    /// here: a veth refuses it before it knows its peer.
    pub fn message(&self) -> NetlinkMessage {
        NetlinkMessage::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, IFF_UP))
            .string(IFLA_IFNAME, self.host_name)
            .u32(IFLA_MASTER, self.bridge)
            .u32(IFLA_GROUP, self.group)
            .u32(IFLA_MTU, self.mtu)
            .nest(IFLA_LINKINFO, |m| {
                m.string(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |m| {
                    m.nest(VETH_INFO_PEER, |m| {
                        m.raw(&ifinfo(0, 0))
                            .string(IFLA_IFNAME, self.container_name)
                            .attr(IFLA_ADDRESS, &self.mac)
                            .u32(IFLA_MTU, self.mtu)
                            .u32(IFLA_NET_NS_FD, self.namespace as u32)
                    })
                })
            })
    }
}

/// An interface on one of the host's, made in the container's namespace: macvlan or ipvlan.
#[derive(Debug)]
pub struct Sublink<'a> {
    pub parent: u32,
    pub kind: SublinkKind,
    pub container_name: &'a str,
    pub namespace: i32,
    pub mac: [u8; 6],
    pub mtu: u32,
}

/// The kind of a [`Sublink`], with its mode as Docker's option of the driver names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SublinkKind {
    /// MACVLAN_MODE_*.
    Macvlan(u32),
    /// IPVLAN_MODE_*.
    Ipvlan(u16),
}

impl SublinkKind {
    /// Reads a mode: `private`, `vepa`, `bridge` or `passthru` of macvlan; `l2`, `l3` or `l3s` of ipvlan.
    pub fn parse(driver: &str, mode: Option<&str>) -> Option<SublinkKind> {
        Some(match (driver, mode) {
            ("macvlan", Some("private")) => SublinkKind::Macvlan(1),
            ("macvlan", Some("vepa")) => SublinkKind::Macvlan(2),
            ("macvlan", None | Some("bridge")) => SublinkKind::Macvlan(4),
            ("macvlan", Some("passthru")) => SublinkKind::Macvlan(8),
            ("ipvlan", None | Some("l2")) => SublinkKind::Ipvlan(0),
            ("ipvlan", Some("l3")) => SublinkKind::Ipvlan(1),
            ("ipvlan", Some("l3s")) => SublinkKind::Ipvlan(2),
            _ => return None,
        })
    }
}

impl Sublink<'_> {
    pub fn message(&self) -> NetlinkMessage {
        const IFLA_LINK: u16 = 5;
        const MODE: u16 = 1;
        let message = NetlinkMessage::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, 0))
            .string(IFLA_IFNAME, self.container_name)
            .u32(IFLA_LINK, self.parent)
            .u32(IFLA_MTU, self.mtu)
            .u32(IFLA_NET_NS_FD, self.namespace as u32);
        match self.kind {
            SublinkKind::Macvlan(mode) => message
                .attr(IFLA_ADDRESS, &self.mac)
                .nest(IFLA_LINKINFO, |m| m.string(IFLA_INFO_KIND, "macvlan").nest(IFLA_INFO_DATA, |m| m.u32(MODE, mode))),
            SublinkKind::Ipvlan(mode) => message.nest(IFLA_LINKINFO, |m| {
                m.string(IFLA_INFO_KIND, "ipvlan").nest(IFLA_INFO_DATA, |m| m.attr(MODE, &mode.to_ne_bytes()))
            }),
        }
    }
}

/// Settings of a bridge port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgePort {
    /// It passes nothing to other isolated ports (IFLA_BRPORT_ISOLATED).
    pub isolated: bool,
    /// A frame may leave by the port that it has come by (IFLA_BRPORT_MODE): where br_netfilter shows bridged packets to the
    /// firewall, a container that asks for its own published port is led back to itself on the bridge.
    pub hairpin: bool,
    /// Frames come from the container's own address alone (IFLA_BRPORT_LOCKED, since Linux 5.16), and no other is learned.
    pub guarded: bool,
}

impl BridgePort {
    /// The messages that make it so; none where it is as it is.
    pub fn messages(self, index: u32, mac: [u8; 6]) -> Vec<NetlinkMessage> {
        const IFLA_PROTINFO: u16 = 12;
        const IFLA_BRPORT_MODE: u16 = 4;
        const IFLA_BRPORT_LEARNING: u16 = 8;
        const IFLA_BRPORT_ISOLATED: u16 = 33;
        const IFLA_BRPORT_LOCKED: u16 = 39;
        const RTM_NEWNEIGH: u16 = 28;
        const NDA_LLADDR: u16 = 2;
        const NUD_NOARP: u16 = 0x40;
        const NTF_MASTER: u8 = 1 << 2;
        const NTF_STICKY: u8 = 1 << 6;
        const AF_BRIDGE: u8 = 7;
        let mut messages = Vec::new();
        if self.guarded {
            // struct ndmsg: the address is on this port, and no frame moves it to another.
            let mut neighbour = [0; 12];
            neighbour[0] = AF_BRIDGE;
            neighbour[4..8].copy_from_slice(&index.to_ne_bytes());
            neighbour[8..10].copy_from_slice(&NUD_NOARP.to_ne_bytes());
            neighbour[10] = NTF_MASTER | NTF_STICKY;
            messages.push(NetlinkMessage::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &neighbour).attr(NDA_LLADDR, &mac));
        }
        if self != BridgePort::default() {
            let mut header = ifinfo(index, 0);
            header[0] = AF_BRIDGE;
            messages.push(NetlinkMessage::new(RTM_SETLINK, 0, &header).nest(IFLA_PROTINFO, |mut m| {
                if self.isolated {
                    m = m.attr(IFLA_BRPORT_ISOLATED, &[1]);
                }
                if self.hairpin {
                    m = m.attr(IFLA_BRPORT_MODE, &[1]);
                }
                if self.guarded {
                    m = m.attr(IFLA_BRPORT_LEARNING, &[0]).attr(IFLA_BRPORT_LOCKED, &[1]);
                }
                m
            }));
        }
        messages
    }
}

/// Deletes a link.
pub fn delete(index: u32) -> NetlinkMessage {
    NetlinkMessage::new(RTM_DELLINK, 0, &ifinfo(index, 0))
}

/// Brings a link up.
pub fn up(index: u32) -> NetlinkMessage {
    NetlinkMessage::new(RTM_NEWLINK, 0, &ifinfo(index, IFF_UP))
}

/// Takes a link down.
pub fn down(index: u32) -> NetlinkMessage {
    let mut header = ifinfo(index, 0);
    header[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    NetlinkMessage::new(RTM_NEWLINK, 0, &header)
}

/// Takes an address from a link.
pub fn remove_address(index: u32, address: IpAddr, prefix: u8) -> NetlinkMessage {
    let (family, octets) = family(address);
    let mut header = [family, prefix, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    NetlinkMessage::new(RTM_DELADDR, 0, &header).attr(IFA_LOCAL, &octets).attr(IFA_ADDRESS, &octets)
}

/// Keeps the kernel from giving a link an IPv6 address of its own making (IN6_ADDR_GEN_MODE_NONE).
pub fn no_link_local(index: u32) -> NetlinkMessage {
    const IFLA_AF_SPEC: u16 = 26;
    const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
    const NONE: u8 = 1;
    NetlinkMessage::new(RTM_NEWLINK, 0, &ifinfo(index, 0))
        .nest(IFLA_AF_SPEC, |m| m.nest(libc::AF_INET6 as u16, |m| m.attr(IFLA_INET6_ADDR_GEN_MODE, &[NONE])))
}

/// The family's number, and the address as the kernel has it.
fn family(address: IpAddr) -> (u8, Vec<u8>) {
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    (family as u8, octets(address))
}

/// Gives a link an address. One of IPv6 is usable at once: wharf gives none out twice, so nobody is asked whether he has it.
pub fn address(index: u32, address: IpAddr, prefix: u8) -> NetlinkMessage {
    new_address(index, address, prefix, NLM_F_EXCL)
}

fn new_address(index: u32, address: IpAddr, prefix: u8, flag: u16) -> NetlinkMessage {
    const IFA_BROADCAST: u16 = 4;
    const IFA_F_NODAD: u8 = 2;
    let (family, octets) = family(address);
    let mut header = [0; 8];
    header[0] = family;
    header[1] = prefix;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    if address.is_ipv6() {
        header[2] = IFA_F_NODAD;
        return NetlinkMessage::new(RTM_NEWADDR, NLM_F_CREATE | flag, &header).attr(IFA_ADDRESS, &octets);
    }
    NetlinkMessage::new(RTM_NEWADDR, NLM_F_CREATE | flag, &header)
        .attr(IFA_LOCAL, &octets)
        .attr(IFA_ADDRESS, &octets)
        .attr(IFA_BROADCAST, &self::family(Subnet::new(address, prefix).last()).1)
}

/// Gives a link an address that it may have already.
pub fn own_address(index: u32, address: IpAddr, prefix: u8) -> NetlinkMessage {
    new_address(index, address, prefix, NLM_F_REPLACE)
}

/// Changes the hardware address of a link that is in use.
pub fn set_mac(index: u32, mac: [u8; 6]) -> NetlinkMessage {
    NetlinkMessage::new(RTM_NEWLINK, 0, &ifinfo(index, 0)).attr(IFLA_ADDRESS, &mac)
}

/// The default route of a gateway's family, in the place of the one that there is.
pub fn default_route(index: u32, gateway: IpAddr) -> NetlinkMessage {
    const RTA_OIF: u16 = 4;
    const RTA_GATEWAY: u16 = 5;
    const RT_TABLE_MAIN: u8 = 254;
    const RTPROT_BOOT: u8 = 3;
    const RTN_UNICAST: u8 = 1;
    let (family, octets) = family(gateway);
    let header = [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0];
    NetlinkMessage::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &header).u32(RTA_OIF, index).attr(RTA_GATEWAY, &octets)
}

/// Deletes every link of a group in one go: the kernel then waits for its readers once, not once for each link.
pub fn delete_group(group: u32) -> NetlinkMessage {
    NetlinkMessage::new(RTM_DELLINK, 0, &ifinfo(0, 0)).u32(IFLA_GROUP, group)
}
