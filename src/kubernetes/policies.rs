//! Networks as NetworkPolicies: Pods that share no network cannot talk, and those of internal networks alone do not get out.
//!
//! Where every Pod shares a network with every other, and none is internal, there is nothing to separate and no policy.

use super::context::Context;
use super::labels::{self, Labels, label_selector, metadata, of_project, selector};
use super::names;
use super::object::Made;
use super::services;
use super::workload::{Pod, Pods};
use crate::compose::model::NamespaceMode;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeSet;

/// The networks of a Pod; none of one with `network_mode: none`.
fn networks<'p>(pod: &'p Pod<'_, '_>) -> BTreeSet<&'p str> {
    pod.members.iter().flat_map(|member| member.service.networks.keys().map(String::as_str)).collect()
}

fn is_cut_off(pod: &Pod<'_, '_>) -> bool {
    pod.leader().service.network_mode == Some(NamespaceMode::Named("none".into()))
}

/// Whether policies are of any use.
fn is_separated(context: &Context<'_>, pods: &Pods<'_, '_>) -> bool {
    *context.is_separated.get_or_init(|| {
        let mut common: Option<BTreeSet<&str>> = None;
        for pod in pods.iter().filter(|pod| pod.leader().service.network_mode.is_none()) {
            let own = networks(pod);
            common = Some(common.map_or(own.clone(), |common| &common & &own));
        }
        let is_split = common.is_some_and(|common| common.is_empty());
        let has_internal = context.project().networks.values().any(|network| network.internal);
        is_split || has_internal || pods.iter().any(is_cut_off)
    })
}

/// The labels of a Pod's networks.
pub fn labels(context: &Context<'_>, pod: &Pod<'_, '_>, pods: &Pods<'_, '_>) -> Labels {
    if !is_separated(context, pods) {
        return Labels::new();
    }
    networks(pod).into_iter().map(labels::network).collect()
}

pub fn policies(context: &Context<'_>, pods: &Pods<'_, '_>, made: &mut Vec<Made>) {
    if !is_separated(context, pods) {
        return;
    }
    let used: BTreeSet<&str> = pods.iter().flat_map(networks).collect();
    let mut taken = BTreeSet::new();
    for network in used {
        let name = names::dns(&format!("network-{network}"));
        if !taken.insert(name.clone()) {
            let message = format!("another network would be called `{name}` in Kubernetes as well");
            context.refuse(&["networks", network], message, "give one of them another name");
        }
        let from = NetworkPolicyPeer { pod_selector: Some(on(network)), ..NetworkPolicyPeer::default() };
        let spec = NetworkPolicySpec {
            pod_selector: Some(on(network)),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![NetworkPolicyIngressRule { from: Some(vec![from]), ports: None }]),
            egress: None,
        };
        made.push(Made::new(policy(context, &name, spec), context.place(&["networks", network])));
    }
    for pod in pods.iter() {
        of_pod(context, pod, made);
    }
}

/// Whether a Pod gets no further than its networks.
pub fn is_internal(context: &Context<'_>, pod: &Pod<'_, '_>) -> bool {
    let own = networks(pod);
    let is_internal = |name: &&str| context.project().networks.get(*name).is_some_and(|network| network.internal);
    !own.is_empty() && own.iter().all(is_internal)
}

fn on(network: &str) -> LabelSelector {
    label_selector([labels::network(network)].into())
}

fn of_pod(context: &Context<'_>, pod: &Pod<'_, '_>, made: &mut Vec<Made>) {
    let object = &pod.leader().object;
    let pods = Some(label_selector(selector(context, pod)));
    if is_cut_off(pod) {
        let spec = NetworkPolicySpec {
            pod_selector: pods,
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ..NetworkPolicySpec::default()
        };
        let at = context.place(&pod.leader().path(&["network_mode"]));
        made.push(Made::new(policy(context, &names::dns(&format!("{object}-no-network")), spec), at));
        return;
    }
    let public: Vec<_> = pod.members.iter().flat_map(|member| services::public_ports(context, member)).collect();
    if !public.is_empty() {
        let ports = public.into_iter().map(|(port, protocol)| self::port(port, &protocol.as_str().to_ascii_uppercase()));
        let spec = NetworkPolicySpec {
            pod_selector: pods.clone(),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![NetworkPolicyIngressRule { from: None, ports: Some(ports.collect()) }]),
            egress: None,
        };
        let at = context.place(&pod.leader().path(&["ports"]));
        made.push(Made::new(policy(context, &names::dns(&format!("{object}-published")), spec), at));
    }
    if !is_internal(context, pod) {
        return;
    }
    let own = networks(pod);
    let peers = own.iter().map(|network| NetworkPolicyPeer { pod_selector: Some(on(network)), ..NetworkPolicyPeer::default() });
    let names_alone = NetworkPolicyPeer { namespace_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    let spec = NetworkPolicySpec {
        pod_selector: pods,
        policy_types: Some(vec!["Egress".into()]),
        ingress: None,
        egress: Some(vec![
            NetworkPolicyEgressRule { to: Some(peers.collect()), ports: None },
            // Names are looked up in another namespace.
            NetworkPolicyEgressRule { to: Some(vec![names_alone]), ports: Some(vec![port(53, "UDP"), port(53, "TCP")]) },
        ]),
    };
    made.push(Made::new(
        policy(context, &names::dns(&format!("{object}-internal")), spec),
        context.place(&pod.leader().path(&["networks"])),
    ));
}

fn port(port: u16, protocol: &str) -> NetworkPolicyPort {
    NetworkPolicyPort { port: Some(IntOrString::Int(port.into())), protocol: Some(protocol.into()), end_port: None }
}

fn policy(context: &Context<'_>, name: &str, spec: NetworkPolicySpec) -> NetworkPolicy {
    NetworkPolicy { metadata: metadata(context, name, of_project(context)), spec: Some(spec) }
}
