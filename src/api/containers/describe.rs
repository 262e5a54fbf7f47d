//! Parts of a container that both its list and its inspection show.

use crate::api::types::{EndpointInspect, EndpointIpam, MountPoint, PortSummary};
use crate::engine::Engine;
use crate::engine::record::{ContainerRecord, EndpointSpec, MountKind, MountSpec, NetworkMode, NetworkRecord};
use crate::network::address::IpFamily;
use crate::network::link::mac_of;
use crate::units::ContainerPort;
use indexmap::IndexMap;
use std::net::Ipv4Addr;

/// The arguments of its first process: entrypoint and command.
pub(super) fn command_line(record: &ContainerRecord) -> Vec<String> {
    let (entrypoint, command) = record.entrypoint_and_command();
    [entrypoint, command].concat()
}

pub(super) fn network_mode(record: &ContainerRecord) -> String {
    match &record.spec.network_mode {
        NetworkMode::Host => "host".into(),
        NetworkMode::None => "none".into(),
        NetworkMode::Container(id) => format!("container:{id}"),
        NetworkMode::Bridge => record.spec.networks.first().map_or_else(|| "bridge".into(), |e| e.network.clone()),
    }
}

/// Published ports, and those that are exposed alone, of a container that runs.
pub(super) fn ports(record: &ContainerRecord) -> Vec<PortSummary> {
    if !record.state.status().is_alive() {
        return Vec::new();
    }
    let bound = record.bound_ports.iter().map(|bound| PortSummary {
        ip: bound.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()).to_string(),
        private_port: bound.target,
        public_port: bound.host_port,
        protocol: bound.protocol.to_string(),
    });
    let is_bound = |port: &ContainerPort| record.bound_ports.iter().any(|bound| bound.container_port() == *port);
    let exposed = record.as_exposed().into_iter().filter(|port| !is_bound(port));
    let alone = |port: ContainerPort| PortSummary {
        private_port: port.port,
        protocol: port.protocol.to_string(),
        ..PortSummary::default()
    };
    bound.chain(exposed.map(alone)).collect()
}

/// Endpoints by the names of their networks; of a container that was not started yet, what it asks for.
pub(super) fn endpoints(networks: &[NetworkRecord], record: &ContainerRecord) -> IndexMap<String, EndpointInspect> {
    let mut map = IndexMap::new();
    for endpoint in &record.spec.networks {
        let network = networks.iter().find(|n| n.name == endpoint.network);
        map.insert(endpoint.network.clone(), one_endpoint(network, record, endpoint));
    }
    for id in record.endpoints.keys() {
        let Some(network) = networks.iter().find(|n| n.id == *id).filter(|n| !map.contains_key(&n.name)) else { continue };
        map.insert(network.name.clone(), one_endpoint(Some(network), record, &EndpointSpec::default()));
    }
    if let (mode @ (NetworkMode::Host | NetworkMode::None), true) = (&record.spec.network_mode, map.is_empty()) {
        let name = if *mode == NetworkMode::Host { "host" } else { "none" };
        map.insert(name.into(), one_endpoint(None, record, &EndpointSpec::default()));
    }
    map
}

fn one_endpoint(network: Option<&NetworkRecord>, record: &ContainerRecord, asked: &EndpointSpec) -> EndpointInspect {
    let alive = record.state.status().is_alive();
    let addresses = network.and_then(|network| record.endpoints.get(&network.id)).filter(|_| alive);
    let pool = |family| network.and_then(|network| network.pool(family)).filter(|_| addresses.is_some());
    let prefix = |family| pool(family).map_or(0, |pool| pool.subnet.prefix());
    let gateway = |family| pool(family).map(|pool| pool.gateway.to_string()).unwrap_or_default();
    let address = |family| addresses.and_then(|a| a.of_family(family)).map(|a| a.to_string()).unwrap_or_default();
    let text = |mac: [u8; 6]| mac.map(|b| format!("{b:02x}")).join(":");
    let mac = asked.mac_address.or_else(|| addresses.and_then(|a| a.first()).map(mac_of)).filter(|_| alive);
    let mac = mac.or(asked.mac_address).map(text).unwrap_or_default();
    let ipam = EndpointIpam {
        ipv4_address: asked.ipv4_address.map(|ip| ip.to_string()).unwrap_or_default(),
        ipv6_address: asked.ipv6_address.map(|ip| ip.to_string()).unwrap_or_default(),
        link_local_ips: asked.link_local_ips.iter().map(ToString::to_string).collect(),
    };
    let mut names = vec![record.name.clone()];
    for name in asked.aliases.iter().cloned().chain([record.id[..12].to_string()]).chain(record.spec.hostname.clone()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let is_named = network.is_some_and(|network| network.name != crate::engine::networks::DEFAULT_NETWORK);
    EndpointInspect {
        ipam_config: (ipam != EndpointIpam::default()).then_some(ipam),
        links: (!asked.links.is_empty()).then(|| asked.links.clone()),
        aliases: (!asked.aliases.is_empty()).then(|| asked.aliases.clone()),
        mac_address: mac,
        driver_opts: (!asked.driver_opts.is_empty()).then(|| asked.driver_opts.clone()),
        gw_priority: asked.gw_priority,
        network_id: network.map(|network| network.id.clone()).unwrap_or_default(),
        endpoint_id: network
            .filter(|_| addresses.is_some())
            .map(|network| endpoint_id(&record.id, &network.id))
            .unwrap_or_default(),
        gateway: gateway(IpFamily::V4),
        ip_address: address(IpFamily::V4),
        ip_prefix_len: prefix(IpFamily::V4),
        ipv6_gateway: gateway(IpFamily::V6),
        global_ipv6_address: address(IpFamily::V6),
        global_ipv6_prefix_len: prefix(IpFamily::V6),
        dns_names: is_named.then_some(names),
    }
}

/// An endpoint has no record of its own: its id follows from its container's and its network's.
pub(in crate::api) fn endpoint_id(container: &str, network: &str) -> String {
    let digits = container.bytes().zip(network.bytes());
    digits
        .map(|(a, b)| {
            let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0);
            char::from_digit(digit(a) ^ digit(b), 16).unwrap_or('0')
        })
        .collect()
}

pub(super) fn mounts(engine: &Engine, record: &ContainerRecord) -> Vec<MountPoint> {
    let mount = |m: &MountSpec| {
        let point = MountPoint {
            source: m.source.clone(),
            destination: m.target.clone(),
            writable: !m.read_only,
            ..MountPoint::default()
        };
        match m.kind {
            MountKind::Bind => MountPoint {
                kind: "bind".into(),
                mode: mode(m),
                propagation: m.propagation.clone().unwrap_or_else(|| "rprivate".into()),
                ..point
            },
            MountKind::Volume => MountPoint {
                kind: "volume".into(),
                name: m.source.clone(),
                source: engine.config.volume_data(&m.source).to_string_lossy().into_owned(),
                driver: "local".into(),
                mode: if m.anonymous && !m.listed { "" } else { "z" }.into(),
                ..point
            },
            MountKind::Image => MountPoint { kind: "image".into(), writable: false, ..point },
        }
    };
    record.spec.mounts.iter().map(mount).collect()
}

/// The third part of a bind in Docker's short form.
pub(super) fn mode(mount: &MountSpec) -> String {
    let mut options: Vec<&str> = Vec::new();
    options.extend(mount.read_only.then_some("ro"));
    options.extend(mount.no_copy.then_some("nocopy"));
    options.extend(mount.propagation.as_deref());
    options.join(",")
}

/// Bytes that a container has written, and those of its whole root.
pub(super) fn sizes(engine: &Engine, record: &ContainerRecord) -> (u64, u64) {
    let own = crate::engine::containers::usage::disk_usage(&engine.config.written_by(&record.id));
    let image: u64 = record.layers.iter().filter_map(|layer| engine.images.store.has_layer(layer)).sum();
    (own, own + image)
}
