//! Files of a load that are fetched, and what they may read.

use super::{Diagnostics, Loader};
use crate::compose::diagnostic::Diagnostic;
use crate::compose::node::Node;
use crate::compose::{files, paths};
use crate::printable::without_login;
use std::path::{Path, PathBuf};

impl Loader<'_> {
    /// Puts the files that were fetched in the place of their names. Relative paths are relative to the first of them, unless
    /// `--project-directory` names another directory.
    pub(super) fn fetch(&mut self, located: &mut files::Located) -> Result<(), Diagnostics> {
        let mut first = None;
        for file in &mut located.files {
            let name = file.to_string_lossy().into_owned();
            let fetched = self.remote.get(self.options.remote.as_deref(), &name);
            if let Some(fetched) =
                fetched.map_err(|why| vec![Diagnostic::global(format!("fetching {}: {why}", without_login(&name)))])?
            {
                self.check_stays(None, &fetched.file)?;
                first = first.or_else(|| fetched.file.parent().map(Path::to_path_buf));
                *file = fetched.file;
            }
        }
        if let (Some(directory), None) = (first, files::project_directory(self.options)) {
            located.directory = directory;
        }
        Ok(())
    }

    /// Refuses a file that was fetched and leads out of what came with it.
    pub(super) fn check_stays(&self, from: Option<&Path>, to: &Path) -> Result<(), Diagnostics> {
        let checked = from.map_or_else(|| self.remote.check_links(to), |from| self.remote.check(from, to));
        checked.map_err(|why| vec![Diagnostic::global(why)])
    }

    /// Where a file is that `include` or `extends` names in another one.
    pub(super) fn locate(&mut self, name: &Node, directory: &Path, from: &Path) -> Result<PathBuf, Diagnostics> {
        let text = name.as_str().unwrap_or_default();
        let wrong = |why: String| Diagnostic::error(&name.at, why);
        let fetched = self.remote.get(self.options.remote.as_deref(), text);
        let path = match fetched.map_err(|why| vec![wrong(format!("fetching {}: {why}", without_login(text)))])? {
            Some(fetched) => fetched.file,
            None if self.options.remote.is_none() && is_elsewhere(text) => {
                return Err(vec![wrong(format!("`{text}` is not on this machine")).help("fetch it first")]);
            }
            None => paths::absolute(text, directory),
        };
        self.remote.check(from, &path).map_err(|why| {
            vec![wrong(why).help("a project from elsewhere reads its own files, and others from elsewhere, alone")]
        })?;
        Ok(path)
    }
}

/// Whether a name looks like one of a file on another machine.
fn is_elsewhere(path: &str) -> bool {
    path.contains("://") || path.starts_with("git@") || path.starts_with("github.com/")
}
