//! The bodies of requests that are read as a whole, within a bound for all of them together.

use super::types;
use crate::engine::EngineError;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Body, Frame, Incoming};
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes of the largest body: a project with its configs. Others than projects are a few KiB.
pub(super) const MOST_OF_PROJECT: usize = 16 << 20;
const MOST_OF_OTHERS: usize = 1 << 20;
/// Bytes of all bodies that are being read beyond what is free to each, in units: one project's, and four others'. A project that does
/// not come keeps nobody but projects waiting.
static ROOM_OF_PROJECTS: Room = Room::new(MOST_OF_PROJECT, BODY_TIMEOUT, STALL_TIMEOUT);
static ROOM_OF_OTHERS: Room = Room::new(4 * MOST_OF_OTHERS, BODY_TIMEOUT, STALL_TIMEOUT);
const UNIT: usize = 1 << 10;
/// Bytes of a body that wait for no other: most are smaller.
const FREE: usize = 16 << 10;
/// How long a body may stand still.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// The same where others wait for the room that it has, or while it waits itself.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that a body brings in that time: one that comes drop by drop stands still for those who wait.
const LEAST_OF_STALL: usize = 32 << 10;
/// How long a body waits for room: until those that do not come have been given up.
const ROOM_TIMEOUT: Duration = Duration::from_secs(90);

/// Room for bodies, and those who wait for it.
struct Room {
    units: Semaphore,
    waiting: AtomicUsize,
    /// How long a body may stand still, and how long where somebody waits.
    patience: (Duration, Duration),
}

impl Room {
    const fn new(bytes: usize, still: Duration, wanted: Duration) -> Self {
        Room { units: Semaphore::const_new(bytes / UNIT), waiting: AtomicUsize::new(0), patience: (still, wanted) }
    }

    fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// The whole body as JSON.
///
/// # Errors
/// When it is empty, not JSON, has a value of the wrong type, is too large, or takes too long.
pub async fn json<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, EngineError> {
    types::parse(&whole(request.into_body(), MOST_OF_OTHERS, &ROOM_OF_OTHERS).await?.bytes)
}

/// The whole body, for who reads it later.
///
/// # Errors
/// When it is too large, or takes too long.
pub async fn bytes(request: Request<Incoming>) -> Result<Bytes, EngineError> {
    Ok(whole(request.into_body(), MOST_OF_OTHERS, &ROOM_OF_OTHERS).await?.bytes)
}

/// The same of a body that may be empty: the default then.
///
/// # Errors
/// As [`json`].
pub async fn optional<T: DeserializeOwned + Default>(request: Request<Incoming>) -> Result<T, EngineError> {
    types::parse_optional(&whole(request.into_body(), MOST_OF_OTHERS, &ROOM_OF_OTHERS).await?.bytes)
}

/// The same of a project.
///
/// # Errors
/// As [`json`].
pub async fn project<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, EngineError> {
    types::parse(&whole(request.into_body(), MOST_OF_PROJECT, &ROOM_OF_PROJECTS).await?.bytes)
}

/// A body, and the room that it takes until it is parsed.
struct WholeBody<'a> {
    bytes: Bytes,
    _room: Option<SemaphorePermit<'a>>,
}

/// A piece of a body; `None` at its end.
type Piece<E> = Option<Result<Frame<Bytes>, E>>;

async fn whole<B>(mut body: B, most: usize, room: &Room) -> Result<WholeBody<'_>, EngineError>
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
{
    let declared = body.size_hint().exact().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if declared.is_some_and(|length| length > most) {
        return Err(EngineError::TooLarge(most));
    }
    let late = || EngineError::Invalid("the request's body does not come".into());
    let (mut read, mut taken, mut ahead) = (BytesMut::new(), None, None);
    let mut pace = Pace::new();
    loop {
        let frame = match (ahead.take(), &taken) {
            (Some(frame), _) => frame,
            (None, None) => timeout(room.patience.0, body.frame()).await.map_err(|_| late())?,
            (None, Some(_)) => pace.next(&mut body, room).await.ok_or_else(late)?,
        };
        let Some(frame) = frame else { return Ok(WholeBody { bytes: read.freeze(), _room: taken }) };
        let frame = frame.map_err(|error| EngineError::Invalid(format!("the request's body cannot be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = read.len() + data.len();
        if length > most {
            return Err(EngineError::TooLarge(most));
        }
        if length > FREE && taken.is_none() {
            let wait = wait_for_room(room, declared.unwrap_or(most), &mut body);
            let (permit, next) = timeout(ROOM_TIMEOUT, wait).await.unwrap_or_else(|_| Err(still_full()))?;
            (taken, ahead) = (Some(permit), next);
            pace = Pace::new();
            read.reserve(declared.map_or(0, |declared| declared - read.len()));
        }
        pace.bytes += data.len();
        read.extend_from_slice(&data);
    }
}

fn still_full() -> EngineError {
    EngineError::Unavailable("large requests of others are still being read: try again later".into())
}

/// How fast a body comes that has room.
struct Pace {
    since: Instant,
    /// Bytes since then.
    bytes: usize,
}

impl Pace {
    fn new() -> Self {
        Pace { since: Instant::now(), bytes: 0 }
    }

    /// The next piece; `None` when it stands still, or comes too slowly for those who wait.
    async fn next<B>(&mut self, body: &mut B, room: &Room) -> Option<Piece<B::Error>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let patience = Instant::now() + room.patience.0;
        loop {
            match timeout_at(self.since + room.patience.1, body.frame()).await {
                Ok(frame) => return Some(frame),
                Err(_) if Instant::now() >= patience => return None,
                Err(_) if room.is_wanted() && self.bytes < LEAST_OF_STALL => return None,
                Err(_) => *self = Pace::new(),
            }
        }
    }
}

/// One that waits for room, until this is dropped.
struct WaitingBody<'a>(&'a Room);

impl<'a> WaitingBody<'a> {
    fn new(room: &'a Room) -> Self {
        room.waiting.fetch_add(1, Ordering::Relaxed);
        WaitingBody(room)
    }
}

impl Drop for WaitingBody<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Room for a whole body: in parts, bodies that each have some of it would wait for each other. One whose next piece does not come
/// meanwhile has no place among those who wait.
async fn wait_for_room<'a, B>(
    room: &'a Room,
    bytes: usize,
    body: &mut B,
) -> Result<(SemaphorePermit<'a>, Option<Piece<B::Error>>), EngineError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
    let _waiting = WaitingBody::new(room);
    let mut acquiring = pin!(room.units.acquire_many(units));
    let next = tokio::select! {
        biased;
        permit = &mut acquiring => return Ok((permit.map_err(|_| still_full())?, None)),
        next = timeout(room.patience.1, body.frame()) => next,
    };
    let next = next.map_err(|_| EngineError::Invalid("the request's body does not come".into()))?;
    Ok((acquiring.await.map_err(|_| still_full())?, Some(next)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::sync::mpsc;

    /// A body whose pieces are sent by a test.
    struct Sent(mpsc::UnboundedReceiver<usize>);

    impl Body for Sent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(context).map(|length| length.map(|length| Ok(Frame::data(vec![b' '; length].into()))))
        }
    }

    /// Sends a piece of so many bytes each time, as long as there is a reader.
    fn body(first: usize, then: usize, every: Duration, whole: usize) -> Sent {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut left = whole - first;
            let mut send = sender.send(first);
            while send.is_ok() && left > 0 && then > 0 {
                tokio::time::sleep(every).await;
                send = sender.send(then.min(left));
                left = left.saturating_sub(then);
            }
            // One that stands still does not end.
            if left > 0 {
                sender.closed().await;
            }
        });
        Sent(receiver)
    }

    const STILL: Duration = Duration::from_secs(2);
    const WANTED: Duration = Duration::from_secs(1);
    const EVERY: Duration = Duration::from_millis(100);

    async fn took(body: Sent, room: &'static Room) -> (Result<usize, String>, Duration) {
        let begun = Instant::now();
        let read = whole(body, MOST_OF_PROJECT, room).await.map(|body| body.bytes.len()).map_err(|error| error.to_string());
        (read, begun.elapsed())
    }

    #[tokio::test]
    async fn a_body_that_comes_steadily_may_take_long() {
        static ROOM: Room = Room::new(MOST_OF_PROJECT, STILL, WANTED);
        let (read, time) = took(body(30_000, 20_000, EVERY, 630_000), &ROOM).await;
        assert!(read == Ok(630_000) && time > STILL, "{read:?} {time:?}");
        let (read, time) = took(body(30_000, 0, EVERY, 630_000), &ROOM).await;
        assert!(read.is_err_and(|why| why.contains("does not come")) && time >= STILL, "{time:?}");
    }

    #[tokio::test]
    async fn bodies_that_do_not_come_give_way_together() {
        static ROOM: Room = Room::new(MOST_OF_PROJECT, STILL, WANTED);
        let still: Vec<_> = (0..20).map(|_| tokio::spawn(took(body(30_000, 0, EVERY, 3_000_000), &ROOM))).collect();
        tokio::task::yield_now().await;
        let (read, time) = took(body(30_000, 0, EVERY, 30_000), &ROOM).await;
        assert!(read == Ok(30_000) && time < 8 * WANTED, "{read:?} {time:?}");
        for one in still {
            assert!(one.await.expect("ended").0.is_err());
        }
    }

    #[tokio::test]
    async fn one_that_drips_gives_way_and_a_slow_one_does_not() {
        static ROOM: Room = Room::new(MOST_OF_PROJECT, Duration::from_secs(120), WANTED);
        for (then, expected) in [(1, Err(())), (20_000, Ok(430_000))] {
            let first = tokio::spawn(took(body(30_000, then, 2 * EVERY, 430_000), &ROOM));
            tokio::task::yield_now().await;
            let (read, time) = took(body(30_000, 0, EVERY, 30_000), &ROOM).await;
            assert!(read == Ok(30_000) && time < 20 * WANTED, "{then}: {read:?} {time:?}");
            assert_eq!(first.await.expect("ended").0.map_err(drop), expected, "{then}");
        }
    }
}
