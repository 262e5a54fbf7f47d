//! The resolver of containers: names of their networks' members, and everything else from the host's resolvers.
//!
//! Each container asks at sockets of its own, so the server knows who asks, and answers only from that one's networks.

use super::address::Addresses;
use super::sandbox::Resolver;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Seconds that an answer may be kept: containers come and go.
const TTL: u32 = 5;
const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);

/// The names of every network.
#[derive(Default)]
pub struct Names {
    zones: RwLock<HashMap<String, Zone>>,
    turn: AtomicUsize,
}

#[derive(Default)]
struct Zone {
    internal: bool,
    forward: HashMap<String, Vec<(String, Addresses)>>,
    reverse: HashMap<IpAddr, String>,
}

/// What a container may see: its networks, in the order of its interfaces.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub networks: Vec<String>,
    /// The resolvers to ask instead of the host's (`dns:` of a service).
    pub servers: Vec<IpAddr>,
    /// Names of the container's own for others (`links:` of a service), in lower case.
    pub links: HashMap<String, String>,
}

impl Names {
    /// Says whether a network is internal; asked names of no member are not forwarded for containers on internal networks alone.
    pub fn set_network(&self, network: &str, internal: bool) {
        self.write().entry(network.to_string()).or_default().internal = internal;
    }

    pub fn remove_network(&self, network: &str) {
        self.write().remove(network);
    }

    /// Enters a container under its names; the first is the answer to a reverse question.
    pub fn insert(&self, network: &str, container: &str, names: &[String], addresses: Addresses) {
        let mut zones = self.write();
        let zone = zones.entry(network.to_string()).or_default();
        for name in names {
            let entries = zone.forward.entry(name.to_ascii_lowercase()).or_default();
            match entries.iter_mut().find(|(id, _)| id == container) {
                Some(entry) => entry.1 = addresses,
                None => entries.push((container.to_string(), addresses)),
            }
        }
        if let Some(first) = names.first() {
            zone.reverse.extend(addresses.iter().map(|address| (address, first.clone())));
        }
    }

    pub fn remove(&self, network: &str, container: &str) {
        if let Some(zone) = self.write().get_mut(network) {
            let mut gone = Vec::new();
            zone.forward.retain(|_, entries| {
                entries.retain(|(id, addresses)| {
                    if id == container {
                        gone.extend(addresses.iter());
                    }
                    id != container
                });
                !entries.is_empty()
            });
            gone.iter().for_each(|address| drop(zone.reverse.remove(address)));
        }
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, Zone>> {
        self.zones.write().unwrap_or_else(|e| e.into_inner())
    }

    /// The addresses of a name, beginning with another one each time.
    pub fn lookup(&self, view: &View, name: &str) -> Vec<Addresses> {
        let zones = self.zones.read().unwrap_or_else(|e| e.into_inner());
        let name = view.links.get(name).map_or(name, String::as_str);
        for network in &view.networks {
            if let Some(entries) = zones.get(network).and_then(|zone| zone.forward.get(name)) {
                let mut addresses: Vec<Addresses> = entries.iter().map(|(_, addresses)| *addresses).collect();
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len().max(1);
                addresses.rotate_left(turn);
                return addresses;
            }
        }
        Vec::new()
    }

    fn reverse(&self, view: &View, address: IpAddr) -> Option<String> {
        let zones = self.zones.read().unwrap_or_else(|e| e.into_inner());
        view.networks.iter().find_map(|network| zones.get(network)?.reverse.get(&address).cloned())
    }

    fn may_forward(&self, view: &View) -> bool {
        let zones = self.zones.read().unwrap_or_else(|e| e.into_inner());
        view.networks.iter().any(|network| zones.get(network).is_none_or(|zone| !zone.internal))
    }

    /// The answer to a question about a member of the container's networks; `None` for any other question.
    fn answer(&self, view: &View, query: &Message) -> Option<Message> {
        let question = query.queries().first()?;
        let name = question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let mut answer = reply(query, ResponseCode::NoError);
        answer.set_authoritative(true);
        if let Some(address) = reverse_address(&name).filter(|_| question.query_type() == RecordType::PTR) {
            let target = Name::from_str(&format!("{}.", self.reverse(view, address)?)).ok()?;
            answer.add_answer(Record::from_rdata(question.name().clone(), TTL, RData::PTR(PTR(target))));
            return Some(answer);
        }
        let addresses = self.lookup(view, &name);
        if addresses.is_empty() {
            return None;
        }
        // A name that exists but has no address of the asked kind is an empty answer, not NXDOMAIN: resolvers ask for
        // AAAA beside A, and some would take NXDOMAIN for both.
        let data = addresses.iter().filter_map(|addresses| match question.query_type() {
            RecordType::A => addresses.ipv4.map(|address| RData::A(A(address))),
            RecordType::AAAA => addresses.ipv6.map(|address| RData::AAAA(AAAA(address))),
            _ => None,
        });
        for data in data {
            answer.add_answer(Record::from_rdata(question.name().clone(), TTL, data));
        }
        Some(answer)
    }
}

fn reply(query: &Message, code: ResponseCode) -> Message {
    let mut message = Message::new();
    message.set_id(query.id()).set_message_type(MessageType::Response).set_op_code(query.op_code());
    message.set_recursion_desired(query.recursion_desired()).set_recursion_available(true).set_response_code(code);
    message.add_queries(query.queries().iter().cloned());
    message
}

/// The address that `4.3.2.1.in-addr.arpa`, or 32 hexadecimal digits before `ip6.arpa`, ask about.
fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<&str> = octets.split('.').rev().collect();
        return octets.join(".").parse().ok();
    }
    let digits: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').rev().collect();
    let single = digits.len() == 32 && digits.iter().all(|digit| digit.len() == 1);
    let bits = u128::from_str_radix(&digits.concat(), 16).ok().filter(|_| single)?;
    Some(Ipv6Addr::from_bits(bits).into())
}

/// Serves a container until the returned handle is dropped.
pub fn serve(resolver: Resolver, names: Arc<Names>, view: View) -> std::io::Result<Serving> {
    let udp = Arc::new(UdpSocket::from_std(resolver.udp)?);
    let tcp = TcpListener::from_std(resolver.tcp)?;
    let view: Shown = Arc::new(RwLock::new(Arc::new(view)));
    let udp_task = tokio::spawn(serve_udp(udp, names.clone(), view.clone()));
    let tcp_task = tokio::spawn(serve_tcp(tcp, names, view.clone()));
    Ok(Serving { view, tasks: [udp_task.abort_handle(), tcp_task.abort_handle()] })
}

/// A container's running resolver.
#[derive(Debug)]
pub struct Serving {
    view: Shown,
    tasks: [tokio::task::AbortHandle; 2],
}

/// A view that may be replaced while it is looked through.
type Shown = Arc<RwLock<Arc<View>>>;

fn current(view: &Shown) -> Arc<View> {
    view.read().unwrap_or_else(|e| e.into_inner()).clone()
}

impl Serving {
    /// Shows the container other networks from now on.
    pub fn set_view(&self, view: View) {
        *self.view.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(view);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, names: Arc<Names>, shown: Shown) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
        let view = current(&shown);
        if let Some(answer) = names.answer(&view, &query).and_then(|answer| answer.to_vec().ok()) {
            let _ = socket.send_to(&answer, peer).await;
            continue;
        }
        let (socket, names) = (socket.clone(), names.clone());
        let raw = buffer[..length].to_vec();
        tokio::spawn(async move {
            let answer = forward(&names, &view, &query, &raw, Transport::Udp).await;
            let _ = socket.send_to(&answer, peer).await;
        });
    }
}

async fn serve_tcp(listener: TcpListener, names: Arc<Names>, shown: Shown) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let (names, view) = (names.clone(), current(&shown));
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut raw = vec![0; usize::from(length)];
                if stream.read_exact(&mut raw).await.is_err() {
                    return;
                }
                let Ok(query) = Message::from_vec(&raw) else { return };
                let answer = match names.answer(&view, &query).and_then(|answer| answer.to_vec().ok()) {
                    Some(answer) => answer,
                    None => forward(&names, &view, &query, &raw, Transport::Tcp).await,
                };
                let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
                if stream.write_all(&framed).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[derive(Clone, Copy)]
enum Transport {
    Udp,
    Tcp,
}

/// Asks the resolvers in order until one answers.
async fn forward(names: &Names, view: &View, query: &Message, raw: &[u8], transport: Transport) -> Vec<u8> {
    let fail = |code| reply(query, code).to_vec().unwrap_or_default();
    if !names.may_forward(view) {
        return fail(ResponseCode::NXDomain);
    }
    let servers = if view.servers.is_empty() { host_resolvers() } else { view.servers.clone() };
    for server in servers {
        let address = SocketAddr::new(server, 53);
        let asked = tokio::time::timeout(FORWARD_TIMEOUT, async {
            match transport {
                Transport::Udp => ask_udp(address, raw).await,
                Transport::Tcp => ask_tcp(address, raw).await,
            }
        });
        if let Ok(Ok(answer)) = asked.await {
            return answer;
        }
    }
    fail(ResponseCode::ServFail)
}

async fn ask_udp(server: SocketAddr, raw: &[u8]) -> std::io::Result<Vec<u8>> {
    let local: SocketAddr = if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(raw).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if length >= 2 && buffer[..2] == raw[..2] {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, raw: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&[&(raw.len() as u16).to_be_bytes()[..], raw].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The host's resolvers, read when they are needed: they change when a laptop moves.
fn host_resolvers() -> Vec<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;

    fn ask(names: &Names, name: &str, kind: RecordType) -> Option<Vec<String>> {
        let view = View { networks: vec!["n".into()], ..View::default() };
        let mut query = Message::new();
        query.add_query(Query::query(Name::from_str(name).expect("name"), kind));
        let answer = names.answer(&view, &query)?;
        Some(answer.answers().iter().map(|r| r.data().to_string()).collect())
    }

    #[test]
    fn members_have_addresses_and_names() {
        let names = Names::default();
        let ip = |d| Addresses { ipv4: Some(Ipv4Addr::new(10, 0, 0, d)), ipv6: None };
        names.insert("n", "c1", &["p-web-1".into(), "web".into()], ip(2));
        names.insert("n", "c2", &["p-web-2".into(), "web".into()], ip(3));
        names.insert("other", "c3", &["secret".into()], ip(4));
        let first = ask(&names, "web.", RecordType::A).expect("known");
        let second = ask(&names, "WEB.", RecordType::A).expect("known");
        assert_eq!(first.len(), 2);
        assert_ne!(first, second, "the order rotates");
        assert_eq!(ask(&names, "web.", RecordType::AAAA), Some(vec![]));
        assert_eq!(ask(&names, "2.0.0.10.in-addr.arpa.", RecordType::PTR), Some(vec!["p-web-1.".into()]));
        assert_eq!(ask(&names, "secret.", RecordType::A), None);
        names.remove("n", "c1");
        assert_eq!(ask(&names, "web.", RecordType::A), Some(vec!["10.0.0.3".into()]));
        names.remove("n", "c2");
        assert_eq!(ask(&names, "web.", RecordType::A), None);
    }

    #[test]
    fn both_families_are_answered() {
        let names = Names::default();
        let ipv6: Ipv6Addr = "fd00:1::2".parse().expect("address");
        names.insert("n", "c1", &["web".into()], Addresses { ipv4: Some(Ipv4Addr::new(10, 0, 0, 2)), ipv6: Some(ipv6) });
        names.insert("n", "c2", &["six".into()], Addresses { ipv4: None, ipv6: Some(ipv6) });
        assert_eq!(ask(&names, "web.", RecordType::AAAA), Some(vec!["fd00:1::2".into()]));
        assert_eq!(ask(&names, "six.", RecordType::A), Some(vec![]));
        let digits = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.";
        assert_eq!(ask(&names, digits, RecordType::PTR), Some(vec!["six.".into()]));
        assert_eq!(ask(&names, "2.0.0.ip6.arpa.", RecordType::PTR), None);
    }
}
