//! Network mode, endpoints and published ports of a service.

use super::wrong;
use crate::compose::model::{IpamConfig, NamespaceMode, Project, Service, ServiceNetwork};
use crate::engine::networks::{NewPool, interface_sysctls};
use crate::engine::record::{EndpointSpec, NetworkMode, PortSpec};
use crate::units::ContainerPort;

/// The network mode. `shared` is the id of the container that `service:` or `container:` names.
pub(super) fn mode(project: &Project, name: &str, shared: Option<String>) -> Result<NetworkMode, String> {
    let service = &project.services[name];
    // `networks: {x: {name: host, external: true}}` is the older form of `network_mode: host`.
    let named = service.networks.keys().filter_map(|key| project.networks.get(key));
    let named: Vec<&str> = named.filter(|network| network.external).map(|network| network.name.as_str()).collect();
    let of_networks = if let [name @ ("host" | "none")] = named[..] { Some(NamespaceMode::from(name.to_string())) } else { None };
    if let Some(id) = shared {
        return Ok(NetworkMode::Container(id));
    }
    match service.network_mode.as_ref().or(of_networks.as_ref()) {
        None => Ok(NetworkMode::Bridge),
        Some(NamespaceMode::Host) => Ok(NetworkMode::Host),
        Some(NamespaceMode::Named(mode)) if mode == "none" => Ok(NetworkMode::None),
        Some(NamespaceMode::Named(mode)) if mode == "bridge" || mode == "default" => Ok(NetworkMode::Bridge),
        Some(mode) => {
            let expected = "`host`, `none`, `bridge`, `service:NAME` or `container:NAME`";
            Err(wrong(name, "network_mode", &mode.to_string(), expected))
        }
    }
}

/// The endpoints of a service, in the order of their priority.
pub(super) fn endpoints(project: &Project, name: &str) -> Result<Vec<EndpointSpec>, String> {
    let service = &project.services[name];
    let mut keys: Vec<_> = service.networks.iter().collect();
    keys.sort_by(|(a, x), (b, y)| {
        let priority = |n: &Option<ServiceNetwork>| n.as_ref().and_then(|n| n.priority).unwrap_or(0);
        priority(y).cmp(&priority(x)).then(a.cmp(b))
    });
    let mut endpoints = Vec::new();
    for (key, options) in keys {
        let network = project.networks.get(key).map_or_else(|| key.clone(), |n| n.name.clone());
        // `mac_address` of the service is that of its first endpoint.
        let mac = service.mac_address.as_ref().filter(|_| endpoints.is_empty());
        endpoints.push(endpoint(name, network, options.clone().unwrap_or_default(), mac)?);
    }
    Ok(endpoints)
}

fn endpoint(name: &str, network: String, options: ServiceNetwork, mac: Option<&String>) -> Result<EndpointSpec, String> {
    let mut aliases = vec![name.to_string()];
    aliases.extend(options.aliases);
    let address = options.ipv4_address;
    let ipv4_address = address.map(|a| a.parse().map_err(|_| wrong(name, "networks.ipv4_address", &a, "an IPv4 address")));
    let address = options.ipv6_address;
    let ipv6_address = address.map(|a| a.parse().map_err(|_| wrong(name, "networks.ipv6_address", &a, "an IPv6 address")));
    let mac_address = options.mac_address.as_ref().or(mac).map(|text| {
        crate::network::link::parse_mac(text).ok_or_else(|| wrong(name, "mac_address", text, "six bytes: `02:42:ac:11:00:02`"))
    });
    let link_local =
        options.link_local_ips.iter().map(|a| a.parse().map_err(|_| wrong(name, "networks.link_local_ips", a, "an IP address")));
    let driver_option = |key: &str| options.driver_opts.get(key);
    Ok(EndpointSpec {
        network,
        aliases,
        ipv4_address: ipv4_address.transpose()?,
        ipv6_address: ipv6_address.transpose()?,
        mac_address: mac_address.transpose()?,
        link_local_ips: link_local.collect::<Result<_, _>>()?,
        sysctls: interface_sysctls(driver_option("com.docker.network.endpoint.sysctls").map_or("", String::as_str)),
        interface_name: options.interface_name.clone().or_else(|| driver_option("com.docker.network.endpoint.ifname").cloned()),
        gw_priority: options.gw_priority.unwrap_or(0),
        driver_opts: options.driver_opts.clone(),
        links: Vec::new(),
    })
}

/// `links` and `external_links` as pairs of an alias and a name that it stands for: a container's, or on networks of the
/// project a service's.
pub(super) fn links(project: &Project, service: &Service) -> Vec<(String, String)> {
    let parts = |text: &String| {
        let (target, alias) = text.split_once(':').unwrap_or((text, text));
        (target.to_string(), alias.to_string())
    };
    let of_services = service.links.iter().map(parts).flat_map(|(target, alias)| {
        // The default network knows no services, and the containers of these alone.
        let container = match service.networks.is_empty() {
            true => project.services.get(&target).map(|other| first_container(project, &target, other)),
            false => None,
        };
        match container {
            Some(container) => vec![(alias, container.clone()), (target, container)],
            None => vec![(alias, target)],
        }
    });
    let of_others = service.external_links.iter().map(parts).map(|(target, alias)| (alias, target));
    of_services.chain(of_others).collect()
}

fn first_container(project: &Project, name: &str, service: &Service) -> String {
    service.container_name.clone().unwrap_or_else(|| format!("{}-{name}-1", project.name))
}

/// A pool of a network's `ipam`.
pub fn pool(config: &IpamConfig) -> NewPool {
    NewPool {
        subnet: config.subnet.clone(),
        gateway: config.gateway.clone(),
        ip_range: config.ip_range.clone(),
        reserved: config.aux_addresses.clone(),
    }
}

/// The ports of `expose`.
pub(super) fn exposed(name: &str, service: &Service) -> Result<Vec<ContainerPort>, String> {
    let mut exposed = Vec::new();
    for entry in &service.expose {
        let (ports, protocol) = entry.split_once('/').unwrap_or((entry, "tcp"));
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let wrong = || format!("`services.{name}.expose`: invalid containerPort: {entry}");
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong);
        let protocol = protocol.parse().map_err(|_| wrong())?;
        if port(first)? > port(last)? {
            return Err(wrong());
        }
        exposed.extend((port(first)?..=port(last)?).map(|port| ContainerPort { port, protocol }));
    }
    Ok(exposed)
}

pub(super) fn ports(name: &str, service: &Service) -> Result<Vec<PortSpec>, String> {
    let mut ports = Vec::new();
    for port in &service.ports {
        let published = port.published.as_deref().unwrap_or_default();
        let published = published.parse().map_err(|why| format!("`services.{name}.ports`: {why}"))?;
        let host_ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty());
        let host_ip = host_ip
            .map(|ip| ip.parse().map_err(|_| format!("`services.{name}.ports`: the host address `{ip}` is not an IP address")))
            .transpose()?;
        ports.push(PortSpec { target: port.target, protocol: port.protocol, host_ip, published });
    }
    Ok(ports)
}
