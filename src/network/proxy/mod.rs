//! Published ports on the host's IPv6 addresses, where the kernel cannot translate: to containers without IPv6, and from `::1`,
//! which the kernel cannot route. [`tcp`] forwards connections, [`udp`] datagrams.

mod tcp;
mod udp;

use crate::units::Protocol;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;

/// A port that is listened on as long as this lives.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    to: ProxyTarget,
    task: tokio::task::AbortHandle,
}

/// Where a proxy leads, which may change.
#[derive(Clone, Debug)]
struct ProxyTarget(Arc<Mutex<SocketAddr>>);

impl ProxyTarget {
    fn get(&self) -> SocketAddr {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Leads new connections, and datagrams, elsewhere. Connections of before go on.
    pub fn redirect(&self, to: SocketAddr) {
        *self.to.0.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens on an IPv6 address alone, and forwards connections, or UDP datagrams, to a container.
///
/// # Errors
/// EADDRINUSE when the port is taken, EAFNOSUPPORT or EADDRNOTAVAIL where the host has no IPv6.
pub fn start(protocol: Protocol, address: Ipv6Addr, port: u16, to: SocketAddr) -> io::Result<Proxy> {
    const WAITING: i32 = 4096;
    let to = ProxyTarget(Arc::new(Mutex::new(to)));
    let datagrams = protocol == Protocol::Udp;
    let kind = if datagrams { Type::DGRAM } else { Type::STREAM };
    let socket = Socket::new(Domain::IPV6, kind.nonblocking(), None)?;
    // IPv4's port of the same number is the kernel's translation.
    socket.set_only_v6(true)?;
    socket.set_reuse_address(!datagrams)?;
    socket.bind(&SocketAddrV6::new(address, port, 0, 0).into())?;
    if datagrams {
        return udp::start(socket.into(), to);
    }
    socket.listen(WAITING)?;
    let listener = TcpListener::from_std(socket.into())?;
    let port = listener.local_addr()?.port();
    let task = tokio::spawn(tcp::serve(listener, to.clone()));
    Ok(Proxy { port, to, task: task.abort_handle() })
}
