//! The export for Kubernetes: every attribute, the examples, hostile names and values.

mod attributes;
mod cases;
mod refused;

use crate::support::Files;
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use wharf::compose::diagnostic::render;
use wharf::compose::{self, LoadOptions};
use wharf::kubernetes::{self, Content, Exported, Found, Object};

/// An export, its objects by kind and name, its findings as they are shown.
pub struct Outcome {
    pub objects: Vec<Object>,
    pub by_name: HashMap<String, Json>,
    pub findings: String,
    pub is_refused: bool,
}

impl Outcome {
    /// What is at a pointer of an object; `None` where there is no such thing.
    pub fn at(&self, object: &str, pointer: &str) -> Option<&Json> {
        self.by_name.get(object)?.pointer(pointer)
    }
}

/// Exports the project of a Compose file and of other files beside it.
pub fn export(files: &[(&str, &str)], version: &str) -> Outcome {
    let files = Files::new(files);
    std::fs::write(files.path().join("binary"), [0, 1, 255]).expect("a file");
    export_loaded(&files.options(), version)
}

pub fn export_loaded(options: &LoadOptions, version: &str) -> Outcome {
    let mut options = options.clone();
    options.skip.one_machine = true;
    let loaded = compose::load(&options).unwrap_or_else(|error| panic!("{error}"));
    let needed = kubernetes::needed(&loaded.project);
    let read = needed.into_keys().map(|path| (path.clone(), found(Path::new(&path)))).collect::<BTreeMap<_, _>>();
    let wanted = kubernetes::Options { namespace: None, version: version.parse().expect("a version"), files: read };
    let exported = kubernetes::export(&loaded, &wanted);
    let is_refused = exported.is_refused();
    let Exported { objects, findings } = exported;
    let shown: Vec<String> = loaded.warnings.iter().chain(&findings).map(|finding| render(finding, &loaded.sources)).collect();
    let by_name = objects.iter().map(|object| (format!("{}/{}", object.kind(), object.name()), object.to_json())).collect();
    Outcome { objects, by_name, findings: shown.join("\n"), is_refused }
}

fn found(path: &Path) -> Found {
    let content = |path: &Path| std::fs::read(path).map(|bytes| Content { bytes, is_executable: false });
    let Ok(entries) = path.read_dir() else { return content(path).map_or(Found::Absent, Found::File) };
    let files = entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_string_lossy().into_owned(), content(&entry.path()).ok()?)));
    Found::Directory(files.collect())
}
