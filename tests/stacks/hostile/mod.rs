//! A hostile container: the published ways out, each tried as it was published, and the ways to others on the host.

mod confinement;
mod files;
mod floods;
mod images;
mod starts;

use crate::support::{Stack, eventually};

const APP: &str = "image: busybox:local, command: sleep 1000, stop_signal: SIGKILL";

fn digest(path: &std::path::Path) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(std::fs::read(path).expect("read")).iter().map(|b| format!("{b:02x}")).collect()
}

/// CVE-2019-5736: the runtime's program is overwritten through /proc/PID/exe while it enters the container.
#[test]
fn the_runtimes_program_cannot_be_overwritten() {
    let stack = Stack::new("nothing");
    stack.compile("exe_writer");
    stack.write(
        "compose.yaml",
        &format!("services: {{app: {{{APP}, volumes: ['./exe_writer:/writer:ro'], cap_add: [SYS_PTRACE, DAC_READ_SEARCH]}}}}"),
    );
    stack.wharf(&["up", "-d"]).ok();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_wharf"));
    let before = digest(program);
    // As published: a program that is wharf's own, by `#!/proc/self/exe`.
    stack.sh("app", "printf '#!/proc/self/exe\\n' > /bin/evil; chmod +x /bin/evil");
    let watching =
        stack.command(&["exec", "-T", "app", "/writer", "2"]).stdout(std::process::Stdio::piped()).spawn().expect("exec");
    for _ in 0..40 {
        stack.wharf(&["exec", "-T", "app", "/bin/evil"]);
        stack.wharf(&["exec", "-T", "app", "true"]);
    }
    let said = watching.wait_with_output().expect("output");
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("written 0"), "{said}");
    assert_eq!(digest(program), before);
    stack.wharf(&["exec", "-T", "app", "true"]).ok();
}

/// CVE-2016-9962: a container with SYS_PTRACE opens the descriptors of whoever enters it, and changes its memory while it has more
/// capabilities than the container.
#[test]
fn who_enters_a_container_brings_nothing_that_it_could_take() {
    let stack = Stack::new("nothing");
    stack.compile("tracer");
    let check = "healthcheck: {test: ['CMD', 'true'], interval: 300ms}";
    stack.write(
        "compose.yaml",
        &format!("services: {{app: {{{APP}, volumes: ['./tracer:/tracer:ro'], cap_add: [SYS_PTRACE], {check}}}}}"),
    );
    stack.wharf(&["up", "-d"]).ok();
    let watching =
        stack.command(&["exec", "-T", "app", "/tracer", "3"]).stdout(std::process::Stdio::piped()).spawn().expect("exec");
    // One after the other, and several at once.
    for at_once in [1; 40].into_iter().chain([4; 10]) {
        let exec = || stack.command(&["exec", "-T", "app", "true"]).spawn().expect("exec");
        let execs: Vec<_> = (0..at_once).map(|_| exec()).collect();
        execs.into_iter().for_each(|mut exec| assert!(exec.wait().expect("exec").success()));
    }
    let said = watching.wait_with_output().expect("output");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "directories 0 capabilities 0 memory 0 of some\n");
}

/// The same of a container that shares its processes: another one joins them, and sets itself up there.
#[test]
fn who_joins_a_containers_processes_brings_nothing_that_it_could_take() {
    let stack = Stack::new("nothing");
    stack.compile("tracer");
    let tracer = "volumes: ['./tracer:/tracer:ro'], cap_add: [SYS_PTRACE]";
    stack.write(
        "compose.yaml",
        &format!("services: {{app: {{{APP}, {tracer}}}, joins: {{{APP}, pid: 'service:app', depends_on: [app]}}}}"),
    );
    stack.wharf(&["up", "-d"]).ok();
    let watching =
        stack.command(&["exec", "-T", "app", "/tracer", "3"]).stdout(std::process::Stdio::piped()).spawn().expect("exec");
    let joins = format!("{}-joins-1", stack.project);
    for _ in 0..8 {
        stack.wharf(&["container", "restart", "-t", "0", &joins]).ok();
    }
    let said = watching.wait_with_output().expect("output");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "directories 0 capabilities 0 memory 0 of some\n");
    // An engine that dies in between has left it frozen.
    let app = format!("{}-app-1", stack.project);
    let freezer = stack.group(&app, "freezer");
    stack.wharf(&["engine", "stop"]).ok();
    let (file, word) = if freezer.join("freezer.state").exists() { ("freezer.state", "FROZEN") } else { ("cgroup.freeze", "1") };
    std::fs::write(freezer.join(file), word).expect("freezer");
    assert_eq!(stack.sh("app", "echo runs"), "runs");
}

/// CVE-2024-21626: a working directory by a descriptor that leads to the host.
#[test]
fn no_descriptor_leads_to_the_host() {
    let stack = Stack::new("nothing");
    for n in 0..16 {
        stack.write("compose.yaml", &format!("services: {{app: {{{APP}, working_dir: /proc/self/fd/{n}}}}}"));
        let up = stack.wharf(&["up", "-d", "--force-recreate"]);
        if up.code == 0 {
            let seen = stack.sh("app", "pwd; ls -a ../../../../../.. 2>/dev/null | tr '\\n' ' '");
            assert!(!seen.contains("boot") && !seen.contains("srv") && !seen.contains("unreachable"), "{n}: {seen}");
        }
    }
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}}}}}"));
    stack.wharf(&["up", "-d", "--force-recreate"]).ok();
    for n in 0..16 {
        let out = stack.wharf(&[
            "exec",
            "-T",
            "-w",
            &format!("/proc/self/fd/{n}"),
            "app",
            "sh",
            "-c",
            "ls -a ../../../../../.. | tr '\\n' ' '",
        ]);
        assert!(!out.stdout.contains("boot") && !out.stdout.contains("srv"), "{n}: {}", out.stdout);
    }
    let open = stack.sh("app", "for f in /proc/self/fd/*; do readlink $f; done; true");
    assert!(open.lines().all(|l| l.starts_with("/dev/null") || l.starts_with("pipe:") || l.starts_with("/proc/")), "{open}");
}

/// CVE-2021-30465, CVE-2019-16884, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: links where something is to be mounted.
#[test]
fn links_lead_no_mount_out() {
    let stack = Stack::new("nothing");
    std::fs::create_dir_all(stack.path("outside/target")).expect("directory");
    std::fs::create_dir_all(stack.path("mounted")).expect("directory");
    stack.write("mounted/file", "mounted");
    let outside = stack.path("outside");
    // A volume in which an earlier container has put links, and another mounts below them.
    stack.write(
        "compose.yaml",
        &format!("services: {{a: {{{APP}, volumes: ['vol:/v']}}, b: {{{APP}, profiles: [later], volumes: ['vol:/v', './mounted:/v/link/target', './mounted:/v/up/x', './mounted/file:/v/file/y']}}}}\nvolumes: {{vol: {{}}}}"),
    );
    stack.wharf(&["up", "-d"]).ok();
    stack.sh(
        "a",
        &format!("ln -s {} /v/link; ln -s ../../../../../../../.. /v/up; ln -s /proc/self/root/etc /v/file", outside.display()),
    );
    stack.wharf(&["up", "-d", "b"]);
    assert_eq!(std::fs::read_dir(outside.join("target")).expect("target").count(), 0);
    assert!(!std::path::Path::new("/x").exists() && !std::path::Path::new("/etc/y").exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(outside.to_str().expect("path")));
    // Nothing is mounted where the kernel's files are masked.
    for target in ["/proc", "/proc/sys", "/./proc/../proc/self", "/proc/self/attr"] {
        stack.write("compose.yaml", &format!("services: {{app: {{{APP}, volumes: ['./mounted:{target}']}}}}"));
        stack.wharf(&["up", "-d"]).fails(1, &["nothing can be mounted on"]);
    }
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}, tmpfs: /proc/kcore}}}}"));
    stack.wharf(&["up", "-d"]).fails(1, &["nothing can be mounted on"]);
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}, volumes: ['./mounted/file:/proc/cpuinfo']}}}}"));
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.sh("app", "cat /proc/cpuinfo"), "mounted");
    // Images whose directories are links: what is masked is masked wherever that leads.
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, target: &str| {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(tar::EntryType::Symlink);
        h.set_size(0);
        h.set_mode(0o777);
        tar.append_link(&mut h, name, target).expect("append");
    };
    add("proc", "evil");
    add("sys", "../../../../evil-sys");
    add("dev", "/evil-dev");
    let mut busybox = tar::Header::new_gnu();
    let binary = std::fs::read("/bin/busybox").expect("busybox");
    busybox.set_mode(0o755);
    busybox.set_size(binary.len() as u64);
    tar.append_data(&mut busybox, "bin/busybox", &binary[..]).expect("append");
    std::fs::write(stack.path("evil.tar"), tar.into_inner().expect("tar")).expect("write");
    stack.wharf(&["image", "import", stack.path("evil.tar").to_str().expect("path"), "evil"]).ok();
    let ran = stack.wharf(&["container", "run", "--rm", "evil", "/bin/busybox", "sh", "-c", "echo x > /evil/sys/kernel/core_pattern; /bin/busybox head -c1 /evil/kcore | /bin/busybox wc -c; echo 1 > /evil/sysrq-trigger"]);
    let ran = ran.fails(125, &["opening /proc"]);
    assert_eq!(ran.stdout, "");
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("core_pattern");
    assert_ne!(pattern.trim(), "x");
}

/// CVE-2022-0492 and its like: a cgroup's release agent, new user namespaces, mounts, modules, the kernel's log and keys.
#[test]
fn the_kernels_doors_are_shut() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}}}}}"));
    stack.wharf(&["up", "-d"]).ok();
    let table = [
        ("unshare -Ur true", "not permitted"),
        ("unshare -m true", "not permitted"),
        ("mkdir -p /tmp/c; mount -t cgroup -o rdma cgroup /tmp/c", "denied"),
        ("mount -t proc proc /tmp", "denied"),
        ("echo x > /sys/fs/cgroup/memory/release_agent", "can't create"),
        ("echo x > /proc/sys/kernel/core_pattern", "Read-only"),
        ("echo b > /proc/sysrq-trigger", "can't create"),
        ("echo 1 > /sys/kernel/uevent_helper", "can't create"),
        ("insmod /tmp/x.ko; init_module", "not"),
        ("mknod /tmp/vda b 254 0 && head -c 1 /tmp/vda", "not permitted"),
        ("dmesg", "not permitted"),
        ("chroot /proc/1/root ls /boot", "No such file"),
        ("nsenter -t 1 -n true", "not permitted"),
        ("hostname other", "not permitted"),
        ("date -s 2001-01-01", "not permitted"),
        ("ip link set eth0 down", "not permitted"),
        ("reboot -f", "not permitted"),
    ];
    for (script, word) in table {
        let out = stack.wharf(&["exec", "-T", "app", "sh", "-c", &format!("({script}) 2>&1; true")]);
        assert!(out.stdout.contains(word), "`{script}` said: {}{}", out.stdout, out.stderr);
    }
    assert_eq!(stack.sh("app", "head -c 1 /proc/kcore | wc -c; ls /sys/firmware | wc -l"), "0\n0");
}

/// CVE-2024-23651, 23652, 23653: a build's mounts are swapped for links, its mount points for others' directories, and it asks for
/// more than it was given.
#[test]
fn a_build_gets_no_further_than_a_container() {
    let stack = Stack::new("nothing");
    let victim = stack.path("victim");
    std::fs::create_dir_all(victim.join("empty")).expect("directory");
    std::fs::write(victim.join("file"), "").expect("file");
    let path = victim.display().to_string();
    stack.write(
        "Dockerfile",
        &format!(
            "FROM busybox:local\nRUN --mount=type=cache,target=/x/empty --mount=type=cache,target=/y/file,id=f umount /x/empty 2>/dev/null; rm -rf /x /y 2>/dev/null; mv /x /moved; mv /y /moved2; ln -s {path} /x; ln -s {path} /y; true\n"
        ),
    );
    stack.wharf(&["image", "build", "."]);
    assert!(victim.join("empty").exists() && victim.join("file").exists(), "another's directory was removed");
    // A cache that holds a link where another step mounts it.
    stack.write(
        "Dockerfile",
        &format!("FROM busybox:local\nRUN --mount=type=cache,target=/c ln -sfn {path} /c/link\nRUN --mount=type=cache,target=/c echo x > /c/link/new 2>/dev/null; test ! -e /c/link/file\n"),
    );
    stack.wharf(&["image", "build", "."]).ok();
    assert!(!victim.join("new").exists());
    stack.write("Dockerfile", "FROM busybox:local\nRUN --security=insecure true\n");
    stack.wharf(&["image", "build", "."]).fails(1, &["not allowed to this build"]);
    // A copy out of a stage whose directories are links into this machine.
    stack.write(
        "Dockerfile",
        &format!("FROM busybox:local AS a\nRUN ln -s {path} /dir\nFROM scratch\nCOPY --from=a /dir/file /got\n"),
    );
    stack.wharf(&["image", "build", "."]).fails(1, &["Dockerfile:4"]);
    // The host's network is given to a build, not taken by its Dockerfile.
    stack.write("Dockerfile", "FROM busybox:local\nRUN --network=host true\n");
    stack
        .wharf(&["image", "build", "."])
        .fails(1, &["Dockerfile:2: `--network=host` is not allowed to this build", "network.host"]);
    stack.wharf(&["image", "build", "--allow", "network.host", "."]).ok();
}

/// ARP, IPv6's neighbour discovery and DNS: a container says that it is its neighbour, and is not believed.
#[test]
fn nobody_passes_for_a_neighbour() {
    let stack = Stack::new("nothing");
    stack.compile("spoof");
    stack.write(
        "compose.yaml",
        &format!(
            "services:
  victim: {{{APP}}}
  neighbour: {{{APP}}}
  attacker: {{{APP}, volumes: ['./spoof:/spoof:ro']}}
  admin: {{{APP}, volumes: ['./spoof:/spoof:ro'], cap_add: [NET_ADMIN]}}
  other_admin: {{{APP}, cap_add: [NET_ADMIN]}}
networks: {{default: {{enable_ipv6: true}}}}
"
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    let of = |service: &str| {
        let said = stack
            .sh(service, "cat /sys/class/net/eth0/address; ip -o addr show eth0 scope global | awk '{print $4}' | cut -d/ -f1");
        let lines: Vec<String> = said.lines().map(str::to_string).collect();
        (lines[0].clone(), lines[1].clone(), lines[2].clone())
    };
    let (victim, neighbour) = (of("victim"), of("neighbour"));
    let gateway = stack.sh("victim", "ip route | awk '/default/ {print $3}'");
    let known = |ip: &str| stack.sh("victim", &format!("ip neigh show {ip} | grep -o 'lladdr [0-9a-f:]*' | cut -d' ' -f2"));
    stack.sh("victim", &format!("ping -c1 -W2 {}; ping -c1 -W2 {}; ping -c1 -W2 {gateway}", neighbour.1, neighbour.2));
    assert_eq!((known(&neighbour.1), known(&neighbour.2)), (neighbour.0.clone(), neighbour.0.clone()));
    let router = known(&gateway);
    for (kind, claimed, to) in [("arp", &neighbour.1, &victim.1), ("arp", &gateway, &victim.1), ("nd", &neighbour.2, &victim.2)] {
        stack.sh("attacker", &format!("/spoof {kind} {claimed} {to} {}", victim.0));
    }
    assert_eq!((known(&neighbour.1), known(&neighbour.2)), (neighbour.0.clone(), neighbour.0.clone()));
    assert_eq!(known(&gateway), router);
    // It may say what is so.
    let attacker = of("attacker");
    stack.sh("attacker", &format!("/spoof arp {} {} {}", attacker.1, victim.1, victim.0));
    assert_eq!(known(&attacker.1), attacker.0);
    // Whoever may administer the network may do this, so the frames are right.
    let admin = of("admin");
    for (kind, claimed, to) in [("arp", &neighbour.1, &victim.1), ("nd", &neighbour.2, &victim.2)] {
        stack.sh("admin", &format!("/spoof {kind} {claimed} {to} {}", victim.0));
        assert_eq!(known(claimed), admin.0, "what is tried does work");
    }
    // Frames with a neighbour's own address as their source do not have the bridge send what is his elsewhere, even from who may
    // administer the network; of one who may do so himself nothing is known beforehand, and the bridge learns.
    let other_admin = of("other_admin");
    let port_of = |mac: &str| {
        let out = std::process::Command::new("bridge").args(["fdb", "show"]).output().expect("bridge");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let line = text.lines().find(|line| line.starts_with(mac) && line.contains("master")).map(str::to_string);
        line.and_then(|line| line.split_whitespace().nth(2).map(str::to_string))
    };
    stack.sh("other_admin", &format!("ping -c1 -W2 {}", victim.1));
    for (from, own, claimed, moves) in [
        ("attacker", &attacker, &neighbour, false),
        ("admin", &admin, &neighbour, false),
        ("attacker", &attacker, &other_admin, false),
        ("admin", &admin, &other_admin, true),
    ] {
        let before = port_of(&claimed.0);
        assert!(before.is_some(), "{} is known", claimed.0);
        stack.sh(from, &format!("SOURCE_MAC={} /spoof arp {} {} {}", claimed.0, own.1, victim.1, victim.0));
        assert_eq!(port_of(&claimed.0) != before, moves, "{from} as {}", claimed.0);
    }
    // A datagram that says it is the resolver's: its address is in each container, and nowhere outside.
    let arrived = || stack.sh("victim", "awk '/^Udp: [0-9]/ {print $3}' /proc/net/snmp").parse::<u32>().expect("NoPorts");
    let before = arrived();
    stack.sh("admin", &format!("/spoof udp 127.0.0.11 {} {} 5300", victim.1, victim.0));
    assert_eq!(arrived(), before);
    stack.sh("admin", &format!("/spoof udp {} {} {} 5300", neighbour.1, victim.1, victim.0));
    assert_eq!(arrived(), before + 15, "what is tried does work");
}

/// The host's own services, the engine, other stacks.
#[test]
fn others_on_the_host_are_out_of_reach() {
    let stack = Stack::new("nothing");
    let other = Stack::new("nothing");
    let serving = "image: busybox:local, command: [sh, -c, 'mkdir /www; echo secret > /www/index.html; httpd -f -p 80 -h /www'], \
        stop_signal: SIGKILL, ports: ['127.0.0.1::80']";
    other.write("compose.yaml", &format!("services: {{db: {{{serving}}}}}"));
    other.wharf(&["up", "-d"]).ok();
    stack.write("compose.yaml", &format!("services: {{app: {{{APP}}}, inner: {{{APP}, networks: [closed]}}}}\nnetworks: {{default: {{}}, closed: {{internal: true}}}}"));
    stack.wharf(&["up", "-d"]).ok();
    let address = other.sh("db", "hostname -i");
    // What is tried does work where it may.
    eventually("the other stack serves", 20, || {
        other.wharf(&["exec", "-T", "db", "wget", "-qO-", &format!("http://{address}/")]).stdout == "secret\n"
    });
    let own = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
    let port = own.local_addr().expect("address").port();
    std::thread::spawn(move || {
        use std::io::Write;
        while let Ok((mut stream, _)) = own.accept() {
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhost\n");
        }
    });
    let published =
        other.wharf(&["port", "db", "80"]).ok().trim().rsplit(':').next().expect("port").parse::<u16>().expect("number");
    let gateway = stack.sh("app", "ip route | awk '/default/ {print $3}'");
    let reach = |service: &str, to: &str, port: u16| {
        stack.wharf(&["exec", "-T", service, "timeout", "2", "wget", "-qO-", &format!("http://{to}:{port}/")]).stdout
    };
    // Another stack: by its address, by a route of one's own, by raw packets.
    assert_eq!(reach("app", &address, 80), "");
    assert_ne!(stack.wharf(&["exec", "-T", "app", "ping", "-c1", "-W1", &address]).code, 0);
    assert_ne!(stack.wharf(&["exec", "-T", "app", "ip", "route", "add", &format!("{address}/32"), "dev", "eth0"]).code, 0);
    assert_ne!(stack.wharf(&["exec", "-T", "inner", "ping", "-c1", "-W1", &address]).code, 0);
    assert_ne!(stack.wharf(&["exec", "-T", "app", "nslookup", "db"]).code, 0, "nor its names");
    // The host's loopback, by its own address and through the resolver's.
    for to in [gateway.as_str(), "127.0.0.1", "127.0.0.11"] {
        assert_eq!(reach("app", to, port), "", "{to}");
        assert_eq!(reach("app", to, published), "", "what is published on 127.0.0.1 is the host's alone: {to}");
    }
    assert_eq!(reach("inner", &gateway, port), "");
    // The engine's socket is nowhere in the container, and no device of the host's.
    assert_eq!(stack.sh("app", "find / -xdev -type s 2>/dev/null | wc -l; ls /dev | grep -cE 'vd|sd|mem|kmsg'; true"), "0\n0");
}

/// docs/security.md names a test for each attack: as code, `module::name` or `name`.
#[test]
fn every_test_that_the_security_page_names_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/security.md")).expect("the page");
    let mut functions = std::collections::HashSet::new();
    let mut directories = vec![root.join("src"), root.join("tests")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("source");
                let mut lines = text.lines().map(str::trim).skip_while(|line| !line.ends_with("test]"));
                while let Some(name) = lines.find_map(|line| line.split("fn ").nth(1)?.split('(').next()) {
                    functions.insert(name.to_string());
                }
            }
        }
    }
    let rows = page.lines().filter(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.trim_end_matches('|').rsplit('|').next());
    let named: Vec<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(named.len() > 20, "the tables have tests in their last column: {named:?}");
    let missing: Vec<_> = named.iter().filter(|name| !functions.contains(name.rsplit("::").next().unwrap_or(name))).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}
