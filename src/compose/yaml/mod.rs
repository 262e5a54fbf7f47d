//! YAML text to positioned nodes: anchors, aliases, merge keys, tags and the scalars that Docker Compose sees.
//!
//! [`scanner`] makes tokens, [`scalars`] their texts; here they become trees, and [`resolve`] says what a plain scalar is.

mod resolve;
mod scalars;
mod scanner;

pub use resolve::plain;

use super::diagnostic::Diagnostic;
use super::node::{At, Entry, FileId, Map, MergeTag, Node, Value};
use scanner::{HELP_INDENTATION, MalformedYaml, Mark, Scanner, Style, Token, TokenKind, malformed};
use std::collections::HashMap;

/// Aliases may multiply a document up to this many nodes; beyond it is an alias bomb, not a Compose file.
const MAX_NODES: usize = 4_000_000;
/// Bytes of text that count as one node.
const TEXT_PER_NODE: usize = 64;
/// Compose files nest about ten deep; the bound keeps the recursion within any stack.
const MAX_DEPTH: usize = 100;

const HELP_ITEMS: &str = "close the bracket, and part its items by commas";

/// Parses every document of a file. An empty file has none.
pub fn parse(file: FileId, text: &str) -> Result<Vec<Node>, Diagnostic> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let malformed = |malformed: MalformedYaml| {
        let message = format!("this is not valid YAML: {}", malformed.what);
        Diagnostic::error(&clamped(file, text, malformed.at), message).help(malformed.help)
    };
    let tokens = Scanner::new(text).map_err(malformed)?;
    let mut builder = Builder { file, tokens, anchors: HashMap::new(), open: Vec::new(), nodes: 0 };
    builder.documents().map_err(|failure| match failure {
        ParseFailure::Malformed(what) => malformed(what),
        ParseFailure::Refused(diagnostic) => *diagnostic,
    })
}

/// A position of the text; what is behind the last line that holds something is that line's end.
fn clamped(file: FileId, text: &str, mark: Mark) -> At {
    let at = |line: usize, column: usize| At { file, line: line as u32, column: column as u32, len: 1 };
    match text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()).last() {
        Some((last, text)) if mark.line as usize > last => at(last + 1, text.trim_end().chars().count() + 1),
        _ => at(mark.line as usize + 1, mark.column as usize + 1),
    }
}

/// From one position to another on the same line.
fn place(file: FileId, start: Mark, end: Mark) -> At {
    let len = if start.line == end.line { end.column.saturating_sub(start.column) } else { 1 };
    let len = len.clamp(1, u32::from(u16::MAX)) as u16;
    At { file, line: start.line + 1, column: start.column + 1, len }
}

/// Why a text has no tree.
enum ParseFailure {
    Malformed(MalformedYaml),
    /// It is YAML, and not of the kind that a Compose file is.
    Refused(Box<Diagnostic>),
}

impl From<MalformedYaml> for ParseFailure {
    fn from(what: MalformedYaml) -> Self {
        ParseFailure::Malformed(what)
    }
}

impl From<Diagnostic> for ParseFailure {
    fn from(diagnostic: Diagnostic) -> Self {
        ParseFailure::Refused(Box::new(diagnostic))
    }
}

type ParseResult<T> = Result<T, ParseFailure>;

struct Builder<'t> {
    file: FileId,
    tokens: Scanner<'t>,
    /// The value of an anchor, and its number of nodes.
    anchors: HashMap<&'t str, (Node, usize)>,
    /// The anchors of the nodes that are being read.
    open: Vec<&'t str>,
    nodes: usize,
}

/// Which blocks a node may be, where it stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ParseContext {
    /// Within brackets.
    Flow,
    Block,
    /// A mapping's key or value: a list there needs no deeper indentation.
    Entry,
}

impl<'t> Builder<'t> {
    fn documents(&mut self) -> ParseResult<Vec<Node>> {
        let mut documents = Vec::new();
        let mut explicit = true;
        loop {
            match self.tokens.peek()?.kind {
                TokenKind::StreamEnd => return Ok(documents),
                TokenKind::DocumentEnd | TokenKind::Directive => {
                    self.tokens.next()?;
                    explicit = true;
                }
                TokenKind::DocumentStart => {
                    let start = self.tokens.next()?;
                    self.anchors.clear();
                    documents.push(match self.tokens.peek()?.kind {
                        TokenKind::Directive | TokenKind::DocumentStart | TokenKind::DocumentEnd | TokenKind::StreamEnd => {
                            self.nothing(start.end)
                        }
                        _ => self.node(ParseContext::Block, 0)?,
                    });
                    explicit = false;
                }
                _ if explicit => {
                    documents.push(self.node(ParseContext::Block, 0)?);
                    explicit = false;
                }
                _ => {
                    let what = "unexpected content after the end of the document";
                    return Err(malformed(self.tokens.peek()?.start, what, HELP_INDENTATION).into());
                }
            }
        }
    }

    fn at(&self, start: Mark, end: Mark) -> At {
        place(self.file, start, end)
    }

    fn nothing(&self, mark: Mark) -> Node {
        Node::new(Value::Null, self.at(mark, mark))
    }

    /// Nothing, where the next token begins.
    fn nothing_here(&mut self) -> ParseResult<Node> {
        let mark = self.tokens.peek()?.start;
        Ok(self.nothing(mark))
    }

    fn count(&mut self, at: &At, nodes: usize) -> ParseResult<()> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            let most = MAX_NODES * TEXT_PER_NODE / 1_000_000;
            let message = format!("the document grows past {MAX_NODES} values, or {most} MB of text");
            let help = "an alias that repeats aliases multiplies: write the values out; a large text is a file of its own";
            return Err(Diagnostic::error(at, message).help(help).into());
        }
        Ok(())
    }

    fn node(&mut self, context: ParseContext, depth: usize) -> ParseResult<Node> {
        let first = self.tokens.peek()?;
        let (start, end) = (first.start, first.end);
        let at = self.at(start, end);
        if depth > MAX_DEPTH {
            let help = "a Compose file needs about ten: a bracket or an indentation is wrong";
            return Err(Diagnostic::error(&at, format!("nested more than {MAX_DEPTH} levels deep")).help(help).into());
        }
        let before = self.nodes;
        self.count(&at, 1)?;
        let (mut anchor, mut tag, mut end) = (None, None, start);
        loop {
            match self.tokens.peek()?.kind {
                TokenKind::Alias(name) if anchor.is_none() && tag.is_none() => {
                    self.tokens.next()?;
                    return self.alias(name, at);
                }
                TokenKind::Anchor(name) if anchor.is_none() => anchor = Some(name),
                TokenKind::Tag(text) if tag.is_none() => tag = Some(text),
                _ => break,
            }
            end = self.tokens.next()?.end;
        }
        self.open.extend(anchor);
        let value = self.content(context, tag, anchor.is_some() || tag.is_some(), end, depth)?;
        let mut node = Node { tag: merge_tag(tag), ..value };
        if node.tag == MergeTag::Reset {
            // What is reset has no value, whatever is written.
            node.value = Value::Null;
        }
        if let Some(anchor) = anchor {
            self.open.retain(|open| *open != anchor);
            self.anchors.insert(anchor, (node.clone(), self.nodes - before));
        }
        Ok(node)
    }

    fn alias(&mut self, name: &str, at: At) -> ParseResult<Node> {
        if self.open.contains(&name) {
            return Err(Diagnostic::error(&at, "this alias refers to the value that it is part of").into());
        }
        let Some((node, size)) = self.anchors.get(name).cloned() else {
            let message = format!("this is not valid YAML: no anchor `&{name}` is above this alias");
            return Err(Diagnostic::error(&at, message)
                .help("mark the value that is meant with `&name`, above this line")
                .into());
        };
        self.count(&at, size)?;
        Ok(node)
    }

    /// The content of a node, after its anchor and tag.
    fn content(&mut self, context: ParseContext, tag: Option<&str>, marked: bool, end: Mark, depth: usize) -> ParseResult<Node> {
        let file = self.file;
        let Token { kind, start, end: token_end } = self.tokens.peek()?;
        let start = *start;
        let at = place(file, start, *token_end);
        let value = match kind {
            TokenKind::BlockEntry if context == ParseContext::Entry => Value::List(self.block_sequence(true, depth)?),
            TokenKind::Scalar(..) => {
                let TokenKind::Scalar(text, style) = self.tokens.next()?.kind else { return Ok(self.nothing(start)) };
                // A long text weighs as many short ones, should aliases repeat it.
                self.count(&at, text.len() / TEXT_PER_NODE)?;
                scalar(&text, style, tag)
            }
            TokenKind::FlowSequence => Value::List(self.flow_sequence(depth)?),
            TokenKind::FlowMapping => Value::Map(self.flow_mapping(depth)?),
            TokenKind::BlockSequence if context != ParseContext::Flow => {
                self.tokens.next()?;
                Value::List(self.block_sequence(false, depth)?)
            }
            TokenKind::BlockMapping if context != ParseContext::Flow => Value::Map(self.block_mapping(depth)?),
            _ if marked => return Ok(Node { value: scalar("", Style::Plain, tag), ..self.nothing(end) }),
            kind => return Err(unexpected(kind, start).into()),
        };
        Ok(Node::new(value, at))
    }

    /// `- item` lines. A list that is not indented deeper than its key has no token at its end.
    fn block_sequence(&mut self, indentless: bool, depth: usize) -> ParseResult<Vec<Node>> {
        let mut list = Vec::new();
        loop {
            let token = self.tokens.peek()?;
            match token.kind {
                TokenKind::BlockEntry => {
                    let dash = self.tokens.next()?.start;
                    let item = match self.tokens.peek()?.kind {
                        TokenKind::BlockEntry | TokenKind::BlockEnd => self.nothing(dash),
                        TokenKind::Key | TokenKind::Value if indentless => self.nothing(dash),
                        _ => self.node(ParseContext::Block, depth + 1)?,
                    };
                    push(&mut list, item);
                }
                _ if indentless => return Ok(list),
                TokenKind::BlockEnd => {
                    self.tokens.next()?;
                    return Ok(list);
                }
                _ => {
                    return Err(
                        malformed(token.start, "did not find the expected `- ` of a list's item", HELP_INDENTATION).into()
                    );
                }
            }
        }
    }

    fn block_mapping(&mut self, depth: usize) -> ParseResult<Map> {
        self.tokens.next()?;
        let mut map = Mapping::default();
        loop {
            let token = self.tokens.peek()?;
            match token.kind {
                TokenKind::Key => {
                    let mark = self.tokens.next()?.start;
                    let key = self.entry_part(mark, depth)?;
                    let value = match self.tokens.peek()?.kind {
                        TokenKind::Value => {
                            let colon = self.tokens.next()?.start;
                            self.entry_part(colon, depth)?.0
                        }
                        _ => self.nothing_here()?,
                    };
                    map.insert(key, value)?;
                }
                TokenKind::BlockEnd => {
                    self.tokens.next()?;
                    return Ok(map.finish()?);
                }
                _ => {
                    let what = "while parsing a block mapping, did not find expected key";
                    return Err(malformed(token.start, what, HELP_INDENTATION).into());
                }
            }
        }
    }

    /// A key or a value of a block mapping, and whether it is a plain scalar.
    fn entry_part(&mut self, mark: Mark, depth: usize) -> ParseResult<(Node, bool)> {
        match self.tokens.peek()?.kind {
            TokenKind::Key | TokenKind::Value | TokenKind::BlockEnd => Ok((self.nothing(mark), false)),
            TokenKind::Scalar(_, Style::Plain) | TokenKind::Tag("!!merge") => {
                Ok((self.node(ParseContext::Entry, depth + 1)?, true))
            }
            _ => Ok((self.node(ParseContext::Entry, depth + 1)?, false)),
        }
    }

    fn flow_sequence(&mut self, depth: usize) -> ParseResult<Vec<Node>> {
        self.tokens.next()?;
        let mut list = Vec::new();
        loop {
            let token = self.tokens.peek()?;
            let (start, end) = (token.start, token.end);
            match token.kind {
                TokenKind::FlowSequenceEnd => break,
                // `[key: value]` is a list of one mapping.
                TokenKind::Key => {
                    let at = self.at(start, end);
                    let mut map = Mapping::default();
                    let (key, value) = self.flow_pair(depth + 1)?;
                    map.insert(key, value)?;
                    push(&mut list, Node::new(Value::Map(map.finish()?), at));
                }
                _ => {
                    let item = self.node(ParseContext::Flow, depth + 1)?;
                    push(&mut list, item);
                }
            }
            let token = self.tokens.peek()?;
            match token.kind {
                TokenKind::FlowEntry => drop(self.tokens.next()?),
                TokenKind::FlowSequenceEnd => break,
                _ => {
                    let what = "while parsing a flow sequence, did not find expected ',' or ']'";
                    return Err(malformed(token.start, what, HELP_ITEMS).into());
                }
            }
        }
        self.tokens.next()?;
        Ok(list)
    }

    fn flow_mapping(&mut self, depth: usize) -> ParseResult<Map> {
        self.tokens.next()?;
        let mut map = Mapping::default();
        loop {
            match self.tokens.peek()?.kind {
                TokenKind::FlowMappingEnd => break,
                TokenKind::Key => {
                    let (key, value) = self.flow_pair(depth + 1)?;
                    map.insert(key, value)?;
                }
                // `{name}` is a key without a value.
                _ => {
                    let key = self.node(ParseContext::Flow, depth + 1)?;
                    let value = self.nothing_here()?;
                    map.insert((key, false), value)?;
                }
            }
            let token = self.tokens.peek()?;
            match token.kind {
                TokenKind::FlowEntry => drop(self.tokens.next()?),
                TokenKind::FlowMappingEnd => break,
                _ => {
                    let what = "while parsing a flow mapping, did not find expected ',' or '}'";
                    return Err(malformed(token.start, what, HELP_ITEMS).into());
                }
            }
        }
        self.tokens.next()?;
        Ok(map.finish()?)
    }

    /// `key: value` within brackets; the key comes with whether it is a plain scalar.
    fn flow_pair(&mut self, depth: usize) -> ParseResult<((Node, bool), Node)> {
        let mark = self.tokens.next()?.start;
        let plain = matches!(self.tokens.peek()?.kind, TokenKind::Scalar(_, Style::Plain) | TokenKind::Tag("!!merge"));
        let key = self.flow_part(mark, depth)?;
        let value = match self.tokens.peek()?.kind {
            TokenKind::Value => {
                let colon = self.tokens.next()?.start;
                self.flow_part(colon, depth)?
            }
            _ => self.nothing_here()?,
        };
        Ok(((key, plain), value))
    }

    fn flow_part(&mut self, mark: Mark, depth: usize) -> ParseResult<Node> {
        match self.tokens.peek()?.kind {
            TokenKind::Value | TokenKind::FlowEntry | TokenKind::FlowSequenceEnd | TokenKind::FlowMappingEnd => {
                Ok(self.nothing(mark))
            }
            _ => self.node(ParseContext::Flow, depth),
        }
    }
}

/// An item that `!reset` marks is none.
fn push(list: &mut Vec<Node>, item: Node) {
    if item.tag != MergeTag::Reset {
        list.push(item);
    }
}

fn unexpected(kind: &TokenKind<'_>, at: Mark) -> MalformedYaml {
    let what = match kind {
        TokenKind::StreamEnd => "found unexpected end of stream",
        TokenKind::FlowEntry => "found a comma where a value is expected",
        TokenKind::FlowSequenceEnd | TokenKind::FlowMappingEnd => "found a closing bracket that nothing has opened",
        TokenKind::BlockEntry => "found a list's `- ` where it cannot begin",
        _ => "did not find the expected value",
    };
    malformed(at, what, HELP_INDENTATION)
}

/// The entries of a mapping, and what its merge keys add in the end.
#[derive(Default)]
struct Mapping {
    map: Map,
    merged: Vec<Node>,
}

impl Mapping {
    fn insert(&mut self, (key, plain): (Node, bool), node: Node) -> Result<(), Diagnostic> {
        let key_at = key.at;
        let Value::String(name) = key.value else {
            let help = match key.scalar_text() {
                Some(text) if !text.is_empty() => format!("quote it: `\"{text}\":`"),
                _ => "write `name: value`".to_string(),
            };
            return Err(Diagnostic::error(&key_at, format!("a key must be a string, and this is {}", key.kind())).help(help));
        };
        if name == "<<" && plain {
            match node.value {
                Value::List(list) => self.merged.extend(list),
                _ => self.merged.push(node),
            }
            return Ok(());
        }
        if let Some(earlier) = self.map.get(&name) {
            let line = earlier.key_at.line;
            return Err(Diagnostic::error(&key_at, format!("the key `{name}` is already set on line {line}"))
                .help("keep one of the two; YAML would silently forget the other"));
        }
        self.map.insert(name, Entry { key_at, node });
        Ok(())
    }

    fn finish(mut self) -> Result<Map, Diagnostic> {
        for node in self.merged {
            match node.value {
                Value::Map(other) => {
                    for (key, entry) in other {
                        self.map.entry(key).or_insert(entry);
                    }
                }
                Value::Null => {}
                _ => {
                    return Err(Diagnostic::error(&node.at, format!("`<<` merges mappings, and this is {}", node.kind()))
                        .help("write `<<: *name` where `&name` marks a mapping"));
                }
            }
        }
        Ok(self.map)
    }
}

fn merge_tag(tag: Option<&str>) -> MergeTag {
    match tag {
        Some("!reset") => MergeTag::Reset,
        Some("!override") => MergeTag::Override,
        _ => MergeTag::None,
    }
}

/// Resolves a scalar by its tag, its quotes and its text.
fn scalar(text: &str, style: Style, tag: Option<&str>) -> Value {
    let core = tag.and_then(|tag| {
        let verbatim = tag.strip_prefix("!<tag:yaml.org,2002:").and_then(|name| name.strip_suffix('>'));
        tag.strip_prefix("!!").or(verbatim)
    });
    match core {
        Some("int" | "float" | "bool" | "null") => resolve::plain(text),
        Some(_) => Value::String(text.to_string()),
        None if style != Style::Plain || tag == Some("!") => Value::String(text.to_string()),
        None => resolve::plain(text),
    }
}

#[cfg(test)]
mod tests;
