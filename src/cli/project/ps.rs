//! `wharf ps` and `wharf ls`.

use crate::api::client::Client;
use crate::api::reply::escape;
use crate::api::types::{ContainerSummary, PortSummary, ProjectSummary};
use crate::cli::output::format::{Column, LABEL, RowFormat, without_methods};
use crate::cli::output::table;
use crate::cli::{Failure, Global, Outcome, connect, project};
use crate::labels::{LABEL_NUMBER, LABEL_ONEOFF, LABEL_PROJECT, LABEL_SERVICE};
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(clap::Args, Debug)]
pub struct Ps {
    /// Services to list; all by default.
    services: Vec<String>,
    /// Stopped containers as well.
    #[arg(short, long)]
    all: bool,
    /// Ids alone.
    #[arg(short, long)]
    quiet: bool,
    /// Names of services alone.
    #[arg(long = "services")]
    services_only: bool,
    /// Whole commands.
    #[arg(long)]
    no_trunc: bool,
    /// Containers of services that the project does not have as well; `--orphans=false` leaves them out.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    orphans: bool,
    /// Containers of a state: status=running, ...
    #[arg(long, value_name = "status=STATE")]
    filter: Vec<String>,
    /// table, json (an object a line), or a template such as '{{.Name}}'.
    #[arg(long, default_value = "table")]
    format: RowFormat,
    /// Containers in this state: running, exited, restarting, paused, created.
    #[arg(long, value_name = "STATE")]
    status: Vec<String>,
}

#[derive(clap::Args, Debug)]
pub struct Ls {
    /// Names alone.
    #[arg(short, long)]
    quiet: bool,
    /// Projects that do not run as well.
    #[arg(short, long)]
    all: bool,
    /// table or json.
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// Projects of a name: name=NAME.
    #[arg(long, value_name = "name=NAME")]
    filter: Vec<String>,
}

/// A container as Compose knows it, and as tables show it.
impl ContainerSummary {
    pub fn service(&self) -> &str {
        self.label(LABEL_SERVICE)
    }

    pub fn number(&self) -> u32 {
        self.label(LABEL_NUMBER).parse().unwrap_or(1)
    }

    /// Whether `run` has made it.
    pub fn is_one_off(&self) -> bool {
        self.label(LABEL_ONEOFF) == "True"
    }

    /// `web-1`: how log prefixes call it.
    pub fn short_name(&self) -> String {
        short_name(self.name(), self.label(LABEL_PROJECT), self.service()).to_string()
    }

    /// Its fields in templates and tables: those of `docker ps` and of `docker compose ps`.
    pub fn described(&self, shortened: bool) -> Value {
        let now = jiff::Timestamp::now().as_second();
        let mounts = self.mounts.iter().filter_map(|mount| {
            let name = [&mount.name, &mount.source].into_iter().find(|name| !name.is_empty())?;
            Some(if shortened { self::shortened(name, 15) } else { name.to_string() })
        });
        let networks = self.network_settings.networks.keys().cloned();
        let command = if shortened { self::shortened(&self.command, 20) } else { self.command.clone() };
        let mut labels: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        labels.sort();
        json!({
            "ID": if shortened { &self.id[..12] } else { &self.id },
            "Name": self.name(),
            "Names": self.name(),
            "Service": self.service(),
            "Project": self.label(LABEL_PROJECT),
            "Image": self.image,
            "Command": quoted(&command),
            "CreatedAt": go_time(self.created),
            "RunningFor": format!("{} ago", crate::units::time_text(now - self.created)),
            "State": self.state,
            "Status": self.status,
            "Health": self.health_status(),
            "ExitCode": self.exit_code,
            "Ports": self.ports_text(),
            "Labels": labels.join(","),
            "LocalVolumes": self.mounts.iter().filter(|mount| mount.kind == "volume").count().to_string(),
            "Mounts": mounts.collect::<Vec<_>>().join(","),
            "Networks": networks.collect::<Vec<_>>().join(","),
            "Size": "0B",
            LABEL: self.labels,
        })
    }

    /// The object of `docker compose ps --format json`.
    fn in_json(&self, mut described: Value) -> Value {
        let port = |p: &PortSummary| json!({"URL": p.ip, "TargetPort": p.private_port, "PublishedPort": p.public_port, "Protocol": p.protocol});
        described["Publishers"] = self.ports.iter().map(port).collect();
        described["RestartCount"] = self.restart_count.into();
        in_order(described)
    }

    pub fn ports_text(&self) -> String {
        let port = |p: &PortSummary| {
            if p.ip.is_empty() {
                return format!("{}/{}", p.private_port, p.protocol);
            }
            let ip = if p.ip.contains(':') { format!("[{}]", p.ip) } else { p.ip.clone() };
            format!("{ip}:{}->{}/{}", p.public_port, p.private_port, p.protocol)
        };
        self.ports.iter().map(port).collect::<Vec<_>>().join(", ")
    }
}

/// The containers of a project, sorted by service and number; of the named services alone where any is named.
///
/// # Errors
/// When a named service has no container.
pub async fn containers(
    client: &Client,
    project: &str,
    services: &[String],
    all: bool,
) -> Result<Vec<ContainerSummary>, Failure> {
    let filters = json!({"label": [format!("{LABEL_PROJECT}={project}")]});
    let path = format!("/containers/json?all={}&filters={}", u8::from(all), escape(&filters.to_string()));
    let mut list: Vec<ContainerSummary> = client.get(&path).await?;
    list.retain(|c| services.is_empty() || services.iter().any(|s| s == c.service()));
    list.sort_by(|a, b| (a.service(), a.number()).cmp(&(b.service(), b.number())));
    Ok(list)
}

/// Whether a container is of a service that the project does not have.
fn is_orphan(loaded: &crate::compose::Loaded, container: &ContainerSummary) -> bool {
    let known = |name: &str| loaded.project.services.contains_key(name) || loaded.inactive.contains_key(name);
    !known(container.service()) && !container.is_one_off()
}

/// A running container of a service; one of `run` where the service has no other.
///
/// # Errors
/// When it has none, or none of that number.
pub async fn one(client: &Client, project: &str, service: &str, index: Option<u32>) -> Result<ContainerSummary, Failure> {
    let mut list = containers(client, project, std::slice::from_ref(&service.to_string()), false).await?;
    list.sort_by_key(ContainerSummary::is_one_off);
    let found = list.into_iter().find(|c| index.is_none_or(|n| c.number() == n && !c.is_one_off()));
    found.ok_or_else(|| {
        let which = index.map_or_else(String::new, |n| format!(" container #{n}"));
        Failure::Message(format!("service \"{service}\" is not running{which}\n`wharf up -d {service}` starts it"))
    })
}

/// Refuses names that the project does not have.
///
/// # Errors
/// The first such name, with the nearest one.
pub fn check_services(loaded: Option<&crate::compose::Loaded>, services: &[String]) -> Result<(), Failure> {
    let Some(loaded) = loaded else { return Ok(()) };
    let known: Vec<&str> = loaded.project.services.keys().chain(loaded.inactive.keys()).map(String::as_str).collect();
    for name in services {
        if loaded.project.jobs.contains_key(name) {
            return Err(Failure::Message(format!(
                "`{name}` is a job, and this command is for services: `wharf run {name}` runs it, `wharf job` has more"
            )));
        }
        if !known.contains(&name.as_str()) {
            let hint = crate::compose::diagnostic::nearest(name, known.iter().copied()).map(|n| format!("\ndid you mean `{n}`?"));
            return Err(Failure::Message(format!("no such service: {name}{}", hint.unwrap_or_default())));
        }
    }
    Ok(())
}

/// A container's name without its project's.
pub fn short_name<'a>(name: &'a str, project: &str, service: &str) -> &'a str {
    let rest = name.strip_prefix(project).and_then(|rest| rest.strip_prefix(['-', '_']));
    // A name of the user's own stays whole.
    rest.filter(|rest| rest.starts_with(service)).unwrap_or(name)
}

/// Refuses names that no container of a project has: where there is no file, its services are those of its containers.
///
/// # Errors
/// The first such name.
pub async fn check_existing(client: &Client, project: &str, services: &[String]) -> Result<(), Failure> {
    if services.is_empty() {
        return Ok(());
    }
    let list = containers(client, project, &[], true).await?;
    match services.iter().find(|name| list.iter().all(|container| container.service() != *name)) {
        Some(name) => Err(Failure::Message(format!("no such service: {name}"))),
        None => Ok(()),
    }
}

pub async fn run(global: &Global, command: Ps) -> Outcome {
    let (name, loaded) = project::name(global)?;
    check_services(loaded.as_ref(), &command.services)?;
    let mut states = command.status;
    for filter in &command.filter {
        match filter.split_once('=') {
            Some(("status", state)) => states.push(state.to_string()),
            _ => return Err(Failure::Message(format!("--filter {filter}: write status=STATE, such as status=running"))),
        }
    }
    let mut list = match connect::engine_if_any(global).await? {
        Some(client) => containers(&client, &name, &command.services, command.all || !states.is_empty()).await?,
        None => Vec::new(),
    };
    list.retain(|c| states.is_empty() || states.contains(&c.state));
    if let Some(loaded) = loaded.as_ref().filter(|_| !command.orphans) {
        list.retain(|c| !is_orphan(loaded, c));
    }
    if command.quiet {
        list.iter().for_each(|c| println!("{}", c.id));
    } else if command.services_only {
        let mut names: Vec<&str> = list.iter().map(ContainerSummary::service).collect();
        names.dedup();
        names.iter().for_each(|n| println!("{n}"));
    } else {
        let rows: Vec<Value> = list.iter().map(|container| container.described(!command.no_trunc)).collect();
        if let RowFormat::Json = command.format {
            list.iter().zip(rows).for_each(|(container, row)| println!("{}", container.in_json(row)));
        } else {
            command.format.print(&COLUMNS, &rows)?;
        }
    }
    Ok(())
}

const COLUMNS: [Column; 7] = [
    ("Name", "NAME"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("Service", "SERVICE"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
];

/// A row as JSON, its keys in order.
fn in_order(row: Value) -> Value {
    let Value::Object(fields) = without_methods(row) else { return Value::Null };
    let mut fields: Vec<(String, Value)> = fields.into_iter().collect();
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    Value::Object(fields.into_iter().collect())
}

/// The fields of a row in `docker container ls`.
pub fn of_docker(mut row: Value) -> Value {
    for key in ["Name", "Service", "Project", "Health", "ExitCode"] {
        row.as_object_mut().and_then(|row| row.shift_remove(key));
    }
    in_order(row)
}

/// A time as Go prints it, in this machine's zone: `2026-01-02 15:04:05 +0000 UTC`.
pub fn go_time(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).map(|time| time.to_zoned(jiff::tz::TimeZone::system()));
    time.map(|time| time.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()).unwrap_or_default()
}

/// A text in double quotes, as Go writes one.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A text of at most so many characters.
pub fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() > most { text.chars().take(most - 1).chain(['…']).collect() } else { text.to_string() }
}

#[derive(clap::Args, Debug)]
pub struct PortCommand {
    /// tcp or udp.
    #[arg(long, default_value = "tcp")]
    protocol: String,
    /// Which container of a service, where it has several.
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    service: String,
    private_port: u16,
}

/// `wharf port`: where a port of a service is published.
pub async fn port(global: &Global, command: PortCommand) -> Outcome {
    let (name, loaded) = project::name(global)?;
    check_services(loaded.as_ref(), std::slice::from_ref(&command.service))?;
    let client = connect::engine(global).await?;
    let container = one(&client, &name, &command.service, command.index).await?;
    let matching = container
        .ports
        .iter()
        .find(|p| p.public_port != 0 && p.private_port == command.private_port && p.protocol == command.protocol);
    match matching {
        Some(port) => println!("{}:{}", port.ip, port.public_port),
        None => {
            let (port, protocol) = (command.private_port, &command.protocol);
            let mut known: Vec<String> = container.ports.iter().map(|p| format!("{}/{}", p.private_port, p.protocol)).collect();
            known.dedup();
            let (name, known) = (container.name(), known.join(", "));
            return Err(Failure::Message(format!("no port {port}/{protocol} for container {name}: {known}")));
        }
    }
    Ok(())
}

#[derive(clap::Args, Debug)]
pub struct VolumesArgs {
    /// Services whose volumes to list; all by default.
    services: Vec<String>,
    /// Names alone.
    #[arg(short, long)]
    quiet: bool,
    /// table, json, or a template such as '{{.Name}}'.
    #[arg(long, default_value = "table")]
    format: RowFormat,
}

/// `wharf volumes`: the project's.
pub async fn volumes(global: &Global, command: VolumesArgs) -> Outcome {
    let (name, loaded) = project::name(global)?;
    check_services(loaded.as_ref(), &command.services)?;
    let Some(client) = connect::engine_if_any(global).await? else { return Ok(()) };
    let mut filters: BTreeMap<&str, Vec<String>> = BTreeMap::from([("label", vec![format!("{LABEL_PROJECT}={name}")])]);
    if !command.services.is_empty() {
        let mut used = Vec::new();
        for container in containers(&client, &name, &command.services, true).await? {
            used.extend(container.mounts.into_iter().map(|mount| mount.name).filter(|name| !name.is_empty()));
        }
        filters.insert("name", used);
    }
    crate::cli::objects::network::show_volumes(
        &client,
        &escape(&serde_json::to_string(&filters).unwrap_or_default()),
        command.quiet,
        &command.format,
    )
    .await
}

pub async fn ls(global: &Global, command: Ls) -> Outcome {
    let mut list: Vec<ProjectSummary> = match connect::engine_if_any(global).await? {
        Some(client) => client.get("/projects").await?,
        None => Vec::new(),
    };
    for filter in &command.filter {
        match filter.split_once('=') {
            // As Docker Compose has it: the name, or a part of it.
            Some(("name", name)) => list.retain(|project| project.name.contains(name)),
            _ => return Err(Failure::Message(format!("--filter {filter}: write name=NAME"))),
        }
    }
    list.retain(|p| command.all || p.status.contains("running") || p.status.contains("restarting"));
    if command.quiet {
        list.iter().for_each(|p| println!("{}", p.name));
    } else if command.format == "json" {
        println!("{}", serde_json::to_string(&list).unwrap_or_default());
    } else {
        let rows = list.into_iter().map(|p| vec![p.name, p.status, p.config_files]).collect();
        println!("{}", table(&["NAME", "STATUS", "CONFIG FILES"], rows));
    }
    Ok(())
}
