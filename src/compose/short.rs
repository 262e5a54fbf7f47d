//! Short forms on the command line: `-p 8080:80` and `-v ./dir:/path` mean what they do in a file.

use super::model::{Port, ServiceVolume, VolumeKind};
use super::node::{At, Node, Value};
use super::{canonical, mounts, paths, ports};
use serde::Deserialize;
use std::path::Path;

/// A port or a range of ports.
///
/// # Errors
/// Why the text is none, and how one is written.
pub fn port(text: &str) -> Result<Vec<Port>, String> {
    expand(text, ports::parse)?.iter().map(typed).collect()
}

/// A volume; a relative source is below the directory.
///
/// # Errors
/// Why the text is none, and how one is written.
pub fn volume(text: &str, directory: &Path) -> Result<ServiceVolume, String> {
    let mut nodes = expand(text, mounts::parse)?;
    let mut volume: ServiceVolume = nodes.pop().as_ref().map_or_else(|| Err(format!("`{text}` is no volume")), typed)?;
    if volume.kind == VolumeKind::Bind {
        volume.source = volume.source.map(|source| paths::absolute(&source, directory).to_string_lossy().into_owned());
    }
    Ok(volume)
}

fn expand(text: &str, parse: fn(&mut Node) -> canonical::Expanded) -> Result<Vec<Node>, String> {
    let mut first = Node::new(Value::String(text.into()), At { file: 0, line: 1, column: 1, len: 1 });
    let more = parse(&mut first).map_err(|refused| format!("{}; {}", refused.message, refused.help))?;
    Ok([first].into_iter().chain(more).collect())
}

fn typed<'a, T: Deserialize<'a>>(node: &'a Node) -> Result<T, String> {
    T::deserialize(node).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Protocol;

    #[test]
    fn short_forms_mean_what_they_do_in_a_file() {
        let ports = port("127.0.0.1:8000-8001:80-81/udp").expect("ports");
        assert_eq!((ports.len(), ports[1].target, ports[1].protocol), (2, 81, Protocol::Udp));
        assert!(port("8000:x").expect_err("no port").contains("write"));
        let bound = volume("./data:/x:ro", Path::new("/here")).expect("volume");
        assert_eq!((bound.kind, bound.source.as_deref(), bound.read_only), (VolumeKind::Bind, Some("/here/data"), true));
        let named = volume("cache:/x", Path::new("/here")).expect("volume");
        assert_eq!((named.kind, named.source.as_deref()), (VolumeKind::Volume, Some("cache")));
        assert!(volume("a:b:c:d:e", Path::new("/")).is_err());
    }
}
