//! What an API server would refuse in the objects, refused before: with the place in the Compose file.

use super::context::Context;
use super::labels::shortened;
use super::object::{Made, Object};
use super::quantity;
use super::{limits, names};
use crate::compose::node::At;
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec, Probe, ServicePort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The most that a ConfigMap or a Secret holds.
const LARGEST: usize = 1 << 20;
/// The most of all annotations of an object.
const ANNOTATIONS: usize = 256 << 10;
/// The most of an object that a server takes, as it is stored.
const OBJECT: usize = 1536 << 10;

pub fn judge(context: &Context<'_>, objects: &[Made]) {
    let mut names: BTreeMap<(&str, &str), At> = BTreeMap::new();
    for made in objects {
        let rules = Rules { context, made };
        let key = (made.object.kind(), made.object.name());
        if let Some(other) = names.insert(key, made.at) {
            context.refuse_twice(made, &other);
        }
        rules.object();
    }
}

struct Rules<'c, 'a> {
    context: &'c Context<'a>,
    made: &'c Made,
}

impl Rules<'_, '_> {
    fn refuse(&self, message: impl Into<String>, help: &str) {
        self.context.refuse_at(&self.made.at, message, help);
    }

    fn wrong(&self, why: impl std::fmt::Display) {
        let object = &self.made.object;
        self.refuse(format!("Kubernetes would refuse the {} `{}`: {why}", object.kind(), object.name()), "");
    }

    fn object(&self) {
        let object = &self.made.object;
        let longest_name = if matches!(object, Object::Service(_)) { names::is_service } else { names::is_subdomain };
        if !longest_name(object.name()) {
            self.wrong(format_args!("`{}` is no name", shortened(object.name())));
        }
        let annotations = object.metadata().annotations.iter().flatten().map(|(key, value)| key.len() + value.len());
        if annotations.sum::<usize>() > ANNOTATIONS {
            self.wrong("its annotations are more than 256 KiB");
        }
        if let Some(namespace) = &object.metadata().namespace
            && !names::is_dns_label(namespace)
        {
            self.wrong(format_args!("`{}` is no namespace", shortened(namespace)));
        }
        match object {
            Object::ConfigMap(map) => {
                let texts = map.data.iter().flatten().map(|(key, value)| (key, value.len()));
                let binaries = map.binary_data.iter().flatten().map(|(key, value)| (key, value.0.len()));
                self.sized(texts.chain(binaries));
            }
            Object::Secret(secret) => {
                let texts = secret.string_data.iter().flatten().map(|(key, value)| (key, value.len()));
                let binaries = secret.data.iter().flatten().map(|(key, value)| (key, value.0.len()));
                self.sized(texts.chain(binaries));
            }
            Object::Service(service) => {
                let spec = service.spec.clone().unwrap_or_default();
                let ports = spec.ports.unwrap_or_default();
                if ports.is_empty() && spec.cluster_ip.as_deref() != Some("None") {
                    self.wrong("a Service has at least one port, or no address");
                }
                self.service_ports(&ports);
            }
            Object::Deployment(object) => {
                self.selected(object.spec.as_ref().map(|spec| (&spec.selector, &spec.template)), &["Always"])
            }
            Object::StatefulSet(object) => {
                self.selected(object.spec.as_ref().map(|spec| (&spec.selector, &spec.template)), &["Always"])
            }
            Object::DaemonSet(object) => {
                self.selected(object.spec.as_ref().map(|spec| (&spec.selector, &spec.template)), &["Always"])
            }
            Object::Job(object) => self.template(object.spec.as_ref().map(|spec| &spec.template), &["Never", "OnFailure"]),
            Object::CronJob(_) => {
                if object.name().len() > 52 {
                    self.wrong("the name of a CronJob has 52 characters at most");
                }
                self.template(object.template(), &["Never", "OnFailure"]);
            }
            _ => {}
        }
        limits::of(object).into_iter().for_each(|why| self.wrong(why));
        if object.template().is_some() && object.to_json().to_string().len() > OBJECT {
            self.wrong("it is larger than 1.5 MiB");
        }
    }

    fn sized<'k>(&self, entries: impl Iterator<Item = (&'k String, usize)>) {
        let mut size = 0;
        for (key, length) in entries {
            size += key.len() + length;
            if !names::is_key(key) {
                self.wrong(format_args!("`{}` is no key", shortened(key)));
            }
        }
        if size > LARGEST {
            self.wrong(format_args!("it has {size} bytes, and 1 MiB is the most"));
        }
    }

    fn service_ports(&self, ports: &[ServicePort]) {
        let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
        for port in ports {
            let name = port.name.as_deref().unwrap_or_default();
            if !is_port_name(name) || !names.insert(name) {
                self.wrong(format_args!("the name `{}` of port {} is wrong or used twice", shortened(name), port.port));
            }
            if !numbers.insert((port.port, port.protocol.as_deref())) {
                self.wrong(format_args!("port {} is there twice", port.port));
            }
            if !(1..=65535).contains(&port.port) {
                self.wrong(format_args!("{} is no port", port.port));
            }
        }
    }

    /// The selector of a controller selects what its template makes.
    fn selected(&self, spec: Option<(&LabelSelector, &PodTemplateSpec)>, restarts: &[&str]) {
        let Some((selector, template)) = spec else { return };
        let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
        let selects = |(key, value): (&String, &String)| labels.is_some_and(|labels| labels.get(key) == Some(value));
        if selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty) || !selector.match_labels.iter().flatten().all(selects) {
            self.wrong("its selector does not select its Pods");
        }
        self.template(Some(template), restarts);
    }

    fn template(&self, template: Option<&PodTemplateSpec>, restarts: &[&str]) {
        let Some(spec) = template.and_then(|template| template.spec.as_ref()) else { return };
        if !restarts.contains(&spec.restart_policy.as_deref().unwrap_or("Always")) {
            self.wrong(format_args!("its `restartPolicy` has to be {}", restarts.join(" or ")));
        }
        let mut volumes = BTreeSet::new();
        for volume in spec.volumes.iter().flatten() {
            if !names::is_dns_label(&volume.name) || !volumes.insert(volume.name.as_str()) {
                self.wrong(format_args!("the volume `{}` is there twice, or has a wrong name", shortened(&volume.name)));
            }
        }
        let mut named = HashSet::new();
        let mut host_ports = HashSet::new();
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            if !names::is_dns_label(&container.name) || !named.insert(container.name.as_str()) {
                self.wrong(format_args!("the container `{}` is there twice, or has a wrong name", shortened(&container.name)));
            }
            self.container(container, &volumes);
            for port in container.ports.iter().flatten() {
                if port.host_port.is_some_and(|number| !host_ports.insert((number, port.protocol.clone()))) {
                    self.wrong(format_args!("the node's port {} is taken twice", port.host_port.unwrap_or_default()));
                }
            }
        }
        let security = spec.security_context.clone().unwrap_or_default();
        for sysctl in security.sysctls.iter().flatten() {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
            if sysctl.name.is_empty() || !sysctl.name.chars().all(allowed) || sysctl.name.chars().any(|c| c.is_ascii_uppercase())
            {
                self.wrong(format_args!("`{}` is no sysctl", shortened(&sysctl.name)));
            }
        }
    }

    fn container(&self, container: &Container, volumes: &BTreeSet<&str>) {
        let name = &container.name;
        if container.image.as_deref().unwrap_or_default().trim().is_empty()
            || container.image.as_deref() != container.image.as_deref().map(str::trim)
        {
            self.wrong(format_args!("the container `{name}` has no image, or one with spaces around it"));
        }
        let mut paths = HashSet::new();
        for mount in container.volume_mounts.iter().flatten() {
            if !volumes.contains(mount.name.as_str()) {
                self.wrong(format_args!("`{name}` mounts the volume `{}`, which the Pod does not have", mount.name));
            }
            if mount.mount_path.is_empty() || mount.mount_path.contains(':') || !paths.insert(mount.mount_path.as_str()) {
                self.wrong(format_args!(
                    "`{name}` mounts something at `{}` twice, or the path is wrong",
                    shortened(&mount.mount_path)
                ));
            }
            if mount.sub_path.as_ref().is_some_and(|path| path.starts_with('/') || path.split('/').any(|part| part == "..")) {
                self.wrong(format_args!("`{name}` mounts a part of a volume by a path that leads out of it"));
            }
        }
        let mut variables = HashSet::new();
        for variable in container.env.iter().flatten() {
            if !variables.insert(variable.name.as_str()) {
                self.wrong(format_args!("`{name}` has the variable `{}` twice", variable.name));
            }
        }
        let (mut port_names, mut numbers) = (HashSet::new(), HashSet::new());
        for port in container.ports.iter().flatten() {
            let port_name = port.name.as_deref().unwrap_or_default();
            if !is_port_name(port_name)
                || !port_names.insert(port_name)
                || !numbers.insert((port.container_port, port.protocol.clone()))
            {
                self.wrong(format_args!(
                    "`{name}` has port {} twice, or its name `{}` is wrong",
                    port.container_port,
                    shortened(port_name)
                ));
            }
        }
        for probe in [&container.startup_probe, &container.liveness_probe, &container.readiness_probe].into_iter().flatten() {
            self.probe(name, probe);
        }
        self.resources(container);
        self.security(container);
    }

    fn probe(&self, name: &str, probe: &Probe) {
        let least_one = [probe.period_seconds, probe.timeout_seconds, probe.failure_threshold];
        if least_one.into_iter().flatten().any(|number| number < 1) || probe.initial_delay_seconds.is_some_and(|delay| delay < 0)
        {
            self.wrong(format_args!("times and failures of a probe of `{name}` are at least 1"));
        }
        let actions = [probe.exec.is_some(), probe.http_get.is_some(), probe.tcp_socket.is_some()];
        if actions.into_iter().filter(|there| *there).count() != 1 {
            self.wrong(format_args!("a probe of `{name}` has to do one thing"));
        }
        if probe.exec.as_ref().is_some_and(|exec| exec.command.as_ref().is_none_or(Vec::is_empty)) {
            self.wrong(format_args!("a probe of `{name}` has no command"));
        }
    }

    fn resources(&self, container: &Container) {
        let Some(resources) = &container.resources else { return };
        let empty = BTreeMap::new();
        let (limits, requests) = (resources.limits.as_ref().unwrap_or(&empty), resources.requests.as_ref().unwrap_or(&empty));
        for (name, quantity) in limits.iter().chain(requests) {
            if quantity::value(quantity).is_none_or(|value| value < 0.0) {
                self.wrong(format_args!("`{}` is no quantity of {name}", shortened(&quantity.0)));
            }
        }
        for (name, request) in requests {
            let limit = limits.get(name).and_then(quantity::value);
            if let (Some(limit), Some(request)) = (limit, quantity::value(request))
                && request > limit
            {
                self.refuse(
                    format!("`{}` reserves more {name} than its limit allows", container.name),
                    "make the limit at least as large as the reservation",
                );
            }
        }
    }

    fn security(&self, container: &Container) {
        let Some(security) = &container.security_context else { return };
        let added = security.capabilities.iter().flat_map(|capabilities| capabilities.add.iter().flatten());
        let has_admin = added.into_iter().any(|capability| matches!(capability.as_str(), "SYS_ADMIN" | "CAP_SYS_ADMIN"));
        if security.allow_privilege_escalation == Some(false) && (security.privileged == Some(true) || has_admin) {
            let help = "leave out one of the two";
            self.refuse(
                format!("`{}` cannot have `no-new-privileges` and be privileged, or have SYS_ADMIN", container.name),
                help,
            );
        }
    }
}

/// A name of IANA's form.
fn is_port_name(name: &str) -> bool {
    names::is_dns_label(name) && name.len() <= 15 && !name.contains("--") && name.bytes().any(|c| c.is_ascii_lowercase())
}
