//! The entries of a tar archive that may be hostile.
//!
//! An archive has one content, whoever looks at it: it is read as Go's `archive/tar` reads it, and so Docker and what scans its
//! images. Long names of GNU, PAX records (by their lengths, since a value may hold any byte) and the four forms of sparse files are
//! understood; what is damaged is an error. What has to be held in memory of an entry is bounded by [`MAX_HEADERS`].

mod header;
mod pax;
mod sparse;

use header::{BLOCK, RawHeader, up_to_nul};
use pax::PaxRecords;
use sparse::SparseMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Bytes of all headers of one entry, its extended attributes and its sparse map included. Go's reader, and so Docker, refuses a
/// single header of this size.
pub const MAX_HEADERS: u64 = 1 << 20;

/// Bytes that the sparse files of one archive may have together. The holes are in no archive, but they are read like the rest:
/// this many take half a minute.
pub const MAX_SPARSE: u64 = 256 << 30;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Regular,
    Directory,
    Symlink,
    HardLink,
    Character,
    Block,
    Fifo,
    /// A type that is none of a file system, as the header has it.
    Other(u8),
}

/// What an archive says of an entry.
#[derive(Clone, Debug)]
pub struct EntryHead {
    /// As it is written there: it may be absolute, and lead out by `..`.
    pub path: PathBuf,
    /// Where a symlink leads, or the path of the file that a hard link is another name of; empty for others.
    pub link: PathBuf,
    pub kind: EntryKind,
    /// Bytes of the content, holes included.
    pub size: u64,
    /// Permissions, setuid, setgid and sticky.
    pub mode: u32,
    pub uid: i64,
    pub gid: i64,
    /// Seconds since 1970 and nanoseconds behind them.
    pub mtime: (i64, u32),
    /// The major and minor number.
    pub device: (i64, i64),
    /// Extended attributes.
    pub attributes: Vec<(OsString, Vec<u8>)>,
}

/// An entry, whose content can be read.
pub struct TarEntry<'a, R> {
    pub head: EntryHead,
    sparse: Option<SparseMap>,
    content: &'a mut TarContent<R>,
}

impl<R: Read> Read for TarEntry<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.sparse {
            Some(map) => map.read(self.content, buffer),
            None => self.content.read(buffer),
        }
    }
}

/// A tar archive's entries.
pub struct Entries<R: Read> {
    content: TarContent<R>,
}

impl<R: Read> Entries<R> {
    pub fn new(reader: R) -> Self {
        Entries { content: TarContent { inner: reader, left: 0, padding: 0 } }
    }

    /// Whether it begins like an archive.
    pub fn begin(mut self) -> bool {
        self.next_entry().is_ok_and(|first| first.is_some())
    }

    /// Gives each entry to `take`, until one is refused. What is left of an entry is skipped.
    ///
    /// # Errors
    /// The error that `damaged` makes of a damaged archive, or that of `take`.
    pub fn each<E>(
        mut self,
        damaged: impl Fn(io::Error) -> E,
        mut take: impl FnMut(&mut TarEntry<'_, R>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut total: u64 = 0;
        while let Some((head, sparse)) = self.next_entry().map_err(&damaged)? {
            if sparse.is_some() {
                total = total.saturating_add(head.size);
                if total > MAX_SPARSE {
                    return Err(damaged(io::Error::other(format!(
                        "its sparse files have more than {MAX_SPARSE} bytes together"
                    ))));
                }
            }
            take(&mut TarEntry { head, sparse, content: &mut self.content })?;
        }
        Ok(())
    }

    /// The next entry, with what comes before it about it. `None` at the end of the archive.
    fn next_entry(&mut self) -> io::Result<Option<(EntryHead, Option<SparseMap>)>> {
        let mut about = About::default();
        loop {
            self.content.skip()?;
            let Some(block) = self.content.next_header()? else { return Ok(None) };
            about.take_room(BLOCK as u64)?;
            let header = RawHeader::parse(&block)?;
            self.content.begin(header.size)?;
            match header.kind {
                b'x' => about.records = PaxRecords::parse(&self.content.whole(&mut about)?)?,
                b'L' => about.path = up_to_nul(&self.content.whole(&mut about)?).to_vec(),
                b'K' => about.link = up_to_nul(&self.content.whole(&mut about)?).to_vec(),
                // Docker takes no notice of what an archive says of all its entries, nor has a volume's label a file.
                b'g' | b'V' => about = About::default(),
                _ => return self.entry(&block, header, about).map(Some),
            }
        }
    }

    fn entry(&mut self, block: &[u8; BLOCK], header: RawHeader, mut about: About) -> io::Result<(EntryHead, Option<SparseMap>)> {
        let mut records = std::mem::take(&mut about.records);
        let given = |long: Vec<u8>, record: Option<Vec<u8>>, own: Vec<u8>| match (long, record) {
            (long, _) if !long.is_empty() => long,
            (_, Some(record)) if !record.is_empty() => record,
            _ => own,
        };
        let mut path = given(std::mem::take(&mut about.path), records.remove(b"path"), header.path);
        let link = given(std::mem::take(&mut about.link), records.remove(b"linkpath"), header.link);
        let kind = match header.kind {
            // Archives of before 1988 have no other sign of a directory.
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::Regular,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::Character,
            b'4' => EntryKind::Block,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => EntryKind::Other(other),
        };
        let has_content = matches!(kind, EntryKind::Regular | EntryKind::Other(_));
        let size = records.number(b"size")?.unwrap_or(header.size);
        // The others have none, whatever size the header says.
        self.content.begin(if has_content { size } else { 0 })?;
        let sparse = match header.kind {
            b'S' => Some(SparseMap::of_old_header(block, &mut self.content, &mut about)?),
            _ => SparseMap::of_records(&mut records, &mut self.content, &mut about)?,
        };
        if sparse.is_some() && kind != EntryKind::Regular {
            return Err(damaged("what is no file has a sparse map"));
        }
        if let Some(name) = records.remove(b"GNU.sparse.name").filter(|name| sparse.is_some() && !name.is_empty()) {
            path = name;
        }
        let size = match &sparse {
            Some(map) => map.size(),
            None => u64::try_from(if has_content { size } else { 0 }).map_err(|_| damaged("a size is negative"))?,
        };
        let head = EntryHead {
            path: PathBuf::from(OsString::from_vec(path)),
            link: PathBuf::from(OsString::from_vec(link)),
            kind,
            size,
            mode: (header.mode & 0o7777) as u32,
            uid: records.number(b"uid")?.unwrap_or(header.uid),
            gid: records.number(b"gid")?.unwrap_or(header.gid),
            mtime: records.time(b"mtime")?.unwrap_or((header.mtime, 0)),
            device: header.device,
            attributes: records.attributes(),
        };
        Ok((head, sparse))
    }
}

/// What comes before an entry and is about it, and how much more of that there may be.
struct About {
    records: PaxRecords,
    path: Vec<u8>,
    link: Vec<u8>,
    room: u64,
}

impl Default for About {
    fn default() -> Self {
        About { records: PaxRecords::default(), path: Vec::new(), link: Vec::new(), room: MAX_HEADERS }
    }
}

impl About {
    fn take_room(&mut self, bytes: u64) -> io::Result<()> {
        let too_many = || io::Error::other(format!("the headers of one entry have more than {MAX_HEADERS} bytes"));
        self.room = self.room.checked_sub(bytes).ok_or_else(too_many)?;
        Ok(())
    }
}

/// The archive as far as the content of the present entry goes.
struct TarContent<R> {
    inner: R,
    /// Bytes of the content that were not read yet.
    left: u64,
    /// Bytes behind it, to the next header.
    padding: u64,
}

impl<R: Read> Read for TarContent<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut buffer[..wanted])?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within an entry"));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

impl<R: Read> TarContent<R> {
    fn begin(&mut self, size: i64) -> io::Result<()> {
        self.left = u64::try_from(size).map_err(|_| damaged("a size is negative"))?;
        self.padding = self.left.next_multiple_of(BLOCK as u64) - self.left;
        Ok(())
    }

    /// Goes on to the next header. The padding behind the last entry may be missing.
    fn skip(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink())?;
        let padding = std::mem::take(&mut self.padding);
        io::copy(&mut (&mut self.inner).take(padding), &mut io::sink()).map(drop)
    }

    /// All of a content that is a header.
    fn whole(&mut self, about: &mut About) -> io::Result<Vec<u8>> {
        about.take_room(self.left)?;
        let mut bytes = Vec::with_capacity(usize::try_from(self.left).unwrap_or_default());
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A block of the archive; `None` at its end.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let (mut block, mut filled) = ([0; BLOCK], 0);
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within a header")),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Some(block))
    }

    /// The next header's block; `None` at two of zeros, or where the archive simply ends.
    fn next_header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let Some(block) = self.block()?.filter(|block| *block != [0; BLOCK]) else {
            return match self.block()? {
                Some(second) if second != [0; BLOCK] => Err(damaged("a block of zeros is between its entries")),
                _ => Ok(None),
            };
        };
        Ok(Some(block))
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
pub(super) mod tests;
