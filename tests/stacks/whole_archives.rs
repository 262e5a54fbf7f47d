//! Archives that are backups: whole, or an error.

use crate::support::Stack;
use std::io::Read;
use std::process::{Child, Stdio};

/// A container with 30 MB in 600 files, more than all buffers on the way hold.
const FILLS: &str = "mkdir /zz; n=0; while [ $n -lt 600 ]; do head -c 50000 /dev/zero > /zz/$n; n=$((n+1)); done";

/// Begins a command that writes an archive, and reads its beginning.
fn begun(stack: &Stack, args: &[&str]) -> Child {
    let mut writing = stack.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawned");
    let mut begin = [0; 4096];
    writing.stdout.as_mut().expect("pipe").read_exact(&mut begin).expect("the beginning");
    writing
}

/// Reads the rest; the command says what is missing.
fn is_not_whole(writing: Child, why: &str) {
    let output = writing.wait_with_output().expect("ended");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{} bytes: {said}", output.stdout.len());
    assert!(said.contains("the archive is not whole") && said.contains(why), "{said}");
}

#[test]
fn what_is_removed_meanwhile_is_no_archive() {
    let stack = Stack::new("nothing");
    let fill = || stack.wharf(&["container", "run", "--name", "filled", "busybox:local", "sh", "-c", FILLS]).ok();
    for args in [&["container", "export", "filled"][..], &["container", "cp", "filled:/zz", "-"]] {
        fill();
        let writing = begun(&stack, args);
        stack.wharf(&["container", "rm", "-f", "filled"]).ok();
        is_not_whole(writing, "filled was removed while its files were read");
    }
    fill();
    stack.wharf(&["container", "commit", "filled", "big:1"]).ok();
    stack.wharf(&["container", "rm", "-f", "filled"]).ok();
    let writing = begun(&stack, &["image", "save", "big:1"]);
    stack.wharf(&["image", "rm", "big:1"]).ok();
    is_not_whole(writing, "was removed while it was written");
}

/// A file whose name is that of a whiteout in archives is in the image's archive, which somebody else can load.
#[test]
fn what_is_committed_can_be_saved_and_loaded() {
    let stack = Stack::new("nothing");
    let script = "touch /.wh.x /kept; rm /etc/group";
    stack.wharf(&["container", "run", "--name", "one", "busybox:local", "sh", "-c", script]).ok();
    stack.wharf(&["container", "commit", "one", "odd:1"]).ok();
    let file = stack.path("odd.tar").display().to_string();
    stack.wharf(&["image", "save", "odd:1", "-o", &file]).ok();
    let other = Stack::new("nothing");
    other.wharf(&["image", "load", "-i", &file]).ok();
    for stack in [&stack, &other] {
        let listed =
            stack.wharf(&["container", "run", "--rm", "odd:1", "sh", "-c", "ls /kept /etc/group /etc/passwd 2>/dev/null"]);
        assert_eq!(listed.stdout, "/etc/passwd\n/kept\n", "{listed:?}");
    }
    stack.wharf(&["container", "rm", "one"]).ok();
}
