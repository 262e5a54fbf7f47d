//! What COPY, ADD and new volumes keep of files: extended attributes and hard links.

use super::support::Stack;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// CAP_NET_BIND_SERVICE, permitted and effective.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The root of a container's files, as its first process has it.
fn root_of(stack: &Stack, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root", stack.pid(name)))
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    xattr::get(path, name).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every attribute's name but those of the host's security modules.
fn attributes(path: &Path) -> Vec<String> {
    let names = xattr::list(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| name != "security.selinux");
    names.sort();
    names
}

/// A container of an image, which sleeps.
fn run(stack: &Stack, image: &str, options: &[&str]) {
    let args = [&["container", "run", "-d", "--name", "look", "--network", "none"], options, &[image, "sleep", "1000"]].concat();
    stack.wharf(&args).ok();
}

fn remove(stack: &Stack) {
    stack.wharf(&["container", "rm", "-f", "look"]).ok();
}

#[test]
fn copies_have_the_extended_attributes_of_their_sources() {
    let stack = Stack::new("none");
    fs::create_dir_all(stack.path("context/tree/sub")).expect("directory");
    for file in ["context/tool", "context/tree/sub/file"] {
        stack.write(file, "content");
    }
    let set = |path: &str, name: &str, value: &[u8]| xattr::set(stack.path(path), name, value).expect(name);
    set("context/tool", "security.capability", &CAPABILITY);
    set("context/tree/sub/file", "user.note", b"of a file");
    set("context/tree/sub", "user.note", b"of a directory");
    // What tells overlayfs how to read a layer, and what no image may say.
    set("context/tree/sub", "trusted.overlay.opaque", b"y");
    set("context/tree/sub", "user.overlay.opaque", b"y");
    set("context/tree/sub/file", "trusted.other", b"x");
    let stages = "FROM busybox:local AS made\nCOPY --chown=7:8 --chmod=750 tool /from/tool\nCOPY tree /from/tree\n\
                  FROM busybox:local\nRUN mkdir -p /to/tree/sub && touch /to/tree/sub/older\n\
                  COPY --from=made /from /to\nCOPY tool tree /context/\n";
    stack.write("context/Dockerfile", stages);
    let build = || stack.wharf(&["image", "build", "-t", "copied:1", "context"]);
    build().ok();
    run(&stack, "copied:1", &["-v", "filled:/to"]);
    // The volume is filled from the image, so /to is both: COPY --from, and then the volume.
    let root = root_of(&stack, "look");
    for top in ["to", "context"] {
        let tree = if top == "to" { root.join("to/tree") } else { root.join("context") };
        assert_eq!(attribute(&root.join(top).join("tool"), "security.capability").as_deref(), Some(&CAPABILITY[..]), "{top}");
        assert_eq!(attributes(&root.join(top).join("tool")), ["security.capability"], "{top}");
        assert_eq!(attribute(&tree.join("sub/file"), "user.note").as_deref(), Some(&b"of a file"[..]), "{top}");
        assert_eq!(attribute(&tree.join("sub"), "user.note").as_deref(), Some(&b"of a directory"[..]), "{top}");
        assert_eq!(
            (attributes(&tree.join("sub")), attributes(&tree.join("sub/file"))),
            (vec!["user.note".into()], vec!["user.note".into()]),
            "{top}"
        );
    }
    let tool = fs::metadata(root.join("to/tool")).expect("tool");
    assert_eq!((tool.uid(), tool.gid(), tool.mode() & 0o7777), (7, 8, 0o750));
    assert!(root.join("to/tree/sub/older").exists(), "a directory that was there is not hidden");
    remove(&stack);
    // Of the image itself: a volume is not in between.
    run(&stack, "copied:1", &[]);
    let root = root_of(&stack, "look");
    assert_eq!(attribute(&root.join("to/tool"), "security.capability").as_deref(), Some(&CAPABILITY[..]));
    assert_eq!(attribute(&root.join("to/tree/sub"), "user.note").as_deref(), Some(&b"of a directory"[..]));
    remove(&stack);
    // A program whose capability came by COPY has it.
    stack.write(
        "context/Dockerfile",
        "FROM busybox:local AS made\nADD capable.tar /\nFROM busybox:local\nCOPY --from=made /kept /kept\nUSER 1000\n",
    );
    add_capable(&stack.path("context/capable.tar"), &stack);
    build().ok();
    let effective = stack
        .wharf(&[
            "container",
            "run",
            "--rm",
            "--network",
            "none",
            "copied:1",
            "/kept/busybox",
            "grep",
            "CapEff",
            "/proc/self/status",
        ])
        .ok();
    assert!(effective.contains("0000000000000400"), "{effective}");
}

/// An archive of busybox with a capability.
fn add_capable(path: &Path, stack: &Stack) {
    let program = stack
        .wharf(&["container", "run", "--rm", "--network", "none", "busybox:local", "sh", "-c", "readlink -f /bin/busybox"])
        .ok();
    run(stack, "busybox:local", &[]);
    let program = fs::read(root_of(stack, "look").join(program.trim().trim_start_matches('/'))).expect("busybox");
    remove(stack);
    let mut archive = tar::Builder::new(File::create(path).expect("archive"));
    archive.append_pax_extensions([("SCHILY.xattr.security.capability", &CAPABILITY[..])]).expect("PAX");
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    archive.append_data(&mut header, "kept/busybox", program.as_slice()).expect("entry");
    archive.finish().expect("end");
}

#[test]
fn a_changed_attribute_makes_another_layer() {
    let stack = Stack::new("none");
    fs::create_dir_all(stack.path("context/d/sub")).expect("directory");
    stack.write("context/file", "content");
    stack.write("context/Dockerfile", "FROM scratch\nCOPY file /file\nCOPY d /d\n");
    let cached = || {
        let built = stack.wharf(&["image", "build", "-t", "keyed:1", "context"]);
        assert_eq!(built.code, 0, "{}", built.stderr);
        let count = |text: &str| text.lines().filter(|line| line.contains("CACHED")).count();
        count(&built.stdout) + count(&built.stderr)
    };
    let set = |path: &str, value: &[u8]| xattr::set(stack.path(path), "user.note", value).expect("attribute");
    assert_eq!(cached(), 0);
    assert_eq!(cached(), 2);
    for (what, change) in [
        ("an attribute of a file", &(|| set("context/file", b"a")) as &dyn Fn()),
        ("another value", &|| set("context/file", b"b")),
        ("none again", &|| xattr::remove(stack.path("context/file"), "user.note").expect("attribute")),
    ] {
        change();
        // The first step is made, or was made with this before; the one behind it has its own key in any case.
        let found = cached();
        assert_eq!(found, if what == "none again" { 2 } else { 0 }, "{what}");
        assert_eq!(cached(), 2, "{what}");
    }
    set("context/d/sub", b"of a directory");
    assert_eq!(cached(), 1, "the file's step is as it was");
    // What is not copied is not in the key.
    xattr::set(stack.path("context/file"), "trusted.other", b"x").expect("attribute");
    assert_eq!(cached(), 2);
}

#[test]
fn hard_links_of_one_copy_stay_links() {
    let stack = Stack::new("none");
    fs::create_dir_all(stack.path("context/d/sub")).expect("directory");
    fs::create_dir_all(stack.path("context/over")).expect("directory");
    stack.write("context/d/one", "content");
    stack.write("context/over/replaced", "of another source");
    let link = |from: &str, to: &str| fs::hard_link(stack.path(from), stack.path(to)).expect("link");
    link("context/d/one", "context/d/sub/two");
    link("context/d/one", "context/three");
    link("context/d/one", "context/d/replaced");
    link("context/d/one", "context/over/x");
    stack.write(
        "context/Dockerfile",
        "FROM busybox:local AS made\nRUN mkdir /q && echo x > /q/a && ln /q/a /q/b && ln /q/a /outside\n\
         FROM busybox:local\nCOPY d /d\nCOPY three /three\nCOPY d three /both/\nCOPY three three /twice/\n\
         COPY d/replaced /moved/replaced\nCOPY d over /mixed/\nCOPY --from=made /q /q\n",
    );
    stack.wharf(&["image", "build", "-t", "linked:1", "context"]).ok();
    run(&stack, "linked:1", &[]);
    let root = root_of(&stack, "look");
    let found = |path: &str| {
        let metadata = fs::metadata(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        (metadata.ino(), metadata.nlink())
    };
    let read = |path: &str| fs::read_to_string(root.join(path)).expect(path);
    assert_eq!(found("d/one"), found("d/sub/two"));
    assert_eq!(
        (found("d/one").1, found("three").1, found("moved/replaced").1),
        (3, 1, 1),
        "no other instruction's, and not the source's"
    );
    assert_eq!((found("both/one"), found("both/one").1), (found("both/three"), 4), "of the sources of one instruction");
    assert_eq!((read("twice/three"), found("twice/three").1), ("content".into(), 1));
    assert_eq!(
        (read("mixed/replaced"), read("mixed/x"), read("mixed/one")),
        ("of another source".into(), "content".into(), "content".into())
    );
    assert_eq!((found("mixed/one"), found("mixed/one").1, found("mixed/replaced").1), (found("mixed/x"), 3, 1));
    assert_eq!((found("q/a"), found("q/a").1), (found("q/b"), 2), "a link that was left behind does not count");
    remove(&stack);
    assert_eq!(fs::metadata(stack.path("context/three")).expect("source").nlink(), 5, "the sources are as they were");
}

#[test]
fn a_source_that_is_missing_is_missed_where_it_should_be() {
    let stack = Stack::new("none");
    fs::create_dir_all(stack.path("context/other")).expect("directory");
    stack.write("context/other/file", "");
    let made = "FROM busybox:local AS made\nRUN ln -s ../../nowhere /up\nFROM busybox:local\n";
    for (line, words) in [
        ("COPY gone /x", "`gone` matches nothing in the build context"),
        ("COPY --from=made /gone /x", "`/gone` matches nothing in the stage `made`"),
        ("COPY --from=made /up /x", "`/up` is a symlink to `../../nowhere`, which is not in the stage `made`"),
        ("COPY --from=busybox:local /gone /x", "`/gone` matches nothing in the image `busybox:local`"),
        ("COPY --from=named gone /x", "`gone` matches nothing in the context `named`"),
        ("RUN --mount=type=bind,from=made,source=/gone,target=/m true", "`/gone` matches nothing in the stage `made`"),
    ] {
        stack.write("context/Dockerfile", &format!("{made}{line}\n"));
        let named = format!("named={}", stack.path("context/other").display());
        stack.wharf(&["image", "build", "--build-context", &named, "context"]).fails(1, &["Dockerfile:4", words]);
    }
}

#[test]
fn a_seekable_zstd_archive_is_taken_apart() {
    let stack = Stack::new("none");
    fs::create_dir(stack.path("context")).expect("directory");
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(7);
    archive.append_data(&mut header, "in/file", &b"content"[..]).expect("entry");
    let plain = archive.into_inner().expect("archive");
    // pzstd puts the size of the frame that follows into a skippable one.
    let frame = zstd::bulk::compress(&plain, 3).expect("zstd");
    let length = u32::try_from(frame.len()).expect("small").to_le_bytes();
    let whole = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], &length, &frame].concat();
    fs::write(stack.path("context/p.tar.zst"), whole).expect("write");
    stack.write("context/Dockerfile", "FROM busybox:local\nADD p.tar.zst /p/\n");
    stack.wharf(&["image", "build", "-t", "pzstd:1", "context"]).ok();
    let listed = stack.wharf(&[
        "container",
        "run",
        "--rm",
        "--network",
        "none",
        "pzstd:1",
        "sh",
        "-c",
        "cd /p && find . -type f && cat in/file",
    ]);
    assert_eq!(listed.ok(), "./in/file\ncontent");
}

/// What is saved while a build copies it is in that build's image, and in no later one of other files.
#[test]
fn what_changes_while_it_is_copied_is_not_found_again() {
    let stack = Stack::new("none");
    fs::create_dir_all(stack.path("context/c")).expect("directory");
    for n in 0..1500 {
        stack.write(&format!("context/c/{n}"), "x");
    }
    stack.write(
        "context/Dockerfile",
        "FROM busybox:local\nCOPY c /c\nRUN --mount=type=bind,source=c,target=/m cat /m/z > /of-mount\n",
    );
    let z = stack.path("context/c/z");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0_usize.. {
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                fs::write(&z, ["A", "B"][n % 2]).expect("file");
            }
        });
        for n in 0..6 {
            stack.wharf(&["image", "build", "-t", &format!("raced:{n}"), "context"]).ok();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    for content in ["A", "B", "A", "B"] {
        fs::write(&z, content).expect("file");
        stack.wharf(&["image", "build", "-t", "still:1", "context"]).ok();
        let found = stack.wharf(&["container", "run", "--rm", "still:1", "cat", "/c/z", "/of-mount"]).ok();
        assert_eq!(found, content.repeat(2));
    }
    let again = stack.wharf(&["image", "build", "-t", "still:2", "context"]);
    assert!((again.stdout.clone() + &again.stderr).matches("CACHED").count() == 2, "{}{}", again.stdout, again.stderr);
}
