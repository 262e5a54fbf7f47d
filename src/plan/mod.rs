//! Planning: from a desired project and an observed state to a graph of operations, each with its cause.
//!
//! Pure: no clock, socket or process. `wharf plan` prints what `wharf up` executes. [`desired`] is what the user wants,
//! [`observed`] what the engine has found; [`up`], [`down`] and [`lifecycle`] compare them.

mod cause;
mod dependencies;
mod desired;
mod down;
mod hash;
mod interruption;
mod jobs;
mod lifecycle;
mod observed;
mod operation;
mod resources;
mod starts;
mod up;
mod update;

pub use crate::compose::model::PullPolicy;
pub use dependencies::selected;
pub use desired::{ChangedVolumes, DesiredOutline, DownOptions, LifecycleOptions, OutlineService, RemoveImages, UpOptions};
pub use down::down;
pub use hash::{config_hash, network_hash, volume_hash};
pub use interruption::Interruption;
pub use jobs::{job_hash, part_for_job, with_job_as_service};
pub use lifecycle::{Lifecycle, lifecycle};
pub use observed::{ContainerState, Observed, ObservedContainer, ObservedNetwork, ObservedVolume, depends_on_label};
pub use operation::Operation;
pub use up::{one_off, up};
pub use update::{FailureAction, UpdateOrder, UpdatePolicy};

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// An operation and its cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    #[serde(flatten)]
    pub operation: Operation,
    pub cause: String,
}

/// Why a step comes after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It is skipped when the other fails.
    Needs,
    /// It is done in any case, once the other has ended.
    After,
}

/// Steps that come before a step.
#[derive(Clone, Debug, Default)]
struct Before(Vec<(NodeIndex, Order)>);

impl Before {
    fn needs(nodes: &[NodeIndex]) -> Self {
        Before(nodes.iter().map(|node| (*node, Order::Needs)).collect())
    }

    fn need(&mut self, nodes: impl IntoIterator<Item = NodeIndex>) {
        self.0.extend(nodes.into_iter().map(|node| (node, Order::Needs)));
    }

    fn follow(&mut self, nodes: impl IntoIterator<Item = NodeIndex>) {
        self.0.extend(nodes.into_iter().map(|node| (node, Order::After)));
    }
}

/// A graph of steps; an edge leads from what must be done first.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub graph: DiGraph<Step, Order>,
    /// Containers of services that the project no longer has, and that nobody asked to remove.
    pub orphans: Vec<String>,
    pub warnings: Vec<String>,
    pub interruptions: Vec<Interruption>,
    /// Volumes whose definition has changed, where the user is to be asked before their data is lost.
    pub changed_volumes: Vec<String>,
}

impl Plan {
    /// Takes out what is waited for on behalf of one service alone, and that nothing else comes after.
    pub fn split_off_awaits(&mut self, service: &str) -> Vec<Operation> {
        let mut awaits = Vec::new();
        self.graph.retain_nodes(|graph, node| {
            let is_last = graph.neighbors(node).next().is_none();
            let is_own = matches!(&graph[node].operation, Operation::Await { dependent: Some(of), .. } if of == service);
            if is_last && is_own {
                awaits.push(graph[node].operation.clone());
            }
            !(is_last && is_own)
        });
        awaits
    }
}

/// Why a plan cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("no such service: {name}{}", .nearest.as_ref().map(|n| format!("\ndid you mean `{n}`?")).unwrap_or_default())]
    NoSuchService { name: String, nearest: Option<String> },
    #[error("network {name} declared as external, but could not be found\ncreate it first: wharf network create {name}")]
    MissingNetwork { name: String },
    /// A network that another file, project or the engine itself has made (Compose's words).
    #[error(
        "network {name} was found but has incorrect label com.docker.compose.network set to \"{found}\" (expected: \"{key}\")\nset `external: true` to use it, or choose another `name`"
    )]
    StrangeNetwork { name: String, found: String, key: String },
    #[error("external volume \"{name}\" not found\ncreate it first: wharf volume create {name}")]
    MissingVolume { name: String },
    #[error(
        "the service `{service}` has `container_name: {name}` and cannot have {replicas} containers; remove the name or the scale"
    )]
    NamedAndScaled { service: String, name: String, replicas: u32 },
    #[error(
        "the service `{service}` is of the provider `{kind}`, and wharf runs no providers: run it beside wharf, and leave the service out by a profile"
    )]
    Provider { service: String, kind: String },
    #[error("the service `{service}` has no image and its `build` cannot be done yet; give it an `image`")]
    NoImage { service: String },
    #[error("cannot share {what} with service {other}: container missing\n`wharf up {other}` creates it")]
    MissingDonor { what: &'static str, other: String },
    #[error("service \"{service}\" has no container to start\n`wharf up -d` creates it")]
    NothingToStart { service: String },
    #[error("`{name}` is a job, and is not started with services: `wharf run {name}` runs it")]
    IsJob { name: String },
    #[error("{service} is missing dependency {dependency}\n`wharf up -d {dependency}` creates it")]
    MissingDependency { service: String, dependency: String },
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.graph.node_count() == 0
    }

    /// How many containers of each service are updated, and looked at.
    pub fn updates(&self) -> HashMap<String, usize> {
        let mut updates = HashMap::new();
        for step in self.graph.node_weights() {
            if let Operation::UpdateContainer { service, .. } | Operation::WatchContainer { service, .. } = &step.operation {
                *updates.entry(service.clone()).or_default() += 1;
            }
        }
        updates
    }

    /// Why containers of services are made or replaced.
    pub fn causes(&self) -> HashMap<String, String> {
        let mut causes = HashMap::new();
        for step in self.graph.node_weights() {
            if let Operation::CreateContainer { service, .. }
            | Operation::RecreateContainer { service, .. }
            | Operation::UpdateContainer { service, .. } = &step.operation
            {
                causes.entry(service.clone()).or_insert_with(|| step.cause.clone());
            }
        }
        causes
    }

    fn add(&mut self, operation: Operation, cause: impl Into<String>, before: &Before) -> NodeIndex {
        let node = self.graph.add_node(Step { operation, cause: cause.into() });
        for &(first, order) in &before.0 {
            // What is needed stays needed.
            let known = self.graph.find_edge(first, node).and_then(|edge| self.graph.edge_weight(edge));
            if known != Some(&Order::Needs) {
                self.graph.update_edge(first, node, order);
            }
        }
        node
    }

    /// A line a step: `[1 2] -> #3 OPERATION: CAUSE`.
    pub fn lines(&self) -> Vec<String> {
        let line = |node: NodeIndex| {
            let step = &self.graph[node];
            let mut before: Vec<usize> =
                self.graph.neighbors_directed(node, Direction::Incoming).map(|n| n.index() + 1).collect();
            before.sort_unstable();
            let before: Vec<String> = before.iter().map(usize::to_string).collect();
            format!("[{}] -> #{} {}: {}", before.join(" "), node.index() + 1, step.operation, step.cause)
        };
        self.graph.node_indices().map(line).collect()
    }
}

#[cfg(test)]
mod tests;
