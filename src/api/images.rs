//! `/images`: Docker's calls about images.

use super::reply::{self, Filters, Query, Reply};
use crate::engine::projects::Progress;
use crate::engine::{Engine, EngineError};
use crate::image::chunks::ChunkReader;
use crate::image::{Digest, Image, ImageError, ImageRef, archive};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Request};
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;

pub async fn route(engine: &Arc<Engine>, method: &Method, rest: &[&str], query: &Query, request: Request<Incoming>) -> Reply {
    match (method.as_str(), rest) {
        ("GET", ["json"]) => list(engine, query),
        ("POST", ["create"]) => match query.get("fromImage") {
            Some(image) => pull(engine, image, query),
            None => import(engine, query, request).await,
        },
        ("POST", ["prune"]) => prune(engine, query).await,
        ("POST", ["load"]) => load(engine, request).await,
        ("GET", [name @ .., "json"]) => inspect(engine, &name.join("/")),
        ("GET", ["get"]) => save(engine, query.all("names"), query),
        ("GET", [name @ .., "files"]) => files(engine, &name.join("/")),
        ("GET", [name @ .., "get"]) => save(engine, &[name.join("/")], query),
        ("GET", [name @ .., "history"]) => history(engine, &name.join("/")),
        ("POST", [name @ .., "push"]) => push(engine, &name.join("/"), query),
        ("POST", [name @ .., "tag"]) => {
            let repository = query.get("repo").ok_or_else(|| EngineError::Invalid("the new name is missing".into()))?;
            let text = query
                .get("tag")
                .filter(|tag| !tag.is_empty())
                .map_or_else(|| repository.to_string(), |tag| format!("{repository}:{tag}"));
            let image = named(engine, &name.join("/"))?;
            engine.images.store.tag(&image, &text.parse().map_err(ImageError::from)?)?;
            reply::empty(201)
        }
        ("DELETE", name) if !name.is_empty() => {
            engine.images.remove(&name.join("/"))?;
            reply::json(200, &json!([{"Untagged": name.join("/")}]))
        }
        _ => super::server::not_found(method, request.uri().path()),
    }
}

fn created(image: &Image) -> i64 {
    image.config.created().as_ref().and_then(|c| c.parse::<jiff::Timestamp>().ok()).map_or(0, |t| t.as_second())
}

fn list(engine: &Engine, query: &Query) -> Reply {
    let filters = query.filters();
    let wanted = wanted_images(engine, &filters)?;
    let value = |(name, image): &(Option<ImageRef>, Image)| {
        json!({
            "Id": image.id,
            "RepoTags": name.iter().map(ImageRef::familiar).collect::<Vec<_>>(),
            "RepoDigests": name.iter().map(|name| format!("{}@{}", name.familiar_name(), image.manifest)).collect::<Vec<_>>(),
            "Created": created(image),
            "Size": image.size,
            "Labels": image.config.config().as_ref().and_then(|c| c.labels().clone()),
            "Containers": -1,
            "SharedSize": -1,
        })
    };
    let named = engine.images.store.list()?.into_iter().map(|(name, image)| (Some(name), image));
    let all: Vec<_> = named.chain(engine.images.store.unnamed()?.into_iter().map(|image| (None, image))).collect();
    reply::json(200, &all.iter().filter(|one| wanted(one)).map(value).collect::<Vec<Value>>())
}

/// Docker's filters of images. Those without a name are what `dangling=true` means.
fn wanted_images(engine: &Engine, filters: &Filters) -> Result<impl Fn(&(Option<ImageRef>, Image)) -> bool, EngineError> {
    let moment = |key: &str| -> Result<Option<i64>, EngineError> {
        let name = filters.get(key).and_then(|names| names.first());
        name.map(|name| Ok(created(&engine.images.find(name)?.1))).transpose()
    };
    let (before, since) = (moment("before")?, moment("since")?);
    Ok(move |(name, image): &(Option<ImageRef>, Image)| {
        let labels = image.config.config().as_ref().and_then(|config| config.labels().clone()).unwrap_or_default();
        let fits = |pattern: &String| {
            let pattern = crate::image::build::ignore::Pattern::parse(pattern);
            let fits = |text: &str| pattern.as_ref().is_some_and(|pattern| pattern.matches(std::path::Path::new(text)));
            name.as_ref().is_some_and(|name| fits(&name.familiar()) || fits(&name.familiar_name()))
        };
        before.is_none_or(|before| created(image) < before)
            && since.is_none_or(|since| created(image) > since)
            && filters.get("reference").is_none_or(|patterns| patterns.iter().any(fits))
            && filters
                .get("dangling")
                .is_none_or(|values| values.iter().all(|value| (value == "false" || value == "0") == name.is_some()))
            && reply::labelled(&labels.into_iter().collect(), filters)
    })
}

fn inspect(engine: &Engine, name: &str) -> Reply {
    let (reference, image) = engine.images.find(name)?;
    // The one that was asked for first, then the image's others.
    let others = engine
        .images
        .store
        .list()?
        .into_iter()
        .filter(|(other, found)| found.id == image.id && Some(other) != reference.as_ref());
    let names: Vec<(ImageRef, Digest)> = reference
        .iter()
        .map(|reference| (reference.clone(), image.manifest.clone()))
        .chain(others.map(|(other, found)| (other, found.manifest)))
        .collect();
    // As the image has it: what Docker has beside OCI's fields as well, such as Healthcheck and Shell.
    let whole: Value = serde_json::from_slice(&engine.images.store.configuration(&image)?)
        .map_err(|e| EngineError::Invalid(format!("the configuration of {} is damaged: {e}", image.id)))?;
    reply::json(
        200,
        &json!({
            "Id": image.id,
            "RepoTags": names.iter().map(|(name, _)| name.familiar()).collect::<Vec<_>>(),
            "RepoDigests": names.iter().map(|(name, digest)| format!("{}@{digest}", name.familiar_name())).collect::<Vec<_>>(),
            "Created": image.config.created(),
            "Architecture": image.config.architecture(),
            "Os": image.config.os(),
            "Size": image.size,
            "Config": whole["config"],
            "Author": whole["author"].as_str().unwrap_or_default(),
            "Variant": whole["variant"],
            "RootFS": {"Type": "layers", "Layers": image.diff_ids},
            // wharf's own: what a push will say of it.
            "Attestations": engine.images.store.predicates(&image)?,
        }),
    )
}

/// Removes what nothing needs. Docker's filter `dangling=false` stands for images that no container uses as well.
async fn prune(engine: &Arc<Engine>, query: &Query) -> Reply {
    let all = query.filters().get("dangling").is_some_and(|values| values.iter().any(|value| value == "false" || value == "0"));
    let (removed, pruned) = engine.images.prune(all, query.flag("builds")).await?;
    let removed: Vec<Value> = removed.iter().map(|name| json!({"Untagged": name})).collect();
    reply::json(
        200,
        &json!({"ImagesDeleted": removed, "SpaceReclaimed": pruned.bytes, "Layers": pruned.layers, "Blobs": pruned.blobs}),
    )
}

/// Images as an archive.
/// With `as`, which Docker has not, they have those names in it and not their own.
fn save(engine: &Arc<Engine>, names: &[String], query: &Query) -> Reply {
    let others = query.get("as").map(|_| query.all("as").iter().filter(|name| !name.is_empty()));
    let others: Option<Vec<ImageRef>> =
        others.map(|names| names.map(|name| name.parse()).collect::<Result<_, _>>()).transpose().map_err(ImageError::from)?;
    let one = |name: &String| -> Result<(Vec<ImageRef>, Image), EngineError> {
        match &others {
            Some(others) => Ok((others.clone(), named(engine, name)?)),
            None => engine.images.find(name).map(|(own, image)| (own.into_iter().collect(), image)),
        }
    };
    let images: Vec<(Vec<ImageRef>, Image)> = names.iter().map(one).collect::<Result<_, _>>()?;
    let store = engine.images.store.clone();
    reply::written("application/x-tar", move |out| archive::save(&store, &images, out))
}

/// `GET /images/{name}/files`, wharf's own: what a container of the image would find, as a tar.
fn files(engine: &Arc<Engine>, name: &str) -> Reply {
    let image = named(engine, name)?;
    let engine = engine.clone();
    reply::written("application/x-tar", move |out| engine.files.export_image(&image, out))
}

/// An image by its name or id, or by the digest of its manifest, as one has it that was built without a name.
fn named(engine: &Engine, name: &str) -> Result<Image, EngineError> {
    let by_manifest = || engine.images.store.by_manifest(&name.parse::<Digest>().ok()?);
    engine.images.find(name).map(|(_, image)| image).or_else(|error| by_manifest().ok_or(error))
}

/// The steps that made an image, the last first.
fn history(engine: &Engine, name: &str) -> Reply {
    let (reference, image) = engine.images.find(name)?;
    let config: Value = serde_json::from_slice(&engine.images.store.configuration(&image)?).unwrap_or_default();
    let mut layers = image.layers.iter();
    let mut steps = Vec::new();
    for entry in config["history"].as_array().into_iter().flatten() {
        let layer = if entry["empty_layer"] == json!(true) { None } else { layers.next() };
        let created = entry["created"].as_str().and_then(|c| c.parse::<jiff::Timestamp>().ok()).map_or(0, |t| t.as_second());
        steps.push(json!({
            "Id": "<missing>",
            "Created": created,
            "CreatedBy": entry["created_by"].as_str().unwrap_or_default(),
            "Comment": entry["comment"].as_str().unwrap_or_default(),
            "Size": layer.and_then(|layer| engine.images.store.has_layer(layer)).unwrap_or(0),
            "Tags": null,
        }));
    }
    if let Some(last) = steps.last_mut() {
        last["Id"] = json!(image.id);
        last["Tags"] = json!(reference.iter().map(ImageRef::familiar).collect::<Vec<_>>());
    }
    steps.reverse();
    reply::json(200, &steps)
}

/// `/auth`: whether a registry takes a login.
pub async fn login(engine: &Engine, request: Request<Incoming>) -> Reply {
    let wanted: Value = reply::json_body(request).await?;
    let text = |key: &str| wanted[key].as_str().unwrap_or_default().to_string();
    let host = text("serveraddress");
    let host = host.trim_start_matches("https://").trim_start_matches("http://").split('/').next().unwrap_or_default();
    let host = if matches!(host, "" | "index.docker.io") { "docker.io" } else { host };
    engine.images.registry.check_login(host, &text("username"), &text("password")).await?;
    reply::json(200, &json!({"Status": "Login Succeeded", "IdentityToken": ""}))
}

/// `/distribution/NAME/json`: what a registry has under a tag now.
pub async fn distribution(engine: &Engine, name: &str) -> Reply {
    let reference: ImageRef = name.parse().map_err(ImageError::from)?;
    let (digest, kind, size) = engine.images.registry.resolve(&reference).await?;
    reply::json(200, &json!({"Descriptor": {"digest": digest, "mediaType": kind, "size": size}, "Platforms": []}))
}

/// Docker's progress: a JSON object a line; a failure is one of them, since the status has been sent by then.
fn pull(engine: &Arc<Engine>, image: &str, query: &Query) -> Reply {
    let image = match query.get("tag").filter(|t| !t.is_empty()) {
        Some(tag) if tag.contains(':') => format!("{image}@{tag}"),
        Some(tag) => format!("{image}:{tag}"),
        None => image.to_string(),
    };
    let _: ImageRef = image.parse().map_err(ImageError::from)?;
    let (sender, receiver) = mpsc::channel::<Bytes>(64);
    let engine = engine.clone();
    tokio::spawn(async move {
        let (progress, mut steps) = mpsc::unbounded_channel();
        let pulling = tokio::spawn(async move { engine.images.pull(&image, progress).await.map(|()| image) });
        let line = |value: Value| Bytes::from(format!("{value}\n"));
        while let Some(step) = steps.recv().await {
            if let Progress::Layer { id, status, current, total, .. } = step {
                let value = json!({"id": id, "status": status, "progressDetail": {"current": current, "total": total}});
                let _ = sender.send(line(value)).await;
            }
        }
        let last = match pulling.await {
            Ok(Ok(image)) => json!({"status": format!("Status: Downloaded newer image for {image}")}),
            Ok(Err(error)) => json!({"error": error.to_string(), "errorDetail": {"message": error.to_string()}}),
            Err(error) => json!({"error": error.to_string(), "errorDetail": {"message": error.to_string()}}),
        };
        let _ = sender.send(line(last)).await;
    });
    reply::stream("application/json", reply::receiver_stream(receiver))
}

/// As [`pull`], the other way. Docker's clients give the tag in the query.
fn push(engine: &Arc<Engine>, name: &str, query: &Query) -> Reply {
    let text = query.get("tag").filter(|tag| !tag.is_empty()).map_or_else(|| name.to_string(), |tag| format!("{name}:{tag}"));
    let reference: ImageRef = text.parse().map_err(ImageError::from)?;
    let image = engine.images.store.find(&reference)?.ok_or_else(|| EngineError::NoSuch { what: "image", name: text.clone() })?;
    let (sender, receiver) = mpsc::channel::<Bytes>(64);
    let engine = engine.clone();
    tokio::spawn(async move {
        let (progress, mut steps) = mpsc::unbounded_channel();
        let report: crate::image::Report = Arc::new(move |step| drop(progress.send(step)));
        let pushing =
            tokio::spawn(async move { engine.images.registry.push(&engine.images.store, &reference, &image, report).await });
        let line = |value: Value| Bytes::from(format!("{value}\n"));
        while let Some(crate::image::Progress::Layer { id, status, current, total }) = steps.recv().await {
            let value = json!({"id": id, "status": status, "progressDetail": {"current": current, "total": total}});
            let _ = sender.send(line(value)).await;
        }
        let failed = |error: String| json!({"error": error, "errorDetail": {"message": error}});
        let last = match pushing.await {
            Ok(Ok((digest, size))) => json!({"aux": {"Tag": text, "Digest": digest, "Size": size}}),
            Ok(Err(error)) => failed(error.to_string()),
            Err(error) => failed(error.to_string()),
        };
        let _ = sender.send(line(last)).await;
    });
    reply::stream("application/json", reply::receiver_stream(receiver))
}

async fn import(engine: &Arc<Engine>, query: &Query, request: Request<Incoming>) -> Reply {
    let repository = query.get("repo").ok_or_else(|| EngineError::Invalid("the image needs a name".into()))?;
    let text = query.get("tag").map_or_else(|| repository.to_string(), |tag| format!("{repository}:{tag}"));
    let name: ImageRef = text.parse().map_err(ImageError::from)?;
    let changes = query.all("changes").to_vec();
    let engine = engine.clone();
    let image = with_body(request, move |body| archive::import(&engine.images.store, body, &name, &changes)).await?;
    reply::json(200, &json!({"status": image.id}))
}

async fn load(engine: &Arc<Engine>, request: Request<Incoming>) -> Reply {
    let engine = engine.clone();
    let loaded = with_body(request, move |body| {
        archive::load(&engine.images.store, body, &engine.config.data_root.join("images/staging"))
    })
    .await?;
    let lines: Vec<String> =
        loaded.iter().map(|(name, _)| json!({"stream": format!("Loaded image: {}\n", name.familiar())}).to_string()).collect();
    reply::text(200, lines.join("\n"))
}

/// Gives a request's body to blocking work as a reader.
pub(super) async fn with_body<T: Send + 'static>(
    request: Request<Incoming>,
    work: impl FnOnce(ChunkReader) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, EngineError> {
    let (sender, reader) = ChunkReader::channel(16);
    let working = tokio::task::spawn_blocking(move || work(reader));
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let chunk = match frame {
            Ok(frame) => frame.into_data().unwrap_or_default(),
            Err(error) => {
                let _ = sender.send(Err(io::Error::other(error.to_string()))).await;
                break;
            }
        };
        if sender.send(Ok(chunk)).await.is_err() {
            // The work is done, or has failed. What still comes is read all the same: a client that cannot send it does not
            // look for the answer.
            tokio::spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
            break;
        }
    }
    drop(sender);
    Ok(working.await.map_err(EngineError::from)??)
}
