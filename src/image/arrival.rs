//! Layers as they come in: checked against what the manifest and the configuration say of them while they are unpacked.
//!
//! A layer that is here already is used again, and not fetched, when the manifest names a blob that was once seen to be this
//! layer's. The configuration's word alone is not enough: it would give whoever knows a layer's digest the files of it.

use super::digest::{ChainId, DiffId, Digest, Hashing};
use super::manifest::{Configuration, Manifest};
use super::store::{StagedLayer, Store};
use super::{ImageError, compression, unpack::UnpackError};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};

/// A layer as the image's documents describe it.
#[derive(Clone, Debug)]
pub struct Expected {
    pub chain: ChainId,
    pub diff_id: DiffId,
    /// As the manifest names it. Docker's own archives name none.
    pub blob: Option<Digest>,
}

impl Expected {
    /// The layers of an image, the lowest first.
    ///
    /// # Errors
    /// When its two documents do not have as many layers.
    pub fn all(manifest: &Manifest, configuration: &Configuration) -> Result<Vec<Self>, ImageError> {
        let (blobs, diff_ids) = (&manifest.layers, &configuration.diff_ids);
        if blobs.len() != diff_ids.len() {
            let why = format!("it has {} layers, and the configuration {}", blobs.len(), diff_ids.len());
            return Err(ImageError::Malformed { what: "manifest", why });
        }
        let layers = blobs.iter().zip(diff_ids.iter().zip(configuration.chain_ids()));
        Ok(layers
            .map(|(blob, (diff_id, chain))| Expected { chain, diff_id: diff_id.clone(), blob: Some(blob.digest.clone()) })
            .collect())
    }
}

/// A layer that an image brings.
#[derive(Debug)]
pub enum Arrived {
    Staged(StagedLayer),
    Here(KnownLayer),
}

/// A layer that is here and may be used by who has named it. [`Store`] and this room alone make one.
#[derive(Debug)]
pub struct KnownLayer {
    pub(super) chain: ChainId,
    /// A blob that was seen to be this layer's.
    pub(super) blob: Option<Digest>,
    _held: Option<HeldBlob>,
}

impl KnownLayer {
    /// One of an image that is here.
    pub(super) fn of_image(chain: &ChainId) -> Self {
        KnownLayer { chain: chain.clone(), blob: None, _held: None }
    }
}

/// Blobs that are on their way into an image, each as often as it is.
#[derive(Debug, Default)]
pub struct HeldBlobs(Arc<Mutex<HashMap<Digest, usize>>>);

impl HeldBlobs {
    pub fn hold(&self, digest: &Digest) -> HeldBlob {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()).entry(digest.clone()).or_default() += 1;
        HeldBlob { digest: digest.clone(), all: self.0.clone() }
    }

    /// Removes a blob's file, unless the blob is held. Nobody can begin to hold it meanwhile: whoever holds a blob and then finds
    /// its file keeps it. `false` when it is held.
    ///
    /// # Errors
    /// Those of `remove`.
    pub fn remove_unless_held(&self, digest: &Digest, remove: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
        let all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if all.contains_key(digest) {
            return Ok(false);
        }
        remove().map(|()| true)
    }
}

/// While it is there, its blob is not removed.
#[derive(Debug)]
pub struct HeldBlob {
    digest: Digest,
    all: Arc<Mutex<HashMap<Digest, usize>>>,
}

impl Drop for HeldBlob {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(count) = all.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.digest);
            }
        }
    }
}

impl Store {
    /// A layer that is here and whose blob was seen before.
    pub fn known_layer(&self, expected: &Expected) -> Option<KnownLayer> {
        let blob = expected.blob.as_ref()?;
        let held = self.hold_blob(blob);
        let known = self.has_layer(&expected.chain).is_some() && self.has_seen(&expected.chain, blob);
        known.then(|| KnownLayer { chain: expected.chain.clone(), blob: None, _held: Some(held) })
    }

    /// A layer whose blob is here: as an earlier version has left it, or below other layers.
    ///
    /// # Errors
    /// The disk's, or a blob that is not what the configuration says. One that a power cut has torn is removed and is not here.
    pub fn layer_of_kept_blob(&self, expected: &Expected) -> Result<Option<Arrived>, ImageError> {
        let Some(blob) = &expected.blob else { return Ok(None) };
        let _held = self.hold_blob(blob);
        let Some((path, _)) = self.find_blob(blob) else { return Ok(None) };
        let failed = ImageError::store(format!("reading {}", path.display()));
        let file = File::open(&path).map_err(&failed)?;
        let mut hashing = Hashing::new(&file, blob.algorithm());
        io::copy(&mut hashing, &mut io::sink()).map_err(&failed)?;
        if hashing.finish().1 != *blob {
            std::fs::remove_file(&path).map_err(&failed)?;
            return Ok(None);
        }
        self.arrive(File::open(&path).map_err(&failed)?, expected, KeepBlob::Nothing).map(Some)
    }

    /// Takes in what a reader brings, compressed or not, and checks it against both of its digests.
    ///
    /// # Errors
    /// A wrong digest, an archive that cannot be unpacked, or the disk's. Nothing is kept then.
    pub fn arrive(&self, reader: impl Read, expected: &Expected, keep: KeepBlob) -> Result<Arrived, ImageError> {
        let archive = |e: io::Error| ImageError::Unpack(UnpackError::Archive(e));
        let algorithm = expected.blob.as_ref().map_or(expected.diff_id.digest(), |blob| blob).algorithm();
        // The image that it belongs to has no name yet.
        let held = expected.blob.as_ref().map(|blob| self.hold_blob(blob));
        let copy = match (keep, &expected.blob) {
            (KeepBlob::Blob, Some(blob)) if self.find_blob(blob).is_none() => Some(self.blob_draft()?),
            _ => None,
        };
        let reader: Box<dyn Read + '_> = match &copy {
            Some(copy) => Box::new(copy.copying(reader)?),
            None => Box::new(reader),
        };
        let mut hashing = Hashing::new(reader, algorithm);
        let plain = compression::plain(&mut hashing).map_err(archive)?;
        let mut arrived = if self.has_layer(&expected.chain).is_some() {
            let mut plain = Hashing::sha256(plain);
            io::copy(&mut plain, &mut io::sink()).map_err(archive)?;
            let got: DiffId = plain.finish().1.try_into()?;
            check("layer", expected.diff_id.digest(), got.digest())?;
            Arrived::Here(KnownLayer::of_image(&expected.chain))
        } else {
            let staged = self.stage(plain)?;
            check("layer", expected.diff_id.digest(), staged.diff_id.digest())?;
            Arrived::Staged(staged)
        };
        // What follows the end of the compressed stream counts as well.
        io::copy(&mut hashing, &mut io::sink()).map_err(archive)?;
        let (reader, got) = hashing.finish();
        drop(reader);
        if let Some(blob) = &expected.blob {
            check("layer", blob, &got)?;
            match &mut arrived {
                Arrived::Staged(staged) => staged.note_blob(blob, held)?,
                Arrived::Here(known) => (known.blob, known._held) = (Some(blob.clone()), held),
            }
            if let Some(copy) = copy {
                self.keep_blob(copy, blob)?;
            }
        }
        Ok(arrived)
    }
}

/// Whether the blob is kept as it came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum KeepBlob {
    Blob,
    Nothing,
}

fn check(what: &str, expected: &Digest, got: &Digest) -> Result<(), ImageError> {
    if got == expected { Ok(()) } else { Err(ImageError::wrong_digest(what, expected, got)) }
}
