//! Several files into one, by the rules of compose-spec's section "Merge". Both sides are canonical trees.

use super::node::{Entry, Map, MergeTag, Node, Value};
use super::schema::{By, Key, T, find};

/// Lays `over` on `base`, both of type `t`.
pub fn merge(base: &mut Node, over: Node, t: &T) {
    if over.tag == MergeTag::Override {
        *base = Node { tag: MergeTag::None, ..over };
        return;
    }
    match t {
        // A later `command:` without a value takes the earlier one away.
        T::Command | T::Test => replace(base, over),
        _ if over.is_null() => {}
        T::Maybe(inner) => merge(base, over, inner),
        T::Short(short) => merge(base, over, &short.long),
        T::Obj(keys) => merge_object(base, over, keys),
        T::Map(inner) => merge_map(base, over, inner),
        T::Mapping | T::Variables | T::Options => merge_map(base, over, &T::Any),
        T::List(_, by) | T::Many(_, by) => merge_list(base, over, *by),
        T::Hosts => merge_list(base, over, By::Text),
        T::Any => match (&base.value, &over.value) {
            (Value::Map(_), Value::Map(_)) => merge_map(base, over, t),
            (Value::List(_), Value::List(_)) => merge_list(base, over, By::Append),
            _ => replace(base, over),
        },
        _ => replace(base, over),
    }
}

fn replace(base: &mut Node, over: Node) {
    base.value = over.value;
    base.at = over.at;
}

fn merge_object(base: &mut Node, over: Node, keys: &'static [Key]) {
    let (Value::Map(map), Value::Map(other)) = (&mut base.value, over.value) else { return };
    for (name, entry) in other {
        if let Some((existing, entry)) = reset_or_new(map, &name, entry) {
            match find(keys, &name) {
                // Options belong to a driver: those of another one are not kept.
                Some(key) if key.name == "logging" && driver(existing) != driver(&entry.node) => {
                    if driver(existing).is_none() || driver(&entry.node).is_none() {
                        merge(existing, entry.node, &key.t);
                    } else {
                        replace(existing, entry.node);
                    }
                }
                Some(key) => merge(existing, entry.node, &key.t),
                None => replace(existing, entry.node),
            }
        }
    }
}

fn driver(logging: &Node) -> Option<&str> {
    logging.get("driver").and_then(Node::as_str)
}

fn merge_map(base: &mut Node, over: Node, t: &T) {
    let (Value::Map(map), Value::Map(other)) = (&mut base.value, over.value) else { return };
    for (name, entry) in other {
        let ulimit = t.keys().is_some_and(|keys| keys.iter().any(|key| key.name == "hard"));
        if let Some((existing, entry)) = reset_or_new(map, &name, entry) {
            // An environment variable without a value is one that comes from the surroundings, not an absent one.
            if ulimit || matches!(t, T::Any) && existing.as_map().is_none() {
                replace(existing, entry.node);
            } else {
                merge(existing, entry.node, t);
            }
        }
    }
}

/// Takes a `!reset` entry away and inserts a new one; what is left is the pair to merge.
fn reset_or_new<'a>(map: &'a mut Map, name: &str, entry: Entry) -> Option<(&'a mut Node, Entry)> {
    if entry.node.tag == MergeTag::Reset {
        map.shift_remove(name);
        return None;
    }
    if map.get(name).is_none_or(|existing| existing.node.is_null() && entry.node.tag != MergeTag::Override) {
        map.insert(name.to_string(), entry);
        return None;
    }
    map.get_mut(name).map(|existing| (&mut existing.node, entry))
}

fn merge_list(base: &mut Node, over: Node, by: By) {
    if let (Value::List(list), Value::List(other)) = (&mut base.value, over.value) {
        list.extend(other);
        unify(list, by);
    }
}

/// Leaves one of the items that are the same: in the place of the first, with the value of the last.
pub fn unify(list: &mut Vec<Node>, by: By) {
    if by == By::Append || list.len() < 2 {
        return;
    }
    let mut places = std::collections::HashMap::with_capacity(list.len());
    let mut kept: Vec<Node> = Vec::with_capacity(list.len());
    for item in list.drain(..) {
        match identity(&item, by) {
            Some(id) => match places.get(&id) {
                Some(place) => kept[*place] = item,
                None => {
                    places.insert(id, kept.len());
                    kept.push(item);
                }
            },
            None => kept.push(item),
        }
    }
    *list = kept;
}

fn identity(item: &Node, by: By) -> Option<String> {
    let field = |name: &str| item.get(name).and_then(Node::scalar_text).filter(|text| !text.is_empty());
    match by {
        By::Append => None,
        By::Distinct | By::Text => item.scalar_text(),
        By::Name => item.scalar_text().map(|text| text.split('=').next().unwrap_or_default().to_string()),
        By::Field(name) => field(name),
        By::Mount(directory) => field("target").or_else(|| Some(format!("{directory}/{}", field("source")?))),
        By::Port => {
            let or = |name: &str, default: &str| field(name).unwrap_or_else(|| default.to_string());
            let address = or("host_ip", "0.0.0.0");
            Some(format!("{address}:{}:{}/{}", or("published", ""), or("target", ""), or("protocol", "tcp")))
        }
    }
}

/// Removes the doubles of every list of a tree.
pub fn unify_tree(node: &mut Node, t: &T) {
    match (t, &mut node.value) {
        (T::Maybe(inner), _) => unify_tree(node, inner),
        (T::Short(short), _) => unify_tree(node, &short.long),
        (T::Obj(keys), Value::Map(map)) => {
            for (name, entry) in map {
                if let Some(key) = find(keys, name) {
                    unify_tree(&mut entry.node, &key.t);
                }
            }
        }
        (T::Map(inner), Value::Map(map)) => map.values_mut().for_each(|entry| unify_tree(&mut entry.node, inner)),
        (T::List(item, by) | T::Many(item, by), Value::List(list)) => {
            unify(list, *by);
            list.iter_mut().for_each(|child| unify_tree(child, item));
        }
        (T::Hosts, Value::List(list)) => unify(list, By::Text),
        _ => {}
    }
}

/// Removes what `!reset` marks, and the tags themselves: for the first file, which has nothing below it.
pub fn drop_reset(node: &mut Node) {
    node.tag = MergeTag::None;
    match &mut node.value {
        Value::Map(map) => {
            map.retain(|_, entry: &mut Entry| entry.node.tag != MergeTag::Reset);
            map.values_mut().for_each(|entry| drop_reset(&mut entry.node));
        }
        Value::List(list) => {
            list.retain(|item| item.tag != MergeTag::Reset);
            list.iter_mut().for_each(drop_reset);
        }
        _ => {}
    }
}

/// Removes from `base` what `!reset` and `!override` mark in a file that is about to be merged on it. [`super::extends`]
/// consumes the tags of a service that extends another, and they are about the earlier files as well.
pub fn apply_tags(base: &mut Node, over: &Node) {
    let (Value::Map(map), Value::Map(other)) = (&mut base.value, &over.value) else { return };
    for (name, entry) in other {
        match entry.node.tag {
            MergeTag::None => {
                if let Some(existing) = map.get_mut(name) {
                    apply_tags(&mut existing.node, &entry.node);
                }
            }
            MergeTag::Reset | MergeTag::Override => {
                map.shift_remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::{canonical, schema, yaml};

    fn merged(base: &str, over: &str) -> serde_json::Value {
        let read = |text: &str| {
            let mut node = yaml::parse(0, text).expect("yaml").remove(0);
            canonical::canonicalise(&mut node, &schema::SERVICE, false, &mut Vec::new());
            node
        };
        let mut node = read(base);
        merge(&mut node, read(over), &schema::SERVICE);
        drop_reset(&mut node);
        node.to_json()
    }

    #[test]
    fn rules_by_attribute() {
        let table = [
            ("{command: [a, b]}", "{command: [c]}", r#"{"command":["c"]}"#),
            ("{command: [a, b]}", "{command: }", r#"{"command":null}"#),
            ("{dns: a}", "{dns: [b, a]}", r#"{"dns":["a","b"]}"#),
            ("{environment: [A=1, B=2]}", "{environment: {B: 3, C: }}", r#"{"environment":{"A":"1","B":"3","C":null}}"#),
            (
                "{volumes: [xx:/a, zz:/c]}",
                "{volumes: [yy:/a:ro, '/b']}",
                r#"{"volumes":[{"type":"volume","source":"yy","target":"/a","read_only":true,"volume":{}},{"type":"volume","source":"zz","target":"/c","volume":{}},{"type":"volume","target":"/b","volume":{}}]}"#,
            ),
            (
                "{extra_hosts: ['a:1.1.1.1']}",
                "{extra_hosts: {a: [1.1.1.1, 2.2.2.2]}}",
                r#"{"extra_hosts":["a=1.1.1.1","a=2.2.2.2"]}"#,
            ),
            ("{image: x, tty: true}", "{tty: !reset null}", r#"{"image":"x"}"#),
            ("{cap_add: [A]}", "{cap_add: !override [B]}", r#"{"cap_add":["B"]}"#),
            ("{build: .}", "{build: {target: dev}}", r#"{"build":{"context":".","target":"dev"}}"#),
            ("{ulimits: {nofile: {soft: 1, hard: 2}}}", "{ulimits: {nofile: 5}}", r#"{"ulimits":{"nofile":5}}"#),
            (
                "{logging: {driver: a, options: {x: 1}}}",
                "{logging: {driver: b, options: {y: 1}}}",
                r#"{"logging":{"driver":"b","options":{"y":"1"}}}"#,
            ),
            (
                "{logging: {driver: a, options: {x: 1}}}",
                "{logging: {options: {y: 1}}}",
                r#"{"logging":{"driver":"a","options":{"x":"1","y":"1"}}}"#,
            ),
            ("{x-a: {b: 1}}", "{x-a: {c: 1}}", r#"{"x-a":{"c":1}}"#),
            ("{hostname: a}", "{hostname: }", r#"{"hostname":"a"}"#),
            ("{networks: [a]}", "{networks: {a: {aliases: [x]}, b: }}", r#"{"networks":{"a":{"aliases":["x"]},"b":null}}"#),
        ];
        for (base, over, expected) in table {
            assert_eq!(merged(base, over).to_string(), expected, "{base} + {over}");
        }
    }
}
