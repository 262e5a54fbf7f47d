//! `wharf system check`: what this host lacks, and what to do about it.

use crate::api::client::Client;
use crate::cli::{Failure, Global, Outcome};
use crate::engine::process::lifecycle::{DAMAGED, socket_path};
use crate::network::netlink::Netlink;
use crate::runtime::cgroup::Hierarchy;
use nix::sys::statvfs::statvfs;
use std::fs;
use std::path::Path;

/// How much something matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rating {
    Fine,
    /// Something works less well, or not at all.
    Lacking,
    /// No container can run.
    Missing,
}

struct CheckFinding {
    what: &'static str,
    verdict: Rating,
    /// The finding; and, unless it is fine, the remedy.
    text: String,
}

pub async fn run(global: &Global) -> Outcome {
    let mut findings = vec![
        kernel(),
        user(),
        namespaces(),
        overlay(),
        cgroups(),
        firewall(),
        older_firewall(),
        neighbours(),
        forwarding(),
        bridge_filter(),
        seccomp(),
        apparmor(),
        watches(),
        resolver(),
        room("data root", &global.data_root, 256 << 20),
        room("run root", &global.run_root, 8 << 20),
    ];
    findings.extend(state(global).await);
    for finding in &findings {
        let mark = match finding.verdict {
            Rating::Fine => "ok     ",
            Rating::Lacking => "warning",
            Rating::Missing => "missing",
        };
        println!("{mark}  {:<20} {}", finding.what, finding.text);
    }
    if findings.iter().any(|finding| finding.verdict == Rating::Missing) { Err(Failure::Code(1)) } else { Ok(()) }
}

fn fine(what: &'static str, text: impl Into<String>) -> CheckFinding {
    CheckFinding { what, verdict: Rating::Fine, text: text.into() }
}

fn lacking(what: &'static str, text: impl Into<String>) -> CheckFinding {
    CheckFinding { what, verdict: Rating::Lacking, text: text.into() }
}

fn missing(what: &'static str, text: impl Into<String>) -> CheckFinding {
    CheckFinding { what, verdict: Rating::Missing, text: text.into() }
}

fn kernel() -> CheckFinding {
    let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version {
        (0..=4, _) | (5, 0..=11) => {
            missing("kernel", format!("{release}: mount_setattr(2) and openat2(2) need Linux 5.12 or newer; upgrade the kernel"))
        }
        _ => fine("kernel", release),
    }
}

fn user() -> CheckFinding {
    if nix::unistd::geteuid().is_root() {
        fine("privilege", "root")
    } else {
        missing("privilege", "not root: run wharf with sudo, or its engine as a systemd service")
    }
}

fn namespaces() -> CheckFinding {
    let absent: Vec<&str> = ["mnt", "pid", "ipc", "uts", "net"]
        .into_iter()
        .filter(|kind| !Path::new(&format!("/proc/self/ns/{kind}")).exists())
        .collect();
    if absent.is_empty() {
        fine("namespaces", "mnt pid ipc uts net")
    } else {
        missing(
            "namespaces",
            format!("the kernel has no {} namespaces (CONFIG_NAMESPACES): use another kernel", absent.join(", ")),
        )
    }
}

fn overlay() -> CheckFinding {
    let known = || {
        let text = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        text.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay")
    };
    if !known() {
        // The kernel loads its module for whoever asks for it.
        let _ = crate::sys::new_mount("overlay", "wharf", &[], 0);
    }
    if known() {
        fine("overlayfs", "known to the kernel")
    } else {
        missing("overlayfs", "the kernel has none, and no module of it: install the kernel's modules, then `modprobe overlay`")
    }
}

fn cgroups() -> CheckFinding {
    let hierarchy = match Hierarchy::find() {
        Ok(hierarchy) => hierarchy,
        Err(error) => return missing("control groups", error.to_string()),
    };
    let has: Vec<String> = match &hierarchy {
        Hierarchy::V2(point) => fs::read_to_string(point.join("cgroup.controllers"))
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_string)
            .collect(),
        Hierarchy::V1(mounts) => mounts.iter().flat_map(|(controllers, _)| controllers.iter().cloned()).collect(),
    };
    let absent: Vec<&str> = ["memory", "cpu", "pids"].into_iter().filter(|name| !has.iter().any(|h| h == name)).collect();
    let version = if hierarchy.is_v2() { "v2" } else { "v1" };
    if absent.is_empty() {
        fine("control groups", format!("{version}: {}", has.join(" ")))
    } else {
        lacking(
            "control groups",
            format!(
                "{version} without {}: limits of these have no effect; enable them on the kernel's command line (cgroup_enable=...)",
                absent.join(", ")
            ),
        )
    }
}

fn firewall() -> CheckFinding {
    match Netlink::netfilter() {
        Ok(_) if Path::new("/proc/net/nf_conntrack").exists() || Path::new("/proc/sys/net/netfilter").exists() => {
            fine("nftables", "with connection tracking")
        }
        Ok(_) => lacking(
            "nftables",
            "no connection tracking yet: `modprobe nf_conntrack nft_chain_nat`, where `up` fails to set its rules",
        ),
        Err(error) => missing("nftables", format!("the kernel has no nfnetlink ({error}): `modprobe nf_tables`")),
    }
}

/// Rules that iptables keeps outside of nftables, where wharf cannot let its networks through.
fn older_firewall() -> CheckFinding {
    let loaded = |family: &str| fs::read_to_string(format!("/proc/net/{family}_names")).unwrap_or_default().contains("filter");
    if loaded("ip_tables") || loaded("ip6_tables") {
        return lacking(
            "iptables",
            "iptables-legacy has rules: where its FORWARD chain drops, containers reach nothing outside; use iptables-nft, or let wharf's bridges (br-...) through",
        );
    }
    fine("iptables", "nothing outside of nftables")
}

fn neighbours() -> CheckFinding {
    match crate::network::firewall::try_guard() {
        Ok(()) => fine("bridges' nftables", "a container cannot pass for its neighbour"),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => lacking("bridges' nftables", "only root can check it"),
        Err(error) => lacking(
            "bridges' nftables",
            format!(
                "{error}: a container may pass for its neighbour by ARP, as with Docker; the kernel needs CONFIG_NF_TABLES_BRIDGE"
            ),
        ),
    }
}

fn forwarding() -> CheckFinding {
    match fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default().trim() {
        "1" => fine("IPv4 forwarding", "on"),
        "0" => fine("IPv4 forwarding", "off: wharf turns it on with its first network"),
        _ => lacking("IPv4 forwarding", "cannot be read: containers may not reach beyond this host"),
    }
}

fn bridge_filter() -> CheckFinding {
    match fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables").unwrap_or_default().trim() {
        "1" => fine("bridge netfilter", "on: wharf's rules let the traffic of one network through"),
        _ => fine("bridge netfilter", "off"),
    }
}

fn seccomp() -> CheckFinding {
    let known = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if known.contains("errno") {
        fine("seccomp", "filters are available")
    } else {
        missing(
            "seccomp",
            "the kernel has no filters (CONFIG_SECCOMP_FILTER): only containers with `security_opt: [seccomp:unconfined]` run",
        )
    }
}

fn apparmor() -> CheckFinding {
    use crate::runtime::apparmor::{DEFAULT, is_enabled, is_loaded};
    if !is_enabled() {
        return fine("AppArmor", "not of this kernel");
    }
    let parser = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|p| p.join("apparmor_parser").exists()))
        || Path::new("/sbin/apparmor_parser").exists();
    match (is_loaded(DEFAULT), parser) {
        (true, _) => fine("AppArmor", format!("on, with the profile {DEFAULT}")),
        (false, true) => fine("AppArmor", "on: the profile is loaded with the first container"),
        (false, false) => {
            lacking("AppArmor", "on, and there is no `apparmor_parser` to load wharf's profile: install the package `apparmor`")
        }
    }
}

fn watches() -> CheckFinding {
    let number = |name: &str| -> u64 {
        fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    let (instances, watches) = (number("max_user_instances"), number("max_user_watches"));
    if watches < 8192 {
        return lacking(
            "inotify",
            format!("{watches} watches: `wharf watch` of a large tree needs more; `sysctl fs.inotify.max_user_watches=524288`"),
        );
    }
    fine("inotify", format!("{instances} instances, {watches} watches"))
}

/// The engine's report of its state, and earlier damage.
async fn state(global: &Global) -> Vec<CheckFinding> {
    const WHAT: &str = "state";
    let mut found = Vec::new();
    let client = Client::new(&socket_path(&global.run_root));
    if client.is_alive().await
        && let Ok(info) = client.get::<serde_json::Value>("/info").await
    {
        let warnings = info["Warnings"].as_array().into_iter().flatten();
        found.extend(warnings.filter_map(|warning| warning.as_str()).map(|warning| lacking(WHAT, warning)));
        found.extend(unlimited_logs(&client).await);
    }
    let kept = fs::read_dir(&global.data_root).into_iter().flatten().flatten().map(|entry| entry.path());
    let kept = kept.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(DAMAGED)));
    found.extend(kept.map(|path| {
        lacking(WHAT, format!("{} is a journal that was damaged: remove it once nothing of it is missed", path.display()))
    }));
    if found.is_empty() {
        found.push(fine(WHAT, "nothing is known to be wrong"));
    }
    found
}

/// The room on the disk of a root, of which less than `little` bytes are soon used up. It need not be there yet.
fn room(what: &'static str, root: &Path, little: u64) -> CheckFinding {
    /// Bytes and files that a few containers need.
    const NEEDED: (u64, u64) = (1 << 20, 100);
    let Some(found) = root.ancestors().find_map(|directory| statvfs(directory).ok()) else {
        return lacking(what, format!("{} cannot be looked at", root.display()));
    };
    let bytes = found.blocks_available() * found.fragment_size();
    // A file system that makes its inodes as they are wanted says 0 of 0.
    let files = if found.files() == 0 { u64::MAX } else { found.files_available() };
    let left = |what: String| format!("{what} left for {}: free some, or give it another disk", root.display());
    match (bytes, files) {
        _ if files < NEEDED.1 => missing(what, left(format!("{files} files (inodes) are"))),
        _ if bytes < NEEDED.0 => missing(what, left(format!("{bytes} bytes are"))),
        _ if bytes < little => lacking(what, left(format!("{} MiB are", bytes >> 20))),
        _ => fine(what, format!("{} MiB are free for {}", bytes >> 20, root.display())),
    }
}

/// The containers that may fill the disk with their output.
async fn unlimited_logs(client: &Client) -> Option<CheckFinding> {
    let listed: Vec<serde_json::Value> = client.get("/containers/json?all=1").await.ok()?;
    let unlimited = listed.iter().filter(|container| container["LogUnlimited"] == true);
    let names: Vec<&str> = unlimited.filter_map(|c| Some(c["Names"][0].as_str()?.trim_start_matches('/'))).collect();
    let text = format!(
        "without a limit, so that it may fill the disk: {}; give it `logging: {{options: {{max-size: 20m, max-file: '5'}}}}`, or nothing \
         of `logging`, and recreate it",
        names.join(", ")
    );
    (!names.is_empty()).then(|| lacking("logs", text))
}

fn resolver() -> CheckFinding {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("nameserver")).map(str::trim).collect();
    if servers.is_empty() {
        lacking("resolvers", "/etc/resolv.conf names none: containers know each other's names and no others")
    } else {
        fine("resolvers", servers.join(" "))
    }
}
