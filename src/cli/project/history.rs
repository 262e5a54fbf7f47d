//! `wharf history` and `wharf rollback`.

use super::{ps, up};
use crate::api::reply::escape;
use crate::api::types::RevisionSummary;
use crate::cli::{Global, Outcome, connect, output, project};
use crate::printable;
use crate::wire::{Incarnation, RollbackRequest, RunEnd};
use serde_json::json;

#[derive(clap::Args, Debug)]
pub struct History {
    /// The service; all by default.
    service: Option<String>,
    /// table or json.
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
}

#[derive(clap::Args, Debug)]
pub struct Rollback {
    /// The service to bring back.
    service: String,
    /// The revision's number; the last good one before the newest by default.
    #[arg(long, value_name = "REVISION")]
    to: Option<u32>,
    /// Keep a container until the one in its place is good and has its names and ports.
    #[arg(long)]
    start_first: bool,
    /// Seconds to wait for containers that are stopped; -1 is for ever.
    #[arg(short, long, value_name = "SECONDS", value_parser = up::grace, allow_negative_numbers = true)]
    timeout: Option<u32>,
}

pub async fn run(global: &Global, command: History) -> Outcome {
    let (name, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), command.service.as_slice())?;
    let client = connect::engine(global).await?;
    let mut revisions: Vec<RevisionSummary> = client.get(&format!("/projects/{}/history", escape(&name))).await?;
    revisions.retain(|revision| command.service.as_deref().is_none_or(|service| revision.service == service));
    let mut known: Vec<Incarnation> = client.get(&format!("/projects/{}/incarnations", escape(&name))).await?;
    known.retain(|container| command.service.as_ref().is_none_or(|service| container.service == *service));
    let mut ends: Vec<(&Incarnation, &RunEnd)> =
        known.iter().flat_map(|container| container.ends.iter().map(move |end| (container, end))).collect();
    ends.sort_by_key(|(container, end)| (&container.service, end.at));
    if command.format == "json" {
        for revision in &revisions {
            println!("{}", serde_json::to_string(revision).unwrap_or_default());
        }
        for (container, end) in ends {
            let value = json!({
                "Service": container.service,
                "Container": container.name,
                "ID": container.id,
                "At": end.at.to_string(),
                "ExitCode": end.exit_code,
                "OOMKilled": end.oom_killed,
                "Reason": end.reason,
                "RemovedFor": container.removed_for,
            });
            println!("{value}");
        }
        return Ok(());
    }
    let row = |revision: &RevisionSummary| {
        vec![
            revision.service.clone(),
            revision.revision.to_string(),
            revision.at.clone(),
            revision.cause.clone(),
            revision.changed.join(","),
            revision.image_id.trim_start_matches("sha256:").chars().take(12).collect(),
            revision.outcome.clone(),
        ]
    };
    let header = ["SERVICE", "REVISION", "AT", "CAUSE", "CHANGED", "IMAGE ID", "OUTCOME"];
    println!("{}", output::table(&header, revisions.iter().map(row).collect()));
    if !ends.is_empty() {
        let row = |(container, end): &(&Incarnation, &RunEnd)| {
            let of = |text: &str| printable::line(text).into_owned();
            let then = if container.removed_for.is_empty() { String::new() } else { format!("; {}", container.removed_for) };
            vec![
                of(&container.service),
                of(&container.name),
                container.id.chars().take(12).collect(),
                end.at.to_string(),
                end.exit_code.to_string(),
                of(&format!("{}{then}", end.reason)),
            ]
        };
        let header = ["SERVICE", "CONTAINER", "CONTAINER ID", "ENDED", "EXIT CODE", "REASON"];
        println!("\n{}", output::table(&header, ends.iter().map(row).collect()));
    }
    Ok(())
}

pub async fn rollback(global: &Global, command: Rollback) -> Outcome {
    let (name, _) = project::name(global)?;
    let client = connect::engine(global).await?;
    let Rollback { service, to, start_first, timeout } = command;
    let request = RollbackRequest { service, to, start_first, timeout };
    up::follow(&client, &format!("/projects/{}/rollback", escape(&name)), &request, false).await
}
