//! Pulling from an OCI or Docker registry: tokens, manifests by platform, layers in parallel, every digest checked.

use super::chunks::ChunkReader;
use super::digest::{ChainId, Digest, Hashing};
use super::hosts::{Hosts, Scheme, registry_of};
use super::manifest::{Answer, Configuration, Descriptor, Manifest};
use super::store::{StagedLayer, Store};
use super::{Image, ImageError, ImageRef, Progress, Report, compression};
use futures::stream::{StreamExt, TryStreamExt};
use reqwest::{Client, RequestBuilder, Response, StatusCode, header};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use tokio::sync::{Mutex, Semaphore};

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
/// Docker fetches three layers of an image at once as well.
const LAYERS_AT_ONCE: usize = 3;
const MAX_MANIFEST: usize = 8 << 20;
/// How often a broken download is taken up, each time after twice the time: 7 s in all.
const TRIES: u32 = 5;
/// Chunks that wait for the unpacking; each is at most some ten kilobytes.
const CHUNKS_AHEAD: usize = 8;

/// A client for every registry; keeps connections and tokens.
pub struct Registry {
    client: Client,
    /// Takes any certificate: for registries that the configuration calls insecure.
    lax: Client,
    /// Which of the insecure ones have HTTPS after all.
    has_https: Mutex<HashMap<String, bool>>,
    tokens: Mutex<HashMap<(String, String), String>>,
    layers: Arc<Semaphore>,
}

impl Registry {
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn new() -> Result<Self, ImageError> {
        let build = |lax: bool| {
            Client::builder()
                .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(std::time::Duration::from_secs(15))
                .read_timeout(std::time::Duration::from_secs(60))
                .danger_accept_invalid_certs(lax)
                .build()
                .map_err(|e| ImageError::Registry { host: "a registry".into(), what: "a connection".into(), why: e.to_string() })
        };
        Ok(Registry {
            client: build(false)?,
            lax: build(true)?,
            has_https: Mutex::default(),
            tokens: Mutex::default(),
            layers: Arc::new(Semaphore::new(LAYERS_AT_ONCE)),
        })
    }

    /// The client for a host, and where its API is.
    async fn host(&self, host: &str) -> Result<(Client, String), ImageError> {
        let name = registry_of(host);
        match Hosts::read()?.scheme(host) {
            Scheme::Https => Ok((self.client.clone(), format!("https://{name}"))),
            Scheme::Http => Ok((self.client.clone(), format!("http://{name}"))),
            Scheme::Insecure => {
                let known = self.has_https.lock().await.get(host).copied();
                let https = match known {
                    Some(https) => https,
                    None => {
                        let https = self.lax.get(format!("https://{name}/v2/")).send().await.is_ok();
                        self.has_https.lock().await.insert(host.to_string(), https);
                        https
                    }
                };
                Ok((self.lax.clone(), format!("{}://{name}", if https { "https" } else { "http" })))
            }
        }
    }

    /// The client for a repository, and where one of its things is.
    pub(super) async fn place(&self, name: &ImageRef, what: &str) -> Result<(Client, String), ImageError> {
        let (client, base) = self.host(&name.host).await?;
        Ok((client, format!("{base}/v2/{}/{what}", name.path)))
    }

    /// Pulls an image into the store.
    ///
    /// # Errors
    /// The registry's or the store's; nothing half-made is kept.
    pub async fn pull(&self, store: &Arc<Store>, name: &ImageRef, report: Report) -> Result<Image, ImageError> {
        let mirrors = if name.host == "docker.io" { Hosts::read()?.mirrors } else { Vec::new() };
        for mirror in mirrors {
            let via = ImageRef { host: mirror, ..name.clone() };
            match self.pull_as(store, &via, name, report.clone()).await {
                Err(error @ (ImageError::NotFound { .. } | ImageError::Registry { .. })) => {
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
        report: Report,
    ) -> Result<Image, ImageError> {
        let mut manifest = self.manifest(name, name.version()).await?;
        if let Some(expected) = &name.digest {
            check_digest("manifest", expected, &manifest)?;
        }
        let parsed = match Answer::parse(&manifest)? {
            Answer::Manifest(parsed) => parsed,
            Answer::Index(index) => {
                let digest = index.choose_platform(name)?;
                manifest = self.manifest(name, digest.as_str()).await?;
                check_digest("manifest", digest, &manifest)?;
                Manifest::parse(&manifest)?
            }
        };
        let config = self.get(name, &format!("blobs/{}", parsed.config.digest), None).await?;
        let config = read_bounded(config, name).await?;
        check_digest("configuration", &parsed.config.digest, &config)?;
        let chains = Configuration::parse(&config)?.chain_ids();
        if chains.len() != parsed.layers.len() {
            return Err(ImageError::Malformed {
                what: "manifest",
                why: "it has another number of layers than the configuration".into(),
            });
        }
        let mut layers = Vec::new();
        for (layer, chain) in parsed.layers.iter().zip(chains) {
            layers.push(self.layer_unless_here(store, name, layer, chain, report.clone()));
        }
        let staged: Vec<Option<StagedLayer>> = futures::stream::iter(layers).buffered(LAYERS_AT_ONCE).try_collect().await?;
        let (store, name) = (store.clone(), known_as.clone());
        blocking(move || store.commit(&name, &config, &manifest, staged)).await
    }

    /// Whether a registry takes a user and a password.
    ///
    /// # Errors
    /// When it does not, or does not answer.
    pub async fn check_login(&self, host: &str, user: &str, password: &str) -> Result<(), ImageError> {
        let failed = |why: String| ImageError::Registry { host: host.into(), what: "a login".into(), why };
        let (client, base) = self.host(host).await?;
        let url = format!("{base}/v2/");
        let first = client.get(&url).send().await.map_err(|e| failed(unreachable(&e)))?;
        if first.status() == StatusCode::OK {
            return Ok(());
        }
        let challenge = first.headers().get(header::WWW_AUTHENTICATE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        let mut place = url.clone();
        if scheme.eq_ignore_ascii_case("bearer") {
            let parameters = challenge_parameters(parameters);
            let realm = parameters.get("realm").ok_or_else(|| failed(format!("its challenge is not understood: {challenge}")))?;
            let mut url = reqwest::Url::parse(realm).map_err(|e| failed(e.to_string()))?;
            if let Some(service) = parameters.get("service") {
                url.query_pairs_mut().append_pair("service", service);
            }
            place = url.to_string();
        }
        let response = client.get(&place).basic_auth(user, Some(password)).send().await.map_err(|e| failed(unreachable(&e)))?;
        match response.status() {
            StatusCode::OK => {
                self.tokens.lock().await.clear();
                Ok(())
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(failed("it does not know this user and password".into())),
            status => Err(failed(format!("it answered {status}"))),
        }
    }

    /// What a tag stands for in the registry now: the digest, media type and size of its manifest or index.
    ///
    /// # Errors
    /// The registry's.
    pub async fn resolve(&self, name: &ImageRef) -> Result<(Digest, String, usize), ImageError> {
        let response = self.get(name, &format!("manifests/{}", name.version()), Some(MANIFESTS)).await?;
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_string();
        let manifest = read_bounded(response, name).await?;
        Ok((Digest::of(&manifest), kind, manifest.len()))
    }

    async fn layer_unless_here(
        &self,
        store: &Arc<Store>,
        name: &ImageRef,
        layer: &Descriptor,
        chain: ChainId,
        report: Report,
    ) -> Result<Option<StagedLayer>, ImageError> {
        if store.has_layer(&chain).is_some() {
            let (id, total) = (layer.digest.short(), layer.size);
            report(Progress::Layer { id, status: "Already exists", current: total, total });
            return Ok(None);
        }
        let _turn = self.layers.acquire().await;
        self.layer(store, name, &layer.digest, layer.size, report).await.map(Some)
    }

    async fn manifest(&self, name: &ImageRef, version: &str) -> Result<Vec<u8>, ImageError> {
        let response = self.get(name, &format!("manifests/{version}"), Some(MANIFESTS)).await?;
        read_bounded(response, name).await
    }

    /// Downloads a layer and unpacks it while it arrives. A connection that breaks is taken up again where it broke, while the
    /// unpacking waits.
    async fn layer(
        &self,
        store: &Arc<Store>,
        name: &ImageRef,
        digest: &Digest,
        size: u64,
        report: Report,
    ) -> Result<StagedLayer, ImageError> {
        let (sender, reader) = ChunkReader::channel(CHUNKS_AHEAD);
        let (store, expected) = (store.clone(), digest.clone());
        let image = name.familiar();
        let unpacking = tokio::task::spawn_blocking(move || {
            let layer = expected.short();
            unpack_checked(&store, reader, &expected).map_err(|source| ImageError::Layer {
                layer,
                image,
                source: Box::new(source),
            })
        });
        let (mut current, mut failures) = (0, 0);
        let fetched = loop {
            let failed = match self.fetch(name, digest, &mut current, size, &sender, &report).await {
                Ok(()) => break Ok(()),
                Err(error) => error,
            };
            failures += 1;
            let again = matches!(failed, ImageError::Registry { .. }) && failures < TRIES && !sender.is_closed();
            if !again {
                let _ = sender.send(Err(io::Error::other(failed.to_string()))).await;
                break Err(failed);
            }
            report(Progress::Layer { id: digest.short(), status: "Retrying", current, total: size });
            tokio::time::sleep(std::time::Duration::from_millis(250 << failures)).await;
        };
        drop(sender);
        let staged = unpacking.await.map_err(|e| ImageError::Malformed { what: "layer", why: e.to_string() })?;
        fetched?;
        let staged = staged?;
        report(Progress::Layer { id: digest.short(), status: "Pull complete", current: size, total: size });
        Ok(staged)
    }

    /// Sends a blob's bytes from `current` on to the unpacking, and counts them.
    async fn fetch(
        &self,
        name: &ImageRef,
        digest: &Digest,
        current: &mut u64,
        size: u64,
        sender: &tokio::sync::mpsc::Sender<io::Result<bytes::Bytes>>,
        report: &Report,
    ) -> Result<(), ImageError> {
        let failed =
            |why: String| ImageError::Registry { host: name.host.clone(), what: format!("a layer of {}", name.familiar()), why };
        let response = self.get_from(name, &format!("blobs/{digest}"), None, *current).await?;
        // A server that knows no ranges sends everything again.
        let mut skip = if response.status() == StatusCode::PARTIAL_CONTENT { 0 } else { *current };
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let mut chunk = chunk.map_err(|e| failed(root_cause(&e)))?;
            let known = skip.min(chunk.len() as u64);
            skip -= known;
            let chunk = chunk.split_off(known as usize);
            *current += chunk.len() as u64;
            report(Progress::Layer { id: digest.short(), status: "Downloading", current: *current, total: size });
            if sender.send(Ok(chunk)).await.is_err() {
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
        let (client, url) = self.place(name, what).await?;
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
        let response = self.authorised(name, "pull", request).await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(ImageError::NotFound { image: name.familiar(), host: name.host.clone() })
            }
            StatusCode::TOO_MANY_REQUESTS => {
                Err(failed("too many requests; the registry limits how much is pulled, try again later or log in".into()))
            }
            status => Err(failed(format!("it answered {status}"))),
        }
    }

    /// Sends a request, and once more with the authorisation that the registry asks for. `action` is what is to be done with
    /// the repository: `pull`, or `pull,push`.
    pub(super) async fn authorised<F>(
        &self,
        name: &ImageRef,
        action: &str,
        request: impl Fn() -> F,
    ) -> Result<Response, ImageError>
    where
        F: Future<Output = Result<RequestBuilder, ImageError>>,
    {
        let scope = (name.host.clone(), format!("{}:{action}", name.path));
        let failed = |why: String| ImageError::Registry { host: name.host.clone(), what: name.familiar(), why };
        for attempt in 0..2 {
            let mut request = request().await?;
            if let Some(authorization) = self.tokens.lock().await.get(&scope) {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let response = request.send().await.map_err(|e| failed(unreachable(&e)))?;
            match response.status() {
                StatusCode::UNAUTHORIZED if attempt == 0 => {
                    let challenge =
                        response.headers().get(header::WWW_AUTHENTICATE).and_then(|v| v.to_str().ok()).unwrap_or_default();
                    let token = self.authorise(name, action, challenge).await?;
                    self.tokens.lock().await.insert(scope.clone(), token);
                }
                _ => return Ok(response),
            }
        }
        Err(failed("it asks for authorisation again and again".into()))
    }

    /// Answers a `WWW-Authenticate` challenge (RFC 6750 as the distribution specification uses it).
    async fn authorise(&self, name: &ImageRef, action: &str, challenge: &str) -> Result<String, ImageError> {
        let failed = |why: String| ImageError::Registry { host: name.host.clone(), what: "authorisation".into(), why };
        let host = name.host.clone();
        let basic = blocking(move || Ok(super::credentials::find(&host))).await?;
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return basic
                .map(|b| format!("Basic {b}"))
                .ok_or_else(|| ImageError::NotFound { image: name.familiar(), host: name.host.clone() });
        }
        let parameters = challenge_parameters(parameters);
        let realm = parameters.get("realm").ok_or_else(|| failed(format!("its challenge is not understood: {challenge}")))?;
        let mut url = reqwest::Url::parse(realm).map_err(|e| failed(e.to_string()))?;
        let scope = format!("repository:{}:{action}", name.path);
        url.query_pairs_mut().append_pair("scope", parameters.get("scope").unwrap_or(&scope));
        if let Some(service) = parameters.get("service") {
            url.query_pairs_mut().append_pair("service", service);
        }
        // The registry's own certificate may be one that does not hold; another host's must.
        let (client, base) = self.host(&name.host).await?;
        let own = reqwest::Url::parse(&base).is_ok_and(|base| base.host_str() == url.host_str());
        let mut request = if own { client.get(url) } else { self.client.get(url) };
        if let Some(basic) = basic {
            request = request.header(header::AUTHORIZATION, format!("Basic {basic}"));
        }
        let response = request.send().await.map_err(|e| failed(unreachable(&e)))?;
        if !response.status().is_success() {
            return Err(failed(format!("the token server answered {}", response.status())));
        }
        let json: serde_json::Value = response.json().await.map_err(|e| failed(root_cause(&e)))?;
        let token = json["token"]
            .as_str()
            .or(json["access_token"].as_str())
            .ok_or_else(|| failed("the token server sent no token".into()))?;
        Ok(format!("Bearer {token}"))
    }
}

/// Unpacks what a reader brings, keeps the blob as it came, and checks both.
fn unpack_checked(store: &Store, reader: ChunkReader, expected: &Digest) -> Result<StagedLayer, ImageError> {
    let archive = |e: io::Error| ImageError::Unpack(super::unpack::UnpackError::Archive(e));
    let copy = store.blob_draft()?;
    let mut hashing = Hashing::new(copy.copying(reader)?, expected.algorithm());
    let staged = store.stage(compression::plain(&mut hashing).map_err(archive)?)?;
    io::copy(&mut hashing, &mut io::sink()).map_err(archive)?;
    let (_, got) = hashing.finish();
    if got != *expected {
        return Err(ImageError::wrong_digest("layer", expected, &got));
    }
    // The image that it belongs to has no name yet.
    store.arriving().insert(expected.clone());
    store.keep_blob(copy, expected)?;
    Ok(staged)
}

fn challenge_parameters(text: &str) -> HashMap<String, String> {
    let mut parameters = HashMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        parameters.insert(name.trim_matches([' ', ',']).to_ascii_lowercase(), value.to_string());
        rest = next.trim_start_matches([',', ' ']);
    }
    parameters
}

fn check_digest(what: &str, expected: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
    expected.matches(bytes).map_err(|got| ImageError::wrong_digest(what, expected, &got))
}

async fn read_bounded(response: Response, name: &ImageRef) -> Result<Vec<u8>, ImageError> {
    let failed = |why: String| ImageError::Registry { host: name.host.clone(), what: name.familiar(), why };
    let mut bytes = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(|e| failed(root_cause(&e)))?);
        if bytes.len() > MAX_MANIFEST {
            return Err(failed(format!("its answer is larger than {MAX_MANIFEST} bytes")));
        }
    }
    Ok(bytes)
}

fn unreachable(error: &reqwest::Error) -> String {
    let cause = root_cause(error);
    // Hickory's words for a name without an address.
    if cause.contains("no records found") {
        return "its name is not known here: check the image's name, the network and /etc/resolv.conf".into();
    }
    if error.is_connect() || error.is_timeout() { format!("it cannot be reached: {cause}") } else { cause }
}

pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| ImageError::Malformed { what: "image", why: e.to_string() })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let p = challenge_parameters(r#"realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push""#);
        assert_eq!(p["realm"], "https://auth.example/token");
        assert_eq!(p["scope"], "repository:a/b:pull,push");
    }
}
