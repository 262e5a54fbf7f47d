//! Seccomp profiles, compiled to a classic BPF program for seccomp(2).
//!
//! The program checks the architecture first: x86-64 and i386 each have a section of their own, x32 is answered with
//! ENOSYS (Docker allows it; no distribution enables it), anything else is killed. System calls newer than a profile that
//! forbids get ENOSYS, so that a C library falls back, as runc does.

mod docker;
mod profile;

pub use docker::profile as docker_default;
pub use profile::Profile;

use super::capabilities::Capabilities;
use crate::sys::BpfInstruction;
use oci_spec::runtime::{LinuxSeccompAction as Action, LinuxSeccompOperator as Operator};
use profile::{Argument, Rule};
use std::collections::BTreeMap;

pub(super) const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
pub(super) const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;

const RET_KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const RET_KILL_THREAD: u32 = libc::SECCOMP_RET_KILL_THREAD;
const RET_TRAP: u32 = libc::SECCOMP_RET_TRAP;
const RET_TRACE: u32 = libc::SECCOMP_RET_TRACE;
const RET_LOG: u32 = libc::SECCOMP_RET_LOG;
pub(super) const RET_ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
pub(super) const RET_ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
pub(super) const UNKNOWN: u32 = RET_ERRNO | libc::ENOSYS as u32;
/// The kernel's bound (BPF_MAXINSNS).
const MOST_INSTRUCTIONS: usize = 4096;

/// Names of an architecture in profiles, and the numbers of its system calls.
struct Architecture {
    names: &'static [&'static str],
    number: fn(&str) -> Option<u32>,
}

const NATIVE: Architecture = Architecture {
    names: &["amd64", "x86_64"],
    number: |name| name.parse::<syscalls::x86_64::Sysno>().ok().map(|call| call.id() as u32),
};
const COMPAT: Architecture =
    Architecture { names: &["x86"], number: |name| name.parse::<syscalls::x86::Sysno>().ok().map(|call| call.id() as u32) };

/// Compiles a profile for a container with these capabilities.
///
/// # Errors
/// A sentence: what cannot be compiled.
pub fn compile(profile: &Profile, capabilities: Capabilities) -> Result<Vec<BpfInstruction>, String> {
    let native = section(profile, &NATIVE, capabilities)?;
    let compat = section(profile, &COMPAT, capabilities)?;
    let mut program = vec![load(4)];
    // i386 stands after the native section, further away than a conditional jump reaches.
    program.extend([jump(JEQ, AUDIT_ARCH_X86_64, 3, 0), jump(JEQ, AUDIT_ARCH_I386, 1, 0), ret(RET_KILL)]);
    program.push(BpfInstruction { code: JA, jt: 0, jf: 0, k: native.len() as u32 + 3 });
    program.extend([load(0), jump(JGE, X32_BIT, 0, 1), ret(UNKNOWN)]);
    program.extend(native);
    program.push(load(0));
    program.extend(compat);
    match program.len() {
        ..=MOST_INSTRUCTIONS => Ok(program),
        length => Err(format!("it makes {length} instructions, and the kernel takes {MOST_INSTRUCTIONS}")),
    }
}

/// The instructions of one architecture: they decide by the number in the accumulator, and every path returns.
fn section(profile: &Profile, arch: &Architecture, capabilities: Capabilities) -> Result<Vec<BpfInstruction>, String> {
    let default = action(profile.default_action, profile.default_errno_ret)?;
    let mut calls: BTreeMap<u32, Vec<(u32, &Rule)>> = BTreeMap::new();
    for rule in &profile.syscalls {
        let verdict = action(rule.action, rule.errno_ret)?;
        if rule.applies(arch.names, capabilities) {
            // A name that has no number here is of another architecture.
            for number in rule.names().filter_map(|name| (arch.number)(name)) {
                calls.entry(number).or_default().push((verdict, rule));
            }
        }
    }
    let mut program = Vec::new();
    let mut plain: BTreeMap<u32, u32> = BTreeMap::new();
    for (number, rules) in &calls {
        match rules.first() {
            Some((verdict, rule)) if rule.args.iter().flatten().next().is_none() => {
                plain.insert(*number, *verdict);
            }
            _ => {
                let block = block(rules, default)?;
                let length = u8::try_from(block.len()).map_err(|_| "a system call has too many rules".to_string())?;
                program.push(jump(JEQ, *number, 0, length));
                program.extend(block);
            }
        }
    }
    let forbids = !matches!(profile.default_action, Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace);
    if let Some((highest, _)) = calls.last_key_value().filter(|_| forbids) {
        program.extend([jump(JGT, *highest, 0, 1), ret(UNKNOWN)]);
    }
    // The ranges ascend, so a number below the next one is in none.
    for (first, last, verdict) in ranges(&plain) {
        program.extend([jump(JGE, first, 1, 0), ret(default), jump(JGT, last, 1, 0), ret(verdict)]);
    }
    program.push(ret(default));
    Ok(program)
}

/// The rules of one system call, the first that matches decides.
fn block(rules: &[(u32, &Rule)], default: u32) -> Result<Vec<BpfInstruction>, String> {
    let mut block = Vec::new();
    for (verdict, rule) in rules {
        // Conditions from the last to the first: each skips what stands after it where it does not hold.
        let mut rest = vec![ret(*verdict)];
        for argument in rule.args.iter().flatten().rev() {
            let mut with = condition(argument, rest.len())?;
            with.extend(rest);
            rest = with;
        }
        block.extend(rest);
    }
    block.push(ret(default));
    Ok(block)
}

fn action(action: Action, errno: Option<u32>) -> Result<u32, String> {
    Ok(match action {
        Action::ScmpActAllow => RET_ALLOW,
        Action::ScmpActErrno => RET_ERRNO | errno.unwrap_or(libc::EPERM as u32) & 0xffff,
        Action::ScmpActKill | Action::ScmpActKillThread => RET_KILL_THREAD,
        Action::ScmpActKillProcess => RET_KILL,
        Action::ScmpActTrap => RET_TRAP,
        Action::ScmpActTrace => RET_TRACE | errno.unwrap_or(libc::EPERM as u32) & 0xffff,
        Action::ScmpActLog => RET_LOG,
        Action::ScmpActNotify => return Err("`SCMP_ACT_NOTIFY` is no action that wharf knows".into()),
    })
}

/// Instructions that go on where the argument fulfils the condition, and skip `rest` where it does not. A value has 64 bits and
/// an instruction compares 32.
fn condition(argument: &Argument, rest: usize) -> Result<Vec<BpfInstruction>, String> {
    let Argument { index, value, value_two, op, is_narrow } = argument;
    if *index > 5 {
        return Err(format!("an argument has the index {index}, and a system call has six arguments"));
    }
    let low_place = 16 + 8 * index;
    let (high, low) = ((value >> 32) as u32, *value as u32);
    let (load_high, load_low) = (load(low_place + 4), load(low_place));
    let out = |after: usize| u8::try_from(rest + after).map_err(|_| "a rule has too many arguments".to_string());
    // Each block ends in an instruction whose true or false way goes on, and whose other way skips the rest.
    let mut block = match op {
        Operator::ScmpCmpEq => vec![load_high, jump(JEQ, high, 0, out(2)?), load_low, jump(JEQ, low, 0, out(0)?)],
        Operator::ScmpCmpNe => vec![load_high, jump(JEQ, high, 0, 2), load_low, jump(JEQ, low, out(0)?, 0)],
        Operator::ScmpCmpGt => {
            vec![load_high, jump(JGT, high, 3, 0), jump(JEQ, high, 0, out(2)?), load_low, jump(JGT, low, 0, out(0)?)]
        }
        Operator::ScmpCmpGe => {
            vec![load_high, jump(JGT, high, 3, 0), jump(JEQ, high, 0, out(2)?), load_low, jump(JGE, low, 0, out(0)?)]
        }
        Operator::ScmpCmpLt => {
            vec![load_high, jump(JGT, high, out(3)?, 0), jump(JEQ, high, 0, 2), load_low, jump(JGE, low, out(0)?, 0)]
        }
        Operator::ScmpCmpLe => {
            vec![load_high, jump(JGT, high, out(3)?, 0), jump(JEQ, high, 0, 2), load_low, jump(JGT, low, out(0)?, 0)]
        }
        // The value is the mask, the second one what the masked argument must be.
        Operator::ScmpCmpMaskedEq => vec![
            load_high,
            and(high),
            jump(JEQ, (value_two >> 32) as u32, 0, out(3)?),
            load_low,
            and(low),
            jump(JEQ, *value_two as u32, 0, out(0)?),
        ],
    };
    if *is_narrow {
        let all = out(block.len())?;
        block.splice(0..0, [load(low_place + 4), jump(JEQ, 0, 0, all)]);
    }
    Ok(block)
}

/// Consecutive numbers with the same verdict.
fn ranges(verdicts: &BTreeMap<u32, u32>) -> Vec<(u32, u32, u32)> {
    let mut ranges: Vec<(u32, u32, u32)> = Vec::new();
    for (&number, &verdict) in verdicts {
        match ranges.last_mut() {
            Some((_, last, known)) if *last + 1 == number && *known == verdict => *last = number,
            _ => ranges.push((number, number, verdict)),
        }
    }
    ranges
}

const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const RET: u16 = 0x06;

fn load(offset: u32) -> BpfInstruction {
    BpfInstruction { code: LOAD, jt: 0, jf: 0, k: offset }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> BpfInstruction {
    BpfInstruction { code, jt, jf, k }
}

fn and(k: u32) -> BpfInstruction {
    BpfInstruction { code: AND, jt: 0, jf: 0, k }
}

fn ret(k: u32) -> BpfInstruction {
    BpfInstruction { code: RET, jt: 0, jf: 0, k }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    const DENY: u32 = RET_ERRNO | libc::EPERM as u32;

    /// The engine opens a path that a client or a file has named.
    #[test]
    fn a_profile_is_a_regular_file_of_bounded_size() {
        let directory = tempfile::tempdir().expect("directory");
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
        let large = directory.path().join("large");
        std::fs::File::create(&large).and_then(|file| file.set_len(1 << 30)).expect("file");
        for path in [fifo.as_path(), std::path::Path::new("/dev/zero"), &large] {
            let refused = Profile::read(path).expect_err("refused");
            assert!(refused.contains(&format!("the seccomp profile {}: ", path.display())), "{refused}");
        }
    }

    /// Docker's default profile, compiled.
    pub fn docker_default(capabilities: Capabilities) -> Vec<BpfInstruction> {
        compile(docker::profile(), capabilities).expect("the default profile compiles")
    }

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
                LOAD => a = word(i.k),
                RET => return i.k,
                JA => pc += i.k as usize,
                JEQ => pc += branch(a == i.k),
                JGT => pc += branch(a > i.k),
                JGE => pc += branch(a >= i.k),
                AND => a &= i.k,
                _ => panic!("unknown instruction"),
            }
        }
    }

    fn native(name: &str) -> u32 {
        name.parse::<syscalls::x86_64::Sysno>().expect(name).id() as u32
    }

    #[test]
    fn decisions_of_the_default_profile() {
        let program = docker_default(Capabilities::docker_default());
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
        let program = docker_default(Capabilities::all());
        for name in ["mount", "clone3", "bpf", "unshare", "perf_event_open"] {
            assert_eq!(run(&program, AUDIT_ARCH_X86_64, native(name), 0x1000_0000), RET_ALLOW, "{name}");
        }
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, native("keyctl"), 0), DENY);
    }

    /// The answer of a filter program to a system call.
    fn run_with(program: &[BpfInstruction], number: u32, args: [u64; 6]) -> u32 {
        let mut data = vec![number, AUDIT_ARCH_X86_64, 0, 0];
        data.extend(args.iter().flat_map(|a| [*a as u32, (*a >> 32) as u32]));
        let (mut pc, mut a) = (0, 0u32);
        loop {
            let i = program[pc];
            pc += 1;
            let mut branch = |taken: bool| pc += usize::from(if taken { i.jt } else { i.jf });
            match i.code {
                LOAD => a = data[i.k as usize / 4],
                AND => a &= i.k,
                RET => return i.k,
                JA => pc += i.k as usize,
                JEQ => branch(a == i.k),
                JGE => branch(a >= i.k),
                JGT => branch(a > i.k),
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    fn compiled(rules: Value) -> Vec<BpfInstruction> {
        let profile: Profile =
            serde_json::from_value(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})).expect("profile");
        compile(&profile, Capabilities::docker_default()).expect("compiles")
    }

    #[test]
    fn arguments_are_compared_as_64_bits() {
        let denied = RET_ERRNO | libc::EPERM as u32;
        let big = 5u64 << 32 | 7;
        let table: [(&str, &[u64], &[u64]); 6] = [
            ("SCMP_CMP_EQ", &[big], &[7, 5 << 32, big + 1]),
            ("SCMP_CMP_NE", &[7, big + 1, 6 << 32 | 7], &[big]),
            ("SCMP_CMP_GT", &[big + 1, 6 << 32], &[big, 8, 4 << 32 | 9]),
            ("SCMP_CMP_GE", &[big, 6 << 32], &[big - 1, 9]),
            ("SCMP_CMP_LT", &[big - 1, 9, 4 << 32 | 9], &[big, 6 << 32]),
            ("SCMP_CMP_LE", &[big, 9], &[big + 1, 6 << 32]),
        ];
        let kill = libc::SYS_kill as u32;
        for (op, matching, others) in table {
            let rule = json!([{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": big, "op": op}]}]);
            let program = compiled(rule);
            for value in matching {
                assert_eq!(run_with(&program, kill, [0, *value, 0, 0, 0, 0]), denied, "{op} {value:#x}");
            }
            for value in others {
                assert_eq!(run_with(&program, kill, [0, *value, 0, 0, 0, 0]), RET_ALLOW, "{op} {value:#x}");
            }
            assert_eq!(run_with(&program, libc::SYS_read as u32, [0, big, 0, 0, 0, 0]), RET_ALLOW);
        }
    }

    #[test]
    fn all_arguments_of_a_rule_must_match_and_the_first_rule_decides() {
        let masked = json!({"index": 0, "value": 0xf0, "valueTwo": 0x10, "op": "SCMP_CMP_MASKED_EQ"});
        let program = compiled(json!([
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "args": [masked, {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]},
            {"names": ["kill"], "action": "SCMP_ACT_KILL_PROCESS", "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]},
            {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_CHOWN"]}},
            {"names": ["umount2"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        ]));
        let kill = libc::SYS_kill as u32;
        assert_eq!(run_with(&program, kill, [0x1f, 9, 0, 0, 0, 0]), RET_ERRNO | 38);
        assert_eq!(run_with(&program, kill, [0x2f, 9, 0, 0, 0, 0]), RET_KILL);
        assert_eq!(run_with(&program, kill, [0x1f, 8, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(run_with(&program, libc::SYS_mount as u32, [0; 6]), RET_ALLOW, "excluded by a capability that it has");
        assert_eq!(run_with(&program, libc::SYS_umount2 as u32, [0; 6]), RET_ALLOW, "for a capability that it has not");
    }

    #[test]
    fn calls_that_a_profile_does_not_know_yet_are_answered_as_missing() {
        let of = |default: &str| {
            let rules = json!([{"names": ["read", "getpid"], "action": "SCMP_ACT_ALLOW"}]);
            let profile: Profile = serde_json::from_value(json!({"defaultAction": default, "syscalls": rules})).expect("profile");
            let program = compile(&profile, Capabilities::docker_default()).expect("compiles");
            ["read", "write", "statx"].map(|name| run(&program, AUDIT_ARCH_X86_64, native(name), 0))
        };
        assert_eq!(of("SCMP_ACT_ERRNO"), [RET_ALLOW, DENY, UNKNOWN], "as runc has it");
        assert_eq!(of("SCMP_ACT_LOG"), [RET_ALLOW, RET_LOG, RET_LOG]);
    }
}
