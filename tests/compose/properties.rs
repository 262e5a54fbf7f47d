//! What holds for every input.

use proptest::prelude::*;
use serde::Deserialize;
use wharf::compose::check::Check;
use wharf::compose::node::Node;
use wharf::compose::{canonical, dotenv, finish, interpolate, merge, schema, yaml};

/// Canonical form of a text, or nothing where it is refused.
fn canonical(text: &str) -> Option<Node> {
    let mut node = yaml::parse(0, text).ok()?.into_iter().next()?;
    let mut found = Vec::new();
    Check::new(false).check(&node, &schema::PROJECT, &mut found);
    canonical::canonicalise(&mut node, &schema::PROJECT, false, &mut found);
    found.iter().all(|d| d.severity != wharf::compose::diagnostic::Severity::Error).then_some(node)
}

/// Lines of a service, right and wrong ones, in any combination.
fn service() -> impl Strategy<Value = String> {
    let lines = prop::sample::subsequence(
        vec![
            "command: echo 'a b'",
            "entrypoint: [a, b]",
            "environment: [A=1, B, C=]",
            "labels: {a: 1, b: }",
            "ports: ['80:80', '9000-9002:90-92/udp', {target: 1}]",
            "volumes: [./a:/b, name:/c:ro, /d, {type: tmpfs, target: /e, tmpfs: {size: 1m}}]",
            "depends_on: [x, y]",
            "networks: [a, b]",
            "extra_hosts: ['a:1.1.1.1', 'b=::1']",
            "env_file: [a.env, {path: b.env, required: false}]",
            "build: .",
            "secrets: [s]",
            "dns: 1.1.1.1",
            "tmpfs: [/a, /b]",
            "ulimits: {nofile: 10, nproc: {soft: 1, hard: 2}}",
            "healthcheck: {test: 'true', interval: 90s}",
            "deploy: {replicas: '2', resources: {limits: {cpus: '0.5', memory: 1g}}}",
            "develop: {watch: [{path: ., action: rebuild}]}",
            "devices: ['/dev/a:/dev/b']",
            "gpus: all",
            "mem_limit: 12m",
            "stop_grace_period: 1m30s",
            "x-own: {anything: [1, 2]}",
        ],
        0..12,
    );
    lines.prop_map(|lines| format!("services:\n  web:\n    image: i\n    {}\n", lines.join("\n    ")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn canonicalising_is_idempotent(text in service()) {
        let once = canonical(&text).expect("right");
        let mut twice = once.clone();
        let mut found = Vec::new();
        Check::new(false).check(&twice, &schema::PROJECT, &mut found);
        canonical::canonicalise(&mut twice, &schema::PROJECT, false, &mut found);
        prop_assert_eq!(once.to_json(), twice.to_json());
    }

    #[test]
    fn settling_is_idempotent(text in service()) {
        let mut once = canonical(&text).expect("right");
        finish::finish(&mut once, &schema::PROJECT, false, &mut Vec::new());
        let mut twice = once.clone();
        finish::finish(&mut twice, &schema::PROJECT, false, &mut Vec::new());
        prop_assert_eq!(once.to_json(), twice.to_json());
    }

    #[test]
    fn merging_with_an_empty_file_changes_nothing(text in service()) {
        let plain = canonical(&text).expect("right");
        for empty in ["{}", "services: {}", "services: {web: {}}", "services: {web: }"] {
            let mut merged = plain.clone();
            merge::merge(&mut merged, canonical(empty).expect("right"), &schema::PROJECT);
            prop_assert_eq!(merged.to_json(), plain.to_json());
        }
    }

    #[test]
    fn merging_a_file_with_itself_changes_nothing_unique(text in service()) {
        let mut plain = canonical(&text).expect("right");
        merge::unify_tree(&mut plain, &schema::PROJECT);
        let mut merged = plain.clone();
        merge::merge(&mut merged, plain.clone(), &schema::PROJECT);
        let (mut a, mut b) = (merged.to_json(), plain.to_json());
        for json in [&mut a, &mut b] {
            // Watches and what has no identity are appended.
            json["services"]["web"].as_object_mut().expect("a service").retain(|key, _| !["develop", "gpus"].contains(&key.as_str()));
        }
        prop_assert_eq!(a, b);
    }

    #[test]
    fn any_text_is_a_tree_or_an_error(text in "[ -~\n\t:{}\\[\\]&*!'\"#|>-]{0,200}") {
        let _ = canonical(&text);
    }

    #[test]
    fn any_bytes_are_a_tree_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = canonical(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_text_is_an_env_file_or_an_error(text in "[ -~\n\t=$'\"\\\\#]{0,200}") {
        let _ = dotenv::parse(&text, &|_: &str| None);
    }

    #[test]
    fn any_text_is_expanded_or_an_error(text in "[ -~${}:?+-]{0,100}") {
        let _ = interpolate::expand(&text, &|name: &str| Some(name.to_string()), &mut interpolate::Unset::new());
    }

    #[test]
    fn a_text_without_dollars_is_left_alone(text in "[^$]{0,100}") {
        let expanded = interpolate::expand(&text, &|_: &str| None, &mut interpolate::Unset::new());
        prop_assert_eq!(expanded.as_deref(), Ok(text.as_str()));
    }

    #[test]
    fn an_env_file_gives_back_what_was_quoted(value in "[^'\\\\\r]{0,60}") {
        let values = dotenv::parse(&format!("A='{value}'\n"), &|_: &str| None).expect("right");
        prop_assert_eq!(values.get("A").map(String::as_str), Some(value.as_str()));
    }
}

/// A file of 50 MB and one that multiplies itself by aliases: an answer, in bounded memory.
#[test]
fn large_and_hostile_files() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..20 {
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(",")));
    }
    assert!(yaml::parse(0, &bomb).is_err());
    let scalar = format!("x-large: \"{}\"\n", "y".repeat(50 << 20));
    assert_eq!(yaml::parse(0, &scalar).map(|documents| documents.len()).ok(), Some(1));
    let many = "- a\n".repeat(50 << 18);
    let before = memory();
    assert!(yaml::parse(0, &many).is_err(), "more values than a Compose file has");
    assert!(memory() - before < 2 << 30, "{} bytes", memory() - before);
    let open = "[".repeat(50 << 20);
    assert!(yaml::parse(0, &open).is_err());
}

/// The most memory that this process has had, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

/// The tree of a text by libyaml, which go-yaml is a port of: the outer error says whether it is YAML at all.
fn by_libyaml(text: &str) -> Result<Option<Vec<serde_json::Value>>, serde_yaml::Error> {
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        match serde_yaml::Value::deserialize(document) {
            Ok(value) => documents.push(serde_json::to_value(&value).ok()),
            // What is YAML and no tree of JSON's: keys that are twice there.
            Err(error) if error.to_string().contains("duplicate entry") => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(documents.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn texts_of_yaml_are_the_trees_that_libyaml_sees(pieces in proptest::collection::vec(proptest::sample::select(vec![
        "x", "y z", "k: ", "l:", "- ", "\n", "\n", "\n  ", "\n    ", "\n  - ", "\nm: ", " ", "\t", "[", "]", "{", "}", ", ", ": ", "'q'", "\"r\"",
        "'", "\"", "''", "\\n", "\\", "|", ">", "|-", "# c", "#", "-", "!!str ", "é", "---\n",
    ]), 0..14)) {
        let text = pieces.concat();
        let ours = wharf::compose::yaml::parse(0, &text);
        match (by_libyaml(&text), ours) {
            (Ok(Some(theirs)), Ok(ours)) => {
                let ours: Vec<_> = ours.iter().map(wharf::compose::node::Node::to_json).collect();
                // Without a document libyaml's reader sees one that is nothing.
                prop_assert!(ours == theirs || (ours.is_empty() && theirs == [serde_json::Value::Null]), "{text:?}: {ours:?}, not {theirs:?}");
            }
            (Ok(None), _) => {}
            (Ok(_), Err(error)) => {
                prop_assert!(error.message.contains("a key must be") || error.message.contains("already set"), "{text:?}: {}", error.message);
            }
            // go-yaml has one escape more.
            (Err(error), Ok(_)) if error.to_string().contains("unknown escape") && text.contains("\\'") => {}
            // go-yaml takes `[a:]` for a list of the text `a:`.
            (Err(error), Ok(_)) if error.to_string().contains("unexpected ':'") => {}
            (Err(error), Ok(ours)) => prop_assert!(false, "{text:?} is not YAML: {error}; read as {ours:?}"),
            _ => {}
        }
    }
}
