//! `wharf pull`, `wharf images` and `wharf image`.

use super::network;
use crate::api::client::{Client, ClientError};
use crate::api::reply::escape;
use crate::api::types::{ImageHistoryItem, ImageRemoval, ImageSummary, ImagesPruned, ProgressLine};
use crate::cli::output::format::{Column, LABEL, Listing};
use crate::cli::output::{Steps, bytes, table};
use crate::cli::project::ps;
use crate::cli::{Failure, Global, Outcome, connect, output_file, project};
use crate::compose::model::PullPolicy;
use crate::image::ImageRef;
use crate::wire::Progress;
use indexmap::IndexSet;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Pull {
    /// Services whose images to pull; all by default.
    services: Vec<String>,
    /// Print no progress.
    #[arg(short, long)]
    quiet: bool,
    /// Go on when an image cannot be pulled.
    #[arg(long)]
    ignore_pull_failures: bool,
    /// Leave out images that can be built.
    #[arg(long)]
    ignore_buildable: bool,
    /// The images of what the services depend on as well.
    #[arg(long)]
    include_deps: bool,
    /// Pull images: always, missing (those that are not here).
    #[arg(long, value_name = "POLICY", value_parser = ["always", "missing"])]
    policy: Option<String>,
    /// Docker Compose's; images are always pulled at the same time.
    #[arg(long, hide = true)]
    parallel: bool,
    /// Docker Compose's, without effect there, too.
    #[arg(long, hide = true)]
    no_parallel: bool,
}

#[derive(clap::Args, Debug)]
pub struct ImagesArgs {
    /// Services to list; all by default.
    services: Vec<String>,
    /// Ids alone.
    #[arg(short, long)]
    quiet: bool,
    /// table or json.
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
}

#[derive(clap::Subcommand, Debug)]
#[command(defer = true)]
pub enum ImageCommand {
    /// Build an image from a Dockerfile.
    Build(Box<crate::cli::project::build::ImageBuild>),
    /// Show the steps that made an image.
    History { reference: String },
    /// Push an image to a registry.
    Push {
        reference: String,
        /// Show nothing but errors.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove layers and blobs that nothing needs.
    Prune {
        /// Remove images that no container uses, too.
        #[arg(short, long)]
        all: bool,
        /// Forget what builds remember, too.
        #[arg(long)]
        build_cache: bool,
        /// Docker's: nothing is asked in any case.
        #[arg(short, long, hide = true)]
        force: bool,
    },
    /// Write images to an archive that `docker load` reads, and that is an OCI layout.
    Save {
        #[arg(required = true)]
        references: Vec<String>,
        /// The archive; standard output by default.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Give an image another name.
    Tag { source: String, target: String },
    /// Make an image of a root file system in a tar archive.
    Import {
        /// The archive, plain or compressed with gzip, bzip2, xz or zstd; `-` is standard input.
        file: PathBuf,
        /// The image's name.
        reference: String,
        /// A Dockerfile instruction to apply, such as 'CMD ["sh"]'; may be repeated.
        #[arg(short, long, value_name = "INSTRUCTION")]
        change: Vec<String>,
    },
    /// Load images from a `docker save` archive or an OCI layout in a tar.
    Load {
        /// The archive; standard input by default.
        #[arg(short, long)]
        input: Option<PathBuf>,
        /// The archive.
        #[arg(conflicts_with = "input")]
        file: Option<PathBuf>,
    },
    /// Pull an image from a registry.
    Pull {
        /// Print no progress.
        #[arg(short, long)]
        quiet: bool,
        /// The image.
        reference: String,
    },
    /// List images.
    #[command(alias = "list")]
    Ls {
        #[command(flatten)]
        listing: Listing,
        /// Docker's, for images that have no name.
        #[arg(short, long, hide = true)]
        all: bool,
        /// Their digests as well.
        #[arg(long)]
        digests: bool,
        /// Those that fulfil a condition: label=, reference=PATTERN, before=IMAGE, since=IMAGE or dangling=; may be repeated.
        #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
        filter: Vec<(String, String)>,
        /// Of this name, with or without a tag.
        name: Option<String>,
    },
    /// Remove images.
    #[command(alias = "remove")]
    Rm {
        /// An image that a container uses loses its name, and is kept; what is not there is no failure.
        #[arg(short, long)]
        force: bool,
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Print what is known of images, in JSON.
    Inspect {
        /// A template, such as '{{.Id}}'; json is on one line.
        #[arg(short, long, value_name = "TEMPLATE")]
        format: Option<String>,
        #[arg(required = true)]
        references: Vec<String>,
    },
}

pub async fn pull(global: &Global, command: Pull) -> Outcome {
    let loaded = project::load(global, &command.services)?;
    let loaded = crate::cli::jobs::run::with_jobs_as_services(&loaded);
    ps::check_services(Some(&*loaded), &command.services)?;
    let mut services = command.services.clone();
    if command.include_deps {
        services = crate::cli::project::up::selected(&loaded, &services, false);
    }
    let client = connect::engine(global).await?;
    let policy = command.policy.as_deref().map(str::parse::<PullPolicy>).transpose().map_err(Failure::Message)?;
    let mut steps = Steps::new(command.quiet);
    let mut skip = |object: String, why: &str| {
        steps.show(&Progress::Step { object, status: format!("Skipped {why}").trim_end().into(), done: true });
    };
    let mut wanted: IndexSet<String> = IndexSet::new();
    for (name, service) in loaded.project.services.iter().filter(|(name, _)| services.is_empty() || services.contains(name)) {
        if service.image.is_none() && service.provider.is_none() {
            skip(name.clone(), "No image to be pulled");
        }
        for image in service.images() {
            // That of a hook or a volume cannot be built.
            let own = service.image.as_deref() == Some(image);
            let why = match policy.or(service.pull_policy) {
                Some(PullPolicy::Never) => Some(""),
                Some(PullPolicy::Build) if own => Some(""),
                // A tag that is there to move is asked for all the same.
                Some(PullPolicy::Missing | PullPolicy::Build) if !is_latest(image) && is_here(&client, image).await => {
                    Some("Image is already present locally")
                }
                _ => (own && service.build.is_some() && command.ignore_buildable).then_some("Image can be built"),
            };
            match why {
                Some(why) => skip(format!("Image {image}"), why),
                None => drop(wanted.insert(image.to_string())),
            }
        }
    }
    if global.dry_run {
        wanted.iter().for_each(|image| println!("image {image}: Pulled"));
        return Ok(());
    }
    // Images that can be built do not keep the others from being pulled.
    let built_as = |image: &str| {
        let mut services = loaded.project.services.iter();
        services.find(|(_, service)| service.build.is_some() && service.image.as_deref() == Some(image)).map(|(name, _)| name)
    };
    let (mut to_build, mut failed) = (Vec::new(), None);
    for image in &wanted {
        let Err(failure) = pull_one(&client, image, &mut steps).await else { continue };
        let builder = built_as(image);
        to_build.extend(builder);
        match (command.ignore_pull_failures, builder) {
            (false, None) => return Err(failure),
            (true, _) => eprintln!("{failure}"),
            (false, Some(_)) => {
                eprintln!("{failure}");
                failed = Some(Failure::Code(1));
            }
        }
    }
    if !to_build.is_empty() {
        let names: Vec<&str> = to_build.iter().map(|name| name.as_str()).collect();
        eprintln!("warning: Some service image(s) must be built from source by running:\n    wharf build {}", names.join(" "));
    }
    failed.map_or(Ok(()), Err)
}

fn is_latest(image: &str) -> bool {
    image.parse::<ImageRef>().is_ok_and(|image| image.digest.is_none() && image.tag.as_deref().is_none_or(|tag| tag == "latest"))
}

async fn is_here(client: &Client, image: &str) -> bool {
    client.get::<Value>(&format!("/images/{}/json", escape(image))).await.is_ok()
}

/// Does something to one image after the other, to the others too where one fails and that is to be ignored.
///
/// # Errors
/// The first failure, unless failures are ignored.
pub async fn each_image<'a>(
    images: impl Iterator<Item = &'a String>,
    ignore_failures: bool,
    mut one: impl AsyncFnMut(&'a str) -> Outcome,
) -> Outcome {
    for image in images {
        if let Err(failure) = one(image).await {
            if !ignore_failures {
                return Err(failure);
            }
            eprintln!("{failure}");
        }
    }
    Ok(())
}

/// Pulls an image and shows how.
///
/// # Errors
/// Why it is not here.
pub async fn pull_one(client: &Client, image: &str, steps: &mut Steps) -> Outcome {
    let object = format!("Image {image}");
    steps.show(&Progress::Step { object: object.clone(), status: "Pulling".into(), done: false });
    let mut lines = client.post_lines(&format!("/images/create?fromImage={}", escape(image)), &()).await?;
    while let Some(line) = lines.next::<ProgressLine>().await? {
        if let Some(layer) = layer_progress(image, &line)? {
            steps.show(&layer);
        }
    }
    steps.show(&Progress::Step { object, status: "Pulled".into(), done: true });
    Ok(())
}

/// A layer's line of a pull or a push.
///
/// # Errors
/// When the line says why it failed.
pub fn layer_progress(image: &str, line: &ProgressLine) -> Result<Option<Progress>, Failure> {
    if let Some(error) = &line.error {
        return Err(Failure::Message(error.clone()));
    }
    let detail = line.progress_detail.clone().unwrap_or_default();
    Ok(line.id.as_ref().map(|id| Progress::Layer {
        image: image.into(),
        id: id.clone(),
        status: line.status.clone().unwrap_or_default(),
        current: detail.current.unwrap_or(0),
        total: detail.total.unwrap_or(0),
    }))
}

pub async fn list(global: &Global, command: ImagesArgs) -> Outcome {
    let (name, loaded) = project::name(global)?;
    ps::check_services(loaded.as_ref(), &command.services)?;
    let Some(client) = connect::engine_if_any(global).await? else { return Ok(()) };
    let containers = ps::containers(&client, &name, &command.services, true).await?;
    let images: Vec<ImageSummary> = client.get("/images/json").await?;
    let of = |id: &str| images.iter().find(|image| image.id == id);
    let size = |id: &str| of(id).map_or(0, |image| image.size);
    let short = |id: &str| id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
    if command.quiet {
        let mut ids: Vec<&str> = containers.iter().map(|c| c.image_id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.iter().for_each(|id| println!("{}", id.trim_start_matches("sha256:")));
        return Ok(());
    }
    let named = |image: &str| match image.parse::<crate::image::ImageRef>() {
        Ok(r) => (r.familiar_name(), r.version().to_string()),
        Err(_) => (image.to_string(), String::new()),
    };
    if command.format == "json" {
        let values: Vec<Value> = containers
            .iter()
            .map(|c| {
                let (repository, tag) = named(&c.image);
                let created = of(&c.image_id).map(|image| image.created).unwrap_or_default();
                json!({
                    "ID": c.image_id, "ContainerName": c.name(), "Repository": repository, "Tag": tag,
                    "Platform": format!("linux/{}", crate::image::architecture()), "Size": size(&c.image_id),
                    "Created": jiff::Timestamp::from_second(created).map(|time| time.to_string()).unwrap_or_default(),
                })
            })
            .collect();
        println!("{}", Value::Array(values));
        return Ok(());
    }
    let now = jiff::Timestamp::now().as_second();
    let rows = containers.iter().map(|c| {
        let (repository, tag) = named(&c.image);
        let created = of(&c.image_id).map(|image| image.created);
        let created = created.map_or_else(|| "N/A".into(), |time| format!("{} ago", crate::units::time_text(now - time)));
        let platform = format!("linux/{}", crate::image::architecture());
        vec![c.name().to_string(), repository, tag, platform, short(&c.image_id), bytes(size(&c.image_id)), created]
    });
    let titles = ["CONTAINER", "REPOSITORY", "TAG", "PLATFORM", "IMAGE ID", "SIZE", "CREATED"];
    println!("{}", table(&titles, rows.collect()));
    Ok(())
}

const COLUMNS: [Column; 5] =
    [("Repository", "REPOSITORY"), ("Tag", "TAG"), ("ID", "IMAGE ID"), ("CreatedSince", "CREATED"), ("Size", "SIZE")];

/// An image under one of its names, as tables and templates have it.
fn image_row(image: &ImageSummary, id: &str, repository: &str, tag: &str) -> Value {
    let now = jiff::Timestamp::now().as_second();
    let created = image.created;
    json!({
        "Repository": repository,
        "Tag": tag,
        "ID": id,
        "CreatedSince": format!("{} ago", crate::units::time_text(now - created)),
        "CreatedAt": jiff::Timestamp::from_second(created).map(|time| time.to_string()).unwrap_or_default(),
        "Size": bytes(image.size),
        "Digest": image.repo_digests.first().and_then(|name| Some(name.split_once('@')?.1)).unwrap_or("<none>"),
        LABEL: image.labels,
    })
}

/// A condition of `--filter`.
fn filter(text: &str) -> Result<(String, String), String> {
    network::condition(text, &["label", "reference", "before", "since", "dangling"])
}

/// `image save`.
async fn save(client: &Client, references: &[String], output: Option<&std::path::Path>) -> Outcome {
    let names: Vec<String> = references.iter().map(|name| format!("names={}", escape(name))).collect();
    output_file::download(client, &format!("/images/get?{}", names.join("&")), output).await
}

/// `image history`.
async fn history(client: &Client, reference: &str) -> Outcome {
    let steps: Vec<ImageHistoryItem> = client.get(&format!("/images/{}/history", escape(reference))).await?;
    let rows = steps.iter().map(|step| {
        let id = step.id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        let by: String = step.created_by.chars().take(60).collect();
        vec![id, by, bytes(step.size), step.comment.clone()]
    });
    println!("{}", table(&["IMAGE", "CREATED BY", "SIZE", "COMMENT"], rows.collect()));
    Ok(())
}

/// `image ls`.
async fn list_images(
    client: &Client,
    Listing { quiet, no_trunc, format }: &Listing,
    name: Option<&str>,
    digests: bool,
    filter: &[(String, String)],
) -> Outcome {
    let images: Vec<ImageSummary> = client.get(&format!("/images/json?filters={}", network::filters(filter))).await?;
    let id = |image: &ImageSummary| match no_trunc {
        true => image.id.clone(),
        false => image.id.trim_start_matches("sha256:").chars().take(12).collect(),
    };
    let mut rows = Vec::new();
    for image in &images {
        let tags: Vec<&str> = image.repo_tags.iter().map(String::as_str).collect();
        for tag in if tags.is_empty() { vec!["<none>:<none>"] } else { tags } {
            let (repository, version) = tag.rsplit_once(':').unwrap_or((tag, ""));
            if name.is_none_or(|name| name == tag || name == repository) {
                rows.push(image_row(image, &id(image), repository, version));
            }
        }
    }
    if *quiet {
        let mut ids: Vec<&str> = rows.iter().filter_map(|row| row["ID"].as_str()).collect();
        ids.dedup();
        ids.iter().for_each(|id| println!("{id}"));
        return Ok(());
    }
    let mut columns = COLUMNS.to_vec();
    if digests {
        columns.insert(2, ("Digest", "DIGEST"));
    }
    format.print(&columns, &rows)
}

pub async fn image(global: &Global, command: ImageCommand) -> Outcome {
    if let ImageCommand::Build(command) = command {
        return crate::cli::project::build::image_build(global, *command).await;
    }
    let client = connect::engine(global).await?;
    match command {
        ImageCommand::Build(_) => {}
        ImageCommand::Push { reference, quiet } => crate::cli::project::push::push_one(&client, &reference, quiet).await?,
        ImageCommand::Tag { source, target } => {
            let path = format!("/images/{}/tag?repo={}", escape(&source), escape(&target));
            client.post_nothing(&path).await?;
        }
        ImageCommand::Save { references, output } => save(&client, &references, output.as_deref()).await?,
        ImageCommand::Prune { all, build_cache, .. } => {
            let filters = if all { "&filters=%7B%22dangling%22%3A%5B%22false%22%5D%7D" } else { "" };
            let path = format!("/images/prune?builds={build_cache}{filters}");
            let answer: ImagesPruned = client.post(&path, &()).await?;
            for ImageRemoval { untagged, deleted } in answer.images_deleted.into_iter().flatten() {
                let (what, name) = if deleted.is_empty() { ("Untagged", untagged) } else { ("Deleted", deleted) };
                println!("{what}: {name}");
            }
            println!("Total reclaimed space: {}", bytes(answer.space_reclaimed));
        }
        ImageCommand::History { reference } => history(&client, &reference).await?,
        ImageCommand::Import { file, reference, change } => {
            let changes: String = change.iter().map(|c| format!("&changes={}", escape(c))).collect();
            let path = format!("/images/create?fromSrc=-&repo={}{changes}", escape(&reference));
            let answer = upload(&client, &path, Some(file)).await?;
            let answer: ProgressLine = serde_json::from_str(&answer).unwrap_or_default();
            println!("{}", answer.status.unwrap_or_default());
        }
        ImageCommand::Load { input, file } => {
            let answer = upload(&client, "/images/load", input.or(file)).await?;
            for line in answer.lines() {
                let line: ProgressLine = serde_json::from_str(line).unwrap_or_default();
                print!("{}", line.stream.unwrap_or_default());
            }
        }
        ImageCommand::Pull { reference, quiet } => {
            pull_one(&client, &reference, &mut Steps::new(quiet)).await?;
            if quiet {
                println!("{reference}");
            }
        }
        ImageCommand::Ls { listing, name, digests, filter, .. } => {
            list_images(&client, &listing, name.as_deref(), digests, &filter).await?;
        }
        ImageCommand::Rm { references, force } => remove(&client, &references, force).await?,
        ImageCommand::Inspect { format, references } => {
            let paths = references.iter().map(|reference| format!("/images/{}/json", escape(reference)));
            super::network::inspect(&client, format.as_deref(), paths).await?;
        }
    }
    Ok(())
}

/// Sends a file, or standard input, as a request's body.
async fn upload(client: &Client, path: &str, file: Option<PathBuf>) -> Result<String, Failure> {
    match file.filter(|f| f != std::path::Path::new("-")) {
        Some(file) => {
            let opened =
                tokio::fs::File::open(&file).await.map_err(|e| Failure::Message(format!("opening {}: {e}", file.display())))?;
            Ok(client.post_stream(path, opened).await?)
        }
        None => Ok(client.post_stream(path, tokio::io::stdin()).await?),
    }
}

/// Removes each image that can be removed; with exit code 1 where one could not.
async fn remove(client: &Client, references: &[String], force: bool) -> Outcome {
    let mut failed = false;
    for reference in references {
        let path = format!("/images/{}?force={}", escape(reference), u8::from(force));
        match client.delete_for::<Vec<ImageRemoval>>(&path).await {
            Ok(removed) => {
                let lines = removed.iter().flat_map(|one| [("Untagged", &one.untagged), ("Deleted", &one.deleted)]);
                lines.filter(|(_, what)| !what.is_empty()).for_each(|(done, what)| println!("{done}: {what}"));
            }
            Err(error @ ClientError::Refused { status, .. }) => {
                eprintln!("error: {error}");
                failed |= !(force && status == 404);
            }
            Err(error) => return Err(error.into()),
        }
    }
    if failed { Err(Failure::Code(1)) } else { Ok(()) }
}
