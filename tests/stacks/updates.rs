//! Updates that no client notices, and those that fail.

use crate::crashes::kill_at_line;
use crate::support::{Stack, eventually, question, sleeping};
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A client that asks again and again, by a connection each.
struct Asking {
    end: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    thread: std::thread::JoinHandle<()>,
}

/// The body that a web server answers.
fn get(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.") && head.contains(" 200 ") => Ok(body.trim().to_string()),
        _ => Err(std::io::Error::other(format!("no answer: {text:?}"))),
    }
}

/// The first address of a name, by the resolver of the container in whose network namespace the thread is.
fn resolve(name: &str) -> std::io::Result<std::net::Ipv4Addr> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.send_to(&question(7, name), "127.0.0.11:53")?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    // A record ends with its address: the last of the answers, of which there is one.
    let answer = &buffer[..length];
    match answer {
        [_, _, _, flags, _, _, 0, count, .., a, b, c, d] if flags & 0xf == 0 && *count > 0 => {
            Ok(std::net::Ipv4Addr::new(*a, *b, *c, *d))
        }
        _ => Err(std::io::Error::other(format!("no address of {name}: {answer:?}"))),
    }
}

impl Asking {
    /// Asks an address of the host.
    fn start(address: String) -> Self {
        Self::repeat(move || get(&address).map(drop), None)
    }

    /// Asks a service by its name, from the network of a container.
    fn by_name(stack: &Stack, from: &str, name: &'static str) -> Self {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", stack.pid(from))).expect("namespace");
        Self::repeat(move || get(&format!("{}:80", resolve(name)?)).map(drop), Some(namespace))
    }

    fn repeat(ask: impl Fn() -> std::io::Result<()> + Send + 'static, namespace: Option<std::fs::File>) -> Self {
        let (end, asked, failures) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<String>>>::default());
        let own = (end.clone(), asked.clone(), failures.clone());
        let thread = std::thread::spawn(move || {
            if let Some(namespace) = namespace {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
            }
            while !own.0.load(Ordering::Relaxed) {
                if let Err(error) = ask() {
                    own.2.lock().expect("lock").push(format!("after {}: {error}", own.1.load(Ordering::Relaxed)));
                }
                own.1.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Asking { end, asked, failures, thread }
    }

    /// What has failed.
    fn end(self) -> Vec<String> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().expect("thread");
        assert!(self.asked.load(Ordering::Relaxed) > 20, "it has not asked");
        Arc::into_inner(self.failures).expect("the last").into_inner().expect("lock")
    }
}

const CHECKED: &str = "interval: 100ms, start_period: 60s, start_interval: 50ms";

/// A web server of a version, that answers it; with a health check and further attributes.
fn web(version: &str, check: &str, more: &str) -> String {
    format!(
        "{{image: 'busybox:local', stop_signal: SIGKILL, environment: [V={version}],
          command: [sh, -c, 'mkdir -p /www; echo $$V > /www/index.html; exec httpd -f -p 80 -h /www'],
          healthcheck: {{test: 'wget -qO- http://127.0.0.1/index.html | grep -q good', timeout: 5s, {check}}}{more}}}"
    )
}

fn published(stack: &Stack, service: &str) -> u16 {
    let ports = stack.container(service)["Publishers"].clone();
    ports[0]["PublishedPort"].as_u64().expect("a published port") as u16
}

#[test]
fn clients_notice_no_update() {
    let stack = Stack::new("nothing");
    stack.compile("udp_echo");
    let client = format!("{{{}}}", sleeping(""));
    let echo = "{image: 'busybox:local', command: [/echo, '7000', VERSION], volumes: ['./udp_echo:/echo:ro'], stop_signal: SIGKILL, ports: ['7000/udp'],
        deploy: {update_config: {order: start-first, monitor: 100ms}}}";
    // Its connections are served to their end, however long the old one is asked to stop.
    let held = "{image: 'busybox:local', command: [sh, -c, 'trap : TERM; nc -ll -p 7 -e cat & wait; while pidof cat; do sleep 0.05; done'], ports: ['7'],
        environment: [V=VERSION], deploy: {update_config: {order: start-first, monitor: 100ms}}}";
    let write = |version: &str, check: &str, udp: &str| {
        let web =
            web(version, check, ", container_name: CONTAINER, ports: ['80'], deploy: {update_config: {order: start-first}}");
        let web = web.replace("CONTAINER", &format!("{}-named", stack.project));
        let (echo, held) = (echo.replace("VERSION", udp), held.replace("VERSION", udp));
        stack.write("compose.yaml", &format!("services:\n  web: {web}\n  client: {client}\n  echo: {echo}\n  held: {held}\n"));
    };
    write("good-1", CHECKED, "one");
    stack.wharf(&["up", "-d", "--wait"]).ok();
    let port = published(&stack, "web");
    let mut asking: Vec<Asking> = ["127.0.0.1", "[::1]"]
        .into_iter()
        .filter(|ip| *ip == "127.0.0.1" || std::net::TcpListener::bind("[::1]:0").is_ok())
        .map(|ip| Asking::start(format!("{ip}:{port}")))
        .collect();
    asking.push(Asking::by_name(&stack, &format!("{}-client-1", stack.project), "web"));
    let held_port = published(&stack, "held");
    let mut connection = TcpStream::connect(("127.0.0.1", held_port)).expect("connect");
    connection.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
    let mut is_held = |word: &[u8]| {
        let mut buffer = [0; 16];
        connection.write_all(word).expect("write");
        let length = connection.read(&mut buffer).expect("the connection is held");
        assert_eq!(&buffer[..length], word);
    };
    is_held(b"before");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
    let udp_port = published(&stack, "echo");
    let ask = || {
        socket.send_to(b"x", ("127.0.0.1", udp_port)).expect("send");
        let mut buffer = [0; 64];
        socket.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    eventually("UDP is answered", 5, || ask().is_some_and(|said| said.contains("one")));

    let before = stack.pid(&format!("{}-held-1", stack.project));
    for version in ["good-2", "good-3"] {
        write(version, CHECKED, "two");
        let up = std::thread::scope(|scope| {
            let up = scope.spawn(|| stack.wharf(&["up", "-d", "web", "client", "echo"]));
            up.join().expect("up")
        });
        up.ok();
        assert_eq!(get(&format!("127.0.0.1:{port}")).expect("answer"), version);
        assert_eq!(
            (published(&stack, "web"), stack.container("web")["Name"].as_str()),
            (port, Some(&*format!("{}-named", stack.project)))
        );
        assert_eq!(stack.sh("client", "wget -qO- http://web/index.html"), version);
        assert!(ask().is_some_and(|said| said.contains("two")), "a flow of UDP stays with who is gone");
    }
    // The connection goes on beside the new container, and ends with it.
    let mut up = stack.command(&["up", "-d", "held"]).stderr(std::process::Stdio::null()).spawn().expect("up");
    eventually("there is a new one", 10, || TcpStream::connect(("127.0.0.1", held_port)).is_ok() && stack.ps().len() == 5);
    for _ in 0..20 {
        is_held(b"meanwhile");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(connection);
    assert!(up.wait().expect("up").success());
    assert_ne!(stack.pid(&format!("{}-held-1", stack.project)), before);

    // One that ends, and one that is unhealthy, leave everything as it was.
    let id = stack.id("web");
    write("good-4", CHECKED, "two");
    let yaml = std::fs::read_to_string(stack.path("compose.yaml")).expect("file");
    stack.write("compose.yaml", &yaml.replace("exec httpd -f", "echo no database; exit 3; httpd"));
    stack.wharf(&["up", "-d"]).fails(1, &["exited (3)", "no database", "runs on as it was"]);
    write("bad", "interval: 50ms, retries: 1", "two");
    stack.wharf(&["up", "-d"]).fails(1, &["is unhealthy", "its health check ended with 1", "runs on as it was"]);
    assert_eq!((stack.id("web"), stack.ps().len()), (id, 4));
    let failures: Vec<String> = asking.into_iter().flat_map(Asking::end).collect();
    assert_eq!(failures, [""; 0], "clients have lost something");
}

#[test]
fn a_failed_update_stops_where_deploy_says() {
    let stack = Stack::new("nothing");
    let write = |mark: &str, update: &str| {
        let script = "test $$MARK = good || exit 7; exec sleep 1000";
        stack.write(
            "compose.yaml",
            &format!(
                "services: {{app: {{image: 'busybox:local', command: [sh, -c, '{script}'], stop_signal: SIGKILL, scale: 3,
                environment: [MARK={mark}], deploy: {{update_config: {{order: start-first, monitor: 2s, {update}}}}}}}}}"
            ),
        );
    };
    write("good", "");
    stack.wharf(&["up", "-d"]).ok();
    let ids = || stack.ps().iter().map(|c| c["ID"].to_string()).collect::<std::collections::BTreeSet<_>>();
    let before = ids();
    // How many of three are tried when each fails.
    for (update, tried) in [
        ("parallelism: 1", 1),
        ("max_failure_ratio: 0.5", 2),
        ("failure_action: continue, delay: 50ms", 3),
        ("parallelism: 0", 3),
    ] {
        write("bad", update);
        let up = stack.wharf(&["up", "-d"]).fails(1, &["exited (7)"]);
        let failures = up.stderr.matches("runs on as it was").count();
        let paused = up.stderr.lines().filter(|line| line.ends_with("Paused")).count();
        assert_eq!((failures, failures + paused), (tried, 3), "{update}: {}", up.stderr);
        assert_eq!(ids(), before, "{update}");
    }
}

/// The engine dies at one step after the other: the update is undone or ended by the next, and a client of the port notices none of
/// it.
#[test]
fn an_update_that_was_broken_off_is_undone_or_ended() {
    let stack = Stack::new("nothing");
    let write = |version: &str| {
        let more = ", ports: ['127.0.0.1::80'], deploy: {update_config: {order: start-first}}";
        stack.write("compose.yaml", &format!("services:\n  web: {}\n", web(version, CHECKED, more)));
    };
    write("good-0");
    stack.wharf(&["up", "-d", "--wait"]).ok();
    let port = published(&stack, "web");
    let address = format!("127.0.0.1:{port}");
    let asking = Asking::start(address.clone());
    let name = format!("{}-web-1", stack.project);
    let mut ends = std::collections::BTreeSet::new();
    for line in (1..).step_by(stride()) {
        let before = get(&address).expect("answer");
        let version = format!("good-{line}");
        write(&version);
        let killed = kill_at_line(&stack, &["up", "-d"], line);
        let whole = || {
            let all = stack.ps();
            all.len() == 1 && all[0]["Name"] == *name && all[0]["State"] == "running"
        };
        eventually(&format!("there is one container, killed at line {line}"), 20, whole);
        let after = get(&address).expect("answer");
        assert!([&before, &version].contains(&&after), "{after}");
        ends.insert(after == version);
        assert_eq!(published(&stack, "web"), port, "killed at line {line}");
        if !killed {
            break;
        }
    }
    assert_eq!(ends.len(), 2, "it was undone and it was ended");
    assert_eq!(asking.end(), [""; 0], "a client has lost something");
}

/// Which of the steps are tried: `STRIDE=1` tries each.
fn stride() -> usize {
    std::env::var("STRIDE").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

#[test]
fn who_is_unhealthy_is_acted_on_as_its_service_says() {
    let stack = Stack::new("nothing");
    let service = |more: &str, check: &str| {
        let check =
            format!("healthcheck: {{test: 'test ! -e /sick || {{ echo ill; exit 5; }}', interval: 50ms, retries: 2{check}}}");
        format!("{{{}}}", sleeping(&format!("{check}{more}")))
    };
    let services = [
        ("restart", service("", ", x-on-failure: restart")),
        ("labelled", service(", labels: {autoheal: 'true'}", "")),
        ("stop", service(", restart: always", ", x-on-failure: stop")),
        ("kill", service("", ", x-on-failure: kill")),
        ("docker", service(", restart: always", "")),
        (
            "young",
            service("", ", x-on-failure: restart, start_period: 60s, start_interval: 50ms").replace("test ! -e /sick", "false"),
        ),
    ];
    let yaml: String = services.iter().map(|(name, service)| format!("  {name}: {service}\n")).collect();
    stack.write("compose.yaml", &format!("services:\n{yaml}"));
    stack.wharf(&["up", "-d"]).ok();
    let before = stack.pid(&format!("{}-docker-1", stack.project));
    for name in ["restart", "labelled", "stop", "kill", "docker"] {
        stack.sh(name, "touch /sick");
    }
    let count = |name: &str| stack.container(name)["RestartCount"].as_u64().expect("a count");
    eventually("it is restarted again and again, with a delay that grows", 20, || {
        count("restart") >= 3 && count("labelled") >= 1
    });
    eventually("one is stopped, one is killed", 10, || stack.state("stop") == "exited" && stack.state("kill") == "exited");
    assert_eq!((count("stop"), stack.container("kill")["ExitCode"].as_i64()), (0, Some(137)));
    assert_eq!(stack.container("docker")["Health"], "unhealthy");
    assert_eq!((stack.pid(&format!("{}-docker-1", stack.project)), count("docker"), count("young")), (before, 0, 0));
    let name = format!("{}-restart-1", stack.project);
    let inspected = stack.wharf(&["container", "inspect", "-f", "{{.State.Health.Restarts}}", &name]).ok();
    assert!(inspected.trim().parse::<u64>().expect("a count") >= 3, "{inspected}");
    let events = stack.wharf(&["events", "--since", "1m", "--until", "0s", "--json"]).ok();
    let restart = events
        .lines()
        .find(|line| line.contains("\"action\":\"restart\"") && line.contains(&name))
        .unwrap_or_else(|| panic!("{events}"));
    assert!(restart.contains("its health check ended with 5 and says: ill"), "{restart}");
    // The user's word counts.
    stack.wharf(&["stop", "restart"]).ok();
    let stopped = count("restart");
    assert_eq!((stack.state("restart"), count("restart")), ("exited".into(), stopped));
}

#[test]
fn a_log_is_bounded_unless_its_service_says_otherwise() {
    let stack = Stack::new("nothing");
    let unlimited = sleeping("logging: {options: {max-size: '-1'}}");
    stack.write("compose.yaml", &format!("services: {{plain: {{{}}}, endless: {{{unlimited}}}}}", sleeping("")));
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["container", "run", "-d", "--name", "alone", "busybox:local", "sleep", "1000"]).ok();
    let limits = |name: &str| {
        let format = "{{index .HostConfig.LogConfig.Config \"max-size\"}} {{index .HostConfig.LogConfig.Config \"max-file\"}}";
        stack.wharf(&["container", "inspect", "-f", format, name]).ok().trim().to_string()
    };
    assert_eq!(limits(&format!("{}-plain-1", stack.project)), "20971520 5");
    assert_eq!(limits("alone"), "20971520 5");
    let check = stack.wharf(&["system", "check"]).stdout;
    let warning = check.lines().find(|line| line.contains("may fill the disk")).unwrap_or_else(|| panic!("{check}"));
    assert!(warning.contains(&format!("{}-endless-1;", stack.project)) && !warning.contains("plain"), "{warning}");
    stack.wharf(&["container", "rm", "-f", "alone"]).ok();
}

#[test]
fn a_service_goes_back_to_what_it_was() {
    let stack = Stack::new("nothing");
    let write = |mark: &str| {
        // Of the containers of a bad version the first runs.
        let script = "test $$MARK != bad || mkdir /shared/first || exit 7; exec sleep 1000";
        stack.write(
            "compose.yaml",
            &format!(
                "services: {{app: {{image: 'busybox:local', command: [sh, -c, '{script}'], stop_signal: SIGKILL, scale: 2, volumes: ['.:/shared'],
                environment: [MARK={mark}], deploy: {{update_config: {{order: start-first, monitor: 1s, failure_action: rollback}},
                rollback_config: {{order: stop-first, monitor: 100ms}}}}}}}}"
            ),
        );
    };
    let marks = || {
        ["1", "2"].map(|n| stack.wharf(&["exec", "-T", "--index", n, "app", "sh", "-c", "echo $MARK"]).ok().trim().to_string())
    };
    let image = || {
        let name = format!("{}-app-1", stack.project);
        stack.wharf(&["container", "inspect", "-f", "{{.Image}}", &name]).ok().trim().to_string()
    };
    let history = || {
        let text = stack.wharf(&["history", "app", "--format", "json"]).ok();
        let rows = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        rows.filter(|row| row["Revision"].is_u64())
            .map(|row| {
                (
                    row["Revision"].as_u64().expect("number"),
                    row["Outcome"].as_str().expect("text").to_string(),
                    row["Changed"].clone(),
                )
            })
            .collect::<Vec<_>>()
    };
    write("one");
    stack.wharf(&["up", "-d"]).ok();
    write("bad");
    stack.wharf(&["up", "-d"]).fails(1, &["exited (7)", "app is rolled back to its revision 1"]);
    assert_eq!(marks(), ["one", "one"]);
    let good = |number, outcome: &str, changed: &[&str]| (number, outcome.to_string(), serde_json::json!(changed));
    let known = [good(1, "good", &[]), good(2, "failed", &["environment"]), good(3, "good", &["environment"])];
    assert_eq!(history(), known);

    // The name of the image is another image's by then, and nobody uses the earlier one.
    let before = image();
    let tar = crate::support::busybox_tar().to_str().expect("path");
    stack.wharf(&["image", "import", tar, "busybox:local", "--change", "CMD [\"sh\"]", "--change", "ENV NEW=1"]).ok();
    write("two");
    stack.wharf(&["up", "-d"]).ok();
    assert!(image() != before && marks() == ["two", "two"]);
    stack.wharf(&["image", "prune", "-a", "-f"]).ok();
    stack.wharf(&["rollback", "app", "--start-first"]).ok();
    assert_eq!((image(), marks()), (before, ["one".to_string(), "one".to_string()]));
    stack.wharf(&["rollback", "app", "--to", "4"]).ok();
    assert_eq!(marks(), ["two", "two"]);
    stack.wharf(&["rollback", "app", "--to", "77"]).fails(1, &["has no revision 77", "wharf history app"]);
    stack.wharf(&["rollback", "other"]).fails(1, &["the service other has no revisions yet"]);
    let table = stack.wharf(&["history"]).ok();
    assert!(table.contains("rollback to 3") && table.contains("OUTCOME"), "{table}");
}

/// With `stop-first`, too: each is looked at before the next, and what has failed is noted, rolled back, and rolled back by the next
/// engine where the first one dies.
#[test]
fn a_stop_first_update_that_fails_is_acted_on() {
    let stack = Stack::new("nothing");
    let write = |mark: &str, update: &str| {
        let script = "test $$MARK != bad || exit 7; exec sleep 1000";
        stack.write(
            "compose.yaml",
            &format!(
                "services: {{app: {{image: 'busybox:local', command: [sh, -c, '{script}'], stop_signal: SIGKILL, scale: 3,
                environment: [MARK={mark}], deploy: {{update_config: {{parallelism: 1, monitor: 1s, {update}}}}}}}}}"
            ),
        );
    };
    let states = || {
        let mut states: Vec<String> = stack.ps().iter().map(|c| c["State"].as_str().expect("text").to_string()).collect();
        states.sort();
        states
    };
    let outcomes = || {
        let text = stack.wharf(&["history", "app", "--format", "json"]).ok();
        let rows = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let rows = rows.filter(|row| row["Revision"].is_u64());
        rows.map(|row| format!("{} {}", row["Cause"].as_str().expect("text"), row["Outcome"].as_str().expect("text")))
            .collect::<Vec<_>>()
    };
    write("good", "");
    let plan = stack.wharf(&["plan"]).ok();
    assert!(!plan.contains("has run for"), "nothing is replaced: {plan}");
    stack.wharf(&["up", "-d"]).ok();
    let ids = || stack.ps().iter().map(|c| c["ID"].to_string()).collect::<std::collections::BTreeSet<_>>();
    for (update, tried) in [("delay: 10ms", 1), ("max_failure_ratio: 0.5", 2), ("failure_action: continue", 3)] {
        write("good", update);
        stack.wharf(&["up", "-d", "--force-recreate"]).ok();
        assert_eq!(states(), ["running"; 3]);
        let before = ids();
        write("bad", update);
        let plan = stack.wharf(&["plan"]).ok();
        assert!(plan.contains("has run for 1s") && plan.matches("go on with container").count() == 2, "{plan}");
        let up = stack.wharf(&["up", "-d"]).fails(1, &["exited (7)"]);
        assert_eq!(
            (ids().difference(&before).count(), states().iter().filter(|s| *s == "exited").count()),
            (tried, tried),
            "{update}: {}",
            up.stderr
        );
        assert!(outcomes().last().expect("a revision").ends_with(" failed"), "{:?}", outcomes());
    }
    write("good", "failure_action: rollback");
    stack.wharf(&["up", "-d"]).ok();
    write("bad", "failure_action: rollback");
    stack.wharf(&["up", "-d"]).fails(1, &["exited (7)", "app is rolled back to its revision"]);
    assert_eq!(states(), ["running"; 3]);
    assert!(
        outcomes().last().expect("a revision").starts_with("rollback to ") && outcomes().iter().any(|o| o.ends_with("failed"))
    );

    // The engine dies when the rollback is to begin.
    write("bad", "failure_action: rollback, delay: 1ms");
    let journal = || std::fs::read_to_string(stack.data_root().join("state.journal")).unwrap_or_default();
    let owed = || journal().matches("\"k\":\"rollback/").count();
    let before = owed();
    let engine = stack.engine_pid().expect("an engine");
    let mut up =
        stack.command(&["up", "-d"]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().expect("up");
    while owed() == before {
        assert!(up.try_wait().expect("wait").is_none(), "it has ended without a rollback");
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine), nix::sys::signal::SIGKILL).expect("kill");
    up.wait().expect("wait");
    eventually("the next engine rolls back", 20, || {
        states() == ["running"; 3] && outcomes().last().is_some_and(|o| o.starts_with("rollback to "))
    });
    for index in ["1", "2", "3"] {
        assert_eq!(stack.wharf(&["exec", "-T", "--index", index, "app", "sh", "-c", "echo $MARK"]).ok().trim(), "good");
    }
}

/// `UPDATES=100` makes as many.
#[test]
fn wrk_loses_nothing_through_updates() {
    let updates: usize = std::env::var("UPDATES").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let stack = Stack::new("nothing");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/server.c");
    let built = Command::new("cc").args(["-static", "-O2", "-pthread", source, "-o"]).arg(stack.path("server")).status();
    assert!(built.expect("cc").success());
    // Every fifth has no server, and fails.
    let write = |version: usize| {
        let command = if version % 5 == 4 { "[sh, -c, 'exit 7']" } else { "[/server]" };
        let update = "deploy: {update_config: {order: start-first, monitor: 1s}}";
        let service =
            format!("image: 'busybox:local', command: {command}, volumes: ['./server:/server:ro'], environment: [V={version}]");
        let client = sleeping("volumes: ['./server:/server:ro']");
        stack.write("compose.yaml", &format!("services: {{web: {{{service}, ports: ['80'], {update}}}, client: {{{client}}}}}"));
    };
    write(0);
    stack.wharf(&["up", "-d"]).ok();
    let url = format!("http://127.0.0.1:{}/", published(&stack, "web"));
    eventually("it answers", 10, || TcpStream::connect(url.trim_start_matches("http://").trim_end_matches('/')).is_ok());
    let clients: Vec<_> = [&[][..], &["-H", "Connection: close"]]
        .into_iter()
        .map(|more| {
            let args = [&["-t1", "-c16", "-d3600s", "--timeout", "30s"], more, &[&url]].concat();
            let stdout = std::process::Stdio::piped();
            Command::new("wrk").args(args).stdout(stdout).spawn().expect("wrk is installed")
        })
        .collect();
    for version in 1..=updates {
        write(version);
        let up = stack.wharf(&["up", "-d", "web"]);
        assert_eq!(up.code, i32::from(version % 5 == 4), "{}", up.stderr);
    }
    for client in clients {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(client.id() as i32), nix::sys::signal::SIGINT).expect("kill");
        let text = String::from_utf8_lossy(&client.wait_with_output().expect("wrk").stdout).into_owned();
        let answered = text.lines().find_map(|line| line.trim().split_once(" requests in")?.0.parse::<usize>().ok());
        println!("{text}");
        assert!(answered.is_some_and(|count| count > 100), "{text}");
        assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    }
}

/// A service's own address goes to the new container when the old one is gone; what is connected to either goes on.
#[test]
fn an_address_of_its_own_is_given_over() {
    let stack = Stack::new("nothing");
    let own: std::net::IpAddr = "10.232.9.77".parse().expect("address");
    let own6: std::net::IpAddr = "fd00:232:9::77".parse().expect("address");
    let write = |version: &str| {
        let web = format!(
            "{{image: 'busybox:local', environment: [V={version}], ports: ['80'],
              command: [sh, -c, 'mkdir -p /www; echo $$V > /www/index.html; trap \"sleep 1; exit 0\" TERM; httpd -f -p 80 -h /www & nc -ll -p 7 -e cat & wait'],
              networks: {{inner: {{ipv4_address: {own}, ipv6_address: '{own6}'}}}}, deploy: {{update_config: {{order: start-first, monitor: 100ms}}}}}}"
        );
        let network = "{enable_ipv6: true, ipam: {config: [{subnet: 10.232.9.0/24}, {subnet: 'fd00:232:9::/64'}]}}";
        let client = sleeping("networks: [inner]");
        stack
            .write("compose.yaml", &format!("services:\n  web: {web}\n  client: {{{client}}}\nnetworks: {{inner: {network}}}\n"));
    };
    let container = |service: &str| format!("{}-{service}-1", stack.project);
    let namespace =
        |service: &str| std::fs::File::open(format!("/proc/{}/ns/net", stack.pid(&container(service)))).expect("namespace");
    let within = |service: &str, work: &(dyn Fn() + Sync)| {
        let namespace = namespace(service);
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
                work();
            });
            entered.join().expect("checked");
        });
    };
    let addresses = || stack.sh("web", "ip -o addr show dev eth0 scope global | awk '{print $4}' | sort");
    write("one");
    stack.wharf(&["up", "-d"]).ok();
    let client = stack.sh("client", "ip -o -4 addr show dev eth0 | awk '{print $4}' | cut -d/ -f1");
    let port = published(&stack, "web");
    for version in ["two", "three"] {
        write(version);
        let asking = [Asking::start(format!("127.0.0.1:{port}")), Asking::by_name(&stack, &container("client"), "web")];
        // One that comes by the name while the old container ends.
        let joining = {
            let (namespace, own) = (namespace("client"), own);
            std::thread::spawn(move || {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
                let mut found = None;
                eventually("the name leads to the new container", 60, || {
                    found = resolve("web").ok().filter(|address| *address != own);
                    found.is_some()
                });
                TcpStream::connect((found.expect("found"), 7)).expect("connected")
            })
        };
        let said = stack.wharf(&["up", "-d"]);
        assert!(said.code == 0 && !said.stderr.contains("an address of its own"), "{}", said.stderr);
        let mut joined = joining.join().expect("joined");
        for one in asking {
            assert_eq!(one.end(), Vec::<String>::new(), "{version}");
        }
        let mut echoed = |text: &[u8]| {
            joined.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
            let mut buffer = vec![0; text.len()];
            joined.write_all(text).and_then(|()| joined.read_exact(&mut buffer)).expect("echo");
            assert_eq!(buffer, text);
        };
        echoed(b"goes on");
        // Neighbours find it at once, and it speaks from there.
        within("client", &|| {
            for address in [format!("{own}:80"), format!("[{own6}]:80")] {
                assert_eq!(get(&address).expect(&address), version);
            }
            assert_eq!(resolve("web").expect("resolved"), own);
        });
        within("web", &|| {
            let speaks = |local: &str, to: &str| {
                let socket = UdpSocket::bind(local).and_then(|socket| socket.connect(to).map(|()| socket)).expect("socket");
                socket.local_addr().expect("address").ip()
            };
            assert_eq!(speaks("0.0.0.0:0", &format!("{client}:9")), own);
            assert_eq!(speaks("0.0.0.0:0", "10.231.255.9:9"), own, "by its gateway");
            assert_eq!(speaks("[::]:0", "[fd00:232:9::1]:9"), own6);
        });
        let engine = stack.engine_pid().expect("engine");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine), nix::sys::signal::Signal::SIGKILL).expect("kill");
        eventually("another engine", 10, || stack.engine_pid().is_some_and(|pid| pid != engine));
        let inspected =
            stack.wharf(&["container", "inspect", "-f", "{{json .NetworkSettings.Networks}}", &container("web")]).ok();
        assert!(inspected.contains(&own.to_string()) && inspected.contains(&own6.to_string()), "{inspected}");
        echoed(b"and on");
        assert_eq!(get(&format!("127.0.0.1:{port}")).expect("published"), version);
        assert_eq!(addresses().lines().count(), 4, "{}", addresses());
    }
    stack.wharf(&["restart", "-t", "0", "web"]).ok();
    assert_eq!(addresses(), format!("{own}/24\n{own6}/64"), "what it had meanwhile is given back");
    eventually("it answers", 10, || get(&format!("127.0.0.1:{port}")).is_ok_and(|version| version == "three"));
}
