//! Containers that see others while these are set up, and those that keep others from being started.

use super::APP;
use crate::support::{Stack, eventually};
use std::process::{Child, Stdio};

/// Containers join the processes of one that may trace them: several at once, and while the one that may is started itself.
#[test]
fn who_joins_beside_others_brings_nothing_that_could_be_taken() {
    let stack = Stack::new("nothing");
    stack.compile("tracer");
    let shares = "pid: 'service:app', depends_on: [app]";
    let joins = format!("joins: {{{APP}, {shares}, volumes: [/a, /b, /c], deploy: {{replicas: 5}}}}");
    let traces = "volumes: ['./tracer:/tracer:ro'], cap_add: [SYS_PTRACE]";
    // It may be in the namespace from the start on, or come when others do.
    for tracer in [
        format!("app: {{{APP}, {traces}}}"),
        format!("app: {{{APP}}}\n  late: {{image: busybox:local, command: /tracer 2, {traces}, {shares}}}"),
    ] {
        stack.write("compose.yaml", &format!("services:\n  {tracer}\n  {joins}\n"));
        stack.wharf(&["create"]).ok();
        let late = tracer.contains("late");
        let watching = (!late).then(|| {
            stack.wharf(&["start", "app"]).ok();
            let mut watching = stack.command(&["exec", "-T", "app", "/tracer", "2"]);
            watching.stdout(Stdio::piped()).spawn().expect("exec")
        });
        for _ in 0..3 {
            stack.wharf(&["up", "-d"]).ok();
            stack.wharf(&["kill", "joins"]).ok();
            stack.wharf(&["up", "-d"]).ok();
        }
        let said = match watching {
            Some(watching) => String::from_utf8_lossy(&watching.wait_with_output().expect("output").stdout).into_owned(),
            None => {
                eventually("the tracer has ended", 20, || stack.state("late") == "exited");
                stack.wharf(&["logs", "--no-log-prefix", "late"]).ok()
            }
        };
        assert!(!said.is_empty());
        said.lines().for_each(|line| assert_eq!(line, "directories 0 capabilities 0 memory 0 of some", "{tracer}"));
        stack.wharf(&["down"]).ok();
    }
}

/// A user's pause and resume of a container that may trace does not thaw it while another one joins its processes.
#[test]
fn a_tracer_is_paused_and_resumed_beside_joins() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        &format!("services: {{app: {{{APP}, cap_add: [SYS_PTRACE]}}, joins: {{{APP}, pid: 'service:app', depends_on: [app]}}}}"),
    );
    stack.wharf(&["up", "-d"]).ok();
    let joins = format!("{}-joins-1", stack.project);
    for _ in 0..4 {
        let restart = stack.command(&["container", "restart", "-t", "0", &joins]).spawn().expect("restart");
        stack.wharf(&["pause", "app"]).ok();
        assert!(restart.wait_with_output().expect("restarted").status.success());
        assert_eq!(stack.state("app"), "paused");
        stack.wharf(&["unpause", "app"]).ok();
        assert_eq!(stack.sh("app", "echo runs"), "runs");
    }
}

/// What a container says of the processes that enter it is not believed: it would choose whom a health check's end kills, and how
/// much the monitor keeps.
#[test]
fn a_container_does_not_speak_for_who_enters_it() {
    let stack = Stack::new("nothing");
    stack.compile("speaker");
    let mut victim = Victim(std::process::Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().expect("sleep"));
    let check = "healthcheck: {test: ['CMD', 'sleep', '100'], interval: 1ms, timeout: 10ms}";
    let speaker = format!(
        "image: busybox:local, command: ['/speaker', '{}'], stop_signal: SIGKILL, volumes: ['./speaker:/speaker:ro']",
        victim.0.id()
    );
    stack.write("compose.yaml", &format!("services: {{app: {{{speaker}, cap_add: [SYS_PTRACE], {check}}}}}"));
    stack.wharf(&["up", "-d"]).ok();
    eventually("it has written to those that enter", 20, || {
        stack.wharf(&["logs", "--no-log-prefix"]).ok().lines().last().is_some_and(|line| line != "0")
    });
    let begun = std::time::Instant::now();
    while begun.elapsed().as_secs() < 3 {
        stack.wharf(&["exec", "-T", "app", "true"]);
        assert!(victim.0.try_wait().expect("victim").is_none(), "it was killed");
    }
    let monitors: Vec<u64> = stack.monitors().into_iter().map(anonymous).collect();
    assert!(!monitors.is_empty() && monitors.iter().all(|kib| *kib < 16 << 10), "{monitors:?} KiB");
}

struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn anonymous(pid: i32) -> u64 {
    // A helper may be gone by now.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Arguments and variables of `exec` may be as long as the kernel takes them.
#[test]
fn long_arguments_of_exec() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}, environment: {{LONG: '{}'}}}}}}", "e".repeat(90_000)));
    stack.wharf(&["up", "-d"]).ok();
    for length in [1000, 97_500, 99_000, 103_000, 110_000] {
        let long = "a".repeat(length);
        let said = stack.wharf(&["exec", "-T", "app", "sh", "-c", "echo ${#1} ${#2} ${#LONG}", "sh", &long, &long]).ok();
        assert_eq!(said, format!("{length} {length} 90000\n"));
    }
    // One of more than 128 KiB is too long for the kernel.
    let body = serde_json::json!({"Cmd": ["true", "a".repeat(140_000)], "AttachStdout": true});
    let id = stack.id("app");
    stack.write("body.json", &body.to_string());
    let post = |path: &str, file: &str| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-s", "--max-time", "30", "-H", "Content-Type: application/json", "-d"])
            .arg(format!("@{}", stack.path(file).display()));
        curl.arg("--unix-socket").arg(stack.run_root().join("engine.sock")).arg(format!("http://docker{path}"));
        String::from_utf8_lossy(&curl.output().expect("curl").stdout).into_owned()
    };
    let made: serde_json::Value = serde_json::from_str(&post(&format!("/containers/{id}/exec"), "body.json")).expect("JSON");
    stack.write("start.json", "{}");
    let said = post(&format!("/exec/{}/start", made["Id"].as_str().expect("id")), "start.json");
    assert!(said.contains("Argument list too long"), "{said}");
}

/// A lock that a container has on its volume keeps no other from being started.
#[test]
fn a_lock_on_a_volume_is_nobody_elses() {
    let stack = Stack::new("nothing");
    stack.compile("holder");
    let holder = format!("{}:/holder:ro", stack.path("holder").display());
    let run = ["container", "run", "-d", "--name", "locks", "--user", "1000", "--cap-drop", "ALL", "--read-only", "-v", &holder];
    stack.wharf(&[&run[..], &["-v", "locked:/data", "busybox:local", "/holder", "flock", "/data"]].concat()).ok();
    eventually("the volume is locked", 10, || stack.wharf(&["container", "logs", "locks"]).ok() == "held\n");
    // The image has files there, which go into a volume that is empty.
    let seen = stack.wharf(&["container", "run", "--rm", "-v", "locked:/etc", "busybox:local", "ls", "/etc"]).ok();
    assert!(seen.contains("passwd"), "{seen}");
    stack.wharf(&["container", "rm", "-f", "locks"]).ok();
}

/// A file system that never answers, as of a server that is gone.
struct Silent {
    at: std::path::PathBuf,
    device: Option<std::fs::File>,
}

impl Silent {
    fn mount(at: std::path::PathBuf) -> Self {
        use std::os::fd::AsRawFd;
        std::fs::create_dir(&at).expect("directory");
        let device = std::fs::File::options().read(true).write(true).open("/dev/fuse").expect("the kernel has FUSE");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let flags = nix::mount::MsFlags::MS_NOSUID;
        nix::mount::mount(Some("silent"), &at, Some("fuse"), flags, Some(options.as_str())).expect("mounted");
        Silent { at, device: Some(device) }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // Who waits for it has an error from now on.
        self.device.take();
        let _ = nix::mount::umount2(&self.at, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn ended_within(what: &str, seconds: u64, mut child: Child) -> i32 {
    let mut code = None;
    eventually(what, seconds, || {
        code = child.try_wait().expect("wait").map(|status| status.code().unwrap_or(-1));
        code.is_some()
    });
    code.expect("ended")
}

/// Containers whose mounts never come keep no other from being started and can be removed. Whose processes they join goes on.
#[test]
fn a_disk_that_does_not_answer_holds_up_its_own_containers_alone() {
    let stack = Stack::new("nothing");
    let silent = Silent::mount(stack.path("silent"));
    let source = format!("{}/sub:/x", silent.at.display());
    stack
        .wharf(&["container", "run", "-d", "--name", "tracer", "--cap-add", "SYS_PTRACE", "busybox:local", "sleep", "1000"])
        .ok();
    let start = |name: &str, pid: &[&str]| {
        let words = [&["container", "run", "-d", "--name", name, "-v", &source][..], pid, &["busybox:local", "sleep", "1000"]];
        stack.command(&words.concat()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run")
    };
    let joins = start("joins", &["--pid", "container:tracer"]);
    let waiting: Vec<Child> = (0..9).map(|n| start(&format!("w{n}"), &[])).chain([joins]).collect();
    let other = stack.command(&["container", "run", "--rm", "busybox:local", "echo", "runs"]).stdout(Stdio::null()).spawn();
    assert_eq!(ended_within("another container runs", 25, other.expect("run")), 0);
    let said = stack.command(&["container", "exec", "tracer", "echo", "runs"]).stdout(Stdio::null()).spawn();
    assert_eq!(ended_within("the tracer goes on", 10, said.expect("exec")), 0);
    let removal = stack.command(&["container", "rm", "-f", "w0"]).stdout(Stdio::null()).spawn();
    assert_eq!(ended_within("one that is being started is removed", 20, removal.expect("rm")), 0);
    drop(silent);
    for child in waiting {
        ended_within("its client has an answer", 20, child);
    }
    let left = stack.wharf(&["container", "ls", "-aq"]).ok();
    stack.wharf(&[&["container", "rm", "-f"][..], &left.split_whitespace().collect::<Vec<_>>()].concat()).ok();
}

/// A project whose start does not come to its end is given up by Ctrl-C, and for `down` and `restart`.
#[test]
fn a_start_that_waits_for_a_disk_is_broken_off_for_who_needs_the_project() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", "services: {web: {image: 'busybox:local', command: sleep 1000, volumes: ['./silent/sub:/x']}}\n");
    let silent = Silent::mount(stack.path("silent"));
    let up = || {
        let log = std::fs::File::create(stack.path("up.log")).expect("file");
        let up = stack.command(&["up", "-d"]).stdout(Stdio::null()).stderr(log).spawn().expect("up");
        let is_starting = || std::fs::read_to_string(stack.path("up.log")).is_ok_and(|shown| shown.contains("Starting"));
        eventually("it is being started", 10, is_starting);
        up
    };
    let first = up();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first.id() as i32), nix::sys::signal::Signal::SIGINT).expect("Ctrl-C");
    assert_eq!(ended_within("`up` ends by Ctrl-C", 20, first), 130);
    let second = up();
    let down = stack.command(&["down", "-t", "0"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("down");
    assert_eq!(ended_within("`down` ends", 20, down), 0);
    assert_ne!(ended_within("`up` fails", 1, second), 0);
    assert_eq!(stack.wharf(&["container", "ls", "-aq"]).ok(), "");
    drop(silent);
}

/// A signal at a run that does not come to its start ends it, and its container.
#[test]
fn a_run_that_does_not_start_is_given_up_by_a_signal() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", "services: {web: {image: 'busybox:local', command: sleep 1000, volumes: ['./silent/sub:/x']}}\n");
    let silent = Silent::mount(stack.path("silent"));
    for (args, signal, code) in [
        (&["run", "-T", "web"][..], "\x03", 130),
        (&["container", "run", "-v", "./silent/sub:/x", "busybox:local", "true"], "\x1c", 131),
    ] {
        let mut run = crate::support::Terminal::start(&mut stack.command(args), 24, 200);
        // The last that it listens to before the start.
        eventually("it listens to the signals", 10, || run.catches(nix::sys::signal::Signal::SIGHUP));
        run.send(signal);
        run.expect("canceled", 10);
        assert_eq!(run.wait(20), Some(code), "{args:?}");
        assert_eq!(stack.wharf(&["container", "ls", "-aq"]).ok(), "", "{args:?}");
    }
    drop(silent);
}

/// Who is set up is not among the processes that it joins: neither one that the kernel keeps for a disk that does not answer, nor one
/// that a neighbour stops, brings anything to the tracer there, and none keeps others from being started.
#[test]
fn who_cannot_be_set_up_is_out_of_the_tracers_sight() {
    let stack = Stack::new("nothing");
    ["half_silent", "tracer"].iter().for_each(|program| stack.compile(program));
    let at = stack.path("silent");
    std::fs::create_dir(&at).expect("directory");
    let mut disk = std::process::Command::new(stack.path("half_silent"));
    let mut disk = Disk { at: at.clone(), server: disk.arg(&at).stdout(Stdio::piped()).spawn().expect("the file system") };
    let mut said = [0; 8];
    std::io::Read::read_exact(disk.server.stdout.as_mut().expect("stdout"), &mut said).expect("mounted");

    let program = format!("{}:/tracer:ro", stack.path("tracer").display());
    let run = |name: &str, further: &[&str], command: &[&str]| {
        let words = [&["container", "run", "-d", "--name", name, "-v", &program][..], further, &["busybox:local"], command];
        stack.command(&words.concat()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run")
    };
    let begin = run;
    let run = |name: &str, further: &[&str], command: &[&str]| ended_within(name, 30, begin(name, further, command));
    let joins = ["--pid", "container:app"];
    assert_eq!(run("app", &[], &["sleep", "1000"]), 0);
    assert_eq!(run("traces", &[&joins[..], &["--cap-add", "SYS_PTRACE"]].concat(), &["/tracer", "25"]), 0);
    let source = format!("{}/sub:/x", at.display());
    let mut kept = begin("kept", &[&joins[..], &["-v", &source]].concat(), &["sleep", "1000"]);
    eventually("it is being set up", 10, || stack.wharf(&["container", "ls", "-aq", "--filter", "name=kept"]).ok() != "");
    // Its client would have the next engine start it again.
    kept.kill().and_then(|()| kept.wait()).expect("killed");
    let engine = nix::unistd::Pid::from_raw(stack.engine_pid().expect("engine"));
    nix::sys::signal::kill(engine, nix::sys::signal::Signal::SIGKILL).expect("killed");
    assert_eq!(run("next", &joins, &["sleep", "1000"]), 0);
    assert_eq!(run("stops", &[&joins[..], &["--cap-drop", "ALL"]].concat(), &["/tracer", "stop", "6"]), 0);
    (0..3).for_each(|n| assert_eq!(run(&format!("stopped{n}"), &joins, &["sleep", "1000"]), 0));
    eventually("the stopper has ended", 20, || stack.wharf(&["container", "logs", "stops"]).ok().contains("some"));
    stack.wharf(&["container", "exec", "app", "kill", "-CONT", "-1"]);
    let clean = "directories 0 capabilities 0 memory 0 of some\n";
    eventually("the tracer has ended", 40, || !stack.wharf(&["container", "logs", "traces"]).ok().is_empty());
    assert_eq!(stack.wharf(&["container", "logs", "traces"]).ok(), clean);
    drop(disk);
    let left = stack.wharf(&["container", "ls", "-aq"]).ok();
    stack.wharf(&[&["container", "rm", "-f"][..], &left.split_whitespace().collect::<Vec<_>>()].concat()).ok();
}

/// A process that is said not to run its program, by one that may trace it, does not: nobody waits for it, and nothing of it goes on.
#[test]
fn who_is_said_to_have_failed_has_failed() {
    let stack = Stack::new("nothing");
    stack.compile("spokesman");
    let program = format!("{}:/spokesman:ro", stack.path("spokesman").display());
    let owner = ["--name", "owner", "--cap-add", "SYS_PTRACE", "-v", &program, "busybox:local", "/spokesman", "60"];
    stack.wharf(&[&["container", "run", "-d"][..], &owner].concat()).ok();
    // Who is stopped too late runs its program; who fails has been spoken for.
    let spoken_for = |begin: &[&str]| {
        let attempts = (0..20).map(|_| {
            let begun = stack.command(begin).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("begun");
            let code = ended_within("there is an answer", 15, begun);
            if code == 0 {
                stack.wharf(&["container", "rm", "-f", "joins"]);
            }
            code
        });
        attempts.into_iter().find(|code| *code != 0).expect("a process was spoken for")
    };
    let runs = |seconds: &str| {
        let processes = stack.wharf(&["container", "top", "owner"]).ok();
        processes.lines().filter(|line| line.contains(&format!("sleep {seconds}"))).count()
    };
    let joins = ["container", "run", "-d", "--name", "joins", "--pid", "container:owner", "busybox:local", "sleep", "1001"];
    assert_eq!(spoken_for(&joins), 125);
    let left = stack.wharf(&["container", "ls", "-aq", "--filter", "name=joins"]).ok();
    assert_eq!((left.as_str(), runs("1001")), ("", 0));
    assert_eq!(spoken_for(&["container", "exec", "owner", "sleep", "6"]), 128);
    eventually("the process of the exec is ended", 2, || runs("6") == 0);
    eventually("both were spoken for", 5, || stack.wharf(&["container", "logs", "owner"]).ok().lines().count() >= 2);
    stack.wharf(&["container", "rm", "-f", "owner"]).ok();
}

/// Calls that wait for a disk hold up their own clients alone, however many they are: copies, builds, binds, and configs of files.
#[test]
fn calls_that_wait_for_a_disk_hold_up_nobody_else() {
    let stack = Stack::new("nothing");
    let mut silent = Silent::mount(stack.path("silent"));
    let at = silent.at.display().to_string();
    let app = "image: 'busybox:local', command: sleep 1000, secrets: [{source: k, mode: 0400}], configs: [k]";
    let file = format!("{{k: {{file: '{at}/k'}}}}");
    stack.write("compose.yaml", &format!("services: {{web: {{{app}}}}}\nsecrets: {file}\nconfigs: {file}\n"));
    stack.wharf(&["container", "create", "--name", "holds", "-v", &format!("{at}:/x"), "busybox:local", "true"]).ok();
    stack.write("file", "text");
    let bind = format!("type=bind,src={at}/1,dst=/y");
    let (named, context) = (stack.path("file").display().to_string(), format!("{at}/context"));
    let commands: [&[&str]; 6] = [
        &["container", "cp", "holds:/x/sub", "-"],
        &["container", "cp", &named, "holds:/x/sub"],
        &["container", "create", "--mount", &bind, "busybox:local"],
        &["image", "build", "-t", "b", &context],
        &["image", "build", "-t", "c", "-f", &context, "."],
        &["up", "-d"],
    ];
    let begin = |words: &&[&str]| stack.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("begun");
    // More than the engine's workers, of each.
    let waiting: Vec<Child> = commands.iter().flat_map(|words| (0..5).map(move |_| begin(words))).collect();
    for _ in 0..5 {
        let other = stack.command(&["container", "run", "--rm", "busybox:local", "true"]).stdout(Stdio::null()).spawn();
        assert_eq!(ended_within("another container runs", 20, other.expect("run")), 0);
    }
    // It is mounted still: the directory below it could be written.
    silent.device.take();
    waiting.into_iter().for_each(|child| assert_ne!(ended_within("its client has an answer", 20, child), 0));
    drop(silent);
    stack.wharf(&["container", "rm", "-f", "holds"]).ok();
}

/// What is copied for a container is a regular file within its bound.
#[test]
fn a_secret_is_no_fifo_and_not_endless() {
    let stack = Stack::new("nothing");
    let k = stack.path("k");
    let up = "services: {web: {image: 'busybox:local', command: sleep 1000, secrets: [{source: k, mode: 0400}]}}";
    stack.write("compose.yaml", &format!("{up}\nsecrets: {{k: {{file: ./k}}}}\n"));
    nix::unistd::mkfifo(&k, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("FIFO");
    stack.wharf(&["up", "-d"]).fails(1, &["the secret `k` cannot be read", "not a regular file"]);
    std::fs::remove_file(&k).expect("removed");
    std::fs::File::create(&k).and_then(|file| file.set_len(100 << 30)).expect("a file of holes");
    stack.wharf(&["up", "-d"]).fails(1, &["the secret `k` cannot be read", "larger than 16777216 bytes"]);
    stack.write("k", "text");
    stack.wharf(&["up", "-d"]).ok();
    // It is looked at again by every `up`.
    std::fs::remove_file(&k).expect("removed");
    nix::unistd::mkfifo(&k, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("FIFO");
    stack.wharf(&["up", "-d"]).fails(1, &["not a regular file"]);
    stack.wharf(&["down", "-t", "0"]).ok();
}

/// `cp` with a container that does not run is about the part of a volume that it mounts, and no other.
#[test]
fn copies_stay_within_the_subpath_of_a_volume() {
    let stack = Stack::new("nothing");
    let fill = "mkdir -p /v/only/mine /v/other; echo mine > /v/only/mine/f; echo others > /v/f; echo others > /v/other/f; ln -s ../../other /v/only/mine/out";
    stack.wharf(&["container", "run", "--rm", "-v", "vv:/v", "busybox:local", "sh", "-c", fill]).ok();
    let mount = |subpath: &str, target: &str| format!("type=volume,src=vv,dst={target},volume-subpath={subpath}");
    let create = [
        "container",
        "create",
        "--name",
        "stopped",
        "--mount",
        &mount("only/mine", "/d"),
        "--mount",
        &mount("only/mine/f", "/one"),
    ];
    stack.wharf(&[&create[..], &["busybox:local", "true"]].concat()).ok();
    let read = |path: &str| stack.wharf(&["container", "cp", &format!("stopped:{path}"), "got"]);
    for path in ["/d/f", "/one"] {
        read(path).ok();
        assert_eq!(std::fs::read_to_string(stack.path("got")).expect(path), "mine\n", "{path}");
    }
    for path in ["/d/other/f", "/d/out/f", "/d/../only/f", "/d/only/mine/f"] {
        read(path).fails(1, &["there is no"]);
    }
    stack.write("written", "text");
    stack.wharf(&["container", "cp", &stack.path("written").display().to_string(), "stopped:/d/written"]).ok();
    let volume = stack.data_root().join("volumes/vv/_data");
    assert!(volume.join("only/mine/written").exists() && !volume.join("written").exists());
    stack.wharf(&["container", "rm", "-f", "stopped"]).ok();
}

/// A file system with a server of its own.
struct Disk {
    at: std::path::PathBuf,
    server: Child,
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Who waits for it has an error from now on.
        let _ = self.server.kill().and_then(|()| self.server.wait());
        let _ = nix::mount::umount2(&self.at, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// An engine and a monitor that die while a volume is filled: what was half filled is filled again, and not taken for full.
#[test]
fn a_start_that_was_broken_off_leaves_no_half_filled_volume() {
    let stack = Stack::new("nothing");
    let fill = "RUN mkdir -p /d/sub && echo first > /d/a && dd if=/dev/zero of=/d/large bs=1M count=400 && echo last > /d/sub/z";
    stack.write("Dockerfile", &format!("FROM busybox:local\n{fill}\nVOLUME /d\n"));
    stack.wharf(&["image", "build", "-q", "-t", "filled:local", "."]).ok();
    stack
        .wharf(&[
            "container",
            "create",
            "--name",
            "filled",
            "-v",
            "kept:/d",
            "filled:local",
            "sh",
            "-c",
            "cat /d/a /d/sub/z; wc -c < /d/large",
        ])
        .ok();
    let mark = stack.data_root().join("volumes/kept/.filling");
    let start = || {
        let start = stack.command(&["container", "start", "filled"]).stderr(Stdio::piped()).spawn().expect("start");
        let begun = std::time::Instant::now();
        while !mark.exists() {
            assert!(begun.elapsed().as_secs() < 10, "the volume is not filled");
            std::hint::spin_loop();
        }
        start
    };
    // A process that is killed while it sets the container up has run no program.
    let killed = start();
    for monitor in stack.monitors() {
        let children = std::fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children")).expect("children");
        children.split_whitespace().for_each(|pid| {
            let pid = nix::unistd::Pid::from_raw(pid.parse().expect("a number"));
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
        });
    }
    let killed = killed.wait_with_output().expect("start");
    let said = String::from_utf8_lossy(&killed.stderr);
    assert!(!killed.status.success() && said.contains("before its program ran"), "{said}");
    std::fs::remove_file(&mark).expect("the mark");
    std::fs::remove_dir_all(stack.data_root().join("volumes/kept/_data/sub")).ok();
    std::fs::remove_file(stack.data_root().join("volumes/kept/_data/a")).ok();
    std::fs::remove_file(stack.data_root().join("volumes/kept/_data/large")).ok();
    let start = start();
    let engine = nix::unistd::Pid::from_raw(stack.engine_pid().expect("engine"));
    for pid in std::iter::once(engine).chain(stack.monitors().into_iter().map(nix::unistd::Pid::from_raw)) {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
    }
    drop(start.wait_with_output());
    let list = stack.wharf(&["container", "ls", "-a", "--format", "{{.State}}"]).ok();
    assert_eq!(list, "created\n");
    assert!(mark.exists(), "it is not full");
    // What somebody puts there meanwhile stays.
    let own = ["container", "run", "--rm", "-v", "kept:/kept", "busybox:local", "sh", "-c", "rm -f /kept/a; echo own > /kept/a"];
    stack.wharf(&own).ok();
    assert_eq!(stack.wharf(&["container", "start", "-a", "filled"]).ok(), format!("own\nlast\n{}\n", 400 << 20));
    assert!(!mark.exists());
    stack.wharf(&["container", "rm", "filled"]).ok();
    // A hole of the image takes no room.
    stack.write("Dockerfile", "FROM busybox:local\nRUN mkdir /d && truncate -s 2G /d/f\nVOLUME /d\n");
    stack.wharf(&["image", "build", "-q", "-t", "hole:local", "."]).ok();
    let said = stack.wharf(&["container", "run", "--rm", "hole:local", "sh", "-c", "wc -c < /d/f & du -k /d/f; wait"]).ok();
    assert!(said.contains(&format!("{}\n", 2u64 << 30)) && said.contains("0\t/d/f"), "{said}");
}

/// What others hold on shared files of the host or of a container keeps nobody waiting: a lock of any user on a directory of sysfs, and
/// a lease on /etc/hosts.
#[test]
fn locks_and_leases_of_others_keep_nobody_waiting() {
    let stack = Stack::new("nothing");
    let shared = std::fs::File::open("/sys/class/net").expect("sysfs");
    let lock = nix::fcntl::Flock::lock(shared, nix::fcntl::FlockArg::LockExclusive).expect("locked");
    let made = stack.command(&["network", "create", "beside"]).stdout(Stdio::null()).spawn().expect("create");
    assert_eq!(ended_within("a network is made", 20, made), 0);
    drop(lock);
    stack.compile("holder");
    stack.wharf(&["container", "run", "-d", "--name", "web", "busybox:local", "sleep", "1000"]).ok();
    let run = ["container", "run", "-d", "--name", "holds", "--network", "container:web", "--cap-drop", "ALL"];
    let mounted = format!("{}:/holder:ro", stack.path("holder").display());
    let files = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
    stack.wharf(&[&run[..], &["-v", &mounted, "busybox:local", "/holder", "lease"], &files].concat()).ok();
    eventually("the leases are taken", 10, || stack.wharf(&["container", "logs", "holds"]).ok() == "held\n");
    let again = stack.command(&["container", "restart", "-t", "0", "web"]).stdout(Stdio::null()).spawn().expect("restart");
    assert_eq!(ended_within("the neighbour is started again", 20, again), 0);
    assert!(stack.wharf(&["container", "exec", "web", "cat", "/etc/hosts"]).ok().contains("localhost"));
    stack.wharf(&["container", "rm", "-f", "holds", "web"]).ok();
    stack.wharf(&["network", "rm", "beside"]).ok();
}

/// What a container has made immutable is removed with it.
#[test]
fn immutable_files_are_removed() {
    let stack = Stack::new("nothing");
    stack.compile("holder");
    let holder = format!("{}:/holder:ro", stack.path("holder").display());
    let run =
        ["container", "run", "--name", "app", "--cap-add", "LINUX_IMMUTABLE", "-v", &holder, "-v", "data:/v", "busybox:local"];
    let script = "mkdir /root/d && echo > /root/d/x && echo > /v/x && /holder immutable /root/d/x /v/x && /holder append /root/d && ! rm /root/d/x";
    stack.wharf(&[&run[..], &["sh", "-c", script]].concat()).ok();
    stack.wharf(&["container", "rm", "app"]).ok();
    stack.wharf(&["volume", "rm", "data"]).ok();
    assert_eq!(stack.container_directories(), 0);
    let volumes = std::fs::read_dir(stack.data_root().join("volumes")).expect("volumes").flatten();
    assert_eq!(volumes.filter(|entry| entry.file_name() != ".wharf").count(), 0);
}

/// Each volume of an image is a directory, a line of the journal and a mount of every container.
#[test]
fn an_image_declares_a_bounded_number_of_volumes() {
    let stack = Stack::new("nothing");
    let with = |count: usize| {
        let lines: String = (0..count).map(|n| format!("VOLUME /v/{n}\n")).collect();
        stack.write("Dockerfile", &format!("FROM busybox:local\n{lines}"));
        stack.wharf(&["image", "build", "-q", "-t", "volumes:local", "."]).ok();
        stack.wharf(&["container", "create", "--name", "many", "volumes:local", "true"])
    };
    with(1001).fails(1, &["declares 1001 volumes", "1000"]);
    assert_eq!(stack.wharf(&["volume", "ls", "-q"]).ok(), "");
    with(300).ok();
    stack.wharf(&["container", "rm", "-v", "many"]).ok();
}
