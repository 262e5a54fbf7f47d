//! The proxy of published ports: forwards connections that the kernel does not translate.
//!
//! An idle connection has two sockets and no buffer: a buffer is there while there is something to pass on.

use super::ProxyTarget;
use crate::network::descriptors;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::Shutdown;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// When connections wait, those end on which nothing has gone either way for so long.
const IDLE_WHEN_FULL: Duration = Duration::from_secs(60);
/// How often they are looked for then.
const LOOK: Duration = Duration::from_secs(1);
/// A peer that is gone without a word is noticed after some two minutes.
const KEEPALIVE: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const CHUNK: usize = 16 * 1024;
/// Out of descriptors, most likely: others may be closed meanwhile.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Wakes every connection of every port, to end if it is idle: the descriptors are all the ports' together.
static CROWDED: Notify = Notify::const_new();

pub(super) async fn serve(listener: TcpListener, to: ProxyTarget) {
    /// The client's socket and the one to the container. Connections for which there is no room wait in the kernel.
    const DESCRIPTORS: usize = 2;
    let share = descriptors::of_proxies().share();
    loop {
        let Ok((from, _)) = listener.accept().await else {
            tokio::time::sleep(BACK_OFF).await;
            continue;
        };
        let taken = patient(share.wait(DESCRIPTORS)).await;
        let to = to.get();
        tokio::spawn(async move {
            if let Ok(Ok(container)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(to)).await {
                forward(&from, &container).await;
            }
            drop(taken);
        });
    }
}

/// Waits for room, and has idle connections end meanwhile.
async fn patient<T>(room: impl Future<Output = T>) -> T {
    let mut room = pin!(room);
    loop {
        match timeout(LOOK, &mut room).await {
            Ok(room) => return room,
            Err(_) => CROWDED.notify_waiters(),
        }
    }
}

/// Passes on what either end sends, until both have ended, one fails, or it is idle where others wait.
async fn forward(from: &TcpStream, container: &TcpStream) {
    for stream in [from, container] {
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4));
    }
    let begun = Instant::now();
    let moved = AtomicU64::new(0);
    let mut both = pin!(async { tokio::try_join!(pass(from, container, begun, &moved), pass(container, from, begun, &moved)) });
    loop {
        tokio::select! {
            _ended = &mut both => return,
            () = CROWDED.notified() => {
                let idle = begun.elapsed().saturating_sub(Duration::from_millis(moved.load(Ordering::Relaxed)));
                if idle >= IDLE_WHEN_FULL {
                    return;
                }
            }
        }
    }
}

/// Passes on what one end sends, and that it has ended. `moved` is when it was last, in milliseconds since the beginning.
async fn pass(from: &TcpStream, to: &TcpStream, begun: Instant, moved: &AtomicU64) -> io::Result<()> {
    loop {
        from.readable().await?;
        let mut buffer = Vec::with_capacity(CHUNK);
        loop {
            buffer.clear();
            match from.try_read_buf(&mut buffer) {
                Ok(0) => return SockRef::from(to).shutdown(Shutdown::Write),
                Ok(_) => send(to, &buffer).await?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            // Yields to other tasks, however fast this connection is.
            tokio::task::coop::consume_budget().await;
            moved.store(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
    }
}

async fn send(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
