//! The user's SSH agent, as the commands of a build have it: it lists keys and signs. A whole agent would also forget its keys for
//! them, lock itself, and load a library of the host that they name (CVE-2023-38408).
//!
//! The messages are those of draft-ietf-sshm-ssh-agent.

use crate::sys::foreign_disk::ask;
use crate::sys::socket::{connect_at_once, short_name};
use nix::sys::socket::SockType;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
/// SSH_AGENT_FAILURE as a whole message.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];

/// Bytes of a message: OpenSSH's own bound.
const MOST: u32 = 256 << 10;
/// Connections of a command at once.
const CONNECTIONS: usize = 16;

/// An agent's socket beside that of the user, which is there as long as this.
pub(super) struct LentAgent {
    _serving: JoinSet<()>,
}

impl LentAgent {
    /// Listens in `directory` as `name`, for the agent that listens at `agent`.
    ///
    /// # Errors
    /// When there is no such agent, or no socket can be made.
    pub fn new(agent: &Path, directory: &Path, name: &str) -> io::Result<Self> {
        use std::os::unix::fs::FileTypeExt;
        if !ask(|| std::fs::metadata(agent))?.file_type().is_socket() {
            return Err(io::Error::from(io::ErrorKind::NotConnected));
        }
        let directory = std::fs::File::open(directory)?;
        let listener = UnixListener::bind(short_name(&directory, name))?;
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, agent.to_path_buf()));
        Ok(LentAgent { _serving: serving })
    }
}

async fn serve(listener: UnixListener, agent: PathBuf) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Ok(permit) = free.clone().acquire_owned().await {
        let Ok((client, _)) = listener.accept().await else { return };
        let agent = agent.clone();
        connections.spawn(async move {
            let _ = forward(client, &agent).await;
            drop(permit);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn forward(mut client: UnixStream, agent: &Path) -> io::Result<()> {
    // Its disk has answered before, which need not go on.
    let agent = ask(|| Ok(connect_at_once(agent, SockType::Stream)?))?;
    let mut agent = UnixStream::from_std(agent.into())?;
    while let Some(request) = message(&mut client).await? {
        if [REQUEST_IDENTITIES, SIGN_REQUEST].contains(&request[4]) {
            agent.write_all(&request).await?;
            let answer = message(&mut agent).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            client.write_all(&answer).await?;
        } else {
            client.write_all(&FAILURE).await?;
        }
    }
    Ok(())
}

/// A message with its length before it; none at the end of the connection.
async fn message(from: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let length = match from.read_u32().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        length => length?,
    };
    if !(1..=MOST).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; 4 + length as usize];
    message[..4].copy_from_slice(&length.to_be_bytes());
    from.read_exact(&mut message[4..]).await?;
    Ok(Some(message))
}
