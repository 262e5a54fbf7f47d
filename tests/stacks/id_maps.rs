//! Id-mapped bind mounts: whose files are in the container, and whose on the host.

use crate::support::{Stack, eventually, sleeping};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const OWNER: (u32, u32) = (1234, 2345);

fn owner(path: &Path) -> (u32, u32) {
    let found = std::fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (found.uid(), found.gid())
}

/// A directory with a file of its owner's and one of somebody else's.
fn owned(directory: PathBuf) -> PathBuf {
    std::fs::create_dir_all(&directory).expect("directory");
    for (name, (uid, gid)) in [("", OWNER), ("hosts", OWNER), ("others", (777, 777))] {
        let path = directory.join(name);
        if !name.is_empty() {
            std::fs::write(&path, "x\n").expect("file");
        }
        chown(&path, Some(uid), Some(gid)).expect("chown");
    }
    directory
}

/// Something that is mounted on the host for a test, by mount(8)'s arguments.
struct Mounted(PathBuf);

impl Mounted {
    fn on(at: &Path, args: &[&str]) -> Self {
        std::fs::create_dir_all(at).expect("directory");
        assert!(Command::new("mount").args(args).arg(at).status().expect("mount").success(), "{args:?}");
        Mounted(at.to_path_buf())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A mount namespace that another test makes this moment has it as well.
        let unmount =
            || Command::new("umount").arg(&self.0).stderr(std::process::Stdio::null()).status().is_ok_and(|s| s.success());
        if std::thread::panicking() {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        } else {
            eventually("nobody holds the mount", 10, unmount);
        }
    }
}

#[test]
fn files_of_a_bind_mount_are_the_container_users_and_the_hosts_owners() {
    let stack = Stack::new("nothing");
    let memory = tempfile::Builder::new().prefix("wharf-test-").tempdir_in("/dev/shm").expect("a directory in a tmpfs");
    for directory in [stack.path("data"), memory.path().join("data")] {
        let source = owned(directory);
        let at = source.display();
        let long = |idmap: &str, rest: &str| {
            sleeping(&format!("{rest}volumes: [{{type: bind, source: {at}, target: /d, bind: {{idmap: '{idmap}'}}}}]"))
        };
        let yaml = format!(
            "services:
  root: {{{}}}
  user: {{{}}}
  named: {{{}}}
  number: {{{}}}
  group: {{{}}}
  runc: {{{}}}
  ro: {{{}}}
",
            sleeping(&format!("volumes: ['{at}:/d:idmap']")),
            long("match-user", "user: '1000:1000', "),
            long("match-user:app", ""),
            long("match-user:1000:1000", "user: '1000:1000', "),
            long("match-user:root:log", ""),
            long("match-user", "runtime: runc, user: app, "),
            sleeping(&format!("user: app, volumes: ['{at}:/d:ro,idmap']")),
        );
        stack.write("compose.yaml", &yaml);
        stack.wharf(&["up", "-d"]).ok();
        for (service, user, seen) in [
            ("root", "0:0", "0:0"),
            ("user", "1000:1000", "1000:1000"),
            ("named", "app", "1000:1000"),
            ("number", "1000:1000", "1000:1000"),
            ("group", "0:4", "0:4"),
            ("runc", "app", "1000:1000"),
        ] {
            let run = |script: &str| stack.wharf(&["exec", "-T", "-u", user, service, "sh", "-c", script]);
            assert_eq!(run("stat -c %u:%g /d /d/hosts").ok(), format!("{seen}\n{seen}\n"), "{service} on {at}");
            run(&format!(
                "mkdir /d/{service} && echo made > /d/{service}/made && ln -s made /d/{service}/link && echo more >> /d/hosts"
            ))
            .ok();
            assert_eq!(run(&format!("stat -c %u:%g /d/{service}/made")).ok(), format!("{seen}\n"), "{service} on {at}");
            for made in [service.to_string(), format!("{service}/made"), format!("{service}/link")] {
                assert_eq!(owner(&source.join(&made)), OWNER, "{made} of {service} on {at}");
            }
            // Nobody else is anybody there.
            assert_eq!(run("stat -c %u:%g /d/others").ok(), "65534:65534\n");
            let stranger = stack.wharf(&["exec", "-T", "-u", "55:55", service, "sh", "-c", "echo > /d/stranger"]);
            assert!(stranger.code != 0 && !source.join("stranger").exists(), "{service}: {stranger:?}");
        }
        assert_eq!(std::fs::read_to_string(source.join("hosts")).expect("file"), format!("x\n{}", "more\n".repeat(6)));
        assert_eq!(
            stack.sh("ro", "stat -c %u:%g /d/hosts; touch /d/x 2>&1 || true"),
            "1000:1000\ntouch: /d/x: Read-only file system"
        );
        // The host's owner writes, and the container's user reads it as its own.
        std::fs::write(source.join("late"), "").expect("file");
        chown(source.join("late"), Some(OWNER.0), Some(OWNER.1)).expect("chown");
        assert_eq!(stack.sh("user", "stat -c %u:%g /d/late"), "1000:1000");
        stack.wharf(&["down"]).ok();
    }
}

#[test]
fn an_id_mapped_mount_stays_one() {
    let stack = Stack::new("nothing");
    let source = owned(stack.path("data"));
    let yaml = |idmap: &str| {
        let bind = format!("{{type: bind, source: ./data, target: /d, bind: {{idmap: {idmap}}}}}");
        stack.write("compose.yaml", &format!("services: {{a: {{{}}}}}", sleeping(&format!("volumes: [{bind}]"))));
    };
    let makes = |name: &str| {
        stack.sh("a", &format!("touch /d/{name}"));
        assert_eq!(owner(&source.join(name)), OWNER, "{name}");
    };
    yaml("match-user");
    stack.wharf(&["up", "-d"]).ok();
    makes("first");
    let id = stack.id("a");
    let config = stack.wharf(&["config"]).ok();
    assert!(config.contains("idmap: match-user\n"), "{config}");
    let inspected: serde_json::Value = serde_json::from_str(&stack.wharf(&["container", "inspect", &id]).ok()).expect("JSON");
    let mount = &inspected[0]["HostConfig"]["Mounts"][0];
    assert_eq!(mount["BindOptions"]["IDMapping"], serde_json::json!({"Source": "match-user"}), "{mount}");
    stack.wharf(&["restart"]).ok();
    makes("restarted");
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.id("a"), id);
    // The next engine has the container, and starts it the same.
    let engine = stack.engine_pid().expect("an engine");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine), nix::sys::signal::Signal::SIGKILL).expect("kill");
    eventually("another engine", 10, || stack.engine_pid().is_some_and(|pid| pid != engine));
    makes("adopted");
    stack.wharf(&["stop"]).ok();
    stack.wharf(&["start"]).ok();
    makes("started");
    yaml("'match-user:0:4'");
    let plan = stack.wharf(&["plan"]).ok();
    assert!(plan.contains("its configuration has changed"), "{plan}");
    stack.wharf(&["up", "-d"]).ok();
    assert_ne!(stack.id("a"), id);
    assert_eq!(stack.sh("a", "stat -c %u:%g /d"), "0:4");
    // `cp` writes as root, who is nobody there.
    yaml("'match-user:1000:1000'");
    stack.wharf(&["up", "-d"]).ok();
    stack.wharf(&["cp", "compose.yaml", "a:/d/copied"]).fails(1, &["id-mapped", "its source on the host"]);
    stack.wharf(&["cp", "a:/d/hosts", "back"]).ok();
    // A file of another owner cannot be read by the mount: that is said, alone and in the middle of a directory.
    std::fs::write(source.join("roots"), "").expect("file");
    std::fs::set_permissions(source.join("roots"), std::fs::Permissions::from_mode(0o600)).expect("mode");
    stack.wharf(&["cp", "a:/d/roots", "alone"]).fails(1, &["copying /d/roots of", "Permission denied"]);
    stack.wharf(&["cp", "a:/d", "whole"]).fails(1, &["copying /d of", "Permission denied"]);
    // A client that reads no trailers must not take what it has for the whole, whether or not much of it was sent.
    let answer_of = || {
        let mut stream = std::os::unix::net::UnixStream::connect(stack.run_root().join("engine.sock")).expect("the engine");
        let name = format!("{}-a-1", stack.project);
        write!(stream, "GET /containers/{name}/archive?path=/d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("asked");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    let early = String::from_utf8_lossy(&answer_of()).into_owned();
    assert!(early.starts_with("HTTP/1.1 500 ") && early.contains("Permission denied"), "{early}");
    std::fs::write(source.join("a-large-one"), vec![7; 8 << 20]).expect("file");
    chown(source.join("a-large-one"), Some(OWNER.0), Some(OWNER.1)).expect("chown");
    let late = answer_of();
    assert!(late.starts_with(b"HTTP/1.1 200 ") && late.len() > 1 << 20 && !late.ends_with(b"0\r\n\r\n"), "it is cut off");
    std::fs::remove_file(source.join("roots")).expect("removed");
    // A file, and a directory by a symlink: the owner is that of what is mounted.
    std::fs::write(stack.path("file"), "").expect("file");
    chown(stack.path("file"), Some(42), Some(43)).expect("chown");
    symlink("data", stack.path("link")).expect("symlink");
    std::os::unix::fs::lchown(stack.path("link"), Some(9), Some(9)).expect("chown");
    let volumes = "volumes: ['./file:/file:idmap', './link:/link:idmap']";
    stack.write("compose.yaml", &format!("services: {{a: {{{}}}}}", sleeping(&format!("user: app, {volumes}"))));
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.sh("a", "stat -c %u:%g /file /link /link/hosts; echo y > /file"), "1000:1000\n1000:1000\n1000:1000");
    assert_eq!(
        (std::fs::read_to_string(stack.path("file")).expect("file").as_str(), owner(&stack.path("file"))),
        ("y\n", (42, 43))
    );
    // Docker's own form of it.
    let mount = |idmap: &str| format!("type=bind,source={},target=/d{idmap}", source.display());
    let run = |idmap: &str| {
        stack.wharf(&[
            "container",
            "run",
            "--rm",
            "-u",
            "7:8",
            "--mount",
            &mount(idmap),
            "busybox:local",
            "stat",
            "-c",
            "%u:%g",
            "/d",
        ])
    };
    assert_eq!(run(",bind-idmap").ok(), "7:8\n");
    assert_eq!(run(",bind-idmap=match-user:5:6").ok(), "5:6\n");
    run(",bind-idmap=userns").fails(125, &["private user namespace"]);
    run(",bind-idmap=uids").fails(125, &["`uids` is no id mapping"]);
}

#[test]
fn mounts_below_an_id_mapped_one_are_mapped_too() {
    let stack = Stack::new("nothing");
    let source = owned(stack.path("data"));
    let below = Mounted::on(&source.join("below"), &["-t", "tmpfs", "tmpfs"]);
    owned(below.0.clone());
    let yaml = |rest: &str| {
        let bind = format!("{{type: bind, source: ./data, target: /d, bind: {{idmap: match-user{rest}}}}}");
        stack.write("compose.yaml", &format!("services: {{a: {{{}}}}}", sleeping(&format!("user: app, volumes: [{bind}]"))));
    };
    yaml("");
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(
        stack.sh("a", "touch /d/below/made; stat -c %u:%g /d/below /d/below/hosts /d/below/made"),
        ["1000:1000"; 3].join("\n")
    );
    assert_eq!(owner(&below.0.join("made")), OWNER);
    stack.wharf(&["down"]).ok();
    // One that cannot be: it is named, and how to do without it.
    let refuses = Mounted::on(&below.0.join("kernel's own"), &["-t", "sysfs", "sysfs"]);
    stack.wharf(&["up", "-d"]).fails(1, &["sysfs on", "below/kernel's own, below it, cannot map owners", "recursive: disabled"]);
    yaml(", recursive: disabled");
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(stack.sh("a", "stat -c %u:%g /d; ls -A /d/below"), "1000:1000");
    stack.wharf(&["down"]).ok();
    drop(refuses);
}

#[test]
fn what_cannot_be_id_mapped_is_refused() {
    let stack = Stack::new("nothing");
    for directory in ["lower", "upper", "work"] {
        std::fs::create_dir(stack.path(directory)).expect("directory");
    }
    let option = |name: &str| format!("{name}dir={}", stack.path(name).display());
    let options = ["lower", "upper", "work"].map(option).join(",");
    let overlay = Mounted::on(&stack.path("overlay"), &["-t", "overlay", "overlay", "-o", &options]);
    std::fs::create_dir(stack.path("data")).expect("directory");
    let up = |volume: &str, rest: &str| {
        stack.write("compose.yaml", &format!("services:\n  a:\n    {{{}}}", sleeping(&format!("{rest}volumes: [{volume}]"))));
        stack.wharf(&["up", "-d"])
    };
    up("'./data:/d'", "").ok();
    let id = stack.id("a");
    for (volume, words) in [
        ("'./overlay:/d:idmap'", &["mapping the owner of", "overlay cannot map owners", "ext4"][..]),
        ("'/sys/kernel:/d:idmap'", &["sysfs cannot map owners"]),
        ("{type: bind, source: ./data, target: /d, bind: {idmap: 'match-user:nobody'}}", &["no user `nobody` in /etc/passwd"]),
        ("{type: bind, source: ./data, target: /d, bind: {idmap: 'match-user:app:none'}}", &["no group `none` in /etc/group"]),
    ] {
        up(volume, "").fails(1, words);
    }
    // What is wrong in the file is known before anything is stopped.
    up("'./data:/d'", "").ok();
    let id = if stack.id("a") == id { id } else { stack.id("a") };
    for (volume, words) in [
        (
            "{type: bind, source: ./data, target: /d, bind: {idmap: userns}}",
            &["'/d'", "private user namespace", "match-user"][..],
        ),
        ("{type: bind, source: ./data, target: /d, bind: {idmap: mine}}", &["compose.yaml:3:", "`mine` is no id mapping"]),
        ("{type: bind, source: ./data, target: /d, bind: {idmap: 'match-user:'}}", &["compose.yaml:3:", "names no user"]),
        ("{type: bind, source: ./data, target: /d, bind: {idmap: 7}}", &["compose.yaml:3:", "must be `match-user`"]),
        ("{type: volume, source: data, target: /d, bind: {idmap: match-user}}", &["compose.yaml:3:", "for bind mounts alone"]),
        ("'data:/d:idmap'", &["compose.yaml:3:", "for bind mounts alone"]),
        ("'./data:/d:idmap=uids=0-1000-1'", &["compose.yaml:3:", "the short form does not have"]),
    ] {
        up(volume, "").fails(1, words);
        assert_eq!((stack.id("a"), stack.state("a")), (id.clone(), "running".into()), "{volume}");
    }
    // A user whom a mounted passwd makes another one.
    stack.write("passwd", "app:x:1001:1001::/:/bin/sh\n");
    up("'./passwd:/etc/passwd', './data:/d:idmap'", "user: app, ")
        .fails(1, &["1000:1000 in the image, and 1001:1001", "match-user:UID:GID"]);
    stack.wharf(&["down"]).ok();
    drop(overlay);
}
