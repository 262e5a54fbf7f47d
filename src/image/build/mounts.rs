//! `RUN --mount=...`: what is mounted while a command runs.

use super::dockerfile::MalformedDockerfile;
use crate::image::ChainId;
use crate::units::boolean;
use std::path::PathBuf;

/// `type` of `RUN --mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunMountType {
    /// From another stage, image or context; of this build's context where there is no `from`.
    Bind,
    /// A directory that stays from build to build.
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// A `--mount` flag.
#[derive(Debug, Clone)]
pub struct RunMount {
    pub kind: RunMountType,
    pub from: Option<String>,
    pub source: String,
    pub target: Option<String>,
    pub id: Option<String>,
    pub read_only: Option<bool>,
    pub required: bool,
    /// A cache that one command at a time has: `sharing=locked`, and `private`, which waits instead of beginning anew.
    pub exclusive: bool,
    pub size: Option<String>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// A secret as an environment variable.
    pub env: Option<String>,
}

/// A mount as the engine makes it.
#[derive(Debug)]
pub enum MadeMount {
    Bind {
        source: PathBuf,
        target: String,
        read_only: bool,
    },
    Tmpfs {
        target: String,
        options: Vec<String>,
    },
    /// The layers by their chain ids, the lowest first; nothing can be written there.
    Layers {
        layers: Vec<ChainId>,
        target: String,
    },
}

/// Options that are true where they have no value. With one, they are what Go's `strconv.ParseBool` takes, as with BuildKit.
const SWITCHES: [&str; 5] = ["ro", "readonly", "rw", "readwrite", "required"];

/// Reads a flag's value.
///
/// # Errors
/// A type or key that is not known.
pub fn parse(text: &str, line: usize) -> Result<RunMount, MalformedDockerfile> {
    let wrong = |message: String| MalformedDockerfile::new(line, message).help("as in `--mount=type=cache,target=/root/.cache`");
    let mut mount = RunMount {
        kind: RunMountType::Bind,
        from: None,
        source: String::new(),
        target: None,
        id: None,
        read_only: None,
        required: false,
        exclusive: false,
        size: None,
        mode: None,
        uid: None,
        gid: None,
        env: None,
    };
    for part in text.split(',') {
        let (key, given) = part.trim().split_once('=').map_or((part.trim(), None), |(key, value)| (key, Some(value)));
        let key = key.to_ascii_lowercase();
        if given.is_none() && !SWITCHES.contains(&key.as_str()) {
            return Err(wrong(match key.as_str() {
                "" => "an option of the mount is empty".into(),
                _ => format!("`{key}` needs a value: write `{key}=...`"),
            }));
        }
        let value = given.unwrap_or("true");
        let number = || value.parse::<u32>().map_err(|_| wrong(format!("`{value}` is not a number")));
        let boolean = || boolean(value).ok_or_else(|| wrong(format!("`{value}` is neither true nor false")));
        match key.as_str() {
            "type" => {
                mount.kind = match value.to_ascii_lowercase().as_str() {
                    "bind" => RunMountType::Bind,
                    "cache" => RunMountType::Cache,
                    "tmpfs" => RunMountType::Tmpfs,
                    "secret" => RunMountType::Secret,
                    "ssh" => RunMountType::Ssh,
                    _ => return Err(wrong(format!("`{value}` is not a type of mount: bind, cache, tmpfs, secret, ssh"))),
                };
            }
            "from" => mount.from = Some(value.into()),
            "source" | "src" => mount.source = value.into(),
            "target" | "dst" | "destination" => mount.target = Some(value.into()),
            "id" => mount.id = Some(value.into()),
            "ro" | "readonly" => mount.read_only = Some(boolean()?),
            "rw" | "readwrite" => mount.read_only = Some(!boolean()?),
            "required" => mount.required = boolean()?,
            "sharing" => {
                mount.exclusive = match value.to_ascii_lowercase().as_str() {
                    "shared" => false,
                    "locked" | "private" => true,
                    _ => return Err(wrong(format!("`{value}` is not a sharing: shared, locked, private"))),
                }
            }
            "size" => mount.size = Some(value.into()),
            "mode" => mount.mode = Some(u32::from_str_radix(value, 8).map_err(|_| wrong(format!("`{value}` is not a mode")))?),
            "uid" => mount.uid = Some(number()?),
            "gid" => mount.gid = Some(number()?),
            "env" => mount.env = Some(value.into()),
            other => return Err(wrong(format!("a mount has no `{other}`"))),
        }
    }
    if mount.target.is_none() && matches!(mount.kind, RunMountType::Bind | RunMountType::Cache | RunMountType::Tmpfs) {
        return Err(wrong("a mount needs a `target`".into()));
    }
    Ok(mount)
}
