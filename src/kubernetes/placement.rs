//! The nodes on which a Pod may run: `deploy.placement` and `platform`.

use super::context::Context;
use super::labels::{label_selector, selector, some};
use super::workload::Pod;
use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodAntiAffinity, PodSpec,
    TopologySpreadConstraint,
};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ARCH: &str = "kubernetes.io/arch";
const OS: &str = "kubernetes.io/os";
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

pub fn place(context: &Context<'_>, pod: &Pod<'_, '_>, spec: &mut PodSpec) {
    let mut requirements: Vec<NodeSelectorRequirement> = Vec::new();
    for member in &pod.members {
        if let Some(platform) = member.service.platform.as_deref().filter(|platform| !platform.is_empty()) {
            let mut words = platform.split('/');
            let selector = spec.node_selector.get_or_insert_default();
            selector.insert(OS.into(), words.next().unwrap_or_default().to_string());
            if let Some(arch) = words.next() {
                selector.insert(ARCH.into(), arch.into());
            }
        }
        let Some(deploy) = &member.service.deploy else { continue };
        for (n, constraint) in deploy.placement.constraints.iter().enumerate() {
            let index = n.to_string();
            let path = member.path(&["deploy", "placement", "constraints", &index]);
            requirements.extend(requirement(context, &path, constraint));
        }
        for (n, preference) in deploy.placement.preferences.iter().enumerate() {
            let spread = preference["spread"].as_str().unwrap_or_default();
            match topology(spread) {
                Some(topology_key) => spec.topology_spread_constraints.get_or_insert_default().push(TopologySpreadConstraint {
                    max_skew: 1,
                    topology_key,
                    when_unsatisfiable: "ScheduleAnyway".into(),
                    label_selector: Some(label_selector(selector(context, pod))),
                    ..TopologySpreadConstraint::default()
                }),
                None => {
                    let index = n.to_string();
                    let path = member.path(&["deploy", "placement", "preferences", &index]);
                    context.warn(
                        &path,
                        format!("nodes of Kubernetes have no `{spread}`: the preference is left out"),
                        "write `spread: node.labels.NAME`",
                    );
                }
            }
        }
    }
    let mut affinity = Affinity::default();
    if let Some(requirements) = some(requirements) {
        let term = NodeSelectorTerm { match_expressions: Some(requirements), match_fields: None };
        affinity.node_affinity = Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector { node_selector_terms: vec![term] }),
            preferred_during_scheduling_ignored_during_execution: None,
        });
    }
    affinity.pod_anti_affinity = apart(context, pod);
    spec.affinity = (affinity != Affinity::default()).then_some(affinity);
}

/// `max_replicas_per_node: 1`. Kubernetes has no other number.
fn apart(context: &Context<'_>, pod: &Pod<'_, '_>) -> Option<PodAntiAffinity> {
    let most = pod.leader().service.deploy.as_ref()?.placement.max_replicas_per_node.filter(|most| *most > 0)?;
    if most > 1 {
        let path = pod.leader().path(&["deploy", "placement", "max_replicas_per_node"]);
        context.warn(&path, format!("Kubernetes keeps replicas apart, and does not count {most} on a node: it is left out"), "");
        return None;
    }
    let term = PodAffinityTerm {
        label_selector: Some(label_selector(selector(context, pod))),
        topology_key: HOSTNAME.into(),
        ..PodAffinityTerm::default()
    };
    Some(PodAntiAffinity {
        required_during_scheduling_ignored_during_execution: Some(vec![term]),
        preferred_during_scheduling_ignored_during_execution: None,
    })
}

/// The label of nodes for a name of Docker Swarm.
fn topology(name: &str) -> Option<String> {
    match name {
        "node.hostname" => Some(HOSTNAME.into()),
        "node.platform.os" => Some(OS.into()),
        "node.platform.arch" => Some(ARCH.into()),
        _ => name.strip_prefix("node.labels.").filter(|label| super::names::is_label_key(label)).map(str::to_string),
    }
}

fn requirement(context: &Context<'_>, path: &[&str], constraint: &str) -> Option<NodeSelectorRequirement> {
    let (name, value, is_equal) = match constraint.split_once("==") {
        Some((name, value)) => (name.trim(), value.trim(), true),
        None => {
            let (name, value) = constraint.split_once("!=").unwrap_or((constraint, ""));
            (name.trim(), value.trim(), false)
        }
    };
    if name == "node.role" && matches!(value, "manager" | "worker") {
        let exists = (value == "manager") == is_equal;
        let operator = if exists { "Exists" } else { "DoesNotExist" };
        return Some(NodeSelectorRequirement { key: CONTROL_PLANE.into(), operator: operator.into(), values: None });
    }
    // Swarm's `x86_64` is `amd64` here.
    let value = match (name, value) {
        ("node.platform.arch", "x86_64") => "amd64",
        ("node.platform.arch", "aarch64") => "arm64",
        _ => value,
    };
    let Some(key) = topology(name).filter(|_| super::names::is_label_value(value)) else {
        let help = "label the nodes, and write `node.labels.NAME==VALUE`";
        context.warn(path, format!("nodes of Kubernetes cannot be chosen by `{constraint}`: it is left out"), help);
        return None;
    };
    let operator = if is_equal { "In" } else { "NotIn" };
    Some(NodeSelectorRequirement { key, operator: operator.into(), values: Some(vec![value.into()]) })
}
