//! `make bench`: wharf and, where it is set up, Docker Compose, measured in turn on the same stacks.
//!
//! The peer is the command in $PEER (such as `docker`; it is given `compose` and arguments), else `docker` where an engine
//! answers. Times are whole commands, as a user waits for them; medians of several runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A Compose implementation to measure.
struct Side {
    name: &'static str,
    command: Vec<String>,
    env: Vec<(String, String)>,
    /// What of a process's command line makes it part of the engine.
    engine: fn(&str) -> bool,
}

impl Side {
    fn compose(&self, stack: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).arg("-f").arg(stack).args(args).envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn timed(&self, stack: &Path, args: &[&str]) -> Duration {
        let begun = Instant::now();
        let status = self.compose(stack, args).status().expect("the command runs");
        assert!(status.success(), "{} {args:?} failed", self.name);
        begun.elapsed()
    }

    /// How long a command takes that is about no stack, in milliseconds.
    fn plain(&self, args: &[&str]) -> f64 {
        let program = self.command.iter().filter(|word| *word != "compose");
        let mut words = program.map(String::as_str);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).args(args).envs(self.env.iter().cloned()).env("DOCKER_BUILDKIT", "1");
        let begun = Instant::now();
        let output = command.stdin(Stdio::null()).output().expect("the command runs");
        let time = begun.elapsed().as_secs_f64() * 1000.0;
        let may_fail = args.starts_with(&["image", "rm"]);
        assert!(output.status.success() || may_fail, "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        time
    }

    fn text(&self, stack: &Path, args: &[&str]) -> String {
        let output = self.compose(stack, args).stdout(Stdio::piped()).output().expect("the command runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn stack(root: &Path, name: &str, services: usize, service: &str) -> PathBuf {
    let signal = if service.contains("stop_signal") { "" } else { "    stop_signal: SIGKILL\n" };
    let directory = root.join(name);
    std::fs::create_dir_all(&directory).expect("directory");
    let mut text = String::from("services:\n");
    for i in 1..=services {
        text.push_str(&format!("  s{i}:\n    image: busybox:local\n{signal}{service}"));
    }
    let path = directory.join("compose.yaml");
    std::fs::write(&path, text).expect("compose.yaml");
    path
}

/// A file of services with dependencies, ports, volumes and variables, that is only read.
fn large(root: &Path, services: usize) -> PathBuf {
    let directory = root.join(format!("config{services}"));
    std::fs::create_dir_all(&directory).expect("directory");
    let mut text = String::from("services:\n");
    for i in 0..services {
        text.push_str(&format!(
            "  s{i}:\n    image: busybox:local\n    command: [\"sleep\", \"3600\"]\n    restart: unless-stopped\n    environment:\n      \
             A: \"{i}\"\n      B: ${{HOME}}\n      C: value-{i}\n    ports:\n      - \"{}:80\"\n    volumes:\n      - data{}:/data\n      \
             - ./conf:/etc/conf:ro\n",
            20000 + i,
            i % 10
        ));
        if i > 0 {
            text.push_str(&format!("    depends_on:\n      - s{}\n", i - 1));
        }
    }
    text.push_str("volumes:\n");
    (0..10).for_each(|i| text.push_str(&format!("  data{i}: {{}}\n")));
    let path = directory.join("compose.yaml");
    std::fs::write(&path, text).expect("compose.yaml");
    path
}

/// A row of the table: what, its unit, a value for each side.
type Row<'a> = &'a dyn Fn(&str, &str, Vec<f64>);

/// 2,000 small files and ten small RUN steps, with an empty cache and with a full one.
fn builds(root: &Path, sides: &[Side], row: Row<'_>) {
    let context = root.join("build");
    for i in 0..2000 {
        let directory = context.join(format!("files/d{}", i % 50));
        std::fs::create_dir_all(&directory).expect("directory");
        std::fs::write(directory.join(format!("f{i}")), format!("file {i}\n").repeat(20)).expect("file");
    }
    let steps: String = (0..10).map(|i| format!("RUN echo {i} > /r{i}\n")).collect();
    std::fs::write(context.join("Dockerfile"), format!("FROM busybox:local\nCOPY files /files\n{steps}")).expect("Dockerfile");
    let path = context.to_string_lossy().into_owned();
    let (mut cold, mut cached) = (vec![Vec::new(); sides.len()], vec![Vec::new(); sides.len()]);
    for _ in 0..3 {
        for (i, side) in sides.iter().enumerate() {
            let forget: &[&str] =
                if side.name == "Docker" { &["builder", "prune", "-af"] } else { &["image", "prune", "--build-cache"] };
            side.plain(forget);
            cold[i].push(side.plain(&["image", "build", "-q", "-t", "wharf-bench-built", &path]));
            cached[i].push(side.plain(&["image", "build", "-q", "-t", "wharf-bench-built", &path]));
        }
    }
    row("build: COPY of 2,000 files, ten RUN steps", "ms", cold.into_iter().map(median).collect());
    row("the same build again", "ms", cached.into_iter().map(median).collect());
}

/// What goes from container to container, and how fast names are answered.
fn networks(root: &Path, sides: &[Side], row: Row<'_>) {
    const ROUNDS: usize = 7;
    let text = "    command: [/net, sink, \"5001\"]\n    volumes: [./net:/net:ro]\n    ports: [\"127.0.0.1::5001\"]\n";
    let pair = stack(root, "benchnet", 2, text);
    let program = pair.with_file_name("net");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/net.c");
    let built = Command::new("cc").args(["-static", "-O2", source, "-o"]).arg(&program).status();
    if !built.is_ok_and(|s| s.success()) {
        return;
    }
    let numbers = |said: String| said.split_whitespace().map(|word| word.parse::<f64>().unwrap_or(0.0)).collect::<Vec<f64>>();
    let number = |list: Vec<f64>, at: usize| list.get(at).copied().unwrap_or(0.0);
    let exec =
        |side: &Side, service: &str, args: &[&str]| numbers(side.text(&pair, &[&["exec", "-T", service][..], args].concat()));
    let addresses: Vec<(String, String)> = sides
        .iter()
        .map(|side| {
            side.timed(&pair, &["up", "-d"]);
            let published = side.text(&pair, &["port", "s2", "5001"]);
            let port = published.trim().rsplit(':').next().unwrap_or_default().to_string();
            (side.text(&pair, &["exec", "-T", "s2", "hostname", "-i"]).trim().to_string(), port)
        })
        .collect();
    // Round by round, one after the other: the machine's good and bad moments are everybody's.
    let mut inner = vec![Vec::new(); sides.len() + 1];
    let mut outer = vec![Vec::new(); sides.len()];
    let mut alike = Vec::new();
    for _ in 0..ROUNDS {
        for (n, side) in sides.iter().enumerate() {
            inner[n].push(number(exec(side, "s1", &["/net", "send", &addresses[n].0, "5001", "1"]), 0));
            let output = Command::new(&program).args(["send", "127.0.0.1", &addresses[n].1, "1"]).output().expect("net");
            outer[n].push(number(numbers(String::from_utf8_lossy(&output.stdout).into_owned()), 0));
        }
        inner[sides.len()].extend(bare_bridge(&program));
        let (n, side) = (sides.len() - 1, &sides[sides.len() - 1]);
        alike.push(without_bridge_netfilter(|| number(exec(side, "s1", &["/net", "send", &addresses[n].0, "5001", "1"]), 0)));
    }
    let bare = inner.pop().filter(|rates| !rates.is_empty()).map(median);
    let inner: Vec<f64> = inner.into_iter().map(median).collect();
    if let Some(bare) = bare {
        let ours = median(alike);
        println!(
            "one connection over a veth bridge without any engine: {bare:.0} MiB/s; over wharf's in turn {ours:.0}: {:.3}",
            ours / bare
        );
    }
    row("container to container, one connection", "MiB/s", inner);
    row("host to container by a published port, one connection", "MiB/s", outer.into_iter().map(median).collect());
    let (mut answers, mut slowest) = (Vec::new(), Vec::new());
    for side in sides {
        answers.push(median((0..3).map(|_| number(exec(side, "s1", &["/net", "dns", "s2", "2", "64"]), 0)).collect()));
        slowest.push(median((0..3).map(|_| number(exec(side, "s1", &["/net", "dns", "s2", "2", "1"]), 1)).collect()));
        side.timed(&pair, &["down"]);
    }
    row("a service's name: answers, 64 questions on their way", "/s", answers);
    row("a service's name: 99th percentile, one question", "µs", slowest);
}

/// What a client loses while its service is updated again and again: connections that were refused or broken, and answers that are none.
fn updates(root: &Path, sides: &[Side], server: &Path, row: Row<'_>) {
    const UPDATES: usize = 100;
    const URL: &str = "http://127.0.0.1:18098/";
    let text = |version: usize| {
        // The server ends by itself, after its last answer: it is not killed, as the others are.
        format!(
            "    stop_signal: SIGTERM\n    command: [/server]\n    volumes: [{}:/server:ro]\n    ports: [\"127.0.0.1:18098:80\"]\n    environment: [V={version}]\n    deploy: {{update_config: {{order: start-first, monitor: 200ms}}}}\n",
            server.display()
        )
    };
    let mut lost = vec![Vec::new(); 2];
    for side in sides {
        let web = stack(root, "benchupdate", 1, &text(0));
        side.timed(&web, &["up", "-d"]);
        wait_for("the server answers", || std::net::TcpStream::connect("127.0.0.1:18098").is_ok());
        let clients: Vec<_> = [&[][..], &["-H", "Connection: close"]]
            .into_iter()
            .map(|more| {
                let args = [&["-t2", "-c32", "-d7200s"], more, &[URL]].concat();
                Command::new("wrk").args(args).stdout(Stdio::piped()).spawn().expect("wrk")
            })
            .collect();
        for version in 1..=UPDATES {
            stack(root, "benchupdate", 1, &text(version));
            side.timed(&web, &["up", "-d"]);
        }
        for (client, lost) in clients.into_iter().zip(&mut lost) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(client.id() as i32), nix::sys::signal::Signal::SIGINT);
            let output = client.wait_with_output().expect("wrk");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let failures = text.lines().filter(|line| line.contains("Socket errors") || line.contains("Non-2xx"));
            let numbers = failures.flat_map(|line| line.split([' ', ',']).filter_map(|word| word.parse::<f64>().ok()));
            lost.push(numbers.fold(0.0, |sum, number| sum + number));
        }
        side.timed(&web, &["down"]);
    }
    let mut lost = lost.into_iter();
    row("requests lost in 100 updates, 32 connections", "", lost.next().unwrap_or_default());
    row("the same, each on a connection of its own", "", lost.next().unwrap_or_default());
}

/// Docker has bridges' frames go through its rules, everybody's. This is without them.
fn without_bridge_netfilter<T>(measure: impl FnOnce() -> T) -> T {
    const SWITCH: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    let was = std::fs::read_to_string(SWITCH).ok();
    was.iter().for_each(|_| drop(std::fs::write(SWITCH, "0")));
    let measured = measure();
    was.iter().for_each(|was| drop(std::fs::write(SWITCH, was)));
    measured
}

/// The same over two network namespaces and a bridge made by hand. Docker's rules, which drop what they do not know, are kept off it.
fn bare_bridge(program: &Path) -> Option<f64> {
    let script = format!(
        "set -e; nf=/proc/sys/net/bridge/bridge-nf-call-iptables; was=$(cat $nf 2>/dev/null || true)
         trap 'ip netns del wbench1; ip netns del wbench2; ip link del wbench0; [ -z \"$was\" ] || echo $was > $nf' EXIT
         [ -z \"$was\" ] || echo 0 > $nf; ip link add wbench0 type bridge; ip link set wbench0 up
         for n in 1 2; do ip netns add wbench$n; ip link add wbv$n master wbench0 type veth peer name eth0 netns wbench$n; ip link set wbv$n up
           ip -n wbench$n addr add 10.211.0.$n/24 dev eth0; ip -n wbench$n link set eth0 up; done
         ip netns exec wbench2 {0} sink 5001 >/dev/null & sink=$!; sleep 0.3
         ip netns exec wbench1 {0} send 10.211.0.2 5001 1; kill $sink",
        program.display()
    );
    let output = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().find_map(|line| line.split_whitespace().next()?.parse().ok())
}

/// An image of six layers, 40,000 files and 1.75 GB, 0.7 GB compressed, from a registry on this machine.
fn pulls(sides: &[Side], row: Row<'_>) {
    let place = tempfile::Builder::new().prefix("wharf-bench-").tempdir_in("/var/tmp").expect("directory");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port();
    let config = place.path().join("registry.yml");
    let data = place.path().join("registry");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
        data.display()
    );
    std::fs::write(&config, text).expect("config");
    let Ok(mut registry) =
        Command::new("docker-registry").arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    else {
        println!("docker-registry is not installed: no pull is measured");
        return;
    };
    wait_for("the registry answers", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let context = place.path().join("context");
    let mut noise = std::fs::File::open("/dev/urandom").expect("urandom");
    for i in 0..40_000 {
        use std::io::Read;
        let directory = context.join(format!("l{}/d{}", i % 6, i / 6 % 200));
        std::fs::create_dir_all(&directory).expect("directory");
        let mut content = vec![0u8; 18_000];
        noise.read_exact(&mut content).expect("urandom");
        content.extend(format!("{i:08} line of text that compresses well\n").repeat(640).into_bytes());
        std::fs::write(directory.join(format!("f{i}")), content).expect("file");
    }
    let copies: String = (0..6).map(|i| format!("COPY l{i} /l{i}\n")).collect();
    std::fs::write(context.join("Dockerfile"), format!("FROM scratch\n{copies}")).expect("Dockerfile");
    let image = format!("127.0.0.1:{port}/bench:1");
    let wharf = sides.last().expect("wharf");
    wharf.plain(&["image", "build", "-q", "-t", &image, &context.to_string_lossy()]);
    wharf.plain(&["image", "push", "-q", &image]);
    let mut times = vec![Vec::new(); sides.len()];
    for _ in 0..2 {
        for (i, side) in sides.iter().enumerate() {
            side.plain(&["image", "rm", &image]);
            if side.name != "Docker" {
                side.plain(&["image", "prune", "--build-cache"]);
            }
            nix::unistd::sync();
            times[i].push(side.plain(&["image", "pull", &image]));
        }
    }
    for side in sides {
        side.plain(&["image", "rm", &image]);
    }
    row("pull of 6 layers, 0.7 GB, 40,000 files", "ms", times.into_iter().map(median).collect());
    let _ = registry.kill();
    let _ = registry.wait();
}

/// Sum of the proportional memory of an engine's processes, in MiB.
fn memory(side: &Side) -> f64 {
    let mut total = 0u64;
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
        if !(side.engine)(&line) {
            continue;
        }
        let rollup = std::fs::read_to_string(entry.path().join("smaps_rollup")).unwrap_or_default();
        let pss =
            rollup.lines().find_map(|l| l.strip_prefix("Pss:")).and_then(|l| l.trim().split(' ').next()?.parse::<u64>().ok());
        total += pss.unwrap_or(0);
    }
    total as f64 / 1024.0
}

/// The processes `sleep 100077` on this machine: the containers of the restart measurement.
fn sleepers() -> Vec<i32> {
    let pids =
        std::fs::read_dir("/proc").expect("proc").flatten().filter_map(|e| e.file_name().to_string_lossy().parse::<i32>().ok());
    pids.filter(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x00100077\x00")).collect()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn main() {
    let root = tempfile::Builder::new().prefix("wharf-bench-").tempdir_in("/tmp").expect("directory");
    let binary = std::env::var("WHARF").unwrap_or_else(|_| env!("CARGO_BIN_EXE_wharf").into());
    let data = tempfile::Builder::new().prefix("wharf-bench-").tempdir_in("/var/tmp").expect("directory");
    let run = tempfile::Builder::new().prefix("wharf-bench-").tempdir_in("/run").expect("directory");
    let path = |p: &Path| p.to_string_lossy().into_owned();
    let env = vec![("WHARF_DATA_ROOT".into(), path(data.path())), ("WHARF_RUN_ROOT".into(), path(run.path()))];
    let tar = root.path().join("busybox.tar");
    make_image(root.path(), &tar);
    let import = Command::new(&binary)
        .args(["image", "import"])
        .arg(&tar)
        .arg("busybox:local")
        .envs(env.iter().cloned())
        .output()
        .expect("import");
    assert!(import.status.success(), "import: {}", String::from_utf8_lossy(&import.stderr));
    let mut sides = vec![Side {
        name: "wharf",
        command: vec![binary.clone()],
        env: env.clone(),
        engine: |line| line.contains("wharf-bench-") && (line.contains(" engine") || line.contains(" monitor ")),
    }];
    let peer: Vec<String> =
        std::env::var("PEER").unwrap_or_else(|_| "docker".into()).split_whitespace().map(str::to_string).collect();
    let docker = |args: &[&str]| Command::new(&peer[0]).args(&peer[1..]).args(args).stdin(Stdio::null()).output();
    if docker(&["info"]).is_ok_and(|o| o.status.success()) {
        let _ = Command::new("sh")
            .arg("-c")
            .arg(format!("{} import -c 'CMD [\"sh\"]' - busybox:local < {}", peer.join(" "), tar.display()))
            .output();
        let command = [peer.clone(), vec!["compose".into()]].concat();
        let engine = |line: &str| {
            line.starts_with("dockerd")
                || line.starts_with("containerd ")
                || line.contains("containerd-shim")
                || line.contains("docker-proxy")
                || line.starts_with("/usr/sbin/dockerd")
        };
        sides.insert(0, Side { name: "Docker", command, env: Vec::new(), engine });
    } else {
        println!("no Docker engine answers: wharf alone (PEER=COMMAND names one)");
    }
    print!("{:<52}", "");
    sides.iter().for_each(|s| print!("{:>14}", s.name));
    println!("{:>10}", if sides.len() > 1 { "ratio" } else { "" });
    let row = |label: &str, unit: &str, values: Vec<f64>| {
        print!("{label:<52}");
        values
            .iter()
            .for_each(|v| print!("{:>14}", if *v >= 100.0 { format!("{v:.0} {unit}") } else { format!("{v:.1} {unit}") }));
        println!("{:>10}", if values.len() > 1 { format!("{:.3}", values[1] / values[0]) } else { String::new() });
    };
    // `cargo bench --bench stacks -- networks` measures these alone.
    if std::env::args().any(|argument| argument == "networks") {
        networks(root.path(), &sides, &row);
        let _ = Command::new(&binary).args(["engine", "stop"]).envs(env).status();
        return;
    }
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
    for services in [10, 1000] {
        let file = large(root.path(), services);
        let of = |side: &Side| median((0..9).map(|_| ms(side.timed(&file, &["config", "-q"]))).collect());
        row(&format!("config -q, {services} services"), "ms", sides.iter().map(of).collect());
    }
    builds(root.path(), &sides, &row);
    pulls(&sides, &row);
    let sleep = "    command: [sleep, \"100000\"]\n";
    for (services, runs) in [(1, 7), (30, 5), (100, 3)] {
        let file = stack(root.path(), &format!("bench{services}"), services, sleep);
        let mut up: Vec<Vec<f64>> = vec![Vec::new(); sides.len()];
        let mut down = up.clone();
        let (mut again, mut exec, mut pss) = (up.clone(), up.clone(), up.clone());
        for _ in 0..runs {
            for (i, side) in sides.iter().enumerate() {
                up[i].push(ms(side.timed(&file, &["up", "-d"])));
                again[i].push(ms(side.timed(&file, &["up", "-d"])));
                exec[i].push(ms(side.timed(&file, &["exec", "-T", "s1", "true"])));
                if services == 30 {
                    pss[i].push(memory(side));
                }
                down[i].push(ms(side.timed(&file, &["down"])));
            }
        }
        let medians = |v: Vec<Vec<f64>>| v.into_iter().map(median).collect::<Vec<_>>();
        row(&format!("up -d, {services} services"), "ms", medians(up));
        row(&format!("down, {services} services"), "ms", medians(down));
        if services == 100 {
            row("up -d with nothing to do, 100 services", "ms", medians(again));
        }
        if services == 1 {
            row("exec -T s1 true", "ms", medians(exec));
        }
        if services == 30 {
            row("memory (PSS) besides 30 containers", "MiB", medians(pss));
        }
    }
    let lines = stack(
        root.path(),
        "benchlog",
        1,
        "    command: [sh, -c, \"yes $$(head -c 99 /dev/zero | tr '\\\\0' x) | head -n 1000000\"]\n    logging: {options: {max-size: 1g}}\n",
    );
    let (mut write, mut read) = (Vec::new(), Vec::new());
    for side in &sides {
        let (mut w, mut r) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let begun = Instant::now();
            side.timed(&lines, &["up", "-d"]);
            wait_for("the writer has ended", || side.text(&lines, &["ps", "-a", "--format", "json"]).contains("\"exited\""));
            w.push(begun.elapsed().as_secs_f64());
            r.push(side.timed(&lines, &["logs"]).as_secs_f64());
            let count = side.text(&lines, &["logs", "--no-log-prefix"]).lines().count();
            assert_eq!(count, 1_000_000, "{} has lost lines", side.name);
            side.timed(&lines, &["down"]);
        }
        write.push(median(w));
        read.push(median(r));
    }
    row("a container writes 1,000,000 lines and exits", "s", write);
    row("logs of those lines", "s", read);
    let web = stack(
        root.path(),
        "benchweb",
        1,
        "    command: [/server]\n    volumes: [./server:/server:ro]\n    ports: [\"127.0.0.1:18097:80\"]\n",
    );
    let server = root.path().join("benchweb/server");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/server.c");
    let built = Command::new("cc").args(["-static", "-O2", "-pthread", source, "-o"]).arg(&server).status();
    if built.is_ok_and(|s| s.success()) && Command::new("wrk").arg("--version").output().is_ok() {
        let (mut rates, mut connections) = (Vec::new(), Vec::new());
        for side in &sides {
            side.timed(&web, &["up", "-d"]);
            let measure = |more: &[&str]| {
                let args = [&["-t2", "-c32", "-d3s"], more, &["http://127.0.0.1:18097/"]].concat();
                let output = Command::new("wrk").args(args).output().expect("wrk");
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let rate = text.lines().find_map(|l| l.strip_prefix("Requests/sec:")?.trim().parse::<f64>().ok());
                rate.unwrap_or(0.0)
            };
            rates.push(median((0..3).map(|_| measure(&[])).collect()));
            connections.push(median((0..3).map(|_| measure(&["-H", "Connection: close"])).collect()));
            side.timed(&web, &["down"]);
        }
        row("requests/s to a published port on 127.0.0.1", "/s", rates);
        row("the same, each on a connection of its own", "/s", connections);
        updates(root.path(), &sides, &server, &row);
    }
    networks(root.path(), &sides, &row);
    let restart = stack(root.path(), "benchrestart", 50, "    command: [sleep, \"100077\"]\n    restart: always\n");
    let mut back = Vec::new();
    for side in &sides {
        side.timed(&restart, &["up", "-d"]);
        let mut times = Vec::new();
        for _ in 0..3 {
            wait_for("50 run", || sleepers().len() == 50);
            // Longer than the back-off's reset, so that each round begins with its first delay.
            std::thread::sleep(Duration::from_millis(10_500));
            let before = sleepers();
            let begun = Instant::now();
            for pid in &before {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
            }
            wait_for("50 run again", || {
                let now = sleepers();
                now.len() == 50 && !now.iter().any(|pid| before.contains(pid))
            });
            times.push(ms(begun.elapsed()));
        }
        back.push(median(times));
        side.timed(&restart, &["down"]);
    }
    row("SIGKILL to 50 inits, until all run again", "ms", back);
    let _ = Command::new(&binary).args(["engine", "stop"]).envs(env).status();
}

/// A root file system of busybox alone.
fn make_image(root: &Path, tar: &Path) {
    let script = format!(
        "set -e; d={}/rootfs; mkdir -p $d/bin $d/etc $d/tmp $d/proc $d/sys $d/dev $d/root; cp /bin/busybox $d/bin/; \
         for a in $(/bin/busybox --list); do [ -e $d/bin/$a ] || ln -s busybox $d/bin/$a; done; \
         echo root:x:0:0:root:/root:/bin/sh > $d/etc/passwd; tar -C $d -cf {} .",
        root.display(),
        tar.display()
    );
    assert!(Command::new("sh").arg("-c").arg(script).status().expect("sh").success(), "busybox-static is needed");
}
