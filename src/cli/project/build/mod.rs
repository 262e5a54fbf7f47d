//! `wharf build` and `wharf image build`. [`progress`] shows what they do, [`output`] is where the images go.

mod check;
mod elsewhere;
mod image;
mod output;
mod progress;
mod service;
mod values;

use crate::api::client::Client;
use crate::api::reply::escape;
use crate::cli::{Failure, Global, Outcome, connect, project};
use crate::compose::Loaded;
use crate::compose::model::{Project, Service};
use crate::image::build::BuildRequest;
use crate::image::build::solve::Built;
use futures::stream::{FuturesUnordered, StreamExt};
pub use image::{ImageBuild, image_build};
use service::{request, with_bases};
pub use values::ulimit;

#[derive(clap::Args, Debug, Default)]
pub struct BuildFlags {
    /// Build every step anew.
    #[arg(long)]
    no_cache: bool,
    /// Ask the registries for newer base images.
    #[arg(long)]
    pull: bool,
    /// Value of an ARG, NAME=VALUE; NAME alone takes it from the environment. May be repeated.
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    build_args: Vec<String>,
    /// Show nothing but errors.
    #[arg(short, long)]
    quiet: bool,
    /// How progress is shown: auto (in place on a terminal), plain (a line for each step), quiet.
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    progress: BuildProgress,
    /// Tell what the image was made from, for who gets it from a registry: true, false, or mode=min|max,builder-id=ID,...
    #[arg(long, value_name = "PARAMETERS", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    provenance: Option<String>,
    /// Tell what is in the image (a bill of materials): true, false, or generator=IMAGE.
    #[arg(long, value_name = "PARAMETERS", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    sbom: Option<String>,
    /// SSH agent for RUN --mount=type=ssh: default, or ID=SOCKET. May be repeated.
    #[arg(long, value_name = "ID[=SOCKET]")]
    ssh: Vec<String>,
    /// What the checks of the Dockerfiles find is shown.
    #[arg(skip)]
    checked: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
enum BuildProgress {
    #[default]
    Auto,
    Tty,
    Plain,
    Quiet,
}

impl BuildFlags {
    /// No flag but this one.
    pub fn quiet(quiet: bool) -> Self {
        BuildFlags { quiet, ..BuildFlags::default() }
    }
}

#[derive(clap::Args, Debug)]
pub struct BuildCommand {
    /// Services to build; by default all that have a `build`.
    services: Vec<String>,
    #[command(flatten)]
    flags: BuildFlags,
    /// Push the images afterwards.
    #[arg(long)]
    push: bool,
    /// Build the services that these depend on as well.
    #[arg(long)]
    with_dependencies: bool,
    /// Look at the Dockerfiles (docs.docker.com/reference/build-checks), and build nothing. The exit code is 1 where something is found.
    #[arg(long, conflicts_with = "push")]
    check: bool,
    /// Print what would be built as a bake file (JSON), and build nothing.
    #[arg(long, conflicts_with_all = ["push", "check"])]
    print: bool,
    /// Docker Compose's; wharf builds itself.
    #[arg(long, hide = true)]
    builder: Option<String>,
    /// Docker Compose's, which has no effect there either.
    #[arg(short, long, hide = true)]
    memory: Option<String>,
    /// Docker Compose's, all without effect there, too.
    #[arg(long, hide = true)]
    compress: bool,
    #[arg(long, hide = true)]
    force_rm: bool,
    #[arg(long, hide = true)]
    no_rm: bool,
    #[arg(long, hide = true)]
    parallel: bool,
}

/// Tags and pushes the image with its inline cache, as `cache_to` names it.
async fn push_cache(client: &Client, built: &Built, cache_to: &[String], quiet: bool) -> Outcome {
    for cache in cache_to {
        let field = |key: &str| cache.split(',').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
        match (field("type"), field("ref").or((!cache.contains('=')).then_some(cache))) {
            (Some("inline"), _) => {}
            (None | Some("registry"), Some(name)) => {
                client.post_nothing(&format!("/images/{}/tag?repo={}", escape(built.manifest.as_str()), escape(name))).await?;
                super::push::push_one(client, name, quiet).await?;
            }
            (kind, _) => {
                let kind = kind.unwrap_or("without a `ref`");
                eprintln!("warning: a cache of type `{kind}` is not supported: write type=inline, or type=registry,ref=IMAGE");
            }
        }
    }
    Ok(())
}

pub async fn run(global: &Global, mut command: BuildCommand) -> Outcome {
    command.flags.checked = true;
    let loaded = project::load(global, &command.services)?;
    let loaded = crate::cli::jobs::run::with_jobs_as_services(&loaded);
    super::ps::check_services(Some(&*loaded), &command.services)?;
    let mut wanted = command.services.clone();
    if command.with_dependencies {
        wanted = super::up::selected(&loaded, &wanted, false);
    }
    let chosen =
        |name: &str, service: &Service| service.build.is_some() && (wanted.is_empty() || wanted.iter().any(|w| w == name));
    let names: Vec<String> =
        loaded.project.services.iter().filter(|(name, service)| chosen(name, service)).map(|(name, _)| name.clone()).collect();
    if command.print {
        return check::print(&loaded, &names, &command.flags);
    }
    if command.check {
        return check::check_services(global, &loaded, &names, &command.flags).await;
    }
    if names.is_empty() {
        eprintln!("nothing to build: no service{} has a `build`", if wanted.is_empty() { "" } else { " among these" });
        return Ok(());
    }
    let several = |name: &&String| loaded.project.services[*name].build.as_ref().is_some_and(|build| build.platforms.len() > 1);
    if let Some(name) = names.iter().find(several) {
        return Err(Failure::Message(format!(
            "multiple platforms feature is currently not supported: services.{name}.build has several `platforms`\nleave one of them, or build each on a machine of its own"
        )));
    }
    if command.memory.is_some() {
        eprintln!("warning: --memory has no effect: set it with `ulimits` of the `build`");
    }
    if global.dry_run {
        names.iter().for_each(|name| println!("image {}: Built", image_name(&loaded.project, name)));
        return Ok(());
    }
    let client = connect::engine(global).await?;
    build_services(&client, &loaded, &names, &command.flags).await?;
    if command.push {
        // One without `image:` has no name of a registry's, and stays here, as with Docker Compose.
        for name in names.iter().filter(|name| loaded.project.services.get(*name).is_some_and(|s| s.image.is_some())) {
            super::push::push_one(&client, &image_name(&loaded.project, name), command.flags.quiet).await?;
        }
    }
    Ok(())
}

/// The image of a service: its `image`, or a name of the project and the service.
pub fn image_name(project: &Project, service: &str) -> String {
    let image = project.services.get(service).and_then(|service| service.image.clone());
    image.unwrap_or_else(|| format!("{}{}{service}", project.name, crate::cli::separator()))
}

/// Gives services that are built and have no `image` the name of theirs.
pub fn name_images(project: &mut Project) {
    let prefix = format!("{}{}", project.name, crate::cli::separator());
    let jobs = project.jobs.iter_mut().map(|(name, job)| (name, &mut job.service));
    let all = project.services.iter_mut().chain(jobs);
    for (name, service) in all.filter(|(_, service)| service.build.is_some() && service.image.is_none()) {
        service.image = Some(format!("{prefix}{name}"));
    }
}

/// Builds the images of services beside each other, each when those that it is built from are done.
///
/// # Errors
/// The first build that failed; the others are given up then.
pub async fn build_services(client: &Client, loaded: &Loaded, names: &[String], flags: &BuildFlags) -> Outcome {
    let mut waiting = with_bases(&loaded.project, names)?;
    let mut done: Vec<String> = Vec::new();
    let mut running = FuturesUnordered::new();
    let mut begun: Vec<String> = Vec::new();
    // Services of the same image and configuration, each with the one that is built for all.
    let mut alike: Vec<(String, String)> = Vec::new();
    loop {
        let (ready, rest) = waiting.into_iter().partition(|(_, bases)| bases.iter().all(|base| done.contains(base)));
        waiting = rest;
        let ready: Vec<(String, Vec<String>)> = ready;
        let known_before = done.len();
        for (name, _) in ready {
            match begun.iter().find(|known| builds_the_same(&loaded.project, known, &name)) {
                Some(known) if done.contains(known) => done.push(name),
                Some(known) => alike.push((name, known.clone())),
                None => {
                    begun.push(name.clone());
                    running.push(build_service(client, loaded, name, flags));
                }
            }
        }
        if done.len() > known_before {
            continue;
        }
        match running.next().await {
            Some(name) => {
                let name = name?;
                done.extend(alike.iter().filter(|(_, first)| *first == name).map(|(other, _)| other.clone()));
                done.push(name);
            }
            None => break,
        }
    }
    let quiet = flags.quiet || flags.progress == BuildProgress::Quiet || crate::cli::output::is_quiet();
    let is_built = |name: &&String| loaded.project.services.get(*name).is_some_and(|service| service.build.is_some());
    for name in begun.iter().filter(is_built).filter(|_| !quiet) {
        println!(" Image {}  Built", image_name(&loaded.project, name));
    }
    Ok(())
}

/// Whether one build makes the images of two services.
fn builds_the_same(project: &Project, one: &str, other: &str) -> bool {
    let service = |name: &str| project.services.get(name).map(|service| (&service.build, &service.platform));
    service(one) == service(other) && image_name(project, one) == image_name(project, other)
}

async fn build_service(client: &Client, loaded: &Loaded, name: String, flags: &BuildFlags) -> Result<String, Failure> {
    if let Some(service) = loaded.project.services.get(&name)
        && let Some(build) = &service.build
    {
        let request = request(loaded, &name, service, build, flags)?;
        let built = build_one(client, &request, &name, flags).await.map_err(|failure| match failure {
            Failure::Message(message) => Failure::Message(format!("building `{name}`: {message}")),
            other => other,
        })?;
        push_cache(client, &built, &build.cache_to, flags.quiet).await?;
    }
    Ok(name)
}

/// Builds an image and shows how.
async fn build_one(client: &Client, request: &BuildRequest, prefix: &str, flags: &BuildFlags) -> Result<Built, Failure> {
    let lines = match client.is_elsewhere() {
        true => elsewhere::post(client, request).await?,
        false => client.post_lines("/build", request).await?,
    };
    progress::show(lines, prefix, flags).await
}
