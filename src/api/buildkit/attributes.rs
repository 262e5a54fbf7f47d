//! The attributes of the frontend `dockerfile.v0`, as a build's request.

use super::grpc::{Code, GrpcStatus};
use crate::image::attest;
use crate::image::build::BuildRequest;
use crate::image::build::git::GitRef;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// Attributes by their names.
pub(super) type Attributes = HashMap<String, String>;

/// Where the files of a build come from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A directory of the client, by its name there.
    Local(String),
    Git(String),
    /// An archive that the client uploads.
    Upload(String),
}

/// What the attributes say of files that are yet to be fetched.
pub(super) struct Files {
    pub context: Source,
    /// The client's directory with the Dockerfile; without one it is in the context.
    pub dockerfile: Option<String>,
    /// The Dockerfile's name in there.
    pub filename: String,
    /// Other contexts that are directories of the client: the name in the Dockerfile, the name at the client.
    pub contexts: BTreeMap<String, String>,
    /// Contexts that are results of other builds: the name in the Dockerfile, the name among the call's inputs.
    pub inputs: BTreeMap<String, String>,
}

fn invalid(text: impl Into<String>) -> GrpcStatus {
    GrpcStatus::new(Code::InvalidArgument, text)
}

/// An entry of `cache-imports`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CacheImport {
    r#type: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// The attributes whose names begin so, by the rest of their names.
pub(super) fn below(attributes: &Attributes, prefix: &str) -> BTreeMap<String, String> {
    let named = |(name, value): (&String, &String)| Some((name.strip_prefix(prefix)?.to_string(), value.clone()));
    attributes.iter().filter_map(named).collect()
}

/// Reads the attributes.
///
/// # Errors
/// What they ask for and wharf cannot do.
pub(super) fn read(attributes: &Attributes) -> Result<(BuildRequest, Files), GrpcStatus> {
    let get = |name: &str| attributes.get(name).map(String::as_str).filter(|value| !value.is_empty());
    if let Some(id) = get("requestid") {
        return Err(invalid(format!("the request {id} is no build: it comes by the call LLBBridge.Solve")));
    }
    let args = below(attributes, "build-arg:");
    let epoch =
        args.get("SOURCE_DATE_EPOCH").map(|text| text.parse().map_err(|_| invalid(format!("invalid SOURCE_DATE_EPOCH: {text}"))));
    let mut request = BuildRequest {
        target: get("target").map(str::to_string),
        labels: below(attributes, "label:"),
        no_cache: attributes.get("no-cache").is_some_and(String::is_empty),
        no_cache_filter: list(get("no-cache")),
        pull: get("image-resolve-mode") == Some("pull"),
        network: get("force-network-mode").map(network).transpose()?,
        extra_hosts: list(get("add-hosts")).into_iter().map(|host| host.replacen('=', ":", 1)).collect(),
        shm_size: get("shm-size").map(number("shm-size")).transpose()?.filter(|size| *size > 0),
        platform: get("platform").map(str::to_string),
        cache_from: cache_from(get("cache-from"), get("cache-imports"))?,
        inline_cache: args.get("BUILDKIT_INLINE_CACHE").is_some_and(|value| matches!(value.as_str(), "1" | "true")),
        ulimits: list(get("ulimit")).iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?,
        epoch: epoch.transpose()?,
        attest: attest::WantedAttestations::parse(get("attest:provenance"), get("attest:sbom")).map_err(invalid)?,
        args,
        unpacked: true,
        ..BuildRequest::default()
    };
    if request.platform.as_ref().is_some_and(|platforms| platforms.contains(',')) {
        return Err(invalid("wharf builds for one platform at a time, which is that of this machine"));
    }
    let files = files(attributes, &mut request)?;
    Ok((request, files))
}

/// Where the files are that the attributes name.
///
/// # Errors
/// Contexts of kinds that wharf does not know.
pub(super) fn files(attributes: &Attributes, request: &mut BuildRequest) -> Result<Files, GrpcStatus> {
    let get = |name: &str| attributes.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let local = get("contextkey").unwrap_or("context").to_string();
    let context = match get("context") {
        None => Source::Local(local),
        Some(text) => match (text.strip_prefix("local:"), upload_of(text)) {
            (Some(name), _) => Source::Local(name.to_string()),
            (None, Some(id)) => Source::Upload(id.to_string()),
            (None, None) => Source::Git(text.to_string()),
        },
    };
    let is_local = matches!(context, Source::Local(_));
    let dockerfile = get("dockerfilekey").map(str::to_string).or_else(|| is_local.then(|| "dockerfile".to_string()));
    let (mut contexts, mut inputs) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in attributes.iter().filter_map(|(name, value)| Some((name.strip_prefix("context:")?, value))) {
        if let Some(key) = value.strip_prefix("input:") {
            inputs.insert(name.to_string(), key.to_string());
            continue;
        }
        match value.strip_prefix("local:") {
            Some(local) => drop(contexts.insert(name.to_string(), local.to_string())),
            None if value.starts_with("docker-image://") || GitRef::parse(value).is_some() => {
                request.contexts.insert(name.to_string(), value.clone());
            }
            None => {
                let message = format!(
                    "the context `{name}` is {value}: wharf knows directories, images (docker-image://) and Git repositories"
                );
                return Err(invalid(message));
            }
        }
    }
    Ok(Files { context, dockerfile, filename: get("filename").unwrap_or("Dockerfile").to_string(), contexts, inputs })
}

/// The id of what the client uploads.
fn upload_of(text: &str) -> Option<&str> {
    text.strip_prefix("http://buildkit-session/")
}

/// Values with commas between them; one with a comma in it is quoted.
fn list(text: Option<&str>) -> Vec<String> {
    let mut values = vec![String::new()];
    let mut quoted = false;
    for character in text.unwrap_or_default().chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => values.push(String::new()),
            other => values.last_mut().into_iter().for_each(|value| value.push(other)),
        }
    }
    values.retain(|value| !value.is_empty());
    values
}

fn network(mode: &str) -> Result<String, GrpcStatus> {
    match mode {
        "sandbox" => Ok("default".into()),
        "default" | "host" | "none" => Ok(mode.into()),
        other => Err(invalid(format!("invalid network mode {other}: host or none"))),
    }
}

fn number(name: &'static str) -> impl Fn(&str) -> Result<u64, GrpcStatus> {
    move |text| text.parse().map_err(|_| invalid(format!("invalid {name}: {text}")))
}

/// `nofile=1024:2048`, or one number for both.
fn ulimit(text: &str) -> Result<(String, i64, i64), GrpcStatus> {
    let wrong = || invalid(format!("invalid ulimit: {text}"));
    let (name, limits) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    Ok((name.to_string(), soft.parse().map_err(|_| wrong())?, hard.parse().map_err(|_| wrong())?))
}

fn cache_from(names: Option<&str>, imports: Option<&str>) -> Result<Vec<String>, GrpcStatus> {
    let mut all = list(names);
    let imports: Vec<CacheImport> = match imports {
        Some(text) => serde_json::from_str(text).map_err(|e| invalid(format!("cache-imports is not understood: {e}")))?,
        None => Vec::new(),
    };
    all.extend(imports.into_iter().map(|import| {
        let attributes: String = import.attrs.iter().map(|(name, value)| format!(",{name}={value}")).collect();
        format!("type={}{attributes}", import.r#type)
    }));
    all.dedup();
    Ok(all)
}

/// Refuses a frontend that is not the Dockerfile's own.
///
/// # Errors
/// With its name.
pub(super) fn check_frontend(frontend: &str, attributes: &Attributes) -> Result<(), GrpcStatus> {
    match frontend {
        "dockerfile.v0" => Ok(()),
        "gateway.v0" => check_syntax(attributes.get("source").map_or("", String::as_str)),
        other => Err(invalid(format!("wharf has no frontend {other}: it builds Dockerfiles (dockerfile.v0)"))),
    }
}

/// Refuses an image with a frontend that is not Docker's own, of whatever version and from whatever mirror: that is built by wharf.
pub(super) fn check_syntax(image: &str) -> Result<(), GrpcStatus> {
    let name = image.split('@').next().unwrap_or_default();
    let (directory, last) = name.rsplit_once('/').unwrap_or(("", name));
    let repository = last.split(':').next().unwrap_or_default();
    let known = ["dockerfile", "dockerfile-upstream"].contains(&repository) && directory.rsplit('/').next() == Some("docker");
    if known {
        return Ok(());
    }
    Err(invalid(format!(
        "the frontend {image} cannot be run: wharf builds Dockerfiles by itself; remove the line `# syntax=`, or name docker/dockerfile"
    )))
}

/// The image that a Dockerfile's `# syntax=` names. Parser directives come first in the file.
pub(super) fn syntax(dockerfile: &str) -> Option<&str> {
    let text = dockerfile.strip_prefix('\u{feff}').unwrap_or(dockerfile);
    let text = if text.starts_with("#!") { text.split_once('\n').map_or("", |(_, rest)| rest) } else { text };
    let directives = text.lines().map_while(|line| line.trim().strip_prefix('#')?.split_once('='));
    let found = directives.map(|(name, value)| (name.trim(), value.trim())).find(|(name, _)| name.eq_ignore_ascii_case("syntax"));
    found.and_then(|(_, value)| value.split_whitespace().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(all: &[(&str, &str)]) -> Attributes {
        all.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect()
    }

    #[test]
    fn attributes_become_a_request() {
        let (request, files) = read(&attributes(&[
            ("filename", "x.Dockerfile"),
            ("target", "one"),
            ("build-arg:A", "b=c"),
            ("build-arg:SOURCE_DATE_EPOCH", "7"),
            ("label:l", ""),
            ("no-cache", ""),
            ("image-resolve-mode", "pull"),
            ("add-hosts", "a=1.2.3.4,b=::1"),
            ("force-network-mode", "none"),
            ("shm-size", "65536"),
            ("ulimit", "nofile=1:2,core=3"),
            ("cache-imports", r#"[{"Type": "registry", "Attrs": {"ref": "r:1"}}]"#),
            ("context:other", "local:_other"),
            ("context:base", "docker-image://busybox"),
            ("context:made", "input:key"),
        ]))
        .expect("a request");
        assert_eq!((request.args["A"].as_str(), request.labels["l"].as_str(), request.epoch), ("b=c", "", Some(7)));
        assert!(request.no_cache && request.pull && request.no_cache_filter.is_empty());
        assert_eq!(request.extra_hosts, ["a:1.2.3.4", "b:::1"]);
        assert_eq!(request.ulimits, [("nofile".into(), 1, 2), ("core".into(), 3, 3)]);
        assert_eq!(request.cache_from, ["type=registry,ref=r:1"]);
        assert_eq!(
            (request.shm_size, request.network.as_deref(), request.target.as_deref()),
            (Some(65536), Some("none"), Some("one"))
        );
        assert_eq!(
            (files.filename.as_str(), files.dockerfile.as_deref(), &files.context),
            ("x.Dockerfile", Some("dockerfile"), &Source::Local("context".into()))
        );
        assert_eq!((files.contexts["other"].as_str(), request.contexts["base"].as_str()), ("_other", "docker-image://busybox"));
        assert_eq!(files.inputs["made"], "key");
        let filtered = read(&attributes(&[("no-cache", "a,b")])).expect("a request").0;
        assert!(!filtered.no_cache && filtered.no_cache_filter == ["a", "b"]);
        for (context, expected) in [
            ("http://buildkit-session/x", Source::Upload("x".into())),
            ("https://h/r.git#main", Source::Git("https://h/r.git#main".into())),
        ] {
            let files = read(&attributes(&[("context", context)])).expect("a request").1;
            assert_eq!((files.context, files.dockerfile), (expected, None));
        }
        for (name, value) in [
            ("requestid", "frontend.lint"),
            ("platform", "linux/amd64,linux/arm64"),
            ("shm-size", "x"),
            ("ulimit", "x"),
            ("context:a", "/etc"),
            ("force-network-mode", "container:x"),
            ("cache-imports", "{"),
        ] {
            assert!(read(&attributes(&[(name, value)])).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn frontends_of_others_are_refused() {
        for (text, expected) in [
            ("# syntax=docker/dockerfile:1\nFROM x", Some("docker/dockerfile:1")),
            ("#!/usr/bin/env x\n#escape=`\n# Syntax = other/frontend \nFROM x", Some("other/frontend")),
            ("FROM x\n# syntax=late", None),
            ("# a comment\n# syntax=late", None),
            ("", None),
        ] {
            assert_eq!(syntax(text), expected, "{text}");
        }
        for (image, good) in [
            ("docker/dockerfile:1", true),
            ("docker.io/docker/dockerfile", true),
            ("mirror:5000/docker/dockerfile-upstream:master@sha256:00", true),
            ("dockerfile", false),
            ("evil/docker-dockerfile", false),
            ("devthefuture/dockerfile-x", false),
            ("", false),
        ] {
            assert_eq!(check_syntax(image).is_ok(), good, "{image}");
        }
        assert!(check_frontend("gateway.v0", &attributes(&[("source", "docker/dockerfile:1")])).is_ok());
        assert!(
            check_frontend("gateway.v0", &attributes(&[("source", "x/y")])).is_err()
                && check_frontend("other", &Attributes::new()).is_err()
        );
    }
}
