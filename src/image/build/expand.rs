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
    let mut expander = Expander { chars: &chars, at: 0, escape, lookup, depth: 0, grown: 0 };
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
    let mut expander = Expander { chars: &chars, at: 0, escape, lookup, depth: 0, grown: 0 };
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

/// Bytes that variables may put into one text: each of ten that names the one before ten times would make ten thousand million.
const MAX_GROWTH: usize = 1 << 20;

/// Steps of matching a pattern against a value, as in `${NAME//a*b/c}`.
const MAX_STEPS: usize = 50_000_000;

struct Expander<'a> {
    chars: &'a [char],
    at: usize,
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    depth: usize,
    /// Bytes of the values so far.
    grown: usize,
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

    fn value(&mut self, name: &str) -> Result<Option<String>, Unexpandable> {
        let value = (self.lookup)(name);
        self.grow(value.as_ref().map_or(0, String::len))?;
        Ok(value)
    }

    fn grow(&mut self, bytes: usize) -> Result<(), Unexpandable> {
        self.grown += bytes;
        if self.grown > MAX_GROWTH { Err(too_long()) } else { Ok(()) }
    }

    fn variable(&mut self) -> Result<String, Unexpandable> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            return if name.is_empty() { Ok("$".into()) } else { self.value(&name).map(Option::unwrap_or_default) };
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
        let value = self.value(&name)?;
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
                trim(&value.unwrap_or_default(), &pattern, c == '#', longest)
            }
            Some('/') => {
                let all = self.peek() == Some('/');
                self.at += usize::from(all);
                let rest = self.until(Some('}'))?;
                let (pattern, replacement) = rest.split_once('/').unwrap_or((&rest, ""));
                let replaced = replace(&value.unwrap_or_default(), pattern, replacement, all)?;
                self.grow(replaced.len()).map(|()| replaced)
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

fn too_long() -> Unexpandable {
    Unexpandable(format!("its variables have more than {MAX_GROWTH} bytes together"))
}

/// `#`, `##`, `%` and `%%`: takes away what a pattern of `*` and `?` matches at the beginning or the end.
fn trim(value: &str, pattern: &str, front: bool, longest: bool) -> Result<String, Unexpandable> {
    let mut text: Vec<char> = value.chars().collect();
    let mut pattern = tokens(pattern);
    if !front {
        text.reverse();
        pattern.reverse();
    }
    let mut steps = MAX_STEPS;
    let Some(end) = matched(&pattern, &text, longest, &mut steps)? else { return Ok(value.to_string()) };
    let mut rest = text.split_off(end);
    if !front {
        rest.reverse();
    }
    Ok(rest.into_iter().collect())
}

/// `/` and `//`: puts another text in the place of what a pattern matches, the longest match first.
fn replace(value: &str, pattern: &str, replacement: &str, all: bool) -> Result<String, Unexpandable> {
    let text: Vec<char> = value.chars().collect();
    let pattern = tokens(pattern);
    let mut out = String::new();
    let (mut at, mut steps) = (0, MAX_STEPS);
    while at < text.len() {
        match matched(&pattern, &text[at..], true, &mut steps)?.filter(|length| *length > 0) {
            Some(length) => {
                out.push_str(replacement);
                at += length;
                if !all {
                    break;
                }
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
        if out.len() > MAX_GROWTH {
            return Err(too_long());
        }
    }
    out.extend(&text[at..]);
    Ok(out)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PatternToken {
    Character(char),
    /// `?`
    One,
    /// `*`
    Any,
}

/// A shell pattern of `*`, `?` and escaped characters.
fn tokens(pattern: &str) -> Vec<PatternToken> {
    let mut all = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        all.push(match c {
            '*' if all.last() == Some(&PatternToken::Any) => continue,
            '*' => PatternToken::Any,
            '?' => PatternToken::One,
            '\\' => PatternToken::Character(chars.next().unwrap_or('\\')),
            c => PatternToken::Character(c),
        });
    }
    all
}

/// How many characters a pattern matches from the beginning of a text: as many, or as few, as it can. All that may come next is
/// followed at once, so that no pattern takes longer than its length times the text's.
fn matched(pattern: &[PatternToken], text: &[char], longest: bool, steps: &mut usize) -> Result<Option<usize>, Unexpandable> {
    let mut places = vec![false; pattern.len() + 1];
    places[0] = true;
    let mut found = None;
    for length in 0..=text.len() {
        *steps = steps
            .checked_sub(places.len())
            .ok_or_else(|| Unexpandable("a pattern takes too long to be matched against its value".into()))?;
        // `*` may stand for nothing.
        for place in 0..pattern.len() {
            places[place + 1] |= places[place] && pattern[place] == PatternToken::Any;
        }
        if places[pattern.len()] {
            found = Some(length);
        }
        if (found.is_some() && !longest) || !places.contains(&true) {
            break;
        }
        let Some(c) = text.get(length) else { break };
        for place in (0..=pattern.len()).rev() {
            let before = place > 0 && places[place - 1];
            let taken = before && (pattern[place - 1] == PatternToken::One || pattern[place - 1] == PatternToken::Character(*c));
            let stays = places[place] && pattern.get(place) == Some(&PatternToken::Any);
            places[place] = taken || stays;
        }
    }
    Ok(found)
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
            ("${PATHS%*}", "a/b/c.tar.gz"),
            ("${PATHS%%*}", ""),
            ("${PATHS#a?b}", "/c.tar.gz"),
            ("${PATHS%\\.gz}", "a/b/c.tar"),
            ("${PATHS/none/x}", "a/b/c.tar.gz"),
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
    fn what_grows_without_end_is_refused() {
        let long = |name: &str| Some(if name == "L" { "a".repeat(600_000) } else { String::new() });
        assert_eq!(word("$L", '\\', &long).expect("right").len(), 600_000);
        for text in [
            "$L$L",
            "${N:-$L$L}",
            "${L//a/bb}",
            "\"$L\"'x'${L}",
            "${L//*a*b*a*b*a*b*c/x}",
            "${L%%*a*b*a*b*a*b*c*a*b*a*b*a*b*a*bc}x$L",
        ] {
            assert!(word(text, '\\', &long).is_err(), "{text}");
        }
        assert!(variables("$L $L", '\\', &long).is_err());
    }

    #[test]
    fn several_words() {
        assert_eq!(words("$TWO \"$TWO\" 3", '\\', &lookup).expect("right"), ["one", "two", "one two", "3"]);
        assert_eq!(variables("a \"$A\" \\$A '$A'\n", '\\', &lookup).expect("right"), "a \"value\" $A 'value'\n");
    }
}
