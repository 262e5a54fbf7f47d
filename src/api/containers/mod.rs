//! `/containers`: Docker's calls about containers. [`list`] and [`inspect`] show them.

mod describe;
mod inspect;
mod list;

pub(super) use describe::endpoint_id;
pub(super) use inspect::inspect;
pub(super) use list::{list, summary};

use super::reply::{self, Query, Reply};
use super::request_body;
use super::types::{ContainerCreate, ContainerCreated, ContainerUpdated, ContainerWaited, ContainersPruned, HostConfig};
use crate::engine::containers::signals::parse_signal;
use crate::engine::containers::verify;
use crate::engine::record::{ContainerRecord, RestartPolicy, Status};
use crate::engine::recovery::RecordKind;
use crate::engine::{Container, Engine, EngineError};
use crate::image::platform_warning;
use hyper::Request;
use hyper::body::Incoming;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// How long `kill` waits for the end of a container that was sent SIGKILL; Docker's.
const KILLED: Duration = Duration::from_secs(10);

/// `DELETE /containers/{id}`. With `force`, one that does not exist is removed already.
pub async fn remove(engine: &Arc<Engine>, id: &str, query: &Query) -> Reply {
    let container = engine.containers.find(id);
    if container.is_err() && query.flag("force") {
        if let Some(unknown) = engine.state.find_unknown(RecordKind::Container, id) {
            engine.remove_unknown(&unknown).await?;
            engine.state.sync().await?;
            return reply::empty(204);
        }
        if matches!(container, Err(EngineError::NoSuch { .. })) {
            return reply::empty(204);
        }
    }
    if query.flag("link") {
        return Err(EngineError::NotImplemented("wharf has no links between containers to remove"));
    }
    let (engine, container, force, volumes) = (engine.clone(), container?, query.flag("force"), query.flag("v"));
    reply::to_its_end(async move {
        engine.remove(&container, force, volumes).await?;
        engine.state.sync().await
    })
    .await?;
    reply::empty(204)
}

/// `POST /containers/{id}/{action}`.
pub async fn act(engine: &Arc<Engine>, id: &str, action: &str, query: &Query) -> Reply {
    let container = engine.containers.find(id)?;
    let timeout = match query.get("t").filter(|text| !text.is_empty()).map(str::parse::<i64>) {
        Some(Err(_)) => return Err(EngineError::Invalid("invalid value for `t`: it is a number of seconds".into())),
        Some(Ok(t)) => Some(u64::try_from(t).unwrap_or(u64::from(u32::MAX))),
        None => None,
    };
    let signal = |text: &str| parse_signal(text).ok_or_else(|| EngineError::Invalid(format!("invalid signal: {text}")));
    let given = query.get("signal").filter(|text| !text.is_empty());
    // For what goes on without the client.
    let (worker, subject) = (engine.clone(), container.clone());
    match action {
        "start" => {
            if container.status() == Status::Running {
                engine.containers.take_back_stale_stop_of(&container.id)?;
                return reply::empty(304);
            }
            reply::to_its_end(async move {
                let started = worker.start(&subject).await;
                // Nobody else would: it has no end that could remove it.
                if started.is_err() && subject.record().spec.auto_remove {
                    worker.remove(&subject, true, true).await?;
                    worker.state.sync().await?;
                }
                started
            })
            .await?;
        }
        "stop" => {
            if !container.status().is_alive() {
                return reply::empty(304);
            }
            let signal = given.map(signal).transpose()?;
            reply::to_its_end(async move { worker.stop(&subject, timeout, signal).await }).await?;
            engine.state.sync().await?;
        }
        "restart" => {
            let signal = given.map(signal).transpose()?;
            reply::to_its_end(async move { worker.restart(&subject, timeout, signal).await }).await?;
        }
        "kill" => {
            let signal = signal(given.unwrap_or("SIGKILL"))?;
            match reply::to_its_end(async move { worker.kill(&subject, signal).await }).await {
                Err(EngineError::NotRunning { .. }) => return Err(container.not_running()),
                killed => killed?,
            }
            if signal == libc::SIGKILL {
                let over = |record: &ContainerRecord| !record.state.status().has_process();
                let _late = tokio::time::timeout(KILLED, container.wait_until(over)).await;
            }
        }
        "rename" => {
            let name = query.get("name").map(|name| name.trim_start_matches('/')).filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| EngineError::Invalid("Neither old nor new names may be empty".into()))?;
            let name = name.to_string();
            reply::to_its_end(async move { worker.rename_container(&subject, &name).await }).await?;
            engine.state.sync().await?;
        }
        "resize" => {
            let (rows, columns) = size(query)?;
            if !container.status().has_process() {
                return Err(container.not_running());
            }
            container.resize(rows, columns);
            let (height, width) = (rows.to_string(), columns.to_string());
            engine.containers.emit(&container, "resize", &[("height", height), ("width", width)]);
            return reply::empty(200);
        }
        "pause" | "unpause" => {
            let pause = action == "pause";
            reply::to_its_end(async move { worker.containers.pause(&subject, pause).await }).await?;
        }
        "wait" => return wait(container, query),
        _ => return super::server::not_found(&hyper::Method::POST, &format!("/containers/{id}/{action}")),
    }
    reply::empty(204)
}

/// Rows and columns of a terminal.
///
/// # Errors
/// When one of them is no number.
pub(super) fn size(query: &Query) -> Result<(u16, u16), EngineError> {
    let one = |key: &str| {
        let text = query.get(key).unwrap_or_default();
        text.parse().map_err(|_| {
            EngineError::Invalid(format!("invalid resize {}: \"{text}\"", if key == "h" { "height" } else { "width" }))
        })
    };
    Ok((one("h")?, one("w")?))
}

/// `POST /containers/{id}/wait`. The head is sent at once: clients wait for it before they start the container.
fn wait(container: Arc<Container>, query: &Query) -> Reply {
    let condition = query.get("condition").filter(|condition| !condition.is_empty()).unwrap_or("not-running").to_string();
    if !matches!(condition.as_str(), "not-running" | "next-exit" | "removed") {
        return Err(EngineError::Invalid(format!("invalid condition: \"{condition}\"")));
    }
    let begun = container.record().state.finished_at;
    let ended = async move {
        let mut code = 0;
        let over = |record: &ContainerRecord| {
            code = record.state.exit_code;
            let removed = record.state.status() == Status::Removing;
            match condition.as_str() {
                "removed" => removed,
                "next-exit" => removed || record.state.finished_at != begun,
                // It may be started again by its policy before anybody has looked.
                _ => removed || !record.state.status().is_alive() || record.state.finished_at != begun,
            }
        };
        container.wait_until(over).await;
        reply::json_line(&ContainerWaited { status_code: code })
    };
    reply::stream("application/json", futures::stream::once(ended))
}

/// `POST /containers/prune`: removes those that do not run.
pub async fn prune(engine: &Arc<Engine>, query: &Query) -> Reply {
    let filters = query.filters(&["label", "label!", "until"])?;
    let old_enough = reply::older_than(&filters)?;
    let (mut removed, mut bytes) = (Vec::new(), 0);
    for container in engine.containers.all().into_iter().filter(|c| !c.is_build_step()) {
        let record = container.record();
        let meant = reply::labelled(&record.spec.labels, &filters) && old_enough(record.created_at);
        if meant && matches!(record.state.status(), Status::Created | Status::Exited) {
            let size = crate::engine::containers::usage::disk_usage(&engine.config.written_by(&container.id));
            bytes += size;
            let worker = engine.clone();
            match reply::to_its_end(async move { worker.remove(&container, false, false).await }).await {
                Ok(()) => removed.push(record.id),
                // It was started or removed meanwhile, or its files cannot be removed: the next ones are not concerned.
                Err(error) => {
                    tracing::warn!("pruning the container {}: {error}", record.name);
                    bytes -= size;
                }
            }
        }
    }
    engine.state.sync().await?;
    engine.events.emit_prune("container", bytes);
    reply::json(200, &ContainersPruned { containers_deleted: reply::or_null(removed), space_reclaimed: bytes })
}

/// `POST /containers/{id}/update`: limits and the restart policy, of what the body names.
pub async fn update(engine: &Arc<Engine>, id: &str, request: Request<Incoming>) -> Reply {
    let container = engine.containers.find(id)?;
    let body: HostConfig = request_body::json(request).await?;
    let named = !body.restart_policy.name.is_empty();
    let policy = named.then(|| super::spec::restart_policy(&body.restart_policy)).transpose()?;
    if policy.is_some_and(|policy| policy != RestartPolicy::No) && container.with_record(|record| record.spec.auto_remove) {
        return Err(EngineError::Conflict(format!(
            "Cannot update container {}: Restart policy cannot be updated because AutoRemove is enabled for the container",
            container.id
        )));
    }
    let mut resources = container.record().spec.resources;
    super::spec::update(&mut resources, &body)?;
    engine.update_limits(&container, |spec| {
        spec.resources = resources;
        spec.restart = policy.unwrap_or(spec.restart);
    })?;
    engine.state.sync().await?;
    reply::json(200, &ContainerUpdated::default())
}

/// `POST /containers/create`, with the settings that wharf acts on.
pub async fn create(engine: &Arc<Engine>, query: &Query, request: Request<Incoming>) -> Reply {
    let mut body: ContainerCreate = request_body::json(request).await?;
    if let Some(platform) = query.get("platform").filter(|platform| !platform.is_empty()) {
        check_platform(engine, &body.image, platform)?;
    }
    use_names(engine, &mut body);
    let mut warnings = warnings(&body);
    let volumes = super::spec::volumes_to_make(&body);
    let spec = super::spec::of(|name| Ok(engine.containers.find(name)?.record()), body)?;
    for volume in volumes {
        engine.volumes.create(volume)?;
    }
    let name = query.get("name").map(|name| name.trim_start_matches('/')).filter(|name| !name.is_empty());
    let name = name.map_or_else(|| format!("wharf-{}", Timestamp::now().as_nanosecond()), str::to_string);
    warnings.extend(verify::warnings(&spec));
    if query.get("platform").is_none_or(|platform| platform.is_empty()) {
        warnings.extend(engine.images.find(&spec.image).ok().and_then(|(_, image)| platform_warning(&image)));
    }
    let container = engine.create(&name, spec)?;
    engine.remove_unless_started(&container);
    engine.state.sync().await?;
    reply::json(201, &ContainerCreated { id: container.id.clone(), warnings })
}

/// Warnings of ignored settings.
fn warnings(body: &ContainerCreate) -> Vec<String> {
    let driver = body.host_config.log_config.kind.as_str();
    match driver {
        "" | "none" | "json-file" | "local" => Vec::new(),
        _ => vec![format!("the log driver `{driver}` is not there; the container's output is kept as by json-file")],
    }
}

/// Networks that are given by their ids get their names, by which a container knows them.
fn use_names(engine: &Engine, body: &mut ContainerCreate) {
    let name = |text: &str| match text {
        "" | "default" | "bridge" | "host" | "none" => None,
        text => engine.networks.find(text).ok().map(|network| network.name).filter(|name| name != text),
    };
    let endpoints = std::mem::take(&mut body.networking_config.endpoints_config);
    body.networking_config.endpoints_config =
        endpoints.into_iter().map(|(network, settings)| (name(&network).unwrap_or(network), settings)).collect();
    if let Some(name) = name(&body.host_config.network_mode) {
        body.host_config.network_mode = name;
    }
}

/// Refuses a platform that the image is not of.
fn check_platform(engine: &Engine, image: &str, platform: &str) -> Result<(), EngineError> {
    let parts: Vec<&str> = platform.split('/').collect();
    let (os, architecture) = match parts.as_slice() {
        [one] if matches!(*one, "linux" | "windows" | "darwin" | "freebsd") => (*one, ""),
        [one] => ("linux", *one),
        [os, architecture] | [os, architecture, _] => (*os, *architecture),
        _ => ("", ""),
    };
    let known = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if os.is_empty() || !known(os) || !known(architecture) {
        return Err(EngineError::Invalid(format!("\"{platform}\": unknown operating system or architecture: invalid argument")));
    }
    let (_, found) = engine.images.find(image)?;
    let own = (found.config.os().to_string(), found.config.architecture().to_string());
    let architecture = match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    match own.0 == os && (architecture.is_empty() || own.1 == architecture) {
        true => Ok(()),
        // Docker's clients pull on it.
        false => Err(EngineError::NoSuch {
            what: "image",
            name: format!(
                "{image} was found but its platform ({}/{}) does not match the specified platform ({platform})",
                own.0, own.1
            ),
        }),
    }
}
