//! OCI resource limits as cgroup files, and device rules as v1 lists or a v2 eBPF program.

use super::cgroup::write;
use super::error::{Doing, StepFailed};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};
use std::os::fd::AsFd;
use std::path::Path;

/// Writes the limits of one v1 hierarchy.
pub fn apply_v1(path: &Path, controllers: &[String], resources: &LinuxResources) -> Result<(), StepFailed> {
    let has = |name: &str| controllers.iter().any(|c| c == name);
    let set = |file: &str, value: Option<String>| value.map_or(Ok(()), |value| write(&path.join(file), &value));
    let text = |value: Option<i64>| value.map(|v| v.to_string());
    if has("memory")
        && let Some(memory) = resources.memory()
    {
        set("memory.swappiness", memory.swappiness().map(|v| v.to_string()))?;
        set("memory.oom_control", memory.disable_oom_killer().filter(|disable| *disable).map(|_| "1".to_string()))?;
        set("memory.limit_in_bytes", text(memory.limit()))?;
        set("memory.soft_limit_in_bytes", text(memory.reservation()))?;
        if path.join("memory.memsw.limit_in_bytes").exists() {
            set("memory.memsw.limit_in_bytes", text(memory.swap()))?;
        }
    }
    if has("cpu")
        && let Some(cpu) = resources.cpu()
    {
        set("cpu.shares", cpu.shares().map(|v| v.to_string()))?;
        set("cpu.cfs_period_us", cpu.period().map(|v| v.to_string()))?;
        set("cpu.cfs_quota_us", text(cpu.quota()))?;
        set("cpu.rt_period_us", cpu.realtime_period().map(|v| v.to_string()))?;
        set("cpu.rt_runtime_us", text(cpu.realtime_runtime()))?;
    }
    if has("blkio")
        && let Some(block) = resources.block_io()
    {
        // The files of weights are there where a scheduler of the kernel's has them (BFQ); Docker leaves them out, too.
        let weights = ["blkio.bfq.weight", "blkio.weight"].map(|file| path.join(file)).into_iter().find(|file| file.exists());
        if let (Some(file), Some(weight)) = (weights, block.weight()) {
            write(&file, &weight.to_string())?;
        }
        let of_devices = ["blkio.bfq.weight_device", "blkio.weight_device"].map(|file| path.join(file));
        if let Some(file) = of_devices.into_iter().find(|file| file.exists()) {
            for device in block.weight_device().iter().flatten() {
                let weight = device.weight().unwrap_or_default();
                write(&file, &format!("{}:{} {weight}", device.major(), device.minor()))?;
            }
        }
        for (file, list) in [
            ("blkio.throttle.read_bps_device", block.throttle_read_bps_device()),
            ("blkio.throttle.write_bps_device", block.throttle_write_bps_device()),
            ("blkio.throttle.read_iops_device", block.throttle_read_iops_device()),
            ("blkio.throttle.write_iops_device", block.throttle_write_iops_device()),
        ] {
            for limit in list.iter().flatten() {
                set(file, Some(format!("{}:{} {}", limit.major(), limit.minor(), limit.rate())))?;
            }
        }
    }
    if has("cpuset")
        && let Some(cpu) = resources.cpu()
    {
        set("cpuset.cpus", cpu.cpus().clone())?;
        set("cpuset.mems", cpu.mems().clone())?;
    }
    if has("pids") {
        set("pids.max", resources.pids().as_ref().map(|pids| pids_text(pids.limit())))?;
    }
    if has("devices") {
        for rule in resources.devices().iter().flatten() {
            write(&path.join(if rule.allow() { "devices.allow" } else { "devices.deny" }), &device_text(rule))?;
        }
    }
    Ok(())
}

/// Writes the limits of a v2 group.
pub fn apply_v2(path: &Path, resources: &LinuxResources) -> Result<(), StepFailed> {
    let set = |file: &str, value: Option<String>| value.map_or(Ok(()), |value| write(&path.join(file), &value));
    let amount = |value: i64| if value < 0 { "max".to_string() } else { value.to_string() };
    if let Some(memory) = resources.memory() {
        set("memory.max", memory.limit().map(amount))?;
        set("memory.low", memory.reservation().map(amount))?;
        // OCI's swap is memory and swap together; v2 limits swap alone.
        let swap = memory
            .swap()
            .map(|swap| if swap < 0 { "max".into() } else { (swap - memory.limit().unwrap_or(0)).max(0).to_string() });
        if path.join("memory.swap.max").exists() {
            set("memory.swap.max", swap)?;
        }
    }
    if let Some(cpu) = resources.cpu() {
        // As Docker has it: what is promised to a process in real time is not left out silently.
        if cpu.realtime_runtime().is_some() || cpu.realtime_period().is_some() {
            let why = "control groups v2 have no real-time limits: leave `cpu_rt_runtime` and `cpu_rt_period` out";
            return Err(StepFailed::because("writing cpu.rt_runtime_us", why));
        }
        if cpu.quota().is_some() || cpu.period().is_some() {
            let quota = cpu.quota().map_or_else(|| "max".to_string(), amount);
            set("cpu.max", Some(format!("{quota} {}", cpu.period().unwrap_or(100_000))))?;
        }
        set("cpu.weight", cpu.shares().map(|shares| weight(shares).to_string()))?;
        set("cpuset.cpus", cpu.cpus().clone())?;
        set("cpuset.mems", cpu.mems().clone())?;
    }
    if let Some(block) = resources.block_io() {
        if let Some(weight) = block.weight() {
            if path.join("io.bfq.weight").exists() {
                set("io.bfq.weight", Some(weight.to_string()))?;
            } else if path.join("io.weight").exists() {
                // 10 to 1000 onto 1 to 10000, as runc has it.
                set("io.weight", Some((1 + (u32::from(weight.clamp(10, 1000)) - 10) * 9999 / 990).to_string()))?;
            }
        }
        for (key, list) in [
            ("rbps", block.throttle_read_bps_device()),
            ("wbps", block.throttle_write_bps_device()),
            ("riops", block.throttle_read_iops_device()),
            ("wiops", block.throttle_write_iops_device()),
        ] {
            for limit in list.iter().flatten() {
                set("io.max", Some(format!("{}:{} {key}={}", limit.major(), limit.minor(), limit.rate())))?;
            }
        }
    }
    set("pids.max", resources.pids().as_ref().map(|pids| pids_text(pids.limit())))?;
    let rules = resources.devices().clone().unwrap_or_default();
    if rules.iter().any(|rule| !rule.allow()) {
        let directory = std::fs::File::open(path).doing(format_args!("opening the cgroup {}", path.display()))?;
        crate::sys::attach_device_program(directory.as_fd(), &device_program(&rules)).doing("loading the device rules (eBPF)")?;
    }
    Ok(())
}

/// v1's cpu.shares (2 to 262144, 1024 by default) to v2's cpu.weight (1 to 10000, 100), as runc converts them.
fn weight(shares: u64) -> u64 {
    if shares == 0 { 100 } else { 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142 }
}

fn pids_text(limit: i64) -> String {
    if limit <= 0 { "max".into() } else { limit.to_string() }
}

fn device_text(rule: &LinuxDeviceCgroup) -> String {
    let number = |n: Option<i64>| n.filter(|n| *n >= 0).map_or_else(|| "*".to_string(), |n| n.to_string());
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => "b",
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => "c",
        _ => "a",
    };
    let access = rule.access().clone().unwrap_or_else(|| "rwm".into());
    format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor()))
}

/// An eBPF program of type CGROUP_DEVICE: the last rule that matches decides, and without one the device is refused.
///
/// The context is `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`, where access_type holds the
/// device's type in its low half (1 block, 2 char) and the wanted access in its high half (1 mknod, 2 read, 4 write).
pub fn device_program(rules: &[LinuxDeviceCgroup]) -> Vec<u64> {
    let ins = |code: u8, dst: u8, src: u8, off: i16, imm: i32| {
        u64::from(code) | u64::from(dst) << 8 | u64::from(src) << 12 | u64::from(off as u16) << 16 | u64::from(imm as u32) << 32
    };
    const LOAD_WORD: u8 = 0x61;
    const AND_IMM: u8 = 0x54;
    const RSH_IMM: u8 = 0x74;
    const MOV_IMM: u8 = 0xb7;
    const MOV_REG: u8 = 0xbf;
    const JNE_IMM: u8 = 0x55;
    const JNE_REG: u8 = 0x5d;
    const EXIT: u8 = 0x95;
    let mut program = vec![
        ins(LOAD_WORD, 2, 1, 0, 0),
        ins(AND_IMM, 2, 0, 0, 0xffff),
        ins(LOAD_WORD, 3, 1, 0, 0),
        ins(RSH_IMM, 3, 0, 0, 16),
        ins(LOAD_WORD, 4, 1, 4, 0),
        ins(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let access = rule.access().as_deref().unwrap_or("rwm");
        let mask = access.chars().fold(0, |mask, c| {
            mask | match c {
                'm' => 1,
                'r' => 2,
                'w' => 4,
                _ => 0,
            }
        });
        let kind = match rule.typ() {
            Some(LinuxDeviceType::B) => Some(1),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(2),
            _ => None,
        };
        let mut tests: Vec<Vec<(u8, u8, u8, i32)>> = Vec::new();
        if let Some(kind) = kind {
            tests.push(vec![(JNE_IMM, 2, 0, kind)]);
        }
        if mask != 7 {
            tests.push(vec![(MOV_REG, 6, 3, 0), (AND_IMM, 6, 0, mask), (JNE_REG, 6, 3, 0)]);
        }
        for (register, number) in [(4, rule.major()), (5, rule.minor())] {
            if let Some(number) = number.filter(|n| *n >= 0) {
                tests.push(vec![(JNE_IMM, register, 0, number as i32)]);
            }
        }
        let flat: Vec<_> = tests.concat();
        let verdict = 2;
        for (i, (code, dst, src, imm)) in flat.iter().enumerate() {
            let jumps = matches!(*code, JNE_IMM | JNE_REG);
            let past = (flat.len() - i - 1 + verdict) as i16;
            program.push(ins(*code, *dst, *src, if jumps { past } else { 0 }, *imm));
        }
        program.push(ins(MOV_IMM, 0, 0, 0, i32::from(rule.allow())));
        program.push(ins(EXIT, 0, 0, 0, 0));
        if flat.is_empty() {
            // It matches every device. The kernel refuses a program with instructions that cannot be reached.
            return program;
        }
    }
    program.extend([ins(MOV_IMM, 0, 0, 0, 0), ins(EXIT, 0, 0, 0, 0)]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does.
    fn allows(program: &[u64], access: u64, kind: u64, major: u64, minor: u64) -> bool {
        let mut r = [0u64; 11];
        let mut pc = 0;
        loop {
            let i = program[pc];
            let (code, dst, src) = (i as u8, (i >> 8 & 15) as usize, (i >> 12 & 15) as usize);
            let (off, imm) = ((i >> 16) as u16 as i16, i >> 32);
            pc += 1;
            let taken = match code {
                0x61 => {
                    r[dst] = [access << 16 | kind, major, minor][off as usize / 4];
                    false
                }
                0x54 => {
                    r[dst] &= imm;
                    false
                }
                0x74 => {
                    r[dst] >>= imm;
                    false
                }
                0xb7 => {
                    r[dst] = imm;
                    false
                }
                0xbf => {
                    r[dst] = r[src];
                    false
                }
                0x55 => r[dst] != imm,
                0x5d => r[dst] != r[src],
                0x95 => return r[0] != 0,
                other => panic!("unknown instruction {other:#x}"),
            };
            if taken {
                pc += off as usize;
            }
        }
    }

    #[test]
    fn device_programs_decide_by_the_last_rule_that_matches() {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(serde_json::json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "access": "m"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            {"allow": true, "type": "c", "major": 136, "access": "rwm"},
        ]))
        .expect("rules");
        let program = device_program(&rules);
        let (mknod, read, write, block, char) = (1, 2, 4, 1, 2);
        assert!(allows(&program, read | write, char, 1, 3), "/dev/null");
        assert!(allows(&program, read | write, char, 136, 7), "a terminal");
        assert!(allows(&program, mknod, char, 9, 9) && !allows(&program, mknod, block, 8, 0));
        assert!(!allows(&program, read, block, 8, 0) && !allows(&program, read, char, 9, 9));
        let all: Vec<LinuxDeviceCgroup> =
            serde_json::from_value(serde_json::json!([{"allow": true, "access": "rwm"}])).expect("rules");
        assert!(allows(&device_program(&all), read, block, 8, 0));
        assert_eq!(device_program(&all).len(), 8, "nothing stands after a rule that matches everything");
    }

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(2, 1), (1024, 39), (262_144, 10_000), (0, 100)] {
            assert_eq!(weight(shares), expected);
        }
    }
}
