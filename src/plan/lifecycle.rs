//! The plans of `start`, `stop`, `restart`, `kill`, `pause`, `unpause` and `rm`: what is done to containers that exist.

use super::dependencies::with_dependencies;
use super::{
    Before, ContainerState, DesiredOutline, LifecycleOptions, Observed, ObservedContainer, Operation, Order, Plan, PlanError,
};
use crate::compose::diagnostic::nearest;
use crate::compose::model::{Condition, Dependency};
use indexmap::{IndexMap, IndexSet};
use petgraph::graph::NodeIndex;
use std::collections::HashMap;
use std::fmt;

/// A command for containers that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    Start,
    Stop,
    Restart,
    Kill,
    Pause,
    Unpause,
    Rm,
}

impl Lifecycle {
    /// The command of a name.
    pub fn parse(name: &str) -> Option<Self> {
        use Lifecycle::{Kill, Pause, Restart, Rm, Start, Stop, Unpause};
        [Start, Stop, Restart, Kill, Pause, Unpause, Rm].into_iter().find(|command| command.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Lifecycle::Start => "start",
            Lifecycle::Stop => "stop",
            Lifecycle::Restart => "restart",
            Lifecycle::Kill => "kill",
            Lifecycle::Pause => "pause",
            Lifecycle::Unpause => "unpause",
            Lifecycle::Rm => "rm",
        }
    }
}

impl fmt::Display for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.as_str())
    }
}

/// Plans a command for the containers of a project. `outline` is the file's, or what is known of the last `up`.
///
/// # Errors
/// When a named service is not in the file, or `start` finds nothing that it could start.
pub fn lifecycle(
    command: Lifecycle,
    observed: &Observed,
    outline: Option<&DesiredOutline>,
    options: &LifecycleOptions,
) -> Result<Plan, PlanError> {
    let relations = Relations::new(observed, outline);
    let mut planner = LifecyclePlanner { relations, options, plan: Plan::default() };
    planner.check_names()?;
    match command {
        Lifecycle::Start => planner.start()?,
        Lifecycle::Restart => planner.restart(),
        Lifecycle::Stop => planner.stop(),
        Lifecycle::Rm => planner.rm(),
        Lifecycle::Kill => planner.kill(),
        Lifecycle::Pause => {
            let pause = |id, name| Operation::PauseContainer { id, name };
            planner.each(|c| matches!(c.state, ContainerState::Running | ContainerState::Paused), pause);
        }
        Lifecycle::Unpause => {
            let unpause = |id, name| Operation::UnpauseContainer { id, name };
            planner.each(|c| matches!(c.state, ContainerState::Running | ContainerState::Paused), unpause);
        }
    }
    Ok(planner.plan)
}

/// Which services depend on which: as the file says, or as their containers were made.
pub(super) struct Relations<'a> {
    observed: &'a Observed,
    outline: Option<&'a DesiredOutline>,
    depends_on: IndexMap<&'a str, IndexMap<&'a str, &'a Dependency>>,
}

impl<'a> Relations<'a> {
    pub(super) fn new(observed: &'a Observed, outline: Option<&'a DesiredOutline>) -> Self {
        let mut depends_on: IndexMap<&str, IndexMap<&str, &Dependency>> = IndexMap::new();
        for (name, service) in outline.into_iter().flat_map(|outline| &outline.services) {
            depends_on.insert(name, service.depends_on.iter().map(|(name, d)| (name.as_str(), d)).collect());
        }
        for container in observed.containers.iter().filter(|c| outline.is_none_or(|o| !o.services.contains_key(&c.service))) {
            let known = depends_on.entry(&container.service).or_default();
            known.extend(container.depends_on.iter().map(|(name, d)| (name.as_str(), d)));
        }
        Relations { observed, outline, depends_on }
    }

    /// A service and, through any number of others, what it depends on; it comes last, and each after its own.
    fn with_dependencies(&self, service: &'a str) -> IndexSet<&'a str> {
        with_dependencies([service], &|name| self.dependencies(name))
    }

    fn dependencies(&self, service: &str) -> Vec<&'a str> {
        self.depends_on.get(service).into_iter().flat_map(|dependencies| dependencies.keys().copied()).collect()
    }

    /// All services, each after what it depends on.
    fn in_order(&self) -> IndexSet<&'a str> {
        with_dependencies(self.depends_on.keys().copied(), &|name| self.dependencies(name))
    }

    /// Orders the steps of each service after those of the services that depend on it, directly or not; they are done even where
    /// those fail.
    pub(super) fn dependents_first(&self, plan: &mut Plan, steps: &HashMap<&'a str, Vec<NodeIndex>>) {
        for (service, first) in steps {
            let dependencies = self.with_dependencies(service);
            for later in dependencies.iter().filter(|name| *name != service).filter_map(|name| steps.get(*name)) {
                for (from, to) in first.iter().flat_map(|from| later.iter().map(move |to| (*from, *to))) {
                    plan.graph.update_edge(from, to, Order::After);
                }
            }
        }
    }

    fn containers(&self, service: &str) -> impl Iterator<Item = &'a ObservedContainer> {
        self.observed.containers.iter().filter(move |c| c.service == service && !c.one_off)
    }
}

struct LifecyclePlanner<'a> {
    relations: Relations<'a>,
    options: &'a LifecycleOptions,
    plan: Plan,
}

impl<'a> LifecyclePlanner<'a> {
    /// Without a file nobody knows whether a name is wrong, or its containers are gone.
    fn check_names(&self) -> Result<(), PlanError> {
        let Some(outline) = &self.options.outline else { return Ok(()) };
        let Some(name) = self.options.services.iter().find(|name| !outline.knows(name)) else { return Ok(()) };
        if outline.jobs.contains(name) {
            return Err(PlanError::IsJob { name: name.clone() });
        }
        let nearest = nearest(name, outline.services.keys().map(String::as_str)).map(str::to_string);
        Err(PlanError::NoSuchService { name: name.clone(), nearest })
    }

    /// Whether the file has a service, or there is no file.
    fn is_known(&self, service: &str) -> bool {
        let is_named = self.options.services.iter().any(|name| name == service);
        is_named || self.options.outline.as_ref().is_none_or(|outline| outline.services.contains_key(service))
    }

    fn is_asked(&self, service: &str) -> bool {
        let named = &self.options.services;
        if named.is_empty() { self.is_known(service) } else { named.iter().any(|name| name == service) }
    }

    fn start(&mut self) -> Result<(), PlanError> {
        let mut services: IndexSet<&str> = self.relations.in_order();
        if self.options.services.is_empty() {
            services.retain(|service| self.is_known(service));
        } else {
            let needed: IndexSet<&str> =
                services.iter().filter(|s| self.is_asked(s)).flat_map(|s| self.relations.with_dependencies(s)).collect();
            services.retain(|service| needed.contains(service));
        }
        if !self.relations.observed.containers.iter().any(|c| !c.one_off) {
            let wanted = |service: &&&str| self.replicas(service) > 0;
            let first = self.options.services.first().map(String::as_str).or(services.iter().find(wanted).copied());
            return first.map_or(Ok(()), |service| Err(PlanError::NothingToStart { service: service.into() }));
        }
        let mut starts: IndexMap<&str, Vec<NodeIndex>> = IndexMap::new();
        for &service in &services {
            let stopped: Vec<_> = self.relations.containers(service).filter(|c| !c.state.has_process()).collect();
            starts.entry(service).or_default();
            if stopped.is_empty() {
                continue;
            }
            let dependencies = self.relations.depends_on.get(service).cloned().unwrap_or_default();
            let before = self.conditions(service, dependencies.into_iter(), &starts, true)?;
            let start = |c: &ObservedContainer| Operation::StartContainer { service: service.into(), name: c.name.clone() };
            let nodes_of = stopped.into_iter().map(|c| self.plan.add(start(c), "not running", &before)).collect::<Vec<_>>();
            starts[service].extend(nodes_of);
        }
        if self.options.wait {
            for (service, starts) in starts {
                let operation = Operation::Await {
                    service: service.into(),
                    condition: Condition::ServiceStarted,
                    dependent: None,
                    required: true,
                };
                self.plan.add(operation, "--wait", &Before::needs(&starts));
            }
        }
        Ok(())
    }

    fn replicas(&self, service: &str) -> u32 {
        self.relations.outline.and_then(|outline| outline.services.get(service)).map_or(1, |service| service.replicas)
    }

    /// Preconditions of the start of a service's container, by these dependencies. `strict`: they must exist.
    fn conditions<'d>(
        &mut self,
        service: &str,
        dependencies: impl Iterator<Item = (&'d str, &'d Dependency)>,
        done: &IndexMap<&'a str, Vec<NodeIndex>>,
        strict: bool,
    ) -> Result<Before, PlanError> {
        let mut before = Before::default();
        for (name, dependency) in dependencies {
            let steps = done.get(name).cloned().unwrap_or_default();
            let (condition, required) = (dependency.condition, dependency.required);
            if condition == Condition::ServiceStarted {
                if required {
                    before.need(steps)
                } else {
                    before.follow(steps)
                }
                continue;
            }
            if self.relations.containers(name).next().is_none() {
                if required && strict && self.replicas(name) > 0 {
                    return Err(PlanError::MissingDependency { service: service.into(), dependency: name.into() });
                }
                continue;
            }
            let operation = Operation::Await { service: name.into(), condition, dependent: Some(service.into()), required };
            let known = self.plan.graph.node_indices().find(|node| match &self.plan.graph[*node].operation {
                Operation::Await { service: s, condition: c, required: r, .. } => s == name && *c == condition && *r == required,
                _ => false,
            });
            let node = known.unwrap_or_else(|| {
                let mut first = Before::default();
                if required {
                    first.need(steps)
                } else {
                    first.follow(steps)
                }
                self.plan.add(operation, "depended on", &first)
            });
            before.need([node]);
        }
        Ok(before)
    }

    /// The services to restart: the named ones, and who depends on them with `restart: true`, or on such a one.
    fn restarted(&self) -> IndexSet<&'a str> {
        let order = self.relations.in_order();
        let mut asked: IndexSet<&str> = order.iter().copied().filter(|service| self.is_asked(service)).collect();
        if !self.options.no_deps {
            for &service in &order {
                let dependencies = self.relations.depends_on.get(service).into_iter().flatten();
                if dependencies.clone().any(|(name, dependency)| dependency.restart && asked.contains(*name)) {
                    asked.insert(service);
                }
            }
        }
        order.into_iter().filter(|service| asked.contains(service)).collect()
    }

    fn restart(&mut self) {
        let mut restarts: IndexMap<&str, Vec<NodeIndex>> = IndexMap::new();
        for service in self.restarted() {
            let containers: Vec<_> = self.relations.containers(service).collect();
            let dependencies = self.relations.depends_on.get(service).cloned().unwrap_or_default();
            // What is not restarted is not waited for.
            let restarted = dependencies.into_iter().filter(|(name, _)| restarts.contains_key(name) && !containers.is_empty());
            let before = self.conditions(service, restarted, &restarts, false).unwrap_or_default();
            let restart = |c: &ObservedContainer| Operation::RestartContainer { id: c.id.clone(), name: c.name.clone() };
            let nodes = containers.into_iter().map(|c| self.plan.add(restart(c), "restart", &before)).collect();
            restarts.insert(service, nodes);
        }
    }

    fn stop(&mut self) {
        let stop = |id, name| Operation::StopContainer { id, name };
        let steps = self.each(|c| c.state.is_alive(), stop);
        self.relations.dependents_first(&mut self.plan, &steps);
    }

    fn rm(&mut self) {
        let LifecycleOptions { stop, volumes, .. } = *self.options;
        let remove = |id, name| Operation::RemoveContainer { id, name, stop, volumes };
        let steps = self.each(|c| stop || !c.state.is_alive(), remove);
        if stop {
            self.relations.dependents_first(&mut self.plan, &steps);
        }
    }

    fn kill(&mut self) {
        let signal = self.options.signal.clone().unwrap_or_else(|| "SIGKILL".into());
        let observed = self.relations.observed;
        let is_orphan = |c: &ObservedContainer| self.options.outline.as_ref().is_some_and(|o| c.is_orphan(|name| o.knows(name)));
        for container in &observed.containers {
            let (id, name) = (container.id.clone(), container.name.clone());
            if self.options.remove_orphans && is_orphan(container) {
                let remove = Operation::RemoveContainer { id, name, stop: true, volumes: false };
                self.plan.add(remove, "it is of no service", &Before::default());
            } else if container.state.is_alive() && self.is_asked(&container.service) {
                let kill = Operation::KillContainer { id, name, signal: signal.clone() };
                self.plan.add(kill, "kill", &Before::default());
            }
        }
    }

    /// Does something to each container of the asked services.
    fn each(
        &mut self,
        acts_on: impl Fn(&ObservedContainer) -> bool,
        operation: impl Fn(String, String) -> Operation,
    ) -> HashMap<&'a str, Vec<NodeIndex>> {
        let mut steps: HashMap<&str, Vec<NodeIndex>> = HashMap::new();
        let observed = self.relations.observed;
        for container in observed.containers.iter().filter(|c| !c.one_off && acts_on(c)) {
            if self.is_asked(&container.service) {
                let step =
                    self.plan.add(operation(container.id.clone(), container.name.clone()), "asked for", &Before::default());
                steps.entry(&container.service).or_default().push(step);
            }
        }
        steps
    }
}
