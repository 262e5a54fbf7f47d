//! `wharf run`: a container of its own for one command of a service.

use super::{attach, providers, ps, up};
use crate::cli::output::terminal;
use crate::cli::signals::{PassedSignals, or_cancelled};
use crate::cli::{Failure, Global, Outcome, connect, jobs, project, remote};
use crate::compose::model::{RestartPolicy, Service};
use crate::compose::{Loaded, dotenv, short, words};
use crate::wire::{Progress, RunRequest};
use indexmap::IndexMap;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct RunArgs {
    /// Build the image before.
    #[arg(long)]
    build: bool,
    /// Add a capability; may be repeated.
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Take a capability away; may be repeated.
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// Leave the container running in the background, and print its id.
    #[arg(short, long)]
    detach: bool,
    /// The program instead of the image's.
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Variable for the command; may be repeated.
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// File with variables for the command; may be repeated.
    #[arg(long, value_name = "FILE")]
    env_from_file: Vec<PathBuf>,
    /// Keep standard input open; `--interactive=false` does not.
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    interactive: bool,
    /// A terminal, where standard input and output are one; `--tty=false` is none.
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    tty: bool,
    /// Label of the container; may be repeated.
    #[arg(short, long, alias = "labels", value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// The container's name.
    #[arg(long)]
    name: Option<String>,
    /// No terminal; the default where standard input or output is none.
    #[arg(short = 'T', long = "no-TTY", alias = "no-tty")]
    no_tty: bool,
    /// Leave out what the service depends on.
    #[arg(long)]
    no_deps: bool,
    /// Publish a port, [HOST:]CONTAINER; may be repeated.
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// Pull the image before: always, missing, never.
    #[arg(long, value_name = "POLICY", value_parser = ["always", "missing", "never"])]
    pull: Option<String>,
    /// Print no progress.
    #[arg(short, long, alias = "quiet-pull")]
    quiet: bool,
    /// Print no output of builds.
    #[arg(long)]
    quiet_build: bool,
    /// Remove containers of services that the project does not have.
    #[arg(long)]
    remove_orphans: bool,
    /// Remove the container when it has ended.
    #[arg(long)]
    rm: bool,
    /// Publish the service's ports.
    #[arg(short = 'P', long)]
    service_ports: bool,
    /// Be found by the service's names on its networks.
    #[arg(long)]
    use_aliases: bool,
    /// User to run as.
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Mount a volume, SOURCE:TARGET[:ro]; may be repeated.
    #[arg(short, long, alias = "volumes", value_name = "VOLUME")]
    volume: Vec<String>,
    /// Working directory of the command.
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The service, and a command instead of its own: options after the service are the command's.
    #[arg(trailing_var_arg = true, required = true, value_name = "SERVICE [COMMAND]")]
    words: Vec<String>,
    #[arg(skip)]
    service: String,
    #[arg(skip)]
    command: Vec<String>,
}

pub async fn run(global: &Global, mut command: RunArgs) -> Outcome {
    let mut words = std::mem::take(&mut command.words);
    command.command = words.split_off(1);
    command.service = words.swap_remove(0);
    let mut loaded = project::load(global, std::slice::from_ref(&command.service))?;
    remote::confirmed(global, &loaded, false).await?;
    if loaded.project.jobs.contains_key(&command.service) {
        let options = job_options(&command)?;
        let client = connect::engine(global).await?;
        return jobs::run::run(global, &client, &loaded, &command.service, options).await;
    }
    ps::check_services(Some(&loaded), std::slice::from_ref(&command.service))?;
    let client = connect::engine(global).await?;
    let starting = up::selected(&loaded, std::slice::from_ref(&command.service), command.no_deps);
    let build = if command.build { std::slice::from_ref(&command.service) } else { &[] };
    let quiet = command.quiet_build || command.quiet;
    let pull = up::pull_policy(command.pull.as_deref())?;
    or_cancelled(up::build_what_is_missing(&client, &loaded, &starting, pull, build, quiet)).await?;
    providers::up(&mut loaded, &starting).await?;
    let how = up::UpOutput {
        no_deps: command.no_deps,
        remove_orphans: command.remove_orphans,
        pull: command.pull.clone(),
        ..up::UpOutput::default()
    };
    let mut request = up::request(global, &loaded, vec![command.service.clone()], how, false)?;
    request.options.services.clear();
    let tty = command.tty && !command.no_tty && !command.detach && terminal::is_terminal();
    let service = request
        .project
        .services
        .get_mut(&command.service)
        .ok_or_else(|| Failure::Message(format!("the service `{}` is not active", command.service)))?;
    change(service, &command, tty, &loaded)?;
    // Without random numbers the clock is unlike enough: a name that is taken is refused.
    let slug = crate::random::hex::<6>().unwrap_or_else(|_| format!("{:x}", jiff::Timestamp::now().as_nanosecond()));
    let own = [&loaded.project.name, &command.service, "run", &slug].join(crate::cli::separator());
    let name = command.name.clone().unwrap_or(own);
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_string(), value.to_string())
    };
    let stdin = command.interactive && !command.detach;
    let request = RunRequest {
        up: request,
        service: command.service.clone(),
        name,
        use_aliases: command.use_aliases,
        // Detached, nobody closes it.
        stdin: command.interactive || tty,
        labels: command.label.iter().map(pair).collect(),
        console_size: if tty { terminal::size() } else { None },
        auto_remove: command.rm && command.detach,
        client_removes: command.rm && !command.detach,
    };
    let mut id = None;
    let each = |progress: &Progress| {
        if let Progress::Created(created) = progress {
            id = Some(created.clone());
        }
    };
    // No moment in which a signal ends this command alone, and leaves the container.
    let signals = if command.detach { None } else { Some(PassedSignals::listen()?) };
    let made = up::follow_with(&client, &up::path(&loaded, "run"), &request, up::OnSignal::Cancel, command.quiet, each).await;
    if let Err(failure) = made {
        if let (Some(id), true) = (&id, command.rm) {
            let _ = client.delete(&format!("/containers/{id}?force=1&v=1")).await;
        }
        signals.into_iter().for_each(PassedSignals::dismiss);
        return Err(failure);
    }
    let id = id.ok_or_else(|| Failure::Message("the engine left before the container was made; run the command again".into()))?;
    attach::start_and_stay(
        &client,
        &id,
        attach::Stay {
            detach: command.detach,
            which: attach::Which::output(stdin),
            rm: command.rm,
            signals,
            ..attach::Stay::default()
        },
    )
    .await
    // A failed start is 1 as with Docker Compose, not the 126 or 127 of `container run`.
    .map_err(|failure| match failure {
        Failure::Code(_) => failure,
        why => Failure::WithCode { why: Box::new(why), code: 1 },
    })
}

/// How a job is run. What runs, and how, is in the file alone: that is what its record is about.
fn job_options(command: &RunArgs) -> Result<jobs::run::RunOptions, Failure> {
    let changes = [
        ("a command", !command.command.is_empty()),
        ("--cap-add", !command.cap_add.is_empty()),
        ("--cap-drop", !command.cap_drop.is_empty()),
        ("--entrypoint", command.entrypoint.is_some()),
        ("--env", !command.env.is_empty()),
        ("--env-from-file", !command.env_from_file.is_empty()),
        ("--label", !command.label.is_empty()),
        ("--name", command.name.is_some()),
        ("--publish", !command.publish.is_empty()),
        ("--use-aliases", command.use_aliases),
        ("--user", command.user.is_some()),
        ("--volume", !command.volume.is_empty()),
        ("--workdir", command.workdir.is_some()),
    ];
    if let Some((what, _)) = changes.iter().find(|(_, given)| *given) {
        let job = &command.service;
        return Err(Failure::Message(format!(
            "`{job}` is a job, and runs as the file has it: {what} cannot be given; make a service of it for a run of another kind"
        )));
    }
    Ok(jobs::run::RunOptions {
        detach: command.detach,
        quiet: command.quiet,
        build: command.build,
        quiet_build: command.quiet_build,
        no_deps: command.no_deps,
        pull: command.pull.clone(),
        remove_orphans: command.remove_orphans,
        stdin: command.interactive,
        rm: command.rm,
    })
}

/// The service as the command wants it, for one container.
fn change(service: &mut Service, command: &RunArgs, tty: bool, loaded: &Loaded) -> Outcome {
    service.container_name = None;
    service.restart = Some(RestartPolicy::No);
    service.deploy = service.deploy.take().map(|mut deploy| {
        deploy.restart_policy = None;
        deploy
    });
    service.scale = Some(1);
    service.tty = tty;
    if !command.command.is_empty() {
        service.command = Some(command.command.clone());
    }
    if let Some(entrypoint) = &command.entrypoint {
        let words = words::split(entrypoint)
            .map_err(|_| Failure::Message(format!("the entrypoint `{entrypoint}` has a quote that is not closed")))?;
        service.entrypoint = Some(words.words);
        if command.command.is_empty() {
            service.command = None;
        }
    }
    service.environment.extend(environment(command, loaded)?.into_iter().map(|(name, value)| (name, Some(value))));
    service.user = command.user.clone().or(service.user.take());
    service.working_dir = command.workdir.clone().or(service.working_dir.take());
    service.cap_add.extend(command.cap_add.iter().cloned());
    service.cap_drop.extend(command.cap_drop.iter().cloned());
    if !command.service_ports {
        service.ports.clear();
    }
    for port in &command.publish {
        service.ports.extend(short::port(port).map_err(|why| Failure::Message(format!("--publish: {why}")))?);
    }
    for text in &command.volume {
        let volume = short::volume(text, &loaded.directory).map_err(|why| Failure::Message(format!("--volume: {why}")))?;
        service.volumes.retain(|known| known.target != volume.target);
        service.volumes.push(volume);
    }
    Ok(())
}

/// `--env-from-file`, and `--env` over it. A name alone is the project's variable; without one, the service's value stays.
fn environment(command: &RunArgs, loaded: &Loaded) -> Result<IndexMap<String, String>, Failure> {
    let given = super::variables(&command.env, Some(loaded));
    let mut all = IndexMap::new();
    for file in &command.env_from_file {
        let text = std::fs::read_to_string(file).map_err(|e| Failure::Message(format!("reading {}: {e}", file.display())))?;
        let outer = |name: &str| given.get(name).or_else(|| loaded.environment.get(name)).cloned();
        let values = dotenv::parse(&text, &outer)
            .map_err(|wrong| Failure::Message(format!("{}:{}: {}", file.display(), wrong.line, wrong.why)))?;
        all.extend(values);
    }
    all.extend(given);
    Ok(all)
}
