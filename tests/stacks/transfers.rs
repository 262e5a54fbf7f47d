//! What goes into containers, images and directories and out of them, as Docker's clients and builds write it.

use crate::support::{Ran, Stack, eventually, sleeping};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// A file of 4096 bytes that cannot be read: EINVAL.
const UNREADABLE: &str = "/sys/class/net/lo/speed";

/// An archive with a file `f` in it, compressed by `xz -9`.
const XZ: &str = "fd377a585a000004e6d6b446020021011c00000010cf58cce027ff00655d00330033501868898301dce26e47675026d93d3db9f134cbd8aa6cc4171bf0\
                  b7e809ce7dee271be263c696090169e4c3a16626ee85fe75e7c8ce5367722ff5c8c0dd70e850e6d1d30edc3df5afaef86af8ad4cc9f6dff9868f66394ba1\
                  71670e5f1d6515020000000000b59932d0cd21756400018101805000009ba23caab1c467fb020000000004595a";

fn xz() -> Vec<u8> {
    XZ.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).expect("text"), 16).expect("hex")).collect()
}

/// An archive with a file in it.
fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    builder.append_data(&mut header, name, content).expect("entry");
    builder.into_inner().expect("archive")
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).expect("bzip2");
    encoder.finish().expect("bzip2")
}

/// Runs a command with bytes on its standard input.
fn fed(stack: &Stack, args: &[&str], input: &[u8]) -> Ran {
    let mut child =
        stack.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("wharf");
    // Who refuses it does not read it to its end.
    let _ = child.stdin.take().expect("stdin").write_all(input);
    let output = child.wait_with_output().expect("an end");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .expect("directory")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("name"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_that_cannot_be_read_ends_a_copy_with_its_name() {
    let stack = Stack::new("nothing");
    fs::create_dir(stack.path("d")).expect("directory");
    for name in ["a", "b", "c1", "c2", "z"] {
        stack.write(&format!("d/{name}"), name);
    }
    let volume = format!("{UNREADABLE}:/d/b");
    let run = ["container", "run", "-d", "--name", "a", "-v", "./d:/d", "-v", &volume, "busybox:local", "sleep", "1000"];
    stack.wharf(&run).ok();
    stack.wharf(&["container", "cp", "a:/d", "out"]).fails(1, &["reading d/b: Invalid argument"]);
    assert!(
        !stack.path("out/c1").exists() || fs::read(stack.path("out/b")).is_err(),
        "nothing is taken for the content of another"
    );
    stack.wharf(&["container", "cp", "a:/d", "-"]).fails(1, &["reading d/b: Invalid argument"]);
    // Into a container: the mount is the client's alone.
    let script = format!("mount --bind {UNREADABLE} d/b && exec \"$0\" \"$@\"");
    let client = stack.command(&["container", "cp", "d", "a:/in"]);
    let mut alone = Command::new("unshare");
    alone.args(["-m", "sh", "-c", &script]).arg(client.get_program()).args(client.get_args());
    alone.current_dir(stack.path("")).envs(client.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let refused = alone.output().expect("unshare");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("reading in/b: Invalid argument"), "{said}");
    stack.wharf(&["container", "exec", "a", "test", "-e", "/in/c1"]).fails(1, &[]);
    stack.wharf(&["container", "rm", "-f", "a"]).ok();
}

#[test]
fn an_archive_goes_to_every_container_of_a_service() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{w: {{{}}}}}", sleeping("scale: 3")));
    stack.wharf(&["up", "-d"]).ok();
    let content = vec![b'x'; 3 << 20];
    let plain = archive("big", &content);
    // A window of 128 MiB: the engine has memory for one of that size at a time.
    let mut large = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("zstd");
    large.set_parameter(zstd::zstd_safe::CParameter::WindowLog(27)).expect("a window");
    large.write_all(&archive("large", &content)).expect("zstd");
    for (bytes, name) in [(plain.clone(), "big"), (large.finish().expect("zstd"), "large")] {
        fed(&stack, &["cp", "-", "w:/tmp"], &bytes).ok();
        for index in ["1", "2", "3"] {
            let seen = stack.wharf(&["exec", "-T", "--index", index, "w", "stat", "-c", "%s", &format!("/tmp/{name}")]).ok();
            assert_eq!(seen.trim(), content.len().to_string(), "{name} {index}");
        }
    }
    fed(&stack, &["cp", "--index", "2", "-", "w:/var"], &xz()).ok();
    stack.wharf(&["exec", "-T", "--index", "1", "w", "test", "-e", "/var/f"]).fails(1, &[]);
    assert_eq!(stack.wharf(&["exec", "-T", "--index", "2", "w", "cat", "/var/f"]).ok(), "of xz\n");
    // One that refuses it is told, and the others have it.
    stack.wharf(&["exec", "-T", "--index", "2", "w", "mkdir", "/tmp/one"]).ok();
    let refused = fed(&stack, &["cp", "-", "w:/tmp"], &archive("one", &content));
    refused.fails(1, &["there is a directory of that name"]);
    for index in ["1", "3"] {
        stack.wharf(&["exec", "-T", "--index", index, "w", "test", "-f", "/tmp/one"]).ok();
    }
    fed(&stack, &["cp", "-", "w:/tmp"], &plain[..plain.len() / 2]).fails(1, &["ends within an entry"]);
    fed(&stack, &["cp", "-", "w:/none"], &plain).fails(1, &["/none in the container is not a directory"]);
    fed(&stack, &["cp", "-", "w:/tmp"], &bzip2(&plain)[..60]).fails(1, &["reading the archive on standard input"]);
}

#[test]
fn archives_come_with_any_of_dockers_compressions() {
    let stack = Stack::new("nothing");
    stack.wharf(&["container", "run", "-d", "--name", "a", "busybox:local", "sleep", "1000"]).ok();
    for (bytes, name, content) in [(xz(), "f", "of xz\n"), (bzip2(&archive("g", b"of bzip2\n")), "g", "of bzip2\n")] {
        fed(&stack, &["container", "cp", "-", "a:/tmp"], &bytes).ok();
        assert_eq!(stack.wharf(&["container", "exec", "a", "cat", &format!("/tmp/{name}")]).ok(), content);
        fed(&stack, &["image", "import", "-", &format!("imported:{name}")], &bytes).ok();
        let dockerfile = format!("FROM imported:{name}\n");
        stack.write("Dockerfile", &dockerfile);
        stack.wharf(&["image", "build", "-o", name, "."]).ok();
        assert_eq!(fs::read_to_string(stack.path(name).join(name)).expect("file"), content);
    }
    stack.wharf(&["image", "save", "-o", "saved.tar", "imported:f"]).ok();
    let saved = bzip2(&fs::read(stack.path("saved.tar")).expect("archive"));
    stack.wharf(&["image", "rm", "imported:f"]).ok();
    assert!(fed(&stack, &["image", "load"], &saved).ok().contains("imported:f"));
    let cut = fed(&stack, &["container", "cp", "-", "a:/tmp"], &xz()[..100]);
    assert_eq!(cut.code, 1, "{cut:?}");
    stack.wharf(&["container", "rm", "-f", "a"]).ok();
}

/// Answers every request with the same bytes, until the test has ended.
fn server(content: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let port = listener.local_addr().expect("address").port();
    std::thread::spawn(move || {
        while let Ok((mut connection, _)) = listener.accept() {
            let _ = connection.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
            let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(&content));
        }
    });
    port
}

#[test]
fn add_takes_apart_what_it_is_told_to() {
    let stack = Stack::new("nothing");
    let port = server(xz());
    let url = format!("http://127.0.0.1:{port}/t.tar.xz");
    fs::write(stack.path("l.tar"), archive("f", b"local\n")).expect("archive");
    let lines = [
        format!("ADD --unpack=true {url} /true/"),
        format!("ADD --unpack --link=False {url} /bare/"),
        format!("ADD --unpack=FALSE {url} /false/"),
        format!("ADD {url} /plain/"),
        "ADD l.tar /local/".to_string(),
        "ADD --unpack=False l.tar /kept/".to_string(),
    ];
    stack.write("Dockerfile", &format!("FROM scratch\n{}\n", lines.join("\n")));
    stack.wharf(&["image", "build", "-o", "out", "."]).ok();
    let of = |directory: &str| names(&stack.path("out").join(directory));
    assert_eq!((of("true"), of("bare"), of("local")), (vec!["f".into()], vec!["f".into()], vec!["f".into()]));
    assert_eq!((of("false"), of("plain")), (vec!["t.tar.xz".into()], vec!["t.tar.xz".into()]));
    assert_eq!(of("kept"), ["l.tar"]);
    assert_eq!(fs::read_to_string(stack.path("out/true/f")).expect("file"), "of xz\n");
    stack.write("Dockerfile", "FROM scratch\nADD --unpack=0 l.tar /x/\n");
    stack.wharf(&["image", "build", "."]).fails(1, &["--unpack is true or false, and not `0`"]);
}

#[test]
fn modes_are_copied_between_user_and_group() {
    let stack = Stack::new("nothing");
    fs::create_dir_all(stack.path("d/sub")).expect("directory");
    for (name, mode) in [("d/plain", 0o640), ("d/tool", 0o700)] {
        stack.write(name, name);
        fs::set_permissions(stack.path(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("mode");
    }
    let lines = "COPY --chmod=g=u d /g\nCOPY --chmod=u+rw-x,go=r d/tool /tool\nCOPY --chmod=u=rwX,go=rX d /x\n";
    stack.write("Dockerfile", &format!("FROM scratch\n{lines}"));
    stack.wharf(&["image", "build", "-o", "out", "."]).ok();
    let mode = |name: &str| fs::metadata(stack.path("out").join(name)).expect(name).mode() & 0o7777;
    assert_eq!((mode("g/plain"), mode("g/tool"), mode("tool")), (0o660, 0o770, 0o644));
    assert_eq!((mode("x/plain"), mode("x/tool"), mode("x/sub")), (0o644, 0o755, 0o755));
}

#[test]
fn a_slash_at_the_end_of_a_path_means_a_directory() {
    let stack = Stack::new("nothing");
    stack.wharf(&["container", "run", "-d", "--name", "a", "busybox:local", "sleep", "1000"]).ok();
    stack.wharf(&["container", "exec", "a", "sh", "-c", "mkdir -p /c/dir; echo in > /c/dir/f; echo cfile > /c/cfile"]).ok();
    stack.write("file", "here");
    let cp = |from: &str, to: &str| stack.wharf(&["container", "cp", "-q", from, to]);
    // A directory makes the directory that is missing.
    for (from, to) in [("a:/c/dir", "new/"), ("a:/c/dir/", "dots/."), ("a:/c/dir/.", "content/")] {
        cp(from, to).ok();
        assert_eq!(fs::read_to_string(stack.path(to).join("f")).expect(to), "in\n");
    }
    cp("a:/c/dir", "new/").ok();
    assert!(stack.path("new/dir/f").exists(), "into what is there");
    cp("a:/c/dir", "none/new/").fails(1, &["there is no directory none"]);
    cp("a:/c/dir", "file/").fails(1, &["there is no directory file/"]);
    for to in ["missing/", "missing/."] {
        cp("a:/c/cfile", to).fails(1, &[&format!("there is no directory {to}")]);
    }
    assert!(!stack.path("missing").exists());
    // A file is no directory.
    for path in ["/c/cfile/", "/c/cfile/."] {
        cp(&format!("a:{path}"), "n").fails(1, &[path, "is not a directory"]);
        cp(&format!("a:{path}"), "-").fails(1, &[path, "is not a directory"]);
        cp("file", &format!("a:{path}")).fails(1, &[path, "is not a directory"]);
        let (status, answer) = stack.api("GET", &format!("/containers/a/archive?path={path}"), None);
        assert_eq!(status, 400, "{answer}");
    }
    cp("file", "a:/c/missing/.").fails(1, &["there is no directory /c/missing/."]);
    cp("file", "a:/c/dir/.").ok();
    let seen = stack.wharf(&["container", "exec", "a", "sh", "-c", "cat /c/cfile /c/dir/file; ls /c"]).ok();
    assert_eq!(seen, "cfile\nherecfile\ndir\n");
    assert!(!stack.path("n").exists());
    let help = stack.wharf(&["container", "cp", "--help"]).ok();
    assert!(help.starts_with("Copy files between a container (NAME:PATH) and this machine"), "{help}");
    assert!(help.contains("NAME:PATH, or a path of this machine; `-` is a tar archive on standard input"), "{help}");
    stack.wharf(&["container", "rm", "-f", "a"]).ok();
}

#[test]
fn a_layout_is_written_as_a_directory() {
    let stack = Stack::new("nothing");
    stack.write("Dockerfile", "FROM busybox:local\nRUN echo made > /made\n");
    for (kind, name) in [("oci", "laid:1"), ("docker", "laid:2")] {
        let output = format!("type={kind},dest={kind}/layout,tar=false,name={name}");
        stack.wharf(&["image", "build", "-o", &output, "."]).ok();
        let layout = stack.path(kind).join("layout");
        assert!(layout.join("oci-layout").is_file() && layout.join("blobs/sha256").is_dir(), "{:?}", names(&layout));
        let packed = Command::new("tar").args(["-cf", "-", "."]).current_dir(&layout).output().expect("tar").stdout;
        assert!(fed(&stack, &["image", "load"], &packed).ok().contains(name));
        assert_eq!(stack.wharf(&["container", "run", "--rm", name, "cat", "/made"]).ok(), "made\n");
    }
    let piped = stack.command(&["image", "build", "-o", "type=tar", "."]).output().expect("build");
    assert!(piped.status.success());
    let mut found = tar::Archive::new(&piped.stdout[..]);
    let paths: Vec<_> =
        found.entries().expect("archive").map(|entry| entry.expect("entry").path().expect("path").into_owned()).collect();
    assert!(paths.iter().any(|path| path == Path::new("made")), "{paths:?}");
    stack.wharf(&["image", "build", "-o", "type=oci,tar=false", "."]).fails(125, &["tar=false needs a place"]);
    stack.wharf(&["image", "build", "-o", "type=local,dest=x,push=true", "."]).fails(125, &["type=local has no `push`"]);
}

#[test]
fn a_query_is_taken_as_clients_write_it() {
    let stack = Stack::new("nothing");
    stack.wharf(&["container", "run", "-d", "--name", "a", "busybox:local", "sleep", "1000"]).ok();
    let ask = |query: &str| {
        let mut socket = UnixStream::connect(stack.run_root().join("engine.sock")).expect("the engine");
        socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a time");
        write!(socket, "GET /containers/json?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("asked");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let head = head.lines().next().expect("a line").to_string();
        (head, serde_json::from_str::<Value>(body).unwrap_or(Value::Null))
    };
    for (status, number) in [("running", 1), ("exited", 0)] {
        let (head, list) = ask(&format!("filters={{\"status\":[\"{status}\"]}}"));
        assert_eq!(head, "HTTP/1.1 200 OK");
        assert_eq!(list.as_array().map(Vec::len), Some(number), "{list}");
    }
    let (head, list) = ask("filters={\"name\":[\"<none>\"]}");
    assert_eq!((head.as_str(), list), ("HTTP/1.1 200 OK", Value::Array(Vec::new())));
    // An upgraded connection has what it had.
    assert_eq!(stack.wharf(&["container", "exec", "a", "echo", "\"<>\""]).ok(), "\"<>\"\n");
    stack.wharf(&["container", "rm", "-f", "a"]).ok();
}

#[test]
fn files_of_a_log_that_a_reader_held_go_with_it() {
    let stack = Stack::new("nothing");
    let script = "i=0; while [ $i -lt 6000 ]; do i=$((i+1)); echo \"line $i of a log that is rotated\"; done";
    let limits = ["--log-opt", "max-size=20k", "--log-opt", "max-file=2"];
    let run =
        [&["container", "run", "-d", "--name", "a"], &limits[..], &["busybox:local", "sh", "-c", "sleep 2; eval \"$0\"", script]];
    stack.wharf(&run.concat()).ok();
    let id = stack.wharf(&["container", "inspect", "-f", "{{.Id}}", "a"]).ok();
    let directory = stack.data_root().join("containers").join(id.trim());
    let files = || names(&directory).into_iter().filter(|name| name == "log" || name.starts_with("log.")).count();
    // A reader that has taken nothing for a while keeps every file, and reads them to their end.
    let mut reader =
        stack.command(&["container", "logs", "-f", "a"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("logs");
    eventually("the container ends", 30, || {
        stack.wharf(&["container", "ls", "-aq", "--filter", "status=exited"]).stdout.len() > 5
    });
    assert!(files() > 2, "the reader holds {} files", files());
    let mut text = String::new();
    reader.stdout.take().expect("stdout").read_to_string(&mut text).expect("lines");
    assert!(reader.wait().expect("an end").success());
    assert!(text.ends_with("line 6000 of a log that is rotated\n"));
    eventually("the files beyond max-file go", 40, || files() == 2);
    assert!(stack.wharf(&["container", "logs", "-n", "1", "a"]).ok().starts_with("line 6000 "));
    // An engine that was killed meanwhile: its successor does it.
    File::create(directory.join("log.2")).expect("file");
    let engine = stack.engine_pid().expect("an engine");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine), nix::sys::signal::Signal::SIGKILL).expect("kill");
    stack.wharf(&["container", "ls"]);
    eventually("its successor removes them", 40, || files() == 2);
    stack.wharf(&["container", "rm", "a"]).ok();
}
