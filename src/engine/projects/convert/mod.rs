//! A Compose service as the specification of a container, with Docker Compose's labels. A file for each group of attributes.

mod devices;
mod mounts;
mod networks;
mod policies;
mod resources;

use crate::compose::model::{NamespaceMode, Project, Service};
use crate::engine::containers::verify;
use crate::engine::record::{AsCreated, ContainerSpec, NetworkMode, Sharing};
use crate::labels::{
    LABEL_DEPENDS_ON, LABEL_DIRECTORY, LABEL_FILES, LABEL_HASH, LABEL_NUMBER, LABEL_ONEOFF, LABEL_PROJECT, LABEL_SERVICE,
    LABEL_VERSION,
};
use crate::plan::config_hash;
use crate::units::{ByteSize, Nanos};
use indexmap::IndexMap;
pub(in crate::engine::projects) use mounts::MAX_COPIED;
pub use networks::pool;

/// Where a project comes from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    pub config_files: String,
    pub working_dir: String,
    /// Variables of the user's proxies, for what a service does not set itself. They are no part of its definition.
    pub proxies: Vec<(String, String)>,
}

/// Containers whose namespaces a service's container shares, by their ids.
#[derive(Clone, Debug, Default)]
pub struct SharedNamespaces {
    pub network: Option<String>,
    pub ipc: Option<String>,
    pub pid: Option<String>,
}

/// The message about an attribute with an invalid value.
fn wrong(service: &str, attribute: &str, value: &str, expected: &str) -> String {
    format!("`services.{service}.{attribute}` is `{value}`, and must be {expected}")
}

/// The specification of a service's n-th container. Reads configs and secrets, and looks for devices and the platform of this host.
///
/// # Errors
/// The attribute, its value and what is expected.
pub fn container(
    project: &Project,
    name: &str,
    number: u32,
    origin: &Origin,
    shared: SharedNamespaces,
) -> Result<ContainerSpec, String> {
    let service = &project.services[name];
    check_what_the_host_has(name, service)?;
    let network_mode = networks::mode(project, name, shared.network)?;
    let networks = if network_mode == NetworkMode::Bridge { networks::endpoints(project, name)? } else { Vec::new() };
    let (mounts, tmpfs) = mounts::mounts(project, name)?;
    let (restart_delay, restart_window) = policies::restart_times(service);
    Ok(ContainerSpec {
        as_created: AsCreated {
            exposed_ports: networks::exposed(name, service)?,
            shareable_ipc: matches!(&service.ipc, Some(NamespaceMode::Named(mode)) if mode == "shareable"),
            ..AsCreated::default()
        },
        image: service.image.clone().unwrap_or_default(),
        entrypoint: service.entrypoint.clone(),
        command: service.command.clone(),
        env: service.environment.iter().map(|(k, v)| v.as_ref().map_or_else(|| k.clone(), |v| format!("{k}={v}"))).collect(),
        user: service.user.clone(),
        group_add: service.group_add.clone(),
        working_dir: service.working_dir.clone(),
        hostname: service.hostname.clone(),
        domainname: service.domainname.clone(),
        labels: labels(project, name, number, origin),
        tty: service.tty,
        stdin_open: service.stdin_open,
        stop_signal: service.stop_signal.clone(),
        stop_timeout: service.stop_grace_period.map(Nanos::seconds_up),
        health: policies::health(name, service)?,
        on_unhealthy: service.healthcheck.as_ref().and_then(|check| check.on_failure),
        init: service.init.unwrap_or(false),
        privileged: service.privileged,
        cap_add: service.cap_add.clone(),
        cap_drop: service.cap_drop.clone(),
        security_opt: service.security_opt.clone(),
        read_only: service.read_only,
        mounts,
        tmpfs,
        ports: networks::ports(name, service)?,
        networks,
        network_mode,
        dns: service.dns.clone(),
        dns_search: service.dns_search.clone(),
        dns_opt: service.dns_opt.clone(),
        extra_hosts: service.extra_hosts.clone(),
        restart: policies::restart_policy(service),
        resources: resources::resources(service)?,
        ulimits: resources::ulimits(service),
        sysctls: service.sysctls.clone(),
        storage_opt: service.storage_opt.clone(),
        shm_size: service.shm_size.and_then(ByteSize::unsigned),
        oom_score_adj: verify::oom_score_adj(service.oom_score_adj.unwrap_or(0))?,
        log: policies::log(name, service)?,
        annotations: service.annotations.clone(),
        ipc: sharing(name, "ipc", service.ipc.as_ref(), shared.ipc)?,
        pid: sharing(name, "pid", service.pid.as_ref(), shared.pid)?,
        uts_host: service.uts.as_deref() == Some("host"),
        runtime: service.runtime.clone().filter(|runtime| !runtime.is_empty()),
        cgroup_parent: service.cgroup_parent.clone().filter(|parent| !parent.is_empty()),
        cgroup_private: service.cgroup.as_deref().map(|cgroup| cgroup == "private"),
        devices: devices::devices(name, service)?,
        device_cgroup_rules: service.device_cgroup_rules.clone(),
        files: mounts::files(project, name)?,
        links: networks::links(project, service),
        post_start: service.post_start.iter().map(policies::hook).collect(),
        pre_stop: service.pre_stop.iter().map(policies::hook).collect(),
        pre_start: policies::pre_start(service),
        restart_attempts: policies::restart_attempts(service),
        restart_delay,
        restart_window,
        stdin_once: false,
        console_size: None,
        auto_remove: false,
        client_removes: false,
    })
}

/// Whose IPC or PID namespace a container gets. `other` is the id of the container that `service:` or `container:` names.
fn sharing(service: &str, attribute: &str, mode: Option<&NamespaceMode>, other: Option<String>) -> Result<Sharing, String> {
    if let Some(id) = other {
        return Ok(Sharing::Container(id));
    }
    match mode {
        None => Ok(Sharing::Own),
        Some(NamespaceMode::Host) => Ok(Sharing::Host),
        Some(NamespaceMode::Named(name)) if matches!(name.as_str(), "" | "private" | "shareable") => Ok(Sharing::Own),
        Some(NamespaceMode::Named(name)) if name == "none" && attribute == "ipc" => Ok(Sharing::Bare),
        Some(mode) => Err(wrong(service, attribute, &mode.to_string(), "`host`, `service:NAME` or `container:NAME`")),
    }
}

/// Refuses what this host cannot give, in words of its own instead of the kernel's.
fn check_what_the_host_has(name: &str, service: &Service) -> Result<(), String> {
    if let Some(parent) = service.cgroup_parent.as_deref().filter(|p| p.split('/').any(|part| part == "..")) {
        return Err(format!(
            "`services.{name}.cgroup_parent` is `{parent}`: it is a path from the root of the control groups, without `..`"
        ));
    }
    if let Some(model) = service.models.keys().next() {
        return Err(format!(
            "`services.{name}` uses the model `{model}`: wharf runs no models; name what runs it by `x-endpoint: URL` of the model, or by WHARF_MODELS_ENDPOINT in the environment"
        ));
    }
    if service.credential_spec.is_some() {
        return Err(format!("`services.{name}.credential_spec` is of Windows' containers; this is Linux"));
    }
    if let Some(mode) = service.userns_mode.as_deref().filter(|mode| !matches!(*mode, "" | "host")) {
        return Err(format!(
            "`services.{name}.userns_mode` is `{mode}`: wharf has no user namespaces yet; `host` is what it does"
        ));
    }
    if let Some(mode) = service.uts.as_deref().filter(|mode| !matches!(*mode, "" | "host")) {
        return Err(format!("`services.{name}.uts` is `{mode}`, and must be `host` or absent"));
    }
    if let Some(platform) = service.platform.as_deref().filter(|platform| !crate::image::is_native(platform)) {
        return Err(format!(
            "`services.{name}.platform` is `{platform}`, and this machine is linux/{}: wharf emulates no other processor",
            crate::image::architecture()
        ));
    }
    Ok(())
}

/// The labels that `docker compose` puts on a container, after the user's own.
fn labels(project: &Project, name: &str, number: u32, origin: &Origin) -> IndexMap<String, String> {
    let service = &project.services[name];
    let mut labels = service.labels.clone();
    let depends_on: Vec<String> =
        service.depends_on.iter().map(|(dependency, d)| format!("{dependency}:{}:{}", d.condition.as_str(), d.restart)).collect();
    let own = [
        (LABEL_PROJECT, project.name.clone()),
        (LABEL_SERVICE, name.to_string()),
        (LABEL_NUMBER, number.to_string()),
        (LABEL_HASH, config_hash(project, service)),
        (LABEL_DEPENDS_ON, depends_on.join(",")),
        (LABEL_ONEOFF, "False".to_string()),
        (LABEL_VERSION, env!("CARGO_PKG_VERSION").to_string()),
        (LABEL_FILES, origin.config_files.clone()),
        (LABEL_DIRECTORY, origin.working_dir.clone()),
    ];
    labels.extend(own.map(|(key, value)| (key.to_string(), value)));
    labels
}
