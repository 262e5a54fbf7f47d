//! `GET /containers/json`.

use super::describe::{command_line, endpoints, mounts, network_mode, ports};
use crate::api::reply::{self, FilterPatterns, Filters, Query, Reply};
use crate::api::types::{ContainerSummary, HealthSummary, SummaryHostConfig, SummaryNetworks};
use crate::engine::record::{ContainerRecord, NetworkRecord, Status};
use crate::engine::recovery::{RecordKind, Unknown};
use crate::engine::{Engine, EngineError};
use crate::units::Protocol;
use jiff::Timestamp;

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
    names: FilterPatterns,
    ids: FilterPatterns,
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
            names: FilterPatterns::of(filters, "name"),
            ids: FilterPatterns::of(filters, "id"),
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
                    let image = record.image_id.as_ref();
                    record.spec.image == *id
                        || image.is_some_and(|image| image.as_str() == id || image.hex().starts_with(id.as_str()))
                }))
    }

    fn allows_unknown(&self, unknown: &Unknown, all: bool) -> bool {
        // What is filtered by something that nobody knows of them does not show them.
        let asked = self.filters.keys().all(|key| matches!(key.as_str(), "status" | "name" | "id" | "label"));
        asked
            && (all || unknown.runs() || !self.list("status").is_empty())
            && self.any("status", |status| status == UNKNOWN)
            && self.names.allow(&[unknown.name.as_str(), &format!("/{}", unknown.name)])
            && self.ids.allow(&[unknown.id.as_str()])
            && reply::labelled(&unknown.known().spec.labels, self.filters)
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
    let mut values: Vec<ContainerSummary> = list.iter().map(|record| summary(engine, &networks, record, query, size)).collect();
    let all = query.flag("all");
    values.extend(
        engine
            .state
            .unknown(RecordKind::Container)
            .iter()
            .filter(|unknown| wanted.allows_unknown(unknown, all))
            .map(|unknown| unknown_summary(unknown)),
    );
    reply::json(200, &values)
}

fn unknown_summary(unknown: &Unknown) -> ContainerSummary {
    let known = unknown.known();
    ContainerSummary {
        id: unknown.id.clone(),
        names: vec![format!("/{}", unknown.name)],
        image: known.spec.image,
        image_id: known.image_id,
        created: known.created_at.and_then(|text| text.parse().ok()).map_or(0, Timestamp::as_second),
        labels: known.spec.labels,
        state: UNKNOWN.into(),
        status: if unknown.runs() { "Unknown (running)" } else { "Unknown" }.into(),
        ..ContainerSummary::default()
    }
}

/// A container as lists show it.
pub(in crate::api) fn summary(
    engine: &Engine,
    networks: &[NetworkRecord],
    record: &ContainerRecord,
    query: &Query,
    size: bool,
) -> ContainerSummary {
    let health = || {
        let (status, failing_streak) =
            record.state.health.as_ref().map_or(("none", 0), |health| (health.status.as_str(), health.failing_streak));
        HealthSummary { status: status.into(), failing_streak }
    };
    let (own, root) = size.then(|| super::describe::sizes(engine, record)).unzip();
    ContainerSummary {
        id: record.id.clone(),
        names: vec![format!("/{}", record.name)],
        image: record.spec.image.clone(),
        image_id: record.image_id_text(),
        command: shown_command(&command_line(record)),
        created: record.created_at.as_second(),
        ports: ports(record),
        labels: record.spec.labels.clone(),
        state: record.state.status().as_str().into(),
        status: status_text(record),
        exit_code: record.state.exit_code,
        restart_count: record.restart_count,
        host_config: SummaryHostConfig { network_mode: network_mode(record), annotations: record.spec.annotations.clone() },
        network_settings: SummaryNetworks { networks: endpoints(networks, record) },
        mounts: mounts(engine, record),
        log_unlimited: record.spec.log.is_unlimited(),
        health: (query.version >= (1, 52)).then(health),
        size_rw: own,
        size_root_fs: root,
    }
}

/// A command line as Docker shows it: arguments with spaces are quoted.
fn shown_command(words: &[String]) -> String {
    let argument = |word: &String| if word.contains(' ') { format!("'{word}'") } else { word.clone() };
    let words: Vec<String> = words.iter().take(1).cloned().chain(words.iter().skip(1).map(argument)).collect();
    words.join(" ")
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
