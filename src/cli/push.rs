//! `wharf push` and `wharf image push`.

use super::images::layer_progress;
use super::output::Steps;
use super::{Failure, Global, Outcome, connect, project};
use crate::api::client::Client;
use crate::api::reply::escape;
use crate::engine::projects::Progress;
use serde_json::Value;

#[derive(clap::Args, Debug)]
pub struct Push {
    /// Services whose images to push; by default all that are built.
    services: Vec<String>,
    /// Go on when an image cannot be pushed.
    #[arg(long)]
    ignore_push_failures: bool,
    /// Show nothing but errors.
    #[arg(short, long)]
    quiet: bool,
}

pub async fn run(global: &Global, command: Push) -> Outcome {
    let loaded = project::load(global, &command.services)?;
    super::ps::check_services(Some(&loaded), &command.services)?;
    let client = connect::engine(global).await?;
    let mut failed = false;
    for (name, service) in &loaded.project.services {
        if service.build.is_none() || !(command.services.is_empty() || command.services.contains(name)) {
            continue;
        }
        let Some(image) = &service.image else {
            eprintln!("warning: `services.{name}` has no `image`, which says where to push it: it is left out");
            continue;
        };
        if let Err(failure) = push_one(&client, image, command.quiet).await {
            if !command.ignore_push_failures {
                return Err(failure);
            }
            eprintln!("{failure}");
            failed = true;
        }
    }
    if failed { Err(Failure::Code(1)) } else { Ok(()) }
}

/// Pushes an image and shows how.
///
/// # Errors
/// Why it is not there.
pub async fn push_one(client: &Client, image: &str, quiet: bool) -> Outcome {
    let mut steps = Steps::new(quiet);
    let mut lines = client.post_lines(&format!("/images/{}/push", escape(image)), &Value::Null).await?;
    while let Some(line) = lines.next::<Value>().await? {
        if let Some(layer) = layer_progress(image, &line)? {
            steps.show(&layer);
        } else if let Some(digest) = line["aux"]["Digest"].as_str() {
            steps.show(&Progress::Step { object: format!("Image {image} {digest}"), status: "Pushed".into(), done: true });
        }
    }
    Ok(())
}
