//! Relative paths of a Compose file, resolved against the directory that they are relative to.

use super::canonical::{each, each_workload};
use super::node::{Node, Value};
use std::path::{Component, Path, PathBuf};

/// Makes every path of a canonical tree absolute: of services, configs, secrets and volumes.
pub fn resolve(root: &mut Node, directory: &Path) {
    each_workload(root, |_, service| resolve_service(service, directory));
    for section in ["configs", "secrets"] {
        each(root, section, |_, node| {
            if let Some(file) = node.get_mut("file") {
                absolute_node(file, directory);
            }
        });
    }
    each(root, "volumes", |_, volume| {
        let local = volume.get("driver").and_then(Node::as_str) == Some("local");
        let Some(options) = volume.get_mut("driver_opts").filter(|_| local) else { return };
        if options.get("o").and_then(Node::as_str) == Some("bind")
            && let Some(device) = options.get_mut("device")
        {
            absolute_or_empty(device, directory);
        }
    });
}

/// Makes the paths of a service absolute: contexts, sources of binds, files of variables and labels, watched paths.
pub fn resolve_service(service: &mut Node, directory: &Path) {
    for volume in items(service.get_mut("volumes")) {
        if volume.get("type").and_then(Node::as_str) == Some("bind")
            && let Some(source) = volume.get_mut("source")
        {
            absolute_or_empty(source, directory);
        }
    }
    for file in items(service.get_mut("env_file")) {
        if let Some(path) = file.get_mut("path") {
            absolute_node(path, directory);
        }
    }
    for file in items(service.get_mut("label_file")) {
        absolute_node(file, directory);
    }
    for trigger in items(service.get_mut("develop").and_then(|develop| develop.get_mut("watch"))) {
        if let Some(path) = trigger.get_mut("path") {
            absolute_node(path, directory);
            follow_links(path);
        }
    }
    if let Some(file) = service.get_mut("extends").and_then(|extends| extends.get_mut("file")) {
        absolute_node(file, directory);
    }
    let Some(build) = service.get_mut("build") else { return };
    if let Some(context) = build.get_mut("context") {
        context_node(context, directory);
    }
    for entry in build.get_mut("additional_contexts").and_then(Node::as_map_mut).into_iter().flat_map(|map| map.values_mut()) {
        context_node(&mut entry.node, directory);
    }
    for entry in build.get_mut("ssh").and_then(Node::as_map_mut).into_iter().flat_map(|map| map.values_mut()) {
        absolute_node(&mut entry.node, directory);
    }
}

fn items(node: Option<&mut Node>) -> impl Iterator<Item = &mut Node> {
    let list = match node.map(|node| &mut node.value) {
        Some(Value::List(list)) => Some(list),
        _ => None,
    };
    list.into_iter().flatten()
}

/// A directory of the host, unless it is a URL, a Git reference, or a scheme of the builder's such as `docker-image://`.
fn context_node(node: &mut Node, directory: &Path) {
    const REMOTE: [&str; 6] = ["https://", "http://", "git://", "ssh://", "github.com/", "git@"];
    let remote = node
        .as_str()
        .is_some_and(|text| text.contains("://") || text.starts_with("service:") || REMOTE.iter().any(|r| text.starts_with(r)));
    if !remote {
        absolute_node(node, directory);
    }
}

/// An empty path stays empty; a path of Windows stays as it is.
pub fn absolute_node(node: &mut Node, directory: &Path) {
    if node.as_str().is_some_and(|text| !text.is_empty()) {
        absolute_or_empty(node, directory);
    }
}

fn absolute_or_empty(node: &mut Node, directory: &Path) {
    if let Value::String(text) = &mut node.value
        && !is_windows(text)
        && !text.contains("${")
    {
        *text = absolute(text, directory).to_string_lossy().into_owned();
    }
}

/// `C:\path` and `\\server\share`: absolute where they come from, and nothing that this host could resolve.
pub fn is_windows(text: &str) -> bool {
    let bytes = text.as_bytes();
    let drive = bytes.len() > 2 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':' && matches!(bytes[2], b'\\' | b'/');
    drive || text.starts_with(r"\\")
}

/// Docker Compose watches what the first symbolic link of a path leads to.
fn follow_links(node: &mut Node) {
    let Value::String(text) = &mut node.value else { return };
    let whole = PathBuf::from(&*text);
    let mut walked = PathBuf::new();
    for part in whole.components() {
        walked.push(part);
        if walked.is_symlink() {
            if let (Ok(target), Ok(rest)) = (walked.canonicalize(), whole.strip_prefix(&walked)) {
                *text = target.join(rest).to_string_lossy().into_owned();
            }
            return;
        }
    }
}

/// `~` is the home directory; `.` and `..` are resolved by the text alone, as Docker Compose does.
pub fn absolute(text: &str, directory: &Path) -> PathBuf {
    let joined = match (text.strip_prefix("~/").or(text.strip_prefix('~')), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ if text.starts_with('/') => return PathBuf::from(text),
        _ => directory.join(text),
    };
    cleaned(&joined)
}

/// A path without `.` and `..`, by its text alone.
pub fn cleaned(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_relative_and_to_what() {
        let table = [("./a", "/p/a"), ("a/../b", "/p/b"), ("../a", "/a"), (".", "/p"), ("/abs/./x", "/abs/./x")];
        for (text, expected) in table {
            assert_eq!(absolute(text, Path::new("/p")), Path::new(expected), "{text}");
        }
        assert!(
            is_windows(r"C:\x") && is_windows("z:/x") && is_windows(r"\\server\share") && !is_windows("c:x") && !is_windows("/c")
        );
    }
}
