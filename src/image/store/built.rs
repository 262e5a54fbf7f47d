//! Layers that builds make: usable at once, known when they are durable; and the images that are made of them.

use super::*;
use crate::image::attest::{self, Blob, Predicate};
use crate::image::build::solve::Built;
use crate::image::documents::{NewDescriptor, NewManifest, OCI_CONFIG, OCI_LAYER, to_bytes};

/// Whether an image without a name is in the list of images, or has been made for its files alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepImage {
    Listed,
    Passing,
}

impl Store {
    /// An empty directory for a layer that is being made, and one for overlayfs's own use.
    ///
    /// # Errors
    /// The disk's.
    pub fn draft(&self) -> Result<LayerDraft, ImageError> {
        let directory = self.staging().join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let draft = LayerDraft { directory };
        for part in [draft.diff(), draft.work()] {
            fs::create_dir_all(&part).map_err(ImageError::store(format!("making {}", part.display())))?;
        }
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(draft.diff(), fs::Permissions::from_mode(0o755))
            .map_err(ImageError::store("preparing a layer".into()))?;
        Ok(draft)
    }

    /// Makes a finished draft a layer on top of another. It is usable at once, and known after [`Store::confirm`].
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&self, draft: &LayerDraft, parent: Option<&ChainId>, epoch: Option<i64>) -> Result<Option<Layer>, ImageError> {
        let failed = ImageError::store("storing a layer".into());
        if let Some(epoch) = epoch {
            crate::image::build::tarball::clamp_times(&draft.diff(), epoch).map_err(&failed)?;
        }
        let archive = crate::image::build::tarball::digest(&draft.diff()).map_err(&failed)?;
        if archive.counted.entries == 0 {
            return Ok(None);
        }
        let diff_id = archive.diff_id;
        let chain = ChainId::on(parent, &diff_id);
        let layer = Layer { chain, diff_id, bytes: archive.counted.bytes, tar_bytes: archive.length };
        let mut pending = self.pending();
        if self.has_layer(&layer.chain).is_some() || pending.contains_key(&layer.chain) {
            return Ok(Some(layer));
        }
        let place = self.layer_directory(&layer.chain);
        // A directory without a size is what a build left that ended before it was confirmed.
        remove_tree(&place).map_err(&failed)?;
        let _ = remove_tree(&draft.work());
        fs::rename(&draft.directory, place).map_err(&failed)?;
        pending.insert(layer.chain.clone(), layer.bytes);
        Ok(Some(layer))
    }

    /// Makes kept layers durable and known.
    ///
    /// # Errors
    /// The disk's.
    pub fn confirm(&self) -> Result<(), ImageError> {
        let failed = ImageError::store("storing layers".into());
        let _turn = self.confirming.lock().unwrap_or_else(|e| e.into_inner());
        // They stay pending until they are known: at no time does a layer look as if it were not there.
        let pending = self.pending().clone();
        if pending.is_empty() {
            return Ok(());
        }
        for (chain, bytes) in &pending {
            match fs::write(self.layer_directory(chain).join("size.new"), bytes.to_string()) {
                // Gone: tagging an image that needs it fails.
                Err(e) if e.kind() == io::ErrorKind::NotFound => drop(self.pending().remove(chain)),
                other => other.map_err(&failed)?,
            }
        }
        let root = File::open(&self.root).map_err(&failed)?;
        nix::unistd::syncfs(&root).map_err(|e| failed(e.into()))?;
        for chain in pending.keys() {
            let size = self.layer_directory(chain).join("size");
            match fs::rename(size.with_file_name("size.new"), size) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
                _ => drop(self.pending().remove(chain)),
            }
        }
        Ok(())
    }

    /// Makes an image of layers that are here known under its names, with its attestations.
    ///
    /// # Errors
    /// The disk's.
    pub fn tag_built(
        &self,
        names: &[ImageRef],
        config: &[u8],
        layers: &[Layer],
        predicates: &[Predicate],
        keep: KeepImage,
    ) -> Result<Built, ImageError> {
        self.confirm()?;
        let _names = self.hold_names();
        self.check_layers(layers.iter().map(|layer| &layer.chain))?;
        let config_digest = Digest::of(config);
        let layers = layers.iter().map(|layer| NewDescriptor::new(OCI_LAYER, layer.diff_id.digest(), layer.tar_bytes)).collect();
        let mut manifest = NewManifest::new(NewDescriptor::of(OCI_CONFIG, config), layers);
        let predicates = if predicates.is_empty() { None } else { Some(Blob::new(to_bytes("attestation", &predicates)?)) };
        if let Some(predicates) = &predicates {
            manifest.annotations.insert(attest::ANNOTATION, predicates.digest.to_string());
        }
        let manifest = manifest.to_bytes()?;
        let manifest_digest = Digest::of(&manifest);
        let failed = ImageError::store("storing an image".into());
        let attested = predicates.iter().map(|blob| (&blob.digest, blob.bytes.as_slice()));
        for (digest, bytes) in [(&config_digest, config), (&manifest_digest, &manifest)].into_iter().chain(attested) {
            // One that is damaged is written anew.
            if !fs::read(self.blob(digest)).is_ok_and(|here| here == bytes) {
                write_durably(&self.blob(digest), bytes).map_err(&failed)?;
            }
        }
        self.look_again();
        match keep {
            KeepImage::Listed if names.is_empty() => self.keep_unnamed(OCI_MANIFEST, &manifest_digest, manifest.len() as u64)?,
            _ => self.name_manifest(names, OCI_MANIFEST, &manifest_digest, manifest.len() as u64)?,
        }
        Ok(Built { id: config_digest, manifest: manifest_digest })
    }

    /// An image's attestations; none where an archive brought the image without the blob that it names.
    ///
    /// # Errors
    /// The disk's.
    pub fn predicates(&self, image: &Image) -> Result<Vec<Predicate>, ImageError> {
        let Some((path, _)) = self.manifest(image)?.predicates().and_then(|digest| self.find_blob(digest)) else {
            return Ok(Vec::new());
        };
        let reading = || ImageError::store(format!("reading {}", path.display()));
        let size = fs::metadata(&path).map_err(reading())?.len();
        if size > attest::MAX_BYTES {
            let why = format!("the attestations of the image have {size} bytes, and may have {}", attest::MAX_BYTES);
            return Err(ImageError::Malformed { what: "attestation", why });
        }
        let bytes = fs::read(&path).map_err(reading())?;
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(store: &Store, content: &str) -> Layer {
        let draft = store.draft().unwrap();
        fs::write(draft.diff().join("file"), content).unwrap();
        store.keep(&draft, None, Some(0)).unwrap().unwrap()
    }

    /// The tar of a layer, as `keep` counts it.
    fn tar_of(store: &Store, layer: &Layer) -> Vec<u8> {
        let mut tar = Vec::new();
        crate::image::build::tarball::write(&store.layer(&layer.chain), &mut tar).unwrap();
        tar
    }

    #[test]
    fn a_layer_that_was_not_confirmed_does_not_count_after_a_crash() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let layer = kept(&store, "whole");
        assert!(store.is_usable(&layer.chain) && store.has_layer(&layer.chain).is_none());
        let tar = tar_of(&store, &layer);
        fs::write(store.layer(&layer.chain).join("file"), "torn").unwrap();
        drop(store);

        let store = Store::open(root.path()).unwrap();
        assert!(!store.is_usable(&layer.chain), "nobody confirmed it");
        let staged = store.stage(tar.as_slice()).unwrap();
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        });
        let name: ImageRef = "pulled".parse().unwrap();
        let descriptor = |kind: &str, digest: &Digest| serde_json::json!({"mediaType": kind, "digest": digest, "size": 1});
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &Digest::of(config.to_string().as_bytes())),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer.diff_id.digest())],
        });
        store
            .commit(&name, config.to_string().as_bytes(), manifest.to_string().as_bytes(), vec![Arrived::Staged(staged)])
            .unwrap();
        assert_eq!(fs::read_to_string(store.layer(&layer.chain).join("file")).unwrap(), "whole", "the torn one is replaced");
        assert!(store.has_layer(&layer.chain).is_some());
    }

    /// An earlier version did not check an image's layer digests.
    #[test]
    fn an_image_that_is_refused_today_is_in_nobodys_way() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let config =
            serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["/etc"]}});
        let config = config.to_string().into_bytes();
        let manifest =
            serde_json::json!({"schemaVersion": 2, "config": {"digest": Digest::of(&config), "size": 1}, "layers": []});
        let manifest = manifest.to_string().into_bytes();
        for bytes in [&config, &manifest] {
            fs::write(store.blob(&Digest::of(bytes)), bytes).unwrap();
        }
        let (evil, good): (ImageRef, ImageRef) = ("evil".parse().unwrap(), "good".parse().unwrap());
        store.name_manifest(std::slice::from_ref(&evil), OCI_MANIFEST, &Digest::of(&manifest), 1).unwrap();
        let layer = kept(&store, "good");
        let config = serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}});
        store.tag_built(std::slice::from_ref(&good), config.to_string().as_bytes(), &[layer], &[], KeepImage::Listed).unwrap();
        drop(store);

        let store = Store::open(root.path()).unwrap();
        assert_eq!(store.list().unwrap().into_iter().map(|(name, _)| name).collect::<Vec<_>>(), std::slice::from_ref(&good));
        assert!(store.find(&evil).unwrap_err().to_string().contains("is not a digest"));
        assert_eq!((store.forget_left_out(&good).unwrap(), store.forget_left_out(&evil).unwrap()), (false, true));
        assert!(store.find(&evil).unwrap().is_none() && store.find(&good).unwrap().is_some());
        let pruned = store.prune(&Default::default()).unwrap();
        assert_eq!((pruned.layers, pruned.blobs), (0, 2));
    }

    /// A bad sector in a configuration costs no layer.
    #[test]
    fn layers_of_a_damaged_image_stay() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let layer = kept(&store, "good");
        let config = |author: &str| {
            let rootfs = serde_json::json!({"type": "layers", "diff_ids": [layer.diff_id]});
            serde_json::json!({"architecture": "amd64", "os": "linux", "author": author, "rootfs": rootfs}).to_string()
        };
        let (damaged, other): (ImageRef, ImageRef) = ("damaged".parse().unwrap(), "other".parse().unwrap());
        let tag = |store: &Store, name: &ImageRef| {
            let config = config(name.path.as_str());
            store
                .tag_built(std::slice::from_ref(name), config.as_bytes(), std::slice::from_ref(&layer), &[], KeepImage::Listed)
                .unwrap()
        };
        let names = |store: &Store| store.list().unwrap().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let blobs = |store: &Store| [&damaged, &other].map(|name| tag(store, name)).map(|built| [built.id, built.manifest]);
        let [[id, manifest], _] = blobs(&store);
        type Damage = fn(&Path);
        let ways: [Damage; 3] = [
            |blob| fs::write(blob, vec![0; 100]).unwrap(),
            |blob| fs::remove_file(blob).unwrap(),
            // Still JSON.
            |blob| fs::write(blob, fs::read_to_string(blob).unwrap().replace("linux", "lunix").replace('2', "3")).unwrap(),
        ];
        for (blob, damage) in [&id, &manifest].into_iter().flat_map(|blob| ways.map(|damage| (blob, damage))) {
            damage(&store.blob(blob));
            let store = Store::open(root.path()).unwrap();
            assert_eq!((names(&store), names(&store)), (vec![other.clone()], vec![other.clone()]));
            assert_eq!(store.left_out.lock().unwrap().len(), 1, "reported once");
            let refused = store.prune(&Default::default()).unwrap_err().to_string();
            assert!(refused.contains("the image damaged:latest is damaged"), "{refused}");
            store.remove(&other, &|_| false).unwrap();
            assert!(store.has_layer(&layer.chain).is_some());
            blobs(&store);
            assert_eq!(names(&store).len(), 2, "built again, it is whole");
            assert_eq!(store.prune(&Default::default()).unwrap().layers, 0);
        }
        fs::remove_file(store.blob(&id)).unwrap();
        let store = Store::open(root.path()).unwrap();
        assert!(store.forget_left_out(&damaged).unwrap());
        store.prune(&Default::default()).unwrap();
        assert_eq!(names(&store), [other]);
    }

    #[test]
    fn the_newest_blobs_of_a_layer_are_remembered() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let chain = kept(&store, "shared").chain;
        let blob = |i: usize| Digest::of(&i.to_le_bytes());
        for i in 0..layers::MAX_SEEN + 50 {
            store.note_seen(&chain, &blob(i)).unwrap();
            assert!(store.has_seen(&chain, &blob(i)), "{i}");
        }
        assert!(!store.has_seen(&chain, &blob(49)) && store.has_seen(&chain, &blob(50)));
        assert_eq!(store.seen(&chain).len(), layers::MAX_SEEN);
    }

    #[test]
    fn builds_beside_each_other_confirm_all_of_their_layers() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        std::thread::scope(|scope| {
            for builder in 0..4 {
                let store = &store;
                scope.spawn(move || {
                    for step in 0..10 {
                        // Half of the layers are made by all four.
                        let own = if step % 2 == 0 { builder } else { 9 };
                        let layer = kept(store, &format!("{own} {step}"));
                        assert!(store.is_usable(&layer.chain), "it is there from now on");
                        store.confirm().unwrap();
                        assert!(store.has_layer(&layer.chain).is_some(), "known when `confirm` is back, whoever did it");
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(store.layers_directory()).unwrap().count(), 4 * 5 + 5);
        assert!(store.pending_layers().is_empty());
    }
}
