//! The files in /etc that are a container's own: hostname, hosts, resolv.conf.

use crate::engine::containers::registry::Containers;
use crate::engine::error::EngineError;
use crate::engine::record::{ContainerRecord, NetworkMode};
use crate::network::address::Addresses;
use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

const DEFAULT_HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

impl Containers {
    /// Whose host name and files in /etc a container has: its own, or, in another's network, that one's, unless it has been given
    /// any names. (Docker refuses those then.)
    pub(in crate::engine) fn named_as<'a>(&self, record: &'a ContainerRecord) -> Cow<'a, ContainerRecord> {
        let spec = &record.spec;
        let own = [&spec.extra_hosts, &spec.dns, &spec.dns_search, &spec.dns_opt].into_iter().any(|list| !list.is_empty());
        let other = match &spec.network_mode {
            NetworkMode::Container(id) if !own && spec.hostname.is_none() && spec.domainname.is_none() => self.find(id).ok(),
            _ => None,
        };
        other.map_or(Cow::Borrowed(record), |other| Cow::Owned(other.record()))
    }

    /// A container's host name: the host's own where it is in the host's UTS namespace.
    pub(crate) fn host_name(&self, record: &ContainerRecord) -> String {
        let named = self.named_as(record);
        if record.spec.uts_host || named.spec.network_mode == NetworkMode::Host && named.spec.hostname.is_none() {
            return nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        }
        named.spec.hostname.clone().unwrap_or_else(|| named.id[..12].to_string())
    }
}

/// Writes /etc/hostname, /etc/hosts and /etc/resolv.conf of a container. `gateway` is the address by which it reaches the host.
pub(in crate::engine) fn write(
    containers: &Containers,
    record: &ContainerRecord,
    directory: &Path,
    addresses: Addresses,
    gateway: Option<IpAddr>,
) -> Result<(), EngineError> {
    let spec = &record.spec;
    let hostname = containers.host_name(record);
    let qualified = spec.domainname.as_ref().map(|d| format!("{hostname}.{d} ")).unwrap_or_default();
    // In the host's network the host's names are true.
    let host = || fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut hosts = if spec.network_mode == NetworkMode::Host { host() } else { DEFAULT_HOSTS.to_string() };
    if !hosts.is_empty() && !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    for host in &spec.extra_hosts {
        let Some((name, target)) = host.split_once('=').or_else(|| host.split_once(':')) else { continue };
        let target = if target == "host-gateway" {
            gateway.map_or_else(|| "127.0.0.1".to_string(), |a| a.to_string())
        } else {
            target.to_string()
        };
        hosts.push_str(&format!("{target}\t{name}\n"));
    }
    for address in addresses.iter() {
        hosts.push_str(&format!("{address}\t{qualified}{hostname}\n"));
    }
    let resolv = resolv_conf(record, addresses.first().is_some());
    fs::create_dir_all(directory).map_err(EngineError::io(format!("making {}", directory.display())))?;
    for (file, text) in [("hostname", format!("{hostname}\n")), ("hosts", hosts), ("resolv.conf", resolv)] {
        let path = directory.join(file);
        let doing = || EngineError::io(format!("writing {}", path.display()));
        let options =
            File::options().write(true).create(true).mode(0o644).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).clone();
        let mut file = match options.open(&path) {
            // A container that shares the file has a lease on it, for which others would wait: it keeps the old one.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                fs::remove_file(&path).and_then(|()| options.open(&path)).map_err(doing())?
            }
            opened => opened.map_err(doing())?,
        };
        // Not emptied first: a container can be started again when the disk is full.
        file.write_all(text.as_bytes()).map_err(doing())?;
        file.set_len(text.len() as u64).map_err(doing())?;
        file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(doing())?;
    }
    Ok(())
}

fn resolv_conf(record: &ContainerRecord, on_a_network: bool) -> String {
    let spec = &record.spec;
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if spec.network_mode == NetworkMode::Host && spec.dns.is_empty() {
        return host;
    }
    let mut text =
        String::from("# Written by wharf: names of this container's networks and, through them, the host's resolvers.\n\n");
    if on_a_network {
        text.push_str("nameserver 127.0.0.11\n");
    } else {
        let servers: Vec<&str> = host.lines().filter_map(|l| l.strip_prefix("nameserver")).map(str::trim).collect();
        let servers: Vec<&str> = if spec.dns.is_empty() { servers } else { spec.dns.iter().map(String::as_str).collect() };
        servers.iter().for_each(|server| text.push_str(&format!("nameserver {server}\n")));
    }
    let search: Vec<String> = match spec.dns_search.as_slice() {
        [] => host.lines().filter_map(|l| l.strip_prefix("search")).map(|l| l.trim().to_string()).collect(),
        [dot] if dot == "." => Vec::new(),
        list => vec![list.join(" ")],
    };
    search.iter().for_each(|domains| text.push_str(&format!("search {domains}\n")));
    let mut options = spec.dns_opt.clone();
    // As Docker has it: a service's name is asked for as it is before a search domain is put behind it.
    if on_a_network && !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".into());
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}
