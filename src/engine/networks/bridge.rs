//! A network's bridge in the kernel: one that wharf makes and removes, or one of the host's, which is given back as it was.

use super::Networks;
use super::parent_of;
use crate::engine::error::EngineError;
use crate::engine::record::{NetworkDriver, NetworkRecord};
use crate::network::netlink::Netlink;
use crate::network::{NetworkError, link};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// Settings of a bridge of the host's as they were before a network changed them. It is kept in the run root before the change is made,
/// so that an engine which knows the network no more can undo it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Borrowed {
    bridge: String,
    index: u32,
    /// The addresses that the bridge gets: it had others, or none.
    addresses: Vec<(IpAddr, u8)>,
    was_up: bool,
    /// Files of /proc/sys and their values.
    sysctls: Vec<(String, String)>,
}

impl Borrowed {
    fn read(file: &Path) -> Option<Borrowed> {
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    /// Gives the bridge back, unless it is gone.
    fn give_back(&self, netlink: &Netlink) -> io::Result<()> {
        match link::find(netlink, &self.bridge)? {
            Some(found) if found.index == self.index => {}
            _ => return Ok(()),
        }
        for (path, value) in &self.sysctls {
            fs::write(path, value)?;
        }
        for (address, prefix) in &self.addresses {
            match netlink.send(&[link::remove_address(self.index, *address, *prefix)]) {
                Err((_, error)) if error.raw_os_error() != Some(libc::EADDRNOTAVAIL) => return Err(error),
                _ => {}
            }
        }
        if !self.was_up {
            netlink.send(&[link::down(self.index)]).map_err(|(_, error)| error)?;
        }
        Ok(())
    }
}

/// Whose an interface with a network's bridge name is.
enum BridgeOwner {
    Wharfs(u32),
    Hosts(link::FoundLink),
}

/// The addresses of a bridge of the host's that a new network asks for by name; none where wharf will make the bridge.
///
/// # Errors
/// When an interface with the name is no bridge, or another engine's.
pub(super) fn addresses_of_hosts_bridge(network: &str, bridge: &str) -> Result<Vec<(IpAddr, u8)>, EngineError> {
    let failed = |source| NetworkError::Kernel { network: network.into(), doing: "looking for its bridge", source };
    let netlink = Netlink::route().map_err(failed)?;
    match link::find(&netlink, bridge).map_err(failed)? {
        Some(found) => {
            refuse_foreign(network, bridge, &found)?;
            Ok(link::addresses(&netlink, found.index).map_err(failed)?)
        }
        None => Ok(Vec::new()),
    }
}

fn refuse_foreign(network: &str, name: &str, found: &link::FoundLink) -> Result<(), EngineError> {
    let why = match found.kind.as_deref() {
        Some("bridge") if NetworkRecord::is_group(found.group) => "is the bridge of another network of wharf's",
        Some("bridge") => return Ok(()),
        _ => "is not a bridge",
    };
    Err(EngineError::Invalid(format!(
        "the network {network} cannot have the bridge {name}: existing interface {name} {why}; choose another `com.docker.network.bridge.name`"
    )))
}

impl Networks {
    /// Makes the bridge, or takes the one that is there: wharf's own, or one of the host's.
    pub(super) fn raise_bridge(&self, record: &NetworkRecord) -> Result<(), EngineError> {
        if record.driver != NetworkDriver::Bridge {
            return parent_of(record).map(drop);
        }
        let failed = |doing: &'static str| {
            let network = record.name.clone();
            move |source| NetworkError::Kernel { network, doing, source }
        };
        let netlink = Netlink::route().map_err(failed("opening a netlink socket"))?;
        // Before there is anything in the kernel, so that an engine which no record tells of the network can remove that.
        let note = self.config.raised_networks().join(&record.id);
        fs::OpenOptions::new().create(true).append(true).open(&note).map_err(failed("noting it in the run root"))?;
        match self.find_or_make(&netlink, record)? {
            BridgeOwner::Wharfs(index) => set_up(&netlink, record, index)?,
            BridgeOwner::Hosts(found) => self.borrow(&netlink, record, &found, &note)?,
        }
        if record.ipv4.is_some() {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").or_else(unless_missing).map_err(failed("setting its sysctls"))?;
        }
        if record.ipv6.is_some() {
            super::forward_ipv6().map_err(failed("having the kernel forward IPv6"))?;
        }
        Ok(())
    }

    fn find_or_make(&self, netlink: &Netlink, record: &NetworkRecord) -> Result<BridgeOwner, EngineError> {
        let failed = |source| NetworkError::Kernel { network: record.name.clone(), doing: "making its bridge", source };
        let name = record.bridge();
        let mac = record.pools().next().map_or([0x02, 0x42, 0, 0, 0, 1], |pool| link::mac_of(pool.gateway));
        match link::make_bridge(netlink, &name, record.group(), record.mtu(), mac) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            made => return Ok(BridgeOwner::Wharfs(made.map_err(failed)?)),
        }
        let gone = || failed(io::Error::from_raw_os_error(libc::ENODEV));
        let found = link::find(netlink, &name).map_err(failed)?.ok_or_else(gone)?;
        if found.kind.as_deref() == Some("bridge") && found.group == record.group() {
            return Ok(BridgeOwner::Wharfs(found.index));
        }
        refuse_foreign(&record.name, &name, &found)?;
        Ok(BridgeOwner::Hosts(found))
    }

    /// Takes a bridge of the host's. What it gets is noted first, and taken away with the network.
    fn borrow(&self, netlink: &Netlink, record: &NetworkRecord, found: &link::FoundLink, note: &Path) -> Result<(), EngineError> {
        let failed = |source| NetworkError::Kernel { network: record.name.clone(), doing: "taking the host's bridge", source };
        let bridge = record.bridge();
        let known = Borrowed::read(note).filter(|known| known.index == found.index);
        let ipv6 = format!("/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6");
        let mut settings = vec![(format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1")];
        settings.extend(record.ipv6.is_some().then_some((ipv6, "0")));
        if known.is_none() {
            let has = link::addresses(netlink, found.index).map_err(failed)?;
            let pools = record.pools().map(|pool| (pool.gateway, pool.subnet.prefix()));
            let value = |path: &String| Some((path.clone(), fs::read_to_string(path).ok()?));
            let borrowed = Borrowed {
                index: found.index,
                addresses: pools.filter(|(gateway, _)| !has.iter().any(|(address, _)| address == gateway)).collect(),
                was_up: found.is_up,
                sysctls: settings.iter().filter_map(|(path, _)| value(path)).collect(),
                bridge,
            };
            let text = serde_json::to_vec(&borrowed).map_err(|error| failed(error.into()))?;
            fs::write(note, text).map_err(failed)?;
        }
        for (path, value) in settings {
            fs::write(path, value).or_else(unless_missing).map_err(failed)?;
        }
        for pool in record.pools() {
            link::add_address(netlink, found.index, pool.gateway, pool.subnet.prefix()).map_err(failed)?;
        }
        if found.is_up { Ok(()) } else { Ok(netlink.send(&[link::up(found.index)]).map_err(|(_, error)| failed(error))?) }
    }

    pub(super) fn drop_bridge(&self, record: &NetworkRecord) -> Result<(), EngineError> {
        if record.driver != NetworkDriver::Bridge {
            return Ok(());
        }
        let failed = |source| NetworkError::Kernel { network: record.name.clone(), doing: "removing its bridge", source };
        Ok(self.drop_links(&record.id).map_err(failed)?)
    }

    /// As [`Networks::drop_bridge`] for a network that is not known yet: what cannot be removed is left to the next engine.
    pub(super) fn drop_half_made(&self, record: &NetworkRecord) {
        if let Err(error) = self.drop_bridge(record) {
            tracing::error!("{error}");
        }
    }

    /// Removes a network's bridge and what is on it, or gives the host's back; that there is none is fine.
    pub(super) fn drop_links(&self, id: &str) -> io::Result<()> {
        let netlink = Netlink::route()?;
        match netlink.send(&[link::delete_group(NetworkRecord::group_of(id))]) {
            Err((_, error)) if error.raw_os_error() != Some(libc::ENODEV) => return Err(error),
            _ => {}
        }
        let note = self.config.raised_networks().join(id);
        if let Some(borrowed) = Borrowed::read(&note) {
            borrowed.give_back(&netlink)?;
        }
        // What stays behind names a bridge that is gone: the next engine removes it again, which does nothing.
        let _ = fs::remove_file(note);
        Ok(())
    }
}

/// A kernel without IPv6 has no settings of it.
fn unless_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// The settings and addresses of a bridge that wharf has made.
fn set_up(netlink: &Netlink, record: &NetworkRecord, index: u32) -> Result<(), EngineError> {
    let failed = |doing: &'static str| {
        let network = record.name.clone();
        move |source| NetworkError::Kernel { network, doing, source }
    };
    let bridge = record.bridge();
    let set = |path: String, value: &str| fs::write(path, value).or_else(unless_missing).map_err(failed("setting its sysctls"));
    let ipv6 = |name: &str| format!("/proc/sys/net/ipv6/conf/{bridge}/{name}");
    set(format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1")?;
    set(ipv6("disable_ipv6"), if record.ipv6.is_some() { "0" } else { "1" })?;
    if record.ipv6.is_some() {
        // The bridge is its network's router: it believes no other.
        set(ipv6("accept_ra"), "0")?;
    }
    for pool in record.pools() {
        link::add_address(netlink, index, pool.gateway, pool.subnet.prefix()).map_err(failed("giving its bridge an address"))?;
    }
    Ok(())
}
