//! Datagrams to a container, and its answers back to whom they are for.
//!
//! Each sender has a socket of its own towards the container, as behind a router: the container tells its senders apart by their
//! ports. It is closed when nothing has gone either way for a while. Answers leave from the address that was asked. A sender has no
//! buffer: an answer is read when it is there.

use super::{Proxy, ProxyTarget};
use crate::network::budget::{Share, Taken};
use crate::network::descriptors;
use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt, sockopt};
use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Docker's.
const IDLE: Duration = Duration::from_secs(90);
/// Senders at once: what comes from more is dropped, as by a full table of the kernel's.
const MOST_SENDERS: usize = 1024;
const LARGEST: usize = 65_536;

/// The sender, and the host's address that it has sent to.
type UdpSender = (SockaddrIn6, libc::in6_pktinfo);
/// The same, to tell senders apart by.
type SenderKey = (SockaddrIn6, Ipv6Addr);

/// A sender's way to the container.
struct UdpFlow {
    inside: UdpSocket,
    to: SocketAddr,
    /// The time of the sender's last datagram.
    asked: Mutex<Instant>,
    _descriptor: Taken,
}

struct Relay {
    outside: Arc<UdpSocket>,
    to: ProxyTarget,
    flows: HashMap<SenderKey, Arc<UdpFlow>>,
    descriptors: Share,
    /// They end with the relay, so that its port is free at once.
    answering: JoinSet<(SenderKey, Arc<UdpFlow>)>,
}

pub(super) fn start(socket: std::net::UdpSocket, to: ProxyTarget) -> io::Result<Proxy> {
    setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    let port = socket.local_addr()?.port();
    let outside = Arc::new(UdpSocket::from_std(socket)?);
    let descriptors = descriptors::of_proxies().share();
    let mut relay = Relay { outside, to: to.clone(), flows: HashMap::new(), descriptors, answering: JoinSet::new() };
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; LARGEST];
        loop {
            let received = receive(&relay.outside, &mut buffer).await;
            while let Some(ended) = relay.answering.try_join_next() {
                ended.into_iter().for_each(|(key, flow)| relay.forget(&key, &flow));
            }
            match received {
                Ok((length, Some(sender))) => relay.forward(sender, &buffer[..length]).await,
                // A word of an earlier answer's failure (ECONNREFUSED), or a datagram that says not whom it was for.
                Ok((_, None)) | Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    Ok(Proxy { port, to, task: task.abort_handle() })
}

impl Relay {
    /// Forgets a flow that has ended, unless the sender has another by now.
    fn forget(&mut self, key: &SenderKey, flow: &Arc<UdpFlow>) {
        if self.flows.get(key).is_some_and(|known| Arc::ptr_eq(known, flow)) {
            self.flows.remove(key);
        }
    }

    /// Sends a datagram to the container, by the sender's socket. A flow to where the port led before ends with the answers that
    /// are still to come.
    async fn forward(&mut self, sender: UdpSender, datagram: &[u8]) {
        let key = (sender.0, Ipv6Addr::from(sender.1.ipi6_addr.s6_addr));
        let to = self.to.get();
        if self.flows.get(&key).is_some_and(|flow| flow.to != to) {
            self.flows.remove(&key);
        }
        if !self.flows.contains_key(&key) && self.flows.len() < MOST_SENDERS {
            let Some(descriptor) = self.descriptors.take(1) else { return };
            let any: IpAddr = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let Ok(inside) = UdpSocket::bind(SocketAddr::new(any, 0)).await else { return };
            if inside.connect(to).await.is_err() {
                return;
            }
            let flow = Arc::new(UdpFlow { inside, to, asked: Mutex::new(Instant::now()), _descriptor: descriptor });
            self.flows.insert(key, flow.clone());
            self.answering.spawn(answers(self.outside.clone(), sender, key, flow));
        }
        let Some(flow) = self.flows.get(&key) else { return };
        *locked(&flow.asked) = Instant::now();
        let _ = flow.inside.send(datagram).await;
    }
}

/// Sends a container's answers to a sender until there has been none, and no question, for a while.
async fn answers(
    outside: Arc<UdpSocket>,
    (sender, asked): UdpSender,
    key: SenderKey,
    flow: Arc<UdpFlow>,
) -> (SenderKey, Arc<UdpFlow>) {
    loop {
        match timeout(IDLE, flow.inside.readable()).await {
            Ok(_) => {}
            Err(_) if locked(&flow.asked).elapsed() >= IDLE => return (key, flow),
            Err(_) => continue,
        }
        let mut buffer = Vec::with_capacity(LARGEST);
        match flow.inside.try_recv_buf(&mut buffer) {
            Ok(_) => {
                let _ = send(&outside, &sender, asked, &buffer).await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The container does not listen there, for now.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A datagram's length, who has sent it, and to which address.
async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Option<UdpSender>)> {
    let take = || {
        let mut control = cmsg_space!(libc::in6_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
        let asked = message.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
            _ => None,
        });
        Ok((message.bytes, message.address.zip(asked)))
    };
    socket.async_io(Interest::READABLE, take).await
}

/// Sends a datagram from the address that was asked.
async fn send(socket: &UdpSocket, to: &SockaddrIn6, from: libc::in6_pktinfo, datagram: &[u8]) -> io::Result<()> {
    // The interface is looked up anew, but for addresses that are on one link alone.
    let link_local = Ipv6Addr::from(from.ipi6_addr.s6_addr).is_unicast_link_local();
    let from = libc::in6_pktinfo { ipi6_ifindex: if link_local { from.ipi6_ifindex } else { 0 }, ..from };
    let give = || {
        let control = [ControlMessage::Ipv6PacketInfo(&from)];
        Ok(sendmsg(socket.as_raw_fd(), &[IoSlice::new(datagram)], &control, MsgFlags::empty(), Some(to))?)
    };
    socket.async_io(Interest::WRITABLE, give).await.map(drop)
}
