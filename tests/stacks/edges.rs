//! What Docker Compose does at the edges of its commands: flags, variables, names, and what is not there.

use crate::support::{Stack, Terminal, eventually};
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
    // `.env` counts as well.
    service(&["web", "old"]);
    stack.wharf(&["up", "-d"]).ok();
    service(&["web"]);
    stack.write(".env", "COMPOSE_REMOVE_ORPHANS=true\n");
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.wharf(&["container", "ls", "-a", "--format", "{{.Names}}"]).ok(), left);
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
        eventually("it ends", 10, || stack.state("web") == "exited");
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
    eventually("it watches", 10, || said.lock().expect("lock").contains("Watch"));
    stack.write("watched", "second\n");
    eventually("it runs again", 10, || stack.wharf(&["logs", "--no-log-prefix"]).stdout.contains("second"));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(watching.id() as i32), nix::sys::signal::Signal::SIGINT).expect("kill");
    assert_eq!(watching.wait().expect("wait").code(), Some(130));
}

/// With `--attach-dependencies` the output of dependencies is shown, and the command ends with the named services.
#[test]
fn an_attached_up_ends_with_the_named_services() {
    let stack = Stack::new("nothing");
    let base = "base: {image: 'busybox:local', command: [sh, -c, 'echo based; exec sleep 1000'], stop_signal: SIGKILL}";
    let job = "job: {image: 'busybox:local', command: [sh, -c, 'sleep 0.3; echo worked'], depends_on: [base]}";
    stack.write("compose.yaml", &format!("services: {{{base}, {job}}}"));
    for args in [&["up", "job"][..], &["up", "--attach-dependencies", "job"]] {
        let shown = stack.wharf(args).ok();
        assert_eq!((shown.contains("based"), shown.contains("worked")), (args.len() > 2, true), "{args:?}: {shown}");
        assert_eq!(stack.state("base"), "running", "{args:?}");
        stack.wharf(&["down"]).ok();
    }
}

/// What a command says of input, platforms and names.
#[test]
fn forms_of_run_build_and_names() {
    let stack = Stack::new("nothing");
    let build = "build: {dockerfile_inline: 'FROM busybox:local', platforms: [linux/amd64, linux/arm64]}";
    stack.write("compose.yaml", &format!("services: {{web: {{image: 'busybox:local', command: cat}}, built: {{{build}}}}}"));
    stack.wharf(&["run", "-d", "--name", "reads", "web", "cat"]).ok();
    stack.wharf(&["run", "-d", "--name", "ends", "--interactive=false", "web", "cat"]).ok();
    let state = |name: &str| stack.wharf(&["container", "inspect", "--format", "{{.State.Status}}", name]).ok();
    eventually("without input it ends", 10, || state("ends") == "exited\n");
    assert_eq!(state("reads"), "running\n");
    stack.wharf(&["container", "rm", "-f", "reads", "ends"]).ok();
    stack.wharf(&["build"]).fails(1, &["multiple platforms", "services.built.build"]);
    let named = stack.wharf(&["--compatibility", "up", "-d", "web"]);
    assert!(named.stderr.contains(&format!("Container {}_web_1  Started", stack.project)), "{}", named.stderr);
    stack.wharf(&["down"]).ok();
}

/// The user's proxies are variables of containers and arguments of builds; what a service says itself stays.
#[test]
fn proxies_of_the_users_configuration_reach_containers_and_builds() {
    let stack = Stack::new("nothing");
    std::fs::create_dir(stack.path("docker")).expect("directory");
    stack.write("docker/config.json", r#"{"proxies": {"default": {"httpProxy": "http://proxy:1", "noProxy": "localhost"}}}"#);
    let build = "build: {dockerfile_inline: \"FROM busybox:local\\nRUN echo $$HTTP_PROXY $$no_proxy > /built\"}";
    let command = "command: [sh, -c, 'cat /built; echo $$http_proxy $$NO_PROXY'], environment: {NO_PROXY: mine}";
    stack.write("compose.yaml", &format!("services: {{web: {{{build}, {command}}}}}"));
    let run = |args: &[&str]| {
        let output = stack.command(args).env("DOCKER_CONFIG", stack.path("docker")).output().expect("wharf runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(run(&["up", "--no-log-prefix"]).contains("http://proxy:1 localhost\nhttp://proxy:1 mine\n"));
    let shown = run(&[
        "container",
        "run",
        "--rm",
        "-e",
        "NO_PROXY=",
        "busybox:local",
        "sh",
        "-c",
        "echo $HTTP_PROXY-$NO_PROXY-$no_proxy",
    ]);
    assert_eq!(shown, "http://proxy:1--localhost\n");
}

/// On a terminal each line has its seconds; what has no row is folded, and seen at the end; a dumb terminal gets plain lines.
#[test]
fn progress_on_a_terminal() {
    let stack = Stack::new("nothing");
    let one = |n: usize| format!("s{n}: {{image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL}}");
    stack.write("compose.yaml", &format!("services: {{{}}}", (0..12).map(one).collect::<Vec<_>>().join(", ")));
    let shown = |args: &[&str], term: &str| {
        let mut terminal = Terminal::start(stack.command(args).env("TERM", term), 10, 80);
        assert_eq!(terminal.wait(60), Some(0));
        terminal.shown_at_the_end()
    };
    let drawn = shown(&["up", "-d"], "xterm");
    assert!(drawn.contains(" … and ") && drawn.contains("more, "), "{drawn}");
    // What was folded has no line before the end. After the last time that the cursor went up nothing covers it.
    let goes_up = |at: &usize| drawn[at + 2..].trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('A');
    let drawn_last = drawn.match_indices("\x1b[").map(|(at, _)| at).filter(goes_up).last().expect("drawn in place");
    let end = drawn.rfind("of them done").expect("folded");
    let shown_at = |n: usize| {
        let name = format!("Container {}-s{n}-1  ", stack.project);
        (drawn.find(&name).expect("shown"), drawn.rfind(&format!("{name}\x1b[32mStarted")).expect("started"))
    };
    let folded: Vec<_> = (0..12).map(shown_at).filter(|(first, _)| *first > end).collect();
    assert!(folded.len() >= 4 && folded.iter().all(|(_, last)| *last > drawn_last), "{folded:?} {drawn_last}: {}", &drawn[end..]);
    assert!(drawn.contains("Started") && drawn.contains("0.") && drawn.contains('✔'), "{drawn}");
    let plain = shown(&["down"], "dumb");
    assert!(!plain.contains('\x1b') && plain.matches("  Removed").count() == 13, "{plain}");
}

/// `run --rm` leaves nothing, however its client ends.
#[test]
fn run_removes_its_container_when_its_client_is_gone() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", "services: {web: {image: 'busybox:local', command: sleep 1000}}");
    let names = || stack.wharf(&["container", "ls", "-aq"]).ok();
    let mut killed = stack.command(&["run", "--rm", "-T", "web", "sleep", "0.5"]).spawn().expect("spawn");
    eventually("it runs", 10, || stack.wharf(&["container", "ls", "-q"]).ok().lines().count() == 1);
    killed.kill().expect("kill");
    killed.wait().expect("wait");
    eventually("it is removed", 5, || names().is_empty());
    let mut cut =
        stack.command(&["run", "--rm", "-T", "web", "seq", "1", "300000"]).stdout(Stdio::piped()).spawn().expect("spawn");
    let mut first = [0; 2];
    std::io::Read::read_exact(&mut cut.stdout.take().expect("stdout"), &mut first).expect("read");
    cut.wait().expect("wait");
    eventually("that whose reader left is removed", 5, || names().is_empty());
}

/// Which of several files is taken is said.
#[test]
fn several_files_are_warned_of() {
    let stack = Stack::new("nothing");
    for name in ["compose.yaml", "docker-compose.yml", "compose.override.yaml", "docker-compose.override.yml"] {
        stack.write(name, "services: {web: {image: 'busybox:local'}}");
    }
    let ran = stack.wharf(&["config", "-q"]);
    let said = "these count: compose.yaml and compose.override.yaml; not docker-compose.yml, docker-compose.override.yml";
    assert!(ran.code == 0 && ran.stderr.contains(said), "{}", ran.stderr);
    stack.wharf(&["-f", ".", "config"]).fails(1, &["the Compose file . cannot be read: Is a directory"]);
    assert_eq!(stack.wharf(&["-f", "compose.yaml", "config", "-q"]).stderr, "");
}

/// A good check that writes a lot is good; `exec` says which container does not run.
#[test]
fn checks_that_write_a_lot_and_containers_that_do_not_run() {
    let stack = Stack::new("nothing");
    let check =
        "healthcheck: {test: 'dd if=/dev/zero bs=1024 count=100 1>&2', interval: 1h, start_period: 5s, start_interval: 50ms}";
    stack.write(
        "compose.yaml",
        &format!("services: {{web: {{image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL, {check}}}}}"),
    );
    let ran = stack.wharf(&["up", "--wait"]);
    assert!(ran.code == 0 && ran.stderr.contains("Healthy"), "{}", ran.stderr);
    stack.wharf(&["exec", "--index", "3", "web", "true"]).fails(1, &["service \"web\" is not running container #3"]);
    stack.wharf(&["stop"]).ok();
    stack.wharf(&["exec", "web", "true"]).fails(1, &["service \"web\" is not running\n"]);
    let one_off = stack.wharf(&["run", "-d", "web"]).ok();
    assert_eq!(stack.wharf(&["exec", "-T", "web", "hostname"]).ok().trim(), &one_off.trim()[..12]);
    stack.wharf(&["container", "rm", "-f", one_off.trim()]).ok();
}
