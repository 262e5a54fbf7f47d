//! A tree as the source of a typed value, without an intermediate copy. An error knows where in the tree it is.

use super::node::{At, Entry, Node, Value};
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use std::fmt;

/// A value that does not fit a type: why, the attribute from the outermost key to the innermost, and where that is written.
#[derive(Debug)]
pub struct Misfit {
    why: String,
    path: Vec<String>,
    pub at: Option<At>,
}

impl Misfit {
    /// The error of a part, as one of the whole.
    fn within(mut self, name: String, node: &Node) -> Self {
        self.path.insert(0, name);
        self.at.get_or_insert(node.at);
        self
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut path = String::new();
        for name in &self.path {
            let dot = if path.is_empty() || name.starts_with('[') { "" } else { "." };
            path.push_str(dot);
            path.push_str(name);
        }
        if path.is_empty() { write!(f, "{}", self.why) } else { write!(f, "`{path}`: {}", self.why) }
    }
}

impl std::error::Error for Misfit {}

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        // Rust's names of numbers are not the user's.
        const NUMBERS: [(&str, &str); 6] = [
            ("expected u8", "expected a number from 0 to 255"),
            ("expected u16", "expected a number from 0 to 65535"),
            ("expected u32", "expected a number from 0 to 4294967295"),
            ("expected u64", "expected a number that is 0 or more"),
            ("expected i32", "expected a number from -2147483648 to 2147483647"),
            ("expected i64", "expected a whole number"),
        ];
        let text = message.to_string();
        let named = NUMBERS.iter().find_map(|(rust, plain)| Some(format!("{}{plain}", text.strip_suffix(rust)?)));
        Misfit { why: named.unwrap_or(text), path: Vec::new(), at: None }
    }
}

/// The entries of a map, one after the other.
struct MapEntries<'de, I> {
    rest: I,
    next: Option<(&'de str, &'de Node)>,
}

impl<'de, I: Iterator<Item = (&'de String, &'de Entry)>> MapAccess<'de> for MapEntries<'de, I> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        self.next = self.rest.next().map(|(name, entry)| (name.as_str(), &entry.node));
        let key = self
            .next
            .map(|(name, node)| seed.deserialize(name.into_deserializer()).map_err(|e: Misfit| e.within(name.into(), node)));
        key.transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let Some((name, node)) = self.next.take() else { return Err(de::Error::custom("a value without a key")) };
        seed.deserialize(node).map_err(|error| error.within(name.into(), node))
    }
}

/// The elements of a list, one after the other.
struct Elements<'de> {
    rest: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        let Some((n, node)) = self.rest.next() else { return Ok(None) };
        seed.deserialize(node).map(Some).map_err(|error| error.within(format!("[{n}]"), node))
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::List(list) => visitor.visit_seq(Elements { rest: list.iter().enumerate() }),
            Value::Map(map) => visitor.visit_map(MapEntries { rest: map.iter(), next: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.as_str().unwrap_or_default().into_deserializer().deserialize_enum(name, variants, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Misfit> for &'de Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
