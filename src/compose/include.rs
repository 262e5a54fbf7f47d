//! `include`: whole models of other files, each loaded on its own with its own directory and variables, beside this one.

use super::diagnostic::Diagnostic;
use super::node::{Node, Value};
use std::path::{Path, PathBuf};

/// One entry of `include`, its paths absolute.
#[derive(Debug)]
pub struct Include {
    /// The first is the file; the others are laid on top of it.
    pub files: Vec<Node>,
    /// The directory of the included file's relative paths, where one is named.
    pub directory: Option<PathBuf>,
    /// `env_file`s; `None` stands for `.env` in the directory, where there is one.
    pub env_files: Option<Vec<(PathBuf, Node)>>,
    pub at: Node,
}

/// Takes the entries of `include` out of a canonical document. Its paths are relative to `directory`.
pub fn take(document: &mut Node, directory: &Path, found: &mut Vec<Diagnostic>) -> Vec<Include> {
    let Some(taken) = document.as_map_mut().and_then(|map| map.shift_remove("include")) else { return Vec::new() };
    let Value::List(entries) = taken.node.value else { return Vec::new() };
    let mut includes = Vec::with_capacity(entries.len());
    for entry in entries {
        let strings =
            |key: &str| -> Vec<Node> { entry.get(key).and_then(Node::as_list).map(<[Node]>::to_vec).unwrap_or_default() };
        let files: Vec<Node> = strings("path");
        if files.is_empty() {
            found.push(Diagnostic::error(&entry.at, "`include` needs a `path`").help("write `- path: FILE`, or `- FILE`"));
            continue;
        }
        let absolute = |node: &Node| super::paths::absolute(node.as_str().unwrap_or_default(), directory);
        let own = entry.get("project_directory").and_then(Node::as_str).filter(|text| !text.is_empty());
        let own = own.map(|text| super::paths::absolute(text, directory));
        let env_files = strings("env_file");
        includes.push(Include {
            files,
            directory: own,
            env_files: (!env_files.is_empty()).then(|| env_files.into_iter().map(|file| (absolute(&file), file)).collect()),
            at: entry,
        });
    }
    includes
}

/// Puts an included model's resources into the document that includes it. The same resource twice is fine; two different
/// ones of a name are not.
pub fn import(document: &mut Node, included: Node, found: &mut Vec<Diagnostic>) {
    let Value::Map(sections) = included.value else { return };
    for (section, entry) in sections {
        if !["services", "jobs", "networks", "volumes", "configs", "secrets", "models"].contains(&section.as_str()) {
            continue;
        }
        let Value::Map(resources) = entry.node.value else { continue };
        if document.get(&section).is_none_or(Node::is_null) {
            document.set(&section, Node::new(Value::Map(super::node::Map::default()), entry.node.at));
        }
        let Some(own) = document.get_mut(&section).and_then(Node::as_map_mut) else { continue };
        for (name, resource) in resources {
            match own.get(&name) {
                None => {
                    own.insert(name, resource);
                }
                Some(existing) if existing.node.to_json() == resource.node.to_json() => {}
                Some(existing) => found.push(
                    Diagnostic::error(&existing.key_at, format!("`{section}.{name}` is defined here and in an included file"))
                        .note(&resource.key_at, "the other definition")
                        .help("rename one of the two, or change the included one in a file that `include` lays on top: `path: [FILE, OVERRIDE]`"),
                ),
            }
        }
    }
}
