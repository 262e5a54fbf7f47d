//! The engine's end: connections, routes, errors.

use super::connections::{self, Busy, ConnectionEntry, Connections, StreamKind, StreamPermit};
use super::reply::{self, ApiVersion, Body, Query, Reply};
use super::request_line::FirstLineStream;
use super::routes::{self, Support};
use super::tcp::Way;
use super::{
    API_VERSION, MIN_API_VERSION, WARNING_HEADER, archive, attach, containers, events, exec, images, logs, networks, projects,
    system, tcp, usage, volumes,
};
use crate::engine::process::lifecycle::Door;
use crate::engine::{Engine, EngineError};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// How long a request's head may take, and a connection may be idle; Docker's.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// The largest head of a request; more is answered with 431. Of an answer, so much is kept for a client that does not read.
const MOST_BUFFERED: usize = 32 * 1024;

/// As Docker's: name, version and system.
const SERVER: &str = concat!("wharf/", env!("CARGO_PKG_VERSION"), " (linux)");
const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to \
    swarm and try again.";

/// Clients that get the answer 503 at once when there are too many; further ones see their connection close.
static REFUSALS: Semaphore = Semaphore::const_new(64);
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves until the task is aborted. `count` is how many connections are open.
pub async fn serve(engine: Arc<Engine>, door: Door, count: Arc<watch::Sender<usize>>) {
    match door {
        Door::Unix(listener) => serve_socket(engine, listener, count).await,
        Door::Tcp(door) => tcp::serve(engine, door, count).await,
    }
}

/// The value of TE of a client that reads trailers.
const TRAILERS: &str = "trailers";
/// Failures to accept in the log: one in so many seconds.
const BETWEEN_FAILURES: i64 = 10;

/// Whether something that happens again and again is to be in the log once more: so many seconds after the last time.
pub(super) fn is_due(said: &AtomicI64, seconds: i64) -> bool {
    let now = jiff::Timestamp::now().as_second();
    let due = now - said.load(Ordering::Relaxed) >= seconds;
    if due {
        said.store(now, Ordering::Relaxed);
    }
    due
}

/// A connection that was accepted; `None` after a failure, and a pause.
pub(super) async fn accepted<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(stream) => Some(stream),
        Err(error) => {
            // Out of descriptors, most likely: others may be closed meanwhile. The log is a file of a small file system.
            static SAID: AtomicI64 = AtomicI64::new(0);
            if is_due(&SAID, BETWEEN_FAILURES) {
                tracing::error!("accepting a connection: {error}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn serve_socket(engine: Arc<Engine>, listener: UnixListener, count: Arc<watch::Sender<usize>>) {
    let connections = Connections::new(count);
    loop {
        let Some((stream, _)) = accepted(listener.accept().await).await else { continue };
        let Some(entry) = connections.enter() else {
            if let Ok(place) = REFUSALS.try_acquire() {
                tokio::spawn(async move {
                    let _ = timeout(REFUSAL_TIMEOUT, refuse(stream)).await;
                    drop(place);
                });
            }
            continue;
        };
        tokio::spawn(converse(engine.clone(), stream, entry, Way::Guarded));
    }
}

/// Says that there are too many connections, once the client has asked: what comes before that is no answer to it.
async fn refuse(stream: UnixStream) -> io::Result<()> {
    stream.readable().await?;
    let _ = stream.try_read(&mut [0; MOST_BUFFERED]);
    stream.writable().await?;
    stream.try_write(TOO_MANY.as_bytes()).map(drop)
}

const TOO_MANY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 72\r\n\r\n\
    {\"message\":\"the engine answers too many requests at once; try it again\"}";

/// Answers the requests of a connection, until it ends or becomes something else.
pub(super) async fn converse(engine: Arc<Engine>, stream: UnixStream, entry: ConnectionEntry, way: Way) {
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(entry.counted());
        request.extensions_mut().insert(way);
        answer(engine.clone(), request, entry.request())
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MOST_BUFFERED);
    let connection = http.serve_connection(TokioIo::new(FirstLineStream::new(stream)), service).with_upgrades();
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!("a connection ended: {error}");
        },
        () = entry.ended() => {}
    }
}

async fn answer(engine: Arc<Engine>, request: Request<Incoming>, busy: Busy) -> Result<Response<Body>, Infallible> {
    let what = format!("{} {}", request.method(), request.uri().path());
    let is_head = request.method() == Method::HEAD;
    // Only wharf's own commands show them.
    let warnings = if request.headers().contains_key(WARNING_HEADER) { engine.state.unreported_warnings() } else { Vec::new() };
    let (mut response, stream) = match route(engine, request).await {
        Ok((response, stream)) => (response, stream),
        Err(error) => {
            tracing::debug!("{what}: {error}");
            (if is_head { reply::headers_of(&error) } else { reply::error(&error) }, None)
        }
    };
    let headers = response.headers_mut();
    headers.insert("Api-Version", HeaderValue::from_static(API_VERSION));
    headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    headers.insert(header::SERVER, HeaderValue::from_static(SERVER));
    for value in warning_headers(&warnings) {
        response.headers_mut().append(WARNING_HEADER, value);
    }
    Ok(connections::until_sent(response, busy.with(stream)))
}

/// Warnings as headers of an answer. A client takes a hundred headers at most, and a head of limited size.
fn warning_headers(warnings: &[String]) -> Vec<HeaderValue> {
    const MOST: usize = 10;
    const LONGEST: usize = 1024;
    let header = |text: &str| {
        let mut text: String = text.chars().filter(|c| !c.is_control()).collect();
        if text.len() > LONGEST {
            let cut = (0..=LONGEST - 3).rev().find(|at| text.is_char_boundary(*at));
            text.truncate(cut.unwrap_or(0));
            text.push_str("...");
        }
        HeaderValue::from_bytes(text.as_bytes()).ok()
    };
    let more = warnings.len().saturating_sub(MOST);
    let last = (more > 0).then(|| format!("and {more} more: `wharf system check`"));
    warnings.iter().take(MOST).chain(&last).filter_map(|text| header(text)).collect()
}

/// An answer that is streamed as long as the client reads.
fn stream_of(parts: &[&str]) -> Option<StreamKind> {
    match parts {
        ["events"] | ["containers", _, "attach" | "logs" | "stats"] => Some(StreamKind::Follow),
        ["containers", _, "attach", "ws"] => Some(StreamKind::Follow),
        ["exec", _, "start"] => Some(StreamKind::Exec),
        _ => None,
    }
}

async fn route(engine: Arc<Engine>, request: Request<Incoming>) -> Result<(Response<Body>, Option<StreamPermit>), EngineError> {
    if request.extensions().get::<Way>() == Some(&Way::Open) {
        tcp::refuse_pages(request.headers())?;
    }
    let path = request.uri().path().to_string();
    // A name that is empty is no name: the list of all things is another answer.
    if path.trim_matches('/').contains("//") {
        return not_found(request.method(), &path).map(|response| (response, None));
    }
    let mut parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(reply::segment).collect();
    let versioned =
        parts.first().is_some_and(|p| p.strip_prefix('v').is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit())));
    let spoken = if versioned { Some(parts.remove(0)) } else { None };
    let mut query = Query::of(request.uri().query(), version_of(spoken.as_deref())?);
    query.trailers = request.headers().get(header::TE).is_some_and(|value| value == TRAILERS);
    let method = request.method().clone();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (get, post, delete) = (method == Method::GET || method == Method::HEAD, method == Method::POST, method == Method::DELETE);
    let put = method == Method::PUT;
    match routes::support(&method, &parts) {
        Some(Support::Refused) => return refused(&parts).map(|response| (response, None)),
        Some(Support::Done | Support::Own) => {}
        None => return not_found(&method, &path).map(|response| (response, None)),
    }
    let place = |kind| connections::stream(kind).ok_or(EngineError::TooManyStreams);
    let stream = stream_of(&parts).map(place).transpose()?;
    let answered = match parts.as_slice() {
        ["_ping"] if get => ping(),
        ["version"] if get => reply::json(200, &system::version()),
        ["info"] if get => reply::json(200, &system::info(&engine)?),
        ["plugins"] if get => reply::json(200, &[(); 0]),
        ["events"] if get => events::events(&engine, &query),
        ["containers", rest @ ..] => match rest {
            ["json"] if get => containers::list(&engine, &query),
            ["create"] if post => containers::create(&engine, &query, request).await,
            ["prune"] if post => containers::prune(&engine, &query).await,
            [id, "attach"] if post => attach::attach(&engine, id, &query, request, stream.clone()).await,
            [id, "attach", "ws"] if get => attach::attach_by_websocket(&engine, id, &query, request, stream.clone()).await,
            [id, "archive"] if get || put || delete => archive::archive(&engine, id, &query, request).await,
            [id, "export"] if get => archive::export(&engine, id, &query).await,
            [id, "changes"] if get => archive::changes(&engine, id).await,
            [id, "top"] if get => usage::top(&engine, id, &query),
            [id, "stats"] if get => usage::stats(&engine, id, &query),
            [id, "update"] if post => containers::update(&engine, id, request).await,
            [id, "logs"] if get => logs::of_container(&engine, id, &query).await,
            [id, "exec"] if post => exec::create(&engine, id, request).await,
            [id] if delete => containers::remove(&engine, id, &query).await,
            [id, "json"] if get => containers::inspect(&engine, id, &query),
            [id, action] if post => containers::act(&engine, id, action, &query).await,
            _ => not_found(&method, &path),
        },
        ["exec", id, "start"] if post => exec::start(&engine, id, request, stream.clone()).await,
        ["exec", id, "resize"] if post => exec::resize(&engine, id, &query),
        ["exec", id, "json"] if get => exec::inspect(&engine, id),
        ["images", rest @ ..] => images::route(&engine, &method, rest, &query, request).await,
        ["commit"] if post => archive::commit(&engine, &query, request).await,
        ["system", "df"] if get => usage::df(&engine, &query).await,
        ["auth"] if post => images::transfer::login(&engine, request).await,
        ["grpc" | "session"] if post => super::buildkit::upgrade(engine, request),
        ["build"] if post => super::build::build(&engine, &query, request).await,
        ["build", "prune"] if post => images::prune::builds(&engine, &query).await,
        ["distribution", name @ .., "json"] if get => images::transfer::distribution(&engine, &name.join("/"), &request).await,
        ["networks", rest @ ..] => networks::networks(&engine, &method, rest, &query, request).await,
        ["volumes", rest @ ..] => volumes::route(&engine, &method, rest, &query, request).await,
        ["jobs", rest @ ..] => super::jobs::route(&engine, &method, rest, &query, &path).await,
        ["projects", rest @ ..] => projects::route(&engine, &method, rest, &query, request).await,
        ["engine", "stop"] if post => {
            let containers = query.flag("containers");
            // Once begun it is done to its end, whether or not the client waits: nothing is restarted any more.
            let stopping = tokio::spawn(async move {
                if containers {
                    engine.stop_everything().await;
                }
                engine.shutdown.request();
            });
            let _ended = stopping.await;
            reply::empty(204)
        }
        _ => not_found(&method, &path),
    };
    Ok((answered?, stream))
}

pub(super) fn not_found(method: &Method, path: &str) -> Reply {
    Err(EngineError::NoSuch { what: "API call", name: format!("{method} {path}") })
}

/// The version of a path's first segment, such as `v1.45`; the newest where there is none.
fn version_of(segment: Option<&str>) -> Result<ApiVersion, EngineError> {
    let parse = |text: &str| {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse::<u16>().ok()?, minor.parse::<u16>().ok()?))
    };
    let newest = parse(API_VERSION).unwrap_or_default();
    let Some(text) = segment.map(|segment| segment.trim_start_matches('v')) else { return Ok(newest) };
    let bad = |why: String| EngineError::Invalid(why);
    let version = parse(text).ok_or_else(|| bad(format!("invalid API version: {text}")))?;
    match version {
        _ if version > newest => {
            Err(bad(format!("client version {text} is too new. Maximum supported API version is {API_VERSION}")))
        }
        _ if version < parse(MIN_API_VERSION).unwrap_or_default() => Err(bad(format!(
            "client version {text} is too old. Minimum supported API version is {MIN_API_VERSION}, please upgrade your client to a newer version"
        ))),
        _ => Ok(version),
    }
}

/// Calls about what wharf does not have.
fn refused(parts: &[&str]) -> Reply {
    Err(match parts {
        ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..] => EngineError::Unavailable(NO_SWARM.into()),
        ["volumes", _] => EngineError::Unavailable(NO_SWARM.into()),
        // Docker's CLI asks for a plugin last when it looks for what a name means.
        ["plugins", name @ .., _] if !name.is_empty() => EngineError::NoSuch { what: "plugin", name: name.join("/") },
        ["plugins", ..] => EngineError::NotImplemented("wharf has no plugins"),
        ["images", "search"] => EngineError::NotImplemented("wharf does not search registries"),
        _ => EngineError::NotImplemented("wharf has no checkpoints"),
    })
}

/// The head says what clients negotiate with. Builder 1 is the classic one: Docker's CLI before 23 goes by the header, and would build
/// with BuildKit by a call that is not there (`POST /build` of version 2); later ones use BuildKit's API whatever it says.
fn ping() -> Reply {
    let mut response = reply::text(200, "OK")?;
    let headers = response.headers_mut();
    headers.insert("Builder-Version", HeaderValue::from_static("1"));
    headers.insert("Swarm", HeaderValue::from_static("inactive"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn versions_are_negotiated() {
        assert_eq!(version_of(None).expect("the newest"), (1, 52));
        assert_eq!(version_of(Some("v1.24")).expect("the oldest"), (1, 24));
        for (text, words) in
            [("v1.53", "is too new"), ("v1.23", "is too old"), ("v1.x", "invalid API version"), ("v2", "invalid")]
        {
            let error = version_of(Some(text)).expect_err(text);
            assert!(error.status() == 400 && error.to_string().contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn warnings_fit_into_an_answer() {
        let warnings = |number| vec!["\u{e4}\n".repeat(1000); number];
        let headers = warning_headers(&warnings(1));
        assert_eq!((headers.len(), headers[0].len()), (1, 1023), "cut between two characters");
        let headers = warning_headers(&warnings(300));
        assert_eq!((headers.len(), headers[10].to_str().ok()), (11, Some("and 290 more: `wharf system check`")));
        assert_eq!(warning_headers(&["short".into()]), ["short"]);
    }

    #[tokio::test]
    async fn who_is_one_too_many_is_told_so() {
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        let refusing = tokio::spawn(refuse(ours));
        theirs.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("ask");
        let mut answer = String::new();
        theirs.read_to_string(&mut answer).await.expect("answer");
        refusing.await.expect("task").expect("written");
        let (head, body) = answer.split_once("\r\n\r\n").expect("head");
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{answer}");
        assert!(serde_json::from_str::<serde_json::Value>(body).expect("JSON")["message"].is_string());
    }
}
