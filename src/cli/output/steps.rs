//! The progress of an operation: on a terminal in place, with seconds; into a pipe a line for each thing that happens.

use super::{bytes, in_place, is_quiet, paint, terminal};
use crate::printable;
use crate::wire::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How often the seconds of what goes on are drawn anew.
const TICK: Duration = Duration::from_millis(100);

/// The lines that are drawn in place now.
static DRAWN: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Writes to the terminal something that is not progress, beside what is drawn in place.
pub fn beside_steps<T>(write: impl FnOnce() -> T) -> T {
    let drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match drawn {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// Shows the progress of an operation.
pub struct Steps {
    in_place: Option<InPlace>,
    failed: bool,
    quiet: bool,
    /// Whether anything was shown that was done.
    pub any: bool,
}

/// A line for each object, as many as there are rows; the others in one more line, until all is done.
struct InPlace {
    bars: MultiProgress,
    rows: usize,
    by_object: HashMap<String, ProgressBar>,
    /// The objects without a line of their own, in their order, with what they say last and whether that is done.
    folded: Vec<(String, String, bool)>,
    more: Option<ProgressBar>,
    timer: tokio::time::Interval,
}

impl InPlace {
    fn new() -> Self {
        let bars = MultiProgress::new();
        *DRAWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bars.clone());
        let rows = terminal::size().map_or(24, |(rows, _)| usize::from(rows)).max(4) - 2;
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        InPlace { bars, rows, by_object: HashMap::new(), folded: Vec::new(), more: None, timer }
    }

    fn show(&mut self, object: &str, text: String, done: bool) {
        if let Some(bar) = self.by_object.get(object) {
            return draw(bar, text, done);
        }
        if self.by_object.len() < self.rows {
            let bar = self.bars.add(ProgressBar::new_spinner());
            draw(&bar, text, done);
            self.by_object.insert(object.to_string(), bar);
            return;
        }
        match self.folded.iter_mut().find(|(known, _, _)| known == object) {
            Some(known) => (known.1, known.2) = (text, done),
            None => self.folded.push((object.to_string(), text, done)),
        }
        let done = self.folded.iter().filter(|(_, _, done)| *done).count();
        let more = self.more.get_or_insert_with(|| self.bars.add(ProgressBar::new_spinner()));
        draw(more, format!(" … and {} more, {done} of them done", self.folded.len()), false);
    }

    /// All is done: what was folded is shown.
    fn end(&mut self) {
        if let Some(more) = self.more.take() {
            more.finish_and_clear();
        }
        self.by_object.drain().for_each(|(_, bar)| bar.abandon());
        // Drawn once more, the lines would cover those that follow.
        self.bars.set_draw_target(ProgressDrawTarget::hidden());
        *DRAWN.lock().unwrap_or_else(PoisonError::into_inner) = None;
        for (_, text, _) in self.folded.drain(..) {
            eprintln!("{text}");
        }
    }
}

impl Drop for InPlace {
    fn drop(&mut self) {
        self.end();
    }
}

/// Draws an object's line: with the seconds that it takes, and in the end those that it took.
fn draw(bar: &ProgressBar, text: String, done: bool) {
    let seconds = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{:.1}s", state.elapsed().as_secs_f64());
    };
    let template = if done { "{wide_msg} {prefix}" } else { "{wide_msg} {seconds}" };
    let style = ProgressStyle::with_template(template).map(|style| style.with_key("seconds", seconds));
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    if done {
        bar.set_prefix(format!("{:.1}s", bar.elapsed().as_secs_f64()));
        bar.finish_with_message(text);
    } else {
        bar.set_message(text);
        bar.tick();
    }
}

impl Steps {
    pub fn new(quiet: bool) -> Self {
        let quiet = quiet || is_quiet();
        let in_place = (!quiet && in_place(std::io::stderr().is_terminal())).then(InPlace::new);
        Steps { in_place, failed: false, quiet, any: false }
    }

    /// Draws the seconds anew, again and again.
    pub async fn go_on(&mut self) {
        let Some(drawn) = &mut self.in_place else { return std::future::pending().await };
        loop {
            drawn.timer.tick().await;
            drawn.by_object.values().filter(|bar| !bar.is_finished()).for_each(ProgressBar::tick);
        }
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
                if self.in_place.is_some() || done {
                    self.step(&format!("Image {image} [{id}]"), &size, done);
                }
            }
            Progress::Warning(text) => self.line(&format!("warning: {text}")),
            Progress::Plan(line) => println!("{line}"),
            Progress::Created(_) | Progress::Run(_) | Progress::ChangedVolumes(_) | Progress::HookOutput { .. } => {}
            Progress::Error { object, message } => {
                self.failed = true;
                if let Some(drawn) = self.in_place.as_mut().filter(|drawn| drawn.by_object.contains_key(object)) {
                    drawn.show(object, format!(" {} {object}  Error", paint(31, "✘")), true);
                }
                let place = if object.is_empty() { String::new() } else { format!("{object}: ") };
                self.line(&format!("error: {place}{message}"));
            }
            Progress::Done { ok } => {
                self.in_place.iter_mut().for_each(InPlace::end);
                return Some(*ok && !self.failed);
            }
        }
        None
    }

    fn step(&mut self, object: &str, status: &str, done: bool) {
        let (object, status) = (&*printable::line(object), &*printable::line(status));
        self.any |= done;
        let Some(drawn) = &mut self.in_place else {
            if !self.quiet {
                // In one write: two commands may share a terminal or a log.
                let _ = std::io::stderr().write_all(format!(" {object}  {status}\n").as_bytes());
            }
            return;
        };
        let text = match done {
            true => format!(" {} {object}  {}", paint(32, "✔"), paint(32, status)),
            false => format!(" {} {object}  {status}", paint(33, "⠿")),
        };
        drawn.show(object, text, done);
    }

    /// Shows a line above what is drawn in place.
    pub fn line(&self, text: &str) {
        let text = &*printable::lines(text);
        match &self.in_place {
            Some(drawn) => drop(drawn.bars.println(text)),
            None => eprintln!("{text}"),
        }
    }
}
