//! Compose files that are not on this machine: OCI artifacts and Git repositories, fetched into the user's cache.

mod confirm;
mod git;
mod oci;

pub use confirm::{confirmed, yes_or_no};

use crate::compose::remote::{FetchedResource, Remote};
use crate::image::build::git::GitRef;
use crate::sys::removal::remove_tree;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How the name of an artifact begins.
const OCI: &str = "oci://";

/// Fetches into a cache.
#[derive(Debug)]
pub struct Fetcher;

impl Remote for Fetcher {
    fn is_remote(&self, name: &str) -> bool {
        name.starts_with(OCI) || GitRef::parse(name).is_some()
    }

    fn fetch(&self, name: &str) -> Result<FetchedResource, String> {
        let (what, variable) = match name.starts_with(OCI) {
            true => ("an OCI artifact", "COMPOSE_EXPERIMENTAL_OCI_REMOTE"),
            false => ("a Git repository", "COMPOSE_EXPERIMENTAL_GIT_REMOTE"),
        };
        let switch = std::env::var(variable).ok().filter(|text| !text.is_empty());
        match switch.as_deref().map(crate::units::boolean) {
            None | Some(Some(true)) => {}
            Some(Some(false)) => return Err(format!("{what} is not fetched, since {variable} is false")),
            Some(None) => return Err(format!("{variable} must be true or false")),
        }
        let cache = RemoteCache::open().map_err(|error| format!("making the cache: {error}"))?;
        match name.strip_prefix(OCI) {
            Some(name) => wait(oci::fetch(name, &cache))?,
            None => {
                let git = GitRef::parse(name).ok_or("it is no Git URL")?;
                wait(git::fetch(&git, name, &cache))?
            }
        }
    }
}

/// Waits for a future in a thread of its own: files are loaded by a thread that drives others already.
fn wait<T: Send>(work: impl Future<Output = T> + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(work)).map_err(|error| format!("starting: {error}"))
        });
        thread.join().unwrap_or_else(|_| Err("the thread that fetches has ended early".into()))
    })
}

/// The user's cache, in which all that was fetched has a directory under its digest or commit.
struct RemoteCache(PathBuf);

impl RemoteCache {
    /// # Errors
    /// Without a home directory, or the disk's.
    fn open() -> std::io::Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let base =
            set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache"))).filter(|path| path.is_absolute());
        let base = base.ok_or_else(|| std::io::Error::other("neither XDG_CACHE_HOME nor HOME names a directory"))?;
        let cache = RemoteCache(base.join("wharf"));
        cache.directory("")?;
        Ok(cache)
    }

    /// A directory of it, made where it is missing. Only its user may enter it.
    fn directory(&self, name: &str) -> std::io::Result<PathBuf> {
        let path = if name.is_empty() { self.0.clone() } else { self.0.join(name) };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(path)
    }

    /// Waits until no other process writes what has this name.
    fn lock(&self, name: &str) -> std::io::Result<Flock<File>> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(self.directory("locks")?.join(name))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
    }

    /// An empty directory to fetch into, which is moved to its name when it is whole. What a killed process has left in it is gone.
    fn draft(&self, name: &str) -> std::io::Result<PathBuf> {
        let path = self.directory("drafts")?.join(name);
        match remove_tree(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(path)
    }
}

/// Writes a file by its name in one step, unless it is there already. A link in its place is replaced.
fn write(directory: &Path, name: &str, content: &[u8]) -> std::io::Result<()> {
    let path = directory.join(name);
    let is_file = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() == content.len() as u64);
    if is_file && std::fs::read(&path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    let draft = directory.join(format!(".{}.draft", crate::random::hex::<8>()?));
    let written = std::fs::write(&draft, content).and_then(|()| std::fs::rename(&draft, &path));
    if written.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    written
}
