//! `POST /containers/create` and `/containers/{id}/update`.

use super::{CommandLine, NetworkingConfig, Set, StringMap};
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

    /// What of a container is about its host. The body of `/containers/{id}/update` is a part of it: limits that are not 0 change,
    /// and the restart policy if it has a name.
    pub struct HostConfig {
        pub binds: Vec<String>,
        pub mounts: Vec<Mount>,
        pub tmpfs: StringMap,
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
        pub links: Vec<String>,
        pub init: Option<bool>,
        /// Rows and columns of the client's terminal; the container's begins with them.
        pub console_size: Option<(u16, u16)>,
        pub runtime: String,
        pub privileged: bool,
        pub readonly_rootfs: bool,
        pub cap_add: Vec<String>,
        pub cap_drop: Vec<String>,
        pub security_opt: Vec<String>,
        pub group_add: Vec<String>,
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
        pub sysctls: StringMap,
        pub storage_opt: StringMap,
        pub annotations: StringMap,
        pub shm_size: i64,
        pub oom_score_adj: i64,
        pub masked_paths: Option<Vec<String>>,
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
        pub blkio_weight_device: Vec<WeightDevice>,
        pub blkio_device_read_bps: Vec<ThrottleDevice>,
        pub blkio_device_write_bps: Vec<ThrottleDevice>,
        #[serde(rename = "BlkioDeviceReadIOps")]
        pub blkio_device_read_iops: Vec<ThrottleDevice>,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        pub blkio_device_write_iops: Vec<ThrottleDevice>,
        pub devices: Vec<DeviceMapping>,
        pub device_cgroup_rules: Vec<String>,
        pub device_requests: Vec<DeviceRequest>,
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

    pub struct BindOptions {
        pub propagation: String,
        pub non_recursive: bool,
        pub create_mountpoint: bool,
        pub read_only_non_recursive: bool,
        pub read_only_force_recursive: bool,
    }

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

    pub struct TmpfsOptions {
        pub size_bytes: i64,
        pub mode: u32,
    }

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

    pub struct WeightDevice {
        pub path: String,
        pub weight: u16,
    }

    pub struct ThrottleDevice {
        pub path: String,
        pub rate: u64,
    }

    pub struct UlimitConfig {
        pub name: String,
        pub soft: i64,
        pub hard: i64,
    }
}
