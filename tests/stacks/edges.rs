//! What Docker Compose does at the edges of its commands: flags, variables, names, and what is not there.

use crate::support::Stack;
use std::process::Stdio;

/// The whole root of a container, running or not, comes as a tree: without what the kernel shows in it.
#[test]
fn cp_of_a_whole_root_keeps_its_directories() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", "services: {web: {image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL}}");
    stack.wharf(&["up", "-d"]).ok();
    stack.sh("web", "echo a > /tmp/same; echo b > /home/same");
    std::fs::create_dir(stack.path("there")).expect("directory");
    let read = |path: &str| std::fs::read_to_string(stack.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    for (target, stopped) in [("new", false), ("there", false), ("stopped", true)] {
        if stopped {
            stack.wharf(&["stop"]).ok();
        }
        for source in ["web:/", "web:/.", "web:"] {
            stack.wharf(&["cp", source, target]).ok();
            assert_eq!((read(&format!("{target}/tmp/same")), read(&format!("{target}/home/same"))), ("a\n".into(), "b\n".into()));
            for kernel in ["proc", "sys", "dev"] {
                let found = std::fs::read_dir(stack.path(target).join(kernel)).expect("a directory").count();
                assert_eq!(found, 0, "{source} {target}/{kernel}");
            }
            std::fs::remove_dir_all(stack.path(target)).expect("remove");
            if target == "there" {
                std::fs::create_dir(stack.path("there")).expect("directory");
            }
        }
    }
    stack.wharf(&["cp", "--index", "5", "web:/etc", "."]).fails(1, &["service \"web\" has no container #5"]);
}

/// Variables that are switches, and orphans that nobody wants to hear of.
#[test]
fn switches_of_the_environment_are_read_as_docker_compose_reads_them() {
    let stack = Stack::new("nothing");
    let service = |names: &[&str]| {
        let one = |name: &&str| format!("{name}: {{image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL}}");
        stack.write("compose.yaml", &format!("services: {{{}}}", names.iter().map(one).collect::<Vec<_>>().join(", ")));
    };
    let run = |args: &[&str], variable: (&str, &str)| {
        let output = stack.command(args).env(variable.0, variable.1).stdout(Stdio::null()).output().expect("wharf runs");
        assert!(output.status.success(), "{args:?} {variable:?}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    service(&["web", "old", "older"]);
    stack.wharf(&["up", "-d"]).ok();
    service(&["web"]);
    let warning = format!("Found orphan containers ([{0}-old-1 {0}-older-1])", stack.project);
    assert!(run(&["up", "-d"], ("COMPOSE_REMOVE_ORPHANS", "0")).contains(&warning));
    for quiet in ["1", "true"] {
        assert!(!run(&["up", "-d"], ("COMPOSE_IGNORE_ORPHANS", quiet)).contains("orphan"));
    }
    assert!(!run(&["down"], ("COMPOSE_REMOVE_ORPHANS", "false")).contains("orphan"), "as Docker Compose's");
    assert_eq!(stack.ps().len(), 2, "they stay");
    run(&["up", "-d"], ("COMPOSE_REMOVE_ORPHANS", "1"));
    let left = stack.wharf(&["container", "ls", "-a", "--format", "{{.Names}}"]).ok();
    assert_eq!(left.trim(), format!("{}-web-1", stack.project));
    stack.wharf(&["stop", "-t", "x"]).fails(1, &["-1 for ever"]);
    stack.wharf(&["stop", "-t", "-1"]).ok();
    stack.wharf(&["start"]).ok();
    stack.wharf(&["pause"]).ok();
    stack.wharf(&["pause"]).fails(1, &["is already paused"]);
    stack.wharf(&["unpause"]).ok();
    stack.wharf(&["unpause"]).fails(1, &["is not paused"]);
}

/// An image that cannot be had leaves everything as it was; what is not asked for is not looked at.
#[test]
fn images_come_before_everything_else() {
    let stack = Stack::new("nothing");
    let web = "web: {image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL";
    stack.write("compose.yaml", &format!("services: {{{web}}}, gone: {{image: '127.0.0.1:1/gone:v9'}}}}"));
    stack.wharf(&["up", "-d"]).fails(1, &["127.0.0.1:1"]);
    assert!(stack.ps().is_empty());
    assert!(!stack.wharf(&["network", "ls"]).ok().contains(&stack.project), "not even a network");
    stack.write("compose.yaml", &format!("services: {{{web}}}, odd: {{image: 'localhost:5999/Foo'}}}}"));
    stack.wharf(&["up", "-d", "web"]).ok();
    stack.wharf(&["up", "-d"]).fails(1, &["services.odd: ", "localhost:5999/Foo"]);
    // Of what a dependency needs nobody asks with --no-deps.
    let secret = "secrets: {s: {environment: NOT_SET_ANYWHERE}}";
    let base = "base: {image: 'busybox:local', command: sleep 1000, secrets: [s]}";
    stack.write("compose.yaml", &format!("services: {{{web}, depends_on: [base]}}, {base}}}\n{secret}"));
    stack.wharf(&["up", "-d", "web"]).fails(1, &["NOT_SET_ANYWHERE"]);
    stack.wharf(&["up", "-d", "--no-deps", "web"]).ok();
    stack.wharf(&["run", "--rm", "-T", "--no-deps", "web", "true"]).ok();
}

/// Signals that end a container reach it while it is frozen, and a command that ends its own container has its exit code.
#[test]
fn signals_end_frozen_containers_and_commands_with_their_containers() {
    let stack = Stack::new("nothing");
    let script = "trap 'exit 5' TERM; while :; do sleep 0.05; done";
    stack.write("compose.yaml", &format!("services: {{web: {{image: 'busybox:local', command: [sh, -c, \"{script}\"]}}}}"));
    for (signal, code) in [("SIGKILL", 137), ("SIGTERM", 5)] {
        stack.wharf(&["up", "-d"]).ok();
        stack.wharf(&["pause"]).ok();
        stack.wharf(&["kill", "-s", signal]).ok();
        crate::support::eventually("it ends", 10, || stack.state("web") == "exited");
        assert_eq!(stack.container("web")["ExitCode"], code, "{signal}");
    }
    stack.wharf(&["up", "-d"]).ok();
    let ran = stack.wharf(&["exec", "-T", "web", "sh", "-c", "kill -TERM 1; sleep 100"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (137, ""));
}

/// What somebody watches and has ended is started by a restart.
#[test]
fn watch_restarts_what_has_ended() {
    let stack = Stack::new("nothing");
    let watch = "develop: {watch: [{path: ./watched, action: sync+restart, target: /watched}]}";
    let script = "cat /watched; exit 0";
    stack.write(
        "compose.yaml",
        &format!("services: {{web: {{image: 'busybox:local', command: [sh, -c, \"{script}\"], {watch}}}}}"),
    );
    stack.write("watched", "first\n");
    stack.wharf(&["up", "-d"]).ok();
    let mut watching = stack.command(&["watch", "--no-up"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("spawn");
    let said = crate::support::follow(watching.stderr.take().expect("stderr"));
    crate::support::eventually("it watches", 10, || said.lock().expect("lock").contains("Watch"));
    stack.write("watched", "second\n");
    crate::support::eventually("it runs again", 10, || stack.wharf(&["logs", "--no-log-prefix"]).stdout.contains("second"));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(watching.id() as i32), nix::sys::signal::Signal::SIGINT).expect("kill");
    assert_eq!(watching.wait().expect("wait").code(), Some(130));
}
