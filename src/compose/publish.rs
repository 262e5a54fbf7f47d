//! The files of a project as they are published: each as it was written, but for the names of files that go with it, which become
//! names in the artifact (docker/compose, `pkg/compose/publish.go`). Variables and includes of other machines' files stay.

use super::diagnostic::{Diagnostic, LoadError, Sources};
use super::interpolate::{self, Unset};
use super::node::{At, Node, Value};
use super::{files, paths, yaml};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// What goes into an artifact.
#[derive(Debug, Default)]
pub struct Collected {
    /// The project's own files, in their order, and their texts.
    pub files: Vec<(PathBuf, String)>,
    /// Files that services extend: their names in the artifact, and their texts.
    pub extended: Vec<(String, String)>,
    /// Env files that are there, by their names in the artifact.
    pub env_files: BTreeMap<String, PathBuf>,
    /// Files that stay on this machine, with who names each: those of labels, configs and secrets.
    pub left: BTreeSet<String>,
    /// Services that name env files.
    pub with_env_file: BTreeSet<String>,
    /// Variables of services with their values, as they are written.
    pub variables: Vec<(String, String, String)>,
    /// Configs with `content`, as it is written.
    pub contents: Vec<(String, String)>,
    /// An `include` of a file of this machine.
    pub local_include: Option<String>,
}

/// Reads the files of a project, and those that they extend.
///
/// # Errors
/// A file that cannot be read, or a name in it that cannot be replaced.
pub fn collect(
    files: &[PathBuf],
    directory: &Path,
    variables: &HashMap<String, String>,
    is_remote: &dyn Fn(&str) -> bool,
) -> Result<Collected, LoadError> {
    let mut collector = Collector { variables, is_remote, sources: Sources::default(), all: Collected::default() };
    match collector.collect(files, directory) {
        Ok(()) => Ok(collector.all),
        Err(diagnostics) => Err(LoadError { diagnostics, sources: collector.sources }),
    }
}

struct Collector<'a> {
    variables: &'a HashMap<String, String>,
    is_remote: &'a dyn Fn(&str) -> bool,
    sources: Sources,
    all: Collected,
}

/// Names to be replaced in a text.
type Replaced = Vec<(At, NameReplacement)>;

/// A name as it is written, and the other.
type NameReplacement = (String, String);

impl Collector<'_> {
    fn collect(&mut self, files: &[PathBuf], directory: &Path) -> Result<(), Vec<Diagnostic>> {
        let mut extended: Vec<PathBuf> = Vec::new();
        for file in files {
            let text = self.rewritten(file, directory, &mut extended)?;
            self.all.files.push((file.clone(), text));
        }
        let mut next = 0;
        while let Some(file) = extended.get(next).cloned() {
            let beside = file.parent().unwrap_or(directory).to_path_buf();
            let text = self.rewritten(&file, &beside, &mut extended)?;
            self.all.extended.push((name_of(&file, "yaml"), text));
            next += 1;
        }
        Ok(())
    }

    /// A file's text with other names. What it extends is added to `extended`, once.
    fn rewritten(&mut self, file: &Path, directory: &Path, extended: &mut Vec<PathBuf>) -> Result<String, Vec<Diagnostic>> {
        let text = files::read_text(file)
            .map_err(|e| vec![Diagnostic::global(format!("the Compose file {} cannot be read: {e}", file.display()))])?;
        let id = self.sources.add(file.display().to_string(), text);
        let documents = yaml::parse(id, self.sources.text(id)).map_err(|d| vec![d])?;
        let mut replaced = Replaced::new();
        for document in &documents {
            for entry in document.get("include").and_then(Node::as_list).into_iter().flatten() {
                self.look_at_include(entry);
            }
            for section in ["services", "jobs"] {
                for (name, entry) in document.get(section).and_then(Node::as_map).into_iter().flatten() {
                    self.look_at_service(name, &entry.node, directory, extended, &mut replaced);
                }
            }
            for section in ["configs", "secrets"] {
                for (name, entry) in document.get(section).and_then(Node::as_map).into_iter().flatten() {
                    if let Some(path) = entry.node.get("file").and_then(Node::as_str) {
                        self.all.left.insert(format!("{section}.{name}: {path}"));
                    }
                }
            }
            for (name, entry) in document.get("configs").and_then(Node::as_map).into_iter().flatten() {
                if let Some(content) = entry.node.get("content").and_then(Node::as_str) {
                    self.all.contents.push((name.clone(), content.to_string()));
                }
            }
        }
        let text = replace(self.sources.text(id), replaced).map_err(|d| vec![d])?;
        Ok(text)
    }

    fn look_at_include(&mut self, entry: &Node) {
        let path = entry.get("path").unwrap_or(entry);
        let paths: Vec<&Node> = path.as_list().map_or_else(|| vec![path], |list| list.iter().collect());
        for path in paths.into_iter().filter_map(Node::as_str) {
            if !(self.is_remote)(path) && self.all.local_include.is_none() {
                self.all.local_include = Some(path.to_string());
            }
        }
    }

    fn look_at_service(
        &mut self,
        name: &str,
        service: &Node,
        directory: &Path,
        extended: &mut Vec<PathBuf>,
        replaced: &mut Replaced,
    ) {
        if let Some(files) = service.get("env_file").filter(|files| !files.is_null()) {
            self.all.with_env_file.insert(name.to_string());
            let each: Vec<&Node> = files.as_list().map_or_else(|| vec![files], |list| list.iter().collect());
            for node in each.into_iter().map(|node| node.get("path").unwrap_or(node)) {
                let Some(text) = node.as_str().filter(|text| !text.is_empty()) else { continue };
                let path = paths::absolute(&self.expanded(text), directory);
                // Of the path alone: the name tells nothing of this machine, and is there for a file that is optional as well.
                let name = name_of(&path, "env");
                replaced.push((node.at, (text.to_string(), name.clone())));
                if path.is_file() {
                    self.all.env_files.insert(name, path);
                }
            }
        }
        if let Some(files) = service.get("label_file") {
            let each: Vec<&Node> = files.as_list().map_or_else(|| vec![files], |list| list.iter().collect());
            let paths = each.into_iter().filter_map(Node::as_str);
            self.all.left.extend(paths.map(|path| format!("services.{name}.label_file: {path}")));
        }
        match service.get("environment").map(|variables| &variables.value) {
            Some(Value::Map(map)) => {
                let texts = map.iter().filter_map(|(key, entry)| Some((key.clone(), entry.node.scalar_text()?)));
                self.all.variables.extend(texts.map(|(key, value)| (name.to_string(), key, value)));
            }
            Some(Value::List(list)) => {
                let pairs = list.iter().filter_map(|item| item.as_str()?.split_once('='));
                self.all.variables.extend(pairs.map(|(key, value)| (name.to_string(), key.to_string(), value.to_string())));
            }
            _ => {}
        }
        if let Some(file) = service.get("extends").and_then(|extends| extends.get("file"))
            && let Some(text) = file.as_str().filter(|text| !text.is_empty() && !(self.is_remote)(text))
        {
            let path = paths::absolute(&self.expanded(text), directory);
            replaced.push((file.at, (text.to_string(), name_of(&path, "yaml"))));
            if !extended.contains(&path) {
                extended.push(path);
            }
        }
    }

    fn expanded(&self, text: &str) -> String {
        let lookup = |name: &str| self.variables.get(name).cloned();
        interpolate::expand(text, &lookup, &mut Unset::new()).unwrap_or_else(|_| text.to_string())
    }
}

/// A file's name in the artifact.
fn name_of(path: &Path, extension: &str) -> String {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(path.as_os_str().as_encoded_bytes());
    format!("{}.{extension}", data_encoding::HEXLOWER.encode(&hash))
}

/// Replaces scalars of one line by plain ones. What an alias and its anchor stand for is one place, and is replaced once.
fn replace(text: &str, mut replaced: Replaced) -> Result<String, Diagnostic> {
    replaced.sort_by_key(|(at, _)| (at.line, at.column));
    replaced.dedup();
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_string).collect();
    for (at, (written, name)) in replaced.into_iter().rev() {
        let wrong = || {
            Diagnostic::error(&at, "the name of a file is not written on one line, and cannot be replaced in what is published")
                .help("write it as `env_file: FILE` or `file: FILE`, without an anchor, a tag or a line break")
        };
        let line = lines.get_mut(at.line as usize - 1).ok_or_else(wrong)?;
        let place = |column: usize| line.char_indices().map(|(at, _)| at).chain([line.len()]).nth(column);
        let start = at.column as usize - 1;
        let (Some(from), Some(to)) = (place(start), place(start + usize::from(at.len))) else { return Err(wrong()) };
        let token = &line[from..to];
        if at.len < 2 && written.len() > 1 || token.starts_with(['&', '!', '|', '>', '*']) {
            return Err(wrong());
        }
        line.replace_range(from..to, &name);
    }
    Ok(lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_and_the_rest_is_kept() {
        let directory = tempfile::tempdir().expect("directory");
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("file");
        write("a.env", "A=1\n");
        write("base.yaml", "services: {b: {image: x, env_file: [a.env, {path: 'gone.env', required: false}]}} # kept\n");
        write(
            "compose.yaml",
            "# head\nservices:\n  web: # comment\n    extends: {file: \"base.yaml\", service: b}\n    env_file: ${NAME:-a}.env   # why\n    environment: {PASSWORD: x, OTHER: '${Y}'}\n",
        );
        let file = directory.path().join("compose.yaml");
        let all = collect(std::slice::from_ref(&file), directory.path(), &HashMap::new(), &|_| false).expect("collected");
        let hash = |name: &str, extension: &str| name_of(&directory.path().join(name), extension);
        let (base, a, gone) = (hash("base.yaml", "yaml"), hash("a.env", "env"), hash("gone.env", "env"));
        assert_eq!(
            all.files[0].1,
            format!(
                "# head\nservices:\n  web: # comment\n    extends: {{file: {base}, service: b}}\n    env_file: {a}   # why\n    environment: {{PASSWORD: x, OTHER: '${{Y}}'}}\n"
            )
        );
        let expected = format!("services: {{b: {{image: x, env_file: [{a}, {{path: {gone}, required: false}}]}}}} # kept\n");
        assert_eq!(all.extended, [(base, expected)]);
        assert_eq!(all.env_files.keys().collect::<Vec<_>>(), [&a]);
        assert_eq!(all.with_env_file.iter().collect::<Vec<_>>(), ["b", "web"]);
        assert_eq!(all.variables[0], ("web".into(), "PASSWORD".into(), "x".into()));
        let named = "services: {a: {image: x, label_file: [l1, l2]}}\nconfigs: {c: {file: c.txt}}\nsecrets: {s: {file: s.txt}, e: {environment: E}}\n";
        write("left.yaml", named);
        let all =
            collect(&[directory.path().join("left.yaml")], directory.path(), &HashMap::new(), &|_| false).expect("collected");
        let left = ["configs.c: c.txt", "secrets.s: s.txt", "services.a.label_file: l1", "services.a.label_file: l2"];
        assert_eq!(all.left.iter().collect::<Vec<_>>(), left);
        write("block.yaml", "services:\n  a:\n    env_file: >-\n      a.env\n");
        let refused = collect(&[directory.path().join("block.yaml")], directory.path(), &HashMap::new(), &|_| false);
        assert!(refused.expect_err("refused").to_string().contains("cannot be replaced"));
    }
}
