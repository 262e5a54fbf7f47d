//! Sets of Linux capabilities, by the names that Compose files use.

/// A set of capabilities, a bit for each number of capabilities(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Capabilities(pub u64);

/// In the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Docker's default capabilities (moby, `oci/caps/defaults.go`).
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

impl Capabilities {
    pub fn docker_default() -> Self {
        Capabilities(DEFAULT.iter().filter_map(|name| bit(name)).fold(0, |set, bit| set | bit))
    }

    pub fn all() -> Self {
        Capabilities((1 << NAMES.len()) - 1)
    }

    /// Those that this process can give.
    pub fn held() -> Self {
        let has = |number: &u32| crate::sys::bounding_capability(*number) == Some(true);
        Capabilities((0..NAMES.len() as u32).filter(has).fold(0, |set, number| set | 1 << number))
    }

    pub fn has(self, name: &str) -> bool {
        bit(name).is_some_and(|bit| self.0 & bit != 0)
    }

    /// The set after `cap_drop` and `cap_add`; `ALL` in either stands for every capability.
    ///
    /// # Errors
    /// The first name that is not a capability.
    pub fn adjusted(self, add: &[String], drop: &[String]) -> Result<Self, String> {
        let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
        let mask = |names: &[String]| {
            names
                .iter()
                .filter(|n| !is_all(n))
                .try_fold(0, |set, name| bit(name).map(|bit| set | bit).ok_or_else(|| name.clone()))
        };
        let mut set = if add.iter().any(is_all) { Self::all().0 } else { self.0 };
        if drop.iter().any(is_all) {
            set = if add.iter().any(is_all) { Self::all().0 } else { 0 };
        }
        Ok(Capabilities((set & !mask(drop)?) | mask(add)?))
    }

    /// The names with their prefix, as the OCI specification has them.
    pub fn names(self) -> Vec<String> {
        NAMES.iter().enumerate().filter(|(i, _)| self.0 >> i & 1 == 1).map(|(_, name)| format!("CAP_{name}")).collect()
    }
}

fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == short).map(|i| 1 << i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_is_dockers() {
        assert_eq!(Capabilities::docker_default().0, 0x0000_0000_a804_25fb);
    }

    #[test]
    fn adding_and_dropping() {
        let s = |names: &[&str]| names.iter().map(|n| (*n).to_string()).collect::<Vec<_>>();
        let base = Capabilities::docker_default();
        assert!(base.adjusted(&s(&["net_admin"]), &[]).expect("known").has("CAP_NET_ADMIN"));
        assert_eq!(base.adjusted(&[], &s(&["ALL"])), Ok(Capabilities(0)));
        assert_eq!(base.adjusted(&s(&["CAP_CHOWN"]), &s(&["all"])), Ok(Capabilities(1)));
        assert!(!base.adjusted(&s(&["ALL"]), &s(&["SYS_ADMIN"])).expect("known").has("SYS_ADMIN"));
        assert_eq!(base.adjusted(&s(&["NOPE"]), &[]), Err("NOPE".into()));
    }
}
