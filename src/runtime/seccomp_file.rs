//! A seccomp profile of the user's, in Docker's JSON form, compiled to a classic BPF program.
//!
//! Rules of one system call are tried in the order of the file; the first whose arguments match decides, else the profile's
//! default action. A program has a section for x86-64 and one for i386; any other architecture is killed.

use super::capabilities::Capabilities;
use super::seccomp::{
    AUDIT_ARCH_I386, AUDIT_ARCH_X86_64, JA, JEQ, JGE, JGT, RET_ALLOW, RET_ERRNO, RET_KILL, UNKNOWN, X32_BIT, and, jump, load, ret,
};
use crate::sys::BpfInstruction;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
/// The kernel's bound (BPF_MAXINSNS).
const MOST_INSTRUCTIONS: usize = 4096;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// The older form, with one name.
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// What a rule depends on. `minKernel` is not looked at: wharf needs a newer one than any profile names.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Filter {
    caps: Vec<String>,
    arches: Vec<String>,
}

/// Reads and compiles a profile.
///
/// # Errors
/// A sentence: the file that cannot be read, or what in it is not understood.
pub fn compile(path: &Path, capabilities: Capabilities) -> Result<Vec<BpfInstruction>, String> {
    program(&read(path)?, capabilities).map_err(|why| format!("the seccomp profile {}: {why}", path.display()))
}

/// Reads a profile and gives it in OCI's form, without what does not apply to this machine and these capabilities.
///
/// # Errors
/// A sentence: the file that cannot be read, or what in it is not understood.
pub fn oci(path: &Path, capabilities: Capabilities) -> Result<Value, String> {
    let profile = read(path)?;
    let rules = profile.syscalls.iter().filter(|rule| applies(rule, &["amd64", "x86_64", "x86"], capabilities));
    let rules = rules.map(|rule| {
        let test = |a: &Argument| json!({"index": a.index, "value": a.value, "valueTwo": a.value_two, "op": a.op});
        json!({
            "names": rule.names.iter().chain(&rule.name).collect::<Vec<_>>(),
            "action": rule.action,
            "errnoRet": rule.errno_ret,
            "args": rule.args.iter().flatten().map(test).collect::<Vec<_>>(),
        })
    });
    Ok(json!({
        "defaultAction": profile.default_action,
        "defaultErrnoRet": profile.default_errno_ret,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": rules.collect::<Vec<_>>(),
    }))
}

fn read(path: &Path) -> Result<Profile, String> {
    let wrong = |why: String| format!("the seccomp profile {}: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))
}

fn program(profile: &Profile, capabilities: Capabilities) -> Result<Vec<BpfInstruction>, String> {
    let x86_64 = |name: &str| name.parse::<syscalls::x86_64::Sysno>().ok().map(|s| s.id() as u32);
    let x86 = |name: &str| name.parse::<syscalls::x86::Sysno>().ok().map(|s| s.id() as u32);
    let native = section(profile, &x86_64, &["amd64", "x86_64"], capabilities)?;
    let compat = section(profile, &x86, &["x86"], capabilities)?;
    let mut program = vec![load(4)];
    program.extend([jump(JEQ, AUDIT_ARCH_X86_64, 3, 0), jump(JEQ, AUDIT_ARCH_I386, 1, 0), ret(RET_KILL)]);
    program.push(BpfInstruction { code: JA, jt: 0, jf: 0, k: native.len() as u32 });
    program.extend(native);
    program.extend(compat);
    match program.len() {
        ..=MOST_INSTRUCTIONS => Ok(program),
        length => Err(format!("it makes {length} instructions, and the kernel takes {MOST_INSTRUCTIONS}")),
    }
}

fn section(
    profile: &Profile,
    number: &dyn Fn(&str) -> Option<u32>,
    arches: &[&str],
    capabilities: Capabilities,
) -> Result<Vec<BpfInstruction>, String> {
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut calls: BTreeMap<u32, Vec<BpfInstruction>> = BTreeMap::new();
    for rule in &profile.syscalls {
        let verdict = action(&rule.action, rule.errno_ret)?;
        if !applies(rule, arches, capabilities) {
            continue;
        }
        let mut block = Vec::new();
        // Conditions from the last to the first: each skips what stands after it where it does not hold.
        let mut rest = vec![ret(verdict)];
        for argument in rule.args.iter().flatten().rev() {
            let mut with = condition(argument, rest.len())?;
            with.extend(rest);
            rest = with;
        }
        block.extend(rest);
        for name in rule.names.iter().chain(&rule.name) {
            // A name that this kernel's tables do not have is of another architecture.
            if let Some(number) = number(name) {
                calls.entry(number).or_default().extend(block.iter().copied());
            }
        }
    }
    let mut section = vec![load(0)];
    if arches.contains(&"amd64") {
        // x32's numbers are no others' names: without this, a profile that forbids calls would let them through.
        section.extend([jump(JGE, X32_BIT, 0, 1), ret(UNKNOWN)]);
    }
    for (number, block) in &calls {
        let length = u8::try_from(block.len() + 1).map_err(|_| "a system call has too many rules".to_string())?;
        section.push(jump(JEQ, *number, 0, length));
        section.extend(block);
        section.push(ret(default));
    }
    section.push(ret(default));
    Ok(section)
}

fn applies(rule: &Rule, arches: &[&str], capabilities: Capabilities) -> bool {
    let arch = |filter: &Filter| filter.arches.iter().any(|a| arches.contains(&a.as_str()));
    let caps = |filter: &Filter| filter.caps.iter().all(|c| capabilities.has(c));
    let included = rule.includes.as_ref().is_none_or(|f| (f.arches.is_empty() || arch(f)) && caps(f));
    let excluded = rule.excludes.as_ref().is_some_and(|f| arch(f) || !f.caps.is_empty() && caps(f));
    included && !excluded
}

fn action(name: &str, errno: Option<u32>) -> Result<u32, String> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => RET_ALLOW,
        "SCMP_ACT_ERRNO" => RET_ERRNO | errno.unwrap_or(libc::EPERM as u32) & 0xffff,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => RET_KILL,
        "SCMP_ACT_TRAP" => RET_TRAP,
        "SCMP_ACT_TRACE" => RET_TRACE | errno.unwrap_or(libc::EPERM as u32) & 0xffff,
        "SCMP_ACT_LOG" => RET_LOG,
        other => return Err(format!("`{other}` is no action that wharf knows")),
    })
}

/// Instructions that go on where the argument fulfils the condition, and skip `rest` where it does not. A value has 64 bits and
/// an instruction compares 32.
fn condition(argument: &Argument, rest: usize) -> Result<Vec<BpfInstruction>, String> {
    let Argument { index, value, value_two, op } = argument;
    if *index > 5 {
        return Err(format!("an argument has the index {index}, and a system call has six arguments"));
    }
    let low_place = 16 + 8 * index;
    let (high, low) = ((value >> 32) as u32, *value as u32);
    let (load_high, load_low) = (load(low_place + 4), load(low_place));
    let out = |after: usize| u8::try_from(rest + after).map_err(|_| "a rule has too many arguments".to_string());
    // Each block ends in an instruction whose true or false way goes on, and whose other way skips the rest.
    Ok(match op.as_str() {
        "SCMP_CMP_EQ" => vec![load_high, jump(JEQ, high, 0, out(2)?), load_low, jump(JEQ, low, 0, out(0)?)],
        "SCMP_CMP_NE" => vec![load_high, jump(JEQ, high, 0, 2), load_low, jump(JEQ, low, out(0)?, 0)],
        "SCMP_CMP_GT" => {
            vec![load_high, jump(JGT, high, 3, 0), jump(JEQ, high, 0, out(2)?), load_low, jump(JGT, low, 0, out(0)?)]
        }
        "SCMP_CMP_GE" => {
            vec![load_high, jump(JGT, high, 3, 0), jump(JEQ, high, 0, out(2)?), load_low, jump(JGE, low, 0, out(0)?)]
        }
        "SCMP_CMP_LT" => {
            vec![load_high, jump(JGT, high, out(3)?, 0), jump(JEQ, high, 0, 2), load_low, jump(JGE, low, out(0)?, 0)]
        }
        "SCMP_CMP_LE" => {
            vec![load_high, jump(JGT, high, out(3)?, 0), jump(JEQ, high, 0, 2), load_low, jump(JGT, low, out(0)?, 0)]
        }
        // The value is the mask, the second one what the masked argument must be.
        "SCMP_CMP_MASKED_EQ" => vec![
            load_high,
            and(high),
            jump(JEQ, (value_two >> 32) as u32, 0, out(3)?),
            load_low,
            and(low),
            jump(JEQ, *value_two as u32, 0, out(0)?),
        ],
        other => return Err(format!("`{other}` is no comparison that wharf knows")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// What a program says of a system call.
    fn run(program: &[BpfInstruction], number: u32, args: [u64; 6]) -> u32 {
        let mut data = vec![number, AUDIT_ARCH_X86_64, 0, 0];
        data.extend(args.iter().flat_map(|a| [*a as u32, (*a >> 32) as u32]));
        let (mut pc, mut a) = (0, 0u32);
        loop {
            let i = program[pc];
            pc += 1;
            let mut branch = |taken: bool| pc += usize::from(if taken { i.jt } else { i.jf });
            match i.code {
                c if c == load(0).code => a = data[i.k as usize / 4],
                c if c == and(0).code => a &= i.k,
                c if c == ret(0).code => return i.k,
                JA => pc += i.k as usize,
                JEQ => branch(a == i.k),
                JGE => branch(a >= i.k),
                JGT => branch(a > i.k),
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    fn compiled(rules: Value) -> Vec<BpfInstruction> {
        let profile = serde_json::from_value(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})).expect("profile");
        program(&profile, Capabilities::docker_default()).expect("compiles")
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
                assert_eq!(run(&program, kill, [0, *value, 0, 0, 0, 0]), denied, "{op} {value:#x}");
            }
            for value in others {
                assert_eq!(run(&program, kill, [0, *value, 0, 0, 0, 0]), RET_ALLOW, "{op} {value:#x}");
            }
            assert_eq!(run(&program, libc::SYS_read as u32, [0, big, 0, 0, 0, 0]), RET_ALLOW);
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
        assert_eq!(run(&program, kill, [0x1f, 9, 0, 0, 0, 0]), RET_ERRNO | 38);
        assert_eq!(run(&program, kill, [0x2f, 9, 0, 0, 0, 0]), RET_KILL);
        assert_eq!(run(&program, kill, [0x1f, 8, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(run(&program, libc::SYS_mount as u32, [0; 6]), RET_ALLOW, "excluded by a capability that it has");
        assert_eq!(run(&program, libc::SYS_umount2 as u32, [0; 6]), RET_ALLOW, "for a capability that it has not");
    }
}
