//! `wharf config`.

use super::{Failure, Global, Outcome, project};
use crate::compose::{self, profiles};
use crate::plan::config_hash;
use serde_json::Value;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Config {
    /// Services to print, with what they depend on; all by default.
    services_named: Vec<String>,
    /// yaml or json.
    #[arg(long, default_value = "yaml", value_parser = ["yaml", "json"])]
    format: String,
    /// Check the files and print nothing.
    #[arg(short, long)]
    quiet: bool,
    /// Names of services, one a line.
    #[arg(long)]
    services: bool,
    /// Names of volumes.
    #[arg(long)]
    volumes: bool,
    /// Names of networks.
    #[arg(long)]
    networks: bool,
    /// Names of images.
    #[arg(long)]
    images: bool,
    /// Names of profiles.
    #[arg(long)]
    profiles: bool,
    /// The hash by which a change is noticed: of one service, or `*` for all.
    #[arg(long, value_name = "SERVICE")]
    hash: Option<String>,
    /// Leave variables as they are.
    #[arg(long)]
    no_interpolate: bool,
    /// Write to a file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub async fn run(global: &Global, command: Config) -> Outcome {
    let mut options = project::options(global);
    options.raw = command.no_interpolate;
    let mut loaded = compose::load(&options)?;
    for warning in &loaded.warnings {
        eprintln!("{}", compose::diagnostic::render(warning, &loaded.sources));
    }
    if command.quiet {
        return Ok(());
    }
    profiles::activate(&mut loaded.project, &mut loaded.inactive, &command.services_named);
    let keys =
        |section: &str| loaded.canonical[section].as_object().map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let lines = if command.services {
        keys("services")
    } else if command.volumes {
        keys("volumes")
    } else if command.networks {
        keys("networks")
    } else if command.images {
        let image = |(name, service): (&String, &compose::model::Service)| {
            service.image.clone().unwrap_or_else(|| format!("{}-{name}", loaded.project.name))
        };
        loaded.project.services.iter().map(image).collect()
    } else if command.profiles {
        let mut names: Vec<String> =
            loaded.project.services.values().chain(loaded.inactive.values()).flat_map(|s| s.profiles.clone()).collect();
        names.sort();
        names.dedup();
        names
    } else if let Some(wanted) = &command.hash {
        if wanted != "*" && !loaded.project.services.contains_key(wanted) {
            return Err(Failure::Message(format!("there is no service `{wanted}` in the project")));
        }
        let services = loaded.project.services.iter().filter(|(name, _)| wanted == "*" || *name == wanted);
        services.map(|(name, service)| format!("{name} {}", config_hash(service))).collect()
    } else {
        let mut value = printable(&loaded.canonical, command.no_interpolate);
        if !command.services_named.is_empty()
            && let Some(services) = value["services"].as_object_mut()
        {
            services.retain(|name, _| command.services_named.contains(name));
        }
        let text = if command.format == "json" {
            serde_json::to_string_pretty(&value).map_err(|e| Failure::Message(e.to_string()))?
        } else {
            serde_yaml::to_string(&value).map_err(|e| Failure::Message(e.to_string()))?.trim_end().to_string()
        };
        vec![text]
    };
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    match command.output {
        Some(path) => std::fs::write(&path, text).map_err(|e| Failure::Message(format!("writing {}: {e}", path.display()))),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

/// The canonical tree as Docker Compose prints it: command and entrypoint always, dollars doubled so that the output is a
/// Compose file again, attributes in alphabetical order.
fn printable(canonical: &Value, raw: bool) -> Value {
    let mut value = sorted(canonical, raw);
    for (_, service) in value["services"].as_object_mut().into_iter().flatten() {
        if let Some(map) = service.as_object_mut() {
            map.retain(|key, _| !key.starts_with("x-"));
            for key in ["command", "entrypoint"] {
                map.entry(key).or_insert(Value::Null);
            }
            if let Some(deploy) = map.get_mut("deploy").and_then(Value::as_object_mut) {
                for key in ["placement", "resources"] {
                    deploy.entry(key).or_insert_with(|| serde_json::json!({}));
                }
            }
        }
    }
    if value["networks"].as_object().is_some_and(serde_json::Map::is_empty)
        && let Some(map) = value.as_object_mut()
    {
        map.shift_remove("networks");
    }
    value
}

fn sorted(value: &Value, raw: bool) -> Value {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.iter().collect();
            keys.sort_by_key(|(key, _)| *key);
            Value::Object(keys.into_iter().map(|(key, value)| (key.clone(), sorted(value, raw))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(|value| sorted(value, raw)).collect()),
        Value::String(text) if !raw => Value::String(text.replace('$', "$$")),
        scalar => scalar.clone(),
    }
}
