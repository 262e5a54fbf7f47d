//! What becomes of every attribute of a Compose file. docs/kubernetes.md shows the same table, and a test holds it against the schema's.

mod table;

pub use table::TABLE;

use super::context::Context;
use crate::compose::node::{Entry, Node, Value};
use crate::compose::schema::{Key, PROJECT, T, find};
use std::collections::HashMap;
use std::sync::OnceLock;

/// What becomes of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributeOutcome {
    /// These fields. Where some values have no counterpart, the export says so with their place.
    Becomes(&'static str),
    /// Nothing, and nothing is lost: it is about this machine's commands, or about the file.
    Local(&'static str),
    /// Nothing; the export warns with this reason.
    Warned(&'static str),
    /// The export is refused with this reason.
    Refused(&'static str),
}

/// An attribute by its path, with `*` for names of the user's choice and `[]` for items of lists.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    pub path: &'static str,
    pub outcome: AttributeOutcome,
}

fn by_path() -> &'static HashMap<&'static str, AttributeOutcome> {
    static BY_PATH: OnceLock<HashMap<&'static str, AttributeOutcome>> = OnceLock::new();
    BY_PATH.get_or_init(|| TABLE.iter().map(|attribute| (attribute.path, attribute.outcome)).collect())
}

/// The attributes of what a type holds, and what stands between its path and theirs.
pub fn inner(t: &'static T) -> (Option<&'static [Key]>, &'static str) {
    match t {
        T::Map(inner) => (inner.keys(), ".*."),
        T::List(inner, _) => (inner.keys(), "[]."),
        T::Short(short) if matches!(short.long, T::List(..)) => inner(&short.long),
        t => (t.keys(), "."),
    }
}

/// Says of every attribute that the project has and that has no counterpart that it is left out, or that it cannot be.
pub fn judge(context: &Context<'_>) {
    let Some(keys) = PROJECT.keys() else { return };
    mapping(context, &context.loaded.root, keys, "");
}

fn mapping(context: &Context<'_>, node: &Node, keys: &'static [Key], prefix: &str) {
    for (name, entry) in node.as_map().into_iter().flatten() {
        let Some(key) = find(keys, name) else { continue };
        let path = format!("{prefix}{name}");
        // A job's attributes are a service's but for a few.
        let of_service = path.strip_prefix("jobs.*.").map(|rest| format!("services.*.{rest}"));
        let known = by_path().get(path.as_str()).or_else(|| by_path().get(of_service.as_deref()?));
        match known {
            Some(outcome) => act(context, shown(&path, name), entry, *outcome),
            None => match inner(&key.t) {
                (Some(keys), ".*.") => {
                    for (name, item) in entry.node.as_map().into_iter().flatten() {
                        let prefix = format!("{path}.*.");
                        match item.node.as_map() {
                            Some(_) => mapping(context, &item.node, keys, &prefix),
                            None => short(context, name, item, keys, &prefix),
                        }
                    }
                }
                (Some(keys), "[].") => {
                    for item in entry.node.as_list().into_iter().flatten() {
                        mapping(context, item, keys, &format!("{path}[]."));
                    }
                }
                (Some(keys), _) => mapping(context, &entry.node, keys, &format!("{path}.")),
                (None, _) => {}
            },
        }
    }
}

/// An item in its short form: `nofile: 1024`. It says what the first attribute that is warned of says.
fn short(context: &Context<'_>, name: &str, item: &Entry, keys: &[Key], prefix: &str) {
    let outcomes = keys.iter().filter_map(|key| {
        let path = format!("{prefix}{}", key.name);
        Some((by_path().get(path.as_str())?, path))
    });
    let found = outcomes.into_iter().find(|(outcome, _)| matches!(outcome, AttributeOutcome::Warned(_)));
    if let Some((outcome, path)) = found {
        act(context, shown(&path, name), item, *outcome);
    }
}

/// The word by which a file has an attribute: that of the whole where the short form does not name its parts.
pub fn shown<'n>(path: &str, name: &'n str) -> &'n str {
    match path {
        "services.*.devices[].source" => "devices",
        "services.*.ulimits.*.soft" => "ulimits",
        _ => name,
    }
}

fn act(context: &Context<'_>, name: &str, entry: &Entry, outcome: AttributeOutcome) {
    if says_nothing(&entry.node) {
        return;
    }
    match outcome {
        AttributeOutcome::Becomes(_) | AttributeOutcome::Local(_) => {}
        AttributeOutcome::Warned(why) => context.warn_at(&entry.key_at, format!("`{name}` is left out: {why}"), ""),
        AttributeOutcome::Refused(why) => context.refuse_at(&entry.key_at, format!("`{name}` cannot be exported: {why}"), ""),
    }
}

/// An empty or false value.
fn says_nothing(node: &Node) -> bool {
    match &node.value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Int(_) | Value::Float(_) | Value::Bool(true) => false,
    }
}
