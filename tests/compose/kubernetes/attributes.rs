//! The cases of `attributes.txt`, one for each attribute, and the tables of the documentation and of the schema.

use super::export;
use serde_json::Value as Json;
use std::collections::BTreeSet;
use wharf::compose::schema::{Key, PROJECT, SERVICE, find};
use wharf::kubernetes::attributes::{AttributeOutcome, TABLE, inner, shown};

/// Beside each case's Compose file.
const FILES: [(&str, &str); 5] = [
    ("text", "hello\n"),
    ("labels", "of-file=yes\n"),
    ("vars", "A='$(one)'\nB=2\nC=3\n"),
    ("other/compose.yaml", "services: {base: {image: y}}\n"),
    ("other/.env", ""),
];

struct Case {
    attributes: Vec<String>,
    version: String,
    compose: String,
    expected: Vec<String>,
    line: usize,
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (n, line) in include_str!("attributes.txt").lines().enumerate() {
        if let Some(attributes) = line.strip_prefix("# ") {
            let attributes = attributes.split(' ').map(str::to_string).collect();
            cases.push(Case { attributes, version: "1.30".into(), compose: String::new(), expected: Vec::new(), line: n + 1 });
        }
        let Some(case) = cases.last_mut() else { continue };
        if let Some(version) = line.strip_prefix("@ ") {
            case.version = version.into();
        } else if line.starts_with("= ") || line.starts_with("~ ") {
            case.expected.push(line.into());
        } else if !line.starts_with("# ") {
            case.compose.push_str(line);
            case.compose.push('\n');
        }
    }
    cases
}

fn outcome(path: &str) -> Option<AttributeOutcome> {
    TABLE.iter().find(|attribute| attribute.path == path).map(|attribute| attribute.outcome)
}

/// What is wrong with a case.
fn wrong(case: &Case) -> Vec<String> {
    let files: Vec<(&str, &str)> = std::iter::once(("compose.yaml", case.compose.as_str())).chain(FILES).collect();
    let exported = export(&files, &case.version);
    let mut wrong = Vec::new();
    for expected in &case.expected {
        if let Some(text) = expected.strip_prefix("~ ") {
            if !exported.findings.contains(text) {
                wrong.push(format!("no finding says: {text}"));
            }
            continue;
        }
        let mut words = expected[2..].splitn(3, ' ');
        let (object, pointer, json) =
            (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let pointer = match pointer.chars().next() {
            Some('C') => pointer.replacen('C', "/spec/template/spec/containers/0", 1),
            Some('P') => pointer.replacen('P', "/spec/template/spec", 1),
            Some('S') => pointer.replacen('S', "/spec", 1),
            _ => pointer.to_string(),
        };
        let is = exported.at(object, &pointer);
        let wanted: Option<Json> = (json != "-").then(|| serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}")));
        if is != wanted.as_ref() {
            let is = is.map_or("nothing".to_string(), Json::to_string);
            wrong.push(format!("{object} {pointer}\n     is {is}\n should {json}"));
        }
    }
    for attribute in &case.attributes {
        let name = attribute.rsplit(['.', ']']).next().unwrap_or_default();
        let name = shown(attribute, name);
        let (left_out, refused) = (format!("`{name}` is left out: "), format!("`{name}` cannot be exported: "));
        let is_right = match outcome(attribute) {
            Some(AttributeOutcome::Warned(why)) => exported.findings.contains(&format!("warning: {left_out}{why}")),
            Some(AttributeOutcome::Refused(why)) => {
                exported.findings.contains(&format!("error: {refused}{why}")) && exported.is_refused
            }
            Some(AttributeOutcome::Local(_)) => !exported.findings.contains(&left_out) && !exported.findings.contains(&refused),
            Some(AttributeOutcome::Becomes(_)) => !case.expected.is_empty(),
            None => false,
        };
        if !is_right {
            wrong.push(format!("`{attribute}` has another outcome than the table says"));
        }
    }
    if !wrong.is_empty() {
        wrong.push(format!("findings:\n{}", exported.findings));
    }
    wrong
}

#[test]
fn every_attribute_becomes_what_the_table_says() {
    let cases = cases();
    let mut failed = Vec::new();
    for case in &cases {
        failed.extend(wrong(case).into_iter().map(|why| format!("attributes.txt:{}: {why}", case.line)));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let seen: BTreeSet<&str> = cases.iter().flat_map(|case| &case.attributes).map(String::as_str).collect();
    let unseen: Vec<&str> = TABLE.iter().map(|attribute| attribute.path).filter(|path| !seen.contains(path)).collect();
    assert!(unseen.is_empty(), "no case is about {unseen:?}");
}

/// Every attribute of the schema that has no attributes itself.
fn leaves(keys: &'static [Key], prefix: &str, out: &mut BTreeSet<String>) {
    for key in keys {
        let services_alone = find(SERVICE.keys().unwrap_or_default(), key.name).is_some();
        if prefix == "jobs.*." && key.name != "depends_on" && services_alone {
            continue;
        }
        let path = format!("{prefix}{}", key.name);
        match inner(&key.t) {
            (Some(keys), between) => leaves(keys, &format!("{path}{between}"), out),
            (None, _) => drop(out.insert(path)),
        }
    }
}

#[test]
fn the_table_has_every_attribute_of_the_schema() {
    let mut expected = BTreeSet::new();
    leaves(PROJECT.keys().unwrap_or_default(), "", &mut expected);
    let table: BTreeSet<String> = TABLE.iter().map(|attribute| attribute.path.to_string()).collect();
    assert_eq!(expected.difference(&table).collect::<Vec<_>>(), Vec::<&String>::new(), "not in the table");
    assert_eq!(table.difference(&expected).collect::<Vec<_>>(), Vec::<&String>::new(), "in the table alone");
    assert!(TABLE.is_sorted_by_key(|attribute| attribute.path));
}

#[test]
fn the_documentation_has_the_table() {
    let rows = TABLE.iter().map(|attribute| {
        let text = match attribute.outcome {
            AttributeOutcome::Becomes(what) => what.to_string(),
            AttributeOutcome::Local(why) => format!("nothing: {why}"),
            AttributeOutcome::Warned(why) => format!("a warning: {why}"),
            AttributeOutcome::Refused(why) => format!("an error: {why}"),
        };
        format!("| `{}` | {text} |\n", attribute.path)
    });
    let wanted = format!("| attribute | becomes |\n|---|---|\n{}", rows.collect::<String>());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kubernetes.md");
    let text = std::fs::read_to_string(path).expect("the documentation");
    let (head, rest) = text.split_once("<!-- attributes -->\n").expect("the table's beginning");
    let (table, tail) = rest.split_once("<!-- end -->\n").expect("the table's end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{head}<!-- attributes -->\n{wanted}<!-- end -->\n{tail}")).expect("the documentation");
        return;
    }
    assert!(table == wanted, "docs/kubernetes.md is not what the table says: UPDATE_DOCS=1 cargo test --test compose kubernetes");
}
