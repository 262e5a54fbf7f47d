//! What a container that joins another's Pod loses: a Pod has each of these once, and they are those of its first container.

use super::context::Context;
use super::kompose;
use super::workload::{Pod, Workload};
use crate::compose::model::Job;
use crate::compose::node::{Node, Value};

/// Attributes that are the Pod's or its controller's.
const OF_PODS: [&[&str]; 10] = [
    &["hostname"],
    &["domainname"],
    &["runtime"],
    &["scale"],
    &["deploy", "replicas"],
    &["deploy", "mode"],
    &["deploy", "labels"],
    &["deploy", "update_config"],
    &["deploy", "placement", "max_replicas_per_node"],
    &["x-kubernetes", "kind"],
];

/// kompose's labels of the same.
const LABELS: [&str; 12] = [
    "controller.type",
    "cronjob.backoff_limit",
    "cronjob.concurrency_policy",
    "cronjob.schedule",
    "hpa.cpu",
    "hpa.memory",
    "hpa.replicas.max",
    "hpa.replicas.min",
    "image-pull-secret",
    "security-context.fsgroup",
    "serviceaccount-name",
    "volume.size",
];

/// Warns of what is written at a member and is the first one's to say.
pub fn judge(context: &Context<'_>, pod: &Pod<'_, '_>) {
    let leader = pod.leader();
    for member in pod.members.iter().skip(1) {
        for attribute in OF_PODS {
            let is_number = matches!(attribute.last(), Some(&("scale" | "replicas")));
            if is_number && member.service.replicas() == leader.service.replicas() {
                continue;
            }
            let (own, of_leader) = (context.node(&member.path(attribute)), context.node(&leader.path(attribute)));
            if own.is_some_and(|own| !says_nothing(own) && !of_leader.is_some_and(|of_leader| is_same(own, of_leader))) {
                lost(context, &member.path(attribute), attribute[attribute.len() - 1], leader);
            }
        }
        for label in LABELS {
            let own = member.label(label);
            if own.is_some() && own != leader.label(label) {
                let name = format!("{}{label}", kompose::PREFIX);
                lost(context, &member.path(&["labels", &name]), &name, leader);
            }
        }
        if pod.kind.ends() {
            restart(context, pod, member);
        }
        networks(context, member, leader);
        if member.job.is_some_and(Job::is_scheduled) {
            lost(context, &member.path(&["triggers"]), "triggers", leader);
        }
    }
}

fn lost(context: &Context<'_>, path: &[&str], name: &str, leader: &Workload<'_>) {
    let message = format!("`{name}` is left out: the container is in the Pod of `{}`, which has one for all", leader.name);
    context.warn(path, message, format!("write it at `{}`", leader.name));
}

/// All containers of a Pod that ends are started again, or none.
fn restart(context: &Context<'_>, pod: &Pod<'_, '_>, member: &Workload<'_>) {
    let leader = pod.leader();
    for attribute in [&["restart"][..], &["deploy", "restart_policy", "condition"]] {
        let (own, of_leader) = (context.node(&member.path(attribute)), context.node(&leader.path(attribute)));
        if own.is_some_and(|own| !of_leader.is_some_and(|of_leader| is_same(own, of_leader))) {
            lost(context, &member.path(attribute), attribute[attribute.len() - 1], leader);
        }
    }
}

/// The containers of a Pod have one network. One that joins another's network in Compose says nothing else.
fn networks(context: &Context<'_>, member: &Workload<'_>, leader: &Workload<'_>) {
    let is_written = context.node(&member.path(&["networks"])).is_some_and(|node| !says_nothing(node));
    let own: Vec<&String> = member.service.networks.keys().collect();
    if is_written && !leader.service.networks.keys().eq(own.iter().copied()) {
        let message = format!(
            "the container is in the Pod of `{}`, with which it shares its network: it is on the networks of both",
            leader.name
        );
        context.warn(&member.path(&["networks"]), message, "");
    }
}

fn says_nothing(node: &Node) -> bool {
    match &node.value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => false,
    }
}

/// Equal wherever they are written.
fn is_same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| is_same(&a.node, &b.node)))
        }
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
        (a, b) => a == b,
    }
}
