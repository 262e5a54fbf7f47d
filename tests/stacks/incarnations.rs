//! Logs and ends of containers that others have replaced.

use crate::support::{Stack, eventually};

fn kept(stack: &Stack) -> usize {
    std::fs::read_dir(stack.data_root().join("incarnations")).map_or(0, Iterator::count)
}

#[test]
fn a_log_does_not_end_with_its_container() {
    let stack = Stack::new("nothing");
    let write = |version: &str, more: &str| {
        let script = format!("echo first of {version}; echo second of {version} >&2; {more} exec sleep 1000");
        stack.write(
            "compose.yaml",
            &format!(
                "services: {{app: {{image: 'busybox:local', command: [sh, -c, '{script}'], stop_signal: SIGKILL, mem_limit: 16m, logging: {{options: {{max-size: 1m, max-file: '2'}}}}}}}}"
            ),
        );
    };
    let logs = |args: &[&str]| stack.wharf(&[&["logs", "--no-color"], args].concat());
    let has = |version: &str| eventually("it has said so", 10, || logs(&[]).stdout.contains(&format!("second of {version}")));
    write("v1", "");
    stack.wharf(&["up", "-d"]).ok();
    has("v1");
    logs(&["--previous"]).fails(1, &["no log of an earlier container is kept"]);
    let first = stack.id("app")[..12].to_string();
    for version in ["v2", "v3"] {
        write(version, "");
        stack.wharf(&["up", "-d"]).ok();
        has(version);
    }
    let now = logs(&[]).ok();
    assert!(now.contains("first of v3") && !now.contains("v2"), "{now}");
    let previous = logs(&["-p", "app"]).ok();
    assert!(previous.contains("first of v2") && previous.contains("second of v2"), "{previous}");
    assert!(!previous.contains("v1") && !previous.contains("v3"), "{previous}");
    // Each line knows its container, and they come in the order of time.
    let all = logs(&["--since", "1h"]).ok();
    let texts: Vec<&str> = all.lines().filter_map(|line| line.split_once("of ").map(|(_, version)| version)).collect();
    assert_eq!(texts, ["v1", "v1", "v2", "v2", "v3", "v3"], "{all}");
    assert!(all.lines().all(|line| line.contains("v1") == line.starts_with(&format!("app-1 ({first})"))), "{all}");
    for (args, expected) in [
        (&["--since", "1h", "--grep", "^f.*[12]$"][..], 2),
        (&["--grep", "of v3"], 2),
        (&["--grep", "nothing"], 0),
        (&["--since", "1h", "--index", "2"], 0),
        (&["--since", "1h", "--tail", "1"], 3),
    ] {
        let shown = logs(args).ok();
        assert_eq!(shown.lines().count(), expected, "{args:?}: {shown}");
    }
    logs(&["--grep", "("]).fails(1, &["--grep"]);
    logs(&["-p", "-f"]).fails(1, &["cannot be used with"]);

    // The next engine knows them; what cannot be kept holds up nothing.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(stack.engine_pid().expect("engine")), nix::sys::signal::SIGKILL)
        .expect("kill");
    assert_eq!(logs(&["-p"]).ok(), previous);
    let directory = stack.data_root().join("incarnations");
    std::fs::rename(&directory, stack.path("aside")).expect("rename");
    std::fs::write(&directory, "").expect("in the way");
    write("v4", "");
    stack.wharf(&["up", "-d"]).ok();
    has("v4");
    std::fs::remove_file(&directory).expect("remove");
    std::fs::rename(stack.path("aside"), &directory).expect("rename");
    for version in ["v5", "v6", "v7", "v8", "v9"] {
        write(version, "");
        stack.wharf(&["up", "-d"]).ok();
    }
    assert_eq!(kept(&stack), 5);

    // How they have ended.
    write("v10", "tail /dev/zero; exit 7;");
    stack.wharf(&["up", "-d"]).ok();
    eventually("it ends", 20, || stack.state("app") == "exited");
    let history = stack.wharf(&["history", "app", "--format", "json"]).ok();
    let rows = history.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let ends: Vec<_> = rows.filter(|row| row["ExitCode"].is_i64()).collect();
    let last = ends.last().expect("an end");
    assert!(last["OOMKilled"] == true && last["Reason"] == "out of memory" && last["RemovedFor"] == "", "{history}");
    assert!(ends.iter().any(|row| row["Reason"] == "stopped" && row["ExitCode"] == 137 && row["RemovedFor"] == "replaced"));
    let table = stack.wharf(&["history"]).ok();
    assert!(table.contains("EXIT CODE") && table.contains("stopped; replaced"), "{table}");

    stack.wharf(&["down", "--keep-logs"]).ok();
    assert!(logs(&["-p"]).ok().contains("first of v10"));
    stack.wharf(&["down"]).ok();
    assert_eq!(kept(&stack), 0);
    logs(&["-p"]).fails(1, &["no log of an earlier container is kept"]);
}
