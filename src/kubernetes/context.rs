//! What every part of an export has at hand: the project, where its attributes are written, and the findings.

use super::labels::shortened;
use super::object::Made;
use super::sources::Found;
use super::version::Version;
use super::{Options, names};
use crate::compose::Loaded;
use crate::compose::diagnostic::Diagnostic;
use crate::compose::model::Project;
use crate::compose::node::{At, Node};
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;

/// What the conversion of each service knows and adds to: the project, the options, the findings.
pub struct Context<'a> {
    pub loaded: &'a Loaded,
    pub options: &'a Options,
    findings: RefCell<Vec<Diagnostic>>,
    /// Objects that several workloads use, by kind and name, each with what it was made of.
    shared: RefCell<BTreeMap<String, (Made, String)>>,
    /// Whether networks separate the project's Pods: asked for every Pod.
    pub is_separated: OnceCell<bool>,
}

impl<'a> Context<'a> {
    pub fn new(loaded: &'a Loaded, options: &'a Options) -> Self {
        Context { loaded, options, findings: RefCell::default(), shared: RefCell::default(), is_separated: OnceCell::new() }
    }

    pub fn project(&self) -> &'a Project {
        &self.loaded.project
    }

    pub fn version(&self) -> Version {
        self.options.version
    }

    pub fn has(&self, minor: u32) -> bool {
        self.version() >= Version::minor(minor)
    }

    pub fn file(&self, path: &str) -> &'a Found {
        self.options.files.get(path).unwrap_or(&Found::Absent)
    }

    /// The nearest place of a path of names and indices: its own, else that of what it is in.
    pub fn place(&self, path: &[&str]) -> At {
        let mut node = &self.loaded.root;
        let mut at = node.at;
        for step in path {
            if let Some(entry) = node.as_map().and_then(|map| map.get(*step)) {
                (node, at) = (&entry.node, entry.key_at);
            } else if let Some(item) = step.parse::<usize>().ok().and_then(|n| node.as_list()?.get(n)) {
                (node, at) = (item, item.at);
            } else {
                break;
            }
        }
        at
    }

    pub fn node(&self, path: &[&str]) -> Option<&'a Node> {
        path.iter().try_fold(&self.loaded.root, |node, step| {
            node.get(step).or_else(|| step.parse::<usize>().ok().and_then(|n| node.as_list()?.get(n)))
        })
    }

    pub fn warn(&self, path: &[&str], message: impl Into<String>, help: impl Into<String>) {
        self.warn_at(&self.place(path), message, help);
    }

    pub fn warn_at(&self, at: &At, message: impl Into<String>, help: impl Into<String>) {
        self.push(Diagnostic::warning(at, message), help.into());
    }

    pub fn refuse(&self, path: &[&str], message: impl Into<String>, help: impl Into<String>) {
        self.push(Diagnostic::error(&self.place(path), message), help.into());
    }

    pub fn refuse_at(&self, at: &At, message: impl Into<String>, help: impl Into<String>) {
        self.push(Diagnostic::error(at, message), help.into());
    }

    /// Refuses the name of something that is in the cluster already where nothing there can have it.
    pub fn refuse_external(&self, path: &[&str], name: &str) {
        if !names::is_subdomain(name) {
            let message = format!("`{}` is external, and nothing in Kubernetes can have that name", shortened(name));
            let help = "give the object's own `name`: lower-case letters, digits, `-` and `.`";
            self.refuse(path, message, help);
        }
    }

    fn push(&self, finding: Diagnostic, help: String) {
        let finding = if help.is_empty() { finding } else { finding.help(help) };
        self.findings.borrow_mut().push(finding);
    }

    /// Keeps an object that several workloads use, once. Two that differ cannot have one name: the content of one would be lost.
    pub fn share(&self, made: Made) {
        self.share_of(made, "");
    }

    /// As [`Context::share`]; objects of two origins differ although they look the same: claims are not what is in them.
    pub fn share_of(&self, made: Made, origin: &str) {
        let mut shared = self.shared.borrow_mut();
        let key = format!("{}/{}", made.object.kind(), made.object.name());
        match shared.get(&key) {
            None => drop(shared.insert(key, (made, origin.to_string()))),
            Some((known, of)) if known.object == made.object && of == origin => {}
            Some((known, _)) => self.refuse_twice(&made, &known.at),
        }
    }

    /// Refuses a second object of a kind and a name.
    pub fn refuse_twice(&self, made: &Made, other: &At) {
        let message = format!("two objects would both be the {} `{}`", made.object.kind(), made.object.name());
        let finding = Diagnostic::error(&made.at, message).note(other, "the other is made of this");
        self.push(finding, "give one of them another name".into());
    }

    pub fn take_shared(&self) -> Vec<Made> {
        std::mem::take(&mut *self.shared.borrow_mut()).into_values().map(|(made, _)| made).collect()
    }

    pub fn into_findings(self) -> Vec<Diagnostic> {
        let mut findings = self.findings.into_inner();
        let place = |finding: &Diagnostic| finding.at.map(|at| (at.file, at.line, at.column));
        findings.sort_by_key(place);
        // Several containers of one service say the same.
        findings.dedup();
        findings
    }
}
