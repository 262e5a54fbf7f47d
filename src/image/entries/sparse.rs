//! Sparse files: the pieces that an archive has of them, and the zeros between. GNU tar's manual, "Storing Sparse Files".

use super::header::{BLOCK, is_gnu, number};
use super::pax::{PaxRecords, decimal};
use super::{About, TarContent, damaged};
use std::io::{self, Read};

/// The pieces of a file: each with its offset and its length in bytes, in the order of the file.
pub struct SparseMap {
    pieces: Vec<(u64, u64)>,
    size: u64,
    /// How far it was read, and the piece that is there or comes next.
    at: u64,
    next: usize,
}

impl SparseMap {
    fn new(pieces: Vec<(i64, i64)>, size: i64) -> io::Result<Self> {
        let wrong = || damaged("the map of a sparse file is wrong");
        let size = u64::try_from(size).map_err(|_| wrong())?;
        let (mut checked, mut before) = (Vec::with_capacity(pieces.len()), 0);
        for (offset, length) in pieces {
            let (offset, length) = (u64::try_from(offset).map_err(|_| wrong())?, u64::try_from(length).map_err(|_| wrong())?);
            // Neither is more than half of what fits.
            let end = offset + length;
            if offset < before || end > size {
                return Err(wrong());
            }
            before = end;
            checked.push((offset, length));
        }
        Ok(SparseMap { pieces: checked, size, at: 0, next: 0 })
    }

    /// Bytes of the file, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The map of GNU's old form: in the header, and in blocks between it and the content.
    pub fn of_old_header(block: &[u8; BLOCK], content: &mut TarContent<impl Read>, about: &mut About) -> io::Result<Self> {
        if !is_gnu(block) {
            return Err(damaged("a sparse file is in a form that is not GNU's"));
        }
        let mut pieces = Vec::new();
        let size = number(&block[483..495])?;
        add_pieces(&mut pieces, &block[386..482])?;
        let mut more = block[482] != 0;
        while more {
            about.take_room(BLOCK as u64)?;
            let block = content.block()?.ok_or_else(|| damaged("the map of a sparse file has no end"))?;
            add_pieces(&mut pieces, &block[..504])?;
            more = block[504] != 0;
        }
        SparseMap::new(pieces, size)
    }

    /// The map of a PAX form: in the records (0.0 and 0.1), or before the content (1.0). `None` where there is none.
    pub fn of_records(
        records: &mut PaxRecords,
        content: &mut TarContent<impl Read>,
        about: &mut About,
    ) -> io::Result<Option<Self>> {
        let before = match (records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor")) {
            (b"0", b"0" | b"1") => false,
            (b"1", b"0") => true,
            (b"", b"") if records.get(b"GNU.sparse.map").is_empty() => return Ok(None),
            (b"", b"") => false,
            _ => return Err(damaged("a sparse file is in a form that is not known")),
        };
        let said = match records.number(b"GNU.sparse.size")? {
            None => records.number(b"GNU.sparse.realsize")?,
            said => said,
        };
        let size = said.unwrap_or(i64::try_from(content.left).map_err(|_| damaged("a size is too large"))?);
        let pieces = if before { pieces_of_content(content, about)? } else { pieces_of_records(records)? };
        SparseMap::new(pieces, size).map(Some)
    }

    /// Reads on in the file, whose pieces are the archive's content.
    pub fn read(&mut self, content: &mut TarContent<impl Read>, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.pieces.get(self.next).is_some_and(|(offset, length)| offset + length <= self.at) {
            self.next += 1;
        }
        let within = |end: u64, at: u64| buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let n = match self.pieces.get(self.next) {
            Some((offset, length)) if *offset <= self.at => {
                let wanted = within(offset + length, self.at);
                match content.read(&mut buffer[..wanted])? {
                    0 => return Err(damaged("a sparse file has less content than its map")),
                    n => n,
                }
            }
            next => {
                let n = within(next.map_or(self.size, |(offset, _)| *offset), self.at);
                buffer[..n].fill(0);
                n
            }
        };
        if n == 0 && content.left > 0 {
            return Err(damaged("a sparse file has more content than its map"));
        }
        self.at += n as u64;
        Ok(n)
    }
}

/// Adds what a header has of a map. An empty offset ends it.
fn add_pieces(pieces: &mut Vec<(i64, i64)>, fields: &[u8]) -> io::Result<()> {
    for field in fields.chunks_exact(24).take_while(|field| field[0] != 0) {
        pieces.push((number(&field[..12])?, number(&field[12..])?));
    }
    Ok(())
}

fn pieces_of_records(records: &mut PaxRecords) -> io::Result<Vec<(i64, i64)>> {
    let map = records.remove(b"GNU.sparse.map").unwrap_or_default();
    let wrong = || damaged("the map of a sparse file is wrong");
    let mut numbers: Vec<i64> = Vec::new();
    if !map.is_empty() {
        for text in map.split(|byte| *byte == b',') {
            numbers.push(decimal(text)?);
        }
    }
    let count = records.number(b"GNU.sparse.numblocks")?.ok_or_else(wrong)?;
    if usize::try_from(count).ok().and_then(|count| count.checked_mul(2)) != Some(numbers.len()) {
        return Err(wrong());
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Lines of numbers in whole blocks: how many pieces there are, and each one's offset and length.
fn pieces_of_content(content: &mut TarContent<impl Read>, about: &mut About) -> io::Result<Vec<(i64, i64)>> {
    let mut text: Vec<u8> = Vec::new();
    let mut begin = 0;
    let mut line = || -> io::Result<i64> {
        loop {
            if let Some(length) = text[begin..].iter().position(|byte| *byte == b'\n') {
                let number = decimal(&text[begin..begin + length])?;
                begin += length + 1;
                return Ok(number);
            }
            // A number has no more digits than that.
            if text.len() - begin > 20 {
                return Err(damaged("the map of a sparse file is wrong"));
            }
            about.take_room(BLOCK as u64)?;
            let mut block = [0; BLOCK];
            content.read_exact(&mut block)?;
            text.extend(block);
        }
    };
    let count = line()?;
    if count < 0 {
        return Err(damaged("the map of a sparse file is wrong"));
    }
    let mut pieces = Vec::new();
    for _ in 0..count {
        pieces.push((line()?, line()?));
    }
    Ok(pieces)
}
