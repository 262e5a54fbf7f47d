//! The request for a new network, and its subnets.

use crate::engine::error::EngineError;
use crate::network::NetworkError;
use crate::network::address::{self, IpFamily, Pool, Subnet};
use indexmap::IndexMap;
use std::net::IpAddr;

/// The request for a new network.
#[derive(Clone, Debug)]
pub struct NewNetwork {
    pub name: String,
    /// Subnets of either family, one of each at most.
    pub pools: Vec<NewPool>,
    pub ipv4: bool,
    pub ipv6: bool,
    pub internal: bool,
    /// Clients read it; wharf's networks always are.
    pub attachable: bool,
    pub labels: IndexMap<String, String>,
    /// `bridge` where it is empty.
    pub driver: String,
    pub options: IndexMap<String, String>,
    /// That of builds, which is in no list.
    pub of_builds: bool,
}

impl Default for NewNetwork {
    fn default() -> Self {
        NewNetwork {
            name: String::new(),
            pools: Vec::new(),
            ipv4: true,
            ipv6: false,
            internal: false,
            attachable: false,
            labels: IndexMap::new(),
            driver: String::new(),
            of_builds: false,
            options: IndexMap::new(),
        }
    }
}

/// A pool of addresses as it is asked for: what is absent is chosen.
#[derive(Clone, Debug, Default)]
pub struct NewPool {
    pub subnet: Option<String>,
    pub gateway: Option<String>,
    pub ip_range: Option<String>,
    /// Reserved addresses, by name.
    pub reserved: IndexMap<String, String>,
}

impl NewPool {
    /// IPv6 where anything in it is.
    fn family(&self) -> IpFamily {
        let texts = [&self.subnet, &self.gateway, &self.ip_range];
        let is_ipv6 = texts.into_iter().flatten().chain(self.reserved.values()).any(|text| text.contains(':'));
        if is_ipv6 { IpFamily::V6 } else { IpFamily::V4 }
    }

    fn is_empty(&self) -> bool {
        [&self.subnet, &self.gateway, &self.ip_range].into_iter().all(Option::is_none) && self.reserved.is_empty()
    }

    /// The pool around a subnet.
    fn around(&self, network: &str, subnet: Subnet) -> Result<Pool, NetworkError> {
        let foreign = |text: &str| NetworkError::ForeignAddress {
            network: network.to_string(),
            address: text.into(),
            subnet: subnet.to_string(),
        };
        let address = |text: &String| text.parse().ok().filter(|a: &IpAddr| subnet.contains(*a)).ok_or_else(|| foreign(text));
        let gateway = self.gateway.as_ref().map_or_else(|| Ok(subnet.gateway()), address)?;
        let within = |text: &String| text.parse().ok().filter(|r: &Subnet| subnet.overlaps(*r)).ok_or_else(|| foreign(text));
        let range = self.ip_range.as_ref().map(within).transpose()?;
        let reserved = self.reserved.iter().map(|(name, text)| Ok((name.clone(), address(text)?)));
        Ok(Pool { subnet, gateway, range, reserved: reserved.collect::<Result<_, NetworkError>>()? })
    }
}

/// Refuses options of the driver that ask for what wharf has not.
pub(super) fn check_options(new: &NewNetwork) -> Result<(), EngineError> {
    let option = |name: &str| new.options.get(&format!("com.docker.network.bridge.{name}")).filter(|value| !value.is_empty());
    for (name, family) in [("host_binding_ipv4", IpFamily::V4), ("host_binding_ipv6", IpFamily::V6)] {
        let fits = |text: &String| text.parse().is_ok_and(|address: IpAddr| IpFamily::of(address) == family);
        if let Some(text) = option(name).filter(|text| !fits(text)) {
            return Err(EngineError::Invalid(format!(
                "the network {} has the {name} `{text}`, which is no address of {family}",
                new.name
            )));
        }
    }
    for name in ["enable_icc", "enable_ip_masquerade"] {
        let is_bool = |text: &str| {
            matches!(text, "true" | "false" | "1" | "0" | "t" | "f" | "T" | "F" | "TRUE" | "FALSE" | "True" | "False")
        };
        if let Some(text) = option(name).filter(|text| !is_bool(text)) {
            return Err(EngineError::Invalid(format!(
                "failed to parse com.docker.network.bridge.{name} value of the network {}: `{text}` is not `true` or `false`",
                new.name
            )));
        }
    }
    const MTU: &str = "com.docker.network.driver.mtu";
    // The kernel's bounds for a bridge; IPv6 needs more, which it says itself.
    if let Some(text) =
        new.options.get(MTU).filter(|text| !text.is_empty() && !text.parse().is_ok_and(|mtu: u32| (68..=65535).contains(&mtu)))
    {
        return Err(EngineError::Invalid(format!(
            "failed to parse {MTU} value of the network {}: `{text}` is not a number from 68 to 65535",
            new.name
        )));
    }
    for name in ["gateway_mode_ipv4", "gateway_mode_ipv6"] {
        if let Some(mode) = option(name).filter(|mode| *mode != "nat") {
            return Err(EngineError::Invalid(format!("the network {} has the {name} `{mode}`; wharf has `nat`", new.name)));
        }
    }
    Ok(())
}

/// The subnets that the host has routes to.
pub(super) fn host_routes() -> Vec<Subnet> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
    let mut routes = address::routes(&read("route"));
    routes.extend(address::routes_ipv6(&read("ipv6_route")));
    routes
}

/// A new network's pool of one family: the one that is asked for, or one that nobody uses. IPv6's is local to the site
/// (RFC 4193), of bits that are the network's own.
///
/// A bridge of the host's that has addresses of the family keeps them: the pool is around one of them.
pub(super) fn choose_pool(
    new: &NewNetwork,
    family: IpFamily,
    used: &[(Subnet, String)],
    id: &str,
    hosts_bridge: &[(IpAddr, u8)],
) -> Result<Pool, NetworkError> {
    let mut wanted = new.pools.iter().filter(|pool| !pool.is_empty() && pool.family() == family);
    let mut pool = wanted.next().cloned().unwrap_or_default();
    if wanted.next().is_some() {
        return Err(NetworkError::SecondSubnet { network: new.name.clone(), family });
    }
    if hosts_bridge.iter().any(|(address, _)| IpFamily::of(*address) == family) {
        fit_hosts_bridge(new, &mut pool, family, hosts_bridge)?;
    }
    let Some(text) = &pool.subnet else {
        let subnet = if family == IpFamily::V6 {
            let bits = u64::from_str_radix(&id[..14], 16).unwrap_or_default().to_be_bytes();
            Some(address::unique_local(std::array::from_fn(|i| bits[i + 1])))
        } else {
            let taken: Vec<Subnet> = used.iter().map(|(subnet, _)| *subnet).collect();
            address::choose(&taken)
        };
        return pool.around(&new.name, subnet.ok_or_else(|| NetworkError::PoolExhausted { network: new.name.clone() })?);
    };
    let subnet: Subnet = text.parse()?;
    let (address, _) = text.split_once('/').unwrap_or((text, ""));
    if address.parse() != Ok(subnet.base()) {
        return Err(NetworkError::HostBits { network: new.name.clone(), given: text.clone(), subnet: subnet.to_string() });
    }
    let is_nobodys = |address: IpAddr| address.is_loopback() || address.is_multicast() || address.is_unspecified();
    if is_nobodys(subnet.base()) || is_nobodys(subnet.last()) {
        return Err(NetworkError::Reserved { network: new.name.clone(), subnet: text.clone() });
    }
    if let Some((with, whose)) = used.iter().find(|(used, _)| used.overlaps(subnet)) {
        let with = format!("{with} ({whose})");
        return Err(NetworkError::Overlap { network: new.name.clone(), subnet: text.clone(), with });
    }
    pool.around(&new.name, subnet)
}

/// Gives a pool the subnet and the gateway that a bridge of the host's has already.
fn fit_hosts_bridge(
    new: &NewNetwork,
    pool: &mut NewPool,
    family: IpFamily,
    hosts_bridge: &[(IpAddr, u8)],
) -> Result<(), NetworkError> {
    let subnet: Option<Subnet> = pool.subnet.as_ref().map(|text| text.parse()).transpose()?;
    let own = hosts_bridge.iter().filter(|(address, _)| IpFamily::of(*address) == family);
    let fits = |(address, prefix): &&(IpAddr, u8)| {
        subnet.is_none_or(|subnet| subnet == Subnet::new(*address, *prefix))
            && pool.gateway.as_ref().is_none_or(|gateway| gateway.parse() == Ok(*address))
    };
    let Some((address, prefix)) = own.clone().find(fits) else {
        let has: Vec<String> = own.map(|(address, prefix)| format!("{address}/{prefix}")).collect();
        let bridge = new.options.get(super::BRIDGE_NAME).cloned().unwrap_or_default();
        return Err(NetworkError::HostsBridge { network: new.name.clone(), bridge, has: has.join(", ") });
    };
    pool.subnet = Some(Subnet::new(*address, *prefix).to_string());
    pool.gateway = Some(address.to_string());
    Ok(())
}
