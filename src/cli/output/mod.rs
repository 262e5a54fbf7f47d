//! Terminal output: progress lines, tables, coloured prefixes.

#[macro_use]
pub mod stdout;

pub mod format;
mod steps;
pub mod template;
pub mod terminal;

use crate::printable;
pub use steps::{Steps, beside_steps};

use std::sync::OnceLock;

/// When colours are used, and lines are drawn in place.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ansi {
    Never,
    Always,
    #[default]
    Auto,
}

/// How progress is shown.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressType {
    #[default]
    Auto,
    Tty,
    Plain,
    Quiet,
}

static STYLE: OnceLock<(Ansi, ProgressType)> = OnceLock::new();

/// Sets the style of the output once, before any output.
pub fn set_style(ansi: Ansi, progress: ProgressType) {
    let _ = STYLE.set((ansi, progress));
}

/// Whether a stream that is a terminal, or is not, gets colours. NO_COLOR is https://no-color.org's.
pub fn coloured(terminal: bool) -> bool {
    match STYLE.get().map_or(Ansi::Auto, |style| style.0) {
        Ansi::Never => false,
        Ansi::Always => true,
        Ansi::Auto => terminal && !is_dumb() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}

/// Whether the terminal only knows how to print, such as an editor's shell.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Whether progress is drawn in place on a stream that is a terminal, or is not.
pub fn in_place(terminal: bool) -> bool {
    match STYLE.get().copied().unwrap_or_default() {
        (_, ProgressType::Tty) => true,
        (ansi, ProgressType::Auto) => ansi != Ansi::Never && terminal && !is_dumb(),
        (_, ProgressType::Plain | ProgressType::Quiet) => false,
    }
}

/// Whether no progress is shown.
pub fn is_quiet() -> bool {
    STYLE.get().is_some_and(|style| style.1 == ProgressType::Quiet)
}

/// A text in a colour, where there are any.
pub fn paint(colour: u8, text: &str) -> String {
    if !coloured(true) {
        return text.to_string();
    }
    format!("\x1b[{colour}m{text}\x1b[0m")
}

/// Bytes for people: `12.3MB`, in powers of 1000 as Docker shows sizes.
pub fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count}B")
    } else {
        format!("{value:.3}").chars().take(4).collect::<String>().trim_end_matches('.').to_string() + units[unit]
    }
}

/// A table without lines, as `docker` prints them.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    use comfy_table::{Table, presets};
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.iter().copied());
    // Names, labels and commands of images are strangers' texts.
    table.add_rows(rows.iter().map(|row| row.iter().map(|cell| printable::line(cell).into_owned())));
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.lines().map(|line| line.trim_end().to_string()).collect::<Vec<_>>().join("\n")
}

/// The colours of prefixes, in the order in which services get them.
const COLOURS: [u8; 10] = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94];

/// Prefixes of log lines: `web-1  | `, as wide as the widest, each in its colour on a terminal.
pub struct Prefixes {
    width: usize,
    coloured: bool,
    shown: bool,
}

impl Prefixes {
    pub fn new<'a>(names: impl Iterator<Item = &'a str>, coloured: bool, shown: bool) -> Self {
        Prefixes { width: names.map(str::len).max().unwrap_or(0), coloured, shown }
    }

    /// The prefix of the n-th container.
    pub fn of(&self, name: &str, n: usize) -> String {
        let padded = format!("{name:width$}  | ", width = self.width);
        match (self.shown, self.coloured) {
            (false, _) => String::new(),
            (true, false) => padded,
            (true, true) => format!("\x1b[{}m{padded}\x1b[0m", COLOURS[n % COLOURS.len()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        for (count, text) in [(0, "0B"), (999, "999B"), (1_500, "1.50kB"), (12_345_678, "12.3MB"), (700_000_000, "700MB")] {
            assert_eq!(bytes(count), text);
        }
    }
}
