//! Several files into one, by the rules of compose-spec's section "Merge".

use super::node::{Entry, MergeTag, Node, Value};

/// Lays `over` on `base`. Both are canonical trees.
pub fn merge(base: &mut Node, over: Node) {
    merge_at(base, over, &mut Vec::new());
    drop_reset(base);
}

/// Attributes of a service whose later value replaces the earlier one although they are lists.
const REPLACED: [&str; 3] = ["command", "entrypoint", "test"];

fn merge_at(base: &mut Node, over: Node, path: &mut Vec<String>) {
    if over.tag == MergeTag::Reset {
        base.value = Value::Null;
        base.tag = MergeTag::Reset;
        return;
    }
    if over.tag == MergeTag::Override {
        *base = Node { tag: MergeTag::None, ..over };
        return;
    }
    let last = path.last().cloned().unwrap_or_default();
    match (&mut base.value, over.value) {
        (Value::Map(map), Value::Map(other)) => {
            for (key, entry) in other {
                match map.get_mut(&key) {
                    Some(existing) => {
                        path.push(key);
                        merge_at(&mut existing.node, entry.node, path);
                        path.pop();
                    }
                    None => {
                        map.insert(key, entry);
                    }
                }
            }
        }
        (Value::List(list), Value::List(other)) if !REPLACED.contains(&last.as_str()) => {
            for item in other {
                match identity(&last, &item).and_then(|id| list.iter_mut().find(|i| identity(&last, i).as_ref() == Some(&id))) {
                    Some(existing) if matches!(existing.value, Value::Map(_)) => merge_at(existing, item, path),
                    Some(_) => {}
                    None => list.push(item),
                }
            }
        }
        (_, Value::Null) => {}
        (value, other) => {
            *value = other;
            base.at = over.at;
        }
    }
}

/// What makes an item of a list the same item in another file; `None` where every item counts.
fn identity(key: &str, item: &Node) -> Option<String> {
    let field = |name: &str| item.get(name).and_then(Node::scalar_text).unwrap_or_default();
    match key {
        "volumes" | "devices" => Some(field("target")),
        "secrets" | "configs" => Some(if field("target").is_empty() { field("source") } else { field("target") }),
        "ports" => Some(format!("{}:{}:{}/{}", field("host_ip"), field("published"), field("target"), field("protocol"))),
        "env_file" => Some(field("path")),
        "expose" | "dns" | "dns_search" | "dns_opt" | "cap_add" | "cap_drop" | "tmpfs" | "group_add" | "security_opt"
        | "profiles" | "aliases" | "external_links" | "links" | "volumes_from" | "extra_hosts" => item.scalar_text(),
        _ => None,
    }
}

/// Removes what `!reset` marked, in the merged tree as in a single file.
pub fn drop_reset(node: &mut Node) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::yaml;

    #[test]
    fn rules_by_attribute() {
        let table = [
            ("{a: 1, b: {c: 2}}", "{b: {d: 3}}", r#"{"a":1,"b":{"c":2,"d":3}}"#),
            ("{command: [a, b]}", "{command: [c]}", r#"{"command":["c"]}"#),
            ("{dns: [a]}", "{dns: [b, a]}", r#"{"dns":["a","b"]}"#),
            (
                "{volumes: [{target: /a, source: x}]}",
                "{volumes: [{target: /a, source: y}, {target: /b}]}",
                r#"{"volumes":[{"target":"/a","source":"y"},{"target":"/b"}]}"#,
            ),
            ("{a: 1, b: 2}", "{a: !reset null}", r#"{"b":2}"#),
            ("{l: [1, 2]}", "{l: !override [3]}", r#"{"l":[3]}"#),
            ("{a: 1}", "{}", r#"{"a":1}"#),
        ];
        for (base, over, expected) in table {
            let read = |text: &str| yaml::parse(&"t".into(), text).expect("yaml").remove(0);
            let mut merged = read(base);
            merge(&mut merged, read(over));
            assert_eq!(merged.to_json().to_string(), expected, "{base} + {over}");
        }
    }
}
