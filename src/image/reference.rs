//! Image references: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, with Docker Hub's short names.

use super::digest::{BadDigest, Digest};
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
        let bad = |why| BadReference { text: text.chars().take(200).collect(), why };
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
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" || host.chars().any(char::is_uppercase) => {
                (host, path.to_string())
            }
            _ => (HUB, name.to_string()),
        };
        let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { HUB } else { host };
        let host_ok = host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'));
        if !host_ok {
            return Err(bad("the registry's host is not valid"));
        }
        let path = if host == HUB && !path.contains('/') { format!("library/{path}") } else { path };
        let part_ok = |part: &str| {
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            edge(part.chars().next())
                && edge(part.chars().last())
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'))
        };
        if path.len() > 255 || !path.split('/').all(part_ok) {
            return Err(bad("a name has lower-case letters and digits, with `.`, `_`, `-` and `/` between them"));
        }
        let tag = tag.map(str::to_string).or_else(|| digest.is_none().then(|| "latest".to_string()));
        Ok(ImageRef { host: host.into(), path, tag, digest })
    }
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
        match (self.host.as_str(), self.path.strip_prefix("library/")) {
            (HUB, Some(short)) => short.to_string(),
            (HUB, None) => self.path.clone(),
            _ => format!("{}/{}", self.host, self.path),
        }
    }

    /// The whole reference as users write it.
    pub fn familiar(&self) -> String {
        let tag = self.tag.as_ref().map(|t| format!(":{t}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|d| format!("@{d}")).unwrap_or_default();
        format!("{}{tag}{digest}", self.familiar_name())
    }

    /// What the registry's API calls the version: the digest, else the tag.
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
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<ImageRef>().ok().map(|r| r.to_string()), expected, "{text}");
        }
        assert_eq!("mysql:5.7".parse::<ImageRef>().expect("valid").familiar(), "mysql:5.7");
    }
}
