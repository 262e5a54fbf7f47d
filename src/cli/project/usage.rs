//! `wharf top` and `wharf stats`.

use super::ps;
use crate::api::client::{Client, ClientError};
use crate::api::types::{ContainerStats, ContainerSummary, ContainerTop};
use crate::cli::output::format::{Column, RowFormat};
use crate::cli::output::{bytes, table};
use crate::cli::{Global, Outcome, connect, project};
use futures::future::try_join_all;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};

#[derive(clap::Args, Debug)]
pub struct Top {
    /// Services; all by default.
    services: Vec<String>,
}

#[derive(clap::Args, Debug)]
pub struct Stats {
    /// Services; all by default.
    services: Vec<String>,
    #[command(flatten)]
    how: StatsOptions,
}

/// Options that `stats` of a project and of containers share.
#[derive(clap::Args, Debug)]
pub struct StatsOptions {
    /// Containers that do not run as well.
    #[arg(short, long)]
    pub all: bool,
    /// Print once and end.
    #[arg(long)]
    no_stream: bool,
    /// Do not shorten ids.
    #[arg(long)]
    no_trunc: bool,
    /// table, json (an object a line), or a template such as '{{.CPUPerc}}'.
    #[arg(long, default_value = "table")]
    format: RowFormat,
}

pub async fn top(global: &Global, command: Top) -> Outcome {
    let (name, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), &command.services)?;
    let Some(client) = connect::engine_if_any(global).await? else { return Ok(()) };
    let list = ps::containers(&client, &name, &command.services, false).await?;
    for container in list.iter().filter(|c| c.state == "running" || c.state == "paused") {
        println!("{}", container.name());
        println!("{}\n", processes(&client, &container.id).await?);
    }
    Ok(())
}

/// The processes of a container as a table.
///
/// # Errors
/// When it does not run.
pub async fn processes(client: &Client, id: &str) -> Result<String, ClientError> {
    let listed: ContainerTop = client.get(&format!("/containers/{id}/top")).await?;
    let titles: Vec<&str> = listed.titles.iter().map(String::as_str).collect();
    Ok(table(&titles, listed.processes))
}

pub async fn stats(global: &Global, command: Stats) -> Outcome {
    let (name, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), &command.services)?;
    let Some(client) = connect::engine_if_any(global).await? else { return Ok(()) };
    let all = command.how.all;
    show(&client, &command.how, || ps::containers(&client, &name, &command.services, all)).await
}

/// Prints what containers use, once or every second. The list is asked for anew each time.
///
/// # Errors
/// A broken connection.
pub async fn show<F>(client: &Client, how: &StatsOptions, list: impl Fn() -> F) -> Outcome
where
    F: Future<Output = Result<Vec<ContainerSummary>, crate::cli::Failure>>,
{
    let live = !how.no_stream && std::io::stdout().is_terminal();
    loop {
        let list = list().await?;
        // Each waits a second, to see how much processor time it takes in that: all at once.
        let asked = list.iter().map(|container| async move {
            match client.get::<ContainerStats>(&format!("/containers/{}/stats?stream=0", container.id)).await {
                // It was removed meanwhile.
                Err(ClientError::Refused { status: 404, .. }) => Ok(None),
                other => other.map(|usage| Some((container, usage))),
            }
        });
        let found: Vec<(&ContainerSummary, ContainerStats)> = try_join_all(asked).await?.into_iter().flatten().collect();
        let rows: Vec<Value> = found.iter().map(|(container, usage)| described(container, usage, how.no_trunc)).collect();
        let text = how.format.text(&COLUMNS, &rows)?;
        let mut out = crate::cli::output::stdout::Stdout;
        // Over what was there, and the rest of the screen cleared.
        let _ = if live { write!(out, "\x1b[H\x1b[2J{text}\n\x1b[J") } else { writeln!(out, "{text}") };
        let _ = out.flush();
        if how.no_stream {
            return Ok(());
        }
    }
}

const COLUMNS: [Column; 8] = [
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

/// Docker's words for what a container uses.
fn described(container: &ContainerSummary, usage: &ContainerStats, whole: bool) -> Value {
    let (now, before) = (&usage.cpu_stats, &usage.precpu_stats);
    let own = now.cpu_usage.total_usage.saturating_sub(before.cpu_usage.total_usage) as f64;
    let host = now.system_cpu_usage.saturating_sub(before.system_cpu_usage) as f64;
    let processors = now.online_cpus.max(1) as f64;
    let cpu = if host > 0.0 { own / host * processors * 100.0 } else { 0.0 };
    let counted = |name: &str| usage.memory_stats.stats.get(name).copied();
    let given_up_first = counted("total_inactive_file").or_else(|| counted("inactive_file")).unwrap_or(0);
    let used = usage.memory_stats.usage.saturating_sub(given_up_first);
    let limit = usage.memory_stats.limit;
    let share = if limit > 0 { used as f64 / limit as f64 * 100.0 } else { 0.0 };
    let received: u64 = usage.networks.values().map(|interface| interface.rx_bytes).sum();
    let sent: u64 = usage.networks.values().map(|interface| interface.tx_bytes).sum();
    let blocks = &usage.blkio_stats.io_service_bytes_recursive;
    let moved = |op: &str| blocks.iter().filter(|entry| entry.op == op).map(|entry| entry.value).sum::<u64>();
    json!({
        "ID": if whole { &container.id } else { &container.id[..12] },
        "Container": container.name(),
        "Name": container.name(),
        "CPUPerc": format!("{cpu:.2}%"),
        "MemUsage": format!("{} / {}", binary(used), binary(limit)),
        "MemPerc": format!("{share:.2}%"),
        "NetIO": format!("{} / {}", bytes(received), bytes(sent)),
        "BlockIO": format!("{} / {}", bytes(moved("read")), bytes(moved("write"))),
        "PIDs": usage.pids_stats.current.to_string(),
    })
}

/// Bytes in powers of 1024, as Docker shows memory.
fn binary(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let text = format!("{value:.3}");
    let digits: String = text.chars().take(5).collect();
    format!(
        "{}{}",
        if unit == 0 { count.to_string() } else { digits.trim_end_matches('0').trim_end_matches('.').to_string() },
        units[unit]
    )
}
