//! `wharf start`, `stop`, `restart`, `kill` and `rm`: existing containers, in the order of their dependencies.

use super::up::{self, OnSignal};
use super::{providers, ps};
use crate::api::reply::escape;
use crate::api::types::ContainerSummary;
use crate::cli::{Failure, Global, Outcome, connect, project};
use crate::plan::{Lifecycle, LifecycleOptions};
use crate::wire::Progress;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub struct Start {
    /// Services to start, after what they depend on; all by default.
    services: Vec<String>,
    /// Wait until services run, or are healthy where they have a health check.
    #[arg(long)]
    wait: bool,
    /// Seconds that --wait waits.
    #[arg(long, value_name = "SECONDS")]
    wait_timeout: Option<u64>,
}

#[derive(clap::Args, Debug)]
pub struct Stop {
    /// Services; all by default.
    services: Vec<String>,
    /// Seconds to wait before the container is killed.
    #[arg(short, long, value_name = "SECONDS", value_parser = up::grace, allow_negative_numbers = true)]
    timeout: Option<u32>,
}

#[derive(clap::Args, Debug)]
pub struct Restart {
    /// Services; all by default.
    services: Vec<String>,
    /// Seconds to wait before the container is killed.
    #[arg(short, long, value_name = "SECONDS", value_parser = up::grace, allow_negative_numbers = true)]
    timeout: Option<u32>,
    /// Leave out who depends on them with `restart: true`.
    #[arg(long)]
    no_deps: bool,
}

#[derive(clap::Args, Debug)]
pub struct Kill {
    /// Services; all by default.
    services: Vec<String>,
    /// The signal to send.
    #[arg(short, long, default_value = "SIGKILL")]
    signal: String,
    /// Remove containers of services that the project does not have.
    #[arg(long)]
    remove_orphans: bool,
}

#[derive(clap::Args, Debug)]
pub struct Rm {
    /// Services; all by default.
    services: Vec<String>,
    /// Do not ask.
    #[arg(short, long)]
    force: bool,
    /// Stop running containers first.
    #[arg(short, long)]
    stop: bool,
    /// Remove anonymous volumes as well.
    #[arg(short, long)]
    volumes: bool,
    /// Docker Compose's, without effect there, too.
    #[arg(short, long, hide = true)]
    all: bool,
}

#[derive(clap::Args, Debug)]
pub struct Services {
    /// Services; all by default.
    services: Vec<String>,
}

#[derive(clap::Args, Debug)]
pub struct Wait {
    /// Services whose containers to wait for.
    #[arg(required = true)]
    services: Vec<String>,
    /// Take the project down when the first has ended.
    #[arg(long)]
    down_project: bool,
}

/// Has the engine do something to the project's containers.
async fn ask(global: &Global, command: Lifecycle, options: LifecycleOptions) -> Outcome {
    let (name, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), &options.services)?;
    let client = connect::engine(global).await?;
    // The others find nothing to do, as with Docker Compose.
    if loaded.is_none() && matches!(command, Lifecycle::Start | Lifecycle::Restart) {
        ps::check_existing(&client, &name, &options.services).await?;
    }
    let outline = loaded.as_ref().map(up::outline);
    let options = LifecycleOptions { outline, plan_only: global.dry_run, ..options };
    let mut any = false;
    let each = |progress: &Progress| any |= matches!(progress, Progress::Step { .. } | Progress::Plan(_));
    let path = format!("/projects/{}/{}", escape(&name), command.as_str());
    up::follow_with(&client, &path, &options, OnSignal::Cancel, false, each).await?;
    if let Some(loaded) = loaded.as_ref().filter(|_| command == Lifecycle::Stop && !global.dry_run) {
        providers::stop(loaded, &options.services).await?;
    }
    if command == Lifecycle::Kill && !any {
        eprintln!("No container to kill");
    }
    Ok(())
}

pub async fn start(global: &Global, command: Start) -> Outcome {
    let options = LifecycleOptions { services: command.services, wait: command.wait, ..LifecycleOptions::default() };
    let started = ask(global, Lifecycle::Start, options);
    match command.wait_timeout.filter(|_| command.wait) {
        Some(seconds) => tokio::time::timeout(Duration::from_secs(seconds), started)
            .await
            .map_err(|_| Failure::Message(format!("application not healthy after {}", up::go_seconds(seconds))))?,
        None => started.await,
    }
}

pub async fn stop(global: &Global, command: Stop) -> Outcome {
    let Stop { services, timeout } = command;
    ask(global, Lifecycle::Stop, LifecycleOptions { services, timeout, ..LifecycleOptions::default() }).await
}

pub async fn restart(global: &Global, command: Restart) -> Outcome {
    let Restart { services, timeout, no_deps } = command;
    ask(global, Lifecycle::Restart, LifecycleOptions { services, timeout, no_deps, ..LifecycleOptions::default() }).await
}

pub async fn kill(global: &Global, command: Kill) -> Outcome {
    let Kill { services, signal, remove_orphans } = command;
    let options = LifecycleOptions { services, signal: Some(signal), remove_orphans, ..LifecycleOptions::default() };
    ask(global, Lifecycle::Kill, options).await
}

/// Freezes (true) or thaws.
pub async fn pause(global: &Global, command: Services, pause: bool) -> Outcome {
    let options = LifecycleOptions { services: command.services, ..LifecycleOptions::default() };
    ask(global, if pause { Lifecycle::Pause } else { Lifecycle::Unpause }, options).await
}

/// Waits until the services' containers have ended; the last one's exit code is ours.
pub async fn wait(global: &Global, command: Wait) -> Outcome {
    use futures::stream::{FuturesUnordered, StreamExt};
    let (name, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), &command.services)?;
    let client = connect::engine(global).await?;
    let list = ps::containers(&client, &name, &command.services, true).await?;
    if list.is_empty() {
        let services = command.services.join("`, `");
        return Err(Failure::Message(format!("there are no containers of `{services}`; `wharf up -d` creates them")));
    }
    let mut ending: FuturesUnordered<_> =
        list.iter().map(async |c| (c, super::attach::exit_code(&client, &c.id).await)).collect();
    let mut last = 0;
    while let Some((container, code)) = ending.next().await {
        last = code?;
        println!("container \"{}\" exited with status code {last}", container.name());
        if command.down_project {
            drop(ending);
            super::down::project(global).await?;
            break;
        }
    }
    if last == 0 { Ok(()) } else { Err(Failure::Code(last)) }
}

pub async fn rm(global: &Global, command: Rm) -> Outcome {
    let (name, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), &command.services)?;
    let client = connect::engine(global).await?;
    let outline = loaded.as_ref().map(up::outline);
    let is_known = |c: &ContainerSummary| outline.as_ref().is_none_or(|outline| outline.services.contains_key(c.service()));
    let mut list = ps::containers(&client, &name, &command.services, true).await?;
    list.retain(|c| !c.is_one_off() && (!command.services.is_empty() || is_known(c)));
    list.retain(|c| command.stop || matches!(c.state.as_str(), "exited" | "created"));
    if list.is_empty() {
        eprintln!("No stopped containers");
        return Ok(());
    }
    let names: Vec<&str> = list.iter().map(ContainerSummary::name).collect();
    let going = format!("Going to remove {}", names.join(", "));
    if command.force || global.dry_run {
        println!("{going}");
    } else if !crate::cli::objects::network::answered_yes(&format!("{going}\nAre you sure? [yN] ")).await? {
        return Ok(());
    }
    let options = LifecycleOptions {
        services: command.services,
        stop: command.stop,
        volumes: command.volumes,
        outline,
        plan_only: global.dry_run,
        ..LifecycleOptions::default()
    };
    up::follow(&client, &format!("/projects/{}/rm", escape(&name)), &options, false).await
}
