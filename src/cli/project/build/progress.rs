//! The steps of a build as they are made.

use super::{BuildFlags, Progress};
use crate::cli::Failure;
use crate::image::build::Event;
use crate::image::build::solve::Built;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::LazyLock;

/// Shows a build as BuildKit does: in place on a terminal, else a line for each thing that happens.
pub async fn show(mut lines: crate::api::client::Lines, prefix: &str, flags: &BuildFlags) -> Result<Built, Failure> {
    let quiet = flags.quiet || flags.progress == Progress::Quiet;
    let terminal = match flags.progress {
        Progress::Tty => true,
        Progress::Plain => false,
        _ => std::io::stderr().is_terminal(),
    };
    let mut out = Shown {
        prefix: if prefix.is_empty() { String::new() } else { format!("{prefix} ") },
        quiet,
        begun: BTreeMap::new(),
        bars: (terminal && !quiet).then(|| BARS.clone()),
    };
    while let Some(line) = lines.next::<Value>().await? {
        if let Some(error) = line["error"].as_str() {
            out.clear();
            return Err(Failure::Message(error.to_string()));
        }
        if let Ok(event) = serde_json::from_value::<Event>(line)
            && let Some(built) = out.event(&event)
        {
            return Ok(built);
        }
    }
    Err(Failure::Message("the engine left before the build was done; run the command again".into()))
}

/// Builds beside each other share the terminal.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

struct Shown {
    prefix: String,
    quiet: bool,
    begun: BTreeMap<u32, Begun>,
    /// On a terminal: a line for each step that is being made, with its last output.
    bars: Option<MultiProgress>,
}

struct Begun {
    at: std::time::Instant,
    name: String,
    bar: Option<ProgressBar>,
}

impl Shown {
    /// What an event says; the image where it was the last.
    fn event(&mut self, event: &Event) -> Option<Built> {
        if let Event::Built { id, names, manifest } = event {
            if !self.quiet {
                let short = id.short();
                let names = if names.is_empty() { String::new() } else { format!(" {}", names.join(", ")) };
                self.line(&format!("built {short}{names}"));
            }
            return Some(Built { id: id.clone(), manifest: manifest.clone() });
        }
        if !self.quiet {
            if self.bars.is_some() { self.in_place(event) } else { self.plain(event) }
        }
        None
    }

    fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(format!("{}{text}", self.prefix))),
            None => eprintln!("{}{text}", self.prefix),
        }
    }

    fn plain(&mut self, event: &Event) {
        let text = match event {
            Event::Step { id, name } => {
                let begun = Begun { at: std::time::Instant::now(), name: name.clone(), bar: None };
                self.begun.insert(*id, begun);
                format!("#{id} {name}")
            }
            Event::Cached { id } => format!("#{id} CACHED"),
            Event::Output { id, line } => {
                let seconds = self.begun.get(id).map_or(0.0, |begun| begun.at.elapsed().as_secs_f64());
                format!("#{id} {seconds:.3} {line}")
            }
            Event::Done { id, seconds } => format!("#{id} DONE {seconds:.1}s"),
            Event::Failed { id } => format!("#{id} ERROR"),
            Event::Warning(text) => format!("warning: {text}"),
            Event::Built { .. } => return,
        };
        self.line(&text);
    }

    /// A step that runs has a line of its own, which moves up when it is done.
    fn in_place(&mut self, event: &Event) {
        let mut end = |id: &u32, mark: &str, tail: String| {
            let begun = self.begun.remove(id)?;
            if let Some(bar) = begun.bar {
                bar.finish_and_clear();
            }
            Some(format!("{mark} {}{tail}", begun.name))
        };
        let ended = match event {
            Event::Step { id, name } => {
                let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
                let bar = self.bars.as_ref().map(|bars| bars.add(ProgressBar::new_spinner().with_style(style)));
                if let Some(bar) = &bar {
                    bar.set_message(format!("{}\x1b[33m=>\x1b[0m {name}", self.prefix));
                    bar.tick();
                }
                self.begun.insert(*id, Begun { at: std::time::Instant::now(), name: name.clone(), bar });
                None
            }
            Event::Output { id, line } => {
                if let Some(Begun { at, name, bar: Some(bar) }) = self.begun.get(id) {
                    let seconds = at.elapsed().as_secs_f64();
                    let last: String = line.chars().filter(|c| !c.is_control()).take(100).collect();
                    let prefix = &self.prefix;
                    bar.set_message(format!("{prefix}\x1b[33m=>\x1b[0m {name} {seconds:.1}s\n   \x1b[2m{last}\x1b[0m"));
                    bar.tick();
                }
                None
            }
            Event::Cached { id } => end(id, "\x1b[34m=> CACHED\x1b[0m", String::new()),
            Event::Done { id, seconds } => end(id, "\x1b[32m=>\x1b[0m", format!(" \x1b[2m{seconds:.1}s\x1b[0m")),
            Event::Failed { id } => end(id, "\x1b[31m=> ERROR\x1b[0m", String::new()),
            Event::Warning(text) => Some(format!("warning: {text}")),
            Event::Built { .. } => None,
        };
        if let Some(text) = ended {
            self.line(&text);
        }
    }

    /// Takes the lines of steps that have not ended from the terminal.
    fn clear(&mut self) {
        for begun in std::mem::take(&mut self.begun).into_values() {
            if let Some(bar) = begun.bar {
                bar.finish_and_clear();
            }
        }
    }
}
