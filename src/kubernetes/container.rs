//! A service's container.

use super::context::Context;
use super::labels::some;
use super::mounts::Mounts;
use super::workload::Workload;
use super::{env, hooks, names, probes, resources, security, services};
use crate::compose::model::{Project, PullPolicy};
use k8s_openapi::api::core::v1::Container;

/// The service's own container; its volumes go to `mounts`.
pub fn container(context: &Context<'_>, workload: &Workload<'_>, runs_on: bool, mounts: &mut Mounts) -> Container {
    let service = workload.service;
    let (command, args) = process(workload);
    if let Some(signal) =
        service.stop_signal.as_deref().filter(|signal| !matches!(signal.trim_start_matches("SIG"), "TERM" | "15" | ""))
    {
        let message =
            format!("Kubernetes stops a container with the signal of its image (STOPSIGNAL), or SIGTERM: {signal} is left out");
        context.warn(
            &workload.path(&["stop_signal"]),
            message,
            format!("write `STOPSIGNAL {signal}` into the image's Dockerfile"),
        );
    }
    let probes = if runs_on { probes::probes(context, workload) } else { probes::Probes::default() };
    if !runs_on && service.has_health_check() {
        let message = "a Job's containers are not asked for their health: `healthcheck` is left out";
        context.warn(&workload.path(&["healthcheck"]), message, "");
    }
    let (env, env_from) = env::env(context, workload);
    Container {
        name: workload.object.clone(),
        image: Some(image(context, workload)),
        image_pull_policy: pull_policy(context, workload),
        command,
        args,
        working_dir: service.working_dir.clone(),
        ports: some(services::container_ports(context, workload)),
        env: some(env),
        env_from: some(env_from),
        resources: resources::resources(context, workload),
        volume_mounts: some(mounts.of(context, workload)),
        startup_probe: probes.startup,
        liveness_probe: probes.liveness,
        readiness_probe: probes.readiness,
        lifecycle: hooks::lifecycle(context, workload),
        security_context: security::container(context, workload),
        stdin: service.stdin_open.then_some(true),
        tty: service.tty.then_some(true),
        ..Container::default()
    }
}

/// `entrypoint` is Kubernetes' `command`, and `command` its `args`. An entrypoint that is emptied leaves the command alone.
fn process(workload: &Workload<'_>) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let list = |list: &Option<Vec<String>>| list.as_deref().map(names::literals);
    let entrypoint = list(&workload.service.entrypoint);
    let command = list(&workload.service.command).filter(|list| !list.is_empty());
    match entrypoint {
        Some(emptied) if emptied.is_empty() => (command, None),
        entrypoint => (entrypoint, command),
    }
}

/// The image that a cluster pulls. One without a registry that is built here has to be pushed first.
pub fn image(context: &Context<'_>, workload: &Workload<'_>) -> String {
    let service = workload.service;
    if let Some(image) = &service.image {
        if service.build.is_some() && !has_registry(image) {
            let message =
                format!("`{image}` is built on this machine, and its name has no registry from which a cluster can pull it");
            context.warn(
                &workload.path(&["image"]),
                message,
                "name one, such as `registry.example.org/team/app:1.0`, and `wharf build && wharf push`",
            );
        }
        return image.clone();
    }
    let name = format!("{}-{}", context.project().name, workload.name);
    if service.build.is_some() {
        let message = format!(
            "the image of `{}` is built on this machine and has no name from which a cluster can pull it: `{name}` is written",
            workload.name
        );
        context.warn(
            &workload.path(&["build"]),
            message,
            "beside `build`, write `image: REGISTRY/NAME:TAG`, and `wharf build && wharf push`",
        );
    }
    name
}

/// As Docker reads a reference: the first part is a registry where it has a dot, a colon, or is `localhost`.
pub fn has_registry(image: &str) -> bool {
    image.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost")
}

/// The services and jobs that are built here, and whose images have no name from which a cluster could pull them.
pub fn unpushed(project: &Project) -> Vec<&str> {
    let jobs = project.jobs.iter().map(|(name, job)| (name, &job.service));
    let all = project.services.iter().chain(jobs).filter(|(_, service)| service.build.is_some());
    all.filter(|(_, service)| !service.image.as_deref().is_some_and(has_registry)).map(|(name, _)| name.as_str()).collect()
}

fn pull_policy(context: &Context<'_>, workload: &Workload<'_>) -> Option<String> {
    if let Some(policy) = workload.label("image-pull-policy") {
        if !matches!(policy, "Always" | "IfNotPresent" | "Never") {
            let path = workload.path(&["labels", "kompose.image-pull-policy"]);
            context.refuse(&path, format!("`{policy}` is no pull policy"), "write Always, IfNotPresent or Never");
        }
        return Some(policy.into());
    }
    let policy = match workload.service.pull_policy? {
        PullPolicy::Always => "Always",
        PullPolicy::Never => "Never",
        PullPolicy::Missing => "IfNotPresent",
        PullPolicy::Build => return None,
        PullPolicy::Older(_) | PullPolicy::Refresh => {
            let path = workload.path(&["pull_policy"]);
            context.warn(&path, "Kubernetes pulls an image at every start or once: it is pulled at every start", "");
            "Always"
        }
    };
    Some(policy.into())
}
