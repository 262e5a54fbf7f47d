//! The labels by which kompose is told what a Compose file cannot say (kompose.io, "Labels"), and `x-kubernetes` of a service.

use super::context::Context;
use crate::compose::diagnostic::nearest;
use crate::compose::model::Service;
use std::str::FromStr;

pub const PREFIX: &str = "kompose.";

/// Those that are acted on.
const KNOWN: [&str; 41] = [
    "controller.port.expose",
    "controller.type",
    "cronjob.backoff_limit",
    "cronjob.concurrency_policy",
    "cronjob.schedule",
    "ephemeral-storage.limit",
    "ephemeral-storage.request",
    "hpa.cpu",
    "hpa.memory",
    "hpa.replicas.max",
    "hpa.replicas.min",
    "image-pull-policy",
    "image-pull-secret",
    "init.containers.command",
    "init.containers.image",
    "init.containers.name",
    "security-context.fsgroup",
    "service.expose",
    "service.expose.ingress-class-name",
    "service.expose.path",
    "service.expose.tls-secret",
    "service.external-traffic-policy",
    "service.group",
    "service.healthcheck.liveness.http_get_path",
    "service.healthcheck.liveness.http_get_port",
    "service.healthcheck.liveness.tcp_port",
    "service.healthcheck.readiness.disable",
    "service.healthcheck.readiness.http_get_path",
    "service.healthcheck.readiness.http_get_port",
    "service.healthcheck.readiness.interval",
    "service.healthcheck.readiness.retries",
    "service.healthcheck.readiness.start_period",
    "service.healthcheck.readiness.tcp_port",
    "service.healthcheck.readiness.test",
    "service.healthcheck.readiness.timeout",
    "service.name_override",
    "service.nodeport.port",
    "service.type",
    "serviceaccount-name",
    "volume.subpath",
    "volume.type",
];

/// Those of a volume.
pub const OF_VOLUMES: [&str; 3] = ["volume.size", "volume.storage-class-name", "volume.selector"];

/// A label of a service, without `kompose.`.
pub fn label<'a>(service: &'a Service, name: &str) -> Option<&'a str> {
    let of_deploy = service.deploy.as_ref().map(|deploy| &deploy.labels);
    [Some(&service.labels), of_deploy].into_iter().flatten().find_map(|labels| {
        let value = labels.get(format!("{PREFIX}{name}").as_str())?;
        Some(value.as_str())
    })
}

pub fn is_kompose(label: &str) -> bool {
    label.starts_with(PREFIX)
}

/// A label that has to be of a type; a wrong one is an error.
pub fn parsed<T: FromStr>(context: &Context<'_>, path: &[&str], service: &Service, name: &str, what: &str) -> Option<T> {
    let text = label(service, name)?;
    let parsed = text.trim().parse().ok();
    if parsed.is_none() {
        let label = format!("{PREFIX}{name}");
        let path: Vec<&str> = path.iter().copied().chain(["labels", &label]).collect();
        context.refuse(&path, format!("`{label}` is `{text}` and should be {what}"), "");
    }
    parsed
}

/// Warns of labels that look like kompose's and are none.
pub fn judge(context: &Context<'_>, path: &[&str], labels: &indexmap::IndexMap<String, String>) {
    for label in labels.keys() {
        let Some(name) = label.strip_prefix(PREFIX).filter(|name| !KNOWN.contains(name) && !OF_VOLUMES.contains(name)) else {
            continue;
        };
        let help = nearest(name, KNOWN).map(|known| format!("did you mean `{PREFIX}{known}`?")).unwrap_or_default();
        let path: Vec<&str> = path.iter().copied().chain([label.as_str()]).collect();
        context.warn(&path, format!("`{label}` is not one of kompose's labels and has no effect"), help);
    }
}
