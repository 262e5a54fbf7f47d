//! Projects that come from elsewhere: artifacts of a registry and Git repositories, published, read, hostile.

use super::images::{OCI_MANIFEST, Registry, digest};
use super::sources::{Server, git};
use super::support::{Ran, Stack};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const PROJECT: &str = "application/vnd.docker.compose.project";
const COMPOSE_FILE: &str = "application/vnd.docker.compose.file+yaml";
const ENV_FILE: &str = "application/vnd.docker.compose.envfile";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A stack whose commands run in a directory of their own, with a cache of its own.
struct Elsewhere<'a> {
    stack: &'a Stack,
    directory: PathBuf,
}

impl<'a> Elsewhere<'a> {
    fn of(stack: &'a Stack) -> Self {
        let directory = stack.path("elsewhere");
        std::fs::create_dir_all(&directory).expect("directory");
        Elsewhere { stack, directory }
    }

    fn wharf(&self, args: &[&str]) -> Ran {
        let mut command = self.stack.command(args);
        command.current_dir(&self.directory).env("XDG_CACHE_HOME", self.cache());
        let output = command.output().expect("wharf");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    fn cache(&self) -> PathBuf {
        self.stack.path("cache")
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.join(name), text).expect("file");
    }
}

/// Files below a directory, by their names.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.path().is_dir() && !entry.path().is_symlink() {
            true => found.extend(files_below(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

#[test]
fn a_project_is_published_and_read_back() {
    let stack = Stack::new("nothing");
    let registry = Registry::start();
    let name = format!("127.0.0.1:{}/me/app:1", registry.port);
    stack.write("a.env", "FROM_FILE=seen\n");
    stack.write("base.yaml", "services: {base: {image: 'busybox:local', stop_signal: SIGKILL, environment: {BASE: b}}}\n");
    let yaml = "# as it was written\nservices:\n  app:\n    extends: {file: base.yaml, service: base}\n    env_file: a.env\n    command: sleep 1000\n    environment: {WHO: '${WHO:-nobody}', PASSWORD: hush}\n    volumes: ['./data:/data']\n";
    stack.write("compose.yaml", yaml);
    // Nobody answers: nothing is sent.
    let asked = stack.wharf(&["publish", &name]).fails(130, &["bind mounts declaration", "app: ", "/data"]);
    assert!(asked.stderr.contains("canceled"), "{}", asked.stderr);
    stack.wharf(&["publish", "-y", "--with-env", &name]).ok();
    let answer = registry.curl(&["-H", &format!("Accept: {OCI_MANIFEST}"), &registry.url("me/app/manifests/1")], None);
    let manifest: Value = serde_json::from_str(answer.split("\r\n\r\n").last().expect("a body")).expect("JSON");
    assert_eq!((&manifest["artifactType"], &manifest["config"]["mediaType"]), (&json!(PROJECT), &json!(EMPTY)));
    let layers = manifest["layers"].as_array().expect("layers");
    let kinds: Vec<&str> = layers.iter().filter_map(|layer| layer["mediaType"].as_str()).collect();
    assert_eq!(kinds, [COMPOSE_FILE, COMPOSE_FILE, ENV_FILE]);
    assert_eq!(layers[0]["annotations"]["com.docker.compose.file"], "compose.yaml");
    assert_eq!(layers[1]["annotations"]["com.docker.compose.extends"], "true");
    // Elsewhere it is the same project, and says where it is.
    let there = Elsewhere::of(&stack);
    let oci = format!("oci://{name}");
    let config: Value = serde_json::from_str(&there.wharf(&["-f", &oci, "config", "--format", "json"]).ok()).expect("JSON");
    let app = &config["services"]["app"];
    assert_eq!(app["environment"], json!({"BASE": "b", "FROM_FILE": "seen", "PASSWORD": "hush", "WHO": "nobody"}));
    assert_eq!(app["image"], "busybox:local");
    let asked =
        there.wharf(&["-f", &oci, "up", "-d"]).fails(1, &["Found the following variables", "WHO", "nobody", "cancelled by user"]);
    assert!(asked.stdout.contains("Your compose stack") && asked.stdout.contains("is stored in"), "{}", asked.stdout);
    assert!(there.wharf(&["ps", "-q"]).stdout.is_empty());
    there.wharf(&["-f", &oci, "up", "-d", "-y"]).ok();
    assert_eq!(stack.sh("app", "echo $FROM_FILE $BASE"), "seen b");
    // A change of the cache has no effect, a link in it neither.
    let cached = files_below(&there.cache()).into_iter().find(|file| file.ends_with("compose.yaml")).expect("a file");
    let _ = std::fs::remove_file(&cached);
    std::os::unix::fs::symlink(stack.path("a.env"), &cached).expect("link");
    assert_eq!(there.wharf(&["-f", &oci, "config", "--services"]).ok(), "app\n");
    assert_eq!(std::fs::read_to_string(stack.path("a.env")).expect("file"), "FROM_FILE=seen\n");
    for layer in files_below(&there.cache().join("wharf/layers")) {
        std::fs::write(layer, "services: {evil: {image: x}}").expect("file");
    }
    assert_eq!(there.wharf(&["-f", &oci, "config", "--services"]).ok(), "app\n");
    // The project's name is the directory's where it has none of its own; others include and extend it.
    there.write(
        "compose.yaml",
        &format!("include: ['{oci}']\nservices:\n  own:\n    extends: {{file: '{oci}', service: app}}\n    command: sleep 7\n"),
    );
    let services = there.wharf(&["config", "--services"]).ok();
    assert_eq!(services, "app\nown\n");
    there.wharf(&["down"]).ok();
    // Digests, and the older form.
    stack.wharf(&["image", "tag", "busybox:local", &format!("127.0.0.1:{}/me/box:1", registry.port)]).ok();
    stack.wharf(&["image", "push", &format!("127.0.0.1:{}/me/box:1", registry.port)]).ok();
    stack.write("compose.yaml", &format!("services: {{app: {{image: '127.0.0.1:{}/me/box:1'}}}}", registry.port));
    stack.wharf(&["publish", "--resolve-image-digests", "--oci-version", "1.0", &name]).ok();
    let images = there.wharf(&["-f", &oci, "config", "--images"]).ok();
    assert!(images.contains("/me/box:1@sha256:"), "{images}");
    let answer = registry.curl(&["-H", &format!("Accept: {OCI_MANIFEST}"), &registry.url("me/app/manifests/1")], None);
    assert!(answer.contains("vnd.docker.compose.config.empty.v1+json") && !answer.contains("artifactType"), "{answer}");
}

#[test]
fn what_cannot_be_published_is_not() {
    let stack = Stack::new("nothing");
    let registry = Registry::start();
    let name = format!("127.0.0.1:{}/me/app", registry.port);
    stack.write("other.yaml", "services: {o: {image: x}}");
    stack.write("key", "-----BEGIN OPENSSH PRIVATE KEY-----\n");
    stack.write("a.env", "A=1");
    let image = "image: 'busybox:local'";
    for (yaml, code, words) in [
        (format!("include: [other.yaml]\nservices: {{a: {{{image}}}}}"), 1, &["local includes", "other.yaml"][..]),
        ("services: {a: {build: .}, b: {image: x}}".to_string(), 1, &["only contains a build section", "- \"a\""]),
        (
            format!("services: {{a: {{{image}, environment: {{API_KEY: abc123}}}}}}"),
            130,
            &["literal value for \"API_KEY\"", "--with-env"],
        ),
        (format!("services: {{a: {{{image}, env_file: a.env}}}}"), 130, &["service \"a\": env_file declared"]),
        (
            format!("services: {{a: {{{image}, secrets: [s]}}}}\nsecrets: {{s: {{file: key}}}}"),
            130,
            &["sensitive data", "Private Key", "key:1"],
        ),
        (
            format!("services: {{a: {{{image}, configs: [c]}}}}\nconfigs: {{c: {{content: literal text}}}}"),
            130,
            &["inline config", "config \"c\""],
        ),
    ] {
        stack.write("compose.yaml", &yaml);
        stack.wharf(&["publish", &name]).fails(code, words);
    }
    let tags = registry.url("me/app/tags/list");
    assert!(!std::process::Command::new("curl").args(["-sf", &tags]).status().expect("curl").success(), "nothing was sent");
    stack.write("compose.yaml", &format!("services: {{a: {{{image}, environment: {{WHO: '${{WHO}}'}}}}}}"));
    stack.wharf(&["--dry-run", "publish", &name]).ok();
    assert!(!std::process::Command::new("curl").args(["-sf", &tags]).status().expect("curl").success(), "nothing was sent");
    stack.wharf(&["publish", "--", "not a name"]).fails(1, &["not a name"]);
    stack.wharf(&["publish", &name]).ok();
}

/// Pushes a project made of these layers, each with its media type, content and annotations.
fn push(registry: &Registry, tag: &str, layers: &[(&str, &[u8], Value)], change: impl FnOnce(&mut Value)) -> String {
    let described: Vec<Value> = layers
        .iter()
        .map(|(kind, content, annotations)| {
            json!({"mediaType": kind, "digest": registry.blob("evil", content), "size": content.len(), "annotations": annotations})
        })
        .collect();
    let empty = registry.blob("evil", b"{}");
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": PROJECT,
        "config": {"mediaType": EMPTY, "digest": empty, "size": 2}, "layers": described,
    });
    change(&mut manifest);
    registry.manifest("evil", tag, OCI_MANIFEST, &manifest);
    format!("oci://127.0.0.1:{}/evil:{tag}", registry.port)
}

#[test]
fn a_hostile_artifact_reads_and_writes_nothing_else() {
    let stack = Stack::new("nothing");
    let registry = Registry::start();
    let there = Elsewhere::of(&stack);
    std::fs::write(stack.path("outside.yaml"), "services: {s: {image: secret-of-the-host}}").expect("file");
    let outside = stack.path("outside.yaml").display().to_string();
    let main: &[u8] = b"services: {a: {image: x}}\n";
    let named = |key: &str, name: &str| json!({format!("com.docker.compose.{key}"): name});
    let extended = |name: &str| json!({"com.docker.compose.file": name, "com.docker.compose.extends": "true"});
    let plain = || (COMPOSE_FILE, main, named("file", "compose.yaml"));
    let large = vec![b' '; 5 << 20];
    let none = |_: &mut Value| {};
    let extends = format!("services: {{a: {{extends: {{file: '{outside}', service: s}}}}}}").into_bytes();
    let up_and_out = b"services: {a: {extends: {file: ../../../../outside.yaml, service: s}}}".to_vec();
    let includes = format!("include: ['{outside}']\nservices: {{a: {{image: x}}}}").into_bytes();
    let many: Vec<(&str, &[u8], Value)> = (0..101).map(|_| plain()).collect();
    let table: Vec<(String, &str)> = vec![
        (
            push(&registry, "kind", &[plain()], |m| m["artifactType"] = json!("application/x.evil")),
            "no Compose project, but application/x.evil",
        ),
        (
            push(&registry, "image", &[plain()], |m| drop(m.as_object_mut().map(|m| m.remove("artifactType")))),
            "no Compose project",
        ),
        (
            push(&registry, "name1", &[plain(), (ENV_FILE, b"A=1", named("envfile", "../x.env"))], none),
            "`../x.env`, which is no file name",
        ),
        (push(&registry, "name2", &[plain(), (ENV_FILE, b"A=1", named("envfile", "/etc/x"))], none), "which is no file name"),
        (push(&registry, "name3", &[plain(), (ENV_FILE, b"A=1", json!({}))], none), "which is no file name"),
        (push(&registry, "name4", &[plain(), (COMPOSE_FILE, main, extended("a/b.yaml"))], none), "which is no file name"),
        (push(&registry, "name5", &[plain(), (COMPOSE_FILE, main, extended("compose.yaml"))], none), "two layers are the file"),
        (push(&registry, "empty", &[], none), "has no Compose file"),
        (push(&registry, "other", &[("application/x.later", main, json!({}))], none), "has no Compose file"),
        (push(&registry, "many", &many, none), "101 layers"),
        (push(&registry, "large", &[(COMPOSE_FILE, &large, json!({}))], none), "is larger than"),
        (push(&registry, "huge", &[plain()], |m| m["layers"][0]["size"] = json!(1_u64 << 40)), "are read at most"),
        (push(&registry, "size", &[plain()], |m| m["layers"][0]["size"] = json!(3)), "has not the 3 bytes"),
        (push(&registry, "out1", &[(COMPOSE_FILE, &extends, json!({}))], none), "comes from elsewhere, and may not read"),
        (push(&registry, "out2", &[(COMPOSE_FILE, &up_and_out, json!({}))], none), "comes from elsewhere, and may not read"),
        (push(&registry, "out3", &[(COMPOSE_FILE, &includes, json!({}))], none), "comes from elsewhere, and may not read"),
    ];
    for (name, word) in &table {
        let ran = there.wharf(&["-f", name, "config"]);
        assert_eq!(ran.code, 1, "{name}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(word), "{name}: no `{word}` in\n{}", ran.stderr);
        assert!(!ran.stdout.contains("secret-of-the-host") && !ran.stderr.contains("secret-of-the-host"), "{name}");
    }
    // What is wrong in such a file has its place, and so does a name that is not there.
    let wrong = push(&registry, "wrong", &[(COMPOSE_FILE, b"services: {a: {imgae: x}}", json!({}))], none);
    there.wharf(&["-f", &wrong, "config"]).fails(1, &["compose.yaml:1:", "did you mean `image`?"]);
    there.write("compose.yaml", &format!("services: {{b: {{image: x}}}}\ninclude:\n  - '{wrong}9'\n"));
    there.wharf(&["config"]).fails(1, &["compose.yaml:3:5", "fetching oci://", "does not exist on"]);
    // Forged: the registry has another content under the digest.
    let good = push(&registry, "forged", &[plain()], none);
    let blob = digest(main);
    let hex = blob.trim_start_matches("sha256:");
    let data = registry.files().join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    std::fs::write(data, b"services: {b: {image: y}}\n").expect("the registry's blob");
    let fresh = Elsewhere { stack: &stack, directory: stack.path("elsewhere") };
    let _ = std::fs::remove_dir_all(fresh.cache());
    fresh.wharf(&["-f", &good, "config"]).fails(1, &["damaged or forged"]);
    // Nothing was written outside of the cache's own directories.
    let names: Vec<String> = std::fs::read_dir(there.cache().join("wharf"))
        .expect("cache")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.iter().all(|name| ["layers", "oci", "locks"].contains(&name.as_str())), "{names:?}");
}

#[test]
fn a_repository_is_a_project() {
    let stack = Stack::new("nothing");
    let server = Server::start(&stack.path("."));
    let there = Elsewhere::of(&stack);
    let url = &server.url;
    let write = |name: &str, text: &str| {
        let path = server.work.join(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        std::fs::write(path, text).expect("file");
    };
    let commit = |what: &str| {
        git(&server.work, &["add", "-A"]);
        git(&server.work, &["commit", "-qm", what]);
    };
    write(
        "compose.yaml",
        "services: {web: {image: 'busybox:local', command: sleep 1000, stop_signal: SIGKILL, env_file: web.env}}",
    );
    write("web.env", "FROM_GIT=first");
    write("sub/docker-compose.yml", "services: {sub: {extends: {file: ../compose.yaml, service: web}}}");
    write("sub/named.yaml", "services: {named: {image: x}}");
    commit("a project");
    git(&server.work, &["tag", "-a", "-m", "x", "v2"]);
    write("web.env", "FROM_GIT=second");
    commit("later");
    let services = |name: &str| there.wharf(&["-f", name, "config", "--services"]);
    assert_eq!(services(url).ok(), "web\n");
    assert_eq!(services(&format!("{url}#v2:sub")).ok(), "sub\n");
    assert_eq!(services(&format!("{url}#main:sub/named.yaml")).ok(), "named\n");
    let head = git(&server.work, &["rev-parse", "HEAD"]);
    assert_eq!(services(&format!("{url}#{head}")).ok(), "web\n");
    assert_eq!(services(&format!("{url}#{}", &head[..10])).ok(), "web\n", "an abbreviated commit");
    there.wharf(&["-f", &format!("{url}#v2"), "up", "-d"]).ok();
    assert_eq!(stack.sh("web", "echo $FROM_GIT"), "first");
    there.wharf(&["-f", url, "up", "-d"]).ok();
    assert_eq!(stack.sh("web", "echo $FROM_GIT"), "second");
    there.wharf(&["down"]).ok();
    // By another file, which has it confirmed as Docker Compose does: not.
    there.write(
        "compose.yaml",
        &format!("include: ['{url}#v2']\nservices: {{own: {{extends: {{file: '{url}', service: web}}}}}}"),
    );
    assert_eq!(there.wharf(&["config", "--services"]).ok(), "own\nweb\n");
    // A repository that includes another is asked about.
    write("more.yaml", &format!("include: ['{url}#v2']\nservices: {{more: {{image: x}}}}"));
    commit("more");
    there.wharf(&["-f", &format!("{url}#main:more.yaml"), "up", "-d"]).fails(
        1,
        &["includes files from remote sources", "more.yaml", "#v2", "Make sure you trust the source", "cancelled by user"],
    );
    // What a repository may not.
    std::fs::write(stack.path("outside.yaml"), "services: {s: {image: secret-of-the-host}}").expect("file");
    std::fs::write(stack.path("outside.env"), "STOLEN=secret-of-the-host").expect("file");
    for (link, target) in [("link.yaml", "outside.yaml"), ("link/.env", "outside.env"), ("env.env", "outside.env")] {
        let path = server.work.join(link);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        std::os::unix::fs::symlink(stack.path(target), path).expect("link");
    }
    write("extends-link.yaml", "services: {a: {extends: {file: link.yaml, service: s}}}");
    write("extends-out.yaml", "services: {a: {extends: {file: ../../../../outside.yaml, service: s}}}");
    write("include-out.yaml", &format!("include: ['{}']", stack.path("outside.yaml").display()));
    write("link/inner.yaml", "services: {a: {image: x, environment: {S: '${STOLEN}'}}}");
    write("include-env.yaml", "include: [link/inner.yaml]");
    write("env-file.yaml", "services: {a: {image: x, env_file: env.env}}");
    commit("hostile");
    for (fragment, words) in [
        ("main:link.yaml", &["has no `link.yaml`"][..]),
        ("main:../x", &["no path in a repository"]),
        ("main:nowhere", &["has no `nowhere`"]),
        ("main:out/etc", &["has no `out/etc`"]),
        ("nope", &["no branch, tag or commit `nope`"]),
        ("--upload-pack=touch x", &["not a branch, tag or commit"]),
        ("main:app", &["has no Compose file"]),
        ("main:extends-link.yaml", &["extends-link.yaml:1:", "a link in it leads out"]),
        ("main:extends-out.yaml", &["extends-out.yaml:1:", "may not read"]),
        ("main:include-out.yaml", &["include-out.yaml:1:", "may not read"]),
        ("main:include-env.yaml", &["a link in it leads out"]),
        ("main:env-file.yaml", &["a link in it leads out"]),
    ] {
        let ran = there.wharf(&["-f", &format!("{url}#{fragment}"), "config"]).fails(1, words);
        assert!(!ran.stdout.contains("secret-of-the-host") && !ran.stderr.contains("secret-of-the-host"), "{fragment}");
    }
    // A submodule by a file of this machine is not followed.
    std::fs::create_dir(stack.path("private")).expect("directory");
    git(&stack.path("private"), &["init", "-q"]);
    std::fs::write(stack.path("private/compose.yaml"), "services: {s: {image: secret-of-the-host}}").expect("file");
    git(&stack.path("private"), &["add", "."]);
    git(&stack.path("private"), &["commit", "-qm", "private"]);
    let private = stack.path("private").display().to_string();
    git(&server.work, &["-c", "protocol.file.allow=always", "submodule", "add", "-q", &private, "module"]);
    commit("a submodule");
    there.wharf(&["-f", &format!("{url}#main:module"), "config"]).fails(1, &["not allowed"]);
    assert!(
        std::fs::read_dir(there.cache().join("wharf/drafts")).is_ok_and(|mut drafts| drafts.next().is_none()),
        "no draft is left"
    );
    // Two at once get the same.
    let _ = std::fs::remove_dir_all(there.cache());
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| services(&format!("{url}#v2")));
        let other = scope.spawn(|| services(&format!("{url}#v2")));
        (one.join().expect("thread"), other.join().expect("thread"))
    });
    assert_eq!((one.ok(), other.ok()), ("web\n".into(), "web\n".into()));
}
