//! Compose files to a typed project. Pure but for reading files: no clock, no socket, no process.
//!
//! The stages, in the order in which a file goes through them:
//! [`yaml`] → [`interpolate`] → [`schema`] (types) → [`canonical`] (long forms) → [`extends`] → [`merge`] (several files) →
//! [`normalise`] (names, defaults, references) → [`model`].

pub mod canonical;
pub mod diagnostic;
pub mod dotenv;
pub mod extends;
pub mod files;
pub mod interpolate;
pub mod merge;
pub mod model;
pub mod mounts;
pub mod node;
pub mod normalise;
pub mod paths;
pub mod ports;
pub mod profiles;
pub mod schema;
pub mod units;
pub mod yaml;

use diagnostic::{Diagnostic, LoadError, Severity, Sources};
use indexmap::IndexMap;
use interpolate::Unset;
use model::Project;
use node::{Node, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a command line says about the project to load.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `-f`, in order; `-` is standard input. Empty: COMPOSE_FILE, else found upwards from `directory`.
    pub files: Vec<String>,
    /// `-p`.
    pub project_name: Option<String>,
    /// `--project-directory`.
    pub project_directory: Option<PathBuf>,
    /// `--env-file`, in order. Empty: `.env` in the project directory, where there is one.
    pub env_files: Vec<PathBuf>,
    /// `--profile`; `*` is every profile.
    pub profiles: Vec<String>,
    /// The process environment.
    pub environment: HashMap<String, String>,
    /// The working directory.
    pub directory: PathBuf,
    /// `--no-interpolate`.
    pub raw: bool,
}

/// A loaded project.
#[derive(Debug)]
pub struct Loaded {
    pub project: Project,
    /// The canonical tree with every attribute, the model's and the others: what `wharf config` prints.
    pub canonical: serde_json::Value,
    pub warnings: Vec<Diagnostic>,
    pub sources: Sources,
    pub files: Vec<PathBuf>,
    pub directory: PathBuf,
    /// Services that the selected profiles leave out.
    pub inactive: IndexMap<String, model::Service>,
}

/// Loads a project.
///
/// # Errors
/// Every error of the files at once, rendered with file, line, column and the line itself.
pub fn load(options: &Options) -> Result<Loaded, LoadError> {
    let mut loader = Loader {
        named: false,
        options,
        sources: Sources::new(),
        variables: HashMap::new(),
        unset: Unset::new(),
        warnings: Vec::new(),
    };
    match loader.load() {
        Ok(mut loaded) => {
            loaded.sources = loader.sources;
            Ok(loaded)
        }
        Err(mut diagnostics) => {
            if !diagnostics.iter().any(|d| d.severity == Severity::Error) {
                diagnostics.push(Diagnostic::global("the project could not be loaded"));
            }
            Err(LoadError { diagnostics, sources: loader.sources })
        }
    }
}

/// Set for interpolation: the project's name, as far as it is known.
const PROJECT_NAME: &str = "COMPOSE_PROJECT_NAME";

struct Loader<'a> {
    /// `-p` or the environment names the project, whatever the files say.
    named: bool,
    options: &'a Options,
    sources: Sources,
    variables: HashMap<String, String>,
    unset: Unset,
    warnings: Vec<Diagnostic>,
}

type Found = Vec<Diagnostic>;

impl Loader<'_> {
    fn load(&mut self) -> Result<Loaded, Found> {
        let options = self.options;
        let located = files::locate(options).map_err(|d| vec![d])?;
        let directory = located.directory.clone();
        self.variables = self.read_env_files(&directory)?;
        let explicit = self.options.project_name.clone().or_else(|| self.variables.get(PROJECT_NAME).cloned());
        let named = explicit.filter(|name| !name.is_empty());
        self.named = named.is_some();
        let directory_name = directory.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        self.variables.insert(PROJECT_NAME.into(), named.clone().unwrap_or_else(|| files::sanitised(&directory_name)));
        let mut merged: Option<Node> = None;
        let mut found = Found::new();
        for path in &located.files {
            match self.read_file(path) {
                Ok(documents) => {
                    for mut document in documents {
                        extends::resolve(&mut document, path, &directory, self, &mut found);
                        match &mut merged {
                            None => {
                                merge::drop_reset(&mut document);
                                merged = Some(document);
                            }
                            Some(base) => merge::merge(base, document),
                        }
                    }
                }
                Err(more) => found.extend(more),
            }
        }
        let Some(mut root) = merged else {
            if found.is_empty() {
                let names: Vec<_> = located.files.iter().map(|f| f.display().to_string()).collect();
                found.push(
                    Diagnostic::global(format!("{} is empty", names.join(", "))).help("a Compose file has at least `services:`"),
                );
            }
            return Err(found);
        };
        let name = self.project_name(named, &directory).map_err(|d| {
            found.push(d);
            std::mem::take(&mut found)
        })?;
        self.normalise(&mut root, &name, &directory, &mut found);
        self.warnings.extend(found.extract_if(.., |d| d.severity == Severity::Warning));
        if !found.is_empty() {
            return Err(found);
        }
        for name in std::mem::take(&mut self.unset) {
            self.warnings.push(Diagnostic::global_warning(format!(
                "the variable `{name}` is not set; an empty string is used (`${{{name}:-}}` says so in the file)"
            )));
        }
        let mut profiles = self.options.profiles.clone();
        if profiles.is_empty() {
            let listed = self.variables.get("COMPOSE_PROFILES").map(String::as_str).unwrap_or_default();
            profiles = listed.split(',').map(str::trim).filter(|p| !p.is_empty()).map(str::to_string).collect();
        }
        let mut project: Project = serde_json::from_value(root.to_json())
            .map_err(|error| vec![Diagnostic::global(format!("the project does not fit wharf's model: {error}"))])?;
        let inactive = profiles::select(&mut project, &profiles);
        if let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) {
            services.retain(|name, _| !inactive.contains_key(name));
        }
        normalise::drop_unused(&mut root);
        Ok(Loaded {
            project,
            canonical: root.to_json(),
            warnings: std::mem::take(&mut self.warnings),
            sources: Sources::new(),
            files: located.files,
            directory,
            inactive,
        })
    }

    fn normalise(&mut self, root: &mut Node, name: &str, directory: &Path, found: &mut Found) {
        let variables = &self.variables;
        let environment = |key: &str| variables.get(key).cloned();
        let mut read = |path: &Path| match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            result => Some(result),
        };
        let mut context = normalise::Context { project: name, directory, environment: &environment, read: &mut read };
        normalise::normalise(root, &mut context, found);
    }

    /// The environment over the env files: what interpolation sees.
    fn read_env_files(&self, directory: &Path) -> Result<HashMap<String, String>, Found> {
        let mut variables = HashMap::new();
        let explicit = !self.options.env_files.is_empty();
        let paths = if explicit { self.options.env_files.clone() } else { vec![directory.join(".env")] };
        for path in paths {
            let path = self.options.directory.join(path);
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if !explicit && error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(vec![Diagnostic::global(format!("the env file {} cannot be read: {error}", path.display()))]);
                }
            };
            let outer = |name: &str| self.options.environment.get(name).or_else(|| variables.get(name)).cloned();
            let values = dotenv::parse(&text, &outer).map_err(|malformed| {
                vec![
                    Diagnostic::global(format!("{}:{}: {}", path.display(), malformed.line, malformed.why))
                        .help("an env file has a line NAME=VALUE for each variable"),
                ]
            })?;
            variables.extend(values);
        }
        variables.extend(self.options.environment.clone());
        Ok(variables)
    }

    /// `-p`, COMPOSE_PROJECT_NAME, the file's `name`, the directory: the first there is. Only the first two must be right as they
    /// are; the others are made so, as Docker Compose does.
    fn project_name(&self, named: Option<String>, directory: &Path) -> Result<String, Diagnostic> {
        if let Some(name) = named {
            if files::is_project_name(&name) {
                return Ok(name);
            }
            let help = format!(
                "a name has lower-case letters, digits, `-` and `_`, and begins with a letter or a digit: `{}`",
                files::sanitised(&name)
            );
            return Err(Diagnostic::global(format!("`{name}` cannot be a project's name")).help(help));
        }
        let name = self.variables.get(PROJECT_NAME).cloned().unwrap_or_default();
        if name.is_empty() {
            return Err(Diagnostic::global(format!("the directory {} gives no project name", directory.display()))
                .help("name the project: `-p NAME`, or `name: NAME` in the file"));
        }
        Ok(name)
    }

    /// The name that a file gives the project is known to the file's own variables.
    fn take_name(&mut self, document: &Node) {
        let Some(name) = document.get("name").and_then(Node::as_str).filter(|_| !self.named) else { return };
        let variables = &self.variables;
        let expanded = interpolate::expand(name, &|n: &str| variables.get(n).cloned(), &mut Unset::new());
        let name = files::sanitised(&expanded.unwrap_or_default());
        if !name.is_empty() {
            self.variables.insert(PROJECT_NAME.into(), name);
        }
    }

    /// One file through the stages that look at a file alone.
    fn read_file(&mut self, path: &Path) -> Result<Vec<Node>, Found> {
        let shown = path.strip_prefix(&self.options.directory).unwrap_or(path).display().to_string();
        let (shown, text) = if path == Path::new("-") {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut std::io::stdin(), &mut text)
                .map_err(|e| vec![Diagnostic::global(format!("the Compose file on standard input cannot be read: {e}"))])?;
            ("(standard input)".to_string(), text)
        } else {
            let text = std::fs::read_to_string(path).map_err(|e| {
                let help = if e.kind() == std::io::ErrorKind::NotFound {
                    "check the path given with -f".to_string()
                } else {
                    "check that the file is readable and is text in UTF-8".to_string()
                };
                vec![Diagnostic::global(format!("the Compose file {shown} cannot be read: {e}")).help(help)]
            })?;
            (shown, text)
        };
        let file: Arc<str> = shown.into();
        self.sources.insert(file.clone(), text.as_str().into());
        let mut found = Found::new();
        let mut documents = yaml::parse(&file, &text).map_err(|d| vec![d])?;
        documents.retain(|document| !document.is_null());
        for document in &mut documents {
            self.take_name(document);
            if !self.options.raw {
                let variables = &self.variables;
                interpolate::interpolate(document, &|name: &str| variables.get(name).cloned(), &mut self.unset, &mut found);
            }
            if let Some(version) = document.as_map().and_then(|m| m.get("version")) {
                self.warnings.push(
                    Diagnostic::warning(&version.key_at, "`version` is obsolete and has no effect").help("remove the line"),
                );
            }
            schema::check(document, &mut found);
            if let Value::Map(_) = document.value {
                canonical::canonicalise(document, &mut found);
            }
        }
        self.warnings.extend(found.extract_if(.., |d| d.severity == Severity::Warning));
        if found.is_empty() { Ok(documents) } else { Err(found) }
    }
}

impl extends::ReadFile for Loader<'_> {
    fn read(&mut self, path: &Path, asked_at: &Node) -> Result<Node, Found> {
        if !path.exists() {
            let message = format!("the extended file {} does not exist", path.display());
            return Err(vec![
                Diagnostic::error(&asked_at.at, message).help("the path is relative to the file that says `extends`"),
            ]);
        }
        let mut documents = self.read_file(path)?.into_iter();
        let Some(mut first) = documents.next() else {
            return Err(vec![Diagnostic::error(&asked_at.at, format!("the extended file {} is empty", path.display()))]);
        };
        documents.for_each(|document| merge::merge(&mut first, document));
        Ok(first)
    }
}
