//! From a template's text to its nodes.

use serde_json::Value;

/// A part of a Go template.
#[derive(Clone, Debug)]
pub enum TemplateNode {
    Text(String),
    Print(Pipeline),
    If { condition: Pipeline, then: Vec<TemplateNode>, otherwise: Vec<TemplateNode> },
    Range { over: Pipeline, each: Vec<TemplateNode>, otherwise: Vec<TemplateNode> },
    With { value: Pipeline, then: Vec<TemplateNode>, otherwise: Vec<TemplateNode> },
}

/// `$x := command | command`: each command has the value of the one before as its last argument.
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    /// With their `$`.
    pub variables: Vec<String>,
    /// `=`, not `:=`.
    pub assigns: bool,
    pub commands: Vec<Vec<Operand>>,
}

/// A value of a pipeline.
#[derive(Clone, Debug)]
pub enum Operand {
    Literal(Value),
    /// `.` with no name, `.A.B` with two.
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Group(Box<Pipeline>, Vec<String>),
    Function(String),
}

impl Operand {
    /// How it is called in a message.
    pub fn name(&self) -> String {
        match self {
            Operand::Literal(value) => value.to_string(),
            Operand::Field(path) => format!(".{}", path.join(".")),
            Operand::Variable(name, _) => name.clone(),
            Operand::Group(..) => "(...)".into(),
            Operand::Function(name) => name.clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum TemplateToken {
    Word(String),
    /// `.A`: a dot and a name; without one it is the dot itself.
    Field(String),
    /// The same, with no space before it: of what stands there.
    Joined(String),
    Variable(String),
    Literal(Value),
    Mark(&'static str),
}

/// Blocks and brackets in one another: they are read, and later evaluated, by recursion.
const MAX_DEPTH: usize = 100;

fn nested(depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH { Err(format!("it is nested more than {MAX_DEPTH} levels deep")) } else { Ok(()) }
}

/// A piece of a template: text, or what is between `{{` and `}}`.
enum TextPiece {
    Text(String),
    Action(Vec<TemplateToken>),
}

pub fn parse(text: &str) -> Result<Vec<TemplateNode>, String> {
    let mut pieces = pieces(text)?.into_iter();
    let (nodes, end) = list(&mut pieces, "", 0)?;
    match end {
        BlockEnd::Template => Ok(nodes),
        BlockEnd::End => Err("`end` ends nothing: there is no `if`, `range` or `with` before it".into()),
        BlockEnd::Else(_) => Err("`else` is in no `if`, `range` or `with`".into()),
    }
}

fn pieces(mut rest: &str) -> Result<Vec<TextPiece>, String> {
    let mut pieces = Vec::new();
    let mut trim = false;
    while let Some(start) = rest.find("{{") {
        let mut inside = &rest[start + 2..];
        let mut before = &rest[..start];
        if let Some(trimmed) = inside.strip_prefix('-').filter(|trimmed| trimmed.starts_with(char::is_whitespace)) {
            inside = trimmed;
            before = before.trim_end();
        }
        let before = if trim { before.trim_start() } else { before };
        pieces.push(TextPiece::Text(before.to_string()));
        let (tokens, length, trims) = action(inside)?;
        if let Some(tokens) = tokens {
            pieces.push(TextPiece::Action(tokens));
        }
        trim = trims;
        rest = &inside[length..];
    }
    pieces.push(TextPiece::Text(if trim { rest.trim_start() } else { rest }.to_string()));
    Ok(pieces)
}

/// The tokens up to `}}`, how long that is with it, and whether it takes the space behind it away. No tokens for a comment.
fn action(text: &str) -> Result<(Option<Vec<TemplateToken>>, usize, bool), String> {
    let unclosed = || "`{{` is never closed by `}}`".to_string();
    if let Some(comment) = text.trim_start().strip_prefix("/*") {
        let end = comment.find("*/").ok_or("a comment is never closed by `*/`")?;
        let after = &comment[end + 2..];
        let close = after.find("}}").ok_or_else(unclosed)?;
        let trims = after[..close].trim() == "-";
        return Ok((None, text.len() - after.len() + close + 2, trims));
    }
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let Some(next) = rest.chars().next() else { return Err(unclosed()) };
        if rest.starts_with("}}") {
            return Ok((Some(tokens), at + 2, false));
        }
        if next.is_whitespace() {
            if rest.trim_start().starts_with("-}}") {
                return Ok((Some(tokens), text.len() - rest.trim_start().len() + 3, true));
            }
            at += next.len_utf8();
            continue;
        }
        let joined = at > 0 && !text[..at].ends_with(char::is_whitespace) && !text[..at].ends_with(['(', '|', '=', ',']);
        let (token, length) = match token(rest, next)? {
            (TemplateToken::Field(name), length) if joined && !name.is_empty() => (TemplateToken::Joined(name), length),
            other => other,
        };
        tokens.push(token);
        at += length;
    }
}

fn token(rest: &str, next: char) -> Result<(TemplateToken, usize), String> {
    let name = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    for mark in [":=", "=", "(", ")", "|", ","] {
        if rest.starts_with(mark) {
            return Ok((TemplateToken::Mark(mark), mark.len()));
        }
    }
    match next {
        '.' => {
            let length = name(&rest[1..]);
            Ok((TemplateToken::Field(rest[1..=length].to_string()), 1 + length))
        }
        '$' => {
            let length = 1 + name(&rest[1..]);
            Ok((TemplateToken::Variable(rest[..length].to_string()), length))
        }
        '`' => {
            let end = rest[1..].find('`').ok_or("a string in backquotes is never closed")?;
            Ok((TemplateToken::Literal(rest[1..=end].into()), end + 2))
        }
        '"' => quoted(rest),
        _ if next.is_ascii_digit() || matches!(next, '-' | '+') => {
            let length = 1 + rest[1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len() - 1);
            let text = rest[..length].trim_start_matches('+');
            let number = text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<f64>().map(Value::from));
            Ok((TemplateToken::Literal(number.map_err(|_| format!("`{text}` is not a number"))?), length))
        }
        _ if next.is_alphabetic() || next == '_' => {
            let length = name(rest);
            let token = match &rest[..length] {
                "true" => TemplateToken::Literal(true.into()),
                "false" => TemplateToken::Literal(false.into()),
                "nil" => TemplateToken::Literal(Value::Null),
                word => TemplateToken::Word(word.to_string()),
            };
            Ok((token, length))
        }
        other => Err(format!("`{other}` has no meaning there")),
    }
}

/// A string in double quotes, with Go's escapes.
fn quoted(rest: &str) -> Result<(TemplateToken, usize), String> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((TemplateToken::Literal(text.into()), at + 1)),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('r') => text.push('\r'),
                Some(c @ ('"' | '\\' | '\'')) => text.push(c),
                other => return Err(format!("`\\{}` is no escape", other.unwrap_or(' '))),
            },
            c => text.push(c),
        }
    }
    Err("a string is never closed by `\"`".into())
}

/// The end of a list of nodes.
enum BlockEnd {
    Template,
    End,
    /// With what comes behind it: `if` and its condition, or nothing.
    Else(Vec<TemplateToken>),
}

/// Nodes up to an `end` or `else` of an outer one, or the end of the template. `inside` is what they are in.
fn list(pieces: &mut std::vec::IntoIter<TextPiece>, inside: &str, depth: usize) -> Result<(Vec<TemplateNode>, BlockEnd), String> {
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let tokens = match piece {
            TextPiece::Text(text) => {
                nodes.push(TemplateNode::Text(text));
                continue;
            }
            TextPiece::Action(tokens) => tokens,
        };
        match tokens.first() {
            Some(TemplateToken::Word(word)) if matches!(word.as_str(), "if" | "range" | "with") => {
                nodes.push(block(&tokens, pieces, depth + 1)?);
            }
            Some(TemplateToken::Word(word)) if word == "end" && tokens.len() == 1 => return Ok((nodes, BlockEnd::End)),
            Some(TemplateToken::Word(word)) if word == "else" => return Ok((nodes, BlockEnd::Else(tokens[1..].to_vec()))),
            _ => nodes.push(TemplateNode::Print(pipeline(&tokens)?)),
        }
    }
    if inside.is_empty() { Ok((nodes, BlockEnd::Template)) } else { Err(format!("`{inside}` has no `end`")) }
}

/// An `if`, `range` or `with`, whose tokens these are, up to its `end`.
fn block(tokens: &[TemplateToken], pieces: &mut std::vec::IntoIter<TextPiece>, depth: usize) -> Result<TemplateNode, String> {
    nested(depth)?;
    let Some((TemplateToken::Word(word), head)) = tokens.split_first() else {
        return Err("`else` is followed by `if`, `with` or nothing".into());
    };
    let head = pipeline(head)?;
    let (then, ending) = list(pieces, word, depth)?;
    let otherwise = match ending {
        BlockEnd::Else(chained) if chained.is_empty() => match list(pieces, word, depth)? {
            (nodes, BlockEnd::End) => nodes,
            _ => return Err(format!("`{word}` has two `else`")),
        },
        // It has the same `end`.
        BlockEnd::Else(chained) => vec![block(&chained, pieces, depth + 1)?],
        BlockEnd::End | BlockEnd::Template => Vec::new(),
    };
    Ok(match word.as_str() {
        "if" => TemplateNode::If { condition: head, then, otherwise },
        "with" => TemplateNode::With { value: head, then, otherwise },
        "range" => TemplateNode::Range { over: head, each: then, otherwise },
        other => return Err(format!("`else` is followed by `if`, `with` or nothing, not by `{other}`")),
    })
}

fn pipeline(tokens: &[TemplateToken]) -> Result<Pipeline, String> {
    let mut at = 0;
    let pipeline = commands(tokens, &mut at, 0)?;
    match tokens.get(at) {
        None => Ok(pipeline),
        Some(_) => Err("there is a `)` without its `(`".into()),
    }
}

/// A pipeline up to its `)`, or the end.
fn commands(tokens: &[TemplateToken], at: &mut usize, depth: usize) -> Result<Pipeline, String> {
    nested(depth)?;
    let mut pipeline = Pipeline { commands: vec![Vec::new()], ..Pipeline::default() };
    // `$x :=`, `$x =` or `$i, $x :=`.
    let names: Vec<&TemplateToken> = tokens[*at..].iter().take(4).collect();
    let (variables, mark) = match names.as_slice() {
        [TemplateToken::Variable(one), mark @ TemplateToken::Mark(":=" | "="), ..] => (vec![one.clone()], Some(*mark)),
        [
            TemplateToken::Variable(one),
            TemplateToken::Mark(","),
            TemplateToken::Variable(two),
            mark @ TemplateToken::Mark(":=" | "="),
        ] => (vec![one.clone(), two.clone()], Some(*mark)),
        _ => (Vec::new(), None),
    };
    if let Some(mark) = mark {
        *at += 2 * variables.len();
        pipeline.assigns = *mark == TemplateToken::Mark("=");
        pipeline.variables = variables;
    }
    while let Some(token) = tokens.get(*at) {
        *at += 1;
        let operand = match token {
            TemplateToken::Mark(")") => {
                *at -= 1;
                break;
            }
            TemplateToken::Mark("|") => {
                pipeline.commands.push(Vec::new());
                continue;
            }
            TemplateToken::Mark("(") => {
                let inner = commands(tokens, at, depth + 1)?;
                if tokens.get(*at) != Some(&TemplateToken::Mark(")")) {
                    return Err("a `(` is never closed by `)`".into());
                }
                *at += 1;
                Operand::Group(Box::new(inner), path(tokens, at))
            }
            TemplateToken::Mark(mark) => return Err(format!("`{mark}` has no meaning there")),
            TemplateToken::Joined(name) => return Err(format!("`.{name}` is of nothing that has fields")),
            TemplateToken::Literal(value) => Operand::Literal(value.clone()),
            TemplateToken::Word(word) => Operand::Function(word.clone()),
            TemplateToken::Variable(name) => Operand::Variable(name.clone(), path(tokens, at)),
            TemplateToken::Field(name) if name.is_empty() => Operand::Field(Vec::new()),
            TemplateToken::Field(name) => {
                let mut all = vec![name.clone()];
                all.extend(path(tokens, at));
                Operand::Field(all)
            }
        };
        if let Some(command) = pipeline.commands.last_mut() {
            command.push(operand);
        }
    }
    match pipeline.commands.iter().any(Vec::is_empty) {
        true => Err("there is nothing between `{{` and `}}`, or beside a `|`".into()),
        false => Ok(pipeline),
    }
}

/// The fields that follow at once.
fn path(tokens: &[TemplateToken], at: &mut usize) -> Vec<String> {
    let mut path = Vec::new();
    while let Some(TemplateToken::Joined(name)) = tokens.get(*at) {
        path.push(name.clone());
        *at += 1;
    }
    path
}
