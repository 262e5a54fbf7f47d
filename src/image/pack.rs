//! Files of a disk as a tar archive, while others may write them.
//!
//! A file is opened once, and has in the archive the size that it had then: what it grows by is left out, and one that becomes shorter
//! is an error. So nothing that is in a file can be read as a header.

use super::build::files::Tree;
use super::build::first_names::FirstNames;
use super::build::ignore::Patterns;
use super::build::tarball::extended_attributes;
use super::tar_paths::{append_attributes, append_data, append_link, set_time};
use crate::sys::regular::open_regular_at;
use nix::fcntl::{AtFlags, OFlag, open, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, major, minor};
use nix::unistd::{Whence, lseek};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use tar::{Builder, EntryType, GnuExtSparseHeader, Header};
use xattr::FileExt as _;

/// The extended attribute that says what a program may do by its file (capabilities(7)).
const CAPABILITIES: &str = "security.capability";

/// The capabilities of a file. A file system without such attributes has none.
fn capabilities(file: &File) -> Option<Vec<u8>> {
    file.get_xattr(CAPABILITIES).ok().flatten()
}

/// Writes files to an archive.
pub struct Packer<'a, W: Write> {
    builder: &'a mut Builder<W>,
    /// Files of several names are links to the first.
    links: FirstNames,
    holes: bool,
    attributes: KeptAttributes,
}

/// Extended attributes that are packed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeptAttributes {
    All,
    /// As Docker's `cp` and its `compose watch` do.
    Capabilities,
}

/// What became of a file that was found a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packed {
    Whole,
    /// It is another one by now, or gone: nothing of it was written.
    Changed,
}

impl Packed {
    /// # Errors
    /// Where the file, which is named, is not in the archive.
    pub fn or_missing(self, path: &Path) -> io::Result<()> {
        match self {
            Packed::Whole => Ok(()),
            Packed::Changed => Err(io::Error::other(format!(
                "{} was removed or replaced meanwhile: try again when nothing changes it",
                path.display()
            ))),
        }
    }
}

impl<'a, W: Write> Packer<'a, W> {
    /// Of a container's files, holes filled.
    pub fn of_container(builder: &'a mut Builder<W>) -> Self {
        Packer { builder, links: FirstNames::default(), holes: false, attributes: KeptAttributes::All }
    }

    /// Of the context of a build, without the holes of files.
    pub fn of_context(builder: &'a mut Builder<W>) -> Self {
        Packer { holes: true, ..Packer::of_container(builder) }
    }

    /// Of files here that go to a container, without holes. Of the extended attributes only the capabilities are kept.
    pub fn of_client(builder: &'a mut Builder<W>) -> Self {
        Packer { attributes: KeptAttributes::Capabilities, ..Packer::of_context(builder) }
    }

    /// Writes everything below a directory of a tree but what is left out. Names begin with `name` in the directory's place.
    ///
    /// # Errors
    /// The disk's and the writer's, and that of [`Packer::add`].
    pub fn below(&mut self, tree: &Tree, top: &Path, name: &Path, left_out: &Patterns) -> io::Result<()> {
        let mut walk = tree.walk(top, left_out)?;
        while let Some(found) = walk.next().transpose()? {
            let rest = found.path.strip_prefix(top).unwrap_or(&found.path);
            if let Some(place) = unless_changed(walk.place(&found))? {
                self.add(place, &found.stat, &name.join(rest))?;
            }
        }
        Ok(())
    }

    /// Writes the file, or the directory alone, at a path of this machine. A symlink at its end is not followed.
    ///
    /// # Errors
    /// As [`Packer::add`].
    pub fn add_path(&mut self, path: &Path, name: &Path) -> io::Result<Packed> {
        let own = Path::new(path.file_name().unwrap_or(OsStr::new(".")));
        let parent = match path.parent() {
            _ if path.file_name().is_none() => path,
            None => Path::new("."),
            Some(parent) if parent == Path::new("") => Path::new("."),
            Some(parent) => parent,
        };
        let found = open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .and_then(|parent| fstatat(&parent, own, AtFlags::AT_SYMLINK_NOFOLLOW).map(|stat| (parent, stat)));
        match unless_changed(found.map_err(io::Error::from))? {
            Some((parent, stat)) => self.add((parent.as_fd(), own), &stat, name),
            None => Ok(Packed::Changed),
        }
    }

    /// Writes one file, which has a name in a directory. A socket is left out: it is a process's.
    ///
    /// # Errors
    /// The disk's and the writer's; `UnexpectedEof` where it becomes shorter meanwhile. The archive is not whole after one: its header may
    /// have been written.
    pub fn add(&mut self, (directory, own): (BorrowedFd<'_>, &Path), stat: &FileStat, name: &Path) -> io::Result<Packed> {
        let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => {
                let file = open_regular_at(directory, own).map_err(|e| match e.kind() {
                    io::ErrorKind::PermissionDenied => io::Error::new(e.kind(), format!("{}: {e}", name.display())),
                    _ => e,
                });
                let Some(file) = unless_changed(file)? else { return Ok(Packed::Changed) };
                return self.add_regular(file, name).map(|()| Packed::Whole);
            }
            SFlag::S_IFDIR => EntryType::Directory,
            SFlag::S_IFLNK => EntryType::Symlink,
            SFlag::S_IFCHR => EntryType::Char,
            SFlag::S_IFBLK => EntryType::Block,
            SFlag::S_IFIFO => EntryType::Fifo,
            _ => return Ok(Packed::Whole),
        };
        let mut header = header_of(kind, stat)?;
        match kind {
            EntryType::Symlink => {
                let target = unless_changed(readlinkat(directory, own).map_err(io::Error::from))?;
                let Some(target) = target else { return Ok(Packed::Changed) };
                append_link(self.builder, &mut header, name, Path::new(&target))?;
            }
            EntryType::Directory => append_data(self.builder, &mut header, Path::new(&with_slash(name)), io::empty())?,
            _ => append_data(self.builder, &mut header, name, io::empty())?,
        }
        Ok(Packed::Whole)
    }

    fn add_regular(&mut self, file: File, name: &Path) -> io::Result<()> {
        let stat = fstat(&file)?;
        let mut header = header_of(EntryType::Regular, &stat)?;
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.of(&stat) {
                header.set_entry_type(EntryType::Link);
                return append_link(self.builder, &mut header, name, &first);
            }
            self.links.keep(&stat, name)?;
        }
        let attributes = match self.attributes {
            KeptAttributes::Capabilities => capabilities(&file).map(|value| (CAPABILITIES.into(), value)).into_iter().collect(),
            KeptAttributes::All => extended_attributes(file.list_xattr(), |name| file.get_xattr(name))?,
        };
        let pieces = if self.holes { pieces(&file, &stat)? } else { None };
        append_attributes(self.builder, &attributes)?;
        match pieces {
            Some(pieces) => append_sparse(self.builder, &mut header, name, (&file, &stat), &pieces),
            None => append_content(self.builder, &mut header, name, (&file, &stat)),
        }
    }
}

/// What was opened; `None` where there is another file, or none, at its place by now: who works there goes on meanwhile. It is for opening
/// alone: a file that cannot be read fails with the same errors, and its header is in the archive by then.
///
/// # Errors
/// Every other.
pub fn unless_changed<T>(opened: io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Err(e)
            if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput)
                || matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) =>
        {
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

/// A path as archives have a directory's.
pub fn with_slash(name: &Path) -> OsString {
    let mut name = name.as_os_str().to_owned();
    if !name.as_bytes().ends_with(b"/") {
        name.push("/");
    }
    name
}

/// The header of a file, but for its name and size.
///
/// # Errors
/// None of a GNU header.
pub fn header_of(kind: EntryType, stat: &FileStat) -> io::Result<Header> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(u64::from(stat.st_uid));
    header.set_gid(u64::from(stat.st_gid));
    header.set_size(0);
    set_time(&mut header, stat.st_mtime);
    if matches!(kind, EntryType::Char | EntryType::Block) {
        header.set_device_major(major(stat.st_rdev) as u32)?;
        header.set_device_minor(minor(stat.st_rdev) as u32)?;
    }
    Ok(header)
}

/// Appends a file as long as it was when it was looked at.
///
/// # Errors
/// The disk's and the writer's; `UnexpectedEof` where it has become shorter.
pub fn append_content(
    builder: &mut Builder<impl Write>,
    header: &mut Header,
    name: &Path,
    (file, stat): (&File, &FileStat),
) -> io::Result<()> {
    let size = stat.st_size.max(0) as u64;
    header.set_size(size);
    append_data(builder, header, name, PiecesReader { file, name, pieces: &[(0, size)], at: 0 })
}

/// Appends a file without its holes, in GNU's form.
fn append_sparse(
    builder: &mut Builder<impl Write>,
    header: &mut Header,
    name: &Path,
    (file, stat): (&File, &FileStat),
    pieces: &[(u64, u64)],
) -> io::Result<()> {
    let size = stat.st_size.max(0) as u64;
    // GNU ends a map with where the file ends.
    let map: Vec<_> = pieces.iter().copied().chain([(size, 0)]).collect();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(pieces.iter().map(|(_, length)| length).sum());
    let gnu = header.as_gnu_mut().ok_or_else(|| io::Error::other("the header is none of GNU's"))?;
    gnu.set_real_size(size);
    for (field, (offset, length)) in gnu.sparse.iter_mut().zip(&map) {
        field.set_offset(*offset);
        field.set_length(*length);
    }
    let rest = map.get(gnu.sparse.len()..).unwrap_or_default();
    gnu.set_is_extended(!rest.is_empty());
    let mut blocks = Vec::new();
    let mut parts = rest.chunks(21).peekable();
    while let Some(part) = parts.next() {
        let mut block = GnuExtSparseHeader::new();
        for (field, (offset, length)) in block.sparse_mut().iter_mut().zip(part) {
            field.set_offset(*offset);
            field.set_length(*length);
        }
        block.set_is_extended(parts.peek().is_some());
        blocks.extend(block.as_bytes());
    }
    append_data(builder, header, name, blocks.chain(PiecesReader { file, name, pieces, at: 0 }))?;
    // What it has lost was perhaps taken for a hole.
    if file.metadata()?.len() < size { Err(shorter(name)) } else { Ok(()) }
}

/// The pieces of a file that has holes: offsets and lengths. `None` where it has none, or so many pieces that it is better whole.
fn pieces(file: &File, stat: &FileStat) -> io::Result<Option<Vec<(u64, u64)>>> {
    const MAX_PIECES: usize = 10_000;
    if stat.st_blocks.saturating_mul(512) >= stat.st_size {
        return Ok(None);
    }
    let (mut found, mut at) = (Vec::new(), 0);
    while at < stat.st_size {
        let begin = match lseek(file, at, Whence::SeekData) {
            Ok(begin) => begin,
            // No data behind this.
            Err(nix::Error::ENXIO) => break,
            // A file system that does not know.
            Err(nix::Error::EINVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if begin >= stat.st_size || found.len() == MAX_PIECES {
            return Ok(Some(found).filter(|found| found.len() < MAX_PIECES));
        }
        at = match lseek(file, begin, Whence::SeekHole) {
            Ok(end) => end.min(stat.st_size),
            Err(nix::Error::ENXIO) => break,
            Err(error) => return Err(error.into()),
        };
        found.push((begin as u64, (at - begin) as u64));
    }
    Ok(Some(found))
}

/// Pieces of a file, one after the other.
struct PiecesReader<'a> {
    file: &'a File,
    name: &'a Path,
    pieces: &'a [(u64, u64)],
    /// Bytes of the first piece that were read.
    at: u64,
}

impl Read for PiecesReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(((offset, length), rest)) = self.pieces.split_first() {
            let wanted = buffer.len().min(usize::try_from(length - self.at).unwrap_or(usize::MAX));
            if length == &self.at {
                (self.pieces, self.at) = (rest, 0);
                continue;
            }
            if wanted == 0 {
                break;
            }
            let n = self.file.read_at(&mut buffer[..wanted], offset + self.at);
            let n = n.map_err(|e| io::Error::new(e.kind(), format!("reading {}: {e}", self.name.display())))?;
            if n == 0 {
                return Err(shorter(self.name));
            }
            self.at += n as u64;
            return Ok(n);
        }
        Ok(0)
    }
}

fn shorter(name: &Path) -> io::Error {
    let text = format!("{} has become shorter meanwhile: try again when nothing writes to it", name.display());
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

#[cfg(test)]
mod tests;
