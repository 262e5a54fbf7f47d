//! A container that tries to get at the host through its mounts, its volumes and what the runtime does for it.

use super::APP;
use crate::support::{Stack, eventually, sleeping};
use std::path::Path;

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

/// An image whose directories are symlinks into /proc and /sys, and what is to be mounted on them.
const LINKS: &str = "FROM busybox:local
RUN ln -s /proc/sys /to-proc && ln -s /sys/kernel /to-sys && ln -s /proc/self/attr /to-attr && ln -s /to-proc /twice
";

/// CVE-2019-16884, CVE-2023-27561: what is opened decides, in a container, in a build, and with another runtime.
#[test]
fn links_lead_no_mount_to_the_kernels_files() {
    let stack = Stack::new("nothing");
    let untouched = Untouched::of(CORE_PATTERN);
    std::fs::create_dir_all(stack.path("mounted/kernel")).expect("directory");
    stack.write("mounted/kernel/cap_last_cap", "0\n");
    stack.write("Dockerfile", LINKS);
    stack.wharf(&["image", "build", "-t", "links", "."]).ok();
    let refused = ["the kernel's own files"];
    for link in ["/to-proc", "/to-sys", "/to-attr", "/twice", "/to-proc/kernel", "/proc/../to-proc"] {
        for mount in [format!("volumes: ['./mounted:{link}']"), format!("volumes: ['vol:{link}']"), format!("tmpfs: '{link}'")] {
            stack.write(
                "compose.yaml",
                &format!("services: {{app: {{image: links, command: cat /proc/self/status, {mount}}}}}\nvolumes: {{vol: {{}}}}"),
            );
            stack.wharf(&["up", "-d"]).fails(1, &refused);
        }
    }
    stack.write(
        "compose.yaml",
        "services: {app: {image: links, command: cat /proc/self/status, runtime: runc, volumes: ['./mounted:/to-proc']}}",
    );
    stack.wharf(&["up", "-d"]).fails(1, &["/proc"]);
    stack.wharf(&["down", "-v"]).ok();
    // No service uses it now, so it is not the project's to remove.
    stack.wharf(&["volume", "rm", &format!("{}_vol", stack.project)]).ok();
    // A build's mounts, and those of an image's own volumes.
    stack.write("Dockerfile", "FROM links\nRUN --mount=type=cache,target=/to-proc cat /proc/self/status\n");
    stack.wharf(&["image", "build", "."]).fails(1, &refused);
    for link in ["/to-proc", "/to-sys"] {
        stack.write("Dockerfile", &format!("FROM links\nVOLUME {link}\n"));
        stack.wharf(&["image", "build", "-t", "volume", "."]).ok();
        stack.write("compose.yaml", "services: {app: {image: volume, command: sleep 1000}}");
        stack.wharf(&["up", "-d"]).fails(1, &refused);
        let volumes = stack.wharf(&["volume", "ls", "-q"]).ok().to_string();
        assert_eq!(volumes.lines().count(), 1, "the image's volume: {volumes}");
        let volumes = std::fs::read_dir(stack.data_root().join("volumes")).expect("volumes").flatten();
        let held: Vec<_> = volumes.filter_map(|v| std::fs::read_dir(v.path().join("_data")).ok()).flatten().flatten().collect();
        assert!(held.is_empty(), "{link}: the kernel's files were copied: {held:?}");
        stack.wharf(&["down", "-v"]).ok();
    }
    // Symlinks in the place of /proc and /sys themselves.
    for directory in ["proc", "sys"] {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, directory, "bin").expect("link");
        let mut header = tar::Header::new_gnu();
        let binary = std::fs::read("/bin/busybox").expect("busybox");
        header.set_mode(0o755);
        header.set_size(binary.len() as u64);
        tar.append_data(&mut header, "bin/busybox", &binary[..]).expect("busybox");
        std::fs::write(stack.path("linked.tar"), tar.into_inner().expect("tar")).expect("write");
        stack.wharf(&["image", "import", stack.path("linked.tar").to_str().expect("path"), "linked"]).ok();
        let ran = stack.wharf(&["container", "run", "--rm", "linked", "/bin/busybox", "true"]);
        ran.fails(125, &[&format!("opening /{directory}")]);
    }
    // What the user names is as before.
    stack.write("mounted/file", "mounted");
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}, volumes: ['./mounted/file:/proc/uptime', './mounted:/sys/kernel'], security_opt: ['systempaths=unconfined']}}}}"));
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.sh("app", "cat /proc/uptime /sys/kernel/file"), "mountedmounted");
    untouched.assert();
}

/// The container itself puts a symlink where a volume was, and is started again.
#[test]
fn a_second_start_and_exec_have_no_more_capabilities_than_the_first() {
    let stack = Stack::new("nothing");
    let bounding = |service: &str| stack.sh(service, "grep CapBnd /proc/1/status /proc/self/status | cut -f 2 | sort -u");
    for runtime in ["wharf", "runc"] {
        let app = sleeping(&format!("volumes: ['vol:/a/b'], runtime: {runtime}"));
        let admin = sleeping(&format!(
            "cap_add: [SYS_ADMIN], security_opt: ['seccomp:unconfined', 'apparmor:unconfined'], runtime: {runtime}"
        ));
        stack.write("compose.yaml", &format!("services: {{app: {{{app}}}, admin: {{{admin}}}}}\nvolumes: {{vol: {{}}}}"));
        stack.wharf(&["up", "-d"]).ok();
        assert_eq!(bounding("app"), "00000000a80425fb", "{runtime}");
        stack.sh("app", "mkdir /a/b/kernel; echo 0 > /a/b/kernel/cap_last_cap; mv /a /old; mkdir /a; ln -s /proc/sys /a/b");
        stack.wharf(&["stop", "app"]).ok();
        stack.wharf(&["start", "app"]).fails(1, &["/a/b"]);
        assert_ne!(stack.state("app"), "running");
        // Who may mount has another /proc/sys without it.
        assert_eq!(bounding("admin"), "00000000a82425fb", "{runtime}");
        stack.sh("admin", "mount -t tmpfs t /proc/sys && mkdir /proc/sys/kernel && echo 0 > /proc/sys/kernel/cap_last_cap");
        // runc (1.1.5, and others of its time) reads the container's own /proc there.
        if runtime == "wharf" {
            assert_eq!(bounding("admin"), "00000000a82425fb", "exec");
        }
        stack.wharf(&["down", "-v", "-t", "0"]).ok();
    }
}

/// A file that the image brings, in a volume that another container has already: it is replaced by a symlink to the host's while
/// it is copied.
#[test]
fn filling_a_volume_follows_no_link() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let stack = Stack::new("nothing");
    stack.write("victim", "of the host");
    let victim = stack.path("victim");
    std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o600)).expect("mode");
    stack.write(
        "Dockerfile",
        "FROM busybox:local\nRUN mkdir /data && dd if=/dev/zero of=/data/a bs=1M count=64 && chown 1000:1000 /data/a && chmod 4777 /data/a\n",
    );
    stack.wharf(&["image", "build", "-t", "filling", "."]).ok();
    let script = format!("until [ -e /v/a ]; do :; done; rm /v/a; ln -s {} /v/a; sleep 1000", victim.display());
    stack.write(
        "compose.yaml",
        &format!(
            "services:
  attacker: {{image: 'busybox:local', command: [sh, -c, '{script}'], stop_signal: SIGKILL, volumes: [{{type: volume, source: vol, target: /v, volume: {{nocopy: true}}}}]}}
  user: {{image: filling, command: sleep 1000, stop_signal: SIGKILL, volumes: ['vol:/data'], profiles: [later]}}
volumes: {{vol: {{}}}}
"
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["up", "-d", "user"]).ok();
    assert_eq!(stack.sh("attacker", "readlink /v/a"), victim.display().to_string(), "the attack came too late");
    let after = std::fs::metadata(&victim).expect("victim");
    assert_eq!((after.mode() & 0o7777, after.uid()), (0o600, 0));
}

/// Another's processes in sight, the root of the host's first one is in sight, too: no directory is made there.
#[test]
fn a_working_directory_is_made_in_the_container_alone() {
    let stack = Stack::new("nothing");
    let outside = stack.path("outside");
    let path = format!("/proc/1/root{}", outside.display());
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}, pid: host, working_dir: '{path}'}}}}"));
    stack.wharf(&["up", "-d"]).fails(1, &["in the container"]);
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}, pid: host, working_dir: /made/here}}}}"));
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["exec", "-T", "-w", &path, "app", "true"]).fails(126, &["in the container", "Permission denied"]);
    assert!(!outside.exists());
    assert_eq!(stack.sh("app", "pwd; stat -c %a /made/here"), "/made/here\n755");
}

/// What a container writes to its /etc/hosts is where its layer is, and not in the host's memory, in which no container could be
/// started any more.
#[test]
fn a_containers_own_files_do_not_fill_the_hosts_memory() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}, hostname: named}}}}"));
    stack.wharf(&["up", "-d"]).ok();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(stack.data_root().to_str().expect("path")), "nothing is mounted on the host");
    for file in ["hosts", "hostname", "resolv.conf"] {
        let written = format!("dd if=/dev/zero of=/etc/{file} bs=1M count=8 2>/dev/null; stat -c %s /etc/{file}");
        assert_eq!(stack.sh("app", &written), (8 << 20).to_string(), "{file}: the container may write it");
    }
    let mut held = 0;
    let mut directories = vec![stack.run_root()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("run root").flatten() {
            let metadata = entry.metadata().expect("metadata");
            held += metadata.len();
            directories.extend(metadata.is_dir().then(|| entry.path()));
        }
    }
    assert!(held < 1 << 20, "{held} bytes in the run root");
    // As Docker has it, a start writes them anew.
    stack.wharf(&["restart", "-t", "0", "app"]).ok();
    assert_eq!(
        stack.sh("app", "cat /etc/hostname; stat -c '%a %u' /etc/hostname; tail -1 /etc/hosts | cut -f 2"),
        "named\n644 0\nnamed"
    );
    stack.sh("app", "echo '10.0.0.1 mine' >> /etc/hosts");
    assert!(stack.sh("app", "cat /etc/hosts").ends_with("10.0.0.1 mine"));
}

/// No user of the host gets at containers' files, or keeps an engine from starting by holding its lock; whatever modes a version
/// before has left.
#[test]
fn other_users_of_the_host_are_kept_out() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::process::CommandExt;
    let stack = Stack::bare("nothing");
    let (run, data) = (stack.run_root(), stack.data_root());
    let open = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
    open(run.parent().expect("the test's directory"), 0o755);
    for path in [&run, &data, &run.join("containers"), &data.join("containers"), &data.join("volumes")] {
        std::fs::create_dir_all(path).expect("directory");
        open(path, 0o755);
    }
    let lock = run.join("engine.lock");
    std::fs::write(&lock, "").expect("lock");
    open(&lock, 0o644);
    let mut holder = std::process::Command::new("flock")
        .arg("--no-fork")
        .arg(&lock)
        .args(["sleep", "1000"])
        .uid(1000)
        .gid(1000)
        .spawn()
        .expect("flock");
    let locked = || std::process::Command::new("flock").arg("-n").arg(&lock).arg("true").status().expect("flock");
    eventually("the user has the lock", 5, || !locked().success());
    stack.wharf(&["container", "ls"]).ok();
    let mode = |path: &Path| std::fs::symlink_metadata(path).expect("metadata").mode() & 0o7777;
    let modes =
        [&run, &data, &lock, &run.join("containers"), &data.join("containers"), &data.join("volumes")].map(|path| mode(path));
    assert_eq!(modes, [0o700, 0o710, 0o600, 0o700, 0o710, 0o711]);
    let user = |path: &Path| std::process::Command::new("cat").arg(path).uid(1000).gid(1000).output().expect("cat");
    for path in [&lock, &data.join("engine.lock"), &run.join("engine.start")] {
        assert!(String::from_utf8_lossy(&user(path).stderr).contains("Permission denied"), "{}", path.display());
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(holder.id() as i32), nix::sys::signal::Signal::SIGKILL).expect("kill");
    holder.wait().expect("flock");
    stack.wharf(&["engine", "stop"]).ok();
    // A symlink in its place is not followed.
    let victim = stack.path("victim");
    std::fs::write(&victim, "").expect("file");
    open(&victim, 0o644);
    std::fs::remove_file(&lock).expect("lock");
    symlink(&victim, &lock).expect("link");
    stack.wharf(&["container", "ls"]).ok();
    assert_eq!((mode(&victim), mode(&lock)), (0o644, 0o600));
    stack.wharf(&["engine", "stop"]).ok();
    // Directories that are somebody else's, or hold somebody else's files.
    let with = |run: &Path| stack.command(&["container", "ls"]).env("WHARF_RUN_ROOT", run).output().expect("wharf");
    let theirs = stack.path("theirs");
    std::fs::create_dir(&theirs).expect("directory");
    nix::unistd::chown(&theirs, Some(1000.into()), Some(1000.into())).expect("chown");
    let said = with(&theirs);
    assert!(String::from_utf8_lossy(&said.stderr).contains("belongs to the user 1000"), "{said:?}");
    let full = stack.path("full");
    std::fs::create_dir(&full).expect("directory");
    std::fs::write(full.join("file"), "").expect("file");
    open(&full, 0o755);
    let said = with(&full);
    assert!(String::from_utf8_lossy(&said.stderr).contains("not wharf's"), "{said:?}");
    assert_eq!(mode(&full), 0o755);
}

/// FIFOs and devices in the place of files that the runtime reads, and a set-user-ID program or a device on what the engine mounts.
#[test]
fn special_files_hang_no_start() {
    let stack = Stack::new("nothing");
    stack.write(
        "Dockerfile",
        "FROM busybox:local\nRUN rm /etc/passwd /etc/group && mkfifo /etc/passwd && mknod /etc/group c 1 5\nCMD [\"sleep\", \"1000\"]\n",
    );
    stack.wharf(&["image", "build", "-t", "special", "."]).ok();
    let service = |runtime: &str| {
        format!("services: {{app: {{image: special, stop_signal: SIGKILL, user: '1000:1000', runtime: {runtime}}}}}")
    };
    stack.write("compose.yaml", &service("wharf"));
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.sh("app", "grep '^[UG]id' /proc/self/status | cut -f 2"), "1000\n1000");
    stack.wharf(&["exec", "-T", "-u", "7", "app", "cat", "/proc/self/status"]).ok();
    stack.wharf(&["exec", "-T", "-u", "root", "app", "true"]).fails(128, &["no user `root`"]);
    // runc opens them by itself, and would wait.
    stack.write("compose.yaml", &service("runc"));
    stack.wharf(&["up", "-d"]).fails(1, &["/etc/passwd of the image", "not a regular file"]);
    // An image that is mounted in a container is there to be read and run, and nothing more.
    stack.write(
        "compose.yaml",
        &format!("services: {{app: {{{APP}, volumes: [{{type: image, source: special, target: /image}}]}}}}"),
    );
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.sh("app", "/image/bin/busybox echo runs; head -c 1 /image/etc/group 2>&1; mount | grep ' /image ' | grep -oE 'noexec|nosuid|nodev|ro,'"), "runs\nhead: /image/etc/group: Permission denied\nro,\nnosuid\nnodev");
}

/// Who can make groups in a container's control group is charged to it, and may nest them until no path reaches the last.
#[test]
fn control_groups_are_roots_alone_and_go_however_deep_they_are() {
    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::{Mode, mkdirat};
    use std::os::unix::fs::PermissionsExt;
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{app: {{{}}}}}", sleeping("")));
    stack.wharf(&["up", "-d"]).ok();
    let container = format!("{}-app-1", stack.project);
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", stack.pid(&container))).expect("cgroup");
    let mut seen = 0;
    for line in groups.lines() {
        let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let mount = controllers.strip_prefix("name=").unwrap_or(controllers).split(',').next().unwrap_or_default();
        let Ok(metadata) = std::fs::metadata(format!("/sys/fs/cgroup/{mount}{path}")) else { continue };
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o755, "{line}");
        seen += 1;
    }
    assert!(seen > 0, "{groups}");
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut here = nix::fcntl::open(&stack.group(&container, "pids"), flags, Mode::empty()).expect("the group");
    for depth in 0..800 {
        let made = mkdirat(&here, "nested", Mode::S_IRWXU).and_then(|()| openat(&here, "nested", flags, Mode::empty()));
        here = made.unwrap_or_else(|e| panic!("{depth} deep: {e}"));
    }
    drop(here);
    assert!(stack.wharf(&["top", "app"]).ok().contains("sleep"));
    let path = stack.group(&container, "pids");
    stack.wharf(&["down"]).ok();
    assert!(!path.exists(), "{} is left", path.display());
}
