//! Images: from a real registry server, from archives, onto a full disk, and hostile ones.

use crate::support::{Stack, busybox_tar, eventually};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::process::{Child, Command, Stdio};

/// Debian's docker-registry on a free port of loopback, with storage of its own.
pub struct Registry {
    child: Child,
    pub port: u16,
    storage: tempfile::TempDir,
    config: std::path::PathBuf,
}

impl Registry {
    pub fn start() -> Self {
        Self::with_users(&[])
    }

    /// A registry that only these users may use, each with a password; without any, everybody may.
    pub fn with_users(users: &[(&str, &str)]) -> Self {
        Self::on("127.0.0.1", users)
    }

    /// A registry on one of the host's addresses, or `0.0.0.0` for all.
    pub fn on(address: &str, users: &[(&str, &str)]) -> Self {
        let storage = tempfile::tempdir().expect("directory");
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port();
        let config = storage.path().join("config.yml");
        let passwords = storage.path().join("htpasswd");
        let mut auth = String::new();
        for (user, password) in users {
            let flags = if passwords.exists() { "-Bb" } else { "-Bbc" };
            let made = Command::new("htpasswd")
                .arg(flags)
                .arg(&passwords)
                .args([user, password])
                .output()
                .expect("htpasswd is installed");
            assert!(made.status.success());
            auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", passwords.display());
        }
        let text = format!(
            "{auth}version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}:{port}'}}\n",
            storage.path().join("data").display()
        );
        std::fs::write(&config, text).expect("config");
        let child = Self::serve(&config, port);
        Registry { child, port, storage, config }
    }

    fn serve(config: &std::path::Path, port: u16) -> Child {
        let child = Command::new("docker-registry")
            .args(["serve"])
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        eventually("the registry answers", 20, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        child
    }

    /// Kills the server, and starts it again on the same files.
    pub fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = Self::serve(&self.config, self.port);
    }

    /// Where the server keeps its files.
    pub fn files(&self) -> &std::path::Path {
        self.storage.path()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/v2/{path}", self.port)
    }

    pub fn curl(&self, args: &[&str], body: Option<&[u8]>) -> String {
        let mut command = Command::new("curl");
        command.args(["-sS", "-f", "-i"]).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("curl");
        child.stdin.take().expect("stdin").write_all(body.unwrap_or_default()).expect("body");
        let output = child.wait_with_output().expect("curl");
        assert!(output.status.success(), "curl {args:?} failed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Uploads a blob under the digest that it has.
    pub fn blob(&self, name: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        let begun = self.curl(&["-X", "POST", &self.url(&format!("{name}/blobs/uploads/")), "-H", "Content-Length: 0"], None);
        let location = begun.lines().find_map(|l| l.strip_prefix("Location: ")).expect("location").trim().to_string();
        let separator = if location.contains('?') { '&' } else { '?' };
        let target = format!("{location}{separator}digest={digest}");
        self.curl(&["-X", "PUT", "-H", "Content-Type: application/octet-stream", "--data-binary", "@-", &target], Some(bytes));
        digest
    }

    pub fn manifest(&self, name: &str, tag: &str, media_type: &str, json: &serde_json::Value) -> (String, usize) {
        let bytes = json.to_string().into_bytes();
        let header = format!("Content-Type: {media_type}");
        self.curl(
            &["-X", "PUT", "-H", &header, "--data-binary", "@-", &self.url(&format!("{name}/manifests/{tag}"))],
            Some(&bytes),
        );
        (digest(&bytes), bytes.len())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>())
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

/// A layer with one file, or whatever the closure makes.
pub fn layer(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    build(&mut builder);
    builder.into_inner().expect("tar")
}

pub fn file(builder: &mut tar::Builder<Vec<u8>>, name: &str, text: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    builder.append_data(&mut header, name, text.as_bytes()).expect("file");
}

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Three layers: busybox in gzip, a file in zstd, a whiteout and a file without compression.
fn push_image(registry: &Registry, name: &str) -> (serde_json::Value, Vec<String>) {
    let base = std::fs::read(busybox_tar()).expect("busybox");
    let second = layer(|b| file(b, "greeting", "from the second layer"));
    let third = layer(|b| {
        file(b, "etc/.wh.group", "");
        file(b, "third", "plain");
    });
    let diff_ids: Vec<String> = [&base, &second, &third].iter().map(|l| digest(l)).collect();
    let blobs = [gzip(&base), zstd::encode_all(&second[..], 3).expect("zstd"), third];
    let types = ["tar+gzip", "tar+zstd", "tar"];
    let layers: Vec<serde_json::Value> = blobs
        .iter()
        .zip(types)
        .map(|(blob, kind)| {
            serde_json::json!({"mediaType": format!("application/vnd.oci.image.layer.v1.{kind}"), "digest": registry.blob(name, blob), "size": blob.len()})
        })
        .collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Cmd": ["sh", "-c", "cat /greeting /third; ls /etc"], "Env": ["FROM=registry"],
                   "Healthcheck": {"Test": ["CMD", "true"], "Interval": 50_000_000}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes();
    let config_digest = registry.blob(name, &config);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
        "layers": layers,
    });
    (manifest, layers.iter().map(|l| l["digest"].as_str().expect("digest").to_string()).collect())
}

/// Pushes a manifest, and as the tag `1` an index that has it for one architecture. Returns the manifest's digest.
fn push_index(registry: &Registry, name: &str, manifest: &serde_json::Value, architecture: &str) -> String {
    let (digest, size) = registry.manifest(name, "native", OCI_MANIFEST, manifest);
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": index_type, "manifests": [
        {"mediaType": OCI_MANIFEST, "digest": digest, "size": size, "platform": {"architecture": architecture, "os": "linux"}},
    ]});
    registry.manifest(name, "1", index_type, &index);
    digest
}

#[test]
fn images_come_from_a_registry() {
    let registry = Registry::start();
    let (manifest, _) = push_image(&registry, "team/app");
    let native = push_index(&registry, "team/app", &manifest, "amd64");
    let stack = Stack::bare("none");
    let image = format!("127.0.0.1:{}/team/app:1", registry.port);
    stack.write("compose.yaml", &format!("services: {{app: {{image: '{image}'}}}}"));
    let up = stack.wharf(&["up", "-d"]);
    assert!(up.code == 0 && up.stderr.contains("Pulled"), "{}", up.stderr);
    eventually("the program has run", 5, || stack.state("app") == "exited");
    let said = stack.wharf(&["logs", "--no-log-prefix"]).ok();
    assert_eq!(said.trim(), "from the second layerplainhostname\nhosts\npasswd\nresolv.conf");
    let again = stack.wharf(&["pull"]).ok();
    assert_eq!(again, "");
    assert!(stack.wharf(&["images"]).ok().contains("team/app"));
    let by_digest = format!("127.0.0.1:{}/team/app@{native}", registry.port);
    stack.wharf(&["image", "pull", &by_digest]).ok();
    stack
        .wharf(&["image", "pull", &format!("127.0.0.1:{}/team/app:none", registry.port)])
        .fails(1, &["does not exist", "check the name and the tag"]);
    stack
        .wharf(&["image", "pull", &format!("127.0.0.1:{}/team/app@sha256:{}", registry.port, "0".repeat(64))])
        .fails(1, &["does not exist"]);
    stack.wharf(&["down"]).ok();
    stack.wharf(&["image", "rm", &image]).ok();
    stack.wharf(&["image", "rm", &by_digest]).ok();
    let layers = std::fs::read_dir(stack.data_root().join("images/layers")).expect("layers").count();
    assert_eq!(layers, 0, "layers go with the last image that needs them");
}

#[test]
fn tags_are_pinned_to_the_digests_that_a_registry_has_for_them() {
    let registry = Registry::start();
    let (manifest, _) = push_image(&registry, "pinned");
    push_index(&registry, "pinned", &manifest, "amd64");
    let stack = Stack::new("none");
    let image = format!("127.0.0.1:{}/pinned:1", registry.port);
    stack.write("compose.yaml", &format!("services: {{web: {{image: '{image}', hostname: a}}}}"));
    let pinned = stack.wharf(&["config", "--resolve-image-digests"]).ok();
    let line = pinned.lines().find_map(|line| line.trim().strip_prefix("image: ")).expect("an image");
    assert!(line.starts_with(&format!("{image}@sha256:")) && pinned.contains("hostname"), "{pinned}");
    stack.wharf(&["image", "pull", line]).ok();
    assert_eq!(stack.wharf(&["config", "--lock-image-digests"]).ok(), format!("services:\n  web:\n    image: {line}\n"));
}

#[test]
fn a_platform_that_is_not_this_machines_is_said() {
    let registry = Registry::start();
    let (manifest, _) = push_image(&registry, "other");
    push_index(&registry, "other", &manifest, "s390x");
    let stack = Stack::bare("none");
    stack.wharf(&["image", "pull", &format!("127.0.0.1:{}/other:1", registry.port)]).fails(1, &["linux/s390x", "linux/amd64"]);
}

/// How a small registry behaves.
#[derive(Clone, Copy, Default)]
pub struct Behaviour {
    /// It asks for this token, and gives it out itself, as registries with a token server do.
    token: Option<&'static str>,
    /// It closes the connection in the middle of every answer longer than 64 KiB, and knows ranges.
    breaks: bool,
    /// It sends those who want a layer to another server on this port.
    layers_at: Option<u16>,
    /// It refuses requests that bring credentials along.
    no_credentials: bool,
}

pub fn small_registry(blobs: std::collections::HashMap<String, Vec<u8>>, behaviour: Behaviour) -> u16 {
    let Behaviour { token, .. } = behaviour;
    use std::io::{BufRead, BufReader};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
    let port = listener.local_addr().expect("address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(stream.try_clone().expect("clone"));
            let mut first = String::new();
            let _ = reader.read_line(&mut first);
            let mut authorised = token.is_none();
            let (mut from, mut credentials) = (0usize, false);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                let bearer = token.map(|token| format!("authorization: bearer {token}"));
                authorised |= bearer.is_some_and(|bearer| line.trim().eq_ignore_ascii_case(&bearer));
                let lower = line.to_ascii_lowercase();
                credentials |= lower.starts_with("authorization:");
                if let Some(range) = lower.trim().strip_prefix("range: bytes=") {
                    from = range.trim_end_matches('-').parse().expect("a range");
                }
                line.clear();
            }
            let path = first.split(' ').nth(1).unwrap_or_default();
            let (mut status, mut extra, mut body) = if path.starts_with("/token?") {
                // The scope is part of the question: a token is for one repository.
                let scoped = path.contains("scope=repository%3Ax%3Apull") && path.contains("service=harbour");
                let given = if scoped { token.unwrap_or_default() } else { "wrong" };
                ("200 OK", String::new(), format!(r#"{{"token":"{given}"}}"#).into_bytes())
            } else if !authorised {
                let realm = format!("WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"harbour\"\r\n");
                ("401 Unauthorized", realm, Vec::new())
            } else {
                match blobs.get(path.rsplit('/').next().unwrap_or_default()) {
                    Some(blob) => ("200 OK", String::new(), blob.clone()),
                    None => ("404 Not Found", String::new(), Vec::new()),
                }
            };
            if let Some(other) = behaviour.layers_at.filter(|_| body.len() > 64 << 10) {
                (status, body) = ("307 Temporary Redirect", Vec::new());
                extra = format!("Location: http://127.0.0.1:{other}{path}\r\n");
            }
            if behaviour.no_credentials && credentials {
                (status, body) = ("400 Bad Request", Vec::new());
            }
            if from > 0 {
                status = "206 Partial Content";
                body.drain(..from);
            }
            let head = format!("HTTP/1.1 {status}\r\n{extra}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            if behaviour.breaks && body.len() > 64 << 10 {
                body.truncate(body.len() / 2);
            }
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    port
}

#[test]
fn wrong_digests_are_refused_and_nothing_is_kept() {
    let good = layer(|b| file(b, "a", "good"));
    let evil = layer(|b| file(b, "a", "evil"));
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest(&good)]}}).to_string().into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(&good), "size": good.len()}],
    });
    let blobs = [("latest".to_string(), manifest.to_string().into_bytes()), (digest(&config), config), (digest(&good), evil)];
    let port = small_registry(blobs.into(), Behaviour::default());
    let stack = Stack::bare("none");
    stack.wharf(&["image", "pull", &format!("127.0.0.1:{port}/x")]).fails(1, &["layer has the digest", "damaged or forged"]);
    for directory in ["layers", "staging"] {
        assert_eq!(std::fs::read_dir(stack.data_root().join("images").join(directory)).expect("directory").count(), 0);
    }
    assert_eq!(stack.wharf(&["image", "ls", "-q"]).ok(), "");
}

/// The blobs of an image of one layer, by digest, and its manifest as `latest`.
pub fn image_of(layer: Vec<u8>) -> std::collections::HashMap<String, Vec<u8>> {
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}})
        .to_string()
        .into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(&layer), "size": layer.len()}],
    });
    [("latest".to_string(), manifest.to_string().into_bytes()), (digest(&config), config), (digest(&layer), layer)].into()
}

#[test]
fn a_token_is_fetched_for_the_repository() {
    let blobs = image_of(layer(|b| file(b, "a", "behind a token")));
    let port = small_registry(blobs, Behaviour { token: Some("let-me-in"), ..Behaviour::default() });
    let stack = Stack::bare("none");
    stack.wharf(&["image", "pull", &format!("127.0.0.1:{port}/x")]).ok();
    assert!(stack.wharf(&["image", "ls"]).ok().contains(&format!("127.0.0.1:{port}/x")));
    stack.wharf(&["image", "pull", &format!("127.0.0.1:{port}/other")]).fails(1, &["does not exist", "needs a login"]);
}

/// The blobs of an image whose layer is larger than any buffer on its way.
fn large_image() -> std::collections::HashMap<String, Vec<u8>> {
    let mut noise = 1u32;
    let content: String = (0..600_000)
        .map(|_| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'a' + (noise >> 24) as u8 % 26)
        })
        .collect();
    image_of(layer(|b| file(b, "large", &content)))
}

#[test]
fn a_download_that_breaks_goes_on_where_it_broke() {
    let port = small_registry(large_image(), Behaviour { breaks: true, ..Behaviour::default() });
    let stack = Stack::bare("none");
    let pull = stack.wharf(&["image", "pull", &format!("127.0.0.1:{port}/x")]);
    assert!(pull.code == 0, "{}", pull.stderr);
    let layers = std::fs::read_dir(stack.data_root().join("images/layers")).expect("layers").flatten().next().expect("a layer");
    assert_eq!(std::fs::metadata(layers.path().join("diff/large")).expect("the file").len(), 600_000);
}

#[test]
fn credentials_stay_with_their_host() {
    let elsewhere = small_registry(large_image(), Behaviour { no_credentials: true, ..Behaviour::default() });
    let port =
        small_registry(large_image(), Behaviour { token: Some("secret"), layers_at: Some(elsewhere), ..Behaviour::default() });
    let stack = Stack::bare("none");
    let pull = stack.wharf(&["image", "pull", &format!("127.0.0.1:{port}/x")]);
    assert!(pull.code == 0, "{}", pull.stderr);
}

#[test]
fn what_nothing_needs_is_pruned() {
    let stack = Stack::new("none");
    stack.write("compose.yaml", "services: {a: {image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL}}");
    stack.wharf(&["up", "-d"]).ok();
    stack.write("Dockerfile", "FROM busybox:local\nRUN echo one > /file\n");
    stack.wharf(&["image", "build", "-t", "built", "."]).ok();
    stack.write("Dockerfile", "FROM busybox:local\nRUN echo two > /file\n");
    stack.wharf(&["image", "build", "-t", "built", "."]).ok();
    let layers = || std::fs::read_dir(stack.data_root().join("images/layers")).expect("layers").count();
    assert_eq!(layers(), 3);
    stack.wharf(&["image", "prune"]).ok();
    assert_eq!(layers(), 2, "the image that lost its name is gone, and its layer");
    stack.wharf(&["image", "prune", "--build-cache"]).ok();
    assert_eq!(layers(), 2, "those of the images that have a name stay");
    let said = stack.wharf(&["image", "prune", "-a", "--build-cache"]).ok();
    assert!(said.contains("Untagged: built") && !said.contains("busybox"), "{said}");
    assert_eq!(layers(), 1, "a container's layers stay");
    stack.wharf(&["restart"]).ok();
    stack.wharf(&["down"]).ok();
}

#[test]
fn a_full_disk_during_a_pull_leaves_no_half_image() {
    let registry = Registry::start();
    let (manifest, _) = push_image(&registry, "big");
    registry.manifest("big", "1", OCI_MANIFEST, &manifest);
    let stack = Stack::bare("none");
    let data = stack.data_root();
    std::fs::create_dir_all(&data).expect("directory");
    let mount =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "wharf-test-disk"]).arg(&data).status().expect("mount");
    assert!(mount.success());
    let pull = stack.wharf(&["image", "pull", &format!("127.0.0.1:{}/big:1", registry.port)]);
    let kept = stack.wharf(&["image", "ls", "-q"]);
    let staged = std::fs::read_dir(data.join("images/staging")).expect("staging").count();
    stack.wharf(&["engine", "stop"]).ok();
    // A mount namespace that another test makes this moment has it as well.
    eventually("nobody holds the disk", 10, || Command::new("umount").arg(&data).status().expect("umount").success());
    pull.fails(1, &["No space left on device", "free some space"]);
    assert_eq!((kept.ok().as_str(), staged), ("", 0));
}

#[test]
fn what_is_no_archive_is_told_whole() {
    let stack = Stack::bare("none");
    // Larger than what a socket holds: the answer comes while it is still sent. Not compressed, and no header of a tar.
    let noise: Vec<u8> = (0u64..4 << 20).flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7).to_le_bytes()).collect();
    std::fs::write(stack.path("noise"), noise).expect("write");
    for _ in 0..10 {
        let said = stack.wharf(&["image", "import", "noise", "x:1"]).fails(1, &["not a tar archive that can be read"]);
        assert!(!said.stderr.contains(char::REPLACEMENT_CHARACTER), "{}", said.stderr);
    }
    stack.wharf(&["engine", "stop"]).ok();
}

#[test]
fn archives_are_loaded() {
    let base = std::fs::read(busybox_tar()).expect("busybox");
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["echo", "loaded"]}, "rootfs": {"type": "layers", "diff_ids": [digest(&base)]}}).to_string();
    let saved = layer(|b| {
        let manifest =
            serde_json::json!([{"Config": "config.json", "RepoTags": ["saved:1"], "Layers": ["one/layer.tar"]}]).to_string();
        file(b, "manifest.json", &manifest);
        file(b, "config.json", &config);
        let mut header = tar::Header::new_gnu();
        header.set_size(base.len() as u64);
        header.set_mode(0o644);
        b.append_data(&mut header, "one/layer.tar", &base[..]).expect("layer");
    });
    let stack = Stack::bare("none");
    std::fs::write(stack.path("saved.tar"), gzip(&saved)).expect("write");
    assert!(stack.wharf(&["image", "load", "-i", "saved.tar"]).ok().contains("Loaded image: saved:1"));
    let name = |d: &str| format!("blobs/sha256/{}", d.trim_start_matches("sha256:"));
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config.as_bytes()), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(&base), "size": base.len()}],
    })
    .to_string();
    let layout = layer(|b| {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST, "digest": digest(manifest.as_bytes()), "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "layout:2"}}]});
        file(b, "oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        file(b, "index.json", &index.to_string());
        file(b, &name(&digest(manifest.as_bytes())), &manifest);
        file(b, &name(&digest(config.as_bytes())), &config);
        let mut header = tar::Header::new_gnu();
        header.set_size(base.len() as u64);
        header.set_mode(0o644);
        b.append_data(&mut header, name(&digest(&base)), &base[..]).expect("layer");
    });
    std::fs::write(stack.path("layout.tar"), &layout).expect("write");
    assert!(stack.wharf(&["image", "load", "layout.tar"]).ok().contains("layout:2"));
    stack.write("compose.yaml", "services: {a: {image: 'saved:1'}, b: {image: 'layout:2'}}");
    stack.wharf(&["up", "-d"]).ok();
    eventually("both have run", 5, || stack.wharf(&["logs", "--no-log-prefix"]).stdout.matches("loaded").count() == 2);
    std::fs::write(stack.path("bad.tar"), &layout[..layout.len() / 2]).expect("write");
    assert_eq!(stack.wharf(&["image", "load", "bad.tar"]).code, 1);
}

/// What is here is fetched from nowhere: neither by another image that has the same layers, nor after the image lost its name, nor
/// as an earlier version has left the store.
#[test]
fn layers_are_fetched_once() {
    let registry = Registry::start();
    let shared = [layer(|b| file(b, "one", "1")), layer(|b| file(b, "two", "2"))];
    let push = |name: &str, layers: &[&[u8]]| {
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": [name]}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = config.to_string().into_bytes();
        let layers: Vec<serde_json::Value> = layers
            .iter()
            .map(|layer| gzip(layer))
            .map(|blob| serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": registry.blob(name, &blob), "size": blob.len()}))
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": registry.blob(name, &config), "size": config.len()},
            "layers": layers,
        });
        registry.manifest(name, "1", OCI_MANIFEST, &manifest);
        format!("127.0.0.1:{}/{name}:1", registry.port)
    };
    let [one, two] = [&shared[0][..], &shared[1][..]];
    let images = [push("first", &[one, two]), push("second", &[one, two]), push("third", &[two, one])];
    let stack = Stack::bare("none");
    stack.wharf(&["image", "pull", &images[0]]).ok();
    // From now on the registry has no layer: who asks for one gets none.
    for layer in shared.iter().map(|layer| digest(&gzip(layer))) {
        let hex = layer.trim_start_matches("sha256:");
        let data = registry.files().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data");
        std::fs::remove_file(data).expect("the registry's blob");
    }
    let pulled = |image: &str| {
        let pull = stack.wharf(&["image", "pull", image]);
        assert!(pull.code == 0 && !pull.stderr.contains("Pull complete"), "{}", pull.stderr);
    };
    pulled(&images[1]);
    // The same layers the other way round are other directories of the same blobs.
    pulled(&images[2]);
    assert_eq!(std::fs::read_dir(stack.data_root().join("images/layers")).expect("layers").count(), 4);
    stack.wharf(&["image", "rm", &images[1]]).ok();
    pulled(&images[1]);
    stack.wharf(&["image", "rm", &images[1]]).ok();
    for layer in std::fs::read_dir(stack.data_root().join("images/layers")).expect("layers").flatten() {
        std::fs::remove_file(layer.path().join("blobs")).expect("what this version notes");
    }
    pulled(&images[1]);
    let noted = std::fs::read_dir(stack.data_root().join("images/layers")).expect("layers").flatten();
    assert_eq!(noted.filter(|layer| layer.path().join("blobs").exists()).count(), 2, "it is found out once");
    // A blob that a power cut has torn is not here.
    stack.wharf(&["image", "rm", &images[1]]).ok();
    for layer in std::fs::read_dir(stack.data_root().join("images/layers")).expect("layers").flatten() {
        let _ = std::fs::remove_file(layer.path().join("blobs"));
    }
    let torn = stack.data_root().join("images/blobs/sha256").join(digest(&gzip(two)).trim_start_matches("sha256:"));
    std::fs::write(&torn, &gzip(two)[..20]).expect("torn");
    stack.wharf(&["image", "pull", &images[1]]).fails(1, &["does not exist"]);
    assert!(!torn.exists());
}

/// Images without a name: built or committed without one, or their name has moved to another. They are listed, found by their id,
/// used by containers, named, pruned and removed.
#[test]
fn images_without_a_name_stay() {
    let stack = Stack::new("none");
    let build = |text: &str, tags: &[&str]| {
        stack.write("Dockerfile", &format!("FROM busybox:local\nRUN echo {text} > /text\nCMD [\"cat\", \"/text\"]\n"));
        let args = [&["image", "build", "-q"], tags, &["."]].concat();
        stack.wharf(&args).ok().trim().to_string()
    };
    let short = |id: &str| id.trim_start_matches("sha256:")[..12].to_string();
    let run = |image: &str| stack.wharf(&["container", "run", "--rm", "--network", "none", image]).ok().trim().to_string();
    let listed = |filter: &[&str]| {
        let lines = stack.wharf(&[&["image", "ls", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"], filter].concat()).ok();
        let mut lines: Vec<String> = lines.lines().map(str::to_string).collect();
        lines.sort();
        lines
    };
    let none = |id: &str| format!("<none>:<none> {}", short(id));
    let built = build("built", &[]);
    assert_eq!(run(&short(&built)), "built");
    let moved = build("old", &["-t", "app:1"]);
    let new = build("new", &["-t", "app:1"]);
    assert_eq!([run(&moved), run("app:1")], ["old", "new"]);
    stack.wharf(&["container", "create", "--name", "keeps", "--network", "none", &moved]).ok();
    let committed = stack.wharf(&["container", "commit", "keeps"]).ok().trim().to_string();
    let mut expected = vec![none(&built), none(&moved), none(&committed)];
    expected.sort();
    assert_eq!(listed(&["-f", "dangling=true"]), expected);
    expected.extend([format!("app:1 {}", short(&new)), listed(&["busybox:local"]).remove(0)]);
    expected.sort();
    assert_eq!(listed(&[]), expected);
    assert_eq!(listed(&["-f", "dangling=false"]).len(), 2);
    let inspected: serde_json::Value =
        serde_json::from_str(&stack.wharf(&["image", "inspect", &short(&moved)]).ok()).expect("JSON");
    assert_eq!((&inspected[0]["Id"], inspected[0]["RepoTags"].as_array().map(Vec::len)), (&moved.clone().into(), Some(0)));
    // A build for files alone leaves none.
    stack.wharf(&["image", "build", "-q", "-o", "out", "."]).ok();
    assert_eq!(listed(&["-f", "dangling=true"]).len(), 3);
    // One gets a name, and loses it with another's coming, twice the same image.
    stack.wharf(&["image", "tag", &built, "named:1"]).ok();
    assert_eq!(listed(&["-f", "dangling=true"]).len(), 2);
    stack.wharf(&["image", "tag", "app:1", "named:1"]).ok();
    assert_eq!(build("new", &["-t", "app:1"]), new);
    assert_eq!(listed(&["-f", "dangling=true"]).len(), 3);
    // What a container uses stays.
    stack.wharf(&["image", "rm", &short(&moved)]).fails(1, &["in use by the container keeps"]);
    stack.wharf(&["image", "rm", &short(&committed)]).ok();
    stack.wharf(&["image", "prune", "-f"]).ok();
    assert_eq!(listed(&["-f", "dangling=true"]), [none(&moved)]);
    stack.wharf(&["container", "rm", "keeps"]).ok();
    stack.wharf(&["engine", "stop"]).ok();
    assert_eq!(run(&moved), "old", "a new engine knows it");
    stack.wharf(&["image", "prune", "-f"]).ok();
    stack.wharf(&["image", "inspect", &moved]).fails(1, &[&moved]);
    assert_eq!(run("app:1"), "new");
}

/// An archive as `docker save` makes it, of busybox, for another machine.
fn archive_for(stack: &Stack, name: &str, system: &str, architecture: &str) -> String {
    use sha2::Digest;
    let layer = std::fs::read(crate::support::busybox_tar()).expect("the layer");
    let diff_id: String = sha2::Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = serde_json::json!({
        "os": system, "architecture": architecture, "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]}
    });
    let listed = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    let mut tar = tar::Builder::new(Vec::new());
    for (member, bytes) in [
        ("manifest.json", listed.to_string().into_bytes()),
        ("config.json", config.to_string().into_bytes()),
        ("layer.tar", layer),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, member, &bytes[..]).expect("member");
    }
    let path = stack.path("other.tar");
    std::fs::write(&path, tar.into_inner().expect("archive")).expect("written");
    path.display().to_string()
}

/// As with Docker: an image of another system is not loaded, and one of another processor is used with a warning.
#[test]
fn an_image_of_another_machine_is_refused_or_warned_of() {
    let stack = Stack::new("nothing");
    let windows = archive_for(&stack, "windows:1", "windows", "amd64");
    stack.wharf(&["image", "load", "-i", &windows]).fails(1, &["cannot load windows image on linux"]);
    assert!(!stack.wharf(&["image", "ls"]).ok().contains("windows"));
    let own = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    for (architecture, is_other) in [("riscv64", true), (own, false), ("", false)] {
        let archive = archive_for(&stack, "other:1", "linux", architecture);
        stack.wharf(&["image", "load", "-i", &archive]).ok();
        let warning = format!(
            "The requested image's platform (linux/riscv64) does not match the detected host platform (linux/{own}) and no specific platform was requested"
        );
        stack
            .write("compose.yaml", "services: {a: {image: 'other:1', command: [sleep, '1000'], stop_signal: SIGKILL, scale: 2}}");
        let up = stack.wharf(&["up", "-d"]);
        assert_eq!((up.code, up.stderr.matches(&warning).count()), (0, usize::from(is_other)), "{architecture}: {up:?}");
        let body = serde_json::json!({"Image": "other:1"});
        let (status, made) = stack.api("POST", "/v1.45/containers/create?name=made", Some(&body));
        let warnings = made["Warnings"].as_array().map_or(0, |warnings| warnings.iter().filter(|w| **w == warning).count());
        assert_eq!((status, warnings), (201, usize::from(is_other)), "{architecture}: {made}");
        let ran = stack.wharf(&["container", "run", "--rm", "other:1", "true"]);
        assert_eq!((ran.code, ran.stderr.contains(&warning)), (0, is_other), "{architecture}: {ran:?}");
        stack.wharf(&["container", "rm", "made"]).ok();
        stack.wharf(&["down"]).ok();
    }
}

#[test]
fn a_forced_removal_takes_the_name_and_keeps_the_image() {
    let stack = Stack::new("nothing");
    stack.wharf(&["container", "run", "-d", "--name", "keeps", "busybox:local", "sleep", "1000"]).ok();
    let refused = stack.wharf(&["image", "rm", "busybox:local", "none:1"]);
    refused.fails(1, &["must force", "in use by the container keeps", "No such image: none:1"]);
    let removed = stack.wharf(&["image", "rm", "-f", "none:1", "busybox:local"]).ok();
    assert_eq!(removed, "Untagged: busybox:local\n");
    assert!(!stack.wharf(&["image", "ls"]).ok().contains("busybox"));
    stack.wharf(&["container", "restart", "-t", "0", "keeps"]).ok();
    stack.wharf(&["image", "prune", "-af"]).ok();
    stack.wharf(&["container", "restart", "-t", "0", "keeps"]).ok();
    stack.wharf(&["container", "rm", "-f", "keeps"]).ok();
    stack.import_busybox();
    let removed = stack.wharf(&["image", "rm", "busybox:local"]).ok();
    assert!(removed.starts_with("Untagged: busybox:local\nDeleted: sha256:"), "{removed}");
}
