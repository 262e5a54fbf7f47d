//! A build's events as BuildKit's clients show them: vertices with their times, lines of output, warnings.

use crate::image::build::BuildEvent;
use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bytes of output of one build, and of all, that wait for clients which read more slowly than they come. What is more is left out,
/// but for the last lines of each step: it concerns what is shown, never what is done. BuildKit shows as much of a step.
const MAX_BACKLOG: usize = 2 << 20;
/// Bytes of a step's last lines, and of those of all steps of a build, beyond the backlog.
const TAIL: usize = 8 << 10;
const MAX_TAILS: usize = 512 << 10;
/// Lines of a step that come together are sent together, up to so many bytes.
const TOGETHER: usize = 16 << 10;
const TOGETHER_NANOS: i64 = 100_000_000;
const MAX_OF_ALL: usize = 16 << 20;
static OF_ALL: AtomicUsize = AtomicUsize::new(0);
/// Memory of a waiting line besides its bytes.
const LINE: usize = 256;
/// The stream of a process that a line belongs to: a step's are one.
const STDOUT: i64 = 1;

/// What has happened and was not read yet.
#[derive(Default)]
pub(super) struct SolveProgress {
    state: Mutex<ProgressState>,
    changed: Notify,
}

#[derive(Default)]
struct ProgressState {
    pending: StatusResponse,
    bytes: usize,
    /// What was left out of the steps that run.
    clipped: HashMap<String, Clipped>,
    /// The vertices that have not ended, by their numbers.
    running: HashMap<String, Vertex>,
    /// The last vertex, on which warnings are shown.
    last: String,
    /// How the command that failed has ended, and its vertex.
    returned: Option<(String, String)>,
    ended: bool,
}

/// Output of a step that there was no room for.
#[derive(Default)]
struct Clipped {
    lines: usize,
    /// The last of it, whole lines.
    tail: VecDeque<u8>,
}

impl Clipped {
    fn push(&mut self, line: &str) {
        self.lines += 1;
        let kept = line.len().min(TAIL - 1);
        self.tail.extend(&line.as_bytes()[line.len() - kept..]);
        self.tail.push_back(b'\n');
        while self.tail.len() > TAIL {
            let end = self.tail.iter().position(|byte| *byte == b'\n').unwrap_or(self.tail.len() - 1);
            self.tail.drain(..=end);
        }
    }

    /// What is shown of it: that there was more, and its end.
    fn text(self) -> Vec<u8> {
        let shown = self.tail.iter().filter(|byte| **byte == b'\n').count();
        let mut text = match self.lines - shown {
            0 => Vec::new(),
            lines => format!("[output clipped: {lines} lines came faster than they were read]\n").into_bytes(),
        };
        text.extend(self.tail);
        text
    }
}

impl ProgressState {
    fn log(&mut self, vertex: &str, text: &[u8]) {
        let now = now();
        let nanos = |time: &Option<Timestamp>| time.as_ref().map_or(0, |t| t.seconds * 1_000_000_000 + i64::from(t.nanos));
        let last = self.pending.logs.last_mut().filter(|log| {
            log.vertex == vertex && log.msg.len() + text.len() <= TOGETHER && nanos(&now) - nanos(&log.timestamp) < TOGETHER_NANOS
        });
        let bytes = match last {
            Some(log) => {
                log.msg.extend(text);
                text.len()
            }
            None => {
                let log = VertexLog { vertex: vertex.into(), timestamp: now, stream: STDOUT, msg: text.to_vec() };
                self.pending.logs.push(log);
                text.len() + LINE
            }
        };
        OF_ALL.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes + LINE <= MAX_BACKLOG && OF_ALL.load(Ordering::Relaxed) + bytes + LINE <= MAX_OF_ALL
    }

    fn output(&mut self, vertex: &str, line: &str) {
        let waiting = self.clipped.get(vertex).map_or(0, |clipped| clipped.tail.len() + LINE);
        if !self.has_room(waiting + line.len() + 1) {
            return self.clipped.entry(vertex.to_string()).or_default().push(line);
        }
        self.show_clipped(vertex);
        let mut text = line.as_bytes().to_vec();
        text.push(b'\n');
        self.log(vertex, &text);
    }

    /// Shows the end of what was left out of a step, also where there is no more room for output.
    fn show_clipped(&mut self, vertex: &str) {
        if let Some(clipped) = self.clipped.remove(vertex)
            && self.bytes < MAX_BACKLOG + MAX_TAILS
        {
            self.log(vertex, &clipped.text());
        }
    }
}

impl Drop for ProgressState {
    fn drop(&mut self) {
        OF_ALL.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

pub(super) fn now() -> Option<Timestamp> {
    let now = jiff::Timestamp::now();
    Some(Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() })
}

impl SolveProgress {
    fn state(&self) -> MutexGuard<'_, ProgressState> {
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
            state.show_clipped(&vertex.digest);
            let error = "context canceled".to_string();
            state.pending.vertexes.push(Vertex { completed: now(), error, ..vertex });
        }
        drop(state);
        self.changed.notify_one();
    }

    /// A vertex that begins: its digest is the sha256 of `key`.
    pub fn begin(&self, key: &str, name: &str) -> ProgressStep<'_> {
        let digest = digest_of(key);
        self.begin_vertex(digest.clone(), name);
        ProgressStep { progress: self, digest, ended: false }
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
        state.show_clipped(digest);
        if let Some(vertex) = state.running.remove(digest) {
            state.pending.vertexes.push(Vertex { completed: now(), cached, error, ..vertex });
        }
        drop(state);
        self.changed.notify_one();
    }

    /// What a step of the build with this reference does.
    pub fn event(&self, reference: &str, event: BuildEvent) {
        let digest = |id: u32| digest_of(&format!("{reference}/{id}"));
        match event {
            BuildEvent::Step { id, name } => self.begin_vertex(digest(id), &name),
            BuildEvent::Cached { id } => self.end_vertex(&digest(id), true, String::new()),
            BuildEvent::Done { id, .. } => self.end_vertex(&digest(id), false, String::new()),
            BuildEvent::Failed { id, why } => {
                let digest = digest(id);
                let returned = self.state().returned.clone().filter(|(vertex, _)| *vertex == digest);
                let why = if why.is_empty() { "it has failed".into() } else { why };
                self.end_vertex(&digest, false, returned.map_or(why, |(_, words)| words));
            }
            BuildEvent::Output { id, line } => {
                self.state().output(&digest(id), &line);
                self.changed.notify_one();
            }
            BuildEvent::Warning(text) => {
                self.warn(VertexWarning { level: 1, short: text.into_bytes(), ..VertexWarning::default() })
            }
            BuildEvent::Returned { id, command, code } => {
                let words = format!("process \"{command}\" did not complete successfully: exit code: {code}");
                self.state().returned = Some((digest(id), words));
            }
            BuildEvent::Instruction { .. } | BuildEvent::InstructionDone { .. } | BuildEvent::Built { .. } => {}
        }
    }

    /// How the command that has failed ended, in BuildKit's words.
    pub fn returned(&self) -> Option<String> {
        self.state().returned.clone().map(|(_, words)| words)
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
}

fn digest_of(key: &str) -> String {
    crate::image::Digest::of(key.as_bytes()).to_string()
}

/// A vertex of what is done around the Dockerfile's steps. Dropped before its end, it was cancelled.
pub(super) struct ProgressStep<'a> {
    progress: &'a SolveProgress,
    digest: String,
    ended: bool,
}

impl ProgressStep<'_> {
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

    /// A warning of this vertex.
    pub fn warn(&self, warning: VertexWarning) {
        self.progress.warn(VertexWarning { vertex: self.digest.clone(), ..warning });
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

impl Drop for ProgressStep<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.progress.end_vertex(&self.digest, false, "context canceled".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(status: &StatusResponse) -> String {
        status.logs.iter().map(|log| String::from_utf8_lossy(&log.msg).into_owned()).collect()
    }

    #[tokio::test]
    async fn output_that_nobody_reads_is_bounded() {
        let progress = SolveProgress::default();
        let output = |line: String| progress.event("r", BuildEvent::Output { id: 1, line });
        progress.event("r", BuildEvent::Step { id: 1, name: "RUN yes".into() });
        (0..100_000).for_each(|n| output(format!("{n:0>100}")));
        let first = progress.next().await.expect("events");
        let bytes: usize = first.logs.iter().map(|log| log.msg.len() + LINE).sum();
        // BuildKit's limit, less what the messages take.
        assert!((MAX_BACKLOG - MAX_BACKLOG / 20..=MAX_BACKLOG).contains(&bytes), "{bytes}");
        // The last lines come with the next that there is room for, and then all is as before.
        output("further".into());
        let second = text(&progress.next().await.expect("events"));
        let lines: Vec<&str> = second.lines().collect();
        assert!(lines[0].starts_with("[output clipped: ") && lines.len() > 80 && second.len() < TAIL + 200, "{second}");
        assert_eq!(lines[lines.len() - 2..], [format!("{:0>100}", 99_999).as_str(), "further"]);
        output("next".into());
        assert_eq!(text(&progress.next().await.expect("events")), "next\n");
        // Or at the end of the step, whatever waits.
        (0..100_000).for_each(|n| output(format!("{n:0>100}")));
        output("the reason".into());
        let why = "ended with exit code 3".to_string();
        progress.event("r", BuildEvent::Returned { id: 1, command: "c".into(), code: 3 });
        progress.event("r", BuildEvent::Failed { id: 1, why });
        progress.event("r", BuildEvent::Step { id: 2, name: "COPY".into() });
        progress.event("r", BuildEvent::Failed { id: 2, why: "no such file".into() });
        progress.end();
        let last = progress.next().await.expect("the end");
        assert!(text(&last).ends_with("the reason\n") && text(&last).contains("[output clipped: "));
        let errors: Vec<&str> = last.vertexes.iter().map(|vertex| vertex.error.as_str()).collect();
        assert_eq!(errors, ["process \"c\" did not complete successfully: exit code: 3", "", "no such file"]);
        assert!(progress.next().await.is_none());
        assert_eq!(OF_ALL.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_end_of_clipped_output_is_whole_lines() {
        let mut clipped = Clipped::default();
        clipped.push(&"x".repeat(3 * TAIL));
        assert_eq!((clipped.lines, clipped.tail.len()), (1, TAIL));
        (0..5000).for_each(|n| clipped.push(&n.to_string()));
        let text = String::from_utf8(clipped.text()).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[lines.len() - 1], lines[1].len()), ("4999", 4));
        let mut short = Clipped::default();
        short.push("all of it");
        assert_eq!(short.text(), b"all of it\n");
    }
}
