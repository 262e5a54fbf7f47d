//! `wharf events`, and those of the whole engine.

use super::moment::moment;
use super::ps;
use crate::api::client::Client;
use crate::api::reply::escape;
use crate::api::types::{EventMessage, StringMap};
use crate::cli::objects::network;
use crate::cli::output::template::Template;
use crate::cli::{Failure, Global, Outcome, connect, project};
use crate::labels::{LABEL_PROJECT, LABEL_SERVICE};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[derive(clap::Args, Debug)]
pub struct EventsArgs {
    /// Services; all by default.
    services: Vec<String>,
    /// A JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    span: Span,
}

/// Of which time.
#[derive(clap::Args, Debug, Default)]
pub struct Span {
    /// Show past events from a time on, of the last 256: 2026-01-31T12:00:00Z, or how long ago: 10m.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to a time, and no longer.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// Events of the whole engine.
#[derive(clap::Args, Debug)]
pub struct All {
    /// text, json (an object a line), or a template such as '{{.Action}}'.
    #[arg(long, default_value = "text")]
    format: String,
    /// Those that fulfil a condition: type=, event=, container=, image=, network=, volume= or label=; may be repeated.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    filter: Vec<(String, String)>,
    #[command(flatten)]
    span: Span,
}

/// A condition of `--filter`.
fn filter(text: &str) -> Result<(String, String), String> {
    network::condition(text, &["type", "event", "container", "image", "network", "volume", "label"])
}

pub async fn run(global: &Global, command: EventsArgs) -> Outcome {
    let (name, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), &command.services)?;
    let client = connect::engine(global).await?;
    let filters = [("type".into(), "container".into()), ("label".into(), format!("{LABEL_PROJECT}={name}"))];
    let show = |event: &EventMessage| {
        let service = event.actor.attributes.get(LABEL_SERVICE).cloned().unwrap_or_default();
        if !command.services.is_empty() && !command.services.contains(&service) {
            return Ok(None);
        }
        // All but the labels by which the project is found, as Docker Compose has it.
        let mut short = event.actor.attributes.clone();
        short.retain(|key, _| !key.starts_with("com.docker.compose."));
        Ok(Some(if command.json {
            json!({
                "action": event.action, "attributes": short, "id": event.actor.id, "service": service,
                "time": time(event), "type": event.kind,
            })
            .to_string()
        } else {
            line(event, &short)
        }))
    };
    follow(&client, &filters, &command.span, show).await
}

/// Everything that happens, until the engine leaves.
///
/// # Errors
/// A broken connection.
pub async fn all(client: &Client, command: &All) -> Outcome {
    let failed = |why: String| Failure::Message(format!("--format: {why}"));
    let template = match command.format.as_str() {
        "text" | "json" | "" => None,
        text if text.contains("{{") => Some(Template::parse(text).map_err(failed)?),
        other => return Err(failed(format!("`{other}` is neither text nor json, nor a template such as '{{{{.Action}}}}'"))),
    };
    let show = |event: &Value| match (&template, command.format.as_str()) {
        (Some(template), _) => template.render(event).map(Some).map_err(failed),
        (None, "json") => Ok(Some(event.to_string())),
        _ => {
            let event: EventMessage =
                serde::Deserialize::deserialize(event).map_err(|e| Failure::Message(format!("reading an event: {e}")))?;
            Ok(Some(line(&event, &event.actor.attributes)))
        }
    };
    follow(client, &command.filter, &command.span, show).await
}

async fn follow<T: DeserializeOwned>(
    client: &Client,
    filters: &[(String, String)],
    span: &Span,
    show: impl Fn(&T) -> Result<Option<String>, Failure>,
) -> Outcome {
    let mut path = format!("/events?filters={}", network::filters(filters));
    for (key, time) in [("since", &span.since), ("until", &span.until)] {
        if let Some(time) = time {
            path.push_str(&format!("&{key}={}", escape(&moment(time)?)));
        }
    }
    let mut events = client.get_lines(&path).await?;
    while let Some(event) = events.next::<T>().await? {
        let Some(text) = show(&event)? else { continue };
        println!("{text}");
    }
    Ok(())
}

fn time(event: &EventMessage) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(event.time_nano)).map(|t| t.to_string()).unwrap_or_default()
}

/// `TIME TYPE ACTION ID (KEY=VALUE, ...)`, as Docker writes it.
fn line(event: &EventMessage, attributes: &StringMap) -> String {
    let pairs: Vec<String> = attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("{} {} {} {} ({})", time(event), event.kind, event.action, event.actor.id, pairs.join(", "))
}
