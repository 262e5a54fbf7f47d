//! Images on disk: an OCI layout for what is small (manifests, configurations), and unpacked layers by chain id.
//!
//! A layer is unpacked into a temporary directory, checked, synced and renamed; the index, which makes an image known,
//! is written last. So a power cut or a full disk leaves the old images and no half one.

mod built;
mod listing;

pub use built::Keep;

use super::ImageError;
use super::arrival::{Arrived, HeldBlob, HeldBlobs, KnownLayer};
use super::build::files::Tree;
use super::digest::{Algorithm, ChainId, DiffId, Digest, Hashing};
use super::drafts::BlobDraft;
pub use super::drafts::{Draft, remove_files};
use super::manifest::{Configuration, Manifest};
use super::reference::ImageRef;
use crate::sys::removal::remove_tree;
use listing::{LeftOut, Listed};
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// What is known of an image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The configuration's digest, which is the image's id.
    pub id: Digest,
    pub manifest: Digest,
    pub config: ImageConfiguration,
    /// Unpacked layers, the lowest first.
    pub layers: Vec<ChainId>,
    /// The layers' own digests, in the same order.
    pub diff_ids: Vec<DiffId>,
    /// Bytes of the unpacked layers.
    pub size: u64,
    /// Docker's health check, for which the OCI specification has no place.
    pub healthcheck: Option<serde_json::Value>,
}

/// The index: references to manifests, in the form of an OCI image index.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Index {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    manifests: Vec<Entry>,
}

impl Index {
    /// Adds an image. One that had its name before stays without, as long as it has no other.
    fn put(&mut self, new: Entry) {
        let name = new.annotations.get(REF_NAME).cloned();
        // The image is no longer without a name.
        self.manifests.retain(|entry| entry.digest != new.digest || entry.name().is_some());
        if let Some(name) = &name {
            let moved = self.manifests.iter().position(|entry| entry.name() == Some(name));
            let mut old = moved.map(|at| self.manifests.remove(at)).filter(|old| old.digest != new.digest);
            if let Some(mut old) = old.take().filter(|old| self.manifests.iter().all(|entry| entry.digest != old.digest)) {
                old.annotations.remove(REF_NAME);
                self.manifests.push(old);
            }
        }
        self.manifests.push(new);
    }
}

impl Entry {
    fn name(&self) -> Option<&String> {
        self.annotations.get(REF_NAME)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// When an image came from a registry or an archive.
const PULLED: &str = "dev.wharf.pulled";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub struct Store {
    root: PathBuf,
    index: Mutex<Index>,
    next: AtomicU64,
    /// Images by their manifest's digest: what a digest names never changes.
    loaded: Mutex<HashMap<Digest, Image>>,
    /// Images that no list has, by their manifest's digest. Each is reported once.
    left_out: Mutex<HashMap<Digest, LeftOut>>,
    /// Layers that are in their place and not yet synced, with the bytes of their files.
    pending: Mutex<HashMap<ChainId, u64>>,
    /// Blobs whose image has no name yet.
    held: HeldBlobs,
    /// Held while pending layers become known: who comes second finds its own known when it goes on.
    confirming: Mutex<()>,
    /// Held while an image gets its name, and while what has no name is removed.
    naming: Mutex<()>,
}

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A layer that is unpacked but not yet known.
#[derive(Debug)]
pub struct StagedLayer {
    directory: StagingDirectory,
    pub diff_id: DiffId,
    pub bytes: u64,
    /// The blob that it came as, once that is known to be right.
    blob: Option<Digest>,
    _held: Option<HeldBlob>,
}

impl Image {
    /// Its layers, for another image on top of them.
    pub fn known_layers(&self) -> impl Iterator<Item = Arrived> {
        self.layers.iter().map(|chain| Arrived::Here(KnownLayer::of_image(chain)))
    }
}

impl StagedLayer {
    /// Remembers the blob that it came as. It is synced with the layer.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn note_blob(&mut self, blob: &Digest, held: Option<HeldBlob>) -> Result<(), ImageError> {
        fs::write(self.directory.0.join(BLOBS), format!("{blob}\n")).map_err(ImageError::store("storing a layer".into()))?;
        self.blob = Some(blob.clone());
        self._held = held;
        Ok(())
    }
}

/// Beside a layer's files: the digests of the blobs that were seen to be this layer, one a line.
const BLOBS: &str = "blobs";
/// Lines of such a file. A layer has one blob, or a few where others have compressed it; there is no end to what can be made.
const MAX_SEEN: usize = 100;

/// A layer in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub chain: ChainId,
    pub diff_id: DiffId,
    /// Of the files.
    pub bytes: u64,
    /// Of the tar that the diff id is the digest of.
    pub tar_bytes: u64,
}

/// Goes away with its content, unless that has been renamed into its place.
#[derive(Debug)]
struct StagingDirectory(PathBuf);

impl Drop for StagingDirectory {
    fn drop(&mut self) {
        let _ = remove_files(&self.0);
    }
}

impl Store {
    /// Opens the store below `root`, and clears what an interrupted pull has left.
    ///
    /// # Errors
    /// When the directories cannot be made or the index cannot be read.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let store = Store {
            root: root.to_path_buf(),
            index: Mutex::default(),
            next: AtomicU64::new(0),
            loaded: Mutex::default(),
            left_out: Mutex::default(),
            pending: Mutex::default(),
            held: HeldBlobs::default(),
            confirming: Mutex::default(),
            naming: Mutex::default(),
        };
        let context = |doing: &str| ImageError::store(format!("{doing} {}", root.display()));
        let blobs = Algorithm::ALL.map(|algorithm| store.blobs_directory(algorithm));
        for directory in [store.layers_directory(), store.build_cache()].iter().chain(&blobs) {
            fs::create_dir_all(directory).map_err(context("making the image store"))?;
        }
        if let Err(error) = remove_tree(&store.staging()) {
            tracing::warn!("removing what an interrupted pull or build has left in {}: {error}", store.staging().display());
        }
        fs::create_dir_all(store.staging()).map_err(context("making the image store"))?;
        if let Ok(staging) = File::open(store.staging()) {
            crate::sys::spread_directories(&staging);
        }
        match fs::read(root.join("index.json")) {
            Ok(bytes) => {
                let index =
                    serde_json::from_slice(&bytes).map_err(io::Error::from).map_err(context("reading the image index of"))?;
                *store.lock() = index;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
                    .map_err(context("making the image store"))?;
            }
            Err(e) => return Err(context("reading the image index of")(e)),
        }
        Ok(store)
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn cache(&self) -> MutexGuard<'_, HashMap<Digest, Image>> {
        self.loaded.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(super) fn layers_directory(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(super) fn blobs_directory(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.name())
    }

    pub(super) fn pending_layers(&self) -> Vec<ChainId> {
        self.pending().keys().cloned().collect()
    }

    /// Keeps a blob from being removed until its image has a name, or is given up. Who looks for the blob holds it first.
    pub fn hold_blob(&self, digest: &Digest) -> HeldBlob {
        self.held.hold(digest)
    }

    /// Removes a blob's file, unless somebody holds the blob. `false` when it stays.
    pub(super) fn discard_blob(&self, digest: &Digest) -> io::Result<bool> {
        self.held.remove_unless_held(digest, || fs::remove_file(self.blob(digest)))
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<ChainId, u64>> {
        self.pending.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// While it is held, no image gets a name and no layer is removed.
    pub(super) fn hold_names(&self) -> MutexGuard<'_, ()> {
        self.naming.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// An image must not be named when a layer that was there at its beginning was pruned meanwhile.
    fn check_layers<'a>(&self, mut chains: impl Iterator<Item = &'a ChainId>) -> Result<(), ImageError> {
        match chains.find(|chain| self.has_layer(chain).is_none()) {
            None => Ok(()),
            Some(chain) => Err(ImageError::Build(format!("the layer {chain} was removed meanwhile; run the command again"))),
        }
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs_directory(digest.algorithm()).join(digest.hex())
    }

    /// Where a layer is, with what is known of it.
    fn layer_place(&self, chain_id: &ChainId) -> PathBuf {
        self.layers_directory().join(chain_id.hex())
    }

    /// The directory of an unpacked layer.
    pub fn layer(&self, chain_id: &ChainId) -> PathBuf {
        self.layer_place(chain_id).join("diff")
    }

    /// The files of unpacked layers together, the lowest first, read-only.
    ///
    /// # Errors
    /// When a layer is gone or overlayfs refuses.
    pub fn tree(&self, layers: &[PathBuf]) -> io::Result<Tree> {
        let empty = self.build_cache().join("empty");
        fs::create_dir_all(&empty)?;
        Tree::layers(layers, &empty)
    }

    /// Removes a layer. It is renamed first: a removal that is interrupted must not leave half a layer under its name.
    pub(super) fn discard_layer(&self, place: &Path) -> io::Result<()> {
        let doomed = self.staging().join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        fs::rename(place, &doomed)?;
        remove_files(&doomed)
    }

    /// Whether a layer is there, with the size of its files.
    pub fn has_layer(&self, chain_id: &ChainId) -> Option<u64> {
        fs::read_to_string(self.layer_place(chain_id).join("size")).ok()?.trim().parse().ok()
    }

    /// The blobs that were seen to be a layer, the oldest first. A line that a power cut has torn is no digest.
    fn seen(&self, chain_id: &ChainId) -> Vec<Digest> {
        let seen = fs::read_to_string(self.layer_place(chain_id).join(BLOBS)).unwrap_or_default();
        seen.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Whether a blob was seen to be a layer's.
    pub(super) fn has_seen(&self, chain_id: &ChainId, blob: &Digest) -> bool {
        self.seen(chain_id).contains(blob)
    }

    /// Remembers that a blob is a layer's, in place of the oldest when there are too many: others' compressions of a shared layer
    /// must not keep out the next one. It is not synced: what is lost is found out again.
    pub(super) fn note_seen(&self, chain_id: &ChainId, blob: &Digest) -> io::Result<()> {
        let seen = self.seen(chain_id);
        if seen.contains(blob) {
            return Ok(());
        }
        let path = self.layer_place(chain_id).join(BLOBS);
        if seen.len() < MAX_SEEN {
            let mut file = File::options().append(true).create(true).open(path)?;
            return file.write_all(format!("\n{blob}\n").as_bytes());
        }
        let newest = seen.iter().skip(seen.len() + 1 - MAX_SEEN).chain([blob]);
        let lines: String = newest.map(|digest| format!("{digest}\n")).collect();
        let next = self.staging().join(format!("blobs-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        fs::write(&next, lines).and_then(|()| fs::rename(&next, path)).inspect_err(|_| drop(fs::remove_file(&next)))
    }

    /// Whether a layer's files are there, whether or not they are durable yet.
    pub fn is_usable(&self, chain_id: &ChainId) -> bool {
        // In this order: what is pending no more is known.
        self.pending().contains_key(chain_id) || self.has_layer(chain_id).is_some()
    }

    /// Unpacks a layer into a staging directory. The reader gives the uncompressed tar.
    ///
    /// # Errors
    /// The reader's, or the entry that could not be unpacked.
    pub fn stage(&self, layer: impl io::Read) -> Result<StagedLayer, ImageError> {
        let directory = StagingDirectory(self.staging().join(self.next.fetch_add(1, Ordering::Relaxed).to_string()));
        let diff = directory.0.join("diff");
        fs::create_dir_all(&diff).map_err(ImageError::store(format!("making {}", diff.display())))?;
        let root = File::open(&diff).map_err(ImageError::store(format!("opening {}", diff.display())))?;
        nix::sys::stat::fchmod(&root, nix::sys::stat::Mode::from_bits_truncate(0o755))
            .map_err(|e| ImageError::store("preparing a layer".into())(e.into()))?;
        let mut hashing = Hashing::sha256(io::BufReader::with_capacity(1 << 18, layer));
        let unpacked = super::unpack::apply(&mut hashing, std::os::fd::AsFd::as_fd(&root))?;
        // The digest is of the whole stream: padding after the end of the archive counts as well.
        io::copy(&mut hashing, &mut io::sink()).map_err(|e| ImageError::Unpack(super::unpack::UnpackError::Archive(e)))?;
        fs::write(directory.0.join("size"), unpacked.bytes.to_string())
            .map_err(ImageError::store("writing a layer's size".into()))?;
        Ok(StagedLayer { directory, diff_id: hashing.finish().1.try_into()?, bytes: unpacked.bytes, blob: None, _held: None })
    }

    /// Whether a layer's archive can be made again from its files, to the byte. One that cannot has to be kept, or the image could
    /// never be pushed.
    ///
    /// # Errors
    /// The disk's.
    pub fn can_be_made_again(&self, staged: &StagedLayer) -> Result<bool, ImageError> {
        let archive = crate::image::build::tarball::digest(&staged.directory.0.join("diff"));
        Ok(archive.map_err(ImageError::store("reading a layer".into()))?.diff_id == staged.diff_id)
    }

    /// A place for a blob that is on its way.
    ///
    /// # Errors
    /// The disk's.
    pub fn blob_draft(&self) -> Result<BlobDraft, ImageError> {
        let path = self.staging().join(format!("blob-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        Ok(BlobDraft { path })
    }

    /// Keeps a blob whose digest was checked. It is synced with the image that it belongs to. Who keeps it holds it
    /// ([`Store::hold_blob`]) until something names it.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep_blob(&self, draft: BlobDraft, digest: &Digest) -> Result<(), ImageError> {
        fs::rename(&draft.path, self.blob(digest)).map_err(ImageError::store(format!("storing the blob {digest}")))
    }

    /// A blob's file, where it is here.
    pub fn find_blob(&self, digest: &Digest) -> Option<(PathBuf, u64)> {
        let path = self.blob(digest);
        let size = fs::metadata(&path).ok()?.len();
        Some((path, size))
    }

    /// An image's manifest as it is stored.
    ///
    /// # Errors
    /// The disk's.
    pub fn manifest_bytes(&self, image: &Image) -> Result<Vec<u8>, ImageError> {
        fs::read(self.blob(&image.manifest)).map_err(ImageError::store(format!("reading the manifest {}", image.manifest)))
    }

    /// As [`Store::manifest_bytes`], read.
    ///
    /// # Errors
    /// The disk's.
    pub fn manifest(&self, image: &Image) -> Result<Manifest, ImageError> {
        Manifest::parse(&self.manifest_bytes(image)?)
    }

    fn name_manifest(&self, names: &[ImageRef], kind: &str, digest: &Digest, size: u64) -> Result<(), ImageError> {
        let already = |name: &ImageRef| {
            self.lock().manifests.iter().any(|e| e.digest == *digest && e.annotations.get(REF_NAME) == Some(&name.to_string()))
        };
        if names.iter().all(already) {
            return Ok(());
        }
        self.change_index(|index| {
            for name in names {
                index.put(Entry {
                    media_type: kind.into(),
                    digest: digest.clone(),
                    size,
                    annotations: BTreeMap::from([(REF_NAME.to_string(), name.to_string())]),
                });
            }
        })
        .map_err(ImageError::store("naming an image".into()))
    }

    /// Keeps an image that has no name, until it is removed by its id or pruned.
    fn keep_unnamed(&self, kind: &str, digest: &Digest, size: u64) -> Result<(), ImageError> {
        if self.lock().manifests.iter().any(|entry| entry.digest == *digest) {
            return Ok(());
        }
        let entry = Entry { media_type: kind.into(), digest: digest.clone(), size, annotations: BTreeMap::new() };
        self.change_index(|index| index.put(entry)).map_err(ImageError::store("storing an image".into()))
    }

    /// Gives an image that is here another name.
    ///
    /// # Errors
    /// The disk's.
    pub fn tag(&self, image: &Image, name: &ImageRef) -> Result<(), ImageError> {
        let entry = self.lock().manifests.iter().find(|e| e.digest == image.manifest).cloned();
        let (kind, size) = entry.map_or((OCI_MANIFEST.to_string(), 0), |entry| (entry.media_type, entry.size));
        self.name_manifest(std::slice::from_ref(name), &kind, &image.manifest, size)
    }

    /// An image's configuration as it is stored, byte for byte.
    ///
    /// # Errors
    /// The disk's.
    pub fn configuration(&self, image: &Image) -> Result<Vec<u8>, ImageError> {
        fs::read(self.blob(&image.id)).map_err(ImageError::store(format!("reading the configuration of {}", image.id)))
    }

    /// Where builds keep what they remember.
    pub fn build_cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Makes an image known: its layers, its configuration and manifest, then its name.
    ///
    /// `arrived` are its layers, the lowest first. A configuration that is not the manifest's, and a layer that is not the
    /// configuration's, are refused before anything is renamed.
    ///
    /// # Errors
    /// A wrong digest, or the disk's.
    pub fn commit(&self, name: &ImageRef, config: &[u8], manifest: &[u8], arrived: Vec<Arrived>) -> Result<Image, ImageError> {
        self.commit_as(Some(name), config, manifest, arrived)
    }

    /// As [`Store::commit`]; an image may be without a name.
    ///
    /// # Errors
    /// The same.
    pub fn commit_as(
        &self,
        name: Option<&ImageRef>,
        config: &[u8],
        manifest: &[u8],
        arrived: Vec<Arrived>,
    ) -> Result<Image, ImageError> {
        let parsed = Manifest::parse(manifest)?;
        parsed
            .config
            .digest
            .matches(config)
            .map_err(|got| ImageError::wrong_digest("configuration", &parsed.config.digest, &got))?;
        let configuration = Configuration::parse(config)?;
        let diff_ids = &configuration.diff_ids;
        if diff_ids.len() != arrived.len() || diff_ids.len() != parsed.layers.len() {
            return Err(ImageError::Malformed {
                what: "configuration",
                why: format!("it names {} layers, the manifest {}", diff_ids.len(), parsed.layers.len()),
            });
        }
        let chains = configuration.chain_ids();
        for ((wanted, chain), layer) in diff_ids.iter().zip(&chains).zip(&arrived) {
            match layer {
                Arrived::Staged(layer) if layer.diff_id != *wanted => {
                    return Err(ImageError::wrong_digest("layer", wanted.digest(), layer.diff_id.digest()));
                }
                Arrived::Here(known) if known.chain != *chain => {
                    return Err(ImageError::wrong_digest("chain of layers", chain.digest(), known.chain.digest()));
                }
                _ => {}
            }
        }
        let shown = name.map_or_else(|| parsed.config.digest.to_string(), ImageRef::familiar);
        let context = |doing: &str| ImageError::store(format!("{doing} {shown}"));
        if arrived.iter().any(|layer| matches!(layer, Arrived::Staged(_))) {
            // One sync for all layers: without it a power cut could leave files without content under a valid name.
            let root = File::open(&self.root).map_err(context("storing the layers of"))?;
            nix::unistd::syncfs(&root).map_err(|e| context("storing the layers of")(e.into()))?;
        }
        let _names = self.hold_names();
        for (chain, layer) in chains.iter().zip(&arrived) {
            let Arrived::Staged(layer) = layer else { continue };
            // Held so that no build puts its own there between the question and the answer.
            let pending = self.pending();
            if self.has_layer(chain).is_some() || pending.contains_key(chain) {
                continue;
            }
            let place = self.layer_place(chain);
            // A directory without a size is what a build left that ended before it was confirmed.
            remove_tree(&place).map_err(context("storing the layers of"))?;
            fs::rename(&layer.directory.0, &place).map_err(context("storing the layers of"))?;
        }
        // A build that is not done may have put one of them there.
        self.confirm()?;
        self.check_layers(chains.iter())?;
        for (chain, layer) in chains.iter().zip(&arrived) {
            let (Arrived::Staged(StagedLayer { blob, .. }) | Arrived::Here(KnownLayer { blob, .. })) = layer;
            if let Some(blob) = blob {
                self.note_seen(chain, blob).map_err(context("storing the layers of"))?;
            }
        }
        let manifest_digest = Digest::of(manifest);
        for (digest, bytes) in [(&parsed.config.digest, config), (&manifest_digest, manifest)] {
            write_durably(&self.blob(digest), bytes).map_err(context("storing"))?;
        }
        self.look_again();
        let mut entry = Entry {
            media_type: parsed.media_type.clone().unwrap_or_else(|| OCI_MANIFEST.into()),
            digest: manifest_digest.clone(),
            size: manifest.len() as u64,
            annotations: BTreeMap::from([(PULLED.to_string(), jiff::Timestamp::now().to_string())]),
        };
        let Some(name) = name else {
            self.keep_unnamed(&entry.media_type, &entry.digest, entry.size)?;
            return self.load(&manifest_digest);
        };
        entry.annotations.insert(REF_NAME.to_string(), name.to_string());
        self.change_index(|index| index.put(entry)).map_err(context("storing"))?;
        self.find(name)?.ok_or_else(|| ImageError::Malformed { what: "image", why: "it vanished while it was stored".into() })
    }

    fn change_index(&self, change: impl FnOnce(&mut Index)) -> io::Result<()> {
        let mut index = self.lock();
        let mut next = index.clone();
        next.schema_version = 2;
        change(&mut next);
        write_durably(&self.root.join("index.json"), &serde_json::to_vec_pretty(&next)?)?;
        *index = next;
        Ok(())
    }

    /// An image by its reference.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn find(&self, name: &ImageRef) -> Result<Option<Image>, ImageError> {
        let wanted = name.to_string();
        let entry = self.lock().manifests.iter().find(|e| e.annotations.get(REF_NAME) == Some(&wanted)).cloned();
        entry.map(|entry| self.load(&entry.digest)).transpose()
    }

    /// When an image was pulled, where it was.
    pub fn pulled_at(&self, name: &ImageRef) -> Option<jiff::Timestamp> {
        let wanted = name.to_string();
        let index = self.lock();
        let entry = index.manifests.iter().find(|e| e.annotations.get(REF_NAME) == Some(&wanted))?;
        entry.annotations.get(PULLED)?.parse().ok()
    }

    /// An image by what a user writes: a reference, or (the beginning of) an id.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn find_loosely(&self, text: &str) -> Result<Option<(Option<ImageRef>, Image)>, ImageError> {
        if let Ok(name) = text.parse::<ImageRef>()
            && let Some(image) = self.find(&name)?
        {
            return Ok(Some((Some(name), image)));
        }
        let hex = text.trim_start_matches("sha256:");
        if hex.len() < 4 {
            return Ok(None);
        }
        let Listed { images, unnamed, .. } = self.listed()?;
        let all =
            images.into_iter().map(|(name, image)| (Some(name), image)).chain(unnamed.into_iter().map(|image| (None, image)));
        Ok(all.into_iter().find(|(_, image)| image.id.hex().starts_with(hex)))
    }

    /// An image by its manifest's digest. It need not have a name, as long as nothing is pruned.
    pub fn by_manifest(&self, digest: &Digest) -> Option<Image> {
        if self.blob(digest).exists() { self.load(digest).ok() } else { None }
    }

    /// Takes a name from its image; the image's content goes where no other name and no container needs it.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove(&self, name: &ImageRef, used_layers: &dyn Fn(&ChainId) -> bool) -> Result<(), ImageError> {
        let _names = self.hold_names();
        let Some(image) = self.find(name)? else { return Ok(()) };
        let name = name.to_string();
        self.remove_entries(&image, |entry| entry.name() == Some(&name), used_layers)
    }

    /// Removes an image that has no name, as [`Store::remove`] does.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove_unnamed(&self, image: &Image, used_layers: &dyn Fn(&ChainId) -> bool) -> Result<(), ImageError> {
        let _names = self.hold_names();
        self.remove_entries(image, |entry| entry.digest == image.manifest && entry.name().is_none(), used_layers)
    }

    /// Takes entries of an image from the index, and what nothing needs any more from the disk.
    fn remove_entries(
        &self,
        image: &Image,
        is_one: impl Fn(&Entry) -> bool,
        used_layers: &dyn Fn(&ChainId) -> bool,
    ) -> Result<(), ImageError> {
        let removing = || ImageError::store(format!("removing {}", image.id));
        self.cache().remove(&image.manifest);
        self.change_index(|index| index.manifests.retain(|entry| !is_one(entry))).map_err(removing())?;
        let Listed { images, unnamed, damaged } = self.listed()?;
        let rest: Vec<Image> = images.into_iter().map(|(_, image)| image).chain(unnamed).collect();
        if !damaged.is_empty() {
            // Which layers and blobs the damaged images need is not known: all stay until the store is pruned.
            return Ok(());
        }
        for layer in image.layers.iter().filter(|l| !used_layers(l) && !rest.iter().any(|i| i.layers.contains(l))) {
            self.discard_layer(&self.layer_place(layer)).map_err(removing())?;
        }
        let blobs = |image: &Image| -> Vec<Digest> {
            self.manifest(image).map(|manifest| manifest.named_blobs().cloned().collect()).unwrap_or_default()
        };
        let kept: Vec<Digest> = rest.iter().flat_map(&blobs).collect();
        for blob in blobs(image).iter().filter(|blob| !kept.contains(blob)) {
            // One that a pull holds is pruned later, if that pull fails.
            let _ = self.discard_blob(blob);
        }
        if !rest.iter().any(|i| i.id == image.id) {
            let _ = fs::remove_file(self.blob(&image.id));
        }
        if !rest.iter().any(|i| i.manifest == image.manifest) {
            let _ = fs::remove_file(self.blob(&image.manifest));
        }
        Ok(())
    }
}

/// Writes a file so that after a power cut it is the old or the new one: temporary file, sync, rename, sync of the directory.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}
