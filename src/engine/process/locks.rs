//! One engine for each run root, and one for each data root.

use crate::engine::containers::link::MonitorLink;
use crate::engine::{Config, EngineError};
use nix::fcntl::{Flock, FlockArg};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The lock's name in each root.
const FILE: &str = "engine.lock";

/// Held while an engine lives. Nobody inherits them: a monitor outlives its engine.
pub struct Locks {
    _run_root: Flock<File>,
    _data_root: Flock<File>,
}

/// Whose a data root is, as its lock file says.
struct Owner {
    pid: String,
    run_root: PathBuf,
}

impl Locks {
    /// Takes both.
    ///
    /// # Errors
    /// When another engine has one of them, or containers of the data root run with another run root: this engine would take
    /// them for dead.
    pub fn take(config: &Config) -> Result<Self, EngineError> {
        let run_root = lock(&config.run_root.join(FILE))?.map_err(|_| {
            EngineError::Conflict(format!(
                "an engine already runs for {}; `wharf engine --replace` goes on in its place",
                config.run_root.display()
            ))
        })?;
        let path = config.data_root.join(FILE);
        let data_root = lock(&path)?.map_err(|held| is_in_use(config, Owner::read(&held)))?;
        runs_nothing_elsewhere(config, &data_root)?;
        // For whoever comes while this engine runs. Without it, on a full disk, the lock is one as well.
        let text = [format!("{} ", std::process::id()).as_bytes(), config.run_root.as_os_str().as_bytes(), b"\n"].concat();
        if let Err(error) = data_root.write_all_at(&text, 0).and_then(|()| data_root.set_len(text.len() as u64)) {
            tracing::warn!("writing {}: {error}", path.display());
        }
        Ok(Locks { _run_root: run_root, _data_root: data_root })
    }
}

/// Looks whether an engine can take both, before it replaces the one of the run root: that may have them.
///
/// # Errors
/// As [`Locks::take`].
pub(super) fn check(config: &Config) -> Result<(), EngineError> {
    match try_lock(&config.data_root.join(FILE)) {
        Ok(Ok(data_root)) => runs_nothing_elsewhere(config, &data_root),
        Ok(Err(held)) => match Owner::read(&held) {
            Some(owner) if !is_same(&owner.run_root, &config.run_root) => Err(is_in_use(config, Some(owner))),
            _ => Ok(()),
        },
        // It is not there yet.
        Err(EngineError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_in_use(config: &Config, owner: Option<Owner>) -> EngineError {
    let (who, stop) = owner.map_or_else(
        || ("another engine".to_string(), "`wharf engine stop`".to_string()),
        |owner| {
            let run_root = owner.run_root.display();
            (
                format!("the engine with process id {} and the run root {run_root}", owner.pid),
                format!("`wharf --run-root {run_root} engine stop`"),
            )
        },
    );
    EngineError::Conflict(format!(
        "the data root {} is in use by {who}: use that run root, or stop that engine with {stop}, or choose another --data-root",
        config.data_root.display()
    ))
}

/// Containers of another run root would be taken for dead.
fn runs_nothing_elsewhere(config: &Config, data_root: &File) -> Result<(), EngineError> {
    let Some(owner) = Owner::read(data_root).filter(|owner| !is_same(&owner.run_root, &config.run_root)) else { return Ok(()) };
    let Some(container) = running_container(&owner.run_root) else { return Ok(()) };
    Err(EngineError::Conflict(format!(
        "containers of the data root {} run with the run root {} ({container} is one): use that run root, or stop them with `wharf --data-root {} --run-root {} engine stop --containers`",
        config.data_root.display(),
        owner.run_root.display(),
        config.data_root.display(),
        owner.run_root.display(),
    )))
}

/// Whether two names are of one directory. Of those that are not there the names count.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    one == other || identity(one).is_some_and(|one| Some(one) == identity(other))
}

/// Whether an engine has a run root.
pub fn is_run_root_taken(run_root: &Path) -> bool {
    matches!(try_lock(&run_root.join(FILE)), Ok(Err(_)))
}

/// Locks a file, or returns it where another engine has. What is no lock of root's is removed: a version before let every user of
/// the host open it.
fn lock(path: &Path) -> Result<Result<Flock<File>, File>, EngineError> {
    let failed = || EngineError::io(format!("locking {}", path.display()));
    let own = |metadata: fs::Metadata| metadata.is_file() && metadata.uid() == 0;
    if !fs::symlink_metadata(path).map_or(true, own) {
        fs::remove_file(path).map_err(failed())?;
    }
    match try_lock(path)? {
        Err(file) if !is_held_by_root(file.metadata().map_err(failed())?.ino()) => {
            fs::remove_file(path).map_err(failed())?;
            try_lock(path)
        }
        result => Ok(result),
    }
}

fn try_lock(path: &Path) -> Result<Result<Flock<File>, File>, EngineError> {
    let options = || {
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_NOFOLLOW).mode(0o600);
        options
    };
    let opened = options().write(true).create(true).truncate(false).open(path).or_else(|error| match error.kind() {
        // Says more below, when the state is opened.
        io::ErrorKind::ReadOnlyFilesystem => options().open(path),
        _ => Err(error),
    });
    let file = opened.map_err(EngineError::io(format!("opening {}", path.display())))?;
    if let Err(error) = file.set_permissions(fs::Permissions::from_mode(0o600)) {
        tracing::warn!("closing {} to other users: {error}", path.display());
    }
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Ok(lock)),
        Err((file, nix::Error::EWOULDBLOCK)) => Ok(Err(file)),
        Err((_, errno)) => Err(EngineError::Io { doing: format!("locking {}", path.display()), source: errno.into() }),
    }
}

/// Whether a lock of a file may be an engine's, by the processes that /proc/locks names; those of other pid namespaces are 0 there.
fn is_held_by_root(inode: u64) -> bool {
    let text = fs::read_to_string("/proc/locks").unwrap_or_default();
    let holder = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, file, ..] = words[..] else { return None };
        (file.rsplit(':').next()? == inode.to_string()).then(|| pid.parse::<i32>().ok())?
    };
    let mut holders = text.lines().filter_map(holder).peekable();
    let is_roots = |pid: i32| pid <= 0 || fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == 0);
    holders.peek().is_none() || holders.any(is_roots)
}

impl Owner {
    fn read(file: &File) -> Option<Self> {
        let mut text = Vec::new();
        file.take(8192).read_to_end(&mut text).ok()?;
        Self::parse(&text)
    }

    /// The first line. After it may be the end of a longer one, where a crash came before that was cut off.
    fn parse(text: &[u8]) -> Option<Self> {
        let line = text.split_inclusive(|byte| *byte == b'\n').next()?.strip_suffix(b"\n")?;
        let space = line.iter().position(|byte| *byte == b' ')?;
        let pid = std::str::from_utf8(&line[..space]).ok()?;
        Some(Owner { pid: pid.into(), run_root: OsStr::from_bytes(&line[space + 1..]).into() })
    }
}

/// A container that has a monitor below a run root.
fn running_container(run_root: &Path) -> Option<String> {
    let containers = fs::read_dir(run_root.join("containers")).ok()?;
    let mut running = containers.flatten().filter(|entry| MonitorLink::is_there(&entry.path()));
    running.next().map(|entry| entry.file_name().to_string_lossy().chars().take(12).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_the_first_line() {
        let run_root = |text: &[u8]| Owner::parse(text).map(|owner| owner.run_root);
        assert_eq!(run_root(b"12 /run/wharf\n"), Some("/run/wharf".into()));
        assert_eq!(run_root(b"12 /run/a b\nlonger\n"), Some("/run/a b".into()));
        assert_eq!(run_root(b"12 /run/\xff\n"), Some(OsStr::from_bytes(b"/run/\xff").into()));
        assert_eq!([&b""[..], b"12 /run/wh", b"\n", b"12\n"].map(run_root), [None, None, None, None]);
    }
}
