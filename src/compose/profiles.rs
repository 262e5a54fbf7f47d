//! Profiles: which services and jobs take part.

use super::canonical::WORKLOADS;
use super::node::{Map, Node};

/// Takes the services and jobs out of the tree that no selected profile activates, and returns them. `*` is every profile; naming
/// one activates it and its profiles.
pub fn select(root: &mut Node, selected: &[String], named: &[String]) -> Map {
    let mut active: Vec<String> = selected.to_vec();
    for name in named {
        let entries = WORKLOADS.iter().filter_map(|section| root.get(section)?.get(name));
        active.extend(entries.filter(|node| !is_active(node, selected)).flat_map(of).collect::<Vec<_>>());
    }
    let mut left_out = Map::default();
    for section in WORKLOADS {
        let Some(map) = root.get_mut(section).and_then(Node::as_map_mut) else { continue };
        let all = std::mem::take(map);
        let (kept, others): (Map, Map) = all.into_iter().partition(|(_, entry)| is_active(&entry.node, &active));
        *map = kept;
        left_out.extend(others);
    }
    left_out
}

/// The profiles of a service, as its file has them.
pub fn of(service: &Node) -> Vec<String> {
    let list = service.get("profiles").and_then(Node::as_list).unwrap_or_default();
    list.iter().filter_map(|profile| profile.as_str().map(str::to_string)).collect()
}

fn is_active(service: &Node, selected: &[String]) -> bool {
    let profiles = of(service);
    profiles.is_empty() || selected.iter().any(|wanted| wanted == "*" || profiles.contains(wanted))
}
