//! Diagnostics of a Compose file: the error, its position, and what to write instead.

use super::node::{At, FileId};
use std::fmt;

/// Whether a finding keeps the project from being loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One finding. `at` is absent only for findings about no file at all (a missing file, a bad flag).
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub at: Option<At>,
    pub message: String,
    /// The remedy, a sentence.
    pub help: Option<String>,
    /// Other positions that led there: an `include`, an `extends`, the other definition; the nearest first.
    pub notes: Vec<(At, String)>,
}

impl Diagnostic {
    fn new(severity: Severity, at: Option<&At>, message: String) -> Self {
        Diagnostic { severity, at: at.copied(), message, help: None, notes: Vec::new() }
    }

    pub fn error(at: &At, message: impl Into<String>) -> Self {
        Diagnostic::new(Severity::Error, Some(at), message.into())
    }

    pub fn warning(at: &At, message: impl Into<String>) -> Self {
        Diagnostic::new(Severity::Warning, Some(at), message.into())
    }

    pub fn global(message: impl Into<String>) -> Self {
        Diagnostic::new(Severity::Error, None, message.into())
    }

    /// A warning without a position.
    pub fn about_all(message: impl Into<String>) -> Self {
        Diagnostic::new(Severity::Warning, None, message.into())
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds a position that led there.
    pub fn note(mut self, at: &At, text: impl Into<String>) -> Self {
        self.notes.push((*at, text.into()));
        self
    }

    /// The diagnostic for an editor: positions are 1-based, `end_column` is exclusive.
    pub fn to_json(&self, sources: &Sources) -> serde_json::Value {
        let place = |at: &At| serde_json::json!({"file": sources.name(at.file), "line": at.line, "column": at.column, "end_column": at.column + u32::from(at.len)});
        let mut json = serde_json::json!({"severity": self.severity, "message": self.message});
        if let (Some(at), Some(map)) = (&self.at, json.as_object_mut()) {
            map.extend(place(at).as_object().cloned().unwrap_or_default());
        }
        if let Some(help) = &self.help {
            json["help"] = help.as_str().into();
        }
        if !self.notes.is_empty() {
            let note = |(at, text): &(At, String)| {
                let mut note = place(at);
                note["message"] = text.as_str().into();
                note
            };
            json["notes"] = self.notes.iter().map(note).collect();
        }
        json
    }

    pub fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }
}

/// The files that were read: the names that messages use, and the texts.
#[derive(Clone, Debug, Default)]
pub struct Sources(Vec<(String, String)>);

impl Sources {
    /// Adds a file. Beyond 65,535 files, positions are those of the last one.
    pub fn add(&mut self, name: String, text: String) -> FileId {
        self.0.push((name, text));
        FileId::try_from(self.0.len() - 1).unwrap_or(FileId::MAX)
    }

    pub fn text(&self, file: FileId) -> &str {
        self.0.get(usize::from(file)).map_or("", |(_, text)| text)
    }

    pub fn name(&self, file: FileId) -> &str {
        self.0.get(usize::from(file)).map_or("?", |(name, _)| name)
    }
}

/// A failed load: every error of the files, rendered with the lines they are about.
#[derive(Debug)]
pub struct LoadError {
    pub diagnostics: Vec<Diagnostic>,
    pub sources: Sources,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for diagnostic in self.diagnostics.iter().filter(|d| d.severity == Severity::Error) {
            if !first {
                writeln!(f)?;
            }
            first = false;
            f.write_str(&render(diagnostic, &self.sources))?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

/// `FILE:LINE:COLUMN: error: MESSAGE`, the line with the place marked, and the help. Ends without a newline.
pub fn render(diagnostic: &Diagnostic, sources: &Sources) -> String {
    let severity = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let mut out = String::new();
    match &diagnostic.at {
        None => out.push_str(&format!("{severity}: {}", diagnostic.message)),
        Some(at) => {
            out.push_str(&format!("{}:{}:{}: {severity}: {}", sources.name(at.file), at.line, at.column, diagnostic.message));
            if let Some(line) = sources.text(at.file).lines().nth((at.line as usize).saturating_sub(1)) {
                out.push_str(&marked_line(line, at));
            }
        }
    }
    for (at, text) in &diagnostic.notes {
        out.push_str(&format!("\n  note: {}:{}:{}: {text}", sources.name(at.file), at.line, at.column));
    }
    if let Some(help) = &diagnostic.help {
        out.push_str(&format!("\n  help: {help}"));
    }
    out
}

/// A terminal line's worth of the source line around the marked place.
const SHOWN_COLUMNS: usize = 110;

fn marked_line(line: &str, at: &At) -> String {
    let column = (at.column as usize).saturating_sub(1);
    let chars: Vec<char> = line.chars().map(|c| if c == '\t' { ' ' } else { c }).collect();
    let start = if chars.len() <= SHOWN_COLUMNS { 0 } else { column.saturating_sub(SHOWN_COLUMNS / 3) };
    let shown: String = chars.iter().skip(start).take(SHOWN_COLUMNS).collect();
    let shown = shown.trim_end();
    let width = (at.len as usize).clamp(1, shown.chars().count().saturating_sub(column - start.min(column)).max(1));
    let number = at.line.to_string();
    let gutter = " ".repeat(number.len());
    format!("\n{gutter} |\n{number} | {shown}\n{gutter} | {}{}", " ".repeat(column - start.min(column)), "^".repeat(width))
}

/// The known name nearest to a misspelt one, where one is near enough to be meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.len() / 3).clamp(1, 3);
    let folded = name.to_ascii_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&folded, &k.to_ascii_lowercase().replace('-', "_")), k))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, k)| (*distance, k.len()))
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_what_was_meant() {
        let keys = ["depends_on", "deploy", "image", "environment"];
        assert_eq!(nearest("depend_on", keys), Some("depends_on"));
        assert_eq!(nearest("dependsOn", keys), Some("depends_on"));
        assert_eq!(nearest("enviroment", keys), Some("environment"));
        assert_eq!(nearest("zebra", keys), None);
    }
}
