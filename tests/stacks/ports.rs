//! The API on TCP ports, with clients that show certificates: curl and openssl.

use crate::support::{Stack, eventually};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A port that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// Two authorities, and what they have signed.
struct Authorities(tempfile::TempDir);

impl Authorities {
    fn new() -> Self {
        let made = Authorities(tempfile::tempdir().expect("a directory"));
        for name in ["ca", "foreign"] {
            made.openssl(&format!("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.pem"));
        }
        made.sign("server", "ca", "serverAuth", "20200101000000Z", "20490101000000Z");
        made.sign("client", "ca", "clientAuth", "20200101000000Z", "20490101000000Z");
        made.sign("expired", "ca", "clientAuth", "20200101000000Z", "20200102000000Z");
        made.sign("early", "ca", "clientAuth", "20480101000000Z", "20490101000000Z");
        made.sign("stranger", "foreign", "clientAuth", "20200101000000Z", "20490101000000Z");
        made
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn openssl(&self, words: &str) {
        let output = Command::new("openssl").args(words.split(' ')).current_dir(self.0.path()).output().expect("openssl");
        assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn sign(&self, name: &str, authority: &str, usage: &str, from: &str, to: &str) {
        let config = format!(
            "[ca]\ndefault_ca=d\n[d]\ndatabase={name}.index\nnew_certs_dir=.\nserial={name}.serial\ndefault_md=sha256\npolicy=p\nx509_extensions=x\n[p]\ncommonName=supplied\n[x]\nextendedKeyUsage={usage}\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n"
        );
        for (file, text) in [("cnf", config.as_str()), ("index", ""), ("serial", "01")] {
            std::fs::write(self.path(&format!("{name}.{file}")), text).expect("a file");
        }
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "ca -batch -notext -config {name}.cnf -cert {authority}.pem -keyfile {authority}.key -startdate {from} -enddate {to} -in {name}.csr -out {name}.pem"
        ));
    }

    /// The options of an engine that takes clients of `ca`.
    fn options(&self) -> Vec<String> {
        let file = |option: &str, name: &str| [option.to_string(), self.path(name)];
        let files = [file("--tlscacert", "ca.pem"), file("--tlscert", "server.pem"), file("--tlskey", "server.key")];
        std::iter::once("--tlsverify".to_string()).chain(files.into_iter().flatten()).collect()
    }

    /// Asks as a client: `name` has a certificate, or is nobody.
    fn curl(&self, name: &str, url: &str, more: &[&str]) -> Output {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20", "--cacert"]).arg(self.path("ca.pem"));
        if !name.is_empty() {
            command.arg("--cert").arg(self.path(&format!("{name}.pem")));
            command.arg("--key").arg(self.path(&format!("{name}.key")));
        }
        command.args(more).arg(url).output().expect("curl")
    }
}

/// An engine in the foreground, which ends with this.
struct Foreground(Child);

impl Foreground {
    fn start(stack: &Stack, options: &[&str]) -> Self {
        let log = std::fs::File::create(stack.path("log")).expect("a log");
        let mut command = stack.command(&["engine", "--replace"]);
        Foreground(command.args(options).stderr(log).spawn().expect("an engine"))
    }

    fn log(stack: &Stack) -> String {
        std::fs::read_to_string(stack.path("log")).expect("a log")
    }

    /// Starts one that does not come up, and returns what it says.
    fn refused(stack: &Stack, options: &[&str]) -> String {
        let output = stack.command(&["engine"]).args(options).output().expect("an engine");
        assert!(!output.status.success(), "{options:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn texts(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

fn body(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Clients with a certificate of the authority are served as on the socket, and nobody else.
#[test]
fn a_port_is_for_clients_with_a_certificate() {
    let authorities = Authorities::new();
    let stack = Stack::new("nothing");
    let port = free_port();
    let (listen, url) = (format!("tcp://127.0.0.1:{port}"), format!("https://127.0.0.1:{port}"));
    let options = [vec!["-H".to_string(), listen], authorities.options()].concat();
    let engine = Foreground::start(&stack, &texts(&options));
    let ping = |name: &str| authorities.curl(name, &format!("{url}/_ping"), &[]);
    eventually("a client with a certificate is served", 20, || body(&ping("client")) == "OK");
    for name in ["", "stranger", "expired", "early", "server"] {
        let refused = ping(name);
        assert!(!refused.status.success() && refused.stdout.is_empty(), "`{name}`: {refused:?}");
        assert_eq!(body(&ping("client")), "OK", "after `{name}`");
    }
    eventually("the log says why", 10, || {
        let log = Foreground::log(&stack);
        log.contains("a client of the API's port was not let in: 127.0.0.1:")
    });
    // Without TLS that alone is said.
    let plain =
        Command::new("curl").args(["-sS", "--max-time", "20", &format!("http://127.0.0.1:{port}/_ping")]).output().expect("curl");
    assert_eq!(body(&plain), "Client sent an HTTP request to an HTTPS server.\n", "{plain:?}");
    // An engine that cannot take its place leaves it there: a certificate that is renewed has another key for a moment.
    let key = authorities.path("client.key");
    for changed in [["--tlskey", key.as_str()], ["-H", "tcp://192.0.2.1:1"]] {
        let mut options = options.clone();
        let at = options.iter().position(|option| option == changed[0]).expect("the option");
        options[at + 1] = changed[1].to_string();
        let output = stack.command(&["engine", "--replace"]).args(&options).output().expect("an engine");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("the engine that runs, if any, goes on"), "{said}");
        assert_eq!(body(&ping("client")), "OK", "after {changed:?}");
    }
    // TLS 1.1 and before are over.
    let old = authorities.curl("client", &format!("{url}/_ping"), &["--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"]);
    assert!(!old.status.success(), "{old:?}");
    assert_eq!(body(&authorities.curl("client", &format!("{url}/_ping"), &["--tls-max", "1.2"])), "OK");
    // Streams: large ones, and upgraded ones.
    let body = json!({"Image": "busybox:local", "Cmd": ["sleep", "1000"]}).to_string();
    let json = ["-X", "POST", "-H", "Content-Type: application/json", "-d", &body];
    let made = authorities.curl("client", &format!("{url}/v1.45/containers/create?name=one"), &json);
    assert!(String::from_utf8_lossy(&made.stdout).contains("\"Id\""), "{made:?}");
    assert_eq!(stack.api("POST", "/containers/one/start", None).0, 204);
    let file = stack.path("export.tar").display().to_string();
    assert!(authorities.curl("client", &format!("{url}/containers/one/export"), &["-o", &file]).status.success());
    let listed = Command::new("tar").args(["-tf", &file]).output().expect("tar");
    assert!(listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains("bin/busybox"), "{listed:?}");
    let exec = json!({"Cmd": ["sh", "-c", "read a; echo got $a"], "AttachStdin": true, "AttachStdout": true});
    let (_, exec) = stack.api("POST", "/containers/one/exec", Some(&exec));
    let path = format!("/exec/{}/start", exec["Id"].as_str().expect("an id"));
    let said = upgraded(&authorities, port, &path, "typed\n");
    assert!(said.starts_with("HTTP/1.1 101 ") && said.ends_with("\x01\0\0\0\0\0\0\ngot typed\n"), "{said:?}");
    // The port goes with the engine.
    drop(engine);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    assert_eq!(stack.wharf(&["container", "rm", "-f", "one"]).code, 0);
    // An engine whose own certificate is over says so.
    let files = ["--tlscert", &authorities.path("expired.pem"), "--tlskey", &authorities.path("expired.key")];
    let options = ["-H", &format!("tcp://127.0.0.1:{}", free_port()), "--tlsverify", "--tlscacert", &authorities.path("ca.pem")];
    let _engine = Foreground::start(&stack, &[&options[..], &files].concat());
    let what = format!("no client takes the certificate in {}: certificate expired", authorities.path("expired.pem"));
    eventually("the log says that it has expired", 10, || Foreground::log(&stack).contains(&what));
}

/// What comes over an upgraded connection, by `openssl s_client`.
fn upgraded(authorities: &Authorities, port: u16, path: &str, input: &str) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-ign_eof", "-verify_return_error", "-connect", &format!("127.0.0.1:{port}")])
        .args([
            "-CAfile",
            &authorities.path("ca.pem"),
            "-cert",
            &authorities.path("client.pem"),
            "-key",
            &authorities.path("client.key"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    let mut stdin = client.stdin.take().expect("input");
    write!(stdin, "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}{input}").expect("asked");
    let output = client.wait_with_output().expect("openssl ends");
    drop(stdin);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Who does not finish its handshake is dropped; many of them keep nobody out.
#[test]
fn a_client_that_shows_nothing_is_dropped() {
    let authorities = Authorities::new();
    let stack = Stack::bare("none");
    let port = free_port();
    let options = [vec!["-H".to_string(), format!("tcp://127.0.0.1:{port}")], authorities.options()].concat();
    let _engine = Foreground::start(&stack, &texts(&options));
    let served = || body(&authorities.curl("client", &format!("https://127.0.0.1:{port}/_ping"), &[])) == "OK";
    eventually("it is served", 20, served);
    let begun = Instant::now();
    let silent: Vec<TcpStream> = (0..400).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("connected")).collect();
    assert!(served(), "beside those that say nothing");
    let mut slow = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    // A record that does not end.
    slow.write_all(&[0x16, 3, 1, 2, 0, 1]).expect("a beginning");
    for mut stream in silent.into_iter().chain([slow]) {
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
        // An end or a reset, and not a time that is over.
        let error = stream.read(&mut [0; 64]).err().map(|error| error.kind());
        assert!(!matches!(error, Some(std::io::ErrorKind::WouldBlock)), "it is still connected");
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(served(), "after them");
}

/// Without TLS a port is the loopback's, said loudly, and closed to pages of a browser.
#[test]
fn a_port_without_tls_is_the_loopbacks() {
    let authorities = Authorities::new();
    let stack = Stack::bare("none");
    let port = free_port();
    for address in [format!("tcp://0.0.0.0:{port}"), format!("tcp://[::]:{port}"), format!("tcp://192.0.2.1:{port}")] {
        let said = Foreground::refused(&stack, &["-H", &address]);
        assert!(said.contains("without TLS") && said.contains("--tlsverify"), "{said}");
    }
    for (options, words) in [
        (vec!["-H", "tcp://somewhere:1"], "is no address to listen on"),
        (vec!["-H", "fd://"], "is no address to listen on"),
        (vec!["-H", "ssh://somewhere"], "start it there by ssh"),
        (vec!["--tlsverify"], "--tlscacert"),
        (vec!["--tlscacert", "x"], "--tlsverify"),
    ] {
        let said = Foreground::refused(&stack, &options);
        assert!(said.contains(words), "{options:?}: {said}");
    }
    let listen = format!("tcp://127.0.0.1:{port}");
    for (file, other, words) in [
        ("--tlskey", "client.key", "reading "),
        ("--tlskey", "none.key", "reading "),
        ("--tlscert", "server.key", "it has no certificate"),
        ("--tlscacert", "server.csr", "it has no certificate"),
    ] {
        let mut options = authorities.options();
        let at = options.iter().position(|option| option == file).expect("the option");
        options[at + 1] = authorities.path(other);
        let said = Foreground::refused(&stack, &[&["-H", &listen], &texts(&options)[..]].concat());
        assert!(said.contains(words) && said.contains(other), "{file} {other}: {said}");
    }
    let taken = TcpListener::bind(("127.0.0.1", port)).expect("the port");
    assert!(Foreground::refused(&stack, &["-H", &listen]).contains("listening on tcp://127.0.0.1"), "a port that is taken");
    drop(taken);
    let second = free_port();
    let _engine = Foreground::start(&stack, &["-H", &listen, "-H", &format!("tcp://127.0.0.1:{second}")]);
    let ask = |port: u16, more: &[&str]| {
        let url = format!("http://127.0.0.1:{port}/_ping");
        let output = Command::new("curl").args(["-s", "--max-time", "20", "-w", " %{http_code}"]).args(more).arg(url).output();
        body(&output.expect("curl"))
    };
    eventually("both ports answer", 20, || ask(port, &[]) == "OK 200" && ask(second, &[]) == "OK 200");
    assert!(Foreground::log(&stack).contains("WITHOUT TLS"));
    for header in ["Host: rebound.example", "Origin: https://page.example", "Origin: null"] {
        assert!(ask(port, &["-H", header]).ends_with(" 403"), "{header}");
    }
    assert_eq!(ask(port, &["-H", &format!("Host: localhost:{port}")]), "OK 200");
}

/// An engine that a monitor brings back has the ports of the one that was killed.
#[test]
fn a_port_comes_back_with_the_engine() {
    let authorities = Authorities::new();
    let stack = Stack::new("nothing");
    let port = free_port();
    let options = [vec!["-H".to_string(), format!("tcp://127.0.0.1:{port}")], authorities.options()].concat();
    let mut engine = Foreground::start(&stack, &texts(&options));
    let served = || body(&authorities.curl("client", &format!("https://127.0.0.1:{port}/_ping"), &[])) == "OK";
    eventually("it is served", 20, served);
    stack.wharf(&["container", "run", "-d", "--name", "one", "busybox:local", "sleep", "1000"]).ok();
    engine.0.kill().expect("killed");
    engine.0.wait().expect("ended");
    eventually("the next one serves it", 20, served);
    let nobody = authorities.curl("", &format!("https://127.0.0.1:{port}/_ping"), &[]);
    assert!(!nobody.status.success(), "{nobody:?}");
    // Its port may be somebody else's by then: containers need their engine all the same.
    stack.wharf(&["engine", "stop"]).ok();
    drop(engine);
    stack.wharf(&["container", "rm", "-f", "one"]).ok();
}

/// The settings come from the environment as well, as a unit has them.
#[test]
fn a_units_environment_has_the_same_settings() {
    let authorities = Authorities::new();
    let stack = Stack::bare("none");
    let port = free_port();
    let mut command = stack.command(&["engine"]);
    command.env("WHARF_LISTEN", format!("tcp://127.0.0.1:{port}")).env("WHARF_TLSVERIFY", "1").stderr(Stdio::null());
    for (name, file) in [("WHARF_TLSCACERT", "ca.pem"), ("WHARF_TLSCERT", "server.pem"), ("WHARF_TLSKEY", "server.key")] {
        command.env(name, PathBuf::from(authorities.path(file)));
    }
    let _engine = Foreground(command.spawn().expect("an engine"));
    eventually("it is served", 20, || {
        let info: Option<Value> =
            serde_json::from_slice(&authorities.curl("client", &format!("https://127.0.0.1:{port}/version"), &[]).stdout).ok();
        info.is_some_and(|info| info["ApiVersion"] == "1.52")
    });
    assert!(!authorities.curl("", &format!("https://127.0.0.1:{port}/version"), &[]).status.success());
}
