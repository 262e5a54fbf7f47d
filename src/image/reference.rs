//! Image references: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, with Docker Hub's short names.

use super::digest::{BadDigest, Digest, shown};
use std::fmt;
use std::str::FromStr;

/// A reference in its full form. `mysql:5.7` is `docker.io/library/mysql:5.7`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    /// The registry: `docker.io`, `localhost:5000`, ...
    pub host: String,
    pub path: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

/// A text that is no image's name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not an image reference: {why}; write NAME, NAME:TAG, HOST/NAME:TAG or NAME@sha256:DIGEST")]
pub struct BadReference {
    text: String,
    why: &'static str,
}

const HUB: &str = "docker.io";

impl FromStr for ImageRef {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        let bad = |why| BadReference { text: shown(text), why };
        if text.is_empty() || text.len() > 4096 {
            return Err(bad("it is empty or too long"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let digest =
            digest.map(|d| d.parse().map_err(|_: BadDigest| bad("the digest is not sha256:HEX or sha512:HEX"))).transpose()?;
        let (name, tag) = match name.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => (rest, Some(tag)),
            _ => (name, None),
        };
        if let Some(tag) = tag {
            let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
            if tag.is_empty() || tag.len() > 128 || tag.starts_with(['.', '-']) || !tag.chars().all(word) {
                return Err(bad("the tag has letters, digits, `_`, `.` and `-`, 128 at most"));
            }
        }
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if looks_like_host(host) => (host, path.to_string()),
            _ => (HUB, name.to_string()),
        };
        let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { HUB } else { host };
        if !is_host(host) {
            return Err(bad("the registry's host is not valid"));
        }
        let path = if host == HUB && !path.contains('/') { format!("library/{path}") } else { path };
        if path.len() > 255 || !path.split('/').all(is_component) {
            return Err(bad("a name has lower-case letters and digits, with `.`, `_`, `-` and `/` between them"));
        }
        let tag = tag.map(str::to_string).or_else(|| digest.is_none().then(|| "latest".to_string()));
        Ok(ImageRef { host: host.into(), path, tag, digest })
    }
}

/// Whether what stands before the first `/` is a registry and not a part of the path, by Docker's rule.
fn looks_like_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase)
}

/// A registry's host: names with dots, an address, or an IPv6 address in brackets; with a port or without (distribution's reference
/// grammar, `domain`).
fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let name_ok = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(label),
    };
    host.len() <= 255
        && name_ok
        && port.is_none_or(|port| port.chars().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// A part of a repository's path: words with `.`, `_`, `__` or dashes between them (distribution's reference grammar,
/// `path-component`). So none is `..`.
fn is_component(part: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut separators = part.split(word).filter(|between| !between.is_empty());
    part.starts_with(word)
        && part.ends_with(word)
        && separators.all(|between| matches!(between, "." | "_" | "__") || between.chars().all(|c| c == '-'))
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl ImageRef {
    /// The name without tag and digest, as users write it: `mysql`, `me/app`, `localhost:5000/app`.
    pub fn familiar_name(&self) -> String {
        let short = self.path.strip_prefix("library/").filter(|short| !short.contains('/'));
        // On Docker Hub as well: `docker.io/ghcr.io/x` is not `ghcr.io/x`.
        let is_ambiguous = self.path.split_once('/').is_some_and(|(first, _)| looks_like_host(first));
        match (self.host.as_str(), short) {
            (HUB, Some(short)) => short.to_string(),
            (HUB, None) if !is_ambiguous => self.path.clone(),
            _ => format!("{}/{}", self.host, self.path),
        }
    }

    /// The whole reference as users write it.
    pub fn familiar(&self) -> String {
        let tag = self.tag.as_ref().map(|t| format!(":{t}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|d| format!("@{d}")).unwrap_or_default();
        format!("{}{tag}{digest}", self.familiar_name())
    }

    /// The reference in the registry's API: the digest, else the tag.
    pub fn version(&self) -> &str {
        self.digest.as_ref().map(Digest::as_str).or(self.tag.as_deref()).unwrap_or("latest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_as_docker_does() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let table = [
            ("mysql:5.7", Some("docker.io/library/mysql:5.7".to_string())),
            ("busybox", Some("docker.io/library/busybox:latest".into())),
            ("me/app:1", Some("docker.io/me/app:1".into())),
            ("localhost:5000/a/b", Some("localhost:5000/a/b:latest".into())),
            ("ghcr.io/x/y", Some("ghcr.io/x/y:latest".into())),
            ("127.0.0.1:5000/x:t", Some("127.0.0.1:5000/x:t".into())),
            (&format!("x@{digest}"), Some(format!("docker.io/library/x@{digest}"))),
            ("index.docker.io/x", Some("docker.io/library/x:latest".into())),
            ("UPPER", None),
            ("a:b:c", None),
            ("a//b", None),
            ("-a", None),
            ("a:", None),
            ("a@sha256:zz", None),
            ("", None),
            ("../x", None),
            ("a..b", None),
            ("a/../b", None),
            ("a._b", None),
            ("a___b", None),
            ("a__b---c.d", Some("docker.io/library/a__b---c.d:latest".into())),
            ("a/b/.", None),
            ("x.y:80/a", Some("x.y:80/a:latest".into())),
            ("[::1]:5000/a", Some("[::1]:5000/a:latest".into())),
            ("[::1]/a", Some("[::1]/a:latest".into())),
            ("[::1/a", None),
            ("[x]/a", None),
            ("x..y/a", None),
            (".x/a", None),
            ("-x.y/a", None),
            ("x.y:/a:1", None),
            ("x.y:99999/a", None),
            ("x.y:+8/a", None),
            ("x:1:2/a", None),
            ("a:..", None),
            ("a:b/c", None),
            ("a@sha256:../../x", None),
            ("a?b", None),
            ("a%2e%2e", None),
            ("a\\b", None),
            ("é", None),
            (&format!("{}/a", ["x"; 200].join(".")), None),
            (&format!("x@sha512:{}", "a".repeat(128)), Some(format!("docker.io/library/x@sha512:{}", "a".repeat(128)))),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<ImageRef>().ok().map(|r| r.to_string()), expected, "{text}");
        }
        for name in
            ["docker.io/library/a/b:latest", "docker.io/ghcr.io/x:latest", "docker.io/localhost/x:1", "docker.io/me/app:2"]
        {
            let reference: ImageRef = name.parse().expect("valid");
            assert_eq!(reference.familiar().parse::<ImageRef>().expect("valid").to_string(), name);
        }
        assert_eq!("mysql:5.7".parse::<ImageRef>().expect("valid").familiar(), "mysql:5.7");
    }
}
