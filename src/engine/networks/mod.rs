//! Networks: made and removed on request. [`endpoints`] attaches containers, [`published`] the host's ports, [`flows`]
//! what the kernel is to forget.

mod bridge;
pub(super) mod endpoints;
mod flows;
mod handover;
mod published;
mod request;

use flows::Flows;
pub(super) use published::Published;
pub use request::{NewNetwork, NewPool};
use request::{check_options, choose_pool, host_routes};

use super::error::{EngineError, state_error};
use super::images::build::{is_build_id, new_build_id};
use super::record::{ContainerRecord, NetworkDriver, NetworkRecord};
use super::recovery::{RecordKind, is_id};
use super::{Config, Container, Events, StateStore, locked, new_id};
use crate::engine::containers::registry::{Containers, Uses};
use crate::engine::numbers::Numbers;
use crate::network::address::{IpFamily, Pool, Subnet};
use crate::network::dns::Names;
use crate::network::firewall::{Firewall, Isolation};
use crate::network::{NetworkError, link};
use indexmap::IndexMap;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex};

/// The network of containers that name none, as Docker calls its own. It is there as long as one of them is.
pub const DEFAULT_NETWORK: &str = "bridge";

/// Docker's option of a network for its bridge's name on the host.
pub const BRIDGE_NAME: &str = "com.docker.network.bridge.name";

/// Settings of an interface as Docker's option of an endpoint lists them: `NAME=VALUE,...`.
pub fn interface_sysctls(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter_map(|pair| pair.trim().split_once('='));
    pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// The interface of the host that a macvlan or ipvlan network is on, and of which kind its interfaces are.
fn parent_of(network: &NetworkRecord) -> Result<(u32, link::SublinkKind), EngineError> {
    let driver = network.driver.as_str();
    let mode = network.option(if driver == "macvlan" { "macvlan_mode" } else { "ipvlan_mode" });
    let kind = link::SublinkKind::parse(driver, mode).ok_or_else(|| {
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

/// Has the kernel forward IPv6. A host that forwards believes no router advertisements any more, and would lose its own way
/// out some time later: where an interface has listened to them, it goes on (`accept_ra` 2).
fn forward_ipv6() -> std::io::Result<()> {
    const ALL: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
    if std::fs::read_to_string(ALL)?.trim() == "1" {
        return Ok(());
    }
    for interface in std::fs::read_dir("/proc/sys/net/ipv6/conf")?.flatten() {
        let file = interface.path().join("accept_ra");
        if !matches!(interface.file_name().to_str(), Some("all" | "default"))
            && std::fs::read_to_string(&file).is_ok_and(|value| value.trim() == "1")
        {
            std::fs::write(file, "2")?;
        }
    }
    std::fs::write(ALL, "1")
}

/// A network by name, id, or the beginning of its id.
fn find_in(networks: &IndexMap<String, NetworkRecord>, name: &str) -> Result<NetworkRecord, EngineError> {
    networks
        .values()
        .find(|n| n.name == name || n.id == name)
        .or_else(|| networks.values().find(|n| name.len() >= 4 && n.id.starts_with(name)))
        .cloned()
        .ok_or_else(|| EngineError::NoSuch { what: "network", name: name.into() })
}

/// The networks: their records, what of them is in the kernel, and the containers' endpoints on them.
pub struct Networks {
    config: Arc<Config>,
    state: Arc<StateStore>,
    events: Arc<Events>,
    containers: Arc<Containers>,
    numbers: Arc<Numbers>,
    /// Held while an address is chosen and while a network is made or removed; containers' records are looked at under it.
    records: Mutex<IndexMap<String, NetworkRecord>>,
    /// Those that a container which is being made is about to be on.
    pub(super) uses: Uses,
    pub(super) firewall: Arc<Firewall>,
    pub(super) flows: Arc<Flows>,
    pub(super) names: Arc<Names>,
}

/// The driver of a new network.
///
/// # Errors
/// A driver, a name or an option that wharf does not have.
fn check_request(new: &NewNetwork) -> Result<NetworkDriver, EngineError> {
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
    // It is in paths of /proc/sys and in rules.
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let is_interface = |name: &str| name.len() <= 15 && name.chars().all(allowed) && !matches!(name, "." | "..");
    if let Some(bridge) = new.options.get(BRIDGE_NAME).filter(|bridge| !is_interface(bridge)) {
        return Err(EngineError::Invalid(format!(
            "the network {} has the bridge name `{bridge}`: it has letters, digits, `_`, `.` and `-`, 15 at most",
            new.name
        )));
    }
    if !new.ipv4 && !new.ipv6 {
        return Err(EngineError::Invalid(format!("the network {} has neither IPv4 nor IPv6: turn one of them on", new.name)));
    }
    check_options(new)?;
    Ok(driver)
}

/// The addresses of an interface of the host that is to be the bridge.
fn addresses_of_bridge(
    new: &NewNetwork,
    driver: NetworkDriver,
    networks: &IndexMap<String, NetworkRecord>,
    going: &[NetworkRecord],
) -> Result<Vec<(IpAddr, u8)>, EngineError> {
    // On an interface of the host's, containers are in the network that the host itself is in.
    match new.options.get(BRIDGE_NAME).filter(|name| driver == NetworkDriver::Bridge && !name.is_empty()) {
        Some(name) => {
            if let Some(other) = networks.values().find(|n| n.driver == NetworkDriver::Bridge && n.bridge() == *name) {
                return Err(EngineError::Conflict(format!(
                    "cannot create network {}: conflicts with network {}: networks have same bridge name {name}",
                    new.name, other.name
                )));
            }
            match going.iter().any(|network| network.driver == NetworkDriver::Bridge && network.bridge() == *name) {
                true => Ok(Vec::new()),
                false => bridge::addresses_of_hosts_bridge(&new.name, name),
            }
        }
        None => Ok(Vec::new()),
    }
}

impl Networks {
    pub(super) fn new(
        state: Arc<StateStore>,
        events: Arc<Events>,
        containers: Arc<Containers>,
        numbers: Arc<Numbers>,
        firewall: Arc<Firewall>,
        names: Arc<Names>,
    ) -> Self {
        Networks {
            config: state.config.clone(),
            state,
            events,
            containers,
            numbers,
            records: Mutex::default(),
            uses: Uses::default(),
            flows: Flows::new(firewall.clone()),
            firewall,
            names,
        }
    }

    /// Takes over what an earlier engine has left: bridges, rules, names. Without networks, too: those of before may have left
    /// their rules.
    pub(super) fn restore(&self, records: IndexMap<String, NetworkRecord>) {
        for network in records.values() {
            self.names.set_network(&network.id, &network.name, network.internal);
            if let Err(error) = self.raise_bridge(network) {
                tracing::error!("{error}");
            }
        }
        if !self.state.is_incomplete() {
            self.drop_stray_bridges(&records);
        }
        // In the same transaction: no connection is refused because another engine has come.
        self.firewall.expect(self.expected_forwards(&records));
        if let Err(error) = self.write_isolation(&records) {
            tracing::error!("{error}");
        }
        *locked(&self.records) = records;
    }

    /// The engine ends: what no container needs is taken away.
    pub(super) fn leave(&self) {
        self.flows.forget();
        if locked(&self.records).is_empty() {
            self.firewall.clear();
        }
    }

    pub fn all(&self) -> Vec<NetworkRecord> {
        locked(&self.records).values().filter(|network| !is_build_id(&network.id)).cloned().collect()
    }

    /// A network by name, id, or the beginning of its id.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name: &str) -> Result<NetworkRecord, EngineError> {
        find_in(&locked(&self.records), name).or_else(|error| {
            self.state.refuse_unknown(RecordKind::Network, name)?;
            Err(error)
        })
    }

    /// Whether a network could be made once those of the names `going` have been removed.
    ///
    /// # Errors
    /// As [`Networks::create`], without what the kernel alone knows.
    pub fn check(&self, new: &NewNetwork, going: &[&str]) -> Result<(), EngineError> {
        let mut networks = locked(&self.records).clone();
        let going: Vec<_> = networks.extract_if(.., |_, network| going.contains(&network.name.as_str())).collect();
        let going: Vec<_> = going.into_iter().map(|(_, network)| network).collect();
        self.record_of(new, &networks, &going).map(drop)
    }

    /// The record of a network that is to be made, with its subnets. Bridges and routes of those that go are not counted.
    fn record_of(
        &self,
        new: &NewNetwork,
        networks: &IndexMap<String, NetworkRecord>,
        going: &[NetworkRecord],
    ) -> Result<NetworkRecord, EngineError> {
        let driver = check_request(new)?;
        if networks.values().any(|n| n.name == new.name) {
            return Err(EngineError::Conflict(format!("network with name {} already exists", new.name)));
        }
        self.state.refuse_unknown(RecordKind::Network, &new.name)?;
        let taken_by = |n: &NetworkRecord| n.pools().map(|p| (p.subnet, format!("the network {}", n.name))).collect::<Vec<_>>();
        let mut used: Vec<(Subnet, String)> = networks.values().flat_map(taken_by).collect();
        let id = match new.name.as_str() {
            // Clients know it by its id while nobody is on it.
            DEFAULT_NETWORK => self.config.fixed_id("network bridge"),
            _ if new.of_builds => new_build_id().map_err(EngineError::io("making an id"))?,
            _ => new_id().map_err(EngineError::io("making an id"))?,
        };
        let hosts_bridge = addresses_of_bridge(new, driver, networks, going)?;
        if driver == NetworkDriver::Bridge {
            let own = |route: &Subnet| {
                let within = |(address, prefix): &(IpAddr, u8)| {
                    *prefix <= route.prefix() && Subnet::new(*address, *prefix).contains(route.base())
                };
                hosts_bridge.iter().any(within)
            };
            let goes = |route: &Subnet| going.iter().any(|network| network.pools().any(|pool| pool.subnet == *route));
            let routes = host_routes().into_iter().filter(|route| !own(route) && !goes(route));
            used.extend(routes.map(|s| (s, "a route of the host".to_string())));
        }
        let pool_of = |family| choose_pool(new, family, &used, &id, &hosts_bridge);
        Ok(NetworkRecord {
            ipv4: new.ipv4.then(|| pool_of(IpFamily::V4)).transpose()?,
            ipv6: new.ipv6.then(|| pool_of(IpFamily::V6)).transpose()?,
            driver,
            options: new.options.clone(),
            id,
            name: new.name.clone(),
            created_at: jiff::Timestamp::now(),
            internal: new.internal,
            attachable: new.attachable,
            labels: new.labels.clone(),
        })
    }

    /// Creates a network: its bridge, its isolation rules and its journal record.
    ///
    /// # Errors
    /// When the name or the subnet is taken, or the kernel refuses.
    pub fn create(&self, new: &NewNetwork) -> Result<NetworkRecord, EngineError> {
        let _choosing = lock_subnets()?;
        let mut networks = locked(&self.records);
        let record = self.record_of(new, &networks, &[])?;
        self.raise_bridge(&record).inspect_err(|_| self.drop_half_made(&record))?;
        networks.insert(record.id.clone(), record.clone());
        let result = self
            .write_isolation(&networks)
            .and_then(|()| self.state.journal.put(&format!("network/{}", record.id), &record).map_err(state_error));
        if result.is_ok() {
            self.state.write_network_manifest(&record);
        }
        if let Err(error) = result {
            networks.shift_remove(&record.id);
            self.drop_half_made(&record);
            return Err(error);
        }
        self.names.set_network(&record.id, &record.name, record.internal);
        // To clients, `bridge` is always there.
        if record.name != DEFAULT_NETWORK {
            self.emit(&record, "create", None);
        }
        Ok(record)
    }

    /// An event about a network, and the container that it concerns.
    pub(in crate::engine) fn emit(&self, network: &NetworkRecord, action: &str, container: Option<&str>) {
        let container = container.map(|id| ("container".to_string(), id.to_string()));
        let named = [("name".to_string(), network.name.clone()), ("type".to_string(), network.driver.as_str().to_string())];
        self.events.emit("network", action, &network.id, container.into_iter().chain(named).collect());
    }

    /// Removes the bridges of networks that no record has: an engine was killed while it made or removed them.
    fn drop_stray_bridges(&self, networks: &IndexMap<String, NetworkRecord>) {
        for entry in std::fs::read_dir(self.config.raised_networks()).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            let is_known =
                networks.contains_key(&id) || self.state.unknown(RecordKind::Network).iter().any(|unknown| unknown.id == id);
            if !is_known && is_id(&id) {
                tracing::warn!(
                    "the bridge of the network {id} is removed: an engine was killed before it had made or removed it"
                );
                if let Err(error) = self.drop_links(&id) {
                    tracing::error!("removing the bridge of the network {id}: {error}");
                }
            }
        }
    }

    fn write_isolation(&self, networks: &IndexMap<String, NetworkRecord>) -> Result<(), EngineError> {
        let bridges = networks.values().filter(|n| n.driver == NetworkDriver::Bridge);
        let isolation = |n: &NetworkRecord| Isolation {
            bridge: n.bridge(),
            subnets: n.pools().map(|pool| pool.subnet).collect(),
            internal: n.internal,
            masquerade: n.is_on("com.docker.network.bridge.enable_ip_masquerade"),
            connected: n.is_on("com.docker.network.bridge.enable_icc"),
        };
        let isolations = bridges.map(isolation).collect();
        Ok(self.firewall.set_isolation(isolations).map_err(NetworkError::Firewall)?)
    }

    /// Removes a network that no container is on.
    ///
    /// # Errors
    /// When a container is on it: the message names it.
    pub fn remove(&self, name: &str) -> Result<(), EngineError> {
        self.remove_unless(name, |record| {
            let uses = |user: &ContainerRecord| user.endpoints.contains_key(&record.id) && user.state.status().is_alive();
            // One that is being started has its addresses already.
            let starts = |user: &Container| {
                user.with_record(|user| user.endpoints.contains_key(&record.id)) && locked(&user.live).on_networks
            };
            self.containers.all().into_iter().find(|user| user.with_record(uses) || starts(user)).map(|user| user.name())
        })
    }

    /// Removes a network unless it is in use: `user` names the user, while no container can get an address on it.
    fn remove_unless(&self, name: &str, user: impl FnOnce(&NetworkRecord) -> Option<String>) -> Result<(), EngineError> {
        let mut networks = locked(&self.records);
        let record = find_in(&networks, name).or_else(|error| {
            self.state.refuse_unknown(RecordKind::Network, name)?;
            Err(error)
        })?;
        if let Some(user) = user(&record) {
            return Err(EngineError::Conflict(format!(
                "error while removing network: network {} id {} has active endpoints: it is in use by the container {user}",
                record.name, record.id
            )));
        }
        self.state.refuse_use_by_unknown("network", &[&record.name, &record.id])?;
        let mut others = networks.clone();
        others.shift_remove(&record.id);
        // In this order: a network without a bridge or a manifest gets one, and one without a record is found again.
        let removed = self.write_isolation(&others).and_then(|()| self.drop_bridge(&record)).and_then(|()| {
            self.state.remove_network_manifest(&record.id)?;
            self.state.journal.delete(&format!("network/{}", record.id)).map_err(state_error)
        });
        if let Err(error) = removed {
            self.state.write_network_manifest(&record);
            if let Err(error) = self.raise_bridge(&record).and_then(|()| self.write_isolation(&networks)) {
                tracing::error!("the network {} is there without its bridge or its rules: {error}", record.name);
            }
            return Err(error);
        }
        *networks = others;
        drop(networks);
        self.names.remove_network(&record.id);
        if record.name != DEFAULT_NETWORK {
            self.emit(&record, "destroy", None);
        }
        Ok(())
    }

    /// Makes the network of containers that name none, unless it is there.
    ///
    /// # Errors
    /// As [`Networks::create`].
    pub fn make_default(&self) -> Result<(), EngineError> {
        match self.create(&NewNetwork { name: DEFAULT_NETWORK.into(), ..NewNetwork::default() }) {
            Err(EngineError::Conflict(_)) => Ok(()),
            other => other.map(drop),
        }
    }

    /// The addresses that the network of containers that name none would get now.
    pub fn next_default_pool(&self) -> Option<Pool> {
        let new = NewNetwork { name: DEFAULT_NETWORK.into(), ..NewNetwork::default() };
        self.record_of(&new, &locked(&self.records), &[]).ok()?.ipv4
    }

    /// Removes a network that no container, running or not, is configured for. `true` where it was removed.
    pub fn remove_unused(&self, name: &str) -> bool {
        let uses = |record: &ContainerRecord| record.spec.networks.iter().any(|endpoint| endpoint.network == name);
        // Announced uses first: one ends when its container is known, so that one of the two is seen.
        let user = |_: &NetworkRecord| match self.uses.are_announced(name) {
            true => Some("that is being made".to_string()),
            false => self.containers.all().iter().find(|container| container.with_record(uses)).map(|container| container.name()),
        };
        self.remove_unless(name, user).is_ok()
    }

    /// The address by which a container reaches the host.
    pub(super) fn host_gateway(&self, record: &ContainerRecord) -> Option<IpAddr> {
        let first = record.spec.networks.first()?;
        let networks = locked(&self.records);
        let network = networks.values().find(|n| n.name == first.network)?;
        network.pools().next().map(|pool| pool.gateway)
    }
}

/// Which engine chooses a subnet: those with other roots choose by the same routes, one after the other, until the route is there. The
/// file is root's alone: who may open it may hold the lock.
const SUBNETS_LOCK: &str = "/run/wharf-subnets.lock";

fn lock_subnets() -> Result<Flock<File>, EngineError> {
    let doing = || EngineError::io(format!("locking {SUBNETS_LOCK} for the choice of a subnet"));
    let options = File::options().create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).clone();
    let file = options.open(SUBNETS_LOCK).map_err(doing())?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        // Another engine chooses: the thread's other requests go on elsewhere.
        Err((file, nix::Error::EWOULDBLOCK)) => {
            let wait = || Flock::lock(file, FlockArg::LockExclusive);
            tokio::task::block_in_place(wait).map_err(|(_, e)| doing()(e.into()))
        }
        Err((_, error)) => Err(doing()(error.into())),
    }
}
