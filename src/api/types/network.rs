//! `/networks`, and a container's endpoints.

use super::{StringMap, null_if_empty};
use indexmap::IndexMap;

wire! {
    /// A container's networks, by their names.
    pub struct NetworkingConfig {
        pub endpoints_config: IndexMap<String, Option<EndpointSettings>>,
    }

    /// A container's settings on a network.
    pub struct EndpointSettings {
        #[serde(rename = "IPAMConfig")]
        pub ipam_config: Option<EndpointIpam>,
        pub links: Vec<String>,
        pub aliases: Vec<String>,
        pub mac_address: String,
        pub driver_opts: StringMap,
        pub gw_priority: i64,
    }

    /// `IPAMConfig` of an endpoint: the addresses that were asked for.
    pub struct EndpointIpam {
        #[serde(rename = "IPv4Address")]
        #[serde(skip_serializing_if = "String::is_empty")]
        pub ipv4_address: String,
        #[serde(rename = "IPv6Address")]
        #[serde(skip_serializing_if = "String::is_empty")]
        pub ipv6_address: String,
        #[serde(rename = "LinkLocalIPs")]
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub link_local_ips: Vec<String>,
    }

    /// `POST /networks/create`.
    pub struct NetworkCreate {
        pub name: String,
        pub driver: String,
        pub scope: String,
        #[serde(rename = "EnableIPv4")]
        pub enable_ipv4: Option<bool>,
        #[serde(rename = "EnableIPv6")]
        pub enable_ipv6: Option<bool>,
        #[serde(rename = "IPAM")]
        pub ipam: Option<Ipam>,
        pub internal: bool,
        pub attachable: bool,
        pub ingress: bool,
        pub config_only: bool,
        pub config_from: Option<ConfigFrom>,
        pub options: StringMap,
        pub labels: StringMap,
    }

    /// `ConfigFrom`: the network whose configuration is taken.
    pub struct ConfigFrom {
        pub network: String,
    }

    /// How a network gets its addresses.
    pub struct Ipam {
        pub driver: String,
        #[serde(serialize_with = "null_if_empty")]
        pub options: StringMap,
        pub config: Vec<IpamPool>,
    }

    /// One of `IPAM.Config`: a subnet, and what of it is given out.
    pub struct IpamPool {
        #[serde(skip_serializing_if = "String::is_empty")]
        pub subnet: String,
        #[serde(rename = "IPRange")]
        #[serde(skip_serializing_if = "String::is_empty")]
        pub ip_range: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub gateway: String,
        #[serde(skip_serializing_if = "IndexMap::is_empty")]
        pub auxiliary_addresses: StringMap,
    }

    /// `POST /networks/{id}/connect`.
    pub struct NetworkConnect {
        pub container: String,
        pub endpoint_config: Option<EndpointSettings>,
    }

    /// `POST /networks/{id}/disconnect`.
    pub struct NetworkDisconnect {
        pub container: String,
        pub force: bool,
    }
    /// The answer to `/networks/create`.
    pub struct NetworkCreated {
        pub id: String,
        pub warning: String,
    }

    /// A network, in lists and alone.
    pub struct NetworkInspect {
        pub name: String,
        pub id: String,
        /// RFC 3339.
        pub created: String,
        pub scope: String,
        pub driver: String,
        #[serde(rename = "EnableIPv4")]
        pub enable_ipv4: bool,
        #[serde(rename = "EnableIPv6")]
        pub enable_ipv6: bool,
        #[serde(rename = "IPAM")]
        pub ipam: Ipam,
        pub internal: bool,
        pub attachable: bool,
        pub ingress: bool,
        pub config_from: ConfigFrom,
        pub config_only: bool,
        pub options: StringMap,
        pub labels: StringMap,
        /// Running containers, by their ids.
        pub containers: IndexMap<String, NetworkMember>,
    }

    /// A container on a network.
    pub struct NetworkMember {
        pub name: String,
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        pub mac_address: String,
        /// With the length of the subnet's prefix.
        #[serde(rename = "IPv4Address")]
        pub ipv4_address: String,
        #[serde(rename = "IPv6Address")]
        pub ipv6_address: String,
    }

    /// The answer to `/networks/prune`.
    pub struct NetworksPruned {
        pub networks_deleted: Option<Vec<String>>,
    }

    /// An endpoint of a container, as inspect shows it.
    pub struct EndpointInspect {
        #[serde(rename = "IPAMConfig")]
        pub ipam_config: Option<EndpointIpam>,
        pub links: Option<Vec<String>>,
        pub aliases: Option<Vec<String>>,
        pub mac_address: String,
        pub driver_opts: Option<StringMap>,
        pub gw_priority: i64,
        #[serde(rename = "NetworkID")]
        pub network_id: String,
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        pub gateway: String,
        #[serde(rename = "IPAddress")]
        pub ip_address: String,
        #[serde(rename = "IPPrefixLen")]
        pub ip_prefix_len: u8,
        #[serde(rename = "IPv6Gateway")]
        pub ipv6_gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        pub global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        pub global_ipv6_prefix_len: u8,
        #[serde(rename = "DNSNames")]
        pub dns_names: Option<Vec<String>>,
    }
}
