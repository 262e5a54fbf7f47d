//! What a build's steps and its registries ask the client for: secrets, SSH agents, logins.

use super::grpc::{Code, GrpcStatus, Metadata};
use super::session::Session;
use crate::image::ImageError;
use crate::image::build::{Later, Lender};
use crate::image::credentials::{Asked, Login, encode};
use crate::image::store::{LayerDraft, Store};
use crate::sys::socket::short_name;
use bollard_buildkit_proto::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use bollard_buildkit_proto::moby::filesync::v1::{CredentialsRequest, CredentialsResponse};
use bollard_buildkit_proto::moby::sshforward::v1::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use hyper::header::{HeaderName, HeaderValue};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

const SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD_AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
/// Docker Hub's registry, as the client's logins know it.
const HUB: &str = "registry-1.docker.io";
/// Bytes of a secret: BuildKit's bound.
const MAX_SECRET: usize = 500 << 10;
/// Bytes that are read from an agent's client at once.
const CHUNK: usize = 16 << 10;
/// Ids of agents that a build may name.
const MAX_AGENTS: usize = 16;

/// A session as the lender of its build.
pub(super) struct SessionLender {
    session: Arc<Session>,
    store: Arc<Store>,
    agents: Mutex<BTreeMap<String, Agent>>,
}

/// A socket of the engine's whose connections lead to the client's agent.
struct Agent {
    socket: PathBuf,
    /// Holds the socket.
    _draft: LayerDraft,
    _serving: JoinSet<()>,
}

impl std::fmt::Debug for SessionLender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionLender")
    }
}

fn failed(status: &GrpcStatus) -> ImageError {
    ImageError::Build(status.to_string())
}

impl SessionLender {
    pub fn new(session: Arc<Session>, store: Arc<Store>) -> Self {
        SessionLender { session, store, agents: Mutex::default() }
    }

    async fn find_secret(&self, id: &str) -> Result<Option<Vec<u8>>, ImageError> {
        if !self.session.supports(SECRET) {
            return Ok(None);
        }
        let request = GetSecretRequest { id: id.into(), ..GetSecretRequest::default() };
        match self.session.channel.unary::<GetSecretResponse>(SECRET, &request).await {
            Ok(answer) if answer.data.len() > MAX_SECRET => {
                Err(ImageError::Build(format!("the secret `{id}` has more than {MAX_SECRET} bytes")))
            }
            Ok(answer) => Ok(Some(answer.data)),
            Err(status) if status.is(Code::NotFound) => Ok(None),
            Err(status) => Err(failed(&status)),
        }
    }

    async fn find_agent(&self, id: &str) -> Result<Option<PathBuf>, ImageError> {
        let mut agents = self.agents.lock().await;
        if let Some(agent) = agents.get(id) {
            return Ok(Some(agent.socket.clone()));
        }
        if !self.session.supports(CHECK_AGENT) || agents.len() >= MAX_AGENTS {
            return Ok(None);
        }
        let request = CheckAgentRequest { id: id.into() };
        // An agent that the client does not have is none.
        if let Err(status) = self.session.channel.unary::<CheckAgentResponse>(CHECK_AGENT, &request).await {
            return if status.is(Code::Unavailable) { Err(failed(&status)) } else { Ok(None) };
        }
        let draft = self.store.draft()?;
        let listening = || ImageError::store(format!("listening for the SSH agent `{id}`"));
        let directory = File::open(draft.diff()).map_err(listening())?;
        let listener = UnixListener::bind(short_name(&directory, "agent")).map_err(listening())?;
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, self.session.clone(), id.to_string()));
        let socket = draft.diff().join("agent");
        agents.insert(id.to_string(), Agent { socket: socket.clone(), _draft: draft, _serving: serving });
        Ok(Some(socket))
    }
}

impl Lender for SessionLender {
    fn secret<'a>(&'a self, id: &'a str) -> Later<'a, Option<Vec<u8>>> {
        Box::pin(self.find_secret(id))
    }

    fn agent<'a>(&'a self, id: &'a str) -> Later<'a, Option<PathBuf>> {
        Box::pin(self.find_agent(id))
    }
}

async fn serve(listener: UnixListener, session: Arc<Session>, id: String) {
    let mut connections = JoinSet::new();
    // A command has a bounded number of connections, and each waits for its own.
    while let Ok((stream, _)) = listener.accept().await {
        let (session, id) = (session.clone(), id.clone());
        connections.spawn(async move {
            if let Err(status) = forward(stream, &session, &id).await {
                tracing::debug!("the SSH agent `{id}` of a client: {status}");
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn forward(mut stream: UnixStream, session: &Session, id: &str) -> Result<(), GrpcStatus> {
    let metadata: Metadata = match HeaderValue::from_str(id) {
        Ok(id) => vec![(HeaderName::from_static("buildkit.ssh.id"), vec![id])],
        Err(_) => return Err(GrpcStatus::new(Code::InvalidArgument, "its id cannot be sent")),
    };
    let (sender, outgoing) = mpsc::channel(4);
    let answered = session.channel.stream(FORWARD_AGENT, metadata, outgoing);
    let (mut from, mut to) = stream.split();
    let up = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if sender.send(BytesMessage { data: buffer[..n].to_vec() }).await.is_err() {
                break;
            }
        }
        drop(sender);
    };
    // The client's answer begins when the agent has answered, which it does when it was asked.
    let down = async {
        let mut incoming = answered.await?;
        while let Some(message) = incoming.next::<BytesMessage>().await? {
            if to.write_all(&message.data).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    tokio::select! {
        ((), result) = async { tokio::join!(up, down) } => result,
        () = session.gone() => Ok(()),
    }
}

/// The logins of a client, asked for one by one.
pub(super) struct SessionLogins {
    pub session: Arc<Session>,
    pub runtime: tokio::runtime::Handle,
}

impl Asked for SessionLogins {
    fn id(&self) -> &str {
        &self.session.id
    }

    fn login(&self, host: &str) -> Option<Login> {
        if !self.session.supports(CREDENTIALS) {
            return None;
        }
        let request = CredentialsRequest { host: if host == "docker.io" { HUB.into() } else { host.into() } };
        let asked = self.session.channel.unary::<CredentialsResponse>(CREDENTIALS, &request);
        // Whoever looks for a login does it on a thread for work that waits.
        let answer = self.runtime.block_on(asked).ok()?;
        match (answer.username.is_empty(), answer.secret.is_empty()) {
            (_, true) => None,
            (true, false) => Some(Login::Identity(answer.secret)),
            (false, false) => Some(Login::Basic(encode(&answer.username, &answer.secret))),
        }
    }
}
