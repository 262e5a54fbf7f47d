//! Connections to the API's socket: how many, and which of them has to go where there are too many.
//!
//! A connection is busy from a request's head to the end of its answer. Where there is no room for a new one, the oldest that is
//! not busy ends: clients that hold connections without asking keep nobody out.

use super::reply::Body;
use crate::network::descriptors;
use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

/// Connections at once, each of one descriptor; fewer where the limit of open files is small.
const MOST: u64 = 1024;
/// The same of a TCP port, whose connections have four each; a port's clients take none of the socket's.
const MOST_OF_PORT: u64 = MOST / 4;
/// Answers that go on as long as their client listens (`logs`, `events`, `stats`, `attach`), and again as many processes
/// (`exec`): each may hold 128 KiB for a client that does not read. The other connections are for commands.
const MOST_STREAMS: usize = 256;

/// The open connections, in the order in which they have come.
pub(super) struct Connections {
    open: Mutex<BTreeMap<u64, Arc<OpenConnection>>>,
    /// How many they are, for whoever waits for the last.
    count: Arc<watch::Sender<usize>>,
    most: usize,
}

#[derive(Debug, Default)]
struct OpenConnection {
    /// Requests whose answers have not ended: one, or none.
    requests: AtomicUsize,
    end: Notify,
}

/// A connection's entry, until it is dropped.
pub(super) struct ConnectionEntry {
    connections: Arc<Connections>,
    number: u64,
    connection: Arc<OpenConnection>,
}

impl Connections {
    pub(super) fn new(count: Arc<watch::Sender<usize>>) -> Arc<Self> {
        Arc::new(Connections { open: Mutex::default(), count, most: descriptors::part(MOST) })
    }

    pub(super) fn of_port(count: Arc<watch::Sender<usize>>) -> Arc<Self> {
        Arc::new(Connections { open: Mutex::default(), count, most: descriptors::part(MOST_OF_PORT) })
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<OpenConnection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a new connection, and closes an idle one if need be; `None` where all are busy.
    pub(super) fn enter(self: &Arc<Self>) -> Option<ConnectionEntry> {
        let mut open = self.open();
        if open.len() >= self.most {
            let idle = open.iter().find(|(_, known)| known.requests.load(Ordering::Acquire) == 0);
            let number = *idle?.0;
            if let Some(idle) = open.remove(&number) {
                idle.end.notify_one();
            }
        }
        let number = open.last_key_value().map_or(0, |(number, _)| number + 1);
        let connection = Arc::new(OpenConnection::default());
        open.insert(number, connection.clone());
        self.count.send_modify(|n| *n += 1);
        Some(ConnectionEntry { connections: self.clone(), number, connection })
    }
}

impl ConnectionEntry {
    /// Comes back when the connection is to make room for another.
    pub(super) async fn ended(&self) {
        self.connection.end.notified().await;
    }

    /// The count of connections, for a connection that goes on after it was upgraded.
    pub(super) fn counted(&self) -> ConnectionCounter {
        ConnectionCounter(self.connections.count.clone())
    }

    /// Counts a request as long as this lives.
    pub(super) fn request(&self) -> Busy {
        self.connection.requests.fetch_add(1, Ordering::AcqRel);
        Busy { connection: self.connection.clone(), stream: None }
    }
}

/// Counts an upgraded connection in among those that are open: an engine with one of them is not idle.
#[derive(Clone)]
pub(super) struct ConnectionCounter(Arc<watch::Sender<usize>>);

/// An upgraded connection that counts.
pub(super) struct HeldConnection(Arc<watch::Sender<usize>>);

impl ConnectionCounter {
    pub(super) fn hold(self) -> HeldConnection {
        self.0.send_modify(|n| *n += 1);
        HeldConnection(self.0)
    }
}

impl Drop for HeldConnection {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

impl Drop for ConnectionEntry {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        // Its number may be another's by now, if it had to make room.
        if open.get(&self.number).is_some_and(|known| Arc::ptr_eq(known, &self.connection)) {
            open.remove(&self.number);
        }
        self.connections.count.send_modify(|n| *n -= 1);
    }
}

/// A request that is being answered, and its place among the streams if it has one.
pub(super) struct Busy {
    connection: Arc<OpenConnection>,
    stream: Option<StreamPermit>,
}

impl Busy {
    pub(super) fn with(mut self, stream: Option<StreamPermit>) -> Self {
        self.stream = stream;
        self
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.connection.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A permit for a stream.
pub(super) type StreamPermit = Arc<OwnedSemaphorePermit>;

/// The purpose of a stream: followers do not keep clients from running commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamKind {
    Follow,
    Exec,
}

/// Takes a permit for a stream of a kind, if there is one.
pub(super) fn stream(kind: StreamKind) -> Option<StreamPermit> {
    static STREAMS: OnceLock<[Arc<Semaphore>; 2]> = OnceLock::new();
    let each = || Arc::new(Semaphore::new((descriptors::part(MOST) / 2).min(MOST_STREAMS)));
    let streams = STREAMS.get_or_init(|| [each(), each()]);
    streams[kind as usize].clone().try_acquire_owned().ok().map(Arc::new)
}

/// An answer that keeps its connection busy until it has been sent.
pub(super) fn until_sent(response: Response<Body>, busy: Busy) -> Response<Body> {
    response.map(|body| http_body_util::BodyExt::boxed_unsync(CountedConnection { body, _busy: busy }))
}

struct CountedConnection {
    body: Body,
    _busy: Busy,
}

impl HttpBody for CountedConnection {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_idle_connection_makes_room() {
        let count = Arc::new(watch::Sender::new(0));
        let connections = Arc::new(Connections { open: Mutex::default(), count: count.clone(), most: 3 });
        let enter = || connections.enter();
        let (first, second, third) = (enter().expect("room"), enter().expect("room"), enter().expect("room"));
        let busy = first.request();
        let fourth = enter().expect("the second makes room");
        second.ended().await;
        drop(second);
        assert_eq!((*count.borrow(), connections.open().len()), (3, 3));
        let all = [third.request(), fourth.request()];
        assert!(enter().is_none(), "all are busy");
        drop(busy);
        let fifth = enter().expect("the first is idle");
        first.ended().await;
        drop((all, third, fourth, fifth));
        drop(first);
        assert_eq!((*count.borrow(), connections.open().len()), (0, 0));
    }
}
