//! Every attribute of the Compose specification, as tables: what it may be, what it is made of, how two files' values are
//! merged, and whether wharf acts on it.
//!
//! The tables follow compose-spec's `compose-spec.json`. The stages walk them: [`check`](super::check) for types,
//! [`canonical`](super::canonical) for short forms, [`merge`](super::merge), [`finish`](super::finish) for the canonical
//! spelling of scalars, [`render`](super::render) for output.

mod job;
mod project;
mod service;

pub use job::{JOB, is_of_services_alone};
pub use project::PROJECT;
pub use service::SERVICE;

use super::canonical::Expanded;
use super::node::{Node, Value};

/// The type of a value, in its canonical form and in the short ones.
#[derive(Clone, Copy)]
pub enum T {
    Any,
    Str,
    /// A string or a number, kept as a string.
    Text,
    /// A boolean, or one of the strings that interpolation gives for one.
    Bool,
    Int,
    Float,
    /// A number of bytes, or a size such as `64m`; canonically the bytes in decimal, a string.
    Bytes,
    /// A Go duration; canonically as Go spells it.
    Duration,
    /// One of these strings. The message of a wrong one lists them.
    OneOf(&'static [&'static str]),
    /// `no`, `always`, `unless-stopped`, `on-failure` or `on-failure:N`.
    Restart,
    /// `always`, `missing`, `never`, `build`, `daily`, `weekly`, `every_N`.
    PullPolicy,
    /// `match-user`, `match-user:USER`, `userns`.
    IdMap,
    /// Nothing, a string that is split as a shell splits it, or a list.
    Command,
    /// A health check's test: a string for a shell, or a list.
    Test,
    List(&'static T, By),
    /// One of them, or a list.
    Many(&'static T, By),
    /// `[KEY=value]` or `{KEY: value}`; what has no value is empty.
    Mapping,
    /// As [`T::Mapping`], and what has no value takes it from the surroundings.
    Variables,
    /// `{KEY: value}` of strings and numbers.
    Options,
    /// `[name:address]` or `{name: address}`; canonically `name=address`.
    Hosts,
    /// A mapping with names of the user's choice.
    Map(&'static T),
    Obj(&'static [Key]),
    /// The value or nothing.
    Maybe(&'static T),
    Short(&'static Short),
}

/// A value with a long form and shorter ones.
pub struct Short {
    pub long: T,
    pub accepts: &'static [Shape],
    /// The values that it may have, with an example, for the message about a wrong one.
    pub expected: &'static str,
    /// Makes the long form of a short one in place, and gives what it stands for beyond it: the ports of a range. Also given
    /// long forms, to complete them.
    pub expand: fn(&mut Node) -> Expanded,
}

/// The outer shape of a short form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Str,
    Int,
    Number,
    /// A list of strings.
    Strings,
    Map,
}

/// The key by which items of lists are the same, in one list and in two files'.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Nothing: every item counts.
    Append,
    /// Its text; twice in one list is an error.
    Distinct,
    /// Its text; a later one replaces an earlier one.
    Text,
    /// The part before its `=`.
    Name,
    /// An attribute of it.
    Field(&'static str),
    /// Where a config or secret is mounted: its target, else this directory and its source.
    Mount(&'static str),
    /// Address, published port, target and protocol.
    Port,
}

/// Whether wharf acts on an attribute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttributeState {
    Done,
    /// It is about more than one machine, or another system: accepted with a warning.
    Elsewhere,
}

/// An attribute that a mapping may have.
#[derive(Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    pub t: T,
    pub state: AttributeState,
    /// An empty, zero or false value means something else than no value.
    pub keep: bool,
    pub required: bool,
    /// Printed by `config --format json` even where there is none, as Docker Compose does.
    pub always: bool,
}

const fn k(name: &'static str, t: T) -> Key {
    Key { name, t, state: AttributeState::Done, keep: false, required: false, always: false }
}

impl Key {
    const fn elsewhere(self) -> Key {
        Key { state: AttributeState::Elsewhere, ..self }
    }

    const fn keep(self) -> Key {
        Key { keep: true, ..self }
    }

    const fn required(self) -> Key {
        Key { required: true, ..self }
    }

    const fn always(self) -> Key {
        Key { always: true, ..self }
    }
}

/// The attribute of a name. Tables are in alphabetical order.
pub fn find(keys: &'static [Key], name: &str) -> Option<&'static Key> {
    keys.binary_search_by(|key| key.name.cmp(name)).ok().map(|i| &keys[i])
}

impl Shape {
    pub fn fits(self, node: &Node) -> bool {
        match (self, &node.value) {
            (Shape::Str, Value::String(_)) | (Shape::Map, Value::Map(_)) => true,
            (Shape::Int, Value::Int(_)) | (Shape::Number, Value::Int(_) | Value::Float(_)) => true,
            (Shape::Strings, Value::List(list)) => list.iter().all(|item| matches!(item.value, Value::String(_))),
            _ => false,
        }
    }
}

impl T {
    /// The attributes of a mapping with known names, seen through `Maybe` and `Short`.
    pub fn keys(&self) -> Option<&'static [Key]> {
        match self {
            T::Obj(keys) => Some(keys),
            T::Maybe(inner) => inner.keys(),
            T::Short(short) => short.long.keys(),
            _ => None,
        }
    }

    /// The type of what is under a name: an attribute's, or that of every entry.
    pub fn child(&self, name: &str) -> Option<&'static T> {
        match self {
            T::Obj(keys) => find(keys, name).map(|key| &key.t),
            T::Map(inner) => Some(inner),
            T::Maybe(inner) => inner.child(name),
            T::Short(short) => short.long.child(name),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line for each attribute, as docs/compose-compatibility.md has them.
    fn lines(keys: &'static [Key], path: &str, out: &mut Vec<String>) {
        for key in keys {
            // The others are a service's.
            if path == "jobs.*." && key.name != "depends_on" && find(SERVICE.keys().unwrap_or_default(), key.name).is_some() {
                continue;
            }
            let path = format!("{path}{}", key.name);
            let state = match key.state {
                AttributeState::Done => "acted on",
                AttributeState::Elsewhere => "loaded, warned of: not of one machine",
            };
            let (inner, suffix) = match &key.t {
                T::Map(inner) => (inner.keys(), ".*."),
                T::List(inner, _) => (inner.keys(), "[]."),
                t => (t.keys(), "."),
            };
            match inner {
                Some(inner) if key.state == AttributeState::Done => lines(inner, &format!("{path}{suffix}"), out),
                _ => out.push(format!("| `{path}` | {state} |")),
            }
        }
    }

    #[test]
    fn tables_are_in_order() {
        fn visit(t: &'static T, path: &str) {
            let inner: Option<&'static T> = match t {
                T::Map(inner) | T::Maybe(inner) | T::List(inner, _) | T::Many(inner, _) => Some(inner),
                T::Short(short) => Some(&short.long),
                _ => None,
            };
            if let Some(inner) = inner {
                visit(inner, path);
            }
            if let T::Obj(keys) = t {
                assert!(keys.is_sorted_by_key(|key| key.name), "the attributes of {path}");
                keys.iter().for_each(|key| visit(&key.t, &format!("{path}.{}", key.name)));
            }
        }
        visit(&PROJECT, "");
    }

    fn test_sources(directory: &std::path::Path) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(directory).expect("tests").flatten() {
            let path = entry.path();
            if path.is_dir() {
                text.push_str(&test_sources(&path));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(path).expect("test"));
            }
        }
        text
    }

    #[test]
    fn the_documentation_has_every_attribute() {
        let mut expected = Vec::new();
        if let T::Obj(keys) = &PROJECT {
            lines(keys, "", &mut expected);
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/compose-compatibility.md");
        let text = std::fs::read_to_string(path).expect("the documentation");
        let (head, rest) = text.split_once("<!-- attributes -->\n").expect("the table's beginning");
        let (table, tail) = rest.split_once("<!-- end -->\n").expect("the table's end");
        // The third column is written by hand: the tests that see the attribute take effect. It stays with its attribute.
        let cell = |row: &str| row.splitn(4, '|').nth(3).map(|rest| rest.trim().trim_end_matches('|').trim().to_string());
        let known: std::collections::HashMap<&str, String> =
            table.lines().filter_map(|row| Some((row.split('|').nth(1)?, cell(row).unwrap_or_default()))).collect();
        let with_tests = |row: &String| {
            let tests = row.split('|').nth(1).and_then(|name| known.get(name)).cloned().unwrap_or_default();
            format!("{row} {tests} |")
        };
        let rows: Vec<String> = expected.iter().map(with_tests).collect();
        let wanted = format!("| attribute | | seen by |\n|---|---|---|\n{}\n", rows.join("\n"));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            let text = format!("{head}<!-- attributes -->\n{wanted}<!-- end -->\n{tail}");
            std::fs::write(path, text).expect("the documentation");
            return;
        }
        assert!(
            table == wanted,
            "docs/compose-compatibility.md is not what the tables say: UPDATE_DOCS=1 cargo test --lib schema"
        );
        let sources = test_sources(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")));
        for row in rows.iter().filter(|row| row.contains("| acted on |")) {
            let tests: Vec<&str> = row.rsplit('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2).collect();
            assert!(!tests.is_empty(), "no test sees this attribute take effect: {row}");
            for test in tests {
                assert!(sources.contains(&format!("fn {test}(")), "there is no test `{test}`: {row}");
            }
        }
    }
}
