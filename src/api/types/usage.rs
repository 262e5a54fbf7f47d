//! `top`, `stats` and `/system/df`.

use super::{ContainerSummary, ImageSummary, VolumeInspect};
use indexmap::IndexMap;

wire! {
    /// `GET /containers/{id}/top`.
    pub struct ContainerTop {
        pub titles: Vec<String>,
        pub processes: Vec<Vec<String>>,
    }

    /// `GET /system/df`. Kinds that were not asked for are `null`.
    pub struct DiskUsage {
        /// Bytes of all layers of images, each once.
        pub layers_size: u64,
        pub images: Option<Vec<ImageSummary>>,
        pub containers: Option<Vec<ContainerSummary>>,
        pub volumes: Option<Vec<VolumeInspect>>,
        pub build_cache: Option<Vec<CacheRecord>>,
    }

    /// The build cache.
    pub struct CacheRecord {
        #[serde(rename = "ID")]
        pub id: String,
        #[serde(rename = "Type")]
        pub kind: String,
        pub description: String,
        pub in_use: bool,
        pub shared: bool,
        /// Bytes.
        pub size: u64,
        /// RFC 3339.
        pub created_at: String,
        pub last_used_at: Option<String>,
        pub usage_count: i64,
    }
}

wire! {
    "snake_case"
    /// A sample of what a container uses. Counters count from its start.
    pub struct ContainerStats {
        pub read: String,
        pub name: String,
        pub id: String,
        pub pids_stats: PidsStats,
        pub blkio_stats: BlkioStats,
        pub cpu_stats: CpuStats,
        /// Of the sample before; all 0 in the first.
        pub precpu_stats: CpuStats,
        pub preread: String,
        pub num_procs: u32,
        pub storage_stats: super::Empty,
        pub memory_stats: MemoryStats,
        pub networks: IndexMap<String, InterfaceStats>,
    }

    /// `pids_stats`.
    pub struct PidsStats {
        pub current: u64,
        /// 0 is without limit.
        pub limit: u64,
    }

    /// `blkio_stats`.
    pub struct BlkioStats {
        pub io_service_bytes_recursive: Vec<BlkioEntry>,
        pub io_serviced_recursive: Option<Vec<BlkioEntry>>,
        pub io_queue_recursive: Option<Vec<BlkioEntry>>,
        pub io_service_time_recursive: Option<Vec<BlkioEntry>>,
        pub io_wait_time_recursive: Option<Vec<BlkioEntry>>,
        pub io_merged_recursive: Option<Vec<BlkioEntry>>,
        pub io_time_recursive: Option<Vec<BlkioEntry>>,
        pub sectors_recursive: Option<Vec<BlkioEntry>>,
    }

    /// Bytes that were read from or written to a device.
    pub struct BlkioEntry {
        pub major: u64,
        pub minor: u64,
        pub op: String,
        pub value: u64,
    }

    /// `cpu_stats` and `precpu_stats`.
    pub struct CpuStats {
        pub cpu_usage: CpuUsage,
        /// Nanoseconds of all processors of the host.
        pub system_cpu_usage: u64,
        pub online_cpus: u64,
        pub throttling_data: ThrottlingData,
    }

    /// Nanoseconds.
    pub struct CpuUsage {
        pub total_usage: u64,
        pub usage_in_kernelmode: u64,
        pub usage_in_usermode: u64,
    }

    /// `throttling_data`: periods, and nanoseconds.
    pub struct ThrottlingData {
        pub periods: u64,
        pub throttled_periods: u64,
        pub throttled_time: u64,
    }

    /// Bytes.
    pub struct MemoryStats {
        pub usage: u64,
        pub limit: u64,
        /// What the kernel counts apart, by its names: clients subtract `inactive_file`, or `total_inactive_file` of older
        /// control groups, which it takes back first.
        pub stats: IndexMap<String, u64>,
    }

    /// Traffic of an interface.
    pub struct InterfaceStats {
        pub rx_bytes: u64,
        pub rx_packets: u64,
        pub rx_errors: u64,
        pub rx_dropped: u64,
        pub tx_bytes: u64,
        pub tx_packets: u64,
        pub tx_errors: u64,
        pub tx_dropped: u64,
    }
}
