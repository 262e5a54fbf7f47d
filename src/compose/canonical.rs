//! Short forms to long forms: after this stage every attribute has the one shape that merging and the model expect.

use super::diagnostic::Diagnostic;
use super::node::{At, Entry, Map, Node, Value};
use super::schema::{T, find};
use super::words;

/// Why a short form cannot be read, and what would be right.
#[derive(Debug)]
pub struct Refused {
    pub message: String,
    pub help: String,
}

/// Canonicalises a checked tree in place. With `raw`, what cannot be read because of its variables stays as it is.
pub fn canonicalise(root: &mut Node, t: &T, raw: bool, found: &mut Vec<Diagnostic>) {
    Canonical { raw, found }.walk(root, t);
}

struct Canonical<'a> {
    raw: bool,
    found: &'a mut Vec<Diagnostic>,
}

impl Canonical<'_> {
    fn walk(&mut self, node: &mut Node, t: &T) {
        if node.is_null() {
            return;
        }
        match t {
            T::Maybe(inner) => self.walk(node, inner),
            T::Text => stringify(node),
            T::Command => self.command(node),
            T::Test => match &mut node.value {
                Value::String(text) => {
                    let text = std::mem::take(text);
                    node.value = Value::List(vec![Node::string("CMD-SHELL", &node.at), Node::string(text, &node.at)]);
                }
                Value::List(list) => list.iter_mut().for_each(stringify),
                _ => {}
            },
            T::List(item, _) => self.list(node, item),
            T::Many(item, _) => {
                if node.as_list().is_none() {
                    let at = node.at;
                    let only = std::mem::replace(node, Node::new(Value::Null, at));
                    node.tag = only.tag;
                    node.value = Value::List(vec![only]);
                }
                self.list(node, item);
            }
            T::Mapping => {
                to_mapping(node);
                if let Value::Map(map) = &mut node.value {
                    for entry in map.values_mut().filter(|entry| entry.node.is_null()) {
                        entry.node.value = Value::String(String::new());
                    }
                }
            }
            T::Variables => to_mapping(node),
            T::Options => {
                if let Value::Map(map) = &mut node.value {
                    for entry in map.values_mut() {
                        match entry.node.value {
                            Value::Null => entry.node.value = Value::String(String::new()),
                            _ => stringify(&mut entry.node),
                        }
                    }
                }
            }
            T::Hosts => self.hosts(node),
            T::Map(inner) => {
                if let Value::Map(map) = &mut node.value {
                    map.values_mut().for_each(|entry| self.walk(&mut entry.node, inner));
                }
            }
            T::Obj(keys) => {
                if let Value::Map(map) = &mut node.value {
                    for (name, entry) in map {
                        if let Some(key) = find(keys, name) {
                            self.walk(&mut entry.node, &key.t);
                        }
                    }
                }
            }
            T::Short(_) => {
                self.short(node, t);
            }
            T::Any | T::Str | T::Bool | T::Int | T::Float | T::Bytes | T::Duration | T::OneOf(_) => {}
            T::Restart | T::PullPolicy | T::IdMap => {}
        }
    }

    fn list(&mut self, node: &mut Node, item: &T) {
        let Value::List(list) = &mut node.value else { return };
        let mut i = 0;
        while i < list.len() {
            let more = self.short(&mut list[i], item);
            let count = more.len();
            if count > 0 {
                list.splice(i + 1..i + 1, more);
            }
            i += 1 + count;
        }
    }

    /// Makes a short form long, in place; what it stands for beyond one value comes back.
    fn short(&mut self, node: &mut Node, t: &T) -> Vec<Node> {
        let T::Short(short) = t else {
            self.walk(node, t);
            return Vec::new();
        };
        if node.is_null() {
            return Vec::new();
        }
        match (short.expand)(node) {
            Ok(mut more) => {
                self.walk(node, &short.long);
                more.iter_mut().for_each(|long| self.walk(long, &short.long));
                more
            }
            Err(_) if self.raw => Vec::new(),
            Err(why) => {
                self.found.push(Diagnostic::error(&node.at, why.message).help(why.help));
                Vec::new()
            }
        }
    }

    fn command(&mut self, node: &mut Node) {
        match &mut node.value {
            Value::String(text) => match words::split(text) {
                Ok(split) => {
                    self.warn_of_shell(&node.at, &split);
                    node.value = Value::List(split.words.into_iter().map(|word| Node::string(word, &node.at)).collect());
                }
                Err(_) if self.raw => {}
                Err(words::Unbalanced(open)) => {
                    let message = match open {
                        '(' | ')' => format!("`{text}` has a bracket that is a shell's"),
                        '\\' => format!("`{text}` ends with a backslash"),
                        _ => format!("`{text}` has a quote that is not closed"),
                    };
                    let help = "close the quote, or write the command as a list: `[\"sh\", \"-c\", \"...\"]`";
                    self.found.push(Diagnostic::error(&node.at, message).help(help));
                }
            },
            Value::List(list) => list.iter_mut().for_each(stringify),
            _ => {}
        }
    }

    /// Warns of shell syntax in a command that no shell runs.
    fn warn_of_shell(&mut self, at: &At, split: &words::Words) {
        if let Some(dropped) = &split.dropped {
            let message = format!("`{dropped}` is left out: no shell runs this command, and it ends at the operator");
            let help = "write the command as a list: `[\"sh\", \"-c\", \"...\"]`, or quote the operator";
            self.found.push(Diagnostic::warning(at, message).help(help));
        }
        if split.escaped_break {
            let message = "a backslash at the end of a line makes the line break a part of an argument";
            self.found.push(
                Diagnostic::warning(at, message).help("leave the backslash out: a line break parts arguments as a space does"),
            );
        }
    }

    fn hosts(&mut self, node: &mut Node) {
        let mut hosts = Vec::new();
        match &node.value {
            Value::Map(map) => {
                for (name, entry) in map {
                    let addresses = entry.node.as_list().map_or_else(|| vec![entry.node.clone()], <[Node]>::to_vec);
                    for address in addresses {
                        let text = address.scalar_text().unwrap_or_default();
                        hosts.push(Node::string(format!("{name}={}", unbracket(&text)), &address.at));
                    }
                }
            }
            Value::List(list) => {
                for item in list {
                    let text = item.as_str().unwrap_or_default();
                    match text.split_once('=').or_else(|| text.split_once(':')) {
                        Some((name, addresses)) if !name.is_empty() && !addresses.is_empty() => {
                            let each = addresses.split(',').map(|a| format!("{name}={}", unbracket(a)));
                            hosts.extend(each.map(|host| Node::string(host, &item.at)));
                        }
                        _ if self.raw => hosts.push(item.clone()),
                        _ => self.found.push(
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
}

/// A mapping of nodes, in order; each entry has its value's position.
pub fn map_of<const N: usize>(entries: [(&str, Node); N]) -> Map {
    entries.into_iter().map(|(k, node)| (k.to_string(), Entry { key_at: node.at, node })).collect()
}

/// The result of expanding a short form: the values beyond the first, which is expanded in place.
pub type Expanded = Result<Vec<Node>, Refused>;

/// Makes a string the value of a mapping's only key.
fn under(node: &mut Node, key: &str) {
    if let Value::String(text) = &mut node.value {
        let text = std::mem::take(text);
        node.value = Value::Map(map_of([(key, Node::string(text, &node.at))]));
    }
}

/// The sections whose entries become containers.
pub const WORKLOADS: [&str; 2] = ["services", "jobs"];

/// [`each`] of the services and the jobs.
pub fn each_workload(root: &mut Node, mut f: impl FnMut(&str, &mut Node)) {
    for section in WORKLOADS {
        each(root, section, &mut f);
    }
}

/// The services and the jobs: the section, the name, the entry.
pub fn workloads(root: &Node) -> impl Iterator<Item = (&'static str, &String, &Entry)> {
    let of = |section| root.get(section).and_then(Node::as_map).into_iter().flatten().map(move |(name, e)| (section, name, e));
    WORKLOADS.into_iter().flat_map(of)
}

/// Applies a function to each entry of a mapping under `key`.
pub fn each(root: &mut Node, key: &str, mut f: impl FnMut(&str, &mut Node)) {
    if let Some(Value::Map(map)) = root.get_mut(key).map(|node| &mut node.value) {
        for (name, entry) in map.iter_mut() {
            f(name, &mut entry.node);
        }
    }
}

fn stringify(node: &mut Node) {
    match &node.value {
        Value::String(_) | Value::Null => {}
        _ => {
            if let Some(text) = node.scalar_text() {
                node.value = Value::String(text);
            }
        }
    }
}

/// `[KEY=value, KEY]` to `{KEY: value, KEY: null}`, and every value to a string.
fn to_mapping(node: &mut Node) {
    match &mut node.value {
        Value::List(list) => {
            let mut map = Map::with_capacity(list.len());
            for item in list.iter() {
                let Some(text) = item.scalar_text() else { continue };
                let (name, value) = match text.split_once('=') {
                    Some((name, value)) => (name.to_string(), Value::String(value.to_string())),
                    None => (text, Value::Null),
                };
                let node = Node { value, at: item.at, tag: item.tag };
                map.insert(name, Entry { key_at: item.at, node });
            }
            node.value = Value::Map(map);
        }
        Value::Map(map) => map.values_mut().for_each(|entry| stringify(&mut entry.node)),
        _ => {}
    }
}

fn unbracket(address: &str) -> &str {
    address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address)
}

/// A form that needs no change.
pub fn unchanged(_: &mut Node) -> Expanded {
    Ok(Vec::new())
}

/// `build: PATH`.
pub fn build(node: &mut Node) -> Expanded {
    under(node, "context");
    Ok(Vec::new())
}

/// `extends: SERVICE`.
pub fn extends(node: &mut Node) -> Expanded {
    under(node, "service");
    Ok(Vec::new())
}

/// `include: [PATH]`.
pub fn include(node: &mut Node) -> Expanded {
    under(node, "path");
    Ok(Vec::new())
}

/// `env_file: [PATH]`.
pub fn env_file(node: &mut Node) -> Expanded {
    under(node, "path");
    if node.get("required").is_none() {
        node.set("required", Node::new(Value::Bool(true), node.at));
    }
    Ok(Vec::new())
}

/// `schedule: ["0 3 * * *"]`.
pub fn schedule(node: &mut Node) -> Expanded {
    under(node, "cron");
    Ok(Vec::new())
}

/// `secrets: [NAME]` and `configs: [NAME]`.
pub fn file_mount(node: &mut Node) -> Expanded {
    under(node, "source");
    Ok(Vec::new())
}

/// A list of names as the keys of a mapping.
fn to_keys(node: &mut Node, value: impl Fn(&At) -> Value) {
    if let Value::List(list) = &node.value {
        let entry = |item: &Node| Entry { key_at: item.at, node: Node::new(value(&item.at), item.at) };
        node.value = Value::Map(list.iter().filter_map(|item| Some((item.as_str()?.to_string(), entry(item)))).collect());
    }
}

/// `networks: [NAME]` and `models: [NAME]`.
pub fn names(node: &mut Node) -> Expanded {
    to_keys(node, |_| Value::Null);
    Ok(Vec::new())
}

/// `depends_on: [NAME]`: started, and required.
pub fn depends_on(node: &mut Node) -> Expanded {
    to_keys(node, |at| Value::Map(map_of([("condition", Node::string("service_started", at))])));
    for entry in node.as_map_mut().into_iter().flat_map(|map| map.values_mut()).filter(|entry| entry.node.as_map().is_some()) {
        if entry.node.get("required").is_none() {
            let at = entry.node.at;
            entry.node.set("required", Node::new(Value::Bool(true), at));
        }
    }
    Ok(Vec::new())
}

/// `ssh: [default, id=path]`.
pub fn ssh(node: &mut Node) -> Expanded {
    let Value::List(list) = &node.value else { return Ok(Vec::new()) };
    let mut map = Map::default();
    for item in list {
        let text = item.as_str().unwrap_or_default();
        let (id, path) = match text.split_once('=') {
            Some((id, path)) => (id, Value::String(path.to_string())),
            None if text == "default" => (text, Value::Null),
            None => {
                return Err(Refused {
                    message: format!("`{text}` is not an SSH key"),
                    help: "write `default` for the agent, or `id=path` for a key or a socket".into(),
                });
            }
        };
        map.insert(id.to_string(), Entry { key_at: item.at, node: Node::new(path, item.at) });
    }
    node.value = Value::Map(map);
    Ok(Vec::new())
}

/// `/dev/x[:/dev/y[:rwm]]`.
pub fn device(node: &mut Node) -> Expanded {
    let Value::String(text) = &node.value else { return Ok(Vec::new()) };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, permissions) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, target] => (source, target, "rwm"),
        [source, target, permissions] => (source, target, permissions),
        _ => {
            return Err(Refused {
                message: format!("`{text}` has too many colons for a device"),
                help: "write it as a mapping with `source`, `target` and `permissions`".into(),
            });
        }
    };
    let path = |text: &str| Node::string(if text.is_empty() { source } else { text }, &node.at);
    let permissions = Node::string(permissions, &node.at);
    node.value = Value::Map(map_of([("source", path(source)), ("target", path(target)), ("permissions", permissions)]));
    Ok(Vec::new())
}

/// `gpus: all`.
pub fn gpus(node: &mut Node) -> Expanded {
    let Value::String(text) = &node.value else { return Ok(Vec::new()) };
    if text != "all" {
        return Err(Refused {
            message: format!("`gpus` cannot be `{text}`"),
            help: "write `gpus: all`, or a list such as `[{count: 1}]`".into(),
        });
    }
    let request = map_of([("count", Node::new(Value::Int(-1), node.at))]);
    node.value = Value::List(vec![Node::new(Value::Map(request), node.at)]);
    Ok(Vec::new())
}

/// A request without a number of devices and without names of them is for all, -1.
pub fn device_request(node: &mut Node) -> Expanded {
    let at = node.at;
    match node.get("count").map(|count| (count.scalar_text().unwrap_or_default(), count.at)) {
        Some((text, at)) => match text.parse::<i64>() {
            Ok(count) => node.set("count", Node::new(Value::Int(count), at)),
            Err(_) if text.eq_ignore_ascii_case("all") => node.set("count", Node::new(Value::Int(-1), at)),
            Err(_) => {
                return Err(Refused {
                    message: format!("`count` cannot be `{text}`"),
                    help: "it is a number of devices, or `all`".into(),
                });
            }
        },
        None if node.get("device_ids").is_none() => node.set("count", Node::new(Value::Int(-1), at)),
        None => {}
    }
    Ok(Vec::new())
}

/// A network, volume, config or secret: the older `external: {name: NAME}`.
pub fn resource(node: &mut Node) -> Expanded {
    let Some(external) = node.get_mut("external") else { return Ok(Vec::new()) };
    let Value::Map(map) = &external.value else { return Ok(Vec::new()) };
    let older = map.get("name").map(|entry| entry.node.clone());
    external.value = Value::Bool(true);
    if let Some(older) = older {
        let (text, named) = (older.scalar_text(), node.get("name").and_then(Node::scalar_text));
        if named.is_some() && named != text {
            return Err(Refused {
                message: "`name` and `external.name` are not the same".into(),
                help: "keep `name`, and write `external: true`".into(),
            });
        }
        node.set("name", older);
    }
    Ok(Vec::new())
}
