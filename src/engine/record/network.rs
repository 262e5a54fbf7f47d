//! The record of a network.

use crate::network::address::{IpFamily, Pool, Subnet};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A network. It has addresses of one family or of both.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "StoredNetwork")]
pub struct NetworkRecord {
    pub id: String,
    pub name: String,
    pub created_at: Timestamp,
    pub ipv4: Option<Pool>,
    pub ipv6: Option<Pool>,
    pub internal: bool,
    /// Clients read it, and nothing follows from it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub attachable: bool,
    pub labels: IndexMap<String, String>,
    pub driver: NetworkDriver,
    /// Docker's options of the driver.
    pub options: IndexMap<String, String>,
}

/// A network as journals have it. Those of before there was IPv6 have IPv4's pool in fields of its own.
#[derive(Deserialize)]
struct StoredNetwork {
    id: String,
    name: String,
    created_at: Timestamp,
    #[serde(default)]
    ipv4: Option<Pool>,
    #[serde(default)]
    ipv6: Option<Pool>,
    #[serde(default)]
    subnet: Option<Subnet>,
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    ip_range: Option<Subnet>,
    #[serde(default)]
    reserved: IndexMap<String, IpAddr>,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    attachable: bool,
    #[serde(default)]
    labels: IndexMap<String, String>,
    #[serde(default)]
    driver: NetworkDriver,
    #[serde(default)]
    options: IndexMap<String, String>,
}

impl From<StoredNetwork> for NetworkRecord {
    fn from(stored: StoredNetwork) -> Self {
        let (range, reserved) = (stored.ip_range, stored.reserved);
        let older = stored.subnet.map(|subnet| {
            let gateway = stored.gateway.unwrap_or_else(|| subnet.gateway());
            Pool { subnet, gateway, range, reserved }
        });
        NetworkRecord {
            id: stored.id,
            name: stored.name,
            created_at: stored.created_at,
            ipv4: stored.ipv4.or(older),
            ipv6: stored.ipv6,
            internal: stored.internal,
            attachable: stored.attachable,
            labels: stored.labels,
            driver: stored.driver,
            options: stored.options,
        }
    }
}

/// `Driver` of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkDriver {
    #[default]
    Bridge,
    /// Interfaces with MAC addresses of their own on one of the host's.
    Macvlan,
    /// Interfaces that share the MAC address of one of the host's.
    Ipvlan,
}

impl NetworkDriver {
    pub fn as_str(self) -> &'static str {
        match self {
            NetworkDriver::Bridge => "bridge",
            NetworkDriver::Macvlan => "macvlan",
            NetworkDriver::Ipvlan => "ipvlan",
        }
    }
}

impl NetworkRecord {
    /// Its pool of a family.
    pub fn pool(&self, family: IpFamily) -> Option<&Pool> {
        match family {
            IpFamily::V4 => self.ipv4.as_ref(),
            IpFamily::V6 => self.ipv6.as_ref(),
        }
    }

    /// Its pools, IPv4's first.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.ipv4.iter().chain(&self.ipv6)
    }

    /// The bridge's name on the host: 15 characters are what the kernel allows.
    pub fn bridge(&self) -> String {
        self.option("com.docker.network.bridge.name").map_or_else(|| format!("br-{}", &self.id[..12]), str::to_string)
    }

    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// An option that is on unless it says otherwise.
    pub fn is_on(&self, name: &str) -> bool {
        !matches!(self.option(name), Some("false" | "0"))
    }

    /// Bytes of the largest packet.
    pub fn mtu(&self) -> u32 {
        self.option("com.docker.network.driver.mtu").and_then(|mtu| mtu.parse().ok()).unwrap_or(1500)
    }

    /// The link group of its veth ends; 0 is the kernel's default group.
    pub fn group(&self) -> u32 {
        Self::group_of(&self.id)
    }

    /// Whether a link group is one of a network's.
    pub fn is_group(group: u32) -> bool {
        group >> 28 == 1
    }

    /// That of a network's id.
    pub fn group_of(id: &str) -> u32 {
        u32::from_str_radix(&id[..7], 16).unwrap_or(0) | 0x1000_0000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journals_of_before_ipv6_are_read() {
        let text = r#"{"id": "0123456789abcdef", "name": "n", "created_at": "2026-01-01T00:00:00Z", "subnet": "10.1.0.0/24",
            "gateway": "10.1.0.1", "internal": true, "ip_range": "10.1.0.128/25", "reserved": {"other": "10.1.0.9"}}"#;
        let network: NetworkRecord = serde_json::from_str(text).expect("network");
        let pool = network.ipv4.clone().expect("pool");
        assert_eq!((pool.subnet.to_string(), pool.gateway.to_string()), ("10.1.0.0/24".into(), "10.1.0.1".into()));
        assert!(pool.range.is_some() && pool.reserved.contains_key("other") && network.ipv6.is_none() && network.internal);
        let again: NetworkRecord = serde_json::from_str(&serde_json::to_string(&network).expect("text")).expect("network");
        assert_eq!((again.ipv4, again.ipv6), (network.ipv4, None));
    }
}
