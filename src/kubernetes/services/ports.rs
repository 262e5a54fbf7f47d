//! The ports of a service: those that it publishes and those that it exposes.

use super::super::context::Context;
use super::super::workload::Workload;
use super::super::{names, pod};
use crate::compose::model::Port;
use crate::units::{ContainerPort as Exposed, Protocol};
use k8s_openapi::api::core::v1::{ContainerPort, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::HashSet;

/// A port inside the container.
#[derive(Clone, Debug)]
pub struct Declared {
    pub target: u16,
    pub protocol: Protocol,
    pub name: String,
    app_protocol: Option<String>,
}

impl Declared {
    pub fn of(port: &Port) -> Self {
        let given = port.name.as_deref().filter(|name| !name.is_empty()).map(names::port);
        Declared {
            target: port.target,
            protocol: port.protocol,
            name: given.unwrap_or_else(|| default_name(port.target, port.protocol)),
            app_protocol: port.app_protocol.clone(),
        }
    }

    pub fn of_service(&self, port: u16) -> ServicePort {
        ServicePort {
            name: Some(self.name.clone()),
            port: port.into(),
            // The same number is what it is by default.
            target_port: (port != self.target).then(|| IntOrString::Int(self.target.into())),
            protocol: Some(upper(self.protocol)),
            app_protocol: self.app_protocol.clone(),
            node_port: None,
        }
    }
}

/// The one number that a port is published by.
pub fn number(port: &Port) -> Option<u16> {
    port.published.as_deref().and_then(|text| text.parse::<u16>().ok()).filter(|number| *number > 0)
}

/// The number of a port that has none in the file: the container's own, or the next that no other is published by.
pub fn free(workload: &Workload<'_>, port: &Port, made: &[ServicePort]) -> u16 {
    let same: Vec<&Port> = workload.service.ports.iter().filter(|other| other.protocol == port.protocol).collect();
    // A port that is written twice is one.
    let of_others = same.iter().filter(|other| other.target != port.target || number(other).is_some());
    let taken: HashSet<u16> = of_others
        .filter_map(|other| number(other))
        .chain(made.iter().filter(|made| made.target_port.is_some()).filter_map(|made| u16::try_from(made.port).ok()))
        .collect();
    (port.target..=u16::MAX).chain(1..port.target).find(|number| !taken.contains(number)).unwrap_or(port.target)
}

fn default_name(port: u16, protocol: Protocol) -> String {
    format!("{protocol}-{port}")
}

fn upper(protocol: Protocol) -> String {
    protocol.as_str().to_ascii_uppercase()
}

/// Each port once, in the order of the file; `ports` before `expose`.
pub fn declared(workload: &Workload<'_>) -> Vec<Declared> {
    let mut seen = HashSet::new();
    let mut used = HashSet::new();
    let mut all: Vec<Declared> = Vec::new();
    let published = workload.service.ports.iter().map(Declared::of);
    for mut port in published.chain(workload.service.expose.iter().flat_map(|text| exposed(text))) {
        if !seen.insert((port.target, port.protocol)) {
            continue;
        }
        if !used.insert(port.name.clone()) {
            port.name = default_name(port.target, port.protocol);
            used.insert(port.name.clone());
        }
        all.push(port);
    }
    all
}

/// `PORT[-PORT][/PROTOCOL]`.
fn exposed(text: &str) -> Vec<Declared> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let parsed = |port: &str| format!("{port}/{protocol}").parse::<Exposed>().ok();
    let (Some(first), Some(last)) = (parsed(first), parsed(last)) else { return Vec::new() };
    let ports = (first.port..=last.port).filter(|port| *port > 0);
    ports
        .map(|target| Declared {
            target,
            protocol: first.protocol,
            name: default_name(target, first.protocol),
            app_protocol: None,
        })
        .collect()
}

pub fn container_ports(context: &Context<'_>, workload: &Workload<'_>) -> Vec<ContainerPort> {
    let on_node = pod::has_host_ports(context, workload);
    let host_port = |port: &Declared| {
        let given = workload.service.ports.iter().find(|given| given.target == port.target && given.protocol == port.protocol)?;
        let published = given.published.as_deref().and_then(|text| text.parse::<u16>().ok()).filter(|port| *port > 0);
        let is_wanted = given.mode.as_deref() == Some("host") || workload.label("controller.port.expose") == Some("true");
        is_wanted.then(|| i32::from(published.unwrap_or(given.target)))
    };
    let ports = declared(workload).into_iter().map(|port| ContainerPort {
        host_port: on_node.then(|| host_port(&port)).flatten(),
        container_port: port.target.into(),
        // TCP is what it is by default.
        protocol: (port.protocol != Protocol::Tcp).then(|| upper(port.protocol)),
        name: Some(port.name),
        host_ip: None,
    });
    ports.collect()
}

/// The first port that a connection can be made to.
pub fn first_tcp(workload: &Workload<'_>) -> Option<u16> {
    declared(workload).into_iter().find(|port| port.protocol == Protocol::Tcp).map(|port| port.target)
}

/// Two published ports of one container port have two names.
pub fn unique_names(ports: &mut [ServicePort]) {
    let mut used: HashSet<String> = HashSet::new();
    for port in ports {
        let name = port.name.clone().unwrap_or_default();
        if !used.insert(name) {
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
            let name = names::port(&format!("{protocol}-{}-out", port.port));
            used.insert(name.clone());
            port.name = Some(name);
        }
    }
}
