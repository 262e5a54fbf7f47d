//! A container that tries to get at the host through its mounts, its volumes and what the runtime does for it.

use crate::support::{Stack, eventually, sleeping};

/// What a sysctl of the host says, put back when the test is over: an attack that works must not stay on the machine.
struct Untouched {
    path: &'static str,
    before: String,
}

impl Untouched {
    fn of(path: &'static str) -> Self {
        Untouched { path, before: std::fs::read_to_string(path).expect(path) }
    }

    fn assert(&self) {
        assert_eq!(std::fs::read_to_string(self.path).expect(self.path), self.before, "{} was written", self.path);
    }
}

impl Drop for Untouched {
    fn drop(&mut self) {
        if std::fs::read_to_string(self.path).is_ok_and(|now| now != self.before) {
            let _ = std::fs::write(self.path, &self.before);
        }
    }
}

const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// A tmpfs volume is found by its mount, not by a path at which the other container has put a symlink to its /proc: the masks of
/// that are mounts of their own, which a copy of /proc does not have.
#[test]
fn a_shared_volume_is_not_looked_up_by_name() {
    let stack = Stack::new("nothing");
    let untouched = Untouched::of(CORE_PATTERN);
    for runtime in ["wharf", "runc"] {
        let holder = sleeping(&format!("volumes: ['memory:/x/m'], runtime: {runtime}"));
        let user = sleeping(&format!("volumes: ['memory:/m'], profiles: [later], runtime: {runtime}"));
        stack.write(
            "compose.yaml",
            &format!(
                "services: {{holder: {{{holder}}}, user: {{{user}}}}}\nvolumes: {{memory: {{driver_opts: {{type: tmpfs, device: tmpfs}}}}}}"
            ),
        );
        stack.wharf(&["up", "-d"]).ok();
        stack.sh("holder", "echo kept > /x/m/file; mv /x /y; mkdir /x; ln -s /proc /x/m");
        stack.wharf(&["up", "-d", "user"]).ok();
        let attack = "(echo x > /m/sys/kernel/core_pattern) 2>/dev/null; stat -f -c %T /m; cat /m/file";
        assert_eq!(stack.sh("user", attack), "tmpfs\nkept", "{runtime}");
        untouched.assert();
        // It is the same one for an engine that has not seen it mounted.
        let engine = stack.engine_pid().expect("an engine");
        std::process::Command::new("kill").args(["-9", &engine.to_string()]).status().expect("kill");
        eventually("another engine", 5, || stack.engine_pid().is_some_and(|pid| pid != engine));
        stack.wharf(&["restart", "-t", "0", "user"]).ok();
        assert_eq!(stack.sh("user", attack), "tmpfs\nkept", "{runtime}, after the engine was killed");
        untouched.assert();
        stack.wharf(&["--profile", "later", "down", "-v", "-t", "0"]).ok();
    }
}

/// The same of /dev/shm. Who may mount can have something else there; the other gets the tmpfs that was shared.
#[test]
fn a_shared_dev_shm_is_not_looked_up_by_name() {
    let stack = Stack::new("nothing");
    let untouched = Untouched::of(CORE_PATTERN);
    for runtime in ["wharf", "runc"] {
        let holder = sleeping(&format!(
            "ipc: shareable, cap_add: [SYS_ADMIN], security_opt: ['seccomp:unconfined', 'apparmor:unconfined'], runtime: {runtime}"
        ));
        let user = sleeping(&format!("ipc: 'service:holder', profiles: [later], runtime: {runtime}"));
        stack.write("compose.yaml", &format!("services: {{holder: {{{holder}}}, user: {{{user}}}}}"));
        stack.wharf(&["up", "-d"]).ok();
        stack.sh("holder", "echo kept > /dev/shm/file; umount /dev/shm; mount --bind /proc /dev/shm");
        stack.wharf(&["up", "-d", "user"]).ok();
        let attack = "(echo x > /dev/shm/sys/kernel/core_pattern) 2>/dev/null; stat -f -c %T /dev/shm; cat /dev/shm/file";
        assert_eq!(stack.sh("user", attack), "tmpfs\nkept", "{runtime}");
        untouched.assert();
        stack.wharf(&["--profile", "later", "down", "-t", "0"]).ok();
    }
}
