//! Pulling from an OCI or Docker registry: tokens, manifests by platform, layers in parallel, every digest checked.

mod authorisation;

use super::answers::{self, Pace, Patience};
use super::arrival::{Arrived, Expected, KeepBlob};
use super::chunks::ChunkReader;
use super::credentials::{Logins, Who};
use super::digest::Digest;
use super::hosts::{Hosts, Scheme, registry_of};
use super::manifest::{AnsweredManifest, Configuration, Descriptor, Manifest, Platform};
use super::store::Store;
use super::{Image, ImageError, ImageRef, PullProgress, PullReport, REPORT_EVERY};
use futures::stream::{StreamExt, TryStreamExt};
use reqwest::{Client, Response, StatusCode, header};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::{Mutex, Semaphore};

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
/// Docker fetches three layers of an image at once as well.
const LAYERS_AT_ONCE: usize = 3;
/// How often a download is begun that does not come on: with [`Patience::again`] 7.5 s of waiting in all.
const TRIES: u32 = 5;
/// Bytes that a download must have come on by, for its tries to be counted anew.
const PROGRESS: u64 = 1 << 20;
/// Chunks that wait for the unpacking; each is at most some ten kilobytes.
const CHUNKS_AHEAD: usize = 8;

/// The manifest or index under a tag.
pub struct Inspected {
    pub digest: Digest,
    /// Its media type.
    pub kind: String,
    pub size: usize,
    pub platforms: Vec<Platform>,
}

/// The key of a token: the host, the scope, and the login.
type TokenFor = (String, String, Who);

/// A client for every registry; keeps connections and tokens. A clone shares them.
#[derive(Clone)]
pub struct Registry {
    client: Client,
    /// Takes any certificate: for registries that the configuration calls insecure.
    lax: Client,
    /// Which of the insecure ones have HTTPS after all.
    has_https: Arc<Mutex<HashMap<String, bool>>>,
    tokens: Arc<Mutex<HashMap<TokenFor, String>>>,
    logins: Logins,
    /// Permits for downloads, by the registry's host: a slow one does not block the others.
    layers: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
    pub(super) patience: Patience,
}

impl Registry {
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn new() -> Result<Self, ImageError> {
        Self::with(Patience::default())
    }

    /// As [`Registry::new`], with another patience.
    ///
    /// # Errors
    /// As [`Registry::new`].
    pub fn with(patience: Patience) -> Result<Self, ImageError> {
        let build = |lax: bool| {
            answers::client(patience, lax).map_err(|e| ImageError::Registry {
                host: "a registry".into(),
                what: "a connection".into(),
                why: e.to_string(),
            })
        };
        Ok(Registry {
            client: build(false)?,
            lax: build(true)?,
            has_https: Arc::default(),
            tokens: Arc::default(),
            logins: Logins::Own,
            layers: Arc::default(),
            patience,
        })
    }

    /// The same with other logins.
    pub fn with_logins(&self, logins: Logins) -> Self {
        Registry { logins, ..self.clone() }
    }

    /// The client for a host, and where its API is.
    async fn host(&self, host: &str) -> Result<(Client, String), ImageError> {
        let name = registry_of(host);
        match Hosts::read()?.scheme(host) {
            Scheme::Https => Ok((self.client.clone(), format!("https://{name}"))),
            Scheme::Http => Ok((self.client.clone(), format!("http://{name}"))),
            Scheme::Insecure => {
                let scheme = if self.has_https(name).await { "https" } else { "http" };
                Ok((self.lax.clone(), format!("{scheme}://{name}")))
            }
        }
    }

    /// Whether an insecure registry has HTTPS. Only what has answered is remembered: a registry that could not be reached now may
    /// be reached later.
    async fn has_https(&self, name: &str) -> bool {
        if let Some(known) = self.has_https.lock().await.get(name) {
            return *known;
        }
        let ask = |scheme: &str| answers::send(self.lax.get(format!("{scheme}://{name}/v2/")), self.patience.answer);
        let https = ask("https").await.is_ok();
        // A server of HTTPS answers plain HTTP as well, with an error.
        let is_registry = |answer: Response| matches!(answer.status(), StatusCode::OK | StatusCode::UNAUTHORIZED);
        if https || ask("http").await.is_ok_and(is_registry) {
            self.has_https.lock().await.insert(name.to_string(), https);
        }
        https
    }

    /// The client for a repository, and where one of its things is.
    pub(super) async fn url_of(&self, name: &ImageRef, what: &str) -> Result<(Client, String), ImageError> {
        let (client, base) = self.host(&name.host).await?;
        Ok((client, format!("{base}/v2/{}/{what}", name.path)))
    }

    /// Pulls an image into the store.
    ///
    /// # Errors
    /// The registry's or the store's; nothing half-made is kept.
    pub async fn pull(&self, store: &Arc<Store>, name: &ImageRef, report: PullReport) -> Result<Image, ImageError> {
        let mirrors = if name.host == "docker.io" { Hosts::read()?.mirrors } else { Vec::new() };
        for mirror in mirrors {
            let via = ImageRef { host: mirror, ..name.clone() };
            match self.pull_as(store, &via, name, report.clone()).await {
                Err(
                    error @ (ImageError::NotFound { .. }
                    | ImageError::Registry { .. }
                    | ImageError::Denied { .. }
                    | ImageError::Unauthorized { .. }),
                ) => {
                    tracing::warn!("pulling {} by the mirror {}: {error}", name.familiar(), via.host);
                }
                other => return other,
            }
        }
        self.pull_as(store, name, name, report).await
    }

    /// Pulls an image of one registry under the name that it has in another.
    async fn pull_as(
        &self,
        store: &Arc<Store>,
        name: &ImageRef,
        known_as: &ImageRef,
        report: PullReport,
    ) -> Result<Image, ImageError> {
        let mut manifest = self.manifest(name, name.version()).await?;
        if let Some(expected) = &name.digest {
            check_digest("manifest", expected, &manifest)?;
        }
        let parsed = match AnsweredManifest::parse(&manifest)? {
            AnsweredManifest::Manifest(parsed) => parsed,
            AnsweredManifest::Index(index) => {
                let digest = index.choose_platform(name)?;
                manifest = self.manifest(name, digest.as_str()).await?;
                check_digest("manifest", digest, &manifest)?;
                Manifest::parse(&manifest)?
            }
        };
        let config = self.document(name, &format!("blobs/{}", parsed.config.digest), None).await?;
        check_digest("configuration", &parsed.config.digest, &config)?;
        let expected = Expected::all(&parsed, &Configuration::arriving(&config)?)?;
        let mut layers = Vec::new();
        for (layer, expected) in parsed.layers.iter().zip(expected) {
            layers.push(self.layer_unless_here(store, name, layer, expected, report.clone()));
        }
        let arrived: Vec<Arrived> = futures::stream::iter(layers).buffered(LAYERS_AT_ONCE).try_collect().await?;
        let (store, name) = (store.clone(), known_as.clone());
        blocking(move || store.commit(&name, &config, &manifest, arrived)).await
    }

    /// The manifest or index that a tag names now.
    ///
    /// # Errors
    /// The registry's.
    pub async fn inspect(&self, name: &ImageRef) -> Result<Inspected, ImageError> {
        let response = self.get(name, &format!("manifests/{}", name.version()), Some(MANIFESTS)).await?;
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_string();
        let manifest = self.read_document(response, name).await?;
        let platforms = match AnsweredManifest::parse(&manifest)? {
            AnsweredManifest::Index(index) => index.manifests.into_iter().filter_map(|entry| entry.platform).collect(),
            AnsweredManifest::Manifest(parsed) => {
                let config = self.document(name, &format!("blobs/{}", parsed.config.digest), None).await?;
                check_digest("configuration", &parsed.config.digest, &config)?;
                vec![super::manifest::read("configuration", &config)?]
            }
        };
        Ok(Inspected { digest: Digest::of(&manifest), kind, size: manifest.len(), platforms })
    }

    /// Every tag of a repository.
    ///
    /// # Errors
    /// The registry's.
    pub async fn tags(&self, name: &ImageRef) -> Result<Vec<ImageRef>, ImageError> {
        #[derive(serde::Deserialize)]
        struct Tags {
            tags: Option<Vec<String>>,
        }
        let tags: Tags = super::manifest::read("list of tags", &self.document(name, "tags/list?n=10000", None).await?)?;
        let whole = |tag: String| Ok(format!("{}/{}:{tag}", name.host, name.path).parse::<ImageRef>()?);
        tags.tags.into_iter().flatten().map(whole).collect()
    }

    async fn layer_unless_here(
        &self,
        store: &Arc<Store>,
        name: &ImageRef,
        layer: &Descriptor,
        expected: Expected,
        report: PullReport,
    ) -> Result<Arrived, ImageError> {
        let already = || {
            let (id, total) = (layer.digest.short(), layer.size);
            report(PullProgress::Layer { id, status: "Already exists", current: total, total });
        };
        if let Some(known) = store.known_layer(&expected) {
            already();
            return Ok(Arrived::Here(known));
        }
        let turns = {
            let mut hosts = self.layers.lock().await;
            hosts.retain(|_, turns| turns.strong_count() > 0);
            let turns = hosts.get(&name.host).and_then(Weak::upgrade);
            let turns = turns.unwrap_or_else(|| Arc::new(Semaphore::new(LAYERS_AT_ONCE)));
            hosts.insert(name.host.clone(), Arc::downgrade(&turns));
            turns
        };
        let _turn = turns.acquire().await;
        if store.find_blob(&layer.digest).is_some() {
            let (store, expected) = (store.clone(), expected.clone());
            if let Some(arrived) = blocking(move || store.layer_of_kept_blob(&expected)).await? {
                already();
                return Ok(arrived);
            }
        }
        self.layer(store, name, layer, expected, report).await
    }

    pub(super) async fn manifest(&self, name: &ImageRef, version: &str) -> Result<Vec<u8>, ImageError> {
        self.document(name, &format!("manifests/{version}"), Some(MANIFESTS)).await
    }

    pub(super) async fn document(&self, name: &ImageRef, what: &str, accept: Option<&str>) -> Result<Vec<u8>, ImageError> {
        let response = self.get(name, what, accept).await?;
        self.read_document(response, name).await
    }

    async fn read_document(&self, response: Response, name: &ImageRef) -> Result<Vec<u8>, ImageError> {
        let failed = |why: String| ImageError::Registry { host: name.host.clone(), what: name.familiar(), why };
        answers::document(response, self.patience).await.map_err(failed)
    }

    /// Downloads a layer and unpacks it while it arrives. A connection that breaks is taken up again where it broke, while the
    /// unpacking waits.
    async fn layer(
        &self,
        store: &Arc<Store>,
        name: &ImageRef,
        &Descriptor { ref digest, size, .. }: &Descriptor,
        expected: Expected,
        report: PullReport,
    ) -> Result<Arrived, ImageError> {
        let (sender, reader) = ChunkReader::channel(CHUNKS_AHEAD);
        let (store, layer, image) = (store.clone(), digest.short(), name.familiar());
        let unpacking = tokio::task::spawn_blocking(move || {
            let failed = |source| ImageError::Layer { layer, image, source: Box::new(source) };
            store.arrive(reader, &expected, KeepBlob::Blob).map_err(failed)
        });
        let (mut current, mut failures, mut counted_from) = (0, 0, 0);
        let fetched = loop {
            let failed = match self.fetch(name, digest, &mut current, size, &sender, &report).await {
                Ok(()) => break Ok(()),
                Err(error) => error,
            };
            if current >= counted_from + PROGRESS {
                (failures, counted_from) = (0, current);
            }
            failures += 1;
            let again = matches!(failed, ImageError::Registry { .. }) && failures < TRIES && !sender.is_closed();
            if !again {
                let _ = sender.send(Err(io::Error::other(failed.to_string()))).await;
                break Err(failed);
            }
            report(PullProgress::Layer { id: digest.short(), status: "Retrying", current, total: size });
            tokio::time::sleep(self.patience.again * (1 << (failures - 1))).await;
        };
        drop(sender);
        let arrived = unpacking.await.map_err(|e| ImageError::Malformed { what: "layer", why: e.to_string() })?;
        fetched?;
        let arrived = arrived?;
        report(PullProgress::Layer { id: digest.short(), status: "Pull complete", current: size, total: size });
        Ok(arrived)
    }

    /// Sends a blob's bytes from `current` on to the unpacking, and counts them.
    async fn fetch(
        &self,
        name: &ImageRef,
        digest: &Digest,
        current: &mut u64,
        size: u64,
        sender: &tokio::sync::mpsc::Sender<io::Result<bytes::Bytes>>,
        report: &PullReport,
    ) -> Result<(), ImageError> {
        let failed =
            |why: String| ImageError::Registry { host: name.host.clone(), what: format!("a layer of {}", name.familiar()), why };
        let response = self.get_from(name, &format!("blobs/{digest}"), None, *current).await?;
        // A server that knows no ranges sends everything again.
        let mut skip = if response.status() == StatusCode::PARTIAL_CONTENT { 0 } else { *current };
        let mut stream = response.bytes_stream();
        let mut pace = Pace::new(self.patience);
        let mut reported: Option<Instant> = None;
        while let Some(chunk) = pace.next(stream.next()).await.map_err(failed)? {
            let mut chunk = chunk.map_err(|e| failed(answers::root_cause(&e)))?;
            pace.came(chunk.len());
            let known = skip.min(chunk.len() as u64);
            skip -= known;
            let chunk = chunk.split_off(known as usize);
            *current += chunk.len() as u64;
            if *current > size {
                let why = format!("the layer {} is longer than the {size} bytes that it says", digest.short());
                return Err(ImageError::Malformed { what: "manifest", why });
            }
            if reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
                report(PullProgress::Layer { id: digest.short(), status: "Downloading", current: *current, total: size });
                reported = Some(Instant::now());
            }
            if pace.meanwhile(sender.send(Ok(chunk))).await.is_err() {
                // The unpacking has given up, and says why.
                return Ok(());
            }
        }
        Ok(())
    }

    /// A GET with whatever authorisation the registry asks for.
    async fn get(&self, name: &ImageRef, what: &str, accept: Option<&str>) -> Result<Response, ImageError> {
        self.get_from(name, what, accept, 0).await
    }

    /// A GET from a byte on.
    async fn get_from(&self, name: &ImageRef, what: &str, accept: Option<&str>, from: u64) -> Result<Response, ImageError> {
        let (client, url) = self.url_of(name, what).await?;
        let failed = |why: String| ImageError::Registry { host: name.host.clone(), what: name.familiar(), why };
        let request = || {
            let mut request = client.get(&url);
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            std::future::ready(Ok(match accept {
                Some(accept) => request.header(header::ACCEPT, accept),
                None => request,
            }))
        };
        let response = self.authorised(name, "pull", self.patience.answer, request).await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::NOT_FOUND => Err(ImageError::NotFound { image: name.familiar(), host: name.host.clone() }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied(name)),
            StatusCode::TOO_MANY_REQUESTS => {
                Err(failed("too many requests; the registry limits how much is pulled, try again later or log in".into()))
            }
            status => Err(failed(format!("it answered {status}"))),
        }
    }
}

fn check_digest(what: &str, expected: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
    expected.matches(bytes).map_err(|got| ImageError::wrong_digest(what, expected, &got))
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| ImageError::Malformed { what: "image", why: e.to_string() })?
}

#[cfg(test)]
mod tests;
