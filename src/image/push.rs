//! Pushing to a registry: what it has already is not sent, what it has under another name is mounted, the rest is compressed
//! from the unpacked layer, once.

use super::answers::{self, MAX_ERROR};
use super::arrival::HeldBlob;
use super::attest::{Attested, Blob};
use super::digest::{ChainId, DiffId, Digest, Hashing};
use super::documents::{NewDescriptor, NewManifest, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST};
use super::manifest::{Descriptor, Manifest};
use super::registry::{Registry, blocking};
use super::store::Store;
use super::{Image, ImageError, ImageRef, PullProgress, PullReport, REPORT_EVERY, build::tarball};
use futures::stream::{StreamExt, TryStreamExt};
use reqwest::{StatusCode, header};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const AT_ONCE: usize = 3;

/// A layer as it is sent.
struct Sent {
    digest: Digest,
    size: u64,
    kind: String,
    file: PathBuf,
    _held: HeldBlob,
}

impl Registry {
    /// Pushes an image; gives its manifest's digest and size.
    ///
    /// # Errors
    /// The registry's or the disk's.
    pub async fn push(
        &self,
        store: &Arc<Store>,
        name: &ImageRef,
        image: &Image,
        report: PullReport,
    ) -> Result<(Digest, usize), ImageError> {
        let manifest = store.manifest_bytes(image)?;
        let parsed = Manifest::parse(&manifest)?;
        let mut layers = Vec::new();
        for (described, layer) in parsed.layers.iter().zip(image.layers.iter().zip(&image.diff_ids)) {
            layers.push(self.push_layer(store, name, described.clone(), layer, report.clone()));
        }
        let sent: Vec<Sent> = futures::stream::iter(layers).buffered(AT_ONCE).try_collect().await?;
        let config = store.configuration(image)?;
        let config_digest = image.id.clone();
        if !self.has_blob(name, &config_digest).await? {
            self.upload(name, &config_digest, config.len() as u64, UploadBody::Bytes(config.clone())).await?;
        }
        // What the registry gave is given back byte for byte; what was built here gets the compressed layers' digests.
        let as_described = sent.iter().map(|layer| (&layer.digest, layer.size));
        let unchanged =
            as_described.eq(parsed.layers.iter().map(|layer| (&layer.digest, layer.size))) && parsed.predicates().is_none();
        let (manifest, kind) = if unchanged {
            let kind = parsed.media_type.unwrap_or_else(|| OCI_MANIFEST.to_string());
            (manifest, kind)
        } else {
            let layers = sent.iter().map(|layer| NewDescriptor::new(layer.kind.clone(), &layer.digest, layer.size)).collect();
            let config = NewDescriptor::new(OCI_CONFIG, &config_digest, config.len() as u64);
            (NewManifest::new(config, layers).to_bytes()?, OCI_MANIFEST.to_string())
        };
        let manifest = Blob::new(manifest);
        let said = store.predicates(image)?;
        if said.is_empty() {
            self.put_manifest(name, name.version(), &kind, &manifest).await?;
            return Ok((manifest.digest, manifest.bytes.len()));
        }
        // The index comes last: it names what must be there.
        let attested = Attested::of(name, &manifest, &kind, &said);
        for blob in attested.blobs {
            if !self.has_blob(name, &blob.digest).await? {
                self.upload(name, &blob.digest, blob.bytes.len() as u64, UploadBody::Bytes(blob.bytes)).await?;
            }
        }
        self.put_manifest(name, manifest.digest.as_str(), &kind, &manifest).await?;
        self.put_manifest(name, attested.manifest.digest.as_str(), OCI_MANIFEST, &attested.manifest).await?;
        self.put_manifest(name, name.version(), OCI_INDEX, &attested.index).await?;
        Ok((attested.index.digest, attested.index.bytes.len()))
    }

    async fn put_manifest(&self, name: &ImageRef, version: &str, kind: &str, manifest: &Blob) -> Result<(), ImageError> {
        let response = self.send_manifest(name, version, kind, manifest).await?;
        if response.status().is_success() { Ok(()) } else { Err(self.refused(name, "the manifest", response).await) }
    }

    pub(super) async fn send_manifest(
        &self,
        name: &ImageRef,
        version: &str,
        kind: &str,
        manifest: &Blob,
    ) -> Result<reqwest::Response, ImageError> {
        let (client, url) = self.url_of(name, &format!("manifests/{version}")).await?;
        let put = || std::future::ready(Ok(client.put(&url).header(header::CONTENT_TYPE, kind).body(manifest.bytes.clone())));
        self.authorised(name, "pull,push", self.patience.document, put).await
    }

    async fn push_layer(
        &self,
        store: &Arc<Store>,
        name: &ImageRef,
        Descriptor { digest, media_type: kind, .. }: Descriptor,
        (chain, diff_id): (&ChainId, &DiffId),
        report: PullReport,
    ) -> Result<Sent, ImageError> {
        // From here on: removing another image that has the blob must not take it away meanwhile.
        let held = store.hold_blob(&digest);
        let sent = match store.find_blob(&digest) {
            Some((file, size)) => Sent { digest, size, kind, file, _held: held },
            None => {
                report(PullProgress::Layer { id: digest.short(), status: "Preparing", current: 0, total: 0 });
                let (store, chain, diff_id) = (store.clone(), chain.clone(), diff_id.clone());
                blocking(move || compress(&store, &chain, &diff_id)).await?
            }
        };
        let id = sent.digest.short();
        let layer_is = |status| report(PullProgress::Layer { id: id.clone(), status, current: sent.size, total: sent.size });
        if self.has_blob(name, &sent.digest).await? {
            layer_is("Layer already exists");
            return Ok(sent);
        }
        if self.mount(store, name, &sent.digest).await? {
            layer_is("Mounted");
            return Ok(sent);
        }
        let (shown, total, told) = (id.clone(), sent.size, report.clone());
        let reported = std::sync::Mutex::new(None::<Instant>);
        let sending = move |current| {
            let mut reported = reported.lock().unwrap_or_else(|e| e.into_inner());
            if current == 0 || reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
                *reported = Some(Instant::now());
                told(PullProgress::Layer { id: shown.clone(), status: "Pushing", current, total });
            }
        };
        sending(0);
        self.upload(name, &sent.digest, sent.size, UploadBody::File(sent.file.clone(), Arc::new(sending))).await?;
        layer_is("Pushed");
        Ok(sent)
    }

    pub(super) async fn has_blob(&self, name: &ImageRef, digest: &Digest) -> Result<bool, ImageError> {
        let (client, url) = self.url_of(name, &format!("blobs/{digest}")).await?;
        let response =
            self.authorised(name, "pull,push", self.patience.answer, || std::future::ready(Ok(client.head(&url)))).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refused(name, "a layer", response).await),
        }
    }

    /// Has the registry take a blob from another repository of its own, that an image here is known to have it from.
    async fn mount(&self, store: &Store, name: &ImageRef, digest: &Digest) -> Result<bool, ImageError> {
        for (other, image) in store.list()? {
            if other.host != name.host || other.path == name.path {
                continue;
            }
            if !store.manifest(&image)?.layers.iter().any(|layer| layer.digest == *digest) {
                continue;
            }
            let (client, uploads) = self.url_of(name, "blobs/uploads/").await?;
            let url = format!("{uploads}?mount={digest}&from={}", other.path);
            let response =
                self.authorised(name, "pull,push", self.patience.answer, || std::future::ready(Ok(client.post(&url)))).await?;
            if response.status() == StatusCode::CREATED {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) async fn upload(&self, name: &ImageRef, digest: &Digest, size: u64, body: UploadBody) -> Result<(), ImageError> {
        let failed = |why: String| ImageError::Registry {
            host: name.host.clone(),
            what: format!("an upload of {}", name.familiar()),
            why,
        };
        let (client, begin) = self.url_of(name, "blobs/uploads/").await?;
        let response =
            self.authorised(name, "pull,push", self.patience.answer, || std::future::ready(Ok(client.post(&begin)))).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refused(name, "an upload", response).await);
        }
        let place = response
            .headers()
            .get(header::LOCATION)
            .and_then(|l| l.to_str().ok())
            .ok_or_else(|| failed("it says no place".into()))?;
        let mut url = response.url().join(place).map_err(|e| failed(e.to_string()))?;
        if url.host_str() != response.url().host_str() {
            return Err(failed(format!("it wants the upload on another host, {}", url.host_str().unwrap_or_default())));
        }
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        // A body that is held whole can follow a redirect (307, 308), a stream cannot.
        let is_small = size <= PIECE as u64;
        let (progress, sent) = tokio::sync::watch::channel(0);
        let progress = Arc::new(progress);
        let put = || {
            let (request, body, progress) = (client.put(url.clone()), body.clone(), progress.clone());
            async move {
                let request =
                    request.header(header::CONTENT_TYPE, "application/octet-stream").header(header::CONTENT_LENGTH, size);
                Ok(match body {
                    UploadBody::Bytes(bytes) if is_small => {
                        progress.send_replace(size);
                        request.body(bytes)
                    }
                    UploadBody::File(path, shown) if is_small => {
                        let bytes =
                            tokio::fs::read(&path).await.map_err(ImageError::store(format!("reading {}", path.display())))?;
                        progress.send_replace(size);
                        shown(size);
                        request.body(bytes)
                    }
                    UploadBody::Bytes(bytes) => {
                        let pieces: Vec<_> = bytes.chunks(PIECE).map(|piece| Ok::<_, io::Error>(piece.to_vec())).collect();
                        let mut count = 0;
                        request.body(reqwest::Body::wrap_stream(futures::stream::iter(pieces).inspect_ok(move |piece| {
                            count += piece.len() as u64;
                            progress.send_replace(count);
                        })))
                    }
                    UploadBody::File(path, shown) => {
                        let sending: Sending = Arc::new(move |count| {
                            progress.send_replace(count);
                            shown(count);
                        });
                        let file = tokio::fs::File::open(&path)
                            .await
                            .map_err(ImageError::store(format!("reading {}", path.display())))?;
                        request.body(reqwest::Body::wrap_stream(chunks(file, sending)))
                    }
                })
            }
        };
        let uploading = self.authorised(name, "pull,push", Duration::MAX, put);
        let response = tokio::select! {
            response = uploading => response?,
            why = answers::stalled(sent, size, self.patience) => return Err(failed(why)),
        };
        if response.status() == StatusCode::CREATED { Ok(()) } else { Err(self.refused(name, "a layer", response).await) }
    }

    /// Why a registry did not take something, in its own words where it has any.
    pub(super) async fn refused(&self, name: &ImageRef, what: &str, response: reqwest::Response) -> ImageError {
        let status = response.status();
        let answer = answers::read(response, MAX_ERROR, self.patience.document).await;
        let said = answer.ok().and_then(|answer| answers::error_message(&answer));
        let why = match (status, said) {
            (StatusCode::UNAUTHORIZED, _) if matches!(self.denied(name), ImageError::Unauthorized { .. }) => {
                return self.denied(name);
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                "denied: requested access to the resource is denied: log in with `docker login`, or check the name".into()
            }
            (_, None) => format!("it refused {what} with {status}"),
            (_, Some(said)) => format!("it refused {what} with {status}: {said}"),
        };
        ImageError::Registry { host: name.host.clone(), what: format!("a push of {}", name.familiar()), why }
    }
}

/// The content of an upload.
#[derive(Clone)]
pub(super) enum UploadBody {
    Bytes(Vec<u8>),
    /// With a callback for the number of bytes sent.
    File(PathBuf, Sending),
}

/// Is told how many bytes of a blob have been sent.
pub(super) type Sending = Arc<dyn Fn(u64) + Send + Sync>;

/// Bytes that are handed to the connection at once.
const PIECE: usize = 1 << 18;

fn chunks(file: tokio::fs::File, sending: Sending) -> impl futures::Stream<Item = io::Result<bytes::Bytes>> {
    use tokio::io::AsyncReadExt;
    futures::stream::try_unfold((file, 0, sending), |(mut file, mut sent, sending)| async move {
        let mut buffer = bytes::BytesMut::with_capacity(PIECE);
        let n = file.read_buf(&mut buffer).await?;
        sent += n as u64;
        sending(sent);
        Ok((n > 0).then(|| (buffer.freeze(), (file, sent, sending))))
    })
}

/// Compresses an unpacked layer, and keeps the blob. Its tar must be the one that the configuration names.
fn compress(store: &Store, chain: &ChainId, diff_id: &DiffId) -> Result<Sent, ImageError> {
    let known = store.build_cache().join(format!("gzip-{}", diff_id.hex()));
    if let Some(digest) = std::fs::read_to_string(&known).ok().and_then(|text| text.parse::<Digest>().ok()) {
        let held = store.hold_blob(&digest);
        if let Some((file, size)) = store.find_blob(&digest) {
            store.note_seen(chain, &digest).map_err(ImageError::store("compressing a layer".into()))?;
            return Ok(Sent { digest, size, kind: OCI_LAYER_GZIP.into(), file, _held: held });
        }
    }
    let draft = store.blob_draft()?;
    let failed = ImageError::store("compressing a layer".into());
    let file = std::fs::File::create(draft.path()).map_err(&failed)?;
    let compressed = Hashing::sha256(io::BufWriter::with_capacity(1 << 18, file));
    // Without a name and a time in its header, the same layer gives the same blob.
    let mut tar = Hashing::sha256(flate2::GzBuilder::new().write(compressed, flate2::Compression::default()));
    let diff = store.layer(chain);
    tarball::write(&diff, &mut tar).map_err(&failed)?;
    let (gzip, got) = tar.finish();
    if got != *diff_id.digest() {
        return Err(ImageError::Build(format!(
            "the layer {} cannot be pushed: its original archive is not here, and made anew it is another one; pull the image again and push it then",
            diff_id.digest().short()
        )));
    }
    let (mut writer, digest) = gzip.finish().map_err(&failed)?.finish();
    writer.flush().map_err(&failed)?;
    let size = std::fs::metadata(draft.path()).map_err(&failed)?.len();
    let held = store.hold_blob(&digest);
    store.keep_blob(draft, &digest)?;
    // So that what is pulled again is not fetched.
    store.note_seen(chain, &digest).map_err(&failed)?;
    std::fs::write(&known, digest.as_str()).map_err(&failed)?;
    let (file, _) = store.find_blob(&digest).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    Ok(Sent { digest, size, kind: OCI_LAYER_GZIP.into(), file, _held: held })
}
