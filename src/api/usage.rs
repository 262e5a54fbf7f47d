//! `top`, `stats` and `/system/df`: what containers, images and volumes use.

use super::reply::{self, Query, Reply};
use crate::engine::containers::usage::{Usage, disk_usage};
use crate::engine::{Container, Engine, EngineError};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The columns of `ps -ef`, as `ps -o` calls them, and their titles.
const COLUMNS: [(&[&str], &str); 8] = [
    (&["user", "uid", "euser"], "UID"),
    (&["pid"], "PID"),
    (&["ppid"], "PPID"),
    (&["c"], "C"),
    (&["stime", "start"], "STIME"),
    (&["tty", "tt"], "TTY"),
    (&["time", "cputime"], "TIME"),
    (&["cmd", "command", "args"], "CMD"),
];

/// `GET /containers/{id}/top`: the columns of `ps -ef`, or those of them that `-o` in `ps_args` names, and `comm`.
pub fn top(engine: &Engine, id: &str, query: &Query) -> Reply {
    let container = engine.containers.find(id)?;
    let chosen = columns(query.get("ps_args").unwrap_or_default())?;
    let row = |p: crate::engine::containers::usage::Process| {
        let name = p.command.split_whitespace().next().unwrap_or_default();
        let name = name.rsplit('/').next().unwrap_or(name).trim_matches(['[', ']']).to_string();
        let all = [p.user, p.pid.to_string(), p.ppid.to_string(), p.cpu.to_string(), p.started, p.tty, p.time, p.command];
        chosen.iter().map(|(column, _)| column.map_or_else(|| name.clone(), |at| all[at].clone())).collect::<Vec<String>>()
    };
    let rows: Vec<Vec<String>> = engine.launcher.groups.processes(&container)?.into_iter().map(row).collect();
    engine.containers.emit(&container, "top", &[]);
    let titles: Vec<&str> = chosen.iter().map(|(_, title)| title.as_str()).collect();
    reply::json(200, &json!({"Titles": titles, "Processes": rows}))
}

/// The columns that the arguments of `ps` name, each with its title; `None` is the name of the program alone.
fn columns(arguments: &str) -> Result<Vec<(Option<usize>, String)>, EngineError> {
    let all = || COLUMNS.iter().enumerate().map(|(at, (_, title))| (Some(at), (*title).to_string())).collect();
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let Some(at) = words.iter().position(|word| word.starts_with('-') && word.ends_with('o')) else { return Ok(all()) };
    let names = words.get(at + 1).ok_or_else(|| EngineError::Invalid("`-o` of ps_args needs columns".into()))?;
    let one = |text: &str| {
        let (name, title) = text.split_once('=').map_or((text, None), |(name, title)| (name, Some(title.to_string())));
        let found = COLUMNS.iter().position(|(names, _)| names.contains(&name));
        match found {
            None if !matches!(name, "comm" | "ucmd" | "ucomm") => Err(EngineError::Invalid(format!(
                "ps: unknown column `{name}`: there are pid, ppid, user, c, stime, tty, time, cmd and comm"
            ))),
            found => Ok((found, title.unwrap_or_else(|| if found.is_none() { "COMMAND".into() } else { name.to_uppercase() }))),
        }
    };
    names.split(',').map(one).collect()
}

/// `GET /containers/{id}/stats`: once, or every second.
pub fn stats(engine: &Arc<Engine>, id: &str, query: &Query) -> Reply {
    let container = engine.containers.find(id)?;
    let one_shot = query.flag("one-shot");
    if query.get("stream").is_some_and(|value| matches!(value, "0" | "false" | "False")) {
        let (engine, container) = (engine.clone(), container);
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        tokio::spawn(async move {
            let mut before = None;
            if !one_shot {
                before = Some((engine.launcher.groups.usage(&container), jiff::Timestamp::now()));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let now = (engine.launcher.groups.usage(&container), jiff::Timestamp::now());
            let _ = sender.send(line(&container, &now, before.as_ref())).await;
        });
        return reply::stream("application/json", reply::receiver_stream(receiver));
    }
    let engine = engine.clone();
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        let mut before = None;
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        while sender.send(Bytes::new()).await.is_ok() {
            ticks.tick().await;
            let now = (engine.launcher.groups.usage(&container), jiff::Timestamp::now());
            if sender.send(line(&container, &now, before.as_ref())).await.is_err() {
                return;
            }
            if container.status() == crate::engine::record::Status::Removing {
                return;
            }
            before = Some(now);
        }
    });
    reply::stream("application/json", reply::receiver_stream(receiver))
}

/// A sample and when it was taken.
type Sample = (Usage, jiff::Timestamp);

fn line(container: &Container, (now, time): &Sample, before: Option<&Sample>) -> Bytes {
    let (before, preread) = (before.map(|(usage, _)| usage), before.map(|(_, time)| time));
    let cpu = |usage: &Usage| {
        json!({
            "cpu_usage": {
                "total_usage": usage.cpu_total,
                "usage_in_kernelmode": usage.cpu_system,
                "usage_in_usermode": usage.cpu_user,
            },
            "system_cpu_usage": usage.host_cpu,
            "online_cpus": usage.processors,
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
        })
    };
    let blocks: Vec<Value> = now
        .blocks
        .iter()
        .flat_map(|(major, minor, read, written)| {
            [("read", read), ("write", written)]
                .map(|(op, value)| json!({"major": major, "minor": minor, "op": op, "value": value}))
        })
        .collect();
    let networks: serde_json::Map<String, Value> = now
        .networks
        .iter()
        .map(|(name, t)| {
            let value = json!({
                "rx_bytes": t.rx_bytes, "rx_packets": t.rx_packets, "rx_errors": t.rx_errors, "rx_dropped": t.rx_dropped,
                "tx_bytes": t.tx_bytes, "tx_packets": t.tx_packets, "tx_errors": t.tx_errors, "tx_dropped": t.tx_dropped,
            });
            (name.clone(), value)
        })
        .collect();
    let value = json!({
        "read": time.to_string(),
        "name": format!("/{}", container.name()),
        "id": container.id,
        "pids_stats": {"current": now.processes, "limit": now.processes_limit},
        "blkio_stats": {
            "io_service_bytes_recursive": blocks, "io_serviced_recursive": null, "io_queue_recursive": null,
            "io_service_time_recursive": null, "io_wait_time_recursive": null, "io_merged_recursive": null,
            "io_time_recursive": null, "sectors_recursive": null,
        },
        "cpu_stats": cpu(now),
        // Clients read the fields of the first sample as well.
        "precpu_stats": before.map_or_else(|| cpu(&Usage::default()), cpu),
        "preread": preread.map_or_else(|| "0001-01-01T00:00:00Z".to_string(), |time| time.to_string()),
        "num_procs": 0,
        "storage_stats": {},
        "memory_stats": {
            "usage": now.memory,
            "limit": now.memory_limit,
            "stats": {"inactive_file": now.inactive_file, "total_inactive_file": now.inactive_file},
        },
        "networks": networks,
    });
    Bytes::from(format!("{value}\n"))
}

/// `GET /system/df`.
pub async fn df(engine: &Arc<Engine>, query: &Query) -> Reply {
    let engine = engine.clone();
    if let Some(kind) = query.all("type").iter().find(|kind| !KINDS.iter().any(|(known, _)| known == kind)) {
        return Err(EngineError::Invalid(format!("unknown object type: {kind}")));
    }
    let kinds = query.all("type").to_vec();
    let counted = tokio::task::spawn_blocking(move || count(&engine)).await;
    let mut counted = counted.map_err(EngineError::from)??;
    for (kind, field) in KINDS.iter().filter(|(known, _)| !kinds.is_empty() && !kinds.iter().any(|kind| kind == known)) {
        counted[*field] = Value::Null;
        if *kind == "image" {
            counted["LayersSize"] = json!(0);
        }
    }
    reply::json(200, &counted)
}

/// What `type` may ask for, and where it is in the answer.
const KINDS: [(&str, &str); 4] =
    [("container", "Containers"), ("image", "Images"), ("volume", "Volumes"), ("build-cache", "BuildCache")];

fn count(engine: &Engine) -> Result<Value, EngineError> {
    let records: Vec<_> = engine.containers.all().iter().filter(|c| !c.is_build_step()).map(|c| c.record()).collect();
    let mut layers: std::collections::BTreeMap<crate::image::ChainId, u64> = std::collections::BTreeMap::new();
    let mut images = Vec::new();
    let named = engine.images.store.list()?.into_iter().map(|(name, image)| (vec![name.familiar()], image));
    for (names, image) in named.chain(engine.images.store.unnamed()?.into_iter().map(|image| (Vec::new(), image))) {
        for layer in &image.layers {
            layers.entry(layer.clone()).or_insert_with(|| engine.images.store.has_layer(layer).unwrap_or(0));
        }
        let users = records.iter().filter(|record| record.image_id == image.id.as_str()).count();
        images.push(json!({
            "Id": image.id, "RepoTags": names, "Size": image.size, "SharedSize": -1, "Containers": users,
        }));
    }
    let containers: Vec<Value> = records
        .iter()
        .map(|record| {
            json!({
                "Id": record.id, "Names": [format!("/{}", record.name)], "Image": record.spec.image,
                "State": record.state.status().as_str(), "SizeRw": disk_usage(&engine.config.written_by(&record.id)),
            })
        })
        .collect();
    let volumes: Vec<Value> = engine
        .volumes
        .all()
        .iter()
        .map(|volume| {
            let users =
                records.iter().filter(|record| record.spec.mounts.iter().any(|mount| mount.source == volume.name)).count();
            json!({
                "Name": volume.name, "Driver": "local", "Labels": volume.labels,
                "UsageData": {"Size": disk_usage(&engine.config.volume_data(&volume.name)), "RefCount": users},
            })
        })
        .collect();
    let cache = disk_usage(&engine.images.store.build_cache());
    Ok(json!({
        "LayersSize": layers.values().sum::<u64>(),
        "Images": images,
        "Containers": containers,
        "Volumes": volumes,
        "BuildCache": [{"ID": "wharf", "Type": "regular", "InUse": false, "Shared": false, "Size": cache}],
    }))
}
