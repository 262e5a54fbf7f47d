//! Short forms to long forms: after this stage every attribute has the one shape that merging and the model expect.

use super::diagnostic::Diagnostic;
use super::node::{At, Entry, Map, Node, Value};

/// Canonicalises a checked tree in place.
pub fn canonicalise(root: &mut Node, found: &mut Vec<Diagnostic>) {
    for section in ["networks", "volumes", "configs", "secrets"] {
        each(root, section, |_, node| {
            if node.is_null() && section != "configs" && section != "secrets" {
                node.value = Value::Map(Map::new());
            }
            external(node);
            to_mapping(node, "labels");
            if let Some(options) = node.get_mut("driver_opts") {
                stringify_values(options);
            }
        });
    }
    each(root, "services", |name, service| canonicalise_service(name, service, found));
}

/// Applies a function to each entry of a mapping under `key`.
pub fn each(root: &mut Node, key: &str, mut f: impl FnMut(&str, &mut Node)) {
    if let Some(Value::Map(map)) = root.get_mut(key).map(|node| &mut node.value) {
        for (name, entry) in map.iter_mut() {
            f(name, &mut entry.node);
        }
    }
}

fn canonicalise_service(name: &str, service: &mut Node, found: &mut Vec<Diagnostic>) {
    for key in ["environment", "labels", "annotations", "sysctls"] {
        to_mapping(service, key);
    }
    for key in ["dns", "dns_search", "tmpfs", "label_file"] {
        to_list(service, key);
    }
    for key in ["expose", "group_add"] {
        if let Some(Value::List(list)) = service.get_mut(key).map(|n| &mut n.value) {
            list.iter_mut().for_each(stringify);
        }
    }
    for key in ["command", "entrypoint"] {
        if let Some(node) = service.get_mut(key) {
            command(node, &format!("services.{name}.{key}"), found);
        }
    }
    if let Some(node) = service.get_mut("user") {
        stringify(node);
    }
    if let Some(node) = service.get_mut("build") {
        if let Value::String(context) = &node.value {
            let context = Node::string(context.clone(), &node.at);
            node.value = Value::Map(map_of([("context", context)]));
        }
        to_mapping(node, "args");
        to_mapping(node, "labels");
    }
    if let Some(node) = service.get_mut("extends")
        && let Value::String(base) = &node.value
    {
        let base = Node::string(base.clone(), &node.at);
        node.value = Value::Map(map_of([("service", base)]));
    }
    if let Some(node) = service.get_mut("env_file") {
        env_files(node);
    }
    if let Some(node) = service.get_mut("depends_on") {
        depends_on(node);
    }
    if let Some(node) = service.get_mut("networks")
        && let Value::List(list) = &node.value
    {
        let entries = list.iter().filter_map(|n| Some((n.as_str()?.to_string(), Node::new(Value::Null, n.at.clone()))));
        node.value = Value::Map(entries.map(|(k, n)| (k, Entry { key_at: n.at.clone(), node: n })).collect());
    }
    if let Some(node) = service.get_mut("extra_hosts") {
        extra_hosts(node, found);
    }
    if let Some(node) = service.get_mut("healthcheck").and_then(|h| h.get_mut("test"))
        && let Value::String(text) = &node.value
    {
        let at = node.at.clone();
        node.value = Value::List(vec![Node::string("CMD-SHELL", &at), Node::string(text.clone(), &at)]);
    }
    if let Some(options) = service.get_mut("logging").and_then(|l| l.get_mut("options")) {
        stringify_values(options);
    }
    if let Some(deploy) = service.get_mut("deploy") {
        to_mapping(deploy, "labels");
    }
    for (key, convert) in [("ports", super::ports::parse as Convert), ("volumes", super::mounts::parse as Convert)] {
        let Some(node) = service.get_mut(key) else { continue };
        let Value::List(list) = std::mem::replace(&mut node.value, Value::Null) else { continue };
        let mut items = Vec::with_capacity(list.len());
        for item in list {
            match convert(&item) {
                Ok(more) => items.extend(more),
                Err(why) => found.push(Diagnostic::error(&item.at, why.message).help(why.help)),
            }
        }
        node.value = Value::List(items);
    }
    for key in ["secrets", "configs"] {
        if let Some(Value::List(list)) = service.get_mut(key).map(|n| &mut n.value) {
            for item in list.iter_mut() {
                if let Value::String(source) = &item.value {
                    let source = Node::string(source.clone(), &item.at);
                    item.value = Value::Map(map_of([("source", source)]));
                }
                let source = item.get("source").and_then(Node::as_str).map(str::to_string);
                if let Some(source) = source.filter(|_| key == "secrets" && item.get("target").is_none()) {
                    let target = Node::string(format!("/run/secrets/{source}"), &item.at);
                    item.set("target", target);
                }
            }
        }
    }
}

type Convert = fn(&Node) -> Result<Vec<Node>, Refused>;

/// Why a short form cannot be read, and what would be right.
pub struct Refused {
    pub message: String,
    pub help: String,
}

/// A mapping of nodes, in order; each entry's place is its value's.
pub fn map_of<const N: usize>(entries: [(&str, Node); N]) -> Map {
    entries.into_iter().map(|(k, node)| (k.to_string(), Entry { key_at: node.at.clone(), node })).collect()
}

fn stringify(node: &mut Node) {
    if let Some(text) = node.scalar_text().filter(|_| !node.is_null()) {
        node.value = Value::String(text);
    }
}

fn stringify_values(node: &mut Node) {
    if let Value::Map(map) = &mut node.value {
        map.values_mut().for_each(|entry| stringify(&mut entry.node));
    }
}

/// `[KEY=value, KEY]` to `{KEY: value, KEY: null}`, and every value to a string.
pub fn to_mapping(parent: &mut Node, key: &str) {
    let Some(node) = parent.get_mut(key) else { return };
    if let Value::List(list) = &node.value {
        let mut map = Map::new();
        for item in list {
            let Some(text) = item.scalar_text() else { continue };
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name.to_string(), Value::String(value.to_string())),
                None => (text, Value::Null),
            };
            let node = Node::new(value, item.at.clone());
            map.insert(name, Entry { key_at: item.at.clone(), node });
        }
        node.value = Value::Map(map);
    }
    stringify_values(node);
    if key != "environment"
        && key != "args"
        && let Value::Map(map) = &mut node.value
    {
        for entry in map.values_mut().filter(|entry| entry.node.is_null()) {
            entry.node.value = Value::String(String::new());
        }
    }
}

fn to_list(parent: &mut Node, key: &str) {
    if let Some(node) = parent.get_mut(key)
        && let Value::String(text) = &node.value
    {
        let item = Node::string(text.clone(), &node.at);
        node.value = Value::List(vec![item]);
    }
}

fn command(node: &mut Node, path: &str, found: &mut Vec<Diagnostic>) {
    match &mut node.value {
        Value::String(text) => match shell_words::split(text) {
            Ok(words) => {
                let at = node.at.clone();
                node.value = Value::List(words.into_iter().map(|word| Node::string(word, &at)).collect());
            }
            Err(_) => found.push(
                Diagnostic::error(&node.at, format!("`{path}` has a quote that is not closed"))
                    .help("close the quote, or write the command as a list: [\"sh\", \"-c\", \"...\"]"),
            ),
        },
        Value::List(list) => list.iter_mut().for_each(stringify),
        _ => {}
    }
}

fn external(node: &mut Node) {
    let Some(external) = node.get_mut("external") else { return };
    if let Value::Map(map) = &external.value {
        let name = map.get("name").map(|entry| entry.node.clone());
        external.value = Value::Bool(true);
        if let Some(name) = name {
            node.set("name", name);
        }
    }
}

fn env_files(node: &mut Node) {
    if matches!(node.value, Value::String(_)) {
        node.value = Value::List(vec![node.clone()]);
    }
    if let Value::List(list) = &mut node.value {
        for item in list {
            if let Value::String(path) = &item.value {
                let at: &At = &item.at;
                item.value = Value::Map(map_of([
                    ("path", Node::string(path.clone(), at)),
                    ("required", Node::new(Value::Bool(true), at.clone())),
                ]));
            }
        }
    }
}

fn depends_on(node: &mut Node) {
    if let Value::List(list) = &node.value {
        let entries = list.iter().filter_map(|item| {
            let name = item.as_str()?.to_string();
            Some((name, Entry { key_at: item.at.clone(), node: Node::new(Value::Map(Map::new()), item.at.clone()) }))
        });
        node.value = Value::Map(entries.collect());
    }
    if let Value::Map(map) = &mut node.value {
        for entry in map.values_mut() {
            let at = entry.node.at.clone();
            if entry.node.get("condition").is_none() {
                entry.node.set("condition", Node::string("service_started", &at));
            }
            if entry.node.get("required").is_none() {
                entry.node.set("required", Node::new(Value::Bool(true), at));
            }
        }
    }
}

fn extra_hosts(node: &mut Node, found: &mut Vec<Diagnostic>) {
    let mut hosts = Vec::new();
    match &node.value {
        Value::Map(map) => {
            for (name, entry) in map {
                let addresses = entry.node.as_list().map_or_else(|| vec![entry.node.clone()], <[Node]>::to_vec);
                for address in addresses {
                    hosts.push(Node::string(
                        format!("{name}={}", unbracket(&address.scalar_text().unwrap_or_default())),
                        &address.at,
                    ));
                }
            }
        }
        Value::List(list) => {
            for item in list {
                let text = item.as_str().unwrap_or_default();
                match text.split_once('=').or_else(|| text.split_once(':')) {
                    Some((name, address)) if !name.is_empty() && !address.is_empty() => {
                        hosts.push(Node::string(format!("{name}={}", unbracket(address)), &item.at));
                    }
                    _ => found.push(
                        Diagnostic::error(&item.at, format!("`{text}` is not a host and its address"))
                            .help("write `\"name:10.0.0.1\"`, or `\"name:host-gateway\"` for this machine"),
                    ),
                }
            }
        }
        _ => return,
    }
    node.value = Value::List(hosts);
}

fn unbracket(address: &str) -> &str {
    address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address)
}
