//! Attributes that no story needs, each seen where it takes effect: in the container, in the kernel's files, in what happens.

use crate::support::{Stack, eventually, inside, sleeping};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A control file of a container, of cgroup v1 or v2.
fn limit(stack: &Stack, service: &str, v1: &str, v2: &str) -> String {
    let (controller, file) = v1.split_once('/').expect("controller");
    let group = stack.group(&stack.id(service), controller);
    let text = std::fs::read_to_string(group.join(file)).or_else(|_| std::fs::read_to_string(group.join(v2)));
    text.unwrap_or_else(|e| panic!("{v1} or {v2} in {}: {e}", group.display())).trim().to_string()
}

/// What Docker's engine refuses when a container is made, and what this host could not start: said before anything is stopped.
#[test]
fn a_container_that_cannot_be_is_refused_before_the_old_one_stops() {
    let stack = Stack::new("nothing");
    let up = |a: &str| {
        // What is not given is as it is there.
        let others = if a.contains("stop_signal") { "" } else { ", stop_signal: SIGKILL" };
        let a = format!("image: 'busybox:local', command: sleep 1000{others}{}{a}", if a.is_empty() { "" } else { ", " });
        stack.write("compose.yaml", &format!("services: {{a: {{{a}}}, b: {{{}}}}}", sleeping("")));
        stack.wharf(&["up", "-d"])
    };
    up("").ok();
    let (id, pid) = (stack.id("a"), stack.pid(&stack.id("a")));
    let cases: &[(&str, &[&str])] = &[
        ("mem_limit: 1k", &["Minimum memory limit allowed is 6MB"]),
        ("deploy: {resources: {limits: {memory: '1'}}}", &["Minimum memory limit allowed is 6MB"]),
        ("mem_limit: 100m, mem_reservation: 200m", &["Minimum memory limit can not be less than memory reservation limit"]),
        ("mem_limit: 20m, memswap_limit: 10m", &["Minimum memoryswap limit should be larger than memory limit"]),
        ("cpus: -1", &["range of CPUs is from 0.01 to"]),
        ("cpus: 9999", &["range of CPUs is from 0.01 to"]),
        ("cpu_period: 5", &["CPU cfs period can not be less than 1ms"]),
        ("cpu_shares: -1", &["invalid CPU shares (-1)"]),
        ("cpuset: '9999'", &["Requested CPUs are not available - requested 9999"]),
        ("blkio_config: {weight: 5}", &["Range of blkio weight is from 10 to 1000"]),
        ("oom_score_adj: -5000", &["Invalid value -5000, range for oom score adj is [-1000, 1000]"]),
        ("ulimits: {nofile: -1}", &["ulimit nofile", "-1 (unlimited)", "fs.nr_open"]),
        ("ulimits: {nproc: {soft: 10, hard: 5}}", &["ulimit soft limit must be less than or equal to hard limit: nproc: 10 > 5"]),
        ("stop_signal: FOO", &["invalid signal: FOO"]),
        ("extra_hosts: ['b:300.1.1.1']", &["invalid IP address in add-host: \"300.1.1.1\""]),
        ("dns: [foo]", &["invalid IP address in dns: \"foo\""]),
        ("expose: [x]", &["invalid containerPort: x"]),
        ("working_dir: relative", &["the working directory 'relative' is invalid, it needs to be an absolute path"]),
        ("tmpfs: [x]", &["'x' mount path must be absolute"]),
        ("tmpfs: ['/x:size=foo']", &["tmpfs option \"size=foo\" of /x"]),
        ("environment: ['=x']", &["invalid environment variable: =x"]),
        ("hostname: a23456789012345678901234567890123456789012345678901234567890123456789", &["too long (maximum 64 bytes)"]),
        ("healthcheck: {test: 'true', interval: 1us}", &["Interval in Healthcheck cannot be less than 1ms"]),
        ("cap_add: [foo]", &["invalid CapAdd: unknown capability: \"foo\""]),
        ("cap_drop: [foo]", &["invalid CapDrop: unknown capability: \"foo\""]),
        ("runtime: foo", &["unknown or invalid runtime name: foo"]),
        ("security_opt: [foo]", &["invalid --security-opt 1: \"foo\""]),
        ("security_opt: ['foo=bar']", &["invalid --security-opt 2: \"foo=bar\""]),
        ("security_opt: ['seccomp=/no/such']", &["/no/such"]),
        ("security_opt: ['apparmor=nosuchprofile']", &["nosuchprofile"]),
        ("sysctls: {kernel.panic: 1}", &["kernel.panic", "would change the host"]),
        ("devices: [/dev/nosuch]", &["/dev/nosuch"]),
        ("device_cgroup_rules: ['c 1:x r']", &["device"]),
        ("volumes: [{type: bind, source: /no/such/source, target: /x, bind: {create_host_path: false}}]", &["/no/such/source"]),
        ("network_mode: 'service:b', ports: ['127.0.0.1::80']", &["port publishing and the container type network mode"]),
        ("network_mode: 'service:b', expose: ['80']", &["port exposing and the container type network mode"]),
        ("network_mode: 'service:b', hostname: h", &["hostname and the network mode"]),
        ("network_mode: 'service:b', dns: [1.1.1.1]", &["dns and the network mode"]),
        ("network_mode: 'service:b', extra_hosts: ['h:1.1.1.1']", &["custom host-to-IP mapping and the network mode"]),
        ("uts: host, hostname: h", &["hostname and the UTS mode"]),
    ];
    for (attributes, words) in cases {
        up(attributes).fails(1, words);
        assert_eq!((stack.id("a"), stack.pid(&id)), (id.clone(), pid), "{attributes}");
        assert_eq!(stack.container_directories(), 2, "{attributes}");
    }
    let discarded = up("network_mode: host, ports: ['127.0.0.1::80']");
    assert!(discarded.stderr.contains("Published ports are discarded when using host network mode"), "{discarded:?}");
    discarded.ok();
}

#[test]
fn further_limits_are_in_the_control_group() {
    let stack = Stack::new("nothing");
    let one = "cpu_quota: 20000, cpu_period: 50000, cpuset: '0', mem_limit: 64m, memswap_limit: 96m, mem_reservation: 16m";
    let two = "deploy: {resources: {limits: {pids: 33, memory: 40m, cpus: '0.25'}}}";
    stack.write("compose.yaml", &format!("services: {{one: {{{}}}, two: {{{}}}}}", sleeping(one), sleeping(two)));
    stack.wharf(&["up", "-d"]).ok();
    let either = |service: &str, v1: &str, v2: &str, expected: [&str; 2]| {
        let value = limit(&stack, service, v1, v2);
        assert!(expected.contains(&value.as_str()), "{service} {v1}: {value}");
    };
    either("one", "cpu/cpu.cfs_quota_us", "cpu.max", ["20000", "20000 50000"]);
    either("one", "cpu/cpu.cfs_period_us", "cpu.max", ["50000", "20000 50000"]);
    either("one", "cpuset/cpuset.cpus", "cpuset.cpus", ["0", "0"]);
    assert_eq!(stack.sh("one", "grep Cpus_allowed_list /proc/self/status | cut -f2"), "0");
    either("one", "memory/memory.soft_limit_in_bytes", "memory.low", ["16777216", "16777216"]);
    if Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists() {
        either("one", "memory/memory.memsw.limit_in_bytes", "memory.swap.max", ["100663296", "33554432"]);
    }
    either("two", "pids/pids.max", "pids.max", ["33", "33"]);
    either("two", "memory/memory.limit_in_bytes", "memory.max", ["41943040", "41943040"]);
    either("two", "cpu/cpu.cfs_quota_us", "cpu.max", ["25000", "25000 100000"]);
    // What this kernel has not is said, and the container does not run without it.
    stack.write("compose.yaml", &format!("services: {{rt: {{{}}}}}", sleeping("cpu_rt_runtime: 1000, cpu_rt_period: 10000")));
    let up = stack.wharf(&["up", "-d", "--remove-orphans"]);
    if !Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists() {
        up.fails(1, &["cpu.rt"]);
    }
    stack.write(
        "compose.yaml",
        &format!(
            "services: {{w: {{{}}}}}",
            sleeping("blkio_config: {weight: 300, weight_device: [{path: /dev/vda, weight: 200}]}")
        ),
    );
    let up = stack.wharf(&["up", "-d", "--remove-orphans"]);
    if up.code == 0 {
        // 10 to 1000 onto 1 to 10000, as runc has it.
        either("w", "blkio/blkio.bfq.weight", "io.weight", ["300", "default 2930"]);
    } else {
        up.fails(1, &["weight"]);
    }
}

#[test]
fn restarts_have_deploys_conditions() {
    let stack = Stack::new("nothing");
    let failing = |policy: &str| {
        format!("image: 'busybox:local', command: [sh, -c, 'cat /proc/uptime; exit 1'], deploy: {{restart_policy: {{{policy}}}}}")
    };
    stack.write(
        "compose.yaml",
        &format!(
            "services: {{slow: {{{}}}, none: {{{}}}, any: {{{}}}, window: {{{}}}}}",
            failing("condition: on-failure, max_attempts: 2, delay: 700ms"),
            failing("condition: none"),
            failing("condition: any, delay: 50ms, max_attempts: 2").replace("exit 1", "exit 0"),
            failing("condition: any, delay: 50ms, window: 1h").replace("exit 1", "exit 0"),
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    let runs = |service: &str| stack.wharf(&["logs", "--no-log-prefix", service]).ok().lines().count();
    eventually("it has given up", 20, || runs("slow") == 3 && stack.state("slow") == "exited");
    let log = stack.wharf(&["logs", "--no-log-prefix", "slow"]).ok();
    let times: Vec<f64> = log.lines().filter_map(|l| l.split(' ').next()?.parse().ok()).collect();
    assert_eq!(times.len(), 3, "{log}");
    for pair in times.windows(2) {
        assert!((0.6..3.0).contains(&(pair[1] - pair[0])), "the delay is not Docker's back-off: {times:?}");
    }
    assert_eq!(runs("none"), 1);
    eventually("`any` has an end of attempts as well", 10, || runs("any") == 3 && stack.state("any") == "exited");
    eventually("`any` restarts what has ended well", 10, || runs("window") >= 3);
    stack.wharf(&["stop"]).ok();
}

#[test]
fn replicas_are_replaced_as_deploy_says() {
    let stack = Stack::new("nothing");
    let yaml = |update: &str, mark: &str| {
        format!(
            "services: {{app: {{{}}}}}",
            sleeping(&format!("scale: 4, environment: [MARK={mark}], deploy: {{update_config: {{{update}}}}}"))
        )
    };
    stack.write("compose.yaml", &yaml("parallelism: 1", "one"));
    stack.wharf(&["up", "-d"]).ok();
    // One after the other: never are two away.
    let watching = |stack: &Stack, update: &str, mark: &str| {
        stack.write("compose.yaml", &yaml(update, mark));
        let mut up = stack.command(&["up", "-d"]).stderr(std::process::Stdio::null()).spawn().expect("up");
        let (mut least, mut most) = (usize::MAX, 0);
        loop {
            let running = stack.ps().iter().filter(|c| c["State"] == "running").count();
            least = least.min(running);
            most = most.max(running);
            if let Some(status) = up.try_wait().expect("wait") {
                assert!(status.success());
                return (least, most);
            }
        }
    };
    let (least, most) = watching(&stack, "parallelism: 1", "two");
    assert!(least >= 3 && most <= 4, "{least} to {most} ran");
    let (least, most) = watching(&stack, "parallelism: 1, order: start-first, monitor: 50ms", "three");
    assert!(least >= 4 && most <= 5, "{least} to {most} ran");
    assert_eq!(stack.sh("app", "echo $MARK"), "three");
}

#[test]
fn health_checks_have_their_times() {
    let stack = Stack::new("nothing");
    let check = |options: &str| sleeping(&format!("healthcheck: {{{options}}}"));
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  off: {{{}}}\n  hangs: {{{}}}\n  patient: {{{}}}\n",
            check("disable: true"),
            check("test: 'sleep 100', timeout: 200ms, interval: 100ms, retries: 1"),
            check("test: 'test -e /ready', interval: 100s, start_period: 60s, start_interval: 100ms, retries: 1"),
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.container("off")["Health"], "");
    eventually("a check that hangs has failed", 10, || stack.container("hangs")["Health"] == "unhealthy");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(stack.container("patient")["Health"], "starting", "failures do not count in the start period");
    stack.sh("patient", "touch /ready");
    let begun = Instant::now();
    eventually("the next check comes after the start interval", 10, || stack.container("patient")["Health"] == "healthy");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn files_names_and_times_of_a_service() {
    let stack = Stack::new("nothing");
    stack.write("labels", "from.file=yes\nboth=file\n");
    stack.write("env", "FROM_FILE=one\nBOTH=file\n");
    stack.write("page", "page");
    let seconds = "stop_grace_period: 1s, command: [sh, -c, 'trap \"\" TERM; while :; do sleep 0.1; done']";
    stack.write(
        "compose.yaml",
        &format!(
            "services:
  app:
    image: busybox:local
    command: ['sleep 1000; true']
    stop_signal: SIGKILL
    label_file: ./labels
    labels: {{both: service}}
    env_file: [{{path: ./env}}, {{path: ./missing, required: false}}]
    environment: {{BOTH: service}}
    annotations: {{note: kept}}
    attach: false
    dns: [127.91.2.3]
    entrypoint: [sh, -c]
    dns_search: [example.org]
    dns_opt: ['timeout:1']
    domainname: example.net
    hostname: box
    external_links: ['{project}-other-1:far']
    expose: ['7']
    ports: [{{target: 80, published: '0', host_ip: 127.0.0.1, protocol: tcp, app_protocol: http, mode: host, name: web}}]
    networks: {{n: {{aliases: [nick], priority: 10}}}}
    volumes:
      - {{type: bind, source: ./made, target: /made, bind: {{create_host_path: true}}}}
      - {{type: bind, source: ./outer, target: /shallow, bind: {{recursive: disabled}}}}
      - {{type: bind, source: ./outer, target: /deep, bind: {{propagation: rslave}}}}
      - {{type: tmpfs, target: /small, tmpfs: {{size: 65536, mode: 0o700}}}}
      - {{type: bind, source: ./page, target: /page, read_only: true}}
  other: {{{other}}}
  slow: {{image: 'busybox:local', {seconds}}}
  signalled: {{image: 'busybox:local', stop_signal: SIGUSR1, command: [sh, -c, 'trap \"exit 5\" USR1; while :; do sleep 0.1; done']}}
networks: {{n: {{ipam: {{config: [{{subnet: 10.219.7.0/24, gateway: 10.219.7.9}}]}}, labels: {{of: network}}}}}}
",
            project = stack.project,
            other = sleeping("networks: [n]"),
        ),
    );
    // Something is mounted below what is bound.
    let inner: PathBuf = stack.path("outer/inner");
    std::fs::create_dir_all(&inner).expect("directory");
    let host = |args: &[&str], path: &Path| {
        std::process::Command::new(args[0]).args(&args[1..]).arg(path).status().expect("mount").success()
    };
    assert!(host(&["mount", "-t", "tmpfs", "inner"], &inner));
    std::fs::write(inner.join("file"), "below").expect("file");
    let up = stack.wharf(&["up", "-d"]);
    let looks = (up.code == 0).then(|| {
        let first = stack.sh("app", "ls /shallow/inner | wc -l; cat /deep/inner/file; echo; df -k /small | tail -1 | awk '{print $2}'; stat -c %a /small; ls -d /made");
        // What is mounted later comes along where mounts propagate.
        let later = stack.path("outer/later");
        std::fs::create_dir_all(&later).expect("directory");
        assert!(host(&["mount", "-t", "tmpfs", "later"], &later));
        std::fs::write(later.join("file"), "later").expect("file");
        let seen = stack.sh("app", "cat /deep/later/file 2>&1; true");
        assert!(host(&["umount"], &later));
        (first, seen)
    });
    assert!(host(&["umount", "-l"], &inner));
    up.ok();
    let (first, later) = looks.expect("looks");
    assert_eq!(first, "0\nbelow\n64\n700\n/made");
    // Whether the host's directory is shared is the host's affair: where it is not, nothing can come along.
    assert!(later == "later" || later.contains("No such file"), "{later}");
    assert_eq!(stack.sh("app", "echo $FROM_FILE,$BOTH; hostname; hostname -f"), "one,service\nbox\nbox.example.net");
    assert_eq!(stack.sh("app", "tr '\\0' ' ' < /proc/1/cmdline"), "sh -c sleep 1000; true");
    // The engine asks the server that the service names, from the container's network: its loopback is the container's.
    let server = inside(&stack, "app", || std::net::UdpSocket::bind("127.91.2.3:53").expect("bind"));
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = server.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            let is_a = answer[length - 4..length - 2] == [0, 1];
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            answer[7] = u8::from(is_a);
            if is_a {
                answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 192, 0, 2, 99]);
            }
            let _ = server.send_to(&answer, from);
        }
    });
    let named = stack.wharf(&["exec", "-T", "app", "ping", "-c1", "-W1", "anything.example"]);
    assert!(named.stdout.contains("192.0.2.99"), "{named:?}");
    let resolv = stack.sh("app", "cat /etc/resolv.conf");
    assert!(
        resolv.contains("search example.org") && resolv.contains("options timeout:1") && resolv.contains("127.0.0.11"),
        "{resolv}"
    );
    assert!(stack.sh("app", "ping -c1 -W2 far").contains("10.219.7."), "a link to a container of any project");
    assert!(stack.sh("other", "ping -c1 -W2 nick").contains("10.219.7."));
    assert_eq!(stack.sh("other", "ip route | awk '/default/ {print $3}'"), "10.219.7.9");
    assert!(stack.wharf(&["port", "app", "80"]).ok().starts_with("127.0.0.1:"));
    let labels = |key: &str| {
        let list =
            stack.wharf(&["container", "ls", "-q", "--filter", &format!("label={key}"), "--filter", "status=running"]).ok();
        list.lines().any(|id| stack.id("app").starts_with(id.trim()))
    };
    assert!(labels("from.file=yes") && labels("both=service") && !labels("both=file"));
    // Kept with the container's OCI configuration, which is all that an annotation is.
    let launch = std::fs::read_to_string(stack.run_root().join("containers").join(stack.id("app")).join("launch.json"));
    assert!(launch.expect("launch file").contains(r#""annotations":{"note":"kept"}"#));
    let network = stack.wharf(&["network", "inspect", &format!("{}_n", stack.project)]).ok();
    assert!(network.contains(r#""of": "network""#), "{network}");
    stack.wharf(&["stop", "signalled"]).ok();
    assert_eq!(stack.container("signalled")["ExitCode"], 5);
    let begun = Instant::now();
    stack.wharf(&["stop", "slow"]).ok();
    assert!((0.9..4.0).contains(&begun.elapsed().as_secs_f64()), "the grace period is the service's: {:?}", begun.elapsed());
    assert_eq!(stack.container("slow")["ExitCode"], 137);
    // `attach: false`: its output is not shown by `up`, and it does not keep `up` from ending.
    stack.write("compose.yaml", "services: {quiet: {image: 'busybox:local', command: echo hidden, attach: false}, loud: {image: 'busybox:local', command: echo shown}}");
    let shown = stack.wharf(&["up", "--remove-orphans"]);
    assert!(shown.stdout.contains("shown") && !shown.stdout.contains("hidden"), "{}", shown.stdout);
}

/// Devices that a vendor's file names (CDI). The vendor is this test.
#[test]
fn devices_have_vendors_names() {
    let stack = Stack::new("nothing");
    let vendor = format!("{}.wharf.test", stack.project);
    let specification = format!("/etc/cdi/{vendor}.yaml");
    std::fs::create_dir_all("/etc/cdi").expect("directory");
    stack.write("library", "of the vendor");
    let text = format!(
        "cdiVersion: 0.6.0
kind: {vendor}/noise
containerEdits: {{env: [VENDOR=there]}}
devices:
  - name: one
    containerEdits:
      deviceNodes: [{{path: /dev/noise, hostPath: /dev/urandom, permissions: r, fileMode: 292}}]
      mounts: [{{hostPath: '{library}', containerPath: /usr/lib/vendor, options: [ro, nosuid]}}]
  - name: hooked
    containerEdits: {{hooks: [{{hookName: createRuntime, path: /bin/sh, args: [sh, -c, 'echo ran > {mark}']}}]}}
",
        library = stack.path("library").display(),
        mark = stack.path("mark").display(),
    );
    std::fs::write(&specification, text).expect("specification");
    let up = |service: &str| {
        stack.write("compose.yaml", &format!("services: {{app: {{{}}}}}", sleeping(service)));
        stack.wharf(&["up", "-d"])
    };
    let one = up(&format!("devices: ['{vendor}/noise=one']"));
    let seen = (one.code == 0).then(|| stack.sh("app", "stat -c '%a %t:%T' /dev/noise; tr '\\0' '\\n' < /proc/1/environ | grep -c VENDOR=there; cat /usr/lib/vendor; touch /usr/lib/vendor 2>&1; head -c 4 /dev/noise | wc -c; true"));
    let requested = up(&format!(
        "deploy: {{resources: {{reservations: {{devices: [{{driver: cdi, capabilities: [x], device_ids: ['{vendor}/noise=one']}}]}}}}}}"
    ));
    let there = (requested.code == 0).then(|| stack.sh("app", "ls /dev/noise"));
    let unknown = up(&format!("devices: ['{vendor}/noise=two']"));
    let hooked = up(&format!("devices: ['{vendor}/noise=hooked']"));
    let with_runc = up(&format!("devices: ['{vendor}/noise=hooked'], runtime: runc"));
    std::fs::remove_file(&specification).expect("specification");
    let _ = std::fs::remove_dir("/etc/cdi");
    one.ok();
    assert_eq!(seen.as_deref(), Some("444 1:9\n1\nof the vendortouch: /usr/lib/vendor: Read-only file system\n4"));
    requested.ok();
    assert_eq!(there.as_deref(), Some("/dev/noise"));
    unknown.fails(1, &["noise=two", "noise=one"]);
    hooked.fails(1, &["/bin/sh", "runtime: runc"]);
    with_runc.ok();
    assert_eq!(std::fs::read_to_string(stack.path("mark")).expect("the hook has run"), "ran\n");
}

#[test]
fn policies_decide_whether_a_registry_is_asked() {
    let stack = Stack::new("nothing");
    // Nobody listens there: asking is failing.
    let here = "127.0.0.1:1/here:1";
    stack.wharf(&["image", "tag", "busybox:local", here]).ok();
    let with = |image: &str, policy: &str| {
        stack.write(
            "compose.yaml",
            &format!("services: {{app: {{image: '{image}', command: sleep 1000, stop_signal: SIGKILL, {policy}}}}}"),
        );
        let up = stack.wharf(&["up", "-d"]);
        stack.wharf(&["down"]);
        up
    };
    with(here, "pull_policy: missing").ok();
    with(here, "pull_policy: never").ok();
    with("127.0.0.1:1/not-here:1", "pull_policy: never").fails(1, &["No such image", "not-here"]);
    for policy in ["always", "daily", "every_1h", "refresh, pull_refresh_after: 1h"] {
        with(here, &format!("pull_policy: {policy}")).fails(1, &["127.0.0.1:1"]);
    }
    stack.write("compose.yaml", "services: {}");
}

#[test]
fn builds_have_every_attribute() {
    let stack = Stack::new("nothing");
    stack.write("secret", "hush");
    stack.write(
        "Other.dockerfile",
        "FROM busybox:local AS first
ARG WORD
RUN --mount=type=secret,id=token,target=/run/token,uid=1000,mode=0400 stat -c '%u %a' /run/token > /seen; cat /run/token >> /seen
RUN echo >> /seen; echo $WORD >> /seen; grep -w other /etc/hosts | cut -f1 >> /seen; df -k /dev/shm | tail -1 | awk '{print $2}' >> /seen; ulimit -n >> /seen
RUN --mount=type=secret,id=owned,target=/run/owned --mount=type=secret,id=owned,target=/run/else,mode=0404 stat -c '%u:%g %a' /run/owned /run/else >> /seen
RUN --network=none ip -o link | grep -c eth0 >> /seen; true
RUN ip -o link | grep -c eth0 >> /seen; true
FROM first AS second
RUN echo unwanted > /seen
",
    );
    stack.write(
        "compose.yaml",
        "services:
  app:
    image: built:1
    pull_policy: build
    command: sleep 1000
    stop_signal: SIGKILL
    build:
      context: .
      dockerfile: Other.dockerfile
      target: first
      args: {WORD: spoken}
      labels: {made.by: test}
      tags: ['also:2']
      extra_hosts: ['other=10.9.8.7']
      network: none
      shm_size: 2m
      ulimits: {nofile: {soft: 77, hard: 88}}
      platforms: [linux/amd64]
      no_cache: true
      pull: false
      secrets: [{source: token}, {source: token, target: owned, uid: '7', gid: '8', mode: 0440}]
secrets: {token: {file: ./secret}}
",
    );
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.sh("app", "cat /seen"), "1000 400\nhush\nspoken\n10.9.8.7\n2048\n77\n7:8 440\n7:8 404\n0\n0");
    let labels = stack.wharf(&["image", "inspect", "also:2"]).ok();
    assert!(labels.contains(r#""made.by": "test""#), "{labels}");
    let again = stack.wharf(&["build"]);
    assert!(again.code == 0 && !again.stdout.contains("CACHED [first"), "no_cache: {}", again.stdout);
    // What a build may do beyond a container's rights, it says in the file.
    let yaml = |more: &str| {
        format!(
            "services: {{app: {{image: 'built:2', build: {{dockerfile_inline: \"FROM busybox:local\\nRUN --security=insecure mount -t tmpfs t /etc\\n\"{more}}}}}}}"
        )
    };
    stack.write("compose.yaml", &yaml(""));
    stack.wharf(&["build"]).fails(1, &["not allowed to this build"]);
    stack.write("compose.yaml", &yaml(", entitlements: [security.insecure]"));
    stack.wharf(&["build"]).ok();
    stack.write("compose.yaml", "services: {app: {image: 'built:3', build: {privileged: true, dockerfile_inline: \"FROM busybox:local\\nRUN --security=insecure mount -t tmpfs t /etc\\n\"}}}");
    stack.wharf(&["build"]).ok();
    stack.write("compose.yaml", "services: {}");
}

/// What is known only at the start, or at a command: what is wrong, and with which attribute.
#[test]
fn what_a_start_finds_wrong_is_named() {
    let stack = Stack::new("nothing");
    std::fs::create_dir(stack.path("dir")).expect("directory");
    let up = |attributes: &str| {
        stack.write("compose.yaml", &format!("services: {{a: {{{}}}}}", sleeping(attributes)));
        stack.wharf(&["up", "-d"])
    };
    let vice_versa = "Are you trying to mount a directory onto a file (or vice-versa)?";
    for (attributes, words) in [
        ("volumes: ['./dir:/etc/passwd']", vec![vice_versa, "/dir (a directory) on /etc/passwd (a file)"]),
        ("volumes: ['./compose.yaml:/etc']", vec![vice_versa, "/compose.yaml (a file) on /etc (a directory)"]),
        ("configs: [{source: c, target: /etc}]", vec![vice_versa, "(a file) on /etc (a directory)"]),
        ("group_add: [nosuch]", vec!["the user `root` and the groups of `group_add`", "no group `nosuch`"]),
        ("user: nosuch", vec!["finding the user `nosuch`", "no user `nosuch`"]),
        ("pids_limit: 99999999999", vec!["pids_limit"]),
    ] {
        let whole = format!("services: {{a: {{{}}}}}\nconfigs: {{c: {{content: x}}}}", sleeping(attributes));
        stack.write("compose.yaml", &whole);
        stack.wharf(&["up", "-d"]).fails(1, &words);
    }
    up("").ok();
    let exec = |args: &[&str]| stack.wharf(&[&["exec", "-T"][..], args].concat());
    exec(&["-w", "/nosuch", "a", "ls"]).fails(127, &["chdir to cwd (\"/nosuch\")", "no such file or directory"]);
    exec(&["-w", "/etc/passwd", "a", "ls"]).fails(126, &["chdir to cwd (\"/etc/passwd\")", "not a directory"]);
    assert_eq!(stack.sh("a", "ls -d /nosuch 2>&1 || true"), "ls: /nosuch: No such file or directory");
    assert_eq!(exec(&["-w", "/etc", "a", "pwd"]).ok(), "/etc\n");
    exec(&["a", "nosuchcmd"]).fails(127, &["the command `nosuchcmd` cannot be run in the container", "not found in $PATH"]);
}
