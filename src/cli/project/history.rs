//! `wharf history` and `wharf rollback`.

use super::{ps, up};
use crate::api::reply::escape;
use crate::cli::{Global, Outcome, connect, output, project};
use crate::wire::RollbackRequest;
use serde_json::Value;

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
    let mut revisions: Vec<Value> = client.get(&format!("/projects/{}/history", escape(&name))).await?;
    revisions.retain(|revision| command.service.as_deref().is_none_or(|service| revision["Service"] == service));
    if command.format == "json" {
        revisions.iter().for_each(|revision| println!("{revision}"));
        return Ok(());
    }
    let text = |revision: &Value, key: &str| revision[key].as_str().unwrap_or_default().to_string();
    let row = |revision: &Value| {
        let changed: Vec<&str> = revision["Changed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        vec![
            text(revision, "Service"),
            revision["Revision"].to_string(),
            text(revision, "At"),
            text(revision, "Cause"),
            changed.join(","),
            text(revision, "ImageID").trim_start_matches("sha256:").chars().take(12).collect(),
            text(revision, "Outcome"),
        ]
    };
    let header = ["SERVICE", "REVISION", "AT", "CAUSE", "CHANGED", "IMAGE ID", "OUTCOME"];
    println!("{}", output::table(&header, revisions.iter().map(row).collect()));
    Ok(())
}

pub async fn rollback(global: &Global, command: Rollback) -> Outcome {
    let (name, _) = project::name(global)?;
    let client = connect::engine(global).await?;
    let Rollback { service, to, start_first, timeout } = command;
    let request = RollbackRequest { service, to, start_first, timeout };
    up::follow(&client, &format!("/projects/{}/rollback", escape(&name)), &request, false).await
}
