//! `/exec`: processes in running containers, over a connection that becomes the process's streams.

use super::connections::StreamPermit;
use super::detach::DetachKeys;
use super::hijack::{self, CHUNK, Feeder, Feeding, HijackAnswer, StreamClient};
use super::reply::{self, Query, Reply};
use super::request_body;
use super::types::{CreatedId, ExecCreate, ExecInspect, ExecProcess, ExecStart};
use crate::engine::containers::exec::{Exec, ProcessStreams};
use crate::engine::{Engine, EngineError};
use hyper::body::Incoming;
use hyper::{Request, header};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;

/// `POST /containers/{id}/exec`.
pub async fn create(engine: &Engine, id: &str, request: Request<Incoming>) -> Reply {
    let container = engine.containers.find(id)?;
    let body: ExecCreate = request_body::json(request).await?;
    let exec = engine.execs.create(&container, body.try_into()?)?;
    emit(engine, &exec, &format!("exec_create: {}", exec.new.args.join(" ")), &[]);
    reply::json(201, &CreatedId { id: exec.id.clone() })
}

fn emit(engine: &Engine, exec: &Exec, action: &str, extra: &[(&str, String)]) {
    let mut attributes = vec![("execID", exec.id.clone())];
    attributes.extend(extra.iter().cloned());
    engine.containers.emit(&exec.container, action, &attributes);
}

/// Starts the process, and emits the events of its start and its end.
async fn begin(engine: &Arc<Engine>, exec: &Arc<Exec>) -> Result<ProcessStreams, EngineError> {
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
pub(super) async fn start(engine: &Arc<Engine>, id: &str, mut request: Request<Incoming>, place: Option<StreamPermit>) -> Reply {
    let exec = engine.execs.find(id)?;
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let own = request.headers().contains_key(super::WARNING_HEADER);
    let upgrade = upgrades.then(|| hyper::upgrade::on(&mut request));
    let body: ExecStart = request_body::optional(request).await?;
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
        discard_all(streams);
        return reply::empty(200);
    }
    // Docker's streams are as the start asks for them, whatever the process has.
    let raw = if own { exec.new.tty } else { body.tty };
    let keys = (!own && exec.new.tty).then(|| DetachKeys::parse(&exec.new.detach_keys)).transpose()?;
    let streams = if own { Some(begin(engine, &exec).await?) } else { None };
    let (engine, exec) = (engine.clone(), exec);
    hijack::serve(HijackAnswer { upgrade, raw, head_first: !own, place }, async move |client| match streams {
        Some(streams) => pump(&engine, client, streams, &exec, ExecForm { raw, keys }).await,
        None => match begin(&engine, &exec).await {
            Ok(streams) => pump(&engine, client, streams, &exec, ExecForm { raw, keys }).await,
            Err(error) => say(client, raw, &error.to_string()).await,
        },
    })
}

/// Tells a client why there is no process, where its output would be.
async fn say(client: StreamClient, raw: bool, text: &str) {
    let StreamClient { input, mut output } = client;
    let line = format!("{text}\r\n");
    let _ = output.write_all(&framed((!raw).then_some(1), line.as_bytes())).await;
    Feeder::new(input, None, None, || {}).end(output).await;
}

/// `GET /exec/{id}/json`.
pub fn inspect(engine: &Engine, id: &str) -> Reply {
    let exec = engine.execs.find(id)?;
    let state = *exec.state.borrow();
    let new = &exec.new;
    reply::json(
        200,
        &ExecInspect {
            id: exec.id.clone(),
            running: state.running,
            exit_code: state.exit_code,
            process_config: ExecProcess {
                tty: new.tty,
                entrypoint: new.args.first().cloned(),
                arguments: new.args.get(1..).unwrap_or_default().to_vec(),
                privileged: new.privileged,
                user: new.user.clone().unwrap_or_default(),
            },
            open_stdin: new.stdin,
            open_stderr: new.is_attached(2),
            open_stdout: new.is_attached(1),
            can_remove: false,
            container_id: exec.container.id.clone(),
            detach_keys: new.detach_keys.clone(),
            pid: state.pid,
        },
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

/// Reads what nobody wants, so that a process whose client has left does not end by SIGPIPE or by its terminal's hangup.
async fn discard(mut output: pipe::Receiver) {
    let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
}

/// The same of all output of a detached process.
fn discard_all(streams: ProcessStreams) {
    match streams {
        ProcessStreams::Pipes { output, error, .. } => {
            tokio::spawn(discard(output));
            tokio::spawn(discard(error));
        }
        ProcessStreams::Terminal(master) => {
            if let Ok(output) = pipe::Receiver::from_owned_fd_unchecked(master) {
                tokio::spawn(discard(output));
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
async fn send_rest(to: &mut (impl AsyncWrite + Unpin), from: &impl AsFd, stream: Option<u8>, shown: bool) {
    if !shown {
        return;
    }
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

/// The streams of a client, and its detach keys.
struct ExecForm {
    raw: bool,
    keys: Option<DetachKeys>,
}

/// Moves bytes both ways until the process has ended, and sends what it wrote by then. Whoever it has left behind may hold its
/// output open; as with Docker, they are not waited for. A client that leaves, by its keys or without a word, leaves the process
/// running.
async fn pump(engine: &Engine, client: StreamClient, streams: ProcessStreams, exec: &Arc<Exec>, form: ExecForm) {
    let StreamClient { input: from_client, output: mut to_client } = client;
    let mut state = exec.state.subscribe();
    let ended = async move {
        let _ = state.wait_for(|state| state.exit_code.is_some()).await;
    };
    tokio::pin!(ended);
    let frame = |stream: u8| (!form.raw).then_some(stream);
    let feeder = match streams {
        ProcessStreams::Pipes { input, mut output, mut error } => {
            let mut feeder = Feeder::new(from_client, input, None, || {});
            let (mut out, mut err) = (vec![0; CHUNK], vec![0; CHUNK]);
            let (mut out_open, mut err_open, mut reached) = (true, true, true);
            while reached && (out_open || err_open) {
                let (stream, bytes) = tokio::select! {
                    n = output.read(&mut out), if out_open => {
                        let n = n.unwrap_or(0);
                        out_open = n > 0;
                        (1, &out[..n])
                    }
                    n = error.read(&mut err), if err_open => {
                        let n = n.unwrap_or(0);
                        err_open = n > 0;
                        (2, &err[..n])
                    }
                    () = &mut ended => {
                        for (stream, from) in [(1, &output), (2, &error)] {
                            send_rest(&mut to_client, from, frame(stream), exec.new.is_attached(stream)).await;
                        }
                        break;
                    }
                    () = to_client.is_gone() => {
                        reached = false;
                        break;
                    }
                };
                // A frame without content would stand for an end.
                if !bytes.is_empty() && exec.new.is_attached(stream) {
                    reached = to_client.write_all(&framed(frame(stream), bytes)).await.is_ok();
                }
            }
            if !reached {
                tokio::spawn(async move { tokio::join!(discard(output), discard(error)) });
                feeder.rest().await;
                return feeder.end(to_client).await;
            }
            feeder
        }
        ProcessStreams::Terminal(master) => {
            // A terminal is no pipe, but it is read and written as one.
            let copy = master.try_clone().and_then(pipe::Sender::from_owned_fd_unchecked);
            let (Ok(input), Ok(mut output)) = (copy, pipe::Receiver::from_owned_fd_unchecked(master)) else { return };
            let mut feeder = Feeder::new(from_client, exec.new.stdin.then_some(input), form.keys, || {});
            let mut buffer = vec![0; CHUNK];
            let shown = exec.new.is_attached(1);
            let has_left = loop {
                tokio::select! {
                    // EIO is a terminal's end of file: the last process that had it open is gone.
                    n = output.read(&mut buffer) => match n {
                        Ok(1..) if !shown => {}
                        Ok(n @ 1..) => {
                            if to_client.write_all(&framed(frame(1), &buffer[..n])).await.is_err() {
                                break true;
                            }
                        }
                        _ => break false,
                    },
                    () = &mut ended => {
                        send_rest(&mut to_client, &output, frame(1), shown).await;
                        break false;
                    }
                    () = feeder.detached() => break true,
                    () = to_client.is_gone() => break true,
                }
            };
            if has_left {
                tokio::spawn(discard(output));
                if feeder.rest().await == Feeding::Detached {
                    emit(engine, exec, "exec_detach", &[]);
                }
                return feeder.end(to_client).await;
            }
            feeder
        }
    };
    // The exit code is asked for when the streams have ended: it must be known by then.
    let mut state = exec.state.subscribe();
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), state.wait_for(|state| state.exit_code.is_some())).await;
    feeder.end(to_client).await;
}

/// The largest size of a pipe (`fs.pipe-max-size`).
const LARGEST_PIPE: usize = 1 << 20;

/// Docker's header of a frame of a multiplexed stream: 1 is standard output, 2 standard error.
pub fn frame_header(stream: u8, length: usize) -> [u8; 8] {
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [stream, 0, 0, 0, a, b, c, d]
}
