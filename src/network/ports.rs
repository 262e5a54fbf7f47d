//! The host's side of published ports: bound, so that a conflict is an error that names the owner.

use super::error::NetworkError;
use crate::units::Protocol;
use socket2::{Domain, Socket, Type};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::{fs, io};

/// A host port that is ours as long as this lives. Nothing is ever accepted on it: DNAT takes the traffic before.
#[derive(Debug)]
pub struct PortReservation {
    pub port: u16,
    /// Held, not used: dropping it frees the port.
    _socket: Option<Socket>,
}

/// Takes the first free port of a range; `0..=0` is any that the kernel chooses.
///
/// # Errors
/// As [`first_free`].
pub fn reserve(
    address: IpAddr,
    protocol: Protocol,
    range: RangeInclusive<u16>,
    owner_of: &dyn Fn(u16) -> Option<String>,
) -> Result<PortReservation, NetworkError> {
    let (port, socket) = first_free(address, protocol, range, owner_of, |port| bind_port(address, port, protocol))?;
    Ok(PortReservation { port, _socket: socket })
}

/// Binds the first free port of a range.
///
/// # Errors
/// When all are taken, with the owner of the last one as `owner_of` (wharf's own containers) or the kernel know it.
pub fn first_free<T>(
    address: IpAddr,
    protocol: Protocol,
    range: RangeInclusive<u16>,
    owner_of: &dyn Fn(u16) -> Option<String>,
    bind: impl Fn(u16) -> io::Result<T>,
) -> Result<T, NetworkError> {
    let mut last = None;
    for port in range {
        match bind(port) {
            Ok(bound) => return Ok(bound),
            Err(error) => last = Some((port, error)),
        }
    }
    let (port, error) = last.unwrap_or((0, io::ErrorKind::InvalidInput.into()));
    let owner = blame(protocol, port, &error, owner_of);
    let address = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
    Err(NetworkError::PortTaken { port, protocol, address, owner })
}

/// Binds a port; IPv6's is of IPv6 alone. On a kernel without SCTP nobody can take one of its ports.
fn bind_port(address: IpAddr, port: u16, protocol: Protocol) -> io::Result<(u16, Option<Socket>)> {
    let domain = if address.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let (kind, number) = match protocol {
        Protocol::Udp => (Type::DGRAM, None),
        Protocol::Sctp => (Type::STREAM, Some(libc::IPPROTO_SCTP.into())),
        Protocol::Tcp => (Type::STREAM, None),
    };
    let socket = match Socket::new(domain, kind, number) {
        Err(e) if e.raw_os_error() == Some(libc::EPROTONOSUPPORT) && protocol == Protocol::Sctp && port != 0 => {
            return Ok((port, None));
        }
        other => other?,
    };
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&SocketAddr::new(address, port).into())?;
    if kind == Type::STREAM {
        socket.listen(1)?;
    }
    let bound = socket.local_addr()?.as_socket().map_or(port, |address| address.port());
    Ok((bound, Some(socket)))
}

/// Why a port cannot be had, with the one who has it.
fn blame(protocol: Protocol, port: u16, error: &std::io::Error, owner_of: &dyn Fn(u16) -> Option<String>) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            let who = owner_of(port).or_else(|| process_on(protocol, port)).unwrap_or_else(|| "another process".into());
            // Clients look for Docker's words.
            format!("port is already allocated: it is in use by {who}; stop it or choose another host port")
        }
        std::io::ErrorKind::AddrNotAvailable => "the host has no such address".into(),
        _ => error.to_string(),
    }
}

/// The process that listens on a port, as `process "nginx" (pid 12)`, found by the socket's inode.
fn process_on(protocol: Protocol, port: u16) -> Option<String> {
    let table = ["", "6"].iter().find_map(|family| {
        let text = fs::read_to_string(format!("/proc/net/{protocol}{family}")).ok()?;
        text.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let local = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
            let listening = protocol == Protocol::Udp || fields.get(3) == Some(&"0A");
            (local == port && listening).then(|| (*fields.get(9).unwrap_or(&"")).to_string())
        })
    })?;
    let wanted = format!("socket:[{table}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(fds) = fs::read_dir(process.path().join("fd")) else { continue };
        if fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())) {
            // The engine holds the ports of its containers; of those that run their owners are known.
            if pid == std::process::id() {
                return Some("another container that is being started".into());
            }
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("the process `{}` (pid {pid})", name.trim()));
        }
    }
    None
}
