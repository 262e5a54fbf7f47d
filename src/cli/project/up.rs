//! `wharf up` and `wharf plan`.

mod attached;
mod follow;
mod menu;

pub use follow::{OnSignal, follow, follow_with};

use super::logs::{self, HookLine};
use super::{providers, ps};
use crate::api::client::Client;
use crate::api::reply::escape;
use crate::cli::output::Steps;
use crate::cli::signals::or_cancelled;
use crate::cli::{Failure, Global, Outcome, connect, project, remote};
use crate::compose::Loaded;
use crate::plan::{ChangedVolumes, DesiredOutline, PullPolicy, UpOptions};
use crate::wire::{Follower, Progress, UpRequest};
use attached::{Foreground, Shown, attached, container_names, pass_hook, shown};
use std::io::IsTerminal;
use tokio::sync::mpsc::{self, UnboundedSender};

#[derive(clap::Args, Debug, Default)]
pub struct Up {
    /// Services to bring up, with what they depend on; all by default.
    services: Vec<String>,
    /// Start in the background.
    #[arg(short, long)]
    detach: bool,
    /// Wait until services run, or are healthy where they have a health check; implies --detach.
    #[arg(long)]
    wait: bool,
    /// Seconds that --wait waits.
    #[arg(long, value_name = "SECONDS")]
    wait_timeout: Option<u64>,
    #[command(flatten)]
    how: UpOutput,
    /// Build images before starting, whether or not they are there.
    #[arg(long)]
    build: bool,
    /// Never build, even when an image is missing.
    #[arg(long, conflicts_with = "build")]
    no_build: bool,
    /// Do not show log prefixes.
    #[arg(long)]
    no_log_prefix: bool,
    /// Prefixes without colour.
    #[arg(long)]
    no_color: bool,
    /// Show the output of these services alone; may be repeated.
    #[arg(long, value_name = "SERVICE", conflicts_with = "detach")]
    attach: Vec<String>,
    /// Show no output of these services; may be repeated.
    #[arg(long, value_name = "SERVICE")]
    no_attach: Vec<String>,
    /// Show the output of what the named services depend on, too.
    #[arg(long)]
    attach_dependencies: bool,
    /// Stop all containers when one of them ends, and exit with its code.
    #[arg(long, conflicts_with = "detach")]
    abort_on_container_exit: bool,
    /// Stop all containers when one of them ends with another code than 0, and exit with that.
    #[arg(long, conflicts_with = "detach")]
    abort_on_container_failure: bool,
    /// Stop all containers when one of them ends, and exit with the code of this service's.
    #[arg(long, value_name = "SERVICE", conflicts_with = "detach")]
    exit_code_from: Option<String>,
    /// Show the time of each line.
    #[arg(long)]
    timestamps: bool,
    /// Have changed files take effect, as `watch` does.
    #[arg(short, long, conflicts_with = "detach")]
    watch: bool,
    /// Keys on a terminal: w switches watching, d leaves the containers running.
    #[arg(long, conflicts_with = "detach")]
    menu: bool,
}

/// Options that `up` and `plan` share.
#[derive(clap::Args, Debug, Default)]
pub struct UpOutput {
    /// Recreate containers even when nothing has changed.
    #[arg(long, conflicts_with = "no_recreate")]
    pub force_recreate: bool,
    /// Recreate what the named services depend on, even when nothing has changed.
    #[arg(long, conflicts_with = "no_recreate")]
    pub always_recreate_deps: bool,
    /// Leave containers that exist as they are.
    #[arg(long)]
    pub no_recreate: bool,
    /// Leave out what the named services depend on.
    #[arg(long)]
    pub no_deps: bool,
    /// Create containers without starting them.
    #[arg(long)]
    pub no_start: bool,
    /// Remove containers of services that the project does not have.
    #[arg(long)]
    pub remove_orphans: bool,
    /// Keep a container until the new one in its place is good and has its names and ports: no client notices.
    #[arg(long)]
    pub start_first: bool,
    /// Number of containers of a service; may be repeated.
    #[arg(long, value_name = "SERVICE=N", value_parser = scale)]
    pub scale: Vec<(String, u32)>,
    /// Seconds to wait for containers that are stopped; -1 is for ever.
    #[arg(short, long, value_name = "SECONDS", value_parser = grace, allow_negative_numbers = true)]
    pub timeout: Option<u32>,
    /// Pull images: always, missing, never.
    #[arg(long, value_name = "POLICY", value_parser = ["always", "missing", "never", "build"])]
    pub pull: Option<String>,
    /// New anonymous volumes instead of the replaced container's.
    #[arg(short = 'V', long)]
    pub renew_anon_volumes: bool,
    /// Print no progress.
    #[arg(long)]
    pub quiet_pull: bool,
    /// Print no output of builds.
    #[arg(long)]
    pub quiet_build: bool,
    /// Answer yes to every question.
    #[arg(short, long, alias = "y")]
    pub yes: bool,
}

#[derive(clap::Args, Debug)]
pub struct PlanCommand {
    /// Services to plan for, with what they depend on; all by default.
    services: Vec<String>,
    #[command(flatten)]
    how: UpOutput,
}

fn scale(text: &str) -> Result<(String, u32), String> {
    let (service, count) = text.split_once('=').ok_or("write SERVICE=N, such as web=3")?;
    Ok((service.into(), count.parse().map_err(|_| format!("`{count}` is not a number"))?))
}

/// How long a container may take to stop. Docker's -1 is for ever; so is a century.
pub fn grace(text: &str) -> Result<u32, String> {
    match text {
        "-1" => Ok(u32::MAX),
        text => text.parse().map_err(|_| "write a number of seconds, or -1 for ever".into()),
    }
}

/// The request to the engine.
///
/// # Errors
/// As [`project::for_engine`].
pub fn request(global: &Global, loaded: &Loaded, services: Vec<String>, how: UpOutput, wait: bool) -> Result<UpRequest, Failure> {
    let files: Vec<String> = loaded.files.iter().map(|f| f.display().to_string()).collect();
    let project = project::for_engine(global, loaded, &services, how.no_deps)?;
    // What a provider stands for has no container.
    let of_providers = providers::names(&loaded.project);
    let services = services.into_iter().filter(|name| !of_providers.contains(name)).collect();
    Ok(UpRequest {
        project,
        options: UpOptions {
            services,
            force_recreate: how.force_recreate,
            always_recreate_deps: how.always_recreate_deps,
            no_recreate: how.no_recreate,
            no_deps: how.no_deps,
            no_start: how.no_start,
            remove_orphans: how.remove_orphans || is_set("COMPOSE_REMOVE_ORPHANS", Some(loaded)),
            ignore_orphans: is_set("COMPOSE_IGNORE_ORPHANS", Some(loaded)),
            all_resources: global.all_resources,
            compatible_names: crate::cli::separator() == "_",
            wait,
            wait_timeout: None,
            start_first: how.start_first,
            rolling_back: false,
            watched: false,
            roll_back: false,
            scale: how.scale.into_iter().collect(),
            timeout: how.timeout,
            pull: pull_policy(how.pull.as_deref())?,
            renew_anon_volumes: how.renew_anon_volumes,
            changed_volumes: if how.yes { ChangedVolumes::RecreateAll } else { ChangedVolumes::Keep },
            inactive: Vec::new(),
        },
        config_files: files.join(","),
        working_dir: loaded.directory.display().to_string(),
        proxies: crate::cli::proxies::variables(),
        inactive: loaded.inactive.keys().cloned().collect(),
        plan_only: false,
        follower: None,
    })
}

pub async fn plan(global: &Global, command: PlanCommand) -> Outcome {
    let loaded = project::load(global, &command.services)?;
    let client = connect::engine(global).await?;
    let request = UpRequest { plan_only: true, ..request(global, &loaded, command.services, command.how, false)? };
    let mut any = false;
    let each = |progress: &Progress| any |= matches!(progress, Progress::Plan(_));
    follow_with(&client, &path(&loaded, "up"), &request, OnSignal::Cancel, true, each).await?;
    if !any {
        println!("nothing to do: everything is as the project wants it");
    }
    Ok(())
}

pub fn path(loaded: &Loaded, action: &str) -> String {
    format!("/projects/{}/{action}", escape(&loaded.project.name))
}

/// As [`follow`], of an `up`; it asks before a volume whose definition has changed loses its data.
///
/// # Errors
/// As [`follow`].
async fn bring_up(
    client: &Client,
    path: &str,
    mut request: UpRequest,
    on_signal: OnSignal,
    hooks: Option<UnboundedSender<HookLine>>,
) -> Outcome {
    let project = request.project.name.clone();
    if request.options.changed_volumes == ChangedVolumes::Keep && std::io::stdin().is_terminal() {
        request.options.changed_volumes = ChangedVolumes::Ask;
    }
    let mut changed = Vec::new();
    let each = |progress: &Progress| {
        if let Progress::ChangedVolumes(names) = progress {
            changed.clone_from(names);
        }
        pass_hook(hooks.as_ref(), &project, progress);
    };
    follow_with(client, path, &request, on_signal, false, each).await?;
    if changed.is_empty() {
        return Ok(());
    }
    let mut agreed = Vec::new();
    for name in changed {
        let question = format!(
            "Volume \"{name}\" exists but doesn't match configuration in compose file. Recreate (data will be lost)? [yN] "
        );
        if crate::cli::objects::network::answered_yes(&question).await? {
            agreed.push(name);
        }
    }
    request.options.changed_volumes = ChangedVolumes::Recreate(agreed);
    follow_with(client, path, &request, on_signal, false, |progress| pass_hook(hooks.as_ref(), &project, progress)).await
}

/// The value of `--pull`.
pub fn pull_policy(text: Option<&str>) -> Result<Option<PullPolicy>, Failure> {
    text.map(|text| text.parse().map_err(Failure::Message)).transpose()
}

/// Whether a variable says yes: of the project's environment (this process's, `.env`, `--env-file`), or without a project of this
/// process's.
pub fn is_set(variable: &str, loaded: Option<&Loaded>) -> bool {
    let value = match loaded {
        Some(loaded) => loaded.environment.get(variable).cloned(),
        None => std::env::var(variable).ok(),
    };
    value.is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "t" | "true" | "y" | "yes" | "on"))
}

/// The services that a command acts on: the named ones, all where none is named, and what they depend on.
pub fn selected(loaded: &Loaded, named: &[String], no_deps: bool) -> Vec<String> {
    crate::plan::selected(&loaded.project, named, no_deps).into_iter().collect()
}

/// Builds the images of services that are to start: those of `build`, and of the others those that are not there. A
/// `pull_policy` that pulls is tried first, as the specification says.
///
/// # Errors
/// The first build that failed.
pub async fn build_what_is_missing(
    client: &Client,
    loaded: &Loaded,
    starting: &[String],
    pull: Option<PullPolicy>,
    build: &[String],
    quiet: bool,
) -> Outcome {
    let mut wanted = Vec::new();
    let loaded = &crate::cli::jobs::run::with_jobs_as_services(loaded);
    let services = loaded.project.services.iter().filter(|(name, service)| service.build.is_some() && starting.contains(name));
    for (name, service) in services {
        let image = super::build::image_name(&loaded.project, name);
        let policy = pull.or(service.pull_policy);
        let missing = if build.contains(name) || policy == Some(PullPolicy::Build) {
            true
        } else {
            let is_here = || async { client.get::<serde_json::Value>(&format!("/images/{}/json", escape(&image))).await.is_ok() };
            match policy {
                Some(PullPolicy::Always) => {
                    crate::cli::objects::images::pull_one(client, &image, &mut Steps::new(true)).await.is_err()
                        && !is_here().await
                }
                Some(PullPolicy::Missing) => {
                    !is_here().await
                        && crate::cli::objects::images::pull_one(client, &image, &mut Steps::new(true)).await.is_err()
                }
                _ => !is_here().await,
            }
        };
        if missing {
            wanted.push(name.clone());
        }
    }
    super::build::build_services(client, loaded, &wanted, &super::build::BuildFlags::quiet(quiet)).await
}

pub async fn run(global: &Global, mut command: Up) -> Outcome {
    let mut loaded = project::load(global, &command.services)?;
    command.menu |= is_set("COMPOSE_MENU", Some(&loaded));
    ps::check_services(Some(&loaded), command.exit_code_from.as_slice())?;
    if global.dry_run {
        return plan(global, PlanCommand { services: command.services, how: command.how }).await;
    }
    remote::confirmed(global, &loaded, command.how.yes).await?;
    let client = connect::engine(global).await?;
    if !command.no_build {
        let mut starting = selected(&loaded, &command.services, command.how.no_deps);
        if command.services.is_empty() {
            starting.extend(loaded.project.jobs.iter().filter(|(_, job)| job.is_scheduled()).map(|(name, _)| name.clone()));
        }
        let build = if command.build { &starting[..] } else { &[] };
        let pull = pull_policy(command.how.pull.as_deref())?;
        or_cancelled(build_what_is_missing(&client, &loaded, &starting, pull, build, command.how.quiet_build)).await?;
    }
    let with_providers = selected(&loaded, &command.services, command.how.no_deps);
    providers::up(&mut loaded, &with_providers).await?;
    let of_providers = providers::names(&loaded.project);
    if !command.services.is_empty() && command.services.iter().all(|name| of_providers.contains(name)) {
        // To the engine, no names would be all of them.
        command.services = with_providers.into_iter().filter(|name| !of_providers.contains(name)).collect();
        if command.services.is_empty() {
            return Ok(());
        }
    }
    let detach = command.detach || command.wait || command.how.no_start;
    let timeout = command.how.timeout;
    let shown = shown(&loaded, &command);
    let how = std::mem::take(&mut command.how);
    let mut request = request(global, &loaded, command.services.clone(), how, command.wait)?;
    request.options.wait_timeout = command.wait_timeout;
    let up_path = path(&loaded, "up");
    let Some(services) = shown.filter(|_| !detach) else {
        let up = bring_up(&client, &up_path, request, OnSignal::Cancel, None);
        return match command.wait_timeout.filter(|_| command.wait) {
            Some(seconds) => tokio::time::timeout(std::time::Duration::from_secs(seconds), up)
                .await
                .map_err(|_| Failure::Message(format!("application not healthy after {}", go_seconds(seconds))))?,
            None => up.await,
        };
    };
    let reader = logs::reader()?;
    let names = container_names(&loaded, &services, &request.options);
    request.follower = Some(Follower { reader, services: services.clone() });
    let (hooks, lines) = mpsc::unbounded_channel();
    let up = bring_up(&client, &up_path, request, OnSignal::Leave, Some(hooks.clone()));
    let shown = Shown { services, reader, names, hooks, lines };
    attached(global, &client, &loaded, &command, Foreground { shown, timeout }, up).await
}

/// `wharf create`: everything but the start.
#[derive(clap::Args, Debug)]
pub struct CreateArgs {
    /// Services to create containers of, with what they depend on; all by default.
    services: Vec<String>,
    /// Build images before, whether or not they are there.
    #[arg(long)]
    build: bool,
    /// Never build, even when an image is missing.
    #[arg(long, conflicts_with = "build")]
    no_build: bool,
    #[command(flatten)]
    how: UpOutput,
}

pub async fn create(global: &Global, command: CreateArgs) -> Outcome {
    let how = UpOutput { no_start: true, ..command.how };
    let CreateArgs { services, build, no_build, .. } = command;
    run(global, Up { services, build, no_build, how, detach: true, ..Up::default() }).await
}

/// `wharf scale`.
#[derive(clap::Args, Debug)]
pub struct Scale {
    /// Number of containers of a service.
    #[arg(required = true, value_name = "SERVICE=N", value_parser = scale)]
    scale: Vec<(String, u32)>,
    /// Leave out what the services depend on.
    #[arg(long)]
    no_deps: bool,
}

pub async fn scale_services(global: &Global, command: Scale) -> Outcome {
    let services = command.scale.iter().map(|(service, _)| service.clone()).collect();
    let how = UpOutput { scale: command.scale, no_deps: command.no_deps, no_recreate: true, ..UpOutput::default() };
    run(global, Up { services, how, detach: true, ..Up::default() }).await
}

/// Seconds as Go writes durations: `1m30s`.
pub fn go_seconds(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// The parts of the file that commands for existing containers need.
pub fn outline(loaded: &Loaded) -> DesiredOutline {
    DesiredOutline::of(&loaded.project, loaded.inactive.keys().cloned().collect())
}
