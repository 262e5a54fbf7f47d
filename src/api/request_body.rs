//! The bodies of requests that are read as a whole, within a bound for all of them together.

use super::types;
use crate::engine::EngineError;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Body, Frame, Incoming};
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes of the largest body: a project with its configs. Others than projects are a few KiB.
pub(super) const MOST_OF_PROJECT: usize = 16 << 20;
const MOST_OF_OTHERS: usize = 1 << 20;
/// Bytes of all bodies that are being read beyond what is free to each, in units: a project's and a few more.
static ROOM: Semaphore = Semaphore::const_new((20 << 20) / UNIT);
/// How many bodies wait for room.
static WAITING: AtomicUsize = AtomicUsize::new(0);
const UNIT: usize = 1 << 10;
/// Bytes of a body that wait for no other: most are smaller.
const FREE: usize = 16 << 10;
/// How long a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a body may stand still while others wait for the room that it has.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a body waits for room: until those that do not come have been given up.
const ROOM_TIMEOUT: Duration = Duration::from_secs(90);

/// The whole body as JSON.
///
/// # Errors
/// When it is empty, not JSON, has a value of the wrong type, is too large, or takes too long.
pub async fn json<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, EngineError> {
    types::parse(&whole(request, MOST_OF_OTHERS).await?.bytes)
}

/// The whole body, for who reads it later.
///
/// # Errors
/// When it is too large, or takes too long.
pub async fn bytes(request: Request<Incoming>) -> Result<Bytes, EngineError> {
    Ok(whole(request, MOST_OF_OTHERS).await?.bytes)
}

/// The same of a body that may be empty: the default then.
///
/// # Errors
/// As [`json`].
pub async fn optional<T: DeserializeOwned + Default>(request: Request<Incoming>) -> Result<T, EngineError> {
    types::parse_optional(&whole(request, MOST_OF_OTHERS).await?.bytes)
}

/// The same of a project.
///
/// # Errors
/// As [`json`].
pub async fn project<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, EngineError> {
    types::parse(&whole(request, MOST_OF_PROJECT).await?.bytes)
}

/// A body, and the room that it takes until it is parsed.
struct WholeBody {
    bytes: Bytes,
    _room: Option<SemaphorePermit<'static>>,
}

async fn whole(request: Request<Incoming>, most: usize) -> Result<WholeBody, EngineError> {
    let mut body = request.into_body();
    let declared = body.size_hint().exact().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if declared.is_some_and(|length| length > most) {
        return Err(EngineError::TooLarge(most));
    }
    let mut deadline = Instant::now() + BODY_TIMEOUT;
    let (mut read, mut room) = (BytesMut::new(), None);
    loop {
        let frame = match &room {
            None => timeout_at(deadline, body.frame()).await.ok(),
            Some(_) => frame_or_stalled(&mut body, deadline).await,
        };
        let frame = frame.ok_or_else(|| EngineError::Invalid("the request's body does not come".into()))?;
        let Some(frame) = frame else { return Ok(WholeBody { bytes: read.freeze(), _room: room }) };
        let frame = frame.map_err(|error| EngineError::Invalid(format!("the request's body cannot be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = read.len() + data.len();
        if length > most {
            return Err(EngineError::TooLarge(most));
        }
        if length > FREE && room.is_none() {
            room = Some(take_room(declared.unwrap_or(most)).await?);
            deadline = Instant::now() + BODY_TIMEOUT;
            read.reserve(declared.map_or(0, |declared| declared - read.len()));
        }
        read.extend_from_slice(&data);
    }
}

/// The next piece of a body that has room; `None` when it has not come in time, which is shorter where others wait.
async fn frame_or_stalled(body: &mut Incoming, deadline: Instant) -> Option<Option<Result<Frame<Bytes>, hyper::Error>>> {
    loop {
        let stalls = deadline.min(Instant::now() + STALL_TIMEOUT);
        match timeout_at(stalls, body.frame()).await {
            Ok(frame) => return Some(frame),
            Err(_) if Instant::now() >= deadline || WAITING.load(Ordering::Relaxed) > 0 => return None,
            Err(_) => {}
        }
    }
}

/// One that waits for room, until this is dropped.
struct WaitingBody;

impl WaitingBody {
    fn new() -> Self {
        WAITING.fetch_add(1, Ordering::Relaxed);
        WaitingBody
    }
}

impl Drop for WaitingBody {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Room for a whole body. In parts, bodies that each have some of it would wait for each other.
async fn take_room(bytes: usize) -> Result<SemaphorePermit<'static>, EngineError> {
    let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
    let _waiting = WaitingBody::new();
    match timeout(ROOM_TIMEOUT, ROOM.acquire_many(units)).await {
        Ok(Ok(room)) => Ok(room),
        _ => Err(EngineError::Unavailable("large requests of others are still being read: try again later".into())),
    }
}
