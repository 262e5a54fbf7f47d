//! `post_start` and `pre_stop` as the container's lifecycle, `pre_start` as init containers.

use super::context::Context;
use super::labels::some;
use super::mounts::Mounts;
use super::names;
use super::workload::{Pod, Workload};
use super::{container, security};
use crate::compose::model::Hook;
use k8s_openapi::api::core::v1::{Container, EnvVar, ExecAction, Lifecycle, LifecycleHandler, SecurityContext};

pub fn lifecycle(context: &Context<'_>, workload: &Workload<'_>) -> Option<Lifecycle> {
    let service = workload.service;
    let lifecycle = Lifecycle {
        post_start: handler(context, workload, "post_start", &service.post_start),
        pre_stop: handler(context, workload, "pre_stop", &service.pre_stop),
        stop_signal: None,
    };
    (lifecycle != Lifecycle::default()).then_some(lifecycle)
}

/// Kubernetes runs one command as the container's own user: a shell runs several, and those with variables or a directory.
fn handler(context: &Context<'_>, workload: &Workload<'_>, attribute: &str, hooks: &[Hook]) -> Option<LifecycleHandler> {
    for (n, hook) in hooks.iter().enumerate() {
        let index = n.to_string();
        let path = workload.path(&[attribute, &index]);
        if hook.user.as_ref().is_some_and(|user| workload.service.user.as_ref() != Some(user)) {
            context.warn(&path, "a hook runs as the container's own user in Kubernetes: `user` is left out", "");
        }
        if hook.privileged {
            context.warn(&path, "a hook has the container's own privileges in Kubernetes: `privileged` is left out", "");
        }
    }
    let commands: Vec<&Hook> =
        hooks.iter().filter(|hook| hook.command.as_ref().is_some_and(|command| !command.is_empty())).collect();
    let is_plain = |hook: &Hook| hook.environment.is_empty() && hook.working_dir.is_none();
    let command = match commands[..] {
        [] => return None,
        [hook] if is_plain(hook) => hook.command.clone().unwrap_or_default(),
        _ => {
            let message = format!(
                "Kubernetes has one command for `{attribute}`, without variables and a directory of its own: /bin/sh of the image runs them"
            );
            context.warn(&workload.path(&[attribute]), message, "make it one program of the image where that has no shell");
            let script: Vec<String> = commands.iter().map(|hook| line(hook)).collect();
            vec!["/bin/sh".into(), "-c".into(), script.join(" && ")]
        }
    };
    Some(LifecycleHandler { exec: Some(ExecAction { command: Some(command) }), ..LifecycleHandler::default() })
}

/// A hook as a line of a shell, in which nothing of it is the shell's.
fn line(hook: &Hook) -> String {
    let mut words = Vec::new();
    let variables = hook.environment.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)));
    let variables: Vec<String> = variables.collect();
    if !variables.is_empty() {
        words.push("env".to_string());
        words.extend(variables);
    }
    words.extend(hook.command.iter().flatten().cloned());
    let line = shell_words::join(words);
    match &hook.working_dir {
        Some(directory) => format!("(cd {} && {line})", shell_words::quote(directory)),
        None => line,
    }
}

/// What runs before the service, in its order.
pub fn init_containers(context: &Context<'_>, pod: &Pod<'_, '_>, workload: &Workload<'_>, mounts: &mut Mounts) -> Vec<Container> {
    let mut containers = Vec::new();
    for (n, hook) in workload.service.pre_start.iter().enumerate() {
        let index = n.to_string();
        let path = workload.path(&["pre_start", &index]);
        if !hook.per_replica && pod.is_many() {
            let message = "Kubernetes runs it before every replica, and not once for the service";
            context.warn(&path, message, "write `per_replica: true` where that is right, or make it a job");
        }
        let user = hook.user.as_deref().or(workload.service.user.as_deref());
        let mut security = user.map_or_else(SecurityContext::default, |user| security::of_user(context, &path, user));
        security.privileged = hook.privileged.then_some(true);
        let variables = workload.service.environment.iter().chain(&hook.environment);
        let mut env: indexmap::IndexMap<&str, &str> = indexmap::IndexMap::new();
        env.extend(variables.filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?))));
        let env = env.into_iter().map(|(name, value)| EnvVar {
            name: name.into(),
            value: Some(names::literal(value)),
            value_from: None,
        });
        containers.push(Container {
            name: names::dns(&format!("{}-pre-start-{}", workload.object, n + 1)),
            image: Some(hook.image.clone().unwrap_or_else(|| container::image(context, workload))),
            command: hook.command.as_deref().map(names::literals),
            env: some(env.collect::<Vec<_>>()),
            working_dir: hook.working_dir.clone().or_else(|| workload.service.working_dir.clone()),
            volume_mounts: some(mounts.of(context, workload)),
            security_context: (security != SecurityContext::default()).then_some(security),
            ..Container::default()
        });
    }
    containers.extend(of_label(context, workload));
    containers
}

/// kompose's labels for one init container.
fn of_label(context: &Context<'_>, workload: &Workload<'_>) -> Option<Container> {
    let image = workload.label("init.containers.image")?;
    let command = workload.label("init.containers.command").unwrap_or_default();
    let command: Vec<String> = match command.trim_start().starts_with('[') {
        true => serde_json::from_str(command).unwrap_or_else(|_| {
            let path = workload.path(&["labels", "kompose.init.containers.command"]);
            context.refuse(&path, format!("`{command}` is no list of texts"), "write it as `[\"program\", \"argument\"]`");
            Vec::new()
        }),
        false => shell_words::split(command).unwrap_or_else(|_| vec![command.to_string()]),
    };
    Some(Container {
        name: names::dns(workload.label("init.containers.name").unwrap_or("init")),
        image: Some(image.into()),
        command: some(names::literals(&command)),
        ..Container::default()
    })
}
