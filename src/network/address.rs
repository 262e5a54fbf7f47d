//! IPv4 subnets and the addresses in them: choosing a pool that the host does not use, and a free address of it.

use super::error::NetworkError;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network in CIDR form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Subnet { base: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix }
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn base(self) -> Ipv4Addr {
        self.base
    }

    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask(self.prefix))
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.base.to_bits()
    }

    pub fn overlaps(self, other: Subnet) -> bool {
        let shorter = mask(self.prefix.min(other.prefix));
        self.base.to_bits() & shorter == other.base.to_bits() & shorter
    }

    /// The first address after the base: the bridge's, as Docker has it.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() + 1)
    }

    /// The addresses that can be given out, without base and broadcast.
    fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        let (first, last) = (self.base.to_bits() + 1, self.base.to_bits() | !mask(self.prefix));
        (first..last).map(Ipv4Addr::from_bits)
    }

    /// The lowest free address.
    pub fn free(self, taken: &dyn Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        self.hosts().find(|address| !taken(*address))
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
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
        let prefix: u8 = prefix.parse().ok().filter(|p| (1..=30).contains(p)).ok_or_else(bad)?;
        Ok(Subnet::new(address.parse().map_err(|_| bad())?, prefix))
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
    fn addresses_are_given_from_the_lowest() {
        let net = subnet("10.0.0.0/30");
        assert_eq!(net.free(&|a| a == net.gateway()), Some(Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!(net.free(&|_| true), None);
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/31", "10.0.0.0/0"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}
