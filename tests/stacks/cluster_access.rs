//! Kubeconfigs, credential plugins and certificates: as whom `wharf kubernetes` asks, and what it says of secrets (nothing).

use super::cluster::Room;
use super::support::Ran;
use super::support::api_server::kubeconfig;
use serde_json::{Value as Json, json};
use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};

/// A kubeconfig for the room's server, with another user or other fields of the cluster.
fn with(room: &Room, user: Json, cluster: Json) -> String {
    let mut config: Json = serde_json::from_str(&room.server.kubeconfig()).expect("JSON");
    config["users"][0]["user"] = user;
    for (key, value) in cluster.as_object().into_iter().flatten() {
        config["clusters"][0]["cluster"][key] = value.clone();
    }
    config.to_string()
}

fn as_user(room: &Room, user: Json) -> Ran {
    room.write("kubeconfig", &with(room, user, json!({})));
    room.kubernetes(&["status"])
}

fn plugin(script: &str) -> Json {
    json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", "command": "sh", "args": ["-c", script]}})
}

/// The header of the last request.
fn authorization(room: &Room) -> String {
    room.server.lock().authorization.clone()
}

#[test]
fn a_kubeconfig_with_a_mistake_shows_no_secrets() {
    let room = Room::new();
    let before = "apiVersion: v1\nusers:\n- name: u\n  user:\n    token: SUPERTOKEN\n    client-key-data: SECRETKEY\n";
    for (mistake, place) in
        [("    username: [5]\n", "line 7"), ("    username: 'x\n", "line "), ("    exec: SECRETEXEC\n", "line ")]
    {
        room.write("kubeconfig", &format!("{before}{mistake}"));
        let refused = room.kubernetes(&["status"]).fails(1, &["the kubeconfig is wrong in", place]);
        assert!(!refused.stderr.contains("SUPERTOKEN") && !refused.stderr.contains("SECRET"), "{}", refused.stderr);
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    }
}

#[test]
fn what_a_credential_plugin_writes_is_not_shown() {
    let room = Room::new();
    let credential = |status: Json| format!("printf %s '{}'", json!({"kind": "ExecCredential", "status": status}));
    as_user(&room, plugin(&credential(json!({"token": "from-plugin"})))).ok();
    assert_eq!(authorization(&room), "Bearer from-plugin");
    for (script, words) in [
        ("echo PLUGSECRET garbage".to_string(), "has not written an ExecCredential"),
        ("echo '{\"status\": {\"token\": [\"PLUGSECRET\"]}}'".into(), "has not written an ExecCredential (line 1"),
        ("echo '{\"token\": \"PLUGSECRET\"}'".into(), "without a `status`"),
        ("echo PLUGSECRET; exit 3".into(), "has failed (exit status: 3)"),
        (credential(json!({"token": "PLUGSECRET", "expirationTimestamp": "PLUGSECRET"})), "expirationTimestamp that is no time"),
        (credential(json!({"token": "PLUGSECRET\nx"})), "its token has a line break"),
    ] {
        let refused = as_user(&room, plugin(&script)).fails(1, &["the context `fake` cannot be used", words]);
        assert!(!refused.stderr.contains("PLUGSECRET"), "{}", refused.stderr);
    }
    let mut absent = plugin("");
    absent["exec"]["command"] = json!("no-such-plugin");
    absent["exec"]["installHint"] = json!("install it\u{1b}[2J");
    as_user(&room, absent).fails(1, &["running its credential plugin `no-such-plugin`", "install it\\u{1b}[2J"]);
}

/// A token that is short for this world is renewed.
#[test]
fn a_plugin_is_run_again_when_its_token_is_over() {
    let room = Room::new();
    let script = "echo x >> runs; echo '{\"status\": {\"token\": \"t'$(wc -l < runs)'\", \"expirationTimestamp\": \"2026-01-01T00:00:00Z\"}}'";
    as_user(&room, plugin(script)).ok();
    let runs = std::fs::read_to_string(room.directory.path().join("runs")).expect("runs").lines().count();
    assert!(runs > 2, "{runs}");
    assert_eq!(authorization(&room), format!("Bearer t{runs}"));
}

#[test]
fn tokens_with_line_breaks() {
    let room = Room::new();
    as_user(&room, json!({"token": "abc\n"})).ok();
    assert_eq!(authorization(&room), "Bearer abc");
    let refused = as_user(&room, json!({"token": "SECRET\nx"})).fails(1, &["cannot be used: its token has a line break"]);
    assert!(!refused.stderr.contains("SECRET"), "{}", refused.stderr);
    // In a file beside the kubeconfig.
    room.write("token", "of-file\n");
    as_user(&room, json!({"tokenFile": "token"})).ok();
    assert_eq!(authorization(&room), "Bearer of-file");
    room.write("token", "SECRET\nx");
    let refused = as_user(&room, json!({"tokenFile": "token"})).fails(1, &["its token has a line break"]);
    assert!(!refused.stderr.contains("SECRET"), "{}", refused.stderr);
    as_user(&room, json!({"auth-provider": {"name": "oidc", "config": {"id-token": "SECRET\nx"}}})).fails(1, &["line break"]);
    as_user(&room, json!({"username": "u", "password": "p\n"})).ok();
    assert!(authorization(&room).starts_with("Basic "), "{}", authorization(&room));
}

/// In 512 MiB of memory: what has no end is not read to its end.
#[test]
fn files_and_plugins_without_an_end() {
    let room = Room::new();
    let limited = |args: &[&str]| {
        let mut command = Command::new("prlimit");
        command.args(["--as=536870912", env!("CARGO_BIN_EXE_wharf"), "kubernetes"]).args(args).current_dir(room.directory.path());
        command.env("KUBECONFIG", room.directory.path().join("kubeconfig")).env("MALLOC_ARENA_MAX", "2").stdin(Stdio::null());
        let output = command.output().expect("prlimit runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    };
    limited(&["status", "--kubeconfig", "/dev/zero"]).fails(1, &["reading the kubeconfig /dev/zero: it is longer than 8 MiB"]);
    for (user, cluster, words) in [
        (plugin("exec yes AAAAAAAAAAAAAAAAAAAA"), json!({}), "its credential plugin `sh` writes more than 1 MiB"),
        (json!({"tokenFile": "/dev/zero"}), json!({}), "reading the token file /dev/zero: it is longer than 1 MiB"),
        (json!({"client-key": "/dev/zero"}), json!({}), "reading its client-key /dev/zero: it is longer than 1 MiB"),
        (json!({}), json!({"certificate-authority": "/dev/zero"}), "reading its certificate-authority /dev/zero: it is longer"),
    ] {
        room.write("kubeconfig", &with(&room, user, cluster));
        limited(&["status"]).fails(1, &[words]);
    }
}

#[test]
fn passwords_of_addresses_are_not_shown() {
    let room = Room::new();
    room.write("kubeconfig", &kubeconfig("fake", "http://user:PWSECRET@127.0.0.1:1"));
    let away = room.kubernetes(&["status"]).fails(1, &["the API server http://user:xxxxx@127.0.0.1:1/ cannot be reached"]);
    assert!(!away.stderr.contains("PWSECRET"), "{}", away.stderr);
    room.write("kubeconfig", &with(&room, json!({}), json!({"proxy-url": "foo://pu:PWSECRET@127.0.0.1:1"})));
    let proxy = room.kubernetes(&["status"]).fails(1, &["the context `fake` cannot be used", "foo://pu:xxxxx@127.0.0.1:1"]);
    assert!(!proxy.stderr.contains("PWSECRET"), "{}", proxy.stderr);
}

#[test]
fn addresses_that_are_none() {
    let room = Room::new();
    for server in ["localhost:1", "127.0.0.1", "/x", "ftp://127.0.0.1:1"] {
        room.write("kubeconfig", &kubeconfig("fake", server));
        room.kubernetes(&["status"]).fails(1, &["the context `fake` cannot be used", server, "begins with `https://`"]);
    }
}

/// A server of TLS that has a certificate of openssl's making.
struct TlsServer {
    child: std::process::Child,
    port: u16,
}

impl TlsServer {
    fn start(room: &Room, name: &str, more: &[&str]) -> Self {
        let openssl = |args: &[&str]| {
            let output = Command::new("openssl").args(args).current_dir(room.directory.path()).output().expect("openssl");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let make = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj"];
        let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
        openssl(&[&make[..], &["/CN=server", "-keyout", &key, "-out", &pem], more].concat());
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let mut child = Command::new("openssl")
            .args(["s_server", "-quiet", "-www", "-accept", &format!("127.0.0.1:{port}"), "-key", &key, "-cert", &pem])
            .current_dir(room.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        let _ = child.stdin.take().map(|mut stdin| stdin.flush());
        super::support::eventually("the server listens", 20, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        TlsServer { child, port }
    }

    /// Asks it with an authority.
    fn asked(&self, room: &Room, authority: &str) -> Ran {
        let server = format!("https://127.0.0.1:{}", self.port);
        room.write("kubeconfig", &with(room, json!({}), json!({"server": server, "certificate-authority": authority})));
        room.kubernetes(&["status"])
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_certificate_that_is_not_taken_says_what_to_do() {
    let room = Room::new();
    let leaf = ["-addext", "basicConstraints=critical,CA:FALSE"];
    let authority = TlsServer::start(&room, "ca", &["-addext", "subjectAltName=IP:127.0.0.1"]);
    let refused =
        authority.asked(&room, "ca.pem").fails(1, &["that of an authority (CA:TRUE", "basicConstraints=critical,CA:FALSE"]);
    assert!(!refused.stderr.contains("CaUsedAsEndEntity"), "{}", refused.stderr);
    let named = TlsServer::start(&room, "named", &[&leaf[..], &["-addext", "subjectAltName=DNS:other.example"]].concat());
    named.asked(&room, "named.pem").fails(1, &["its certificate is that of another name", "`tls-server-name`"]);
    named.asked(&room, "ca.pem").fails(1, &["none of the authorities of the kubeconfig has signed", "`certificate-authority`"]);
    // What the words advise is taken: openssl's page is then no API server's.
    let right = TlsServer::start(&room, "right", &[&leaf[..], &["-addext", "subjectAltName=IP:127.0.0.1"]].concat());
    right.asked(&room, "right.pem").fails(1, &["is not an API server's"]);
}
