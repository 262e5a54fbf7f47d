//! A project for the engine of another machine: what its files name of this machine travels with the request, or is refused.

use crate::cli::machine::Other;
use crate::cli::{Failure, Outcome};
use crate::compose::Loaded;
use crate::compose::canonical::workloads;
use crate::compose::diagnostic::{Diagnostic, LoadError, Sources};
use crate::compose::model::{FileObject, Project};
use crate::compose::node::{At, Node, Value};
use base64::Engine as _;
use std::path::Path;

/// Bytes of a config or a secret: what the engine copies of a file of its own.
const MAX_FILE: u64 = 16 << 20;

/// Makes a project one that the other machine's engine can have.
///
/// # Errors
/// Mounts of this machine's files, and files that cannot be read.
pub fn prepare(other: &Other, loaded: &Loaded, project: &mut Project, starting: &[String]) -> Outcome {
    let diagnostics = local_mounts(other, loaded, starting);
    if !diagnostics.is_empty() {
        return Err(LoadError { diagnostics, sources: loaded.sources.clone() }.into());
    }
    let services =
        starting.iter().filter_map(|name| project.services.get(name).or_else(|| Some(&project.jobs.get(name)?.service)));
    let (mut configs, mut secrets) = (Vec::new(), Vec::new());
    for service in services {
        configs.extend(service.configs.iter().map(|mount| mount.source.clone()));
        secrets.extend(service.secrets.iter().map(|mount| mount.source.clone()));
    }
    let objects = project.configs.iter_mut().map(|(name, object)| ("config", configs.contains(name), name, object));
    let secrets = project.secrets.iter_mut().map(|(name, object)| ("secret", secrets.contains(name), name, object));
    for (what, is_used, name, object) in objects.chain(secrets) {
        // A path of this machine is nothing to the other's engine.
        let Some(file) = object.file.take().filter(|_| is_used && object.content.is_none()) else { continue };
        read(object, &file).map_err(|e| Failure::Message(format!("the {what} `{name}` cannot be read from {file}: {e}")))?;
    }
    let Project { services, jobs, .. } = project;
    let all = services.values_mut().chain(jobs.values_mut().map(|job| &mut job.service));
    for option in all.flat_map(|service| &mut service.security_opt) {
        let Some(path) = option.strip_prefix("seccomp:").filter(|path| path.starts_with('/')) else { continue };
        let text = crate::sys::regular::read_regular_file(Path::new(path), MAX_FILE)
            .and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other));
        let text = text.map_err(|e| Failure::Message(format!("the seccomp profile {path} cannot be read: {e}")))?;
        *option = format!("seccomp={}", text.trim());
    }
    Ok(())
}

/// Reads the content of a config or a secret from this machine.
fn read(object: &mut FileObject, file: &str) -> std::io::Result<()> {
    let bytes = crate::sys::regular::read_regular_file(Path::new(file), MAX_FILE)?;
    (object.content, object.encoded) = match String::from_utf8(bytes) {
        Ok(text) => (Some(text), false),
        Err(error) => (Some(base64::engine::general_purpose::STANDARD.encode(error.as_bytes())), true),
    };
    Ok(())
}

/// Mounts whose source is this machine's: below the project's directory, or written relative to a file of this machine.
fn local_mounts(other: &Other, loaded: &Loaded, starting: &[String]) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (section, name, entry) in workloads(&loaded.root).filter(|(_, name, _)| starting.contains(name)) {
        let Some(Value::List(volumes)) = entry.node.get("volumes").map(|node| &node.value) else { continue };
        for volume in volumes.iter().filter(|volume| volume.get("type").and_then(Node::as_str) == Some("bind")) {
            let of = format!("`{section}.{name}` mounts");
            found.extend(volume.get("source").and_then(|source| local_mount(other, loaded, &of, source)));
        }
    }
    for (name, entry) in loaded.root.get("volumes").and_then(Node::as_map).into_iter().flatten() {
        let Some(options) = entry.node.get("driver_opts") else { continue };
        let is_bind =
            options.get("o").and_then(Node::as_str).is_some_and(|o| o.split(',').any(|o| matches!(o, "bind" | "rbind")));
        if let Some(device) = options.get("device").filter(|_| is_bind) {
            found.extend(local_mount(other, loaded, &format!("the volume `{name}` is"), device));
        }
    }
    found
}

fn local_mount(other: &Other, loaded: &Loaded, of: &str, source: &Node) -> Option<Diagnostic> {
    let path = source.as_str()?;
    if !Path::new(path).starts_with(&loaded.directory) && !is_relative(&loaded.sources, &source.at) {
        return None;
    }
    let message = format!("{of} {path} of this machine, and the engine is on {}", other.destination());
    let help = "put the files into the image (`build`, COPY), into a `config`, or into a named volume (`wharf cp`); \
        `develop.watch` sends changed ones; a directory of that machine is written from its root";
    Some(Diagnostic::error(&source.at, message).help(help))
}

/// Whether a path is written as one that begins with the project's or the user's directory.
fn is_relative(sources: &Sources, at: &At) -> bool {
    let line = sources.text(at.file).lines().nth(at.line.saturating_sub(1) as usize).unwrap_or_default();
    let mut written = line.chars().skip(at.column.saturating_sub(1) as usize).skip_while(|c| matches!(c, '"' | '\''));
    matches!(written.next(), Some('.' | '~'))
}
