//! Netlink messages, built and sent in batches: rtnetlink for links and addresses, nfnetlink for nftables.

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes that a socket keeps, of what is sent and of the answers.
const BUFFER: usize = 8 << 20;
/// The kernel answers at once; whoever waits longer holds locks for nothing.
const ANSWER_SECONDS: i64 = 10;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16;
const NLA_F_NESTED: u16 = 0x8000;

/// One message: header, a family's own header, attributes.
#[derive(Clone, Debug)]
pub struct NetlinkMessage {
    bytes: Vec<u8>,
    acknowledged: bool,
}

impl NetlinkMessage {
    /// `flags` are NLM_F_* beyond REQUEST and ACK, which are always set.
    pub fn new(kind: u16, flags: u16, own_header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        bytes.extend_from_slice(own_header);
        let mut message = NetlinkMessage { bytes, acknowledged: true };
        message.pad();
        message
    }

    /// A message that the kernel does not acknowledge: the brackets of an nfnetlink batch.
    pub fn bracket(kind: u16, own_header: &[u8]) -> Self {
        let mut message = NetlinkMessage::new(kind, 0, own_header);
        message.bytes[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        message.acknowledged = false;
        message
    }

    /// The payload behind the netlink header.
    #[cfg(test)]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    pub fn string(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// A 32-bit number in the host's order, as rtnetlink has them.
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A 32-bit number in network order, as nftables has them.
    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// An attribute that holds attributes.
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(NetlinkMessage) -> NetlinkMessage) -> Self {
        let start = self.bytes.len();
        self.push(kind | NLA_F_NESTED, &[]);
        let mut filled = fill(self);
        let length = (filled.bytes.len() - start) as u16;
        filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    /// Bytes that are no attribute, inside of one (the peer's header of a veth).
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }
}

/// A message of the kernel's.
struct NetlinkAnswer<'a> {
    kind: u16,
    /// The number of the message that it answers.
    sequence: u32,
    payload: &'a [u8],
}

impl NetlinkAnswer<'_> {
    /// The result in an acknowledgement; `None` of any other message.
    fn acknowledged(&self) -> Option<io::Result<()>> {
        let code = self.payload.first_chunk::<4>().filter(|_| self.kind == NLMSG_ERROR)?;
        let errno = i32::from_ne_bytes(*code).wrapping_neg();
        Some(if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) })
    }
}

/// Takes messages of the kernel's apart.
fn answers(mut messages: &[u8]) -> impl Iterator<Item = NetlinkAnswer<'_>> {
    std::iter::from_fn(move || {
        let (header, _) = messages.split_first_chunk::<HEADER>()?;
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let size = (word(0) as usize).clamp(HEADER, messages.len());
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let answer = NetlinkAnswer { kind, sequence: word(8), payload: &messages[HEADER..size] };
        messages = &messages[size.next_multiple_of(4).min(messages.len())..];
        Some(answer)
    })
}

/// Takes messages of the kernel's apart and gives each answer without its header; the end of the answers, when it has come.
pub fn split(messages: &[u8], each: &mut impl FnMut(&[u8])) -> Option<io::Result<()>> {
    const NLMSG_DONE: u16 = 3;
    for answer in answers(messages) {
        if answer.kind == NLMSG_DONE {
            return Some(Ok(()));
        }
        if let Some(end) = answer.acknowledged() {
            return Some(end);
        }
        each(answer.payload);
    }
    None
}

/// The value of an attribute among attributes.
pub fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    const NLA_TYPE_MASK: u16 = 0x3fff;
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([attributes[2], attributes[3]]) & NLA_TYPE_MASK == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// A socket on which the kernel announces every change of nftables' rules.
///
/// # Errors
/// The kernel's.
pub fn nftables_changes() -> io::Result<OwnedFd> {
    const NFNLGRP_NFTABLES: u32 = 7;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 1 << (NFNLGRP_NFTABLES - 1)))?;
    Ok(fd)
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    /// Of the next message. They go on through the socket's life: an answer to an earlier message is no answer to a later one.
    sequence: AtomicU32,
}

impl Netlink {
    /// For links, addresses and routes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn route() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// For nftables.
    ///
    /// # Errors
    /// The kernel's; EPROTONOSUPPORT where it has no nfnetlink.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // Beyond what the host gives to everybody: a batch is sent as a whole.
        let _ = setsockopt(&fd, sockopt::SndBufForce, &BUFFER);
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &BUFFER);
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
        Ok(Netlink { fd, sequence: AtomicU32::new(1) })
    }

    /// Asks one question and returns the answers, each without its netlink header.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ask(&self, question: NetlinkMessage) -> io::Result<Vec<Vec<u8>>> {
        let mut answers = Vec::new();
        self.ask_each(question, |answer| answers.push(answer.to_vec()))?;
        Ok(answers)
    }

    /// Asks one question and gives each answer as it comes: there may be hundreds of thousands.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ask_each(&self, mut question: NetlinkMessage, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let length = question.bytes.len() as u32;
        question.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.drain();
        send(self.fd.as_raw_fd(), &question.bytes, MsgFlags::empty())?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => continue,
                other => other?,
            };
            if let Some(end) = split(&buffer[..length], &mut each) {
                return end;
            }
        }
    }

    /// The index of an interface in the network namespace that the socket was opened in, whatever the thread's is now.
    ///
    /// # Errors
    /// ENODEV where there is none.
    pub fn index_of(&self, name: &str) -> io::Result<u32> {
        const RTM_GETLINK: u16 = 18;
        const IFLA_IFNAME: u16 = 3;
        let answers = self.ask(NetlinkMessage::new(RTM_GETLINK, 0, &[0; 16]).string(IFLA_IFNAME, name))?;
        let index = answers.first().and_then(|answer| answer.get(4..8)?.try_into().ok());
        index.map(u32::from_ne_bytes).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// Sends messages in one system call and reads the kernel's answers: of each that has failed, and of the last. The kernel has
    /// answered everything when the call returns, so nothing is waited for: what is not there then was lost.
    ///
    /// # Errors
    /// The first failure, with the number of its message in the batch; ENOBUFS when answers were lost.
    pub fn send(&self, messages: &[NetlinkMessage]) -> Result<(), (usize, io::Error)> {
        let count = messages.len() as u32;
        let first = self.sequence.fetch_add(count, Ordering::Relaxed);
        let last = messages.iter().rposition(|message| message.acknowledged);
        let mut bytes = Vec::with_capacity(messages.iter().map(|m| m.bytes.len()).sum());
        for (i, message) in messages.iter().enumerate() {
            let start = bytes.len();
            bytes.extend_from_slice(&message.bytes);
            bytes[start..start + 4].copy_from_slice(&(message.bytes.len() as u32).to_ne_bytes());
            bytes[start + 8..start + 12].copy_from_slice(&first.wrapping_add(i as u32).to_ne_bytes());
            if last != Some(i) {
                // Thousands of answers would not fit into the socket's buffer. A failure is answered unasked.
                let flags = u16::from_ne_bytes([bytes[start + 6], bytes[start + 7]]) & !NLM_F_ACK;
                bytes[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
            }
        }
        self.drain();
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(|e| (0, e.into()))?;
        let (mut failed, mut lost, mut complete) = (None, false, last.is_none());
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let length = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(nix::Error::EAGAIN) => break,
                Err(nix::Error::EINTR) => continue,
                Err(nix::Error::ENOBUFS) => {
                    lost = true;
                    continue;
                }
                Err(e) => return Err(failed.unwrap_or((0, e.into()))),
            };
            for answer in answers(&buffer[..length]) {
                let number = answer.sequence.wrapping_sub(first) as usize;
                let Some(result) = answer.acknowledged().filter(|_| number < messages.len()) else { continue };
                complete |= last == Some(number);
                if let (Err(error), None) = (result, &failed) {
                    failed = Some((number, error));
                }
            }
        }
        match failed {
            Some(failed) => Err(failed),
            None if complete && !lost => Ok(()),
            None => Err((0, io::Error::from_raw_os_error(libc::ENOBUFS))),
        }
    }

    /// Drops what is left of answers that somebody has not read to their end.
    fn drain(&self) {
        let mut buffer = [0; 4096];
        let mut more = || recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT);
        while matches!(more(), Ok(_) | Err(nix::Error::ENOBUFS | nix::Error::EINTR)) {}
    }
}
