//! Stacks on real containers. Each scenario is a directory in `tests/scenarios` with a compose.yaml that runs by itself,
//! and a test here: what is done to it, and what must be seen.

use crate::support::{Stack, eventually, sleeping};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

fn http_get(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn published(stack: &Stack, service: &str, ip: &str) -> u16 {
    let publishers = stack.container(service)["Publishers"].clone();
    let port = publishers.as_array().expect("list").iter().find(|p| p["URL"] == ip).expect("published")["PublishedPort"].as_u64();
    port.expect("number") as u16
}

#[test]
fn names_resolve_and_follow_a_restarted_container() {
    let stack = Stack::new("names");
    stack.wharf(&["up", "-d"]).ok();
    let id = stack.id("web");
    let container = format!("{}-web-1", stack.project);
    for name in ["web", "www", "WEB", &container, &id[..12]] {
        eventually(&format!("{name} answers"), 5, || {
            let got = stack.wharf(&["exec", "-T", "client", "wget", "-qO-", &format!("http://{name}/index.html")]);
            got.stdout.trim() == &id[..12]
        });
    }
    let question = |kind: &str| stack.wharf(&["exec", "-T", "client", "nslookup", &format!("-type={kind}"), "web"]);
    let empty = question("aaaa");
    assert!(!empty.stdout.contains("NXDOMAIN") && !empty.stderr.contains("NXDOMAIN"), "AAAA must be empty: {empty:?}");
    let address = stack.sh("web", "ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1");
    let back = stack.wharf(&["exec", "-T", "client", "nslookup", &address]).ok();
    assert!(back.contains(&container), "PTR: {back}");
    stack.wharf(&["restart", "web"]).ok();
    eventually("web answers after a restart", 5, || {
        stack.wharf(&["exec", "-T", "client", "wget", "-qO-", "http://web/index.html"]).code == 0
    });
    stack.wharf(&["stop", "web"]).ok();
    assert_ne!(stack.wharf(&["exec", "-T", "client", "nslookup", "web"]).code, 0, "a stopped container has no name");
}

#[test]
fn published_ports_answer_on_every_address() {
    let stack = Stack::new("ports");
    stack.compile("udp_echo");
    stack.wharf(&["up", "-d"]).ok();
    let (local, any) = (published(&stack, "web", "127.0.0.1"), published(&stack, "web", "0.0.0.0"));
    let mut last = String::new();
    eventually("the server answers", 20, || {
        let answer = format!("{:?}", http_get(&format!("127.0.0.1:{any}")));
        if answer != last {
            eprintln!("127.0.0.1:{any} says {answer}");
        }
        last = answer;
        last.contains("published")
    });
    assert!(http_get(&format!("127.0.0.1:{local}")).expect("answer").contains("published"));
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        assert!(http_get(&format!("[::1]:{any}")).expect("answer on IPv6").contains("published"));
        assert!(http_get(&format!("[::1]:{local}")).is_err(), "127.0.0.1 is not ::1");
        stack.wharf(&["engine", "stop"]).ok();
        stack.wharf(&["ps"]).ok();
        assert!(http_get(&format!("[::1]:{any}")).expect("answer after another engine has come").contains("published"));
    }
    let bridge = stack.sh("echo", "ip route | awk '/default/ {print $3}'");
    assert!(http_get(&format!("{bridge}:{any}")).expect("answer on the host's address").contains("published"));
    // A container reaches the published port by the host's address, its own network included.
    let got = stack.wharf(&["exec", "-T", "echo", "timeout", "3", "wget", "-qO-", &format!("http://{bridge}:{any}/index.html")]);
    assert_eq!(got.ok().trim(), "published");
    let udp = published(&stack, "echo", "0.0.0.0");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
    eventually("the echo answers", 5, || {
        let mut buffer = [0; 16];
        socket.send_to(b"hello", ("127.0.0.1", udp)).is_ok() && socket.recv(&mut buffer).is_ok_and(|n| &buffer[..n] == b"hello")
    });
    // By IPv6 the engine leads it on; each sender has answers of its own, from the address that was asked.
    if UdpSocket::bind("[::1]:0").is_ok() {
        let senders = [(); 2].map(|()| UdpSocket::bind("[::1]:0").expect("socket"));
        for engines in 0..2 {
            for (n, sender) in senders.iter().enumerate() {
                sender.connect(("::1", udp)).expect("connect");
                sender.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
                let word = format!("hello {engines} {n}");
                eventually("the echo answers by IPv6", 5, || {
                    let mut buffer = [0; 16];
                    // What an earlier try has sent may be answered late: to the same sender, and never to the other.
                    sender.send(word.as_bytes()).is_ok()
                        && sender.recv(&mut buffer).is_ok_and(|len| &buffer[..len] == word.as_bytes())
                });
            }
            stack.wharf(&["engine", "stop"]).ok();
            stack.wharf(&["restart", "-t", "0", "echo"]).ok();
            assert_eq!(published(&stack, "echo", "::"), udp, "the port is free at once, and taken again");
        }
    }
    // The host's own services on loopback are not the containers'.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
    let port = listener.local_addr().expect("address").port();
    let reach = stack.wharf(&["exec", "-T", "echo", "nc", "-w", "1", &bridge, &port.to_string()]);
    assert_ne!(reach.code, 0);
}

#[test]
fn a_port_that_is_taken_names_its_owner() {
    let stack = Stack::new("ports");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
    let port = listener.local_addr().expect("address").port();
    stack.write(
        "compose.yaml",
        &format!("services: {{web: {{image: 'busybox:local', command: sleep 9, ports: ['127.0.0.1:{port}:80']}}}}"),
    );
    let own =
        std::env::current_exe().expect("exe").file_name().expect("name").to_string_lossy().chars().take(15).collect::<String>();
    stack.wharf(&["up", "-d"]).fails(1, &[&port.to_string(), "in use by the process", &own, "choose another host port"]);
    assert_eq!(stack.state("web"), "created", "nothing half started");
    drop(listener);
    stack.wharf(&["up", "-d"]).ok();
    stack.write("compose.yaml", &format!("services: {{other: {{image: 'busybox:local', command: sleep 9, ports: ['127.0.0.1:{port}:80']}}, web: {{image: 'busybox:local', command: sleep 9, stop_signal: SIGKILL, ports: ['127.0.0.1:{port}:80']}}}}"));
    stack.wharf(&["up", "-d", "--no-recreate"]).fails(1, &["-web-1 (service `web` of the project"]);
}

#[test]
fn data_in_a_named_volume_outlives_down() {
    let stack = Stack::new("volumes");
    std::fs::create_dir(stack.path("conf")).expect("directory");
    stack.write("conf/app.conf", "from the host");
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.sh("db", "echo kept > /var/lib/data/file; cat /conf/app.conf"), "from the host");
    assert!(stack.wharf(&["exec", "-T", "db", "sh", "-c", "echo x > /conf/new"]).fails(1, &["Read-only"]).stdout.is_empty());
    assert!(stack.sh("db", "mount | grep /mem").contains("size=1024k"));
    stack.wharf(&["down"]).ok();
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.sh("db", "cat /var/lib/data/file"), "kept");
    stack.wharf(&["down", "-v"]).ok();
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.sh("db", "ls /var/lib/data"), "");
}

#[test]
fn a_new_volume_takes_the_images_content() {
    let stack = Stack::new("volumes");
    stack.write("compose.yaml", "services: {c: {image: 'busybox:local', command: sleep 99, stop_signal: SIGKILL, volumes: ['etc:/etc', 'tmp:/tmp', {type: volume, source: none, target: /home, volume: {nocopy: true}}]}}\nvolumes: {etc: {}, tmp: {}, none: {}}");
    stack.wharf(&["up", "-d"]).ok();
    assert!(stack.sh("c", "cat /etc/passwd").contains("app:x:1000"));
    assert_eq!(stack.sh("c", "stat -c %a /tmp"), "1777", "mode and owner come along");
    stack.sh("c", "echo changed > /etc/passwd");
    stack.wharf(&["up", "-d", "--force-recreate"]).ok();
    assert_eq!(stack.sh("c", "cat /etc/passwd"), "changed", "a volume that holds something is left alone");
}

#[test]
fn services_start_in_the_order_of_health() {
    let stack = Stack::new("health");
    stack.wharf(&["up", "-d"]).ok();
    let db = stack.container("db");
    assert_eq!(db["Health"], "healthy");
    assert_eq!(stack.container("migrate")["ExitCode"], 0);
    let started = |service: &str| stack.sh(service, "stat -c %Y.%y /proc/1 | cut -c1-50");
    assert!(stack.sh("db", "test -f /ready && echo yes") == "yes" && !started("web").is_empty());
    stack.write("compose.yaml", "services: {web: {image: 'busybox:local', command: sleep 9, depends_on: {job: {condition: service_completed_successfully}}}, job: {image: 'busybox:local', command: sh -c 'exit 4'}}");
    stack.wharf(&["up", "-d", "--remove-orphans"]).fails(1, &["didn't complete successfully: exit 4"]);
    assert_ne!(stack.state("web"), "running");
}

#[test]
fn unhealthy_is_said_with_the_checks_own_words() {
    let stack = Stack::new("health");
    stack.write("compose.yaml", "services: {c: {image: 'busybox:local', command: sleep 99, stop_signal: SIGKILL, healthcheck: {test: 'echo no database; exit 1', interval: 50ms, retries: 2}}}");
    stack.wharf(&["up", "-d", "--wait"]).fails(1, &["is unhealthy", "no database"]);
    let health = stack.container("c")["Health"].clone();
    assert_eq!(health, "unhealthy");
}

#[test]
fn restart_policies_are_dockers() {
    let stack = Stack::new("restart");
    stack.wharf(&["up", "-d"]).ok();
    eventually("on-failure:2 has given up", 10, || stack.state("twice") == "exited");
    let runs = stack.wharf(&["logs", "--no-log-prefix", "twice"]).ok();
    assert_eq!(runs.matches("run").count(), 3, "one start and two restarts");
    assert_eq!(stack.container("never")["ExitCode"], 3);
    assert_eq!(stack.state("fine"), "exited");
    let pid = |s: &Stack| s.sh("always", "cut -d' ' -f22 /proc/1/stat");
    let before = pid(&stack);
    let killed = Instant::now();
    // Process 1 of a pid namespace ignores its own SIGKILL: kill it from the host.
    let group = stack.group(&stack.id("always"), "pids");
    for pid in std::fs::read_to_string(group.join("cgroup.procs")).expect("its processes").lines() {
        let _ = std::process::Command::new("kill").args(["-9", pid]).status();
    }
    eventually("it runs again", 5, || {
        stack.state("always") == "running" && stack.wharf(&["exec", "-T", "always", "true"]).code == 0 && pid(&stack) != before
    });
    assert!(killed.elapsed() < Duration::from_secs(5));
    stack.wharf(&["stop", "always"]).ok();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(stack.state("always"), "exited", "what the user stops stays stopped");
}

#[test]
fn scaling_up_and_down() {
    let stack = Stack::new("scale");
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.ps().len(), 2);
    stack.wharf(&["up", "-d", "--scale", "web=4"]).ok();
    assert_eq!(stack.ps().len(), 4);
    let answers = stack.sh("web", "nslookup web | grep -c 'Address: [0-9]*\\.[0-9]*\\.'");
    assert_eq!(answers, "4", "every replica's address");
    stack.wharf(&["up", "-d", "--scale", "web=1"]).ok();
    let names: Vec<_> = stack.ps().iter().map(|c| c["Name"].clone()).collect();
    assert_eq!(names, [json!(format!("{}-web-1", stack.project))]);
}

#[test]
fn only_what_changed_is_recreated() {
    let stack = Stack::new("recreate");
    stack.wharf(&["up", "-d"]).ok();
    let (a, b) = (stack.id("a"), stack.id("b"));
    stack.sh("a", "echo precious > /keep/file");
    let plan = stack.wharf(&["plan"]).ok();
    assert!(plan.contains("nothing to do"), "{plan}");
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!((stack.id("a"), stack.id("b")), (a.clone(), b.clone()), "a second up changes nothing");
    stack.write(".env", "V=2\n");
    let plan = stack.wharf(&["plan"]).ok();
    assert!(plan.contains("recreate container") && plan.contains("its configuration has changed"), "{plan}");
    stack.wharf(&["up", "-d"]).ok();
    assert_ne!(stack.id("a"), a);
    assert_eq!(stack.id("b"), b);
    assert_eq!(stack.sh("a", "cat /keep/file; echo $V"), "precious\n2", "the anonymous volume survives");
    stack.write("compose.yaml", "services: {a: {image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL}}");
    let up = stack.wharf(&["up", "-d"]);
    assert!(up.stderr.contains(&format!("{}-b-1", stack.project)) && up.stderr.contains("--remove-orphans"), "{}", up.stderr);
    stack.wharf(&["up", "-d", "--remove-orphans"]).ok();
    assert_eq!(stack.ps().len(), 1);
}

#[test]
fn attributes_reach_the_container() {
    let stack = Stack::new("attributes");
    stack.write(".env", &format!("NAME={}-special\n", stack.project));
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.container("all")["Name"], format!("{}-special", stack.project));
    let sh = |script: &str| stack.sh("all", script);
    assert_eq!(sh("hostname; id -u; id -G; pwd"), "box\n1000\n1000 4\n/made/here");
    assert_eq!(sh("echo $A,$B,$C,$HOME"), "1,two words,from file,/home/app");
    assert_eq!(sh("cat /proc/1/comm"), "wharf-init");
    assert_eq!(sh("tr -d '\\0' < /proc/1/cmdline"), "wharf-init", "nothing of the host is in it");
    assert!(sh("touch /x 2>&1; true").contains("Read-only"));
    assert_eq!(sh("mount | grep -c ' on /etc/hosts .*(ro'"), "1", "as Docker has it in a read-only container");
    assert_eq!(sh("touch /run/x && echo writable"), "writable");
    assert_eq!(sh("ulimit -n; ulimit -Hn"), "100\n200");
    assert_eq!(sh("cat /proc/sys/net/core/somaxconn"), "77");
    assert_eq!(sh("grep -w other /etc/hosts | cut -f1"), "10.9.8.7");
    assert!(sh("grep -w gate /etc/hosts").starts_with("1"));
    assert!(sh("df -k /dev/shm | tail -1").contains("1024"));
    assert_eq!(sh("grep NoNewPrivs /proc/self/status | tr -d '\\t'"), "NoNewPrivs:1");
    let bounding = sh("grep CapBnd /proc/self/status | cut -f2");
    let bits = u64::from_str_radix(&bounding, 16).expect("hex");
    assert_eq!((bits >> 13 & 1, bits >> 23 & 1), (0, 1), "NET_RAW dropped, SYS_NICE added: {bounding}");
    assert_eq!(sh("cat /proc/self/oom_score_adj"), "100");
    let id = stack.id("all");
    let read = |controller: &str, v1: &str, v2: &str| {
        let group = stack.group(&id, controller);
        let text = std::fs::read_to_string(group.join(v1)).or_else(|_| std::fs::read_to_string(group.join(v2)));
        text.expect("limit").trim().to_string()
    };
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(read("pids", "pids.max", "pids.max"), "50");
    assert!(read("cpu", "cpu.cfs_quota_us", "cpu.max").starts_with("50000"));
    let address = |service: &str| stack.sh(service, "ip -4 -o addr show eth0 2>/dev/null | awk '{print $4}'");
    assert_eq!(address("named"), address("all"), "service:all shares the network");
    assert_eq!(stack.sh("alone", "ls /sys/class/net"), "lo");
    let links = std::fs::read_dir("/sys/class/net").expect("net").count();
    assert!(stack.sh("hosted", "ls /sys/class/net | wc -l").parse::<usize>().expect("number") >= links.min(2));
    let ours = std::fs::read_to_string("/proc/self/status").expect("status");
    let bounding = ours.lines().find_map(|l| l.strip_prefix("CapBnd:\t")).expect("CapBnd");
    assert_eq!(stack.sh("strong", "grep CapEff /proc/self/status | cut -f2"), bounding, "privileged has all that there is");
}

#[test]
fn a_container_sees_dockers_defaults() {
    let stack = Stack::new("defaults");
    stack.wharf(&["up", "-d"]).ok();
    let sh = |script: &str| stack.sh("c", script);
    assert_eq!(
        sh("grep -E 'Cap(Eff|Bnd)|Seccomp:' /proc/self/status | tr -d '\\t'"),
        "CapEff:00000000a80425fb\nCapBnd:00000000a80425fb\nSeccomp:2"
    );
    assert_eq!(sh("stat -c '%n %A %t:%T' /dev/null /dev/tty"), "/dev/null crw-rw-rw- 1:3\n/dev/tty crw-rw-rw- 5:0");
    assert_eq!(sh("cat /proc/keys | wc -c; ls /proc/acpi /sys/firmware 2>/dev/null | grep -vc :"), "0\n1");
    for refused in [
        "mount -t tmpfs x /mnt",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "mknod /tmp/b b 8 0 && head -c1 /tmp/b",
        "unshare -U true",
        "hostname x",
        "touch /sys/x",
    ] {
        assert_ne!(stack.wharf(&["exec", "-T", "c", "sh", "-c", refused]).code, 0, "{refused}");
    }
    assert_eq!(sh("hostname"), stack.id("c")[..12]);
    assert!(
        !sh("grep -v ' /etc/' /proc/self/mountinfo").contains("wharf-test"),
        "the host's paths are not told but for the files of /etc"
    );
    assert_eq!(sh("ls /proc/self/fd | wc -l"), "4");
}

#[test]
fn exec_passes_input_output_and_codes() {
    let stack = Stack::new("defaults");
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.wharf(&["exec", "-T", "c", "sh", "-c", "exit 42"]).code, 42);
    stack.wharf(&["exec", "-T", "c", "no-such-program"]).fails(127, &["no-such-program", "not found in $PATH"]);
    stack.wharf(&["exec", "-T", "c", "/etc/passwd"]).fails(126, &["permission denied"]);
    stack.wharf(&["exec", "-T", "cc", "true"]).fails(1, &["did you mean `c`?"]);
    let both = stack.wharf(&["exec", "-T", "c", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(
        stack.wharf(&["exec", "-T", "-u", "app", "-w", "/tmp", "-e", "X=5", "c", "sh", "-c", "id -un; pwd; echo $X"]).ok(),
        "app\n/tmp\n5\n"
    );
    let mut child = stack
        .command(&["exec", "-T", "c", "sh", "-c", "wc -c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("exec");
    let sent = vec![b'x'; 1_000_000];
    child.stdin.take().expect("stdin").write_all(&sent).expect("write");
    let output = child.wait_with_output().expect("output");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1000000");
}

#[test]
fn exec_gives_a_real_terminal() {
    let stack = Stack::new("defaults");
    stack.wharf(&["up", "-d"]).ok();
    let pty = nix::pty::openpty(&nix::pty::Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 }, None).expect("pty");
    let end = || Stdio::from(pty.slave.try_clone().expect("dup"));
    let mut child = stack
        .command(&["exec", "c", "sh", "-c", "tty; stty size; read x; echo got $x"])
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .expect("exec");
    drop(pty.slave);
    let mut master = std::fs::File::from(pty.master);
    master.write_all(b"typed\n").expect("type");
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = master.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..n]);
    }
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.contains("/dev/pts/") && seen.contains("33 99") && seen.contains("got typed"), "{seen}");
    assert!(child.wait().expect("exit").success());
}

#[test]
fn logs_lose_nothing() {
    let stack = Stack::new("logs");
    stack.wharf(&["up", "-d"]).ok();
    eventually("the writers have ended", 20, || stack.ps().iter().all(|c| c["State"] == "exited"));
    let all = stack.wharf(&["logs", "--no-log-prefix", "many"]).ok();
    let expected: String = (1..=100_000).map(|i| format!("{i}\n")).collect::<String>() + "tail-without-newline";
    assert!(all == expected, "{} bytes instead of {}", all.len(), expected.len());
    let tail = stack.wharf(&["logs", "--no-log-prefix", "--tail", "3", "many"]).ok();
    assert_eq!(tail, "99999\n100000\ntail-without-newline");
    let two = stack.wharf(&["logs", "--no-log-prefix", "two"]);
    assert_eq!((two.stdout.as_str(), two.stderr.as_str()), ("out\nerr\n", ""));
    assert!(stack.wharf(&["logs", "two"]).ok().contains("two-1  | out"));
    let stamped = stack.wharf(&["logs", "-t", "--no-log-prefix", "two"]).ok();
    assert!(stamped.starts_with("20") && stamped.contains('T') && stamped.contains("Z out"), "{stamped}");
    assert_eq!(stack.wharf(&["logs", "--since", "1ms", "two"]).ok(), "");
    let small = stack.wharf(&["logs", "--no-log-prefix", "small"]).ok();
    let lines: Vec<&str> = small.lines().collect();
    assert_eq!(lines.last(), Some(&"5000"));
    assert!(lines.len() < 1500, "three files of 10 kB are kept, not {} lines", lines.len());
}

#[test]
fn logs_follow_what_comes() {
    let stack = Stack::new("defaults");
    stack.write("compose.yaml", "services: {c: {image: 'busybox:local', command: 'sh -c \"echo first; read x </gate; echo second\"', stop_signal: SIGKILL, volumes: ['./gate:/gate']}}");
    nix::unistd::mkfifo(&stack.path("gate"), nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    stack.wharf(&["up", "-d"]).ok();
    let child = stack.command(&["logs", "-f", "--no-log-prefix"]).stdout(Stdio::piped()).spawn().expect("logs");
    std::fs::write(stack.path("gate"), "go\n").expect("open the gate");
    let output = child.wait_with_output().expect("logs ends with the last container");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "first\nsecond\n");
}

#[test]
fn up_in_the_foreground_stops_at_ctrl_c() {
    let stack = Stack::new("defaults");
    stack.write("compose.yaml", "services: {c: {image: 'busybox:local', command: 'sh -c \"trap \\\"echo bye; exit 0\\\" TERM; echo hello; while true; do sleep 0.05; done\"'}}");
    let mut child = stack.command(&["up"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("up");
    let mut shown = std::io::BufReader::new(child.stdout.take().expect("stdout"));
    let mut text = String::new();
    while !text.contains("hello") {
        let read = std::io::BufRead::read_line(&mut shown, &mut text).expect("output");
        assert!(read > 0, "up has ended without showing the log: {text}");
    }
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("Ctrl-C");
    shown.read_to_string(&mut text).expect("output");
    let output = child.wait_with_output().expect("up ends");
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(130), "{text}");
    for seen in ["c-1  | hello", "c-1  | bye", "Stopped"] {
        assert!(text.contains(seen), "no `{seen}` in: {text}");
    }
    assert_eq!(stack.state("c"), "exited");
    assert!(stack.wharf(&["logs"]).ok().contains("bye"), "the stop signal has arrived");
}

#[test]
fn the_engine_may_be_killed_at_any_time() {
    let stack = Stack::new("crash");
    stack.wharf(&["up", "-d"]).ok();
    let before = stack.engine_pid().expect("an engine");
    let ids: Vec<_> = stack.ps().iter().map(|c| c["ID"].clone()).collect();
    std::process::Command::new("kill").args(["-9", &before.to_string()]).status().expect("kill");
    let killed = Instant::now();
    eventually("another engine", 2, || stack.engine_pid().is_some_and(|pid| pid != before));
    eventually("the engine answers", 2, || stack.wharf(&["ps", "-q"]).code == 0);
    assert!(killed.elapsed() < Duration::from_secs(2), "back after {:?}", killed.elapsed());
    assert_eq!(stack.ps().iter().map(|c| c["ID"].clone()).collect::<Vec<_>>(), ids);
    eventually("the exit that happened meanwhile is known", 5, || stack.state("short") == "exited");
    assert_eq!(stack.container("short")["ExitCode"], 7);
    // Its back-off has an end, but `restarting` alone would not show that another start succeeds.
    let starts = |engine: &Stack| engine.wharf(&["logs", "--no-log-prefix", "again"]).ok().lines().count();
    let before = starts(&stack);
    eventually("restart policies go on", 20, || starts(&stack) > before);
    eventually("every line is there", 20, || {
        stack.wharf(&["logs", "--no-log-prefix", "writer"]).ok().matches("line 399\n").count() == 18
    });
    let all = stack.wharf(&["logs", "--no-log-prefix", "writer"]).ok();
    assert_eq!(all.lines().count(), 18 * 400);
    assert_eq!(stack.wharf(&["exec", "-T", "writer", "echo", "alive"]).ok(), "alive\n");
    assert_eq!(stack.sh("writer", "nslookup writer | grep -c 'Address: [0-9]*\\.'"), "18", "names are answered again");
}

#[test]
fn what_an_earlier_engine_ran_is_not_taken_for_ones_own() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{app: {{{}}}}}", sleeping("")));
    stack.wharf(&["up", "-d"]).ok();
    for _ in 0..4 {
        stack.wharf(&["exec", "-d", "app", "sleep", "2000"]).ok();
    }
    stack.wharf(&["engine", "stop"]).ok();
    let script = "until [ -e /go ]; do sleep 0.05; done; exit 7";
    let mut own: Vec<_> =
        (0..4).map(|_| stack.command(&["exec", "-T", "app", "sh", "-c", script]).spawn().expect("wharf")).collect();
    let count = |what: &str| stack.sh("app", &format!("ps -o args | grep -c '^{what}' || true"));
    eventually("they run", 20, || count("sh -c until") == "4");
    assert_eq!(count("sleep 2000"), "4");
    stack.sh("app", "kill $(ps -o pid,args | awk '/^ *[0-9]* sleep 2000/ { print $1 }')");
    eventually("the earlier ones are gone", 20, || count("sleep 2000") == "0");
    stack.sh("app", "touch /go");
    for exec in &mut own {
        assert_eq!(exec.wait().expect("wait").code(), Some(7));
    }
}

#[test]
fn what_a_terminal_says_is_logged_as_lines() {
    let stack = Stack::new("nothing");
    let script = "for i in 1 2 3; do echo line $$i; done; printf half; sleep 0.3; echo ' done'; echo error >&2; sleep 1000";
    stack.write(
        "compose.yaml",
        &format!(
            "services:
  terminal: {{image: 'busybox:local', tty: true, command: [sh, -c, \"{script}\"], stop_signal: SIGKILL}}
  plain: {{image: 'busybox:local', command: [sh, -c, \"{script}\"], stop_signal: SIGKILL}}
"
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    let logs = |args: &[&str]| stack.wharf(&[&["logs"], args].concat());
    let lines = ["line 1", "line 2", "line 3", "half done", "error"];
    let shown = |prefix: &str, end: &str, lines: &[&str]| lines.iter().map(|l| format!("{prefix}{l}{end}")).collect::<String>();
    let expected = shown("terminal-1  | ", "\r\n", &lines);
    eventually("everything is said", 20, || logs(&["terminal"]).stdout == expected);
    assert_eq!(logs(&["--no-log-prefix", "-n", "2", "terminal"]).stdout, shown("", "\r\n", &lines[3..]));
    let timed = logs(&["--no-log-prefix", "-t", "terminal"]).ok();
    for (line, expected) in timed.split("\r\n").zip(lines) {
        let (time, text) = line.split_once(' ').expect("a time");
        assert!(time.ends_with('Z') && text == expected, "{line}");
    }
    // What containers write to their standard error is on the standard output, where Docker Compose has it; not so with
    // `container logs`, nor with `docker logs`.
    eventually("everything is said", 20, || logs(&["plain"]).stdout == shown("plain-1  | ", "\n", &lines));
    assert_eq!(logs(&["--no-log-prefix", "plain"]).stdout, shown("", "\n", &lines));
    let own = stack.wharf(&["container", "logs", &format!("{}-plain-1", stack.project)]);
    assert_eq!((own.stdout, own.stderr), (shown("", "\n", &lines[..4]), "error\n".to_string()));
    // Whoever asks as Docker's clients do has the bytes alone, with times at the beginnings of lines.
    let get = |query: &str| {
        let url = format!("http://x/containers/{}-terminal-1/logs?stdout=1&stderr=1{query}", stack.project);
        let socket = stack.run_root().join("engine.sock");
        let out = std::process::Command::new("curl").args(["-s", "--unix-socket"]).arg(socket).arg(url).output().expect("curl");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert_eq!(get(""), shown("", "\r\n", &lines));
    assert_eq!(get("&timestamps=1"), timed);
}

#[test]
fn up_in_the_foreground_tells_who_ended_and_may_end_with_them() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        "services:
  one: {image: 'busybox:local', command: [sh, -c, 'echo out; echo err >&2; sleep 1.2; exit 3']}
  two: {image: 'busybox:local', command: [sh, -c, \"trap 'echo last words; exit 5' TERM; while :; do sleep 0.05; done\"]}
  fine: {image: 'busybox:local', command: sleep 0.2}
",
    );
    let up = |args: &[&str]| stack.wharf(&[&["up"], args].concat());
    let out = up(&["one", "fine"]).stdout;
    assert!(out.contains("one-1   | out\n") && out.ends_with("one-1 exited with code 3\n"), "{out}");
    assert!(out.contains("fine-1 exited with code 0\n"), "{out}");
    let failing = up(&["--abort-on-container-failure"]).fails(3, &["one-1   | err\n", "Aborting on container exit..."]);
    assert!(failing.stdout.contains("two-1   | last words\ntwo-1 exited with code 5\n"), "{}", failing.stdout);
    assert_eq!(stack.state("two"), "exited");
    assert_eq!(up(&["--abort-on-container-exit", "fine", "two"]).code, 0, "`fine` ends first");
    assert_eq!(up(&["--exit-code-from", "two", "--attach", "one"]).code, 5);
    up(&["--exit-code-from", "tow"]).fails(1, &["no such service: tow", "did you mean `two`?"]);
    let timed = up(&["--timestamps", "--no-log-prefix", "one"]).stdout;
    assert!(timed.starts_with("Attaching to one-1\n20") && timed.contains("Z out\n"), "{timed}");
}

#[test]
fn a_shutdown_stops_containers_as_they_want_and_the_next_engine_has_them_back() {
    let stack = Stack::new("nothing");
    let service = |signal: &str, rest: &str| {
        let script = format!("trap 'echo stopped by {signal}; exit 0' {signal}; echo started; while :; do sleep 0.1; done");
        format!("{{image: 'busybox:local', command: [sh, -c, \"{script}\"], stop_signal: SIG{signal}, {rest}}}")
    };
    let yaml = format!(
        "services:
  always: {}
  unless: {}
  failing: {}
  once: {}
  stopped: {}
",
        service("TERM", "restart: always"),
        service("USR1", "restart: unless-stopped"),
        service("HUP", "restart: on-failure"),
        service("INT", "init: true"),
        service("TERM", "restart: always"),
    );
    stack.write("compose.yaml", &yaml);
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["stop", "stopped"]).ok();
    let logs = |service: &str| stack.wharf(&["logs", "--no-log-prefix", service]).ok();
    for service in ["always", "unless", "failing", "once"] {
        eventually("it has begun", 20, || logs(service) == "started\n");
    }
    let pids = ["always", "unless", "once"].map(|service| stack.pid(&format!("{}-{service}-1", stack.project)));
    let engine = stack.engine_pid().expect("an engine");
    stack.wharf(&["engine", "stop", "--containers"]).ok();
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
    assert_ne!(stack.engine_pid(), Some(engine), "nobody has brought it back");
    eventually("they run again", 20, || ["always", "unless"].iter().all(|service| stack.state(service) == "running"));
    eventually("from the beginning", 20, || logs("always") == "started\nstopped by TERM\nstarted\n");
    eventually("each by its own signal", 20, || logs("unless") == "started\nstopped by USR1\nstarted\n");
    for (service, last) in [("failing", "stopped by HUP"), ("once", "stopped by INT"), ("stopped", "stopped by TERM")] {
        assert_eq!(stack.state(service), "exited", "{service}");
        assert_eq!(logs(service), format!("started\n{last}\n"));
    }
}

#[test]
fn networks_are_walls() {
    let stack = Stack::new("walls");
    stack.wharf(&["up", "-d"]).ok();
    let other = Stack::new("names");
    other.wharf(&["up", "-d"]).ok();
    let address = stack.sh("a", "ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1");
    let reach = |s: &Stack, service: &str, to: &str| {
        s.wharf(&["exec", "-T", service, "timeout", "1", "wget", "-qO-", &format!("http://{to}/index.html")]).code == 0
    };
    eventually("a answers its neighbour", 20, || reach(&stack, "c", "a"));
    assert!(!reach(&stack, "b", "a"), "b has no common network with a: no name");
    assert!(!reach(&stack, "b", &address), "and no way");
    assert!(!reach(&other, "client", &address), "another stack has none either");
    assert_eq!(stack.sh("b", "ip route | grep -c default || true"), "0", "an internal network leads nowhere");
}

#[test]
fn bad_files_change_nothing_and_say_where() {
    let stack = Stack::new("defaults");
    let table: &[(&str, &[&str])] = &[
        (
            "services:\n  web:\n    image: x\n    depend_on: [db]\n",
            &["compose.yaml:4:5", "depend_on", "did you mean `depends_on`?", "^^^^^^^^^"],
        ),
        ("services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [a]}\n", &["has a cycle", "a -> b -> a"]),
        ("services:\n  a: {image: x, restart: alway}\n", &["did you mean `always`?"]),
        ("services:\n  a: {image: x, ports: ['80:x']}\n", &["`80:x` is not a port mapping"]),
        ("services:\n  a: {image: x, networks: [frnt]}\nnetworks: {front: }\n", &["did you mean `front`?"]),
        ("services:\n  a: {image: '${MISSING:?say which}'}\n", &["say which"]),
        ("services:\n\ta: {}\n", &["not valid YAML"]),
        ("services: {a: {}}\n", &["neither an `image` nor a `build`"]),
    ];
    for (file, words) in table {
        stack.write("compose.yaml", file);
        stack.wharf(&["up", "-d"]).fails(1, words);
    }
    stack.write("compose.yaml", "services: {}");
    assert!(stack.ps().is_empty(), "nothing was changed");
    let build = "{context: ., dockerfile_inline: 'FROM busybox:local', isolation: hyperv}";
    stack.write("compose.yaml", &format!("services: {{a: {{build: {build}, command: 'true'}}}}"));
    let up = stack.wharf(&["up", "-d"]);
    assert!(
        up.code == 0 && up.stderr.contains("`services.a.build.isolation` has no meaning on one Linux machine"),
        "{}",
        up.stderr
    );
}

#[test]
fn bad_stacks_fail_clearly_and_leave_nothing_half_made() {
    let stack = Stack::new("defaults");
    let up = |file: &str| {
        stack.write("compose.yaml", file);
        stack.wharf(&["up", "-d"])
    };
    up("services: {a: {image: 'localhost:1/none:1'}}").fails(1, &["localhost:1", "cannot be reached"]);
    up("services: {a: {image: 'BAD NAME'}}").fails(1, &["is not an image reference"]);
    up("services: {a: {image: 'busybox:local', volumes: [{type: bind, source: ./missing, target: /x, bind: {create_host_path: false}}]}}").fails(1, &["missing does not exist"]);
    up("services: {a: {image: 'busybox:local', command: nope}}").fails(1, &["nope", "not found in $PATH"]);
    up("services: {a: {image: 'busybox:local', user: ghost}}").fails(1, &["no user `ghost`"]);
    up("services: {a: {image: 'busybox:local', cap_add: [WINGS]}}").fails(1, &["unknown capability: \"WINGS\""]);
    up("services: {a: {image: 'busybox:local', sysctls: {kernel.hostname: x}}}").fails(1, &["would change the host"]);
    up("services: {a: {image: 'busybox:local', networks: {n: {ipv4_address: 10.99.0.9}}}}\nnetworks: {n: {ipam: {config: [{subnet: 10.98.0.0/24}]}}}").fails(1, &["10.99.0.9", "not in the subnet"]);
    up("services: {a: {image: 'busybox:local'}}\nnetworks: {default: {external: true, name: nowhere}}")
        .fails(1, &["network nowhere declared as external, but could not be found"]);
    assert!(stack.ps().iter().all(|c| c["State"] != "running"));
    stack.wharf(&["exec", "-T", "a", "true"]).fails(1, &["service \"a\" is not running"]);
}

#[test]
fn without_permission_nothing_is_done_and_it_is_said() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let stack = Stack::new("defaults");
    let open = tempfile::tempdir_in("/var/tmp").expect("directory");
    std::fs::set_permissions(open.path(), std::fs::Permissions::from_mode(0o755)).expect("mode");
    let binary = open.path().join("wharf");
    std::fs::copy(env!("CARGO_BIN_EXE_wharf"), &binary).expect("copy");
    std::fs::copy(stack.path("compose.yaml"), open.path().join("compose.yaml")).expect("copy");
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).expect("mode");
    for args in [&["up", "-d"][..], &["ps"], &["down"]] {
        let mut command = std::process::Command::new(&binary);
        command
            .args(args)
            .current_dir(open.path())
            .env("WHARF_DATA_ROOT", stack.data_root())
            .env("WHARF_RUN_ROOT", stack.run_root());
        command.uid(65_534).gid(65_534);
        // Another test's child may have the copy open for writing until it executes its own program.
        let mut output = None;
        eventually("the copy is executed", 5, || {
            output = command.output().ok();
            output.is_some()
        });
        let output = output.expect("wharf runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("needs root") && said.contains("sudo"), "{args:?}: {said}");
    }
}

/// The starts that an engine's end falls into come to their own, and nothing brings the engine back: `systemctl stop` means it.
#[test]
fn an_engine_that_ends_in_the_middle_of_an_up_stays_away() {
    let stack = Stack::new("defaults");
    let services: String =
        (0..24).map(|n| format!("  s{n}: {{image: 'busybox:local', command: sleep 1000, restart: always}}\n")).collect();
    stack.write("compose.yaml", &format!("services:\n{services}"));
    for _ in 0..3 {
        let mut up = stack.command(&["up", "-d"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("up");
        eventually("some containers run", 20, || stack.ps().iter().any(|c| c["State"] == "running"));
        stack.wharf(&["engine", "stop"]).ok();
        up.wait().expect("up");
        let stopped = Instant::now();
        while stopped.elapsed() < Duration::from_millis(1500) {
            assert_eq!(stack.engine_pid(), None, "an engine came back");
            std::thread::sleep(Duration::from_millis(50));
        }
        stack.wharf(&["up", "-d", "--wait"]).ok();
        assert_eq!(stack.ps().iter().filter(|c| c["State"] == "running").count(), 24);
        stack.wharf(&["down", "-t", "0"]).ok();
    }
}

#[test]
fn a_service_manager_takes_over_from_an_engine_that_a_command_started() {
    let stack = Stack::new("defaults");
    stack.write("compose.yaml", "services: {one: {image: 'busybox:local', command: sleep 1000}}");
    stack.wharf(&["up", "-d"]).ok();
    let began = || stack.sh("one", "cut -d' ' -f22 /proc/1/stat");
    let (first, since) = (stack.engine_pid().expect("engine"), began());
    stack.wharf(&["engine"]).fails(1, &["an engine already runs", "--replace"]);
    let mut second = stack.command(&["engine", "--replace"]).stderr(Stdio::null()).spawn().expect("engine");
    eventually("the first engine is gone", 10, || stack.engine_pid() != Some(first));
    eventually("the second answers", 10, || {
        std::os::unix::net::UnixStream::connect(stack.run_root().join("engine.sock")).is_ok()
    });
    assert_eq!(began(), since, "the container was restarted");
    // Commands talk to the second, and start none beside it; that one has its run root in the environment.
    assert_eq!(stack.engine_pid(), None);
    stack.wharf(&["down", "-t", "0"]).ok();
    stack.wharf(&["engine", "stop"]).ok();
    assert_eq!(second.wait().expect("engine").code(), Some(0));
}

#[test]
fn two_hundred_cycles_leave_the_engine_as_it_was() {
    let stack = Stack::new("defaults");
    let cycle = || {
        stack.wharf(&["up", "-d"]).ok();
        stack.wharf(&["down"]).ok();
    };
    let engine = || {
        let pid = stack.engine_pid().expect("engine");
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("fd").count();
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps");
        let anonymous = rollup
            .lines()
            .find_map(|l| l.strip_prefix("Anonymous:"))
            .and_then(|l| l.trim().split(' ').next()?.parse::<u64>().ok());
        (fds, anonymous.expect("memory"))
    };
    (0..20).for_each(|_| cycle());
    let (fds, memory) = engine();
    (0..200).for_each(|_| cycle());
    let mut after = engine();
    eventually("no descriptor is left open", 5, || {
        after = engine();
        after.0 <= fds
    });
    assert!(after.1 < memory + 2048, "memory grew from {memory} to {} kB", after.1);
    let ours = stack.wharf(&["ps", "-aq"]).ok();
    assert_eq!(ours, "");
}
