//! What is kept whatever happens: a damaged journal, a full disk, two engines on one data root. docs/reliability.md names these
//! tests.

use crate::support::{Ran, Stack, eventually};
use std::path::Path;

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
