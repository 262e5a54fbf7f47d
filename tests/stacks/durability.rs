//! What is kept whatever happens: a damaged journal, a full disk, two engines on one data root. docs/reliability.md names these
//! tests.

use crate::support::{Ran, Stack, eventually};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A command of another engine, with a run root of its own on the stack's data root.
fn with_run_root(stack: &Stack, run_root: &Path, args: &[&str]) -> Ran {
    let output = stack.command(args).env("WHARF_RUN_ROOT", run_root).output().expect("wharf runs");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn alive(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn a_data_root_has_one_engine() {
    let stack = Stack::new("none");
    stack.wharf(&["container", "run", "-d", "--name", "c", "busybox:local", "sleep", "1000"]).ok();
    let pid = stack.pid("c");
    let engine = stack.engine_pid().expect("engine").to_string();
    let (other, run_root) = (stack.path("other-run"), stack.run_root().display().to_string());
    let said = with_run_root(&stack, &other, &["container", "ls", "-a"]);
    said.fails(1, &["the data root", "is in use", &engine, &run_root, "engine stop", "--data-root"]);
    assert!(alive(pid) && stack.engine_pid() == engine.parse().ok(), "nothing has happened");
    // A command that names another data root is not for this engine; one that names none is.
    let elsewhere = stack.path("other-data").display().to_string();
    let said = stack.wharf(&["--data-root", &elsewhere, "volume", "create", "v"]);
    said.fails(1, &["has the data root", &stack.data_root().display().to_string(), &elsewhere, "--run-root"]);
    assert!(!stack.path("other-data").exists() && !stack.data_root().join("volumes/v").exists());
    let output = stack.command(&["container", "ls", "-q"]).env_remove("WHARF_DATA_ROOT").output().expect("wharf");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1, "{output:?}");
    // The engine is gone, its container is not: to another run root it would look dead.
    stack.wharf(&["engine", "stop"]).ok();
    let said = with_run_root(&stack, &other, &["container", "ls", "-a"]);
    said.fails(1, &["run with the run root", &run_root, "engine stop --containers"]);
    assert!(alive(pid));
    assert!(stack.wharf(&["container", "ls"]).ok().contains('c'), "its own engine has it");
    assert_eq!(stack.pid("c"), pid);
    // A monitor keeps no lock, and one that brings an engine back finds the roots free.
    let engine = stack.engine_pid().expect("engine");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine), nix::sys::signal::Signal::SIGKILL).expect("kill");
    eventually("another engine", 20, || stack.engine_pid().is_some_and(|pid| pid != engine));
    eventually("it answers", 10, || stack.wharf(&["container", "ls", "-q"]).stdout.lines().count() == 1);
    assert_eq!(stack.pid("c"), pid);
    stack.wharf(&["container", "rm", "-f", "c"]).ok();
    stack.wharf(&["engine", "stop"]).ok();
    // Nothing runs: the data root is free for any run root.
    with_run_root(&stack, &other, &["container", "ls", "-a"]).ok();
    with_run_root(&stack, &other, &["engine", "stop"]).ok();
}

/// An engine that could answer nobody does not start.
#[test]
fn an_engine_needs_some_descriptors() {
    let stack = Stack::bare("none");
    let with = |limit: u32| {
        let command = stack.command(&["volume", "ls", "-q"]);
        let limited = format!("--nofile={limit}:{limit}");
        let mut prlimit = std::process::Command::new("prlimit");
        prlimit.arg(limited).arg(command.get_program()).args(command.get_args());
        prlimit.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(stack.path("."));
        prlimit.output().expect("prlimit")
    };
    // Something that an engine would know of.
    stack.wharf(&["volume", "create", "v"]).ok();
    stack.wharf(&["engine", "stop"]).ok();
    let refused = with(40);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("may have 40 open files") && said.contains("raise the limit"), "{said}");
    let answered = with(64);
    assert!(answered.status.success() && answered.stdout == b"v\n", "{answered:?}");
    stack.wharf(&["volume", "rm", "v"]).ok();
}

fn journal_of(stack: &Stack) -> PathBuf {
    stack.data_root().join("state.journal")
}

/// A journal's line, as wharf writes it.
fn line(key: &str, value: &Value) -> Vec<u8> {
    summed(&format!(r#"{{"k":"{key}","v":{value}}}"#))
}

/// A line of the journal: its checksum before it.
fn summed(text: &str) -> Vec<u8> {
    let mut sum = flate2::Crc::new();
    sum.update(text.as_bytes());
    format!("{:08x} {text}\n", sum.sum()).into_bytes()
}

/// The newest record of a key.
fn record(stack: &Stack, key: &str) -> Value {
    let text = std::fs::read_to_string(journal_of(stack)).expect("journal");
    let mut entries = text.lines().map(|line| serde_json::from_str::<Value>(&line[9..]).expect("JSON"));
    entries.rfind(|entry| entry["k"] == key).expect("record")["v"].clone()
}

fn listed(stack: &Stack, what: &str) -> Vec<String> {
    let text = stack.wharf(&[what, "ls", "-q"]).ok();
    let mut names: Vec<String> = text.lines().map(str::to_string).collect();
    names.sort();
    names
}

fn ids(stack: &Stack) -> Vec<String> {
    let text = stack.wharf(&["container", "ls", "-aq", "--no-trunc"]).ok();
    let mut ids: Vec<String> = text.lines().map(str::to_string).collect();
    ids.sort();
    ids
}

#[test]
fn a_damaged_journal_costs_no_container_and_no_file() {
    let stack = Stack::new("none");
    stack.wharf(&["network", "create", "n"]).ok();
    let script = "echo precious | tee /own /named/file /unnamed/file; exec sleep 1000";
    let names = ["a", "b", "c"];
    for name in names {
        let mount = format!("v-{name}:/named");
        let args = ["container", "run", "-d", "--name", name, "--network", "n", "-v", &mount, "-v", "/unnamed"];
        stack.wharf(&[&args[..], &["busybox:local", "sh", "-c", script]].concat()).ok();
    }
    let (known, volumes) = (ids(&stack), listed(&stack, "volume"));
    let pids = names.map(|name| stack.pid(name));
    assert_eq!((known.len(), volumes.len()), (3, 6));
    for name in names {
        eventually("the files", 5, || stack.wharf(&["container", "exec", name, "cat", "/unnamed/file"]).stdout == "precious\n");
    }
    let flip = |at: usize| move |bytes: &mut Vec<u8>| bytes[at] ^= 4;
    let ends = || {
        let bytes = std::fs::read(journal_of(&stack)).expect("journal");
        bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at).collect::<Vec<_>>()
    };
    stack.wharf(&["engine", "stop"]).ok();
    let ends = ends();
    type Damage = Box<dyn Fn(&mut Vec<u8>)>;
    let damages: Vec<(&str, Damage)> = vec![
        ("a bit of the first line", Box::new(flip(12))),
        ("a bit of the network's line", Box::new(flip(ends[0] + 60))),
        (
            "a bit in the middle",
            Box::new(|bytes: &mut Vec<u8>| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
            }),
        ),
        (
            "zeros in the middle",
            Box::new(|bytes: &mut Vec<u8>| {
                let middle = bytes.len() / 2;
                bytes.splice(middle..middle, [0; 4096]);
            }),
        ),
        (
            "cut off after two lines",
            Box::new({
                let second = ends[1] + 1;
                move |bytes: &mut Vec<u8>| bytes.truncate(second)
            }),
        ),
        ("an empty file", Box::new(Vec::clear)),
    ];
    for (what, damage) in damages {
        let mut bytes = std::fs::read(journal_of(&stack)).expect("journal");
        damage(&mut bytes);
        std::fs::write(journal_of(&stack), &bytes).expect("damage");
        let said = stack.wharf(&["container", "ls", "-a"]);
        assert!(said.code == 0 && said.stderr.contains("warning: "), "{what}: {said:?}");
        assert!(stack.wharf(&["container", "ls", "-a"]).stderr.is_empty(), "{what}: it is said once");
        let check = stack.wharf(&["system", "check"]).stdout;
        let info: Value = serde_json::from_str(&stack.wharf(&["system", "info"]).ok()).expect("JSON");
        let warning = info["Warnings"][0].as_str().unwrap_or_default();
        assert!(!warning.is_empty() && check.contains(warning), "{what}: {warning} in {check}");
        assert_eq!((ids(&stack), listed(&stack, "volume")), (known.clone(), volumes.clone()), "{what}");
        assert_eq!(names.map(|name| stack.pid(name)), pids, "{what}: all run on");
        for name in names {
            let files = stack.wharf(&["container", "exec", name, "cat", "/own", "/named/file", "/unnamed/file"]);
            assert_eq!(files.ok(), "precious\n".repeat(3), "{what}");
        }
        // Their network is theirs as before.
        let address = stack.wharf(&["container", "exec", "a", "nslookup", "b"]);
        assert_eq!(address.code, 0, "{what}: {address:?}");
        for kind in ["volume", "network", "image"] {
            let said = stack.wharf(&[kind, "prune", "-af"].map(|arg| if kind == "network" && arg == "-af" { "-f" } else { arg }));
            said.fails(1, &["nothing is pruned", "system check"]);
        }
        stack.wharf(&["engine", "stop"]).ok();
    }
    let kept = std::fs::read_dir(stack.data_root()).expect("data root").flatten();
    let kept = kept.filter(|entry| entry.file_name().to_string_lossy().starts_with("state.journal.damaged-")).count();
    assert_eq!(kept, 4, "what was cut off is no damage of a line");
    // The journal that went on is a good one.
    let said = stack.wharf(&["container", "ls", "-aq"]);
    assert!(said.stderr.is_empty() && said.stdout.lines().count() == 3, "{said:?}");
    stack.wharf(&["volume", "prune", "-af"]).ok();
    stack.wharf(&["container", "rm", "-f", "-v", "a", "b", "c"]).ok();
    stack.wharf(&["network", "rm", "n"]).ok();
    stack.wharf(&["volume", "prune", "-af"]).ok();
    assert_eq!((ids(&stack).len(), listed(&stack, "volume").len()), (0, 0));
    assert_eq!(std::fs::read_dir(stack.data_root().join("networks")).expect("manifests").count(), 0);
}

#[test]
fn a_record_of_another_version_is_shown_and_left_alone() {
    let stack = Stack::new("none");
    for name in ["strange", "other"] {
        let args = ["container", "run", "-d", "--name", name, "-v", "vol:/v", "busybox:local", "sleep", "1000"];
        stack.wharf(&args).ok();
    }
    let pid = stack.pid("strange");
    let id = stack.wharf(&["container", "inspect", "-f", "{{.Id}}", "strange"]).ok().trim().to_string();
    stack.wharf(&["engine", "stop"]).ok();
    let (key, before) = (format!("container/{id}"), record(&stack, &format!("container/{id}")));
    let mut later = before.clone();
    later["state"]["status"] = "dormant".into();
    later["of later"] = serde_json::json!({"z": 1, "a": [1.5]});
    let append = |line: &[u8]| {
        let mut journal = std::fs::File::options().append(true).open(journal_of(&stack)).expect("journal");
        journal.write_all(line).expect("append");
    };
    append(&line(&key, &later));
    let said = stack.wharf(&["container", "ls", "-a", "--format", "{{.Names}} {{.State}}"]);
    assert!(said.stdout.contains("strange unknown") && said.stdout.contains("other running"), "{said:?}");
    assert!(said.stderr.contains("strange is unknown"), "{said:?}");
    for args in [&["stop", "strange"][..], &["rm", "strange"], &["restart", "strange"], &["rename", "other", "strange"]] {
        stack.wharf(&[&["container"], args].concat()).fails(1, &["unknown to this version", "--force"]);
    }
    stack.wharf(&["container", "create", "--name", "strange", "busybox:local", "true"]).fails(1, &["unknown to this version"]);
    stack.wharf(&["container", "rm", "-f", "other"]).ok();
    stack.wharf(&["volume", "rm", "vol"]).fails(1, &["may be in use by the unknown container strange"]);
    stack.wharf(&["container", "prune", "-f"]).ok();
    stack.wharf(&["system", "prune", "-af"]).fails(1, &["nothing is pruned"]);
    assert!(alive(pid) && stack.data_root().join("containers").join(&id).join("upper").exists());
    assert_eq!(record(&stack, &key), later, "as it was written");
    // Its monitor has an engine, so it brings no other one back; the next engine finds it as it is.
    stack.wharf(&["engine", "stop"]).ok();
    assert!(stack.wharf(&["container", "ls", "-a"]).ok().contains("Unknown (running)"));
    stack.wharf(&["engine", "stop"]).ok();
    // The version that made it knows it again.
    append(&line(&key, &before));
    assert_eq!((stack.pid("strange"), alive(pid)), (pid, true));
    stack.wharf(&["engine", "stop"]).ok();
    append(&line(&key, &later));
    let remove = || stack.command(&["container", "rm", "-f", "strange"]).output().expect("wharf runs");
    let both = std::thread::scope(|scope| [scope.spawn(remove), scope.spawn(remove)].map(|one| one.join().expect("rm")));
    let refused = |ran: &&std::process::Output| {
        let said = String::from_utf8_lossy(&ran.stderr);
        !ran.status.success() && (said.contains("No such container") || said.contains("is being removed already"))
    };
    let (removed, gone) = (both.iter().filter(|ran| ran.status.success()).count(), both.iter().filter(refused).count());
    assert!(removed >= 1 && removed + gone == 2, "{both:?}");
    eventually("it is gone", 5, || !alive(pid));
    assert!(!stack.data_root().join("containers").join(&id).exists());
    assert_eq!(stack.wharf(&["container", "ls", "-aq"]).ok(), "");
    stack.wharf(&["volume", "rm", "vol"]).ok();
    // A format that is not known at all is not guessed at.
    stack.wharf(&["engine", "stop"]).ok();
    let whole = std::fs::read(journal_of(&stack)).expect("journal");
    let newer = [&line("format", &9.into()), &whole[..]].concat();
    std::fs::write(journal_of(&stack), &newer).expect("write");
    stack.wharf(&["container", "ls", "-a"]).fails(1, &["written by a newer wharf", "format 9", "--data-root"]);
    assert_eq!(std::fs::read(journal_of(&stack)).expect("journal"), newer);
    std::fs::write(journal_of(&stack), &whole).expect("write");
}

#[test]
fn what_was_half_made_or_half_removed_goes_and_nothing_else() {
    let stack = Stack::new("none");
    for name in ["stays", "goes", "made"] {
        stack.wharf(&["container", "create", "--name", name, "-v", &format!("{name}:/v"), "busybox:local", "true"]).ok();
    }
    let id = |name: &str| stack.wharf(&["container", "inspect", "-f", "{{.Id}}", name]).ok().trim().to_string();
    let (stays, goes, made) = (id("stays"), id("goes"), id("made"));
    stack.wharf(&["engine", "stop"]).ok();
    let (containers, volumes) = (stack.data_root().join("containers"), stack.data_root().join("volumes"));
    let rename = |parent: &Path, from: &str, to: &str| std::fs::rename(parent.join(from), parent.join(to)).expect("rename");
    rename(&containers, &goes, &format!(".removing-{goes}"));
    rename(&volumes, "goes", ".removing-goes");
    // The journal knows this one: it lacks its name alone.
    rename(&containers, &made, &format!(".new-{made}"));
    rename(&volumes, "made", ".new-made");
    let stranger = "f".repeat(64);
    for name in [".new-0000", ".removing-0000", &format!(".new-{stranger}"), "lost+found"] {
        std::fs::create_dir_all(containers.join(name).join("upper")).expect("directory");
    }
    std::fs::create_dir_all(volumes.join("found/_data")).expect("directory");
    let said = stack.wharf(&["container", "ls", "-a", "--format", "{{.Names}}"]);
    let mut names: Vec<&str> = said.stdout.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["made", "stays"], "{said:?}");
    assert!(said.stderr.contains("found again on the disk: volume found"), "{said:?}");
    let mut left: Vec<String> = std::fs::read_dir(&containers)
        .expect("containers")
        .map(|e| e.expect("entry").file_name().into_string().expect("name"))
        .collect();
    left.sort();
    let mut expected = vec![".wharf".to_string(), "lost+found".into(), stays, made];
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(listed(&stack, "volume"), ["found", "made", "stays"]);
    stack.wharf(&["container", "rm", "stays", "made"]).ok();
    stack.wharf(&["engine", "stop"]).ok();
    // What is missing while the directory is wharf's has been removed; while it is not, the disk may not be mounted.
    stack.wharf(&["volume", "create", "lost"]).ok();
    stack.wharf(&["engine", "stop"]).ok();
    std::fs::remove_file(volumes.join(".wharf")).expect("mark");
    std::fs::remove_dir_all(volumes.join("lost")).expect("remove");
    let said = stack.wharf(&["volume", "ls", "-q"]);
    assert!(said.stdout.contains("lost") && said.stderr.contains("is the disk with it mounted?"), "{said:?}");
    stack.wharf(&["engine", "stop"]).ok();
    std::fs::write(volumes.join(".wharf"), "").expect("mark");
    assert!(!listed(&stack, "volume").contains(&"lost".to_string()));
    for name in ["found", "made", "stays"] {
        stack.wharf(&["volume", "rm", name]).ok();
    }
}

/// A small file system as a data root or a run root, so that it can be full.
pub struct SmallDisk {
    pub stack: Stack,
    root: PathBuf,
}

impl SmallDisk {
    pub fn new(size: &str) -> Self {
        SmallDisk::at(Stack::data_root, size)
    }

    fn at(root: fn(&Stack) -> PathBuf, size: &str) -> Self {
        let stack = Stack::bare("none");
        let root = root(&stack);
        std::fs::create_dir_all(&root).expect("directory");
        let options = format!("size={size}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "wharf-test-disk"]).arg(&root).status();
        assert!(mount.expect("mount").success());
        stack.import_busybox();
        SmallDisk { stack, root }
    }

    fn filler(&self) -> PathBuf {
        self.root.join("filler")
    }

    /// Takes all that is free.
    pub fn fill(&self) {
        let mut filler = std::fs::File::options().create(true).append(true).open(self.filler()).expect("filler");
        for size in [1 << 20, 64 << 10, 4096, 1] {
            while filler.write_all(&vec![b'x'; size]).is_ok() {}
        }
        assert_eq!(nix::sys::statvfs::statvfs(&self.root).expect("disk").blocks_available(), 0);
    }

    pub fn free(&self) {
        std::fs::remove_file(self.filler()).expect("filler");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.filler());
        for id in self.stack.wharf(&["container", "ls", "-aq"]).stdout.split_whitespace() {
            self.stack.wharf(&["container", "rm", "-f", id]);
        }
        self.stack.wharf(&["engine", "stop"]);
        let unmount = || Command::new("umount").arg(&self.root).status().is_ok_and(|status| status.success());
        if std::thread::panicking() {
            unmount();
        } else {
            // A mount namespace that another test makes this moment has it as well.
            eventually("nobody holds the disk", 10, unmount);
        }
    }
}

fn kill_engine(stack: &Stack) {
    let engine = stack.engine_pid().expect("engine");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine), nix::sys::signal::Signal::SIGKILL).expect("kill");
    eventually("the engine is dead", 5, || stack.engine_pid() != Some(engine));
}

fn inspected(stack: &Stack, name: &str, what: &str) -> String {
    stack.wharf(&["container", "inspect", "-f", what, name]).ok().trim().to_string()
}

#[test]
fn a_full_run_root_is_told_from_a_full_data_root() {
    let disk = SmallDisk::at(Stack::run_root, "2m");
    let stack = &disk.stack;
    stack.wharf(&["container", "run", "-d", "--name", "first", "busybox:local", "sleep", "1000"]).ok();
    disk.fill();
    let run_root = stack.run_root().display().to_string();
    let started = stack.wharf(&["container", "run", "-d", "--name", "second", "busybox:local", "sleep", "1000"]);
    started.fails(125, &["preparing the container second", &run_root, "No space left"]);
    let check = stack.wharf(&["system", "check"]).fails(1, &[]).stdout;
    let line = |what: &str| check.lines().find(|line| line.contains(what)).unwrap_or_default().to_string();
    assert!(line("run root").starts_with("missing") && line("run root").contains(&run_root), "{check}");
    assert!(line("data root").starts_with("ok"), "{check}");
    disk.free();
    assert!(!stack.wharf(&["system", "check"]).stdout.contains("missing  run root"));
    stack.wharf(&["container", "run", "-d", "--name", "second", "busybox:local", "sleep", "1000"]).ok();
}

#[test]
fn a_full_disk_is_freed_by_removing() {
    let disk = SmallDisk::new("24m");
    let stack = &disk.stack;
    let write = "dd if=/dev/zero of=/big bs=1M count=2 2>/dev/null; dd if=/dev/zero of=/v/big bs=1M count=1 2>/dev/null";
    for name in ["one", "two", "three"] {
        let args = ["container", "run", "--name", name, "--network", "none", "-v", &format!("{name}:/v"), "busybox:local"];
        stack.wharf(&[&args[..], &["sh", "-c", write]].concat()).ok();
    }
    let free = || nix::sys::statvfs::statvfs(&stack.data_root()).expect("disk").blocks_available();
    disk.fill();
    stack.wharf(&["container", "create", "--name", "x", "busybox:local", "true"]).fails(1, &["No space left on device"]);
    stack.wharf(&["container", "rm", "one"]).ok();
    assert!(free() >= 512, "2 MiB are free: {}", free());
    disk.fill();
    stack.wharf(&["volume", "rm", "one"]).ok();
    disk.fill();
    stack.wharf(&["container", "prune", "-f"]).ok();
    assert!(free() >= 1024 && ids(stack).is_empty());
    disk.fill();
    stack.wharf(&["volume", "prune", "-af"]).ok();
    disk.fill();
    // And the next engine knows it as well, and says what the trouble is.
    kill_engine(stack);
    assert!(ids(stack).is_empty() && listed(stack, "volume").is_empty());
    assert_eq!(stack.container_directories(), 0);
}

#[test]
fn exits_and_stops_of_a_full_disk_are_kept() {
    let disk = SmallDisk::new("24m");
    let stack = &disk.stack;
    let run = |name: &str, policy: &str, script: &str| {
        let args = ["container", "run", "-d", "--name", name, "--network", "none", "--restart", policy, "-v", "vol:/v"];
        stack.wharf(&[&args[..], &["busybox:local", "sh", "-c", script]].concat()).ok();
    };
    let last_words = "until [ -e /v/go ]; do sleep 0.05; done; echo $(seq 1 2000); echo the last line; exit 7";
    run("ends", "no", last_words);
    run("removed", "no", last_words);
    run("stopped", "always", "trap 'exit 3' TERM; while :; do sleep 0.05; done");
    // Of one container, or of all for an empty id.
    let monitors = |id: &str| {
        let all = std::fs::read_dir("/proc").expect("proc").flatten();
        let lines = all.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
        let own = format!("{}/containers/{id}", stack.run_root().display());
        lines.filter(|line| line.contains("\0monitor\0") && line.contains(&own)).count()
    };
    std::fs::write(stack.data_root().join("volumes/vol/_data/other"), "").expect("write");
    disk.fill();
    std::fs::rename(stack.data_root().join("volumes/vol/_data/other"), stack.data_root().join("volumes/vol/_data/go"))
        .expect("go");
    assert_eq!(stack.wharf(&["container", "wait", "ends"]).ok().trim(), "7");
    assert_eq!(inspected(stack, "ends", "{{.State.Status}} {{.State.ExitCode}}"), "exited 7");
    stack.wharf(&["container", "stop", "stopped"]).ok();
    // A start would be the second to write the log.
    stack.wharf(&["container", "start", "ends"]).fails(128, &["No space left on device"]);
    eventually("it has ended, too", 5, || inspected(stack, "removed", "{{.State.ExitCode}}") == "7");
    let removed = inspected(stack, "removed", "{{.Id}}");
    assert_eq!(monitors(&removed), 1, "its last lines have no room");
    // That makes room, which the other's last lines may take.
    stack.wharf(&["container", "rm", "-f", "removed"]).ok();
    eventually("nobody keeps the lines of a container that is removed", 5, || monitors(&removed) == 0);
    disk.fill();
    // A change that cannot be written is an error, and none.
    let mut name = "stopped".to_string();
    let refused = (0..1000).find_map(|n| {
        let next = format!("name-{n}");
        let said = stack.wharf(&["container", "rename", &name, &next]);
        if said.code == 0 {
            name = next;
        }
        (said.code != 0).then_some(said)
    });
    refused.expect("the reserve has an end").fails(1, &["No space left on device"]);
    kill_engine(stack);
    assert_eq!(inspected(stack, &name, "{{.State.Status}} {{.State.ExitCode}}"), "exited 3", "the next engine does not undo it");
    assert_eq!(inspected(stack, "ends", "{{.State.Status}}"), "exited");
    disk.free();
    let log = || stack.wharf(&["container", "logs", "ends"]).stdout;
    eventually("the last line is there once there is room", 5, || log().ends_with("the last line\n"));
    assert_eq!(log().lines().count(), 2, "and nothing is twice");
    eventually("the monitor has done what it had to", 5, || monitors("") == 0);
    stack.wharf(&["container", "rm", "-f", &name, "ends"]).ok();
    stack.wharf(&["volume", "rm", "vol"]).ok();
}

#[test]
fn a_sync_that_fails_is_not_forgotten() {
    use std::os::unix::fs::MetadataExt;
    let stack = Stack::new("none");
    stack.wharf(&["engine", "stop"]).ok();
    stack.compile("refuse");
    stack.write("compose.yaml", &format!("services: {{a: {{{}}}}}", crate::support::sleeping("")));
    let (number, errno) = (libc::SYS_fdatasync.to_string(), libc::EIO.to_string());
    let mut engine = Command::new(stack.path("refuse"))
        .args([&number, &errno, env!("CARGO_BIN_EXE_wharf"), "engine"])
        .env("WHARF_DATA_ROOT", stack.data_root())
        .env("WHARF_RUN_ROOT", stack.run_root())
        .spawn()
        .expect("engine");
    eventually("the engine listens", 10, || stack.run_root().join("engine.sock").exists());
    let inode = || std::fs::metadata(journal_of(&stack)).expect("journal").ino();
    let first = inode();
    stack.wharf(&["up", "-d"]).fails(1, &["writing the engine's state", "Input/output error"]);
    assert_eq!(inode(), first);
    // Nobody knows what of that file is on the disk, so all of it goes to another one.
    stack.wharf(&["up", "-d", "--scale", "a=2"]).ok();
    assert_ne!(inode(), first, "the journal was written anew");
    assert_eq!(ids(&stack).len(), 2);
    stack.wharf(&["down", "-t", "0"]).fails(1, &["Input/output error"]);
    stack.wharf(&["engine", "stop"]).ok();
    engine.wait().expect("engine");
    assert!(ids(&stack).is_empty());
}

#[test]
fn a_stopped_monitor_holds_no_engine_up() {
    use nix::sys::signal::{Signal, kill};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use nix::unistd::Pid;
    use std::os::fd::AsRawFd;
    let stack = Stack::new("none");
    stack.wharf(&["container", "run", "-d", "--name", "c", "--network", "none", "busybox:local", "sleep", "1000"]).ok();
    let (pid, id) = (stack.pid("c"), ids(&stack)[0].clone());
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let monitor: i64 = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)).expect("parent").parse().expect("pid");
    kill(Pid::from_raw(monitor as i32), Signal::SIGSTOP).expect("stop");
    kill_engine(&stack);
    // As many engines as its queue has room for.
    let directory = std::fs::File::open(stack.run_root().join("containers").join(id)).expect("run directory");
    let control = UnixAddr::new(format!("/proc/self/fd/{}/control", directory.as_raw_fd()).as_str()).expect("address");
    let refused = (0..100).find(|_| {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("socket");
        connect(socket.as_raw_fd(), &control).is_err()
    });
    assert!(refused.is_some_and(|n| n > 0));
    assert_eq!(inspected(&stack, "c", "{{.State.Status}}"), "exited");
    eventually("neither goes on beside the next", 5, || !alive(pid) && !alive(monitor));
    stack.wharf(&["container", "start", "c"]).ok();
    stack.wharf(&["container", "rm", "-f", "c"]).ok();
}

#[test]
fn a_bridge_that_no_record_has_goes() {
    let stack = Stack::new("none");
    for name in ["stays", "goes"] {
        stack.wharf(&["network", "create", name]).ok();
    }
    let manifests = stack.data_root().join("networks");
    let id = |name: &str| {
        let mut files = std::fs::read_dir(&manifests).expect("manifests").map(|entry| entry.expect("entry").path());
        let is = |path: &PathBuf| std::fs::read_to_string(path).expect("manifest").contains(&format!("\"name\":\"{name}\""));
        files.find(is).and_then(|path| Some(path.file_stem()?.to_str()?.to_string())).expect("network")
    };
    let (stays, goes) = (id("stays"), id("goes"));
    let has_bridge = |id: &str| Path::new("/sys/class/net").join(format!("br-{}", &id[..12])).exists();
    assert!(has_bridge(&stays) && has_bridge(&goes));
    // As a version did that wrote the journal before it asked the kernel, or one that was killed before the journal's line.
    kill_engine(&stack);
    std::fs::remove_file(manifests.join(format!("{goes}.json"))).expect("manifest");
    let deleted = format!(r#"{{"k":"network/{goes}"}}"#);
    let mut sum = flate2::Crc::new();
    sum.update(deleted.as_bytes());
    let mut journal = std::fs::File::options().append(true).open(journal_of(&stack)).expect("journal");
    journal.write_all(format!("{:08x} {deleted}\n", sum.sum()).as_bytes()).expect("append");
    assert!(!stack.wharf(&["network", "ls", "-q"]).ok().contains(&goes[..12]));
    assert!(has_bridge(&stays) && !has_bridge(&goes));
    stack.wharf(&["network", "rm", "stays"]).ok();
    assert!(!has_bridge(&stays));
}

/// An engine that dies once the last container on the default network is out of the journal leaves the network, which nobody
/// would remove by name.
#[test]
fn the_default_network_goes_with_its_last_container_whenever_the_engine_dies() {
    let stack = Stack::new("nothing");
    let id = stack.wharf(&["container", "create", "busybox:local", "true"]).ok().trim().to_string();
    let networks = || {
        let entries = std::fs::read_dir(stack.data_root().join("networks")).expect("networks").flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json")).count()
    };
    assert_eq!(networks(), 1, "it is there with the container");
    let engine = stack.engine_pid().expect("engine");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine), nix::sys::signal::Signal::SIGKILL).expect("kill");
    eventually("it is dead", 5, || !alive(i64::from(engine)));
    // As the removal goes: the directory is put aside, and the journal's last word of the container is that it is gone.
    let containers = stack.data_root().join("containers");
    std::fs::rename(containers.join(&id), containers.join(format!(".removing-{id}"))).expect("rename");
    let mut journal = std::fs::File::options().append(true).open(journal_of(&stack)).expect("journal");
    journal.write_all(&summed(&format!(r#"{{"k":"container/{id}"}}"#))).expect("append");
    assert_eq!(stack.wharf(&["container", "ls", "-aq"]).ok(), "");
    assert_eq!((networks(), stack.container_directories()), (0, 0));
}

/// A rollback that the disk has no room for leaves everything as it was; two at once go one after the other.
#[test]
fn rollbacks_of_a_full_disk_and_two_at_once() {
    let disk = SmallDisk::new("24m");
    let stack = &disk.stack;
    let up = |mark: &str| {
        let script = format!("echo from {mark}; exec sleep 1000");
        let service = format!("image: 'busybox:local', network_mode: none, command: [sh, -c, '{script}'], stop_signal: SIGKILL");
        stack.write("compose.yaml", &format!("services: {{app: {{{service}}}}}"));
        stack.wharf(&["up", "-d"])
    };
    let says = || stack.wharf(&["logs", "--no-log-prefix", "app"]).ok().trim().to_string();
    up("one").ok();
    up("two").ok();
    eventually("it has said so", 10, || says() == "from two");
    let id = stack.id("app");
    disk.fill();
    stack.wharf(&["rollback", "app"]).fails(1, &["No space left on device"]);
    up("three").fails(1, &["No space left on device"]);
    assert_eq!((stack.id("app"), stack.state("app")), (id, "running".to_string()));
    disk.free();
    up("three").ok();
    eventually("it has said so", 10, || says() == "from three");
    assert!(stack.wharf(&["logs", "-p", "app"]).ok().contains("from two"));
    std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| stack.wharf(&["rollback", "app"])));
        both.into_iter().for_each(|one| drop(one.join().expect("rollback").ok()));
    });
    eventually("the second goes back to what the first has left", 10, || says() == "from three");
    assert_eq!((stack.ps().len(), stack.state("app")), (1, "running".to_string()));
    let history = stack.wharf(&["history", "app"]).ok();
    let rollbacks = history.lines().filter(|line| line.contains("rollback to "));
    assert_eq!(rollbacks.filter(|line| line.ends_with("good")).count(), 2, "{history}");
    stack.wharf(&["down", "-t", "0"]).ok();
    disk.fill();
}
