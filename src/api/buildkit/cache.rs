//! The build cache, as `docker buildx du` and `docker buildx prune` see it.

use super::grpc::{Code, GrpcStatus};
use crate::api::images::prune::{Forgotten, forget};
use crate::api::reply::Filters;
use crate::engine::{Engine, EngineError};
use crate::image::prune::CachedStep;
use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::{DiskUsageResponse, PruneRequest, UsageRecord};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

fn failed(error: &EngineError) -> GrpcStatus {
    let code = if matches!(error, EngineError::Invalid(_)) { Code::InvalidArgument } else { Code::Internal };
    GrpcStatus::new(code, error.to_string())
}

/// What builds remember.
///
/// # Errors
/// The disk's.
pub(super) async fn usage(engine: &Arc<Engine>) -> Result<DiskUsageResponse, GrpcStatus> {
    let store = engine.images.store.clone();
    let steps = tokio::task::spawn_blocking(move || store.cached_steps()).await.map_err(GrpcStatus::internal)?;
    let steps = steps.map_err(GrpcStatus::internal)?;
    Ok(DiskUsageResponse { record: steps.into_iter().map(record).collect() })
}

/// Removes what builds remember, and gives what it was.
///
/// # Errors
/// When a filter is not understood; the disk's.
pub(super) async fn prune(engine: &Arc<Engine>, request: PruneRequest) -> Result<Vec<UsageRecord>, GrpcStatus> {
    let size = |bytes: i64| u64::try_from(bytes).ok().filter(|bytes| *bytes > 0);
    let mut filters = Filters::new();
    for filter in &request.filter {
        // containerd's form: `name==value`, `name~=expression`, or a name alone.
        let (name, value) = filter.split_once("==").or_else(|| filter.split_once("~=")).unwrap_or((filter, ""));
        let values = filters.entry(name.to_string()).or_default();
        if !value.is_empty() {
            values.push(value.trim_matches('"').to_string());
        }
    }
    if request.keep_duration > 0 {
        filters.insert("until".into(), vec![format!("{}s", request.keep_duration / 1_000_000_000)]);
    }
    let forgotten = Forgotten {
        all: request.all,
        reserved: size(request.reserved_space),
        most: size(request.max_used_space),
        min_free: size(request.min_free_space),
        filters,
    };
    let (gone, _) = forget(engine, forgotten).await.map_err(|e| failed(&e))?;
    Ok(gone.into_iter().map(record).collect())
}

fn record(step: CachedStep) -> UsageRecord {
    let time = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 })
    };
    UsageRecord {
        id: step.id,
        size: step.bytes as i64,
        created_at: time(step.created),
        last_used_at: time(step.last_used),
        usage_count: 1,
        record_type: step.kind.into(),
        shared: step.shared,
        ..UsageRecord::default()
    }
}
