//! The specification that a container was created with.

use super::ContainerRecord;
pub use super::limits::{BlkioSpec, LogSpec, ResourceSpec};
use crate::compose::model::OnUnhealthy;
pub use crate::compose::model::RestartPolicy;
use crate::compose::paths::cleaned;
use crate::runtime::capabilities::Capabilities;
use crate::units::{ContainerPort, IdMap, Nanos, PortRange, Protocol, as_text, known_ports};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// The specification that a container was created with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// The reference as the user wrote it.
    pub image: String,
    pub entrypoint: Option<Vec<String>>,
    pub command: Option<Vec<String>>,
    /// `NAME=VALUE`; a bare `NAME` unsets what the image sets.
    pub env: Vec<String>,
    pub user: Option<String>,
    pub group_add: Vec<String>,
    pub working_dir: Option<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub labels: IndexMap<String, String>,
    pub tty: bool,
    /// Rows and columns that its terminal has from the start. Default: none, 0 by 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<(u16, u16)>,
    pub stdin_open: bool,
    pub stop_signal: Option<String>,
    /// Seconds between the stop signal and SIGKILL.
    pub stop_timeout: Option<u64>,
    pub health: Option<HealthSpec>,
    /// The action when the health check fails; `None` as Docker, nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_unhealthy: Option<OnUnhealthy>,
    pub init: bool,
    pub privileged: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub security_opt: Vec<String>,
    pub read_only: bool,
    pub mounts: Vec<MountSpec>,
    /// Destination and mount options.
    pub tmpfs: Vec<(String, Vec<String>)>,
    pub ports: Vec<PortSpec>,
    pub networks: Vec<EndpointSpec>,
    pub network_mode: NetworkMode,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_opt: Vec<String>,
    pub extra_hosts: Vec<String>,
    pub restart: RestartPolicy,
    pub resources: ResourceSpec,
    /// Name (`nofile`), soft, hard; -1 is without limit.
    pub ulimits: Vec<(String, i64, i64)>,
    pub sysctls: IndexMap<String, String>,
    pub shm_size: Option<u64>,
    /// Docker's options of the container's own layer: `size`, what it may grow to.
    pub storage_opt: IndexMap<String, String>,
    pub oom_score_adj: i32,
    pub log: LogSpec,
    pub annotations: IndexMap<String, String>,
    pub ipc: Sharing,
    pub pid: Sharing,
    pub uts_host: bool,
    /// A cgroup namespace of its own (true) or the host's (false); absent is Docker's default: its own with cgroup v2 alone.
    pub cgroup_private: Option<bool>,
    /// The group, from the root of the hierarchies, in which the container's is made.
    pub cgroup_parent: Option<String>,
    /// The OCI runtime, by its name or path; wharf's own where it is absent.
    pub runtime: Option<String>,
    pub devices: Vec<DeviceSpec>,
    /// `TYPE MAJOR:MINOR ACCESS`, as in the devices controller's files.
    pub device_cgroup_rules: Vec<String>,
    /// Configs and secrets.
    pub files: Vec<FileSpec>,
    /// Further names of others, for this container alone: alias and what it stands for.
    pub links: Vec<(String, String)>,
    pub post_start: Vec<HookSpec>,
    pub pre_stop: Vec<HookSpec>,
    pub pre_start: Vec<PreStartSpec>,
    /// Restarts after which it stays ended, where its policy has no such number of its own.
    pub restart_attempts: Option<u32>,
    /// The time before each restart, instead of Docker's back-off.
    pub restart_delay: Option<Nanos>,
    /// The time after which a restart has succeeded, and the count of attempts begins anew.
    pub restart_window: Option<Nanos>,
    /// The first client that attaches to standard input ends it when it leaves.
    pub stdin_once: bool,
    /// It is removed, with its anonymous volumes, when it has ended.
    pub auto_remove: bool,
    /// The client that runs it in the foreground removes it when it has read to its end. When that client has lost its engine,
    /// the next engine does.
    pub client_removes: bool,
    pub as_created: AsCreated,
}

/// Settings of the request that made a container which nothing acts on afterwards: clients read them again, often to make
/// another one like it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AsCreated {
    /// Besides the image's.
    #[serde(deserialize_with = "known_ports")]
    pub exposed_ports: Vec<ContainerPort>,
    pub publish_all_ports: bool,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub volumes_from: Vec<String>,
    pub log_options: IndexMap<String, String>,
    pub container_id_file: String,
    /// `default`, or nothing.
    pub isolation: String,
    /// Of volumes that the container would have had made: it has none.
    pub volume_driver: String,
    /// `ipc: shareable`, which is what every container of wharf is.
    pub shareable_ipc: bool,
}

/// Whose namespace a container has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    #[default]
    Own,
    /// Its own, without /dev/shm: `ipc: none`.
    Bare,
    Host,
    /// That of another container, by its id.
    Container(String),
}

impl Sharing {
    /// The container whose namespace it is.
    pub fn container(&self) -> Option<&str> {
        if let Sharing::Container(id) = self { Some(id) } else { None }
    }
}

/// A device of the host, or all in a directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceSpec {
    pub source: String,
    pub target: String,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

/// A config or a secret as a file in the container. Its content is nowhere in the state: it is a file of the host, or it was
/// written into the container's directory when that was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileSpec {
    pub target: String,
    /// A file of the host, which is mounted as it is; absent where the container has a file of its own.
    pub source: Option<String>,
    /// The file of the host of which it has a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copied_from: Option<String>,
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    /// Taken when the container is made.
    #[serde(skip)]
    pub content: Option<Vec<u8>>,
}

/// A command that runs in a container after its start or before its stop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HookSpec {
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub privileged: bool,
}

/// A command that runs to its end in a container of its own before a service's containers start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreStartSpec {
    pub hook: HookSpec,
    /// Absent: the service's.
    pub image: Option<String>,
    /// It runs for each container of the service, not once for all.
    pub per_replica: bool,
}

/// A health check. Durations are nanoseconds, as in Docker's API; 0 stands for Docker's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthSpec {
    /// `["CMD", ...]`, `["CMD-SHELL", TEXT]`, `["NONE"]`; empty takes the image's.
    pub test: Vec<String>,
    pub interval: Nanos,
    pub timeout: Nanos,
    pub start_period: Nanos,
    pub start_interval: Nanos,
    pub retries: u32,
}

/// `Type` of a mount, but for tmpfs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    Bind,
    #[default]
    Volume,
    /// An image's files, read-only; the source is its name.
    Image,
}

/// A mount of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MountSpec {
    pub kind: MountKind,
    /// A path of the host, or a volume's name.
    pub source: String,
    pub target: String,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub propagation: Option<String>,
    #[serde(default)]
    pub create_host_path: bool,
    #[serde(default)]
    pub no_copy: bool,
    #[serde(default)]
    pub subpath: Option<String>,
    /// A volume without a name of the user's: it goes with the container, and stays when the container is recreated.
    #[serde(default)]
    pub anonymous: bool,
    /// The definition lists it among its mounts. Other anonymous volumes are a path alone: of the image, or of `run -v PATH`.
    #[serde(default)]
    pub listed: bool,
    /// Mounts below a bind's source do not come along.
    #[serde(default)]
    pub not_recursive: bool,
    /// Whose the files of a bind's source are in the container.
    #[serde(default, with = "as_text", skip_serializing_if = "Option::is_none")]
    pub id_map: Option<IdMap>,
    /// Of an anonymous volume.
    #[serde(default)]
    pub labels: IndexMap<String, String>,
    /// Of an image's mount: its layers, the lowest first.
    #[serde(default)]
    pub layers: Vec<crate::image::ChainId>,
}

/// A port that is published.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortSpec {
    pub target: u16,
    pub protocol: Protocol,
    /// Absent: every address of the host.
    pub host_ip: Option<IpAddr>,
    /// The host's ports to choose from.
    pub published: PortRange,
}

/// A network that a container is to be on, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// The network's name.
    pub network: String,
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub ipv4_address: Option<Ipv4Addr>,
    #[serde(default)]
    pub ipv6_address: Option<Ipv6Addr>,
    #[serde(default)]
    pub mac_address: Option<[u8; 6]>,
    #[serde(default)]
    pub link_local_ips: Vec<IpAddr>,
    /// The interface's name in the container; `ethN` where it is absent.
    #[serde(default)]
    pub interface_name: Option<String>,
    /// Of the networks with a way out, the one with the highest has the default route.
    #[serde(default)]
    pub gw_priority: i64,
    /// Settings of the interface: `net.ipv4.conf.IFNAME.log_martians` and the like, and their values.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// Docker's options of the endpoint as they were given, and links to other containers; for clients that read them again.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub driver_opts: IndexMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
}

/// `HostConfig.NetworkMode`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// On the networks named.
    #[default]
    Bridge,
    Host,
    None,
    /// In the namespace of another container, by its id.
    Container(String),
}

impl PortSpec {
    pub fn container_port(&self) -> ContainerPort {
        ContainerPort { port: self.target, protocol: self.protocol }
    }
}

impl ContainerSpec {
    /// Its capabilities: Docker's default or all, plus `cap_add`, minus `cap_drop`.
    ///
    /// # Errors
    /// The first name that is not a capability.
    pub fn capabilities(&self) -> Result<Capabilities, String> {
        let base = if self.privileged { Capabilities::all() } else { Capabilities::docker_default() };
        base.adjusted(&self.cap_add, &self.cap_drop)
    }

    /// Bytes that its own layer may grow to.
    ///
    /// # Errors
    /// A sentence about an option that is not `size`, or a size that is none.
    pub fn layer_size(&self) -> Result<Option<u64>, String> {
        if let Some((option, value)) = self.storage_opt.iter().find(|(option, _)| *option != "size") {
            return Err(format!("there is no storage option `{option}` (it is `{value}`): a layer has a `size`"));
        }
        let parse = |text: &String| {
            crate::units::positive_bytes(text)
                .ok_or_else(|| format!("the storage option `size` is `{text}`: write a size such as `10g`"))
        };
        self.storage_opt.get("size").map(parse).transpose()
    }
}

impl NetworkMode {
    /// Whether the container has a network namespace of its own.
    pub fn has_own_namespace(&self) -> bool {
        matches!(self, NetworkMode::Bridge | NetworkMode::None)
    }
}

/// Whose mounts a `volumes_from` wants, and whether read-only: `NAME`, `NAME:ro` or `NAME:rw`.
pub fn volumes_from(text: &str) -> (&str, bool) {
    match text.rsplit_once(':') {
        Some((from, "ro")) => (from, true),
        Some((from, "rw")) => (from, false),
        _ => (text, false),
    }
}

/// A path in a container without doubled or trailing slashes, `.` and `..`.
pub fn clean_target(path: &str) -> String {
    format!("/{}", crate::runtime::targets::clean(Path::new(path)).display())
}

/// The source of a bind mount without doubled slashes, `.` and `..`: by the text alone, as Docker has it.
pub fn clean_source(path: &str) -> String {
    cleaned(Path::new(path)).to_string_lossy().into_owned()
}

impl ContainerSpec {
    /// Makes the paths of mounts comparable. Of two mounts on one path the later one holds.
    pub fn clean_targets(&mut self) {
        let mut mounts: IndexMap<String, MountSpec> = IndexMap::new();
        for mount in std::mem::take(&mut self.mounts) {
            let target = clean_target(&mount.target);
            let source = if mount.kind == MountKind::Bind { clean_source(&mount.source) } else { mount.source.clone() };
            mounts.insert(target.clone(), MountSpec { source, target, ..mount });
        }
        self.mounts = mounts.into_values().collect();
        self.tmpfs.iter_mut().for_each(|(target, _)| *target = clean_target(target));
        self.files.iter_mut().for_each(|file| file.target = clean_target(&file.target));
    }

    /// Mounts an anonymous volume on each of an image's paths where nothing else is mounted.
    pub fn mount_volumes_of_image(&mut self, targets: &[String]) {
        for target in targets.iter().map(|target| clean_target(target)) {
            if !self.is_mounted(&target) {
                self.mounts.push(MountSpec { kind: MountKind::Volume, target, anonymous: true, ..MountSpec::default() });
            }
        }
    }

    fn is_mounted(&self, target: &str) -> bool {
        self.mounts.iter().any(|mount| mount.target == target) || self.tmpfs.iter().any(|(path, _)| path == target)
    }

    /// Mounts what another container has, where nothing of its own is.
    pub fn take_mounts_of(&mut self, other: &ContainerRecord, read_only: bool) {
        self.clean_targets();
        let mut other = other.spec.clone();
        other.clean_targets();
        for mount in &other.mounts {
            if !self.is_mounted(&mount.target) {
                let read_only = read_only || mount.read_only;
                self.mounts.push(MountSpec { read_only, anonymous: false, ..mount.clone() });
            }
        }
    }
}

impl ContainerSpec {
    /// Publishes every exposed port that is not published yet, on any free port of the host.
    pub fn publish_exposed(&mut self, of_image: &[ContainerPort]) {
        for exposed in self.as_created.exposed_ports.iter().chain(of_image) {
            if !self.ports.iter().any(|port| port.container_port() == *exposed) {
                let ContainerPort { port: target, protocol } = *exposed;
                self.ports.push(PortSpec { target, protocol, host_ip: None, published: PortRange::default() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_bounded_unless_somebody_says_otherwise() {
        const MIB: u64 = 1 << 20;
        // Driver, options, bytes of a file, files.
        type Options<'a> = &'a [(&'a str, &'a str)];
        let table: [(Option<&str>, Options<'_>, u64, u32); 8] = [
            (None, &[], 20 * MIB, 5),
            (Some(""), &[], 20 * MIB, 5),
            (Some("json-file"), &[("max-file", "3")], 20 * MIB, 3),
            (Some("json-file"), &[("max-size", "1m")], MIB, 1),
            (Some("local"), &[("max-size", "1m")], MIB, 5),
            (Some("syslog"), &[("syslog-address", "udp://10.0.0.1:514")], 20 * MIB, 5),
            (None, &[("max-size", "-1")], 0, 1),
            (None, &[("max-size", "0")], 0, 1),
        ];
        for (driver, options, max_size, max_files) in table {
            let options = options.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
            let log = LogSpec::of(driver, &options).expect("options");
            assert_eq!((log.max_size, log.max_files, log.is_unlimited()), (max_size, max_files, max_size == 0), "{options:?}");
        }
        let wrong = |key: &str, value: &str| LogSpec::of(None, &IndexMap::from([(key.to_string(), value.to_string())])).is_err();
        assert!(wrong("max-size", "-2") && wrong("max-size", "much") && wrong("max-file", "-1"));
        assert!(!LogSpec { none: true, ..LogSpec::default() }.is_unlimited());
    }

    #[test]
    fn mounts_are_compared_by_clean_paths() {
        let mount =
            |target: &str, source: &str| MountSpec { target: target.into(), source: source.into(), ..MountSpec::default() };
        let mut spec = ContainerSpec {
            mounts: vec![mount("/data", "named"), mount("/a/./b//", "one"), mount("/a/x/../b", "two")],
            tmpfs: vec![("/t/".into(), Vec::new())],
            ..ContainerSpec::default()
        };
        spec.clean_targets();
        spec.mount_volumes_of_image(&["/data/".into(), "/t".into(), "/x/../y".into()]);
        let got: Vec<_> = spec.mounts.iter().map(|m| (m.target.as_str(), m.source.as_str())).collect();
        assert_eq!(got, [("/data", "named"), ("/a/b", "two"), ("/y", "")]);
        assert_eq!(spec.tmpfs[0].0, "/t");
        let older = r#"{"id": "i", "name": "n", "created_at": "2026-01-01T00:00:00Z", "image_id": "", "layers": [],
            "spec": {"mounts": [{"kind": "volume", "source": "v", "target": "/data/"}, {"kind": "volume", "source": "w", "target": "/w/"}]}, "state": {}}"#;
        spec.take_mounts_of(&serde_json::from_str(older).expect("a record"), false);
        let last = spec.mounts.last().expect("a mount");
        assert_eq!((spec.mounts.len(), last.target.as_str(), last.source.as_str()), (4, "/w", "w"));
        spec.mounts = ["/run/../run/docker.sock", "//a/./b/", "/"]
            .map(|source| MountSpec { kind: MountKind::Bind, ..mount(&format!("/x{source}"), source) })
            .into();
        spec.clean_targets();
        let got: Vec<_> = spec.mounts.iter().map(|m| m.source.as_str()).collect();
        assert_eq!(got, ["/run/docker.sock", "/a/b", "/"]);
    }
}
