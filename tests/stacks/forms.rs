//! The long forms of attributes and the parts of structures, each seen for itself.

use crate::support::{Stack, eventually, follow, sleeping};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

/// What a command says of itself: its name, a variable, its user, its directory, and what it may become.
fn says(name: &str) -> String {
    format!("command: [sh, -c, 'echo {name} $$MARK $$(id -u) $$(pwd) $$(grep CapBnd /proc/self/status | cut -f2) >> /out/log']")
}

/// All that a hook can have besides its command.
const FULL: &str = "user: app, environment: [MARK=x], working_dir: /tmp, privileged: true";

/// Docker's capabilities.
const PLAIN: &str = "00000000a80425fb";

/// What this process may have at most: the privileged get no more.
fn all_capabilities() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process's status");
    status.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("capabilities").trim().to_string()
}

#[test]
fn hooks_have_a_user_an_environment_a_directory_and_privileges() {
    let stack = Stack::new("nothing");
    let hook = |name: &str| format!("[{{{}}}, {{{}, {FULL}}}]", says(name), says(name));
    let service = format!(
        "volumes: ['out:/out'], working_dir: /usr, pre_start: [{{command: [sh, -c, 'touch /out/log; chmod 666 /out/log']}}, {}, {}], post_start: {}, pre_stop: {}",
        format_args!("{{{}}}", says("before")),
        format_args!("{{{}, {FULL}}}", says("before")),
        hook("after"),
        hook("stop"),
    );
    let yaml = format!(
        "services: {{app: {{{}}}, reader: {{{}}}}}\nvolumes: {{out: {{}}}}",
        sleeping(&service),
        sleeping("volumes: ['out:/out']")
    );
    stack.write("compose.yaml", &yaml);
    stack.wharf(&["up", "-d"]).ok();
    let all = all_capabilities();
    // Where a hook says no directory the service's holds.
    let expect = |name: &str| format!("{name} 0 /usr {PLAIN}\n{name} x 1000 /tmp {all}");
    assert_eq!(stack.sh("reader", "cat /out/log"), format!("{}\n{}", expect("before"), expect("after")));
    stack.wharf(&["stop", "app"]).ok();
    assert_eq!(stack.sh("reader", "tail -2 /out/log"), expect("stop"));
}

#[test]
fn watch_runs_its_command_as_it_is_told_and_syncs_what_it_includes() {
    let stack = Stack::new("nothing");
    std::fs::create_dir_all(stack.path("src")).expect("directory");
    stack.write("hook", "0");
    let exec = format!("{{{}, {FULL}}}", says("exec"));
    let yaml = format!(
        "services:
  app:
    {}
    volumes: ['out:/out']
    pre_start: [{{command: [sh, -c, 'touch /out/log; chmod 666 /out/log']}}]
    develop:
      watch:
        - {{action: sync+exec, path: ./hook, target: /tmp/hook, exec: {exec}}}
        - {{action: sync, path: ./src, target: /srv, include: ['*.txt']}}
volumes: {{out: {{}}}}
",
        sleeping("").replace(", ", "\n    ")
    );
    stack.write("compose.yaml", &yaml);
    let mut watch = stack.command(&["watch"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("watch");
    let said = follow(watch.stderr.take().expect("stderr"));
    eventually("the watch is enabled", 60, || said.lock().expect("lock").contains("Watch enabled"));
    stack.write("hook", "1");
    let told = format!("exec x 1000 /tmp {}", all_capabilities());
    eventually("the command ran", 10, || stack.sh("app", "cat /out/log 2>/dev/null; true") == told);
    // The one that is not included was written first: with the other's arrival it is known not to come.
    stack.write("src/not.log", "no");
    stack.write("src/is.txt", "yes");
    eventually("it is there", 10, || stack.sh("app", "ls /srv 2>/dev/null; true") == "is.txt");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(watch.id() as i32), nix::sys::signal::Signal::SIGINT).expect("kill");
    watch.wait().expect("wait");
}

#[test]
fn devices_have_a_long_form_and_gpus_are_counted() {
    let stack = Stack::new("nothing");
    // One that containers do not have by themselves; which there is depends on the machine.
    let host = ["/dev/fuse", "/dev/loop-control", "/dev/kmsg"].into_iter().find(|path| std::path::Path::new(path).exists());
    let host = host.expect("a device");
    // Specifications for this engine alone: in its own mount namespace they are in /etc/cdi.
    let vendors = stack.path("cdi");
    std::fs::create_dir_all(&vendors).expect("directory");
    let gpu = |name: &str, nodes: &str| format!("  - {{name: '{name}', containerEdits: {{deviceNodes: [{nodes}]}}}}\n");
    let node = |n: u32| format!("{{path: /dev/gpu{n}, hostPath: /dev/zero}}");
    let all = [0, 1, 2].map(node).join(", ");
    let each: String = (0..3).map(|n| gpu(&n.to_string(), &node(n))).collect();
    std::fs::write(
        vendors.join("gpu.yaml"),
        format!("cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ndevices:\n{each}{}", gpu("all", &all)),
    )
    .expect("specification");
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  long: {{{}}}\n  two: {{{}}}\n  every: {{{}}}\n  second: {{{}}}\n  one: {{{}}}\n",
            sleeping(&format!("devices: [{{source: {host}, target: /dev/given, permissions: r}}]")),
            sleeping("gpus: [{count: 2}]"),
            sleeping("gpus: all"),
            sleeping("gpus: [{device_ids: ['1']}]"),
            sleeping("deploy: {resources: {reservations: {devices: [{count: 1, capabilities: [gpu], driver: nvidia}]}}}"),
        ),
    );
    stack.wharf(&["engine", "stop"]).ok();
    let up = stack.command(&["up", "-d"]);
    let mut inside = Command::new("unshare");
    inside.args(["-m", "sh", "-c", "mkdir -p /etc/cdi && mount --bind \"$0\" /etc/cdi && exec \"$@\""]).arg(&vendors);
    inside.arg(up.get_program()).args(up.get_args()).current_dir(up.get_current_dir().expect("directory"));
    inside.envs(up.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let up = inside.output().expect("unshare");
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let gpus = |service: &str| stack.sh(service, "cd /dev; ls -d gpu*").replace('\n', " ");
    assert_eq!(gpus("two"), "gpu0 gpu1");
    assert_eq!(gpus("every"), "gpu0 gpu1 gpu2");
    assert_eq!(gpus("second"), "gpu1");
    assert_eq!(gpus("one"), "gpu0");
    // Its number, and for whom: what may only be read is opened for nothing else, whatever the node's mode.
    let number = std::fs::metadata(host).expect("device").rdev();
    let number = format!("{:x}:{:x}", nix::sys::stat::major(number), nix::sys::stat::minor(number));
    assert_eq!(stack.sh("long", "stat -c %t:%T /dev/given; ls /dev | grep -c gpu || true"), format!("{number}\n0"));
    let refused = |how: &str| stack.sh("long", &format!("(: {how} /dev/given) 2>&1; true")).contains("Operation not permitted");
    assert_eq!((refused("<"), refused(">")), (false, true));
}

#[test]
fn resources_have_names_of_their_own() {
    let stack = Stack::new("nothing");
    let own = |what: &str| format!("{}-own-{what}", stack.project);
    stack.write(
        "compose.yaml",
        &format!(
            "services:
  app: {{{}}}
networks: {{n: {{name: {net}}}}}
volumes: {{vol: {{name: {vol}}}}}
configs: {{c: {{name: {conf}, content: config}}}}
secrets: {{s: {{name: {secret}, environment: HUSH}}}}
",
            sleeping("networks: [n], volumes: ['vol:/data'], configs: [c], secrets: [s], scale: 2"),
            net = own("net"),
            vol = own("vol"),
            conf = own("config"),
            secret = own("secret"),
        ),
    );
    stack.write(".env", "HUSH=quiet\n");
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.ps().len(), 2, "`scale`");
    stack.sh("app", "echo kept > /data/file");
    let file = stack.data_root().join("volumes").join(own("vol")).join("_data/file");
    assert_eq!(std::fs::read_to_string(file).expect("the volume's file"), "kept\n");
    let bridge = stack.wharf(&["network", "inspect", "-f", "{{.Id}}", &own("net")]).ok();
    assert!(std::path::Path::new(&format!("/sys/class/net/br-{}", &bridge.trim()[..12])).exists(), "{bridge}");
    // The project's own names are what a service says and finds, whatever they are called elsewhere.
    assert_eq!(stack.sh("app", "cat /c /run/secrets/s; ls /run/secrets"), "configquiets");
    stack.wharf(&["down", "-v"]).ok();
    assert!(!stack.data_root().join("volumes").join(own("vol")).exists());
}

#[test]
fn mounts_have_a_long_form() {
    let stack = Stack::new("nothing");
    stack.write("given", "from the host");
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  app: {{{}}}\n  plain: {{{}}}\nvolumes: {{vol: {{}}}}\n",
            sleeping(
                "volumes: [{type: volume, source: vol, target: /vol, read_only: true}, {type: bind, source: ./given, target: /given, read_only: true}]"
            ),
            sleeping("volumes: [{type: volume, source: vol, target: /vol}, {type: bind, source: ./given, target: /given}]"),
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    for path in ["/vol/file", "/given"] {
        let tried = stack.sh("app", &format!("(echo x > {path}) 2>&1; true"));
        assert!(tried.contains("Read-only file system"), "{path}: {tried}");
    }
    stack.sh("plain", "echo x > /vol/file; echo y > /given");
    assert_eq!(stack.sh("app", "cat /vol/file /given"), "x\ny");
}

#[test]
fn a_stage_is_made_anew_where_the_file_says_so() {
    let stack = Stack::new("nothing");
    stack.write(
        "Dockerfile",
        "FROM busybox:local AS first\nRUN cat /proc/sys/kernel/random/uuid > /first\nFROM first\nRUN cat /proc/sys/kernel/random/uuid > /second\n",
    );
    let filter = |more: &str| {
        stack.write(
            "compose.yaml",
            &format!("services: {{app: {{image: '{}:1', build: {{context: .{more}}}, command: cat /first}}}}", stack.project),
        );
        stack.wharf(&["build"]).ok();
        stack.wharf(&["run", "--rm", "-T", "app"]).ok()
    };
    let first = filter("");
    assert_eq!(filter(""), first);
    assert_ne!(filter(", no_cache_filter: [first]"), first);
}
