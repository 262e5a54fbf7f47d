//! How a container's process is started: every pair of attributes that change it, and signals beyond the ordinary ones.

use crate::support::{Stack, eventually};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// An attribute that changes how a process is started, and what shows that it has taken effect: the words that the process
/// prints for it, in the place of `-`.
struct Attribute {
    name: &'static str,
    yaml: &'static str,
    shows: [&'static str; FACTS],
}

const FACTS: usize = 5;

/// What a process prints of itself: its user, its terminal, the name of process 1, whether it can write to the root, an argument.
const SCRIPT: &str = "trap 'exit 7' TERM; tty=none; test -t 0 && test -t 1 && tty=tty; root=ro; echo > /tmp/new && root=rw; \
    echo FACTS $(id -u) $tty $(cat /proc/1/comm) $root ${1:-none}; while :; do sleep 1000 & wait; done";

const ATTRIBUTES: [Attribute; 16] = [
    Attribute { name: "plain", yaml: "", shows: ["-", "-", "-", "-", "-"] },
    Attribute { name: "tty", yaml: "tty: true", shows: ["-", "tty", "-", "-", "-"] },
    Attribute { name: "stdin", yaml: "stdin_open: true", shows: ["-", "-", "-", "-", "-"] },
    Attribute { name: "init", yaml: "init: true", shows: ["-", "-", "wharf-init", "-", "-"] },
    Attribute { name: "user", yaml: "user: app", shows: ["1000", "-", "-", "-", "-"] },
    Attribute { name: "ro", yaml: "read_only: true", shows: ["-", "-", "-", "ro", "-"] },
    Attribute { name: "hook", yaml: "post_start: [{command: 'true', user: root}]", shows: ["-", "-", "-", "-", "-"] },
    Attribute { name: "runc", yaml: "runtime: runc", shows: ["-", "-", "-", "-", "-"] },
    Attribute { name: "noentry", yaml: "entrypoint: []", shows: ["-", "-", "-", "-", "-"] },
    Attribute { name: "args", yaml: "ARGUMENTS", shows: ["-", "-", "-", "-", "given"] },
    Attribute { name: "dev", yaml: "volumes: ['/dev:/dev']", shows: ["-", "-", "-", "-", "-"] },
    Attribute { name: "privileged", yaml: "privileged: true", shows: ["-", "-", "-", "-", "-"] },
    Attribute { name: "nopriv", yaml: "security_opt: ['no-new-privileges:true']", shows: ["-", "-", "-", "-", "-"] },
    Attribute { name: "nocap", yaml: "cap_drop: [ALL]", shows: ["-", "-", "-", "-", "-"] },
    Attribute { name: "ipc", yaml: "ipc: host", shows: ["-", "-", "-", "-", "-"] },
    Attribute { name: "dir", yaml: "working_dir: /not/there", shows: ["-", "-", "-", "-", "-"] },
];

/// A service with two attributes, and the line that it prints.
fn service(one: &Attribute, two: &Attribute) -> (String, String, String) {
    let name = format!("{}-{}", one.name, two.name);
    let facts = ["0", "none", "sh", "rw", "none"];
    let shown = (0..FACTS).map(|n| [two.shows[n], one.shows[n]].into_iter().find(|fact| *fact != "-").unwrap_or(facts[n]));
    let script = serde_json::to_string(&SCRIPT.replace('$', "$$")).expect("JSON");
    let mut lines = Vec::new();
    let mut command = format!("command: [sh, -c, {script}]");
    for attribute in [one, two] {
        match attribute.yaml {
            // The command is the entrypoint's arguments.
            "ARGUMENTS" => command = format!("entrypoint: [sh, -c, {script}, name], command: given"),
            "entrypoint: []" if [one, two].iter().any(|other| other.yaml == "ARGUMENTS") => {}
            "" => {}
            yaml => lines.push(yaml.to_string()),
        }
    }
    lines.insert(0, command);
    let yaml = format!("  {name}: {{image: 'busybox:local', network_mode: none, {}}}\n", lines.join(", "));
    (name, yaml, format!("FACTS {}", shown.collect::<Vec<_>>().join(" ")))
}

/// All of them in one stack: each prints what it should, and ends by SIGTERM as its script says.
#[test]
fn every_pair_of_attributes_starts_and_stops() {
    let stack = Stack::new("nothing");
    let (mut yaml, mut expected) = (String::from("services:\n"), BTreeMap::new());
    for (n, one) in ATTRIBUTES.iter().enumerate() {
        for two in &ATTRIBUTES[n + 1..] {
            if (one.name, two.name) == ("init", "runc") {
                continue;
            }
            let (name, service, line) = service(one, two);
            yaml.push_str(&service);
            expected.insert(name, line);
        }
    }
    stack.write("compose.yaml", &yaml);
    stack.wharf(&["up", "-d"]).ok();
    let mut shown = BTreeMap::new();
    eventually("all have printed their facts", 20, || {
        let logs = stack.wharf(&["logs", "--no-color"]).ok();
        shown = logs
            .lines()
            .filter_map(|line| line.split_once(" | "))
            .filter_map(|(name, line)| {
                Some((name.trim().strip_suffix("-1")?.to_string(), line[line.find("FACTS")?..].trim().to_string()))
            })
            .collect();
        shown.len() == expected.len()
    });
    for (name, line) in &expected {
        assert_eq!(shown.get(name), Some(line), "{name}");
    }
    let begun = Instant::now();
    stack.wharf(&["stop", "-t", "8"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(8), "none had to be killed: {:?}", begun.elapsed());
    for container in stack.ps() {
        assert_eq!(container["ExitCode"], 7, "{container}");
    }
    stack.write("compose.yaml", "services: {x: {image: 'busybox:local', init: true, runtime: runc}}");
    stack.wharf(&["up", "-d", "--remove-orphans"]).fails(1, &["`init` is wharf's own runtime's"]);
}

/// A job's shell on a terminal below wharf's init is in the foreground: it reads what is typed, and Ctrl-C reaches it.
#[test]
fn the_child_of_the_init_has_the_terminal() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        "services: {web: {image: 'busybox:local', tty: true, stdin_open: true, init: true, command: [sh, -c, 'trap \"exit 9\" INT; echo ready; while read line; do echo got $$line; done']}}",
    );
    stack.wharf(&["up", "-d"]).ok();
    eventually("it listens", 5, || stack.wharf(&["logs", "web"]).stdout.contains("ready"));
    let mut attached = crate::support::Terminal::start(&mut stack.command(&["attach", "web"]), 24, 80);
    attached.send("hello\r");
    attached.expect("got hello", 5);
    attached.send("\x03");
    eventually("Ctrl-C has ended it", 5, || stack.state("web") == "exited");
    assert_eq!(stack.container("web")["ExitCode"], 9);
}

/// The client's size of a terminal comes with the container: what runs first, such as an editor, reads it at once.
#[test]
fn a_terminal_has_its_size_from_the_first_instruction() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", "services: {web: {image: 'busybox:local', command: [stty, size]}}");
    for runtime in ["wharf", "runc"] {
        let run = ["container", "run", "--rm", "-t", "--runtime", runtime, "busybox:local", "stty", "size"];
        let mut terminal = crate::support::Terminal::start(&mut stack.command(&run), 23, 71);
        terminal.expect("23 71", 10);
        assert_eq!(terminal.wait(10), Some(0), "{runtime}");
    }
    let mut terminal = crate::support::Terminal::start(&mut stack.command(&["run", "--rm", "web"]), 29, 73);
    terminal.expect("29 73", 10);
    assert_eq!(terminal.wait(10), Some(0));
}

/// nix has no value for real-time signals: whoever waits for a process or for a signal by it fails on one.
#[test]
fn real_time_signals_are_signals() {
    let stack = Stack::new("nothing");
    let script = "trap 'exit 5' 37; echo ready; while :; do sleep 1000 & wait; done";
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  own: {{image: 'busybox:local', init: true, stop_signal: SIGRTMIN+3, command: [sh, -c, \"{script}\"]}}\n  \
             none: {{image: 'busybox:local', init: true, stop_signal: SIGRTMIN+3, command: sleep 1000}}\n  \
             host: {{image: 'busybox:local', pid: host, stop_signal: SIGRTMIN+3, command: sleep 1000}}\n"
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    eventually("it listens", 5, || stack.wharf(&["logs", "own"]).stdout.contains("ready"));
    // A process beside the first that such a signal ends has an exit code.
    stack.wharf(&["exec", "-T", "own", "sh", "-c", "kill -37 $$"]).fails(165, &[]);
    let begun = Instant::now();
    stack.wharf(&["stop", "-t", "8"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    for (service, code) in [("own", 5), ("none", 165), ("host", 165)] {
        assert_eq!(stack.container(service)["ExitCode"], code, "{service}");
    }
}

#[test]
fn engine_and_monitors_are_called_wharf() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", "services: {web: {image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL}}");
    stack.wharf(&["up", "-d"]).ok();
    let engine = stack.engine_pid().expect("an engine");
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", stack.pid(&format!("{}-web-1", stack.project)))).expect("status");
    let monitor = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).expect("parent").to_string();
    let named = |pid: &str| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("comm");
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("cmdline");
        (comm.trim().to_string(), String::from_utf8_lossy(line.split(|byte| *byte == 0).next().expect("first")).into_owned())
    };
    let wharf = ("wharf".to_string(), "wharf".to_string());
    assert_eq!([named(&engine.to_string()), named(&monitor)], [wharf.clone(), wharf.clone()]);
    // Nor does one that a monitor has brought back show another name.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine), nix::sys::signal::Signal::SIGKILL).expect("kill");
    eventually("another engine is there", 10, || stack.engine_pid().is_some_and(|pid| pid != engine));
    stack.wharf(&["ps"]).ok();
    assert_eq!(named(&stack.engine_pid().expect("an engine").to_string()), wharf);
}

/// A bind of the host's /dev is what the container has there; nothing is made in it.
#[test]
fn the_hosts_dev_is_mounted_as_it_is() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        "services:\n  bind: {image: 'busybox:local', volumes: ['/dev:/dev/'], devices: ['/dev/null:/dev/wharf-test'], command: sleep 1000, stop_signal: SIGKILL}\n  \
         tmpfs: {image: 'busybox:local', tmpfs: ['/dev:mode=755'], tty: true, command: sleep 1000, stop_signal: SIGKILL}\n",
    );
    let before = std::fs::read_dir("/dev").expect("/dev").count();
    stack.wharf(&["up", "-d"]).ok();
    let number = |path: &str| std::os::unix::fs::MetadataExt::rdev(&std::fs::metadata(path).expect(path));
    assert_eq!(std::fs::read_dir("/dev").expect("/dev").count(), before);
    assert_eq!(stack.sh("bind", "ls /dev | wc -l").parse::<usize>().expect("number"), before);
    assert!(number("/dev/null") > 0 && !std::path::Path::new("/dev/wharf-test").exists());
    // The shared memory is the container's own.
    assert_eq!(
        stack.sh("bind", "ls /dev/shm | wc -l; echo > /dev/null; echo x > /dev/shm/wharf-test; cat /dev/shm/wharf-test"),
        "0\nx"
    );
    assert!(!std::path::Path::new("/dev/shm/wharf-test").exists());
    assert_eq!(stack.sh("tmpfs", "test -c /dev/null && test -e /dev/pts/ptmx && echo yes"), "yes");
}

/// `--wait` is for what stays up: what ends at once fails it, with a health check and without.
#[test]
fn waiting_fails_for_what_does_not_stay_up() {
    let stack = Stack::new("nothing");
    let check = "healthcheck: {test: [CMD, 'true'], interval: 1h}";
    let table = [
        ("command: [sh, -c, 'exit 3']", "container {name} exited (3)"),
        ("command: [sh, -c, 'sleep 0.2; exit 0']", "container {name} exited (0)"),
        (&format!("command: [sh, -c, 'exit 3'], {check}"), "container {name} exited (3)"),
    ];
    for (attributes, said) in table {
        stack.write("compose.yaml", &format!("services: {{once: {{image: 'busybox:local', {attributes}}}}}"));
        let said = said.replace("{name}", &format!("{}-once-1", stack.project));
        stack.wharf(&["up", "--wait"]).fails(1, &[&said]);
        stack.wharf(&["down"]).ok();
    }
    stack.write("compose.yaml", "services: {stays: {image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL}}");
    let ran = stack.wharf(&["up", "--wait"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("  Started").count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("  Waiting") && ran.stderr.contains("  Healthy"), "{}", ran.stderr);
    let begun = std::time::Instant::now();
    stack.wharf(&["up", "--wait"]).ok();
    assert!(begun.elapsed().as_millis() < 450, "it has run for long enough: {:?}", begun.elapsed());
}

/// A command that has waited for too long leaves nothing behind that waits on.
#[test]
fn nobody_waits_after_a_wait_timeout() {
    let stack = Stack::new("nothing");
    let never = "healthcheck: {test: 'false', interval: 100ms, retries: 100000}, stop_signal: SIGKILL";
    stack.write("compose.yaml", &format!("services: {{never: {{image: 'busybox:local', command: sleep 1000, {never}}}}}"));
    for args in [&["up", "-d"][..], &["start"]] {
        let waiting = [args, &["--wait", "--wait-timeout", "1"]].concat();
        stack.wharf(&waiting).fails(1, &["application not healthy after 1s"]);
        // Another command's time, for the engine to see that the client has gone.
        stack.wharf(&["ps"]).ok();
        let next = stack.wharf(&["stop"]);
        assert!(next.code == 0 && !next.stderr.contains("goes first"), "{args:?}: {}", next.stderr);
    }
}
