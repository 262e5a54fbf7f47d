//! YAML text to tokens, by the rules of libyaml and its port go-yaml, which Docker Compose reads files with: within brackets
//! and quotes indentation does not count, and a tab may follow a key.

use std::borrow::Cow;
use std::collections::VecDeque;

/// A position in the text, all from 0. The column counts characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub index: usize,
    pub line: u32,
    pub column: u32,
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Quoted,
    Block,
}

/// A token of YAML.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenKind<'t> {
    StreamEnd,
    Directive,
    DocumentStart,
    DocumentEnd,
    BlockSequence,
    BlockMapping,
    BlockEnd,
    FlowSequence,
    FlowSequenceEnd,
    FlowMapping,
    FlowMappingEnd,
    BlockEntry,
    FlowEntry,
    Key,
    Value,
    Alias(&'t str),
    Anchor(&'t str),
    /// As it is written: `!reset`, `!!str`, `!<...>`.
    Tag(&'t str),
    Scalar(Cow<'t, str>, Style),
}

/// A token, with where it begins and ends.
#[derive(Clone, Debug)]
pub struct Token<'t> {
    pub kind: TokenKind<'t>,
    pub start: Mark,
    pub end: Mark,
}

/// A text that is not YAML.
#[derive(Debug)]
pub struct MalformedYaml {
    pub at: Mark,
    pub what: Cow<'static, str>,
    pub help: &'static str,
}

pub const HELP_INDENTATION: &str = "check the indentation, and quote values that hold special characters";
pub const HELP_QUOTE: &str = "close the quote or the bracket that was opened";
pub const HELP_TAB: &str = "YAML is indented with spaces, never with tabs";
const HELP_COLON: &str = "quote the value if it holds `: `, or check the indentation of this line and the one above";

pub fn malformed(at: Mark, what: impl Into<Cow<'static, str>>, help: &'static str) -> MalformedYaml {
    MalformedYaml { at, what: what.into(), help }
}

/// A token or more, or why the text is no YAML.
pub type Scanned<T> = Result<T, MalformedYaml>;

/// A possible key: it is one if a `:` follows on the same line.
#[derive(Clone, Copy)]
struct SimpleKey {
    /// It stands where only a key can stand.
    required: bool,
    /// The number of its first token, from the beginning of the text.
    number: usize,
    mark: Mark,
}

/// Cuts a text into tokens of YAML.
pub struct Scanner<'t> {
    pub(super) text: &'t str,
    pub(super) mark: Mark,
    queue: VecDeque<Token<'t>>,
    /// Tokens that have left the queue.
    taken: usize,
    pub(super) indent: i32,
    indents: Vec<i32>,
    pub(super) key_allowed: bool,
    key: Option<SimpleKey>,
    /// The possible keys outside of each open bracket.
    outer_keys: Vec<Option<SimpleKey>>,
    /// The last token opened a flow sequence or parted its items: a `:` here begins a plain scalar.
    at_item: bool,
    ended: bool,
}

impl<'t> Scanner<'t> {
    /// # Errors
    /// Control characters, which YAML does not have.
    pub fn new(text: &'t str) -> Scanned<Self> {
        let mut scanner = Scanner {
            text,
            mark: Mark::default(),
            queue: VecDeque::new(),
            taken: 0,
            indent: -1,
            indents: Vec::new(),
            key_allowed: true,
            key: None,
            outer_keys: Vec::new(),
            at_item: false,
            ended: false,
        };
        let control = |b: &u8| (*b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r')) || *b == 0x7f;
        if let Some(at) = text.as_bytes().iter().position(control) {
            while let Some(end) = text[scanner.mark.index..at].find(['\n', '\r']) {
                scanner.advance(end);
                scanner.skip_break();
            }
            scanner.advance(at - scanner.mark.index);
            let what = format!("the control character U+{:04X} is not allowed", text.as_bytes()[at]);
            return Err(malformed(scanner.mark, what, "remove it, or write it as an escape in double quotes: `\"\\x1b\"`"));
        }
        Ok(scanner)
    }

    /// The token that comes next, without taking it.
    pub fn peek(&mut self) -> Scanned<&Token<'t>> {
        // A token that may turn out to begin a key is held back until that is known.
        while !self.ended && (self.queue.is_empty() || self.is_next_undecided()) {
            self.fetch()?;
        }
        match self.queue.front() {
            Some(token) => Ok(token),
            None => Err(malformed(self.mark, "found unexpected end of stream", HELP_QUOTE)),
        }
    }

    pub fn next(&mut self) -> Scanned<Token<'t>> {
        let token = self.peek()?.clone();
        if token.kind != TokenKind::StreamEnd {
            self.queue.pop_front();
            self.taken += 1;
        }
        Ok(token)
    }

    fn is_next_undecided(&self) -> bool {
        let keys = self.outer_keys.iter().chain([&self.key]).flatten();
        keys.into_iter().any(|key| key.number == self.taken && key.mark.line == self.mark.line)
    }

    // Characters.

    pub(super) fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.mark.index + ahead).copied()
    }

    pub(super) fn rest(&self) -> &'t str {
        &self.text[self.mark.index..]
    }

    /// Goes on by so many bytes of the same line.
    pub(super) fn advance(&mut self, bytes: usize) {
        let from = self.mark.index;
        let passed = &self.text.as_bytes()[from..from + bytes];
        self.mark.index += bytes;
        self.mark.column += passed.iter().filter(|b| **b & 0xc0 != 0x80).count() as u32;
    }

    pub(super) fn is_break(&self) -> bool {
        matches!(self.byte(0), Some(b'\n' | b'\r'))
    }

    pub(super) fn is_blank(&self) -> bool {
        matches!(self.byte(0), Some(b' ' | b'\t'))
    }

    /// A space, a tab, a line's or the text's end.
    pub(super) fn is_blank_or_end(&self, ahead: usize) -> bool {
        matches!(self.byte(ahead), None | Some(b' ' | b'\t' | b'\n' | b'\r'))
    }

    /// Goes to the next line.
    pub(super) fn skip_break(&mut self) {
        self.mark.index += if self.rest().starts_with("\r\n") { 2 } else { 1 };
        self.mark.line += 1;
        self.mark.column = 0;
    }

    /// Whether a line begins here with `---` or `...`, which end a document.
    pub(super) fn is_document_marker(&self) -> bool {
        self.mark.column == 0 && (self.rest().starts_with("---") || self.rest().starts_with("...")) && self.is_blank_or_end(3)
    }

    pub(super) fn is_flow(&self) -> bool {
        !self.outer_keys.is_empty()
    }

    fn push(&mut self, kind: TokenKind<'t>, start: Mark) {
        self.at_item = matches!(kind, TokenKind::FlowEntry | TokenKind::FlowSequence);
        self.queue.push_back(Token { kind, start, end: self.mark });
    }

    // Tokens.

    fn fetch(&mut self) -> Scanned<()> {
        self.skip_to_token();
        self.unroll(self.mark.column as i32);
        let Some(c) = self.byte(0) else { return self.end() };
        if self.mark.column == 0 && c == b'%' {
            return self.document_token(TokenKind::Directive, self.rest().find(['\n', '\r']).unwrap_or(self.rest().len()));
        }
        if self.is_document_marker() {
            return self.document_token(if c == b'-' { TokenKind::DocumentStart } else { TokenKind::DocumentEnd }, 3);
        }
        let followed = self.is_blank_or_end(1);
        match c {
            b'[' => self.open(TokenKind::FlowSequence),
            b'{' => self.open(TokenKind::FlowMapping),
            b']' => self.close(TokenKind::FlowSequenceEnd),
            b'}' => self.close(TokenKind::FlowMappingEnd),
            b',' => {
                self.drop_key()?;
                self.key_allowed = true;
                self.indicator(TokenKind::FlowEntry);
                Ok(())
            }
            b'-' if followed => self.block_entry(),
            b'?' if followed => self.explicit_key(),
            b':' if followed || (self.is_flow() && !self.at_item) => self.value(),
            b'*' | b'&' => self.anchor(c == b'*'),
            b'!' => self.tag(),
            b'|' | b'>' if !self.is_flow() => {
                self.drop_key()?;
                self.key_allowed = true;
                let start = self.mark;
                let text = self.scan_block(c == b'|')?;
                self.push(TokenKind::Scalar(Cow::Owned(text), Style::Block), start);
                Ok(())
            }
            b'\'' | b'"' => {
                self.save_key()?;
                self.key_allowed = false;
                let start = self.mark;
                let text = self.scan_quoted(c)?;
                self.push(TokenKind::Scalar(text, Style::Quoted), start);
                Ok(())
            }
            b'\t' => Err(malformed(self.mark, "a tab stands where indentation is expected", HELP_TAB)),
            b'#' | b'|' | b'>' | b'%' | b'@' | b'`' => {
                let what = format!("found the character `{}`, which cannot begin a value", c as char);
                Err(malformed(self.mark, what, "quote the value"))
            }
            _ => {
                self.save_key()?;
                self.key_allowed = false;
                let start = self.mark;
                let (text, end) = self.scan_plain()?;
                self.at_item = false;
                self.queue.push_back(Token { kind: TokenKind::Scalar(text, Style::Plain), start, end });
                Ok(())
            }
        }
    }

    /// Skips spaces, comments and line breaks. A tab is a space where no key can begin.
    fn skip_to_token(&mut self) {
        loop {
            while matches!(self.byte(0), Some(b' ')) || (self.byte(0) == Some(b'\t') && (self.is_flow() || !self.key_allowed)) {
                self.advance(1);
            }
            if self.byte(0) == Some(b'#') {
                self.advance(self.rest().find(['\n', '\r']).unwrap_or(self.rest().len()));
            }
            if !self.is_break() {
                return;
            }
            self.skip_break();
            if !self.is_flow() {
                self.key_allowed = true;
            }
        }
    }

    /// Ends the blocks that are indented deeper than a column.
    fn unroll(&mut self, column: i32) {
        while !self.is_flow() && self.indent > column {
            self.queue.push_back(Token { kind: TokenKind::BlockEnd, start: self.mark, end: self.mark });
            self.indent = self.indents.pop().unwrap_or(-1);
        }
    }

    /// Begins a block where a column is deeper than the one around it. `number`: before which token; the next one by default.
    fn roll(&mut self, column: u32, number: Option<usize>, kind: TokenKind<'t>, at: Mark) {
        if !self.is_flow() && self.indent < column as i32 {
            self.indents.push(self.indent);
            self.indent = column as i32;
            let place = number.map_or(self.queue.len(), |number| number - self.taken);
            self.queue.insert(place, Token { kind, start: at, end: at });
        }
    }

    fn save_key(&mut self) -> Scanned<()> {
        if self.key_allowed {
            self.drop_key()?;
            let required = !self.is_flow() && self.indent == self.mark.column as i32;
            self.key = Some(SimpleKey { required, number: self.taken + self.queue.len(), mark: self.mark });
        }
        Ok(())
    }

    fn drop_key(&mut self) -> Scanned<()> {
        match self.key.take() {
            Some(key) if key.required => {
                Err(malformed(key.mark, "could not find the `:` that is expected after a key", HELP_INDENTATION))
            }
            _ => Ok(()),
        }
    }

    fn indicator(&mut self, kind: TokenKind<'t>) {
        let start = self.mark;
        self.advance(1);
        self.push(kind, start);
    }

    fn end(&mut self) -> Scanned<()> {
        self.unroll(-1);
        self.drop_key()?;
        self.key_allowed = false;
        self.ended = true;
        self.push(TokenKind::StreamEnd, self.mark);
        Ok(())
    }

    fn document_token(&mut self, kind: TokenKind<'t>, len: usize) -> Scanned<()> {
        self.unroll(-1);
        self.drop_key()?;
        self.key_allowed = false;
        let start = self.mark;
        self.advance(len);
        self.push(kind, start);
        Ok(())
    }

    fn open(&mut self, kind: TokenKind<'t>) -> Scanned<()> {
        self.save_key()?;
        self.outer_keys.push(self.key.take());
        self.key_allowed = true;
        self.indicator(kind);
        Ok(())
    }

    fn close(&mut self, kind: TokenKind<'t>) -> Scanned<()> {
        self.drop_key()?;
        self.key = self.outer_keys.pop().flatten();
        self.key_allowed = false;
        self.indicator(kind);
        Ok(())
    }

    fn block_entry(&mut self) -> Scanned<()> {
        if !self.is_flow() {
            if !self.key_allowed {
                let what = "block sequence entries are not allowed in this context";
                return Err(malformed(self.mark, what, "begin the list on a line of its own"));
            }
            self.roll(self.mark.column, None, TokenKind::BlockSequence, self.mark);
        }
        self.drop_key()?;
        self.key_allowed = true;
        self.indicator(TokenKind::BlockEntry);
        Ok(())
    }

    fn explicit_key(&mut self) -> Scanned<()> {
        if !self.is_flow() {
            if !self.key_allowed {
                return Err(malformed(self.mark, "mapping keys are not allowed in this context", HELP_COLON));
            }
            self.roll(self.mark.column, None, TokenKind::BlockMapping, self.mark);
        }
        self.drop_key()?;
        self.key_allowed = !self.is_flow();
        self.indicator(TokenKind::Key);
        Ok(())
    }

    fn value(&mut self) -> Scanned<()> {
        match self.key.filter(|key| key.mark.line == self.mark.line) {
            Some(key) => {
                let token = Token { kind: TokenKind::Key, start: key.mark, end: key.mark };
                self.queue.insert(key.number - self.taken, token);
                self.roll(key.mark.column, Some(key.number), TokenKind::BlockMapping, key.mark);
                self.key = None;
                self.key_allowed = false;
            }
            None => {
                if !self.is_flow() {
                    if !self.key_allowed {
                        return Err(malformed(self.mark, "mapping values are not allowed in this context", HELP_COLON));
                    }
                    self.roll(self.mark.column, None, TokenKind::BlockMapping, self.mark);
                }
                self.key_allowed = !self.is_flow();
            }
        }
        self.indicator(TokenKind::Value);
        Ok(())
    }

    fn anchor(&mut self, alias: bool) -> Scanned<()> {
        self.save_key()?;
        self.key_allowed = false;
        let start = self.mark;
        let name = &self.rest()[1..];
        let ends = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r' | '[' | ']' | '{' | '}' | ',' | ':' | '\u{feff}');
        let name = &name[..name.find(ends).unwrap_or(name.len())];
        self.advance(1 + name.len());
        if name.is_empty() || matches!(self.byte(0), Some(b'[' | b'{')) {
            let what = if alias { "an alias has no name" } else { "an anchor has no name" };
            return Err(malformed(start, what, "write `&name` and `*name`, or quote a value that begins so"));
        }
        self.push(if alias { TokenKind::Alias(name) } else { TokenKind::Anchor(name) }, start);
        Ok(())
    }

    fn tag(&mut self) -> Scanned<()> {
        self.save_key()?;
        self.key_allowed = false;
        let start = self.mark;
        let rest = self.rest();
        let flow = self.is_flow() && !rest.starts_with("!<");
        let ends = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r') || (flow && matches!(c, ',' | ']' | '}'));
        let tag = &rest[..rest.find(ends).unwrap_or(rest.len())];
        self.advance(tag.len());
        self.push(TokenKind::Tag(tag), start);
        Ok(())
    }
}
