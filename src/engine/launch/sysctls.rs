//! The kernel's settings that belong to a container's own namespaces.

use crate::engine::record::{ContainerSpec, NetworkMode, Sharing};

/// Sysctls of the IPC namespace; any other but the network's would change the host.
const NAMESPACED: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// A container's sysctls: Docker's defaults, and its own in their place.
///
/// # Errors
/// Which one would change the host.
pub fn of(spec: &ContainerSpec) -> Result<Vec<(String, String)>, String> {
    let host_network = spec.network_mode == NetworkMode::Host;
    let mut sysctls: Vec<(String, String)> = Vec::new();
    if !host_network && !matches!(spec.network_mode, NetworkMode::Container(_)) {
        // Docker's, so that a server without root can bind port 80 and ping needs no capability.
        sysctls.push(("net.ipv4.ip_unprivileged_port_start".into(), "0".into()));
        sysctls.push(("net.ipv4.ping_group_range".into(), "0 2147483647".into()));
    }
    for (name, value) in &spec.sysctls {
        let own_ipc = NAMESPACED.contains(&name.as_str()) || name.starts_with("fs.mqueue.");
        let own = (own_ipc && spec.ipc == Sharing::Own) || (name.starts_with("net.") && !host_network);
        if !own || name.contains("..") || name.contains('/') {
            return Err(format!(
                "the sysctl `{name}` would change the host: only those of the container's own namespaces can be set"
            ));
        }
        sysctls.retain(|(known, _)| known != name);
        sysctls.push((name.clone(), value.clone()));
    }
    Ok(sysctls)
}
