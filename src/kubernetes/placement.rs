//! The nodes on which a Pod may run: `deploy.placement` and `platform`.

use super::context::Context;
use super::labels::{label_selector, selector, shortened, some};
use super::workload::{Pod, Workload};
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
            platform_of(context, member, platform, spec);
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

/// `OS[/ARCHITECTURE[/VARIANT]]`, or one of the two (containerd's platforms package). Nodes have no label for a variant.
fn platform_of(context: &Context<'_>, member: &Workload<'_>, platform: &str, spec: &mut PodSpec) {
    let path = member.path(&["platform"]);
    let lower = platform.to_ascii_lowercase();
    let mut words = lower.split('/');
    let first = words.next().unwrap_or_default();
    let (os, architecture) = match (words.next(), is_os(first)) {
        (Some(architecture), _) => (first, Some(architecture)),
        (None, true) => (first, None),
        (None, false) => ("linux", Some(first)),
    };
    let os = if os == "macos" { "darwin" } else { os };
    let architecture = architecture.map(architecture_of);
    if ![Some(os), architecture].into_iter().flatten().all(|word| !word.is_empty() && super::names::is_label_value(word)) {
        context.refuse(&path, format!("`{}` is no platform", shortened(platform)), "write it as `linux/amd64`");
        return;
    }
    let selector = spec.node_selector.get_or_insert_default();
    for (label, value) in [(OS, Some(os)), (ARCH, architecture)] {
        let Some(value) = value else { continue };
        if selector.insert(label.into(), value.into()).is_some_and(|other| other != value) {
            context.refuse(&path, "containers of one Pod are on one node, and another one has another platform", "");
        }
    }
}

/// The systems that containerd knows by a word alone.
fn is_os(word: &str) -> bool {
    matches!(
        word,
        "linux"
            | "windows"
            | "darwin"
            | "macos"
            | "freebsd"
            | "netbsd"
            | "openbsd"
            | "dragonfly"
            | "solaris"
            | "illumos"
            | "aix"
            | "plan9"
            | "android"
            | "ios"
            | "js"
            | "wasip1"
    )
}

/// An architecture in Go's words, which are those of nodes.
fn architecture_of(word: &str) -> &str {
    match word {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" => "386",
        "armhf" | "armel" => "arm",
        _ => word,
    }
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
    let value = if name == "node.platform.arch" { architecture_of(value) } else { value };
    let Some(key) = topology(name).filter(|_| super::names::is_label_value(value)) else {
        let help = "label the nodes, and write `node.labels.NAME==VALUE`";
        context.warn(path, format!("nodes of Kubernetes cannot be chosen by `{constraint}`: it is left out"), help);
        return None;
    };
    let operator = if is_equal { "In" } else { "NotIn" };
    Some(NodeSelectorRequirement { key, operator: operator.into(), values: Some(vec![value.into()]) })
}
