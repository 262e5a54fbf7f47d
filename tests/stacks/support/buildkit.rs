//! A client of BuildKit's API, as buildx is one: it calls `/grpc`, and serves what only it has on `/session`.

use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use bollard_buildkit_proto::fsutil::types::{Packet, Stat};
use bollard_buildkit_proto::google::rpc;
use bollard_buildkit_proto::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use bollard_buildkit_proto::moby::buildkit::v1 as control;
use bollard_buildkit_proto::moby::buildkit::v1::frontend as gateway;
use bollard_buildkit_proto::moby::filesync::v1::{BytesMessage, CredentialsRequest, CredentialsResponse};
use bollard_buildkit_proto::moby::sshforward::v1::{CheckAgentRequest, CheckAgentResponse};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// What a build has exported: the mode and content of each file, by its path.
pub type ReceivedFiles = Arc<Mutex<BTreeMap<String, (u32, Vec<u8>)>>>;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Content by path; a directory ends with `/`.
pub type Tree = BTreeMap<String, Vec<u8>>;

pub fn tree(files: &[(&str, &str)]) -> Tree {
    files.iter().map(|(path, text)| ((*path).to_string(), text.as_bytes().to_vec())).collect()
}

/// What a client has, and how it behaves.
#[derive(Clone, Default)]
pub struct Served {
    pub directories: HashMap<String, Tree>,
    /// Packets that are sent instead of the directory of a name.
    pub packets: HashMap<String, Vec<Packet>>,
    /// The connection ends when the directory of this name is asked for.
    pub vanishes_at: Option<String>,
    pub secrets: HashMap<String, Vec<u8>>,
    pub agents: HashMap<String, PathBuf>,
    pub login: Option<(String, String)>,
    /// What has been asked for: method, and the directory's name with the patterns.
    pub asked: Arc<Mutex<Vec<String>>>,
    /// An archive that is the context.
    pub upload: Vec<u8>,
    /// The file that was sent to the client.
    pub sent: Arc<Mutex<Vec<u8>>>,
    /// The directory that was sent, where the client wants one: mode and content by path.
    pub received: Option<ReceivedFiles>,
}

impl Served {
    /// A client that has a Dockerfile and a context.
    pub fn new(dockerfile: &str, context: &[(&str, &str)]) -> Self {
        let directories = [("dockerfile", tree(&[("Dockerfile", dockerfile)])), ("context", tree(context))];
        let directories = directories.into_iter().map(|(name, tree)| (name.to_string(), tree)).collect();
        Served { directories, ..Served::default() }
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("a lock").clone()
    }
}

/// How a call has failed.
#[derive(Clone, Debug)]
pub struct Failed {
    pub code: i32,
    pub message: String,
    pub details: Vec<String>,
}

/// A build's end, and what was shown of it.
#[derive(Debug)]
pub struct Build {
    pub result: Result<HashMap<String, String>, Failed>,
    pub shown: control::StatusResponse,
    /// What a question has been answered, by its form.
    pub answer: HashMap<String, Vec<u8>>,
    /// The build graph that stands for the result.
    pub graph: Option<bollard_buildkit_proto::pb::Definition>,
}

impl Build {
    pub fn log(&self) -> String {
        self.shown.logs.iter().map(|log| String::from_utf8_lossy(&log.msg).into_owned()).collect()
    }

    pub fn response(&self) -> &HashMap<String, String> {
        self.result.as_ref().unwrap_or_else(|failed| panic!("{failed:?}\n{}", self.log()))
    }

    pub fn failed(&self) -> &Failed {
        self.result.as_ref().expect_err("it is to fail")
    }

    /// The last state of a vertex by a part of its name.
    pub fn vertex(&self, name: &str) -> &control::Vertex {
        let found = self.shown.vertexes.iter().rev().find(|vertex| vertex.name.contains(name));
        found.unwrap_or_else(|| panic!("no vertex {name}: {:?}", self.shown.vertexes))
    }
}

pub struct Client {
    socket: PathBuf,
    sender: hyper::client::conn::http2::SendRequest<Body>,
    pub session: String,
    serving: tokio::task::JoinHandle<()>,
}

static NUMBER: AtomicU32 = AtomicU32::new(1);

pub fn new_reference() -> String {
    format!("ref{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

const METHODS: [&str; 8] = [
    "/moby.filesync.v1.FileSync/DiffCopy",
    "/moby.filesync.v1.FileSend/DiffCopy",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/moby.sshforward.v1.SSH/CheckAgent",
    "/moby.sshforward.v1.SSH/ForwardAgent",
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.upload.v1.Upload/Pull",
    "/grpc.health.v1.Health/Check",
];

/// A connection to a path that is upgraded to h2c.
pub async fn upgraded(socket: &std::path::Path, path: &str, headers: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).await.expect("the engine");
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.expect("asked");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&head))));
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.to_lowercase().contains("upgrade: h2c"), "{head}");
    stream
}

impl Client {
    /// Connects, and offers a session.
    pub async fn new(socket: PathBuf, served: Served) -> Self {
        let session = new_reference();
        let methods: String = METHODS.iter().map(|method| format!("X-Docker-Expose-Session-Grpc-Method: {method}\r\n")).collect();
        let headers = format!("X-Docker-Expose-Session-Uuid: {session}\r\nX-Docker-Expose-Session-Name: x\r\n{methods}");
        let stream = upgraded(&socket, "/session", &headers).await;
        let gone = Arc::new(tokio::sync::Notify::new());
        let serving = tokio::spawn(async move {
            let ending = gone.clone();
            let service = hyper::service::service_fn(move |request| {
                let (served, gone) = (served.clone(), gone.clone());
                async move { Ok::<_, Infallible>(serve(served, &gone, request).await) }
            });
            let connection =
                hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                () = ending.notified() => {}
            }
        });
        let sender = calls(&socket).await;
        Client { socket, sender, session, serving }
    }

    pub fn end_session(&self) {
        self.serving.abort();
    }

    /// A call of one message and one answer.
    pub async fn call<R: Message + Default>(&self, method: &str, build: &str, message: &impl Message) -> Result<R, Failed> {
        let mut answers = self.answers::<R>(method, build, message).await?;
        Ok(answers.pop().expect("an answer"))
    }

    /// All answers of a call.
    pub async fn answers<R: Message + Default>(
        &self,
        method: &str,
        build: &str,
        message: &impl Message,
    ) -> Result<Vec<R>, Failed> {
        let mut request = request(method, one(message));
        request.headers_mut().insert("buildkit-controlapi-buildid", HeaderValue::from_str(build).expect("an id"));
        let response = self.sender.clone().send_request(request).await.map_err(broken)?;
        let headers = response.headers().clone();
        let body = response.into_body().collect().await.map_err(broken)?;
        let trailers = body.trailers().cloned().unwrap_or(headers);
        status(&trailers)?;
        let mut bytes = BytesMut::from(&*body.to_bytes());
        let mut all = Vec::new();
        while let Some(message) = split(&mut bytes) {
            all.push(R::decode(message).expect("a message"));
        }
        Ok(all)
    }

    /// Builds as buildx does: with the gateway.
    pub async fn build(&self, attributes: &[(&str, &str)], exporter: Option<(&str, &[(&str, &str)])>) -> Build {
        self.build_as("dockerfile.v0", attributes, exporter).await
    }

    pub async fn build_as(
        &self,
        frontend: &str,
        attributes: &[(&str, &str)],
        exporter: Option<(&str, &[(&str, &str)])>,
    ) -> Build {
        self.build_with(frontend, attributes, HashMap::new(), exporter).await
    }

    /// The same with graphs of other builds' results.
    pub async fn build_with(
        &self,
        frontend: &str,
        attributes: &[(&str, &str)],
        inputs: HashMap<String, bollard_buildkit_proto::pb::Definition>,
        exporter: Option<(&str, &[(&str, &str)])>,
    ) -> Build {
        let reference = new_reference();
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_string(), (*b).to_string())).collect();
        let exporters =
            exporter.iter().map(|(kind, attrs)| control::Exporter { r#type: (*kind).into(), attrs: map(attrs) }).collect();
        let solve =
            control::SolveRequest { r#ref: reference.clone(), session: self.session.clone(), exporters, ..Default::default() };
        let outer = self.call::<control::SolveResponse>("/moby.buildkit.v1.Control/Solve", "", &solve);
        let inner = async {
            let bridge = "/moby.buildkit.v1.frontend.LLBBridge";
            let _: gateway::PongResponse = self.call(&format!("{bridge}/Ping"), &reference, &gateway::PingRequest {}).await?;
            let solve = gateway::SolveRequest {
                frontend: frontend.into(),
                frontend_opt: map(attributes),
                frontend_inputs: inputs,
                allow_result_return: true,
                ..Default::default()
            };
            let solved: Result<gateway::SolveResponse, Failed> = self.call(&format!("{bridge}/Solve"), &reference, &solve).await;
            let returned = match &solved {
                Ok(solved) => gateway::ReturnRequest { result: solved.result.clone(), error: None },
                Err(failed) => gateway::ReturnRequest {
                    error: Some(rpc::Status { code: failed.code, message: failed.message.clone(), details: Vec::new() }),
                    result: None,
                },
            };
            let _: gateway::ReturnResponse = self.call(&format!("{bridge}/Return"), &reference, &returned).await?;
            solved
        };
        let status = self.shown(&reference);
        let (outer, inner, shown) = tokio::join!(outer, inner, status);
        let answered = inner.as_ref().ok().and_then(|solved| solved.result.clone());
        let graph = answered.as_ref().and_then(|answered| match &answered.result {
            Some(gateway::result::Result::Ref(result)) => result.def.clone(),
            _ => None,
        });
        // A build that was refused from outside is cancelled within.
        let result = match inner {
            Err(failed) if failed.code != 1 => Err(failed),
            _ => outer.map(|response| response.exporter_response),
        };
        Build { result, shown, graph, answer: answered.map(|result| result.metadata).unwrap_or_default() }
    }

    /// What is shown of a build until its end.
    pub async fn shown(&self, reference: &str) -> control::StatusResponse {
        let request = control::StatusRequest { r#ref: reference.into() };
        let all: Vec<control::StatusResponse> =
            self.answers("/moby.buildkit.v1.Control/Status", "", &request).await.expect("a status");
        let mut shown = control::StatusResponse::default();
        for one in all {
            shown.vertexes.extend(one.vertexes);
            shown.statuses.extend(one.statuses);
            shown.logs.extend(one.logs);
            shown.warnings.extend(one.warnings);
        }
        shown
    }

    /// A further session, which is carried by a call instead of a connection of its own. Gives how it has ended.
    pub fn carried(&self, served: Served, id: &str) -> tokio::task::JoinHandle<Result<(), Failed>> {
        let (ours, theirs) = tokio::io::duplex(32 << 10);
        let service = hyper::service::service_fn(move |request| {
            let served = served.clone();
            async move { Ok::<_, Infallible>(serve(served, &tokio::sync::Notify::new(), request).await) }
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection(TokioIo::new(ours), service);
        let (mut from, mut to) = tokio::io::split(theirs);
        let (sender, receiver) = mpsc::unbounded_channel();
        let frames = answer(receiver).into_body();
        let mut request = request("/moby.buildkit.v1.Control/Session", frames);
        let headers = request.headers_mut();
        headers.insert("x-docker-expose-session-uuid", HeaderValue::from_str(id).expect("an id"));
        headers.insert("x-docker-expose-session-name", HeaderValue::from_static("shared"));
        for method in METHODS {
            headers.append("x-docker-expose-session-grpc-method", HeaderValue::from_static(method));
        }
        let mut calls = self.sender.clone();
        tokio::spawn(async move {
            let response = calls.send_request(request).await.map_err(broken)?;
            if response.headers().contains_key("grpc-status") {
                return status(response.headers());
            }
            let mut messages = Messages(response.into_body(), BytesMut::new());
            let down = async {
                while let Some(message) = messages.next::<control::BytesMessage>().await {
                    to.write_all(&message.data).await.expect("written");
                }
            };
            let up = async {
                let mut buffer = vec![0; 32 << 10];
                while let Ok(n @ 1..) = from.read(&mut buffer).await {
                    let message = control::BytesMessage { data: buffer[..n].to_vec() };
                    let _ = sender.send(Frame::data(framed(&message)));
                }
            };
            tokio::select! { () = down => {}, () = up => {}, _ = connection => {} }
            Ok(())
        })
    }

    /// A further connection for calls, whose builds end with it.
    pub async fn further(&self) -> Self {
        let serving = tokio::spawn(async {});
        Client { socket: self.socket.clone(), sender: calls(&self.socket).await, session: self.session.clone(), serving }
    }
}

async fn calls(socket: &std::path::Path) -> hyper::client::conn::http2::SendRequest<Body> {
    let stream = upgraded(socket, "/grpc", "").await;
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(async move { drop(connection.await) });
    sender
}

fn broken(error: hyper::Error) -> Failed {
    Failed { code: -1, message: error.to_string(), details: Vec::new() }
}

fn request(method: &str, body: Body) -> Request<Body> {
    let request =
        Request::post(format!("http://localhost{method}")).header("content-type", "application/grpc").header("te", "trailers");
    request.body(body).expect("a request")
}

fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.encoded_len() as u32);
    bytes.extend(message.encode_to_vec());
    bytes.freeze()
}

fn one(message: &impl Message) -> Body {
    let frame = Ok(Frame::data(framed(message)));
    StreamBody::new(futures::stream::iter([frame])).boxed_unsync()
}

fn split(bytes: &mut BytesMut) -> Option<Bytes> {
    let length = u32::from_be_bytes(bytes.get(1..5)?.try_into().expect("four")) as usize;
    (bytes.len() >= 5 + length).then(|| {
        bytes.advance(5);
        bytes.split_to(length).freeze()
    })
}

fn status(headers: &HeaderMap) -> Result<(), Failed> {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let code: i32 = text("grpc-status").expect("a status").parse().expect("a number");
    if code == 0 {
        return Ok(());
    }
    let message = text("grpc-message").unwrap_or_default();
    let message = percent_encoding::percent_decode_str(&message).decode_utf8_lossy().into_owned();
    let details = text("grpc-status-details-bin").map(|text| {
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD_NO_PAD, text).expect("base64");
        let status = rpc::Status::decode(bytes.as_slice()).expect("a status");
        status
            .details
            .into_iter()
            .map(|detail| format!("{} {}", detail.type_url, String::from_utf8_lossy(&detail.value)))
            .collect()
    });
    Err(Failed { code, message, details: details.unwrap_or_default() })
}

/// The messages of a call, as they come.
struct Messages(Incoming, BytesMut);

impl Messages {
    async fn next<M: Message + Default>(&mut self) -> Option<M> {
        loop {
            if let Some(message) = split(&mut self.1) {
                return M::decode(message).ok();
            }
            match self.0.frame().await?.ok()?.into_data() {
                Ok(data) => self.1.extend(data),
                Err(_) => return None,
            }
        }
    }
}

fn answer(receiver: mpsc::UnboundedReceiver<Frame<Bytes>>) -> Response<Body> {
    let frames = futures::stream::unfold(receiver, |mut receiver| async move { Some((Ok(receiver.recv().await?), receiver)) });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn end(code: i32) -> Frame<Bytes> {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", HeaderValue::from(code));
    Frame::trailers(headers)
}

/// The services of the session.
async fn serve(served: Served, gone: &tokio::sync::Notify, request: Request<Incoming>) -> Response<Body> {
    let method = request.uri().path().to_string();
    let values = |name: &str| -> Vec<String> {
        request.headers().get_all(name).iter().map(|value| value.to_str().expect("text").to_string()).collect()
    };
    let (name, exclude, follow) = (values("dir-name").concat(), values("exclude-patterns"), values("followpaths"));
    served.asked.lock().expect("a lock").push(format!("{method} {name} {exclude:?}"));
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut messages = Messages(request.into_body(), BytesMut::new());
    let reply = |bytes: Option<Bytes>| {
        let code = if bytes.is_some() { 0 } else { 5 };
        bytes.into_iter().for_each(|bytes| drop(sender.send(Frame::data(bytes))));
        let _ = sender.send(end(code));
    };
    match method.rsplit_once('.').map_or("", |(_, rest)| rest) {
        "FileSync/DiffCopy" => {
            if served.vanishes_at.as_ref() == Some(&name) {
                gone.notify_one();
            }
            match (served.packets.get(&name), served.directories.get(&name)) {
                (Some(packets), _) => packets.iter().for_each(|packet| drop(sender.send(Frame::data(framed(packet))))),
                (None, Some(tree)) => {
                    let tree = tree.clone();
                    tokio::spawn(send_tree(tree, exclude, follow, messages, sender));
                    return answer(receiver);
                }
                (None, None) => reply(None),
            }
            // Whoever sends packets of his own waits until he is given up.
            tokio::spawn(async move {
                while messages.next::<Packet>().await.is_some() {}
                drop(sender);
            });
        }
        "FileSend/DiffCopy" if served.received.is_some() => {
            tokio::spawn(receive_tree(served.received.expect("it"), messages, sender));
        }
        "Upload/Pull" => {
            let parts = served.upload.chunks(1000).map(|part| framed(&BytesMessage { data: part.to_vec() }));
            parts.for_each(|part| drop(sender.send(Frame::data(part))));
            let _ = sender.send(end(0));
        }
        "FileSend/DiffCopy" => {
            tokio::spawn(async move {
                while let Some(message) = messages.next::<BytesMessage>().await {
                    served.sent.lock().expect("a lock").extend(message.data);
                }
                let _ = sender.send(end(0));
            });
        }
        "Secrets/GetSecret" => {
            let asked: GetSecretRequest = messages.next().await.expect("a request");
            reply(served.secrets.get(&asked.id).map(|data| framed(&GetSecretResponse { data: data.clone() })));
        }
        "SSH/CheckAgent" => {
            let asked: CheckAgentRequest = messages.next().await.expect("a request");
            reply(served.agents.get(&asked.id).map(|_| framed(&CheckAgentResponse {})));
        }
        "SSH/ForwardAgent" => {
            let agent = UnixStream::connect(served.agents.values().next().expect("an agent")).await.expect("an agent");
            tokio::spawn(async move {
                let (mut from, mut to) = agent.into_split();
                let up = async {
                    while let Some(message) = messages.next::<BytesMessage>().await {
                        to.write_all(&message.data).await.expect("written");
                    }
                };
                let down = async {
                    let mut buffer = vec![0; 4096];
                    while let Ok(n @ 1..) = from.read(&mut buffer).await {
                        let _ = sender.send(Frame::data(framed(&BytesMessage { data: buffer[..n].to_vec() })));
                    }
                };
                tokio::select! { () = up => {}, () = down => {} }
                let _ = sender.send(end(0));
            });
        }
        "Auth/Credentials" => {
            let asked: CredentialsRequest = messages.next().await.expect("a request");
            served.asked.lock().expect("a lock").push(format!("login at {}", asked.host));
            let (username, secret) = served.login.clone().unwrap_or_default();
            reply(Some(framed(&CredentialsResponse { username, secret })));
        }
        _ => {
            let _ = sender.send(end(12));
        }
    }
    answer(receiver)
}

pub fn stat(path: &str, mode: u32, size: usize) -> Packet {
    let stat = Stat { path: path.into(), mode, size: size as i64, mod_time: 1_000_000_000, ..Stat::default() };
    Packet { r#type: PacketType::PacketStat.into(), stat: Some(stat), ..Packet::default() }
}

/// fsutil's sender.
async fn send_tree(
    tree: Tree,
    exclude: Vec<String>,
    follow: Vec<String>,
    mut messages: Messages,
    sender: mpsc::UnboundedSender<Frame<Bytes>>,
) {
    const DIRECTORY: u32 = 1 << 31;
    let send = |packet: &Packet| drop(sender.send(Frame::data(framed(packet))));
    let wanted = |path: &&String| !exclude.contains(*path) && (follow.is_empty() || follow.contains(*path));
    let files: Vec<(&String, &Vec<u8>)> = tree.iter().filter(|(path, _)| wanted(path)).collect();
    for (path, content) in &files {
        match path.strip_suffix('/') {
            Some(directory) => send(&stat(directory, DIRECTORY | 0o755, 0)),
            None => send(&stat(path, 0o644, content.len())),
        }
    }
    send(&Packet { r#type: PacketType::PacketStat.into(), ..Packet::default() });
    while let Some(packet) = messages.next::<Packet>().await {
        match PacketType::try_from(packet.r#type).expect("a kind") {
            PacketType::PacketReq => {
                let data = PacketType::PacketData.into();
                for chunk in files[packet.id as usize].1.chunks(32 << 10).chain([&[][..]]) {
                    send(&Packet { r#type: data, id: packet.id, data: chunk.to_vec(), ..Packet::default() });
                }
            }
            PacketType::PacketFin => {
                send(&Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() });
                break;
            }
            other => panic!("{other:?}: {}", String::from_utf8_lossy(&packet.data)),
        }
    }
    let _ = sender.send(end(0));
}

/// fsutil's receiver.
async fn receive_tree(into: ReceivedFiles, mut messages: Messages, sender: mpsc::UnboundedSender<Frame<Bytes>>) {
    let send = |kind: PacketType, id: u32| {
        drop(sender.send(Frame::data(framed(&Packet { r#type: kind.into(), id, ..Packet::default() }))))
    };
    let (mut names, mut open) = (Vec::new(), 0);
    let mut walked = false;
    while let Some(packet) = messages.next::<Packet>().await {
        match PacketType::try_from(packet.r#type).expect("a kind") {
            PacketType::PacketStat => match packet.stat {
                Some(stat) => {
                    if stat.mode & (1 << 31 | 1 << 27) == 0 {
                        open += 1;
                        send(PacketType::PacketReq, names.len() as u32);
                    }
                    names.push(stat.path.clone());
                    into.lock().expect("a lock").insert(stat.path, (stat.mode, stat.linkname.into_bytes()));
                }
                None => walked = true,
            },
            PacketType::PacketData if packet.data.is_empty() => open -= 1,
            PacketType::PacketData => {
                let mut files = into.lock().expect("a lock");
                files.get_mut(&names[packet.id as usize]).expect("a file").1.extend(packet.data);
            }
            PacketType::PacketFin => break,
            other => panic!("{other:?}: {}", String::from_utf8_lossy(&packet.data)),
        }
        if walked && open == 0 {
            walked = false;
            send(PacketType::PacketFin, 0);
        }
    }
    let _ = sender.send(end(0));
}
