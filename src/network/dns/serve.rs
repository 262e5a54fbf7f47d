//! A container's resolver at work: its sockets, and the bounds of what the container may have of the engine by them.

use super::message;
use super::upstream::{Transport, Upstreams};
use super::{Names, View};
use crate::network::budget::{Budget, Share};
use crate::network::descriptors;
use crate::network::sandbox::Resolver;
use hickory_proto::op::{Message, ResponseCode};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, LazyLock, RwLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Questions of one container that wait for other resolvers at once, as with Docker. More are refused.
const MOST_FORWARDED: usize = 1024;
/// The same of all containers: some 4 KiB each.
const MOST_FORWARDED_TOGETHER: usize = 4096;
/// TCP connections of one container at once. More wait to be accepted.
const MOST_CONNECTIONS: usize = 64;
/// How long a connection may say nothing, or not take its answer.
const IDLE: Duration = Duration::from_secs(8);
/// The largest question by TCP; by UDP what is longer is cut off and no question.
const LARGEST_QUESTION: usize = 4096;
/// Bytes of an answer by TCP.
const LARGEST_ANSWER: usize = 65_535;
/// An accept loop that fails is out of descriptors: others may be closed meanwhile.
const BACK_OFF: Duration = Duration::from_millis(100);

/// However many questions of one container wait, another may ask.
static FORWARDED_TOGETHER: LazyLock<Arc<Budget>> = LazyLock::new(|| Budget::new(MOST_FORWARDED_TOGETHER));

/// Serves a container until the returned handle is dropped.
///
/// # Errors
/// When the sockets cannot be watched.
pub fn serve(resolver: Resolver, namespace: Arc<OwnedFd>, names: Arc<Names>, view: View) -> io::Result<Serving> {
    let udp = Arc::new(UdpSocket::from_std(resolver.udp)?);
    let tcp = TcpListener::from_std(resolver.tcp)?;
    let view: SharedView = Arc::new(RwLock::new(Arc::new(view)));
    let client = Arc::new(Asker {
        names,
        view: view.clone(),
        own: Upstreams::inside(namespace),
        forwarded: Semaphore::new(MOST_FORWARDED),
        of_all_forwarded: FORWARDED_TOGETHER.share(),
    });
    let udp_task = tokio::spawn(serve_udp(udp, client.clone()));
    let tcp_task = tokio::spawn(serve_tcp(tcp, client));
    Ok(Serving { view, tasks: [udp_task.abort_handle(), tcp_task.abort_handle()] })
}

/// A container's running resolver.
#[derive(Debug)]
pub struct Serving {
    view: SharedView,
    /// Whatever they have begun ends with them: a socket or a descriptor of theirs would keep the container's namespace.
    tasks: [tokio::task::AbortHandle; 2],
}

/// A view that may be replaced while it is looked through.
type SharedView = Arc<RwLock<Arc<View>>>;

impl Serving {
    /// Shows the container other networks from now on.
    pub fn set_view(&self, view: View) {
        *self.view.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(view);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// The container that asks.
struct Asker {
    names: Arc<Names>,
    view: SharedView,
    /// For resolvers of the container's own.
    own: Upstreams,
    forwarded: Semaphore,
    of_all_forwarded: Share,
}

impl Asker {
    fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The answer to a question about a member of the container's networks.
    fn local(&self, query: &Message, size: usize) -> Option<Vec<u8>> {
        message::encode(self.names.answer(&self.view(), query)?, size)
    }

    /// Asks other resolvers. A container's own (`dns:`) are asked from its network, so they may be on it, and 127.0.0.1 is its own
    /// loopback; the host's are asked from the host, and not for containers that have no way out.
    async fn forward(&self, query: &Message, raw: &[u8], transport: Transport) -> Vec<u8> {
        let fail = |code| message::reply(query, code).to_vec().unwrap_or_default();
        let (Ok(_own), Some(_of_all)) = (self.forwarded.try_acquire(), self.of_all_forwarded.take(1)) else {
            return fail(ResponseCode::Refused);
        };
        let view = self.view();
        let answer = if !view.servers.is_empty() {
            self.own.ask(&view.servers, raw, transport).await
        } else if self.names.may_forward(&view) {
            self.names.upstreams.ask(&host_resolvers(), raw, transport).await
        } else {
            return fail(ResponseCode::NXDomain);
        };
        answer.unwrap_or_else(|| fail(ResponseCode::ServFail))
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, client: Arc<Asker>) {
    let mut buffer = [0; LARGEST_QUESTION];
    let mut forwarding = JoinSet::new();
    loop {
        while forwarding.try_join_next().is_some() {}
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(BACK_OFF).await;
            continue;
        };
        let Some(query) = message::parse(&buffer[..length]) else { continue };
        if let Some(answer) = client.local(&query, message::udp_size(&query)) {
            let _ = socket.send_to(&answer, peer).await;
            continue;
        }
        // Without room for it no task is begun.
        if client.forwarded.available_permits() == 0 {
            let refused = message::reply(&query, ResponseCode::Refused).to_vec().unwrap_or_default();
            let _ = socket.send_to(&refused, peer).await;
            continue;
        }
        let (socket, client) = (socket.clone(), client.clone());
        let raw = buffer[..length].to_vec();
        forwarding.spawn(async move {
            let answer = client.forward(&query, &raw, Transport::Udp).await;
            let _ = socket.send_to(&answer, peer).await;
        });
    }
}

async fn serve_tcp(listener: TcpListener, client: Arc<Asker>) {
    /// The connection, and the one to another resolver.
    const DESCRIPTORS: usize = 2;
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let share = descriptors::of_resolvers().share();
    let mut conversations = JoinSet::new();
    loop {
        while conversations.try_join_next().is_some() {}
        let Ok(own) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(BACK_OFF).await;
            continue;
        };
        let taken = share.wait(DESCRIPTORS).await;
        let client = client.clone();
        conversations.spawn(async move {
            let _ = converse(stream, &client).await;
            drop((own, taken));
        });
    }
}

/// Answers the questions of a connection, one after the other, until the other end closes it or says nothing for a while.
async fn converse(mut stream: TcpStream, client: &Asker) -> io::Result<()> {
    loop {
        let length = in_time(stream.read_u16()).await?;
        if usize::from(length) > LARGEST_QUESTION {
            return Ok(());
        }
        let mut raw = vec![0; usize::from(length)];
        in_time(stream.read_exact(&mut raw)).await?;
        let Some(query) = message::parse(&raw) else { return Ok(()) };
        let answer = match client.local(&query, LARGEST_ANSWER) {
            Some(answer) => answer,
            None => client.forward(&query, &raw, Transport::Tcp).await,
        };
        let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
        in_time(stream.write_all(&framed)).await?;
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(IDLE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The host's resolvers, read when they are needed: they change when a laptop moves.
fn host_resolvers() -> Vec<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok()).collect()
}
