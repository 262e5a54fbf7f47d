//! `/session`: a client's connection, on which it serves what only it has: files, secrets, an SSH agent, logins.
//!
//! A session that several builds share comes as a call instead (`Control.Session`): its bytes are the messages of that call.

use super::grpc::{Channel, Code, GrpcStatus, Messages};
use bollard_buildkit_proto::moby::buildkit::v1::BytesMessage;
use hyper::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};

/// How long a call waits for the session that it names: both connections are opened at once.
const APPEARS: Duration = Duration::from_secs(10);
/// A client that does not answer a ping for so long is gone.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of one call that may be ahead of their reader. A client sends each file's name in a frame of its own, and h2 ends a
/// connection with many small frames that wait: it allows for more the larger the connection's window is. What waits is bounded by
/// the calls, which are the engine's.
const WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes of an id, and methods of a session.
const MAX_ID: usize = 128;
const MAX_METHODS: usize = 64;
/// Bytes in each direction between a session and the call that carries it, and of one message.
const CARRIED: usize = 64 << 10;
const CHUNK: usize = 32 << 10;

/// What a client says of a session when it opens it.
pub(super) struct Offer {
    id: String,
    /// In lower case, as `/service/method`.
    methods: BTreeSet<String>,
}

/// A client that serves.
pub(super) struct Session {
    pub id: String,
    methods: BTreeSet<String>,
    pub channel: Channel,
}

static SESSIONS: LazyLock<watch::Sender<BTreeMap<String, Arc<Session>>>> = LazyLock::new(|| watch::Sender::new(BTreeMap::new()));

impl Offer {
    /// # Errors
    /// Why there can be no such session.
    pub fn of(headers: &HeaderMap) -> Result<Self, String> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim().to_string();
        let id = text("x-docker-expose-session-uuid");
        if id.is_empty() || id.len() > MAX_ID {
            return Err("the session has no id: send X-Docker-Expose-Session-Uuid".into());
        }
        if SESSIONS.borrow().contains_key(&id) {
            return Err(format!("session {id} already exists"));
        }
        let all = headers.get_all("x-docker-expose-session-grpc-method").iter();
        let methods = all.filter_map(|value| value.to_str().ok()).take(MAX_METHODS).map(str::to_ascii_lowercase);
        Ok(Offer { id, methods: methods.collect() })
    }
}

/// Keeps a session until its client leaves.
///
/// # Errors
/// When the client does not speak HTTP/2, or has such a session already.
pub(super) async fn serve(offer: Offer, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<(), String> {
    let mut http = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(64 << 10)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let (sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let Offer { id, methods } = offer;
    let session = Arc::new(Session { id: id.clone(), methods, channel: Channel::new(sender) });
    let is_new = SESSIONS.send_if_modified(|sessions| {
        let is_new = !sessions.contains_key(&id);
        if is_new {
            sessions.insert(id.clone(), session.clone());
        }
        is_new
    });
    if !is_new {
        return Err(format!("session {id} already exists"));
    }
    let _registered = RegisteredSession(id);
    drop(session);
    connection.await.map_err(|e| e.to_string())
}

/// Keeps a session whose connection is the messages of a call. Either ends the other.
pub(super) fn serve_call(offer: Offer, incoming: Messages) -> mpsc::Receiver<Result<BytesMessage, GrpcStatus>> {
    let (sender, receiver) = mpsc::channel(1);
    let (ours, theirs) = tokio::io::duplex(CARRIED);
    tokio::spawn(async move {
        let id = offer.id.clone();
        let ended = tokio::select! {
            ended = serve(offer, ours) => ended,
            ended = carry(theirs, incoming, &sender) => ended,
        };
        if let Err(why) = ended {
            tracing::debug!("session {id}: {why}");
            let _ = sender.send(Err(GrpcStatus::new(Code::Unavailable, why))).await;
        }
    });
    receiver
}

/// Copies a connection's bytes from and to messages, until the call or the connection ends.
async fn carry(
    stream: DuplexStream,
    mut incoming: Messages,
    outgoing: &mpsc::Sender<Result<BytesMessage, GrpcStatus>>,
) -> Result<(), String> {
    let (mut from, mut to) = tokio::io::split(stream);
    let down = async {
        while let Some(message) = incoming.next::<BytesMessage>().await.map_err(|status| status.to_string())? {
            to.write_all(&message.data).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    };
    let up = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = from.read(&mut buffer).await.map_err(|e| e.to_string())?;
            if n == 0 || outgoing.send(Ok(BytesMessage { data: buffer[..n].to_vec() })).await.is_err() {
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = down => ended,
        ended = up => ended,
        () = outgoing.closed() => Ok(()),
    }
}

/// The entry of a session, which ends with its connection.
struct RegisteredSession(String);

impl Drop for RegisteredSession {
    fn drop(&mut self) {
        SESSIONS.send_modify(|sessions| drop(sessions.remove(&self.0)));
    }
}

/// A session by its id.
///
/// # Errors
/// When there is none, and none comes.
pub(super) async fn find(id: &str) -> Result<Arc<Session>, GrpcStatus> {
    let missing =
        || GrpcStatus::new(Code::NotFound, format!("no active session for {id}: the client has left, or has opened none"));
    if id.is_empty() {
        return Err(missing());
    }
    let mut sessions = SESSIONS.subscribe();
    let found = tokio::time::timeout(APPEARS, sessions.wait_for(|sessions| sessions.contains_key(id))).await;
    found.ok().and_then(Result::ok).and_then(|sessions| sessions.get(id).cloned()).ok_or_else(missing)
}

impl Session {
    /// Comes back when the client has left.
    pub async fn gone(&self) {
        let _ = SESSIONS.subscribe().wait_for(|sessions| !sessions.contains_key(&self.id)).await;
    }

    pub fn supports(&self, method: &str) -> bool {
        self.methods.contains(&method.to_ascii_lowercase())
    }
}
