//! `wharf logs`, and the attached output of `wharf up`.

use super::moment::moment;
use super::ps::{self, Listed};
use crate::api::client::{Client, ClientError, Frames};
use crate::api::reply::escape;
use crate::cli::output::Prefixes;
use crate::cli::output::stdout::Stdout;
use crate::cli::{Failure, Global, Outcome, connect, project};
use crate::engine::projects::convert::LABEL_PROJECT;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use tokio::sync::mpsc::UnboundedSender;

#[derive(clap::Args, Debug)]
pub struct Logs {
    /// Services to show; all by default.
    services: Vec<String>,
    #[command(flatten)]
    how: How,
    /// Show no prefixes.
    #[arg(long)]
    no_log_prefix: bool,
    /// Prefixes without colour.
    #[arg(long)]
    no_color: bool,
    /// Which container of a service, where it has several.
    #[arg(long, value_name = "N")]
    index: Option<u32>,
}

/// What `logs` of a project and of a container have in common.
#[derive(clap::Args, Debug)]
pub struct How {
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
}

impl How {
    fn view(&self) -> Result<View, Failure> {
        let tail = match self.tail.as_str() {
            "all" | "" => None,
            number => {
                Some(number.parse().map_err(|_| Failure::Message(format!("--tail {number}: write a number of lines, or all")))?)
            }
        };
        Ok(View {
            follow: self.follow,
            tail,
            since: self.since.as_deref().map(moment).transpose()?,
            until: self.until.as_deref().map(moment).transpose()?,
            timestamps: self.timestamps,
            ..View::default()
        })
    }
}

/// How logs are shown.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub follow: bool,
    pub tail: Option<usize>,
    pub since: Option<String>,
    pub until: Option<String>,
    pub timestamps: bool,
    pub prefix: bool,
    pub coloured: bool,
    /// From each container's last start on: what `up` shows.
    pub since_start: bool,
    /// The containers of this number alone.
    pub index: Option<u32>,
    /// What containers write to their standard error goes to ours.
    pub errors_apart: bool,
}

pub async fn run(global: &Global, command: Logs) -> Outcome {
    let (name, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), &command.services)?;
    let view = View {
        prefix: !command.no_log_prefix,
        index: command.index,
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
pub async fn of_container(client: &Client, name: &str, how: &How) -> Outcome {
    let view = how.view()?;
    let config: Value = client.get(&format!("/containers/{}/json", escape(name))).await?;
    let id = config["Id"].as_str().unwrap_or_default();
    let list: Vec<Listed> =
        client.get(&format!("/containers/json?all=1&filters={}", escape(&json!({"id": [id]}).to_string()))).await?;
    let Some(container) = list.first() else { return Ok(()) };
    let mut source = open(client, container, &view, String::new(), view.tail).await?;
    // As `docker logs` does, and `docker compose logs` does not.
    let mut printer = Printer::new(View { errors_apart: true, ..view });
    loop {
        let (mut read, more) = read_more(source).await?;
        while let Some((stream, line)) = read.lines.pop_front() {
            printer.line(&mut read.open, "", stream, &line);
        }
        printer.flush()?;
        if !more {
            return Ok(());
        }
        source = read;
    }
}

/// One container's log on its way.
struct Source {
    id: String,
    /// What its lines begin with, where they begin with anything.
    name: String,
    prefix: String,
    frames: Frames,
    /// Whole lines with their time, which is not printed unless asked for.
    lines: VecDeque<(u8, Bytes)>,
    /// The printed line has not ended yet.
    open: bool,
}

/// Shows the logs of a project's containers, merged by time. Following, it goes on with containers that are started later,
/// and ends when none runs any more. `exits`, where it is there, gets the exit code of every container of the project that
/// ends, and how they end is shown.
///
/// # Errors
/// A broken connection.
pub async fn attach(
    client: &Client,
    project: &str,
    services: &[String],
    view: &View,
    exits: Option<UnboundedSender<i32>>,
) -> Outcome {
    let filters = json!({"type": ["container"], "label": [format!("{LABEL_PROJECT}={project}")]});
    let mut events = match view.follow {
        true => Some(client.get_lines(&format!("/events?filters={}", escape(&filters.to_string()))).await?),
        false => None,
    };
    let mut list = ps::containers(client, project, services, true).await?;
    list.retain(|container| view.index.is_none_or(|index| container.number() == index));
    let names: Vec<String> = list.iter().map(Listed::short_name).collect();
    let prefixes = Prefixes::new(names.iter().map(String::as_str), view.coloured, view.prefix);
    let mut sources = Vec::new();
    for (n, container) in list.iter().enumerate() {
        sources.push(open(client, container, view, prefixes.of(&container.short_name(), n), view.tail).await?);
    }
    let mut printer = Printer::new(view.clone());
    let mut reading = FuturesUnordered::new();
    // What is there already is merged by time; a source that has no more yet does not hold the others up when following.
    if view.follow {
        sources.into_iter().for_each(|source| reading.push(read_more(source)));
    } else {
        merge(sources, &mut printer).await?;
        return printer.flush();
    }
    let mut running = list.iter().filter(|c| c.state != "exited" && c.state != "created").count();
    let mut restarted: Vec<String> = Vec::new();
    loop {
        tokio::select! {
            Some(read) = reading.next() => {
                let (mut source, more): (Source, bool) = read?;
                while let Some((stream, line)) = source.lines.pop_front() {
                    printer.line(&mut source.open, &source.prefix, stream, &line);
                }
                if !more && let Some(exits) = &exits {
                    source.tell_exit(client, &mut printer, exits).await;
                }
                printer.flush()?;
                if more {
                    reading.push(read_more(source));
                } else if running == 0 && reading.is_empty() {
                    return Ok(());
                }
            }
            event = next_event(&mut events), if events.is_some() => {
                let Some(event) = event? else { return Ok(()) };
                let attributes = &event["Actor"]["Attributes"];
                let service = attributes["com.docker.compose.service"].as_str().unwrap_or_default();
                if !services.is_empty() && !services.iter().any(|s| s == service) {
                    // It is not shown, but counts.
                    if let (Some(exits), Some("die")) = (&exits, event["Action"].as_str()) {
                        let code = attributes["exitCode"].as_str().and_then(|c| c.parse().ok()).unwrap_or_default();
                        let _ = exits.send(code);
                    }
                    continue;
                }
                let id = event["Actor"]["ID"].as_str().unwrap_or_default().to_string();
                match event["Action"].as_str().unwrap_or_default() {
                    "die" => {
                        running = running.saturating_sub(1);
                        restarted.push(id);
                        if running == 0 && reading.is_empty() {
                            return Ok(());
                        }
                    }
                    "start" => {
                        running += 1;
                        let fresh = ps::containers(client, project, services, true).await?;
                        let place = fresh.iter().position(|c| c.id == id);
                        let known = list.iter().any(|c| c.id == id) && !restarted.contains(&id);
                        if let Some(n) = place.filter(|_| !known) {
                            restarted.retain(|r| *r != id);
                            let since = event["timeNano"].as_i64().and_then(|t| jiff::Timestamp::from_nanosecond(i128::from(t)).ok());
                            let view = View { since: since.map(|t| t.to_string()), since_start: true, ..view.clone() };
                            reading.push(read_more(open(client, &fresh[n], &view, prefixes.of(&fresh[n].short_name(), n), None).await?));
                        }
                    }
                    _ => {}
                }
            }
            else => return Ok(()),
        }
    }
}

async fn next_event(events: &mut Option<crate::api::client::Lines>) -> Result<Option<Value>, ClientError> {
    match events {
        Some(events) => events.next().await,
        None => Ok(None),
    }
}

async fn open(client: &Client, container: &Listed, view: &View, prefix: String, tail: Option<usize>) -> Result<Source, Failure> {
    let mut path = format!(
        "/containers/{}/logs?stdout=1&stderr=1&timestamps=1&multiplexed=1&follow={}",
        container.id,
        u8::from(view.follow)
    );
    if let Some(tail) = tail {
        path.push_str(&format!("&tail={tail}"));
    }
    let started = match view.since_start && view.since.is_none() {
        true => client.get::<Value>(&format!("/containers/{}/json", container.id)).await?["State"]["OutputSince"]
            .as_str()
            .map(str::to_string),
        false => None,
    };
    for (key, value) in [("since", view.since.clone().or(started)), ("until", view.until.clone())] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", escape(&value)));
        }
    }
    Ok(Source {
        id: container.id.clone(),
        name: container.short_name(),
        prefix,
        frames: client.get_frames(&path).await?,
        lines: VecDeque::new(),
        open: false,
    })
}

impl Source {
    /// Says how the container has ended, after its last line. One that is gone meanwhile says nothing.
    async fn tell_exit(&mut self, client: &Client, printer: &mut Printer, exits: &UnboundedSender<i32>) {
        let config = client.get::<Value>(&format!("/containers/{}/json", self.id)).await.unwrap_or_default();
        let Some(code) = config["State"]["ExitCode"].as_i64() else { return };
        if std::mem::take(&mut self.open) {
            printer.note("");
        }
        printer.note(&format!("{} exited with code {code}", self.name));
        let _ = exits.send(code as i32);
    }
}

/// Waits for more lines of a source; false at its end.
async fn read_more(mut source: Source) -> Result<(Source, bool), ClientError> {
    let more = match source.frames.next().await? {
        Some(frame) => {
            source.lines.push_back(frame);
            // What has come with it is taken along, within bounds.
            while source.lines.len() < 10_000 {
                let Some(frame) = source.frames.buffered() else { break };
                source.lines.push_back(frame);
            }
            true
        }
        None => false,
    };
    Ok((source, more))
}

/// Prints logs that have an end, always the line that comes first in time.
async fn merge(sources: Vec<Source>, printer: &mut Printer) -> Result<(), Failure> {
    let mut open = Vec::new();
    for source in sources {
        let (source, more) = read_more(source).await?;
        if more {
            open.push(source);
        }
    }
    while !open.is_empty() {
        let first = (0..open.len()).min_by(|a, b| time_of(&open[*a]).cmp(time_of(&open[*b]))).unwrap_or(0);
        let limit: Option<Vec<u8>> = (0..open.len()).filter(|i| *i != first).map(|i| time_of(&open[i]).to_vec()).min();
        let source = &mut open[first];
        // As long as this source's lines are older than every other source's, no comparison with those is needed.
        while let Some((_, line)) = source.lines.front() {
            if limit.as_ref().is_some_and(|limit| time(line) > limit.as_slice()) {
                break;
            }
            if let Some((stream, line)) = source.lines.pop_front() {
                printer.line(&mut source.open, &source.prefix, stream, &line);
            }
        }
        printer.flush_if_full()?;
        if open[first].lines.is_empty() {
            let (source, more) = read_more(open.swap_remove(first)).await?;
            if more {
                open.push(source);
            }
        }
    }
    Ok(())
}

fn time_of(source: &Source) -> &[u8] {
    source.lines.front().map_or(&[], |(_, line)| time(line))
}

fn time(line: &[u8]) -> &[u8] {
    memchr::memchr(b' ', line).map_or(line, |end| &line[..end])
}

struct Printer {
    view: View,
    out: Vec<u8>,
}

impl Printer {
    fn new(view: View) -> Self {
        Printer { view, out: Vec::with_capacity(1 << 17) }
    }

    fn line(&mut self, open: &mut bool, prefix: &str, stream: u8, line: &[u8]) {
        let apart = self.view.errors_apart && stream == 2;
        if apart {
            let _ = self.flush();
        }
        if !*open {
            self.out.extend_from_slice(prefix.as_bytes());
        }
        let text = if self.view.timestamps && !*open { line } else { &line[(time(line).len() + 1).min(line.len())..] };
        self.out.extend_from_slice(text);
        *open = !line.ends_with(b"\n");
        if apart {
            let _ = crate::cli::output::stdout::Stderr.write_all(&self.out);
            self.out.clear();
        }
    }

    /// A line of wharf's own among those of containers.
    fn note(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(b'\n');
    }

    fn flush_if_full(&mut self) -> Result<(), Failure> {
        if self.out.len() > 1 << 16 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let result = Stdout.write_all(&self.out).and_then(|()| Stdout.flush());
        self.out.clear();
        result.map_err(|e| Failure::Message(format!("writing to standard output: {e}")))
    }
}
