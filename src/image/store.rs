//! Images on disk: an OCI layout for what is small (manifests, configurations), and unpacked layers by chain id.
//!
//! A layer is unpacked into a temporary directory, checked, synced and renamed; the index, which makes an image known,
//! is written last. So a power cut or a full disk leaves the old images and no half one.

mod built;
mod index;
mod layers;
mod listing;

use super::ImageError;
use super::arrival::{Arrived, HeldBlob, HeldBlobs, KnownLayer};
use super::digest::{Algorithm, ChainId, DiffId, Digest};
use super::documents::{ConfigDocument, ImageHealthcheck, OCI_MANIFEST};
use super::drafts::BlobDraft;
pub use super::drafts::{LayerDraft, Passing, remove_files};
use super::manifest::{Configuration, Manifest};
use super::reference::ImageRef;
use crate::sys::removal::remove_tree;
pub use built::KeepImage;
use index::{PULLED, REF_NAME, StoreEntry, StoreIndex};
pub use layers::{Layer, StagedLayer};
use listing::LeftOut;
use oci_spec::image::ImageConfiguration;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// An image of the store.
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
    pub healthcheck: Option<ImageHealthcheck>,
}

/// The images, layers and blobs below the data root.
pub struct Store {
    root: PathBuf,
    index: Mutex<StoreIndex>,
    next: AtomicU64,
    /// Images by their manifest's digest: what a digest names never changes.
    loaded: Mutex<HashMap<Digest, Image>>,
    /// Images that no list has, by their manifest's digest. Each is reported once.
    left_out: Mutex<HashMap<Digest, LeftOut>>,
    /// Layers that are in their directory and not yet synced, with the bytes of their files.
    pending: Mutex<HashMap<ChainId, u64>>,
    /// Blobs whose image has no name yet.
    held: HeldBlobs,
    /// Held while pending layers become known: who comes second finds its own known when it goes on.
    confirming: Mutex<()>,
    /// Held while an image gets its name, and while what has no name is removed.
    naming: Mutex<()>,
}

impl Image {
    /// Its layers, for another image on top of them.
    pub fn known_layers(&self) -> impl Iterator<Item = Arrived> {
        self.layers.iter().map(|chain| Arrived::Here(KnownLayer::of_image(chain)))
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

    fn lock(&self) -> MutexGuard<'_, StoreIndex> {
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

    /// A temporary file for a blob.
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
        check_arrived(&parsed, &configuration, &arrived)?;
        let chains = configuration.chain_ids();
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
            let place = self.layer_directory(chain);
            // A directory without a size is what a build left that ended before it was confirmed.
            remove_tree(&place).map_err(context("storing the layers of"))?;
            layer.rename(&place).map_err(context("storing the layers of"))?;
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
        let mut entry = StoreEntry {
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
}

/// Checks that the layers are those of the configuration and the manifest.
fn check_arrived(manifest: &Manifest, configuration: &Configuration, arrived: &[Arrived]) -> Result<(), ImageError> {
    let diff_ids = &configuration.diff_ids;
    if diff_ids.len() != arrived.len() || diff_ids.len() != manifest.layers.len() {
        return Err(ImageError::Malformed {
            what: "configuration",
            why: format!("it names {} layers, the manifest {}", diff_ids.len(), manifest.layers.len()),
        });
    }
    for ((expected, chain), layer) in diff_ids.iter().zip(&configuration.chain_ids()).zip(arrived) {
        match layer {
            Arrived::Staged(layer) if layer.diff_id != *expected => {
                return Err(ImageError::wrong_digest("layer", expected.digest(), layer.diff_id.digest()));
            }
            Arrived::Here(known) if known.chain != *chain => {
                return Err(ImageError::wrong_digest("chain of layers", chain.digest(), known.chain.digest()));
            }
            _ => {}
        }
    }
    Ok(())
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
