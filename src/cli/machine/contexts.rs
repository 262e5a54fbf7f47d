//! Contexts: names for machines, in a file of the user's, and those of Docker's clients.

use super::destination::Destination;
use crate::cli::{Failure, Outcome};
use crate::sys::regular::read_regular_file;
use indexmap::IndexMap;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The context of this machine, which is always there.
pub const DEFAULT: &str = "default";
/// Bytes of a file of contexts.
const MAX_FILE: u64 = 1 << 20;
/// Contexts of Docker's that are listed.
const MAX_LISTED: usize = 1000;

/// The file of the user's contexts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Contexts {
    /// The one that commands use; absent where none was ever chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    pub contexts: IndexMap<String, MachineContext>,
    /// What a later version has written, kept as it is.
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

/// A machine by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineContext {
    pub host: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// As [`Contexts`] has it.
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

impl MachineContext {
    pub fn new(host: String, description: String) -> Self {
        MachineContext { host, description, ..MachineContext::default() }
    }
}

fn failed(doing: &str, path: &Path) -> impl Fn(io::Error) -> Failure {
    let what = format!("{doing} {}", path.display());
    move |e| Failure::Message(format!("{what}: {e}"))
}

/// `$XDG_CONFIG_HOME/wharf/contexts.json`, or that of `~/.config`.
fn path() -> Option<PathBuf> {
    let own = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let directory = own.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
    Some(directory.join("wharf/contexts.json"))
}

/// A file's text, where there is one.
fn read(path: &Path) -> io::Result<Option<String>> {
    match read_regular_file(path, MAX_FILE) {
        Ok(text) => String::from_utf8(text).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::FileTooLarge => Err(io::Error::other("it has more than 1 MiB")),
        Err(e) => Err(e),
    }
}

impl Contexts {
    /// The user's.
    ///
    /// # Errors
    /// When the file cannot be read, or is not what it should be.
    pub fn load() -> Result<Self, Failure> {
        let Some(path) = path() else { return Ok(Contexts::default()) };
        // Another user's home, as `sudo -u` leaves HOME: none of this user's contexts is there. Docker goes on as well.
        match read(&path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Contexts::default()),
            _ => Self::of(&path),
        }
    }

    fn of(path: &Path) -> Result<Self, Failure> {
        let text = read(path).map_err(failed("reading the contexts in", path))?;
        let wrong =
            |e| Failure::Message(format!("the file of contexts {} is damaged: {e}; correct or remove it", path.display()));
        text.map_or(Ok(Contexts::default()), |text| serde_json::from_str(&text).map_err(wrong))
    }

    /// Changes the user's file: as a whole or not at all, and one change after the other.
    ///
    /// # Errors
    /// The change's own, and the disk's.
    pub fn change(change: impl FnOnce(&mut Contexts) -> Outcome) -> Outcome {
        let path = path().ok_or_else(|| Failure::Message("contexts are kept in ~/.config, and HOME is not set".into()))?;
        Self::change_in(&path, change)
    }

    fn change_in(path: &Path, change: impl FnOnce(&mut Contexts) -> Outcome) -> Outcome {
        // A link to a file of the user's other settings stays one.
        let target = fs::canonicalize(path);
        let path = target.as_deref().unwrap_or(path);
        let failed = failed("writing the contexts to", path);
        let directory = path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(&failed)?;
        let own = |path: &Path| fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
        let lock = own(&path.with_extension("lock")).map_err(&failed)?;
        let _locked = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| failed(e.into()))?;
        let mut contexts = Self::of(path)?;
        change(&mut contexts)?;
        let text = serde_json::to_string_pretty(&contexts).map_err(|e| failed(e.into()))?;
        let temporary = path.with_extension("new");
        let written = own(&temporary).and_then(|mut file| {
            file.write_all(format!("{text}\n").as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        });
        written.map_err(&failed)
    }
}

/// Whether something can be a context's name: Docker's rule.
///
/// # Errors
/// Why not.
pub fn check_name(name: &str) -> Outcome {
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-');
    let right =
        name.len() > 1 && name.len() < 256 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(rest);
    if !right {
        let rule = "it has two or more letters, digits and `_.+-`, and begins with a letter or a digit";
        return Err(Failure::Message(format!("`{}` cannot be a context's name: {rule}", name.escape_debug())));
    }
    if name == DEFAULT {
        return Err(Failure::Message(format!("the context `{DEFAULT}` is this machine, and stays so: choose another name")));
    }
    Ok(())
}

/// The contexts of Docker's clients.
pub mod docker {
    use super::*;

    /// What is read of one.
    #[derive(Clone, Debug, Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Meta {
        name: String,
        #[serde(default)]
        metadata: ContextMetadata,
        #[serde(default)]
        endpoints: IndexMap<String, ContextEndpoint>,
    }

    #[derive(Clone, Debug, Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct ContextMetadata {
        description: String,
    }

    #[derive(Clone, Debug, Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct ContextEndpoint {
        host: String,
    }

    fn directory() -> Option<PathBuf> {
        match std::env::var_os("DOCKER_CONFIG").filter(|directory| !directory.is_empty()) {
            Some(directory) => Some(directory.into()),
            None => Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")),
        }
    }

    fn one(file: &Path) -> Option<(String, MachineContext)> {
        let meta: Meta = serde_json::from_str(&read(file).ok()??).ok()?;
        let host = meta.endpoints.get("docker").map(|endpoint| endpoint.host.clone()).unwrap_or_default();
        Some((meta.name, MachineContext::new(host, meta.metadata.description)))
    }

    /// A context by name. Its directory is the name's digest.
    pub fn find(name: &str) -> Option<MachineContext> {
        let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(name.as_bytes()));
        let file = directory()?.join("contexts/meta").join(digest).join("meta.json");
        one(&file).filter(|(known, _)| known == name).map(|(_, context)| context)
    }

    /// The contexts of machines that ssh leads to, by name.
    pub fn all() -> Vec<(String, MachineContext)> {
        let entries = directory().and_then(|directory| fs::read_dir(directory.join("contexts/meta")).ok());
        let entries = entries.into_iter().flatten().flatten().take(MAX_LISTED);
        let mut found: Vec<_> = entries.filter_map(|entry| one(&entry.path().join("meta.json"))).collect();
        found.retain(|(name, context)| check_name(name).is_ok() && is_ssh(&context.host));
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        found
    }

    /// The context that `docker context use` has chosen.
    pub fn current() -> Option<String> {
        let configuration = crate::image::credentials::configuration();
        configuration["currentContext"].as_str().filter(|name| !name.is_empty()).map(str::to_string)
    }
}

/// Whether an address is meant for ssh, right or wrong.
pub fn is_ssh(address: &str) -> bool {
    address.starts_with("ssh://")
}

/// A context by name, wharf's own before Docker's; `None` for this machine.
///
/// # Errors
/// When there is none, or its host is not what wharf can go to.
pub fn resolve(contexts: &Contexts, name: &str) -> Result<Option<Destination>, Failure> {
    if name == DEFAULT {
        return Ok(None);
    }
    let known = contexts.contexts.get(name).cloned().or_else(|| docker::find(name));
    let Some(context) = known else {
        return Err(Failure::Message(format!(
            "there is no context `{}`: `wharf context use default` is this machine, `wharf --context default context ls` shows the others",
            name.escape_debug()
        )));
    };
    let wrong = |e| Failure::Message(format!("the context `{name}`: {e}"));
    context.host.parse().map(Some).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn names_are_dockers() {
        for right in ["prod", "a1", "my.prod+x_-"] {
            assert!(check_name(right).is_ok(), "{right}");
        }
        for wrong in ["", "a", "-x", "a b", "a/b", "../x", "default", "ä1", "a\nb"] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_file_is_its_owners_and_changed_as_a_whole() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("deep/contexts.json");
        let add = |name: String| {
            Contexts::change_in(&path, |contexts| {
                contexts.contexts.insert(name, MachineContext::new("ssh://h".into(), String::new()));
                Ok(())
            })
        };
        std::thread::scope(|scope| {
            for n in 0..8 {
                let add = &add;
                scope.spawn(move || add(format!("c{n}")).expect("changed"));
            }
        });
        assert_eq!(Contexts::of(&path).expect("contexts").contexts.len(), 8, "none was lost");
        assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        let before = fs::read(&path).expect("file");
        assert!(Contexts::change_in(&path, |_| Err(Failure::Code(1))).is_err());
        assert_eq!(fs::read(&path).expect("file"), before);
        // A later version's attributes stay, and so does a link.
        let kept = r#"{"contexts":{"a1":{"host":"ssh://h","later":[1]}},"newer":{"x":true}}"#;
        fs::write(&path, kept).expect("written");
        let link = directory.path().join("link.json");
        std::os::unix::fs::symlink(&path, &link).expect("link");
        Contexts::change_in(&link, |_| Ok(())).expect("changed");
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(json(&fs::read_to_string(&path).expect("file")), json(kept));
        assert!(fs::symlink_metadata(&link).expect("link").is_symlink());
        let fifo = directory.path().join("fifo.json");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
        assert!(Contexts::of(&fifo).expect_err("no file").to_string().contains("not a regular file"));
        fs::write(&path, "[]").expect("written");
        assert!(Contexts::of(&path).is_err(), "a list is no file of contexts");
        fs::write(&path, "{").expect("written");
        assert!(Contexts::of(&path).expect_err("damaged").to_string().contains("correct or remove it"));
        fs::write(&path, " ".repeat(2 << 20)).expect("written");
        assert!(Contexts::of(&path).expect_err("too large").to_string().contains("more than 1 MiB"));
    }
}
