//! `top`, `stats` and `/system/df`: what containers, images and volumes use.

use super::images::Grouped;
use super::reply::{self, Query, Reply};
use super::types::{
    BlkioEntry, BlkioStats, CacheRecord, ContainerStats, ContainerTop, CpuStats, CpuUsage, DiskUsage, InterfaceStats,
    MemoryStats, NEVER, PidsStats, ThrottlingData, VolumeInspect, VolumeUsage, signed,
};
use crate::engine::containers::usage::{Traffic, Usage, disk_usage};
use crate::engine::record::{ContainerRecord, VolumeRecord};
use crate::engine::{Container, Engine, EngineError};
use crate::image::ChainId;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
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
    let titles = chosen.into_iter().map(|(_, title)| title).collect();
    reply::json(200, &ContainerTop { titles, processes: rows })
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
    let moved = |op: &str, (major, minor, value): (u64, u64, u64)| BlkioEntry { major, minor, op: op.into(), value };
    let blocks = now.blocks.iter().flat_map(|(major, minor, read, written)| {
        [moved("read", (*major, *minor, *read)), moved("write", (*major, *minor, *written))]
    });
    let stats = ContainerStats {
        read: time.to_string(),
        name: format!("/{}", container.name()),
        id: container.id.clone(),
        pids_stats: PidsStats { current: now.processes, limit: now.processes_limit },
        blkio_stats: BlkioStats { io_service_bytes_recursive: blocks.collect(), ..BlkioStats::default() },
        cpu_stats: cpu(now),
        // Clients read the fields of the first sample as well.
        precpu_stats: before.map_or_else(|| cpu(&Usage::default()), cpu),
        preread: preread.map_or_else(|| NEVER.to_string(), |time| time.to_string()),
        memory_stats: MemoryStats {
            usage: now.memory,
            limit: now.memory_limit,
            stats: now.memory_details.iter().cloned().collect(),
        },
        networks: now.networks.iter().map(|(name, traffic)| (name.clone(), interface(traffic))).collect(),
        ..ContainerStats::default()
    };
    reply::json_line(&stats)
}

fn cpu(usage: &Usage) -> CpuStats {
    CpuStats {
        cpu_usage: CpuUsage {
            total_usage: usage.cpu_total,
            usage_in_kernelmode: usage.cpu_system,
            usage_in_usermode: usage.cpu_user,
        },
        system_cpu_usage: usage.host_cpu,
        online_cpus: usage.processors,
        throttling_data: ThrottlingData {
            periods: usage.throttled.0,
            throttled_periods: usage.throttled.1,
            throttled_time: usage.throttled.2,
        },
    }
}

fn interface(traffic: &Traffic) -> InterfaceStats {
    InterfaceStats {
        rx_bytes: traffic.rx_bytes,
        rx_packets: traffic.rx_packets,
        rx_errors: traffic.rx_errors,
        rx_dropped: traffic.rx_dropped,
        tx_bytes: traffic.tx_bytes,
        tx_packets: traffic.tx_packets,
        tx_errors: traffic.tx_errors,
        tx_dropped: traffic.tx_dropped,
    }
}

/// The values of `type`.
const KINDS: [&str; 4] = ["container", "image", "volume", "build-cache"];

/// `GET /system/df`: of the kinds that `type` names, or of all.
pub async fn df(engine: &Arc<Engine>, query: &Query) -> Reply {
    if let Some(kind) = query.all("type").iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        return Err(EngineError::Invalid(format!("unknown object type: {kind}")));
    }
    let (engine, kinds, version) = (engine.clone(), query.all("type").to_vec(), query.version);
    let counted = tokio::task::spawn_blocking(move || {
        let asked = |kind: &str| kinds.is_empty() || kinds.iter().any(|asked| asked == kind);
        count(&engine, asked, &Query::of(None, version))
    });
    reply::json(200, &counted.await.map_err(EngineError::from)??)
}

fn count(engine: &Engine, asked: impl Fn(&str) -> bool, query: &Query) -> Result<DiskUsage, EngineError> {
    let records: Vec<_> = engine.containers.all().iter().filter(|c| !c.is_build_step()).map(|c| c.record()).collect();
    let mut usage = DiskUsage::default();
    if asked("image") {
        let images = super::images::all(engine)?;
        let layers: BTreeSet<&ChainId> = images.iter().flat_map(|group| &group.image.layers).collect();
        usage.layers_size = layers.into_iter().map(|layer| engine.images.store.has_layer(layer).unwrap_or(0)).sum();
        let users = |group: &Grouped| records.iter().filter(|record| record.image_id.as_ref() == Some(&group.image.id)).count();
        let mut list: Vec<_> = images.iter().map(|group| super::images::summary(group, Some(users(group)), query)).collect();
        super::images::share(engine, &images, &mut list);
        usage.images = Some(list);
    }
    if asked("container") {
        let networks = engine.networks.all();
        let shown = |record| super::containers::summary(engine, &networks, record, query, true);
        usage.containers = Some(records.iter().map(shown).collect());
    }
    if asked("volume") {
        usage.volumes = Some(engine.volumes.all().iter().map(|volume| volume_usage(engine, &records, volume)).collect());
    }
    if asked("build-cache") {
        usage.build_cache = Some(vec![cache(engine)?]);
    }
    Ok(usage)
}

fn volume_usage(engine: &Engine, records: &[ContainerRecord], volume: &VolumeRecord) -> VolumeInspect {
    let users = records.iter().filter(|record| record.spec.mounts.iter().any(|mount| mount.source == volume.name)).count();
    let size = signed(Some(disk_usage(&engine.config.volume_data(&volume.name))));
    let usage = VolumeUsage { size, ref_count: i64::try_from(users).unwrap_or(i64::MAX) };
    VolumeInspect { usage_data: Some(usage), ..super::volumes::volume(engine, volume) }
}

/// The build cache, as one record.
fn cache(engine: &Engine) -> Result<CacheRecord, EngineError> {
    let steps = engine.images.store.cached_steps()?;
    let text = |time: SystemTime| jiff::Timestamp::try_from(time).unwrap_or_default().to_string();
    let first = steps.iter().map(|step| step.created).min();
    Ok(CacheRecord {
        id: "wharf".into(),
        kind: "regular".into(),
        description: "steps of builds".into(),
        size: disk_usage(&engine.images.store.build_cache()),
        created_at: text(first.unwrap_or_else(SystemTime::now)),
        last_used_at: steps.iter().map(|step| step.last_used).max().map(text),
        usage_count: i64::try_from(steps.len()).unwrap_or(i64::MAX),
        ..CacheRecord::default()
    })
}
