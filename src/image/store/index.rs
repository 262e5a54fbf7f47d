//! The index of a store: names of images, in the form of an OCI image index.

use super::listing::Listed;
use super::{Image, Store, write_durably};
use crate::image::ImageError;
use crate::image::digest::{ChainId, Digest};
use crate::image::documents::OCI_MANIFEST;
use crate::image::reference::ImageRef;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self};
use std::io::{self};

/// The index: references to manifests, in the form of an OCI image index.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct StoreIndex {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    pub(super) manifests: Vec<StoreEntry>,
}

impl StoreIndex {
    /// Adds an image. One that had its name before stays without, as long as it has no other.
    pub(super) fn put(&mut self, new: StoreEntry) {
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

impl StoreEntry {
    pub(super) fn name(&self) -> Option<&String> {
        self.annotations.get(REF_NAME)
    }
}

/// An image of the store: a descriptor of OCI's `index.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoreEntry {
    #[serde(rename = "mediaType")]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

/// When an image came from a registry or an archive.
pub(super) const PULLED: &str = "dev.wharf.pulled";
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

impl Store {
    pub(super) fn name_manifest(&self, names: &[ImageRef], kind: &str, digest: &Digest, size: u64) -> Result<(), ImageError> {
        let already = |name: &ImageRef| {
            self.lock().manifests.iter().any(|e| e.digest == *digest && e.annotations.get(REF_NAME) == Some(&name.to_string()))
        };
        if names.iter().all(already) {
            return Ok(());
        }
        self.change_index(|index| {
            for name in names {
                index.put(StoreEntry {
                    media_type: kind.into(),
                    digest: digest.clone(),
                    size,
                    annotations: BTreeMap::from([(REF_NAME.to_string(), name.to_string())]),
                });
            }
        })
        .map_err(ImageError::store("naming an image".into()))
    }

    /// Keeps an image without a name, until it is removed by its id or pruned.
    pub(super) fn keep_unnamed(&self, kind: &str, digest: &Digest, size: u64) -> Result<(), ImageError> {
        if self.lock().manifests.iter().any(|entry| entry.digest == *digest) {
            return Ok(());
        }
        let entry = StoreEntry { media_type: kind.into(), digest: digest.clone(), size, annotations: BTreeMap::new() };
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

    /// Takes a name from its image, which stays: without a name where it was the last.
    ///
    /// # Errors
    /// The disk's.
    pub fn untag(&self, name: &ImageRef) -> Result<(), ImageError> {
        let _names = self.hold_names();
        let name = name.to_string();
        let untag = |index: &mut StoreIndex| {
            let Some(at) = index.manifests.iter().position(|entry| entry.name() == Some(&name)) else { return };
            let mut entry = index.manifests.remove(at);
            if !index.manifests.iter().any(|other| other.digest == entry.digest) {
                entry.annotations.remove(REF_NAME);
                index.manifests.push(entry);
            }
        };
        self.change_index(untag).map_err(ImageError::store(format!("untagging {name}")))
    }

    pub(super) fn change_index(&self, change: impl FnOnce(&mut StoreIndex)) -> io::Result<()> {
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

    /// The names of the variables that an image gives to its containers; `None` where it is not here.
    pub fn environment(&self, image: &str) -> Option<Vec<String>> {
        let image = self.find(&image.parse().ok()?).ok()??;
        let variables = image.config.config().as_ref().and_then(|config| config.env().clone()).unwrap_or_default();
        Some(variables.iter().filter_map(|variable| Some(variable.split_once('=')?.0.to_string())).collect())
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
        is_one: impl Fn(&StoreEntry) -> bool,
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
            self.discard_layer(&self.layer_directory(layer)).map_err(removing())?;
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
