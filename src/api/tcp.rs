//! The API on a TCP port: clients show a certificate, unless the port is the loopback's and open to the machine.
//!
//! A connection is carried to a socket pair whose other end is served as any connection of the engine's socket: what upgrades it,
//! half-closes it or waits for a client that does not read is the same on both.

use super::connections::{ConnectionEntry, Connections};
use super::hijack::is_closed;
use super::server::{accepted, converse, is_due};
use crate::engine::process::tcp::TcpDoor;
use crate::engine::{Engine, EngineError};
use hyper::header::{self, HeaderMap};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a client may take until it has shown its certificate.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may go on sending when the engine has said its last.
const DRAIN: Duration = Duration::from_secs(10);
/// A client that is silent is asked for after so long, and again each [`PROBES`].
const SILENCE: Duration = Duration::from_secs(30);
const PROBES: Duration = Duration::from_secs(10);
/// So many questions without an answer: it has gone.
const UNANSWERED: u32 = 3;
/// What a client of HTTP hears on a port with TLS, in the words of Docker's engine.
const NO_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// Refusals in the log: one in so many seconds.
const BETWEEN_REFUSALS: i64 = 1;

/// The way a client came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A file's mode or a certificate has let it in.
    Guarded,
    /// Whoever can connect to the loopback: pages in a browser, too.
    Open,
}

/// Serves a port until the task is aborted.
pub(super) async fn serve(engine: Arc<Engine>, door: TcpDoor, count: Arc<watch::Sender<usize>>) {
    let connections = Connections::of_port(count);
    loop {
        let Some((stream, peer)) = accepted(door.listener.accept().await).await else { continue };
        // Nothing is said to who has not shown a certificate.
        let Some(entry) = connections.enter() else { continue };
        let (engine, tls) = (engine.clone(), door.tls.clone());
        tokio::spawn(async move {
            if let Err(error) = admit(engine, stream, tls, entry).await {
                refused(&format!("{peer}: {error}"));
            }
        });
    }
}

/// Tells of a client that was not let in; of many, not of each.
fn refused(why: &str) {
    static SAID: AtomicI64 = AtomicI64::new(0);
    if is_due(&SAID, BETWEEN_REFUSALS) {
        tracing::warn!("a client of the API's port was not let in: {why}");
    } else {
        tracing::debug!("a client of the API's port was not let in: {why}");
    }
}

/// Has a client show its certificate, and serves it. An error is that of the handshake.
async fn admit(engine: Arc<Engine>, stream: TcpStream, tls: Option<TlsAcceptor>, entry: ConnectionEntry) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let alive = socket2::TcpKeepalive::new().with_time(SILENCE).with_interval(PROBES).with_retries(UNANSWERED);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&alive)?;
    let socket = stream.as_fd().try_clone_to_owned()?;
    let Some(tls) = tls else {
        return carry(engine, stream, &socket, entry, Way::Open).await;
    };
    // It has no request yet: where there are too many connections, it is the first to go.
    let shown = tokio::select! {
        shown = timeout(HANDSHAKE, shake_hands(&tls, stream)) => shown,
        () = entry.ended() => return Ok(()),
    };
    let late =
        || io::Error::new(io::ErrorKind::TimedOut, format!("it has not shown a certificate within {} s", HANDSHAKE.as_secs()));
    carry(engine, shown.map_err(|_| late())??, &socket, entry, Way::Guarded).await
}

async fn shake_hands(tls: &TlsAcceptor, mut stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
        // A method of HTTP: TLS begins with 22. What has come is read, so that the answer is not reset.
        let _ = stream.read(&mut [0; 8192]).await;
        stream.write_all(NO_TLS).await?;
        stream.shutdown().await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it speaks HTTP without TLS"));
    }
    tls.accept(stream).await
}

/// Serves a connection through a socket pair. `socket` is the client's, for who looks whether it is still there.
async fn carry(
    engine: Arc<Engine>,
    client: impl AsyncRead + AsyncWrite + Send + 'static,
    socket: &OwnedFd,
    entry: ConnectionEntry,
    way: Way,
) -> io::Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    tokio::spawn(converse(engine, theirs, entry, way));
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_engine, mut to_engine) = ours.into_split();
    let asked = async {
        match tokio::io::copy(&mut from_client, &mut to_engine).await {
            Ok(_) => to_engine.shutdown().await.is_ok(),
            // Closed without a word of TLS: it may read still, but its input has not ended where it should.
            Err(error) => error.kind() == io::ErrorKind::UnexpectedEof,
        }
    };
    let answered = async {
        let _ = tokio::io::copy(&mut from_engine, &mut to_client).await;
        let _ = to_client.shutdown().await;
    };
    let (mut asked, mut answered) = (std::pin::pin!(asked), std::pin::pin!(answered));
    tokio::select! {
        () = &mut answered => drop(timeout(DRAIN, asked).await),
        listens = &mut asked => if listens {
            tokio::select! {
                () = answered => {}
                () = is_closed(socket) => {}
            }
        },
    }
    Ok(())
}

/// Refuses what a page of some site asks for by a browser on this machine: names that lead to the loopback (DNS rebinding), and
/// requests of pages from elsewhere. Docker's clients name the address, and have no page.
pub(super) fn refuse_pages(headers: &HeaderMap) -> Result<(), EngineError> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let page = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    let of_page = page.map(|page| page.split_once("://").map_or(page, |(_, host)| host));
    if names_loopback(host) && of_page.is_none_or(|page| page == host) {
        return Ok(());
    }
    Err(EngineError::Forbidden("pages of a browser are not served on a port without TLS".into()))
}

fn names_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_browser_are_refused() {
        let of = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect("a value"));
            origin.map(|origin| headers.insert(header::ORIGIN, origin.parse().expect("a value")));
            refuse_pages(&headers).map_err(|error| error.status())
        };
        for host in ["localhost", "localhost:2375", "127.0.0.1:1", "127.1.2.3", "[::1]:2375"] {
            assert_eq!(of(host, None), Ok(()), "{host}");
            assert_eq!(of(host, Some(&format!("http://{host}"))), Ok(()), "{host}");
            assert_eq!(of(host, Some("https://example.org")), Err(403), "{host}");
            assert_eq!(of(host, Some("null")), Err(403), "{host}");
        }
        for host in ["", "example.org", "127.0.0.1.example.org:2375", "192.0.2.1"] {
            assert_eq!(of(host, None), Err(403), "{host}");
        }
    }
}
