//! The plan of `up`: networks, volumes and images first and at once, then containers along their dependencies.

use super::{Observed, ObservedContainer, Operation, Plan, PlanError, config_hash};
use crate::compose::diagnostic::nearest;
use crate::compose::model::{Condition, Project, Service};
use indexmap::{IndexMap, IndexSet};
use petgraph::graph::NodeIndex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What `up` was asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UpOptions {
    /// Empty: every service.
    pub services: Vec<String>,
    pub force_recreate: bool,
    /// The same for what the named services depend on.
    pub always_recreate_deps: bool,
    pub no_recreate: bool,
    pub no_deps: bool,
    pub no_start: bool,
    pub remove_orphans: bool,
    /// Wait until services run, and are healthy where they have a health check.
    pub wait: bool,
    pub scale: IndexMap<String, u32>,
    /// Seconds to wait for a container that is stopped; its own grace period otherwise.
    pub timeout: Option<u32>,
    /// Instead of each service's `pull_policy`.
    pub pull: Option<String>,
    /// New anonymous volumes instead of the ones of the container that is replaced.
    pub renew_anon_volumes: bool,
}

/// Plans `up`.
///
/// # Errors
/// When a service is not in the project, an external resource is missing, or a service cannot be what it asks for.
pub fn up(project: &Project, observed: &Observed, options: &UpOptions) -> Result<Plan, PlanError> {
    let selected = select(project, options)?;
    let mut planner = Planner::new(project, observed, options);
    for name in order(project, &selected) {
        planner.service(&name)?;
    }
    planner.orphans();
    if options.wait && !options.no_start {
        for name in &selected {
            planner.wait(name);
        }
    }
    Ok(planner.plan)
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
            for dependency in order(project, &selected) {
                planner.service(&dependency)?;
            }
        }
        planner.dependencies(service);
    }
    planner.prepare(name, service, &mut false, &mut Vec::new())?;
    planner.orphans();
    Ok(planner.plan)
}

/// The services to act on: the named ones and, unless told otherwise, what they depend on.
fn select(project: &Project, options: &UpOptions) -> Result<IndexSet<String>, PlanError> {
    for name in options.services.iter().chain(options.scale.keys()) {
        if !project.services.contains_key(name) {
            let nearest = nearest(name, project.services.keys().map(String::as_str)).map(str::to_string);
            return Err(PlanError::NoSuchService { name: name.clone(), nearest });
        }
    }
    if options.services.is_empty() {
        return Ok(project.services.keys().cloned().collect());
    }
    let mut selected = IndexSet::new();
    let mut open = options.services.clone();
    while let Some(name) = open.pop() {
        if let Some(service) = project.services.get(&name)
            && selected.insert(name)
            && !options.no_deps
        {
            open.extend(service.depends_on.keys().filter(|d| project.services.contains_key(*d)).cloned());
        }
    }
    Ok(selected)
}

/// Dependencies before dependents; otherwise the file's order. The loader has refused cycles.
fn order(project: &Project, selected: &IndexSet<String>) -> Vec<String> {
    fn visit(project: &Project, selected: &IndexSet<String>, name: &str, done: &mut IndexSet<String>) {
        if done.contains(name) || !selected.contains(name) {
            return;
        }
        if let Some(service) = project.services.get(name) {
            for dependency in service.depends_on.keys() {
                visit(project, selected, dependency, done);
            }
        }
        done.insert(name.to_string());
    }
    let mut done = IndexSet::new();
    for name in project.services.keys() {
        visit(project, selected, name, &mut done);
    }
    done.into_iter().collect()
}

struct Planner<'a> {
    project: &'a Project,
    observed: &'a Observed,
    options: &'a UpOptions,
    plan: Plan,
    networks: HashMap<String, Option<NodeIndex>>,
    volumes: HashMap<String, Option<NodeIndex>>,
    images: HashMap<String, Option<NodeIndex>>,
    services: HashMap<String, ServiceSteps>,
}

#[derive(Default)]
struct ServiceSteps {
    /// The last step of each container that is started, restarted or removed.
    starts: Vec<NodeIndex>,
    awaits: HashMap<&'static str, NodeIndex>,
    recreated: bool,
    /// The run of its `pre_start` hooks.
    pre_start: Option<NodeIndex>,
    /// A container stays whose service's hooks have been run.
    prepared: bool,
}

impl<'a> Planner<'a> {
    fn new(project: &'a Project, observed: &'a Observed, options: &'a UpOptions) -> Self {
        Planner {
            project,
            observed,
            options,
            plan: Plan::default(),
            networks: HashMap::new(),
            volumes: HashMap::new(),
            images: HashMap::new(),
            services: HashMap::new(),
        }
    }
}

impl Planner<'_> {
    fn service(&mut self, name: &str) -> Result<(), PlanError> {
        let service = &self.project.services[name];
        let replicas = self.options.scale.get(name).copied().unwrap_or_else(|| service.replicas());
        if let Some(container_name) = service.container_name.as_ref().filter(|_| replicas > 1) {
            return Err(PlanError::NamedAndScaled { service: name.into(), name: container_name.clone(), replicas });
        }
        let mut existing: Vec<&ObservedContainer> = self.observed.containers.iter().filter(|c| c.service == name).collect();
        existing.sort_by_key(|c| c.number);
        let hash = config_hash(self.project, service);
        let update = service.deploy.as_ref().and_then(|d| d.update_config.as_ref());
        // So many are replaced at once; 0 is all.
        let parallelism = update.and_then(|u| u.parallelism).map_or(0, |n| n as usize);
        let mut replaced: Vec<NodeIndex> = Vec::new();
        let mut steps = ServiceSteps::default();
        let remove =
            |container: &ObservedContainer| Operation::RemoveContainer { id: container.id.clone(), name: container.name.clone() };
        // A number is one container's: the one that has its name, else one that runs, else the oldest.
        let mut doubles: HashMap<u32, Vec<NodeIndex>> = HashMap::new();
        let canonical = |number: u32| service.container_name.clone().unwrap_or_else(|| self.name(name, number));
        existing.sort_by_key(|c| (c.number, c.name != canonical(c.number), !c.running));
        for pair in (1..existing.len()).rev() {
            let number = existing[pair].number;
            if existing[pair - 1].number == number {
                let double = existing.remove(pair);
                let first = existing.iter().find(|c| c.number == number).map_or("another", |c| c.name.as_str());
                let cause = format!("{first} is the container {number} of {name}");
                let step = self.plan.add(remove(double), cause, &[]);
                doubles.entry(number).or_default().push(step);
                steps.starts.push(step);
            }
        }
        let surplus = existing.split_off(existing.len().min(replicas as usize));
        for container in surplus {
            steps.starts.push(self.plan.add(remove(container), format!("{name} is scaled to {replicas}"), &[]));
        }
        steps.prepared = existing.iter().any(|c| c.prepared && self.recreate_cause(name, service, c, &hash).is_none());
        let mut needs = Vec::new();
        let mut prepared = false;
        for container in existing.iter().copied() {
            let cause = self.recreate_cause(name, service, container, &hash);
            let container_name = service.container_name.clone().unwrap_or_else(|| self.name(name, container.number));
            if let Some(cause) = cause {
                self.prepare(name, service, &mut prepared, &mut needs)?;
                steps.recreated = true;
                let operation = Operation::RecreateContainer {
                    service: name.into(),
                    number: container.number,
                    name: container_name.clone(),
                    replaces: container.id.clone(),
                    start_first: service.pre_start.is_empty()
                        && update.is_some_and(|u| u.order.as_deref() == Some("start-first"))
                        && !self.options.no_start,
                };
                let earlier = replaced.len().checked_sub(parallelism).filter(|_| parallelism > 0).map(|n| replaced[n]);
                let freed = doubles.get(&container.number).into_iter().flatten().copied();
                let after: Vec<NodeIndex> = needs.iter().copied().chain(earlier).chain(freed).collect();
                let created = self.plan.add(operation, cause, &after);
                self.start(name, service, container_name, "created", created, &mut steps);
                replaced.extend(steps.starts.last());
            } else if !container.running && !self.options.no_start {
                let mut after = self.dependencies(service);
                for key in service.networks.keys() {
                    after.extend(self.network(key)?);
                }
                if !container.prepared {
                    self.pre_start(name, service, &container.name, &mut after, &mut steps);
                }
                let operation = Operation::StartContainer { service: name.into(), name: container.name.clone() };
                steps.starts.push(self.plan.add(operation, "not running", &after));
            } else if let Some(dependency) = self.restarting_dependency(service) {
                let after = self.dependencies(service);
                let operation = Operation::RestartContainer { id: container.id.clone(), name: container.name.clone() };
                steps.starts.push(self.plan.add(operation, format!("{dependency} is recreated, and `restart: true`"), &after));
            }
        }
        let taken: Vec<u32> = existing.iter().map(|c| c.number).collect();
        let free = (1..).filter(|n| !taken.contains(n));
        for number in free.take((replicas as usize).saturating_sub(existing.len())) {
            self.prepare(name, service, &mut prepared, &mut needs)?;
            let container_name = service.container_name.clone().unwrap_or_else(|| self.name(name, number));
            let operation = Operation::CreateContainer { service: name.into(), number, name: container_name.clone() };
            let created = self.plan.add(operation, "not found", &needs);
            self.start(name, service, container_name, "created", created, &mut steps);
        }
        self.services.insert(name.into(), steps);
        Ok(())
    }

    fn name(&self, service: &str, number: u32) -> String {
        format!("{}-{service}-{number}", self.project.name)
    }

    fn start(
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
        let mut after = self.dependencies(service);
        after.push(created);
        self.pre_start(service_name, service, &name, &mut after, steps);
        let operation = Operation::StartContainer { service: service_name.into(), name };
        steps.starts.push(self.plan.add(operation, cause, &after));
    }

    /// Has the service's `pre_start` hooks run before a container's start: once for the service, unless a container is there for
    /// which they have been run, and those with `per_replica` for each.
    fn pre_start(
        &mut self,
        service_name: &str,
        service: &Service,
        name: &str,
        after: &mut Vec<NodeIndex>,
        steps: &mut ServiceSteps,
    ) {
        let operation = |per_replica| Operation::PreStart { service: service_name.into(), name: name.into(), per_replica };
        let shared = service.pre_start.iter().any(|hook| !hook.per_replica);
        if shared && !steps.prepared && steps.pre_start.is_none() {
            steps.pre_start = Some(self.plan.add(operation(false), "pre_start", after));
        }
        after.extend(steps.pre_start);
        if service.pre_start.iter().any(|hook| hook.per_replica) {
            let step = self.plan.add(operation(true), "pre_start, per_replica", after);
            after.push(step);
        }
    }

    /// Why a container must be replaced; `None` where it may stay.
    fn recreate_cause(&self, name: &str, service: &Service, container: &ObservedContainer, hash: &str) -> Option<String> {
        if self.options.no_recreate {
            return None;
        }
        let named = self.options.services.is_empty() || self.options.services.iter().any(|s| s == name);
        if self.options.force_recreate && named {
            return Some("--force-recreate".into());
        }
        if self.options.always_recreate_deps && !named {
            return Some("--always-recreate-deps".into());
        }
        if container.lost.is_some() {
            return container.lost.clone();
        }
        if container.config_hash != hash {
            return Some("its configuration has changed".into());
        }
        if let Some(image) = &service.image
            && let Some(id) = self.observed.images.get(image).filter(|id| **id != container.image_id)
        {
            let short: String = id.trim_start_matches("sha256:").chars().take(12).collect();
            return Some(format!("the image {image} is now {short}"));
        }
        let recreated = |other: &&str| self.services.get(*other).is_some_and(|s| s.recreated);
        let shared =
            service.shares_with().find(recreated).map(|other| format!("it shares a namespace of {other}, which is recreated"));
        shared.or_else(|| {
            service.takes_volumes_of().find(recreated).map(|other| format!("it has the volumes of {other}, which is recreated"))
        })
    }

    fn restarting_dependency(&self, service: &Service) -> Option<String> {
        let recreated = |name: &str| self.services.get(name).is_some_and(|s| s.recreated);
        service.depends_on.iter().find(|(name, dependency)| dependency.restart && recreated(name)).map(|(name, _)| name.clone())
    }

    /// The steps for what a new container of the service needs: image, networks, volumes.
    fn prepare(
        &mut self,
        name: &str,
        service: &Service,
        prepared: &mut bool,
        needs: &mut Vec<NodeIndex>,
    ) -> Result<(), PlanError> {
        if std::mem::replace(prepared, true) {
            return Ok(());
        }
        if let Some(provider) = &service.provider {
            return Err(PlanError::Provider { service: name.into(), kind: provider.kind.clone() });
        }
        let Some(image) = &service.image else { return Err(PlanError::NoImage { service: name.into() }) };
        needs.extend(self.image(image, service));
        for other in service.pre_start.iter().filter_map(|hook| hook.image.as_ref()) {
            needs.extend(self.image(other, &Service::default()));
        }
        for key in service.networks.keys() {
            needs.extend(self.network(key)?);
        }
        for key in service.volumes.iter().filter(|v| v.kind == "volume").filter_map(|v| v.source.as_ref()) {
            needs.extend(self.volume(key)?);
        }
        for other in service.volumes.iter().filter(|v| v.kind == "image").filter_map(|v| v.source.as_ref()) {
            needs.extend(self.image(other, &Service::default()));
        }
        for other in service.shares_with().chain(service.takes_volumes_of()) {
            needs.extend(self.services.get(other).iter().flat_map(|steps| &steps.starts));
        }
        Ok(())
    }

    fn image(&mut self, image: &str, service: &Service) -> Option<NodeIndex> {
        if let Some(step) = self.images.get(image) {
            return *step;
        }
        let policy = self.options.pull.as_deref().or(service.pull_policy.as_deref()).unwrap_or("missing");
        let here = self.observed.images.contains_key(image);
        // compose-spec, "pull_policy": how old an image may be before its registry is asked again.
        let bound = match policy {
            "daily" => Some(24 * 3600),
            "weekly" => Some(7 * 24 * 3600),
            "refresh" => {
                let after = service.pull_refresh_after.as_deref().and_then(crate::units::duration);
                Some(after.map_or(0, |nanos| nanos / 1_000_000_000))
            }
            _ => policy.strip_prefix("every_").and_then(crate::units::duration).map(|nanos| nanos / 1_000_000_000),
        };
        let old = bound.is_some_and(|bound| self.observed.image_ages.get(image).is_none_or(|age| *age >= bound));
        let cause = match policy {
            // Whoever builds has seen to it already.
            _ if here && service.build.is_some() => None,
            "always" => Some("pull_policy is always"),
            _ if here && old => Some("it was pulled too long ago"),
            "never" | "build" => None,
            _ if here => None,
            _ => Some("not found"),
        };
        let step = cause.map(|cause| self.plan.add(Operation::PullImage { image: image.into() }, cause, &[]));
        self.images.insert(image.into(), step);
        step
    }

    fn network(&mut self, key: &str) -> Result<Option<NodeIndex>, PlanError> {
        if let Some(step) = self.networks.get(key) {
            return Ok(*step);
        }
        let Some(network) = self.project.networks.get(key) else { return Ok(None) };
        // Docker's own networks of these names are modes, not networks.
        let here = self.observed.networks.contains_key(&network.name) || matches!(network.name.as_str(), "host" | "none");
        if network.external && !here {
            return Err(PlanError::MissingNetwork { name: network.name.clone() });
        }
        let step = (!here).then(|| self.plan.add(Operation::CreateNetwork { key: key.into() }, "not found", &[]));
        self.networks.insert(key.into(), step);
        Ok(step)
    }

    fn volume(&mut self, key: &str) -> Result<Option<NodeIndex>, PlanError> {
        if let Some(step) = self.volumes.get(key) {
            return Ok(*step);
        }
        let Some(volume) = self.project.volumes.get(key) else { return Ok(None) };
        let here = self.observed.volumes.contains(&volume.name);
        if volume.external && !here {
            return Err(PlanError::MissingVolume { name: volume.name.clone() });
        }
        let step = (!here).then(|| self.plan.add(Operation::CreateVolume { key: key.into() }, "not found", &[]));
        self.volumes.insert(key.into(), step);
        Ok(step)
    }

    /// The steps after which a container of the service may start.
    fn dependencies(&mut self, service: &Service) -> Vec<NodeIndex> {
        let mut after = Vec::new();
        for (name, dependency) in &service.depends_on {
            let Some(steps) = self.services.get(name) else { continue };
            if dependency.condition == Condition::ServiceStarted {
                after.extend(&steps.starts);
            } else {
                after.push(self.await_condition(name, dependency.condition));
            }
        }
        after
    }

    fn await_condition(&mut self, name: &str, condition: Condition) -> NodeIndex {
        let (known, starts) = match self.services.get(name) {
            Some(steps) => (steps.awaits.get(condition.as_str()).copied(), steps.starts.clone()),
            None => (None, Vec::new()),
        };
        known.unwrap_or_else(|| {
            let operation = Operation::Await { service: name.into(), condition };
            let node = self.plan.add(operation, "depended on", &starts);
            if let Some(steps) = self.services.get_mut(name) {
                steps.awaits.insert(condition.as_str(), node);
            }
            node
        })
    }

    fn wait(&mut self, name: &str) {
        let service = &self.project.services[name];
        let healthy = service
            .healthcheck
            .as_ref()
            .is_some_and(|h| !h.disable && h.test.as_ref().is_some_and(|t| t.first().is_some_and(|f| f != "NONE")));
        self.await_condition(name, if healthy { Condition::ServiceHealthy } else { Condition::ServiceStarted });
    }

    fn orphans(&mut self) {
        let orphans: Vec<&ObservedContainer> =
            self.observed.containers.iter().filter(|c| !self.project.services.contains_key(&c.service)).collect();
        for container in orphans {
            if self.options.remove_orphans {
                let operation = Operation::RemoveContainer { id: container.id.clone(), name: container.name.clone() };
                self.plan.add(operation, format!("the project has no service {}", container.service), &[]);
            } else {
                self.plan.orphans.push(container.name.clone());
            }
        }
    }
}
