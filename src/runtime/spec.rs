//! Docker's defaults as types of the OCI runtime specification: namespaces, mounts, devices, masked paths.

use super::capabilities::Capabilities;
use super::targets::clean;
use oci_spec::runtime::{LinuxCapabilities, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, Mount, Spec};
use std::borrow::Borrow;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

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
const DEVICES: [(LinuxDeviceType, Option<i64>, Option<i64>, &str); 11] = [
    (LinuxDeviceType::C, None, None, "m"),
    (LinuxDeviceType::B, None, None, "m"),
    (LinuxDeviceType::C, Some(1), Some(3), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(5), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(7), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(8), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(9), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(0), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(1), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(2), "rwm"),
    (LinuxDeviceType::C, Some(136), None, "rwm"),
];

/// A configuration with nothing in it: the crate's own default is a container of its own making.
pub fn empty() -> Spec {
    let mut spec = Spec::default();
    spec.set_version("1.2.0".into());
    spec.set_root(None).set_mounts(None).set_process(None).set_hostname(None).set_annotations(None).set_linux(None);
    spec
}

/// Namespaces of a container besides the network's, which the engine makes.
pub fn namespaces(ipc: Ipc, own_uts: bool) -> Vec<LinuxNamespace> {
    let kinds = [
        (LinuxNamespaceType::Pid, true),
        (LinuxNamespaceType::Mount, true),
        (LinuxNamespaceType::Ipc, ipc != Ipc::Host),
        (LinuxNamespaceType::Uts, own_uts),
    ];
    let of = |kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    };
    kinds.into_iter().filter(|(_, own)| *own).map(|(kind, _)| of(kind)).collect()
}

/// The capabilities of a process: bounding, effective and permitted are the same.
pub fn capabilities(capabilities: Capabilities) -> LinuxCapabilities {
    let names = capabilities.names();
    let set: oci_spec::runtime::Capabilities =
        names.iter().filter_map(|name| name.trim_start_matches("CAP_").parse().ok()).collect();
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(set.clone())).set_effective(Some(set.clone())).set_permitted(Some(set));
    sets.set_inheritable(None).set_ambient(None);
    sets
}

/// Paths of which a container sees nothing.
pub fn masked_paths() -> Vec<String> {
    static THROTTLES: LazyLock<Vec<String>> = LazyLock::new(|| thermal_throttles(Path::new("/sys/devices/system/cpu")));
    MASKED.iter().map(ToString::to_string).chain(THROTTLES.iter().cloned()).collect()
}

/// Paths that a container cannot write.
pub fn readonly_paths() -> Vec<String> {
    READONLY.iter().map(ToString::to_string).collect()
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

/// A mount; `kind` is a file system's type, or `bind`.
pub fn mount(destination: &str, kind: &str, source: impl Into<PathBuf>, options: Vec<String>) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(destination.into()).set_typ(Some(kind.into()));
    mount.set_source(Some(source.into())).set_options(Some(options));
    mount
}

/// A tmpfs of the user's.
pub fn tmpfs(destination: &str, options: &[String]) -> Mount {
    let mut all = vec!["nosuid".to_string(), "nodev".into()];
    if !options.iter().any(|option| option == "exec") {
        all.push("noexec".into());
    }
    all.extend(options.iter().cloned());
    mount(destination, "tmpfs", "tmpfs", all)
}

/// The mounts of a container: Docker's, and those of the user, each in place of one of Docker's on the same path. The tmpfs mounts
/// of the user come first in `users`.
pub fn mounts(privileged: bool, ipc: Ipc, shm_size: u64, mut users: Vec<Mount>) -> Vec<Mount> {
    let words = |text: &str| text.split(' ').map(str::to_string).collect::<Vec<_>>();
    let (safe, sys) = ("nosuid noexec nodev", if privileged { "rw" } else { "ro" });
    let mut list = vec![
        mount("/proc", "proc", "proc", words(safe)),
        mount("/dev", "tmpfs", "tmpfs", words("nosuid strictatime mode=755 size=65536k")),
        mount("/dev/pts", "devpts", "devpts", words("nosuid noexec newinstance ptmxmode=0666 mode=0620 gid=5")),
        mount("/sys", "sysfs", "sysfs", words(&format!("{safe} {sys}"))),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", words(&format!("{safe} {sys}"))),
        mount("/dev/mqueue", "mqueue", "mqueue", words(safe)),
    ];
    match ipc {
        Ipc::Own => list.push(mount("/dev/shm", "tmpfs", "shm", words(&format!("{safe} mode=1777 size={shm_size}")))),
        Ipc::Bare => {}
        // The queues' file system is that of the namespace in which it is mounted.
        Ipc::Host => list.push(mount("/dev/shm", "bind", "/dev/shm", words(&format!("rbind {safe}")))),
    }
    sort_by_depth(&mut users);
    let destination = |mount: &Mount| clean(mount.destination());
    let taken: Vec<PathBuf> = users.iter().map(destination).collect();
    // A directory of the host's for /dev has all that belongs there, but for the container's own shared memory.
    let is_dev = |mount: &Mount| destination(mount) == Path::new("dev");
    let dev_is_bound = users.iter().any(|mount| is_dev(mount) && mount.typ().as_deref() != Some("tmpfs"));
    list.retain(|mount| {
        let destination = destination(mount);
        let in_dev = dev_is_bound && destination.starts_with("dev") && destination != Path::new("dev/shm");
        !(taken.contains(&destination) || in_dev)
    });
    // A tmpfs for /dev is there before what every container has in it.
    let (dev, users): (Vec<_>, Vec<_>) = users.into_iter().partition(is_dev);
    dev.into_iter().chain(list).chain(users).collect()
}

/// A mount below another must come after it, whatever order they were written in.
pub fn sort_by_depth(mounts: &mut [impl Borrow<Mount>]) {
    let parts = |path: &str| path.split('/').filter(|part| !part.is_empty()).count();
    mounts.sort_by_key(|mount| parts(&mount.borrow().destination().to_string_lossy()));
}

/// The rules of the devices controller: everything to a privileged container, Docker's list and `more` to any other.
pub fn device_rules(privileged: bool, more: impl Iterator<Item = LinuxDeviceCgroup>) -> Vec<LinuxDeviceCgroup> {
    let mut all = LinuxDeviceCgroup::default();
    all.set_allow(privileged).set_access(Some("rwm".into()));
    if privileged {
        return vec![all];
    }
    let docker = DEVICES.into_iter().map(|(kind, major, minor, access)| device_rule(kind, major, minor, access));
    std::iter::once(all).chain(docker).chain(more).collect()
}

/// A rule that allows access to a device; `None` is any number.
pub fn device_rule(kind: LinuxDeviceType, major: Option<i64>, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true).set_typ(Some(kind)).set_major(major).set_minor(minor).set_access(Some(access.into()));
    rule
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
    fn mounts_are_in_an_order_that_can_be_mounted() {
        let bind = |path: &str| mount(path, "bind", "/a", vec!["rbind".into()]);
        let paths = |ipc, users| {
            let all = mounts(false, ipc, 1 << 20, users);
            all.iter().map(|m| m.destination().display().to_string()).collect::<Vec<_>>()
        };
        let defaults = ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm"];
        assert_eq!(paths(Ipc::Own, vec![]), defaults);
        assert_eq!(paths(Ipc::Bare, vec![]), defaults[..6]);
        let nested = paths(Ipc::Own, vec![tmpfs("/run/x", &[]), bind("/run")]);
        assert_eq!(nested[7..], ["/run", "/run/x"]);
        let own = paths(Ipc::Own, vec![bind("/dev/shm")]);
        assert_eq!(own.iter().filter(|path| *path == "/dev/shm").count(), 1);
        assert_eq!(paths(Ipc::Own, vec![bind("/dev")]), ["/dev", "/proc", "/sys", "/sys/fs/cgroup", "/dev/shm"]);
        assert_eq!(paths(Ipc::Own, vec![tmpfs("/dev", &[])])[..3], ["/dev", "/proc", "/dev/pts"]);
    }
}
