//! Values of build flags: contexts, SSH agents, secrets, arguments, limits, attestations.

use super::BuildFlags;
use crate::cli::{Failure, Outcome};
use crate::image::attest::Wanted;
use crate::image::build::git::GitRef;
use crate::image::build::{Secret, SecretContent};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Refuses contexts that are neither directories, images nor repositories.
pub(super) fn check_context(context: &str) -> Outcome {
    let known = !context.contains("://") || context.starts_with("docker-image://") || GitRef::parse(context).is_some();
    if known {
        Ok(())
    } else {
        Err(Failure::Message(format!("the context `{context}` is no directory, image or Git repository")))
    }
}

/// `ID[=SOCKET]`.
pub(super) fn agent_flag(text: &str) -> (&str, Option<&str>) {
    text.split_once('=').map_or((text, None), |(id, path)| (id, Some(path)))
}

/// SSH agents by their ids: this process's, or the one at a path.
pub(super) fn agents<'a>(
    given: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    directory: &Path,
) -> Result<BTreeMap<String, PathBuf>, Failure> {
    use std::os::unix::fs::FileTypeExt;
    let one = |(id, path): (&str, Option<&str>)| {
        let socket = match path.filter(|path| !path.is_empty()) {
            Some(path) => directory.join(path),
            None => std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from).ok_or_else(|| {
                Failure::Message(format!("the SSH agent `{id}`: SSH_AUTH_SOCK is not set; start ssh-agent and add a key to it"))
            })?,
        };
        match std::fs::metadata(&socket) {
            Ok(found) if found.file_type().is_socket() => Ok((id.to_string(), socket)),
            Ok(_) => Err(Failure::Message(format!(
                "the SSH agent `{id}`: {} is not a socket; a key is added to an agent with ssh-add",
                socket.display()
            ))),
            Err(e) => Err(Failure::Message(format!("the SSH agent `{id}`: {}: {e}", socket.display()))),
        }
    };
    given.map(one).collect()
}

/// `NAME=SOFT[:HARD]`.
pub fn ulimit(text: &str) -> Result<(String, i64, i64), Failure> {
    let wrong = || Failure::Message(format!("`{text}` is not a limit: write NAME=SOFT[:HARD], such as nofile=1024:2048"));
    let (name, values) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    Ok((name.to_string(), soft.parse().map_err(|_| wrong())?, hard.parse().map_err(|_| wrong())?))
}

/// `id=ID,src=FILE` or `id=ID,env=NAME`.
pub(super) fn secret(text: &str, here: &Path) -> Result<(String, Secret), Failure> {
    let field = |names: &[&str]| {
        text.split(',').find_map(|part| part.split_once('=').filter(|(key, _)| names.contains(key)).map(|(_, v)| v))
    };
    let wrong = || Failure::Message(format!("the secret `{text}` is not understood: write id=ID,src=FILE or id=ID,env=NAME"));
    let id = field(&["id"]).ok_or_else(wrong)?;
    let found = match (field(&["src", "source"]), field(&["env"])) {
        (Some(file), _) => SecretContent::File(here.join(file)),
        (None, name) => {
            let name = name.unwrap_or(id);
            SecretContent::Value(
                std::env::var(name)
                    .map_err(|_| Failure::Message(format!("the secret `{id}`: the variable `{name}` is not set")))?,
            )
        }
    };
    Ok((id.to_string(), found.into()))
}

pub(super) fn arguments(given: &[String]) -> BTreeMap<String, String> {
    let one = |text: &String| match text.split_once('=') {
        Some((name, value)) => Some((name.to_string(), value.to_string())),
        None => Some((text.clone(), std::env::var(text).ok()?)),
    };
    given.iter().filter_map(one).collect()
}

/// The attestations that --provenance, --sbom and --attest ask for.
pub(super) fn attest(flags: &BuildFlags, attests: &[String]) -> Result<Wanted, Failure> {
    let (mut provenance, mut sbom) = (flags.provenance.clone(), flags.sbom.clone());
    for text in attests {
        let wrong =
            || Failure::Message(format!("`--attest {text}` is not understood: write type=provenance,... or type=sbom,..."));
        let (kind, rest): (Vec<&str>, Vec<&str>) = text.split(',').partition(|field| field.starts_with("type="));
        let disabled = rest.contains(&"disabled=true");
        let rest: Vec<&str> = rest.into_iter().filter(|field| !field.starts_with("disabled=")).collect();
        let parameters = match rest.as_slice() {
            _ if disabled => "false".to_string(),
            [] => "true".to_string(),
            fields => fields.join(","),
        };
        match kind.as_slice() {
            ["type=provenance"] => provenance = Some(parameters),
            ["type=sbom"] => sbom = Some(parameters),
            _ => return Err(wrong()),
        }
    }
    Wanted::parse(provenance.as_deref(), sbom.as_deref()).map_err(Failure::Message)
}

pub(super) fn epoch() -> Option<i64> {
    std::env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok()
}
