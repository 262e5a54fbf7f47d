//! `wharf kubernetes apply`, `diff`, `status`, `logs` and `down` against an API server of the tests' own.

use super::support::api_server::{ApiServer, Mischief, kubeconfig};
use super::support::{Ran, Stack, eventually};
use crate::images::Registry;
use serde_json::json;
use std::path::Path;
use std::process::{Command, Stdio};

/// A project's directory, and the server of its kubeconfig.
pub struct Room {
    pub directory: tempfile::TempDir,
    pub server: ApiServer,
}

const SHOP: &str = "name: shop
services:
  web: {image: 'r.example/web:1', ports: ['80'], environment: {A: '1'}, secrets: [pw]}
  db: {image: 'r.example/db:1', volumes: ['data:/data']}
volumes: {data: {}}
secrets: {pw: {content: hunter22}}
";

fn command(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command.args(args).current_dir(directory).env("KUBECONFIG", directory.join("kubeconfig")).stdin(Stdio::null());
    for name in ["COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "HTTPS_PROXY", "https_proxy"] {
        command.env_remove(name);
    }
    command
}

pub fn ran(mut command: Command) -> Ran {
    let output = command.output().expect("wharf runs");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Room {
    pub fn new() -> Self {
        let room = Room { directory: tempfile::tempdir().expect("a directory"), server: ApiServer::start() };
        room.write("compose.yaml", SHOP);
        room.write("kubeconfig", &room.server.kubeconfig());
        room
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join(name), text).expect("write");
    }

    pub fn kubernetes(&self, args: &[&str]) -> Ran {
        ran(self.command(args))
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let args: Vec<&str> = ["kubernetes"].into_iter().chain(args.iter().copied()).collect();
        command(self.directory.path(), &args)
    }

    /// How many requests of a method there were.
    pub fn count(&self, method: &str) -> usize {
        self.server.lock().requests.iter().filter(|request| request.starts_with(method)).count()
    }
}

#[test]
fn applied_again_changed_pruned_and_gone() {
    let room = Room::new();
    let first = room.kubernetes(&["apply"]);
    for line in ["Secret pw  Created", "StatefulSet db  Created", "Deployment web  Created", "Deployment web  Ready"] {
        assert!(first.stderr.contains(line), "no `{line}` in {}", first.stderr);
    }
    first.ok();
    let again = room.kubernetes(&["apply"]);
    assert!(again.stderr.contains("Secret pw  Unchanged") && !again.stderr.contains("Configured"), "{}", again.stderr);
    assert_eq!(room.kubernetes(&["diff"]).code, 0);
    room.write("compose.yaml", "name: shop\nservices:\n  front: {image: 'r.example/web:2', ports: ['80']}\n");
    let diff = room.kubernetes(&["diff"]).fails(1, &[]);
    for line in ["+++ Deployment/front", "--- Deployment/web", "image: r.example/web:2"] {
        assert!(diff.stdout.contains(line), "no `{line}` in {}", diff.stdout);
    }
    assert!(!diff.stdout.contains("aHVudGVyMjI=") && !diff.stdout.contains("hunter22"), "{}", diff.stdout);
    assert!(!room.server.has("deployments", "front"), "diff changes nothing");
    let pruned = room.kubernetes(&["apply"]);
    assert!(pruned.stderr.contains("Deployment web  Pruned"), "{}", pruned.stderr);
    assert!(pruned.stderr.contains("no longer has the claim `data`; it is kept"), "{}", pruned.stderr);
    assert!(
        !room.server.has("deployments", "web") && !room.server.has("secrets", "pw") && room.server.has("deployments", "front")
    );
    let down = room.kubernetes(&["down"]);
    assert!(down.stderr.contains("Deployment front  Deleted"), "{}", down.stderr);
    assert!(room.server.has("persistentvolumeclaims", "data"), "without -v");
    room.kubernetes(&["down", "-v"]).ok();
    assert!(!room.server.has("persistentvolumeclaims", "data"));
    assert!(room.kubernetes(&["down"]).stderr.contains("nothing of the project `shop`"));
}

#[test]
fn what_is_not_the_projects_is_left_alone() {
    let room = Room::new();
    room.kubernetes(&["apply", "--no-wait"]).ok();
    let of = |instance: &str, manager: &str| {
        json!({"kind": "ConfigMap", "metadata": {"name": "x", "uid": "x", "labels": {
            "app.kubernetes.io/instance": instance, "app.kubernetes.io/managed-by": "wharf"},
            "managedFields": [{"manager": manager, "operation": "Apply"}]}})
    };
    room.server.put("configmaps", "by-kubectl", of("shop", "kubectl"));
    room.server.put("configmaps", "of-another", of("other", "wharf"));
    let applied = room.kubernetes(&["apply", "--no-wait"]);
    assert!(applied.stderr.contains("was not applied by wharf (kubectl): it is left alone"), "{}", applied.stderr);
    room.kubernetes(&["down", "-v"]).ok();
    assert!(room.server.has("configmaps", "by-kubectl") && room.server.has("configmaps", "of-another"));
    // An object by one of the project's names that somebody else has.
    room.server.put("secrets", "pw", of("other", "wharf"));
    let refused = room.kubernetes(&["apply", "--no-wait"]);
    refused.fails(1, &["the Secret `pw` of the namespace `default` belongs to the project `other`", "--force-conflicts"]);
    room.server.put("secrets", "pw", json!({"metadata": {"name": "pw", "uid": "x", "managedFields": [{"manager": "helm"}]}}));
    room.kubernetes(&["apply", "--no-wait"]).fails(1, &["belongs to somebody else (helm)"]);
    assert_eq!(room.server.object("secrets", "pw")["metadata"]["managedFields"][0]["manager"], "helm");
    room.kubernetes(&["apply", "--no-wait", "--force-conflicts"]).ok();
    assert_eq!(room.server.object("secrets", "pw")["metadata"]["managedFields"][0]["manager"], "wharf");
}

/// Projects whose names differ in an end that no label has are two.
#[test]
fn projects_of_similar_names_are_two() {
    let room = Room::new();
    let of = |project: &str, args: &[&str]| {
        let mut command = room.command(args);
        command.env("COMPOSE_PROJECT_NAME", project);
        ran(command)
    };
    for (project, service) in [("shop", "alpha"), ("shop_", "beta"), ("shop-", "gamma")] {
        room.write(
            "compose.yaml",
            &format!(
                "services:\n  {service}: {{image: 'r.example/x:1', volumes: ['{service}:/d']}}\nvolumes: {{{service}: {{}}}}\n"
            ),
        );
        of(project, &["apply"]).ok();
    }
    assert!(["alpha", "beta", "gamma"].iter().all(|name| room.server.has("statefulsets", name)), "one has pruned another's");
    of("shop-", &["down", "-v"]).ok();
    assert!(!room.server.has("statefulsets", "gamma") && !room.server.has("persistentvolumeclaims", "gamma"));
    for name in ["alpha", "beta"] {
        assert!(room.server.has("statefulsets", name) && room.server.has("persistentvolumeclaims", name), "{name}");
    }
    // An object that two of them have is the first one's.
    room.write("compose.yaml", "services:\n  alpha: {image: 'r.example/x:1', volumes: ['alpha:/d']}\nvolumes: {alpha: {}}\n");
    of("shop_", &["apply"]).fails(1, &["belongs to the project `shop`"]);
}

#[test]
fn a_field_of_somebody_elses_is_a_conflict_with_its_owner() {
    let room = Room::new();
    room.kubernetes(&["apply"]).ok();
    let mut web = room.server.object("deployments", "web");
    web["x-owned"] = json!([".spec.replicas", "kubectl-edit"]);
    room.server.put("deployments", "web", web);
    let refused = room.kubernetes(&["apply"]);
    refused.fails(1, &["applying the Deployment `web`", "`kubectl-edit` has set .spec.replicas", "--force-conflicts"]);
    room.kubernetes(&["apply", "--force-conflicts"]).ok();
}

#[test]
fn a_job_that_has_changed_is_replaced() {
    let room = Room::new();
    let job = |version: u32| format!("name: shop\nservices:\n  migrate: {{image: 'r.example/m:{version}', restart: 'no'}}\n");
    room.write("compose.yaml", &job(1));
    room.kubernetes(&["apply"]).ok();
    let before = room.server.object("jobs", "migrate")["metadata"]["uid"].clone();
    room.write("compose.yaml", &job(2));
    let applied = room.kubernetes(&["apply"]);
    assert!(applied.stderr.contains("Job migrate  Replaced"), "{}", applied.stderr);
    let after = room.server.object("jobs", "migrate");
    assert_ne!(after["metadata"]["uid"], before);
    assert_eq!(after["spec"]["template"]["spec"]["containers"][0]["image"], "r.example/m:2");
}

/// A Pod of `web` that waits for an image, with the registry's answer in an event.
fn stuck(room: &Room) {
    let labels = json!({"app.kubernetes.io/instance": "shop", "app.kubernetes.io/name": "web"});
    room.server.put(
        "pods",
        "web-5d-x7",
        json!({"metadata": {"name": "web-5d-x7", "uid": "p1", "labels": labels},
        "spec": {"containers": [{"name": "web"}]},
        "status": {"phase": "Pending", "containerStatuses": [{"name": "web", "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}}}]}}),
    );
    room.server.put(
        "events",
        "e1",
        json!({"type": "Warning", "reason": "Failed", "involvedObject": {"uid": "p1"},
        "message": "Failed to pull image \"r.example/web:1\": denied\u{1b}[2J", "lastTimestamp": "2026-01-01T00:00:00Z"}),
    );
}

#[test]
fn a_roll_out_that_does_not_end_says_why() {
    let room = Room::new();
    room.server.lock().is_ready = false;
    stuck(&room);
    let late = room.kubernetes(&["apply", "--timeout", "1"]).fails(
        1,
        &[
            "not everything was ready within 1 s",
            "the Deployment `web`: not seen by its controller yet",
            "web-5d-x7 (ImagePullBackOff): web: Failed to pull image \"r.example/web:1\": denied\\u{1b}[2J",
        ],
    );
    assert!(!late.stderr.contains('\u{1b}'), "what a terminal would obey");
    let status = room.kubernetes(&["status"]);
    assert!(status.stdout.contains("web-5d-x7") && status.stdout.contains("denied\\u{1b}[2J"), "{}", status.stdout);
    assert!(!status.stdout.contains('\u{1b}'));
    let json = room.kubernetes(&["status", "--format", "json"]).ok();
    assert!(json.lines().any(|line| line.contains("\"Pod\":\"web-5d-x7\"") && line.contains("ImagePullBackOff")), "{json}");
}

#[test]
fn a_wait_goes_on_over_a_server_that_is_away() {
    let room = Room::new();
    room.server.lock().is_ready = false;
    let mut child = room.command(&["apply", "--timeout", "60"]).stderr(Stdio::null()).spawn().expect("spawn");
    eventually("the wait begins", 20, || room.server.lock().requests.iter().any(|r| r.contains("/pods?")));
    room.server.trouble(("GET", "/deployments?"), 12, Mischief::Close);
    eventually("it is asked again", 30, || room.server.lock().trouble.as_ref().is_some_and(|trouble| trouble.times == 0));
    for (kind, name) in [("deployments", "web"), ("statefulsets", "db")] {
        let mut object = room.server.object(kind, name);
        object["status"] =
            json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1});
        room.server.put(kind, name, object);
    }
    assert!(child.wait().expect("wait").success());
}

#[test]
fn killed_half_way_and_again() {
    let room = Room::new();
    room.server.trouble(("PATCH", "/services/"), 1000, Mischief::Silence);
    let mut child = room.command(&["apply"]).stderr(Stdio::null()).spawn().expect("spawn");
    eventually("half of it is applied", 20, || room.server.has("secrets", "pw") && room.count("PATCH") > 2);
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert!(!room.server.has("deployments", "web"));
    room.server.lock().trouble = None;
    let again = room.kubernetes(&["apply"]);
    assert!(
        again.stderr.contains("Secret pw  Unchanged") && again.stderr.contains("Deployment web  Created"),
        "{}",
        again.stderr
    );
    again.ok();
}

#[test]
fn two_at_once_do_the_same() {
    let room = Room::new();
    let both: Vec<_> = (0..2).map(|_| room.command(&["apply"]).stderr(Stdio::null()).spawn().expect("spawn")).collect();
    for mut child in both {
        assert!(child.wait().expect("wait").success());
    }
    assert!(room.server.has("deployments", "web") && room.server.has("services", "web"));
    let both: Vec<_> = (0..2).map(|_| room.command(&["down", "-v"]).stderr(Stdio::null()).spawn().expect("spawn")).collect();
    for mut child in both {
        assert!(child.wait().expect("wait").success());
    }
    assert!(!room.server.has("deployments", "web") && !room.server.has("persistentvolumeclaims", "data"));
}

#[test]
fn a_server_that_refuses_or_is_hostile() {
    let room = Room::new();
    let say = |code: u16, message: &str| Mischief::Answer(code, json!({"message": message, "code": code}).to_string());
    let rights = "secrets is forbidden: User \"u\" cannot patch";
    room.server.trouble(("PATCH", "/secrets/"), 9, say(403, rights));
    room.kubernetes(&["apply"]).fails(1, &["applying the Secret `pw`", rights, "needs the verbs get, list, patch and delete"]);
    let causes = json!({"code": 422, "message": "Secret \"pw\" is invalid", "details": {"causes": [
        {"field": "data[pw]", "message": "Invalid value: \"hunter22\""}, {"field": "type", "message": "wrong\u{1b}]0;x\u{7}"}]}});
    room.server.trouble(("PATCH", "/secrets/"), 9, Mischief::Answer(422, causes.to_string()));
    let refused =
        room.kubernetes(&["apply"]).fails(1, &["data[pw]: Invalid value: \"(hidden)\"", "type: wrong\\u{1b}]0;x\\u{7}"]);
    assert!(!refused.stderr.contains("hunter22") && !refused.stderr.contains('\u{1b}'), "{}", refused.stderr);
    room.server.trouble(("GET", "/version"), 9, say(401, "Unauthorized"));
    room.kubernetes(&["apply"]).fails(1, &["asking the cluster of the context `fake`", "renew its certificate or token"]);
    room.server.trouble(("GET", "/version"), 9, Mischief::Answer(200, "<html>".into()));
    room.kubernetes(&["apply"]).fails(1, &["is not an API server's"]);
    room.server.trouble(("GET", "/version"), 9, Mischief::Endless);
    room.kubernetes(&["apply"]).fails(1, &["it is longer than 64 MiB"]);
    let page = json!({"metadata": {"continue": "again"}, "items": []}).to_string();
    room.server.trouble(("GET", "/pods?"), 100_000, Mischief::Answer(200, page));
    room.kubernetes(&["status"]).fails(1, &["a list has no end after 200 pages"]);
    // Patience that a server asks for is tried, and a gateway's error.
    room.server.trouble(("GET", "/version"), 2, say(503, "starting"));
    room.kubernetes(&["apply", "--no-wait"]).ok();
    room.server.trouble(("GET", "/version"), 2, Mischief::Close);
    room.kubernetes(&["apply", "--no-wait"]).ok();
}

#[test]
fn which_cluster() {
    let room = Room::new();
    room.kubernetes(&["apply", "--context", "nowhere"]).fails(1, &["the kubeconfig has no context `nowhere`; it has fake"]);
    room.kubernetes(&["status", "--kubeconfig", "absent"]).fails(1, &["reading the kubeconfig absent: there is no such file"]);
    room.kubernetes(&["apply", "-n", "absent"]).fails(1, &["has no namespace `absent`", "--create-namespace"]);
    room.kubernetes(&["apply", "-n", "../x"]).fails(1, &["`../x` is no name of a namespace"]);
    room.kubernetes(&["apply", "-n", "made", "--create-namespace", "--no-wait"]).ok();
    assert!(room.server.lock().objects.contains_key("/apis/apps/v1/namespaces/made/deployments/web"));
    let mut none = room.command(&["status"]);
    none.env("KUBECONFIG", "").env("HOME", room.directory.path());
    ran(none).fails(1, &["there is no kubeconfig", ".kube/config", "--kubeconfig or KUBECONFIG"]);
    // Several files: the first that says something wins, and one that is absent is passed over.
    room.write("other", &kubeconfig("other", "http://127.0.0.1:1"));
    let list = ["absent", "kubeconfig", "other"].map(|name| room.directory.path().join(name).display().to_string()).join(":");
    let mut merged = room.command(&["status"]);
    merged.env("KUBECONFIG", &list);
    assert_eq!(ran(merged).code, 0);
    let mut refused = room.command(&["status", "--context", "other"]);
    refused.env("KUBECONFIG", &list);
    ran(refused).fails(1, &["http://127.0.0.1:1", "cannot be reached", "onnection refused"]);
    room.write("kubeconfig", "a: [");
    room.kubernetes(&["status"]).fails(1, &["the kubeconfig is wrong in"]);
}

/// What is built here goes to a registry, and the cluster has it by digest: of services with and without a name, and of one that uses
/// another's. A registry that is not there stops it before anything is applied.
#[test]
fn what_is_built_is_pushed_and_named_by_digest() {
    let registry = Registry::start();
    let server = ApiServer::start();
    let stack = Stack::new("nothing");
    stack.write("kubeconfig", &server.kubeconfig());
    stack.write("Dockerfile", "FROM busybox:local\nRUN echo built > /built\n");
    stack.write(
        "compose.yaml",
        "services:\n  web: {build: .}\n  named: {build: ., image: 'team/app:1'}\n  user: {image: 'team/app:1'}\n",
    );
    let apply = |registry: &str| {
        let args = ["kubernetes", "apply", "--no-wait", "--push", registry];
        let mut command = stack.command(&args);
        command.env("KUBECONFIG", stack.path("kubeconfig")).env_remove("HTTPS_PROXY").env_remove("https_proxy");
        ran(command)
    };
    apply("127.0.0.1:1/x").fails(1, &["127.0.0.1:1"]);
    assert!(!server.has("deployments", "web"), "nothing was applied");
    let target = format!("127.0.0.1:{}/shop", registry.port);
    apply(&target).ok();
    let image = |name: &str| {
        let object = server.object("deployments", name);
        object["spec"]["template"]["spec"]["containers"][0]["image"].as_str().expect("an image").to_string()
    };
    let of = |name: &str| format!("{target}/{name}@sha256:");
    assert!(image("web").starts_with(&of(&format!("{}-web", stack.project))), "{}", image("web"));
    assert!(image("named").starts_with(&of("team/app")), "{}", image("named"));
    assert_eq!(image("user"), image("named"));
    stack.wharf(&["image", "pull", &image("named")]).ok();
}

#[test]
fn images_that_are_built_have_to_be_pushed() {
    let room = Room::new();
    room.write("compose.yaml", "name: shop\nservices:\n  web: {build: .}\n");
    let refused = room.kubernetes(&["apply"]);
    refused.fails(1, &["the cluster cannot pull images that are built here: web", "--push REGISTRY"]);
    assert_eq!(room.count("PATCH"), 0);
}

#[test]
fn logs_are_merged_by_time() {
    let room = Room::new();
    for (pod, service, number) in [("web-5d-x7", "web", "1"), ("db-0", "db", "2")] {
        let labels = json!({"app.kubernetes.io/instance": "shop", "app.kubernetes.io/name": service});
        room.server.put(
            "pods",
            pod,
            json!({"metadata": {"name": pod, "uid": number, "labels": labels},
            "status": {"phase": "Succeeded", "containerStatuses": [{"name": service, "containerID": number}]}}),
        );
    }
    let time = |second: u32| format!("2026-01-01T00:00:0{second}.000000000Z");
    let web = format!("{} one\n{} three\n", time(1), time(3));
    room.server.lock().logs.insert("web-5d-x7/web".into(), web);
    room.server.lock().logs.insert("db-0/db".into(), format!("{} two\n{} end", time(2), time(4)));
    assert_eq!(room.kubernetes(&["logs"]).ok(), "web-x7  | one\ndb-0    | two\nweb-x7  | three\ndb-0    | end\n");
    assert_eq!(room.kubernetes(&["logs", "-t", "--no-log-prefix", "web"]).ok(), format!("{} one\n{} three\n", time(1), time(3)));
    // Nothing runs any more: it ends.
    let followed = room.kubernetes(&["logs", "-f", "db"]).ok();
    assert_eq!(followed, "db-0  | two\ndb-0  | end\n");
    // A log that was cut is read on, though its container has ended meanwhile, and no line is shown twice.
    room.server.trouble(("GET", "/pods/db-0/log"), 1, Mischief::Cut(format!("{} two\n", time(2))));
    assert_eq!(room.kubernetes(&["logs", "-f", "db"]).ok(), "db-0  | two\ndb-0  | end\n");
    room.kubernetes(&["logs", "nobody"]).fails(1, &["nobody"]);
}
