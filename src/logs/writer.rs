//! Writing a log: bytes from the container's pipes to lines with a time, in one write a batch.

use super::holds::Holds;
use super::{DEFAULT_FILE, Stream, count_files, rotated};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Instant;

/// A longer line is split into parts, as containerd and CRI-O do.
pub const MAX_LINE: usize = 16 * 1024;

/// Bytes that a log may have beyond its limits for readers that are behind, and how many files at most.
const LAG: u64 = 2 << 20;
const MOST_LATE_FILES: u64 = 64;

/// Writes a container's log, and rotates its files.
pub struct LogWriter {
    path: PathBuf,
    file: File,
    written: u64,
    max_size: u64,
    max_files: u32,
    /// How many files there are.
    files: u32,
    /// The files that readers need.
    pub holds: Holds,
    /// A new file is due, but readers are too far behind.
    full: bool,
    /// The container has ended: its last lines are written however far behind readers are.
    ended: bool,
    clock: Clock,
    /// Formatted, not yet in the file. What the disk refuses stays here and is tried again.
    buffer: Vec<u8>,
    partial: [Vec<u8>; 2],
    /// Output without an end of line is written as well: it may be a prompt.
    at_once: bool,
}

impl LogWriter {
    /// Opens a log for appending.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: PathBuf, max_size: u64, max_files: u32) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let written = file.metadata()?.len();
        let files = count_files(&path);
        Ok(LogWriter {
            path,
            file,
            written,
            max_size,
            max_files: max_files.max(1),
            files,
            holds: Holds::default(),
            full: false,
            ended: false,
            clock: Clock::default(),
            buffer: Vec::new(),
            partial: [Vec::new(), Vec::new()],
            at_once: false,
        })
    }

    /// Writes lines before they have ended: for containers that somebody types to.
    pub fn at_once(mut self, at_once: bool) -> Self {
        self.at_once = at_once;
        self
    }

    /// Takes output of a stream and writes the lines that are complete. One clock reading serves the whole batch.
    ///
    /// # Errors
    /// The file's; the lines are kept, and [`LogWriter::flush`] tries again.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> io::Result<()> {
        self.clock.read();
        let mut partial = std::mem::take(&mut self.partial[stream as usize]);
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if partial.is_empty() && line.len() <= MAX_LINE {
                self.push(stream, b'F', line);
            } else {
                partial.extend_from_slice(line);
                self.push_long(stream, &mut partial);
                self.push(stream, b'F', &partial);
                partial.clear();
            }
            if self.max_size > 0 && !self.full && self.written + self.buffer.len() as u64 >= self.max_size {
                // Rotated within a batch as well, so that a file is larger than asked for by one line at most.
                self.partial[stream as usize] = std::mem::take(&mut partial);
                self.flush()?;
            }
        }
        partial.extend_from_slice(bytes);
        self.push_long(stream, &mut partial);
        if self.at_once && !partial.is_empty() {
            self.push(stream, b'P', &partial);
            partial.clear();
        }
        if partial.is_empty() {
            partial = Vec::new();
        }
        self.partial[stream as usize] = partial;
        self.flush()
    }

    /// Writes what is left of lines that were never ended.
    ///
    /// # Errors
    /// As [`LogWriter::write`].
    pub fn finish(&mut self) -> io::Result<()> {
        self.ended = true;
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.partial[stream as usize]);
            if !rest.is_empty() {
                self.clock.read();
                self.push(stream, b'P', &rest);
            }
        }
        self.flush()
    }

    /// Whether anybody can read what is written: a removed container's log has no name any more.
    pub fn is_wanted(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() > 0)
    }

    /// Whether readers are so far behind that no more output should be taken.
    pub fn is_full(&self) -> bool {
        self.full && !self.ended
    }

    /// The container has ended: what is left of its output has a bound of its own.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Removes the files that readers were waited for and are not needed any more, and begins the file that is due.
    ///
    /// # Errors
    /// The kernel's.
    pub fn catch_up(&mut self) -> io::Result<()> {
        self.drop_files(self.max_files)?;
        if self.full { self.rotate() } else { Ok(()) }
    }

    fn push(&mut self, stream: Stream, tag: u8, line: &[u8]) {
        self.buffer.extend_from_slice(self.clock.next());
        self.buffer.extend_from_slice(if stream == Stream::Stdout { b" stdout " } else { b" stderr " });
        self.buffer.extend_from_slice(&[tag, b' ']);
        self.buffer.extend_from_slice(line);
        self.buffer.push(b'\n');
    }

    fn push_long(&mut self, stream: Stream, partial: &mut Vec<u8>) {
        let mut start = 0;
        while partial.len() - start > MAX_LINE {
            self.push(stream, b'P', &partial[start..start + MAX_LINE]);
            start += MAX_LINE;
        }
        partial.drain(..start);
    }

    /// Writes what an earlier attempt left.
    ///
    /// # Errors
    /// As [`LogWriter::write`].
    pub fn flush(&mut self) -> io::Result<()> {
        let mut done = 0;
        let result = loop {
            if done == self.buffer.len() {
                break Ok(());
            }
            match self.file.write(&self.buffer[done..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        self.written += done as u64;
        self.buffer.drain(..done);
        result?;
        if self.max_size > 0 && self.written >= self.max_size { self.rotate() } else { Ok(()) }
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.drop_files(self.max_files - 1)?;
        // Who has files of the default size is not short of room: a reader that does not read holds its container up only when all of
        // these wait for it.
        let late = if self.max_size >= DEFAULT_FILE { MOST_LATE_FILES } else { (LAG / self.max_size).clamp(1, MOST_LATE_FILES) };
        let late = late as u32;
        self.full = self.files >= self.max_files + late;
        if self.full && !self.ended {
            return Ok(());
        }
        self.full = false;
        for n in (1..=self.files).rev() {
            let from = if n == 1 { self.path.clone() } else { rotated(&self.path, n - 1) };
            match std::fs::rename(from, rotated(&self.path, n)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.files += 1;
        self.written = 0;
        // With a limit of one file, that which has just got its number goes at once.
        self.drop_files(self.max_files)
    }

    /// Removes the oldest files until so many are left, or one is needed.
    fn drop_files(&mut self, left: u32) -> io::Result<()> {
        while self.max_size > 0 && self.files > left.max(1) {
            let oldest = rotated(&self.path, self.files - 1);
            match std::fs::metadata(&oldest) {
                Ok(file) if self.holds.need(file.ino(), Instant::now()) => return Ok(()),
                Ok(_) => std::fs::remove_file(&oldest)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
            self.files -= 1;
        }
        Ok(())
    }
}

/// The times of lines: each later than that before, though a batch of them has one reading and the clock may go back. So a
/// reader that comes back knows what it has.
#[derive(Default)]
struct Clock {
    time: jiff::Timestamp,
    text: Vec<u8>,
}

impl Clock {
    fn read(&mut self) {
        let now = jiff::Timestamp::now();
        if now > self.time {
            self.time = now;
            self.text.clear();
        }
    }

    /// The next time, in the log's form.
    fn next(&mut self) -> &[u8] {
        self.time = self.time.checked_add(jiff::SignedDuration::from_nanos(1)).unwrap_or(self.time);
        // The last digit but for the zone's letter is the one that counts on.
        let digits = self.text.len().saturating_sub(10)..self.text.len().saturating_sub(1);
        let counted = self.text[digits].iter_mut().rev().any(|digit| {
            *digit = if *digit == b'9' { b'0' } else { *digit + 1 };
            *digit != b'0'
        });
        if !counted {
            self.text = format!("{:.9}", self.time).into_bytes();
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &std::path::Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).expect("log");
        text.lines().map(|l| l.split_once(' ').map(|x| x.1).expect("time").to_string()).collect()
    }

    #[test]
    fn lines_parts_and_ends() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let mut log = LogWriter::open(path.clone(), 0, 1).expect("open");
        log.write(Stream::Stdout, b"one\ntw").expect("write");
        log.write(Stream::Stderr, b"err\n").expect("write");
        log.write(Stream::Stdout, b"o\n\nlast").expect("write");
        log.finish().expect("finish");
        assert_eq!(texts(&path), ["stdout F one", "stderr F err", "stdout F two", "stdout F ", "stdout P last"]);
    }

    #[test]
    fn long_lines_are_split_and_nothing_is_lost() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let mut log = LogWriter::open(path.clone(), 0, 1).expect("open");
        let long = vec![b'x'; MAX_LINE * 2 + 5];
        log.write(Stream::Stdout, &long).expect("write");
        log.write(Stream::Stdout, b"y\n").expect("write");
        let lines = texts(&path);
        assert_eq!(lines.len(), 3);
        let total: usize = lines.iter().map(|l| l["stdout F ".len()..].len()).sum();
        assert_eq!(total, long.len() + 1);
    }

    #[test]
    fn times_count_on() {
        let time = |text: &str| text.parse().expect("time");
        let mut clock = Clock { time: time("2026-11-27T10:00:59.999999997Z"), text: Vec::new() };
        for expected in ["10:00:59.999999998", "10:00:59.999999999", "10:01:00.000000000", "10:01:00.000000001"] {
            assert_eq!(String::from_utf8_lossy(clock.next()), format!("2026-11-27T{expected}Z"));
        }
        clock.read();
        let now = clock.time;
        for _ in 0..1000 {
            assert_eq!(String::from_utf8_lossy(clock.next()).into_owned(), format!("{:.9}", clock.time));
        }
        assert!(clock.time > now);
    }

    #[test]
    fn rotation_keeps_what_a_reader_needs_within_a_bound() {
        for max_files in [1, 3] {
            let dir = tempfile::tempdir().expect("dir");
            let path = dir.path().join("log");
            let count = || std::fs::read_dir(dir.path()).expect("dir").count();
            let mut log = LogWriter::open(path.clone(), LAG / 4, max_files).expect("open");
            log.holds.set(crate::logs::holds::Hold { reader: 1, file: crate::logs::holds::ALL });
            let line = [&[b'x'; 1000][..], b"\n"].concat();
            while !log.is_full() {
                log.write(Stream::Stdout, &line).expect("write");
                assert!(count() <= max_files as usize + 4);
            }
            assert_eq!(count(), max_files as usize + 4);
            log.catch_up().expect("still needed");
            assert!(log.is_full());
            if max_files == 1 {
                log.holds.release(1);
                log.catch_up().expect("not needed");
                assert!(!log.is_full());
            } else {
                // The container ends, and then the reader leaves.
                drop(log);
                std::fs::remove_file(rotated(&path, 2)).expect("a gap");
                assert!(crate::logs::has_late_files(&path, max_files));
                crate::logs::drop_late_files(&path, max_files).expect("not needed");
                assert!(path.exists() && rotated(&path, 1).exists(), "the newest are kept");
                std::fs::write(rotated(&path, 2), "").expect("no gap");
            }
            assert!(!crate::logs::has_late_files(&path, max_files));
            assert_eq!(count(), max_files as usize);
        }
    }

    #[test]
    fn rotation_keeps_the_given_number_of_files() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let mut log = LogWriter::open(path.clone(), 100, 3).expect("open");
        for i in 0..40 {
            log.write(Stream::Stdout, format!("line {i}\n").as_bytes()).expect("write");
        }
        let files: Vec<_> = std::fs::read_dir(dir.path()).expect("dir").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(files.len(), 3, "{files:?}");
        let newest = if texts(&path).is_empty() { rotated(&path, 1) } else { path };
        assert_eq!(texts(&newest).last().map(String::as_str), Some("stdout F line 39"));
    }
}
