//! `wharf push` and `wharf image push`.

use crate::api::client::Client;
use crate::api::reply::escape;
use crate::api::types::{ProgressLine, PushedDigest};
use crate::cli::objects::images::{each_image, layer_progress};
use crate::cli::output::Steps;
use crate::cli::{Failure, Global, Outcome, connect, project};
use crate::compose::Loaded;
use crate::wire::Progress;

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
    /// The images of what the services depend on as well.
    #[arg(long)]
    include_deps: bool,
}

pub async fn run(global: &Global, command: Push) -> Outcome {
    let loaded = project::load(global, &command.services)?;
    super::ps::check_services(Some(&loaded), &command.services)?;
    let mut services = command.services.clone();
    if command.include_deps {
        services = super::up::selected(&loaded, &services, false);
    }
    let client = connect::engine(global).await?;
    push_built(
        &client,
        &loaded,
        &services,
        How { dry_run: global.dry_run, ignore_failures: command.ignore_push_failures, quiet: command.quiet },
    )
    .await
}

/// How images are pushed.
pub struct How {
    pub dry_run: bool,
    /// Go on when an image cannot be pushed.
    pub ignore_failures: bool,
    pub quiet: bool,
}

/// Pushes the images of services that are built; of all without names.
///
/// # Errors
/// The registry's.
pub async fn push_built(client: &Client, loaded: &Loaded, services: &[String], how: How) -> Outcome {
    let named = |name: &String| services.is_empty() || services.contains(name);
    let built = loaded.project.services.iter().filter(|(name, service)| service.build.is_some() && named(name));
    let images = built.filter_map(|(name, service)| {
        if service.image.is_none() {
            eprintln!("warning: `services.{name}` has no `image`, which says where to push it: it is left out");
        }
        service.image.as_ref()
    });
    if how.dry_run {
        images.for_each(|image| println!("image {image}: Pushed"));
        return Ok(());
    }
    each_image(images, how.ignore_failures, async |image| push_one(client, image, how.quiet).await).await
}

/// Pushes an image and shows how.
///
/// # Errors
/// Why it is not there.
pub async fn push_one(client: &Client, image: &str, quiet: bool) -> Outcome {
    push_named(client, image, quiet).await.map(drop)
}

/// Pushes an image and shows how. Returns the digest of the manifest, by which the registry knows it.
///
/// # Errors
/// Why it is not there.
pub async fn push_named(client: &Client, image: &str, quiet: bool) -> Result<Option<String>, Failure> {
    let mut pushed = None;
    let mut steps = Steps::new(quiet);
    let mut lines = client.post_lines(&format!("/images/{}/push", escape(image)), &()).await?;
    while let Some(line) = lines.next::<ProgressLine>().await? {
        if let Some(layer) = layer_progress(image, &line)? {
            steps.show(&layer);
        } else if let Some(Ok(PushedDigest { digest, .. })) = line.aux.map(serde_json::from_value) {
            steps.show(&Progress::Step { object: format!("Image {image} {digest}"), status: "Pushed".into(), done: true });
            pushed = Some(digest);
        }
    }
    Ok(pushed)
}
