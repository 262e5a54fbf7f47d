//! Values of a service's attributes that are one of few: parsed once, written as the file has them.

use crate::units::Nanos;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// The type of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeKind {
    Bind,
    #[default]
    Volume,
    Tmpfs,
    Image,
    /// Of Docker Swarm.
    Cluster,
    /// Of Windows.
    Npipe,
}

impl Display for VolumeKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VolumeKind::Bind => "bind",
            VolumeKind::Volume => "volume",
            VolumeKind::Tmpfs => "tmpfs",
            VolumeKind::Image => "image",
            VolumeKind::Cluster => "cluster",
            VolumeKind::Npipe => "npipe",
        })
    }
}

/// Whose namespace a service's containers have: `network_mode`, `ipc`, `pid`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum NamespaceMode {
    Host,
    /// `service:NAME`: that of a service's container.
    Service(String),
    /// `container:NAME`
    Container(String),
    /// `none`, `bridge`, `private` and the like: what it means depends on the attribute.
    Named(String),
}

impl NamespaceMode {
    /// The service whose namespace it is.
    pub fn service(&self) -> Option<&str> {
        if let NamespaceMode::Service(name) = self { Some(name) } else { None }
    }
}

impl From<String> for NamespaceMode {
    fn from(text: String) -> Self {
        match text.split_once(':') {
            Some(("service", name)) => NamespaceMode::Service(name.into()),
            Some(("container", name)) => NamespaceMode::Container(name.into()),
            _ if text == "host" => NamespaceMode::Host,
            _ => NamespaceMode::Named(text),
        }
    }
}

impl From<NamespaceMode> for String {
    fn from(mode: NamespaceMode) -> Self {
        mode.to_string()
    }
}

impl Display for NamespaceMode {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            NamespaceMode::Host => f.write_str("host"),
            NamespaceMode::Service(name) => write!(f, "service:{name}"),
            NamespaceMode::Container(name) => write!(f, "container:{name}"),
            NamespaceMode::Named(name) => f.write_str(name),
        }
    }
}

/// When a container that has ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    No,
    Always,
    UnlessStopped,
    /// At most so many times; 0 is without limit.
    OnFailure {
        max: u32,
    },
}

impl RestartPolicy {
    /// Docker's name of it, without the number of times.
    pub fn name(self) -> &'static str {
        match self {
            RestartPolicy::No => "no",
            RestartPolicy::Always => "always",
            RestartPolicy::UnlessStopped => "unless-stopped",
            RestartPolicy::OnFailure { .. } => "on-failure",
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a restart policy: write no, always, unless-stopped, on-failure or on-failure:N");
        Ok(match text {
            "no" => RestartPolicy::No,
            "always" => RestartPolicy::Always,
            "unless-stopped" => RestartPolicy::UnlessStopped,
            "on-failure" => RestartPolicy::OnFailure { max: 0 },
            _ => {
                let max = text.strip_prefix("on-failure:").and_then(|max| max.parse().ok());
                RestartPolicy::OnFailure { max: max.ok_or_else(wrong)? }
            }
        })
    }
}

impl Display for RestartPolicy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            RestartPolicy::OnFailure { max } if *max > 0 => write!(f, "on-failure:{max}"),
            other => f.write_str(other.name()),
        }
    }
}

/// `deploy.restart_policy.condition`: Docker Swarm's names, and those of [`RestartPolicy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    None,
    OnFailure,
    Any,
    Always,
    UnlessStopped,
    No,
}

/// compose-spec, "pull_policy".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    Always,
    Never,
    #[default]
    Missing,
    /// The image is built, not pulled.
    Build,
    /// Pulled again when the last pull is so many seconds ago.
    Older(u64),
    /// As `Older`, by the service's `pull_refresh_after`.
    Refresh,
}

impl FromStr for PullPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const DAY: u64 = 24 * 3600;
        Ok(match text {
            "always" => PullPolicy::Always,
            "never" => PullPolicy::Never,
            "missing" | "if_not_present" => PullPolicy::Missing,
            "build" => PullPolicy::Build,
            "daily" => PullPolicy::Older(DAY),
            "weekly" => PullPolicy::Older(7 * DAY),
            "refresh" => PullPolicy::Refresh,
            other => {
                let every = other.strip_prefix("every_").and_then(crate::units::duration);
                let nanos = every.ok_or_else(|| {
                    format!("`{text}` is not a pull policy: write always, never, missing, build, daily, weekly or every_DURATION")
                })?;
                PullPolicy::Older(nanos / 1_000_000_000)
            }
        })
    }
}

impl Display for PullPolicy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            PullPolicy::Always => f.write_str("always"),
            PullPolicy::Never => f.write_str("never"),
            PullPolicy::Missing => f.write_str("missing"),
            PullPolicy::Build => f.write_str("build"),
            PullPolicy::Refresh => f.write_str("refresh"),
            PullPolicy::Older(seconds) => write!(f, "every_{}", Nanos(seconds.saturating_mul(1_000_000_000))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::model::Service;

    /// Hashes of services are made of this form: another one would recreate every container after an upgrade.
    #[test]
    fn a_service_is_written_as_it_was_read() {
        let text = serde_json::json!({
            "mem_limit": "67108864", "memswap_limit": "-1", "shm_size": "1024", "stop_grace_period": "1m30s",
            "network_mode": "service:db", "ipc": "host", "pid": "container:x", "pull_policy": "always", "restart": "on-failure:3",
            "healthcheck": {"interval": "500ms", "timeout": "1h0m0s"},
            "deploy": {"resources": {"limits": {"memory": "5"}}, "restart_policy": {"condition": "on-failure", "delay": "5s", "window": "0s"}},
            "volumes": [{"type": "tmpfs", "target": "/t"}, {"type": "npipe", "target": "/n"}],
        });
        let service: Service = serde_json::from_value(text.clone()).expect("a service");
        assert_eq!(service.network_mode.as_ref().and_then(NamespaceMode::service), Some("db"));
        let written = serde_json::to_value(&service).expect("JSON");
        fn check(given: &serde_json::Value, written: &serde_json::Value, path: &str) {
            match given {
                serde_json::Value::Object(map) => map.iter().for_each(|(k, v)| check(v, &written[k], &format!("{path}.{k}"))),
                serde_json::Value::Array(list) => list.iter().enumerate().for_each(|(n, v)| check(v, &written[n], path)),
                scalar => assert_eq!(scalar, written, "{path}"),
            }
        }
        check(&text, &written, "");
    }

    #[test]
    fn restart_policies_are_read_and_written() {
        for text in ["no", "always", "unless-stopped", "on-failure", "on-failure:3"] {
            assert_eq!(text.parse::<RestartPolicy>().expect(text).to_string(), text);
        }
        for bad in ["", "sometimes", "on-failure:", "on-failure:-1", "always:3"] {
            assert!(bad.parse::<RestartPolicy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn pull_policies_are_read_and_written() {
        for (text, written) in [("if_not_present", "missing"), ("daily", "every_24h0m0s"), ("every_12h", "every_12h0m0s")] {
            let policy: PullPolicy = text.parse().expect(text);
            assert_eq!(policy.to_string(), written);
            assert_eq!(written.parse(), Ok(policy));
        }
        assert!("sometimes".parse::<PullPolicy>().is_err());
    }
}
