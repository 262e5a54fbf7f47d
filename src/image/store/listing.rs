//! Images as they are read from the store, and those that cannot be.

use super::*;
use crate::image::manifest::MAX_DOCUMENT;
use std::io::Read;

/// Why an image is in no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftOut {
    /// An earlier version took its documents, and they are refused today: no container can be made of it.
    Refused,
    /// Its documents are gone or are not what was stored. Its layers may be whole: pulled again, it needs no download.
    Damaged,
}

impl LeftOut {
    /// `None` for an error that is not the image's own.
    fn of(error: &ImageError) -> Option<Self> {
        match error {
            ImageError::Malformed { .. } | ImageError::Digest(_) => Some(LeftOut::Refused),
            ImageError::Damaged { .. } => Some(LeftOut::Damaged),
            _ => None,
        }
    }
}

/// The images of the store.
#[derive(Debug, Default)]
pub(in crate::image) struct Listed {
    pub images: Vec<(ImageRef, Image)>,
    pub unnamed: Vec<Image>,
    /// Names of images of which it is not known which layers and blobs they need.
    pub damaged: Vec<String>,
}

impl Store {
    /// Every reference with its image. An image that is damaged, or that an earlier version took and that is refused today, is left
    /// out.
    ///
    /// # Errors
    /// The disk's.
    pub fn list(&self) -> Result<Vec<(ImageRef, Image)>, ImageError> {
        Ok(self.listed()?.images)
    }

    /// Images without a name: none was given, or another image has it now.
    ///
    /// # Errors
    /// The disk's.
    pub fn unnamed(&self) -> Result<Vec<Image>, ImageError> {
        Ok(self.listed()?.unnamed)
    }

    /// As [`Store::list`], with images that have no name and the names of what is damaged.
    ///
    /// # Errors
    /// The disk's.
    pub(in crate::image) fn listed(&self) -> Result<Listed, ImageError> {
        let entries = self.lock().manifests.clone();
        let mut listed = Listed::default();
        for entry in entries {
            let name = match entry.name().map(|name| name.parse::<ImageRef>()) {
                Some(Ok(name)) => Some(name),
                Some(Err(_)) => continue,
                None => None,
            };
            let shown = name.as_ref().map_or_else(|| entry.digest.to_string(), ImageRef::familiar);
            match (self.load_or_leave_out(&shown, &entry.digest)?, name) {
                (Ok(image), Some(name)) => listed.images.push((name, image)),
                (Ok(image), None) => listed.unnamed.push(image),
                (Err(LeftOut::Damaged), Some(_)) => listed.damaged.push(shown),
                // Without a name, nobody can want it back; containers keep their own layers.
                (Err(_), _) => {}
            }
        }
        Ok(listed)
    }

    /// Reads an image, once where that fails.
    fn load_or_leave_out(&self, name: &str, digest: &Digest) -> Result<Result<Image, LeftOut>, ImageError> {
        // In this order: an image that was pulled again is in the cache.
        if let Some(image) = self.cache().get(digest) {
            return Ok(Ok(image.clone()));
        }
        if let Some(left_out) = self.left_out().get(digest) {
            return Ok(Err(*left_out));
        }
        let error = match self.load(digest) {
            Ok(image) => return Ok(Ok(image)),
            Err(error) => error,
        };
        let Some(left_out) = LeftOut::of(&error) else { return Err(error) };
        if self.left_out().insert(digest.clone(), left_out).is_none() {
            tracing::warn!("the image {name} is left out: {error}");
        }
        Ok(Err(left_out))
    }

    /// Documents were written: what was damaged may be whole again. What is refused stays so.
    pub(super) fn look_again(&self) {
        self.left_out().retain(|_, left_out| *left_out == LeftOut::Refused);
    }

    fn left_out(&self) -> MutexGuard<'_, HashMap<Digest, LeftOut>> {
        self.left_out.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn load(&self, manifest_digest: &Digest) -> Result<Image, ImageError> {
        if let Some(image) = self.cache().get(manifest_digest) {
            return Ok(image.clone());
        }
        let id = Manifest::parse(&self.document(manifest_digest)?)?.config.digest;
        let bytes = self.document(&id)?;
        let configuration = Configuration::parse(&bytes)?;
        let layers = configuration.chain_ids();
        let size = layers.iter().filter_map(|layer| self.has_layer(layer)).sum();
        let healthcheck = ConfigDocument::parse(&bytes)?.config.healthcheck;
        let Configuration { parsed: config, diff_ids } = configuration;
        let image = Image { id, manifest: manifest_digest.clone(), config, layers, diff_ids, size, healthcheck };
        self.cache().insert(manifest_digest.clone(), image.clone());
        Ok(image)
    }

    /// A manifest or a configuration, as it was stored.
    fn document(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let damaged = |why: String| ImageError::Damaged { digest: digest.clone(), why };
        let failed = |error: io::Error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::EIO) => damaged(error.to_string()),
            _ => ImageError::store(format!("reading the blob {digest}"))(error),
        };
        let mut bytes = Vec::new();
        let file = File::open(self.blob(digest)).map_err(failed)?;
        // A digest from the API may be that of a layer.
        file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(failed)?;
        match digest.matches(&bytes) {
            // Longer than a document may be: the parser says so.
            Err(_) if bytes.len() as u64 <= MAX_DOCUMENT => Err(damaged("its content has another digest".into())),
            _ => Ok(bytes),
        }
    }

    /// Takes the name from an image that no list has. What is left of it goes when the store is pruned.
    ///
    /// # Errors
    /// The disk's.
    pub fn forget_left_out(&self, name: &ImageRef) -> Result<bool, ImageError> {
        let _names = self.hold_names();
        if !self.find(name).is_err_and(|error| LeftOut::of(&error).is_some()) {
            return Ok(false);
        }
        self.change_index(|index| index.manifests.retain(|e| e.annotations.get(REF_NAME) != Some(&name.to_string())))
            .map_err(ImageError::store(format!("removing {}", name.familiar())))?;
        Ok(true)
    }
}
