//! The build cache: from a step's key to the layer that it made.
//!
//! A key is the digest of the parent's key, the instruction after expansion, and the content that it reads. So the same
//! step on the same parent is found, whatever its times and whoever builds it.

use crate::image::Digest;
use crate::image::store::{Layer, Store};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The result of a step. `None` is no layer: nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepResult {
    pub layer: Option<Layer>,
    /// When: the history of an image that is built again is the same.
    pub created: String,
}

/// The key of a step on a parent.
pub fn key(parent: &str, parts: &[&str]) -> Digest {
    let mut text = parent.to_string();
    for part in parts {
        // Lengths keep ("ab", "c") and ("a", "bc") apart.
        text.push_str(&format!("\n{}:{part}", part.len()));
    }
    Digest::of(text.as_bytes())
}

/// Finds a step that was made before, and whose layer is still here.
pub fn find(store: &Store, key: &Digest) -> Option<StepResult> {
    let path = path(store, key);
    let made = read(&path)?;
    match &made.layer {
        Some(layer) if !store.is_usable(&layer.chain) => None,
        _ => {
            used(&path);
            Some(made)
        }
    }
}

/// The time of a file's last change is that of its last use: who prunes the cache keeps what was used lately.
pub fn used(path: &Path) {
    let _ = fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

/// A remembered step.
pub fn read(path: &Path) -> Option<StepResult> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Remembers a step. A file that a power cut tears is not understood, and the step is made again.
pub fn remember(store: &Store, key: &Digest, made: &StepResult) {
    let Ok(bytes) = serde_json::to_vec(made) else { return };
    let path = path(store, key);
    let temporary = path.with_extension("tmp");
    if fs::write(&temporary, bytes).is_ok() {
        let _ = fs::rename(&temporary, &path);
    }
}

fn path(store: &Store, key: &Digest) -> PathBuf {
    store.build_cache().join(key.hex())
}
