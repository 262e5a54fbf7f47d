//! Answers that come piece by piece: lines of JSON, and Docker's frames.

use super::{ClientError, Connector, or_broken};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use std::sync::Arc;

const MAX_LINE: usize = 64 << 20;

/// An answer in lines of JSON.
pub struct Lines {
    pub(super) body: Incoming,
    pub(super) buffer: BytesMut,
    pub(super) connector: Option<Arc<dyn Connector>>,
}

impl Lines {
    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// A broken connection, or a line that is not what is expected.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                let line = self.buffer.split_to(end + 1);
                return serde_json::from_slice(&line).map(Some).map_err(ClientError::protocol);
            }
            if self.buffer.len() > MAX_LINE {
                return Err(ClientError::Protocol("a line of its answer has no end".into()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(_)) => return Err(or_broken(self.connector.as_ref(), ClientError::Cut).await),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    let line = std::mem::take(&mut self.buffer);
                    return serde_json::from_slice(&line).map(Some).map_err(ClientError::protocol);
                }
            }
        }
    }
}

/// An answer in Docker's frames.
pub struct Frames {
    pub(super) body: Incoming,
    pub(super) buffer: BytesMut,
    pub(super) connector: Option<Arc<dyn Connector>>,
}

impl Frames {
    /// The next frame: 1 for standard output, 2 for standard error, and its bytes; `None` at the end.
    ///
    /// # Errors
    /// A broken connection.
    pub async fn next(&mut self) -> Result<Option<(u8, Bytes)>, ClientError> {
        loop {
            if let Some(frame) = self.buffered() {
                return Ok(Some(frame));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(ClientError::Protocol("a frame of its answer has no end".into()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(or_broken(self.connector.as_ref(), ClientError::protocol(error)).await),
                None => return Ok(None),
            }
        }
    }

    /// A frame that has come already.
    pub fn buffered(&mut self) -> Option<(u8, Bytes)> {
        take_frame(&mut self.buffer)
    }
}

/// Takes a whole frame out of a buffer.
pub fn take_frame(buffer: &mut BytesMut) -> Option<(u8, Bytes)> {
    let header = buffer.get(..8)?;
    let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if buffer.len() < 8 + length {
        return None;
    }
    let stream = header[0];
    buffer.advance(8);
    Some((stream, buffer.split_to(length).freeze()))
}
