//! Floods: what a container, a neighbour or a client sends without end takes neither the engine's descriptors nor its memory, and
//! commands are answered meanwhile.

use super::APP;
use crate::support::{Stack, eventually, inside, question};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The engine's limit of open files in these tests: small, so that little is needed to reach it.
const OPEN_FILES: usize = 1024;
/// A debug build's own pages are half of it.
const MOST_MEMORY: u64 = 120 << 20;

/// Brings the stack up with an engine of few descriptors. The limits of the engine's parts follow from it.
fn up_with_few_descriptors(stack: &Stack, yaml: &str) {
    stack.write("compose.yaml", yaml);
    stack.wharf(&["engine", "stop"]).ok();
    let up = stack.command(&["up", "-d"]);
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={OPEN_FILES}:{OPEN_FILES}")).arg(up.get_program()).args(up.get_args());
    for (key, value) in up.get_envs() {
        limited.env(key, value.unwrap_or_default());
    }
    let up = limited.current_dir(stack.path(".")).stdin(Stdio::null()).output().expect("up");
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
}

/// Commands are answered at once, and the engine has stayed small.
fn answers(stack: &Stack, during: &str) {
    let begun = Instant::now();
    stack.wharf(&["container", "ls"]).ok();
    let listed = begun.elapsed();
    stack.wharf(&["exec", "-T", "app", "true"]).ok();
    let engine = stack.engine_pid().expect("engine");
    let memory = peak_memory(engine);
    let open = std::fs::read_dir(format!("/proc/{engine}/fd")).expect("fd").count();
    println!("{during}: ls {listed:?}, VmHWM {} MiB, {open} descriptors", memory >> 20);
    assert!(listed < Duration::from_secs(1), "{during}: `container ls` took {listed:?}");
    assert!(memory < MOST_MEMORY, "{during}: the engine took {memory} bytes");
    assert!(open < OPEN_FILES * 3 / 4, "{during}: the engine has {open} descriptors open");
}

fn peak_memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("number") << 10
}

/// Connections that are begun; each hundred has a moment to be taken, since only so many wait for a listener.
fn connections(to: SocketAddr, number: usize) -> Vec<socket2::Socket> {
    const AT_ONCE: usize = 100;
    let connect = || {
        let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM.nonblocking(), None).ok()?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => None,
            _ => Some(socket),
        }
    };
    let mut all = Vec::new();
    while all.len() < number {
        let some: Vec<_> = (0..AT_ONCE).filter_map(|_| connect()).collect();
        assert!(!some.is_empty(), "no connection can be begun");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(200) && some.iter().any(|socket| socket.peer_addr().is_err()) {
            std::thread::yield_now();
        }
        all.extend(some);
    }
    all
}

/// A number of the test's own, for its subnet.
fn unique(stack: &Stack) -> u32 {
    stack.project.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 250
}

fn resolver() -> SocketAddr {
    "127.0.0.11:53".parse().expect("address")
}

#[test]
fn connections_to_a_published_port_leave_descriptors_to_others() {
    let stack = Stack::new("nothing");
    let unique = unique(&stack);
    let web = "mkdir /www; echo six > /www/index.html; exec httpd -f -p 80 -h /www";
    let web = format!("image: 'busybox:local', command: [sh, -c, '{web}'], stop_signal: SIGKILL, ports: ['80']");
    up_with_few_descriptors(
        &stack,
        &format!(
            "services:\n  app: {{{APP}, dns: 10.216.{unique}.9}}\n  names: {{{APP}, networks: {{default: {{ipv4_address: 10.216.{unique}.9}}}}}}\n  web: {{{web}}}\n  another: {{{web}}}\nnetworks: {{default: {{ipam: {{config: [{{subnet: 10.216.{unique}.0/24}}]}}}}}}\n"
        ),
    );
    let port = |service: &str| -> u16 {
        let text = stack.wharf(&["port", service, "80"]).ok();
        text.trim().rsplit(':').next().expect("port").parse().expect("number")
    };
    let (port, another) = (port("web"), port("another"));
    let get = |port: u16| {
        let url = format!("http://[::1]:{port}/");
        let out = Command::new("curl").args(["-sg", "--max-time", "2", &url]).output().expect("curl");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    eventually("the port answers", 20, || get(port) == "six\n");
    let names = inside(&stack, "names", || UdpSocket::bind("0.0.0.0:53").expect("bind"));
    names.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = names.recv_from(&mut buffer) {
            // The question with the bit of an answer.
            buffer[2] |= 0x80;
            names.send_to(&buffer[..length], from).expect("answer");
        }
    });
    let held = connections(format!("[::1]:{port}").parse().expect("address"), 1100);
    assert!(held.len() > 1000, "{} connections", held.len());
    answers(&stack, "connections to a published port");
    // They have a share: other ports are led on, and names outside are asked for.
    eventually("another port answers", 10, || get(another) == "six\n");
    let code = inside(&stack, "app", || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        socket.send_to(&question(9, "example.org"), resolver()).expect("ask");
        let mut buffer = [0; 512];
        socket.recv(&mut buffer).expect("answer");
        buffer[3] & 0xf
    });
    assert_eq!(code, 0, "no error");
    drop(held);
    eventually("the port answers again", 20, || get(port) == "six\n");
}

#[test]
fn connections_to_the_resolver_leave_descriptors_to_others() {
    let stack = Stack::new("nothing");
    up_with_few_descriptors(&stack, &format!("services: {{app: {{{APP}}}, bad: {{{APP}}}}}"));
    let held = inside(&stack, "bad", || connections(resolver(), 1100));
    assert!(held.len() > 1000, "{} connections", held.len());
    answers(&stack, "TCP connections to the resolver");
    // Others are answered by TCP as well.
    let answered = inside(&stack, "app", || {
        let mut stream = TcpStream::connect(resolver()).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        let question = question(7, "bad");
        stream.write_all(&[&(question.len() as u16).to_be_bytes()[..], &question].concat()).expect("ask");
        let mut answer = [0; 14];
        stream.read_exact(&mut answer).expect("answer");
        (answer[2..4].to_vec(), answer[9])
    });
    assert_eq!(answered, (vec![0, 7], 1), "one answer to the question");
    drop(held);
}

#[test]
fn questions_to_a_silent_resolver_are_bounded() {
    let stack = Stack::new("nothing");
    let unique = unique(&stack);
    up_with_few_descriptors(
        &stack,
        &format!(
            "services:\n  app: {{{APP}}}\n  silent: {{{APP}, networks: {{default: {{ipv4_address: 10.215.{unique}.9}}}}}}\n  bad: {{{APP}, dns: 10.215.{unique}.9}}\nnetworks: {{default: {{ipam: {{config: [{{subnet: 10.215.{unique}.0/24}}]}}}}}}\n"
        ),
    );
    // It takes questions and says nothing.
    let silent = inside(&stack, "silent", || UdpSocket::bind("0.0.0.0:53").expect("bind"));
    let (refused, asked) = inside(&stack, "bad", || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.set_nonblocking(true).expect("nonblocking");
        let mut buffer = [0; 512];
        let mut refused = 0;
        for n in 0..60_000u32 {
            while socket.send_to(&question(n as u16, &format!("n{n}.example.org")), resolver()).is_err() {
                std::thread::yield_now();
            }
            while let Ok(12..) = socket.recv(&mut buffer) {
                refused += usize::from(buffer[3] & 0xf == 5);
            }
        }
        (refused, socket)
    });
    assert!(refused > 1000, "{refused} questions were refused");
    answers(&stack, "questions to a silent resolver");
    // Names of the network are answered all the while.
    inside(&stack, "bad", move || {
        asked.set_nonblocking(false).expect("blocking");
        asked.set_read_timeout(Some(Duration::from_secs(1))).expect("timeout");
        // The flood may have left either end's buffer full: a question or an answer is lost then, and asked again as by libc.
        let is_answered = |_| {
            asked.send_to(&question(0xabcd, "app"), resolver()).expect("ask");
            let mut buffer = [0; 512];
            while let Ok(length) = asked.recv(&mut buffer) {
                if length >= 12 && buffer[..2] == [0xab, 0xcd] && buffer[7] == 1 {
                    return true;
                }
            }
            false
        };
        assert!((0..5).any(is_answered), "a name of the network is not answered");
        // One more waits when the container ends.
        asked.send_to(&question(1, "example.org"), resolver()).expect("ask");
    });
    // Its interface's other end, by number, goes with the namespace, for which no socket of the resolver stays.
    let other_end = stack.sh("bad", "cat /sys/class/net/eth0/iflink");
    let is_there = || {
        let interfaces = std::fs::read_dir("/sys/class/net").expect("interfaces").flatten();
        let numbers = interfaces.filter_map(|interface| std::fs::read_to_string(interface.path().join("ifindex")).ok());
        numbers.into_iter().any(|number| number.trim() == other_end.trim())
    };
    assert!(is_there());
    stack.wharf(&["stop", "bad"]).ok();
    eventually("the interface goes with the container", 2, || !is_there());
    drop(silent);
}

/// A request to the engine's socket, as it is; the connection stays open.
fn ask(stack: &Stack, text: &str) -> UnixStream {
    let mut stream = UnixStream::connect(stack.run_root().join("engine.sock")).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    // The engine may answer, and close, before it has read everything.
    match stream.write_all(text.as_bytes()) {
        Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => panic!("{error}"),
        _ => stream,
    }
}

/// The status of an answer.
fn status(mut stream: &UnixStream) -> String {
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("answer");
    String::from_utf8_lossy(&head[9..]).into_owned()
}

#[test]
fn clients_of_the_api_keep_each_other_out_of_nothing() {
    let stack = Stack::new("nothing");
    up_with_few_descriptors(&stack, &format!("services: {{app: {{{APP}}}}}"));
    // Idle ones, and ones that never end their head.
    let idle: Vec<_> =
        (0..1500).map(|n| ask(&stack, if n % 2 == 0 { "" } else { "GET /_ping HTTP/1.1\r\nHost: x\r\nX" })).collect();
    answers(&stack, "idle connections");
    drop(idle);
    // Followers: some of them are refused, in words.
    let events = "GET /events HTTP/1.1\r\nHost: x\r\n\r\n";
    let followers: Vec<_> = (0..200).map(|_| ask(&stack, events)).collect();
    answers(&stack, "followers");
    let refused = followers.iter().filter(|stream| status(stream) == "503").count();
    // A quarter of the limit is the API's, half of that for those who follow.
    assert_eq!(refused, 200 - OPEN_FILES / 8);
    drop(followers);
    eventually("others may follow now", 10, || status(&ask(&stack, events)) == "200");
    // Where all connections are busy, the next client is told so.
    let unfinished = "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n";
    let ping = "GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut busy = Vec::new();
    eventually("all connections are busy", 10, || {
        while busy.len() < OPEN_FILES / 4 {
            let stream = ask(&stack, unfinished);
            // The engine waits for the body now.
            if status(&stream) != "100" {
                return false;
            }
            busy.push(stream);
        }
        true
    });
    assert_eq!(status(&ask(&stack, ping)), "503");
    drop(busy);
    eventually("others are answered again", 10, || status(&ask(&stack, ping)) == "200");
    // What is too large is refused, with the status that says so.
    let head = format!("GET /_ping HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(200_000));
    assert_eq!(status(&ask(&stack, &head)), "431");
    let body = "[".repeat(2 << 20);
    for path in ["containers/create", "networks/create", "volumes/create", "auth"] {
        let request = format!("POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        assert_eq!(status(&ask(&stack, &request)), "413", "{path}");
    }
    let deep = "[".repeat(100_000);
    let request = format!("POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{deep}", deep.len());
    assert_eq!(status(&ask(&stack, &request)), "400");
    answers(&stack, "large requests");
}

#[test]
fn a_client_that_does_not_read_its_logs_is_not_waited_for_with_memory() {
    let stack = Stack::new("nothing");
    up_with_few_descriptors(
        &stack,
        &format!(
            "services:\n  app: {{{APP}}}\n  loud: {{image: 'busybox:local', command: [sh, -c, 'seq 1 3000000; exec sleep 1000'], stop_signal: SIGKILL}}\n"
        ),
    );
    let id = stack.id("loud");
    let logs = format!("GET /containers/{id}/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    let attach = format!(
        "POST /containers/{id}/attach?stream=1&stdout=1&logs=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    );
    let slow: Vec<_> = (0..120).map(|n| ask(&stack, if n % 2 == 0 { &logs } else { &attach })).collect();
    eventually("the container has written everything", 60, || {
        stack.wharf(&["container", "logs", "--tail", "1", &id]).stdout.trim() == "3000000"
    });
    answers(&stack, "slow readers of logs");
    // One who reads gets everything.
    let all = stack.wharf(&["container", "logs", &id]).ok();
    assert_eq!((all.lines().count(), all.lines().last()), (3_000_000, Some("3000000")));
    drop(slow);
}

#[test]
fn what_checks_and_hooks_say_is_bounded() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        "services:
  app:
    image: busybox:local
    command: sleep 1000
    stop_signal: SIGKILL
    healthcheck: {test: 'dd if=/dev/zero bs=100k count=5 2>/dev/null | tr \"\\\\0\" x >&2; echo out', interval: 100ms, timeout: 20s, retries: 1}
  endless:
    image: busybox:local
    command: sleep 1000
    stop_signal: SIGKILL
    healthcheck: {test: 'yes', interval: 100ms, timeout: 4s, retries: 1}
  background:
    image: busybox:local
    command: sleep 1000
    stop_signal: SIGKILL
    healthcheck: {test: 'sleep 100 & echo left something behind', interval: 100ms, timeout: 10s, retries: 1}
",
    );
    stack.wharf(&["up", "-d"]).ok();
    let health = |service: &str| {
        let text = stack.wharf(&["container", "inspect", &format!("{}-{service}-1", stack.project)]).ok();
        let known: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        known[0]["State"]["Health"].clone()
    };
    eventually("a check that says much is good", 20, || health("app")["Status"] == "healthy");
    let output = health("app")["Log"][0]["Output"].as_str().expect("output").to_string();
    assert_eq!((output.len(), output.ends_with("x...")), (4099, true), "Docker keeps 4096 bytes");
    eventually("the exit of the command is its end", 5, || health("background")["Status"] == "healthy");
    answers(&stack, "a check without end");
    eventually("a check without end is bad", 20, || health("endless")["Status"] == "unhealthy");
    answers(&stack, "a check without end, ended");
    // A hook without newline, of 50 MB, that fails.
    stack.write(
        "compose.yaml",
        "services:
  app: {image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL}
  hooked:
    image: busybox:local
    command: sleep 1000
    stop_signal: SIGKILL
    post_start: [{command: [sh, -c, 'dd if=/dev/zero bs=1M count=50 2>/dev/null | tr \"\\\\0\" x; echo the end; exit 3']}]
",
    );
    let failed = stack.wharf(&["up", "-d", "--remove-orphans"]).fails(1, &["exited with status 3", "the end"]);
    assert!(failed.stderr.len() < 10_000, "{} bytes of a hook's output", failed.stderr.len());
    stack.write(
        "compose.yaml",
        "services:
  app: {image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL}
  hooked:
    image: busybox:local
    command: sleep 1000
    stop_signal: SIGKILL
    pre_start: [{command: [sh, -c, 'dd if=/dev/zero bs=1M count=20 2>/dev/null | tr \"\\\\0\" x; exit 3']}]
",
    );
    let failed = stack.wharf(&["up", "-d"]).fails(1, &["exited with code 3", "xxx"]);
    assert!(failed.stderr.len() < 10_000, "{} bytes of a hook's output", failed.stderr.len());
    answers(&stack, "output of hooks");
}

/// A reader that leaves ends a command by SIGPIPE, silently; a container's processes do not inherit that wharf ignores it.
#[test]
fn a_reader_that_leaves_ends_a_command() {
    use std::os::unix::process::ExitStatusExt;
    let stack = Stack::new("nothing");
    let labels: String = (0..5000).map(|n| format!("      label{n}: a value that is printed\n")).collect();
    let services = format!("  never:\n    image: busybox:local\n    profiles: [never]\n    labels:\n{labels}");
    let signals = "grep SigIgn /proc/self/status";
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  app: {{{APP}, healthcheck: {{test: '{signals}', interval: 100ms}}}}\n  main: {{image: 'busybox:local', command: [sh, -c, 'seq 1 200000; {signals}']}}\n  by_runc: {{image: 'busybox:local', command: [sh, -c, '{signals}'], runtime: runc}}\n{services}"
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["wait", "main", "by_runc"]);
    for args in [
        &["--profile", "never", "config"][..],
        &["logs", "main"],
        &["container", "logs", &stack.id("main")],
        &["container", "export", &stack.id("app")],
    ] {
        let mut child = stack.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
        let mut first = [0; 1];
        child.stdout.as_mut().expect("stdout").read_exact(&mut first).expect("output");
        drop(child.stdout.take());
        let ended = child.wait_with_output().expect("wait");
        assert_eq!(
            (ended.status.signal(), String::from_utf8_lossy(&ended.stderr).as_ref()),
            (Some(libc::SIGPIPE), ""),
            "{args:?}"
        );
    }
    let ignores_sigpipe = |text: &str| {
        let line = text.lines().find_map(|line| line.split("SigIgn:").nth(1)).unwrap_or_else(|| panic!("no SigIgn in {text}"));
        let set = line.trim_start_matches("\\t").split('\\').next().expect("set").trim();
        u64::from_str_radix(set, 16).expect("set of signals") & 1 << (libc::SIGPIPE - 1) != 0
    };
    assert!(!ignores_sigpipe(&stack.sh("app", signals)), "exec");
    for service in ["main", "by_runc"] {
        let logs = stack.wharf(&["logs", "--tail", "1", "--no-log-prefix", service]).ok();
        assert!(!ignores_sigpipe(&logs), "{service}");
    }
    let inspect = || stack.wharf(&["container", "inspect", &format!("{}-app-1", stack.project)]).stdout;
    eventually("a check has run", 10, || inspect().contains("SigIgn:"));
    assert!(!ignores_sigpipe(&inspect()), "a health check");
}

/// The kernel's answers to a large change did not fit into the socket's buffer: whoever waited for the lost ones held the firewall's
/// lock for ever.
#[test]
fn thousands_of_ports_hold_up_nobody() {
    let stack = Stack::new("nothing");
    let ports = "command: sleep 1000, stop_signal: SIGKILL, ports: ['127.0.0.1:10000-13999:1-4000']";
    stack.write("compose.yaml", &format!("services: {{many: {{image: 'busybox:local', {ports}}}}}"));
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.wharf(&["container", "run", "--rm", "busybox:local", "echo", "runs"]).ok(), "runs\n");
    assert_eq!(stack.wharf(&["port", "many", "4000"]).ok(), "127.0.0.1:13999\n");
    let begun = std::time::Instant::now();
    stack.wharf(&["down"]).ok();
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

/// Clients that ask for archives and do not read them: each has a thread, and there is a last one.
#[test]
fn clients_that_do_not_read_archives_keep_nobody_waiting() {
    let stack = Stack::new("nothing");
    up_with_few_descriptors(&stack, &format!("services: {{app: {{{APP}}}}}"));
    stack.sh("app", "head -c 30000000 /dev/zero > /root/large");
    let id = stack.id("app");
    let paths =
        [format!("containers/{id}/export"), format!("containers/{id}/archive?path=/root"), "images/busybox:local/get".into()];
    let slow: Vec<_> = (0..180).map(|n| ask(&stack, &format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", paths[n % 3]))).collect();
    let refused = slow.iter().filter(|stream| status(stream) == "503").count();
    assert_eq!(refused, 180 - 64);
    answers(&stack, "slow readers of archives");
    stack.wharf(&["cp", "app:/etc/passwd", "."]).fails(1, &["64 archives are being read or written", "try again"]);
    drop(slow);
    eventually("archives are read again", 10, || stack.wharf(&["cp", "app:/etc/passwd", "."]).code == 0);
}

/// Large bodies of JSON, many at once: each is read, since none holds a part of the room and waits for the rest of it.
#[test]
fn large_requests_at_once_are_bounded() {
    let stack = Stack::new("nothing");
    up_with_few_descriptors(&stack, &format!("services: {{app: {{{APP}}}}}"));
    let labels: Vec<String> = (0..40_000).map(|n| format!("\"label-{n}\": \"{}\"", n % 10)).collect();
    let body = format!("{{\"Image\": \"busybox:local\", \"Name\": 1, \"Labels\": {{{}}}}}", labels.join(","));
    let bytes = body.len();
    assert!(bytes < 1 << 20, "{bytes}");
    let before = peak_memory(stack.engine_pid().expect("engine"));
    // In one piece of which the length is said, or in chunks that may go on.
    let declared = format!("Content-Length: {bytes}\r\n\r\n{body}");
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{bytes:x}\r\n{body}\r\n0\r\n\r\n");
    std::thread::scope(|scope| {
        let all: Vec<_> = [&declared, &chunked]
            .repeat(30)
            .into_iter()
            .map(|body| {
                let stack = &stack;
                scope.spawn(move || {
                    let mut stream =
                        ask(stack, &format!("POST /volumes/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{body}"));
                    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).expect("answer");
                    answer
                })
            })
            .collect();
        for one in all {
            let answer = one.join().expect("client");
            assert!(answer.contains("invalid request body: Name: invalid type: integer"), "it was read: {answer}");
        }
    });
    answers(&stack, "large requests at once");
    let after = peak_memory(stack.engine_pid().expect("engine"));
    assert!(after - before < 50 << 20, "{before} bytes before, {after} with requests of 60 MB");
}

/// Requests whose bodies never come whole: their bytes are bounded together, and requests without one are answered.
#[test]
fn bodies_that_do_not_come_take_a_bounded_part_of_the_memory() {
    let stack = Stack::new("nothing");
    up_with_few_descriptors(&stack, &format!("services: {{app: {{{APP}}}}}"));
    let before = peak_memory(stack.engine_pid().expect("engine"));
    let half = |_| {
        let mut client = UnixStream::connect(stack.run_root().join("engine.sock")).expect("connected");
        client.set_write_timeout(Some(Duration::from_millis(20))).expect("timeout");
        let head = "POST /containers/create HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n";
        // What the engine does not read stays in the socket.
        let _ = client.write_all(head.as_bytes()).and_then(|()| client.write_all(&[b' '; 900_000]));
        client
    };
    let clients: Vec<UnixStream> = (0..100).map(half).collect();
    answers(&stack, "100 bodies of 900 KB");
    let after = peak_memory(stack.engine_pid().expect("engine"));
    assert!(after - before < 50 << 20, "{before} bytes before, {after} with bodies of 90 MB");
    drop(clients);
}

/// A few clients that send a part of their bodies and stand still: who waits for their room has it within seconds.
#[test]
fn bodies_that_stand_still_give_way() {
    let stack = Stack::new("nothing");
    up_with_few_descriptors(&stack, &format!("services: {{app: {{{APP}}}}}"));
    let stalled = |head: &str| {
        let mut client = UnixStream::connect(stack.run_root().join("engine.sock")).expect("connected");
        client.write_all(format!("POST /projects/x/up HTTP/1.1\r\nHost: docker\r\n{head}").as_bytes()).expect("sent");
        client.write_all(&[b' '; 20_000]).expect("sent");
        client
    };
    let heads = ["Content-Length: 16777216\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nFFFFF\r\n"];
    let all: Vec<UnixStream> = heads.repeat(10).into_iter().map(stalled).collect();
    let begun = Instant::now();
    let labels: Vec<String> = (0..2000).map(|n| format!("\"label-{n}\": \"{n}\"")).collect();
    let body = format!("{{\"Name\": 1, \"Labels\": {{{}}}}}", labels.join(","));
    // Those of another kind do not wait, and another project waits until they have stood still for five seconds.
    for (path, longest) in [("/volumes/create", 4), ("/projects/x/up", 15)] {
        let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let honest = ask(&stack, &request);
        honest.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        assert_eq!(status(&honest), "400");
        assert!(begun.elapsed() < Duration::from_secs(longest), "{path}: {:?}", begun.elapsed());
    }
    for mut client in all {
        client.set_read_timeout(Some(Duration::from_secs(15))).expect("timeout");
        let mut said = [0; 4096];
        let n = client.read(&mut said).expect("an answer");
        let said = String::from_utf8_lossy(&said[..n]);
        assert!(said.contains("the request's body does not come"), "{said}");
    }
}
