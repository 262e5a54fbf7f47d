//! The CLI's end: requests to the engine, and its streams.

mod again;
mod streams;

pub use again::MOST_ENGINES;
pub use streams::{Frames, Lines, take_frame};

use super::WARNING_HEADER;
use super::request_body::MOST_OF_PROJECT;
use super::types::ErrorAnswer;
use crate::printable;
use crate::sys::socket::short_name;
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// Bytes of an answer that is one JSON value, of an error's text, and of a line or frame of a stream: an engine of another machine
/// must not take this one's memory.
const MAX_ANSWER: usize = 256 << 20;
const MAX_ERROR: usize = 1 << 20;

/// Why a request of the CLI has no answer that it can use.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the engine at {path} cannot be reached: {source}")]
    Connect { path: String, source: io::Error },
    /// The engine's own answer, in its words.
    #[error("{message}")]
    Refused { status: u16, message: String, exit_code: Option<i32> },
    #[error("talking to the engine: {0}")]
    Protocol(String),
    /// It has died, or was stopped.
    #[error("the engine ended before its answer did: run the command again, which goes on where this one was broken off")]
    Cut,
    /// The machine of the engine cannot be reached, or not any more.
    #[error("{0}")]
    Host(String),
    /// The answer cannot be written where it is to be; the writer says where and why.
    #[error("{0}")]
    Output(io::Error),
}

impl ClientError {
    fn protocol(error: impl std::fmt::Display) -> Self {
        ClientError::Protocol(error.to_string())
    }

    /// Whether no whole answer has come: the engine may have died meanwhile, and the next one may give it.
    pub fn is_of_connection(&self) -> bool {
        !matches!(self, ClientError::Refused { .. } | ClientError::Host(_) | ClientError::Output(_))
    }
}

/// A stream of bytes both ways, each of which ends by itself.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// The effect of a broken way to the engine's machine on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenBroken {
    /// It ends.
    Ends,
    /// The engine goes on with it.
    GoesOn,
}

/// A way to an engine of another machine.
pub trait Connector: Send + Sync + std::fmt::Debug {
    /// A connection to the engine's socket there.
    fn connect(&self, when_broken: WhenBroken) -> BoxFuture<'_, Result<Box<dyn Connection>, ClientError>>;

    /// Why no connection leads there any more; `None` as long as it does.
    fn broken(&self) -> BoxFuture<'_, Option<ClientError>>;

    /// The version of Docker's API that both ends know, where the engine there would answer in another.
    fn api_version(&self) -> Option<&str>;
}

type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// An engine, by its socket. Each request has a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// Starts an engine with a data root and a run root.
    starter: Option<(Starter, PathBuf, PathBuf)>,
    /// The engine is another machine's.
    connector: Option<Arc<dyn Connector>>,
}

type Starter = fn(&Path, &Path);

impl Client {
    pub fn new(socket: &Path) -> Self {
        Client { socket: socket.to_path_buf(), starter: None, connector: None }
    }

    /// A client of another machine's engine.
    pub fn over(connector: Arc<dyn Connector>) -> Self {
        Client { socket: PathBuf::new(), starter: None, connector: Some(connector) }
    }

    /// Whether paths of this machine mean nothing to the engine.
    pub fn is_elsewhere(&self) -> bool {
        self.connector.is_some()
    }

    /// How [`Client::start_engine`] does it.
    #[must_use]
    pub fn with_starter(self, start: fn(&Path, &Path), data_root: &Path, run_root: &Path) -> Self {
        Client { starter: Some((start, data_root.into(), run_root.into())), ..self }
    }

    /// Starts an engine to replace one that has died, unless somebody else does.
    pub async fn start_engine(&self) {
        if let Some((start, data_root, run_root)) = self.starter.clone() {
            let _ = tokio::task::spawn_blocking(move || start(&data_root, &run_root)).await;
        }
    }

    /// Whether an engine answers. It is asked, since the socket of one that was killed takes connections until its last thread
    /// has ended.
    pub async fn is_alive(&self) -> bool {
        let Ok(ping) = Self::request(Method::GET, "/_ping", Self::empty_body()) else { return false };
        matches!(self.send(ping).await, Ok(_) | Err(ClientError::Refused { .. }))
    }

    async fn connect(&self, when_broken: WhenBroken) -> Result<Box<dyn Connection>, ClientError> {
        if let Some(connector) = &self.connector {
            return connector.connect(when_broken).await;
        }
        let failed = |source| ClientError::Connect { path: self.socket.display().to_string(), source };
        let directory = std::fs::File::open(self.socket.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
        let name = self.socket.file_name().unwrap_or_default().to_string_lossy();
        Ok(Box::new(UnixStream::connect(short_name(&directory, name)).await.map_err(failed)?))
    }

    async fn send(&self, request: Request<RequestBody>) -> Result<Response<Incoming>, ClientError> {
        self.send_with(request, WhenBroken::Ends).await
    }

    async fn send_with(&self, request: Request<RequestBody>, when_broken: WhenBroken) -> Result<Response<Incoming>, ClientError> {
        match self.exchange(request, when_broken).await {
            Err(error @ (ClientError::Protocol(_) | ClientError::Cut)) => Err(self.or_broken(error).await),
            other => other,
        }
    }

    /// The error of a broken way to the engine's machine in place of one that follows from it.
    async fn or_broken(&self, error: ClientError) -> ClientError {
        or_broken(self.connector.as_ref(), error).await
    }

    async fn exchange(
        &self,
        mut request: Request<RequestBody>,
        when_broken: WhenBroken,
    ) -> Result<Response<Incoming>, ClientError> {
        if let Some(version) = self.connector.as_ref().and_then(|connector| connector.api_version()) {
            *request.uri_mut() = format!("/v{version}{}", request.uri()).parse().map_err(ClientError::protocol)?;
        }
        let stream = self.connect(when_broken).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::protocol)?;
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
        let response = sender.send_request(request).await.map_err(|error| match error.is_incomplete_message() {
            true => ClientError::Cut,
            false => ClientError::protocol(error),
        })?;
        for warning in response.headers().get_all(WARNING_HEADER) {
            eprintln!("warning: {}", printable::line(&String::from_utf8_lossy(warning.as_bytes())));
        }
        if response.status().is_success()
            || matches!(response.status(), StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS)
        {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let reason = response.headers().get(super::reply::FAILURE).and_then(|why| why.to_str().ok()).map(super::reply::segment);
        let bytes = whole(response.into_body(), MAX_ERROR).await?;
        let answer: ErrorAnswer = serde_json::from_slice(&bytes).unwrap_or_default();
        let message = Some(answer.message).filter(|message| !message.is_empty());
        let message = message.or_else(|| Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty()));
        // An engine of an earlier version says nothing in its answer to HEAD.
        let message =
            message.or(reason).unwrap_or_else(|| format!("the engine refuses it with status {status} and does not say why"));
        Err(ClientError::Refused { status, message, exit_code: answer.exit_code })
    }

    /// A request's answer as a whole.
    async fn answer(&self, request: Request<RequestBody>) -> Result<Bytes, ClientError> {
        let response = self.send(request).await?;
        match whole(response.into_body(), MAX_ANSWER).await {
            Err(error) => Err(self.or_broken(error).await),
            read => read,
        }
    }

    fn lines(&self, response: Response<Incoming>) -> Lines {
        Lines { body: response.into_body(), buffer: BytesMut::new(), connector: self.connector.clone() }
    }

    fn request(method: Method, path: &str, body: RequestBody) -> Result<Request<RequestBody>, ClientError> {
        let builder = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "wharf")
            .header(WARNING_HEADER, "")
            .header(header::CONTENT_TYPE, "application/json");
        builder.body(body).map_err(ClientError::protocol)
    }

    fn json_body(body: &impl serde::Serialize) -> Result<RequestBody, ClientError> {
        let bytes = serde_json::to_vec(body).map_err(ClientError::protocol)?;
        // The engine would close the connection while this end still writes, and its answer would not be read.
        if bytes.len() > MOST_OF_PROJECT {
            let message = format!(
                "the project has {} bytes for the engine, which reads {MOST_OF_PROJECT} at most: mount large files by `volumes` instead \
                 of `configs` and `secrets` that hold their content",
                bytes.len()
            );
            return Err(ClientError::Refused { status: 413, message, exit_code: None });
        }
        Ok(Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync())
    }

    fn empty_body() -> RequestBody {
        Empty::new().map_err(|never| match never {}).boxed_unsync()
    }

    /// A GET whose answer is JSON.
    ///
    /// # Errors
    /// The engine's refusal, or a broken connection.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let ask = async || self.answer(Self::request(Method::GET, path, Self::empty_body())?).await;
        let bytes = self.ask_again(ask).await?;
        serde_json::from_slice(&bytes).map_err(ClientError::protocol)
    }

    /// A POST with a JSON body; the answer is JSON, or `null` where it is empty.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl serde::Serialize) -> Result<T, ClientError> {
        let bytes = self.answer(Self::request(Method::POST, path, Self::json_body(body)?)?).await?;
        let bytes: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(bytes).map_err(ClientError::protocol)
    }

    /// # Errors
    /// As [`Client::get`].
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.send(Self::request(Method::DELETE, path, Self::empty_body())?).await.map(drop)
    }

    /// A DELETE whose answer is JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete_for<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let bytes = self.answer(Self::request(Method::DELETE, path, Self::empty_body())?).await?;
        serde_json::from_slice(&bytes).map_err(ClientError::protocol)
    }

    /// A GET whose answer is written somewhere as it comes.
    ///
    /// # Errors
    /// As [`Client::get`], and the writer's.
    pub async fn download(&self, path: &str, mut to: impl io::Write) -> Result<(), ClientError> {
        let mut request = Self::request(Method::GET, path, Self::empty_body())?;
        request.headers_mut().insert(header::TE, header::HeaderValue::from_static("trailers"));
        let mut body = self.send(request).await?.into_body();
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return Err(self.or_broken(ClientError::protocol(error)).await),
            };
            if let Some(why) = frame.trailers_ref().and_then(|trailers| trailers.get(super::reply::FAILURE)) {
                let message = super::reply::segment(why.to_str().unwrap_or_default());
                return Err(ClientError::Refused { status: 500, message, exit_code: None });
            }
            to.write_all(&frame.into_data().unwrap_or_default()).map_err(ClientError::Output)?;
        }
        to.flush().map_err(ClientError::Output)
    }

    /// A HEAD; gives one of the answer's headers.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn head(&self, path: &str, header: &str) -> Result<Option<String>, ClientError> {
        let response = self.send(Self::request(Method::HEAD, path, Self::empty_body())?).await?;
        Ok(response.headers().get(header).and_then(|value| value.to_str().ok()).map(str::to_string))
    }

    /// A PUT with a stream of bytes as its body, whose answer says nothing.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put_stream(
        &self,
        path: &str,
        reader: impl tokio::io::AsyncRead + Unpin + Send + 'static,
    ) -> Result<(), ClientError> {
        self.send(Self::request(Method::PUT, path, stream_body(reader))?).await.map(drop)
    }

    /// A PUT whose body is what `write` writes on a thread of its own. What `write` fails with is the inner result.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put_written(
        &self,
        path: &str,
        write: impl FnOnce(io::PipeWriter) -> io::Result<()> + Send + 'static,
    ) -> Result<io::Result<()>, ClientError> {
        let (reader, writer) = io::pipe().map_err(ClientError::protocol)?;
        let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into()).map_err(ClientError::protocol)?;
        let writing = tokio::task::spawn_blocking(move || write(writer));
        let sent = self.put_stream(path, reader).await;
        // What the engine refuses need not be written to its end.
        let sent = match sent {
            Err(error) if !writing.is_finished() => return Err(error),
            other => other,
        };
        match writing.await.map_err(ClientError::protocol)? {
            // A pipe that nobody reads any more is not the cause.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Ok(Err(error)),
            _ => sent.map(Ok),
        }
    }

    /// A POST without a body, whose answer says nothing.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post_nothing(&self, path: &str) -> Result<(), ClientError> {
        self.send(Self::request(Method::POST, path, Self::empty_body())?).await.map(drop)
    }

    /// A POST whose answer comes in lines of JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post_lines(&self, path: &str, body: &impl serde::Serialize) -> Result<Lines, ClientError> {
        Ok(self.lines(self.send(Self::request(Method::POST, path, Self::json_body(body)?)?).await?))
    }

    /// As [`Client::post_lines`], for an operation that the engine goes on with when the way to its machine breaks.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post_operation(&self, path: &str, body: &impl serde::Serialize) -> Result<Lines, ClientError> {
        let mut request = Self::request(Method::POST, path, Self::json_body(body)?)?;
        // Who reads the answer to its end for this client knows the end by that.
        request.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        Ok(self.lines(self.send_with(request, WhenBroken::GoesOn).await?))
    }

    /// A GET whose answer comes in lines of JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_lines(&self, path: &str) -> Result<Lines, ClientError> {
        let ask = async || self.send(Self::request(Method::GET, path, Self::empty_body())?).await;
        Ok(self.lines(self.ask_again(ask).await?))
    }

    /// A POST with a stream of bytes as its body; the answer is text.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post_stream(
        &self,
        path: &str,
        reader: impl tokio::io::AsyncRead + Unpin + Send + 'static,
    ) -> Result<String, ClientError> {
        let bytes = self.answer(Self::request(Method::POST, path, stream_body(reader))?).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A POST with a stream of bytes as its body; the answer comes in lines of JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post_stream_lines(
        &self,
        path: &str,
        reader: impl tokio::io::AsyncRead + Unpin + Send + 'static,
    ) -> Result<Lines, ClientError> {
        let mut request = Self::request(Method::POST, path, stream_body(reader))?;
        request.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/x-tar"));
        Ok(self.lines(self.send(request).await?))
    }

    /// As [`Client::post_stream_lines`], with a body that `write` writes on a thread of its own. The answer begins after the body's
    /// end. What `write` fails with is the inner result.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post_written_lines(
        &self,
        path: &str,
        write: impl FnOnce(io::PipeWriter) -> io::Result<()> + Send + 'static,
    ) -> Result<io::Result<Lines>, ClientError> {
        let (reader, writer) = io::pipe().map_err(ClientError::protocol)?;
        let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into()).map_err(ClientError::protocol)?;
        let writing = tokio::task::spawn_blocking(move || write(writer));
        let lines = self.post_stream_lines(path, reader).await;
        match writing.await.map_err(ClientError::protocol)? {
            // A pipe that nobody reads any more is not the cause.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Ok(Err(error)),
            _ => lines.map(Ok),
        }
    }

    /// A GET whose answer is Docker's multiplexed stream.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_frames(&self, path: &str) -> Result<Frames, ClientError> {
        let ask = async || self.send(Self::request(Method::GET, path, Self::empty_body())?).await;
        let response = self.ask_again(ask).await?;
        Ok(Frames { body: response.into_body(), buffer: BytesMut::new(), connector: self.connector.clone() })
    }

    /// A POST after which the connection is a stream of bytes both ways.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn hijack(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<TokioIo<hyper::upgrade::Upgraded>, ClientError> {
        let mut request = Self::request(Method::POST, path, Self::json_body(body)?)?;
        request.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert(header::UPGRADE, header::HeaderValue::from_static("tcp"));
        let response = self.send(request).await?;
        Ok(TokioIo::new(hyper::upgrade::on(response).await.map_err(ClientError::protocol)?))
    }
}

async fn or_broken(connector: Option<&Arc<dyn Connector>>, error: ClientError) -> ClientError {
    match connector {
        Some(connector) => connector.broken().await.unwrap_or(error),
        None => error,
    }
}

/// A body of so many bytes at most.
async fn whole(body: Incoming, most: usize) -> Result<Bytes, ClientError> {
    Ok(Limited::new(body, most).collect().await.map_err(ClientError::protocol)?.to_bytes())
}

/// A reader as a request's body.
fn stream_body(mut reader: impl tokio::io::AsyncRead + Unpin + Send + 'static) -> RequestBody {
    use tokio::io::AsyncReadExt;
    let (sender, receiver) = tokio::sync::mpsc::channel::<io::Result<Frame<Bytes>>>(8);
    tokio::spawn(async move {
        loop {
            let mut buffer = BytesMut::with_capacity(1 << 18);
            let chunk = match reader.read_buf(&mut buffer).await {
                Ok(0) => return,
                Ok(_) => Ok(Frame::data(buffer.freeze())),
                Err(error) => Err(error),
            };
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(super::reply::receiver_stream(receiver)))
}
