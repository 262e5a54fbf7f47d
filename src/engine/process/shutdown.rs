//! Stopping every container because the host goes down.

use crate::engine::Engine;
use crate::runtime::scope::systemd_runs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// Whether the engine, or the host, is to end.
pub struct Shutdown {
    pub(super) requested: watch::Sender<bool>,
    /// The host goes down: nothing is restarted any more.
    host: AtomicBool,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { requested: watch::Sender::new(false), host: AtomicBool::new(false) }
    }
}

impl Shutdown {
    /// Asks the engine to end; containers go on.
    pub fn request(&self) {
        self.requested.send_replace(true);
    }

    pub(in crate::engine) fn host_goes_down(&self) -> bool {
        self.host.load(Ordering::Acquire)
    }
}

impl Engine {
    /// Stops every container as it wants to be stopped, all at once. None is restarted by this engine any more; those whose
    /// restart policy says so are by the next, as if they had not been stopped.
    pub async fn stop_everything(self: &Arc<Self>) {
        self.shutdown.host.store(true, Ordering::Release);
        let stops = self.containers.all().into_iter().map(|container| async move {
            let Ok(_turn) = container.begin_operation().await else { return };
            if container.status().has_process()
                && let Err(error) = self.stop_locked(&container, None, None).await
            {
                tracing::error!("stopping {}: {error}", container.name());
            }
        });
        futures::future::join_all(stops).await;
    }
}

/// Whether systemd is shutting the host down. Without systemd nobody can tell, and what shuts it down calls
/// `wharf engine stop --containers`.
pub(in crate::engine) fn host_goes_down() -> bool {
    systemd_runs()
        && Command::new("systemctl").arg("is-system-running").output().is_ok_and(|output| output.stdout.starts_with(b"stopping"))
}
