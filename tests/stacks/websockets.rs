//! `GET /containers/{id}/attach/ws` with a WebSocket client.

use crate::support::{Stack, eventually};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

type Socket = WebSocketStream<UnixStream>;

/// More than a test takes.
const LONG: Duration = Duration::from_secs(20);

async fn connect(stack: &Stack, path: &str) -> Result<Socket, Error> {
    let stream = UnixStream::connect(stack.run_root().join("engine.sock")).await.expect("the engine");
    let connected = tokio_tungstenite::client_async(format!("ws://engine{path}"), stream);
    timeout(LONG, connected).await.expect("an answer").map(|(socket, _)| socket)
}

async fn refusal(stack: &Stack, path: &str) -> (u16, String) {
    match connect(stack, path).await {
        Err(Error::Http(answer)) => {
            let text = answer.body().as_ref().map(|body| String::from_utf8_lossy(body).into_owned());
            (answer.status().as_u16(), text.unwrap_or_default())
        }
        other => panic!("{path}: {:?}", other.err()),
    }
}

async fn next(socket: &mut Socket) -> Message {
    timeout(LONG, socket.next()).await.expect("in time").expect("a message").expect("no error")
}

/// The output until the end, and the code of the close.
async fn rest(socket: &mut Socket) -> (String, Option<CloseCode>) {
    let mut bytes = Vec::new();
    loop {
        match timeout(LONG, socket.next()).await.expect("in time") {
            Some(Ok(Message::Binary(more))) => bytes.extend_from_slice(&more),
            Some(Ok(Message::Close(frame))) => {
                return (String::from_utf8_lossy(&bytes).into_owned(), frame.map(|frame| frame.code));
            }
            Some(Ok(other)) => panic!("{other:?}"),
            Some(Err(_)) | None => return (String::from_utf8_lossy(&bytes).into_owned(), None),
        }
    }
}

fn make(stack: &Stack, name: &str, body: Value) {
    let mut whole = json!({"Image": "busybox:local", "OpenStdin": true});
    whole.as_object_mut().expect("an object").extend(body.as_object().cloned().expect("an object"));
    let (status, answer) = stack.api("POST", &format!("/containers/create?name={name}"), Some(&whole));
    assert_eq!(status, 201, "{answer}");
}

fn start(stack: &Stack, name: &str) {
    assert_eq!(stack.api("POST", &format!("/containers/{name}/start"), None).0, 204);
}

const ALL: &str = "stream=1&stdin=1&stdout=1&stderr=1";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[test]
fn a_container_is_attached_to_by_websocket() {
    let stack = Stack::new("nothing");
    make(&stack, "cat", json!({"Cmd": ["sh", "-c", "echo out; echo err >&2; cat"], "StdinOnce": true}));
    runtime().block_on(async {
        let mut socket = connect(&stack, &format!("/v1.52/containers/cat/attach/ws?{ALL}")).await.expect("attached");
        start(&stack, "cat");
        let mut said = String::new();
        while said.len() < 8 {
            let Message::Binary(bytes) = next(&mut socket).await else { panic!("no binary message") };
            said.push_str(&String::from_utf8_lossy(&bytes));
        }
        // Bytes of both streams, without frames.
        assert!(said.contains("out\n") && said.contains("err\n"), "{said:?}");
        socket.send(Message::Ping("question".into())).await.expect("sent");
        assert_eq!(next(&mut socket).await, Message::Pong("question".into()));
        socket.send(Message::Binary("typed\n".into())).await.expect("sent");
        assert_eq!(next(&mut socket).await, Message::Binary("typed\n".into()));
        socket.send(Message::Text("text\n".into())).await.expect("sent");
        assert_eq!(next(&mut socket).await, Message::Binary("text\n".into()));
        // A client that leaves ends the input of a container whose input is for one client.
        socket.close(None).await.expect("closed");
        rest(&mut socket).await;
        eventually("it has ended", 10, || stack.api("GET", "/containers/cat/json", None).1["State"]["Status"] == "exited");
        // What it has said, and the end. The streams that are asked for, from 1.42 on.
        let (text, code) =
            rest(&mut connect(&stack, "/v1.52/containers/cat/attach/ws?logs=1&stdout=1").await.expect("attached")).await;
        assert_eq!((text.as_str(), code), ("out\ntyped\ntext\n", Some(CloseCode::Normal)));
        let (text, _) =
            rest(&mut connect(&stack, "/v1.42/containers/cat/attach/ws?logs=1&stderr=1").await.expect("attached")).await;
        assert_eq!(text, "err\n");
        let (text, _) = rest(&mut connect(&stack, "/v1.41/containers/cat/attach/ws?logs=1").await.expect("attached")).await;
        assert_eq!(text.len(), "out\nerr\ntyped\ntext\n".len());
    });
    stack.wharf(&["container", "rm", "cat"]).ok();
}

#[test]
fn a_websocket_that_is_wrong_is_refused() {
    let stack = Stack::new("nothing");
    make(&stack, "top", json!({"Cmd": ["sleep", "1000"], "Tty": true}));
    start(&stack, "top");
    let (status, answer) = stack.api("GET", "/containers/top/attach/ws?stream=1", None);
    assert_eq!((status, answer["message"].as_str().is_some_and(|m| m.contains("Upgrade: websocket"))), (400, true), "{answer}");
    runtime().block_on(async {
        let (status, text) = refusal(&stack, "/containers/none/attach/ws").await;
        assert_eq!((status, text.contains("No such container: none")), (404, true), "{text}");
        let (status, text) = refusal(&stack, "/containers/top/attach/ws?detachKeys=ctrl-ab").await;
        assert_eq!((status, text.contains("Invalid detach keys (ctrl-ab) provided")), (400, true), "{text}");
        assert_eq!(stack.api("POST", "/containers/top/pause", None).0, 204);
        assert_eq!(refusal(&stack, "/containers/top/attach/ws").await.0, 409);
        assert_eq!(stack.api("POST", "/containers/top/unpause", None).0, 204);
        // A message that is too large, and a frame that is none.
        let mut socket = connect(&stack, &format!("/containers/top/attach/ws?{ALL}")).await.expect("attached");
        let _ = socket.send(Message::Binary(vec![0; 2 << 20].into())).await;
        let (_, code) = rest(&mut socket).await;
        assert!(matches!(code, Some(CloseCode::Size) | None), "{code:?}");
        let mut raw = connect(&stack, &format!("/containers/top/attach/ws?{ALL}")).await.expect("attached").into_inner();
        tokio::io::AsyncWriteExt::write_all(&mut raw, &[0x83, 0x80, 0, 0, 0, 0]).await.expect("sent");
        let mut answer = Vec::new();
        timeout(LONG, tokio::io::AsyncReadExt::read_to_end(&mut raw, &mut answer)).await.expect("an end").expect("read");
        assert_eq!(answer, [0x88, 2, 3, 0xea], "1002: an error of the protocol");
    });
    assert_eq!(stack.api("GET", "/containers/top/json", None).1["State"]["Running"], true);
    stack.wharf(&["container", "rm", "-f", "top"]).ok();
}

#[test]
fn a_client_leaves_a_terminal_by_its_keys() {
    let stack = Stack::new("nothing");
    make(&stack, "shell", json!({"Cmd": ["sh", "-c", "read a; touch /$a; sleep 1000"], "Tty": true}));
    start(&stack, "shell");
    runtime().block_on(async {
        let mut socket =
            connect(&stack, &format!("/containers/shell/attach/ws?{ALL}&detachKeys=ctrl-x,y")).await.expect("attached");
        socket.send(Message::Binary("typed\n\x18y".into())).await.expect("sent");
        assert_eq!(rest(&mut socket).await.1, Some(CloseCode::Normal));
    });
    eventually("what was typed before has come", 10, || stack.wharf(&["container", "exec", "shell", "ls", "/typed"]).code == 0);
    assert_eq!(stack.api("GET", "/containers/shell/json", None).1["State"]["Running"], true);
    stack.wharf(&["container", "rm", "-f", "shell"]).ok();
}

/// A client that takes nothing holds up nobody who reads, and one that vanishes leaves nothing.
#[test]
fn a_websocket_that_is_not_read_holds_up_no_other_reader() {
    let stack = Stack::new("nothing");
    make(
        &stack,
        "loud",
        json!({"Cmd": ["sh", "-c", "read a; yes 0123456789012345678901234567890123456789 | head -c 30000000; echo end"]}),
    );
    runtime().block_on(async {
        let path = format!("/containers/loud/attach/ws?{ALL}");
        let idle = connect(&stack, &path).await.expect("attached");
        let mut reader = connect(&stack, &path).await.expect("attached");
        // It waits for a start that does not come for it.
        drop(connect(&stack, &path).await.expect("attached"));
        start(&stack, "loud");
        reader.send(Message::Binary("go\n".into())).await.expect("sent");
        let (text, code) = timeout(Duration::from_secs(60), rest(&mut reader)).await.expect("all of it");
        assert!(text.ends_with("end\n") && text.len() == 30_000_004, "{} bytes", text.len());
        assert_eq!(code, Some(CloseCode::Normal));
        drop(idle);
    });
    stack.wharf(&["container", "rm", "-f", "loud"]).ok();
}

/// A connection that has become a stream.
fn taken_over(stack: &Stack, path: &str, body: &Value) -> std::os::unix::net::UnixStream {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(stack.run_root().join("engine.sock")).expect("the engine");
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("asked");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream
}

/// The streams of clients have a common bound: one that leaves while a process is silent gives its place back. As with Docker, what
/// it has started goes on.
#[test]
fn who_leaves_a_silent_process_is_forgotten() {
    let stack = Stack::new("nothing");
    make(&stack, "cat", json!({"Cmd": ["cat"]}));
    make(&stack, "tty", json!({"Cmd": ["sleep", "1000"], "Tty": true}));
    start(&stack, "cat");
    start(&stack, "tty");
    let engine = stack.engine_pid().expect("an engine");
    let descriptors = || std::fs::read_dir(format!("/proc/{engine}/fd")).expect("descriptors").count();
    let exec = |container: &str, tty: bool, script: &str| {
        let body =
            json!({"Cmd": ["sh", "-c", script], "AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Tty": tty});
        let (status, made) = stack.api("POST", &format!("/containers/{container}/exec"), Some(&body));
        assert_eq!(status, 201, "{made}");
        format!("/exec/{}/start", made["Id"].as_str().expect("an id"))
    };
    let before = descriptors();
    let clients: Vec<_> = (0..10)
        .flat_map(|n| {
            let attach = |name: &str| taken_over(&stack, &format!("/containers/{name}/attach?{ALL}"), &json!({}));
            let script =
                format!("touch /begun{n}; read line; sleep 0.2; echo heard nobody; echo && touch /went-on{n}; sleep 1000");
            let of_exec = |name: &str, tty| taken_over(&stack, &exec(name, tty, &script), &json!({"Tty": tty}));
            [attach("cat"), attach("tty"), of_exec("cat", false), of_exec("tty", true)]
        })
        .collect();
    runtime().block_on(async {
        for name in ["cat", "tty"] {
            drop(connect(&stack, &format!("/containers/{name}/attach/ws?{ALL}")).await.expect("attached"));
            connect(&stack, &format!("/containers/{name}/attach/ws?{ALL}"))
                .await
                .expect("attached")
                .close(None)
                .await
                .expect("left");
        }
    });
    let all = |name: &str, file: &str| {
        (0..10).all(|n| stack.api("GET", &format!("/containers/{name}/archive?path=/{file}{n}"), None).0 == 200)
    };
    eventually("all have begun", 10, || all("cat", "begun") && all("tty", "begun"));
    assert!(descriptors() > before + 10 * 8);
    drop(clients);
    eventually("the processes go on", 20, || all("cat", "went-on"));
    // Each process of an exec keeps its two pipes, or its terminal twice.
    eventually("all clients are forgotten", 20, || descriptors() <= before + 10 * 4 + 5);
    for name in ["cat", "tty"] {
        stack.wharf(&["container", "rm", "-f", name]).ok();
    }
}
