//! Events about what a container uses while it runs: its networks and volumes.

use crate::engine::Container;
use crate::engine::networks::Networks;
use crate::engine::record::{MountKind, MountSpec};
use crate::engine::volumes::Volumes;
use indexmap::IndexMap;

impl Networks {
    /// Emits `connect` or `disconnect` for each network of a container.
    pub(in crate::engine) fn emit_use(&self, container: &Container, action: &str) {
        let names: Vec<String> =
            container.with_record(|record| record.spec.networks.iter().map(|endpoint| endpoint.network.clone()).collect());
        for network in names.iter().filter_map(|name| self.find(name).ok()) {
            self.emit(&network, action, Some(&container.id));
        }
    }
}

impl Volumes {
    /// Emits `mount` or `unmount` for each volume of a container.
    pub(in crate::engine) fn emit_use(&self, container: &Container, action: &str) {
        let mounts = container.with_record(|record| record.spec.mounts.clone());
        for mount in mounts.iter().filter(|mount| mount.kind == MountKind::Volume) {
            self.events.emit("volume", action, &mount.source, attributes(container, mount, action == "mount"));
        }
    }
}

fn attributes(container: &Container, mount: &MountSpec, begins: bool) -> IndexMap<String, String> {
    let mut attributes = vec![("container", container.id.clone()), ("driver", "local".into())];
    if begins {
        attributes.extend([
            ("destination", mount.target.clone()),
            ("read/write", (!mount.read_only).to_string()),
            ("propagation", mount.propagation.clone().unwrap_or_default()),
        ]);
    }
    attributes.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}
