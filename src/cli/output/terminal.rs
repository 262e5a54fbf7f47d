//! The user's terminal or pipes as the streams of a process elsewhere: `exec`, `attach`, `run`.

use crate::api::client::{Client, take_frame};
use crate::api::detach::{self, DetachKeys};
use crate::api::followed::{Followed, Piece};
use crate::cli::signals::{PassedSignals, Signal, signalled};
use crate::cli::{Failure, Outcome};
use bytes::BytesMut;
use hyper_util::rt::TokioIo;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc;

/// How the streams are joined.
#[derive(Default)]
pub struct JoinedStreams {
    /// A terminal at the other end.
    pub tty: bool,
    /// Standard input is sent.
    pub stdin: bool,
    /// The path to which a change of the terminal's size is posted, without its query.
    pub resize: String,
    /// Where signals go that this process gets; without it they do what they do.
    pub signals: Option<SignalTarget>,
    /// Typed at a terminal, these bytes leave the process running; empty for none.
    pub detach_keys: Vec<u8>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminalEnd {
    /// The process has.
    Closed,
    /// The user has left it.
    Detached,
}

/// Whether both ends of this process are a terminal.
pub fn is_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// The terminal's rows and columns.
pub fn size() -> Option<(u16, u16)> {
    crate::sys::window_size(std::io::stdin().as_fd())
}

/// Reads `ctrl-p,ctrl-q`, as Docker writes detach keys.
///
/// # Errors
/// A key that is not understood.
pub fn detach_keys(text: &str) -> Result<Vec<u8>, Failure> {
    let wrong =
        |key: &str| Failure::Message(format!("`{key}` is not a key: write a letter, or ctrl- and one of a-z @ [ \\ ] ^ _"));
    let key = |key: &str| detach::key(key).ok_or_else(|| wrong(key));
    text.split(',').filter(|part| !part.is_empty()).map(key).collect()
}

/// Joins this process's streams to a container's, across a death of the engine, until the container ends or the user leaves.
/// The exit code is that of the last run, where it is known.
///
/// # Errors
/// When this end cannot be written, or no engine comes back.
pub async fn follow(
    client: &Client,
    mut followed: Followed,
    joined: JoinedStreams,
    shown: impl Fn(u8) -> bool,
) -> Result<(TerminalEnd, Option<i32>), Failure> {
    let raw = if joined.tty && joined.stdin && is_terminal() { Some(RawTerminal::enter()?) } else { None };
    let (left, mut leaving) = mpsc::channel::<()>(1);
    let mut typed = read_input(joined.stdin, if raw.is_some() { joined.detach_keys.clone() } else { Vec::new() }, left);
    let (input, open, tty) = (followed.input(), joined.stdin, joined.tty);
    let feeding = tokio::spawn(async move {
        while let Some(bytes) = typed.recv().await {
            input.send(&bytes).await;
        }
        // A terminal has no end of file: the other end would hang up.
        if open && !tty {
            input.end().await;
        }
        std::future::pending::<()>().await;
    });
    let resizing = tokio::spawn(follow_size(client.clone(), joined.resize, raw.is_some()));
    let mut ending = std::pin::pin!(signal_that_ends(raw.is_some() && joined.signals.is_none()));
    let signalling = tokio::spawn(pass_signals(client.clone(), joined.signals));
    let mut code = None;
    let ended = loop {
        let piece = tokio::select! {
            piece = followed.next() => piece?,
            Some(()) = leaving.recv() => break TerminalEnd::Detached,
            // The terminal is given back first.
            signal = &mut ending => return Err(signal.failure()),
        };
        let Some(piece) = piece else { break TerminalEnd::Closed };
        match piece {
            Piece::Line { stream, line } if shown(stream) => write(if tty { 1 } else { stream }, after_time(&line))?,
            Piece::Line { .. } => {}
            Piece::Exited(exited) => code = Some(exited.code),
            Piece::Lost => eprintln!("{LOST}"),
        }
    };
    feeding.abort();
    resizing.abort();
    signalling.abort();
    drop(raw);
    Ok((ended, code))
}

/// The message about lines that the log no longer had.
pub const LOST: &str = "warning: lines are missing here: nothing was read for 30 s, and the log was rotated meanwhile";

/// A line without its time.
fn after_time(line: &[u8]) -> &[u8] {
    memchr::memchr(b' ', line).map_or(line, |end| &line[end + 1..])
}

/// Joins this process's streams to a connection until the other end closes it, or the user leaves.
///
/// # Errors
/// When this end cannot be written.
pub async fn join(
    client: &Client,
    stream: TokioIo<hyper::upgrade::Upgraded>,
    joined: JoinedStreams,
) -> Result<TerminalEnd, Failure> {
    let (mut from, mut to) = tokio::io::split(stream);
    let raw = if joined.tty && joined.stdin && is_terminal() { Some(RawTerminal::enter()?) } else { None };
    let (left, mut leaving) = mpsc::channel::<()>(1);
    let mut typed = read_input(joined.stdin, if raw.is_some() { joined.detach_keys.clone() } else { Vec::new() }, left);
    let (open, sends) = (joined.stdin, joined.tty);
    let feeding = tokio::spawn(async move {
        while let Some(bytes) = typed.recv().await {
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // A terminal has no end of file: the other end would hang up.
        if open && !sends {
            let _ = to.shutdown().await;
        }
        std::future::pending::<()>().await;
    });
    let resizing = tokio::spawn(follow_size(client.clone(), joined.resize, raw.is_some()));
    let mut ending = std::pin::pin!(signal_that_ends(raw.is_some() && joined.signals.is_none()));
    let signalling = tokio::spawn(pass_signals(client.clone(), joined.signals));
    let mut buffer = BytesMut::with_capacity(1 << 16);
    let ended = loop {
        let read = tokio::select! {
            read = from.read_buf(&mut buffer) => read.unwrap_or(0),
            Some(()) = leaving.recv() => break TerminalEnd::Detached,
            // The terminal is given back first.
            signal = &mut ending => return Err(signal.failure()),
        };
        if joined.tty {
            write(1, &buffer.split())?;
        }
        while let Some((stream, bytes)) = take_frame(&mut buffer).filter(|_| !joined.tty) {
            write(stream, &bytes)?;
        }
        if read == 0 {
            break TerminalEnd::Closed;
        }
    };
    feeding.abort();
    resizing.abort();
    signalling.abort();
    drop(raw);
    Ok(ended)
}

/// A thread reads standard input: its blocking read cannot be given up, and must not keep the command from ending.
fn read_input(wanted: bool, keys: Vec<u8>, left: mpsc::Sender<()>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, typed) = mpsc::channel::<Vec<u8>>(8);
    if wanted {
        std::thread::spawn(move || {
            let mut buffer = vec![0; 16 * 1024];
            let mut keys = DetachKeys::of(keys);
            while let Ok(n @ 1..) = nix::unistd::read(std::io::stdin(), &mut buffer) {
                let mut bytes = Vec::with_capacity(n);
                let leave = keys.pass(&buffer[..n], &mut bytes);
                if sender.blocking_send(bytes).is_err() {
                    return;
                }
                if leave {
                    let _ = left.blocking_send(());
                    return;
                }
            }
        });
    }
    typed
}

fn write(stream: u8, bytes: &[u8]) -> Outcome {
    let result = if stream == 2 {
        super::stdout::Stderr.write_all(bytes)
    } else {
        super::stdout::Stdout.write_all(bytes).and_then(|()| super::stdout::Stdout.flush())
    };
    result.map_err(|e| Failure::Message(format!("writing the command's output: {e}")))
}

/// Tells the other end the terminal's size, now and when it changes.
async fn follow_size(client: Client, path: String, tty: bool) {
    let Ok(mut changes) = tokio::signal::unix::signal(SignalKind::window_change()) else { return };
    if !tty {
        return;
    }
    loop {
        if let Some((rows, columns)) = size() {
            let _: Result<Value, _> = client.post(&format!("{path}?h={rows}&w={columns}"), &Value::Null).await;
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// Where signals of this process go.
pub struct SignalTarget {
    /// The path to which each is posted, without its query.
    pub path: String,
    pub signals: PassedSignals,
}

async fn pass_signals(client: Client, target: Option<SignalTarget>) {
    let Some(SignalTarget { path, mut signals }) = target else { return std::future::pending().await };
    loop {
        let number = signals.next().await;
        if let Err(error) = client.post::<Value>(&format!("{path}?signal={number}"), &Value::Null).await {
            tracing::debug!("passing the signal {number} on: {error}");
        }
    }
}

/// The user's terminal without its own editing, until this is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<Self, Failure> {
        let failed = |e: nix::Error| Failure::Message(format!("preparing the terminal: {e}"));
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).map_err(failed)?;
        Ok(RawTerminal(before))
    }
}

/// The signal that ends a process whose terminal is raw and that passes none on; without that signals do what they do.
async fn signal_that_ends(listens: bool) -> Signal {
    match listens {
        true => signalled().await,
        false => std::future::pending().await,
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_and_nothing_else_is_lost() {
        let default = detach_keys("ctrl-p,ctrl-q").expect("keys");
        assert_eq!(default, [16, 17]);
        assert!(detach_keys("ctrl-1").is_err() && detach_keys("ab").is_err());
        let run = |parts: &[&[u8]]| {
            let mut keys = DetachKeys::of(default.clone());
            let mut out = Vec::new();
            let left = parts.iter().any(|part| keys.pass(part, &mut out));
            (out, left)
        };
        assert_eq!(run(&[b"ls\n"]), (b"ls\n".to_vec(), false));
        assert_eq!(run(&[b"a\x10", b"\x11b"]), (b"a".to_vec(), true));
        assert_eq!(run(&[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(run(&[b"\x10x\x11"]), (b"\x10x\x11".to_vec(), false));
    }
}
