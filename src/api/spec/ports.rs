//! Published and exposed ports.

use super::invalid;
use crate::api::types::ContainerCreate;
use crate::engine::EngineError;
use crate::engine::record::PortSpec;

/// `80`, `80/tcp`.
pub(super) fn parse(text: &str) -> Option<(u16, String)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let port = port.parse().ok().filter(|port| *port != 0)?;
    matches!(protocol.as_str(), "tcp" | "udp" | "sctp").then_some((port, protocol))
}

/// `18000`, `18000-18010`, or nothing, which is any.
fn host_ports(text: &str) -> Option<(u16, u16)> {
    if text.is_empty() {
        return Some((0, 0));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// Ports that others may use, in Docker's form, without repetition.
pub(super) fn exposed(create: &ContainerCreate) -> Vec<String> {
    let named = create.exposed_ports.keys().chain(create.host_config.port_bindings.keys());
    let mut list: Vec<String> = Vec::new();
    for (port, protocol) in named.filter_map(|text| parse(text)) {
        let text = format!("{port}/{protocol}");
        if !list.contains(&text) {
            list.push(text);
        }
    }
    list
}

pub(super) fn of(create: &ContainerCreate) -> Result<Vec<PortSpec>, EngineError> {
    let bad = |text: &str| invalid(format!("invalid port specification: \"{text}\""));
    let mut ports = Vec::new();
    for (key, bindings) in &create.host_config.port_bindings {
        let (target, protocol) = parse(key).ok_or_else(|| bad(key))?;
        for binding in bindings.iter().flatten() {
            let host_ip = match binding.host_ip.as_str() {
                "" => None,
                ip => Some(ip.parse().map_err(|_| invalid(format!("invalid IP address in the binding of {key}: \"{ip}\"")))?),
            };
            let published = host_ports(&binding.host_port).ok_or_else(|| bad(&binding.host_port))?;
            ports.push(PortSpec { target, protocol: protocol.clone(), host_ip, published });
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
            assert_eq!(spec.ports.iter().map(|port| port.published).collect::<Vec<_>>(), published, "{binding}");
            assert!(spec.ports.iter().all(|port| (port.target, port.protocol.as_str()) == (53, "udp")));
            assert_eq!(spec.as_created.exposed_ports, ["53/udp"]);
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
