//! The steps of a build as they are made.

use super::{BuildFlags, BuildProgress};
use crate::api::types::BuildLine;
use crate::cli::Failure;
use crate::cli::output::{self, paint, terminal};
use crate::image::build::BuildEvent;
use crate::image::build::solve::Built;
use crate::image::{Digest, ImageRef};
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::Duration;

/// Shows a build as BuildKit does: in place on a terminal, else a line for each thing that happens.
pub async fn show(mut lines: crate::api::client::Lines, prefix: &str, flags: &BuildFlags) -> Result<Built, Failure> {
    let quiet = flags.quiet || flags.progress == BuildProgress::Quiet || output::is_quiet();
    // As Docker Compose has it, the output of services' builds is on standard output; that of `docker build` is not.
    let service = !prefix.is_empty();
    let terminal = match flags.progress {
        BuildProgress::Tty => true,
        BuildProgress::Plain => false,
        _ => output::in_place(std::io::stderr().is_terminal() && (!service || std::io::stdout().is_terminal())),
    };
    let mut out = BuildDisplay {
        prefix: if prefix.is_empty() { String::new() } else { format!("{prefix} ") },
        quiet,
        service,
        begun: BTreeMap::new(),
        bars: (terminal && !quiet).then(|| BARS.clone()),
    };
    while let Some(line) = lines.next::<BuildLine>().await? {
        match line {
            BuildLine::Error { error } => {
                out.clear();
                return Err(Failure::Message(error));
            }
            BuildLine::Event(event) => {
                if let Some(built) = out.event(&event) {
                    return Ok(built);
                }
            }
            BuildLine::Later(_) => {}
        }
    }
    Err(Failure::Message("the engine left before the build was done; run the command again".into()))
}

/// Builds beside each other share the terminal.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// How often the seconds of a step are drawn anew.
const TICK: Duration = Duration::from_millis(100);

/// One line for each step: what it does, cut to the width, and its seconds at the end.
fn style() -> ProgressStyle {
    let seconds = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{:.1}s", state.elapsed().as_secs_f64());
    };
    let style = ProgressStyle::with_template("{spinner} {wide_msg} {seconds}").map(|style| style.with_key("seconds", seconds));
    style.unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// The width of the terminal.
fn columns() -> usize {
    terminal::size().map_or(80, |(_, columns)| usize::from(columns)).max(20)
}

/// The beginning of a text that is to have a line's room, without what would move the cursor.
fn cut(text: &str, room: usize) -> String {
    let shown = text.chars().filter(|c| !c.is_control());
    if text.chars().count() <= room {
        return shown.collect();
    }
    shown.take(room.saturating_sub(1)).chain(['…']).collect()
}

struct BuildDisplay {
    prefix: String,
    quiet: bool,
    /// It is the build of a project's service.
    service: bool,
    begun: BTreeMap<u32, Begun>,
    /// On a terminal: a line for each step that is being made, with its last output.
    bars: Option<MultiProgress>,
}

struct Begun {
    at: std::time::Instant,
    name: String,
    bar: Option<ProgressBar>,
}

impl BuildDisplay {
    /// Shows an event; returns the image where it was the last.
    fn event(&mut self, event: &BuildEvent) -> Option<Built> {
        if let BuildEvent::Built { id, names, manifest } = event {
            if !self.quiet {
                match self.bars {
                    Some(_) => self.line(format!("built {} {}", id.short(), names.join(", ")).trim_end()),
                    None => self.named(id, names),
                }
            }
            return Some(Built { id: id.clone(), manifest: manifest.clone() });
        }
        if !self.quiet {
            if self.bars.is_some() { self.in_place(event) } else { self.plain(event) }
        }
        None
    }

    /// The image, in BuildKit's words: scripts look for its id and its names there.
    fn named(&self, id: &Digest, names: &[String]) {
        self.line(&format!("writing image {id} done"));
        for name in names {
            let whole = name.parse::<ImageRef>().map_or_else(|_| name.clone(), |image| image.to_string());
            self.line(&format!("naming to {whole} done"));
        }
    }

    fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(format!("{}{text}", self.prefix))),
            None if self.service => println!("{}{text}", self.prefix),
            None => eprintln!("{}{text}", self.prefix),
        }
    }

    fn plain(&mut self, event: &BuildEvent) {
        let text = match event {
            BuildEvent::Step { id, name } => {
                let begun = Begun { at: std::time::Instant::now(), name: name.clone(), bar: None };
                self.begun.insert(*id, begun);
                format!("#{id} {name}")
            }
            BuildEvent::Cached { id } => format!("#{id} CACHED"),
            BuildEvent::Output { id, line } => {
                let seconds = self.begun.get(id).map_or(0.0, |begun| begun.at.elapsed().as_secs_f64());
                format!("#{id} {seconds:.3} {line}")
            }
            BuildEvent::Done { id, seconds } => format!("#{id} DONE {seconds:.1}s"),
            BuildEvent::Failed { id, .. } => format!("#{id} ERROR"),
            BuildEvent::Warning(text) => return eprintln!("{}warning: {text}", self.prefix),
            BuildEvent::Built { .. }
            | BuildEvent::Instruction { .. }
            | BuildEvent::InstructionDone { .. }
            | BuildEvent::Returned { .. } => return,
        };
        self.line(&text);
    }

    /// A step that runs has a line of its own, which moves up when it is done.
    fn in_place(&mut self, event: &BuildEvent) {
        let room = columns().saturating_sub(self.prefix.chars().count());
        let mut end = |id: &u32, mark: (u8, &str), tail: String| {
            let begun = self.begun.remove(id)?;
            if let Some(bar) = begun.bar {
                bar.finish_and_clear();
            }
            let name = cut(&begun.name, room.saturating_sub(mark.1.len() + tail.len() + 2));
            Some(format!("{} {name} {}", paint(mark.0, mark.1), paint(2, &tail)))
        };
        let ended = match event {
            BuildEvent::Step { id, name } => {
                let bar = self.bars.as_ref().map(|bars| bars.add(ProgressBar::new_spinner().with_style(style())));
                if let Some(bar) = &bar {
                    bar.set_message(format!("{}{} {name}", self.prefix, paint(33, "=>")));
                    // One that writes nothing shows its seconds as well.
                    bar.enable_steady_tick(TICK);
                }
                self.begun.insert(*id, Begun { at: std::time::Instant::now(), name: name.clone(), bar });
                None
            }
            BuildEvent::Output { id, line } => {
                if let Some(Begun { name, bar: Some(bar), .. }) = self.begun.get(id) {
                    let room = columns().saturating_sub(self.prefix.chars().count() + 12);
                    let name = cut(name, room / 2);
                    let last = cut(line, room.saturating_sub(name.chars().count()));
                    bar.set_message(format!("{}{} {name} {}", self.prefix, paint(33, "=>"), paint(2, &last)));
                }
                None
            }
            BuildEvent::Instruction { .. } | BuildEvent::InstructionDone { .. } | BuildEvent::Returned { .. } => None,
            BuildEvent::Cached { id } => end(id, (34, "=> CACHED"), String::new()),
            BuildEvent::Done { id, seconds } => end(id, (32, "=>"), format!("{seconds:.1}s")),
            BuildEvent::Failed { id, .. } => end(id, (31, "=> ERROR"), String::new()),
            BuildEvent::Warning(text) => Some(format!("warning: {text}")),
            BuildEvent::Built { .. } => None,
        };
        if let Some(text) = ended {
            self.line(text.trim_end());
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
