//! Transport protocols, and ports as Docker writes them.

use serde::{Deserialize, Deserializer, Serialize};
use std::fmt::{self, Display, Formatter};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The transport protocol of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    /// IPPROTO_*: its number in packets.
    pub fn number(self) -> u8 {
        let number = match self {
            Protocol::Tcp => libc::IPPROTO_TCP,
            Protocol::Udp => libc::IPPROTO_UDP,
            Protocol::Sctp => libc::IPPROTO_SCTP,
        };
        number as u8
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let named = all.into_iter().find(|protocol| protocol.as_str().eq_ignore_ascii_case(text));
        named.ok_or_else(|| format!("`{text}` is not tcp, udp or sctp"))
    }
}

impl TryFrom<String> for Protocol {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Protocol> for String {
    fn from(protocol: Protocol) -> Self {
        protocol.as_str().into()
    }
}

impl Display for Protocol {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A port of a container, as Docker writes it: `80/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerPort {
    pub port: u16,
    pub protocol: Protocol,
}

impl FromStr for ContainerPort {
    type Err = String;

    /// Without a protocol it is TCP's.
    fn from_str(text: &str) -> Result<Self, String> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let port = port.parse().map_err(|_| format!("`{text}` is not a port such as 80/tcp"))?;
        Ok(ContainerPort { port, protocol: protocol.parse()? })
    }
}

impl Display for ContainerPort {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

impl TryFrom<String> for ContainerPort {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ContainerPort> for String {
    fn from(port: ContainerPort) -> Self {
        port.to_string()
    }
}

/// Ports of an image or of an older journal, for `#[serde(deserialize_with = "...")]`: texts that are none are left out.
///
/// # Errors
/// A value that is no list of texts.
pub fn known_ports<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ContainerPort>, D::Error> {
    Ok(Vec::<String>::deserialize(from)?.iter().filter_map(|text| text.parse().ok()).collect())
}

/// The host's ports that one may be chosen from; its default is any port, of the kernel's choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u16, u16)", into = "(u16, u16)")]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub fn is_any(self) -> bool {
        self == PortRange::default()
    }

    pub fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl From<(u16, u16)> for PortRange {
    fn from((first, last): (u16, u16)) -> Self {
        PortRange { first, last }
    }
}

impl From<PortRange> for (u16, u16) {
    fn from(range: PortRange) -> Self {
        (range.first, range.last)
    }
}

impl FromStr for PortRange {
    type Err = String;

    /// `8000`, `8000-8010`, or nothing, which is any.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| part.parse::<u16>().map_err(|_| format!("`{text}` is not a port"));
        let (first, last) = match text.split_once('-') {
            _ if text.is_empty() => return Ok(PortRange::default()),
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(text)?, number(text)?),
        };
        if first > last {
            return Err(format!("`{text}` is not a range of ports: its last is below its first"));
        }
        Ok(PortRange { first, last })
    }
}

impl Display for PortRange {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (0, 0) => Ok(()),
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_written() {
        for (text, written) in [("80", "80/tcp"), ("53/UDP", "53/udp"), ("9/sctp", "9/sctp")] {
            let port: ContainerPort = text.parse().expect(text);
            assert_eq!(port.to_string(), written);
            assert_eq!(serde_json::to_string(&port).expect("JSON"), format!("\"{written}\""));
        }
        for bad in ["", "x", "80/icmp", "70000", "80-90/tcp"] {
            assert!(bad.parse::<ContainerPort>().is_err(), "{bad}");
        }
        for (text, range) in [("", (0, 0)), ("0", (0, 0)), ("80", (80, 80)), ("80-90", (80, 90))] {
            assert_eq!(text.parse(), Ok(PortRange::from(range)), "{text}");
        }
        for bad in ["x", "90-80", "-1", "80-", "70000"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
    }
}
