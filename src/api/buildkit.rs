//! `/grpc` and `/session`, BuildKit's: wharf has no BuildKit API, and says so where its clients look for an answer. Docker's CLI takes
//! a refused upgrade for a reason to pull BuildKit and to run it in a container.
//!
//! A client of `/grpc` speaks HTTP/2 (RFC 9113). Each of its calls is answered with one block of headers, whose form is always the
//! same: what the call says need not be read.

use super::build::NO_BUILDKIT;
use super::reply::{self, Reply};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
/// The largest frame that a client may send to who has not allowed for more.
const MAX_FRAME: usize = 16 << 10;
/// How long a client may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// gRPC's `UNIMPLEMENTED`.
const UNIMPLEMENTED: &str = "12";

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM_AND_HEADERS: u8 = 5;

/// Upgrades a connection and refuses every call on it; one of `/session` is held until the client leaves.
pub(super) fn refuse(mut request: Request<Incoming>) -> Reply {
    let is_session = request.uri().path().ends_with("/session");
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let stream = TokioIo::new(upgraded);
        let ended = match is_session {
            true => hold(stream).await,
            false => converse(stream).await,
        };
        if let Err(error) = ended {
            tracing::debug!("a client of BuildKit's API: {error}");
        }
    });
    let mut response = Response::new(reply::whole(Vec::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("h2c"));
    Ok(response)
}

async fn hold(mut stream: impl AsyncRead + Unpin) -> io::Result<()> {
    let mut buffer = [0; 4096];
    while tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.map_err(io::Error::other)?? > 0 {}
    Ok(())
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    // Some clients lose what comes in one packet with the head.
    stream.read_exact(&mut [0; PREFACE]).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await.map_err(io::Error::other)??;
        let [a, b, c, kind, flags, stream_id @ ..] = head;
        let (length, stream_id) = (u32::from_be_bytes([0, a, b, c]) as usize, u32::from_be_bytes(stream_id));
        if length > MAX_FRAME {
            return Err(io::Error::other("its frame is too large"));
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        let answer = match kind {
            SETTINGS | PING if flags & ACK != 0 => continue,
            SETTINGS => frame(SETTINGS, ACK, 0, &[]),
            PING => frame(PING, ACK, 0, &payload),
            HEADERS => frame(HEADERS, END_STREAM_AND_HEADERS, stream_id, &refusal(NO_BUILDKIT)),
            GOAWAY => return Ok(()),
            _ => continue,
        };
        stream.write_all(&answer).await?;
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    [&[a, b, c, kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

/// The headers of a gRPC answer without a message (HPACK, RFC 7541: literals that are not indexed).
fn refusal(message: &str) -> Vec<u8> {
    // `:status: 200` and the name `content-type` are in the static table.
    let mut block = vec![0x88, 0x0f, 0x10];
    text(&mut block, "application/grpc");
    for (name, value) in [("grpc-status", UNIMPLEMENTED), ("grpc-message", message)] {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

/// A text with its length, a number with a prefix of seven bits.
fn text(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 0x7f {
        block.push(length as u8);
    } else {
        block.push(0x7f);
        length -= 0x7f;
        while length >= 0x80 {
            block.push((length % 0x80) as u8 | 0x80);
            length /= 0x80;
        }
        block.push(length as u8);
    }
    block.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_is_answered_with_the_way_out() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let serving = tokio::spawn(converse(ours));
        theirs.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("a preface");
        for sent in
            [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, b"12345678"), frame(HEADERS, 4, 1, b"x"), frame(GOAWAY, 0, 0, b"")]
        {
            theirs.write_all(&sent).await.expect("a frame");
        }
        let mut answer = Vec::new();
        theirs.read_to_end(&mut answer).await.expect("an answer");
        serving.await.expect("a task").expect("an end");
        let expected = [
            frame(SETTINGS, 0, 0, &[]),
            frame(SETTINGS, ACK, 0, &[]),
            frame(PING, ACK, 0, b"12345678"),
            frame(HEADERS, END_STREAM_AND_HEADERS, 1, &refusal(NO_BUILDKIT)),
        ]
        .concat();
        assert_eq!(answer, expected);
        assert!(NO_BUILDKIT.is_ascii() && !NO_BUILDKIT.contains('%'), "it is a header's value");
        let mut block = Vec::new();
        text(&mut block, &"x".repeat(300));
        assert_eq!(block[..4], [0x7f, 0xad, 0x01, b'x'], "RFC 7541, 5.1");
    }
}
