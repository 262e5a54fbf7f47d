//! `wharf down`.

use super::{providers, ps, up};
use crate::api::reply::escape;
use crate::cli::{Global, Outcome, connect, project};
use crate::plan::{DownOptions, RemoveImages};

#[derive(clap::Args, Debug)]
pub struct Down {
    /// Services to stop and remove; all, with the networks, by default.
    services: Vec<String>,
    /// Remove volumes as well: those of the file and anonymous ones.
    #[arg(short, long, alias = "volume")]
    volumes: bool,
    /// Remove the images of services: all, or local (those without a custom tag).
    #[arg(long, value_name = "TYPE")]
    rmi: Option<Rmi>,
    /// Seconds to wait for containers to stop.
    #[arg(short, long, value_name = "SECONDS", value_parser = up::grace, allow_negative_numbers = true)]
    timeout: Option<u32>,
    /// Remove containers of services that the project does not have.
    #[arg(long)]
    remove_orphans: bool,
    /// Keep the logs of the containers, which `logs --previous` shows, until the next `down`.
    #[arg(long)]
    keep_logs: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Rmi {
    All,
    Local,
}

/// Takes the whole project down, as `down` without flags does.
///
/// # Errors
/// As `down`.
pub async fn project(global: &Global) -> Outcome {
    let whole = Down { services: Vec::new(), volumes: false, rmi: None, timeout: None, remove_orphans: false, keep_logs: false };
    run(global, whole).await
}

pub async fn run(global: &Global, command: Down) -> Outcome {
    let (name, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), &command.services)?;
    let client = connect::engine(global).await?;
    let options = DownOptions {
        volumes: command.volumes,
        rmi: command.rmi.map(|which| match which {
            Rmi::All => RemoveImages::All,
            Rmi::Local => RemoveImages::Local,
        }),
        timeout: command.timeout,
        remove_orphans: command.remove_orphans || up::is_set("COMPOSE_REMOVE_ORPHANS", loaded.as_ref()),
        services: command.services.clone(),
        keep_logs: command.keep_logs,
        plan_only: global.dry_run,
        outline: loaded.as_ref().map(up::outline),
    };
    up::follow(&client, &format!("/projects/{}/down", escape(&name)), &options, false).await?;
    match loaded.filter(|_| !global.dry_run) {
        Some(loaded) => providers::down(&loaded, &command.services).await,
        None => Ok(()),
    }
}
