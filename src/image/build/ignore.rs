//! `.dockerignore` and the patterns of `COPY --exclude`: Docker's rules, not Git's.
//!
//! A pattern is matched against the whole path from the context's root; a matched directory takes what is in it along; `!`
//! takes back; the last match decides.

use std::path::Path;

/// Bytes of a `.dockerignore`.
pub const MAX_FILE: u64 = 1 << 20;

/// Characters of a pattern. What is longer is longer than any path, and matches nothing.
const MAX_PATTERN: usize = 4096;

/// The patterns of a file, in order.
#[derive(Debug, Clone, Default)]
pub struct Patterns(Vec<IgnoreLine>);

#[derive(Debug, Clone)]
struct IgnoreLine {
    pattern: Pattern,
    negated: bool,
}

impl Patterns {
    /// Reads a `.dockerignore`.
    pub fn parse(text: &str) -> Self {
        let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines().filter(|line| !line.starts_with('#'));
        Patterns(lines.filter_map(|line| IgnoreLine::parse(line.trim())).collect())
    }

    pub fn of(patterns: &[String]) -> Self {
        Patterns(patterns.iter().filter_map(|pattern| IgnoreLine::parse(pattern.trim())).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a path, relative to the root, is left out.
    pub fn excludes(&self, path: &Path) -> bool {
        let path = slashed(path);
        let mut excluded = false;
        for line in &self.0 {
            if line.negated == excluded && line.pattern.run(&path).above {
                excluded = !line.negated;
            }
        }
        excluded
    }

    /// Whether something below an excluded directory may be taken back, so that it has to be looked into.
    pub fn may_take_back_below(&self, directory: &Path) -> bool {
        let directory = slashed(directory) + "/";
        self.0.iter().filter(|line| line.negated).any(|line| {
            let run = line.pattern.run(&directory);
            run.above || run.goes_on
        })
    }
}

/// A path as patterns have it.
fn slashed(path: &Path) -> String {
    let parts: Vec<_> = path.components().map(|c| c.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

/// The patterns of a `.dockerignore` as they are sent to who walks through a directory: without comments, relative to its root.
pub fn lines(text: &str) -> Vec<String> {
    let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines().filter(|line| !line.starts_with('#')).map(str::trim);
    let cleaned = lines.filter_map(|line| {
        let (sign, pattern) = line.strip_prefix('!').map_or(("", line), |rest| ("!", rest.trim()));
        let parts: Vec<&str> = pattern.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        (!parts.is_empty()).then(|| format!("{sign}{}", parts.join("/")))
    });
    cleaned.collect()
}

impl IgnoreLine {
    fn parse(line: &str) -> Option<Self> {
        let (negated, line) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        Some(IgnoreLine { pattern: Pattern::parse(line)?, negated })
    }
}

/// A pattern as Docker's library reads it (moby/patternmatcher): `*`, `?`, `[a-z]`, `[^a]` and `\` as Go's `filepath.Match` has
/// them, and `**` for any number of directories. It is matched by going through the path once with all that may come next, so that
/// no pattern takes longer than its length times the path's.
#[derive(Debug, Clone)]
pub struct Pattern(Vec<GlobToken>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum GlobToken {
    Character(char),
    /// `?`: one that is no `/`.
    One,
    /// `*`: any number that are no `/`.
    Star,
    /// `**` at the end: anything.
    All,
    /// `**/`: nothing, or what [`Token::Inside`] takes, which always follows.
    Directories,
    /// Anything that ends with `/`.
    Inside,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// The positions that a path has reached in a pattern.
struct ReachedStates {
    /// The whole path matches.
    whole: bool,
    /// The path matches, or a directory that it is in.
    above: bool,
    /// A longer path may match.
    goes_on: bool,
}

impl Pattern {
    /// `None` for one that matches nothing: it is empty, too long, or has a class without an end.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts: Vec<&str> = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let text: Vec<char> = parts.join("/").chars().collect();
        if text.is_empty() || text.len() > MAX_PATTERN {
            return None;
        }
        let mut tokens = Vec::new();
        let mut rest = &text[..];
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            match first {
                '*' if rest.first() == Some(&'*') => {
                    rest = &rest[1..];
                    let slash = rest.first() == Some(&'/');
                    rest = if slash { &rest[1..] } else { rest };
                    // Docker's library takes `**.go` for an ending, as long as it has no other wildcard.
                    let ending = tokens.is_empty() && !slash && !rest.iter().any(|c| "*?[]\\".contains(*c));
                    match rest.is_empty() || ending {
                        true => tokens.push(GlobToken::All),
                        false => tokens.extend([GlobToken::Directories, GlobToken::Inside]),
                    }
                }
                '*' => tokens.push(GlobToken::Star),
                '?' => tokens.push(GlobToken::One),
                '[' => {
                    let (class, after) = class(rest)?;
                    tokens.push(class);
                    rest = after;
                }
                '\\' if !rest.is_empty() => {
                    tokens.push(GlobToken::Character(rest[0]));
                    rest = &rest[1..];
                }
                c => tokens.push(GlobToken::Character(*c)),
            }
        }
        Some(Pattern(tokens))
    }

    /// Whether a path matches, from its beginning to its end.
    pub fn matches(&self, path: &Path) -> bool {
        self.run(&slashed(path)).whole
    }

    fn run(&self, path: &str) -> ReachedStates {
        // The places in the pattern that may come next, each once, and which places are among them.
        let (mut now, mut next) = (Places::of(self.0.len()), Places::of(self.0.len()));
        self.reach(&mut now, 0);
        let mut above = false;
        let mut characters = path.chars().peekable();
        while let Some(c) = characters.next() {
            next.clear();
            for &place in &now.all {
                let Some(token) = self.0.get(place) else { continue };
                let (stays, leaves) = match token {
                    GlobToken::Character(own) => (false, c == *own),
                    GlobToken::One => (false, c != '/'),
                    GlobToken::Star => (c != '/', false),
                    GlobToken::All => (true, false),
                    GlobToken::Directories => (false, false),
                    GlobToken::Inside => (true, c == '/'),
                    GlobToken::Class { negated, ranges } => {
                        (false, ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated)
                    }
                };
                if stays {
                    self.reach(&mut next, place);
                }
                if leaves {
                    self.reach(&mut next, place + 1);
                }
            }
            std::mem::swap(&mut now, &mut next);
            above |= now.known[self.0.len()] && characters.peek().is_none_or(|c| *c == '/');
            if now.all.is_empty() {
                return ReachedStates { whole: false, above, goes_on: false };
            }
        }
        ReachedStates { whole: now.known[self.0.len()], above, goes_on: now.all.iter().any(|place| *place < self.0.len()) }
    }

    /// Adds a place, and those that are reached from it without a character.
    fn reach(&self, places: &mut Places, mut place: usize) {
        while places.add(place) {
            match self.0.get(place) {
                Some(GlobToken::Star | GlobToken::All) => place += 1,
                Some(GlobToken::Directories) => {
                    places.add(place + 1);
                    place += 2;
                }
                _ => return,
            }
        }
    }
}

/// Places in a pattern, the last of which is its end.
struct Places {
    all: Vec<usize>,
    known: Vec<bool>,
}

impl Places {
    fn of(length: usize) -> Self {
        Places { all: Vec::new(), known: vec![false; length + 1] }
    }

    fn clear(&mut self) {
        for place in self.all.drain(..) {
            self.known[place] = false;
        }
    }

    /// Whether it is new.
    fn add(&mut self, place: usize) -> bool {
        let new = !std::mem::replace(&mut self.known[place], true);
        if new {
            self.all.push(place);
        }
        new
    }
}

/// A class behind its `[`, and what follows it; `None` where it has no end, or nothing in it.
fn class(text: &[char]) -> Option<(GlobToken, &[char])> {
    let (negated, mut rest) = match text.split_first() {
        Some(('^', rest)) => (true, rest),
        _ => (false, text),
    };
    let mut ranges = Vec::new();
    loop {
        if let Some((']', after)) = rest.split_first() {
            return (!ranges.is_empty()).then_some((GlobToken::Class { negated, ranges }, after));
        }
        let (low, after) = class_character(rest)?;
        let (high, after) = match after.split_first() {
            Some(('-', after)) => class_character(after)?,
            _ => (low, after),
        };
        ranges.push((low, high));
        rest = after;
    }
}

fn class_character(text: &[char]) -> Option<(char, &[char])> {
    match text {
        ['\\', c, rest @ ..] => Some((*c, rest)),
        [']' | '-', ..] | [] => None,
        [c, rest @ ..] => Some((*c, rest)),
    }
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
            ("a/**", "a", false),
            ("a/**", "a/b/c", true),
            ("**.go", "d/main.go", true),
            ("**.g*", "d/.gitignore", true),
            ("**.g*", "d/main.go", false),
            ("**/a", "ba", false),
            ("a**b", "ab", true),
            ("a**b", "a/b", true),
            ("a**b", "axb", false),
            ("a**b", "ax/y/b", true),
            ("abc**", "abcdef/g", true),
            ("x/***/y", "x/a/b/y", true),
            ("[\\]a]b", "]b", true),
            ("[!a]b", "!b", true),
            ("[]a]", "a", false),
            ("[a", "a", false),
            ("[a-]", "a", false),
            ("b[^x]c", "b/c", true),
            ("é?", "éa/b", true),
            ("..", "x", false),
            ("!x\nx", "x", true),
            ("/", "x", false),
            ("a\\", "a\\", true),
        ];
        for (patterns, path, excluded) in table {
            assert_eq!(Patterns::parse(patterns).excludes(Path::new(path)), excluded, "{patterns:?} on {path}");
        }
        let copied = Pattern::parse("d/*.c").expect("pattern");
        assert!(copied.matches(Path::new("d/x.c")) && !copied.matches(Path::new("d/x.c/e")) && !copied.matches(Path::new("d")));
        let taken_back = Patterns::parse("d\n!d/e/keep");
        assert!(taken_back.may_take_back_below(Path::new("d")) && !taken_back.may_take_back_below(Path::new("x")));
    }

    /// A pattern that took 4.7 seconds for ten stars, and twice as long for each further one.
    #[test]
    fn many_stars_end_soon() {
        let begun = std::time::Instant::now();
        for line in ["*a".repeat(500) + "b", "*".repeat(4000) + "b", "**/a*".repeat(300) + "b", "a**".repeat(500) + "b"] {
            assert!(!Patterns::parse(&line).excludes(Path::new(&"a".repeat(200))), "{line}");
            assert!(!Patterns::parse(&line).excludes(Path::new(&"a/".repeat(100))), "{line}");
            Patterns::parse(&format!("!{line}")).may_take_back_below(Path::new(&"a/".repeat(100)));
        }
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    }
}
