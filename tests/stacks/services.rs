//! What a service may say of its containers, seen from inside of them.

use crate::support::{Stack, Terminal, eventually, sleeping};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn configs_and_secrets_are_files_of_the_container_alone() {
    let stack = Stack::new("nothing");
    stack.write("password", "from a file\n");
    stack.write(
        "compose.yaml",
        "services:
  app:
    image: busybox:local
    command: sleep 1000
    stop_signal: SIGKILL
    user: app
    configs:
      - plain
      - {source: inline, target: /etc/app/inline.conf, uid: '1000', gid: '4', mode: 0440}
    secrets:
      - password
      - {source: token, target: renamed, uid: '1000', mode: 0400}
configs:
  plain: {file: ./password}
  inline: {content: 'port=${PORT:-80}'}
secrets:
  password: {file: ./password}
  token: {environment: TOKEN}
",
    );
    stack.wharf(&["up", "-d"]).fails(1, &["secret `token`", "`app`", "`TOKEN`", "not set"]);
    let up = || stack.command(&["up", "-d"]).env("TOKEN", "s3cr3t-value").output().expect("wharf");
    let first = up();
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    assert_eq!(stack.sh("app", "cat /plain /run/secrets/password /etc/app/inline.conf"), "from a file\nfrom a file\nport=80");
    assert_eq!(stack.sh("app", "cat /run/secrets/renamed"), "s3cr3t-value");
    assert_eq!(stack.sh("app", "stat -c '%u:%g %a' /etc/app/inline.conf /run/secrets/renamed"), "1000:4 440\n1000:0 400");
    assert!(stack.wharf(&["exec", "-T", "-u", "root", "app", "sh", "-c", "echo x >> /run/secrets/password"]).code != 0);
    // A file is mounted, not copied: what is written to it is seen.
    stack.write("password", "changed\n");
    assert_eq!(stack.sh("app", "cat /run/secrets/password"), "changed");
    // Nobody else on the host can read it, and it is in no state and in no process list.
    let files = stack.data_root().join("containers").join(stack.id("app")).join("files");
    assert_eq!(std::fs::metadata(&files).expect("files").permissions().mode() & 0o777, 0o700);
    let found = Command::new("grep")
        .args(["-rl", "--binary-files=text", "s3cr3t-value"])
        .args([stack.data_root(), stack.run_root()])
        .output()
        .expect("grep");
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.lines().all(|line| line.starts_with(files.to_str().expect("path"))), "the secret is in {found}");
    let inspected = stack.wharf(&["ps", "-a", "--format", "json"]).stdout;
    assert!(!inspected.contains("s3cr3t"));
    // A secret that is another one makes another container; the same one does not.
    let id = stack.id("app");
    assert!(up().status.success());
    assert_eq!(stack.id("app"), id);
    let other = stack.command(&["up", "-d"]).env("TOKEN", "another").output().expect("wharf");
    assert!(other.status.success());
    assert_ne!(stack.id("app"), id);
    assert_eq!(stack.sh("app", "cat /run/secrets/renamed"), "another");
}

#[test]
fn a_changed_file_reaches_the_container_whatever_its_mode() {
    let stack = Stack::new("nothing");
    for (kind, attribute) in [("secrets", "mode: 0400"), ("configs", "uid: '7'"), ("secrets", "gid: '7'")] {
        stack.write("value", "first\n");
        let service = sleeping(&format!("{kind}: [{{source: s, target: /value, {attribute}}}]"));
        stack.write("compose.yaml", &format!("services: {{a: {{{service}}}}}\n{kind}: {{s: {{file: ./value}}}}\n"));
        stack.wharf(&["up", "-d"]).ok();
        let first = stack.id("a");
        stack.wharf(&["up", "-d"]).ok();
        assert_eq!((stack.id("a"), stack.sh("a", "cat /value")), (first.clone(), "first".into()), "{kind} {attribute}");
        // Of the same length, and written in place.
        stack.write("value", "other\n");
        assert!(stack.wharf(&["plan"]).ok().contains("/value has changed"), "{kind} {attribute}");
        stack.wharf(&["up", "-d"]).ok();
        assert_ne!(stack.id("a"), first, "{kind} {attribute}");
        assert_eq!(stack.sh("a", "cat /value"), "other", "{kind} {attribute}");
        stack.wharf(&["down"]).ok();
    }
}

#[test]
fn namespaces_are_shared_as_they_are_asked_for() {
    let stack = Stack::new("nothing");
    let yaml = format!(
        "services:
  main: {{{}}}
  sidecar: {{{}}}
  bare: {{{}}}
  host: {{{}}}
",
        sleeping("ipc: shareable, shm_size: 1m, hostname: mainhost"),
        sleeping("ipc: 'service:main', pid: 'service:main', network_mode: 'service:main'"),
        sleeping("ipc: none, cgroup: private"),
        sleeping("ipc: host, pid: host, uts: host"),
    );
    stack.write("compose.yaml", &yaml);
    stack.wharf(&["up", "-d"]).ok();
    let namespace = |service: &str, kind: &str| stack.sh(service, &format!("readlink /proc/self/ns/{kind}"));
    let own = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("ns").to_string_lossy().into_owned();
    for kind in ["ipc", "pid", "net"] {
        assert_eq!(namespace("main", kind), namespace("sidecar", kind), "{kind}");
        assert_ne!(namespace("main", kind), own(kind), "{kind}");
    }
    assert_ne!(namespace("main", "mnt"), namespace("sidecar", "mnt"));
    stack.sh("main", "echo shared > /dev/shm/file");
    assert_eq!(stack.sh("sidecar", "cat /dev/shm/file"), "shared");
    assert!(stack.sh("sidecar", "ps | grep -c 'sleep 1000'").parse::<u32>().expect("count") >= 2);
    // In another's network it has that one's names.
    assert_eq!(stack.sh("sidecar", "hostname; cat /etc/hostname; echo $HOSTNAME"), "mainhost\nmainhost\nmainhost");
    assert!(stack.sh("sidecar", "cat /etc/hosts").ends_with("\tmainhost"));
    assert_eq!(stack.sh("bare", "mount | grep -c /dev/shm; true"), "0");
    assert_ne!(namespace("bare", "cgroup"), own("cgroup"));
    for kind in ["ipc", "pid", "uts"] {
        assert_eq!(namespace("host", kind), own(kind), "{kind}");
    }
    let hostname = nix::unistd::gethostname().expect("hostname").to_string_lossy().into_owned();
    assert_eq!(stack.sh("host", "hostname"), hostname);
    // With the host's processes, its own must still go with it.
    let pid: i32 = stack.sh("host", "sleep 999 >/dev/null 2>&1 & echo $!").parse().expect("pid");
    let in_host = std::path::PathBuf::from(format!("/proc/{pid}"));
    assert!(in_host.exists(), "the ids are the host's");
    stack.wharf(&["stop", "host"]).ok();
    eventually("its processes are gone", 5, || !in_host.exists());
    // Who is started again finds the new namespaces.
    stack.wharf(&["restart", "main", "sidecar"]).ok();
    assert_eq!(namespace("main", "ipc"), namespace("sidecar", "ipc"));
    stack.wharf(&["stop", "main"]).ok();
    stack.wharf(&["restart", "sidecar"]).fails(1, &["shares the", "which is not running"]);
}

#[test]
fn devices_and_their_rules() {
    use std::os::unix::fs::MetadataExt;
    let stack = Stack::new("nothing");
    // A device that containers do not have by themselves; which there is depends on the machine.
    let host = ["/dev/fuse", "/dev/loop-control", "/dev/kmsg"].into_iter().find(|path| std::path::Path::new(path).exists());
    let host = host.expect("a device");
    let number = std::fs::metadata(host).expect("device").rdev();
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let yaml = format!(
        "services:
  plain: {{{}}}
  given: {{{}}}
  strong: {{{}}}
",
        sleeping(""),
        sleeping(&format!("devices: ['/dev/null:/dev/hole:r', '{host}'], device_cgroup_rules: ['c 10:200 rwm']")),
        sleeping("privileged: true"),
    );
    stack.write("compose.yaml", &yaml);
    stack.wharf(&["up", "-d"]).ok();
    let device = |service: &str, path: &str| stack.sh(service, &format!("stat -c '%t:%T %F' {path} 2>&1; true"));
    assert_eq!(device("given", "/dev/hole"), "1:3 character special file");
    let shown = format!("{major:x}:{minor:x} character special file");
    assert_eq!(device("given", host), shown);
    assert!(device("plain", host).contains("No such file"));
    assert_eq!(device("strong", host), shown, "the privileged have all");
    let open = |service: &str, path: &str, numbers: &str| {
        let script = format!("[ -e {path} ] || mknod {path} c {numbers}; (: < {path}) 2>&1; true");
        stack.sh(service, &script)
    };
    // Opening what the devices controller forbids is EPERM, whatever the node's mode.
    assert!(open("plain", "/tmp/tun", "10 200").contains("Operation not permitted"));
    assert!(!open("given", "/tmp/tun", "10 200").contains("Operation not permitted"));
    assert!(open("plain", "/tmp/host", &format!("{major} {minor}")).contains("Operation not permitted"));
    assert!(!open("given", host, "").contains("Operation not permitted"));
    stack.write("compose.yaml", &format!("services: {{gpu: {{{}}}}}", sleeping("gpus: all")));
    stack.wharf(&["up", "-d"]).fails(1, &["`services.gpu`", "gpu", "name the devices themselves"]);
    stack.write("compose.yaml", &format!("services: {{bad: {{{}}}}}", sleeping("devices: [/etc/passwd]")));
    stack.wharf(&["up", "-d"]).fails(1, &["/etc/passwd is not a device"]);
}

#[test]
fn links_are_names_of_one_container_alone() {
    let stack = Stack::new("nothing");
    let yaml = format!(
        "services:
  db: {{{}}}
  web: {{{}}}
  other: {{{}}}
",
        sleeping(""),
        sleeping("links: ['db:database', db]"),
        sleeping(""),
    );
    stack.write("compose.yaml", &yaml);
    stack.wharf(&["up", "-d"]).ok();
    let address = stack.sh("db", "hostname -i");
    assert!(stack.sh("web", "nslookup database").contains(&address));
    assert!(stack.sh("web", "nslookup DB").contains(&address));
    assert_ne!(stack.wharf(&["exec", "-T", "other", "nslookup", "database"]).code, 0);
}

#[test]
fn hooks_run_after_the_start_and_before_the_stop() {
    let stack = Stack::new("nothing");
    let hooks = "volumes: ['out:/out'], post_start: [{command: [sh, -c, 'echo start $$MARK $(id -u) $(pwd) >> /out/log'], user: app, \
        environment: [MARK=x], working_dir: /tmp}], pre_stop: [{command: [sh, -c, 'echo stop >> /out/log']}]";
    let yaml = format!(
        "services: {{app: {{{}}}, reader: {{{}}}}}\nvolumes: {{out: {{}}}}",
        sleeping(hooks),
        sleeping("volumes: ['out:/out'], depends_on: [app]"),
    );
    stack.write("compose.yaml", &yaml);
    // The volume's directory is root's, so the hook of `app` may not write there: its failure is told, with its own words.
    stack.wharf(&["up", "-d"]).fails(1, &["app hook exited with status 1", "post_start", "can't create /out/log"]);
    stack.write("compose.yaml", &yaml.replace("user: app, ", ""));
    stack.wharf(&["up", "-d"]).ok();
    // What was recreated has been stopped before.
    assert_eq!(stack.sh("reader", "cat /out/log"), "stop\nstart x 0 /tmp");
    stack.wharf(&["stop", "app"]).ok();
    assert_eq!(stack.sh("reader", "cat /out/log"), "stop\nstart x 0 /tmp\nstop");
}

#[test]
fn pre_start_runs_before_the_service_and_holds_it_back() {
    let stack = Stack::new("nothing");
    let yaml = |hook: &str| {
        format!(
            "services:
  app:
    {}
    user: app
    scale: 2
    ports: ['80']
    healthcheck: {{test: 'true'}}
    depends_on: [db]
    environment: {{WHO: service}}
    volumes: ['out:/out', '/mine']
    pre_start:
      - {{command: [sh, -c, 'touch /out/log; chown app /out /out/log; echo one $$WHO $$(id -u) >> /out/log; ping -c1 -W2 db >/dev/null && echo db >> /out/log'], user: root}}
      - {{command: [sh, -c, '{hook}'], environment: [WHO=hook], image: 'other:local'}}
      - {{command: [sh, -c, 'echo for $$(hostname | wc -c) >> /out/log; touch /mine/seen'], per_replica: true, user: root}}
  db: {{{}}}
  late: {{{}}}
volumes: {{out: {{}}}}
",
            sleeping("").replace(", ", "\n    "),
            sleeping(""),
            sleeping("profiles: [late], pre_start: [{command: [sh, -c, 'echo late >> /out/log']}], volumes: ['out:/out']"),
        )
    };
    stack.wharf(&["image", "tag", "busybox:local", "other:local"]).ok();
    stack.write("compose.yaml", &yaml("echo two $$WHO $$(id -u); exit 4"));
    let up = stack.wharf(&["up", "-d"]);
    up.fails(1, &["pre_start[", "exited with code 4", "two hook 1000", "is kept"]);
    assert!(stack.ps().iter().all(|c| c["Service"] != "app" || c["State"] != "running"));
    let kept = format!("{}-app-pre_start-1", stack.project);
    assert_eq!(stack.wharf(&["container", "logs", &kept]).ok(), "two hook 1000\n");
    // What ran before a failure runs again; what has succeeded does not, for as long as the service is what it was.
    stack.write("compose.yaml", &yaml("echo two $$WHO $$(id -u) >> /out/log"));
    stack.wharf(&["up", "-d"]).ok();
    let log = "one service 0\ndb\none service 0\ndb\ntwo hook 1000\nfor 13\nfor 13";
    assert_eq!(stack.sh("app", "cat /out/log; ls /mine"), format!("{log}\nseen"));
    assert!(!stack.wharf(&["container", "ls", "-a"]).ok().contains("pre_start"), "what succeeded is gone");
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["stop", "app"]).ok();
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.sh("app", "cat /out/log"), log);
    // One container more is not the service once more, but one replica more.
    stack.wharf(&["up", "-d", "--scale", "app=3"]).ok();
    assert_eq!(stack.sh("app", "cat /out/log"), format!("{log}\nfor 13"));
    stack.sh("db", "true");
    stack.wharf(&["up", "-d", "--scale", "app=1", "--force-recreate", "--no-deps", "app"]).ok();
    assert!(stack.sh("app", "cat /out/log").ends_with("for 13\none service 0\ndb\ntwo hook 1000\nfor 13"));
    // `start` of what `create` has made runs them as well.
    stack.wharf(&["--profile", "late", "create", "late"]).ok();
    assert!(!stack.sh("app", "cat /out/log").contains("late"));
    stack.wharf(&["--profile", "late", "start", "late"]).ok();
    assert!(stack.sh("app", "cat /out/log").ends_with("late"));
}

#[test]
fn the_privileged_have_what_docker_gives_them() {
    let stack = Stack::new("nothing");
    let yaml = format!(
        "services:\n  privileged: {{{}}}\n  plain: {{{}}}\n  grouped: {{{}}}\n  host: {{{}}}\n",
        sleeping("privileged: true"),
        sleeping(""),
        sleeping("user: app, group_add: [log, '33', '4']"),
        sleeping("network_mode: host, extra_hosts: ['added:1.2.3.4']"),
    );
    stack.write("compose.yaml", &yaml);
    stack.wharf(&["up", "-d"]).ok();
    // Its control groups are its own to change, which others only see.
    let group = "cd /sys/fs/cgroup; [ -d memory ] && cd memory; mkdir inner && rmdir inner && echo changed";
    assert_eq!(stack.sh("privileged", group), "changed");
    let refused = stack.wharf(&["exec", "-T", "plain", "sh", "-c", group]);
    assert!(refused.stderr.contains("Read-only file system"), "{}", refused.stderr);
    for (device, seen) in [("kmsg", "yes"), ("fuse", "yes")] {
        let present = std::path::Path::new("/dev").join(device).exists();
        let look = format!("[ -e /dev/{device} ] && echo yes || echo no");
        assert_eq!(stack.sh("privileged", &look), if present { seen } else { "no" }, "{device}");
        assert_eq!(stack.sh("plain", &look), "no", "{device}");
    }
    assert_eq!(
        stack.sh("privileged", "grep CapEff /proc/self/status"),
        stack.sh("privileged", "grep CapBnd /proc/self/status").replace("Bnd", "Eff")
    );
    assert_eq!(stack.sh("privileged", "grep Seccomp: /proc/self/status"), "Seccomp:\t0");
    // A privileged process of another container has every capability, and that one's filter of system calls.
    let status = ["exec", "-T", "--privileged", "plain", "grep", "-E", "CapEff|Seccomp:", "/proc/self/status"];
    let all = stack.sh("privileged", "grep CapEff /proc/self/status");
    assert_eq!(stack.wharf(&status).ok(), format!("{all}\nSeccomp:\t2\n"));
    // No group twice.
    assert_eq!(stack.sh("grouped", "grep Groups: /proc/self/status"), "Groups:\t4 33 1000");
    // In the host's network the host's names are true.
    let hosts = std::fs::read_to_string("/etc/hosts").expect("hosts");
    let lines = |text: &str| text.lines().filter(|line| !line.is_empty()).map(str::to_string).collect::<Vec<_>>();
    assert_eq!(lines(&stack.sh("host", "cat /etc/hosts")), lines(&format!("{hosts}\n1.2.3.4\tadded")));
}

#[test]
fn a_control_group_may_have_a_parent() {
    let stack = Stack::new("nothing");
    let parent = format!("{}-parent/inner", stack.project);
    stack.write(
        "compose.yaml",
        &format!("services: {{app: {{{}}}}}", sleeping(&format!("cgroup_parent: /{parent}, mem_limit: 32m"))),
    );
    stack.wharf(&["up", "-d"]).ok();
    let id = stack.id("app");
    let roots = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(std::path::PathBuf::from);
    let root = roots.iter().find(|root| root.join(&parent).exists()).expect("the parent group");
    let group = root.join(&parent).join(&id);
    let limit = ["memory.limit_in_bytes", "memory.max"].iter().find_map(|file| std::fs::read_to_string(group.join(file)).ok());
    assert_eq!(limit.expect("limit").trim(), (32 << 20).to_string());
    let member = std::fs::read_to_string(group.join("cgroup.procs")).expect("procs");
    assert!(stack.wharf(&["top", "app"]).ok().contains(member.trim()), "{member}");
    assert!(!root.join("wharf").join(&id).exists());
    stack.wharf(&["down"]).ok();
    eventually("what was made for it is gone", 10, || !group.exists());
    // A parent that is somebody else's stays.
    let mine = root.join(format!("{}-mine", stack.project));
    std::fs::create_dir(&mine).expect("group");
    stack.write(
        "compose.yaml",
        &format!("services: {{app: {{{}}}}}", sleeping(&format!("cgroup_parent: {}-mine", stack.project))),
    );
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["down"]).ok();
    eventually("it is empty again", 10, || std::fs::remove_dir(&mine).is_ok());
    for point in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        for left in ["-parent/inner", "-parent", "-mine"] {
            let _ = std::fs::remove_dir(point.path().join(format!("{}{left}", stack.project)));
        }
    }
    stack.write("compose.yaml", &format!("services: {{app: {{{}}}}}", sleeping("cgroup_parent: ../x")));
    stack.wharf(&["up", "-d"]).fails(1, &["cgroup_parent", "without `..`"]);
    stack.write("compose.yaml", "services: {}");
}

#[test]
fn the_engine_is_lent_to_a_service() {
    let stack = Stack::new("nothing");
    let volume = format!("volumes: ['{}:/wharf:ro']", env!("CARGO_BIN_EXE_wharf"));
    stack.write(
        "compose.yaml",
        &format!("services: {{app: {{{}}}, other: {{{}}}}}", sleeping(&format!("{volume}, use_api_socket: true")), sleeping("")),
    );
    std::fs::create_dir(stack.path("login")).expect("directory");
    stack.write("login/config.json", r#"{"auths": {"registry.example": {"auth": "dTpw"}}}"#);
    let up = stack.command(&["up", "-d"]).env("DOCKER_CONFIG", stack.path("login")).output().expect("up");
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let list =
        "mkdir -p /run/wharf; ln -s /var/run/docker.sock /run/wharf/engine.sock; unset WHARF_RUN_ROOT; /wharf container ls";
    assert!(stack.sh("app", list).contains(&format!("{}-other-1", stack.project)));
    assert_eq!(stack.sh("app", "cat $DOCKER_CONFIG/config.json"), r#"{"auths":{"registry.example":{"auth":"dTpw"}}}"#);
    assert_eq!(stack.sh("other", "ls /var/run/docker.sock /run/secrets 2>&1 | grep -c 'No such'"), "2");
}

#[test]
fn another_runtime_runs_the_same_container() {
    let stack = Stack::new("nothing");
    stack.write(
        "seccomp.json",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#,
    );
    let yaml = |runtime: &str| {
        format!(
            "services:
  app:
    image: busybox:local
    runtime: {runtime}
    command: [sh, -c, 'trap \"echo stopped; exit 7\" TERM; echo started; while :; do sleep 0.05; done']
    user: app
    hostname: boxed
    environment: {{A: b}}
    mem_limit: 64m
    pids_limit: 50
    cap_drop: [NET_RAW]
    read_only: true
    tmpfs: /scratch
    volumes: ['data:/etc', './seccomp.json:/given.json:ro', {{type: volume, source: data, target: /part, volume: {{subpath: passwd}}}}]
    secrets: [word]
    sysctls: {{net.ipv4.ip_default_ttl: 42}}
    ulimits: {{nofile: 123}}
  profiled: {{{profiled}}}
  other: {{{other}}}
volumes: {{data: {{}}}}
secrets: {{word: {{content: hush}}}}
",
            profiled = sleeping(&format!("runtime: {runtime}, security_opt: ['seccomp:./seccomp.json']")),
            other = sleeping(""),
        )
    };
    let seen = |stack: &Stack| {
        let script = "id; hostname; echo $A $HOME; pwd; grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status; cat /run/secrets/word; echo; \
            cat /proc/sys/net/ipv4/ip_default_ttl; ulimit -n; touch /x 2>&1; touch /scratch/x && echo scratch; head -1 /part; head -c 20 /given.json; echo; \
            ls /dev | tr '\\n' ' '; echo; unshare -m true 2>&1; cat /proc/kcore 2>&1 | head -c 1 | wc -c; echo x 2>&1 > /proc/sys/kernel/core_pattern; \
            nslookup other | grep -c Address; cat /proc/1/cgroup | wc -l; \
            cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; cut -d' ' -f5 /proc/self/mountinfo | sort -u";
        stack.wharf(&["exec", "-T", "app", "sh", "-c", script]).stdout
    };
    stack.write("compose.yaml", &yaml("wharf"));
    stack.wharf(&["up", "-d"]).ok();
    let own = seen(&stack);
    assert!(own.contains("uid=1000(app)") && own.contains("hush"), "{own}");
    stack.wharf(&["down", "-v"]).ok();
    stack.write("compose.yaml", &yaml("runc"));
    stack.wharf(&["up", "-d"]).ok();
    // What differs is crun's: it has no nosuid /dev/shm masked otherwise, and names its own masks.
    let other = seen(&stack);
    let differ: Vec<(&str, &str)> = own.lines().zip(other.lines()).filter(|(a, b)| a != b).collect();
    assert_eq!(own, other, "{differ:?}");
    assert_ne!(stack.wharf(&["exec", "-T", "profiled", "mkdir", "/tmp/x"]).code, 0, "the profile holds");
    // Its first process is the runtime's work, the rest wharf's.
    let id = stack.id("app");
    let run = stack.run_root().join("containers").join(&id);
    assert!(run.join("runtime").join(&id).exists(), "runc's state");
    assert!(stack.wharf(&["top", "app"]).ok().contains("sh -c"));
    assert_eq!(stack.wharf(&["exec", "-T", "app", "sh", "-c", "exit 9"]).code, 9);
    assert_eq!(stack.wharf(&["exec", "-T", "-u", "root", "app", "id", "-u"]).ok(), "0\n");
    let mut shell = Terminal::start(&mut stack.command(&["exec", "app", "sh"]), 31, 97);
    shell.send("stty size; tty\n");
    shell.expect("31 97", 10);
    shell.expect("/dev/pts/", 10);
    shell.send("exit 5\n");
    assert_eq!(shell.wait(10), Some(5));
    // The engine may die; the container and its log do not.
    stack.wharf(&["engine", "stop"]).ok();
    assert!(stack.wharf(&["ps"]).ok().contains("Up"));
    stack.wharf(&["pause", "app"]).ok();
    stack.wharf(&["unpause", "app"]).ok();
    stack.wharf(&["stop", "app"]).ok();
    assert!(stack.wharf(&["ps", "-a"]).ok().contains("Exited (7)"));
    assert_eq!(stack.wharf(&["logs", "--no-log-prefix", "app"]).ok(), "started\nstopped\n");
    assert!(!run.join("runtime").join(&id).exists(), "runc knows nothing of it any more");
    let mut terminal =
        Terminal::start(&mut stack.command(&["container", "run", "--rm", "-it", "--runtime", "runc", "busybox:local"]), 20, 80);
    terminal.send("stty size; echo $((6*7))\n");
    terminal.expect("20 80", 10);
    terminal.expect("42", 10);
    terminal.send("exit 3\n");
    assert_eq!(terminal.wait(10), Some(3));
    // Failures are told in its words, and leave nothing.
    stack.write("compose.yaml", "services: {app: {image: 'busybox:local', command: [nothing-here], runtime: runc}}");
    stack.wharf(&["up", "-d", "--remove-orphans"]).fails(1, &["by the runtime", "nothing-here"]);
    stack.write("compose.yaml", &format!("services: {{app: {{{}}}}}", sleeping("runtime: no-such-runtime")));
    stack.wharf(&["up", "-d"]).fails(1, &["unknown or invalid runtime name: no-such-runtime", "PATH"]);
    stack.write("compose.yaml", &format!("services: {{app: {{{}}}}}", sleeping("runtime: runc, init: true")));
    stack.wharf(&["up", "-d"]).fails(1, &["`init`", "another"]);
}

#[test]
fn what_this_host_has_not_is_said() {
    let stack = Stack::new("nothing");
    let table: &[(&str, &str, &[&str])] = &[
        ("storage_opt: {sise: 1G}", "", &["no storage option `sise`", "`size`"]),
        ("storage_opt: {size: much}", "", &["`size` is `much`", "`10g`"]),
        ("models: [llm]", "models: {llm: {model: ai/smollm2}}", &["the model `llm`", "environment"]),
        (
            "models: {llm: {endpoint_var: URL, model_var: NAME}}",
            "models: {llm: {name: big, model: ai/smollm2, context_size: 4096, runtime_flags: ['--fast']}}",
            &["the model `llm`", "environment"],
        ),
        ("credential_spec: {file: x.json}", "", &["credential_spec", "Windows"]),
        ("credential_spec: {config: c}", "configs: {c: {content: x}}", &["credential_spec", "Windows"]),
        ("credential_spec: {registry: x}", "", &["credential_spec", "Windows"]),
        ("userns_mode: private", "", &["userns_mode"]),
        ("gpus: all", "", &["asks for devices", "under `devices`"]),
        ("platform: linux/s390x", "", &["linux/s390x", "emulates no other"]),
    ];
    for (service, top, words) in table {
        stack.write("compose.yaml", &format!("services: {{app: {{{}}}}}\n{top}", sleeping(service)));
        stack.wharf(&["up", "-d"]).fails(1, words);
    }
    stack.write("compose.yaml", "services: {db: {provider: {type: cloud, options: {size: 256}}}}");
    stack.wharf(&["up", "-d"]).fails(1, &["provider `cloud`", "by a profile"]);
    stack.write("compose.yaml", "services: {}");
}

/// A file with an ext4 in it, mounted on a data root. Where the kernel has no project quotas, without them.
struct Disk {
    at: std::path::PathBuf,
    has_quotas: bool,
}

impl Disk {
    fn on(stack: &Stack) -> Self {
        let (file, at) = (stack.path("disk"), stack.data_root());
        std::fs::create_dir_all(&at).expect("directory");
        std::fs::File::create(&file).and_then(|file| file.set_len(96 << 20)).expect("a sparse file");
        let run =
            |program: &str, args: &[&str]| Command::new(program).args(args).args([&file]).status().expect(program).success();
        assert!(run("mkfs.ext4", &["-q", "-O", "quota,project", "-E", "quotatype=prjquota"]));
        let mount = |options: &str| {
            Command::new("mount").args(["-o", options]).args([&file, &at]).output().expect("mount").status.success()
        };
        let has_quotas = mount("loop,prjquota");
        if !has_quotas {
            // A kernel without CONFIG_QFMT_V2 mounts none that has the feature.
            assert!(run("mkfs.ext4", &["-q", "-F"]) && mount("loop"), "an ext4 in a file");
        }
        Disk { at, has_quotas }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A mount namespace that another test makes this moment has it as well.
        let unmount = || Command::new("umount").arg(&self.at).status().is_ok_and(|status| status.success());
        if std::thread::panicking() {
            let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        } else {
            eventually("nobody holds the disk", 10, unmount);
        }
    }
}

/// More than the disk has: the engine says so while the rest is still sent.
fn copy_too_much(stack: &Stack) {
    std::fs::write(stack.path("huge"), vec![b'x'; 120 << 20]).expect("a file");
    stack.wharf(&["cp", "huge", "free:/huge"]).fails(1, &["free-1", "No space left", "free some space"]);
    stack.sh("free", "rm -f /huge; echo yes > /there");
}

#[test]
fn layers_and_volumes_have_a_size() {
    let stack = Stack::bare("nothing");
    let disk = Disk::on(&stack);
    stack.import_busybox();
    let app = |more: &str| {
        stack.write(
            "compose.yaml",
            &format!(
                "services: {{app: {{{}}}, free: {{{}}}}}{more}",
                sleeping("storage_opt: {size: 4M}, volumes: ['vol:/v']"),
                sleeping("")
            ),
        )
    };
    let volume = "\nvolumes: {vol: {driver_opts: {size: 2M}}}";
    if disk.has_quotas {
        app(volume);
        stack.wharf(&["up", "-d"]).ok();
        // In KiB, and what df says is what can be written: not quite all, for the directory itself is in it.
        let size = |service, path| {
            stack.sh(service, &format!("df -k {path} | awk 'END {{print $(NF-4)}}'")).trim().parse::<u64>().expect("KiB")
        };
        assert_eq!((size("app", "/"), size("app", "/v")), (4096, 2048));
        assert!(size("free", "/") > 16384);
        for (path, most) in [("/big", 4096), ("/v/big", 2048)] {
            let written = format!("dd if=/dev/zero of={path} bs=64k count=128 2>&1; du -k {path} | cut -f1");
            let said = stack.sh("app", &written);
            let kept: u64 = said.lines().last().and_then(|line| line.parse().ok()).expect("KiB");
            assert!((said.contains("quota exceeded") || said.contains("No space")) && kept <= most && kept > most / 2, "{said}");
        }
        stack.sh("free", "dd if=/dev/zero of=/big bs=64k count=128 2>/dev/null");
        // It holds for a container that stands, for what is copied into it, and is not there any more when it is removed.
        stack.wharf(&["restart", "app"]).ok();
        stack.sh("app", "rm /big; dd if=/dev/zero of=/small bs=64k count=16 2>/dev/null");
        stack.write("large", &"x".repeat(5 << 20));
        stack.wharf(&["cp", "large", "app:/large"]).fails(1, &["app-1", "`storage_opt` gives its layer 4M"]);
        stack.wharf(&["up", "-d", "--force-recreate"]).ok();
        assert_eq!(stack.sh("app", "ls / | grep -c -e small -e large || true").trim(), "0");
        assert_eq!(size("app", "/"), 4096);
        assert_eq!(
            stack
                .wharf(&[
                    "container",
                    "run",
                    "--rm",
                    "--storage-opt",
                    "size=1m",
                    "busybox:local",
                    "sh",
                    "-c",
                    "df -k / | awk 'END {print $(NF-4)}'"
                ])
                .ok()
                .trim(),
            "1024"
        );
        copy_too_much(&stack);
        stack.wharf(&["down", "-v"]).ok();
    } else {
        app(volume);
        stack.wharf(&["up", "-d"]).fails(1, &["the volume", "cannot have a size", "ext4, keeps no project quotas", "prjquota"]);
        app("\nvolumes: {vol: {}}");
        stack.wharf(&["up", "-d"]).fails(1, &["the layer of", "cannot have a size", "ext4, keeps no project quotas", "prjquota"]);
        assert_eq!(stack.ps().len(), 1, "the other is there");
        copy_too_much(&stack);
        stack.wharf(&["down", "-v"]).ok();
        assert_eq!(stack.container_directories(), 0, "nothing is left");
    }
    stack.wharf(&["volume", "create", "-o", "size=nothing", "w"]).fails(1, &["`nothing`", "`10g`"]);
    stack.wharf(&["engine", "stop"]).ok();
}

#[test]
fn volumes_of_every_kind() {
    let stack = Stack::new("nothing");
    std::fs::create_dir_all(stack.path("host/sub")).expect("directory");
    stack.write("host/sub/file", "of the host");
    std::os::unix::fs::symlink("/", stack.path("host/out")).expect("link");
    let yaml = format!(
        "services:
  app:
    image: busybox:local
    command: sleep 1000
    stop_signal: SIGKILL
    volumes:
      - bound:/bound
      - memory:/memory
      - {{type: image, source: 'busybox:local', target: /image}}
      - {{type: image, source: 'busybox:local', target: /passwd, image: {{subpath: etc/passwd}}}}
      - {{type: volume, source: bound, target: /part, volume: {{subpath: sub}}}}
      - {{type: volume, target: /anonymous, volume: {{labels: {{role: cache}}}}}}
  heir: {{{}}}
volumes:
  bound: {{driver: local, driver_opts: {{type: none, o: bind, device: '{}'}}}}
  memory: {{driver_opts: {{type: tmpfs, device: tmpfs, o: 'size=1m,mode=0700'}}}}
",
        sleeping("volumes_from: ['app:ro']"),
        stack.path("host").display(),
    );
    stack.write("compose.yaml", &yaml);
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.sh("app", "cat /bound/sub/file /part/file"), "of the hostof the host");
    assert_eq!(stack.sh("app", "mount | grep ' /memory ' | grep -o 'size=1024k'; stat -c %a /memory"), "size=1024k\n700");
    assert!(stack.sh("app", "cat /image/etc/passwd /passwd").matches("app:x:1000").count() == 2);
    assert!(stack.sh("app", "(echo x > /image/file) 2>&1; true").contains("Read-only"));
    stack.sh("app", "echo kept > /anonymous/file");
    assert_eq!(stack.sh("heir", "cat /anonymous/file /bound/sub/file"), "kept\nof the host");
    assert!(stack.sh("heir", "(echo x > /bound/sub/file) 2>&1; true").contains("Read-only"));
    // A link in the volume leads nowhere but into the volume.
    stack.write("compose.yaml", &yaml.replace("subpath: sub", "subpath: out/etc"));
    stack.wharf(&["up", "-d", "app"]).fails(1, &["out/etc", "No such file"]);
    stack.write("compose.yaml", &yaml.replace("host'", "missing'"));
    stack.wharf(&["down", "-v"]).ok();
    stack.wharf(&["up", "-d"]).fails(1, &["the volume", "does not exist", "create it"]);
}

#[test]
fn a_file_system_in_memory_is_one_for_all() {
    let stack = Stack::new("nothing");
    let mut services = String::new();
    for n in 0..8 {
        services.push_str(&format!("  s{n}: {{{}}}\n", sleeping(&format!("volumes: ['memory:/m{n}']"))));
    }
    let reader = sleeping("volumes: ['memory:/only:ro']");
    let foreign = sleeping("volumes: ['memory:/foreign'], runtime: runc");
    let foreign_reader = sleeping("volumes: ['memory:/only_foreign:ro'], runtime: runc");
    let volume = "memory: {driver_opts: {type: tmpfs, device: tmpfs, o: 'size=1m'}}";
    stack.write(
        "compose.yaml",
        &format!("services:\n{services}  reader: {{{reader}}}\n  foreign: {{{foreign}}}\n  foreign_reader: {{{foreign_reader}}}\nvolumes: {{{volume}}}\n"),
    );
    stack.wharf(&["up", "-d"]).ok();
    stack.sh("s3", "echo shared > /m3/file");
    for n in 0..8 {
        assert_eq!(stack.sh(&format!("s{n}"), &format!("cat /m{n}/file")), "shared", "s{n}");
    }
    assert_eq!(stack.sh("foreign", "cat /foreign/file; echo more >> /foreign/file"), "shared");
    assert_eq!(
        stack.sh("reader", "cat /only/file; touch /only/x 2>&1; true"),
        "shared\nmore\ntouch: /only/x: Read-only file system"
    );
    stack.sh("s0", "touch /m0/x");
    // One that comes later finds it, even when who mounted it first has gone; with the last of them it is gone, as with Docker.
    stack.wharf(&["restart", "-t", "0", "s0", "s1", "s2", "s3", "s4", "s5", "s6", "foreign"]).ok();
    assert_eq!(stack.sh("s3", "cat /m3/file"), "shared\nmore");
    stack.wharf(&["stop", "-t", "0"]).ok();
    stack.wharf(&["start"]).ok();
    assert_eq!(stack.sh("s3", "ls /m3"), "");
    // Whoever is the first: who may write can, and the others cannot.
    for first in ["reader", "foreign_reader", "s0"] {
        stack.wharf(&["stop", "-t", "0"]).ok();
        for service in [first, "s1", "foreign", "reader", "foreign_reader"] {
            stack.wharf(&["start", service]).ok();
        }
        stack.sh("s1", "echo one > /m1/file");
        stack.sh("foreign", "echo two >> /foreign/file");
        for (reader, place) in [("reader", "/only"), ("foreign_reader", "/only_foreign")] {
            let said = stack.sh(reader, &format!("cat {place}/file; touch {place}/x 2>&1; true"));
            assert_eq!(said, format!("one\ntwo\ntouch: {place}/x: Read-only file system"), "{first} first");
        }
    }
    let part = sleeping("volumes: [{type: volume, source: memory, target: /part, volume: {subpath: x}}]");
    stack.write("compose.yaml", &format!("services: {{part: {{{part}}}}}\nvolumes: {{{volume}}}\n"));
    stack.wharf(&["up", "-d", "--remove-orphans"]).fails(1, &["_memory", "file system of its own", "mount it whole"]);
}

#[test]
fn limits_are_in_the_control_group() {
    let is_v1 = std::path::Path::new("/sys/fs/cgroup/memory").exists();
    let stack = Stack::new("nothing");
    let names = std::fs::read_dir("/sys/block").expect("disks").flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let real = names.filter(|name| !["loop", "ram", "zram", "dm-"].iter().any(|kind| name.starts_with(kind)));
    let disk = real.map(|name| format!("/dev/{name}")).find(|path| std::path::Path::new(path).exists());
    let Some(disk) = disk else { return };
    let yaml = format!(
        "services: {{app: {{{}}}}}",
        sleeping(
            "OLDER mem_limit: 64m, cpu_shares: 77, deploy: {resources: {reservations: {memory: 8m}}}, \
             blkio_config: {device_read_bps: [{path: DISK, rate: 10mb}], device_write_iops: [{path: DISK, rate: 50}], \
             device_read_iops: [{path: DISK, rate: 60}], device_write_bps: [{path: DISK, rate: 20mb}]}"
        )
    );
    let older = if is_v1 { "mem_swappiness: 10, oom_kill_disable: true," } else { "" };
    stack.write("compose.yaml", &yaml.replace("DISK", &disk).replace("OLDER", older));
    stack.wharf(&["up", "-d"]).ok();
    let id = stack.id("app");
    let read = |file: &str| {
        let (controller, name) = file.split_once('/').expect("controller");
        std::fs::read_to_string(stack.group(&id, controller).join(name)).expect(file).trim().to_string()
    };
    if !is_v1 {
        assert_eq!(read("memory/memory.max"), (64 << 20).to_string());
        assert_eq!(read("memory/memory.low"), (8 << 20).to_string());
        // 2 to 262144 onto 1 to 10000.
        assert_eq!(read("cpu/cpu.weight"), "3");
        let numbers = nix::sys::stat::stat(disk.as_str()).expect("disk").st_rdev;
        let device = format!("{}:{}", nix::sys::stat::major(numbers), nix::sys::stat::minor(numbers));
        let limits = format!("{device} rbps={} wbps={} riops=60 wiops=50", 10 << 20, 20 << 20);
        assert_eq!(read("io/io.max"), limits);
        return;
    }
    assert_eq!(read("memory/memory.swappiness"), "10");
    assert!(read("memory/memory.oom_control").contains("oom_kill_disable 1"));
    assert_eq!(read("memory/memory.soft_limit_in_bytes"), (8 << 20).to_string());
    assert_eq!(read("cpu/cpu.shares"), "77");
    let numbers = nix::sys::stat::stat(disk.as_str()).expect("disk").st_rdev;
    let device = format!("{}:{}", nix::sys::stat::major(numbers), nix::sys::stat::minor(numbers));
    assert_eq!(read("blkio/blkio.throttle.read_bps_device"), format!("{device} {}", 10 << 20));
    assert_eq!(read("blkio/blkio.throttle.write_iops_device"), format!("{device} 50"));
    assert_eq!(read("blkio/blkio.throttle.read_iops_device"), format!("{device} 60"));
    assert_eq!(read("blkio/blkio.throttle.write_bps_device"), format!("{device} {}", 20 << 20));
}

#[test]
fn a_profile_of_ones_own_decides_about_system_calls() {
    let stack = Stack::new("nothing");
    stack.write(
        "profile.json",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}"#,
    );
    let yaml = format!("services: {{app: {{{}}}}}", sleeping("security_opt: ['seccomp:./profile.json']"));
    stack.write("compose.yaml", &yaml);
    stack.wharf(&["up", "-d"]).ok();
    assert!(stack.sh("app", "mkdir /tmp/x 2>&1; true").contains("not supported"));
    stack.sh("app", "touch /tmp/y");
    stack.write("profile.json", r#"{"defaultAction": "SCMP_ACT_NONSENSE"}"#);
    stack.wharf(&["up", "-d", "--force-recreate"]).fails(1, &["profile.json", "SCMP_ACT_NONSENSE"]);
}

/// Volumes that are directories of the host are filled from the image as others are.
#[test]
fn a_volume_that_is_a_directory_is_filled_from_the_image() {
    let stack = Stack::new("none");
    for directory in ["empty", "full"] {
        std::fs::create_dir(stack.path(directory)).expect("directory");
    }
    stack.write("full/own", "own");
    let volume = |name: &str| {
        format!("  {name}: {{driver: local, driver_opts: {{type: none, o: bind, device: '{}'}}}}\n", stack.path(name).display())
    };
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  web:\n    build: {{dockerfile_inline: \"FROM busybox:local\\nRUN mkdir -p /data/sub && echo image > /data/sub/file && chown -R 1000 /data\"}}\n    \
             command: sleep 1000\n    stop_signal: SIGKILL\n    volumes: ['empty:/data', 'full:/data2']\nvolumes:\n{}{}",
            volume("empty"),
            volume("full")
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.sh("web", "cat /data/sub/file; stat -c %u /data; ls /data2"), "image\n1000\nown");
    assert_eq!(std::fs::read_to_string(stack.path("empty/sub/file")).expect("file"), "image\n");
}

/// A project that the engine would not read is refused before it is sent, with the size and what to do.
#[test]
fn content_beyond_what_the_engine_reads_is_said() {
    let stack = Stack::new("nothing");
    let file = |bytes: usize| {
        let content = "x".repeat(bytes);
        let text =
            format!("services: {{web: {{{}}}}}\nconfigs: {{large: {{content: {content}}}}}\n", sleeping("configs: [large]"));
        stack.write("compose.yaml", &text);
    };
    file(17 << 20);
    stack.wharf(&["up", "-d"]).fails(1, &["which reads 16777216 at most", "mount large files by `volumes`"]);
    file(15 << 20);
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.wharf(&["exec", "-T", "web", "wc", "-c", "/large"]).ok().trim(), "15728640 /large");
}
