//! Images whose symlinks lead to what is not there: the ordinary root file system of a host with systemd-resolved, and hostile ones.

use crate::support::Stack;
use std::os::unix::fs::symlink;

const APP: &str = "command: sleep 1000, stop_signal: SIGKILL";

/// An image `linked:1` of busybox, with symlinks.
fn image_with(stack: &Stack, links: &[(&str, &str)]) {
    let added = stack.path("image/added");
    let _ = std::fs::remove_dir_all(&added);
    for (link, text) in links {
        let link = added.join(link.trim_start_matches('/'));
        std::fs::create_dir_all(link.parent().expect("a directory")).expect("directory");
        symlink(text, link).expect("link");
    }
    stack.write("image/Dockerfile", "FROM busybox:local\nCOPY added /\n");
    stack.wharf(&["image", "build", "-t", "linked:1", "image"]).ok();
}

#[test]
fn a_containers_own_files_take_the_place_of_links_to_nothing() {
    let stack = Stack::new("nothing");
    let table = [
        ("/etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
        ("/etc/hosts", "/nix/store/x/hosts"),
        ("/etc/hostname", "hostname"),
    ];
    image_with(&stack, &table);
    // A tmpfs where the link leads hides nothing.
    let service = |name: &str, rest: &str| format!("{name}: {{image: 'linked:1', {APP}{rest}}}");
    let services = [service("plain", ""), service("sealed", ", read_only: true, tmpfs: [/run]")];
    stack.write("compose.yaml", &format!("services: {{{}}}", services.join(", ")));
    stack.wharf(&["up", "-d"]).ok();
    for name in ["plain", "sealed"] {
        let seen = stack
            .sh(name, "cat /etc/resolv.conf /etc/hosts; hostname; cat /etc/hostname; nslookup plain >/dev/null && echo found");
        assert!(seen.contains("nameserver 127.0.0.11") && seen.contains("127.0.0.1\tlocalhost"), "{seen}");
        let last: Vec<&str> = seen.lines().rev().take(3).collect();
        assert_eq!((last[0], last[1]), ("found", last[2]), "{seen}");
    }
    let plain = format!("{}-plain-1", stack.project);
    assert_eq!(stack.wharf(&["container", "diff", &plain]).ok(), "", "nothing was made in the container's layer");
    stack.wharf(&["down"]).ok();
    // The steps of a build, and what they leave.
    stack.write(
        "Dockerfile",
        "FROM linked:1\nRUN grep -q nameserver /etc/resolv.conf && grep -q localhost /etc/hosts && touch /ran\n",
    );
    stack.wharf(&["image", "build", "-t", "built:1", "."]).ok();
    let look = "ls -d /ran /run/systemd /nix 2>/dev/null; true";
    assert_eq!(stack.wharf(&["container", "run", "--rm", "built:1", "sh", "-c", look]).ok(), "/ran\n");
}

#[test]
fn what_is_mounted_on_a_link_to_nothing_is_where_the_link_leads() {
    let stack = Stack::new("nothing");
    image_with(&stack, &[("data", "/srv/none/data"), ("wd", "../srv/none/wd"), ("sec", "srv/none/secrets")]);
    stack.write(
        "compose.yaml",
        &format!(
            "services: {{app: {{image: 'linked:1', {APP}, volumes: ['vol:/data', './:/data/below:ro'], working_dir: /wd, configs: [{{source: c, target: /sec/x}}]}}}}\nvolumes: {{vol: {{}}}}\nconfigs: {{c: {{content: text}}}}"
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    let seen = stack.sh(
        "app",
        "pwd -P; cat /srv/none/secrets/x; echo; readlink /data; ls /srv/none/data/below/compose.yaml; echo kept > /data/f",
    );
    assert_eq!(seen, "/srv/none/wd\ntext\n/srv/none/data\n/srv/none/data/below/compose.yaml");
    stack.wharf(&["up", "-d", "--force-recreate"]).ok();
    assert_eq!(stack.sh("app", "cat /srv/none/data/f"), "kept");
}

#[test]
fn a_build_writes_to_where_a_link_to_nothing_leads() {
    let stack = Stack::new("nothing");
    image_with(
        &stack,
        &[("data", "/srv/none/data"), ("wd", "../srv/none/wd"), ("file", "srv/one/file"), ("cache", "/srv/cache")],
    );
    stack.write("f", "text");
    let lines = [
        "FROM linked:1",
        "COPY --chown=1000:1000 f /data/",
        "COPY f /file",
        "WORKDIR /wd/x",
        "RUN pwd -P > /pwd",
        "RUN --mount=type=cache,target=/cache/a --mount=type=tmpfs,target=/srv/cache/b touch /cache/a/x /cache/b/y",
    ];
    stack.write("Dockerfile", &lines.join("\n"));
    let built = stack.wharf(&["image", "build", "--progress", "plain", "-t", "built:1", "."]);
    let shown = format!("{}{}", built.stdout, built.stderr);
    assert_eq!(built.code, 0, "{shown}");
    let look = "cat /srv/none/data/f /srv/one/file /pwd; for l in /data /file /wd; do readlink $l; done; stat -c %u:%a /srv/none/data /srv/none /srv/one; ls -d /srv/cache";
    let seen = stack.wharf(&["container", "run", "--rm", "built:1", "sh", "-c", look]);
    assert_eq!(
        seen.stdout, "texttext/srv/none/wd/x\n/srv/none/data\nsrv/one/file\n../srv/none/wd\n1000:755\n1000:755\n0:755\n",
        "what mounts of a step had made is gone: {}",
        seen.stderr
    );
}

/// CVE-2021-30465, CVE-2023-27561 and their like, of what is made through a link instead of mounted.
#[test]
fn hostile_links_to_nothing_make_and_mount_nothing_elsewhere() {
    let stack = Stack::new("nothing");
    let outside = stack.path("outside");
    std::fs::create_dir(&outside).expect("directory");
    let made = outside.join("made").display().to_string();
    let links = [
        ("out", made.as_str()),
        ("up", "../../../../../../../../../../tmp/../made-by-a-hostile-image"),
        ("kernel", "/proc/none"),
        ("own", "/proc/self/root/none"),
        ("sysfs", "/sys/none/x"),
        ("loop", "pool"),
        ("pool", "/loop"),
        ("etc/hosts", "/proc/sys/kernel/none"),
        ("etc/hostname", "hostname"),
    ];
    image_with(&stack, &links);
    let service = |rest: &str| {
        stack.write("compose.yaml", &format!("services: {{app: {{image: 'linked:1', {APP}, {rest}}}}}\nconfigs: {{c: {{content: text}}}}\nvolumes: {{vol: {{}}}}"))
    };
    let refused = [
        ("kernel", "the kernel's own files"),
        ("kernel/x", "the kernel's own files"),
        ("own", "symbolic links"),
        ("sysfs", "the kernel's own files"),
        ("loop", "symbolic links"),
        ("pool/x", "symbolic links"),
    ];
    for (target, word) in refused {
        let kinds = [
            format!("volumes: ['vol:/{target}']"),
            format!("tmpfs: ['/{target}']"),
            format!("working_dir: /{target}"),
            format!("configs: [{{source: c, target: /{target}}}]"),
        ];
        for kind in kinds {
            service(&kind);
            stack.wharf(&["up", "-d"]).fails(1, &[word]);
        }
        stack.write("Dockerfile", &format!("FROM linked:1\nWORKDIR /{target}\n"));
        let built = stack.wharf(&["image", "build", "."]);
        // A build has no /proc: there, the link leads to an ordinary directory.
        let word = if word == "symbolic links" && target != "own" { Some(word) } else { None };
        assert_eq!(built.code != 0, word.is_some(), "{target}: {}", built.stderr);
        assert!(built.stderr.contains(word.unwrap_or_default()), "{target}: {}", built.stderr);
    }
    service("volumes: ['vol:/out', './compose.yaml:/up'], working_dir: /out/x, configs: [{source: c, target: /out/y}]");
    stack.wharf(&["up", "-d"]).ok();
    assert_eq!(
        stack.sh("app", &format!("ls {made}; head -c 8 /made-by-a-hostile-image; grep -c localhost /etc/hosts")),
        "x\ny\nservices2"
    );
    assert_eq!(std::fs::read_dir(&outside).expect("directory").count(), 0, "something was made on the host");
    assert!(!std::path::Path::new("/made-by-a-hostile-image").exists());
}

/// A container swaps a directory of a volume for a link to nothing while another one is set up there.
#[test]
fn a_link_to_nothing_that_is_swapped_makes_nothing_outside() {
    let stack = Stack::new("nothing");
    let outside = stack.path("outside");
    std::fs::create_dir(&outside).expect("directory");
    stack.write("f", "text");
    let swap = format!(
        "mkdir /v/real; ln -s ../../../../../../../..{} /v/link; while true; do mv /v/real /v/d; mv /v/d /v/real; mv /v/link /v/d; mv /v/d /v/link; done",
        outside.display()
    );
    stack.write("swap.sh", &swap);
    stack.write(
        "compose.yaml",
        &format!(
            "services: {{a: {{image: 'busybox:local', command: sh /swap.sh, stop_signal: SIGKILL, volumes: ['vol:/v', './swap.sh:/swap.sh']}}, b: {{image: 'busybox:local', {APP}, profiles: [later], volumes: ['vol:/v', './f:/v/d/new/f'], working_dir: /v/d/work/here}}}}\nvolumes: {{vol: {{}}}}"
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    for _ in 0..25 {
        // It may fail: a name that has just been swapped is not there.
        stack.wharf(&["up", "-d", "--force-recreate", "b"]);
        assert_eq!(std::fs::read_dir(&outside).expect("directory").count(), 0, "something was made on the host");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        assert!(!mounts.contains(outside.to_str().expect("path")), "something was mounted on the host");
    }
    assert_eq!(stack.state("a"), "running");
}

/// A new volume has what the image has there, hard links included, and no image can exhaust who fills it.
#[test]
fn a_new_volume_keeps_hard_links_and_has_a_bounded_depth() {
    let stack = Stack::new("nothing");
    std::fs::create_dir(stack.path("context")).expect("directory");
    stack.write(
        "context/Dockerfile",
        "FROM busybox:local\nRUN mkdir -p /v/sub && echo one > /v/a && ln /v/a /v/b && ln /v/a /v/sub/c && ln /v/a /outside && echo two > /v/d\n\
         RUN mkdir /deep && cd /deep && i=0 && while [ $i -lt 1000 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done\n",
    );
    stack.wharf(&["image", "build", "-t", "linked:1", "context"]).ok();
    let look = ["-v", "vol:/v", "linked:1", "stat", "-c", "%h %i", "/v/a", "/v/b", "/v/sub/c", "/v/d"];
    let found = stack.wharf(&[&["container", "run", "--rm"][..], &look].concat()).ok();
    let lines: Vec<&str> = found.lines().collect();
    assert!(lines[0].starts_with("3 ") && lines[0] == lines[1] && lines[1] == lines[2] && lines[3].starts_with("1 "), "{found}");
    let deep = stack.wharf(&["container", "run", "--rm", "-v", "bottomless:/deep", "linked:1", "true"]);
    deep.fails(125, &["copying the image's /deep into the new volume", "nested more than 400 deep"]);
    // As `cp` fills it, in the engine.
    let engine = stack.engine_pid();
    stack.wharf(&["container", "create", "--name", "c", "-v", "bottomless:/deep", "linked:1", "true"]).ok();
    stack.wharf(&["container", "cp", "c:/deep", "-"]).fails(1, &["nested more than 400 deep"]);
    assert_eq!(stack.engine_pid(), engine);
    stack.wharf(&["container", "rm", "c"]).ok();
}

#[test]
fn nothing_is_mounted_on_the_root() {
    let stack = Stack::new("nothing");
    std::fs::create_dir(stack.path("context")).expect("directory");
    stack.write("context/Dockerfile", "FROM busybox:local\nRUN ln -s / /all && ln -s . /here\n");
    stack.wharf(&["image", "build", "-t", "rooted:1", "context"]).ok();
    let here = stack.path("context").display().to_string();
    for (flag, mount) in [("-v", format!("{here}:/all")), ("-v", "vol:/here".into()), ("--tmpfs", "/all".into())] {
        let started = stack.wharf(&["container", "run", "--rm", flag, &mount, "rooted:1", "true"]);
        started.fails(125, &["it leads to the root of the container"]);
    }
}
