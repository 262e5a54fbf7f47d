//! Signals to containers, and freezing them.

use super::exec::SILENCE;
use super::registry::Containers;
use crate::engine::error::EngineError;
use crate::engine::record::{Status, Transition};
use crate::engine::{Container, Engine};
use crate::runtime::control::MonitorRequest;
use std::sync::Arc;

/// Whether who sends it wants the container to end, and so to stay as it is then.
fn ends(signal: i32) -> bool {
    matches!(signal, libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGQUIT)
}

impl Engine {
    /// As [`Containers::kill`], also between two runs: there is no process then, and there is to be none, as with Docker.
    ///
    /// # Errors
    /// As [`Container::signal`].
    pub async fn kill(self: &Arc<Self>, container: &Arc<Container>, signal: i32) -> Result<(), EngineError> {
        match container.status() {
            Status::Restarting if ends(signal) => {
                self.containers.emit(container, "kill", &[("signal", signal.to_string())]);
                self.stop(container, Some(0), None).await
            }
            _ => self.containers.kill(container, signal).await,
        }
    }
}

impl Containers {
    /// Sends a signal on the user's behalf: SIGKILL and SIGTERM count as stopping, so that it is not restarted.
    ///
    /// # Errors
    /// As [`Container::signal`].
    pub async fn kill(&self, container: &Container, signal: i32) -> Result<(), EngineError> {
        // Written once it is sent: an engine that dies in between must not leave a container that runs without its restart policy.
        let was_stopped = ends(signal).then(|| container.mark_killed());
        if let Err(error) = container.signal(signal) {
            if let Some(was_stopped) = was_stopped {
                self.take_back_stop(container, was_stopped);
            }
            return Err(error);
        }
        if was_stopped.is_some() {
            self.update(container, |_| {});
        }
        self.emit(container, "kill", &[("signal", signal.to_string())]);
        // What ends a frozen container reaches it when it is thawed. As with Docker, any signal but one that its image or its user
        // has another for.
        let ends =
            signal == libc::SIGKILL || container.record().stop_signal().is_none_or(|own| parse_signal(own) == Some(signal));
        if ends && container.status() == Status::Paused {
            match self.set_paused(container, false).await {
                // It has ended by now.
                Err(EngineError::NotRunning { .. }) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Freezes or thaws a container.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn pause(&self, container: &Arc<Container>, pause: bool) -> Result<(), EngineError> {
        let _guard = container.begin_operation().await?;
        match (container.status(), pause) {
            (Status::Running, true) | (Status::Paused, false) => {}
            (Status::Running | Status::Paused, _) => {
                let already = if pause { "already paused" } else { "not paused" };
                return Err(EngineError::Conflict(format!("Container {} is {already}", container.name())));
            }
            _ => return Err(container.not_running()),
        }
        self.set_paused(container, pause).await
    }

    pub(super) async fn set_paused(&self, container: &Container, pause: bool) -> Result<(), EngineError> {
        container.ask(&MonitorRequest::Pause(pause), &[])?;
        // Its monitor has done it when it answers what comes after.
        container.monitor_answers(SILENCE).await;
        self.transition(container, &Transition::Paused(pause));
        Ok(())
    }
}

/// `SIGTERM`, `TERM` or `15`; images say it as well.
pub fn parse_signal(text: &str) -> Option<i32> {
    use nix::sys::signal::Signal;
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    if let Some(offset) = name.strip_prefix("SIGRTMIN") {
        // The C library keeps the first two real-time signals for itself.
        let offset = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse::<i32>().ok()? };
        return Some(offset).filter(|offset| (0..=30).contains(offset)).map(|offset| 34 + offset);
    }
    name.parse::<Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::parse_signal;

    #[test]
    fn signals_are_signals() {
        for (text, signal) in
            [("SIGTERM", Some(15)), ("term", Some(15)), ("9", Some(9)), ("SIGRTMIN", Some(34)), ("RTMIN+3", Some(37))]
        {
            assert_eq!(parse_signal(text), signal, "{text}");
        }
        for wrong in ["0", "-9", "65", "", "SIGRTMIN-30", "SIGRTMIN+31", "SIGRTMIN+2147483647", "SIGRTMINx", "SIGRTMIN+-4"] {
            assert_eq!(parse_signal(wrong), None, "{wrong}");
        }
    }
}
