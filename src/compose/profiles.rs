//! Profiles: which services take part.

use super::node::{Map, Node};

/// Takes the services out of the tree that no selected profile activates, and returns them. `*` is every profile; naming a
/// service activates it and its profiles.
pub fn select(root: &mut Node, selected: &[String], named: &[String]) -> Map {
    let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) else { return Map::default() };
    let mut active: Vec<String> = selected.to_vec();
    for name in named {
        if let Some(entry) = services.get(name).filter(|entry| !is_active(&entry.node, selected)) {
            active.extend(of(&entry.node));
        }
    }
    let all = std::mem::take(services);
    let (kept, left_out): (Map, Map) = all.into_iter().partition(|(_, entry)| is_active(&entry.node, &active));
    *services = kept;
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
