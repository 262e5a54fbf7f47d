//! What nothing refers to any more, taken out of the store.

use super::store::{Store, named_blobs, remove_tree};
use super::{ImageError, build::cache};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub layers: u64,
    pub blobs: u64,
    /// Of the disk.
    pub bytes: u64,
}

impl Store {
    /// Forgets what builds remember, their cache mounts included.
    ///
    /// # Errors
    /// The disk's.
    pub fn forget_builds(&self) -> Result<(), ImageError> {
        let failed = ImageError::store("emptying the build cache".into());
        for entry in fs::read_dir(self.build_cache()).map_err(&failed)? {
            let path = entry.map_err(&failed)?.path();
            if path.is_dir() {
                remove_tree(&path).map_err(&failed)?;
            } else {
                fs::remove_file(&path).map_err(&failed)?;
            }
        }
        Ok(())
    }

    /// Removes layers that no image, container or remembered build step needs, and blobs that no image names. `used` are the
    /// layers of containers.
    ///
    /// # Errors
    /// The disk's.
    pub fn prune(&self, used: &HashSet<String>) -> Result<Pruned, ImageError> {
        let _names = self.hold_names();
        let failed = ImageError::store("removing what is not needed".into());
        let list = |directory: &Path| -> Result<Vec<PathBuf>, ImageError> {
            Ok(fs::read_dir(directory).map_err(&failed)?.flatten().map(|entry| entry.path()).collect())
        };
        // What comes after this look is not in question: it is somebody's who is at work.
        let (present_layers, present_blobs) = (list(&self.layers_directory())?, list(&self.blobs_directory())?);
        let mut layers: HashSet<String> = used.clone();
        let mut blobs: HashSet<String> = self.arriving().clone();
        for (_, image) in self.list()? {
            blobs.extend(named_blobs(&self.manifest(&image)?));
            blobs.extend([image.manifest, image.id]);
            layers.extend(image.layers);
        }
        layers.extend(self.pending_layers());
        for entry in fs::read_dir(self.build_cache()).map_err(&failed)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("gzip-") {
                blobs.extend(fs::read_to_string(entry.path()));
            } else if let Some(made) = cache::read(&entry.path()) {
                layers.extend(made.layer.map(|layer| layer.chain));
            }
        }
        let mut pruned = Pruned::default();
        let unneeded = |path: &&PathBuf, needed: &HashSet<String>| {
            path.file_name().is_some_and(|name| !needed.contains(&format!("sha256:{}", name.to_string_lossy())))
        };
        for layer in present_layers.iter().filter(|path| unneeded(path, &layers)) {
            pruned.bytes +=
                fs::read_to_string(layer.join("size")).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
            pruned.layers += 1;
            self.discard_layer(layer).map_err(&failed)?;
        }
        for blob in present_blobs.iter().filter(|path| unneeded(path, &blobs)) {
            pruned.bytes += fs::metadata(blob).map_or(0, |file| file.len());
            pruned.blobs += 1;
            fs::remove_file(blob).map_err(&failed)?;
        }
        Ok(pruned)
    }
}
