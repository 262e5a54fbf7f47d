//! The plan of `up`: networks, volumes and images first and at once, then containers along their dependencies.

use super::dependencies::{of_project, selected, with_dependencies};
use super::interruption::interruptions;
use super::{
    Before, FailureAction, Observed, ObservedContainer, Operation, Order, Plan, PlanError, UpOptions, UpdateOrder, UpdatePolicy,
    config_hash,
};
use crate::compose::diagnostic::nearest;
use crate::compose::model::{Project, Service, ServiceNetwork};
use indexmap::IndexSet;
use petgraph::Direction;
use petgraph::graph::NodeIndex;
use std::collections::{HashMap, HashSet};

/// Plans `up`.
///
/// # Errors
/// When a service is not in the project, an external resource is missing, or a service cannot be what it asks for.
pub fn up(project: &Project, observed: &Observed, options: &UpOptions) -> Result<Plan, PlanError> {
    let selected = select(project, options)?;
    let mut planner = Planner::new(project, observed, options);
    planner.selected = selected.iter().cloned().collect();
    planner.resources(selected.iter().map(String::as_str))?;
    if options.all_resources {
        project.networks.keys().try_for_each(|key| planner.network(key).map(drop))?;
        project.volumes.keys().try_for_each(|key| planner.volume(key).map(drop))?;
    }
    for name in order(project, &selected) {
        planner.service(&name)?;
    }
    planner.bystanders();
    planner.earlier_networks();
    planner.orphans();
    if options.services.is_empty() {
        planner.jobs()?;
    }
    planner.images_first();
    if options.wait && !options.no_start {
        for name in &selected {
            planner.wait(name);
        }
    }
    let mut plan = planner.plan;
    plan.interruptions = interruptions(&plan, project, observed, options);
    Ok(plan)
}

/// Plans what a container of `run` needs: what its service depends on, and its image, networks and volumes. The container itself
/// is no part of the plan.
///
/// # Errors
/// As [`up`].
pub fn one_off(project: &Project, observed: &Observed, options: &UpOptions, name: &str) -> Result<Plan, PlanError> {
    let service = project.services.get(name).ok_or_else(|| PlanError::NoSuchService { name: name.into(), nearest: None })?;
    let mut planner = Planner::new(project, observed, options);
    if !options.no_deps {
        let dependencies: Vec<String> =
            service.depends_on.keys().filter(|d| project.services.contains_key(*d)).cloned().collect();
        if !dependencies.is_empty() {
            let selected = select(project, &UpOptions { services: dependencies, ..UpOptions::default() })?;
            planner.selected = selected.iter().cloned().collect();
            planner.resources(selected.iter().map(String::as_str))?;
            for dependency in order(project, &selected) {
                planner.service(&dependency)?;
            }
        }
        planner.dependencies(name, service);
    }
    planner.check_donors(service)?;
    planner.prepare(name, service, &mut None)?;
    planner.bystanders();
    planner.orphans();
    planner.images_first();
    Ok(planner.plan)
}

/// The services to act on: the named ones and, unless `no_deps` is set, their dependencies.
fn select(project: &Project, options: &UpOptions) -> Result<IndexSet<String>, PlanError> {
    for name in options.services.iter().chain(options.scale.keys()) {
        if project.jobs.contains_key(name) {
            return Err(PlanError::IsJob { name: name.clone() });
        }
        if !project.services.contains_key(name) {
            let nearest = nearest(name, project.services.keys().map(String::as_str)).map(str::to_string);
            return Err(PlanError::NoSuchService { name: name.clone(), nearest });
        }
    }
    Ok(selected(project, &options.services, options.no_deps))
}

/// Dependencies before dependents; otherwise the file's order. The loader has refused cycles.
fn order(project: &Project, selected: &IndexSet<String>) -> Vec<String> {
    let of_project = of_project(project);
    let is_selected = |name: &&str| selected.contains(*name);
    let dependencies = |name| of_project(name).into_iter().filter(is_selected).collect::<Vec<_>>();
    let names = project.services.keys().map(String::as_str).filter(is_selected);
    with_dependencies(names, &dependencies).into_iter().map(str::to_string).collect()
}

/// The plan while it is made.
pub(super) struct Planner<'a> {
    pub(super) project: &'a Project,
    pub(super) observed: &'a Observed,
    pub(super) options: &'a UpOptions,
    pub(super) plan: Plan,
    /// The services that are acted on.
    pub(super) selected: HashSet<String>,
    pub(super) networks: HashMap<String, Option<NodeIndex>>,
    pub(super) volumes: HashMap<String, Option<NodeIndex>>,
    pub(super) images: HashMap<String, Option<NodeIndex>>,
    pub(super) services: HashMap<String, ServiceSteps>,
    /// Containers that are stopped and removed for the sake of a network or a volume, by their ids.
    pub(super) stopped: HashMap<String, NodeIndex>,
    pub(super) removed: HashMap<String, NodeIndex>,
    /// Networks that have other names now.
    pub(super) renamed_networks: Vec<String>,
}

/// The decision for a service.
#[derive(Default)]
pub(super) struct ServiceSteps {
    /// The last step of each container that is started, restarted or removed.
    pub(super) starts: Vec<NodeIndex>,
    pub(super) awaits: HashMap<(&'static str, bool), NodeIndex>,
    pub(super) recreated: bool,
    /// A container that stays is stopped and started.
    pub(super) restarted: bool,
    /// The run of its `pre_start` hooks.
    pub(super) pre_start: Option<NodeIndex>,
    /// A container stays whose service's hooks have been run.
    pub(super) prepared: bool,
}

/// The containers of a service that are compared with its definition.
struct Compared<'a> {
    name: &'a str,
    service: &'a Service,
    hash: String,
    existing: Vec<&'a ObservedContainer>,
    /// Removals of further containers of a number.
    doubles: HashMap<u32, Vec<NodeIndex>>,
    needs: Option<Before>,
    replaced: Vec<NodeIndex>,
}

fn remove(container: &ObservedContainer) -> Operation {
    Operation::RemoveContainer { id: container.id.clone(), name: container.name.clone(), stop: true, volumes: false }
}

impl<'a> Planner<'a> {
    fn new(project: &'a Project, observed: &'a Observed, options: &'a UpOptions) -> Self {
        Planner {
            project,
            observed,
            options,
            plan: Plan::default(),
            selected: HashSet::new(),
            networks: HashMap::new(),
            volumes: HashMap::new(),
            images: HashMap::new(),
            services: HashMap::new(),
            stopped: HashMap::new(),
            removed: HashMap::new(),
            renamed_networks: Vec::new(),
        }
    }

    fn service(&mut self, name: &str) -> Result<(), PlanError> {
        let (name, service) = self.project.services.get_key_value(name).unwrap_or_else(|| unreachable!("{name} is selected"));
        let replicas = self.options.scale.get(name).copied().unwrap_or_else(|| service.replicas());
        if let Some(container_name) = service.container_name.as_ref().filter(|_| replicas > 1) {
            return Err(PlanError::NamedAndScaled { service: name.clone(), name: container_name.clone(), replicas });
        }
        if replicas > 0 {
            self.check_donors(service)?;
        }
        let own = |c: &&ObservedContainer| c.service == *name && !c.one_off && !self.removed.contains_key(&c.id);
        let mut compared = Compared {
            name,
            service,
            hash: config_hash(self.project, service),
            existing: self.observed.containers.iter().filter(own).collect(),
            doubles: HashMap::new(),
            needs: None,
            replaced: Vec::new(),
        };
        let mut steps = ServiceSteps::default();
        let is_own = |c: &&ObservedContainer| c.service == *name && !c.one_off;
        steps.recreated = self.observed.containers.iter().filter(is_own).any(|c| self.removed.contains_key(&c.id));
        self.remove_doubles(&mut compared, &mut steps);
        self.scale_down(&mut compared, replicas as usize, &mut steps);
        let stays = |c: &ObservedContainer| c.prepared && self.recreate_cause(name, service, c, &compared.hash).is_none();
        steps.prepared = compared.existing.iter().any(|c| stays(c));
        for container in compared.existing.clone() {
            self.container(&mut compared, container, &mut steps)?;
        }
        let taken: Vec<u32> = compared.existing.iter().map(|c| c.number).collect();
        let free = (1..).filter(|n| !taken.contains(n));
        for number in free.take((replicas as usize).saturating_sub(taken.len())) {
            let needs = self.prepare(name, service, &mut compared.needs)?;
            let container_name = self.container_name(name, service, number);
            let operation = Operation::CreateContainer { service: name.clone(), number, name: container_name.clone() };
            let created = self.plan.add(operation, "not found", &needs);
            self.start(name, service, container_name, "created", created, &mut steps);
        }
        self.services.insert(name.clone(), steps);
        Ok(())
    }

    /// A number is one container's: the one that has its name, else one that runs, else the oldest.
    fn remove_doubles(&mut self, compared: &mut Compared<'_>, steps: &mut ServiceSteps) {
        let Compared { name, service, existing, doubles, .. } = compared;
        existing.sort_by_key(|c| (c.number, c.name != self.container_name(name, service, c.number), !c.state.is_alive()));
        for pair in (1..existing.len()).rev() {
            let number = existing[pair].number;
            if existing[pair - 1].number == number {
                let double = existing.remove(pair);
                let first = existing.iter().find(|c| c.number == number).map_or("another", |c| c.name.as_str());
                let cause = format!("{first} is the container {number} of {name}");
                let before = self.stopped.get(&double.id).map_or_else(Before::default, |stop| Before::needs(&[*stop]));
                let step = self.plan.add(remove(double), cause, &before);
                doubles.entry(number).or_default().push(step);
                steps.starts.push(step);
            }
        }
    }

    /// Removes what is too many: first what would be replaced anyway, then the highest numbers.
    fn scale_down(&mut self, compared: &mut Compared<'_>, replicas: usize, steps: &mut ServiceSteps) {
        let Compared { name, service, hash, existing, .. } = compared;
        existing.sort_by_key(|c| (self.recreate_cause(name, service, c, hash).is_some(), c.number));
        for container in existing.split_off(existing.len().min(replicas)) {
            let before = self.stopped.get(&container.id).map_or_else(Before::default, |stop| Before::needs(&[*stop]));
            steps.starts.push(self.plan.add(remove(container), format!("{name} is scaled to {replicas}"), &before));
        }
        existing.sort_by_key(|c| c.number);
    }

    /// Replaces, starts or restarts one container, or leaves it alone.
    fn container(
        &mut self,
        compared: &mut Compared<'_>,
        container: &ObservedContainer,
        steps: &mut ServiceSteps,
    ) -> Result<(), PlanError> {
        let (name, service) = (compared.name, compared.service);
        let stopped = self.stopped.get(&container.id).copied();
        if let Some(cause) = self.recreate_cause(name, service, container, &compared.hash) {
            return self.recreate(compared, container, cause, stopped, steps);
        }
        if self.options.no_start {
            return Ok(());
        }
        let restart_cause = self.restart_cause(service);
        if !container.state.has_process() || stopped.is_some() {
            let mut before = self.dependencies(name, service);
            for key in service.networks.keys() {
                before.need(self.network(key)?);
            }
            before.need(stopped);
            if !container.prepared {
                self.pre_start(name, service, &container.name, &mut before, steps);
            }
            steps.restarted |= stopped.is_some();
            let operation = Operation::StartContainer { service: name.into(), name: container.name.clone() };
            let stop_cause = || restart_cause.unwrap_or_else(|| "a network that it is on is made anew".into());
            let cause = stopped.map_or_else(|| "not running".into(), |_| stop_cause());
            steps.starts.push(self.plan.add(operation, cause, &before));
        } else if let Some(cause) = restart_cause {
            let mut before = self.dependencies(name, service);
            for other in service.shares_with() {
                before.need(self.services.get(other).iter().flat_map(|steps| steps.starts.iter().copied()));
            }
            steps.restarted = true;
            let operation = Operation::RestartContainer { id: container.id.clone(), name: container.name.clone() };
            steps.starts.push(self.plan.add(operation, cause, &before));
        }
        Ok(())
    }

    fn recreate(
        &mut self,
        compared: &mut Compared<'_>,
        container: &ObservedContainer,
        cause: String,
        stopped: Option<NodeIndex>,
        steps: &mut ServiceSteps,
    ) -> Result<(), PlanError> {
        let (name, service) = (compared.name, compared.service);
        let mut before = self.prepare(name, service, &mut compared.needs)?;
        steps.recreated = true;
        let policy = UpdatePolicy::of(service, self.options);
        let container_name = self.container_name(name, service, container.number);
        let replaced = &mut compared.replaced;
        let earlier = replaced.len().checked_sub(policy.parallelism).filter(|_| policy.parallelism > 0).map(|n| replaced[n]);
        before.need(compared.doubles.get(&container.number).into_iter().flatten().copied());
        before.need(stopped);
        let (service_name, number, replaces) = (name.to_string(), container.number, container.id.clone());
        let nanos = |time: std::time::Duration| time.as_nanos() as u64;
        let runs = container.state.is_alive() && stopped.is_none() && !self.options.no_start;
        if policy.order == UpdateOrder::StartFirst && runs && self.may_start_first(name, service) {
            // The update itself knows whether it goes on after a failure.
            before.follow(earlier);
            before.0.extend(self.dependencies(name, service).0);
            let operation = Operation::UpdateContainer {
                service: service_name,
                number,
                name: container_name,
                replaces,
                monitor: nanos(policy.monitor),
                delay: earlier.map_or(0, |_| nanos(policy.delay)),
                checked: service.has_health_check(),
            };
            steps.starts.push(self.plan.add(operation, cause, &before));
        } else {
            if !self.options.no_start {
                before.need(self.stop_dependents(name));
            }
            let watched = policy.watched && !self.options.no_start;
            match (watched, policy.on_failure) {
                (true, _) => {
                    // It knows whether too many have failed.
                    let go_on = earlier.map(|earlier| {
                        let mut before = Before::default();
                        before.follow([earlier]);
                        let (service, name, delay) = (name.to_string(), container_name.clone(), nanos(policy.delay));
                        self.plan.add(Operation::NextUpdate { service, name, delay }, cause.clone(), &before)
                    });
                    before.need(go_on);
                }
                (false, FailureAction::Continue) => before.follow(earlier),
                (false, _) => before.need(earlier),
            }
            let operation =
                Operation::RecreateContainer { service: service_name, number, name: container_name.clone(), replaces };
            let created = self.plan.add(operation, cause, &before);
            self.start(name, service, container_name.clone(), "created", created, steps);
            if watched && let Some(started) = steps.starts.pop() {
                let (service_name, monitor) = (name.to_string(), nanos(policy.monitor));
                let checked = service.has_health_check();
                let operation = Operation::WatchContainer { service: service_name, name: container_name, monitor, checked };
                steps.starts.push(self.plan.add(operation, "update_config", &Before::needs(&[started])));
            }
        }
        compared.replaced.extend(steps.starts.last());
        Ok(())
    }

    /// Whether two containers of the service can run beside each other. An IP address of its own is given over on a bridge; a MAC
    /// address, and one on another machine's network, is one container's.
    fn may_start_first(&mut self, name: &str, service: &Service) -> bool {
        let is_bridge = |network: &str| {
            let driver = self.project.networks.get(network).map(|network| (network.external, network.driver.as_deref()));
            matches!(driver, Some((false, None | Some("bridge" | "default" | ""))))
        };
        let own = |(name, network): (&String, &Option<ServiceNetwork>)| {
            network.as_ref().is_some_and(|network| {
                let address = network.ipv4_address.is_some() || network.ipv6_address.is_some();
                network.mac_address.is_some() || (address && !is_bridge(name))
            })
        };
        let fixed = service.mac_address.is_some() || service.networks.iter().any(own);
        if fixed {
            let warning = format!(
                "{name} has an address of its own that cannot be given over while both run: the old one is stopped first"
            );
            if !self.plan.warnings.contains(&warning) {
                self.plan.warnings.push(warning);
            }
        }
        !fixed
    }

    fn container_name(&self, name: &str, service: &Service, number: u32) -> String {
        let separator = if self.options.compatible_names { "_" } else { "-" };
        let own = || [&self.project.name, name, &number.to_string()].join(separator);
        service.container_name.clone().unwrap_or_else(own)
    }

    /// Starts the containers that were stopped for a network, and that are of services which are left alone otherwise.
    fn bystanders(&mut self) {
        let observed = self.observed;
        let other = |c: &&ObservedContainer| c.one_off || !self.selected.contains(&c.service);
        let bystanders: Vec<_> =
            observed.containers.iter().filter(other).filter_map(|c| Some((c, *self.stopped.get(&c.id)?))).collect();
        for (container, stop) in bystanders {
            let mut before = Before::needs(&[stop]);
            let keys = self.project.networks.iter().filter(|(_, network)| container.networks.contains(&network.name));
            before.need(keys.filter_map(|(key, _)| self.networks.get(key).copied().flatten()));
            let operation = Operation::StartContainer { service: container.service.clone(), name: container.name.clone() };
            self.plan.add(operation, "a network that it is on is made anew", &before);
        }
    }

    /// Removes networks that have other names now, once nobody is on them.
    fn earlier_networks(&mut self) {
        for name in std::mem::take(&mut self.renamed_networks) {
            let leaves = |node: &NodeIndex| {
                let operation = &self.plan.graph[*node].operation;
                matches!(operation, Operation::RecreateContainer { .. } | Operation::UpdateContainer { .. })
            };
            let mut before = Before::default();
            before.follow(self.plan.graph.node_indices().filter(leaves).collect::<Vec<_>>());
            let operation = Operation::RemoveNetwork { name, unless_used: true };
            self.plan.add(operation, "it is renamed", &before);
        }
    }

    /// Nothing is made or changed before every image is there: one that cannot be had leaves everything as it is.
    fn images_first(&mut self) {
        let graph = &mut self.plan.graph;
        let pulls = |node: &NodeIndex| matches!(graph[*node].operation, Operation::PullImage { .. });
        let (pulls, others): (Vec<_>, Vec<_>) = graph.node_indices().partition(pulls);
        let first: Vec<_> =
            others.into_iter().filter(|node| graph.edges_directed(*node, Direction::Incoming).next().is_none()).collect();
        for (pull, node) in pulls.iter().flat_map(|pull| first.iter().map(move |node| (*pull, *node))) {
            graph.update_edge(pull, node, Order::Needs);
        }
    }

    fn orphans(&mut self) {
        let inactive = |service: &str| self.options.inactive.iter().any(|name| name == service);
        let (services, jobs) = (&self.project.services, &self.project.jobs);
        let known = |service: &str| services.contains_key(service) || jobs.contains_key(service) || inactive(service);
        let observed = self.observed;
        for container in observed.containers.iter().filter(|c| c.is_orphan(known)) {
            if self.options.remove_orphans {
                let cause = match container.one_off {
                    true if container.of_job => format!("the project has no job {}", container.service),
                    true => "it was made by `run`, and has ended".into(),
                    false => format!("the project has no service {}", container.service),
                };
                self.plan.add(remove(container), cause, &Before::default());
            } else if !self.options.ignore_orphans {
                self.plan.orphans.push(container.name.clone());
            }
        }
        self.plan.orphans.sort();
    }
}
