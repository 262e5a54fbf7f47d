//! Reading a log: all of it, its last lines, from a time on; and where to go on reading when more has come.

use super::{Stream, rotated};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

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
pub struct LineSelection {
    /// The last so many lines; all without.
    pub tail: Option<usize>,
    /// Lines from this time on, in the log's own form.
    pub since: Option<String>,
    /// Lines after this time: a reader that comes back has the line of it.
    pub after: Option<String>,
    /// Lines up to this time.
    pub until: Option<String>,
    /// The log's content when it is opened, however much is written meanwhile.
    pub snapshot: bool,
}

/// A position in a log, and the file that it is in. Files change their names at a rotation; a reader knows them by their inodes.
pub struct Reader {
    path: PathBuf,
    file: Option<BufReader<File>>,
    /// Of the file that is read, or was read last; 0 before the first.
    inode: u64,
    /// Bytes of the file that have been read.
    position: u64,
    /// A newer file was seen: what this one has by now is all.
    superseded: bool,
    /// The inode of the last file, and where in it the reading ends.
    end: Option<(u64, u64)>,
    /// Files were removed before they could be read.
    lost: bool,
    line: Vec<u8>,
    /// The line in the buffer has been given out.
    returned: bool,
    since: Option<String>,
    after: Option<String>,
    until: Option<String>,
    /// Bytes that are read at once.
    buffer: usize,
}

/// Bytes that are read of a log at once, unless the reader says otherwise.
const BUFFER: usize = 256 * 1024;

impl Reader {
    /// Opens a log at the position where the selection begins. A log that does not exist yet is empty.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &Path, selection: &LineSelection) -> io::Result<Self> {
        Self::open_with(path, selection, BUFFER)
    }

    /// The same with a buffer of a size.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_with(path: &Path, selection: &LineSelection, buffer: usize) -> io::Result<Self> {
        let mut reader = Reader {
            path: path.to_path_buf(),
            file: None,
            inode: 0,
            position: 0,
            superseded: false,
            end: None,
            lost: false,
            line: Vec::new(),
            returned: false,
            since: selection.since.clone(),
            after: selection.after.clone(),
            until: selection.until.clone(),
            buffer,
        };
        if selection.snapshot {
            reader.end = File::open(path).and_then(|file| file.metadata()).map(|file| (file.ino(), file.len())).ok();
        }
        match selection.tail {
            Some(lines) => reader.seek_to_tail(lines)?,
            None => drop(reader.advance()?),
        }
        Ok(reader)
    }

    /// The inode of the file that is read; 0 before the first.
    pub fn file(&self) -> u64 {
        self.inode
    }

    /// Whether lines were lost to rotation since this was asked last.
    pub fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    fn enter(&mut self, file: File, inode: u64, position: u64) -> io::Result<()> {
        let mut file = file;
        file.seek(SeekFrom::Start(position))?;
        self.file = Some(BufReader::with_capacity(self.buffer, file));
        (self.inode, self.position, self.superseded) = (inode, position, false);
        Ok(())
    }

    /// Goes on to the next file; false where there is none yet.
    fn advance(&mut self) -> io::Result<bool> {
        loop {
            let files = chain(&self.path)?;
            let known = files.iter().position(|inode| *inode == self.inode && *inode != 0);
            let Some(next) = files[..known.unwrap_or(files.len())].iter().rposition(|inode| *inode != 0) else {
                return Ok(false);
            };
            if let Some(file) = open_as(&self.path, next, files[next])? {
                self.lost |= known.is_none() && self.inode != 0;
                self.enter(file, files[next], 0)?;
                return Ok(true);
            }
        }
    }

    /// Reads backwards from the end until enough lines are found.
    fn seek_to_tail(&mut self, lines: usize) -> io::Result<()> {
        'rotated: loop {
            let mut missing = lines;
            let files = chain(&self.path)?;
            for (n, inode) in files.iter().enumerate().filter(|(_, inode)| **inode != 0) {
                let Some(file) = open_as(&self.path, n, *inode)? else { continue 'rotated };
                let (position, found) = tail_position(&file, missing)?;
                missing -= found.min(missing);
                if missing == 0 || n + 1 == files.len() {
                    return self.enter(file, *inode, position);
                }
            }
            return Ok(());
        }
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
            if self.end.is_some_and(|(inode, end)| inode == self.inode && self.position >= end) {
                return Ok(None);
            }
            let Some(file) = &mut self.file else {
                if !self.advance()? {
                    return Ok(None);
                }
                continue;
            };
            self.position += file.read_until(b'\n', &mut self.line)? as u64;
            if self.line.last() != Some(&b'\n') {
                if self.superseded {
                    // A line without an end is one that a killed monitor has begun.
                    self.line.clear();
                    if self.end.is_some_and(|(inode, _)| inode == self.inode) || !self.advance()? {
                        return Ok(None);
                    }
                } else if self.is_newest()? {
                    return Ok(None);
                } else {
                    // What was written between the read and the rotation.
                    self.superseded = true;
                }
            } else if self.wanted() {
                break;
            } else {
                self.line.clear();
            }
        }
        self.returned = true;
        Ok(parse(&self.line[..self.line.len() - 1]))
    }

    fn is_newest(&self) -> io::Result<bool> {
        Ok(chain(&self.path)?.iter().find(|inode| **inode != 0).is_none_or(|newest| *newest == self.inode))
    }

    fn wanted(&mut self) -> bool {
        let Some(line) = parse(&self.line[..self.line.len() - 1]) else { return false };
        let begun = self.since.as_ref().is_none_or(|since| line.time >= since.as_bytes())
            && self.after.as_ref().is_none_or(|after| line.time > after.as_bytes());
        begun && self.until.as_ref().is_none_or(|until| line.time <= until.as_bytes())
    }
}

/// The inodes of a log's files by their numbers, the newest first; 0 for a number that no file has.
///
/// A rotation renames from the oldest on, so while it goes on one number is missing, and each number changes once. Two looks that see
/// the same and no gap have therefore seen one state. A gap that stays is what a monitor left that was killed.
fn chain(path: &Path) -> io::Result<Vec<u64>> {
    let mut seen = look(path)?;
    let mut tries = 0;
    loop {
        let again = look(path)?;
        if again == seen && (!seen.contains(&0) || tries > MOST_TRIES) {
            return Ok(seen);
        }
        seen = again;
        tries += 1;
        if tries > TRIES_AT_ONCE {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

const TRIES_AT_ONCE: u32 = 20;
const MOST_TRIES: u32 = 200;

fn look(path: &Path) -> io::Result<Vec<u64>> {
    let mut files = Vec::new();
    let mut gap = false;
    loop {
        let name = if files.is_empty() { path.to_path_buf() } else { rotated(path, files.len() as u32) };
        match std::fs::metadata(&name) {
            Ok(file) => {
                files.push(file.ino());
                gap = false;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && gap => {
                files.pop();
                return Ok(files);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                files.push(0);
                gap = true;
            }
            Err(e) => return Err(e),
        }
    }
}

/// Opens a log's n-th file if it is still the one of an inode.
fn open_as(path: &Path, n: usize, inode: u64) -> io::Result<Option<File>> {
    let name = if n == 0 { path.to_path_buf() } else { rotated(path, n as u32) };
    match File::open(name) {
        Ok(file) => Ok(Some(file).filter(|file| file.metadata().is_ok_and(|found| found.ino() == inode))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// How long what stands before an entry's tag is: `2026-01-31T12:00:00.000000000Z stdout `.
const BEFORE_TAG: u64 = 38;

/// Where the last `lines` lines of a file begin, and how many of them it has. The parts of a line are one line.
fn tail_position(file: &File, lines: usize) -> io::Result<(u64, usize)> {
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
            if end == size || ends_line(file, at, (start, part))? {
                if found == lines {
                    return Ok((end, found));
                }
                found += 1;
            }
            end = at;
        }
        position = start;
    }
    if end == size || ends_line(file, 0, (0, &[]))? {
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
    use crate::logs::writer::LogWriter;

    fn texts(path: &Path, selection: &LineSelection) -> Vec<String> {
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
        let mut log = LogWriter::open(path.clone(), 200, 5).expect("open");
        for i in 0..12 {
            log.write(Stream::Stdout, format!("{i}\n").as_bytes()).expect("write");
        }
        assert!(rotated(&path, 1).exists(), "the log has rotated");
        let all: Vec<String> = (0..12).map(|i| i.to_string()).collect();
        assert_eq!(texts(&path, &LineSelection::default()), all);
        for tail in 0..=13 {
            let selection = LineSelection { tail: Some(tail), ..LineSelection::default() };
            assert_eq!(texts(&path, &selection), all[all.len() - tail.min(12)..], "tail {tail}");
        }
    }

    #[test]
    fn a_line_in_parts_is_one_line_of_the_tail() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let long = "x".repeat(40_000);
        let mut log = LogWriter::open(path.clone(), 0, 1).expect("open").at_once(true);
        for piece in ["one\n", "tw", "o\n", &long, "\n", "three\n", "fo", "u"] {
            log.write(Stream::Stdout, piece.as_bytes()).expect("write");
        }
        let of = |tail| texts(&path, &LineSelection { tail: Some(tail), ..LineSelection::default() }).concat();
        let expected = ["", "fou", "threefou", &format!("{long}threefou"), &format!("two{long}threefou")];
        for (tail, expected) in expected.into_iter().enumerate() {
            assert_eq!(of(tail), expected, "tail {tail}");
        }
        for tail in [5, 6] {
            assert_eq!(of(tail), format!("onetwo{long}threefou"), "tail {tail}");
        }
    }

    #[test]
    fn a_reader_that_is_held_for_loses_nothing_to_rotation() {
        use crate::logs::holds::{ALL, Hold};
        for (size, files) in [(50, 1), (200, 1), (200, 2), (1000, 3)] {
            let dir = tempfile::tempdir().expect("dir");
            let path = dir.path().join("log");
            let mut log = LogWriter::open(path.clone(), size, files).expect("open");
            log.holds.set(Hold { reader: 1, file: ALL });
            let mut reader = Reader::open_with(&path, &LineSelection::default(), 64).expect("open");
            let mut expected = 0;
            let mut written = 0;
            // Sometimes the reader is behind, sometimes at the end.
            for step in 0..600 {
                for _ in 0..step % 13 {
                    if !log.is_full() {
                        log.write(Stream::Stdout, format!("{written}\n").as_bytes()).expect("write");
                        written += 1;
                    }
                }
                for _ in 0..step % 17 {
                    let Some(line) = reader.next_line().expect("read") else { break };
                    assert_eq!(line.text, expected.to_string().as_bytes(), "{size} {files}");
                    expected += 1;
                }
                log.holds.set(Hold { reader: 1, file: reader.file() });
                log.catch_up().expect("rotate");
            }
            while let Some(line) = reader.next_line().expect("read") {
                assert_eq!(line.text, expected.to_string().as_bytes());
                expected += 1;
            }
            assert!(expected == written && written > 2000, "{expected} of {written}");
        }
    }

    #[test]
    fn a_snapshot_ends_and_a_reader_that_comes_back_goes_on() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let mut log = LogWriter::open(path.clone(), 0, 1).expect("open");
        log.write(Stream::Stdout, b"a\nb\nc\n").expect("write");
        let mut snapshot = Reader::open(&path, &LineSelection { snapshot: true, ..LineSelection::default() }).expect("open");
        log.write(Stream::Stdout, b"d\n").expect("write");
        let mut lines = Vec::new();
        let mut times = Vec::new();
        while let Some(line) = snapshot.next_line().expect("read") {
            lines.push(line.text.to_vec());
            times.push(String::from_utf8_lossy(line.time).into_owned());
        }
        assert_eq!(lines, [b"a", b"b", b"c"]);
        let back = LineSelection { after: times.get(1).cloned(), ..LineSelection::default() };
        assert_eq!(texts(&path, &back), ["c", "d"]);
    }

    #[test]
    fn following_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let mut reader = Reader::open(&path, &LineSelection::default()).expect("open");
        assert_eq!(reader.next_line().expect("read"), None);
        let mut log = LogWriter::open(path.clone(), 120, 3).expect("open");
        for i in 0..9 {
            log.write(Stream::Stderr, format!("line {i}\n").as_bytes()).expect("write");
            let line = reader.next_line().expect("read").map(|l| l.text.to_vec());
            assert_eq!(line, Some(format!("line {i}").into_bytes()));
            assert_eq!(reader.next_line().expect("read"), None);
        }
    }
}
