//! Hostile images: what a registry, an archive or a configuration says is used as a path, a key or somebody else's layer.

use crate::images::{OCI_MANIFEST, Registry, digest, file, gzip, layer};
use crate::support::{Stack, busybox_tar};
use serde_json::{Value, json};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A configuration that names these layers.
fn config(diff_ids: &[&str], more: &Value) -> Value {
    let mut config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    config.as_object_mut().expect("object").extend(more.as_object().cloned().unwrap_or_default());
    config
}

/// A manifest of a configuration and of layers: digest, bytes.
fn manifest(config: &str, layers: &[(&str, usize)]) -> Value {
    let layers: Vec<Value> =
        layers.iter().map(|(digest, size)| json!({"mediaType": LAYER, "digest": digest, "size": size})).collect();
    json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest(config.as_bytes()), "size": config.len()},
        "layers": layers,
    })
}

/// Pushes an image that has these layers and says of them what the configuration says. Gives its name.
fn push(registry: &Registry, name: &str, layers: &[&[u8]], config: &Value) -> String {
    let config = config.to_string();
    registry.blob(name, config.as_bytes());
    let layers: Vec<(String, usize)> = layers.iter().map(|layer| (registry.blob(name, layer), layer.len())).collect();
    let layers: Vec<(&str, usize)> = layers.iter().map(|(digest, size)| (digest.as_str(), *size)).collect();
    registry.manifest(name, "1", OCI_MANIFEST, &manifest(&config, &layers));
    format!("127.0.0.1:{}/{name}:1", registry.port)
}

/// An archive as `docker save` writes it, of one image of one layer.
fn saved(name: &str, config: &str, layer_tar: &[u8]) -> Vec<u8> {
    layer(|b| {
        file(b, "manifest.json", &json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).to_string());
        file(b, "config.json", config);
        let mut header = tar::Header::new_gnu();
        header.set_size(layer_tar.len() as u64);
        header.set_mode(0o644);
        b.append_data(&mut header, "layer.tar", layer_tar).expect("layer");
    })
}

/// An OCI layout in a tar, with those of the layers that it brings.
fn layout(name: &str, config: &str, manifest: &Value, layers: &[&[u8]]) -> Vec<u8> {
    let manifest = manifest.to_string();
    let place = |digest: &str| format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
    layer(|b| {
        let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST, "digest": digest(manifest.as_bytes()),
            "size": manifest.len(), "annotations": {"org.opencontainers.image.ref.name": name}}]});
        file(b, "oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        file(b, "index.json", &index.to_string());
        for bytes in [manifest.as_bytes(), config.as_bytes()].iter().chain(layers) {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            b.append_data(&mut header, place(&digest(bytes)), *bytes).expect("blob");
        }
    })
}

/// The step keys of an image with an inline cache become file names of the build cache.
#[test]
fn a_cache_image_writes_no_file_of_the_host() {
    let registry = Registry::start();
    let stack = Stack::new("nothing");
    let base = std::fs::read(busybox_tar()).expect("busybox");
    let (owned, above) = (stack.path("owned"), stack.data_root().join("owned"));
    for (n, key) in
        [owned.display().to_string(), "../../owned".into(), "sha256:../../owned".into(), String::new()].iter().enumerate()
    {
        let trail = json!([{"key": key, "layer": null, "bytes": 1, "tar_bytes": 1, "created": "root::0:0:::"}]);
        let evil = config(&[&digest(&base)], &json!({"dev.wharf.cache": trail}));
        let evil = push(&registry, &format!("evil{n}"), &[&gzip(&base)], &evil);
        stack.write(
            "compose.yaml",
            &format!("services: {{app: {{build: {{cache_from: ['{evil}'], dockerfile_inline: 'FROM busybox:local'}}}}}}"),
        );
        let built = stack.wharf(&["build"]);
        assert!(built.code == 0 && built.stderr.contains("taking no steps from"), "`{key}`: {}", built.stderr);
        assert!(built.stderr.contains("is not a digest"), "`{key}`: {}", built.stderr);
    }
    assert!(!owned.exists() && !above.exists(), "a file was written outside of the cache");
}

/// Who makes a cache image chooses both the key of a step and the layer that it is said to have made.
#[test]
fn a_cache_image_poisons_no_other_build() {
    let registry = Registry::start();
    let (attacker, stack) = (Stack::new("nothing"), Stack::new("nothing"));
    let cache = format!("127.0.0.1:{}/cache:1", registry.port);
    let victims = "FROM busybox:local\nRUN echo good > /file\n";
    attacker.write("Dockerfile", victims);
    attacker
        .write("compose.yaml", &format!("services: {{app: {{build: {{context: ., cache_to: ['type=registry,ref={cache}']}}}}}}"));
    attacker.wharf(&["build"]).ok();
    // The same keys, and another layer.
    let get = |what: &str| -> Value {
        let answer = registry.curl(&[&registry.url(&format!("cache/{what}")), "-H", &format!("Accept: {OCI_MANIFEST}")], None);
        serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON")
    };
    let honest = get(&format!("blobs/{}", get("manifests/1")["config"]["digest"].as_str().expect("digest")));
    let base = std::fs::read(busybox_tar()).expect("busybox");
    let poison = layer(|b| file(b, "file", "evil"));
    let evil = config(&[&digest(&base), &digest(&poison)], &json!({"dev.wharf.cache": honest["dev.wharf.cache"]}));
    let evil = push(&registry, "evil", &[&base, &poison], &evil);
    stack.write("Dockerfile", victims);
    stack.write("compose.yaml", "services: {app: {build: {context: .}, command: cat /file}}");
    let poisoned = format!("services: {{app: {{build: {{context: ., cache_from: ['{evil}']}}, command: cat /file}}}}");
    std::fs::write(stack.path("poisoned.yaml"), poisoned).expect("write");
    // Whoever names the image trusts it.
    let named = stack.wharf(&["-f", "poisoned.yaml", "build"]);
    assert!(named.code == 0 && named.stdout.contains("CACHED"), "{named:?}");
    assert_eq!(stack.wharf(&["run", "--rm", "-T", "app"]).ok(), "evil");
    // Nobody else does.
    let other = stack.wharf(&["build"]);
    assert!(other.code == 0 && !other.stdout.contains("CACHED"), "{other:?}");
    assert_eq!(stack.wharf(&["run", "--rm", "-T", "app"]).ok(), "good\n");
}

/// `rootfs.diff_ids` name the directories of layers: one image brings what looks like a layer's directory, another names it; and
/// one names a directory of the host, so that removing the image removes that.
#[test]
fn no_directory_is_a_layer_because_an_image_says_so() {
    let registry = Registry::start();
    let stack = Stack::new("nothing");
    let secret = stack.path("secret");
    std::fs::create_dir_all(secret.join("diff")).expect("directory");
    std::fs::write(secret.join("size"), "1").expect("size");
    std::fs::write(secret.join("diff/shadow"), "root:secret").expect("file");
    let door = layer(|b| {
        file(b, "door/size", "1");
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        b.append_link(&mut header, "door/diff", secret.join("diff")).expect("link");
    });
    let first = push(&registry, "first", &[&door], &config(&[&digest(&door)], &json!({})));
    stack.wharf(&["image", "pull", &first]).ok();
    let busybox = std::fs::read(busybox_tar()).expect("busybox");
    let inside = format!("{}/diff/door", digest(&door).trim_start_matches("sha256:"));
    let names = [
        inside.clone(),
        format!("sha256:{inside}"),
        secret.display().to_string(),
        format!("sha256:{}", secret.display()),
        "../../project/secret".into(),
        digest(&busybox).replace("sha256:", "sha256:../layers/"),
        digest(&busybox).to_uppercase(),
        format!("{} ", digest(&busybox)),
        format!("sha512:{}", "0".repeat(128)),
        "sha256:".into(),
        ".".into(),
        String::new(),
    ];
    for (n, name) in names.iter().enumerate() {
        // The lowest layer is the one that is named; above it busybox, as the registry has it.
        let evil = config(&[name, &digest(&busybox)], &json!({}));
        let evil_image = push(&registry, &format!("evil{n}"), &[&door, &busybox], &evil);
        stack.wharf(&["image", "pull", &evil_image]).fails(1, &["configuration cannot be understood", "is not a digest"]);
        let evil = config(&[name], &json!({})).to_string();
        std::fs::write(stack.path("saved.tar"), saved("evil:1", &evil, &door)).expect("write");
        stack.wharf(&["image", "load", "saved.tar"]).fails(1, &["configuration cannot be understood", "is not a digest"]);
        let named = manifest(&evil, &[(&digest(&door), door.len())]);
        std::fs::write(stack.path("layout.tar"), layout("evil:1", &evil, &named, &[&door])).expect("write");
        stack.wharf(&["image", "load", "layout.tar"]).fails(1, &["configuration cannot be understood", "is not a digest"]);
    }
    assert_eq!(stack.wharf(&["image", "ls", "-q"]).ok().lines().count(), 2, "nothing of them is known");
    assert_eq!(std::fs::read_to_string(secret.join("diff/shadow")).expect("it is there"), "root:secret");
}

/// Blobs are files by their digests: neither a registry's manifest nor an archive's leads anywhere else.
#[test]
fn no_file_is_a_blob_because_a_manifest_says_so() {
    let stack = Stack::bare("nothing");
    let base = layer(|b| file(b, "a", "a"));
    let good = config(&[&digest(&base)], &json!({})).to_string();
    std::fs::write(stack.path("outside"), &good).expect("write");
    let outside = stack.path("outside").display().to_string();
    for name in [outside.as_str(), "sha256:../../../outside", "../../index.json", "sha256:", ""] {
        let named = manifest(&good, &[(name, base.len())]);
        let archive = layout("evil:1", &good, &named, &[&base]);
        std::fs::write(stack.path("layout.tar"), archive).expect("write");
        stack.wharf(&["image", "load", "layout.tar"]).fails(1, &["manifest cannot be understood", "is not a digest"]);
        let mut named = manifest(&good, &[(&digest(&base), base.len())]);
        named["config"]["digest"] = json!(name);
        std::fs::write(stack.path("layout.tar"), layout("evil:1", &good, &named, &[&base])).expect("write");
        stack.wharf(&["image", "load", "layout.tar"]).fails(1, &["manifest cannot be understood", "is not a digest"]);
    }
}

/// A layer of somebody else's image, claimed by who knows its digest and has not got it.
#[test]
fn no_layer_is_had_by_naming_it() {
    let registry = Registry::start();
    let stack = Stack::bare("nothing");
    let secret = layer(|b| file(b, "secret", "of another project"));
    let others = push(&registry, "private", &[&gzip(&secret)], &config(&[&digest(&secret)], &json!({})));
    stack.wharf(&["image", "pull", &others]).ok();
    let names = || stack.wharf(&["image", "ls", "-q"]).ok().lines().count();
    assert_eq!(names(), 1);
    let claimed = config(&[&digest(&secret)], &json!({}));
    // A layer of one's own in its place.
    let own = layer(|b| file(b, "own", "own"));
    let evil = push(&registry, "evil", &[&gzip(&own)], &claimed);
    stack.wharf(&["image", "pull", &evil]).fails(1, &["layer has the digest", "damaged or forged"]);
    // A layer that nobody has, and one by its name in the configuration.
    for (n, absent) in ["0".repeat(64), digest(&secret).trim_start_matches("sha256:").to_string()].iter().enumerate() {
        let text = claimed.to_string();
        let name = format!("absent{n}");
        registry.blob(&name, text.as_bytes());
        registry.blob(&name, &own);
        let mut named = manifest(&text, &[(&digest(&own), own.len())]);
        registry.manifest(&name, "1", OCI_MANIFEST, &named);
        // The registry itself refuses manifests that name what it has not: it is given another by its files.
        named["layers"][0]["digest"] = json!(format!("sha256:{absent}"));
        let archive = layout("evil:1", &text, &named, &[]);
        std::fs::write(stack.path("layout.tar"), archive).expect("write");
        stack.wharf(&["image", "load", "layout.tar"]).fails(1, &["never pulled or loaded here"]);
    }
    let text = claimed.to_string();
    std::fs::write(stack.path("saved.tar"), saved("evil:1", &text, &own)).expect("write");
    stack.wharf(&["image", "load", "saved.tar"]).fails(1, &["layer has the digest", "damaged or forged"]);
    let named = manifest(&text, &[(&digest(&own), own.len())]);
    std::fs::write(stack.path("layout.tar"), layout("evil:1", &text, &named, &[&own])).expect("write");
    stack.wharf(&["image", "load", "layout.tar"]).fails(1, &["layer has the digest", "damaged or forged"]);
    assert_eq!(names(), 1, "nothing of them is known");
    // Whoever names the blob has seen the image's manifest.
    let blob = gzip(&secret);
    let named = manifest(&text, &[(&digest(&blob), blob.len())]);
    std::fs::write(stack.path("layout.tar"), layout("right:1", &text, &named, &[])).expect("write");
    stack.wharf(&["image", "load", "layout.tar"]).ok();
}

/// A server on loopback that sends what a test says to each path, to its end or until nobody takes it.
fn serve(answer: impl Fn(&str, &mut std::net::TcpStream) + Send + Sync + 'static) -> u16 {
    use std::io::{BufRead, BufReader};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
    let port = listener.local_addr().expect("address").port();
    let answer = std::sync::Arc::new(answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().expect("clone"));
                let mut first = String::new();
                let _ = lines.read_line(&mut first);
                let mut line = String::new();
                while lines.read_line(&mut line).is_ok_and(|n| n > 2) {
                    line.clear();
                }
                answer(first.split(' ').nth(1).unwrap_or_default(), &mut stream);
            });
        }
    });
    port
}

/// The most memory that the engine has had, in KiB.
fn peak(stack: &Stack) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", stack.engine_pid().expect("the engine runs"))).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Whatever a registry sends, and however much: it is refused, nothing is kept, and the engine stays small.
#[test]
fn what_a_registry_sends_is_bounded() {
    use std::io::Write;
    let begin = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let forever = |stream: &mut std::net::TcpStream, piece: &[u8]| {
        let _ = stream.write_all(begin.as_bytes());
        while stream.write_all(piece).is_ok() {}
    };
    let all = |stream: &mut std::net::TcpStream, bytes: &[u8]| {
        let _ = stream.write_all(begin.as_bytes()).and_then(|()| stream.write_all(bytes));
    };
    let most = 4 << 20;
    let many = |before: &str, each: &str, after: &str| {
        format!("{before}{}{after}", each.repeat((most - before.len() - after.len()) / each.len())).into_bytes()
    };
    // Three bytes of JSON for what takes a hundred in memory; a depth that takes the stack.
    let histories = many(
        r#"{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, "history": [{}"#,
        ",{}",
        "]}",
    );
    let environments = many(
        r#"{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, "config": {"Env": [""#,
        "\",\"",
        "\"]}}",
    );
    let layers =
        many(r#"{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["#, "\"\",", "\"\"]}}");
    let deep = many(r#"{"x": "#, "[", "");
    let entries = many(r#"{"manifests": [{"digest": "x"}"#, r#",{"digest":"x"}"#, "]}");
    // The header of a zstd frame with a window of 256 MiB.
    let window = b"\x28\xb5\x2f\xfd\0\x90".to_vec();
    let documents = [histories, environments, layers, deep];
    let base = layer(|b| file(b, "a", "a"));
    let good = config(&[&digest(&base)], &json!({})).to_string();
    let zeros = digest(&base);
    let port = serve(move |path, stream| {
        let name = path.trim_start_matches("/v2/").split('/').next().unwrap_or_default();
        let is_manifest = path.contains("/manifests/");
        let document = name.strip_prefix("document").map(|n| &documents[n.parse::<usize>().expect("a number")]);
        match (name, document) {
            ("manifest", _) => forever(stream, &[b' '; 1 << 16]),
            ("entries", _) => all(stream, &entries),
            ("config", _) if is_manifest => all(stream, manifest(&good, &[(&zeros, 1)]).to_string().as_bytes()),
            ("config", _) => forever(stream, &[b' '; 1 << 16]),
            (_, Some(document)) if is_manifest => {
                let mut manifest = manifest("", &[]);
                manifest["config"] = json!({"digest": digest(document), "size": document.len()});
                all(stream, manifest.to_string().as_bytes());
            }
            (_, Some(document)) => all(stream, document),
            ("longer", _) if is_manifest => all(stream, manifest(&good, &[(&zeros, base.len())]).to_string().as_bytes()),
            ("window", _) if is_manifest => {
                all(stream, manifest(&good, &[(&digest(&window), window.len())]).to_string().as_bytes());
            }
            (_, _) if path.ends_with(&digest(good.as_bytes())) => all(stream, good.as_bytes()),
            ("longer", _) => forever(stream, &[0; 1 << 16]),
            ("window", _) => all(stream, &window),
            _ => forever(stream, b"x"),
        }
    });
    let stack = Stack::bare("nothing");
    for (name, words) in [
        ("manifest", "its answer is larger than 4194304 bytes"),
        ("entries", "more than 20000 values"),
        ("config", "its answer is larger than 4194304 bytes"),
        ("document0", "more than 20000 values"),
        ("document1", "more than 20000 values"),
        ("document2", "more than 20000 values"),
        ("document3", "recursion limit exceeded"),
        ("longer", "is longer than the"),
        ("window", "a zstd window of 268435456 bytes, and 134217728 are allowed"),
    ] {
        stack.wharf(&["image", "pull", &format!("127.0.0.1:{port}/{name}")]).fails(1, &[words]);
        let used = peak(&stack);
        assert!(used < 100 << 10, "{used} KiB after `{name}`");
    }
    assert_eq!(stack.wharf(&["image", "ls", "-q"]).ok(), "");
    for directory in ["layers", "staging", "blobs/sha256"] {
        let left = std::fs::read_dir(stack.data_root().join("images").join(directory)).expect("directory").count();
        assert_eq!(left, 0, "{directory}");
    }
}

/// The same of what is loaded.
#[test]
fn what_an_archive_says_is_bounded() {
    let stack = Stack::bare("nothing");
    let long = format!("{{{}", " ".repeat(64 << 20));
    let many = format!("[{}{{}}]", "{},".repeat(1_000_000));
    let archive = |name: &str, text: &str| {
        std::fs::write(stack.path("evil.tar"), layer(|b| file(b, name, text))).expect("write");
        stack.wharf(&["image", "load", "evil.tar"])
    };
    for name in ["manifest.json", "index.json"] {
        archive(name, &long).fails(1, &["are allowed"]);
    }
    archive("manifest.json", &many).fails(1, &["more than 20000 values"]);
    archive("index.json", &format!("{{\"manifests\": {many}}}")).fails(1, &["more than 20000 values"]);
    let crowd = layer(|b| (0..100_001).for_each(|n| file(b, &n.to_string(), "")));
    std::fs::write(stack.path("evil.tar"), crowd).expect("write");
    stack.wharf(&["image", "load", "evil.tar"]).fails(1, &["more than 100000 members"]);
    let used = peak(&stack);
    assert!(used < 100 << 10, "{used} KiB");
    assert_eq!(std::fs::read_dir(stack.data_root().join("images/staging")).expect("staging").count(), 0);
}

/// A terminal obeys what it is shown. Neither messages nor tables pass on what an image says to it, nor a line that it would forge.
#[test]
fn a_terminal_is_told_nothing_by_an_image() {
    let stack = Stack::new("nothing");
    let tar = busybox_tar().to_str().expect("path");
    let obeyed = "\u{1b}[2J\u{9b}31m\u{7}\nLoaded image: forged\u{202e}";
    let json = serde_json::to_string(obeyed).expect("JSON");
    stack
        .wharf(&[
            "image",
            "import",
            tar,
            "entry:1",
            "--change",
            &format!("ENTRYPOINT [{}]", serde_json::json!(format!("/x{obeyed}"))),
        ])
        .ok();
    stack
        .wharf(&[
            "image",
            "import",
            tar,
            "user:1",
            "--change",
            "CMD [\"sh\"]",
            "--change",
            &format!("USER u{}", obeyed.replace('\n', "\u{b}")),
        ])
        .ok();
    let member = |name: &str, bytes: &[u8]| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).expect("member");
        tar.into_inner().expect("archive")
    };
    let manifest = format!(r#"[{{"Config": {json}, "RepoTags": ["a:1"], "Layers": []}}]"#);
    std::fs::write(stack.path("names.tar"), member("manifest.json", manifest.as_bytes())).expect("write");
    let escaping = "../\u{1b}[2J";
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_old();
    header.as_old_mut().name[..escaping.len()].copy_from_slice(escaping.as_bytes());
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    layer.append(&header, std::io::empty()).expect("entry");
    std::fs::write(stack.path("layer.tar"), layer.into_inner().expect("layer")).expect("write");
    for command in [
        &["container", "run", "--rm", "entry:1"][..],
        &["container", "run", "--rm", "user:1"],
        &["image", "load", "-i", "names.tar"],
        &["image", "import", "layer.tar", "l:1"],
    ] {
        let ran = stack.wharf(command);
        assert_ne!(ran.code, 0, "{command:?}");
        let shown = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!shown.contains(|c: char| c != '\n' && c.is_control() || c == '\u{202e}'), "{command:?}: {shown:?}");
        assert!(!shown.contains("\nLoaded") && !shown.is_empty(), "{command:?}: {shown:?}");
    }
    for command in [&["image", "history", "entry:1"][..], &["image", "ls"], &["container", "ls", "-a"]] {
        let shown = stack.wharf(command).ok();
        assert!(!shown.contains(|c: char| c != '\n' && c.is_control() || c == '\u{202e}'), "{command:?}: {shown:?}");
    }
}
