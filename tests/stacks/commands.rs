//! The commands with which people live in a running stack.

use crate::support::{Stack, eventually, follow, sleeping};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;
use std::time::{Duration, Instant};

const APP: &str = "image: busybox:local, command: sleep 1000, stop_signal: SIGKILL";

#[test]
fn run_makes_a_container_of_its_own() {
    let stack = Stack::new("nothing");
    let health = "healthcheck: {test: [CMD, 'true'], interval: 50ms}";
    stack.write(
        "compose.yaml",
        &format!("services: {{db: {{{APP}, {health}}}, app: {{{APP}, depends_on: {{db: {{condition: service_healthy}}}}, environment: [A=file], restart: always, volumes: ['data:/data']}}}}\nvolumes: {{data: {{}}}}"),
    );
    let out = stack.wharf(&[
        "run",
        "--rm",
        "-T",
        "-e",
        "B=flag",
        "app",
        "sh",
        "-c",
        "echo $A $B; nslookup db >/dev/null && echo found; exit 7",
    ]);
    assert_eq!((out.code, out.stdout.as_str()), (7, "file flag\nfound\n"), "{}", out.stderr);
    assert_eq!(stack.state("db"), "running", "what it depends on is up");
    assert!(!stack.ps().iter().any(|c| c["Service"] == "app"), "removed, and no container of the service's own was made");
    // Standard input reaches it, and its end as well.
    let mut child = stack
        .command(&["run", "--rm", "-T", "--no-deps", "app", "wc", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run");
    child.stdin.take().expect("stdin").write_all(&[b'x'; 200_000]).expect("write");
    let out = child.wait_with_output().expect("output");
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stdout).trim()), (Some(0), "200000"));
    // In the background, beside the service's own containers, which do not count it.
    let id = stack.wharf(&["run", "-d", "--name", "mine", "-v", "./:/here:ro", "-w", "/here", "app", "sleep", "1000"]).ok();
    assert_eq!(stack.wharf(&["container", "exec", "mine", "pwd"]).ok().trim(), "/here");
    stack.wharf(&["up", "-d"]).ok();
    let of_app = stack.ps().into_iter().filter(|c| c["Service"] == "app").count();
    assert_eq!(of_app, 2);
    assert_eq!(stack.id("app").len(), id.trim().len());
    // As with Docker Compose; `container run` has 127.
    stack.wharf(&["run", "-T", "--rm", "app", "no-such-program"]).fails(1, &["no-such-program", "not found"]);
    stack.wharf(&["run", "-T", "nope"]).fails(1, &["no such service: nope"]);
    let down = stack.wharf(&["down", "-v"]);
    assert!(down.code == 0 && down.stderr.contains("Resource is still in use"), "{down:?}");
    assert_eq!(stack.wharf(&["container", "ls", "-aq"]).ok().lines().count(), 1, "what `run` has made is left alone");
    stack.wharf(&["down", "--remove-orphans"]).ok();
    assert!(stack.wharf(&["container", "ls", "-aq"]).ok().is_empty());
}

#[test]
fn a_terminal_of_run_and_attach() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}}}, shell: {{image: 'busybox:local', command: sh, tty: true, stdin_open: true, stop_signal: SIGKILL}}}}"));
    let mut terminal = crate::support::Terminal::start(&mut stack.command(&["run", "--rm", "app", "sh"]), 31, 99);
    terminal.expect("# ", 10);
    terminal.send("stty size; tty; exit 4\n");
    terminal.expect("31 99", 5);
    terminal.expect("/dev/pts/0", 5);
    assert_eq!(terminal.wait(5), Some(4));
    stack.wharf(&["up", "-d", "shell"]).ok();
    let mut terminal = crate::support::Terminal::start(&mut stack.command(&["attach", "shell"]), 24, 80);
    terminal.send("echo $((6*7))\n");
    terminal.expect("42", 5);
    // The keys that leave it running.
    terminal.send("\x10\x11");
    assert_eq!(terminal.wait(5), Some(0));
    assert_eq!(stack.state("shell"), "running");
    let mut again = crate::support::Terminal::start(&mut stack.command(&["attach", "shell"]), 24, 80);
    again.send("exit 3\n");
    assert_eq!(again.wait(5), Some(3));
}

#[test]
fn a_client_may_attach_before_the_start() {
    let stack = Stack::new("nothing");
    let id =
        stack.wharf(&["container", "create", "-i", "busybox:local", "sh", "-c", "echo first; read x; echo got $x; exit 5"]).ok();
    let mut child =
        stack.command(&["container", "attach", id.trim()]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("attach");
    child.stdin.as_mut().expect("stdin").write_all(b"typed\n").expect("write");
    let attached = || stack.wharf(&["system", "events", "--since", "10m", "--until", "0s", "--filter", "event=attach"]).ok();
    eventually("the client is attached", 10, || attached().contains(id.trim()));
    stack.wharf(&["container", "start", id.trim()]).ok();
    let out = child.wait_with_output().expect("output");
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stdout).as_ref()), (Some(5), "first\ngot typed\n"));
    stack.wharf(&["container", "rm", id.trim()]).ok();
}

#[test]
fn what_has_no_log_can_be_attached_to() {
    let stack = Stack::new("nothing");
    let talking = "image: 'busybox:local', stop_signal: SIGKILL, command: [sh, -c, 'n=0; while :; do echo word $$n; n=$$((n+1)); sleep 0.1; done']";
    stack.write("compose.yaml", &format!("services: {{app: {{{talking}, logging: {{driver: none}}}}}}"));
    stack.wharf(&["up", "-d"]).ok();
    let mut attached = stack.command(&["attach", "--no-stdin", "app"]).stdout(Stdio::piped()).spawn().expect("attach");
    let said = crate::support::follow(attached.stdout.take().expect("stdout"));
    eventually("its words come as they are said", 10, || said.lock().expect("lock").matches("word").count() > 5);
    attached.kill().expect("kill");
    attached.wait().expect("wait");
    assert_eq!(stack.wharf(&["logs", "app"]).stdout, "", "nothing of it is kept");
    let id = stack.id("app");
    assert!(!stack.data_root().join("containers").join(id).join("log").exists());
}

#[test]
fn files_are_copied_both_ways() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        &format!("services: {{app: {{{APP}, user: app, volumes: ['data:/data']}}}}\nvolumes: {{data: {{}}}}"),
    );
    stack.wharf(&["up", "-d"]).ok();
    std::fs::create_dir_all(stack.path("tree/sub")).expect("directory");
    stack.write("tree/file", "content");
    stack.write("tree/sub/deep", "deep");
    std::os::unix::fs::symlink("/etc/passwd", stack.path("tree/link")).expect("link");
    std::fs::set_permissions(stack.path("tree/file"), std::fs::Permissions::from_mode(0o640)).expect("mode");
    // CAP_NET_BIND_SERVICE and others, permitted and effective; as a text, the first byte of them is a line feed.
    let capability = [1, 0, 0, 2, 10, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr::set(stack.path("tree/sub/deep"), "security.capability", &capability).expect("setcap");
    let root = |script: &str| stack.wharf(&["exec", "-T", "-u", "root", "app", "sh", "-c", script]).ok().trim_end().to_string();
    for round in ["running", "stopped"] {
        let (to, name) = (format!("/tmp/{round}"), format!("app:/tmp/{round}"));
        if round == "stopped" {
            stack.wharf(&["stop"]).ok();
        }
        // Into a name that is not there: the directory becomes it; once it is there, into it.
        stack.wharf(&["cp", "tree", &name]).ok();
        stack.wharf(&["cp", "tree", &name]).ok();
        stack.wharf(&["cp", "tree/file", &format!("{name}/renamed")]).ok();
        stack.wharf(&["cp", "-a", "tree/file", &format!("{name}/owned")]).ok();
        stack.wharf(&["cp", "tree/file", "app:/data/in-volume"]).ok();
        if round == "stopped" {
            stack.wharf(&["start"]).ok();
        }
        let listed = root(&format!(
            "cd {to} && find . | sort | tr '\\n' ' '; cat sub/deep tree/file renamed; stat -c ' %a %u' file owned; readlink link"
        ));
        assert_eq!(listed, "./ ./file ./link ./owned ./renamed ./sub ./sub/deep ./tree ./tree/file ./tree/link ./tree/sub ./tree/sub/deep deepcontentcontent 640 0\n 640 1000\n/etc/passwd".replacen("./ ", ". ", 1), "{round}");
        assert_eq!(root("cat /data/in-volume"), "content");
    }
    // What a program may do by its file comes along, both ways and under other names.
    for (inside, outside) in [("app:/tmp/running/sub/deep", "deep-again"), ("app:/tmp/stopped/sub", "sub-again")] {
        stack.wharf(&["cp", inside, outside]).ok();
        let path = stack.path(outside);
        let path = if path.is_dir() { path.join("deep") } else { path };
        assert_eq!(xattr::get(&path, "security.capability").expect("getcap").as_deref(), Some(&capability[..]), "{outside}");
    }
    // Out of it: a directory, under its own and another name; a file; a link as itself and as what it leads to.
    root("mkdir -p /srv/d/e && echo out > /srv/d/e/f && ln -s /srv/d/e/f /srv/link && ln -s / /srv/d/slash");
    for round in ["running", "stopped"] {
        let to = format!("out-{round}");
        std::fs::create_dir(stack.path(&to)).expect("directory");
        stack.wharf(&["cp", "app:/srv/d", &to]).ok();
        stack.wharf(&["cp", "app:/srv/d", &format!("{to}/other")]).ok();
        stack.wharf(&["cp", "app:/srv/d/.", &format!("{to}/content")]).ok();
        stack.wharf(&["cp", "app:/srv/d/e/f", &format!("{to}/file")]).ok();
        stack.wharf(&["cp", "app:/srv/link", &to]).ok();
        stack.wharf(&["cp", "-L", "app:/srv/link", &format!("{to}/followed")]).ok();
        let read = |name: &str| std::fs::read_to_string(stack.path(&format!("{to}/{name}"))).expect(name);
        for name in ["d/e/f", "other/e/f", "content/e/f", "file", "followed"] {
            assert_eq!(read(name), "out\n", "{round} {name}");
        }
        assert!(stack.path(&format!("{to}/link")).is_symlink() && stack.path(&format!("{to}/d/slash")).is_symlink());
        if round == "running" {
            stack.wharf(&["stop"]).ok();
        }
    }
    stack.wharf(&["start"]).ok();
    // Archives on standard input and output.
    let tar = stack.command(&["cp", "app:/srv/d", "-"]).output().expect("cp");
    let mut child = stack.command(&["cp", "-", "app:/tmp"]).stdin(Stdio::piped()).spawn().expect("cp");
    child.stdin.take().expect("stdin").write_all(&tar.stdout).expect("write");
    assert!(child.wait().expect("wait").success());
    assert_eq!(root("cat /tmp/d/e/f"), "out");
    // What cannot be.
    stack.wharf(&["cp", "app:/nope", "."]).fails(1, &["/nope"]);
    stack.wharf(&["cp", "tree/file", "app:/no/such/dir/x"]).fails(1, &["/no/such/dir"]);
    stack.wharf(&["cp", "tree", "app:/etc/passwd"]).fails(1, &["is a file"]);
    root("mkdir /tmp/there");
    stack.wharf(&["cp", "missing", "app:/tmp"]).fails(1, &["missing"]);
}

#[test]
fn no_link_of_a_container_leads_a_copy_to_the_host() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}}}}}"));
    stack.wharf(&["up", "-d"]).ok();
    let outside = stack.path("outside");
    std::fs::create_dir(&outside).expect("directory");
    stack.write("outside/secret", "of the host");
    stack.write("payload", "written");
    stack.sh(
        "app",
        &format!("ln -s {} /evil; ln -s ../../../../../../..{} /up; mkdir /real", outside.display(), outside.display()),
    );
    for round in ["running", "stopped"] {
        for link in ["evil", "up"] {
            let read = stack.wharf(&["cp", &format!("app:/{link}/secret"), "got"]);
            assert_ne!(read.code, 0, "{round} {link}: {}", read.stdout);
            let written = stack.wharf(&["cp", "payload", &format!("app:/{link}/payload")]);
            assert_ne!(written.code, 0, "{round} {link}");
            assert!(!outside.join("payload").exists() && !stack.path("got").exists());
        }
        stack.wharf(&["stop"]).ok();
    }
}

#[test]
fn what_a_container_uses_is_what_the_kernel_says() {
    let stack = Stack::new("nothing");
    let busy =
        "image: 'busybox:local', command: [sh, -c, 'while :; do :; done'], stop_signal: SIGKILL, cpus: 0.5, mem_limit: 64m";
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}}}, busy: {{{busy}}}}}"));
    stack.wharf(&["up", "-d"]).ok();
    let top = stack.wharf(&["top", "app"]).ok();
    assert!(top.contains("UID") && top.lines().any(|l| l.starts_with("root") && l.ends_with("sleep 1000")), "{top}");
    let id = stack.id("app");
    let shown: Vec<i32> = top.lines().skip(2).filter_map(|l| l.split_whitespace().nth(1)?.parse().ok()).collect();
    let group = stack.group(&id, "pids");
    let procs = std::fs::read_to_string(group.join("cgroup.procs")).expect("cgroup");
    assert_eq!(shown, procs.lines().map(|l| l.parse().expect("pid")).collect::<Vec<i32>>());
    let stats = stack.wharf(&["stats", "--no-stream", "--format", "json"]).ok();
    let of = |name: &str| -> serde_json::Value {
        let line = stats.lines().find(|l| l.contains(&format!("-{name}-1\""))).expect(name);
        serde_json::from_str(line).expect("JSON")
    };
    let cpu = |value: &serde_json::Value| -> f64 {
        value["CPUPerc"].as_str().expect("text").trim_end_matches('%').parse().expect("number")
    };
    assert!((25.0..75.0).contains(&cpu(&of("busy"))), "half a processor: {stats}");
    assert!(cpu(&of("app")) < 5.0);
    assert!(of("busy")["MemUsage"].as_str().expect("text").ends_with(" / 64MiB"), "{stats}");
    assert_eq!(of("app")["PIDs"], "1");
    // What a container does in groups below its own is its own, too.
    let nested = group.join("nested");
    std::fs::create_dir(&nested).expect("nested group");
    stack.wharf(&["exec", "-d", "app", "sleep", "2000"]).ok();
    let moved = || {
        let procs = std::fs::read_to_string(group.join("cgroup.procs")).expect("procs");
        let of = |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.contains("2000"));
        procs.lines().find(of).is_some_and(|pid| std::fs::write(nested.join("cgroup.procs"), pid).is_ok())
    };
    eventually("a process is in it", 10, moved);
    let top = stack.wharf(&["top", "app"]).ok();
    assert!(top.contains("sleep 1000") && top.contains("sleep 2000"), "{top}");
    // A limit that is changed holds at once.
    stack.wharf(&["container", "update", "--memory", "32m", "--memory-swap", "64m", &format!("{}-busy-1", stack.project)]).ok();
    let limit = stack.sh("busy", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true");
    assert_eq!(limit, (32 << 20).to_string());
}

#[test]
fn pause_wait_port_scale_and_events() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}, ports: ['127.0.0.1::80']}}, job: {{image: 'busybox:local', command: [sh, -c, 'sleep 0.3; exit 3']}}}}"));
    stack.wharf(&["create"]).ok();
    assert_eq!((stack.state("app"), stack.state("job")), ("created".into(), "created".into()));
    // From now on, whenever the client has subscribed.
    let now = jiff::Timestamp::now().to_string();
    let mut events = stack.command(&["events", "--json", "--since", &now]).stdout(Stdio::piped()).spawn().expect("events");
    stack.wharf(&["start"]).ok();
    let waited = stack.wharf(&["wait", "job"]);
    assert_eq!(waited.code, 3);
    assert!(waited.stdout.contains("exited with status code 3"));
    let port = stack.wharf(&["port", "app", "80"]).ok();
    assert!(port.starts_with("127.0.0.1:") && port.trim().rsplit(':').next().expect("port").parse::<u16>().expect("number") > 0);
    stack.wharf(&["port", "app", "81"]).fails(1, &["no port 81/tcp for container ", "-app-1: 80/tcp"]);
    stack.wharf(&["pause", "app"]).ok();
    assert_eq!(stack.state("app"), "paused");
    assert_eq!(stack.wharf(&["exec", "-T", "app", "true"]).code, 1);
    stack.wharf(&["unpause", "app"]).ok();
    stack.sh("app", "true");
    stack.wharf(&["scale", "app=3"]).ok();
    assert_eq!(stack.ps().iter().filter(|c| c["Service"] == "app").count(), 3);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(events.id() as i32), nix::sys::signal::Signal::SIGTERM).expect("kill");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut events.stdout.take().expect("stdout"), &mut text).expect("read");
    let _ = events.wait();
    let actions: Vec<(String, String)> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .map(|e| (e["service"].as_str().expect("service").to_string(), e["action"].as_str().expect("action").to_string()))
        .collect();
    for (service, action) in
        [("app", "start"), ("job", "start"), ("job", "die"), ("app", "pause"), ("app", "unpause"), ("app", "create")]
    {
        assert!(actions.contains(&(service.into(), action.into())), "no {service} {action} in {actions:?}");
    }
}

#[test]
fn a_container_becomes_an_image_and_an_archive() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}, environment: [FROM=file]}}}}"));
    stack.wharf(&["up", "-d"]).ok();
    stack.sh("app", "echo new > /etc/new; rm /etc/group; chmod 600 /etc/passwd");
    let name = format!("{}-app-1", stack.project);
    let changed = stack.wharf(&["container", "diff", &name]).ok();
    for line in ["A /etc/new", "D /etc/group", "C /etc/passwd", "C /etc"] {
        assert!(changed.lines().any(|l| l == line), "no `{line}` in {changed}");
    }
    stack.wharf(&["commit", "-c", "CMD [\"cat\", \"/etc/new\"]", "-m", "a test", "app", "committed:1"]).ok();
    let out = stack
        .wharf(&[
            "container",
            "run",
            "--rm",
            "committed:1",
            "sh",
            "-c",
            "cat /etc/new; ls /etc; stat -c %a /etc/passwd; echo $FROM",
        ])
        .ok();
    assert_eq!(out, "new\nhostname\nhosts\nnew\npasswd\nresolv.conf\n600\nfile\n");
    assert_eq!(stack.wharf(&["container", "run", "--rm", "committed:1"]).ok(), "new\n", "its own command");
    assert!(stack.wharf(&["image", "history", "committed:1"]).ok().contains("a test"));
    // A capability of a file goes along, into archives and images.
    let capability = [1, 0, 0, 2, 10, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let root_of = |name: &str| std::path::PathBuf::from(format!("/proc/{}/root", stack.pid(name)));
    stack.sh("app", "cp /bin/busybox /bin/capable");
    xattr::set(root_of(&name).join("bin/capable"), "security.capability", &capability).expect("setcap");
    stack.wharf(&["export", "-o", "root.tar", "app"]).ok();
    stack.wharf(&["image", "import", stack.path("root.tar").to_str().expect("path"), "exported"]).ok();
    stack.wharf(&["container", "run", "-d", "--name", "heir", "exported", "sleep", "1000"]).ok();
    let inherited = xattr::get(root_of("heir").join("bin/capable"), "security.capability").expect("getcap");
    assert_eq!(inherited.as_deref(), Some(&capability[..]));
    stack.wharf(&["container", "rm", "-f", "heir"]).ok();
    let mut archive = tar::Archive::new(std::fs::File::open(stack.path("root.tar")).expect("archive"));
    let names: Vec<String> =
        archive.entries().expect("tar").map(|e| e.expect("entry").path().expect("path").display().to_string()).collect();
    assert!(names.contains(&"bin/busybox".into()) && names.contains(&"etc/new".into()) && !names.contains(&"etc/group".into()));
    // It survives a save and a load: the layer's archive can be made again.
    stack.wharf(&["image", "save", "-o", "saved.tar", "committed:1"]).ok();
    stack.wharf(&["image", "rm", "committed:1"]).ok();
    stack.wharf(&["image", "load", "saved.tar"]).ok();
    assert_eq!(stack.wharf(&["container", "run", "--rm", "committed:1"]).ok(), "new\n");
}

#[test]
fn networks_are_joined_and_left_while_it_runs() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{a: {{{APP}, networks: [one]}}, b: {{{APP}, networks: [two]}}}}\nnetworks: {{one: {{internal: true}}, two: {{}}}}"));
    stack.wharf(&["up", "-d"]).ok();
    let (a, two) = (format!("{}-a-1", stack.project), format!("{}_two", stack.project));
    let reaches = || stack.wharf(&["exec", "-T", "a", "ping", "-c1", "-W1", "b"]).code == 0;
    assert!(!reaches());
    stack.wharf(&["network", "connect", "--alias", "second", &two, &a]).ok();
    assert!(reaches(), "by name, at once");
    assert!(stack.sh("b", "nslookup second").contains("Address"));
    assert!(stack.sh("a", "ip route").contains("default"), "its first way out");
    stack.wharf(&["network", "connect", &two, &a]).fails(1, &["already"]);
    // It stays over a restart, of the container and of the engine.
    stack.wharf(&["restart", "a"]).ok();
    assert!(reaches());
    stack.wharf(&["engine", "stop"]).ok();
    assert!(reaches());
    stack.wharf(&["network", "disconnect", &two, &a]).ok();
    assert!(!reaches());
    assert!(!stack.sh("a", "ip addr").contains("eth1"));
    assert_ne!(stack.wharf(&["exec", "-T", "b", "nslookup", "second"]).code, 0);
    stack.wharf(&["network", "create", "--subnet", "10.219.7.0/24", "mine"]).ok();
    stack.wharf(&["container", "run", "-d", "--name", "single", "--network", "mine", "busybox:local", "sleep", "100"]).ok();
    assert!(stack.wharf(&["container", "exec", "single", "ip", "addr"]).ok().contains("10.219.7.2/24"));
    stack.wharf(&["network", "rm", "mine"]).fails(1, &["in use by the container single"]);
    stack.wharf(&["container", "rm", "-f", "single"]).ok();
    assert_eq!(stack.wharf(&["network", "prune", "-f"]).ok().trim(), "mine");
    // Without a network of its own a container is on `bridge`, which is there as long as it is.
    stack.wharf(&["container", "run", "-d", "--name", "plain", "busybox:local", "sleep", "100"]).ok();
    assert!(stack.wharf(&["network", "ls"]).ok().contains(" bridge "));
    assert!(stack.wharf(&["container", "exec", "plain", "ip", "route"]).ok().contains("default"));
    stack.wharf(&["container", "rm", "-f", "plain"]).ok();
    assert!(stack.wharf(&["network", "inspect", "bridge", "-f", "{{.Created}}"]).ok().starts_with("0001"), "nobody is on it");
}

#[test]
fn volumes_containers_and_disk_are_looked_after() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        &format!(
            "services: {{app: {{{APP}, volumes: ['data:/data', /anonymous]}}}}\nvolumes: {{data: {{labels: {{role: db}}}}}}"
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    stack.sh("app", "dd if=/dev/zero of=/data/file bs=1M count=3 2>/dev/null; dd if=/dev/zero of=/own bs=1M count=2 2>/dev/null");
    assert!(stack.wharf(&["volumes", "-q"]).ok().lines().any(|l| l == format!("{}_data", stack.project)));
    let df = stack.wharf(&["system", "df", "-v"]).ok();
    assert!(df.contains("3.14MB") && df.contains("2.09MB") && df.contains("Local Volumes"), "{df}");
    stack.wharf(&["volume", "create", "--label", "a=b", "extra"]).ok();
    assert!(stack.wharf(&["volume", "inspect", "extra"]).ok().contains("\"a\": \"b\""));
    assert_eq!(stack.wharf(&["volume", "prune", "-af"]).ok().lines().next(), Some("extra"), "those in use stay");
    stack.wharf(&["volume", "create", "-o", "nope=1", "bad"]).fails(1, &["`nope`", "`type`"]);
    stack.wharf(&["container", "rename", &format!("{}-app-1", stack.project), "other-name"]).ok();
    assert!(stack.wharf(&["container", "ls"]).ok().contains("other-name"));
    stack.wharf(&["stop"]).ok();
    assert_eq!(stack.wharf(&["container", "prune", "-f"]).ok().lines().count(), 2);
    assert!(stack.ps().is_empty());
    stack.wharf(&["container", "inspect", "other-name"]).fails(1, &["No such container: other-name"]);
    let check = stack.wharf(&["system", "check"]).ok();
    assert!(check.contains("overlayfs") && check.contains("control groups"), "{check}");
}

#[test]
fn watched_files_take_effect() {
    let stack = Stack::new("nothing");
    std::fs::create_dir_all(stack.path("src/node_modules/big")).expect("directory");
    stack.write("src/a.txt", "one");
    stack.write("src/skipped.log", "log");
    stack.write("conf", "first");
    stack.write("Dockerfile", "FROM busybox:local\nCOPY conf /conf\nUSER app\nWORKDIR /app\n");
    stack.write(
        "compose.yaml",
        "services:
  app:
    build: .
    init: true
    command: sh -c 'echo started >> /tmp/starts; sleep 1000'
    stop_signal: SIGKILL
    develop:
      watch:
        - {action: sync, path: ./src, target: /app, ignore: [node_modules, '*.log'], initial_sync: true}
        - {action: rebuild, path: ./conf}
        - {action: sync+restart, path: ./restart, target: /tmp/restart}
        - {action: sync+exec, path: ./hook, target: /tmp/hook, exec: {command: sh -c 'cat /tmp/hook >> /tmp/hooked'}}
",
    );
    stack.write("restart", "0");
    stack.write("hook", "0");
    let mut watch = stack.command(&["watch"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("watch");
    let said = crate::support::follow(watch.stderr.take().expect("stderr"));
    eventually("the watch is enabled", 60, || said.lock().expect("lock").contains("Watch enabled"));
    assert_eq!(
        stack.sh("app", "cd /app && find . -type f; stat -c %u a.txt"),
        "./a.txt\n1000",
        "what was there, without what is ignored"
    );
    // A change, a new directory with what is in it, a removal.
    let (container, pid) = (stack.id("app"), stack.wharf(&["container", "inspect", &stack.id("app")]).ok());
    let pid: i32 = pid.split("\"Pid\": ").nth(1).expect("pid").split(',').next().expect("number").trim().parse().expect("number");
    let inside = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/root/app/{name}")).ok();
    let mut worst = Duration::ZERO;
    for round in 0..10 {
        let text = format!("round {round}");
        let begun = Instant::now();
        stack.write("src/a.txt", &text);
        eventually("the change is there", 5, || inside("a.txt").as_deref() == Some(&text));
        worst = worst.max(begun.elapsed());
    }
    eprintln!("the slowest of ten changes took {worst:?}");
    assert!(worst < Duration::from_millis(1000), "{worst:?}");
    std::fs::create_dir_all(stack.path("src/new/deeper")).expect("directory");
    stack.write("src/new/deeper/file", "deep");
    eventually("the new directory is there", 5, || inside("new/deeper/file").as_deref() == Some("deep"));
    stack.write("src/new/deeper/second", "late");
    eventually("it is watched as well", 5, || inside("new/deeper/second").as_deref() == Some("late"));
    stack.write("src/node_modules/big/x", "no");
    std::fs::remove_dir_all(stack.path("src/new")).expect("remove");
    eventually("what is gone is gone", 5, || {
        inside("new/deeper/second").is_none() && !std::path::Path::new(&format!("/proc/{pid}/root/app/new")).exists()
    });
    assert!(inside("node_modules/big/x").is_none());
    stack.write("hook", "ran\n");
    eventually("the command ran", 5, || stack.sh("app", "cat /tmp/hooked 2>/dev/null; true") == "ran");
    stack.write("restart", "1");
    eventually("it was restarted", 10, || {
        stack.wharf(&["exec", "-T", "app", "sh", "-c", "wc -l < /tmp/starts"]).stdout.trim() == "2"
    });
    assert_eq!(stack.id("app"), container);
    stack.write("conf", "second");
    eventually("it was rebuilt", 60, || stack.wharf(&["exec", "-T", "app", "cat", "/conf"]).stdout == "second");
    assert_ne!(stack.id("app"), container);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(watch.id() as i32), nix::sys::signal::Signal::SIGINT).expect("kill");
    assert_eq!(watch.wait().expect("wait").code(), Some(130));
    assert!(stack.path("src").metadata().expect("src").nlink() > 0);
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}}}}}"));
    stack.wharf(&["watch"]).fails(1, &["nothing to watch"]);
}

#[test]
fn commands_have_docker_composes_options() {
    let stack = Stack::new("nothing");
    let yaml = format!(
        "services:
  base: {{{0}}}
  web: {{{0}, depends_on: {{base: {{condition: service_started, restart: true}}}}}}
  old: {{{0}}}
",
        sleeping("")
    );
    stack.write("compose.yaml", &yaml);
    let ids = || ["base", "web"].map(|service| stack.id(service));
    // Nothing is done, and what would be is told.
    let told = stack.wharf(&["up", "-d", "--dry-run"]).ok();
    assert!(told.contains("create") && told.contains("web-1"), "{told}");
    assert!(stack.ps().is_empty());
    stack.wharf(&["up", "-d", "--scale", "web=2"]).ok();
    for command in ["stop", "restart", "kill", "down", "pull", "build"] {
        stack.wharf(&["--dry-run", command]).ok();
    }
    let told = stack.wharf(&["down", "--dry-run"]).ok();
    assert!(told.contains("web-2") && told.contains("network"), "{told}");
    assert!(stack.ps().iter().all(|c| c["State"] == "running"));
    stack.wharf(&["run", "--dry-run", "web", "true"]).fails(1, &["leave --dry-run out"]);
    // Who depends on a service is recreated or restarted with it, and the other way round, where that is asked for.
    let before = ids();
    stack.wharf(&["up", "-d", "--scale", "web=2", "--always-recreate-deps", "web"]).ok();
    let after = ids();
    assert!(before[0] != after[0] && before[1] == after[1], "{before:?} {after:?}");
    let pids = || ["base-1", "web-1", "old-1"].map(|name| stack.pid(&format!("{}-{name}", stack.project)));
    let (before, _) = (pids(), stack.wharf(&["restart", "--no-deps", "base"]).ok());
    let after = pids();
    assert!(before[0] != after[0] && before[1] == after[1] && before[2] == after[2], "--no-deps");
    let (before, _) = (pids(), stack.wharf(&["restart", "base"]).ok());
    let after = pids();
    assert!(before[0] != after[0] && before[1] != after[1] && before[2] == after[2], "restart: true");
    // Of several containers one.
    stack.wharf(&["exec", "-T", "--index", "2", "web", "sh", "-c", "echo second > /proc/1/fd/1"]).ok();
    eventually("the second's alone", 10, || stack.wharf(&["logs", "--index", "2", "web"]).stdout == "web-2  | second\n");
    assert_eq!(stack.wharf(&["logs", "--index", "1", "web"]).stdout, "");
    // Orphans are shown, unless they are not wanted, and go with `kill --remove-orphans`.
    stack.write("compose.yaml", &yaml.replace("  old:", "  new:"));
    let services = |args: &[&str]| stack.wharf(&[&["ps", "--services"], args].concat()).ok();
    assert_eq!(services(&[]), "base\nold\nweb\n");
    assert_eq!(services(&["--orphans=false"]), "base\nweb\n");
    stack.wharf(&["kill", "--remove-orphans", "base"]).ok();
    assert_eq!(services(&["-a"]), "base\nweb\n");
    assert_eq!(services(&["--filter", "status=exited"]), "base\n");
    stack.wharf(&["ps", "--filter", "colour=red"]).fails(1, &["status=STATE"]);
    assert!(stack.wharf(&["ps", "--no-trunc"]).ok().contains("\"sleep 1000\""));
    let named = |name: &str| stack.wharf(&["ls", "-q", "--filter", &format!("name={name}")]).ok();
    assert_eq!((named(&stack.project), named("another")), (format!("{}\n", stack.project), String::new()));
    assert_eq!(stack.wharf(&["version", "--short"]).ok(), format!("{}\n", env!("CARGO_PKG_VERSION")));
    assert!(stack.wharf(&["version", "-f", "json"]).ok().contains("\"version\""));
    // Progress and colours as they are asked for.
    let steps = |args: &[&str]| stack.wharf(&[args, &["up", "-d"]].concat()).stderr;
    assert!(steps(&["--progress", "quiet"]).is_empty());
    assert!(steps(&["--progress", "plain", "--compatibility", "--parallel", "-1"]).contains("Running"));
    stack.wharf(&["exec", "-T", "web", "sh", "-c", "echo third > /proc/1/fd/1"]).ok();
    eventually("it is written", 10, || stack.wharf(&["logs", "web"]).stdout == "web-1  | third\n");
    let coloured = |when: &str| stack.wharf(&["--ansi", when, "logs", "web"]).stdout.contains("\x1b[");
    assert!(coloured("always") && !coloured("never") && !coloured("auto"));
}

#[test]
fn a_single_container_has_docker_runs_options() {
    let stack = Stack::new("nothing");
    let run = |args: &[&str]| stack.wharf(&[&["container", "run"], args].concat());
    let shell = |args: &[&str], script: &str| run(&[&["--rm"], args, &["busybox:local", "sh", "-c", script]].concat()).ok();
    stack.write("vars", "# a comment\nFROM_FILE=one two\nHOME\n");
    stack.write("labels", "l1=from-file\n");
    stack.write("shown", "of the host\n");
    std::fs::create_dir(stack.path("dir")).expect("dir");
    // What it sees.
    let vars = stack.path("vars").display().to_string();
    let env = shell(&["--env-file", &vars, "-e", "A=b"], "echo $FROM_FILE $A $HOME");
    assert_eq!(env, format!("one two b {}\n", std::env::var("HOME").unwrap_or_default()));
    let bind = format!("type=bind,src={},dst=/in/shown,readonly", stack.path("shown").display());
    let seen = shell(
        &[
            "--mount",
            &bind,
            "--mount",
            "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700",
            "--tmpfs",
            "/u:size=2m",
            "-v",
            "/anon",
        ],
        "cat /in/shown; touch /in/shown 2>&1; stat -c %a /t; df -k /t /u | awk 'NR > 1 { print $2 }'; grep -c ' /anon ' /proc/mounts",
    );
    assert_eq!(seen, "of the host\ntouch: /in/shown: Read-only file system\n700\n1024\n2048\n1\n");
    let names = shell(
        &[
            "--hostname",
            "me",
            "--domainname",
            "example.org",
            "--add-host",
            "other:1.2.3.4",
            "--dns-search",
            "x.org",
            "--dns-option",
            "timeout:2",
        ],
        "hostname; cat /proc/sys/kernel/domainname; grep -c '1.2.3.4' /etc/hosts; grep -E 'search|options' /etc/resolv.conf",
    );
    assert_eq!(names, "me\nexample.org\n1\nsearch x.org\noptions timeout:2 ndots:0\n");
    let process = shell(
        &[
            "--ulimit",
            "nofile=100:200",
            "--oom-score-adj",
            "300",
            "--sysctl",
            "net.core.somaxconn=77",
            "--user",
            "app",
            "--group-add",
            "33",
        ],
        "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj /proc/sys/net/core/somaxconn; id -G",
    );
    assert_eq!(process, "100\n200\n300\n77\n1000 4 33\n");
    // Limits are in its group.
    run(&[
        "-d",
        "--name",
        "limited",
        "-m",
        "64m",
        "--memory-swap",
        "-1",
        "--pids-limit",
        "17",
        "-c",
        "512",
        "--cpu-period",
        "50000",
        "--cpu-quota",
        "25000",
        "--cpuset-cpus",
        "0",
        "--cpuset-mems",
        "0",
        "--label-file",
        &stack.path("labels").display().to_string(),
        "-l",
        "l2=b",
        "--annotation",
        "n=1",
        "--stop-timeout",
        "0",
        "--log-opt",
        "max-size=1m",
        "--cidfile",
        "id",
        "busybox:local",
        "sleep",
        "1000",
    ])
    .ok();
    let id = std::fs::read_to_string(stack.path("id")).expect("the id's file");
    let known: serde_json::Value = serde_json::from_str(&stack.wharf(&["container", "inspect", "limited"]).ok()).expect("JSON");
    assert_eq!(known[0]["Id"], id.as_str());
    assert_eq!((&known[0]["Config"]["Labels"]["l1"], &known[0]["Config"]["Labels"]["l2"]), (&"from-file".into(), &"b".into()));
    let text = |file: &str| {
        let root = std::path::Path::new("/sys/fs/cgroup");
        let v1 = root.join(file.split('.').next().expect("controller")).join("wharf").join(&id).join(file);
        std::fs::read_to_string(v1).map(|text| text.trim().to_string())
    };
    if let Ok(memory) = text("memory.limit_in_bytes") {
        assert_eq!(memory, (64 << 20).to_string());
        assert_eq!(text("pids.max").expect("pids"), "17");
        assert_eq!(text("cpu.shares").expect("shares"), "512");
        assert_eq!(text("cpu.cfs_quota_us").expect("quota"), "25000");
        assert_eq!(text("cpuset.cpus").expect("cpuset"), "0");
        assert_eq!(text("cpuset.mems").expect("memory nodes"), "0");
        stack.wharf(&["container", "update", "--memory-reservation", "32m", "--cpu-quota", "30000", "limited"]).ok();
        assert_eq!(text("memory.soft_limit_in_bytes").expect("reservation"), (32 << 20).to_string());
        assert_eq!(text("cpu.cfs_quota_us").expect("quota"), "30000");
    }
    run(&["--cpuset-mems", "63", "busybox:local", "true"]).fails(125, &["Requested memory nodes are not available"]);
    run(&["--cidfile", "id", "busybox:local", "true"]).fails(125, &["id", "exists"]);
    // Networks, names and volumes of others.
    stack.wharf(&["network", "create", "one"]).ok();
    stack.wharf(&["network", "create", "two"]).ok();
    run(&[
        "-d",
        "--name",
        "on-both",
        "--network",
        "one",
        "--network",
        "two",
        "--network-alias",
        "called",
        "-v",
        "kept:/data",
        "--health-cmd",
        "test -e /data/healthy",
        "--health-interval",
        "50ms",
        "--expose",
        "81",
        "-P",
        "busybox:local",
        "sleep",
        "1000",
    ])
    .ok();
    assert!(shell(&["--network", "one"], "nslookup called").contains("Address"));
    assert!(shell(&["--network", "two"], "nslookup on-both").contains("Address"));
    assert!(stack.wharf(&["container", "port", "on-both"]).ok().starts_with("81/tcp -> "));
    assert_eq!(shell(&["--volumes-from", "on-both"], "touch /data/healthy; ls /data"), "healthy\n");
    let health = || stack.wharf(&["container", "inspect", "on-both"]).ok().contains("\"Status\": \"healthy\"");
    eventually("it is healthy", 20, health);
    // Who leaves has it removed when it has ended, by whichever engine runs then; who stays does so himself.
    let all = || stack.wharf(&["container", "ls", "-aq", "--no-trunc"]).ok();
    let short = run(&["-d", "--rm", "-v", "/gone", "busybox:local", "sleep", "0.3"]).ok();
    let long = run(&["-d", "--rm", "--stop-signal", "SIGKILL", "busybox:local", "sleep", "1000"]).ok();
    eventually("it is removed", 10, || !all().contains(short.trim()));
    assert!(all().contains(long.trim()));
    stack.wharf(&["engine", "stop"]).ok();
    stack.wharf(&["container", "stop", "-t", "0", long.trim()]).ok();
    eventually("it is removed", 10, || !all().contains(long.trim()));
    assert_eq!(stack.wharf(&["volume", "ls", "-q"]).ok(), "kept\n", "anonymous volumes went with theirs");
    // One that exists is started with its output shown.
    stack.wharf(&["container", "create", "--name", "again", "busybox:local", "sh", "-c", "echo started; exit 4"]).ok();
    for _ in 0..2 {
        let shown = stack.wharf(&["container", "start", "-a", "again"]);
        assert_eq!((shown.code, shown.stdout.as_str()), (4, "started\n"));
    }
    assert!(stack.wharf(&["container", "ls", "-l"]).ok().contains("again"));
    // One that runs is attached to.
    let script = "until [ -e /go ]; do echo .; sleep 0.02; done; exit 5";
    run(&["-d", "--name", "runs", "busybox:local", "sh", "-c", script]).ok();
    let mut attached = stack.command(&["container", "start", "-a", "runs"]);
    let mut attached = attached.stdout(std::process::Stdio::piped()).spawn().expect("spawned");
    let shown = follow(attached.stdout.take().expect("pipe"));
    eventually("its output is shown", 10, || shown.lock().expect("lock").contains('.'));
    stack.wharf(&["container", "exec", "runs", "touch", "/go"]).ok();
    assert_eq!(attached.wait().expect("wait").code(), Some(5));
    stack.wharf(&["container", "rm", "runs"]).ok();
    run(&["--gpus", "all", "busybox:local", "true"]).fails(125, &["CDI"]);
    run(&["--platform", "linux/s390x", "busybox:local", "true"]).fails(125, &["s390x"]);
    run(&["--mount", "type=bind,dst=/x", "busybox:local", "true"]).fails(125, &["source=PATH"]);
    for name in ["limited", "on-both", "again"] {
        stack.wharf(&["container", "rm", "-f", name]).ok();
    }
    for network in ["one", "two"] {
        stack.wharf(&["network", "rm", network]).ok();
    }
    stack.wharf(&["volume", "rm", "kept"]).ok();
    // The same for a command of a service.
    stack.write("compose.yaml", &format!("services: {{app: {{{}}}}}", sleeping("")));
    stack.wharf(&["run", "-d", "--rm", "app", "true"]).ok();
    eventually("it is removed", 10, || all().is_empty());
}

#[test]
fn lists_and_what_is_known_take_templates() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        &format!("services: {{app: {{{}}}}}\nvolumes: {{data: {{}}}}", sleeping("labels: {a: b}, volumes: ['data:/d']")),
    );
    stack.wharf(&["up", "-d"]).ok();
    let (name, project) = (format!("{}-app-1", stack.project), &stack.project);
    let said = |args: &[&str]| stack.wharf(args).ok();
    let inspected = |template: &str| said(&["container", "inspect", "-f", template, &name]);
    assert_eq!(inspected("{{.State.Status}} {{.State.Running}}"), "running true\n");
    assert_eq!(inspected("{{index .Config.Labels \"a\"}}"), "b\n");
    assert_eq!(inspected("{{range .Mounts}}{{.Type}}:{{.Destination}}{{end}}"), "volume:/d\n");
    assert_eq!(inspected("{{range $k, $v := .NetworkSettings.Networks}}{{$k}}{{end}}"), format!("{project}_default\n"));
    assert_eq!(inspected("{{json .Config.Cmd}}"), "[\"sleep\",\"1000\"]\n");
    stack.wharf(&["container", "inspect", "-f", "{{.Stat}}", &name]).fails(1, &["did you mean `State`"]);
    stack.wharf(&["container", "inspect", "-f", "{{.State", &name]).fails(1, &["never closed"]);
    assert_eq!(said(&["ps", "--format", "{{.Name}} {{.State}}"]), format!("{name} running\n"));
    let table = said(&["container", "ls", "--format", "table {{.Names}}\\t{{.Image}}"]);
    assert_eq!(table.lines().next().map(|line| line.split_whitespace().collect::<Vec<_>>()), Some(vec!["NAMES", "IMAGE"]));
    assert!(table.contains(&name), "{table}");
    let line: serde_json::Value = serde_json::from_str(&said(&["container", "ls", "--format", "json"])).expect("JSON");
    assert_eq!((&line["Names"], &line["State"]), (&name.as_str().into(), &"running".into()));
    said(&["image", "tag", "busybox:local", "other:1"]);
    assert_eq!(said(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]), "busybox:local\nother:1\n");
    assert_eq!(said(&["image", "ls", "-q"]).lines().count(), 1);
    assert!(said(&["image", "inspect", "-f", "{{.Id}}", "busybox:local"]).starts_with("sha256:"));
    assert_eq!(
        said(&["network", "ls", "--filter", &format!("name={project}"), "--format", "{{.Name}} {{.Driver}}"]),
        format!("{project}_default bridge\n")
    );
    assert_eq!(said(&["volume", "ls", "--format", "{{.Name}}"]), format!("{project}_data\n"));
    assert!(said(&["volume", "inspect", "-f", "{{.Mountpoint}}", &format!("{project}_data")]).ends_with("/_data\n"));
    assert_eq!(said(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"]), format!("{name} 1\n"));
    stack.wharf(&["ps", "--format", "yaml"]).fails(1, &["table, json, or a template"]);
    // A prune takes what has a label alone.
    for (volume, label) in [("one", "keep=no"), ("two", "keep=yes")] {
        said(&["volume", "create", "--label", label, volume]);
        said(&["network", "create", "--label", label, volume]);
        said(&["container", "create", "--name", volume, "-l", label, "busybox:local"]);
    }
    assert_eq!(said(&["container", "prune", "-f", "--filter", "label=keep=no"]).lines().count(), 2, "an id, and the space");
    assert!(said(&["volume", "prune", "-af", "--filter", "label=keep=no"]).starts_with("one\n"));
    assert_eq!(said(&["network", "prune", "-f", "--filter", "label=keep=no"]), "one\n");
    assert_eq!(said(&["container", "ls", "-a", "--filter", "label=keep=yes", "--format", "{{.Names}}"]), "two\n");
    said(&["container", "rm", "two"]);
    said(&["volume", "rm", "two"]);
    said(&["network", "rm", "two"]);
    said(&["image", "rm", "-f", "other:1"]);
}

#[test]
fn a_container_is_stopped_and_joined_as_it_is_asked_for() {
    let stack = Stack::new("nothing");
    let run = |args: &[&str]| stack.wharf(&[&["container", "run"], args].concat());
    let script = "trap 'exit 3' USR1; echo ready; while :; do sleep 0.02; done";
    run(&["-d", "--name", "one", "--stop-signal", "KILL", "busybox:local", "sh", "-c", script]).ok();
    let ready = || eventually("it runs", 10, || stack.wharf(&["container", "logs", "-n", "1", "one"]).stdout == "ready\n");
    let code = || stack.wharf(&["container", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one"]).ok();
    ready();
    stack.wharf(&["container", "stop", "--signal", "USR1", "one"]).ok();
    assert_eq!(code(), "exited 3\n");
    stack.wharf(&["container", "start", "one"]).ok();
    let started = || stack.wharf(&["container", "logs", "one"]).ok().matches("ready").count();
    eventually("it runs again", 10, || started() == 2);
    stack.wharf(&["container", "restart", "-s", "SIGUSR1", "--timeout", "5", "one"]).ok();
    eventually("it was restarted", 10, || started() == 3);
    let ends = stack.wharf(&[
        "system",
        "events",
        "--since",
        "10m",
        "--until",
        "0s",
        "-f",
        "container=one",
        "-f",
        "event=die",
        "--format",
        "{{.Actor.Attributes.exitCode}}",
    ]);
    assert_eq!(ends.ok(), "3\n3\n");
    stack.wharf(&["container", "stop", "-s", "NOPE", "one"]).fails(1, &["invalid signal: NOPE"]);
    stack.wharf(&["container", "rm", "-f", "one"]).ok();
    // Of what it writes that alone which is asked for.
    let both = "echo out; echo err >&2";
    for (streams, expected) in [
        (vec!["-a", "stdout"], ("out\n", "")),
        (vec!["-a", "STDERR"], ("", "err\n")),
        (vec!["-a", "stdout", "-a", "stderr"], ("out\n", "err\n")),
    ] {
        let ran = run(&[&["--rm"], &streams[..], &["busybox:local", "sh", "-c", both]].concat());
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), expected, "{streams:?}");
    }
    run(&["-d", "-a", "stdout", "busybox:local", "true"]).fails(1, &["--attach and --detach"]);
}

#[test]
fn what_has_happened_is_told_afterwards() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}}}, other: {{{APP}}}}}"));
    let begun = jiff::Timestamp::now().to_string();
    stack.wharf(&["up", "-d"]).ok();
    let middle = jiff::Timestamp::now().to_string();
    stack.wharf(&["kill", "app"]).ok();
    let told = |args: &[&str]| -> Vec<String> {
        let text = stack.wharf(&[&["events", "--json", "--until", "0s"], args].concat()).ok();
        let event = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
        let named = |event: serde_json::Value| {
            format!("{} {}", event["service"].as_str().expect("service"), event["action"].as_str().expect("action"))
        };
        text.lines().map(event).map(named).collect()
    };
    // A signal is sent at once; the end that it brings comes when it comes.
    eventually("its end is told", 10, || told(&["--since", &begun]).contains(&"app die".to_string()));
    let all = told(&["--since", &begun]);
    assert_eq!(all.iter().filter(|event| event.ends_with("create")).count(), 2, "{all:?}");
    assert!(all.contains(&"app kill".to_string()), "{all:?}");
    let later = told(&["--since", &middle, "app"]);
    assert!(later.iter().all(|event| !event.ends_with("create")) && later.contains(&"app die".to_string()), "{later:?}");
    assert!(told(&[]).is_empty(), "nothing of before is told unless it is asked for");
    // Until a time that comes.
    let soon = (jiff::Timestamp::now() + Duration::from_millis(700)).to_string();
    let watching = stack
        .command(&["system", "events", "--until", &soon, "--format", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("events");
    stack.wharf(&["volume", "create", "seen"]).ok();
    let seen = watching.wait_with_output().expect("events");
    assert!(seen.status.success());
    let text = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(text.lines().count() <= 1 && (text.is_empty() || text.contains("seen")), "{text}");
    stack.wharf(&["volume", "rm", "seen"]).ok();
    stack.wharf(&["system", "events", "--filter", "nope=1"]).fails(125, &["nope=1"]);
}

#[test]
fn images_are_found_by_what_they_are() {
    let stack = Stack::new("nothing");
    for (n, tag) in ["team/one:1", "team/two:2"].iter().enumerate() {
        stack
            .write("Dockerfile", &format!("FROM busybox:local\nLABEL number={n} com.example.own-name=x{n}\nRUN echo {n} > /n\n"));
        stack.wharf(&["image", "build", "-q", "-t", tag, "."]).ok();
        // Docker compares seconds.
        std::thread::sleep(Duration::from_millis(1100));
    }
    let list = |args: &[&str]| -> Vec<String> {
        let text = stack.wharf(&[&["image", "ls", "--format", "{{.Repository}}"], args].concat()).ok();
        let mut names: Vec<String> = text.lines().map(str::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(list(&["-f", "reference=team/*"]), ["team/one", "team/two"]);
    assert_eq!(list(&["-f", "reference=*/*:2"]), ["team/two"]);
    assert_eq!(list(&["-f", "label=number=0"]), ["team/one"]);
    assert_eq!(list(&["-f", "since=team/one:1"]), ["team/two"]);
    assert_eq!(list(&["-f", "before=team/two:2", "-f", "label=number"]), ["team/one"]);
    assert!(list(&["-f", "dangling=true"]).is_empty());
    stack.wharf(&["image", "ls", "-f", "since=nothing:1"]).fails(1, &["nothing:1"]);
    let shown = |format: &str| stack.wharf(&["image", "ls", "--format", format, "team/two"]).ok();
    assert_eq!(shown("{{.Label \"number\"}} {{.Label \"none\"}}."), "1 .\n");
    assert_eq!(shown("table {{.Label \"com.example.own-name\"}}"), "OWN NAME\nx1\n");
    assert!(!shown("json").contains("\"Label\"") && !shown("{{json .}}").contains("\"Label\""));
    let digest = stack.wharf(&["image", "inspect", "-f", "{{index .RepoDigests 0}}", "team/two:2"]).ok();
    let digests = stack.wharf(&["image", "ls", "--digests", "team/two"]).ok();
    assert!(digests.contains("DIGEST") && digests.contains(digest.trim().split('@').nth(1).expect("a digest")), "{digests}");
}

#[test]
fn options_after_a_name_belong_to_the_command() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{web: {{{APP}, environment: {{KEPT: file, TAKEN: file}}}}}}"));
    stack.write(".env", "TAKEN=of-env-file\n");
    let said = |arguments: &[&str]| stack.wharf(arguments).ok().trim().to_string();
    // What looks like an option of wharf's is the command's.
    assert_eq!(
        said(&["run", "--rm", "-T", "web", "echo", "-v", "-e", "A=b", "--help", "--rm=false", "--data-root"]),
        "-v -e A=b --help --rm=false --data-root"
    );
    assert_eq!(said(&["container", "run", "--rm", "busybox:local", "echo", "-c", "--help"]), "-c --help");
    assert_eq!(said(&["container", "run", "--rm", "--entrypoint", "echo", "busybox:local", "--cpus", "-it"]), "--cpus -it");
    let id = said(&["container", "create", "busybox:local", "sleep", "--help"]);
    let made: serde_json::Value = serde_json::from_str(&said(&["container", "inspect", &id])).expect("JSON");
    assert_eq!(made[0]["Config"]["Cmd"], serde_json::json!(["sleep", "--help"]));
    said(&["container", "rm", &id]);
    // Docker's letters where no terminal is, and Go's switches.
    assert_eq!(
        said(&["run", "--rm=true", "-it", "-e", "KEPT", "-e", "TAKEN", "web", "sh", "-c", "echo $KEPT $TAKEN"]),
        "file of-env-file"
    );
    said(&["compose", "up", "--detach=true", "--yes"]);
    assert_eq!(
        said(&["exec", "-T", "-e", "KEPT", "-e", "TAKEN", "-e", "N=1", "web", "sh", "-c", "echo $KEPT $TAKEN $N"]),
        "file of-env-file 1"
    );
    assert_eq!(said(&["compose", "exec", "-it", "web", "echo", "-T", "--index=2"]), "-T --index=2");
    let name = stack.ps()[0]["Name"].as_str().expect("a name").to_string();
    assert_eq!(said(&["container", "exec", &name, "echo", "-u", "x"]), "-u x");
    // A wrong option is Docker's exit code.
    assert_eq!(stack.wharf(&["up", "--no-such-option"]).code, 1);
    assert_eq!(stack.wharf(&["container", "run", "--no-such-option", "busybox:local"]).code, 125);
    // Exit codes of what runs.
    for (script, code) in [("exit 3", 3), ("kill -INT $$", 130), ("kill -KILL $$", 137), ("kill -TERM $$", 143)] {
        assert_eq!(stack.wharf(&["exec", "-T", "web", "sh", "-c", script]).code, code, "{script}");
    }
    for (program, code) in [("/no-such", 127), ("/etc", 126)] {
        assert_eq!(stack.wharf(&["container", "run", "--rm", "busybox:local", program]).code, code, "{program}");
    }
    said(&["start", "--wait"]);
    said(&["down"]);
}

/// The keys of an object in JSON, each with the letter of its type.
fn shape(value: &serde_json::Value) -> String {
    let kind = |value: &serde_json::Value| match value {
        serde_json::Value::String(_) => "s",
        serde_json::Value::Number(_) => "n",
        serde_json::Value::Array(_) => "a",
        serde_json::Value::Object(_) => "o",
        serde_json::Value::Bool(_) => "b",
        serde_json::Value::Null => "-",
    };
    let fields = value.as_object().into_iter().flatten().map(|(key, value)| format!("{key}:{}", kind(value)));
    fields.collect::<Vec<_>>().join(" ")
}

#[test]
fn what_scripts_read_has_dockers_keys_and_types() {
    let stack = Stack::new("nothing");
    let app = format!("{APP}, labels: {{a: b}}, ports: ['127.0.0.1::80'], volumes: ['data:/data']");
    stack.write("compose.yaml", &format!("services: {{web: {{{app}}}}}\nvolumes: {{data: }}\n"));
    stack.wharf(&["up", "-d"]).ok();
    // The count of restarts is beyond Docker's.
    let container = "Command:s CreatedAt:s ExitCode:n Health:s ID:s Image:s Labels:s LocalVolumes:s Mounts:s Name:s Names:s Networks:s Ports:s Project:s Publishers:a RestartCount:n RunningFor:s Service:s Size:s State:s Status:s";
    let of_docker = "Command:s CreatedAt:s ID:s Image:s Labels:s LocalVolumes:s Mounts:s Names:s Networks:s Ports:s RunningFor:s Size:s State:s Status:s";
    let image = "ID:s ContainerName:s Repository:s Tag:s Platform:s Size:n Created:s";
    // A line of objects, or a list of them, as Docker prints each.
    let table: [(&[&str], bool, &str); 8] = [
        // As a plugin of the docker command.
        (&["docker-cli-plugin-metadata"], false, "SchemaVersion:s Vendor:s Version:s ShortDescription:s"),
        (&["ps", "--format", "json"], false, container),
        (&["ps", "--format", "json", "--no-trunc"], false, container),
        (&["container", "ls", "--format", "json"], false, of_docker),
        (&["images", "--format", "json"], true, image),
        (&["ls", "--format", "json"], true, "Name:s Status:s ConfigFiles:s"),
        (&["version", "--format", "json"], false, "version:s"),
        (&["config", "--variables", "--format", "json"], false, ""),
    ];
    for (arguments, list, expected) in table {
        let text = stack.wharf(arguments).ok();
        let value: serde_json::Value = serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"));
        assert_eq!(value.is_array(), list, "{arguments:?}: {text}");
        assert_eq!(shape(if list { &value[0] } else { &value }), expected, "{arguments:?}");
    }
    let row: serde_json::Value = serde_json::from_str(&stack.wharf(&["ps", "--format", "json"]).ok()).expect("JSON");
    assert_eq!(row["ID"].as_str().map(str::len), Some(12));
    assert!(row["Labels"].as_str().is_some_and(|labels| labels.split(',').any(|label| label == "a=b")), "{row}");
    assert_eq!(shape(&row["Publishers"][0]), "URL:s TargetPort:n PublishedPort:n Protocol:s");
    assert_eq!((&row["LocalVolumes"], row["Networks"].as_str().is_some_and(|n| n.ends_with("_default"))), (&"1".into(), true));
    assert!(row["CreatedAt"].as_str().is_some_and(|time| time.split(' ').count() == 4), "{row}");
    let port = row["Publishers"][0]["PublishedPort"].to_string();
    assert_eq!(stack.wharf(&["port", "web", "80"]).ok().trim(), format!("127.0.0.1:{port}"));
    let hash = stack.wharf(&["config", "--hash", "*"]).ok();
    let (name, digits) = hash.trim().split_once(' ').expect("a name and its hash");
    assert_eq!((name, digits.len(), digits.bytes().all(|b| b.is_ascii_hexdigit())), ("web", 64, true), "{hash}");
    let until = jiff::Timestamp::now().as_second() + 1;
    let events = stack.wharf(&["events", "--json", "--since", "10m", "--until", &until.to_string()]).ok();
    let event: serde_json::Value = serde_json::from_str(events.lines().next().expect("an event")).expect("JSON");
    assert_eq!(shape(&event), "action:s attributes:o id:s service:s time:s type:s");
    for since in ["2020-01-02", "2020-01-02T03:04", "10m", "1577934245.5"] {
        stack.wharf(&["logs", "--since", since]).ok();
    }
    stack.wharf(&["logs", "--since", "yesterday"]).fails(1, &["is no time", "10m"]);
    stack.wharf(&["down", "-v"]).ok();
}

#[test]
fn a_shell_with_a_small_stack_can_run_everything() {
    let stack = Stack::bare("nothing");
    stack.write("compose.yaml", "services: {a: {image: 'busybox:local'}}");
    for args in [&["--version"][..], &["config", "-q"], &["ps"], &["container", "create", "--help"]] {
        let like = stack.command(args);
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "ulimit -Ss 512; exec \"$0\" \"$@\""]).arg(like.get_program()).args(like.get_args());
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ran = command.current_dir(stack.path(".")).output().expect("sh");
        assert!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }
}
