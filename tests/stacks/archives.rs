//! Archives of files of any name, any attribute and any moment: what goes in comes out, and nothing else.

use crate::support::{Stack, sleeping};
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// CAP_DAC_OVERRIDE and CAP_FOWNER, permitted and effective: one of its bytes is a line feed.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn capability(path: &Path) -> Option<Vec<u8>> {
    xattr::get(path, "security.capability").expect("getcap")
}

fn root_of(stack: &Stack, container: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root", stack.pid(container)))
}

/// What somebody could append to a file while it is copied: an entry of an archive.
fn injection() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("injected").expect("path");
    header.set_mode(0o4777);
    header.set_size(3);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(b"bad");
    bytes.resize(1024, 0);
    bytes
}

#[test]
fn a_file_that_grows_while_it_is_copied_is_as_long_as_it_was() {
    const BEGIN: u64 = 32 << 20;
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{app: {{{}}}}}", sleeping("")));
    stack.wharf(&["up", "-d"]).ok();
    std::fs::create_dir(stack.path("d")).expect("directory");
    stack.write("d/zz", "last");
    let mut log = std::fs::File::create(stack.path("d/log")).expect("file");
    // No holes: the archive has them all.
    log.write_all(&vec![b'l'; BEGIN as usize]).expect("content");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let more = injection();
            // Until the copies are made, and no more than the disk has to bear.
            for _ in 0..100_000 {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                log.write_all(&more).expect("more");
                std::thread::yield_now();
            }
        });
        let copies: Vec<_> = (0..3).map(|n| stack.wharf(&["cp", "d", &format!("app:/d{n}")])).collect();
        done.store(true, Ordering::Relaxed);
        copies.into_iter().for_each(|copy| drop(copy.ok()));
    });
    assert!(std::fs::metadata(stack.path("d/log")).expect("file").len() > BEGIN, "nothing was appended");
    assert_eq!(stack.sh("app", "cd / && find d? | sort | tr '\\n' ' '"), "d0 d0/log d0/zz d1 d1/log d1/zz d2 d2/log d2/zz");
    assert_eq!(stack.sh("app", "find / -xdev -name injected; cat d?/zz"), "lastlastlast");
    for size in stack.sh("app", "stat -c %s d?/log").lines() {
        assert!(size.parse::<u64>().expect("a size") >= BEGIN, "{size}");
    }
}

#[test]
fn names_and_attributes_of_any_bytes_go_through_build_commit_save_and_load() {
    let stack = Stack::new("nothing");
    std::fs::create_dir(stack.path("context")).expect("directory");
    let odd = |name: &[u8]| OsStr::from_bytes(name).to_owned();
    let kept = odd(b"kept\xe9");
    for name in [&kept, &odd(b"\xe9t\xe9.txt"), &odd(b"tool")] {
        std::fs::write(stack.path("context").join(name), "x").expect("file");
    }
    std::os::unix::fs::symlink("a//./b", stack.path("context/link")).expect("link");
    std::fs::hard_link(stack.path("context/tool"), stack.path("context/same")).expect("link");
    xattr::set(stack.path("context/tool"), "security.capability", &CAPABILITY).expect("setcap");
    stack.write("context/Dockerfile", "FROM busybox:local\nCOPY . /w/\n");
    stack.wharf(&["image", "build", "-t", "any:1", "context"]).ok();
    stack.wharf(&["container", "run", "-d", "--name", "one", "any:1", "sleep", "1000"]).ok();
    stack.wharf(&["container", "cp", "context/tool", "one:/bin/tool"]).ok();
    assert_eq!(capability(&root_of(&stack, "one").join("bin/tool")).as_deref(), Some(&CAPABILITY[..]));
    stack.wharf(&["container", "exec", "one", "sh", "-c", "rm /w/*.txt /etc/group"]).ok();
    stack.wharf(&["container", "commit", "one", "any:2"]).ok();
    stack.wharf(&["container", "cp", "one:/bin/tool", "back"]).ok();
    // Files of several names and FIFOs arrive as what they are, and where they are to.
    nix::unistd::mkfifo(&stack.path("context/fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("fifo");
    stack.wharf(&["container", "cp", stack.path("context").to_str().expect("path"), "one:/copied"]).ok();
    let script = "cd /copied && stat -c %h tool same && stat -c %F fifo && ls | wc -l && ls /context";
    let seen = stack.wharf(&["container", "exec", "one", "sh", "-c", script]);
    assert_eq!(seen.stdout, "2\n2\nfifo\n7\n", "{seen:?}");
    std::fs::remove_file(stack.path("context/fifo")).expect("fifo");
    assert_eq!(capability(&stack.path("back")).as_deref(), Some(&CAPABILITY[..]));
    stack.wharf(&["image", "save", "-o", "any.tar", "any:2"]).ok();
    stack.wharf(&["container", "rm", "-f", "one"]).ok();

    // Where it was made nothing is read back: another engine has the layers from the archive alone.
    let other = Stack::bare("nothing");
    other.wharf(&["image", "load", "-i", stack.path("any.tar").to_str().expect("path")]).ok();
    other.wharf(&["container", "run", "-d", "--name", "two", "any:2", "sleep", "1000"]).ok();
    let root = root_of(&other, "two");
    assert_eq!(capability(&root.join("bin/tool")).as_deref(), Some(&CAPABILITY[..]));
    assert_eq!(root.join("w/link").read_link().expect("link"), Path::new("a//./b"));
    let mut names: Vec<_> =
        std::fs::read_dir(root.join("w")).expect("directory").map(|entry| entry.expect("entry").file_name()).collect();
    names.sort();
    assert_eq!(names, [odd(b"Dockerfile"), kept, odd(b"link"), odd(b"same"), odd(b"tool")]);
    assert!(!root.join("etc/group").exists());
    other.wharf(&["container", "rm", "-f", "two"]).ok();
}

#[test]
fn sparse_files_of_archives_are_whole_in_a_container() {
    let stack = Stack::new("nothing");
    stack.wharf(&["container", "run", "-d", "--name", "one", "busybox:local", "sleep", "1000"]).ok();
    let script = "truncate -s 1M s && echo DATA >> s && truncate -s 3M s && sha256sum < s
        for f in 'gnu' 'posix --sparse-version=0.0' 'posix --sparse-version=0.1' 'posix --sparse-version=1.0'; do
            tar --format=$f -S -cf \"$f.tar\" s; done";
    let made = Command::new("sh").args(["-c", script]).current_dir(stack.path("")).output().expect("tar");
    let sum = String::from_utf8_lossy(&made.stdout).into_owned();
    for form in ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix --sparse-version=1.0"] {
        let archive = std::fs::File::open(stack.path(&format!("{form}.tar"))).expect("archive");
        let copied = stack.command(&["container", "cp", "-", "one:/tmp"]).stdin(archive).output().expect("cp");
        assert!(copied.status.success(), "{form}: {}", String::from_utf8_lossy(&copied.stderr));
        let script = "sha256sum < /tmp/s; ls /tmp; rm -r /tmp/*";
        assert_eq!(stack.wharf(&["container", "exec", "one", "sh", "-c", script]).ok(), format!("{sum}s\n"), "{form}");
    }
    stack.wharf(&["container", "rm", "-f", "one"]).ok();
}
