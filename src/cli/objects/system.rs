//! `wharf system`: what the engine has, and what the host gives it.

use crate::api::types::{ContainerSummary, DiskUsage, ImageSummary, SpaceReclaimed, VolumeInspect};
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
        global.machine.only_here("system check")?;
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
                let pruned: SpaceReclaimed = client.post(&path, &()).await?;
                reclaimed += pruned.space_reclaimed;
            }
            println!("Total reclaimed space: {}", bytes(reclaimed));
        }
    }
    Ok(())
}

fn show_usage(usage: &DiskUsage, verbose: bool) {
    let images = usage.images.as_deref().unwrap_or_default();
    let containers = usage.containers.as_deref().unwrap_or_default();
    let volumes = usage.volumes.as_deref().unwrap_or_default();
    let written = |container: &ContainerSummary| container.size_rw.unwrap_or(0);
    let volume_size =
        |volume: &VolumeInspect| volume.usage_data.as_ref().map_or(0, |usage| u64::try_from(usage.size).unwrap_or(0));
    let users = |volume: &VolumeInspect| volume.usage_data.as_ref().map_or(0, |usage| usage.ref_count);
    if verbose {
        let name = |image: &ImageSummary| image.repo_tags.join(", ");
        let rows = images.iter().map(|image| vec![name(image), bytes(image.size), image.containers.to_string()]);
        println!("{}\n", table(&["IMAGE", "SIZE", "CONTAINERS"], rows.collect()));
        let rows = containers.iter().map(|c| vec![c.name().to_string(), c.state.clone(), bytes(written(c))]);
        println!("{}\n", table(&["CONTAINER", "STATE", "SIZE"], rows.collect()));
        let rows = volumes.iter().map(|v| vec![v.name.clone(), bytes(volume_size(v)), users(v).to_string()]);
        println!("{}\n", table(&["VOLUME", "SIZE", "CONTAINERS"], rows.collect()));
    }
    let row = |kind: &str, total: usize, active: usize, size: u64, reclaimable: u64| {
        let share = (reclaimable * 100).checked_div(size).map(|share| format!(" ({share}%)")).unwrap_or_default();
        vec![kind.to_string(), total.to_string(), active.to_string(), bytes(size), format!("{}{share}", bytes(reclaimable))]
    };
    let used: Vec<&ImageSummary> = images.iter().filter(|image| image.containers > 0).collect();
    let of_used = used.iter().map(|image| image.size).sum();
    let (alive, stopped): (Vec<&ContainerSummary>, Vec<_>) = containers.iter().partition(|container| container.is_alive());
    let unused: Vec<&VolumeInspect> = volumes.iter().filter(|volume| users(volume) == 0).collect();
    let cache: u64 = usage.build_cache.iter().flatten().map(|record| record.size).sum();
    let rows = vec![
        row("Images", images.len(), used.len(), usage.layers_size, usage.layers_size.saturating_sub(of_used)),
        row(
            "Containers",
            containers.len(),
            alive.len(),
            containers.iter().map(written).sum(),
            stopped.into_iter().map(written).sum(),
        ),
        row(
            "Local Volumes",
            volumes.len(),
            volumes.len() - unused.len(),
            volumes.iter().map(volume_size).sum(),
            unused.into_iter().map(volume_size).sum(),
        ),
        row("Build Cache", usize::from(cache > 0), 0, cache, cache),
    ];
    println!("{}", table(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], rows));
}

#[derive(clap::Args, Debug)]
pub struct VersionArgs {
    /// pretty or json.
    #[arg(short, long, default_value = "pretty", value_parser = ["pretty", "json"])]
    format: String,
    /// The number alone.
    #[arg(long)]
    short: bool,
}

/// `wharf version`.
pub fn version(command: &VersionArgs) {
    let number = env!("CARGO_PKG_VERSION");
    match (command.short, command.format.as_str()) {
        (true, _) => println!("{number}"),
        (false, "json") => println!("{}", serde_json::json!({"version": number})),
        _ => println!("wharf {number}"),
    }
}
