//! Services and jobs as workloads: their names, which of them are one Pod, and of which kind that is.

use super::context::Context;
use super::{kompose, names};
use crate::compose::model::{Condition, Job, NamespaceMode, RestartCondition, RestartPolicy, Service, ServiceVolume, VolumeKind};
use crate::compose::node::At;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Deref;

/// A service or a job.
pub struct Workload<'a> {
    pub section: &'static str,
    pub name: &'a str,
    pub service: &'a Service,
    pub job: Option<&'a Job>,
    /// The name of its objects, and of its Service.
    pub object: String,
    pub at: At,
}

/// The kind of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
}

impl Kind {
    /// Whether its Pods run to their end.
    pub fn ends(self) -> bool {
        matches!(self, Kind::Job | Kind::CronJob)
    }
}

/// Workloads that are containers of one Pod. The first is that whose namespaces the others join, and gives it its name.
pub struct Pod<'a, 'w> {
    pub members: Vec<&'w Workload<'a>>,
    pub kind: Kind,
}

/// The Pods of a project, found by the services in them.
pub struct Pods<'a, 'w> {
    list: Vec<Pod<'a, 'w>>,
    by_service: HashMap<&'a str, usize>,
}

impl<'a, 'w> Deref for Pods<'a, 'w> {
    type Target = [Pod<'a, 'w>];

    fn deref(&self) -> &Self::Target {
        &self.list
    }
}

impl<'a, 'w> Pods<'a, 'w> {
    fn new(list: Vec<Pod<'a, 'w>>) -> Self {
        let services = list.iter().enumerate().flat_map(|(n, pod)| pod.members.iter().map(move |member| (member.name, n)));
        Pods { by_service: services.collect(), list }
    }

    /// The Pod of a service, and the service in it.
    pub fn find(&self, service: &str) -> Option<(&Pod<'a, 'w>, &'w Workload<'a>)> {
        let pod = self.list.get(*self.by_service.get(service)?)?;
        Some((pod, pod.members.iter().find(|member| member.name == service)?))
    }
}

impl<'a, 'w> Pod<'a, 'w> {
    pub fn leader(&self) -> &'w Workload<'a> {
        self.members[0]
    }

    pub fn replicas(&self) -> u32 {
        self.leader().service.replicas()
    }

    pub fn has(&self, service: &str) -> bool {
        self.members.iter().any(|member| member.name == service)
    }

    /// Whether more than one of it may run at a time.
    pub fn is_many(&self) -> bool {
        self.kind == Kind::DaemonSet
            || self.replicas() > 1
            || kompose::label(self.leader().service, "hpa.replicas.max").is_some_and(|max| max.trim() != "1")
    }
}

impl<'a> Workload<'a> {
    /// The path of an attribute of it.
    pub fn path<'p>(&'p self, rest: &[&'p str]) -> Vec<&'p str> {
        [self.section, self.name].into_iter().chain(rest.iter().copied()).collect()
    }

    pub fn label(&self, name: &str) -> Option<&'a str> {
        kompose::label(self.service, name)
    }

    /// The service whose Pod this one's container is in.
    fn host(&self) -> Option<&'a str> {
        [&self.service.network_mode, &self.service.pid, &self.service.ipc]
            .into_iter()
            .find_map(|mode| mode.as_ref().and_then(NamespaceMode::service))
    }
}

/// Every service and job, in the order of the file.
pub fn workloads<'a>(context: &Context<'a>) -> Vec<Workload<'a>> {
    let project = context.project();
    let services = project.services.iter().map(|(name, service)| ("services", name.as_str(), service, None));
    let jobs = project.jobs.iter().map(|(name, job)| ("jobs", name.as_str(), &job.service, Some(job)));
    let mut taken: BTreeMap<String, &str> = BTreeMap::new();
    let mut all = Vec::new();
    for (section, name, service, job) in services.chain(jobs) {
        let wanted = kompose::label(service, "service.name_override").unwrap_or(name);
        let object = names::dns(wanted);
        if let Some(other) = taken.insert(object.clone(), name) {
            let message = format!("`{other}` and `{name}` would both be called `{object}` in Kubernetes");
            context.refuse(&[section, name], message, "give one of them another name");
        } else if object != name.to_lowercase() && wanted == name {
            let message = format!(
                "`{name}` cannot be a name in Kubernetes: it is `{object}` there, and other services find it by that name alone"
            );
            context.warn(
                &[section, name],
                message,
                "use lower-case letters, digits and `-`, beginning with a letter, and 63 at most",
            );
        }
        all.push(Workload { section, name, service, job, object, at: context.place(&[section, name]) });
    }
    all
}

/// The Pods of a project, each with its kind.
pub fn pods<'a, 'w>(context: &Context<'a>, workloads: &'w [Workload<'a>]) -> Pods<'a, 'w> {
    let by_name: BTreeMap<&str, &Workload<'a>> = workloads.iter().map(|workload| (workload.name, workload)).collect();
    // A group by label is led by its first service.
    let mut groups: BTreeMap<&str, &str> = BTreeMap::new();
    for workload in workloads {
        if let Some(group) = workload.label("service.group") {
            groups.entry(group).or_insert(workload.name);
        }
    }
    let leader_of = |workload: &Workload<'a>| -> &'a str {
        let mut current = workload.name;
        let mut seen = BTreeSet::new();
        while seen.insert(current) {
            let Some(other) = by_name.get(current) else { break };
            let group =
                other.label("service.group").and_then(|group| groups.get(group).copied()).filter(|leader| *leader != current);
            match other.host().or_else(|| group.and_then(|leader| by_name.get(leader).map(|leader| leader.name))) {
                Some(next) if by_name.contains_key(next) => current = next,
                _ => break,
            }
        }
        by_name.get(current).map_or(workload.name, |leader| leader.name)
    };
    let facts = Facts::of(workloads);
    let leaders: Vec<&str> = workloads.iter().map(leader_of).collect();
    let mut joined: HashMap<&str, Vec<&'w Workload<'a>>> = HashMap::new();
    for (leader, workload) in leaders.iter().zip(workloads).filter(|(leader, workload)| **leader != workload.name) {
        joined.entry(leader).or_default().push(workload);
    }
    let leading = leaders.iter().zip(workloads).filter(|(leader, workload)| **leader == workload.name);
    let pods = leading.map(|(_, workload)| {
        let others = joined.remove(workload.name).unwrap_or_default();
        let members = std::iter::once(workload).chain(others).collect();
        Pod { members, kind: kind(context, workload, &facts) }
    });
    Pods::new(pods.collect())
}

/// What decides about a kind and is about all workloads.
struct Facts<'a> {
    /// Those whose end others wait for.
    awaited: BTreeSet<&'a str>,
    /// How many workloads write to each named volume.
    writers: BTreeMap<&'a str, usize>,
}

impl<'a> Facts<'a> {
    fn of(workloads: &[Workload<'a>]) -> Self {
        let dependencies = workloads.iter().flat_map(|workload| &workload.service.depends_on);
        let ends = dependencies.filter(|(_, dependency)| dependency.condition == Condition::ServiceCompletedSuccessfully);
        let mut writers: BTreeMap<&str, usize> = BTreeMap::new();
        for workload in workloads {
            let written: BTreeSet<&str> = written_volumes(workload.service).collect();
            written.into_iter().for_each(|volume| *writers.entry(volume).or_default() += 1);
        }
        Facts { awaited: ends.map(|(name, _)| name.as_str()).collect(), writers }
    }
}

fn kind(context: &Context<'_>, workload: &Workload<'_>, facts: &Facts<'_>) -> Kind {
    let named = context.node(&workload.path(&["x-kubernetes", "kind"])).and_then(|node| node.as_str());
    if let Some(kind) = named.or_else(|| workload.label("controller.type")) {
        match kind.to_ascii_lowercase().as_str() {
            "deployment" => return Kind::Deployment,
            "statefulset" => return Kind::StatefulSet,
            "daemonset" => return Kind::DaemonSet,
            "job" => return Kind::Job,
            _ => {
                let path = workload.path(if named.is_some() {
                    &["x-kubernetes", "kind"]
                } else {
                    &["labels", "kompose.controller.type"]
                });
                context.refuse(
                    &path,
                    format!("`{kind}` is no kind that is written"),
                    "write Deployment, StatefulSet, DaemonSet or Job",
                );
            }
        }
    }
    if let Some(job) = workload.job {
        return if job.is_scheduled() { Kind::CronJob } else { Kind::Job };
    }
    if workload.label("cronjob.schedule").is_some() {
        return Kind::CronJob;
    }
    let deploy = workload.service.deploy.as_ref();
    match deploy.and_then(|deploy| deploy.mode.as_deref()) {
        Some("global") => return Kind::DaemonSet,
        Some("replicated-job" | "global-job") => return Kind::Job,
        _ => {}
    }
    if facts.awaited.contains(workload.name) || is_one_shot(workload.service) {
        return Kind::Job;
    }
    let is_alone = |volume: &str| facts.writers.get(volume) == Some(&1);
    if workload.service.replicas() == 1 && written_volumes(workload.service).any(is_alone) {
        return Kind::StatefulSet;
    }
    Kind::Deployment
}

/// The file says that it is not started again, and nobody is to reach it.
fn is_one_shot(service: &Service) -> bool {
    let ends = match service.deploy.as_ref().and_then(|deploy| deploy.restart_policy.as_ref()?.condition) {
        Some(RestartCondition::None | RestartCondition::No | RestartCondition::OnFailure) => true,
        Some(_) => false,
        None => matches!(service.restart, Some(RestartPolicy::No | RestartPolicy::OnFailure { .. })),
    };
    ends && service.ports.is_empty() && service.expose.is_empty() && !service.has_health_check()
}

/// The keys of the named volumes that a service may write to.
fn written_volumes(service: &Service) -> impl Iterator<Item = &str> {
    service.volumes.iter().filter(|volume| writes(volume)).filter_map(|volume| volume.source.as_deref())
}

fn writes(volume: &ServiceVolume) -> bool {
    volume.kind == VolumeKind::Volume && !volume.read_only
}
