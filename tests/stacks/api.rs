//! Docker's API as its clients use it: raw requests on the engine's socket.

use crate::support::{Stack, eventually};
use serde_json::{Value, json};
use std::io::{Read, Write};

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

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

/// The calls and the words that whole clients hang on.
#[test]
fn what_clients_begin_with_is_there() {
    let stack = Stack::new("nothing");
    let get = |path: &str| stack.api("GET", path, None);
    assert_eq!(get("/_ping").0, 200);
    assert_eq!(get("/v1.41/plugins"), (200, json!([])));
    for (path, status, words) in [
        ("/v1.99/info", 400, "client version 1.99 is too new. Maximum supported API version is 1.52"),
        ("/v1.12/info", 400, "client version 1.12 is too old. Minimum supported API version is 1.24"),
        ("/v1.41/nowhere", 404, "page not found"),
        ("/v1.41/swarm", 503, "This node is not a swarm manager"),
        ("/v1.41/services", 503, "This node is not a swarm manager"),
        ("/v1.41/containers/none/json", 404, "No such container: none"),
        ("/v1.41/images/none/json", 404, "No such image: none"),
        ("/v1.41/volumes/none", 404, "no such volume"),
        ("/v1.41/networks/none-such", 404, "network none-such not found"),
        ("/v1.41/containers/json?filters=%7B%22colour%22%3A%5B%22red%22%5D%7D", 400, "invalid filter 'colour'"),
        ("/v1.41/containers/json?filters=%7B%22status%22%3A%5B%22red%22%5D%7D", 400, "invalid filter 'status=red'"),
        ("/v1.41/images/json?filters=x", 400, "invalid filter"),
        ("/v1.41/networks?filters=%7B%22type%22%3A%5B%22odd%22%5D%7D", 400, "invalid filter"),
        ("/v1.41/volumes?filters=%7B%22dangling%22%3A%5B%22perhaps%22%5D%7D", 400, "invalid filter 'dangling=perhaps'"),
    ] {
        let (got, answer) = get(path);
        assert_eq!((got, message(&answer).contains(words)), (status, true), "{path}: {answer}");
    }
    let (_, networks) = get("/v1.41/networks");
    let names: Vec<&str> = networks.as_array().expect("a list").iter().filter_map(|n| n["Name"].as_str()).collect();
    assert_eq!(names, ["bridge", "host", "none"]);
    for name in names {
        assert_eq!(stack.api("DELETE", &format!("/v1.41/networks/{name}"), None).0, 403, "{name}");
        let (status, answer) = stack.api("POST", "/v1.41/networks/create", Some(&json!({"Name": name})));
        assert_eq!((status, message(&answer).contains("predefined")), (403, true), "{answer}");
    }
    assert_eq!(stack.api("DELETE", "/v1.41/containers/none?force=1", None).0, 204);
    let (status, volume) = stack.api("POST", "/v1.41/volumes/create", Some(&json!({})));
    assert_eq!((status, volume["Name"].as_str().map(str::len)), (201, Some(64)), "{volume}");
    let (status, pruned) = stack.api("POST", "/v1.41/containers/prune", None);
    assert_eq!((status, &pruned["ContainersDeleted"]), (200, &Value::Null), "{pruned}");
}

/// `docker run --rm`: waits before it starts, and finds nothing left when the start fails.
#[test]
fn a_wait_begins_before_the_container_and_a_failed_start_removes_it() {
    let stack = Stack::new("nothing");
    let body = |command: &str| {
        json!({
            "Image": "busybox:local", "Cmd": [command], "HostConfig": {"NetworkMode": "default", "AutoRemove": true},
            "NetworkingConfig": {"EndpointsConfig": {"default": {}}},
        })
    };
    let id = created(&stack, "runs", &body("true"));
    let mut wait = std::os::unix::net::UnixStream::connect(stack.run_root().join("engine.sock")).expect("the engine");
    wait.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a time");
    write!(wait, "POST /v1.45/containers/{id}/wait?condition=removed HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("asked");
    // The head comes while nothing runs yet: the container is started when it has been read.
    let mut head = [0; 15];
    wait.read_exact(&mut head).expect("a head");
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    assert_eq!(stack.api("POST", &format!("/v1.45/containers/{id}/start"), None).0, 204);
    let mut rest = String::new();
    wait.read_to_string(&mut rest).expect("an answer");
    assert!(rest.contains("{\"StatusCode\":0}"), "{rest}");
    let id = created(&stack, "fails", &body("/no/such/program"));
    let (status, answer) = stack.api("POST", &format!("/v1.45/containers/{id}/start"), None);
    assert_eq!((status, message(&answer).contains("no such file")), (400, true), "{answer}");
    assert_eq!(stack.api("GET", &format!("/v1.45/containers/{id}/json"), None).0, 404);
    let (status, answer) = stack.api("POST", "/v1.45/containers/x/wait?condition=someday", None);
    assert_eq!(status, 404, "{answer}");
}

/// Names, streams, ends and fields of one container, as clients ask for them.
#[test]
fn a_running_container_answers_as_dockers_does() {
    let stack = Stack::new("nothing");
    let body = json!({
        "Image": "busybox:local", "Cmd": ["sh", "-c", "echo said; sleep 1000"], "Env": ["A=b"], "Labels": {"k": "v"},
        "HostConfig": {"Binds": ["data:/data"], "RestartPolicy": {"Name": "no"}},
    });
    let id = created(&stack, "one", &body);
    let post = |path: &str| stack.api("POST", &format!("/v1.45{path}"), None);
    let (status, answer) = stack.api("POST", "/v1.45/containers/create?name=one", Some(&body));
    assert_eq!((status, message(&answer).contains("is already in use by container")), (409, true), "{answer}");
    let (status, answer) = post(&format!("/containers/{id}/kill"));
    assert_eq!((status, message(&answer).contains("is not running")), (409, true), "{answer}");
    assert_eq!(post(&format!("/containers/{id}/start")).0, 204);
    assert_eq!(post(&format!("/containers/{id}/start")).0, 304);
    let (status, exec) =
        stack.api("POST", "/v1.45/containers/one/exec", Some(&json!({"Cmd": ["echo", "out"], "AttachStdout": true})));
    assert_eq!(status, 201, "{exec}");
    let exec = exec["Id"].as_str().expect("an id").to_string();
    // Without `Upgrade`, the output is the body.
    let (status, output) = stack.api("POST", &format!("/v1.45/exec/{exec}/start"), Some(&json!({"Detach": false})));
    assert_eq!((status, output.as_str().map(|text| text.ends_with("out\n"))), (200, Some(true)), "{output}");
    let (_, inspected_exec) = stack.api("GET", &format!("/v1.45/exec/{exec}/json"), None);
    assert_eq!((&inspected_exec["ExitCode"], &inspected_exec["ProcessConfig"]["entrypoint"]), (&json!(0), &json!("echo")));
    assert_eq!(stack.api("POST", &format!("/v1.45/exec/{exec}/start"), None).0, 409);
    assert_eq!(post("/containers/one/resize?h=x&w=1").0, 400);
    let (_, list) = stack.api("GET", "/v1.52/containers/json?filters=%7B%22name%22%3A%5B%22%5Eone%24%22%5D%7D", None);
    assert_eq!((&list[0]["Names"], &list[0]["Health"]["Status"]), (&json!(["/one"]), &json!("none")), "{list}");
    let (_, list) = stack.api("GET", "/v1.45/containers/json", None);
    assert_eq!(list[0]["Health"], Value::Null, "{list}");
    let value = inspected(&stack, "one");
    assert_eq!(value["HostConfig"]["Binds"], json!(["data:/data"]));
    assert_eq!(value["Config"]["Env"][0], "A=b");
    assert_ne!(value["NetworkSettings"]["IPAddress"], "");
    assert_eq!(value["NetworkSettings"]["IPAddress"], value["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]);
    // What is shown makes another one like it.
    let mut again = value["Config"].clone();
    again["HostConfig"] = value["HostConfig"].clone();
    let twin = inspected(&stack, &created(&stack, "twin", &again));
    for part in [
        "/Config/Env",
        "/Config/Cmd",
        "/Config/Labels",
        "/HostConfig/Binds",
        "/HostConfig/RestartPolicy",
        "/HostConfig/SecurityOpt",
    ] {
        assert_eq!(twin.pointer(part), value.pointer(part), "{part}");
    }
    assert_eq!(post("/containers/one/kill").0, 204);
    assert_eq!(inspected(&stack, "one")["State"]["Running"], false, "SIGKILL is answered after the end");
    let (status, answer) = stack.api("DELETE", "/v1.45/volumes/data", None);
    assert_eq!((status, message(&answer).contains("volume is in use")), (409, true), "{answer}");
    for name in ["one", "twin"] {
        assert_eq!(stack.api("DELETE", &format!("/v1.45/containers/{name}?v=1"), None).0, 204);
    }
    stack.wharf(&["image", "tag", "busybox:local", "other:1"]).ok();
    let (_, images) = stack.api("GET", "/v1.45/images/json", None);
    assert_eq!((images.as_array().map(Vec::len), images[0]["RepoTags"].as_array().map(Vec::len)), (Some(1), Some(2)), "{images}");
    let image = images[0]["Id"].as_str().expect("an id");
    let (status, answer) = stack.api("DELETE", &format!("/v1.45/images/{image}"), None);
    assert_eq!((status, message(&answer).contains("must be forced")), (409, true), "{answer}");
    let (status, answer) = stack.api("DELETE", &format!("/v1.45/images/{image}?force=1"), None);
    assert_eq!((status, &answer[2]["Deleted"]), (200, &json!(image)), "{answer}");
}

/// Shapes that clients of Docker read: of a network without containers, of links and options of endpoints, of disk usage.
#[test]
fn answers_have_dockers_shapes() {
    let stack = Stack::new("nothing");
    let get = |path: &str| {
        let (status, answer) = stack.api("GET", path, None);
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    };
    let post = |path: &str, body: Value, expected: u16| {
        let (status, answer) = stack.api("POST", path, Some(&body));
        assert_eq!(status, expected, "{path} {body}: {answer}");
        answer
    };
    // `bridge` has addresses while nobody is on it.
    let bridge = get("/networks/bridge")["IPAM"]["Config"][0].clone();
    assert!(bridge["Subnet"].is_string() && bridge["Gateway"].is_string(), "{bridge}");
    post("/networks/create", json!({"Name": "att", "Attachable": true}), 201);
    assert_eq!(get("/networks/att")["Attachable"], true);
    let body = json!({
        "Image": "busybox:local", "Cmd": ["sh", "-c", "echo a b"], "Env": ["HOME"], "HostConfig": {"NetworkMode": "att"},
        "NetworkingConfig": {"EndpointsConfig": {"att": {"Links": ["x:y"], "DriverOpts": {"some": "thing"}}}},
    });
    let id = created(&stack, "shapes", &body);
    let inspected = inspected(&stack, &id);
    let endpoint = &inspected["NetworkSettings"]["Networks"]["att"];
    assert_eq!((&endpoint["Links"], &endpoint["DriverOpts"]), (&json!(["x:y"]), &json!({"some": "thing"})));
    assert!(inspected["Config"]["Env"].as_array().is_some_and(|env| env.contains(&json!("HOME"))), "{inspected}");
    assert_eq!(get("/containers/json?all=1")[0]["Command"], "sh -c 'echo a b'");
    // An image with two names is one.
    assert_eq!(stack.api("POST", "/images/busybox:local/tag?repo=second&tag=name", None).0, 201);
    let usage = get("/system/df");
    assert_eq!(usage["Images"].as_array().map(Vec::len), Some(1), "{usage}");
    assert!(usage["Images"][0]["Created"].as_i64().is_some_and(|time| time > 0), "{usage}");
    assert_eq!(usage["Images"][0]["RepoTags"].as_array().map(Vec::len), Some(2), "{usage}");
    assert_eq!(
        (&usage["Containers"][0]["Status"], &usage["Containers"][0]["Command"]),
        (&json!("Created"), &json!("sh -c 'echo a b'"))
    );
    assert!(usage["BuildCache"][0]["CreatedAt"].is_string(), "{usage}");
    assert!(get("/images/busybox:local/json")["Metadata"]["LastTagTime"].is_string());
    assert_eq!(stack.api("DELETE", &format!("/containers/{id}"), None).0, 204);
    assert_eq!(stack.api("DELETE", "/networks/att", None).0, 204);
}

/// Requests that are wrong are the client's fault, and not the engine's.
#[test]
fn wrong_requests_are_refused_with_dockers_status() {
    let stack = Stack::new("nothing");
    let create = "/containers/create";
    let image = |host: Value| json!({"Image": "busybox:local", "HostConfig": host});
    let log = |kind: &str, key: &str| image(json!({"LogConfig": {"Type": kind, "Config": {key: "1"}}}));
    for (path, body, status, words) in [
        (create, json!(["busybox:local"]), 400, "invalid type"),
        (create, image(json!([])), 400, "HostConfig"),
        (create, log("nosuch", "a"), 400, "logger: no log driver named 'nosuch' is registered"),
        (create, log("json-file", "nosuch"), 400, "unknown log opt 'nosuch' for json-file log driver"),
        ("/networks/create", json!({"Name": "n", "IPAM": {"Config": [{"Subnet": "bogus"}]}}), 400, "bogus"),
        ("/networks/create", json!({"Name": "n", "IPAM": {"Config": [{"Subnet": "127.0.0.0/16"}]}}), 400, "127.0.0.0/16"),
    ] {
        let (got, answer) = stack.api("POST", path, Some(&body));
        assert_eq!(got, status, "{path} {body}: {answer}");
        assert!(answer["message"].as_str().unwrap_or_default().contains(words), "{body}: {answer}");
    }
    let id = created(&stack, "c", &image(json!({})));
    let (status, answer) = stack.api("POST", &format!("/commit?container={id}&changes=BOGUS%20x"), None);
    assert_eq!(status, 400, "{answer}");
    // A name that is empty is not the list.
    for path in ["/images//json", "/v1.40/containers//json", "/containers//json"] {
        assert_eq!(stack.api("GET", path, None).0, 404, "{path}");
    }
    assert_eq!(stack.api("GET", "//v1.40/containers/json", None).0, 200);
    let other = created(&stack, "other", &log("syslog", "syslog-address"));
    for id in [id, other] {
        assert_eq!(stack.api("DELETE", &format!("/containers/{id}"), None).0, 204);
    }
}

/// A start that fails says which step has failed, beside its words.
#[test]
fn a_failed_start_names_its_step() {
    let stack = Stack::new("nothing");
    std::fs::write(stack.path("plain"), "text").expect("write");
    let plain = format!("{}:/plain", stack.path("plain").display());
    for (name, body, step, code) in [
        ("missing", json!({"Cmd": ["nosuchcommand"]}), "program_missing", 127),
        ("denied", json!({"Cmd": ["/plain"], "HostConfig": {"Binds": [plain]}}), "program_not_executable", 126),
        ("user", json!({"Cmd": ["true"], "User": "nosuch"}), "user", 128),
        ("sysctl", json!({"Cmd": ["true"], "HostConfig": {"Sysctls": {"net.ipv4.nosuch": "1"}}}), "sysctls", 128),
    ] {
        let mut body = body;
        body["Image"] = json!("busybox:local");
        let id = created(&stack, name, &body);
        let (_, answer) = stack.api("POST", &format!("/containers/{id}/start"), None);
        assert_eq!((&answer["step"], &answer["exitCode"]), (&json!(step), &json!(code)), "{answer}");
        assert_eq!(stack.api("DELETE", &format!("/containers/{id}"), None).0, 204);
    }
}

/// What is shared, which archive is none, and which driver is not there: in Docker's forms.
#[test]
fn images_and_drivers_are_as_dockers_clients_read_them() {
    let stack = Stack::new("nothing");
    stack.wharf(&["container", "run", "-d", "--name", "one", "busybox:local", "sleep", "1000"]).ok();
    let (status, answer) = stack.api("POST", "/commit?container=one&repo=made&tag=1", None);
    assert_eq!(status, 201, "{answer}");
    let (_, images) = stack.api("GET", "/images/json?shared-size=1", None);
    let list = images.as_array().expect("a list");
    assert!(
        list.len() == 2 && list.iter().all(|image| image["SharedSize"].as_i64().is_some_and(|size| size > 100_000)),
        "{images}"
    );
    let (_, usage) = stack.api("GET", "/system/df?type=image", None);
    assert!(usage["Images"][0]["SharedSize"].as_i64().is_some_and(|size| size > 0), "{usage}");
    assert_eq!(stack.api("GET", "/images/json", None).1[0]["SharedSize"], -1);
    // Images without a name count.
    stack.wharf(&["image", "tag", "busybox:local", "made:1"]).ok();
    assert_eq!(stack.api("GET", "/info", None).1["Images"], 2);
    // An archive that is none is an error in the progress.
    let (status, answer) = stack.api("POST", "/images/load", Some(&json!("no archive")));
    assert!(status == 200 && answer["errorDetail"]["message"].is_string() && answer["error"].is_string(), "{status} {answer}");
    stack.write("no.tar", "no archive");
    stack.wharf(&["image", "load", "-i", "no.tar"]).fails(1, &["archive"]);
    // The driver of volumes that nobody makes.
    let create = |host: Value, volumes: Value| {
        let body = json!({"Image": "busybox:local", "HostConfig": host, "Volumes": volumes});
        stack.api("POST", "/containers/create?name=driven", Some(&body))
    };
    let (status, answer) = create(json!({"VolumeDriver": "foo", "Isolation": "default"}), json!({}));
    assert_eq!(status, 201, "{answer}");
    let host = inspected(&stack, "driven")["HostConfig"].clone();
    assert_eq!((&host["VolumeDriver"], &host["Isolation"]), (&json!("foo"), &json!("default")));
    assert_eq!(stack.api("DELETE", "/containers/driven", None).0, 204);
    for (host, volumes) in
        [(json!({"VolumeDriver": "foo"}), json!({"/v": {}})), (json!({"VolumeDriver": "foo", "Binds": ["v:/v"]}), json!({}))]
    {
        let (status, answer) = create(host, volumes);
        assert!(status == 404 && message(&answer).contains("plugin \"foo\" not found"), "{answer}");
    }
    // Processes that run beside the container's first, as inspect shows them; docker-py's name of the keys.
    assert_eq!(inspected(&stack, "one")["ExecIDs"], Value::Null);
    let (_, exec) = stack.api("POST", "/containers/one/exec", Some(&json!({"Cmd": ["sleep", "1000"], "detachKeys": "ctrl-x"})));
    let id = exec["Id"].as_str().expect("an id");
    assert_eq!(inspected(&stack, "one")["ExecIDs"], json!([id]));
    assert_eq!(stack.api("GET", &format!("/exec/{id}/json"), None).1["DetachKeys"], "ctrl-x");
    let (_, stats) = stack.api("GET", "/containers/one/stats?stream=0&one-shot=1", None);
    let counted = stats["memory_stats"]["stats"].as_object().expect("an object");
    assert!(counted.len() > 10 && counted.contains_key("inactive_file"), "{stats}");
    stack.wharf(&["container", "rm", "-f", "one"]).ok();
}
