//! Requests taken apart, and answers put together.

use super::types;
use crate::engine::EngineError;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode, header};
use indexmap::IndexMap;
use std::collections::HashMap;
use std::io;
use std::time::Duration;

/// An error in it ends the connection, so that the client does not take the rest for the whole.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
pub type Reply = Result<Response<Body>, EngineError>;

/// Does something to its end, whether or not the client waits for it: nothing stays half done because somebody left.
///
/// # Errors
/// The operation's own.
pub async fn to_its_end<T: Send + 'static>(
    operation: impl Future<Output = Result<T, EngineError>> + Send + 'static,
) -> Result<T, EngineError> {
    tokio::spawn(operation)
        .await
        .unwrap_or_else(|e| Err(EngineError::Invalid(format!("the request could not be completed: {e}"))))
}

/// The parameters behind the question mark.
pub struct Query(HashMap<String, Vec<String>>);

impl Query {
    pub fn of(query: Option<&str>) -> Self {
        let mut map: HashMap<String, Vec<String>> = HashMap::new();
        for (key, value) in url_pairs(query.unwrap_or_default()) {
            map.entry(key).or_default().push(value);
        }
        Query(map)
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.first().map(String::as_str)
    }

    pub fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Docker's booleans: `1`, `true`, `True`; anything else, or nothing, is false.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some("1" | "true" | "True"))
    }

    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.parse().ok()
    }

    /// `filters`: JSON, either `{"label": ["a=b"]}` or the older `{"label": {"a=b": true}}`.
    pub fn filters(&self) -> Filters {
        let json: serde_json::Value = self.get("filters").and_then(|f| serde_json::from_str(f).ok()).unwrap_or_default();
        let values = |value: &serde_json::Value| match value {
            serde_json::Value::Array(list) => list.iter().filter_map(|v| v.as_str().map(str::to_string)).collect(),
            serde_json::Value::Object(map) => map.keys().cloned().collect(),
            _ => Vec::new(),
        };
        json.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), values(value))).collect()
    }
}

/// What `filters` names, each with its values.
pub type Filters = HashMap<String, Vec<String>>;

/// Whether labels fulfil the filter `label`: `KEY`s or `KEY=VALUE`s, each of which must be there.
pub fn labelled(labels: &IndexMap<String, String>, filters: &Filters) -> bool {
    filters.get("label").into_iter().flatten().all(|wanted| match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|known| known == value),
        None => labels.contains_key(wanted),
    })
}

fn url_pairs(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (unescape(k), unescape(v))).collect()
}

/// Percent-decoding; `+` is a space.
pub fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let hex = after.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Percent-encoding of everything that is not plain in a path or a query.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The largest body that is read as a whole: a project with its configs. Others than projects are a few KiB.
const MOST_OF_PROJECT: usize = 16 << 20;
const MOST_OF_BODY: usize = 1 << 20;
/// How long such a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The whole body as JSON.
///
/// # Errors
/// When it is empty, not JSON, has a value of the wrong type, is too large, or takes too long.
pub async fn json_body<T: serde::de::DeserializeOwned>(request: Request<Incoming>) -> Result<T, EngineError> {
    types::parse(&read_body(request, MOST_OF_BODY).await?)
}

/// The same of a body that may be empty: the default then.
///
/// # Errors
/// As [`json_body`].
pub async fn optional_body<T: serde::de::DeserializeOwned + Default>(request: Request<Incoming>) -> Result<T, EngineError> {
    types::parse_optional(&read_body(request, MOST_OF_BODY).await?)
}

/// The same of a project.
///
/// # Errors
/// As [`json_body`].
pub async fn project_body<T: serde::de::DeserializeOwned>(request: Request<Incoming>) -> Result<T, EngineError> {
    types::parse(&read_body(request, MOST_OF_PROJECT).await?)
}

async fn read_body(request: Request<Incoming>, most: usize) -> Result<Bytes, EngineError> {
    let limited = http_body_util::Limited::new(request.into_body(), most);
    let read = tokio::time::timeout(BODY_TIMEOUT, limited.collect()).await;
    match read.map_err(|_| EngineError::Invalid("the request's body does not come".into()))? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(EngineError::TooLarge(most)),
        Err(error) => Err(EngineError::Invalid(format!("the request's body cannot be read: {error}"))),
    }
}

pub fn json(status: u16, value: &impl serde::Serialize) -> Reply {
    let bytes = serde_json::to_vec(value).map_err(|e| EngineError::Internal(format!("writing an answer: {e}")))?;
    Ok(with_body(status, "application/json", whole(bytes)))
}

pub fn text(status: u16, text: impl Into<Bytes>) -> Reply {
    Ok(with_body(status, "text/plain; charset=utf-8", whole(text)))
}

pub fn empty(status: u16) -> Reply {
    Ok(with_body(status, "application/json", whole(Bytes::new())))
}

/// An answer that comes piece by piece.
pub fn stream(content_type: &'static str, chunks: impl Stream<Item = Bytes> + Send + 'static) -> Reply {
    let frames = chunks.map(|chunk| Ok(Frame::data(chunk)));
    Ok(with_body(200, content_type, BodyExt::boxed_unsync(StreamBody::new(frames))))
}

/// What is written by blocking work, as an answer that is sent while it is made.
pub fn written<E: std::fmt::Display>(
    content_type: &'static str,
    work: impl FnOnce(io::BufWriter<ChannelWriter>) -> Result<(), E> + Send + 'static,
) -> Reply {
    let (sender, receiver) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(16);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = work(io::BufWriter::with_capacity(1 << 18, ChannelWriter(sender.clone()))) {
            tracing::warn!("{error}");
            let _ = sender.blocking_send(Err(io::Error::other(error.to_string())));
        }
    });
    let frames = receiver_stream(receiver).map(|chunk| chunk.map(Frame::data));
    Ok(with_body(200, content_type, BodyExt::boxed_unsync(StreamBody::new(frames))))
}

/// Sends what is written as chunks of an answer.
pub struct ChannelWriter(tokio::sync::mpsc::Sender<io::Result<Bytes>>);

impl io::Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a receiver gets, as a stream.
pub fn receiver_stream<T: Send + 'static>(receiver: tokio::sync::mpsc::Receiver<T>) -> impl Stream<Item = T> + Send {
    futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) })
}

/// A body that is there in one piece.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn with_body(status: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

/// An error in Docker's form: `{"message": ...}`, with the exit code of a start that failed.
pub fn error(error: &EngineError) -> Response<Body> {
    let mut value = serde_json::json!({"message": error.to_string()});
    if let EngineError::Start { code, .. } = error {
        value["exitCode"] = (*code).into();
    }
    let bytes = serde_json::to_vec(&value).unwrap_or_default();
    with_body(error.status(), "application/json", whole(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::of(Some("a=1&b=x%2Fy+z&a=2&flag=true&bad=%zz"));
        assert_eq!(query.all("a"), ["1", "2"]);
        assert_eq!(query.get("b"), Some("x/y z"));
        assert!(query.flag("flag") && !query.flag("a2"));
        assert_eq!(query.get("bad"), Some("%zz"));
        assert_eq!(unescape(&escape("a b/ü&=")), "a b/ü&=");
    }
}
