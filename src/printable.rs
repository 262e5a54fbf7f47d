//! Text of strangers (an image, an archive, a registry, a file) as a terminal may get it.

use std::borrow::Cow;

/// One line: whatever a terminal would obey, and what changes the order of letters, is escaped as Rust writes it (`\u{1b}`, `\n`).
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\t' && is_obeyed(c))
}

/// Lines: the same, but for their ends.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| !matches!(c, '\t' | '\n') && is_obeyed(c))
}

/// An address without its name and password (RFC 3986, 3.2.1): messages are kept where others read them.
pub fn without_login(address: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = address.split_once("://") else { return Cow::Borrowed(address) };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => Cow::Owned(format!("{scheme}://{}", &rest[at + 1..])),
        None => Cow::Borrowed(address),
    }
}

/// Control characters of both sets (C0, C1), and Unicode's for the direction of text.
fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, obeyed: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if obeyed(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_login() {
        assert_eq!(without_login("https://u:p@w@host:1/a@b.git#x"), "https://host:1/a@b.git#x");
        assert_eq!(without_login("https://token@host"), "https://host");
        for plain in ["https://host/a@b", "git@host:a/b", "oci://host/a:1", "./a@b"] {
            assert_eq!(without_login(plain), plain);
        }
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        assert_eq!(line("plain ü\t`x`"), "plain ü\t`x`");
        assert_eq!(line("a\x1b[2J\nerror: b\u{9b}31m\u{202e}\r"), "a\\u{1b}[2J\\nerror: b\\u{9b}31m\\u{202e}\\r");
        assert_eq!(lines("a\nb\x07"), "a\nb\\u{7}");
    }
}
