//! `extends`: a service on top of another one, of the same file or of another.

use super::diagnostic::{Diagnostic, nearest};
use super::node::{Node, Value};
use super::{merge, paths, schema};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Reads another file of the project and takes it through the stages up to canonical form.
pub trait ReadFile {
    /// Where the file is that a service of `from` extends: relative to `directory`, or fetched.
    fn locate(&mut self, text: &str, directory: &Path, from: &Path, asked_at: &Node) -> Result<PathBuf, Vec<Diagnostic>>;

    fn read(&mut self, path: &Path, asked_at: &Node) -> Result<Node, Vec<Diagnostic>>;
}

/// Resolves every `extends` of a file's services. `file` is the file's own path, by which cycles are seen; paths of other
/// files are relative to `directory`.
pub fn resolve(root: &mut Node, file: &Path, directory: &Path, reader: &mut dyn ReadFile, found: &mut Vec<Diagnostic>) {
    let extending = |entry: &super::node::Entry| entry.node.get("extends").is_some_and(|extends| !extends.is_null());
    let names: Vec<String> = match root.get("services").and_then(Node::as_map) {
        Some(map) => map.iter().filter(|(_, entry)| extending(entry)).map(|(name, _)| name.clone()).collect(),
        None => return,
    };
    let mut resolver = ExtendsResolver { reader, others: HashMap::new() };
    for name in names {
        match resolver.service(root, file, directory, &name, &mut Vec::new()) {
            Ok(Some(service)) => {
                if let Some(services) = root.get_mut("services") {
                    services.set(&name, service);
                }
            }
            Ok(None) => {}
            Err(diagnostics) => {
                let cycle = diagnostics.iter().any(|d| d.message.starts_with(CYCLE));
                if !(cycle && found.iter().any(|d| d.message.starts_with(CYCLE))) {
                    found.extend(diagnostics);
                }
            }
        }
    }
}

/// How the message about a cycle begins. A cycle is one error, whichever of its services it is found from.
const CYCLE: &str = "`extends` has a cycle";

struct ExtendsResolver<'a> {
    reader: &'a mut dyn ReadFile,
    others: HashMap<PathBuf, Node>,
}

impl ExtendsResolver<'_> {
    fn service(
        &mut self,
        root: &Node,
        file: &Path,
        directory: &Path,
        name: &str,
        chain: &mut Vec<(PathBuf, String)>,
    ) -> Result<Option<Node>, Vec<Diagnostic>> {
        let Some(service) = root.get("services").and_then(|s| s.get(name)) else { return Ok(None) };
        let Some(extends) = service.get("extends").filter(|extends| !extends.is_null()) else { return Ok(Some(service.clone())) };
        let here = (file.to_path_buf(), name.to_string());
        if chain.contains(&here) {
            let path: Vec<&str> = chain.iter().map(|(_, n)| n.as_str()).chain([name]).collect();
            let message = format!("{CYCLE}: {}", path.join(" -> "));
            return Err(vec![
                Diagnostic::error(&extends.at, message).help("remove one of these `extends`: a service cannot be made of itself"),
            ]);
        }
        chain.push(here);
        let Some(base_name) = extends.get("service").and_then(Node::as_str) else {
            return Err(vec![
                Diagnostic::error(&extends.at, format!("`services.{name}.extends` needs `service`"))
                    .help("write `extends: {service: NAME}`, with `file: PATH` for another file"),
            ]);
        };
        let base = match extends.get("file").and_then(Node::as_str) {
            None => self
                .service(root, file, directory, base_name, chain)?
                .ok_or_else(|| vec![missing(root, extends, name, base_name, None)])?,
            Some(other) => {
                let path = self.reader.locate(other, directory, file, extends)?;
                let tree = match self.others.get(&path) {
                    Some(tree) => tree.clone(),
                    None => {
                        let tree = self.reader.read(&path, extends).map_err(|found| noted(found, extends, name))?;
                        self.others.insert(path.clone(), tree.clone());
                        tree
                    }
                };
                let parent = path.parent().unwrap_or(directory).to_path_buf();
                let base = self.service(&tree, &path, &parent, base_name, chain).map_err(|found| noted(found, extends, name))?;
                let mut base = base.ok_or_else(|| vec![missing(&tree, extends, name, base_name, Some(other))])?;
                paths::resolve_service(&mut base, &parent);
                base
            }
        };
        chain.pop();
        let mut base = match base.value {
            Value::Map(_) => base,
            _ => return Ok(Some(service.clone())),
        };
        let mut over = service.clone();
        for node in [&mut base, &mut over] {
            if let Value::Map(map) = &mut node.value {
                map.shift_remove("extends");
            }
        }
        merge::merge(&mut base, over, &schema::SERVICE);
        // Errors about the whole point at the service that was asked for.
        base.at = service.at;
        Ok(Some(base))
    }
}

fn noted(found: Vec<Diagnostic>, extends: &Node, name: &str) -> Vec<Diagnostic> {
    found.into_iter().map(|d| d.note(&extends.at, format!("`services.{name}` extends it here"))).collect()
}

fn missing(tree: &Node, extends: &Node, name: &str, base: &str, file: Option<&str>) -> Diagnostic {
    let at = extends.get("service").map_or(&extends.at, |service| &service.at);
    let names = tree.get("services").and_then(Node::as_map).into_iter().flat_map(|map| map.keys().map(String::as_str));
    let near = nearest(base, names).map(|near| format!("did you mean `{near}`?"));
    let place = file.map(|file| format!(" in {file}")).unwrap_or_default();
    Diagnostic::error(at, format!("`services.{name}` extends `{base}`, which is not defined{place}"))
        .help("define the service, or name another one to extend")
        .maybe_help(near)
}
