//! `wharf kubernetes` with users of few rights, servers that are away, strange answers, and objects that cannot be deleted.

use super::cluster::{Room, ran};
use super::support::api_server::Mischief;
use super::support::eventually;
use serde_json::json;
use std::process::Stdio;

fn say(code: u16, message: &str) -> Mischief {
    Mischief::Answer(code, json!({"kind": "Status", "message": message, "code": code}).to_string())
}

/// An array where the API has an object has nothing in it that serde would miss.
#[test]
fn an_array_is_no_list() {
    let room = Room::new();
    room.kubernetes(&["apply"]).ok();
    for answer in ["[]", "{\"items\": [[]]}", "{\"items\": [{\"metadata\": []}]}"] {
        room.server.trouble(("GET", "/deployments?"), 9, Mischief::Answer(200, answer.into()));
        room.kubernetes(&["status"]).fails(1, &["is not an API server's", "an object"]);
        room.kubernetes(&["down"]).fails(1, &["is not an API server's"]);
    }
    assert!(room.server.has("deployments", "web"));
}

/// A user of a namespace often may not list what the project does not have.
#[test]
fn kinds_that_the_user_may_not_list() {
    let room = Room::new();
    let rights = "is forbidden: User \"u\" cannot list resource";
    room.server.trouble(("GET", "/roles?"), 1000, say(403, rights));
    let applied = room.kubernetes(&["apply"]);
    let warning = "warning: the user of this context may not list roles: ";
    assert!(applied.stderr.contains(&format!("{warning}what the project had of them once is not pruned")), "{}", applied.stderr);
    assert!(applied.stderr.contains("Deployment web  Ready"), "{}", applied.stderr);
    applied.ok();
    // The wait asks for the project's own kinds alone.
    room.server.trouble(("GET", "/cronjobs?"), 1000, say(403, rights));
    room.kubernetes(&["apply", "--no-prune"]).ok();
    let status = room.kubernetes(&["status"]);
    assert!(status.stdout.contains("Deployment/web") && status.stderr.contains("may not list cronjobs"), "{}", status.stderr);
    assert_eq!(status.code, 0);
    room.server.trouble(("GET", "/roles?"), 1000, say(403, rights));
    let down = room.kubernetes(&["down", "-v"]);
    assert!(down.stderr.contains(&format!("{warning}what the project has of them is left")), "{}", down.stderr);
    down.ok();
    assert!(!room.server.has("deployments", "web") && !room.server.has("persistentvolumeclaims", "data"));
    // A kind that the project has: the rest is applied and deleted, and it is a failure.
    room.server.trouble(("GET", "/secrets?"), 1000, say(403, rights));
    room.kubernetes(&["apply"]).fails(1, &["listing secrets for what is to be pruned (--no-prune lists nothing)", rights]);
    room.kubernetes(&["down"]).fails(1, &["listing secrets", rights]);
    assert!(!room.server.has("deployments", "web") && room.server.has("secrets", "pw"));
    // Nothing at all may be listed.
    room.server.trouble(("GET", "?labelSelector"), 1000, say(403, rights));
    room.kubernetes(&["down"]).fails(1, &[rights, "needs the verbs"]);
}

#[test]
fn one_object_that_cannot_be_deleted_holds_up_no_other() {
    let room = Room::new();
    room.kubernetes(&["apply"]).ok();
    room.server.trouble(("DELETE", "/deployments/web"), 1000, say(403, "web is protected"));
    let down = room.kubernetes(&["down", "-v"]).fails(1, &["deleting the Deployment `web`: web is protected"]);
    assert!(down.stderr.contains("StatefulSet db  Deleted"), "{}", down.stderr);
    assert!(room.server.has("deployments", "web") && !room.server.has("statefulsets", "db") && !room.server.has("secrets", "pw"));
    // Pruning is the same, and the wait is not left out for it.
    room.kubernetes(&["apply", "--no-wait"]).ok();
    room.write("compose.yaml", "name: shop\nservices:\n  front: {image: 'r.example/web:2'}\n");
    let pruned = room.kubernetes(&["apply"]).fails(1, &["pruning the Deployment `web`: web is protected"]);
    for line in ["StatefulSet db  Pruned", "Secret pw  Pruned", "Deployment front  Ready"] {
        assert!(pruned.stderr.contains(line), "no `{line}` in {}", pruned.stderr);
    }
}

/// `apply` looks at all before it makes the first, and `diff` refuses what it refuses.
#[test]
fn what_is_somebody_elses_is_found_before_anything_is_made() {
    let room = Room::new();
    room.server.put(
        "deployments",
        "web",
        json!({"kind": "Deployment", "metadata": {"name": "web", "uid": "x",
        "labels": {"app": "theirs"}, "managedFields": [{"manager": "kubectl", "operation": "Update"}]}}),
    );
    room.server.put(
        "secrets",
        "pw",
        json!({"kind": "Secret", "metadata": {"name": "pw", "uid": "y",
        "managedFields": [{"manager": "helm", "operation": "Update"}]}}),
    );
    let words = [
        "the Deployment `web` of the namespace `default` belongs to somebody else (kubectl)",
        "the Secret `pw` of the namespace `default` belongs to somebody else (helm)",
        "--force-conflicts",
    ];
    room.kubernetes(&["apply"]).fails(1, &words);
    assert_eq!(room.count("PATCH"), 0, "something was applied");
    let diff = room.kubernetes(&["diff"]).fails(2, &words);
    assert!(diff.stdout.contains("+++ StatefulSet/db") && !diff.stdout.contains("Deployment/web"), "{}", diff.stdout);
    let taken = room.kubernetes(&["diff", "--force-conflicts"]).fails(1, &[]);
    assert!(taken.stdout.contains("--- Deployment/web"), "{}", taken.stdout);
    room.kubernetes(&["apply", "--force-conflicts"]).ok();
}

/// A load balancer answers for a server that restarts.
#[test]
fn a_gateways_error_is_a_server_that_is_away() {
    for code in [502, 503, 504] {
        let room = Room::new();
        // More than one request is tried again on its own.
        room.server.trouble(("GET", "/deployments?"), 7, Mischief::Answer(code, "<html>Bad Gateway".into()));
        let applied = room.kubernetes(&["apply", "--no-prune"]);
        let warning = format!(
            "warning: the API server http://{}/ is away: it answers {code} <html>Bad Gateway; it is asked again",
            room.server.address
        );
        assert!(applied.stderr.contains(&warning), "no `{warning}` in {}", applied.stderr);
        assert!(applied.stderr.contains("Deployment web  Ready"), "{}", applied.stderr);
        applied.ok();
    }
}

#[test]
fn down_waits_for_a_server_that_is_away() {
    let room = Room::new();
    room.kubernetes(&["apply"]).ok();
    let mut child = room.command(&["down"]);
    // The lists of the beginning, and then those of the wait.
    room.server.lock().kept = vec!["/deployments/web".into()];
    let child = child.stderr(Stdio::piped()).spawn().expect("spawn");
    eventually("the wait begins", 20, || room.count("DELETE /apis/apps/v1/namespaces/default/deployments") == 1);
    room.server.trouble(("GET", "/deployments?"), 7, Mischief::Answer(502, "Bad Gateway".into()));
    eventually("it is asked again", 30, || room.server.lock().trouble.as_ref().is_some_and(|trouble| trouble.times == 0));
    room.server.lock().kept.clear();
    room.server.remove("deployments", "web");
    let output = child.wait_with_output().expect("wait");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("Deployment web  Deleted"), "{stderr}");
}

/// While it waits, `down` lists what it waits for, less often the longer it takes.
#[test]
fn down_asks_for_what_it_waits_for_alone() {
    let room = Room::new();
    room.kubernetes(&["apply"]).ok();
    room.server.lock().kept = vec!["/deployments/web".into()];
    let before = room.count("GET");
    ran(room.command(&["down", "--timeout", "3"])).fails(1, &["not everything was gone within 3 s", "the Deployment `web`"]);
    let asked = room.count("GET") - before;
    // Fifteen kinds at first, those that are deleted once more, and then one kind and the Pods.
    assert!(asked < 45, "{asked} requests");
}

/// A Pod that has ended, with the log of its one container.
fn ended(room: &Room, pod: &str, service: &str, log: &str) {
    let labels = json!({"app.kubernetes.io/instance": "shop", "app.kubernetes.io/name": service});
    let status = json!({"phase": "Succeeded", "containerStatuses": [{"name": service, "containerID": pod}]});
    room.server.put("pods", pod, json!({"metadata": {"name": pod, "uid": pod, "labels": labels}, "status": status}));
    room.server.lock().logs.insert(format!("{pod}/{service}"), log.into());
}

/// Lines of several MiB come whole, with one time, and once, though the connection is cut in them.
#[test]
fn long_lines_of_logs_are_whole() {
    let room = Room::new();
    let time = "2026-01-01T00:00:00.000000001Z";
    for text in ["A".repeat(3_000_000), "some words ".repeat(300_000)] {
        ended(&room, "web-1", "web", &format!("{time} {text}\n2026-01-01T00:00:01Z after\n"));
        let expected = format!("{text}\nafter\n");
        let is_whole =
            |shown: String, how: &str| assert!(shown == expected, "{how}: {} of {} bytes", shown.len(), expected.len());
        is_whole(room.kubernetes(&["logs", "--no-log-prefix"]).ok(), "at once");
        is_whole(room.kubernetes(&["logs", "-f", "--no-log-prefix"]).ok(), "followed");
        let timed = room.kubernetes(&["logs", "-t"]).ok();
        assert!(timed == format!("web-1  | {time} {text}\nweb-1  | 2026-01-01T00:00:01Z after\n"), "{} bytes", timed.len());
        for cut in [500_000, 1_500_000, 2_500_000] {
            let begun = Mischief::Cut(format!("{time} {}", &text[..cut]));
            room.server.trouble(("GET", "/pods/web-1/log"), 1, begun);
            is_whole(room.kubernetes(&["logs", "-f", "--no-log-prefix"]).ok(), "cut and followed");
        }
    }
    let since: Vec<String> = room.server.lock().requests.iter().filter(|request| request.len() > 1000).cloned().collect();
    assert!(since.is_empty(), "a piece of a line was asked for as a time");
}

/// One node that is away for a moment ends no other's log.
#[test]
fn a_log_that_cannot_be_read_is_asked_again() {
    let room = Room::new();
    ended(&room, "web-1", "web", "2026-01-01T00:00:00Z one\n");
    ended(&room, "db-1", "db", "2026-01-01T00:00:00Z two\n");
    room.server.trouble(("GET", "/pods/web-1/log"), 2, say(500, "dial tcp 10.0.0.1:10250: i/o timeout"));
    let followed = room.kubernetes(&["logs", "-f"]);
    assert_eq!(followed.stderr.matches("warning: reading the log of `web-1`: dial tcp").count(), 1, "{}", followed.stderr);
    let shown = followed.ok();
    assert!(shown.contains("| one\n") && shown.contains("| two\n"), "{shown}");
    // Without -f it is an error, as is a refusal with it.
    room.server.trouble(("GET", "/pods/web-1/log"), 2, say(500, "i/o timeout"));
    room.kubernetes(&["logs"]).fails(1, &["reading the log of `web-1`: i/o timeout"]);
    room.server.trouble(("GET", "/pods/web-1/log"), 2, say(403, "no logs for you"));
    room.kubernetes(&["logs", "-f"]).fails(1, &["reading the log of `web-1`: no logs for you"]);
}

/// `logs -f` goes on over a server that is away.
#[test]
fn logs_wait_for_a_server_that_is_away() {
    let room = Room::new();
    ended(&room, "web-1", "web", "2026-01-01T00:00:00Z one\n");
    room.server.trouble(("GET", "/pods?"), 7, Mischief::Answer(503, "restarting".into()));
    let followed = room.kubernetes(&["logs", "-f"]);
    assert!(followed.stderr.contains("it answers 503 restarting; it is asked again"), "{}", followed.stderr);
    assert_eq!(followed.ok(), "web-1  | one\n");
}
