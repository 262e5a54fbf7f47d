//! From the merged tree to the canonical project: defaults, names, implicit networks and dependencies, references.

use super::diagnostic::{Diagnostic, nearest};
use super::node::{Map, Node, Value};
use super::{dotenv, interpolate::Variables, paths, units};
use std::path::Path;

/// Everything about the surroundings that normalising needs.
pub struct Context<'a> {
    pub project: &'a str,
    pub directory: &'a Path,
    pub environment: &'a dyn Variables,
    /// Reads an env file; `None` where it does not exist.
    pub read: &'a mut dyn FnMut(&Path) -> Option<std::io::Result<String>>,
}

/// Normalises in place. The tree is merged, checked and canonical.
pub fn normalise(root: &mut Node, context: &mut Context<'_>, found: &mut Vec<Diagnostic>) {
    let at = root.at.clone();
    if root.get("services").is_none_or(Node::is_null) {
        root.set("services", Node::new(Value::Map(Map::new()), at.clone()));
    }
    super::canonical::each(root, "services", |name, service| {
        paths::rebase(service, context.directory);
        environment(name, service, context, found);
        scalars(name, service, found);
        implied_dependencies(service);
        logging_driver(service, found);
        build_defaults(service, context.directory);
        if service.get("image").is_none() && service.get("build").is_none() {
            found.push(
                Diagnostic::error(&service.at, format!("the service `{name}` has neither an `image` nor a `build`"))
                    .help("say what it runs: `image: NAME`"),
            );
        }
        let joins = service.get("network_mode").is_some();
        if joins && service.get("networks").is_some_and(|n| n.as_map().is_some_and(|m| !m.is_empty())) {
            let mode = &service.get("network_mode").map_or_else(|| service.at.clone(), |n| n.at.clone());
            found.push(
                Diagnostic::error(mode, format!("`services.{name}` has both `network_mode` and `networks`"))
                    .help("a service either joins networks or has a network mode: keep one of the two"),
            );
        }
        if !joins && service.get("networks").is_none_or(|n| n.as_map().is_none_or(Map::is_empty)) {
            let default = Node::new(Value::Null, service.at.clone());
            let map = super::canonical::map_of([("default", default)]);
            let at = service.at.clone();
            service.set("networks", Node::new(Value::Map(map), at));
        }
    });
    implicit_default_network(root);
    for section in ["networks", "volumes", "configs", "secrets"] {
        super::canonical::each(root, section, |name, node| resource(section, name, node, context));
    }
    references(root, found);
    cycles(root, found);
    root.set("name", Node::string(context.project, &at));
    if let Some(map) = root.as_map_mut() {
        map.shift_remove("version");
        map.shift_remove("include");
    }
}

/// `env_file` under `environment`; names without a value take it from the surroundings or go.
fn environment(name: &str, service: &mut Node, context: &mut Context<'_>, found: &mut Vec<Diagnostic>) {
    let mut merged = Map::new();
    let files = service.get("env_file").and_then(Node::as_list).map(<[Node]>::to_vec).unwrap_or_default();
    for file in &files {
        let Some(path) = file.get("path") else { continue };
        let text = path.as_str().unwrap_or_default();
        let required = !matches!(file.get("required").map(|n| &n.value), Some(Value::Bool(false)));
        match (context.read)(Path::new(text)) {
            None if !required => {}
            None => found.push(
                Diagnostic::error(&path.at, format!("the env file {text} of `services.{name}` does not exist"))
                    .help("create it, or write `{path: FILE, required: false}`"),
            ),
            Some(Err(error)) => found.push(Diagnostic::error(&path.at, format!("the env file {text} cannot be read: {error}"))),
            Some(Ok(content)) => match dotenv::parse(&content, context.environment) {
                Ok(values) => {
                    for (key, value) in values {
                        let node = Node::string(value, &path.at);
                        merged.insert(key, super::node::Entry { key_at: path.at.clone(), node });
                    }
                }
                Err(malformed) => found.push(
                    Diagnostic::error(&path.at, format!("{text}:{}: {}", malformed.line, malformed.why))
                        .help("an env file has a line NAME=VALUE for each variable"),
                ),
            },
        }
    }
    if let Some(Value::Map(own)) = service.get("environment").map(|n| n.value.clone()) {
        for (key, mut entry) in own {
            if entry.node.is_null() {
                match context.environment.get(&key) {
                    Some(value) => entry.node.value = Value::String(value),
                    None if merged.contains_key(&key) => continue,
                    None => {}
                }
            }
            merged.insert(key, entry);
        }
    }
    if let Some(map) = service.as_map_mut() {
        map.shift_remove("env_file");
        map.shift_remove("extends");
    }
    if !merged.is_empty() {
        let at = service.at.clone();
        service.set("environment", Node::new(Value::Map(merged), at));
    }
}

/// Durations and sizes in their canonical spelling, numbers as numbers.
fn scalars(name: &str, service: &mut Node, found: &mut Vec<Diagnostic>) {
    let duration = |node: &mut Node| {
        if let Some(nanos) = node.as_str().and_then(units::duration) {
            node.value = Value::String(units::duration_text(nanos));
        }
    };
    if let Some(node) = service.get_mut("stop_grace_period") {
        duration(node);
    }
    if let Some(health) = service.get_mut("healthcheck") {
        for key in ["interval", "timeout", "start_period", "start_interval"] {
            if let Some(node) = health.get_mut(key) {
                duration(node);
            }
        }
        if let Some(test) = health.get("test").filter(|t| t.as_list().is_some()) {
            let first = test.as_list().and_then(<[Node]>::first).and_then(Node::as_str);
            if !matches!(first, Some("NONE" | "CMD" | "CMD-SHELL") | None) {
                found.push(
                    Diagnostic::error(
                        &test.at,
                        format!("`services.{name}.healthcheck.test` must begin with NONE, CMD or CMD-SHELL"),
                    )
                    .help("write `[\"CMD\", \"program\", \"argument\"]`, or a string that a shell runs"),
                );
            }
        }
    }
    for key in ["mem_limit", "mem_reservation", "memswap_limit", "shm_size"] {
        if let Some(node) = service.get_mut(key) {
            bytes(node);
        }
    }
    for key in ["scale", "pids_limit", "oom_score_adj"] {
        if let Some(node) = service.get_mut(key) {
            integer(node, &format!("services.{name}.{key}"), found);
        }
    }
    if let Some(node) = service.get_mut("cpus") {
        float(node, &format!("services.{name}.cpus"), found);
    }
    if let Some(retries) = service.get_mut("healthcheck").and_then(|h| h.get_mut("retries")) {
        integer(retries, &format!("services.{name}.healthcheck.retries"), found);
    }
    super::canonical::each(service, "ulimits", |limit, node| {
        let path = format!("services.{name}.ulimits.{limit}");
        match &mut node.value {
            Value::Map(map) => map.values_mut().for_each(|entry| integer(&mut entry.node, &path, found)),
            _ => integer(node, &path, found),
        }
    });
    if let Some(replicas) = service.get_mut("deploy").and_then(|d| d.get_mut("replicas")) {
        integer(replicas, &format!("services.{name}.deploy.replicas"), found);
    }
    if let Some(limits) = service.get_mut("deploy").and_then(|d| d.get_mut("resources")).and_then(|r| r.get_mut("limits")) {
        if let Some(node) = limits.get_mut("memory") {
            bytes(node);
        }
        if let Some(node) = limits.get_mut("cpus") {
            float(node, &format!("services.{name}.deploy.resources.limits.cpus"), found);
        }
        if let Some(node) = limits.get_mut("pids") {
            integer(node, &format!("services.{name}.deploy.resources.limits.pids"), found);
        }
    }
}

fn bytes(node: &mut Node) {
    if let Some(bytes) = node.scalar_text().and_then(|text| units::bytes(&text)) {
        node.value = Value::String(bytes.to_string());
    }
}

fn integer(node: &mut Node, path: &str, found: &mut Vec<Diagnostic>) {
    match node.scalar_text().map(|t| t.trim().parse::<i64>()) {
        Some(Ok(number)) => node.value = Value::Int(number),
        _ => found.push(Diagnostic::error(&node.at, format!("`{path}` must be an integer"))),
    }
}

fn float(node: &mut Node, path: &str, found: &mut Vec<Diagnostic>) {
    match node.scalar_text().map(|t| t.trim().parse::<f64>()) {
        Some(Ok(number)) if number >= 0.0 => node.value = Value::Float(number),
        _ => found.push(Diagnostic::error(&node.at, format!("`{path}` must be a number"))),
    }
}

/// A build without a context is of the project's directory; without a Dockerfile named, of `Dockerfile`.
fn build_defaults(service: &mut Node, directory: &Path) {
    let Some(build) = service.get_mut("build") else { return };
    let at = build.at.clone();
    if build.get("context").is_none() {
        build.set("context", Node::string(directory.to_string_lossy(), &at));
    }
    if build.get("dockerfile").is_none() && build.get("dockerfile_inline").is_none() {
        build.set("dockerfile", Node::string("Dockerfile", &at));
    }
}

/// wharf has one way to keep logs; a driver that would send them elsewhere is said to do nothing.
fn logging_driver(service: &Node, found: &mut Vec<Diagnostic>) {
    let Some(driver) = service.get("logging").and_then(|logging| logging.get("driver")) else { return };
    let text = driver.as_str().unwrap_or_default();
    if !matches!(text, "json-file" | "local" | "none" | "") {
        let message = format!("wharf keeps logs itself: the logging driver `{text}` has no effect");
        found.push(Diagnostic::warning(&driver.at, message).help("`wharf logs` shows them; `none` keeps no log"));
    }
}

/// A service that uses another's namespaces or volumes starts after it.
fn implied_dependencies(service: &mut Node) {
    let mut implied: Vec<Node> = Vec::new();
    for key in ["network_mode", "ipc", "pid", "uts"] {
        if let Some(node) = service.get(key)
            && let Some(name) = node.as_str().and_then(|t| t.strip_prefix("service:"))
        {
            implied.push(Node::string(name, &node.at));
        }
    }
    for key in ["links", "volumes_from"] {
        for node in service.get(key).and_then(Node::as_list).unwrap_or_default() {
            let name = node.as_str().unwrap_or_default().split(':').next().unwrap_or_default();
            if name != "container" && !name.is_empty() {
                implied.push(Node::string(name, &node.at));
            }
        }
    }
    if implied.is_empty() {
        return;
    }
    let mut dependencies =
        service.get("depends_on").cloned().unwrap_or_else(|| Node::new(Value::Map(Map::new()), service.at.clone()));
    for node in implied {
        let name = node.as_str().unwrap_or_default().to_string();
        if dependencies.get(&name).is_none() {
            let yes = || Node::new(Value::Bool(true), node.at.clone());
            let map = super::canonical::map_of([
                ("condition", Node::string("service_started", &node.at)),
                ("restart", yes()),
                ("required", yes()),
            ]);
            dependencies.set(&name, Node::new(Value::Map(map), node.at.clone()));
        }
    }
    service.set("depends_on", dependencies);
}

/// Takes out what no service uses: Docker Compose neither shows nor makes it.
pub fn drop_unused(root: &mut Node) {
    let mut used: std::collections::HashSet<(&'static str, String)> = std::collections::HashSet::new();
    for entry in root.get("services").and_then(Node::as_map).into_iter().flat_map(|services| services.values()) {
        let service = &entry.node;
        let names = |key: &str| {
            service.get(key).and_then(Node::as_map).map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        used.extend(names("networks").into_iter().map(|name| ("networks", name)));
        let sources = |node: &Node| node.get("source").and_then(Node::as_str).map(str::to_string);
        for volume in service.get("volumes").and_then(Node::as_list).unwrap_or_default() {
            used.extend(sources(volume).map(|name| ("volumes", name)));
        }
        for section in ["secrets", "configs"] {
            let lists = [service.get(section), service.get("build").and_then(|build| build.get(section))];
            for item in lists.into_iter().flatten().filter_map(Node::as_list).flatten() {
                used.extend(sources(item).or(item.as_str().map(str::to_string)).map(|name| (section, name)));
            }
        }
    }
    let Some(map) = root.as_map_mut() else { return };
    for section in ["networks", "volumes", "secrets", "configs"] {
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

fn implicit_default_network(root: &mut Node) {
    let used = root.get("services").and_then(Node::as_map).is_some_and(|services| {
        services.values().any(|e| e.node.get("networks").is_some_and(|networks| networks.get("default").is_some()))
    });
    let at = root.at.clone();
    if root.get("networks").is_none_or(Node::is_null) {
        root.set("networks", Node::new(Value::Map(Map::new()), at.clone()));
    }
    if let Some(networks) = root.get_mut("networks")
        && used
        && networks.get("default").is_none()
    {
        networks.set("default", Node::new(Value::Map(Map::new()), at));
    }
}

fn resource(section: &str, name: &str, node: &mut Node, context: &Context<'_>) {
    let at = node.at.clone();
    let external = matches!(node.get("external").map(|n| &n.value), Some(Value::Bool(true)));
    if node.get("name").is_none_or(Node::is_null) {
        let full = if external { name.to_string() } else { format!("{}_{name}", context.project) };
        node.set("name", Node::string(full, &at));
    }
    if section == "networks" && node.get("ipam").is_none() && !external {
        node.set("ipam", Node::new(Value::Map(Map::new()), at));
    }
    if let Some(file) = node.get_mut("file") {
        paths::absolute_node(file, context.directory);
    }
}

/// Every name that a service uses is defined.
fn references(root: &Node, found: &mut Vec<Diagnostic>) {
    let names = |section: &str| -> Vec<String> {
        root.get(section).and_then(Node::as_map).map(|m| m.keys().cloned().collect()).unwrap_or_default()
    };
    let (services, networks, volumes) = (names("services"), names("networks"), names("volumes"));
    let mut undefined = |at: &super::node::At, user: &str, what: &str, name: &str, known: &[String], section: &str| {
        let help = match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("define it under `{section}:`, or remove it here"),
        };
        found.push(
            Diagnostic::error(at, format!("`services.{user}` refers to the {what} `{name}`, which is not defined")).help(help),
        );
    };
    let Some(map) = root.get("services").and_then(Node::as_map) else { return };
    for (user, entry) in map {
        let service = &entry.node;
        for (name, dependency) in service.get("depends_on").and_then(Node::as_map).into_iter().flatten() {
            let required = !matches!(dependency.node.get("required").map(|n| &n.value), Some(Value::Bool(false)));
            if !services.contains(name) && required {
                undefined(&dependency.key_at, user, "service", name, &services, "services");
            }
        }
        for (name, network) in service.get("networks").and_then(Node::as_map).into_iter().flatten() {
            if !networks.contains(name) {
                undefined(&network.key_at, user, "network", name, &networks, "networks");
            }
        }
        for volume in service.get("volumes").and_then(Node::as_list).unwrap_or_default() {
            if volume.get("type").and_then(Node::as_str) == Some("volume")
                && let Some(name) = volume.get("source").and_then(Node::as_str).filter(|name| !volumes.iter().any(|v| v == name))
            {
                undefined(&volume.at, user, "volume", name, &volumes, "volumes");
            }
        }
        for section in ["secrets", "configs"] {
            let known = names(section);
            for item in service.get(section).and_then(Node::as_list).unwrap_or_default() {
                if let Some(name) = item.get("source").and_then(Node::as_str).filter(|name| !known.iter().any(|k| k == name)) {
                    undefined(&item.at, user, section.trim_end_matches('s'), name, &known, section);
                }
            }
        }
    }
}

fn cycles(root: &Node, found: &mut Vec<Diagnostic>) {
    let Some(services) = root.get("services").and_then(Node::as_map) else { return };
    let mut graph = petgraph::graphmap::DiGraphMap::<&str, ()>::new();
    for (name, entry) in services {
        graph.add_node(name);
        for dependency in entry.node.get("depends_on").and_then(Node::as_map).into_iter().flat_map(|m| m.keys()) {
            if let Some((dependency, _)) = services.get_key_value(dependency) {
                graph.add_edge(name, dependency, ());
            }
        }
    }
    for component in petgraph::algo::tarjan_scc(&graph) {
        // The message begins with the service that the file has first.
        let first =
            services.keys().find_map(|name| component.iter().find(|member| *member == name)).copied().unwrap_or(component[0]);
        if component.len() == 1 && !graph.contains_edge(first, first) {
            continue;
        }
        // Walk the circle within the component, so that the message can name it in order.
        let mut path = vec![first];
        while let Some(next) = path.last().and_then(|last| graph.neighbors(last).find(|n| component.contains(n))) {
            if let Some(start) = path.iter().position(|n| *n == next) {
                path.drain(..start);
                path.push(next);
                break;
            }
            path.push(next);
        }
        let at = services.get(path[0]).and_then(|e| e.node.get("depends_on")).map_or(&root.at, |n| &n.at);
        found.push(
            Diagnostic::error(at, format!("`depends_on` goes in a circle: {}", path.join(" -> ")))
                .help("remove one of these dependencies: no order can start these services"),
        );
    }
}
