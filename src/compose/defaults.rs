//! Defaults: targets, counts, names, networks and dependencies that a file does not state.

use super::canonical::{each, each_workload, map_of, workloads};
use super::node::{Node, Value};

/// The defaults of a file's own, before its paths are resolved: contexts, the places of secrets, the mode of ports.
pub fn fill(root: &mut Node) {
    each_workload(root, |_, service| {
        if let Some(build) = service.get_mut("build").filter(|build| build.get("context").is_none()) {
            let at = build.at;
            build.set("context", Node::string(".", &at));
        }
        if let Some(Value::List(servers)) = service.get_mut("dns").map(|dns| &mut dns.value) {
            servers.retain(|server| server.as_str() != Some(""));
        }
        for secret in items(service.get_mut("secrets")) {
            let target = secret.get("source").and_then(Node::as_str).map(|source| format!("/run/secrets/{source}"));
            if let Some(target) = target.filter(|_| secret.get("target").is_none()) {
                let at = secret.at;
                secret.set("target", Node::string(target, &at));
            }
        }
        for port in items(service.get_mut("ports")).filter(|port| port.as_map().is_some()) {
            let at = port.at;
            for (key, value) in [("mode", "ingress"), ("protocol", "tcp")] {
                if port.get(key).is_none() {
                    port.set(key, Node::string(value, &at));
                }
            }
        }
    });
}

/// Sections that may be empty, with and without [`normalise`]: no services, no networks, a resource without attributes.
pub fn fill_empty(root: &mut Node, project: &str) {
    let at = root.at;
    if root.get("services").is_none_or(Node::is_null) {
        root.set("services", empty(&at));
    }
    let drop_empty_networks = |node: &mut Node| {
        if let Some(map) = node.as_map_mut().filter(|map| map.get("networks").is_some_and(|entry| entry.node.is_null())) {
            map.shift_remove("networks");
        }
    };
    drop_empty_networks(root);
    each_workload(root, |_, service| drop_empty_networks(service));
    for section in ["networks", "volumes", "configs", "secrets"] {
        each(root, section, |_, node| {
            if node.is_null() {
                *node = empty(&node.at);
            }
        });
    }
    root.set("name", Node::string(project, &at));
    if let Some(map) = root.as_map_mut() {
        map.shift_remove("version");
        map.shift_remove("include");
    }
}

/// The defaults of the whole project, once every file is merged: the default network, names, implied dependencies.
pub fn normalise(root: &mut Node, project: &str) {
    let at = root.at;
    let mut uses_default = false;
    each_workload(root, |_, service| {
        uses_default |= join_default(service);
        build_file(service);
        implied_dependencies(service);
    });
    if uses_default {
        if root.get("networks").is_none() {
            root.set("networks", empty(&at));
        }
        if let Some(networks) = root.get_mut("networks").filter(|networks| networks.get("default").is_none()) {
            networks.set("default", empty(&at));
        }
    }
    for section in ["networks", "volumes", "configs", "secrets"] {
        each(root, section, |name, node| resource_name(name, node, project));
    }
}

fn items(node: Option<&mut Node>) -> impl Iterator<Item = &mut Node> {
    let list = match node.map(|node| &mut node.value) {
        Some(Value::List(list)) => Some(list),
        _ => None,
    };
    list.into_iter().flatten()
}

fn empty(at: &super::node::At) -> Node {
    Node::new(Value::Map(super::node::Map::default()), *at)
}

/// A service that names no network is on the default one. Tells whether the service is on it.
fn join_default(service: &mut Node) -> bool {
    if service.get("network_mode").is_some_and(|mode| !mode.is_null()) || service.get("provider").is_some() {
        return false;
    }
    match service.get("networks").and_then(Node::as_map) {
        Some(map) if !map.is_empty() => map.contains_key("default"),
        _ => {
            let at = service.at;
            let networks = map_of([("default", Node::new(Value::Null, at))]);
            service.set("networks", Node::new(Value::Map(networks), at));
            true
        }
    }
}

/// A build without a Dockerfile of its own takes the one of that name.
fn build_file(service: &mut Node) {
    let Some(build) = service.get_mut("build") else { return };
    if build.get("dockerfile").is_none() && build.get("dockerfile_inline").is_none() {
        let at = build.at;
        build.set("dockerfile", Node::string("Dockerfile", &at));
    }
}

/// A service that uses another's namespaces or volumes starts after it.
fn implied_dependencies(service: &mut Node) {
    let mut implied: Vec<(Node, bool)> = Vec::new();
    for link in service.get("links").and_then(Node::as_list).unwrap_or_default() {
        let text = link.as_str().unwrap_or_default();
        let name = match text.split(':').collect::<Vec<_>>()[..] {
            [name, _] => name,
            _ => text,
        };
        implied.push((Node::string(name, &link.at), true));
    }
    for key in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        if let Some(node) = service.get(key)
            && let Some(name) = node.as_str().and_then(|text| text.strip_prefix("service:"))
        {
            implied.push((Node::string(name, &node.at), true));
        }
    }
    for node in service.get("volumes_from").and_then(Node::as_list).unwrap_or_default() {
        let text = node.as_str().unwrap_or_default();
        if !text.starts_with("container:") {
            implied.push((Node::string(text.split(':').next().unwrap_or_default(), &node.at), false));
        }
    }
    if implied.is_empty() {
        return;
    }
    let at = service.at;
    let mut dependencies = service.get("depends_on").filter(|node| !node.is_null()).cloned().unwrap_or_else(|| empty(&at));
    for (node, restart) in implied {
        let name = node.as_str().unwrap_or_default().to_string();
        if dependencies.get(&name).is_none() {
            let boolean = |value: bool| Node::new(Value::Bool(value), node.at);
            let map = map_of([
                ("condition", Node::string("service_started", &node.at)),
                ("restart", boolean(restart)),
                ("required", boolean(true)),
            ]);
            dependencies.set(&name, Node::new(Value::Map(map), node.at));
        }
    }
    service.set("depends_on", dependencies);
}

/// Resources without a name of their own are named after the project; external ones have the name that the file uses.
fn resource_name(name: &str, node: &mut Node, project: &str) {
    let at = node.at;
    if node.get("name").is_none_or(Node::is_null) {
        let external = node.get("external").and_then(super::check::boolean).unwrap_or_default();
        node.set("name", Node::string(if external { name.to_string() } else { format!("{project}_{name}") }, &at));
    }
}

/// Takes out what no service uses: Docker Compose neither shows nor makes it.
pub fn drop_unused(root: &mut Node) {
    let mut used: std::collections::HashSet<(&'static str, String)> = std::collections::HashSet::new();
    for (_, _, entry) in workloads(root) {
        let service = &entry.node;
        let names = |key: &str| {
            service.get(key).and_then(Node::as_map).map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        used.extend(names("networks").into_iter().map(|name| ("networks", name)));
        used.extend(names("models").into_iter().map(|name| ("models", name)));
        let source = |node: &Node| node.get("source").and_then(Node::as_str).map(str::to_string);
        for volume in service.get("volumes").and_then(Node::as_list).unwrap_or_default() {
            if volume.get("type").and_then(Node::as_str) == Some("volume") {
                used.extend(source(volume).map(|name| ("volumes", name)));
            }
        }
        for section in ["secrets", "configs"] {
            let lists = [service.get(section), service.get("build").and_then(|build| build.get(section))];
            for item in lists.into_iter().flatten().filter_map(Node::as_list).flatten() {
                used.extend(source(item).map(|name| (section, name)));
            }
        }
    }
    let Some(map) = root.as_map_mut() else { return };
    for section in ["networks", "volumes", "secrets", "configs", "models"] {
        let empty = match map.get_mut(section).and_then(|entry| entry.node.as_map_mut()) {
            Some(resources) => {
                resources.retain(|name, _| used.contains(&(section, name.clone())));
                resources.is_empty()
            }
            None => true,
        };
        if empty {
            map.shift_remove(section);
        }
    }
}

/// `scale` is also what `deploy.replicas` shows.
pub fn replicas_follow_scale(root: &mut Node) {
    each(root, "services", |_, service| {
        let Some(scale) = service.get("scale").cloned() else { return };
        if let Some(deploy) = service.get_mut("deploy").filter(|deploy| deploy.as_map().is_some()) {
            deploy.set("replicas", scale);
        }
    });
}
