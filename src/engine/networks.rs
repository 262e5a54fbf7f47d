//! Networks: made and removed on request, and a container's place on them.

use super::error::{EngineError, state_error};
use super::record::{ContainerRecord, EndpointSpec, NetworkDriver, NetworkMode, NetworkRecord};
use super::{Container, Engine, locked, new_id};
use crate::network::address::{self, Subnet};
use crate::network::dns::{self, View};
use crate::network::firewall::{Forward, Wall};
use crate::network::netlink::Netlink;
use crate::network::ports::{self, Reservation};
use crate::network::proxy::{self, Proxy};
use crate::network::sandbox::{self, Attachment, Sandbox};
use crate::network::{NetworkError, link};
use indexmap::IndexMap;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What a network is made with.
#[derive(Clone, Debug, Default)]
pub struct NewNetwork {
    pub name: String,
    pub subnet: Option<String>,
    pub gateway: Option<String>,
    pub ip_range: Option<String>,
    /// Addresses of others on the network, by any name.
    pub reserved: IndexMap<String, String>,
    pub internal: bool,
    pub labels: IndexMap<String, String>,
    /// `bridge` where it is empty.
    pub driver: String,
    pub options: IndexMap<String, String>,
}

/// The network of containers that name none, as Docker calls its own. It is there as long as one of them is.
pub const DEFAULT_NETWORK: &str = "bridge";

/// A container's place on its networks, ready to be handed to its monitor.
pub(super) struct Placed {
    pub namespace: Option<Arc<OwnedFd>>,
    pub address: Option<Ipv4Addr>,
}

/// Listens on the first free port of a range on one of the host's IPv6 addresses.
fn start_proxy(
    address: Ipv6Addr,
    protocol: &str,
    range: std::ops::RangeInclusive<u16>,
    to: SocketAddrV4,
    owner: &dyn Fn(u16) -> Option<String>,
) -> Result<Proxy, EngineError> {
    if protocol != "tcp" {
        return Err(EngineError::Invalid(format!("{protocol} cannot be published on the IPv6 address {address}; tcp can")));
    }
    let mut last = None;
    for port in range {
        match proxy::start(address, port, to) {
            Ok(proxy) => return Ok(proxy),
            Err(error) => last = Some((port, error)),
        }
    }
    let (port, error) = last.unwrap_or((0, std::io::ErrorKind::InvalidInput.into()));
    let owner = ports::blame(protocol, port, &error, owner);
    Err(NetworkError::PortTaken { port, protocol: protocol.into(), address: format!("[{address}]"), owner }.into())
}

/// What a container's resolver shows it.
fn view(record: &ContainerRecord, places: &[(NetworkRecord, Ipv4Addr)]) -> View {
    let lower = |(alias, of): &(String, String)| (alias.to_ascii_lowercase(), of.to_ascii_lowercase());
    View {
        networks: places.iter().map(|(network, _)| network.id.clone()).collect(),
        servers: record.spec.dns.iter().filter_map(|server| server.parse().ok()).collect(),
        links: record.spec.links.iter().map(lower).collect(),
    }
}

/// The interface of the host that a macvlan or ipvlan network is on, and of which kind its interfaces are.
fn parent_of(network: &NetworkRecord) -> Result<(u32, link::Kind), EngineError> {
    let driver = network.driver.as_str();
    let mode = network.option(if driver == "macvlan" { "macvlan_mode" } else { "ipvlan_mode" });
    let kind = link::Kind::parse(driver, mode).ok_or_else(|| {
        let mode = mode.unwrap_or_default();
        EngineError::Invalid(format!("the network {} has the {driver}_mode `{mode}`, which there is not", network.name))
    })?;
    let parent = network.option("parent").ok_or_else(|| {
        EngineError::Invalid(format!(
            "the network {} of driver {driver} needs `driver_opts: {{parent: INTERFACE}}`, one of the host's interfaces",
            network.name
        ))
    })?;
    let index = link::index_of(parent).map_err(|_| {
        EngineError::Invalid(format!("the network {} is on the interface `{parent}`, which the host does not have", network.name))
    })?;
    Ok((index, kind))
}

impl Engine {
    pub fn networks(&self) -> Vec<NetworkRecord> {
        locked(&self.networks).values().cloned().collect()
    }

    /// A network by name, id, or the beginning of its id.
    ///
    /// # Errors
    /// When there is none.
    pub fn network(&self, name: &str) -> Result<NetworkRecord, EngineError> {
        let networks = locked(&self.networks);
        networks
            .values()
            .find(|n| n.name == name || n.id == name)
            .or_else(|| networks.values().find(|n| name.len() >= 4 && n.id.starts_with(name)))
            .cloned()
            .ok_or_else(|| EngineError::NoSuch { what: "network", name: name.into() })
    }

    /// Makes a network: its bridge, its walls, its place in the state.
    ///
    /// # Errors
    /// When the name or the subnet is taken, or the kernel refuses.
    pub fn create_network(&self, new: &NewNetwork) -> Result<NetworkRecord, EngineError> {
        let driver = match new.driver.as_str() {
            "" | "bridge" | "default" => NetworkDriver::Bridge,
            "macvlan" => NetworkDriver::Macvlan,
            "ipvlan" => NetworkDriver::Ipvlan,
            other => {
                return Err(EngineError::Invalid(format!(
                    "the network {} has the driver `{other}`; wharf has `bridge`, `macvlan` and `ipvlan`",
                    new.name
                )));
            }
        };
        if let Some(name) = new.options.get("com.docker.network.bridge.name").filter(|name| name.len() > 15 || name.contains('/'))
        {
            return Err(EngineError::Invalid(format!("`{name}` cannot be a bridge's name: it has 15 characters at most")));
        }
        // Engines with other roots choose their subnets by the same routes: one after the other, until the route is there.
        // A lock on this directory leaves no file behind.
        let routes_directory = std::fs::File::open("/sys/class/net").map_err(EngineError::io("opening /sys/class/net"))?;
        let _choosing = nix::fcntl::Flock::lock(routes_directory, nix::fcntl::FlockArg::LockExclusive)
            .map_err(|(_, e)| EngineError::Io { doing: "locking the choice of a subnet".into(), source: e.into() })?;
        let mut networks = locked(&self.networks);
        if networks.values().any(|n| n.name == new.name) {
            return Err(EngineError::Conflict(format!("there is a network `{}` already", new.name)));
        }
        let mut used: Vec<(Subnet, String)> = networks.values().map(|n| (n.subnet, format!("the network {}", n.name))).collect();
        // On an interface of the host's, containers are in the network that the host itself is in.
        if driver == NetworkDriver::Bridge {
            let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
            used.extend(address::routes(&routes).into_iter().map(|s| (s, "a route of the host".to_string())));
        }
        let subnet = match &new.subnet {
            Some(text) => {
                let subnet: Subnet = text.parse()?;
                if let Some((with, whose)) = used.iter().find(|(u, _)| u.overlaps(subnet)) {
                    let with = format!("{with} ({whose})");
                    return Err(NetworkError::Overlap { network: new.name.clone(), subnet: text.clone(), with }.into());
                }
                subnet
            }
            None => {
                let taken: Vec<Subnet> = used.iter().map(|(s, _)| *s).collect();
                address::choose(&taken).ok_or_else(|| NetworkError::PoolExhausted { network: new.name.clone() })?
            }
        };
        let gateway = match &new.gateway {
            Some(text) => text.parse().ok().filter(|a| subnet.contains(*a)).ok_or_else(|| NetworkError::ForeignAddress {
                network: new.name.clone(),
                address: text.clone(),
                subnet: subnet.to_string(),
            })?,
            None => subnet.gateway(),
        };
        let foreign = |text: &str| NetworkError::ForeignAddress {
            network: new.name.clone(),
            address: text.into(),
            subnet: subnet.to_string(),
        };
        let ip_range = match &new.ip_range {
            Some(text) => Some(text.parse().ok().filter(|range: &Subnet| subnet.overlaps(*range)).ok_or_else(|| foreign(text))?),
            None => None,
        };
        let reserved = new.reserved.iter().map(|(name, text)| {
            let address = text.parse().ok().filter(|a| subnet.contains(*a)).ok_or_else(|| foreign(text))?;
            Ok((name.clone(), address))
        });
        let reserved = reserved.collect::<Result<IndexMap<String, Ipv4Addr>, NetworkError>>()?;
        let record = NetworkRecord {
            ip_range,
            reserved,
            driver,
            options: new.options.clone(),
            id: new_id().map_err(EngineError::io("making an id"))?,
            name: new.name.clone(),
            created_at: jiff::Timestamp::now(),
            subnet,
            gateway,
            internal: new.internal,
            labels: new.labels.clone(),
        };
        self.raise_bridge(&record)?;
        networks.insert(record.id.clone(), record.clone());
        let result = self
            .write_walls(&networks)
            .and_then(|()| self.journal.put(&format!("network/{}", record.id), &record).map_err(state_error));
        if let Err(error) = result {
            networks.shift_remove(&record.id);
            self.drop_bridge(&record);
            return Err(error);
        }
        self.names.set_network(&record.id, record.internal);
        self.emit("network", "create", &record.id, [("name".to_string(), record.name.clone())].into());
        Ok(record)
    }

    /// Makes the bridge; one that is there already is taken as it is.
    pub(super) fn raise_bridge(&self, record: &NetworkRecord) -> Result<(), EngineError> {
        if record.driver != NetworkDriver::Bridge {
            return parent_of(record).map(drop);
        }
        let failed = |doing: &'static str| {
            let network = record.name.clone();
            move |source| NetworkError::Kernel { network, doing, source }
        };
        let netlink = Netlink::route().map_err(failed("opening a netlink socket"))?;
        let bridge = record.bridge();
        link::make_bridge(&netlink, &bridge, record.group(), record.mtu(), record.subnet, record.gateway)
            .map_err(failed("making its bridge"))?;
        let settings = [
            (format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1"),
            (format!("/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6"), "1"),
            ("/proc/sys/net/ipv4/ip_forward".to_string(), "1"),
        ];
        for (path, value) in settings {
            match std::fs::write(&path, value) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(failed("setting its sysctls"))?,
            }
        }
        Ok(())
    }

    fn drop_bridge(&self, record: &NetworkRecord) {
        if let Ok(netlink) = Netlink::route() {
            let _ = netlink.send(&[link::delete_group(record.group())]);
        }
    }

    pub(super) fn write_walls(&self, networks: &IndexMap<String, NetworkRecord>) -> Result<(), EngineError> {
        let bridges = networks.values().filter(|n| n.driver == NetworkDriver::Bridge);
        let wall = |n: &NetworkRecord| Wall {
            bridge: n.bridge(),
            subnet: n.subnet,
            internal: n.internal,
            masquerade: n.is_on("com.docker.network.bridge.enable_ip_masquerade"),
            connected: n.is_on("com.docker.network.bridge.enable_icc"),
        };
        let walls = bridges.map(wall).collect();
        Ok(self.firewall.set_walls(walls).map_err(NetworkError::Firewall)?)
    }

    /// Removes a network that no container is on.
    ///
    /// # Errors
    /// When a container is on it: the message names it.
    pub fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        let record = self.network(name)?;
        let user = self
            .containers()
            .into_iter()
            .find(|c| c.with_record(|user| user.endpoints.contains_key(&record.id) && user.state.status.is_alive()));
        if let Some(user) = user {
            return Err(EngineError::Conflict(format!("the network {} is in use by the container {}", record.name, user.name())));
        }
        let mut networks = locked(&self.networks);
        networks.shift_remove(&record.id);
        self.write_walls(&networks)?;
        drop(networks);
        self.drop_bridge(&record);
        self.names.remove_network(&record.id);
        self.journal.delete(&format!("network/{}", record.id)).map_err(state_error)?;
        self.emit("network", "destroy", &record.id, [("name".to_string(), record.name.clone())].into());
        Ok(())
    }

    /// Makes the network of containers that name none, unless it is there.
    pub(super) fn make_default_network(&self) -> Result<(), EngineError> {
        match self.create_network(&NewNetwork { name: DEFAULT_NETWORK.into(), ..NewNetwork::default() }) {
            Err(EngineError::Conflict(_)) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Removes a network that no container is configured for, whether or not it runs; tells whether it did.
    pub fn remove_unused_network(&self, name: &str) -> bool {
        let used = |record: &ContainerRecord| record.spec.networks.iter().any(|endpoint| endpoint.network == name);
        !self.containers().iter().any(|container| container.with_record(used)) && self.remove_network(name).is_ok()
    }

    /// Gives a container its addresses, one on each of its networks. Those that it has already stay.
    fn assign_addresses(&self, container: &Container) -> Result<Vec<(NetworkRecord, Ipv4Addr)>, EngineError> {
        let record = container.record();
        // The lock of the networks makes looking, choosing and noting an address one step for all containers.
        let networks = locked(&self.networks);
        let mut others: HashSet<(String, Ipv4Addr)> = HashSet::new();
        for other in self.containers().iter().filter(|c| c.id != container.id) {
            others.extend(locked(&other.record).endpoints.iter().map(|(id, address)| (id.clone(), *address)));
        }
        let mut places = Vec::new();
        for endpoint in &record.spec.networks {
            let network = networks
                .values()
                .find(|n| n.name == endpoint.network)
                .ok_or_else(|| EngineError::NoSuch { what: "network", name: endpoint.network.clone() })?;
            let taken = |a: Ipv4Addr| {
                a == network.gateway
                    || others.contains(&(network.id.clone(), a))
                    || network.reserved.values().any(|reserved| *reserved == a)
            };
            let range = network.ip_range.unwrap_or(network.subnet);
            let unfit = |a: Ipv4Addr| taken(a) || !network.subnet.contains(a) || a == network.subnet.base();
            let chosen = match (record.endpoints.get(&network.id), endpoint.ipv4_address) {
                (Some(known), _) if network.subnet.contains(*known) && !taken(*known) => *known,
                (_, Some(wanted)) => {
                    if !network.subnet.contains(wanted) {
                        let (network, subnet) = (network.name.clone(), network.subnet.to_string());
                        return Err(NetworkError::ForeignAddress { network, address: wanted.to_string(), subnet }.into());
                    }
                    if taken(wanted) {
                        return Err(NetworkError::AddressTaken { network: network.name.clone(), address: wanted.into() }.into());
                    }
                    wanted
                }
                _ => range.free(&unfit).ok_or_else(|| NetworkError::SubnetFull {
                    network: network.name.clone(),
                    subnet: network.subnet.to_string(),
                })?,
            };
            places.push((network.clone(), chosen));
        }
        let endpoints: IndexMap<String, Ipv4Addr> = places.iter().map(|(n, a)| (n.id.clone(), *a)).collect();
        if endpoints != record.endpoints {
            self.update(container, |record| record.endpoints = endpoints);
        }
        Ok(places)
    }

    /// Puts a container on its networks: namespace, names, ports. A namespace that it still has is kept.
    ///
    /// # Errors
    /// The step that failed; nothing of it is left.
    pub(super) async fn place(self: &Arc<Self>, container: &Arc<Container>) -> Result<Placed, EngineError> {
        let record = container.record();
        match &record.spec.network_mode {
            NetworkMode::Host => return Ok(Placed { namespace: None, address: None }),
            NetworkMode::Container(id) => {
                let other = self.container(id)?;
                let namespace = locked(&other.live).namespace.clone();
                let namespace = namespace.ok_or_else(|| EngineError::Start {
                    name: record.name.clone(),
                    message: format!("it shares the network of {}, which is not running", other.name()),
                    code: 128,
                })?;
                let address = other.record().endpoints.values().next().copied();
                return Ok(Placed { namespace: Some(namespace), address });
            }
            NetworkMode::Bridge | NetworkMode::None => {}
        }
        if let Some(namespace) = locked(&container.live).namespace.clone() {
            return Ok(Placed { namespace: Some(namespace), address: record.endpoints.values().next().copied() });
        }
        let places = if record.spec.network_mode == NetworkMode::None { Vec::new() } else { self.assign_addresses(container)? };
        let attachments = self.attachments(&record, &places)?;
        let name = record.name.clone();
        let made = tokio::task::spawn_blocking(move || sandbox::make(&name, &attachments));
        let sandbox = made.await.map_err(|e| EngineError::Invalid(e.to_string()))??;
        let namespace = self.settle(container, sandbox, &places)?;
        if let Err(error) = self.publish(container, &places) {
            self.unplace(container);
            return Err(error);
        }
        Ok(Placed { namespace: Some(namespace), address: places.first().map(|(_, a)| *a) })
    }

    fn attachments(
        &self,
        record: &ContainerRecord,
        places: &[(NetworkRecord, Ipv4Addr)],
    ) -> Result<Vec<Attachment>, EngineError> {
        let endpoint = |network: &NetworkRecord| record.spec.networks.iter().find(|e| e.network == network.name);
        let mut attachments = Vec::new();
        for (i, (network, address)) in places.iter().enumerate() {
            let options = endpoint(network).cloned().unwrap_or_default();
            attachments.push(self.attachment(&record.id, i, network, *address, &options)?);
        }
        // The default route is on the network with the highest `gw_priority`; of equal ones the first.
        let ways_out = places.iter().enumerate().filter(|(_, (network, _))| !network.internal);
        let priority = |network: &NetworkRecord| endpoint(network).map_or(0, |e| e.gw_priority);
        if let Some((i, (network, _))) = ways_out.min_by_key(|(i, (network, _))| (-priority(network), *i)) {
            attachments[i].gateway = Some(network.gateway);
        }
        Ok(attachments)
    }

    /// A container's n-th interface, without a route.
    pub(super) fn attachment(
        &self,
        id: &str,
        n: usize,
        network: &NetworkRecord,
        address: Ipv4Addr,
        options: &EndpointSpec,
    ) -> Result<Attachment, EngineError> {
        let to = if network.driver == NetworkDriver::Bridge {
            let bridge = network.bridge();
            let index = match link::index_of(&bridge) {
                Ok(index) => index,
                // After a reboot, or when somebody has deleted it.
                Err(_) => {
                    self.raise_bridge(network)?;
                    link::index_of(&bridge).map_err(|source| NetworkError::Kernel {
                        network: network.name.clone(),
                        doing: "finding its bridge",
                        source,
                    })?
                }
            };
            // Unlike any earlier interface of the same container, which the kernel may not have removed yet.
            let turn = self.next_exec.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 0x1000;
            let isolated = !network.is_on("com.docker.network.bridge.enable_icc");
            let host_name = format!("wh{}{turn:03x}{}", &id[..8], n % 10);
            sandbox::To::Bridge { bridge: index, group: network.group(), host_name, isolated }
        } else {
            let (parent, kind) = parent_of(network)?;
            sandbox::To::Parent { parent, kind }
        };
        Ok(Attachment {
            to,
            name: options.interface_name.clone().unwrap_or_else(|| format!("eth{n}")),
            mac: options.mac_address.unwrap_or_else(|| link::mac_of(address)),
            mtu: network.mtu(),
            subnet: network.subnet,
            address,
            link_local: options.link_local_ips.clone(),
            gateway: None,
        })
    }

    /// Takes a sandbox over: its resolver serves, and others find the container by its names.
    pub(super) fn settle(
        &self,
        container: &Container,
        sandbox: Sandbox,
        places: &[(NetworkRecord, Ipv4Addr)],
    ) -> Result<Arc<OwnedFd>, EngineError> {
        let record = container.record();
        let view = view(&record, places);
        let resolver = sandbox.resolver.map(|r| dns::serve(r, self.names.clone(), view)).transpose();
        let resolver = resolver.map_err(EngineError::io(format!("starting the resolver of {}", record.name)))?;
        let namespace = Arc::new(sandbox.namespace);
        let mut live = locked(&container.live);
        live.namespace = Some(namespace.clone());
        live.resolver = resolver;
        drop(live);
        self.enter_names(&record, places);
        Ok(namespace)
    }

    /// Puts a container on one more network; a running one at once.
    ///
    /// # Errors
    /// When it is on it already, or has no network namespace of its own.
    pub async fn connect(
        self: &Arc<Self>,
        container: &Arc<Container>,
        network: &str,
        mut endpoint: EndpointSpec,
    ) -> Result<(), EngineError> {
        let _operation = container.operation.lock().await;
        let network = self.network(network)?;
        let before = container.record();
        if before.spec.network_mode != NetworkMode::Bridge {
            return Err(EngineError::Conflict(format!("the container {} has a network mode, and no networks", before.name)));
        }
        if before.spec.networks.iter().any(|e| e.network == network.name) {
            return Err(EngineError::Conflict(format!(
                "the container {} is on the network {} already",
                before.name, network.name
            )));
        }
        endpoint.network = network.name.clone();
        let options = endpoint.clone();
        self.update(container, |record| record.spec.networks.push(endpoint));
        let namespace = locked(&container.live).namespace.clone();
        let Some(namespace) = namespace else { return Ok(()) };
        let connected = async {
            let places = self.assign_addresses(container)?;
            let Some((_, address)) = places.iter().find(|(n, _)| n.id == network.id) else { return Ok(places) };
            let mut attachment = self.attachment(&before.id, before.spec.networks.len(), &network, *address, &options)?;
            // Where no network led out before, this one does.
            let leads_out = self.places(&before).iter().any(|(n, _)| !n.internal);
            attachment.gateway = (!network.internal && !leads_out).then_some(network.gateway);
            let name = before.name.clone();
            let joining = tokio::task::spawn_blocking(move || sandbox::connect(&name, &namespace, &attachment));
            joining.await.map_err(|e| EngineError::Invalid(e.to_string()))??;
            Ok::<_, EngineError>(places)
        };
        match connected.await {
            Ok(places) => self.show_networks(container, &places),
            Err(error) => {
                self.update(container, |record| {
                    record.spec.networks = before.spec.networks;
                    record.endpoints = before.endpoints;
                });
                return Err(error);
            }
        }
        self.emit("network", "connect", &network.id, [("container".to_string(), before.id)].into());
        Ok(())
    }

    /// Takes a container off a network; a running one at once.
    ///
    /// # Errors
    /// When it is not on it.
    pub async fn disconnect(self: &Arc<Self>, container: &Arc<Container>, network: &str) -> Result<(), EngineError> {
        let _operation = container.operation.lock().await;
        let network = self.network(network)?;
        let record = container.record();
        if !record.spec.networks.iter().any(|e| e.network == network.name) {
            return Err(EngineError::Conflict(format!("the container {} is not on the network {}", record.name, network.name)));
        }
        let namespace = locked(&container.live).namespace.clone();
        if let (Some(namespace), Some(address)) = (namespace, record.endpoints.get(&network.id).copied()) {
            let name = record.name.clone();
            let leaving = tokio::task::spawn_blocking(move || sandbox::disconnect(&name, &namespace, address));
            leaving.await.map_err(|e| EngineError::Invalid(e.to_string()))??;
        }
        self.update(container, |record| {
            record.spec.networks.retain(|e| e.network != network.name);
            record.endpoints.shift_remove(&network.id);
        });
        self.names.remove(&network.id, &record.id);
        self.show_networks(container, &self.places(&container.record()));
        self.emit("network", "disconnect", &network.id, [("container".to_string(), record.id)].into());
        Ok(())
    }

    /// Has a running container see its networks, and others on them see it.
    fn show_networks(&self, container: &Container, places: &[(NetworkRecord, Ipv4Addr)]) {
        let record = container.record();
        if let Some(resolver) = &locked(&container.live).resolver {
            resolver.set_view(view(&record, places));
        }
        self.enter_names(&record, places);
    }

    pub(super) fn enter_names(&self, record: &ContainerRecord, places: &[(NetworkRecord, Ipv4Addr)]) {
        for (network, address) in places {
            let mut names = vec![record.name.clone()];
            if let Some(endpoint) = record.spec.networks.iter().find(|e| e.network == network.name) {
                names.extend(endpoint.aliases.iter().cloned());
            }
            names.push(record.id[..12].to_string());
            names.push(record.id.clone());
            names.extend(record.spec.hostname.clone());
            self.names.insert(&network.id, &record.id, &names, *address);
        }
    }

    /// Where a container is on its networks, by its record.
    pub(super) fn places(&self, record: &ContainerRecord) -> Vec<(NetworkRecord, Ipv4Addr)> {
        let networks = locked(&self.networks);
        record.endpoints.iter().filter_map(|(id, address)| Some((networks.get(id)?.clone(), *address))).collect()
    }

    /// Takes the host's ports and leads them to the container.
    pub(super) fn publish(&self, container: &Container, places: &[(NetworkRecord, Ipv4Addr)]) -> Result<(), EngineError> {
        let record = container.record();
        let Some(address) = places.iter().find(|(n, _)| !n.internal).map(|(_, a)| *a) else { return Ok(()) };
        if record.spec.ports.is_empty() {
            return Ok(());
        }
        let mut reservations: Vec<Reservation> = Vec::new();
        let (mut forwards, mut proxies, mut bound) = (Vec::new(), Vec::new(), Vec::new());
        for port in &record.spec.ports {
            let owner = |number: u16| self.owner_of(&container.id, number, &port.protocol);
            // A container that is started again keeps the ports that the kernel chose for it.
            let host_ip = port.host_ip.filter(|ip| *ip != IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let same = |bound: &&(u16, String, Option<IpAddr>, u16)| {
                bound.0 == port.target && bound.1 == port.protocol && bound.2 == host_ip && port.published == (0, 0)
            };
            let known = record.bound_ports.iter().find(same);
            let range = known.map_or(port.published.0..=port.published.1, |b| b.3..=b.3);
            let to = SocketAddrV4::new(address, port.target);
            let host_ip = match host_ip {
                Some(IpAddr::V6(ip)) => {
                    let proxy = start_proxy(ip, &port.protocol, range, to, &owner)?;
                    bound.push((port.target, port.protocol.clone(), Some(IpAddr::V6(ip)), proxy.port));
                    proxies.push(proxy);
                    continue;
                }
                Some(IpAddr::V4(ip)) => Some(ip),
                None => None,
            };
            let reservation = ports::reserve(host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), &port.protocol, range, &owner)?;
            forwards.push(Forward {
                host_ip,
                protocol: if port.protocol == "udp" { 17 } else { 6 },
                port: reservation.port,
                to: (address, port.target),
            });
            bound.push((port.target, port.protocol.clone(), host_ip.map(IpAddr::V4), reservation.port));
            // On every address means on those of IPv6, too, where the host has any and the port is free there.
            if port.host_ip.is_none()
                && port.protocol == "tcp"
                && let Ok(proxy) = proxy::start(Ipv6Addr::UNSPECIFIED, reservation.port, to)
            {
                bound.push((port.target, port.protocol.clone(), Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), proxy.port));
                proxies.push(proxy);
            }
            reservations.push(reservation);
        }
        self.firewall.publish(&forwards).map_err(NetworkError::Firewall)?;
        let mut live = locked(&container.live);
        live.reservations = reservations;
        live.proxies = proxies;
        live.forwards = forwards;
        drop(live);
        if record.bound_ports != bound {
            self.update(container, |record| record.bound_ports = bound);
        }
        Ok(())
    }

    fn owner_of(&self, own_id: &str, port: u16, protocol: &str) -> Option<String> {
        let owner = self.containers().into_iter().filter(|c| c.id != own_id && c.status().is_alive()).find(|c| {
            c.with_record(|record| record.bound_ports.iter().any(|(_, p, _, number)| *number == port && p == protocol))
        })?;
        let record = owner.record();
        let label = |key: &str| record.spec.labels.get(key).cloned();
        Some(match (label(super::convert::LABEL_PROJECT), label(super::convert::LABEL_SERVICE)) {
            (Some(project), Some(service)) => format!("the service `{service}` of the project `{project}`"),
            _ => format!("the container {}", record.name),
        })
    }

    /// Takes a container off its networks. The kernel removes the interfaces with the namespace.
    pub(super) fn unplace(&self, container: &Container) {
        let (namespace, resolver, reservations, forwards, proxies) = {
            let mut live = locked(&container.live);
            (
                live.namespace.take(),
                live.resolver.take(),
                std::mem::take(&mut live.reservations),
                std::mem::take(&mut live.forwards),
                std::mem::take(&mut live.proxies),
            )
        };
        if let Err(error) = self.firewall.unpublish(&forwards) {
            tracing::error!("taking back the ports of {}: {error}", container.name());
        }
        for network in container.record().endpoints.keys() {
            self.names.remove(network, &container.id);
        }
        drop((namespace, resolver, reservations, proxies));
    }

    /// The address by which a container reaches the host.
    pub(super) fn host_gateway(&self, record: &ContainerRecord) -> Option<Ipv4Addr> {
        let first = record.spec.networks.first()?;
        locked(&self.networks).values().find(|n| n.name == first.network).map(|n| n.gateway)
    }
}
