//! The vocabulary of the scenarios: a stack of its own for each test, what is done to it, and what must be seen.
//!
//! Every stack has its own data and run roots, so tests run beside each other and beside a user's stacks. When it is
//! dropped, it checks that nothing of it is left: processes, mounts, interfaces, control groups, firewall tables.

pub mod api_server;
pub mod buildkit;
pub mod machine;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub struct Stack {
    root: tempfile::TempDir,
    pub project: String,
}

/// What a command has said, and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// # Panics
    /// When the command failed.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "the command failed:\n{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// # Panics
    /// When the command did not fail with the code, or did not say the words.
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "no `{word}` in:\n{}", self.stderr);
        }
        self
    }
}

/// A condition that must come true within a bound.
///
/// # Panics
/// When it does not.
pub fn eventually(what: &str, seconds: u64, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(seconds), "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Does something in the network namespace of a service's first container.
pub fn inside<T: Send + 'static>(stack: &Stack, service: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let pid = stack.pid(&format!("{}-{service}-1", stack.project));
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).expect("namespace");
    let thread = std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
        work()
    });
    thread.join().expect("thread")
}

/// A question of DNS for a name's IPv4 address.
pub fn question(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// A tar of a root file system with busybox alone, made once.
pub fn busybox_tar() -> &'static Path {
    static TAR: OnceLock<tempfile::NamedTempFile> = OnceLock::new();
    TAR.get_or_init(|| {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let mut tar = tar::Builder::new(&file);
        let header = |kind, mode, size| {
            let mut h = tar::Header::new_gnu();
            h.set_entry_type(kind);
            h.set_mode(mode);
            h.set_size(size);
            h.set_uid(0);
            h.set_gid(0);
            h.set_mtime(1_700_000_000);
            h
        };
        for dir in ["bin", "etc", "tmp", "root", "var", "proc", "sys", "dev", "home"] {
            let mode = if dir == "tmp" { 0o1777 } else { 0o755 };
            tar.append_data(&mut header(tar::EntryType::Directory, mode, 0), dir, std::io::empty()).expect("directory");
        }
        let binary = std::fs::read("/bin/busybox").expect("busybox-static is installed");
        tar.append_data(&mut header(tar::EntryType::Regular, 0o755, binary.len() as u64), "bin/busybox", &binary[..])
            .expect("busybox");
        let list = Command::new("/bin/busybox").arg("--list").output().expect("busybox runs");
        for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|a| *a != "busybox") {
            tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), format!("bin/{applet}"), "busybox").expect("link");
        }
        for (name, text) in [
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"),
            ("etc/group", "root:x:0:\napp:x:1000:\nlog:x:4:app\n"),
        ] {
            tar.append_data(&mut header(tar::EntryType::Regular, 0o644, text.len() as u64), name, text.as_bytes()).expect("file");
        }
        tar.finish().expect("tar");
        drop(tar);
        file
    })
    .path()
}

impl Stack {
    /// A stack with the files of `tests/scenarios/NAME` and the image `busybox:local`.
    pub fn new(name: &str) -> Self {
        let stack = Self::bare(name);
        stack.import_busybox();
        stack
    }

    pub fn import_busybox(&self) {
        let tar = busybox_tar().to_str().expect("path");
        self.wharf(&["image", "import", tar, "busybox:local", "--change", "CMD [\"sh\"]"]).ok();
    }

    /// A stack without any image.
    pub fn bare(name: &str) -> Self {
        let root = tempfile::Builder::new().prefix("wharf-test-").tempdir_in("/var/tmp").expect("temporary directory");
        let project = root.path().join("project");
        std::fs::create_dir(&project).expect("directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios").join(name);
        for entry in std::fs::read_dir(source).into_iter().flatten().flatten() {
            std::fs::copy(entry.path(), project.join(entry.file_name())).expect("copy");
        }
        let unique = root.path().file_name().expect("name").to_string_lossy().to_lowercase().replace("wharf-test-", "");
        let unique: String = unique.chars().filter(char::is_ascii_alphanumeric).collect();
        Stack { project: format!("t{unique}"), root }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("project").join(name)
    }

    pub fn run_root(&self) -> PathBuf {
        self.root.path().join("run")
    }

    pub fn data_root(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// How many containers have files, whether or not anybody knows them. Beside them is wharf's mark.
    pub fn container_directories(&self) -> usize {
        let entries = std::fs::read_dir(self.data_root().join("containers")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name() != ".wharf").count()
    }

    /// Replaces a file of the project.
    /// Compiles `tests/stacks/support/NAME.c` to the file `NAME` of the project; statically, since containers have no libraries.
    pub fn compile(&self, name: &str) {
        let source = format!("{}/tests/stacks/support/{name}.c", env!("CARGO_MANIFEST_DIR"));
        let built = Command::new("cc").args(["-static", "-O1", &source, "-o"]).arg(self.path(name)).status().expect("cc");
        assert!(built.success(), "{name}.c");
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("write");
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command
            .args(args)
            .current_dir(self.root.path().join("project"))
            .env("WHARF_DATA_ROOT", self.data_root())
            .env("WHARF_RUN_ROOT", self.run_root())
            .env("COMPOSE_PROJECT_NAME", &self.project)
            .env_remove("COMPOSE_FILE")
            .stdin(Stdio::null());
        command
    }

    pub fn wharf(&self, args: &[&str]) -> Ran {
        let output = self.command(args).output().expect("wharf runs");
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// A request to the engine's socket as Docker's clients make it: the status and the answer, as JSON where it is JSON.
    pub fn api(&self, method: &str, path: &str, body: Option<&serde_json::Value>) -> (u16, serde_json::Value) {
        let socket = self.run_root().join("engine.sock");
        let mut command = Command::new("curl");
        command.args(["-s", "--max-time", "30", "-X", method, "-w", "\n%{http_code}", "--unix-socket"]).arg(socket);
        if let Some(body) = body {
            command.args(["-H", "Content-Type: application/json", "-d", &body.to_string()]);
        }
        let output = command.arg(format!("http://docker{path}")).output().expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("no answer to {method} {path}: {output:?}"));
        let value = serde_json::from_str(answer).unwrap_or_else(|_| serde_json::Value::String(answer.to_string()));
        (status.parse().expect("a status"), value)
    }

    /// The output of a shell command in a service's container, without the last newline.
    pub fn sh(&self, service: &str, script: &str) -> String {
        self.wharf(&["exec", "-T", service, "sh", "-c", script]).ok().trim_end().to_string()
    }

    /// The project's containers, as `ps -a --format json` shows them.
    pub fn ps(&self) -> Vec<serde_json::Value> {
        let text = self.wharf(&["ps", "-a", "--format", "json"]).ok();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// One container of a service.
    ///
    /// # Panics
    /// When the service has none.
    pub fn container(&self, service: &str) -> serde_json::Value {
        self.ps().into_iter().find(|c| c["Service"] == service).unwrap_or_else(|| panic!("no container of {service}"))
    }

    pub fn state(&self, service: &str) -> String {
        self.container(service)["State"].as_str().expect("state").to_string()
    }

    pub fn id(&self, service: &str) -> String {
        // A list shows its first twelve digits.
        let short = self.container(service)["ID"].as_str().expect("id").to_string();
        let known: serde_json::Value = serde_json::from_str(&self.wharf(&["container", "inspect", &short]).ok()).expect("JSON");
        known[0]["Id"].as_str().expect("id").to_string()
    }

    /// The first process of a container, by the container's name.
    pub fn pid(&self, container: &str) -> i64 {
        let known: serde_json::Value =
            serde_json::from_str(&self.wharf(&["container", "inspect", container]).ok()).expect("JSON");
        known[0]["State"]["Pid"].as_i64().expect("pid")
    }

    /// Where a container's control group is, of a v1 controller or of v2, as the kernel tells it of the container's first process.
    pub fn group(&self, container: &str, controller: &str) -> PathBuf {
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", self.pid(container))).expect("cgroup");
        let lines: Vec<Vec<&str>> = groups.lines().map(|line| line.splitn(3, ':').collect()).collect();
        match lines.iter().find(|line| line[1].split(',').any(|known| known == controller)) {
            Some(line) => PathBuf::from(format!("/sys/fs/cgroup/{controller}{}", line[2])),
            None => PathBuf::from(format!("/sys/fs/cgroup{}", lines.iter().find(|line| line[0] == "0").expect("v2")[2])),
        }
    }

    /// The engine's process.
    pub fn engine_pid(&self) -> Option<i32> {
        self.processes()
            .into_iter()
            .find(|(_, line)| line.contains("\0engine\0") || line.ends_with("\0engine"))
            .map(|(pid, _)| pid)
    }

    /// The processes beside running containers.
    pub fn monitors(&self) -> Vec<i32> {
        self.processes().into_iter().filter(|(_, line)| line.contains("\0monitor\0")).map(|(pid, _)| pid).collect()
    }

    /// Processes that have this stack's run root in their command lines.
    fn processes(&self) -> Vec<(i32, String)> {
        let needle = self.run_root().to_string_lossy().into_owned();
        let line = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok();
        let pids = std::fs::read_dir("/proc")
            .expect("proc")
            .flatten()
            .filter_map(|e| e.file_name().to_string_lossy().parse::<i32>().ok());
        pids.filter_map(|pid| Some((pid, line(pid)?))).filter(|(_, line)| line.contains(&needle)).collect()
    }

    /// Ids of every container and network that this stack has ever had.
    fn ids(&self) -> Vec<String> {
        let journal = std::fs::read_to_string(self.data_root().join("state.journal")).unwrap_or_default();
        let mut ids: Vec<String> = journal
            .lines()
            .filter_map(|line| line.split_once("\"k\":\"")?.1.split('"').next().map(str::to_string))
            .filter(|key| key.starts_with("container/") || key.starts_with("network/"))
            .filter_map(|key| key.split_once('/').map(|(_, id)| id.to_string()))
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// What of this stack is still on the machine.
    fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let root = self.root.path().to_string_lossy().into_owned();
        left.extend(self.processes().into_iter().map(|(pid, line)| format!("process {pid}: {}", line.replace('\0', " "))));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        left.extend(mounts.lines().filter(|l| l.contains(&root) && !l.contains("wharf-test-disk")).map(|l| format!("mount {l}")));
        let links: Vec<String> = std::fs::read_dir("/sys/class/net")
            .expect("net")
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        for id in self.ids() {
            left.extend(
                links
                    .iter()
                    .filter(|l| l.starts_with(&format!("wh{}", &id[..8])) || **l == format!("br-{}", &id[..12]))
                    .map(|l| format!("interface {l}")),
            );
            let own =
                ["memory/wharf", "pids/wharf", "systemd/wharf", "wharf"].map(|group| Path::new("/sys/fs/cgroup").join(group));
            // Under systemd each engine has a scope of its own.
            let scopes =
                std::fs::read_dir("/sys/fs/cgroup/wharf.slice").into_iter().flatten().flatten().map(|entry| entry.path());
            for group in own.into_iter().chain(scopes) {
                let path = group.join(&id);
                if path.exists() {
                    left.push(format!("cgroup {}", path.display()));
                }
            }
        }
        let tables = Command::new("nft").args(["list", "ruleset"]).output().expect("nft");
        let rules = String::from_utf8_lossy(&tables.stdout).into_owned();
        for id in self.ids() {
            if rules.contains(&format!("br-{}", &id[..12])) {
                left.push(format!("firewall rules of br-{}", &id[..12]));
            }
        }
        left
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            let log = std::fs::read_to_string(self.run_root().join("engine.log")).unwrap_or_default();
            eprintln!("--- ps -a\n{}--- engine.log\n{log}", self.wharf(&["ps", "-a"]).stdout);
        }
        let down = self.wharf(&["down", "-v", "-t", "1", "--remove-orphans"]);
        if failed {
            // What the test has made besides its project would stay on the machine, and be in the way of others.
            let left = self.wharf(&["container", "ls", "-aq"]).stdout;
            for id in left.split_whitespace() {
                self.wharf(&["container", "rm", "-f", id]);
            }
            self.wharf(&["network", "prune", "-f"]);
        }
        self.wharf(&["engine", "stop"]);
        if failed {
            return;
        }
        assert_eq!(down.code, 0, "down failed: {}", down.stderr);
        let begun = Instant::now();
        loop {
            let left = self.leftovers();
            if left.is_empty() {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "left behind:\n{}", left.join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A service that sleeps, as a flow mapping's inside, with further attributes.
pub fn sleeping(rest: &str) -> String {
    format!("image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL{}{rest}", if rest.is_empty() { "" } else { ", " })
}

/// What a process writes, collected as it comes.
pub fn follow(mut from: impl std::io::Read + Send + 'static) -> std::sync::Arc<std::sync::Mutex<String>> {
    let said = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let into = said.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            into.lock().expect("lock").push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    });
    said
}

/// A command on a terminal of its own.
pub struct Terminal {
    child: std::process::Child,
    master: std::fs::File,
    said: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Terminal {
    pub fn start(command: &mut Command, rows: u16, columns: u16) -> Self {
        let size = nix::pty::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = nix::pty::openpty(&size, None).expect("pty");
        let end = || Stdio::from(pty.slave.try_clone().expect("dup"));
        // The terminal is that of its session, so that what is typed becomes signals.
        // Whoever starts the tests in the background has them ignore Ctrl-C; a terminal's programs do not.
        let mut own = Command::new("env");
        own.args(["--default-signal=INT,QUIT,HUP", "setsid", "-c"]).arg(command.get_program()).args(command.get_args());
        if let Some(directory) = command.get_current_dir() {
            own.current_dir(directory);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => own.env(name, value),
                None => own.env_remove(name),
            };
        }
        let child = own.stdin(end()).stdout(end()).stderr(end()).spawn().expect("spawn");
        drop(pty.slave);
        let master = std::fs::File::from(pty.master);
        let said = follow(master.try_clone().expect("dup"));
        Terminal { child, master, said }
    }

    /// Whether its program has a handler for a signal.
    pub fn catches(&self, signal: nix::sys::signal::Signal) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("status");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("SigCgt");
        u64::from_str_radix(caught.trim(), 16).expect("a mask") & (1 << (signal as i32 - 1)) != 0
    }

    pub fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("kill");
    }

    pub fn send(&mut self, text: &str) {
        std::io::Write::write_all(&mut self.master, text.as_bytes()).expect("type");
    }

    /// Waits until a text has been shown since the last that was waited for.
    ///
    /// # Panics
    /// When it is not within the bound.
    pub fn expect(&self, text: &str, seconds: u64) {
        let begun = Instant::now();
        loop {
            let mut said = self.said.lock().expect("lock");
            if let Some(at) = said.find(text) {
                said.drain(..at + text.len());
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(seconds), "no `{text}` in: {said}");
            drop(said);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What has been shown since the last that was waited for.
    pub fn shown(&self) -> String {
        self.said.lock().expect("lock").clone()
    }

    /// What has been shown when nobody has the terminal any more, so that no more comes.
    pub fn shown_at_the_end(&self) -> String {
        // The reader's share goes with it.
        eventually("all is read", 5, || std::sync::Arc::strong_count(&self.said) == 1);
        self.shown()
    }

    /// Gives the terminal another size, which its programs hear of.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = format!("stty -F /proc/{}/fd/0 rows {rows} columns {columns}", self.child.id());
        assert!(Command::new("sh").args(["-c", &size]).status().expect("stty").success());
    }

    /// Whether what is typed comes as it is, without the terminal's own editing.
    pub fn is_raw(&self) -> bool {
        let modes = nix::sys::termios::tcgetattr(&self.master).expect("termios");
        !modes.local_flags.contains(nix::sys::termios::LocalFlags::ICANON)
    }

    /// Its exit code, as a shell shows it.
    ///
    /// # Panics
    /// When it does not end within the bound.
    pub fn wait(&mut self, seconds: u64) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status.code().or(std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal));
            }
            assert!(begun.elapsed() < Duration::from_secs(seconds), "it goes on: {}", self.said.lock().expect("lock"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
