//! The short form of a service's `volumes:`: `[SOURCE:]TARGET[:OPTIONS]`.

use super::canonical::{Refused, map_of};
use super::node::{Map, Node, Value};

/// Turns one entry of `volumes:` into its long form. Sources stay relative; the paths stage resolves them.
pub fn parse(node: &Node) -> Result<Vec<Node>, Refused> {
    if let Value::Map(_) = node.value {
        return Ok(vec![long(node)?]);
    }
    let text = node.as_str().unwrap_or_default();
    let refuse = |why: &str| {
        Refused {
        message: format!("`{text}` is not a volume: {why}"),
        help: "write `./dir:/path` for a directory, `name:/path` for a named volume, `/path` for an anonymous one; `:ro` makes it read-only"
            .into(),
    }
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [""] => return Err(refuse("it is empty")),
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err(refuse("it has too many colons")),
    };
    if source == Some("") || target.is_empty() {
        return Err(refuse("a part of it is empty"));
    }
    if !target.starts_with('/') {
        return Err(refuse(&format!("the path in the container, `{target}`, must begin with `/`")));
    }
    let at = &node.at;
    let yes = || Node::new(Value::Bool(true), at.clone());
    let bind = source.is_some_and(|s| s.starts_with(['/', '.', '~']));
    let mut map = map_of([("type", Node::string(if bind { "bind" } else { "volume" }, at))]);
    if let Some(source) = source {
        map.extend(map_of([("source", Node::string(source, at))]));
    }
    map.extend(map_of([("target", Node::string(clean(target), at))]));
    let mut sub = Map::new();
    if bind {
        sub.extend(map_of([("create_host_path", yes())]));
    }
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => map.extend(map_of([("read_only", yes())])),
            "rw" | "cached" | "delegated" | "consistent" => {}
            "z" | "Z" => sub.extend(map_of([("selinux", Node::string(option, at))])),
            "nocopy" if !bind => sub.extend(map_of([("nocopy", yes())])),
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                sub.extend(map_of([("propagation", Node::string(option, at))]));
            }
            _ => return Err(refuse(&format!("`{option}` is not an option of a volume"))),
        }
    }
    map.extend(map_of([(if bind { "bind" } else { "volume" }, Node::new(Value::Map(sub), at.clone()))]));
    Ok(vec![Node::new(Value::Map(map), at.clone())])
}

fn long(node: &Node) -> Result<Node, Refused> {
    let mut node = node.clone();
    let missing = |key: &str, help: &str| Refused { message: format!("a volume needs `{key}`"), help: help.into() };
    if node.get("type").is_none() {
        return Err(missing("type", "write `type: bind`, `type: volume` or `type: tmpfs`"));
    }
    let Some(target) = node.get("target").and_then(Node::as_str).map(str::to_string) else {
        return Err(missing("target", "write the path in the container: `target: /path`"));
    };
    if node.get("type").and_then(Node::as_str) == Some("bind") && node.get("source").is_none() {
        return Err(missing("source", "a bind mount needs the path on the host: `source: ./dir`"));
    }
    let at = node.at.clone();
    node.set("target", Node::string(clean(&target), &at));
    if let Some(size) = node.get("tmpfs").and_then(|t| t.get("size")).and_then(Node::scalar_text)
        && let (Some(bytes), Some(tmpfs)) = (super::units::bytes(&size), node.get_mut("tmpfs"))
    {
        tmpfs.set("size", Node::string(bytes.to_string(), &at));
    }
    Ok(node)
}

/// A path without doubled or trailing slashes.
fn clean(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if path.starts_with('/') { format!("/{}", parts.join("/")) } else { path.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::node::At;

    #[test]
    fn short_forms() {
        let at = At { file: "t".into(), line: 1, column: 1, len: 1 };
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
            ("a:/b:zz", None),
            ("a:/b:ro:rw", None),
        ];
        for (text, expected) in table {
            let got = parse(&Node::string(text, &at)).ok().map(|n| n[0].to_json().to_string());
            assert_eq!(got.as_deref(), expected, "{text}");
        }
    }
}
