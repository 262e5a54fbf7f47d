//! `wharf start`, `stop`, `restart`, `kill` and `rm`: existing containers, in the order of their dependencies.

use super::ps::{self, Listed};
use crate::api::client::Client;
use crate::cli::{Failure, Global, Outcome, connect, project};
use crate::compose::Loaded;
use crate::engine::projects::convert::LABEL_DEPENDS_ON;
use futures::future::try_join_all;
use serde_json::Value;
use std::io::Write;

#[derive(clap::Args, Debug)]
pub struct Start {
    /// Services to start; all by default.
    services: Vec<String>,
}

#[derive(clap::Args, Debug)]
pub struct Stop {
    /// Services; all by default.
    services: Vec<String>,
    /// Seconds to wait before the container is killed.
    #[arg(short, long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

#[derive(clap::Args, Debug)]
pub struct Restart {
    /// Services; all by default.
    services: Vec<String>,
    /// Seconds to wait before the container is killed.
    #[arg(short, long, value_name = "SECONDS")]
    timeout: Option<u64>,
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

/// The project's containers in rounds: each depends only on those of earlier rounds.
fn rounds(mut list: Vec<Listed>) -> Vec<Vec<Listed>> {
    let mut rounds: Vec<Vec<Listed>> = Vec::new();
    while !list.is_empty() {
        let names: Vec<String> = list.iter().map(|c| c.service().to_string()).collect();
        let waits = |c: &Listed| {
            c.label(LABEL_DEPENDS_ON)
                .split(',')
                .filter_map(|d| d.split(':').next())
                .any(|d| d != c.service() && names.iter().any(|n| n == d))
        };
        let (later, now): (Vec<Listed>, Vec<Listed>) = list.into_iter().partition(waits);
        if now.is_empty() {
            // Labels of different versions of a file may have a cycle.
            rounds.push(later);
            break;
        }
        rounds.push(now);
        list = later;
    }
    rounds
}

/// Does something to containers, a round at a time and each round at once, and says so; or only says what it would do.
async fn each(client: &Client, dry_run: bool, rounds: Vec<Vec<Listed>>, path: &str, done: &str) -> Outcome {
    for round in rounds {
        let actions = round.iter().map(|container| async move {
            if dry_run {
                println!("container {}: {done}", container.name());
                return Ok(());
            }
            client.post::<Value>(&format!("/containers/{}/{path}", container.id), &Value::Null).await?;
            let _ = writeln!(std::io::stderr(), " Container {}  {done}", container.name());
            Ok::<_, Failure>(())
        });
        try_join_all(actions).await?;
    }
    Ok(())
}

fn stop_path(timeout: Option<u64>, action: &str) -> String {
    timeout.map_or_else(|| action.to_string(), |t| format!("{action}?t={t}"))
}

async fn target(global: &Global, services: &[String]) -> Result<(Client, Vec<Listed>), Failure> {
    let (name, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), services)?;
    let client = connect::engine(global).await?;
    let list = ps::containers(&client, &name, services, true).await?;
    if list.is_empty() {
        let which = if services.is_empty() { format!("the project {name}") } else { format!("`{}`", services.join("`, `")) };
        return Err(Failure::Message(format!("there are no containers of {which}; `wharf up -d` creates them")));
    }
    Ok((client, list))
}

pub async fn start(global: &Global, command: Start) -> Outcome {
    let (client, list) = target(global, &command.services).await?;
    each(&client, global.dry_run, rounds(list), "start", "Started").await
}

pub async fn stop(global: &Global, command: Stop) -> Outcome {
    let (client, list) = target(global, &command.services).await?;
    let mut order = rounds(list);
    order.reverse();
    each(&client, global.dry_run, order, &stop_path(command.timeout, "stop"), "Stopped").await
}

pub async fn restart(global: &Global, command: Restart) -> Outcome {
    let mut services = command.services.clone();
    if !command.no_deps && !services.is_empty() {
        // Who depends on them with `restart: true` is restarted as well.
        let (_, loaded) = project::name(global)?;
        services = with_restarted(loaded.as_ref(), services);
    }
    let (client, list) = target(global, &services).await?;
    each(&client, global.dry_run, rounds(list), &stop_path(command.timeout, "restart"), "Restarted").await
}

pub async fn kill(global: &Global, command: Kill) -> Outcome {
    let (client, mut list) = target(global, &command.services).await?;
    list.retain(|c| matches!(c.state.as_str(), "running" | "paused"));
    if command.remove_orphans {
        remove_orphans(global, &client).await?;
    }
    each(&client, global.dry_run, vec![list], &format!("kill?signal={}", crate::api::reply::escape(&command.signal)), "Killed")
        .await
}

/// Freezes (true) or thaws.
pub async fn pause(global: &Global, command: Services, pause: bool) -> Outcome {
    let (client, mut list) = target(global, &command.services).await?;
    list.retain(|c| c.state == if pause { "running" } else { "paused" });
    let (action, done) = if pause { ("pause", "Paused") } else { ("unpause", "Unpaused") };
    each(&client, global.dry_run, vec![list], action, done).await
}

/// Waits until the services' containers have ended; the last one's exit code is ours.
pub async fn wait(global: &Global, command: Wait) -> Outcome {
    use futures::stream::{FuturesUnordered, StreamExt};
    let (client, list) = target(global, &command.services).await?;
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

/// Services, and those that depend on them with `restart: true`, or on such a one.
fn with_restarted(loaded: Option<&Loaded>, mut services: Vec<String>) -> Vec<String> {
    let mut next = 0;
    while let Some(name) = services.get(next).cloned() {
        next += 1;
        for (other, service) in loaded.into_iter().flat_map(|loaded| &loaded.project.services) {
            if !services.contains(other) && service.depends_on.get(&name).is_some_and(|dependency| dependency.restart) {
                services.push(other.clone());
            }
        }
    }
    services
}

/// Removes containers of services that the file does not have.
async fn remove_orphans(global: &Global, client: &Client) -> Outcome {
    let (name, loaded) = project::name(global)?;
    for container in ps::orphans(client, &name, loaded.as_ref()).await? {
        if global.dry_run {
            println!("container {}: Removed", container.name());
            continue;
        }
        client.delete(&format!("/containers/{}?force=1", container.id)).await?;
        let _ = writeln!(std::io::stderr(), " Container {}  Removed", container.name());
    }
    Ok(())
}

/// Stops a project's containers.
///
/// # Errors
/// The first that cannot be stopped.
pub async fn stop_project(client: &Client, project: &str, services: &[String], timeout: Option<u64>) -> Outcome {
    let list = ps::containers(client, project, services, false).await?;
    let mut order = rounds(list);
    order.reverse();
    each(client, false, order, &stop_path(timeout, "stop"), "Stopped").await
}

/// Kills a project's containers.
///
/// # Errors
/// The first that cannot be signalled.
pub async fn kill_project(client: &Client, project: &str, services: &[String], signal: &str) -> Outcome {
    let list = ps::containers(client, project, services, false).await?;
    each(client, false, vec![list], &format!("kill?signal={signal}"), "Killed").await
}

pub async fn rm(global: &Global, command: Rm) -> Outcome {
    let (client, mut list) = target(global, &command.services).await?;
    if !command.stop {
        list.retain(|c| matches!(c.state.as_str(), "exited" | "created"));
    }
    if list.is_empty() {
        eprintln!("No stopped containers");
        return Ok(());
    }
    if global.dry_run {
        list.iter().for_each(|container| println!("container {}: Removed", container.name()));
        return Ok(());
    }
    if !command.force {
        let names: Vec<&str> = list.iter().map(Listed::name).collect();
        if !crate::cli::objects::network::answered_yes(&format!("Going to remove {}\nAre you sure? [yN] ", names.join(", ")))? {
            return Ok(());
        }
    }
    for container in &list {
        if command.stop {
            client.post::<Value>(&format!("/containers/{}/stop", container.id), &Value::Null).await?;
        }
        client.delete(&format!("/containers/{}?v={}", container.id, u8::from(command.volumes))).await?;
        eprintln!(" Container {}  Removed", container.name());
    }
    Ok(())
}
