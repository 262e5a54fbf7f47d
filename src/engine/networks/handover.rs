//! Addresses of a definition that a container gets from the one it has replaced, while it runs.

use super::Networks;
use super::endpoints::{bridge_port, ways_out};
use crate::engine::error::EngineError;
use crate::engine::record::{ContainerRecord, NetworkDriver, NetworkMode};
use crate::engine::{Container, locked};
use crate::network::address::IpFamily;
use crate::network::link;
use crate::network::sandbox::{self, Readdressing};

impl Networks {
    /// Gives a running container the addresses of its definition, once the container that had them is gone. It keeps those that it has
    /// had since for the connections that go on. The next engine does the same again where this one dies meanwhile.
    ///
    /// # Errors
    /// The kernel's; the container has the addresses that it had then.
    pub(in crate::engine) async fn hand_over(&self, container: &Container) -> Result<(), EngineError> {
        let Some(namespace) = locked(&container.live).namespace.clone() else { return Ok(()) };
        let before = container.record();
        if before.spec.network_mode != NetworkMode::Bridge {
            return Ok(());
        }
        let endpoints = self.assign_addresses(container)?;
        let record = container.record();
        if record.former_addresses.is_empty() {
            return Ok(());
        }
        let changes = self.readdressings(&record);
        let (name, own) = (record.name.clone(), namespace.clone());
        let changing =
            tokio::task::spawn_blocking(move || changes.iter().try_for_each(|change| sandbox::readdress(&name, &own, change)));
        let changed = async {
            for endpoint in endpoints.iter().filter(|(network, _)| record.former_addresses.contains_key(&network.id)) {
                self.allow_sender(container, endpoint)?;
            }
            changing.await.map_err(EngineError::from)?.map_err(EngineError::from)
        };
        if let Err(error) = changed.await {
            self.containers.update(container, |record| {
                (record.endpoints, record.former_addresses) = (before.endpoints, before.former_addresses);
            });
            return Err(error);
        }
        self.enter_names_anew(&record);
        Ok(())
    }

    fn readdressings(&self, record: &ContainerRecord) -> Vec<Readdressing> {
        let endpoints = self.endpoints_of(record);
        let ways = ways_out(record, &endpoints);
        let of = |(n, (network, now)): (usize, &super::endpoints::Endpoint)| {
            let had = record.former_addresses.get(&network.id).filter(|_| network.driver == NetworkDriver::Bridge)?;
            let of_pool = network.pools().filter_map(|pool| {
                let family = pool.subnet.family();
                let (had, gets) = (had.of_family(family)?, now.of_family(family)?);
                (had != gets).then(|| (had, gets, pool.subnet.prefix()))
            });
            Some(Readdressing {
                addresses: of_pool.collect(),
                gateways: ways.iter().filter(|(way, _)| *way == n).map(|(_, gateway)| *gateway).collect(),
                mac: now.of_family(IpFamily::V4).or(now.first()).map(link::mac_of)?,
                host_name: record.interfaces.get(&network.id)?.clone(),
                port: bridge_port(record, network),
            })
        };
        endpoints.iter().enumerate().filter_map(of).collect()
    }
}
