//! Streams of a container over a WebSocket (RFC 6455): bytes in binary messages, both ways.

use super::connections::StreamPermit;
use super::hijack::{self, CHUNK, ClientOutput, StreamClient, WAITING};
use super::reply::{self, Reply};
use crate::engine::EngineError;
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Bytes of a client's message, and of a frame of it; more is an error, and the end.
const MOST_OF_MESSAGE: usize = 1 << 20;
/// How long a client may take to agree to the end.
const FAREWELL: Duration = Duration::from_secs(5);

/// The connection of a client that wants a WebSocket.
pub(super) struct WebSocketOffer {
    upgrade: hyper::upgrade::OnUpgrade,
    accept: String,
    protocol: Option<HeaderValue>,
}

impl WebSocketOffer {
    /// # Errors
    /// A request that is no handshake of a WebSocket of version 13.
    pub(super) fn of(request: &mut Request<Incoming>) -> Result<Self, EngineError> {
        let (accept, protocol) =
            handshake(request.headers()).map_err(|why| EngineError::Invalid(format!("no WebSocket: {why}")))?;
        Ok(WebSocketOffer { upgrade: hyper::upgrade::on(request), accept, protocol })
    }

    /// Answers, and then serves the stream. `place` is held as long as that takes.
    ///
    /// # Errors
    /// None.
    pub(super) fn serve<F: Future<Output = ()> + Send + 'static>(
        self,
        place: Option<StreamPermit>,
        work: impl FnOnce(StreamClient) -> F + Send + 'static,
    ) -> Reply {
        let mut response = Response::new(reply::whole(Vec::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = self.protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let upgrade = self.upgrade;
        tokio::spawn(async move {
            let Some((socket, read)) = hijack::taken_over(upgrade).await else { return };
            hijack::head_is_read(&socket).await;
            let config = WebSocketConfig::default()
                .read_buffer_size(CHUNK)
                .write_buffer_size(CHUNK)
                .max_write_buffer_size(2 * MOST_OF_MESSAGE)
                .max_message_size(Some(MOST_OF_MESSAGE))
                .max_frame_size(Some(MOST_OF_MESSAGE));
            let socket = WebSocketStream::from_partially_read(socket, read.to_vec(), Role::Server, Some(config)).await;
            let (ours, theirs) = tokio::io::duplex(WAITING);
            let (input, output) = tokio::io::split(theirs);
            let (here, client) = watch::channel(());
            let working =
                tokio::spawn(work(StreamClient { input: Box::new(input), output: ClientOutput::Body { to: output, client } }));
            carry(socket, ours).await;
            // The work ends by what it reads and writes now.
            drop(here);
            let _ = working.await;
            drop(place);
        });
        Ok(response)
    }
}

/// What a handshake is answered with: the accept key, and the one protocol that was offered.
fn handshake(headers: &HeaderMap) -> Result<(String, Option<HeaderValue>), &'static str> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let has = |list: &str, word: &str| list.split(',').any(|one| one.trim().eq_ignore_ascii_case(word));
    if !has(text(header::UPGRADE), "websocket") || !has(text(header::CONNECTION), "upgrade") {
        return Err("`Connection: Upgrade` and `Upgrade: websocket` are missing");
    }
    if text(header::SEC_WEBSOCKET_VERSION) != "13" {
        return Err("`Sec-WebSocket-Version` has to be 13");
    }
    let key = text(header::SEC_WEBSOCKET_KEY);
    if base64::engine::general_purpose::STANDARD.decode(key).ok().is_none_or(|key| key.len() != 16) {
        return Err("`Sec-WebSocket-Key` has to be 16 bytes in base64");
    }
    let protocol = headers.get(header::SEC_WEBSOCKET_PROTOCOL);
    let one = protocol.filter(|list| list.to_str().is_ok_and(|list| !list.contains(',')));
    Ok((derive_accept_key(key.as_bytes()), one.cloned()))
}

/// Moves bytes both ways until the client leaves, or the output has ended and the client knows.
async fn carry(socket: WebSocketStream<UnixStream>, stream: DuplexStream) {
    let (mut to_client, mut from_client) = socket.split();
    let (mut output, mut input) = tokio::io::split(stream);
    // Questions of the client (ping) are answered while this reads. It reads on though nobody takes the input any more.
    let typed = async {
        let mut takes = true;
        loop {
            let bytes = match from_client.next().await {
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(Message::Text(text))) => Bytes::from(text),
                Some(Ok(Message::Close(_))) | None => return None,
                Some(Ok(_)) => continue,
                Some(Err(Error::Capacity(_))) => return Some(CloseCode::Size),
                Some(Err(Error::Protocol(_) | Error::Utf8(_))) => return Some(CloseCode::Protocol),
                Some(Err(_)) => return None,
            };
            takes = takes && input.write_all(&bytes).await.is_ok();
        }
    };
    let said = async {
        loop {
            let mut buffer = BytesMut::with_capacity(CHUNK);
            match output.read_buf(&mut buffer).await {
                Ok(1..) => to_client.send(Message::Binary(buffer.freeze())).await?,
                _ => return Ok::<(), Error>(()),
            }
        }
    };
    let mut typed = std::pin::pin!(typed);
    let code = tokio::select! {
        // Its own end is answered while the connection is flushed.
        code = &mut typed => code,
        said = said => match said {
            Ok(()) => Some(CloseCode::Normal),
            Err(_) => return,
        },
    };
    let farewell = async {
        match code {
            Some(code) => {
                let _ = to_client.send(Message::Close(Some(CloseFrame { code, reason: "".into() }))).await;
                if code == CloseCode::Normal {
                    typed.await;
                }
            }
            None => drop(to_client.close().await),
        }
    };
    let _ = timeout(FAREWELL, farewell).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_is_answered_or_refused() {
        // The example of RFC 6455, section 1.3.
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "chat"),
        ];
        let of = |change: (&'static str, &'static str)| {
            let mut headers = HeaderMap::new();
            for (name, value) in good.into_iter().chain([change]).filter(|(_, value)| !value.is_empty()) {
                headers.insert(name, HeaderValue::from_static(value));
            }
            if change.1.is_empty() {
                headers.remove(change.0);
            }
            handshake(&headers)
        };
        let (accept, protocol) = of(("host", "x")).expect("a handshake");
        assert_eq!((accept.as_str(), protocol), ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", Some(HeaderValue::from_static("chat"))));
        assert_eq!(of(("sec-websocket-protocol", "a, b")).expect("a handshake").1, None);
        for wrong in [
            ("upgrade", "tcp"),
            ("connection", "close"),
            ("sec-websocket-version", "8"),
            ("sec-websocket-version", ""),
            ("sec-websocket-key", ""),
            ("sec-websocket-key", "dGhl"),
            ("sec-websocket-key", "%%%"),
        ] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
    }
}
