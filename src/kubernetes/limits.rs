//! What an API server refuses of values that the user has chosen: names, numbers and paths (k8s.io/kubernetes, pkg/apis/*/validation).

use super::labels::shortened;
use super::names;
use super::object::Object;
use super::quantity;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Container, PodSpec, Probe, ServicePort, Volume};
use k8s_openapi::api::networking::v1::Ingress;
use std::collections::HashSet;

/// Why each value would be refused.
pub fn of(object: &Object) -> Vec<String> {
    let mut why = Vec::new();
    if let Some(spec) = object.template().and_then(|template| template.spec.as_ref()) {
        pod(spec, &mut why);
    }
    match object {
        Object::Job(job) => backoff(job.spec.as_ref().and_then(|spec| spec.backoff_limit), &mut why),
        Object::CronJob(job) => {
            let spec = job.spec.job_template.spec.as_ref();
            backoff(spec.and_then(|spec| spec.backoff_limit), &mut why);
        }
        Object::HorizontalPodAutoscaler(object) => autoscaler(object, &mut why),
        Object::PersistentVolumeClaim(claim) => {
            let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
            named("a class of storage", class.filter(|class| !class.is_empty()), &mut why);
        }
        Object::Ingress(object) => ingress(object, &mut why),
        Object::Service(service) => {
            let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
            ports.for_each(|port| service_port(port, &mut why));
        }
        _ => {}
    }
    why
}

fn named(what: &str, name: Option<&str>, why: &mut Vec<String>) {
    if let Some(name) = name.filter(|name| !names::is_subdomain(name)) {
        why.push(format!("`{}` is no name of {what}", shortened(name)));
    }
}

fn backoff(limit: Option<i32>, why: &mut Vec<String>) {
    if let Some(limit) = limit.filter(|limit| *limit < 0) {
        why.push(format!("the limit of its retries is {limit}, and 0 is the least"));
    }
}

fn autoscaler(object: &HorizontalPodAutoscaler, why: &mut Vec<String>) {
    let (least, most) = (object.spec.min_replicas.unwrap_or(1), object.spec.max_replicas);
    if least < 1 || most < least {
        why.push(format!(
            "it scales from {least} to {most} replicas: the first is 1 or more, and the second no less than the first"
        ));
    }
    for metric in object.spec.metrics.iter().flatten().filter_map(|metric| metric.resource.as_ref()) {
        let average = metric.target.average_value.as_ref();
        let is_wrong = metric.target.average_utilization.is_some_and(|percent| percent < 1)
            || average.is_some_and(|average| quantity::value(average).is_none_or(|value| value <= 0.0));
        if is_wrong {
            why.push(format!("the target of `{}` is more than 0", metric.name));
        }
    }
}

fn ingress(object: &Ingress, why: &mut Vec<String>) {
    let Some(spec) = &object.spec else { return };
    named("a class of Ingresses", spec.ingress_class_name.as_deref(), why);
    for tls in spec.tls.iter().flatten() {
        named("a Secret", tls.secret_name.as_deref(), why);
    }
}

fn service_port(port: &ServicePort, why: &mut Vec<String>) {
    if let Some(number) = port.node_port.filter(|number| !(1..=65535).contains(number)) {
        why.push(format!("{number} is no port of a node"));
    }
    if let Some(protocol) = port.app_protocol.as_deref().filter(|protocol| !names::is_label_key(protocol)) {
        why.push(format!("`{}` is no protocol of an application, such as `http` or `example.com/own`", shortened(protocol)));
    }
}

fn pod(spec: &PodSpec, why: &mut Vec<String>) {
    named("a class of runtimes", spec.runtime_class_name.as_deref(), why);
    named("a service account", spec.service_account_name.as_deref(), why);
    for secret in spec.image_pull_secrets.iter().flatten() {
        named("a Secret", Some(&secret.name), why);
    }
    spec.volumes.iter().flatten().for_each(|volume| paths(volume, why));
    let security = spec.security_context.clone().unwrap_or_default();
    if let Some(group) = security.fs_group.filter(|group| !(0..=i64::from(i32::MAX)).contains(group)) {
        why.push(format!("{group} is no number of a group"));
    }
    for sysctl in security.sysctls.iter().flatten().filter(|sysctl| spec.host_ipc == Some(true) && is_of_ipc(&sysctl.name)) {
        why.push(format!("the sysctl `{}` would be the node's own with `ipc: host`", sysctl.name));
    }
    if spec.host_network == Some(true) {
        host_ports(spec, why);
    }
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        texts(container, why);
    }
}

/// Sysctls of the namespace of System V IPC.
fn is_of_ipc(name: &str) -> bool {
    let name = name.replace('/', ".");
    name == "kernel.sem" || ["kernel.shm", "kernel.msg", "fs.mqueue."].into_iter().any(|prefix| name.starts_with(prefix))
}

fn paths(volume: &Volume, why: &mut Vec<String>) {
    let of_host = volume.host_path.as_ref().map(|source| source.path.as_str());
    if let Some(path) = of_host.filter(|path| path.is_empty() || path.split('/').any(|part| part == "..")) {
        why.push(format!("`{}` is a path of a node that is empty or has `..`", shortened(path)));
    }
    let of_nfs = volume.nfs.as_ref().map(|source| source.path.as_str());
    if let Some(path) = of_nfs.filter(|path| !path.starts_with('/')) {
        why.push(format!("`{}` is no path of an NFS server: it begins with `/`", shortened(path)));
    }
}

/// On the node's network, each port of a container is the node's.
fn host_ports(spec: &PodSpec, why: &mut Vec<String>) {
    let mut taken = HashSet::new();
    for port in spec.containers.iter().flat_map(|container| container.ports.iter().flatten()) {
        if let Some(host) = port.host_port.filter(|host| *host != port.container_port) {
            why.push(format!(
                "on the node's network, port {} of the container cannot be {host} of the node",
                port.container_port
            ));
        }
        if !taken.insert((port.container_port, port.protocol.as_deref().unwrap_or("TCP"))) {
            why.push(format!("two of its containers have port {} of the node's network", port.container_port));
        }
    }
}

/// No program is started with a NUL in a word.
fn texts(container: &Container, why: &mut Vec<String>) {
    let probes = [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
    let of_probe = |probe: &Probe| probe.exec.as_ref().and_then(|exec| exec.command.clone()).unwrap_or_default();
    let handlers = container.lifecycle.iter().flat_map(|lifecycle| [&lifecycle.post_start, &lifecycle.pre_stop]).flatten();
    let mut words: Vec<String> = container.command.iter().chain(&container.args).flatten().cloned().collect();
    words.extend(container.working_dir.clone());
    words.extend(probes.into_iter().flatten().flat_map(of_probe));
    words.extend(handlers.filter_map(|handler| handler.exec.as_ref()?.command.clone()).flatten());
    words.extend(container.volume_mounts.iter().flatten().map(|mount| mount.mount_path.clone()));
    if words.iter().any(|word| word.contains('\0')) {
        why.push(format!("a command or a path of the container `{}` has a NUL character", container.name));
    }
}
