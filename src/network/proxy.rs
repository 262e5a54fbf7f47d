//! Published ports on the host's IPv6 addresses: connections are taken here and led on to the container, whose networks are IPv4.
//!
//! It is a path for whoever asks for `localhost` and gets `::1`; what comes by IPv4 is translated by the kernel.

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, bind, listen, setsockopt, socket, sockopt};
use std::io;
use std::net::{Ipv6Addr, SocketAddrV4, SocketAddrV6, TcpListener as StdListener};
use std::os::fd::AsRawFd;
use tokio::net::{TcpListener, TcpStream};

/// A port that is listened on as long as this lives.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    task: tokio::task::AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens on an address, of IPv6 alone, and leads connections to a container.
///
/// # Errors
/// EADDRINUSE when the port is taken, EAFNOSUPPORT or EADDRNOTAVAIL where the host has no IPv6.
pub fn start(address: Ipv6Addr, port: u16, to: SocketAddrV4) -> io::Result<Proxy> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet6, SockType::Stream, flags, None)?;
    // IPv4's port of the same number is the kernel's translation.
    setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(address, port, 0, 0)))?;
    listen(&fd, Backlog::MAXCONN)?;
    let listener = StdListener::from(fd);
    let port = listener.local_addr()?.port();
    let listener = TcpListener::from_std(listener)?;
    let task = tokio::spawn(async move {
        loop {
            let Ok((mut from, _)) = listener.accept().await else {
                // Out of descriptors, most likely: others may be closed meanwhile.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            tokio::spawn(async move {
                if let Ok(mut container) = TcpStream::connect(to).await {
                    let _ = from.set_nodelay(true).and_then(|()| container.set_nodelay(true));
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut container).await;
                }
            });
        }
    });
    Ok(Proxy { port, task: task.abort_handle() })
}
