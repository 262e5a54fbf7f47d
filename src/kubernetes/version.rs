//! The version of a cluster: fields that an older API server would refuse are not written for it.

use std::fmt;
use std::str::FromStr;

/// `1.MINOR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32);

impl Version {
    pub const fn minor(minor: u32) -> Self {
        Version(minor)
    }
}

impl Default for Version {
    fn default() -> Self {
        Version(30)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a version of Kubernetes such as 1.30");
        let rest = text.strip_prefix('v').unwrap_or(text).strip_prefix("1.").ok_or_else(wrong)?;
        let minor = rest.split('.').next().unwrap_or_default();
        let digits = !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit());
        let minor: u32 = minor.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
        // networking.k8s.io/v1 Ingress and NetworkPolicy, immutable namespaces labels: what every export uses came with 1.19.
        if minor < 19 {
            Err(format!("Kubernetes {text} is too old: 1.19 is the oldest that is written for"))
        } else {
            Ok(Version(minor))
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, minor) in [("1.30", 30), ("v1.27.4", 27), ("1.37", 37)] {
            assert_eq!(text.parse(), Ok(Version(minor)));
        }
        for bad in ["", "1", "1.", "2.0", "1.x", "1.18", "30", "1.+30"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
        assert!(Version::minor(9) < Version::default());
    }
}
