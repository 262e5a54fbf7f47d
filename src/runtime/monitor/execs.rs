//! Processes that `exec` has started in the container: children of the monitor beside the first one.

use super::{Monitor, end_failed};
use crate::runtime::control::MonitorEvent;
use crate::runtime::error::{Doing, FailureReport, SetupStep, StepFailed};
use crate::runtime::launch::{ExecSpec, Launch};
use crate::runtime::{exec, external};
use crate::sys::shared::SharedReport;
use crate::sys::{self, Ended};
use std::os::fd::{AsFd, OwnedFd};

/// A process of `exec`.
struct KnownExec {
    id: u64,
    progress: ExecProgress,
}

enum ExecProgress {
    /// By a helper, whose end says that the program runs or cannot: its report tells which.
    Starting {
        helper: i32,
        report: SharedReport,
    },
    Running(i32),
}

/// The processes of `exec`.
#[derive(Default)]
pub(super) struct MonitorExecs {
    known: Vec<KnownExec>,
    /// Children that ended while a helper was at work, and their exit codes: whose process it was, is known when the helper ends.
    unmatched: Vec<(i32, i32)>,
}

impl MonitorExecs {
    /// The process of an id, while the number cannot be another's: it is a child that was not reaped.
    pub(super) fn pid(&self, id: u64) -> Option<i32> {
        let pid = match &self.known.iter().find(|exec| exec.id == id)?.progress {
            ExecProgress::Starting { report, .. } => report.pid()?,
            ExecProgress::Running(pid) => *pid,
        };
        (!self.unmatched.iter().any(|(ended, _)| *ended == pid)).then_some(pid)
    }

    /// The events that follow from the end of a child.
    pub(super) fn ended(&mut self, child: &Ended) -> Vec<MonitorEvent> {
        let runs = |exec: &KnownExec| matches!(exec.progress, ExecProgress::Running(pid) if pid == child.pid);
        if let Some(at) = self.known.iter().position(runs) {
            let exec = self.known.swap_remove(at);
            return vec![MonitorEvent::ExecExited { id: exec.id, code: child.code }];
        }
        let helps = |exec: &KnownExec| matches!(exec.progress, ExecProgress::Starting { helper, .. } if helper == child.pid);
        match self.known.iter().position(helps) {
            Some(at) => self.started(at),
            None => {
                if self.are_starting() {
                    self.unmatched.push((child.pid, child.code));
                }
                Vec::new()
            }
        }
    }

    /// A helper has ended.
    fn started(&mut self, at: usize) -> Vec<MonitorEvent> {
        let exec = self.known.swap_remove(at);
        let ExecProgress::Starting { report, .. } = exec.progress else { return Vec::new() };
        let (id, said) = (exec.id, report.text());
        let failed =
            |message: String, step: SetupStep| MonitorEvent::ExecFailed { id, message, code: step.exit_code(), step: Some(step) };
        let event = match (report.pid(), said.is_empty()) {
            (Some(pid), true) => {
                self.known.push(KnownExec { id, progress: ExecProgress::Running(pid) });
                MonitorEvent::ExecStarted { id, pid }
            }
            (None, true) => failed("the process ended before it could be set up".into(), SetupStep::Monitor),
            (_, false) => match serde_json::from_slice(&said) {
                Ok(FailureReport { step, message }) => failed(message, step),
                Err(_) => failed("the process did not run, and its reason is not understood".into(), SetupStep::Monitor),
            },
        };
        let runs = matches!(event, MonitorEvent::ExecStarted { .. });
        let mut events = vec![event];
        // It may have ended before its id was known.
        let early = report.pid().and_then(|pid| self.unmatched.iter().position(|(ended, _)| *ended == pid));
        if let Some(pid) = report.pid().filter(|_| !runs && early.is_none())
            && let Ok(process) = sys::pidfd_open(pid)
        {
            end_failed(&process);
        }
        if let Some((_, code)) = early.map(|early| self.unmatched.swap_remove(early))
            && runs
        {
            self.known.retain(|exec| exec.id != id);
            events.push(MonitorEvent::ExecExited { id, code });
        }
        if !self.are_starting() {
            // Ids are used again: what is kept longer than the start it belongs to would be taken for another's end.
            self.unmatched.clear();
        }
        events
    }

    fn are_starting(&self) -> bool {
        self.known.iter().any(|exec| matches!(exec.progress, ExecProgress::Starting { .. }))
    }
}

impl Monitor {
    pub(super) fn exec(&mut self, spec: &ExecSpec, streams: &[OwnedFd]) {
        let started = (|| -> Result<ExecProgress, StepFailed> {
            let report = SharedReport::new().doing("making room for the helper's report")?;
            let text = std::fs::read("launch.json").doing("reading the launch file")?;
            let launch: Launch = serde_json::from_slice(&text).map_err(std::io::Error::from).doing("reading the launch file")?;
            let helper = match self.runtime() {
                Some(runtime) => external::exec(&launch, runtime, self.init, spec, streams, &report),
                None => exec::start(&launch, &self.pidfd, spec, streams, &report),
            }
            .doing("starting the process")?;
            // The helpers of others must not have it, nor the processes that the container sees.
            report.hide_from_children().doing("hiding the helper's report")?;
            Ok(ExecProgress::Starting { helper, report })
        })();
        match started {
            Ok(progress) => self.execs.known.push(KnownExec { id: spec.id, progress }),
            Err(failure) => {
                let (message, code) = (failure.to_string(), failure.exit_code());
                self.report(&MonitorEvent::ExecFailed { id: spec.id, message, code, step: Some(failure.step) });
            }
        }
    }

    pub(super) fn signal_exec(&self, id: u64, signal: i32) {
        let Some(pid) = self.execs.pid(id) else { return };
        if let Ok(process) = sys::pidfd_open(pid)
            && sys::is_child(pid)
        {
            sys::pidfd_signal(process.as_fd(), signal);
        }
    }
}
