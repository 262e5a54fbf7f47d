//! Hooks: commands in a container after its start and before its stop, and containers that run before a service's.

use super::exec::{Excerpt, Execs, NewExec};
use crate::engine::Config;
use crate::engine::error::EngineError;
use crate::engine::record::{ContainerRecord, ContainerSpec, FileSpec, HealthSpec, HookSpec, PreStartSpec, RestartPolicy};
use crate::engine::{Container, Engine, locked};
use crate::labels::{LABEL_HASH, LABEL_NUMBER, LABEL_ONEOFF, LABEL_PROJECT, LABEL_SERVICE};
use crate::logs::reader::{LineSelection, Reader};
use crate::runtime::error::SetupStep;
use std::future::pending;
use std::sync::Arc;

/// Docker Compose's labels of the container of a hook.
const LABEL_HOOK: &str = "com.docker.compose.hook";
const LABEL_HOOK_INDEX: &str = "com.docker.compose.hook-index";
/// Of a failed hook's output, for the error.
const LAST_LINES: usize = 10;
/// Bytes that are kept of the end of a hook's output, for the error.
const KEPT_OUTPUT: usize = 4096;

fn ended_before(container: &Container, kind: &str, command: &[String]) -> EngineError {
    let code = container.with_record(|record| record.state.ends.last().map(|end| end.exit_code));
    let code = code.map_or_else(String::new, |code| format!(": it exited with code {code}"));
    EngineError::Conflict(format!(
        "container {} is not running{code} before its {kind} hook `{}` was done",
        container.name(),
        command.join(" ")
    ))
}

impl Execs {
    /// Runs a container's hooks one after the other.
    ///
    /// # Errors
    /// The first that does not end with 0, in its own words.
    pub(in crate::engine) async fn run_hooks(
        self: &Arc<Self>,
        container: &Arc<Container>,
        which: impl Fn(&ContainerSpec) -> &Vec<HookSpec>,
        kind: &str,
    ) -> Result<(), EngineError> {
        let hooks = container.with_record(|record| which(&record.spec).clone());
        let reader = locked(&container.live).hook_output.clone();
        let earlier_end = container.with_record(|record| record.state.finished_at);
        let ended = |record: &ContainerRecord| !record.state.status().has_process() || record.state.finished_at != earlier_end;
        for hook in hooks {
            let new = NewExec {
                args: hook.command.clone(),
                env: hook.env,
                cwd: hook.working_dir,
                user: hook.user,
                privileged: hook.privileged,
                ..NewExec::default()
            };
            match self.run(container, new, Excerpt::last(KEPT_OUTPUT).read_by(reader.clone())).await {
                Some((0, _)) => {}
                // The command could not be started, as in a container whose end is about to be noticed.
                Some((code, _)) if code == SetupStep::Monitor.exit_code() && container.ends_soon(ended).await => {
                    return Err(ended_before(container, kind, &hook.command));
                }
                None => {
                    container.ends_soon(ended).await;
                    return Err(ended_before(container, kind, &hook.command));
                }
                Some((code, output)) => {
                    let said = output.trim();
                    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
                    let service = container.with_record(|record| record.spec.labels.get(LABEL_SERVICE).cloned());
                    return Err(EngineError::Conflict(format!(
                        "{} hook exited with status {code}: {kind} `{}` of {}{said}",
                        service.unwrap_or_default(),
                        hook.command.join(" "),
                        container.name()
                    )));
                }
            }
        }
        Ok(())
    }
}

impl Config {
    /// The last lines that a container has written, after a colon.
    pub(in crate::engine) fn last_words(&self, container: &Container) -> String {
        let selection = LineSelection { tail: Some(LAST_LINES), ..LineSelection::default() };
        let mut excerpt = Excerpt::last(KEPT_OUTPUT);
        if let Ok(mut reader) = Reader::open(&self.log_path(&container.id), &selection) {
            while let Ok(Some(line)) = reader.next_line() {
                excerpt.push(line.text);
                excerpt.push(if line.complete { b"\n" } else { b"" });
            }
        }
        let text = excerpt.text();
        if text.trim().is_empty() { String::new() } else { format!(":\n{}\n", text.trim_end()) }
    }
}

/// The container of a hook: the service's container with another command, and without what only one can have or what is about
/// living on.
fn hook_container(config: &Config, record: &ContainerRecord, index: usize, hook: &PreStartSpec) -> (String, ContainerSpec) {
    let mut spec = record.spec.clone();
    spec.command = Some(hook.hook.command.clone());
    spec.env.extend(hook.hook.env.iter().cloned());
    spec.user = hook.hook.user.clone().or(spec.user);
    spec.working_dir = hook.hook.working_dir.clone().or(spec.working_dir);
    spec.privileged |= hook.hook.privileged;
    if let Some(image) = &hook.image {
        spec.image = image.clone();
        spec.entrypoint = None;
    }
    spec.ports.clear();
    spec.health = Some(HealthSpec { test: vec!["NONE".into()], ..HealthSpec::default() });
    spec.restart = RestartPolicy::No;
    (spec.pre_start, spec.post_start, spec.pre_stop) = Default::default();
    (spec.tty, spec.stdin_open) = (false, false);
    for endpoint in &mut spec.networks {
        endpoint.aliases.clear();
        (endpoint.ipv4_address, endpoint.ipv6_address, endpoint.mac_address) = (None, None, None);
    }
    // The volumes are the service's; none of them goes with the hook's container.
    spec.mounts.iter_mut().for_each(|mount| mount.anonymous = false);
    let own_files = config.container_directory(&record.id).join("files");
    for (n, file) in spec.files.iter_mut().enumerate() {
        let copy = || own_files.join(n.to_string()).display().to_string();
        let source = Some(file.source.clone().unwrap_or_else(copy));
        *file = FileSpec { source, content: None, copied_from: None, ..file.clone() };
    }
    let label = |key: &str| record.spec.labels.get(key).cloned().unwrap_or_default();
    let (project, service) = (label(LABEL_PROJECT), label(LABEL_SERVICE));
    let mut name = format!("{project}-{service}-pre_start-{index}");
    if hook.per_replica {
        name = format!("{name}-{}", label(LABEL_NUMBER));
    }
    for key in [LABEL_HASH, LABEL_NUMBER] {
        spec.labels.shift_remove(key);
    }
    let own = [(LABEL_ONEOFF, "True".to_string()), (LABEL_HOOK, "pre_start".into()), (LABEL_HOOK_INDEX, index.to_string())];
    spec.labels.extend(own.map(|(key, value)| (key.to_string(), value)));
    (name, spec)
}

impl Engine {
    /// Runs the `pre_start` hooks of a container that nobody has run yet: those of its service once, for whichever of its
    /// containers is first, and those with `per_replica` for each.
    ///
    /// # Errors
    /// As [`Engine::pre_start`].
    pub(in crate::engine) async fn prepare(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), EngineError> {
        let record = container.record();
        if record.prepared || record.spec.pre_start.is_empty() {
            return Ok(());
        }
        let label = |record: &ContainerRecord, key: &str| record.spec.labels.get(key).cloned();
        let same = |other: &ContainerRecord| {
            let alike = |key: &str| label(other, key) == label(&record, key);
            other.prepared && alike(LABEL_PROJECT) && alike(LABEL_SERVICE) && alike(LABEL_HASH)
        };
        // One container of a service at a time: the next finds it done.
        let key = [LABEL_PROJECT, LABEL_SERVICE].map(|key| label(&record, key).unwrap_or_default()).join("\n");
        let _guard = self.containers.preparing.take(&key).await;
        if !self.containers.all().iter().any(|other| other.with_record(same)) {
            self.pre_start(container, false, pending()).await?;
        }
        self.pre_start(container, true, pending()).await
    }

    /// Runs those of a container's `pre_start` hooks that are for every replica, or those that are for the service, each in a
    /// container of its own with the service's volumes and networks. One that fails is kept, to be looked at. When `given_up`
    /// ends, the hook that runs then is stopped and removed.
    ///
    /// # Errors
    /// The first that does not end with 0, with its last words; that of `given_up`.
    pub(in crate::engine) async fn pre_start(
        self: &Arc<Self>,
        container: &Arc<Container>,
        per_replica: bool,
        given_up: impl Future<Output = EngineError>,
    ) -> Result<(), EngineError> {
        tokio::pin!(given_up);
        let record = container.record();
        for (index, hook) in record.spec.pre_start.iter().enumerate().filter(|(_, hook)| hook.per_replica == per_replica) {
            let (name, spec) = hook_container(&self.config, &record, index, hook);
            if let Ok(earlier) = self.containers.find(&name) {
                self.remove(&earlier, true, true).await?;
            }
            let runner = self.create(&name, spec)?;
            let guard = runner.begin_operation().await?;
            let started = self.start_locked(&runner).await;
            drop(guard);
            if started.is_ok() {
                // Only the wait is given up: a start or a removal that is dropped half-way leaves a process that nobody knows.
                tokio::select! {
                    () = runner.wait_until(|record| !record.state.status().is_alive()) => {}
                    error = &mut given_up => {
                        self.remove(&runner, true, true).await?;
                        return Err(error);
                    }
                }
            }
            let code = runner.with_record(|record| record.state.exit_code);
            if started.is_ok() && code == 0 {
                self.remove(&runner, true, true).await?;
                continue;
            }
            let command = hook.hook.command.join(" ");
            if let Err(error) = started {
                self.remove(&runner, true, true).await?;
                return Err(EngineError::Conflict(format!("the pre_start hook `{command}` of {}: {error}", record.name)));
            }
            let said = self.config.last_words(&runner);
            let service = record.spec.labels.get(LABEL_SERVICE).map_or("", String::as_str);
            return Err(EngineError::Conflict(format!(
                "service \"{service}\" pre_start[{index}] exited with code {code}: `{command}` of {}{said}; its container {name} is kept",
                record.name
            )));
        }
        if per_replica || !record.spec.pre_start.iter().any(|hook| hook.per_replica) {
            self.containers.update(container, |record| record.prepared = true);
        }
        Ok(())
    }
}
