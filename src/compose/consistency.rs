//! Consistency: names that are used are defined, attributes that exclude each other, cycles.

use super::canonical::workloads;
use super::check::{boolean, float, integer};
use super::diagnostic::{Diagnostic, nearest};
use super::node::{At, Node};
use super::units;
use crate::cron::Cron;

mod jobs;

/// The configs, secrets and volumes of a file, whether a service uses them or not.
pub fn resources(root: &Node, found: &mut Vec<Diagnostic>) {
    let sections = [("configs", &["file", "environment", "content"][..]), ("secrets", &["file", "environment", "content"][..])];
    for (section, sources) in sections {
        for (name, entry) in root.get(section).and_then(Node::as_map).into_iter().flatten() {
            let node = &entry.node;
            let given: Vec<&str> =
                sources.iter().copied().filter(|source| node.get(source).is_some_and(|n| !n.is_null())).collect();
            let path = format!("{section}.{name}");
            if given.len() > 1 {
                let at = node.get(given[1]).map_or(&node.at, |second| &second.at);
                let both = given.iter().map(|source| format!("`{source}`")).collect::<Vec<_>>().join(" and ");
                found.push(Diagnostic::error(at, format!("`{path}` has {both}")).help("keep one of them"));
            }
            let external = node.get("external").and_then(boolean).unwrap_or_default();
            if given.is_empty() && !external && node.get("driver").is_none() {
                found.push(
                    Diagnostic::error(&entry.key_at, format!("`{path}` has no content"))
                        .help("say where it is: `file: PATH`, `environment: NAME`, `content: TEXT`, or `external: true`"),
                );
            }
        }
    }
    for (name, entry) in root.get("volumes").and_then(Node::as_map).into_iter().flatten() {
        if !entry.node.get("external").and_then(boolean).unwrap_or_default() {
            continue;
        }
        for (key, other) in entry.node.as_map().into_iter().flatten() {
            if key != "name" && key != "external" && !key.starts_with("x-") {
                let message = format!("`volumes.{name}` is external and has `{key}`");
                found.push(
                    Diagnostic::error(&other.key_at, message)
                        .help("an external volume exists already and is only named: remove one of the two"),
                );
            }
        }
    }
    for (section, name, entry) in workloads(root) {
        let path = format!("{section}.{name}");
        devices(&path, &entry.node, found);
        for trigger in list(entry.node.get("develop").and_then(|develop| develop.get("watch"))) {
            if let Some(watched) = trigger.get("path").filter(|watched| watched.as_str() == Some("")) {
                found.push(Diagnostic::error(&watched.at, format!("`{path}.develop.watch` watches no path")));
            }
        }
        for volume in list(entry.node.get("volumes")) {
            let bind = volume.get("type").and_then(Node::as_str) == Some("bind");
            if bind && volume.get("source").is_none() {
                found.push(
                    Diagnostic::error(&volume.at, format!("a bind mount of `{path}` has no `source`"))
                        .help("say what of this machine is mounted: `source: ./dir`"),
                );
            }
            if let Some(target) = volume.get("target").filter(|t| t.as_str().is_some_and(super::paths::is_windows)) {
                let message =
                    format!("`{}` is read as a path of Windows, as Docker Compose does", target.as_str().unwrap_or_default());
                found.push(
                    Diagnostic::warning(&target.at, message).help("a volume's name before a colon needs two letters or more"),
                );
            }
            if volume.as_map().is_some() && volume.get("target").is_none() {
                found.push(
                    Diagnostic::error(&volume.at, format!("a volume of `{path}` has no `target`"))
                        .help("write the path in the container: `target: /path`"),
                );
            }
        }
    }
}

fn devices(path: &str, service: &Node, found: &mut Vec<Diagnostic>) {
    let reserved = service.get("deploy").and_then(|d| d.get("resources")).and_then(|r| r.get("reservations"));
    for request in list(reserved.and_then(|r| r.get("devices"))).chain(list(service.get("gpus"))) {
        if let (Some(count), Some(_)) = (request.get("count"), request.get("device_ids")) {
            found.push(
                Diagnostic::error(&count.at, format!("a device request of `{path}` has `count` and `device_ids`"))
                    .help("either a number of devices, or their names: keep one of the two"),
            );
        }
    }
}

fn list(node: Option<&Node>) -> impl Iterator<Item = &Node> {
    node.and_then(Node::as_list).unwrap_or_default().iter()
}

/// The active services and jobs of a whole project.
pub fn services(root: &Node, disabled: &[String], found: &mut Vec<Diagnostic>) {
    let references = References::of(root, disabled);
    for (section, name, entry) in workloads(root) {
        let service = &entry.node;
        let user = format!("{section}.{name}");
        alone(&user, &entry.key_at, service, found);
        distinct_values(name, service, found);
        references.check(&user, service, found);
    }
    jobs::check(root, found);
    cycles(root, found);
}

/// Checks of one service alone.
fn alone(path: &str, key_at: &At, service: &Node, found: &mut Vec<Diagnostic>) {
    let text = |key: &str| service.get(key).and_then(Node::as_str).filter(|text| !text.is_empty());
    let mut error = |at: &At, message: String, help: &str| found.push(Diagnostic::error(at, message).help(help));
    if text("image").is_none() && service.get("build").is_none_or(Node::is_null) && service.get("provider").is_none() {
        let at = service.get("image").map_or(key_at, |image| &image.at);
        let what = path.replacen("services.", "service `", 1).replacen("jobs.", "job `", 1);
        error(at, format!("the {what}` has neither an `image` nor a `build`"), "say what it runs: `image: NAME`");
    }
    if let Some(build) = service.get("build") {
        let given = |key: &str| build.get(key).filter(|node| node.as_str().is_some_and(|text| !text.is_empty()));
        if let (Some(inline), Some(_)) = (given("dockerfile_inline"), given("dockerfile")) {
            let message = format!("`{path}.build` has `dockerfile` and `dockerfile_inline`");
            error(&inline.at, message, "keep one of the two");
        }
        let mut platforms = list(build.get("platforms")).filter_map(Node::as_str).peekable();
        if let (Some(platform), Some(_)) = (service.get("platform"), platforms.peek())
            && let Some(wanted) = platform.as_str().filter(|wanted| !wanted.is_empty())
            && !platforms.any(|built| built == wanted)
        {
            let message = format!("`{path}` runs on `{wanted}`, which is not one of its `build.platforms`");
            error(&platform.at, message, "add it to `build.platforms`, or remove `platform`");
        }
    }
    if let (Some(mode), Some(networks)) = (service.get("network_mode"), service.get("networks").and_then(Node::as_map))
        && !mode.is_null()
        && mode.as_str() != Some("")
        && !networks.is_empty()
    {
        error(
            &mode.at,
            format!("`{path}` has both `network_mode` and `networks`"),
            "a service either joins networks or has a network mode: keep one of the two",
        );
    }
    if let Some(test) = service.get("healthcheck").and_then(|health| health.get("test")) {
        let first = test.as_list().and_then(<[Node]>::first).and_then(Node::as_str);
        if !matches!(first, Some("NONE" | "CMD" | "CMD-SHELL") | None) {
            error(
                &test.at,
                format!("`{path}.healthcheck.test` must begin with NONE, CMD or CMD-SHELL"),
                "write `[\"CMD\", \"program\", \"argument\"]`, or a string that a shell runs",
            );
        }
    }
    if let Some(update) = service.get("x-update") {
        if let Some(schedule) = update.get("schedule")
            && let Err(why) = schedule.as_str().unwrap_or_default().parse::<Cron>()
        {
            error(
                &schedule.at,
                format!("`{path}.x-update.schedule`: {why}"),
                "write five fields as cron has them: `0 4 * * *` is at four, each day",
            );
        }
        let is_url = |url: &str| url.starts_with("http://") || url.starts_with("https://");
        if let Some(notify) = update.get("notify").filter(|notify| !notify.as_str().is_some_and(is_url)) {
            let message = format!("`{path}.x-update.notify` is no address");
            error(&notify.at, message, "write one that begins with http:// or https://");
        }
    }
    for trigger in list(service.get("develop").and_then(|develop| develop.get("watch"))) {
        let action = trigger.get("action").and_then(Node::as_str).unwrap_or_default();
        if !matches!(action, "rebuild" | "restart") && trigger.get("target").is_none() {
            error(
                &trigger.at,
                format!("`{path}.develop.watch` copies files with `{action}` and has no `target`"),
                "say where in the container they go: `target: /path`",
            );
        }
        if action == "sync+exec" && trigger.get("exec").is_none() {
            let message = format!("`{path}.develop.watch` runs a command with `sync+exec` and has no `exec`");
            error(&trigger.at, message, "say which: `exec: {command: COMMAND}`");
        }
    }
}

/// Attributes that two keys set differently, and container names of more than one container.
fn distinct_values(name: &str, service: &Node, found: &mut Vec<Diagnostic>) {
    let deploy = service.get("deploy");
    let resource = |kind: &str, key: &str| deploy.and_then(|d| d.get("resources")?.get(kind)?.get(key));
    let replicas = deploy.and_then(|d| d.get("replicas"));
    type Value = fn(&Node) -> Option<f64>;
    let bytes: Value = |node| node.scalar_text().and_then(|text| units::bytes(&text)).map(|bytes| bytes as f64);
    let pairs: [(&str, &str, Option<&Node>, Value); 5] = [
        ("scale", "deploy.replicas", replicas, float),
        ("cpus", "deploy.resources.limits.cpus", resource("limits", "cpus"), float),
        ("mem_limit", "deploy.resources.limits.memory", resource("limits", "memory"), bytes),
        ("mem_reservation", "deploy.resources.reservations.memory", resource("reservations", "memory"), bytes),
        ("pids_limit", "deploy.resources.limits.pids", resource("limits", "pids"), float),
    ];
    for (key, other_path, other, value) in pairs {
        let (Some(own), Some(other)) = (service.get(key), other) else { continue };
        if let (Some(a), Some(b)) = (value(own), value(other))
            && a != b
        {
            let message = format!("`services.{name}` has two values: `{key}` and `{other_path}`");
            found.push(Diagnostic::error(&other.at, message).help("keep one of the two"));
        }
    }
    let scale = service.get("scale").or(replicas);
    if let (Some(scale), Some(container)) = (scale, service.get("container_name"))
        && integer(scale).is_some_and(|count| count > 1)
        && container.as_str().is_some_and(|text| !text.is_empty())
    {
        let message = format!("`services.{name}` has a `container_name` and {} containers", integer(scale).unwrap_or_default());
        found.push(Diagnostic::error(&container.at, message).help("a name is of one container: remove `container_name`"));
    }
}

/// A container's name is one service's, of those that take part.
pub fn container_names(root: &Node, takes_part: &dyn Fn(&str) -> bool, found: &mut Vec<Diagnostic>) {
    let mut owners: std::collections::HashMap<&str, (&str, &At)> = std::collections::HashMap::new();
    for (name, entry) in root.get("services").and_then(Node::as_map).into_iter().flatten().filter(|(name, _)| takes_part(name)) {
        let Some(node) = entry.node.get("container_name") else { continue };
        let Some(container) = node.as_str().filter(|text| !text.is_empty()) else { continue };
        let Some((owner, at)) = owners.insert(container, (name, &node.at)) else { continue };
        let message = format!("services.{name}: container name \"{container}\" is already in use by service {owner}");
        let error = Diagnostic::error(&node.at, message).help("a name is of one container: change one of the two");
        found.push(error.note(at, "the other one"));
    }
}

/// The names that services can refer to.
struct References<'a> {
    root: &'a Node,
    services: Option<&'a super::node::Map>,
    disabled: &'a [String],
}

impl<'a> References<'a> {
    fn of(root: &'a Node, disabled: &'a [String]) -> Self {
        References { root, services: root.get("services").and_then(Node::as_map), disabled }
    }

    fn check(&self, user: &str, service: &Node, found: &mut Vec<Diagnostic>) {
        for (name, dependency) in service.get("depends_on").and_then(Node::as_map).into_iter().flatten() {
            let required = dependency.node.get("required").and_then(boolean).unwrap_or(true);
            let job = self.root.get("jobs").and_then(Node::as_map).and_then(|jobs| jobs.get(name));
            if let Some(job) = job.filter(|_| user.starts_with("services.")) {
                let message = format!("`{user}` depends on the job `{name}`, and a service cannot wait for a job");
                found.push(
                    Diagnostic::error(&dependency.key_at, message)
                        .note(&job.key_at, "the job")
                        .help("make a service of it, and wait with `condition: service_completed_successfully`"),
                );
                continue;
            }
            if job.is_some() || self.services.is_some_and(|services| services.contains_key(name)) {
                continue;
            }
            if !self.disabled.contains(name) {
                found.push(self.undefined(&dependency.key_at, user, "service", name, "services"));
            } else if required {
                let message = format!("`{user}` depends on `{name}`, which no active profile has");
                found.push(
                    Diagnostic::error(&dependency.key_at, message)
                        .help("activate a profile of it with `--profile NAME`, or write `required: false` for this dependency"),
                );
            }
        }
        // With a network mode, `networks` is the error that is reported.
        let networks = service.get("networks").filter(|_| service.get("network_mode").is_none());
        for (name, network) in networks.and_then(Node::as_map).into_iter().flatten() {
            self.resource(&network.key_at, user, "networks", name, found);
        }
        for (name, model) in service.get("models").and_then(Node::as_map).into_iter().flatten() {
            self.resource(&model.key_at, user, "models", name, found);
        }
        for volume in list(service.get("volumes")).filter(|v| v.get("type").and_then(Node::as_str) == Some("volume")) {
            if let Some(name) = volume.get("source").and_then(Node::as_str).filter(|name| !name.is_empty()) {
                let at = volume.get("source").map_or(&volume.at, |source| &source.at);
                self.resource(at, user, "volumes", name, found);
            }
        }
        for section in ["secrets", "configs"] {
            for item in list(service.get(section)).chain(list(service.get("build").and_then(|build| build.get(section)))) {
                if let Some(name) = item.get("source").and_then(Node::as_str) {
                    self.resource(&item.at, user, section, name, found);
                }
            }
        }
    }

    fn resource(&self, at: &At, user: &str, section: &str, name: &str, found: &mut Vec<Diagnostic>) {
        if self.root.get(section).and_then(|node| node.get(name)).is_none() {
            found.push(self.undefined(at, user, section.trim_end_matches('s'), name, section));
        }
    }

    fn undefined(&self, at: &At, user: &str, what: &str, name: &str, section: &str) -> Diagnostic {
        let known = self.root.get(section).and_then(Node::as_map).into_iter().flat_map(|map| map.keys().map(String::as_str));
        let help = match nearest(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("define it under `{section}:`, or remove it here"),
        };
        Diagnostic::error(at, format!("`{user}` refers to the {what} `{name}`, which is not defined")).help(help)
    }
}

fn cycles(root: &Node, found: &mut Vec<Diagnostic>) {
    let all: indexmap::IndexMap<&str, &Node> = workloads(root).map(|(_, name, entry)| (name.as_str(), &entry.node)).collect();
    let mut graph = petgraph::graphmap::DiGraphMap::<&str, ()>::new();
    for (name, node) in &all {
        graph.add_node(*name);
        for dependency in node.get("depends_on").and_then(Node::as_map).into_iter().flat_map(|m| m.keys()) {
            if let Some((dependency, _)) = all.get_key_value(dependency.as_str()) {
                graph.add_edge(*name, *dependency, ());
            }
        }
    }
    for component in petgraph::algo::tarjan_scc(&graph) {
        if component.len() == 1 && !graph.contains_edge(component[0], component[0]) {
            continue;
        }
        // The message begins with the service that the file has first.
        let first = component.iter().copied().min_by_key(|name| all.get_index_of(*name)).unwrap_or(component[0]);
        // Walk the cycle within the component, so that the message can name it in order.
        let mut path = vec![first];
        while let Some(next) = path.last().and_then(|last| graph.neighbors(last).find(|n| component.contains(n))) {
            if let Some(start) = path.iter().position(|n| *n == next) {
                path.drain(..start);
                path.push(next);
                break;
            }
            path.push(next);
        }
        let at = all.get(path[0]).and_then(|node| node.get("depends_on")).map_or(&root.at, |n| &n.at);
        found.push(
            Diagnostic::error(at, format!("`depends_on` has a cycle: {}", path.join(" -> ")))
                .help("remove one of these dependencies: no order can start these services"),
        );
    }
}
