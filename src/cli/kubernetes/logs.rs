//! `wharf kubernetes logs`: the output of the project's containers on the cluster, as `wharf logs` shows it on one machine.

use super::cluster::Cluster;
use super::cluster_error::ClusterError;
use super::kubeconfig::ClusterChoice;
use crate::api::reply::escape;
use crate::cli::output::{Prefixes, coloured};
use crate::cli::project::moment::moment;
use crate::cli::signals::or_cancelled;
use crate::cli::{Failure, Global, Outcome, project};
use crate::kubernetes::live::{LiveContainerStatus, LivePod};
use crate::kubernetes::object_name;
use crate::printable;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http_body_util::BodyExt;
use kube::client::Body;
use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal, Write};
use std::time::Duration;
use tokio::sync::mpsc::{Sender, channel};

/// How often `-f` looks for new Pods.
const INTERVAL: Duration = Duration::from_secs(1);

/// The longest line that is kept until its end comes.
const LONGEST: usize = 1 << 20;

#[derive(clap::Args, Debug)]
pub struct PodLogs {
    /// Services to show; all by default.
    services: Vec<String>,
    #[command(flatten)]
    cluster: ClusterChoice,
    /// Go on showing what comes, of Pods that are started later, too.
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines of each container.
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
    /// Lines from a time on: 2026-01-31T12:00:00Z, or how long ago: 10m.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Show the time of each line.
    #[arg(short, long)]
    timestamps: bool,
    /// Show no prefixes.
    #[arg(long)]
    no_log_prefix: bool,
    /// The output of the containers' runs before.
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
}

/// A container of a Pod.
#[derive(Clone, Debug)]
struct PodContainer {
    pod: String,
    container: String,
    /// Names this run of it.
    id: String,
    /// As prefixes have it: the service, and what is the Pod's own of its name.
    shown: String,
    is_running: bool,
}

pub async fn run(global: &Global, command: &PodLogs) -> Outcome {
    or_cancelled(show(global, command)).await
}

async fn show(global: &Global, command: &PodLogs) -> Outcome {
    let (name, loaded) = project::name(global)?;
    project::ps::check_services(loaded.as_ref(), &command.services)?;
    let cluster = Cluster::of(&command.cluster).await?;
    let view =
        PodLogView { cluster: &cluster, project: &name, command, since: command.since.as_deref().map(moment).transpose()? };
    if command.follow { view.follow().await } else { view.once().await }
}

struct PodLogView<'a> {
    cluster: &'a Cluster,
    project: &'a str,
    command: &'a PodLogs,
    since: Option<String>,
}

impl PodLogView<'_> {
    /// The containers that have output, and whether a Pod may yet have some.
    async fn containers(&self) -> Result<(Vec<PodContainer>, bool), Failure> {
        let pods = self.cluster.pods(self.project).await.map_err(|error| error.while_doing("listing the Pods", "pods"))?;
        let goes_on = pods.iter().any(|pod| !matches!(pod.status.phase.as_str(), "Succeeded" | "Failed"));
        let wanted: Vec<String> = self.command.services.iter().map(|service| object_name(service)).collect();
        let mut all = Vec::new();
        for pod in &pods {
            let own = pod.status.container_statuses.iter().filter(|status| !status.container_id.is_empty());
            all.extend(own.filter(|status| wanted.is_empty() || wanted.contains(&status.name)).map(|status| of(pod, status)));
        }
        all.sort_by(|a, b| a.shown.cmp(&b.shown));
        Ok((all, goes_on))
    }

    fn prefixes<'n>(&self, names: impl Iterator<Item = &'n str>) -> Prefixes {
        Prefixes::new(names, coloured(std::io::stdout().is_terminal()), !self.command.no_log_prefix)
    }

    /// `None` where the container has no output, or is gone.
    async fn open(&self, container: &PodContainer, since: Option<&str>, is_first: bool) -> Result<Option<LogLines>, Failure> {
        let path = format!("/api/v1/namespaces/{}/pods/{}/log", self.cluster.namespace, escape(&container.pod));
        let mut query = format!("container={}&timestamps=true&follow={}", escape(&container.container), self.command.follow);
        if let Some(since) = since.or(self.since.as_deref().filter(|_| is_first)) {
            query.push_str(&format!("&sinceTime={}", escape(since)));
        }
        if let Some(tail) = self.command.tail.filter(|_| is_first) {
            query.push_str(&format!("&tailLines={tail}"));
        }
        if self.command.previous {
            query.push_str("&previous=true");
        }
        match self.cluster.stream(&path, &query).await {
            Ok(body) => Ok(Some(LogLines::new(body))),
            // It waits to be started, or has no run before.
            Err(ClusterError::Refused(status)) if matches!(status.code, 400 | 404) => Ok(None),
            Err(error) => Err(error.while_doing(&format!("reading the log of `{}`", container.shown), "pods/log")),
        }
    }

    /// All that there is, merged by time.
    async fn once(&self) -> Outcome {
        let (containers, _) = self.containers().await?;
        let prefixes = self.prefixes(containers.iter().map(|container| container.shown.as_str()));
        let mut sources = Vec::new();
        for (n, container) in containers.iter().enumerate() {
            let Some(mut lines) = self.open(container, None, true).await? else { continue };
            let first = lines.next().await.map_err(|why| cut(&container.shown, &why))?;
            sources.push((first, lines, prefixes.of(&container.shown, n), &container.shown));
        }
        loop {
            let oldest = sources.iter_mut().filter(|source| source.0.is_some());
            let Some(source) = oldest.min_by(|a, b| time(a.0.as_ref()).cmp(time(b.0.as_ref()))) else { return Ok(()) };
            if let Some(line) = source.0.take() {
                self.print(&source.2, &line)?;
            }
            source.0 = source.1.next().await.map_err(|why| cut(source.3, &why))?;
        }
    }

    async fn follow(&self) -> Outcome {
        let mut known: BTreeMap<(String, String, String), LogPlace> = BTreeMap::new();
        let mut names: Vec<String> = Vec::new();
        let mut prefixes = self.prefixes(std::iter::empty());
        let (sender, mut lines) = channel::<PodLine>(64);
        let mut timer = tokio::time::interval(INTERVAL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_first = true;
        loop {
            tokio::select! {
                // What has come is shown before the next Pods are looked for.
                biased;
                Some(line) = lines.recv() => {
                    let Some(place) = known.get_mut(&line.of) else { continue };
                    match line.what {
                        FromLog::Line(text) => {
                            place.last = String::from_utf8_lossy(time(Some(&text))).into_owned();
                            self.print(&prefixes.of(&names[place.name], place.name), &text)?;
                        }
                        FromLog::End { was_cut } => (place.is_open, place.is_whole) = (false, !was_cut),
                    }
                }
                _ = timer.tick() => {
                    let (containers, goes_on) = self.containers().await?;
                    for container in containers {
                        self.join(&container, is_first, &mut known, &mut names, &sender).await?;
                    }
                    is_first = false;
                    prefixes = self.prefixes(names.iter().map(String::as_str));
                    if !goes_on && known.values().all(|place| !place.is_open && place.is_whole) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Follows a container that is not followed: a new one from its start, another from where its log was cut.
    async fn join(
        &self,
        container: &PodContainer,
        is_first: bool,
        known: &mut BTreeMap<(String, String, String), LogPlace>,
        names: &mut Vec<String>,
        sender: &Sender<PodLine>,
    ) -> Outcome {
        let key = (container.pod.clone(), container.container.clone(), container.id.clone());
        let place = known.get(&key);
        if place.is_some_and(|place| place.is_open || place.is_whole && !container.is_running) {
            return Ok(());
        }
        let last = place.map(|place| place.last.clone()).unwrap_or_default();
        let is_new = place.is_none();
        let since = Some(last.as_str()).filter(|last| !last.is_empty());
        let Some(lines) = self.open(container, since, is_first && is_new).await? else {
            // There is no more of it.
            known.entry(key).and_modify(|place| place.is_whole = true);
            return Ok(());
        };
        let name = names.iter().position(|name| *name == container.shown).unwrap_or_else(|| {
            names.push(container.shown.clone());
            names.len() - 1
        });
        known.insert(key.clone(), LogPlace { name, is_open: true, is_whole: false, last: last.clone() });
        tokio::spawn(send(lines, key, last, sender.clone()));
        Ok(())
    }

    fn print(&self, prefix: &str, line: &[u8]) -> Outcome {
        let text = if self.command.timestamps { line } else { &line[(time_of(line).len() + 1).min(line.len())..] };
        let mut out = Vec::with_capacity(prefix.len() + text.len() + 1);
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(text);
        if !out.ends_with(b"\n") {
            out.push(b'\n');
        }
        let mut stdout = crate::cli::output::stdout::Stdout;
        stdout
            .write_all(&out)
            .and_then(|()| stdout.flush())
            .map_err(|error| Failure::Message(format!("writing to standard output: {error}")))
    }
}

/// How far a container's log has been shown.
struct LogPlace {
    /// Its number among the names that are shown.
    name: usize,
    is_open: bool,
    /// It was read to its end.
    is_whole: bool,
    /// The time of the last line; empty before the first.
    last: String,
}

/// A line of a container, or its log's end.
struct PodLine {
    of: (String, String, String),
    what: FromLog,
}

enum FromLog {
    Line(Bytes),
    End { was_cut: bool },
}

/// Sends a log's lines, but for those up to a time that were shown before it was cut.
async fn send(mut lines: LogLines, of: (String, String, String), after: String, sender: Sender<PodLine>) {
    let was_cut = loop {
        let text = match lines.next().await {
            Ok(Some(text)) => text,
            Ok(None) => break false,
            Err(_) => break true,
        };
        if !after.is_empty() && time_of(&text) <= after.as_bytes() {
            continue;
        }
        if sender.send(PodLine { of: of.clone(), what: FromLog::Line(text) }).await.is_err() {
            return;
        }
    };
    let _ = sender.send(PodLine { of, what: FromLog::End { was_cut } }).await;
}

fn of(pod: &LivePod, status: &LiveContainerStatus) -> PodContainer {
    let own = pod.metadata.name.rsplit('-').next().unwrap_or_default();
    PodContainer {
        pod: pod.metadata.name.clone(),
        container: status.name.clone(),
        id: status.container_id.clone(),
        shown: printable::line(&format!("{}-{own}", status.name)).into_owned(),
        is_running: status.state.running.is_some(),
    }
}

fn cut(name: &str, why: &str) -> Failure {
    Failure::Message(format!("the log of `{name}` was cut: {why}"))
}

fn time(line: Option<&Bytes>) -> &[u8] {
    line.map_or(&[], |line| time_of(line))
}

/// The time that begins a line.
fn time_of(line: &[u8]) -> &[u8] {
    memchr::memchr(b' ', line).map_or(line, |end| &line[..end])
}

/// The lines of an answer.
struct LogLines {
    body: http_body_util::BodyDataStream<Body>,
    begun: BytesMut,
    whole: VecDeque<Bytes>,
}

impl LogLines {
    fn new(body: Body) -> Self {
        LogLines { body: body.into_data_stream(), begun: BytesMut::new(), whole: VecDeque::new() }
    }

    /// The next line; `None` at the end. A line without an end is given in pieces.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(line) = self.whole.pop_front() {
                return Ok(Some(line));
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.take(&bytes),
                Some(Err(error)) => return Err(super::cluster_error::chain(&error)),
                None if self.begun.is_empty() => return Ok(None),
                None => return Ok(Some(self.begun.split().freeze())),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.begun.len() > LONGEST {
                self.whole.push_back(self.begun.split().freeze());
            }
        }
    }
}
