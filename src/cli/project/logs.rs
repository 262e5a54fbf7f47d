//! `wharf logs`, and the attached output of `wharf up`.

use super::moment::moment;
use super::ps::{self, Listed};
use crate::api::client::{Client, ClientError, Frames, Lines};
use crate::api::followed::{Begin, Follow, Followed, Piece, Position};
use crate::api::reply::escape;
use crate::cli::output::Prefixes;
use crate::cli::output::stdout::Stdout;
use crate::cli::output::terminal::LOST;
use crate::cli::{Failure, Global, Outcome, connect, project};
use crate::labels::LABEL_PROJECT;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

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
}

/// What `logs` of a project and of a container have in common.
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
}

impl LogOptions {
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

/// LogOptions logs are shown.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub follow: bool,
    pub tail: Option<usize>,
    pub since: Option<String>,
    pub until: Option<String>,
    pub timestamps: bool,
    pub prefix: bool,
    pub coloured: bool,
    /// The containers of this number alone.
    pub index: Option<u32>,
    /// What containers write to their standard error goes to ours.
    pub errors_apart: bool,
}

impl View {
    fn begin(&self) -> Begin {
        Begin::Log { tail: self.tail, since: self.since.clone(), until: self.until.clone() }
    }
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
pub async fn of_container(client: &Client, name: &str, how: &LogOptions) -> Outcome {
    let view = how.view()?;
    let config: Value = client.get(&format!("/containers/{}/json", escape(name))).await?;
    let id = config["Id"].as_str().unwrap_or_default();
    let list: Vec<Listed> =
        client.get(&format!("/containers/json?all=1&filters={}", escape(&json!({"id": [id]}).to_string()))).await?;
    let Some(container) = list.first() else { return Ok(()) };
    let mut source = match view.follow {
        false => open_whole(client, container, &view, String::new()).await?,
        true => {
            let how = Follow { begin: view.begin(), stdin: false, attached: false, reader: reader()? };
            let followed = Followed::open(client, &container.id, how).await?;
            Source::new(container, String::new(), Feed::Followed(Box::new(followed)))
        }
    };
    // As `docker logs` does, and `docker compose logs` does not.
    let mut printer = Printer::new(View { errors_apart: true, ..view });
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
            return Ok(());
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

/// One container's log on its way.
struct Source {
    id: String,
    /// What its lines begin with, where they begin with anything.
    name: String,
    prefix: String,
    feed: Feed,
    /// Whole lines with their time, which is not printed unless asked for.
    lines: VecDeque<(u8, Bytes)>,
    /// What comes after those.
    then: Option<Piece>,
}

enum Feed {
    /// What is there.
    Whole(Frames),
    Followed(Box<Followed>),
}

/// What `up` wants of the output that it shows.
pub struct ForUp<'a> {
    /// Gets the exit code of every container of the project that ends and is not restarted.
    pub exits: UnboundedSender<i32>,
    /// Until this comes back, containers may be started that nobody knows yet.
    pub bringing_up: BoxFuture<'a, ()>,
    /// As the engine was told.
    pub reader: u64,
    /// The containers that are going to be shown.
    pub names: Vec<String>,
    /// It goes on when nothing runs: something may be started again.
    pub endless: bool,
}

/// Shows the logs of a project's containers, merged by time. Following, it goes on with containers that are started later,
/// and ends when none runs any more. For `up`, how they end is shown as well.
///
/// # Errors
/// A broken connection.
pub async fn attach(client: &Client, project: &str, services: &[String], view: &View, up: Option<ForUp<'_>>) -> Outcome {
    if !view.follow {
        let list = listed(client, project, services, view).await?;
        let prefixes = prefixes(&list, view);
        let mut sources = Vec::new();
        for (n, container) in list.iter().enumerate() {
            sources.push(open_whole(client, container, view, prefixes.of(&container.short_name(), n)).await?);
        }
        let mut printer = Printer::new(view.clone());
        merge(sources, &mut printer).await?;
        return printer.flush();
    }
    let mut following = Following {
        client,
        project,
        services,
        view,
        reader: if let Some(up) = &up { up.reader } else { reader()? },
        exits: None,
        announced: false,
        printer: Printer::new(view.clone()),
        names: Vec::new(),
        own: HashSet::new(),
        running: HashSet::new(),
        followed: HashMap::new(),
        reading: FuturesUnordered::new(),
    };
    match up {
        None => following.logs().await,
        Some(ForUp { exits, bringing_up, names, endless, .. }) => {
            (following.exits, following.names) = (Some(exits), names);
            following.up(bringing_up, endless).await
        }
    }
}

async fn listed(client: &Client, project: &str, services: &[String], view: &View) -> Result<Vec<Listed>, Failure> {
    let mut list = ps::containers(client, project, services, true).await?;
    list.retain(|container| view.index.is_none_or(|index| container.number() == index));
    Ok(list)
}

fn prefixes(list: &[Listed], view: &View) -> Prefixes {
    let names: Vec<String> = list.iter().map(Listed::short_name).collect();
    Prefixes::new(names.iter().map(String::as_str), view.coloured, view.prefix)
}

/// What is known of a container that is or was followed.
enum Known {
    /// It is followed. Whether it was started meanwhile.
    Open { again: bool },
    /// It has ended after this line.
    Ended(Option<Position>),
}

/// The output of a project's containers on its way.
struct Following<'a> {
    client: &'a Client,
    project: &'a str,
    services: &'a [String],
    view: &'a View,
    reader: u64,
    exits: Option<UnboundedSender<i32>>,
    printer: Printer,
    /// Whether `up` has said what it shows.
    announced: bool,
    /// The containers that are shown, in the order of their colours.
    names: Vec<String>,
    /// Containers that `up` has found running or has started, shown or not.
    own: HashSet<String>,
    /// Of those that are shown.
    running: HashSet<String>,
    followed: HashMap<String, Known>,
    reading: FuturesUnordered<BoxFuture<'static, Result<(Source, bool), ClientError>>>,
}

impl Following<'_> {
    async fn logs(&mut self) -> Outcome {
        let path = self.events_path();
        let events = self.client.get_lines(&path).await?;
        let list = listed(self.client, self.project, self.services, self.view).await?;
        self.names = list.iter().map(Listed::short_name).collect();
        for container in list {
            if container.is_alive() {
                self.running.insert(container.id.clone());
            }
            self.open(&container, self.view.begin()).await?;
        }
        self.go_on(events, &path, None, false).await
    }

    async fn up(&mut self, bringing_up: BoxFuture<'_, ()>, endless: bool) -> Outcome {
        let path = self.events_path();
        let events = self.client.get_lines(&path).await?;
        self.go_on(events, &path, Some(bringing_up), endless).await
    }

    fn events_path(&self) -> String {
        let filters = json!({"type": ["container"], "label": [format!("{LABEL_PROJECT}={}", self.project)]});
        format!("/events?filters={}", escape(&filters.to_string()))
    }

    async fn go_on(&mut self, events: Lines, path: &str, bringing_up: Option<BoxFuture<'_, ()>>, endless: bool) -> Outcome {
        let mut events = events;
        let mut is_ready = bringing_up.is_none();
        let mut bringing_up = bringing_up.unwrap_or_else(|| Box::pin(std::future::pending()));
        loop {
            if is_ready && !endless && self.running.is_empty() && self.reading.is_empty() {
                return Ok(());
            }
            tokio::select! {
                Some(read) = self.reading.next() => {
                    let (source, more) = read?;
                    self.show(source, more).await?;
                }
                event = events.next::<Value>() => match event {
                    Ok(Some(event)) => self.event(&event).await?,
                    // The engine has died; by the time that the next is there it knows what runs.
                    Ok(None) | Err(_) => {
                        events = reconnected(self.client, path).await?;
                        if is_ready {
                            self.look_again().await?;
                        }
                    }
                },
                () = &mut bringing_up, if !is_ready => {
                    is_ready = true;
                    self.announce();
                    self.look_again().await?;
                }
            }
        }
    }

    /// Says what `up` shows, before the first of it.
    fn announce(&mut self) {
        if self.exits.is_some() && !std::mem::replace(&mut self.announced, true) {
            println!("Attaching to {}", self.names.join(", "));
        }
    }

    async fn show(&mut self, mut source: Source, more: bool) -> Outcome {
        while let Some((stream, line)) = source.lines.pop_front() {
            self.printer.line(&source, stream, &line);
        }
        match source.then.take() {
            Some(Piece::Exited(exited)) if self.exits.is_some() => {
                let restarting = if exited.restarting { " (restarting)" } else { "" };
                self.printer.note(&format!("{} exited with code {}{restarting}", source.name, exited.code));
                if let (Some(exits), false) = (&self.exits, exited.restarting) {
                    let _ = exits.send(exited.code);
                }
            }
            Some(Piece::Lost) => {
                self.printer.end_line();
                self.printer.flush()?;
                eprintln!("{LOST}");
            }
            _ => {}
        }
        self.printer.flush()?;
        if more {
            self.reading.push(Box::pin(read_more(source)));
            return Ok(());
        }
        let position = if let Feed::Followed(followed) = &source.feed { followed.position() } else { None };
        let known = self.followed.insert(source.id.clone(), Known::Ended(position));
        if matches!(known, Some(Known::Open { again: true })) {
            self.started(&source.id).await?;
        }
        Ok(())
    }

    async fn event(&mut self, event: &Value) -> Outcome {
        let attributes = &event["Actor"]["Attributes"];
        let service = attributes["com.docker.compose.service"].as_str().unwrap_or_default();
        let id = event["Actor"]["ID"].as_str().unwrap_or_default();
        if self.exits.is_some() && attributes["com.docker.compose.oneoff"] == "True" {
            return Ok(());
        }
        let shown = self.services.is_empty() || self.services.iter().any(|name| name == service);
        match event["Action"].as_str().unwrap_or_default() {
            "die" => {
                self.running.remove(id);
                // What is not shown counts. Of what is shown the end is known when all of it was shown.
                if let Some(exits) = self.exits.as_ref().filter(|_| !shown && self.own.contains(id)) {
                    let code = attributes["exitCode"].as_str().and_then(|code| code.parse().ok()).unwrap_or_default();
                    let _ = exits.send(code);
                }
            }
            "start" => {
                self.own.insert(id.into());
                if shown {
                    self.running.insert(id.into());
                    self.started(id).await?;
                }
            }
            "destroy" => {
                self.running.remove(id);
            }
            _ => {}
        }
        Ok(())
    }

    /// A container runs: it is followed from where it was left, or from its start.
    async fn started(&mut self, id: &str) -> Outcome {
        let begin = match self.followed.get_mut(id) {
            Some(Known::Open { again }) => {
                *again = true;
                return Ok(());
            }
            Some(Known::Ended(Some(position))) => Begin::After(position.clone()),
            Some(Known::Ended(None)) | None => Begin::Start,
        };
        let list = listed(self.client, self.project, self.services, self.view).await?;
        match list.iter().find(|container| container.id == id) {
            Some(container) => self.open(container, begin).await,
            None => Ok(()),
        }
    }

    async fn open(&mut self, container: &Listed, begin: Begin) -> Outcome {
        let how = Follow { begin, stdin: false, attached: self.exits.is_some(), reader: self.reader };
        let followed = match Followed::open(self.client, &container.id, how).await {
            Ok(followed) => followed,
            // It is gone already.
            Err(ClientError::Refused { status: 404, .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.announce();
        let name = container.short_name();
        if !self.names.contains(&name) {
            self.names.push(name.clone());
        }
        let n = self.names.iter().position(|known| *known == name).unwrap_or_default();
        let prefixes = Prefixes::new(self.names.iter().map(String::as_str), self.view.coloured, self.view.prefix);
        let prefix = prefixes.of(&name, n);
        self.followed.insert(container.id.clone(), Known::Open { again: false });
        self.reading.push(Box::pin(read_more(Source::new(container, prefix, Feed::Followed(Box::new(followed))))));
        Ok(())
    }

    /// Asks what runs: after the start of a project, and after events may have been missed.
    async fn look_again(&mut self) -> Outcome {
        self.running.clear();
        for container in ps::containers(self.client, self.project, &[], true).await? {
            if !container.is_alive() || (self.exits.is_some() && container.is_one_off()) {
                continue;
            }
            self.own.insert(container.id.clone());
            let shown = self.services.is_empty() || self.services.iter().any(|name| name == container.service());
            if shown && self.view.index.is_none_or(|index| container.number() == index) {
                self.running.insert(container.id.clone());
                if !matches!(self.followed.get(&container.id), Some(Known::Open { .. })) {
                    self.started(&container.id).await?;
                }
            }
        }
        Ok(())
    }
}

/// Listens to events again, at the next engine.
async fn reconnected(client: &Client, path: &str) -> Result<Lines, ClientError> {
    let begun = Instant::now();
    let mut is_started = false;
    loop {
        match client.get_lines(path).await {
            // Nothing runs any more whose monitor would bring one back.
            Err(ClientError::Connect { .. }) if !is_started && begun.elapsed() > ENGINE_RETURNS / 10 => {
                client.start_engine().await;
                is_started = true;
            }
            Err(_) if begun.elapsed() < ENGINE_RETURNS => tokio::time::sleep(Duration::from_millis(10)).await,
            other => return other,
        }
    }
}

/// LogOptions long an engine that has died may take to come back.
const ENGINE_RETURNS: Duration = Duration::from_secs(10);

async fn open_whole(client: &Client, container: &Listed, view: &View, prefix: String) -> Result<Source, Failure> {
    let mut path = format!("/containers/{}/logs?stdout=1&stderr=1&timestamps=1&multiplexed=1", container.id);
    let tail = view.tail.map(|tail| tail.to_string());
    for (key, value) in [("tail", &tail), ("since", &view.since), ("until", &view.until)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", escape(value)));
        }
    }
    Ok(Source::new(container, prefix, Feed::Whole(client.get_frames(&path).await?)))
}

impl Source {
    fn new(container: &Listed, prefix: String, feed: Feed) -> Self {
        let (id, name) = (container.id.clone(), container.short_name());
        Source { id, name, prefix, feed, lines: VecDeque::new(), then: None }
    }
}

/// LogOptions many lines are taken along at once.
const MOST_LINES: usize = 10_000;

/// Waits for more of a source; false at its end.
async fn read_more(mut source: Source) -> Result<(Source, bool), ClientError> {
    let more = match &mut source.feed {
        Feed::Whole(frames) => match frames.next().await? {
            Some(frame) => {
                source.lines.push_back(frame);
                // What has come with it is taken along, within bounds.
                while source.lines.len() < MOST_LINES {
                    let Some(frame) = frames.buffered() else { break };
                    source.lines.push_back(frame);
                }
                true
            }
            None => false,
        },
        Feed::Followed(followed) => {
            let mut next = followed.next().await?;
            let more = next.is_some();
            while let Some(piece) = next {
                match piece {
                    Piece::Line { stream, line } => source.lines.push_back((stream, line)),
                    other => {
                        source.then = Some(other);
                        break;
                    }
                }
                next = if source.lines.len() < MOST_LINES { followed.buffered() } else { None };
            }
            more
        }
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
                printer.line(source, stream, &line);
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
    /// The container whose line has no end yet on the output: a prompt, for example.
    unfinished: Option<String>,
}

impl Printer {
    fn new(view: View) -> Self {
        Printer { view, out: Vec::with_capacity(1 << 17), unfinished: None }
    }

    /// Prints a line of a container, or a part of one. It does not go on in a line that another container has begun.
    fn line(&mut self, source: &Source, stream: u8, line: &[u8]) {
        let apart = self.view.errors_apart && stream == 2;
        if apart {
            let _ = self.flush();
        }
        let goes_on = self.unfinished.as_ref() == Some(&source.id);
        if !goes_on {
            self.end_line();
            self.out.extend_from_slice(source.prefix.as_bytes());
        }
        let text = if self.view.timestamps && !goes_on { line } else { &line[(time(line).len() + 1).min(line.len())..] };
        self.out.extend_from_slice(text);
        match line.ends_with(b"\n") {
            true => self.unfinished = None,
            false if !goes_on => self.unfinished = Some(source.id.clone()),
            false => {}
        }
        if apart {
            let _ = crate::cli::output::stdout::Stderr.write_all(&self.out);
            self.out.clear();
        }
    }

    /// Ends the line that a container has begun.
    fn end_line(&mut self) {
        if self.unfinished.take().is_some() {
            self.out.push(b'\n');
        }
    }

    /// A line of wharf's own among those of containers.
    fn note(&mut self, text: &str) {
        self.end_line();
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
