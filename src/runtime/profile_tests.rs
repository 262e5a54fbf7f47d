//! wharf's defaults against moby's present ones, fact by fact. `moby_profile.txt` says what those are; each difference is here with
//! its reason, and one that is not is a failure.

use super::capabilities::Capabilities;
use super::seccomp::tests::{docker_default, run};
use super::seccomp::{AUDIT_ARCH_I386, AUDIT_ARCH_X86_64, RET_ALLOW, RET_ERRNO, UNKNOWN};
use super::spec::{MASKED, READONLY};
use super::{apparmor, seccomp};
use oci_spec::runtime::{LinuxNamespaceType, LinuxSeccompAction, LinuxSyscall};
use std::collections::BTreeSet;

const MOBY: &str = include_str!("moby_profile.txt");

/// Differences: rules that moby has and wharf has not (`-`), or the other way round (`+`), and why.
const DIFFERENCES: [(&str, &str); 10] = [
    ("+ masked /proc/sysrq-trigger", "nothing in it can be read, so a mask says the same as read-only"),
    ("- readonly /proc/sysrq-trigger", "it is masked"),
    ("- namespace time", "not there yet: docs/security.md"),
    (r#"- apparmor signal (receive) peer="{{.DaemonProfile}}","#, "engine and monitors are unconfined"),
    ("- apparmor signal (send,receive) peer=\"{{.Name}}\",", "the profile has wharf's name"),
    ("+ apparmor signal (send, receive) peer=wharf-default,", "the profile has wharf's name"),
    ("- apparmor ptrace (trace,tracedby,read,readby) peer=\"{{.Name}}\",", "the profile has wharf's name"),
    ("+ apparmor ptrace (trace, read, tracedby, readby) peer=wharf-default,", "the profile has wharf's name"),
    ("- namespace network", "one where the container's network wants it: the engine makes it, not the launch file"),
    ("- default EPERM", "compared call by call, below"),
];

/// The facts of one kind.
fn facts(kind: &str) -> impl Iterator<Item = &'static str> {
    MOBY.lines().filter_map(move |line| line.strip_prefix(kind)?.strip_prefix(' '))
}

#[test]
fn what_differs_from_mobys_defaults_has_a_reason() {
    let kinds = ["default", "capability", "masked", "readonly", "namespace", "apparmor"];
    let theirs = kinds.iter().flat_map(|kind| facts(kind).map(move |fact| format!("{kind} {fact}")));
    let theirs: BTreeSet<String> = theirs.collect();
    let of = |kind: &str, facts: &[&str]| facts.iter().map(|fact| format!("{kind} {fact}")).collect::<Vec<_>>();
    let namespaces = super::spec::namespaces(super::spec::Ipc::Own, true);
    let ours: BTreeSet<String> = of("masked", &MASKED)
        .into_iter()
        .chain(of("readonly", &READONLY))
        .chain(Capabilities::docker_default().names().iter().map(|name| format!("capability {name}")))
        .chain(namespaces.iter().map(|namespace| format!("namespace {}", in_oci(namespace.typ()))))
        .chain(apparmor::rules().map(|rule| format!("apparmor {rule}")))
        .collect();
    let missing = theirs.difference(&ours).map(|fact| format!("- {fact}"));
    let more = ours.difference(&theirs).map(|fact| format!("+ {fact}"));
    let found: BTreeSet<String> = missing.chain(more).collect();
    let known: BTreeSet<String> = DIFFERENCES.iter().map(|(fact, _)| (*fact).to_string()).collect();
    assert_eq!(found, known);
}

/// A namespace's kind as the specification writes it.
fn in_oci(kind: LinuxNamespaceType) -> String {
    serde_json::to_value(kind).expect("JSON").as_str().expect("a text").to_string()
}

/// A rule of moby's: whether it holds on this machine for a container with these capabilities and this first argument.
fn holds(conditions: &[&str], capabilities: Capabilities, argument: u64) -> bool {
    let number = |text: &str| {
        let hexadecimal = text.strip_prefix("0x").expect("a hexadecimal number");
        u64::from_str_radix(hexadecimal, 16).expect("a number")
    };
    conditions.iter().all(|condition| match condition.split_once('=') {
        // The oldest kernel that wharf runs on is newer.
        Some(("kernel", "4.8")) => true,
        Some(("arch", list)) => list.split(',').any(|arch| arch == "amd64"),
        Some(("notarch", list)) => list.split(',').all(|arch| arch != "amd64"),
        Some(("cap", capability)) => capabilities.has(capability),
        Some(("without", capability)) => !capabilities.has(capability),
        Some(("arg0", value)) => argument == number(value),
        Some((masked, "0")) => argument & number(masked.strip_prefix("arg0&").expect(condition)) == 0,
        _ => match (condition.strip_prefix("arg0<"), condition.strip_prefix("arg0>")) {
            (Some(value), _) => argument < number(value),
            (_, Some(value)) => argument > number(value),
            _ => panic!("{condition}"),
        },
    })
}

fn expected(name: &str, capabilities: Capabilities, argument: u64) -> u32 {
    let matches = |kind: &str| {
        facts(kind).any(|fact| {
            let words: Vec<&str> = fact.split(' ').filter(|word| *word != "ENOSYS").collect();
            words[0] == name && holds(&words[1..], capabilities, argument)
        })
    };
    match () {
        () if matches("call") => RET_ALLOW,
        () if matches("refuse") => UNKNOWN,
        () => RET_ERRNO | libc::EPERM as u32,
    }
}

#[test]
fn each_system_call_is_answered_as_moby_does() {
    let one = |name: &str| Capabilities::docker_default().adjusted(&[name.to_string()], &[]).expect(name);
    let named: BTreeSet<&str> =
        facts("call").flat_map(|fact| fact.split(' ')).filter_map(|word| word.strip_prefix("cap=")).collect();
    let mut sets = vec![Capabilities::default(), Capabilities::docker_default(), Capabilities::all()];
    sets.extend(named.into_iter().map(one));
    let mut arguments: Vec<u64> = vec![0, 1, 2, 8, 0x11, 37, 38, 39, 40, 41, 45, 0x2_0000, 0x2_0008, 0xffff_ffff, 1 << 32 | 8];
    arguments.extend((24..32).map(|bit| 1 << bit | 0x11));
    let in_profile: BTreeSet<&str> = facts("call").chain(facts("refuse")).filter_map(|fact| fact.split(' ').next()).collect();
    let has_condition: BTreeSet<&str> =
        facts("call").filter(|fact| fact.contains(" arg0")).filter_map(|fact| fact.split(' ').next()).collect();
    let native: Vec<(u32, &str)> = syscalls::x86_64::Sysno::iter().map(|call| (call.id() as u32, call.name())).collect();
    let compat: Vec<(u32, &str)> = syscalls::x86::Sysno::iter().map(|call| (call.id() as u32, call.name())).collect();
    for capabilities in sets {
        let program = docker_default(capabilities);
        for (architecture, calls) in [(AUDIT_ARCH_X86_64, &native), (AUDIT_ARCH_I386, &compat)] {
            let newest = calls.iter().filter(|(_, name)| in_profile.contains(name)).map(|(number, _)| *number).max();
            for (number, name) in calls {
                let arguments = if has_condition.contains(name) { &arguments[..] } else { &arguments[..1] };
                // A socket's family in 64 bits is below.
                let width = if *name == "socket" { u64::from(u32::MAX) } else { u64::MAX };
                for &argument in arguments.iter().filter(|argument| **argument <= width) {
                    let mut theirs = expected(name, capabilities, argument);
                    // Newer than the profile: a C library takes another call, as with runc's own answer.
                    if theirs == RET_ERRNO | libc::EPERM as u32 && Some(*number) > newest {
                        theirs = UNKNOWN;
                    }
                    let ours = run(&program, architecture, *number, argument);
                    assert_eq!(ours, theirs, "{name} {argument:#x} of {architecture:#x} with {:#x}", capabilities.0);
                }
            }
        }
        // The kernel takes the low half for the family: above 40 as a whole, AF_ALG for the kernel. Refused here, allowed there.
        let hidden = 1 << 40 | 38;
        assert_eq!(expected("socket", capabilities, hidden), RET_ALLOW);
        let socket = native.iter().find(|(_, name)| *name == "socket").expect("socket").0;
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, socket, hidden), RET_ERRNO | libc::EPERM as u32);
        // The same in the form that another runtime compiles.
        let allowed = seccomp::docker_default().oci(capabilities).expect("OCI's form");
        let rules = allowed.syscalls().as_ref().expect("rules");
        for name in &in_profile {
            let is_allowed = |rule: &&LinuxSyscall| rule.action() == LinuxSeccompAction::ScmpActAllow;
            let listed = rules.iter().filter(is_allowed).any(|rule| rule.names().iter().any(|n| n == name));
            let known = native.iter().chain(&compat).any(|(_, known)| known == name);
            let theirs = [0, 39, 0x11].iter().any(|argument| expected(name, capabilities, *argument) == RET_ALLOW);
            assert!(listed == theirs || !known, "{name} with {:#x}", capabilities.0);
        }
    }
}
