//! A service's variables and labels from its files, and from the surroundings where the file gives a name alone.

use super::diagnostic::Diagnostic;
use super::dotenv;
use super::interpolate::Variables;
use super::node::{At, Entry, Map, Node, Value};
use std::path::Path;

/// Reads a file that a service names; `None` where it does not exist.
pub type Read<'a> = &'a mut dyn FnMut(&Path) -> Option<std::io::Result<String>>;

/// Gives names without a value the one of the surroundings, in a file's own scope: an included file has its own.
pub fn inherit(service: &mut Node, variables: &dyn Variables) {
    for entry in service.get_mut("environment").and_then(Node::as_map_mut).into_iter().flatten() {
        take(entry.1, entry.0, variables);
    }
    let Some(args) = service.get_mut("build").and_then(|build| build.get_mut("args")).and_then(Node::as_map_mut) else { return };
    for (name, entry) in args.iter_mut() {
        take(entry, name, variables);
    }
}

fn take(entry: &mut Entry, name: &str, variables: &dyn Variables) {
    if entry.node.is_null()
        && let Some(value) = variables.get(name)
    {
        entry.node.value = Value::String(value);
    }
}

/// `env_file` under `environment`, `label_file` under `labels`. Build arguments without a value go.
pub fn resolve(name: &str, service: &mut Node, variables: &dyn Variables, read: Read<'_>, found: &mut Vec<Diagnostic>) {
    if let Some(build) = service.get_mut("build").and_then(Node::as_map_mut)
        && let Some(args) = build.get_mut("args").and_then(|args| args.node.as_map_mut())
    {
        args.retain(|_, entry| !entry.node.is_null());
        if args.is_empty() {
            build.shift_remove("args");
        }
    }
    let files = take_files(service, "env_file");
    let mut merged = Map::default();
    for file in &files {
        let Some(path) = file.get("path") else { continue };
        let required = !matches!(file.get("required").map(|n| &n.value), Some(Value::Bool(false)));
        let raw = file.get("format").and_then(Node::as_str) == Some("raw");
        let earlier = merged.clone();
        let lookup = |key: &str| {
            let before = earlier.get(key).and_then(|entry: &Entry| entry.node.as_str().map(str::to_string));
            before.or_else(|| variables.get(key))
        };
        let wanted = VariableFile { what: "env file", service: name, at: &path.at, required, raw };
        load(&mut merged, path, &wanted, &lookup, read, found);
    }
    lay_over(service, "environment", merged);
    let mut labels = Map::default();
    for path in take_files(service, "label_file") {
        let wanted = VariableFile { what: "label file", service: name, at: &path.at, required: true, raw: false };
        load(&mut labels, &path, &wanted, &|_: &str| None, read, found);
    }
    lay_over(service, "labels", labels);
    if let Some(map) = service.as_map_mut() {
        map.shift_remove("extends");
    }
}

struct VariableFile<'a> {
    what: &'a str,
    service: &'a str,
    at: &'a At,
    required: bool,
    raw: bool,
}

fn take_files(service: &mut Node, key: &str) -> Vec<Node> {
    let taken = service.as_map_mut().and_then(|map| map.shift_remove(key));
    match taken.map(|entry| entry.node.value) {
        Some(Value::List(files)) => files,
        _ => Vec::new(),
    }
}

/// The service's own values on top of those of its files.
fn lay_over(service: &mut Node, key: &str, mut merged: Map) {
    if merged.is_empty() {
        return;
    }
    let at = service.at;
    if let Some(Value::Map(own)) = service.get_mut(key).map(|node| std::mem::replace(&mut node.value, Value::Null)) {
        merged.extend(own);
    }
    service.set(key, Node::new(Value::Map(merged), at));
}

fn load(
    into: &mut Map,
    path: &Node,
    wanted: &VariableFile<'_>,
    lookup: &dyn Variables,
    read: Read<'_>,
    found: &mut Vec<Diagnostic>,
) {
    let text = path.as_str().unwrap_or_default();
    let VariableFile { what, service, at, .. } = wanted;
    let content = match read(Path::new(text)) {
        None if !wanted.required => return,
        None => {
            found.push(
                Diagnostic::error(at, format!("{what} {text} not found: `services.{service}` names it"))
                    .help("create it, or write `{path: FILE, required: false}`"),
            );
            return;
        }
        Some(Err(error)) => {
            found.push(Diagnostic::error(at, format!("the {what} {text} cannot be read: {error}")));
            return;
        }
        Some(Ok(content)) => content,
    };
    let values = if wanted.raw { Ok(dotenv::parse_raw(&content)) } else { dotenv::parse(&content, lookup) };
    match values {
        Ok(values) => into.extend(values.into_iter().map(|(name, value)| {
            let node = Node::string(value, at);
            (name, Entry { key_at: *(*at), node })
        })),
        Err(malformed) => found.push(
            Diagnostic::error(at, format!("{text}:{}: {}", malformed.line, malformed.why))
                .help("such a file has a line NAME=VALUE for each variable"),
        ),
    }
}
