//! Docker's bodies as the engine's specifications. A file a section: [`mounts`], [`networks`], [`ports`], [`health`],
//! [`resources`]. What Docker refuses is refused in Docker's words, since clients match them.

mod health;
mod mounts;
mod networks;
mod ports;
mod resources;

pub use mounts::volumes_to_make;
pub use networks::{endpoint, network};
pub use resources::update;

use super::types::{ContainerCreate, ExecCreate, HostConfig, LogConfig, RestartPolicyConfig};
use crate::engine::EngineError;
use crate::engine::containers::exec::NewExec;
use crate::engine::containers::verify;
use crate::engine::record::{
    AsCreated, ContainerRecord, ContainerSpec, LogSpec, NetworkMode, RestartPolicy, Sharing, volumes_from,
};

/// `Runtime` of containers that wharf itself runs.
pub const OWN_RUNTIME: &str = "wharf";

fn invalid(message: impl Into<String>) -> EngineError {
    EngineError::Invalid(message.into())
}

fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_string())
}

/// Reads a container's specification. Names of containers whose namespaces or volumes it shares are looked up by `find`.
///
/// # Errors
/// The first value that Docker refuses, or a container that does not exist.
pub fn of(
    find: impl Fn(&str) -> Result<ContainerRecord, EngineError>,
    create: ContainerCreate,
) -> Result<ContainerSpec, EngineError> {
    let sources = create.host_config.volumes_from.clone();
    let mut spec = ContainerSpec::try_from(create)?;
    if let NetworkMode::Container(name) = &mut spec.network_mode {
        *name = find(name)?.id;
    }
    for sharing in [&mut spec.ipc, &mut spec.pid] {
        if let Sharing::Container(name) = sharing {
            *name = find(name)?.id;
        }
    }
    for source in &sources {
        let (name, read_only) = volumes_from(source);
        spec.take_mounts_of(&find(name)?, read_only);
    }
    Ok(spec)
}

/// Containers that it refers to are still by name.
impl TryFrom<ContainerCreate> for ContainerSpec {
    type Error = EngineError;

    fn try_from(create: ContainerCreate) -> Result<Self, EngineError> {
        check(&create)?;
        let host = &create.host_config;
        let network_mode = networks::mode(&create);
        let mounts = mounts::of(&create)?;
        let command = |line: &Option<super::types::CommandLine>| line.clone().map(|line| line.0).filter(|line| !line.is_empty());
        let entrypoint = command(&create.entrypoint);
        Ok(ContainerSpec {
            networks: networks::endpoints(&create, &network_mode)?,
            network_mode,
            mounts: mounts.mounts,
            tmpfs: mounts.tmpfs,
            ports: ports::of(&create)?,
            health: create.healthcheck.as_ref().map(health::of).transpose()?.flatten(),
            resources: resources::of(host)?,
            ulimits: host.ulimits.iter().map(|limit| (limit.name.clone(), limit.soft, limit.hard)).collect(),
            devices: resources::devices(host)?,
            shm_size: resources::shm_size(host)?,
            oom_score_adj: verify::oom_score_adj(host.oom_score_adj).map_err(invalid)?,
            log: LogSpec::of(Some(host.log_config.kind.as_str()), &host.log_config.config)
                .map_err(|why| invalid(format!("the log's option `{why}")))?,
            restart: restart_policy(&host.restart_policy)?,
            ipc: sharing("IPC", &host.ipc_mode)?,
            pid: sharing("PID", &host.pid_mode)?,
            uts_host: host.uts_mode == "host",
            cgroup_private: text(&host.cgroupns_mode).map(|mode| mode == "private"),
            cgroup_parent: cgroup_parent(&host.cgroup_parent)?,
            entrypoint,
            command: command(&create.cmd),
            security_opt: security_opt(host)?,
            links: host.links.iter().map(|link| networks::link(link)).collect(),
            auto_remove: host.auto_remove,
            client_removes: host.client_removes,
            init: host.init.unwrap_or(false),
            runtime: text(&host.runtime).filter(|runtime| runtime != OWN_RUNTIME),
            privileged: host.privileged,
            read_only: host.readonly_rootfs,
            cap_add: host.cap_add.clone(),
            cap_drop: host.cap_drop.clone(),
            group_add: host.group_add.clone(),
            dns: host.dns.clone(),
            dns_search: host.dns_search.clone(),
            dns_opt: host.dns_options.clone(),
            extra_hosts: host.extra_hosts.clone(),
            sysctls: host.sysctls.clone(),
            storage_opt: host.storage_opt.clone(),
            annotations: host.annotations.clone(),
            device_cgroup_rules: host.device_cgroup_rules.clone(),
            as_created: as_created(&create),
            image: create.image,
            env: create.env,
            user: text(&create.user),
            working_dir: text(&create.working_dir),
            hostname: text(&create.hostname),
            domainname: text(&create.domainname),
            labels: create.labels,
            tty: create.tty,
            console_size: host.console_size.filter(|size| *size != (0, 0)),
            stdin_open: create.open_stdin,
            stdin_once: create.stdin_once,
            stop_signal: text(&create.stop_signal),
            // Docker waits without end for a negative one.
            stop_timeout: create.stop_timeout.map(|seconds| u64::try_from(seconds).unwrap_or(u64::from(u32::MAX))),
            ..ContainerSpec::default()
        })
    }
}

/// Settings that clients read again, and nobody acts on once the container exists.
fn as_created(create: &ContainerCreate) -> AsCreated {
    let host = &create.host_config;
    AsCreated {
        exposed_ports: ports::exposed(create),
        publish_all_ports: host.publish_all_ports,
        attach_stdin: create.attach_stdin,
        attach_stdout: create.attach_stdout,
        attach_stderr: create.attach_stderr,
        volumes_from: host.volumes_from.clone(),
        log_options: host.log_config.config.clone(),
        container_id_file: host.container_id_file.clone(),
        isolation: host.isolation.clone(),
        volume_driver: host.volume_driver.clone(),
        shareable_ipc: host.ipc_mode == "shareable",
    }
}

/// Refuses what a [`ContainerSpec`] has no room for, or what Docker would act on and wharf cannot. What Docker refuses besides is
/// refused when the container is made.
fn check(create: &ContainerCreate) -> Result<(), EngineError> {
    if create.image.is_empty() {
        return Err(invalid("config cannot be empty in order to create a container: no `Image`"));
    }
    check_log(&create.host_config.log_config)?;
    check_modes(create)
}

/// Refuses drivers that Docker does not have, and options that those which wharf has do not know. Docker's other drivers are a warning.
fn check_log(log: &LogConfig) -> Result<(), EngineError> {
    const OPTIONS: [&str; 10] =
        ["max-size", "max-file", "compress", "env", "env-regex", "labels", "labels-regex", "tag", "mode", "max-buffer-size"];
    let unknown = log.config.keys().find(|key| !OPTIONS.contains(&key.as_str()) && !key.starts_with("cache-"));
    match (log.kind.as_str(), unknown) {
        ("" | "json-file", Some(key)) => Err(invalid(format!("unknown log opt '{key}' for json-file log driver"))),
        ("local", Some(key)) => Err(invalid(format!("unknown log opt '{key}' for log driver local"))),
        ("" | "json-file" | "local" | "none", _) => Ok(()),
        ("awslogs" | "fluentd" | "gcplogs" | "gelf" | "journald" | "splunk" | "syslog", _) => Ok(()),
        (name, _) => Err(invalid(format!("logger: no log driver named '{name}' is registered"))),
    }
}

fn check_modes(create: &ContainerCreate) -> Result<(), EngineError> {
    let host = &create.host_config;
    let one_of = |what: &str, value: &str, known: &[&str]| {
        known.contains(&value).then_some(()).ok_or_else(|| invalid(format!("invalid {what}: {value}")))
    };
    one_of("UTS mode", &host.uts_mode, &["", "host"])?;
    one_of("cgroup namespace mode", &host.cgroupns_mode, &["", "host", "private"])?;
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(invalid(format!("invalid isolation ({}): linux only supports 'default'", host.isolation)));
    }
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        return Err(invalid(format!("invalid userns mode: {}: wharf has no user namespaces", host.userns_mode)));
    }
    // Docker looks for the driver when it makes a volume of it, and for no bind mount.
    let named = |bind: &String| !bind.starts_with('/');
    let makes_volumes = !create.volumes.is_empty() || host.binds.iter().any(named);
    if makes_volumes && !matches!(host.volume_driver.as_str(), "" | "local") {
        return Err(EngineError::NoSuch { what: "volume plugin", name: host.volume_driver.clone() });
    }
    Ok(())
}

fn sharing(what: &str, mode: &str) -> Result<Sharing, EngineError> {
    Ok(match (mode, mode.strip_prefix("container:")) {
        ("" | "private" | "shareable", _) if what == "IPC" || mode.is_empty() => Sharing::Own,
        ("none", _) if what == "IPC" => Sharing::Bare,
        ("host", _) => Sharing::Host,
        (_, Some(name)) if !name.is_empty() => Sharing::Container(name.to_string()),
        _ => return Err(invalid(format!("invalid {what} mode: {mode}"))),
    })
}

/// Docker's CLI sends empty lists of masked paths for `systempaths=unconfined`. Other lists than its defaults are refused: they
/// would be ignored.
fn security_opt(host: &HostConfig) -> Result<Vec<String>, EngineError> {
    let mut options = host.security_opt.clone();
    let is_empty = |list: &Option<Vec<String>>| list.as_ref().is_some_and(Vec::is_empty);
    if is_empty(&host.masked_paths) && is_empty(&host.readonly_paths) {
        if !host.privileged {
            options.push("systempaths=unconfined".into());
        }
        return Ok(options);
    }
    let known = |path: &String| path.starts_with("/proc/") || path.starts_with("/sys/");
    let both = host.masked_paths.iter().chain(&host.readonly_paths);
    if let Some(path) = both.flatten().find(|path| !known(path)) {
        return Err(invalid(format!("the path {path} cannot be masked: wharf masks Docker's default paths, or none")));
    }
    Ok(options)
}

/// A restart policy.
///
/// # Errors
/// When there is none of that name, or a number of attempts that it cannot have.
pub fn restart_policy(policy: &RestartPolicyConfig) -> Result<RestartPolicy, EngineError> {
    let bad = |why: String| Err(invalid(format!("invalid restart policy: {why}")));
    let max = policy.maximum_retry_count;
    match policy.name.as_str() {
        "on-failure" if max < 0 => bad("maximum retry count cannot be negative".into()),
        "on-failure" => Ok(RestartPolicy::OnFailure { max: u32::try_from(max).unwrap_or(u32::MAX) }),
        "" | "no" | "always" | "unless-stopped" if max != 0 && !policy.name.is_empty() => {
            bad(format!("maximum retry count can only be used with 'on-failure', not with '{}'", policy.name))
        }
        "always" => Ok(RestartPolicy::Always),
        "unless-stopped" => Ok(RestartPolicy::UnlessStopped),
        "" | "no" => Ok(RestartPolicy::No),
        name => bad(format!("unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'")),
    }
}

/// A path from the root of the control groups.
fn cgroup_parent(parent: &str) -> Result<Option<String>, EngineError> {
    match parent.split('/').any(|part| part == "..") {
        true => Err(invalid(format!("the cgroup parent `{parent}` is a path from the root of the control groups, without `..`"))),
        false => Ok(text(parent)),
    }
}

/// A process to run in a container.
impl TryFrom<ExecCreate> for NewExec {
    type Error = EngineError;

    fn try_from(create: ExecCreate) -> Result<Self, EngineError> {
        if create.cmd.0.is_empty() {
            return Err(invalid("no exec command specified"));
        }
        Ok(NewExec {
            args: create.cmd.0,
            env: create.env,
            cwd: text(&create.working_dir),
            user: text(&create.user),
            tty: create.tty,
            privileged: create.privileged,
            stdin: create.attach_stdin,
            stdout: create.attach_stdout,
            stderr: create.attach_stderr,
            detach_keys: create.detach_keys,
            size: create.console_size.filter(|size| *size != (0, 0)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::containers::verify::verify;
    use serde_json::{Value, json};

    /// The specification of a body with a further section.
    pub(super) fn spec_of(body: Value) -> Result<ContainerSpec, EngineError> {
        let mut whole = json!({"Image": "a"});
        if let (Some(whole), Value::Object(body)) = (whole.as_object_mut(), body) {
            whole.extend(body);
        }
        let create: ContainerCreate = crate::api::types::parse(whole.to_string().as_bytes()).expect("a body");
        let spec = ContainerSpec::try_from(create)?;
        verify(&spec).map(|()| spec).map_err(EngineError::Invalid)
    }

    /// Each body is refused with 400 and the words.
    pub(super) fn refused(cases: Vec<(Value, &str)>) {
        for (body, words) in cases {
            let error = spec_of(body.clone()).expect_err(&body.to_string());
            assert_eq!(error.status(), 400, "{body}");
            assert!(error.to_string().contains(words), "{body}: {error}");
        }
    }

    #[test]
    fn what_docker_refuses_is_refused_in_its_words() {
        let host = |host: Value| json!({"HostConfig": host});
        refused(vec![
            (json!({"Image": ""}), "config cannot be empty"),
            (json!({"WorkingDir": "etc"}), "the working directory 'etc' is invalid"),
            (json!({"StopSignal": "NOPE"}), "invalid signal: NOPE"),
            (json!({"Env": ["A=1", "=x"]}), "invalid environment variable: =x"),
            (json!({"Env": [""]}), "invalid environment variable: "),
            (host(json!({"AutoRemove": true, "RestartPolicy": {"Name": "always"}})), "can't create 'AutoRemove'"),
            (host(json!({"CapAdd": ["NOPE"]})), "invalid CapAdd: unknown capability: \"NOPE\""),
            (host(json!({"IpcMode": "shared"})), "invalid IPC mode: shared"),
            (host(json!({"PidMode": "private"})), "invalid PID mode: private"),
            (host(json!({"PidMode": "container:"})), "invalid PID mode: container:"),
            (host(json!({"UTSMode": "container:x"})), "invalid UTS mode"),
            (host(json!({"CgroupnsMode": "x"})), "invalid cgroup namespace mode: x"),
            (host(json!({"UsernsMode": "remapped"})), "invalid userns mode: remapped"),
            (host(json!({"Isolation": "hyperv"})), "linux only supports 'default'"),
            (host(json!({"MaskedPaths": ["/etc/passwd"]})), "cannot be masked"),
            (host(json!({"RestartPolicy": {"Name": "sometimes"}})), "unknown policy 'sometimes'"),
            (host(json!({"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}})), "maximum retry count"),
            (host(json!({"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}})), "cannot be negative"),
            (json!({"Hostname": "h", "HostConfig": {"UTSMode": "host"}}), "hostname and the UTS mode"),
            (json!({"Hostname": "h", "HostConfig": {"NetworkMode": "container:x"}}), "hostname and the network mode"),
        ]);
    }

    #[test]
    fn a_command_may_be_a_string_and_an_entrypoint_be_taken_away() {
        let spec = spec_of(json!({"Cmd": "true", "Entrypoint": [""]})).expect("a body");
        assert_eq!((spec.command, spec.entrypoint), (Some(vec!["true".into()]), Some(vec![String::new()])));
        let spec = spec_of(json!({"Cmd": [], "Entrypoint": null})).expect("a body");
        assert_eq!((spec.command, spec.entrypoint), (None, None));
    }

    #[test]
    fn namespaces_of_containers_are_looked_up() {
        let create = |mode: &str| {
            let body = json!({"Image": "a", "HostConfig": {"PidMode": mode}});
            crate::api::types::parse::<ContainerCreate>(body.to_string().as_bytes()).expect("a body")
        };
        let missing = of(|name| Err(EngineError::no_container(name)), create("container:x")).expect_err("there is none");
        assert_eq!((missing.status(), missing.to_string().contains('x')), (404, true));
        let spec = of(|name| Err(EngineError::no_container(name)), create("host")).expect("a body");
        assert_eq!(spec.pid, Sharing::Host);
    }

    #[test]
    fn unmasked_paths_are_an_option_of_security() {
        let spec = spec_of(json!({"HostConfig": {"MaskedPaths": [], "ReadonlyPaths": []}})).expect("a body");
        assert_eq!(spec.security_opt, ["systempaths=unconfined"]);
        let spec =
            spec_of(json!({"HostConfig": {"MaskedPaths": ["/proc/kcore"], "ReadonlyPaths": ["/proc/sys"]}})).expect("a body");
        assert!(spec.security_opt.is_empty());
    }
}
