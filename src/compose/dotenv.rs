//! `.env` and `env_file:` as Docker Compose reads them: quotes, escapes, `export`, comments and interpolation.

use super::interpolate::{self, Unset, Variables};
use indexmap::IndexMap;

/// A file that is not well formed: the 1-based line and what is wrong there.
#[derive(Debug, PartialEq)]
pub struct Malformed {
    pub line: u32,
    pub why: String,
}

/// Reads a file's text. A name without `=` takes its value from `outer`, and is left out when that has none.
/// Values that are not in single quotes see the variables of `outer` and of the lines above them.
///
/// # Errors
/// The first line that is not well formed.
pub fn parse(text: &str, outer: &dyn Variables) -> Result<IndexMap<String, String>, Malformed> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut values: IndexMap<String, String> = IndexMap::new();
    let mut rest = text.as_str();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(values);
        }
        let line = text[..text.len() - rest.len()].matches('\n').count() as u32 + 1;
        let malformed = |why: String| Malformed { line, why };
        if rest.starts_with('#') {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
            continue;
        }
        if let Some(after) = rest.strip_prefix("export").filter(|after| after.starts_with([' ', '\t'])) {
            rest = after.trim_start_matches([' ', '\t']);
        }
        let end = rest.find(['=', ':', '\n']).unwrap_or(rest.len());
        let name = rest[..end].trim();
        if let Some(bad) = name.chars().find(|c| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']'))) {
            return Err(malformed(format!("`{bad}` cannot be part of the variable name `{name}`")));
        }
        if name.is_empty() {
            return Err(malformed("a line must be NAME=VALUE".into()));
        }
        let separator = rest[end..].chars().next();
        if separator.is_none() || separator == Some('\n') {
            if let Some(value) = outer.get(name) {
                values.insert(name.to_string(), value);
            }
            rest = &rest[end..];
            continue;
        }
        let (value, after) = value(rest[end + 1..].trim_start_matches([' ', '\t']), &values, outer).map_err(malformed)?;
        values.insert(name.to_string(), value);
        rest = after;
    }
}

/// Reads `format: raw`: what is behind the first `=` of a line is the value, quotes and dollars and all.
pub fn parse_raw(text: &str) -> IndexMap<String, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.trim().to_string(), value.to_string())).collect()
}

fn value<'a>(text: &'a str, earlier: &IndexMap<String, String>, outer: &dyn Variables) -> Result<(String, &'a str), String> {
    let lookup = |name: &str| outer.get(name).or_else(|| earlier.get(name).cloned());
    let expand = |raw: &str| {
        interpolate::expand(raw, &lookup, &mut Unset::new()).map_err(|failure| match failure {
            interpolate::InterpolationFailure::Syntax(why) => why,
            interpolate::InterpolationFailure::Required { name, message } => {
                format!("the variable `{name}` is required and not set: {message}")
            }
        })
    };
    match text.chars().next() {
        Some(quote @ ('\'' | '"')) => {
            let body = &text[1..];
            let mut escaped = false;
            let end = body
                .char_indices()
                .find(|(_, c)| {
                    let closes = *c == quote && !escaped;
                    escaped = *c == '\\' && !escaped;
                    closes
                })
                .map(|(i, _)| i)
                .ok_or_else(|| format!("the value begins with {quote} and is not closed"))?;
            let after = after_quote(&body[end + 1..])?;
            let value = if quote == '\'' { body[..end].replace("\\'", "'") } else { expand(&unescape(&body[..end]))? };
            Ok((value, after))
        }
        _ => {
            let (line, after) = text.split_once('\n').unwrap_or((text, ""));
            // A comment begins with a space before its `#`: `A=#1` and `A= #1` are values.
            let raw = line.split_once(" #").map_or(line, |(value, _)| value).trim_end();
            Ok((expand(raw)?, after))
        }
    }
}

/// The rest of a line behind a closing quote: a comment, or another variable, as Docker Compose has it. It forgets any other text; nobody
/// means that.
fn after_quote(text: &str) -> Result<&str, String> {
    let line = text.split_once('\n').map_or(text, |(line, _)| line).trim();
    let name = line.split_once('=').map(|(name, _)| name.trim());
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if line.is_empty() || line.starts_with('#') || name.is_some_and(is_name) {
        return Ok(text);
    }
    Err(format!("`{line}` follows the closing quote: put it inside of the quotes, or make it a comment with ` #`"))
}

/// The escapes of a double-quoted value; `\$` stays a plain dollar sign through interpolation.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('a') => out.push('\x07'),
            Some('b') => out.push('\x08'),
            Some('f') => out.push('\x0c'),
            Some('v') => out.push('\x0b'),
            Some('0') => match octal(chars.as_str()) {
                Some(c) => {
                    out.push(c);
                    chars.by_ref().take(3).for_each(drop);
                }
                None => out.push_str("\\0"),
            },
            Some('$') => out.push_str("$$"),
            Some(c @ ('"' | '\\')) => out.push(c),
            Some(c) => out.extend(['\\', c]),
            None => out.push('\\'),
        }
    }
    out
}

/// The character of three octal digits.
fn octal(text: &str) -> Option<char> {
    u8::from_str_radix(text.get(..3)?, 8).ok().map(char::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        let outer = |name: &str| (name == "OUT").then(|| "outer".to_string());
        let text = "# comment\nA=1\nexport B = two # tail\nC='single $A'\nD=\"double $A\\n\"\nE=${A}-${OUT}\nOUT\nMISSING\nF=\nG=a#b\nH=\"l1\nl2\"\nI: yaml\nJ=\"\\$A\"\nK=#v # c\nL=\"\\0101\\a\"";
        let values = parse(text, &outer).expect("valid");
        let expected = [
            ("A", "1"),
            ("B", "two"),
            ("C", "single $A"),
            ("D", "double 1\n"),
            ("E", "1-outer"),
            ("OUT", "outer"),
            ("F", ""),
            ("G", "a#b"),
            ("H", "l1\nl2"),
            ("I", "yaml"),
            ("J", "$A"),
            ("K", "#v"),
            ("L", "A\x07"),
        ];
        assert_eq!(values.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_follows_a_closing_quote() {
        let none = |_: &str| None;
        let values = parse("A='x' # c\nB=\"y\"#c\nC='z' D=\"w\"\nE='v'\t\n", &none).expect("valid");
        let values: Vec<_> = values.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(values, ["A=x", "B=y", "C=z", "D=w", "E=v"]);
        for (text, line) in [("A='x'y\n", 1), ("A=1\nB=\"x\" y\n", 2), ("A='a'b'\n", 1), ("\nA='x\ny' z", 2)] {
            assert_eq!(parse(text, &none).expect_err(text).line, line, "{text}");
        }
    }

    #[test]
    fn malformed_lines_are_named() {
        let none = |_: &str| None;
        assert_eq!(parse("A=1\nB C=2\n", &none).expect_err("space").line, 2);
        assert_eq!(parse("A=\"open\n", &none).expect_err("quote").line, 1);
        assert_eq!(parse("=x", &none).expect_err("name").line, 1);
    }
}
