//! AppArmor: the profile of every container that asks for no other, and how a process gets one.

use super::error::{Doing, StepFailed};
use crate::sys::procfs;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// The name of the profile that containers have by default.
pub const DEFAULT: &str = "wharf-default";

const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// Where AppArmor's own rules are, which a profile may take in.
const RULES: &str = "/etc/apparmor.d";

/// Rules of Docker's default profile (moby/profiles, `apparmor/template.go`): everything that capabilities and
/// seccomp let through, but no mount, no AF_ALG (which a 32-bit program reaches by a call whose arguments seccomp does not see),
/// and no write to the kernel's own files below /proc and /sys.
const PROFILE: &str = r"
  network,
  deny network alg,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send, receive) peer=wharf-default,
  ptrace (trace, read, tracedby, readby) peer=wharf-default,
  deny mount,
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9/],[^1-9/][^0-9/],[^1-9s/][^0-9y/][^0-9s/],[^1-9/][^0-9/][^0-9/][^0-9/]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
";

/// The profile, with what this host has of AppArmor's own rules. Version 3.0 of its language: in later ones `network` has no
/// sockets of the family unix.
fn profile(rules: &Path) -> String {
    let has = |name: &str| rules.join(name).exists();
    let abi = if has("abi/3.0") { "abi <abi/3.0>,\n" } else { "" };
    let variables = if has("tunables/global") { "#include <tunables/global>" } else { "@{PROC}=/proc/" };
    let base = if has("abstractions/base") { "  #include <abstractions/base>" } else { "" };
    format!("{abi}{variables}\nprofile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{\n{base}{PROFILE}}}\n")
}

#[cfg(test)]
pub(super) fn rules() -> impl Iterator<Item = &'static str> {
    PROFILE.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// Whether the kernel confines by AppArmor.
pub fn is_enabled() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
        && Path::new(LOADED).exists()
}

/// Whether a profile is loaded.
pub fn is_loaded(profile: &str) -> bool {
    let text = std::fs::read_to_string(LOADED).unwrap_or_default();
    text.lines().any(|line| line.rsplit_once(" (").is_some_and(|(name, _)| name == profile))
}

/// Loads the default profile by `apparmor_parser`, which every distribution with AppArmor has.
///
/// # Errors
/// When there is no such program, or the kernel refuses.
pub fn load_default() -> io::Result<()> {
    let mut parser = Command::new("apparmor_parser")
        .args(["--skip-cache", "--replace"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = parser.stdin.take() {
        input.write_all(profile(Path::new(RULES)).as_bytes())?;
    }
    let output = parser.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_string()))
}

/// Has the calling process, and those that it forks, get a profile when they execute a program. It writes to the procfs that is
/// mounted now: the host's, when nothing of the container is mounted yet (CVE-2019-16884).
pub fn confine_at_exec(profile: &str) -> Result<(), StepFailed> {
    open_attribute("exec")
        .and_then(|mut file| file.write_all(format!("exec {profile}").as_bytes()))
        .doing(format_args!("asking for the AppArmor profile {profile}"))
}

/// Opens one of AppArmor's files of this thread. Kernels before 5.8 have it in the place of any security module's.
fn open_attribute(name: &str) -> io::Result<File> {
    let own = Path::new("thread-self/attr/apparmor").join(name);
    let file = procfs::open_file(&own, libc::O_WRONLY);
    let file = file.or_else(|_| procfs::open_file(&Path::new("thread-self/attr").join(name), libc::O_WRONLY));
    file.map(File::from)
}

/// The way for this process to confine itself later, when the procfs that is mounted is the container's.
pub struct Confinement {
    current: File,
    profile: String,
}

impl Confinement {
    /// # Errors
    /// When the kernel's file is not there.
    pub fn prepare(profile: &str) -> Result<Self, StepFailed> {
        let current = open_attribute("current").doing("opening the way to an AppArmor profile")?;
        Ok(Confinement { current, profile: profile.to_string() })
    }

    /// Confines the process that has prepared it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter(mut self) -> io::Result<()> {
        self.current.write_all(format!("changeprofile {}", self.profile).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_takes_in_what_the_host_has() {
        let rules = tempfile::tempdir().unwrap();
        let bare = profile(rules.path());
        assert!(bare.starts_with("@{PROC}=/proc/\nprofile wharf-default flags="), "{bare}");
        assert!(bare.ends_with("rwklx,\n}\n") && !bare.contains("include") && !bare.contains("abi <"), "{bare}");
        for name in ["abi/3.0", "tunables/global", "abstractions/base"] {
            std::fs::create_dir_all(rules.path().join(name)).unwrap();
        }
        let full = profile(rules.path());
        assert!(full.starts_with("abi <abi/3.0>,\n#include <tunables/global>\nprofile"), "{full}");
        assert!(full.contains("{\n  #include <abstractions/base>\n  network,\n"), "{full}");
    }
}
