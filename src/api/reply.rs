//! Paths and queries of requests taken apart, and answers put together.

use super::types::ErrorAnswer;
use crate::engine::EngineError;
use crate::printable;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use indexmap::IndexMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::collections::HashMap;
use std::io;
use tokio::sync::{Semaphore, SemaphorePermit};

/// An error in it ends the connection, so that the client does not take the rest for the whole.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// An answer, or the error that becomes one.
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

/// The parameters behind the question mark, and the version of the API that the client speaks.
pub struct Query {
    values: HashMap<String, Vec<String>>,
    pub version: ApiVersion,
    /// The client reads trailers (`TE: trailers`).
    pub trailers: bool,
}

/// Major and minor number of a version of Docker's API.
pub type ApiVersion = (u16, u16);

impl Query {
    pub fn of(query: Option<&str>, version: ApiVersion) -> Self {
        let mut map: HashMap<String, Vec<String>> = HashMap::new();
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            map.entry(key.into_owned()).or_default().push(value.into_owned());
        }
        Query { values: map, version, trailers: false }
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key)?.first().map(String::as_str)
    }

    pub fn all(&self, key: &str) -> &[String] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }

    /// Docker's booleans: `1`, `true`, `True`; anything else, or nothing, is false.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some("1" | "true" | "True"))
    }

    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.parse().ok()
    }

    /// `filters`: JSON, either `{"label": ["a=b"]}` or the older `{"label": {"a=b": true}}`.
    ///
    /// # Errors
    /// When it is not JSON of that form, or has a filter that is not one of `known`.
    pub fn filters(&self, known: &[&str]) -> Result<Filters, EngineError> {
        let Some(text) = self.get("filters").filter(|text| !text.is_empty()) else { return Ok(Filters::new()) };
        let bad = || EngineError::Invalid("invalid filter: write JSON such as {\"label\": [\"a=b\"]}".into());
        let json: serde_json::Value = serde_json::from_str(text).map_err(|_| bad())?;
        let values = |value: &serde_json::Value| match value {
            serde_json::Value::Array(list) => list.iter().map(|v| v.as_str().map(str::to_string).ok_or_else(bad)).collect(),
            serde_json::Value::Object(map) => Ok(map.keys().cloned().collect()),
            serde_json::Value::Null => Ok(Vec::new()),
            _ => Err(bad()),
        };
        let mut filters = Filters::new();
        match json {
            serde_json::Value::Null => {}
            serde_json::Value::Object(map) => {
                for (key, value) in &map {
                    if !known.contains(&key.as_str()) {
                        return Err(EngineError::Invalid(format!("invalid filter '{key}'")));
                    }
                    filters.insert(key.clone(), values(value)?);
                }
            }
            _ => return Err(bad()),
        }
        Ok(filters)
    }
}

/// A filter that is true or false; `None` where it is absent.
///
/// # Errors
/// A value that is neither.
pub fn boolean(filters: &Filters, key: &str) -> Result<Option<bool>, EngineError> {
    let Some(values) = filters.get(key).filter(|values| !values.is_empty()) else { return Ok(None) };
    let wrong = |value: &String| EngineError::Invalid(format!("invalid filter '{key}={value}'"));
    let parse = |value: &String| crate::units::boolean(value).ok_or_else(|| wrong(value));
    let parsed: Vec<bool> = values.iter().map(parse).collect::<Result<_, _>>()?;
    match parsed.iter().all(|value| *value == parsed[0]) {
        true => Ok(Some(parsed[0])),
        false => Err(EngineError::Invalid(format!("invalid filter '{key}': it is true and false"))),
    }
}

/// Filters that are regular expressions, as Docker's `name` and `id`: any has to be found.
pub struct FilterPatterns(Vec<(String, Option<regex::Regex>)>);

impl FilterPatterns {
    pub fn of(filters: &Filters, key: &str) -> Self {
        // An expression that is none is compared as it is.
        let compiled = |text: &String| (text.clone(), regex::RegexBuilder::new(text).size_limit(1 << 20).build().ok());
        FilterPatterns(filters.get(key).into_iter().flatten().take(100).map(compiled).collect())
    }

    pub fn allow(&self, texts: &[&str]) -> bool {
        let found = |(plain, expression): &(String, Option<regex::Regex>)| {
            texts.iter().any(|text| text == plain || expression.as_ref().is_some_and(|expression| expression.is_match(text)))
        };
        self.0.is_empty() || self.0.iter().any(found)
    }
}

/// The filters of a query, each with its values.
pub type Filters = HashMap<String, Vec<String>>;

/// Whether labels fulfil the filters `label` and `label!`: `KEY`s or `KEY=VALUE`s, each of which must be there, or must not.
pub fn labelled(labels: &IndexMap<String, String>, filters: &Filters) -> bool {
    let has = |wanted: &String| match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|known| known == value),
        None => labels.contains_key(wanted),
    };
    let of = |key: &str| filters.get(key).into_iter().flatten();
    of("label").all(has) && !of("label!").any(has)
}

/// The filter `until` of what may be removed: only what is older.
///
/// # Errors
/// When it is no time.
pub fn older_than(filters: &Filters) -> Result<impl Fn(jiff::Timestamp) -> bool + use<>, EngineError> {
    let parse = |text: &String| match crate::units::duration(text) {
        Some(nanos) => jiff::Timestamp::now()
            .checked_sub(std::time::Duration::from_nanos(nanos))
            .map_err(|_| EngineError::Invalid(format!("invalid filter 'until={text}'"))),
        None => super::logs::moment(text),
    };
    let until = match filters.get("until").map(Vec::as_slice) {
        None => None,
        Some([one]) => Some(parse(one)?),
        Some([]) => return Err(EngineError::Invalid("invalid filter 'until': it has no value".into())),
        Some(_) => return Err(EngineError::Invalid("more than one until filter specified".into())),
    };
    Ok(move |time: jiff::Timestamp| until.is_none_or(|until| time < until))
}

/// A list in an answer about what was removed: Docker's is null where there is nothing.
pub fn or_null<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// A segment of a path, decoded. `+` is a plus there, and a space in a query alone.
pub fn segment(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Characters that stand for themselves in a path or a query (RFC 3986, section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Percent-encoding of everything that is not plain in a path or a query.
pub fn escape(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
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

/// Archives on their way to and from clients: each has a thread, for as long as its client takes. The others are for commands.
const MAX_ARCHIVES: usize = 64;
/// Bytes of an archive that are sent at once. Some of them wait for a client that does not read.
const PIECE: usize = 64 << 10;
static ARCHIVES: Semaphore = Semaphore::const_new(MAX_ARCHIVES);

/// A thread for an archive, until it is dropped.
///
/// # Errors
/// Where all are taken.
pub fn archive_thread() -> Result<SemaphorePermit<'static>, EngineError> {
    ARCHIVES.try_acquire().map_err(|_| {
        EngineError::Unavailable(format!(
            "{MAX_ARCHIVES} archives are being read or written (cp, export, save, load): try again when one of them has ended"
        ))
    })
}

/// Work on a container's files, which may be on a disk that does not answer.
///
/// # Errors
/// The work's; when it has panicked, or all threads for archives are taken.
pub async fn archive_work<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let thread = archive_thread()?;
    let working = tokio::task::spawn_blocking(move || {
        let _thread = thread;
        work()
    });
    working.await.map_err(EngineError::from)?
}

/// Why a request has failed whose answer has no body for that, with %-escapes: a header of the answer to HEAD, and the trailer of an
/// archive that could not be written to its end, whose status was sent long before.
pub const FAILURE: &str = "x-wharf-failure";
/// Bytes of that.
const LONGEST_FAILURE: usize = 8 * 1024;

/// The output of blocking work, as an answer that is sent while it is written. Work that fails before it has written much is answered
/// as any other error. Later, a client that reads no trailers sees that the answer is cut off.
pub async fn written<E: Into<EngineError>>(
    query: &Query,
    content_type: &'static str,
    work: impl FnOnce(io::BufWriter<ChannelWriter>) -> Result<(), E> + Send + 'static,
) -> Reply {
    let thread = archive_thread()?;
    let trailers = query.trailers;
    let (sender, mut receiver) = tokio::sync::mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let _thread = thread;
        if let Err(error) = work(io::BufWriter::with_capacity(PIECE, ChannelWriter(sender.clone()))) {
            let error = error.into();
            tracing::warn!("{error}");
            let _ = sender.blocking_send(Err(error));
        }
    });
    // What is left of the first piece is written when the work has failed.
    let mut first = Vec::new();
    while first.len() < 2 {
        match receiver.recv().await {
            Some(piece) => first.push(Ok(Frame::data(piece?))),
            None => break,
        }
    }
    let rest = receiver_stream(receiver).map(move |piece| match piece {
        Ok(piece) => Ok(Frame::data(piece)),
        Err(error) if trailers => {
            let failure = escaped(&error.to_string());
            Ok(Frame::trailers(HeaderMap::from_iter([(HeaderName::from_static(FAILURE), failure)])))
        }
        Err(error) => Err(io::Error::other(error)),
    });
    let frames = futures::stream::iter(first).chain(rest);
    let mut response = with_body(200, content_type, BodyExt::boxed_unsync(StreamBody::new(frames)));
    response.headers_mut().insert(header::TRAILER, HeaderValue::from_static(FAILURE));
    Ok(response)
}

fn escaped(text: &str) -> HeaderValue {
    let mut escaped = escape(text);
    escaped.truncate(LONGEST_FAILURE);
    HeaderValue::from_str(&escaped).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Sends what is written as chunks of an answer.
pub struct ChannelWriter(tokio::sync::mpsc::Sender<Result<Bytes, EngineError>>);

impl io::Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(PIECE)];
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A receiver as a stream.
pub fn receiver_stream<T: Send + 'static>(receiver: tokio::sync::mpsc::Receiver<T>) -> impl Stream<Item = T> + Send {
    futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) })
}

/// A line of a stream of JSON.
pub fn json_line(value: &impl serde::Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// JSON that is a text already.
pub fn json_text(text: Vec<u8>) -> Response<Body> {
    with_body(200, "application/json", whole(text))
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
    let step = error.failed_step();
    let answer = ErrorAnswer {
        message: printable::lines(&error.to_string()).to_string(),
        exit_code: step.map(|step| step.exit_code()),
        step: step.map(|step| step.as_str().to_string()),
    };
    let bytes = serde_json::to_vec(&answer).unwrap_or_default();
    with_body(error.status(), "application/json", whole(bytes))
}

/// The same as the answer to HEAD, whose body no client gets: a header says why.
pub fn headers_of(error: &EngineError) -> Response<Body> {
    let mut response = self::error(error);
    response.headers_mut().insert(FAILURE, escaped(&printable::lines(&error.to_string())));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::of(Some("a=1&b=x%2Fy+z&a=2&flag=true&bad=%zz"), (1, 52));
        assert_eq!(query.all("a"), ["1", "2"]);
        assert_eq!(query.get("b"), Some("x/y z"));
        assert!(query.flag("flag") && !query.flag("a2"));
        assert_eq!(query.get("bad"), Some("%zz"));
        assert_eq!(segment(&escape("a b/ü&=")), "a b/ü&=");
        assert_eq!(escape("a b/ü+c-d_e.f~"), "a%20b%2F%C3%BC%2Bc-d_e.f~");
    }

    #[test]
    fn a_plus_is_a_space_in_a_query_alone() {
        assert_eq!(segment("libstdc++"), "libstdc++");
        assert_eq!(Query::of(Some("name=libstdc%2B%2B&t=a+b"), (1, 52)).get("t"), Some("a b"));
    }

    #[test]
    fn filters_are_read_or_refused() {
        let read = |text: &str| Query::of(Some(&format!("filters={}", escape(text))), (1, 52)).filters(&["label", "name"]);
        for good in [r#"{"label": ["a=b"]}"#, r#"{"label": {"a=b": true}}"#] {
            assert_eq!(read(good).expect(good)["label"], ["a=b"]);
        }
        assert!(read("").expect("none").is_empty() && read("null").expect("none").is_empty());
        for bad in ["x", "[]", r#"{"colour": ["red"]}"#, r#"{"label": "a"}"#, r#"{"label": [1]}"#] {
            assert_eq!(read(bad).expect_err(bad).status(), 400);
        }
        let names = FilterPatterns::of(&read(r#"{"name": ["^/?we", "(x"]}"#).expect("names"), "name");
        assert!(names.allow(&["web"]) && names.allow(&["/web"]) && names.allow(&["(x"]) && !names.allow(&["two"]));
        let flags = |value: &str| boolean(&Filters::from([("f".to_string(), vec![value.to_string()])]), "f");
        assert_eq!((flags("1").expect("true"), flags("false").expect("false")), (Some(true), Some(false)));
        assert!(flags("maybe").is_err());
    }
}
