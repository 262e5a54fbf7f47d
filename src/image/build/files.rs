//! Directories as a build sees them: contexts, stages and the layer that is being made.

use super::given_up::GivenUpReader;
use super::ignore::Patterns;
use super::walk::Walk;
use crate::image::ImageError;
use crate::runtime::overlay;
use crate::sys::attributes::CopiedAttributes;
use crate::sys::beneath::{PlaceBeneath, place_beneath};
use crate::sys::regular::{open_regular, read_regular};
use crate::sys::{self, Beneath};
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A tree to read from: a directory of the host, or an image's layers together. Nothing leads out of it.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// The mount namespace whose end would take what is mounted in the tree away.
    _namespace: Option<OwnedFd>,
}

/// A file, directory or symlink of a tree.
#[derive(Debug, Clone)]
pub struct FoundFile {
    /// From the tree's root.
    pub path: PathBuf,
    pub stat: FileStat,
}

impl FoundFile {
    pub fn kind(&self) -> SFlag {
        SFlag::from_bits_truncate(self.stat.st_mode) & SFlag::S_IFMT
    }

    pub fn is_directory(&self) -> bool {
        self.kind() == SFlag::S_IFDIR
    }
}

impl Tree {
    /// The tree whose root a descriptor is.
    pub fn of(root: OwnedFd) -> Self {
        Tree { root, _namespace: None }
    }

    /// Holds the mount namespace in which the tree is.
    #[must_use]
    pub fn in_namespace(self, namespace: OwnedFd) -> Self {
        Tree { _namespace: Some(namespace), ..self }
    }

    /// # Errors
    /// When there is no such directory.
    pub fn directory(path: &Path) -> io::Result<Self> {
        let root = nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Tree::of(root))
    }

    /// Layers, the lowest first, read-only.
    ///
    /// # Errors
    /// When a layer is gone or overlayfs refuses.
    pub fn layers(layers: &[PathBuf], empty: &Path) -> io::Result<Self> {
        match layers {
            [] => Tree::directory(empty),
            [only] => Tree::directory(only),
            _ => Ok(Tree::of(overlay::mount_inert(layers, None)?)),
        }
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The file at a path, symlinks followed within the tree.
    ///
    /// # Errors
    /// When there is nothing.
    pub fn find(&self, path: &Path) -> io::Result<FoundFile> {
        let fd = sys::open_beneath(self.root(), path, libc::O_PATH, 0, Beneath::AsRoot)?;
        Ok(FoundFile { path: path.to_path_buf(), stat: nix::sys::stat::fstat(&fd)? })
    }

    /// Where a path leads when its symlinks are followed, as a path of the tree.
    ///
    /// # Errors
    /// When there is nothing.
    pub fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        match place_beneath(self.root(), path)? {
            PlaceBeneath { path, missing: 0 } => Ok(path),
            _ => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        }
    }

    /// Opens a path, symlinks followed within the tree.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(&self, path: &Path, flags: i32) -> io::Result<OwnedFd> {
        let path = if path == Path::new("") { Path::new(".") } else { path };
        sys::open_beneath(self.root(), path, flags, 0, Beneath::AsRoot)
    }

    /// Reads a regular file of at most `limit` bytes.
    ///
    /// # Errors
    /// When the file is not there, is not a regular one, or is larger.
    pub fn read_text(&self, path: &Path, limit: u64) -> io::Result<String> {
        let bytes = read_regular(self.root(), path, limit)?;
        String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
    }

    /// Everything below a directory, parents first, in the order of names. `excluded` gets paths from the tree's root.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn walk<'a>(&'a self, directory: &Path, excluded: &'a Patterns) -> io::Result<Walk<'a>> {
        Walk::new(self.root(), directory, excluded)
    }

    /// # Errors
    /// When it is no symlink.
    pub fn link_target(&self, path: &Path) -> io::Result<OsString> {
        let parent = self.open(path.parent().unwrap_or(Path::new("")), libc::O_PATH | libc::O_DIRECTORY)?;
        Ok(readlinkat(&parent, Path::new(path.file_name().unwrap_or_default()))?)
    }
}

/// Files whose digests are remembered, in some 25 MB.
const MAX_KNOWN: usize = 200_000;

/// Digests of files' contents and extended attributes, remembered by what changes when these do.
#[derive(Debug, Default)]
pub struct ContentDigests(Mutex<HashMap<FileIdentity, FileDigest>>);

/// The digests of one file.
#[derive(Debug, Clone)]
pub struct FileDigest {
    pub content: [u8; 32],
    /// Of the extended attributes that a copy has, where there are any.
    pub attributes: Option<Box<[u8; 32]>>,
}

/// The digest of extended attributes; none where there are none.
#[must_use]
pub fn digest_of_attributes(attributes: &CopiedAttributes) -> Option<Box<[u8; 32]>> {
    if attributes.is_empty() {
        return None;
    }
    let mut hash = Sha256::new();
    for part in attributes.iter().flat_map(|(name, value)| [name.as_bytes(), value]) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Some(Box::new(hash.finalize().into()))
}

/// A file as it was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FileIdentity {
    device: u64,
    inode: u64,
    size: i64,
    changed: (i64, i64),
}

impl ContentDigests {
    /// # Errors
    /// When the file cannot be read.
    pub fn digest(&self, tree: &Tree, found: &FoundFile) -> io::Result<FileDigest> {
        let stat = &found.stat;
        let identity = FileIdentity {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        };
        if let Some(known) = self.lock().get(&identity) {
            return Ok(known.clone());
        }
        let file = open_regular(tree.root(), &found.path)?;
        let attributes = digest_of_attributes(&CopiedAttributes::of(&file)?);
        let mut hash = Sha256::new();
        io::copy(&mut io::BufReader::with_capacity(1 << 17, GivenUpReader(file)), &mut hash)?;
        let digest = FileDigest { content: hash.finalize().into(), attributes };
        // A file that was changed within a clock tick could change again without another time.
        let settled = jiff::Timestamp::now().as_second() > stat.st_ctime + 1;
        if settled {
            let mut known = self.lock();
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            known.insert(identity, digest.clone());
        }
        Ok(digest)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<FileIdentity, FileDigest>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Says which path of which tree an error is about.
pub fn reading(path: &Path) -> impl Fn(io::Error) -> ImageError + '_ {
    move |error| ImageError::store(format!("reading {}", path.display()))(error)
}
