//! The short form of `ports:`: `[[HOST_IP:]PUBLISHED:]TARGET[/PROTOCOL]`, with ranges.

use super::canonical::{Expanded, Refused, map_of};
use super::node::{Node, Value};
use crate::units::Protocol;
use std::net::IpAddr;

/// Expands one entry of `ports:` into its long forms: one for each port of a range.
pub fn parse(node: &mut Node) -> Expanded {
    if let Value::Map(_) = node.value {
        return long(node);
    }
    let text = node.scalar_text().unwrap_or_default();
    let refuse = |why: String| Refused {
        message: format!("`{text}` is not a port mapping: {why}"),
        help: "write `\"HOST:CONTAINER\"`, such as `\"8080:80\"`, `\"127.0.0.1:8080:80\"` or `\"53:53/udp\"`".into(),
    };
    let (address, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
    let protocol: Protocol = protocol.parse().map_err(&refuse)?;
    let (rest, target) = address.rsplit_once(':').map_or(("", address), |(rest, target)| (rest, target));
    let (host_ip, published) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((ip, published)) => (ip, published.strip_prefix(':').unwrap_or("")),
        None => match rest.rsplit_once(':') {
            Some((ip, published)) => (ip, published),
            None => ("", rest),
        },
    };
    if !host_ip.is_empty() && host_ip.parse::<IpAddr>().is_err() {
        return Err(refuse(format!("`{host_ip}` is not an IP address")));
    }
    let targets = range(target).map_err(&refuse)?;
    if targets.0 == 0 {
        return Err(refuse("`0` is no port inside the container".into()));
    }
    let published = if published.is_empty() { None } else { Some((published, range(published).map_err(&refuse)?)) };
    let count = targets.1 - targets.0;
    if let Some((_, published)) = &published
        && published.1 - published.0 != count
        && count != 0
    {
        return Err(refuse("the two ranges have different lengths".into()));
    }
    let at = &node.at.clone();
    let mut offsets: Vec<u16> = (0..=count).collect();
    // Docker Compose has the ports of a range in the order of their texts.
    offsets.sort_by_key(|i| (targets.0 + i).to_string());
    let mut ports = offsets.into_iter().map(|i| {
        let mut map = map_of([
            ("mode", Node::string("ingress", at)),
            ("target", Node::new(Value::Int(i64::from(targets.0 + i)), *at)),
            ("protocol", Node::string(protocol.as_str(), at)),
        ]);
        if let Some((text, (first, _))) = &published {
            // One container port on a range of host ports: any free one of them.
            let port = if count == 0 { (*text).to_string() } else { (first + i).to_string() };
            map.extend(map_of([("published", Node::string(port, at))]));
        }
        if !host_ip.is_empty() {
            map.extend(map_of([("host_ip", Node::string(host_ip, at))]));
        }
        Value::Map(map)
    });
    if let Some(first) = ports.next() {
        node.value = first;
    }
    Ok(ports.map(|value| Node::new(value, *at)).collect())
}

fn long(node: &mut Node) -> Expanded {
    let at = node.at;
    let Some(target) = node.get("target").and_then(Node::scalar_text) else {
        return Err(Refused {
            message: "a port needs a `target`: the port inside the container".into(),
            help: "write `target: 80`, and `published: \"8080\"` for the host".into(),
        });
    };
    match target.parse::<u16>() {
        Ok(port) if port > 0 => node.set("target", Node::new(Value::Int(i64::from(port)), at)),
        _ => {
            return Err(Refused {
                message: format!("`{target}` is not a port"),
                help: "a port is a number from 1 to 65535".into(),
            });
        }
    }
    if let Some(protocol) = node.get_mut("protocol")
        && let Value::String(text) = &mut protocol.value
    {
        text.make_ascii_lowercase();
    }
    if let Some(protocol) = node.get("protocol").and_then(Node::as_str).filter(|p| p.parse::<Protocol>().is_err()) {
        return Err(Refused {
            message: format!("`{protocol}` is not a protocol of a port"),
            help: "it is tcp, udp or sctp".into(),
        });
    }
    if let Some(text) = node.get("published").and_then(Node::scalar_text).filter(|text| !text.is_empty()) {
        range(&text).map_err(|why| Refused { message: why, help: "a port is a number from 1 to 65535".into() })?;
        node.set("published", Node::string(text, &at));
    }
    if node.get("mode").is_none() {
        node.set("mode", Node::string("ingress", &at));
    }
    if node.get("protocol").is_none() {
        node.set("protocol", Node::string("tcp", &at));
    }
    Ok(Vec::new())
}

/// `80` or `8000-8010`; 0 stands for a port of the kernel's choice.
fn range(text: &str) -> Result<(u16, u16), String> {
    let port = |t: &str| t.parse::<u16>().map_err(|_| format!("`{t}` is not a port from 1 to 65535"));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if last < first { Err(format!("the range `{text}` ends before it begins")) } else { Ok((first, last)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::node::At;

    fn parsed(text: &str) -> Option<Vec<String>> {
        let at = At { file: 0, line: 1, column: 1, len: 1 };
        let mut first = Node::string(text, &at);
        let more = parse(&mut first).ok()?;
        let nodes: Vec<Node> = [first].into_iter().chain(more).collect();
        let field = |n: &Node, k: &str| n.get(k).and_then(Node::scalar_text).unwrap_or_default();
        Some(
            nodes
                .iter()
                .map(|n| {
                    format!("{}|{}|{}|{}", field(n, "host_ip"), field(n, "published"), field(n, "target"), field(n, "protocol"))
                })
                .collect(),
        )
    }

    #[test]
    fn short_forms() {
        let table: &[(&str, Option<&[&str]>)] = &[
            ("80", Some(&["||80|tcp"])),
            ("8080:80", Some(&["|8080|80|tcp"])),
            ("127.0.0.1:8080:80", Some(&["127.0.0.1|8080|80|tcp"])),
            ("127.0.0.1::80", Some(&["127.0.0.1||80|tcp"])),
            ("[::1]:8080:80", Some(&["::1|8080|80|tcp"])),
            ("::1:8080:80", Some(&["::1|8080|80|tcp"])),
            ("53:53/udp", Some(&["|53|53|udp"])),
            ("3000-3001", Some(&["||3000|tcp", "||3001|tcp"])),
            ("9000-9001:80-81", Some(&["|9000|80|tcp", "|9001|81|tcp"])),
            ("9000-9010:80", Some(&["|9000-9010|80|tcp"])),
            ("9000-9010:80-81", None),
            ("x:80", None),
            ("80/xyz", None),
            ("70000:80", None),
            ("300.1.1.1:80:80", None),
            ("", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|e| e.iter().map(|s| (*s).to_string()).collect::<Vec<_>>());
            assert_eq!(parsed(text), expected, "{text}");
        }
    }
}
