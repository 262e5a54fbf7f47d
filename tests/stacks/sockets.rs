//! Connections of Docker's clients that become a container's streams, and the logins that come with a request.

use crate::images::Registry;
use crate::support::{Stack, eventually, sleeping};
use base64::Engine as _;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

/// Sends a request's head and body, with an upgrade, and reads the answer's head.
fn hijacked(stack: &Stack, path: &str, body: Option<&Value>) -> (String, UnixStream) {
    let mut stream = UnixStream::connect(stack.run_root().join("engine.sock")).expect("the engine");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
    let text = body.map(Value::to_string).unwrap_or_default();
    write!(
        stream,
        "POST /v1.45{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    )
    .expect("asked");
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        let n = stream.read(&mut buffer).expect("a head");
        assert!(n > 0, "{}", String::from_utf8_lossy(&head));
        head.extend(&buffer[..n]);
    }
    let head = String::from_utf8(head).expect("nothing but the head comes in the first packets");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    (head, stream)
}

fn rest(mut stream: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the connection ends and is not reset");
    bytes
}

fn frame(stream: u8, text: &str) -> Vec<u8> {
    [&[stream, 0, 0, 0], &(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}

fn post(stack: &Stack, path: &str) -> (u16, Value) {
    stack.api("POST", &format!("/v1.45{path}"), None)
}

fn run(stack: &Stack, name: &str, body: Value) {
    let mut whole = json!({"Image": "busybox:local", "OpenStdin": true, "StdinOnce": true});
    whole.as_object_mut().expect("an object").extend(body.as_object().cloned().expect("an object"));
    let (status, answer) = stack.api("POST", &format!("/v1.45/containers/create?name={name}"), Some(&whole));
    assert_eq!(status, 201, "{answer}");
}

fn exec(stack: &Stack, body: Value) -> String {
    let (status, answer) = stack.api("POST", "/v1.45/containers/top/exec", Some(&body));
    assert_eq!(status, 201, "{answer}");
    answer["Id"].as_str().expect("an id").to_string()
}

#[test]
fn a_process_that_ends_before_its_input_does_loses_no_output() {
    let stack = Stack::new("nothing");
    run(&stack, "top", json!({"Cmd": ["sleep", "100"]}));
    assert_eq!(post(&stack, "/containers/top/start").0, 204);
    let flood = |stream: &UnixStream| {
        let mut input = stream.try_clone().expect("a copy");
        std::thread::spawn(move || {
            let chunk = [b'x'; 65536];
            // Until the other end is closed.
            while input.write_all(&chunk).is_ok() {}
        })
    };
    for _ in 0..3 {
        let id = exec(
            &stack,
            json!({"Cmd": ["sh", "-c", "head -c 3 >&2; echo done"], "AttachStdin": true, "AttachStdout": true, "AttachStderr": true}),
        );
        let (_, stream) = hijacked(&stack, &format!("/exec/{id}/start"), Some(&json!({})));
        let flooding = flood(&stream);
        let mut expected = [frame(2, "xxx"), frame(1, "done\n")].concat();
        let mut got = vec![0; expected.len()];
        (&stream).read_exact(&mut got).expect("the output");
        got.sort_unstable();
        expected.sort_unstable();
        assert_eq!(got, expected);
        assert_eq!((&stream).read(&mut [0]).expect("an end and no reset"), 0);
        drop(stream);
        drop(flooding);
    }
    run(&stack, "first", json!({"Cmd": ["head", "-n", "1"], "HostConfig": {"AutoRemove": true}}));
    let (_, mut stream) = hijacked(&stack, "/containers/first/attach?stream=1&stdin=1&stdout=1&stderr=1", None);
    assert_eq!(post(&stack, "/containers/first/start").0, 204);
    stream.write_all(b"line\n").expect("input");
    let flooding = flood(&stream);
    assert_eq!(rest(stream), frame(1, "line\n"));
    drop(flooding);
    assert_eq!(stack.api("DELETE", "/v1.45/containers/top?force=1", None).0, 204);
}

/// Each of several clients that have attached before the start has its input taken.
#[test]
fn everybody_who_has_attached_is_heard() {
    let stack = Stack::new("nothing");
    for round in 0..3 {
        let name = format!("heard{round}");
        run(&stack, &name, json!({"Cmd": ["head", "-n", "20"]}));
        let attach = format!("/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1");
        let mut clients: Vec<_> = (0..20).map(|_| hijacked(&stack, &attach, None).1).collect();
        assert_eq!(post(&stack, &format!("/containers/{name}/start")).0, 204);
        clients.iter_mut().for_each(|stream| stream.write_all(b"heard\n").expect("input"));
        let shown = rest(clients.remove(0));
        assert_eq!(String::from_utf8_lossy(&shown).matches("heard\n").count(), 20, "round {round}");
        assert_eq!(stack.api("DELETE", &format!("/v1.45/containers/{name}?force=1"), None).0, 204);
    }
}

#[test]
fn an_execs_streams_are_as_the_client_asks_for_them() {
    let stack = Stack::new("nothing");
    run(&stack, "top", json!({"Cmd": ["sleep", "100"]}));
    assert_eq!(post(&stack, "/containers/top/start").0, 204);
    let both = ["sh", "-c", "echo out; sleep 0.1; echo err >&2"];
    let cases = [
        (json!({"AttachStdout": true, "AttachStderr": true}), json!({}), [frame(1, "out\n"), frame(2, "err\n")].concat()),
        (json!({"AttachStdout": true}), json!({}), frame(1, "out\n")),
        (json!({"AttachStderr": true}), json!({}), frame(2, "err\n")),
        (json!({}), json!({}), Vec::new()),
        (json!({"AttachStdout": true, "AttachStderr": true}), json!({"Tty": true}), b"out\nerr\n".to_vec()),
        (json!({"AttachStdout": true, "Tty": true}), json!({"Tty": true}), b"out\r\nerr\r\n".to_vec()),
        (json!({"AttachStdout": true, "Tty": true}), json!({}), [frame(1, "out\r\n"), frame(1, "err\r\n")].concat()),
    ];
    for (mut create, start, expected) in cases {
        create["Cmd"] = json!(both);
        let id = exec(&stack, create.clone());
        let (head, stream) = hijacked(&stack, &format!("/exec/{id}/start"), Some(&start));
        assert_eq!(String::from_utf8_lossy(&rest(stream)), String::from_utf8_lossy(&expected), "{create} {start}");
        let raw = start["Tty"] == true;
        assert_eq!(head.contains("raw-stream"), raw, "{head}");
    }
    // The keys by which a client leaves a terminal. The process goes on.
    let shell = json!({"Cmd": ["sh", "-c", "read a; touch /$a; sleep 100"], "AttachStdin": true, "AttachStdout": true, "Tty": true, "DetachKeys": "ctrl-a,b"});
    let id = exec(&stack, shell);
    let (_, mut stream) = hijacked(&stack, &format!("/exec/{id}/start"), Some(&json!({"Tty": true})));
    stream.write_all(b"typed\n\x01b").expect("keys");
    rest(stream);
    let (_, known) = stack.api("GET", &format!("/v1.45/exec/{id}/json"), None);
    assert_eq!(known["Running"], true, "{known}");
    eventually("what was typed before has come", 10, || stack.wharf(&["container", "exec", "top", "ls", "/typed"]).code == 0);
    let wrong = exec(&stack, json!({"Cmd": ["true"], "Tty": true, "DetachKeys": "ctrl-ab"}));
    let (status, answer) = stack.api("POST", &format!("/v1.45/exec/{wrong}/start"), Some(&json!({"Tty": true})));
    assert_eq!(status, 400, "{answer}");
    assert_eq!(stack.api("DELETE", "/v1.45/containers/top?force=1", None).0, 204);
}

#[test]
fn a_client_attaches_before_each_start() {
    let stack = Stack::new("nothing");
    run(&stack, "again", json!({"Cmd": ["sh", "-c", "echo out; cat"]}));
    for _ in 0..2 {
        let (_, mut stream) = hijacked(&stack, "/containers/again/attach?stream=1&stdin=1&stdout=1&stderr=1", None);
        assert_eq!(post(&stack, "/containers/again/start").0, 204);
        stream.write_all(b"typed\n").expect("input");
        stream.shutdown(std::net::Shutdown::Write).expect("half-closed");
        assert_eq!(
            String::from_utf8_lossy(&rest(stream)),
            String::from_utf8_lossy(&[frame(1, "out\n"), frame(1, "typed\n")].concat())
        );
        eventually("it has ended", 10, || {
            stack.api("GET", "/v1.45/containers/again/json", None).1["State"]["Status"] == "exited"
        });
    }
    // What it has said comes after the head, never with it: some clients lose what they do not expect there.
    for _ in 0..20 {
        let (_, stream) = hijacked(&stack, "/containers/again/attach?logs=1&stdout=1", None);
        assert_eq!(rest(stream).len(), frame(1, "out\n").len() + frame(1, "typed\n").len());
    }
    run(&stack, "terminal", json!({"Cmd": ["sh", "-c", "read a; touch /$a; sleep 100"], "Tty": true}));
    let (_, mut stream) = hijacked(&stack, "/containers/terminal/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-x", None);
    assert_eq!(post(&stack, "/containers/terminal/start").0, 204);
    stream.write_all(b"typed\n\x18").expect("keys");
    rest(stream);
    eventually("what was typed has come", 10, || stack.wharf(&["container", "exec", "terminal", "ls", "/typed"]).code == 0);
    // One that is started again by its policy has ended all the same.
    run(&stack, "loop", json!({"Cmd": ["sh", "-c", "sleep 0.3; exit 3"], "HostConfig": {"RestartPolicy": {"Name": "always"}}}));
    assert_eq!(post(&stack, "/containers/loop/start").0, 204);
    let (_, answer) = post(&stack, "/containers/loop/wait");
    assert_eq!(answer["StatusCode"], 3, "{answer}");
    for name in ["again", "terminal", "loop"] {
        assert_eq!(stack.api("DELETE", &format!("/v1.45/containers/{name}?force=1"), None).0, 204);
    }
}

#[test]
fn images_of_containers_are_committed_and_untagged() {
    let stack = Stack::new("nothing");
    for n in 0..6 {
        run(&stack, "short", json!({"Cmd": ["touch", "/t"]}));
        assert_eq!(post(&stack, "/containers/short/start").0, 204);
        let body = json!({"Cmd": ["x"], "Labels": {"k": "v"}, "Env": ["Q=1"]});
        let (status, answer) = stack.api("POST", &format!("/v1.45/commit?container=short&repo=made&tag=t{n}"), Some(&body));
        assert_eq!(status, 201, "{answer}");
        assert_eq!(stack.api("DELETE", "/v1.45/containers/short?force=1", None).0, 204);
    }
    let (_, image) = stack.api("GET", "/v1.45/images/made:t1/json", None);
    let config = &image["Config"];
    assert_eq!((&config["Cmd"], &config["Labels"]["k"]), (&json!(["x"]), &json!("v")), "{config}");
    assert!(config["Env"].as_array().is_some_and(|env| env.contains(&json!("Q=1"))), "{config}");
    stack.wharf(&["image", "tag", "made:t1", "used:1"]).ok();
    stack.wharf(&["image", "rm", "made:t1"]).ok();
    let (_, answer) =
        stack.api("POST", "/v1.45/containers/create?name=user", Some(&json!({"Image": "used:1", "Cmd": ["sleep", "100"]})));
    assert!(answer["Id"].is_string(), "{answer}");
    assert_eq!(post(&stack, "/containers/user/start").0, 204);
    let (status, answer) = stack.api("DELETE", "/v1.45/images/used:1", None);
    assert_eq!((status, answer["message"].as_str().is_some_and(|m| m.contains("must force"))), (409, true), "{answer}");
    let id = stack.api("GET", "/v1.45/images/used:1/json", None).1["Id"].as_str().expect("an id").to_string();
    let (status, answer) = stack.api("DELETE", &format!("/v1.45/images/{id}?force=1"), None);
    assert_eq!((status, answer["message"].as_str().is_some_and(|m| m.contains("cannot be forced"))), (409, true), "{answer}");
    let (status, answer) = stack.api("DELETE", "/v1.45/images/used:1?force=1", None);
    assert_eq!((status, &answer), (200, &json!([{"Untagged": "used:1"}])));
    assert_eq!(stack.api("GET", &format!("/v1.45/images/{id}/json"), None).1["RepoTags"], json!([]));
    assert_eq!(stack.api("GET", "/v1.45/containers/user/json", None).1["State"]["Running"], true);
    assert_eq!(stack.api("DELETE", "/v1.45/containers/user?force=1", None).0, 204);
}

/// The logins of a request are its own: none of the engine's, none of another client's.
#[test]
fn a_request_has_the_login_that_comes_with_it() {
    let registry = Registry::with_users(&[("me", "secret")]);
    let stack = Stack::new("nothing");
    let host = format!("127.0.0.1:{}", registry.port);
    let image = format!("{host}/a/b");
    stack.wharf(&["image", "tag", "busybox:local", &format!("{image}:1")]).ok();
    stack.wharf(&["image", "tag", "busybox:local", &format!("{image}:2")]).ok();
    let ask = |method: &str, path: &str, login: Option<(&str, &str)>| {
        let mut command = Command::new("curl");
        command
            .args(["-s", "--max-time", "30", "-X", method, "-w", "\n%{http_code}", "--unix-socket"])
            .arg(stack.run_root().join("engine.sock"));
        if let Some((user, password)) = login {
            let text = json!({"username": user, "password": password, "serveraddress": host}).to_string();
            let text = base64::engine::general_purpose::URL_SAFE.encode(text);
            command.args(["-H", &format!("X-Registry-Auth: {text}")]);
        }
        let output = command.arg(format!("http://docker/v1.45{path}")).output().expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, status) = text.rsplit_once('\n').map(|(a, s)| (a.to_string(), s.to_string())).expect("an answer");
        (status, answer)
    };
    let (right, wrong) = (Some(("me", "secret")), Some(("me", "wrong")));
    let push = format!("/images/{image}/push?tag=1");
    let pull = format!("/images/create?fromImage={image}&tag=1");
    let look = format!("/distribution/{image}:1/json");
    for login in [None, wrong] {
        let (_, answer) = ask("POST", &push, login);
        assert!(answer.contains("unauthorized"), "{login:?}: {answer}");
    }
    // Every tag, where none is named.
    let (_, answer) = ask("POST", &format!("/images/{image}/push"), right);
    assert!(answer.contains("1: digest: sha256:") && answer.contains("2: digest: sha256:"), "{answer}");
    let (status, answer) = ask("POST", &pull, right);
    assert!(status == "200" && answer.contains("Digest: sha256:") && answer.contains("Status: "), "{answer}");
    for login in [None, wrong] {
        for (method, path) in [("POST", &pull), ("GET", &look)] {
            let (status, answer) = ask(method, path, login);
            assert!(status == "401" && answer.contains("unauthorized"), "{login:?} {path}: {status} {answer}");
        }
    }
    let (_, answer) = ask("GET", &look, right);
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["Platforms"][0]["os"], "linux", "{answer}");
    let body = json!({"username": "me", "password": "wrong", "serveraddress": host});
    let (status, answer) = stack.api("POST", "/v1.45/auth", Some(&body));
    assert_eq!(
        (status, answer["message"].as_str().is_some_and(|m| m.contains("unauthorized: incorrect username or password"))),
        (401, true),
        "{answer}"
    );
    for tag in ["1", "2"] {
        stack.wharf(&["image", "rm", &format!("{image}:{tag}")]).ok();
    }
    let (status, answer) = ask("POST", &format!("/images/create?fromImage={image}"), right);
    assert!(status == "200" && answer.contains(&format!("newer image for {image}:2")), "{answer}");
    let (status, _) = ask("POST", &format!("/images/create?fromImage={image}&tag=none"), right);
    assert_eq!(status, "404");
}

/// Containers outlive their engine: they are stopped when no engine runs as well.
#[test]
fn containers_are_stopped_where_no_engine_runs() {
    let stack = Stack::new("nothing");
    stack.wharf(&["container", "run", "-d", "--name", "left", "busybox:local", "sleep", "5003"]).ok();
    let pid = stack.pid("left");
    stack.wharf(&["engine", "stop"]).ok();
    assert!(stack.engine_pid().is_none());
    stack.wharf(&["engine", "stop", "--containers"]).ok();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it runs still");
    stack.wharf(&["container", "rm", "left"]).ok();
}

/// Whether the API answers on a socket.
fn answers(socket: &str) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let mut answer = String::new();
    let asked = stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n").and_then(|()| stream.read_to_string(&mut answer));
    asked.is_ok() && answer.ends_with("OK")
}

/// A container that asks for Docker's socket has the engine's, where the host has none, and keeps it over a restart and a crash.
#[test]
fn a_container_keeps_the_sockets_of_the_engine() {
    const DOCKERS: &str = "/var/run/docker.sock";
    let stack = Stack::new("nothing");
    let before = std::path::Path::new(DOCKERS).exists();
    let own = stack.run_root().join("engine.sock").display().to_string();
    let mut binds = vec![format!("{own}:/own.sock:ro")];
    binds.extend((!before).then(|| format!("{DOCKERS}:{DOCKERS}")));
    run(&stack, "holder", json!({"Cmd": ["sleep", "1000"], "HostConfig": {"Binds": binds}}));
    assert_eq!(post(&stack, "/containers/holder/start").0, 204);
    assert_eq!(std::path::Path::new(DOCKERS).exists(), before, "nothing is made on the host");
    if !before {
        let mount = json!([{"Type": "bind", "Source": DOCKERS, "Target": "/s"}]);
        run(&stack, "mount", json!({"Cmd": ["true"], "HostConfig": {"Mounts": mount}}));
        assert_eq!(stack.api("DELETE", "/v1.45/containers/mount", None).0, 204);
        // However it is written; Docker cleans the path by its text.
        for (n, spelt) in ["/run/../run/docker.sock", "/var/../var/run/./docker.sock", "//run//docker.sock/"].iter().enumerate() {
            let name = format!("spelt{n}");
            let look = json!(["sh", "-c", "test -S /s"]);
            run(&stack, &name, json!({"Cmd": look, "HostConfig": {"Binds": [format!("{spelt}:/s")]}}));
            assert_eq!(post(&stack, &format!("/containers/{name}/start")).0, 204);
            assert_eq!(post(&stack, &format!("/containers/{name}/wait")).1["StatusCode"], 0, "{spelt}");
            assert!(!std::path::Path::new(DOCKERS).exists(), "{spelt}: nothing is made on the host");
            assert_eq!(stack.api("DELETE", &format!("/v1.45/containers/{name}"), None).0, 204);
        }
    }
    let root = format!("/proc/{}/root", stack.pid("holder"));
    let mut sockets = vec![format!("{root}/own.sock")];
    sockets.extend((!before).then(|| format!("{root}{DOCKERS}")));
    let all_answer = || sockets.iter().all(|socket| answers(socket));
    assert!(all_answer());
    for _ in 0..2 {
        stack.wharf(&["engine", "stop"]).ok();
        stack.wharf(&["image", "ls"]).ok();
        eventually("after a restart", 20, all_answer);
    }
    let engine = stack.engine_pid().expect("an engine");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine), nix::sys::signal::Signal::SIGKILL).expect("killed");
    eventually("the next engine has given it its socket", 20, all_answer);
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", stack.pid("holder"))).expect("mounts");
    let of = |target: &str| mounts.lines().filter(|line| line.split(' ').nth(4) == Some(target)).collect::<Vec<_>>();
    assert_eq!(of("/own.sock").len(), 1, "{mounts}");
    assert!(of("/own.sock")[0].split(' ').nth(5).is_some_and(|options| options.starts_with("ro")), "{mounts}");
    assert_eq!(stack.api("DELETE", "/v1.45/containers/holder?force=1", None).0, 204);
}

#[test]
fn the_engine_listens_where_dockers_clients_look() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let stack = Stack::bare("none");
    let path = stack.path("docker.sock");
    let text = path.to_str().expect("a path");
    let start =
        || stack.command(&["engine", "--docker-socket", text]).stderr(std::process::Stdio::null()).spawn().expect("an engine");
    let end = |mut engine: std::process::Child| {
        let pid = nix::unistd::Pid::from_raw(engine.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("told to end");
        engine.wait().expect("it ends")
    };
    // What an engine that was killed has left is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket that nobody listens on"));
    let engine = start();
    eventually("it answers", 20, || answers(text));
    let groups = std::fs::read_to_string("/etc/group").expect("groups");
    let has_group = groups.lines().any(|line| line.starts_with("docker:"));
    let mode = std::fs::metadata(&path).expect("the socket").permissions().mode() & 0o777;
    assert_eq!(mode, if has_group { 0o660 } else { 0o600 });
    end(engine);
    assert!(!path.exists());
    // Another's is left alone, as is what is no socket.
    let other = std::os::unix::net::UnixListener::bind(&path).expect("another's");
    assert!(!start().wait().expect("refused").success());
    assert!(std::fs::metadata(&path).expect("still there").file_type().is_socket());
    drop(other);
    std::fs::remove_file(&path).expect("removed");
    stack.write("docker.sock", "a file");
    assert!(!start().wait().expect("refused").success());
    assert_eq!(std::fs::read_to_string(&path).expect("still there"), "a file");
}

/// BuildKit's API wants an upgrade.
#[test]
fn what_is_no_connection_of_buildkits_is_refused() {
    let stack = Stack::bare("none");
    stack.wharf(&["image", "ls"]).ok();
    for path in ["/v1.45/session", "/grpc"] {
        let (status, answer) = stack.api("POST", path, None);
        assert_eq!((status, answer["message"].as_str().is_some_and(|m| m.contains("h2c"))), (400, true), "{answer}");
    }
    let (status, answer) = stack.api("GET", "/v1.45/plugins/nosuch/json", None);
    assert_eq!((status, &answer["message"]), (404, &json!("plugin \"nosuch\" not found")));
}

/// The process that listens on a socket.
fn listener(path: &std::path::Path) -> Option<i32> {
    let peer = UnixStream::connect(path).ok()?;
    nix::sys::socket::getsockopt(&peer, nix::sys::socket::sockopt::PeerCredentials).ok().map(|credentials| credentials.pid())
}

/// Commands start engines in the moment in which none runs; the one that was asked for takes over all the same, by whatever path.
#[test]
fn an_engine_replaces_those_that_commands_start() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{web: {{{}}}}}\n", sleeping("")));
    stack.wharf(&["up", "-d"]).ok();
    let base = stack.run_root().parent().expect("a directory").to_path_buf();
    assert_eq!(stack.data_root().parent(), Some(base.as_path()));
    let roots = ["--data-root", "data", "--run-root", "run", "engine", "--replace"];
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let begun = std::time::Instant::now();
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(120) {
                    stack.wharf(&["up", "-d"]);
                }
            });
        }
        for _ in 0..5 {
            let null = std::process::Stdio::null;
            let mut engine = stack.command(&roots).current_dir(&base).stdout(null()).stderr(null()).spawn().expect("an engine");
            let pid = engine.id() as i32;
            eventually("it is the engine", 20, || listener(&stack.run_root().join("engine.sock")) == Some(pid));
            assert!(engine.try_wait().expect("a state").is_none());
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGTERM).expect("told to end");
            engine.wait().expect("it ends");
        }
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(stack.state("web"), "running");
}

/// An engine that could not take the place of another leaves it there: looked at before that one ends.
#[test]
fn an_engine_that_cannot_run_replaces_none() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{web: {{{}}}}}\n", sleeping("")));
    stack.wharf(&["up", "-d"]).ok();
    let engine = stack.engine_pid();
    let other = Stack::new("nothing");
    other.wharf(&["container", "ls"]).ok();
    let anothers = stack.path("anothers.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&anothers).expect("bound");
    stack.write("file", "");
    let data_root = other.data_root().display().to_string();
    for (global, option, why) in [
        (&[][..], stack.path("anothers.sock"), "somebody else listens on"),
        (&[], stack.path("file"), "is there and is no socket"),
        (&[], stack.path("missing/docker.sock"), "No such file or directory"),
        (&["--data-root", &data_root], stack.path("free.sock"), "is in use by the engine with process id"),
    ] {
        let option = option.display().to_string();
        let replacing = [global, &["engine", "--replace", "--docker-socket", &option]].concat();
        stack.wharf(&replacing).fails(1, &[why, "the engine that runs, if any, goes on"]);
        assert_eq!(stack.engine_pid(), engine, "{why}");
    }
    // Its own socket is no obstacle to the next.
    let own = stack.path("docker.sock");
    let mut engines = Vec::new();
    for _ in 0..3 {
        let mut next = stack.command(&["engine", "--replace", "--docker-socket"]);
        engines.push(next.arg(&own).stderr(std::process::Stdio::null()).spawn().expect("an engine"));
        let pid = engines.last().map(|next| next.id() as i32);
        eventually("it is the engine", 20, || listener(&stack.run_root().join("engine.sock")) == pid && listener(&own) == pid);
    }
    let last = nix::unistd::Pid::from_raw(engines[2].id() as i32);
    nix::sys::signal::kill(last, nix::sys::signal::SIGTERM).expect("told to end");
    engines.into_iter().for_each(|mut engine| assert!(engine.wait().expect("it ends").success()));
    assert_eq!(stack.state("web"), "running");
}

/// An engine that lends its socket to nobody says so, and makes no directory where Docker's socket would be.
#[test]
fn an_engine_may_keep_its_socket() {
    const DOCKERS: &str = "/var/run/docker.sock";
    assert!(!std::path::Path::new(DOCKERS).exists(), "the test is for a host without Docker");
    let stack = Stack::new("nothing");
    let file = |name: &str| {
        format!(
            "services:\n  {name}:\n    image: busybox:local\n    command: sleep 1000\n    volumes: [\"{DOCKERS}:{DOCKERS}:ro\"]\n"
        )
    };
    stack.write("compose.yaml", &file("lent"));
    let up = stack.wharf(&["up", "-d"]);
    assert_eq!((up.code, up.stderr.contains("lent: the socket of Docker that is mounted is wharf's own")), (0, true), "{up:?}");
    assert!(!stack.wharf(&["up", "-d"]).stderr.contains("wharf's own"), "it is said of a new container");
    let mut engine = stack
        .command(&["engine", "--replace", "--no-docker-socket"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("an engine");
    eventually("it answers", 20, || stack.wharf(&["ps", "-q"]).code == 0 && engine.try_wait().expect("a state").is_none());
    stack.write("other.yaml", &file("kept"));
    eventually("the engine in the foreground answers", 20, || {
        stack.wharf(&["-f", "other.yaml", "-p", "other", "up", "-d"]).stderr.contains("--no-docker-socket")
    });
    stack
        .wharf(&["-f", "other.yaml", "-p", "other", "up", "-d"])
        .fails(1, &["services.kept: there is no Docker on this host", DOCKERS]);
    assert_eq!(stack.wharf(&["-f", "other.yaml", "-p", "other", "ps", "-aq"]).ok(), "", "nothing was made");
    stack.write("other.yaml", &file("kept").replace(DOCKERS, "/run/../run/docker.sock"));
    stack.wharf(&["-f", "other.yaml", "-p", "other", "up", "-d"]).fails(1, &["services.kept: there is no Docker on this host"]);
    for host in [
        json!({"Binds": ["/var/../run/docker.sock:/s"]}),
        json!({"Binds": [format!("{DOCKERS}:/s")]}),
        json!({"Mounts": [{"Type": "bind", "Source": DOCKERS, "Target": "/s"}]}),
    ] {
        let body = json!({"Image": "busybox:local", "HostConfig": host});
        let (status, answer) = stack.api("POST", "/containers/create", Some(&body));
        assert_eq!(
            (status, answer["message"].as_str().is_some_and(|m| m.contains("--no-docker-socket"))),
            (400, true),
            "{answer}"
        );
    }
    assert!(!std::path::Path::new(DOCKERS).exists(), "nothing is made on the host");
    // One that has it already keeps running, and does not start again with it.
    assert_eq!(stack.state("lent"), "running");
    stack.wharf(&["restart", "-t", "0"]).fails(1, &["--no-docker-socket"]);
    stack.wharf(&["down", "-t", "0"]).ok();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine.id() as i32), nix::sys::signal::Signal::SIGTERM)
        .expect("told to end");
    engine.wait().expect("it ends");
}
