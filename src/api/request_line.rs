//! The first line of a connection, as clients write it that do not escape what they ask for: `curl -g '.../json?filters={"a":["b"]}'`.
//!
//! RFC 3986 has no `"`, `<` and `>` in a URI, and hyper refuses such a request without a word. Docker's engine takes it, as Go's HTTP
//! server does. They are escaped before hyper reads them, in the first request of a connection: where a later one begins is known to
//! hyper alone, and a byte of a body must stay what it is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// Bytes that are read at once, until the line has ended.
const PIECE: usize = 4096;

/// A client's connection whose first line is escaped.
pub(super) struct FirstLineStream {
    inner: UnixStream,
    line: LinePlace,
    /// Escaped, and not yet taken by the reader.
    ready: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinePlace {
    /// Blank lines before a request mean nothing (RFC 9112, section 2.2).
    Before,
    Within,
    Behind,
}

impl FirstLineStream {
    pub(super) fn new(inner: UnixStream) -> Self {
        FirstLineStream { inner, line: LinePlace::Before, ready: Vec::new() }
    }

    /// The connection, and what was read of it and not taken.
    pub(super) fn into_parts(self) -> (UnixStream, Vec<u8>) {
        (self.inner, self.ready)
    }
}

/// Appends bytes to `out`, those of the first line escaped.
fn escape(line: &mut LinePlace, bytes: &[u8], out: &mut Vec<u8>) {
    for (n, byte) in bytes.iter().enumerate() {
        match (*line, byte) {
            (LinePlace::Behind, _) => return out.extend(&bytes[n..]),
            (LinePlace::Before, b'\r' | b'\n') => {}
            (_, b'\n') => *line = LinePlace::Behind,
            _ => *line = LinePlace::Within,
        }
        match byte {
            b'"' => out.extend(b"%22"),
            b'<' => out.extend(b"%3C"),
            b'>' => out.extend(b"%3E"),
            other => out.push(*other),
        }
    }
}

impl AsyncRead for FirstLineStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ready.is_empty() {
            if this.line == LinePlace::Behind {
                return Pin::new(&mut this.inner).poll_read(cx, buffer);
            }
            let mut piece = [0; PIECE];
            let mut read = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            escape(&mut this.line, read.filled(), &mut this.ready);
        }
        let length = this.ready.len().min(buffer.remaining());
        buffer.put_slice(&this.ready[..length]);
        this.ready.drain(..length);
        if this.ready.is_empty() {
            this.ready = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FirstLineStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn only_the_first_line_is_escaped() {
        let sent = "\r\nGET /a?f={\"b\":[\"<c>\"]} HTTP/1.1\r\nX: \"y\"\r\n\r\n{\"z\": \"<>\"}GET /\"";
        let expected = "\r\nGET /a?f={%22b%22:[%22%3Cc%3E%22]} HTTP/1.1\r\nX: \"y\"\r\n\r\n{\"z\": \"<>\"}GET /\"";
        // Sent byte by byte as well, and taken by a buffer that is smaller than what was read.
        for (portion, room) in [(1, 1000), (7, 3), (1000, 1), (1000, 1000)] {
            let (mut client, engine) = UnixStream::pair().expect("a pair");
            let sending = tokio::spawn(async move {
                for piece in sent.as_bytes().chunks(portion) {
                    client.write_all(piece).await.expect("write");
                    tokio::task::yield_now().await;
                }
            });
            let (mut stream, mut got) = (FirstLineStream::new(engine), Vec::new());
            let mut piece = vec![0; room];
            loop {
                match stream.read(&mut piece).await.expect("read") {
                    0 => break,
                    length => got.extend(&piece[..length]),
                }
            }
            sending.await.expect("sent");
            assert_eq!(String::from_utf8_lossy(&got), expected, "{portion} {room}");
        }
    }

    #[tokio::test]
    async fn what_was_read_is_handed_over() {
        let (mut client, engine) = UnixStream::pair().expect("a pair");
        client.write_all(b"GET / HTTP/1.1\r\n\r\nrest").await.expect("write");
        let mut stream = FirstLineStream::new(engine);
        let mut head = [0; 18];
        stream.read_exact(&mut head).await.expect("read");
        assert_eq!(stream.into_parts().1, b"rest");
    }
}
