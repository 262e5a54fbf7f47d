//! One `ssh` for a command, and all its connections to the engine there.
//!
//! `ssh` leads to `wharf engine dial-stdio`. Over its standard streams both ends speak HTTP/2, and each connection to the engine's
//! socket is a tunnel by CONNECT (RFC 9113, 8.5): the requests of wharf's API go through it as they go through the socket, each
//! direction ends by itself, and one that nobody reads does not hold up the others.

use super::destination::Destination;
use super::ssh::{Ssh, Streams};
use crate::api::API_VERSION;
use crate::api::client::{ClientError, Connection, Connector, WhenBroken};
use crate::cli::Failure;
use crate::cli::signals::or_cancelled;
use crate::printable;
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::io;
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// The engine's socket, as the target of CONNECT.
pub(super) const ENGINE: &str = "engine:0";
/// Of a request: the engine is started where none runs (`start`), or only where it knows something (`look`); absent: as it is.
pub(super) const FIND: &str = "wharf-find";
/// Of a request: the engine goes on with what is asked when the connection between the machines breaks.
pub(super) const GOES_ON: &str = "wharf-goes-on";
/// Of an answer: the version of the `wharf` there, of the engine's API, and the path of its socket.
pub(super) const VERSION: &str = "wharf-version";
pub(super) const API: &str = "api-version";
pub(super) const SOCKET: &str = "wharf-socket";

/// Bytes on their way to this process: of one connection, and of all.
pub(super) const WINDOW: u32 = 1 << 20;
pub(super) const CONNECTION_WINDOW: u32 = 4 << 20;
/// Bytes of a head.
pub(super) const MAX_HEAD: u32 = 16 << 10;
/// Bytes of the answer that says why there is no connection.
const MAX_REFUSAL: usize = 16 << 10;
/// Bytes that are shown of what another program has written in the place of the protocol.
const MAX_STRANGE: usize = 120;
/// A machine that answers nothing for so long is gone. What is sent to it may take its time on a slow line.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(120);

/// The connection to another machine.
#[derive(Debug)]
pub struct Tunnel {
    destination: Destination,
    sender: SendRequest<Empty<Bytes>>,
    ssh: Arc<Ssh>,
    /// What came before the protocol.
    strange: Strange,
    /// True once the connection has ended.
    over: watch::Receiver<bool>,
    there: OnceLock<There>,
}

/// What the other end has said of itself.
#[derive(Debug, Default)]
struct There {
    socket: String,
    /// The version of the API to speak, where it is not this binary's own.
    api: Option<String>,
}

type Strange = Arc<Mutex<Option<Vec<u8>>>>;

impl Tunnel {
    /// Connects. A signal ends that, and ssh.
    ///
    /// # Errors
    /// When ssh cannot be started, or the two ends cannot talk.
    pub async fn open(destination: &Destination) -> Result<Self, Failure> {
        let (ssh, streams) = Ssh::start(destination, &["wharf", "engine", "dial-stdio"]).map_err(Failure::Message)?;
        let strange = Strange::default();
        let checked = CheckedStreams { streams, head: Vec::new(), is_known: false, strange: strange.clone() };
        let mut http = Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        let failed = |e: hyper::Error| Failure::Message(format!("talking to {destination}: {e}"));
        let (sender, connection) = http.handshake(TokioIo::new(checked)).await.map_err(failed)?;
        let (ended, over) = watch::channel(false);
        tokio::spawn(async move {
            let _ = connection.await;
            ended.send_replace(true);
        });
        Ok(Tunnel { destination: destination.clone(), sender, ssh, strange, over, there: OnceLock::new() })
    }

    /// Finds the engine there, or starts one: always, or only where it would know of something. Whether there is one.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn find_engine(&self, start: bool) -> Result<bool, Failure> {
        let request = Request::connect(ENGINE).header(FIND, if start { "start" } else { "look" });
        let asking = async { Ok(self.ask(request).await?) };
        let answer = or_cancelled(asking).await.inspect_err(|failure| {
            if matches!(failure, Failure::Code(_)) {
                self.ssh.give_up();
            }
        })?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        let is_new = self.there.get().is_none();
        let there = self.there.get_or_init(|| There::of(&answer));
        if is_new && let Some(version) = header(&answer, VERSION).filter(|version| *version != env!("CARGO_PKG_VERSION")) {
            eprintln!(
                "warning: wharf is {} here and {} on {}",
                env!("CARGO_PKG_VERSION"),
                printable::line(version),
                self.destination
            );
        }
        tracing::debug!("the engine of {}: {there:?}", self.destination);
        Ok(true)
    }

    pub fn socket(&self) -> Option<String> {
        self.there.get().map(|there| there.socket.clone())
    }

    /// A CONNECT, whose refusal is an error but for 404.
    async fn ask(&self, request: hyper::http::request::Builder) -> Result<Response<hyper::body::Incoming>, ClientError> {
        let request =
            request.body(Empty::new()).map_err(|e| ClientError::Host(format!("talking to {}: {e}", self.destination)))?;
        let mut sender = self.sender.clone();
        let sent = match sender.ready().await {
            Ok(()) => sender.send_request(request).await,
            Err(error) => Err(error),
        };
        let response = match sent {
            Ok(response) => response,
            Err(error) => {
                let why = self.why_broken().await.unwrap_or_else(|| format!("{}: {error}", self.destination));
                return Err(ClientError::Host(why));
            }
        };
        if response.status().is_success() || response.status() == StatusCode::NOT_FOUND {
            return Ok(response);
        }
        let is_engine = response.status() == StatusCode::BAD_GATEWAY;
        let text =
            Limited::new(response.into_body(), MAX_REFUSAL).collect().await.map(|text| text.to_bytes()).unwrap_or_default();
        let text = format!("{}: {}", self.destination, String::from_utf8_lossy(&text).trim());
        // As the socket of an engine that has died: it is waited for, or another started.
        if is_engine {
            return Err(ClientError::Connect { path: self.destination.to_string(), source: io::Error::other(text) });
        }
        Err(ClientError::Host(text))
    }

    /// Why the connection has ended; `None` as long as it goes on.
    async fn why_broken(&self) -> Option<String> {
        // A request may notice it a moment before the connection does.
        let mut over = self.over.clone();
        let ended = tokio::time::timeout(Duration::from_millis(200), over.wait_for(|over| *over)).await;
        ended.ok()?.ok()?;
        let strange = self.strange.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(strange) = strange {
            self.ssh.give_up();
            return Some(spoken_to(&self.destination, &strange));
        }
        let status = self.ssh.ended().await;
        let was_connected = self.there.get().is_some();
        Some(ending(&self.destination, status, &self.ssh.last_line(), was_connected))
    }
}

fn header<'a, B>(answer: &'a Response<B>, name: &str) -> Option<&'a str> {
    answer.headers().get(name).and_then(|value| value.to_str().ok())
}

impl There {
    fn of<B>(answer: &Response<B>) -> Self {
        let text = |name: &str| header(answer, name).unwrap_or_default().to_string();
        There { socket: text(SOCKET), api: older(&text(API)) }
    }
}

/// The version to speak with an engine of another version: the older of both. A newer engine would answer in its newest otherwise.
fn older(theirs: &str) -> Option<String> {
    let number = |text: &str| {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse::<u16>().ok()?, minor.parse::<u16>().ok()?))
    };
    let (ours, theirs) = (number(API_VERSION)?, number(theirs)?);
    (ours != theirs).then(|| ours.min(theirs)).map(|(major, minor)| format!("{major}.{minor}"))
}

/// The message about text where the protocol should be.
fn spoken_to(destination: &Destination, strange: &[u8]) -> String {
    let text = String::from_utf8_lossy(strange);
    let shown: String = text.trim_end().chars().take(MAX_STRANGE).collect();
    format!(
        "{destination} has written something before wharf could answer: `{}`\nits shell prints it at every login: let that be for \
         terminals alone (in ~/.bashrc, before the first output: `[ -t 1 ] || return`)",
        printable::line(&shown)
    )
}

/// The message about an `ssh` that has ended: what to do is in its exit code, and in the last line of its stderr.
fn ending(destination: &Destination, status: Option<ExitStatus>, last: &str, was_connected: bool) -> String {
    let reason = if last.is_empty() { String::new() } else { format!(": {last}") };
    if was_connected {
        return format!(
            "the connection to {destination} is broken{reason}\nan `up`, `down` or `restart` goes on there, and the same command again shows how far it is; look with `ps` before anything else is run again"
        );
    }
    match status.and_then(|status| status.code()) {
        Some(127) => format!(
            "there is no `wharf` on {destination} in the PATH of a command by ssh{reason}\nput this one there: `wharf -H {destination} install`"
        ),
        Some(126) => format!("the `wharf` on {destination} cannot be run{reason}"),
        Some(255) | None => {
            format!("{destination} cannot be reached by ssh{reason}\ntry `ssh {destination}`: it must work without wharf first")
        }
        Some(_) if last.contains("dial-stdio") || last.contains("unrecognized") => format!(
            "the `wharf` on {destination} is too old to be reached from here{reason}\nreplace it: `wharf -H {destination} install`"
        ),
        Some(code) => format!("`wharf engine dial-stdio` on {destination} has ended with code {code}{reason}"),
    }
}

impl Connector for Tunnel {
    fn connect(&self, when_broken: WhenBroken) -> BoxFuture<'_, Result<Box<dyn Connection>, ClientError>> {
        Box::pin(async move {
            let mut request = Request::connect(ENGINE);
            if when_broken == WhenBroken::GoesOn {
                request = request.header(GOES_ON, "1");
            }
            let response = self.ask(request).await?;
            let upgraded = hyper::upgrade::on(response).await;
            let stream = upgraded.map_err(|e| ClientError::Host(format!("talking to {}: {e}", self.destination)))?;
            Ok(Box::new(TokioIo::new(stream)) as Box<dyn Connection>)
        })
    }

    fn broken(&self) -> BoxFuture<'_, Option<ClientError>> {
        Box::pin(async move { self.why_broken().await.map(ClientError::Host) })
    }

    fn api_version(&self) -> Option<&str> {
        self.there.get()?.api.as_deref()
    }
}

/// Bytes of a frame's head (RFC 9113, 4.1), and the type of the first frame that an end sends.
const FRAME_HEAD: usize = 9;
const SETTINGS: u8 = 4;

/// The streams of ssh, whose first bytes must be HTTP/2: a shell that prints something at a login is not taken for the other end.
struct CheckedStreams {
    streams: Streams,
    /// The first bytes, until they are known to be right and passed on.
    head: Vec<u8>,
    is_known: bool,
    strange: Strange,
}

/// Whether bytes may be the beginning of a SETTINGS frame of stream 0.
fn may_be_settings(head: &[u8]) -> bool {
    let right = |(at, byte): (usize, &u8)| match at {
        0 | 1 => *byte == 0,
        3 => *byte == SETTINGS,
        4..FRAME_HEAD => *byte == 0,
        _ => true,
    };
    head.iter().enumerate().all(right)
}

impl AsyncRead for CheckedStreams {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.is_known {
            let mut bytes = [0; MAX_STRANGE];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.streams).poll_read(context, &mut read))?;
            this.head.extend_from_slice(read.filled());
            if !may_be_settings(&this.head) {
                *this.strange.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::mem::take(&mut this.head));
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "it is not wharf that answers")));
            }
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.is_known = this.head.len() >= FRAME_HEAD;
        }
        if !this.head.is_empty() {
            let n = this.head.len().min(buffer.remaining());
            buffer.put_slice(&this.head[..n]);
            this.head.drain(..n);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.streams).poll_read(context, buffer)
    }
}

impl AsyncWrite for CheckedStreams {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.streams).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.streams).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.streams).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn the_older_version_is_spoken() {
        assert_eq!(older(API_VERSION), None);
        assert_eq!(older("1.41").as_deref(), Some("1.41"));
        assert_eq!(older("1.999").as_deref(), Some(API_VERSION));
        assert_eq!((older(""), older("x.y")), (None, None));
    }

    #[test]
    fn the_first_frame_is_known_from_text() {
        assert!(may_be_settings(&[]) && may_be_settings(&[0, 0, 18, 4, 0, 0, 0, 0, 0]));
        for text in [&b"Welcome"[..], b"\n", b"HTTP/1.1 4", &[0, 0, 18, 3], &[0, 0, 0, 4, 0, 0, 0, 0, 1]] {
            assert!(!may_be_settings(text), "{text:?}");
        }
    }

    #[test]
    fn an_ending_says_what_to_do() {
        let destination: Destination = "ssh://me@host:7".parse().expect("an address");
        let told =
            |code: i32, last: &str, connected| ending(&destination, Some(ExitStatus::from_raw(code << 8)), last, connected);
        for (text, words) in [
            (told(127, "bash: line 1: wharf: command not found", false), &["no `wharf` on ssh://me@host:7", "install"][..]),
            (
                told(255, "Host key verification failed.", false),
                &["cannot be reached", "Host key verification failed.", "me@host:7"],
            ),
            (told(2, "error: unrecognized subcommand 'dial-stdio'", false), &["too old", "install"]),
            (told(1, "error: x", false), &["code 1: error: x"]),
            (told(255, "", true), &["the connection to ssh://me@host:7 is broken\n", "goes on there"]),
        ] {
            for word in words {
                assert!(text.contains(word), "no `{word}` in: {text}");
            }
        }
    }
}
