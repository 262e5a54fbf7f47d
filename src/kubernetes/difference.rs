//! What `diff` shows of an object: that on the cluster beside that which an apply would make of it.

use super::object::in_order;
use crate::compose::render::yaml;
use serde_json::{Map, Value as Json};
use similar::TextDiff;

/// Fields of `metadata` that the server sets.
const SET_BY_SERVER: [&str; 7] =
    ["managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink", "deletionGracePeriodSeconds"];

/// Annotations of controllers and of `kubectl`. The last has the object once more: a Secret's values, too.
const NOT_SHOWN: [&str; 3] = [
    "deployment.kubernetes.io/revision",
    "deprecated.daemonset.template.generation",
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// The difference as unified text; `None` where there is none. An absent object has no text.
pub fn difference(name: &str, live: Option<&Json>, applied: Option<&Json>) -> Option<String> {
    let (before, after) = texts(live, applied);
    if before == after {
        return None;
    }
    let diff = TextDiff::from_lines(&before, &after);
    let header = |text: &str| if text.is_empty() { "/dev/null".to_string() } else { name.to_string() };
    Some(diff.unified_diff().context_radius(3).header(&header(&before), &header(&after)).to_string())
}

fn texts(live: Option<&Json>, applied: Option<&Json>) -> (String, String) {
    let (mut before, mut after) = (live.map(cleaned), applied.map(cleaned));
    for field in ["data", "stringData"] {
        hide(before.as_mut(), after.as_mut(), field);
    }
    let text = |json: Option<Json>| json.map(|json| yaml::text(&in_order(json))).unwrap_or_default();
    (text(before), text(after))
}

fn cleaned(json: &Json) -> Json {
    let mut json = json.clone();
    let Some(object) = json.as_object_mut() else { return json };
    object.remove("status");
    if let Some(metadata) = object.get_mut("metadata").and_then(Json::as_object_mut) {
        metadata.retain(|key, _| !SET_BY_SERVER.contains(&key.as_str()));
        let annotations = metadata.get_mut("annotations").and_then(Json::as_object_mut);
        let is_empty = annotations.is_some_and(|annotations| {
            annotations.retain(|key, _| !NOT_SHOWN.contains(&key.as_str()));
            annotations.is_empty()
        });
        if is_empty {
            metadata.remove("annotations");
        }
    }
    json
}

/// Puts words in the place of a Secret's values: who reads the difference learns which have changed, and nothing else.
fn hide(before: Option<&mut Json>, after: Option<&mut Json>, field: &str) {
    fn of<'j>(json: Option<&'j mut Json>, field: &str) -> Option<&'j mut Map<String, Json>> {
        json.filter(|json| json["kind"] == "Secret")?.get_mut(field)?.as_object_mut()
    }
    let (mut before, after) = (of(before, field), of(after, field));
    let known: Map<String, Json> = before.as_deref().cloned().unwrap_or_default();
    before.iter_mut().flat_map(|map| map.values_mut()).for_each(|value| *value = "(hidden)".into());
    for (key, value) in after.into_iter().flatten() {
        let is_same = known.get(key).is_none_or(|known| known == value);
        *value = if is_same { "(hidden)".into() } else { "(hidden, another value)".into() };
    }
}

/// A text without the values of a Secret, for messages of a server that repeats what it was sent.
pub fn without_secrets(object: &Json, text: String) -> String {
    let maps = ["data", "stringData"].into_iter().filter(|_| object["kind"] == "Secret");
    let values = maps.filter_map(|field| object[field].as_object()).flat_map(|map| map.values()).filter_map(Json::as_str);
    values.filter(|value| value.len() > 3).fold(text, |text, value| {
        let decoded = data_encoding::BASE64.decode(value.as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.replace(value, "(hidden)");
        match decoded.filter(|plain| plain.trim().len() > 3) {
            Some(plain) => text.replace(plain.trim(), "(hidden)"),
            None => text,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_server_sets_is_no_difference() {
        let live = json!({"kind": "ConfigMap", "metadata": {"name": "a", "uid": "1", "resourceVersion": "5", "generation": 2,
            "annotations": {"deployment.kubernetes.io/revision": "1"}}, "data": {"a": "1"}, "status": {"x": 1}});
        let applied = json!({"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "1"}});
        assert_eq!(difference("ConfigMap/a", Some(&live), Some(&applied)), None);
        let changed = json!({"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "2"}});
        let text = difference("ConfigMap/a", Some(&live), Some(&changed)).expect("a difference");
        assert!(text.starts_with("--- ConfigMap/a\n+++ ConfigMap/a\n"), "{text}");
        assert!(text.contains("-  a: \"1\"\n+  a: \"2\"\n"), "{text}");
        let gone = difference("ConfigMap/a", Some(&live), None).expect("a difference");
        assert!(gone.contains("+++ /dev/null"), "{gone}");
    }

    #[test]
    fn values_of_secrets_are_not_shown() {
        let secret = |password: &str, note: &str| {
            json!({"kind": "Secret", "metadata": {"name": "s", "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": note}}, "data": {"password": password, "same": "c2FtZQ=="}})
        };
        let (live, applied) = (secret("b2xk", "b2xk"), secret("bmV3", "bmV3"));
        let text = difference("Secret/s", Some(&live), Some(&applied)).expect("a difference");
        assert!(text.contains("-  password: (hidden)\n+  password: (hidden, another value)"), "{text}");
        assert!(!text.contains("b2xk") && !text.contains("bmV3") && !text.contains("c2FtZQ=="), "{text}");
        let new = difference("Secret/s", None, Some(&applied)).expect("a difference");
        assert!(new.contains("+  password: (hidden)") && !new.contains("bmV3"), "{new}");
    }

    #[test]
    fn messages_repeat_no_secret() {
        let object = json!({"kind": "Secret", "data": {"p": "aHVudGVyMg=="}});
        let text = without_secrets(&object, "Invalid value: \"hunter2\" (aHVudGVyMg==)".into());
        assert_eq!(text, "Invalid value: \"(hidden)\" ((hidden))");
    }
}
