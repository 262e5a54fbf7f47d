//! Docker's defaults as an OCI runtime configuration.

use super::capabilities::Capabilities;
use super::targets::clean;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// What of a container decides its OCI configuration; everything resolved, nothing to look up but users.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub args: Vec<String>,
    /// The whole environment, `NAME=VALUE`.
    pub env: Vec<String>,
    pub cwd: String,
    pub terminal: bool,
    pub console_size: Option<(u16, u16)>,
    /// `None`: the host's UTS namespace.
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub capabilities: Capabilities,
    pub privileged: bool,
    pub no_new_privileges: bool,
    pub readonly_rootfs: bool,
    /// Name (`RLIMIT_NOFILE`), soft, hard.
    pub rlimits: Vec<(String, u64, u64)>,
    pub oom_score_adj: i32,
    pub sysctls: Vec<(String, String)>,
    pub shm_size: u64,
    pub ipc: Ipc,
    pub annotations: Vec<(String, String)>,
    /// Beyond those of every container.
    pub devices: Vec<Device>,
    /// Rules of the devices controller besides: kind, major, minor, access.
    pub device_rules: Vec<DeviceRule>,
    /// Nothing of /proc and /sys is hidden or read-only.
    pub system_paths: bool,
    pub mounts: Vec<BindMount>,
    /// Destination and options of each tmpfs.
    pub tmpfs: Vec<(String, Vec<String>)>,
    pub resources: Resources,
}

/// Which /dev/shm and message queues a container has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipc {
    /// Its own, or those of another container whose namespace it joins.
    #[default]
    Own,
    /// No /dev/shm.
    Bare,
    Host,
}

/// A device node to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub path: String,
    /// `c`, `b` or `p`.
    pub kind: &'static str,
    pub major: i64,
    pub minor: i64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Of `r`, `w` and `m`.
    pub access: String,
}

/// What the devices controller allows; `None` is any number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    pub kind: String,
    pub major: Option<i64>,
    pub minor: Option<i64>,
    pub access: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BindMount {
    pub source: PathBuf,
    pub destination: String,
    pub options: Vec<String>,
    /// A file system to mount, whose device is the source; absent for a bind mount.
    pub fstype: Option<String>,
}

/// Limits; absent is without limit.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    pub memory: Option<i64>,
    pub memory_reservation: Option<i64>,
    pub memory_swap: Option<i64>,
    pub cpu_shares: Option<u64>,
    pub cpu_quota: Option<i64>,
    pub cpu_period: Option<u64>,
    pub cpuset: Option<String>,
    pub cpuset_mems: Option<String>,
    pub pids: Option<i64>,
    pub cpu_rt_period: Option<u64>,
    pub cpu_rt_runtime: Option<i64>,
    pub swappiness: Option<u64>,
    pub oom_kill_disable: bool,
    /// OCI's `blockIO`; null for none.
    pub block_io: Value,
}

/// Paths that a container must not see (moby, `daemon/pkg/oci/defaults.go`, as of Docker 29), besides [`thermal_throttles`].
pub(super) const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/proc/sysrq-trigger",
];
pub(super) const READONLY: [&str; 4] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"];

/// Devices that a container may use, besides making any node (moby, `oci/devices`): kind, major, minor, access.
const DEVICES: [(&str, Option<i64>, Option<i64>, &str); 11] = [
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", Some(1), Some(3), "rwm"),
    ("c", Some(1), Some(5), "rwm"),
    ("c", Some(1), Some(7), "rwm"),
    ("c", Some(1), Some(8), "rwm"),
    ("c", Some(1), Some(9), "rwm"),
    ("c", Some(5), Some(0), "rwm"),
    ("c", Some(5), Some(1), "rwm"),
    ("c", Some(5), Some(2), "rwm"),
    ("c", Some(136), None, "rwm"),
];

/// The configuration, in OCI's own JSON.
pub fn oci(settings: &Settings) -> Value {
    let capabilities = settings.capabilities.names();
    let mut process = json!({
        "terminal": settings.terminal,
        "user": {"uid": 0, "gid": 0},
        "args": settings.args,
        "env": settings.env,
        "cwd": settings.cwd,
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "noNewPrivileges": settings.no_new_privileges,
        "oomScoreAdj": settings.oom_score_adj,
        "rlimits": settings.rlimits.iter().map(|(name, soft, hard)| json!({"type": name, "soft": soft, "hard": hard})).collect::<Vec<_>>(),
    });
    if let Some((height, width)) = settings.console_size {
        process["consoleSize"] = json!({"height": height, "width": width});
    }
    let mut namespaces = vec!["pid", "mount"];
    if settings.ipc != Ipc::Host {
        namespaces.push("ipc");
    }
    if settings.hostname.is_some() {
        namespaces.push("uts");
    }
    let mut linux = json!({
        "namespaces": namespaces.iter().map(|kind| json!({"type": kind})).collect::<Vec<_>>(),
        "resources": resources(settings),
        "sysctl": settings.sysctls.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
    });
    if !settings.devices.is_empty() {
        let device = |d: &Device| json!({"path": d.path, "type": d.kind, "major": d.major, "minor": d.minor, "fileMode": d.mode, "uid": d.uid, "gid": d.gid});
        linux["devices"] = settings.devices.iter().map(device).collect();
    }
    if !settings.system_paths {
        static THROTTLES: LazyLock<Vec<String>> = LazyLock::new(|| thermal_throttles(Path::new("/sys/devices/system/cpu")));
        linux["maskedPaths"] = MASKED.into_iter().chain(THROTTLES.iter().map(String::as_str)).collect();
        linux["readonlyPaths"] = json!(READONLY);
    }
    let mut config = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": settings.readonly_rootfs},
        "process": process,
        "mounts": mounts(settings),
        "linux": linux,
    });
    if !settings.annotations.is_empty() {
        config["annotations"] = json!(settings.annotations.iter().cloned().collect::<std::collections::BTreeMap<_, _>>());
    }
    if let Some(hostname) = &settings.hostname {
        config["hostname"] = json!(hostname);
    }
    if let Some(domainname) = &settings.domainname {
        config["domainname"] = json!(domainname);
    }
    config
}

/// Each processor's counters of how often it was too hot: they tell what else the host computes. A path in a kernel's directory
/// of processors, which is as it is for as long as the host runs.
fn thermal_throttles(processors: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(processors).into_iter().flatten().flatten();
    let is_processor = |name: &str| name.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok());
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_processor(name));
    let mut found: Vec<_> =
        names.map(|name| processors.join(name).join("thermal_throttle")).filter(|path| path.exists()).collect();
    found.sort();
    found.into_iter().map(|path| path.display().to_string()).collect()
}

fn mounts(settings: &Settings) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let safe = ["nosuid", "noexec", "nodev"];
    let shm = format!("size={}", settings.shm_size);
    let sys = if settings.privileged { "rw" } else { "ro" };
    let mut list = vec![
        mount("/proc", "proc", "proc", &safe),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", sys]),
        mount("/dev/mqueue", "mqueue", "mqueue", &safe),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
    ];
    match settings.ipc {
        Ipc::Own => {}
        Ipc::Bare => list.retain(|m| m["destination"] != "/dev/shm"),
        Ipc::Host => {
            // The queues' file system is that of the namespace in which it is mounted.
            list.retain(|m| m["destination"] != "/dev/shm");
            list.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind", "nosuid", "noexec", "nodev"]));
        }
    }
    let mut users: Vec<(usize, Value)> = Vec::new();
    let depth = |path: &str| path.split('/').filter(|p| !p.is_empty()).count();
    for (destination, options) in &settings.tmpfs {
        let mut all = vec!["nosuid".to_string(), "nodev".into()];
        if !options.iter().any(|o| o == "exec") {
            all.push("noexec".into());
        }
        all.extend(options.iter().cloned());
        users.push((depth(destination), json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": all})));
    }
    for bind in &settings.mounts {
        users.push((
            depth(&bind.destination),
            json!({
                "destination": bind.destination,
                "type": bind.fstype.as_deref().unwrap_or("bind"),
                "source": bind.source,
                "options": bind.options,
            }),
        ));
    }
    // A mount below another must come after it, whatever order they were written in.
    users.sort_by_key(|(depth, _)| *depth);
    // A mount of the user's takes the place of a default one. A directory of the host's for
    // /dev has all that belongs there, but for the container's own shared memory.
    let taken: Vec<PathBuf> = users.iter().filter_map(|(_, m)| m["destination"].as_str()).map(|d| clean(Path::new(d))).collect();
    let theirs = settings.mounts.iter().any(|mount| clean(Path::new(&mount.destination)) == Path::new("dev"));
    list.retain(|m| {
        let destination = clean(Path::new(m["destination"].as_str().unwrap_or_default()));
        let of_theirs = theirs && destination.starts_with("dev") && destination != Path::new("dev/shm");
        !(taken.contains(&destination) || of_theirs)
    });
    // A tmpfs for /dev is there before what every container has in it.
    let (dev, users): (Vec<_>, Vec<_>) = users
        .into_iter()
        .map(|(_, m)| m)
        .partition(|m| m["destination"].as_str().map(Path::new).map(clean) == Some("dev".into()));
    dev.into_iter().chain(list).chain(users).collect()
}

/// Limits alone, in OCI's form.
///
/// # Errors
/// A value that OCI has no room for.
pub fn limits(resources: &Resources) -> serde_json::Result<oci_spec::runtime::LinuxResources> {
    let mut value = json!({});
    add_limits(resources, &mut value);
    serde_json::from_value(value)
}

fn resources(settings: &Settings) -> Value {
    let mut devices = vec![json!({"allow": settings.privileged, "access": "rwm"})];
    if !settings.privileged {
        for (kind, major, minor, access) in DEVICES {
            devices.push(json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": access}));
        }
        for d in &settings.devices {
            devices.push(json!({"allow": true, "type": d.kind, "major": d.major, "minor": d.minor, "access": d.access}));
        }
        for rule in &settings.device_rules {
            devices.push(json!({
                "allow": true, "type": rule.kind, "major": rule.major, "minor": rule.minor, "access": rule.access,
            }));
        }
    }
    let mut value = json!({"devices": devices});
    add_limits(&settings.resources, &mut value);
    value
}

fn add_limits(r: &Resources, value: &mut Value) {
    if r.memory.is_some()
        || r.memory_reservation.is_some()
        || r.memory_swap.is_some()
        || r.swappiness.is_some()
        || r.oom_kill_disable
    {
        // As Docker has it: as much swap as memory, unless it is said.
        let swap = r.memory_swap.or(r.memory.map(|m| m.saturating_mul(2)));
        value["memory"] = json!({
            "limit": r.memory,
            "reservation": r.memory_reservation,
            "swap": swap,
            "swappiness": r.swappiness,
            "disableOOMKiller": r.oom_kill_disable.then_some(true),
        });
    }
    let realtime = r.cpu_rt_period.is_some() || r.cpu_rt_runtime.is_some();
    let sets = r.cpuset.is_some() || r.cpuset_mems.is_some();
    if r.cpu_shares.is_some() || r.cpu_quota.is_some() || r.cpu_period.is_some() || sets || realtime {
        value["cpu"] = json!({
            "shares": r.cpu_shares,
            "quota": r.cpu_quota,
            "period": r.cpu_period,
            "cpus": r.cpuset,
            "mems": r.cpuset_mems,
            "realtimePeriod": r.cpu_rt_period,
            "realtimeRuntime": r.cpu_rt_runtime,
        });
    }
    if !r.block_io.is_null() {
        value["blockIO"] = r.block_io.clone();
    }
    if let Some(limit) = r.pids {
        value["pids"] = json!({"limit": limit});
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_processors_counters_are_masked() {
        let host = tempfile::tempdir().unwrap();
        for path in ["cpu0/thermal_throttle", "cpu11/thermal_throttle", "cpu2", "cpufreq/thermal_throttle", "cpuidle"] {
            std::fs::create_dir_all(host.path().join(path)).unwrap();
        }
        let expected = ["cpu0", "cpu11"].map(|cpu| host.path().join(cpu).join("thermal_throttle").display().to_string());
        assert_eq!(thermal_throttles(host.path()), expected);
    }

    #[test]
    fn the_configuration_is_valid_oci() {
        let settings = Settings {
            args: vec!["sh".into()],
            cwd: "/".into(),
            hostname: Some("abc".into()),
            capabilities: Capabilities::docker_default(),
            tmpfs: vec![("/run/x".into(), vec!["size=64m".into()])],
            mounts: vec![BindMount {
                source: "/a".into(),
                destination: "/run".into(),
                options: vec!["rbind".into()],
                fstype: None,
            }],
            resources: Resources { memory: Some(1 << 20), pids: Some(10), ..Resources::default() },
            ..Settings::default()
        };
        let spec: oci_spec::runtime::Spec = serde_json::from_value(oci(&settings)).expect("valid");
        let places: Vec<_> = spec.mounts().iter().flatten().map(|m| m.destination().display().to_string()).collect();
        let at = |path: &str| places.iter().position(|p| p == path).expect(path);
        assert!(at("/run") < at("/run/x"));
        let linux = spec.linux().as_ref().expect("linux");
        assert_eq!(linux.resources().as_ref().and_then(|r| r.memory().as_ref()).and_then(|m| m.swap()), Some(2 << 20));
    }
}
