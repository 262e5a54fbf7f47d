//! `wharf system`: what the engine has, and what the host gives it.

use crate::cli::output::{bytes, table};
use crate::cli::project::events;
use crate::cli::{Global, Outcome, connect};
use serde_json::Value;

#[derive(clap::Subcommand, Debug)]
#[command(defer = true)]
pub enum System {
    /// Show what images, containers and volumes take on disk.
    Df {
        /// A row for each of them.
        #[arg(short, long)]
        verbose: bool,
    },
    /// Show everything that happens.
    Events(events::All),
    /// Print what is known of the engine, in JSON.
    Info,
    /// Remove stopped containers, unused networks and layers that nothing needs.
    Prune {
        /// Images that no container uses, too.
        #[arg(short, long)]
        all: bool,
        /// Anonymous volumes that no container uses, too.
        #[arg(long)]
        volumes: bool,
        /// Do not ask.
        #[arg(short, long)]
        force: bool,
    },
    /// Say what this host lacks for wharf, and what to do about it.
    Check,
}

pub async fn system(global: &Global, command: System) -> Outcome {
    if matches!(command, System::Check) {
        return super::check::run(global).await;
    }
    let client = connect::engine(global).await?;
    match command {
        System::Check => {}
        System::Events(command) => events::all(&client, &command).await?,
        System::Info => {
            let info: Value = client.get("/info").await?;
            println!("{}", serde_json::to_string_pretty(&info).unwrap_or_default());
        }
        System::Df { verbose } => show_usage(&client.get("/system/df").await?, verbose),
        System::Prune { all, volumes, force } => {
            let what = if all { "images that no container uses" } else { "layers that nothing needs" };
            let question = format!(
                "This removes containers that do not run, networks without containers, {what}{}.",
                if volumes { ", and anonymous volumes that no container uses, with their data" } else { "" }
            );
            if !super::network::confirmed(&question, force).await? {
                return Ok(());
            }
            let filters = if all { "?filters=%7B%22dangling%22%3A%5B%22false%22%5D%7D" } else { "" };
            let mut paths = vec!["/containers/prune".to_string(), "/networks/prune".into()];
            paths.extend(volumes.then(|| "/volumes/prune".to_string()));
            paths.push(format!("/images/prune{filters}"));
            let mut reclaimed = 0;
            for path in paths {
                let pruned: Value = client.post(&path, &Value::Null).await?;
                reclaimed += pruned["SpaceReclaimed"].as_u64().unwrap_or(0);
            }
            println!("Total reclaimed space: {}", bytes(reclaimed));
        }
    }
    Ok(())
}

fn show_usage(usage: &Value, verbose: bool) {
    let list = |key: &str| usage[key].as_array().cloned().unwrap_or_default();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let text = |value: &Value| value.as_str().unwrap_or_default().trim_start_matches('/').to_string();
    let (images, containers, volumes) = (list("Images"), list("Containers"), list("Volumes"));
    if verbose {
        let rows =
            images.iter().map(|i| vec![text(&i["RepoTags"][0]), bytes(number(&i["Size"])), number(&i["Containers"]).to_string()]);
        println!("{}\n", table(&["IMAGE", "SIZE", "CONTAINERS"], rows.collect()));
        let rows = containers.iter().map(|c| vec![text(&c["Names"][0]), text(&c["State"]), bytes(number(&c["SizeRw"]))]);
        println!("{}\n", table(&["CONTAINER", "STATE", "SIZE"], rows.collect()));
        let rows = volumes.iter().map(|v| {
            let usage = &v["UsageData"];
            vec![text(&v["Name"]), bytes(number(&usage["Size"])), number(&usage["RefCount"]).to_string()]
        });
        println!("{}\n", table(&["VOLUME", "SIZE", "CONTAINERS"], rows.collect()));
    }
    let row = |kind: &str, total: usize, active: usize, size: u64, reclaimable: u64| {
        let share = (reclaimable * 100).checked_div(size).map(|share| format!(" ({share}%)")).unwrap_or_default();
        vec![kind.to_string(), total.to_string(), active.to_string(), bytes(size), format!("{}{share}", bytes(reclaimable))]
    };
    let total = number(&usage["LayersSize"]);
    let used_images: u64 = images.iter().filter(|i| number(&i["Containers"]) > 0).map(|i| number(&i["Size"])).sum();
    let is_alive = |c: &&Value| matches!(c["State"].as_str(), Some("running" | "paused" | "restarting"));
    let sum = |list: &[Value], size: &dyn Fn(&Value) -> u64, keep: &dyn Fn(&Value) -> bool| {
        list.iter().filter(|item| keep(item)).map(size).sum::<u64>()
    };
    let written = |c: &Value| number(&c["SizeRw"]);
    let volume_size = |v: &Value| number(&v["UsageData"]["Size"]);
    let unused = |v: &Value| number(&v["UsageData"]["RefCount"]) == 0;
    let cache: u64 = list("BuildCache").iter().map(|c| number(&c["Size"])).sum();
    let rows = vec![
        row(
            "Images",
            images.len(),
            images.iter().filter(|i| number(&i["Containers"]) > 0).count(),
            total,
            total.saturating_sub(used_images),
        ),
        row(
            "Containers",
            containers.len(),
            containers.iter().filter(is_alive).count(),
            sum(&containers, &written, &|_| true),
            sum(&containers, &written, &|c| !is_alive(&c)),
        ),
        row(
            "Local Volumes",
            volumes.len(),
            volumes.iter().filter(|v| !unused(v)).count(),
            sum(&volumes, &volume_size, &|_| true),
            sum(&volumes, &volume_size, &unused),
        ),
        row("Build Cache", usize::from(cache > 0), 0, cache, cache),
    ];
    println!("{}", table(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], rows));
}

#[derive(clap::Args, Debug)]
pub struct Version {
    /// pretty or json.
    #[arg(short, long, default_value = "pretty", value_parser = ["pretty", "json"])]
    format: String,
    /// The number alone.
    #[arg(long)]
    short: bool,
}

/// `wharf version`.
pub fn version(command: &Version) {
    let number = env!("CARGO_PKG_VERSION");
    match (command.short, command.format.as_str()) {
        (true, _) => println!("{number}"),
        (false, "json") => println!("{}", serde_json::json!({"version": number})),
        _ => println!("wharf {number}"),
    }
}
