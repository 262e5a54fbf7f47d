//! What scripts rely on: exit codes, which project a command is about, and that what is refused changes nothing.

use crate::support::{Stack, Terminal, eventually, sleeping};
use std::process::Stdio;

fn services(list: &[(&str, &str)]) -> String {
    let one = |(name, rest): &(&str, &str)| format!("  {name}: {{{}}}\n", sleeping(rest));
    format!("services:\n{}", list.iter().map(one).collect::<String>())
}

/// `-p` without `-f` is what exists under that name, whatever file is here.
#[test]
fn a_project_that_is_named_is_not_the_file_that_is_here() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &(services(&[("db", "volumes: ['data:/data']")]) + "volumes: {data: }\n"));
    stack.wharf(&["up", "-d"]).ok();
    std::fs::create_dir(stack.path("elsewhere")).expect("directory");
    stack.write("elsewhere/compose.yaml", &services(&[("web", "")]));
    stack.write("elsewhere/.env", "FROM_FILE=here\n");
    let named = |args: &[&str]| {
        let mut command = stack.command(&["-p", &stack.project]);
        let command = command.args(args).env_remove("COMPOSE_PROJECT_NAME").current_dir(stack.path("elsewhere"));
        let output = command.stdin(Stdio::null()).output().expect("wharf runs");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let state = || stack.state("db");
    for (args, becomes) in [
        (&["stop", "-t", "0"][..], "exited"),
        (&["start"], "running"),
        (&["restart", "-t", "0", "db"], "running"),
        (&["pause"], "paused"),
        (&["unpause", "db"], "running"),
        (&["kill"], "exited"),
    ] {
        let (code, _, stderr) = named(args);
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        eventually("it takes effect", 10, || state() == becomes);
    }
    assert_eq!(named(&["start", "web"]).0, Some(1), "that is none of its services");
    named(&["start"]);
    for args in [&["logs", "db"][..], &["top", "db"], &["exec", "-T", "db", "true"], &["images"], &["ps", "db"]] {
        let (code, _, stderr) = named(args);
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
    }
    let (_, shown, _) = named(&["exec", "-T", "-e", "FROM_FILE", "db", "sh", "-c", "echo $FROM_FILE"]);
    assert_eq!(shown, "here\n", "variables are those of the directory");
    assert_eq!(named(&["down", "-v", "-t", "0"]).0, Some(0));
    assert!(stack.wharf(&["container", "ls", "-aq"]).ok().is_empty());
    assert!(stack.wharf(&["volume", "ls", "-q"]).ok().is_empty());
}

/// A network or a volume that cannot be made is refused before anything is stopped or removed for it.
#[test]
fn what_cannot_be_made_anew_stops_nothing() {
    let stack = Stack::new("nothing");
    let file = |network: &str, volume: &str| {
        let web = services(&[("web", "networks: [n], volumes: ['data:/data']")]);
        stack.write("compose.yaml", &format!("{web}networks: {{n: {{{network}}}}}\nvolumes: {{data: {{{volume}}}}}\n"));
    };
    file("", "");
    stack.wharf(&["up", "-d"]).ok();
    stack.sh("web", "echo kept > /data/file");
    let id = stack.id("web");
    let name = format!("{}-web-1", stack.project);
    let started = || stack.wharf(&["container", "inspect", "-f", "{{.State.StartedAt}}", &name]).ok();
    let before = started();
    for (network, volume, words) in [
        ("ipam: {config: [{subnet: 127.0.0.0/8}]}", "", "127.0.0.0/8"),
        ("driver: nosuch", "", "driver `nosuch`"),
        ("driver_opts: {com.docker.network.driver.mtu: x}", "", "is not a number"),
        ("driver_opts: {com.docker.network.bridge.name: lo}", "", "is not a bridge"),
        ("", "driver: nosuch", "driver `nosuch`"),
        ("", "driver_opts: {type: none}", "needs `type` and `device`"),
        ("", "driver_opts: {size: many}", "has the size `many`"),
    ] {
        file(network, volume);
        let refused = stack.wharf(&["up", "-d", "--yes"]).fails(1, &[words]);
        assert!(!refused.stderr.contains("Stopp"), "{}", refused.stderr);
        assert_eq!((stack.id("web"), started()), (id.clone(), before.clone()), "{network} {volume}");
    }
    assert_eq!(stack.sh("web", "cat /data/file"), "kept");
    // A subnet of the network that goes is free for the one that comes.
    let subnet = format!("ipam: {{config: [{{subnet: 10.219.{}.0/24}}]}}", std::process::id() % 250);
    for further in ["", ", labels: {further: 'yes'}"] {
        file(&format!("{subnet}{further}"), "");
        stack.wharf(&["up", "-d"]).ok();
    }
    assert_ne!(stack.id("web"), "");
}

/// 125 is docker's own failure, 126 a program that cannot be run, 127 one that is not there; else it is the container's.
#[test]
fn a_run_ends_with_dockers_codes() {
    let stack = Stack::new("nothing");
    for (args, code) in [
        (&["--no-such-option", "busybox:local"][..], 125),
        (&["--pull", "never", "127.0.0.1:1/nosuch"], 125),
        (&["--cpuset-mems", "63", "busybox:local", "true"], 125),
        (&["--memory", "lots", "busybox:local", "true"], 125),
        (&["--name", "?", "busybox:local", "true"], 125),
        (&["--network", "nosuch", "busybox:local", "true"], 125),
        (&["busybox:local", "nosuch"], 127),
        (&["busybox:local", "/etc/passwd"], 126),
        (&["busybox:local", "sh", "-c", "exit 3"], 3),
    ] {
        let ran = stack.wharf(&[&["container", "run", "--rm"], args].concat());
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
    }
    assert_eq!(stack.wharf(&["container", "create", "--cpuset-mems", "63", "busybox:local"]).code, 1);
    assert_eq!(stack.wharf(&["container", "exec", "nosuch"]).fails(1, &["a container and a command"]).code, 1);
    assert!(stack.wharf(&["container", "ls", "-aq"]).ok().is_empty());
}

/// Of a command whose engine is gone nobody knows the exit code.
#[test]
fn an_exec_whose_engine_dies_says_so() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &services(&[("web", "")]));
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["exec", "web"]).fails(1, &["a service and a command"]);
    let exec = stack
        .command(&["exec", "-T", "web", "sh", "-c", "touch /begun; sleep 1000"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("exec");
    eventually("it runs", 10, || stack.wharf(&["exec", "-T", "web", "test", "-e", "/begun"]).code == 0);
    let engine = nix::unistd::Pid::from_raw(stack.engine_pid().expect("an engine"));
    nix::sys::signal::kill(engine, nix::sys::signal::Signal::SIGKILL).expect("kill");
    let output = exec.wait_with_output().expect("wait");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), stderr.contains("its exit code is not known")), (Some(255), true), "{stderr}");
}

/// The usage in an error is the command's own, without options that nobody has to give.
#[test]
fn errors_of_usage_and_names_that_are_taken() {
    let stack = Stack::new("nothing");
    let refused = stack.wharf(&["up", "-d", "--abort-on-container-exit"]).fails(1, &["Usage: wharf up [OPTIONS] [SERVICES]..."]);
    assert!(!refused.stderr.contains("--data-root"), "{}", refused.stderr);
    let file = services(&[("a", "container_name: mine"), ("b", "container_name: mine")]);
    stack.write("compose.yaml", &file);
    for args in [&["config", "-q"][..], &["up", "-d"], &["create"]] {
        stack.wharf(args).fails(1, &["services.b: container name \"mine\" is already in use by service a"]);
    }
    for args in [&["config", "-q", "--no-consistency"][..], &["ps"], &["stop"], &["up", "-d", "b"], &["down", "-t", "0"]] {
        stack.wharf(args).ok();
    }
    stack.wharf(&["down", "nosuch"]).fails(1, &["no such service: nosuch"]);
    // Without a file nobody knows the service: most commands find nothing to do, as with Docker Compose.
    std::fs::remove_file(stack.path("compose.yaml")).expect("remove");
    for (command, code, words) in [
        ("pause", 0, ""),
        ("unpause", 0, ""),
        ("stop", 0, ""),
        ("kill", 0, "No container to kill"),
        ("rm", 0, "No stopped containers"),
        ("start", 1, "no such service: nosuch"),
        ("restart", 1, "no such service: nosuch"),
    ] {
        let ran = stack.wharf(&[command, "nosuch"]);
        assert!(ran.code == code && ran.stderr.contains(words), "{command}: {} {}", ran.code, ran.stderr);
    }
}

/// Links of services on the default network, which knows no names of services.
#[test]
fn links_reach_services_on_the_default_network() {
    let stack = Stack::new("nothing");
    let web = "network_mode: bridge, links: [db, 'db:data', named]";
    let file = services(&[
        ("web", web),
        ("db", "network_mode: bridge"),
        ("named", &format!("network_mode: bridge, container_name: {}x", stack.project)),
    ]);
    stack.write("compose.yaml", &file);
    stack.wharf(&["up", "-d"]).ok();
    let address = |service: &str| {
        stack.container(service)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"].as_str().unwrap_or_default().to_string()
    };
    for (name, service) in [("db", "db"), ("data", "db"), ("named", "named")] {
        let found = stack.sh("web", &format!("nslookup {name}"));
        assert!(found.contains(&address(service)), "{name}: {found}");
    }
}

/// What `up` makes, and what it replaces: resources that nobody uses, images that are mounted, and what others share.
#[test]
fn up_sees_what_its_services_are_made_of() {
    let stack = Stack::new("nothing");
    let image = |text: &str| {
        stack.write("Dockerfile", &format!("FROM busybox:local\nRUN mkdir /files && echo {text} > /files/text\n"));
        stack.wharf(&["image", "build", "-q", "-t", "files:local", "."]).ok();
    };
    image("first");
    let mounts = "volumes: [{type: image, source: 'files:local', target: /mounted}, 'data:/data']";
    let file = services(&[("web", mounts), ("app", "volumes_from: [web]")]);
    stack.write("compose.yaml", &(file + "volumes: {data: , unused: }\nnetworks: {alone: }\n"));
    stack.wharf(&["up", "-d"]).ok();
    let made = |kind: &str| stack.wharf(&[kind, "ls"]).ok();
    assert!(!made("volume").contains("unused") && !made("network").contains("alone"));
    stack.wharf(&["--all-resources", "up", "-d"]).ok();
    assert!(made("volume").contains("_unused") && made("network").contains("_alone"));
    // The user's proxies are no part of what a service is.
    std::fs::create_dir(stack.path("docker")).expect("directory");
    stack.write("docker/config.json", r#"{"proxies": {"default": {"httpProxy": "http://proxy:1"}}}"#);
    let proxied = stack.command(&["up", "-d"]).env("DOCKER_CONFIG", stack.path("docker")).output().expect("up");
    assert!(!String::from_utf8_lossy(&proxied.stderr).contains("Recreate"), "{proxied:?}");
    image("second");
    let id = stack.id("web");
    stack.wharf(&["up", "-d"]).ok();
    assert_ne!(stack.id("web"), id, "it mounts another image");
    assert_eq!(stack.sh("web", "cat /mounted/files/text"), "second");
    let (first, second) = (stack.wharf(&["stop", "web"]), stack.wharf(&["stop", "web"]));
    for stopped in [first, second] {
        assert!(stopped.stderr.contains("web-1  Stopped"), "{}", stopped.stderr);
    }
    stack.wharf(&["container", "rm", &format!("{}-web-1", stack.project)]).ok();
    let alone = stack.wharf(&["up", "-d", "--no-deps", "app"]);
    alone.fails(1, &["cannot share volume with service web: container missing"]);
}

/// Ctrl-C ends what an attached `up` was asked for, and leaves what that depends on.
#[test]
fn ctrl_c_leaves_dependencies_that_are_shown() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &services(&[("web", "depends_on: [db]"), ("db", "")]));
    let mut up =
        stack.command(&["up", "--attach-dependencies", "web"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("up");
    let shown = crate::support::follow(up.stdout.take().expect("stdout"));
    eventually("it is attached", 10, || shown.lock().expect("shown").contains("Attaching to db-1, web-1"));
    eventually("both run", 10, || {
        ["web", "db"].iter().all(|service| stack.ps().iter().any(|c| c["Service"] == *service && c["State"] == "running"))
    });
    let pid = nix::unistd::Pid::from_raw(up.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("kill");
    assert_eq!(up.wait().expect("wait").code(), Some(130));
    assert_eq!((stack.state("web"), stack.state("db")), ("exited".into(), "running".into()));
}

/// Attributes come in the order of Docker Compose's types; a model with variables in it is a mapping in alphabetical order.
#[test]
fn config_is_printed_in_dockers_order() {
    let stack = Stack::new("nothing");
    let health = "healthcheck: {test: x, retries: 2, interval: 1s, timeout: 2s}";
    stack.write("compose.yaml", &format!("services: {{web: {{image: 'x:${{TAG:-1}}', ports: ['80:81'], volumes: ['data:/d'], profiles: [], {health}}}, db: {{image: x}}}}\nvolumes: {{data: }}\n"));
    let order = |text: &str, keys: &[&str]| {
        let places: Vec<usize> = keys.iter().map(|key| text.find(key).unwrap_or_else(|| panic!("no {key} in {text}"))).collect();
        assert!(places.is_sorted(), "{keys:?}: {text}");
    };
    let whole = stack.wharf(&["config"]).ok();
    order(&whole, &["name:", "services:", "\nnetworks:", "\nvolumes:"]);
    order(
        &whole,
        &[
            "test:",
            "timeout:",
            "interval:",
            "retries:",
            "mode: ingress",
            "target: 81",
            "published:",
            "protocol:",
            "type: volume",
            "source: data",
        ],
    );
    let raw = stack.wharf(&["config", "--no-interpolate", "web"]);
    assert!(raw.stderr.contains("service filtering is not applied"), "{}", raw.stderr);
    order(&raw.ok(), &["name:", "\nnetworks:", "\nservices:", "${TAG:-1}", "\nvolumes:"]);
    let hashes = stack.wharf(&["config", "--hash", "*"]).ok();
    order(&hashes, &["db ", "web "]);
    assert!(stack.wharf(&["config", "--variables", "--format", "json"]).ok().starts_with("{\n    \"TAG\": {\n"));
    assert!(stack.wharf(&["config", "--variables", "--format", "yaml", "web"]).ok().starts_with("TAG:\n    name: TAG\n"));
    // What is not asked for is not read.
    stack.write("compose.yaml", "services: {a: {image: x}, b: {image: x, env_file: [gone]}, c: {image: x}}");
    assert_eq!(stack.wharf(&["config", "--hash", "c,a"]).ok().lines().map(|line| &line[..2]).collect::<String>(), "a c ");
    stack.wharf(&["config", "--hash", "*"]).fails(1, &["env file", "gone not found"]);
    // An image that is built from another's is built after it.
    let from = |image: &str| format!("dockerfile_inline: 'FROM {image}'");
    let (base, own) = (from("busybox:local"), from(&format!("{}-base", stack.project)));
    stack.write("compose.yaml", &format!("services: {{own: {{build: {{{own}}}}}, base: {{build: {{{base}}}}}}}"));
    stack.wharf(&["build"]).ok();
}

/// `pull` follows the services' policies, and goes on over what can be built.
#[test]
fn pull_follows_policies_and_goes_on_over_what_can_be_built() {
    let stack = Stack::new("nothing");
    let gone = "127.0.0.1:1/gone:1";
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  here: {{image: 'busybox:local', pull_policy: missing}}\n  never: {{image: '{gone}', pull_policy: never}}\n  \
             unnamed: {{build: .}}\n  built: {{image: '127.0.0.1:1/built:1', build: .}}\n"
        ),
    );
    let words = ["Image busybox:local  Skipped Image is already present locally", "unnamed  Skipped No image to be pulled"];
    let pulled = stack.wharf(&["pull"]).fails(1, &words);
    assert!(!pulled.stderr.contains(&format!("{gone}  Pulling")), "{}", pulled.stderr);
    assert!(pulled.stderr.contains("must be built from source by running:\n    wharf build built"), "{}", pulled.stderr);
    let ignored = stack.wharf(&["pull", "--ignore-buildable"]);
    assert!(ignored.stderr.contains("Skipped Image can be built"), "{}", ignored.stderr);
    ignored.ok();
    stack.wharf(&["pull", "--ignore-pull-failures", "built"]).ok();
}

/// What `inspect` says of a service as it was made.
#[test]
fn inspect_says_what_the_service_asked_for() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  shared: {{{}}}\n  own: {{{}}}\n  plain: {{{}}}\n",
            sleeping("ipc: shareable, volumes: [/anonymous, {type: volume, target: /long}]"),
            sleeping("ipc: private"),
            sleeping(""),
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    let inspect = |service: &str, what: &str| {
        stack.wharf(&["container", "inspect", "-f", what, &format!("{}-{service}-1", stack.project)]).ok()
    };
    let modes = ["shared", "own", "plain"].map(|service| inspect(service, "{{.HostConfig.IpcMode}}"));
    assert_eq!(modes, ["shareable\n", "private\n", "private\n"]);
    let mounts = "{{range .Mounts}}{{.Destination}}={{.Mode}} {{end}}";
    assert_eq!(inspect("shared", mounts), "/anonymous=z /long=z \n");
    stack
        .wharf(&["container", "run", "-d", "--name", "plain-volume", "-v", "/x", "--ipc", "shareable", "busybox:local", "true"])
        .ok();
    let shown = stack.wharf(&[
        "container",
        "inspect",
        "-f",
        "{{.HostConfig.IpcMode}} {{range .Mounts}}[{{.Mode}}]{{end}}",
        "plain-volume",
    ]);
    assert_eq!(shown.ok(), "shareable []\n");
    stack.wharf(&["container", "rm", "-f", "-v", "plain-volume"]).ok();
}

/// An image without a name of the user's stays here when it is built, and the extension's name of `initial_sync` counts.
#[test]
fn a_build_without_a_name_is_not_pushed_and_watch_knows_its_earlier_attribute() {
    let stack = Stack::new("nothing");
    let watch =
        "develop: {watch: [{path: ./data, target: /data, action: sync, x-initialSync: true}, {path: ./.env, action: rebuild}]}";
    let build = "build: {dockerfile_inline: \"FROM busybox:local\\nCMD sleep 1000\"}, stop_signal: SIGKILL";
    stack.write("compose.yaml", &format!("services: {{web: {{{build}, {watch}}}}}\n"));
    std::fs::create_dir(stack.path("data")).expect("directory");
    stack.write("data/file", "text\n");
    stack.wharf(&["build", "--push"]).ok();
    let mut watching = Terminal::start(&mut stack.command(&["--verbose", "watch"]), 24, 100);
    watching.expect("x-initialSync is DEPRECATED, please use the official `initial_sync` attribute", 20);
    watching.expect("Watch enabled", 20);
    assert_eq!(stack.sh("web", "cat /data/file"), "text");
    stack.write(".env", "A=b\n");
    watching.expect("batch complete: duration[", 20);
    watching.send("\x03");
    assert_eq!(watching.wait(10), Some(130));
}
