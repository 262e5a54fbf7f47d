//! All steps of a plan: each is done as soon as those before it are.

use super::steps::perform;
use super::{Progress, StepContext};
use crate::engine::error::EngineError;
use crate::plan::{Operation, Order, Plan};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use petgraph::Direction;
use petgraph::graph::NodeIndex;
use petgraph::visit::EdgeRef;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

type RunningSteps<'a> = FuturesUnordered<BoxFuture<'a, (NodeIndex, Result<(), EngineError>)>>;

struct Execution<'a> {
    context: Arc<StepContext>,
    plan: &'a Plan,
    /// How many steps each step still waits for.
    waiting: HashMap<NodeIndex, usize>,
    running: RunningSteps<'a>,
    /// Steps that have failed, and those that were skipped for them.
    failed: HashSet<NodeIndex>,
    errors: Vec<String>,
    /// A container is created and started: a skip is reported once, and not at all below its own error.
    reported: HashSet<String>,
}

/// Runs every step as soon as those before it are done. A step that fails takes those that need it along; the others go on.
/// When the command is cancelled, or its client has left, what has not begun does not begin.
pub(super) async fn execute(context: Arc<StepContext>, plan: Plan) -> Result<(), EngineError> {
    let graph = &plan.graph;
    let count = |node| graph.neighbors_directed(node, Direction::Incoming).count();
    let mut execution = Execution {
        context,
        plan: &plan,
        waiting: graph.node_indices().map(|node| (node, count(node))).collect(),
        running: FuturesUnordered::new(),
        failed: HashSet::new(),
        errors: Vec::new(),
        reported: HashSet::new(),
    };
    for node in graph.node_indices().filter(|node| count(*node) == 0) {
        execution.launch(node);
    }
    while let Some((node, result)) = execution.running.next().await {
        execution.ended(node, result);
    }
    if execution.errors.is_empty() { Ok(()) } else { Err(EngineError::Several(execution.errors)) }
}

impl Execution<'_> {
    fn launch(&mut self, node: NodeIndex) {
        if self.context.progress.is_closed() && !self.ends_a_recreation(node) {
            self.running.push(Box::pin(async move { (node, Err(EngineError::Cancelled)) }));
            return;
        }
        let (context, operation) = (self.context.clone(), self.plan.graph[node].operation.clone());
        // A task of its own, so that steps run on every processor.
        let task = tokio::spawn(async move { perform(&context, &operation).await });
        self.running.push(Box::pin(async move { (node, task.await.unwrap_or_else(|panicked| Err(panicked.into()))) }));
    }

    /// Whether it starts a container whose predecessor ran and is gone, or that was stopped for the sake of another.
    fn ends_a_recreation(&self, node: NodeIndex) -> bool {
        let graph = &self.plan.graph;
        let stops = |node: NodeIndex| {
            matches!(graph[node].operation, Operation::RecreateContainer { .. } | Operation::StopContainer { .. })
        };
        matches!(graph[node].operation, Operation::StartContainer { .. })
            && graph.neighbors_directed(node, Direction::Incoming).any(stops)
    }

    fn ended(&mut self, node: NodeIndex, result: Result<(), EngineError>) {
        if let Err(error) = result {
            self.failed.insert(node);
            let object = self.plan.graph[node].operation.object();
            if !matches!(error, EngineError::Cancelled | EngineError::Paused) {
                self.context.count_failure(&self.plan.graph[node].operation, &error);
                self.context.progress.send(Progress::Error { object: object.clone(), message: error.to_string() });
            }
            self.reported.insert(object);
            self.errors.push(error.to_string());
        }
        let mut done = vec![node];
        while let Some(node) = done.pop() {
            for edge in self.plan.graph.edges_directed(node, Direction::Outgoing) {
                let next = edge.target();
                if *edge.weight() == Order::Needs && self.failed.contains(&node) && self.failed.insert(next) {
                    let object = self.plan.graph[next].operation.object();
                    if self.reported.insert(object.clone()) {
                        self.context.step(&object, "Skipped", true);
                    }
                }
                let Some(count) = self.waiting.get_mut(&next) else { continue };
                *count -= 1;
                if *count == 0 {
                    if self.failed.contains(&next) { done.push(next) } else { self.launch(next) }
                }
            }
        }
    }
}
