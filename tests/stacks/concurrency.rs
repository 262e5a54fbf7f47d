//! Many commands at once on the same things: each has its turn, and the last state is one of theirs.

use super::support::{Ran, Stack, eventually, sleeping};
use std::process::Child;
use std::process::Stdio;

/// Starts commands at once; how each has ended.
fn together(stack: &Stack, commands: &[&[&str]]) -> Vec<Ran> {
    let start = |args: &&[&str]| stack.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("wharf runs");
    let children: Vec<Child> = commands.iter().map(start).collect();
    let end = |child: Child| {
        let output = child.wait_with_output().expect("wharf ends");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    };
    children.into_iter().map(end).collect()
}

/// The project's containers with their states, in order.
fn states(stack: &Stack) -> Vec<(String, String)> {
    let text = |c: &serde_json::Value, key: &str| c[key].as_str().expect("text").to_string();
    let mut all: Vec<_> = stack.ps().iter().map(|c| (text(c, "Name"), text(c, "State"))).collect();
    all.sort();
    all
}

fn stack_of_four() -> (Stack, Vec<(String, String)>) {
    let stack = Stack::new("nothing");
    let a = sleeping("scale: 3, networks: [default, n], volumes: ['vv:/v']");
    let b = sleeping("depends_on: [a]");
    stack.write("compose.yaml", &format!("services: {{a: {{{a}}}, b: {{{b}}}}}\nnetworks: {{n: {{}}}}\nvolumes: {{vv: {{}}}}\n"));
    let names = ["a-1", "a-2", "a-3", "b-1"].map(|name| (format!("{}-{name}", stack.project), "running".to_string()));
    (stack, names.to_vec())
}

#[test]
fn ten_ups_make_one_stack() {
    let (stack, wanted) = stack_of_four();
    let all = together(&stack, &[&["up", "-d"][..]; 10]);
    assert!(all.iter().any(|ran| ran.stderr.contains("goes first; waiting for its end")), "nobody says for whom it waits");
    all.into_iter().for_each(|ran| drop(ran.ok()));
    assert_eq!(states(&stack), wanted);
    for _ in 0..2 {
        together(&stack, &[&["up", "-d", "--force-recreate"][..]; 4]).into_iter().for_each(|ran| drop(ran.ok()));
        assert_eq!(states(&stack), wanted);
    }
}

#[test]
fn up_against_down_leaves_what_the_last_one_wanted() {
    let (stack, wanted) = stack_of_four();
    for _ in 0..5 {
        let (up, down): (&[&str], &[&str]) = (&["up", "-d"], &["down", "-v", "-t", "0"]);
        together(&stack, &[up, down, up, down]).into_iter().for_each(|ran| drop(ran.ok()));
        stack.wharf(up).ok();
        assert_eq!(states(&stack), wanted);
        stack.wharf(down).ok();
        assert_eq!(states(&stack), []);
    }
    stack.wharf(&["engine", "stop"]).ok();
    assert_eq!(states(&stack), [], "no removed container is known to another engine");
}

#[test]
fn down_need_not_wait_for_what_up_waits_for() {
    let stack = Stack::new("nothing");
    let db = sleeping("healthcheck: {test: ['CMD', 'false'], interval: 1h, retries: 100}");
    let web = sleeping("depends_on: {db: {condition: service_healthy}}");
    stack.write("compose.yaml", &format!("services: {{db: {{{db}}}, web: {{{web}}}}}"));
    let up = stack.command(&["up", "-d"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("up");
    eventually("it waits for a check that never succeeds", 10, || states(&stack).iter().any(|(_, state)| state == "running"));
    let down = stack.wharf(&["down", "-t", "0"]);
    assert!(down.stderr.contains("`up` of the project"), "{}", down.stderr);
    down.ok();
    let up = up.wait_with_output().expect("up ends");
    let said = String::from_utf8_lossy(&up.stderr).into_owned();
    assert!(!up.status.success() && said.contains("another command for the project"), "{said}");
    assert_eq!(states(&stack), []);
}

#[test]
fn a_name_is_given_once() {
    let stack = Stack::new("nothing");
    for _ in 0..5 {
        let create: &[&str] = &["container", "create", "--name", "same", "busybox:local", "true"];
        let all = together(&stack, &[create; 12]);
        assert_eq!(all.iter().filter(|ran| ran.code == 0).count(), 1, "{all:?}");
        assert!(
            all.iter()
                .filter(|ran| ran.code != 0)
                .all(|ran| ran.stderr.contains("The container name \"/same\" is already in use by container")),
            "{all:?}"
        );
        let known = stack.wharf(&["container", "ls", "-a", "--format", "{{.Names}}"]).ok();
        assert_eq!(known, "same\n");
        // Two names for one, and one name for two.
        stack.wharf(&["container", "create", "--name", "other", "busybox:local", "true"]).ok();
        let all = together(&stack, &[&["container", "rename", "same", "third"], &["container", "rename", "other", "third"]]);
        assert_eq!(all.iter().filter(|ran| ran.code == 0).count(), 1, "{all:?}");
        stack.wharf(&["container", "rm", "-f", "third"]).ok();
        let left = stack.wharf(&["container", "ls", "-aq"]).ok();
        stack.wharf(&["container", "rm", left.trim()]).ok();
    }
}

#[test]
fn a_removed_container_stays_removed() {
    let stack = Stack::new("nothing");
    for other in ["restart", "stop", "start"] {
        for _ in 0..5 {
            let run: &[&str] =
                &["container", "run", "-d", "--name", "g", "--stop-signal", "KILL", "busybox:local", "sleep", "1000"];
            stack.wharf(run).ok();
            let all =
                together(&stack, &[&["container", other, "g"], &["container", "rm", "-f", "g"], &["container", other, "g"]]);
            assert_eq!(all[1].code, 0, "{all:?}");
            assert_eq!(stack.wharf(&["container", "ls", "-aq"]).ok(), "", "after {other}");
        }
    }
    stack.wharf(&["engine", "stop"]).ok();
    assert_eq!(stack.wharf(&["container", "ls", "-aq"]).ok(), "", "another engine knows none of them");
}

#[test]
fn what_ends_by_itself_is_stopped_and_removed_as_well() {
    let stack = Stack::new("nothing");
    let short = |millis: u32| {
        format!("image: 'busybox:local', command: 'sh -c \"sleep 0.0{millis:02}; exit 3\"', scale: 6, stop_signal: SIGTERM")
    };
    for round in 0..12 {
        stack.write("compose.yaml", &format!("services: {{e: {{{}}}}}", short(round * 8)));
        stack.wharf(&["up", "-d"]).ok();
        stack.wharf(&["down", "-t", "5"]).ok();
        assert_eq!(states(&stack), []);
    }
}

#[test]
fn a_restart_keeps_its_network() {
    let stack = Stack::new("nothing");
    let serves = "image: busybox:local, command: ['httpd', '-f', '-p', '80'], stop_signal: KILL";
    let other = sleeping("");
    stack.write(
        "compose.yaml",
        &format!("services: {{web: {{{serves}, ports: ['127.0.0.1::80', '127.0.0.1::81']}}, other: {{{other}}}}}"),
    );
    stack.wharf(&["up", "-d"]).ok();
    let name = format!("{}-web-1", stack.project);
    for _ in 0..15 {
        stack.wharf(&["container", "restart", &name]).ok();
        let ports = stack.wharf(&["port", "web", "80"]).ok();
        let answers = || std::net::TcpStream::connect(ports.trim()).is_ok();
        eventually("its port is published", 5, answers);
        assert_eq!(stack.sh("web", "nslookup other >/dev/null && echo known").trim(), "known");
        // Whatever takes it away late has had the time for it.
        assert!(answers(), "the port is withdrawn again");
    }
    stack.wharf(&["down", "-t", "0"]).ok();
}

#[test]
fn a_restart_goes_on_without_its_client() {
    let stack = Stack::new("nothing");
    let deaf = "trap '' TERM; while :; do sleep 1; done";
    stack.wharf(&["container", "run", "-d", "--name", "app", "busybox:local", "sh", "-c", deaf]).ok();
    let before = stack.pid("app");
    let mut restart = stack.command(&["container", "restart", "-t", "2", "app"]).stdout(Stdio::null()).spawn().expect("restart");
    let journal = || std::fs::read_to_string(stack.data_root().join("state.journal")).expect("journal");
    eventually("it has begun", 5, || journal().contains(r#""restart_begun":true"#));
    restart.kill().expect("kill");
    restart.wait().expect("wait");
    eventually("it runs again", 20, || ![0, before].contains(&stack.pid("app")));
    stack.wharf(&["container", "rm", "-f", "app"]).ok();
}

#[test]
fn down_stops_the_hook_that_up_waits_for() {
    let stack = Stack::new("nothing");
    let web = sleeping("pre_start: [{command: ['sleep', '1000']}]");
    stack.write("compose.yaml", &format!("services: {{web: {{{web}}}}}"));
    for _ in 0..5 {
        let up = stack.command(&["up", "-d"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("up");
        // While the container of the hook is made and started as well as later.
        eventually("the hook has a container", 10, || stack.container_directories() == 2);
        stack.wharf(&["down", "-t", "0"]).ok();
        assert!(!up.wait_with_output().expect("up ends").status.success());
        assert_eq!(stack.container_directories(), 0);
        let runs = std::fs::read_dir(stack.run_root().join("containers")).expect("run directories").count();
        assert_eq!(runs, 0, "a monitor is left");
    }
}

/// Each command of a project beside itself and beside the others.
#[test]
fn every_command_of_a_project_beside_every_other() {
    let (stack, wanted) = stack_of_four();
    let up: &[&str] = &["up", "-d"];
    let down: &[&str] = &["down", "-t", "0"];
    stack.wharf(up).ok();
    let again: [&[&str]; 4] = [&["restart", "-t", "0"], &["stop", "-t", "0"], &["kill"], &["start"]];
    for round in 0..3 {
        // What is killed or stopped already is no failure; neither is one that another command stops or starts meanwhile.
        let all = together(&stack, &[again[round], again[round + 1], again[0], again[round]]);
        all.into_iter().for_each(|ran| drop(ran.ok()));
        stack.wharf(up).ok();
        assert_eq!(states(&stack), wanted, "round {round}");
    }
    together(&stack, &[down, down, down]).into_iter().for_each(|ran| drop(ran.ok()));
    assert_eq!(states(&stack), []);
    // A command in a container of its own, beside the end of the project: it has run, or says why not; nothing of it is left.
    for _ in 0..3 {
        stack.wharf(up).ok();
        let run: &[&str] = &["run", "--rm", "-T", "a", "true"];
        let all = together(&stack, &[run, down, run, down]);
        assert!(all.iter().all(|ran| ran.code == 0 || ran.stderr.contains("error: ")), "{all:?}");
        [&all[1], &all[3]].into_iter().for_each(|ran| assert_eq!(ran.code, 0, "{ran:?}"));
        stack.wharf(down).ok();
        assert_eq!(states(&stack), []);
        assert_eq!(stack.container_directories(), 0);
    }
}

#[test]
fn two_removals_of_one_container_remove_it_once() {
    let stack = Stack::new("nothing");
    let remove: &[&str] = &["container", "rm", "-f", "g"];
    for _ in 0..5 {
        stack.wharf(&["container", "run", "-d", "--name", "g", "-v", "/v", "busybox:local", "sleep", "1000"]).ok();
        let all = together(&stack, &[remove; 4]);
        let (ok, failed): (Vec<_>, Vec<_>) = all.iter().partition(|ran| ran.code == 0);
        assert!(!ok.is_empty() && failed.iter().all(|ran| ran.stderr.contains("No such container")), "{all:?}");
        assert_eq!(stack.wharf(&["container", "ls", "-aq"]).ok(), "");
        assert_eq!(stack.container_directories(), 0);
    }
    stack.wharf(&["volume", "prune", "-af"]).ok();
}
