//! Removal of unreferenced content from the store.

use super::digest::{Algorithm, ChainId, Digest};
use super::store::Store;
use super::{ImageError, build::cache};
use crate::sys::disk_usage::disk_usage;
use crate::sys::removal::remove_tree;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The removed images, layers and blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub layers: u64,
    pub blobs: u64,
    /// Of the disk.
    pub bytes: u64,
}

/// Something that builds remember: a step, or the files of a cache mount.
#[derive(Clone, Debug)]
pub struct CachedStep {
    pub id: String,
    /// BuildKit's word for it.
    pub kind: &'static str,
    /// Of its files; of a step, those of its layer.
    pub bytes: u64,
    pub created: SystemTime,
    pub last_used: SystemTime,
    /// An image has the layer as well.
    pub shared: bool,
    path: PathBuf,
}

impl Store {
    /// The build cache.
    ///
    /// # Errors
    /// The disk's.
    pub fn cached_steps(&self) -> Result<Vec<CachedStep>, ImageError> {
        let failed = ImageError::store("reading the build cache".into());
        let listed = self.listed()?;
        let images: HashSet<ChainId> =
            listed.images.into_iter().map(|(_, image)| image).chain(listed.unnamed).flat_map(|image| image.layers).collect();
        let entries = |path: PathBuf| match fs::read_dir(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read.and_then(Iterator::collect::<Result<Vec<fs::DirEntry>, _>>),
        };
        let mut steps = Vec::new();
        for entry in entries(self.build_cache()).map_err(&failed)? {
            let Some(made) = cache::read(&entry.path()) else { continue };
            // One of them may go meanwhile.
            let Ok(used) = entry.metadata().and_then(|file| file.modified()) else { continue };
            let created = made.created.parse::<jiff::Timestamp>().map_or(used, SystemTime::from);
            steps.push(CachedStep {
                id: entry.file_name().to_string_lossy().into_owned(),
                kind: "regular",
                bytes: made.layer.as_ref().map_or(0, |layer| layer.bytes),
                created,
                last_used: used,
                shared: made.layer.as_ref().is_some_and(|layer| images.contains(&layer.chain)),
                path: entry.path(),
            });
        }
        for entry in entries(self.build_cache().join("mounts")).map_err(&failed)? {
            let Ok(file) = entry.metadata() else { continue };
            let used = file.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            steps.push(CachedStep {
                id: entry.file_name().to_string_lossy().into_owned(),
                kind: "exec.cachemount",
                bytes: disk_usage(&entry.path()),
                created: file.created().unwrap_or(used),
                last_used: used,
                shared: false,
                path: entry.path(),
            });
        }
        Ok(steps)
    }

    /// Forgets some of what builds remember. Layers that nothing else needs go when the store is pruned.
    ///
    /// # Errors
    /// The disk's.
    pub fn forget_steps(&self, steps: &[CachedStep]) -> Result<(), ImageError> {
        let failed = ImageError::store("emptying the build cache".into());
        for step in steps {
            let gone = match step.kind {
                "regular" => fs::remove_file(&step.path),
                _ => remove_tree(&step.path),
            };
            match gone {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                gone => gone.map_err(&failed)?,
            }
        }
        Ok(())
    }

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
    pub fn prune(&self, used: &HashSet<ChainId>) -> Result<Pruned, ImageError> {
        let _names = self.hold_names();
        let failed = ImageError::store("removing what is not needed".into());
        let list = |directory: &Path| -> Result<Vec<PathBuf>, ImageError> {
            Ok(fs::read_dir(directory).map_err(&failed)?.flatten().map(|entry| entry.path()).collect())
        };
        // What comes after this look is not in question: it is somebody's who is at work.
        let present_layers = list(&self.layers_directory())?;
        let mut present_blobs = Vec::new();
        for algorithm in Algorithm::ALL {
            present_blobs.extend(list(&self.blobs_directory(algorithm))?.into_iter().map(|path| (algorithm, path)));
        }
        let mut layers: HashSet<ChainId> = used.clone();
        let mut blobs: HashSet<Digest> = HashSet::new();
        let listed = self.listed()?;
        if let Some(name) = listed.damaged.first() {
            return Err(ImageError::Change(format!(
                "no layer was pruned: the image {0} is damaged, and it is not known which layers it needs; pull, load or build it again, or remove it with `wharf image rm {0}`",
                name
            )));
        }
        for image in listed.images.into_iter().map(|(_, image)| image).chain(listed.unnamed) {
            blobs.extend(self.manifest(&image)?.named_blobs().cloned());
            blobs.extend([image.manifest, image.id]);
            layers.extend(image.layers);
        }
        layers.extend(self.pending_layers());
        for entry in fs::read_dir(self.build_cache()).map_err(&failed)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("gzip-") {
                blobs.extend(fs::read_to_string(entry.path()).ok().and_then(|text| text.parse::<Digest>().ok()));
            } else if let Some(made) = cache::read(&entry.path()) {
                layers.extend(made.layer.map(|layer| layer.chain));
            }
        }
        let mut pruned = Pruned::default();
        // What has no digest for its name is what a power cut has left of a temporary file.
        let named = |path: &Path, algorithm: Algorithm| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            format!("{}:{name}", algorithm.name()).parse::<Digest>().ok()
        };
        let is_needed = |path: &Path| {
            let chain = named(path, Algorithm::Sha256).and_then(|digest| ChainId::try_from(digest).ok());
            chain.is_some_and(|chain| layers.contains(&chain))
        };
        for layer in present_layers.iter().filter(|path| !is_needed(path)) {
            pruned.bytes +=
                fs::read_to_string(layer.join("size")).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
            pruned.layers += 1;
            self.discard_layer(layer).map_err(&failed)?;
        }
        for (algorithm, path) in &present_blobs {
            let bytes = fs::metadata(path).map_or(0, |file| file.len());
            let is_removed = match named(path, *algorithm) {
                Some(digest) if blobs.contains(&digest) => false,
                Some(digest) => self.discard_blob(&digest).map_err(&failed)?,
                None => fs::remove_file(path).map(|()| true).map_err(&failed)?,
            };
            if is_removed {
                pruned.bytes += bytes;
                pruned.blobs += 1;
            }
        }
        Ok(pruned)
    }
}
