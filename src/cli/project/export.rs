//! `wharf export` and `wharf commit`: a container's files as an archive, and as an image.

use super::ps;
use crate::api::client::Client;
use crate::api::reply::escape;
use crate::api::types::CreatedId;
use crate::cli::{Failure, Global, Outcome, connect, output_file, project};
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub struct ExportArgs {
    /// The archive; standard output by default.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Which container of a service, where it has several.
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    service: String,
}

#[derive(clap::Args, Debug)]
pub struct CommitArgs {
    #[command(flatten)]
    how: CommitOptions,
    /// Which container of a service, where it has several.
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    service: String,
    /// The image's name; without one, it is found by its id.
    #[arg(default_value = "", hide_default_value = true)]
    reference: String,
}

// Options that `commit` of a service and of a container share.
#[derive(clap::Args, Debug)]
pub struct CommitOptions {
    /// The image's author.
    #[arg(short, long, default_value = "")]
    author: String,
    /// A Dockerfile instruction to apply; may be repeated.
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// The comment of the image.
    #[arg(short, long, default_value = "")]
    message: String,
    /// Pause the container meanwhile.
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pause: bool,
}

async fn container(global: &Global, service: &str, index: Option<u32>) -> Result<(Client, String), Failure> {
    let (project, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), &[service.to_string()])?;
    let client = connect::engine(global).await?;
    let list = ps::containers(&client, &project, &[service.to_string()], true).await?;
    let found = list.into_iter().find(|c| index.is_none_or(|n| c.number() == n) && !c.is_one_off());
    let found = found.ok_or_else(|| Failure::Message(format!("the service `{service}` has no container")))?;
    Ok((client, found.id))
}

pub async fn export(global: &Global, command: ExportArgs) -> Outcome {
    let (client, id) = container(global, &command.service, command.index).await?;
    export_container(&client, &id, command.output.as_deref()).await
}

/// Writes a container's root file system as a tar.
///
/// # Errors
/// When the file cannot be written.
pub async fn export_container(client: &Client, id: &str, output: Option<&Path>) -> Outcome {
    output_file::download(client, &format!("/containers/{id}/export"), output).await
}

pub async fn commit(global: &Global, command: CommitArgs) -> Outcome {
    let (client, id) = container(global, &command.service, command.index).await?;
    commit_container(&client, &id, &command.reference, &command.how).await
}

/// Makes an image of a container, and prints its id.
///
/// # Errors
/// A change that is not understood, or the disk's.
pub async fn commit_container(client: &Client, id: &str, reference: &str, how: &CommitOptions) -> Outcome {
    let changes: String = how.change.iter().map(|change| format!("&changes={}", escape(change))).collect();
    let path = format!(
        "/commit?container={id}&repo={}&author={}&comment={}&pause={}{changes}",
        escape(reference),
        escape(&how.author),
        escape(&how.message),
        u8::from(how.pause)
    );
    let made: CreatedId = client.post(&path, &()).await?;
    println!("{}", made.id);
    Ok(())
}
