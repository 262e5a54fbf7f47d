//! A Dockerfile's text as instructions: lines, continuations, comments, directives, heredocs, flags, JSON forms.
//!
//! The grammar is that of Dockerfile frontend 1.x (docs.docker.com/reference/dockerfile). Nothing is expanded here.

use super::flags;
use std::fmt;

/// Bytes of a Dockerfile.
pub const MAX_FILE: u64 = 4 << 20;

/// An error in a Dockerfile, with its line. Lines begin at 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MalformedDockerfile {
    pub line: usize,
    pub message: String,
    pub help: Option<String>,
}

impl MalformedDockerfile {
    pub fn new(line: usize, message: impl Into<String>) -> Self {
        MalformedDockerfile { line, message: message.into(), help: None }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for MalformedDockerfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// An instruction with its arguments as they were written.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    pub line: usize,
    /// The last of its lines, with those of its heredocs.
    pub last: usize,
    /// In capitals: `RUN`.
    pub keyword: String,
    /// `--name=value`; a flag without a value is `true`.
    pub flags: Vec<(String, String)>,
    /// The text behind the flags, continuations joined.
    pub rest: String,
    pub heredocs: Vec<Heredoc>,
    /// The whole instruction on one line, for output and history.
    pub text: String,
    /// What `check=` says in the comments above.
    pub check: Option<String>,
}

/// A here-document of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    pub content: String,
    /// False where the name was quoted.
    pub expand: bool,
}

/// A parsed file.
#[derive(Debug, Clone, PartialEq)]
pub struct Dockerfile {
    pub instructions: Vec<Instruction>,
    /// `\`, or `` ` `` where a directive says so.
    pub escape: char,
    /// The value of the directive `check`.
    pub check: Option<String>,
}

const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Instructions that take heredocs.
const WITH_HEREDOCS: [&str; 3] = ["RUN", "COPY", "ADD"];

/// Parses a whole file.
///
/// # Errors
/// The first instruction that is not understood.
pub fn parse(text: &str) -> Result<Dockerfile, MalformedDockerfile> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
    let (escape, check) = directives(&lines)?;
    let mut instructions = Vec::new();
    let mut at = 0;
    let mut said = None;
    while at < lines.len() {
        let line = lines[at];
        if let Some(comment) = line.trim_start().strip_prefix('#') {
            // The first one holds; an empty comment ends what is said of an instruction (`WithMergedConfigFromComments` of BuildKit).
            said = if comment.trim().is_empty() { None } else { said.or_else(|| said_of_checks(comment)) };
        }
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            at += 1;
            continue;
        }
        let begin = at;
        let mut joined = String::new();
        loop {
            let line = lines.get(at).copied().unwrap_or_default();
            at += 1;
            let blank = at > begin + 1 && line.trim().is_empty();
            let comment = at > begin + 1 && line.trim_start().starts_with('#');
            if !blank && !comment {
                let stripped = line.trim_end();
                match stripped.strip_suffix(escape).filter(|_| continues(stripped, escape)) {
                    Some(part) => joined.push_str(part),
                    None => {
                        joined.push_str(line);
                        break;
                    }
                }
            }
            if at >= lines.len() {
                break;
            }
        }
        let mut instruction = instruction(joined.trim(), begin + 1)?;
        if WITH_HEREDOCS.contains(&instruction.keyword.as_str()) || onbuild_with_heredocs(&instruction) {
            at = heredocs(&mut instruction, &lines, at)?;
        }
        instruction.last = at.min(lines.len());
        instruction.check = said.take();
        instructions.push(instruction);
    }
    if instructions.is_empty() {
        return Err(MalformedDockerfile::new(1, "the Dockerfile is empty").help("it begins with `FROM IMAGE`"));
    }
    Ok(Dockerfile { instructions, escape, check })
}

/// What a comment says of checks: `check=skip=NAME`, up to a space.
fn said_of_checks(comment: &str) -> Option<String> {
    let (name, value) = comment.split_once('=')?;
    let value = value.split_whitespace().next().unwrap_or_default();
    name.trim().eq_ignore_ascii_case("check").then(|| value.to_string())
}

/// Whether a line goes on: it ends with the escape character, and that is not itself escaped.
fn continues(line: &str, escape: char) -> bool {
    line.chars().rev().take_while(|c| *c == escape).count() % 2 == 1 || escape == '`'
}

/// `# name=value` at the very top: the escape character, and what `check` says.
fn directives(lines: &[&str]) -> Result<(char, Option<String>), MalformedDockerfile> {
    let mut escape = '\\';
    let mut check = None;
    let mut seen: Vec<String> = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let Some(comment) = line.trim().strip_prefix('#') else { break };
        let Some((name, value)) = comment.split_once('=') else { break };
        let name = name.trim().to_ascii_lowercase();
        if !["syntax", "escape", "check"].contains(&name.as_str()) {
            break;
        }
        if seen.contains(&name) {
            return Err(
                MalformedDockerfile::new(i + 1, format!("the directive `{name}` occurs twice")).help("keep one of the two")
            );
        }
        if name == "escape" {
            escape = match value.trim() {
                "\\" => '\\',
                "`" => '`',
                other => {
                    return Err(MalformedDockerfile::new(i + 1, format!("`{other}` cannot be the escape character"))
                        .help("it is `\\` or a backtick"));
                }
            };
        }
        if name == "check" {
            check = Some(value.trim().to_string());
        }
        seen.push(name);
    }
    Ok((escape, check))
}

fn onbuild_with_heredocs(instruction: &Instruction) -> bool {
    instruction.keyword == "ONBUILD"
        && WITH_HEREDOCS.iter().any(|keyword| instruction.rest.to_ascii_uppercase().starts_with(&format!("{keyword} ")))
}

/// One logical line: the keyword, its flags and the rest. Also what `ONBUILD` holds.
pub fn instruction(line: &str, number: usize) -> Result<Instruction, MalformedDockerfile> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let keyword = word.to_ascii_uppercase();
    if !KEYWORDS.contains(&keyword.as_str()) {
        let near = KEYWORDS.iter().copied().min_by_key(|known| strsim::damerau_levenshtein(&keyword, known));
        let near = near.filter(|known| strsim::damerau_levenshtein(&keyword, known) <= 2);
        let help =
            near.map_or_else(|| format!("it is one of {}", KEYWORDS.join(", ")), |known| format!("did you mean `{known}`?"));
        return Err(MalformedDockerfile::new(number, format!("`{word}` is not an instruction")).help(help));
    }
    let (flags, rest) = flags::of(&keyword, rest.trim(), number)?;
    if rest.is_empty() && !matches!(keyword.as_str(), "CMD" | "ENTRYPOINT" | "SHELL" | "RUN") {
        return Err(MalformedDockerfile::new(number, format!("{keyword} needs an argument")));
    }
    Ok(Instruction {
        line: number,
        last: number,
        keyword,
        flags,
        rest: rest.to_string(),
        heredocs: Vec::new(),
        text: line.to_string(),
        check: None,
    })
}

pub(super) fn unquoted(value: &str) -> String {
    let inner = |quote: char| value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote)).filter(|v| !v.contains(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(value).to_string()
}

/// Takes the heredocs that an instruction announces from the lines below it; gives the first line after them.
fn heredocs(instruction: &mut Instruction, lines: &[&str], mut at: usize) -> Result<usize, MalformedDockerfile> {
    for (name, expand, strip_tabs) in announced(&instruction.rest) {
        let mut content = String::new();
        loop {
            let Some(line) = lines.get(at) else {
                return Err(MalformedDockerfile::new(instruction.line, format!("the heredoc `<<{name}` has no end"))
                    .help(format!("write a line that is just `{name}`")));
            };
            at += 1;
            let line = if strip_tabs { line.trim_start_matches('\t') } else { line };
            if line == name {
                break;
            }
            content.push_str(line);
            content.push('\n');
        }
        instruction.heredocs.push(Heredoc { name, content, expand });
    }
    Ok(at)
}

/// The names after `<<` and `<<-` outside of quotes: (name, expand, strip tabs).
fn announced(text: &str) -> Vec<(String, bool, bool)> {
    let mut found = Vec::new();
    let mut quote = None;
    let mut rest = text.char_indices().peekable();
    let mut before = ' ';
    while let Some((i, c)) = rest.next() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, '<')
                if text[i..].starts_with("<<")
                    && !text[i..].starts_with("<<<")
                    && (before.is_whitespace() || before.is_ascii_digit()) =>
            {
                let mut word = &text[i + 2..];
                let strip = word.starts_with('-');
                word = word.trim_start_matches('-');
                let end =
                    word.find(|c: char| c.is_whitespace() || matches!(c, ';' | '&' | '|' | '<' | '>')).unwrap_or(word.len());
                let word = &word[..end];
                let name = unquoted(word);
                if !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.')) {
                    found.push((name.clone(), name == word, strip));
                    while rest.peek().is_some_and(|(at, _)| *at < i + 2 + usize::from(strip) + word.len()) {
                        rest.next();
                    }
                }
            }
            _ => {}
        }
        before = c;
    }
    found
}

/// A JSON list of strings, where the text is one. Docker takes anything else for the shell form.
pub fn json_form(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    text.starts_with('[').then(|| serde_json::from_str::<Vec<String>>(text).ok()).flatten()
}

/// Splits at spaces outside of quotes; quotes and escapes stay in the words.
pub fn words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    let mut any = false;
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => {
                if any {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
                continue;
            }
            (quote_now, c) if c == escape && quote_now != Some('\'') => {
                word.push(c);
                word.extend(chars.next());
                any = true;
                continue;
            }
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
        any = true;
        word.push(c);
    }
    if any {
        words.push(word);
    }
    words
}

/// `NAME=VALUE ...`, or the older `NAME VALUE` with everything behind the name as the value.
pub fn pairs(instruction: &Instruction, escape: char) -> Result<Vec<(String, String)>, MalformedDockerfile> {
    let all = words(&instruction.rest, escape);
    let first = all.first().cloned().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = instruction.rest.split_once(char::is_whitespace).unwrap_or((&instruction.rest, ""));
        if value.trim().is_empty() {
            return Err(MalformedDockerfile::new(instruction.line, format!("{} needs a name and a value", instruction.keyword))
                .help(format!("write `{} {name}=VALUE`", instruction.keyword)));
        }
        return Ok(vec![(name.to_string(), value.trim().to_string())]);
    }
    all.iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_string(), value.to_string())),
            _ => Err(MalformedDockerfile::new(instruction.line, format!("`{word}` is not NAME=VALUE"))
                .help("quote a value that holds spaces: `NAME=\"a b\"`")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rests(text: &str) -> Vec<(String, String)> {
        parse(text).expect("right").instructions.into_iter().map(|i| (i.keyword, i.rest)).collect()
    }

    #[test]
    fn lines_comments_and_continuations() {
        let text = "# comment\nfrom a\n\nRUN one \\\n  # inside\n\n  two \\ \n  three\n  # after\nCMD [\"x\"]";
        assert_eq!(
            rests(text),
            [("FROM".into(), "a".into()), ("RUN".into(), "one   two   three".into()), ("CMD".into(), "[\"x\"]".into())]
        );
    }

    #[test]
    fn another_escape_character() {
        let text = "# escape=`\nFROM a\nRUN dir C:\\ `\n  b\n";
        assert_eq!(rests(text)[1].1, "dir C:\\   b");
    }

    #[test]
    fn flags() {
        let file = parse(
            "FROM --platform=linux/amd64 a AS b\nCOPY --from=b --chown=\"1:2\" x y\nRUN --mount=type=cache,target=/c echo --x",
        )
        .expect("right");
        assert_eq!(file.instructions[1].flags, [("from".to_string(), "b".to_string()), ("chown".into(), "1:2".into())]);
        assert_eq!((file.instructions[2].rest.as_str(), file.instructions[2].flags.len()), ("echo --x", 1));
    }

    #[test]
    fn heredocs_are_taken_whole() {
        let text =
            "FROM a\nRUN <<EOF\necho $A\nEOF\nCOPY <<'A' <<-B /x/\none\nA\n\ttwo\n\tB\nRUN cat <<<EOF 1<<EOF\nz\nEOF\nCMD y";
        let file = parse(text).expect("right");
        assert_eq!(file.instructions[1].heredocs, [Heredoc { name: "EOF".into(), content: "echo $A\n".into(), expand: true }]);
        let copied: Vec<_> = file.instructions[2].heredocs.iter().map(|h| (h.content.as_str(), h.expand)).collect();
        assert_eq!(copied, [("one\n", false), ("two\n", true)]);
        assert_eq!(file.instructions[3].heredocs.len(), 1);
        assert_eq!(file.instructions[4].keyword, "CMD");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let table = [
            ("FROM a\nRUM x", 2, "did you mean `RUN`?"),
            ("FROM a\nCOPY --form=b x y", 2, "--from"),
            ("FROM a\nRUN <<EOF\nx", 2, "a line that is just `EOF`"),
            ("", 1, "FROM IMAGE"),
            ("# escape=x\nFROM a", 1, "backtick"),
        ];
        for (text, line, help) in table {
            let error = parse(text).expect_err(text);
            assert!(error.line == line && error.help.as_deref().unwrap_or_default().contains(help), "{text}: {error:?}");
        }
        assert!(parse("FROM a\nENV").is_err());
    }

    #[test]
    fn names_and_values() {
        let of = |text: &str| pairs(&instruction(text, 1).expect("right"), '\\');
        assert_eq!(of("ENV a b c").expect("right"), [("a".to_string(), "b c".to_string())]);
        assert_eq!(of("ENV a=1 b=\"2 3\" c=4\\ 5").expect("right").len(), 3);
        assert!(of("ENV a").is_err() && of("ENV a=1 b").is_err());
    }
}
