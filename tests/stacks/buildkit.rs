//! Builds by BuildKit's API, as `docker build`, `docker buildx build` and `docker compose build` make them.

use crate::durability::SmallDisk;
use crate::support::buildkit::{Client, Served, new_reference, stat, upgraded};
use crate::support::{Stack, eventually};
use bollard_buildkit_proto::fsutil::types::Packet;
use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use bollard_buildkit_proto::moby::buildkit::v1 as control;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn within<T>(seconds: u64, work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(seconds), work).await.expect("in time") })
}

fn engine(stack: &Stack) -> std::path::PathBuf {
    stack.wharf(&["image", "ls"]).ok();
    stack.run_root().join("engine.sock")
}

/// Processes whose command begins with these words.
fn processes(words: &str) -> usize {
    let all = std::fs::read_dir("/proc").expect("procfs").flatten();
    all.filter(|entry| std::fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|line| line.starts_with(words))).count()
}

fn image<'a>(name: &'a [(&'a str, &'a str)]) -> Option<(&'a str, &'a [(&'a str, &'a str)])> {
    Some(("moby", name))
}

#[test]
fn a_client_of_buildkit_builds() {
    let stack = Stack::new("nothing");
    let socket = engine(&stack);
    within(60, async {
        let dockerfile = "# syntax=docker/dockerfile:1\nFROM busybox:local\nARG V=1\nCOPY . /files/\nRUN echo \"v=$V\" && find /files | sort\nCMD [\"cat\", \"/files/d/b\"]\n";
        let mut served = Served::new(
            dockerfile,
            &[(".dockerignore", "# comment\n/ignored\n"), ("a", "1"), ("d/", ""), ("d/b", "two"), ("ignored", "x")],
        );
        served.directories.get_mut("context").expect("it").insert("large".into(), vec![7; 3 << 20]);
        let client = Client::new(socket, served.clone()).await;
        let attributes = [("filename", "Dockerfile"), ("build-arg:V", "7"), ("label:l", "m"), ("image-resolve-mode", "local")];
        let build = client.build(&attributes, image(&[("name", "docker.io/library/made:1,made:2")])).await;
        let response = build.response();
        assert_eq!(response["image.name"], "docker.io/library/made:1,docker.io/library/made:2");
        assert!(response["containerimage.digest"].starts_with("sha256:") && response["containerimage.config.digest"].len() == 71);
        assert_eq!(build.log(), "v=7\n/files\n/files/.dockerignore\n/files/a\n/files/d\n/files/d/b\n/files/large\n");
        assert!(served.asked().iter().any(|asked| asked.ends_with("DiffCopy context [\"ignored\"]")), "{:?}", served.asked());
        let run = build.vertex("RUN echo");
        assert!(run.started.is_some() && run.completed.is_some() && !run.cached && run.error.is_empty(), "{run:?}");
        assert!(build.vertex("load build context").completed.is_some() && build.vertex("exporting to image").completed.is_some());
        let again = client.build(&attributes, image(&[("name", "made:3")])).await;
        assert!(
            again.vertex("RUN echo").cached && again.response()["containerimage.digest"] == response["containerimage.digest"]
        );
        let none = client.build(&[("no-cache", "")], None).await;
        assert!(none.response().is_empty() && !none.vertex("COPY").cached && none.log().starts_with("v=1\n"), "{none:?}");
    });
    assert_eq!(stack.wharf(&["container", "run", "--rm", "made:2"]).ok(), "two");
    let (status, inspected) = stack.api("GET", "/v1.45/images/made:1/json", None);
    assert_eq!((status, inspected["Config"]["Labels"]["l"].as_str()), (200, Some("m")));
}

#[test]
fn a_build_that_fails_says_where() {
    let stack = Stack::new("nothing");
    let socket = engine(&stack);
    within(60, async {
        for (dockerfile, attributes, words, line) in [
            (
                "FROM busybox:local\nRUN echo before; exit 3\n",
                &[][..],
                "process \"/bin/sh -c echo before; exit 3\" did not complete successfully: exit code: 3",
                Some(2),
            ),
            ("FROM busybox:local AS me\nCOPY --from=me / /x\n", &[], "circular dependency detected on stage: me", Some(2)),
            (
                "FROM busybox:local AS me\nARG A=e\nRUN --mount=from=m$A,target=/x y\n",
                &[],
                "circular dependency detected on stage: me",
                Some(3),
            ),
            ("FROM busybox:local\n", &[("target", "nosuch")], "target stage \"nosuch\" could not be found", None),
            ("FROM busybox:local\nWRONG x\n", &[], "Dockerfile:2: `WRONG` is not an instruction", Some(2)),
            ("FROM busybox:local\nCOPY nosuch /\n", &[], "nosuch", Some(2)),
            ("# syntax=evil/frontend\nFROM busybox:local\n", &[], "the frontend evil/frontend cannot be run", None),
            ("FROM busybox:local\n", &[("filename", "other")], "open other: no such file", None),
            ("FROM busybox:local\n", &[("requestid", "frontend.other")], "unsupported request frontend.other", None),
            ("FROM busybox:local\nWRONG x\n", &[("requestid", "frontend.outline")], "`WRONG` is not an instruction", Some(2)),
            (
                "FROM busybox:local\n",
                &[("requestid", "frontend.outline"), ("target", "x")],
                "target stage \"x\" could not be found",
                Some(1),
            ),
            ("# check=error=true\nFROM busybox:local AS Me\n", &[], "lint violation found for rules: StageNameCasing", None),
            ("FROM busybox:local\n", &[("context:x", "/etc")], "the context `x` is /etc", None),
            ("FROM busybox:local\n", &[("context:x", "local:nosuch")], "", None),
            (
                "FROM busybox:local\nRUN --mount=type=secret,id=s,required cat /run/secrets/s\n",
                &[],
                "the secret `s` is required",
                Some(2),
            ),
        ] {
            let client = Client::new(socket.clone(), Served::new(dockerfile, &[])).await;
            let build = client.build(attributes, image(&[])).await;
            let failed = build.failed();
            assert!(failed.message.contains(words), "{dockerfile}: {failed:?}");
            assert!(![3, 5, 13].contains(&failed.code), "a client shows the code's name: {failed:?}");
            let details = failed.details.concat();
            match line {
                Some(line) => {
                    let range = format!("{{\"start\":{{\"line\":{line}}}");
                    assert!(details.contains("errdefs.Source+json") && details.contains(&range), "{details}");
                }
                None => assert!(details.is_empty(), "{details}"),
            }
        }
        // The reason is at the step, and the line with it.
        for (line, step, words) in [
            ("COPY nosuch /", "COPY nosuch", "nosuch"),
            ("RUN --mount=type=secret,id=s,required cat /run/secrets/s", "RUN", "the secret `s` is required"),
            ("RUN [\"/nosuch/program\"]", "RUN", "/nosuch/program"),
            ("FROM 127.0.0.1:1/x", "FROM 127.0.0.1:1/x", "127.0.0.1:1"),
        ] {
            let client = Client::new(socket.clone(), Served::new(&format!("FROM busybox:local\n{line}\n"), &[])).await;
            let build = client.build(&[], image(&[])).await;
            let details = build.failed().details.concat();
            assert!(build.vertex(step).error.contains(words), "{line}: {:?}", build.vertex(step));
            assert!(details.contains("{\"start\":{\"line\":2}"), "{line}: {details}");
        }
        // The end of what is printed too fast, which says why.
        let dockerfile = "FROM busybox:local\nRUN seq 1 600000; echo the reason; exit 3\n";
        let client = Client::new(socket.clone(), Served::new(dockerfile, &[])).await;
        let log = client.build(&[("no-cache", "")], image(&[])).await.log();
        assert!(log.starts_with("1\n2\n") && log.ends_with("600000\nthe reason\n"), "{} bytes", log.len());
        // What is wrong in the Dockerfile is found before the context is sent.
        let served = Served::new("FROM busybox:local\nWRONG x\n", &[("a", "b")]);
        Client::new(socket.clone(), served.clone()).await.build(&[], None).await.failed();
        assert!(served.asked().iter().all(|asked| !asked.contains(" context ")), "{:?}", served.asked());
        let client = Client::new(socket.clone(), Served::new("FROM busybox:local\n", &[])).await;
        for frontend in ["gateway.v0", "other"] {
            assert!(client.build_as(frontend, &[("source", "x/y")], None).await.failed().message.contains("wharf"));
        }
        let graph = bollard_buildkit_proto::pb::Definition { def: vec![b"x".to_vec()], ..Default::default() };
        let solve = control::SolveRequest { r#ref: new_reference(), definition: Some(graph), ..Default::default() };
        let answer =
            client.call::<control::SolveResponse>("/moby.buildkit.v1.Control/Solve", "", &solve).await.expect_err("refused");
        assert!(answer.message.contains("no build graphs") && answer.code == 12, "{answer:?}");
    });
}

#[test]
fn secrets_agents_and_logins_are_the_clients() {
    let stack = Stack::new("nothing");
    stack.compile("asks_agent");
    let socket = engine(&stack);
    let agent = stack.path("agent.sock");
    let mut child = std::process::Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(&agent)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("an agent");
    eventually("an agent", 10, || agent.exists());
    within(60, async {
        let dockerfile = "FROM busybox:local\nCOPY asks_agent /\n\
            RUN --mount=type=secret,id=s --mount=type=secret,id=e,env=E cat /run/secrets/s && echo \" $E\"\n\
            RUN --mount=type=secret,id=missing test ! -e /run/secrets/missing\n\
            RUN --mount=type=ssh /asks_agent 11 19\n";
        let mut served = Served::new(dockerfile, &[]);
        let program = std::fs::read(stack.path("asks_agent")).expect("a program");
        served.directories.get_mut("context").expect("it").insert("asks_agent".into(), program);
        served
            .directories
            .get_mut("dockerfile")
            .expect("it")
            .insert("Dockerfile".into(), dockerfile.replace("COPY asks", "COPY --chmod=755 asks").into_bytes());
        served.secrets = [("s".to_string(), b"hidden".to_vec()), ("e".to_string(), b"too".to_vec())].into();
        served.agents = [("default".to_string(), agent.clone())].into();
        let client = Client::new(socket.clone(), served.clone()).await;
        let build = client.build(&[], image(&[])).await;
        build.response();
        // Keys are listed, and nothing is forgotten for a command.
        assert_eq!(build.log(), "hidden too\n12 5 \n", "{build:?}");
        // A registry that asks for a login gets that of the client.
        let mut served = Served::new("FROM 127.0.0.1:1/x\n", &[]);
        served.login = Some(("u".into(), "p".into()));
        assert!(Client::new(socket, served).await.build(&[], image(&[])).await.failed().message.contains("127.0.0.1:1"));
    });
    child.kill().expect("killed");
    child.wait().expect("ended");
}

#[test]
fn a_hostile_client_breaks_its_own_build_alone() {
    let stack = Stack::new("nothing");
    let socket = engine(&stack);
    let pid = stack.engine_pid().expect("an engine");
    within(120, async {
        let dockerfile = "FROM busybox:local\nCOPY . /\n";
        let good = Client::new(socket.clone(), Served::new(dockerfile, &[("f", "x")])).await;
        let link = |path: &str, target: &str| {
            let mut packet = stat(path, 1 << 27 | 0o777, 0);
            packet.stat.as_mut().expect("it").linkname = target.into();
            packet
        };
        // Names of 3,800 bytes in a directory as deep.
        let parts: Vec<String> = (0..15).map(|_| "d".repeat(250)).collect();
        let above = (1..=15).map(|depth| stat(&parts[..depth].join("/"), 1 << 31 | 0o755, 0));
        let many: Vec<Packet> = above.chain((0..9000).map(|n| stat(&format!("{}/{n}", parts.join("/")), 0o644, 1))).collect();
        for (packets, words) in [
            (vec![stat("../escaped", 0o644, 0)], "no name of a file below the directory"),
            (vec![link("l", "/tmp"), stat("l/escaped", 0o644, 0)], "l/escaped"),
            (
                vec![Packet { r#type: PacketType::PacketErr.into(), data: b"disk on fire".to_vec(), ..Packet::default() }],
                "disk on fire",
            ),
            (vec![Packet { r#type: 77, ..Packet::default() }], "no sender has"),
            (many, "there are too many files"),
        ] {
            let mut served = Served::new(dockerfile, &[]);
            served.packets = [("context".to_string(), packets)].into();
            let build = Client::new(socket.clone(), served).await.build(&[], None).await;
            assert!(build.failed().message.contains(words), "{words}: {:?}", build.failed());
        }
        // A file that is refused in the last packet: the client waits for the engine, and the engine not for the client.
        let mut wrong = stat("a", 0o644, 0);
        wrong.stat.as_mut().expect("it").mod_time = i64::MIN;
        for packets in [vec![wrong, stat("../x", 0o644, 0)], vec![stat("../x", 0o644, 0), Packet::default()]] {
            let served = Served { packets: [("context".to_string(), packets)].into(), ..Served::new(dockerfile, &[]) };
            let client = Client::new(socket.clone(), served).await;
            let build = tokio::time::timeout(Duration::from_secs(10), client.build(&[], None)).await.expect("an end");
            assert!(build.failed().message.contains("no name of a file below"), "{:?}", build.failed());
        }
        assert!(!std::path::Path::new("/tmp/escaped").exists());
        // A client that leaves in the middle of its files.
        let served = Served { vanishes_at: Some("context".into()), ..Served::new(dockerfile, &[]) };
        let build = Client::new(socket.clone(), served).await.build(&[], None).await;
        assert!(build.failed().message.contains("the connection to the client has ended"), "{:?}", build.failed());
        // No session, another's reference, no reference.
        let other = Client::new(socket.clone(), Served::new(dockerfile, &[])).await;
        other.end_session();
        let unknown = control::SolveRequest {
            r#ref: new_reference(),
            frontend: "dockerfile.v0".into(),
            session: "nosuch".into(),
            ..Default::default()
        };
        let answer =
            good.call::<control::SolveResponse>("/moby.buildkit.v1.Control/Solve", "", &unknown).await.expect_err("no session");
        assert!(answer.message.contains("no active session for nosuch"), "{answer:?}");
        let nothing = control::SolveRequest::default();
        let answer =
            good.call::<control::SolveResponse>("/moby.buildkit.v1.Control/Solve", "", &nothing).await.expect_err("no reference");
        assert!(answer.message.contains("no reference"), "{answer:?}");
        let answer = good
            .call::<control::SolveResponse>("/moby.buildkit.v1.Control/Nosuch", "", &nothing)
            .await
            .expect_err("no such call");
        assert_eq!(answer.code, 12);
        // What is no HTTP/2, and what is no message.
        let mut garbage = upgraded(&socket, "/grpc", "").await;
        garbage.write_all(&[0xaa; 4096]).await.expect("written");
        let mut rest = Vec::new();
        let _ = garbage.read_to_end(&mut rest).await;
        // Thousands of calls at once: those that there is no room for wait.
        let calls =
            (0..3000).map(|_| good.call::<control::InfoResponse>("/moby.buildkit.v1.Control/Info", "", &control::InfoRequest {}));
        assert!(futures::future::join_all(calls).await.iter().all(Result::is_ok));
        // Two builds by one session at once.
        let (one, two) = tokio::join!(good.build(&[("no-cache", "")], None), good.build(&[], None));
        assert!(one.result.is_ok() && two.result.is_ok(), "{one:?} {two:?}");
    });
    assert_eq!(stack.engine_pid(), Some(pid));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    let peak: u64 =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse().ok()).expect("a peak");
    assert!(peak < 100 << 10, "{peak} KiB");
}

#[test]
fn a_build_ends_with_its_client() {
    let stack = Stack::new("nothing");
    let socket = engine(&stack);
    let running = || stack.api("GET", "/v1.45/info", None).1["ContainersRunning"].clone();
    within(60, async {
        let client = Client::new(socket.clone(), Served::new("FROM busybox:local\nRUN sleep 4321\n", &[])).await;
        let further = client.further().await;
        let build = tokio::spawn(async move { further.build(&[("no-cache", "")], None).await });
        let words = "sleep\x004321";
        eventually("the command runs", 20, || processes(words) > 0 || build.is_finished());
        assert!(!build.is_finished(), "{:?}", build.await);
        build.abort();
        eventually("the command has ended", 20, || processes(words) == 0);
    });
    assert_eq!(running(), 0);
}

#[test]
fn files_and_archives_go_to_the_client_and_come_from_it() {
    let stack = Stack::new("nothing");
    let socket = engine(&stack);
    within(60, async {
        let dockerfile = "FROM busybox:local AS made\nRUN mkdir /d && echo content > /d/f && chmod 4750 /d/f\nFROM scratch\nCOPY --from=made /d /d\nCOPY a /link-target\n";
        // The context is an archive, and so the Dockerfile is in it.
        let mut tar = tar::Builder::new(Vec::new());
        for (name, text) in [("Dockerfile", dockerfile), ("a", "of the archive")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, text.as_bytes()).expect("a file");
        }
        let mut served = Served { upload: tar.into_inner().expect("an archive"), ..Served::default() };
        let attributes = [("context", "http://buildkit-session/some")];
        let client = Client::new(socket.clone(), served.clone()).await;
        client.build(&attributes, Some(("tar", &[]))).await.response();
        let sent = served.sent.lock().expect("a lock").split_off(0);
        let names = |sent: &[u8]| -> Vec<String> {
            let mut archive = tar::Archive::new(sent);
            archive
                .entries()
                .expect("entries")
                .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string())
                .collect()
        };
        assert_eq!(names(&sent), ["d/", "d/f", "link-target"]);
        let build = client.build(&attributes, Some(("docker", &[("name", "made:9")]))).await;
        assert!(
            build.response()["image.name"] == "docker.io/library/made:9"
                && build.vertex("exporting to docker").completed.is_some()
        );
        let sent = served.sent.lock().expect("a lock").split_off(0);
        assert!(names(&sent).iter().any(|name| name == "manifest.json"), "{:?}", names(&sent));
        let received = std::sync::Arc::default();
        served.received = Some(std::sync::Arc::clone(&received));
        let client = Client::new(socket.clone(), served).await;
        client.build(&attributes, Some(("local", &[]))).await.response();
        let files = received.lock().expect("a lock").clone();
        let expected =
            [("d", 1 << 31 | 0o755, ""), ("d/f", 1 << 23 | 0o750, "content\n"), ("link-target", 0o644, "of the archive")];
        let files: Vec<_> = files
            .iter()
            .map(|(path, (mode, content))| (path.as_str(), *mode, std::str::from_utf8(content).expect("text")))
            .collect();
        assert_eq!(files, expected);
        for (kind, attributes) in [("nosuch", &[][..]), ("image", &[("push", "true")])] {
            let failed = client.build(&[], Some((kind, attributes))).await;
            assert!(failed.failed().message.contains("wharf"), "{failed:?}");
        }
        // What builds remember.
        let everything = control::DiskUsageRequest::default();
        let usage = async || {
            let method = "/moby.buildkit.v1.Control/DiskUsage";
            client.call::<control::DiskUsageResponse>(method, "", &everything).await.expect("usage").record
        };
        assert!(!usage().await.is_empty());
        let prune = control::PruneRequest { all: true, ..Default::default() };
        let gone = client.answers::<control::UsageRecord>("/moby.buildkit.v1.Control/Prune", "", &prune).await.expect("pruned");
        assert!(!gone.is_empty() && usage().await.is_empty());
    });
    let (_, images) = stack.api("GET", "/v1.45/images/json", None);
    assert_eq!(images.as_array().map(Vec::len), Some(1), "no image was exported to the store: {images}");
}

#[test]
fn builds_share_a_session_that_a_call_carries() {
    let stack = Stack::new("nothing");
    let socket = engine(&stack);
    within(60, async {
        let client = Client::new(socket.clone(), Served::default()).await;
        let mut served = Served::new("FROM busybox:local\nCOPY . /\nRUN cat /a\n", &[("a", "shared\n")]);
        served.directories.get_mut("context").expect("it").insert("large".into(), vec![7; 3 << 20]);
        let shared = new_reference();
        let carried = client.carried(served.clone(), &shared);
        // As bake builds two targets of one directory.
        let attributes = |name: &str| (format!("local-sessionid:{name}"), shared.clone());
        let (context, dockerfile) = (attributes("context"), attributes("dockerfile"));
        let attributes = [(context.0.as_str(), context.1.as_str()), (dockerfile.0.as_str(), dockerfile.1.as_str())];
        let uncached = [&attributes[..], &[("no-cache", "")]].concat();
        let (one, two) =
            tokio::join!(client.build(&uncached, image(&[("name", "one")])), client.build(&uncached, image(&[("name", "two")])));
        for build in [one, two] {
            assert!(build.response().contains_key("containerimage.digest") && build.log() == "shared\n", "{build:?}");
        }
        for (id, words) in [(shared.as_str(), "already exists"), ("", "has no id")] {
            let refused = client.carried(served.clone(), id).await.expect("it").expect_err("refused");
            assert!(refused.message.contains(words), "{refused:?}");
        }
        // The session ends with its call, and then there can be another with its id.
        carried.abort();
        let mut again = client.carried(served.clone(), &shared);
        while let Ok(ended) = tokio::time::timeout(Duration::from_millis(200), &mut again).await {
            assert!(ended.expect("it").is_err_and(|failed| failed.message.contains("already exists")));
            again = client.carried(served.clone(), &shared);
        }
        client.build(&attributes, None).await.response();
    });
}

/// A context that the disk has no room for ends its own build, and leaves nothing on the disk.
#[test]
fn a_full_disk_ends_a_build_and_keeps_nothing() {
    let disk = SmallDisk::new("24m");
    let socket = engine(&disk.stack);
    within(60, async {
        let mut served = Served::new("FROM busybox:local\nCOPY a /\n", &[("a", "1")]);
        let small = served.clone();
        served.directories.get_mut("context").expect("it").insert("large".into(), vec![7; 30 << 20]);
        let build = Client::new(socket.clone(), served).await.build(&[], image(&[("name", "large")])).await;
        assert!(build.failed().message.contains("No space left on device"), "{:?}", build.failed());
        let staging = disk.stack.data_root().join("images/staging");
        let is_empty = || std::fs::read_dir(&staging).expect("the drafts").next().is_none();
        eventually("what came is gone", 10, is_empty);
        let build = Client::new(socket, small).await.build(&[], image(&[("name", "small")])).await;
        assert!(build.response()["containerimage.digest"].starts_with("sha256:"));
    });
}

/// An engine without descriptors ends a build with words, and its other builds and commands go on.
#[test]
fn an_engine_without_descriptors_ends_a_build() {
    let stack = Stack::new("nothing");
    let socket = engine(&stack);
    let engine = stack.engine_pid().expect("engine");
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).expect("the limit");
    let limit = |soft: u64| {
        let limit = format!("--nofile={soft}:");
        assert!(
            std::process::Command::new("prlimit").arg(format!("--pid={engine}")).arg(limit).status().expect("prlimit").success()
        );
    };
    within(60, async {
        let files: Vec<(String, String)> = (0..100).map(|n| (format!("f{n}"), "text".repeat(100))).collect();
        let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let client = Client::new(socket, Served::new("FROM busybox:local\nCOPY . /\n", &files)).await;
        client.build(&[("no-cache", "")], None).await.response();
        // Three numbers below the limit are free; those above it that are open remain.
        let open = std::fs::read_dir(format!("/proc/{engine}/fd")).expect("descriptors").flatten();
        let open: std::collections::HashSet<u64> = open.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
        limit((0..).filter(|number| !open.contains(number)).nth(3).expect("a number"));
        let build = client.build(&[("no-cache", "")], None).await;
        assert!(build.failed().message.contains("Too many open files"), "{:?}", build.failed());
        limit(most);
        client.build(&[("no-cache", "")], None).await.response();
    });
    assert!(stack.wharf(&["image", "ls"]).ok().contains("busybox"));
}

/// The death of the engine ends its builds, and the next one builds.
#[test]
fn a_build_ends_with_the_engine() {
    let stack = Stack::new("nothing");
    let socket = engine(&stack);
    within(60, async {
        let slow = Served::new("FROM busybox:local\nRUN echo begun; sleep 4322\n", &[("a", "1")]);
        let client = Client::new(socket.clone(), slow).await;
        let build = tokio::spawn(async move { client.build(&[("no-cache", "")], image(&[("name", "slow")])).await });
        let command = "sleep\x004322";
        eventually("the command runs", 20, || processes(command) > 0 || build.is_finished());
        let engine = nix::unistd::Pid::from_raw(stack.engine_pid().expect("engine"));
        nix::sys::signal::kill(engine, nix::sys::signal::Signal::SIGKILL).expect("killed");
        assert!(build.await.is_err(), "its answers are cut off");
        stack.wharf(&["image", "ls"]).ok();
        eventually("the command has ended", 20, || processes(command) == 0);
        let client = Client::new(socket, Served::new("FROM busybox:local\nCOPY a /\n", &[("a", "1")])).await;
        let build = client.build(&[], image(&[("name", "quick")])).await;
        assert!(build.response()["containerimage.digest"].starts_with("sha256:"));
    });
    assert!(!stack.wharf(&["image", "ls"]).ok().contains("slow"));
}

/// What clients ask of a Dockerfile without a build (`docker build --check`, `--call`), and what each build shows of it.
#[test]
fn a_dockerfile_is_asked_about() {
    let stack = Stack::new("nothing");
    let socket = engine(&stack);
    within(60, async {
        let dockerfile = "# V the version\nARG V=1\nFROM busybox:local AS Base\nARG V\nCOPY $X $HOME /\n# last the end\nFROM scratch AS last\nRUN --mount=type=secret,id=s,required x\nCMD echo\n";
        let client = Client::new(socket.clone(), Served::new(dockerfile, &[])).await;
        let ask = async |id: &str, more: &[(&str, &str)]| {
            let attributes = [&[("requestid", id), ("frontend.caps", "moby.buildkit.frontend.subrequests")], more].concat();
            let asked = client.build(&attributes, None).await;
            let text = asked.answer.get("result.json").unwrap_or_else(|| panic!("{id}: {:?}", asked.result)).clone();
            (serde_json::from_slice::<serde_json::Value>(&text).expect("JSON"), asked)
        };
        let (lint, asked) = ask("frontend.lint", &[]).await;
        let rules: Vec<&str> =
            lint["warnings"].as_array().expect("a list").iter().filter_map(|w| w["ruleName"].as_str()).collect();
        assert_eq!(rules, ["StageNameCasing", "UndefinedVar", "UndefinedVar", "JSONArgsRecommended"], "{lint}");
        let first = &lint["warnings"][0];
        assert_eq!(first["location"]["ranges"][0]["start"]["line"], 3);
        assert_eq!(first["url"], "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/");
        assert_eq!(
            (lint["sources"][0]["filename"].as_str(), asked.answer["result.statuscode"].as_slice()),
            (Some("Dockerfile"), &b"1"[..])
        );
        assert!(asked.shown.warnings.is_empty(), "what is asked for is not shown besides");
        let (clean, asked) = ask("frontend.lint", &[("build-arg:BUILDKIT_DOCKERFILE_CHECK", "skip=all")]).await;
        assert_eq!(
            (clean["warnings"].as_array().map(Vec::len), asked.answer["result.statuscode"].as_slice()),
            (Some(0), &b"0"[..])
        );
        let (outline, _) = ask("frontend.outline", &[("build-arg:V", "7")]).await;
        assert_eq!((outline["name"].as_str(), outline["description"].as_str()), (Some("last"), Some("the end")));
        assert_eq!(
            (&outline["args"][0]["value"], &outline["args"][0]["description"]),
            (&"7".into(), &"the version".into()),
            "{outline}"
        );
        assert_eq!(
            (&outline["secrets"][0]["name"], &outline["secrets"][0]["required"]),
            (&"s".into(), &true.into()),
            "{outline}"
        );
        let (targets, _) = ask("frontend.targets", &[]).await;
        assert_eq!((&targets["targets"][0]["base"], &targets["targets"][1]["default"]), (&"busybox:local".into(), &true.into()));
        assert!(ask("frontend.subrequests.describe", &[]).await.0.as_array().is_some_and(|all| all.len() == 4));
        // A file that is not understood is a part of the check's answer.
        let broken = Client::new(socket.clone(), Served::new("FROM x\nWRONG\n", &[])).await;
        let asked = broken.build(&[("requestid", "frontend.lint")], None).await;
        let lint: serde_json::Value = serde_json::from_slice(&asked.answer["result.json"]).expect("JSON");
        assert_eq!(lint["buildError"]["location"]["ranges"][0]["start"]["line"], 2, "{lint}");
        for (text, word) in [("FROM scratch\nRUN\n", "RUN needs a command"), ("FROM scratch\nEXPOSE abc\n", "is not a port")] {
            let broken = Client::new(socket.clone(), Served::new(text, &[])).await;
            let asked = broken.build(&[("requestid", "frontend.lint")], None).await;
            let lint: serde_json::Value = serde_json::from_slice(&asked.answer["result.json"]).expect("JSON");
            assert_eq!(lint["buildError"]["location"]["ranges"][0]["start"]["line"], 2, "{lint}");
            assert!(lint["buildError"]["message"].as_str().is_some_and(|message| message.contains(word)), "{lint}");
            assert_eq!(asked.answer["result.statuscode"].as_slice(), b"1");
        }
        // A build shows what is found, on the step that has loaded the file.
        let client = Client::new(socket, Served::new("FROM busybox:local\nCMD echo\n", &[])).await;
        let build = client.build(&[], None).await;
        build.response();
        let [warning] = build.shown.warnings.as_slice() else { panic!("{:?}", build.shown.warnings) };
        let short = String::from_utf8_lossy(&warning.short);
        assert!(short.starts_with("JSONArgsRecommended: ") && short.ends_with(" (line 2)"), "{short}");
        assert_eq!(warning.vertex, build.vertex("load build definition").digest);
        assert_eq!(warning.ranges[0].start.map(|position| position.line), Some(2));
        assert!(warning.info.as_ref().is_some_and(|info| info.filename == "Dockerfile" && !info.data.is_empty()));
    });
}

/// A target of `buildx bake` whose context is another target: the client hands its result on.
#[test]
fn a_build_takes_the_result_of_another() {
    let stack = Stack::new("nothing");
    let socket = engine(&stack);
    within(60, async {
        let base =
            Client::new(socket.clone(), Served::new("FROM busybox:local\nENV FROM_BASE=yes\nRUN echo made >/made\n", &[])).await;
        let made = base.build(&[], None).await;
        made.response();
        let graph = made.graph.clone().expect("a graph stands for the result");
        let dockerfile = "FROM base\nRUN echo $FROM_BASE && cat /made\nFROM scratch\nCOPY --from=base /made /\n";
        let client = Client::new(socket.clone(), Served::new(dockerfile, &[])).await;
        let inputs = |key: &str| std::collections::HashMap::from([(key.to_string(), graph.clone())]);
        let of = |target: &'static str| [("context:base", "input:0::base"), ("target", target)];
        let first = client.build_with("dockerfile.v0", &of("0"), inputs("0::base"), None).await;
        first.response();
        assert_eq!(first.log(), "yes\nmade\n");
        client.build_with("dockerfile.v0", &of("1"), inputs("0::base"), None).await.response();
        // Another name, a graph of the client's own, and a result that is none.
        let failed = client.build_with("dockerfile.v0", &of("0"), inputs("other"), None).await;
        assert!(failed.failed().message.contains("input:0::base, which did not come"), "{failed:?}");
        let mut strange = graph.clone();
        strange.def.push(Vec::new());
        let failed = client.build_with("dockerfile.v0", &of("0"), [("0::base".to_string(), strange)].into(), None).await;
        assert!(failed.failed().message.contains("no build graphs (LLB)"), "{failed:?}");
        let mut gone = graph.clone();
        let text = gone.def[0].windows(3).position(|bytes| bytes == b"://").expect("a name") + 3;
        gone.def[0][text] ^= 1;
        let failed = client.build_with("dockerfile.v0", &of("0"), [("0::base".to_string(), gone)].into(), None).await;
        assert!(failed.failed().message.contains("no such result"), "{failed:?}");
    });
}
