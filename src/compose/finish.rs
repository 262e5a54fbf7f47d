//! The last stage on the merged tree: required attributes are checked, scalars get their canonical form, and empty values
//! are left out, as in Docker Compose's model.

use super::check::{boolean, example, float, integer, wrong};
use super::diagnostic::Diagnostic;
use super::node::{MergeTag, Node, Path, Value};
use super::schema::{Key, T, find};
use super::units;

/// Finishes a tree in place. With `raw`, values that hold variables stay as they are.
pub fn finish(root: &mut Node, t: &T, raw: bool, found: &mut Vec<Diagnostic>) {
    Finish { raw, found }.walk(root, t, &Path::TOP);
}

struct Finish<'a> {
    raw: bool,
    found: &'a mut Vec<Diagnostic>,
}

impl Finish<'_> {
    fn walk(&mut self, node: &mut Node, t: &T, path: &Path<'_>) {
        node.tag = MergeTag::None;
        if self.raw && node.as_str().is_some_and(|text| text.contains('$')) {
            return;
        }
        if node.is_null() {
            if let Some(expected) = demanded(t) {
                let right = example(node, t, path.last()).unwrap_or_else(|| "give it a value".to_string());
                self.found.push(wrong(node, path, expected).help(format!("{right}, or remove the line")));
            }
            return;
        }
        match t {
            T::Maybe(inner) => self.walk(node, inner, path),
            T::Bool => node.value = boolean(node).map_or_else(|| node.value.clone(), Value::Bool),
            T::Int => node.value = integer(node).map_or_else(|| node.value.clone(), Value::Int),
            T::Float => node.value = float(node).map_or_else(|| node.value.clone(), single),
            T::Bytes => {
                if let Some(bytes) = node.scalar_text().and_then(|text| units::bytes(&text)) {
                    node.value = Value::String(bytes.to_string());
                }
            }
            T::Duration => {
                if let Some(nanos) = node.as_str().and_then(units::duration) {
                    node.value = Value::String(units::duration_text(nanos));
                }
            }
            T::PullPolicy if node.as_str() == Some("if_not_present") => node.value = Value::String("missing".into()),
            T::List(item, _) | T::Many(item, _) => {
                if let Value::List(list) = &mut node.value {
                    for (i, child) in list.iter_mut().enumerate() {
                        if !child.is_null() {
                            self.walk(child, item, &path.index(i));
                        }
                    }
                }
            }
            T::Hosts => {
                if let Value::List(list) = &mut node.value {
                    list.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
                }
            }
            T::Map(inner) => {
                if let Value::Map(map) = &mut node.value {
                    for (name, entry) in map {
                        self.walk(&mut entry.node, inner, &path.name(name));
                    }
                }
            }
            T::Obj(keys) => self.object(node, keys, path),
            T::Short(short) => match (&short.long, &node.value) {
                // A limit that is one number for both.
                (T::Obj(_), Value::Int(_) | Value::String(_)) => {
                    node.value = match integer(node) {
                        // Docker Compose's model has no place for a single 0.
                        Some(0) => {
                            let none = || Node::new(Value::Int(0), node.at);
                            Value::Map(super::canonical::map_of([("soft", none()), ("hard", none())]))
                        }
                        number => number.map_or_else(|| node.value.clone(), Value::Int),
                    };
                }
                _ => self.walk(node, &short.long, path),
            },
            _ => {}
        }
    }

    fn object(&mut self, node: &mut Node, keys: &'static [Key], path: &Path<'_>) {
        for key in keys.iter().filter(|key| key.required) {
            if node.get(key.name).is_none_or(Node::is_null) {
                let message = format!("`{path}` needs `{}`", key.name);
                self.found.push(Diagnostic::error(&node.at, message).help(format!("add `{}:`{}", key.name, possible(&key.t))));
            }
        }
        let Value::Map(map) = &mut node.value else { return };
        for (name, entry) in map.iter_mut() {
            if let Some(key) = find(keys, name) {
                self.walk(&mut entry.node, &key.t, &path.name(name));
            }
        }
        map.retain(|name, entry| match find(keys, name) {
            Some(key) => key.keep && !entry.node.is_null() || !says_nothing(&entry.node, &key.t),
            None => true,
        });
    }
}

/// The words for a value that must not be nothing; `None` where it may be.
fn demanded(t: &T) -> Option<&'static str> {
    match t {
        T::Any | T::Maybe(_) | T::Command | T::Test => None,
        T::List(..) | T::Many(..) => Some("a list"),
        T::Mapping | T::Variables | T::Options | T::Hosts | T::Map(_) | T::Obj(_) => Some("a mapping"),
        T::Short(short) => Some(short.expected),
        T::Bool => Some("`true` or `false`"),
        T::Int | T::Float => Some("a number"),
        _ => Some("a string"),
    }
}

fn possible(t: &T) -> String {
    match t {
        T::OneOf(values) => format!(" one of {}", values.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ")),
        _ => String::new(),
    }
}

/// Whether a value is the one that Go's `omitempty` leaves out.
fn says_nothing(node: &Node, t: &T) -> bool {
    match (&node.value, t) {
        (Value::Null, _) => true,
        (_, T::Any | T::Command | T::Obj(_)) => false,
        (_, T::Maybe(inner)) => says_nothing(node, inner),
        (Value::Map(map), T::Short(short)) => map.is_empty() && !matches!(short.long, T::Obj(_)),
        (Value::Bool(value), _) => !value,
        (Value::Int(value), _) => *value == 0,
        (Value::Float(value), _) => *value == 0.0,
        (Value::String(text), T::Bytes) => text == "0",
        (Value::String(text), T::Duration) => text == "0s",
        (Value::String(text), _) => text.is_empty(),
        (Value::List(list), _) => list.is_empty(),
        (Value::Map(map), _) => map.is_empty(),
    }
}

/// Docker Compose keeps fractions in 32 bits.
fn single(value: f64) -> Value {
    let shortest = (value as f32).to_string().parse().unwrap_or(value);
    if shortest.fract() == 0.0 && shortest.abs() < 1e15 { Value::Int(shortest as i64) } else { Value::Float(shortest) }
}
