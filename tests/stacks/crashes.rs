//! The engine and its monitors die, or hang: nothing is lost, and what comes after works.

use super::support::{Stack, eventually, sleeping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Command, Stdio};

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("kill");
}

/// Kills the engine, and waits until a monitor has started another. Returns its process.
fn revive(stack: &Stack) -> i32 {
    let before = stack.engine_pid().expect("an engine");
    signal(before, Signal::SIGKILL);
    let another = || stack.engine_pid().filter(|pid| *pid != before && stack.run_root().join("engine.sock").exists());
    eventually("a monitor starts another engine", 10, || another().is_some());
    another().expect("an engine")
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
    let script = "ulimit -Sn 777 && echo 300 > /proc/self/oom_score_adj && exec \"$0\" \"$@\"";
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
    assert_eq!((before.2.as_str(), limit().as_str()), ("300", "777\n"));
    for _ in 0..2 {
        let engine = revive(&stack);
        eventually("it is as the first", 5, || of(engine) == before);
        assert_eq!(limit(), "777\n");
    }
    stack.wharf(&["container", "rm", "-f", "keep"]).ok();
}

/// Lines of the journal.
fn journal_lines(stack: &Stack) -> usize {
    std::fs::read(stack.data_root().join("state.journal")).expect("journal").iter().filter(|byte| **byte == b'\n').count()
}

/// Runs a command and kills the engine as soon as the journal has so many lines more. Whether it was alive by then.
fn kill_at_line(stack: &Stack, args: &[&str], more: usize) -> bool {
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
    let service = sleeping("scale: 2");
    let start_first = sleeping("deploy: {update_config: {order: start-first}}");
    let sharing = sleeping("network_mode: 'service:b'");
    stack.write("compose.yaml", &format!("services: {{a: {{{service}}}, b: {{{start_first}}}, s: {{{sharing}}}}}"));
    stack.wharf(&["up", "-d"]).ok();
    let wanted: Vec<_> =
        ["a-1", "a-2", "b-1", "s-1"].map(|name| (format!("{}-{name}", stack.project), "running".to_string())).into();
    assert_eq!(names_and_states(&stack), wanted);
    let mut line = 0;
    loop {
        line += 1;
        let killed = kill_at_line(&stack, &["up", "-d", "--force-recreate", "-t", "0"], line);
        // Before anybody asks for it: what was half done is whole.
        let names = || names_and_states(&stack).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let temporary = || names().iter().any(|name| name.contains('_'));
        eventually("no temporary name is left", 10, || !temporary());
        let states = names_and_states(&stack);
        let up = stack.wharf(&["up", "-d"]);
        assert_eq!(up.code, 0, "killed at line {line}, then {states:?}: {}", up.stderr);
        assert_eq!(names_and_states(&stack), wanted, "killed at line {line}, then {states:?}");
        let shares = stack.wharf(&["exec", "-T", "s", "true"]);
        assert_eq!(shares.code, 0, "killed at line {line}: {}", shares.stderr);
        if !killed {
            break;
        }
    }
    assert!(line > 20, "the recreation has only {line} lines: not every step was tried");
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
