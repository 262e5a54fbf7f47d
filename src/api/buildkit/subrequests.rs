//! Questions about a Dockerfile that build nothing: `docker build --check` and `--call`, by the frontend's subrequests.

use super::attributes::{Attributes, below};
use super::grpc::{Code, GrpcStatus};
use crate::image::Store;
use crate::image::build::dockerfile::{self, MalformedDockerfile};
use crate::image::build::lint::{self, Checks};
use crate::image::build::stages::{self, Stages};
use crate::image::build::{GivenDockerfile, grammar, outline};
use crate::sys::blocking::in_place;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::HashMap;

/// What is asked about a Dockerfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subrequest {
    Describe,
    Lint,
    Outline,
    Targets,
}

/// The version of all of them.
const VERSION: &str = "1.0.0";

impl Subrequest {
    /// The question of a build's attributes; `None` where it is to build.
    ///
    /// # Errors
    /// Another question.
    pub fn of(attributes: &Attributes) -> Result<Option<Self>, GrpcStatus> {
        let id = attributes.get("requestid").map_or("", String::as_str);
        Ok(Some(match id {
            "" => return Ok(None),
            "frontend.subrequests.describe" => Subrequest::Describe,
            "frontend.lint" => Subrequest::Lint,
            "frontend.outline" => Subrequest::Outline,
            "frontend.targets" => Subrequest::Targets,
            other => {
                let message =
                    format!("unsupported request {other}: wharf answers frontend.lint, frontend.outline and frontend.targets");
                return Err(GrpcStatus::new(Code::Unimplemented, message));
            }
        }))
    }

    /// Answers about a file, as the metadata of a result.
    ///
    /// # Errors
    /// A Dockerfile that is not understood; of a check that is a part of the answer.
    pub fn answer(
        self,
        given: &GivenDockerfile,
        attributes: &Attributes,
        store: &Store,
    ) -> Result<HashMap<String, Vec<u8>>, MalformedDockerfile> {
        let (result, code) = match self {
            Subrequest::Describe => (describe(), None),
            Subrequest::Lint => {
                let found = lint(given, attributes, store);
                let clean = found["warnings"].as_array().is_some_and(Vec::is_empty) && found.get("buildError").is_none();
                (found, Some(if clean { "0" } else { "1" }))
            }
            Subrequest::Outline => (outline_of(given, attributes)?, None),
            Subrequest::Targets => (targets(given)?, None),
        };
        let text = serde_json::to_string_pretty(&result).unwrap_or_default();
        let mut metadata = HashMap::from([
            ("result.json".to_string(), text.clone().into_bytes()),
            ("result.txt".to_string(), text.into_bytes()),
            ("version".to_string(), VERSION.into()),
        ]);
        metadata.extend(code.map(|code| ("result.statuscode".to_string(), code.into())));
        Ok(metadata)
    }
}

fn describe() -> Value {
    let names = [
        ("frontend.lint", "Lint a Dockerfile"),
        ("frontend.outline", "List all parameters current build target supports"),
        ("frontend.targets", "List all targets current build supports"),
        ("frontend.subrequests.describe", "List available subrequest types"),
    ];
    names.iter().map(|(name, text)| json!({"name": name, "version": VERSION, "type": "rpc", "description": text})).collect()
}

/// A part of the file, in BuildKit's form.
fn location((first, last): (usize, usize)) -> Value {
    json!({"ranges": [{"start": {"line": first}, "end": {"line": last}}]})
}

fn source(given: &GivenDockerfile) -> Value {
    json!([{"filename": given.shown, "data": STANDARD.encode(&given.text), "language": "Dockerfile"}])
}

fn lint(given: &GivenDockerfile, attributes: &Attributes, store: &Store) -> Value {
    let failed = |line: Option<usize>, message: String| {
        let place = line.map_or(Value::Null, |line| location((line, line)));
        json!({"warnings": [], "sources": source(given), "buildError": {"message": message, "location": place}})
    };
    let file = match dockerfile::parse(&given.text) {
        Ok(file) => file,
        Err(wrong) => return failed(Some(wrong.line), wrong.message),
    };
    let checks = match Checks::of(&file, &below(attributes, "build-arg:")) {
        Ok(checks) => checks,
        Err(why) => return failed(None, why),
    };
    let found = lint::lint(&given.text, &file, &checks, &|image| store.environment(image));
    let warning = |finding: &lint::LintFinding| {
        json!({
            "ruleName": finding.rule,
            "description": finding.description(),
            "url": finding.url(),
            "detail": finding.message,
            "location": location(finding.lines),
        })
    };
    let warnings: Vec<Value> = found.iter().map(warning).collect();
    let target = attributes.get("target").map(String::as_str).filter(|target| !target.is_empty());
    let mut result = json!({"warnings": warnings, "sources": source(given)});
    let contexts = below(attributes, "context:");
    let error = in_place(|| grammar::first_error(file, target, |name| contexts.contains_key(name)));
    // A file with two stages of one name is a finding, and not an error twice.
    if let Err((line, message)) = error
        && found.iter().all(|finding| finding.rule != "DuplicateStageName")
    {
        let place = line.map_or(Value::Null, |line| location((line, line)));
        result["buildError"] = json!({"message": message, "location": place});
    }
    result
}

fn read(given: &GivenDockerfile) -> Result<Stages, MalformedDockerfile> {
    stages::split(dockerfile::parse(&given.text)?)
}

fn outline_of(given: &GivenDockerfile, attributes: &Attributes) -> Result<Value, MalformedDockerfile> {
    let stages = read(given)?;
    let target = attributes.get("target").filter(|target| !target.is_empty());
    let at = match target {
        Some(name) => {
            stages.find(name).ok_or_else(|| MalformedDockerfile::new(1, format!("target stage \"{name}\" could not be found")))?
        }
        None => stages.stages.len() - 1,
    };
    let outline = outline::of(&given.text, &stages, at, &below(attributes, "build-arg:"));
    let argument = |argument: &outline::OutlineArg| {
        let mut value = json!({"name": argument.name, "location": location(argument.lines)});
        if let Some(text) = &argument.value {
            value["value"] = json!(text);
        }
        if let Some(text) = &argument.description {
            value["description"] = json!(text);
        }
        value
    };
    let lent = |lent: &outline::OutlineMount| {
        let mut value = json!({"name": lent.id, "location": location(lent.lines)});
        if lent.required {
            value["required"] = json!(true);
        }
        value
    };
    let cache = |cache: &outline::OutlineMount| json!({"ID": cache.id, "location": location(cache.lines)});
    let of = |kind: &str| outline.mounts.iter().filter(move |mount| mount.kind == kind).collect::<Vec<_>>();
    let mut value = json!({"sources": [STANDARD.encode(&given.text)]});
    let stage = &stages.stages[at];
    if let Some(name) = &stage.name {
        value["name"] = json!(name);
        if let Some(text) = outline::description(&given.text, stage.line, name) {
            value["description"] = json!(text);
        }
    }
    for (key, list) in [
        ("args", outline.args.iter().map(argument).collect::<Vec<_>>()),
        ("secrets", of("secret").into_iter().map(lent).collect()),
        ("ssh", of("ssh").into_iter().map(lent).collect()),
        ("cache", of("cache").into_iter().map(cache).collect()),
    ] {
        if !list.is_empty() {
            value[key] = json!(list);
        }
    }
    Ok(value)
}

fn targets(given: &GivenDockerfile) -> Result<Value, MalformedDockerfile> {
    let stages = read(given)?;
    let last = stages.stages.len() - 1;
    let target = |(at, stage): (usize, &stages::Stage)| {
        let mut value = json!({"base": stage.base, "location": location((stage.line, stage.line))});
        if let Some(name) = &stage.name {
            value["name"] = json!(name);
            if let Some(text) = outline::description(&given.text, stage.line, name) {
                value["description"] = json!(text);
            }
        }
        if let Some(platform) = &stage.platform {
            value["platform"] = json!(platform);
        }
        if at == last {
            value["default"] = json!(true);
        }
        value
    };
    let all: Vec<Value> = stages.stages.iter().enumerate().map(target).collect();
    Ok(json!({"targets": all, "sources": [STANDARD.encode(&given.text)]}))
}
