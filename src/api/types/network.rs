//! `/networks`, and a container's endpoints.

use super::StringMap;
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

    pub struct EndpointIpam {
        #[serde(rename = "IPv4Address")]
        pub ipv4_address: String,
        #[serde(rename = "IPv6Address")]
        pub ipv6_address: String,
        #[serde(rename = "LinkLocalIPs")]
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

    pub struct ConfigFrom {
        pub network: String,
    }

    /// How a network gets its addresses.
    pub struct Ipam {
        pub driver: String,
        pub options: StringMap,
        pub config: Vec<IpamPool>,
    }

    pub struct IpamPool {
        pub subnet: String,
        #[serde(rename = "IPRange")]
        pub ip_range: String,
        pub gateway: String,
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
}
