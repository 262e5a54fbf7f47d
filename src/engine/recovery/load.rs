//! Reading the state at the start: the journal's records, and what the disk has that the journal has lost.

use super::{RecordKind, Unknown, is_id};
use crate::engine::containers::link::{MonitorLink, Reached};
use crate::engine::images::build::is_build_id;
use crate::engine::launch::control_groups::Groups;
use crate::engine::locked;
use crate::engine::record::{ContainerRecord, NetworkRecord, Transition, VolumeRecord, verdict};
use crate::engine::state::StateStore;
use crate::engine::state::directories::{self, DirectoryEntry, manifest_of, read_manifest, write_manifest};
use crate::engine::state::journal::Room;
use crate::image::store::remove_files;
use crate::runtime::launch::Exit;
use indexmap::IndexMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The state at the engine's start.
pub(in crate::engine) struct LoadedState {
    pub networks: IndexMap<String, NetworkRecord>,
    pub volumes: IndexMap<String, VolumeRecord>,
    /// Oldest first.
    pub containers: Vec<ContainerRecord>,
    /// Ids of containers that nobody knows, and of which the kernel keeps a process.
    pub lingering: Vec<String>,
}

/// Reads the state. What is left of unfinished removals is taken away.
pub(in crate::engine) fn load(state: &StateStore, groups: &Groups) -> LoadedState {
    RecordLoader { state, groups, lingering: RefCell::default() }.load()
}

struct RecordLoader<'a> {
    state: &'a StateStore,
    groups: &'a Groups,
    /// See [`LoadedState`].
    lingering: RefCell<Vec<String>>,
}

impl RecordLoader<'_> {
    fn load(&self) -> LoadedState {
        let mut networks: IndexMap<String, NetworkRecord> = self.journaled(RecordKind::Network);
        self.find_networks(&mut networks);
        let mut volumes: IndexMap<String, VolumeRecord> = self.journaled(RecordKind::Volume);
        let parent = self.state.config.data_root.join("volumes");
        self.find_directories(RecordKind::Volume, &parent, &mut volumes, |_| true, |name| self.find_volume(name));
        let mut containers: IndexMap<String, ContainerRecord> = self.journaled(RecordKind::Container);
        let parent = self.state.config.data_root.join("containers");
        self.find_directories(RecordKind::Container, &parent, &mut containers, is_id, |id| self.find_container(id));
        self.state.recovery.report_damage();
        self.look_at_run_directories(&containers);
        let mut records: Vec<ContainerRecord> = containers.into_values().collect();
        records.sort_by_key(|record| record.created_at);
        LoadedState { networks, volumes, containers: records, lingering: self.lingering.take() }
    }

    /// The journal's records of a kind; those that this version does not understand are unknown.
    fn journaled<T: DeserializeOwned>(&self, kind: RecordKind) -> IndexMap<String, T> {
        let mut records = IndexMap::new();
        for (key, record) in self.state.journal.all(&kind.prefix()) {
            match record {
                Ok(record) => drop(records.insert(key, record)),
                Err(text) => {
                    let why = "its record in the journal was written by another version".to_string();
                    let unknown = Unknown::new(kind, key, Some(&text), why);
                    match kind {
                        RecordKind::Container => {
                            let reached = MonitorLink::reach(&self.state.config.run_directory(&unknown.id));
                            self.state.add_unknown_container(unknown, reached);
                        }
                        RecordKind::Network | RecordKind::Volume => self.state.recovery.add(Arc::new(unknown)),
                    }
                }
            }
        }
        records
    }

    /// Writes down what was found again.
    fn keep_found(&self, kind: RecordKind, id: &str, name: &str, record: &impl Serialize) {
        locked(&self.state.recovery.found_again).push((kind, name.to_string()));
        if self.state.journal.put_anyway(&format!("{}{id}", kind.prefix()), record, Room::Ending).is_err() {
            self.state.owing.notify_one();
        }
    }

    fn find_networks(&self, records: &mut IndexMap<String, NetworkRecord>) {
        let parent = self.state.config.network_manifests();
        let entries = directories::entries(&parent).unwrap_or_else(|error| {
            self.state.recovery.warn(format!("reading {}: {error}", parent.display()));
            Vec::new()
        });
        for entry in entries {
            match entry {
                DirectoryEntry::Whole(file) => {
                    let Some(id) = file.strip_suffix(".json").filter(|id| is_id(id)) else { continue };
                    if records.contains_key(id) || self.state.recovery.has(RecordKind::Network, id) {
                        continue;
                    }
                    match read_manifest::<NetworkRecord>(&parent.join(&file)) {
                        Ok(record) if record.id == id => {
                            self.keep_found(RecordKind::Network, id, &record.name, &record);
                            records.insert(id.to_string(), record);
                        }
                        _ if is_build_id(id) => drop(std::fs::remove_file(parent.join(&file))),
                        // Without its record nothing is left of a network that could be used.
                        _ => {
                            self.state.recovery.lost(format!("what the network {id} was cannot be read in {}", parent.display()))
                        }
                    }
                }
                DirectoryEntry::New(name) | DirectoryEntry::Removing(name) => {
                    drop(directories::remove_unfinished(&parent, &name))
                }
            }
        }
        for record in records.values().filter(|record| !self.state.config.network_manifest(&record.id).exists()) {
            self.state.write_network_manifest(record);
        }
    }

    /// Compares the records of a kind with the directories that there are.
    fn find_directories<T: Serialize>(
        &self,
        kind: RecordKind,
        parent: &Path,
        records: &mut IndexMap<String, T>,
        is_name: impl Fn(&str) -> bool,
        find: impl Fn(&str) -> Option<T>,
    ) {
        let entries = match directories::entries(parent) {
            Ok(entries) => entries,
            Err(error) => return self.state.recovery.lost(format!("reading {}: {error}", parent.display())),
        };
        let mut whole: HashSet<String> = HashSet::new();
        for name in entries.iter().filter_map(|entry| if let DirectoryEntry::Whole(name) = entry { Some(name) } else { None }) {
            whole.insert(name.clone());
            if is_name(name) && !records.contains_key(name) && !self.state.recovery.has(kind, name) {
                records.extend(find(name).map(|record| (name.clone(), record)));
            }
        }
        for entry in &entries {
            let (DirectoryEntry::New(name) | DirectoryEntry::Removing(name)) = entry else { continue };
            if matches!(entry, DirectoryEntry::New(_)) && records.contains_key(name) && !whole.contains(name) {
                match directories::finish_making(parent, name) {
                    Ok(()) => drop(whole.insert(name.clone())),
                    Err(error) => self.state.recovery.warn(format!("making the {} {name}: {error}", kind.as_str())),
                }
                continue;
            }
            if matches!(entry, DirectoryEntry::Removing(_)) && records.contains_key(name) && !whole.contains(name) {
                // The journal was about to hear of it.
                if let Err(error) = self.state.journal.delete(&format!("{}{name}", kind.prefix())) {
                    self.state.recovery.warn(format!("removing the {} {name}: {error}", kind.as_str()));
                    continue;
                }
                records.shift_remove(name);
            }
            if kind == RecordKind::Container {
                self.remove_strays(name);
            }
            if let Err(error) = directories::remove_unfinished(parent, name) {
                tracing::warn!("removing what is left of the {} {name}: {error}", kind.as_str());
            }
        }
        let missing: Vec<String> = records.keys().filter(|name| !whole.contains(*name)).cloned().collect();
        for name in &missing {
            if !directories::is_marked(parent) {
                self.state.recovery.lost(format!(
                    "the directory of the {} {name} is missing in {}: is the disk with it mounted?",
                    kind.as_str(),
                    parent.display()
                ));
            } else if self.state.journal.delete(&format!("{}{name}", kind.prefix())).is_ok() {
                // Its removal is on the disk, and the journal's line of it was lost in a power cut.
                tracing::warn!("the {} {name} has no files any more, and is forgotten", kind.as_str());
                records.shift_remove(name);
            }
        }
        if missing.is_empty()
            && let Err(error) = directories::mark(parent)
        {
            tracing::warn!("writing in {}: {error}", parent.display());
        }
        for (name, record) in records {
            let manifest = manifest_of(&parent.join(name));
            if !manifest.exists()
                && let Err(error) = write_manifest(&manifest, record)
            {
                tracing::warn!("writing {}: {error}", manifest.display());
            }
        }
    }

    /// A volume that the journal has lost.
    fn find_volume(&self, name: &str) -> Option<VolumeRecord> {
        let directory = self.state.config.data_root.join("volumes").join(name);
        let record = read_manifest::<VolumeRecord>(&manifest_of(&directory)).ok().filter(|record| record.name == name);
        // Its files are what matters; what it was called for is not known.
        let record = record.or_else(|| {
            let created_at = std::fs::metadata(directory.join("_data")).and_then(|data| data.modified()).ok()?;
            let created_at = jiff::Timestamp::try_from(created_at).unwrap_or_default();
            Some(VolumeRecord {
                name: name.into(),
                created_at,
                labels: IndexMap::new(),
                anonymous: false,
                options: IndexMap::new(),
            })
        })?;
        self.keep_found(RecordKind::Volume, name, name, &record);
        Some(record)
    }

    /// A container that the journal has lost: as it was at its last start, if it runs, or as it was made.
    fn find_container(&self, id: &str) -> Option<ContainerRecord> {
        let directory = self.state.config.container_directory(id);
        if is_build_id(id) {
            // Its build has died with the engine.
            MonitorLink::kill_silent(&self.state.config.run_directory(id));
            self.remove_strays(id);
            if let Err(error) = remove_files(&directory) {
                tracing::warn!("removing the step of a build: {error}");
            }
            return None;
        }
        let at_start = read_manifest::<ContainerRecord>(&self.state.config.start_record(id));
        let found = at_start.or_else(|_| read_manifest::<ContainerRecord>(&manifest_of(&directory)));
        let mut record = match found {
            Ok(record) if record.id == id => record,
            other => {
                let error = other.err().map_or_else(|| "it is another's".to_string(), |error| error.to_string());
                let why = format!("the journal does not have it, and what it was made with cannot be read: {error}");
                self.state.recovery.incomplete.store(true, Ordering::Release);
                let reached = MonitorLink::reach(&self.state.config.run_directory(id));
                self.state.add_unknown_container(Unknown::new(RecordKind::Container, id.to_string(), None, why), reached);
                return None;
            }
        };
        // One that runs is seen to when it is adopted. Of another, nobody knows whether it was stopped: its policy decides, as after
        // the end of a host that it ran on.
        if self.state.config.exit_file(id).exists() {
            let exit = Exit::read(&self.state.config.exit_file(id)).unwrap_or_else(|| Exit::now(255));
            let verdict = verdict(&record, &exit, true);
            record.apply(&Transition::Ended { exit: &exit, verdict });
        }
        self.keep_found(RecordKind::Container, id, &record.name, &record);
        Some(record)
    }

    /// Removes what is left of a container's run; its run directory stays as long as a process of it.
    fn remove_strays(&self, id: &str) {
        if self.groups.remove_strays(id) {
            let _ = remove_files(&self.state.config.run_directory(id));
        } else {
            self.lingering.borrow_mut().push(id.to_string());
        }
    }

    /// Run directories of containers that have nothing else: they were about to be removed, unless something still runs.
    fn look_at_run_directories(&self, containers: &IndexMap<String, ContainerRecord>) {
        for entry in std::fs::read_dir(self.state.config.run_root.join("containers")).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            if containers.contains_key(&id) || self.state.recovery.has(RecordKind::Container, &id) || !is_id(&id) {
                continue;
            }
            if is_build_id(&id) {
                MonitorLink::kill_silent(&entry.path());
            }
            let reached = MonitorLink::reach(&entry.path());
            if !matches!(reached, Reached::Nobody) && !is_build_id(&id) {
                let why = "it runs, and nothing else is left of it".to_string();
                self.state.add_unknown_container(Unknown::new(RecordKind::Container, id, None, why), reached);
            } else if !self.state.is_incomplete() {
                self.remove_strays(&id);
            }
        }
    }
}
