//! `logs -f` and attached `up`: follows the containers of a project, those started later included.

use super::printer::Printer;
use super::source::{Feed, LogSource, read_more};
use super::{ForUp, HookLine, LogView, StopPhase, listed};
use crate::api::client::{Client, ClientError, Lines};
use crate::api::followed::{Begin, Follow, Followed, Piece, Position};
use crate::api::types::{ContainerSummary, EventMessage};
use crate::cli::objects::network;
use crate::cli::output::Prefixes;
use crate::cli::output::terminal::LOST;
use crate::cli::project::ps;
use crate::cli::{Failure, Outcome};
use crate::labels::{LABEL_NUMBER, LABEL_ONEOFF, LABEL_PROJECT, LABEL_SERVICE};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

/// The state of a container's log stream.
enum FollowedContainer {
    /// It is followed. How often the container was started meanwhile, and how many of its restarts the stream has gone on over.
    Open { starts: u32, restarts: u32 },
    /// It has ended after this line. Starts that it has gone on over, and whose events have not come yet.
    Ended { position: Option<Position>, owed: u32 },
}

/// The log streams of a project's containers.
pub(super) struct FollowedLogs<'a> {
    client: &'a Client,
    project: &'a str,
    services: &'a [String],
    view: &'a LogView,
    reader: u64,
    exits: Option<UnboundedSender<i32>>,
    hooks: Option<UnboundedReceiver<HookLine>>,
    stopping: Option<watch::Receiver<StopPhase>>,
    printer: Printer,
    /// Whether `up` has named the containers that it shows.
    announced: bool,
    /// The containers that are shown, in the order of their colours.
    names: Vec<String>,
    /// The names of hooks that have written something.
    of_hooks: Vec<String>,
    /// Containers that `up` has found running or has started, shown or not.
    own: HashSet<String>,
    /// Of those that are shown.
    running: HashSet<String>,
    /// Those that somebody has made since, and that have not been started.
    coming: HashSet<String>,
    followed: HashMap<String, FollowedContainer>,
    /// The services with whose containers it ends; empty for all that are shown.
    ends_with: &'a [String],
    /// Containers that it does not end with.
    beside: HashSet<String>,
    reading: FuturesUnordered<BoxFuture<'static, Result<(LogSource, bool), ClientError>>>,
}

impl<'a> FollowedLogs<'a> {
    pub(super) fn new(client: &'a Client, project: &'a str, services: &'a [String], view: &'a LogView, reader: u64) -> Self {
        FollowedLogs {
            client,
            project,
            services,
            view,
            reader,
            exits: None,
            hooks: None,
            stopping: None,
            of_hooks: Vec::new(),
            announced: false,
            printer: Printer::new(view.clone()),
            names: Vec::new(),
            own: HashSet::new(),
            running: HashSet::new(),
            coming: HashSet::new(),
            followed: HashMap::new(),
            ends_with: &[],
            beside: HashSet::new(),
            reading: FuturesUnordered::new(),
        }
    }

    pub(super) async fn logs(&mut self) -> Outcome {
        let path = self.events_path();
        let events = self.client.get_lines(&path).await?;
        let list = listed(self.client, self.project, self.services, self.view).await?;
        self.names = list.iter().map(ContainerSummary::short_name).collect();
        for container in list {
            if container.is_alive() {
                self.running.insert(container.id.clone());
            }
            self.open(&container, self.view.begin()).await?;
        }
        self.go_on(events, &path, None).await
    }

    pub(super) async fn up(&mut self, up: ForUp<'a>) -> Outcome {
        (self.exits, self.names, self.ends_with) = (Some(up.exits), up.names, up.ends_with);
        (self.hooks, self.stopping) = (Some(up.hooks), Some(up.stopping));
        let path = self.events_path();
        let events = self.client.get_lines(&path).await?;
        self.go_on(events, &path, Some((up.bringing_up, up.lasting))).await
    }

    fn events_path(&self) -> String {
        let label = format!("{LABEL_PROJECT}={}", self.project);
        format!("/events?filters={}", network::filters(&[("type".into(), "container".into()), ("label".into(), label)]))
    }

    async fn go_on(&mut self, events: Lines, path: &str, of_up: Option<(BoxFuture<'_, ()>, BoxFuture<'_, ()>)>) -> Outcome {
        let mut events = events;
        let (mut is_ready, mut lasts) = (of_up.is_none(), of_up.is_some());
        let never = || -> BoxFuture<'_, ()> { Box::pin(std::future::pending()) };
        let (mut bringing_up, mut lasting) = of_up.unwrap_or_else(|| (never(), never()));
        loop {
            if is_ready && !lasts && self.has_ended() {
                while let Some(hook) = self.hooks.as_mut().and_then(|hooks| hooks.try_recv().ok()) {
                    self.hook(&hook)?;
                }
                return Ok(());
            }
            let time_left = self.time_left();
            let mut step = tokio::select! {
                // A start is counted before what follows from it is looked at.
                biased;
                event = events.next::<EventMessage>() => match event {
                    Ok(Some(event)) => self.event(&event).await,
                    Ok(None) => Err(ClientError::Cut.into()),
                    Err(error) => Err(error.into()),
                },
                Some(read) = self.reading.next() => {
                    let (source, more) = read?;
                    self.show(source, more).await
                }
                Some(hook) = next_of(&mut self.hooks) => self.hook(&hook),
                () = changed(&mut self.stopping) => Ok(()),
                () = passed(time_left), if time_left.is_some_and(|left| !left.is_zero()) => Ok(()),
                () = &mut lasting, if lasts => {
                    lasts = false;
                    Ok(())
                }
                () = &mut bringing_up, if !is_ready => {
                    is_ready = true;
                    self.announce();
                    self.look_again().await
                }
            };
            let lost = Instant::now();
            // The engine has died; by the time that the next is there it knows what runs. That one may die as well.
            while let Err(Failure::Client(error)) = &step
                && error.is_of_connection()
                && lost.elapsed() < ENGINE_RETURNS
            {
                events = reconnected(self.client, path).await?;
                step = if is_ready { self.look_again().await } else { Ok(()) };
            }
            step?;
        }
    }

    /// Whether all has been shown of what this ends with, and none of it runs.
    fn has_ended(&self) -> bool {
        let phase = self.stopping.as_ref().map_or(StopPhase::NotBegun, |stopping| *stopping.borrow());
        // What was made before a stop, and was not started, is not started any more.
        let coming = match phase {
            StopPhase::Begun => return false,
            StopPhase::NotBegun => Some(&self.coming),
            StopPhase::Ended => None,
        };
        // Each stream ends by itself then, whether its container does or not.
        let running = (self.time_left() != Some(Duration::ZERO)).then_some(&self.running);
        let coming = coming.filter(|_| running.is_some());
        let open = self.followed.iter().filter(|(_, known)| matches!(known, FollowedContainer::Open { .. })).map(|(id, _)| id);
        open.chain(running.into_iter().flatten()).chain(coming.into_iter().flatten()).all(|id| self.beside.contains(id))
    }

    /// The time until the one up to which lines are shown, where there is one.
    fn time_left(&self) -> Option<Duration> {
        let until: Timestamp = self.view.until.as_ref()?.parse().ok()?;
        Some(until.duration_since(Timestamp::now()).try_into().unwrap_or_default())
    }

    /// Says what `up` shows, before the first of it.
    fn announce(&mut self) {
        if self.exits.is_some() && !std::mem::replace(&mut self.announced, true) {
            println!("Attaching to {}", self.names.join(", "));
        }
    }

    fn hook(&mut self, hook: &HookLine) -> Outcome {
        let name = format!("{} ->", hook.container);
        if !self.of_hooks.contains(&name) {
            self.of_hooks.push(name.clone());
        }
        let n = self.names.iter().position(|known| *known == hook.container).unwrap_or_default();
        let prefix = self.prefixes().of(&name, n);
        self.printer.note(&format!("{prefix}{}", hook.line));
        self.printer.flush()
    }

    fn prefixes(&self) -> Prefixes {
        let names = self.names.iter().chain(&self.of_hooks).map(String::as_str);
        Prefixes::new(names, self.view.coloured, self.view.prefix)
    }

    async fn show(&mut self, mut source: LogSource, more: bool) -> Outcome {
        // Longer names have come since.
        let n = self.names.iter().position(|known| *known == source.name).unwrap_or_default();
        source.prefix = self.prefixes().of(&source.name, n);
        while let Some((stream, line)) = source.lines.pop_front() {
            self.printer.line(&source, stream, &line);
        }
        let then = source.then.take();
        if let (Some(Piece::Exited(exited)), true) = (&then, more)
            && exited.restarting
            && let Some(FollowedContainer::Open { restarts, .. }) = self.followed.get_mut(&source.id)
        {
            *restarts += 1;
        }
        match then {
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
        self.printer.ended(&source);
        self.printer.flush()?;
        let position = if let Feed::Followed(followed) = &source.feed { followed.position() } else { None };
        let (starts, restarts) = match self.followed.get(&source.id) {
            Some(FollowedContainer::Open { starts, restarts }) => (*starts, *restarts),
            _ => (0, 0),
        };
        let owed = restarts.saturating_sub(starts);
        self.followed.insert(source.id.clone(), FollowedContainer::Ended { position, owed });
        if starts > restarts {
            self.started(&source.id).await?;
        }
        Ok(())
    }

    async fn event(&mut self, event: &EventMessage) -> Outcome {
        let attribute = |key: &str| event.actor.attributes.get(key).map_or("", String::as_str);
        let (service, id) = (attribute(LABEL_SERVICE), event.actor.id.as_str());
        if self.exits.is_some() && attribute(LABEL_ONEOFF) == "True" {
            return Ok(());
        }
        let shown = (self.services.is_empty() || self.services.iter().any(|name| name == service))
            && self.view.index.is_none_or(|index| attribute(LABEL_NUMBER).parse() == Ok(index));
        if !self.ends_with.is_empty() && !self.ends_with.iter().any(|name| name == service) {
            self.beside.insert(id.into());
        }
        match event.action.as_str() {
            // Somebody else replaces a container: the new one is there before the old one ends.
            "create" if shown && attribute(LABEL_ONEOFF) != "True" => {
                self.coming.insert(id.into());
            }
            "die" => {
                self.running.remove(id);
                self.coming.remove(id);
                // What is not shown counts. Of what is shown the end is known when all of it was shown.
                if let Some(exits) = self.exits.as_ref().filter(|_| !shown && self.own.contains(id)) {
                    let code = attribute("exitCode").parse().unwrap_or_default();
                    let _ = exits.send(code);
                }
            }
            "start" => {
                self.coming.remove(id);
                self.own.insert(id.into());
                if shown {
                    self.running.insert(id.into());
                    self.started(id).await?;
                }
            }
            "destroy" => {
                self.running.remove(id);
                self.coming.remove(id);
            }
            _ => {}
        }
        Ok(())
    }

    /// A container runs: it is followed from where it was left, or from its start.
    async fn started(&mut self, id: &str) -> Outcome {
        let begin = match self.followed.get_mut(id) {
            Some(FollowedContainer::Open { starts, .. }) => {
                *starts += 1;
                return Ok(());
            }
            Some(FollowedContainer::Ended { owed, .. }) if *owed > 0 => {
                *owed -= 1;
                return Ok(());
            }
            Some(FollowedContainer::Ended { position: Some(position), .. }) => Begin::After(position.clone()),
            Some(FollowedContainer::Ended { position: None, .. }) | None => Begin::Start,
        };
        let list = listed(self.client, self.project, self.services, self.view).await?;
        match list.iter().find(|container| container.id == id) {
            Some(container) => self.open(container, begin).await,
            None => Ok(()),
        }
    }

    pub(super) async fn open(&mut self, container: &ContainerSummary, begin: Begin) -> Outcome {
        let (until, attached) = (self.view.until.clone(), self.exits.is_some());
        let how = Follow { begin, until, stdin: false, attached, reader: self.reader };
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
        let prefix = self.prefixes().of(&name, n);
        self.followed.insert(container.id.clone(), FollowedContainer::Open { starts: 0, restarts: 0 });
        self.reading.push(Box::pin(read_more(LogSource::new(container, prefix, Feed::Followed(Box::new(followed))))));
        Ok(())
    }

    /// Asks what runs: after the start of a project, and after events may have been missed.
    async fn look_again(&mut self) -> Outcome {
        self.running.clear();
        self.coming.clear();
        for container in ps::containers(self.client, self.project, &[], true).await? {
            if !container.is_alive() || (self.exits.is_some() && container.is_one_off()) {
                continue;
            }
            self.own.insert(container.id.clone());
            if !self.ends_with.is_empty() && !self.ends_with.iter().any(|name| name == container.service()) {
                self.beside.insert(container.id.clone());
            }
            let shown = self.services.is_empty() || self.services.iter().any(|name| name == container.service());
            if shown && self.view.index.is_none_or(|index| container.number() == index) {
                self.running.insert(container.id.clone());
                let known = self.followed.get_mut(&container.id);
                let is_open = matches!(known, Some(FollowedContainer::Open { .. }));
                // Events may have been missed.
                if let Some(FollowedContainer::Ended { owed, .. }) = known {
                    *owed = 0;
                }
                if !is_open {
                    self.started(&container.id).await?;
                }
            }
        }
        Ok(())
    }
}

/// The next line of a hook; for ever none where there are no hooks to show.
async fn next_of(hooks: &mut Option<UnboundedReceiver<HookLine>>) -> Option<HookLine> {
    match hooks {
        Some(hooks) => hooks.recv().await,
        None => std::future::pending().await,
    }
}

async fn passed(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Ends when the stop begins or ends.
async fn changed(stopping: &mut Option<watch::Receiver<StopPhase>>) {
    if let Some(known) = stopping
        && known.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
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
            Err(error @ ClientError::Host(_)) => return Err(error),
            Err(_) if begun.elapsed() < ENGINE_RETURNS => tokio::time::sleep(Duration::from_millis(10)).await,
            other => return other,
        }
    }
}

/// How long an engine that has died may take to come back.
const ENGINE_RETURNS: Duration = Duration::from_secs(10);
