//! Values of build flags: contexts, SSH agents, secrets, arguments, limits, attestations.

use super::BuildFlags;
use crate::cli::{Failure, Outcome};
use crate::image::attest::WantedAttestations;
use crate::image::build::git::GitRef;
use crate::image::build::{Secret, SecretContent};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

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

/// An agent with one key, for as long as this process lives; its socket.
fn key_agent(key: &Path) -> Result<PathBuf, Failure> {
    // The agent ends with its command, and that with its standard input, which is ours. A key on standard input may have any mode.
    const HOLD: &str = "ssh-add -q - <\"$0\" && echo added && exec cat >/dev/null";
    let failed = |why: &dyn std::fmt::Display| Failure::Message(format!("lending the key {} to the build: {why}", key.display()));
    let number = crate::random::hex::<8>().map_err(|e| failed(&e))?;
    let socket = std::env::temp_dir().join(format!("wharf-ssh-{number}"));
    let mut agent = Command::new("ssh-agent");
    agent.arg("-a").arg(&socket).args(["sh", "-c", HOLD]).arg(key);
    let spawned = agent.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut agent = spawned.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => failed(&"that needs ssh-agent and ssh-add (openssh-client)"),
        _ => failed(&format!("starting ssh-agent: {e}")),
    })?;
    let mut said = String::new();
    let read = agent.stdout.take().map(|out| BufReader::new(out).read_line(&mut said));
    if !matches!(read, Some(Ok(_))) || said.trim() != "added" {
        let mut why = String::new();
        let _ = agent.stderr.take().map(|mut stderr| stderr.read_to_string(&mut why));
        return Err(failed(&why.trim()));
    }
    static AGENTS: Mutex<Vec<Child>> = Mutex::new(Vec::new());
    AGENTS.lock().unwrap_or_else(|e| e.into_inner()).push(agent);
    Ok(socket)
}

/// SSH agents by their ids: this process's, the one at a path, or one with the key at a path.
pub(super) fn agents<'a>(
    given: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    directory: &Path,
) -> Result<BTreeMap<String, PathBuf>, Failure> {
    use std::os::unix::fs::FileTypeExt;
    let one = |(id, path): (&str, Option<&str>)| {
        let socket = match path.filter(|path| !path.is_empty()) {
            Some(path) => directory.join(path),
            None => std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from).ok_or_else(|| {
                Failure::Message(format!(
                    "invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set\nthe build is to have the agent `{id}`: start ssh-agent and add a key to it"
                ))
            })?,
        };
        match std::fs::metadata(&socket) {
            Ok(found) if found.file_type().is_socket() => Ok((id.to_string(), socket)),
            Ok(found) if found.is_file() => Ok((id.to_string(), key_agent(&socket)?)),
            Ok(_) => Err(Failure::Message(format!("the SSH agent `{id}`: {} is no socket and no key", socket.display()))),
            Err(e) => Err(Failure::Message(format!("the SSH agent `{id}`: {}: {e}", socket.display()))),
        }
    };
    // A flag is instead of the file's of the same id.
    given.collect::<BTreeMap<_, _>>().into_iter().map(one).collect()
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
pub(super) fn attest(flags: &BuildFlags, attests: &[String]) -> Result<WantedAttestations, Failure> {
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
    WantedAttestations::parse(provenance.as_deref(), sbom.as_deref()).map_err(Failure::Message)
}

pub(super) fn epoch() -> Option<i64> {
    std::env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok()
}
