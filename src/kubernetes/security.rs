//! Users, groups, capabilities and confinement, of containers and of Pods.

use super::context::Context;
use super::labels::some;
use super::workload::{Pod, Workload};
use crate::compose::model::VolumeKind;
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext, Sysctl,
};

/// Sysctls that every kubelet allows (kubernetes.io, "Using sysctls in a Kubernetes Cluster").
const SAFE_SYSCTLS: [&str; 11] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
];

pub fn container(context: &Context<'_>, workload: &Workload<'_>) -> Option<SecurityContext> {
    let service = workload.service;
    let mut security = SecurityContext::default();
    if let Some(user) = service.user.as_deref().filter(|user| !user.is_empty()) {
        (security.run_as_user, security.run_as_group) = user_of(context, &workload.path(&["user"]), user);
    }
    let named = |list: &[String]| -> Vec<String> {
        list.iter()
            .map(|name| name.to_ascii_uppercase())
            .map(|name| name.strip_prefix("CAP_").map(str::to_string).unwrap_or(name))
            .collect()
    };
    let (add, drop) = (named(&service.cap_add), named(&service.cap_drop));
    if !add.is_empty() || !drop.is_empty() {
        security.capabilities = Some(Capabilities { add: some(add), drop: some(drop) });
    }
    security.privileged = service.privileged.then_some(true);
    security.read_only_root_filesystem = service.read_only.then_some(true);
    for (n, option) in service.security_opt.iter().enumerate() {
        let index = n.to_string();
        security_option(context, &workload.path(&["security_opt", &index]), option, &mut security);
    }
    (security != SecurityContext::default()).then_some(security)
}

/// `UID[:GID]`. Kubernetes takes numbers alone: it does not look into the image.
fn user_of(context: &Context<'_>, path: &[&str], text: &str) -> (Option<i64>, Option<i64>) {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let number = |what: &str, name: &str| {
        let number = name.parse::<i64>().ok().filter(|id| (0..=i64::from(i32::MAX)).contains(id));
        if number.is_none() && name != "root" {
            let message =
                format!("Kubernetes knows no names of users and groups: {what} `{name}` is left out, and the image's own counts");
            context.warn(path, message, "write its number");
        }
        number.or((name == "root").then_some(0))
    };
    (number("the user", user), group.and_then(|group| number("the group", group)))
}

fn security_option(context: &Context<'_>, path: &[&str], option: &str, security: &mut SecurityContext) {
    let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
    match (name, value) {
        ("no-new-privileges", "" | "true") => security.allow_privilege_escalation = Some(false),
        ("no-new-privileges", "false") => {}
        ("seccomp", "unconfined") => {
            security.seccomp_profile = Some(SeccompProfile { type_: "Unconfined".into(), localhost_profile: None });
        }
        ("seccomp", file) => {
            let message = format!("the seccomp profile {file} is a file of this machine: it is left out");
            context.warn(path, message, "a profile has to be on every node, beneath the kubelet's seccomp directory");
        }
        ("apparmor", "") => context.refuse(path, "the AppArmor profile has no name", "write `apparmor=PROFILE`"),
        ("apparmor", profile) if context.has(30) => {
            security.app_armor_profile = Some(match profile {
                "unconfined" => AppArmorProfile { type_: "Unconfined".into(), localhost_profile: None },
                profile => AppArmorProfile { type_: "Localhost".into(), localhost_profile: Some(profile.into()) },
            });
        }
        ("apparmor", _) => {
            context.warn(
                path,
                format!("Kubernetes {} has AppArmor in annotations alone: it is left out", context.version()),
                "`--cluster-version 1.30` or later",
            );
        }
        ("label", label) => selinux(context, path, label, security),
        ("systempaths", "unconfined") => {
            let message = "the whole of /proc needs a user namespace in Kubernetes: the paths stay masked";
            context.warn(path, message, "");
        }
        _ => context.warn(path, format!("`{option}` has no counterpart in Kubernetes and is left out"), ""),
    }
}

fn selinux(context: &Context<'_>, path: &[&str], label: &str, security: &mut SecurityContext) {
    let options = security.se_linux_options.get_or_insert_with(SELinuxOptions::default);
    match label.split_once(':').map(|(name, value)| (name, value.to_string())) {
        Some(("type", value)) => options.type_ = Some(value),
        Some(("user", value)) => options.user = Some(value),
        Some(("role", value)) => options.role = Some(value),
        Some(("level", value)) => options.level = Some(value),
        // As container engines have it: the type of what is not confined.
        None if label == "disable" => options.type_ = Some("spc_t".into()),
        _ => context.warn(path, format!("the SELinux label `{label}` is left out"), "write type, user, role or level"),
    }
}

/// What is of all containers of a Pod.
pub fn pod(context: &Context<'_>, pod: &Pod<'_, '_>) -> Option<PodSecurityContext> {
    let mut security = PodSecurityContext::default();
    let mut groups: Vec<i64> = Vec::new();
    let mut sysctls: Vec<Sysctl> = Vec::new();
    for member in &pod.members {
        for (n, group) in member.service.group_add.iter().enumerate() {
            match group.parse::<i64>().ok().filter(|id| (0..=i64::from(i32::MAX)).contains(id)) {
                Some(group) if !groups.contains(&group) => groups.push(group),
                Some(_) => {}
                None => {
                    let index = n.to_string();
                    let message = format!("Kubernetes knows no names of groups: `{group}` is left out");
                    context.warn(&member.path(&["group_add", &index]), message, "write its number");
                }
            }
        }
        for (name, value) in &member.service.sysctls {
            let path = member.path(&["sysctls", name]);
            if name.starts_with("net.") && is_on_host_network(pod) {
                context.warn(&path, format!("`{name}` would be the node's own with its network: it is left out"), "");
                continue;
            }
            if !SAFE_SYSCTLS.contains(&name.as_str()) {
                let message = format!(
                    "`{name}` is not among the sysctls that a kubelet allows: the Pod is rejected on a node that does not"
                );
                context.warn(&path, message, format!("start kubelets with `--allowed-unsafe-sysctls={name}`"));
            }
            if !sysctls.iter().any(|known| known.name == *name) {
                sysctls.push(Sysctl { name: name.clone(), value: value.clone() });
            }
        }
    }
    security.fs_group = super::kompose::parsed(
        context,
        &pod.leader().path(&[]),
        pod.leader().service,
        "security-context.fsgroup",
        "a group's number",
    );
    security.supplemental_groups = some(groups);
    security.sysctls = some(sysctls);
    (security != PodSecurityContext::default()).then_some(security)
}

/// Warns of users that may not be able to write to a volume: Docker copies the owner of the image's directory, Kubernetes does not.
pub fn judge_owners(context: &Context<'_>, pod: &Pod<'_, '_>) {
    if pod.leader().label("security-context.fsgroup").is_some() {
        return;
    }
    for member in &pod.members {
        let user = member.service.user.as_deref().unwrap_or_default();
        let id = user.split(':').next().unwrap_or_default();
        if matches!(id, "" | "0" | "root") {
            continue;
        }
        for (n, volume) in member.service.volumes.iter().enumerate() {
            if volume.kind != VolumeKind::Volume || volume.source.is_none() || volume.read_only {
                continue;
            }
            let message = format!(
                "a new claim belongs to root with most drivers of storage: the user `{}` cannot write to it",
                super::labels::shortened(id)
            );
            let help =
                format!("the label `kompose.security-context.fsgroup: GID` of `{}` gives it to a group", pod.leader().name);
            context.warn(&member.path(&["volumes", &n.to_string()]), message, help);
        }
    }
}

pub fn is_on_host_network(pod: &Pod<'_, '_>) -> bool {
    pod.members.iter().any(|member| member.service.network_mode == Some(crate::compose::model::NamespaceMode::Host))
}

/// The user of a container that is another's but for that.
pub fn of_user(context: &Context<'_>, path: &[&str], user: &str) -> SecurityContext {
    let (run_as_user, run_as_group) = user_of(context, path, user);
    SecurityContext { run_as_user, run_as_group, ..SecurityContext::default() }
}
