//! Connections that become a process's streams: as 101 where the client asks for it, else as a body without input.

use super::connections::StreamPermit;
use super::detach::DetachKeys;
use super::reply::{self, Reply};
use super::request_line::FirstLineStream;
use crate::sys;
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper::{Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, WriteHalf};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedWriteHalf, pipe};
use tokio::sync::watch;

/// Bytes of a process's output that are read at once; for a client that does not read, some chunks are kept and the process waits.
pub(super) const CHUNK: usize = 16 * 1024;
/// Bytes that wait for a client without an upgraded connection, and for one of a WebSocket.
pub(super) const WAITING: usize = 64 * 1024;
/// How long a client's input is read and thrown away after the output's end. A socket that is closed with unread input resets the
/// connection, and the client loses output that it has not read yet.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a client may take to read the head of an answer.
const HEAD: Duration = Duration::from_millis(500);

/// A client's end of a stream.
pub(super) struct StreamClient {
    pub input: Box<dyn AsyncRead + Send + Unpin>,
    pub output: ClientOutput,
}

/// The way to a client, whose connection was taken over or not.
pub(super) enum ClientOutput {
    Socket(OwnedWriteHalf),
    /// Something that carries the bytes on: an answer that goes on as long as the stream does, or a WebSocket. `client` ends when
    /// the client has left.
    Body {
        to: WriteHalf<DuplexStream>,
        client: watch::Receiver<()>,
    },
}

impl ClientOutput {
    /// Comes back when the client has closed its connection, for who has nothing to send to it now.
    pub(super) async fn is_gone(&self) {
        match self {
            ClientOutput::Socket(socket) => is_closed(socket.as_ref()).await,
            ClientOutput::Body { client, .. } => {
                let mut client = client.clone();
                while client.changed().await.is_ok() {}
            }
        }
    }

    fn writer(&mut self) -> &mut (dyn AsyncWrite + Send + Unpin) {
        match self {
            ClientOutput::Socket(socket) => socket,
            ClientOutput::Body { to, .. } => to,
        }
    }
}

impl AsyncWrite for ClientOutput {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().writer()).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().writer()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().writer()).poll_shutdown(context)
    }
}

/// Waits until the other end of a socket has read what was sent to it: some clients lose what comes in one packet with the head.
pub(super) async fn head_is_read(socket: &UnixStream) {
    let read = async {
        while sys::unread_by_peer(socket).unwrap_or(0) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = tokio::time::timeout(HEAD, read).await;
}

/// Comes back when both directions of a connection have ended, or it was reset: who has ended its input is not read any more.
pub(super) async fn is_closed(socket: &impl AsFd) {
    loop {
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        if poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0) {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// How an answer is given.
pub(super) struct HijackAnswer {
    pub upgrade: Option<OnUpgrade>,
    /// The bytes of a terminal, and not frames.
    pub raw: bool,
    /// Nothing is sent before the head has been read.
    pub head_first: bool,
    pub place: Option<StreamPermit>,
}

/// Answers, and then serves the stream.
pub(super) fn serve<F: Future<Output = ()> + Send + 'static>(
    answer: HijackAnswer,
    work: impl FnOnce(StreamClient) -> F + Send + 'static,
) -> Reply {
    let HijackAnswer { upgrade, raw, head_first, place } = answer;
    let Some(upgrade) = upgrade else {
        let (ours, theirs) = tokio::io::duplex(WAITING);
        let (output, mut input) = tokio::io::split(theirs);
        let (here, client) = watch::channel(());
        tokio::spawn(async move {
            let _ = input.shutdown().await;
            let (from_client, to_client) = tokio::io::split(ours);
            work(StreamClient { input: Box::new(from_client), output: ClientOutput::Body { to: to_client, client } }).await;
            drop(place);
        });
        let chunks = futures::stream::unfold((output, here), |(mut output, here)| async move {
            let mut buffer = bytes::BytesMut::with_capacity(CHUNK);
            let read = output.read_buf(&mut buffer).await.unwrap_or(0);
            (read > 0).then(|| (buffer.freeze(), (output, here)))
        });
        return reply::stream(kind(raw), chunks);
    };
    tokio::spawn(async move {
        if let Some((socket, read)) = taken_over(upgrade).await {
            if head_first {
                head_is_read(&socket).await;
            }
            let (input, output) = socket.into_split();
            let client =
                StreamClient { input: Box::new(io::Cursor::new(read).chain(input)), output: ClientOutput::Socket(output) };
            work(client).await;
        }
        drop(place);
    });
    upgraded(raw)
}

/// A client's connection once it has been answered, and what was read of it already; `None` where the client has left.
pub(super) async fn taken_over(upgrade: OnUpgrade) -> Option<(UnixStream, Bytes)> {
    let upgraded = upgrade.await.inspect_err(|error| tracing::debug!("a connection was not upgraded: {error}")).ok()?;
    let Ok(parts) = upgraded.downcast::<TokioIo<FirstLineStream>>() else {
        tracing::error!("a connection that is no unix socket was upgraded");
        return None;
    };
    let (socket, rest) = parts.io.into_inner().into_parts();
    let read = if rest.is_empty() { parts.read_buf } else { [&parts.read_buf[..], &rest].concat().into() };
    Some((socket, read))
}

fn kind(raw: bool) -> &'static str {
    if raw { "application/vnd.docker.raw-stream" } else { "application/vnd.docker.multiplexed-stream" }
}

/// The answer after which a connection is a stream: of a terminal's bytes, or of frames.
fn upgraded(raw: bool) -> Reply {
    let mut response = Response::new(reply::whole(Vec::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind(raw)));
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("tcp"));
    Ok(response)
}

/// The end of a client's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feeding {
    On,
    /// All of it has been given to the process, or cannot be: the output may go on.
    Ended,
    /// The client has typed the keys by which it leaves.
    Detached,
}

/// A client's input on its way to a process.
pub(super) struct Feeder {
    pub state: watch::Receiver<Feeding>,
    over: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Feeder {
    /// Gives the input to a process; `closed` is done at its end. What the process does not take is read all the same.
    pub(super) fn new(
        mut from_client: Box<dyn AsyncRead + Send + Unpin>,
        input: Option<pipe::Sender>,
        keys: Option<DetachKeys>,
        closed: impl FnOnce() + Send + 'static,
    ) -> Self {
        let (state, states) = watch::channel(Feeding::On);
        let (over, mut is_over) = watch::channel(false);
        let task = tokio::spawn(async move {
            if let Some(mut input) = input {
                let ended = async { drop(is_over.wait_for(|over| *over).await) };
                tokio::select! {
                    detached = copy(&mut from_client, &mut input, keys) => {
                        if detached {
                            state.send_replace(Feeding::Detached);
                        } else {
                            drop(input);
                            closed();
                            state.send_replace(Feeding::Ended);
                        }
                    }
                    () = ended => {}
                }
            } else {
                state.send_replace(Feeding::Ended);
            }
            let _ = tokio::io::copy(&mut from_client, &mut tokio::io::sink()).await;
        });
        Feeder { state: states, over, task }
    }

    /// Comes back when the client has typed its keys.
    pub(super) async fn detached(&mut self) {
        if self.state.wait_for(|state| *state == Feeding::Detached).await.is_err() {
            std::future::pending().await
        }
    }

    /// Gives the process what a client that has left had sent before. One that does not take it is waited for no longer than [`DRAIN`].
    pub(super) async fn rest(&mut self) -> Feeding {
        let over = self.state.wait_for(|state| *state != Feeding::On);
        match tokio::time::timeout(DRAIN, over).await {
            Ok(Ok(state)) => *state,
            _ => Feeding::On,
        }
    }

    /// Closes the output, and reads what the client still sends.
    pub(super) async fn end(self, mut to_client: ClientOutput) {
        let _ = to_client.shutdown().await;
        self.over.send_replace(true);
        let abort = self.task.abort_handle();
        if tokio::time::timeout(DRAIN, self.task).await.is_err() {
            abort.abort();
        }
    }
}

/// Moves bytes until one end is closed; whether the client has typed its keys.
async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut pipe::Sender, keys: Option<DetachKeys>) -> bool {
    let Some(mut keys) = keys else {
        let _ = tokio::io::copy(from, to).await;
        return false;
    };
    let mut buffer = vec![0; CHUNK];
    let mut passed = Vec::with_capacity(CHUNK);
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        passed.clear();
        let detached = keys.pass(&buffer[..n], &mut passed);
        if to.write_all(&passed).await.is_err() {
            return false;
        }
        if detached {
            return true;
        }
    }
    false
}
