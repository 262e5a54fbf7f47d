//! `wharf build` and `wharf image build`. [`progress`] shows what they do, [`output`] is where the images go.

mod output;
mod progress;

use crate::api::client::Client;
use crate::api::reply::escape;
use crate::cli::{Failure, Global, Outcome, connect, project};
use crate::compose::Loaded;
use crate::compose::model::{Build, Project, Service, Ulimit};
use crate::image::attest::Wanted;
use crate::image::build::git::GitRef;
use crate::image::build::solve::Built;
use crate::image::build::{Request, Secret, SecretContent};
use futures::stream::{FuturesUnordered, StreamExt};
use output::Output;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
    progress: Progress,
    /// Tell what the image was made from, for who gets it from a registry: true, false, or mode=min|max,builder-id=ID,...
    #[arg(long, value_name = "PARAMETERS", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    provenance: Option<String>,
    /// Tell what is in the image (a bill of materials): true, false, or generator=IMAGE.
    #[arg(long, value_name = "PARAMETERS", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    sbom: Option<String>,
    /// SSH agent for RUN --mount=type=ssh: default, or ID=SOCKET. May be repeated.
    #[arg(long, value_name = "ID[=SOCKET]")]
    ssh: Vec<String>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
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

#[derive(clap::Args, Debug)]
pub struct ImageBuild {
    /// The directory to build from; `-` is a tar archive on standard input.
    context: String,
    /// Name of the image; may be repeated.
    #[arg(short, long = "tag", value_name = "NAME")]
    tags: Vec<String>,
    /// The Dockerfile; by default the one in the directory.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The stage to build.
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Label of the image, NAME=VALUE; may be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Network of RUN: default, host or none.
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// Address of a host, NAME:ADDRESS; may be repeated.
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    add_hosts: Vec<String>,
    /// Size of /dev/shm.
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// Secret for RUN --mount=type=secret: id=ID,src=FILE or id=ID,env=NAME. May be repeated.
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<String>,
    /// Another context, NAME=DIRECTORY or NAME=docker-image://IMAGE; may be repeated.
    #[arg(long = "build-context", value_name = "NAME=CONTEXT")]
    contexts: Vec<String>,
    /// os/architecture; this machine's is the only one that can be built.
    #[arg(long)]
    platform: Option<String>,
    /// Image whose steps may be taken instead of making them; may be repeated.
    #[arg(long, value_name = "IMAGE")]
    cache_from: Vec<String>,
    /// Where others find the steps: type=inline, or type=registry,ref=IMAGE. May be repeated.
    #[arg(long, value_name = "CACHE")]
    cache_to: Vec<String>,
    /// Stage of which every step is made anew; may be repeated.
    #[arg(long, value_name = "STAGE")]
    no_cache_filter: Vec<String>,
    /// Limit of RUN, NAME=SOFT[:HARD]; may be repeated.
    #[arg(long, value_name = "LIMIT")]
    ulimit: Vec<String>,
    /// What RUN may ask for: security.insecure. May be repeated.
    #[arg(long, value_name = "ENTITLEMENT")]
    allow: Vec<String>,
    /// What to tell of the image: type=provenance,mode=max or type=sbom,generator=IMAGE. May be repeated.
    #[arg(long, value_name = "ATTESTATION")]
    attest: Vec<String>,
    /// Write the image's id to a file.
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write what was built, with its digests, to a file in JSON.
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Where the result goes instead of the store: a directory, or type=local|tar|oci|docker,dest=PATH, type=image,push=true.
    #[arg(short, long = "output", value_name = "OUTPUT")]
    outputs: Vec<Output>,
    /// Push the image under each of its names.
    #[arg(long)]
    push: bool,
    /// Docker's: the image is in the store in any case.
    #[arg(long, hide = true)]
    load: bool,
    #[command(flatten)]
    flags: BuildFlags,
}

pub async fn image_build(global: &Global, command: ImageBuild) -> Outcome {
    let here = std::env::current_dir().map_err(|e| Failure::Message(format!("finding the working directory: {e}")))?;
    let from_input = command.context == "-";
    let split = |pairs: &[String], what: &str| -> Result<BTreeMap<String, String>, Failure> {
        let one = |pair: &String| {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| Failure::Message(format!("{what} `{pair}` is not NAME=VALUE")))?;
            Ok((name.to_string(), value.to_string()))
        };
        pairs.iter().map(one).collect()
    };
    let shm_size = command.shm_size.as_deref().map(|text| {
        let size = crate::units::bytes(text).and_then(|bytes| u64::try_from(bytes).ok());
        size.ok_or_else(|| Failure::Message(format!("`{text}` is not a size such as `64m`")))
    });
    let mut contexts = split(&command.contexts, "the context")?;
    for context in contexts.values_mut().filter(|context| !context.contains("://") && GitRef::parse(context).is_none()) {
        *context = here.join(&*context).to_string_lossy().into_owned();
    }
    let git = GitRef::parse(&command.context).map(|_| command.context.clone());
    let elsewhere = from_input || git.is_some();
    for context in contexts.values() {
        check_context(context)?;
    }
    // What is only taken away gets no name.
    let away = !command.outputs.is_empty() && command.outputs.iter().all(Output::takes_it_away);
    let mut tags = command.tags;
    tags.extend(command.outputs.iter().filter_map(|output| match output {
        Output::Image { name, .. } => name.clone(),
        _ => None,
    }));
    let push = command.push || command.outputs.iter().any(|output| matches!(output, Output::Image { push: true, .. }));
    if push && (tags.is_empty() || away) {
        return Err(Failure::Message(
            "an image without a name cannot be pushed: give it one with -t, and no other --output".into(),
        ));
    }
    let request = Request {
        context: if elsewhere { PathBuf::new() } else { here.join(&command.context) },
        dockerfile: command.file.map(|file| if elsewhere { file } else { here.join(file) }),
        git,
        inline_cache: !command.cache_to.is_empty(),
        cache_from: command.cache_from,
        no_cache_filter: command.no_cache_filter,
        ssh: agents(
            command.flags.ssh.iter().map(|text| text.split_once('=').map_or((text.as_str(), None), |(i, p)| (i, Some(p)))),
            &here,
        )?,
        ulimits: command.ulimit.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?,
        entitlements: command.allow,
        target: command.target,
        args: arguments(&command.flags.build_args),
        labels: split(&command.labels, "the label")?,
        tags: if away { Vec::new() } else { tags.clone() },
        passing: away,
        no_cache: command.flags.no_cache,
        pull: command.flags.pull,
        network: command.network,
        extra_hosts: command.add_hosts,
        shm_size: shm_size.transpose()?,
        platform: command.platform,
        contexts,
        secrets: command.secrets.iter().map(|text| secret(text, &here)).collect::<Result<_, _>>()?,
        epoch: epoch(),
        attest: attest(&command.flags, &command.attest)?,
        ..Request::default()
    };
    let client = connect::engine(global).await?;
    let built = if from_input {
        let query = serde_json::to_string(&request).map_err(|e| Failure::Message(e.to_string()))?;
        let lines = client.post_stream_lines(&format!("/build?request={}", escape(&query)), tokio::io::stdin()).await?;
        progress::show(lines, "", &command.flags).await?
    } else {
        build_one(&client, &request, "", &command.flags).await?
    };
    push_cache(&client, &built, &command.cache_to, command.flags.quiet).await?;
    for output in &command.outputs {
        output.write(&client, &built, &tags).await?;
    }
    for name in tags.iter().filter(|_| push) {
        super::push::push_one(&client, name, command.flags.quiet).await?;
    }
    if let Some(file) = command.metadata_file {
        output::write_metadata(&file, &built, if away { &[] } else { &tags })?;
    }
    if let Some(file) = command.iidfile {
        std::fs::write(&file, built.id.as_str()).map_err(|e| Failure::Message(format!("writing {}: {e}", file.display())))?;
    }
    if command.flags.quiet {
        println!("{}", built.id);
    }
    Ok(())
}

/// Refuses contexts that are neither directories, images nor repositories.
fn check_context(context: &str) -> Outcome {
    let known = !context.contains("://") || context.starts_with("docker-image://") || GitRef::parse(context).is_some();
    if known {
        Ok(())
    } else {
        Err(Failure::Message(format!("the context `{context}` is no directory, image or Git repository")))
    }
}

/// SSH agents by their ids: this process's, or the one at a path.
fn agents<'a>(
    given: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    directory: &Path,
) -> Result<BTreeMap<String, PathBuf>, Failure> {
    use std::os::unix::fs::FileTypeExt;
    let one = |(id, path): (&str, Option<&str>)| {
        let socket = match path.filter(|path| !path.is_empty()) {
            Some(path) => directory.join(path),
            None => std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from).ok_or_else(|| {
                Failure::Message(format!("the SSH agent `{id}`: SSH_AUTH_SOCK is not set; start ssh-agent and add a key to it"))
            })?,
        };
        match std::fs::metadata(&socket) {
            Ok(found) if found.file_type().is_socket() => Ok((id.to_string(), socket)),
            Ok(_) => Err(Failure::Message(format!(
                "the SSH agent `{id}`: {} is not a socket; a key is added to an agent with ssh-add",
                socket.display()
            ))),
            Err(e) => Err(Failure::Message(format!("the SSH agent `{id}`: {}: {e}", socket.display()))),
        }
    };
    given.map(one).collect()
}

/// `NAME=SOFT[:HARD]`.
pub fn ulimit(text: &str) -> Result<(String, i64, i64), Failure> {
    let wrong = || Failure::Message(format!("`{text}` is not a limit: write NAME=SOFT[:HARD], such as nofile=1024:2048"));
    let (name, values) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    Ok((name.to_string(), soft.parse().map_err(|_| wrong())?, hard.parse().map_err(|_| wrong())?))
}

/// Puts an image that tells its steps where `cache_to` says.
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

/// `id=ID,src=FILE` or `id=ID,env=NAME`.
fn secret(text: &str, here: &Path) -> Result<(String, Secret), Failure> {
    let field = |names: &[&str]| {
        text.split(',').find_map(|part| part.split_once('=').filter(|(key, _)| names.contains(key)).map(|(_, v)| v))
    };
    let wrong = || Failure::Message(format!("the secret `{text}` is not understood: write id=ID,src=FILE or id=ID,env=NAME"));
    let id = field(&["id"]).ok_or_else(wrong)?;
    let found = match (field(&["src", "source"]), field(&["env"])) {
        (Some(file), _) => SecretContent::File(here.join(file)),
        (None, name) => {
            let name = name.unwrap_or(id);
            SecretContent::Value(
                std::env::var(name)
                    .map_err(|_| Failure::Message(format!("the secret `{id}`: the variable `{name}` is not set")))?,
            )
        }
    };
    Ok((id.to_string(), found.into()))
}

fn arguments(given: &[String]) -> BTreeMap<String, String> {
    let one = |text: &String| match text.split_once('=') {
        Some((name, value)) => Some((name.to_string(), value.to_string())),
        None => Some((text.clone(), std::env::var(text).ok()?)),
    };
    given.iter().filter_map(one).collect()
}

/// What --provenance, --sbom and --attest want to be said.
fn attest(flags: &BuildFlags, attests: &[String]) -> Result<Wanted, Failure> {
    let (mut provenance, mut sbom) = (flags.provenance.clone(), flags.sbom.clone());
    for text in attests {
        let wrong =
            || Failure::Message(format!("`--attest {text}` is not understood: write type=provenance,... or type=sbom,..."));
        let (kind, rest): (Vec<&str>, Vec<&str>) = text.split(',').partition(|field| field.starts_with("type="));
        let disabled = rest.contains(&"disabled=true");
        let rest: Vec<&str> = rest.into_iter().filter(|field| !field.starts_with("disabled=")).collect();
        let parameters = match rest.as_slice() {
            _ if disabled => "false".to_string(),
            [] => "true".to_string(),
            fields => fields.join(","),
        };
        match kind.as_slice() {
            ["type=provenance"] => provenance = Some(parameters),
            ["type=sbom"] => sbom = Some(parameters),
            _ => return Err(wrong()),
        }
    }
    Wanted::parse(provenance.as_deref(), sbom.as_deref()).map_err(Failure::Message)
}

fn epoch() -> Option<i64> {
    std::env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok()
}

pub async fn run(global: &Global, command: BuildCommand) -> Outcome {
    let loaded = project::load(global, &command.services)?;
    super::ps::check_services(Some(&loaded), &command.services)?;
    let mut wanted = command.services.clone();
    if command.with_dependencies {
        wanted = super::up::with_dependencies(&loaded, wanted);
    }
    let chosen =
        |name: &str, service: &Service| service.build.is_some() && (wanted.is_empty() || wanted.iter().any(|w| w == name));
    let names: Vec<String> =
        loaded.project.services.iter().filter(|(name, service)| chosen(name, service)).map(|(name, _)| name.clone()).collect();
    if names.is_empty() {
        eprintln!("nothing to build: no service{} has a `build`", if wanted.is_empty() { "" } else { " among these" });
        return Ok(());
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
        for name in &names {
            super::push::push_one(&client, &image_name(&loaded.project, name), command.flags.quiet).await?;
        }
    }
    Ok(())
}

/// The image of a service: its `image`, or a name of the project and the service.
pub fn image_name(project: &Project, service: &str) -> String {
    let image = project.services.get(service).and_then(|service| service.image.clone());
    image.unwrap_or_else(|| format!("{}-{service}", project.name))
}

/// Gives services that are built and have no `image` the name of theirs.
pub fn name_images(project: &mut Project) {
    let prefix = project.name.clone();
    for (name, service) in project.services.iter_mut().filter(|(_, service)| service.build.is_some() && service.image.is_none()) {
        service.image = Some(format!("{prefix}-{name}"));
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
    let quiet = flags.quiet || flags.progress == Progress::Quiet || crate::cli::output::is_quiet();
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

/// Services, and those that they are built from, each with the latter's names.
fn with_bases(project: &Project, names: &[String]) -> Result<Vec<(String, Vec<String>)>, Failure> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let mut path: Vec<String> = Vec::new();
    for name in names {
        find_bases(project, name, &mut path, &mut found)?;
    }
    Ok(found)
}

fn find_bases(project: &Project, name: &str, path: &mut Vec<String>, found: &mut Vec<(String, Vec<String>)>) -> Outcome {
    if path.iter().any(|above| above == name) {
        return Err(Failure::Message(format!("the builds depend on each other in a cycle: {} -> {name}", path.join(" -> "))));
    }
    if found.iter().any(|(known, _)| known == name) {
        return Ok(());
    }
    let Some(service) = project.services.get(name) else {
        let above = path.last().map_or("", String::as_str);
        return Err(Failure::Message(format!("the build of `{above}` is from the service `{name}`, which is not active")));
    };
    let contexts = service.build.iter().flat_map(|build| build.additional_contexts.values());
    let bases: Vec<String> = contexts.filter_map(|context| context.strip_prefix("service:")).map(str::to_string).collect();
    path.push(name.to_string());
    for base in &bases {
        find_bases(project, base, path, found)?;
    }
    path.pop();
    found.push((name.to_string(), bases));
    Ok(())
}

fn request(loaded: &Loaded, name: &str, service: &Service, build: &Build, flags: &BuildFlags) -> Result<Request, Failure> {
    let mut args: BTreeMap<String, String> =
        build.args.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect();
    args.extend(arguments(&flags.build_args));
    let mut contexts = BTreeMap::new();
    for (context, place) in &build.additional_contexts {
        let place = match place.strip_prefix("service:") {
            Some(service) => format!("docker-image://{}", image_name(&loaded.project, service)),
            None => place.clone(),
        };
        contexts.insert(context.clone(), place);
    }
    let mut secrets = BTreeMap::new();
    for secret in &build.secrets {
        let Some(source) = loaded.project.secrets.get(&secret.source) else { continue };
        let content = match (&source.file, &source.environment, &source.content) {
            (Some(file), _, _) => SecretContent::File(loaded.directory.join(file)),
            (None, Some(variable), _) => SecretContent::Value(loaded.environment.get(variable).cloned().unwrap_or_default()),
            (None, None, Some(content)) => SecretContent::Value(content.clone()),
            _ => {
                return Err(Failure::Message(format!(
                    "the secret `{}` of `services.{name}.build` is external: wharf keeps none",
                    secret.source
                )));
            }
        };
        let number = |what: &str, text: &Option<String>| {
            let wrong = |text: &String| {
                let place = format!("services.{name}.build.secrets");
                Failure::Message(format!("`{what}: {text}` of `{}` in `{place}` is not a number", secret.source))
            };
            text.as_ref().map(|text| text.parse::<u32>().map_err(|_| wrong(text))).transpose()
        };
        let (uid, gid) = (number("uid", &secret.uid)?, number("gid", &secret.gid)?);
        let target = secret.target.clone().unwrap_or_else(|| secret.source.clone());
        secrets.insert(target, Secret { content, uid, gid, mode: secret.mode });
    }
    let context = build.context.clone().unwrap_or_default();
    let git = GitRef::parse(&context).map(|_| context.clone());
    for context in contexts.values().chain(git.is_none().then_some(&context)) {
        check_context(context)?;
    }
    let given = build.ssh.iter().map(|(id, path)| (id.as_str(), path.as_deref()));
    let flagged = flags.ssh.iter().map(|text| text.split_once('=').map_or((text.as_str(), None), |(id, path)| (id, Some(path))));
    let ulimits = build.ulimits.iter().map(|(limit, value)| match value {
        Ulimit::Both(n) => (limit.clone(), *n, *n),
        Ulimit::Pair { soft, hard } => (limit.clone(), *soft, *hard),
    });
    let mut entitlements = build.entitlements.clone();
    entitlements.extend(build.privileged.then(|| "security.insecure".to_string()));
    // Of several platforms the one that this machine can build.
    let platform = build.platforms.iter().find(|platform| crate::image::is_native(platform)).or(build.platforms.first());
    if let Some(built) = platform.filter(|_| build.platforms.len() > 1) {
        eprintln!(
            "warning: of the platforms of `services.{name}.build` only {built} is built: the others need machines of their own"
        );
    }
    let mut tags = vec![image_name(&loaded.project, name)];
    tags.extend(build.tags.iter().cloned());
    let mut labels: BTreeMap<String, String> = build.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    labels.insert("com.docker.compose.project".into(), loaded.project.name.clone());
    let others = loaded.project.services.iter().filter(|(other, service)| *other != name && service.build.is_some());
    // A label of one service would make the image of all another one, with each build.
    if !others.map(|(other, _)| image_name(&loaded.project, other)).any(|image| image == tags[0]) {
        labels.insert("com.docker.compose.service".into(), name.into());
    }
    Ok(Request {
        passing: false,
        unpacked: false,
        context: if git.is_some() { PathBuf::new() } else { loaded.directory.join(context) },
        git,
        inline_cache: !build.cache_to.is_empty(),
        no_cache_filter: build.no_cache_filter.clone(),
        ssh: agents(given.chain(flagged), &loaded.directory)?,
        ulimits: ulimits.collect(),
        entitlements,
        dockerfile: build.dockerfile.as_ref().map(PathBuf::from),
        inline: build.dockerfile_inline.clone(),
        target: build.target.clone(),
        args,
        labels,
        tags,
        no_cache: build.no_cache || flags.no_cache,
        pull: build.pull || flags.pull,
        network: build.network.clone(),
        extra_hosts: build.extra_hosts.clone(),
        shm_size: build.shm_size.as_ref().and_then(|size| size.parse().ok()),
        platform: service.platform.clone().or_else(|| platform.cloned()),
        contexts,
        secrets,
        cache_from: build.cache_from.clone(),
        epoch: epoch(),
        attest: Wanted::parse(
            flags.provenance.as_deref().or(build.provenance.as_deref()),
            flags.sbom.as_deref().or(build.sbom.as_deref()),
        )
        .map_err(|why| Failure::Message(format!("`services.{name}.build`: {why}")))?,
    })
}

/// Builds an image and shows how.
async fn build_one(client: &Client, request: &Request, prefix: &str, flags: &BuildFlags) -> Result<Built, Failure> {
    let lines = client.post_lines("/build", request).await?;
    progress::show(lines, prefix, flags).await
}
