//! Registry mirrors, and registries that are reached without a valid certificate.
//!
//! `/etc/wharf/config.json` (or the file that WHARF_CONFIG names) has the words of Docker's daemon.json:
//! `{"registry-mirrors": ["https://mirror.example"], "insecure-registries": ["10.0.0.1:5000", "10.1.0.0/16"]}`.
//! It is read at each pull and push, so a change needs no restart.

use super::ImageError;
use crate::network::address::Subnet;
use serde::Deserialize;
use std::net::IpAddr;
use std::path::PathBuf;

const FILE: &str = "/etc/wharf/config.json";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
struct HostsFile {
    registry_mirrors: Vec<String>,
    insecure_registries: Vec<String>,
}

/// How a registry is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Https,
    /// HTTPS with whatever certificate, or else plain HTTP.
    Insecure,
    Http,
}

/// Where registries are, and how they are spoken to.
#[derive(Debug, Default)]
pub struct Hosts {
    /// Hosts to ask before Docker Hub.
    pub mirrors: Vec<String>,
    plain: Vec<String>,
    insecure: Vec<String>,
}

impl Hosts {
    /// Reads the configuration; without the file there is none.
    ///
    /// # Errors
    /// When the file is there and is not understood.
    pub fn read() -> Result<Self, ImageError> {
        let path = std::env::var_os("WHARF_CONFIG").map_or_else(|| PathBuf::from(FILE), PathBuf::from);
        let wrong = |why: String| ImageError::Change(format!("{}: {why}", path.display()));
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map_err(wrong),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Hosts::default()),
            Err(e) => Err(wrong(e.to_string())),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: HostsFile = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let mut hosts = Hosts { insecure: file.insecure_registries, ..Hosts::default() };
        for mirror in file.registry_mirrors {
            let (scheme, host) = mirror.split_once("://").unwrap_or(("https", &mirror));
            let host = host.trim_end_matches('/');
            if host.is_empty() || host.contains('/') || !matches!(scheme, "http" | "https") {
                return Err(format!(
                    "the mirror `{mirror}` is not understood: write https://HOST or http://HOST:PORT, without a path"
                ));
            }
            hosts.plain.extend((scheme == "http").then(|| host.to_string()));
            hosts.mirrors.push(host.to_string());
        }
        Ok(hosts)
    }

    /// How a host is reached. Registries on loopback are plain HTTP, as Docker has it.
    pub fn scheme(&self, host: &str) -> Scheme {
        let bare = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
        let address: Option<IpAddr> = bare.trim_matches(['[', ']']).parse().ok();
        let is_loopback = bare == "localhost" || address.is_some_and(|a| a.is_loopback());
        let listed = |entry: &String| {
            entry == host
                || entry == bare
                || address.is_some_and(|a| entry.parse::<Subnet>().is_ok_and(|subnet| subnet.contains(a)))
        };
        match () {
            () if is_loopback || self.plain.iter().any(|plain| plain == host) => Scheme::Http,
            () if self.insecure.iter().any(listed) => Scheme::Insecure,
            () => Scheme::Https,
        }
    }
}

/// The name under which a host is reached: Docker Hub's registry has one of its own.
pub fn registry_of(host: &str) -> &str {
    if host == "docker.io" { "registry-1.docker.io" } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_reached_as_the_file_says() {
        let text = r#"{"registry-mirrors": ["http://mirror:5001", "https://other/"], "insecure-registries": ["10.0.0.1:5000", "10.1.0.0/16"]}"#;
        let hosts = Hosts::parse(text).expect("parses");
        assert_eq!(hosts.mirrors, ["mirror:5001", "other"]);
        for (host, expected) in [
            ("localhost:5000", Scheme::Http),
            ("127.0.0.1:5000", Scheme::Http),
            ("mirror:5001", Scheme::Http),
            ("other", Scheme::Https),
            ("docker.io", Scheme::Https),
            ("10.0.0.1:5000", Scheme::Insecure),
            ("10.0.0.1:5001", Scheme::Https),
            ("10.1.2.3:80", Scheme::Insecure),
        ] {
            assert_eq!(hosts.scheme(host), expected, "{host}");
        }
        assert!(Hosts::parse(r#"{"registry-mirrors": ["ftp://x"]}"#).is_err());
        assert!(Hosts::parse(r#"{"registry-mirror": []}"#).expect_err("a slip").contains("registry-mirror"));
    }
}
