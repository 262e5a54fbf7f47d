//! Chunks that arrive asynchronously, as a reader for blocking work: downloads and uploads that are unpacked meanwhile.

use bytes::Bytes;
use std::io::{self, Read};
use tokio::sync::mpsc;

/// Reads what a channel brings; its end is the end of the file.
pub struct ChunkReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
}

impl ChunkReader {
    /// A reader, and where its chunks are to be sent; at most `ahead` of them wait to be read.
    pub fn channel(ahead: usize) -> (mpsc::Sender<io::Result<Bytes>>, Self) {
        let (sender, receiver) = mpsc::channel(ahead);
        (sender, ChunkReader { receiver, chunk: Bytes::new() })
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.chunk.len());
        buffer[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}
