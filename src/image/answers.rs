//! Answers of registries, within bounds: every answer has a size and a time that it may take, whoever sends it.

use super::manifest::MAX_DOCUMENT;
use futures::stream::StreamExt;
use reqwest::{RequestBuilder, Response, redirect};
use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes of a token server's answer. A token travels in a header, and servers take some ten kilobytes there.
pub const MAX_TOKEN: u64 = 64 << 10;
/// Bytes that are read of an error; containerd reads as many.
pub const MAX_ERROR: u64 = 64 << 10;
/// Redirects that are followed for one request.
const MAX_REDIRECTS: usize = 10;
/// Bytes that a blob must bring within [`Patience::stall`]: less is no slow network but none.
const STALL_BYTES: u64 = 4 << 10;

/// How long a registry may take. A blob has no limit for the whole: a slow good download ends when it ends.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub connect: Duration,
    /// Until an answer begins.
    pub answer: Duration,
    /// A manifest, a configuration, a token or an error, from the request to its last byte.
    pub document: Duration,
    /// Without progress of a blob that is fetched or uploaded.
    pub stall: Duration,
    /// After the last byte of an upload: some registries copy it elsewhere before they answer.
    pub stored: Duration,
    /// Before a broken download is taken up again; each time twice as long.
    pub again: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            connect: Duration::from_secs(15),
            answer: Duration::from_secs(60),
            document: Duration::from_secs(120),
            stall: Duration::from_secs(60),
            stored: Duration::from_secs(600),
            again: Duration::from_millis(500),
        }
    }
}

/// A client for registries. It reads no compressed answers and keeps no cookies; its headers are bounded by hyper (some 400 KiB).
///
/// # Errors
/// When the TLS library cannot be set up.
pub fn client(patience: Patience, takes_any_certificate: bool) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(patience.connect)
        .redirect(redirect::Policy::limited(MAX_REDIRECTS))
        .danger_accept_invalid_certs(takes_any_certificate)
        .build()
}

/// Sends a request and waits for the beginning of its answer.
///
/// # Errors
/// A sentence about what went wrong.
pub async fn send(request: RequestBuilder, limit: Duration) -> Result<Response, String> {
    match timeout(limit, request.send()).await {
        Ok(answer) => answer.map_err(|e| unreachable(&e)),
        Err(_) => Err(format!("it has not answered within {} s", limit.as_secs_f32())),
    }
}

/// A whole answer, in memory.
///
/// # Errors
/// A sentence about what went wrong: the connection, the size, the time.
pub async fn read(response: Response, most: u64, limit: Duration) -> Result<Vec<u8>, String> {
    let too_large = || format!("its answer is larger than {most} bytes");
    if response.content_length().is_some_and(|length| length > most) {
        return Err(too_large());
    }
    let reading = async {
        let mut bytes = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|e| root_cause(&e))?;
            if (bytes.len() + chunk.len()) as u64 > most {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    };
    timeout(limit, reading).await.unwrap_or_else(|_| Err(format!("its answer has not ended within {} s", limit.as_secs_f32())))
}

/// A manifest, an index or a configuration.
///
/// # Errors
/// As [`read`].
pub async fn document(response: Response, patience: Patience) -> Result<Vec<u8>, String> {
    read(response, MAX_DOCUMENT, patience.document).await
}

/// Sees whether a blob comes on.
#[derive(Debug)]
pub struct Pace {
    stall: Duration,
    /// When the next [`STALL_BYTES`] must be here.
    until: Instant,
    bytes: u64,
}

impl Pace {
    pub fn new(patience: Patience) -> Self {
        Pace { stall: patience.stall, until: Instant::now() + patience.stall, bytes: 0 }
    }

    /// The next piece, unless the blob has stalled.
    ///
    /// # Errors
    /// A sentence.
    pub async fn next<T>(&mut self, piece: impl Future<Output = T>) -> Result<T, String> {
        let stalled = |_| format!("it stalls: fewer than {STALL_BYTES} bytes have come within {} s", self.stall.as_secs_f32());
        timeout_at(self.until, piece).await.map_err(stalled)
    }

    /// Counts what has come.
    pub fn came(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.bytes >= STALL_BYTES {
            (self.bytes, self.until) = (0, Instant::now() + self.stall);
        }
    }

    /// Does what is done with a piece: that is not the registry's time.
    pub async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let done = work.await;
        self.until += begun.elapsed();
        done
    }
}

/// Comes back when an upload of so many bytes does not go on.
pub async fn stalled(mut sent: tokio::sync::watch::Receiver<u64>, size: u64, patience: Patience) -> String {
    loop {
        let whole = *sent.borrow_and_update() >= size;
        let limit = if whole { patience.stored } else { patience.stall };
        if timeout(limit, sent.changed()).await.is_err() {
            let what = if whole { "the upload was sent, and nothing was answered" } else { "it takes no more of the upload" };
            return format!("{what} for {} s", limit.as_secs_f32());
        }
    }
}

/// The parameters of a `WWW-Authenticate` challenge.
pub fn challenge_parameters(text: &str) -> std::collections::HashMap<String, String> {
    let mut parameters = std::collections::HashMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        parameters.insert(name.trim_matches([' ', ',']).to_ascii_lowercase(), value.to_string());
        rest = next.trim_start_matches([',', ' ']);
    }
    parameters
}

/// The token in a token server's answer.
///
/// # Errors
/// A sentence, without the answer.
pub fn token(answer: &[u8]) -> Result<String, String> {
    #[derive(serde::Deserialize)]
    struct TokenAnswer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: TokenAnswer =
        serde_json::from_slice(answer).map_err(|e| format!("the token server's answer is not understood: {e}"))?;
    answer.token.filter(|token| !token.is_empty()).or(answer.access_token).ok_or_else(|| "the token server sent no token".into())
}

/// A registry's own words in an error (distribution specification, "Error Codes"), where it has any.
pub fn error_message(answer: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct ErrorsAnswer {
        errors: Vec<Fault>,
    }
    #[derive(serde::Deserialize)]
    struct Fault {
        message: Option<String>,
    }
    let answer: ErrorsAnswer = serde_json::from_slice(answer).ok()?;
    let message = answer.errors.into_iter().next()?.message?;
    let shown = super::digest::shown(&message);
    (!shown.is_empty()).then_some(shown)
}

pub fn unreachable(error: &reqwest::Error) -> String {
    let cause = root_cause(error);
    // Hickory's words for a name without an address.
    if cause.contains("no records found") {
        return "its name is not known here: check the image's name, the network and /etc/resolv.conf".into();
    }
    if error.is_connect() || error.is_timeout() { format!("it cannot be reached: {cause}") } else { cause }
}

pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let p = challenge_parameters(r#"realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push""#);
        assert_eq!(p["realm"], "https://auth.example/token");
        assert_eq!(p["scope"], "repository:a/b:pull,push");
    }

    #[test]
    fn answers_of_token_servers_and_errors() {
        assert_eq!(token(br#"{"token": "a", "access_token": "b"}"#), Ok("a".into()));
        assert_eq!(token(br#"{"access_token": "b", "expires_in": 60}"#), Ok("b".into()));
        assert!(token(b"{}").is_err() && token(b"<html>").is_err());
        assert_eq!(
            error_message(br#"{"errors": [{"code": "DENIED", "message": "no\u001b[2J\nmore"}]}"#),
            Some("no[2Jmore".into())
        );
        assert_eq!(error_message(b"gateway timeout"), None);
        let long = format!(r#"{{"errors": [{{"message": "{}"}}]}}"#, "x".repeat(9000));
        assert_eq!(error_message(long.as_bytes()).unwrap().len(), super::super::digest::SHOWN);
    }
}
