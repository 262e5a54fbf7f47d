//! The project of the command line: its files loaded, its warnings shown.

pub mod attach;
pub mod build;
pub mod config;
pub mod cp;
pub mod down;
pub mod elsewhere;
pub mod events;
pub mod exec;
pub mod export;
pub mod graph;
pub mod history;
pub mod lifecycle;
pub mod logs;
pub mod moment;
pub mod providers;
pub mod ps;
pub mod publish;
pub mod push;
pub mod run;
pub mod up;
pub mod updates;
pub mod usage;
pub mod watch;

use super::remote::Fetcher;
use super::{Failure, Global};
use crate::compose::diagnostic::{Diagnostic, Sources, render};
use crate::compose::model::{FileMount, FileObject, Job, Project, Service, ServiceVolume, VolumeKind};
use crate::compose::{self, LoadOptions, Loaded, Skip};
use crate::engine::process::lifecycle::socket_path;
use indexmap::IndexMap;
use std::sync::Arc;

/// The project's files, name and directory by `-f`, `-p`, ... and the environment.
pub fn options(global: &Global) -> LoadOptions {
    LoadOptions {
        files: global.files.clone(),
        project_name: global.project_name.clone(),
        project_directory: global.project_directory.clone().or_else(|| global.workdir.clone()),
        env_files: global.env_files.clone(),
        profiles: global.profiles.clone(),
        environment: std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect(),
        directory: std::env::current_dir().unwrap_or_else(|_| "/".into()),
        services: Vec::new(),
        remote: Some(Arc::new(Fetcher)),
        skip: Skip::default(),
        list_variables: false,
        all_resources: global.all_resources,
    }
}

/// Loads the project and shows its warnings. Services named on the command line are active whatever their profiles.
///
/// # Errors
/// Everything that is wrong with the files.
pub fn load(global: &Global, services: &[String]) -> Result<Loaded, Failure> {
    let mut loaded = load_quietly(global, services)?;
    show_warnings(&std::mem::take(&mut loaded.warnings), &loaded.sources);
    Ok(loaded)
}

/// The project as the engine gets it: with the contents of configs and secrets that are in this process's environment, and
/// names for the images that are built.
///
/// # Errors
/// When a named service, or one that it depends on, needs a config or a secret of a variable that is not set.
pub fn for_engine(global: &Global, loaded: &Loaded, named: &[String], no_deps: bool) -> Result<Project, Failure> {
    let mut project = loaded.project.clone();
    crate::cli::project::build::name_images(&mut project);
    lend_api(global, &mut project);
    let with_jobs = crate::cli::jobs::run::with_jobs_as_services(loaded);
    let starting = up::selected(&with_jobs, named, no_deps);
    // `up` starts no job, and the engine those with a schedule.
    let starts = |name: &String| {
        starting.contains(name) && (!named.is_empty() || loaded.project.jobs.get(name).is_none_or(Job::is_scheduled))
    };
    let services = with_jobs.project.services.iter().filter(|(name, _)| starts(name));
    let configs = project.configs.iter_mut().map(|(name, object)| ("config", "configs", name, object));
    let secrets = project.secrets.iter_mut().map(|(name, object)| ("secret", "secrets", name, object));
    for (what, section, name, object) in configs.chain(secrets) {
        let Some(variable) = object.environment.clone() else { continue };
        let mounts = |service: &Service| {
            let list = if what == "config" { &service.configs } else { &service.secrets };
            list.iter().any(|mount| mount.source == *name)
        };
        object.content = loaded.contents.get(&(section, name.clone())).cloned();
        if object.content.is_none()
            && let Some((service, _)) = services.clone().find(|(_, service)| mounts(service))
        {
            return Err(Failure::Message(format!(
                "the {what} `{name}` of `{service}` is the variable `{variable}`, which is not set; set it, or put it into .env"
            )));
        }
    }
    providers::leave_out(&mut project);
    name_models(loaded, &mut project);
    let Project { services, jobs, .. } = &mut project;
    let all = services.values_mut().chain(jobs.values_mut().map(|job| &mut job.service));
    for option in all.flat_map(|service| &mut service.security_opt) {
        let file = option.strip_prefix("seccomp").and_then(|rest| rest.strip_prefix([':', '='])).filter(|f| *f != "unconfined");
        if let Some(file) = file {
            *option = format!("seccomp:{}", loaded.directory.join(file).display());
        }
    }
    if let Some(other) = global.machine.other() {
        elsewhere::prepare(other, loaded, &mut project, &starting)?;
    }
    Ok(project)
}

/// The variable that says where models run.
const MODELS: &str = "WHARF_MODELS_ENDPOINT";

/// Tells services where their models run, by the variables that Docker Compose sets: at `x-endpoint` of a model, else at the endpoint
/// that the environment names. A model without either stays, and the engine refuses its service.
fn name_models(loaded: &Loaded, project: &mut Project) {
    let Project { services, jobs, models, .. } = project;
    let of_all = loaded.environment.get(MODELS).filter(|endpoint| !endpoint.is_empty());
    for service in services.values_mut().chain(jobs.values_mut().map(|job| &mut job.service)) {
        let Service { models: used, environment, .. } = service;
        used.retain(|name, how| {
            let Some(model) = models.get(name) else { return true };
            let Some(endpoint) = model.endpoint.as_ref().filter(|endpoint| !endpoint.is_empty()).or(of_all) else { return true };
            let prefix = name.to_uppercase().replace('-', "_");
            let how = how.clone().unwrap_or_default();
            let filled = |variable: Option<String>| variable.filter(|variable| !variable.is_empty());
            let model_variable = filled(how.model_var).unwrap_or_else(|| format!("{prefix}_MODEL"));
            let endpoint_variable = filled(how.endpoint_var).unwrap_or_else(|| format!("{prefix}_URL"));
            environment.insert(model_variable, Some(model.model.clone()));
            environment.insert(endpoint_variable, Some(endpoint.clone()));
            false
        });
    }
}

/// Gives the services with `use_api_socket` the engine's socket and the user's logins, where Docker's clients look for them.
fn lend_api(global: &Global, project: &mut Project) {
    const LOGINS: &str = "#apisocket";
    const DIRECTORY: &str = "/run/secrets/docker";
    let elsewhere = global.machine.other().and_then(|other| other.socket());
    let socket = elsewhere.unwrap_or_else(|| socket_path(&global.run_root).display().to_string());
    let mut lent = false;
    let all = project.services.values_mut().chain(project.jobs.values_mut().map(|job| &mut job.service));
    for service in all.filter(|service| service.use_api_socket) {
        lent = true;
        service.volumes.push(ServiceVolume {
            kind: VolumeKind::Bind,
            source: Some(socket.clone()),
            target: "/var/run/docker.sock".into(),
            ..ServiceVolume::default()
        });
        service.environment.entry("DOCKER_CONFIG".into()).or_insert_with(|| Some(DIRECTORY.into()));
        let target = Some(format!("{DIRECTORY}/config.json"));
        service.configs.push(FileMount { source: LOGINS.into(), target, ..FileMount::default() });
    }
    if lent {
        let content = Some(crate::image::credentials::all().to_string());
        project.configs.insert(LOGINS.into(), FileObject { content, ..FileObject::default() });
    }
}

/// Loads without showing warnings: for commands that only look.
///
/// # Errors
/// As [`load`].
pub fn load_quietly(global: &Global, services: &[String]) -> Result<Loaded, Failure> {
    let mut options = options(global);
    options.services = services.to_vec();
    Ok(as_it_says(compose::load(&options)?))
}

/// The project, after its `.env` was asked how names are made.
fn as_it_says(loaded: Loaded) -> Loaded {
    if up::is_set("COMPOSE_COMPATIBILITY", Some(&loaded)) {
        crate::cli::use_compatible_names();
    }
    loaded
}

/// The variables that a command line's names stand for, where `loaded` is not needed for anything else.
pub fn outer_variables(global: &Global) -> Option<Loaded> {
    let mut options = options(global);
    options.skip.environment = true;
    compose::load(&options).ok()
}

/// Variables of a command line, `NAME=VALUE` or `NAME`. A name alone takes its value from the project's environment (this
/// process's, `.env`, `--env-file`), and says nothing where that has none.
pub fn variables(given: &[String], loaded: Option<&Loaded>) -> IndexMap<String, String> {
    let outer = |name: &str| match loaded {
        Some(loaded) => loaded.environment.get(name).cloned(),
        None => std::env::var(name).ok(),
    };
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) => Some((name.to_string(), value.to_string())),
        None => Some((text.clone(), outer(text)?)),
    };
    given.iter().filter_map(pair).collect()
}

pub fn show_warnings(warnings: &[Diagnostic], sources: &Sources) {
    for warning in warnings {
        eprintln!("{}", render(warning, sources));
    }
}

/// The project's name, and its file for commands that act on what exists. As with Docker Compose, `-p` without `-f` means what
/// exists under that name: the file of the working directory may be of another project.
///
/// # Errors
/// When there is neither a name nor a file.
pub fn name(global: &Global) -> Result<(String, Option<Loaded>), Failure> {
    let given = |name: Option<String>| name.filter(|name| !name.is_empty());
    if let Some(name) = given(global.project_name.clone()).filter(|_| global.files.is_empty()) {
        return Ok((name, None));
    }
    let explicit = given(std::env::var("COMPOSE_PROJECT_NAME").ok());
    // What containers have is in the engine: their env files may be gone.
    let mut options = options(global);
    options.skip.environment = true;
    options.skip.container_names = true;
    match (compose::load(&options).map_err(Failure::from), explicit) {
        (Ok(loaded), _) => Ok((loaded.project.name.clone(), Some(as_it_says(loaded)))),
        (Err(_), Some(name)) if global.files.is_empty() => Ok((name, None)),
        (Err(failure), _) => Err(failure),
    }
}
