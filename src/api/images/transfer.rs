//! Images to and from registries, with the login that comes with the request.

use crate::api::logins;
use crate::api::reply::{self, Query, Reply};
use crate::api::request_body;
use crate::api::types::{
    DescriptorAnswer, DistributionInspect, LoginAnswer, LoginRequest, PlatformAnswer, ProgressDetail, ProgressLine, PushedDigest,
};
use crate::engine::{Engine, EngineError};
use crate::image::credentials::host_of;
use crate::image::manifest::Platform;
use crate::image::registry::Registry;
use crate::image::{Image, ImageError, ImageRef};
use crate::wire::Progress;
use bytes::Bytes;
use futures::StreamExt;
use hyper::Request;
use hyper::body::Incoming;
use std::sync::Arc;
use tokio::sync::mpsc;

/// `/auth`: whether a registry takes a login.
pub async fn login(engine: &Engine, request: Request<Incoming>) -> Reply {
    let login: LoginRequest = request_body::json(request).await?;
    engine.images.registry.check_login(host_of(&login.server_address), &login.username, &login.password).await?;
    reply::json(200, &LoginAnswer { status: "Login Succeeded".into(), identity_token: String::new() })
}

/// `/distribution/NAME/json`: what a registry has under a tag now.
pub async fn distribution(engine: &Engine, name: &str, request: &Request<Incoming>) -> Reply {
    let reference: ImageRef = name.parse().map_err(ImageError::from)?;
    let registry = engine.images.registry.with_logins(logins::of(request, &reference.host));
    let found = registry.inspect(&reference).await?;
    let platform = |platform: &Platform| PlatformAnswer {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
    };
    let descriptor = DescriptorAnswer { media_type: found.kind, digest: found.digest.to_string(), size: found.size };
    reply::json(200, &DistributionInspect { descriptor, platforms: found.platforms.iter().map(platform).collect() })
}

/// Whether a name has neither tag nor digest: to Docker it stands for all tags.
fn is_bare(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    !last.contains(':') && !name.contains('@')
}

/// Docker's progress: a JSON object a line. A failure before the first of them is the answer's status; later it is a line.
pub async fn pull(engine: &Arc<Engine>, image: &str, query: &Query, request: &Request<Incoming>) -> Reply {
    let tag = query.get("tag").filter(|tag| !tag.is_empty());
    let name = match tag {
        Some(tag) if tag.contains(':') => format!("{image}@{tag}"),
        Some(tag) => format!("{image}:{tag}"),
        None => image.to_string(),
    };
    let reference: ImageRef = name.parse().map_err(ImageError::from)?;
    let registry = engine.images.registry.with_logins(logins::of(request, &reference.host));
    let all = tag.is_none() && is_bare(image) && !logins::is_own(request);
    let references = match all {
        true => registry.tags(&reference).await?,
        false => vec![reference],
    };
    let (sender, mut receiver) = mpsc::channel::<Bytes>(64);
    let engine = engine.clone();
    let pulling = tokio::spawn(async move {
        let mut lines = ProgressLines { sender, any: false };
        for reference in references {
            if lines.sender.is_closed() {
                return Ok(());
            }
            match pull_one(&engine, &registry, &reference, &mut lines).await {
                Ok(()) => {}
                Err(error) if lines.any => return lines.failed(&error).await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    });
    let Some(first) = receiver.recv().await else {
        pulling.await.map_err(EngineError::from)??;
        return reply::stream("application/json", futures::stream::empty());
    };
    let first = futures::stream::once(std::future::ready(first));
    reply::stream("application/json", first.chain(reply::receiver_stream(receiver)))
}

/// The stream to a client, a JSON object a line.
struct ProgressLines {
    sender: mpsc::Sender<Bytes>,
    any: bool,
}

impl ProgressLines {
    /// The next step of a pull or a push; `None` at its end, or when the client has left, which ends it as with Docker.
    async fn next<T>(&self, steps: &mut mpsc::UnboundedReceiver<T>) -> Option<T> {
        tokio::select! {
            step = steps.recv() => step,
            () = self.sender.closed() => None,
        }
    }

    async fn send(&mut self, line: ProgressLine) {
        self.any = true;
        let _ = self.sender.send(Bytes::from(line.to_line())).await;
    }

    async fn failed(&mut self, error: &EngineError) -> Result<(), EngineError> {
        let code = Some(error.status()).filter(|status| *status == 401);
        self.send(ProgressLine::failed(&error.to_string(), code.map(i64::from))).await;
        Ok(())
    }
}

async fn pull_one(
    engine: &Arc<Engine>,
    registry: &Registry,
    name: &ImageRef,
    lines: &mut ProgressLines,
) -> Result<(), EngineError> {
    let manifest = || engine.images.store.find(name).ok().flatten().map(|image| image.manifest);
    let before = manifest();
    let (progress, mut steps) = mpsc::unbounded_channel();
    let pulling = {
        let (engine, registry, name) = (engine.clone(), registry.clone(), name.to_string());
        tokio::spawn(async move { engine.images.pull_from(&registry, &name, progress).await })
    };
    let mut from = Some(ProgressLine {
        id: Some(name.version().to_string()),
        ..ProgressLine::status(format!("Pulling from {}", name.familiar_name()))
    });
    while let Some(step) = lines.next(&mut steps).await {
        if let Progress::Layer { id, status, current, total, .. } = step {
            if let Some(from) = from.take() {
                lines.send(from).await;
            }
            lines.send(ProgressLine::layer(id, status, current, total)).await;
        }
    }
    if lines.sender.is_closed() {
        pulling.abort();
        return Ok(());
    }
    pulling.await.map_err(EngineError::from)??;
    let after = manifest();
    let what = if after == before { "Image is up to date" } else { "Downloaded newer image" };
    let digest = after.map(|digest| ProgressLine::status(format!("Digest: {digest}")));
    let status = ProgressLine::status(format!("Status: {what} for {}", name.familiar()));
    for line in from.into_iter().chain(digest).chain([status]) {
        lines.send(line).await;
    }
    Ok(())
}

/// As [`pull`], the other way. Docker's clients give the tag in the query; without one, all tags of the repository are meant.
pub async fn push(engine: &Arc<Engine>, name: &str, query: &Query, request: &Request<Incoming>) -> Reply {
    let tag = query.get("tag").filter(|tag| !tag.is_empty());
    let text = tag.map_or_else(|| name.to_string(), |tag| format!("{name}:{tag}"));
    let reference: ImageRef = text.parse().map_err(ImageError::from)?;
    let registry = engine.images.registry.with_logins(logins::of(request, &reference.host));
    let images: Vec<(ImageRef, Image)> = match is_bare(&text) {
        true => {
            let same = |known: &ImageRef| known.host == reference.host && known.path == reference.path && known.tag.is_some();
            engine.images.store.list()?.into_iter().filter(|(known, _)| same(known)).collect()
        }
        false => engine.images.store.find(&reference)?.map(|image| (reference.clone(), image)).into_iter().collect(),
    };
    if images.is_empty() {
        return Err(EngineError::NoSuch { what: "local image", name: text });
    }
    let (sender, receiver) = mpsc::channel::<Bytes>(64);
    let engine = engine.clone();
    tokio::spawn(async move {
        let mut lines = ProgressLines { sender, any: false };
        let repository = format!("{}/{}", reference.host, reference.path);
        lines.send(ProgressLine::status(format!("The push refers to repository [{repository}]"))).await;
        for (name, image) in images {
            if lines.sender.is_closed() {
                return Ok(());
            }
            if let Err(error) = push_one(&engine, &registry, name, image, &mut lines).await {
                return lines.failed(&error).await;
            }
        }
        Ok(())
    });
    reply::stream("application/json", reply::receiver_stream(receiver))
}

async fn push_one(
    engine: &Arc<Engine>,
    registry: &Registry,
    name: ImageRef,
    image: Image,
    lines: &mut ProgressLines,
) -> Result<(), EngineError> {
    let (progress, mut steps) = mpsc::unbounded_channel();
    let report: crate::image::PullReport = Arc::new(move |step| drop(progress.send(step)));
    let (store, registry, reference, id) = (engine.images.store.clone(), registry.clone(), name.clone(), image.id.clone());
    let pushing = tokio::spawn(async move { registry.push(&store, &reference, &image, report).await });
    while let Some(step) = lines.next(&mut steps).await {
        let crate::image::PullProgress::Layer { id, status, current, total } = step;
        lines.send(ProgressLine::layer(id, status, current, total)).await;
    }
    if lines.sender.is_closed() {
        pushing.abort();
        return Ok(());
    }
    let (digest, size) = pushing.await.map_err(EngineError::from)??;
    engine.events.emit_image("push", &id, &name);
    let tag = name.version();
    lines.send(ProgressLine::status(format!("{tag}: digest: {digest} size: {size}"))).await;
    let pushed = PushedDigest { tag: tag.to_string(), digest: digest.to_string(), size };
    let aux = serde_json::to_value(pushed).ok();
    lines.send(ProgressLine { progress_detail: Some(ProgressDetail::default()), aux, ..ProgressLine::default() }).await;
    Ok(())
}
