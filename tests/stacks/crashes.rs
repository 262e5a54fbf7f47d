//! The engine and its monitors die, or hang: nothing is lost, and what comes after works.

use super::support::{Stack, eventually, sleeping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("kill");
}

/// Kills the engine, and waits until a monitor has started another. Returns its process.
fn revive(stack: &Stack) -> i32 {
    let before = stack.engine_pid().expect("an engine");
    signal(before, Signal::SIGKILL);
    // Several may be started; one has the data root.
    let owner = || {
        let text = std::fs::read_to_string(stack.data_root().join("engine.lock")).ok()?;
        text.split_once(' ')?.0.parse::<i32>().ok()
    };
    let mut found = None;
    eventually("a monitor starts another engine", 10, || {
        found = owner().filter(|pid| *pid != before);
        found.is_some()
    });
    found.expect("an engine")
}

/// The stack's binary, as a command of its own.
fn run(stack: &Stack, program: &std::path::Path, args: &[&str]) -> std::process::Output {
    let like = stack.command(args);
    let mut command = Command::new(program);
    command.args(like.get_args()).envs(like.get_envs().filter_map(|(k, v)| Some((k, v?))));
    command.current_dir(like.get_current_dir().expect("directory")).output().expect("wharf")
}

#[test]
fn revived_engines_start_containers_again_and_again() {
    let stack = Stack::new("nothing");
    stack.wharf(&["container", "run", "-d", "--name", "keep", "--stop-signal", "KILL", "busybox:local", "sleep", "1000"]).ok();
    stack.wharf(&["container", "run", "-d", "--name", "again", "--restart", "always", "busybox:local", "sleep", "1000"]).ok();
    for round in 0..10 {
        revive(&stack);
        let said = stack.wharf(&["container", "run", "--rm", "busybox:local", "echo", "runs"]).ok();
        assert_eq!(said, "runs\n", "round {round}");
        // Its back-off doubles, whoever the engine is: so many times that is soon over.
        if round > 4 {
            continue;
        }
        let before = stack.pid("again");
        signal(before as i32, Signal::SIGKILL);
        eventually("its restart policy starts it again", 20, || ![0, before].contains(&stack.pid("again")));
    }
    stack.wharf(&["container", "rm", "-f", "keep", "again"]).ok();
}

#[test]
fn a_program_that_was_replaced_or_removed_goes_on_starting_containers() {
    let stack = Stack::bare("nothing");
    let program = stack.path("wharf");
    std::fs::copy(env!("CARGO_BIN_EXE_wharf"), &program).expect("copy");
    let tar = super::support::busybox_tar().to_str().expect("path").to_string();
    let ok = |args: &[&str]| {
        let output = run(&stack, &program, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    ok(&["image", "import", &tar, "busybox:local", "--change", "CMD [\"sh\"]"]);
    ok(&["container", "run", "-d", "--name", "keep", "--stop-signal", "KILL", "busybox:local", "sleep", "1000"]);
    // Replaced, as a package manager does it: another file of that name. And the engine that ran from it dies.
    std::fs::rename(&program, stack.path("old")).expect("rename");
    std::fs::remove_file(stack.path("old")).expect("remove");
    std::fs::write(&program, "not a program").expect("write");
    for _ in 0..2 {
        revive(&stack);
        assert_eq!(stack.wharf(&["container", "run", "--rm", "busybox:local", "echo", "runs"]).ok(), "runs\n");
    }
    stack.wharf(&["container", "rm", "-f", "keep"]).ok();
}

#[test]
fn a_revived_engine_is_as_the_first_was() {
    let stack = Stack::bare("nothing");
    let tar = super::support::busybox_tar().to_str().expect("path").to_string();
    let like = stack.command(&["image", "import", &tar, "busybox:local", "--change", "CMD [\"sh\"]"]);
    // Its first command starts the engine.
    let script = "ulimit -Sn 77 && echo 300 > /proc/self/oom_score_adj && exec \"$0\" \"$@\"";
    let mut first = Command::new("sh");
    first.args(["-c", script]).arg(like.get_program()).args(like.get_args());
    first.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("HTTPS_PROXY", "http://proxy.invalid:3128");
    first.current_dir(like.get_current_dir().expect("directory"));
    assert!(first.status().expect("sh").success());
    stack.wharf(&["container", "run", "-d", "--name", "keep", "--stop-signal", "KILL", "busybox:local", "sleep", "1000"]).ok();
    let of = |pid: i32| {
        let mut environment: Vec<String> = std::fs::read_to_string(format!("/proc/{pid}/environ"))
            .expect("environ")
            .split_terminator('\0')
            .map(str::to_string)
            .collect();
        environment.sort();
        let log = std::fs::read_link(format!("/proc/{pid}/fd/2")).expect("stderr");
        let adjust = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("oom_score_adj");
        (environment, log, adjust.trim().to_string())
    };
    let limit = || stack.wharf(&["container", "run", "--rm", "busybox:local", "sh", "-c", "ulimit -n"]).ok();
    let before = of(stack.engine_pid().expect("an engine"));
    assert!(before.0.contains(&"HTTPS_PROXY=http://proxy.invalid:3128".to_string()), "{before:?}");
    assert_eq!((before.2.as_str(), limit().as_str()), ("0", "1024\n"));
    for _ in 0..2 {
        let engine = revive(&stack);
        eventually("it is as the first", 5, || of(engine) == before);
        assert_eq!(limit(), "1024\n");
    }
    stack.wharf(&["container", "rm", "-f", "keep"]).ok();
}

/// Containers that have ports of one range keep their own ones when another engine comes.
#[test]
fn ports_of_a_range_stay_where_they_are() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        "services: {web: {image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL, ports: ['127.0.0.1:24400-24420:80'], \
         deploy: {replicas: 4}}}",
    );
    stack.wharf(&["up", "-d"]).ok();
    let ports = || {
        let names = (1..=4).map(|n| format!("{}-web-{n}", stack.project));
        names.map(|name| stack.wharf(&["container", "port", &name]).ok()).collect::<Vec<_>>()
    };
    let (before, network) = (ports(), stack.wharf(&["network", "ls", "-q", "-f", &format!("name={}", stack.project)]).ok());
    let rules = || {
        let table = Command::new("nft").args(["list", "ruleset"]).output().expect("nft");
        let text = String::from_utf8_lossy(&table.stdout).into_owned();
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| line.contains("127.0.0.1 . tcp . 244"))
            .map(|line| line.trim().trim_start_matches("elements = { ").trim_end_matches(['}', ',', ' ']).to_string())
            .collect();
        lines.sort();
        lines
    };
    let first = rules();
    assert!(first.len() >= 4 && !network.is_empty(), "{first:?}");
    for _ in 0..3 {
        revive(&stack);
        assert_eq!(ports(), before);
        assert_eq!(rules(), first);
    }
}

/// An engine in the background serves everybody: whoever has started it, containers are the same. One that somebody runs in the
/// foreground has what he has given it, and so has the engine that a monitor starts in its place.
#[test]
fn a_container_has_nothing_of_the_shell_that_started_its_engine() {
    let stack = Stack::new("nothing");
    let shell = "umask 077; trap '' HUP INT CHLD USR1; ulimit -Sn 40; ulimit -Sf 100000; ulimit -Su 5000; ulimit -Ss 4096; \
        ulimit -Sc 0; ulimit -Sl 0; echo 300 > /proc/self/oom_score_adj; export LEAKED=1; cd /dev/shm; \
        exec taskset -c 0 chrt -b 0 nice -n 7 ionice -c 3 setarch -R \"$0\" \"$@\"";
    let under = |script: &str, args: &[&str]| {
        let like = stack.command(args);
        let mut command = Command::new("bash");
        command.args(["-c", script]).arg(like.get_program()).args(like.get_args());
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(like.get_current_dir().expect("directory")).stdin(Stdio::null());
        command
    };
    let seen = |stack: &Stack| {
        let script = "cat /proc/self/limits /proc/self/personality /proc/self/oom_score_adj; umask; env; stat -c '%A %u:%g' /fresh; \
            cut -d' ' -f18,19,40,41 /proc/self/stat; grep -E 'Cpus_allowed|Mems_allowed|Sig(Blk|Ign)|NoNewPrivs|Timer|THP' /proc/self/status";
        stack.wharf(&["container", "run", "--rm", "--hostname", "h", "-v", "/fresh", "busybox:local", "sh", "-c", script]).ok()
    };
    let keep = ["container", "run", "-d", "--name", "keep", "--stop-signal", "KILL", "busybox:local", "sleep", "1000"];
    let plain = seen(&stack);
    assert!(plain.lines().any(|line| line.starts_with("Max open files            1024 ")), "{plain}");
    stack.wharf(&["engine", "stop"]).ok();
    assert!(under(shell, &keep).status().expect("bash").success());
    assert_eq!(seen(&stack), plain);
    let working_directory = std::fs::read_link(format!("/proc/{}/cwd", stack.engine_pid().expect("an engine"))).expect("cwd");
    assert_eq!(working_directory, std::path::Path::new("/"), "a mount that the shell was in can be unmounted");
    revive(&stack);
    assert_eq!(seen(&stack), plain, "revived");
    stack.wharf(&["container", "rm", "-f", "keep"]).ok();
    stack.wharf(&["engine", "stop"]).ok();
    // no_new_privs never goes away again.
    let refused = under("exec setpriv --no-new-privs \"$0\" \"$@\"", &["container", "ls"]).output().expect("bash");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no_new_privs"), "{refused:?}");
    assert_eq!((refused.status.code(), stack.engine_pid()), (Some(1), None));

    let given = under("ulimit -Sn 77; ulimit -Sc 0; exec nice -n 7 \"$0\" \"$@\"", &["engine"]);
    let mut engine = { given }.stderr(Stdio::null()).spawn().expect("bash");
    eventually("the engine listens", 10, || stack.run_root().join("engine.sock").exists());
    stack.wharf(&keep).ok();
    let given = seen(&stack);
    assert!(given.contains("Max open files            77 ") && given.contains("\n27 7 "), "{given}");
    signal(engine.id() as i32, Signal::SIGKILL);
    engine.wait().expect("the engine");
    // Not a command: it would start one itself.
    let listens = || std::os::unix::net::UnixStream::connect(stack.run_root().join("engine.sock")).is_ok();
    eventually("a monitor starts another", 20, listens);
    assert_eq!(seen(&stack), given, "revived");
    stack.wharf(&["container", "rm", "-f", "keep"]).ok();
}

/// Lines of the journal.
pub fn journal_lines(stack: &Stack) -> usize {
    std::fs::read(stack.data_root().join("state.journal")).expect("journal").iter().filter(|byte| **byte == b'\n').count()
}

/// Runs a command and kills the engine as soon as the journal has so many lines more. Whether it was alive by then.
pub fn kill_at_line(stack: &Stack, args: &[&str], more: usize) -> bool {
    let engine = stack.engine_pid().expect("an engine");
    let bound = journal_lines(stack) + more;
    let mut command = stack.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("wharf");
    let reached = loop {
        if journal_lines(stack) >= bound {
            break true;
        }
        if command.try_wait().expect("wait").is_some() {
            break journal_lines(stack) >= bound;
        }
    };
    if reached {
        signal(engine, Signal::SIGKILL);
    }
    command.wait().expect("wait");
    reached
}

fn names_and_states(stack: &Stack) -> Vec<(String, String)> {
    let text = |c: &serde_json::Value, key: &str| c[key].as_str().expect("text").to_string();
    let mut all: Vec<_> = stack.ps().iter().map(|c| (text(c, "Name"), text(c, "State"))).collect();
    all.sort();
    all
}

#[test]
fn a_recreation_that_was_broken_off_is_ended_by_the_next_engine() {
    let stack = Stack::new("nothing");
    let service = sleeping("");
    let start_first = sleeping("deploy: {update_config: {order: start-first, monitor: 20ms}}");
    let sharing = sleeping("network_mode: 'service:b'");
    stack.write("compose.yaml", &format!("services: {{a: {{{service}}}, b: {{{start_first}}}, s: {{{sharing}}}}}"));
    stack.wharf(&["up", "-d"]).ok();
    let wanted: Vec<_> = ["a-1", "b-1", "s-1"].map(|name| (format!("{}-{name}", stack.project), "running".to_string())).into();
    assert_eq!(names_and_states(&stack), wanted);
    let mut line = 0;
    loop {
        line += 1;
        let killed = kill_at_line(&stack, &["up", "-d", "--force-recreate", "-t", "0"], line);
        // Before anybody asks for it: what was half done is whole.
        let names = || names_and_states(&stack).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let temporary = || names().iter().any(|name| name.contains('_'));
        eventually("no temporary name is left", 10, || !temporary());
        let runs = |name: &str| {
            let wanted = (format!("{}-{name}", stack.project), "running".to_string());
            names_and_states(&stack).contains(&wanted)
        };
        eventually(&format!("what ran runs again, killed at line {line}"), 10, || runs("a-1") && runs("b-1"));
        let up = stack.wharf(&["up", "-d"]);
        assert_eq!(up.code, 0, "killed at line {line}: {}", up.stderr);
        assert_eq!(names_and_states(&stack), wanted, "killed at line {line}");
        let shares = stack.wharf(&["exec", "-T", "s", "true"]);
        assert_eq!(shares.code, 0, "killed at line {line}: {}", shares.stderr);
        if !killed {
            break;
        }
    }
    assert!(line > 15, "the recreation has only {line} lines: not every step was tried");
}

#[test]
fn a_restart_that_was_broken_off_is_ended_by_the_next_engine() {
    let stack = Stack::new("nothing");
    let keep: &[&str] = &["container", "run", "-d", "--name", "keep", "--stop-signal", "KILL", "busybox:local", "sleep", "1000"];
    stack.wharf(keep).ok();
    stack.wharf(&["container", "run", "-d", "--name", "app", "--stop-signal", "KILL", "busybox:local", "sleep", "1000"]).ok();
    for line in 1.. {
        let before = stack.pid("app");
        if !kill_at_line(&stack, &["container", "restart", "app"], line) {
            break;
        }
        eventually("it runs again", 10, || ![0, before].contains(&stack.pid("app")));
    }
    stack.wharf(&["container", "rm", "-f", "keep", "app"]).ok();
}

#[test]
fn a_stop_that_was_broken_off_is_ended_by_the_next_engine() {
    let stack = Stack::new("nothing");
    let app = "{init: true, image: busybox:local, restart: always, stop_grace_period: 2s, command: [sh, -c, 'trap \"\" TERM; while :; do sleep 0.1; done']}";
    stack.write("compose.yaml", &format!("services: {{app: {app}}}"));
    stack.wharf(&["up", "-d"]).ok();
    let name = stack.container("app")["Name"].as_str().expect("a name").to_string();
    let stopped = || stack.state("app") == "exited";
    let begun = || {
        let journal = std::fs::read(stack.data_root().join("state.journal")).expect("journal");
        let journal = String::from_utf8_lossy(&journal);
        let last = journal.lines().rev().find(|line| line.contains(&name));
        last.is_some_and(|line| line.contains(r#""stopped_by_user":true"#))
    };
    // With the container's own grace period, another one, and by a client of the API.
    for stop in [&["stop", "app"][..], &["stop", "-t", "1", "app"], &["container", "stop", &name]] {
        let mut command = stack.command(stop).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("wharf");
        eventually("the stop is in the journal", 10, begun);
        revive(&stack);
        command.wait().expect("wait");
        eventually("the next engine ends the stop", 10, stopped);
        stack.wharf(&["up", "-d"]).ok();
        assert_eq!(stack.state("app"), "running");
    }
    // A command that comes meanwhile goes by the end of it.
    let before = stack.pid(&name);
    let mut command = stack.command(&["stop", "app"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("wharf");
    eventually("the stop is in the journal", 10, begun);
    revive(&stack);
    command.wait().expect("wait");
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.state("app"), "running");
    assert_ne!(stack.pid(&name), before, "it was not stopped");
}

#[test]
fn a_start_of_what_runs_takes_a_stop_back_that_has_not_ended_it() {
    let stack = Stack::new("nothing");
    let app = "{image: busybox:local, restart: always, command: [sh, -c, 'trap \"\" TERM; while :; do sleep 0.1; done']}";
    stack.write("compose.yaml", &format!("services: {{app: {app}}}"));
    stack.wharf(&["up", "-d"]).ok();
    let name = stack.container("app")["Name"].as_str().expect("a name").to_string();
    for start in [&["start"][..], &["up", "-d"], &["container", "start", &name]] {
        // It ignores it, and its policy would leave it alone from then on.
        stack.wharf(&["kill", "-s", "TERM"]).ok();
        stack.wharf(start).ok();
        let before = stack.pid(&name);
        signal(i32::try_from(before).expect("a pid"), Signal::SIGKILL);
        eventually("its policy restarts it", 10, || ![0, before].contains(&stack.pid(&name)));
    }
}

/// An engine that dies within the start of a container: the client goes on with the next one, and the program runs once.
#[test]
fn a_run_is_begun_once_whenever_the_engine_dies() {
    let stack = Stack::new("nothing");
    stack.wharf(&["container", "run", "-d", "--name", "keep", "--stop-signal", "KILL", "busybox:local", "sleep", "1000"]).ok();
    let ran = stack.path("ran");
    std::fs::create_dir(&ran).expect("directory");
    let mount = format!("{}:/ran", ran.display());
    let script = "echo ran >> /ran/times; echo said; exit 3";
    let mut killed = 0;
    // What a start of a container takes, and more.
    for millis in (5..120).step_by(5) {
        let _ = std::fs::remove_file(ran.join("times"));
        let mut command = stack.command(&["container", "run", "--rm", "-v", &mount, "busybox:local", "sh", "-c", script]);
        let engine = stack.engine_pid().expect("an engine");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("wharf");
        let until = Instant::now() + Duration::from_millis(millis);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        signal(engine, Signal::SIGKILL);
        killed += 1;
        let output = child.wait_with_output().expect("output");
        let said = String::from_utf8_lossy(&output.stderr);
        let times = std::fs::read_to_string(ran.join("times")).map_or(0, |text| text.lines().count());
        match output.status.code() {
            Some(3) => assert_eq!((times, &output.stdout[..]), (1, &b"said\n"[..]), "after {millis} ms: {said}"),
            // The next engine has removed what ended without one.
            _ if times == 1 => assert!(said.contains("its exit code is not known"), "after {millis} ms: {said}"),
            _ => assert!(times == 0 && said.contains("nothing was run"), "after {millis} ms, {times} times: {said}"),
        }
        eventually("an engine is there", 10, || stack.wharf(&["container", "ls"]).code == 0 && stack.engine_pid().is_some());
    }
    assert!(killed > 20);
    // One that was made, and whose client has heard nothing of it, is there for half a minute.
    for id in stack.wharf(&["container", "ls", "-aq"]).ok().lines() {
        stack.wharf(&["container", "rm", "-f", id]);
    }
}

/// The same for a command in a container, which no engine can find again.
#[test]
fn an_exec_whose_engine_dies_is_not_said_to_go_on() {
    let stack = Stack::new("nothing");
    stack.wharf(&["container", "run", "-d", "--name", "keep", "--stop-signal", "KILL", "busybox:local", "sleep", "1000"]).ok();
    for millis in (0..60).step_by(3) {
        let child = stack
            .command(&["container", "exec", "keep", "sh", "-c", "echo ran >> /times"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("wharf");
        let engine = stack.engine_pid().expect("an engine");
        let until = Instant::now() + Duration::from_millis(millis);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        signal(engine, Signal::SIGKILL);
        let output = child.wait_with_output().expect("output");
        let said = String::from_utf8_lossy(&output.stderr);
        let times = stack.wharf(&["container", "exec", "keep", "sh", "-c", "cat /times; rm -f /times"]).stdout.lines().count();
        match output.status.code() {
            Some(0) => assert_eq!(times, 1, "after {millis} ms: {said}"),
            code => {
                assert_eq!(code, Some(255), "after {millis} ms: {said}");
                assert!(said.contains("its exit code is not known") && times <= 1, "after {millis} ms: {said}");
            }
        }
    }
    stack.wharf(&["container", "rm", "-f", "keep"]).ok();
}

#[test]
fn a_wait_goes_on_with_the_next_engine() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", "services: {web: {image: 'busybox:local', command: sleep 1000, init: true}}\n");
    stack.wharf(&["up", "-d"]).ok();
    let name = stack.container("web")["Name"].as_str().expect("a name").to_string();
    for wait in [&["wait", "web"][..], &["container", "wait", &name]] {
        let child = stack.command(wait).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("wharf");
        let descriptors = std::path::PathBuf::from(format!("/proc/{}/fd", child.id()));
        eventually("it asks the engine", 10, || {
            let links = std::fs::read_dir(&descriptors).into_iter().flatten().flatten();
            links
                .filter_map(|entry| std::fs::read_link(entry.path()).ok())
                .any(|link| link.to_string_lossy().starts_with("socket:"))
        });
        revive(&stack);
        revive(&stack);
        stack.wharf(&["container", "kill", &name]).ok();
        let output = child.wait_with_output().expect("output");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("137"), "{wait:?}: {said} {}", String::from_utf8_lossy(&output.stderr));
        stack.wharf(&["start"]).ok();
    }
}

/// The monitor of a container, by its id.
pub fn monitor_of(stack: &Stack, id: &str) -> Option<i32> {
    let needle = stack.run_root().join("containers").join(id).to_string_lossy().into_owned();
    let monitor = |pid: &i32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split('\0').nth(1) == Some("monitor") && line.contains(&needle)
    };
    let pids = std::fs::read_dir("/proc").expect("proc").flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(monitor)
}

fn status(stack: &Stack, name: &str) -> String {
    stack.wharf(&["container", "inspect", "-f", "{{.State.Status}}", name]).ok().trim().to_string()
}

#[test]
fn an_engine_that_dies_while_all_containers_wait_for_their_restart_comes_back() {
    let stack = Stack::new("nothing");
    let id = stack.wharf(&["container", "run", "-d", "--name", "app", "--restart", "always", "busybox:local", "false"]).ok();
    let starts =
        || stack.wharf(&["container", "inspect", "-f", "{{.RestartCount}}", "app"]).ok().trim().parse::<u32>().expect("count");
    for _ in 0..3 {
        // By then it waits for more than a second.
        eventually("it waits for its restart", 20, || starts() > 3 && status(&stack, "app") == "restarting");
        let before = starts();
        revive(&stack);
        eventually("its restarts go on", 60, || starts() > before);
        // Its back-off begins anew.
        stack.wharf(&["container", "stop", "app"]).ok();
        eventually("nobody waits any more", 5, || monitor_of(&stack, id.trim()).is_none());
        stack.wharf(&["container", "start", "app"]).ok();
    }
    stack.wharf(&["container", "rm", "-f", "app"]).ok();
}

/// Starts a monitor by hand, and returns what it has told its engine before it ended; nothing where the engine is gone.
fn monitor_by_hand(directory: &std::path::Path, engine_lives: bool) -> String {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::io::Read;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("socket");
    // Descriptor 3 is the engine's socket.
    let script = "exec 3<&0 0</dev/null; exec \"$0\" monitor \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_wharf")]).arg(directory).stdin(theirs);
    let ours = Some(ours).filter(|_| engine_lives);
    let mut child = command.spawn().expect("sh");
    drop(command);
    assert!(!child.wait().expect("wait").success());
    // A message is read at once or cut.
    let mut message = [0; 4096];
    let length = ours.map_or(0, |ours| std::fs::File::from(ours).read(&mut message).expect("what it says"));
    String::from_utf8_lossy(&message[..length]).into_owned()
}

#[test]
fn a_container_has_one_monitor_and_that_has_an_engine() {
    let stack = Stack::new("nothing");
    let run: &[&str] = &[
        "container",
        "run",
        "-d",
        "--network",
        "host",
        "--name",
        "app",
        "--stop-signal",
        "KILL",
        "busybox:local",
        "sleep",
        "1000",
    ];
    let id = stack.wharf(run).ok().trim().to_string();
    let directory = stack.run_root().join("containers").join(&id);
    let said = monitor_by_hand(&directory, true);
    assert!(said.contains("another monitor runs the container"), "{said}");
    assert_eq!(stack.wharf(&["container", "exec", "app", "echo", "runs"]).ok(), "runs\n");
    stack.wharf(&["container", "stop", "app"]).ok();
    // A monitor that is late, and whose engine has died meanwhile.
    assert_eq!(monitor_by_hand(&directory, false), "");
    let groups = Command::new("grep")
        .args(["-ls", &id])
        .args(std::fs::read_dir("/proc").expect("proc").flatten().map(|e| e.path().join("cgroup")))
        .output()
        .expect("grep");
    assert_eq!(String::from_utf8_lossy(&groups.stdout), "", "it has started nothing");
    stack.wharf(&["container", "start", "app"]).ok();
    stack.wharf(&["container", "rm", "-f", "app"]).ok();
}

#[test]
fn a_monitor_that_hangs_keeps_nobody_waiting() {
    let stack = Stack::new("nothing");
    let run = |name: &str| {
        let run: &[&str] = &["container", "run", "-d", "--name", name, "busybox:local", "sleep", "1000"];
        stack.wharf(run).ok().trim().to_string()
    };
    let (app, other) = (run("app"), run("other"));
    let pid = stack.pid("app") as i32;
    signal(monitor_of(&stack, &app).expect("monitor"), Signal::SIGSTOP);
    let begun = Instant::now();
    stack.wharf(&["container", "exec", "app", "true"]).fails(1, &["the monitor of the container app does not answer"]);
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    let begun = Instant::now();
    stack.wharf(&["container", "stop", "-t", "1", "app"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(11), "{:?}", begun.elapsed());
    assert_eq!(status(&stack, "app"), "exited");
    let runs = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    eventually("its process is gone", 5, || !runs());
    eventually("so is its monitor", 5, || monitor_of(&stack, &app).is_none());
    // Beside an engine that dies: the next does not wait for it, and nothing of it goes on later.
    stack.wharf(&["container", "start", "app"]).ok();
    let monitor = monitor_of(&stack, &app).expect("monitor");
    signal(monitor, Signal::SIGSTOP);
    revive(&stack);
    assert_eq!(status(&stack, "app"), "exited");
    assert!(monitor_of(&stack, &app).is_none() && monitor_of(&stack, &other).is_some());
    stack.wharf(&["container", "rm", "-f", "app", "other"]).ok();
}

#[test]
fn what_runs_in_the_foreground_goes_on_with_the_next_engine() {
    let stack = Stack::new("nothing");
    let script = "echo begun; until [ -e /go ]; do sleep 0.05; done; echo done";
    let run: &[&str] = &["container", "run", "--rm", "--name", "app", "busybox:local", "sh", "-c", script];
    let client = stack.command(run).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
    eventually("it runs", 10, || stack.wharf(&["container", "logs", "app"]).stdout == "begun\n");
    // Made to be removed, and never started.
    stack.wharf(&["container", "create", "--rm", "--name", "unstarted", "busybox:local", "true"]).ok();
    revive(&stack);
    assert_eq!(status(&stack, "app"), "running");
    eventually("nobody would start it", 5, || stack.wharf(&["container", "inspect", "unstarted"]).code != 0);
    stack.wharf(&["container", "exec", "app", "touch", "/go"]).ok();
    let ended = client.wait_with_output().expect("run ends");
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "begun\ndone\n");
    assert_ne!(stack.wharf(&["container", "inspect", "app"]).code, 0, "it is removed");
}

/// The engine dies when the container's process is there and the journal does not know it yet.
#[test]
fn a_start_that_no_record_knows_is_found() {
    let stack = Stack::new("nothing");
    let keep: &[&str] = &["container", "run", "-d", "--name", "keep", "--stop-signal", "KILL", "busybox:local", "sleep", "1000"];
    stack.wharf(keep).ok();
    let create: &[&str] = &["container", "create", "--name", "app", "--stop-signal", "KILL", "busybox:local", "sleep", "1000"];
    let id = stack.wharf(create).ok().trim().to_string();
    let control = stack.run_root().join("containers").join(&id).join("control");
    for round in 0..6 {
        let engine = stack.engine_pid().expect("an engine");
        // Of the run before.
        let _ = std::fs::remove_file(&control);
        let mut start =
            stack.command(&["container", "start", "app"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start");
        // The monitor listens, and forks the container's process next.
        while !control.exists() {
            assert!(start.try_wait().expect("wait").is_none_or(|status| status.success()), "round {round}");
        }
        signal(engine, Signal::SIGKILL);
        start.wait().expect("wait");
        stack.wharf(&["container", "start", "app"]).ok();
        assert_eq!(stack.wharf(&["container", "exec", "app", "echo", "runs"]).ok(), "runs\n", "round {round}");
        let sleeping = stack.wharf(&["container", "exec", "app", "sh", "-c", "ps | grep -c '[s]leep 1000'"]).ok();
        assert_eq!((status(&stack, "app").as_str(), sleeping.trim()), ("running", "1"), "round {round}");
        stack.wharf(&["container", "stop", "app"]).ok();
        eventually("its monitor leaves", 10, || monitor_of(&stack, &id).is_none());
    }
    stack.wharf(&["container", "rm", "-f", "keep", "app"]).ok();
}

/// A network that has changed is made anew under its containers; the engine dies at each line of that.
#[test]
fn a_network_that_is_made_anew_when_the_engine_dies() {
    let stack = Stack::new("nothing");
    let write = |label: usize| {
        let (a, b) = (sleeping("networks: [n]"), sleeping(""));
        stack.write(
            "compose.yaml",
            &format!("services: {{a: {{{a}}}, b: {{{b}}}}}\nnetworks: {{n: {{labels: {{v: '{label}'}}}}}}"),
        );
    };
    write(0);
    stack.wharf(&["up", "-d"]).ok();
    let wanted: Vec<_> = ["a-1", "b-1"].map(|name| (format!("{}-{name}", stack.project), "running".to_string())).into();
    let network = format!("{}_n", stack.project);
    for line in 1.. {
        write(line);
        let killed = kill_at_line(&stack, &["up", "-d", "-t", "0"], line);
        let up = stack.wharf(&["up", "-d", "-t", "0"]);
        assert_eq!(up.code, 0, "killed at line {line}: {}", up.stderr);
        assert_eq!(names_and_states(&stack), wanted, "killed at line {line}");
        let label = stack.wharf(&["network", "inspect", "-f", "{{.Labels.v}}", &network]).ok();
        assert_eq!(label.trim(), line.to_string());
        assert!(stack.sh("a", "ip addr show dev eth0").contains("inet "), "killed at line {line}");
        if !killed {
            assert!(line > 5, "only {line} lines");
            break;
        }
    }
}

/// A monitor is asked what it does not know, by an engine of a later version: it goes on, with its container.
#[test]
fn a_monitor_does_not_mind_words_of_a_later_version() {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    let stack = Stack::new("nothing");
    let run: &[&str] = &["container", "run", "-d", "--name", "app", "--stop-signal", "KILL", "busybox:local", "sleep", "1000"];
    let id = stack.wharf(run).ok().trim().to_string();
    let pid = stack.pid("app");
    stack.wharf(&["engine", "stop"]).ok();
    let directory = std::fs::File::open(stack.run_root().join("containers").join(&id)).expect("run directory");
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    let address = format!("/proc/self/fd/{}/control", directory.as_raw_fd());
    connect(fd.as_raw_fd(), &UnixAddr::new(address.as_str()).expect("address")).expect("monitor");
    let mut engine = std::fs::File::from(fd);
    for word in [r#"{"of_later":{"x":1}}"#, r#"{"exec":{"id":"no number"}}"#, r#""status""#] {
        engine.write_all(word.as_bytes()).expect("send");
    }
    let mut answer = [0; 4096];
    let length = engine.read(&mut answer).expect("an answer");
    let said = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(said.contains("status") && said.contains(&pid.to_string()), "{said}");
    drop(engine);
    assert_eq!((status(&stack, "app").as_str(), stack.pid("app")), ("running", pid));
    stack.wharf(&["container", "rm", "-f", "app"]).ok();
}
