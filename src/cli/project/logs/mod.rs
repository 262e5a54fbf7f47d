//! `wharf logs`, and the attached output of `wharf up`.

mod following;
mod printer;
mod source;

use super::moment::moment;
use super::ps;
use crate::api::client::{Client, ClientError};
use crate::api::followed::{Begin, Follow, Followed, Piece};
use crate::api::reply::escape;
use crate::api::types::{ContainerInspect, ContainerSummary};
use crate::cli::output::Prefixes;
use crate::cli::output::terminal::LOST;
use crate::cli::{Failure, Global, Outcome, connect, project};
use crate::printable;
use crate::wire::Incarnation;
use following::FollowedLogs;
use futures::future::BoxFuture;
use printer::{Printer, merge};
use regex::bytes::Regex;
use source::{Feed, LogSource, open_gone, open_whole, read_more};
use std::collections::HashSet;
use std::io::IsTerminal;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

#[derive(clap::Args, Debug)]
pub struct Logs {
    /// Services to show; all by default.
    services: Vec<String>,
    #[command(flatten)]
    how: LogOptions,
    /// Show no prefixes.
    #[arg(long)]
    no_log_prefix: bool,
    /// Prefixes without colour.
    #[arg(long)]
    no_color: bool,
    /// Which container of a service, where it has several.
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// The log of the container before, which this one has replaced.
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
}

/// Options that `logs` of a project and of a container share.
#[derive(clap::Args, Debug)]
pub struct LogOptions {
    /// Go on showing what comes.
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines of each container: a number, or all.
    #[arg(short = 'n', long, default_value = "all", value_name = "LINES")]
    tail: String,
    /// Lines from a time on: 2026-01-31T12:00:00Z, or how long ago: 10m.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Lines up to a time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show the time of each line.
    #[arg(short, long)]
    timestamps: bool,
    /// Only lines in which a regular expression is found.
    #[arg(long, value_name = "REGEX")]
    grep: Option<Regex>,
}

impl LogOptions {
    /// Whether it goes on with what comes.
    pub fn follows(&self) -> bool {
        self.follow
    }

    fn view(&self) -> Result<LogView, Failure> {
        let tail = match self.tail.as_str() {
            "all" | "" => None,
            number => {
                Some(number.parse().map_err(|_| Failure::Message(format!("--tail {number}: write a number of lines, or all")))?)
            }
        };
        Ok(LogView {
            follow: self.follow,
            tail,
            since: self.since.as_deref().map(moment).transpose()?,
            until: self.until.as_deref().map(moment).transpose()?,
            timestamps: self.timestamps,
            grep: self.grep.clone(),
            ..LogView::default()
        })
    }
}

/// How far attached `up` is with the stop of its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopPhase {
    NotBegun,
    Begun,
    Ended,
}

/// How logs are shown.
#[derive(Clone, Debug, Default)]
pub struct LogView {
    pub follow: bool,
    pub tail: Option<usize>,
    pub since: Option<String>,
    pub until: Option<String>,
    pub timestamps: bool,
    pub prefix: bool,
    pub coloured: bool,
    /// The containers of this number alone.
    pub index: Option<u32>,
    /// The containers' stderr goes to the command's stderr.
    pub errors_apart: bool,
    /// Lines without it are left out.
    pub grep: Option<Regex>,
    pub past: Past,
}

/// The output of replaced containers that is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Past {
    #[default]
    Nothing,
    /// Their lines of the time that is asked for.
    Within,
    /// Of each the one before, and nothing of those that are there.
    Previous,
}

impl LogView {
    fn begin(&self) -> Begin {
        Begin::Log { tail: self.tail, since: self.since.clone() }
    }
}

pub async fn run(global: &Global, command: Logs) -> Outcome {
    let (name, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), &command.services)?;
    let view = LogView {
        prefix: !command.no_log_prefix,
        index: command.index,
        past: match &command.how.since {
            _ if command.previous => Past::Previous,
            Some(_) => Past::Within,
            None => Past::Nothing,
        },
        coloured: crate::cli::output::coloured(std::io::stdout().is_terminal()) && !command.no_color,
        ..command.how.view()?
    };
    let Some(client) = connect::engine_if_any(global).await? else { return Ok(()) };
    attach(&client, &name, &command.services, &view, None).await
}

/// Shows the log of one container.
///
/// # Errors
/// When there is no such container.
pub async fn of_container(client: &Client, name: &str, how: &LogOptions) -> Outcome {
    let view = how.view()?;
    let found: ContainerInspect = client.get(&format!("/containers/{}/json", escape(name))).await?;
    let filters = crate::cli::objects::network::filters(&[("id".into(), found.id)]);
    let list: Vec<ContainerSummary> = client.get(&format!("/containers/json?all=1&filters={filters}")).await?;
    let Some(container) = list.first() else { return Ok(()) };
    let source = match view.follow {
        false => open_whole(client, container, &view, String::new()).await?,
        true => {
            let how = Follow { begin: view.begin(), until: view.until.clone(), stdin: false, attached: false, reader: reader()? };
            let followed = Followed::open(client, &container.id, how).await?;
            LogSource::new(container, String::new(), Feed::Followed(Box::new(followed)))
        }
    };
    print_all(source, &view).await
}

/// Shows the log that is kept of a container of a project that is gone. False where none is.
///
/// # Errors
/// A broken connection.
pub async fn of_gone_container(client: &Client, project: &str, id: &str, how: &LogOptions) -> Result<bool, Failure> {
    let view = how.view()?;
    let gone: Vec<Incarnation> = client.get(&format!("/projects/{}/incarnations", escape(project))).await?;
    let Some(gone) = gone.iter().find(|gone| gone.id == id) else { return Ok(false) };
    print_all(open_gone(client, gone, &view, String::new()).await?, &view).await?;
    Ok(true)
}

/// Shows one source to its end.
async fn print_all(mut source: LogSource, view: &LogView) -> Outcome {
    // As `docker logs` does, and `docker compose logs` does not.
    let mut printer = Printer::new(LogView { errors_apart: true, ..view.clone() });
    loop {
        let (mut read, more) = read_more(source).await?;
        while let Some((stream, line)) = read.lines.pop_front() {
            printer.line(&read, stream, &line);
        }
        printer.flush()?;
        if matches!(read.then.take(), Some(Piece::Lost)) {
            eprintln!("{LOST}");
        }
        if !more {
            printer.ended(&read);
            return printer.flush();
        }
        source = read;
    }
}

/// A number by which logs know this client.
///
/// # Errors
/// When the kernel has no random numbers.
pub fn reader() -> Result<u64, Failure> {
    crate::random::number().map_err(|e| Failure::Message(format!("choosing a number: {e}")))
}

/// How `up` shows output.
pub struct ForUp<'a> {
    /// Gets the exit code of every container of the project that ends and is not restarted.
    pub exits: UnboundedSender<i32>,
    /// Until this comes back, containers may be started that nobody knows yet.
    pub bringing_up: BoxFuture<'a, ()>,
    /// As the engine got it.
    pub reader: u64,
    /// It ends when no container of these services runs any more; of none at all, where it is empty.
    pub ends_with: &'a [String],
    /// The containers that are going to be shown.
    pub names: Vec<String>,
    /// Lines of hooks.
    pub hooks: UnboundedReceiver<HookLine>,
    /// Whether hooks may be writing while the containers are stopped: it does not end then.
    pub stopping: watch::Receiver<StopPhase>,
    /// Until this comes back, it goes on when nothing runs: something may be started again.
    pub lasting: BoxFuture<'a, ()>,
}

/// A line that a hook of a container has written.
pub struct HookLine {
    /// The container's name in prefixes.
    pub container: String,
    pub line: String,
}

/// Shows the logs of a project's containers, merged by time. Following, it goes on with containers that are started later,
/// and ends when none runs any more. For `up`, how they end is shown as well.
///
/// # Errors
/// A broken connection.
pub async fn attach(client: &Client, project: &str, services: &[String], view: &LogView, up: Option<ForUp<'_>>) -> Outcome {
    let gone = past(client, project, services, view).await?;
    if !view.follow {
        let list = if view.past == Past::Previous { Vec::new() } else { listed(client, project, services, view).await? };
        let names = gone.iter().map(short_name).chain(list.iter().map(ContainerSummary::short_name)).collect::<Vec<_>>();
        let mut sources = of_gone(client, &gone, view, &prefixes(&names, view)).await?;
        for (n, container) in list.iter().enumerate() {
            let prefix = prefixes(&names, view).of(&names[gone.len() + n], gone.len() + n);
            sources.push(open_whole(client, container, view, prefix).await?);
        }
        let mut printer = Printer::new(view.clone());
        merge(sources, &mut printer).await?;
        return printer.flush();
    }
    if !gone.is_empty() {
        let prefixes = prefixes(&gone.iter().map(short_name).collect::<Vec<_>>(), view);
        let mut printer = Printer::new(view.clone());
        merge(of_gone(client, &gone, view, &prefixes).await?, &mut printer).await?;
        printer.flush()?;
    }
    let reader = if let Some(up) = &up { up.reader } else { reader()? };
    let mut following = FollowedLogs::new(client, project, services, view, reader);
    match up {
        None => following.logs().await,
        Some(up) => following.up(up).await,
    }
}

async fn listed(client: &Client, project: &str, services: &[String], view: &LogView) -> Result<Vec<ContainerSummary>, Failure> {
    let mut list = ps::containers(client, project, services, true).await?;
    list.retain(|container| view.index.is_none_or(|index| container.number() == index));
    Ok(list)
}

fn prefixes(names: &[String], view: &LogView) -> Prefixes {
    Prefixes::new(names.iter().map(String::as_str), view.coloured, view.prefix)
}

/// The containers that are gone, and that the view shows.
async fn past(client: &Client, project: &str, services: &[String], view: &LogView) -> Result<Vec<Incarnation>, Failure> {
    if view.past == Past::Nothing {
        return Ok(Vec::new());
    }
    let mut gone: Vec<Incarnation> = client.get(&format!("/projects/{}/incarnations", escape(project))).await?;
    gone.retain(|gone| {
        gone.removed_at.is_some()
            && (services.is_empty() || services.contains(&gone.service))
            && view.index.is_none_or(|index| gone.number == index)
    });
    if view.past == Past::Previous {
        let mut seen = HashSet::new();
        gone.reverse();
        gone.retain(|gone| seen.insert((gone.service.clone(), gone.number)));
        gone.reverse();
        if gone.is_empty() {
            let whose = if services.is_empty() { project.to_string() } else { services.join(", ") };
            return Err(Failure::Message(format!(
                "no log of an earlier container is kept of {whose}: `up` keeps those of the containers that it replaces, and `down` none"
            )));
        }
    }
    Ok(gone)
}

/// `web-1 (0123456789ab)`: how log prefixes call one that is gone.
fn short_name(gone: &Incarnation) -> String {
    let own = gone.name.strip_prefix(&gone.project).and_then(|rest| rest.strip_prefix(['-', '_']));
    let name = own.filter(|rest| rest.starts_with(&gone.service)).unwrap_or(&gone.name);
    format!("{} ({})", printable::line(name), gone.id.get(..12).unwrap_or(&gone.id))
}

async fn of_gone(client: &Client, gone: &[Incarnation], view: &LogView, prefixes: &Prefixes) -> Result<Vec<LogSource>, Failure> {
    let mut sources = Vec::new();
    for (n, gone) in gone.iter().enumerate() {
        let name = short_name(gone);
        match open_gone(client, gone, view, prefixes.of(&name, n)).await {
            Ok(source) => sources.push(source),
            // It had to make room just now.
            Err(ClientError::Refused { status: 404, .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sources)
}
