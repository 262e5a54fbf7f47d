//! A server that is away in the middle of a command: it restarts, is upgraded, or the way to it is gone for a moment.

use super::cluster_error::ClusterError;
use crate::cli::output::Steps;
use std::time::{Duration, Instant};

/// How long it may be away. Each request has had some seconds of its own before.
pub const AWAY: Duration = Duration::from_secs(30);

/// How often it is asked meanwhile.
const INTERVAL: Duration = Duration::from_millis(700);

/// Since when a server is away; nothing while it answers.
#[derive(Debug, Default)]
pub struct AwayServer {
    since: Option<Instant>,
}

impl AwayServer {
    /// Waits a moment for the next request, and says the first time that it does. Every other error, and one after 30 s, is given back.
    ///
    /// # Errors
    /// The error that it was given.
    pub async fn wait(&mut self, error: ClusterError, steps: &Steps) -> Result<(), ClusterError> {
        if !error.is_away() {
            return Err(error);
        }
        let since = *self.since.get_or_insert_with(|| {
            steps.line(&format!("warning: {error}; it is asked again"));
            Instant::now()
        });
        if since.elapsed() > AWAY {
            return Err(error);
        }
        tokio::time::sleep(INTERVAL).await;
        Ok(())
    }
}
