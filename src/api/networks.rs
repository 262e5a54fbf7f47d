//! `/networks`.

use super::reply::{self, FilterPatterns, Filters, Query, Reply, labelled};
use super::request_body;
use super::types::{
    self, Ipam, IpamPool, NEVER, NetworkConnect, NetworkCreated, NetworkDisconnect, NetworkInspect, NetworkMember, NetworksPruned,
};
use crate::engine::networks::DEFAULT_NETWORK;
use crate::engine::record::{ContainerRecord, NetworkRecord};
use crate::engine::recovery::RecordKind;
use crate::engine::{Engine, EngineError};
use crate::network::address::{Addresses, IpFamily, Pool};
use hyper::body::Incoming;
use hyper::{Method, Request};
use indexmap::IndexMap;
use std::sync::Arc;

/// Networks that always exist: `bridge`, even while nobody is on it, and those that are none.
const PREDEFINED: [&str; 3] = [DEFAULT_NETWORK, "host", "none"];

/// A predefined network by its name or id; `bridge` only while it has no record.
fn predefined(engine: &Engine, name: &str) -> Option<&'static str> {
    let id = |known: &str| engine.config.fixed_id(&format!("network {known}"));
    PREDEFINED.into_iter().find(|known| *known == name || name.len() >= 12 && id(known).starts_with(name))
}

/// One that has no record. `bridge` shows the subnet that its next container finds there.
fn empty_network(engine: &Engine, name: &str) -> NetworkInspect {
    let pools: Vec<Pool> =
        if name == DEFAULT_NETWORK { engine.networks.next_default_pool().into_iter().collect() } else { Vec::new() };
    NetworkInspect {
        name: name.into(),
        id: engine.config.fixed_id(&format!("network {name}")),
        created: NEVER.into(),
        scope: "local".into(),
        driver: if name == "none" { "null" } else { name }.into(),
        enable_ipv4: true,
        ipam: ipam(pools.iter()),
        ..NetworkInspect::default()
    }
}

/// The addresses of a network.
fn ipam<'a>(pools: impl Iterator<Item = &'a Pool>) -> Ipam {
    let pool = |pool: &Pool| IpamPool {
        subnet: pool.subnet.to_string(),
        ip_range: pool.range.map(|range| range.to_string()).unwrap_or_default(),
        gateway: pool.gateway.to_string(),
        auxiliary_addresses: pool.reserved.iter().map(|(name, address)| (name.clone(), address.to_string())).collect(),
    };
    Ipam { driver: "default".into(), config: pools.map(pool).collect(), ..Ipam::default() }
}

const NETWORK_FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];

/// Whether a network in Docker's form fulfils the filters.
fn network_allowed(network: &NetworkInspect, filters: &Filters) -> Result<bool, EngineError> {
    let any =
        |key: &str, has: &dyn Fn(&String) -> bool| filters.get(key).is_none_or(|list| list.is_empty() || list.iter().any(has));
    for kind in filters.get("type").into_iter().flatten() {
        if !matches!(kind.as_str(), "builtin" | "custom") {
            return Err(EngineError::Invalid(format!("invalid filter: 'type'='{kind}'")));
        }
    }
    let builtin = PREDEFINED.contains(&network.name.as_str());
    let used = !network.containers.is_empty();
    let dangling = reply::boolean(filters, "dangling")?;
    Ok(labelled(&network.labels, filters)
        && FilterPatterns::of(filters, "name").allow(&[network.name.as_str()])
        && any("id", &|id| network.id.starts_with(id.as_str()))
        && any("driver", &|driver| network.driver == *driver)
        && any("scope", &|scope| network.scope == *scope)
        && any("type", &|kind| (kind == "builtin") == builtin)
        && dangling.is_none_or(|dangling| dangling == (!used && !builtin)))
}

fn list_networks(engine: &Engine, query: &Query) -> Reply {
    let filters = query.filters(&NETWORK_FILTERS)?;
    let mut list: Vec<NetworkInspect> = engine.networks.all().iter().map(|n| network(engine, n)).collect();
    for name in PREDEFINED {
        if !list.iter().any(|known| known.name == name) {
            list.push(empty_network(engine, name));
        }
    }
    let unknown = engine.state.unknown(RecordKind::Network).into_iter();
    list.extend(unknown.map(|n| NetworkInspect {
        name: n.name.clone(),
        id: n.id.clone(),
        created: NEVER.into(),
        driver: "unknown".into(),
        scope: "local".into(),
        ..NetworkInspect::default()
    }));
    let mut allowed = Vec::new();
    for value in list {
        if network_allowed(&value, &filters)? {
            allowed.push(value);
        }
    }
    reply::json(200, &allowed)
}

async fn prune_networks(engine: &Arc<Engine>, query: &Query) -> Reply {
    let filters = query.filters(&["label", "label!", "until"])?;
    let old_enough = reply::older_than(&filters)?;
    engine.state.check_prunable()?;
    let meant = |n: &NetworkRecord| n.name != DEFAULT_NETWORK && labelled(&n.labels, &filters) && old_enough(n.created_at);
    let names: Vec<String> = engine.networks.all().into_iter().filter(meant).map(|n| n.name).collect();
    // One that is in use stays.
    let removed: Vec<String> = names.into_iter().filter(|name| engine.networks.remove_unused(name)).collect();
    engine.state.sync().await?;
    engine.events.emit_prune("network", 0);
    reply::json(200, &NetworksPruned { networks_deleted: reply::or_null(removed) })
}

async fn join_network(engine: &Arc<Engine>, name: &str, connect: bool, request: Request<Incoming>) -> Reply {
    let bytes = request_body::bytes(request).await?;
    let forbidden =
        |name: &str| EngineError::Forbidden(format!("container cannot be connected to or disconnected from the network {name}"));
    match predefined(engine, name) {
        Some(name @ ("host" | "none")) => return Err(forbidden(name)),
        // It has a record only while somebody is on it.
        Some(DEFAULT_NETWORK) if connect => engine.networks.make_default()?,
        _ => {}
    }
    let found = engine.networks.find(name)?;
    let engine = engine.clone();
    if connect {
        let body: NetworkConnect = types::parse(&bytes)?;
        let container = engine.containers.find(&body.container)?;
        let endpoint = super::spec::endpoint(&found.name, &body.endpoint_config.unwrap_or_default())?;
        reply::to_its_end(async move { engine.networks.connect(&container, &found.name, endpoint).await }).await?;
    } else {
        let body: NetworkDisconnect = types::parse(&bytes)?;
        let container = engine.containers.find(&body.container)?;
        reply::to_its_end(async move { engine.networks.disconnect(&container, &found.name).await }).await?;
    }
    reply::empty(200)
}

pub async fn networks(engine: &Arc<Engine>, method: &Method, rest: &[&str], query: &Query, request: Request<Incoming>) -> Reply {
    match (method.as_str(), rest) {
        ("POST", ["prune"]) => prune_networks(engine, query).await,
        ("POST", [name, action @ ("connect" | "disconnect")]) => join_network(engine, name, *action == "connect", request).await,
        ("GET", []) => list_networks(engine, query),
        ("POST", ["create"]) => {
            let new = super::spec::network(request_body::json(request).await?)?;
            if PREDEFINED.contains(&new.name.as_str()) || new.name == "default" {
                return Err(EngineError::Forbidden(format!("operation is not permitted on predefined {} network", new.name)));
            }
            let worker = engine.clone();
            let made = tokio::task::spawn_blocking(move || worker.networks.create(&new)).await;
            let record = made.map_err(EngineError::from)??;
            engine.state.sync().await?;
            reply::json(201, &NetworkCreated { id: record.id, warning: String::new() })
        }
        ("GET", [name]) => match (engine.networks.find(name), predefined(engine, name)) {
            (Ok(record), _) => reply::json(200, &network(engine, &record)),
            (Err(_), Some(name)) => reply::json(200, &empty_network(engine, name)),
            (Err(error), None) => Err(error),
        },
        ("DELETE", [name]) => {
            let known = engine.networks.find(name).map(|record| record.name).unwrap_or_else(|_| (*name).to_string());
            if let Some(name) = predefined(engine, &known) {
                return Err(EngineError::Forbidden(format!("{name} is a pre-defined network and cannot be removed")));
            }
            let (worker, name) = (engine.clone(), (*name).to_string());
            let removed = tokio::task::spawn_blocking(move || worker.networks.remove(&name)).await;
            removed.map_err(EngineError::from)??;
            engine.state.sync().await?;
            reply::empty(204)
        }
        _ => super::server::not_found(method, request.uri().path()),
    }
}

fn network(engine: &Engine, record: &NetworkRecord) -> NetworkInspect {
    let mut containers = IndexMap::new();
    for container in engine.containers.all().iter().filter(|c| c.status().is_alive()) {
        let container = container.record();
        if let Some(addresses) = container.endpoints.get(&record.id) {
            let with_prefix = |family| {
                let pool = record.pool(family)?;
                Some(format!("{}/{}", addresses.of_family(family)?, pool.subnet.prefix()))
            };
            let with_prefix = |family| with_prefix(family).unwrap_or_default();
            let member = NetworkMember {
                name: container.name.clone(),
                endpoint_id: super::containers::endpoint_id(&container.id, &record.id),
                mac_address: mac(&container, record, addresses),
                ipv4_address: with_prefix(IpFamily::V4),
                ipv6_address: with_prefix(IpFamily::V6),
            };
            containers.insert(container.id.clone(), member);
        }
    }
    NetworkInspect {
        name: record.name.clone(),
        id: record.id.clone(),
        created: record.created_at.to_string(),
        scope: "local".into(),
        driver: record.driver.as_str().into(),
        enable_ipv4: record.ipv4.is_some(),
        enable_ipv6: record.ipv6.is_some(),
        ipam: ipam(record.pools()),
        internal: record.internal,
        attachable: record.attachable,
        labels: record.labels.clone(),
        options: record.options.clone(),
        containers,
        ..NetworkInspect::default()
    }
}

/// A container's address of the second layer on a network.
fn mac(container: &ContainerRecord, network: &NetworkRecord, addresses: &Addresses) -> String {
    let asked = container.spec.networks.iter().find(|endpoint| endpoint.network == network.name).and_then(|e| e.mac_address);
    let mac = asked.or_else(|| addresses.first().map(crate::network::link::mac_of));
    mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":")).unwrap_or_default()
}
