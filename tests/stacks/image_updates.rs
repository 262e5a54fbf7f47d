//! `x-update`: images that are updated by the engine, from a real registry.

use crate::durability::SmallDisk;
use crate::images::{OCI_MANIFEST, Registry, digest, gzip};
use crate::support::{Stack, busybox_tar, eventually};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Pushes busybox with a command, as a tag; gives the manifest's digest.
fn push(registry: &Registry, tag: &str, script: &str) -> String {
    let base = std::fs::read(busybox_tar()).expect("busybox");
    let blob = gzip(&base);
    let layer = registry.blob("app", &blob);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Cmd": ["sh", "-c", script], "StopSignal": "SIGKILL"},
        "rootfs": {"type": "layers", "diff_ids": [digest(&base)]},
    });
    let config = config.to_string().into_bytes();
    let config_digest = registry.blob("app", &config);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": blob.len()}],
    });
    registry.manifest("app", tag, OCI_MANIFEST, &manifest).0
}

/// Takes what is posted to it.
fn receiver() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let port = listener.local_addr().expect("address").port();
    let bodies = Arc::<Mutex<Vec<String>>>::default();
    let own = bodies.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("connection");
            let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
            while !text.ends_with(b"}") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(n) => text.extend_from_slice(&buffer[..n]),
                }
            }
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n");
            own.lock().expect("lock").push(String::from_utf8_lossy(&text).into_owned());
        }
    });
    (port, bodies)
}

#[test]
fn an_image_is_updated_by_its_digest() {
    let registry = Registry::start();
    let (port, posted) = receiver();
    let stack = Stack::bare("none");
    let good = |mark: &str| format!("echo {mark} > /mark; exec sleep 1000");
    let first = push(&registry, "1", &good("one"));
    let image = format!("127.0.0.1:{}/app", registry.port);
    let write = |schedule: &str| {
        stack.write(
            "compose.yaml",
            &format!(
                "services:\n  app: {{image: '{image}:1', scale: 2, deploy: {{update_config: {{order: start-first, monitor: 300ms}}}},
    x-update: {{schedule: '{schedule}', cleanup: true, notify: 'http://127.0.0.1:{port}/hook?secret=word'}}}}
  pinned: {{image: '{image}@{first}', x-update: {{schedule: '@yearly'}}}}
  plain: {{image: '{image}:1'}}\n"
            ),
        );
    };
    for (schedule, words) in [("0 4 * *", "has 4 fields"), ("61 4 * * *", "`61` is no minute")] {
        write(schedule);
        stack.wharf(&["config", "-q"]).fails(1, &[words, "services.app.x-update.schedule"]);
    }
    write("TZ=Europe/Berlin 0 4 1 1 *");
    stack.wharf(&["up", "-d"]).ok();
    let mark = |service: &str, index: &str| {
        stack.wharf(&["exec", "-T", "--index", index, service, "cat", "/mark"]).ok().trim().to_string()
    };
    let marks = || [mark("app", "1"), mark("app", "2")];
    let both = |text: &str| [text.to_string(), text.to_string()];
    eventually("it runs", 10, || marks() == both("one"));
    let update = |service: &str| stack.wharf(&["updates", "--now", service]);
    let row = || -> serde_json::Value {
        let text = stack.wharf(&["updates", "app", "--format", "json"]).ok();
        serde_json::from_str(text.trim()).expect("JSON")
    };
    assert!(
        row()["CheckedAt"].is_null() && row()["Next"].as_str().is_some_and(|next| next.contains("-01-01T03:00:00Z")),
        "{}",
        row()
    );

    // Nothing new; what is pinned, and what does not ask for it.
    let ids = || stack.ps().iter().map(|c| c["ID"].to_string()).collect::<std::collections::BTreeSet<_>>();
    let before = ids();
    update("app").ok();
    assert_eq!(row()["Current"], first.as_str());
    stack.wharf(&["updates", "--now", "plain"]).fails(1, &["plain has no `x-update`"]);
    let second = push(&registry, "1", &good("two"));
    let said = update("pinned");
    assert!(said.stderr.contains("Has a pinned digest"), "{}", said.stderr);
    assert_eq!(ids(), before);

    // Another digest under the tag.
    let said = update("app");
    assert!(said.code == 0 && said.stderr.contains("Is updated"), "{}", said.stderr);
    assert_eq!((marks(), mark("plain", "1"), mark("pinned", "1")), (both("two"), "one".into(), "one".into()));
    assert_eq!((row()["Current"].as_str(), row()["Available"].as_str()), (Some(&*second), None));
    let before = ids();
    stack.wharf(&["up", "-d", "app"]).ok();
    assert_eq!(ids(), before, "`up` has nothing to do: the tag is the new image's");

    // One that fails is rolled back, told of, and not tried again; `up` does not bring it either.
    let bad = push(&registry, "1", "echo no database; exit 7");
    update("app").fails(1, &["exited (7)", "no database", &bad]);
    assert_eq!(marks(), both("two"));
    assert_eq!((row()["Current"].as_str(), row()["Available"].as_str()), (Some(&*second), Some(&*bad)));
    let before = ids();
    let again = update("app");
    assert!(again.code == 0 && again.stderr.contains("this digest has failed before"), "{}", again.stderr);
    stack.wharf(&["up", "-d", "app"]).ok();
    assert_eq!(ids(), before);
    let events: Vec<_> =
        row()["Events"].as_array().expect("events").iter().map(|e| e["Outcome"].as_str().expect("text").to_string()).collect();
    assert_eq!(events, ["updated", "failed"]);
    let bodies = posted.lock().expect("lock").clone();
    assert_eq!(bodies.len(), 2, "{bodies:?}");
    assert!(
        bodies[0].starts_with("POST /hook?secret=word ")
            && bodies[0].contains("\"outcome\":\"updated\"")
            && bodies[0].contains(&second)
    );
    assert!(bodies[1].contains("\"outcome\":\"failed\"") && bodies[1].contains("exited (7)"), "{}", bodies[1]);

    // A later one is tried, once by two at once; a registry that is gone is told of.
    push(&registry, "1", &good("four"));
    let said = std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| update("app").stderr));
        both.map(|one| one.join().expect("update"))
    });
    for words in ["Is updated", "Is up to date"] {
        assert_eq!(said.iter().filter(|text| text.contains(words)).count(), 1, "{said:?}");
    }
    assert_eq!(marks(), both("four"));
    let table = stack.wharf(&["updates"]).ok();
    assert!(table.contains("SCHEDULE") && table.contains("updated"), "{table}");
    let history = stack.wharf(&["history", "app"]).ok();
    assert!(history.contains("x-update") && history.contains("failed"), "{history}");
    drop(registry);
    update("app").fails(1, &["127.0.0.1"]);
    assert_eq!(row()["Events"].as_array().and_then(|e| e.last()).map(|e| e["Outcome"].clone()), Some("unknown".into()));
    assert!(!std::fs::read_to_string(stack.run_root().join("engine.log")).unwrap_or_default().contains("secret=word"));
}

/// A registry that does not answer holds up its own project, and a schedule is followed from when it is known.
#[test]
fn nobody_waits_for_the_registry_of_another_project() {
    let registry = Registry::start();
    let stack = Stack::new("nothing");
    push(&registry, "1", "exec sleep 1000");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let slow = format!("127.0.0.1:{}/app:1", silent.local_addr().expect("address").port());
    let quick = format!("127.0.0.1:{}/app:1", registry.port);
    stack.wharf(&["image", "tag", "busybox:local", &slow]).ok();
    stack.wharf(&["engine", "stop"]).ok();
    let mut engine = stack.command(&["engine"]);
    engine.env("TEST_CLOCK", stack.path("clock")).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut engine = engine.spawn().expect("engine");
    eventually("the engine answers", 10, || stack.api("GET", "/_ping", None).0 == 200);
    let up = |project: &str, image: &str, schedule: &str| {
        let service = format!("{{image: '{image}', command: sleep 1000, x-update: {{schedule: '{schedule}'}}}}");
        stack.write("compose.yaml", &format!("name: {project}\nservices: {{app: {service}}}\n"));
        stack.wharf(&["-p", project, "up", "-d"]).ok();
    };
    let checked = |project: &str| -> bool {
        let text = stack.wharf(&["-p", project, "updates", "app", "--format", "json"]).ok();
        let row: serde_json::Value = serde_json::from_str(text.trim()).expect("JSON");
        !row["CheckedAt"].is_null()
    };
    // A day without schedules, and then one whose time was within it.
    stack.write("clock", "90000");
    up("first", &slow, "0 4 * * *");
    up("second", &quick, "0 4 * * *");
    assert!(!checked("second"), "it was due before it was known");
    stack.write("clock", "180000");
    up("third", "busybox:local", "0 4 * * *");
    let _held = silent.accept().expect("it is asked");
    eventually("the other one is looked at", 10, || checked("second"));
    assert!(!checked("first"));
    drop(silent);
    ["first", "second", "third"].iter().for_each(|project| drop(stack.wharf(&["-p", project, "down", "-t", "0"]).ok()));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(engine.id() as i32), nix::sys::signal::Signal::SIGTERM).expect("ended");
    engine.wait().expect("its end");
}

/// A full disk is no failure of an image, and who is to hear of an update holds up nobody.
#[test]
fn what_this_machine_cannot_do_is_tried_again() {
    let disk = SmallDisk::new("24m");
    let stack = &disk.stack;
    let registry = Registry::start();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let notify = silent.local_addr().expect("address").port();
    let (connections, held) = std::sync::mpsc::sync_channel(0);
    std::thread::spawn(move || silent.incoming().try_for_each(|connection| connections.send(connection)));
    let run = |mark: &str| format!("echo {mark} > /mark; exec sleep 1000");
    push(&registry, "1", &run("one"));
    let image = format!("127.0.0.1:{}/app:1", registry.port);
    let update = "deploy: {update_config: {order: start-first, monitor: 100ms}}";
    let policy = format!("x-update: {{schedule: '@yearly', notify: 'http://127.0.0.1:{notify}/'}}");
    stack.write("compose.yaml", &format!("services:\n  app: {{image: '{image}', {update}, {policy}}}\n"));
    stack.wharf(&["up", "-d"]).ok();
    let mark = || stack.wharf(&["exec", "-T", "app", "cat", "/mark"]).ok();
    let events = || -> Vec<serde_json::Value> {
        let text = stack.wharf(&["updates", "app", "--format", "json"]).ok();
        let row: serde_json::Value = serde_json::from_str(text.trim()).expect("JSON");
        row["Events"].as_array().expect("events").iter().map(|event| event["Outcome"].clone()).collect()
    };
    eventually("it runs", 10, || mark() == "one\n");
    push(&registry, "1", &run("two"));
    disk.fill();
    std::thread::scope(|scope| {
        let full = scope.spawn(|| stack.wharf(&["updates", "--now", "app"]));
        // Whether it comes to be told of depends on how much of the journal was free.
        while !full.is_finished() {
            drop(held.recv_timeout(Duration::from_millis(10)));
        }
        full.join().expect("wharf").fails(1, &["No space left on device"]);
    });
    disk.free();
    assert_eq!(mark(), "one\n");

    let mut slow = stack.command(&["updates", "--now", "app"]).stderr(std::process::Stdio::null()).spawn().expect("wharf");
    let connection = held.recv_timeout(Duration::from_secs(20)).expect("it is told of");
    assert_eq!(mark(), "two\n");
    stack.wharf(&["restart", "-t", "0", "app"]).ok();
    assert!(slow.try_wait().expect("wharf").is_none(), "it does not wait for an answer");
    drop(connection);
    assert!(slow.wait().expect("wharf").success());
    assert!(events().ends_with(&["updated".into(), "not told".into()]), "{:?}", events());
}
