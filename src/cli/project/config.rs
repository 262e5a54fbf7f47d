//! `wharf config`.

use crate::api::reply::escape;
use crate::api::types::DistributionInspect;
use crate::cli::{Failure, Global, Outcome, connect, output_file, project};
use crate::compose::diagnostic::{Diagnostic, Sources};
use crate::compose::interpolate::UsedVariable;
use crate::compose::model::Service;
use crate::compose::node::{Node, Value};
use crate::compose::render::{self, RenderFormat};
use crate::compose::{self, Loaded, Skip};
use crate::plan::config_hash;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct ConfigArgs {
    /// Services to print, with what they depend on; all by default.
    services_named: Vec<String>,
    /// yaml or json; with json, errors and warnings are a JSON object a line on standard error, for editors.
    #[arg(long, value_parser = ["", "yaml", "json"])]
    format: Option<String>,
    /// Check the files and print nothing.
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    print: Print,
    #[command(flatten)]
    skip: SkipFlags,
    /// Give every image the digest that its tag has in the registry now.
    #[arg(long)]
    resolve_image_digests: bool,
    /// Print a file of nothing but the images' digests, to be laid on top with -f.
    #[arg(long)]
    lock_image_digests: bool,
    /// Write to a file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The list that is printed instead of the project. Of several, the first in this order counts.
#[derive(clap::Args, Debug)]
struct Print {
    /// Names of services, one a line.
    #[arg(long)]
    services: bool,
    /// Names of volumes.
    #[arg(long)]
    volumes: bool,
    /// Names of networks.
    #[arg(long)]
    networks: bool,
    /// Names of models.
    #[arg(long)]
    models: bool,
    /// Names of images.
    #[arg(long)]
    images: bool,
    /// Names of profiles.
    #[arg(long)]
    profiles: bool,
    /// The hash by which a change is noticed: of one service, or `*` for all.
    #[arg(long, value_name = "SERVICE")]
    hash: Option<String>,
    /// The variables that the files use, and their defaults.
    #[arg(long)]
    variables: bool,
    /// The environment that interpolation sees.
    #[arg(long)]
    environment: bool,
}

impl Print {
    /// Names need no env file.
    fn names_alone(&self) -> bool {
        self.services || self.volumes || self.networks || self.models || self.images || self.profiles
    }
}

#[derive(clap::Args, Debug)]
struct SkipFlags {
    /// Leave variables as they are.
    #[arg(long)]
    no_interpolate: bool,
    /// Add no implied networks, names and dependencies.
    #[arg(long)]
    no_normalize: bool,
    /// Leave paths relative.
    #[arg(long)]
    no_path_resolution: bool,
    /// Do not check that what services refer to exists.
    #[arg(long)]
    no_consistency: bool,
    /// Do not read env files.
    #[arg(long)]
    no_env_resolution: bool,
}

pub async fn run(global: &Global, command: ConfigArgs) -> Outcome {
    let mut options = project::options(global);
    options.services.clone_from(&command.services_named);
    if let Some(hashed) = command.print.hash.as_deref().filter(|hashed| *hashed != "*") {
        // What others need is not looked for.
        options.services = hashed.split(',').map(str::to_string).collect();
    }
    options.skip = Skip {
        interpolation: command.skip.no_interpolate,
        normalisation: command.skip.no_normalize,
        paths: command.skip.no_path_resolution,
        consistency: command.skip.no_consistency,
        environment: command.skip.no_env_resolution,
        container_names: command.skip.no_consistency,
        one_machine: false,
    };
    if command.print.variables {
        options.list_variables = true;
        options.skip = Skip { interpolation: true, consistency: true, environment: true, ..options.skip };
    }
    if command.print.names_alone() {
        options.skip.environment = true;
    }
    let json = command.format.as_deref() == Some("json");
    let mut loaded = match compose::load(&options) {
        Ok(loaded) => loaded,
        Err(error) if json => {
            print_json_lines(&error.diagnostics, &error.sources);
            return Err(Failure::Code(1));
        }
        Err(error) => return Err(error.into()),
    };
    if json {
        print_json_lines(&loaded.warnings, &loaded.sources);
    } else {
        project::show_warnings(&loaded.warnings, &loaded.sources);
    }
    let whole = match (command.skip.no_interpolate, command.print.variables) {
        (_, true) => Some("--variables"),
        (true, _) => Some("--no-interpolate"),
        _ => None,
    };
    if let (Some(flag), false) = (whole, command.services_named.is_empty()) {
        eprintln!("warning: service filtering is not applied when {flag} is set");
    } else if !command.services_named.is_empty() {
        super::ps::check_services(Some(&loaded), &command.services_named)?;
        keep_named(&mut loaded, &command.services_named);
    }
    if command.resolve_image_digests || command.lock_image_digests {
        resolve_digests(global, &mut loaded.root).await?;
    }
    if command.quiet {
        // The process ends here: there is no need to take a large project apart first.
        std::mem::forget(loaded);
        return Ok(());
    }
    let text = match listed(&command, &loaded)? {
        Some(lines) => lines.iter().map(|line| format!("{line}\n")).collect(),
        None => model(&command, &loaded)?,
    };
    match command.output {
        Some(path) => output_file::write(&path, &text),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

fn print_json_lines(diagnostics: &[Diagnostic], sources: &Sources) {
    for diagnostic in diagnostics {
        eprintln!("{}", diagnostic.to_json(sources));
    }
}

/// Leaves the named services and what they depend on.
pub fn keep_named(loaded: &mut Loaded, named: &[String]) {
    let mut wanted = named.to_vec();
    let mut kept: Vec<String> = Vec::new();
    while let Some(name) = wanted.pop() {
        if !kept.contains(&name) {
            wanted.extend(loaded.project.services.get(&name).into_iter().flat_map(|s| s.depends_on.keys().cloned()));
            kept.push(name);
        }
    }
    for section in compose::canonical::WORKLOADS {
        if let Some(entries) = loaded.root.get_mut(section).and_then(Node::as_map_mut) {
            entries.retain(|name, _| kept.contains(name));
        }
    }
    if loaded.project.jobs.keys().all(|name| !kept.contains(name))
        && let Some(root) = loaded.root.as_map_mut()
    {
        root.shift_remove("jobs");
    }
    loaded.project.services.retain(|name, _| kept.contains(name));
    loaded.project.jobs.retain(|name, _| kept.contains(name));
    compose::defaults::drop_unused(&mut loaded.root);
}

/// The lines of a flag that prints names; `None` where the project itself is wanted.
fn listed(command: &ConfigArgs, loaded: &Loaded) -> Result<Option<Vec<String>>, Failure> {
    let print = &command.print;
    let keys = |section: &str| -> Vec<String> {
        loaded.root.get(section).and_then(Node::as_map).map(|map| map.keys().cloned().collect()).unwrap_or_default()
    };
    let services = &loaded.project.services;
    Ok(Some(if print.services {
        // As Docker Compose has them: sorted, and each after what it depends on.
        let mut names = keys("services");
        names.sort();
        crate::plan::selected(&loaded.project, &names, false).into_iter().collect()
    } else if print.volumes {
        keys("volumes")
    } else if print.networks {
        keys("networks")
    } else if print.models {
        let models = loaded.root.get("models").and_then(Node::as_map).into_iter().flatten();
        models.filter_map(|(_, entry)| entry.node.get("model")?.as_str().map(str::to_string)).collect()
    } else if print.images {
        let jobs = loaded.project.jobs.iter().map(|(name, job)| (name, &job.service));
        services.iter().chain(jobs).map(|(name, service)| image(&loaded.project.name, name, service)).collect()
    } else if print.profiles {
        let jobs = loaded.project.jobs.values().map(|job| &job.service);
        let active = services.values().chain(jobs).flat_map(|service| service.profiles.clone());
        let mut names: Vec<String> = active.chain(loaded.inactive.values().flatten().cloned()).collect();
        names.sort();
        names.dedup();
        names
    } else if let Some(wanted) = &print.hash {
        let named: Vec<String> = wanted.split(',').filter(|name| *name != "*").map(str::to_string).collect();
        super::ps::check_services(Some(loaded), &named)?;
        let chosen = services.iter().filter(|(name, _)| named.is_empty() || named.contains(name));
        let mut lines: Vec<String> =
            chosen.map(|(name, service)| format!("{name} {}", config_hash(&loaded.project, service))).collect();
        lines.sort();
        lines
    } else if print.variables {
        variables(loaded, command.format.as_deref())
    } else if print.environment {
        loaded.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()
    } else {
        return Ok(None);
    }))
}

fn image(project: &str, name: &str, service: &Service) -> String {
    service.image.clone().unwrap_or_else(|| format!("{project}-{name}"))
}

fn variables(loaded: &Loaded, format: Option<&str>) -> Vec<String> {
    if let Some("json" | "yaml") = format {
        let all: serde_json::Map<String, Json> =
            loaded.variables.iter().map(|(name, variable)| (name.clone(), described(name, variable))).collect();
        let text = if format == Some("json") { indented(&all) } else { render::yaml::text(&lower_case(all)) };
        // Docker Compose indents the one and the other by four.
        let deeper = |line: &str| match (format, line.len() - line.trim_start().len()) {
            (Some("yaml"), indent) => " ".repeat(indent) + line,
            _ => line.to_string(),
        };
        return text.lines().map(deeper).collect();
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE"]);
    for (name, variable) in &loaded.variables {
        table.add_row([name, &variable.required.to_string(), &variable.default, &variable.alternate]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.lines().map(|line| line.trim_end().to_string()).collect()
}

/// JSON indented by four columns, as Docker Compose prints variables.
fn indented(value: &impl serde::Serialize) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter));
    String::from_utf8_lossy(&out).into_owned()
}

/// A variable with Docker Compose's names.
fn described(name: &str, variable: &UsedVariable) -> Json {
    serde_json::json!({
        "Name": name,
        "DefaultValue": variable.default,
        "PresenceValue": variable.alternate,
        "Required": variable.required,
    })
}

/// The same as Go's YAML has it: the names of fields in lower case.
fn lower_case(all: serde_json::Map<String, Json>) -> Json {
    let lower = |value: Json| match value {
        Json::Object(fields) => fields.into_iter().map(|(field, value)| (field.to_lowercase(), value)).collect(),
        value => value,
    };
    all.into_iter().map(|(name, value)| (name, lower(value))).collect()
}

fn model(command: &ConfigArgs, loaded: &Loaded) -> Result<String, Failure> {
    let format = if command.format.as_deref() == Some("json") { RenderFormat::Json } else { RenderFormat::Yaml };
    let mut value = render::render(&loaded.root, format, command.skip.no_interpolate);
    if command.lock_image_digests {
        let services = value["services"].as_object().into_iter().flatten();
        let images: BTreeMap<&String, Json> =
            services.map(|(name, service)| (name, serde_json::json!({"image": service["image"]}))).collect();
        value = serde_json::json!({"services": images});
    }
    let text = match format {
        RenderFormat::Json => serde_json::to_string_pretty(&value).map(|text| format!("{text}\n")).map_err(|e| e.to_string()),
        RenderFormat::Yaml => Ok(render::yaml::text(&value)),
    };
    text.map_err(Failure::Message)
}

/// Asks the registries, by way of the engine, for the digests that the images' tags have now.
pub(super) async fn resolve_digests(global: &Global, root: &mut Node) -> Outcome {
    let client = connect::engine(global).await?;
    for entry in root.get_mut("services").and_then(Node::as_map_mut).into_iter().flat_map(|map| map.values_mut()) {
        let Some(image) = entry.node.get_mut("image") else { continue };
        let name = image.as_str().unwrap_or_default().to_string();
        if name.contains('@') {
            continue;
        }
        let found: DistributionInspect = client.get(&format!("/distribution/{}/json", escape(&name))).await?;
        image.value = Value::String(format!("{name}@{}", found.descriptor.digest));
    }
    Ok(())
}
