//! Limits that Docker's engine refuses, in its words.

use super::SpecRule;
use crate::engine::record::ResourceSpec;
use crate::units::ByteSize;
use std::path::Path;

/// Bytes: Docker's smallest limit.
const LEAST_MEMORY: i64 = 6 << 20;
const RESOURCE_RULES: [SpecRule<ResourceSpec>; 4] = [memory, cpu, real_time, block_io];

/// Refuses limits, of a container or of a change of some.
///
/// # Errors
/// Docker's words.
pub fn verify_resources(resources: &ResourceSpec) -> Result<(), String> {
    RESOURCE_RULES.iter().find_map(|rule| rule(resources)).map_or(Ok(()), Err)
}

/// A number that is 0 or more where it is kept; 0 is not set.
///
/// # Errors
/// Docker's words.
pub fn unsigned(name: &str, value: i64) -> Result<Option<u64>, String> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) if name == "cpu_period" => Err(PERIOD.into()),
        Err(_) if name == "cpu_shares" => Err(format!("invalid CPU shares ({value}): value must be a positive integer")),
        Err(_) => Err(format!("invalid {name} ({value}): value must be a positive integer")),
    }
}

const PERIOD: &str = "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)";

/// # Errors
/// Docker's words.
pub fn swappiness(value: i64) -> Result<Option<u64>, String> {
    match value {
        -1 => Ok(None),
        0..=100 => Ok(Some(value as u64)),
        _ => Err(format!("Invalid value: {value}, valid memory swappiness range is 0-100")),
    }
}

fn memory(limits: &ResourceSpec) -> Option<String> {
    let value = |limit: Option<ByteSize>| limit.unwrap_or_default().0;
    let (memory, swap, reservation) = (value(limits.memory), value(limits.memory_swap), value(limits.memory_reservation));
    let words = match () {
        () if memory != 0 && memory < LEAST_MEMORY => "Minimum memory limit allowed is 6MB",
        () if memory > 0 && swap > 0 && swap < memory => "Minimum memoryswap limit should be larger than memory limit, see usage",
        () if reservation != 0 && reservation < LEAST_MEMORY => "Minimum memory reservation allowed is 6MB",
        () if memory > 0 && reservation > 0 && memory < reservation => {
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        }
        () => return None,
    };
    Some(words.into())
}

fn cpu(limits: &ResourceSpec) -> Option<String> {
    // It reads files: only where it is needed.
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let (cpus, period, quota) = (limits.cpus.unwrap_or(0.0), limits.cpu_period.unwrap_or(0), limits.cpu_quota.unwrap_or(0));
    Some(match () {
        () if cpus > 0.0 && period > 0 => "Conflicting options: Nano CPUs and CPU Period cannot both be set".into(),
        () if cpus > 0.0 && quota > 0 => "Conflicting options: Nano CPUs and CPU Quota cannot both be set".into(),
        () if cpus != 0.0 && !(0.0..=processors() as f64).contains(&cpus) => {
            let processors = processors();
            format!("range of CPUs is from 0.01 to {processors}.00, as there are only {processors} CPUs available")
        }
        () if period != 0 && !(1000..=1_000_000).contains(&period) => PERIOD.into(),
        () if quota > 0 && quota < 1000 => "CPU cfs quota can not be less than 1ms (i.e. 1000)".into(),
        () => return sets(limits),
    })
}

/// Processors and memory nodes: what is no list, and what this host does not have.
fn sets(limits: &ResourceSpec) -> Option<String> {
    let (cpus, mems) = ("/sys/devices/system/cpu/online", "/sys/devices/system/node/online");
    let named = [("cpus", "Requested CPUs", cpus, &limits.cpuset), ("mems", "Requested memory nodes", mems, &limits.cpuset_mems)];
    named.into_iter().find_map(|(kind, what, file, list)| {
        let list = list.as_deref()?;
        let Some(asked) = numbers(list) else { return Some(format!("Invalid value {list} for cpuset {kind}")) };
        let online = std::fs::read_to_string(file).ok()?;
        let known = numbers(online.trim())?;
        let has = |(first, last): &(u32, u32)| known.iter().any(|(from, to)| from <= first && last <= to);
        (!asked.iter().all(has)).then(|| format!("{what} are not available - requested {list}, available: {}", online.trim()))
    })
}

/// A list of the kernel's: `0-3,7`.
fn numbers(list: &str) -> Option<Vec<(u32, u32)>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last).then_some((first, last))
    };
    list.split(',').map(range).collect()
}

fn real_time(limits: &ResourceSpec) -> Option<String> {
    let (period, runtime) = (limits.cpu_rt_period, limits.cpu_rt_runtime);
    if period.zip(runtime).is_some_and(|(period, runtime)| runtime > i64::try_from(period).unwrap_or(i64::MAX)) {
        return Some("cpu real-time runtime cannot be higher than cpu real-time period".into());
    }
    let is_v2 = (period.is_some() || runtime.is_some()) && Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    is_v2.then(|| {
        "kernel does not support CPU real-time scheduler: control groups v2 have no real-time limits: leave `cpu_rt_runtime` and `cpu_rt_period` out".into()
    })
}

fn block_io(limits: &ResourceSpec) -> Option<String> {
    let of_devices = limits.blkio.weight_device.iter().map(|(_, weight)| *weight);
    let wrong =
        limits.blkio.weight.into_iter().filter(|weight| *weight != 0).chain(of_devices).find(|n| !(10..=1000).contains(n))?;
    Some(format!("Range of blkio weight is from 10 to 1000: it is {wrong}"))
}
