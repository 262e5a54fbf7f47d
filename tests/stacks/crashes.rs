//! The engine and its monitors die, or hang: nothing is lost, and what comes after works.

use super::support::{Stack, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Command;

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
