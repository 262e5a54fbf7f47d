//! A build by the engine of another machine: the directories and files that its request names here go with it.

use crate::api::client::{Client, Lines};
use crate::cli::Failure;
use crate::image::build::files::Tree;
use crate::image::build::git::GitRef;
use crate::image::build::ignore::{self, Patterns};
use crate::image::build::{BuildRequest, GivenDockerfile, Secret, SecretContent, SentDirectory, SentRequest, dockerfile};
use crate::image::pack::Packer;
use crate::image::tar_paths::write_archive;
use crate::sys::regular::read_regular_file;
use base64::Engine as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes of a secret.
const MAX_SECRET: u64 = 16 << 20;

/// Sends a build, and gives its progress.
///
/// # Errors
/// What cannot be read here, and the engine's refusal.
pub async fn post(client: &Client, request: &BuildRequest) -> Result<Lines, Failure> {
    let mut request = request.clone();
    if let Some(id) = request.ssh.keys().next() {
        return Err(Failure::Message(format!(
            "the SSH agent `{id}` is of this machine, and the engine of another: clone before the build, or give it a deploy key as a secret"
        )));
    }
    for (id, secret) in &mut request.secrets {
        read_secret(id, secret)?;
    }
    let mut directories: Vec<(PathBuf, Patterns)> = Vec::new();
    let mut sent = SentRequest::default();
    let mut add = |path: PathBuf, ignored: &str| {
        directories.push((path, Patterns::parse(ignored)));
        SentDirectory(directories.len() as u32 - 1)
    };
    if request.git.is_none() {
        let given = read_dockerfile(&request)?;
        sent.context = Some(add(request.context.clone(), given.ignored.as_deref().unwrap_or_default()));
        sent.dockerfile = Some(given);
        (request.context, request.dockerfile, request.inline) = (PathBuf::new(), None, None);
    }
    let here = |context: &str| !context.contains("://") && GitRef::parse(context).is_none();
    for (name, path) in request.contexts.clone().into_iter().filter(|(_, context)| here(context)) {
        let ignored = read_ignored(&Path::new(&path).join(".dockerignore"))?.unwrap_or_default();
        sent.contexts.insert(name.clone(), add(PathBuf::from(path), &ignored));
        request.contexts.remove(&name);
    }
    sent.request = request;
    let head = serde_json::to_vec(&sent).map_err(|e| Failure::Message(format!("making the request: {e}")))?;
    let lines = client.post_written_lines("/build?sent=1", move |writer| pack(&head, &directories, writer)).await?;
    lines.map_err(|e| Failure::Message(format!("sending the build context: {e}")))
}

fn read_secret(id: &str, secret: &mut Secret) -> Result<(), Failure> {
    let SecretContent::File(path) = &secret.content else { return Ok(()) };
    let failed = |e| Failure::Message(format!("the secret `{id}` cannot be read from {}: {e}", path.display()));
    secret.content = match String::from_utf8(read_regular_file(path, MAX_SECRET).map_err(failed)?) {
        Ok(text) => SecretContent::Value(text),
        Err(error) => SecretContent::Encoded(base64::engine::general_purpose::STANDARD.encode(error.as_bytes())),
    };
    Ok(())
}

fn read(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read_regular_file(path, limit)?).map_err(|_| io::Error::other("it is not text in UTF-8"))
}

/// The text of a `.dockerignore`, where there is one.
fn read_ignored(path: &Path) -> Result<Option<String>, Failure> {
    match read(path, ignore::MAX_FILE) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::Message(format!("{} cannot be read: {e}", path.display()))),
    }
}

/// The Dockerfile, in the context or beside it, and what it leaves out.
fn read_dockerfile(request: &BuildRequest) -> Result<GivenDockerfile, Failure> {
    let general = || read_ignored(&request.context.join(".dockerignore"));
    if let Some(text) = &request.inline {
        return Ok(GivenDockerfile {
            text: text.clone(),
            shown: "dockerfile_inline".into(),
            ignored: general()?.or(Some(String::new())),
        });
    }
    let given = request.dockerfile.as_deref().unwrap_or(Path::new("Dockerfile"));
    let path = request.context.join(given);
    let text = read(&path, dockerfile::MAX_FILE).map_err(|e| {
        Failure::Message(format!(
            "the Dockerfile {} cannot be read: {e}; say where it is with `dockerfile:` or -f",
            path.display()
        ))
    })?;
    let mut own = path.clone().into_os_string();
    own.push(".dockerignore");
    let ignored = match read_ignored(Path::new(&own))? {
        Some(own) => own,
        None => general()?.unwrap_or_default(),
    };
    let shown = path.strip_prefix(&request.context).unwrap_or(&path).display().to_string();
    Ok(GivenDockerfile { text, shown, ignored: Some(ignored) })
}

/// The request after its length, and the directories, each below its number, without what is left out.
fn pack(head: &[u8], directories: &[(PathBuf, Patterns)], writer: impl Write) -> io::Result<()> {
    let mut writer = io::BufWriter::with_capacity(1 << 18, writer);
    writer.write_all(&(head.len() as u64).to_be_bytes())?;
    writer.write_all(head)?;
    write_archive(writer, |builder| {
        let mut packer = Packer::of_context(builder);
        for (number, (directory, ignored)) in directories.iter().enumerate() {
            let of = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", directory.display()));
            let top = PathBuf::from(number.to_string());
            let tree = Tree::directory(directory).map_err(of)?;
            let found = tree.find(Path::new(".")).map_err(of)?;
            packer.add((tree.root(), Path::new(".")), &found.stat, &top).map_err(of)?.or_missing(directory)?;
            packer.below(&tree, Path::new(""), &top, ignored).map_err(of)?;
        }
        Ok(())
    })
}
