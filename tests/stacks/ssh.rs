//! Another machine by ssh: a real sshd, an engine there, and a client that has no engine of its own.

use crate::support::machine::{HOST, Machine, ran};
use crate::support::{Terminal, eventually, sleeping};
use std::io::{BufRead, Read, Write};
use std::process::Stdio;

/// What a command gives back for bytes on its standard input.
fn through(machine: &Machine, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = machine.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("wharf runs");
    let mut stdin = child.stdin.take().expect("pipe");
    let input = input.to_vec();
    let writing = std::thread::spawn(move || stdin.write_all(&input).expect("written"));
    let output = child.wait_with_output().expect("output");
    writing.join().expect("thread");
    assert!(output.status.success());
    output.stdout
}

#[test]
fn a_stack_runs_on_another_machine() {
    let machine = Machine::new("nothing");
    let stack = &machine.stack;
    stack.write("app.conf", "from here\n");
    stack.write("app.env", "COLOUR=blue\n");
    std::fs::write(stack.path("key.bin"), [0, 159, 146, 150, 10]).expect("written");
    stack.write(
        "compose.yaml",
        &format!(
            "services:
  web: {{{}}}
  says: {{image: 'busybox:local', command: [sh, -c, 'echo said; echo wrong >&2'], env_file: app.env}}
configs: {{conf: {{file: app.conf}}}}
secrets: {{key: {{file: key.bin}}, unused: {{file: missing}}}}
",
            sleeping(
                "env_file: app.env, configs: [{source: conf, target: /etc/app.conf}], secrets: [key], ports: ['127.0.0.1::80']"
            )
        ),
    );
    let before = machine.calls();
    let up = machine.wharf(&["up", "-d"]);
    assert!(up.stderr.contains("web-1  Started"), "{up:?}");
    up.ok();
    assert_eq!(machine.calls() - before, 1, "one ssh for a command");
    eventually("nothing of the command is left there", 5, || machine.connections().is_empty());
    let sh = |script: &str| machine.wharf(&["exec", "-T", "web", "sh", "-c", script]).ok();
    assert_eq!(sh("cat /etc/app.conf; echo $COLOUR; od -An -tx1 /run/secrets/key").trim(), "from here\nblue\n 00 9f 92 96 0a");
    assert!(machine.wharf(&["ps", "-a", "--format", "json"]).ok().contains("running"));
    eventually("the output is there", 10, || machine.wharf(&["logs", "--no-log-prefix", "says"]).ok().contains("said\n"));
    assert!(machine.wharf(&["port", "web", "80"]).ok().starts_with("127.0.0.1:"));
    // A second time there is nothing to do: contents that travel are no change.
    let again = machine.wharf(&["up", "-d", "web"]);
    assert!(again.stderr.contains("web-1  Running"), "{again:?}");

    // Bytes both ways, each with an end of its own.
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n ^ (n >> 8)) as u8).collect();
    assert_eq!(through(&machine, &["exec", "-T", "web", "cat"], &bytes), bytes);
    assert_eq!(through(&machine, &["exec", "-T", "web", "sh", "-c", "cat >/dev/null; echo end"], &bytes), b"end\n");
    assert_eq!(machine.wharf(&["exec", "-T", "web", "sh", "-c", "exit 7"]).code, 7);
    // Files both ways.
    machine.wharf(&["cp", "key.bin", "web:/tmp/key"]).ok();
    machine.wharf(&["cp", "web:/tmp/key", "back"]).ok();
    assert_eq!(std::fs::read(stack.path("back")).expect("copied"), [0, 159, 146, 150, 10]);

    // Names for the machine: an address of the environment's, a context of wharf's, ssh's own name for it.
    let ps = |variable: &str, value: &str| ran(machine.plain(&["ps", "-q"]).env(variable, value)).ok().lines().count();
    assert_eq!((ps("WHARF_HOST", HOST), ps("DOCKER_HOST", HOST), ps("WHARF_HOST", "ssh://shortcut/")), (1, 1, 1));
    machine.wharf(&["context", "create", "there"]).ok();
    assert_eq!(ps("WHARF_CONTEXT", "there"), 1);
    // Of secrets nothing is on the other disk but what the engine keeps for the container.
    let secret = [0, 159, 146, 150, 10];
    let kept = find_bytes(&stack.data_root(), &secret);
    assert!(kept.iter().all(|path| path.contains("/containers/")), "{kept:?}");
    machine.wharf(&["down"]).ok();
    assert!(machine.wharf(&["ps", "-aq"]).ok().is_empty());
    assert!(find_bytes(&stack.data_root(), &secret).iter().all(|path| !path.contains("/containers/")));
}

/// Files below a directory that have some bytes.
fn find_bytes(directory: &std::path::Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && entry.file_name() != "overlay" {
            found.extend(find_bytes(&path, bytes));
        } else if kind.is_file()
            && entry.metadata().is_ok_and(|file| file.len() < 1 << 20)
            && std::fs::read(&path).is_ok_and(|text| text.windows(bytes.len()).any(|part| part == bytes))
        {
            found.push(path.display().to_string());
        }
    }
    found
}

/// What the files name of this machine and cannot travel is refused where it is written, before anything is done.
#[test]
fn mounts_of_this_machine_are_refused_for_another() {
    let machine = Machine::new("nothing");
    let stack = &machine.stack;
    let yaml = format!(
        "services:
  web:
    {}
    volumes:
      - ./data:/data
      - type: bind
        source: ../beside
        target: /beside
      - ~/.ssh:/root/.ssh
      - ${{PWD}}/inner:/inner
      - /tmp:/theirs
      - named:/named
volumes:
  named: {{driver: local, driver_opts: {{type: none, o: bind, device: ./volume}}}}
",
        sleeping("").replace(", ", "\n    ").replace('\'', "")
    );
    stack.write("compose.yaml", &yaml);
    let pwd = stack.path("").display().to_string();
    let up = ran(machine.command(&["up", "-d"]).env("PWD", pwd.trim_end_matches('/')));
    let places = ["compose.yaml:7:9", "compose.yaml:9:17", "compose.yaml:11:9", "compose.yaml:12:9", "compose.yaml:16:"];
    let up = up.fails(1, &places);
    assert!(up.stderr.contains("the engine is on ssh://root@127.0.0.1") && !up.stderr.contains("/theirs"), "{}", up.stderr);
    assert!(machine.wharf(&["ps", "-aq"]).ok().is_empty());
}

/// The files of a build go there, without what is left out, and its secrets.
#[test]
fn a_build_has_its_files_from_here() {
    let machine = Machine::new("nothing");
    let stack = &machine.stack;
    for directory in ["app/kept", "app/out", "more", "files"] {
        std::fs::create_dir_all(stack.path(directory)).expect("directory");
    }
    for (name, text) in [
        ("app/one", "1"),
        ("app/kept/two", "2"),
        ("app/out/three", "3"),
        ("app/.dockerignore", "out\n.dockerignore\n"),
        ("more/four", "4"),
        (
            "files/Dockerfile",
            "FROM busybox:local\nCOPY . /app\nCOPY --from=more four /four\n\
            RUN --mount=type=secret,id=key od -An -tx1 /run/secrets/key > /key; id -u > /user\n",
        ),
    ] {
        stack.write(name, text);
    }
    std::os::unix::fs::symlink("one", stack.path("app/link")).expect("link");
    std::fs::write(stack.path("key.bin"), [0, 159, 10]).expect("written");
    stack.write(
        "compose.yaml",
        "services:
  web:
    command: sleep 1000
    stop_signal: SIGKILL
    build: {context: app, dockerfile: ../files/Dockerfile, additional_contexts: {more: ./more}, secrets: [key]}
secrets: {key: {file: key.bin}}
",
    );
    machine.wharf(&["up", "-d"]).ok();
    let sh = |script: &str| machine.wharf(&["exec", "-T", "web", "sh", "-c", script]).ok();
    assert_eq!(
        sh("cd /app; find . | sort; readlink link; cat one kept/two /four /key"),
        ".\n./kept\n./kept/two\n./link\n./one\none\n124 00 9f 0a\n"
    );
    // Nothing has changed: no step is made again.
    let again = machine.wharf(&["build"]);
    assert!(again.stderr.matches("CACHED").count() + again.stdout.matches("CACHED").count() >= 3, "{again:?}");
    stack.write("files/Dockerfile", "FROM busybox:local\nCOPYY x y\n");
    machine.wharf(&["build"]).fails(1, &["files/Dockerfile:2"]);
    stack.write("compose.yaml", "services: {web: {build: ./missing}}\n");
    machine.wharf(&["build"]).fails(1, &["missing", "cannot be read"]);
    machine
        .wharf(&["image", "build", "-t", "one", "--build-context", "more=more", "-f", "files/other", "app"])
        .fails(1, &["files/other"]);
    stack.write("compose.yaml", "services: {}\n");
}

/// This program is put there, once.
#[test]
fn the_program_is_put_on_another_machine() {
    let machine = Machine::new("nothing");
    machine.stack.write("compose.yaml", "services: {}\n");
    std::fs::remove_file(machine.path("there/wharf")).expect("removed");
    write_there(&machine, "uname", "#!/bin/sh\nexec cat /dev/zero\n");
    machine.wharf(&["install", "-y"]).fails(1, &["ssh://root@127.0.0.1", "prints more than 65536 bytes"]);
    std::fs::remove_file(machine.path("there/uname")).expect("removed");
    machine.wharf(&["ps"]).fails(1, &["install"]);
    machine.wharf(&["install"]).ok();
    machine.wharf(&["ps"]).fails(1, &["install"]);
    assert!(machine.wharf(&["install", "-y"]).ok().contains("/usr/local/bin/wharf on ssh://root@127.0.0.1 is wharf"));
    machine.wharf(&["ps"]).ok();
    assert!(machine.wharf(&["install"]).ok().contains("is this program already"));
    ran(&mut machine.plain(&["install"])).fails(1, &["for another machine"]);
    // On its way it was changed: nothing is put there.
    write_there(&machine, "sha256sum", "#!/bin/sh\necho 0000\n");
    machine.wharf(&["install", "-y"]).fails(1, &["not what was sent"]);
    machine.wharf(&["ps"]).ok();
}

fn write_there(machine: &Machine, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = machine.path("there").join(name);
    std::fs::write(&path, text).expect("a program");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
}

/// Every way in which the two machines do not come together: what is said, and that nothing waits for anybody.
#[test]
fn what_is_wrong_with_a_machine_is_said() {
    let machine = Machine::new("nothing");
    machine.stack.write("compose.yaml", &format!("services: {{web: {{{}}}}}\n", sleeping("")));
    let table: [(&str, &[&str]); 6] = [
        ("ssh://root@127.0.0.1:1", &["ssh://root@127.0.0.1:1 cannot be reached by ssh", "Connection refused"]),
        ("ssh://nobody-there@127.0.0.1", &["cannot be reached by ssh", "Permission denied"]),
        ("ssh://root@127.0.0.2", &["cannot be reached by ssh", "refused"]),
        ("ssh://root@localhost", &["cannot be reached by ssh", "Host key verification failed"]),
        ("ssh://-oProxyCommand=touch@127.0.0.1", &["-H:", "begins with `-`"]),
        ("tcp://127.0.0.1:2375", &["-H:", "by ssh alone"]),
    ];
    for (address, words) in table {
        ran(&mut machine.plain(&["-H", address, "ps"])).fails(1, words);
    }
    ran(machine.plain(&["ps"]).env("WHARF_HOST", "ssh://x y")).fails(1, &["WHARF_HOST:", "has the character ` `"]);
    ran(machine.command(&["ps"]).env("PATH", "/nonexistent")).fails(1, &["there is no `ssh`", "openssh-client"]);
    machine.wharf(&["engine"]).fails(1, &["start it there"]);
    machine.wharf(&["system", "check"]).fails(1, &["run it there"]);

    let other = |text: &str| {
        machine.replace_wharf(text);
        machine.wharf(&["ps"])
    };
    other("#!/bin/sh\necho Welcome to the machine\nexec @wharf@ \"$@\"\n")
        .fails(1, &["has written something before wharf could answer", "Welcome to the machine", "~/.bashrc"]);
    other("#!/bin/sh\nexec cat /dev/zero\n").fails(1, &["127.0.0.1"]);
    other("#!/bin/sh\nyes '\u{1b}[2Jx'\n").fails(1, &["before wharf could answer", "\\u{1b}[2Jx"]);
    other("#!/bin/sh\necho \"error: unrecognized subcommand 'dial-stdio'\" >&2\nexit 1\n").fails(1, &["too old", "install"]);
    other("#!/bin/sh\necho 'disk on fire' >&2\nexit 3\n").fails(1, &["code 3", "disk on fire"]);
    std::fs::remove_file(machine.path("there/wharf")).expect("removed");
    machine.wharf(&["ps"]).fails(1, &["there is no `wharf` on ssh://root@127.0.0.1", "not found", "install"]);
    // It was nobody's fault here: no command has taken the engine of this machine instead.
    assert!(!std::path::Path::new("/nonexistent").exists());
}

/// A connection that breaks ends the command, and not what it has begun.
#[test]
fn what_was_begun_goes_on_when_the_connection_breaks() {
    let machine = Machine::new("nothing");
    let stack = &machine.stack;
    let check = "healthcheck: {test: [CMD, test, -e, /good], interval: 50ms, retries: 1000}";
    stack.write(
        "compose.yaml",
        &format!(
            "services: {{first: {{{}}}, second: {{{}}}}}\n",
            sleeping(check).replace("sleep 1000", "[sh, -c, 'echo hello; exec sleep 1000']"),
            sleeping("depends_on: {first: {condition: service_healthy}}")
        ),
    );
    let mut up = Terminal::start(&mut machine.command(&["up", "-d"]), 24, 100);
    up.expect("Waiting", 20);
    machine.cut();
    up.expect("the connection to ssh://root@127.0.0.1 is broken", 10);
    up.expect("goes on there", 5);
    assert_eq!(up.wait(5), Some(1));
    let states = || machine.wharf(&["ps", "-a", "--format", "{{.Service}} {{.State}}"]).ok();
    assert_eq!(states(), "first running\nsecond created\n");
    machine.wharf(&["exec", "-T", "first", "touch", "/good"]).ok();
    eventually("the rest is done without anybody", 10, || states() == "first running\nsecond running\n");

    // Output and a command in a container end as well, and say why.
    for (args, shown, code) in [
        (&["logs", "-f"][..], "hello", 1),
        (&["exec", "-T", "first", "sh", "-c", "echo inside; exec sleep 1000"], "inside", 255),
        (&["exec", "first", "sh", "-c", "echo inside; exec sleep 1000"], "inside", 255),
        (&["up"], "Attaching to", 1),
    ] {
        let mut command = Terminal::start(&mut machine.command(args), 24, 100);
        command.expect(shown, 20);
        machine.cut();
        command.expect("the connection to ssh://root@127.0.0.1 is broken", 10);
        assert_eq!(command.wait(10), Some(code), "{args:?}: {}", command.shown());
        eventually("it is gone", 10, || machine.connections().is_empty());
    }
}

/// A terminal, its size and its keys; a signal cancels what has not begun there.
#[test]
fn a_terminal_leads_to_another_machine() {
    let machine = Machine::new("nothing");
    let stack = &machine.stack;
    let never = "healthcheck: {test: [CMD, 'false'], interval: 60s, start_period: 60s}";
    stack.write(
        "compose.yaml",
        &format!(
            "services: {{web: {{{}}}, later: {{{}}}}}\n",
            sleeping(never),
            sleeping("depends_on: {web: {condition: service_healthy}}")
        ),
    );
    let mut up = Terminal::start(&mut machine.command(&["up", "-d"]), 24, 100);
    up.expect("Waiting", 20);
    up.send("\x03");
    up.expect("canceled", 10);
    assert_eq!(up.wait(5), Some(130));
    let states = machine.wharf(&["ps", "-a", "--format", "{{.Service}} {{.State}}"]).ok();
    assert_eq!(states, "later created\nweb running\n", "the connection carried the request to cancel");

    let mut shell = Terminal::start(&mut machine.command(&["exec", "web", "sh"]), 24, 77);
    shell.expect("#", 10);
    shell.send("stty size\n");
    shell.expect("24 77", 5);
    assert!(shell.is_raw());
    shell.resize(30, 99);
    shell.send("sleep 0.1; stty size; sleep 1000\n");
    shell.expect("30 99", 5);
    shell.send("\x03");
    shell.send("echo after-$((40+2))\n");
    shell.expect("after-42", 5);
    shell.send("exit 5\n");
    assert_eq!(shell.wait(5), Some(5));
    assert!(!shell.is_raw());
}

/// More connections at once than sshd has sessions for one of its own, over one ssh, and one that nobody reads among them.
#[test]
fn one_connection_carries_many() {
    let machine = Machine::new("nothing");
    let stack = &machine.stack;
    let says =
        "image: 'busybox:local', command: [sh, -c, 'echo mark-$$(hostname); exec sleep 1000'], stop_signal: SIGKILL, scale: 30";
    stack.write(
        "compose.yaml",
        &format!("services: {{many: {{{says}}}, loud: {{image: 'busybox:local', command: [yes], stop_signal: SIGKILL}}}}\n"),
    );
    machine.wharf(&["up", "-d"]).ok();
    let before = machine.calls();
    let mut logs = Terminal::start(&mut machine.command(&["logs", "-f", "--no-color", "many"]), 24, 200);
    eventually("all are shown", 20, || logs.shown().matches("mark-").count() == 30);
    logs.send("\x03");
    assert_eq!(logs.wait(5), Some(130));
    assert_eq!(machine.calls() - before, 1);
}

/// A client that reads late has the whole answer: that the engine has long ended its own side takes nothing away.
#[test]
fn who_reads_late_has_the_whole_answer() {
    let machine = Machine::new("nothing");
    let stack = &machine.stack;
    stack.write("compose.yaml", &format!("services: {{web: {{{}}}}}\n", sleeping("scale: 3")));
    let signal = |pid: u32, signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).expect("kill");
    for round in 0..10 {
        let mut up = machine.command(&["up", "-d", "--force-recreate"]).stderr(Stdio::piped()).spawn().expect("wharf runs");
        let mut errors = std::io::BufReader::new(up.stderr.take().expect("pipe"));
        let mut text = String::new();
        errors.read_line(&mut text).expect("a line");
        // `nsenter` has become the client.
        signal(up.id(), nix::sys::signal::Signal::SIGSTOP);
        eventually("the engine is done with it", 20, || {
            machine.wharf(&["ps", "--format", "{{.State}}"]).ok() == "running\n".repeat(3)
        });
        signal(up.id(), nix::sys::signal::Signal::SIGCONT);
        errors.read_to_string(&mut text).expect("text");
        assert!(up.wait().expect("wait").success(), "round {round}: {text}");
        assert!(text.contains("web-3  Started"), "round {round}: {text}");
    }
}
