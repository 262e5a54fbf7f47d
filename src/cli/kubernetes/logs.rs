//! `wharf kubernetes logs`: the output of the project's containers on the cluster, as `wharf logs` shows it on one machine.

use super::cluster::Cluster;
use super::cluster_error::ClusterError;
use super::kubeconfig::ClusterChoice;
use super::log_follow;
use super::log_lines::{LinePrinter, LogLines, LogPiece};
use crate::api::reply::escape;
use crate::cli::output::{Prefixes, coloured};
use crate::cli::project::moment::moment;
use crate::cli::signals::or_cancelled;
use crate::cli::{Failure, Global, Outcome, project};
use crate::kubernetes::live::{LiveContainerStatus, LivePod};
use crate::kubernetes::object_name;
use crate::printable;
use std::io::IsTerminal;
use std::sync::Arc;

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
    pub timestamps: bool,
    /// Show no prefixes.
    #[arg(long)]
    no_log_prefix: bool,
    /// The output of the containers' runs before.
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
}

/// A container of a Pod.
#[derive(Clone, Debug)]
pub struct PodContainer {
    pub pod: String,
    pub container: String,
    /// Names this run of it.
    pub id: String,
    /// As prefixes have it: the service, and what is the Pod's own of its name.
    pub shown: String,
    pub is_running: bool,
}

pub async fn run(global: &Global, command: &PodLogs) -> Outcome {
    or_cancelled(show(global, command)).await
}

async fn show(global: &Global, command: &PodLogs) -> Outcome {
    let (name, loaded) = project::name(global)?;
    project::ps::check_services(loaded.as_ref(), &command.services)?;
    let cluster = Arc::new(Cluster::of(&command.cluster).await?);
    let since = command.since.as_deref().map(moment).transpose()?;
    let view = PodLogView { cluster, project: &name, command, since };
    if command.follow { log_follow::follow(&view).await } else { view.once().await }
}

/// What `kubernetes logs` shows: of which project and Pods, since when.
pub struct PodLogView<'a> {
    cluster: Arc<Cluster>,
    project: &'a str,
    pub command: &'a PodLogs,
    since: Option<String>,
}

/// A request for a container's log.
pub struct LogRequest {
    cluster: Arc<Cluster>,
    path: String,
    query: String,
}

impl LogRequest {
    /// `None` where the container has no output, or is gone.
    ///
    /// # Errors
    /// The server's.
    pub async fn open(&self) -> Result<Option<LogLines>, ClusterError> {
        match self.cluster.stream(&self.path, &self.query).await {
            Ok(body) => Ok(Some(LogLines::new(body))),
            // It waits to be started, or has no run before.
            Err(error) if matches!(error.code(), 400 | 404) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl PodLogView<'_> {
    /// The containers that have output, and whether a Pod may yet have some.
    ///
    /// # Errors
    /// The server's.
    pub async fn containers(&self) -> Result<(Vec<PodContainer>, bool), ClusterError> {
        let pods = self.cluster.pods(self.project).await?;
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

    pub fn prefixes<'n>(&self, names: impl Iterator<Item = &'n str>) -> Prefixes {
        Prefixes::new(names, coloured(std::io::stdout().is_terminal()), !self.command.no_log_prefix)
    }

    /// The request for a log. `--since` and `--tail` are about what is there at the start.
    pub fn request(&self, container: &PodContainer, since: Option<&str>, is_first: bool) -> LogRequest {
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
        LogRequest { cluster: self.cluster.clone(), path, query }
    }

    /// All that there is, merged by time.
    async fn once(&self) -> Outcome {
        let containers = self.containers().await.map_err(|error| error.while_doing("listing the Pods", "pods"));
        let (containers, _) = containers?;
        let prefixes = self.prefixes(containers.iter().map(|container| container.shown.as_str()));
        let mut printer = LinePrinter::new(self.command.timestamps);
        let mut sources = Vec::new();
        for (n, container) in containers.iter().enumerate() {
            let opened = self.request(container, None, true).open().await;
            let failed =
                |error: ClusterError| error.while_doing(&format!("reading the log of `{}`", container.shown), "pods/log");
            let Some(mut lines) = opened.map_err(failed)? else { continue };
            let first = lines.next().await.map_err(|why| cut(&container.shown, &why))?;
            sources.push((first, lines, prefixes.of(&container.shown, n), &container.shown));
        }
        loop {
            let oldest = sources.iter_mut().enumerate().filter(|(_, source)| source.0.is_some());
            let Some((n, source)) = oldest.min_by(|(_, a), (_, b)| time(&a.0).cmp(time(&b.0))) else { return Ok(()) };
            while let Some(piece) = source.0.take() {
                printer.print(n, &source.2, &piece)?;
                source.0 = match source.1.next().await {
                    Ok(next) => next,
                    Err(why) => {
                        printer.finish()?;
                        return Err(cut(source.3, &why));
                    }
                };
                // A line is not left before its end.
                if piece.ends {
                    break;
                }
            }
        }
    }
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

fn time(piece: &Option<LogPiece>) -> &[u8] {
    piece.as_ref().map_or(&[], |piece| &piece.time)
}
