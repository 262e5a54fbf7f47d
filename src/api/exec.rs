//! `/exec`: processes in running containers, over a connection that becomes the process's streams.

use super::connections::Stream;
use super::reply::{self, Query, Reply};
use super::types::{ExecCreate, ExecStart};
use crate::engine::containers::exec::{Exec, Streams};
use crate::engine::{Engine, EngineError};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;

/// `POST /containers/{id}/exec`.
pub async fn create(engine: &Engine, id: &str, request: Request<Incoming>) -> Reply {
    let container = engine.containers.find(id)?;
    let body: ExecCreate = reply::json_body(request).await?;
    let exec = engine.execs.create(&container, body.try_into()?)?;
    reply::json(201, &json!({"Id": exec.id}))
}

/// `POST /exec/{id}/start`.
pub(super) async fn start(engine: &Arc<Engine>, id: &str, mut request: Request<Incoming>, place: Option<Stream>) -> Reply {
    let exec = engine.execs.find(id)?;
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let upgrade = upgrades.then(|| hyper::upgrade::on(&mut request));
    let body: ExecStart = reply::optional_body(request).await?;
    let (starter, started) = (engine.clone(), exec.clone());
    let streams =
        reply::to_its_end(async move { starter.execs.start(&started).await.inspect_err(|_| starter.execs.forget(&started)) })
            .await?;
    let Some(upgrade) = upgrade else {
        if body.detach {
            return reply::empty(200);
        }
        return Err(no_upgrade());
    };
    let tty = exec.new.tty;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => pump(TokioIo::new(upgraded), streams, &exec).await,
            Err(error) => tracing::debug!("an exec's connection was not upgraded: {error}"),
        }
        drop(place);
    });
    upgraded(tty)
}

/// Why a request whose connection is to become a stream is refused.
pub(super) fn no_upgrade() -> EngineError {
    EngineError::Invalid("the connection must be upgraded: send `Connection: Upgrade` and `Upgrade: tcp`".into())
}

/// The answer after which a connection is a stream: of a terminal's bytes, or of frames.
pub(super) fn upgraded(tty: bool) -> Reply {
    let mut response = Response::new(super::reply::whole(Vec::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    let kind = if tty { "application/vnd.docker.raw-stream" } else { "application/vnd.docker.multiplexed-stream" };
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("tcp"));
    Ok(response)
}

/// `GET /exec/{id}/json`.
pub fn inspect(engine: &Engine, id: &str) -> Reply {
    let exec = engine.execs.find(id)?;
    let state = *exec.state.borrow();
    reply::json(
        200,
        &json!({"ID": exec.id, "Running": state.running, "ExitCode": state.exit_code, "Pid": state.pid, "ContainerID": exec.container.id}),
    )
}

/// `POST /exec/{id}/resize?h=&w=`.
pub fn resize(engine: &Engine, id: &str, query: &Query) -> Reply {
    let exec = engine.execs.find(id)?;
    if let (Some(rows), Some(columns)) = (query.number("h"), query.number("w")) {
        engine.execs.resize(&exec, rows, columns);
    }
    reply::empty(200)
}

/// Bytes of a process's output that are read at once; for a client that does not read, some chunks are kept and the process waits.
const CHUNK: usize = 16 * 1024;

/// Moves bytes both ways until the process has ended and everything it wrote is sent.
async fn pump<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S, streams: Streams, exec: &Arc<Exec>) {
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    match streams {
        Streams::Pipes { input, mut output, mut error } => {
            let feeding = tokio::spawn(async move {
                if let Some(mut input) = input {
                    let _ = tokio::io::copy(&mut from_client, &mut input).await;
                }
            });
            let (mut out, mut err) = (vec![0; CHUNK], vec![0; CHUNK]);
            let (mut out_open, mut err_open) = (true, true);
            while out_open || err_open {
                let (stream, length) = tokio::select! {
                    n = output.read(&mut out), if out_open => (1u8, n.unwrap_or(0)),
                    n = error.read(&mut err), if err_open => (2u8, n.unwrap_or(0)),
                };
                match (stream, length) {
                    (1, 0) => out_open = false,
                    (_, 0) => err_open = false,
                    (stream, n) => {
                        let data = if stream == 1 { &out[..n] } else { &err[..n] };
                        let mut frame = frame_header(stream, n).to_vec();
                        frame.extend_from_slice(data);
                        if to_client.write_all(&frame).await.is_err() {
                            break;
                        }
                    }
                }
            }
            feeding.abort();
        }
        Streams::Terminal(master) => {
            // A terminal is no pipe, but it is read and written as one.
            let copy = master.try_clone().and_then(pipe::Sender::from_owned_fd_unchecked);
            let (Ok(mut input), Ok(mut output)) = (copy, pipe::Receiver::from_owned_fd_unchecked(master)) else { return };
            let feeding = tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from_client, &mut input).await;
            });
            let mut buffer = vec![0; CHUNK];
            // EIO is a terminal's end of file: the last process that had it open is gone.
            while let Ok(n @ 1..) = output.read(&mut buffer).await {
                if to_client.write_all(&buffer[..n]).await.is_err() {
                    break;
                }
            }
            feeding.abort();
        }
    }
    // The exit code is asked for when the streams have ended: it must be known by then.
    let mut state = exec.state.subscribe();
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), state.wait_for(|state| state.exit_code.is_some())).await;
    let _ = to_client.shutdown().await;
}

/// Docker's header of a frame of a multiplexed stream: 1 is standard output, 2 standard error.
pub fn frame_header(stream: u8, length: usize) -> [u8; 8] {
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [stream, 0, 0, 0, a, b, c, d]
}
