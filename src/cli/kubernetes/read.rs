//! The files of this machine that an export needs: regular ones, up to the size that Kubernetes takes.

use crate::kubernetes::{Content, Found, LARGEST};
use crate::sys::regular;
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The most files of a directory that are read.
const ENTRIES: usize = 1000;

/// What each path is; with `true`, also what is in it.
pub fn all(needed: BTreeMap<String, bool>) -> BTreeMap<String, Found> {
    needed.into_iter().map(|(path, is_opened)| (path.clone(), found(Path::new(&path), is_opened))).collect()
}

fn found(path: &Path, is_opened: bool) -> Found {
    // The user's own path: links in it are the user's.
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Absent,
        Err(error) => return Found::Unreadable(error.to_string()),
    };
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() && is_opened => directory(&path),
        Ok(metadata) if metadata.is_dir() => Found::Directory(BTreeMap::new()),
        Ok(metadata) if metadata.is_file() => match read(&path) {
            Ok(Some(content)) => Found::File(content),
            Ok(None) => Found::TooLarge,
            Err(error) => Found::Unreadable(error.to_string()),
        },
        Ok(_) => Found::Irregular,
        Err(error) => Found::Unreadable(error.to_string()),
    }
}

/// A file by its directory and its name: what it was a moment ago may be something else now. `None` where it is too large.
fn read(path: &Path) -> io::Result<Option<Content>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    };
    let parent = File::open(parent)?;
    content(regular::open_regular_at(parent.as_fd(), Path::new(name))?)
}

fn content(file: File) -> io::Result<Option<Content>> {
    let metadata: Metadata = file.metadata()?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Ok(None);
    }
    Ok(Some(Content { bytes, is_executable: metadata.permissions().mode() & 0o111 != 0 }))
}

/// The regular files of a directory, and not those of directories in it: a ConfigMap is flat.
fn directory(path: &Path) -> Found {
    let mut files = BTreeMap::new();
    let mut size = 0;
    let entries = match path.read_dir() {
        Ok(entries) => entries,
        Err(error) => return Found::Unreadable(error.to_string()),
    };
    for entry in entries.take(ENTRIES).flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_string) else { continue };
        let Found::File(content) = found(&entry.path(), false) else { continue };
        size += content.bytes.len() as u64;
        if size > LARGEST {
            return Found::TooLarge;
        }
        files.insert(name, content);
    }
    Found::Directory(files)
}
