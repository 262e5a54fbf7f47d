//! `POST /images/prune` and `POST /build/prune`.

use super::{created, deleted, labels, untagged};
use crate::api::reply::{self, Filters, Query, Reply};
use crate::api::types::{CachePruned, ImageRemoval, ImagesPruned};
use crate::engine::images::Cache;
use crate::engine::{Engine, EngineError};
use crate::image::prune::CachedStep;
use std::sync::Arc;

/// Removes images that no container uses: those without a name, or all with Docker's filter `dangling=false`.
pub async fn images(engine: &Arc<Engine>, query: &Query) -> Reply {
    let filters = query.filters(&["dangling", "label", "label!", "until"])?;
    let all = reply::boolean(&filters, "dangling")? == Some(false);
    let old_enough = reply::older_than(&filters)?;
    let meant = |name: Option<&crate::image::ImageRef>, image: &crate::image::Image| {
        // Of an image without a time it is not known how old it is.
        let time = Some(created(image)).filter(|_| image.config.created().is_some());
        let time = time.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()).unwrap_or(jiff::Timestamp::MAX);
        (all || name.is_none())
            && (!filters.contains_key("until") || old_enough(time))
            && reply::labelled(&labels(image), &filters)
    };
    let cache = if query.flag("builds") { Cache::ForgetAll } else { Cache::Keep };
    let removed = engine.images.prune(meant, cache).await?;
    engine.events.emit_prune("image", removed.bytes);
    let names = removed.untagged.iter().map(|name| untagged(name.familiar()));
    let list: Vec<ImageRemoval> = names.chain(removed.deleted.iter().map(deleted)).collect();
    let pruned = ImagesPruned {
        images_deleted: reply::or_null(list),
        space_reclaimed: removed.bytes,
        layers: removed.layers,
        blobs: removed.blobs,
    };
    reply::json(200, &pruned)
}

const CACHE_FILTERS: [&str; 10] =
    ["description", "id", "inuse", "label", "parent", "private", "shared", "type", "unused-for", "until"];

/// `POST /build/prune`: what builds remember. Without `all`, steps whose layer an image has stay.
pub async fn builds(engine: &Arc<Engine>, query: &Query) -> Reply {
    let filters = query.filters(&CACHE_FILTERS)?;
    let size = |keys: &[&str]| -> Result<Option<u64>, EngineError> {
        let given = keys.iter().find_map(|key| query.get(key).filter(|text| !text.is_empty()).map(|text| (*key, text)));
        let parse = |(key, text): (&str, &str)| {
            text.parse::<i64>().map_err(|_| EngineError::Invalid(format!("{key} is in bytes and expects an integer, got {text}")))
        };
        Ok(given.map(parse).transpose()?.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0))
    };
    let reserved = size(&["reserved-space", "keep-storage"])?;
    let most = size(&["max-used-space"])?;
    let min_free = size(&["min-free-space"])?;
    let (going, bytes) = forget(engine, Forgotten { all: query.flag("all"), reserved, most, min_free, filters }).await?;
    let ids: Vec<String> = going.into_iter().map(|step| step.id).collect();
    reply::json(200, &CachePruned { caches_deleted: reply::or_null(ids), space_reclaimed: bytes })
}

/// What builds are to forget.
pub struct Forgotten {
    /// Steps whose layer an image has as well.
    pub all: bool,
    /// Bytes that may stay.
    pub reserved: Option<u64>,
    pub most: Option<u64>,
    /// Bytes of the disk that are to be free: refused.
    pub min_free: Option<u64>,
    pub filters: Filters,
}

/// Removes what builds remember. Gives what it was, and the bytes that are free again.
///
/// # Errors
/// When a filter is not understood, or free space is asked for; the disk's.
pub async fn forget(engine: &Arc<Engine>, forgotten: Forgotten) -> Result<(Vec<CachedStep>, u64), EngineError> {
    let Forgotten { all, reserved, most, min_free, filters } = forgotten;
    if min_free.is_some() {
        return Err(EngineError::Invalid("`min-free-space` is not there; use `reserved-space` or `max-used-space`".into()));
    }
    let meant = meant_steps(filters)?;
    let store = engine.images.store.clone();
    let mut known = tokio::task::spawn_blocking(move || store.cached_steps()).await.map_err(EngineError::from)??;
    // The ones that were used last stay.
    known.sort_by_key(|step| std::cmp::Reverse(step.last_used));
    let kept = match (reserved, most) {
        (Some(reserved), Some(most)) => Some(reserved.max(most)),
        (reserved, most) => reserved.or(most),
    };
    let mut bytes = 0;
    let going: Vec<CachedStep> = known
        .into_iter()
        .filter(|step| {
            bytes += step.bytes;
            kept.is_none_or(|kept| bytes > kept) && (all || !step.shared) && meant(step)
        })
        .collect();
    let size: u64 = going.iter().filter(|step| step.kind != "regular").map(|step| step.bytes).sum();
    let removed = engine.images.prune(|_, _| false, Cache::Forget(going.clone())).await?;
    let bytes = removed.bytes + size;
    engine.events.emit_prune("builder", bytes);
    Ok((going, bytes))
}

/// Docker's filters of the build cache. Steps have no parent, description or labels, and none is in use.
fn meant_steps(filters: Filters) -> Result<impl Fn(&CachedStep) -> bool, EngineError> {
    let times = |key: &str| filters.get(key).cloned();
    let until: Filters = match (times("until"), times("unused-for")) {
        (Some(_), Some(_)) => return Err(EngineError::Invalid("conflicting filters: \"until\" and \"unused-for\"".into())),
        (until, unused) => until.or(unused).map(|times| ("until".to_string(), times)).into_iter().collect(),
    };
    let old_enough = reply::older_than(&until)?;
    for key in ["id", "type", "parent", "description", "inuse", "shared", "private"] {
        if filters.get(key).is_some_and(|values| values.len() > 1) {
            return Err(EngineError::Invalid(format!("filter '{key}' expects only one value")));
        }
    }
    // A filter without a value means true.
    let flag = |key: &str| match filters.get(key).map(Vec::is_empty) {
        Some(true) => Ok(Some(true)),
        _ => reply::boolean(&filters, key),
    };
    let (in_use, shared, private) = (flag("inuse")?, flag("shared")?, flag("private")?);
    Ok(move |step: &CachedStep| {
        let one = |key: &str| filters.get(key).and_then(|values| values.first());
        let nothing_has_it = |key: &str| filters.get(key).is_none_or(|values| values.iter().all(String::is_empty));
        old_enough(jiff::Timestamp::try_from(step.last_used).unwrap_or(jiff::Timestamp::MAX))
            && one("id").is_none_or(|id| step.id.contains(id.as_str()))
            && one("type").is_none_or(|kind| kind == step.kind)
            && ["parent", "description", "label"].into_iter().all(nothing_has_it)
            && in_use != Some(true)
            && shared.is_none_or(|shared| shared == step.shared)
            && private.is_none_or(|private| private != step.shared)
    })
}
