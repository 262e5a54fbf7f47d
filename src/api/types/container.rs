//! `POST /containers/create` and `/containers/{id}/update`.

use super::{CommandLine, NetworkingConfig, Set, StringMap, null_if_empty};
use crate::units::IdMap;
use indexmap::IndexMap;

wire! {
    /// A container to make.
    pub struct ContainerCreate {
        pub image: String,
        pub hostname: String,
        pub domainname: String,
        pub user: String,
        pub attach_stdin: bool,
        pub attach_stdout: bool,
        pub attach_stderr: bool,
        pub exposed_ports: Set,
        pub tty: bool,
        pub open_stdin: bool,
        pub stdin_once: bool,
        pub env: Vec<String>,
        pub cmd: Option<CommandLine>,
        pub entrypoint: Option<CommandLine>,
        pub healthcheck: Option<HealthConfig>,
        /// Paths that get anonymous volumes.
        pub volumes: Set,
        pub working_dir: String,
        pub network_disabled: bool,
        /// Before 1.44 a container had one for its first network.
        pub mac_address: String,
        pub labels: StringMap,
        pub stop_signal: String,
        /// Seconds.
        pub stop_timeout: Option<i64>,
        pub host_config: HostConfig,
        pub networking_config: NetworkingConfig,
    }

    /// Durations are nanoseconds; 0 is the image's, or Docker's default.
    pub struct HealthConfig {
        pub test: Vec<String>,
        pub interval: i64,
        pub timeout: i64,
        pub start_period: i64,
        pub start_interval: i64,
        pub retries: i64,
    }

    /// The settings of a container that are about its host. The body of `/containers/{id}/update` is a part of it: limits that are not 0 change,
    /// and the restart policy if it has a name.
    pub struct HostConfig {
        #[serde(serialize_with = "null_if_empty")]
        pub binds: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub mounts: Vec<Mount>,
        #[serde(skip_serializing_if = "IndexMap::is_empty")]
        pub tmpfs: StringMap,
        #[serde(serialize_with = "null_if_empty")]
        pub volumes_from: Vec<String>,
        pub volume_driver: String,
        #[serde(rename = "ContainerIDFile")]
        pub container_id_file: String,
        pub log_config: LogConfig,
        pub network_mode: String,
        pub port_bindings: IndexMap<String, Option<Vec<PortBinding>>>,
        pub publish_all_ports: bool,
        pub restart_policy: RestartPolicyConfig,
        pub auto_remove: bool,
        /// wharf's own: the client removes the container when it has read its output to the end.
        #[serde(rename = "WharfClientRemoves", skip_serializing_if = "std::ops::Not::not")]
        pub client_removes: bool,
        #[serde(serialize_with = "null_if_empty")]
        pub links: Vec<String>,
        pub init: Option<bool>,
        /// Rows and columns of the client's terminal; the container's begins with them.
        pub console_size: Option<(u16, u16)>,
        pub runtime: String,
        pub privileged: bool,
        pub readonly_rootfs: bool,
        #[serde(serialize_with = "null_if_empty")]
        pub cap_add: Vec<String>,
        #[serde(serialize_with = "null_if_empty")]
        pub cap_drop: Vec<String>,
        #[serde(serialize_with = "null_if_empty")]
        pub security_opt: Vec<String>,
        #[serde(serialize_with = "null_if_empty")]
        pub group_add: Vec<String>,
        #[serde(serialize_with = "null_if_empty")]
        pub extra_hosts: Vec<String>,
        pub dns: Vec<String>,
        pub dns_options: Vec<String>,
        pub dns_search: Vec<String>,
        pub ipc_mode: String,
        pub pid_mode: String,
        #[serde(rename = "UTSMode")]
        pub uts_mode: String,
        pub userns_mode: String,
        pub cgroupns_mode: String,
        pub cgroup: String,
        pub isolation: String,
        #[serde(skip_serializing_if = "IndexMap::is_empty")]
        pub sysctls: StringMap,
        #[serde(skip_serializing_if = "IndexMap::is_empty")]
        pub storage_opt: StringMap,
        #[serde(skip_serializing_if = "IndexMap::is_empty")]
        pub annotations: StringMap,
        pub shm_size: i64,
        pub oom_score_adj: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub masked_paths: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub readonly_paths: Option<Vec<String>>,
        // Limits. 0 is none.
        /// Bytes.
        pub memory: i64,
        pub memory_reservation: i64,
        pub memory_swap: i64,
        pub memory_swappiness: Option<i64>,
        pub oom_kill_disable: Option<bool>,
        /// Billionths of a processor.
        #[serde(rename = "NanoCpus")]
        pub nano_cpus: i64,
        pub cpu_shares: i64,
        /// Microseconds.
        pub cpu_period: i64,
        pub cpu_quota: i64,
        pub cpu_realtime_period: i64,
        pub cpu_realtime_runtime: i64,
        pub cpuset_cpus: String,
        pub cpuset_mems: String,
        pub pids_limit: Option<i64>,
        pub cgroup_parent: String,
        pub blkio_weight: u16,
        #[serde(serialize_with = "null_if_empty")]
        pub blkio_weight_device: Vec<WeightDevice>,
        pub blkio_device_read_bps: Vec<ThrottleDevice>,
        pub blkio_device_write_bps: Vec<ThrottleDevice>,
        #[serde(rename = "BlkioDeviceReadIOps")]
        pub blkio_device_read_iops: Vec<ThrottleDevice>,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        pub blkio_device_write_iops: Vec<ThrottleDevice>,
        pub devices: Vec<DeviceMapping>,
        #[serde(serialize_with = "null_if_empty")]
        pub device_cgroup_rules: Vec<String>,
        #[serde(serialize_with = "null_if_empty")]
        pub device_requests: Vec<DeviceRequest>,
        #[serde(serialize_with = "null_if_empty")]
        pub ulimits: Vec<UlimitConfig>,
    }

    /// A log's driver and its options.
    pub struct LogConfig {
        #[serde(rename = "Type")]
        pub kind: String,
        pub config: StringMap,
    }

    /// A port of the host.
    pub struct PortBinding {
        pub host_ip: String,
        /// A number, a range `FIRST-LAST`, or empty for any.
        pub host_port: String,
    }

    /// `no`, `always`, `unless-stopped` or `on-failure`.
    pub struct RestartPolicyConfig {
        pub name: String,
        pub maximum_retry_count: i64,
    }

    /// A mount; Docker's `--mount`.
    pub struct Mount {
        /// `bind`, `volume`, `tmpfs` or `image`; a volume where it is empty.
        #[serde(rename = "Type")]
        pub kind: String,
        pub source: String,
        pub target: String,
        pub read_only: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub bind_options: Option<BindOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub volume_options: Option<VolumeOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tmpfs_options: Option<TmpfsOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub image_options: Option<ImageOptions>,
    }

    /// `Mount.BindOptions`.
    pub struct BindOptions {
        pub propagation: String,
        pub non_recursive: bool,
        pub create_mountpoint: bool,
        pub read_only_non_recursive: bool,
        pub read_only_force_recursive: bool,
        #[serde(rename = "IDMapping", skip_serializing_if = "Option::is_none")]
        pub id_mapping: Option<IdMapping>,
    }

    /// `Mount.BindOptions.IDMapping`: `match-user` with a user or none, or `userns`.
    pub struct IdMapping {
        pub source: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub user: String,
    }

    /// `Mount.VolumeOptions`.
    pub struct VolumeOptions {
        pub no_copy: bool,
        pub labels: StringMap,
        pub subpath: String,
        pub driver_config: Option<DriverConfig>,
    }

    /// A volume's driver and its options.
    pub struct DriverConfig {
        pub name: String,
        pub options: StringMap,
    }

    /// `Mount.TmpfsOptions`: bytes and an octal mode, 0 for the default.
    pub struct TmpfsOptions {
        pub size_bytes: i64,
        pub mode: u32,
    }

    /// `Mount.ImageOptions`.
    pub struct ImageOptions {
        pub subpath: String,
    }

    /// A device of the host.
    pub struct DeviceMapping {
        pub path_on_host: String,
        pub path_in_container: String,
        pub cgroup_permissions: String,
    }

    /// Devices of a kind, by their vendor's driver.
    pub struct DeviceRequest {
        pub driver: String,
        pub count: i64,
        #[serde(rename = "DeviceIDs")]
        pub device_ids: Vec<String>,
        pub capabilities: Vec<Vec<String>>,
        pub options: StringMap,
    }

    /// `HostConfig.BlkioWeightDevice`: a device's share of I/O, 10 to 1000.
    pub struct WeightDevice {
        pub path: String,
        pub weight: u16,
    }

    /// `HostConfig.BlkioDevice*`: bytes or operations a second of a device.
    pub struct ThrottleDevice {
        pub path: String,
        pub rate: u64,
    }

    /// `HostConfig.Ulimits`; -1 is without limit.
    pub struct UlimitConfig {
        pub name: String,
        pub soft: i64,
        pub hard: i64,
    }
    /// The answer to `/containers/create`.
    pub struct ContainerCreated {
        pub id: String,
        pub warnings: Vec<String>,
    }

    /// The answer to `/containers/{id}/update`.
    pub struct ContainerUpdated {
        pub warnings: Vec<String>,
    }

    /// The answer to `/containers/{id}/wait`.
    pub struct ContainerWaited {
        pub status_code: i32,
    }

    /// The answer to `/containers/prune`.
    pub struct ContainersPruned {
        pub containers_deleted: Option<Vec<String>>,
        pub space_reclaimed: u64,
    }

    /// An element of `/containers/{id}/changes`: 0 is changed, 1 added, 2 deleted.
    pub struct FileChange {
        pub path: String,
        pub kind: u8,
    }

    /// The id of what was made: of an exec, or of a commit's image.
    pub struct CreatedId {
        pub id: String,
    }
}

wire! {
    "camelCase"
    /// The header `X-Docker-Container-Path-Stat`.
    pub struct PathStatHeader {
        pub name: String,
        pub size: u64,
        /// Go's `os.FileMode`.
        pub mode: u32,
        pub mtime: String,
        pub link_target: String,
    }

    /// An answer's error; wharf's own are the exit code of a start that failed, and the step of it.
    pub struct ErrorAnswer {
        pub message: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub exit_code: Option<i32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub step: Option<String>,
    }
}

impl From<&IdMap> for IdMapping {
    fn from(map: &IdMap) -> Self {
        let (source, user) = map.parts();
        IdMapping { source: source.into(), user: user.into() }
    }
}
