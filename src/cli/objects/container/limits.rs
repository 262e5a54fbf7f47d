//! The limits of a container, as options of `docker run`.

use super::values::wrong;
use crate::api::types::{HostConfig, ThrottleDevice, UlimitConfig, WeightDevice, signed};
use crate::cli::Failure;
use crate::cli::objects::network::pairs;
use crate::cli::project::build;

#[derive(clap::Args, Debug)]
pub struct LimitArgs {
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
fn of_devices<T>(option: &str, what: &str, list: &[String], make: impl Fn(String, i64) -> Option<T>) -> Result<Vec<T>, Failure> {
    let one = |text: &String| {
        let (path, value) = text.rsplit_once(':').ok_or_else(|| wrong(option, text, what))?;
        let number = crate::units::bytes(value).ok_or_else(|| wrong(option, text, what))?;
        make(path.to_string(), number).ok_or_else(|| wrong(option, text, what))
    };
    list.iter().map(one).collect()
}

fn throttles(option: &str, list: &[String]) -> Result<Vec<ThrottleDevice>, Failure> {
    let make = |path, rate| Some(ThrottleDevice { path, rate: u64::try_from(rate).ok()? });
    of_devices(option, "PATH:NUMBER, such as /dev/sda:1mb", list, make)
}

fn ulimit(text: &str) -> Result<UlimitConfig, Failure> {
    let (name, soft, hard) = build::ulimit(text)?;
    Ok(UlimitConfig { name, soft, hard })
}

impl LimitArgs {
    /// A `HostConfig` with the limits alone.
    pub fn host_config(&self) -> Result<HostConfig, Failure> {
        let bytes = |text: &Option<String>| Ok::<_, Failure>(size(text.as_ref())?.unwrap_or(0));
        let weight = |path, weight| Some(WeightDevice { path, weight: u16::try_from(weight).ok()? });
        Ok(HostConfig {
            memory: bytes(&self.memory)?,
            memory_swap: bytes(&self.memory_swap)?,
            memory_reservation: bytes(&self.memory_reservation)?,
            memory_swappiness: self.memory_swappiness.map(|n| signed(Some(n))),
            oom_kill_disable: Some(self.oom_kill_disable),
            oom_score_adj: self.oom_score_adj.unwrap_or(0),
            nano_cpus: self.cpus.map_or(0, |cpus| (cpus * 1e9) as i64),
            cpu_shares: signed(self.cpu_shares),
            cpu_period: signed(self.cpu_period),
            cpu_quota: self.cpu_quota.unwrap_or(0),
            cpu_realtime_period: signed(self.cpu_rt_period),
            cpu_realtime_runtime: self.cpu_rt_runtime.unwrap_or(0),
            cpuset_cpus: self.cpuset_cpus.clone().unwrap_or_default(),
            cpuset_mems: self.cpuset_mems.clone().unwrap_or_default(),
            pids_limit: self.pids_limit,
            blkio_weight: self.blkio_weight.unwrap_or(0),
            blkio_weight_device: of_devices("blkio-weight-device", "PATH:WEIGHT", &self.blkio_weight_device, weight)?,
            blkio_device_read_bps: throttles("device-read-bps", &self.device_read_bps)?,
            blkio_device_write_bps: throttles("device-write-bps", &self.device_write_bps)?,
            blkio_device_read_iops: throttles("device-read-iops", &self.device_read_iops)?,
            blkio_device_write_iops: throttles("device-write-iops", &self.device_write_iops)?,
            storage_opt: pairs(&self.storage_opt),
            shm_size: bytes(&self.shm_size)?,
            ulimits: self.ulimit.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?,
            sysctls: pairs(&self.sysctl),
            ..HostConfig::default()
        })
    }
}
