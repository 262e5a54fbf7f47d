//! `/volumes`.

use super::reply::{self, FilterPatterns, Filters, Query, Reply, labelled};
use super::request_body;
use super::types::{VolumeCreate, VolumeInspect, VolumeList, VolumesPruned};
use crate::engine::record::{ContainerRecord, VolumeRecord};
use crate::engine::recovery::RecordKind;
use crate::engine::volumes::NewVolume;
use crate::engine::{Engine, EngineError};
use hyper::body::Incoming;
use hyper::{Method, Request};
use std::sync::Arc;

/// Docker's filters of volumes.
fn volume_filter(engine: &Engine, filters: &Filters) -> Result<impl Fn(&VolumeRecord) -> bool, EngineError> {
    let names = FilterPatterns::of(filters, "name");
    let driver = filters.get("driver").is_none_or(|list| list.is_empty() || list.iter().any(|driver| driver == "local"));
    let dangling = reply::boolean(filters, "dangling")?;
    Ok(move |volume: &VolumeRecord| {
        let uses = |record: &ContainerRecord| record.spec.mounts.iter().any(|mount| mount.source == volume.name);
        let used = || engine.containers.all().iter().any(|container| container.with_record(uses));
        labelled(&volume.labels, filters)
            && names.allow(&[volume.name.as_str()])
            && driver
            && dangling.is_none_or(|dangling| dangling != used())
    })
}

pub async fn route(engine: &Arc<Engine>, method: &Method, rest: &[&str], query: &Query, request: Request<Incoming>) -> Reply {
    match (method.as_str(), rest) {
        ("POST", ["prune"]) => prune(engine, query).await,
        ("GET", []) => {
            let filters = query.filters(&["dangling", "driver", "label", "name"])?;
            let wanted = volume_filter(engine, &filters)?;
            let list: Vec<VolumeRecord> = engine.volumes.all().into_iter().filter(|volume| wanted(volume)).collect();
            let names = FilterPatterns::of(&filters, "name");
            let asked = filters.keys().all(|key| key == "name");
            let unknown =
                engine.state.unknown(RecordKind::Volume).into_iter().filter(|v| asked && names.allow(&[v.name.as_str()]));
            let unknown = unknown.map(|v| VolumeInspect {
                name: v.name.clone(),
                driver: "unknown".into(),
                scope: "local".into(),
                ..VolumeInspect::default()
            });
            let volumes = list.iter().map(|v| volume(engine, v)).chain(unknown).collect();
            reply::json(200, &VolumeList { volumes, warnings: engine.state.warnings() })
        }
        ("POST", ["create"]) => {
            let body: VolumeCreate = request_body::optional(request).await?;
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
            match engine.volumes.remove(name) {
                Err(EngineError::NoSuch { what: "volume", .. }) if query.flag("force") => {}
                removed => removed?,
            }
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

/// A volume as lists show it.
pub(super) fn volume(engine: &Engine, record: &VolumeRecord) -> VolumeInspect {
    VolumeInspect {
        name: record.name.clone(),
        driver: "local".into(),
        mountpoint: engine.config.volume_data(&record.name).to_string_lossy().into_owned(),
        created_at: record.created_at.to_string(),
        labels: record.labels.clone(),
        scope: "local".into(),
        options: record.options.clone(),
        usage_data: None,
    }
}

/// Removes volumes that no container uses and that have no options: of those that have some, only the definition is here, and nothing
/// says how their files are to be had again.
async fn prune(engine: &Arc<Engine>, query: &Query) -> Reply {
    // Docker's filter `all` stands for volumes that have a name as well; before 1.42 they were meant in any case.
    let filters = query.filters(&["all", "label", "label!"])?;
    engine.state.check_prunable()?;
    let all = reply::boolean(&filters, "all")?.unwrap_or(query.version < (1, 42));
    let meant =
        |volume: &VolumeRecord| (all || volume.anonymous) && volume.options.is_empty() && labelled(&volume.labels, &filters);
    let (mut removed, mut bytes) = (Vec::new(), 0);
    for volume in engine.volumes.all().into_iter().filter(meant) {
        let size = crate::engine::containers::usage::disk_usage(&engine.config.volume_data(&volume.name));
        if engine.volumes.remove(&volume.name).is_ok() {
            bytes += size;
            removed.push(volume.name);
        }
    }
    engine.state.sync().await?;
    engine.events.emit_prune("volume", bytes);
    reply::json(200, &VolumesPruned { volumes_deleted: reply::or_null(removed), space_reclaimed: bytes })
}
