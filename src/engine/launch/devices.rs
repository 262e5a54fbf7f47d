//! Devices of the host that a container may have: nodes, rules of the devices controller, limits.

use super::cdi;
use crate::engine::record::{BlkioSpec, ContainerSpec, DeviceSpec};
use crate::runtime::spec::device_rule;
use nix::sys::stat::{SFlag, major, minor};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxThrottleDevice, LinuxThrottleDeviceBuilder,
    LinuxWeightDeviceBuilder,
};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Entries of the host's /dev that are no devices: the container has its own.
const NOT_SHOWN: [&str; 8] = ["pts", "shm", "fd", "mqueue", "console", "ptmx", "log", ".udev"];

/// Refuses permissions and rules that mean nothing, whether or not the devices are there.
///
/// # Errors
/// A sentence with what is not understood.
pub fn check(spec: &ContainerSpec) -> Result<(), String> {
    spec.devices.iter().try_for_each(check_permissions)?;
    rules(&spec.device_cgroup_rules).map(drop)
}

fn check_permissions(device: &DeviceSpec) -> Result<(), String> {
    match device.permissions.chars().find(|c| !matches!(c, 'r' | 'w' | 'm')) {
        Some(wrong) => Err(format!("the device {} has the permission `{wrong}`; they are `r`, `w` and `m`", device.source)),
        None => Ok(()),
    }
}

/// A device node to make, and the access to it: of `r`, `w` and `m`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    pub node: LinuxDevice,
    pub access: String,
}

impl DeviceNode {
    /// The rule that allows the access.
    pub fn rule(&self) -> LinuxDeviceCgroup {
        device_rule(self.node.typ(), Some(self.node.major()), Some(self.node.minor()), &self.access)
    }
}

/// The devices that a container asks for; all of the host's where it is privileged.
///
/// # Errors
/// A sentence: which path is no device.
pub fn of(spec: &ContainerSpec) -> Result<Vec<DeviceNode>, String> {
    let mut devices = Vec::new();
    if spec.privileged {
        collect(Path::new("/dev"), "/dev", "rwm", &mut devices).map_err(|e| format!("listing the host's devices: {e}"))?;
    }
    for wanted in spec.devices.iter().filter(|wanted| !cdi::is_name(&wanted.source)) {
        check_permissions(wanted)?;
        let path = Path::new(&wanted.source);
        if path.is_dir() {
            collect(path, &wanted.target, &wanted.permissions, &mut devices)
                .map_err(|e| format!("listing the devices in {}: {e}", wanted.source))?;
            continue;
        }
        let device = at(path, &wanted.target, &wanted.permissions)?;
        devices.retain(|known: &DeviceNode| known.node.path() != device.node.path());
        devices.push(device);
    }
    Ok(devices)
}

/// The device at a path, as it is to be in a container.
///
/// # Errors
/// A sentence: there is none.
pub fn at(path: &Path, target: &str, access: &str) -> Result<DeviceNode, String> {
    let metadata = fs::metadata(path).map_err(|e| format!("the device {}: {e}", path.display()))?;
    device(&metadata, target, access)
        .ok_or_else(|| format!("{} is not a device; a file or directory is mounted under `volumes`", path.display()))
}

fn device(metadata: &fs::Metadata, target: &str, access: &str) -> Option<DeviceNode> {
    let kind = metadata.file_type();
    let kind = match () {
        () if kind.is_char_device() => LinuxDeviceType::C,
        () if kind.is_block_device() => LinuxDeviceType::B,
        () => return None,
    };
    let number = metadata.rdev();
    let mut node = LinuxDevice::default();
    node.set_path(target.into()).set_typ(kind).set_major(major(number) as i64).set_minor(minor(number) as i64);
    node.set_file_mode(Some(metadata.mode() & !SFlag::S_IFMT.bits()));
    node.set_uid(Some(metadata.uid())).set_gid(Some(metadata.gid()));
    Some(DeviceNode { node, access: access.to_string() })
}

fn collect(directory: &Path, target: &str, access: &str, into: &mut Vec<DeviceNode>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if directory == Path::new("/dev") && NOT_SHOWN.contains(&name.as_str()) {
            continue;
        }
        // Links are to devices that are listed themselves.
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
        let place = format!("{}/{name}", target.trim_end_matches('/'));
        if metadata.is_dir() {
            collect(&entry.path(), &place, access, into)?;
        } else if let Some(device) = device(&metadata, &place, access) {
            into.push(device);
        }
    }
    Ok(())
}

/// Reads `TYPE MAJOR:MINOR ACCESS`.
///
/// # Errors
/// A sentence with the rule that is not understood.
pub fn rules(texts: &[String]) -> Result<Vec<LinuxDeviceCgroup>, String> {
    let rule = |text: &String| {
        let wrong = || format!("the device rule `{text}` is not understood: write `c 1:3 rwm`, with `*` for any number");
        let words: Vec<&str> = text.split_whitespace().collect();
        let [kind, numbers, access] = words[..] else { return Err(wrong()) };
        let kind = match kind {
            "a" => LinuxDeviceType::A,
            "b" => LinuxDeviceType::B,
            "c" => LinuxDeviceType::C,
            _ => return Err(wrong()),
        };
        let number = |text: &str| match text {
            "*" => Ok(None),
            text => text.parse::<u32>().map(|n| Some(i64::from(n))).map_err(|_| wrong()),
        };
        let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
        if access.is_empty() || !access.chars().all(|c| matches!(c, 'r' | 'w' | 'm')) {
            return Err(wrong());
        }
        Ok(device_rule(kind, number(major)?, number(minor)?, access))
    };
    texts.iter().map(rule).collect()
}

/// Limits of block devices; `None` where there are none.
///
/// # Errors
/// A sentence: which path is no block device.
pub fn block_io(spec: &BlkioSpec) -> Result<Option<LinuxBlockIo>, String> {
    if *spec == BlkioSpec::default() {
        return Ok(None);
    }
    let numbers = |path: &str| -> Result<(i64, i64), String> {
        let metadata = fs::metadata(path).map_err(|e| format!("`blkio_config` names the device {path}: {e}"))?;
        let device = device(&metadata, path, "").filter(|device| device.node.typ() == LinuxDeviceType::B);
        let device = device.ok_or_else(|| format!("`blkio_config` names {path}, which is not a block device"))?;
        Ok((device.node.major(), device.node.minor()))
    };
    let throttles = |list: &[(String, u64)]| -> Result<Option<Vec<LinuxThrottleDevice>>, String> {
        let one = |(path, rate): &(String, u64)| {
            let (major, minor) = numbers(path)?;
            let device = LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(*rate);
            device.build().map_err(|e| e.to_string())
        };
        list.iter().map(one).collect::<Result<_, _>>().map(Some)
    };
    let weights = spec.weight_device.iter().map(|(path, weight)| {
        let (major, minor) = numbers(path)?;
        let device = LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(*weight);
        device.build().map_err(|e| e.to_string())
    });
    let mut limits = LinuxBlockIo::default();
    limits.set_weight(spec.weight).set_weight_device(Some(weights.collect::<Result<Vec<_>, _>>()?));
    limits.set_throttle_read_bps_device(throttles(&spec.read_bps)?);
    limits.set_throttle_write_bps_device(throttles(&spec.write_bps)?);
    limits.set_throttle_read_iops_device(throttles(&spec.read_iops)?);
    limits.set_throttle_write_iops_device(throttles(&spec.write_iops)?);
    Ok(Some(limits))
}

/// Devices that are asked for by what they can do, as CDI's names: those of the driver `cdi` themselves, GPUs as the vendor's
/// specification on this host calls them.
///
/// # Errors
/// The missing devices of a request, as the rest of a sentence.
pub fn requested(driver: &str, capabilities: &[String], ids: &[String], count: Option<i64>) -> Result<Vec<DeviceSpec>, String> {
    const GPUS: &str = "nvidia.com/gpu";
    let is_gpu = capabilities.iter().any(|capability| capability == "gpu");
    let names = match driver {
        "cdi" => ids.to_vec(),
        "" | "nvidia" if is_gpu && super::cdi::knows(GPUS) => match count {
            _ if !ids.is_empty() => ids.iter().map(|id| format!("{GPUS}={id}")).collect(),
            Some(count) if count >= 0 => (0..count).map(|n| format!("{GPUS}={n}")).collect(),
            _ => vec![format!("{GPUS}=all")],
        },
        _ => {
            let driver = if driver.is_empty() { "any driver" } else { driver };
            return Err(format!(
                "asks for devices with the capabilities [{}] of {driver}, and this host has no CDI specification of them (in /etc/cdi or /var/run/cdi); name the devices themselves under `devices`",
                capabilities.join(", ")
            ));
        }
    };
    let device = |source: String| DeviceSpec { target: source.clone(), permissions: "rwm".into(), source };
    Ok(names.into_iter().map(device).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_or_refused() {
        let text = |t: &str| rules(&[t.to_string()]);
        let rule = device_rule(LinuxDeviceType::C, Some(1), None, "rw");
        assert_eq!(text("c 1:* rw"), Ok(vec![rule]));
        for bad in ["", "c 1:3", "x 1:3 rwm", "c 1-3 rwm", "c 1:3 x", "c -1:3 r"] {
            assert!(text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_is_no_device() {
        let device = |source: &str| crate::engine::record::DeviceSpec {
            source: source.into(),
            target: "/dev/x".into(),
            permissions: "rwm".into(),
        };
        let spec = |source: &str| ContainerSpec { devices: vec![device(source)], ..ContainerSpec::default() };
        assert_eq!(of(&spec("/dev/null")).expect("a device")[0].node.minor(), 3);
        assert!(of(&spec("/etc/passwd")).expect_err("a file").contains("not a device"));
        assert!(of(&spec("vendor/x")).expect_err("neither a path nor a vendor's name").contains("the device vendor/x"));
        assert!(of(&spec("vendor.com/class=x")).expect("a vendor's name is not looked up here").is_empty());
    }
}
