//! Progress of a project's command, and its cancellation.

use crate::engine::locked;
use crate::wire::Progress;
use std::collections::HashMap;
use std::sync::Mutex;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::watch;

/// Takes progress; nobody listening is no failure.
#[derive(Clone, Debug)]
pub struct ProgressSender {
    to: UnboundedSender<Progress>,
    cancelled: Option<watch::Receiver<bool>>,
    /// For the output of hooks, which may have no end.
    output: Option<mpsc::Sender<Progress>>,
}

impl From<UnboundedSender<Progress>> for ProgressSender {
    fn from(to: UnboundedSender<Progress>) -> Self {
        ProgressSender { to, cancelled: None, output: None }
    }
}

impl ProgressSender {
    pub fn new(to: UnboundedSender<Progress>, cancelled: watch::Receiver<bool>) -> Self {
        ProgressSender { to, cancelled: Some(cancelled), output: None }
    }

    /// The same with a bounded channel for the output of hooks.
    pub fn with_output(self, output: mpsc::Sender<Progress>) -> Self {
        ProgressSender { output: Some(output), ..self }
    }

    pub(super) fn output(&self) -> Option<&mpsc::Sender<Progress>> {
        self.output.as_ref()
    }

    pub fn send(&self, progress: Progress) {
        let _ = self.to.send(progress);
    }

    /// Whether the command was cancelled, or its client has left.
    pub fn is_closed(&self) -> bool {
        self.to.is_closed() || self.is_cancelled()
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.as_ref().is_some_and(|cancelled| *cancelled.borrow())
    }

    /// Ends when the command is cancelled, or its client has left.
    pub async fn closed(&self) {
        tokio::select! {
            () = self.to.closed() => {}
            () = self.cancelled() => {}
        }
    }

    /// Ends when the command is cancelled.
    pub(super) async fn cancelled(&self) {
        if let Some(cancelled) = &self.cancelled
            && cancelled.clone().wait_for(|cancelled| *cancelled).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    /// For what says layers alone.
    pub(super) fn plain(&self) -> UnboundedSender<Progress> {
        self.to.clone()
    }
}

/// The commands that go on, by the numbers that their clients have chosen.
#[derive(Default)]
pub struct Commands(Mutex<HashMap<String, watch::Sender<bool>>>);

impl Commands {
    /// Knows a command for as long as somebody has what this gives.
    pub fn begin(&self, number: &str) -> watch::Receiver<bool> {
        let (sender, receiver) = watch::channel(false);
        let mut commands = locked(&self.0);
        commands.retain(|_, command| !command.is_closed());
        commands.insert(number.to_string(), sender);
        receiver
    }

    /// Has a command end: what has begun is done to its end, nothing else begins. False where it has ended.
    pub fn cancel(&self, number: &str) -> bool {
        locked(&self.0).get(number).is_some_and(|sender| sender.send(true).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::sync::mpsc::unbounded_channel;

    #[tokio::test]
    async fn a_command_is_closed_when_it_is_cancelled_or_its_client_leaves() {
        let commands = Commands::default();
        let (to, mut shown) = unbounded_channel();
        let progress = ProgressSender::new(to, commands.begin("1"));
        assert!(!progress.is_closed() && progress.closed().now_or_never().is_none());
        assert!(!commands.cancel("2") && commands.cancel("1"));
        assert!(progress.is_closed() && progress.closed().now_or_never().is_some());
        progress.send(Progress::Done { ok: false });
        assert!(shown.try_recv().is_ok(), "what ends is still shown");
        drop(progress);
        assert!(!commands.cancel("1"), "it has ended");
        let (to, client) = unbounded_channel();
        let progress = ProgressSender::from(to);
        assert!(!progress.is_closed());
        drop(client);
        assert!(progress.is_closed() && !progress.is_cancelled());
    }
}
