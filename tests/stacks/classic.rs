//! `POST /build` as Docker's clients use it, and the events of what they do.

use crate::support::Stack;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

/// Builds a directory of a Dockerfile alone; the lines of the answer.
fn built(stack: &Stack, dockerfile: &str, query: &str) -> Vec<Value> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(dockerfile.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "Dockerfile", dockerfile.as_bytes()).expect("a file");
    let context = tar.into_inner().expect("a tar");
    let mut curl = Command::new("curl")
        .args(["-s", "--max-time", "60", "-X", "POST", "-H", "Content-Type: application/x-tar", "--data-binary", "@-"])
        .arg("--unix-socket")
        .arg(stack.run_root().join("engine.sock"))
        .arg(format!("http://docker/v1.45/build?{query}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl");
    curl.stdin.take().expect("input").write_all(&context).expect("a context");
    let output = curl.wait_with_output().expect("an answer").stdout;
    let text = String::from_utf8_lossy(&output).into_owned();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{text}"))).collect()
}

fn stream(lines: &[Value]) -> String {
    lines.iter().filter_map(|line| line["stream"].as_str()).collect()
}

#[test]
fn the_classic_builder_speaks_as_dockers_does() {
    let stack = Stack::new("nothing");
    let dockerfile = "FROM busybox:local\nENV A=b\nRUN echo said\nCMD [\"x\"]\n";
    let lines = built(&stack, dockerfile, "t=made:1&t=made:2");
    let said = stream(&lines);
    let mut rest = said.as_str();
    for words in [
        "Step 1/4 : FROM busybox:local\n",
        " ---> ",
        "Step 2/4 : ENV A=b\n",
        "Step 3/4 : RUN echo said\n",
        "said\n",
        " ---> ",
        "Step 4/4 : CMD [\"x\"]\n",
        "Successfully built ",
        "Successfully tagged made:1\nSuccessfully tagged made:2\n",
    ] {
        rest = rest.split_once(words).unwrap_or_else(|| panic!("no {words:?} in its place:\n{said}")).1;
    }
    assert!(lines.iter().all(|line| line["stream"] != ""), "{lines:?}");
    assert!(lines.iter().any(|line| line["aux"]["ID"].as_str().is_some_and(|id| id.starts_with("sha256:"))), "{lines:?}");
    assert!(stream(&built(&stack, dockerfile, "")).contains(" ---> Using cache\n"));
    let quiet = built(&stack, dockerfile, "q=1");
    assert!(
        quiet.len() == 1 && quiet[0]["stream"].as_str().is_some_and(|id| id.starts_with("sha256:") && id.len() == 72),
        "{quiet:?}"
    );
    let failed = built(&stack, "FROM busybox:local\nRUN exit 3\n", "");
    let last = failed.last().expect("a line");
    assert_eq!(last["errorDetail"]["code"], 3, "{last}");
    assert!(last["error"].as_str().is_some_and(|error| error.contains("returned a non-zero code: 3")), "{last}");
    for (query, words) in [
        ("squash=1", "only supported with experimental mode"),
        ("version=2", "/session and /grpc"),
        ("outputs=%5B%7B%7D%5D", "BuildKit"),
        ("remote=http%3A%2F%2Fx%2Fy.tar", "cannot fetch"),
        ("ulimits=x", "not understood"),
    ] {
        let answer = built(&stack, "FROM scratch\n", query);
        assert!(answer[0]["message"].as_str().is_some_and(|message| message.contains(words)), "{query}: {answer:?}");
    }
    assert!(stream(&built(&stack, "FROM busybox:local\nRUN true\n", "memory=1000000&cpushares=0")).contains("[Warning]"));
    let limits = built(
        &stack,
        "FROM busybox:local\nRUN ulimit -n\n",
        "ulimits=%5B%7B%22Name%22%3A%22nofile%22%2C%22Soft%22%3A77%2C%22Hard%22%3A77%7D%5D",
    );
    assert!(stream(&limits).contains("\n77\n"), "{limits:?}");
    // On a network of the user's, others are found by their names.
    stack.wharf(&["network", "create", "builds"]).ok();
    stack.wharf(&["container", "run", "-d", "--name", "found", "--network", "builds", "busybox:local", "sleep", "100"]).ok();
    for mode in ["builds", "container:found"] {
        let lines = built(
            &stack,
            "FROM busybox:local\nRUN ping -c 1 -w 5 found | grep -c '1 packets received'\n",
            &format!("nocache=1&networkmode={mode}"),
        );
        assert!(stream(&lines).contains("Successfully built"), "{mode}: {lines:?}");
    }
    let lines = built(&stack, "FROM busybox:local\nRUN true\n", "nocache=1&networkmode=nosuch");
    assert!(lines.last().is_some_and(|line| line["error"].as_str().is_some_and(|e| e.contains("nosuch"))), "{lines:?}");
    stack.wharf(&["container", "rm", "-f", "found"]).ok();
    stack.wharf(&["network", "rm", "builds"]).ok();
}

/// What a listener on `/events` needs to follow what is there.
#[test]
fn everything_that_clients_do_has_its_event() {
    let stack = Stack::new("nothing");
    let post = |path: &str| {
        let (status, answer) = stack.api("POST", &format!("/v1.45{path}"), None);
        assert!(status < 300, "{path}: {answer}");
    };
    let body = json!({"Image": "busybox:local", "Cmd": ["sleep", "100"], "Tty": true, "HostConfig": {"Binds": ["data:/data"], "NetworkMode": "mine"}});
    stack.wharf(&["network", "create", "mine"]).ok();
    assert_eq!(stack.api("POST", "/v1.45/containers/create?name=one", Some(&body)).0, 201);
    post("/containers/one/start");
    post("/containers/one/resize?h=20&w=70");
    assert_eq!(stack.api("GET", "/v1.45/containers/one/top?ps_args=-o+pid%2Ccomm", None).1["Titles"], json!(["PID", "COMMAND"]));
    assert_eq!(stack.api("GET", "/v1.45/containers/one/top?ps_args=-o+nosuch", None).0, 400);
    assert_eq!(stack.wharf(&["container", "cp", "one:/etc/passwd", "copied"]).code, 0);
    assert_eq!(stack.wharf(&["container", "cp", "copied", "one:/"]).code, 0);
    assert_eq!(stack.wharf(&["container", "export", "one", "-o", "exported.tar"]).code, 0);
    post("/commit?container=one&repo=made&tag=1");
    stack.wharf(&["image", "save", "made:1", "-o", "saved.tar"]).ok();
    stack.wharf(&["image", "load", "-i", "saved.tar"]).ok();
    stack.wharf(&["image", "tag", "made:1", "made:2"]).ok();
    assert_eq!(stack.api("DELETE", "/v1.45/images/made:1", None).0, 200);
    assert_eq!(stack.api("DELETE", "/v1.45/images/made:2", None).0, 200);
    post("/containers/one/stop?t=0");
    assert_eq!(stack.api("DELETE", "/v1.45/containers/one", None).0, 204);
    stack.wharf(&["network", "rm", "mine"]).ok();
    post("/volumes/prune?filters=%7B%22all%22%3A%5B%22true%22%5D%7D");
    // On the predefined network, which comes and goes unseen.
    stack.wharf(&["container", "run", "--rm", "busybox:local", "true"]).ok();
    let until = jiff::Timestamp::now().as_second() + 1;
    let (_, events) = stack.api("GET", &format!("/v1.45/events?since=1&until={until}"), None);
    let text = events.as_str().expect("lines").to_string();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let shown = |event: &Value| {
        let actor = &event["Actor"];
        let name = actor["Attributes"]["name"].as_str().or(actor["ID"].as_str()).unwrap_or_default();
        format!("{} {} {name}", event["Type"].as_str().unwrap_or_default(), event["Action"].as_str().unwrap_or_default())
    };
    let all: Vec<String> = events.iter().map(shown).collect();
    let mut rest = all.as_slice();
    for wanted in [
        "network create mine",
        "volume create data",
        "container create one",
        "network connect mine",
        "volume mount data",
        "container start one",
        "container resize one",
        "container top one",
        "container archive-path one",
        "container extract-to-dir one",
        "container export one",
        "container commit one",
        "image tag made:2",
        "image untag made:1",
        "image untag made:2",
        "image delete sha256:",
        "container die one",
        "network disconnect mine",
        "volume unmount data",
        "container stop one",
        "container destroy one",
        "network destroy mine",
        "volume destroy data",
        "volume prune ",
    ] {
        let at = rest.iter().position(|event| event.starts_with(wanted));
        rest = &rest[at.unwrap_or_else(|| panic!("no `{wanted}` in its place in {all:#?}")) + 1..];
    }
    for wanted in ["image save sha256:", "image load sha256:"] {
        assert!(all.iter().any(|event| event.starts_with(wanted)), "{wanted}: {all:#?}");
    }
    assert!(!all.iter().any(|event| event == "network create bridge" || event == "network destroy bridge"), "{all:#?}");
    assert_eq!(all.iter().filter(|event| event.starts_with("image delete")).count(), 1, "{all:#?}");
}
