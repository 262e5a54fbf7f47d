//! Directories of a client: the receiving end of fsutil's protocol, by `moby.filesync.v1.FileSync/DiffCopy`.
//!
//! The client walks its directory and sends a STAT packet for each file, in order; the receiver asks for the content of regular
//! files by their numbers (REQ) and gets it in DATA packets, several files at a time; FIN in both directions ends it.

use super::fsutil::Packet;
use super::fsutil::writer::{AT_ONCE, WriteError, Writer};
use super::grpc::{Code, GrpcStatus, Metadata};
use super::session::Session;
use futures::FutureExt;
use hyper::header::{HeaderName, HeaderValue};
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;

const METHOD: &str = "/moby.filesync.v1.FileSync/DiffCopy";
/// How long a client may say nothing: it may walk through a slow disk, but it sends what it has.
const SILENCE: Duration = Duration::from_secs(5 * 60);
/// How long a client may take to end its call after its last packet.
const FAREWELL: Duration = Duration::from_secs(2);
/// Packets that are handed on together, and their bytes.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 256 << 10;
/// Bytes of the patterns that go into headers.
const MAX_PATTERNS: usize = 256 << 10;

/// Which files of a directory are wanted.
#[derive(Default)]
pub(super) struct Selection {
    /// As a `.dockerignore` has them.
    pub exclude: Vec<String>,
    /// Paths that are wanted, and what their symlinks lead to. None is all.
    pub follow: Vec<String>,
}

impl Selection {
    /// Values that are not printable ASCII are encoded, which a further header says.
    fn metadata(&self, name: &str) -> Metadata {
        let mut metadata = Metadata::new();
        let exclude: usize = self.exclude.iter().map(String::len).sum();
        let lists = [
            ("dir-name", std::slice::from_ref(&name.to_string()).to_vec()),
            // The builder leaves them out as well: without them more comes than is needed.
            ("exclude-patterns", if exclude > MAX_PATTERNS { Vec::new() } else { self.exclude.clone() }),
            ("followpaths", self.follow.clone()),
        ];
        for (name, values) in lists.into_iter().filter(|(_, values)| !values.is_empty()) {
            let plain = values.iter().all(|value| value.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let encode = |value: &String| form_urlencoded::byte_serialize(value.as_bytes()).collect::<String>();
            let values = values.iter().map(|value| if plain { value.clone() } else { encode(value) });
            metadata
                .push((HeaderName::from_static(name), values.filter_map(|value| HeaderValue::from_str(&value).ok()).collect()));
            if !plain && let Ok(name) = HeaderName::from_bytes(format!("{name}-encoded").as_bytes()) {
                metadata.push((name, vec![HeaderValue::from_static("1")]));
            }
        }
        metadata
    }
}

/// Copies a directory of a client to an empty one. Gives the number of its entries.
///
/// # Errors
/// When the client has no such directory, leaves in the middle, or sends what cannot be.
pub(super) async fn receive(session: &Session, name: &str, selection: &Selection, into: PathBuf) -> Result<u32, GrpcStatus> {
    if !session.supports(METHOD) {
        return Err(GrpcStatus::new(Code::NotFound, format!("the client gives no files to the build, and so no `{name}`")));
    }
    let (requests, outgoing) = mpsc::channel::<Packet>(2 * AT_ONCE);
    let mut incoming = session.channel.stream(METHOD, selection.metadata(name), outgoing).await?;
    let (packets, mut received) = mpsc::channel::<Vec<Packet>>(2);
    let directory = File::open(&into).map_err(|e| GrpcStatus::new(Code::Internal, format!("opening {}: {e}", into.display())))?;
    let writing = tokio::task::spawn_blocking(move || {
        let packets = std::iter::from_fn(|| received.blocking_recv()).flatten();
        Writer::new(directory.into()).run(packets, |packet| requests.blocking_send(packet).map_err(|_| WriteError::Cut))
    });
    let pump = async {
        loop {
            let silent = |_| GrpcStatus::new(Code::Unavailable, "the client has stopped sending files");
            let packet = tokio::select! {
                packet = tokio::time::timeout(SILENCE, incoming.next::<Packet>()) => packet.map_err(silent)??,
                // The writer has ended, and knows why: the client may wait for it and send nothing more.
                () = packets.closed() => return Ok(()),
            };
            let Some(packet) = packet else { return Ok(()) };
            // What is there already goes along: a directory of small files is thousands of packets.
            let (mut batch, mut bytes, mut ended) = (vec![packet], 0, None);
            while batch.len() < BATCH && bytes < BATCH_BYTES && ended.is_none() {
                match incoming.next::<Packet>().now_or_never() {
                    Some(Ok(Some(packet))) => {
                        bytes += packet.data.len();
                        batch.push(packet);
                    }
                    Some(end) => ended = Some(end.map(drop)),
                    None => break,
                }
            }
            if packets.send(batch).await.is_err() {
                return Ok(());
            }
            if let Some(ended) = ended {
                return ended;
            }
        }
    };
    let sent: Result<(), GrpcStatus> = pump.await;
    drop(packets);
    let written = writing.await.map_err(GrpcStatus::internal)?;
    if sent.is_ok() && written.is_ok() {
        // The client has said FIN: its call ends by itself, where it is not cut off.
        let end = async { while let Ok(Some(())) = incoming.next::<()>().await {} };
        let _ = tokio::time::timeout(FAREWELL, end).await;
    }
    match (sent, written) {
        (Err(status), Err(WriteError::Cut)) => Err(status),
        (_, Ok(entries)) => Ok(entries),
        (_, Err(error)) => Err(GrpcStatus::new(Code::InvalidArgument, format!("the files of `{name}`: {error}"))),
    }
}
