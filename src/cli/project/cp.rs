//! `wharf cp`: files between a container and this machine.

use super::ps;
use crate::api::client::{Client, ClientError};
use crate::api::reply::escape;
use crate::api::types::PathStatHeader;
use crate::cli::output_file::{FileOutput, directory_of, end_of_links};
use crate::cli::{Failure, Global, Outcome, connect, project};
use crate::image::build::files::Tree;
use crate::image::build::ignore::Patterns;
use crate::image::compression;
use crate::image::entries::{Entries, EntryKind};
use crate::image::pack::Packer;
use crate::image::tar_paths::{append_entry, write_archive};
use base64::Engine as _;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub struct Cp {
    #[command(flatten)]
    how: CopyOptions,
    /// Containers of `run` as well.
    #[arg(long)]
    all: bool,
    /// Which container of a service, where it has several.
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// SERVICE:PATH, or a path of this machine; `-` is a tar archive on standard input.
    source: String,
    /// SERVICE:PATH, or a path of this machine; `-` is a tar archive on standard output.
    destination: String,
}

// Options that `cp` of a service and of a container share. A doc comment would be the help text of the latter.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct CopyOptions {
    /// Keep owners: into a container, the files are its user's.
    #[arg(short, long)]
    archive: bool,
    /// Copy what a symlink leads to, and not the symlink.
    #[arg(short = 'L', long)]
    follow_link: bool,
}

pub async fn run(global: &Global, command: Cp) -> Outcome {
    let (project, loaded) = project::name(global)?;
    let client = connect::engine(global).await?;
    let (service, into) = match (in_container(&command.source), in_container(&command.destination)) {
        (None, Some((service, _))) => (service, true),
        (Some((service, _)), None) => (service, false),
        (Some(_), Some(_)) => return Err(Failure::Message("copy out of one container first, then into the other".into())),
        (None, None) => return Err(Failure::Message("one of the two must be in a container: write SERVICE:PATH".into())),
    };
    ps::check_services(loaded.as_ref(), &[service.to_string()])?;
    let mut list = ps::containers(&client, &project, &[service.to_string()], true).await?;
    list.retain(|c| command.index.is_none_or(|n| c.number() == n) && (command.all || !c.is_one_off()));
    // Into all containers of a service, out of the first.
    list.truncate(if into { list.len() } else { 1 });
    if list.is_empty() {
        return Err(Failure::Message(match command.index {
            Some(index) => format!("service \"{service}\" has no container #{index}"),
            None => format!("the service `{service}` has no container; `wharf up -d {service}` makes it"),
        }));
    }
    if let (Some((_, path)), "-", true) = (in_container(&command.destination), command.source.as_str(), list.len() > 1) {
        let ids: Vec<&str> = list.iter().map(|container| container.id.as_str()).collect();
        return archive_into_all(&client, service, &ids, path, command.how).await;
    }
    for container in &list {
        copy(&client, &container.id, &command.source, &command.destination, command.how).await?;
    }
    Ok(())
}

/// Containers that get one archive at the same time: the engine has threads for 64 archives.
const MAX_SHARED: usize = 32;

/// Standard input is read once, and each piece goes to every container: nothing is kept, and the slowest of them has the others wait.
async fn archive_into_all(client: &Client, service: &str, ids: &[&str], path: &str, how: CopyOptions) -> Outcome {
    if ids.len() > MAX_SHARED {
        return Err(Failure::Message(format!(
            "`{service}` has {} containers, and an archive on standard input goes to at most {MAX_SHARED} at once: choose one with \
             --index, or copy a directory",
            ids.len()
        )));
    }
    let mut requests = Vec::new();
    for id in ids {
        let (path, found) = followed(client, id, absolute(path)).await?;
        requests.push(put_archive(id, &directory_for_archive(path, found)?, how));
    }
    let (mut readers, mut writers) = (Vec::new(), Vec::new());
    let piped = |e: io::Error| Failure::Message(format!("making a pipe: {e}"));
    for _ in ids {
        let (reader, writer) = io::pipe().map_err(piped)?;
        readers.push(tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into()).map_err(piped)?);
        writers.push(writer);
    }
    let sharing = tokio::task::spawn_blocking(move || share(io::stdin().lock(), writers));
    let sent = requests.iter().zip(readers).map(|(request, reader)| client.put_stream(request, reader));
    let sent: Vec<Result<(), ClientError>> = futures::future::join_all(sent).await;
    let sent = sent.into_iter().collect::<Result<Vec<()>, _>>();
    if sent.is_ok() || sharing.is_finished() {
        let shared = sharing.await.map_err(|_| Failure::Message("reading standard input failed".into()))?;
        shared.map_err(|e| Failure::Message(format!("reading the archive on standard input: {e}")))?;
    }
    sent?;
    Ok(())
}

/// Gives an archive, without its compression, to all that still take it: the engine's memory for large windows is for one stream at a time.
fn share(archive: impl Read, mut to: Vec<io::PipeWriter>) -> io::Result<()> {
    let mut plain = compression::plain_of_any(archive)?;
    let mut piece = vec![0; 1 << 16];
    loop {
        let length = match plain.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        // A pipe that nobody reads any more is of a container that has refused the archive: its answer says why.
        to.retain_mut(|writer| writer.write_all(&piece[..length]).is_ok());
        if to.is_empty() {
            return Ok(());
        }
    }
}

fn put_archive(id: &str, directory: &str, how: CopyOptions) -> String {
    let flags = if how.archive { "&copyUIDGID=1" } else { "" };
    format!("/containers/{id}/archive?path={}&noOverwriteDirNonDir=1{flags}", escape(directory))
}

/// The directory that an archive is taken apart in.
fn directory_for_archive(path: String, found: Option<ContainerPathStat>) -> Result<String, Failure> {
    match found {
        Some(found) if found.directory => Ok(path),
        _ => Err(Failure::Message(format!("{path} in the container is not a directory"))),
    }
}

/// `NAME:PATH`; `None` for a path of this machine.
pub fn in_container(text: &str) -> Option<(&str, &str)> {
    if text.starts_with(['/', '.']) || text == "-" {
        return None;
    }
    text.split_once(':').filter(|(name, _)| !name.is_empty() && !name.contains('/'))
}

/// Copies between a container and this machine, whichever of the two names is in the container.
///
/// # Errors
/// When the source is not there, or the destination cannot be written.
pub async fn copy(client: &Client, id: &str, source: &str, destination: &str, how: CopyOptions) -> Outcome {
    match (in_container(source), in_container(destination)) {
        (Some((_, path)), _) => out_of(client, id, path, destination, how).await,
        (_, Some((_, path))) => into(client, id, source, path, how).await,
        _ => Err(Failure::Message("one of the two must be in a container: write NAME:PATH".into())),
    }
}

/// The file at a path of a container.
struct ContainerPathStat {
    directory: bool,
    /// Where a symlink leads. An engine of an earlier version follows one link of a chain only.
    link: Option<String>,
    /// What it is, where `cp` does not write such a thing.
    special: Option<&'static str>,
}

/// Symlinks that are followed in a container of an engine that follows one at a time.
const MAX_LINKS: usize = 40;

async fn stat(client: &Client, id: &str, path: &str) -> Result<Option<ContainerPathStat>, Failure> {
    const DIRECTORY: u32 = 1 << 31;
    const SYMLINK: u32 = 1 << 27;
    const SPECIAL: [(u32, &str); 3] = [(1 << 26, "a device"), (1 << 25, "a FIFO"), (1 << 24, "a socket")];
    let header = match client
        .head(&format!("/containers/{id}/archive?path={}", escape(path)), "x-docker-container-path-stat")
        .await
    {
        // It may be the container that is not there.
        Err(ClientError::Refused { status: 404, message, .. }) if !message.starts_with("No such container") => return Ok(None),
        other => other?,
    };
    let decoded = base64::engine::general_purpose::STANDARD.decode(header.unwrap_or_default()).unwrap_or_default();
    let stat: PathStatHeader = serde_json::from_slice(&decoded).unwrap_or_default();
    let directory = stat.mode & DIRECTORY != 0;
    // An engine of an earlier version does not look.
    if is_directory_path(path) && !directory {
        return Err(Failure::Message(format!("{path} in the container is not a directory")));
    }
    let link = (stat.mode & SYMLINK != 0).then_some(stat.link_target);
    let special = SPECIAL.iter().find(|(bit, _)| stat.mode & bit != 0).map(|(_, what)| *what);
    Ok(Some(ContainerPathStat { directory, link, special }))
}

/// A path of a container with the symlinks at its end followed, and what is there.
async fn followed(client: &Client, id: &str, path: String) -> Result<(String, Option<ContainerPathStat>), Failure> {
    let mut path = path;
    for _ in 0..=MAX_LINKS {
        let found = stat(client, id, &path).await?;
        let Some(ContainerPathStat { link: Some(target), .. }) = &found else { return Ok((path, found)) };
        let parent = Path::new(&path).parent().unwrap_or(Path::new("/"));
        path = parent.join(target).to_string_lossy().into_owned();
    }
    Err(Failure::Message(format!("{path} in the container: too many symlinks, one after the other")))
}

/// Whether a path means a directory, there or not.
fn is_directory_path(path: &str) -> bool {
    path.ends_with('/') || path.ends_with("/.") || path == "."
}

/// What cannot be replaced by a file: it would be gone.
fn refused(place: &str, special: &str) -> Failure {
    Failure::Message(format!("{place} is {special}: `cp` writes to a directory or a regular file"))
}

/// Where a copy is written on this machine.
struct PlaceHere {
    directory: PathBuf,
    /// The name there; `None` for that of the source.
    name: Option<PathBuf>,
}

impl PlaceHere {
    /// Symlinks are followed, as by cp(1), to what is missing as well. A copy of a directory makes a directory that is missing.
    fn of(destination: &str, source: &ContainerPathStat) -> Result<Self, Failure> {
        let asked = Path::new(destination);
        if asked.is_dir() {
            return Ok(PlaceHere { directory: asked.to_path_buf(), name: None });
        }
        let none = |directory: &Path| Failure::Message(format!("there is no directory {}", directory.display()));
        if is_directory_path(destination) && (!source.directory || asked.components().as_path().exists()) {
            return Err(none(asked));
        }
        let end =
            end_of_links(asked.components().as_path()).map_err(|e| Failure::Message(format!("writing {destination}: {e}")))?;
        let end = end.ok_or_else(|| refused(destination, "an open file of a process"))?;
        let directory = directory_of(&end).to_path_buf();
        if !directory.is_dir() {
            return Err(none(&directory));
        }
        let place = PlaceHere { directory, name: end.file_name().map(PathBuf::from) };
        place.check(place.name.as_deref().ok_or_else(|| none(&end))?)?;
        Ok(place)
    }

    /// Refuses what is no regular file, directory or symlink.
    fn check(&self, name: &Path) -> Outcome {
        let path = self.directory.join(name);
        let Ok(found) = path.symlink_metadata() else { return Ok(()) };
        let special = match found.mode() & libc::S_IFMT {
            libc::S_IFCHR | libc::S_IFBLK => "a device",
            libc::S_IFIFO => "a FIFO",
            libc::S_IFSOCK => "a socket",
            _ => return Ok(()),
        };
        Err(refused(&path.display().to_string(), special))
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_string() } else { format!("/{path}") }
}

async fn out_of(client: &Client, id: &str, path: &str, destination: &str, how: CopyOptions) -> Outcome {
    let asked = absolute(path);
    let (path, found) = match how.follow_link {
        true => followed(client, id, asked.clone()).await?,
        false => (asked.clone(), stat(client, id, &asked).await?),
    };
    let found = found.ok_or_else(|| Failure::Message(format!("there is no {path} in the container")))?;
    let request = format!("/containers/{id}/archive?path={}", escape(&path));
    if destination == "-" {
        return Ok(client.download(&request, FileOutput::stdout()).await?);
    }
    let place = PlaceHere::of(destination, &found)?;
    // What a link leads to has the link's name.
    let link = (path != asked).then(|| Path::new(&asked).file_name().map(PathBuf::from)).flatten();
    // Under another name: the first part of every entry is replaced.
    let rename = place.name.clone().or(link);
    // The root has no name that another could replace.
    let is_root = Path::new(&path).file_name().is_none();
    let is_content = path.ends_with("/.") || is_root;
    if let Some(name) = rename.as_deref().or(Path::new(&path).file_name().filter(|_| !is_content).map(Path::new)) {
        place.check(name)?;
    }
    let target = place.directory;
    let content = is_content && found.directory && rename.is_some();
    if content && let Some(name) = &rename {
        std::fs::create_dir_all(target.join(name)).map_err(|e| Failure::Message(format!("making {destination}: {e}")))?;
    }
    let owner = (!how.archive).then(own_ids);
    let shown = destination.to_string();
    let received = received(client, &request, move |reader| {
        let failed = |e: &dyn std::fmt::Display| format!("writing {shown}: {e}");
        let directory = std::fs::File::open(&target).map_err(|e| failed(&e))?;
        match rename {
            None => unpack(reader, &directory, owner).map_err(|e| failed(&e)),
            Some(name) => {
                let (renamed, to) = io::pipe().map_err(|e| failed(&e))?;
                let renaming = std::thread::spawn(move || rename_entries(reader, to, &name, content));
                let unpacked = unpack(renamed, &directory, owner).map_err(|e| failed(&e));
                renaming.join().map_err(|_| "renaming failed".to_string())?.map_err(|e| failed(&e))?;
                unpacked
            }
        }
    });
    received.await
}

/// Unpacks the engine's answer on a thread of its own. What the engine says is wrong comes first, then an error of `unpack`, then the
/// connection's.
async fn received(
    client: &Client,
    path: &str,
    unpack: impl FnOnce(io::PipeReader) -> Result<(), String> + Send + 'static,
) -> Outcome {
    let (reader, writer) = io::pipe().map_err(|e| Failure::Message(format!("making a pipe: {e}")))?;
    let unpacking = std::thread::spawn(move || unpack(reader));
    let loaded = client.download(path, writer).await;
    let unpacked = unpacking.join().map_err(|_| Failure::Message("unpacking failed".into()))?;
    match loaded {
        Err(error @ ClientError::Refused { .. }) => Err(error.into()),
        loaded => {
            unpacked.map_err(Failure::Message)?;
            Ok(loaded?)
        }
    }
}

/// Whose what is unpacked here is, where nothing else is asked for.
fn own_ids() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

/// Unpacks an archive that the engine sends into a directory here; what is in it is then who calls' own.
///
/// # Errors
/// The disk's, or a broken connection.
pub async fn download_into(client: &Client, path: &str, directory: &Path) -> Outcome {
    let shown = directory.display().to_string();
    let target = std::fs::File::open(directory).map_err(|e| Failure::Message(format!("writing {shown}: {e}")))?;
    let unpack = move |reader| unpack(reader, &target, Some(own_ids())).map_err(|e| format!("writing {shown}: {e}"));
    received(client, path, unpack).await
}

fn unpack(
    reader: impl Read,
    directory: &std::fs::File,
    owner: Option<(u32, u32)>,
) -> Result<(), crate::image::unpack::UnpackError> {
    let mut reader = reader;
    let result = crate::image::unpack::merge(&mut reader, directory.as_fd(), owner).map(drop);
    // The other end must not be cut off while it sends the archive's padding.
    let _ = io::copy(&mut reader, &mut io::sink());
    result
}

/// An archive with another name in the place of each entry's first part; of a directory's `content`, before each.
fn rename_entries(reader: impl Read, writer: impl Write, name: &Path, content: bool) -> io::Result<()> {
    let mut reader = reader;
    let renamed = |path: &Path| {
        let mut parts = path.components();
        if !content {
            parts.next();
        }
        let rest: PathBuf = parts.filter(|part| *part != std::path::Component::CurDir).collect();
        if rest == Path::new("") { name.to_path_buf() } else { name.join(rest) }
    };
    write_archive(writer, |builder| {
        Entries::new(&mut reader).each(std::convert::identity, |entry| {
            let head = entry.head.clone();
            let link = if head.kind == EntryKind::HardLink { renamed(&head.link) } else { head.link.clone() };
            append_entry(builder, &head, (&renamed(&head.path), &link), entry)
        })
    })?;
    // What follows the end of the archive, for the other end's sake.
    io::copy(&mut reader, &mut io::sink()).map(drop)
}

async fn into(client: &Client, id: &str, source: &str, path: &str, how: CopyOptions) -> Outcome {
    // Into what a symlink leads to, as `cp` does.
    let (path, found) = followed(client, id, absolute(path)).await?;
    if let Some(ContainerPathStat { special: Some(special), .. }) = found {
        return Err(refused(&format!("{path} in the container"), special));
    }
    if source == "-" {
        let request = put_archive(id, &directory_for_archive(path, found)?, how);
        return Ok(client.put_stream(&request, tokio::io::stdin()).await?);
    }
    let from = PathBuf::from(source);
    let failed = |e: io::Error| Failure::Message(format!("reading {source}: {e}"));
    let metadata =
        if how.follow_link || source.ends_with('/') { from.metadata() } else { from.symlink_metadata() }.map_err(failed)?;
    let content = source.ends_with("/.") || source == ".";
    let base = from.canonicalize().ok().and_then(|p| p.file_name().map(PathBuf::from)).unwrap_or_default();
    let base = if content { PathBuf::new() } else { from.file_name().map_or(base, PathBuf::from) };
    let (directory, name) = match &found {
        Some(found) if found.directory => (path.clone(), base),
        Some(_) if metadata.is_dir() => {
            return Err(Failure::Message(format!("{path} in the container is a file, and {source} is a directory")));
        }
        _ => {
            if is_directory_path(&path) && !metadata.is_dir() {
                return Err(Failure::Message(format!("there is no directory {path} in the container")));
            }
            let to = Path::new(path.trim_end_matches('/'));
            let parent = to.parent().map_or_else(|| "/".into(), |parent| parent.to_string_lossy().into_owned());
            (parent, PathBuf::from(to.file_name().unwrap_or_default()))
        }
    };
    // In a directory: what has the name there.
    let there = format!("{}/{}", directory.trim_end_matches('/'), name.display());
    if directory == path
        && !metadata.is_dir()
        && let Some(ContainerPathStat { special: Some(special), .. }) = stat(client, id, &there).await?
    {
        return Err(refused(&format!("{there} in the container"), special));
    }
    let follow = how.follow_link;
    let request = put_archive(id, &directory, how);
    let packed = client.put_written(&request, move |writer| {
        let writer = io::BufWriter::with_capacity(1 << 18, writer);
        pack(&from, metadata.is_dir(), follow, &name, writer)
    });
    packed.await?.map_err(failed)
}

/// Writes a file, or a directory with all below it, as an archive in which it has the name; without a name, what is in the directory.
fn pack(from: &Path, directory: bool, follow: bool, name: &Path, writer: impl Write) -> io::Result<()> {
    write_archive(writer, |builder| {
        let mut packer = Packer::of_client(builder);
        if !directory {
            let from = if follow { from.canonicalize()? } else { from.to_path_buf() };
            return packer.add_path(&from, name)?.or_missing(&from);
        }
        let tree = Tree::directory(from)?;
        if name != Path::new("") {
            packer.add((tree.root(), Path::new(".")), &tree.find(Path::new("."))?.stat, name)?.or_missing(from)?;
        }
        packer.below(&tree, Path::new(""), name, &Patterns::default())
    })
}
