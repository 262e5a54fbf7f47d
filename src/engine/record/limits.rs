//! Limits of a container: resources, block devices, its log.

use crate::logs::DEFAULT_FILE;
use crate::units::ByteSize;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// Limits of a container's resources, as `HostConfig` names them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceSpec {
    pub memory: Option<ByteSize>,
    pub memory_reservation: Option<ByteSize>,
    /// Memory and swap together; -1 is without limit.
    pub memory_swap: Option<ByteSize>,
    pub cpus: Option<f64>,
    pub cpu_shares: Option<u64>,
    pub cpu_quota: Option<i64>,
    pub cpu_period: Option<u64>,
    pub cpuset: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    pub pids: Option<i64>,
    /// Microseconds; cgroup v1 alone.
    pub cpu_rt_period: Option<u64>,
    pub cpu_rt_runtime: Option<i64>,
    /// 0 to 100; cgroup v1 alone.
    pub memory_swappiness: Option<u64>,
    /// cgroup v1 alone.
    pub oom_kill_disable: bool,
    pub blkio: BlkioSpec,
}

/// Limits of block devices, each by the device's path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioSpec {
    /// 10 to 1000.
    pub weight: Option<u16>,
    pub weight_device: Vec<(String, u16)>,
    /// Bytes a second.
    pub read_bps: Vec<(String, u64)>,
    pub write_bps: Vec<(String, u64)>,
    /// Operations a second.
    pub read_iops: Vec<(String, u64)>,
    pub write_iops: Vec<(String, u64)>,
}

/// A container's log: bytes of a file, 0 without limit, and how many files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSpec {
    pub none: bool,
    pub max_size: u64,
    pub max_files: u32,
}

impl LogSpec {
    /// Files of a log whose container says nothing, of [`DEFAULT_FILE`] bytes each.
    const MAX_FILES: u32 = 5;

    /// Docker's driver and its options; what only another driver knows is left out. A size of 0 or -1 is without limit.
    ///
    /// # Errors
    /// Of an option's value: its name and what it should be.
    pub fn of(driver: Option<&str>, options: &IndexMap<String, String>) -> Result<Self, String> {
        if driver == Some("none") {
            return Ok(LogSpec { none: true, ..LogSpec::default() });
        }
        let size = |text: &String| match text.as_str() {
            "-1" => Ok(0),
            text => crate::units::bytes(text)
                .and_then(|bytes| u64::try_from(bytes).ok())
                .ok_or_else(|| format!("max-size`: `{text}` is not a size such as `10m`, nor -1 for no limit")),
        };
        let files = |text: &String| text.parse::<u32>().map_err(|_| format!("max-file`: `{text}` is not a number"));
        let max_size = options.get("max-size").map(size).transpose()?;
        // Docker's `json-file` keeps one file of a size that is said.
        let usual = if max_size.is_some() && driver != Some("local") { 1 } else { Self::MAX_FILES };
        let max_files = options.get("max-file").map(files).transpose()?.unwrap_or(usual);
        Ok(LogSpec { none: false, max_size: max_size.unwrap_or(DEFAULT_FILE), max_files })
    }

    /// Whether it may fill the disk.
    pub fn is_unlimited(&self) -> bool {
        !self.none && self.max_size == 0
    }
}
