//! Relative paths of a Compose file, resolved against the directory that they are relative to.

use super::node::{Node, Value};
use std::path::{Component, Path, PathBuf};

/// Makes the paths of a service absolute: bind sources, env files, build contexts.
pub fn rebase(service: &mut Node, directory: &Path) {
    if let Some(Value::List(list)) = service.get_mut("volumes").map(|n| &mut n.value) {
        for volume in list.iter_mut().filter(|v| v.get("type").and_then(Node::as_str) == Some("bind")) {
            if let Some(source) = volume.get_mut("source") {
                absolute_node(source, directory);
            }
        }
    }
    if let Some(Value::List(list)) = service.get_mut("env_file").map(|n| &mut n.value) {
        for file in list {
            if let Some(path) = file.get_mut("path") {
                absolute_node(path, directory);
            }
        }
    }
    if let Some(context) = service.get_mut("build").and_then(|b| b.get_mut("context")) {
        let remote = context.as_str().is_some_and(|c| c.contains("://") || c.starts_with("git@"));
        if !remote {
            absolute_node(context, directory);
        }
    }
}

pub fn absolute_node(node: &mut Node, directory: &Path) {
    if let Value::String(text) = &mut node.value {
        *text = absolute(text, directory).to_string_lossy().into_owned();
    }
}

/// `~` is the home directory; `.` and `..` are resolved by the text alone, as Docker Compose does.
pub fn absolute(text: &str, directory: &Path) -> PathBuf {
    let joined = match (text.strip_prefix("~/").or(text.strip_prefix('~')), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => directory.join(text),
    };
    let mut clean = PathBuf::new();
    for part in joined.components() {
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
