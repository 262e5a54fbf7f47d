//! `build --check`, which looks at Dockerfiles and builds nothing, and `build --print`, which says what would be built.

use super::{BuildFlags, image_name};
use crate::api::reply::escape;
use crate::api::types::ImageInspect;
use crate::cli::{Failure, Global, Outcome, connect};
use crate::compose::Loaded;
use crate::compose::model::{Build, Ulimit};
use crate::image::build::dockerfile::{self, Dockerfile, MAX_FILE};
use crate::image::build::git::GitRef;
use crate::image::build::grammar;
use crate::image::build::lint::{self, Checks, LintFinding};
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Lines around a finding that are shown.
const AROUND: usize = 2;

/// Looks at the Dockerfiles of services. An engine that is there is asked which variables the base images have.
///
/// # Errors
/// With code 1 when something was found; a Dockerfile that is not there, or that cannot be built.
pub(super) async fn check_services(global: &Global, loaded: &Loaded, names: &[String], flags: &BuildFlags) -> Outcome {
    let mut seen: Vec<(PathBuf, Option<String>)> = Vec::new();
    let mut found = 0;
    for name in names {
        let Some(build) = loaded.project.services.get(name).and_then(|service| service.build.as_ref()) else { continue };
        let mut args: BTreeMap<String, String> =
            build.args.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect();
        args.extend(super::values::arguments(&flags.build_args));
        let context = build.context.clone().unwrap_or_default();
        let (text, path) = match &build.dockerfile_inline {
            Some(text) => (text.clone(), PathBuf::from(format!("{name}: dockerfile_inline"))),
            None if GitRef::parse(&context).is_some() => {
                return Err(Failure::Message(format!(
                    "`services.{name}.build` is a Git repository: clone it, and check the Dockerfile there"
                )));
            }
            None => {
                let file = build.dockerfile.as_deref().unwrap_or("Dockerfile");
                let path = loaded.directory.join(&context).join(file);
                (read(&path)?, path)
            }
        };
        // Services of one Dockerfile are checked once.
        let key = (path.clone(), build.target.clone());
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let shown = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        found += check(global, &text, &shown, build, &args).await?;
    }
    if found > 0 { Err(Failure::Code(1)) } else { Ok(()) }
}

/// Shows what a Dockerfile's checks find, and how many that is.
///
/// # Errors
/// What would be a build's.
async fn check(
    global: &Global,
    text: &str,
    shown: &str,
    build: &Build,
    args: &BTreeMap<String, String>,
) -> Result<usize, Failure> {
    let wrong = |line: usize, message: &str| Failure::Message(format!("{shown}:{line}: {message}"));
    let file = dockerfile::parse(text).map_err(|error| wrong(error.line, &error.message))?;
    let checks = Checks::of(&file, args).map_err(|why| Failure::Message(format!("{shown}: {why}")))?;
    let known = environments(global, text, &file, &checks).await;
    let findings = lint::lint(text, &file, &checks, &|image| known.get(image).cloned());
    let replaced = |name: &str| build.additional_contexts.contains_key(name);
    // Two stages of one name are a finding, and no error besides.
    let error = grammar::first_error(file, build.target.as_deref(), replaced)
        .err()
        .filter(|_| findings.iter().all(|finding| finding.rule != "DuplicateStageName"));
    match (findings.len(), &error) {
        (0, Some(_)) => {}
        (0, None) => println!("Check complete, no warnings found."),
        (1, _) => println!("Check complete, 1 warning has been found!"),
        (count, _) => println!("Check complete, {count} warnings have been found!"),
    }
    for finding in &findings {
        print!("{}", shown_finding(finding, text, shown));
    }
    match error {
        Some((Some(line), message)) => Err(wrong(line, &message)),
        Some((None, message)) => Err(Failure::Message(format!("{message} in {shown}"))),
        None => Ok(findings.len()),
    }
}

/// The names of the variables that base images have, of those that are here. A check works without an engine too: then none is known.
async fn environments(global: &Global, text: &str, file: &Dockerfile, checks: &Checks) -> BTreeMap<String, Vec<String>> {
    let asked = RefCell::new(BTreeSet::new());
    lint::lint(text, file, checks, &|image| {
        asked.borrow_mut().insert(image.to_string());
        None
    });
    let asked = asked.into_inner();
    let mut known = BTreeMap::new();
    let Ok(Some(client)) = (match asked.is_empty() {
        true => Ok(None),
        false => connect::engine_if_any(global).await,
    }) else {
        return known;
    };
    for image in asked {
        let path = format!("/images/{}/json", escape(&image));
        let Ok(found) = client.get::<ImageInspect>(&path).await else { continue };
        let variables = found.config["Env"].as_array().into_iter().flatten();
        let name = |variable: &Value| Some(variable.as_str()?.split_once('=')?.0.to_string());
        known.insert(image, variables.filter_map(name).collect());
    }
    known
}

/// A finding with its lines, as `docker build --check` shows it.
fn shown_finding(finding: &LintFinding, text: &str, shown: &str) -> String {
    const RULER: &str = "--------------------\n";
    let (first, last) = finding.lines;
    let mut out = format!(
        "\nWARNING: {} - {}\n{}\n{shown}:{}\n{RULER}",
        finding.rule,
        finding.url(),
        crate::printable::lines(&finding.message),
        if first == last { first.to_string() } else { format!("{first}-{last}") },
    );
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        if number + AROUND >= first && number <= last + AROUND {
            let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
            out.push_str(&format!("{number:>4} | {mark} {}\n", crate::printable::lines(line)));
        }
    }
    out + RULER
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure::Message(format!("failed to read dockerfile: {}: {why}", path.display()));
    let file = File::open(path).map_err(|error| failed(&error))?;
    if !file.metadata().is_ok_and(|known| known.is_file()) {
        return Err(failed(&"it is no file"));
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(|error| failed(&error))?;
    Ok(text)
}

/// What would be built, in the form of `docker buildx bake --print`.
pub(super) fn print(loaded: &Loaded, names: &[String], flags: &BuildFlags) -> Outcome {
    let mut targets = Map::new();
    for name in names {
        let Some(build) = loaded.project.services.get(name).and_then(|service| service.build.as_ref()) else { continue };
        targets.insert(target_name(name), target(loaded, name, build, flags));
    }
    let default: Vec<&String> = targets.keys().collect();
    let file = json!({"group": {"default": {"targets": default}}, "target": targets});
    println!("{}", serde_json::to_string_pretty(&file).unwrap_or_default());
    Ok(())
}

/// A service's name as the name of a target, which has no dots.
fn target_name(service: &str) -> String {
    service.replace('.', "_")
}

fn target(loaded: &Loaded, name: &str, build: &Build, flags: &BuildFlags) -> Value {
    let mut args: BTreeMap<String, String> =
        build.args.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect();
    args.extend(super::values::arguments(&flags.build_args));
    let context = build.context.clone().unwrap_or_else(|| ".".into());
    let absolute = |path: &str| match path.contains("://") || GitRef::parse(path).is_some() {
        true => path.to_string(),
        false => loaded.directory.join(path).display().to_string(),
    };
    let contexts: BTreeMap<&String, String> = build
        .additional_contexts
        .iter()
        .map(|(key, location)| match location.strip_prefix("service:") {
            Some(service) => (key, format!("target:{}", target_name(service))),
            None => (key, absolute(location)),
        })
        .collect();
    let tags: Vec<String> = std::iter::once(image_name(&loaded.project, name)).chain(build.tags.iter().cloned()).collect();
    let ulimit = |(limit, value): (&String, &Ulimit)| match value {
        Ulimit::Both(n) => format!("{limit}={n}"),
        Ulimit::Pair { soft, hard } => format!("{limit}={soft}:{hard}"),
    };
    let ssh = build.ssh.iter().map(|(id, path)| match path {
        Some(path) if !path.is_empty() => format!("{id}={path}"),
        _ => id.clone(),
    });
    let secret = |source: &str| {
        let known = loaded.project.secrets.get(source)?;
        match (&known.file, &known.environment) {
            (Some(file), _) => Some(format!("type=file,id={source},src={}", loaded.directory.join(file).display())),
            (None, Some(variable)) => Some(format!("type=env,id={source},env={variable}")),
            _ => None,
        }
    };
    let all = [
        ("context", json!(absolute(&context))),
        ("contexts", json!(contexts)),
        ("dockerfile", json!(build.dockerfile.as_deref().unwrap_or("Dockerfile"))),
        ("dockerfile-inline", json!(build.dockerfile_inline)),
        ("args", json!(args)),
        ("labels", json!(build.labels)),
        ("tags", json!(tags)),
        ("cache-from", json!(build.cache_from)),
        ("cache-to", json!(build.cache_to)),
        ("target", json!(build.target)),
        ("secret", json!(build.secrets.iter().filter_map(|used| secret(&used.source)).collect::<Vec<_>>())),
        ("ssh", json!(ssh.collect::<Vec<_>>())),
        ("platforms", json!(build.platforms)),
        ("network", json!(build.network)),
        ("entitlements", json!(build.entitlements)),
        ("ulimits", json!(build.ulimits.iter().map(ulimit).collect::<Vec<_>>())),
        ("pull", json!(build.pull || flags.pull)),
        ("no-cache", json!(build.no_cache || flags.no_cache)),
        ("output", json!(["type=docker"])),
    ];
    let said = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    };
    // The text stands for the file.
    let kept = all.into_iter().filter(|(key, value)| said(value) && !(*key == "dockerfile" && build.dockerfile_inline.is_some()));
    Value::Object(kept.map(|(key, value)| (key.to_string(), value)).collect())
}
