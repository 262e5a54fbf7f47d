//! What becomes of a built image: names in the store, files or archives that are sent to the client.

use super::fsutil::{Packet, PacketType, Stat, go_mode};
use super::grpc::{Code, GrpcStatus, Metadata};
use super::jobs::SolveJob;
use super::session::Session;
use crate::engine::Engine;
use crate::image::build::files::Tree;
use crate::image::build::ignore::Patterns;
use crate::image::build::solve::Built;
use crate::image::build::walk::Walk;
use crate::image::{Image, ImageRef, archive};
use crate::sys::regular::open_regular;
use bollard_buildkit_proto::moby::buildkit::v1::Exporter;
use bollard_buildkit_proto::moby::filesync::v1::BytesMessage;
use hyper::header::{HeaderName, HeaderValue};
use nix::sys::stat::SFlag;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

const METHOD: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// Bytes that are sent in one message.
const CHUNK: usize = 64 << 10;
/// Bytes of the names of the files that the client may ask for.
const MAX_NAMES: usize = 32 << 20;

/// Whether an exporter makes an image in the store.
pub(super) fn is_image(exporter: &Exporter) -> bool {
    matches!(exporter.r#type.as_str(), "moby" | "image")
}

/// The names that an exporter gives to the image.
pub(super) fn names(exporter: &Exporter) -> impl Iterator<Item = &str> {
    let names = exporter.attrs.get("name").map_or("", String::as_str);
    names.split(',').map(str::trim).filter(|name| !name.is_empty())
}

fn references(exporter: &Exporter) -> Result<Vec<ImageRef>, GrpcStatus> {
    let parse = |name: &str| name.parse().map_err(|e| GrpcStatus::new(Code::InvalidArgument, format!("{e}")));
    names(exporter).map(parse).collect()
}

/// Refuses exporters that are not there, before anything is built.
///
/// # Errors
/// With its name.
pub(super) fn check(exporters: &[Exporter]) -> Result<(), GrpcStatus> {
    for exporter in exporters {
        if !is_image(exporter) && !matches!(exporter.r#type.as_str(), "local" | "tar" | "docker" | "oci") {
            let message = format!("wharf has no exporter {}: image, local, tar, docker and oci are there", exporter.r#type);
            return Err(GrpcStatus::new(Code::Unimplemented, message));
        }
        if exporter.attrs.get("push").is_some_and(|push| push == "true") && exporter.r#type == "image" {
            return Err(GrpcStatus::new(Code::Unimplemented, "wharf pushes by `docker push` alone: build without push=true"));
        }
        let is_archive = matches!(exporter.r#type.as_str(), "docker" | "oci");
        if is_archive && exporter.attrs.get("tar").is_some_and(|tar| crate::units::boolean(tar) != Some(true)) {
            let message = "wharf sends an image's layout as an archive: build without tar=false, or with `wharf image build`";
            return Err(GrpcStatus::new(Code::Unimplemented, message));
        }
        references(exporter)?;
    }
    Ok(())
}

/// Exports an image, and gives what the client learns of it.
///
/// # Errors
/// The disk's, or the client's.
pub(super) async fn export(
    job: &SolveJob,
    engine: &Arc<Engine>,
    exporters: &[Exporter],
    built: &Built,
) -> Result<HashMap<String, String>, GrpcStatus> {
    let mut response = HashMap::new();
    for (number, exporter) in exporters.iter().enumerate() {
        let kind = exporter.r#type.as_str();
        let what = if is_image(exporter) { "image" } else { kind };
        let step = job.progress.begin(&format!("{}/export/{number}", job.reference), &format!("exporting to {what}"));
        let names = references(exporter)?;
        if is_image(exporter) {
            // The solver has named it.
            step.status("exporting layers");
            step.status(&format!("writing image {}", built.id));
            names.iter().for_each(|name| step.status(&format!("naming to {name}")));
            step.done();
        } else {
            let sent = send(job, engine, number, kind, names.clone(), built).await;
            if sent.is_ok() {
                step.status("copying files");
            }
            step.result(sent)?;
        }
        if !matches!(kind, "local" | "tar") {
            response.insert("containerimage.digest".to_string(), built.id.to_string());
            response.insert("containerimage.config.digest".to_string(), built.id.to_string());
            if !names.is_empty() {
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                response.insert("image.name".to_string(), names.join(","));
            }
        }
    }
    Ok(response)
}

async fn send(
    job: &SolveJob,
    engine: &Arc<Engine>,
    number: usize,
    kind: &str,
    names: Vec<ImageRef>,
    built: &Built,
) -> Result<(), GrpcStatus> {
    let gone = || GrpcStatus::new(Code::NotFound, "the image is gone again");
    let image = engine.images.store.by_manifest(&built.manifest).ok_or_else(gone)?;
    let session = job.own_session().await?;
    if !session.supports(METHOD) {
        return Err(GrpcStatus::new(Code::InvalidArgument, "the client takes no files"));
    }
    let metadata = vec![(HeaderName::from_static("buildkit-attachable-exporter-id"), vec![HeaderValue::from(number)])];
    let engine = engine.clone();
    match kind {
        "local" => send_directory(&session, metadata, engine, image).await,
        "tar" => {
            let write = move |out: &mut dyn Write| engine.files().export_image(&image, out).map_err(io::Error::other);
            send_file(&session, metadata, write).await
        }
        _ => {
            let store = engine.images.store.clone();
            let write = move |out: &mut dyn Write| archive::save(&store, &[(names, image)], out).map_err(io::Error::other);
            send_file(&session, metadata, write).await
        }
    }
}

/// Sends what is written as the parts of a file.
struct Parts(mpsc::Sender<BytesMessage>);

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = BytesMessage { data: bytes[..bytes.len().min(CHUNK)].to_vec() };
        let length = part.data.len();
        self.0.blocking_send(part).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends a file to the client.
async fn send_file(
    session: &Session,
    metadata: Metadata,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> Result<(), GrpcStatus> {
    let (sender, parts) = mpsc::channel(4);
    let writing = tokio::task::spawn_blocking(move || {
        let mut out = io::BufWriter::with_capacity(CHUNK, Parts(sender));
        write(&mut out).and_then(|()| out.flush())
    });
    // The client's answer comes when it has all of the file, or has failed.
    let answered = async {
        let mut answer = session.channel.stream(METHOD, metadata, parts).await?;
        while answer.next::<BytesMessage>().await?.is_some() {}
        Ok(())
    };
    let (answered, written): (Result<(), GrpcStatus>, _) = tokio::join!(answered, writing);
    answered?;
    written.map_err(GrpcStatus::internal)?.map_err(GrpcStatus::internal)
}

/// Sends an image's files as a directory: the sending end of fsutil's protocol.
async fn send_directory(session: &Session, metadata: Metadata, engine: Arc<Engine>, image: Image) -> Result<(), GrpcStatus> {
    let (sender, packets) = mpsc::channel(16);
    let (asked, requests) = mpsc::channel(64);
    let sending = tokio::task::spawn_blocking(move || {
        let store = &engine.images.store;
        let layers: Vec<PathBuf> = image.layers.iter().map(|layer| store.layer(layer)).collect();
        let sent = store.tree(&layers).and_then(|tree| send_tree(&tree, &sender, requests));
        if let Err(error) = &sent {
            let data = error.to_string().into_bytes();
            let _ = sender.blocking_send(Packet { r#type: PacketType::PacketErr.into(), data, ..Packet::default() });
        }
        sent
    });
    let answered = async move {
        let mut answer = session.channel.stream(METHOD, metadata, packets).await?;
        while let Some(packet) = answer.next::<Packet>().await? {
            if asked.send(packet).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let (answered, sent): (Result<(), GrpcStatus>, _) = tokio::join!(answered, sending);
    sent.map_err(GrpcStatus::internal)?.map_err(GrpcStatus::internal)?;
    answered
}

fn send_tree(tree: &Tree, sender: &mpsc::Sender<Packet>, mut requests: mpsc::Receiver<Packet>) -> io::Result<()> {
    let left = |_| io::Error::other("the client has left");
    let none = Patterns::default();
    let (mut files, mut bytes) = (HashMap::new(), 0);
    let mut id = 0_u32;
    let mut walk = Walk::new(tree.root(), Path::new(""), &none)?;
    while let Some(found) = walk.next().transpose()? {
        let Some(stat) = stat_of(&walk, &found)? else { continue };
        if found.kind() == SFlag::S_IFREG {
            bytes += found.path.as_os_str().len();
            if bytes > MAX_NAMES {
                return Err(io::Error::other("there are too many files for a directory: export an archive (type=tar)"));
            }
            files.insert(id, found.path);
        }
        id += 1;
        let packet = Packet { r#type: PacketType::PacketStat.into(), stat: Some(stat), ..Packet::default() };
        sender.blocking_send(packet).map_err(left)?;
    }
    sender.blocking_send(Packet { r#type: PacketType::PacketStat.into(), ..Packet::default() }).map_err(left)?;
    while let Some(request) = requests.blocking_recv() {
        match PacketType::try_from(request.r#type) {
            Ok(PacketType::PacketReq) => {
                let path =
                    files.remove(&request.id).ok_or_else(|| io::Error::other("the client asks for a file that is not there"))?;
                send_content(tree, &path, request.id, sender)?;
            }
            Ok(PacketType::PacketFin) => {
                let end = Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() };
                return sender.blocking_send(end).map_err(|_| io::Error::other("the client has left"));
            }
            _ => {
                let why = String::from_utf8_lossy(&request.data).into_owned();
                return Err(io::Error::other(format!("the client has failed: {}", crate::printable::line(&why))));
            }
        }
    }
    Err(io::Error::other("the client has left"))
}

fn send_content(tree: &Tree, path: &Path, id: u32, sender: &mpsc::Sender<Packet>) -> io::Result<()> {
    let mut file = open_regular(tree.root(), path)?;
    loop {
        let mut data = Vec::new();
        Read::by_ref(&mut file).take(CHUNK as u64).read_to_end(&mut data)?;
        let end = data.is_empty();
        let packet = Packet { r#type: PacketType::PacketData.into(), id, data, ..Packet::default() };
        sender.blocking_send(packet).map_err(|_| io::Error::other("the client has left"))?;
        if end {
            return Ok(());
        }
    }
}

/// A file as the protocol has it; devices and sockets are left out.
fn stat_of(walk: &Walk<'_>, found: &crate::image::build::files::FoundFile) -> io::Result<Option<Stat>> {
    let of = &found.stat;
    let kind = match found.kind() {
        SFlag::S_IFREG => 0,
        SFlag::S_IFDIR => go_mode::DIRECTORY,
        SFlag::S_IFLNK => go_mode::SYMLINK,
        SFlag::S_IFIFO => go_mode::FIFO,
        _ => return Ok(None),
    };
    let special = go_mode::SPECIAL.iter().filter(|(_, bit)| of.st_mode & bit != 0).fold(0, |bits, (bit, _)| bits | bit);
    let linkname = match kind {
        go_mode::SYMLINK => {
            let (directory, name) = walk.place(found)?;
            nix::fcntl::readlinkat(directory, name)?.into_vec()
        }
        _ => Vec::new(),
    };
    Ok(Some(Stat {
        path: found.path.as_os_str().as_bytes().to_vec(),
        mode: kind | special | (of.st_mode & 0o777),
        uid: of.st_uid,
        gid: of.st_gid,
        size: if kind == 0 { of.st_size } else { 0 },
        mod_time: of.st_mtime.saturating_mul(1_000_000_000).saturating_add(of.st_mtime_nsec),
        linkname,
        attributes: Vec::new(),
    }))
}
