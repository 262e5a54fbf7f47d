//! The host's side of a container: its published ports, and the source addresses that its bridge ports may use.

use super::Networks;
use super::endpoints::{Endpoint, addresses_of, names_of, sender};
use crate::engine::error::EngineError;
use crate::engine::record::{BoundPort, ContainerRecord, NetworkRecord, PortSpec};
use crate::engine::{Container, locked};
use crate::network::NetworkError;
use crate::network::address::{Addresses, IpFamily};
use crate::network::firewall::{Forward, Sender};
use crate::network::ports::{self, PortReservation};
use crate::network::proxy::{self, Proxy};
use crate::units::Protocol;
use indexmap::IndexMap;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// A port of the host that is taken: address, protocol and port.
type TakenPort = (IpAddr, Protocol, u16);

/// A running container's ports. They are the host's again when this is dropped and its rules are taken back.
#[derive(Debug, Default)]
pub(in crate::engine) struct Published {
    reservations: Vec<(TakenPort, PortReservation)>,
    proxies: Vec<(TakenPort, Proxy)>,
    forwards: Vec<Forward>,
    senders: Vec<Sender>,
    bound: Vec<BoundPort>,
}

/// The ports of the container that is replaced.
struct Predecessor {
    /// Of its reservations.
    reserved: Vec<TakenPort>,
    /// Of its proxies.
    proxied: Vec<TakenPort>,
    bound: Vec<BoundPort>,
}

/// The ports that are taken over of a [`Predecessor`], and the targets of the proxies.
#[derive(Default)]
struct InheritedPorts {
    reserved: Vec<TakenPort>,
    proxied: Vec<(TakenPort, (IpAddr, u16))>,
}

/// Ports that a container is about to have.
struct Taking<'a> {
    published: Published,
    inherited: InheritedPorts,
    from: Option<&'a Predecessor>,
}

/// The address of the host that a network's ports are published on where they name none (`host_binding_ipv4`, `_ipv6`).
fn binding(network: &NetworkRecord, family: IpFamily) -> Option<IpAddr> {
    let option = match family {
        IpFamily::V4 => "com.docker.network.bridge.host_binding_ipv4",
        IpFamily::V6 => "com.docker.network.bridge.host_binding_ipv6",
    };
    network.option(option)?.parse().ok()
}

impl Predecessor {
    /// The one of the taken that is in a range of ports on an address.
    fn among(taken: &[TakenPort], address: IpAddr, protocol: Protocol, range: &RangeInclusive<u16>) -> Option<TakenPort> {
        taken.iter().find(|(ip, of, port)| *ip == address && *of == protocol && range.contains(port)).copied()
    }
}

impl Taking<'_> {
    /// Reserves a port, or takes over the one of the predecessor.
    fn reserve(
        &mut self,
        address: IpAddr,
        protocol: Protocol,
        range: RangeInclusive<u16>,
        owner: &dyn Fn(u16) -> Option<String>,
    ) -> Result<u16, EngineError> {
        let earlier = self.from.and_then(|from| Predecessor::among(&from.reserved, address, protocol, &range));
        if let Some(taken) = earlier.filter(|taken| !self.inherited.reserved.contains(taken)) {
            let number = taken.2;
            self.inherited.reserved.push(taken);
            return Ok(number);
        }
        let reservation = ports::reserve(address, protocol, range, owner)?;
        let number = reservation.port;
        self.published.reservations.push(((address, protocol, number), reservation));
        Ok(number)
    }

    /// Starts a proxy, or takes over the one of the predecessor.
    fn proxy(
        &mut self,
        address: Ipv6Addr,
        protocol: Protocol,
        range: RangeInclusive<u16>,
        to: (IpAddr, u16),
        owner: &dyn Fn(u16) -> Option<String>,
    ) -> Result<u16, EngineError> {
        let earlier = self.from.and_then(|from| Predecessor::among(&from.proxied, address.into(), protocol, &range));
        if let Some(taken) = earlier.filter(|taken| self.inherited.proxied.iter().all(|(other, _)| other != taken)) {
            let number = taken.2;
            self.inherited.proxied.push((taken, to));
            return Ok(number);
        }
        let start = |number| proxy::start(protocol, address, number, to.into());
        let proxy = ports::first_free(address.into(), protocol, range, owner, start)?;
        let number = proxy.port;
        self.published.proxies.push(((address.into(), protocol, number), proxy));
        Ok(number)
    }

    /// Takes a port of the host's IPv4 addresses.
    fn on_ipv4(
        &mut self,
        port: &PortSpec,
        host_ip: Option<IpAddr>,
        range: RangeInclusive<u16>,
        to: (IpAddr, u16),
        owner: &dyn Fn(u16) -> Option<String>,
    ) -> Result<u16, EngineError> {
        let address = host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let number = self.reserve(address, port.protocol, range, owner)?;
        self.published.forwards.push(Forward { host_ip, protocol: port.protocol, port: number, to });
        self.published.bound.push(BoundPort { target: port.target, protocol: port.protocol, host_ip, host_port: number });
        Ok(number)
    }

    /// Publishes a port on the host's IPv6 addresses. The kernel translates what comes from elsewhere to a container with IPv6;
    /// the engine forwards TCP and UDP from ::1, and to a container without IPv6.
    fn on_ipv6(
        &mut self,
        port: &PortSpec,
        host_ip: Option<Ipv6Addr>,
        range: RangeInclusive<u16>,
        to: (IpAddr, u16),
        owner: &dyn Fn(u16) -> Option<String>,
    ) -> Result<(), EngineError> {
        let address = host_ip.unwrap_or(Ipv6Addr::UNSPECIFIED);
        let number = if matches!(port.protocol, Protocol::Tcp | Protocol::Udp) {
            self.proxy(address, port.protocol, range, to, owner)?
        } else if to.0.is_ipv6() {
            self.reserve(address.into(), port.protocol, range, owner)?
        } else {
            return Err(EngineError::Invalid(format!(
                "{} cannot be published on the IPv6 address {address} for a container without IPv6; `enable_ipv6: true` on its network gives it one",
                port.protocol
            )));
        };
        if to.0.is_ipv6() {
            let host_ip = host_ip.map(IpAddr::V6);
            self.published.forwards.push(Forward { host_ip, protocol: port.protocol, port: number, to });
        }
        let host_ip = Some(IpAddr::V6(address));
        self.published.bound.push(BoundPort { target: port.target, protocol: port.protocol, host_ip, host_port: number });
        Ok(())
    }
}

/// The addresses on a network to which ports lead: what a container has had since its start is never exchanged under them.
fn led_to<'a>(record: &'a ContainerRecord, network: &str, now: &'a Addresses) -> &'a Addresses {
    record.former_addresses.get(network).unwrap_or(now)
}

impl Networks {
    /// Publishes the container's ports, unless another container has taken them over, and allows its source addresses.
    ///
    /// # Errors
    /// When a port is taken: none is published then.
    pub(in crate::engine) fn publish(&self, container: &Container, endpoints: &[Endpoint]) -> Result<(), EngineError> {
        let record = container.record();
        let without_ports = record.waits_beside() || locked(&container.live).replaced;
        let mut published =
            if without_ports { Published::default() } else { self.take_ports(&record, endpoints, None)?.published };
        published.senders = endpoints.iter().filter_map(|endpoint| sender(&record, endpoint)).collect();
        self.firewall.publish(&published.forwards, &published.senders).map_err(NetworkError::Firewall)?;
        self.flows.taken(&published.forwards, endpoints.iter().flat_map(|(_, addresses)| addresses.iter()));
        let bound = std::mem::take(&mut published.bound);
        locked(&container.live).published = published;
        if !without_ports && record.bound_ports != bound {
            self.containers.update(container, |record| record.bound_ports = bound);
        }
        Ok(())
    }

    /// Has the names and the ports of a container lead to another: in one step each, so that whoever asks finds one of the two.
    /// Connections of before stay with the old one until it ends; flows of UDP do not.
    ///
    /// # Errors
    /// When a further port is taken: nothing has changed then.
    pub(in crate::engine) fn switch(&self, old: &Container, new: &Container) -> Result<(), EngineError> {
        let record = new.record();
        let endpoints = self.endpoints_of(&record);
        let predecessor = {
            let live = locked(&old.live);
            let taken = |all: &mut dyn Iterator<Item = &TakenPort>| all.cloned().collect();
            Predecessor {
                reserved: taken(&mut live.published.reservations.iter().map(|(taken, _)| taken)),
                proxied: taken(&mut live.published.proxies.iter().map(|(taken, _)| taken)),
                bound: old.with_record(|record| record.bound_ports.clone()),
            }
        };
        let Taking { mut published, inherited, .. } = self.take_ports(&record, &endpoints, Some(&predecessor))?;
        let mut earlier = std::mem::take(&mut locked(&old.live).published);
        if let Err(error) = self.firewall.redirect(&earlier.forwards, &published.forwards) {
            locked(&old.live).published = earlier;
            return Err(NetworkError::Firewall(error).into());
        }
        locked(&old.live).replaced = true;
        self.names.replace(&old.id, &new.id, &names_of(&record, &endpoints));
        for (taken, proxy) in earlier.proxies.extract_if(.., |(taken, _)| inherited.proxied.iter().any(|(i, _)| i == taken)) {
            inherited.proxied.iter().filter(|(i, _)| *i == taken).for_each(|(_, to)| proxy.redirect((*to).into()));
            published.proxies.push((taken, proxy));
        }
        published.reservations.extend(earlier.reservations.extract_if(.., |(taken, _)| inherited.reserved.contains(taken)));
        // What the new one does not have any more is the host's again.
        (earlier.reservations, earlier.proxies) = Default::default();
        self.flows.taken(&published.forwards, std::iter::empty());
        let bound = std::mem::take(&mut published.bound);
        {
            let mut live = locked(&new.live);
            published.senders = std::mem::take(&mut live.published.senders);
            live.published = published;
        }
        self.containers.update(new, |record| record.bound_ports = bound);
        locked(&old.live).published = earlier;
        // It may have ended meanwhile, and has given nothing back then.
        if locked(&old.live).namespace.is_none() {
            self.unpublish(old);
        }
        Ok(())
    }

    fn take_ports<'a>(
        &self,
        record: &ContainerRecord,
        endpoints: &[Endpoint],
        from: Option<&'a Predecessor>,
    ) -> Result<Taking<'a>, EngineError> {
        let mut taking = Taking { published: Published::default(), inherited: InheritedPorts::default(), from };
        let outer = |family| {
            endpoints.iter().find_map(|(n, a)| Some((n, led_to(record, &n.id, a).of_family(family).filter(|_| !n.internal)?)))
        };
        let (ipv4, ipv6) = (outer(IpFamily::V4), outer(IpFamily::V6));
        let runs = record.state.status().has_process();
        for port in &record.spec.ports {
            let owner = |number: u16| self.owner_of(&record.id, number, port.protocol);
            let on = |endpoint: Option<(&NetworkRecord, IpAddr)>, family| {
                let asked = port.host_ip.or_else(|| endpoint.and_then(|(network, _)| binding(network, family)));
                asked.filter(|ip| *ip != IpAddr::V4(Ipv4Addr::UNSPECIFIED))
            };
            // A container that is started again keeps the ports that the kernel chose for it.
            // One that takes over from another keeps those that it may have as well.
            let range = |host_ip: Option<IpAddr>| {
                let of_port = |bound: &&BoundPort| bound.container_port() == port.container_port() && bound.host_ip == host_ip;
                let (asked, any) = (port.published.ports(), port.published.is_any());
                // One that runs, and is taken over by another engine, has those of its range that it had.
                let keeps = |bound: &BoundPort| any || runs && asked.contains(&bound.host_port);
                let kept = record.bound_ports.iter().find(|bound| of_port(bound) && keeps(bound));
                let inherits = |bound: &&BoundPort| of_port(bound) && (any || asked.contains(&bound.host_port));
                let inherited = from.and_then(|from| from.bound.iter().find(inherits));
                inherited.or(kept).map_or(asked.clone(), |bound| bound.host_port..=bound.host_port)
            };
            let inner = |endpoint: Option<(&NetworkRecord, IpAddr)>| endpoint.map(|(_, address)| (address, port.target));
            let mut number = None;
            if let Some(to) = inner(ipv4)
                && !matches!(port.host_ip, Some(IpAddr::V6(_)))
            {
                let host_ip = on(ipv4, IpFamily::V4);
                number = Some(taking.on_ipv4(port, host_ip, range(host_ip), to, &owner)?);
            }
            let Some(to) = inner(ipv6.or(ipv4)) else { continue };
            let host_ip = match on(ipv6, IpFamily::V6) {
                Some(IpAddr::V6(ip)) => Some(ip),
                // On every address means on those of IPv6, too, where the host has any and the port is free there.
                None if port.host_ip.is_none() && on(ipv4, IpFamily::V4).is_none() => None,
                _ => continue,
            };
            let address = host_ip.unwrap_or(Ipv6Addr::UNSPECIFIED);
            let range = number.map_or_else(|| range(Some(address.into())), |number| number..=number);
            let taken = taking.on_ipv6(port, host_ip, range, to, &owner);
            // A container of IPv6 alone has no other port.
            if host_ip.is_some() || number.is_none() {
                taken?;
            }
        }
        Ok(taking)
    }

    /// The ports of containers that ran when the last engine died, by their records.
    pub(super) fn expected_forwards(&self, networks: &IndexMap<String, NetworkRecord>) -> Vec<Forward> {
        let of = |container: Arc<Container>| {
            let record = container.record();
            if !record.state.status().has_process() || record.waits_beside() || locked(&container.live).replaced {
                return Vec::new();
            }
            let outer = |family| {
                let mut endpoints = record.endpoints.iter();
                endpoints.find_map(|(id, addresses)| {
                    let address = led_to(&record, id, addresses).of_family(family);
                    address.filter(|_| networks.get(id).is_some_and(|n| !n.internal))
                })
            };
            let (ipv4, ipv6) = (outer(IpFamily::V4), outer(IpFamily::V6));
            let forward = |bound: &BoundPort| {
                let address = if matches!(bound.host_ip, Some(IpAddr::V6(_))) { ipv6 } else { ipv4 };
                let host_ip = bound.host_ip.filter(|ip| !ip.is_unspecified());
                let (protocol, port) = (bound.protocol, bound.host_port);
                Some(Forward { host_ip, protocol, port, to: (address?, bound.target) })
            };
            record.bound_ports.iter().filter_map(forward).collect()
        };
        self.containers.all().into_iter().flat_map(of).collect()
    }

    /// Gives up what of the expected ports no container has.
    pub(in crate::engine) fn give_up_expected(&self) {
        let mut published = HashSet::new();
        for container in self.containers.all() {
            published.extend(locked(&container.live).published.forwards.iter().cloned());
        }
        if let Err(error) = self.firewall.retain(&published) {
            tracing::error!("taking back ports of containers that have ended: {error}");
        }
    }

    /// Withdraws a container's ports.
    pub(super) fn unpublish(&self, container: &Container) {
        let published = std::mem::take(&mut locked(&container.live).published);
        if let Err(error) = self.firewall.withdraw(&published.forwards, &published.senders) {
            tracing::error!("taking back the ports of {}: {error}", container.name());
        }
        let addresses: Vec<IpAddr> = container.with_record(|record| addresses_of(record).map(|(_, address)| address).collect());
        self.flows.given_back(&published.forwards, addresses.into_iter());
    }

    /// Allows the source addresses of a running container's new interface.
    pub(super) fn allow_sender(&self, container: &Container, endpoint: &Endpoint) -> Result<(), EngineError> {
        if let Some(sender) = sender(&container.record(), endpoint) {
            self.firewall.publish(&[], std::slice::from_ref(&sender)).map_err(NetworkError::Firewall)?;
            locked(&container.live).published.senders.push(sender);
        }
        Ok(())
    }

    /// Forgets a running container's interface on a network.
    pub(super) fn revoke_sender(&self, container: &Container, network: &str) {
        let Some(interface) = container.with_record(|record| record.interfaces.get(network).cloned()) else { return };
        let mut live = locked(&container.live);
        let (gone, kept) = std::mem::take(&mut live.published.senders).into_iter().partition(|s| s.interface == interface);
        live.published.senders = kept;
        let gone: Vec<Sender> = gone;
        if let Err(error) = self.firewall.withdraw(&[], &gone) {
            tracing::error!("forgetting an interface of {}: {error}", container.name());
        }
    }

    /// The container that has a port.
    fn owner_of(&self, own_id: &str, port: u16, protocol: Protocol) -> Option<String> {
        use crate::labels::{LABEL_PROJECT, LABEL_SERVICE};
        let has = |c: &&Arc<Container>| {
            c.with_record(|record| record.bound_ports.iter().any(|bound| bound.host_port == port && bound.protocol == protocol))
        };
        // One that is being started has taken its ports before they are noted.
        let takes = |c: &&Arc<Container>| {
            let asks = |spec: &PortSpec| spec.published.ports().contains(&port) && spec.protocol == protocol;
            locked(&c.live).on_networks && c.with_record(|record| record.spec.ports.iter().any(asks))
        };
        let mut others = self.containers.all();
        others.retain(|c| c.id != own_id);
        let owner = others.iter().filter(|c| c.status().is_alive()).find(has).or_else(|| others.iter().find(takes))?;
        let record = owner.record();
        let label = |key: &str| record.spec.labels.get(key).cloned();
        Some(match (label(LABEL_PROJECT), label(LABEL_SERVICE)) {
            (Some(project), Some(service)) => {
                format!("the container {} (service `{service}` of the project `{project}`)", record.name)
            }
            _ => format!("the container {}", record.name),
        })
    }
}
