//! Limits of a container: control groups and rlimits.

use super::devices;
use crate::engine::record::ResourceSpec;
use crate::units::ByteSize;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPidsBuilder, LinuxResources, PosixRlimit, PosixRlimitBuilder};

/// Microseconds of a period of `cpus`.
const PERIOD: u64 = 100_000;

/// Limits of a control group, without its device rules.
///
/// # Errors
/// `blkio_config` names what is no block device.
pub fn resources(spec: &ResourceSpec) -> Result<LinuxResources, String> {
    let mut resources = LinuxResources::default();
    resources.set_devices(None).set_memory(memory(spec)).set_cpu(cpu(spec)).set_block_io(devices::block_io(&spec.blkio)?);
    let pids = spec.pids.map(|limit| LinuxPidsBuilder::default().limit(limit).build()).transpose();
    resources.set_pids(pids.map_err(|e| e.to_string())?);
    Ok(resources)
}

fn memory(spec: &ResourceSpec) -> Option<LinuxMemory> {
    let mut memory = LinuxMemory::default();
    let bytes = |size: Option<ByteSize>| size.map(|size| size.0);
    memory.set_limit(bytes(spec.memory)).set_reservation(bytes(spec.memory_reservation));
    // As Docker has it: as much swap as memory, unless the user gives a limit.
    memory.set_swap(bytes(spec.memory_swap).or(bytes(spec.memory).map(|bytes| bytes.saturating_mul(2))));
    memory.set_swappiness(spec.memory_swappiness).set_disable_oom_killer(spec.oom_kill_disable.then_some(true));
    (memory != LinuxMemory::default()).then_some(memory)
}

fn cpu(spec: &ResourceSpec) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(spec.cpu_shares);
    cpu.set_quota(spec.cpus.map(|cpus| (cpus * PERIOD as f64) as i64).or(spec.cpu_quota));
    cpu.set_period(spec.cpus.map(|_| PERIOD).or(spec.cpu_period));
    cpu.set_cpus(spec.cpuset.clone()).set_mems(spec.cpuset_mems.clone());
    cpu.set_realtime_period(spec.cpu_rt_period).set_realtime_runtime(spec.cpu_rt_runtime);
    (cpu != LinuxCpu::default()).then_some(cpu)
}

/// The limits of a container's processes. `nofile` is the engine's own limit of open files from before it raised it: soft, hard.
///
/// # Errors
/// A name that setrlimit(2) does not have.
pub fn rlimits(ulimits: &[(String, i64, i64)], nofile: (u64, u64)) -> Result<Vec<PosixRlimit>, String> {
    let number = |n: i64| if n < 0 { u64::MAX } else { n as u64 };
    let given = ulimits.iter().map(|(name, soft, hard)| (name.as_str(), number(*soft), number(*hard)));
    let mut limits: Vec<PosixRlimit> = Vec::new();
    for (name, soft, hard) in std::iter::once(("nofile", nofile.0, nofile.1)).chain(given) {
        let kind = format!("RLIMIT_{}", name.to_ascii_uppercase()).parse();
        let kind = kind.map_err(|_| format!("`{name}` is not a limit; setrlimit(2) lists them (nofile, nproc, memlock, ...)"))?;
        limits.retain(|known| known.typ() != kind);
        let limit = PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build();
        limits.push(limit.map_err(|e| e.to_string())?);
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::PosixRlimitType;

    #[test]
    fn swap_is_as_much_as_memory() {
        let swap = |memory: Option<i64>, swap: Option<i64>| {
            let (memory, memory_swap) = (memory.map(ByteSize), swap.map(ByteSize));
            let spec = ResourceSpec { memory, memory_swap, ..ResourceSpec::default() };
            resources(&spec).expect("limits").memory().and_then(|memory| memory.swap())
        };
        assert_eq!(swap(None, None), None);
        assert_eq!(swap(Some(1 << 20), None), Some(2 << 20));
        assert_eq!(swap(Some(1 << 20), Some(-1)), Some(-1));
    }

    #[test]
    fn cpus_are_a_quota() {
        let spec = ResourceSpec { cpus: Some(1.5), cpu_quota: Some(7), pids: Some(10), ..ResourceSpec::default() };
        let limits = resources(&spec).expect("limits");
        let cpu = limits.cpu().clone().expect("cpu");
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
        assert_eq!(limits.pids().map(|pids| pids.limit()), Some(10));
        assert_eq!(resources(&ResourceSpec::default()).expect("none").cpu(), &None);
    }

    #[test]
    fn rlimits_replace_the_engines() {
        let of = |list: &[(&str, i64, i64)]| {
            let list: Vec<_> = list.iter().map(|(name, soft, hard)| (name.to_string(), *soft, *hard)).collect();
            rlimits(&list, (1024, 4096))
        };
        assert_eq!(of(&[]).expect("none")[0].hard(), 4096);
        let both = of(&[("nofile", 5, 6), ("nproc", -1, -1)]).expect("limits");
        assert_eq!((both.len(), both[0].soft(), both[1].typ()), (2, 5, PosixRlimitType::RlimitNproc));
        assert_eq!(both[1].hard(), u64::MAX);
        assert!(of(&[("files", 1, 1)]).is_err());
    }
}
