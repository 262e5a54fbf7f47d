//! Events about what a container uses while it runs: its networks and volumes.

use crate::engine::record::{MountKind, MountSpec};
use crate::engine::{Container, Engine};
use indexmap::IndexMap;

impl Engine {
    /// A container has begun to use its networks and volumes: Docker's events come before that of its start.
    pub(in crate::engine) fn emit_use_begun(&self, container: &Container) {
        self.emit_networks(container, "connect");
        self.emit_volumes(container, "mount");
    }

    /// It uses them no more: after its end.
    pub(in crate::engine) fn emit_use_ended(&self, container: &Container) {
        self.emit_networks(container, "disconnect");
        self.emit_volumes(container, "unmount");
    }

    fn emit_networks(&self, container: &Container, action: &str) {
        let names: Vec<String> =
            container.with_record(|record| record.spec.networks.iter().map(|endpoint| endpoint.network.clone()).collect());
        for network in names.iter().filter_map(|name| self.networks.find(name).ok()) {
            self.networks.emit(&network, action, Some(&container.id));
        }
    }

    fn emit_volumes(&self, container: &Container, action: &str) {
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
