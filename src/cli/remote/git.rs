//! `https://HOST/REPOSITORY.git#REF:PATH` and the like: a project of a Git repository.

use super::RemoteCache;
use crate::compose::files::NAMES;
use crate::compose::remote::FetchedResource;
use crate::image::Digest;
use crate::image::build::git::GitRef;
use std::path::{Component, Path, PathBuf};

/// Asks the server which commit is meant, and checks it out where the cache does not have it.
pub(super) async fn fetch(git: &GitRef, name: &str, cache: &RemoteCache) -> Result<FetchedResource, String> {
    let failed = |error: std::io::Error| format!("writing the cache: {error}");
    let inside = PathBuf::from(git.directory.as_deref().unwrap_or_default());
    if inside.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(format!("`{}` is no path in a repository", inside.display()));
    }
    let all = cache.directory("git").map_err(failed)?;
    // The same commit of two servers is not trusted to be the same.
    let server = Digest::of(git.remote.as_bytes());
    let at = |commit: &str| all.join(format!("{commit}-{}", &server.hex()[..16]));
    let resolved = git.resolve(&all).await.map_err(|error| error.to_string())?;
    if let Some(root) = resolved.as_deref().map(at).filter(|root| root.is_dir()) {
        return found(root, &inside, name);
    }
    let key =
        Digest::of(format!("{} {}", git.remote, resolved.as_deref().or(git.reference.as_deref()).unwrap_or_default()).as_bytes());
    let _alone = cache.lock(key.hex()).map_err(failed)?;
    // Another process may have fetched it meanwhile.
    if let Some(root) = resolved.as_deref().map(at).filter(|root| root.is_dir()) {
        return found(root, &inside, name);
    }
    let draft = cache.draft(key.hex()).map_err(failed)?;
    let commit = git.check_out_all(&draft).await.map_err(|error| error.to_string());
    let commit = match commit {
        Ok(commit) => commit,
        Err(why) => {
            let _ = crate::sys::removal::remove_tree(&draft);
            return Err(why);
        }
    };
    let root = at(&commit);
    if root.is_dir() {
        crate::sys::removal::remove_tree(&draft).map_err(failed)?;
    } else {
        std::fs::rename(&draft, &root).map_err(failed)?;
    }
    found(root, &inside, name)
}

/// The Compose file that is meant: the path itself, or the usual one of a directory.
fn found(root: PathBuf, inside: &Path, name: &str) -> Result<FetchedResource, String> {
    let path = if inside == Path::new("") { root.clone() } else { root.join(inside) };
    let whole = path.canonicalize().ok().filter(|whole| root.canonicalize().is_ok_and(|root| whole.starts_with(root)));
    let Some(whole) = whole else { return Err(format!("{name} has no `{}`", inside.display())) };
    if !whole.is_dir() {
        return Ok(FetchedResource { file: path, root });
    }
    let file = NAMES.iter().map(|name| path.join(name)).find(|file| file.is_file());
    let file = file.ok_or_else(|| format!("{name} has no Compose file: it has none of {}", NAMES.join(", ")))?;
    Ok(FetchedResource { file, root })
}
