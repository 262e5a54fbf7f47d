//! `wharf container`: single containers, by name or id, as `docker container` has them. [`new`] is what one is made with,
//! [`limits`] a part of it.

mod limits;
mod new;
mod values;

use super::network;
use super::network::{confirmed, delete_each, inspect};
use crate::api::client::{Client, ClientError};
use crate::api::reply::escape;
use crate::api::types::{ContainerInspect, ContainerSummary, ContainersPruned, FileChange, HostConfig, signed};
use crate::cli::output::bytes;
use crate::cli::output::format::{Column, Listing, RowFormat};
use crate::cli::project::{attach, cp, exec, export, logs, ps, usage};
use crate::cli::{Failure, Global, Outcome, connect};
use futures::future::try_join_all;
use serde_json::Value;
use std::path::PathBuf;

#[derive(clap::Subcommand, Debug)]
#[command(defer = true)]
pub enum ContainerCommand {
    /// Join the terminal to a running container.
    Attach {
        #[command(flatten)]
        how: attach::AttachOptions,
        container: String,
    },
    /// Make an image of a container.
    Commit {
        #[command(flatten)]
        how: export::CommitOptions,
        container: String,
        #[arg(default_value = "", hide_default_value = true)]
        reference: String,
    },
    /// Copy files between a container (NAME:PATH) and this machine.
    Cp {
        #[command(flatten)]
        how: cp::CopyOptions,
        /// Docker's, for its progress: none is shown here.
        #[arg(short, long)]
        quiet: bool,
        /// NAME:PATH, or a path of this machine; `-` is a tar archive on standard input.
        source: String,
        /// NAME:PATH, or a path of this machine; `-` is a tar archive on standard output.
        destination: String,
    },
    /// Create a container without starting it.
    Create(Box<new::ContainerCreateArgs>),
    /// Show which files a container has added (A), changed (C) and deleted (D).
    Diff { container: String },
    /// Run a command in a running container.
    Exec(Box<ContainerExecArgs>),
    /// Write a container's files as a tar archive.
    Export {
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        container: String,
    },
    /// Print what is known of containers, in JSON.
    Inspect {
        /// A template, such as '{{.State.Status}}'; json is on one line.
        #[arg(short, long, value_name = "TEMPLATE")]
        format: Option<String>,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Send a signal to containers.
    Kill {
        #[arg(short, long, default_value = "SIGKILL")]
        signal: String,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Show the output of a container.
    Logs {
        #[command(flatten)]
        how: logs::LogOptions,
        container: String,
    },
    /// List containers.
    #[command(alias = "list", alias = "ps")]
    Ls {
        /// Those that do not run as well.
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        listing: Listing,
        /// The newest ones, whatever their state.
        #[arg(short = 'n', long, value_name = "NUMBER")]
        last: Option<usize>,
        /// The newest one, whatever its state.
        #[arg(short, long)]
        latest: bool,
        /// Those that fulfil a condition: id=, name=, label=, network=, volume=, ancestor=, exited= or status=; may be repeated.
        #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
        filter: Vec<(String, String)>,
    },
    /// Freeze containers.
    Pause {
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Show the published ports of a container.
    Port { container: String },
    /// Remove containers that do not run.
    Prune {
        /// Do not ask.
        #[arg(short, long)]
        force: bool,
        /// Those with a label alone, label=NAME[=VALUE]; may be repeated.
        #[arg(long, value_name = "KEY=VALUE", value_parser = crate::cli::objects::network::label_filter)]
        filter: Vec<(String, String)>,
    },
    /// Give a container another name.
    Rename { container: String, name: String },
    /// Stop and start containers.
    Restart {
        #[command(flatten)]
        how: StopOptions,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Remove containers.
    #[command(alias = "remove")]
    Rm {
        /// Running ones as well.
        #[arg(short, long)]
        force: bool,
        /// Their anonymous volumes as well.
        #[arg(short, long)]
        volumes: bool,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Create a container and start it.
    Run(Box<new::ContainerRunArgs>),
    /// Start containers that exist.
    Start {
        /// Show its output, and pass signals on: of one container.
        #[arg(short, long)]
        attach: bool,
        /// Give it this standard input, too.
        #[arg(short, long)]
        interactive: bool,
        #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
        detach_keys: String,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Show what containers use.
    Stats {
        #[command(flatten)]
        how: usage::StatsOptions,
        /// By default all that run.
        containers: Vec<String>,
    },
    /// Stop containers.
    Stop {
        #[command(flatten)]
        how: StopOptions,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Show the processes of a container.
    Top { container: String },
    /// Thaw containers.
    Unpause {
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Change the limits or the restart policy of containers.
    Update(UpdateLimits),
    /// Wait until containers have ended, and print their exit codes.
    Wait {
        #[arg(required = true)]
        containers: Vec<String>,
    },
}

#[derive(clap::Args, Debug)]
pub struct ContainerExecArgs {
    #[arg(short, long)]
    detach: bool,
    #[arg(short, long)]
    env: Vec<String>,
    /// File with variables; may be repeated.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    #[arg(short, long)]
    interactive: bool,
    #[arg(short, long)]
    tty: bool,
    #[arg(long)]
    privileged: bool,
    #[arg(short, long)]
    user: Option<String>,
    #[arg(short, long)]
    workdir: Option<String>,
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    detach_keys: String,
    /// The container, and the command with its arguments: options after the container are the command's.
    #[arg(trailing_var_arg = true, required = true, value_name = "CONTAINER COMMAND")]
    words: Vec<String>,
}

/// Does something to several containers at once, and prints the names of those it was done to.
async fn each(client: &Client, containers: &[String], action: &str) -> Outcome {
    let asked = containers.iter().map(|name| async move {
        client.post::<Value>(&format!("/containers/{}/{action}", escape(name)), &Value::Null).await?;
        println!("{name}");
        Ok::<_, ClientError>(())
    });
    try_join_all(asked).await?;
    Ok(())
}

/// A condition of `--filter`.
fn filter(text: &str) -> Result<(String, String), String> {
    network::condition(text, &["id", "name", "label", "network", "volume", "ancestor", "exited", "status"])
}

async fn listed(client: &Client, all: bool, filters: &[(String, String)]) -> Result<Vec<ContainerSummary>, Failure> {
    let filters = network::filters(filters);
    Ok(client.get(&format!("/containers/json?all={}&filters={filters}", u8::from(all))).await?)
}

/// How containers are stopped.
#[derive(clap::Args, Debug)]
pub struct StopOptions {
    /// Between the signal and SIGKILL; -1 is without end.
    #[arg(short, long, alias = "timeout", value_name = "SECONDS", allow_hyphen_values = true)]
    time: Option<i64>,
    /// Another signal than the container's own.
    #[arg(short, long)]
    signal: Option<String>,
}

impl StopOptions {
    fn action(&self, action: &str) -> String {
        let time = self.time.map(|seconds| format!("t={seconds}"));
        let signal = self.signal.as_ref().map(|signal| format!("signal={}", escape(signal)));
        let query: Vec<String> = time.into_iter().chain(signal).collect();
        format!("{action}?{}", query.join("&"))
    }
}

/// Limits of a container that change.
#[derive(clap::Args, Debug)]
pub struct UpdateLimits {
    /// Bytes of memory, such as 512m.
    #[arg(short, long)]
    memory: Option<String>,
    /// Bytes of memory and swap together.
    #[arg(long)]
    memory_swap: Option<String>,
    /// Number of processors, such as 1.5.
    #[arg(long)]
    cpus: Option<f64>,
    #[arg(short, long)]
    cpu_shares: Option<u64>,
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Memory nodes, such as 0-1.
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Microseconds.
    #[arg(long)]
    cpu_period: Option<u64>,
    /// Microseconds.
    #[arg(long)]
    cpu_quota: Option<i64>,
    /// Bytes of memory that it keeps when others need it.
    #[arg(long)]
    memory_reservation: Option<String>,
    /// 10 to 1000.
    #[arg(long)]
    blkio_weight: Option<u16>,
    #[arg(long)]
    pids_limit: Option<i64>,
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    #[arg(required = true)]
    containers: Vec<String>,
}

const COLUMNS: [Column; 7] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
];

/// `container diff`: what has changed in a container's files.
async fn diff(client: &Client, container: &str) -> Outcome {
    let changes: Vec<FileChange> = client.get(&path_of(container, "changes")).await?;
    for change in changes {
        let kind = ["C", "A", "D"].get(usize::from(change.kind)).copied().unwrap_or("C");
        println!("{kind} {}", change.path);
    }
    Ok(())
}

/// `container exec`.
async fn exec_in(client: &Client, mut command: Box<ContainerExecArgs>) -> Outcome {
    let words = command.words.split_off(1);
    if words.is_empty() {
        return Err(Failure::Message("`container exec` needs a container and a command: `wharf container exec NAME sh`".into()));
    }
    let request = exec::ExecRequest {
        command: words,
        env: values::variables(&command.env_file, &command.env)?,
        user: command.user,
        workdir: command.workdir,
        privileged: command.privileged,
        tty: command.tty,
        stdin: command.interactive,
    };
    exec::in_container(client, &escape(&command.words[0]), request, command.detach, &command.detach_keys).await
}

/// `container ls`.
async fn list(client: &Client, all: bool, listing: &Listing, newest: Option<usize>, filter: &[(String, String)]) -> Outcome {
    let Listing { quiet, no_trunc, format } = listing;
    let mut list = listed(client, all || newest.is_some(), filter).await?;
    if let Some(newest) = newest {
        list.sort_by_key(|container| std::cmp::Reverse(container.created));
        list.truncate(newest);
    }
    let id = |c: &ContainerSummary| if *no_trunc { c.id.clone() } else { c.id[..12].to_string() };
    if *quiet {
        list.iter().for_each(|c| println!("{}", id(c)));
        return Ok(());
    }
    let rows = list.iter().map(|container| container.described(!no_trunc));
    let rows: Vec<Value> = match format {
        RowFormat::Json => rows.map(ps::of_docker).collect(),
        _ => rows.collect(),
    };
    format.print(&COLUMNS, &rows)
}

/// `container port`: where its ports are published.
async fn ports(client: &Client, container: &str) -> Outcome {
    let found: ContainerInspect = client.get(&path_of(container, "json")).await?;
    for (port, bindings) in found.network_settings.ports {
        for binding in bindings.into_iter().flatten() {
            println!("{port} -> {}:{}", binding.host_ip, binding.host_port);
        }
    }
    Ok(())
}

/// `container prune`.
async fn prune(client: &Client, force: bool, filter: &[(String, String)]) -> Outcome {
    if confirmed("This removes all containers that do not run.", force).await? {
        let path = format!("/containers/prune?filters={}", network::filters(filter));
        let pruned: ContainersPruned = client.post(&path, &()).await?;
        pruned.containers_deleted.into_iter().flatten().for_each(|id| println!("{id}"));
        println!("Total reclaimed space: {}", bytes(pruned.space_reclaimed));
    }
    Ok(())
}

/// `container start --attach`.
async fn start_attached(client: &Client, interactive: bool, detach_keys: String, containers: &[String]) -> Outcome {
    let [one] = containers else {
        return Err(Failure::Message("only one container can be attached to at once".into()));
    };
    let known: ContainerInspect = client.get(&path_of(one, "json")).await?;
    let which = attach::Which::output(interactive);
    let stay = attach::Stay { keep: true, which, detach_keys, ..attach::Stay::default() };
    attach::start_and_stay(client, &known.id, stay).await
}

fn path_of(container: &str, what: &str) -> String {
    format!("/containers/{}/{what}", escape(container))
}

/// `container update`.
async fn update(client: &Client, change: UpdateLimits) -> Outcome {
    let bytes = |text: &Option<String>| Ok::<_, Failure>(limits::size(text.as_ref())?.unwrap_or(0));
    let body = HostConfig {
        memory: bytes(&change.memory)?,
        memory_swap: bytes(&change.memory_swap)?,
        memory_reservation: bytes(&change.memory_reservation)?,
        cpu_period: signed(change.cpu_period),
        cpu_quota: change.cpu_quota.unwrap_or(0),
        blkio_weight: change.blkio_weight.unwrap_or(0),
        nano_cpus: change.cpus.map_or(0, |cpus| (cpus * 1e9) as i64),
        cpu_shares: signed(change.cpu_shares),
        cpuset_cpus: change.cpuset_cpus.unwrap_or_default(),
        cpuset_mems: change.cpuset_mems.unwrap_or_default(),
        pids_limit: change.pids_limit,
        restart_policy: change.restart.as_deref().map(values::restart_policy).transpose()?.unwrap_or_default(),
        ..HostConfig::default()
    };
    for name in &change.containers {
        client.post::<Value>(&path_of(name, "update"), &body).await?;
        println!("{name}");
    }
    Ok(())
}

pub async fn container(global: &Global, command: ContainerCommand) -> Outcome {
    // As with Docker: what keeps a container from being made or started, the engine included.
    const NOT_RUN: u8 = 125;
    let runs = matches!(command, ContainerCommand::Run(_));
    let outcome = one(global, command).await;
    if runs { outcome.map_err(|failure| failure.or_code(NOT_RUN)) } else { outcome }
}

async fn one(global: &Global, command: ContainerCommand) -> Outcome {
    let client = connect::engine(global).await?;
    let of = path_of;
    match command {
        ContainerCommand::Attach { how, container } => attach::to_container(&client, &escape(&container), &how).await?,
        ContainerCommand::Commit { how, container, reference } => {
            export::commit_container(&client, &escape(&container), &reference, &how).await?;
        }
        ContainerCommand::Cp { how, quiet: _, source, destination } => {
            let place = cp::in_container(&source).or(cp::in_container(&destination));
            let (name, _) =
                place.ok_or_else(|| Failure::Message("one of the two must be in a container: write NAME:PATH".into()))?;
            cp::copy(&client, &escape(name), &source, &destination, how).await?;
        }
        ContainerCommand::Create(command) => println!("{}", new::create(&client, &command).await?),
        ContainerCommand::Diff { container } => diff(&client, &container).await?,
        ContainerCommand::Exec(command) => exec_in(&client, command).await?,
        ContainerCommand::Export { output, container } => {
            export::export_container(&client, &escape(&container), output.as_deref()).await?
        }
        ContainerCommand::Inspect { format, containers } => {
            inspect(&client, format.as_deref(), containers.iter().map(|name| of(name, "json"))).await?;
        }
        ContainerCommand::Kill { signal, containers } => {
            each(&client, &containers, &format!("kill?signal={}", escape(&signal))).await?;
        }
        ContainerCommand::Logs { how, container } => logs::of_container(&client, &container, &how).await?,
        ContainerCommand::Ls { all, listing, last, latest, filter } => {
            let newest = if latest { Some(1) } else { last };
            list(&client, all, &listing, newest, &filter).await?;
        }
        ContainerCommand::Pause { containers } => each(&client, &containers, "pause").await?,
        ContainerCommand::Port { container } => ports(&client, &container).await?,
        ContainerCommand::Prune { force, filter } => prune(&client, force, &filter).await?,
        ContainerCommand::Rename { container, name } => {
            client.post::<Value>(&of(&container, &format!("rename?name={}", escape(&name))), &Value::Null).await?;
        }
        ContainerCommand::Restart { how, containers } => each(&client, &containers, &how.action("restart")).await?,
        ContainerCommand::Rm { force, volumes, containers } => {
            let query = format!("?force={}&v={}", u8::from(force), u8::from(volumes));
            delete_each(&client, &containers, |name| format!("/containers/{}{query}", escape(name))).await?;
        }
        ContainerCommand::Run(command) => new::run(&client, *command).await?,
        ContainerCommand::Start { attach, interactive, detach_keys, containers } if attach || interactive => {
            start_attached(&client, interactive, detach_keys, &containers).await?;
        }
        ContainerCommand::Start { containers, .. } => each(&client, &containers, "start").await?,
        ContainerCommand::Stats { how, containers } => {
            let list = || async {
                let mut list = listed(&client, how.all || !containers.is_empty(), &[]).await?;
                list.retain(|c| containers.is_empty() || containers.iter().any(|n| n == c.name() || c.id.starts_with(n)));
                Ok(list)
            };
            usage::show(&client, &how, list).await?;
        }
        ContainerCommand::Stop { how, containers } => each(&client, &containers, &how.action("stop")).await?,
        ContainerCommand::Top { container } => println!("{}", usage::processes(&client, &escape(&container)).await?),
        ContainerCommand::Unpause { containers } => each(&client, &containers, "unpause").await?,
        ContainerCommand::Update(change) => update(&client, change).await?,
        ContainerCommand::Wait { containers } => {
            for name in &containers {
                println!("{}", attach::exit_code(&client, &escape(name)).await?);
            }
        }
    }
    Ok(())
}
