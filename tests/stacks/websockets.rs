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
