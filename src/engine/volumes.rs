//! Named and anonymous volumes: directories below the data root.

use super::error::{EngineError, state_error};
use super::record::VolumeRecord;
use super::recovery::RecordKind;
use super::{Config, Events, StateStore, locked};
use crate::engine::containers::registry::{Containers, NameReservations, Uses};
use crate::engine::state::directories::{DirectoryRemoval, Draft, manifest_of, write_manifest};
use crate::image::keyed_mutex::KeyedMutex;
use crate::runtime::quota;
use crate::units;
use indexmap::IndexMap;
use std::io;
use std::sync::{Arc, Mutex};

/// The request for a new volume.
#[derive(Clone, Debug, Default)]
pub struct NewVolume {
    pub name: String,
    pub labels: IndexMap<String, String>,
    /// Of the driver `local`.
    pub options: IndexMap<String, String>,
    pub anonymous: bool,
}

impl NewVolume {
    /// Whether it could be made; gives the size that it is kept to.
    ///
    /// # Errors
    /// A name that is no file name, options that are not understood.
    pub fn check(&self) -> Result<Option<u64>, EngineError> {
        let NewVolume { name, options, .. } = self;
        if let Some(driver) = options.keys().find(|key| !matches!(key.as_str(), "type" | "o" | "device" | "size")) {
            return Err(EngineError::Invalid(format!(
                "the volume {name} has the option `{driver}`; the driver `local` has `type`, `o` and `device`, or `size`"
            )));
        }
        let wrong = |size: &String| {
            EngineError::Invalid(format!("the volume {name} has the size `{size}`: write a size such as `10g`, without `device`"))
        };
        let size = match options.get("size") {
            Some(text) if options.len() == 1 => Some(units::positive_bytes(text).ok_or_else(|| wrong(text))?),
            Some(text) => return Err(wrong(text)),
            None => None,
        };
        if options.contains_key("type") != options.contains_key("device") && options.get("type").is_none_or(|t| t != "tmpfs") {
            return Err(EngineError::Invalid(format!("the volume {name} needs `type` and `device` together")));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(allowed) || name.len() > 200 {
            return Err(EngineError::Invalid(format!(
                "`{name}` cannot be a volume's name: it has letters, digits, `_`, `.` and `-`"
            )));
        }
        Ok(size)
    }
}

/// The volumes, and who is about to use them.
pub struct Volumes {
    config: Arc<Config>,
    state: Arc<StateStore>,
    pub(super) events: Arc<Events>,
    pub(super) containers: Arc<Containers>,
    /// Volumes that are being made or removed: taken before the records.
    names: NameReservations,
    records: Mutex<IndexMap<String, VolumeRecord>>,
    /// Those that a container which is being made is about to have.
    pub(super) uses: Uses,
    /// Held by whoever mounts a volume that is a file system of its own.
    pub(super) mounting: KeyedMutex,
}

impl Volumes {
    pub(super) fn new(state: Arc<StateStore>, events: Arc<Events>, containers: Arc<Containers>) -> Self {
        Volumes {
            config: state.config.clone(),
            state,
            events,
            containers,
            names: NameReservations::default(),
            records: Mutex::default(),
            uses: Uses::default(),
            mounting: KeyedMutex::default(),
        }
    }

    /// Takes over what an earlier engine has left.
    pub(super) fn restore(&self, records: IndexMap<String, VolumeRecord>) {
        *locked(&self.records) = records;
    }

    pub fn all(&self) -> Vec<VolumeRecord> {
        locked(&self.records).values().cloned().collect()
    }

    /// A volume by its name.
    pub fn get(&self, name: &str) -> Option<VolumeRecord> {
        locked(&self.records).get(name).cloned()
    }

    /// Whether a volume is a file system that the driver `local` mounts, such as a tmpfs: not a directory of wharf's, nor a
    /// bind mount of the host's.
    pub(super) fn is_file_system(&self, name: &str) -> bool {
        let is_bind = |options: &str| options.split(',').any(|option| option == "bind" || option == "rbind");
        self.get(name).is_some_and(|v| v.options.contains_key("type") && !v.options.get("o").is_some_and(|o| is_bind(o)))
    }

    /// Whether a volume could be made where none of its name is.
    ///
    /// # Errors
    /// As [`Volumes::create`], without what the disk alone knows.
    pub fn check(&self, new: &NewVolume) -> Result<(), EngineError> {
        match new.check()? {
            Some(_) => quota::check(&self.config.data_root.join("volumes")).map_err(|why| self.no_size(&new.name, &why)),
            None => Ok(()),
        }
    }

    fn no_size(&self, name: &str, why: &io::Error) -> EngineError {
        let root = self.config.data_root.display();
        EngineError::Invalid(format!("the volume {name} cannot have a size in {root}: {why}"))
    }

    /// Makes a volume; one of that name that exists is returned as it is.
    ///
    /// # Errors
    /// A name that is no file name, options that are not understood, or the disk's.
    pub fn create(&self, new: NewVolume) -> Result<VolumeRecord, EngineError> {
        let size = new.check()?;
        let NewVolume { name, labels, options, anonymous } = new;
        let name = name.as_str();
        let _reserved = self.names.reserve(name);
        if let Some(known) = locked(&self.records).get(name) {
            return Ok(known.clone());
        }
        self.state.refuse_unknown(RecordKind::Volume, name)?;
        let doing = || EngineError::io(format!("making the volume {name}"));
        let mut draft = Draft::new(&self.config.data_root.join("volumes"), name).map_err(doing())?;
        let data = draft.path().join("_data");
        std::fs::create_dir(&data).map_err(doing())?;
        if let Some(size) = size {
            draft.limit(&data, size).map_err(|why| self.no_size(name, &why))?;
        }
        let record = VolumeRecord { name: name.into(), created_at: jiff::Timestamp::now(), labels, anonymous, options };
        write_manifest(&manifest_of(draft.path()), &record).map_err(doing())?;
        self.state.journal.put(&format!("volume/{name}"), &record).map_err(state_error)?;
        if let Err(error) = draft.finish() {
            let _ = self.state.journal.delete(&format!("volume/{name}"));
            return Err(doing()(error));
        }
        locked(&self.records).insert(name.into(), record.clone());
        self.events.emit("volume", "create", name, [("driver".to_string(), "local".to_string())].into());
        Ok(record)
    }

    /// Removes a volume with its data.
    ///
    /// # Errors
    /// When a container uses it: the message names it.
    pub fn remove(&self, name: &str) -> Result<(), EngineError> {
        let _reserved = self.names.reserve(name);
        if !locked(&self.records).contains_key(name) {
            self.state.refuse_unknown(RecordKind::Volume, name)?;
            return Err(EngineError::NoSuch { what: "volume", name: name.into() });
        }
        // Before the containers are: a use ends when its container is known, so that one of the two is seen.
        if self.uses.are_announced(name) {
            return Err(EngineError::Conflict(format!("remove {name}: volume is in use by a container that is being made")));
        }
        let user = self
            .containers
            .all()
            .into_iter()
            .find(|c| c.with_record(|record| record.spec.mounts.iter().any(|m| m.source == name)));
        if let Some(user) = user {
            return Err(EngineError::Conflict(format!(
                "remove {name}: volume is in use - [{}] by the container {}",
                user.id,
                user.name()
            )));
        }
        self.state.refuse_use_by_unknown("volume", &[name])?;
        let doing = || EngineError::io(format!("removing the volume {name}"));
        let removal = DirectoryRemoval::begin(&self.config.data_root.join("volumes").join(name)).map_err(doing())?;
        if let Err(error) = self.state.journal.delete(&format!("volume/{name}")) {
            removal.undo();
            return Err(state_error(error));
        }
        let known = locked(&self.records).shift_remove(name);
        if known.is_some_and(|volume| volume.options.contains_key("size")) {
            quota::release(&removal.path().join("_data"));
        }
        removal.finish().map_err(doing())?;
        self.events.emit("volume", "destroy", name, [("driver".to_string(), "local".to_string())].into());
        Ok(())
    }
}
