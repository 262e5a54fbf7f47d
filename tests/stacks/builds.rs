//! Builds: Dockerfiles as Docker has them, stacks that are built, pushes.

use super::images::Registry;
use super::support::{Stack, eventually};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

/// Every case of tests/dockerfiles, against the answers that Docker gave.
#[test]
fn dockerfiles_give_what_docker_makes_of_them() {
    let stack = Stack::new("none");
    let output = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dockerfiles/compare.py"))
        .arg(env!("CARGO_BIN_EXE_wharf"))
        .env("WHARF_DATA_ROOT", stack.data_root())
        .env("WHARF_RUN_ROOT", stack.run_root())
        .output()
        .expect("python3 is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("83 of 83"), "{said}");
}

#[test]
fn a_stack_is_built_when_it_has_to_be() {
    let stack = Stack::new("none");
    stack.write("page", "one");
    stack.write("Dockerfile", "FROM base\nCOPY page /page\nCMD [\"sleep\", \"1000\"]\nSTOPSIGNAL SIGKILL\n");
    stack.write(
        "compose.yaml",
        "services:\n  web:\n    build: {context: ., additional_contexts: {base: 'service:base'}, args: {UNUSED: }}\n  base:\n    build: {dockerfile_inline: 'FROM busybox:local\n\n        RUN echo base > /base\n\n        '}\n    command: 'true'\n",
    );
    let first = stack.wharf(&["up", "-d"]);
    assert!(first.code == 0 && first.stdout.contains("RUN echo base"), "{}", first.stdout);
    assert_eq!(stack.sh("web", "cat /page /base"), "onebase");
    let again = stack.wharf(&["up", "-d"]);
    assert!(!again.stdout.contains("RUN"), "what is there is not built again: {}", again.stdout);
    let before = stack.container("web");
    let cached = stack.wharf(&["up", "-d", "--build"]);
    assert!(cached.code == 0 && cached.stdout.contains("CACHED"), "{}", cached.stdout);
    assert_eq!(stack.container("web")["ID"], before["ID"], "the same image, the same container");
    stack.write("page", "two");
    stack.wharf(&["up", "-d", "--build"]).ok();
    assert_eq!(stack.sh("web", "cat /page"), "two");
    stack.wharf(&["build", "--no-cache", "base"]).ok();
    stack.wharf(&["down"]).ok();
}

#[test]
fn services_are_built_beside_each_other_and_a_shared_step_once() {
    let stack = Stack::new("none");
    let service = |name: &str| {
        format!(
            "  {name}:\n    build:\n      dockerfile_inline: |\n        FROM busybox:local\n        RUN echo shared step\n        \
             RUN sleep 3 && echo {name} > /name\n        \
             RUN --mount=type=cache,target=/c,sharing=locked mkdir /c/alone && sleep 0.2 && rmdir /c/alone\n"
        )
    };
    let services: String = ["a", "b", "c", "d"].map(service).concat();
    stack.write("compose.yaml", &format!("services:\n{services}"));
    let begun = std::time::Instant::now();
    let built = stack.wharf(&["build"]);
    assert!(built.code == 0, "{}", built.stderr);
    assert!(begun.elapsed().as_secs() < 9, "four steps of 3 s take {:?}: they run one after another", begun.elapsed());
    let made = built.stdout.lines().filter(|line| line.ends_with(" shared step") && !line.contains("RUN")).count();
    assert_eq!(made, 1, "one build makes it, the others wait for it:\n{}", built.stdout);
    stack.write(
        "compose.yaml",
        &format!("services:\n{services}  e: {{build: {{dockerfile_inline: 'FROM busybox:local\n\n        RUM x'}}}}\n"),
    );
    stack.wharf(&["build"]).fails(1, &["building `e`: dockerfile_inline:2", "did you mean `RUN`?"]);
}

#[test]
fn a_failing_step_shows_its_last_lines_and_leaves_nothing() {
    let stack = Stack::new("none");
    stack.write("Dockerfile", "FROM busybox:local\nRUN seq 100 && echo to stderr >&2 && exit 3\n");
    stack.wharf(&["image", "build", "-t", "broken", "."]).fails(
        1,
        &["Dockerfile:2: `RUN seq 100 && echo to stderr >&2 && exit 3` ended with exit code 3", "\n      100\n", "to stderr"],
    );
    stack.wharf(&["image", "inspect", "broken"]).fails(1, &["broken"]);
    for (text, words) in [
        ("FROM busybox:local\nRUM x", &["Dockerfile:2", "did you mean `RUN`?"][..]),
        ("FROM busybox:local\nCOPY gone /x", &["Dockerfile:2", "`gone` matches nothing"]),
        ("FROM busybox:local\nRUN not-a-program", &["exit code 127", "a program was not found"]),
        ("FROM busybox:local\nCOPY --chown=nobody-here Dockerfile /x", &["no user `nobody-here`"]),
        ("FROM busybox:local\nEXPOSE many", &["`many` is not a port"]),
        ("FROM --platform=linux/s390x busybox:local", &["cannot build for linux/s390x"]),
        ("FROM scratch\nCOPY Dockerfile /a\nCOPY Dockerfile /a/b", &["is a file in the image"]),
    ] {
        stack.write("Dockerfile", text);
        stack.wharf(&["image", "build", "-t", "broken", "."]).fails(1, words);
    }
    assert_eq!(stack.container_directories(), 0, "no container of a step is left");
    let staging = std::fs::read_dir(stack.data_root().join("images/staging")).expect("staging").count();
    assert_eq!(staging, 0, "nothing half-made is left");
}

#[test]
fn a_build_that_is_given_up_or_killed_leaves_nothing() {
    let stack = Stack::new("none");
    let seconds = 100_000 + std::process::id();
    stack.write("Dockerfile", &format!("FROM busybox:local\nRUN sleep {seconds}\n"));
    let sleeps = || {
        let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
        let mine = |path: std::path::PathBuf| {
            std::fs::read(path.join("cmdline")).is_ok_and(|line| line.starts_with(format!("sleep\0{seconds}").as_bytes()))
        };
        pids.filter(|entry| mine(entry.path())).count()
    };
    let mut client = stack.command(&["image", "build", "."]).stderr(Stdio::null()).spawn().expect("wharf");
    eventually("the step runs", 10, || sleeps() > 0);
    client.kill().expect("kill");
    let _ = client.wait();
    eventually("the step has ended", 10, || sleeps() == 0);
    let mut client = stack.command(&["image", "build", "."]).stderr(Stdio::null()).spawn().expect("wharf");
    eventually("the step runs", 10, || sleeps() > 0);
    let engine = stack.engine_pid().expect("an engine");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine), nix::sys::signal::Signal::SIGKILL).expect("kill");
    let _ = client.wait();
    eventually("another engine answers", 10, || stack.wharf(&["ps"]).code == 0);
    eventually("the new engine has ended it", 10, || sleeps() == 0);
    eventually("its files are gone", 10, || stack.container_directories() == 0);
}

#[test]
fn steps_are_confined_like_containers() {
    let stack = Stack::new("none");
    stack.write(
        "Dockerfile",
        "FROM busybox:local\nRUN grep CapEff /proc/self/status > /caps; grep Seccomp: /proc/self/status >> /caps; (mount -t tmpfs x /tmp || echo no mount) >> /caps 2>&1; cat /proc/1/cmdline | tr '\\0' ' ' | head -c 20 >> /caps\nCMD [\"cat\", \"/caps\"]\n",
    );
    stack.write("compose.yaml", "services: {web: {build: .}}");
    stack.wharf(&["up", "-d"]).ok();
    eventually("it has run", 5, || stack.state("web") == "exited");
    let said = stack.wharf(&["logs", "--no-log-prefix"]).ok();
    assert!(said.contains("00000000a80425fb") && said.contains("Seccomp:\t2") && said.contains("no mount"), "{said}");
}

#[test]
fn the_same_source_gives_the_same_image() {
    let id = |stack: &Stack| {
        stack.write("file", "content");
        stack.write("Dockerfile", "FROM scratch\nCOPY file /d/file\nLABEL a=b\n");
        let output = stack
            .command(&["image", "build", "-q", "-t", "same", "."])
            .env("SOURCE_DATE_EPOCH", "1000000000")
            .output()
            .expect("wharf");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    };
    let (one, two) = (Stack::bare("none"), Stack::bare("none"));
    let first = id(&one);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(first, id(&two));
    assert!(first.starts_with("sha256:"));
}

#[test]
fn images_are_pushed_mounted_and_pulled() {
    let mut registry = Registry::start();
    let stack = Stack::new("none");
    let port = registry.port;
    let name = |path: &str| format!("127.0.0.1:{port}/{path}");
    stack.write(
        "Dockerfile",
        "FROM busybox:local AS b\nFROM scratch\nCOPY --from=b /bin /bin\nRUN echo pushed > /file\nCMD [\"cat\", \"/file\"]\n",
    );
    stack.wharf(&["image", "build", "-t", &name("team/app:1"), "."]).ok();
    let pushed = stack.wharf(&["image", "push", &name("team/app:1")]);
    assert!(pushed.code == 0 && pushed.stderr.contains("Pushed"), "{}", pushed.stderr);
    let again = stack.wharf(&["image", "push", &name("team/app:1")]);
    assert!(again.code == 0 && again.stderr.contains("Layer already exists"), "{}", again.stderr);
    let other = Stack::bare("none");
    other.write("compose.yaml", &format!("services: {{app: {{image: '{}'}}}}", name("team/app:1")));
    other.wharf(&["up", "-d"]).ok();
    eventually("it has run", 10, || other.state("app") == "exited");
    assert_eq!(other.wharf(&["logs", "--no-log-prefix"]).ok().trim(), "pushed");
    // What was pulled is pushed elsewhere byte for byte, and the registry takes the layers from where it has them.
    other.wharf(&["image", "tag", &name("team/app:1"), &name("other/copy:2")]).ok();
    let mounted = other.wharf(&["image", "push", &name("other/copy:2")]);
    assert!(mounted.code == 0 && mounted.stderr.contains("Mounted"), "{}", mounted.stderr);
    other.wharf(&["down"]).ok();
    registry.restart();
    let third = Stack::bare("none");
    third.wharf(&["image", "pull", &name("other/copy:2")]).ok();
    let digests = |stack: &Stack, name: &str| stack.wharf(&["image", "inspect", name]).ok();
    let of = |text: String| {
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["RepoDigests"][0]
            .as_str()
            .map(|d| d.split('@').next_back().map(str::to_string))
    };
    assert_eq!(of(digests(&third, &name("other/copy:2"))), of(digests(&other, &name("team/app:1"))));
    stack.wharf(&["image", "push", &name("team/app:none")]).fails(1, &["team/app:none"]);
    assert!(registry.files().exists());
}

#[test]
fn a_registry_with_passwords() {
    let registry = Registry::with_users(&[("me", "secret")]);
    let stack = Stack::new("none");
    let home = tempfile::tempdir().expect("directory");
    let host = format!("127.0.0.1:{}", registry.port);
    let image = format!("{host}/mine/app:1");
    let wharf = |args: &[&str], input: &str| {
        use std::io::Write;
        let mut child = stack
            .command(args)
            .env("HOME", home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("wharf");
        child.stdin.take().expect("input").write_all(input.as_bytes()).expect("input");
        let output = child.wait_with_output().expect("wharf");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // The engine reads the logins of the home that it was started with.
    stack.wharf(&["engine", "stop"]).ok();
    let (ok, said) = wharf(&["image", "tag", "busybox:local", &image], "");
    assert!(ok, "{said}");
    stack.write("Dockerfile", "FROM busybox:local AS b\nFROM scratch\nCOPY --from=b /etc /etc\n");
    assert!(wharf(&["image", "build", "-t", &image, "."], "").0);
    let (ok, said) = wharf(&["image", "push", &image], "");
    assert!(!ok && said.contains("unauthorized") && said.contains("log in"), "{said}");
    let (ok, said) = wharf(&["login", &host, "-u", "me", "--password-stdin"], "wrong\n");
    assert!(!ok && said.contains("incorrect username or password"), "{said}");
    let (ok, said) = wharf(&["login", &host, "-u", "me", "--password-stdin"], "secret\n");
    assert!(ok, "{said}");
    let file = home.path().join(".docker/config.json");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&file).expect("the login").permissions().mode() & 0o777, 0o600);
    let (ok, said) = wharf(&["image", "push", &image], "");
    assert!(ok, "{said}");
    assert!(wharf(&["logout", &host], "").0);
    assert!(!std::fs::read_to_string(&file).expect("the file").contains(&host));
}

#[test]
fn what_is_built_goes_where_it_is_wanted() {
    let registry = Registry::start();
    let stack = Stack::new("nothing");
    stack.write("Dockerfile", "FROM busybox:local AS make\nRUN mkdir /out && echo made > /out/file && chown 7:8 /out/file && ln -s file /out/link\nFROM scratch\nCOPY --from=make /out /\n");
    let images = || stack.wharf(&["image", "ls", "--format", "{{.Repository}}"]).ok();
    let build = |args: &[&str]| stack.wharf(&[&["image", "build", "--progress", "plain"], args, &["."]].concat());
    // The result and nothing else, owned by who builds; the store has no image more.
    build(&["-o", "result", "-t", "not-kept"]).ok();
    let mut names: Vec<_> =
        std::fs::read_dir(stack.path("result")).expect("directory").flatten().map(|e| e.file_name()).collect();
    names.sort();
    assert_eq!(names, ["file", "link"]);
    assert_eq!(std::fs::read_to_string(stack.path("result/link")).expect("file"), "made\n");
    assert_eq!(std::fs::metadata(stack.path("result/file")).expect("file").uid(), 0);
    assert_eq!(images(), "busybox\n");
    build(&["-o", "type=tar,dest=files.tar"]).ok();
    let listed = Command::new("tar").arg("-tf").arg(stack.path("files.tar")).output().expect("tar");
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "file\nlink\n");
    build(&["-o", "type=oci,dest=image.tar", "-t", "kept:7"]).ok();
    assert_eq!(images(), "busybox\n");
    let other = Stack::bare("none");
    assert!(
        other
            .wharf(&["image", "load", "-i", &stack.path("image.tar").display().to_string()])
            .ok()
            .contains("Loaded image: kept:7")
    );
    build(&["-o", "type=docker,dest=nameless.tar"]).ok();
    let listed = Command::new("tar").arg("-xOf").arg(stack.path("nameless.tar")).arg("manifest.json").output().expect("tar");
    assert!(String::from_utf8_lossy(&listed.stdout).contains(r#""RepoTags":[]"#));
    // Into a registry, and told in a file.
    let name = format!("127.0.0.1:{}/made:1", registry.port);
    build(&["-t", &name, "--push", "--load", "--metadata-file", "told.json"]).ok();
    let told: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(stack.path("told.json")).expect("file")).expect("JSON");
    assert_eq!(told["image.name"], name.as_str());
    let id = stack.wharf(&["image", "inspect", "-f", "{{.Id}}", &name]).ok();
    assert_eq!(told["containerimage.config.digest"], id.trim());
    assert!(told["containerimage.digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")));
    other.wharf(&["image", "pull", "-q", &name]).ok();
    assert_eq!(other.wharf(&["image", "inspect", "-f", "{{.Id}}", &name]).ok(), id);
    build(&["--push"]).fails(1, &["without a name", "-t"]);
    build(&["-o", "type=cloud"]).fails(125, &["type=cloud", "local, tar"]);
    build(&["-o", "/proc/nothing/here"]).fails(1, &["/proc/nothing/here"]);
    assert_eq!(images().lines().count(), 2, "what was taken away has left no name");
}

/// What a Dockerfile's line gives at its edges, in one image each: the script prints what the case says.
#[test]
fn lines_of_dockerfiles_at_their_edges() {
    let stack = Stack::new("none");
    for directory in ["over/lib/deep", "over/new", "logs/sub", "kept/in", "par/ents/x", "par/other/x"] {
        std::fs::create_dir_all(stack.path(directory)).expect("directory");
    }
    for file in
        ["over/lib/a", "over/lib/deep/b", "over/new/c", "logs/one.txt", "logs/sub/two", "top.log", "kept/in/back", "kept/in/out"]
    {
        stack.write(file, file);
    }
    for file in ["par/ents/x/f", "par/other/x/f", "a.json", "kept/gone"] {
        stack.write(file, file);
    }
    stack.write("logs/sub/deep.log", "no");
    let mode = |path: &str, mode: u32| {
        std::fs::set_permissions(stack.path(path), std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("mode");
    };
    mode("kept", 0o750);
    mode("kept/in", 0o711);
    stack.write(".dockerignore", "logs/**\n**.log\nkept\n!kept/in/back\n");
    let merged =
        "FROM busybox:local\nRUN mkdir -p /usr/lib/deep && ln -s usr/lib /lib && ln -s nowhere /dangling && chmod 711 /usr/lib\n";
    let table = [
        // A directory goes where the symlink in its place leads, and the symlink stays.
        (
            format!("{merged}COPY over/ /"),
            "readlink /lib; cat /usr/lib/a /lib/deep/b /new/c; stat -c %a /usr/lib",
            "usr/lib\nover/lib/aover/lib/deep/bover/new/c711",
        ),
        (
            "FROM busybox:local\nUSER app\nWORKDIR /srv/app/deep".into(),
            "stat -c %u:%g /srv /srv/app /srv/app/deep",
            "1000:1000\n1000:1000\n1000:1000",
        ),
        ("FROM busybox:local\nWORKDIR /srv/app".into(), "stat -c %u /srv/app", "0"),
        ("FROM busybox:local\nCOPY a.json yarn.lock* .npmrc* /x/".into(), "ls -A /x", "a.json"),
        ("FROM busybox:local\nCOPY yarn.lock* /x/".into(), "ls -A /x 2>/dev/null; echo end", "end"),
        (
            "FROM busybox:local\nCOPY . /c".into(),
            "cd /c; ls -A logs; find . -name '*.log'; find kept; stat -c %a kept kept/in",
            "kept\nkept/in\nkept/in/back\n750\n711",
        ),
        ("FROM busybox:local\nCOPY kep* /c/".into(), "find /c", "/c\n/c/in\n/c/in/back"),
        (
            "FROM busybox:local\nCOPY --parents par/./ents/x/f par/./oth*/x /c/".into(),
            "cd /c; find . -type f | sort",
            "./ents/x/f\n./other/x/f",
        ),
        ("FROM busybox:local\nCOPY --parents ./par/*/./x /c/".into(), "cd /c; find . -type f | sort", "./x/f"),
    ];
    let services: String = (0..table.len())
        .map(|n| {
            let script = serde_json::to_string(&table[n].1.replace('$', "$$")).expect("JSON");
            format!("  s{n}: {{build: {{context: ., dockerfile: D{n}}}, user: root, network_mode: none, command: [sh, -c, {script}]}}\n")
        })
        .collect();
    for (n, (dockerfile, ..)) in table.iter().enumerate() {
        stack.write(&format!("D{n}"), dockerfile);
    }
    stack.write("compose.yaml", &format!("services:\n{services}"));
    stack.wharf(&["up", "-d"]).ok();
    eventually("all have run", 10, || stack.ps().iter().all(|container| container["State"] == "exited"));
    for (n, (dockerfile, _, expected)) in table.iter().enumerate() {
        let shown = stack.wharf(&["logs", "--no-log-prefix", &format!("s{n}")]).ok();
        let shown: Vec<&str> = shown.lines().filter(|line| !line.starts_with("./D") && !line.contains("compose.yaml")).collect();
        assert_eq!(shown.join("\n"), *expected, "{dockerfile}");
    }
}

/// An image's facts are those of its containers, as Docker merges them.
#[test]
fn containers_have_their_images_labels_and_commands() {
    let stack = Stack::new("none");
    stack.write(
        "Dockerfile",
        "FROM busybox:local\nLABEL own=image both=image com.docker.compose.service=other\nENTRYPOINT [\"echo\", \"entry\"]\nCMD [\"echo\", \"command\"]\n\
         HEALTHCHECK --interval=7s CMD true\nSHELL [\"/bin/sh\", \"-ec\"]\n",
    );
    let services = [
        ("a", "entrypoint: []", "command"),
        ("b", "entrypoint: [], command: [echo, given]", "given"),
        ("c", "command: []", "entry echo command"),
        ("d", "entrypoint: [echo, mine]", "mine"),
        ("e", "", "entry echo command"),
    ];
    let yaml = services.map(|(name, rest, _)| {
        format!(
            "  {name}: {{image: 'app:1', build: ., network_mode: none, labels: {{both: service}}{}{rest}}}\n",
            if rest.is_empty() { "" } else { ", " }
        )
    });
    stack.write("compose.yaml", &format!("services:\n{}", yaml.concat()));
    stack.wharf(&["up", "-d"]).ok();
    eventually("all have run", 10, || stack.ps().iter().all(|container| container["State"] == "exited"));
    for (name, rest, expected) in services {
        assert_eq!(stack.wharf(&["logs", "--no-log-prefix", name]).ok().trim(), expected, "{rest}");
    }
    let container: serde_json::Value =
        serde_json::from_str(&stack.wharf(&["container", "inspect", &stack.id("a")]).ok()).expect("JSON");
    let labels = &container[0]["Config"]["Labels"];
    assert_eq!([&labels["own"], &labels["both"], &labels["com.docker.compose.service"]], ["image", "service", "a"]);
    assert_eq!(
        [&container[0]["Config"]["Cmd"][1], &container[0]["Config"]["Entrypoint"]],
        [&serde_json::Value::from("command"), &serde_json::Value::Null]
    );
    let image: serde_json::Value = serde_json::from_str(&stack.wharf(&["image", "inspect", "app:1"]).ok()).expect("JSON");
    let config = &image[0]["Config"];
    assert_eq!((&config["Healthcheck"]["Interval"], &config["Shell"][1]), (&7_000_000_000_u64.into(), &"-ec".into()));
}

/// A build's containers and their network are in no list and in no event, and go with their engine, whatever is left of their
/// records.
#[test]
fn steps_of_builds_are_nobodys_business() {
    let stack = Stack::new("none");
    stack.write("Dockerfile", "FROM busybox:local\nRUN sleep 1000\n");
    stack.write("compose.yaml", "services: {web: {image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL}}");
    stack.wharf(&["up", "-d"]).ok();
    let mut client = stack.command(&["image", "build", "."]).stderr(Stdio::null()).spawn().expect("wharf");
    let steps = || {
        let all = std::fs::read_dir(stack.data_root().join("containers")).into_iter().flatten().flatten();
        let names = all.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with("77686172662d6275696c6400"));
        names.collect::<Vec<_>>()
    };
    let monitor_of =
        |step: &std::path::Path| stack.run_root().join("containers").join(step.file_name().expect("id")).join("control");
    eventually("the step runs", 10, || steps().first().is_some_and(|step| monitor_of(step).exists()));
    let lists = || {
        let containers = stack.wharf(&["container", "ls", "-aq"]).ok().lines().count();
        let networks = stack.wharf(&["network", "ls"]).ok();
        (containers, networks.contains("build"))
    };
    assert_eq!(lists(), (1, false));
    // The power fails: the journal has not heard of the step, and its manifest is empty.
    let step = steps().pop().expect("a step");
    let engine = nix::unistd::Pid::from_raw(stack.engine_pid().expect("an engine"));
    nix::sys::signal::kill(engine, nix::sys::signal::Signal::SIGSTOP).expect("stop");
    for entry in
        std::fs::read_dir(&step).expect("step").flatten().filter(|entry| entry.path().extension().is_some_and(|e| e == "json"))
    {
        std::fs::write(entry.path(), "").expect("manifest");
    }
    let journal = stack.data_root().join("state.journal");
    let text = std::fs::read_to_string(&journal).expect("journal");
    let id = step.file_name().expect("id").to_string_lossy().into_owned();
    let kept: Vec<&str> = text.lines().filter(|line| !line.contains(&id)).collect();
    assert!(kept.len() < text.lines().count(), "the journal has had it");
    std::fs::write(&journal, kept.join("\n") + "\n").expect("journal");
    let _ = std::fs::remove_file(stack.run_root().join("containers").join(&id).join("record.json"));
    nix::sys::signal::kill(engine, nix::sys::signal::Signal::SIGKILL).expect("kill");
    let _ = client.wait();
    eventually("another engine answers", 10, || stack.wharf(&["ps"]).code == 0);
    eventually("the step is gone", 10, || steps().is_empty());
    assert_eq!(lists(), (1, false));
    assert_eq!(stack.state("web"), "running");
}

/// Services of one image and one configuration are built once, and the image is no service's own: another `up --build` finds what
/// the first has made. Without a terminal, the output is on standard output and ends with what was built.
#[test]
fn services_that_share_an_image_are_built_once() {
    let stack = Stack::new("none");
    stack.write("Dockerfile", "FROM busybox:local\nRUN echo made once\nCMD [\"sleep\", \"1000\"]\nSTOPSIGNAL SIGKILL\n");
    let shared = |name: &str| format!("  {name}: {{image: 'app:1', build: .}}\n");
    let services: String = ["web", "worker", "beat"].map(shared).concat();
    stack.write("compose.yaml", &format!("services:\n{services}  own: {{build: {{context: ., args: {{A: b}}}}}}\n"));
    let built = stack.wharf(&["build"]);
    assert_eq!((built.code, built.stderr.as_str()), (0, ""), "{}", built.stdout);
    assert_eq!(
        built.stdout.lines().filter(|line| line.ends_with("made once") && !line.contains("RUN")).count(),
        1,
        "{}",
        built.stdout
    );
    let own = format!("{}-own", stack.project);
    let last: Vec<&str> = built.stdout.lines().rev().take(2).collect();
    assert_eq!(last, [format!(" Image {own}  Built"), " Image app:1  Built".into()]);
    let labels = |image: &str| {
        let value: serde_json::Value = serde_json::from_str(&stack.wharf(&["image", "inspect", image]).ok()).expect("JSON");
        value[0]["Config"]["Labels"]["com.docker.compose.service"].clone()
    };
    assert_eq!((labels("app:1"), labels(&own)), (serde_json::Value::Null, "own".into()));
    stack.wharf(&["up", "-d"]).ok();
    let ids = || ["web", "worker", "beat", "own"].map(|service| stack.id(service));
    let before = ids();
    for services in [&[][..], &["worker"], &["beat", "web"]] {
        stack.wharf(&[&["up", "-d", "--build"], services].concat()).ok();
    }
    assert_eq!(ids(), before, "none is made anew");
    for quiet in [&["build", "-q"][..], &["--progress", "quiet", "build"]] {
        let ran = stack.wharf(quiet);
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", ""), "{quiet:?}");
    }
}

/// On a terminal each step is one line, cut to the width, and one that writes nothing shows its seconds.
#[test]
fn a_build_on_a_terminal_is_a_line_for_each_step() {
    let stack = Stack::new("none");
    let long = "x".repeat(300);
    stack.write("Dockerfile", &format!("FROM busybox:local\nRUN echo {long}; sleep 0.8\nRUN sleep 1 # {long}\n"));
    let shown = |global: &[&str], variable: (&str, &str), last: &str| {
        let mut terminal = crate::support::Terminal::start(
            stack.command(&[global, &["image", "build", "--no-cache", "-t", "x", "."]].concat()).env(variable.0, variable.1),
            24,
            60,
        );
        assert_eq!(terminal.wait(30), Some(0));
        eventually("all is read", 2, || terminal.shown().contains(last));
        terminal.shown()
    };
    let plain_of = |text: &str| {
        let mut plain = String::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                // What moves the cursor begins another line.
                '\x1b' => plain.extend(rest.by_ref().find(|c| c.is_ascii_alphabetic()).filter(|c| *c != 'm').map(|_| '\n')),
                c => plain.push(c),
            }
        }
        plain
    };
    let drawn = shown(&[], ("TERM", "xterm"), "built ");
    let plain = plain_of(&drawn);
    // A line that fills the width has none after it: the terminal begins the next.
    let lines: Vec<Vec<char>> = plain.split(['\r', '\n']).map(|line| line.chars().collect()).collect();
    for row in lines.iter().flat_map(|line| line.chunks(60)).map(|row| row.iter().collect::<String>()) {
        let begins = row.trim().is_empty() || row.chars().take(4).collect::<String>().contains("=>") || row.starts_with("built");
        assert!(begins, "a line goes on in the next: {row:?} of {plain}");
    }
    assert!(plain.contains(" 0.7s") && plain.contains("…") && drawn.contains("\x1b[3"), "{drawn:?}");
    assert!(!shown(&[], ("NO_COLOR", "1"), "built ").contains("\x1b[3"));
    for global in [&["--ansi", "never"][..], &["--progress", "plain"]] {
        let lines = shown(global, ("TERM", "xterm"), "naming to ");
        assert!(lines.contains("#2 ") && lines.contains("DONE") && !lines.contains('\x1b'), "{global:?}: {lines:?}");
    }
}

/// `build --check` looks at Dockerfiles and builds nothing; `build --print` says what would be built.
#[test]
fn what_would_be_built_is_checked_and_printed() {
    let stack = Stack::bare("none");
    stack.write("Dockerfile", "FROM scratch AS Base\nCMD echo hi\n");
    stack.write("clean.Dockerfile", "FROM scratch\nCMD [\"hi\"]\n");
    stack.write(
        "compose.yaml",
        "services:\n  a:\n    build: {context: ., args: {V: 1}, additional_contexts: {other: 'service:b.c'}}\n  b.c:\n    image: i:1\n    build: {context: ., dockerfile: clean.Dockerfile, target: x}\n  inline:\n    build:\n      dockerfile_inline: |\n        FROM scratch\n        MAINTAINER me\n",
    );
    let checked = stack.wharf(&["build", "--check", "a"]);
    assert_eq!(checked.code, 1, "{checked:?}");
    let expected = "Check complete, 2 warnings have been found!\n\nWARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/\nStage name 'Base' should be lowercase\nDockerfile:1\n--------------------\n   1 | >>> FROM scratch AS Base\n   2 |     CMD echo hi\n--------------------\n";
    assert!(checked.stdout.starts_with(expected), "{}", checked.stdout);
    stack.wharf(&["build", "--check", "b.c"]).fails(1, &["target stage \"x\" could not be found"]);
    assert!(stack.wharf(&["build", "--check", "inline"]).stdout.contains("WARNING: MaintainerDeprecated"));
    let clean = stack.wharf(&["build", "--check", "a", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all"]);
    assert_eq!((clean.code, clean.stdout.as_str()), (0, "Check complete, no warnings found.\n"));
    let bake: serde_json::Value = serde_json::from_str(&stack.wharf(&["build", "--print"]).ok()).expect("JSON");
    assert_eq!(bake["group"]["default"]["targets"], serde_json::json!(["a", "b_c", "inline"]));
    let a = &bake["target"]["a"];
    assert_eq!(
        (&a["args"]["V"], &a["contexts"]["other"], &a["dockerfile"]),
        (&"1".into(), &"target:b_c".into(), &"Dockerfile".into())
    );
    assert_eq!(bake["target"]["b_c"]["tags"], serde_json::json!(["i:1"]));
    assert_eq!(a["context"].as_str(), stack.path("").to_str().map(|path| path.trim_end_matches('/')), "{a}");
    assert!(stack.engine_pid().is_none(), "no engine was asked");
    stack.write("Dockerfile", "FROM scratch\nWRONG\n");
    stack.wharf(&["build", "--check", "a"]).fails(1, &["Dockerfile:2: `WRONG` is not an instruction"]);
    std::fs::remove_file(stack.path("Dockerfile")).expect("removed");
    stack.wharf(&["build", "--check", "a"]).fails(1, &["failed to read dockerfile"]);
    stack.wharf(&["build", "--check", "--print"]).fails(1, &["cannot be used with"]);
}

/// What `build --check` accepts is built, and what the build refuses is wrong for the check as well.
#[test]
fn a_check_and_a_build_agree() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", "services: {a: {build: {context: .}}}");
    let broken = [
        ("COPY a", "COPY needs a source and a destination"),
        ("RUN", "RUN needs a command"),
        ("SHELL bash", "SHELL needs a list"),
        ("ENV Y=1 Z", "`Z` is not NAME=VALUE"),
        ("RUN --mount=type=bogus x", "`bogus` is not a type of mount"),
        ("ENV A=${B", "is not closed"),
        ("HEALTHCHECK BOGUS", "HEALTHCHECK needs"),
        ("STOPSIGNAL SIGFOO", "is not a signal"),
        ("EXPOSE abc", "is not a port"),
        ("ONBUILD FROM x", "FROM cannot be a trigger"),
        ("COPY --from=a x /y", "circular dependency"),
    ];
    for (instruction, message) in broken {
        stack.write("Dockerfile", &format!("FROM scratch AS a\n{instruction}\n"));
        let checked = stack.wharf(&["build", "--check"]).fails(1, &["Dockerfile:2: ", message]);
        assert_eq!(checked.stdout, "", "{instruction}");
        stack.wharf(&["build"]).fails(1, &["Dockerfile:2: ", message]);
    }
    // The variables of an image that is here.
    stack.write("Dockerfile", "FROM busybox:local\nENV OWN=/x\nWORKDIR $OWN\n");
    stack.wharf(&["image", "build", "-t", "base:1", "."]).ok();
    for (name, code) in [("UNDEFX", 1), ("OWN", 0), ("PATH", 0)] {
        stack.write("Dockerfile", &format!("# check=error=true\nARG V=1\nFROM base:$V\nENV X=$PATH\nWORKDIR /w/${name}\n"));
        let checked = stack.wharf(&["build", "--check"]);
        assert_eq!((checked.code, checked.stdout.contains("UndefinedVar")), (code, code == 1), "{name}: {checked:?}");
        assert_eq!(stack.wharf(&["build"]).code, code, "{name}");
    }
    stack.write("Dockerfile", "# check=error=true\nFROM base:1\n# check=skip=UndefinedVar\nWORKDIR /w/$UNDEFX\n");
    assert_eq!(stack.wharf(&["build", "--check"]).ok(), "Check complete, no warnings found.\n");
    stack.wharf(&["build"]).ok();
}
