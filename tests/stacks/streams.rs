//! What a container writes reaches who is attached to it, whole and in order, whatever its log keeps.

use crate::support::{Stack, eventually};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

const LIMITED: &str = "logging: {driver: json-file, options: {max-size: 100k}}";
const ROTATED: &str = "logging: {driver: local, options: {max-size: 20k, max-file: '3'}}";
const NONE: &str = "logging: {driver: none}";

/// A stack whose service `web` writes so many numbers, with a log of a kind.
fn counting(log: &str, lines: u32) -> Stack {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        &format!("services: {{web: {{image: 'busybox:local', command: seq 1 {lines}, stop_grace_period: 0s, {log}}}}}"),
    );
    stack
}

fn numbers(lines: u32) -> String {
    (1..=lines).map(|n| format!("{n}\n")).collect()
}

fn spawn(stack: &Stack, args: &[&str]) -> Child {
    stack.command(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("spawn")
}

#[test]
fn output_is_whole_whatever_the_log_keeps() {
    const LINES: u32 = 40_000;
    let expected = numbers(LINES);
    for log in [LIMITED, ROTATED, NONE] {
        let stack = counting(log, LINES);
        let count = LINES.to_string();
        assert!(stack.wharf(&["run", "--rm", "-T", "web", "seq", "1", &count]).ok() == expected, "run: {log}");
        let up = stack.wharf(&["up", "--no-log-prefix"]).ok();
        let shown: String = up.lines().filter(|line| line.parse::<u32>().is_ok()).map(|line| format!("{line}\n")).collect();
        assert!(shown == expected, "up: {log}: {} of {} bytes", shown.len(), expected.len());
        assert!(up.starts_with("Attaching to web-1\n") && up.ends_with("web-1 exited with code 0\n"), "{log}");
        // It counts once somebody is attached.
        let script = format!("until [ -e /go ]; do echo .; sleep 0.02; done; seq 1 {LINES}");
        stack.write(
            "compose.yaml",
            &format!("services: {{web: {{image: 'busybox:local', command: [sh, -c, '{script}'], {log}}}}}"),
        );
        for follower in [&["attach", "web"][..], &["logs", "-f", "--no-log-prefix", "web"]] {
            if follower[0] == "logs" && log == NONE {
                continue;
            }
            stack.wharf(&["up", "-d", "--force-recreate"]).ok();
            let mut following = spawn(&stack, follower);
            let mut out = BufReader::new(following.stdout.take().expect("stdout"));
            let mut text = String::new();
            out.read_line(&mut text).expect("line");
            // It may end before this does.
            stack.wharf(&["exec", "-T", "web", "touch", "/go"]);
            out.read_to_string(&mut text).expect("text");
            assert!(text.trim_start_matches(".\n") == expected, "{follower:?} {log}: {} bytes", text.len());
            assert!(following.wait().expect("wait").success());
        }
    }
}

#[test]
fn a_slow_reader_slows_the_container_and_one_that_has_gone_does_not() {
    const LINES: u32 = 200_000;
    for log in [LIMITED, NONE] {
        let stack = counting(log, LINES);
        let errors = std::fs::File::create(stack.path("errors")).expect("file");
        let mut slow = stack.command(&["up", "--no-log-prefix"]);
        let mut slow = slow.stdout(Stdio::piped()).stderr(errors).spawn().expect("spawn");
        let mut out = BufReader::new(slow.stdout.take().expect("stdout"));
        let mut line = String::new();
        let mut begin = String::new();
        while line != "1\n" {
            line.clear();
            let read = out.read_line(&mut line).expect("line");
            begin.extend((begin.len() < 1000).then_some(line.as_str()));
            let errors = || std::fs::read_to_string(stack.path("errors")).expect("text");
            assert!(read > 0, "the output has ended: {begin}\n{}", errors());
        }
        // It stands still while nobody reads.
        let pid = stack.pid(&format!("{}-web-1", stack.project));
        let waits = || std::fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|place| place.contains("pipe_write"));
        let mut still = 0;
        eventually("the container waits for its reader", 30, || {
            still = if waits() { still + 1 } else { 0 };
            std::thread::sleep(std::time::Duration::from_millis(2));
            still > 50
        });
        // The engine dies meanwhile, once `up` has brought the stack up: the next command waits for that.
        stack.wharf(&["up", "-d"]).ok();
        let engine = stack.engine_pid().expect("engine");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine), nix::sys::signal::Signal::SIGKILL).expect("kill");
        let mut text = String::new();
        out.read_to_string(&mut text).expect("text");
        let shown: String = text.lines().filter(|line| line.parse::<u32>().is_ok()).map(|line| format!("{line}\n")).collect();
        assert!(shown == numbers(LINES)["1\n".len()..], "{log}: {} bytes", shown.len());
        assert!(slow.wait().expect("wait").success());

        let mut gone = spawn(&stack, &["up"]);
        let mut out = BufReader::new(gone.stdout.take().expect("stdout"));
        out.read_line(&mut line).expect("line");
        gone.kill().expect("kill");
        gone.wait().expect("wait");
        eventually("it ends without a reader", 30, || stack.state("web") == "exited");
    }
}

#[test]
fn the_output_of_a_run_survives_engines() {
    const LINES: u32 = 60_000;
    let stack = counting(LIMITED, LINES);
    let count = LINES.to_string();
    let mut run = spawn(&stack, &["run", "--rm", "-T", "web", "sh", "-c", &format!("seq 1 {count}; exit 3")]);
    let mut out = BufReader::new(run.stdout.take().expect("stdout"));
    let mut text = String::new();
    for at in [1, 20_000, 40_000] {
        while !format!("\n{}", &text[text.len().saturating_sub(10)..]).ends_with(&format!("\n{at}\n")) {
            assert!(out.read_line(&mut text).expect("line") > 0, "the output has ended");
        }
        if let Some(engine) = stack.engine_pid() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine), nix::sys::signal::Signal::SIGKILL);
        }
    }
    out.read_to_string(&mut text).expect("text");
    assert!(text == numbers(LINES), "{} bytes", text.len());
    assert_eq!(run.wait().expect("wait").code(), Some(3));
    assert_eq!(stack.wharf(&["container", "ls", "-aq"]).ok(), "");
}

#[test]
fn what_a_killed_client_leaves_is_removed() {
    let stack = counting(LIMITED, 1);
    let mut run = spawn(&stack, &["run", "--rm", "-T", "web", "sh", "-c", "echo runs; read x"]);
    let mut out = BufReader::new(run.stdout.take().expect("stdout"));
    let mut line = String::new();
    out.read_line(&mut line).expect("line");
    run.kill().expect("kill");
    run.wait().expect("wait");
    // Its standard input has ended with the client.
    eventually("it is removed", 30, || stack.wharf(&["container", "ls", "-aq"]).ok().is_empty());
}

#[test]
fn an_exec_ends_with_its_command_and_a_detached_one_lives() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", "services: {web: {image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL}}");
    stack.wharf(&["up", "-d"]).ok();
    // A child holds the output for longer than the test may take.
    let begun = std::time::Instant::now();
    let ran = stack.wharf(&["exec", "-T", "web", "sh", "-c", "seq 1 20000; echo err >&2; sleep 100 & exit 3"]);
    assert_eq!((ran.code, ran.stdout == numbers(20_000), ran.stderr.as_str()), (3, true, "err\n"));
    let mut terminal = crate::support::Terminal::start(
        &mut stack.command(&["exec", "web", "sh", "-c", "trap '' HUP; sleep 100 & echo said; exit 4"]),
        24,
        80,
    );
    terminal.expect("said", 10);
    assert_eq!(terminal.wait(10), Some(4));
    assert!(begun.elapsed().as_secs() < 60);
    stack.wharf(&["exec", "-d", "web", "sh", "-c", "sleep 0.3; seq 1 100000 && echo done >/done"]).ok();
    eventually("its output does not end it", 20, || stack.wharf(&["exec", "-T", "web", "cat", "/done"]).stdout == "done\n");
}

/// A prompt has no end: what another container writes after it is a line of its own, with names before the lines and without.
#[test]
fn a_line_that_has_begun_swallows_no_line_of_another() {
    let stack = Stack::new("nothing");
    let script = "printf \"ask: \"; until [ -e /go ]; do sleep 0.02; done; echo end; sleep 1000";
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  asks: {{image: 'busybox:local', tty: true, command: [sh, -c, '{script}'], stop_grace_period: 0s}}\n  \
             tells: {{image: 'busybox:local', command: echo line}}\n"
        ),
    );
    stack.wharf(&["up", "-d", "asks"]).ok();
    eventually("it has asked", 10, || stack.wharf(&["logs", "--no-log-prefix"]).ok() == "ask: ");
    stack.wharf(&["up", "-d", "tells"]).ok();
    eventually("the line is one", 10, || stack.wharf(&["logs", "--no-log-prefix"]).ok() == "ask: \nline\n");
    stack.wharf(&["exec", "-T", "asks", "touch", "/go"]).ok();
    eventually("it goes on", 10, || stack.wharf(&["logs", "--no-log-prefix"]).ok() == "ask: \nline\nend\r\n");
    let named = stack.wharf(&["logs", "--no-color"]).ok();
    assert_eq!(named, "asks-1   | ask: \ntells-1  | line\nasks-1   | end\r\n");
    let timed = stack.wharf(&["logs", "--no-log-prefix", "--timestamps"]).ok();
    assert!(timed.lines().all(|line| line.starts_with("20") && line.contains("Z ")), "{timed}");
}

/// Process ids are used again. Whoever takes the end of an earlier child for a command's says that it has ended, with 0.
#[test]
fn a_command_ends_with_its_own_exit_code_whoever_had_its_process_id() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", "services: {web: {image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL}}");
    stack.wharf(&["engine", "stop"]);
    // A namespace of its own, in which the last process id may be set without a word to the host.
    let engine = stack.command(&["engine"]);
    let mut inside = std::process::Command::new("unshare");
    inside.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(engine.get_program()).args(engine.get_args());
    inside.envs(engine.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut engine = inside.spawn().expect("unshare");
    eventually("the engine listens", 10, || stack.run_root().join("engine.sock").exists());
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["exec", "-d", "web", "sleep", "1000"]).ok();
    let children = format!("/proc/{0}/task/{0}/children", engine.id());
    let first = std::fs::read_to_string(children).expect("children").trim().to_string();
    let last_id = |value: Option<i32>| {
        let script = value.map_or("cat".into(), |value| format!("echo {value} >"));
        let script = format!("{script} /proc/sys/kernel/ns_last_pid");
        let ran = std::process::Command::new("nsenter")
            .args(["-t", &first, "-p", "-m", "sh", "-c", &script])
            .output()
            .expect("nsenter");
        String::from_utf8_lossy(&ran.stdout).trim().parse::<i32>().unwrap_or_default()
    };
    let (before, mut codes) = (last_id(None), Vec::new());
    for code in 1..=24 {
        // The ids of this round are those of the round before, one further each time.
        last_id(Some(before + 20 + code % 6));
        codes.push(stack.wharf(&["exec", "-T", "web", "sh", "-c", &format!("sleep 0.05; exit {code}")]).code);
    }
    assert_eq!(codes, (1..=24).collect::<Vec<_>>());
    stack.wharf(&["down"]).ok();
    stack.wharf(&["engine", "stop"]).ok();
    engine.wait().expect("the engine");
}

/// The output of hooks is shown by an attached `up`, whole and in order, and by nothing else.
#[test]
fn hooks_are_shown_where_up_is_attached() {
    const LINES: u32 = 20_000;
    let stack = Stack::new("nothing");
    let web = "command: [sh, -c, \"trap 'exit 0' TERM; echo begun; while :; do sleep 0.05; done\"], \
               post_start: [{command: [sh, -c, 'echo after start; echo mistake >&2; printf unfinished']}]";
    let last = format!("pre_stop: [{{command: [sh, -c, 'seq 1 {LINES}']}}, {{command: [echo, before stop]}}]");
    stack.write("compose.yaml", &format!("services: {{web: {{image: 'busybox:local', {web}, {last}}}}}"));
    let mut up = spawn(&stack, &["up"]);
    let mut out = BufReader::new(up.stdout.take().expect("stdout"));
    let mut seen = String::new();
    while !(seen.contains("unfinished") && seen.contains("| begun")) {
        assert!(out.read_line(&mut seen).expect("line") > 0, "{seen}");
    }
    for line in ["web-1 ->  | after start\n", "web-1 ->  | mistake\n", "web-1 ->  | unfinished\n"] {
        assert!(seen.contains(line), "{seen}");
    }
    let pid = nix::unistd::Pid::from_raw(up.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("kill");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("text");
    assert_eq!(up.wait().expect("wait").code(), Some(130));
    let shown: String =
        rest.lines().filter_map(|line| line.strip_prefix("web-1 ->  | ")).map(|line| format!("{line}\n")).collect();
    assert!(shown == numbers(LINES) + "before stop\n", "{} bytes: {}", shown.len(), &rest[rest.len().saturating_sub(300)..]);
    assert_eq!(rest.matches("web-1 exited with code 0\n").count(), 1, "{}", &rest[rest.len().saturating_sub(300)..]);
    for args in [&["up", "-d"][..], &["restart"], &["stop"], &["start"], &["logs"], &["down"]] {
        let ran = stack.wharf(args);
        assert!(!(ran.stdout + &ran.stderr).contains("before stop"), "{args:?}");
    }
}

const TICKING: &str = "{image: 'busybox:local', init: true, command: [sh, -c, 'i=0; while :; do i=$$((i+1)); echo $$i of $$(hostname); sleep 0.05; done']}";

#[test]
fn following_goes_on_over_a_recreation() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{web: {TICKING}}}"));
    stack.wharf(&["up", "-d"]).ok();
    for follower in [&["logs", "-f"][..], &["logs", "-f", "web"], &["logs", "-f", "--index", "1", "web"]] {
        let mut following = spawn(&stack, follower);
        let said = crate::support::follow(following.stdout.take().expect("stdout"));
        let shown = |id: &str| said.lock().expect("lock").contains(&id[..12]);
        let before = stack.id("web");
        eventually("it follows", 10, || shown(&before));
        stack.wharf(&["up", "-d", "--force-recreate"]).ok();
        let after = stack.id("web");
        assert_ne!(before, after);
        eventually("it follows the new container", 10, || shown(&after));
        stack.wharf(&["stop"]).ok();
        eventually("it ends with it", 10, || following.try_wait().expect("wait").is_some_and(|status| status.success()));
        stack.wharf(&["start"]).ok();
    }
}

#[test]
fn following_ends_at_its_time() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        &format!("services: {{web: {TICKING}, silent: {{image: 'busybox:local', init: true, command: sleep 1000}}}}"),
    );
    stack.wharf(&["up", "-d"]).ok();
    let name = |service: &str| stack.container(service)["Name"].as_str().expect("a name").to_string();
    let (web, silent) = (name("web"), name("silent"));
    eventually("it has written", 10, || stack.wharf(&["logs", "web"]).ok().lines().count() > 2);
    let soon = || (jiff::Timestamp::now().as_second() + 2).to_string();
    for (until, service, container) in [("0s".to_string(), "web", &web), (soon(), "web", &web), (soon(), "silent", &silent)] {
        let commands = [
            vec!["logs", "-f", "--until", &until],
            vec!["logs", "-f", "--until", &until, service],
            vec!["container", "logs", "-f", "--until", &until, container],
        ];
        let children: Vec<Child> = commands.iter().map(|command| spawn(&stack, command)).collect();
        let (id, time) = (stack.id(service), if until == "0s" { soon() } else { until.clone() });
        let (status, _) = stack.api("GET", &format!("/containers/{id}/logs?follow=1&stdout=1&until={time}"), None);
        assert_eq!(status, 200);
        for (mut child, command) in children.into_iter().zip(&commands) {
            eventually(&format!("{command:?} ends"), 10, || {
                child.try_wait().expect("wait").is_some_and(|status| status.success())
            });
            let mut text = String::new();
            child.stdout.take().expect("stdout").read_to_string(&mut text).expect("text");
            assert_eq!(text.is_empty(), service == "silent" && command.len() > 4, "{command:?}: {text}");
        }
    }
    assert_eq!(stack.state("web"), "running");
}
