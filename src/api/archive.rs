//! A container's files as archives: `/archive` both ways, `/export`, `/changes`, `/commit`.

use super::reply::{self, Query, Reply};
use super::request_body;
use super::types::{CommandLine, ContainerCreate, CreatedId, FileChange, PathStatHeader, Set};
use crate::engine::containers::files::{ChangeKind, CommitRequest};
use crate::engine::containers::path_stat::PathStat;
use crate::engine::{Engine, EngineError};
use crate::image::ImageError;
use crate::image::documents::{ImageHealthcheck, ImageSettings, Member};
use crate::sys::foreign_disk::ask;
use crate::units::Nanos;
use base64::Engine as _;
use hyper::body::Incoming;
use hyper::{Method, Request};
use std::sync::Arc;

/// The header with the stat of a path.
const STAT: &str = "x-docker-container-path-stat";

pub async fn archive(engine: &Arc<Engine>, id: &str, query: &Query, request: Request<Incoming>) -> Reply {
    let container = engine.containers.find(id)?;
    let path = query.get("path").filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| EngineError::Invalid("the path is missing".into()))?.to_string();
    let method = request.method().clone();
    if method == Method::PUT {
        let (worker, subject, own) = (engine.clone(), container.clone(), query.flag("copyUIDGID"));
        let taken = super::images::with_body(request, move |body| {
            let plain = crate::image::compression::plain_of_any(body).map_err(ImageError::store("reading the archive".into()))?;
            Ok(worker.files().write(&subject, &path, plain, own))
        });
        taken.await??;
        engine.containers.emit(&container, "extract-to-dir", &[]);
        return reply::empty(200);
    }
    if method == Method::DELETE {
        let engine = engine.clone();
        reply::archive_work(move || engine.files().remove(&container, &path)).await?;
        return reply::empty(204);
    }
    let (worker, asked, subject) = (engine.clone(), path.clone(), container.clone());
    // It is looked at beside the archives: the answer to HEAD has no words for that there are too many of those.
    let looking = tokio::task::spawn_blocking(move || ask(|| Ok(worker.files().stat(&subject, &asked))));
    let stat = looking.await.map_err(EngineError::from)?.map_err(EngineError::io(format!("looking at {path}")))??;
    let mut response = if method == Method::HEAD {
        reply::empty(200)?
    } else {
        engine.containers.emit(&container, "archive-path", &[]);
        let engine = engine.clone();
        reply::written(query, "application/x-tar", move |out| engine.files().read(&container, &path, out)).await?
    };
    let encoded = base64::engine::general_purpose::STANDARD.encode(serde_json::to_vec(&described(&stat)).unwrap_or_default());
    if let Ok(value) = hyper::header::HeaderValue::from_str(&encoded) {
        response.headers_mut().insert(STAT, value);
    }
    Ok(response)
}

pub async fn export(engine: &Arc<Engine>, id: &str, query: &Query) -> Reply {
    let container = engine.containers.find(id)?;
    engine.containers.emit(&container, "export", &[]);
    let engine = engine.clone();
    reply::written(query, "application/x-tar", move |out| engine.files().export(&container, out)).await
}

/// Bytes of the list of a container's changes, which is sent in one piece.
const MAX_CHANGES: usize = 16 << 20;

pub async fn changes(engine: &Arc<Engine>, id: &str) -> Reply {
    let container = engine.containers.find(id)?;
    let worker = engine.clone();
    let list = reply::archive_work(move || {
        let (mut list, mut count) = (Vec::new(), 0);
        worker.files().changes(&container, |change| {
            let kind = match change.kind {
                ChangeKind::Modified => 0,
                ChangeKind::Added => 1,
                ChangeKind::Deleted => 2,
            };
            count += 1;
            list.push(if list.is_empty() { b'[' } else { b',' });
            list.extend(serde_json::to_vec(&FileChange { path: change.path.clone(), kind }).unwrap_or_default());
            if list.len() > MAX_CHANGES {
                return Err(EngineError::Invalid(format!(
                    "{} has changed more than {count} files, whose list is longer than {} MiB: `wharf container export` has them all",
                    container.name(),
                    MAX_CHANGES >> 20
                )));
            }
            Ok(())
        })?;
        list.extend(if list.is_empty() { &b"[]"[..] } else { b"]" });
        Ok(list)
    })
    .await?;
    Ok(reply::json_text(list))
}

/// `POST /commit`.
pub async fn commit(engine: &Arc<Engine>, query: &Query, request: Request<Incoming>) -> Reply {
    let config = new_config(request_body::optional(request).await?);
    let container = engine.containers.find(query.get("container").unwrap_or_default())?;
    let text = |key: &str| query.get(key).unwrap_or_default().to_string();
    let (repository, tag) = (text("repo"), text("tag"));
    let name = if tag.is_empty() { repository } else { format!("{repository}:{tag}") };
    let commit = CommitRequest {
        name: (!name.is_empty()).then(|| name.parse()).transpose().map_err(ImageError::from)?,
        author: text("author"),
        comment: text("comment"),
        changes: query.all("changes").iter().flat_map(|c| c.lines()).map(str::to_string).collect(),
        config,
    };
    // The files must not change while they are read, unless the caller does not mind.
    let pause = query.get("pause") != Some("0")
        && query.get("pause") != Some("false")
        && container.status() == crate::engine::record::Status::Running;
    let (engine, comment) = (engine.clone(), commit.comment.clone());
    let image = reply::to_its_end(async move {
        let paused = pause
            && match engine.containers.pause(&container, true).await {
                Ok(()) => true,
                // It has ended meanwhile: nothing changes its files.
                Err(EngineError::NotRunning { .. }) => false,
                Err(error) => return Err(error),
            };
        let (worker, committed) = (engine.clone(), container.clone());
        let made = tokio::task::spawn_blocking(move || worker.files().commit(&committed, &commit)).await;
        if paused {
            match engine.containers.pause(&container, false).await {
                // It was killed or continued meanwhile.
                Ok(()) | Err(EngineError::NotRunning { .. } | EngineError::Conflict(_)) => {}
                Err(error) => tracing::warn!("continuing {} after a commit: {error}", container.name()),
            }
        }
        let image = made.map_err(EngineError::from)??;
        engine.containers.emit(&container, "commit", &[("comment", comment), ("imageID", image.id.to_string())]);
        Ok(image)
    })
    .await?;
    reply::json(201, &CreatedId { id: image.id.to_string() })
}

/// The body of a commit: what of the image is to be other than the container.
fn new_config(body: ContainerCreate) -> ImageSettings {
    let words = |words: Option<CommandLine>| words.map(|words| words.0).filter(|words| !words.is_empty());
    let members = |set: Set| set.into_keys().map(|key| (key, Member {})).collect();
    let time = |nanos: i64| u64::try_from(nanos).ok().map(Nanos).and_then(Nanos::positive);
    let health = body.healthcheck.filter(|health| !health.test.is_empty()).map(|health| ImageHealthcheck {
        test: health.test,
        interval: time(health.interval),
        timeout: time(health.timeout),
        start_period: time(health.start_period),
        start_interval: time(health.start_interval),
        retries: u32::try_from(health.retries).ok().filter(|retries| *retries > 0),
    });
    ImageSettings {
        user: body.user,
        working_dir: body.working_dir,
        stop_signal: Some(body.stop_signal).filter(|signal| !signal.is_empty()),
        cmd: words(body.cmd),
        entrypoint: words(body.entrypoint),
        healthcheck: health,
        labels: body.labels,
        exposed_ports: members(body.exposed_ports),
        volumes: members(body.volumes),
        env: body.env,
        ..ImageSettings::default()
    }
}

/// Docker's form: the mode is Go's `os.FileMode`.
fn described(stat: &PathStat) -> PathStatHeader {
    const SETUID: u32 = 0o4000;
    const SETGID: u32 = 0o2000;
    const STICKY: u32 = 0o1000;
    let mut mode = stat.mode & 0o777;
    mode |= match stat.mode & libc::S_IFMT {
        libc::S_IFDIR => 1 << 31,
        libc::S_IFLNK => 1 << 27,
        libc::S_IFBLK => 1 << 26,
        libc::S_IFIFO => 1 << 25,
        libc::S_IFSOCK => 1 << 24,
        libc::S_IFCHR => 1 << 26 | 1 << 21,
        _ => 0,
    };
    for (bit, go) in [(SETUID, 1 << 23), (SETGID, 1 << 22), (STICKY, 1 << 20)] {
        if stat.mode & bit != 0 {
            mode |= go;
        }
    }
    PathStatHeader {
        name: stat.name.clone(),
        size: stat.size,
        mode,
        mtime: stat.modified.to_string(),
        link_target: stat.link.clone(),
    }
}
