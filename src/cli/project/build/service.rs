//! The `build` of a service as a build request, and which services are built before it.

use super::values::{agent_flag, agents, arguments, check_context, epoch};
use super::{BuildFlags, image_name};
use crate::cli::{Failure, Outcome};
use crate::compose::Loaded;
use crate::compose::model::{Build, Project, Service, Ulimit};
use crate::image::ImageRef;
use crate::image::attest::WantedAttestations;
use crate::image::build::git::GitRef;
use crate::image::build::{BuildRequest, Secret, SecretContent};
use crate::units::ByteSize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Services, and those that they are built from, each with the latter's names.
pub(super) fn with_bases(project: &Project, names: &[String]) -> Result<Vec<(String, Vec<String>)>, Failure> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let mut path: Vec<String> = Vec::new();
    for name in names {
        find_bases(project, name, &mut path, &mut found)?;
    }
    let images: Vec<(String, Option<ImageRef>)> =
        found.iter().map(|(name, _)| (name.clone(), image_name(project, name).parse().ok())).collect();
    for at in 0..found.len() {
        let name = found[at].0.clone();
        let of_others = |from: &ImageRef| images.iter().find(|(other, image)| *other != name && image.as_ref() == Some(from));
        let froms = if found.len() > 1 { project.services.get(&name).map(stages_from).unwrap_or_default() } else { Vec::new() };
        for (other, _) in froms.iter().filter_map(of_others) {
            if !is_built_from(&found, other, &name) {
                found[at].1.push(other.clone());
            }
        }
    }
    Ok(found)
}

/// Whether a service's image is built from another's, in any number of steps.
fn is_built_from(found: &[(String, Vec<String>)], name: &str, base: &str) -> bool {
    let bases = found.iter().find(|(known, _)| known == name).map(|(_, bases)| bases.as_slice()).unwrap_or_default();
    bases.iter().any(|other| other == base || is_built_from(found, other, base))
}

/// The images that the stages of a service's Dockerfile begin with. One that cannot be read is refused by its build.
fn stages_from(service: &Service) -> Vec<ImageRef> {
    let Some(build) = &service.build else { return Vec::new() };
    let file = build.dockerfile.as_deref().unwrap_or("Dockerfile");
    let text = match (&build.dockerfile_inline, &build.context) {
        (Some(inline), _) => inline.clone(),
        (None, Some(context)) => std::fs::read_to_string(Path::new(context).join(file)).unwrap_or_default(),
        (None, None) => String::new(),
    };
    let image = |line: &str| {
        let mut words = line.split_whitespace();
        let instruction = words.next().filter(|word| word.eq_ignore_ascii_case("FROM"));
        instruction.and_then(|_| words.find(|word| !word.starts_with("--"))?.parse().ok())
    };
    text.lines().filter_map(image).collect()
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

pub(super) fn request(
    loaded: &Loaded,
    name: &str,
    service: &Service,
    build: &Build,
    flags: &BuildFlags,
) -> Result<BuildRequest, Failure> {
    let mut args: BTreeMap<String, String> =
        build.args.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect();
    for (name, value) in crate::cli::proxies::variables() {
        args.entry(name).or_insert(value);
    }
    args.extend(arguments(&flags.build_args));
    let contexts = contexts(loaded, build);
    let context = build.context.clone().unwrap_or_default();
    let git = GitRef::parse(&context).map(|_| context.clone());
    for context in contexts.values().chain(git.is_none().then_some(&context)) {
        check_context(context)?;
    }
    let given = build.ssh.iter().map(|(id, path)| (id.as_str(), path.as_deref()));
    let flagged = flags.ssh.iter().map(|text| agent_flag(text));
    let ulimits = build.ulimits.iter().map(|(limit, value)| match value {
        Ulimit::Both(n) => (limit.clone(), *n, *n),
        Ulimit::Pair { soft, hard } => (limit.clone(), *soft, *hard),
    });
    let mut entitlements = build.entitlements.clone();
    entitlements.extend(build.privileged.then(|| "security.insecure".to_string()));
    let platform = platform(name, build);
    let mut tags = vec![image_name(&loaded.project, name)];
    tags.extend(build.tags.iter().cloned());
    Ok(BuildRequest {
        checked: flags.checked && !flags.quiet,
        built: BTreeMap::new(),
        passing: false,
        unpacked: false,
        given: None,
        lender: None,
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
        labels: labels(loaded, name, build),
        tags,
        no_cache: build.no_cache || flags.no_cache,
        pull: build.pull || flags.pull,
        network: build.network.clone(),
        extra_hosts: build.extra_hosts.clone(),
        shm_size: build.shm_size.and_then(ByteSize::unsigned),
        platform: service.platform.clone().or_else(|| platform.cloned()),
        contexts,
        secrets: secrets(loaded, name, build)?,
        cache_from: build.cache_from.clone(),
        epoch: epoch(),
        attest: WantedAttestations::parse(
            flags.provenance.as_deref().or(build.provenance.as_deref()),
            flags.sbom.as_deref().or(build.sbom.as_deref()),
        )
        .map_err(|why| Failure::Message(format!("`services.{name}.build`: {why}")))?,
    })
}

/// `additional_contexts`; `service:` is the image of that service.
fn contexts(loaded: &Loaded, build: &Build) -> BTreeMap<String, String> {
    let of = |(context, location): (&String, &String)| {
        let location = match location.strip_prefix("service:") {
            Some(service) => format!("docker-image://{}", image_name(&loaded.project, service)),
            None => location.clone(),
        };
        (context.clone(), location)
    };
    build.additional_contexts.iter().map(of).collect()
}

/// The secrets of a build, by their target.
fn secrets(loaded: &Loaded, name: &str, build: &Build) -> Result<BTreeMap<String, Secret>, Failure> {
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
    Ok(secrets)
}

/// The labels of a service's image.
fn labels(loaded: &Loaded, name: &str, build: &Build) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = build.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    labels.insert("com.docker.compose.project".into(), loaded.project.name.clone());
    let own = image_name(&loaded.project, name);
    let mut others = loaded.project.services.iter().filter(|(other, service)| *other != name && service.build.is_some());
    // Services that share an image get no label of one of them: the image would change with each build.
    if !others.any(|(other, _)| image_name(&loaded.project, other) == own) {
        labels.insert("com.docker.compose.service".into(), name.into());
    }
    labels
}

/// Of several platforms the one that this machine can build.
fn platform<'a>(name: &str, build: &'a Build) -> Option<&'a String> {
    let platform = build.platforms.iter().find(|platform| crate::image::is_native(platform)).or(build.platforms.first());
    if let Some(built) = platform.filter(|_| build.platforms.len() > 1) {
        eprintln!(
            "warning: of the platforms of `services.{name}.build` only {built} is built: the others need machines of their own"
        );
    }
    platform
}
