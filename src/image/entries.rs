//! The entries of a tar archive that may be hostile: what has to be held in memory of each is bounded.
//!
//! GNU's long names, PAX records and the maps of sparse files come before an entry, are as long as they say, and are read into
//! memory by the reader of tar. So the reader gets no more of them than [`MAX_HEADERS`].

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;
use tar::{Archive, Entry, EntryType};

/// Bytes of all headers of one entry, its extended attributes and its sparse map included. Go's reader, and so Docker, refuses a
/// single header of this size.
pub const MAX_HEADERS: u64 = 1 << 20;

/// Bytes that the sparse files of one archive may have together. The holes are in no archive, but they are read like the rest:
/// this many take half a minute.
pub const MAX_SPARSE: u64 = 256 << 30;

/// A tar archive's entries.
pub struct Entries<R: Read> {
    archive: Archive<Metered<R>>,
    left: Rc<Cell<u64>>,
}

/// Reads no further than it is allowed to at the moment.
pub struct Metered<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other(format!("the headers of one entry have more than {MAX_HEADERS} bytes")));
        }
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = self.inner.read(&mut buffer[..wanted])?;
        self.left.set(left - n as u64);
        Ok(n)
    }
}

impl<R: Read> Entries<R> {
    pub fn new(reader: R) -> Self {
        let left = Rc::new(Cell::new(u64::MAX));
        Entries { archive: Archive::new(Metered { inner: reader, left: left.clone() }), left }
    }

    /// Whether it begins like an archive.
    pub fn begin(mut self) -> bool {
        self.left.set(MAX_HEADERS);
        let first = self.archive.entries().ok().and_then(|mut entries| entries.next());
        first.is_some_and(|first| first.is_ok())
    }

    /// Gives each entry to `take`, until one is refused. What is left of an entry is skipped.
    ///
    /// # Errors
    /// The error that `damaged` makes of a damaged archive, or that of `take`.
    pub fn each<E>(
        mut self,
        damaged: impl Fn(io::Error) -> E,
        mut take: impl FnMut(&mut Entry<'_, Metered<R>>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut sparse: u64 = 0;
        let mut entries = self.archive.entries().map_err(&damaged)?;
        loop {
            self.left.set(MAX_HEADERS);
            let entry = entries.next();
            self.left.set(u64::MAX);
            let Some(entry) = entry else { return Ok(()) };
            let mut entry = entry.map_err(&damaged)?;
            if entry.header().entry_type() == EntryType::GNUSparse {
                sparse = sparse.saturating_add(entry.size());
                if sparse > MAX_SPARSE {
                    return Err(damaged(io::Error::other(format!(
                        "its sparse files have more than {MAX_SPARSE} bytes together"
                    ))));
                }
            }
            take(&mut entry)?;
            io::copy(&mut entry, &mut io::sink()).map_err(&damaged)?;
        }
    }
}
