//! `depends_on`: init containers that wait for a condition.
//!
//! Kubernetes starts everything at once. A service that waits for another asks the cluster's DNS and the other's Service, from a small
//! image ([`IMAGE`]): a headless Service has a name once it has an endpoint, and an endpoint is a Pod that is ready; a port of a Service accepts
//! connections once a Pod behind it is ready. An end with success is known to the API alone: `kubectl wait` asks it ([`KUBECTL`]), as a service account that may
//! look at Jobs and nothing else, whose token no other container has.

use super::context::Context;
use super::labels::{metadata, of_project};
use super::names;
use super::object::Made;
use super::policies;
use super::services;
use super::workload::{Pod, Pods, Workload};
use crate::compose::model::{Condition, Dependency};
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector, PodSpec,
    ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};

/// Has a shell and `nc`.
pub const IMAGE: &str = "busybox:1.37";
/// Has `kubectl` alone: the Kubernetes project's own.
pub const KUBECTL: &str = "registry.k8s.io/kubectl:v1.34.0";
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const ACCOUNT: &str = "wait-for-jobs";

/// The image of the containers that wait, of `x-kubernetes` at the top of the file.
fn image(context: &Context<'_>, name: &str, otherwise: &str) -> String {
    context.node(&["x-kubernetes", name]).and_then(|node| node.as_str()).unwrap_or(otherwise).to_string()
}

/// The containers in which a workload waits for those that it depends on.
pub fn waits(
    context: &Context<'_>,
    pod: &Pod<'_, '_>,
    workload: &Workload<'_>,
    pods: &Pods<'_, '_>,
    spec: &mut PodSpec,
) -> Vec<Container> {
    let mut containers = Vec::new();
    for (name, dependency) in &workload.service.depends_on {
        let path = workload.path(&["depends_on", name]);
        let Some((other, target)) = pods.find(name) else { continue };
        if dependency.restart {
            // The implied dependencies of shared namespaces say so as well, and within a Pod it is true.
            if !pod.has(name)
                && context
                    .node(&workload.path(&["depends_on", name, "restart"]))
                    .is_some_and(|node| node.at != context.place(&["services", name]))
            {
                context.warn(&path, format!("`restart: true` has no counterpart: a new `{name}` restarts nothing"), "");
            }
        }
        if dependency.runtime {
            context.warn(&path, "`x-runtime` has no counterpart in Kubernetes", "");
        }
        if pod.has(name) {
            if dependency.condition != Condition::ServiceStarted {
                let message =
                    format!("`{name}` is a container of the same Pod, and containers of one Pod do not wait for each other");
                context.warn(&path, message, "Kubernetes starts it again until it finds the other");
            }
            continue;
        }
        containers.extend(wait(context, pod, target, other, dependency, &path, spec));
    }
    containers
}

fn wait(
    context: &Context<'_>,
    pod: &Pod<'_, '_>,
    target: &Workload<'_>,
    other: &Pod<'_, '_>,
    dependency: &Dependency,
    path: &[&str],
    spec: &mut PodSpec,
) -> Option<Container> {
    let name = names::dns(&format!("wait-for-{}", target.object));
    if dependency.condition == Condition::ServiceCompletedSuccessfully {
        if !other.kind.ends() || other.kind == super::workload::Kind::CronJob {
            let message = format!("`{}` does not end as a Job does: its success cannot be waited for", target.name);
            context.refuse(path, message, "leave out its schedule and the label of its kind");
            return None;
        }
        if policies::is_internal(context, pod) {
            let message =
                "the Pod is on internal networks alone, whose policy keeps it from the cluster's API: the wait would not end";
            context.refuse(path, message, "put the service on a network that is not internal as well");
        }
        return Some(for_job(context, target, name, spec));
    }
    if other.kind.ends() {
        // Nobody reaches a Job by name, and its start is no condition to wait for.
        let message = format!(
            "`{}` is a {:?}, which has neither a name nor a state of health: this one does not wait for it",
            target.name, other.kind
        );
        context.warn(path, message, "`service_completed_successfully` waits for a Job's end");
        return None;
    }
    let host = services::awaited(context, target, other, dependency.condition);
    let command = match (dependency.condition, services::first_tcp(target)) {
        // Behind a port that accepts there is a Pod that is ready.
        (Condition::ServiceHealthy, Some(port)) if !services::is_headless(target) => {
            format!("until nc -z -w 2 {host} {port}; do sleep 1; done")
        }
        // `bad address`: the name does not exist.
        _ => format!("while nc -z -w 2 {host} 1 2>&1 | grep -q 'bad address'; do sleep 1; done"),
    };
    if dependency.condition == Condition::ServiceHealthy && !has_readiness(target) {
        let message = format!("`{}` has no health check in the file: it counts as healthy when it runs", target.name);
        context.warn(path, message, "write the image's HEALTHCHECK as `healthcheck`, with its `test`");
    }
    Some(Container {
        name,
        image: Some(image(context, "wait-image", IMAGE)),
        command: Some(vec!["sh".into(), "-c".into(), command]),
        ..Container::default()
    })
}

fn has_readiness(target: &Workload<'_>) -> bool {
    let label = |name: &str| target.label(&format!("service.healthcheck.{name}")).is_some();
    target.service.has_health_check()
        || ["liveness.http_get_port", "liveness.tcp_port", "readiness.http_get_port", "readiness.tcp_port", "readiness.test"]
            .into_iter()
            .any(label)
}

fn for_job(context: &Context<'_>, target: &Workload<'_>, name: String, spec: &mut PodSpec) -> Container {
    spec.service_account_name.get_or_insert_with(|| ACCOUNT.into());
    spec.automount_service_account_token = Some(false);
    let volumes = spec.volumes.get_or_insert_default();
    if !volumes.iter().any(|volume| volume.name == ACCOUNT) {
        volumes.push(token());
    }
    account(context, spec.service_account_name.as_deref().unwrap_or(ACCOUNT), target);
    let job = format!("job/{}", target.object);
    // A Job that is not there yet, or that has been replaced, is looked for again.
    let command = ["kubectl", "wait", "--for=condition=Complete", "--timeout=24h", &job].map(String::from);
    Container {
        name,
        image: Some(image(context, "kubectl-image", KUBECTL)),
        command: Some(command.into()),
        volume_mounts: Some(vec![VolumeMount {
            name: ACCOUNT.into(),
            mount_path: TOKEN.into(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

/// The token as the kubelet mounts it into every container, for this one alone.
fn token() -> Volume {
    let certificate = ConfigMapProjection {
        name: "kube-root-ca.crt".into(),
        items: Some(vec![KeyToPath { key: "ca.crt".into(), path: "ca.crt".into(), mode: None }]),
        optional: None,
    };
    let namespace = DownwardAPIVolumeFile {
        path: "namespace".into(),
        field_ref: Some(ObjectFieldSelector { field_path: "metadata.namespace".into(), api_version: None }),
        ..DownwardAPIVolumeFile::default()
    };
    let token = ServiceAccountTokenProjection { path: "token".into(), expiration_seconds: None, audience: None };
    let sources = vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(certificate), ..VolumeProjection::default() },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection { items: Some(vec![namespace]) }),
            ..VolumeProjection::default()
        },
    ];
    Volume {
        name: ACCOUNT.into(),
        projected: Some(ProjectedVolumeSource { default_mode: None, sources: Some(sources) }),
        ..Volume::default()
    }
}

/// The account, and its right to look at Jobs. An account of the user's own has the right added.
fn account(context: &Context<'_>, name: &str, target: &Workload<'_>) {
    let labels = of_project(context);
    if name == ACCOUNT {
        let account = ServiceAccount { metadata: metadata(context, ACCOUNT, labels.clone()), ..ServiceAccount::default() };
        context.share(Made::new(account, target.at));
    }
    let rule = PolicyRule {
        api_groups: Some(vec!["batch".into()]),
        resources: Some(vec!["jobs".into()]),
        verbs: ["get", "list", "watch"].map(String::from).into(),
        ..PolicyRule::default()
    };
    context.share(Made::new(Role { metadata: metadata(context, ACCOUNT, labels.clone()), rules: Some(vec![rule]) }, target.at));
    // Each account has a binding of its own.
    let binding_name = if name == ACCOUNT { ACCOUNT.to_string() } else { names::dns(&format!("{ACCOUNT}-{name}")) };
    let binding = RoleBinding {
        metadata: metadata(context, &binding_name, labels),
        role_ref: RoleRef { api_group: Some("rbac.authorization.k8s.io".into()), kind: "Role".into(), name: ACCOUNT.into() },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: name.into(),
            namespace: context.options.namespace.clone(),
            api_group: None,
        }]),
    };
    context.share(Made::new(binding, target.at));
}
