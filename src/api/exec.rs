//! `/exec`: processes in running containers, over a connection that becomes the process's streams.

use super::connections::Stream;
use super::reply::{self, Query, Reply};
use super::types::{ExecCreate, ExecStart};
use crate::engine::containers::exec::{Exec, Streams};
use crate::engine::{Engine, EngineError};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;

/// `POST /containers/{id}/exec`.
pub async fn create(engine: &Engine, id: &str, request: Request<Incoming>) -> Reply {
    let container = engine.containers.find(id)?;
    let body: ExecCreate = reply::json_body(request).await?;
    let exec = engine.execs.create(&container, body.try_into()?)?;
    emit(engine, &exec, &format!("exec_create: {}", exec.new.args.join(" ")), &[]);
    reply::json(201, &json!({"Id": exec.id}))
}

fn emit(engine: &Engine, exec: &Exec, action: &str, extra: &[(&str, String)]) {
    let mut attributes = vec![("execID", exec.id.clone())];
    attributes.extend(extra.iter().cloned());
    engine.containers.emit(&exec.container, action, &attributes);
}

/// Starts the process, and tells of its start and its end.
async fn begin(engine: &Arc<Engine>, exec: &Arc<Exec>) -> Result<Streams, EngineError> {
    let (starter, started) = (engine.clone(), exec.clone());
    reply::to_its_end(async move {
        let streams = starter.execs.start(&started).await.inspect_err(|_| starter.execs.end_exec(&started))?;
        emit(&starter, &started, &format!("exec_start: {}", started.new.args.join(" ")), &[]);
        tokio::spawn(async move {
            let mut state = started.state.subscribe();
            let code = state.wait_for(|state| state.exit_code.is_some()).await.map_or(None, |state| state.exit_code);
            emit(&starter, &started, "exec_die", &[("exitCode", code.unwrap_or(137).to_string())]);
        });
        Ok(streams)
    })
    .await
}

/// `POST /exec/{id}/start`.
///
/// A connection is upgraded before the process starts, as Docker does: clients read the head and then the stream, and what comes in
/// one packet with the head would be lost to some. Why a process does not start is in the stream then. wharf's own client reads that
/// from the status.
pub(super) async fn start(engine: &Arc<Engine>, id: &str, mut request: Request<Incoming>, place: Option<Stream>) -> Reply {
    let exec = engine.execs.find(id)?;
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let own = request.headers().contains_key(super::WARNING_HEADER);
    let upgrade = upgrades.then(|| hyper::upgrade::on(&mut request));
    let body: ExecStart = reply::optional_body(request).await?;
    if exec.state.borrow().running {
        return Err(EngineError::Conflict(format!("Exec command {id} is already running")));
    }
    if exec.state.borrow().exit_code.is_some() {
        return Err(EngineError::Conflict(format!("Exec command {id} has already run")));
    }
    if !exec.container.status().is_alive() {
        return Err(EngineError::NotRunning { name: exec.container.name() });
    }
    if body.detach {
        let streams = begin(engine, &exec).await?;
        discard(streams);
        return reply::empty(200);
    }
    let tty = exec.new.tty;
    let streams = if own { Some(begin(engine, &exec).await?) } else { None };
    let (engine, exec) = (engine.clone(), exec);
    serve(upgrade, tty, place, async move |stream| match streams {
        Some(streams) => pump(stream, streams, &exec).await,
        None => match begin(&engine, &exec).await {
            Ok(streams) => pump(stream, streams, &exec).await,
            Err(error) => say(stream, tty, &error.to_string()).await,
        },
    })
}

/// Tells a client why there is no process, where its output would be.
async fn say<S: AsyncRead + AsyncWrite>(stream: S, tty: bool, text: &str) {
    let (_, mut to_client) = tokio::io::split(stream);
    let line = format!("{text}\r\n");
    let mut bytes = if tty { Vec::new() } else { frame_header(1, line.len()).to_vec() };
    bytes.extend(line.as_bytes());
    let _ = to_client.write_all(&bytes).await;
    let _ = to_client.shutdown().await;
}

/// A client's end of a stream: its upgraded connection, or an answer that goes on as long as the stream does.
pub(super) trait ClientStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ClientStream for T {}

/// Bytes that wait for a client without an upgraded connection.
const WAITING: usize = 64 * 1024;

/// Answers, and then serves the stream: as 101 where the client asks for it, else as a body. Then there is no input.
pub(super) fn serve<F: Future<Output = ()> + Send + 'static>(
    upgrade: Option<hyper::upgrade::OnUpgrade>,
    tty: bool,
    place: Option<Stream>,
    work: impl FnOnce(Box<dyn ClientStream>) -> F + Send + 'static,
) -> Reply {
    let Some(upgrade) = upgrade else {
        let (ours, theirs) = tokio::io::duplex(WAITING);
        let (output, mut input) = tokio::io::split(theirs);
        tokio::spawn(async move {
            let _ = input.shutdown().await;
            work(Box::new(ours)).await;
            drop(place);
        });
        let chunks = futures::stream::unfold(output, |mut output| async move {
            let mut buffer = bytes::BytesMut::with_capacity(CHUNK);
            let read = output.read_buf(&mut buffer).await.unwrap_or(0);
            (read > 0).then(|| (buffer.freeze(), output))
        });
        return reply::stream(kind(tty), chunks);
    };
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => work(Box::new(TokioIo::new(upgraded))).await,
            Err(error) => tracing::debug!("a connection was not upgraded: {error}"),
        }
        drop(place);
    });
    upgraded(tty)
}

fn kind(tty: bool) -> &'static str {
    if tty { "application/vnd.docker.raw-stream" } else { "application/vnd.docker.multiplexed-stream" }
}

/// The answer after which a connection is a stream: of a terminal's bytes, or of frames.
fn upgraded(tty: bool) -> Reply {
    let mut response = Response::new(super::reply::whole(Vec::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind(tty)));
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("tcp"));
    Ok(response)
}

/// `GET /exec/{id}/json`.
pub fn inspect(engine: &Engine, id: &str) -> Reply {
    let exec = engine.execs.find(id)?;
    let state = *exec.state.borrow();
    let new = &exec.new;
    reply::json(
        200,
        &json!({
            "ID": exec.id,
            "Running": state.running,
            "ExitCode": state.exit_code,
            "ProcessConfig": {
                "tty": new.tty, "entrypoint": new.args.first(), "arguments": new.args.get(1..).unwrap_or_default(),
                "privileged": new.privileged, "user": new.user.clone().unwrap_or_default(),
            },
            "OpenStdin": new.stdin,
            "OpenStderr": true,
            "OpenStdout": true,
            "CanRemove": false,
            "ContainerID": exec.container.id,
            "DetachKeys": "",
            "Pid": state.pid,
        }),
    )
}

/// `POST /exec/{id}/resize?h=&w=`.
pub fn resize(engine: &Engine, id: &str, query: &Query) -> Reply {
    let exec = engine.execs.find(id)?;
    let (rows, columns) = super::containers::size(query)?;
    if !exec.container.status().is_alive() {
        return Err(EngineError::NotRunning { name: exec.container.name() });
    }
    if !exec.state.borrow().running {
        return Err(EngineError::Conflict(format!("exec process {id} is not running")));
    }
    engine.execs.resize(&exec, rows, columns);
    reply::empty(200)
}

/// Bytes of a process's output that are read at once; for a client that does not read, some chunks are kept and the process waits.
const CHUNK: usize = 16 * 1024;

/// Reads what nobody wants, so that a detached process does not end by SIGPIPE or by its terminal's hangup.
fn discard(streams: Streams) {
    let read = |output| async move {
        let mut output: pipe::Receiver = output;
        let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
    };
    match streams {
        Streams::Pipes { output, error, .. } => {
            tokio::spawn(read(output));
            tokio::spawn(read(error));
        }
        Streams::Terminal(master) => {
            if let Ok(output) = pipe::Receiver::from_owned_fd_unchecked(master) {
                tokio::spawn(read(output));
            }
        }
    }
}

/// The frame of some output, or its bytes alone for a terminal.
fn framed(stream: Option<u8>, data: &[u8]) -> Vec<u8> {
    let mut bytes = stream.map_or_else(Vec::new, |stream| frame_header(stream, data.len()).to_vec());
    bytes.extend_from_slice(data);
    bytes
}

/// Sends what is in a pipe or a terminal of a process that has ended. One that it has left behind may go on writing: no more is
/// read than a pipe holds.
async fn send_rest(to: &mut (impl AsyncWrite + Unpin), from: &impl AsFd, stream: Option<u8>) {
    let (mut buffer, mut left) = (vec![0; CHUNK], LARGEST_PIPE);
    loop {
        let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        if left == 0 || !poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0) {
            return;
        }
        match nix::unistd::read(from, &mut buffer) {
            Ok(n @ 1..) if to.write_all(&framed(stream, &buffer[..n])).await.is_ok() => left = left.saturating_sub(n),
            _ => return,
        }
    }
}

/// Moves bytes both ways until the process has ended, and sends what it wrote by then. Whoever it has left behind may hold its
/// output open; as with Docker, they are not waited for.
async fn pump<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S, streams: Streams, exec: &Arc<Exec>) {
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    let mut state = exec.state.subscribe();
    let ended = async move {
        let _ = state.wait_for(|state| state.exit_code.is_some()).await;
    };
    tokio::pin!(ended);
    match streams {
        Streams::Pipes { input, mut output, mut error } => {
            let feeding = tokio::spawn(async move {
                if let Some(mut input) = input {
                    let _ = tokio::io::copy(&mut from_client, &mut input).await;
                }
            });
            let (mut out, mut err) = (vec![0; CHUNK], vec![0; CHUNK]);
            let (mut out_open, mut err_open, mut reached) = (true, true, true);
            while reached && (out_open || err_open) {
                let bytes = tokio::select! {
                    n = output.read(&mut out), if out_open => {
                        let n = n.unwrap_or(0);
                        out_open = n > 0;
                        framed(Some(1), &out[..n])
                    }
                    n = error.read(&mut err), if err_open => {
                        let n = n.unwrap_or(0);
                        err_open = n > 0;
                        framed(Some(2), &err[..n])
                    }
                    () = &mut ended => {
                        send_rest(&mut to_client, &output, Some(1)).await;
                        send_rest(&mut to_client, &error, Some(2)).await;
                        break;
                    }
                };
                // A frame without content stands for an end.
                reached = bytes.len() == FRAME_HEADER || to_client.write_all(&bytes).await.is_ok();
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
            loop {
                tokio::select! {
                    // EIO is a terminal's end of file: the last process that had it open is gone.
                    n = output.read(&mut buffer) => match n {
                        Ok(n @ 1..) if to_client.write_all(&buffer[..n]).await.is_ok() => {}
                        _ => break,
                    },
                    () = &mut ended => {
                        send_rest(&mut to_client, &output, None).await;
                        break;
                    }
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

/// Bytes of a frame's header.
const FRAME_HEADER: usize = 8;
/// What a pipe holds at most (`fs.pipe-max-size`).
const LARGEST_PIPE: usize = 1 << 20;

/// Docker's header of a frame of a multiplexed stream: 1 is standard output, 2 standard error.
pub fn frame_header(stream: u8, length: usize) -> [u8; 8] {
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [stream, 0, 0, 0, a, b, c, d]
}
