//! Reading a log: all of it, its last lines, from a time on; and where to go on reading when more has come.

use super::{Stream, rotated};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A line of a log, as bytes of the buffer that it was read into.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// RFC 3339 with nanoseconds; always of the same length, so times compare as text.
    pub time: &'a [u8],
    pub stream: Stream,
    pub text: &'a [u8],
    /// False for a part of a line: no newline belongs after it.
    pub complete: bool,
}

/// Takes a line of the file apart; `None` for what is no line of a log.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let space = memchr::memchr(b' ', line)?;
    let (time, rest) = (&line[..space], &line[space + 1..]);
    let stream = match rest.get(..7)? {
        b"stdout " => Stream::Stdout,
        b"stderr " => Stream::Stderr,
        _ => return None,
    };
    let complete = match rest.get(7..9)? {
        b"F " => true,
        b"P " => false,
        _ => return None,
    };
    Some(Line { time, stream, text: &rest[9..], complete })
}

/// Which lines to read.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The last so many lines; all without.
    pub tail: Option<usize>,
    /// Lines from this time on, in the log's own form.
    pub since: Option<String>,
    /// Lines up to this time.
    pub until: Option<String>,
}

/// A place in a log, and the file that it is in: after a rotation the file is read to its end before the next is begun.
pub struct Reader {
    path: PathBuf,
    file: Option<BufReader<File>>,
    inode: u64,
    older: Vec<PathBuf>,
    line: Vec<u8>,
    /// The line in the buffer has been given out.
    returned: bool,
    since: Option<String>,
    until: Option<String>,
    /// Bytes that are read at once.
    buffer: usize,
}

/// Bytes that are read of a log at once, unless the reader says otherwise.
const BUFFER: usize = 256 * 1024;

impl Reader {
    /// Opens a log at the place where the selection begins. A log that does not exist yet is empty.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &Path, selection: &Selection) -> io::Result<Self> {
        Self::open_with(path, selection, BUFFER)
    }

    /// The same with a buffer of a size.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_with(path: &Path, selection: &Selection, buffer: usize) -> io::Result<Self> {
        let mut older = Vec::new();
        let mut n = 1;
        while rotated(path, n).exists() {
            older.push(rotated(path, n));
            n += 1;
        }
        let mut reader = Reader {
            path: path.to_path_buf(),
            file: None,
            inode: 0,
            older,
            line: Vec::new(),
            returned: false,
            since: selection.since.clone(),
            until: selection.until.clone(),
            buffer,
        };
        match selection.tail {
            Some(lines) => reader.seek_to_tail(lines)?,
            None => reader.next_file()?,
        }
        Ok(reader)
    }

    fn open_file(&mut self, path: &Path, position: u64) -> io::Result<bool> {
        match File::open(path) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(position))?;
                self.inode = file.metadata()?.ino();
                self.file = Some(BufReader::with_capacity(self.buffer, file));
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn next_file(&mut self) -> io::Result<()> {
        while let Some(path) = self.older.pop() {
            if self.open_file(&path, 0)? {
                return Ok(());
            }
        }
        let path = self.path.clone();
        self.open_file(&path, 0).map(drop)
    }

    /// Reads backwards from the end until enough lines are found.
    fn seek_to_tail(&mut self, lines: usize) -> io::Result<()> {
        let mut missing = lines;
        let current = self.path.clone();
        let files: Vec<PathBuf> = std::iter::once(current).chain(self.older.iter().cloned()).collect();
        for (i, path) in files.iter().enumerate() {
            let (position, found) = tail_position(path, missing)?;
            missing -= found.min(missing);
            if missing == 0 || i + 1 == files.len() {
                // What is older than this file is left out; what is younger follows it.
                self.older.truncate(i.saturating_sub(1));
                self.open_file(path, position)?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads the next line. `None` when there is no more yet: what the writer has not finished is kept for the next time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        if std::mem::take(&mut self.returned) {
            self.line.clear();
        }
        loop {
            let Some(file) = &mut self.file else {
                self.next_file()?;
                if self.file.is_none() {
                    return Ok(None);
                }
                continue;
            };
            file.read_until(b'\n', &mut self.line)?;
            if self.line.last() != Some(&b'\n') {
                if self.is_last_file() {
                    return Ok(None);
                }
                self.file = None;
                self.line.clear();
            } else if self.wanted() {
                break;
            } else {
                self.line.clear();
            }
        }
        self.returned = true;
        Ok(parse(&self.line[..self.line.len() - 1]))
    }

    fn is_last_file(&self) -> bool {
        let current = std::fs::metadata(&self.path);
        self.older.is_empty() && current.map_or(true, |m| m.ino() == self.inode)
    }

    fn wanted(&self) -> bool {
        let Some(line) = parse(&self.line[..self.line.len() - 1]) else { return false };
        let after = self.since.as_ref().is_none_or(|since| line.time >= since.as_bytes());
        after && self.until.as_ref().is_none_or(|until| line.time <= until.as_bytes())
    }
}

/// How long what stands before an entry's tag is: `2026-01-31T12:00:00.000000000Z stdout `.
const BEFORE_TAG: u64 = 38;

/// Where the last `lines` lines of a file begin, and how many of them it has. The parts of a line are one line.
fn tail_position(path: &Path, lines: usize) -> io::Result<(u64, usize)> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        other => other?,
    };
    let size = file.metadata()?.len();
    if lines == 0 {
        return Ok((size, 0));
    }
    let mut block = vec![0; 1 << 16];
    let mut found = 0;
    // The entry that the search is in ends at this place; the newline at the very end of the file begins none.
    let mut end = size;
    let mut position = size;
    while position > 0 {
        let start = position.saturating_sub(block.len() as u64);
        let part = &mut block[..(position - start) as usize];
        file.read_exact_at(part, start)?;
        for at in memchr::memrchr_iter(b'\n', part).map(|at| start + at as u64 + 1).filter(|at| *at < size) {
            if end == size || ends_line(&file, at, (start, part))? {
                if found == lines {
                    return Ok((end, found));
                }
                found += 1;
            }
            end = at;
        }
        position = start;
    }
    if end == size || ends_line(&file, 0, (0, &[]))? {
        if found == lines {
            return Ok((end, found));
        }
        found += 1;
    }
    Ok((0, found))
}

/// Whether the entry that begins at a place is the last part of its line. `part` is what has been read already, and from where.
fn ends_line(file: &File, entry: u64, (start, part): (u64, &[u8])) -> io::Result<bool> {
    let at = entry + BEFORE_TAG;
    if let Some(tag) = part.get((at - start) as usize) {
        return Ok(*tag == b'F');
    }
    let mut tag = [0];
    Ok(file.read_at(&mut tag, at)? == 0 || tag[0] == b'F')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::writer::Writer;

    fn texts(path: &Path, selection: &Selection) -> Vec<String> {
        let mut reader = Reader::open(path, selection).expect("open");
        let mut lines = Vec::new();
        while let Some(line) = reader.next_line().expect("read") {
            lines.push(String::from_utf8_lossy(line.text).into_owned());
        }
        lines
    }

    #[test]
    fn tails_over_rotated_files() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let mut log = Writer::open(path.clone(), 200, 5).expect("open");
        for i in 0..12 {
            log.write(Stream::Stdout, format!("{i}\n").as_bytes()).expect("write");
        }
        assert!(rotated(&path, 1).exists(), "the log has rotated");
        let all: Vec<String> = (0..12).map(|i| i.to_string()).collect();
        assert_eq!(texts(&path, &Selection::default()), all);
        for tail in 0..=13 {
            let selection = Selection { tail: Some(tail), ..Selection::default() };
            assert_eq!(texts(&path, &selection), all[all.len() - tail.min(12)..], "tail {tail}");
        }
    }

    #[test]
    fn a_line_in_parts_is_one_line_of_the_tail() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let long = "x".repeat(40_000);
        let mut log = Writer::open(path.clone(), 0, 1).expect("open").at_once(true);
        for piece in ["one\n", "tw", "o\n", &long, "\n", "three\n", "fo", "u"] {
            log.write(Stream::Stdout, piece.as_bytes()).expect("write");
        }
        let of = |tail| texts(&path, &Selection { tail: Some(tail), ..Selection::default() }).concat();
        let expected = ["", "fou", "threefou", &format!("{long}threefou"), &format!("two{long}threefou")];
        for (tail, expected) in expected.into_iter().enumerate() {
            assert_eq!(of(tail), expected, "tail {tail}");
        }
        for tail in [5, 6] {
            assert_eq!(of(tail), format!("onetwo{long}threefou"), "tail {tail}");
        }
    }

    #[test]
    fn following_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let mut reader = Reader::open(&path, &Selection::default()).expect("open");
        assert_eq!(reader.next_line().expect("read"), None);
        let mut log = Writer::open(path.clone(), 120, 3).expect("open");
        for i in 0..9 {
            log.write(Stream::Stderr, format!("line {i}\n").as_bytes()).expect("write");
            let line = reader.next_line().expect("read").map(|l| l.text.to_vec());
            assert_eq!(line, Some(format!("line {i}").into_bytes()));
            assert_eq!(reader.next_line().expect("read"), None);
        }
    }
}
