//! What looks like a secret in files that are about to be published. A guess, by the forms of well-known tokens and by the names of
//! variables, as Docker Compose guesses.

use regex::Regex;
use std::sync::LazyLock;

/// Something that looks like a secret.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: &'static str,
    /// The line on which it is, 1-based.
    pub line: usize,
}

static FORMS: LazyLock<Vec<(&'static str, Regex)>> = LazyLock::new(|| {
    [
        ("AWS Access Key", r"\b(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16}\b"),
        ("Private Key", r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----"),
        ("GitHub Token", r"\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9_]{36,255}\b|\bgithub_pat_[A-Za-z0-9_]{22,255}\b"),
        ("GitLab Token", r"\bglpat-[A-Za-z0-9_-]{20,}\b"),
        ("Slack Token", r"\bxox[abposr]-[A-Za-z0-9-]{10,}\b"),
        ("JSON Web Token", r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
        ("URL with password", r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/:@${}]+@[^\s]+"),
    ]
    .into_iter()
    // Each is tested below.
    .filter_map(|(kind, form)| Some((kind, Regex::new(form).ok()?)))
    .collect()
});

static NAMES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        "(?i)pass(?:word|wd|phrase|code)|_pass$|pwd|secret|token|credential|contrase|(?:api|auth|access|service|account|db|database|priv|private|client|encryption|signing)[_-]?key",
    )
    .ok()
});

/// Every token in a text, one a line at most.
pub fn scan(text: &str) -> Vec<Finding> {
    let kind = |line: &str| FORMS.iter().find(|(_, form)| form.is_match(line)).map(|(kind, _)| *kind);
    let lines = text.lines().enumerate();
    lines.filter_map(|(n, line)| Some(Finding { kind: kind(line)?, line: n + 1 })).collect()
}

/// Whether a variable has a name of secrets, and a value that is more than a variable's place.
pub fn is_secret(name: &str, value: &str) -> bool {
    NAMES.as_ref().is_some_and(|names| names.is_match(name)) && is_literal(value)
}

/// Whether a text has more than variables in it.
pub fn is_literal(text: &str) -> bool {
    // `$$` is a dollar sign.
    let text = text.replace("$$", "X");
    let text = text.trim();
    text.chars().count() > 2 && !text.starts_with('$') && !text.ends_with('}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found() {
        assert_eq!(FORMS.len(), 7);
        for (text, expected) in [
            ("a: AKIAIOSFODNN7EXAMPLE", Some("AWS Access Key")),
            ("-----BEGIN OPENSSH PRIVATE KEY-----", Some("Private Key")),
            ("x ghp_0123456789abcdefghijABCDEFGHIJ012345", Some("GitHub Token")),
            ("t=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4", Some("JSON Web Token")),
            ("DATABASE_URL: postgres://me:hush@db/x", Some("URL with password")),
            ("DATABASE_URL: postgres://me:${PASSWORD}@db/x", None),
            ("image: nginx:1.27", None),
            ("-----BEGIN CERTIFICATE-----", None),
        ] {
            assert_eq!(scan(text).first().map(|found| found.kind), expected, "{text}");
        }
        assert_eq!(scan("a\nb AKIAIOSFODNN7EXAMPLE\n"), [Finding { kind: "AWS Access Key", line: 2 }]);
    }

    #[test]
    fn names_of_secrets_are_known() {
        for (name, value, expected) in [
            ("PASSWORD", "hush", true),
            ("DB_PASS", "hush", true),
            ("MY_API_KEY", "abc", true),
            ("authToken", "abc", true),
            ("PASSWORD", "${PASSWORD}", false),
            ("PASSWORD", "$PASSWORD", false),
            ("PASSWORD", "$$x1", true),
            ("PASSWORD", "", false),
            ("COMPASS", "north", false),
            ("PORT", "8080", false),
        ] {
            assert_eq!(is_secret(name, value), expected, "{name}={value}");
        }
    }
}
