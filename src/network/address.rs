//! Subnets of IPv4 and IPv6 and the addresses in them: choosing a pool that the host does not use, and a free address of it.

use super::error::NetworkError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IP network in CIDR form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The network that an address is in. A prefix longer than the address is the address alone.
    pub fn new(address: impl Into<IpAddr>, prefix: u8) -> Self {
        let address = address.into();
        let prefix = prefix.min(width(address));
        Subnet { base: with_bits(address, bits(address) & mask(address, prefix)), prefix }
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn base(self) -> IpAddr {
        self.base
    }

    pub fn family(self) -> IpFamily {
        IpFamily::of(self.base)
    }

    pub fn mask(self) -> IpAddr {
        with_bits(self.base, mask(self.base, self.prefix))
    }

    pub fn contains(self, address: impl Into<IpAddr>) -> bool {
        let address = address.into();
        IpFamily::of(address) == self.family() && bits(address) & mask(address, self.prefix) == bits(self.base)
    }

    pub fn overlaps(self, other: Subnet) -> bool {
        let shorter = mask(self.base, self.prefix.min(other.prefix));
        self.family() == other.family() && bits(self.base) & shorter == bits(other.base) & shorter
    }

    /// The first address after the base: the bridge's, as Docker has it.
    pub fn gateway(self) -> IpAddr {
        with_bits(self.base, bits(self.base) + 1)
    }

    /// The last address: IPv4's broadcast.
    pub fn last(self) -> IpAddr {
        with_bits(self.base, bits(self.base) | host_bits(self.base, self.prefix))
    }

    /// Whether an address is the network's own, or IPv4's broadcast: none of a host's. A subnet of two addresses has neither (RFC 3021).
    pub fn is_reserved(self, address: IpAddr) -> bool {
        if host_bits(self.base, self.prefix) <= 1 {
            return false;
        }
        address == self.base || self.family() == IpFamily::V4 && address == self.last()
    }

    /// The lowest free address, without the base and, of IPv4, the broadcast address.
    pub fn free(self, taken: &dyn Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let last = bits(self.last()) - u128::from(self.family() == IpFamily::V4);
        (bits(self.base) + 1..=last).map(|bits| with_bits(self.base, bits)).find(|address| !taken(*address))
    }
}

/// An address as packets and the kernel have it.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamily {
    V4,
    V6,
}

impl IpFamily {
    pub const ALL: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv6() { IpFamily::V6 } else { IpFamily::V4 }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IpFamily::V4 => "IPv4",
            IpFamily::V6 => "IPv6",
        })
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// An address of the same family.
fn with_bits(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

fn mask(like: IpAddr, prefix: u8) -> u128 {
    host_bits(like, 0) ^ host_bits(like, prefix)
}

/// The bits behind a prefix.
fn host_bits(like: IpAddr, prefix: u8) -> u128 {
    let all = u128::MAX >> (128 - u32::from(width(like)));
    all.checked_shr(u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let bad = || NetworkError::BadSubnet(text.to_string());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        // Two addresses for hosts, besides the base and IPv4's broadcast.
        let longest = width(address) - 2;
        let prefix: u8 = prefix.parse().ok().filter(|p| (1..=longest).contains(p)).ok_or_else(bad)?;
        Ok(Subnet::new(address, prefix))
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

impl TryFrom<String> for Subnet {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

/// The addresses of a network: its subnet, and what of it is given out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    pub subnet: Subnet,
    /// The bridge's.
    pub gateway: IpAddr,
    /// Addresses are given out of this part of the subnet.
    #[serde(default)]
    pub range: Option<Subnet>,
    /// Reserved addresses by name: they are never given out.
    #[serde(default)]
    pub reserved: indexmap::IndexMap<String, IpAddr>,
}

/// The addresses of an endpoint: at most one of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredAddresses")]
pub struct Addresses {
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

impl Addresses {
    /// IPv4's first.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }

    /// The one by which it is called where there is room for one alone.
    pub fn first(self) -> Option<IpAddr> {
        self.iter().next()
    }

    pub fn of_family(self, family: IpFamily) -> Option<IpAddr> {
        match family {
            IpFamily::V4 => self.ipv4.map(IpAddr::V4),
            IpFamily::V6 => self.ipv6.map(IpAddr::V6),
        }
    }

    pub fn set(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.ipv4 = Some(address),
            IpAddr::V6(address) => self.ipv6 = Some(address),
        }
    }
}

/// Journals of before there was IPv6 have an address alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredAddresses {
    One(Ipv4Addr),
    Both { ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr> },
}

impl From<StoredAddresses> for Addresses {
    fn from(stored: StoredAddresses) -> Self {
        match stored {
            StoredAddresses::One(address) => Addresses { ipv4: Some(address), ipv6: None },
            StoredAddresses::Both { ipv4, ipv6 } => Addresses { ipv4, ipv6 },
        }
    }
}

/// Docker's default pools: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 and on.
fn pools() -> impl Iterator<Item = Subnet> {
    let first = (17..=31).map(|second| Subnet::new(Ipv4Addr::new(172, second, 0, 0), 16));
    let second = (0..16).map(|third| Subnet::new(Ipv4Addr::new(192, 168, third * 16, 0), 20));
    first.chain(second)
}

/// The first default pool that overlaps with none of the used subnets.
pub fn choose(used: &[Subnet]) -> Option<Subnet> {
    pools().find(|pool| !used.iter().any(|u| u.overlaps(*pool)))
}

/// A local subnet of IPv6 (RFC 4193): fd and 56 bits that are the network's own.
pub fn unique_local(bits: [u8; 7]) -> Subnet {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..8].copy_from_slice(&bits);
    Subnet::new(Ipv6Addr::from(octets), 64)
}

/// The subnets of the host's routes, from the text of /proc/net/route. The default route is none.
pub fn routes(text: &str) -> Vec<Subnet> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let word = |i: usize| u32::from_str_radix(fields.get(i)?, 16).ok().map(u32::swap_bytes);
        let prefix = word(7)?.leading_ones() as u8;
        (prefix > 0).then_some(Subnet::new(Ipv4Addr::from_bits(word(1)?), prefix))
    };
    text.lines().skip(1).filter_map(parse).collect()
}

/// The subnets of the host's IPv6 routes, from the text of /proc/net/ipv6_route, without the default route, and without what
/// every interface has: link-local and multicast addresses.
pub fn routes_ipv6(text: &str) -> Vec<Subnet> {
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let address = Ipv6Addr::from_bits(u128::from_str_radix(fields.next()?, 16).ok()?);
        let prefix = u8::from_str_radix(fields.next()?, 16).ok()?;
        let everywhere = address.is_unicast_link_local() || address.is_multicast() || address.is_loopback();
        (prefix > 0 && !everywhere).then_some(Subnet::new(address, prefix))
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().expect(text)
    }

    #[test]
    fn pools_avoid_what_is_used() {
        assert_eq!(choose(&[]), Some(subnet("172.17.0.0/16")));
        assert_eq!(choose(&[subnet("172.16.0.0/12")]), Some(subnet("192.168.0.0/20")));
        assert_eq!(choose(&[subnet("172.17.5.0/24"), subnet("172.18.0.0/15")]), Some(subnet("172.20.0.0/16")));
        assert_eq!(choose(&[subnet("128.0.0.0/1")]), None);
    }

    #[test]
    fn routes_of_the_host() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nlo\t0000007F\t0\t1\t0\t0\t0\t000000FF\neth0\t00000000\t0\t1\t0\t0\t0\t00000000\nbr\t000011AC\t0\t1\t0\t0\t0\t0000FFFF\n";
        assert_eq!(routes(text), [subnet("127.0.0.0/8"), subnet("172.17.0.0/16")]);
    }

    #[test]
    fn ipv6_routes_of_the_host() {
        let line = |address: &str, prefix: &str| {
            format!("{address} {prefix} {} 00 {} 00000100 1 0 1 eth0\n", "0".repeat(32), "0".repeat(32))
        };
        let text = [
            line("fd000000000000000000000000000000", "40"),
            line("fe800000000000000000000000000000", "40"),
            line("00000000000000000000000000000000", "00"),
            line("ff000000000000000000000000000000", "08"),
        ];
        assert_eq!(routes_ipv6(&text.concat()), [subnet("fd00::/64")]);
    }

    #[test]
    fn both_families_count_alike() {
        let wide = subnet("fd00:1::/64");
        assert_eq!(wide.gateway().to_string(), "fd00:1::1");
        assert_eq!(wide.mask().to_string(), "ffff:ffff:ffff:ffff::");
        assert_eq!(wide.free(&|a| a == wide.gateway()).map(|a| a.to_string()).as_deref(), Some("fd00:1::2"));
        assert!(wide.contains("fd00:1::ffff".parse::<IpAddr>().expect("address")));
        assert!(!wide.overlaps(subnet("10.0.0.0/8")) && wide.overlaps(subnet("fd00::/8")));
        assert_eq!(subnet("10.0.0.0/30").last().to_string(), "10.0.0.3");
        assert_eq!(unique_local([1, 2, 3, 4, 5, 6, 7]).to_string(), "fd01:203:405:607::/64");
        assert!("fd00::/127".parse::<Subnet>().is_err());
    }

    #[test]
    fn addresses_of_older_journals_are_read() {
        let read = |text: &str| serde_json::from_str::<Addresses>(text).expect(text);
        let both = read(r#"{"ipv4": "10.0.0.2", "ipv6": "fd00::2"}"#);
        assert_eq!(both.iter().map(|a| a.to_string()).collect::<Vec<_>>(), ["10.0.0.2", "fd00::2"]);
        assert_eq!(read("\"10.0.0.2\""), Addresses { ipv6: None, ..both });
    }

    #[test]
    fn addresses_are_given_from_the_lowest() {
        let net = subnet("10.0.0.0/30");
        assert_eq!(net.free(&|a| a == net.gateway()), Some(Ipv4Addr::new(10, 0, 0, 2).into()));
        assert_eq!(net.free(&|_| true), None);
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/31", "10.0.0.0/0"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}
