//! `security_opt`, as Docker's engine reads it.

use crate::engine::record::ContainerSpec;
use crate::runtime::capabilities::Capabilities;
use crate::runtime::seccomp::{self, Profile};
use crate::sys::BpfInstruction;
use crate::units;
use std::path::Path;

/// A container's security options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// No seccomp filter.
    pub unconfined: bool,
    pub no_new_privileges: bool,
    /// Nothing of /proc and /sys is hidden.
    pub system_paths: bool,
    /// The file of a seccomp profile.
    pub seccomp: Option<String>,
    pub apparmor: AppArmor,
}

/// `security_opt: apparmor=...`: wharf's own profile, none, or one that is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AppArmor {
    #[default]
    Default,
    Unconfined,
    Named(String),
}

impl Security {
    /// Reads the options. A later one replaces an earlier one.
    ///
    /// # Errors
    /// Docker's words, or why a seccomp profile cannot be used.
    pub fn of(spec: &ContainerSpec) -> Result<Security, String> {
        let mut security = Security { unconfined: spec.privileged, system_paths: spec.privileged, ..Security::default() };
        for option in &spec.security_opt {
            let second = || format!("invalid --security-opt 2: \"{option}\"");
            let (key, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
                Some(pair) => pair,
                None if option == "no-new-privileges" => (option.as_str(), "true"),
                // There is no SELinux to label for.
                None if option == "disable" => continue,
                None => return Err(format!("invalid --security-opt 1: \"{option}\"")),
            };
            match (key, value) {
                ("label", _) => {}
                ("apparmor", "unconfined") => security.apparmor = AppArmor::Unconfined,
                ("apparmor", profile) => security.apparmor = AppArmor::Named(profile.into()),
                ("seccomp", "unconfined") => (security.unconfined, security.seccomp) = (true, None),
                ("seccomp", "builtin") => security.seccomp = None,
                ("seccomp", profile) => security.seccomp = Some(profile.into()),
                ("no-new-privileges", value) => security.no_new_privileges = units::boolean(value).ok_or_else(second)?,
                ("systempaths", "unconfined") => security.system_paths = true,
                ("writable-cgroups", _) => {
                    return Err(format!("the security option `{option}` is not supported: wharf has no writable-cgroups"));
                }
                _ => return Err(second()),
            }
        }
        if let Some(profile) = security.seccomp.as_ref().filter(|_| !security.unconfined) {
            let capabilities = spec.capabilities().unwrap_or_default();
            compile(profile, capabilities).map_err(|why| format!("the seccomp profile: {why}"))?;
        }
        Ok(security)
    }
}

/// Compiles a user's profile.
///
/// # Errors
/// A sentence: the file, and what is wrong with it.
pub fn compile(path: &str, capabilities: Capabilities) -> Result<Vec<BpfInstruction>, String> {
    let profile = Profile::read(Path::new(path))?;
    seccomp::compile(&profile, capabilities).map_err(|why| format!("the seccomp profile {path}: {why}"))
}
