//! The end of a container: its last output, its exit record, and the wait until the engine has taken note of it.

use super::execs::MonitorExecs;
use super::{CHUNK, Monitor, readable};
use crate::runtime::control::{self, MonitorEvent, MonitorRequest};
use crate::runtime::error::{Doing, FailureReport, StepFailed};
use crate::runtime::launch::Exit;
use std::io::ErrorKind;
use std::os::fd::AsFd;

impl Monitor {
    /// Reads the last output, records the exit, removes the control groups.
    pub(super) fn finish(&mut self, code: i32, chunk: &mut [u8]) -> Result<(), StepFailed> {
        self.read_status();
        // Unmounted before the exit is reported.
        (self.kept, self.kept_in) = (Vec::new(), None);
        self.drain(chunk);
        let oom_killed = self.brief.cgroup.oom_killed(&self.brief.group);
        if let Some(runtime) = self.runtime() {
            runtime.delete();
        }
        self.remove_cgroups();
        let event = if self.started_at.is_none() {
            match serde_json::from_slice(&self.reported) {
                Ok(FailureReport { step, message }) => MonitorEvent::Failed { message, code: step.exit_code(), step: Some(step) },
                Err(_) => {
                    let message = format!("the container's process ended with code {code} before its program ran");
                    MonitorEvent::Failed { message, code, step: None }
                }
            }
        } else {
            let exit = Exit { code, oom_killed, finished_at: jiff::Timestamp::now(), started_at: self.started_at };
            MonitorEvent::Exited(exit)
        };
        let recorded = if let MonitorEvent::Exited(exit) = &event { exit.record(&self.brief.exit_file) } else { Ok(()) };
        if !self.stalled {
            self.alone = None;
        }
        // The exit is reported in any case: the engine records it, too.
        self.report(&event);
        if self.stalled {
            let _ = std::fs::remove_file("control");
            self.engine = None;
            self.write_last_lines(chunk);
        } else {
            self.part(&event)?;
        }
        recorded.doing("recording the exit")
    }

    /// Waits for the engine's goodbye, which comes once the exit is journaled, or with the next start of a container that is
    /// restarted. Until then this process can start the engine again.
    fn part(&mut self, event: &MonitorEvent) -> Result<(), StepFailed> {
        (self.input, self.terminal, self.handing) = (None, None, None);
        (self.outputs, self.execs) = (Vec::new(), MonitorExecs::default());
        let mut seconds = 0;
        // The exit is on the disk: an engine that does not come back, or is of an earlier version, reads it there.
        while !self.goodbye && seconds < ALONE_SECONDS {
            if self.engine.is_none() {
                seconds += 1;
                self.revive();
                if self.goodbye {
                    break;
                }
            }
            self.wait()?;
            while let Ok(Some(_)) = self.signals.read_signal() {}
            self.accept();
            while let Some(engine) = self.engine.as_ref().filter(|engine| readable(engine)) {
                match control::receive::<MonitorRequest>(engine.as_fd(), &mut self.message) {
                    Ok(Some((MonitorRequest::Goodbye, _))) => self.goodbye = true,
                    Ok(Some((MonitorRequest::Status, _))) => self.report(event),
                    Ok(Some(_)) => {}
                    Err(error) if control::is_of_another_version(&error) => {}
                    Ok(None) | Err(_) => self.engine = None,
                }
            }
            self.message = Vec::new();
        }
        Ok(())
    }

    /// Moves what is left of the output into the log, until the log refuses it.
    fn drain(&mut self, chunk: &mut [u8]) {
        self.log.end();
        let mut pumps = 0;
        while !self.stalled && self.outputs.iter().any(|output| readable(&output.fd)) {
            self.pump(chunk);
            pumps += 1;
            if pumps == FULL_PIPE {
                // Processes outside of the container's pid namespace may have outlived the first, and go on writing.
                self.brief.cgroup.kill(&self.brief.group);
            }
        }
        if !self.stalled {
            self.stalled = self.log.finish().is_err();
        }
    }

    /// Keeps the last lines until a full disk has room for them, or the container is removed. Other errors of the disk are
    /// retried for a few seconds.
    fn write_last_lines(&mut self, chunk: &mut [u8]) {
        let mut tries = 0;
        while self.stalled && self.log.is_wanted() && tries < OTHER_TROUBLE_SECONDS {
            std::thread::sleep(std::time::Duration::from_secs(1));
            match self.log.flush() {
                Ok(()) => {
                    self.stalled = false;
                    self.drain(chunk);
                }
                Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {}
                Err(_) => tries += 1,
            }
        }
    }

    /// Processes that exec started may take a moment longer to die than the container's first.
    fn remove_cgroups(&mut self) {
        for _ in 0..200 {
            if self.brief.cgroup.remove(&self.brief.group) {
                return;
            }
            self.brief.cgroup.kill(&self.brief.group);
            self.reap();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// Seconds for which the last lines are retried after an error that is not a full disk.
const OTHER_TROUBLE_SECONDS: u32 = 5;

/// Seconds for which a monitor whose container has ended tries to start an engine.
const ALONE_SECONDS: u32 = 60;

/// Chunks after which the largest pipe is empty, unless a process still writes.
const FULL_PIPE: usize = (1 << 20) / CHUNK;
