//! Prints log lines: merged by time, prefixed, one container's line at a time.

use super::LogView;
use super::source::{LogSource, read_more};
use crate::cli::Failure;
use crate::cli::output::beside_steps;
use crate::cli::output::stdout::{Stderr, Stdout};
use std::collections::HashMap;
use std::io::Write;

/// Prints logs that have an end, always the line that comes first in time.
pub(super) async fn merge(sources: Vec<LogSource>, printer: &mut Printer) -> Result<(), Failure> {
    let mut open = Vec::new();
    for source in sources {
        let (source, more) = read_more(source).await?;
        if more { open.push(source) } else { printer.ended(&source) }
    }
    while !open.is_empty() {
        let first = (0..open.len()).min_by(|a, b| time_of(&open[*a]).cmp(time_of(&open[*b]))).unwrap_or(0);
        let limit: Option<Vec<u8>> = (0..open.len()).filter(|i| *i != first).map(|i| time_of(&open[i]).to_vec()).min();
        let source = &mut open[first];
        // As long as this source's lines are older than every other source's, no comparison with those is needed.
        while let Some((_, line)) = source.lines.front() {
            if limit.as_ref().is_some_and(|limit| time(line) > limit.as_slice()) {
                break;
            }
            if let Some((stream, line)) = source.lines.pop_front() {
                printer.line(source, stream, &line);
            }
        }
        printer.flush_if_full()?;
        if open[first].lines.is_empty() {
            let (source, more) = read_more(open.swap_remove(first)).await?;
            if more { open.push(source) } else { printer.ended(&source) }
        }
    }
    Ok(())
}

fn time_of(source: &LogSource) -> &[u8] {
    source.lines.front().map_or(&[], |(_, line)| time(line))
}

pub(super) fn time(line: &[u8]) -> &[u8] {
    memchr::memchr(b' ', line).map_or(line, |end| &line[..end])
}

/// A line without its time.
fn text(line: &[u8]) -> &[u8] {
    &line[(time(line).len() + 1).min(line.len())..]
}

/// Writes lines of several containers, each with its prefix.
pub(super) struct Printer {
    pub(super) view: LogView,
    out: Vec<u8>,
    /// The container whose line has no end yet on the output: a prompt, for example.
    unfinished: Option<String>,
    /// Lines that have no end yet, each with its first time, where it is to be seen whether they are shown.
    begun: HashMap<(String, u8), Vec<u8>>,
}

/// Bytes of a line that are searched at once; a longer line is searched in pieces.
const LONGEST_SEARCHED: usize = 1 << 20;

impl Printer {
    pub(super) fn new(view: LogView) -> Self {
        Printer { view, out: Vec::with_capacity(1 << 17), unfinished: None, begun: HashMap::new() }
    }

    /// Prints a line of a container, or a part of one, unless it is left out.
    pub(super) fn line(&mut self, source: &LogSource, stream: u8, line: &[u8]) {
        if self.view.grep.is_none() {
            return self.print(source, stream, line);
        }
        let begun = self.begun.entry((source.id.clone(), stream)).or_default();
        begun.extend_from_slice(if begun.is_empty() { line } else { text(line) });
        if line.ends_with(b"\n") || begun.len() >= LONGEST_SEARCHED {
            self.search(source, stream);
        }
    }

    /// Nothing more comes of a source.
    pub(super) fn ended(&mut self, source: &LogSource) {
        for stream in [1, 2] {
            self.search(source, stream);
        }
    }

    /// Prints a line where what is searched for is in it.
    fn search(&mut self, source: &LogSource, stream: u8) {
        let Some(line) = self.begun.remove(&(source.id.clone(), stream)) else { return };
        let searched = text(&line);
        let searched = searched.strip_suffix(b"\n").unwrap_or(searched);
        if self.view.grep.as_ref().is_none_or(|regex| regex.is_match(searched)) {
            self.print(source, stream, &line);
        }
    }

    /// Prints a line of a container, or a part of one. It does not go on in a line that another container has begun.
    fn print(&mut self, source: &LogSource, stream: u8, line: &[u8]) {
        let apart = self.view.errors_apart && stream == 2;
        if apart {
            let _ = self.flush();
        }
        let goes_on = self.unfinished.as_ref() == Some(&source.id);
        if !goes_on {
            self.end_line();
            self.out.extend_from_slice(source.prefix.as_bytes());
        }
        let text = if self.view.timestamps && !goes_on { line } else { text(line) };
        self.out.extend_from_slice(text);
        match line.ends_with(b"\n") {
            true => self.unfinished = None,
            false if !goes_on => self.unfinished = Some(source.id.clone()),
            false => {}
        }
        if apart {
            let _ = beside_steps(|| Stderr.write_all(&self.out));
            self.out.clear();
        }
    }

    /// Ends the line that a container has begun.
    pub(super) fn end_line(&mut self) {
        if self.unfinished.take().is_some() {
            self.out.push(b'\n');
        }
    }

    /// A line of wharf's own among those of containers.
    pub(super) fn note(&mut self, text: &str) {
        self.end_line();
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(b'\n');
    }

    fn flush_if_full(&mut self) -> Result<(), Failure> {
        if self.out.len() > 1 << 16 { self.flush() } else { Ok(()) }
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        let result = beside_steps(|| Stdout.write_all(&self.out).and_then(|()| Stdout.flush()));
        self.out.clear();
        result.map_err(|e| Failure::Message(format!("writing to standard output: {e}")))
    }
}
