//! What `cp`, `export` and `image save` do to what is at their destination: devices, links, older files, full disks, Ctrl-C.

use crate::support::{Stack, eventually};
use base64::Engine as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A running container `a` of busybox with a volume on /data.
fn container(stack: &Stack) {
    stack.wharf(&["container", "run", "-d", "--name", "a", "-v", "vv:/data", "busybox:local", "sleep", "1000"]).ok();
}

fn remove(stack: &Stack) {
    stack.wharf(&["container", "rm", "-f", "a"]).ok();
}

fn inside(stack: &Stack, script: &str) -> String {
    stack.wharf(&["container", "exec", "a", "sh", "-c", script]).ok().trim_end().to_string()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = directory.read_dir().expect("directory").map(|entry| entry.expect("entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().expect("name")).collect();
    names.sort();
    names
}

fn special(path: &Path, kind: SFlag) {
    mknod(path, kind, Mode::from_bits_truncate(0o666), makedev(1, 3)).expect("mknod");
}

/// A memory file system of 1 MiB.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(place: PathBuf) -> Self {
        std::fs::create_dir_all(&place).expect("directory");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "wharf-test-disk"]).arg(&place).status();
        assert!(mounted.expect("mount").success());
        SmallDisk(place)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn devices_and_fifos_are_not_replaced_by_copies() {
    let stack = Stack::new("nothing");
    container(&stack);
    inside(&stack, "echo of-container > /f; mkfifo /pipe; ln -s /dev/null /tonull; mkdir /d; mknod /d/f c 1 3; echo x > /d/null");
    stack.write("f", "of-host");
    std::fs::create_dir(stack.path("d")).expect("directory");
    for name in ["nul", "d/f"] {
        special(&stack.path(name), SFlag::S_IFCHR);
    }
    special(&stack.path("pipe"), SFlag::S_IFIFO);
    symlink("nul", stack.path("tonul")).expect("link");
    for (to, what) in [
        ("nul", "nul is a device: `cp` writes to a directory or a regular file"),
        ("pipe", "pipe is a FIFO"),
        ("tonul", "nul is a device"),
        ("d", "d/f is a device"),
        ("/dev/stdout", "/dev/stdout is"),
    ] {
        stack.wharf(&["container", "cp", "a:/f", to]).fails(1, &[what]);
    }
    for (to, what) in [
        ("a:/dev/null", "/dev/null in the container is a device: `cp` writes to a directory or a regular file"),
        ("a:/pipe", "/pipe in the container is a FIFO"),
        ("a:/tonull", "/dev/null in the container is a device"),
        ("a:/d", "/d/f in the container is a device"),
    ] {
        stack.wharf(&["container", "cp", "f", to]).fails(1, &[what]);
    }
    let kind = |name: &str| stack.path(name).symlink_metadata().expect(name).file_type();
    assert!(kind("nul").is_char_device() && kind("d/f").is_char_device() && kind("pipe").is_fifo());
    inside(&stack, "test -c /dev/null && test -p /pipe && test -h /tonull && test -c /d/f");
    remove(&stack);
}

#[test]
fn copies_follow_the_links_at_their_destination() {
    let stack = Stack::new("nothing");
    container(&stack);
    inside(
        &stack,
        "mkdir /srv /srv/dir; echo f > /f; ln -s c2 /c1; ln -s srv/c3 /c2; ln -s ../srv/real /srv/c3; ln -s srv/none /dangling; \
         ln -s ../../../../../../srv/out /up; ln -s /srv/dir /todir; ln -s /data/va /tovolume; ln -s vb /data/va; \
         ln -s /srv/back /data/back; ln -s c1 /again",
    );
    for (text, link) in
        [("l2", "l1"), ("d/l3", "l2"), ("../real", "d/l3"), ("none", "dangling"), ("loop", "loop"), ("no/x", "lost")]
    {
        std::fs::create_dir_all(stack.path("d")).expect("directory");
        symlink(text, stack.path(link)).expect("link");
    }
    // Here, as cp(1): the links stay.
    stack.write("real", "old");
    for (link, end) in [("l1", "real"), ("dangling", "none")] {
        stack.wharf(&["container", "cp", "a:/f", link]).ok();
        assert!(stack.path(link).is_symlink(), "{link}");
        assert_eq!(std::fs::read_to_string(stack.path(end)).expect(end), "f\n", "{link}");
    }
    stack.wharf(&["container", "cp", "a:/f", "loop"]).fails(1, &["writing loop", "symbolic links"]);
    stack.wharf(&["container", "cp", "a:/f", "lost"]).fails(1, &["there is no directory no"]);
    // In the container, all of a chain, beneath its root; running and not.
    for round in ["running", "stopped"] {
        stack.write("new", round);
        for link in ["c1", "dangling", "up", "todir", "tovolume", "data/back"] {
            stack.wharf(&["container", "cp", "new", &format!("a:/{link}")]).ok();
        }
        stack.wharf(&["container", "cp", "-L", "a:/again", &format!("followed-{round}")]).ok();
        stack.wharf(&["container", "cp", "-L", "a:/again", "d"]).ok();
        for name in [&format!("followed-{round}"), "d/again"] {
            assert!(stack.path(name).symlink_metadata().expect(name).is_file(), "{name}");
            assert_eq!(std::fs::read_to_string(stack.path(name)).expect(name), round, "{name}");
        }
        match round {
            "running" => stack.wharf(&["container", "stop", "-t", "0", "a"]).ok(),
            _ => stack.wharf(&["container", "start", "a"]).ok(),
        };
        if round == "running" {
            continue;
        }
        for link in ["c1", "c2", "srv/c3", "dangling", "up", "todir", "tovolume", "data/va", "data/back"] {
            inside(&stack, &format!("test -h /{link}"));
        }
        let read = inside(&stack, "cd /srv; head -n 1 real none out dir/new back /data/vb | grep -v '^$' | tr '\\n' ' '");
        for file in ["real", "none", "out", "dir/new", "back", "/data/vb"] {
            assert!(read.contains(&format!("==> {file} <== {round}")), "{file}: {read}");
        }
    }
    remove(&stack);
}

/// Docker's clients are told where a link leads in the end, and why a path cannot be looked at wharf's.
#[test]
fn a_look_at_a_path_says_where_it_leads_or_why_not() {
    let stack = Stack::new("nothing");
    container(&stack);
    inside(&stack, "echo text > /file; ln -s loop /loop; ln -s two /one; ln -s ../../x/y /two");
    stack.write("f", "of-host");
    let long = format!("a:/{}", "n".repeat(300));
    for (from, to, words) in [
        ("a:/file/x", "out", ["/file/x in a is not a directory", "leads through a file"]),
        ("a:/loop/x", "out", ["/loop/x in a", "symbolic links"]),
        ("a:/loop", "out", ["/loop in a", "symbolic links"]),
        ("f", "a:/loop", ["/loop in a", "symbolic links"]),
        ("f", "a:/loop/x", ["/loop/x in a", "symbolic links"]),
        (&long, "out", ["nnn in a", "File name too long"]),
        ("f", &long, ["nnn in a", "File name too long"]),
        ("f", "a:/proc/1/cwd/", ["/proc/1/cwd/ in a", "symbolic links"]),
        ("nosuch:/file", "out", ["No such container: nosuch", ""]),
        ("f", "nosuch:/file", ["No such container: nosuch", ""]),
    ] {
        stack.wharf(&["container", "cp", from, to]).fails(1, &words);
    }
    // What the kernel makes when it is read has no size before.
    for path in ["/proc/version", "/proc", "/sys/kernel/uevent_seqnum", "/proc/self"] {
        stack.wharf(&["container", "cp", &format!("a:{path}"), "out"]).fails(1, &[path, "is the kernel's own"]);
    }
    stack.wharf(&["container", "cp", "f", "a:/proc/sys/kernel/hostname"]).fails(1, &["is the kernel's own"]);
    assert_eq!(names(&stack.path("")), ["f"]);
    let socket = stack.run_root().join("engine.sock");
    let head = |path: &str| {
        let url = format!("http://x/containers/a/archive?path={path}");
        let output = Command::new("curl").args(["-sI", "--max-time", "30", "--unix-socket"]).arg(&socket).arg(url).output();
        String::from_utf8(output.expect("curl").stdout).expect("text")
    };
    let answer = head("/one");
    let stat = answer.lines().find_map(|line| line.strip_prefix("x-docker-container-path-stat: ")).expect("stat");
    let stat = base64::engine::general_purpose::STANDARD.decode(stat.trim()).expect("base64");
    let stat: serde_json::Value = serde_json::from_slice(&stat).expect("JSON");
    assert_eq!((stat["name"].as_str(), stat["linkTarget"].as_str()), (Some("one"), Some("/x/y")), "{stat}");
    assert!(head("/loop").starts_with("HTTP/1.1 400 ") && head("/none").starts_with("HTTP/1.1 404 "));
    remove(&stack);
}

#[test]
fn an_older_file_stays_until_a_new_one_is_whole() {
    let stack = Stack::new("nothing");
    container(&stack);
    inside(&stack, "dd if=/dev/zero of=/big bs=1M count=4 2>/dev/null");
    stack.write("compose.yaml", "services: {app: {image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL}}");
    stack.write("Dockerfile", "FROM busybox:local\nRUN dd if=/dev/zero of=/big bs=1M count=4\n");
    stack.wharf(&["up", "-d"]).ok();
    let disk = SmallDisk::at(stack.path("full"));
    // A name that is mistyped, and a disk that is full: what was there stays.
    for (command, file, words) in [
        (vec!["image", "save", "nosuch:1", "-o"], "bk.tar", ["No such image: nosuch:1", ""]),
        (vec!["container", "export", "nosuch", "-o"], "bk.tar", ["No such container: nosuch", ""]),
        (vec!["image", "save", "busybox:local", "-o"], "full/bk.tar", ["writing full/bk.tar", "No space left on device"]),
        (vec!["container", "export", "a", "-o"], "full/bk.tar", ["writing full/bk.tar", "No space left on device"]),
        (vec!["export", "app", "-o"], "full/bk.tar", ["writing full/bk.tar", "No space left on device"]),
    ] {
        stack.write(file, "GOOD");
        stack.wharf(&[&command[..], &[file]].concat()).fails(1, &words);
        assert_eq!(std::fs::read_to_string(stack.path(file)).expect(file), "GOOD", "{command:?}");
    }
    for kind in ["tar", "oci", "docker"] {
        let dest = format!("type={kind},dest=full/bk.tar");
        stack.wharf(&["image", "build", "-o", &dest, "."]).fails(1, &["writing full/bk.tar", "No space left on device"]);
    }
    assert_eq!(
        (names(&disk.0), std::fs::read_to_string(disk.0.join("bk.tar")).expect("file")),
        (vec!["bk.tar".into()], "GOOD".into())
    );
    stack.wharf(&["container", "export", "a", "-o", "full/other"]).fails(1, &["writing full/other"]);
    assert_eq!(names(&disk.0), ["bk.tar"]);
    drop(disk);
    // Standard output on a full disk.
    for command in [&["container", "cp", "a:/big", "-"][..], &["container", "export", "a"], &["image", "save", "busybox:local"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
        let output = stack.command(command).stdout(full).output().expect("wharf runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("writing standard output: No space left on device"), "{command:?}: {said}");
        assert_eq!(output.status.code(), Some(1));
    }
    // Whole ones: mode and link stay, a FIFO is written itself.
    std::fs::set_permissions(stack.path("bk.tar"), std::fs::Permissions::from_mode(0o600)).expect("mode");
    symlink("bk.tar", stack.path("latest")).expect("link");
    stack.wharf(&["container", "export", "a", "-o", "latest"]).ok();
    let found = stack.path("bk.tar").metadata().expect("file");
    assert!(stack.path("latest").is_symlink() && found.len() > 4 << 20 && found.mode() & 0o777 == 0o600, "{found:?}");
    special(&stack.path("pipe"), SFlag::S_IFIFO);
    let read = std::fs::File::create(stack.path("read")).expect("file");
    let mut reading = Command::new("cat").arg(stack.path("pipe")).stdout(read).spawn().expect("cat");
    stack.wharf(&["image", "save", "busybox:local", "-o", "pipe"]).ok();
    assert!(reading.wait().expect("cat").success() && stack.path("read").metadata().expect("file").len() > 1 << 20);
    stack.wharf(&["image", "save", "busybox:local", "-o", "/dev/null"]).ok();
    assert!(Path::new("/dev/null").metadata().expect("device").file_type().is_char_device());
    // Texts: on the file that is read as well.
    stack.wharf(&["config", "-o", "compose.yaml"]).ok();
    assert!(std::fs::read_to_string(stack.path("compose.yaml")).expect("file").contains("busybox:local"));
    stack.wharf(&["config", "-o", "no/such"]).fails(1, &["writing no/such"]);
    remove(&stack);
}

#[test]
fn ctrl_c_leaves_the_older_archive_and_nothing_else() {
    let stack = Stack::new("nothing");
    container(&stack);
    inside(&stack, "dd if=/dev/zero of=/big bs=1 count=1 seek=8G 2>/dev/null");
    let out = stack.path("out");
    std::fs::create_dir(&out).expect("directory");
    for name in ["bk.tar", "new.tar"] {
        stack.write("out/bk.tar", "GOOD");
        let file = format!("out/{name}");
        let mut child = stack.command(&["container", "export", "a", "-o", &file]).stderr(Stdio::null()).spawn().expect("wharf");
        let descriptors = PathBuf::from(format!("/proc/{}/fd", child.id()));
        let has_begun = || {
            let open = descriptors.read_dir().into_iter().flatten().flatten();
            open.filter(|entry| entry.path().read_link().is_ok_and(|to| to.starts_with(&out)))
                .any(|entry| entry.path().metadata().is_ok_and(|file| file.len() > 8 << 20))
        };
        eventually("some of the archive is written", 20, has_begun);
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("kill");
        assert!(!child.wait().expect("wait").success());
        assert_eq!(
            (names(&out), std::fs::read_to_string(out.join("bk.tar")).expect("file")),
            (vec!["bk.tar".into()], "GOOD".into())
        );
    }
    // A FIFO whose reader does not read.
    special(&stack.path("pipe"), SFlag::S_IFIFO);
    let pipe = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(stack.path("pipe")).expect("pipe");
    let mut child =
        stack.command(&["image", "save", "busybox:local", "-o", "pipe"]).stderr(Stdio::null()).spawn().expect("wharf");
    let has_come = || poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
    eventually("some of the archive is in the pipe", 20, has_come);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("kill");
    eventually("the command has ended", 10, || child.try_wait().expect("wait").is_some());
    remove(&stack);
}
