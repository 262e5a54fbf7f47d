//! Directories of containers and volumes, and the manifests beside everything that the journal knows.
//!
//! A directory has its name only while it is whole: it is made under another ([`Draft`]), and gets another before it is removed
//! ([`DirectoryRemoval`]). So what a crash has left unfinished is seen from the disk alone, and nothing is ever removed because the journal
//! does not know it. A manifest is the record as it was at the making; it is not synced, and read only when the journal has
//! lost the record.

use crate::image::store::remove_files;
use crate::runtime::quota;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Names of containers, networks and volumes begin with a letter or a digit.
const NEW: &str = ".new-";
const REMOVING: &str = ".removing-";
/// In every directory of directories in which nothing was missing: what is missing from one without it may be on a disk that is
/// not mounted.
const MARK: &str = ".wharf";
const MANIFEST: &str = "manifest.json";
/// Larger than any record.
const LONGEST_MANIFEST: u64 = 64 << 20;

/// Marks a directory of directories as wharf's.
///
/// # Errors
/// The disk's.
pub fn mark(parent: &Path) -> io::Result<()> {
    File::options().write(true).create(true).truncate(false).open(parent.join(MARK)).map(drop)
}

/// Whether what is missing from a directory of directories is gone for good.
pub fn is_marked(parent: &Path) -> bool {
    parent.join(MARK).exists()
}

/// A directory that is being made; removed unless it is finished.
pub struct Draft {
    path: PathBuf,
    finished: PathBuf,
    /// A directory with a limit of its size, which is given back as well.
    limited: Option<PathBuf>,
}

impl Draft {
    /// # Errors
    /// The disk's, or that the directory exists.
    pub fn new(parent: &Path, name: &str) -> io::Result<Self> {
        let (path, finished) = (parent.join(format!("{NEW}{name}")), parent.join(name));
        remove_files(&path)?;
        DirBuilder::new().mode(0o755).create(&path)?;
        Ok(Draft { path, finished, limited: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps a directory in it to a size.
    ///
    /// # Errors
    /// The file system's, or that it has no quotas.
    pub fn limit(&mut self, directory: &Path, bytes: u64) -> io::Result<()> {
        quota::limit(&[directory], bytes)?;
        self.limited = Some(directory.to_path_buf());
        Ok(())
    }

    /// Gives it its name. The journal has its record by then: should this be as far as it comes, the next engine does it.
    ///
    /// # Errors
    /// The disk's; nothing is left then.
    pub fn finish(mut self) -> io::Result<()> {
        fs::rename(&self.path, &self.finished)?;
        self.limited = None;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(limited) = &self.limited {
            quota::release(limited);
        }
        // Once it is finished, there is nothing of this name.
        let _ = remove_files(&self.path);
    }
}

/// A directory that is being removed. Dropped, it is left for the next engine to remove.
pub struct DirectoryRemoval {
    path: PathBuf,
    /// Its name until then, unless there was no such directory.
    whole: Option<PathBuf>,
}

/// How many removals of the same name may be unfinished.
const LEFT_OVER: u32 = 100;

/// The names of a directory that is being removed: the first that is free is taken. No container's or volume's name has a `~`.
fn names_of_removals(name: &str) -> impl Iterator<Item = String> + use<'_> {
    (0..LEFT_OVER).map(move |n| if n == 0 { format!("{REMOVING}{name}") } else { format!("{REMOVING}{name}~{n}") })
}

impl DirectoryRemoval {
    /// Takes a directory's name away; that it does not exist is fine. What an earlier removal has left is not touched, so it
    /// takes no time.
    ///
    /// # Errors
    /// The disk's.
    pub fn begin(directory: &Path) -> io::Result<Self> {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
        for path in names_of_removals(&name).map(|name| directory.with_file_name(name)) {
            match fs::rename(directory, &path) {
                Ok(()) => return Ok(DirectoryRemoval { path, whole: Some(directory.to_path_buf()) }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DirectoryRemoval { path, whole: None }),
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST | libc::ENOTDIR)) => {
                    taken = error
                }
                Err(error) => return Err(error),
            }
        }
        Err(taken)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It stays.
    pub fn undo(self) {
        if let Some(whole) = &self.whole
            && let Err(error) = fs::rename(&self.path, whole)
        {
            tracing::error!("giving {} its name again: {error}", self.path.display());
        }
    }

    /// Removes what is in it. Where that is much, the engine's threads do other things meanwhile.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(self) -> io::Result<()> {
        remove_files(&self.path)
    }
}

/// The entries of a directory of directories.
#[derive(Debug, PartialEq, Eq)]
pub enum DirectoryEntry {
    Whole(String),
    /// Its making was not finished.
    New(String),
    /// Its removal was not finished.
    Removing(String),
}

/// The entries of a directory of directories, or of manifests.
///
/// # Errors
/// The disk's; a missing one is empty.
pub fn entries(parent: &Path) -> io::Result<Vec<DirectoryEntry>> {
    let list = match fs::read_dir(parent) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list?,
    };
    let mut found = Vec::new();
    for entry in list {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(name) = name.strip_prefix(NEW) {
            found.push(DirectoryEntry::New(name.into()));
        } else if let Some(name) = name.strip_prefix(REMOVING) {
            let name = name.split_once('~').map_or(name, |(name, _)| name);
            found.push(DirectoryEntry::Removing(name.into()));
        } else if name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            found.push(DirectoryEntry::Whole(name));
        }
    }
    Ok(found)
}

/// Gives a directory that was being made its name, since the journal has its record.
///
/// # Errors
/// The disk's.
pub fn finish_making(parent: &Path, name: &str) -> io::Result<()> {
    fs::rename(parent.join(format!("{NEW}{name}")), parent.join(name))
}

/// Removes what was being made or removed.
///
/// # Errors
/// The disk's.
pub fn remove_unfinished(parent: &Path, name: &str) -> io::Result<()> {
    std::iter::once(format!("{NEW}{name}")).chain(names_of_removals(name)).try_for_each(|name| {
        let path = parent.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::IsADirectory || e.raw_os_error() == Some(libc::EPERM) => remove_files(&path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    })
}

/// Where a directory's manifest is.
pub fn manifest_of(directory: &Path) -> PathBuf {
    directory.join(MANIFEST)
}

/// Writes a manifest: the old one or the new one is there at any instant.
///
/// # Errors
/// The disk's.
pub fn write_manifest(path: &Path, record: &impl Serialize) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!("{NEW}{name}"));
    let _ = fs::remove_file(&temporary);
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(&serde_json::to_vec(record)?));
    written.and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Reads a manifest.
///
/// # Errors
/// Why it cannot be read: it is not there, or was cut off by a power cut, or another version's.
pub fn read_manifest<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let mut text = Vec::new();
    file.take(LONGEST_MANIFEST).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_leaves_is_seen_from_the_names() {
        let dir = tempfile::tempdir().expect("dir");
        let parent = dir.path().join("volumes");
        fs::create_dir(&parent).expect("parent");
        mark(&parent).expect("mark");
        let draft = Draft::new(&parent, "a").expect("draft");
        fs::write(draft.path().join("file"), "x").expect("write");
        assert_eq!(entries(&parent).expect("entries"), [DirectoryEntry::New("a".into())]);
        write_manifest(&manifest_of(draft.path()), &1).expect("manifest");
        draft.finish().expect("finish");
        assert_eq!(entries(&parent).expect("entries"), [DirectoryEntry::Whole("a".into())]);
        assert_eq!(read_manifest::<i32>(&manifest_of(&parent.join("a"))).expect("manifest"), 1);
        drop(Draft::new(&parent, "b").expect("draft"));
        let removal = DirectoryRemoval::begin(&parent.join("a")).expect("removal");
        assert_eq!(entries(&parent).expect("entries"), [DirectoryEntry::Removing("a".into())]);
        removal.undo();
        assert_eq!(entries(&parent).expect("entries"), [DirectoryEntry::Whole("a".into())]);
        drop(DirectoryRemoval::begin(&parent.join("a")).expect("removal"));
        // Another of the same name, while what is left of the first is there: neither is in the other's way.
        fs::create_dir_all(parent.join("a/below")).expect("again");
        let second = DirectoryRemoval::begin(&parent.join("a")).expect("removal");
        assert!(parent.join(".removing-a/file").exists() && second.path().join("below").exists());
        assert_eq!(
            entries(&parent).expect("entries"),
            [DirectoryEntry::Removing("a".into()), DirectoryEntry::Removing("a".into())]
        );
        drop(second);
        remove_unfinished(&parent, "a").expect("remove");
        assert_eq!(entries(&parent).expect("entries"), []);
        DirectoryRemoval::begin(&parent.join("never")).expect("removal").finish().expect("nothing to remove");
        // What was not there does not come back, whatever an earlier removal has left.
        fs::create_dir(parent.join(".removing-never")).expect("left");
        DirectoryRemoval::begin(&parent.join("never")).expect("removal").undo();
        assert!(!parent.join("never").exists());
        assert!(is_marked(&parent) && !is_marked(dir.path()));
    }
}
