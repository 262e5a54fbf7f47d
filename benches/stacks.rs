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
    let directory = root.join(name);
    std::fs::create_dir_all(&directory).expect("directory");
    let mut text = String::from("services:\n");
    for i in 1..=services {
        text.push_str(&format!("  s{i}:\n    image: busybox:local\n    stop_signal: SIGKILL\n{service}"));
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
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
    for services in [10, 1000] {
        let file = large(root.path(), services);
        let of = |side: &Side| median((0..9).map(|_| ms(side.timed(&file, &["config", "-q"]))).collect());
        row(&format!("config -q, {services} services"), "ms", sides.iter().map(of).collect());
    }
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
        "    command: [sh, -c, \"yes $$(head -c 99 /dev/zero | tr '\\\\0' x) | head -n 1000000\"]\n",
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
        let mut rates = Vec::new();
        for side in &sides {
            side.timed(&web, &["up", "-d"]);
            let measure = || {
                let output = Command::new("wrk").args(["-t2", "-c32", "-d3s", "http://127.0.0.1:18097/"]).output().expect("wrk");
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.lines()
                    .find_map(|l| l.strip_prefix("Requests/sec:"))
                    .and_then(|v| v.trim().parse::<f64>().ok())
                    .unwrap_or(0.0)
            };
            rates.push(median((0..3).map(|_| measure()).collect()));
            side.timed(&web, &["down"]);
        }
        row("requests/s to a published port on 127.0.0.1", "/s", rates);
    }
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
