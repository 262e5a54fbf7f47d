//! Where builds and pulls take things from: Git, SSH agents, mirrors, other images' steps.

use super::images::Registry;
use super::support::{Stack, eventually};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A Git server on loopback, with one repository.
pub struct Server {
    child: Child,
    pub url: String,
    pub work: std::path::PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(self.child.id() as i32), nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// A child that is ended with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

pub fn git(directory: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"])
        .arg("-C")
        .arg(directory)
        .args(args)
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

impl Server {
    pub fn start(root: &Path) -> Self {
        use std::os::unix::process::CommandExt;
        let work = root.join("repo");
        std::fs::create_dir_all(work.join("app")).expect("directory");
        git(&work, &["init", "-q"]);
        std::fs::write(work.join("file"), "first").expect("write");
        std::fs::write(work.join("app/Dockerfile"), "FROM busybox:local\nCOPY . /src\nRUN cat /src/inner > /made\n")
            .expect("write");
        std::fs::write(work.join("app/inner"), "inner").expect("write");
        std::os::unix::fs::symlink("/", work.join("out")).expect("link");
        git(&work, &["add", "."]);
        git(&work, &["commit", "-qm", "first"]);
        git(&work, &["tag", "v1"]);
        std::fs::write(work.join("file"), "second").expect("write");
        git(&work, &["commit", "-qam", "second"]);
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port();
        let child = Command::new("git")
            .args(["daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1"])
            .args([format!("--port={port}"), format!("--base-path={}", root.display())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("git is installed");
        eventually("the server answers", 20, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Server { child, url: format!("git://127.0.0.1:{port}/repo/.git"), work }
    }
}

/// A server that never answers holds up its own build alone, and nothing of the build outlives its client.
#[test]
fn a_silent_repository_holds_up_nobody_else() {
    let stack = Stack::new("nothing");
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let port = server.local_addr().expect("address").port();
    let mut dockerfile = String::new();
    for n in 0..12 {
        dockerfile += &format!("FROM scratch AS s{n}\nADD git://127.0.0.1:{port}/r{n} /x\n");
    }
    dockerfile += "FROM scratch\n";
    (0..12).for_each(|n| dockerfile += &format!("COPY --from=s{n} / /\n"));
    stack.write("Dockerfile", &dockerfile);
    let mut build = stack.command(&["image", "build", "."]).spawn().expect("build");
    server.set_nonblocking(true).expect("listener");
    let mut connected = Vec::new();
    eventually("four are asked at once", 20, || {
        connected.extend(server.accept().map(|(connection, _)| connection));
        connected.len() == 4
    });
    assert_eq!(stack.wharf(&["container", "run", "--rm", "busybox:local", "echo", "runs"]).ok(), "runs\n");
    assert!(server.accept().is_err(), "no more than four");
    build.kill().expect("kill");
    build.wait().expect("wait");
    for connection in &mut connected {
        connection.set_nonblocking(false).expect("socket");
        connection.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("socket");
        let mut rest = Vec::new();
        std::io::Read::read_to_end(connection, &mut rest).expect("its git has ended");
    }
    assert!(server.accept().is_err(), "no other was begun");
}

/// Anybody on the host can read the arguments of git and of the helpers that it starts.
#[test]
fn a_login_in_a_git_url_is_in_no_process_list() {
    let stack = Stack::new("nothing");
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let port = server.local_addr().expect("address").port();
    let secret = format!("hidden{}", std::process::id());
    stack.write("Dockerfile", &format!("FROM scratch\nADD http://me:{secret}%40@127.0.0.1:{port}/r.git /x\n"));
    let mut build = stack.command(&["image", "build", "."]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("build");
    server.set_nonblocking(true).expect("listener");
    let mut authorization = None;
    // The first question comes without a login; the server wants one.
    let mut held = None;
    eventually("git gives its login", 20, || {
        let Ok((mut connection, _)) = server.accept() else { return false };
        connection.set_nonblocking(false).expect("socket");
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(&connection)).map_while(Result::ok);
        let asked: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        authorization = asked.iter().find_map(|line| line.strip_prefix("Authorization: Basic ").map(str::to_string));
        if authorization.is_none() {
            let answer = b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            std::io::Write::write_all(&mut connection, answer).expect("answer");
            return false;
        }
        held = Some(connection);
        true
    });
    let decoded = Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().and_then(|mut child| {
        std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), authorization.expect("a login").as_bytes())?;
        child.wait_with_output()
    });
    assert_eq!(String::from_utf8_lossy(&decoded.expect("base64").stdout), format!("me:{secret}@"));
    let entries = std::fs::read_dir("/proc").expect("proc").flatten();
    let shown: Vec<String> = entries
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&secret) || line.contains(&format!("127.0.0.1:{port}")))
        .collect();
    assert!(!shown.is_empty() && shown.iter().all(|line| !line.contains(&secret)), "{shown:?}");
    build.kill().expect("kill");
    build.wait().expect("wait");
    drop(held);
}

#[test]
fn git_is_a_context_and_a_source() {
    let stack = Stack::new("nothing");
    let server = Server::start(&stack.path("."));
    let url = &server.url;
    // A directory of a tag as the context of a service, another commit by ADD, a third by a named context.
    let commit = git(&server.work, &["rev-parse", "v1"]);
    stack.write(
        "compose.yaml",
        &format!("services: {{app: {{build: {{context: '{url}#v1:app'}}, command: sleep 1000, stop_signal: SIGKILL}}}}"),
    );
    stack.wharf(&["up", "-d", "--build"]).ok();
    assert_eq!(stack.sh("app", "cat /made; ls /src"), "innerDockerfile\ninner");
    let dockerfile = format!(
        "FROM busybox:local\nADD {url} /head\nADD {url}#{commit} /old\nADD --keep-git-dir=true {url}#main /with\nCOPY --from=named file /named\nRUN cat /head/file /old/file /named > /all; ls -d /head/.git /with/.git > /dirs 2>/dev/null; true\n"
    );
    stack.write("Dockerfile", &dockerfile);
    let build = || {
        stack.wharf(&[
            "image",
            "build",
            "-t",
            "sources",
            "--progress",
            "plain",
            "--build-context",
            &format!("named={url}#v1"),
            ".",
        ])
    };
    let built = build();
    assert_eq!(built.code, 0, "{}", built.stderr);
    let run = |script: &str| stack.wharf(&["container", "run", "--rm", "sources", "sh", "-c", script]).ok();
    assert_eq!(run("cat /all; echo; cat /dirs"), "secondfirstfirst\n/with/.git\n");
    // What has not changed is not made again; what has, is.
    let cached = build();
    assert!(cached.stderr.matches("CACHED").count() >= 4, "{}", cached.stderr);
    std::fs::write(server.work.join("file"), "third").expect("write");
    git(&server.work, &["commit", "-qam", "third"]);
    build();
    assert!(run("cat /head/file").starts_with("third"));
    // What cannot be.
    stack.write("Dockerfile", &format!("FROM busybox:local\nADD {url}#nope /x\n"));
    build().fails(1, &["Dockerfile:2", "no branch, tag or commit `nope`"]);
    stack.wharf(&["image", "build", &format!("{url}#main:out/etc")]).fails(1, &["no directory `out/etc`"]);
    stack.wharf(&["image", "build", &format!("{url}#--upload-pack=x")]).fails(1, &["not a branch, tag or commit"]);
    let drafts = std::fs::read_dir(stack.data_root().join("images/staging")).expect("staging").count();
    assert_eq!(drafts, 0, "nothing that was checked out is left");
}

#[test]
fn an_agent_is_lent_to_one_command() {
    let stack = Stack::new("nothing");
    stack.compile("asks_agent");
    let made =
        std::process::Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(stack.path("key")).status();
    assert!(made.expect("ssh-keygen").success());
    let socket = stack.path("agent");
    let mut agent = std::process::Command::new("ssh-agent");
    let _agent = Ended(agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().expect("ssh-agent"));
    let keys = |args: &[&str]| {
        let asked = std::process::Command::new("ssh-add").args(args).env("SSH_AUTH_SOCK", &socket).output().expect("ssh-add");
        String::from_utf8_lossy(&asked.stdout).into_owned()
    };
    eventually("the agent listens", 10, || socket.exists());
    keys(&[stack.path("key").to_str().expect("path")]);
    assert!(keys(&["-l"]).contains("ED25519"));
    stack.write(
        "Dockerfile",
        // Keys are listed. None is removed or added, and neither a lock nor a library is taken.
        "FROM busybox:local\nCOPY asks_agent /\nRUN --mount=type=ssh /asks_agent 11 19 9 17 22 20 26 11 > /answers\nRUN --mount=type=ssh,mode=0640,uid=3,gid=4 stat -c '%a %u %g' $SSH_AUTH_SOCK > /mode\nRUN --mount=type=ssh,id=other,required=false echo \"[$SSH_AUTH_SOCK]\" > /other\nRUN test ! -e /run/buildkit; echo \"[$SSH_AUTH_SOCK]\" > /after\n",
    );
    stack.write(
        "compose.yaml",
        "services: {app: {build: {context: ., ssh: [default]}, command: cat /answers /mode /other /after}}",
    );
    let with = |args: &[&str]| stack.command(args).env("SSH_AUTH_SOCK", &socket).output().expect("wharf");
    let built = with(&["build"]);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    assert_eq!(stack.wharf(&["run", "--rm", "-T", "app"]).ok(), "12 5 5 5 5 5 5 12 640 3 4\n[]\n[]\n");
    assert!(keys(&["-l"]).contains("ED25519"));
    // With an agent that has died, a step that is known is not run again, and one that is run has no answer.
    drop(std::os::unix::net::UnixListener::bind(stack.path("dead")).expect("socket"));
    let dead = |args: &[&str]| stack.command(args).env("SSH_AUTH_SOCK", stack.path("dead")).output().expect("wharf");
    assert!(dead(&["build"]).status.success());
    let failed = dead(&["build", "--no-cache"]);
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(!failed.status.success() && said.contains("`RUN --mount=type=ssh /asks_agent"), "{said}");
    let without = stack.command(&["build", "--no-cache"]).env_remove("SSH_AUTH_SOCK").output().expect("wharf");
    assert!(String::from_utf8_lossy(&without.stderr).contains("make sure SSH_AUTH_SOCK is set"));
    // A key, whatever its mode, has an agent of its own until the build is done.
    std::fs::set_permissions(stack.path("key"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("mode");
    let lent = with(&["build", "--no-cache", "--ssh", "default=key"]);
    assert!(lent.status.success(), "{}", String::from_utf8_lossy(&lent.stderr));
    assert!(stack.wharf(&["run", "--rm", "-T", "app"]).ok().starts_with("12 5 5 5 5 5 5 12 "));
    stack.write("no-key", "this is none\n");
    stack.wharf(&["build", "--ssh", "default=no-key"]).fails(1, &["no-key", "lending the key"]);
    stack.write("Dockerfile", "FROM busybox:local\nRUN --mount=type=ssh,id=git,required=true true\n");
    stack.wharf(&["image", "build", "."]).fails(1, &["Dockerfile:2", "the SSH agent `git` is required", "--ssh"]);
}

#[test]
fn what_a_build_may_be_given_besides() {
    let stack = Stack::new("nothing");
    stack.write(
        "Dockerfile",
        "FROM busybox:local AS first\nRUN cat /proc/sys/kernel/random/uuid > /first\nFROM busybox:local\nCOPY --from=first /first /first\nRUN cat /proc/sys/kernel/random/uuid > /second\nRUN ulimit -n > /limit\n",
    );
    let build = |args: &[&str]| {
        let ran = stack.wharf(&[&["image", "build", "-t", "x", "--progress", "plain"], args, &["."]].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        stack.wharf(&["container", "run", "--rm", "x", "cat", "/first", "/second", "/limit"]).ok()
    };
    let first = build(&["--ulimit", "nofile=99:100"]);
    assert!(first.ends_with("\n99\n"), "{first}");
    assert_eq!(build(&[]), first);
    let fresh = build(&["--no-cache-filter", "first"]);
    assert_ne!(fresh.lines().next(), first.lines().next(), "the stage is made anew");
    stack.write(
        "Dockerfile",
        "FROM busybox:local\nRUN --security=insecure mount -t tmpfs none /tmp && grep -c /tmp /proc/mounts\n",
    );
    stack.wharf(&["image", "build", "."]).fails(1, &["Dockerfile:2", "not allowed to this build", "security.insecure"]);
    stack.wharf(&["image", "build", "--allow", "security.insecure", "."]).ok();
}

#[test]
fn steps_are_taken_from_an_image_of_another_machine() {
    let registry = Registry::start();
    let stack = Stack::new("nothing");
    let reference = format!("127.0.0.1:{}/cache:1", registry.port);
    stack.write("input", "same");
    stack.write("Dockerfile", "FROM busybox:local\nCOPY input /input\nRUN cat /proc/sys/kernel/random/uuid > /when\nENV A=b\nRUN cat /proc/sys/kernel/random/uuid > /later\n");
    stack.write(
        "compose.yaml",
        &format!("services: {{app: {{build: {{context: ., cache_from: ['{reference}'], cache_to: ['type=registry,ref={reference}']}}, command: cat /when /later}}}}"),
    );
    let first = stack.wharf(&["build"]);
    assert!(first.code == 0 && first.stderr.contains("taking no steps from"), "{}", first.stderr);
    let made = stack.wharf(&["run", "--rm", "-T", "app"]).ok();
    // Elsewhere nothing is known, and nothing has to be made.
    let other = Stack::new("nothing");
    for name in ["input", "Dockerfile", "compose.yaml"] {
        std::fs::copy(stack.path(name), other.path(name)).expect("copy");
    }
    let second = other.wharf(&["build"]);
    assert_eq!((second.code, second.stdout.matches("CACHED").count()), (0, 3), "{}", second.stdout);
    assert_eq!(other.wharf(&["run", "--rm", "-T", "app"]).ok(), made);
    other.write("input", "another");
    let third = other.wharf(&["build"]);
    assert!(third.code == 0 && !third.stdout.contains("CACHED"), "{}", third.stdout);
}

#[test]
fn mirrors_are_asked_first_and_insecure_registries_are_reached() {
    let registry = Registry::on("0.0.0.0", &[]);
    let stack = Stack::new("nothing");
    let local = format!("127.0.0.1:{}", registry.port);
    stack.wharf(&["image", "tag", "busybox:local", &format!("{local}/library/mirrored:1")]).ok();
    stack.wharf(&["image", "push", &format!("{local}/library/mirrored:1")]).ok();
    stack.wharf(&["engine", "stop"]).ok();
    let config = stack.path("config.json");
    // Not a loopback address: plain HTTP needs the configuration's word.
    let address = Command::new("hostname").arg("-I").output().expect("hostname");
    let address = String::from_utf8_lossy(&address.stdout).split_whitespace().find(|a| a.contains('.')).map(str::to_string);
    let insecure = format!("{}:{}", address.clone().unwrap_or_default(), registry.port);
    let wharf = |args: &[&str]| {
        let output = stack.command(args).env("WHARF_CONFIG", &config).output().expect("wharf");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    std::fs::write(&config, format!("{{\"registry-mirrors\": [\"http://{local}\"]}}")).expect("write");
    let (code, said) = wharf(&["image", "pull", "mirrored:1"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(stack.wharf(&["image", "ls"]).ok().lines().any(|l| l.starts_with("mirrored ")), "under its own name");
    if address.is_some() {
        let name = format!("{insecure}/library/mirrored:1");
        assert_ne!(wharf(&["image", "pull", &name]).0, Some(0));
        // Read anew: no restart is needed.
        std::fs::write(&config, format!("{{\"insecure-registries\": [\"{insecure}\"]}}")).expect("write");
        let (code, said) = wharf(&["image", "pull", &name]);
        assert_eq!(code, Some(0), "{said}");
    }
    std::fs::write(&config, "{\"registry-mirror\": []}").expect("write");
    let (code, said) = wharf(&["image", "pull", "mirrored:1"]);
    assert!(code == Some(1) && said.contains("config.json") && said.contains("registry-mirror"), "{said}");
}

#[test]
fn what_was_imported_is_pushed_as_it_came() {
    let registry = Registry::start();
    let stack = Stack::new("nothing");
    // An archive that nobody would write again the same way: out of order, with another's headers.
    let mut tar = tar::Builder::new(Vec::new());
    for name in ["z", "a"] {
        let mut header = tar::Header::new_ustar();
        header.set_size(1);
        header.set_mode(0o644);
        header.set_mtime(12);
        tar.append_data(&mut header, name, &b"x"[..]).expect("append");
    }
    std::fs::write(stack.path("odd.tar"), tar.into_inner().expect("tar")).expect("write");
    let name = format!("127.0.0.1:{}/odd:1", registry.port);
    stack.wharf(&["image", "import", stack.path("odd.tar").to_str().expect("path"), &name]).ok();
    stack.wharf(&["image", "prune"]).ok();
    stack.wharf(&["image", "push", &name]).ok();
    stack.wharf(&["image", "save", "-o", "saved.tar", &name]).ok();
    let elsewhere = Stack::bare("nothing");
    elsewhere.wharf(&["image", "pull", &name]).ok();
    let loaded = Stack::bare("nothing");
    loaded.wharf(&["image", "load", stack.path("saved.tar").to_str().expect("path")]).ok();
    loaded.wharf(&["image", "push", &name]).ok();
}

const SCANNER: &str = r#"#!/bin/sh
set -e
for target in "$BUILDKIT_SCAN_SOURCE" ${BUILDKIT_SCAN_SOURCE_EXTRAS:+$BUILDKIT_SCAN_SOURCE_EXTRAS/*}; do
  if touch $target/written 2>/dev/null; then echo "$target can be written"; exit 9; fi
  mkdir -p $BUILDKIT_SCAN_DESTINATION
  printf '{"spdxVersion": "SPDX-2.3", "name": "%s", "comment": "%s"}' $(basename $target) "$(cat $target/version $target/tool 2>/dev/null)" \
    > $BUILDKIT_SCAN_DESTINATION/$(basename $target).spdx.json
done
echo scanned once more
"#;

#[test]
fn images_tell_what_they_were_made_of() {
    let registry = Registry::start();
    let stack = Stack::new("nothing");
    let name = format!("127.0.0.1:{}/team/app:1", registry.port);
    stack.write("scan.sh", SCANNER);
    stack.write("scanner", "FROM busybox:local\nCOPY --chmod=755 scan.sh /scan.sh\nENTRYPOINT [\"/scan.sh\"]\n");
    stack.wharf(&["image", "build", "-q", "-f", "scanner", "-t", "scanner:1", "."]).ok();
    stack.write("token", "hunter2");
    stack.write(
        "Dockerfile",
        "FROM busybox:local AS tools\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN --network=none echo hammer > /tool\n\
         FROM busybox:local\nARG VERSION\nCOPY --from=tools /tool /bin/tool\n\
         RUN --network=none --mount=type=secret,id=token echo $VERSION > /version\nCMD [\"cat\", \"/version\"]\n",
    );
    let compose = |said: &str| {
        let file = format!(
            "services: {{app: {{image: '{name}', build: {{context: ., args: {{VERSION: seven}}, secrets: [token], {said}}}}}}}\nsecrets: {{token: {{file: ./token}}}}"
        );
        stack.write("compose.yaml", &file);
    };
    compose("provenance: 'builder-id=https://ci.example/7', sbom: 'generator=scanner:1'");
    let built = stack.wharf(&["build", "--progress", "plain"]);
    assert!(built.code == 0 && built.stdout.contains("scanned once more"), "{}", built.stdout);
    let again = stack.wharf(&["build", "--progress", "plain"]);
    assert!(again.code == 0 && !again.stdout.contains("scanned once more"), "{}", again.stdout);
    stack.wharf(&["image", "prune", "-f"]).ok();
    assert_eq!(stack.wharf(&["image", "inspect", "-f", "{{len .Attestations}}", &name]).ok().trim(), "3");
    stack.wharf(&["push"]).ok();

    // As any client of a registry sees it.
    let get = |path: &str| -> serde_json::Value {
        let url = format!("http://127.0.0.1:{}/v2/team/app/{path}", registry.port);
        let accept = "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
        let output = Command::new("curl").args(["-sSf", "-H", accept, &url]).output().expect("curl");
        assert!(output.status.success(), "{path}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let read = || {
        let index = get("manifests/1");
        let image = &index["manifests"][0];
        let about = &index["manifests"][1];
        assert_eq!((&image["platform"]["os"], &about["platform"]["os"]), (&"linux".into(), &"unknown".into()));
        assert_eq!(about["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
        assert_eq!(about["annotations"]["vnd.docker.reference.digest"], image["digest"]);
        let said = get(&format!("manifests/{}", about["digest"].as_str().expect("digest")));
        let said = said["layers"].as_array().expect("layers").iter().map(|layer| {
            let statement = get(&format!("blobs/{}", layer["digest"].as_str().expect("digest")));
            assert_eq!(layer["annotations"]["in-toto.io/predicate-type"], statement["predicateType"]);
            let subject = format!("sha256:{}", statement["subject"][0]["digest"]["sha256"].as_str().expect("subject"));
            assert_eq!(image["digest"], subject.as_str(), "it is about this image");
            statement
        });
        said.collect::<Vec<_>>()
    };
    let said = read();
    let bills: Vec<_> =
        said.iter().filter(|s| s["predicateType"] == "https://spdx.dev/Document").map(|s| &s["predicate"]).collect();
    let mut seen: Vec<_> =
        bills.iter().map(|b| (b["name"].as_str().expect("name"), b["comment"].as_str().expect("comment"))).collect();
    seen.sort_unstable();
    assert_eq!(seen, [("sbom", "seven"), ("sbom-tools", "hammer")]);
    let provenance = said.iter().find(|s| s["predicateType"] == "https://slsa.dev/provenance/v1").expect("provenance");
    let (definition, run) = (&provenance["predicate"]["buildDefinition"], &provenance["predicate"]["runDetails"]);
    let request = &definition["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:VERSION"], "seven");
    assert_eq!(request["secrets"][0]["id"], "token");
    assert_eq!(definition["externalParameters"]["configSource"]["path"], "Dockerfile");
    assert_eq!(run["builder"]["id"], "https://ci.example/7");
    assert_eq!(run["metadata"]["buildkit_hermetic"], true);
    assert_eq!(run["metadata"]["buildkit_metadata"]["source"]["infos"][0]["filename"], "Dockerfile");
    let bases: Vec<&str> =
        definition["resolvedDependencies"].as_array().expect("list").iter().map(|d| d["uri"].as_str().expect("uri")).collect();
    assert!(bases.iter().any(|uri| uri.starts_with("pkg:docker/busybox@local?platform=linux%2F")), "{bases:?}");
    assert!(!serde_json::to_string(&said).expect("text").contains("hunter2"), "a secret is told");
    // The index leads others to the image.
    let other = Stack::bare("none");
    other.write("compose.yaml", &format!("services: {{app: {{image: '{name}'}}}}"));
    assert_eq!(other.wharf(&["up", "--no-log-prefix"]).ok().lines().find(|line| *line == "seven"), Some("seven"));

    // Little is told by `mode=min`, and nothing when nothing is asked for.
    compose("provenance: mode=min");
    stack.wharf(&["build", "--push"]).ok();
    let said = read();
    assert_eq!(said.len(), 1);
    assert!(!serde_json::to_string(&said).expect("text").contains("seven"), "{said:?}");
    compose("provenance: false");
    stack.wharf(&["build", "--push"]).ok();
    assert!(get("manifests/1")["manifests"].is_null());
    let hidden = |text: &str| {
        let blobs = std::fs::read_dir(stack.data_root().join("images/blobs/sha256")).expect("blobs").flatten();
        blobs.filter(|blob| String::from_utf8_lossy(&std::fs::read(blob.path()).expect("blob")).contains(text)).count()
    };
    stack.wharf(&["image", "prune", "-f"]).ok();
    assert_eq!(hidden("slsa.dev"), 0, "what was said of earlier builds goes with them");

    compose("sbom: generator=busybox:local");
    stack.wharf(&["build"]).fails(1, &["building `app`", "busybox:local wrote no bill of materials", "spdx.json"]);
    compose("provenance: mode=all");
    stack.wharf(&["build"]).fails(1, &["services.app.build", "`mode=all`", "mode=max"]);
    stack.write("broken", "FROM busybox:local\nENTRYPOINT [\"sh\", \"-c\", \"echo no licence; exit 3\"]\n");
    stack.wharf(&["image", "build", "-q", "-f", "broken", "-t", "broken:1", "."]).ok();
    stack
        .wharf(&["image", "build", "-t", "x", "--attest", "type=sbom,generator=broken:1", "."])
        .fails(1, &["broken:1", "exit code 3", "no licence"]);
    stack.write("compose.yaml", "services: {}");
}
