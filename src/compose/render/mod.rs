//! The canonical tree as Docker Compose prints it: names in order, dollars doubled so that the output is a Compose file
//! again.

mod order;
pub mod yaml;

use super::node::{Map, Node, Value};
use super::schema::{self, T};
use serde_json::{Map as Object, Value as Json};
use std::cmp::Ordering;

/// The two shapes of `docker compose config`, which differ in more than their syntax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenderFormat {
    /// Empty values are left out, extensions are kept.
    Yaml,
    /// `command` and `entrypoint` are always there, extensions are kept at the top alone.
    Json,
}

/// The printable form of a finished tree. With `raw`, variables are still in it and dollars stay single.
pub fn render(root: &Node, format: RenderFormat, raw: bool) -> Json {
    Render { format, raw }.object(root, &schema::PROJECT, true)
}

struct Render {
    format: RenderFormat,
    raw: bool,
}

impl Render {
    fn value(&self, node: &Node, t: Option<&T>) -> Json {
        match &node.value {
            Value::Map(map) if is_ssh(t) => Json::Array(map.iter().map(|(id, entry)| self.ssh_key(id, &entry.node)).collect()),
            Value::Map(_) => match t {
                Some(t) if t.keys().is_some() => self.object(node, t, false),
                _ => self.mapping(node, t),
            },
            Value::List(list) => {
                let item = match t {
                    Some(T::List(item, _) | T::Many(item, _)) => Some(*item),
                    Some(T::Short(short)) => match short.long {
                        T::List(item, _) => Some(item),
                        _ => None,
                    },
                    _ => None,
                };
                Json::Array(list.iter().map(|child| self.value(child, item)).collect())
            }
            Value::String(text) if !self.raw => Json::String(text.replace('$', "$$")),
            _ => node.to_json(),
        }
    }

    /// A mapping with names of the user's choice.
    fn mapping(&self, node: &Node, t: Option<&T>) -> Json {
        let entries = node.as_map().into_iter().flatten();
        let entries = entries.map(|(name, entry)| (self.text(name), self.value(&entry.node, t.and_then(|t| t.child(name)))));
        match self.format {
            RenderFormat::Yaml => in_order(entries, yaml::natural),
            RenderFormat::Json => in_order(entries, str::cmp),
        }
    }

    fn object(&self, node: &Node, t: &T, top: bool) -> Json {
        let mut object = Object::new();
        for (name, entry) in node.as_map().into_iter().flatten() {
            if name.starts_with("x-") && self.format == RenderFormat::Json && !top {
                continue;
            }
            let child = t.child(name);
            let shown = if self.format == RenderFormat::Json { blkio_name(t, name) } else { name.clone() };
            object.insert(shown, self.value(&entry.node, child));
        }
        for key in t.keys().unwrap_or_default().iter().filter(|key| key.always) {
            if self.format == RenderFormat::Yaml {
                // Structures without a pointer are left out when they are empty.
                if object.get(key.name).and_then(Json::as_object).is_some_and(Object::is_empty) {
                    object.shift_remove(key.name);
                }
                continue;
            }
            if !object.contains_key(key.name) {
                let empty = match &key.t {
                    T::Obj(_) => self.object(&Node::new(Value::Map(Map::default()), node.at), &key.t, false),
                    _ => Json::Null,
                };
                object.insert(key.name.to_string(), empty);
            }
        }
        // With variables in it, Docker Compose prints the mapping as it was loaded, not its own types.
        if self.format == RenderFormat::Json || self.raw {
            return in_order(object, str::cmp);
        }
        let order = order::of(t);
        let place = |name: &str| order.iter().position(|known| *known == name).unwrap_or(order.len());
        in_order(object, |a, b| place(a).cmp(&place(b)).then_with(|| a.cmp(b)))
    }

    fn text(&self, text: &str) -> String {
        if self.raw { text.to_string() } else { text.replace('$', "$$") }
    }

    fn ssh_key(&self, id: &str, path: &Node) -> Json {
        match path.as_str().filter(|path| !path.is_empty()) {
            Some(path) => Json::String(self.text(&format!("{id}={path}"))),
            None => Json::String(id.to_string()),
        }
    }
}

fn is_ssh(t: Option<&T>) -> bool {
    matches!(t, Some(T::Short(short)) if matches!(short.long, T::Map(T::Maybe(T::Str))))
}

/// Docker Compose's model gives these no names for JSON, and Go then capitalises its own.
fn blkio_name(t: &T, name: &str) -> String {
    let throttle =
        t.keys().is_some_and(|keys| keys.len() == 2 && keys[0].name == "path" && matches!(keys[1].name, "rate" | "weight"));
    match name.chars().next() {
        Some(first) if throttle => format!("{}{}", first.to_ascii_uppercase(), &name[first.len_utf8()..]),
        _ => name.to_string(),
    }
}

fn in_order(entries: impl IntoIterator<Item = (String, Json)>, order: impl Fn(&str, &str) -> Ordering) -> Json {
    let mut entries: Vec<(String, Json)> = entries.into_iter().collect();
    entries.sort_by(|(a, _), (b, _)| order(a, b));
    Json::Object(entries.into_iter().collect())
}
