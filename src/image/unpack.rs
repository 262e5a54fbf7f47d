//! A layer's tar stream onto a directory, without ever leaving it.
//!
//! Each name is resolved by openat2 with the directory as its root, so `..`, absolute names and symlinks of the layer stay
//! inside. Whiteouts become overlayfs's: a 0:0 character device, or the opaque attribute on a directory.

use super::entries::Entries;
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
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use tar::EntryType;
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

/// The prefix of an archive's key for an extended attribute; the attribute's name follows.
pub const XATTR: &str = "SCHILY.xattr.";

/// The extended attributes that an archive has for an entry, by their keys there.
///
/// # Errors
/// The reader's.
pub fn extended_attributes<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if let Ok(key) = extension.key()
            && key.starts_with(XATTR)
        {
            found.push((key.to_string(), extension.value_bytes().to_vec()));
        }
    }
    Ok(found)
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

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

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
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<u64, UnpackError> {
        let shown = shown(&entry.path_bytes());
        let refuse = |why: String| UnpackError::Refused { path: shown.clone(), why };
        let failed = |source: io::Error| UnpackError::Write { path: shown.clone(), source };
        let raw = entry.path().map_err(|e| refuse(e.to_string()))?.into_owned();
        let path = inside(&raw).ok_or_else(|| refuse("its name leads out of the archive".into()))?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(0);
        }
        let Some(name) = path.file_name().map(OsString::from) else {
            if kind != EntryType::Directory {
                return Err(refuse("the root is a directory".into()));
            }
            // The root itself: its mode and owner are the layer's to say.
            let root = self.open_directory(Path::new("")).map_err(failed)?;
            let root = openat(&*root, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(|e| failed(e.into()))?;
            return self.attributes(entry, &File::from(root)).map(|()| 0).map_err(failed);
        };
        let parent_path = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let parent = self.open_directory(&parent_path).map_err(failed)?;
        let name_text = name.to_string_lossy();
        if self.whiteouts && name_text == OPAQUE {
            let directory = openat(&*parent, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(|e| failed(e.into()))?;
            File::from(directory).set_xattr("trusted.overlay.opaque", b"y").map_err(failed)?;
            return Ok(0);
        }
        if let Some(hidden) = name_text.strip_prefix(WHITEOUT).filter(|_| self.whiteouts) {
            if hidden.is_empty() || matches!(hidden, "." | "..") || hidden.starts_with(WHITEOUT) {
                return if hidden.starts_with(WHITEOUT) { Ok(0) } else { Err(refuse("it is no whiteout".into())) };
            }
            self.remove(&parent, Path::new(hidden)).map_err(failed)?;
            mknodat(&*parent, hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).map_err(|e| failed(e.into()))?;
            return Ok(0);
        }
        self.place(entry, kind, &parent, Path::new(&name), &path).map_err(|e| match e {
            Placed::Io(source) => failed(source),
            Placed::Refused(why) => refuse(why),
        })
    }

    fn place<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        kind: EntryType,
        parent: &OwnedFd,
        name: &Path,
        path: &Path,
    ) -> Result<u64, Placed> {
        let existing = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .ok()
            .map(|s| SFlag::from_bits_truncate(s.st_mode) & SFlag::S_IFMT);
        let keeps_directory = kind == EntryType::Directory && existing == Some(SFlag::S_IFDIR);
        if self.keeps_kinds && existing.is_some_and(|existing| (existing == SFlag::S_IFDIR) != (kind == EntryType::Directory)) {
            let what = if existing == Some(SFlag::S_IFDIR) { "a directory" } else { "no directory" };
            return Err(Placed::Refused(format!("there is {what} of that name already")));
        }
        if existing.is_some() && !keeps_directory {
            self.remove(parent, name)?;
        }
        let header = entry.header();
        let mode = Mode::from_bits_truncate(header.mode()? & 0o7777);
        let time = TimeSpec::new(header.mtime().unwrap_or(0) as i64, 0);
        let owner = self.owner_of(header);
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let mut file = File::from(openat(parent, name, flags, Mode::from_bits_truncate(0o600))?);
                let written = copy_sparsely(entry, &mut file)?;
                self.attributes(entry, &file)?;
                Ok(written)
            }
            EntryType::Directory => {
                if !keeps_directory {
                    mkdirat(parent, name, Mode::from_bits_truncate(0o700))?;
                }
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let directory = File::from(openat(parent, name, flags, Mode::empty())?);
                self.attributes(entry, &directory)?;
                self.remembered += path.as_os_str().len();
                self.directory_times.insert(path.to_path_buf(), time);
                if self.remembered > MAX_REMEMBERED {
                    self.set_directory_times(path).map_err(|e| Placed::Io(io::Error::other(e.to_string())))?;
                }
                Ok(0)
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| Placed::Refused("it is a symlink to nothing".into()))?;
                symlinkat(target.as_os_str(), parent, name)?;
                fchownat(parent, name, Some(owner.0), Some(owner.1), AtFlags::AT_SYMLINK_NOFOLLOW)?;
                utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)?;
                Ok(0)
            }
            EntryType::Link => self.hard_link(entry, parent, name).map(|()| 0),
            EntryType::Char | EntryType::Block | EntryType::Fifo => self.node(header, mode, parent, name).map(|()| 0),
            other => Err(Placed::Refused(format!("its type {other:?} is not one of a file system"))),
        }
    }

    /// Links to an earlier file of the layer.
    fn hard_link<R: Read>(&self, entry: &tar::Entry<'_, R>, parent: &OwnedFd, name: &Path) -> Result<(), Placed> {
        let target = entry.link_name()?.ok_or_else(|| Placed::Refused("it is a link to nothing".into()))?;
        let target = inside(&target).ok_or_else(|| Placed::Refused("its link leads out of the archive".into()))?;
        let file = target.file_name().ok_or_else(|| Placed::Refused("it links to the root".into()))?;
        let directory = self.existing_directory(target.parent().unwrap_or(Path::new("")))?;
        linkat(&directory, Path::new(file), parent, name, LinkatFlags::empty()).map_err(|e| match e {
            nix::Error::ENOENT => Placed::Refused(format!("it links to {}, which the archive does not have", target.display())),
            e => Placed::Io(e.into()),
        })
    }

    /// Makes a device node or a FIFO.
    fn node(&self, header: &tar::Header, mode: Mode, parent: &OwnedFd, name: &Path) -> Result<(), Placed> {
        let flag = match header.entry_type() {
            EntryType::Char => SFlag::S_IFCHR,
            EntryType::Block => SFlag::S_IFBLK,
            _ => SFlag::S_IFIFO,
        };
        let device = makedev(
            u64::from(header.device_major().ok().flatten().unwrap_or(0)),
            u64::from(header.device_minor().ok().flatten().unwrap_or(0)),
        );
        if flag == SFlag::S_IFCHR && device == 0 {
            return Err(Placed::Refused("a 0:0 device would hide files of the layers below".into()));
        }
        let owner = self.owner_of(header);
        mknodat(parent, name, flag, Mode::empty(), device)?;
        let node = FoundNode::made(parent, name, flag, device)?;
        node.set_owner(owner.0, owner.1)?;
        node.set_mode(mode)?;
        Ok(node.set_time(TimeSpec::new(header.mtime().unwrap_or(0) as i64, 0))?)
    }

    /// Owner before mode, since a change of owner clears setuid; then extended attributes and the time.
    fn attributes<R: Read>(&self, entry: &mut tar::Entry<'_, R>, file: &File) -> io::Result<()> {
        let (uid, gid) = self.owner_of(entry.header());
        let mode = entry.header().mode()?;
        let mtime = entry.header().mtime().unwrap_or(0);
        fchown(file, Some(uid), Some(gid))?;
        fchmod(file, Mode::from_bits_truncate(mode & 0o7777))?;
        for (key, value) in extended_attributes(entry)? {
            let name = &key[XATTR.len()..];
            // An image must not say how overlayfs reads its own layers.
            if name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.") {
                continue;
            }
            match file.set_xattr(name, &value) {
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                // `cp` to a user who may not give a file more than he has.
                Err(e) if e.raw_os_error() == Some(libc::EPERM) && !nix::unistd::geteuid().is_root() => {}
                other => other?,
            }
        }
        let time = TimeSpec::new(mtime as i64, 0);
        Ok(nix::sys::stat::futimens(file, &time, &time)?)
    }

    fn owner_of(&self, header: &tar::Header) -> (Uid, Gid) {
        self.owner.map_or_else(|| owner(header), |(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid)))
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

/// A field that some writers leave empty is 0, as Go's reader has it.
fn owner(header: &tar::Header) -> (Uid, Gid) {
    (Uid::from_raw(header.uid().unwrap_or(0) as u32), Gid::from_raw(header.gid().unwrap_or(0) as u32))
}

/// The path within the layer: no leading slash, no `.`; `None` where `..` occurs.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => return None,
            _ => {}
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests;
