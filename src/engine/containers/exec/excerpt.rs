//! What is kept of a command's output.

use crate::engine::containers::container::HookOutput;
use std::time::Duration;
use tokio::sync::mpsc;

/// The kept part of the output of a command that the engine itself runs, which may write without end.
#[derive(Debug)]
pub(in crate::engine) struct Excerpt {
    limit: usize,
    end: End,
    bytes: Vec<u8>,
    cut: bool,
    reader: Option<mpsc::Sender<HookOutput>>,
}

/// A reader of a command's output that takes nothing for so long has given up.
const READER_GIVES_UP: Duration = Duration::from_secs(10);

/// Which end of the output is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    First,
    Last,
}

impl Excerpt {
    /// The first bytes, followed by `...` where there were more.
    pub(in crate::engine) fn first(limit: usize) -> Self {
        Excerpt { limit, end: End::First, bytes: Vec::new(), cut: false, reader: None }
    }

    /// The last bytes, after `...` where there were more.
    pub(in crate::engine) fn last(limit: usize) -> Self {
        Excerpt { limit, end: End::Last, bytes: Vec::new(), cut: false, reader: None }
    }

    /// Somebody gets all of the output. The command waits for them, as for the reader of a pipe.
    pub(in crate::engine) fn read_by(self, reader: Option<mpsc::Sender<HookOutput>>) -> Self {
        Excerpt { reader, ..self }
    }

    /// Takes what a read has given; whether the stream is still open.
    pub(super) async fn take(&mut self, stream: u8, buffer: &[u8], read: std::io::Result<usize>) -> bool {
        let n = read.unwrap_or(0);
        self.push(&buffer[..n]);
        if let Some(reader) = self.reader.as_ref().filter(|_| n > 0)
            && reader.send_timeout((stream, buffer[..n].to_vec()), READER_GIVES_UP).await.is_err()
        {
            self.reader = None;
        }
        n > 0
    }

    pub(in crate::engine) fn push(&mut self, bytes: &[u8]) {
        match self.end {
            End::First => {
                let room = self.limit - self.bytes.len();
                self.cut |= bytes.len() > room;
                self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            End::Last => {
                self.cut |= self.bytes.len() + bytes.len() > self.limit;
                let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
                let excess = (self.bytes.len() + bytes.len()).saturating_sub(self.limit);
                self.bytes.drain(..excess);
                self.bytes.extend_from_slice(bytes);
            }
        }
    }

    pub(in crate::engine) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        match (self.cut, self.end) {
            (false, _) => text.into_owned(),
            (true, End::First) => format!("{text}..."),
            (true, End::Last) => format!("...{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_keeps_no_more_than_its_limit() {
        let all = |mut excerpt: Excerpt| {
            for _ in 0..1000 {
                excerpt.push(b"abcdefghij");
                assert!(excerpt.bytes.len() <= excerpt.limit);
            }
            excerpt.push(b"the end");
            excerpt.text()
        };
        assert_eq!(all(Excerpt::first(12)), "abcdefghijab...");
        assert_eq!(all(Excerpt::last(12)), "...fghijthe end");
        let mut short = Excerpt::first(12);
        short.push(b"abc");
        assert_eq!(short.text(), "abc");
        let mut long = Excerpt::last(4);
        long.push(b"a long piece");
        assert_eq!(long.text(), "...iece");
    }
}
