//! Dependencies at run time, beyond the commands of Compose.

use crate::crashes::monitor_of;
use crate::support::{Stack, eventually, sleeping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn started_at(stack: &Stack, service: &str) -> jiff::Timestamp {
    let name = format!("{}-{service}-1", stack.project);
    let text = stack.wharf(&["container", "inspect", "-f", "{{.State.StartedAt}}", &name]).ok();
    text.trim().parse().expect("a time")
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("kill");
}

/// As after a power cut: no engine, no monitor and no container is left, and another engine comes.
#[test]
fn a_stack_comes_back_in_the_order_of_its_dependencies() {
    let stack = Stack::new("nothing");
    let slow = "image: 'busybox:local', restart: always, stop_signal: SIGKILL, command: [sh, -c, 'rm -f /ready; sleep 0.4; touch /ready; exec sleep 1000'],
        healthcheck: {test: 'test -e /ready', interval: 50ms, retries: 100}";
    let on = |service: &str| format!(", depends_on: {{{service}: {{condition: service_healthy}}}}");
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  db: {{{slow}}}\n  api: {{{slow}{}}}\n  web: {{{}{}}}\n  beside: {{{}}}\n  job: {{image: 'busybox:local', command: 'true'}}\n",
            on("db"),
            sleeping("restart: always"),
            on("api"),
            sleeping("restart: always, depends_on: {job: {condition: service_completed_successfully}}"),
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    let before = started_at(&stack, "web");
    cut_power(&stack, &["db", "api", "web", "beside"]);
    let status = || stack.container("web")["Status"].as_str().expect("text").to_string();
    eventually("it says for whom it waits", 10, || status().contains("waits for api (service_healthy)"));
    eventually("the last of the chain runs again", 20, || stack.state("web") == "running" && started_at(&stack, "web") > before);
    let times: Vec<_> = ["db", "api", "web"].iter().map(|service| started_at(&stack, service)).collect();
    for pair in times.windows(2) {
        assert!(pair[1].duration_since(pair[0]).as_millis() >= 400, "{times:?}");
    }
    let beside = started_at(&stack, "beside");
    assert!(beside < times[1], "who depends on nothing that is to come waits for nobody: {beside} {times:?}");
}

#[test]
fn who_depends_at_run_time_follows_a_restart() {
    let stack = Stack::new("nothing");
    let on = |service: &str, more: &str| format!("depends_on: {{{service}: {{condition: service_started{more}}}}}");
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  db: {{{}}}\n  api: {{{}}}\n  web: {{{}}}\n  other: {{{}}}\n",
            sleeping("restart: always, healthcheck: {test: 'test ! -e /sick', interval: 50ms, retries: 1}"),
            sleeping(&on("db", ", x-runtime: true").replace("service_started", "service_healthy")),
            sleeping(&on("api", ", x-runtime: true")),
            sleeping(&on("db", ", restart: true")),
        ),
    );
    stack.wharf(&["up", "-d", "--wait"]).ok();
    let pid = |service: &str| stack.pid(&format!("{}-{service}-1", stack.project));
    let pids = || ["db", "api", "web", "other"].map(pid);
    let follow = |what: &str, before: [i64; 4], db_too: bool| {
        let changed = || {
            let now = pids();
            now[1] != before[1] && now[2] != before[2] && now.iter().all(|pid| *pid != 0)
        };
        eventually(what, 10, changed);
        let now = pids();
        assert_eq!((now[0] != before[0], now[3] == before[3]), (db_too, true), "{what}: {before:?} {now:?}");
    };
    let before = pids();
    signal(before[0] as i32, Signal::SIGKILL);
    follow("they are restarted after its restart", before, true);
    let before = pids();
    stack.sh("db", "touch /sick");
    eventually("it is unhealthy", 5, || stack.container("db")["Health"] == "unhealthy");
    stack.sh("db", "rm /sick");
    follow("they are restarted when it is healthy again", before, false);
    // Who was stopped stays so.
    stack.wharf(&["stop", "api"]).ok();
    let before = pids();
    signal(before[0] as i32, Signal::SIGKILL);
    eventually("it runs again", 10, || ![0, before[0]].contains(&pid("db")) && stack.container("db")["Health"] == "healthy");
    assert_eq!(stack.state("api"), "exited");
}

/// Who shares a namespace is in the one that the other has now, however that was started again.
#[test]
fn who_shares_namespaces_is_restarted_with_their_owner() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  db: {{{}}}\n  net: {{{}}}\n  ipc: {{{}}}\n  pid: {{{}}}\n  second: {{{}}}\n  beside: {{{}}}\n",
            sleeping("restart: always, ipc: shareable"),
            sleeping("network_mode: 'service:db'"),
            sleeping("ipc: 'service:db'"),
            sleeping("pid: 'service:db'"),
            sleeping("ipc: 'service:ipc'").replace("service:ipc", "service:db"),
            sleeping(""),
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    let namespace = |service: &str, name: &str| {
        let pid = stack.pid(&format!("{}-{service}-1", stack.project));
        std::fs::read_link(format!("/proc/{pid}/ns/{name}")).ok()
    };
    let joined = || {
        [("net", "net"), ("ipc", "ipc"), ("second", "ipc"), ("pid", "pid")].iter().all(|(service, name)| {
            let own = namespace(service, name);
            own.is_some() && own == namespace("db", name)
        })
    };
    assert!(joined());
    let beside = started_at(&stack, "beside");
    let db = format!("{}-db-1", stack.project);
    for (how, act) in [
        ("its policy", &(|| signal(stack.pid(&db) as i32, Signal::SIGKILL)) as &dyn Fn()),
        ("restart", &|| drop(stack.wharf(&["restart", "db"]).ok())),
        ("the API", &|| assert_eq!(stack.api("POST", &format!("/containers/{db}/restart?t=0"), None).0, 204)),
        ("stop and start", &|| {
            stack.wharf(&["stop", "db"]).ok();
            stack.wharf(&["start", "db"]).ok();
        }),
    ] {
        // By its process: the kernel gives the number of a namespace that has gone to the next one.
        let before = stack.pid(&db);
        act();
        eventually(&format!("they follow {how}"), 20, || ![0, before].contains(&stack.pid(&db)) && joined());
    }
    assert_eq!(started_at(&stack, "beside"), beside);
    // What somebody has stopped stays stopped.
    stack.wharf(&["stop", "ipc"]).ok();
    assert_eq!(stack.api("POST", &format!("/containers/{db}/restart?t=0"), None).0, 204);
    eventually("the others follow", 10, || namespace("net", "net") == namespace("db", "net") && stack.state("pid") == "running");
    assert_eq!(stack.state("ipc"), "exited");
}

/// Ends the engine, the monitors and the containers of a stack at once, as a power cut does. Another engine comes with the next command.
fn cut_power(stack: &Stack, services: &[&str]) {
    let ids: Vec<String> = services.iter().map(|service| stack.id(service)).collect();
    // While it is stopped, it brings nothing back.
    let engine = stack.engine_pid().expect("an engine");
    signal(engine, Signal::SIGSTOP);
    for id in &ids {
        signal(monitor_of(stack, id).expect("a monitor"), Signal::SIGKILL);
    }
    signal(engine, Signal::SIGKILL);
}

/// `up` of a stack that is on its way waits for what it depends on, and says what it starts.
#[test]
fn up_waits_for_what_is_on_its_way() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  db: {{image: 'busybox:local', restart: always, stop_signal: SIGKILL, command: [sh, -c, 'rm -f /ready; sleep 2; touch /ready; exec sleep 1000'],
        healthcheck: {{test: 'test -e /ready', interval: 50ms, retries: 100}}}}\n  web: {{{}}}\n  top: {{{}}}\n",
            sleeping("restart: always, depends_on: {db: {condition: service_healthy}}"),
            sleeping("depends_on: [web]"),
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    cut_power(&stack, &["db", "web", "top"]);
    eventually("it is on its way", 10, || stack.state("web") == "restarting");
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(["db", "web", "top"].map(|service| stack.state(service)), ["running"; 3]);
    let [db, web, top] = ["db", "web", "top"].map(|service| started_at(&stack, service));
    assert!(web.duration_since(db).as_millis() >= 1900 && top > web, "{db} {web} {top}");
}

/// Whose host ends has not failed: the attempts of `on-failure` are for the program.
#[test]
fn a_power_cut_is_no_attempt() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{once: {{{}}}}}", sleeping("restart: 'on-failure:1'")));
    stack.wharf(&["up", "-d"]).ok();
    for cut in 0..3 {
        let before = started_at(&stack, "once");
        cut_power(&stack, &["once"]);
        eventually("it runs again", 10, || stack.state("once") == "running" && started_at(&stack, "once") > before);
        assert_eq!(stack.container("once")["RestartCount"], 1, "after cut {cut}");
    }
}

/// `always` and `unless-stopped` differ in this alone.
#[test]
fn a_boot_starts_what_is_always_to_run() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        &format!(
            "services: {{always: {{{}}}, unless: {{{}}}}}",
            sleeping("restart: always"),
            sleeping("restart: unless-stopped")
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["stop"]).ok();
    let states = || ["always", "unless"].map(|service| stack.state(service));
    // Another engine is no boot.
    stack.wharf(&["engine", "stop"]).ok();
    assert_eq!(states(), ["exited", "exited"]);
    let file = stack.data_root().join("boot.json");
    for round in ["the first boot", "another boot"] {
        stack.wharf(&["engine", "stop"]).ok();
        std::fs::write(&file, "\"11111111-2222-3333-4444-555555555555\"").expect("a boot before");
        eventually(round, 10, || states() == ["running", "exited"]);
        stack.wharf(&["stop"]).ok();
        assert_eq!(states(), ["exited", "exited"]);
    }
    // A file that is not understood is no boot.
    stack.wharf(&["engine", "stop"]).ok();
    std::fs::write(&file, "{").expect("cut off");
    assert_eq!(states(), ["exited", "exited"]);
    assert!(std::fs::read_to_string(&file).expect("written anew").contains('-'));
}
