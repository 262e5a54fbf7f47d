//! Docker's API as its clients use it: raw requests on the engine's socket.

use crate::support::{Stack, eventually};
use serde_json::{Value, json};

/// Makes a container and gives its id.
fn created(stack: &Stack, name: &str, body: &Value) -> String {
    let (status, answer) = stack.api("POST", &format!("/v1.45/containers/create?name={name}"), Some(body));
    assert_eq!(status, 201, "{answer}");
    answer["Id"].as_str().expect("an id").to_string()
}

fn inspected(stack: &Stack, id: &str) -> Value {
    let (status, answer) = stack.api("GET", &format!("/v1.45/containers/{id}/json"), None);
    assert_eq!(status, 200, "{answer}");
    answer
}

/// What a request says takes effect, or is refused: nothing of it is lost.
#[test]
fn a_containers_body_takes_effect_or_is_refused() {
    let stack = Stack::new("nothing");
    let wrong = [
        (json!({"Image": "busybox:local", "HostConfig": {"Memory": "64m"}}), "HostConfig.Memory"),
        (json!({"Image": "busybox:local", "HostConfig": {"Binds": ["/tmp:/x:rshraed"]}}), "invalid mode: rshraed"),
        (json!({"Image": "busybox:local", "HostConfig": {"PortBindings": {"80": [{"HostPort": "x"}]}}}), "invalid port"),
    ];
    for (body, words) in wrong {
        let (status, answer) = stack.api("POST", "/v1.45/containers/create", Some(&body));
        let message = answer["message"].as_str().unwrap_or_default();
        assert_eq!((status, message.contains(words)), (400, true), "{body}: {answer}");
    }
    let id = created(
        &stack,
        "all",
        &json!({
            "Image": "busybox:local", "Cmd": ["sleep", "100"],
            "Volumes": {"/data": {}}, "ExposedPorts": {"81/tcp": {}},
            "HostConfig": {
                "Binds": [format!("{}:/x:rshared", stack.path("").display())],
                "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18000-18010"}]},
                "PublishAllPorts": true, "Memory": 67_108_864,
            },
        }),
    );
    assert_eq!(stack.api("POST", &format!("/v1.45/containers/{id}/start"), None).0, 204);
    let running = inspected(&stack, &id);
    let bound = |value: &Value, port: &str| -> u16 {
        value["NetworkSettings"]["Ports"][port][0]["HostPort"].as_str().and_then(|p| p.parse().ok()).unwrap_or(0)
    };
    assert!((18000..=18010).contains(&bound(&running, "80/tcp")), "{}", running["NetworkSettings"]);
    assert_ne!(bound(&running, "81/tcp"), 0, "{}", running["NetworkSettings"]);
    let sh = |script: &str| stack.wharf(&["container", "exec", "all", "sh", "-c", script]).ok();
    // The fields before the hyphen tell the propagation: a private mount has none.
    assert!(sh("grep ' /x ' /proc/self/mountinfo").contains(" shared:"), "{}", sh("cat /proc/self/mountinfo"));
    assert_eq!(sh("grep -c ' /data ' /proc/self/mountinfo").trim(), "1");
    let limit = sh("cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes");
    assert_eq!(limit.trim(), "67108864");
    assert_eq!(stack.api("POST", &format!("/v1.45/containers/{id}/stop?t=0"), None).0, 204);
    let stopped = inspected(&stack, &id);
    assert_eq!(stopped["HostConfig"]["PortBindings"]["80/tcp"], json!([{"HostIp": "127.0.0.1", "HostPort": "18000-18010"}]));
    assert_eq!(stack.api("DELETE", &format!("/v1.45/containers/{id}?v=1"), None).0, 204);
    eventually("the anonymous volume goes with it", 5, || {
        stack.api("GET", "/v1.45/volumes", None).1["Volumes"].as_array().is_none_or(Vec::is_empty)
    });
}
