//! Containers that exist, as whole projects: changed definitions, orders and conditions of `start` and `stop`, what is kept.

use crate::support::{Stack, eventually, sleeping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Stdio;

/// A service that runs until it is stopped, and is at once.
fn service(rest: &str) -> String {
    format!("{{{}}}", sleeping(rest))
}

fn volumes(stack: &Stack) -> Vec<String> {
    stack.wharf(&["volume", "ls", "-q"]).ok().lines().map(str::to_string).collect()
}

#[test]
fn anonymous_volumes_are_kept_unless_asked() {
    let stack = Stack::new("none");
    let web = service("volumes: [/data]");
    let file = |services: &str| stack.write("compose.yaml", &format!("services:\n  web: {web}\n{services}"));
    file(&format!("  gone: {web}\n"));
    stack.wharf(&["up", "-d", "--scale", "web=2"]).ok();
    let all = volumes(&stack);
    assert_eq!(all.len(), 3, "{all:?}");
    stack.wharf(&["up", "-d", "--scale", "web=1"]).ok();
    file("");
    stack.wharf(&["up", "-d", "--remove-orphans"]).ok();
    // The new container has new ones, the old ones are nobody's.
    let (before, id) = (stack.id("web"), |stack: &Stack| stack.id("web"));
    stack.wharf(&["up", "-d", "-V"]).ok();
    assert_ne!(id(&stack), before, "-V alone recreates");
    assert!(all.iter().all(|name| volumes(&stack).contains(name)), "{:?} of {all:?}", volumes(&stack));
    stack.wharf(&["down"]).ok();
    assert_eq!(volumes(&stack).len(), 4);
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["down", "-v"]).ok();
    assert_eq!(volumes(&stack).len(), 4, "those of the container alone");
}

#[test]
fn changed_definitions_of_networks_and_volumes_take_effect() {
    let stack = Stack::new("none");
    let file = |network: &str, volume: &str, own: &str| {
        let web = service(&format!("networks: [net], volumes: ['vol:/data'], {own}"));
        let other = service("networks: [net]");
        let text =
            format!("services:\n  web: {web}\n  other: {other}\nnetworks: {{net: {network}}}\nvolumes: {{vol: {volume}}}\n");
        stack.write("compose.yaml", &text);
    };
    let subnet = |third: u8| format!("{{ipam: {{config: [{{subnet: 10.213.{third}.0/24}}]}}}}");
    let address = || stack.sh("web", "ip -4 -o addr show eth0 | awk '{print $4}'");
    file(&subnet(77), "{}", "");
    stack.wharf(&["up", "-d"]).ok();
    let ids = || (stack.id("web"), stack.id("other"));
    let before = ids();
    assert!(address().starts_with("10.213.77."));
    // Only one service is named, and both are on the network.
    file(&subnet(78), "{}", "");
    stack.wharf(&["up", "-d", "web"]).ok();
    assert!(address().starts_with("10.213.78."), "{}", address());
    assert_eq!(ids(), before, "the containers are the same");
    assert_eq!((stack.state("web"), stack.state("other")), ("running".into(), "running".into()));
    assert_eq!(stack.wharf(&["plan"]).ok().trim(), "nothing to do: everything is as the project wants it");

    stack.sh("web", "echo kept > /data/file");
    let labelled = "{labels: {a: b}}";
    file(&subnet(78), labelled, "");
    let kept = stack.wharf(&["up", "-d"]);
    assert!(kept.stderr.contains("exists but doesn't match configuration in compose file"), "{}", kept.stderr);
    assert_eq!(stack.sh("web", "cat /data/file"), "kept");
    stack.wharf(&["up", "-d", "--yes"]).ok();
    assert_eq!(stack.sh("web", "ls /data"), "");

    // Other names, and what a container is told of itself.
    for (network, volume, own) in [
        ("{name: net-of-%, ipam: {config: [{subnet: 10.213.79.0/24}]}}", labelled, ""),
        ("{name: net-of-%, ipam: {config: [{subnet: 10.213.79.0/24}]}}", "{name: vol-of-%}", ""),
        ("{name: net-of-%, ipam: {config: [{subnet: 10.213.79.0/24}]}}", "{name: vol-of-%}", "annotations: {a: b}"),
        ("{name: net-of-%, ipam: {config: [{subnet: 10.213.79.0/24}]}}", "{name: vol-of-%}", "environment: {A: ''}"),
    ] {
        let before = stack.id("web");
        file(&network.replace('%', &stack.project), &volume.replace('%', &stack.project), own);
        stack.wharf(&["up", "-d"]).ok();
        assert_ne!(stack.id("web"), before, "{network} {volume} {own}");
    }
    let networks = stack.wharf(&["network", "ls"]).ok();
    assert!(!networks.contains(&format!("{}_net", stack.project)), "the network of before is gone: {networks}");

    // Taken off a network by hand, it is put back.
    stack.wharf(&["network", "disconnect", &format!("net-of-{}", stack.project), &format!("{}-web-1", stack.project)]).ok();
    stack.wharf(&["up", "-d"]).ok();
    assert!(address().starts_with("10.213.79."), "{}", address());
    stack.wharf(&["down", "-v"]).ok();
}

#[test]
fn networks_and_volumes_of_others_are_named() {
    let stack = Stack::new("none");
    let file = |project: &str, rest: &str| {
        let web = service("networks: [net], volumes: ['vol:/data']");
        stack.write("compose.yaml", &format!("name: {project}\nservices:\n  web: {web}\nnetworks: {{net: {{name: shared-{0}, {rest}}}}}\nvolumes: {{vol: {{name: shared-{0}}}}}\n", stack.project));
    };
    file("one", "");
    stack.wharf(&["up", "-d"]).ok();
    let other = format!("{}x", stack.project);
    let of_other = |args: &[&str]| {
        let command = stack.command(&["ls"]);
        let output = std::process::Command::new(command.get_program())
            .envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))))
            .current_dir(command.get_current_dir().expect("directory"))
            .args(["-p", &other])
            .args(args)
            .stdin(Stdio::null())
            .output();
        let output = output.expect("wharf runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, stderr) = of_other(&["up", "-d"]);
    for part in ["exists but was not created for project", "already exists but was created for project"] {
        assert!(code == Some(0) && stderr.contains(part), "{code:?} {stderr}");
    }
    assert_eq!(of_other(&["down", "-v"]).0, Some(0));
    assert_eq!(stack.state("web"), "running");
    assert_eq!(volumes(&stack), [format!("shared-{}", stack.project)]);
    file("one", "external: true");
    stack.wharf(&["down", "-v"]).ok();
    let missing = format!("network shared-{} declared as external, but could not be found", stack.project);
    stack.wharf(&["up", "-d"]).fails(1, &[&missing, &format!("wharf network create shared-{}", stack.project)]);
    stack.wharf(&["volume", "prune", "-a", "-f"]);
}

#[test]
fn start_stop_and_restart_keep_the_order_and_the_conditions() {
    let stack = Stack::new("none");
    let check = "healthcheck: {test: 'test -e /tmp/up', interval: 50ms, retries: 1000}";
    let db = format!(
        "{{image: 'busybox:local', stop_signal: SIGKILL, command: 'sh -c \"rm -f /tmp/up; sleep 0.5; touch /tmp/up; sleep 1000\"', {check}}}"
    );
    let web = service("depends_on: {db: {condition: service_healthy, restart: true}}");
    let job = "{image: 'busybox:local', command: 'sh -c \"test ! -e /v/fails\"', volumes: ['vv:/v'], depends_on: [web]}";
    let last = service("depends_on: {job: {condition: service_completed_successfully}}, volumes: ['vv:/v']");
    stack.write(
        "compose.yaml",
        &format!("services:\n  last: {last}\n  job: {job}\n  web: {web}\n  db: {db}\nvolumes: {{vv: {{}}}}\n"),
    );
    stack.wharf(&["up", "-d"]).ok();
    let started = |service: &str| {
        let name = format!("{}-{service}-1", stack.project);
        stack
            .wharf(&["container", "inspect", "-f", "{{.State.StartedAt}}", &name])
            .ok()
            .trim()
            .parse::<jiff::Timestamp>()
            .expect("a time")
    };
    let waited = |what: &str| {
        let apart = started("web").duration_since(started("db"));
        assert!(apart.as_millis() >= 500, "{what}: web has started {apart:?} after db");
        assert!(started("last") > started("job") && started("job") > started("web"), "{what}");
    };
    waited("up");
    let one_off = stack.wharf(&["run", "-d", "--no-deps", "job", "sleep", "1000"]).ok().trim().to_string();
    stack.wharf(&["stop"]).ok();
    let states = || ["db", "web", "last"].map(|service| stack.state(service));
    assert_eq!(states(), ["exited", "exited", "exited"].map(str::to_string));
    let of_one_off = stack.wharf(&["container", "inspect", "-f", "{{.State.Status}}", &one_off]).ok();
    assert_eq!(of_one_off.trim(), "running", "a container of `run` is left alone");
    stack.wharf(&["start", "web"]).ok();
    assert_eq!(states(), ["running", "running", "exited"].map(str::to_string), "what web depends on comes first");
    stack.wharf(&["stop"]).ok();
    stack.wharf(&["start"]).ok();
    waited("start");
    stack.wharf(&["restart"]).ok();
    waited("restart");
    stack.wharf(&["restart", "db"]).ok();
    assert!(started("web").duration_since(started("db")).as_millis() >= 500, "`restart: true` waits as well");
    // A job that fails holds back who needs it.
    stack.sh("last", "touch /v/fails");
    stack.wharf(&["stop"]).ok();
    let failed = stack.wharf(&["start"]).fails(1, &["service \"job\" didn't complete successfully: exit 1"]);
    assert_eq!(stack.state("last"), "exited", "{failed:?}");
    stack.wharf(&["container", "rm", "-f", &one_off]).ok();
}

#[test]
fn nothing_to_do_is_no_failure() {
    let stack = Stack::new("none");
    stack.write("compose.yaml", &format!("services:\n  web: {}\n", service("")));
    for args in [&["stop"][..], &["kill"], &["restart"], &["pause"], &["unpause"], &["rm", "-f"], &["down"]] {
        stack.wharf(args).ok();
    }
    stack.wharf(&["start"]).fails(1, &["service \"web\" has no container to start"]);
    stack.wharf(&["stop", "nope"]).fails(1, &["no such service: nope"]);
    stack.wharf(&["up", "-d"]).ok();
    for args in [&["start"][..], &["rm", "-f"], &["pause"], &["unpause"], &["kill"], &["kill"], &["stop"]] {
        stack.wharf(args).ok();
    }
    assert_eq!(stack.wharf(&["rm", "-f"]).ok(), format!("Going to remove {}-web-1\n", stack.project));
    assert!(stack.ps().is_empty());
}

#[test]
fn a_foreground_up_ends_what_is_its_own() {
    let stack = Stack::new("none");
    let dep = service("");
    let web = service("depends_on: [dep]");
    stack.write("compose.yaml", &format!("services:\n  web: {web}\n  dep: {dep}\n  other: {dep}\n"));
    stack.wharf(&["up", "-d", "other"]).ok();
    for (args, signal, rest) in
        [(&["up", "web"][..], Signal::SIGINT, ["running", "running"]), (&["up"], Signal::SIGTERM, ["exited", "exited"])]
    {
        let mut up = stack.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("up");
        eventually("web runs", 10, || stack.ps().iter().any(|c| c["Service"] == "web" && c["State"] == "running"));
        // It has to listen for signals; that it is attached it does not say.
        eventually("it is attached", 10, || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", up.id())).expect("status");
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("SigCgt").trim();
            u64::from_str_radix(caught, 16).expect("hexadecimal") & (1 << (signal as u32 - 1)) != 0
        });
        kill(Pid::from_raw(up.id() as i32), signal).expect("kill");
        assert_eq!(up.wait().expect("wait").code(), Some(130), "{args:?}");
        assert_eq!(
            (stack.state("web"), [stack.state("dep"), stack.state("other")]),
            ("exited".into(), rest.map(str::to_string)),
            "{args:?}"
        );
    }
}

#[test]
fn optional_dependencies_and_conditions_that_cannot_hold() {
    let stack = Stack::new("none");
    let web = |condition: &str, required: bool| {
        service(&format!("depends_on: {{dep: {{condition: {condition}, required: {required}}}}}"))
    };
    let exits = |code: u8| format!("{{image: 'busybox:local', command: 'sh -c \"sleep 0.1; exit {code}\"'}}");
    let sick = service("healthcheck: {test: 'false', interval: 20ms, retries: 1}");
    // A dependency, the condition, and what is said of it.
    for (dep, condition, text) in [
        (exits(3), "service_healthy", "dependency failed to start: container %-dep-1 exited (3)"),
        (service(""), "service_healthy", "dependency failed to start: container %-dep-1 has no healthcheck configured"),
        (sick, "service_healthy", "dependency failed to start: container %-dep-1 is unhealthy"),
        (exits(4), "service_completed_successfully", "service \"dep\" didn't complete successfully: exit 4"),
    ] {
        for required in [true, false] {
            stack.write("compose.yaml", &format!("services:\n  dep: {dep}\n  web: {}\n", web(condition, required)));
            let up = stack.wharf(&["up", "-d"]);
            let text = text.replace('%', &stack.project);
            let text = if required { text } else { text.replace("dependency failed to start: ", "") };
            assert!(up.stderr.contains(&text), "no `{text}` in {}", up.stderr);
            assert_eq!((up.code, stack.state("web").as_str()), if required { (1, "created") } else { (0, "running") }, "{text}");
            stack.wharf(&["down", "-t", "0"]).ok();
        }
    }
    // One that cannot even be started.
    stack.write(
        "compose.yaml",
        &format!("services:\n  dep: {{image: 'busybox:local', command: /no/such}}\n  web: {}\n", web("service_started", false)),
    );
    assert_eq!(stack.wharf(&["up", "-d"]).code, 1);
    assert_eq!(stack.state("web"), "running");
}

#[test]
fn services_of_one_build_are_built_once_and_stay() {
    let stack = Stack::new("none");
    stack.write("Dockerfile", "FROM busybox:local\nRUN echo built > /built\n");
    let app = "{image: 'app:1', build: ., command: sleep 1000, stop_signal: SIGKILL}";
    stack.write("compose.yaml", &format!("x-app: &app {app}\nservices:\n  a: *app\n  b: *app\n  c: *app\n"));
    let first = stack.wharf(&["up", "-d", "--build"]);
    assert_eq!(first.code, 0, "{first:?}");
    let ids = || ["a", "b", "c"].map(|service| stack.id(service));
    let before = ids();
    for _ in 0..3 {
        stack.wharf(&["up", "-d", "--build"]).ok();
        assert_eq!(ids(), before);
    }
}

#[test]
fn mounts_are_found_whatever_way_their_paths_are_written() {
    let stack = Stack::new("none");
    let tar = crate::support::busybox_tar().to_str().expect("path");
    stack.wharf(&["image", "import", tar, "volumes:local", "--change", "VOLUME [\"/data/\", \"/t/./u/\"]"]).ok();
    std::fs::create_dir(stack.path("src")).expect("directory");
    stack.write(
        "compose.yaml",
        "services:
  a: {image: 'volumes:local', command: sleep 1000, stop_signal: SIGKILL, volumes: ['/app/modules', './src:/app/', 'named:/data'], tmpfs: ['/t/u']}
  b: {image: 'volumes:local', command: sleep 1000, stop_signal: SIGKILL, volumes_from: [a]}
volumes: {named: {}}
",
    );
    stack.wharf(&["up", "-d"]).ok();
    stack.sh("a", "echo kept > /data/file; echo module > /app/modules/file");
    assert_eq!(stack.sh("a", "grep -c ' /data ' /proc/self/mountinfo"), "1");
    assert_eq!(stack.sh("b", "cat /data/file; cat /app/modules/file"), "kept\nmodule");
    let targets = stack
        .wharf(&["container", "inspect", "-f", "{{range .Mounts}}{{.Destination}} {{end}}", &format!("{}-a-1", stack.project)])
        .ok();
    assert_eq!(targets.trim(), "/app/modules /app /data");
    stack
        .wharf(&[
            "container",
            "run",
            "-d",
            "--name",
            "single",
            "--stop-signal",
            "KILL",
            "-v",
            "own:/data/../data/",
            "volumes:local",
            "sleep",
            "1000",
        ])
        .ok();
    let count = stack.wharf(&["container", "exec", "single", "grep", "-c", " /data ", "/proc/self/mountinfo"]).ok();
    assert_eq!(count.trim(), "1");
    stack.wharf(&["container", "rm", "-f", "single"]).ok();
}

#[test]
fn a_port_that_another_replica_takes_names_it() {
    let stack = Stack::new("none");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    stack
        .write("compose.yaml", &format!("services:\n  web: {}\n", service(&format!("scale: 3, ports: ['127.0.0.1:{port}:80']"))));
    let up =
        stack.wharf(&["up", "-d"]).fails(1, &[&port.to_string(), &format!("in use by the container {}-web-", stack.project)]);
    assert!(!up.stderr.contains("by the process"), "{}", up.stderr);
}

#[test]
fn hooks_that_fail_fail_the_command_and_a_restart_runs_them() {
    let stack = Stack::new("none");
    let hook = |script: &str| format!("[{{command: [sh, -c, '{script}']}}]");
    let web = service(&format!(
        "post_start: {}, pre_stop: {}, volumes: ['out:/out']",
        hook("echo after >> /out/log"),
        hook("echo no luck; exit 3")
    ));
    stack.write("compose.yaml", &format!("services:\n  web: {web}\nvolumes: {{out: {{}}}}\n"));
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["restart"]).fails(1, &["web hook exited with status 3", "pre_stop", "no luck"]);
    assert_eq!((stack.state("web").as_str(), stack.sh("web", "cat /out/log").as_str()), ("running", "after\nafter"));
    stack.wharf(&["down"]).fails(1, &["web hook exited with status 3"]);
    assert!(stack.ps().is_empty(), "it is gone all the same");
    let networks = stack.wharf(&["network", "ls"]).ok();
    assert!(!networks.contains(&stack.project), "{networks}");
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["kill"]).ok();
    eventually("it has ended", 10, || stack.state("web") == "exited");
}

/// A restart that cannot start is an attempt that ran for no time, however long ago the last good one began.
#[test]
fn a_restart_that_fails_is_an_attempt() {
    let stack = Stack::new("nothing");
    let policy = "deploy: {restart_policy: {condition: on-failure, delay: 100ms, max_attempts: 2, window: 1s}}";
    stack.write(
        "compose.yaml",
        &format!("services: {{web: {{image: 'busybox:local', command: [sh, /s/run], volumes: ['./src:/s'], {policy}}}}}\n"),
    );
    std::fs::create_dir(stack.path("src")).expect("directory");
    stack.write("src/run", "#!/bin/sh\nsleep 2; exit 3\n");
    stack.wharf(&["up", "-d"]).ok();
    // Longer than the window, and then there is nothing to mount.
    std::fs::rename(stack.path("src"), stack.path("gone")).expect("moved");
    std::fs::write(stack.path("src"), "").expect("a file in its place");
    eventually("it is given up", 10, || stack.state("web") == "exited");
    let (_, inspected) = stack.api("GET", &format!("/containers/{}/json", stack.id("web")), None);
    assert_eq!(inspected["RestartCount"], 2, "{inspected}");
}

/// What waits for its next start is not started any more when it is killed, as with Docker: by the project and by itself.
#[test]
fn kill_ends_restarts() {
    let stack = Stack::new("nothing");
    let ends = "image: 'busybox:local', command: sh -c 'exit 4', restart: always, labels: [x]";
    stack.write("compose.yaml", &format!("services: {{one: {{{ends}}}, other: {{{ends}}}}}\n"));
    let waits = |service: &str| {
        // Long enough that it is there when the command comes.
        eventually("it waits", 30, || {
            let (_, inspected) = stack.api("GET", &format!("/containers/{}/json", stack.id(service)), None);
            inspected["State"]["Status"] == "restarting" && inspected["RestartCount"].as_u64() >= Some(5)
        });
    };
    stack.wharf(&["up", "-d"]).ok();
    waits("one");
    let killed = stack.wharf(&["kill", "one"]);
    assert!(killed.code == 0 && killed.stderr.contains("Killed"), "{killed:?}");
    assert_eq!((stack.state("one").as_str(), stack.state("other").as_str()), ("exited", "restarting"));
    waits("other");
    // Another signal is for a process, of which there is none.
    let path = format!("/containers/{}/kill", stack.id("other"));
    assert_eq!(stack.api("POST", &format!("{path}?signal=HUP"), None).0, 409);
    assert_eq!(stack.api("POST", &path, None).0, 204);
    let (_, inspected) = stack.api("GET", &format!("/containers/{}/json", stack.id("other")), None);
    assert_eq!((&inspected["State"]["Status"], &inspected["State"]["ExitCode"]), (&"exited".into(), &4.into()), "{inspected}");
}

#[test]
fn a_container_that_is_removed_at_its_end_gets_no_restart_policy() {
    let stack = Stack::new("nothing");
    let run = ["container", "run", "-d", "--rm", "--init", "--name", "u", "busybox:local", "sleep", "1000"];
    stack.wharf(&run).ok();
    let words = ["Restart policy cannot be updated because AutoRemove is enabled for the container"];
    stack.wharf(&["container", "update", "--restart", "always", "u"]).fails(1, &words);
    let body = serde_json::json!({"RestartPolicy": {"Name": "always"}});
    assert_eq!(stack.api("POST", "/containers/u/update", Some(&body)).0, 409);
    let body = serde_json::json!({"RestartPolicy": {"Name": "no"}});
    assert_eq!(stack.api("POST", "/containers/u/update", Some(&body)).0, 200);
    stack.wharf(&["container", "stop", "u"]).ok();
    eventually("it is removed", 10, || stack.wharf(&["container", "ls", "-aq"]).ok().is_empty());
}

/// What waits for its restart counts as running: who stops it is told so by an event, and what cannot be done has its reason.
#[test]
fn what_waits_for_its_restart_is_said_to() {
    let stack = Stack::new("nothing");
    for (command, events) in [("stop", &["stop"][..]), ("kill", &["kill", "stop"])] {
        stack.wharf(&["container", "run", "-d", "--name", "k", "--restart", "always", "busybox:local", "false"]).ok();
        let state = || stack.api("GET", "/containers/k/json", None).1["State"].clone();
        // The delay of its seventh restart is long enough for what follows.
        eventually("it waits for long", 30, || {
            let known = stack.api("GET", "/containers/k/json", None).1;
            known["RestartCount"].as_u64() >= Some(6) && known["State"]["Restarting"] == true
        });
        for call in ["kill?signal=USR1", "pause", "resize?h=1&w=1"] {
            let (status, answer) = stack.api("POST", &format!("/containers/k/{call}"), None);
            assert_eq!(status, 409, "{call}: {answer}");
            let words = "is restarting, wait until the container is running";
            assert!(answer["message"].as_str().is_some_and(|text| text.contains(words)), "{call}: {answer}");
        }
        assert_eq!(stack.api("GET", "/containers/k/top", None).0, 409);
        assert_eq!(stack.api("POST", &format!("/containers/k/{command}"), None).0, 204);
        assert_eq!(state()["Status"], "exited");
        let now = jiff::Timestamp::now().as_second() + 1;
        let path = format!("/events?since=0&until={now}&filters=%7B%22type%22:%5B%22container%22%5D%7D");
        let (_, text) = stack.api("GET", &path, None);
        let lines = text.as_str().expect("lines of JSON").lines().map(str::to_string).collect::<Vec<_>>();
        let actions: Vec<String> = lines
            .iter()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).expect("JSON")["Action"].as_str().expect("an action").to_string()
            })
            .collect();
        let last = &actions[actions.iter().rposition(|action| action == "die").expect("it has died") + 1..];
        assert_eq!(last, events);
        stack.wharf(&["container", "rm", "k"]).ok();
    }
}

#[test]
fn a_hook_of_what_has_ended_says_so() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        "services: {s: {image: 'busybox:local', command: sh -c 'exit 4', post_start: [{command: echo hi}]}}\n",
    );
    for _ in 0..5 {
        stack
            .wharf(&["up", "-d"])
            .fails(1, &["is not running: it exited with code 4 before its post_start hook `echo hi` was done"]);
        stack.wharf(&["down"]).ok();
    }
}
