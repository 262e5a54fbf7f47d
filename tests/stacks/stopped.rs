//! `cp` of a container that does not run: what it would have mounted is there, wherever links lead.

use crate::support::{Stack, eventually, sleeping};
use std::io::Read;
use std::process::{Command, Stdio};

/// An image in which `/var/run` leads to `/run`, where files are.
const IMAGE: &str = "FROM busybox:local\nRUN mkdir -p /var /run/app && ln -s ../run /var/run && echo image > /run/app/fromimage && mkdir -p /srv/db && echo first > /srv/db/seed\n";

fn image(stack: &Stack) {
    std::fs::create_dir(stack.path("context")).expect("directory");
    stack.write("context/Dockerfile", IMAGE);
    stack.wharf(&["image", "build", "-t", "r:1", "context"]).ok();
}

/// The names in an archive of a path, as a command copies it out.
fn names(stack: &Stack, copy: &[&str], path: &str) -> String {
    let mut got = stack.command(&[copy, &[path, "-"]].concat()).stdout(Stdio::piped()).spawn().expect("wharf");
    let listed = Command::new("tar").arg("t").stdin(got.stdout.take().expect("archive")).output().expect("tar");
    assert!(got.wait().expect("wharf").success(), "{path}");
    let mut names: Vec<String> = String::from_utf8_lossy(&listed.stdout).lines().map(str::to_string).collect();
    names.sort();
    names.join(" ")
}

#[test]
fn a_copy_keeps_what_is_mounted() {
    let stack = Stack::new("nothing");
    stack.write("one", "mounted");
    stack.write("new", "written");
    std::fs::create_dir_all(stack.path("tree/etc")).expect("directory");
    stack.write("tree/etc/hosts", "written");
    let service = sleeping("volumes: ['./one:/srv/one', 'vol:/srv/sub/vol']");
    stack.write("compose.yaml", &format!("services: {{a: {{{service}}}}}\nvolumes: {{vol: {{}}}}\n"));
    stack.wharf(&["up", "-d"]).ok();
    stack.sh("a", "echo kept > /srv/sub/vol/file");
    let id = stack.id("a");
    for state in ["running", "stopped"] {
        stack.wharf(&["cp", "new", "a:/srv/one"]).fails(1, &["something is mounted on one"]);
        stack.wharf(&["cp", "tree/.", "a:/"]).fails(1, &["something is mounted on hosts"]);
        for (path, mount) in [("/srv/one", "one"), ("/srv/sub", "vol"), ("/srv", "")] {
            let (status, said) = stack.api("DELETE", &format!("/containers/{id}/archive?path={path}"), None);
            assert!(
                status == 400
                    && said["message"].as_str().is_some_and(|m| m.contains(&format!("something is mounted on {mount}"))),
                "{state} {path}: {status} {said}"
            );
        }
        if state == "running" {
            assert_eq!(stack.sh("a", "cat /srv/one /srv/sub/vol/file; grep -c written /etc/hosts || true"), "mountedkept\n0");
            stack.wharf(&["stop", "-t", "0"]).ok();
        }
    }
    stack.wharf(&["start"]).ok();
    assert_eq!(stack.sh("a", "cat /srv/one /srv/sub/vol/file"), "mountedkept");
    assert_eq!(std::fs::read_to_string(stack.path("one")).expect("source"), "mounted");
}

/// What is mounted on the host in the engine's own directories. Other tests mount elsewhere.
fn mounts(stack: &Stack) -> Vec<String> {
    let own = stack.run_root().display().to_string();
    let all = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    all.lines().filter(|line| line.contains(&own)).map(str::to_string).collect()
}

#[test]
fn volumes_are_there_wherever_links_lead() {
    let stack = Stack::new("nothing");
    image(&stack);
    std::fs::create_dir_all(stack.path("host")).expect("directory");
    stack.write("host/here", "of the host");
    stack.write("one", "a file");
    let yaml = format!(
        "services:
  a:
    image: r:1
    command: [sleep, '1000']
    stop_signal: SIGKILL
    volumes: ['app:/run/app', './one:/srv/one:ro', 'bound:/mnt/deep/bound', './host:/ro:ro']
volumes:
  app: {{}}
  bound: {{driver: local, driver_opts: {{type: none, o: bind, device: '{}'}}}}
",
        stack.path("host").display()
    );
    stack.write("compose.yaml", &yaml);
    stack.write("new", "written");
    stack.wharf(&["up", "-d"]).ok();
    stack.sh("a", "echo running > /run/app/running; ln -s /var/run/app/running /run/app/link; ln -s /etc /run/app/out");
    let paths =
        ["a:/run", "a:/var/run/", "a:/var/run/app", "a:/mnt", "a:/srv/one", "a:/var/run/app/link", "a:/srv", "a:/run/app/."];
    let running = paths.map(|path| names(&stack, &["cp"], path));
    assert_eq!(running[0], "run/ run/app/ run/app/fromimage run/app/link run/app/out run/app/running");
    assert_eq!(running[3], "mnt/ mnt/deep/ mnt/deep/bound/ mnt/deep/bound/here");
    stack.wharf(&["stop"]).ok();
    let before = mounts(&stack);
    assert_eq!(paths.map(|path| names(&stack, &["cp"], path)), running);
    stack.wharf(&["cp", "a:/var/run/app/running", "got"]).ok();
    assert_eq!(std::fs::read_to_string(stack.path("got")).expect("copy"), "running\n");
    for target in ["a:/var/run/app/new", "a:/mnt/deep/bound/new", "a:/run/app/link"] {
        stack.wharf(&["cp", "new", target]).ok();
    }
    // What a link of a volume leads to is the container's, and not the host's.
    stack.wharf(&["cp", "new", "a:/run/app/out/of-volume"]).ok();
    assert!(!std::path::Path::new("/etc/of-volume").exists());
    stack.wharf(&["cp", "new", "a:/ro/new"]).fails(1, &["/ro", "is read-only"]);
    stack.wharf(&["cp", "new", "a:/srv/one"]).fails(1, &["something is mounted on one"]);
    assert_eq!(std::fs::read_to_string(stack.path("host/new")).expect("the device of the volume"), "written");
    assert_eq!(mounts(&stack), before, "nothing is mounted on the host");
    stack.wharf(&["start"]).ok();
    assert_eq!(
        stack.sh("a", "cd /run/app; cat new running /etc/of-volume; cat /srv/one; ls -A /ro"),
        "writtenwrittenwrittena filehere\nnew"
    );
}

#[test]
fn a_container_that_was_never_started_has_its_volumes() {
    let stack = Stack::new("nothing");
    image(&stack);
    stack.write("new", "written");
    let create = [
        "container",
        "create",
        "--name",
        "c",
        "--init",
        "-v",
        "db:/srv/db",
        "-v",
        "empty:/var/lib/empty",
        "r:1",
        "sleep",
        "1000",
    ];
    stack.wharf(&create).ok();
    assert_eq!(names(&stack, &["container", "cp"], "c:/var/lib"), "lib/ lib/empty/");
    // As with Docker, where a volume is filled when the container is created.
    assert_eq!(names(&stack, &["container", "cp"], "c:/srv"), "srv/ srv/db/ srv/db/seed");
    assert_eq!(stack.wharf(&["container", "diff", "c"]).ok(), "", "reading has changed nothing");
    stack.wharf(&["container", "cp", "new", "c:/srv/db/new"]).ok();
    stack.wharf(&["container", "start", "c"]).ok();
    assert_eq!(stack.wharf(&["container", "exec", "c", "cat", "/srv/db/seed", "/srv/db/new"]).ok(), "first\nwritten");
    stack.wharf(&["container", "rm", "-f", "c"]).ok();

    let read_only =
        ["container", "create", "--name", "c", "--read-only", "-v", "db:/srv/db", "-v", "/nowhere/at/all:/x/y", "r:1", "true"];
    stack.wharf(&read_only).ok();
    stack.wharf(&["container", "cp", "new", "c:/tmp"]).fails(1, &["is read-only"]);
    stack.wharf(&["container", "cp", "new", "c:/srv/db/again"]).ok();
    stack.wharf(&["container", "rm", "-f", "c"]).ok();
    std::fs::remove_dir_all("/nowhere").expect("the source that was made");
}

#[test]
fn a_volume_in_memory_is_that_of_those_who_run() {
    let stack = Stack::new("nothing");
    stack.write("new", "written");
    stack.write(
        "compose.yaml",
        &format!(
            "services: {{a: {{{}}}, b: {{{}}}}}\nvolumes: {{memory: {{driver_opts: {{type: tmpfs, device: tmpfs, o: 'size=1m'}}}}}}\n",
            sleeping("volumes: ['memory:/m']"),
            sleeping("volumes: ['memory:/other:ro']")
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["stop", "-t", "0", "a"]).ok();
    stack.wharf(&["cp", "new", "a:/m/new"]).ok();
    assert_eq!(stack.sh("b", "cat /other/new"), "written");
    assert_eq!(names(&stack, &["cp"], "a:/m"), "m/ m/new");
    stack.wharf(&["stop", "-t", "0"]).ok();
    // Nobody has it, so it would be gone at once.
    stack.wharf(&["cp", "new", "a:/m/new"]).fails(1, &["/m", "is read-only"]);
}

#[test]
fn a_copy_has_its_volumes_when_the_container_ends_meanwhile() {
    let stack = Stack::new("nothing");
    stack.write(
        "compose.yaml",
        &format!("services: {{a: {{{}}}}}\nvolumes: {{vol: {{}}}}\n", sleeping("volumes: ['vol:/data/zvolume']")),
    );
    stack.wharf(&["up", "-d"]).ok();
    stack.sh("a", "head -c 64000000 /dev/zero > /data/a; echo kept > /data/zvolume/file");
    let mut copy = stack.command(&["cp", "a:/data", "-"]).stdout(Stdio::piped()).spawn().expect("wharf");
    let mut archive = copy.stdout.take().expect("archive");
    let mut first = [0; 512];
    archive.read_exact(&mut first).expect("it has begun");
    stack.wharf(&["stop", "-t", "0"]).ok();
    eventually("the container has ended", 10, || stack.state("a") == "exited");
    let mut rest = Vec::new();
    archive.read_to_end(&mut rest).expect("archive");
    assert!(copy.wait().expect("wharf").success());
    assert!(rest.windows(5).any(|window| window == b"kept\n"), "{} bytes without the volume's file", rest.len());
}

/// Copies at once, while the container starts and stops and an engine dies over them: each is whole or fails, and nothing stays mounted.
#[test]
fn copies_at_once_leave_nothing() {
    let stack = Stack::new("nothing");
    let service = sleeping("volumes: ['vol:/data/vol']");
    stack.write("compose.yaml", &format!("services: {{a: {{{service}}}}}\nvolumes: {{vol: {{}}}}\n"));
    stack.wharf(&["up", "-d"]).ok();
    stack.sh("a", "echo kept > /data/vol/file");
    let before = mounts(&stack);
    let descriptors = || {
        let engine = stack.engine_pid().expect("engine");
        std::fs::read_dir(format!("/proc/{engine}/fd")).expect("descriptors").count()
    };
    stack.wharf(&["stop", "-t", "0"]).ok();
    let at_rest = descriptors();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..6 {
                    assert_eq!(names(&stack, &["cp"], "a:/data"), "data/ data/vol/ data/vol/file");
                }
            });
        }
        for command in [&["start"][..], &["stop", "-t", "0"], &["start"], &["stop", "-t", "0"]] {
            stack.wharf(command).ok();
        }
    });
    eventually("the views are given back", 10, || descriptors() <= at_rest);
    // One that nobody reads is under way.
    let mut copy = stack.command(&["cp", "a:/", "-"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("wharf");
    copy.stdout.as_mut().expect("archive").read_exact(&mut [0; 512]).expect("it has begun");
    let engine = stack.engine_pid().expect("engine");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine), nix::sys::signal::Signal::SIGKILL).expect("killed");
    drop(copy.stdout.take());
    copy.wait().expect("wharf");
    assert_eq!(names(&stack, &["cp"], "a:/data"), "data/ data/vol/ data/vol/file");
    assert_eq!(mounts(&stack), before);
}
