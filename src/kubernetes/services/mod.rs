//! Services: the names by which Pods find each other, and the ports that are published.
//!
//! In Compose every port of a service is in reach under its name, declared or not. A service that declares ports (`ports`, `expose`) has a Service with a
//! cluster address and these ports, as they are in the container; one that declares none has a headless Service, whose name is the
//! Pods' own addresses. Published ports are Services of their own, since their numbers are others: `"8080:80"` is 80 inside.

mod ingress;
mod ports;

pub use ports::{container_ports, first_tcp};

use super::context::Context;
use super::labels::{Labels, metadata, of_workload, selector, some};
use super::object::Made;
use super::workload::{Kind, Pod, Pods, Workload};
use super::{kompose, names, pod};
use crate::compose::model::{Condition, NamespaceMode, Port};
use crate::units::Protocol;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use std::collections::{BTreeMap, BTreeSet};

/// A Service's address where it has none.
const HEADLESS: &str = "None";

pub fn services(context: &Context<'_>, pods: &Pods<'_, '_>, made: &mut Vec<Made>) {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let is_alone = pods.iter().map(|pod| pod.members.len()).sum::<usize>() < 2;
    let mut aliases: Vec<(String, Vec<String>, &Pod<'_, '_>, &Workload<'_>)> = Vec::new();
    for pod in pods.iter().filter(|pod| !pod.kind.ends()) {
        for member in pod.members.iter().filter(|member| has_name(member)) {
            let main = main(context, pod, member);
            let is_needed =
                !is_alone || main.spec.as_ref().is_some_and(|spec| spec.ports.is_some()) || pod.kind == Kind::StatefulSet;
            if is_needed {
                taken.insert(member.object.clone());
                made.push(Made::new(main, member.at));
            }
            made.extend(published(context, pod, member));
            made.extend(ingress::ingress(context, member));
            if is_needed {
                aliases.extend(names_of(member).into_iter().map(|(name, path)| (name, path, pod, *member)));
            }
        }
    }
    links(pods, &mut aliases);
    for (name, path, pod, member) in aliases {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let lower = name.to_lowercase();
        if lower == member.object {
            continue;
        }
        if !names::is_service(&lower) {
            let message =
                format!("`{}` can be no Service's name: nobody finds `{}` by it", super::labels::shortened(&name), member.name);
            context.warn(&path, message, "a name of one part, of lower-case letters, digits and `-`, 63 at most, can");
        } else if taken.insert(lower.clone()) {
            let mut alias = main(context, pod, member);
            alias.metadata.name = Some(lower);
            made.push(Made::new(alias, context.place(&path)));
        } else {
            context.warn(&path, format!("`{lower}` is the name of another service already: this one is left out"), "");
        }
    }
}

/// A service that joins another's network has no name of its own, and one without a network nobody can ask for.
fn has_name(workload: &Workload<'_>) -> bool {
    match &workload.service.network_mode {
        Some(NamespaceMode::Service(_) | NamespaceMode::Container(_)) => false,
        Some(NamespaceMode::Named(name)) => name != "none",
        _ => true,
    }
}

/// Other names under which others of its networks find a service, and where they are written.
fn names_of(workload: &Workload<'_>) -> Vec<(String, Vec<String>)> {
    let owned = |path: &[&str]| path.iter().map(|step| (*step).to_string()).collect::<Vec<_>>();
    let mut all = Vec::new();
    for (network, of_network) in &workload.service.networks {
        let aliases = of_network.iter().flat_map(|network| &network.aliases);
        all.extend(aliases.map(|alias| (alias.clone(), owned(&workload.path(&["networks", network, "aliases"])))));
    }
    if let Some(name) = &workload.service.container_name {
        all.push((name.clone(), owned(&workload.path(&["container_name"]))));
    }
    all
}

/// `links: [db:database]`: a name that Compose has for one container alone, and Kubernetes for all.
fn links<'p, 'a, 'w>(pods: &'p Pods<'a, 'w>, aliases: &mut Vec<(String, Vec<String>, &'p Pod<'a, 'w>, &'p Workload<'a>)>) {
    for member in pods.iter().flat_map(|pod| &pod.members) {
        for (n, link) in member.service.links.iter().enumerate() {
            let Some((service, alias)) = link.split_once(':') else { continue };
            let Some((pod, target)) = pods.find(service) else { continue };
            let path = member.path(&["links"]).iter().map(|step| (*step).to_string()).chain([n.to_string()]).collect();
            if !aliases.iter().any(|(known, _, _, of)| known == alias && of.name == target.name) {
                aliases.push((alias.to_string(), path, pod, target));
            }
        }
    }
}

fn is_type(workload: &Workload<'_>, wanted: &str) -> bool {
    workload.label("service.type").is_some_and(|kind| kind.eq_ignore_ascii_case(wanted))
}

/// Whether its name is that of the Pods themselves.
pub fn is_headless(workload: &Workload<'_>) -> bool {
    is_type(workload, "headless") || ports::declared(workload).is_empty()
}

/// The Service under the service's own name.
fn main(context: &Context<'_>, pod: &Pod<'_, '_>, workload: &Workload<'_>) -> Service {
    let ports: Vec<ServicePort> = ports::declared(workload).into_iter().map(|port| port.of_service(port.target)).collect();
    service(
        context,
        pod,
        workload,
        &workload.object,
        ServiceSpec { cluster_ip: is_headless(workload).then(|| HEADLESS.into()), ports: some(ports), ..ServiceSpec::default() },
    )
}

fn service(context: &Context<'_>, pod: &Pod<'_, '_>, workload: &Workload<'_>, name: &str, spec: ServiceSpec) -> Service {
    let labels: Labels = of_workload(context, workload);
    Service {
        metadata: metadata(context, name, labels),
        spec: Some(ServiceSpec { selector: Some(selector(context, pod)), ..spec }),
        status: None,
    }
}

/// A published port that others than this machine's own reach.
fn is_public(port: &Port) -> bool {
    let is_loopback = |text: &str| text.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    port.mode.as_deref() != Some("host") && !port.host_ip.as_deref().is_some_and(is_loopback)
}

/// The Services of published ports, one for each protocol: not every balancer has several.
fn published(context: &Context<'_>, pod: &Pod<'_, '_>, workload: &Workload<'_>) -> Vec<Made> {
    let mut by_protocol: BTreeMap<&'static str, Vec<ServicePort>> = BTreeMap::new();
    for (n, port) in workload.service.ports.iter().enumerate() {
        let index = n.to_string();
        let path = workload.path(&["ports", &index]);
        if !is_public(port) {
            if port.mode.as_deref() != Some("host") {
                let message =
                    format!("port {} is published to this machine alone: in a cluster it is not published", port.target);
                context.warn(
                    &path,
                    message,
                    format!("`kubectl port-forward service/{} {}` reaches it", workload.object, port.target),
                );
            }
            continue;
        }
        if port.host_ip.as_deref().is_some_and(|address| !matches!(address, "" | "0.0.0.0" | "::")) {
            context.warn(&path, "a balancer has addresses of its own: `host_ip` is left out", "");
        }
        let declared = ports::Declared::of(port);
        let list = by_protocol.entry(port.protocol.as_str()).or_default();
        let number = ports::number(port).unwrap_or_else(|| {
            let number = ports::free(workload, port, list);
            // One of several, or any: the balancer has the container's own.
            if let Some(range) = port.published.as_deref().filter(|text| !matches!(*text, "" | "0")) {
                let message = format!("a balancer takes no one of {range}: it has port {number}");
                context.warn(&path, message, "write one number");
            }
            number
        });
        let made = declared.of_service(number);
        if !list.contains(&made) {
            list.push(made);
        }
    }
    let (node_port, kind) = (node_port(context, workload), kind(context, workload));
    let Some(kind) = kind else { return Vec::new() };
    let policy = workload.label("service.external-traffic-policy").map(|policy| match policy.to_ascii_lowercase().as_str() {
        "local" => "Local".to_string(),
        _ => "Cluster".to_string(),
    });
    let services = by_protocol.into_iter().map(|(protocol, mut list)| {
        ports::unique_names(&mut list);
        if let Some(first) = list.first_mut().filter(|_| kind == "NodePort") {
            first.node_port = node_port;
        }
        let suffix = if protocol == Protocol::Tcp.as_str() { String::new() } else { format!("-{protocol}") };
        let name = names::dns(&format!("{}-published{suffix}", workload.object));
        let spec = ServiceSpec {
            type_: Some(kind.into()),
            ports: Some(list),
            external_traffic_policy: policy.clone(),
            ..ServiceSpec::default()
        };
        Made::new(service(context, pod, workload, &name, spec), context.place(&workload.path(&["ports"])))
    });
    services.collect()
}

fn node_port(context: &Context<'_>, workload: &Workload<'_>) -> Option<i32> {
    kompose::parsed(
        context,
        &workload.path(&[]),
        workload.service,
        "service.nodeport.port",
        "a port of nodes, by default 30000 to 32767",
    )
}

/// The type of the Service of published ports; `None` where a label says that they are not published.
fn kind(context: &Context<'_>, workload: &Workload<'_>) -> Option<&'static str> {
    match workload.label("service.type").map(str::to_ascii_lowercase).as_deref() {
        None | Some("loadbalancer") => Some("LoadBalancer"),
        Some("nodeport") => Some("NodePort"),
        Some("clusterip" | "headless") => None,
        Some(other) => {
            let path = workload.path(&["labels", "kompose.service.type"]);
            context.refuse(
                &path,
                format!("`{other}` is no type of a Service"),
                "write nodeport, clusterip, loadbalancer or headless",
            );
            None
        }
    }
}

/// The name that exists when a condition of a service is met: of a Service that has an address while the Pod is not ready yet, where being started
/// suffices.
pub fn awaited(context: &Context<'_>, target: &Workload<'_>, pod: &Pod<'_, '_>, condition: Condition) -> String {
    // In another's network it is found by that one's name.
    let named = if has_name(target) { target } else { pod.leader() };
    let has_readiness = pod.members.iter().any(|member| member.service.healthcheck.is_some());
    if condition == Condition::ServiceHealthy || (is_headless(named) && !has_readiness) {
        return named.object.clone();
    }
    let name = names::dns(&format!("{}-started", named.object));
    let spec =
        ServiceSpec { cluster_ip: Some(HEADLESS.into()), publish_not_ready_addresses: Some(true), ..ServiceSpec::default() };
    context.share(Made::new(service(context, pod, named, &name, spec), named.at));
    name
}

/// Whether anybody outside of the cluster may come in, and to which ports.
pub fn public_ports(context: &Context<'_>, workload: &Workload<'_>) -> Vec<(u16, Protocol)> {
    let is_exposed = workload.label("service.expose").is_some();
    let by_host = pod::has_host_ports(context, workload);
    let ports = workload.service.ports.iter().filter(|port| is_exposed || by_host || is_public(port));
    let of_ports = ports.map(|port| (port.target, port.protocol));
    let exposed = ports::declared(workload).into_iter().map(|port| (port.target, port.protocol)).filter(|_| is_exposed);
    let all: BTreeSet<(u16, &str)> = of_ports.chain(exposed).map(|(port, protocol)| (port, protocol.as_str())).collect();
    all.into_iter().filter_map(|(port, protocol)| Some((port, protocol.parse().ok()?))).collect()
}
