//! Published and exposed ports.

use super::invalid;
use crate::api::types::ContainerCreate;
use crate::engine::EngineError;
use crate::engine::record::PortSpec;
use crate::units::ContainerPort;

/// `80`, `80/tcp`.
pub(super) fn parse(text: &str) -> Option<ContainerPort> {
    text.parse().ok().filter(|port: &ContainerPort| port.port != 0)
}

/// Exposed and published ports, without repetition.
pub(super) fn exposed(create: &ContainerCreate) -> Vec<ContainerPort> {
    let named = create.exposed_ports.keys().chain(create.host_config.port_bindings.keys());
    let mut list = Vec::new();
    for port in named.filter_map(|text| parse(text)) {
        if !list.contains(&port) {
            list.push(port);
        }
    }
    list
}

pub(super) fn of(create: &ContainerCreate) -> Result<Vec<PortSpec>, EngineError> {
    let bad = |text: &str| invalid(format!("invalid port specification: \"{text}\""));
    let mut ports = Vec::new();
    for (key, bindings) in &create.host_config.port_bindings {
        let ContainerPort { port: target, protocol } = parse(key).ok_or_else(|| bad(key))?;
        for binding in bindings.iter().flatten() {
            let host_ip = match binding.host_ip.as_str() {
                "" => None,
                ip => Some(ip.parse().map_err(|_| invalid(format!("invalid IP address in the binding of {key}: \"{ip}\"")))?),
            };
            let published = binding.host_port.parse().map_err(|_| bad(&binding.host_port))?;
            ports.push(PortSpec { target, protocol, host_ip, published });
        }
    }
    match create.exposed_ports.keys().find(|key| parse(key).is_none()) {
        Some(key) => Err(bad(key)),
        None => Ok(ports),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{refused, spec_of};
    use crate::units::ContainerPort;
    use serde_json::{Value, json};

    fn bound(key: &str, binding: Value) -> Value {
        json!({"HostConfig": {"PortBindings": {key: binding}}})
    }

    #[test]
    fn bindings_are_read() {
        let cases = [
            (json!([{"HostPort": "18000-18010"}]), vec![(18000, 18010)]),
            (json!([{"HostPort": "18000"}, {"HostPort": "", "HostIp": "127.0.0.1"}]), vec![(18000, 18000), (0, 0)]),
            (json!([{}]), vec![(0, 0)]),
            (json!([]), vec![]),
            (Value::Null, vec![]),
        ];
        for (binding, published) in cases {
            let spec = spec_of(bound("53/UDP", binding.clone())).expect("a body");
            assert_eq!(spec.ports.iter().map(|port| port.published.into()).collect::<Vec<(u16, u16)>>(), published, "{binding}");
            assert!(spec.ports.iter().all(|port| port.container_port().to_string() == "53/udp"));
            assert_eq!(spec.as_created.exposed_ports.iter().map(ContainerPort::to_string).collect::<Vec<_>>(), ["53/udp"]);
        }
    }

    #[test]
    fn what_is_no_port_is_refused() {
        let one = |port: &str| json!([{"HostPort": port}]);
        refused(vec![
            (bound("80/tcp", one("http")), "invalid port specification: \"http\""),
            (bound("80/tcp", one("70000")), "invalid port specification: \"70000\""),
            (bound("80/tcp", one("20-10")), "invalid port specification: \"20-10\""),
            (bound("80/tcp", one("-1")), "invalid port specification: \"-1\""),
            (bound("80/icmp", one("1")), "invalid port specification: \"80/icmp\""),
            (bound("0", one("1")), "invalid port specification: \"0\""),
            (bound("80", json!([{"HostIp": "localhost"}])), "invalid IP address"),
            (json!({"ExposedPorts": {"x/tcp": {}}}), "invalid port specification: \"x/tcp\""),
        ]);
    }
}
