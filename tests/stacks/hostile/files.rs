//! Hostile files: what the engine reads, writes and removes of images, archives and build contexts.

use crate::sources::{Server, git};
use crate::support::{Ran, Stack, eventually};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the engine may have in memory at its worst, in KiB.
const MOST: u64 = 100 << 10;

/// The most memory that the engine has had so far, in KiB.
fn peak(stack: &Stack) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", stack.engine_pid().expect("an engine"))).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// The engine is the one that it was, answers, and never had more memory than it may.
fn unharmed(stack: &Stack, engine: i32) {
    stack.wharf(&["container", "ls"]).ok();
    assert_eq!(stack.engine_pid(), Some(engine), "the engine is another one");
    let peak = peak(stack);
    assert!(peak < MOST, "the engine had {peak} KiB");
}

/// A command with bytes on its standard input.
fn with_input(stack: &Stack, args: &[&str], input: &[u8]) -> Ran {
    let mut command = stack.command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("wharf runs");
    let (mut stdin, input) = (child.stdin.take().expect("stdin"), input.to_vec());
    // The other end may have had enough.
    let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("output");
    writing.join().expect("writer");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn header(kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header
}

/// A context as an archive: files, and symlinks with their targets.
fn context(files: &[(&str, &str)], links: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        tar.append_data(&mut header(tar::EntryType::Regular, text.len() as u64), name, text.as_bytes()).expect("file");
    }
    for (name, target) in links {
        tar.append_link(&mut header(tar::EntryType::Symlink, 0), name, target).expect("link");
    }
    tar.into_inner().expect("tar")
}

/// What a context's own names lead to is the context's: not the host's files, no device, and nothing without an end.
#[test]
fn a_contexts_links_lead_to_nothing_of_the_host() {
    let stack = Stack::new("nothing");
    let engine = stack.engine_pid().expect("an engine");
    let secret = stack.path("secret-of-the-host");
    std::fs::write(&secret, "RUN top-secret\n").expect("write");
    let host = secret.to_str().expect("path");
    let up = format!("../../../../../../../../..{host}");
    let plain = "FROM busybox:local\nCOPY . /all\n";
    let shows_nothing = |ran: &Ran| assert!(!ran.stderr.contains("top-secret") && !ran.stdout.contains("top-secret"), "{ran:?}");
    for target in [host, &up, "/dev/zero", "/dev/tty", "/proc/kmsg"] {
        for (files, name, args) in [
            (vec![], "Dockerfile", vec!["image", "build", "-"]),
            (vec![("Dockerfile", plain)], ".dockerignore", vec!["image", "build", "-"]),
            (vec![("Dockerfile", plain)], "Dockerfile.dockerignore", vec!["image", "build", "-"]),
            (vec![("Dockerfile", plain)], "other", vec!["image", "build", "-f", "other", "-"]),
        ] {
            let ran = with_input(&stack, &args, &context(&files, &[(name, target)]));
            shows_nothing(&ran);
            // A pattern file that leads to nothing is as one that is not there; a Dockerfile has to be there.
            let fails = name == "Dockerfile" || name == "other";
            assert_eq!(ran.code, i32::from(fails), "{name} to {target}: {ran:?}");
        }
    }
    // A name of the host that is given for a context which is not the host's.
    let ran = with_input(&stack, &["image", "build", "-f", host, "-"], &context(&[("Dockerfile", plain)], &[]));
    shows_nothing(&ran);
    ran.fails(1, &["cannot be read"]);
    // Devices and FIFOs themselves, which an archive may hold.
    for kind in [tar::EntryType::Fifo, tar::EntryType::Char] {
        for name in ["Dockerfile", ".dockerignore"] {
            let mut tar = tar::Builder::new(context(&[("Dockerfile", plain)], &[]));
            tar.get_mut().truncate(1024);
            let mut zero = header(kind, 0);
            zero.set_device_major(1).expect("major");
            zero.set_device_minor(5).expect("minor");
            tar.append_data(&mut zero, name, std::io::empty()).expect("node");
            let archive = tar.into_inner().expect("tar");
            with_input(&stack, &["image", "build", "-"], &archive).fails(1, &["not a regular file"]);
        }
    }
    // Within the context a link leads on, as BuildKit has it.
    let ran = with_input(
        &stack,
        &["image", "build", "-t", "linked", "-"],
        &context(
            &[("d/real", plain), ("ignored", "x"), ("d/ignore", "ignored\n")],
            &[("Dockerfile", "d/real"), (".dockerignore", "/d/ignore")],
        ),
    );
    ran.ok();
    let listed = stack.wharf(&["container", "run", "--rm", "linked", "ls", "-a", "/all"]).ok();
    assert!(listed.contains("Dockerfile") && !listed.contains("ignored"), "{listed}");
    // Larger than a Dockerfile is.
    let large = format!("FROM busybox:local\n#{}\n", "x".repeat(5 << 20));
    with_input(&stack, &["image", "build", "-"], &context(&[("Dockerfile", &large)], &[])).fails(1, &["larger than"]);
    unharmed(&stack, engine);
}

/// The same for contexts that are directories and repositories.
#[test]
fn a_repositorys_links_lead_to_nothing_of_the_host() {
    let stack = Stack::new("nothing");
    let engine = stack.engine_pid().expect("an engine");
    let secret = stack.path("secret-of-the-host");
    std::fs::write(&secret, "RUN top-secret\n").expect("write");
    let server = Server::start(&stack.path("."));
    symlink(&secret, server.work.join("Dockerfile")).expect("link");
    git(&server.work, &["add", "."]);
    git(&server.work, &["commit", "-qm", "link"]);
    for args in [vec!["image", "build"], vec!["image", "build", "-f", secret.to_str().expect("path")]] {
        let ran = stack.wharf(&[args, vec![&server.url]].concat());
        assert!(!ran.stderr.contains("top-secret"), "{ran:?}");
        ran.fails(1, &["cannot be read"]);
    }
    // A directory, and another as a named context, in which somebody else has put the links.
    for (name, target) in [("Dockerfile", "/dev/zero"), (".dockerignore", "/dev/zero"), ("named/.dockerignore", "/dev/zero")] {
        let context = stack.path("context");
        std::fs::create_dir_all(context.join("named")).expect("directory");
        std::fs::write(context.join("Dockerfile"), "FROM busybox:local\nCOPY --from=named . /all\n").expect("write");
        let _ = std::fs::remove_file(context.join(name));
        symlink(target, context.join(name)).expect("link");
        let ran = stack.wharf(&["image", "build", "--build-context", "named=context/named", "context"]);
        assert_eq!(ran.code, i32::from(name == "Dockerfile"), "{name}: {ran:?}");
        std::fs::remove_dir_all(&context).expect("removed");
        // The builder himself may name any file of his.
        std::fs::create_dir(&context).expect("directory");
        std::fs::write(stack.path("Elsewhere"), "FROM busybox:local\n").expect("write");
        stack.wharf(&["image", "build", "-f", "Elsewhere", "context"]).ok();
        stack.wharf(&["image", "build", "-f", "context/../Elsewhere", "context"]).ok();
        std::fs::remove_dir_all(&context).expect("removed");
    }
    unharmed(&stack, engine);
}

/// What an image has in the place of /etc/passwd is not waited for, and no device is opened.
#[test]
fn nothing_waits_for_an_images_passwd() {
    let stack = Stack::new("nothing");
    let make = "FROM busybox:local AS a\nRUN rm /etc/passwd && mkfifo /etc/passwd\nFROM a\nCOPY --chown=app Dockerfile /x\n";
    stack.write("Dockerfile", make);
    stack.wharf(&["image", "build", "."]).fails(1, &["no user `app`"]);
    stack.wharf(&["container", "run", "-d", "--name", "odd", "busybox:local", "sleep", "1000"]).ok();
    for instead in ["mkfifo /etc/passwd", "mknod /etc/passwd c 1 5", "ln -s /proc/kmsg /etc/passwd", "mkdir /etc/passwd"] {
        stack.wharf(&["container", "exec", "odd", "sh", "-c", &format!("rm -rf /etc/passwd; {instead}")]).ok();
        stack.wharf(&["container", "cp", "-a", "Dockerfile", "odd:/x"]).ok();
        stack.wharf(&["container", "cp", "odd:/etc/passwd", "-"]);
    }
    stack.wharf(&["container", "rm", "-f", "odd"]).ok();
}

/// Memory file systems in the place of the data root: on a disk a test of twenty thousand directories is a test of its journal.
struct InMemory(std::path::PathBuf);

impl InMemory {
    fn at(place: &Path) -> Self {
        std::fs::create_dir_all(place).expect("directory");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1g", "wharf-test-disk"]).arg(place).status();
        assert!(mounted.expect("mount").success());
        InMemory(place.to_path_buf())
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A tree that is deeper than a path is long: of a container, of a step, of an archive. It goes, and the engine stays.
#[test]
fn depth_does_no_harm() {
    let stack = Stack::bare("nothing");
    let _memory = InMemory::at(&stack.data_root());
    stack.import_busybox();
    stack.compile("deep");
    let engine = stack.engine_pid().expect("an engine");
    stack.write("compose.yaml", "services: {app: {image: 'busybox:local', command: /deep 20000, volumes: ['./deep:/deep:ro']}}");
    stack.wharf(&["up"]).ok();
    // What looks through it does not get to the end, and does not say that it did.
    stack.wharf(&["container", "export", "-o", "/dev/null", &format!("{}-app-1", stack.project)]).fails(1, &["too long"]);
    stack.wharf(&["container", "diff", &format!("{}-app-1", stack.project)]).fails(1, &["too long"]);
    stack.wharf(&["down"]).ok();
    unharmed(&stack, engine);
    stack.write("Dockerfile", "FROM busybox:local\nCOPY deep /deep\nRUN /deep 20000\n");
    stack.wharf(&["image", "build", "."]).fails(1, &["too long"]);
    unharmed(&stack, engine);
    // An archive gets there by symlinks, and then puts a file in the place of it all.
    let mut tar = tar::Builder::new(Vec::new());
    let levels = "d/".repeat(1000);
    let mut top = String::new();
    for n in 0..20 {
        let deepest = format!("{top}{levels}");
        tar.append_data(&mut header(tar::EntryType::Directory, 0), &deepest, std::io::empty()).expect("directory");
        // A link at the root to where the deepest is: each stands for all before it.
        tar.append_link(&mut header(tar::EntryType::Symlink, 0), format!("l{n}"), deepest.trim_end_matches('/')).expect("link");
        top = format!("l{n}/");
    }
    tar.append_data(&mut header(tar::EntryType::Regular, 0), "d", std::io::empty()).expect("file");
    std::fs::write(stack.path("deep.tar"), tar.into_inner().expect("tar")).expect("write");
    stack.wharf(&["image", "import", "deep.tar", "deep"]).ok();
    unharmed(&stack, engine);
    // What an engine has left that was killed meanwhile goes at the next start.
    let left = stack.data_root().join("containers/.removing-left/upper");
    std::fs::create_dir_all(&left).expect("directory");
    assert!(Command::new(stack.path("deep")).arg("20000").current_dir(&left).status().expect("deep").success());
    stack.wharf(&["engine", "stop"]).ok();
    stack.wharf(&["container", "ls"]).ok();
    eventually("the leftover is gone", 20, || !stack.data_root().join("containers/.removing-left").exists());
}

/// Headers of an archive that would all be held in memory: of a few kilobytes that unpack to any number of megabytes.
#[test]
fn an_archives_headers_are_bounded() {
    let stack = Stack::new("nothing");
    let engine = stack.engine_pid().expect("an engine");
    let write = |name: &str, fill: &dyn Fn(&mut dyn Write)| {
        let file = std::fs::File::create(stack.path(name)).expect("file");
        let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        fill(&mut packed);
        packed.finish().expect("gzip");
    };
    let raw = |kind: u8, size: u64, name: &str| {
        let mut header = header(tar::EntryType::new(kind), size);
        header.set_path(name).expect("name");
        header.set_cksum();
        header
    };
    const SIZE: u64 = 24 << 20;
    let filled = |out: &mut dyn Write, header: &tar::Header, first: &[u8]| {
        out.write_all(header.as_bytes()).expect("header");
        out.write_all(first).expect("data");
        std::io::copy(&mut std::io::repeat(b'a').take(SIZE - first.len() as u64), out).expect("data");
    };
    for (name, kind) in [("longname", b'L'), ("longlink", b'K'), ("pax", b'x'), ("many", b'x')] {
        write(name, &|out| {
            let record = format!("{SIZE} SCHILY.xattr.user.x=");
            filled(out, &raw(kind, SIZE, "h"), if kind == b'x' { record.as_bytes() } else { b"" });
            out.write_all(raw(b'0', 0, "file").as_bytes()).expect("file");
        });
        stack.wharf(&["image", "import", name, "bomb"]).fails(1, &["headers of one entry"]);
    }
    // Records by a header of V7, which knew none: Go, and so Docker, takes them for records all the same.
    write("root", &|out| {
        let mut header = tar::Header::new_old();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_path("./").expect("name");
        header.set_size(SIZE);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        filled(out, &header, b"");
    });
    stack.wharf(&["image", "import", "root", "bomb"]).fails(1, &["headers of one entry"]);
    // The map of a sparse file, and one that has no end.
    write("map", &|out| {
        let mut header = raw(b'S', 0, "sparse");
        header.as_gnu_mut().expect("gnu").set_is_extended(true);
        header.set_cksum();
        out.write_all(header.as_bytes()).expect("header");
        let mut more = tar::GnuExtSparseHeader::new();
        more.isextended[0] = 1;
        for n in 0..SIZE / 512 {
            for (i, block) in more.sparse.iter_mut().enumerate() {
                let at = format!("{:011o}", n * 21 + i as u64 + 1);
                block.offset[..11].copy_from_slice(at.as_bytes());
                block.numbytes[..11].copy_from_slice(b"00000000000");
            }
            out.write_all(more.as_bytes()).expect("map");
        }
    });
    stack.wharf(&["image", "import", "map", "bomb"]).fails(1, &["headers of one entry"]);
    write("hole", &|out| {
        let mut header = raw(b'S', 0, "sparse");
        let gnu = header.as_gnu_mut().expect("gnu");
        // A number without room in octal digits: 2^60.
        gnu.realsize = [0x80, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0];
        gnu.sparse[0].offset = gnu.realsize;
        gnu.sparse[0].numbytes[..11].copy_from_slice(b"00000000000");
        header.set_cksum();
        out.write_all(header.as_bytes()).expect("header");
    });
    stack.wharf(&["image", "import", "hole", "bomb"]).fails(1, &["sparse files"]);
    unharmed(&stack, engine);
    // Directories whose times are to be set when all is there.
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let above = format!("{}/", "n".repeat(250)).repeat(14);
    for n in 0..30_000 {
        let name = format!("{above}{n}");
        tar.append_data(&mut header(tar::EntryType::Directory, 0), name, std::io::empty()).expect("directory");
    }
    let packed = tar.into_inner().expect("tar").finish().expect("gzip");
    assert!(packed.len() < 4 << 20, "{}", packed.len());
    std::fs::write(stack.path("names"), packed).expect("write");
    stack.wharf(&["image", "import", "names", "names"]).ok();
    unharmed(&stack, engine);
}

/// A Dockerfile of some lines that would grow, or run, without end.
#[test]
fn a_dockerfile_has_its_bounds() {
    let stack = Stack::new("nothing");
    let engine = stack.engine_pid().expect("an engine");
    // Hundreds of stages, each on the one before.
    let mut text = "FROM busybox:local AS s0\n".to_string();
    (1..300).for_each(|n| text.push_str(&format!("FROM s{} AS s{n}\n", n - 1)));
    stack.write("Dockerfile", &text);
    stack.wharf(&["image", "build", "."]).ok();
    let mut text = "FROM busybox:local AS s0\nENV A=1\n".to_string();
    (1..30).for_each(|n| text.push_str(&format!("FROM busybox:local AS s{n}\nCOPY --from=s{} /etc/passwd /p\n", n - 1)));
    stack.write("Dockerfile", &text);
    stack.wharf(&["image", "build", "."]).ok();
    unharmed(&stack, engine);
    let mut text = format!("FROM busybox:local\nARG V0={}\n", "v".repeat(1000));
    (1..20).for_each(|n| text.push_str(&format!("ARG V{n}={}\n", format!("$V{}", n - 1).repeat(10))));
    stack.write("Dockerfile", &text);
    stack.wharf(&["image", "build", "."]).fails(1, &["Dockerfile:6", "bytes together"]);
    let many: String = (0..100).map(|n| format!("ENV W{n}=$V\n")).collect();
    stack.write("Dockerfile", &format!("FROM busybox:local\nARG V={}\n{many}", "v".repeat(900_000)));
    stack.wharf(&["image", "build", "."]).fails(1, &["bytes together"]);
    unharmed(&stack, engine);
    stack.write("Dockerfile", "FROM busybox:local\nCOPY . /all\n");
    stack.write(".dockerignore", &format!("{}b\n{}\n", "*a".repeat(100), "**/*x".repeat(50)));
    stack.write(&"a".repeat(200), "");
    stack.wharf(&["image", "build", "."]).ok();
    stack.write("Dockerfile", "FROM busybox:local\nRUN head -c 120000000 /dev/zero | tr '\\0' a\n");
    let built = stack.wharf(&["image", "build", "--progress", "plain", "."]);
    assert!(built.code == 0 && built.stderr.lines().all(|line| line.len() < 50_000), "{}", built.code);
    unharmed(&stack, engine);
}

/// What ADD takes from a URL goes to the disk as it comes.
#[test]
fn what_is_fetched_is_not_held_in_memory() {
    const SIZE: usize = 150 << 20;
    let stack = Stack::new("nothing");
    let engine = stack.engine_pid().expect("an engine");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
    let port = listener.local_addr().expect("address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes());
            let _ = std::io::copy(&mut std::io::repeat(0).take(SIZE as u64), &mut stream);
        }
    });
    stack.write(
        "Dockerfile",
        &format!("FROM busybox:local\nADD http://127.0.0.1:{port}/large /large\nRUN stat -c %s:%a /large > /size\n"),
    );
    stack.wharf(&["image", "build", "-t", "large", "."]).ok();
    assert_eq!(stack.wharf(&["container", "run", "--rm", "large", "cat", "/size"]).ok().trim(), format!("{SIZE}:600"));
    unharmed(&stack, engine);
    for url in [format!("http://127.0.0.1:{port}/a/.."), format!("http://127.0.0.1:{port}/%2e%2e/..?x")] {
        stack.write("Dockerfile", &format!("FROM busybox:local\nADD {url} /large\n"));
        stack.wharf(&["image", "build", "."]).fails(1, &["cannot be a file's name"]);
    }
}

/// Names of files, by the thousand and as long as a path may be: of a context, of a layer, of what a container has changed.
#[test]
fn names_of_files_are_not_held_in_memory() {
    const FILES: usize = 8_000;
    let stack = Stack::new("nothing");
    let engine = stack.engine_pid().expect("an engine");
    let mut deep = stack.path("context/d");
    (0..14).for_each(|_| deep.push("n".repeat(250)));
    std::fs::create_dir_all(&deep).expect("directories");
    (0..FILES).for_each(|n| drop(std::fs::File::create(deep.join(n.to_string())).expect("file")));
    stack.write("context/Dockerfile", "FROM busybox:local\nCOPY d /d\nRUN --mount=type=bind,source=d,target=/m true\n");
    stack.wharf(&["image", "build", "-t", "many:local", "context"]).ok();
    unharmed(&stack, engine);
    stack.write("compose.yaml", "services: {app: {image: 'many:local', command: cp -al /d /e}}");
    stack.wharf(&["up"]).ok();
    let name = format!("{}-app-1", stack.project);
    stack.wharf(&["container", "diff", &name]).fails(1, &["has changed more than", "longer than 16 MiB", "container export"]);
    unharmed(&stack, engine);
    stack.wharf(&["container", "export", "-o", "/dev/null", &name]).ok();
    stack.wharf(&["container", "commit", &name, "committed:local"]).ok();
    unharmed(&stack, engine);
    println!("names of files: VmHWM {} KiB", peak(&stack));
}

/// What images and archives say is shown on a terminal, not obeyed by it.
#[test]
fn a_message_does_nothing_to_the_terminal() {
    let stack = Stack::new("nothing");
    let evil = "x\u{1b}[2J\u{7}\u{9b}31m\u{202e}\nLoaded image: forged";
    let mut archives = Vec::new();
    for (config, layer) in [(evil, "l.tar"), ("c.json", evil)] {
        let manifest = serde_json::json!([{"Config": config, "RepoTags": ["a:b"], "Layers": [layer]}]).to_string();
        let config = serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [
            format!("sha256:{}", "0".repeat(64))]}})
        .to_string();
        archives.push(context(&[("manifest.json", &manifest), ("c.json", &config)], &[]));
    }
    for archive in archives {
        let ran = with_input(&stack, &["image", "load"], &archive);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code == 1 && said.contains("forged"), "{said}");
        assert!(!said.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}'), "{said:?}");
        assert!(!said.lines().any(|line| line.starts_with("Loaded")), "{said}");
    }
    for option in ["--user", "--entrypoint"] {
        let ran = stack.wharf(&["container", "run", "--rm", option, evil, "busybox:local"]);
        assert!(ran.code > 100 && ran.stderr.contains("\\u{1b}[2J"), "{ran:?}");
        assert!(!ran.stderr.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}'), "{ran:?}");
        assert!(!ran.stderr.lines().any(|line| line.starts_with("Loaded")), "{ran:?}");
    }
}

/// A label of megabytes would be in the record of each container and in each list.
#[test]
fn what_containers_inherit_of_an_image_is_bounded() {
    let stack = Stack::new("nothing");
    let label = |bytes: usize| {
        stack.write("Dockerfile", &format!("FROM busybox:local\nLABEL large={}\n", "x".repeat(bytes)));
        stack.wharf(&["image", "build", "-t", "labels:local", "."]).ok();
        stack.wharf(&["container", "run", "--rm", "labels:local", "true"])
    };
    label(200 << 10).ok();
    label(300 << 10).fails(125, &["labels and variables of the image", "262144", "LABEL name="]);
}

/// An image is made of a container that swaps directories for symlinks meanwhile, and is not paused: nothing of the host is in it.
#[test]
fn a_commit_follows_no_renamed_path() {
    let stack = Stack::new("nothing");
    let outside = stack.path("outside");
    std::fs::create_dir_all(outside.join("deep")).expect("directory");
    std::fs::write(outside.join("deep/file"), "of the host").expect("write");
    let path = outside.display();
    let swap = format!(
        "mkdir -p /d/real/deep; echo own > /d/real/deep/file; ln -s {path} /d/link; for n in $(seq 200); do echo $n > /d/real/deep/$n; done; \
         while :; do mv /d/real /d/x; mv /d/link /d/real; mv /d/real /d/link; mv /d/x /d/real; done"
    );
    stack.wharf(&["container", "run", "-d", "--name", "app", "--stop-signal", "KILL", "busybox:local", "sh", "-c", &swap]).ok();
    eventually("it has begun", 10, || stack.wharf(&["container", "exec", "app", "test", "-e", "/d/real/deep/200"]).code == 0);
    for round in 0..6 {
        let (code, answer) = stack.api("POST", &format!("/commit?container=app&pause=0&repo=c{round}"), None);
        assert_eq!(code, 201, "{answer}");
        let found = stack.wharf(&["container", "run", "--rm", &format!("c{round}"), "sh", "-c", "grep -rh host /d; true"]).ok();
        assert_eq!(found, "", "round {round}");
    }
    stack.wharf(&["container", "rm", "-f", "app"]).ok();
}
