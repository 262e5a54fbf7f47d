//! Where a build comes from: its Git repository, its Dockerfile and what the context leaves out.

use crate::image::ImageError;
use crate::image::build::dockerfile::{self, MalformedDockerfile};
use crate::image::build::files::Tree;
use crate::image::build::git::GitRef;
use crate::image::build::ignore::{self, Patterns};
use crate::image::build::{BuildRequest, DockerfileLine, Host};
use crate::image::store::LayerDraft;
use std::path::Path;
use std::sync::Arc;

/// Checks a Git repository out, where the request names one, and makes it the context. Gives its URL and the commit as well.
pub(super) async fn check_out(
    host: &Arc<dyn Host>,
    request: &mut BuildRequest,
) -> Result<Option<(LayerDraft, String, String)>, ImageError> {
    let Some(text) = request.git.take() else { return Ok(None) };
    let git = GitRef::parse(&text).ok_or_else(|| {
        ImageError::Build(format!("the context `{text}` is no Git repository: write https://HOST/PATH.git#REF:DIRECTORY"))
    })?;
    let draft = host.store().draft()?;
    let (commit, directory) = git.check_out(&draft.diff(), false).await?;
    request.context = directory;
    Ok(Some((draft, text, commit)))
}

/// The Dockerfile's text, its name for messages, and what the context leaves out. A symlink is followed within the context: who
/// made the context decides where it leads. Only the builder himself, who has a directory of this machine for his context, can
/// name a Dockerfile beside it.
pub(super) fn read_dockerfile(
    request: &BuildRequest,
    context: &Tree,
    foreign: bool,
) -> Result<(String, String, Patterns), ImageError> {
    let patterns = |tree: &Tree, path: &Path| match tree.read_text(path, ignore::MAX_FILE) {
        Ok(text) => Ok(Some(Patterns::parse(&text))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ImageError::Build(format!("{} cannot be read: {e}", path.display()))),
    };
    if let Some(given) = &request.given {
        let ignored = match &given.ignored {
            Some(text) => Patterns::parse(text),
            None => patterns(context, Path::new(".dockerignore"))?.unwrap_or_default(),
        };
        return Ok((given.text.clone(), given.shown.clone(), ignored));
    }
    let general = || patterns(context, Path::new(".dockerignore")).map(Option::unwrap_or_default);
    if let Some(text) = &request.inline {
        return Ok((text.clone(), "dockerfile_inline".into(), general()?));
    }
    let given = request.dockerfile.as_deref().unwrap_or(Path::new("Dockerfile"));
    let inside = if foreign { Some(given) } else { beneath(&request.context, given) };
    let host;
    let (tree, path) = match inside {
        Some(path) => (context, path.to_path_buf()),
        None => {
            host = Tree::directory(Path::new("/")).map_err(ImageError::store("opening /".into()))?;
            (&host, request.context.join(given))
        }
    };
    let text = tree.read_text(&path, dockerfile::MAX_FILE).map_err(|e| {
        let shown = if foreign { path.clone() } else { request.context.join(&path) };
        let message = format!("the Dockerfile {} cannot be read: {e}; say where it is with `dockerfile:` or -f", shown.display());
        ImageError::Build(message)
    })?;
    let mut own = path.clone().into_os_string();
    own.push(".dockerignore");
    let ignored = match patterns(tree, Path::new(&own))? {
        Some(own) => own,
        None => general()?,
    };
    Ok((text, path.display().to_string(), ignored))
}

/// The path from the context of a Dockerfile that lies in it; `None` for one that is named by `..` or as another's.
fn beneath<'a>(context: &Path, dockerfile: &'a Path) -> Option<&'a Path> {
    let inside = if dockerfile.is_absolute() { dockerfile.strip_prefix(context).ok()? } else { dockerfile };
    inside.components().all(|part| part != std::path::Component::ParentDir).then_some(inside)
}

/// Characters of a line that a message shows.
const SHOWN_COLUMNS: usize = 400;

/// The Dockerfile, for messages.
pub(super) struct DockerfileSource {
    pub(super) text: String,
    pub(super) shown: String,
}

impl DockerfileSource {
    pub(super) fn at(&self, malformed: MalformedDockerfile) -> ImageError {
        let MalformedDockerfile { line, message: what, help } = malformed;
        let mut text = format!("{}:{line}: {what}", self.shown);
        if let Some(content) = self.text.lines().nth(line.saturating_sub(1)) {
            let gutter = " ".repeat(line.to_string().len());
            let content: String = content.chars().take(SHOWN_COLUMNS).collect();
            text.push_str(&format!("\n{gutter} |\n{line} | {content}\n{gutter} |"));
        }
        if let Some(help) = &help {
            text.push_str(&format!("\n  help: {help}"));
        }
        let place = DockerfileLine { shown: self.shown.clone(), source: self.text.clone(), line, what, help };
        ImageError::Dockerfile { text, place: Box::new(place) }
    }
}
