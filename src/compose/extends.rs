//! `extends:`: a service built on another one, of the same file or of another.

use super::diagnostic::{Diagnostic, nearest};
use super::merge;
use super::node::{Node, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Reads another file of the project and takes it through the stages up to canonical form.
pub trait ReadFile {
    fn read(&mut self, path: &Path, asked_at: &Node) -> Result<Node, Vec<Diagnostic>>;
}

/// Resolves every `extends` of a file's services. `file` is the file's own path, by which cycles are seen.
pub fn resolve(root: &mut Node, file: &Path, directory: &Path, reader: &mut dyn ReadFile, found: &mut Vec<Diagnostic>) {
    let names: Vec<String> = match root.get("services").and_then(Node::as_map) {
        Some(map) => map.keys().cloned().collect(),
        None => return,
    };
    let mut others = HashMap::new();
    for name in names {
        let mut chain = Vec::new();
        match resolve_one(root, file, directory, &name, reader, &mut others, &mut chain) {
            Ok(Some(service)) => {
                if let Some(services) = root.get_mut("services") {
                    services.set(&name, service);
                }
            }
            Ok(None) => {}
            Err(diagnostics) => found.extend(diagnostics),
        }
    }
}

fn resolve_one(
    root: &Node,
    file: &Path,
    directory: &Path,
    name: &str,
    reader: &mut dyn ReadFile,
    others: &mut HashMap<PathBuf, Node>,
    chain: &mut Vec<(PathBuf, String)>,
) -> Result<Option<Node>, Vec<Diagnostic>> {
    let Some(service) = root.get("services").and_then(|s| s.get(name)) else { return Ok(None) };
    let Some(extends) = service.get("extends") else { return Ok(Some(service.clone())) };
    let here = (file.to_path_buf(), name.to_string());
    if chain.contains(&here) {
        let path: Vec<&str> = chain.iter().map(|(_, n)| n.as_str()).chain([name]).collect();
        return Err(vec![Diagnostic::error(&extends.at, format!("`extends` goes in a circle: {}", path.join(" -> ")))]);
    }
    chain.push(here);
    let Some(base_name) = extends.get("service").and_then(Node::as_str) else {
        return Err(vec![
            Diagnostic::error(&extends.at, format!("`services.{name}.extends` needs `service`"))
                .help("write `extends: {service: NAME}`, with `file: PATH` for another file"),
        ]);
    };
    let missing = |tree: &Node, at: &Node| {
        let names =
            tree.get("services").and_then(Node::as_map).map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        let near = nearest(base_name, names.iter().map(String::as_str)).map(|n| format!("did you mean `{n}`?"));
        vec![Diagnostic::error(&at.at, format!("`services.{name}` extends `{base_name}`, which is not defined")).maybe_help(near)]
    };
    let base = match extends.get("file").and_then(Node::as_str) {
        None => resolve_one(root, file, directory, base_name, reader, others, chain)?,
        Some(other) => {
            let path = directory.join(other);
            let tree = match others.get(&path) {
                Some(tree) => tree.clone(),
                None => {
                    let tree = reader.read(&path, extends)?;
                    others.insert(path.clone(), tree.clone());
                    tree
                }
            };
            let parent = path.parent().unwrap_or(directory).to_path_buf();
            let mut base = resolve_one(&tree, &path, &parent, base_name, reader, others, chain)?;
            if let Some(base) = &mut base {
                super::paths::rebase(base, &parent);
            }
            base
        }
    };
    chain.pop();
    let Some(mut base) = base else { return Err(missing(root, extends)) };
    let mut over = service.clone();
    for node in [&mut base, &mut over] {
        if let Value::Map(map) = &mut node.value {
            map.shift_remove("extends");
        }
    }
    merge::merge(&mut base, over);
    Ok(Some(base))
}
