//! Durable state: the journal, and the directories with the manifests that are beside it.

pub(super) mod directories;
pub(super) mod journal;

use super::Config;
use super::error::{EngineError, state_error};
use super::record::{ContainerRecord, NetworkRecord};
use super::recovery::Recovery;
use directories::{manifest_of, write_manifest};
use journal::Journal;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The engine's records on the disk, and what was found wrong with them at the start.
pub struct StateStore {
    pub(super) config: Arc<Config>,
    pub(super) journal: Journal,
    pub(super) recovery: Recovery,
    /// Notified when a record that the journal could not take is to be written again.
    pub(super) owing: Notify,
}

impl StateStore {
    /// Reads the journal.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn open(config: Arc<Config>) -> Result<Self, EngineError> {
        let (journal, found) = Journal::open(&config.data_root.join("state.journal"))?;
        Ok(StateStore { config, journal, recovery: Recovery::of(&found), owing: Notify::new() })
    }

    /// Waits until what has been done is on the disk: a request that has been answered is not undone by a loss of power.
    ///
    /// # Errors
    /// The disk's.
    pub async fn sync(self: &Arc<Self>) -> Result<(), EngineError> {
        let state = self.clone();
        let synced = tokio::task::spawn_blocking(move || state.journal.sync()).await;
        synced.map_err(EngineError::from)?.map_err(state_error)
    }

    /// Writes what the disk has refused, once it does not any more.
    pub(super) async fn write_deferred_entries(self: Arc<Self>) {
        loop {
            self.owing.notified().await;
            while self.journal.write_deferred().is_err() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Keeps what a container was made with beside it, when that has changed. It is for when the journal is damaged: that it
    /// cannot be written is no failure of what is being done.
    pub(super) fn renew_manifest(&self, record: &ContainerRecord) {
        let start = self.config.start_record(&record.id);
        let known = [Some(manifest_of(&self.config.container_directory(&record.id))), Some(start).filter(|path| path.exists())];
        for path in known.iter().flatten() {
            if let Err(error) = write_manifest(path, record) {
                tracing::warn!("writing {}: {error}", path.display());
            }
        }
    }

    /// Keeps what a network was made with. It is for when the journal is damaged: that it cannot be written is no failure of
    /// what is being done.
    pub(super) fn write_network_manifest(&self, record: &NetworkRecord) {
        let path = self.config.network_manifest(&record.id);
        let made = std::fs::create_dir_all(self.config.network_manifests());
        if let Err(error) = made.and_then(|()| write_manifest(&path, record)) {
            tracing::warn!("writing {}: {error}", path.display());
        }
    }

    /// Forgets what a network was made with: with it the network would be found again.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn remove_network_manifest(&self, id: &str) -> Result<(), EngineError> {
        match std::fs::remove_file(self.config.network_manifest(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(EngineError::io("removing a network's manifest")(error))
            }
            _ => Ok(()),
        }
    }
}
