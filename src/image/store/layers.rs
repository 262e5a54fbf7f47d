//! Unpacked layers: staged, renamed to their chain id, and the blobs that each is known to come from.

use super::Store;
use crate::image::ImageError;
use crate::image::arrival::HeldBlob;
use crate::image::build::files::Tree;
use crate::image::digest::{ChainId, DiffId, Digest, Hashing};
use crate::image::drafts::remove_files;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// A layer that is unpacked but not yet known.
#[derive(Debug)]
pub struct StagedLayer {
    directory: StagingDirectory,
    pub diff_id: DiffId,
    pub bytes: u64,
    /// The blob that it came as, once that is known to be right.
    pub(super) blob: Option<Digest>,
    _held: Option<HeldBlob>,
}

impl StagedLayer {
    /// Moves it to where layers are known.
    pub(super) fn rename(&self, place: &Path) -> io::Result<()> {
        fs::rename(&self.directory.0, place)
    }

    /// Remembers the blob that it came as. It is synced with the layer.
    ///
    /// # Errors
    /// The disk's.
    pub(in crate::image) fn note_blob(&mut self, blob: &Digest, held: Option<HeldBlob>) -> Result<(), ImageError> {
        fs::write(self.directory.0.join(BLOBS), format!("{blob}\n")).map_err(ImageError::store("storing a layer".into()))?;
        self.blob = Some(blob.clone());
        self._held = held;
        Ok(())
    }
}

/// Beside a layer's files: the digests of the blobs that were seen to be this layer, one a line.
const BLOBS: &str = "blobs";

/// Lines of such a file. A layer has one blob, or a few where others have compressed it; there is no end to what can be made.
pub(super) const MAX_SEEN: usize = 100;

/// A layer in its directory.
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
    /// Where a layer is, with what is known of it.
    pub(super) fn layer_directory(&self, chain_id: &ChainId) -> PathBuf {
        self.layers_directory().join(chain_id.hex())
    }

    /// The directory of an unpacked layer.
    pub fn layer(&self, chain_id: &ChainId) -> PathBuf {
        self.layer_directory(chain_id).join("diff")
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
    pub(in crate::image) fn discard_layer(&self, place: &Path) -> io::Result<()> {
        let doomed = self.staging().join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        fs::rename(place, &doomed)?;
        remove_files(&doomed)
    }

    /// Whether a layer is there, with the size of its files.
    pub fn has_layer(&self, chain_id: &ChainId) -> Option<u64> {
        fs::read_to_string(self.layer_directory(chain_id).join("size")).ok()?.trim().parse().ok()
    }

    /// The blobs that were seen to be a layer, the oldest first. A line that a power cut has torn is no digest.
    pub(super) fn seen(&self, chain_id: &ChainId) -> Vec<Digest> {
        let seen = fs::read_to_string(self.layer_directory(chain_id).join(BLOBS)).unwrap_or_default();
        seen.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Whether a blob was seen to be a layer's.
    pub(in crate::image) fn has_seen(&self, chain_id: &ChainId, blob: &Digest) -> bool {
        self.seen(chain_id).contains(blob)
    }

    /// Remembers that a blob is a layer's, in place of the oldest when there are too many: others' compressions of a shared layer
    /// must not keep out the next one. It is not synced: what is lost is found out again.
    pub(in crate::image) fn note_seen(&self, chain_id: &ChainId, blob: &Digest) -> io::Result<()> {
        let seen = self.seen(chain_id);
        if seen.contains(blob) {
            return Ok(());
        }
        let path = self.layer_directory(chain_id).join(BLOBS);
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
        let unpacked = crate::image::unpack::apply(&mut hashing, std::os::fd::AsFd::as_fd(&root))?;
        // The digest is of the whole stream: padding after the end of the archive counts as well.
        io::copy(&mut hashing, &mut io::sink()).map_err(|e| ImageError::Unpack(crate::image::unpack::UnpackError::Archive(e)))?;
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
}
