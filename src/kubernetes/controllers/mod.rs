//! What runs a Pod: a Deployment, a StatefulSet, a DaemonSet, a Job or a CronJob, and an autoscaler.

mod schedule;

use super::context::Context;
use super::labels::{Labels, add, label_selector, metadata, of_workload, selector, some};
use super::object::{Made, Object};
use super::pod::{is_exclusive, template};
use super::workload::{Kind, Pod, Pods};
use super::{kompose, names, quantity};
use crate::compose::model::{RestartPolicy, UpdateConfig};
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment, StatefulSet,
    StatefulSetSpec,
};
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget,
    ResourceMetricSource,
};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The longest name of a StatefulSet and of a CronJob: what they make has longer ones.
const LONGEST: usize = 52;
/// Kubernetes' own deadline of a Deployment, in seconds.
const DEADLINE: i32 = 600;

pub fn controllers(context: &Context<'_>, pod: &Pod<'_, '_>, pods: &Pods<'_, '_>, made: &mut Vec<Made>) {
    let leader = pod.leader();
    let template = template(context, pod, pods);
    let (mut own, mut annotations) = (of_workload(context, leader), Labels::new());
    if let Some(deploy) = &leader.service.deploy {
        add(context, &leader.path(&["deploy", "labels"]), &deploy.labels, &mut own, &mut annotations);
    }
    own.extend(of_workload(context, leader));
    let metadata = ObjectMeta { annotations: some(annotations), ..metadata(context, &name_of(pod), own) };
    let selector = label_selector(selector(context, pod));
    let replicas = i32::try_from(pod.replicas()).unwrap_or(i32::MAX);
    let has_autoscaler = autoscaler(context, pod, made);
    // Where an autoscaler counts them, a number would undo what it did at every `apply`.
    let replicas = (!has_autoscaler).then_some(replicas);
    let object: Object = match pod.kind {
        Kind::Deployment => {
            let strategy = match is_exclusive(context, pod, &template) {
                true => Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None }),
                false => strategy(context, pod),
            };
            let spec = DeploymentSpec {
                replicas,
                selector,
                template,
                strategy,
                min_ready_seconds: ready_seconds(pod),
                // It has to be longer than a replica takes.
                progress_deadline_seconds: ready_seconds(pod)
                    .filter(|seconds| *seconds >= DEADLINE)
                    .map(|seconds| seconds.saturating_add(DEADLINE)),
                ..DeploymentSpec::default()
            };
            Deployment { metadata, spec: Some(spec), status: None }.into()
        }
        Kind::StatefulSet => {
            let service_name = Some(leader.object.clone());
            // The field is beta from 1.25 on.
            let min_ready_seconds = ready_seconds(pod).filter(|_| context.has(25));
            let spec =
                StatefulSetSpec { replicas, selector, template, service_name, min_ready_seconds, ..StatefulSetSpec::default() };
            StatefulSet { metadata, spec: Some(spec), status: None }.into()
        }
        Kind::DaemonSet => {
            if pod.replicas() > 1 {
                context.warn(
                    &leader.path(&["deploy", "replicas"]),
                    "a DaemonSet has one Pod on every node: `replicas` is left out",
                    "",
                );
            }
            let spec = DaemonSetSpec { selector, template, min_ready_seconds: ready_seconds(pod), ..DaemonSetSpec::default() };
            DaemonSet { metadata, spec: Some(spec), status: None }.into()
        }
        Kind::Job => Job { metadata, spec: Some(job(context, pod, template)), status: None }.into(),
        Kind::CronJob => {
            schedule::cron_jobs(context, pod, &metadata, &job(context, pod, template), made);
            return;
        }
    };
    made.push(Made::new(object, leader.at));
}

/// The name of a Pod's controller. Pods of a StatefulSet have a label of its name and a digest.
fn name_of(pod: &Pod<'_, '_>) -> String {
    let name = &pod.leader().object;
    if pod.kind == Kind::StatefulSet { names::cut(name, LONGEST) } else { name.clone() }
}

/// The order of an update.
fn strategy(context: &Context<'_>, pod: &Pod<'_, '_>) -> Option<DeploymentStrategy> {
    let update = update(pod)?;
    let path = pod.leader().path(&["deploy", "update_config"]);
    let within = |attribute: &'static str| path.iter().copied().chain([attribute]).collect::<Vec<_>>();
    if update.failure_action.as_deref() == Some("rollback") {
        let help = "`kubectl rollout undo` does, by hand";
        context.warn(&within("failure_action"), "Kubernetes stops an update that fails, and rolls nothing back by itself", help);
    }
    if update.max_failure_ratio.is_some_and(|ratio| ratio > 0.0) {
        context.warn(
            &within("max_failure_ratio"),
            "Kubernetes stops at the first replica that fails: `max_failure_ratio` is left out",
            "",
        );
    }
    let at_once = match update.parallelism {
        Some(0) => IntOrString::String("100%".into()),
        Some(number) => IntOrString::Int(i32::try_from(number).unwrap_or(i32::MAX)),
        None => IntOrString::Int(1),
    };
    let none = IntOrString::Int(0);
    let (max_surge, max_unavailable) = match update.order.as_deref() {
        Some("start-first") => (at_once, none),
        _ => (none, at_once),
    };
    Some(DeploymentStrategy {
        type_: Some("RollingUpdate".into()),
        rolling_update: Some(RollingUpdateDeployment { max_surge: Some(max_surge), max_unavailable: Some(max_unavailable) }),
    })
}

fn update<'p>(pod: &'p Pod<'_, '_>) -> Option<&'p UpdateConfig> {
    pod.leader().service.deploy.as_ref()?.update_config.as_ref()
}

/// How long a new replica has to stay ready before the next: `monitor`, and the `delay` after it.
fn ready_seconds(pod: &Pod<'_, '_>) -> Option<i32> {
    let update = update(pod)?;
    let longest = [update.monitor, update.delay].into_iter().flatten().max()?.positive()?;
    Some(quantity::seconds(longest))
}

fn job(context: &Context<'_>, pod: &Pod<'_, '_>, template: k8s_openapi::api::core::v1::PodTemplateSpec) -> JobSpec {
    let leader = pod.leader();
    let service = leader.service;
    let of_deploy = service.deploy.as_ref().and_then(|deploy| deploy.restart_policy.as_ref());
    let attempts = of_deploy.and_then(|policy| policy.max_attempts).or(match service.restart {
        Some(RestartPolicy::OnFailure { max }) if max > 0 => Some(max),
        _ => None,
    });
    let never = template.spec.as_ref().is_some_and(|spec| spec.restart_policy.as_deref() == Some("Never"));
    let label: Option<i32> =
        kompose::parsed(context, &leader.path(&[]), service, "cronjob.backoff_limit", "a number that is 0 or more");
    let of_attempts = attempts.map(|attempts| i32::try_from(attempts).unwrap_or(i32::MAX));
    let replicas = i32::try_from(pod.replicas()).ok().filter(|replicas| *replicas > 1);
    let timeout = leader.job.and_then(|job| job.timeout).and_then(crate::units::Nanos::positive);
    JobSpec {
        template,
        // Compose runs it once; without a number, Kubernetes tries six times more.
        backoff_limit: label.or(of_attempts).or(never.then_some(0)),
        active_deadline_seconds: timeout.map(|time| i64::from(quantity::seconds(time))),
        completions: replicas,
        parallelism: replicas,
        // It is there to be run by hand: `kubectl create job --from` needs a CronJob, a Job is resumed.
        suspend: leader.job.is_some_and(|job| !job.is_scheduled()).then_some(true).filter(|_| !is_awaited(context, leader.name)),
        ..JobSpec::default()
    }
}

fn is_awaited(context: &Context<'_>, name: &str) -> bool {
    let project = context.project();
    let all = project.services.values().chain(project.jobs.values().map(|job| &job.service));
    all.into_iter().any(|service| service.depends_on.contains_key(name))
}

/// kompose's labels of an autoscaler. Tells whether there is one.
fn autoscaler(context: &Context<'_>, pod: &Pod<'_, '_>, made: &mut Vec<Made>) -> bool {
    let leader = pod.leader();
    let path = leader.path(&[]);
    let number = |name: &str| -> Option<i32> { kompose::parsed(context, &path, leader.service, name, "a number above 0") };
    let (min, max) = (number("hpa.replicas.min"), number("hpa.replicas.max"));
    let (cpu, memory) = (leader.label("hpa.cpu"), leader.label("hpa.memory"));
    if min.is_none() && max.is_none() && cpu.is_none() && memory.is_none() {
        return false;
    }
    if !matches!(pod.kind, Kind::Deployment | Kind::StatefulSet) {
        context.refuse(
            &path,
            format!("a {:?} has no number of replicas that could be scaled", pod.kind),
            "leave the labels `kompose.hpa.*` out",
        );
        return false;
    }
    let metric = |name: &str, text: Option<&str>| {
        let text = text?.trim();
        let target = match text.trim_end_matches('%').parse::<i32>() {
            Ok(percent) => {
                MetricTarget { type_: "Utilization".into(), average_utilization: Some(percent), ..MetricTarget::default() }
            }
            Err(_) => MetricTarget {
                type_: "AverageValue".into(),
                average_value: Some(Quantity(text.into())),
                ..MetricTarget::default()
            },
        };
        let resource = ResourceMetricSource { name: name.into(), target };
        Some(MetricSpec { type_: "Resource".into(), resource: Some(resource), ..MetricSpec::default() })
    };
    let mut metrics: Vec<MetricSpec> = [metric("cpu", cpu), metric("memory", memory)].into_iter().flatten().collect();
    metrics.extend(metrics.is_empty().then(|| metric("cpu", Some("50"))).flatten());
    let least = min.unwrap_or(1);
    let spec = HorizontalPodAutoscalerSpec {
        min_replicas: Some(least),
        max_replicas: max.unwrap_or(least.max(3)),
        metrics: Some(metrics),
        scale_target_ref: CrossVersionObjectReference {
            api_version: Some("apps/v1".into()),
            kind: format!("{:?}", pod.kind),
            name: name_of(pod),
        },
        behavior: None,
    };
    let metadata = metadata(context, &leader.object, of_workload(context, leader));
    made.push(Made::new(HorizontalPodAutoscaler { metadata, spec, status: None }, leader.at));
    true
}
