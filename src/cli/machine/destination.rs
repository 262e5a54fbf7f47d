//! `ssh://[USER@]HOST[:PORT]`: the address of another machine, as `ssh` gets it.

use std::ffi::OsString;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A machine, and how `ssh` is to go there. What is absent is in the user's `~/.ssh/config`, or ssh's default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    user: Option<String>,
    host: String,
    port: Option<u16>,
}

/// Why an address is not one of a machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{address}` is not the address of a machine: {why}; write ssh://[USER@]HOST[:PORT]")]
pub struct NoDestination {
    address: String,
    why: String,
}

impl FromStr for Destination {
    type Err = NoDestination;

    fn from_str(address: &str) -> Result<Self, NoDestination> {
        let wrong = |why: String| NoDestination { address: shown(address), why };
        let Some(rest) = address.strip_prefix("ssh://") else {
            return Err(wrong(match address.split_once("://") {
                Some((scheme, _)) => format!("wharf goes to other machines by ssh alone, not by `{scheme}`"),
                None => "it has no `ssh://`".into(),
            }));
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(wrong(
                "it goes on after the host; an engine with roots of its own has WHARF_RUN_ROOT and WHARF_DATA_ROOT there".into(),
            ));
        }
        let (user, host) = match rest.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, rest),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err(wrong("it has a password, which other users of this machine can see: use a key, or ssh-agent".into()));
        }
        if let Some(user) = user {
            check("user", user, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '@')).map_err(wrong)?;
        }
        let (host, port) = split(host).map_err(wrong)?;
        Ok(Destination { user: user.map(str::to_string), host, port })
    }
}

/// An address in a message. A password is not repeated.
fn shown(address: &str) -> String {
    let visible = match (address.find("://"), address.rfind('@')) {
        (Some(scheme), Some(at)) if address[scheme + 3..at].contains(':') => {
            let user = address[scheme + 3..at].split(':').next().unwrap_or_default();
            format!("{}{user}:...{}", &address[..scheme + 3], &address[at..])
        }
        _ => address.to_string(),
    };
    visible.chars().take(200).collect()
}

/// What ssh would take for an option, or a `ProxyCommand` with `%h` or `%r` for a part of a command line, is refused.
fn check(what: &str, text: &str, is_known: impl Fn(char) -> bool) -> Result<(), String> {
    match text {
        "" => Err(format!("the {what} is missing")),
        _ if text.starts_with('-') => Err(format!("the {what} begins with `-`, which ssh takes for an option")),
        _ if text.len() > 255 => Err(format!("the {what} is too long")),
        _ => match text.chars().find(|c| !is_known(*c)) {
            Some(c) => Err(format!("the {what} has the character `{}`", c.escape_debug())),
            None => Ok(()),
        },
    }
}

/// The host and its port.
fn split(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inner, after) = rest.split_once(']').ok_or("a `]` is missing")?;
            let (address, zone) = inner.split_once('%').map_or((inner, None), |(address, zone)| (address, Some(zone)));
            address.parse::<Ipv6Addr>().map_err(|_| format!("`{inner}` is not an address of IPv6"))?;
            if let Some(zone) = zone {
                check("zone", zone, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))?;
            }
            match after {
                "" => (inner, None),
                after => (inner, Some(after.strip_prefix(':').ok_or("after `]` only `:PORT` may follow")?)),
            }
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            if port.is_some_and(|port| port.contains(':')) {
                return Err("an address of IPv6 is in brackets".into());
            }
            check("host", host, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))?;
            (host, port)
        }
    };
    let number = |port: &str| match port.parse::<u16>() {
        Ok(number @ 1..) if port.bytes().all(|b| b.is_ascii_digit()) => Ok(number),
        _ => Err(format!("`{port}` is not a port")),
    };
    Ok((host.to_string(), port.map(number).transpose()?))
}

impl Destination {
    /// The arguments of `ssh` that run a command there.
    pub fn arguments(&self, command: &[&str]) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            ["-T", "-o", "ConnectTimeout=30", "-o", "RemoteCommand=none"].map(OsString::from).into();
        if let Some(user) = &self.user {
            arguments.extend(["-l", user].map(OsString::from));
        }
        if let Some(port) = self.port {
            arguments.extend(["-p".into(), port.to_string().into()]);
        }
        arguments.extend(["--", &self.host].map(OsString::from));
        arguments.extend(command.iter().map(OsString::from));
        arguments
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for (text, user, host, port) in [
            ("ssh://host", None, "host", None),
            ("ssh://host/", None, "host", None),
            ("ssh://me@host", Some("me"), "host", None),
            ("ssh://me@host.example.org:2222", Some("me"), "host.example.org", Some(2222)),
            ("ssh://me@corp@host", Some("me@corp"), "host", None),
            ("ssh://my_alias", None, "my_alias", None),
            ("ssh://[::1]:22", None, "::1", Some(22)),
            ("ssh://me@[fe80::1%eth0]", Some("me"), "fe80::1%eth0", None),
        ] {
            let read: Destination = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((read.user.as_deref(), read.host.as_str(), read.port), (user, host, port), "{text}");
            assert_eq!(read.to_string(), text.trim_end_matches('/'));
        }
    }

    #[test]
    fn what_ssh_or_a_shell_would_obey_is_refused() {
        let table = [
            ("ssh://-oProxyCommand=x", "begins with `-`"),
            ("ssh://me@-host", "begins with `-`"),
            ("ssh://-l@host", "begins with `-`"),
            ("ssh://$(id)@host", "has the character `$`"),
            ("ssh://a;b@host", "has the character `;`"),
            ("ssh://a b@host", "has the character ` `"),
            ("ssh://host`id`", "has the character ``"),
            ("ssh://ho\nst", "has the character `\\n`"),
            ("ssh://h%h", "has the character `%`"),
            ("ssh://", "the host is missing"),
            ("ssh://@host", "the user is missing"),
            ("ssh://me:secret@host", "a password"),
            ("ssh://host:0", "not a port"),
            ("ssh://host:+22", "not a port"),
            ("ssh://host:65536", "not a port"),
            ("ssh://::1", "in brackets"),
            ("ssh://[::1", "`]` is missing"),
            ("ssh://[x]", "not an address of IPv6"),
            ("ssh://[::1]22", "may follow"),
            ("ssh://[fe80::1%-x]", "begins with `-`"),
            ("ssh://host/run/wharf", "WHARF_RUN_ROOT"),
            ("ssh://host?x", "goes on after the host"),
            ("tcp://host:2375", "not by `tcp`"),
            ("host", "no `ssh://`"),
        ];
        for (text, words) in table {
            let error = text.parse::<Destination>().expect_err(text).to_string();
            assert!(error.contains(words) && !error.contains("secret"), "{text}: {error}");
        }
        assert!(format!("ssh://{}", "h".repeat(256)).parse::<Destination>().is_err());
    }

    #[test]
    fn ssh_gets_the_host_after_its_options() {
        let read: Destination = "ssh://me@host:22".parse().expect("an address");
        let arguments: Vec<String> = read.arguments(&["wharf", "x"]).into_iter().filter_map(|a| a.into_string().ok()).collect();
        assert!(arguments.ends_with(&["-l", "me", "-p", "22", "--", "host", "wharf", "x"].map(String::from)), "{arguments:?}");
    }
}
