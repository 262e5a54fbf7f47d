//! The tree of a Compose file before it is typed: YAML values that remember where they were written.

use indexmap::IndexMap;
use std::sync::Arc;

/// Where a value was written: a file and the 1-based line and column of its first character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
    /// Length of the value on that line, in characters; at least 1. The marker under the line is that long.
    pub len: u32,
}

/// `!reset` and `!override` of the Compose specification, section "Merge".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MergeTag {
    #[default]
    None,
    Reset,
    Override,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub value: Value,
    pub at: At,
    pub tag: MergeTag,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(String),
    List(Vec<Node>),
    Map(Map),
}

/// A mapping in the order in which it was written; the key's own place is kept for messages about the key.
pub type Map = IndexMap<String, Entry>;

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key_at: At,
    pub node: Node,
}

impl Node {
    pub fn new(value: Value, at: At) -> Self {
        Node { value, at, tag: MergeTag::None }
    }

    pub fn string(text: impl Into<String>, at: &At) -> Self {
        Node::new(Value::String(text.into()), at.clone())
    }

    pub fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub fn as_map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_map()?.get(key).map(|entry| &entry.node)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.as_map_mut()?.get_mut(key).map(|entry| &mut entry.node)
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// Sets a key of a mapping; the place of the new entry is the value's. No effect on what is not a mapping.
    pub fn set(&mut self, key: &str, node: Node) {
        if let Value::Map(map) = &mut self.value {
            let key_at = map.get(key).map_or_else(|| node.at.clone(), |entry| entry.key_at.clone());
            map.insert(key.to_string(), Entry { key_at, node });
        }
    }

    /// A scalar as the text that a user would write for it; `None` for lists and mappings.
    pub fn scalar_text(&self) -> Option<String> {
        match &self.value {
            Value::Null => Some(String::new()),
            Value::Bool(b) => Some(b.to_string()),
            Value::Int(i) => Some(i.to_string()),
            Value::Float(f) => Some(float_text(*f)),
            Value::String(s) => Some(s.clone()),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// What the value is, in the words that messages use.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as J;
        match &self.value {
            Value::Null => J::Null,
            Value::Bool(b) => J::Bool(*b),
            Value::Int(i) => J::from(*i),
            Value::Float(f) => serde_json::Number::from_f64(*f).map_or(J::Null, J::Number),
            Value::String(s) => J::String(s.clone()),
            Value::List(list) => J::Array(list.iter().map(Node::to_json).collect()),
            Value::Map(map) => J::Object(map.iter().map(|(k, e)| (k.clone(), e.node.to_json())).collect()),
        }
    }
}

/// A float as Go prints it with `%v`, which is what Compose puts into environment variables and labels: the shortest digits,
/// with an exponent where that is below -4 or above 5.
fn float_text(f: f64) -> String {
    let scientific = format!("{f:e}");
    match scientific.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>().unwrap_or_default())) {
        Some((digits, exponent)) if f != 0.0 && f.is_finite() && !(-4..6).contains(&exponent) => {
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        _ if f.is_infinite() => {
            if f > 0.0 {
                "+Inf".into()
            } else {
                "-Inf".into()
            }
        }
        _ => format!("{f}"),
    }
}
