//! The end of what a program writes to its standard error.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;

/// The last bytes of a stream, read as they come: a program whose stderr nobody reads stands still.
#[derive(Debug)]
pub struct LastBytes {
    kept: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl LastBytes {
    /// Reads in a task of its own, to the stream's end.
    pub fn of(mut stream: impl AsyncRead + Send + Unpin + 'static, most: usize) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keeping = kept.clone();
        let reading = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                let mut kept = keeping.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..n]);
                let surplus = kept.len().saturating_sub(most);
                kept.drain(..surplus);
            }
        });
        LastBytes { kept, reading }
    }

    /// Those that have come.
    pub fn so_far(&self) -> Vec<u8> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the stream's end, for so long at most: another process may hold it.
    pub async fn end(&mut self, within: Duration) {
        let _ = tokio::time::timeout(within, &mut self.reading).await;
    }
}
