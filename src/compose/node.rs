//! The tree of a Compose file before it is typed: YAML values that remember where they were written.

use indexmap::IndexMap;

/// A file of the load: its place in [`Sources`](super::diagnostic::Sources).
pub type FileId = u16;

/// Where a value was written: a file and the 1-based line and column of its first character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub file: FileId,
    pub line: u32,
    pub column: u32,
    /// Length of the value on that line, in characters; at least 1. The marker under the line is that long.
    pub len: u16,
}

/// Where a value is in its tree: `services.web.ports[0]`. Its text is made only when a message needs it.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    up: Option<&'a Path<'a>>,
    step: PathStep<'a>,
}

#[derive(Clone, Copy)]
enum PathStep<'a> {
    Name(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// The top of a tree.
    pub const TOP: Path<'static> = Path { up: None, step: PathStep::Name("") };

    pub fn name(&'a self, name: &'a str) -> Path<'a> {
        Path { up: Some(self), step: PathStep::Name(name) }
    }

    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path { up: Some(self), step: PathStep::Index(index) }
    }

    /// The path of its parent; `None` at the top.
    pub fn up(&self) -> Option<&'a Path<'a>> {
        self.up
    }

    pub fn is_top(&self) -> bool {
        self.up.is_none()
    }

    /// Whether this is a section at the top.
    pub fn is_section(&self, name: &str) -> bool {
        self.up.is_some_and(|up| up.is_top()) && matches!(self.step, PathStep::Name(own) if own == name)
    }

    /// The last name on the way.
    pub fn last(&self) -> &'a str {
        match (self.step, self.up) {
            (PathStep::Name(name), _) => name,
            (PathStep::Index(_), Some(up)) => up.last(),
            (PathStep::Index(_), None) => "",
        }
    }
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(up) = self.up else { return Ok(()) };
        up.fmt(f)?;
        match self.step {
            PathStep::Name(name) if up.is_top() => f.write_str(name),
            PathStep::Name(name) => write!(f, ".{name}"),
            PathStep::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// `!reset` and `!override` of the Compose specification, section "Merge".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MergeTag {
    #[default]
    None,
    Reset,
    Override,
}

/// A value of a Compose file, with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub value: Value,
    pub at: At,
    pub tag: MergeTag,
}

/// A value of YAML, with its parts.
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

/// A mapping in the order in which it was written; the key's own place is kept for messages about the key. Boxed: most values
/// are not mappings, and every value has the size of the largest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map(Box<EntryMap>);

type EntryMap = IndexMap<String, Entry, foldhash::fast::RandomState>;

impl Map {
    pub fn with_capacity(capacity: usize) -> Self {
        Map(Box::new(EntryMap::with_capacity_and_hasher(capacity, foldhash::fast::RandomState::default())))
    }
}

impl std::ops::Deref for Map {
    type Target = EntryMap;

    fn deref(&self) -> &EntryMap {
        &self.0
    }
}

impl std::ops::DerefMut for Map {
    fn deref_mut(&mut self) -> &mut EntryMap {
        &mut self.0
    }
}

impl FromIterator<(String, Entry)> for Map {
    fn from_iter<I: IntoIterator<Item = (String, Entry)>>(entries: I) -> Self {
        Map(Box::new(entries.into_iter().collect()))
    }
}

impl Extend<(String, Entry)> for Map {
    fn extend<I: IntoIterator<Item = (String, Entry)>>(&mut self, entries: I) {
        self.0.extend(entries);
    }
}

impl IntoIterator for Map {
    type Item = (String, Entry);
    type IntoIter = indexmap::map::IntoIter<String, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Map {
    type Item = (&'a String, &'a Entry);
    type IntoIter = indexmap::map::Iter<'a, String, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a mut Map {
    type Item = (&'a String, &'a mut Entry);
    type IntoIter = indexmap::map::IterMut<'a, String, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut()
    }
}

/// A value of a mapping, with the place of its key.
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
        Node::new(Value::String(text.into()), *at)
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
            let key_at = map.get(key).map_or_else(|| node.at, |entry| entry.key_at);
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

    /// The kind of the value, in the words of messages.
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
