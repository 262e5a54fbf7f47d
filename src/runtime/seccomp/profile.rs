//! A seccomp profile in Docker's JSON form: rules by names of system calls, with conditions on arguments, capabilities and
//! architectures.

use crate::runtime::capabilities::Capabilities;
use crate::sys::regular::read_regular_file;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;
use std::path::Path;

/// Bytes of a profile: Docker's own has 15 KB.
const MAX_PROFILE: u64 = 4 << 20;

/// A profile. Rules of one system call are tried in their order; the first whose arguments match decides, else the default action.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    pub(super) default_action: LinuxSeccompAction,
    pub(super) default_errno_ret: Option<u32>,
    #[serde(default)]
    pub(super) syscalls: Vec<Rule>,
}

/// One of a profile's `syscalls`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rule {
    #[serde(default)]
    pub(super) names: Vec<String>,
    /// The older form, with one name.
    pub(super) name: Option<String>,
    pub(super) action: LinuxSeccompAction,
    pub(super) errno_ret: Option<u32>,
    #[serde(default)]
    pub(super) args: Option<Vec<Argument>>,
    #[serde(default)]
    pub(super) includes: Option<Filter>,
    #[serde(default)]
    pub(super) excludes: Option<Filter>,
}

/// One of a rule's `args`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Argument {
    pub(super) index: u32,
    pub(super) value: u64,
    #[serde(default)]
    pub(super) value_two: u64,
    pub(super) op: LinuxSeccompOperator,
    /// The kernel reads 32 bits of the argument: one with more set matches nothing. libseccomp cannot say it.
    #[serde(skip)]
    pub(super) is_narrow: bool,
}

/// The conditions of a rule. `minKernel` is not looked at: wharf needs a newer one than any profile names.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    pub(super) caps: Vec<String>,
    pub(super) arches: Vec<String>,
}

impl Rule {
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.names.iter().chain(&self.name)
    }

    /// Whether the rule is one of an architecture, by its names, and of a container with these capabilities.
    pub(super) fn applies(&self, arches: &[&str], capabilities: Capabilities) -> bool {
        let arch = |filter: &Filter| filter.arches.iter().any(|a| arches.contains(&a.as_str()));
        let caps = |filter: &Filter| filter.caps.iter().all(|c| capabilities.has(c));
        let included = self.includes.as_ref().is_none_or(|f| (f.arches.is_empty() || arch(f)) && caps(f));
        let excluded = self.excludes.as_ref().is_some_and(|f| arch(f) || !f.caps.is_empty() && caps(f));
        included && !excluded
    }
}

impl Profile {
    /// Reads a user's profile: a file, or the JSON itself, as clients of other machines send it.
    ///
    /// # Errors
    /// A sentence: the file that cannot be read, or what in it is not understood.
    pub fn read(path: &Path) -> Result<Self, String> {
        if let Some(text) = path.to_str().filter(|text| text.starts_with('{')) {
            return serde_json::from_str(text).map_err(|e| format!("the seccomp profile of the request: {e}"));
        }
        let wrong = |why: String| format!("the seccomp profile {}: {why}", path.display());
        let text = read_regular_file(path, MAX_PROFILE).map_err(|e| wrong(e.to_string()))?;
        serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))
    }

    /// The profile in OCI's form, for a runtime that compiles it, without the rules of other machines and other capabilities.
    ///
    /// # Errors
    /// A value that OCI's types do not take.
    pub fn oci(&self, capabilities: Capabilities) -> Result<LinuxSeccomp, String> {
        let rules = self.syscalls.iter().filter(|rule| rule.applies(&["amd64", "x86_64", "x86"], capabilities));
        let mut seccomp = LinuxSeccomp::default();
        seccomp.set_default_action(self.default_action).set_default_errno_ret(self.default_errno_ret);
        seccomp.set_architectures(Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86]));
        seccomp.set_syscalls(Some(rules.map(oci_rule).collect::<Result<_, _>>()?));
        Ok(seccomp)
    }
}

fn oci_rule(rule: &Rule) -> Result<LinuxSyscall, String> {
    let argument = |a: &Argument| -> Result<LinuxSeccompArg, String> {
        let argument = LinuxSeccompArgBuilder::default().index(a.index as usize).value(a.value);
        argument.value_two(a.value_two).op(a.op).build().map_err(|e| e.to_string())
    };
    let mut call = LinuxSyscall::default();
    call.set_names(rule.names().cloned().collect()).set_action(rule.action).set_errno_ret(rule.errno_ret);
    call.set_args(Some(rule.args.iter().flatten().map(argument).collect::<Result<_, _>>()?));
    Ok(call)
}
