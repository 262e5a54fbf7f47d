//! Logs: answers that may go on as long as the client listens.

use super::exec::frame_header;
use super::reply::{self, Query, Reply};
use crate::engine::{Container, Engine, EngineError};
use crate::logs::Stream;
use crate::logs::reader::{Reader, Selection};
use bytes::{Bytes, BytesMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

/// Bytes of a log that are read and sent at once.
const WIDE: usize = 256 * 1024;
/// The same where many follow logs: each may be a client that does not read, for which some batches are kept.
const NARROW: usize = 8 * 1024;
/// As many have wide batches.
const MOST_WIDE: usize = 16;

static WIDE_STREAMS: Semaphore = Semaphore::const_new(MOST_WIDE);

/// How much of a log is read and sent at once, as long as this lives.
pub(super) struct Width(Option<SemaphorePermit<'static>>);

impl Width {
    fn take() -> Self {
        Width(WIDE_STREAMS.try_acquire().ok())
    }

    fn bytes(&self) -> usize {
        if self.0.is_some() { WIDE } else { NARROW }
    }
}

/// Opens a log for a client. It may have to be read from its end: a thread waits for the disk.
pub(super) async fn open(path: &Path, selection: Selection) -> std::io::Result<(Reader, Width)> {
    let width = Width::take();
    let (path, buffer) = (path.to_path_buf(), width.bytes());
    let reader = tokio::task::spawn_blocking(move || Reader::open_with(&path, &selection, buffer)).await??;
    Ok((reader, width))
}

/// `GET /containers/{id}/logs`. With `multiplexed=1`, which Docker has not, what a terminal has said comes in frames as well: only
/// so can be told where one piece ends and the next begins with its time.
pub async fn of_container(engine: &Arc<Engine>, id: &str, query: &Query) -> Reply {
    let container = engine.containers.find(id)?;
    let options = Options {
        follow: query.flag("follow"),
        timestamps: query.flag("timestamps"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        raw: container.record().spec.tty && !query.flag("multiplexed"),
    };
    if !options.stdout && !options.stderr {
        return Err(EngineError::Invalid("ask for stdout, stderr or both".into()));
    }
    let time = |key: &str| query.get(key).filter(|t| !t.is_empty() && *t != "0").map(log_time).transpose();
    let selection = Selection { tail: query.number("tail"), since: time("since")?, until: time("until")? };
    let path = engine.config.log_path(&container.id);
    let opened = open(&path, selection).await;
    let (reader, width) = opened.map_err(EngineError::io(format!("reading the log of {}", container.name())))?;
    // One batch waits while the next is made; a client that does not read holds up both.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(send_log(engine.clone(), container, (reader, path, width), options, sender));
    let kind = if options.raw { "application/vnd.docker.raw-stream" } else { "application/vnd.docker.multiplexed-stream" };
    reply::stream(kind, reply::receiver_stream(receiver))
}

/// What of a log is sent, and how.
#[derive(Clone, Copy)]
pub(super) struct Options {
    pub follow: bool,
    pub timestamps: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// A container with a terminal has one stream, without frames.
    pub raw: bool,
}

/// A time in the form of the log, so that they compare as text.
fn log_time(text: &str) -> Result<String, EngineError> {
    Ok(format!("{:.9}", moment(text)?))
}

/// Docker's times: seconds since 1970 with a fraction, or RFC 3339.
pub(super) fn moment(text: &str) -> Result<jiff::Timestamp, EngineError> {
    let bad = || EngineError::Invalid(format!("`{text}` is not a time: write 2026-01-31T12:00:00Z, or seconds since 1970"));
    Ok(match text.split_once('.').unwrap_or((text, "")) {
        (seconds, fraction) if seconds.parse::<i64>().is_ok() => {
            let nanos = format!("{fraction:0<9}");
            jiff::Timestamp::new(seconds.parse().map_err(|_| bad())?, nanos[..9].parse().map_err(|_| bad())?)
                .map_err(|_| bad())?
        }
        _ => text.parse::<jiff::Timestamp>().map_err(|_| bad())?,
    })
}

/// Sends a log until its end, or, following, until the container's.
pub(super) async fn send_log(
    engine: Arc<Engine>,
    container: Arc<Container>,
    (mut reader, path, width): (Reader, PathBuf, Width),
    options: Options,
    sender: mpsc::Sender<Bytes>,
) {
    let directory = path.parent().unwrap_or(&path).to_path_buf();
    let watch = if options.follow { engine.events.logs.watch(&directory).ok() } else { None };
    let mut inside = false;
    let size = width.bytes();
    loop {
        // Registered before the log is read: what is written after the reading must not be missed.
        let changed = watch.as_ref().map_or_else(Default::default, |watch| watch.changed.clone());
        let mut grown = std::pin::pin!(changed.notified());
        grown.as_mut().enable();
        let alive = container.status().is_alive();
        loop {
            let filled = tokio::task::spawn_blocking(move || {
                let batch = fill(&mut reader, options, size, &mut inside);
                (reader, inside, batch)
            });
            let Ok((back, still_inside, batch)) = filled.await else { return };
            (reader, inside) = (back, still_inside);
            let Ok(batch) = batch else { return };
            if batch.is_empty() {
                break;
            }
            if sender.send(batch.freeze()).await.is_err() {
                return;
            }
        }
        if !options.follow || !alive {
            return;
        }
        let ended = container.wait_until(|record| !record.state.status().is_alive());
        tokio::select! {
            () = &mut grown => {}
            () = ended => {}
            () = sender.closed() => return,
        }
    }
}

/// Reads lines into frames until the batch is full or the log is at its end. `inside` tells whether a line has begun and not
/// ended yet: without frames, it has its time at its beginning alone.
fn fill(reader: &mut Reader, options: Options, size: usize, inside: &mut bool) -> std::io::Result<BytesMut> {
    let mut batch = BytesMut::new();
    while batch.len() < size {
        let Some(line) = reader.next_line()? else { break };
        let (stream, wanted) = match line.stream {
            Stream::Stdout => (1, options.stdout),
            Stream::Stderr => (2, options.stderr),
        };
        if !wanted {
            continue;
        }
        let stamped = options.timestamps && !(options.raw && *inside);
        *inside = !line.complete;
        let stamp = if stamped { line.time.len() + 1 } else { 0 };
        let length = stamp + line.text.len() + usize::from(line.complete);
        if batch.capacity() == 0 {
            batch.reserve(size + size / 8);
        }
        if !options.raw {
            batch.extend_from_slice(&frame_header(stream, length));
        }
        if stamped {
            batch.extend_from_slice(line.time);
            batch.extend_from_slice(b" ");
        }
        batch.extend_from_slice(line.text);
        if line.complete {
            batch.extend_from_slice(b"\n");
        }
    }
    Ok(batch)
}
