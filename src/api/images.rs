//! `/images`: Docker's calls about images.

pub mod prune;
pub mod transfer;

use super::reply::{self, Filters, Query, Reply};
use super::types::{
    GraphDriver, ImageHistoryItem, ImageInspect, ImageMetadata, ImageRemoval, ImageSummary, NEVER, ProgressLine, RootFsLayers,
    STORAGE_DRIVER, StringMap,
};
use crate::engine::record::ContainerRecord;
use crate::engine::{Engine, EngineError};
use crate::image::build::ignore::Pattern;
use crate::image::chunks::ChunkReader;
use crate::image::{ChainId, Digest, Image, ImageError, ImageRef, archive};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Request};
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub async fn route(engine: &Arc<Engine>, method: &Method, rest: &[&str], query: &Query, request: Request<Incoming>) -> Reply {
    match (method.as_str(), rest) {
        ("GET", ["json"]) => list(engine, query),
        ("POST", ["create"]) => match query.get("fromImage") {
            Some(image) if !image.is_empty() => transfer::pull(engine, image, query, &request).await,
            _ => import(engine, query, request).await,
        },
        ("POST", ["prune"]) => prune::images(engine, query).await,
        ("POST", ["load"]) => load(engine, request).await,
        ("GET", [name @ .., "json"]) => inspect(engine, &name.join("/"), query),
        ("GET", ["get"]) => save(engine, query.all("names"), query).await,
        ("GET", [name @ .., "files"]) => files(engine, &name.join("/"), query).await,
        ("GET", [name @ .., "get"]) => save(engine, &[name.join("/")], query).await,
        ("GET", [name @ .., "history"]) => history(engine, &name.join("/")),
        ("POST", [name @ .., "push"]) => transfer::push(engine, &name.join("/"), query, &request).await,
        ("POST", [name @ .., "tag"]) => {
            let repository = query.get("repo").ok_or_else(|| EngineError::Invalid("the new name is missing".into()))?;
            let text = query
                .get("tag")
                .filter(|tag| !tag.is_empty())
                .map_or_else(|| repository.to_string(), |tag| format!("{repository}:{tag}"));
            let image = named(engine, &name.join("/"))?;
            let target: ImageRef = text.parse().map_err(ImageError::from)?;
            engine.images.store.tag(&image, &target)?;
            engine.events.emit_image("tag", &image.id, &target);
            reply::empty(201)
        }
        ("DELETE", name) if !name.is_empty() => remove(engine, &name.join("/"), query),
        _ => super::server::not_found(method, request.uri().path()),
    }
}

fn created(image: &Image) -> i64 {
    image.config.created().as_ref().and_then(|c| c.parse::<jiff::Timestamp>().ok()).map_or(0, |t| t.as_second())
}

/// An image with all of its names.
pub(super) struct Grouped {
    pub image: Image,
    names: Vec<ImageRef>,
    digests: Vec<String>,
}

/// Images, each once, the newest first.
fn grouped(list: impl IntoIterator<Item = (Option<ImageRef>, Image)>) -> Vec<Grouped> {
    let mut groups: Vec<Grouped> = Vec::new();
    for (name, image) in list {
        let digest = name.as_ref().map(|name| format!("{}@{}", name.familiar_name(), image.manifest));
        let at = groups.iter().position(|group| group.image.id == image.id).unwrap_or_else(|| {
            groups.push(Grouped { image, names: Vec::new(), digests: Vec::new() });
            groups.len() - 1
        });
        let group = &mut groups[at];
        group.names.extend(name);
        group.digests.extend(digest.filter(|digest| !group.digests.contains(digest)));
    }
    groups.sort_by_key(|group| std::cmp::Reverse(created(&group.image)));
    groups
}

fn list(engine: &Engine, query: &Query) -> Reply {
    let mut filters = query.filters(&["before", "dangling", "label", "reference", "since", "until"])?;
    // Before 1.42 there was a parameter instead.
    if let Some(name) = query.get("filter").filter(|name| !name.is_empty()) {
        filters.entry("reference".into()).or_default().push(name.to_string());
    }
    let wanted = image_filter(engine, &filters)?;
    let counted = query.version >= (1, 51);
    let mut users: HashMap<String, usize> = HashMap::new();
    for container in engine.containers.all().iter().filter(|_| counted) {
        *users.entry(container.with_record(|record| record.image_id_text())).or_default() += 1;
    }
    let users = |group: &Grouped| counted.then(|| users.get(group.image.id.as_str()).copied().unwrap_or(0));
    let images = grouped(every(engine)?.filter(|one| wanted(one)));
    let mut list: Vec<ImageSummary> = images.iter().map(|group| summary(group, users(group), query)).collect();
    if query.flag("shared-size") {
        share(engine, &all(engine)?, &mut list);
    }
    reply::json(200, &list)
}

/// Says how many bytes of images are in layers that others have as well.
pub(super) fn share(engine: &Engine, all: &[Grouped], list: &mut [ImageSummary]) {
    let mut users: HashMap<&ChainId, usize> = HashMap::new();
    for layer in all.iter().flat_map(|group| &group.image.layers) {
        *users.entry(layer).or_default() += 1;
    }
    for summary in list {
        let Some(group) = all.iter().find(|group| group.image.id.as_str() == summary.id) else { continue };
        let shared = group.image.layers.iter().filter(|layer| users.get(layer).is_some_and(|users| *users > 1));
        let bytes: u64 = shared.filter_map(|layer| engine.images.store.has_layer(layer)).sum();
        summary.shared_size = i64::try_from(bytes).unwrap_or(i64::MAX);
    }
}

/// An image as lists show it, and how many containers have it where they were counted.
pub(super) fn summary(group: &Grouped, containers: Option<usize>, query: &Query) -> ImageSummary {
    let image = &group.image;
    let labels = image.config.config().as_ref().and_then(|config| config.labels().as_ref());
    ImageSummary {
        id: image.id.to_string(),
        parent_id: String::new(),
        repo_tags: group.names.iter().map(ImageRef::familiar).collect(),
        repo_digests: group.digests.clone(),
        created: created(image),
        size: image.size,
        virtual_size: (query.version < (1, 44)).then_some(image.size),
        labels: labels.map(|labels| labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect()),
        containers: containers.map_or(-1, |count| i64::try_from(count).unwrap_or(i64::MAX)),
        shared_size: -1,
    }
}

/// Every image under each of its names, and those without a name.
fn every(engine: &Engine) -> Result<impl Iterator<Item = (Option<ImageRef>, Image)>, EngineError> {
    let named = engine.images.store.list()?.into_iter().map(|(name, image)| (Some(name), image));
    Ok(named.chain(engine.images.store.unnamed()?.into_iter().map(|image| (None, image))))
}

/// All images, each once, the newest first.
pub(super) fn all(engine: &Engine) -> Result<Vec<Grouped>, EngineError> {
    Ok(grouped(every(engine)?))
}

/// The labels that an image gives to its containers.
fn labels(image: &Image) -> IndexMap<String, String> {
    let labels = image.config.config().as_ref().and_then(|config| config.labels().as_ref());
    labels.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Docker's filters of images. Those without a name are what `dangling=true` means.
fn image_filter(engine: &Engine, filters: &Filters) -> Result<impl Fn(&(Option<ImageRef>, Image)) -> bool, EngineError> {
    let moments = |key: &str| -> Result<Vec<i64>, EngineError> {
        let names = filters.get(key).into_iter().flatten();
        names.map(|name| Ok(created(&engine.images.find(name)?.1))).collect()
    };
    let (before, since) = (moments("before")?.into_iter().min(), moments("since")?.into_iter().max());
    let dangling = reply::boolean(filters, "dangling")?;
    let old_enough = reply::older_than(filters)?;
    // One that is no pattern fits no image.
    let patterns = filters.get("reference").map(|texts| texts.iter().filter_map(|text| Pattern::parse(text)).collect::<Vec<_>>());
    Ok(move |(name, image): &(Option<ImageRef>, Image)| {
        let created = created(image);
        let fits = |pattern: &Pattern| {
            let fits = |text: String| pattern.matches(Path::new(&text));
            name.as_ref().is_some_and(|name| fits(name.familiar()) || fits(name.familiar_name()))
        };
        before.is_none_or(|before| created < before)
            && since.is_none_or(|since| created > since)
            && patterns.as_ref().is_none_or(|patterns| patterns.iter().any(fits))
            && dangling.is_none_or(|dangling| dangling == name.is_none())
            && old_enough(jiff::Timestamp::from_second(created).unwrap_or_default())
            && reply::labelled(&labels(image), filters)
    })
}

/// Takes a name from an image or, by its id, all of them. The image is deleted with its last name.
fn remove(engine: &Engine, name: &str, query: &Query) -> Reply {
    let force = query.flag("force");
    let found = match engine.images.find(name) {
        Ok(found) => found,
        // It may be there and damaged, so that only its name can be taken away.
        Err(error @ EngineError::NoSuch { .. }) => {
            return match engine.images.remove(name, force) {
                Ok(_) => reply::json(200, &[untagged(name)]),
                Err(_) if force && query.version >= (1, 53) => reply::json(200, &[(); 0]),
                Err(_) => Err(error),
            };
        }
        Err(error) => return Err(error),
    };
    let (reference, image) = found;
    let names: Vec<ImageRef> =
        engine.images.store.list()?.into_iter().filter(|(_, known)| known.id == image.id).map(|(name, _)| name).collect();
    let by_id = !name.parse::<ImageRef>().is_ok_and(|parsed| Some(&parsed) == reference.as_ref());
    let mut removed = Vec::new();
    let going = if by_id { names.clone() } else { reference.into_iter().collect() };
    let repositories: std::collections::BTreeSet<String> = going.iter().map(ImageRef::familiar_name).collect();
    if by_id && repositories.len() > 1 && !force {
        return Err(EngineError::Conflict(format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            &image.id.hex()[..12]
        )));
    }
    let users = engine.containers.all();
    let uses = |record: &ContainerRecord| record.image_id.as_ref() == Some(&image.id);
    let running = || users.iter().any(|container| container.status().is_alive() && container.with_record(uses));
    if by_id && force && running() {
        return Err(EngineError::Conflict(format!(
            "conflict: unable to delete {} (cannot be forced) - image is being used by running container",
            &image.id.hex()[..12]
        )));
    }
    let going: Vec<String> =
        if names.is_empty() { vec![name.to_string()] } else { going.iter().map(ImageRef::to_string).collect() };
    for name in &going {
        let gone = engine.images.remove(name, force)?;
        removed.extend(gone.untagged.iter().map(|name| untagged(name.familiar())));
        removed.extend(gone.deleted.iter().map(deleted));
    }
    reply::json(200, &removed)
}

fn inspect(engine: &Engine, name: &str, query: &Query) -> Reply {
    let (reference, image) = engine.images.find(name)?;
    let others = engine
        .images
        .store
        .list()?
        .into_iter()
        .filter(|(other, found)| found.id == image.id && Some(other) != reference.as_ref());
    let mut names: Vec<(ImageRef, Digest)> = reference
        .iter()
        .map(|reference| (reference.clone(), image.manifest.clone()))
        .chain(others.map(|(other, found)| (other, found.manifest)))
        .collect();
    names.sort();
    let stored: StoredConfiguration = serde_json::from_slice(&engine.images.store.configuration(&image)?)
        .map_err(|e| EngineError::Invalid(format!("the configuration of {} is damaged: {e}", image.id)))?;
    let comment = stored.history.and_then(|steps| steps.into_iter().last()?.comment);
    let inspected = ImageInspect {
        id: image.id.to_string(),
        repo_tags: names.iter().map(|(name, _)| name.familiar()).collect(),
        repo_digests: names.iter().map(|(name, digest)| format!("{}@{digest}", name.familiar_name())).collect(),
        comment: comment.unwrap_or_default(),
        created: image.config.created().clone(),
        author: stored.author.unwrap_or_default(),
        config: stored.config,
        architecture: image.config.architecture().to_string(),
        variant: stored.variant,
        os: image.config.os().to_string(),
        size: image.size,
        virtual_size: (query.version < (1, 44)).then_some(image.size),
        graph_driver: GraphDriver { name: STORAGE_DRIVER.into(), data: StringMap::new() },
        root_fs: RootFsLayers { kind: "layers".into(), layers: image.diff_ids.iter().map(ToString::to_string).collect() },
        // There is no record of when an image got its name; clients show how long ago that was.
        metadata: ImageMetadata { last_tag_time: image.config.created().clone().unwrap_or_else(|| NEVER.into()) },
        attestations: serde_json::to_value(engine.images.store.predicates(&image)?).unwrap_or_default(),
        ..ImageInspect::default()
    };
    reply::json(200, &inspected)
}

/// A configuration as it is stored: with what Docker has beside OCI's fields as well, such as Healthcheck and Shell.
#[derive(Default, Deserialize)]
#[serde(default)]
struct StoredConfiguration {
    config: Value,
    author: Option<String>,
    variant: Option<String>,
    history: Option<Vec<StoredStep>>,
}

/// A step of an image's history.
#[derive(Default, Deserialize)]
#[serde(default)]
struct StoredStep {
    created: Option<String>,
    created_by: Option<String>,
    comment: Option<String>,
    empty_layer: Option<bool>,
}

fn untagged(name: impl Into<String>) -> ImageRemoval {
    ImageRemoval { untagged: name.into(), ..ImageRemoval::default() }
}

fn deleted(id: &Digest) -> ImageRemoval {
    ImageRemoval { deleted: id.to_string(), ..ImageRemoval::default() }
}

/// Images as an archive.
/// With `as`, which Docker has not, they have those names in it and not their own.
async fn save(engine: &Arc<Engine>, names: &[String], query: &Query) -> Reply {
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
    images.iter().for_each(|(_, image)| engine.events.emit_image_id("save", &image.id));
    let store = engine.images.store.clone();
    reply::written(query, "application/x-tar", move |out| archive::save(&store, &images, out)).await
}

/// `GET /images/{name}/files`, wharf's own: what a container of the image would find, as a tar.
async fn files(engine: &Arc<Engine>, name: &str, query: &Query) -> Reply {
    let image = named(engine, name)?;
    let engine = engine.clone();
    reply::written(query, "application/x-tar", move |out| engine.files().export_image(&image, out)).await
}

/// An image by its name or id, or by the digest of its manifest, as one has it that was built without a name.
fn named(engine: &Engine, name: &str) -> Result<Image, EngineError> {
    let by_manifest = || engine.images.store.by_manifest(&name.parse::<Digest>().ok()?);
    engine.images.find(name).map(|(_, image)| image).or_else(|error| by_manifest().ok_or(error))
}

/// The steps that made an image, the last first.
fn history(engine: &Engine, name: &str) -> Reply {
    let (reference, image) = engine.images.find(name)?;
    let stored: StoredConfiguration = serde_json::from_slice(&engine.images.store.configuration(&image)?).unwrap_or_default();
    let mut layers = image.layers.iter();
    let mut steps = Vec::new();
    for entry in stored.history.unwrap_or_default() {
        let layer = if entry.empty_layer == Some(true) { None } else { layers.next() };
        let created = entry.created.and_then(|text| text.parse::<jiff::Timestamp>().ok()).map_or(0, |time| time.as_second());
        steps.push(ImageHistoryItem {
            id: "<missing>".into(),
            created,
            created_by: entry.created_by.unwrap_or_default(),
            comment: entry.comment.unwrap_or_default(),
            size: layer.and_then(|layer| engine.images.store.has_layer(layer)).unwrap_or(0),
            tags: None,
        });
    }
    if let Some(last) = steps.last_mut() {
        last.id = image.id.to_string();
        last.tags = Some(reference.iter().map(ImageRef::familiar).collect());
    }
    steps.reverse();
    reply::json(200, &steps)
}

/// `POST /images/create?fromSrc=-`: a root file system as an image. Without a name, the image can be used by its id until images
/// are pruned.
async fn import(engine: &Arc<Engine>, query: &Query, request: Request<Incoming>) -> Reply {
    if let Some(source) = query.get("fromSrc").filter(|source| !matches!(*source, "" | "-")) {
        return Err(EngineError::Invalid(format!("cannot import from {source}: send the archive as the request's body")));
    }
    let repository = query.get("repo").unwrap_or_default();
    let tag = query.get("tag").filter(|tag| !tag.is_empty());
    let text = tag.map_or_else(|| repository.to_string(), |tag| format!("{repository}:{tag}"));
    if text.is_empty() {
        return Err(EngineError::Invalid("the image needs a name: `repo`".into()));
    }
    let name: ImageRef = text.parse().map_err(ImageError::from)?;
    let changes = query.all("changes").to_vec();
    let comment = query.get("message").filter(|text| !text.is_empty()).unwrap_or("Imported from -").to_string();
    let worker = engine.clone();
    let target = name.clone();
    let image = with_body(request, move |body| archive::import(&worker.images.store, body, &target, &comment, &changes)).await?;
    engine.events.emit_image("import", &image.id, &name);
    reply::json(200, &ProgressLine::status(image.id.to_string()))
}

/// As with Docker, what is wrong with an archive is said in the progress. wharf's own client reads the status.
async fn load(engine: &Arc<Engine>, request: Request<Incoming>) -> Reply {
    let own = request.headers().contains_key(super::WARNING_HEADER);
    let worker = engine.clone();
    let loaded = with_body(request, move |body| {
        archive::load(&worker.images.store, body, &worker.config.data_root.join("images/staging"))
    })
    .await;
    let loaded = match loaded {
        Err(error @ EngineError::Image(_)) if !own => return progress(ProgressLine::failed(&error.to_string(), None).to_line()),
        loaded => loaded?,
    };
    loaded.iter().for_each(|(_, image)| engine.events.emit_image_id("load", &image.id));
    let line = |name: &ImageRef| ProgressLine::stream(format!("Loaded image: {}\n", name.familiar())).to_line();
    let lines: String = loaded.iter().map(|(name, _)| line(name)).collect();
    progress(lines)
}

/// Lines of JSON: the CLI knows them by the type of the content.
fn progress(lines: String) -> Reply {
    let mut response = reply::text(200, lines)?;
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Gives a request's body to blocking work as a reader.
pub(super) async fn with_body<T: Send + 'static>(
    request: Request<Incoming>,
    work: impl FnOnce(ChunkReader) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, EngineError> {
    let thread = reply::archive_thread()?;
    let (sender, reader) = ChunkReader::channel(16);
    let working = tokio::task::spawn_blocking(move || {
        let _thread = thread;
        work(reader)
    });
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
