//! The words between the engine and a monitor: one JSON message a packet, with descriptors beside it where needed.

use super::error::{SetupStep, known_step};
use super::launch::{ExecSpec, Exit};
use crate::logs::holds::Hold;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// From the engine.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonitorRequest {
    /// To the container's first process.
    Signal(i32),
    /// With descriptors: standard input, output and error; or, for a terminal, one socket on which its master is sent.
    Exec(ExecSpec),
    /// The signal for a process that `Exec` started.
    SignalExec {
        id: u64,
        signal: i32,
    },
    Resize {
        rows: u16,
        columns: u16,
    },
    /// Asks for the writing end of the container's standard input (or its terminal): answered by `Event::Input`.
    Input,
    /// The container's standard input has ended.
    CloseInput,
    /// Asks for one of [`super::launch::Launch::kept`] by its destination: answered by `Event::Mount`.
    Mount(PathBuf),
    /// The files that a reader of the log still needs: answered by `Event::Held` where it needs every file.
    Hold(Hold),
    /// A reader of the log has left.
    Release {
        reader: u64,
    },
    /// Freeze (true) or thaw.
    Pause(bool),
    /// The engine leaves on purpose: do not bring it back.
    Goodbye,
    /// Answered by `Event::Status`.
    Status,
}

/// From the monitor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonitorEvent {
    /// The program runs.
    Started {
        pid: i32,
        at: jiff::Timestamp,
        /// Whether the monitor answers `Request::Mount`. Those of earlier versions do not.
        #[serde(default)]
        keeps_mounts: bool,
        /// Whether it keeps the files of the log that readers need, by `Request::Hold`.
        #[serde(default)]
        holds_log: bool,
    },
    /// The container could not be started; the code is Docker's (127 not found, 126 not executable, 128 anything else).
    Failed {
        message: String,
        code: i32,
        /// Monitors of earlier versions do not say it.
        #[serde(default, deserialize_with = "known_step")]
        step: Option<SetupStep>,
    },
    Exited(Exit),
    ExecStarted {
        id: u64,
        pid: i32,
    },
    ExecFailed {
        id: u64,
        message: String,
        code: i32,
        #[serde(default, deserialize_with = "known_step")]
        step: Option<SetupStep>,
    },
    ExecExited {
        id: u64,
        code: i32,
    },
    /// With the descriptor, unless the container has no standard input.
    Input,
    /// No file of the log is removed from now on that the reader has not read.
    Held {
        reader: u64,
    },
    /// With two descriptors: the mount namespace, and the mount in it. Without them where it is not kept.
    Mount,
    Status {
        pid: i32,
        started_at: jiff::Timestamp,
        paused: bool,
        #[serde(default)]
        keeps_mounts: bool,
        #[serde(default)]
        holds_log: bool,
        /// The program does not run yet.
        #[serde(default)]
        starting: bool,
    },
}

/// From a container's first process to its monitor, while it sets itself up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handed {
    /// With the terminal's master.
    Terminal,
    /// With the mount namespace in which the mounts are, where that is not the first process's own.
    MountNamespace,
    /// With descriptors of [`super::launch::Launch::kept`], in its order. There may be several.
    Mounts,
}

/// Descriptors that one message takes: the kernel's SCM_MAX_FD is 253.
pub const MAX_DESCRIPTORS: usize = 250;

/// Messages are small but for an `Exec` with a large environment; this is under the kernel's default socket buffer.
pub const MAX_MESSAGE: usize = 192 * 1024;
/// Bytes of a message that comes in a file beside the packet. The kernel takes 2 MiB of arguments and variables (a quarter of a stack
/// of 8 MiB), and JSON may write each byte as six.
const MAX_LONG: u64 = 16 << 20;

/// A packet whose message is in a file: the first of its descriptors, an anonymous file in memory.
#[derive(Serialize, Deserialize)]
struct Long {
    long: u64,
}

/// Sends a message; blocks as the socket does. A monitor of a version before 2026-11-27 does not answer one of more than
/// [`MAX_MESSAGE`] bytes.
///
/// # Errors
/// EPIPE when the other side is gone, EMSGSIZE when the message is too large.
pub fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() <= MAX_MESSAGE {
        return send_packet(socket, &bytes, fds);
    }
    let long = bytes.len() as u64;
    if long > MAX_LONG {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let file = File::from(memfd_create(c"message", MFdFlags::MFD_CLOEXEC)?);
    file.write_all_at(&bytes, 0)?;
    let fds: Vec<BorrowedFd<'_>> = std::iter::once(file.as_fd()).chain(fds.iter().copied()).collect();
    send_packet(socket, &serde_json::to_vec(&Long { long })?, &fds)
}

fn send_packet(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &control[..0] } else { &control[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Whether a message was received that this version does not know: one of a later version, which expects no answer to it.
pub fn is_of_another_version(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

/// Receives a message into `buffer`, which is grown once. `Ok(None)` is the end of the connection.
///
/// # Errors
/// EAGAIN on a socket that does not block; InvalidData for a message that is not understood.
pub fn receive<T: for<'a> Deserialize<'a>>(
    socket: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    buffer.resize(MAX_MESSAGE, 0);
    receive_into(socket, buffer)
}

/// Receives a message into a buffer that is large enough for it.
///
/// # Errors
/// As [`receive`].
pub fn receive_into<T: for<'a> Deserialize<'a>>(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let (length, mut fds) = {
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
        let mut fds = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = part {
                fds.extend(raw.into_iter().map(crate::sys::received));
            }
        }
        (message.bytes, fds)
    };
    if length == 0 {
        return Ok(None);
    }
    let not_understood = |e| io::Error::new(io::ErrorKind::InvalidData, e);
    let message = match serde_json::from_slice::<Long>(&buffer[..length]) {
        Ok(Long { long }) if !fds.is_empty() && long <= MAX_LONG => {
            let file = File::from(fds.remove(0));
            let mut text = vec![0; long as usize];
            file.read_exact_at(&mut text, 0)?;
            serde_json::from_slice(&text)
        }
        _ => serde_json::from_slice(&buffer[..length]),
    };
    Ok(Some((message.map_err(not_understood)?, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A monitor goes on beside the engine of another version: fields come and go, and what is not known is left out.
    #[test]
    fn words_of_other_versions() {
        let read = |text: &str| serde_json::from_str::<MonitorEvent>(text);
        let earlier = r#"{"status":{"pid":7,"started_at":"2026-01-01T00:00:00Z","paused":true}}"#;
        assert!(matches!(
            read(earlier),
            Ok(MonitorEvent::Status { pid: 7, paused: true, keeps_mounts: false, holds_log: false, .. })
        ));
        let later = r#"{"started":{"pid":7,"at":"2026-01-01T00:00:00Z","keeps_mounts":true,"holds_log":true,"later":[1]}}"#;
        assert!(matches!(read(later), Ok(MonitorEvent::Started { pid: 7, keeps_mounts: true, holds_log: true, .. })));
        let (one, other) = std::os::unix::net::UnixDatagram::pair().expect("sockets");
        send(one.as_fd(), &serde_json::json!({"of_later": {"x": 1}}), &[]).expect("sent");
        send(one.as_fd(), &MonitorRequest::Status, &[]).expect("sent");
        let mut buffer = Vec::new();
        let unknown = receive::<MonitorRequest>(other.as_fd(), &mut buffer).expect_err("not known");
        assert!(is_of_another_version(&unknown), "{unknown}");
        assert!(matches!(receive::<MonitorRequest>(other.as_fd(), &mut buffer), Ok(Some((MonitorRequest::Status, _)))));
    }

    /// The kernel takes arguments and variables of 2 MiB.
    #[test]
    fn a_message_has_any_length_that_the_kernel_takes() {
        let (one, other) = std::os::unix::net::UnixDatagram::pair().expect("sockets");
        let mut buffer = Vec::new();
        for length in [MAX_MESSAGE - 100, MAX_MESSAGE, 208 << 10, 3 << 20] {
            send(one.as_fd(), &MonitorRequest::Mount("x".repeat(length).into()), &[other.as_fd()]).expect("sent");
            let received = receive::<MonitorRequest>(other.as_fd(), &mut buffer).expect("received").expect("a message");
            assert!(matches!(received, (MonitorRequest::Mount(path), fds) if path.as_os_str().len() == length && fds.len() == 1));
        }
        let beyond = send(one.as_fd(), &MonitorRequest::Mount("x".repeat(17 << 20).into()), &[]).expect_err("too long");
        assert_eq!(beyond.raw_os_error(), Some(libc::EMSGSIZE));
    }
}
