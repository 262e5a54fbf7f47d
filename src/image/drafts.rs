//! Drafts: directories and files on their way into the store, removed unless they are kept.

use super::ImageError;
use crate::sys::blocking::in_place;
use crate::sys::removal::{Removal, remove_tree};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A blob on its way. It goes away unless it is kept.
#[derive(Debug)]
pub struct BlobDraft {
    pub(super) path: PathBuf,
}

impl BlobDraft {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what is read through it.
    ///
    /// # Errors
    /// The disk's.
    pub fn copying<R: io::Read>(&self, inner: R) -> Result<CopyingReader<R>, ImageError> {
        let file = File::create(&self.path).map_err(ImageError::store(format!("making {}", self.path.display())))?;
        Ok(CopyingReader { inner, file })
    }
}

impl Drop for BlobDraft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes what is read through it to a file.
pub struct CopyingReader<R> {
    inner: R,
    file: File,
}

impl<R: io::Read> io::Read for CopyingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.file.write_all(&buffer[..n])?;
        Ok(n)
    }
}

/// A layer that is being made. It goes away unless it is kept.
#[derive(Debug)]
pub struct LayerDraft {
    pub(super) directory: PathBuf,
}

impl LayerDraft {
    /// Replaces the draft's content by the upper directory of a container that has ended.
    ///
    /// # Errors
    /// The disk's.
    pub fn take(&self, upper: &Path) -> io::Result<()> {
        remove_tree(&self.diff())?;
        fs::rename(upper, self.diff())
    }

    /// The directory that becomes the layer.
    pub fn diff(&self) -> PathBuf {
        self.directory.join("diff")
    }

    /// overlayfs's work directory.
    pub fn work(&self) -> PathBuf {
        self.directory.join("work")
    }
}

impl Drop for LayerDraft {
    fn drop(&mut self) {
        let _ = remove_files(&self.directory);
    }
}

/// A draft of any number of files for which nobody waits when they go: they are removed in the background. On a disk that discards
/// what is freed, a thousand files take seconds.
#[derive(Debug)]
pub struct Passing(Option<LayerDraft>);

impl Passing {
    pub fn new(draft: LayerDraft) -> Self {
        Passing(Some(draft))
    }

    pub fn diff(&self) -> PathBuf {
        self.0.as_ref().map(LayerDraft::diff).unwrap_or_default()
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let draft = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn_blocking(move || drop(draft)));
        }
    }
}

/// A tree with no more files than this is removed on the spot: less than a millisecond of work.
const FEW_STEPS: u32 = 512;

/// Removes what is at a path, with all below it. A large tree is removed in a way that leaves the other tasks of an async runtime
/// with several threads undisturbed.
///
/// # Errors
/// The first that cannot be removed.
pub fn remove_files(path: &Path) -> io::Result<()> {
    let Some(mut removal) = Removal::of(path)? else { return Ok(()) };
    if removal.advance(FEW_STEPS)? {
        return Ok(());
    }
    in_place(|| removal.finish())
}
