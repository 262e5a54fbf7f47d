//! The command line: arguments, the project, requests to the engine, output.
//!
//! A file a command: [`project`] has those of a project and loads the Compose files, [`objects`] those of containers, images,
//! networks and volumes by name, [`jobs`] jobs; [`connect`] finds or starts the engine, [`output`] draws.

#[macro_use]
mod output;

mod arguments;
mod connect;
mod failure;
mod jobs;
mod kubernetes;
mod last_bytes;
mod machine;
mod objects;
mod output_file;
mod project;
mod proxies;
mod remote;
mod signals;

pub use failure::{Failure, Outcome};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use failure::finish;
use objects::{container, engine, images, login, network, system};
use project::{
    attach, build, config, cp, down, events, exec, export, graph, history, lifecycle, logs, ps, publish, push, run, up, updates,
    usage, watch,
};
use signals::or_cancelled;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs Docker Compose stacks on Linux with a container runtime of its own.
#[derive(Parser, Debug)]
#[command(
    name = "wharf",
    version,
    disable_version_flag = true,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    command: Command,
}

/// The heading of the options that every command has.
const GLOBAL: &str = "Options of every command";
const DATA_ROOT: &str = "/var/lib/wharf";

#[derive(Args, Debug, Clone)]
pub struct Global {
    /// Compose file; may be repeated, later ones are merged on top. `-` is standard input.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub files: Vec<String>,
    /// Name of the project.
    #[arg(short = 'p', long, value_name = "NAME")]
    pub project_name: Option<String>,
    /// Directory that relative paths are relative to; by default that of the first Compose file.
    #[arg(long, value_name = "DIR")]
    pub project_directory: Option<PathBuf>,
    /// File with variables for interpolation, instead of .env; may be repeated.
    #[arg(long = "env-file", value_name = "FILE")]
    pub env_files: Vec<PathBuf>,
    /// Profile to activate; may be repeated, `*` is all.
    #[arg(long = "profile", value_name = "NAME")]
    pub profiles: Vec<String>,
    /// Another machine, whose engine the command is for: ssh://[USER@]HOST[:PORT]. `wharf context` gives machines names. Of
    /// `wharf engine`: where it listens besides, tcp://ADDRESS:PORT; may be repeated.
    #[arg(short = 'H', long = "host", global = true, help_heading = GLOBAL, value_name = "ADDRESS")]
    pub hosts: Vec<String>,
    /// The context whose machine the command is for.
    #[arg(long, value_name = "NAME", conflicts_with = "hosts")]
    pub context: Option<String>,
    #[arg(skip)]
    pub machine: machine::Machine,
    /// Where images, volumes and containers are kept.
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        env = "WHARF_DATA_ROOT",
        default_value = DATA_ROOT,
        value_name = "DIR",
        hide_env_values = true
    )]
    pub data_root: PathBuf,
    /// Where the engine's socket is.
    #[arg(long, global = true, help_heading = GLOBAL, env = "WHARF_RUN_ROOT", default_value = "/run/wharf", value_name = "DIR", hide_env_values = true)]
    pub run_root: PathBuf,
    /// Colours, and progress in place: never, always, auto (on a terminal).
    #[arg(long, global = true, help_heading = GLOBAL, default_value = "auto", value_name = "WHEN", env = "COMPOSE_ANSI", hide_env_values = true)]
    pub ansi: output::Ansi,
    /// How the progress of commands is shown: auto, tty (in place), plain (a line for each step), quiet.
    #[arg(long = "progress", default_value = "auto", value_name = "TYPE", env = "COMPOSE_PROGRESS", hide_env_values = true)]
    pub progress: output::ProgressType,
    /// Say what would be done, and do nothing.
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub dry_run: bool,
    /// Docker Compose's; the engine knows how much to do at once.
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub parallel: Option<i64>,
    /// Names as Docker Compose's version 1 made them, with `_`.
    #[arg(long)]
    pub compatibility: bool,
    /// Keep networks, volumes, configs and secrets that no service uses.
    #[arg(long)]
    pub all_resources: bool,
    /// Print the version.
    #[arg(short = 'v', short_alias = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Docker Compose's older name of `--project-directory`.
    #[arg(long, hide = true, value_name = "DIR", conflicts_with = "project_directory")]
    pub workdir: Option<PathBuf>,
    /// Docker Compose's older name of `--ansi never`.
    #[arg(long, hide = true)]
    pub no_ansi: bool,
    /// Docker Compose's, for its own tracing.
    #[arg(long, hide = true)]
    pub verbose: bool,
    /// Docker Compose's, for its tests.
    #[arg(long, hide = true, value_name = "REGISTRY")]
    pub insecure_registry: Vec<String>,
}

#[derive(Subcommand, Debug)]
#[command(defer = true)]
enum Command {
    /// Create and start the project's containers.
    Up(up::Up),
    /// Show what `up` would do, and why; nothing is changed.
    Plan(up::PlanCommand),
    /// Stop and remove containers and networks.
    Down(down::Down),
    /// Show the revisions of services.
    History(history::History),
    /// Bring a service back to an earlier revision.
    Rollback(history::Rollback),
    /// Show the results of `x-update`.
    Updates(updates::Updates),
    /// List containers.
    Ps(ps::Ps),
    /// Show the output of containers.
    Logs(logs::Logs),
    /// Run a command in a running container.
    Exec(exec::ExecArgs),
    /// Run a command in a container of its own.
    Run(Box<run::RunArgs>),
    /// Join the terminal to a running container.
    Attach(attach::AttachArgs),
    /// Copy files between containers and this machine.
    Cp(cp::Cp),
    /// Have changed files take effect in running services.
    Watch(watch::WatchArgs),
    /// Start containers that exist.
    Start(lifecycle::Start),
    /// Stop containers without removing them.
    Stop(lifecycle::Stop),
    /// Stop and start containers.
    Restart(lifecycle::Restart),
    /// Send a signal to containers; SIGKILL by default.
    Kill(lifecycle::Kill),
    /// Freeze containers.
    Pause(lifecycle::Services),
    /// Thaw containers.
    Unpause(lifecycle::Services),
    /// Wait until containers have ended.
    Wait(lifecycle::Wait),
    /// Remove stopped containers.
    Rm(lifecycle::Rm),
    /// Create containers without starting them.
    Create(up::CreateArgs),
    /// Set the number of containers of services.
    Scale(up::Scale),
    /// Show the processes of containers.
    Top(usage::Top),
    /// Show what containers use.
    Stats(usage::Stats),
    /// Show what happens to containers.
    Events(events::EventsArgs),
    /// Show where a port is published.
    Port(ps::PortCommand),
    /// List the project's volumes.
    Volumes(ps::VolumesArgs),
    /// Make an image of a container.
    Commit(export::CommitArgs),
    /// Write a container's files as a tar archive.
    Export(export::ExportArgs),
    /// Build the images of services.
    Build(build::BuildCommand),
    /// Push the images of services that are built.
    Push(push::Push),
    /// Publish the project as an OCI artifact, which `-f oci://NAME` reads.
    Publish(publish::Publish),
    /// Pull the images of services.
    Pull(images::Pull),
    /// List the images of the project's containers.
    Images(images::ImagesArgs),
    /// Check the Compose files and print the canonical project.
    #[command(alias = "convert")]
    Config(config::ConfigArgs),
    /// Draw which service waits for which.
    Graph(graph::Graph),
    /// Draw the project as Docker Compose's `alpha viz` does.
    #[command(hide = true)]
    Viz(graph::VizArgs),
    /// Log in to a registry.
    Login(login::LoginArgs),
    /// Forget the login to a registry.
    Logout(login::Logout),
    /// List projects.
    Ls(ps::Ls),
    /// Build, import, load, list, tag, push and remove images.
    #[command(subcommand)]
    Image(images::ImageCommand),
    /// Jobs and their runs.
    #[command(subcommand)]
    Job(jobs::JobCommand),
    /// The project on Kubernetes.
    #[command(subcommand)]
    Kubernetes(kubernetes::Kubernetes),
    /// The project for other platforms, by Docker's name.
    #[command(subcommand)]
    Bridge(kubernetes::Bridge),
    /// Single containers, whatever project they are of.
    #[command(subcommand)]
    Container(Box<container::ContainerCommand>),
    /// Networks.
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Volumes.
    #[command(subcommand)]
    Volume(network::VolumeCommand),
    /// The engine and the host.
    #[command(subcommand)]
    System(system::System),
    /// Names for other machines, and which one commands are for.
    #[command(subcommand)]
    Context(machine::command::ContextCommand),
    /// Put this program on another machine: `wharf -H ssh://USER@HOST install`.
    Install(machine::install::Install),
    /// Print the version.
    Version(system::VersionArgs),
    /// Run the engine in the foreground (it is started by itself when needed), or stop it.
    Engine(engine::EngineCommand),
}

static SEPARATOR: std::sync::OnceLock<&str> = std::sync::OnceLock::new();

/// The separator between a project's name, a service's and a number: `_` with `--compatibility`, as Docker Compose's version 1 had it.
pub fn separator() -> &'static str {
    SEPARATOR.get().copied().unwrap_or("-")
}

/// Names have `_` from now on.
pub fn use_compatible_names() {
    let _ = SEPARATOR.set("_");
}

/// Every command with its options, for tests and documentation.
pub fn command() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// The command line's `main`.
pub fn main() -> ExitCode {
    // Building clap's tree of commands takes more than 1 MiB of stack without optimisation, and `ulimit -s` may allow less.
    const ROOM: u64 = 4 << 20;
    let stack = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_STACK);
    if stack.is_ok_and(|(soft, _)| soft < ROOM) {
        let thread = std::thread::Builder::new().stack_size(ROOM as usize).spawn(main_with_room);
        return thread.map_or(ExitCode::FAILURE, |thread| thread.join().unwrap_or(ExitCode::FAILURE));
    }
    main_with_room()
}

/// The word by which the docker command asks its plugins about themselves. As `docker-compose` among them, wharf is `docker compose`.
const PLUGIN_METADATA: &str = "docker-cli-plugin-metadata";

fn plugin_metadata() -> serde_json::Value {
    serde_json::json!({
        "SchemaVersion": "0.1.0",
        "Vendor": "wharf",
        "Version": env!("CARGO_PKG_VERSION"),
        "ShortDescription": "Compose stacks with wharf",
    })
}

fn main_with_room() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == PLUGIN_METADATA) {
        println!("{}", plugin_metadata());
        return ExitCode::SUCCESS;
    }
    let mut command = Cli::command();
    let given = arguments::rewritten(Cli::command, std::env::args_os().collect());
    let words = given.clone();
    let parsed = command.try_get_matches_from_mut(given).and_then(|matches| Cli::from_arg_matches(&matches));
    let mut cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(error, &mut command, &words),
    };
    if asks_an_engine(&cli.command) {
        match machine::Machine::of(&cli.global) {
            Ok(machine) => cli.global.machine = machine,
            Err(failure) => return finish(Err(failure)),
        }
    }
    if let Command::Engine(command) = &cli.command {
        return finish(engine::run(&cli.global, command));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    finish(match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(run(cli));
            // A question that nobody has answered is not waited for.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Failure::Message(format!("starting: {error}"))),
    })
}

/// Prints help, the version, or what is wrong with a command line. The exit code of the latter is Docker Compose's, and the
/// docker command's for commands about single objects.
fn usage(mut error: clap::Error, command: &mut clap::Command, words: &[std::ffi::OsString]) -> ExitCode {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    if error.kind() != ErrorKind::InvalidSubcommand && error.get(ContextKind::Usage).is_some() {
        // The command's own; clap's would have the options that were given, and those that have a default as if they were required.
        let named = words.iter().skip(1).fold(&*command, |outer, word| outer.find_subcommand(word).unwrap_or(outer));
        error.insert(ContextKind::Usage, ContextValue::StyledStr(named.clone().render_usage()));
    }
    let error = error.format(command);
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let word = words.iter().skip(1).find_map(|word| command.find_subcommand(word));
    let of_docker = word.is_some_and(|word| matches!(word.get_name(), "container" | "image" | "network" | "volume" | "system"));
    ExitCode::from(if of_docker { 125 } else { 1 })
}

/// Whether a command is for the engine of the chosen machine. An engine itself is where it is.
fn asks_an_engine(command: &Command) -> bool {
    match command {
        Command::Engine(command) => command.asks(),
        Command::Kubernetes(command) => command.asks(),
        Command::Context(_)
        | Command::Version(_)
        | Command::Config(_)
        | Command::Graph(_)
        | Command::Bridge(_)
        | Command::Logout(_) => false,
        _ => true,
    }
}

/// The name of a command without `--dry-run`; empty for the others.
fn unforeseeable(command: &Command) -> &'static str {
    match command {
        Command::Exec(_) => "exec",
        Command::Run(_) => "run",
        Command::Attach(_) => "attach",
        Command::Cp(_) => "cp",
        Command::Watch(_) => "watch",
        Command::Commit(_) => "commit",
        Command::Job(_) => "job",
        Command::Container(_) => "container",
        Command::Image(_) => "image",
        Command::Network(_) => "network",
        Command::Volume(_) => "volume",
        Command::System(_) => "system",
        _ => "",
    }
}

async fn run(cli: Cli) -> Outcome {
    let global = &cli.global;
    output::set_style(if global.no_ansi { output::Ansi::Never } else { global.ansi }, global.progress);
    proxies::set_engine(match global.machine.other() {
        Some(other) => other.destination().to_string(),
        None => format!("unix://{}", crate::engine::process::lifecycle::socket_path(&global.run_root).display()),
    });
    if global.verbose {
        eprintln!("warning: --verbose has no effect: `wharf engine` in the foreground with RUST_LOG=debug tells more");
    }
    if !global.insecure_registry.is_empty() {
        eprintln!(
            "warning: --insecure-registry has no effect: the engine's settings say which registries are reached without TLS"
        );
    }
    if global.compatibility || up::is_set("COMPOSE_COMPATIBILITY", None) {
        use_compatible_names();
    }
    let unforeseeable = unforeseeable(&cli.command);
    if global.dry_run && !unforeseeable.is_empty() {
        return Err(Failure::Message(format!("`{unforeseeable}` has no plan to show: leave --dry-run out")));
    }
    match cli.command {
        Command::Up(command) => up::run(global, command).await,
        Command::Plan(command) => up::plan(global, command).await,
        Command::History(command) => history::run(global, command).await,
        Command::Rollback(command) => history::rollback(global, command).await,
        Command::Updates(command) => updates::run(global, command).await,
        Command::Down(command) => down::run(global, command).await,
        Command::Ps(command) => ps::run(global, command).await,
        Command::Logs(command) => logs::run(global, command).await,
        Command::Exec(command) => exec::run(global, command).await,
        Command::Start(command) => lifecycle::start(global, command).await,
        Command::Stop(command) => lifecycle::stop(global, command).await,
        Command::Restart(command) => lifecycle::restart(global, command).await,
        Command::Kill(command) => lifecycle::kill(global, command).await,
        Command::Rm(command) => lifecycle::rm(global, command).await,
        Command::Pull(command) => or_cancelled(images::pull(global, command)).await,
        Command::Images(command) => images::list(global, command).await,
        Command::Config(command) => config::run(global, command).await,
        Command::Build(command) => or_cancelled(build::run(global, command)).await,
        Command::Publish(command) => publish::run(global, command).await,
        Command::Push(command) => or_cancelled(push::run(global, command)).await,
        Command::Login(command) => login::login(global, command).await,
        Command::Logout(command) => login::logout(global, command).await,
        Command::Viz(command) => graph::viz(global, command).await,
        Command::Graph(command) => graph::run(global, command).await,
        Command::Ls(command) => ps::ls(global, command).await,
        // A write to a pipe that nobody reads: the signal itself ends it.
        Command::Image(command @ images::ImageCommand::Save { .. }) => images::image(global, command).await,
        Command::Image(command) => or_cancelled(images::image(global, command)).await,
        Command::Run(command) => run::run(global, *command).await,
        Command::Attach(command) => attach::run(global, command).await,
        Command::Cp(command) => cp::run(global, command).await,
        Command::Watch(command) => watch::run(global, command).await,
        Command::Pause(command) => lifecycle::pause(global, command, true).await,
        Command::Unpause(command) => lifecycle::pause(global, command, false).await,
        Command::Wait(command) => lifecycle::wait(global, command).await,
        Command::Create(command) => up::create(global, command).await,
        Command::Scale(command) => up::scale_services(global, command).await,
        Command::Top(command) => usage::top(global, command).await,
        Command::Stats(command) => usage::stats(global, command).await,
        Command::Events(command) => events::run(global, command).await,
        Command::Port(command) => ps::port(global, command).await,
        Command::Volumes(command) => ps::volumes(global, command).await,
        Command::Commit(command) => export::commit(global, command).await,
        Command::Export(command) => export::export(global, command).await,
        Command::Job(command) => or_cancelled(jobs::job(global, command)).await,
        Command::Kubernetes(command) => kubernetes::kubernetes(global, command).await,
        Command::Bridge(command) => kubernetes::bridge(global, command),
        Command::Container(command) => container::container(global, *command).await,
        Command::Network(command) => network::network(global, command).await,
        Command::Volume(command) => network::volume(global, command).await,
        Command::System(command) => system::system(global, command).await,
        Command::Version(command) => {
            system::version(&command);
            Ok(())
        }
        Command::Context(command) => machine::command::run(global, command),
        Command::Install(command) => machine::install::run(global, command).await,
        Command::Engine(_) => Ok(()),
    }
}
