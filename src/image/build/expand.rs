//! Variables and quotes in a Dockerfile's words, as Docker's own shell-like expansion has them.

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unexpandable(pub String);

/// Looks up a variable; `None` where it is not set.
pub trait Lookup: Fn(&str) -> Option<String> {}

impl<F: Fn(&str) -> Option<String>> Lookup for F {}

/// Expands a word: quotes go, `$NAME` and `${NAME...}` are replaced, the escape character takes its meaning from what follows.
///
/// # Errors
/// A quote or brace that is not closed, an unknown operator, `${NAME:?message}` without a value.
pub fn word(text: &str, escape: char, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, Unexpandable> {
    let chars: Vec<char> = text.chars().collect();
    let mut expander = Expander { chars: &chars, at: 0, escape, lookup, depth: 0 };
    expander.until(None)
}

/// Expands a text that may stand for several words: unquoted spaces part them, those of variables as well.
///
/// # Errors
/// As [`word`].
pub fn words(text: &str, escape: char, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>, Unexpandable> {
    let mut all = Vec::new();
    for raw in super::dockerfile::words(text, escape) {
        let expanded = word(&raw, escape, lookup)?;
        if raw.starts_with(['"', '\'']) {
            all.push(expanded);
        } else {
            all.extend(expanded.split_whitespace().map(str::to_string));
        }
    }
    Ok(all)
}

/// Expands variables alone, as in a heredoc: quotes stay.
///
/// # Errors
/// As [`word`].
pub fn variables(text: &str, escape: char, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, Unexpandable> {
    let chars: Vec<char> = text.chars().collect();
    let mut expander = Expander { chars: &chars, at: 0, escape, lookup, depth: 0 };
    let mut out = String::new();
    while let Some(c) = expander.peek() {
        match c {
            '$' => out.push_str(&expander.variable()?),
            c if c == escape && matches!(expander.chars.get(expander.at + 1), Some('$')) => {
                expander.at += 2;
                out.push('$');
            }
            c => {
                expander.at += 1;
                out.push(c);
            }
        }
    }
    Ok(out)
}

const MAX_DEPTH: usize = 64;

struct Expander<'a> {
    chars: &'a [char],
    at: usize,
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    depth: usize,
}

impl Expander<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek();
        self.at += 1;
        c
    }

    /// Reads up to an unquoted `stop`, which is taken as well, or the end.
    fn until(&mut self, stop: Option<char>) -> Result<String, Unexpandable> {
        let mut out = String::new();
        loop {
            match self.peek() {
                None if stop.is_none() => return Ok(out),
                None => return Err(Unexpandable("`${` is not closed by `}`".into())),
                Some(c) if Some(c) == stop => {
                    self.at += 1;
                    return Ok(out);
                }
                Some('\'') => out.push_str(&self.single_quoted()?),
                Some('"') => out.push_str(&self.double_quoted()?),
                Some('$') => out.push_str(&self.variable()?),
                Some(c) if c == self.escape => {
                    self.at += 1;
                    match self.next() {
                        Some(c) => out.push(c),
                        None => out.push(self.escape),
                    }
                }
                Some(c) => {
                    self.at += 1;
                    out.push(c);
                }
            }
        }
    }

    fn single_quoted(&mut self) -> Result<String, Unexpandable> {
        self.at += 1;
        let mut out = String::new();
        loop {
            match self.next() {
                None => return Err(Unexpandable("a single quote is not closed".into())),
                Some('\'') => return Ok(out),
                Some(c) => out.push(c),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String, Unexpandable> {
        self.at += 1;
        let mut out = String::new();
        loop {
            match self.peek() {
                None => return Err(Unexpandable("a double quote is not closed".into())),
                Some('"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some('$') => out.push_str(&self.variable()?),
                Some(c) if c == self.escape => {
                    self.at += 1;
                    match self.next() {
                        // Within quotes it escapes only what has a meaning there.
                        Some(c) if c == '"' || c == '$' || c == self.escape => out.push(c),
                        Some(c) => out.extend([self.escape, c]),
                        None => return Err(Unexpandable("a double quote is not closed".into())),
                    }
                }
                Some(c) => {
                    self.at += 1;
                    out.push(c);
                }
            }
        }
    }

    fn name(&mut self) -> String {
        let begin = self.at;
        match self.peek() {
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
                    self.at += 1;
                }
            }
            // `$1`, `$@` and their like are single characters.
            Some(c) if c.is_ascii_digit() || matches!(c, '@' | '*' | '#') => self.at += 1,
            _ => {}
        }
        self.chars[begin..self.at].iter().collect()
    }

    fn variable(&mut self) -> Result<String, Unexpandable> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(if name.is_empty() { "$".into() } else { (self.lookup)(&name).unwrap_or_default() });
        }
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Unexpandable("variables are nested too deeply".into()));
        }
        let name = self.name();
        if name.is_empty() {
            return Err(Unexpandable("`${` is not followed by a variable's name".into()));
        }
        let value = (self.lookup)(&name);
        let result = match self.next() {
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => {
                let operator = self.next();
                let operand = self.until(Some('}'))?;
                choose(&name, operator, value.filter(|v| !v.is_empty()), operand)
            }
            Some(c @ ('-' | '+' | '?')) => {
                let operand = self.until(Some('}'))?;
                choose(&name, Some(c), value, operand)
            }
            Some(c @ ('#' | '%')) => {
                let longest = self.peek() == Some(c);
                self.at += usize::from(longest);
                let pattern = self.until(Some('}'))?;
                Ok(trim(&value.unwrap_or_default(), &pattern, c == '#', longest))
            }
            Some('/') => {
                let all = self.peek() == Some('/');
                self.at += usize::from(all);
                let rest = self.until(Some('}'))?;
                let (pattern, replacement) = rest.split_once('/').unwrap_or((&rest, ""));
                Ok(replace(&value.unwrap_or_default(), pattern, replacement, all))
            }
            Some(c) => Err(Unexpandable(format!("`{c}` is not an operator in `${{{name}...}}`"))),
            None => Err(Unexpandable("`${` is not closed by `}`".into())),
        };
        self.depth -= 1;
        result
    }
}

fn choose(name: &str, operator: Option<char>, value: Option<String>, operand: String) -> Result<String, Unexpandable> {
    match operator {
        Some('-') => Ok(value.unwrap_or(operand)),
        Some('+') => Ok(value.map(|_| operand).unwrap_or_default()),
        Some('?') => value.ok_or_else(|| {
            let why = if operand.is_empty() { "is not set".to_string() } else { operand };
            Unexpandable(format!("the variable `{name}` {why}"))
        }),
        _ => Err(Unexpandable(format!("`${{{name}:` is followed by no operator: `-`, `+` or `?`"))),
    }
}

/// `#`, `##`, `%` and `%%`: takes away what a pattern of `*` and `?` matches at the beginning or the end.
fn trim(value: &str, pattern: &str, front: bool, longest: bool) -> String {
    let mut cuts: Vec<usize> = value.char_indices().map(|(i, _)| i).chain([value.len()]).collect();
    // The longest match from the front ends last; from the back it begins first.
    if longest == front {
        cuts.reverse();
    }
    let part = |i: usize| if front { &value[..i] } else { &value[i..] };
    match cuts.into_iter().find(|i| matches(pattern, part(*i))) {
        Some(i) if front => value[i..].to_string(),
        Some(i) => value[..i].to_string(),
        None => value.to_string(),
    }
}

fn replace(value: &str, pattern: &str, replacement: &str, all: bool) -> String {
    let mut out = String::new();
    let mut at = 0;
    while at < value.len() {
        let ends = value[at..].char_indices().map(|(i, c)| at + i + c.len_utf8()).rev();
        match ends.into_iter().find(|end| !pattern.is_empty() && matches(pattern, &value[at..*end])) {
            Some(end) => {
                out.push_str(replacement);
                at = end;
                if !all {
                    break;
                }
            }
            None => {
                let c = value[at..].chars().next().unwrap_or_default();
                out.push(c);
                at += c.len_utf8();
            }
        }
    }
    out + &value[at..]
}

/// A shell pattern of `*`, `?` and escaped characters against a whole text.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let literal = match pattern.get(p) {
            Some('\\') if p + 1 < pattern.len() => Some((pattern[p + 1], 2)),
            Some('*' | '?') | None => None,
            Some(c) => Some((*c, 1)),
        };
        match (pattern.get(p), literal) {
            (Some('*'), _) => {
                star = Some((p + 1, t));
                p += 1;
            }
            (Some('?'), _) => {
                p += 1;
                t += 1;
            }
            (_, Some((c, width))) if c == text[t] => {
                p += width;
                t += 1;
            }
            _ => match star {
                Some((after, from)) => {
                    p = after;
                    t = from + 1;
                    star = Some((after, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("value".into()),
            "EMPTY" => Some(String::new()),
            "PATHS" => Some("a/b/c.tar.gz".into()),
            "TWO" => Some("one two".into()),
            _ => None,
        }
    }

    #[test]
    fn every_form() {
        let table = [
            ("$A", "value"),
            ("x${A}y", "xvaluey"),
            ("$NONE.", "."),
            ("${NONE:-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${A:+yes}", "yes"),
            ("${EMPTY:+yes}", ""),
            ("${EMPTY+yes}", "yes"),
            ("${NONE:-${A}}", "value"),
            ("${NONE:-'a}b'}", "a}b"),
            ("\\$A", "$A"),
            ("'$A'", "$A"),
            ("\"$A b\"", "value b"),
            ("\"a\\nb\"", "a\\nb"),
            ("a\\nb", "anb"),
            ("${PATHS#*/}", "b/c.tar.gz"),
            ("${PATHS##*/}", "c.tar.gz"),
            ("${PATHS%.*}", "a/b/c.tar"),
            ("${PATHS%%.*}", "a/b/c"),
            ("${PATHS/b/x}", "a/x/c.tar.gz"),
            ("${PATHS//a/x}", "x/b/c.txr.gz"),
            ("$", "$"),
            ("a$ b", "a$ b"),
            ("$1x", "x"),
        ];
        for (text, expected) in table {
            assert_eq!(word(text, '\\', &lookup).as_deref(), Ok(expected), "{text}");
        }
        for text in ["${A", "'a", "\"a", "${}", "${A!}", "${NONE:?gone}", "${NONE?}"] {
            assert!(word(text, '\\', &lookup).is_err(), "{text}");
        }
    }

    #[test]
    fn several_words() {
        assert_eq!(words("$TWO \"$TWO\" 3", '\\', &lookup).expect("right"), ["one", "two", "one two", "3"]);
        assert_eq!(variables("a \"$A\" \\$A '$A'\n", '\\', &lookup).expect("right"), "a \"value\" $A 'value'\n");
    }
}
