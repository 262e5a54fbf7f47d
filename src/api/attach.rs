//! `POST /containers/{id}/attach` and `GET /containers/{id}/attach/ws`: a container's output as it comes, and its standard input.

use super::connections::StreamPermit;
use super::detach::DetachKeys;
use super::follow::{self, FollowOptions, FollowedLog, Form, SharedLease};
use super::hijack::{self, Feeder, Feeding, HijackAnswer, StreamClient};
use super::logs;
use super::reply::{ApiVersion, Query, Reply};
use super::websocket::WebSocketOffer;
use crate::engine::record::Status;
use crate::engine::{Container, Engine, EngineError};
use crate::logs::reader::LineSelection;
use hyper::body::Incoming;
use hyper::{Request, header};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// Docker's parameters and, with `multiplexed=1`, wharf's own: frames with wharf's notices, `timestamps`, the selection of `logs`
/// with `after` (the time of the last line that the client has), `reader` (a number of the client's choice, the same when it
/// comes back after the engine has died), `next` (what follows the next start) and `patience` (seconds for which the log waits for a client that takes nothing).
pub(super) async fn attach(
    engine: &Arc<Engine>,
    id: &str,
    query: &Query,
    mut request: Request<Incoming>,
    place: Option<StreamPermit>,
) -> Reply {
    let container = engine.containers.find(id)?;
    let own = query.flag("multiplexed");
    check(&container, query, own)?;
    let record = container.record();
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let upgrade = upgrades.then(|| hyper::upgrade::on(&mut request));
    let options = FollowOptions {
        follow: query.flag("stream"),
        timestamps: own && query.flag("timestamps"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        form: match (own, record.spec.tty) {
            (true, _) => Form::Notices,
            (false, true) => Form::Raw,
            (false, false) => Form::Frames,
        },
    };
    let reader = match query.number("reader") {
        Some(reader) => reader,
        None => crate::random::number().map_err(EngineError::io("choosing a number"))?,
    };
    let wanted = AttachRequest {
        options,
        from: match () {
            // Clients attach before they start: then all of it is what comes from now on.
            () if record.state.status() == Status::Created && query.get("after").is_none() && !query.flag("next") => {
                From::Start { after: None }
            }
            () if own
                && (query.flag("all")
                    || query.get("since").is_some()
                    || query.get("after").is_some()
                    || query.get("tail").is_some()) =>
            {
                From::Log
            }
            () if own && query.flag("next") => From::Start { after: Some(record.state.started_at) },
            () if query.flag("logs") => From::Start { after: None },
            // The same of one that has ended: its earlier output is in its log.
            () if !own && !record.state.status().is_alive() && options.follow => {
                From::Start { after: Some(record.state.started_at) }
            }
            () => From::Now,
        },
        selection: if own { logs::selection(query)? } else { LineSelection::default() },
        input: query.flag("stdin") && record.spec.stdin_open,
        keys: if own { None } else { keys(query, record.spec.tty)? },
        patience: query.number("patience").map(Duration::from_secs),
        // Before the answer: a client that has it may start the container.
        lease: SharedLease::new(container.hold_log(reader).await),
    };
    let engine = engine.clone();
    engine.containers.emit(&container, "attach", &[]);
    let answer = HijackAnswer { upgrade, raw: record.spec.tty && !own, head_first: !own, place };
    hijack::serve(answer, async move |client| serve(&engine, &container, client, wanted).await)
}

/// The version from which a WebSocket has the streams that are asked for; before, it has all.
const CHOSEN_STREAMS: ApiVersion = (1, 42);
/// How long the log waits for a client of a WebSocket that takes nothing: as for `logs -f`.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same over a WebSocket: bytes without frames, whatever the container has.
pub(super) async fn attach_by_websocket(
    engine: &Arc<Engine>,
    id: &str,
    query: &Query,
    mut request: Request<Incoming>,
    place: Option<StreamPermit>,
) -> Reply {
    let container = engine.containers.find(id)?;
    check(&container, query, false)?;
    let record = container.record();
    let keys = keys(query, record.spec.tty)?;
    let offer = WebSocketOffer::of(&mut request)?;
    let has = |stream: &str| query.version < CHOSEN_STREAMS || query.flag(stream);
    let options = FollowOptions {
        follow: query.flag("stream"),
        timestamps: false,
        stdout: has("stdout"),
        stderr: has("stderr"),
        form: Form::Raw,
    };
    let state = &record.state;
    let wanted = AttachRequest {
        options,
        from: match state.status() {
            Status::Created => From::Start { after: None },
            _ if query.flag("logs") => From::Start { after: None },
            status if !status.is_alive() && options.follow => From::Start { after: Some(state.started_at) },
            _ => From::Now,
        },
        selection: LineSelection::default(),
        input: has("stdin") && record.spec.stdin_open,
        keys,
        patience: Some(PATIENCE),
        lease: SharedLease::new(container.hold_log(crate::random::number().map_err(EngineError::io("choosing a number"))?).await),
    };
    let engine = engine.clone();
    engine.containers.emit(&container, "attach", &[]);
    offer.serve(place, async move |client| serve(&engine, &container, client, wanted).await)
}

/// The keys by which a client leaves a terminal.
fn keys(query: &Query, tty: bool) -> Result<Option<DetachKeys>, EngineError> {
    let keys = DetachKeys::parse(query.get("detachKeys").unwrap_or_default())?;
    Ok(tty.then_some(keys))
}

/// Refuses a container that nobody can attach to now. `logs -f` and `up` follow what is paused or restarting, too.
fn check(container: &Container, query: &Query, own: bool) -> Result<(), EngineError> {
    let name = container.name();
    match container.status() {
        _ if own && (query.flag("all") || query.get("tail") != Some("0")) => Ok(()),
        Status::Paused => Err(EngineError::Conflict(format!("container {name} is paused, unpause the container before attach"))),
        Status::Restarting => Err(container.not_running()),
        _ => Ok(()),
    }
}

/// The request of a client.
struct AttachRequest {
    options: FollowOptions,
    selection: LineSelection,
    from: From,
    input: bool,
    keys: Option<DetachKeys>,
    patience: Option<Duration>,
    lease: SharedLease,
}

/// Where the output begins that a client gets.
enum From {
    /// Where the selection says.
    Log,
    /// With the last start, or the first after one.
    Start {
        after: Option<Option<Timestamp>>,
    },
    Now,
}

/// Moves bytes both ways until the container has ended, or the client has left. One that was not started yet is waited for:
/// clients attach before they start.
async fn serve(engine: &Arc<Engine>, container: &Arc<Container>, client: StreamClient, wanted: AttachRequest) {
    let StreamClient { input: from_client, output: mut to_client } = client;
    let before = if let From::Start { after } = wanted.from { after } else { None };
    let started = container.wait_until(|record| {
        let state = &record.state;
        match before {
            Some(before) => state.started_at != before || state.status() == Status::Removing,
            None => state.status() != Status::Created || !state.error.is_empty(),
        }
    });
    tokio::select! {
        () = started => {}
        () = to_client.is_gone() => return,
    }
    let selection = wanted.selection(container);
    let until = follow::end_of(&selection);
    let path = engine.config.output_path(&container.record());
    let (reader, width) = match follow::open(&path, selection).await {
        Ok(opened) => opened,
        Err(error) => return tracing::warn!("attaching to {}: reading its log: {error}", container.name()),
    };
    let lease = wanted.lease;
    lease.at(reader.file());
    // One that has ended already has its last words, and takes none.
    let input = match wanted.input && container.status().is_alive() {
        true => container.input().await.unwrap_or_default(),
        false => None,
    };
    let input = input.and_then(|fd| pipe::Sender::from_owned_fd_unchecked(fd).ok());
    let fed = container.clone();
    let mut feeder = Feeder::new(from_client, input, wanted.keys, move || close_input_of_one(&fed));
    let (sender, mut batches) = mpsc::channel(1);
    let following = FollowedLog {
        engine: engine.clone(),
        container: container.clone(),
        reader,
        path,
        width,
        options: wanted.options,
        until,
        lease: Some((lease.clone(), wanted.patience)),
    };
    tokio::spawn(following.send(sender));
    let has_left = loop {
        let batch = tokio::select! {
            batch = batches.recv() => batch,
            () = feeder.detached() => break true,
            // A container may be silent for days: writing to who has gone would not tell.
            () = to_client.is_gone() => break true,
        };
        let Some(batch) = batch else { break false };
        if to_client.write_all(&batch.bytes).await.is_err() {
            break true;
        }
        // What is in the socket outlives this engine.
        lease.at(batch.file);
    };
    if has_left {
        match feeder.rest().await {
            Feeding::Detached => engine.containers.emit(container, "detach", &[]),
            Feeding::On => close_input_of_one(container),
            Feeding::Ended => {}
        }
    }
    // The log waits for nobody while the rest of the input is read.
    drop((batches, lease));
    feeder.end(to_client).await;
}

/// Ends the input of a container whose input is for one client.
fn close_input_of_one(container: &Container) {
    if container.with_record(|record| record.spec.stdin_once) {
        container.close_input();
    }
}

impl AttachRequest {
    fn selection(&self, container: &Container) -> LineSelection {
        let asked = self.selection.clone();
        match self.from {
            From::Log => asked,
            From::Start { .. } => {
                LineSelection { since: container.record().state.output_since.map(|t| format!("{t:.9}")), tail: None, ..asked }
            }
            From::Now => LineSelection { tail: Some(0), ..asked },
        }
    }
}
