//! The start of a container in the plan of `up`, and the steps that come before it: its dependencies and `pre_start` hooks.

use super::up::{Planner, ServiceSteps};
use super::{Before, Operation};
use crate::compose::model::{Condition, Service};
use petgraph::graph::NodeIndex;

impl Planner<'_> {
    pub(super) fn start(
        &mut self,
        service_name: &str,
        service: &Service,
        name: String,
        cause: &str,
        created: NodeIndex,
        steps: &mut ServiceSteps,
    ) {
        if self.options.no_start {
            steps.starts.push(created);
            return;
        }
        let mut before = self.dependencies(service_name, service);
        before.need([created]);
        self.pre_start(service_name, service, &name, &mut before, steps);
        let operation = Operation::StartContainer { service: service_name.into(), name };
        steps.starts.push(self.plan.add(operation, cause, &before));
    }

    /// Has the service's `pre_start` hooks run before a container's start: once for the service, unless a container is there for
    /// which they have been run, and those with `per_replica` for each.
    pub(super) fn pre_start(
        &mut self,
        service_name: &str,
        service: &Service,
        name: &str,
        before: &mut Before,
        steps: &mut ServiceSteps,
    ) {
        let operation = |per_replica| Operation::PreStart { service: service_name.into(), name: name.into(), per_replica };
        let shared = service.pre_start.iter().any(|hook| !hook.per_replica);
        if shared && !steps.prepared && steps.pre_start.is_none() {
            steps.pre_start = Some(self.plan.add(operation(false), "pre_start", before));
        }
        before.need(steps.pre_start);
        if service.pre_start.iter().any(|hook| hook.per_replica) {
            let step = self.plan.add(operation(true), "pre_start, per_replica", before);
            before.need([step]);
        }
    }

    /// The steps after which a container of the service may start.
    pub(super) fn dependencies(&mut self, dependent: &str, service: &Service) -> Before {
        let mut before = Before::default();
        for (name, dependency) in &service.depends_on {
            let Some(steps) = self.services.get(name) else { continue };
            match (dependency.condition, dependency.required) {
                (Condition::ServiceStarted, true) => before.need(steps.starts.clone()),
                (Condition::ServiceStarted, false) => before.follow(steps.starts.clone()),
                (condition, required) => before.need([self.await_condition(name, condition, Some(dependent), required)]),
            }
        }
        before
    }

    fn await_condition(&mut self, name: &str, condition: Condition, dependent: Option<&str>, required: bool) -> NodeIndex {
        let key = (condition.as_str(), required);
        let (known, starts) = match self.services.get(name) {
            Some(steps) => (steps.awaits.get(&key).copied(), steps.starts.clone()),
            None => (None, Vec::new()),
        };
        known.unwrap_or_else(|| {
            let dependent = dependent.map(str::to_string);
            let operation = Operation::Await { service: name.into(), condition, dependent, required };
            let mut before = Before::default();
            if required {
                before.need(starts)
            } else {
                before.follow(starts)
            }
            let node = self.plan.add(operation, "depended on", &before);
            if let Some(steps) = self.services.get_mut(name) {
                steps.awaits.insert(key, node);
            }
            node
        })
    }

    /// `--wait`: a job that others wait for is to end, anything else is to run.
    pub(super) fn wait(&mut self, name: &str) {
        let service = &self.project.services[name];
        let mut dependents = self.project.services.values().filter_map(|other| other.depends_on.get(name));
        let is_job = dependents.any(|dependency| dependency.condition == Condition::ServiceCompletedSuccessfully);
        let condition = match (is_job, service.has_health_check()) {
            (true, _) => Condition::ServiceCompletedSuccessfully,
            (false, true) => Condition::ServiceHealthy,
            (false, false) => Condition::ServiceStarted,
        };
        self.await_condition(name, condition, None, true);
    }
}
