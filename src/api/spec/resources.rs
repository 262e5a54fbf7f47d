//! Limits of a container.

use super::{invalid, text};
use crate::api::types::{DeviceMapping, HostConfig, ThrottleDevice};
use crate::engine::EngineError;
use crate::engine::containers::verify;
use crate::engine::launch::devices as engine_devices;
use crate::engine::record::{BlkioSpec, DeviceSpec, ResourceSpec};
use crate::units::ByteSize;

pub(super) fn of(host: &HostConfig) -> Result<ResourceSpec, EngineError> {
    let mut resources = ResourceSpec::default();
    change(&mut resources, host)?;
    Ok(resources)
}

/// Changes the limits that are not 0.
///
/// # Errors
/// Values that Docker refuses.
pub fn update(resources: &mut ResourceSpec, host: &HostConfig) -> Result<(), EngineError> {
    verify::verify_resources(&of(host)?).map_err(invalid)?;
    change(resources, host)
}

fn change(resources: &mut ResourceSpec, host: &HostConfig) -> Result<(), EngineError> {
    fn set<T: Default + PartialEq>(to: &mut Option<T>, value: T) {
        if value != T::default() {
            *to = Some(value);
        }
    }
    let unsigned = |name: &str, n: i64| verify::unsigned(name, n).map(Option::unwrap_or_default).map_err(invalid);
    set(&mut resources.memory, ByteSize(host.memory));
    set(&mut resources.memory_reservation, ByteSize(host.memory_reservation));
    set(&mut resources.memory_swap, ByteSize(host.memory_swap));
    set(&mut resources.cpus, host.nano_cpus as f64 / 1e9);
    set(&mut resources.cpu_shares, unsigned("cpu_shares", host.cpu_shares)?);
    set(&mut resources.cpu_quota, host.cpu_quota);
    set(&mut resources.cpu_period, unsigned("cpu_period", host.cpu_period)?);
    set(&mut resources.cpu_rt_period, unsigned("cpu_rt_period", host.cpu_realtime_period)?);
    set(&mut resources.cpu_rt_runtime, host.cpu_realtime_runtime);
    set(&mut resources.cpuset, host.cpuset_cpus.clone());
    set(&mut resources.cpuset_mems, host.cpuset_mems.clone());
    // 0 and -1 are no limit, which an update may ask for.
    match host.pids_limit {
        Some(limit) if limit <= 0 => resources.pids = None,
        Some(limit) => resources.pids = Some(limit),
        None => {}
    }
    let swappiness = host.memory_swappiness.map(verify::swappiness).transpose().map_err(invalid)?.flatten();
    resources.memory_swappiness = swappiness.or(resources.memory_swappiness);
    resources.oom_kill_disable = host.oom_kill_disable.unwrap_or(resources.oom_kill_disable);
    let throttles = |to: &mut Vec<(String, u64)>, list: &[ThrottleDevice]| {
        if !list.is_empty() {
            *to = list.iter().map(|one| (one.path.clone(), one.rate)).collect();
        }
    };
    let BlkioSpec { weight, weight_device, read_bps, write_bps, read_iops, write_iops } = &mut resources.blkio;
    set(weight, host.blkio_weight);
    if !host.blkio_weight_device.is_empty() {
        *weight_device = host.blkio_weight_device.iter().map(|one| (one.path.clone(), one.weight)).collect();
    }
    throttles(read_bps, &host.blkio_device_read_bps);
    throttles(write_bps, &host.blkio_device_write_bps);
    throttles(read_iops, &host.blkio_device_read_iops);
    throttles(write_iops, &host.blkio_device_write_iops);
    Ok(())
}

pub(super) fn shm_size(host: &HostConfig) -> Result<Option<u64>, EngineError> {
    let size = u64::try_from(host.shm_size).map_err(|_| invalid("SHM size can not be less than 0"))?;
    Ok(Some(size).filter(|size| *size > 0))
}

pub(super) fn devices(host: &HostConfig) -> Result<Vec<DeviceSpec>, EngineError> {
    let mut list: Vec<DeviceSpec> = host.devices.iter().map(device).collect();
    for request in &host.device_requests {
        let capabilities: Vec<String> = request.capabilities.iter().flatten().cloned().collect();
        let count = Some(request.count).filter(|_| request.device_ids.is_empty());
        let names = engine_devices::requested(&request.driver, &capabilities, &request.device_ids, count);
        list.extend(names.map_err(|why| invalid(format!("the container {why}")))?);
    }
    Ok(list)
}

fn device(mapping: &DeviceMapping) -> DeviceSpec {
    let source = mapping.path_on_host.clone();
    DeviceSpec {
        target: text(&mapping.path_in_container).unwrap_or_else(|| source.clone()),
        permissions: text(&mapping.cgroup_permissions).unwrap_or_else(|| "rwm".into()),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{refused, spec_of};
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn limits_are_read() {
        let spec = spec_of(json!({"HostConfig": {
            "Memory": 67_108_864, "MemorySwap": -1, "NanoCpus": 500_000_000, "PidsLimit": -1, "CpusetCpus": "0",
            "BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1024}], "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
            "MemorySwappiness": -1, "ShmSize": 0,
        }}))
        .expect("a body");
        let resources = spec.resources;
        assert_eq!(
            (resources.memory, resources.memory_swap, resources.cpus),
            (Some(ByteSize(64 << 20)), Some(ByteSize(-1)), Some(0.5))
        );
        assert_eq!((resources.pids, resources.cpuset.as_deref(), resources.memory_swappiness), (None, Some("0"), None));
        assert_eq!(resources.blkio.read_bps, [("/dev/sda".to_string(), 1024)]);
        assert_eq!((spec.ulimits, spec.shm_size), (vec![("nofile".to_string(), 1, 2)], None));
    }

    #[test]
    fn an_update_changes_what_it_names() {
        let mut resources =
            ResourceSpec { memory: Some(ByteSize(64 << 20)), pids: Some(5), cpu_shares: Some(7), ..ResourceSpec::default() };
        let host = HostConfig { pids_limit: Some(0), cpu_shares: 9, memory_swap: 128 << 20, ..HostConfig::default() };
        update(&mut resources, &host).expect("an update");
        assert_eq!((resources.memory, resources.pids, resources.cpu_shares), (Some(ByteSize(64 << 20)), None, Some(9)));
        assert_eq!(resources.memory_swap, Some(ByteSize(128 << 20)));
    }

    #[test]
    fn wrong_limits_are_refused() {
        let host = |host: Value| json!({"HostConfig": host});
        refused(vec![
            (host(json!({"Memory": 1024})), "Minimum memory limit allowed is 6MB"),
            (host(json!({"Memory": -1})), "Minimum memory limit allowed is 6MB"),
            (host(json!({"Memory": 67_108_864, "MemorySwap": 33_554_432})), "larger than memory limit"),
            (host(json!({"MemorySwap": 33_554_432})), "always set the Memory limit"),
            (host(json!({"Memory": 33_554_432, "MemoryReservation": 67_108_864})), "less than memory reservation"),
            (host(json!({"MemorySwappiness": 101})), "valid memory swappiness range is 0-100"),
            (host(json!({"NanoCpus": 1_000_000_000_000_000_i64})), "range of CPUs is from 0.01"),
            (host(json!({"NanoCpus": 500_000_000, "CpuQuota": 5000})), "Nano CPUs and CPU Quota"),
            (host(json!({"CpuShares": -1})), "invalid CPU shares"),
            (host(json!({"CpuPeriod": 5})), "CPU cfs period"),
            (host(json!({"CpuQuota": 5})), "CPU cfs quota"),
            (host(json!({"BlkioWeight": 5})), "Range of blkio weight"),
            (host(json!({"OomScoreAdj": 1001})), "range for oom score adj"),
            (host(json!({"ShmSize": -1})), "SHM size can not be less than 0"),
        ]);
    }
}
