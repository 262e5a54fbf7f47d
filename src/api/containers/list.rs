//! `GET /containers/json`.

use super::describe::{command_line, endpoints, mounts, network_mode, ports};
use crate::api::reply::{self, Filters, Patterns, Query, Reply};
use crate::engine::record::{ContainerRecord, Status};
use crate::engine::recovery::{Kind, Unknown};
use crate::engine::{Engine, EngineError};
use crate::units::Protocol;
use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::{Value, json};

const FILTERS: [&str; 15] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// The state of a container that this version does not understand.
pub(super) const UNKNOWN: &str = "unknown";

/// Filters, read once.
struct ContainerFilter<'a> {
    filters: &'a Filters,
    names: Patterns,
    ids: Patterns,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    exited: Vec<i32>,
    /// Ids of images.
    ancestors: Vec<String>,
}

impl<'a> ContainerFilter<'a> {
    fn of(engine: &Engine, filters: &'a Filters) -> Result<Self, EngineError> {
        let list = |key: &str| filters.get(key).map_or(&[][..], Vec::as_slice);
        let invalid = |key: &str, value: &str| EngineError::Invalid(format!("invalid filter '{key}={value}'"));
        for (key, known) in [
            ("status", &["created", "restarting", "running", "removing", "paused", "exited", "dead", UNKNOWN][..]),
            ("health", &["none", "starting", "healthy", "unhealthy"][..]),
            ("is-task", &["true", "false", "0", "1"][..]),
        ] {
            if let Some(value) = list(key).iter().find(|value| !known.contains(&value.as_str())) {
                return Err(invalid(key, value));
            }
        }
        let moments = |key: &str| -> Result<Vec<Timestamp>, EngineError> {
            list(key).iter().map(|name| Ok(engine.containers.find(name)?.record().created_at)).collect()
        };
        let ancestor = |name: &String| engine.images.find(name).map_or_else(|_| name.clone(), |(_, image)| image.id.to_string());
        Ok(ContainerFilter {
            names: Patterns::of(filters, "name"),
            ids: Patterns::of(filters, "id"),
            before: moments("before")?.into_iter().min(),
            since: moments("since")?.into_iter().max(),
            exited: list("exited")
                .iter()
                .map(|code| code.parse().map_err(|_| invalid("exited", code)))
                .collect::<Result<_, EngineError>>()?,
            ancestors: list("ancestor").iter().map(ancestor).collect(),
            filters,
        })
    }

    fn list(&self, key: &str) -> &[String] {
        self.filters.get(key).map_or(&[], Vec::as_slice)
    }

    fn any(&self, key: &str, has: impl Fn(&String) -> bool) -> bool {
        self.list(key).is_empty() || self.list(key).iter().any(has)
    }

    /// Whether it concerns containers that do not run.
    fn of_stopped(&self) -> bool {
        ["status", "exited"].iter().any(|key| !self.list(key).is_empty())
    }

    fn allows(&self, record: &ContainerRecord) -> bool {
        let status = record.state.status();
        let health = record.state.health.as_ref().map_or("none", |health| health.status.as_str());
        let port = |text: &String, target: u16, protocol: Protocol| {
            let (range, wanted) = text.split_once('/').unwrap_or((text, "tcp"));
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let bounds = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
            wanted == protocol.as_str() && bounds.is_some_and(|(first, last)| (first..=last).contains(&target))
        };
        let published = &record.bound_ports;
        let exposed = record.as_exposed();
        reply::labelled(&record.spec.labels, self.filters)
            && self.any("status", |wanted| wanted == status.as_str())
            && self.names.allow(&[record.name.as_str(), &format!("/{}", record.name)])
            && self.ids.allow(&[record.id.as_str()])
            && (self.exited.is_empty() || status == Status::Exited && self.exited.contains(&record.state.exit_code))
            && self.any("health", |wanted| wanted == health)
            && self.any("is-task", |wanted| wanted == "false" || wanted == "0")
            && self.any("isolation", |wanted| wanted == "default")
            && self.any("network", |n| {
                record.endpoints.keys().any(|id| id.starts_with(n)) || record.spec.networks.iter().any(|e| e.network == *n)
            })
            && self.any("volume", |v| record.spec.mounts.iter().any(|m| m.source == *v || m.target == *v))
            && self.any("publish", |text| published.iter().any(|bound| port(text, bound.host_port, bound.protocol)))
            && self.any("expose", |text| exposed.iter().any(|exposed| port(text, exposed.port, exposed.protocol)))
            && self.before.is_none_or(|before| record.created_at < before)
            && self.since.is_none_or(|since| record.created_at > since)
            && (self.ancestors.is_empty()
                || self.ancestors.iter().any(|id| {
                    record.image_id == *id
                        || record.spec.image == *id
                        || record.image_id.trim_start_matches("sha256:").starts_with(id.as_str())
                }))
    }

    fn allows_unknown(&self, unknown: &Unknown, all: bool) -> bool {
        // What is filtered by something that nobody knows of them does not show them.
        let asked = self.filters.keys().all(|key| matches!(key.as_str(), "status" | "name" | "id" | "label"));
        let labels: IndexMap<String, String> =
            serde_json::from_value(unknown.record["spec"]["labels"].clone()).unwrap_or_default();
        asked
            && (all || unknown.runs() || !self.list("status").is_empty())
            && self.any("status", |status| status == UNKNOWN)
            && self.names.allow(&[unknown.name.as_str(), &format!("/{}", unknown.name)])
            && self.ids.allow(&[unknown.id.as_str()])
            && reply::labelled(&labels, self.filters)
    }
}

pub(in crate::api) fn list(engine: &Engine, query: &Query) -> Reply {
    let filters = query.filters(&FILTERS)?;
    let wanted = ContainerFilter::of(engine, &filters)?;
    let limit = query.number::<i64>("limit").filter(|n| *n > 0);
    // Docker's: the newest ones, whatever their state.
    let all = query.flag("all") || limit.is_some() || wanted.of_stopped();
    let mut list: Vec<ContainerRecord> =
        engine.containers.all().iter().filter(|c| !c.is_build_step()).map(|c| c.record()).collect();
    list.reverse();
    list.retain(|record| (all || record.state.status().is_alive()) && wanted.allows(record));
    if let Some(limit) = limit {
        list.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    let networks = engine.networks.all();
    let size = query.flag("size");
    let mut values: Vec<Value> = list.iter().map(|record| summary(engine, &networks, record, query, size)).collect();
    let all = query.flag("all");
    values.extend(
        engine
            .state
            .unknown(Kind::Container)
            .iter()
            .filter(|unknown| wanted.allows_unknown(unknown, all))
            .map(|unknown| unknown_summary(unknown)),
    );
    reply::json(200, &values)
}

fn unknown_summary(unknown: &Unknown) -> Value {
    let record = &unknown.record;
    let created = record["created_at"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    json!({
        "Id": unknown.id,
        "Names": [format!("/{}", unknown.name)],
        "Image": record["spec"]["image"].as_str().unwrap_or_default(),
        "ImageID": record["image_id"].as_str().unwrap_or_default(),
        "Command": "",
        "Created": created.map_or(0, Timestamp::as_second),
        "Ports": [],
        "Labels": record["spec"]["labels"].as_object().cloned().unwrap_or_default(),
        "State": UNKNOWN,
        "Status": if unknown.runs() { "Unknown (running)" } else { "Unknown" },
        "ExitCode": 0,
        "HostConfig": {"NetworkMode": ""},
        "NetworkSettings": {"Networks": {}},
        "Mounts": [],
    })
}

fn summary(
    engine: &Engine,
    networks: &[crate::engine::record::NetworkRecord],
    record: &ContainerRecord,
    query: &Query,
    size: bool,
) -> Value {
    let mut value = json!({
        "Id": record.id,
        "Names": [format!("/{}", record.name)],
        "Image": record.spec.image,
        "ImageID": record.image_id,
        "Command": command_line(record).join(" "),
        "Created": record.created_at.as_second(),
        "Ports": ports(record),
        "Labels": record.spec.labels,
        "State": record.state.status().as_str(),
        "Status": status_text(record),
        // Not in Docker's list, where clients have to inspect each container for it.
        "ExitCode": record.state.exit_code,
        "RestartCount": record.restart_count,
        "HostConfig": {"NetworkMode": network_mode(record), "Annotations": record.spec.annotations},
        "NetworkSettings": {"Networks": endpoints(networks, record)},
        "Mounts": mounts(engine, record),
    });
    if record.spec.log.is_unlimited() {
        value["LogUnlimited"] = json!(true);
    }
    if query.version >= (1, 52) {
        let (status, streak) =
            record.state.health.as_ref().map_or(("none", 0), |health| (health.status.as_str(), health.failing_streak));
        value["Health"] = json!({"Status": status, "FailingStreak": streak});
    }
    if size {
        let (own, root) = super::describe::sizes(engine, record);
        value["SizeRw"] = json!(own);
        value["SizeRootFs"] = json!(root);
    }
    value
}

/// `Up 3 minutes (healthy)`, `Exited (1) 2 hours ago`, as Docker says it.
fn status_text(record: &ContainerRecord) -> String {
    let ago = |time: Option<Timestamp>| {
        time.map_or_else(|| "a moment".into(), |t| crate::units::time_text(Timestamp::now().as_second() - t.as_second()))
    };
    let state = &record.state;
    match state.status() {
        Status::Created => "Created".into(),
        Status::Running => {
            let health = state.health.as_ref().map(|h| match h.status.as_str() {
                "starting" => " (health: starting)".to_string(),
                other => format!(" ({other})"),
            });
            format!("Up {}{}", ago(state.started_at), health.unwrap_or_default())
        }
        Status::Paused => format!("Up {} (Paused)", ago(state.started_at)),
        Status::Restarting if state.waits_for.is_some() => {
            format!("Restarting, waits for {}", state.waits_for.as_deref().unwrap_or_default())
        }
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, ago(state.finished_at)),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, ago(state.finished_at)),
        Status::Removing => "Removal In Progress".into(),
    }
}
