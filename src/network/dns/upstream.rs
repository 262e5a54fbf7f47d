//! Questions to the resolvers of the host, or of a container's own (`dns:`).
//!
//! A resolver is asked by UDP over one connected socket that its questions share. Each question has a random id of its own, and
//! an answer is its answer by server, id and question. A socket serves for a few seconds, so that its port changes.

use super::message;
use crate::network::sandbox;
use hickory_proto::op::ResponseCode;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long one resolver may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// As many resolvers are asked one after the other; Docker's number.
const MOST_SERVERS: usize = 3;
/// How long a socket takes new questions. Who guesses answers has to find port and id within this time.
const SOCKET_LIFE: Duration = Duration::from_secs(5);
const LARGEST: usize = 65_535;
const PORT: u16 = 53;

/// By which protocol a question has come, and goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// Asks resolvers from one network namespace.
#[derive(Debug, Default)]
pub(super) struct Upstreams {
    /// The host's where it is absent.
    namespace: Option<Arc<OwnedFd>>,
    /// They live as long as they are received from.
    sockets: Mutex<HashMap<SocketAddr, Weak<SharedUpstream>>>,
    /// Held while a socket is opened: many questions at once open one.
    opening: tokio::sync::Mutex<()>,
    /// Those that receive; they end with this.
    receiving: Mutex<JoinSet<()>>,
}

/// A connected socket, and who waits for what at it.
#[derive(Debug)]
struct SharedUpstream {
    udp: UdpSocket,
    waiting: Mutex<PendingQuery>,
    opened: Instant,
}

#[derive(Debug, Default)]
struct PendingQuery {
    by_id: HashMap<u16, (Vec<u8>, oneshot::Sender<Vec<u8>>)>,
    /// Nobody reads the socket any more.
    closed: bool,
}

/// A question that waits; it does no longer when this is dropped.
struct Open<'a> {
    shared: &'a SharedUpstream,
    id: u16,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        locked(&self.shared.waiting).by_id.remove(&self.id);
    }
}

impl SharedUpstream {
    /// Enters a question that waits for its answer; `None` where the socket is closed.
    fn enter(&self, question: &[u8]) -> io::Result<Option<(u16, oneshot::Receiver<Vec<u8>>)>> {
        let mut waiting = locked(&self.waiting);
        if waiting.closed {
            return Ok(None);
        }
        let id = free_id(&waiting.by_id)?;
        let (sender, answer) = oneshot::channel();
        waiting.by_id.insert(id, (question.to_vec(), sender));
        Ok(Some((id, answer)))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upstreams {
    /// From a container's namespace: its own resolvers are on its networks.
    pub fn inside(namespace: Arc<OwnedFd>) -> Self {
        Upstreams { namespace: Some(namespace), ..Upstreams::default() }
    }

    /// Asks the servers in order until one answers with other than SERVFAIL or REFUSED, which may be its own trouble. Without such
    /// an answer gives the last one.
    pub async fn ask(&self, servers: &[IpAddr], raw: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let mut last = None;
        for server in servers.iter().take(MOST_SERVERS) {
            let server = SocketAddr::new(*server, PORT);
            let asked = timeout(ANSWER_TIMEOUT, async {
                match transport {
                    Transport::Udp => self.ask_udp(server, raw).await,
                    Transport::Tcp => self.ask_tcp(server, raw).await,
                }
            });
            let Ok(Ok(answer)) = asked.await else { continue };
            if !matches!(message::code(&answer), Some(ResponseCode::ServFail | ResponseCode::Refused)) {
                return Some(answer);
            }
            last = Some(answer);
        }
        last
    }

    async fn ask_udp(&self, server: SocketAddr, raw: &[u8]) -> io::Result<Vec<u8>> {
        let at = message::question(raw).ok_or(io::ErrorKind::InvalidInput)?;
        let (shared, id, answer) = loop {
            let shared = self.shared(server).await?;
            // `None` where it was closed in between.
            if let Some((id, answer)) = shared.enter(&raw[at.clone()])? {
                break (shared, id, answer);
            }
        };
        let _open = Open { shared: &shared, id };
        let mut question = raw.to_vec();
        question[..2].copy_from_slice(&id.to_be_bytes());
        shared.udp.send(&question).await?;
        let mut answer = answer.await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        answer[..2].copy_from_slice(&raw[..2]);
        Ok(answer)
    }

    /// The socket towards a server: the one that is open, or a new one.
    async fn shared(&self, server: SocketAddr) -> io::Result<Arc<SharedUpstream>> {
        let fresh = |shared: &SharedUpstream| shared.opened.elapsed() < SOCKET_LIFE && !locked(&shared.waiting).closed;
        let known = || locked(&self.sockets).get(&server).and_then(Weak::upgrade).filter(|shared| fresh(shared));
        if let Some(shared) = known() {
            return Ok(shared);
        }
        let _opening = self.opening.lock().await;
        if let Some(shared) = known() {
            return Ok(shared);
        }
        let socket = self.open(server, Type::DGRAM).await?;
        socket.connect(&server.into())?;
        let udp = UdpSocket::from_std(socket.into())?;
        let shared = Arc::new(SharedUpstream { udp, waiting: Mutex::default(), opened: Instant::now() });
        let mut sockets = locked(&self.sockets);
        sockets.retain(|_, shared| shared.strong_count() > 0);
        sockets.insert(server, Arc::downgrade(&shared));
        let mut receiving = locked(&self.receiving);
        while receiving.try_join_next().is_some() {}
        receiving.spawn(receive(shared.clone()));
        Ok(shared)
    }

    async fn ask_tcp(&self, server: SocketAddr, raw: &[u8]) -> io::Result<Vec<u8>> {
        let socket = self.open(server, Type::STREAM).await?;
        let mut stream = match socket.connect(&server.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => TcpStream::from_std(socket.into())?,
        };
        stream.writable().await?;
        stream.write_all(&[&(raw.len() as u16).to_be_bytes()[..], raw].concat()).await?;
        let length = stream.read_u16().await?;
        let mut answer = Vec::new();
        (&mut stream).take(length.into()).read_to_end(&mut answer).await?;
        if answer.len() != usize::from(length) || message::id(&answer) != message::id(raw) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(answer)
    }

    /// Opens a socket in the namespace.
    async fn open(&self, server: SocketAddr, kind: Type) -> io::Result<RawSocket> {
        let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
        let open = move || RawSocket::new(Domain::for_address(server), kind.nonblocking(), Some(protocol));
        match self.namespace.clone() {
            None => open(),
            Some(namespace) => tokio::task::spawn_blocking(move || sandbox::within(&namespace, open)).await?,
        }
    }
}

/// A random id that no other question has. `by_id` has room: fewer questions than ids are forwarded at once.
fn free_id<T>(by_id: &HashMap<u16, T>) -> io::Result<u16> {
    loop {
        let id = u16::from_ne_bytes(crate::random::bytes()?);
        if !by_id.contains_key(&id) {
            return Ok(id);
        }
    }
}

/// Gives each answer to who waits for it, until the socket is old and nobody does.
async fn receive(shared: Arc<SharedUpstream>) {
    loop {
        let left = SOCKET_LIFE.saturating_sub(shared.opened.elapsed()).max(Duration::from_millis(100));
        match timeout(left, shared.udp.readable()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return give_up(&shared),
            Err(_) => {
                let mut waiting = locked(&shared.waiting);
                if waiting.by_id.is_empty() && shared.opened.elapsed() >= SOCKET_LIFE {
                    waiting.closed = true;
                    return;
                }
                continue;
            }
        }
        let mut buffer = Vec::with_capacity(LARGEST);
        loop {
            tokio::task::coop::consume_budget().await;
            buffer.clear();
            match shared.udp.try_recv_buf(&mut buffer) {
                Ok(_) => deliver(&shared, &buffer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Nobody listens there (ECONNREFUSED), or it cannot be reached: whoever waits asks the next server.
                Err(_) => locked(&shared.waiting).by_id.clear(),
            }
        }
    }
}

fn give_up(shared: &SharedUpstream) {
    let mut waiting = locked(&shared.waiting);
    waiting.closed = true;
    waiting.by_id.clear();
}

/// Datagrams that answer no pending question are dropped: whoever guesses does not end the waiting.
fn deliver(shared: &SharedUpstream, datagram: &[u8]) {
    let Some(id) = message::id(datagram) else { return };
    let mut waiting = locked(&shared.waiting);
    if waiting.by_id.get(&id).is_some_and(|(question, _)| message::answers(datagram, question))
        && let Some((_, sender)) = waiting.by_id.remove(&id)
    {
        let _ = sender.send(datagram.to_vec());
    }
}
