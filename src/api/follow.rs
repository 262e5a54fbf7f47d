//! Following a container's output: read from its log as it grows, for as long as the client listens. The log waits for it.

use super::exec::frame_header;
use crate::engine::containers::followers::Lease;
use crate::engine::{Container, Engine};
use crate::logs::Stream;
use crate::logs::reader::{LineSelection, Reader};
use bytes::{Bytes, BytesMut};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
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

/// The time at which a selection ends.
pub(super) fn end_of(selection: &LineSelection) -> Option<Timestamp> {
    selection.until.as_ref().and_then(|until| until.parse().ok())
}

/// Opens a log for a client. It may have to be read from its end: a thread waits for the disk.
pub(super) async fn open(path: &Path, selection: LineSelection) -> std::io::Result<(Reader, Width)> {
    let width = Width::take();
    let (path, buffer) = (path.to_path_buf(), width.bytes());
    let reader = tokio::task::spawn_blocking(move || Reader::open_with(&path, &selection, buffer)).await??;
    Ok((reader, width))
}

/// The selection of a log, and its form.
#[derive(Clone, Copy)]
pub(super) struct FollowOptions {
    pub follow: bool,
    pub timestamps: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub form: Form,
}

/// How a log is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A container with a terminal has one stream, without frames.
    Raw,
    /// Docker's frames.
    Frames,
    /// With wharf's own frames between them: exits, what was lost, and the end ([`Notice`]).
    Notices,
}

/// The streams of wharf's own frames, which Docker does not have. What is in them is JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Nothing follows: the container has ended, and this was all of it.
    End = 16,
    /// An [`Exited`].
    Exited = 17,
    /// Lines were removed before this client took them.
    Lost = 18,
}

impl Notice {
    /// The notice that a frame's stream stands for.
    pub fn of(stream: u8) -> Option<Self> {
        [Notice::End, Notice::Exited, Notice::Lost].into_iter().find(|notice| *notice as u8 == stream)
    }

    fn frame(self, content: &str) -> Bytes {
        [&frame_header(self as u8, content.len()), content.as_bytes()].concat().into()
    }
}

/// How a run of the container has ended, after its last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    pub code: i32,
    /// It is started again by its policy, or has been already.
    pub restarting: bool,
}

/// Bytes for the client, and the file that it needs next once it has them.
pub(super) struct Batch {
    pub bytes: Bytes,
    pub file: u64,
}

/// A hold on the log that the client's end moves on, and the reading end gives up where the client takes nothing for too long.
#[derive(Clone)]
pub(super) struct SharedLease(Arc<Mutex<Lease>>);

impl SharedLease {
    pub(super) fn new(lease: Lease) -> Self {
        SharedLease(Arc::new(Mutex::new(lease)))
    }

    pub(super) fn at(&self, file: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).at(file);
    }

    fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).release();
    }
}

/// A log on its way to a client.
pub(super) struct FollowedLog {
    pub engine: Arc<Engine>,
    pub container: Arc<Container>,
    pub reader: Reader,
    pub path: PathBuf,
    pub width: Width,
    pub options: FollowOptions,
    /// It ends at this time.
    pub until: Option<Timestamp>,
    /// The hold, and for how long a client is waited for that takes nothing; for ever without.
    pub lease: Option<(SharedLease, Option<Duration>)>,
}

/// Where inotify has no watch left, a log is looked at so often.
const WITHOUT_WATCH: Duration = Duration::from_millis(100);

/// How long a line may take from its time into the log.
const WRITTEN: SignedDuration = SignedDuration::from_millis(100);

impl FollowedLog {
    /// Sends the log until its end, or, following, until the container's or a time. An error is that the client has left.
    pub(super) async fn send(mut self, sender: mpsc::Sender<Batch>) {
        let engine = self.engine.clone();
        let directory = self.path.parent().unwrap_or(&self.path).to_path_buf();
        let watch = if self.options.follow { engine.events.logs.watch(&directory).ok() } else { None };
        let mut inside = false;
        let mut exit_sent = self.finished().filter(|_| self.container.status().is_alive());
        loop {
            // Registered before the log is read: what is written after the reading must not be missed.
            let changed = watch.as_ref().map_or_else(Default::default, |watch| watch.changed.clone());
            let mut grown = std::pin::pin!(changed.notified());
            grown.as_mut().enable();
            let mut record_changes = self.container.changes();
            let (alive, finished, exited) = self.ending();
            // As the lines until then have been written by now.
            let past = self.until.is_some_and(|until| Timestamp::now().duration_since(until) > WRITTEN);
            loop {
                let (mut reader, options, size) = (self.reader, self.options, self.width.bytes());
                let filled = tokio::task::spawn_blocking(move || {
                    let batch = fill(&mut reader, options, size, &mut inside);
                    (reader, inside, batch)
                });
                let Ok((back, still_inside, batch)) = filled.await else { return };
                (self.reader, inside) = (back, still_inside);
                let Ok(batch) = batch else { return };
                let lost = self.reader.take_lost() && self.options.form == Form::Notices;
                if lost && self.deliver(&sender, Notice::Lost.frame("")).await.is_none() {
                    return;
                }
                if batch.is_empty() {
                    break;
                }
                if self.deliver(&sender, batch.freeze()).await.is_none() {
                    return;
                }
            }
            if self.options.form == Form::Notices && finished != exit_sent && finished.is_some() {
                exit_sent = finished;
                let text = serde_json::to_string(&exited).unwrap_or_default();
                if self.deliver(&sender, Notice::Exited.frame(&text)).await.is_none() {
                    return;
                }
            }
            if !self.options.follow || !alive || past {
                if self.options.form == Form::Notices {
                    let _ = self.deliver(&sender, Notice::End.frame("")).await;
                }
                return;
            }
            let unwatched = async {
                match watch {
                    Some(_) => std::future::pending().await,
                    None => tokio::time::sleep(WITHOUT_WATCH).await,
                }
            };
            let ended = async { while self.ending() == (alive, finished, exited) && record_changes.changed().await.is_ok() {} };
            let time_is_up = async {
                match self.until {
                    Some(until) => {
                        let left = until.duration_since(Timestamp::now()) + WRITTEN + SignedDuration::from_millis(1);
                        tokio::time::sleep(left.try_into().unwrap_or_default()).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut grown => {}
                () = time_is_up => {}
                () = ended => {}
                () = unwatched => {}
                () = sender.closed() => return,
            }
        }
    }

    /// When the last run that has ended did so.
    fn finished(&self) -> Option<Timestamp> {
        self.container.with_record(|record| record.state.finished_at)
    }

    fn ending(&self) -> (bool, Option<Timestamp>, Exited) {
        self.container.with_record(|record| {
            let state = &record.state;
            // `restart` ends a container, and starts it at once.
            let restarts = record.restart_begun && self.options.form == Form::Notices;
            let alive = state.status().is_alive() || restarts;
            (alive, state.finished_at, Exited { code: state.exit_code, restarting: alive })
        })
    }

    /// Hands bytes to the client's end; `None` when the client has left. One that takes nothing for too long is not waited for any
    /// more, so that a pager that nobody scrolls does not hold up the container.
    async fn deliver(&self, sender: &mpsc::Sender<Batch>, bytes: Bytes) -> Option<()> {
        let reserve = sender.reserve();
        tokio::pin!(reserve);
        let permit = match &self.lease {
            Some((lease, Some(patience))) => match tokio::time::timeout(*patience, &mut reserve).await {
                Ok(permit) => permit,
                Err(_) => {
                    lease.release();
                    reserve.await
                }
            },
            _ => reserve.await,
        };
        permit.ok()?.send(Batch { bytes, file: self.reader.file() });
        Some(())
    }
}

/// Sends a log to which nothing is written any more.
pub(super) async fn send_whole(mut reader: Reader, width: Width, options: FollowOptions, sender: mpsc::Sender<Bytes>) {
    loop {
        let size = width.bytes();
        let filled = tokio::task::spawn_blocking(move || {
            let batch = fill(&mut reader, options, size, &mut false);
            (reader, batch)
        });
        let Ok((back, Ok(batch))) = filled.await else { return };
        reader = back;
        if batch.is_empty() || sender.send(batch.freeze()).await.is_err() {
            return;
        }
    }
}

/// Reads lines into frames until the batch is full or the log is at its end. `inside` tells whether a line has begun and not
/// ended yet: without frames, it has its time at its beginning alone.
fn fill(reader: &mut Reader, options: FollowOptions, size: usize, inside: &mut bool) -> std::io::Result<BytesMut> {
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
        let stamped = options.timestamps && !((options.form == Form::Raw) && *inside);
        *inside = !line.complete;
        let stamp = if stamped { line.time.len() + 1 } else { 0 };
        let length = stamp + line.text.len() + usize::from(line.complete);
        if batch.capacity() == 0 {
            batch.reserve(size + size / 8);
        }
        if !(options.form == Form::Raw) {
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
