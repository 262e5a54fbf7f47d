//! `.dockerignore` and the patterns of `COPY --exclude`: Docker's rules, not Git's.
//!
//! A pattern is matched against the whole path from the context's root; a matched directory takes what is in it along; `!`
//! takes back; the last match decides.

use std::path::Path;

/// The patterns of a file, in order.
#[derive(Debug, Clone, Default)]
pub struct Patterns(Vec<Pattern>);

#[derive(Debug, Clone)]
struct Pattern {
    parts: Vec<String>,
    negated: bool,
}

impl Patterns {
    /// Reads a `.dockerignore`.
    pub fn parse(text: &str) -> Self {
        let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines().filter(|line| !line.starts_with('#'));
        Patterns(lines.filter_map(|line| Pattern::parse(line.trim())).collect())
    }

    pub fn of(patterns: &[String]) -> Self {
        Patterns(patterns.iter().filter_map(|pattern| Pattern::parse(pattern.trim())).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a path, relative to the root, is left out.
    pub fn excludes(&self, path: &Path) -> bool {
        let parts: Vec<String> = path.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
        let mut excluded = false;
        for pattern in &self.0 {
            // What is in a matched directory is matched.
            if pattern.negated == excluded && (1..=parts.len()).any(|depth| fits(&pattern.parts, &parts[..depth])) {
                excluded = !pattern.negated;
            }
        }
        excluded
    }

    /// Whether something below an excluded directory may be taken back, so that it has to be looked into.
    pub fn may_take_back_below(&self, directory: &Path) -> bool {
        let depth = directory.components().count();
        let parts: Vec<String> = directory.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
        self.0.iter().filter(|pattern| pattern.negated).any(|pattern| {
            pattern.parts.iter().take(depth).any(|part| part == "**")
                || (pattern.parts.len() > depth && fits(&pattern.parts[..depth], &parts))
        })
    }
}

impl Pattern {
    fn parse(line: &str) -> Option<Self> {
        let (negated, line) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        let mut parts: Vec<String> = Vec::new();
        for part in line.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part.to_string()),
            }
        }
        (!parts.is_empty()).then_some(Pattern { parts, negated })
    }
}

/// A path's parts against a pattern's; `**` is any number of parts.
pub fn fits(pattern: &[String], path: &[String]) -> bool {
    match (pattern.first().map(String::as_str), path.first()) {
        (None, None) => true,
        (Some("**"), None) => fits(&pattern[1..], path),
        (Some("**"), Some(_)) => fits(&pattern[1..], path) || fits(pattern, &path[1..]),
        (Some(part), Some(name)) => part_fits(part, name) && fits(&pattern[1..], &path[1..]),
        _ => false,
    }
}

/// Go's `filepath.Match` for one part: `*`, `?`, `[a-z]`, `[^a]` and `\` for what they are.
pub fn part_fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    chars_fit(&pattern, &name)
}

fn chars_fit(pattern: &[char], name: &[char]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return name.is_empty() };
    match first {
        '*' => {
            let rest = &rest[rest.iter().take_while(|c| **c == '*').count()..];
            (0..=name.len()).any(|i| chars_fit(rest, &name[i..]))
        }
        '?' => !name.is_empty() && chars_fit(rest, &name[1..]),
        '[' => {
            let Some(end) = rest.iter().skip(1).position(|c| *c == ']').map(|i| i + 1) else { return false };
            let Some((c, after)) = name.split_first() else { return false };
            class_holds(&rest[..end], *c) && chars_fit(&rest[end + 1..], after)
        }
        '\\' if !rest.is_empty() => name.first() == Some(&rest[0]) && chars_fit(&rest[1..], &name[1..]),
        c => name.first() == Some(c) && chars_fit(rest, &name[1..]),
    }
}

fn class_holds(class: &[char], c: char) -> bool {
    let (negated, mut class) = match class.split_first() {
        Some(('^' | '!', rest)) => (true, rest),
        _ => (false, class),
    };
    let mut held = false;
    while let Some((low, rest)) = class.split_first() {
        match rest {
            ['-', high, rest @ ..] => {
                held |= (*low..=*high).contains(&c);
                class = rest;
            }
            rest => {
                held |= *low == c;
                class = rest;
            }
        }
    }
    held != negated
}

/// Whether a text has any of a pattern's characters.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_rules() {
        let table = [
            ("*.md", "a.md", true),
            ("*.md", "d/a.md", false),
            ("**/*.md", "d/e/a.md", true),
            ("**/*.md", "a.md", true),
            ("node_modules", "node_modules/x/y", true),
            ("/build/", "build/x", true),
            ("a/../b", "b", true),
            ("*\n!keep", "keep", false),
            ("*\n!keep", "other", true),
            ("d\n!d/keep", "d/keep", false),
            ("d\n!d/keep\nd/keep", "d/keep", true),
            ("# c\n\n x ", "x", true),
            ("a?c", "abc", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("**", "x/y", true),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
        ];
        for (patterns, path, excluded) in table {
            assert_eq!(Patterns::parse(patterns).excludes(Path::new(path)), excluded, "{patterns:?} on {path}");
        }
        let taken_back = Patterns::parse("d\n!d/e/keep");
        assert!(taken_back.may_take_back_below(Path::new("d")) && !taken_back.may_take_back_below(Path::new("x")));
    }
}
