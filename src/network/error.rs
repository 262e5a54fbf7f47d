//! Errors of networks.

use super::address::IpFamily;
use std::io;
use std::net::IpAddr;

/// Why a network was not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("making the network {network}: {doing}: {source}")]
    Kernel { network: String, doing: &'static str, source: io::Error },
    #[error("connecting the container {container}: {doing}: {source}")]
    Sandbox { container: String, doing: &'static str, source: io::Error },
    #[error(
        "the network {network} is on the bridge {bridge} of the host, which has {has}: `ipam` has that subnet and that gateway, or none"
    )]
    HostsBridge { network: String, bridge: String, has: String },
    #[error("writing the firewall rules (nftables): {0}; the kernel needs nf_tables, nft_nat and nft_masq")]
    Firewall(io::Error),
    #[error("the subnet {0} is not a subnet such as 10.1.0.0/24 or fd00:1::/64")]
    BadSubnet(String),
    #[error("the subnet {subnet} of the network {network} overlaps with {with}; choose another under `ipam`")]
    Overlap { network: String, subnet: String, with: String },
    #[error(
        "no address range is left for the network {network}: all of 172.17.0.0/12 and 192.168.0.0/16 is in use; name a subnet under `ipam`"
    )]
    PoolExhausted { network: String },
    #[error("the network {network} has two subnets of {family} under `ipam`; a bridge has one of each family")]
    SecondSubnet { network: String, family: IpFamily },
    #[error("the network {network} has no free address left in {subnet}")]
    SubnetFull { network: String, subnet: String },
    #[error("invalid subnet {given} of the network {network}: it should be {subnet}")]
    HostBits { network: String, given: String, subnet: String },
    #[error(
        "the network {network} cannot have the subnet {subnet}: its addresses are loopback, multicast or nobody's; choose another under `ipam`"
    )]
    Reserved { network: String, subnet: String },
    #[error("the address {address} of the network {network} is the {kind} address of {subnet}; choose another")]
    NoHosts { network: String, address: IpAddr, kind: &'static str, subnet: String },
    #[error("the address {address} is not in the subnet {subnet} of the network {network}")]
    ForeignAddress { network: String, address: String, subnet: String },
    #[error("the address {address} cannot be had on the network {network}: it has no {family}; `enable_{family_lower}: true` gives it some", family_lower = family.to_string().to_lowercase())]
    NoFamily { network: String, address: IpAddr, family: IpFamily },
    #[error("the address {address} of the network {network} is already taken")]
    AddressTaken { network: String, address: IpAddr },
    #[error("port {port}/{protocol} on {address} cannot be published: {owner}")]
    PortTaken { port: u16, protocol: crate::units::Protocol, address: String, owner: String },
}

impl NetworkError {
    /// Whether another request would do.
    pub fn is_in_request(&self) -> bool {
        match self {
            NetworkError::BadSubnet(_)
            | NetworkError::SecondSubnet { .. }
            | NetworkError::HostBits { .. }
            | NetworkError::Reserved { .. }
            | NetworkError::NoHosts { .. }
            | NetworkError::ForeignAddress { .. }
            | NetworkError::NoFamily { .. }
            | NetworkError::HostsBridge { .. } => true,
            NetworkError::Kernel { .. }
            | NetworkError::Sandbox { .. }
            | NetworkError::Firewall(_)
            | NetworkError::Overlap { .. }
            | NetworkError::PoolExhausted { .. }
            | NetworkError::SubnetFull { .. }
            | NetworkError::AddressTaken { .. }
            | NetworkError::PortTaken { .. } => false,
        }
    }
}
