//! `/networks` and `/volumes`.

use super::reply::{self, Filters, Query, Reply, labelled};
use super::types::{NetworkConnect, NetworkDisconnect, VolumeCreate};
use crate::engine::record::{NetworkDriver, NetworkRecord, VolumeRecord};
use crate::engine::recovery::Kind;
use crate::engine::volumes::NewVolume;
use crate::engine::{Engine, EngineError};
use crate::network::address::Pool;
use hyper::body::Incoming;
use hyper::{Method, Request};
use serde_json::{Value, json};
use std::sync::Arc;

/// Whether a name fulfils the filter `name`.
fn named(name: &str, filters: &Filters) -> bool {
    filters.get("name").is_none_or(|list| list.iter().any(|wanted| name.contains(wanted.trim_matches(['^', '$']))))
}

pub async fn networks(engine: &Arc<Engine>, method: &Method, rest: &[&str], query: &Query, request: Request<Incoming>) -> Reply {
    let filters = query.filters();
    match (method.as_str(), rest) {
        ("POST", ["prune"]) => {
            engine.state.check_prunable()?;
            let removable = engine.networks.all().into_iter().filter(|n| labelled(&n.labels, &filters));
            let names: Vec<String> = removable.map(|n| n.name).collect();
            // One that is in use stays.
            let removed: Vec<&String> = names.iter().filter(|name| engine.networks.remove_unused(name)).collect();
            engine.state.sync().await?;
            reply::json(200, &json!({"NetworksDeleted": removed}))
        }
        ("POST", [name, action @ ("connect" | "disconnect")]) => {
            let (engine, name) = (engine.clone(), (*name).to_string());
            if *action == "connect" {
                let body: NetworkConnect = reply::json_body(request).await?;
                let container = engine.containers.find(&body.container)?;
                let endpoint = super::spec::endpoint(&name, &body.endpoint_config.unwrap_or_default())?;
                reply::to_its_end(async move { engine.networks.connect(&container, &name, endpoint).await }).await?;
            } else {
                let body: NetworkDisconnect = reply::json_body(request).await?;
                let container = engine.containers.find(&body.container)?;
                reply::to_its_end(async move { engine.networks.disconnect(&container, &name).await }).await?;
            }
            reply::empty(200)
        }
        ("GET", []) => {
            let mut list = engine.networks.all();
            list.retain(|n| labelled(&n.labels, &filters) && named(&n.name, &filters));
            let unknown =
                engine.state.unknown(Kind::Network).into_iter().filter(|n| filters.is_empty() || named(&n.name, &filters));
            let unknown =
                unknown.map(|n| json!({"Name": n.name, "Id": n.id, "Driver": "unknown", "Scope": "local", "Labels": {}}));
            reply::json(200, &list.iter().map(|n| network(engine, n)).chain(unknown).collect::<Vec<_>>())
        }
        ("POST", ["create"]) => {
            let new = super::spec::network(reply::json_body(request).await?)?;
            let worker = engine.clone();
            let made = tokio::task::spawn_blocking(move || worker.networks.create(&new)).await;
            let record = made.map_err(EngineError::from)??;
            engine.state.sync().await?;
            reply::json(201, &json!({"Id": record.id, "Warning": ""}))
        }
        ("GET", [name]) => reply::json(200, &network(engine, &engine.networks.find(name)?)),
        ("DELETE", [name]) => {
            let (worker, name) = (engine.clone(), (*name).to_string());
            let removed = tokio::task::spawn_blocking(move || worker.networks.remove(&name)).await;
            removed.map_err(EngineError::from)??;
            engine.state.sync().await?;
            reply::empty(204)
        }
        _ => super::server::not_found(method, request.uri().path()),
    }
}

fn network(engine: &Engine, record: &NetworkRecord) -> Value {
    let mut members = serde_json::Map::new();
    for container in engine.containers.all().iter().filter(|c| c.status().is_alive()) {
        let container = container.record();
        if let Some(addresses) = container.endpoints.get(&record.id) {
            let with_prefix = |ipv6| {
                let pool = record.pool(ipv6)?;
                Some(format!("{}/{}", addresses.of_family(ipv6)?, pool.subnet.prefix()))
            };
            let with_prefix = |ipv6| with_prefix(ipv6).unwrap_or_default();
            members.insert(
                container.id.clone(),
                json!({"Name": container.name, "IPv4Address": with_prefix(false), "IPv6Address": with_prefix(true)}),
            );
        }
    }
    let mut options = record.options.clone();
    if record.driver == NetworkDriver::Bridge {
        options.insert("com.docker.network.bridge.name".into(), record.bridge());
    }
    let pool = |pool: &Pool| {
        let mut config = json!({"Subnet": pool.subnet.to_string(), "Gateway": pool.gateway.to_string()});
        if let Some(range) = pool.range {
            config["IPRange"] = json!(range.to_string());
        }
        if !pool.reserved.is_empty() {
            config["AuxiliaryAddresses"] = json!(pool.reserved);
        }
        config
    };
    let pools: Vec<Value> = record.pools().map(pool).collect();
    json!({
        "Name": record.name,
        "Id": record.id,
        "Created": record.created_at.to_string(),
        "Scope": "local",
        "Driver": record.driver.as_str(),
        "EnableIPv4": record.ipv4.is_some(),
        "EnableIPv6": record.ipv6.is_some(),
        "Internal": record.internal,
        "IPAM": {"Driver": "default", "Config": pools},
        "Labels": record.labels,
        "Options": options,
        "Containers": members,
    })
}

pub async fn volumes(engine: &Arc<Engine>, method: &Method, rest: &[&str], query: &Query, request: Request<Incoming>) -> Reply {
    let filters = query.filters();
    match (method.as_str(), rest) {
        ("POST", ["prune"]) => {
            engine.state.check_prunable()?;
            // Docker's filter `all` stands for volumes that have a name as well.
            let all = filters.get("all").is_some_and(|values| values.iter().any(|v| v == "true" || v == "1"));
            let (mut removed, mut bytes) = (Vec::new(), 0);
            for volume in engine.volumes.all().into_iter().filter(|v| (all || v.anonymous) && labelled(&v.labels, &filters)) {
                let size = crate::engine::containers::usage::disk_usage(&engine.config.volume_data(&volume.name));
                if engine.volumes.remove(&volume.name).is_ok() {
                    bytes += size;
                    removed.push(volume.name);
                }
            }
            engine.state.sync().await?;
            reply::json(200, &json!({"VolumesDeleted": removed, "SpaceReclaimed": bytes}))
        }
        ("GET", []) => {
            let mut list = engine.volumes.all();
            list.retain(|v| labelled(&v.labels, &filters) && named(&v.name, &filters));
            let unknown =
                engine.state.unknown(Kind::Volume).into_iter().filter(|v| filters.is_empty() || named(&v.name, &filters));
            let unknown = unknown.map(|v| json!({"Name": v.name, "Driver": "unknown", "Scope": "local", "Labels": {}}));
            let list: Vec<Value> = list.iter().map(|v| volume(engine, v)).chain(unknown).collect();
            reply::json(200, &json!({"Volumes": list, "Warnings": engine.state.warnings()}))
        }
        ("POST", ["create"]) => {
            let body: VolumeCreate = reply::optional_body(request).await?;
            let record = engine.volumes.create(new_volume(body)?)?;
            engine.state.sync().await?;
            reply::json(201, &volume(engine, &record))
        }
        ("GET", [name]) => {
            let found = engine.volumes.all().into_iter().find(|v| v.name == *name);
            let record = found.ok_or_else(|| EngineError::NoSuch { what: "volume", name: (*name).into() })?;
            reply::json(200, &volume(engine, &record))
        }
        ("DELETE", [name]) => {
            engine.volumes.remove(name)?;
            engine.state.sync().await?;
            reply::empty(204)
        }
        _ => super::server::not_found(method, request.uri().path()),
    }
}

/// A volume without a name gets one, and counts as anonymous.
fn new_volume(create: VolumeCreate) -> Result<NewVolume, EngineError> {
    if !matches!(create.driver.as_str(), "" | "local") {
        return Err(EngineError::NoSuch { what: "volume plugin", name: create.driver });
    }
    let VolumeCreate { name, mut labels, driver_opts: options, .. } = create;
    let anonymous = name.is_empty();
    if anonymous {
        labels.insert("com.docker.volume.anonymous".into(), String::new());
    }
    let name = if anonymous { crate::engine::new_id().map_err(EngineError::io("making an id"))? } else { name };
    Ok(NewVolume { name, labels, options, anonymous })
}

fn volume(engine: &Engine, record: &VolumeRecord) -> Value {
    json!({
        "Name": record.name,
        "Driver": "local",
        "Mountpoint": engine.config.volume_data(&record.name),
        "CreatedAt": record.created_at.to_string(),
        "Labels": record.labels,
        "Scope": "local",
        "Options": record.options,
    })
}
