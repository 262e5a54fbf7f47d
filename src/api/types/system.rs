//! `/version` and `/info`.

use super::Empty;
use indexmap::IndexMap;

wire! {
    /// `GET /version`.
    pub struct VersionAnswer {
        pub platform: NamedPlatform,
        pub components: Vec<VersionComponent>,
        pub version: String,
        pub api_version: String,
        #[serde(rename = "MinAPIVersion")]
        pub min_api_version: String,
        pub git_commit: String,
        pub go_version: String,
        pub os: String,
        pub arch: String,
        pub kernel_version: String,
        pub experimental: bool,
        pub build_time: String,
    }

    /// `Platform` of `GET /version`.
    pub struct NamedPlatform {
        pub name: String,
    }

    /// One of `Components` of `GET /version`.
    pub struct VersionComponent {
        pub name: String,
        pub version: String,
        pub details: VersionDetails,
    }

    /// `Details` of a component.
    pub struct VersionDetails {
        pub api_version: String,
        #[serde(rename = "MinAPIVersion")]
        pub min_api_version: String,
        pub os: String,
        pub arch: String,
        pub kernel_version: String,
        pub experimental: String,
        pub git_commit: String,
        pub go_version: String,
        pub build_time: String,
    }

    /// `GET /info`.
    pub struct SystemInfo {
        #[serde(rename = "ID")]
        pub id: String,
        pub name: String,
        pub server_version: String,
        pub containers: usize,
        pub containers_running: usize,
        pub containers_paused: usize,
        pub containers_stopped: usize,
        pub images: usize,
        pub driver: String,
        pub driver_status: Vec<(String, String)>,
        pub system_status: Option<Empty>,
        pub docker_root_dir: String,
        pub plugins: PluginNames,
        pub memory_limit: bool,
        pub swap_limit: bool,
        pub kernel_memory: bool,
        pub cpu_cfs_period: bool,
        pub cpu_cfs_quota: bool,
        #[serde(rename = "CPUShares")]
        pub cpu_shares: bool,
        #[serde(rename = "CPUSet")]
        pub cpu_set: bool,
        pub pids_limit: bool,
        pub oom_kill_disable: bool,
        #[serde(rename = "IPv4Forwarding")]
        pub ipv4_forwarding: bool,
        pub bridge_nf_iptables: bool,
        pub bridge_nf_ip6tables: bool,
        pub debug: bool,
        /// Descriptors of the engine.
        #[serde(rename = "NFd")]
        pub descriptors: usize,
        #[serde(rename = "NGoroutines")]
        pub goroutines: usize,
        pub system_time: String,
        pub logging_driver: String,
        pub cgroup_driver: String,
        pub cgroup_version: String,
        #[serde(rename = "NEventsListener")]
        pub event_listeners: usize,
        pub kernel_version: String,
        pub operating_system: String,
        #[serde(rename = "OSVersion")]
        pub os_version: String,
        #[serde(rename = "OSType")]
        pub os_type: String,
        pub architecture: String,
        pub index_server_address: String,
        pub registry_config: RegistrySettings,
        #[serde(rename = "NCPU")]
        pub processors: usize,
        /// Bytes.
        pub mem_total: u64,
        pub generic_resources: Option<Vec<Empty>>,
        pub http_proxy: String,
        pub https_proxy: String,
        pub no_proxy: String,
        pub labels: Vec<String>,
        pub experimental_build: bool,
        pub runtimes: IndexMap<String, RuntimePath>,
        pub default_runtime: String,
        pub swarm: SwarmInfo,
        pub live_restore_enabled: bool,
        pub isolation: String,
        pub init_binary: String,
        pub containerd_commit: ProgramCommit,
        pub runc_commit: ProgramCommit,
        pub init_commit: ProgramCommit,
        pub security_options: Vec<String>,
        #[serde(rename = "CDISpecDirs")]
        pub cdi_spec_dirs: Vec<String>,
        pub warnings: Vec<String>,
    }

    /// The common field of the answers to prunes; networks take no space.
    pub struct SpaceReclaimed {
        /// Bytes.
        pub space_reclaimed: u64,
    }

    /// Drivers that a file may name.
    pub struct PluginNames {
        pub volume: Vec<String>,
        pub network: Vec<String>,
        pub authorization: Option<Vec<String>>,
        pub log: Vec<String>,
    }

    /// `RegistryConfig` of `GET /info`.
    pub struct RegistrySettings {
        #[serde(rename = "AllowNondistributableArtifactsCIDRs")]
        pub allow_nondistributable_artifacts_cidrs: Option<Vec<String>>,
        pub allow_nondistributable_artifacts_hostnames: Option<Vec<String>>,
        #[serde(rename = "InsecureRegistryCIDRs")]
        pub insecure_registry_cidrs: Vec<String>,
        pub index_configs: IndexMap<String, Empty>,
        pub mirrors: Vec<String>,
    }

    /// There is none.
    pub struct SwarmInfo {
        #[serde(rename = "NodeID")]
        pub node_id: String,
        pub node_addr: String,
        pub local_node_state: String,
        pub control_available: bool,
        pub error: String,
        pub remote_managers: Option<Vec<Empty>>,
    }

    /// The version of a program that wharf does not have.
    pub struct ProgramCommit {
        #[serde(rename = "ID")]
        pub id: String,
        pub expected: String,
    }
}

wire! {
    "lowercase"
    /// One of `Runtimes` of `GET /info`.
    pub struct RuntimePath {
        pub path: String,
    }
}
