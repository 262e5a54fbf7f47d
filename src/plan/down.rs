//! The plan of `down`: containers in the reverse order of their dependencies, then what only they used.

use super::{Observed, ObservedContainer, Operation, Plan};
use petgraph::graph::NodeIndex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What `down` was asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DownOptions {
    /// Named and anonymous volumes as well.
    pub volumes: bool,
    /// `all` or `local`.
    pub rmi: Option<String>,
    pub timeout: Option<u32>,
    pub remove_orphans: bool,
    /// Empty: every service, networks and all.
    pub services: Vec<String>,
    /// Services that the Compose file has; others are orphans. Unknown where there is no file.
    pub known_services: Option<Vec<String>>,
    /// Networks and volumes that are the project's own: names.
    pub own_networks: Vec<String>,
    pub own_volumes: Vec<String>,
    pub images: Vec<String>,
    /// Tell the plan, and do nothing.
    pub plan_only: bool,
}

/// Plans `down`.
pub fn down(observed: &Observed, options: &DownOptions) -> Plan {
    let mut plan = Plan::default();
    let mut doomed: Vec<&ObservedContainer> = Vec::new();
    for container in &observed.containers {
        let known = options.known_services.as_ref().is_none_or(|known| known.contains(&container.service));
        let asked = options.services.is_empty() || options.services.contains(&container.service);
        match (known, asked) {
            (true, true) => doomed.push(container),
            (false, _) if options.remove_orphans => doomed.push(container),
            (false, _) => plan.orphans.push(container.name.clone()),
            (true, false) => {}
        }
    }
    // A container goes after those that depend on it.
    let mut nodes: HashMap<&str, Vec<NodeIndex>> = HashMap::new();
    for container in &doomed {
        let operation = Operation::RemoveContainer { id: container.id.clone(), name: container.name.clone() };
        let node = plan.add(operation, "down", &[]);
        nodes.entry(container.service.as_str()).or_default().push(node);
    }
    for (container, index) in doomed.iter().zip(plan.graph.node_indices().collect::<Vec<_>>()) {
        for dependency in container.depends_on.iter().filter_map(|name| nodes.get(name.as_str())).flatten() {
            if *dependency != index {
                plan.graph.update_edge(index, *dependency, ());
            }
        }
    }
    if !options.services.is_empty() {
        return plan;
    }
    let all: Vec<NodeIndex> = plan.graph.node_indices().collect();
    for name in options.own_networks.iter().filter(|name| observed.networks.contains_key(*name)) {
        let still_used = observed.containers.iter().any(|c| c.networks.contains(name) && !doomed.iter().any(|d| d.id == c.id));
        if !still_used {
            plan.add(Operation::RemoveNetwork { name: name.clone() }, "down", &all);
        }
    }
    if options.volumes {
        for name in options.own_volumes.iter().filter(|name| observed.volumes.contains(*name)) {
            plan.add(Operation::RemoveVolume { name: name.clone() }, "down --volumes", &all);
        }
    }
    if options.rmi.as_deref() == Some("all") {
        for image in options.images.iter().filter(|image| observed.images.contains_key(*image)) {
            plan.add(Operation::RemoveImage { image: image.clone() }, "down --rmi all", &all);
        }
    }
    plan
}
