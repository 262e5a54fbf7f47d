//! A layer's tar stream onto a directory, without ever leaving it.
//!
//! Each name is resolved by openat2 with the directory as its root, so `..`, absolute names and symlinks of the layer stay
//! inside. Whiteouts become overlayfs's: a 0:0 character device, or the opaque attribute on a directory.

use super::entries::{Entries, EntryHead, EntryKind, TarEntry};
use crate::printable;
use crate::sys::beneath::{MissingEnd, make_beneath};
use crate::sys::node::FoundNode;
use crate::sys::removal::remove;
use crate::sys::{self, Beneath};
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, makedev, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, fchown, fchownat, linkat, symlinkat};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use xattr::FileExt;

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("what came is not a tar archive that can be read: {}", in_words(.0))]
    Archive(io::Error),
    #[error("the archive's entry {path}: {why}")]
    Refused { path: String, why: String },
    #[error("unpacking {path}: {source}")]
    Write { path: String, source: io::Error },
}

/// An error of the tar reader, which quotes its input, without control characters.
fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(|c: char| c.is_control() || !c.is_ascii()).unwrap_or(text.len());
    if end < text.len() { format!("{}...", &text[..end]) } else { text }
}

/// The unpacked layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unpacked {
    pub bytes: u64,
    pub entries: u64,
}

/// Applies a layer to an empty directory.
///
/// # Errors
/// The first entry that is hostile, damaged, or does not fit on the disk. The directory is then to be thrown away.
pub fn apply(layer: impl Read, root: BorrowedFd<'_>) -> Result<Unpacked, UnpackError> {
    unpack(layer, Applier { whiteouts: true, ..Applier::new(root) })
}

/// Takes an archive apart into a directory that may hold something, as ADD does: no name in it is a whiteout.
///
/// # Errors
/// As [`apply`].
pub fn extract(archive: impl Read, root: BorrowedFd<'_>, owner: Option<(u32, u32)>) -> Result<Unpacked, UnpackError> {
    unpack(archive, Applier { owner, ..Applier::new(root) })
}

/// As [`extract`], but what is a directory stays one, and what is none does not become one: a mistake in a name must not cost a
/// tree.
///
/// # Errors
/// As [`apply`].
pub fn merge(archive: impl Read, root: BorrowedFd<'_>, owner: Option<(u32, u32)>) -> Result<Unpacked, UnpackError> {
    unpack(archive, Applier { owner, keeps_kinds: true, ..Applier::new(root) })
}

fn unpack(layer: impl Read, mut applier: Applier<'_>) -> Result<Unpacked, UnpackError> {
    let mut total = Unpacked::default();
    Entries::new(layer).each(UnpackError::Archive, |entry| {
        total.entries += 1;
        total.bytes += applier.entry(entry)?;
        Ok(())
    })?;
    applier.set_directory_times(Path::new(""))?;
    Ok(total)
}

/// A name for messages: of one that is long, the beginning.
fn shown(name: &[u8]) -> String {
    const SHOWN: usize = 256;
    let text = printable::line(&String::from_utf8_lossy(&name[..name.len().min(SHOWN)])).into_owned();
    if name.len() > SHOWN { text + "..." } else { text }
}

struct Applier<'a> {
    root: BorrowedFd<'a>,
    /// The directory of the entry before: most entries lie beside each other.
    parent: Option<(PathBuf, Rc<OwnedFd>)>,
    /// Set at the end, since every entry in a directory changes its time.
    directory_times: HashMap<PathBuf, TimeSpec>,
    /// Bytes of their paths.
    remembered: usize,
    /// `.wh.` names hide what is below.
    whiteouts: bool,
    /// The owner of everything, whatever the archive says.
    owner: Option<(u32, u32)>,
    /// A directory is not replaced by something else, nor something else by a directory.
    keeps_kinds: bool,
}

/// Bytes of the paths of directories whose times are yet to be set. When there are more, those are set that the archive has
/// probably left; their times are wrong where it comes back to them.
const MAX_REMEMBERED: usize = 8 << 20;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

impl<'a> Applier<'a> {
    fn new(root: BorrowedFd<'a>) -> Self {
        Applier {
            root,
            parent: None,
            directory_times: HashMap::new(),
            remembered: 0,
            whiteouts: false,
            owner: None,
            keeps_kinds: false,
        }
    }
}

impl Applier<'_> {
    fn entry<R: Read>(&mut self, entry: &mut TarEntry<'_, R>) -> Result<u64, UnpackError> {
        let shown = shown(entry.head.path.as_os_str().as_bytes());
        let refuse = |why: String| UnpackError::Refused { path: shown.clone(), why };
        let failed = |source: io::Error| UnpackError::Write { path: shown.clone(), source };
        let path = inside(&entry.head.path).ok_or_else(|| refuse("its name leads out of the archive".into()))?;
        let Some(name) = path.file_name().map(OsString::from) else {
            if entry.head.kind != EntryKind::Directory {
                return Err(refuse("the root is a directory".into()));
            }
            // The root itself: its mode and owner are the layer's to say.
            let root = self.open_directory(Path::new("")).map_err(failed)?;
            let root = openat(&*root, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(|e| failed(e.into()))?;
            return self.attributes(&entry.head, &File::from(root)).map(|()| 0).map_err(|e| e.of(failed, refuse));
        };
        let parent_path = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let parent = self.open_directory(&parent_path).map_err(failed)?;
        if self.whiteouts && name.as_bytes() == OPAQUE {
            let directory = openat(&*parent, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(|e| failed(e.into()))?;
            File::from(directory).set_xattr("trusted.overlay.opaque", b"y").map_err(failed)?;
            return Ok(0);
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT).filter(|_| self.whiteouts) {
            if matches!(hidden, b"" | b"." | b"..") || hidden.starts_with(WHITEOUT) {
                return if hidden.starts_with(WHITEOUT) { Ok(0) } else { Err(refuse("it is no whiteout".into())) };
            }
            let hidden = Path::new(OsStr::from_bytes(hidden));
            self.remove(&parent, hidden).map_err(failed)?;
            mknodat(&*parent, hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).map_err(|e| failed(e.into()))?;
            return Ok(0);
        }
        self.place(entry, &parent, Path::new(&name), &path).map_err(|e| e.of(failed, refuse))
    }

    fn place<R: Read>(&mut self, entry: &mut TarEntry<'_, R>, parent: &OwnedFd, name: &Path, path: &Path) -> Result<u64, Placed> {
        let kind = entry.head.kind;
        let existing = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .ok()
            .map(|s| SFlag::from_bits_truncate(s.st_mode) & SFlag::S_IFMT);
        let keeps_directory = kind == EntryKind::Directory && existing == Some(SFlag::S_IFDIR);
        if self.keeps_kinds && existing.is_some_and(|existing| (existing == SFlag::S_IFDIR) != (kind == EntryKind::Directory)) {
            let what = if existing == Some(SFlag::S_IFDIR) { "a directory" } else { "no directory" };
            return Err(Placed::Refused(format!("there is {what} of that name already")));
        }
        if existing.is_some() && !keeps_directory {
            self.remove(parent, name)?;
        }
        let time = time_of(&entry.head);
        match kind {
            EntryKind::Regular => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let mut file = File::from(openat(parent, name, flags, Mode::from_bits_truncate(0o600))?);
                let written = copy_sparsely(entry, &mut file)?;
                self.attributes(&entry.head, &file)?;
                Ok(written)
            }
            EntryKind::Directory => {
                if !keeps_directory {
                    mkdirat(parent, name, Mode::from_bits_truncate(0o700))?;
                }
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let directory = File::from(openat(parent, name, flags, Mode::empty())?);
                self.attributes(&entry.head, &directory)?;
                self.remembered += path.as_os_str().len();
                self.directory_times.insert(path.to_path_buf(), time);
                if self.remembered > MAX_REMEMBERED {
                    self.set_directory_times(path).map_err(|e| Placed::Io(io::Error::other(e.to_string())))?;
                }
                Ok(0)
            }
            EntryKind::Symlink => {
                let owner = self.owner_of(&entry.head)?;
                if entry.head.link == Path::new("") {
                    return Err(Placed::Refused("it is a symlink to nothing".into()));
                }
                symlinkat(entry.head.link.as_os_str(), parent, name)?;
                fchownat(parent, name, Some(owner.0), Some(owner.1), AtFlags::AT_SYMLINK_NOFOLLOW)?;
                utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)?;
                Ok(0)
            }
            EntryKind::HardLink => self.hard_link(&entry.head, parent, name).map(|()| 0),
            EntryKind::Character => self.node(&entry.head, SFlag::S_IFCHR, parent, name).map(|()| 0),
            EntryKind::Block => self.node(&entry.head, SFlag::S_IFBLK, parent, name).map(|()| 0),
            EntryKind::Fifo => self.node(&entry.head, SFlag::S_IFIFO, parent, name).map(|()| 0),
            EntryKind::Other(kind) => {
                Err(Placed::Refused(format!("its type {:?} is not one of a file system", char::from(kind))))
            }
        }
    }

    /// Links to an earlier file of the layer.
    fn hard_link(&self, head: &EntryHead, parent: &OwnedFd, name: &Path) -> Result<(), Placed> {
        let target = inside(&head.link).ok_or_else(|| Placed::Refused("its link leads out of the archive".into()))?;
        let file = target.file_name().ok_or_else(|| Placed::Refused("it links to the root".into()))?;
        let directory = self.existing_directory(target.parent().unwrap_or(Path::new("")))?;
        linkat(&directory, Path::new(file), parent, name, LinkatFlags::empty()).map_err(|e| match e {
            nix::Error::ENOENT => Placed::Refused(format!("it links to {}, which the archive does not have", target.display())),
            e => Placed::Io(e.into()),
        })
    }

    /// Makes a device node or a FIFO.
    fn node(&self, head: &EntryHead, flag: SFlag, parent: &OwnedFd, name: &Path) -> Result<(), Placed> {
        let part = |number: i64| {
            let part = u32::try_from(number).map(u64::from);
            part.map_err(|_| {
                Placed::Refused(format!("it is of the device {}:{}, which there is not", head.device.0, head.device.1))
            })
        };
        let device = if flag == SFlag::S_IFIFO { 0 } else { makedev(part(head.device.0)?, part(head.device.1)?) };
        if flag == SFlag::S_IFCHR && device == 0 {
            return Err(Placed::Refused("a 0:0 device would hide files of the layers below".into()));
        }
        let owner = self.owner_of(head)?;
        mknodat(parent, name, flag, Mode::empty(), device)?;
        let node = FoundNode::made(parent, name, flag, device)?;
        node.set_owner(owner.0, owner.1)?;
        node.set_mode(Mode::from_bits_truncate(head.mode))?;
        Ok(node.set_time(time_of(head))?)
    }

    /// Owner before mode, since a change of owner clears setuid; then extended attributes and the time.
    fn attributes(&self, head: &EntryHead, file: &File) -> Result<(), Placed> {
        let (uid, gid) = self.owner_of(head)?;
        fchown(file, Some(uid), Some(gid))?;
        fchmod(file, Mode::from_bits_truncate(head.mode))?;
        for (name, value) in &head.attributes {
            // An image must not say how overlayfs reads its own layers.
            if [&b"trusted.overlay."[..], b"user.overlay."].iter().any(|own| name.as_bytes().starts_with(own)) {
                continue;
            }
            set_attribute(file, name, value)?;
        }
        let time = time_of(head);
        Ok(nix::sys::stat::futimens(file, &time, &time)?)
    }

    /// What an ID that the kernel does not have would be cut to is another user's. The largest means "as it is" to chown(2).
    fn owner_of(&self, head: &EntryHead) -> Result<(Uid, Gid), Placed> {
        let id = |number: i64| u32::try_from(number).ok().filter(|id| *id != u32::MAX);
        let (uid, gid) = match self.owner {
            Some(owner) => owner,
            None => id(head.uid)
                .zip(id(head.gid))
                .ok_or_else(|| Placed::Refused(format!("its owner {}:{} is none that a file can have", head.uid, head.gid)))?,
        };
        Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    fn existing_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        sys::open_beneath(self.root, path, libc::O_PATH | libc::O_DIRECTORY, 0, Beneath::AsRoot)
    }

    /// Opens a directory, making what is missing of it.
    fn open_directory(&mut self, path: &Path) -> io::Result<Rc<OwnedFd>> {
        if let Some((known, fd)) = &self.parent
            && known == path
        {
            return Ok(fd.clone());
        }
        let fd = match self.existing_directory(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => make_directories(self.root, path, |_| Ok(()))?,
            other => other?,
        };
        let fd = Rc::new(fd);
        self.parent = Some((path.to_path_buf(), fd.clone()));
        Ok(fd)
    }

    /// Removes what an earlier entry of the same layer put there.
    fn remove(&mut self, parent: &OwnedFd, name: &Path) -> io::Result<()> {
        self.parent = None;
        remove(parent, name.as_os_str())
    }

    /// Sets the times that are remembered, but for the directories that a path leads through.
    fn set_directory_times(&mut self, but: &Path) -> Result<(), UnpackError> {
        for (path, time) in std::mem::take(&mut self.directory_times) {
            if but.starts_with(&path) {
                self.directory_times.insert(path, time);
                continue;
            }
            let flags = libc::O_RDONLY | libc::O_DIRECTORY;
            let Ok(directory) = sys::open_beneath(self.root, &path, flags, 0, Beneath::AsRoot) else { continue };
            nix::sys::stat::futimens(directory.as_fd(), &time, &time)
                .map_err(|e| UnpackError::Write { path: shown(path.as_os_str().as_bytes()), source: e.into() })?;
        }
        self.remembered = self.directory_times.keys().map(|path| path.as_os_str().len()).sum();
        Ok(())
    }
}

/// Opens a directory beneath a root, making what is missing of it with mode 0755. Symlinks are followed within the root, to what is
/// missing as well. Each directory that was made is shown to `made`.
///
/// # Errors
/// The kernel's: ENOTDIR where a file is in the way.
pub fn make_directories(root: BorrowedFd<'_>, path: &Path, made: impl Fn(&OwnedFd) -> io::Result<()>) -> io::Result<OwnedFd> {
    let made = |directory: &OwnedFd| {
        // Whatever the umask.
        fchmod(directory, Mode::from_bits_truncate(0o755))?;
        made(directory)
    };
    let found = make_beneath(root, path, MissingEnd::Directory, Beneath::AsRoot, Some(&made))?;
    if SFlag::from_bits_truncate(fstat(&found)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFDIR {
        return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
    }
    Ok(found)
}

/// Copies a file, leaving holes where it holds nothing but zeros: a bomb of zeros takes no place on disk.
fn copy_sparsely(from: &mut impl Read, to: &mut File) -> io::Result<u64> {
    use std::io::{Seek, SeekFrom, Write};
    const CHUNK: usize = 1 << 16;
    static ZEROS: [u8; CHUNK] = [0; CHUNK];
    let mut buffer = vec![0; CHUNK];
    let (mut length, mut hole) = (0, false);
    loop {
        let mut filled = 0;
        while filled < CHUNK {
            match from.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if filled == 0 {
            break;
        }
        length += filled as u64;
        hole = buffer[..filled] == ZEROS;
        if hole {
            to.seek(SeekFrom::Current(filled as i64))?;
        } else {
            to.write_all(&buffer[..filled])?;
        }
    }
    if hole {
        to.set_len(length)?;
    }
    Ok(length)
}

enum Placed {
    Io(io::Error),
    Refused(String),
}

impl Placed {
    fn of(self, failed: impl FnOnce(io::Error) -> UnpackError, refuse: impl FnOnce(String) -> UnpackError) -> UnpackError {
        match self {
            Placed::Io(source) => failed(source),
            Placed::Refused(why) => refuse(why),
        }
    }
}

impl From<io::Error> for Placed {
    fn from(error: io::Error) -> Self {
        Placed::Io(error)
    }
}

impl From<nix::Error> for Placed {
    fn from(error: nix::Error) -> Self {
        Placed::Io(error.into())
    }
}

fn time_of(head: &EntryHead) -> TimeSpec {
    TimeSpec::new(head.mtime.0, i64::from(head.mtime.1))
}

/// Sets an extended attribute where there are such, and whoever unpacks may.
fn set_attribute(file: &File, name: &OsStr, value: &[u8]) -> io::Result<()> {
    match file.set_xattr(name, value) {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        // `cp` to a user who may not give a file more than he has.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) && !nix::unistd::geteuid().is_root() => Ok(()),
        other => other,
    }
}

/// The path within the layer: no leading slash, no `.`, and no `..`, which takes away the part before it as in Go's `filepath.Clean`.
/// `None` where that leads out.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir if !clean.pop() => return None,
            _ => {}
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests;
