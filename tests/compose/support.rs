//! A directory of files, and the loader on it.

use std::path::Path;
use tempfile::TempDir;
use wharf::compose::diagnostic::render;
use wharf::compose::render::{RenderFormat, render as print};
use wharf::compose::{self, LoadOptions, Loaded};

/// Files of a project, each a path and a text. The first is the Compose file that is loaded.
pub struct Files {
    directory: TempDir,
    first: String,
}

impl Files {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            std::fs::write(path, text).expect("a file");
        }
        Files { directory, first: files[0].0.to_string() }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Options that load the first file, with nothing from this process' environment.
    pub fn options(&self) -> LoadOptions {
        LoadOptions {
            files: vec![self.first.clone()],
            project_name: Some("test".into()),
            directory: self.path().to_path_buf(),
            environment: [("SET".to_string(), "value".to_string())].into(),
            ..LoadOptions::default()
        }
    }

    /// The error messages of a load that must fail.
    pub fn errors(&self, options: &LoadOptions) -> String {
        match compose::load(options) {
            Ok(loaded) => format!("LOADED: {}", self.warnings(&loaded)),
            Err(error) => self.scrubbed(&error.to_string()),
        }
    }

    /// The warnings of a load that must succeed.
    pub fn warnings(&self, loaded: &Loaded) -> String {
        let each: Vec<String> = loaded.warnings.iter().map(|warning| render(warning, &loaded.sources)).collect();
        self.scrubbed(&each.join("\n"))
    }

    /// The model that is loaded, as `config --format json` prints it.
    pub fn model(&self, options: &LoadOptions) -> serde_json::Value {
        let loaded = compose::load(options).unwrap_or_else(|error| panic!("{error}"));
        let text = print(&loaded.root, RenderFormat::Json, options.skip.interpolation).to_string();
        serde_json::from_str(&self.scrubbed(&text)).expect("JSON")
    }

    /// The same as YAML.
    pub fn yaml(&self, options: &LoadOptions) -> String {
        let loaded = compose::load(options).unwrap_or_else(|error| panic!("{error}"));
        wharf::compose::render::yaml::text(&print(&loaded.root, RenderFormat::Yaml, false))
    }

    fn scrubbed(&self, text: &str) -> String {
        text.replace(&*self.path().to_string_lossy(), "DIR")
    }
}
