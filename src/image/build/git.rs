//! Contexts and sources from Git, by the host's own `git`: it knows the user's credentials and the servers' peculiarities.

use super::super::ImageError;
use crate::sys::removal::remove_tree;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A server that sends nothing for this long is given up: git itself waits without end.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes of git's output that are kept, of either stream; what a server says beyond is read and dropped.
const MAX_OUTPUT: usize = 64 << 10;

/// A repository, what of it is meant, and a directory in it: `URL#REF:DIRECTORY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitRef {
    /// Without a login, so that it may be shown and stand among a program's arguments.
    pub remote: String,
    /// The credentials in an HTTP URL.
    login: Option<GitLogin>,
    /// A branch, a tag or a commit; the server's default where it is absent.
    pub reference: Option<String>,
    pub directory: Option<String>,
}

/// A name and a password, or a token instead of either. Only [`GitLogin::environment`] gives it to anybody.
#[derive(Clone, PartialEq, Eq)]
struct GitLogin {
    /// `https://host:port`, the server that gets it.
    server: String,
    user: String,
    password: String,
}

impl std::fmt::Debug for GitLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a login for {}", self.server)
    }
}

impl GitLogin {
    /// Takes the login out of an HTTP URL.
    fn split(url: &str) -> Option<(String, GitLogin)> {
        let (scheme, rest) = url.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))?;
        let (authority, path) = rest.split_once('/')?;
        let (login, host) = authority.rsplit_once('@')?;
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let server = format!("{scheme}://{host}");
        Some((format!("{server}/{path}"), GitLogin { server, user: decoded(user), password: decoded(password) }))
    }

    /// Settings of git that answer its question for a login. Other users can read a program's arguments, and not its environment; git
    /// would hand a login in a URL to its helpers as an argument.
    fn environment(&self) -> [(&'static str, String); 5] {
        let helper =
            r#"!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$WHARF_GIT_USER" "$WHARF_GIT_PASSWORD"; }; f"#;
        [
            ("GIT_CONFIG_COUNT", "1".into()),
            ("GIT_CONFIG_KEY_0", format!("credential.{}.helper", self.server)),
            ("GIT_CONFIG_VALUE_0", helper.into()),
            ("WHARF_GIT_USER", self.user.clone()),
            ("WHARF_GIT_PASSWORD", self.password.clone()),
        ]
    }
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
        let (remote, login) = match GitLogin::split(&remote) {
            Some((without, login)) => (without, Some(login)),
            None => (remote, None),
        };
        let (reference, directory) = match fragment {
            None => (None, None),
            Some(fragment) => match fragment.split_once(':') {
                Some((reference, directory)) => (Some(reference), Some(directory.trim_matches('/'))),
                None => (Some(fragment), None),
            },
        };
        let some = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_string);
        Some(GitRef { remote, login, reference: some(reference), directory: some(directory) })
    }

    /// Checks the repository out into an empty directory. Gives the commit, and the directory that is meant. git ends, with all that
    /// it has started, when this future is dropped.
    ///
    /// # Errors
    /// git's own words; a server that is silent for [`SILENCE`].
    pub async fn check_out(&self, into: &Path, keep_git: bool) -> Result<(String, PathBuf), ImageError> {
        let commit = self.check_out_all(into).await?;
        let (into, directory) = (into.to_path_buf(), self.directory.clone().unwrap_or_default());
        let remote = self.remote.clone();
        let found = tokio::task::spawn_blocking(move || {
            if !keep_git {
                let _ = remove_tree(&into.join(".git"));
            }
            // A link in the repository must not make another directory of this machine the context.
            let root = into.canonicalize().map_err(ImageError::store(format!("opening {}", into.display())))?;
            let inside = root.join(&directory).canonicalize().ok().filter(|path| path.starts_with(&root));
            inside
                .filter(|path| path.is_dir())
                .ok_or_else(|| ImageError::Build(format!("{remote} has no directory `{directory}`")))
        });
        Ok((commit, found.await.map_err(|e| ImageError::Build(format!("the build ended early: {e}")))??))
    }

    /// The commit that is meant, as the server has it now; `None` where neither a branch, a tag nor a whole commit is named.
    ///
    /// # Errors
    /// As [`Self::check_out`].
    pub async fn resolve(&self, beside: &Path) -> Result<Option<String>, ImageError> {
        let reference = self.reference()?;
        let is_commit = |text: &str| text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if is_commit(reference) {
            return Ok(Some(reference.to_string()));
        }
        let git = Git { directory: beside, login: self.login.as_ref() };
        let peeled = format!("{reference}^{{}}");
        let listed = git.run(&["ls-remote", "--", &self.remote, reference, &peeled]).await?;
        let listed: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once('\t')).collect();
        // In the order in which `git fetch` looks; of an annotated tag its commit.
        let tag = format!("refs/tags/{reference}");
        let names = [reference.to_string(), format!("{tag}^{{}}"), tag, format!("refs/heads/{reference}")];
        let commit = names.iter().find_map(|name| listed.iter().find(|(_, listed)| listed == name)).map(|(commit, _)| *commit);
        Ok(commit.filter(|commit| is_commit(commit)).map(str::to_string))
    }

    fn reference(&self) -> Result<&str, ImageError> {
        let reference = self.reference.as_deref().unwrap_or("HEAD");
        match reference.starts_with('-') {
            true => Err(ImageError::Build(format!("`{reference}` is not a branch, tag or commit"))),
            false => Ok(reference),
        }
    }

    /// Checks the repository out into an empty directory, with its submodules and its history. Gives the commit.
    ///
    /// # Errors
    /// As [`Self::check_out`].
    pub async fn check_out_all(&self, into: &Path) -> Result<String, ImageError> {
        let git = Git { directory: into, login: self.login.as_ref() };
        let reference = self.reference()?;
        git.run(&["init", "--quiet"]).await?;
        git.run(&["remote", "add", "--", "origin", &self.remote]).await?;
        // A commit that is no branch's end is not given out by every server: then everything is fetched.
        match git.run(&["fetch", "--progress", "--depth", "1", "--no-tags", "origin", reference]).await {
            Ok(_) => git.run(&["checkout", "--progress", "--detach", "FETCH_HEAD"]).await?,
            Err(GitFailed::Refused(_)) => {
                git.run(&["fetch", "--progress", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"]).await?;
                let mut found = None;
                for name in [format!("{reference}^{{commit}}"), format!("origin/{reference}^{{commit}}")] {
                    found = found.or(git.run(&["rev-parse", "--verify", "--quiet", &name]).await.ok());
                }
                let found = found
                    .ok_or_else(|| ImageError::Build(format!("{} has no branch, tag or commit `{reference}`", self.remote)))?;
                git.run(&["checkout", "--progress", "--detach", found.trim()]).await?
            }
            Err(failed) => return Err(failed.into()),
        };
        if into.join(".gitmodules").exists() {
            git.run(&["submodule", "update", "--progress", "--init", "--recursive", "--depth", "1"]).await?;
        }
        Ok(git.run(&["rev-parse", "HEAD"]).await?.trim().to_string())
    }
}

/// Why git has not done what it should.
#[derive(Debug, thiserror::Error)]
enum GitFailed {
    /// It has ended with an error.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Broken(String),
}

impl From<GitFailed> for ImageError {
    fn from(failed: GitFailed) -> Self {
        ImageError::Build(failed.to_string())
    }
}

/// A program and all that it has started: a process group, which is killed when it is dropped before its end was waited for.
struct Group {
    leader: Child,
}

impl Drop for Group {
    fn drop(&mut self) {
        // Until it has been waited for, the id is no other's.
        if let Some(pid) = self.leader.id() {
            let _ = killpg(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// git in a directory, with the login of its server.
struct Git<'a> {
    directory: &'a Path,
    login: Option<&'a GitLogin>,
}

impl Git<'_> {
    /// Runs git without asking anybody for a password, and without the repository's hooks.
    async fn run(&self, arguments: &[&str]) -> Result<String, GitFailed> {
        let what = arguments.first().copied().unwrap_or_default();
        let started = Command::new("git")
            .args(["-c", "core.hooksPath=/dev/null", "-c", "protocol.file.allow=never", "-c", "advice.detachedHead=false"])
            // Nothing of it stays behind in the background.
            .args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"])
            .arg("-C")
            .arg(self.directory)
            .args(arguments)
            .env("GIT_TERMINAL_PROMPT", "0")
            .envs(self.login.map(GitLogin::environment).into_iter().flatten())
            .env("GIT_ALLOW_PROTOCOL", "http:https:git:ssh")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let mut group = match started {
            Ok(leader) => Group { leader },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(GitFailed::Broken("a Git repository needs the program `git` on this machine: install it".into()));
            }
            Err(e) => return Err(GitFailed::Broken(format!("running git: {e}"))),
        };
        let broken = |e: std::io::Error| GitFailed::Broken(format!("running git {what}: {e}"));
        let (Some(stdout), Some(stderr)) = (group.leader.stdout.take(), group.leader.stderr.take()) else {
            return Err(GitFailed::Broken(format!("running git {what}: it has no output")));
        };
        let (output, messages) = read_both(stdout, stderr).await.map_err(|e| match e.kind() {
            std::io::ErrorKind::TimedOut => GitFailed::Broken(format!(
                "git {what}: nothing has come for {} s; look whether the server answers, and build again",
                SILENCE.as_secs()
            )),
            _ => broken(e),
        })?;
        let status = group.leader.wait().await.map_err(broken)?;
        if status.success() {
            return Ok(String::from_utf8_lossy(&output).into_owned());
        }
        let text = String::from_utf8_lossy(&messages);
        let lines: Vec<&str> = text.split(['\r', '\n']).map(str::trim).filter(|line| !line.is_empty()).collect();
        let grave: Vec<&str> = lines.iter().filter(|l| l.starts_with("fatal:") || l.starts_with("error:")).copied().collect();
        let shown = if grave.is_empty() { lines.last().map_or(&[][..], std::slice::from_ref) } else { &grave };
        Err(GitFailed::Refused(format!("git {what}: {}", shown.join("; "))))
    }
}

/// Reads two streams to their ends, [`MAX_OUTPUT`] of each. `TimedOut` when neither has brought anything for [`SILENCE`]: with its
/// progress asked for, git says something whenever anything moves.
async fn read_both(mut first: impl AsyncRead + Unpin, mut second: impl AsyncRead + Unpin) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut one, mut two) = (vec![0; 4096], vec![0; 4096]);
    let (mut kept, mut messages) = (Vec::new(), Vec::new());
    let (mut first_open, mut second_open) = (true, true);
    let keep = |into: &mut Vec<u8>, bytes: &[u8]| into.extend_from_slice(&bytes[..bytes.len().min(MAX_OUTPUT - into.len())]);
    while first_open || second_open {
        let step = async {
            tokio::select! {
                n = first.read(&mut one), if first_open => n.map(|n| (true, n)),
                n = second.read(&mut two), if second_open => n.map(|n| (false, n)),
            }
        };
        match timeout(SILENCE, step).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?? {
            (true, 0) => first_open = false,
            (false, 0) => second_open = false,
            (true, n) => keep(&mut kept, &one[..n]),
            (false, n) => keep(&mut messages, &two[..n]),
        }
    }
    Ok((kept, messages))
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
        assert_eq!(parse("https://me:p%40ss@h:8/r.git#v1"), Some(("https://h:8/r.git".into(), some("v1"), None)), "no login");
        let login = GitRef::parse("https://me:p%40ss@h:8/r.git").and_then(|git| git.login).expect("login");
        assert_eq!((&*login.server, &*login.user, &*login.password), ("https://h:8", "me", "p@ss"));
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
