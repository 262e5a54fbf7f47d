//! Writing a log: bytes from the container's pipes to lines with a time, in one write a batch.

use super::{Stream, rotated};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// A longer line is split into parts, as containerd and CRI-O do.
pub const MAX_LINE: usize = 16 * 1024;

pub struct Writer {
    path: PathBuf,
    file: File,
    written: u64,
    max_size: u64,
    max_files: u32,
    /// Formatted, not yet in the file. What the disk refuses stays here and is tried again.
    buffer: Vec<u8>,
    partial: [Vec<u8>; 2],
    /// What has no end of line yet is written as well: somebody may be waiting to answer it.
    at_once: bool,
}

impl Writer {
    /// Opens a log for appending.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: PathBuf, max_size: u64, max_files: u32) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let written = file.metadata()?.len();
        Ok(Writer {
            path,
            file,
            written,
            max_size,
            max_files: max_files.max(1),
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

    /// Takes what a stream has said and writes the lines that are complete. One clock reading serves the whole batch.
    ///
    /// # Errors
    /// The file's; the lines are kept, and [`Writer::flush`] tries again.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> io::Result<()> {
        let head = format!("{:.9} {} ", jiff::Timestamp::now(), stream.as_str());
        let mut partial = std::mem::take(&mut self.partial[stream as usize]);
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if partial.is_empty() && line.len() <= MAX_LINE {
                self.push(&head, b'F', line);
            } else {
                partial.extend_from_slice(line);
                self.push_long(&head, &mut partial);
                self.push(&head, b'F', &partial);
                partial.clear();
            }
            if self.max_size > 0 && self.written + self.buffer.len() as u64 >= self.max_size {
                // Rotated within a batch as well, so that a file is larger than asked for by one line at most.
                self.partial[stream as usize] = std::mem::take(&mut partial);
                self.flush()?;
            }
        }
        partial.extend_from_slice(bytes);
        self.push_long(&head, &mut partial);
        if self.at_once && !partial.is_empty() {
            self.push(&head, b'P', &partial);
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
    /// As [`Writer::write`].
    pub fn finish(&mut self) -> io::Result<()> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.partial[stream as usize]);
            if !rest.is_empty() {
                let head = format!("{:.9} {} ", jiff::Timestamp::now(), stream.as_str());
                self.push(&head, b'P', &rest);
            }
        }
        self.flush()
    }

    /// Whether anybody can read what is written: a removed container's log has no name any more.
    pub fn is_wanted(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() > 0)
    }

    fn push(&mut self, head: &str, tag: u8, line: &[u8]) {
        self.buffer.extend_from_slice(head.as_bytes());
        self.buffer.extend_from_slice(&[tag, b' ']);
        self.buffer.extend_from_slice(line);
        self.buffer.push(b'\n');
    }

    fn push_long(&mut self, head: &str, partial: &mut Vec<u8>) {
        let mut start = 0;
        while partial.len() - start > MAX_LINE {
            self.push(head, b'P', &partial[start..start + MAX_LINE]);
            start += MAX_LINE;
        }
        partial.drain(..start);
    }

    /// Writes what an earlier attempt left.
    ///
    /// # Errors
    /// As [`Writer::write`].
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
        for n in (1..self.max_files).rev() {
            let from = if n == 1 { self.path.clone() } else { rotated(&self.path, n - 1) };
            match std::fs::rename(from, rotated(&self.path, n)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        if self.max_files == 1 {
            std::fs::remove_file(&self.path)?;
        }
        self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.written = 0;
        Ok(())
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
        let mut log = Writer::open(path.clone(), 0, 1).expect("open");
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
        let mut log = Writer::open(path.clone(), 0, 1).expect("open");
        let long = vec![b'x'; MAX_LINE * 2 + 5];
        log.write(Stream::Stdout, &long).expect("write");
        log.write(Stream::Stdout, b"y\n").expect("write");
        let lines = texts(&path);
        assert_eq!(lines.len(), 3);
        let total: usize = lines.iter().map(|l| l["stdout F ".len()..].len()).sum();
        assert_eq!(total, long.len() + 1);
    }

    #[test]
    fn rotation_keeps_the_given_number_of_files() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let mut log = Writer::open(path.clone(), 100, 3).expect("open");
        for i in 0..40 {
            log.write(Stream::Stdout, format!("line {i}\n").as_bytes()).expect("write");
        }
        let files: Vec<_> = std::fs::read_dir(dir.path()).expect("dir").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(files.len(), 3, "{files:?}");
        let newest = if texts(&path).is_empty() { rotated(&path, 1) } else { path };
        assert_eq!(texts(&newest).last().map(String::as_str), Some("stdout F line 39"));
    }
}
