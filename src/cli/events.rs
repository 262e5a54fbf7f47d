//! `wharf events`, and those of the whole engine.

use super::{Global, Outcome, connect, project, ps};
use crate::api::client::Client;
use crate::api::reply::escape;
use crate::engine::convert::{LABEL_PROJECT, LABEL_SERVICE};
use serde_json::{Value, json};
use std::io::Write;

#[derive(clap::Args, Debug)]
pub struct Events {
    /// Services; all by default.
    services: Vec<String>,
    /// A JSON object a line.
    #[arg(long)]
    json: bool,
}

pub async fn run(global: &Global, command: Events) -> Outcome {
    let (name, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), &command.services)?;
    let client = connect::engine(global).await?;
    let filters = json!({"type": ["container"], "label": [format!("{LABEL_PROJECT}={name}")]});
    let show = |event: &Value| {
        let attributes = &event["Actor"]["Attributes"];
        let service = attributes[LABEL_SERVICE].as_str().unwrap_or_default().to_string();
        if !command.services.is_empty() && !command.services.contains(&service) {
            return None;
        }
        let short = json!({"image": attributes["image"], "name": attributes["name"]});
        Some(if command.json {
            json!({
                "action": event["Action"], "attributes": short, "id": event["Actor"]["ID"], "service": service,
                "time": time(event), "type": event["Type"],
            })
            .to_string()
        } else {
            line(event, &short)
        })
    };
    follow(&client, &filters, show).await
}

/// Everything that happens, until the engine leaves.
///
/// # Errors
/// A broken connection.
pub async fn all(client: &Client, format: &str) -> Outcome {
    let as_json = format == "json";
    let show = |event: &Value| Some(if as_json { event.to_string() } else { line(event, &event["Actor"]["Attributes"]) });
    follow(client, &json!({}), show).await
}

async fn follow(client: &Client, filters: &Value, show: impl Fn(&Value) -> Option<String>) -> Outcome {
    let mut events = client.get_lines(&format!("/events?filters={}", escape(&filters.to_string()))).await?;
    while let Some(event) = events.next::<Value>().await? {
        let Some(text) = show(&event) else { continue };
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn time(event: &Value) -> String {
    let nanos = i128::from(event["timeNano"].as_i64().unwrap_or(0));
    jiff::Timestamp::from_nanosecond(nanos).map(|t| t.to_string()).unwrap_or_default()
}

/// `TIME TYPE ACTION ID (KEY=VALUE, ...)`, as Docker writes it.
fn line(event: &Value, attributes: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let pairs: Vec<String> =
        attributes.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value))).collect();
    format!(
        "{} {} {} {} ({})",
        time(event),
        text(&event["Type"]),
        text(&event["Action"]),
        text(&event["Actor"]["ID"]),
        pairs.join(", ")
    )
}
