//! A build's events as BuildKit's clients show them: vertices with their times, lines of output, warnings.

use crate::image::build::Event;
use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bytes of output of one build, and of all, that wait for clients which read more slowly than they come. What is more is left out:
/// it concerns what is shown, never what is done.
const MAX_BACKLOG: usize = 2 << 20;
const MAX_OF_ALL: usize = 16 << 20;
static OF_ALL: AtomicUsize = AtomicUsize::new(0);
/// Memory of a waiting line besides its bytes.
const LINE: usize = 256;
/// The stream of a process that a line belongs to: a step's are one.
const STDOUT: i64 = 1;

/// What has happened and was not read yet.
#[derive(Default)]
pub(super) struct Progress {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    pending: StatusResponse,
    bytes: usize,
    left_out: usize,
    /// The vertices that have not ended, by their numbers.
    running: HashMap<String, Vertex>,
    /// The last vertex, on which warnings are shown.
    last: String,
    /// How the command that failed has ended.
    returned: Option<String>,
    ended: bool,
}

impl Drop for State {
    fn drop(&mut self) {
        OF_ALL.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

pub(super) fn now() -> Option<Timestamp> {
    let now = jiff::Timestamp::now();
    Some(Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() })
}

impl Progress {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for what has not been read; `None` once the build has ended and all was read.
    pub async fn next(&self) -> Option<StatusResponse> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                let pending = std::mem::take(&mut state.pending);
                OF_ALL.fetch_sub(std::mem::take(&mut state.bytes), Ordering::Relaxed);
                if pending != StatusResponse::default() {
                    return Some(pending);
                }
                if state.ended {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Nothing happens any more: what still runs was cancelled.
    pub fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        let running: Vec<Vertex> = state.running.drain().map(|(_, vertex)| vertex).collect();
        for vertex in running {
            let error = "context canceled".to_string();
            state.pending.vertexes.push(Vertex { completed: now(), error, ..vertex });
        }
        drop(state);
        self.changed.notify_one();
    }

    /// A vertex that begins: its digest is the sha256 of `key`.
    pub fn begin(&self, key: &str, name: &str) -> Step<'_> {
        let digest = digest_of(key);
        self.begin_vertex(digest.clone(), name);
        Step { progress: self, digest, ended: false }
    }

    fn begin_vertex(&self, digest: String, name: &str) {
        let vertex = Vertex { digest: digest.clone(), name: name.to_string(), started: now(), ..Vertex::default() };
        let mut state = self.state();
        state.pending.vertexes.push(vertex.clone());
        state.last.clone_from(&digest);
        state.running.insert(digest, vertex);
        drop(state);
        self.changed.notify_one();
    }

    fn end_vertex(&self, digest: &str, cached: bool, error: String) {
        let mut state = self.state();
        if let Some(vertex) = state.running.remove(digest) {
            state.pending.vertexes.push(Vertex { completed: now(), cached, error, ..vertex });
        }
        drop(state);
        self.changed.notify_one();
    }

    /// What a step of the build with this reference does.
    pub fn event(&self, reference: &str, event: Event) {
        let digest = |id: u32| digest_of(&format!("{reference}/{id}"));
        match event {
            Event::Step { id, name } => self.begin_vertex(digest(id), &name),
            Event::Cached { id } => self.end_vertex(&digest(id), true, String::new()),
            Event::Done { id, .. } => self.end_vertex(&digest(id), false, String::new()),
            Event::Failed { id } => {
                let error = self.state().returned.clone().unwrap_or_else(|| "it has failed".into());
                self.end_vertex(&digest(id), false, error);
            }
            Event::Output { id, line } => self.output(digest(id), line),
            Event::Warning(text) => self.warn(VertexWarning { level: 1, short: text.into_bytes(), ..VertexWarning::default() }),
            Event::Returned { command, code } => {
                let words = format!("process \"{command}\" did not complete successfully: exit code: {code}");
                self.state().returned = Some(words);
            }
            Event::Instruction { .. } | Event::InstructionDone { .. } | Event::Built { .. } => {}
        }
    }

    /// How the command that has failed ended, in BuildKit's words.
    pub fn returned(&self) -> Option<String> {
        self.state().returned.clone()
    }

    /// A warning, of the vertex that it names or of the last.
    pub fn warn(&self, mut warning: VertexWarning) {
        let mut state = self.state();
        if warning.vertex.is_empty() {
            warning.vertex.clone_from(&state.last);
        }
        if state.pending.warnings.len() < 1000 {
            state.pending.warnings.push(warning);
        }
        drop(state);
        self.changed.notify_one();
    }

    fn output(&self, vertex: String, line: String) {
        let mut state = self.state();
        let bytes = line.len() + LINE;
        if state.bytes + bytes > MAX_BACKLOG || OF_ALL.load(Ordering::Relaxed) + bytes > MAX_OF_ALL {
            state.left_out += 1;
            return;
        }
        let mut log = |text: String| {
            let bytes = text.len() + LINE;
            OF_ALL.fetch_add(bytes, Ordering::Relaxed);
            state.bytes += bytes;
            let log = VertexLog { vertex: vertex.clone(), timestamp: now(), stream: STDOUT, msg: (text + "\n").into_bytes() };
            state.pending.logs.push(log);
            std::mem::take(&mut state.left_out)
        };
        let left_out = log(line);
        if left_out > 0 {
            log(format!("[{left_out} lines of output were left out: they came faster than they were read]"));
        }
        drop(state);
        self.changed.notify_one();
    }
}

fn digest_of(key: &str) -> String {
    crate::image::Digest::of(key.as_bytes()).to_string()
}

/// A vertex of what is done around the Dockerfile's steps. Dropped before its end, it was cancelled.
pub(super) struct Step<'a> {
    progress: &'a Progress,
    digest: String,
    ended: bool,
}

impl Step<'_> {
    /// A line below the vertex of what has been done.
    pub fn status(&self, name: &str) {
        let time = now();
        let status = VertexStatus {
            id: name.to_string(),
            vertex: self.digest.clone(),
            name: name.to_string(),
            timestamp: time,
            started: time,
            completed: time,
            ..VertexStatus::default()
        };
        self.progress.state().pending.statuses.push(status);
    }

    pub fn done(self) {
        self.end(String::new());
    }

    /// Ends the vertex as a result says.
    pub fn result<T, E: std::fmt::Display>(self, result: Result<T, E>) -> Result<T, E> {
        self.end(result.as_ref().err().map(ToString::to_string).unwrap_or_default());
        result
    }

    fn end(mut self, error: String) {
        self.ended = true;
        self.progress.end_vertex(&self.digest, false, error);
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.progress.end_vertex(&self.digest, false, "context canceled".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_that_nobody_reads_is_bounded() {
        let progress = Progress::default();
        progress.event("r", Event::Step { id: 1, name: "RUN yes".into() });
        for _ in 0..100_000 {
            progress.event("r", Event::Output { id: 1, line: "y".repeat(100) });
        }
        let first = progress.next().await.expect("events");
        let bytes: usize = first.logs.iter().map(|log| log.msg.len() - 1 + LINE).sum();
        assert!(bytes <= MAX_BACKLOG + LINE && first.logs.len() > 1000, "{bytes}");
        progress.event("r", Event::Output { id: 1, line: "end".into() });
        progress.end();
        let last = progress.next().await.expect("the end");
        assert!(String::from_utf8_lossy(&last.logs[1].msg).contains("lines of output were left out"), "{:?}", last.logs);
        assert_eq!((last.vertexes.len(), last.vertexes[0].error.as_str()), (1, "context canceled"));
        assert!(progress.next().await.is_none());
        assert_eq!(OF_ALL.load(Ordering::Relaxed), 0);
    }
}
