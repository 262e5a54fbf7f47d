//! A Pod: its containers, and what is of all of them.

use super::container;
use super::context::Context;
use super::hooks;
use super::labels::{self, Labels, some};
use super::mounts::Mounts;
use super::placement;
use super::policies;
use super::security;
use super::waits;
use super::workload::{Kind, Pod, Pods, Workload};
use super::{kompose, members, names};
use crate::compose::model::{NamespaceMode, RestartCondition, RestartPolicy};
use k8s_openapi::api::core::v1::{HostAlias, LocalObjectReference, PodDNSConfig, PodDNSConfigOption, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The most name servers that a Pod may have.
const NAME_SERVERS: usize = 3;

pub fn template(context: &Context<'_>, pod: &Pod<'_, '_>, pods: &Pods<'_, '_>) -> PodTemplateSpec {
    let mut own = labels::of_workload(context, pod.leader());
    let mut annotations = Labels::new();
    own.extend(policies::labels(context, pod, pods));
    for member in &pod.members {
        labels::add(context, &member.path(&["labels"]), &member.service.labels, &mut own, &mut annotations);
        for (key, value) in &member.service.annotations {
            labels::annotate(context, &member.path(&["annotations"]), key, value, &mut annotations);
        }
    }
    // The labels by which the Pod is found are nobody's to change.
    own.extend(labels::selector(context, pod));
    let metadata = ObjectMeta { labels: Some(own), annotations: some(annotations), ..ObjectMeta::default() };
    PodTemplateSpec { metadata: Some(metadata), spec: Some(spec(context, pod, pods)) }
}

fn spec(context: &Context<'_>, pod: &Pod<'_, '_>, pods: &Pods<'_, '_>) -> PodSpec {
    let leader = pod.leader();
    let mut mounts = Mounts::default();
    let mut spec =
        PodSpec { service_account_name: leader.label("serviceaccount-name").map(str::to_string), ..PodSpec::default() };
    let mut init = Vec::new();
    for member in &pod.members {
        let own = waits::waits(context, pod, member, pods, &mut spec);
        init.extend(own.into_iter().filter(|wait| !init.contains(wait)).collect::<Vec<_>>());
    }
    for member in &pod.members {
        let prepare = hooks::init_containers(context, pod, member, &mut mounts);
        init.extend(prepare);
        spec.containers.push(container::container(context, member, !pod.kind.ends(), &mut mounts));
    }
    spec.init_containers = some(init);
    mounts.volumes.extend(spec.volumes.take().unwrap_or_default());
    spec.volumes = some(mounts.volumes);
    members::judge(context, pod);
    security::judge_owners(context, pod);
    spec.restart_policy = restart_policy(context, pod);
    spec.termination_grace_period_seconds = pod
        .members
        .iter()
        .filter_map(|member| member.service.stop_grace_period)
        .max()
        .map(|time| i64::try_from(time.seconds_up()).unwrap_or(i64::MAX));
    spec.security_context = security::pod(context, pod);
    spec.image_pull_secrets = leader.label("image-pull-secret").map(|name| vec![LocalObjectReference { name: name.into() }]);
    spec.runtime_class_name = leader.service.runtime.clone().filter(|runtime| !matches!(runtime.as_str(), "" | "runc"));
    namespaces(context, pod, &mut spec);
    network(context, pod, &mut spec);
    placement::place(context, pod, &mut spec);
    // Variables such as WEB_PORT_80_TCP, which Docker has left behind long ago, are nobody's wish.
    spec.enable_service_links = Some(false);
    spec
}

/// Pods of a Deployment and the like are always started again.
fn restart_policy(context: &Context<'_>, pod: &Pod<'_, '_>) -> Option<String> {
    let policies: Vec<Option<String>> = pod.members.iter().map(|member| policy_of(context, pod, member)).collect();
    policies.into_iter().next().flatten()
}

fn policy_of(context: &Context<'_>, pod: &Pod<'_, '_>, member: &Workload<'_>) -> Option<String> {
    let service = member.service;
    let condition = service.deploy.as_ref().and_then(|deploy| deploy.restart_policy.as_ref()?.condition);
    let is_never = match condition {
        Some(RestartCondition::None | RestartCondition::No) => true,
        Some(_) => false,
        None => matches!(service.restart, Some(RestartPolicy::No) | None),
    };
    if pod.kind.ends() {
        return Some(if is_never { "Never".into() } else { "OnFailure".into() });
    }
    let is_written = condition.is_some() || service.restart.is_some();
    let on_failure = condition == Some(RestartCondition::OnFailure)
        || matches!(service.restart, Some(RestartPolicy::OnFailure { .. }) if condition.is_none());
    if is_written && (is_never || on_failure) {
        let path =
            if condition.is_some() { member.path(&["deploy", "restart_policy", "condition"]) } else { member.path(&["restart"]) };
        let message = format!("Kubernetes always restarts the containers of a {:?}", pod.kind);
        context.warn(&path, message, "a service that ends is a Job: `x-kubernetes: {kind: Job}`");
    }
    None
}

fn namespaces(context: &Context<'_>, pod: &Pod<'_, '_>, spec: &mut PodSpec) {
    for member in &pod.members {
        let service = member.service;
        let is_host = |mode: &Option<NamespaceMode>| mode == &Some(NamespaceMode::Host);
        if security::is_on_host_network(pod) {
            spec.host_network = Some(true);
            spec.dns_policy = Some("ClusterFirstWithHostNet".into());
        }
        spec.host_pid = spec.host_pid.or(is_host(&service.pid).then_some(true));
        spec.host_ipc = spec.host_ipc.or(is_host(&service.ipc).then_some(true));
        for (attribute, mode) in [("network_mode", &service.network_mode), ("pid", &service.pid), ("ipc", &service.ipc)] {
            let path = member.path(&[attribute]);
            match mode {
                Some(NamespaceMode::Container(name)) => {
                    let message = format!(
                        "`container:{}` is a container of this machine, which a Pod cannot join",
                        labels::shortened(name)
                    );
                    context.refuse(&path, message, "make it a service, and write `service:NAME`");
                }
                Some(NamespaceMode::Service(name)) if attribute != "network_mode" => {
                    if attribute == "pid" {
                        spec.share_process_namespace = Some(true);
                    }
                    if service.network_mode.as_ref().and_then(NamespaceMode::service).is_some() {
                        continue;
                    }
                    context.warn(
                        &path,
                        format!("it is a container of the Pod of `{name}`, with which it shares its network, too"),
                        "",
                    );
                }
                Some(NamespaceMode::Named(name))
                    if attribute == "network_mode" && !matches!(name.as_str(), "none" | "bridge" | "default" | "nat" | "") =>
                {
                    context.warn(&path, format!("there is no network `{name}` in Kubernetes: the Pod is on the cluster's"), "");
                }
                _ => {}
            }
        }
    }
    if spec.host_pid == Some(true) {
        spec.share_process_namespace = None;
    }
}

fn network(context: &Context<'_>, pod: &Pod<'_, '_>, spec: &mut PodSpec) {
    let leader = pod.leader();
    if let Some(hostname) = leader.service.hostname.as_deref().filter(|hostname| !hostname.is_empty()) {
        let (first, rest) = hostname.split_once('.').unwrap_or((hostname, ""));
        let name = names::dns(first);
        if name != first || !rest.is_empty() {
            context.warn(
                &leader.path(&["hostname"]),
                format!("`{}` can be no Pod's host name: it is `{name}`", labels::shortened(hostname)),
                "",
            );
        }
        spec.hostname = Some(name);
    }
    if let Some(domain) = leader.service.domainname.as_deref().filter(|domain| !domain.is_empty()) {
        if names::is_dns_label(domain) {
            spec.subdomain = Some(domain.into());
        } else {
            let message = format!("`{}` can be no Pod's subdomain: the cluster gives it its domain", labels::shortened(domain));
            context.warn(&leader.path(&["domainname"]), message, "");
        }
    }
    spec.dns_config = dns(context, pod);
    let mut aliases: Vec<HostAlias> = Vec::new();
    for member in &pod.members {
        for (n, text) in member.service.extra_hosts.iter().enumerate() {
            let index = n.to_string();
            alias(context, &member.path(&["extra_hosts", &index]), text, &mut aliases);
        }
    }
    spec.host_aliases = some(aliases);
}

/// `NAME=ADDRESS`.
fn alias(context: &Context<'_>, path: &[&str], text: &str, aliases: &mut Vec<HostAlias>) {
    let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).unwrap_or((text, ""));
    if address.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err() || !names::is_subdomain(&name.to_ascii_lowercase()) {
        let message = match address {
            "host-gateway" => format!("`{name}` is this machine, which a Pod does not run on: it is left out"),
            _ => format!("`{}` is no entry of /etc/hosts that Kubernetes takes: it is left out", labels::shortened(text)),
        };
        context.warn(path, message, "write an address that is in reach of the cluster");
        return;
    }
    let address = address.trim_matches(['[', ']']);
    let name = name.to_ascii_lowercase();
    match aliases.iter_mut().find(|alias| alias.ip == address) {
        Some(alias) => {
            let names = alias.hostnames.get_or_insert_default();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        None => aliases.push(HostAlias { ip: address.into(), hostnames: Some(vec![name]) }),
    }
}

fn dns(context: &Context<'_>, pod: &Pod<'_, '_>) -> Option<PodDNSConfig> {
    let mut config = PodDNSConfig::default();
    for member in &pod.members {
        let service = member.service;
        for (n, server) in service.dns.iter().enumerate() {
            if server.parse::<std::net::IpAddr>().is_err() {
                let message = format!("the name server `{}` is no address", labels::shortened(server));
                context.refuse(
                    &member.path(&["dns", &n.to_string()]),
                    message,
                    "Kubernetes takes addresses of name servers alone",
                );
            }
        }
        for (n, domain) in service.dns_search.iter().enumerate() {
            if domain != "." && !names::is_subdomain(domain.trim_end_matches('.')) {
                let message = format!("`{}` is no domain that Kubernetes searches", labels::shortened(domain));
                context.refuse(&member.path(&["dns_search", &n.to_string()]), message, "");
            }
        }
        for (n, option) in service.dns_opt.iter().enumerate() {
            if option.is_empty() || option.starts_with(':') {
                context.refuse(&member.path(&["dns_opt", &n.to_string()]), "an option of name servers has a name", "");
            }
        }
        if !service.dns.is_empty() {
            let servers = config.nameservers.get_or_insert_default();
            servers.extend(service.dns.iter().filter(|server| !servers.contains(server)).cloned().collect::<Vec<_>>());
            let message =
                "the cluster's name server stays the first, since it knows the services: these are asked when it does not answer";
            context.warn(&member.path(&["dns"]), message, "names of your own domains are the cluster's to forward");
            if servers.len() >= NAME_SERVERS {
                context.warn(
                    &member.path(&["dns"]),
                    format!("a Pod has {NAME_SERVERS} name servers at most, the cluster's among them"),
                    "",
                );
                servers.truncate(NAME_SERVERS - 1);
            }
        }
        config.searches.get_or_insert_default().extend(service.dns_search.iter().filter(|domain| *domain != ".").cloned());
        let options = service.dns_opt.iter().map(|option| {
            let (name, value) =
                option.split_once(':').map_or((option.as_str(), None), |(name, value)| (name, Some(value.to_string())));
            PodDNSConfigOption { name: Some(name.into()), value }
        });
        config.options.get_or_insert_default().extend(options);
    }
    config.searches = config.searches.and_then(some);
    config.options = config.options.and_then(some);
    (config != PodDNSConfig::default()).then_some(config)
}

/// Whether a port of the container is the node's own.
pub fn has_host_ports(context: &Context<'_>, workload: &Workload<'_>) -> bool {
    let path = workload.path(&[]);
    kompose::parsed(context, &path, workload.service, "controller.port.expose", "`true` or `false`").unwrap_or(false)
        || workload.service.ports.iter().any(|port| port.mode.as_deref() == Some("host"))
}

/// Whether only one of it can run at a time: two would want one disk, or one port of a node.
pub fn is_exclusive(context: &Context<'_>, pod: &Pod<'_, '_>, template: &PodTemplateSpec) -> bool {
    let volumes = template.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let has_claim = volumes.into_iter().flatten().any(|volume| volume.persistent_volume_claim.is_some());
    pod.kind == Kind::Deployment
        && !pod.is_many()
        && (has_claim || security::is_on_host_network(pod) || pod.members.iter().any(|member| has_host_ports(context, member)))
}
