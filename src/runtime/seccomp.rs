//! Docker's default seccomp profile, compiled to a classic BPF program for seccomp(2).
//!
//! The program checks the architecture first: x86-64 and i386 each have a section of their own, x32 is answered with
//! ENOSYS (Docker allows it; no distribution enables it), anything else is killed. System calls newer than the tables
//! get ENOSYS, so that a C library falls back, as runc does.

use super::capabilities::Capabilities;
use super::seccomp_profile::{ALWAYS, WITH_CAPABILITY};
use crate::sys::BpfInstruction;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
pub(super) const AUDIT_ARCH_I386: u32 = 0x4000_0003;
pub(super) const X32_BIT: u32 = 0x4000_0000;

pub(super) const RET_KILL: u32 = 0x8000_0000;
pub(super) const RET_ALLOW: u32 = 0x7fff_0000;
pub(super) const RET_ERRNO: u32 = 0x0005_0000;
const DENY: u32 = RET_ERRNO | libc::EPERM as u32;
pub(super) const UNKNOWN: u32 = RET_ERRNO | libc::ENOSYS as u32;

/// CLONE_NEW* without CLONE_NEWTIME, which clone(2) cannot carry: what a process without CAP_SYS_ADMIN may not ask of it.
const CLONE_NAMESPACES: u32 = 0x7E02_0000;

/// When a system call with arguments is allowed.
#[derive(Clone, Copy)]
enum When {
    Equal(u32),
    Below(u32),
    Above(u32),
    MaskIsZero(u32),
}

/// A table from names to one architecture's numbers.
type Numbers = fn(&str) -> Option<u32>;

/// Compiles the profile for a container with these capabilities.
pub fn compile(capabilities: Capabilities) -> Vec<BpfInstruction> {
    let native = section(|name| name.parse::<syscalls::x86_64::Sysno>().ok().map(|s| s.id() as u32), capabilities);
    let compat = section(|name| name.parse::<syscalls::x86::Sysno>().ok().map(|s| s.id() as u32), capabilities);
    let mut program = vec![load(4)];
    // i386 stands after the native section, further away than a conditional jump reaches.
    program.extend([jump(JEQ, AUDIT_ARCH_X86_64, 3, 0), jump(JEQ, AUDIT_ARCH_I386, 1, 0), ret(RET_KILL)]);
    program.push(BpfInstruction { code: JA, jt: 0, jf: 0, k: native.len() as u32 + 3 });
    program.extend([load(0), jump(JGE, X32_BIT, 0, 1), ret(UNKNOWN)]);
    program.extend(native);
    program.push(load(0));
    program.extend(compat);
    program
}

/// The same profile in OCI's form, for a runtime that compiles it itself.
pub fn oci(capabilities: Capabilities) -> serde_json::Value {
    use serde_json::json;
    let mut names: BTreeSet<&str> = ALWAYS.split_whitespace().collect();
    let granted = WITH_CAPABILITY.iter().filter(|(capability, _)| capabilities.has(capability));
    names.extend(granted.flat_map(|(_, names)| names.split_whitespace()));
    let mut calls = vec![json!({"names": names, "action": "SCMP_ACT_ALLOW"})];
    for (name, argument, rules) in conditional() {
        for rule in rules.iter().filter(|_| !names.contains(name)) {
            let (op, value) = match *rule {
                When::Equal(value) => ("SCMP_CMP_EQ", value),
                When::Below(value) => ("SCMP_CMP_LT", value),
                When::Above(value) => ("SCMP_CMP_GT", value),
                When::MaskIsZero(mask) => ("SCMP_CMP_MASKED_EQ", mask),
            };
            let test = json!({"index": argument, "value": value, "valueTwo": 0, "op": op});
            calls.push(json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [test]}));
        }
    }
    if !names.contains("clone3") {
        calls.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": calls,
    })
}

/// System calls that are allowed with some arguments alone: which argument, and when.
fn conditional() -> [(&'static str, usize, Vec<When>); 3] {
    [
        // Any address family but AF_ALG (38) and AF_VSOCK (40).
        ("socket", 0, vec![When::Below(38), When::Equal(39), When::Above(40)]),
        ("personality", 0, [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff].map(When::Equal).to_vec()),
        ("clone", 0, vec![When::MaskIsZero(CLONE_NAMESPACES)]),
    ]
}

/// Decides by the number in the accumulator. Every path returns.
fn section(number: Numbers, capabilities: Capabilities) -> Vec<BpfInstruction> {
    let mut allowed: BTreeSet<u32> = ALWAYS.split_whitespace().filter_map(number).collect();
    let mut highest = allowed.last().copied().unwrap_or(0);
    for (capability, names) in WITH_CAPABILITY {
        let numbers = names.split_whitespace().filter_map(number);
        highest = numbers.clone().fold(highest, u32::max);
        if capabilities.has(capability) {
            allowed.extend(numbers);
        }
    }
    let mut conditional: BTreeMap<u32, (usize, Vec<When>)> = BTreeMap::new();
    for (name, argument, rules) in self::conditional() {
        if let Some(number) = number(name).filter(|n| !allowed.contains(n)) {
            conditional.insert(number, (argument, rules));
        }
    }
    let mut program = Vec::new();
    if let Some(clone3) = number("clone3").filter(|n| !allowed.contains(n)) {
        program.extend([jump(JEQ, clone3, 0, 1), ret(UNKNOWN)]);
    }
    for (number, (argument, rules)) in &conditional {
        let block = condition(*argument, rules);
        program.push(jump(JEQ, *number, 0, block.len() as u8));
        program.extend(block);
    }
    program.extend([jump(JGT, highest, 0, 1), ret(UNKNOWN)]);
    // The ranges ascend, so a number below the next one is in none.
    for (first, last) in ranges(&allowed) {
        program.extend([jump(JGE, first, 1, 0), ret(DENY), jump(JGT, last, 1, 0), ret(RET_ALLOW)]);
    }
    program.push(ret(DENY));
    program
}

/// Compares the low half of an argument; a set high half is no match, except for a mask, which has no high half.
fn condition(argument: usize, rules: &[When]) -> Vec<BpfInstruction> {
    let low = 16 + 8 * argument as u32;
    let mut block = Vec::new();
    if !rules.iter().any(|rule| matches!(rule, When::MaskIsZero(_))) {
        block.extend([load(low + 4), jump(JEQ, 0, 1, 0), ret(DENY)]);
    }
    block.push(load(low));
    for rule in rules {
        block.push(match *rule {
            When::Equal(value) => jump(JEQ, value, 0, 1),
            When::Below(value) => jump(JGE, value, 1, 0),
            When::Above(value) => jump(JGT, value, 0, 1),
            When::MaskIsZero(mask) => jump(JSET, mask, 1, 0),
        });
        block.push(ret(RET_ALLOW));
    }
    block.push(ret(DENY));
    block
}

fn ranges(numbers: &BTreeSet<u32>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

pub(super) const JA: u16 = 0x05;
pub(super) const JEQ: u16 = 0x15;
pub(super) const JGT: u16 = 0x25;
pub(super) const JGE: u16 = 0x35;
const JSET: u16 = 0x45;

pub(super) fn load(offset: u32) -> BpfInstruction {
    BpfInstruction { code: 0x20, jt: 0, jf: 0, k: offset }
}

pub(super) fn jump(code: u16, k: u32, jt: u8, jf: u8) -> BpfInstruction {
    BpfInstruction { code, jt, jf, k }
}

pub(super) fn and(k: u32) -> BpfInstruction {
    BpfInstruction { code: 0x54, jt: 0, jf: 0, k }
}

pub(super) fn ret(k: u32) -> BpfInstruction {
    BpfInstruction { code: 0x06, jt: 0, jf: 0, k }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Runs a program as the kernel does.
    pub fn run(program: &[BpfInstruction], arch: u32, number: u32, argument: u64) -> u32 {
        let word = |offset: u32| match offset {
            0 => number,
            4 => arch,
            16 => argument as u32,
            20 => (argument >> 32) as u32,
            _ => 0,
        };
        let (mut pc, mut a) = (0usize, 0u32);
        loop {
            let i = program[pc];
            pc += 1;
            let branch = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
            match i.code {
                0x20 => a = word(i.k),
                0x06 => return i.k,
                JA => pc += i.k as usize,
                JEQ => pc += branch(a == i.k),
                JGT => pc += branch(a > i.k),
                JGE => pc += branch(a >= i.k),
                JSET => pc += branch(a & i.k != 0),
                _ => panic!("unknown instruction"),
            }
        }
    }

    fn native(name: &str) -> u32 {
        name.parse::<syscalls::x86_64::Sysno>().expect(name).id() as u32
    }

    #[test]
    fn decisions_of_the_default_profile() {
        let program = compile(Capabilities::docker_default());
        let table = [
            ("read", 0, RET_ALLOW),
            ("mount", 0, DENY),
            ("setns", 0, DENY),
            ("bpf", 0, DENY),
            ("io_uring_setup", 0, DENY),
            ("keyctl", 0, DENY),
            ("ptrace", 0, RET_ALLOW),
            ("chroot", 0, RET_ALLOW),
            ("clone3", 0, UNKNOWN),
            ("clone", 0x11, RET_ALLOW),
            ("clone", 0x1000_0000, DENY),
            ("socket", 2, RET_ALLOW),
            ("socket", 38, DENY),
            ("socket", 40, DENY),
            ("socket", 1 << 40, DENY),
            ("personality", 0xffff_ffff, RET_ALLOW),
            ("personality", 4, DENY),
        ];
        for (name, argument, expected) in table {
            assert_eq!(run(&program, AUDIT_ARCH_X86_64, native(name), argument), expected, "{name} {argument:#x}");
        }
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, 4000, 0), UNKNOWN);
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, X32_BIT, 0), UNKNOWN);
        assert_eq!(run(&program, 0xC000_00B7, 0, 0), RET_KILL);
        let i386 = |name: &str| name.parse::<syscalls::x86::Sysno>().expect(name).id() as u32;
        assert_eq!(run(&program, AUDIT_ARCH_I386, i386("read"), 0), RET_ALLOW);
        assert_eq!(run(&program, AUDIT_ARCH_I386, i386("mount"), 0), DENY);
        assert!(program.len() < 4096);
    }

    #[test]
    fn capabilities_add_their_calls() {
        let program = compile(Capabilities::all());
        for name in ["mount", "clone3", "bpf", "unshare", "perf_event_open"] {
            assert_eq!(run(&program, AUDIT_ARCH_X86_64, native(name), 0x1000_0000), RET_ALLOW, "{name}");
        }
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, native("keyctl"), 0), DENY);
    }
}
