//! gRPC over HTTP/2, as much of it as BuildKit's API needs: calls with one message or a stream of them in each direction, a status
//! at the end. Messages are not compressed.

use base64::Engine as _;
use bollard_buildkit_proto::google::protobuf::Any;
use bollard_buildkit_proto::google::rpc;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use prost::Message;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

/// The body of an answer: messages, and the status in the trailers.
pub(super) type GrpcBody = UnsyncBoxBody<Bytes, Infallible>;

/// Bytes of a message: the default of gRPC for Go, and so of what clients send.
const MAX_MESSAGE: usize = 4 << 20;
/// A message of more bytes is large; so many large ones are read at once.
const LARGE: usize = 64 << 10;
static LARGE_MESSAGES: Semaphore = Semaphore::const_new(8);
/// How long the one message of a call may take to come.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a status's message and details that a header carries.
const MAX_STATUS: usize = 64 << 10;

/// The codes that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    NotFound = 5,
    AlreadyExists = 6,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// How a call has failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct GrpcStatus {
    pub code: i32,
    pub message: String,
    /// Typed details, as BuildKit's clients read them.
    pub details: Vec<Any>,
}

impl GrpcStatus {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        GrpcStatus { code: code as i32, message: message.into(), details: Vec::new() }
    }

    /// A failure that is not the client's.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        GrpcStatus::new(Code::Internal, error.to_string())
    }

    /// A build's failure: a client shows the name of its code before the message, where there is one.
    pub fn without_code(mut self) -> Self {
        if [Code::InvalidArgument, Code::NotFound, Code::Internal].iter().any(|code| self.is(*code)) {
            self.code = Code::Unknown as i32;
        }
        self
    }

    pub fn is(&self, code: Code) -> bool {
        self.code == code as i32
    }

    fn broken(error: hyper::Error) -> Self {
        let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        GrpcStatus::new(Code::Unavailable, format!("the connection to the client has ended: {why}"))
    }

    /// The status that ends an answer; `None` where there is none yet.
    fn of(headers: &HeaderMap) -> Option<Result<(), GrpcStatus>> {
        let code: i32 = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
        if code == 0 {
            return Some(Ok(()));
        }
        let message = headers
            .get("grpc-message")
            .map(|value| percent_decode_str(&String::from_utf8_lossy(value.as_bytes())).decode_utf8_lossy().into_owned());
        Some(Err(GrpcStatus { code, message: message.unwrap_or_default(), details: Vec::new() }))
    }

    fn to_headers(&self) -> HeaderMap {
        const RESERVED: &AsciiSet = &CONTROLS.add(b'%');
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", HeaderValue::from(self.code));
        let end = (0..=self.message.len().min(MAX_STATUS)).rev().find(|at| self.message.is_char_boundary(*at)).unwrap_or(0);
        let message = &self.message[..end];
        if let Ok(value) = HeaderValue::from_str(&utf8_percent_encode(message, RESERVED).to_string()) {
            headers.insert("grpc-message", value);
        }
        if !self.details.is_empty() {
            let status = rpc::Status { code: self.code, message: message.to_string(), details: self.details.clone() };
            let bytes = status.encode_to_vec();
            let text = base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes);
            if text.len() <= 2 * MAX_STATUS
                && let Ok(value) = HeaderValue::from_str(&text)
            {
                headers.insert("grpc-status-details-bin", value);
            }
        }
        headers
    }
}

impl From<rpc::Status> for GrpcStatus {
    fn from(status: rpc::Status) -> Self {
        GrpcStatus { code: status.code, message: status.message, details: status.details }
    }
}

/// A message with its frame around it.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes.freeze()
}

/// The messages of the other end, in their order.
pub(super) struct Messages {
    body: Incoming,
    buffer: BytesMut,
    /// Held while a large message is read.
    large: Option<SemaphorePermit<'static>>,
    trailers: Option<HeaderMap>,
}

impl Messages {
    pub fn new(body: Incoming) -> Self {
        Messages { body, buffer: BytesMut::new(), large: None, trailers: None }
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// What the other end has failed with, a connection that has ended, a message that is too large or that cannot be read.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, GrpcStatus> {
        loop {
            if let Some(message) = self.whole()? {
                self.large = None;
                let decoded = M::decode(message)
                    .map_err(|e| GrpcStatus::new(Code::InvalidArgument, format!("a message cannot be read: {e}")));
                return decoded.map(Some);
            }
            let frame = match self.body.frame().await {
                Some(frame) => frame.map_err(GrpcStatus::broken)?,
                None => return self.ended().map(|()| None),
            };
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
        }
    }

    fn ended(&mut self) -> Result<(), GrpcStatus> {
        if !self.buffer.is_empty() {
            return Err(GrpcStatus::new(Code::InvalidArgument, "a message has no end"));
        }
        self.trailers.take().and_then(|trailers| GrpcStatus::of(&trailers)).unwrap_or(Ok(()))
    }

    /// The first message of the buffer, if all of it is there.
    fn whole(&mut self) -> Result<Option<Bytes>, GrpcStatus> {
        if self.buffer.len() < 5 {
            return Ok(None);
        }
        let length = u32::from_be_bytes([self.buffer[1], self.buffer[2], self.buffer[3], self.buffer[4]]) as usize;
        if self.buffer[0] != 0 {
            return Err(GrpcStatus::new(Code::Unimplemented, "compressed messages are not understood"));
        }
        if length > MAX_MESSAGE {
            return Err(GrpcStatus::new(
                Code::ResourceExhausted,
                format!("a message has {length} bytes, and may have {MAX_MESSAGE}"),
            ));
        }
        if length > LARGE && self.large.is_none() {
            let busy = |_| GrpcStatus::new(Code::ResourceExhausted, "too many large messages at once: try it again");
            self.large = Some(LARGE_MESSAGES.try_acquire().map_err(busy)?);
        }
        if self.buffer.len() < 5 + length {
            return Ok(None);
        }
        self.buffer.advance(5);
        let message = self.buffer.split_to(length).freeze();
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }
}

fn answer(body: GrpcBody) -> Response<GrpcBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The answer that a call has failed, without a message.
pub(super) fn failed(status: &GrpcStatus) -> Response<GrpcBody> {
    let mut response = answer(Empty::new().boxed_unsync());
    response.headers_mut().extend(status.to_headers());
    response
}

fn succeeded() -> Frame<Bytes> {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", HeaderValue::from_static("0"));
    Frame::trailers(headers)
}

/// Serves a call of one message and one answer.
pub(super) async fn unary<M: Message + Default, R: Message>(
    request: Request<Incoming>,
    work: impl AsyncFnOnce(M) -> Result<R, GrpcStatus>,
) -> Response<GrpcBody> {
    let answered = async { work(only(request).await?).await };
    match answered.await {
        Ok(message) => {
            let frames = [Ok(Frame::data(framed(&message))), Ok(succeeded())];
            answer(StreamBody::new(futures::stream::iter(frames)).boxed_unsync())
        }
        Err(status) => failed(&status),
    }
}

/// The one message of a call.
pub(super) async fn only<M: Message + Default>(request: Request<Incoming>) -> Result<M, GrpcStatus> {
    let mut messages = Messages::new(request.into_body());
    let late = |_| GrpcStatus::new(Code::Cancelled, "the call's message did not come");
    let message = tokio::time::timeout(MESSAGE_TIMEOUT, messages.next()).await.map_err(late)??;
    message.ok_or_else(|| GrpcStatus::new(Code::InvalidArgument, "the call has no message"))
}

/// An answer of messages that are all there.
pub(super) fn all<R: Message + 'static>(messages: Vec<R>) -> Response<GrpcBody> {
    let frames = messages.into_iter().map(|message| Ok(Frame::data(framed(&message))));
    answer(
        StreamBody::new(futures::stream::iter(frames.chain(std::iter::once(Ok(succeeded()))).collect::<Vec<_>>())).boxed_unsync(),
    )
}

/// An answer of messages that come as long as `receiver` has some. It is the client that decides how fast they go.
pub(super) fn streamed<R: Message + 'static>(receiver: mpsc::Receiver<Result<R, GrpcStatus>>) -> Response<GrpcBody> {
    answer(StreamBody::new(frames_of(receiver)).boxed_unsync())
}

fn frames_of<R: Message + 'static>(
    receiver: mpsc::Receiver<Result<R, GrpcStatus>>,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    futures::stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Ok(message)) => Some((Ok(Frame::data(framed(&message))), Some(receiver))),
            Some(Err(status)) => Some((Ok(Frame::trailers(status.to_headers())), None)),
            None => Some((Ok(succeeded()), None)),
        }
    })
}

/// The services of a client, which are called over its connection.
#[derive(Clone)]
pub(super) struct Channel {
    sender: hyper::client::conn::http2::SendRequest<GrpcBody>,
}

/// Metadata of a call: names, and the values of each.
pub(super) type Metadata = Vec<(HeaderName, Vec<HeaderValue>)>;

impl Channel {
    pub fn new(sender: hyper::client::conn::http2::SendRequest<GrpcBody>) -> Self {
        Channel { sender }
    }

    async fn call(&self, method: &str, metadata: Metadata, body: GrpcBody) -> Result<Messages, GrpcStatus> {
        let mut request = Request::post(format!("http://localhost{method}"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(body)
            .map_err(GrpcStatus::internal)?;
        for (name, values) in metadata {
            for value in values {
                request.headers_mut().append(name.clone(), value);
            }
        }
        let mut sender = self.sender.clone();
        sender.ready().await.map_err(GrpcStatus::broken)?;
        let response = sender.send_request(request).await.map_err(GrpcStatus::broken)?;
        if !response.status().is_success() {
            return Err(GrpcStatus::new(
                Code::Unavailable,
                format!("the client has answered with the HTTP status {}", response.status()),
            ));
        }
        match GrpcStatus::of(response.headers()) {
            Some(Err(status)) => Err(status),
            _ => Ok(Messages::new(response.into_body())),
        }
    }

    /// A call of one message and one answer.
    ///
    /// # Errors
    /// The client's, or those of the connection.
    pub async fn unary<R: Message + Default>(&self, method: &str, message: &impl Message) -> Result<R, GrpcStatus> {
        let frame = Ok(Frame::data(framed(message)));
        let body = StreamBody::new(futures::stream::iter([frame])).boxed_unsync();
        let call = async {
            let mut answer = self.call(method, Vec::new(), body).await?;
            let message = answer
                .next()
                .await?
                .ok_or_else(|| GrpcStatus::new(Code::Internal, "the client has answered without a message"))?;
            // Its status follows.
            while answer.next::<()>().await?.is_some() {}
            Ok(message)
        };
        let late = |_| GrpcStatus::new(Code::Unavailable, format!("the client does not answer ({method})"));
        tokio::time::timeout(MESSAGE_TIMEOUT, call).await.map_err(late)?
    }

    /// A call with a stream of messages in each direction.
    ///
    /// # Errors
    /// As those of [`Channel::unary`].
    pub async fn stream<M: Message + 'static>(
        &self,
        method: &str,
        metadata: Metadata,
        messages: mpsc::Receiver<M>,
    ) -> Result<Messages, GrpcStatus> {
        let frames = futures::stream::unfold(messages, |mut messages| async move {
            let message = messages.recv().await?;
            Some((Ok(Frame::data(framed(&message))), messages))
        });
        self.call(method, metadata, StreamBody::new(frames).boxed_unsync()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_the_same_after_its_headers() {
        let status = GrpcStatus::new(Code::NotFound, "50 % of it: ä\nlost");
        let Some(Err(read)) = GrpcStatus::of(&status.to_headers()) else { panic!("no status") };
        assert_eq!((read.code, read.message), (5, status.message));
        assert!(GrpcStatus::of(&HeaderMap::new()).is_none());
        let long = GrpcStatus::new(Code::Unknown, "ä".repeat(MAX_STATUS));
        let Some(Err(read)) = GrpcStatus::of(&long.to_headers()) else { panic!("no status") };
        assert_eq!(read.message.len(), MAX_STATUS);
    }
}
