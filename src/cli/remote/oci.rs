//! `oci://NAME`: a project of a registry.

use super::{RemoteCache, write};
use crate::compose::remote::FetchedResource;
use crate::image::artifact::MAIN_FILE;
use crate::image::registry::Registry;
use crate::image::{Digest, ImageRef};
use std::path::{Path, PathBuf};

/// Bytes of a layer that is kept; documents of registries are no larger.
const MAX_LAYER: u64 = 4 << 20;

/// Asks the registry what the name means now, and fetches the layers that the cache lacks. The files are compared with their digests
/// each time: a container of the project may have changed them.
pub(super) async fn fetch(name: &str, cache: &RemoteCache) -> Result<FetchedResource, String> {
    let name: ImageRef = name.parse().map_err(|error| format!("{error}"))?;
    let registry = Registry::new().map_err(|error| error.to_string())?;
    let failed = |error: std::io::Error| format!("writing the cache: {error}");
    let layers = cache.directory("layers").map_err(failed)?;
    let pulled = registry.project(&name, |digest| kept(&layers, digest)).await.map_err(|error| error.to_string())?;
    let root = cache.directory("oci").map_err(failed)?.join(pulled.digest.hex());
    let _alone = cache.lock(pulled.digest.hex()).map_err(failed)?;
    std::fs::create_dir_all(&root).map_err(failed)?;
    for (file, content) in &pulled.files {
        write(&root, file, content).map_err(failed)?;
    }
    for (digest, content) in &pulled.layers {
        write(&layers, digest.hex(), content).map_err(failed)?;
    }
    Ok(FetchedResource { file: root.join(MAIN_FILE), root })
}

/// A layer of the cache, if it is what its digest says.
fn kept(layers: &Path, digest: &Digest) -> Option<Vec<u8>> {
    let path: PathBuf = layers.join(digest.hex());
    let is_small = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_LAYER);
    let content = std::fs::read(&path).ok().filter(|_| is_small)?;
    digest.matches(&content).is_ok().then_some(content)
}
