//! COPY and ADD: their sources, and the layer that they make.

use super::run::flag;
use super::*;
use crate::image::build::dockerfile::Heredoc;
use crate::image::digest::{Algorithm, Hasher};
use crate::printable::without_login;
use std::time::Duration;

/// How long ADD waits for a server to answer, and for one that has fallen silent.
const CONNECTING: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(120);

/// The files that one instruction copies from one source.
struct CopySource {
    tree: Arc<Tree>,
    /// The tree's name in messages.
    within: String,
    copy: Copy,
    ignored: Patterns,
    /// Stands for the content in the step's key, where there is something that does.
    identity: Option<String>,
}

/// Heredocs and what comes from URLs: files for the time of the step, which go with its draft.
#[derive(Default)]
struct FetchedSources {
    draft: Option<LayerDraft>,
    names: Vec<String>,
}

/// Whether a switch is there, and not `false`.
fn is_set(step: &SolveStep<'_>, name: &str) -> bool {
    flag(step, name) == Some("true")
}

fn keeping() -> impl Fn(std::io::Error) -> ImageError {
    ImageError::store("keeping what was fetched".into())
}

impl Solver {
    pub(super) async fn copy(self: &Arc<Self>, state: &mut StageState, step: &SolveStep<'_>) -> Result<bool, ImageError> {
        let (mut wanted, arguments) = self.requested(state, step).await?;
        let mut fetched = FetchedSources::default();
        let mut sources: Vec<CopySource> = Vec::new();
        let texts = self.heredocs(state, step)?;
        let adds = step.instruction.keyword == "ADD";
        for source in &arguments {
            if let Some(name) = source.strip_prefix("<<").filter(|_| !texts.is_empty()) {
                let name = name.trim_start_matches('-').trim_matches(['"', '\'']);
                if let Some((_, content)) = texts.iter().find(|(known, _)| known == name) {
                    let path = self.place(step, &mut fetched, name)?;
                    std::fs::write(&path, content).and_then(|()| self.dated(&path, 0o644)).map_err(keeping())?;
                }
            } else if let Some(git) = GitRef::parse(source).filter(|_| adds) {
                sources.push(self.from_git(step, &wanted, source, git).await?);
            } else if adds && (source.starts_with("http://") || source.starts_with("https://")) {
                self.fetch(step, &mut fetched, source).await?;
            } else {
                wanted.sources.push(source.clone());
            }
        }
        if !wanted.sources.is_empty() {
            let from = flag(step, "from").map(|from| self.expand(step, state, from)).transpose()?;
            let (tree, ignored) = self.tree(from.as_deref(), step).await?;
            let within = self.name_of_tree(from.as_deref());
            sources.push(CopySource { tree, within, copy: wanted.clone(), ignored, identity: None });
        }
        if let Some(draft) = &fetched.draft {
            let tree = Tree::directory(&draft.diff()).map_err(keeping())?;
            // What comes from a URL is taken apart only where that is asked for, unlike a file of the context.
            let extract = adds && is_set(step, "unpack");
            let copy = Copy { sources: std::mem::take(&mut fetched.names), extract, ..wanted };
            let within = "what was fetched".into();
            sources.push(CopySource { tree: Arc::new(tree), within, copy, ignored: Patterns::default(), identity: None });
        }
        let done = self.copy_from(state, step, sources).await;
        drop(fetched);
        done
    }

    /// The instruction's options, and its sources.
    async fn requested(self: &Arc<Self>, state: &StageState, step: &SolveStep<'_>) -> Result<(Copy, Vec<String>), ImageError> {
        let instruction = step.instruction;
        let arguments = json_form(&instruction.rest).unwrap_or_else(|| words(&instruction.rest, step.escape));
        let mut arguments = arguments.iter().map(|word| self.expand(step, state, word)).collect::<Result<Vec<_>, _>>()?;
        let destination = arguments.pop().unwrap_or_default();
        if arguments.is_empty() {
            return Err(self.wrong(step, format!("{} needs a source and a destination", instruction.keyword)));
        }
        let is_directory = destination.ends_with('/') || destination == "." || destination.ends_with("/.");
        if arguments.len() > 1 && !is_directory {
            return Err(self.source.at(MalformedDockerfile::new(
                instruction.line,
                "with several sources, the destination is a directory",
            )
            .help(format!("write it with a `/` at its end: `{destination}/`"))));
        }
        let mut path = absolute(&destination, &state.config.config.directory());
        if is_directory && !path.ends_with('/') {
            path.push('/');
        }
        let mode = flag(step, "chmod").map(|mode| self.expand(step, state, mode)).transpose()?;
        let mut wanted = Copy {
            destination: path,
            mode: mode.map(|mode| ModeChange::parse(&mode)).transpose().map_err(|why| self.wrong(step, why))?,
            exclude: instruction.flags.iter().filter(|(name, _)| name == "exclude").map(|(_, value)| value.clone()).collect(),
            keep_owner: flag(step, "from").is_some(),
            parents: is_set(step, "parents"),
            extract: instruction.keyword == "ADD" && flag(step, "unpack") != Some("false"),
            ..Copy::default()
        };
        if let Some(owner) = flag(step, "chown") {
            let owner = self.expand(step, state, owner)?;
            wanted.owner = Some(self.owner(state, step, &owner).await?);
        }
        Ok((wanted, arguments))
    }

    /// The heredocs of the instruction: their names and contents.
    fn heredocs(&self, state: &StageState, step: &SolveStep<'_>) -> Result<Vec<(String, Vec<u8>)>, ImageError> {
        let content = |heredoc: &Heredoc| match heredoc.expand {
            true => {
                expand::variables(&heredoc.content, step.escape, &|name| state.lookup(name)).map_err(|e| self.wrong(step, e.0))
            }
            false => Ok(heredoc.content.clone()),
        };
        step.instruction.heredocs.iter().map(|heredoc| Ok((heredoc.name.clone(), content(heredoc)?.into_bytes()))).collect()
    }

    /// Where a file of the step's own is written.
    fn place(&self, step: &SolveStep<'_>, fetched: &mut FetchedSources, name: &str) -> Result<PathBuf, ImageError> {
        if matches!(name, "." | "..") || name.contains('/') {
            return Err(self.wrong(step, format!("`{name}` cannot be a file's name")));
        }
        let draft = match fetched.draft.take() {
            Some(draft) => draft,
            None => self.host.store().draft()?,
        };
        fetched.names.push(name.to_string());
        Ok(fetched.draft.insert(draft).diff().join(name))
    }

    /// A Git repository that ADD names.
    async fn from_git(
        self: &Arc<Self>,
        step: &SolveStep<'_>,
        wanted: &Copy,
        url: &str,
        git: GitRef,
    ) -> Result<CopySource, ImageError> {
        let keep = is_set(step, "keep-git-dir");
        let directory = git.directory.clone().unwrap_or_default();
        let (tree, commit) = self.repository(url, git, keep).await.map_err(|e| self.wrong(step, e.to_string()))?;
        let copy = Copy { sources: vec!["/.".into()], extract: false, ..wanted.clone() };
        // The commit stands for the content: git's own files are never twice the same.
        let identity = Some(format!("git {commit} {directory} {keep}"));
        let within = "the repository".into();
        Ok(CopySource { tree, within, copy, ignored: Patterns::default(), identity })
    }

    /// Downloads a file that ADD names.
    async fn fetch(&self, step: &SolveStep<'_>, fetched: &mut FetchedSources, url: &str) -> Result<(), ImageError> {
        let name = url.split(['?', '#']).next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        let path = self.place(step, fetched, if name.is_empty() { "index.html" } else { name })?;
        let expected = flag(step, "checksum").map(str::parse::<Digest>).transpose();
        let expected = expected.map_err(|e| self.wrong(step, format!("`--checksum`: {e}")))?;
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let got = fetch(url, &path, algorithm).await.map_err(|why| self.wrong(step, why))?;
        if let Some(expected) = expected.filter(|expected| *expected != got) {
            return Err(self.wrong(step, format!("{} has the digest {got}, and not {expected}", without_login(url))));
        }
        self.facts.used_file(url, &got);
        self.dated(&path, 0o600).map_err(keeping())
    }

    async fn copy_from(
        self: &Arc<Self>,
        state: &mut StageState,
        step: &SolveStep<'_>,
        sources: Vec<CopySource>,
    ) -> Result<bool, ImageError> {
        let line = step.instruction.line;
        let this = self.clone();
        let selected = blocking(move || {
            let mut all = Vec::new();
            for CopySource { tree, within, copy, ignored, identity } in sources {
                let items = copy::select(&copy, &tree, &within, &ignored)?;
                let (digest, versions) = match identity {
                    Some(identity) => (identity, None),
                    None => {
                        let digest = copy::digest(&copy, &items, &tree, this.host.contents())?;
                        (digest.content, Some(digest.versions))
                    }
                };
                all.push((tree, copy, items, digest, versions));
            }
            Ok(all)
        })
        .await
        .map_err(|e| match e {
            ImageError::Build(message) => self.source.at(MalformedDockerfile::new(line, message)),
            other => other,
        })?;
        let mut parts = vec![step.instruction.keyword.clone()];
        for (_, copy, items, digest, _) in &selected {
            parts.push(digest.clone());
            parts.push(format!(
                "{} {:?} {} {:?} {} {} {}",
                copy.destination,
                copy.owner,
                copy.keep_owner,
                copy.mode,
                copy.parents,
                copy.extract,
                items.count()
            ));
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let key = cache::key(&state.key, &parts);
        let (key, made) = self
            .make(state, &key, move |root, _| {
                let mut is_as_digested = true;
                for (tree, copy, items, _, versions) in &selected {
                    let copied = copy::apply(copy, items, tree, root.as_fd())?;
                    is_as_digested &= versions.as_ref().is_none_or(|versions| copied.are(versions));
                }
                Ok(is_as_digested)
            })
            .await
            .map_err(|e| match e {
                ImageError::Build(message) => self.source.at(MalformedDockerfile::new(line, message)),
                other => other,
            })?;
        self.finish(state, key, made, &step.instruction.text)
    }

    /// Gives a file that was made for a step its mode, and a time that is the same each time.
    fn dated(&self, path: &Path, mode: u32) -> std::io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let file = std::fs::File::open(path)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        let time = nix::sys::time::TimeSpec::new(self.request.epoch.unwrap_or(0), 0);
        Ok(nix::sys::stat::futimens(&file, &time, &time)?)
    }

    /// `--chown=user[:group]`, names as the image's own files have them.
    pub(super) async fn owner(&self, state: &StageState, step: &SolveStep<'_>, text: &str) -> Result<(u32, u32), ImageError> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        if let (Ok(uid), Ok(gid)) = (user.parse(), group.map_or_else(|| user.parse(), str::parse)) {
            return Ok((uid, gid));
        }
        let (layers, store) = (self.layer_paths(&state.layers), self.host.store());
        let text = text.to_string();
        let found = blocking(move || {
            let tree = store.tree(&layers).map_err(ImageError::store("opening the layers".into()))?;
            let read = |path: &str| tree.read_text(Path::new(path), crate::runtime::user::MAX_FILE).unwrap_or_default();
            Ok(crate::runtime::user::resolve_in(&read("etc/passwd"), &read("etc/group"), &text))
        })
        .await?;
        found.map_err(|why| self.wrong(step, why))
    }
}

/// Takes a file from a URL, piece by piece, and gives its digest.
async fn fetch(url: &str, path: &Path, algorithm: Algorithm) -> Result<Digest, String> {
    use tokio::io::AsyncWriteExt;
    let shown = without_login(url);
    let failed = |e: reqwest::Error| format!("fetching {shown}: {e}");
    let written = |e: std::io::Error| format!("keeping {shown}: {e}");
    let client = reqwest::Client::builder().connect_timeout(CONNECTING).read_timeout(SILENCE).build().map_err(failed)?;
    let mut response = client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let mut file = tokio::fs::File::create(path).await.map_err(written)?;
    let mut hasher = Hasher::new(algorithm);
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        hasher.update(&piece);
        file.write_all(&piece).await.map_err(written)?;
    }
    file.flush().await.map_err(written)?;
    Ok(hasher.finish())
}
