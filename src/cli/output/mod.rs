//! What people see: progress lines, tables, coloured prefixes.

#[macro_use]
pub mod stdout;

pub mod format;
pub mod template;
pub mod terminal;

use crate::printable;
use crate::wire::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
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

/// What the command line says of the output, once, before any.
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

/// Shows the progress of an operation: on a terminal in place, into a pipe a line for each step that is done.
pub struct Steps {
    bars: Option<MultiProgress>,
    by_object: HashMap<String, ProgressBar>,
    failed: bool,
    quiet: bool,
    /// Whether anything was shown that was done.
    pub any: bool,
}

impl Steps {
    pub fn new(quiet: bool) -> Self {
        let quiet = quiet || is_quiet();
        let bars = (!quiet && in_place(std::io::stderr().is_terminal())).then(MultiProgress::new);
        Steps { bars, by_object: HashMap::new(), failed: false, quiet, any: false }
    }

    /// Shows one event. `Some(ok)` when it was the last.
    pub fn show(&mut self, progress: &Progress) -> Option<bool> {
        match progress {
            Progress::Step { object, status, done } => self.step(object, status, *done),
            Progress::Layer { image, id, status, current, total } => {
                let size = if *total > 0 && *current < *total {
                    format!("{status} {}/{}", bytes(*current), bytes(*total))
                } else {
                    status.clone()
                };
                let done =
                    matches!(status.as_str(), "Pull complete" | "Already exists" | "Pushed" | "Layer already exists" | "Mounted");
                if self.bars.is_some() || done {
                    self.step(&format!("Image {image} [{id}]"), &size, done);
                }
            }
            Progress::Warning(text) => self.line(&format!("warning: {text}")),
            Progress::Plan(line) => println!("{line}"),
            Progress::Created(_) | Progress::ChangedVolumes(_) => {}
            Progress::Error { object, message } => {
                self.failed = true;
                if let Some(bar) = self.by_object.get(object) {
                    bar.finish_with_message(format!(" {} {object}  Error", paint(31, "✘")));
                }
                let place = if object.is_empty() { String::new() } else { format!("{object}: ") };
                self.line(&format!("error: {place}{message}"));
            }
            Progress::Done { ok } => {
                self.by_object.values().for_each(ProgressBar::abandon);
                return Some(*ok && !self.failed);
            }
        }
        None
    }

    fn step(&mut self, object: &str, status: &str, done: bool) {
        let (object, status) = (&*printable::line(object), &*printable::line(status));
        self.any |= done;
        let Some(bars) = &self.bars else {
            if !self.quiet {
                let _ = writeln!(std::io::stderr(), " {object}  {status}");
            }
            return;
        };
        let bar = self.by_object.entry(object.to_string()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            bars.add(ProgressBar::new_spinner().with_style(style))
        });
        if done {
            bar.finish_with_message(format!(" {} {object}  {}", paint(32, "✔"), paint(32, status)));
        } else {
            bar.set_message(format!(" {} {object}  {status}", paint(33, "⠿")));
            bar.tick();
        }
    }

    /// Shows a line above what is drawn in place.
    pub fn line(&self, text: &str) {
        let text = &*printable::lines(text);
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            None => eprintln!("{text}"),
        }
    }
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
