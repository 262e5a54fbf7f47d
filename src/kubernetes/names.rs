//! Names as Kubernetes takes them.

use sha2::{Digest, Sha256};

/// The longest DNS label.
const LABEL: usize = 63;
/// The longest name of a port.
const PORT: usize = 15;

/// A name of an object that is also a name in DNS (RFC 1035): lower-case letters, digits and `-`, beginning with a letter. A longer one than
/// 63 ends with a digest of all of it, so that two names with one beginning stay two.
pub fn dns(text: &str) -> String {
    label(text, LABEL, "s")
}

/// The name of an object that the file names: as it is where Kubernetes takes it, else made valid.
pub fn given(text: &str) -> String {
    if is_subdomain(text) { text.to_string() } else { dns(text) }
}

/// A name of at most so many characters.
pub fn cut(name: &str, longest: usize) -> String {
    if name.len() <= longest { name.to_string() } else { label(name, longest, "s") }
}

fn label(text: &str, longest: usize, first: &str) -> String {
    let lower = text.to_lowercase();
    let mut name = String::with_capacity(lower.len());
    for c in lower.chars() {
        match c {
            'a'..='z' | '0'..='9' => name.push(c),
            _ if !name.is_empty() && !name.ends_with('-') => name.push('-'),
            _ => {}
        }
    }
    let mut name = name.trim_end_matches('-').to_string();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name = format!("{first}{}{name}", if name.is_empty() { "" } else { "-" });
    }
    if name.len() > longest { digested(&name, text, longest) } else { name }
}

/// The beginning of a name, and a digest of the text that it was made of. A name has ASCII alone.
fn digested(name: &str, text: &str, longest: usize) -> String {
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(text.as_bytes())[..4]);
    let kept = name[..name.len().min(longest - digest.len() - 1)].trim_end_matches('-');
    format!("{kept}-{digest}")
}

/// The name of a port: 15 characters, and a letter among them.
pub fn port(text: &str) -> String {
    label(text, PORT, "p")
}

pub fn is_dns_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let bytes = text.as_bytes();
    (1..=LABEL).contains(&bytes.len()) && bytes.iter().all(|c| inner(*c)) && bytes[0] != b'-' && bytes[bytes.len() - 1] != b'-'
}

/// A name of a Service: a label that begins with a letter.
pub fn is_service(text: &str) -> bool {
    is_dns_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase())
}

/// Labels with dots between them, 253 characters.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// What a label's value, and the second part of a key, is made of.
fn is_word(text: &str, longest: usize) -> bool {
    let edge = |c: u8| c.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    let inner = |c: &u8| edge(*c) || matches!(c, b'-' | b'_' | b'.');
    (1..=longest).contains(&bytes.len()) && bytes.iter().all(inner) && edge(bytes[0]) && edge(bytes[bytes.len() - 1])
}

pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_word(text, LABEL)
}

/// A key of labels and annotations: `[PREFIX/]NAME`.
pub fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_word(name, LABEL),
        None => is_word(text, LABEL),
    }
}

/// A label's value for a text that may not be one. What had to be changed ends with a digest of all of it: two texts never have one value.
pub fn label_value(text: &str) -> String {
    if is_label_value(text) { text.to_string() } else { digested(&label(text, usize::MAX, "s"), text, LABEL) }
}

/// A key of a ConfigMap or a Secret for a file's name.
pub fn key(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let kept: String = text.chars().map(|c| if allowed(c) { c } else { '-' }).take(253).collect();
    // `.` and what begins with `..` are none.
    if kept.is_empty() || kept == "." || kept.starts_with("..") { format!("file{}", kept.replace('.', "-")) } else { kept }
}

pub fn is_key(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=253).contains(&text.len()) && text.chars().all(allowed) && text != "." && !text.starts_with("..")
}

/// A variable's name as every version takes it.
pub fn is_variable(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    is_key(text) && text.chars().all(allowed) && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// A variable's name as Kubernetes takes it from 1.32 on: what is printable, and no `=`.
pub fn is_relaxed_variable(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b'=')
}

/// A text that Kubernetes reads as it is: `$(NAME)` stands for a variable in `command`, `args`, `env` and probes, and `$$` for a dollar
/// sign. A run of dollar signs is doubled where one of the two would be seen.
pub fn literal(text: &str) -> String {
    if !text.contains("$$") && !text.contains("$(") {
        return text.to_string();
    }
    let mut out = String::with_capacity(text.len() + 2);
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        let run = rest[start..].bytes().take_while(|c| *c == b'$').count();
        let behind = &rest[start + run..];
        out.push_str(&rest[..start]);
        out.extend(std::iter::repeat_n('$', if run > 1 || behind.starts_with('(') { run * 2 } else { run }));
        rest = behind;
    }
    out.push_str(rest);
    out
}

pub fn literals(list: &[String]) -> Vec<String> {
    list.iter().map(|text| literal(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As k8s.io/kubernetes/third_party/forked/golang/expansion reads a text, with no variable set.
    fn expanded(text: &str) -> String {
        let bytes = text.as_bytes();
        let (mut out, mut n) = (Vec::new(), 0);
        while n < bytes.len() {
            if bytes[n] == b'$' && bytes.get(n + 1) == Some(&b'$') {
                out.push(b'$');
                n += 2;
            } else if bytes[n] == b'$' && bytes.get(n + 1) == Some(&b'(') && text[n..].contains(')') {
                out.extend(b"<variable>");
                n += text[n..].find(')').unwrap_or_default() + 1;
            } else {
                out.push(bytes[n]);
                n += 1;
            }
        }
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn dollars_stay_what_they_are() {
        for text in ["", "$", "$$", "$$$", "a$b", "$(A)", "$$(A)", "$$$(A)", "$(", "${A}", "$(date) costs $5 and $$", "ä$(ö)"] {
            assert_eq!(expanded(&literal(text)), text);
        }
        assert_eq!(literal("${A} $B"), "${A} $B");
        assert_eq!(literal("$(A)"), "$$(A)");
    }

    #[test]
    fn names_are_made_valid() {
        let long = "x".repeat(300);
        for text in ["web", "my_db", "Web.App", "1st", "-a-", "", "ä", "a--b", "a\nb", &long, &format!("{long}y")] {
            assert!(is_service(&dns(text)), "{text} -> {}", dns(text));
            let port = port(text);
            assert!(is_dns_label(&port) && port.len() <= 15 && !port.contains("--"), "{text} -> {port}");
            assert!(is_label_value(&label_value(text)), "{text}");
            assert!(is_key(&key(text)), "{text} -> {}", key(text));
        }
        assert_eq!((dns("my_db"), dns("Web.App"), dns("1st")), ("my-db".into(), "web-app".into(), "s-1st".into()));
        assert_ne!(dns(&long), dns(&format!("{long}y")));
        assert!(is_key(&key("..")) && is_key(&key(".")) && is_key(&key("..x")));
    }

    /// Objects of two projects that had one label would be one project's.
    #[test]
    fn two_texts_have_two_labels() {
        let long = "x".repeat(LABEL);
        let texts = ["shop", "shop-", "shop_", "shop--", "shop__", "shop-_", "my_shop", "my-shop", "a b", "a-b", &long];
        let longer = ["-", "_", "y", "--"].map(|end| format!("{long}{end}"));
        let all: Vec<&str> = texts.into_iter().chain(longer.iter().map(String::as_str)).collect();
        let values: std::collections::BTreeSet<String> = all.iter().map(|text| label_value(text)).collect();
        assert!(values.iter().all(|value| is_label_value(value)), "{values:?}");
        assert_eq!(values.len(), all.len(), "{values:?}");
        assert_eq!((label_value("shop"), label_value("my_shop")), ("shop".into(), "my_shop".into()));
    }

    #[test]
    fn keys_and_values_of_labels() {
        for (key, right) in
            [("a", true), ("a.b/c", true), ("a/b/c", false), ("/a", false), ("A_b", true), ("traefik.http.x", true)]
        {
            assert_eq!(is_label_key(key), right, "{key}");
        }
        for (value, right) in [("", true), ("a b", false), ("-a", false), ("Host(`x`)", false), ("1.0", true)] {
            assert_eq!(is_label_value(value), right, "{value}");
        }
    }
}
