//! `wharf kubernetes logs -f`: follows the containers that there are, and those that come. Each log is read by a task of its own: a node that is
//! away holds up no other's output.

use super::away::{AWAY, AwayServer};
use super::cluster_error::ClusterError;
use super::log_lines::{LinePrinter, LogPiece, LogPlace, SeenLog};
use super::logs::{LogRequest, PodContainer, PodLogView};
use crate::cli::output::Steps;
use crate::cli::{Failure, Outcome};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Sender, channel};

/// How often new Pods are looked for.
const INTERVAL: Duration = Duration::from_secs(1);

/// A Pod, a container of it, and a run of that.
type RunKey = (String, String, String);

/// The log of a run, as far as it has been shown.
struct FollowedLog {
    /// Its number among those that were ever followed.
    number: usize,
    /// That of its name among the names that are shown.
    name: usize,
    shown: String,
    is_open: bool,
    /// It was read to its end.
    is_whole: bool,
    /// It was there at the start: `--tail` and `--since` are about it.
    was_first: bool,
    place: LogPlace,
    /// Since when it cannot be read.
    failing: Option<Instant>,
    is_given_up: bool,
}

/// What a task says of a run's log.
enum FromLog {
    Piece(LogPiece),
    End {
        was_cut: bool,
    },
    /// It waits to be started, or is gone.
    Absent,
    Failed(ClusterError),
}

pub async fn follow(view: &PodLogView<'_>) -> Outcome {
    let mut followed = Followed { runs: BTreeMap::new(), names: Vec::new(), count: 0 };
    let mut prefixes = view.prefixes(std::iter::empty());
    let mut printer = LinePrinter::new(view.command.timestamps);
    let (sender, mut lines) = channel::<(RunKey, FromLog)>(64);
    let mut timer = tokio::time::interval(INTERVAL);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut away, steps) = (AwayServer::default(), Steps::new(false));
    let mut is_first = true;
    loop {
        tokio::select! {
            // What has come is shown before the next Pods are looked for.
            biased;
            Some((of, what)) = lines.recv() => {
                let Some(log) = followed.runs.get_mut(&of) else { continue };
                match what {
                    FromLog::Piece(piece) => {
                        log.place.pass(&piece);
                        log.failing = None;
                        printer.print(log.number, &prefixes.of(&followed.names[log.name], log.name), &piece)?;
                    }
                    FromLog::End { was_cut } => (log.is_open, log.is_whole) = (false, !was_cut),
                    // There is no more of it, or nothing yet.
                    FromLog::Absent if log.place != LogPlace::default() => (log.is_open, log.is_whole) = (false, true),
                    FromLog::Absent => drop(followed.runs.remove(&of)),
                    FromLog::Failed(error) => log.failed(error, &steps)?,
                }
            }
            _ = timer.tick() => {
                let (containers, goes_on) = match view.containers().await {
                    Ok(known) => known,
                    Err(error) => {
                        away.wait(error, &steps).await.map_err(|error| error.while_doing("listing the Pods", "pods"))?;
                        continue;
                    }
                };
                away = AwayServer::default();
                for container in containers {
                    followed.join(view, &container, is_first, &sender);
                }
                is_first = false;
                prefixes = view.prefixes(followed.names.iter().map(String::as_str));
                if !goes_on && followed.runs.values().all(|log| !log.is_open && log.is_whole) {
                    printer.finish()?;
                    let is_given_up = followed.runs.values().any(|log| log.is_given_up);
                    return if is_given_up { Err(Failure::Code(1)) } else { Ok(()) };
                }
            }
        }
    }
}

impl FollowedLog {
    /// A node, or the way to it, may be back in a moment. Said once; without an end, of a container that has ended, it is given up.
    fn failed(&mut self, error: ClusterError, steps: &Steps) -> Outcome {
        self.is_open = false;
        let may_pass = error.is_away() || error.code() == 500;
        let failure = error.while_doing(&format!("reading the log of `{}`", self.shown), "pods/log");
        if !may_pass {
            return Err(failure);
        }
        let text = failure.to_string().trim_start_matches("error: ").to_string();
        if self.failing.is_none() {
            steps.line(&format!("warning: {text}; it is asked again"));
        }
        if self.failing.get_or_insert_with(Instant::now).elapsed() > AWAY && !self.is_given_up {
            steps.line(&format!("error: {text}"));
            (self.is_whole, self.is_given_up) = (true, true);
        }
        Ok(())
    }
}

struct Followed {
    runs: BTreeMap<RunKey, FollowedLog>,
    names: Vec<String>,
    count: usize,
}

impl Followed {
    /// Follows a container that is not followed: a new one from its start, another from where its log was cut.
    fn join(&mut self, view: &PodLogView<'_>, container: &PodContainer, is_first: bool, sender: &Sender<(RunKey, FromLog)>) {
        let key = (container.pod.clone(), container.container.clone(), container.id.clone());
        let (names, count) = (&mut self.names, &mut self.count);
        let log = self.runs.entry(key.clone()).or_insert_with(|| {
            let name = names.iter().position(|name| *name == container.shown).unwrap_or_else(|| {
                names.push(container.shown.clone());
                names.len() - 1
            });
            *count += 1;
            FollowedLog {
                number: *count,
                name,
                shown: container.shown.clone(),
                is_open: false,
                is_whole: false,
                was_first: is_first,
                place: LogPlace::default(),
                failing: None,
                is_given_up: false,
            }
        });
        if log.is_open || log.is_whole && !container.is_running {
            return;
        }
        let is_begun = log.place != LogPlace::default();
        let request = view.request(container, log.place.since(), log.was_first && !is_begun);
        (log.is_open, log.is_whole) = (true, false);
        tokio::spawn(send(request, key, log.place.clone(), sender.clone()));
    }
}

/// Reads a log and sends what is new of it.
async fn send(request: LogRequest, of: RunKey, place: LogPlace, sender: Sender<(RunKey, FromLog)>) {
    let end = match request.open().await {
        Ok(Some(mut lines)) => {
            let mut seen = SeenLog::before(place);
            loop {
                let piece = match lines.next().await {
                    Ok(Some(piece)) => piece,
                    Ok(None) => break FromLog::End { was_cut: false },
                    Err(_) => break FromLog::End { was_cut: true },
                };
                let Some(piece) = seen.new_of(piece) else { continue };
                if sender.send((of.clone(), FromLog::Piece(piece))).await.is_err() {
                    return;
                }
            }
        }
        Ok(None) => FromLog::Absent,
        Err(error) => FromLog::Failed(error),
    };
    let _ = sender.send((of, end)).await;
}
