//! `wharf publish`: the project as an OCI artifact.

mod sensitive;

use super::push::{How, push_built};
use crate::cli::output::Steps;
use crate::cli::remote::yes_or_no;
use crate::cli::{Failure, Global, Outcome, connect, project};
use crate::compose::model::{Service, VolumeKind};
use crate::compose::node::Node;
use crate::compose::publish::{Collected, collect};
use crate::compose::render;
use crate::compose::{Loaded, files};
use crate::image::ImageRef;
use crate::image::artifact::{FileKind, OciVersion, ProjectFile};
use crate::image::registry::Registry;
use crate::printable;
use crate::wire::Progress;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// The file of the images' digests, which is laid on top of the others.
const DIGESTS: &str = "image-digests.yaml";
/// Bytes of a file: what `-f oci://` reads of a layer.
const MAX_FILE: usize = 4 << 20;

#[derive(clap::Args, Debug)]
pub struct Publish {
    /// The artifact's name: REPOSITORY[:TAG].
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: String,
    /// Have the images by the digests that their tags have now.
    #[arg(long)]
    resolve_image_digests: bool,
    /// The OCI specification's version, 1.0 or 1.1; by default what the registry takes.
    #[arg(long, value_name = "VERSION", value_parser = ["", "1.0", "1.1"])]
    oci_version: Option<String>,
    /// Publish env files as well, and ask about no variable.
    #[arg(long)]
    with_env: bool,
    /// Answer yes to every question.
    #[arg(short, long, alias = "y")]
    yes: bool,
    /// Docker Compose's, for its tests.
    #[arg(long, hide = true)]
    insecure_registry: bool,
}

pub async fn run(global: &Global, command: Publish) -> Outcome {
    let name: ImageRef = command.repository.parse().map_err(|e| Failure::Message(format!("{e}")))?;
    // Every service is published, whatever its profiles.
    let mut all = global.clone();
    all.profiles = vec!["*".into()];
    let mut loaded = project::load(&all, &[])?;
    let options = project::options(&all);
    let environment = loaded.environment.clone().into_iter().collect();
    let directory = loaded.directory.clone();
    let collected = collect(&loaded.files, &directory, &environment, &|name| files::is_remote(&options, name))?;
    check(&loaded, &collected)?;
    if !command.yes {
        for question in questions(&loaded, &collected, command.with_env)? {
            if !yes_or_no(&question, false).await? {
                return Err(Failure::WithCode { why: Box::new(Failure::Message("canceled".into())), code: 130 });
            }
        }
    }
    warn_of_what_is_left(&collected, command.with_env);
    let client = connect::engine(global).await?;
    let how = How { dry_run: global.dry_run, ignore_failures: true, quiet: false };
    push_built(&client, &loaded, &[], how).await?;
    let mut layers = layers(&collected, command.with_env)?;
    if command.resolve_image_digests {
        super::config::resolve_digests(global, &mut loaded.root).await?;
        layers.push(file(FileKind::Compose, DIGESTS, digests(&loaded).into_bytes())?);
    }
    let mut steps = Steps::new(false);
    let mut step = |status: &str, done| {
        let (object, status) = (command.repository.clone(), status.to_string());
        steps.show(&Progress::Step { object, status, done });
    };
    step("publishing", false);
    if !global.dry_run {
        let version = match command.oci_version.as_deref() {
            Some("1.0") => Some(OciVersion::V1_0),
            Some("1.1") => Some(OciVersion::V1_1),
            _ => None,
        };
        let failed = |e: crate::image::ImageError| Failure::Message(format!("{e}"));
        Registry::new().map_err(failed)?.publish(&name, &layers, version).await.map_err(failed)?;
    }
    step("published", true);
    Ok(())
}

/// Refuses what another machine could not have.
fn check(loaded: &Loaded, collected: &Collected) -> Outcome {
    if let Some(path) = &collected.local_include {
        return Err(Failure::Message(format!(
            "cannot publish compose file with local includes: `{path}` is not in the artifact; include it by `oci://` or Git"
        )));
    }
    let built = loaded.project.services.iter().filter(|(_, service)| service.image.is_none() && service.build.is_some());
    let names: Vec<String> = built.map(|(name, _)| format!("- {name:?}")).collect();
    match names.is_empty() {
        true => Ok(()),
        false => Err(Failure::Message(format!(
            "your Compose stack cannot be published as it only contains a build section for service(s):\n{}\nname the image of each by `image:`",
            names.join("\n")
        ))),
    }
}

/// Names the files that are not in the artifact, and without which it does not load elsewhere.
fn warn_of_what_is_left(collected: &Collected, with_env: bool) {
    let env = collected.env_files.values().filter(|_| !with_env);
    let env = env.map(|path| format!("{}: --with-env publishes it", path.display()));
    let left: Vec<String> =
        collected.left.iter().cloned().chain(env).map(|file| format!("  {}", printable::line(&file))).collect();
    if !left.is_empty() {
        eprintln!("warning: these files are not in the artifact; who loads it needs them beside it:\n{}", left.join("\n"));
    }
}

/// What the user is asked, as Docker Compose asks it.
fn questions(loaded: &Loaded, collected: &Collected, with_env: bool) -> Result<Vec<String>, Failure> {
    let sensitive = sensitive_lines(loaded, collected)?;
    let all = [
        bind_mounts(&loaded.project.services),
        (!sensitive.is_empty()).then(|| {
            format!(
                "you are about to publish sensitive data within your OCI artifact.\nplease double check that you are not leaking sensitive data\n{}\nAre you ok to publish these sensitive data? [y/N]: ",
                sensitive.join("\n")
            )
        }),
        if with_env { None } else { variables(collected) },
        contents(collected),
    ];
    Ok(all.into_iter().flatten().collect())
}

fn bind_mounts(services: &indexmap::IndexMap<String, Service>) -> Option<String> {
    let mut lines = Vec::new();
    for (name, service) in services {
        for volume in service.volumes.iter().filter(|volume| volume.kind == VolumeKind::Bind) {
            let source = volume.source.as_deref().unwrap_or_default();
            lines.push(format!("{name}: {source}:{}{}", volume.target, if volume.read_only { ":ro" } else { "" }));
        }
    }
    (!lines.is_empty()).then(|| {
        format!(
            "you are about to publish bind mounts declaration within your OCI artifact.\nonly the bind mount declarations will be added to the OCI artifact (not content)\nplease double check that you are not mounting potential user's sensitive directories or data\n{}\nAre you ok to publish these bind mount declarations? [y/N]: ",
            lines.join("\n")
        )
    })
}

/// Where something looks like a secret, in the files that are published, and in those of configs, secrets and variables.
fn sensitive_lines(loaded: &Loaded, collected: &Collected) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    let mut scan = |name: &str, text: &str| {
        lines.extend(sensitive::scan(text).into_iter().map(|found| format!("{}: {name}:{}", found.kind, found.line)));
    };
    for (path, text) in &collected.files {
        scan(&path.display().to_string(), text);
    }
    for (name, text) in &collected.extended {
        scan(name, text);
    }
    let objects = loaded.project.configs.values().chain(loaded.project.secrets.values());
    let named = objects.filter_map(|object| object.file.as_ref()).map(std::path::PathBuf::from);
    for path in collected.env_files.values().cloned().chain(named) {
        let shown = path.display().to_string();
        let text = crate::sys::regular::read_regular_file(&path, MAX_FILE as u64);
        let text = text.map_err(|e| Failure::Message(format!("failed to scan {shown}: {e}")))?;
        scan(&shown, &String::from_utf8_lossy(&text));
    }
    Ok(lines)
}

fn variables(collected: &Collected) -> Option<String> {
    let mut suspicious: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (service, name, value) in &collected.variables {
        if sensitive::is_secret(name, value) {
            suspicious.entry(service).or_default().insert(name);
        }
    }
    let services: BTreeSet<&str> = collected.with_env_file.iter().map(String::as_str).chain(suspicious.keys().copied()).collect();
    if services.is_empty() {
        return None;
    }
    let mut text = String::from(
        "you are about to publish env-related declarations within your OCI artifact.\nenv_file paths and literal values for sensitive-looking keys are embedded as-is in the published YAML;\ninterpolated values like \"${VAR}\" are kept symbolic and have already been excluded.\n",
    );
    for service in services {
        if collected.with_env_file.contains(service) {
            let _ = writeln!(text, "  service {service:?}: env_file declared");
        }
        if let Some(names) = suspicious.get(service) {
            let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
            let _ = writeln!(text, "  service {service:?}: literal value for {}", names.join(", "));
        }
    }
    text.push_str(
        "Use --with-env to silence this prompt and always publish env declarations.\nAre you ok to publish these env declarations? [y/N]: ",
    );
    Some(text)
}

fn contents(collected: &Collected) -> Option<String> {
    let literal = collected.contents.iter().filter(|(_, content)| sensitive::is_literal(content));
    let names: BTreeSet<&str> = literal.map(|(name, _)| name.as_str()).collect();
    (!names.is_empty()).then(|| {
        let lines: Vec<String> = names.iter().map(|name| format!("  config {name:?}")).collect();
        format!(
            "you are about to publish literal inline config content within your OCI artifact.\n{}\nAre you ok to publish these config contents? [y/N]: ",
            lines.join("\n")
        )
    })
}

fn file(kind: FileKind, name: &str, content: Vec<u8>) -> Result<ProjectFile, Failure> {
    if content.len() > MAX_FILE {
        return Err(Failure::Message(format!("{name} has more than the {MAX_FILE} bytes that an artifact's file may have")));
    }
    Ok(ProjectFile { kind, name: name.to_string(), content })
}

fn layers(collected: &Collected, with_env: bool) -> Result<Vec<ProjectFile>, Failure> {
    let mut all = Vec::new();
    for (path, text) in &collected.files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        all.push(file(FileKind::Compose, &name, text.clone().into_bytes())?);
    }
    for (name, text) in &collected.extended {
        all.push(file(FileKind::Extended, name, text.clone().into_bytes())?);
    }
    for (name, path) in collected.env_files.iter().filter(|_| with_env) {
        let content = crate::sys::regular::read_regular_file(path, MAX_FILE as u64)
            .map_err(|e| Failure::Message(format!("reading {}: {e}", path.display())))?;
        all.push(file(FileKind::Env, name, content)?);
    }
    Ok(all)
}

/// A file of nothing but the images, whose digests are known.
fn digests(loaded: &Loaded) -> String {
    let services = loaded.root.get("services").and_then(Node::as_map).into_iter().flatten();
    let images: BTreeMap<&String, serde_json::Value> = services
        .filter_map(|(name, entry)| Some((name, serde_json::json!({"image": entry.node.get("image")?.as_str()?}))))
        .collect();
    render::yaml::text(&serde_json::json!({"services": images}))
}
