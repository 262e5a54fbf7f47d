//! The files that services extend.

use super::{Diagnostics, Loader, VariableValues};
use crate::compose::diagnostic::Diagnostic;
use crate::compose::node::Node;
use crate::compose::{extends, merge, schema};
use std::path::{Path, PathBuf};

/// Reads the files that services extend.
pub(super) struct FileReader<'l, 'a, 'v> {
    pub(super) loader: &'l mut Loader<'a>,
    pub(super) variables: &'v VariableValues,
}

impl extends::ReadFile for FileReader<'_, '_, '_> {
    fn locate(&mut self, text: &str, directory: &Path, from: &Path, asked_at: &Node) -> Result<PathBuf, Diagnostics> {
        let name = asked_at.get("file").cloned().unwrap_or_else(|| Node::string(text, &asked_at.at));
        self.loader.locate(&name, directory, from)
    }

    fn read(&mut self, path: &Path, asked_at: &Node) -> Result<Node, Diagnostics> {
        if !path.exists() {
            let message = format!("the extended file {} does not exist", path.display());
            let at = asked_at.get("file").map_or(&asked_at.at, |file| &file.at);
            return Err(vec![Diagnostic::error(at, message).help("the path is relative to the project's directory")]);
        }
        let mut merged: Option<Node> = None;
        for mut document in self.loader.parse(path)?.documents {
            self.loader.document(&mut document, self.variables)?;
            match &mut merged {
                None => merged = Some(document),
                Some(base) => merge::merge(base, document, &schema::PROJECT),
            }
        }
        merged.ok_or_else(|| vec![Diagnostic::error(&asked_at.at, format!("the extended file {} is empty", path.display()))])
    }
}
