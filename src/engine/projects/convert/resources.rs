//! Resource limits of a service, `deploy.resources` and the older attributes.

use crate::compose::model::{Service, Throttle, Ulimit};
use crate::engine::containers::verify;
use crate::engine::record::{BlkioSpec, ResourceSpec};
use crate::units::ByteSize;

/// Limits of a service's processes: a name, the soft and the hard limit.
pub(super) fn ulimits(service: &Service) -> Vec<(String, i64, i64)> {
    let of = |(limit, value): (&String, &Ulimit)| match value {
        Ulimit::Both(n) => (limit.clone(), *n, *n),
        Ulimit::Pair { soft, hard } => (limit.clone(), *soft, *hard),
    };
    service.ulimits.iter().map(of).collect()
}

pub(super) fn resources(service: &Service) -> Result<ResourceSpec, String> {
    let limits = service.deploy.as_ref().and_then(|d| d.resources.limits.clone()).unwrap_or_default();
    let reserved = service.deploy.as_ref().and_then(|d| d.resources.reservations.as_ref()).and_then(|r| r.memory);
    let bytes = |size: Option<ByteSize>| size.filter(|size| size.0 != 0);
    let throttles =
        |list: &[Throttle]| list.iter().filter_map(|t| Some((t.path.clone(), t.rate?.unsigned()?))).collect::<Vec<_>>();
    let blkio = service.blkio_config.as_ref().map(|config| BlkioSpec {
        weight: config.weight,
        weight_device: config.weight_device.iter().map(|d| (d.path.clone(), d.weight)).collect(),
        read_bps: throttles(&config.device_read_bps),
        write_bps: throttles(&config.device_write_bps),
        read_iops: throttles(&config.device_read_iops),
        write_iops: throttles(&config.device_write_iops),
    });
    let unsigned =
        |name: &str, value: Option<i64>| Ok::<_, String>(value.map(|n| verify::unsigned(name, n)).transpose()?.flatten());
    let swappiness = service.mem_swappiness.map(|percent| percent.0);
    Ok(ResourceSpec {
        memory: bytes(service.mem_limit).or(bytes(limits.memory)),
        memory_reservation: bytes(service.mem_reservation).or(bytes(reserved)),
        memory_swap: bytes(service.memswap_limit),
        cpus: service.cpus.or(limits.cpus).filter(|c| *c != 0.0),
        cpu_shares: unsigned("cpu_shares", service.cpu_shares)?,
        cpu_quota: service.cpu_quota,
        cpu_period: unsigned("cpu_period", service.cpu_period)?,
        cpuset: service.cpuset.clone().filter(|c| !c.is_empty()),
        cpuset_mems: None,
        pids: service.pids_limit.or(limits.pids).filter(|p| *p != 0),
        cpu_rt_period: unsigned("cpu_rt_period", service.cpu_rt_period)?,
        cpu_rt_runtime: service.cpu_rt_runtime,
        memory_swappiness: swappiness.map(verify::swappiness).transpose()?.flatten(),
        oom_kill_disable: service.oom_kill_disable,
        blkio: blkio.unwrap_or_default(),
    })
}
