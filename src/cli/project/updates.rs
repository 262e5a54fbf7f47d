//! `wharf updates`.

use super::{ps, up};
use crate::api::reply::escape;
use crate::cli::{Global, Outcome, connect, output, project};
use crate::printable;
use crate::wire::{ImageUpdate, UpdateRequest};

#[derive(clap::Args, Debug)]
pub struct Updates {
    /// Services; all with `x-update` by default.
    services: Vec<String>,
    /// Ask the registries now, and update what has another digest.
    #[arg(long)]
    now: bool,
    /// table or json.
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
}

pub async fn run(global: &Global, command: Updates) -> Outcome {
    let (name, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), &command.services)?;
    let client = connect::engine(global).await?;
    let path = format!("/projects/{}/updates", escape(&name));
    if command.now {
        let request = UpdateRequest { services: command.services };
        return up::follow(&client, &path, &request, false).await;
    }
    let mut rows: Vec<ImageUpdate> = client.get(&path).await?;
    rows.retain(|row| command.services.is_empty() || command.services.contains(&row.service));
    if command.format == "json" {
        for row in &rows {
            println!("{}", serde_json::to_string(row).unwrap_or_default());
        }
        return Ok(());
    }
    let short = |digest: &Option<String>| {
        let digest = digest.as_deref().unwrap_or_default();
        digest.trim_start_matches("sha256:").chars().take(12).collect::<String>()
    };
    let row = |row: &ImageUpdate| {
        let time = |time: &Option<jiff::Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
        let last = row.events.last().map(|event| {
            let message = event.message.as_deref().unwrap_or_default().lines().next().unwrap_or_default();
            let colon = if message.is_empty() { "" } else { ": " };
            printable::line(&format!("{}{colon}{message}", event.outcome)).into_owned()
        });
        vec![
            row.service.clone(),
            row.image.clone(),
            row.schedule.clone(),
            time(&row.next),
            time(&row.checked_at),
            short(&row.current),
            short(&row.available),
            last.unwrap_or_default(),
        ]
    };
    let header = ["SERVICE", "IMAGE", "SCHEDULE", "NEXT", "CHECKED", "DIGEST", "AVAILABLE", "LAST"];
    println!("{}", output::table(&header, rows.iter().map(row).collect()));
    Ok(())
}
