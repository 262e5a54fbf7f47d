//! `GET /events`: what happens, one JSON object a line.

use super::reply::{self, Filters, Query, Reply};
use super::types::{EventActor, EventMessage, OlderEvent};
use crate::engine::{Engine, Event};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

/// Events from now on; with `since`, also those before as far as the engine remembers; with `until`, to that time.
pub fn events(engine: &Arc<Engine>, query: &Query) -> Reply {
    let moment = |key: &str| query.get(key).filter(|text| !text.is_empty()).map(super::logs::moment).transpose();
    let (since, until) = (moment("since")?, moment("until")?);
    let filters = query.filters(&FILTERS)?;
    // Fields from before there were other things than containers.
    let older = query.version < (1, 52);
    let (mut last, mut coming) = engine.events.subscribe();
    let nanos = |time: jiff::Timestamp| i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
    let until = until.map(nanos);
    match since.map(nanos) {
        Some(since) => last.retain(|event| event.time_nano >= since),
        None => last.clear(),
    }
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let in_time = |event: &Event| until.is_none_or(|until| event.time_nano <= until);
        for event in last.iter().filter(|event| in_time(event) && matches_filters(event, &filters)) {
            if sender.send(line(event, older)).await.is_err() {
                return;
            }
        }
        let end = async {
            match until {
                Some(until) => {
                    let left = until.saturating_sub(nanos(jiff::Timestamp::now()));
                    tokio::time::sleep(Duration::from_nanos(u64::try_from(left).unwrap_or(0))).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        loop {
            let event = tokio::select! {
                // What happened in time comes before the end of the time.
                biased;
                event = coming.recv() => match event {
                    Ok(event) => event,
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return,
                },
                () = &mut end => return,
                () = sender.closed() => return,
            };
            if !in_time(&event) || matches_filters(&event, &filters) && sender.send(line(&event, older)).await.is_err() {
                return;
            }
        }
    });
    reply::stream("application/json", reply::receiver_stream(receiver))
}

fn line(event: &Event, older: bool) -> Bytes {
    let actor = EventActor { id: event.actor.id.clone(), attributes: event.actor.attributes.clone() };
    let older = (older && event.kind == "container").then(|| OlderEvent {
        status: event.action.clone(),
        id: actor.id.clone(),
        from: actor.attributes.get("image").cloned().unwrap_or_default(),
    });
    reply::json_line(&EventMessage {
        kind: event.kind.into(),
        action: event.action.clone(),
        actor,
        scope: event.scope.into(),
        time: event.time,
        time_nano: event.time_nano,
        older,
    })
}

const FILTERS: [&str; 14] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// Docker's filters: of those with one name any has to be fulfilled, of labels all.
fn matches_filters(event: &Event, filters: &Filters) -> bool {
    let any = |key: &str, holds: &dyn Fn(&str) -> bool| filters.get(key).is_none_or(|list| list.iter().any(|v| holds(v)));
    let attribute = |key: &str| event.actor.attributes.get(key).map(String::as_str);
    let is = |kind: &str, wanted: &str| {
        event.kind == kind && (event.actor.id.starts_with(wanted) || attribute("name") == Some(wanted))
    };
    any("scope", &|wanted| wanted == "local")
        && any("type", &|wanted| event.kind == wanted)
        // An action may say more after a colon, as `health_status: healthy` does.
        && any("event", &|wanted| event.action == wanted || event.action.split(':').next() == Some(wanted))
        && any("container", &|wanted| is("container", wanted) || attribute("container") == Some(wanted))
        && any("network", &|wanted| is("network", wanted))
        && any("volume", &|wanted| event.kind == "volume" && event.actor.id == wanted)
        && any("image", &|wanted| is("image", wanted) || attribute("image") == Some(wanted))
        && reply::labelled(&event.actor.attributes, filters)
}
