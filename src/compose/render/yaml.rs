//! YAML as Docker Compose prints it (go-yaml): two spaces, lists indented below their key, and quotes around every text that
//! a reader of YAML 1.1 or 1.2 would take for something else.

use crate::compose::node::Value as Scalar;
use crate::compose::yaml::plain;
use serde_json::Value;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::Write;

/// A document.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut out, map, 0),
        Value::Array(list) if !list.is_empty() => sequence(&mut out, list, 0),
        scalar => inline(&mut out, scalar, 0),
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

fn mapping(out: &mut String, map: &serde_json::Map<String, Value>, indent: usize) {
    for (i, (key, value)) in map.iter().enumerate() {
        if i > 0 {
            margin(out, indent);
        }
        out.push_str(&quoted(key));
        out.push(':');
        below(out, value, indent + 2);
    }
}

fn sequence(out: &mut String, list: &[Value], indent: usize) {
    for (i, item) in list.iter().enumerate() {
        if i > 0 {
            margin(out, indent);
        }
        out.push('-');
        match item {
            Value::Object(map) if !map.is_empty() => {
                out.push(' ');
                mapping(out, map, indent + 2);
            }
            Value::Array(list) if !list.is_empty() => {
                out.push(' ');
                sequence(out, list, indent + 2);
            }
            scalar => {
                out.push(' ');
                inline(out, scalar, indent + 2);
            }
        }
    }
}

/// The value of a key: on its line, or on lines of its own.
fn below(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            margin(out, indent);
            mapping(out, map, indent);
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            margin(out, indent);
            sequence(out, list, indent);
        }
        scalar => {
            out.push(' ');
            inline(out, scalar, indent);
        }
    }
}

fn margin(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// A scalar or an empty collection, and the line's end.
fn inline(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::String(text) if is_block(text) => block(out, text, indent),
        Value::String(text) => out.push_str(&quoted(text)),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        scalar => {
            let _ = write!(out, "{scalar}");
        }
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
}

/// Whether a text of several lines can be written as they are.
fn is_block(text: &str) -> bool {
    let printable = |c: char| c == '\n' || c == '\t' || !c.is_control() && c != '\u{feff}';
    text.contains('\n') && !text.ends_with(' ') && !text.contains(" \n") && text.chars().all(printable)
}

fn block(out: &mut String, text: &str, indent: usize) {
    out.push('|');
    if text.starts_with([' ', '\n']) {
        out.push('2');
    }
    if !text.ends_with('\n') {
        out.push('-');
    } else if text.ends_with("\n\n") || text == "\n" {
        out.push('+');
    }
    out.push('\n');
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        if !line.is_empty() {
            margin(out, indent.max(2));
            out.push_str(line);
        }
        out.push('\n');
    }
}

/// A text with the quotes that it needs.
fn quoted(text: &str) -> Cow<'_, str> {
    let special = |c: char| c.is_control() || c == '\u{feff}';
    if text.contains(special) || text.contains(['\u{2028}', '\u{2029}']) {
        return Cow::Owned(double(text));
    }
    let string = matches!(plain(text), Scalar::String(_)) && !is_timestamp(text) && text != "<<";
    if !string || is_old_bool(text) || is_base_60(text) {
        return Cow::Owned(double(text));
    }
    if is_plain(text) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", text.replace('\'', "''")))
}

/// Whether a text without line breaks can stand without quotes, outside of brackets.
fn is_plain(text: &str) -> bool {
    let starts_otherwise = text.starts_with(['#', ',', '[', ']', '{', '}', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`'])
        || text.starts_with("---")
        || text.starts_with("...")
        || matches!(text, "?" | ":" | "-")
        || ["? ", ": ", "- "].iter().any(|indicator| text.starts_with(indicator));
    !(starts_otherwise || text.starts_with(' ') || text.ends_with([' ', ':']) || text.contains(": ") || text.contains(" #"))
}

/// YAML 1.1's words for true and false.
fn is_old_bool(text: &str) -> bool {
    matches!(text.len(), 1..=3) && matches!(text.to_ascii_lowercase().as_str(), "y" | "yes" | "on" | "n" | "no" | "off")
}

/// YAML 1.1's numbers to the base of 60: `22:22`, `1:30:00.5`.
fn is_base_60(text: &str) -> bool {
    let mut parts = text.strip_prefix(['+', '-']).unwrap_or(text).split(':');
    let number =
        |text: &str| text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let sixtieth = |text: &str| matches!(text.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']);
    if !parts.next().is_some_and(number) {
        return false;
    }
    let mut rest: Vec<&str> = parts.collect();
    let Some(last) = rest.pop() else { return false };
    let (last, fraction) = last.split_once('.').unwrap_or((last, ""));
    sixtieth(last) && rest.into_iter().all(sixtieth) && fraction.bytes().all(|b| b.is_ascii_digit() || b == b'_')
}

/// A date, alone or with a time.
fn is_timestamp(text: &str) -> bool {
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let number = |part: Option<&str>, digits: std::ops::RangeInclusive<usize>| {
        part.is_some_and(|part| digits.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()))
    };
    let is_date =
        number(parts.next(), 4..=4) && number(parts.next(), 1..=2) && number(parts.next(), 1..=2) && parts.next().is_none();
    let is_time = |time: &str| time.split(':').count() >= 3 && time.starts_with(|c: char| c.is_ascii_digit());
    is_date && time.is_none_or(is_time)
}

fn double(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            '\x1b' => out.push_str("\\e"),
            '\u{85}' => out.push_str("\\N"),
            '\u{2028}' => out.push_str("\\L"),
            '\u{2029}' => out.push_str("\\P"),
            '\u{feff}' => out.push_str("\\uFEFF"),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The order of a mapping's keys: numbers in names by their value, and what is neither letter nor digit first.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let number = |text: &[char], from: usize, start: i64| {
        let digits: Vec<i64> = text[from..].iter().map_while(|c| c.to_digit(10)).map(i64::from).collect();
        (digits.iter().fold(start, |value, digit| value.saturating_mul(10).saturating_add(*digit)), digits.len())
    };
    let mut digits = false;
    for i in 0..a.len().min(b.len()) {
        if a[i] == b[i] {
            digits = a[i].is_ascii_digit();
            continue;
        }
        return match (a[i].is_alphabetic(), b[i].is_alphabetic()) {
            (true, true) => a[i].cmp(&b[i]),
            (true, false) => {
                if digits {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
            (false, true) => {
                if digits {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (false, false) => {
                let zero = a[i] == '0' || b[i] == '0';
                let significant = a[..i].iter().rev().take_while(|c| c.is_ascii_digit()).any(|c| *c != '0');
                let start = i64::from(zero && significant);
                number(&a, i, start).cmp(&number(&b, i, start)).then(a[i].cmp(&b[i]))
            }
        };
    }
    a.len().cmp(&b.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_have_the_quotes_that_they_need() {
        let table = [
            ("a", "a"),
            ("a b", "a b"),
            ("", r#""""#),
            ("yes", r#""yes""#),
            ("NO", r#""NO""#),
            ("y", r#""y""#),
            ("true", r#""true""#),
            ("null", r#""null""#),
            ("~", r#""~""#),
            ("22:22", r#""22:22""#),
            ("1:30:00", r#""1:30:00""#),
            ("80:8080", "80:8080"),
            ("a:1", "a:1"),
            ("1_000", r#""1_000""#),
            ("0o17", r#""0o17""#),
            ("0x1F", r#""0x1F""#),
            ("012", r#""012""#),
            ("1e3", r#""1e3""#),
            (".5", r#"".5""#),
            (".inf", r#"".inf""#),
            ("2020-01-02", r#""2020-01-02""#),
            ("2020-01-02 10:11:12", r#""2020-01-02 10:11:12""#),
            ("2020-01-02-x", "2020-01-02-x"),
            ("1.2.3", "1.2.3"),
            ("<<", r#""<<""#),
            ("a: b", "'a: b'"),
            ("a #b", "'a #b'"),
            ("it's", "it's"),
            ("'it's", "'''it''s'"),
            ("[a", "'[a'"),
            ("*a", "'*a'"),
            ("-a", "-a"),
            ("- a", "'- a'"),
            ("@a", "'@a'"),
            (" a", "' a'"),
            ("a ", "'a '"),
            ("a\tb", r#""a\tb""#),
            ("a\u{1b}b", r#""a\eb""#),
            ("é", "é"),
        ];
        for (text, expected) in table {
            assert_eq!(quoted(text), expected, "{text}");
        }
    }

    #[test]
    fn documents_are_those_of_go_yaml_and_are_read_back() {
        let value = json!({
            "services": {"web": {
                "command": ["sh", "-c", "a\nb\n"], "cpus": 0.5, "entrypoint": null, "environment": {"A": "x\ny", "B": "\n", "C": " z\n\n", "D": "t \nu"},
                "networks": {"default": null}, "ports": [{"target": 80}, [1, ["x"]], [], {}], "yes": true,
            }},
        });
        let expected = "services:\n  web:\n    command:\n      - sh\n      - -c\n      - |\n        a\n        b\n    cpus: 0.5\n    entrypoint: null\n    environment:\n      A: |-\n        x\n        y\n      B: |2+\n\n      C: |2+\n         z\n\n      D: \"t \\nu\"\n    networks:\n      default: null\n    ports:\n      - target: 80\n      - - 1\n        - - x\n      - []\n      - {}\n    \"yes\": true\n";
        assert_eq!(text(&value), expected);
        let read = crate::compose::yaml::parse(0, expected).expect("YAML").remove(0);
        assert_eq!(read.to_json(), value);
    }

    #[test]
    fn names_with_numbers_are_in_their_order() {
        let mut names = ["web10", "web2", "AB", "A_B", "a", "B", "web", "a1b", "a-1"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["A_B", "AB", "B", "a", "a-1", "a1b", "web", "web2", "web10"]);
    }
}
