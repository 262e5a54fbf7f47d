//! Ctrl-C and SIGTERM at commands, on a terminal of their own.

use crate::support::{Stack, Terminal, eventually, follow, sleeping};
use std::process::{Command, Stdio};
use std::time::Instant;

const CTRL_C: &str = "\x03";

fn start(stack: &Stack, args: &[&str]) -> Terminal {
    Terminal::start(&mut stack.command(args), 24, 100)
}

/// What has not begun does not begin, what has begun is waited for, and the command says so.
#[test]
fn a_signal_cancels_what_has_not_begun() {
    let stack = Stack::new("nothing");
    let never =
        "command: sleep 1000, stop_signal: SIGKILL, healthcheck: {test: [CMD, 'false'], interval: 60s, start_period: 60s}";
    let slow = "command: [sh, -c, \"trap '' TERM; touch /trapped; sleep 1000\"], stop_grace_period: 1s";
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  never: {{image: 'busybox:local', {never}}}\n  \
             later: {{image: 'busybox:local', command: sleep 1000, depends_on: {{never: {{condition: service_healthy}}}}}}\n  \
             base: {{image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL}}\n  \
             slow: {{image: 'busybox:local', {slow}, depends_on: [base]}}\n"
        ),
    );
    for (end, code) in [(true, 130), (false, 143)] {
        let mut up = start(&stack, &["up", "-d", "later"]);
        up.expect("Waiting", 10);
        if end {
            up.send(CTRL_C)
        } else {
            up.terminate()
        }
        up.expect("Canceling", 5);
        up.expect("canceled", 15);
        assert_eq!(up.wait(5), Some(code));
        assert_eq!((stack.state("never").as_str(), stack.state("later").as_str()), ("running", "created"));
    }
    let began = Instant::now();
    stack.wharf(&["down"]).ok();
    assert!(began.elapsed().as_secs() < 10, "nobody waits for the health check any more");

    let running = || {
        stack.wharf(&["up", "-d", "slow"]).ok();
        eventually("it ignores SIGTERM", 10, || stack.wharf(&["exec", "-T", "slow", "ls", "/trapped"]).code == 0);
    };
    running();
    let mut down = start(&stack, &["down"]);
    down.expect("Stopping", 10);
    down.send(CTRL_C);
    down.expect("canceled", 10);
    assert_eq!(down.wait(5), Some(130));
    let left: Vec<_> = stack.ps().into_iter().map(|c| (c["Service"].clone(), c["State"].clone())).collect();
    assert_eq!(left, [("base".into(), "running".into())], "what has begun is done, nothing else is");

    stack.write("compose.override.yaml", "services: {slow: {stop_grace_period: 5s}}");
    running();
    let mut down = start(&stack, &["down"]);
    down.expect("Stopping", 10);
    down.send(CTRL_C);
    down.expect("Canceling", 5);
    let began = Instant::now();
    down.send(CTRL_C);
    assert_eq!(down.wait(5), Some(130));
    assert!(began.elapsed().as_secs() < 3, "the second leaves at once");
    assert_eq!(stack.state("slow"), "running");
    eventually("its stop goes on", 10, || stack.ps().iter().all(|c| c["Service"] != "slow"));
    assert_eq!(stack.state("base"), "running");

    // Nor does the second wait for an engine that does not answer to the first.
    let mut up = start(&stack, &["up", "-d", "later"]);
    up.expect("Waiting", 10);
    let engine = nix::unistd::Pid::from_raw(stack.engine_pid().expect("engine"));
    nix::sys::signal::kill(engine, nix::sys::signal::Signal::SIGSTOP).expect("stopped");
    up.send(CTRL_C);
    up.expect("Canceling", 5);
    up.send(CTRL_C);
    let code = up.wait(5);
    nix::sys::signal::kill(engine, nix::sys::signal::Signal::SIGCONT).expect("continued");
    assert_eq!(code, Some(130));

    let mut rm = start(&stack, &["rm", "-s"]);
    rm.expect("Are you sure?", 10);
    rm.send(CTRL_C);
    assert_eq!(rm.wait(5), Some(130));
    assert_eq!(stack.state("base"), "running");
}

/// A build and a pull end with their command.
#[test]
fn a_signal_ends_builds_and_pulls() {
    let stack = Stack::new("nothing");
    // Other tests sleep as well.
    let seconds = format!("432{}", std::process::id());
    let line = format!("sleep\0{seconds}\0").into_bytes();
    let built = format!("built: {{build: {{dockerfile_inline: \"FROM busybox:local\\nRUN echo begun >&2; sleep {seconds}\"}}}}");
    stack.write("compose.yaml", &format!("services: {{{built}}}\n"));
    let sleeps = || {
        let entries = std::fs::read_dir("/proc").expect("proc").flatten();
        let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines.filter(|known| *known == line).count()
    };
    for args in [&["build"][..], &["up", "-d", "built"], &["up", "built"]] {
        let mut command = start(&stack, args);
        eventually("the step runs", 20, || sleeps() == 1);
        command.send(CTRL_C);
        command.expect("canceled", 15);
        assert_eq!(command.wait(5), Some(130), "{args:?}");
        eventually("the step ends", 10, || sleeps() == 0);
    }
    for args in [&["pull", "pulled"][..], &["up", "-d", "pulled"], &["create", "pulled"]] {
        // It takes connections and never answers.
        let registry = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
        registry.set_nonblocking(true).expect("nonblocking");
        let silent = format!("{}/silent:1", registry.local_addr().expect("address"));
        stack.write("compose.yaml", &format!("services: {{pulled: {{image: '{silent}'}}}}\n"));
        let mut command = start(&stack, args);
        command.expect("Pulling", 30);
        let mut asked = None;
        eventually(&format!("the registry is asked by {args:?}"), 30, || {
            asked = registry.accept().ok();
            asked.is_some()
        });
        command.send(CTRL_C);
        command.expect("canceled", 15);
        assert_eq!(command.wait(5), Some(130), "{args:?}");
        let (mut stream, _) = asked.expect("asked");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("timeout");
        assert!(std::io::copy(&mut stream, &mut std::io::sink()).is_ok(), "the connection stays: {args:?}");
    }
    assert!(stack.ps().is_empty());
}

/// The reading of a file ends with the command that has asked for it.
#[test]
fn a_signal_ends_the_reading_of_an_endless_file() {
    let stack = Stack::new("nothing");
    std::fs::File::create(stack.path("endless")).and_then(|file| file.set_len(1 << 42)).expect("sparse file");
    stack.write("Dockerfile", "FROM scratch\nCOPY endless /\n");
    stack.wharf(&["ps"]).ok();
    let read = || {
        let pid = stack.engine_pid().expect("engine");
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).expect("io");
        io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse::<u64>().ok()).expect("rchar")
    };
    let before = read();
    let mut build = start(&stack, &["image", "build", "."]);
    eventually("the engine reads", 20, || read() > before + (64 << 20));
    build.send(CTRL_C);
    assert_eq!(build.wait(10), Some(130));
    let mut last = 0;
    eventually("the engine reads no more", 20, || {
        let now = read();
        now - std::mem::replace(&mut last, now) < 1 << 16
    });
    let staging = stack.data_root().join("images/staging");
    eventually("nothing is left of it", 10, || std::fs::read_dir(&staging).map_or(0, Iterator::count) == 0);
}

/// What somebody else restarts or replaces is followed further; `--watch` goes on when nothing runs, until Ctrl-C.
#[test]
fn an_attached_up_goes_on_until_its_containers_have_ended() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        "services: {web: {image: 'busybox:local', command: [sh, -c, 'echo begun; exec sleep 1000'], stop_signal: SIGKILL, \
         develop: {watch: [{path: ./watched, action: sync, target: /watched}]}}}\n",
    );
    stack.write("watched", "");
    for args in [&["up"][..], &["up", "--watch"]] {
        let mut up = start(&stack, args);
        up.expect("begun", 10);
        for other in [&["restart"][..], &["up", "-d", "--force-recreate"]] {
            stack.wharf(other).ok();
            up.expect("exited with code 137", 10);
            up.expect("begun", 10);
        }
        up.send(CTRL_C);
        up.expect("Gracefully stopping", 10);
        assert_eq!(up.wait(10), Some(130), "{args:?}");
        assert_eq!(stack.state("web"), "exited");
    }
    // One that does not stop, and a user in a hurry.
    stack.write(
        "compose.yaml",
        "services: {web: {image: 'busybox:local', command: [sh, -c, \"trap '' TERM; echo begun; sleep 1000\"]}}",
    );
    let mut up = start(&stack, &["up"]);
    up.expect("begun", 10);
    up.send(CTRL_C);
    up.expect("Gracefully stopping", 10);
    up.send(CTRL_C);
    assert_eq!(up.wait(10), Some(130), "the second kills");
    assert_eq!(stack.container("web")["ExitCode"], 137);
}

/// A signal ends a command whatever it has listened to before, and leaves the terminal as it was.
#[test]
fn a_signal_ends_a_command_that_has_listened_to_signals_before() {
    let stack = Stack::new("nothing");
    let script = "trap 'exit 7' TERM; trap 'exit 8' INT; echo begun; while :; do sleep 0.05; done";
    stack.write(
        "compose.yaml",
        &format!(
            "services: {{web: {{image: 'busybox:local', command: [sh, -c, \"{script}\"], stop_grace_period: 1s, \
             develop: {{watch: [{{path: ./watched, action: sync, target: /watched}}]}}}}}}\n"
        ),
    );
    stack.write("watched", "");
    stack.wharf(&["up", "-d"]).ok();
    for (args, shown, interrupted, terminated) in [
        (&["watch"][..], "Watch enabled", 130, 143),
        (&["logs", "-f"], "begun", 130, 143),
        (&["events"], "exec_create", 130, 143),
        (&["stats"], "web-1", 130, 143),
        (&["wait", "web"], "", 130, 143),
        // Typed, Ctrl-C is the container's. From elsewhere the signal is the command's.
        (&["exec", "web", "sh", "-c", "trap 'exit 8' INT; echo begun; while :; do sleep 0.05; done"], "begun", 8, 143),
        (&["run", "--rm", "web"], "begun", 8, 7),
        (&["run", "--rm", "-T", "web"], "begun", 8, 7),
    ] {
        for (typed, code) in [(true, interrupted), (false, terminated)] {
            // Nothing shows that it waits: what is typed may come before the terminal is its own.
            if typed && shown.is_empty() {
                continue;
            }
            let mut command = start(&stack, args);
            if args[0] == "events" {
                eventually("an event is shown", 10, || {
                    stack.wharf(&["exec", "-T", "web", "true"]).ok();
                    command.shown().contains(shown)
                });
            } else {
                command.expect(shown, 20);
            }
            match typed {
                true => command.send(CTRL_C),
                false => command.terminate(),
            }
            assert_eq!(command.wait(10), Some(code), "{args:?} {typed}");
            assert!(!command.is_raw(), "{args:?}");
        }
    }
}

/// `up --menu`: the keys do what they say, and Ctrl-Z gives the shell back, in a shell with job control.
#[test]
fn keys_of_the_menu() {
    let stack = Stack::new("nothing");
    let plain = sleeping("");
    stack.write("compose.yaml", &format!("services: {{a: {{{plain}}}}}"));
    let mut up = Terminal::start(&mut stack.command(&["up", "--menu"]), 24, 100);
    up.expect("w Enable Watch   d Detach", 20);
    up.send("w");
    up.expect("watch is not yet configured", 5);
    up.send("x\n");
    up.expect("w Enable Watch   d Detach", 5);
    up.send("d");
    assert_eq!(up.wait(10), Some(0));
    assert_eq!(stack.state("a"), "running");
    let watched = sleeping("develop: {watch: [{path: ./src, action: sync, target: /src}]}");
    stack.write("compose.yaml", &format!("services: {{a: {{{watched}}}}}"));
    std::fs::create_dir(stack.path("src")).expect("directory");
    let mut shell = std::process::Command::new("/bin/sh");
    shell.arg("-i").env("PS1", "prompt> ").env("COMPOSE_MENU", "1");
    let wharf = stack.command(&["up"]);
    for (name, value) in wharf.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.current_dir(stack.path("."));
    let mut shell = Terminal::start(&mut shell, 24, 100);
    shell.expect("prompt> ", 5);
    shell.send(&format!("{} up\n", wharf.get_program().to_string_lossy()));
    shell.expect("w Enable Watch   d Detach", 20);
    shell.send("w");
    shell.expect("w Disable Watch   d Detach", 5);
    eventually("a change is in the container", 10, || {
        stack.write("src/file", "changed");
        stack.wharf(&["exec", "-T", "a", "cat", "/src/file"]).stdout == "changed"
    });
    shell.send("\u{1a}");
    shell.expect("prompt> ", 10);
    assert_eq!(stack.state("a"), "running");
    shell.send("fg\n");
    shell.expect("up", 5);
    shell.send("w");
    shell.expect("w Enable Watch   d Detach", 10);
    shell.send("d");
    shell.expect("prompt> ", 10);
    assert!(!shell.is_raw(), "the terminal is as it was");
    assert_eq!(stack.state("a"), "running");
    shell.send("exit\n");
    assert_eq!(shell.wait(10), Some(0));
}

/// A run that was started with `nohup` outlives its terminal. Another one tells its container of it.
#[test]
fn a_hangup_that_is_ignored_is_not_passed_on() {
    let stack = Stack::new("nothing");
    let script = "trap 'exit 9' HUP; trap 'exit 7' TERM; echo begun; while :; do sleep 0.05; done";
    stack.write("compose.yaml", &format!("services: {{web: {{image: 'busybox:local', command: [sh, -c, \"{script}\"]}}}}\n"));
    use nix::sys::signal::Signal::{SIGHUP, SIGTERM};
    for (how, signals, code) in [("--default-signal=HUP", &[SIGHUP][..], 9), ("--ignore-signal=HUP", &[SIGHUP, SIGTERM], 7)] {
        let run = stack.command(&["run", "--rm", "-T", "web"]);
        let mut command = Command::new("env");
        command.arg(how).arg(run.get_program()).args(run.get_args()).current_dir(stack.path("."));
        command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("spawned");
        let said = follow(child.stdout.take().expect("pipe"));
        eventually("it runs", 20, || said.lock().expect("lock").contains("begun"));
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        signals.iter().for_each(|signal| nix::sys::signal::kill(pid, *signal).expect("sent"));
        assert_eq!(child.wait().expect("wait").code(), Some(code), "{how}");
    }
}

/// Ctrl-C as attached `up` has made containers and started none: nobody waits for those, which are not started any more.
#[test]
fn an_attached_up_that_has_started_nothing_ends() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{web: {{{}}}}}\n", sleeping("scale: 20")));
    for n in 1..=4 {
        let mut up = start(&stack, &["up"]);
        // Each is shown again whenever another is, so this is a later moment each time.
        (0..=n).for_each(|_| up.expect("  Creating", 20));
        up.send(CTRL_C);
        up.expect("Gracefully stopping", 10);
        assert_eq!(up.wait(30), Some(130));
        assert!(stack.ps().iter().all(|container| container["State"] != "running"), "{n}");
        stack.wharf(&["down"]).ok();
    }
}

/// `run --rm` that is interrupted at any moment after its container was made leaves no container.
#[test]
fn an_interrupted_run_leaves_no_container() {
    let stack = Stack::new("nothing");
    // The first process of a container has no signal that it does not listen to; `init` listens from the first moment.
    stack.write("compose.yaml", "services: {web: {image: 'busybox:local', command: sleep 1000, init: true}}\n");
    let containers = stack.data_root().join("containers");
    let made = || std::fs::read_dir(&containers).is_ok_and(|entries| entries.flatten().any(|entry| entry.path().is_dir()));
    for millis in 0..12 {
        let mut run = stack.command(&["run", "--rm", "-T", "web"]).stderr(Stdio::null()).spawn().expect("spawned");
        eventually("there is a container", 20, made);
        let signalled = Instant::now() + std::time::Duration::from_millis(millis);
        while Instant::now() < signalled {
            std::hint::spin_loop();
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(run.id() as i32), nix::sys::signal::Signal::SIGINT).expect("sent");
        assert_eq!(run.wait().expect("wait").code(), Some(130), "after {millis} ms");
        // At the latest when the engine has seen that nobody starts it.
        eventually("it is removed", 40, || stack.wharf(&["container", "ls", "-aq"]).ok().is_empty() && !made());
    }
}

/// All signals are the container's, as far as they are not the terminal's or the kernel's.
#[test]
fn signals_of_users_are_passed_on() {
    let stack = Stack::new("nothing");
    let script = "trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo alrm' ALRM; trap 'echo real' 37; \
                  trap 'exit 7' TERM; echo begun; while :; do sleep 0.05; done";
    stack.write("compose.yaml", &format!("services: {{web: {{image: 'busybox:local', command: [sh, -c, \"{script}\"]}}}}\n"));
    stack.wharf(&["container", "create", "--name", "made", "busybox:local", "sh", "-c", script]).ok();
    let run = ["container", "run", "--rm", "busybox:local", "sh", "-c", script];
    for command in [&run[..], &["run", "--rm", "-T", "web"], &["container", "start", "-a", "made"]] {
        let mut child = stack.command(command).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("spawned");
        let said = follow(child.stdout.take().expect("pipe"));
        let shows = |text: &str| eventually(text, 20, || said.lock().expect("lock").contains(text));
        shows("begun");
        for (number, text) in [(libc::SIGUSR1, "usr1"), (libc::SIGUSR2, "usr2"), (libc::SIGALRM, "alrm"), (37, "real")] {
            let sent = Command::new("kill").args([format!("-{number}"), child.id().to_string()]).status().expect("kill");
            assert!(sent.success());
            shows(text);
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGTERM).expect("sent");
        assert_eq!(child.wait().expect("wait").code(), Some(7), "{command:?}");
    }
    stack.wharf(&["down"]).ok();
    stack.wharf(&["container", "rm", "made"]).ok();
}

/// Ctrl-C as `start -a` begins, twice as `timeout` sends it: no container runs on without its client.
#[test]
fn an_interrupted_start_leaves_nothing_running() {
    let stack = Stack::new("nothing");
    stack.wharf(&["container", "create", "--name", "made", "--init", "busybox:local", "sleep", "1000"]).ok();
    for millis in (0..60).step_by(4) {
        let mut start = Terminal::start(&mut stack.command(&["container", "start", "-a", "made"]), 24, 80);
        eventually("it listens", 20, || start.catches(nix::sys::signal::Signal::SIGQUIT));
        let signalled = Instant::now() + std::time::Duration::from_millis(millis);
        while Instant::now() < signalled {
            std::hint::spin_loop();
        }
        start.send("\x03\x03");
        // What came before its start ends the client with it, and what came after is its own, which `init` gives on.
        let code = start.wait(30);
        assert_eq!(code, Some(130), "after {millis} ms");
        eventually("it has ended", 20, || stack.wharf(&["container", "ls", "-q"]).ok().is_empty());
    }
    stack.wharf(&["container", "rm", "made"]).ok();
}
