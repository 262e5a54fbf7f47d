//! `wharf engine dial-stdio`: standard input and output as a way to the engine's socket.
//!
//! What a `wharf` of another machine sends is HTTP/2, with a tunnel for each of its connections (see [`super::tunnel`]). Anything else
//! is copied to the socket and back, as `docker system dial-stdio` does.

use super::tunnel::{API, CONNECTION_WINDOW, ENGINE, FIND, GOES_ON, MAX_HEAD, SOCKET, VERSION, WINDOW};
use crate::api::client::Client;
use crate::cli::{Failure, Global, Outcome, connect};
use crate::engine::process::lifecycle::socket_path;
use crate::sys::socket::short_name;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io::{self, Cursor};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The first bytes of HTTP/2's preface, by which it differs from every method of HTTP/1.
const PREFACE: &[u8; 3] = b"PRI";
/// Connections at once: as many as the engine takes.
const MAX_CONNECTIONS: u32 = 1024;
/// Bytes of a connection that are carried at once, in each direction.
const CHUNK: usize = 32 << 10;
/// How long after a connection's end that of the machines' may be noticed.
const NOTICED: Duration = Duration::from_millis(200);

/// Serves until the other end closes standard input, and what goes on without it has ended.
///
/// # Errors
/// When there is no runtime.
pub fn run(global: &Global) -> Outcome {
    let failed = |e: io::Error| Failure::Message(format!("starting: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let outcome = runtime.block_on(dial(global));
    // A thread that reads standard input is not waited for.
    runtime.shutdown_background();
    outcome
}

async fn dial(global: &Global) -> Outcome {
    // The user's session there may end before what was begun does.
    let _hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup());
    let mut input = tokio::io::stdin();
    let mut head = Vec::with_capacity(PREFACE.len());
    while head.len() < PREFACE.len() {
        let left = PREFACE.len() - head.len();
        match (&mut input).take(left as u64).read_buf(&mut head).await {
            Ok(1..) => {}
            Ok(0) => return Ok(()),
            Err(e) => return Err(Failure::Message(format!("reading standard input: {e}"))),
        }
    }
    let is_tunnels = head == PREFACE;
    let input = Cursor::new(head).chain(input);
    if is_tunnels { serve(global, input).await } else { copy(global, input).await }
}

/// The bytes themselves, of one connection.
async fn copy(global: &Global, mut input: impl AsyncRead + Unpin) -> Outcome {
    connect::engine(global).await?;
    let failed = |e: io::Error| Failure::Message(format!("copying to the engine: {e}"));
    let (mut from, mut to) = socket(&socket_path(&global.run_root)).await.map_err(failed)?.into_split();
    let sending = async {
        tokio::io::copy(&mut input, &mut to).await?;
        to.shutdown().await
    };
    let receiving = async {
        let mut output = tokio::io::stdout();
        tokio::io::copy(&mut from, &mut output).await?;
        output.flush().await
    };
    // The engine's end is the end of both; that of standard input is not.
    let mut receiving = std::pin::pin!(receiving);
    tokio::select! {
        received = &mut receiving => received.map_err(failed),
        _sent = sending => receiving.await.map_err(failed),
    }
}

async fn socket(path: &Path) -> io::Result<UnixStream> {
    let directory = std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    UnixStream::connect(short_name(&directory, name)).await
}

/// What the tunnels of a connection share.
struct Machines {
    global: Global,
    /// True once the connection between the machines has ended.
    over: watch::Receiver<bool>,
    tunnels: tokio::sync::Mutex<JoinSet<()>>,
}

/// A tunnel for each CONNECT.
async fn serve(global: &Global, input: impl AsyncRead + Send + Unpin + 'static) -> Outcome {
    let (ended, over) = watch::channel(false);
    let machines = Arc::new(Machines { global: global.clone(), over, tunnels: tokio::sync::Mutex::default() });
    let streams = tokio::io::join(input, tokio::io::stdout());
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD)
        .max_concurrent_streams(MAX_CONNECTIONS);
    let serving = machines.clone();
    let service = service_fn(move |request| {
        let machines = serving.clone();
        async move { Ok::<_, Infallible>(answer(machines, request).await) }
    });
    let _ = http.serve_connection(TokioIo::new(streams), service).await;
    ended.send_replace(true);
    // What goes on without the other end does so as long as somebody reads its answer.
    let mut tunnels = std::mem::take(&mut *machines.tunnels.lock().await);
    while tunnels.join_next().await.is_some() {}
    Ok(())
}

fn refusal(status: StatusCode, why: impl Into<String>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(why.into())));
    *response.status_mut() = status;
    response
}

async fn answer(machines: Arc<Machines>, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let target = request.uri().authority().map(|target| target.as_str().to_string());
    if request.method() != Method::CONNECT || target.as_deref() != Some(ENGINE) {
        return refusal(StatusCode::NOT_FOUND, "this leads to the engine alone");
    }
    let global = &machines.global;
    let mut response = Response::new(Full::new(Bytes::new()));
    if let Some(how) = request.headers().get(FIND) {
        let found = match how.as_bytes() {
            b"look" => connect::engine_if_any(global).await,
            _ => connect::engine(global).await.map(Some),
        };
        let client = match found {
            Ok(Some(client)) => client,
            Ok(None) => return refusal(StatusCode::NOT_FOUND, "no engine runs"),
            Err(failure) => {
                let text = failure.to_string();
                return refusal(StatusCode::SERVICE_UNAVAILABLE, text.trim_start_matches("error: "));
            }
        };
        for (name, value) in about(global, &client).await {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
    }
    let stream = match socket(&socket_path(&global.run_root)).await {
        Ok(stream) => stream,
        Err(e) => return refusal(StatusCode::BAD_GATEWAY, format!("the engine cannot be reached: {e}")),
    };
    let goes_on = request.headers().contains_key(GOES_ON);
    let upgrade = hyper::upgrade::on(&mut request);
    let over = machines.over.clone();
    let tunnel = async move {
        if let Ok(upgraded) = upgrade.await {
            carry(TokioIo::new(upgraded), stream, goes_on, over).await;
        }
    };
    let mut tunnels = machines.tunnels.lock().await;
    tunnels.spawn(tunnel);
    while tunnels.try_join_next().is_some() {}
    response
}

/// What the other end wants to know of this one.
async fn about(global: &Global, client: &Client) -> Vec<(&'static str, String)> {
    let mut about =
        vec![(VERSION, env!("CARGO_PKG_VERSION").to_string()), (SOCKET, socket_path(&global.run_root).display().to_string())];
    about.extend(client.head("/_ping", API).await.ok().flatten().map(|version| (API, version)));
    about
}

/// Carries bytes both ways until the engine ends, the client leaves, or the connection between the machines breaks. Of an operation
/// that goes on then, the answer is read to its end: the engine takes a client that leaves for one that has given up.
async fn carry(client: TokioIo<Upgraded>, engine: UnixStream, goes_on: bool, over: watch::Receiver<bool>) {
    let (from_client, mut to_client) = tokio::io::split(client);
    let (from_engine, mut to_engine) = engine.into_split();
    let mut from_client = BufReader::with_capacity(CHUNK, from_client);
    let mut from_engine = BufReader::with_capacity(CHUNK, from_engine);
    let is_over = async || drop(over.clone().wait_for(|over| *over).await);
    let is_broken = async || goes_on && tokio::time::timeout(NOTICED, is_over()).await.is_ok();
    let has_ended = {
        let up = async {
            let left = forward(&mut from_client, &mut to_engine).await;
            if is_broken().await {
                return ClientEnd::Broken;
            }
            let _ = to_engine.shutdown().await;
            if left.is_ok() { ClientEnd::Sent } else { ClientEnd::Left }
        };
        let down = async {
            let sent = tokio::io::copy_buf(&mut from_engine, &mut to_client).await;
            let _ = to_client.shutdown().await;
            sent.is_ok()
        };
        let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
        let mut has_sent = false;
        loop {
            tokio::select! {
                sent = &mut down => {
                    // A tunnel that is dropped is reset, and a reset that overtakes the reader takes the answer's end from it.
                    if sent && !has_sent {
                        tokio::select! {
                            _end = &mut up => {}
                            () = is_over() => {}
                        }
                    }
                    break sent;
                }
                end = &mut up, if !has_sent => match end {
                    ClientEnd::Sent => has_sent = true,
                    ClientEnd::Left => break true,
                    ClientEnd::Broken => break false,
                },
                () = is_over() => break false,
            }
        }
    };
    if !has_ended && is_broken().await {
        let _ = tokio::io::copy_buf(&mut from_engine, &mut tokio::io::sink()).await;
    }
    drop(to_engine);
}

/// How a client's direction has ended.
enum ClientEnd {
    /// It has sent everything, and may still read.
    Sent,
    /// It was reset: nobody reads either.
    Left,
    /// The connection between the machines has ended.
    Broken,
}

/// Copies what a client sends to the engine. What the engine does not read any more is thrown away: its answer is still on its way.
///
/// # Errors
/// When the client was reset.
async fn forward(client: &mut (impl AsyncBufRead + Unpin), engine: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut is_read = true;
    loop {
        let chunk = client.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(());
        }
        is_read = is_read && engine.write_all(chunk).await.is_ok();
        let length = chunk.len();
        client.consume(length);
    }
}
