//! Contexts and sources from Git, by the host's own `git`: it knows the user's credentials and the servers' peculiarities.

use super::super::ImageError;
use crate::sys::removal::remove_tree;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A repository, what of it is meant, and a directory in it: `URL#REF:DIRECTORY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitRef {
    pub remote: String,
    /// A branch, a tag or a commit; the server's default where it is absent.
    pub reference: Option<String>,
    pub directory: Option<String>,
}

impl GitRef {
    /// Reads a Git URL; `None` for anything else. Over HTTP the path must end with `.git`, as BuildKit has it.
    pub fn parse(text: &str) -> Option<Self> {
        let (remote, fragment) = text.split_once('#').map_or((text, None), |(remote, fragment)| (remote, Some(fragment)));
        let path_ends = remote.split('?').next().unwrap_or_default().ends_with(".git");
        let is_git = match remote.split_once("://") {
            Some(("git" | "ssh", rest)) => !rest.is_empty() && !rest.starts_with('-'),
            Some(("http" | "https", rest)) => path_ends && !rest.starts_with('-'),
            Some(_) => false,
            // The form of scp, with a user.
            None => {
                remote.split_once(':').is_some_and(|(host, path)| {
                    host.contains('@') && !host.contains('/') && !host.starts_with('-') && !path.is_empty()
                }) || remote.starts_with("github.com/")
            }
        };
        if !is_git {
            return None;
        }
        let remote = if remote.starts_with("github.com/") { format!("https://{remote}") } else { remote.to_string() };
        let (reference, directory) = match fragment {
            None => (None, None),
            Some(fragment) => match fragment.split_once(':') {
                Some((reference, directory)) => (Some(reference), Some(directory.trim_matches('/'))),
                None => (Some(fragment), None),
            },
        };
        let some = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_string);
        Some(GitRef { remote, reference: some(reference), directory: some(directory) })
    }

    /// Checks the repository out into an empty directory. Gives the commit, and the directory that is meant.
    ///
    /// # Errors
    /// git's own words.
    pub fn check_out(&self, into: &Path, keep_git: bool) -> Result<(String, PathBuf), ImageError> {
        let reference = self.reference.as_deref().unwrap_or("HEAD");
        if reference.starts_with('-') {
            return Err(ImageError::Build(format!("`{reference}` is not a branch, tag or commit")));
        }
        git(into, &["init", "--quiet"])?;
        git(into, &["remote", "add", "--", "origin", &self.remote])?;
        // A commit that is no branch's end is not given out by every server: then everything is fetched.
        if git(into, &["fetch", "--quiet", "--depth", "1", "--no-tags", "origin", reference]).is_err() {
            git(into, &["fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"])?;
            let found = git(into, &["rev-parse", "--verify", "--quiet", &format!("{reference}^{{commit}}")])
                .or_else(|_| git(into, &["rev-parse", "--verify", "--quiet", &format!("origin/{reference}^{{commit}}")]))
                .map_err(|_| ImageError::Build(format!("{} has no branch, tag or commit `{reference}`", self.remote)))?;
            git(into, &["checkout", "--quiet", "--detach", found.trim()])?;
        } else {
            git(into, &["checkout", "--quiet", "--detach", "FETCH_HEAD"])?;
        }
        if into.join(".gitmodules").exists() {
            git(into, &["submodule", "update", "--quiet", "--init", "--recursive", "--depth", "1"])?;
        }
        let commit = git(into, &["rev-parse", "HEAD"])?.trim().to_string();
        if !keep_git {
            let _ = remove_tree(&into.join(".git"));
        }
        let directory = self.directory.as_deref().unwrap_or_default();
        // A link in the repository must not make another directory of this machine the context.
        let root = into.canonicalize().map_err(ImageError::store(format!("opening {}", into.display())))?;
        let inside = root.join(directory).canonicalize().ok().filter(|path| path.starts_with(&root));
        match inside.filter(|path| path.is_dir()) {
            Some(path) => Ok((commit, path)),
            None => Err(ImageError::Build(format!("{} has no directory `{directory}`", self.remote))),
        }
    }
}

/// Runs git without asking anybody for a password, and without the repository's hooks.
fn git(directory: &Path, arguments: &[&str]) -> Result<String, ImageError> {
    let output = Command::new("git")
        .args(["-c", "core.hooksPath=/dev/null", "-c", "protocol.file.allow=never", "-c", "advice.detachedHead=false"])
        .arg("-C")
        .arg(directory)
        .args(arguments)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ALLOW_PROTOCOL", "http:https:git:ssh")
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(ImageError::Build("a Git repository needs the program `git` on this machine: install it".into()));
        }
        Err(e) => return Err(ImageError::Build(format!("running git: {e}"))),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    Err(ImageError::Build(format!("git {}: {said}", arguments.first().copied().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_urls_are_told_from_others() {
        let parse = |text: &str| GitRef::parse(text).map(|g| (g.remote, g.reference, g.directory));
        let some = |text: &str| Some(text.to_string());
        assert_eq!(parse("https://h/r.git#v1:sub/dir"), Some(("https://h/r.git".into(), some("v1"), some("sub/dir"))));
        assert_eq!(parse("git@h:u/r.git#:d"), Some(("git@h:u/r.git".into(), None, some("d"))));
        assert_eq!(parse("git://h/r"), Some(("git://h/r".into(), None, None)));
        assert_eq!(parse("github.com/u/r#x"), Some(("https://github.com/u/r".into(), some("x"), None)));
        for other in [
            "https://h/file.tar.gz",
            "./dir",
            "dir.git",
            "a:b",
            "C:\\x",
            "file:///r.git",
            "ssh://-oProxyCommand=x/r",
            "https://h/r.git.txt",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
