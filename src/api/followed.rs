//! The client's end of following a container's output. When the engine dies it goes on with the next one, without loss and without
//! repetition: it knows the time of the last line that it has.

use super::client::{Client, ClientError, take_frame};
use super::follow::{Exited, Notice};
use super::reply::escape;
use bytes::{Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long an engine that has died may take to come back. A container's monitor brings it back in some tens of milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// A client that has waited for a monitor for so long starts an engine itself.
const UNTIL_START: Duration = Duration::from_millis(500);
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// Where following begins.
#[derive(Clone, Debug)]
pub enum Begin {
    /// With what the container writes from now on.
    Now,
    /// With what it has written since its last start.
    Start,
    /// With what it writes after its next start.
    NextStart,
    /// As `logs` does.
    Log { tail: Option<usize>, since: Option<String> },
    /// After a line that the client has.
    After(Position),
}

/// The last line that a client has of a container, by its time: each line of a log has its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(String);

/// How to follow.
#[derive(Clone, Debug)]
pub struct Follow {
    pub begin: Begin,
    /// The time at which it ends, as the API has times; with the container otherwise.
    pub until: Option<String>,
    pub stdin: bool,
    /// The log waits for this client as long as it takes; otherwise for half a minute, as it does for `logs -f`.
    pub attached: bool,
    /// The number by which the log knows this client.
    pub reader: u64,
}

/// A container's output, or its end.
#[derive(Debug)]
pub enum Piece {
    /// A line, or a part of one that does not end with a newline, after its time and a space.
    Line {
        stream: u8,
        line: Bytes,
    },
    Exited(Exited),
    /// Lines were lost, since this client took nothing for too long.
    Lost,
}

/// The standard input of a container that is followed.
#[derive(Clone)]
pub struct Input {
    to: Arc<Mutex<WriteHalf<TokioIo<Upgraded>>>>,
    ended: Arc<AtomicBool>,
}

impl Input {
    /// Sends bytes; waits for the next engine where one has died.
    pub async fn send(&self, bytes: &[u8]) {
        let given_up = Instant::now() + PATIENCE;
        while self.to.lock().await.write_all(bytes).await.is_err() && Instant::now() < given_up {
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
    }

    /// Tells its end.
    pub async fn end(&self) {
        self.ended.store(true, Ordering::Release);
        let _ = self.to.lock().await.shutdown().await;
    }
}

/// A container's output on its way.
pub struct Followed {
    client: Client,
    id: String,
    how: Follow,
    position: Option<Position>,
    from: ReadHalf<TokioIo<Upgraded>>,
    input: Input,
    buffer: BytesMut,
    over: bool,
}

impl Followed {
    /// Follows a container. From the return of this on its log keeps what this client has not read.
    ///
    /// # Errors
    /// The engine's refusal, or a broken connection.
    pub async fn open(client: &Client, id: &str, how: Follow) -> Result<Self, ClientError> {
        let connected = Position(format!("{:.9}", jiff::Timestamp::now()));
        let stream = client.ask_again(async || client.hijack(&path(id, &how, None), &serde_json::Value::Null).await).await?;
        let (from, to) = tokio::io::split(stream);
        // Where it goes on if nothing has come by the time that the engine dies.
        let position = match &how.begin {
            Begin::Now | Begin::Log { tail: Some(0), .. } => Some(connected),
            Begin::After(position) => Some(position.clone()),
            _ => None,
        };
        let input = Input { to: Arc::new(Mutex::new(to)), ended: Arc::default() };
        let buffer = BytesMut::with_capacity(1 << 16);
        Ok(Followed { client: client.clone(), id: id.into(), how, position, from, input, buffer, over: false })
    }

    pub fn input(&self) -> Input {
        self.input.clone()
    }

    /// The last line that has come.
    pub fn position(&self) -> Option<Position> {
        self.position.clone()
    }

    /// The next output; `None` at the container's end. Cancel-safe.
    ///
    /// # Errors
    /// When the engine has died and none comes back.
    pub async fn next(&mut self) -> Result<Option<Piece>, ClientError> {
        loop {
            if let Some(piece) = self.buffered() {
                return Ok(Some(piece));
            }
            if self.over {
                return Ok(None);
            }
            if self.from.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                self.buffer.clear();
                self.over = !self.reconnect().await?;
            }
        }
    }

    /// The output that has come already.
    pub fn buffered(&mut self) -> Option<Piece> {
        while let Some((stream, bytes)) = take_frame(&mut self.buffer) {
            match Notice::of(stream) {
                None => {
                    self.count(&bytes);
                    return Some(Piece::Line { stream, line: bytes });
                }
                Some(Notice::End) => self.over = true,
                Some(Notice::Lost) => return Some(Piece::Lost),
                Some(Notice::Exited) => {
                    if let Ok(exited) = serde_json::from_slice(&bytes) {
                        return Some(Piece::Exited(exited));
                    }
                }
            }
        }
        None
    }

    fn count(&mut self, line: &[u8]) {
        let time = &line[..memchr::memchr(b' ', line).unwrap_or(0)];
        let Position(position) = self.position.get_or_insert_with(|| Position(String::new()));
        position.clear();
        position.push_str(&String::from_utf8_lossy(time));
    }

    /// Connects to the next engine; false where the container is gone.
    async fn reconnect(&mut self) -> Result<bool, ClientError> {
        let given_up = Instant::now() + PATIENCE;
        let mut next_start = Instant::now() + UNTIL_START;
        if matches!(self.how.begin, Begin::NextStart) {
            self.how.begin = Begin::Start;
        }
        loop {
            match self.client.hijack(&path(&self.id, &self.how, self.position.as_ref()), &serde_json::Value::Null).await {
                Ok(stream) => {
                    let (from, mut to) = tokio::io::split(stream);
                    if self.input.ended.load(Ordering::Acquire) {
                        let _ = to.shutdown().await;
                    }
                    self.from = from;
                    *self.input.to.lock().await = to;
                    return Ok(true);
                }
                Err(ClientError::Refused { status: 404, .. }) => return Ok(false),
                Err(error @ ClientError::Host(_)) => return Err(error),
                Err(error) if Instant::now() > given_up => return Err(error),
                // Nothing runs any more whose monitor would bring one back.
                Err(ClientError::Connect { .. }) if Instant::now() > next_start => {
                    self.client.start_engine().await;
                    next_start = Instant::now() + UNTIL_START;
                }
                Err(_) => tokio::time::sleep(BETWEEN_TRIES).await,
            }
        }
    }
}

fn path(id: &str, how: &Follow, position: Option<&Position>) -> String {
    let mut path = format!(
        "/containers/{}/attach?stream=1&stdout=1&stderr=1&multiplexed=1&timestamps=1&reader={}&stdin={}",
        escape(id),
        how.reader,
        u8::from(how.stdin)
    );
    if !how.attached {
        path.push_str("&patience=30");
    }
    let mut add =
        |key: &str, value: Option<&str>| value.iter().for_each(|value| path.push_str(&format!("&{key}={}", escape(value))));
    add("until", how.until.as_deref());
    match (position, &how.begin) {
        (Some(Position(time)), _) | (None, Begin::After(Position(time))) => add("after", Some(time)),
        (None, Begin::Now) => add("tail", Some("0")),
        (None, Begin::Start) => add("logs", Some("1")),
        (None, Begin::NextStart) => add("next", Some("1")),
        (None, Begin::Log { tail, since }) => {
            add("all", Some("1"));
            add("tail", tail.map(|lines| lines.to_string()).as_deref());
            add("since", since.as_deref());
        }
    }
    path
}
