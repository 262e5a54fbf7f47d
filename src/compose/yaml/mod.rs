//! YAML text to positioned nodes: anchors, aliases, merge keys, tags and the scalars that Docker Compose sees.

use super::diagnostic::Diagnostic;
use super::node::{At, Entry, FileId, Map, MergeTag, Node, Value};
use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use std::borrow::Cow;
use std::collections::HashMap;

/// Aliases may multiply a document up to this many nodes; beyond it is an alias bomb, not a Compose file.
const MAX_NODES: usize = 4_000_000;
/// Bytes of text that count as one node.
const TEXT_PER_NODE: usize = 64;
/// Compose files nest about ten deep; the bound keeps the recursion within any stack.
const MAX_DEPTH: usize = 100;

/// Parses every document of a file. An empty file has none.
pub fn parse(file: FileId, text: &str) -> Result<Vec<Node>, Diagnostic> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder { file, text, events: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    let mut documents = Vec::new();
    loop {
        let (event, span) = builder.next()?;
        match event {
            Event::StreamEnd => return Ok(documents),
            Event::DocumentStart(_) => {
                let (event, span) = builder.next()?;
                documents.push(builder.node(event, span, 0)?);
            }
            Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
            _ => return Err(Diagnostic::error(&builder.at(span), "unexpected content after the end of the document")),
        }
    }
}

struct Builder<'input> {
    file: FileId,
    text: &'input str,
    events: Parser<'input, saphyr_parser::StrInput<'input>>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl<'input> Builder<'input> {
    fn next(&mut self) -> Result<(Event<'input>, Span), Diagnostic> {
        match self.events.next_event() {
            Some(Ok(next)) => Ok(next),
            None => Ok((Event::StreamEnd, Span::default())),
            Some(Err(error)) => {
                let mark = error.marker();
                let at = self.clamped(mark.line().max(1), mark.col() + 1);
                let info = error.info().to_string();
                let help = if info.contains("tab") {
                    "YAML is indented with spaces, never with tabs"
                } else if info.contains("mapping values are not allowed") {
                    "quote the value if it holds `: `, or check the indentation of this line and the one above"
                } else if info.contains("anchor") || info.contains("alias") {
                    "mark the value that is meant with `&name`, above this line"
                } else if info.contains("quote") || info.contains("end of stream") || info.contains("end of file") {
                    "close the quote or the bracket that was opened"
                } else if info.contains("',' or ']'") || info.contains("',' or '}'") || info.contains("flow") {
                    "close the bracket, and part its items by commas"
                } else {
                    "check the indentation, and quote values that hold special characters"
                };
                Err(Diagnostic::error(&at, format!("this is not valid YAML: {info}")).help(help))
            }
        }
    }

    /// A place of the text: what the parser reports behind the end is the end of the last line that holds something.
    fn clamped(&self, line: usize, column: usize) -> At {
        let at = |line: usize, column: usize| At { file: self.file, line: line as u32, column: column as u32, len: 1 };
        match self.text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()).last() {
            Some((last, text)) if line > last + 1 => at(last + 1, text.trim_end().chars().count() + 1),
            _ => at(line, column),
        }
    }

    fn at(&self, span: Span) -> At {
        let len = if span.start.line() == span.end.line() { span.end.col().saturating_sub(span.start.col()) } else { 1 };
        At {
            file: self.file,
            line: span.start.line().max(1) as u32,
            column: span.start.col() as u32 + 1,
            len: len.clamp(1, usize::from(u16::MAX)) as u16,
        }
    }

    fn count(&mut self, at: &At, nodes: usize) -> Result<(), Diagnostic> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(Diagnostic::error(at, format!("the document grows past {MAX_NODES} values by its aliases"))
                .help("an alias that repeats aliases multiplies: write the values out"));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'input>, span: Span, depth: usize) -> Result<Node, Diagnostic> {
        let at = self.at(span);
        if depth > MAX_DEPTH {
            return Err(Diagnostic::error(&at, format!("nested more than {MAX_DEPTH} levels deep"))
                .help("a Compose file needs about ten: a bracket or an indentation is wrong"));
        }
        let before = self.nodes;
        self.count(&at, 1)?;
        let (anchor, node) = match event {
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id).cloned() else {
                    return Err(Diagnostic::error(&at, "this alias refers to the value that it is part of"));
                };
                self.count(&at, size)?;
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                // A long text weighs as many short ones, should aliases repeat it.
                self.count(&at, text.len() / TEXT_PER_NODE)?;
                let value = scalar(&text, style, tag.as_deref());
                (anchor, Node { value, at, tag: merge_tag(tag.as_ref()) })
            }
            Event::SequenceStart(anchor, tag) => {
                let mut list = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => list.push(self.node(event, span, depth + 1)?),
                    }
                }
                (anchor, Node { value: Value::List(list), at, tag: merge_tag(tag.as_ref()) })
            }
            Event::MappingStart(anchor, tag) => {
                let map = self.mapping(depth)?;
                (anchor, Node { value: Value::Map(map), at, tag: merge_tag(tag.as_ref()) })
            }
            Event::StreamEnd | Event::DocumentEnd => return Ok(Node::new(Value::Null, at)),
            _ => return Err(Diagnostic::error(&at, "unexpected YAML structure")),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before));
        }
        Ok(node)
    }

    fn mapping(&mut self, depth: usize) -> Result<Map, Diagnostic> {
        let mut map = Map::default();
        let mut merged: Vec<Node> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let plain = matches!(&event, Event::Scalar(_, ScalarStyle::Plain, _, _));
            let key = self.node(event, span, depth + 1)?;
            let key_at = key.at;
            let (event, span) = self.next()?;
            let node = self.node(event, span, depth + 1)?;
            let Value::String(name) = &key.value else {
                let help = match key.scalar_text() {
                    Some(text) if !text.is_empty() => format!("quote it: `\"{text}\":`"),
                    _ => "write `name: value`".to_string(),
                };
                return Err(Diagnostic::error(&key_at, format!("a key must be a string, and this is {}", key.kind())).help(help));
            };
            let name = name.clone();
            if name == "<<" && plain {
                match node.value {
                    Value::List(list) => merged.extend(list),
                    _ => merged.push(node),
                }
                continue;
            }
            if let Some(earlier) = map.get(&name) {
                let line = earlier.key_at.line;
                return Err(Diagnostic::error(&key_at, format!("the key `{name}` is already set on line {line}"))
                    .help("keep one of the two; YAML would silently forget the other"));
            }
            map.insert(name, Entry { key_at, node });
        }
        for node in merged {
            match node.value {
                Value::Map(other) => {
                    for (key, entry) in other {
                        map.entry(key).or_insert(entry);
                    }
                }
                Value::Null => {}
                _ => {
                    return Err(Diagnostic::error(&node.at, format!("`<<` merges mappings, and this is {}", node.kind()))
                        .help("write `<<: *name` where `&name` marks a mapping"));
                }
            }
        }
        Ok(map)
    }
}

fn merge_tag(tag: Option<&Cow<'_, Tag>>) -> MergeTag {
    match tag {
        Some(tag) if tag.handle == "!" && tag.suffix == "reset" => MergeTag::Reset,
        Some(tag) if tag.handle == "!" && tag.suffix == "override" => MergeTag::Override,
        _ => MergeTag::None,
    }
}

/// Resolves a scalar as Go's yaml.v3 does, since that is what Docker Compose reads files with.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    if let Some(tag) = tag
        && (tag.is_yaml_core_schema() && tag.suffix == "str" || tag.handle == "!" && tag.suffix.is_empty())
    {
        return Value::String(text.to_string());
    }
    if style != ScalarStyle::Plain {
        return Value::String(text.to_string());
    }
    plain(text)
}

fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Value::String(text.to_string());
    }
    if let Some(int) = go_integer(&text.replace('_', "")) {
        return Value::Int(int);
    }
    let digits = text.replace('_', "");
    let is_float = digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'))
        && digits.bytes().any(|b| b.is_ascii_digit());
    match digits.parse::<f64>() {
        Ok(float) if is_float => Value::Float(float),
        _ => Value::String(text.to_string()),
    }
}

/// Go's `strconv.ParseInt(text, 0, 64)`, with the `0o` octals of YAML 1.2.
fn go_integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = if let Some(rest) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        (16, rest)
    } else if let Some(rest) = digits.strip_prefix("0b").or(digits.strip_prefix("0B")) {
        (2, rest)
    } else if let Some(rest) = digits.strip_prefix("0o").or(digits.strip_prefix("0O")) {
        (8, rest)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, &digits[1..])
    } else {
        (10, digits)
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> serde_json::Value {
        parse(0, text).expect("valid").remove(0).to_json()
    }

    #[test]
    fn scalars_are_those_of_docker_compose() {
        let table = [
            ("yes", r#""yes""#),
            ("on", r#""on""#),
            ("true", "true"),
            ("0o644", "420"),
            ("0644", "420"),
            ("1_000", "1000"),
            ("3.10", "3.1"),
            ("22:22", r#""22:22""#),
            ("0x10", "16"),
            ("1e3", "1000.0"),
            ("-", r#"[null]"#),
            ("1.2.3", r#""1.2.3""#),
            ("~", "null"),
            ("'12'", r#""12""#),
            ("!!str 12", r#""12""#),
            ("09", "9.0"),
        ];
        for (text, expected) in table {
            assert_eq!(one(text).to_string(), expected, "{text}");
        }
    }

    #[test]
    fn anchors_and_merge_keys() {
        let json = one("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {z: 4}]}");
        assert_eq!(json["b"], serde_json::json!({"y": 3, "x": 1}));
        assert_eq!(json["c"], serde_json::json!({"x": 1, "y": 2, "z": 4}));
    }

    #[test]
    fn duplicate_keys_are_refused_with_their_place() {
        let error = parse(0, "a: 1\nb: 2\na: 3\n").expect_err("duplicate");
        let at = error.at.expect("place");
        assert_eq!((at.line, at.column), (3, 1));
    }

    #[test]
    fn alias_bombs_are_refused() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 10].join(",");
            text.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        assert!(parse(0, &text).is_err());
        assert!(parse(0, &"[".repeat(5000)).is_err());
        // Few aliases of a long text are many bytes as well.
        let long = format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), vec!["*a"; 1000].join(","));
        assert!(parse(0, &long).is_err());
    }
}
