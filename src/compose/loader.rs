//! The order of the stages, for the project's own files and for those that they include and extend.

mod extended;
mod fetching;

use extended::FileReader;

use super::check::Check;
use super::diagnostic::{Diagnostic, LoadError, Severity, Sources};
use super::include::Include;
use super::interpolate::{self, Unset, UnsetAt, UsedVariable};
use super::node::{Node, Value};
use super::remote::RemoteFiles;
use super::{
    Contents, LoadOptions, Loaded, canonical, consistency, defaults, dotenv, environment, extends, files, finish, include, merge,
    model, paths, profiles, schema, yaml,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Set for interpolation: the project's name, as far as it is known.
const PROJECT_NAME: &str = "COMPOSE_PROJECT_NAME";

type Diagnostics = Vec<Diagnostic>;
type VariableValues = HashMap<String, String>;

/// Loads one project: the files, their includes and extensions, the variables in them.
pub struct Loader<'a> {
    options: &'a LoadOptions,
    sources: Sources,
    check: Check,
    unset: UnsetAt,
    variables: BTreeMap<String, UsedVariable>,
    /// See [`Loaded::contents`].
    contents: Contents,
    warnings: Vec<Diagnostic>,
    remote: RemoteFiles,
}

/// The context in which a file's relative paths and variables are resolved. An included file has its own.
struct FileScope {
    directory: PathBuf,
    variables: VariableValues,
}

/// A file's text as trees, one for each document.
struct Parsed {
    path: PathBuf,
    documents: Vec<Node>,
}

impl<'a> Loader<'a> {
    pub fn new(options: &'a LoadOptions) -> Self {
        Loader {
            options,
            sources: Sources::default(),
            check: Check::without(options.skip),
            unset: UnsetAt::new(),
            variables: BTreeMap::new(),
            contents: Contents::new(),
            warnings: Vec::new(),
            remote: RemoteFiles::default(),
        }
    }

    pub fn finish(mut self) -> Result<Loaded, LoadError> {
        match self.load() {
            Ok(mut loaded) => {
                loaded.sources = self.sources;
                Ok(loaded)
            }
            Err(mut diagnostics) => {
                diagnostics.dedup();
                if !diagnostics.iter().any(|d| d.severity == Severity::Error) {
                    diagnostics.push(Diagnostic::global("the project could not be loaded"));
                }
                Err(LoadError { diagnostics, sources: self.sources })
            }
        }
    }

    fn load(&mut self) -> Result<Loaded, Diagnostics> {
        let options = self.options;
        let skip = options.skip;
        let mut variables = options.environment.clone();
        let here = files::project_directory(options).unwrap_or_else(|| files::beside_first(options, &options.files));
        let explicit = self.env_files(&mut variables, &here)?;
        let mut located = files::locate(options, &variables).map_err(|d| vec![d])?;
        if !explicit && located.directory != here && !self.is_env_file_disabled(&variables) {
            self.read_env_file(&located.directory.join(".env"), false, &mut variables)?;
        }
        self.warnings.extend(located.ambiguous.take());
        let named_by = located.directory.clone();
        self.fetch(&mut located)?;
        let mut parsed = Vec::new();
        let mut found = Diagnostics::new();
        for path in &located.files {
            match self.parse(path) {
                Ok(file) => parsed.push(file),
                Err(more) => found.extend(more),
            }
        }
        if !found.is_empty() {
            return Err(found);
        }
        if parsed.iter().all(|file| file.documents.is_empty()) {
            let names: Vec<_> = located.files.iter().map(|file| file.display().to_string()).collect();
            let empty = Diagnostic::global(format!("{} is empty", names.join(", ")));
            return Err(vec![empty.help("a Compose file has at least `services:`")]);
        }
        let name = self.name(&parsed, &named_by, &variables)?;
        variables.insert(PROJECT_NAME.into(), name.clone());
        let scope = FileScope { directory: located.directory.clone(), variables };
        let mut root = self.model(parsed, &scope, &mut Vec::new())?;
        defaults::fill_empty(&mut root, &name);
        if !skip.normalisation {
            defaults::normalise(&mut root, &name);
        }
        finish::finish(&mut root, &schema::PROJECT, skip.interpolation, &mut found);
        self.judge(&mut found)?;
        let inactive = self.active_services(&mut root, &scope, &mut found)?;
        for (name, at) in std::mem::take(&mut self.unset) {
            let message = format!("the variable `{name}` is not set: an empty string is used");
            let help = format!("set it, write `${{{name}:-}}` where nothing is meant, or `$${name}` for a plain dollar sign");
            self.warnings.push(Diagnostic::warning(&at, message).help(help));
        }
        let project = if skip.interpolation { model::Project::default() } else { model::Project::from_tree(&root)? };
        Ok(Loaded {
            project,
            root,
            warnings: std::mem::take(&mut self.warnings),
            sources: Sources::default(),
            files: located.files,
            remote: std::mem::take(&mut self.remote).into_vec(),
            directory: located.directory,
            inactive,
            environment: scope.variables.into_iter().collect(),
            variables: std::mem::take(&mut self.variables),
            contents: std::mem::take(&mut self.contents),
        })
    }

    /// The stages of the services that take part: profiles, references, variables. With variables in it, the model is left
    /// whole.
    fn active_services(
        &mut self,
        root: &mut Node,
        scope: &FileScope,
        found: &mut Diagnostics,
    ) -> Result<indexmap::IndexMap<String, Vec<String>>, Diagnostics> {
        let skip = self.options.skip;
        if skip.interpolation {
            return Ok(indexmap::IndexMap::new());
        }
        let mut active = self.options.profiles.clone();
        if active.is_empty() {
            let listed = scope.variables.get("COMPOSE_PROFILES").map(String::as_str).unwrap_or_default();
            active = listed.split(',').map(str::trim).filter(|p| !p.is_empty()).map(str::to_string).collect();
        }
        let left_out = profiles::select(root, &active, &self.options.services);
        if !skip.consistency {
            let disabled: Vec<String> = left_out.keys().cloned().collect();
            consistency::services(root, &disabled, found);
            defaults::replicas_follow_scale(root);
        }
        let selected = selected(root, &self.options.services);
        let takes_part = |name: &str| selected.as_ref().is_none_or(|selected| selected.contains(name));
        if !skip.container_names {
            consistency::container_names(root, &takes_part, found);
        }
        if !skip.environment {
            let variables = &scope.variables;
            let directory = &scope.directory;
            let remote = &self.remote;
            let mut read = |path: &Path| {
                let path = directory.join(path);
                if let Err(why) = remote.check_links(&path) {
                    return Some(Err(std::io::Error::other(why)));
                }
                match files::read_text(&path) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                    result => Some(result),
                }
            };
            canonical::each_workload(root, |name, service| {
                let mut of_others = Diagnostics::new();
                let found = if takes_part(name) { &mut *found } else { &mut of_others };
                environment::resolve(name, service, &|key: &str| variables.get(key).cloned(), &mut read, found);
            });
        }
        self.judge(found)?;
        if !self.options.all_resources {
            defaults::drop_unused(root);
        }
        if !skip.one_machine {
            logging_drivers(root, &mut self.warnings);
        }
        Ok(left_out.into_iter().map(|(name, entry)| (name, profiles::of(&entry.node))).collect())
    }

    /// Keeps the warnings among the findings; with an error among them, that is all.
    fn judge(&mut self, found: &mut Diagnostics) -> Result<(), Diagnostics> {
        self.warnings.extend(found.extract_if(.., |d| d.severity == Severity::Warning));
        if found.is_empty() { Ok(()) } else { Err(std::mem::take(found)) }
    }

    fn is_env_file_disabled(&self, variables: &VariableValues) -> bool {
        variables
            .get("COMPOSE_DISABLE_ENV_FILE")
            .is_some_and(|text| matches!(text.to_ascii_lowercase().as_str(), "1" | "t" | "true"))
    }

    /// `--env-file`, COMPOSE_ENV_FILES, or `.env` beside the project. Tells whether they were named.
    fn env_files(&self, variables: &mut VariableValues, directory: &Path) -> Result<bool, Diagnostics> {
        let mut named: Vec<PathBuf> = self.options.env_files.clone();
        if named.is_empty() {
            let listed = variables.get("COMPOSE_ENV_FILES").cloned().unwrap_or_default();
            named = listed.split(',').filter(|file| !file.is_empty()).map(PathBuf::from).collect();
        }
        if named.is_empty() {
            if !self.is_env_file_disabled(variables) {
                self.read_env_file(&directory.join(".env"), false, variables)?;
            }
            return Ok(false);
        }
        // A later file has the last word over an earlier one, and the environment over both.
        let mut all = VariableValues::new();
        for path in named {
            let mut seen = variables.clone();
            seen.extend(all.clone());
            let before = seen.clone();
            self.read_env_file_over(&self.options.directory.join(path), true, &before, &mut all)?;
        }
        all.extend(std::mem::take(variables));
        *variables = all;
        Ok(true)
    }

    /// Adds a file's variables to those that are not set yet.
    fn read_env_file(&self, path: &Path, required: bool, variables: &mut VariableValues) -> Result<(), Diagnostics> {
        let mut values = VariableValues::new();
        self.read_env_file_over(path, required, variables, &mut values)?;
        values.extend(std::mem::take(variables));
        *variables = values;
        Ok(())
    }

    fn read_env_file_over(
        &self,
        path: &Path,
        required: bool,
        outer: &VariableValues,
        into: &mut VariableValues,
    ) -> Result<(), Diagnostics> {
        if !required && !path.is_file() {
            return Ok(());
        }
        let text = files::read_text(path)
            .map_err(|error| vec![Diagnostic::global(format!("the env file {} cannot be read: {error}", path.display()))])?;
        let values = dotenv::parse(&text, &|name: &str| outer.get(name).cloned()).map_err(|malformed| {
            let message = format!("{}:{}: {}", path.display(), malformed.line, malformed.why);
            vec![Diagnostic::global(message).help("an env file has a line NAME=VALUE for each variable")]
        })?;
        into.extend(values);
        Ok(())
    }

    /// `-p`, COMPOSE_PROJECT_NAME, the last `name` of the files, the directory: the first there is. Only the first two must be
    /// right as they are; the others are made so, as Docker Compose does.
    fn name(&mut self, parsed: &[Parsed], directory: &Path, variables: &VariableValues) -> Result<String, Diagnostics> {
        let given = self.options.project_name.clone().or_else(|| variables.get(PROJECT_NAME).cloned());
        if let Some(name) = given.filter(|name| !name.is_empty()) {
            if files::is_project_name(&name) {
                return Ok(name);
            }
            let help = format!(
                "a name has lower-case letters, digits, `-` and `_`, and begins with a letter or a digit: `{}`",
                files::sanitised(&name)
            );
            return Err(vec![Diagnostic::global(format!("`{name}` cannot be a project's name")).help(help)]);
        }
        let written =
            parsed.iter().flat_map(|file| &file.documents).filter_map(|document| document.get("name")?.as_str()).next_back();
        if let Some(text) = written.filter(|text| !text.is_empty()) {
            let lookup = |key: &str| variables.get(key).cloned();
            let expanded = match self.options.skip.interpolation {
                true => Ok(text.to_string()),
                false => interpolate::expand(text, &lookup, &mut Unset::new()),
            };
            let name = files::sanitised(&expanded.unwrap_or_default());
            if !name.is_empty() {
                return Ok(name);
            }
        }
        let of_directory = files::sanitised(&directory.file_name().unwrap_or_default().to_string_lossy());
        if of_directory.is_empty() {
            let message = format!("the directory {} gives no project name", directory.display());
            return Err(vec![Diagnostic::global(message).help("name the project: `-p NAME`, or `name: NAME` in the file")]);
        }
        Ok(of_directory)
    }

    /// Several files as one model: each one's own stages, then one laid on the other.
    fn model(&mut self, parsed: Vec<Parsed>, scope: &FileScope, chain: &mut Vec<PathBuf>) -> Result<Node, Diagnostics> {
        let mut merged: Option<Node> = None;
        let mut found = Diagnostics::new();
        let deep = chain.len();
        for file in parsed {
            chain.push(file.path.clone());
            for mut document in file.documents {
                if let Err(more) = self.document(&mut document, &scope.variables) {
                    found.extend(more);
                    continue;
                }
                if let Some(base) = &mut merged {
                    merge::apply_tags(base, &document);
                }
                let mut reader = FileReader { loader: self, variables: &scope.variables };
                extends::resolve(&mut document, &file.path, &scope.directory, &mut reader, &mut found);
                for wanted in include::take(&mut document, &scope.directory, &mut found) {
                    match self.include(wanted, scope, chain) {
                        Ok(included) => include::import(&mut document, included, &mut found),
                        Err(more) => found.extend(more),
                    }
                }
                match &mut merged {
                    None => {
                        merge::drop_reset(&mut document);
                        merged = Some(document);
                    }
                    Some(base) => merge::merge(base, document, &schema::PROJECT),
                }
            }
        }
        chain.truncate(deep);
        self.judge(&mut found)?;
        let Some(mut root) = merged else { return Err(vec![Diagnostic::global("the files are empty")]) };
        merge::unify_tree(&mut root, &schema::PROJECT);
        defaults::fill(&mut root);
        consistency::resources(&root, &mut found);
        self.judge(&mut found)?;
        if !self.options.skip.paths {
            paths::resolve(&mut root, &scope.directory);
        }
        for section in ["configs", "secrets"] {
            for (name, entry) in root.get(section).and_then(Node::as_map).into_iter().flatten() {
                let variable = entry.node.get("environment").and_then(Node::as_str);
                if let Some(content) = variable.and_then(|variable| scope.variables.get(variable)) {
                    // An included file was here before: its variables count for what it defines.
                    self.contents.entry((section, name.clone())).or_insert_with(|| content.clone());
                }
            }
        }
        if !self.options.skip.interpolation {
            let variables = &scope.variables;
            canonical::each_workload(&mut root, |_, service| {
                environment::inherit(service, &|key: &str| variables.get(key).cloned());
            });
        }
        Ok(root)
    }

    fn include(&mut self, wanted: Include, outer: &FileScope, chain: &mut Vec<PathBuf>) -> Result<Node, Diagnostics> {
        let at = wanted.at.at;
        let from = chain.last().cloned().unwrap_or_default();
        let paths = wanted.files.iter().map(|file| self.locate(file, &outer.directory, &from)).collect::<Result<Vec<_>, _>>()?;
        let beside = paths[0].parent().unwrap_or(&outer.directory).to_path_buf();
        let own = wanted.directory.unwrap_or(beside);
        if let Some(start) = chain.iter().position(|path| *path == paths[0]) {
            let cycle = chain[start..].iter().chain([&paths[0]]).map(|path| self.shown(path));
            let message = format!("`include` has a cycle: {}", cycle.collect::<Vec<_>>().join(" -> "));
            return Err(vec![Diagnostic::error(&at, message).help("remove one of these includes")]);
        }
        let mut variables = outer.variables.clone();
        let mut found = Diagnostics::new();
        match wanted.env_files {
            None => {
                self.check_stays(None, &own.join(".env"))?;
                self.read_env_file(&own.join(".env"), false, &mut variables)?;
            }
            Some(files) => {
                let mut all = VariableValues::new();
                for (path, node) in files {
                    let mut seen = all.clone();
                    seen.extend(outer.variables.clone());
                    if path == Path::new("/dev/null") {
                        continue;
                    }
                    self.remote.check(&from, &path).map_err(|why| vec![Diagnostic::error(&node.at, why)])?;
                    if !path.is_file() {
                        let message = format!("the env file {} does not exist", path.display());
                        found.push(Diagnostic::error(&node.at, message).help("create it, or remove it here"));
                        continue;
                    }
                    self.read_env_file_over(&path, true, &seen, &mut all)?;
                }
                all.extend(std::mem::take(&mut variables));
                variables = all;
            }
        }
        let mut parsed = Vec::new();
        for path in &paths {
            match path.exists().then(|| self.parse(path)) {
                Some(Ok(file)) => parsed.push(file),
                Some(Err(more)) => found.extend(more),
                None => {
                    let message = format!("the included file {} does not exist", path.display());
                    found.push(Diagnostic::error(&at, message).help("the path is relative to the project's directory"));
                }
            }
        }
        let noted = |found: Diagnostics| -> Diagnostics { found.into_iter().map(|d| d.note(&at, "included here")).collect() };
        self.judge(&mut found)?;
        let scope = FileScope { directory: own, variables };
        self.model(parsed, &scope, chain).map_err(noted)
    }

    fn shown(&self, path: &Path) -> String {
        let shown = path.strip_prefix(&self.options.directory).unwrap_or(path).display().to_string();
        if shown.is_empty() { ".".into() } else { shown }
    }

    /// A file's text as trees.
    fn parse(&mut self, path: &Path) -> Result<Parsed, Diagnostics> {
        let (shown, text) = if path == Path::new("-") {
            let text = files::text_of(std::io::stdin())
                .map_err(|e| vec![Diagnostic::global(format!("the Compose file on standard input cannot be read: {e}"))])?;
            ("(standard input)".to_string(), text)
        } else {
            let shown = self.shown(path);
            let text = files::read_text(path).map_err(|e| {
                let help = match e.kind() {
                    std::io::ErrorKind::NotFound => "check the path given with -f",
                    std::io::ErrorKind::FileTooLarge => "take out what is no part of the project",
                    std::io::ErrorKind::IsADirectory => "name the file in it, or use --project-directory",
                    _ => "check that the file is readable and is text in UTF-8",
                };
                vec![Diagnostic::global(format!("the Compose file {shown} cannot be read: {e}")).help(help)]
            })?;
            (shown, text)
        };
        let file = self.sources.add(shown, text);
        let mut documents = yaml::parse(file, self.sources.text(file)).map_err(|d| vec![d])?;
        documents.retain(|document| !document.is_null());
        Ok(Parsed { path: path.to_path_buf(), documents })
    }

    /// One document through the stages that look at it alone.
    fn document(&mut self, document: &mut Node, variables: &VariableValues) -> Result<(), Diagnostics> {
        let mut found = Diagnostics::new();
        if self.options.list_variables {
            interpolate::variables(document, &mut self.variables);
        }
        if !self.options.skip.interpolation {
            let lookup = |name: &str| variables.get(name).cloned();
            interpolate::interpolate(document, &lookup, &mut self.unset, &mut found);
        }
        if let Some(version) = document.as_map().and_then(|map| map.get("version")) {
            self.warnings
                .push(Diagnostic::warning(&version.key_at, "`version` is obsolete and has no effect").help("remove the line"));
        }
        self.check.check(document, &schema::PROJECT, &mut found);
        if matches!(document.value, Value::Map(_)) && !found.iter().any(|d| d.severity == Severity::Error) {
            canonical::canonicalise(document, &schema::PROJECT, self.options.skip.interpolation, &mut found);
        }
        self.judge(&mut found)
    }
}

/// The services that a command names and what they depend on; `None` where it names none, and means all.
fn selected(root: &Node, named: &[String]) -> Option<HashSet<String>> {
    let mut wanted: Vec<&str> = named.iter().map(String::as_str).collect();
    let mut selected = HashSet::new();
    while let Some(name) = wanted.pop() {
        if selected.insert(name.to_string()) {
            let workload = canonical::WORKLOADS.iter().find_map(|section| root.get(section)?.get(name));
            let dependencies = workload.and_then(|workload| workload.get("depends_on")).and_then(Node::as_map);
            wanted.extend(dependencies.into_iter().flat_map(|map| map.keys().map(String::as_str)));
        }
    }
    (!named.is_empty()).then_some(selected)
}

/// Warns of log drivers that send logs elsewhere: wharf has one way to keep them.
fn logging_drivers(root: &Node, warnings: &mut Vec<Diagnostic>) {
    for (_, _, entry) in canonical::workloads(root) {
        let Some(driver) = entry.node.get("logging").and_then(|logging| logging.get("driver")) else { continue };
        let text = driver.as_str().unwrap_or_default();
        if !matches!(text, "json-file" | "local" | "none" | "") {
            let message = format!("wharf keeps logs itself: the logging driver `{text}` has no effect");
            warnings.push(Diagnostic::warning(&driver.at, message).help("`wharf logs` shows them; `none` keeps no log"));
        }
    }
}
