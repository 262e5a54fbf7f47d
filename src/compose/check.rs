//! The check of a tree against the tables of [`schema`](super::schema): unknown names, wrong types, values that are not
//! possible. Every finding of a file at once.

use super::diagnostic::{Diagnostic, nearest};
use super::node::{Entry, Node, Path, Value};
use super::schema::{AttributeState, By, Key, Shape, Short, T, find, is_of_services_alone};
use super::units::{self, IdMap};
use std::collections::HashSet;

/// State that the checks of a load's files share.
#[derive(Debug, Default)]
pub struct Check {
    /// Attributes that a warning has named; each is named once.
    warned: HashSet<&'static str>,
    raw: bool,
    /// Attributes of clusters are acted on.
    for_cluster: bool,
}

impl Check {
    /// With `raw`, variables were left as they are: a value with a `$` may be anything.
    pub fn new(raw: bool) -> Self {
        Check { raw, ..Check::default() }
    }

    /// With what a load leaves out.
    pub fn without(skip: super::Skip) -> Self {
        Check { for_cluster: skip.one_machine, ..Check::new(skip.interpolation) }
    }

    /// Checks a file's tree. What is absent or empty is not judged: another file may give it ([`super::finish`] does).
    pub fn check(&mut self, root: &Node, t: &T, found: &mut Vec<Diagnostic>) {
        Checker { common: self, found }.check(root, t, &Path::TOP);
    }
}

struct Checker<'a> {
    common: &'a mut Check,
    found: &'a mut Vec<Diagnostic>,
}

impl Checker<'_> {
    fn wrong(&mut self, node: &Node, path: &Path<'_>, expected: &str) {
        self.found.push(wrong(node, path, expected));
    }

    /// As [`Self::wrong`], with an example of what is right.
    fn wrong_type(&mut self, node: &Node, path: &Path<'_>, expected: &str, t: &T) {
        self.found.push(wrong(node, path, expected).maybe_help(example(node, t, path.last())));
    }

    fn check(&mut self, node: &Node, t: &T, path: &Path<'_>) {
        if node.is_null() || (self.common.raw && node.as_str().is_some_and(|text| text.contains('$'))) {
            return;
        }
        match t {
            T::Any => {}
            T::Maybe(inner) => self.check(node, inner, path),
            T::Str => {
                if node.as_str().is_none() {
                    self.wrong_type(node, path, "a string", t);
                    if let (Some(text), Some(last)) = (node.scalar_text(), self.found.last_mut()) {
                        last.help = Some(format!("quote it: `{}: \"{text}\"`", path.last()));
                    }
                }
            }
            T::Text => {
                if matches!(node.value, Value::List(_) | Value::Map(_)) {
                    self.wrong_type(node, path, "a string or a number", t);
                }
            }
            T::Bool => {
                if boolean(node).is_none() {
                    self.wrong_type(node, path, "`true` or `false`", t);
                }
            }
            T::Int => {
                if integer(node).is_none() {
                    self.wrong_type(node, path, "an integer", t);
                }
            }
            T::Float => {
                if float(node).is_none() {
                    self.wrong_type(node, path, "a number", t);
                }
            }
            T::Duration => self.check_duration(node, path),
            T::Bytes => self.check_bytes(node, path),
            T::OneOf(values) => match node.as_str() {
                Some(text) if values.contains(&text) || text.is_empty() => {}
                Some(text) => self.not_one_of(node, path, text, values, &listed(values)),
                None => self.wrong(node, path, &format!("one of {}", listed(values))),
            },
            T::Restart => self.check_restart(node, path),
            T::PullPolicy => self.check_pull_policy(node, path),
            T::IdMap => self.check_id_map(node, path),
            T::Command | T::Test => match &node.value {
                Value::String(_) => {}
                Value::List(list) => list.iter().for_each(|item| {
                    if matches!(item.value, Value::List(_) | Value::Map(_)) {
                        self.wrong(item, path, "a list of strings");
                    }
                }),
                _ => self.wrong_type(node, path, "a string, or a list such as `[\"sleep\", \"10\"]`", t),
            },
            T::List(item, by) => match &node.value {
                Value::List(list) => self.check_list(list, item, *by, path),
                _ => self.wrong_type(node, path, "a list (lines that begin with `- `)", t),
            },
            T::Many(item, by) => match &node.value {
                Value::List(list) => self.check_list(list, item, *by, path),
                _ => self.check(node, item, path),
            },
            T::Mapping | T::Variables | T::Hosts => self.check_mapping(node, t, path),
            T::Options => match &node.value {
                Value::Map(map) => map.iter().for_each(|(key, entry)| self.check(&entry.node, &T::Text, &path.name(key))),
                _ => self.wrong_type(node, path, "a mapping such as `KEY: value`", t),
            },
            T::Map(item) => match &node.value {
                Value::Map(map) => map.iter().for_each(|(key, entry)| self.check_entry(key, entry, item, path)),
                _ => self.wrong_type(node, path, "a mapping (lines such as `name: value`)", t),
            },
            T::Obj(keys) => self.check_object(node, keys, path),
            T::Short(short) => self.check_short(node, short, t, path),
        }
    }

    fn check_duration(&mut self, node: &Node, path: &Path<'_>) {
        if node.as_str().is_none_or(|text| units::duration(text).is_none()) {
            self.wrong_type(node, path, "a duration such as `30s` or `1m30s`", &T::Duration);
            if let (Some(number), Some(last)) = (integer(node), self.found.last_mut()) {
                last.help = Some(format!("say which unit: `{}: {number}s`", path.last()));
            }
        }
    }

    fn check_entry(&mut self, key: &str, entry: &Entry, item: &T, path: &Path<'_>) {
        let named = [("services", "service"), ("jobs", "job")].into_iter().find(|(section, _)| path.is_section(section));
        if let Some((_, what)) = named.filter(|_| !is_service_name(key)) {
            self.found.push(
                Diagnostic::error(&entry.key_at, format!("`{key}` cannot be a {what}'s name"))
                    .help("a name has letters, digits, `.`, `-` and `_`"),
            );
        }
        self.check(&entry.node, item, &path.name(key));
    }

    /// The short form of an attribute, or its long one.
    fn check_short(&mut self, node: &Node, short: &Short, t: &T, path: &Path<'_>) {
        let long = match short.long {
            T::List(..) => matches!(node.value, Value::List(_)),
            T::Bool => boolean(node).is_some(),
            _ => matches!(node.value, Value::Map(_)),
        };
        if long {
            self.check(node, &short.long, path);
        } else if !short.accepts.iter().any(|shape| shape.fits(node)) {
            self.wrong_type(node, path, short.expected, t);
        } else if short.accepts.contains(&Shape::Strings)
            && let Value::List(list) = &node.value
        {
            self.check_list(list, &T::Str, By::Distinct, path);
        }
    }

    fn check_list(&mut self, list: &[Node], item: &T, by: By, path: &Path<'_>) {
        let mut seen: HashSet<String> = HashSet::new();
        for (i, child) in list.iter().enumerate() {
            if child.is_null() && !matches!(item, T::Any) {
                self.found.push(wrong(child, &path.index(i), "a value").help("write one after the `- `, or remove the line"));
                continue;
            }
            self.check(child, item, &path.index(i));
            if by == By::Distinct
                && let Some(text) = child.scalar_text()
                && !seen.insert(text.clone())
            {
                self.found
                    .push(Diagnostic::error(&child.at, format!("`{path}` has `{text}` twice")).help("remove one of the two"));
            }
        }
    }

    fn check_mapping(&mut self, node: &Node, t: &T, path: &Path<'_>) {
        match &node.value {
            Value::List(list) => list.iter().for_each(|item| {
                if item.as_str().is_none() {
                    self.wrong(item, path, "a list of strings such as `- KEY=value`");
                    if let (Value::Map(map), Some(last)) = (&item.value, self.found.last_mut())
                        && let Some((key, entry)) = map.first()
                    {
                        let value = entry.node.scalar_text().unwrap_or_default();
                        last.help = Some(format!("write `- {key}={value}`, or leave out the `- `"));
                    }
                }
            }),
            Value::Map(map) => {
                for (key, entry) in map {
                    let several = matches!(t, T::Hosts) && entry.node.as_list().is_some();
                    if matches!(entry.node.value, Value::Map(_)) || (entry.node.as_list().is_some() && !several) {
                        self.wrong(&entry.node, &path.name(key), "a string, a number, a boolean or nothing");
                    }
                }
            }
            _ if matches!(t, T::Hosts) => {
                self.wrong(node, path, "a list such as `- \"name:10.0.0.1\"`, or a mapping `name: 10.0.0.1`");
            }
            _ => self.wrong_type(node, path, "a mapping such as `KEY: value`, or a list such as `- KEY=value`", t),
        }
    }

    fn check_object(&mut self, node: &Node, keys: &'static [Key], path: &Path<'_>) {
        let Value::Map(map) = &node.value else {
            self.wrong_type(node, path, "a mapping (lines such as `key: value`)", &T::Obj(keys));
            return;
        };
        for (name, entry) in map {
            // A few extensions are wharf's own.
            let is_refused = path.up().is_some_and(|up| up.is_section("jobs")) && is_of_services_alone(name);
            if name.starts_with("x-") && find(keys, name).is_none() && !is_refused {
                continue;
            }
            let child = path.name(name);
            match find(keys, name) {
                Some(key) => {
                    let what = match key.state {
                        AttributeState::Done => None,
                        AttributeState::Elsewhere if self.common.for_cluster => None,
                        AttributeState::Elsewhere => Some("has no meaning on one Linux machine and has no effect"),
                    };
                    if let Some(what) = what.filter(|_| !entry.node.is_null() && self.common.warned.insert(key.name)) {
                        self.found.push(Diagnostic::warning(&entry.key_at, format!("`{child}` {what}")));
                    }
                    self.check(&entry.node, &key.t, &child);
                }
                None => {
                    let place = if path.is_top() { "at the top of a Compose file".into() } else { format!("in `{path}`") };
                    let message = format!("`{name}` is not an attribute {place}");
                    self.found.push(Diagnostic::error(&entry.key_at, message).help(unknown_help(name, keys, path)));
                }
            }
        }
    }

    fn check_bytes(&mut self, node: &Node, path: &Path<'_>) {
        let bytes = match &node.value {
            Value::Int(bytes) => Some(*bytes),
            Value::String(text) => units::bytes(text),
            _ => None,
        };
        // compose-spec allows -1 for `memswap_limit` alone.
        match bytes {
            Some(bytes) if bytes < 0 && path.last() != "memswap_limit" => {
                self.wrong(node, path, "a size of 0 or more");
            }
            Some(_) => {}
            None => self.wrong_type(node, path, "a size such as `512m` or `1g`", &T::Bytes),
        }
    }

    fn not_one_of(&mut self, node: &Node, path: &Path<'_>, text: &str, values: &[&str], all: &str) {
        let near = nearest(text, values.iter().copied()).map(|n| format!("did you mean `{n}`?"));
        self.found.push(Diagnostic::error(&node.at, format!("`{path}` cannot be `{text}`; it is one of {all}")).maybe_help(near));
    }

    fn check_restart(&mut self, node: &Node, path: &Path<'_>) {
        const POLICIES: [&str; 4] = ["no", "always", "unless-stopped", "on-failure"];
        const ALL: &str = "`no`, `always`, `unless-stopped`, `on-failure`, `on-failure:N`";
        let Some(text) = node.as_str() else {
            self.wrong(node, path, &format!("one of {ALL}"));
            if let (Value::Bool(false), Some(last)) = (&node.value, self.found.last_mut()) {
                last.help = Some("quote it: `restart: \"no\"`".into());
            }
            return;
        };
        let ok = POLICIES.contains(&text)
            || text.is_empty()
            || text.strip_prefix("on-failure:").is_some_and(|count| count.parse::<u32>().is_ok());
        if !ok {
            self.not_one_of(node, path, text, &POLICIES, ALL);
        }
    }

    fn check_pull_policy(&mut self, node: &Node, path: &Path<'_>) {
        const POLICIES: [&str; 8] = ["always", "missing", "if_not_present", "never", "build", "daily", "weekly", "refresh"];
        const ALL: &str = "`always`, `missing`, `never`, `build`, `daily`, `weekly`, `every_N` such as `every_12h`";
        let Some(text) = node.as_str() else {
            self.wrong(node, path, &format!("one of {ALL}"));
            return;
        };
        let every = text.strip_prefix("every_").is_some_and(|every| units::duration(every).is_some());
        if !(POLICIES.contains(&text) || every || text.is_empty()) {
            self.not_one_of(node, path, text, &POLICIES, ALL);
        }
    }

    fn check_id_map(&mut self, node: &Node, path: &Path<'_>) {
        match node.as_str() {
            None => self.wrong(node, path, "`match-user`, `match-user:USER` or `userns`"),
            Some("") => {}
            Some(text) => {
                if let Err(why) = text.parse::<IdMap>() {
                    self.found.push(Diagnostic::error(&node.at, format!("`{path}` cannot be `{text}`: {why}")));
                }
            }
        }
    }
}

/// `PATH must be EXPECTED, and this is ...`.
pub fn wrong(node: &Node, path: &Path<'_>, expected: &str) -> Diagnostic {
    let shown = match node.scalar_text() {
        Some(text) if !text.is_empty() => format!("{} (`{text}`)", node.kind()),
        Some(_) if !node.is_null() => "an empty string".to_string(),
        _ => node.kind().to_string(),
    };
    let path = if path.is_top() { "a Compose file".to_string() } else { format!("`{path}`") };
    Diagnostic::error(&node.at, format!("{path} must be {expected}, and this is {shown}"))
}

/// A line that would be right; where a list of one is meant, with the value that is there.
pub fn example(node: &Node, t: &T, key: &str) -> Option<String> {
    let given = node.scalar_text().filter(|text| !text.is_empty() && text.len() < 40);
    let right = match t {
        T::Bool => "true",
        T::Int => "3",
        T::Float => "1.5",
        T::Duration => "30s",
        T::Bytes => "512m",
        T::Str | T::Text => "text",
        T::List(..) => return Some(format!("write `{key}: [{}]`", given.as_deref().unwrap_or("..."))),
        T::Mapping | T::Variables | T::Hosts => match given.filter(|text| text.contains('=')) {
            Some(text) => return Some(format!("write `{key}: [{text}]`")),
            None => "{KEY: value}",
        },
        T::Command | T::Test => "[\"sh\", \"-c\", \"...\"]",
        T::Obj(_) if key.is_empty() => {
            return Some("begin with `services:`, and a service's name and attributes indented below".into());
        }
        T::Obj(keys) => {
            let first = keys.iter().find(|own| own.required).or(keys.first())?;
            return Some(format!("write `{key}: {{{}: ...}}`", if key_is_service(keys) { "image" } else { first.name }));
        }
        T::Map(_) => return Some(format!("write `{key}:`, and each name with its own lines below")),
        _ => return None,
    };
    Some(format!("write `{key}: {right}`"))
}

fn key_is_service(keys: &'static [Key]) -> bool {
    find(keys, "image").is_some() && find(keys, "build").is_some()
}

fn unknown_help(name: &str, keys: &[Key], path: &Path<'_>) -> String {
    // What people bring from other versions and other tools.
    let known = match name {
        "volume" => Some("volumes"),
        "port" => Some("ports"),
        "network" => Some("networks"),
        "env" => Some("environment"),
        "depends" => Some("depends_on"),
        "cmd" => Some("command"),
        _ => None,
    };
    if path.up().is_some_and(|up| up.is_section("jobs")) && is_of_services_alone(name) {
        return "remove it: it is about services, which stay, and a job runs to its end".to_string();
    }
    let known = known.filter(|known| keys.iter().any(|key| key.name == *known));
    match known.or_else(|| nearest(name, keys.iter().map(|key| key.name))) {
        Some(near) => format!("did you mean `{near}`?"),
        None if path.is_top() => "a service belongs under `services:`; extensions begin with `x-`".to_string(),
        None => "remove it, or begin it with `x-` if it is an extension of your own".to_string(),
    }
}

fn listed(values: &[&str]) -> String {
    values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
}

/// compose-spec, "Services top-level element".
fn is_service_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// A boolean as Compose reads one: YAML 1.1's words are accepted in strings.
pub fn boolean(node: &Node) -> Option<bool> {
    match &node.value {
        Value::Bool(value) => Some(*value),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "y" | "on" => Some(true),
            "false" | "no" | "n" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// An integer, a number without a fraction, or the text of an integer.
pub fn integer(node: &Node) -> Option<i64> {
    match &node.value {
        Value::Int(value) => Some(*value),
        Value::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => Some(*value as i64),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

pub fn float(node: &Node) -> Option<f64> {
    match &node.value {
        Value::Int(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        Value::String(text) => text.parse().ok().filter(|value: &f64| value.is_finite()),
        _ => None,
    }
}
