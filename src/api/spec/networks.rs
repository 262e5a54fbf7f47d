//! Networks, and a container's endpoints on them.

use super::invalid;
use crate::api::types::{ContainerCreate, EndpointSettings, IpamPool, NetworkCreate};
use crate::engine::EngineError;
use crate::engine::networks::{self, DEFAULT_NETWORK, NewNetwork, NewPool};
use crate::engine::record::{EndpointSpec, NetworkMode};
use std::net::IpAddr;

/// Containers' names are still names.
pub(super) fn mode(create: &ContainerCreate) -> NetworkMode {
    let mode = create.host_config.network_mode.as_str();
    match (mode, mode.strip_prefix("container:")) {
        _ if create.network_disabled => NetworkMode::None,
        ("host", _) => NetworkMode::Host,
        ("none", _) => NetworkMode::None,
        (_, Some(name)) => NetworkMode::Container(name.to_string()),
        _ => NetworkMode::Bridge,
    }
}

/// `default` is how clients say `bridge` without knowing the platform.
fn own_name(network: &str) -> &str {
    match network {
        "" | "default" => DEFAULT_NETWORK,
        other => other,
    }
}

/// The endpoints of a container: those it lists, else one on the network that its mode names. That network comes first.
pub(super) fn endpoints(create: &ContainerCreate, mode: &NetworkMode) -> Result<Vec<EndpointSpec>, EngineError> {
    if *mode != NetworkMode::Bridge {
        return Ok(Vec::new());
    }
    let first = own_name(&create.host_config.network_mode);
    let listed = create.networking_config.endpoints_config.iter();
    let mut list: Vec<EndpointSpec> = listed
        .map(|(network, settings)| endpoint(own_name(network), &settings.clone().unwrap_or_default()))
        .collect::<Result<_, _>>()?;
    if list.is_empty() {
        list.push(EndpointSpec { network: first.into(), ..EndpointSpec::default() });
    }
    list.sort_by_key(|endpoint| endpoint.network != first);
    if !create.mac_address.is_empty() && list[0].mac_address.is_none() {
        list[0].mac_address = Some(mac(&create.mac_address)?);
    }
    Ok(list)
}

fn mac(text: &str) -> Result<[u8; 6], EngineError> {
    crate::network::link::parse_mac(text).ok_or_else(|| invalid(format!("invalid MAC address: {text}")))
}

/// `NAME[:ALIAS]` as alias and name.
pub(super) fn link(link: &str) -> (String, String) {
    let (name, alias) = link.split_once(':').unwrap_or((link, link));
    // Docker's own form in inspect is `/NAME:/CONTAINER/ALIAS`.
    let alias = alias.rsplit('/').next().unwrap_or(alias);
    (alias.to_string(), name.trim_start_matches('/').to_string())
}

/// A container's settings on a network.
///
/// # Errors
/// An address that is none.
pub fn endpoint(network: &str, settings: &EndpointSettings) -> Result<EndpointSpec, EngineError> {
    let addresses = settings.ipam_config.clone().unwrap_or_default();
    let address = |text: &str| match text {
        "" => Ok(None),
        text => text.parse::<IpAddr>().map(Some).map_err(|_| invalid(format!("invalid IP address: {text}"))),
    };
    let of_other_family = |text: &str, version: &str| invalid(format!("invalid {version} address: {text}"));
    let ipv4_address = match address(&addresses.ipv4_address)? {
        Some(IpAddr::V6(_)) => return Err(of_other_family(&addresses.ipv4_address, "IPv4")),
        Some(IpAddr::V4(address)) => Some(address),
        None => None,
    };
    let ipv6_address = match address(&addresses.ipv6_address)? {
        Some(IpAddr::V4(_)) => return Err(of_other_family(&addresses.ipv6_address, "IPv6")),
        Some(IpAddr::V6(address)) => Some(address),
        None => None,
    };
    let link_local: Vec<Option<IpAddr>> = addresses.link_local_ips.iter().map(|text| address(text)).collect::<Result<_, _>>()?;
    let option = |name: &str| settings.driver_opts.get(&format!("com.docker.network.endpoint.{name}"));
    Ok(EndpointSpec {
        network: network.into(),
        aliases: settings.aliases.clone(),
        ipv4_address,
        ipv6_address,
        mac_address: (!settings.mac_address.is_empty()).then(|| mac(&settings.mac_address)).transpose()?,
        link_local_ips: link_local.into_iter().flatten().collect(),
        gw_priority: settings.gw_priority,
        interface_name: option("ifname").cloned(),
        sysctls: option("sysctls").map(|list| networks::interface_sysctls(list)).unwrap_or_default(),
        driver_opts: settings.driver_opts.clone(),
        links: settings.links.clone(),
    })
}

/// A network to make.
///
/// # Errors
/// When it has no name, or is of a kind that wharf does not have.
pub fn network(create: NetworkCreate) -> Result<NewNetwork, EngineError> {
    if create.name.trim().is_empty() {
        return Err(invalid("network name is empty: invalid name"));
    }
    if create.ingress || matches!(create.driver.as_str(), "overlay") || create.scope == "swarm" {
        return Err(EngineError::Unavailable("This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.".into()));
    }
    if create.config_only || create.config_from.as_ref().is_some_and(|from| !from.network.is_empty()) {
        return Err(invalid("networks that are configurations of others (ConfigOnly, ConfigFrom) are not supported"));
    }
    let ipam = create.ipam.unwrap_or_default();
    if !matches!(ipam.driver.as_str(), "" | "default") {
        return Err(invalid(format!("could not find plugin {} for ipam: wharf has the driver `default`", ipam.driver)));
    }
    Ok(NewNetwork {
        of_builds: false,
        name: create.name,
        pools: ipam.config.into_iter().map(pool).collect(),
        ipv4: create.enable_ipv4.unwrap_or(true),
        ipv6: create.enable_ipv6.unwrap_or(false),
        internal: create.internal,
        attachable: create.attachable,
        labels: create.labels,
        driver: create.driver,
        options: create.options,
    })
}

fn pool(pool: IpamPool) -> NewPool {
    let some = |text: String| (!text.is_empty()).then_some(text);
    NewPool {
        subnet: some(pool.subnet),
        gateway: some(pool.gateway),
        ip_range: some(pool.ip_range),
        reserved: pool.auxiliary_addresses,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{refused, spec_of};
    use crate::engine::record::NetworkMode;
    use serde_json::{Value, json};

    #[test]
    fn endpoints_follow_mode_and_list() {
        let cases: [(&str, Value, NetworkMode, &[&str]); 9] = [
            ("", json!({}), NetworkMode::Bridge, &["bridge"]),
            ("default", json!({"default": {}}), NetworkMode::Bridge, &["bridge"]),
            ("default", json!({"default": null}), NetworkMode::Bridge, &["bridge"]),
            ("bridge", json!({}), NetworkMode::Bridge, &["bridge"]),
            ("b", json!({"a": {}, "b": {}}), NetworkMode::Bridge, &["b", "a"]),
            ("default", json!({"a": null}), NetworkMode::Bridge, &["a"]),
            ("host", json!({"host": {}}), NetworkMode::Host, &[]),
            ("none", json!({"none": {}}), NetworkMode::None, &[]),
            ("container:x", json!({}), NetworkMode::Container("x".into()), &[]),
        ];
        for (mode, endpoints, expected, networks) in cases {
            let spec = spec_of(json!({
                "HostConfig": {"NetworkMode": mode}, "NetworkingConfig": {"EndpointsConfig": endpoints},
            }))
            .expect("a body");
            assert_eq!(spec.network_mode, expected, "{mode}");
            assert_eq!(spec.networks.iter().map(|e| e.network.as_str()).collect::<Vec<_>>(), networks, "{mode}");
        }
        let spec = spec_of(json!({"NetworkDisabled": true})).expect("a body");
        assert_eq!((spec.network_mode, spec.networks.len()), (NetworkMode::None, 0));
    }

    #[test]
    fn addresses_are_read_or_refused() {
        let of = |settings: Value| json!({"HostConfig": {"NetworkMode": "n"}, "NetworkingConfig": {"EndpointsConfig": {"n": settings}}});
        let spec =
            spec_of(of(json!({"MacAddress": "02:00:00:00:00:01", "IPAMConfig": {"IPv4Address": "10.0.0.2"}}))).expect("a body");
        assert_eq!(spec.networks[0].mac_address, Some([2, 0, 0, 0, 0, 1]));
        assert_eq!(spec.networks[0].ipv4_address.map(|a| a.to_string()).as_deref(), Some("10.0.0.2"));
        let spec = spec_of(json!({"MacAddress": "02-00-00-00-00-02"})).expect("the older place");
        assert_eq!(spec.networks[0].mac_address, Some([2, 0, 0, 0, 0, 2]));
        refused(vec![
            (of(json!({"MacAddress": "02"})), "invalid MAC address: 02"),
            (of(json!({"IPAMConfig": {"IPv4Address": "x"}})), "invalid IP address: x"),
            (of(json!({"IPAMConfig": {"IPv4Address": "::1"}})), "invalid IPv4 address: ::1"),
            (of(json!({"IPAMConfig": {"LinkLocalIPs": ["x"]}})), "invalid IP address: x"),
        ]);
    }
}
