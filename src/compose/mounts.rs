//! The short form of a service's `volumes:`: `[SOURCE:]TARGET[:OPTIONS]`.

use super::canonical::{Expanded, Refused, map_of};
use super::node::{Map, Node, Value};
use super::paths::cleaned;
use std::path::Path;

/// Expands one entry of `volumes:` into its long form. Sources stay relative; the paths stage resolves them.
pub fn parse(node: &mut Node) -> Expanded {
    if let Value::Map(_) = node.value {
        return long(node);
    }
    let text = node.as_str().unwrap_or_default();
    let refuse = |why: &str| {
        Refused {
        message: format!("`{text}` is not a volume: {why}"),
        help: "write `./dir:/path` for a directory, `name:/path` for a named volume, `/path` for an anonymous one; `:ro` makes it read-only"
            .into(),
    }
    };
    let parts = split(text);
    let (source, target, options) = match parts.as_slice() {
        [] => return Err(refuse("it is empty")),
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err(refuse("it has too many colons")),
    };
    if source == Some("") || target.is_empty() || (options.is_empty() && parts.len() == 3) {
        return Err(refuse("a part of it is empty"));
    }
    if !target.starts_with('/') && !super::paths::is_windows(target) && !target.contains('$') {
        return Err(refuse(&format!("the path in the container, `{target}`, must begin with `/`")));
    }
    let at = &node.at.clone();
    let yes = || Node::new(Value::Bool(true), *at);
    let on_host = source.is_some_and(|s| s.starts_with(['/', '.', '~']) || s.starts_with(r"\\") || is_drive(s));
    let mut map = map_of([("type", Node::string(if on_host { "bind" } else { "volume" }, at))]);
    if let Some(source) = source {
        map.extend(map_of([("source", Node::string(source, at))]));
    }
    map.extend(map_of([("target", Node::string(clean(target), at))]));
    let (mut bind, mut volume) = (Map::default(), Map::default());
    for option in options.split(',') {
        match option {
            "ro" => map.extend(map_of([("read_only", yes())])),
            "rw" => {
                map.shift_remove("read_only");
            }
            "z" | "Z" => bind.extend(map_of([("selinux", Node::string(option, at))])),
            "idmap" if on_host => bind.extend(map_of([("idmap", Node::string("match-user", at))])),
            "idmap" => return Err(refuse_id_map(text)),
            // Another program's: without a word it would be another's files.
            _ if option.starts_with("idmap=") => {
                return Err(Refused {
                    message: format!("`{text}` has an option that the short form does not have: `{option}`"),
                    help: "write `:idmap` for the container's user, or the long form with `bind: {idmap: match-user:USER}`"
                        .into(),
                });
            }
            "nocopy" => volume.extend(map_of([("nocopy", yes())])),
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                bind.extend(map_of([("propagation", Node::string(option, at))]));
            }
            // Docker Compose takes any word here; these and others are of other platforms.
            _ => {}
        }
    }
    if on_host {
        bind.extend(map_of([("create_host_path", yes())]));
    }
    if on_host || !bind.is_empty() {
        map.extend(map_of([("bind", Node::new(Value::Map(bind), *at))]));
    }
    if !on_host || !volume.is_empty() {
        map.extend(map_of([("volume", Node::new(Value::Map(volume), *at))]));
    }
    node.value = Value::Map(map);
    Ok(Vec::new())
}

fn refuse_id_map(volume: &str) -> Refused {
    Refused {
        message: format!("`idmap` of `{volume}` is for bind mounts alone"),
        help: "mount a directory of the host (`./dir:/path:idmap`), or remove it".into(),
    }
}

/// Splits at colons, but not at that of a drive of Windows.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    if text.is_empty() {
        return parts;
    }
    for (i, _) in text.match_indices(':') {
        if !is_drive(&text[start..]) || i != start + 1 {
            parts.push(&text[start..i]);
            start = i + 1;
        }
    }
    parts.push(&text[start..]);
    parts
}

fn is_drive(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() > 1 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':' && matches!(bytes.get(2), Some(b'\\' | b'/'))
}

fn long(node: &mut Node) -> Expanded {
    let missing = |key: &str, help: &str| Refused { message: format!("a volume needs `{key}`"), help: help.into() };
    let Some(target) = node.get("target").and_then(Node::as_str).map(str::to_string) else {
        return Err(missing("target", "write the path in the container: `target: /path`"));
    };
    if node.get("type").and_then(Node::as_str) == Some("bind") && node.get("source").is_none() {
        return Err(missing("source", "a bind mount needs the path on the host: `source: ./dir`"));
    }
    let is_bind = node.get("type").and_then(Node::as_str).is_none_or(|kind| kind == "bind");
    if !is_bind && node.get("bind").and_then(|bind| bind.get("idmap")).is_some_and(|idmap| !idmap.is_null()) {
        return Err(refuse_id_map(&target));
    }
    let at = node.at;
    node.set("target", Node::string(clean(&target), &at));
    Ok(Vec::new())
}

/// An absolute path without doubled or trailing slashes, `.` and `..`; another is left to the check.
fn clean(path: &str) -> String {
    if path.starts_with('/') { cleaned(Path::new(path)).to_string_lossy().into_owned() } else { path.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::node::At;

    #[test]
    fn short_forms() {
        let at = At { file: 0, line: 1, column: 1, len: 1 };
        let table = [
            ("/data", Some(r#"{"type":"volume","target":"/data","volume":{}}"#)),
            ("db:/data", Some(r#"{"type":"volume","source":"db","target":"/data","volume":{}}"#)),
            (
                "./x:/data:ro",
                Some(r#"{"type":"bind","source":"./x","target":"/data","read_only":true,"bind":{"create_host_path":true}}"#),
            ),
            ("/x:/data/", Some(r#"{"type":"bind","source":"/x","target":"/data","bind":{"create_host_path":true}}"#)),
            ("db:data", None),
            (":/data", None),
            ("vol:/b:zz", Some(r#"{"type":"volume","source":"vol","target":"/b","volume":{}}"#)),
            (
                "vol:/b/../c:z,nocopy",
                Some(r#"{"type":"volume","source":"vol","target":"/c","bind":{"selinux":"z"},"volume":{"nocopy":true}}"#),
            ),
            (
                r"C:\x:/y:ro",
                Some(r#"{"type":"bind","source":"C:\\x","target":"/y","read_only":true,"bind":{"create_host_path":true}}"#),
            ),
            ("", None),
            ("a:/b", Some(r#"{"type":"volume","target":"a:/b","volume":{}}"#)),
            ("vol:/b:ro:rw", None),
            (
                "./x:/y:idmap,ro",
                Some(
                    r#"{"type":"bind","source":"./x","target":"/y","read_only":true,"bind":{"idmap":"match-user","create_host_path":true}}"#,
                ),
            ),
            ("vol:/y:idmap", None),
            ("./x:/y:idmap=uids=0-1000-1", None),
        ];
        for (text, expected) in table {
            let mut node = Node::string(text, &at);
            let got = parse(&mut node).ok().map(|_| node.to_json().to_string());
            assert_eq!(got.as_deref(), expected, "{text}");
        }
    }
}
