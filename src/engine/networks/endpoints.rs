//! The endpoints of a container: addresses, namespace, names.

use super::{Networks, parent_of};
use crate::engine::error::EngineError;
use crate::engine::record::{ContainerRecord, EndpointSpec, NetworkDriver, NetworkMode, NetworkRecord};
use crate::engine::{Container, locked};
use crate::network::address::{Addresses, IpFamily};
use crate::network::dns::{self, View};
use crate::network::firewall::Sender;
use crate::network::sandbox::{self, Attachment, Sandbox};
use crate::network::{NetworkError, link};
use crate::runtime::error::SetupStep;
use indexmap::IndexMap;
use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A network, and a container's addresses there.
pub(in crate::engine) type Endpoint = (NetworkRecord, Addresses);

/// The endpoints of a container and the descriptors that its monitor needs.
pub(in crate::engine) struct Attached {
    pub namespace: Option<Arc<OwnedFd>>,
    /// On its first network.
    pub addresses: Addresses,
}

/// The names that a container's resolver knows.
fn view(record: &ContainerRecord, endpoints: &[Endpoint]) -> View {
    let lower = |(alias, of): &(String, String)| (alias.to_ascii_lowercase(), of.to_ascii_lowercase());
    // `NAME[:ALIAS]`.
    let of_endpoint = |link: &String| {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        lower(&(alias.to_string(), name.trim_start_matches('/').to_string()))
    };
    let of_endpoints = record.spec.networks.iter().flat_map(|endpoint| endpoint.links.iter().map(of_endpoint));
    View {
        networks: endpoints.iter().map(|(network, _)| network.id.clone()).collect(),
        servers: record.spec.dns.iter().filter_map(|server| server.parse().ok()).collect(),
        links: of_endpoints.chain(record.spec.links.iter().map(lower)).collect(),
    }
}

/// A container's addresses on a network: the ones that it is to have, or those that it had, or the lowest that are free.
fn choose_addresses(
    network: &NetworkRecord,
    endpoint: &EndpointSpec,
    known: Addresses,
    is_others: &dyn Fn(IpAddr) -> bool,
) -> Result<Addresses, NetworkError> {
    let wanted = Addresses { ipv4: endpoint.ipv4_address, ipv6: endpoint.ipv6_address };
    let name = || network.name.clone();
    if let Some(address) = wanted.iter().find(|address| network.pool(IpFamily::of(*address)).is_none()) {
        let family = IpFamily::of(address);
        return Err(NetworkError::NoFamily { network: name(), address, family });
    }
    let mut chosen = Addresses::default();
    for pool in network.pools() {
        let family = pool.subnet.family();
        let taken = |a: IpAddr| a == pool.gateway || is_others(a) || pool.reserved.values().any(|reserved| *reserved == a);
        let unfit = |a: IpAddr| taken(a) || !pool.subnet.contains(a) || a == pool.subnet.base();
        let stays = known.of_family(family).filter(|address| pool.subnet.contains(*address) && !taken(*address));
        chosen.set(match (stays, wanted.of_family(family)) {
            (Some(_), Some(wanted)) if !unfit(wanted) && !pool.subnet.is_reserved(wanted) => wanted,
            (Some(known), _) => known,
            (None, Some(wanted)) if !pool.subnet.contains(wanted) => {
                let (network, subnet) = (name(), pool.subnet.to_string());
                return Err(NetworkError::ForeignAddress { network, address: wanted.to_string(), subnet });
            }
            (None, Some(wanted)) if pool.subnet.is_reserved(wanted) => {
                let kind = if wanted == pool.subnet.base() { "network" } else { "broadcast" };
                let subnet = pool.subnet.to_string();
                return Err(NetworkError::NoHosts { network: name(), address: wanted, kind, subnet });
            }
            (None, Some(wanted)) if taken(wanted) => {
                return Err(NetworkError::AddressTaken { network: name(), address: wanted });
            }
            (None, Some(wanted)) => wanted,
            (None, None) => {
                let full = || NetworkError::SubnetFull { network: name(), subnet: pool.subnet.to_string() };
                pool.range.unwrap_or(pool.subnet).free(&unfit).ok_or_else(full)?
            }
        });
    }
    Ok(chosen)
}

/// A container's names on each of its networks, and its addresses there. Those of its service are another's while it waits beside
/// that.
pub(super) fn names_of(record: &ContainerRecord, endpoints: &[Endpoint]) -> Vec<(String, Vec<String>, Addresses)> {
    let on = |(network, addresses): &Endpoint| {
        let mut names = vec![record.name.clone()];
        let endpoint = record.spec.networks.iter().find(|e| e.network == network.name);
        if !record.waits_beside() {
            names.extend(endpoint.into_iter().flat_map(|endpoint| endpoint.aliases.iter().cloned()));
            names.extend(record.spec.hostname.clone());
        }
        names.extend([record.id[..12].to_string(), record.id.clone()]);
        (network.id.clone(), names, *addresses)
    };
    endpoints.iter().map(on).collect()
}

/// Whether a container may configure its interfaces: then it may have further addresses, and announce them.
fn administers_network(record: &ContainerRecord) -> bool {
    record.spec.capabilities().is_ok_and(|capabilities| capabilities.has("NET_ADMIN"))
}

/// The source addresses that a container may use on a network.
pub(super) fn sender(record: &ContainerRecord, (network, addresses): &Endpoint) -> Option<Sender> {
    let interface = record.interfaces.get(&network.id).filter(|_| !administers_network(record))?;
    let endpoint = record.spec.networks.iter().find(|endpoint| endpoint.network == network.name);
    let link_local = endpoint.into_iter().flat_map(|endpoint| endpoint.link_local_ips.iter().copied());
    let former = record.former_addresses.get(&network.id).into_iter().flat_map(|addresses| addresses.iter());
    Some(Sender { interface: interface.clone(), addresses: addresses.iter().chain(former).chain(link_local).collect() })
}

/// How a container's port of a network's bridge is.
pub(super) fn bridge_port(record: &ContainerRecord, network: &NetworkRecord) -> link::BridgePort {
    link::BridgePort {
        isolated: !network.is_on("com.docker.network.bridge.enable_icc"),
        hairpin: !record.spec.ports.is_empty(),
        guarded: !administers_network(record),
    }
}

/// The addresses that a container has, by the network's id.
pub(super) fn addresses_of(record: &ContainerRecord) -> impl Iterator<Item = (String, IpAddr)> {
    let all = record.endpoints.iter().chain(&record.former_addresses);
    all.flat_map(|(id, addresses)| addresses.iter().map(|address| (id.clone(), address)))
}

/// The default routes of a container: of each family the number of an endpoint, and the gateway there. It is on the network with
/// the highest `gw_priority`; of equal ones the first.
pub(super) fn ways_out(record: &ContainerRecord, endpoints: &[Endpoint]) -> Vec<(usize, IpAddr)> {
    let endpoint = |network: &NetworkRecord| record.spec.networks.iter().find(|e| e.network == network.name);
    let priority = |network: &NetworkRecord| endpoint(network).map_or(0, |e| e.gw_priority);
    let of_family = |family| {
        let gateway = |network: &NetworkRecord| network.pool(family).map(|pool| pool.gateway);
        let leading = endpoints.iter().enumerate().filter(|(_, (network, _))| !network.internal);
        let ways = leading.filter_map(|(i, (network, _))| Some((std::cmp::Reverse(priority(network)), i, gateway(network)?)));
        ways.min().map(|(_, i, gateway)| (i, gateway))
    };
    IpFamily::ALL.into_iter().filter_map(of_family).collect()
}

impl Networks {
    /// Gives a container its addresses on each of its networks. Those that it has already stay.
    pub(super) fn assign_addresses(&self, container: &Container) -> Result<Vec<Endpoint>, EngineError> {
        let record = container.record();
        // The lock of the networks makes looking, choosing and noting an address one step for all containers.
        let networks = locked(&self.records);
        locked(&container.live).on_networks = true;
        // The one that it runs beside has the addresses of the definition as long as it is there.
        let beside = record.replaces.as_ref().filter(|replaced| replaced.beside.is_some()).map(|replaced| replaced.id.as_str());
        let (mut others, mut predecessors) = (HashSet::new(), HashSet::new());
        for other in self.containers.all().iter().filter(|c| c.id != container.id) {
            let other = locked(&other.record);
            let all: Vec<(String, IpAddr)> = addresses_of(&other).collect();
            if Some(other.id.as_str()) == beside {
                predecessors.extend(all.iter().map(|(_, address)| *address));
            }
            others.extend(all);
        }
        let mut endpoints = Vec::new();
        for endpoint in &record.spec.networks {
            let network = networks
                .values()
                .find(|n| n.name == endpoint.network)
                .ok_or_else(|| EngineError::NoSuch { what: "network", name: endpoint.network.clone() })?;
            let known = record.endpoints.get(&network.id).copied().unwrap_or_default();
            let is_others = |address: IpAddr| others.contains(&(network.id.clone(), address));
            let mut endpoint = endpoint.clone();
            endpoint.ipv4_address.take_if(|address| predecessors.contains(&IpAddr::from(*address)));
            endpoint.ipv6_address.take_if(|address| predecessors.contains(&IpAddr::from(*address)));
            endpoints.push((network.clone(), choose_addresses(network, &endpoint, known, &is_others)?));
        }
        let addresses: IndexMap<String, Addresses> = endpoints.iter().map(|(n, a)| (n.id.clone(), *a)).collect();
        // What runs keeps what it has had as well.
        let mut former = record.former_addresses.clone();
        match locked(&container.live).namespace.is_some() {
            true => former
                .extend(record.endpoints.clone().into_iter().filter(|(id, had)| addresses.get(id).is_some_and(|a| a != had))),
            false => former.clear(),
        }
        if addresses != record.endpoints || former != record.former_addresses {
            self.containers.update(container, |record| (record.endpoints, record.former_addresses) = (addresses, former));
        }
        Ok(endpoints)
    }

    /// Puts a container on its networks: namespace, names, ports. A namespace that it still has is kept.
    ///
    /// # Errors
    /// The step that failed; nothing of it is left.
    pub(in crate::engine) async fn attach(&self, container: &Arc<Container>) -> Result<Attached, EngineError> {
        let record = container.record();
        match &record.spec.network_mode {
            NetworkMode::Host => return Ok(Attached { namespace: None, addresses: Addresses::default() }),
            NetworkMode::Container(id) => {
                let other = self.containers.find(id)?;
                let namespace = locked(&other.live).namespace.clone();
                let namespace = namespace.ok_or_else(|| EngineError::Start {
                    name: record.name.clone(),
                    message: format!("it shares the network of {}, which is not running", other.name()),
                    step: SetupStep::Network,
                })?;
                let addresses = other.record().endpoints.values().next().copied().unwrap_or_default();
                return Ok(Attached { namespace: Some(namespace), addresses });
            }
            NetworkMode::Bridge | NetworkMode::None => {}
        }
        if let Some(namespace) = locked(&container.live).namespace.clone() {
            let addresses = record.endpoints.values().next().copied().unwrap_or_default();
            return Ok(Attached { namespace: Some(namespace), addresses });
        }
        let endpoints =
            if record.spec.network_mode == NetworkMode::None { Vec::new() } else { self.assign_addresses(container)? };
        let attachments = self.attachments(&record, &endpoints)?;
        let ends =
            endpoints.iter().zip(&attachments).filter_map(|((n, _), attachment)| Some((n.id.clone(), attachment.host_name()?)));
        // Journaled with the start: without that they are nobody's.
        locked(&container.record).interfaces = ends.collect();
        let name = record.name.clone();
        let made = tokio::task::spawn_blocking(move || sandbox::make(&name, &attachments));
        let sandbox = made.await.map_err(EngineError::from)??;
        let namespace = self.attach_sandbox(container, sandbox, &endpoints)?;
        if let Err(error) = self.publish(container, &endpoints) {
            self.detach(container);
            return Err(error);
        }
        Ok(Attached { namespace: Some(namespace), addresses: endpoints.first().map(|(_, a)| *a).unwrap_or_default() })
    }

    fn attachments(&self, record: &ContainerRecord, endpoints: &[Endpoint]) -> Result<Vec<Attachment>, EngineError> {
        let endpoint = |network: &NetworkRecord| record.spec.networks.iter().find(|e| e.network == network.name);
        let mut attachments = Vec::new();
        for (i, place) in endpoints.iter().enumerate() {
            let options = endpoint(&place.0).cloned().unwrap_or_default();
            attachments.push(self.attachment(record, i, place, &options)?);
        }
        for (i, gateway) in ways_out(record, endpoints) {
            attachments[i].gateways.push(gateway);
        }
        Ok(attachments)
    }

    /// A container's n-th interface, without a route.
    fn attachment(
        &self,
        record: &ContainerRecord,
        n: usize,
        (network, addresses): &Endpoint,
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
            let host_name = self.new_host_end(&record.id, n);
            sandbox::To::Bridge { bridge: index, group: network.group(), host_name, port: bridge_port(record, network) }
        } else {
            let (parent, kind) = parent_of(network)?;
            sandbox::To::Parent { parent, kind }
        };
        const LINK_LOCAL_PREFIXES: [u8; 2] = [16, 64];
        let pools = network.pools().filter_map(|pool| {
            let address = addresses.of_family(pool.subnet.family())?;
            Some((address, pool.subnet.prefix()))
        });
        let link_local = options.link_local_ips.iter().map(|ip| (*ip, LINK_LOCAL_PREFIXES[usize::from(ip.is_ipv6())]));
        Ok(Attachment {
            to,
            name: options.interface_name.clone().unwrap_or_else(|| format!("eth{n}")),
            mac: options.mac_address.or_else(|| addresses.first().map(link::mac_of)).unwrap_or_default(),
            mtu: network.mtu(),
            addresses: pools.chain(link_local).collect(),
            sysctls: options.sysctls.clone(),
            gateways: Vec::new(),
        })
    }

    /// A name for the host's end of a container's n-th interface that no earlier one has: the kernel may not have removed that
    /// yet, be it this engine's or another's before it.
    fn new_host_end(&self, id: &str, n: usize) -> String {
        loop {
            let turn = self.numbers.next() % 0x1000;
            let name = format!("wh{}{turn:03x}{}", &id[..8], n % 10);
            if link::index_of(&name).is_err() {
                return name;
            }
        }
    }

    /// Takes a sandbox over: its resolver serves, and others find the container by its names.
    pub(in crate::engine) fn attach_sandbox(
        &self,
        container: &Container,
        sandbox: Sandbox,
        endpoints: &[Endpoint],
    ) -> Result<Arc<OwnedFd>, EngineError> {
        let record = container.record();
        let view = view(&record, endpoints);
        let namespace = Arc::new(sandbox.namespace);
        let serving = sandbox.resolver.map(|r| dns::serve(r, namespace.clone(), self.names.clone(), view)).transpose();
        let resolver = serving.map_err(EngineError::io(format!("starting the resolver of {}", record.name)))?;
        let mut live = locked(&container.live);
        live.namespace = Some(namespace.clone());
        live.resolver = resolver;
        drop(live);
        if !locked(&container.live).replaced {
            self.enter_names(&record, endpoints);
        }
        Ok(namespace)
    }

    /// Puts a container on one more network; a running one at once.
    ///
    /// # Errors
    /// When it is on it already, or has no network namespace of its own.
    pub async fn connect(
        &self,
        container: &Arc<Container>,
        network: &str,
        mut endpoint: EndpointSpec,
    ) -> Result<(), EngineError> {
        let _turn = container.begin_operation().await?;
        let network = self.find(network)?;
        let before = container.record();
        if before.spec.network_mode != NetworkMode::Bridge {
            return Err(EngineError::Invalid(
                match before.spec.network_mode {
                    NetworkMode::None => {
                        "container cannot be connected to multiple networks with one of the networks in private (none) mode"
                    }
                    _ => "container sharing network namespace with another container or host cannot be connected to any other network",
                }
                .into(),
            ));
        }
        if before.spec.networks.iter().any(|e| e.network == network.name) {
            return Err(EngineError::Forbidden(format!(
                "endpoint with name {} already exists in network {}",
                before.name, network.name
            )));
        }
        endpoint.network = network.name.clone();
        let options = endpoint.clone();
        self.containers.update(container, |record| record.spec.networks.push(endpoint));
        let namespace = locked(&container.live).namespace.clone();
        let Some(namespace) = namespace else { return Ok(()) };
        let connected = async {
            let endpoints = self.assign_addresses(container)?;
            let Some(place) = endpoints.iter().find(|(n, _)| n.id == network.id) else { return Ok(endpoints) };
            let mut attachment = self.attachment(&before, before.spec.networks.len(), place, &options)?;
            // Where no network led out before, or all have a lower priority, this one does.
            let ways = ways_out(&container.record(), &endpoints).into_iter();
            attachment.gateways = ways.filter(|(i, _)| endpoints[*i].0.id == network.id).map(|(_, gateway)| gateway).collect();
            if let Some(end) = attachment.host_name() {
                self.containers.update(container, |record| drop(record.interfaces.insert(network.id.clone(), end)));
                self.allow_sender(container, place)?;
            }
            let name = before.name.clone();
            let joining = tokio::task::spawn_blocking(move || sandbox::connect(&name, &namespace, &attachment));
            joining.await.map_err(EngineError::from)??;
            Ok::<_, EngineError>(endpoints)
        };
        match connected.await {
            Ok(endpoints) => {
                self.show_networks(container, &endpoints);
                self.state.renew_manifest(&container.record());
            }
            Err(error) => {
                self.revoke_sender(container, &network.id);
                self.containers.update(container, |record| {
                    record.spec.networks = before.spec.networks;
                    record.endpoints = before.endpoints;
                    record.interfaces = before.interfaces;
                });
                return Err(error);
            }
        }
        self.emit(&network, "connect", Some(&before.id));
        Ok(())
    }

    /// Takes a container off a network; a running one at once.
    ///
    /// # Errors
    /// When it is not on it.
    pub async fn disconnect(&self, container: &Arc<Container>, network: &str) -> Result<(), EngineError> {
        let _turn = container.begin_operation().await?;
        let network = self.find(network)?;
        let record = container.record();
        if !record.spec.networks.iter().any(|e| e.network == network.name) {
            return Err(EngineError::Conflict(format!("the container {} is not on the network {}", record.name, network.name)));
        }
        let namespace = locked(&container.live).namespace.clone();
        if let (Some(namespace), Some(address)) = (namespace, record.endpoints.get(&network.id).and_then(|a| a.first())) {
            let name = record.name.clone();
            // Another network leads out then.
            let left: Vec<Endpoint> =
                self.endpoints_of(&record).into_iter().filter(|(other, _)| other.id != network.id).collect();
            let ways: Vec<(IpAddr, IpAddr)> =
                ways_out(&record, &left).into_iter().filter_map(|(i, gateway)| Some((left[i].1.first()?, gateway))).collect();
            let leaving = tokio::task::spawn_blocking(move || {
                sandbox::disconnect(&name, &namespace, address)?;
                ways.iter().try_for_each(|(address, gateway)| sandbox::lead_out(&name, &namespace, *address, &[*gateway]))
            });
            leaving.await.map_err(EngineError::from)??;
        }
        self.revoke_sender(container, &network.id);
        self.flows.given_back(&[], record.endpoints.get(&network.id).into_iter().flat_map(|addresses| addresses.iter()));
        self.containers.update(container, |record| {
            record.spec.networks.retain(|e| e.network != network.name);
            record.endpoints.shift_remove(&network.id);
            record.interfaces.shift_remove(&network.id);
        });
        self.state.renew_manifest(&container.record());
        self.names.remove(&network.id, &record.id);
        self.show_networks(container, &self.endpoints_of(&container.record()));
        self.emit(&network, "disconnect", Some(&record.id));
        Ok(())
    }

    /// Attaches a running container to its networks, and enters its names.
    fn show_networks(&self, container: &Container, endpoints: &[Endpoint]) {
        let record = container.record();
        if let Some(resolver) = &locked(&container.live).resolver {
            resolver.set_view(view(&record, endpoints));
        }
        self.enter_names(&record, endpoints);
    }

    pub(in crate::engine) fn enter_names(&self, record: &ContainerRecord, endpoints: &[Endpoint]) {
        for (network, names, addresses) in names_of(record, endpoints) {
            self.names.insert(&network, &record.id, &names, addresses);
        }
    }

    /// Replaces a container's names in one step; a lookup always finds it.
    pub(in crate::engine) fn enter_names_anew(&self, record: &ContainerRecord) {
        self.names.replace(&record.id, &record.id, &names_of(record, &self.endpoints_of(record)));
    }

    /// Where a container is on its networks, by its record.
    pub(in crate::engine) fn endpoints_of(&self, record: &ContainerRecord) -> Vec<Endpoint> {
        let networks = locked(&self.records);
        record.endpoints.iter().filter_map(|(id, addresses)| Some((networks.get(id)?.clone(), *addresses))).collect()
    }

    /// Takes a container off its networks. The kernel removes the interfaces with the namespace.
    pub(in crate::engine) fn detach(&self, container: &Container) {
        let (namespace, resolver) = {
            let mut live = locked(&container.live);
            (live.on_networks, live.replaced) = (false, false);
            (live.namespace.take(), live.resolver.take())
        };
        self.unpublish(container);
        self.names.forget(&container.id);
        drop((namespace, resolver));
    }
}
