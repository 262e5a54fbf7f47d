//! What has to be done, and why: from a desired project and an observed state to a graph of operations.
//!
//! Pure: no clock, socket or process. `wharf plan` prints what `wharf up` executes.

mod down;
mod hash;
mod up;

pub use down::{DownOptions, down};
pub use hash::config_hash;
pub use up::{UpOptions, one_off, up};

use crate::compose::model::Condition;
use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// What exists of a project.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub containers: Vec<ObservedContainer>,
    /// Names of the networks, the project's own and others.
    pub networks: HashMap<String, ObservedNetwork>,
    pub volumes: HashSet<String>,
    /// Image references as services write them, with the id of the image that is here.
    pub images: HashMap<String, String>,
    /// Seconds since each of them was pulled, where that is known.
    pub image_ages: HashMap<String, u64>,
}

#[derive(Clone, Debug, Default)]
pub struct ObservedNetwork {
    /// The project that made it, by its label.
    pub project: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct ObservedContainer {
    pub id: String,
    pub name: String,
    pub service: String,
    pub number: u32,
    pub config_hash: String,
    pub image_id: String,
    pub running: bool,
    /// Its `pre_start` hooks have been run.
    pub prepared: bool,
    /// Names of the services it depends on, from its label.
    pub depends_on: Vec<String>,
    /// Names of the networks it is on.
    pub networks: Vec<String>,
    /// What it needs and is gone, as a cause to replace it.
    pub lost: Option<String>,
}

/// One operation. Each carries what it needs and no more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Operation {
    /// A network of the project, by its key in the file.
    CreateNetwork {
        key: String,
    },
    CreateVolume {
        key: String,
    },
    PullImage {
        image: String,
    },
    CreateContainer {
        service: String,
        number: u32,
        name: String,
    },
    /// Creates the new container beside the old one, then stops and removes the old one and gives its name to the new one.
    RecreateContainer {
        service: String,
        number: u32,
        name: String,
        replaces: String,
        /// `deploy.update_config.order: start-first`: the new one is started before the old one is stopped.
        start_first: bool,
    },
    /// Runs the `pre_start` hooks of a service, or those of one of its containers.
    PreStart {
        service: String,
        /// The container before whose start they run.
        name: String,
        per_replica: bool,
    },
    StartContainer {
        service: String,
        name: String,
    },
    RestartContainer {
        id: String,
        name: String,
    },
    /// Waits until every container of a service fulfils the condition.
    Await {
        service: String,
        condition: Condition,
    },
    /// Stops and removes.
    RemoveContainer {
        id: String,
        name: String,
    },
    RemoveNetwork {
        name: String,
    },
    RemoveVolume {
        name: String,
    },
    RemoveImage {
        image: String,
    },
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::CreateNetwork { key } => write!(f, "create network {key}"),
            Operation::CreateVolume { key } => write!(f, "create volume {key}"),
            Operation::PullImage { image } => write!(f, "pull image {image}"),
            Operation::CreateContainer { name, .. } => write!(f, "create container {name}"),
            Operation::RecreateContainer { name, .. } => write!(f, "recreate container {name}"),
            Operation::PreStart { name, .. } => write!(f, "run what is to run before {name}"),
            Operation::StartContainer { name, .. } => write!(f, "start container {name}"),
            Operation::RestartContainer { name, .. } => write!(f, "restart container {name}"),
            Operation::Await { service, condition } => write!(f, "wait for {service} ({})", condition.as_str()),
            Operation::RemoveContainer { name, .. } => write!(f, "stop and remove container {name}"),
            Operation::RemoveNetwork { name } => write!(f, "remove network {name}"),
            Operation::RemoveVolume { name } => write!(f, "remove volume {name}"),
            Operation::RemoveImage { image } => write!(f, "remove image {image}"),
        }
    }
}

/// An operation and its cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    #[serde(flatten)]
    pub operation: Operation,
    pub cause: String,
}

/// A graph of steps; an edge leads from what must be done first.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub graph: DiGraph<Step, ()>,
    /// Containers of services that the project no longer has, and that nobody asked to remove.
    pub orphans: Vec<String>,
}

/// What cannot be planned.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("there is no service `{name}` in the project{}", .nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    NoSuchService { name: String, nearest: Option<String> },
    #[error("the network {name} is external and does not exist; create it first")]
    MissingNetwork { name: String },
    #[error("the volume {name} is external and does not exist; create it first")]
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
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.graph.node_count() == 0
    }

    fn add(&mut self, operation: Operation, cause: impl Into<String>, after: &[NodeIndex]) -> NodeIndex {
        let node = self.graph.add_node(Step { operation, cause: cause.into() });
        for &before in after {
            self.graph.update_edge(before, node, ());
        }
        node
    }

    /// A line a step: `[1 2] -> #3 OPERATION, CAUSE`.
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
