//! The text of scalars: plain, quoted, and blocks (`|`, `>`).

use super::scanner::{HELP_QUOTE, HELP_TAB, Mark, Scanned, Scanner, malformed};
use std::borrow::Cow;

/// Line breaks between two words of a plain or quoted scalar: one is a space, more are one less.
fn folded(out: &mut String, breaks: usize) {
    match breaks {
        1 => out.push(' '),
        _ => out.extend(std::iter::repeat_n('\n', breaks - 1)),
    }
}

impl<'t> Scanner<'t> {
    /// A scalar without quotes, and where it ends: what follows it is skipped as well.
    pub(super) fn scan_plain(&mut self) -> Scanned<(Cow<'t, str>, Mark)> {
        let indent = self.indent + 1;
        let mut text = Cow::Borrowed("");
        let mut end = self.mark;
        let mut breaks = 0;
        loop {
            if self.is_document_marker() || self.byte(0) == Some(b'#') {
                break;
            }
            let words = self.plain_words();
            if words.is_empty() {
                break;
            }
            if breaks > 0 {
                folded(text.to_mut(), breaks);
                text.to_mut().push_str(words);
            } else {
                text = Cow::Borrowed(words);
            }
            end = self.mark;
            breaks = 0;
            while self.is_blank() || self.is_break() {
                if self.is_break() {
                    breaks += 1;
                    self.skip_break();
                } else if breaks > 0 && (self.mark.column as i32) < indent && self.byte(0) == Some(b'\t') {
                    return Err(malformed(self.mark, "a tab stands where indentation is expected", HELP_TAB));
                } else {
                    self.advance(1);
                }
            }
            if !self.is_flow() && (self.mark.column as i32) < indent {
                break;
            }
        }
        if breaks > 0 {
            self.key_allowed = true;
        }
        Ok((text, end))
    }

    /// The part of a plain scalar up to a blank that something else, or the line's end, follows.
    fn plain_words(&mut self) -> &'t str {
        let bytes = self.text.as_bytes();
        let start = self.mark.index;
        let flow = self.is_flow();
        let mut at = start;
        let mut end = start;
        let blank_or_end = |at: usize| matches!(bytes.get(at), None | Some(b' ' | b'\t' | b'\n' | b'\r'));
        while let Some(c) = bytes.get(at) {
            match c {
                b'\n' | b'\r' => break,
                b' ' | b'\t' => {
                    at += 1;
                    if bytes.get(at) == Some(&b'#') {
                        break;
                    }
                    continue;
                }
                b':' if blank_or_end(at + 1) => break,
                b',' | b'[' | b']' | b'{' | b'}' if flow => break,
                b'?' if flow && blank_or_end(at + 1) => break,
                _ => {}
            }
            at += 1;
            end = at;
        }
        self.advance(end - start);
        &self.text[start..end]
    }

    pub(super) fn scan_quoted(&mut self, quote: u8) -> Scanned<Cow<'t, str>> {
        let start = self.mark;
        self.advance(1);
        if let Some(len) = memchr::memchr(quote, self.rest().as_bytes()) {
            let inner = &self.rest()[..len];
            let simple = memchr::memchr3(b'\\', b'\n', b'\r', inner.as_bytes()).is_none();
            if simple && !(quote == b'\'' && self.byte(len + 1) == Some(b'\'')) {
                self.advance(len + 1);
                return Ok(Cow::Borrowed(inner));
            }
        }
        let mut text = String::new();
        loop {
            if self.is_document_marker() {
                return Err(malformed(self.mark, "a document ends within a quoted scalar", HELP_QUOTE));
            }
            let mut breaks = 0;
            // After `\` at the end of a line, the next one follows without a space.
            let mut joined = false;
            while let Some(c) = self.byte(0).filter(|c| !matches!(c, b' ' | b'\t' | b'\n' | b'\r')) {
                match c {
                    b'\'' if quote == c && self.byte(1) == Some(b'\'') => {
                        text.push('\'');
                        self.advance(2);
                    }
                    _ if c == quote => {
                        self.advance(1);
                        return Ok(Cow::Owned(text));
                    }
                    b'\\' if quote == b'"' && matches!(self.byte(1), Some(b'\n' | b'\r')) => {
                        self.advance(1);
                        self.skip_break();
                        joined = true;
                        break;
                    }
                    b'\\' if quote == b'"' => text.push(self.escape()?),
                    _ => {
                        let plain = self.rest();
                        let ends = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | b'\\' | b'\'' | b'"');
                        let len = plain.as_bytes()[1..].iter().position(ends).map_or(plain.len(), |at| at + 1);
                        text.push_str(&plain[..len]);
                        self.advance(len);
                    }
                }
            }
            if self.byte(0).is_none() {
                return Err(malformed(start, "found unexpected end of stream within quotes", HELP_QUOTE));
            }
            let blanks = self.mark.index;
            while self.is_blank() || self.is_break() {
                if self.is_break() {
                    breaks += 1;
                    self.skip_break();
                } else {
                    self.advance(1);
                }
            }
            match (joined, breaks) {
                (false, 0) => text.push_str(&self.text[blanks..self.mark.index]),
                (true, _) => text.extend(std::iter::repeat_n('\n', breaks)),
                (false, _) => folded(&mut text, breaks),
            }
        }
    }

    fn escape(&mut self) -> Scanned<char> {
        let at = self.mark;
        let simple = match self.byte(1) {
            Some(b'0') => '\0',
            Some(b'a') => '\x07',
            Some(b'b') => '\x08',
            Some(b't' | b'\t') => '\t',
            Some(b'n') => '\n',
            Some(b'v') => '\x0b',
            Some(b'f') => '\x0c',
            Some(b'r') => '\r',
            Some(b'e') => '\x1b',
            Some(c @ (b' ' | b'"' | b'\'' | b'\\' | b'/')) => c as char,
            Some(b'N') => '\u{85}',
            Some(b'_') => '\u{a0}',
            Some(b'L') => '\u{2028}',
            Some(b'P') => '\u{2029}',
            Some(c @ (b'x' | b'u' | b'U')) => {
                let digits = match c {
                    b'x' => 2,
                    b'u' => 4,
                    _ => 8,
                };
                let hex = self.rest().get(2..2 + digits).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
                let code = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
                let Some(code) = code else {
                    let what = format!("an escape `\\{}` needs {digits} hexadecimal digits of a character", c as char);
                    return Err(malformed(at, what, "write the character itself, or use single quotes"));
                };
                self.advance(2 + digits);
                return Ok(code);
            }
            _ => {
                let shown: String = self.rest().chars().take(2).collect();
                let help = "write the backslash twice, or use single quotes";
                return Err(malformed(at, format!("`{shown}` is not an escape of YAML"), help));
            }
        };
        self.advance(2);
        Ok(simple)
    }

    /// A block after `|` (literal) or `>` (folded).
    pub(super) fn scan_block(&mut self, literal: bool) -> Scanned<String> {
        self.advance(1);
        let (keep, increment) = self.block_header()?;
        let mut indent = increment.map_or(0, |increment| self.indent.max(0) + increment);
        let mut text = String::new();
        // The break after the last line, and the empty lines behind it.
        let mut leading = false;
        let mut trailing = self.block_breaks(&mut indent)?;
        let mut after_blank = false;
        while self.mark.column as i32 == indent && self.byte(0).is_some() {
            let blank = self.is_blank();
            if leading && !literal && !after_blank && !blank {
                if trailing == 0 {
                    text.push(' ');
                }
            } else if leading {
                text.push('\n');
            }
            text.extend(std::iter::repeat_n('\n', trailing));
            after_blank = blank;
            let line = self.rest();
            let line = &line[..line.find(['\n', '\r']).unwrap_or(line.len())];
            text.push_str(line);
            self.advance(line.len());
            leading = self.byte(0).is_some();
            if leading {
                self.skip_break();
            }
            trailing = self.block_breaks(&mut indent)?;
        }
        if leading && keep != Some(false) {
            text.push('\n');
        }
        if keep == Some(true) {
            text.extend(std::iter::repeat_n('\n', trailing));
        }
        Ok(text)
    }

    /// `+` keeps the line breaks at the end, `-` drops them; a digit is the indentation.
    fn block_header(&mut self) -> Scanned<(Option<bool>, Option<i32>)> {
        let (mut keep, mut increment) = (None, None);
        for _ in 0..2 {
            match self.byte(0) {
                Some(c @ (b'+' | b'-')) if keep.is_none() => keep = Some(c == b'+'),
                Some(c @ b'1'..=b'9') if increment.is_none() => increment = Some(i32::from(c - b'0')),
                _ => break,
            }
            self.advance(1);
        }
        while self.is_blank() {
            self.advance(1);
        }
        if self.byte(0) == Some(b'#') {
            self.advance(self.rest().find(['\n', '\r']).unwrap_or(self.rest().len()));
        }
        if self.byte(0).is_some() && !self.is_break() {
            let help = "begin the text on the next line, indented; quote the value if it is not meant as a block";
            return Err(malformed(self.mark, "`|` and `>` are followed by the end of the line", help));
        }
        if self.is_break() {
            self.skip_break();
        }
        Ok((keep, increment))
    }

    /// Skips indentation and empty lines, and counts the lines. The first line that is not empty sets the indentation.
    fn block_breaks(&mut self, indent: &mut i32) -> Scanned<usize> {
        let mut breaks = 0;
        let mut deepest = 0;
        loop {
            while (*indent == 0 || (self.mark.column as i32) < *indent) && self.byte(0) == Some(b' ') {
                self.advance(1);
            }
            deepest = deepest.max(self.mark.column as i32);
            if (*indent == 0 || (self.mark.column as i32) < *indent) && self.byte(0) == Some(b'\t') {
                return Err(malformed(self.mark, "a tab stands where indentation is expected", HELP_TAB));
            }
            if !self.is_break() {
                break;
            }
            breaks += 1;
            self.skip_break();
        }
        if *indent == 0 {
            *indent = deepest.max(self.indent + 1).max(1);
        }
        Ok(breaks)
    }
}
