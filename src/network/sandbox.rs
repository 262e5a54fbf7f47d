//! A container's network namespace with everything in it: interfaces, routes, and the sockets of its resolver.
//!
//! The namespace lives by the descriptors of the engine and of the container's processes; nothing is mounted, so when the
//! last of them is closed the kernel removes it and its interfaces.

use super::address::Subnet;
use super::error::NetworkError;
use super::link::{self, Sublink, Veth};
use super::netlink::{Netlink, NetlinkMessage};
use super::nft::{self, ChainHook, Expression as E, Family, Side, Transaction};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// The address of every container's resolver: Docker's, since images and configurations name it.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const DNS_PORT: u16 = 53;
/// Of the threads that join a namespace for a moment.
const THREAD_STACK: usize = 256 * 1024;

/// How long the kernel may take to forget the interfaces that a parent had of another kind.
const PARENT_IS_BUSY: Duration = Duration::from_secs(2);

/// One interface to make.
#[derive(Clone, Debug)]
pub struct Attachment {
    pub to: To,
    /// The interface's name in the container.
    pub name: String,
    pub mac: [u8; 6],
    pub mtu: u32,
    /// Each with the prefix of its subnet.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Settings, with `IFNAME` for its name, and their values.
    pub sysctls: Vec<(String, String)>,
    /// Of the default routes; of each family one attachment at most has it.
    pub gateways: Vec<IpAddr>,
}

impl Attachment {
    /// The host's end of a veth pair.
    pub fn host_name(&self) -> Option<String> {
        if let To::Bridge { host_name, .. } = &self.to { Some(host_name.clone()) } else { None }
    }
}

/// The host's side of an interface.
#[derive(Clone, Debug)]
pub enum To {
    /// A bridge, by a veth pair whose host's end has a name and the network's link group.
    Bridge { bridge: u32, group: u32, host_name: String, port: link::BridgePort },
    /// An interface of the host.
    Parent { parent: u32, kind: link::SublinkKind },
}

/// A namespace, and the sockets of the resolver in it.
#[derive(Debug)]
pub struct Sandbox {
    pub namespace: OwnedFd,
    pub resolver: Option<Resolver>,
}

/// The sockets of a container's resolver, on 127.0.0.11.
#[derive(Debug)]
pub struct Resolver {
    pub udp: UdpSocket,
    pub tcp: TcpListener,
}

/// Makes a namespace with its interfaces; the first attachment with a gateway has the default route.
///
/// Runs on a thread of its own for the time, since a thread is what joins a namespace.
///
/// # Errors
/// The step that failed; whatever had been made is gone with the namespace.
pub fn make(container: &str, attachments: &[Attachment]) -> Result<Sandbox, NetworkError> {
    let step =
        |doing: &'static str| move |source: io::Error| NetworkError::Sandbox { container: container.to_string(), doing, source };
    let host = Netlink::route().map_err(step("opening a netlink socket"))?;
    inside_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| step("making a network namespace")(e.into()))?;
        let namespace: OwnedFd = File::open("/proc/thread-self/ns/net").map_err(step("opening the network namespace"))?.into();
        let inner = Netlink::route().map_err(step("opening a netlink socket in the namespace"))?;
        let mut configuration = vec![link::up(1)];
        for attachment in attachments {
            configuration.extend(join(&host, &namespace, attachment, &step)?);
        }
        inner.send(&configuration).map_err(|(_, e)| step("setting addresses and routes")(e))?;
        let resolver =
            if attachments.is_empty() { None } else { Some(open_resolver().map_err(step("opening the resolver's sockets"))?) };
        Ok(Sandbox { namespace, resolver })
    })
}

/// Makes an interface in the namespace that the thread is in; gives the messages that configure it there.
fn join<F: FnOnce(io::Error) -> NetworkError>(
    host: &Netlink,
    namespace: &OwnedFd,
    attachment: &Attachment,
    step: &impl Fn(&'static str) -> F,
) -> Result<Vec<NetlinkMessage>, NetworkError> {
    let name = &attachment.name;
    match &attachment.to {
        To::Bridge { bridge, group, host_name, port } => {
            let veth = Veth {
                host_name,
                bridge: *bridge,
                group: *group,
                container_name: name,
                namespace: namespace.as_raw_fd(),
                mac: attachment.mac,
                mtu: attachment.mtu,
            };
            host.send(&[veth.message()]).map_err(|(_, e)| step("making a veth pair")(e))?;
            if *port != link::BridgePort::default() {
                let end = host.index_of(host_name).map_err(step("finding the host's end"))?;
                host.send(&port.messages(end, attachment.mac)).map_err(|(_, e)| step("guarding the bridge's port")(e))?;
            }
        }
        To::Parent { parent, kind } => {
            let sublink = Sublink {
                parent: *parent,
                kind: *kind,
                container_name: name,
                namespace: namespace.as_raw_fd(),
                mac: attachment.mac,
                mtu: attachment.mtu,
            };
            let mut made = host.send(&[sublink.message()]);
            // The other driver's interfaces go with the namespaces of containers that have just ended: a little after them, and
            // nobody tells when.
            let begun = Instant::now();
            while matches!(&made, Err((_, e)) if e.raw_os_error() == Some(libc::EBUSY)) && begun.elapsed() < PARENT_IS_BUSY {
                std::thread::sleep(Duration::from_millis(10));
                made = host.send(&[sublink.message()]);
            }
            made.map_err(|(_, e)| match e.raw_os_error() {
                Some(libc::EBUSY) => step("making an interface on the host's (it has interfaces of another kind)")(e),
                Some(libc::EOPNOTSUPP) => step("making an interface on the host's (this kernel has no such interfaces)")(e),
                Some(libc::EINVAL) => {
                    step("making an interface on the host's (that cannot carry one of this kind, mode or MTU: choose another `parent`)")(e)
                }
                _ => step("making an interface on the host's")(e),
            })?;
        }
    }
    // No address that is not wharf's by a neighbour's router advertisement. (On a network of IPv4 alone, writing `disable_ipv6`
    // would say so, but that file spins for the kernel's network lock: a sixth of the time of `up`.)
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0");
    for (setting, value) in &attachment.sysctls {
        set(setting, name, value).map_err(step("setting a sysctl of the interface"))?;
    }
    let index = link::index_of(name).map_err(step("finding the interface"))?;
    let mut configuration = Vec::new();
    if attachment.addresses.iter().all(|(address, _)| address.is_ipv4()) {
        configuration.push(link::no_link_local(index));
    }
    configuration.push(link::up(index));
    configuration.extend(attachment.addresses.iter().map(|(address, prefix)| link::address(index, *address, *prefix)));
    configuration.extend(attachment.gateways.iter().map(|gateway| link::default_route(index, *gateway)));
    Ok(configuration)
}

/// Writes a setting of an interface of the namespace that the thread is in: `net.ipv4.conf.IFNAME.NAME`, and nothing else.
fn set(setting: &str, interface: &str, value: &str) -> io::Result<()> {
    let mut parts = setting.split('.');
    let wrong = || io::Error::other(format!("`{setting}` is not net.ipv4.conf.IFNAME.NAME or the like"));
    match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("net"), Some(family), Some(kind @ ("conf" | "neigh")), Some("IFNAME"), Some(name), None)
            if matches!(family, "ipv4" | "ipv6" | "mpls") && !name.contains('/') =>
        {
            std::fs::write(format!("/proc/sys/net/{family}/{kind}/{interface}/{name}"), value)
        }
        _ => Err(wrong()),
    }
}

/// Joins a namespace that exists to one more network.
///
/// # Errors
/// The step that failed; the interface is not there then.
pub fn connect(container: &str, namespace: &OwnedFd, attachment: &Attachment) -> Result<(), NetworkError> {
    let step =
        |doing: &'static str| move |source: io::Error| NetworkError::Sandbox { container: container.to_string(), doing, source };
    let host = Netlink::route().map_err(step("opening a netlink socket"))?;
    inside_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|e| step("joining the network namespace")(e.into()))?;
        let inner = Netlink::route().map_err(step("opening a netlink socket in the namespace"))?;
        let configuration = join(&host, namespace, attachment, &step)?;
        inner.send(&configuration).map_err(|(_, e)| {
            if let Ok(index) = link::index_of(&attachment.name) {
                let _ = inner.send(&[link::delete(index)]);
            }
            step("setting addresses and routes")(e)
        })
    })
}

/// Takes the interface with an address out of a namespace.
///
/// # Errors
/// The step that failed.
pub fn disconnect(container: &str, namespace: &OwnedFd, address: IpAddr) -> Result<(), NetworkError> {
    at_interface(container, namespace, address, "removing the interface", |index, _| vec![link::delete(index)])
}

/// Has the interface with an address lead out of a namespace, by gateways of its network.
///
/// # Errors
/// The step that failed.
pub fn lead_out(container: &str, namespace: &OwnedFd, address: IpAddr, gateways: &[IpAddr]) -> Result<(), NetworkError> {
    let routes = |index, _: &str| gateways.iter().map(|gateway| link::default_route(index, *gateway)).collect();
    at_interface(container, namespace, address, "setting the default route", routes)
}

/// The addresses of an interface that others have had until now.
#[derive(Debug)]
pub struct Readdressing {
    /// What the interface has now and keeps, what it gets, and the prefix of both.
    pub addresses: Vec<(IpAddr, IpAddr, u8)>,
    pub gateways: Vec<IpAddr>,
    pub mac: [u8; 6],
    /// The host's end, whose bridge port lets the new MAC address through.
    pub host_name: String,
    pub port: link::BridgePort,
}

/// Gives an interface further addresses, from which the container speaks from now on, and the MAC address that neighbours know of
/// them. Connections to the addresses that it had go on.
///
/// # Errors
/// The step that failed.
pub fn readdress(container: &str, namespace: &OwnedFd, to: &Readdressing) -> Result<(), NetworkError> {
    let step =
        |doing: &'static str| move |source: io::Error| NetworkError::Sandbox { container: container.to_string(), doing, source };
    let Some((known, ..)) = to.addresses.first() else { return Ok(()) };
    let end = link::index_of(&to.host_name).map_err(step("finding the host's end"))?;
    let host = Netlink::route().map_err(step("opening a netlink socket"))?;
    host.send(&to.port.messages(end, to.mac)).map_err(|(_, e)| step("guarding the bridge's port")(e))?;
    let messages = |index: u32, name: &str| {
        // The change of the MAC address tells the neighbours of all addresses then.
        let _ = set("net.ipv4.conf.IFNAME.arp_notify", name, "1");
        let _ = set("net.ipv6.conf.IFNAME.ndisc_notify", name, "1");
        let mut messages = Vec::new();
        for (had, gets, prefix) in &to.addresses {
            // The first address of an IPv4 subnet is the one that is spoken from; with the last one go the others.
            if had.is_ipv4() {
                messages.push(link::remove_address(index, *had, *prefix));
            }
            messages.push(link::own_address(index, *gets, *prefix));
            messages.push(link::own_address(index, *had, *prefix));
        }
        messages.push(link::set_mac(index, to.mac));
        messages.extend(to.gateways.iter().map(|gateway| link::default_route(index, *gateway)));
        messages
    };
    at_interface(container, namespace, *known, "taking addresses over", messages)
}

/// Sends messages about the interface with an address, if there is one.
fn at_interface(
    container: &str,
    namespace: &OwnedFd,
    address: IpAddr,
    doing: &'static str,
    messages: impl FnOnce(u32, &str) -> Vec<NetlinkMessage> + Send,
) -> Result<(), NetworkError> {
    let step =
        |doing: &'static str| move |source: io::Error| NetworkError::Sandbox { container: container.to_string(), doing, source };
    inside_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|e| step("joining the network namespace")(e.into()))?;
        let inner = Netlink::route().map_err(step("opening a netlink socket in the namespace"))?;
        let mut interfaces = nix::ifaddrs::getifaddrs().map_err(|e| step("listing the interfaces")(e.into()))?;
        let name = interfaces.find(|interface| {
            interface.address.is_some_and(|a| match address {
                IpAddr::V4(ip) => a.as_sockaddr_in().is_some_and(|a| a.ip() == ip),
                IpAddr::V6(ip) => a.as_sockaddr_in6().is_some_and(|a| a.ip() == ip),
            })
        });
        let Some(name) = name.map(|interface| interface.interface_name) else { return Ok(()) };
        let index = link::index_of(&name).map_err(step("finding the interface"))?;
        inner.send(&messages(index, &name)).map_err(|(_, e)| step(doing)(e))
    })
}

/// Opens the resolver's sockets anew in a namespace that an earlier engine made.
///
/// # Errors
/// The step that failed.
pub fn adopt(container: &str, namespace: OwnedFd) -> Result<Sandbox, NetworkError> {
    let step =
        |doing: &'static str| move |source: io::Error| NetworkError::Sandbox { container: container.to_string(), doing, source };
    inside_thread(|| {
        setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|e| step("joining the network namespace")(e.into()))?;
        open_resolver().map_err(step("opening the resolver's sockets"))
    })
    .map(|resolver| Sandbox { namespace, resolver: Some(resolver) })
}

/// Does something in a namespace: what it opens there is of that namespace.
///
/// # Errors
/// The kernel's.
pub fn within<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let inside = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(THREAD_STACK).spawn_scoped(scope, inside)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs work that changes the thread's network namespace on a thread that ends with it.
fn inside_thread<T: Send>(work: impl FnOnce() -> Result<T, NetworkError> + Send) -> Result<T, NetworkError> {
    std::thread::scope(|scope| match std::thread::Builder::new().stack_size(THREAD_STACK).spawn_scoped(scope, work) {
        Ok(handle) => handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(source) => Err(NetworkError::Sandbox { container: String::new(), doing: "starting a thread", source }),
    })
}

/// Sockets of the engine on 127.0.0.11 inside the namespace, on ports of the kernel's choice, and rules that translate
/// port 53 to them and back. So port 53 stays free for a DNS server in the container, on every address.
///
/// The rules rewrite the ports of packets as they leave, without connection tracking, which would cost every packet of
/// the container.
fn open_resolver() -> io::Result<Resolver> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const SPORT: u32 = 0;
    const DPORT: u32 = 2;
    let udp = UdpSocket::bind(SocketAddrV4::new(RESOLVER, 0))?;
    let tcp = TcpListener::bind(SocketAddrV4::new(RESOLVER, 0))?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let mut change = Transaction::new(Family::Ip, "wharf-dns");
    change.replace_table();
    change.chain("output", &ChainHook { kind: "filter", number: nft::OUTPUT, priority: -150 });
    let resolver = |side| E::Address { side, subnet: Subnet::new(RESOLVER, 32), equal: true };
    for (protocol, port) in [(UDP, udp.local_addr()?.port()), (TCP, tcp.local_addr()?.port())] {
        // ip daddr 127.0.0.11 meta l4proto udp th dport 53 th dport set PORT
        let there = [
            resolver(Side::Destination),
            E::Protocol(protocol),
            E::Port { offset: DPORT, port: DNS_PORT },
            E::SetPort { offset: DPORT, port, protocol },
        ];
        // ip saddr 127.0.0.11 meta l4proto udp th sport PORT th sport set 53
        let back = [
            resolver(Side::Source),
            E::Protocol(protocol),
            E::Port { offset: SPORT, port },
            E::SetPort { offset: SPORT, port: DNS_PORT, protocol },
        ];
        change.rule("output", &there);
        change.rule("output", &back);
    }
    change.apply(&Netlink::netfilter()?)?;
    Ok(Resolver { udp, tcp })
}
