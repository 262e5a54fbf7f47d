//! The limits of a container, as options of `docker run`.

use super::new::wrong;
use crate::cli::Failure;
use crate::cli::objects::network::pairs;
use crate::cli::project::build;
use serde_json::{Value, json};

#[derive(clap::Args, Debug)]
pub struct Limits {
    /// Bytes of memory, such as 512m.
    #[arg(short, long)]
    memory: Option<String>,
    /// Bytes of memory and swap together; -1 for any.
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Bytes of memory that it keeps when others need it.
    #[arg(long)]
    memory_reservation: Option<String>,
    /// 0 to 100.
    #[arg(long)]
    memory_swappiness: Option<u64>,
    #[arg(long)]
    oom_kill_disable: bool,
    /// -1000 to 1000.
    #[arg(long, allow_hyphen_values = true)]
    oom_score_adj: Option<i64>,
    /// Number of processors, such as 1.5.
    #[arg(long)]
    cpus: Option<f64>,
    #[arg(short, long)]
    cpu_shares: Option<u64>,
    /// Microseconds.
    #[arg(long)]
    cpu_period: Option<u64>,
    /// Microseconds.
    #[arg(long)]
    cpu_quota: Option<i64>,
    /// Microseconds.
    #[arg(long)]
    cpu_rt_period: Option<u64>,
    /// Microseconds.
    #[arg(long)]
    cpu_rt_runtime: Option<i64>,
    /// Processors, such as 0-2,4.
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Memory nodes, such as 0-1.
    #[arg(long)]
    cpuset_mems: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// 10 to 1000.
    #[arg(long)]
    blkio_weight: Option<u16>,
    /// PATH:WEIGHT; may be repeated.
    #[arg(long)]
    blkio_weight_device: Vec<String>,
    /// PATH:BYTES a second; may be repeated.
    #[arg(long)]
    device_read_bps: Vec<String>,
    /// PATH:BYTES a second; may be repeated.
    #[arg(long)]
    device_write_bps: Vec<String>,
    /// PATH:NUMBER a second; may be repeated.
    #[arg(long)]
    device_read_iops: Vec<String>,
    /// PATH:NUMBER a second; may be repeated.
    #[arg(long)]
    device_write_iops: Vec<String>,
    #[arg(long)]
    shm_size: Option<String>,
    /// size=SIZE: what the container's own layer may grow to; may be repeated.
    #[arg(long)]
    storage_opt: Vec<String>,
    /// NAME=SOFT[:HARD]; may be repeated.
    #[arg(long)]
    ulimit: Vec<String>,
    /// NAME=VALUE; may be repeated.
    #[arg(long)]
    sysctl: Vec<String>,
}

/// Bytes of a size such as `512m`; -1 stays.
pub fn size(text: Option<&String>) -> Result<Option<i64>, Failure> {
    let one = |text: &String| match text.as_str() {
        "-1" => Ok(-1),
        _ => crate::units::bytes(text).ok_or_else(|| Failure::Message(format!("`{text}` is not a size such as `64m`"))),
    };
    text.map(one).transpose()
}

/// `PATH:VALUE` pairs of a block device option.
fn of_devices(option: &str, list: &[String], key: &str) -> Result<Value, Failure> {
    let one = |text: &String| {
        let what = if key == "Weight" { "PATH:WEIGHT" } else { "PATH:NUMBER, such as /dev/sda:1mb" };
        let (path, value) = text.rsplit_once(':').ok_or_else(|| wrong(option, text, what))?;
        let number = crate::units::bytes(value).ok_or_else(|| wrong(option, text, what))?;
        Ok(json!({"Path": path, key: number}))
    };
    list.iter().map(one).collect()
}

fn ulimit(text: &str) -> Result<Value, Failure> {
    let (name, soft, hard) = build::ulimit(text)?;
    Ok(json!({"Name": name, "Soft": soft, "Hard": hard}))
}

impl Limits {
    /// Their part of Docker's `HostConfig`.
    pub fn body(&self) -> Result<Value, Failure> {
        Ok(json!({
            "Memory": size(self.memory.as_ref())?,
            "MemorySwap": size(self.memory_swap.as_ref())?,
            "MemoryReservation": size(self.memory_reservation.as_ref())?,
            "MemorySwappiness": self.memory_swappiness,
            "OomKillDisable": self.oom_kill_disable,
            "OomScoreAdj": self.oom_score_adj,
            "NanoCpus": self.cpus.map(|cpus| (cpus * 1e9) as i64),
            "CpuShares": self.cpu_shares,
            "CpuPeriod": self.cpu_period,
            "CpuQuota": self.cpu_quota,
            "CpuRealtimePeriod": self.cpu_rt_period,
            "CpuRealtimeRuntime": self.cpu_rt_runtime,
            "CpusetCpus": self.cpuset_cpus,
            "CpusetMems": self.cpuset_mems,
            "PidsLimit": self.pids_limit,
            "BlkioWeight": self.blkio_weight,
            "BlkioWeightDevice": of_devices("blkio-weight-device", &self.blkio_weight_device, "Weight")?,
            "BlkioDeviceReadBps": of_devices("device-read-bps", &self.device_read_bps, "Rate")?,
            "BlkioDeviceWriteBps": of_devices("device-write-bps", &self.device_write_bps, "Rate")?,
            "BlkioDeviceReadIOps": of_devices("device-read-iops", &self.device_read_iops, "Rate")?,
            "BlkioDeviceWriteIOps": of_devices("device-write-iops", &self.device_write_iops, "Rate")?,
            "StorageOpt": pairs(&self.storage_opt),
            "ShmSize": size(self.shm_size.as_ref())?,
            "Ulimits": self.ulimit.iter().map(|text| ulimit(text)).collect::<Result<Vec<_>, _>>()?,
            "Sysctls": pairs(&self.sysctl),
        }))
    }
}
