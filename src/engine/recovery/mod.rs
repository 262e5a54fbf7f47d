//! What the engine knows at its start: the journal's records, what the disk has and the journal has lost, and what nobody can
//! tell. Nothing is removed because nothing is known of it: docs/reliability.md.

pub(super) mod adopt;

use super::error::{EngineError, state_error};
use super::images::build::is_build_id;
use super::networks::DEFAULT_NETWORK;
use super::record::{ContainerRecord, NetworkRecord, Transition, VolumeRecord, verdict};
use super::{Engine, locked};
use crate::engine::containers::link::{MonitorLink, Reached};
use crate::engine::state::directories::{self, Entry, manifest_of, read_manifest, write_manifest};
use crate::engine::state::journal::{Found, Room};
use crate::image::store::remove_files;
use crate::runtime::control::{Event, Request};
use crate::runtime::launch::Exit;
use indexmap::IndexMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What was found wrong with the state, for the life of this engine.
#[derive(Default)]
pub(super) struct Recovery {
    /// The journal has lost something, or may have: nothing is removed that nobody is known to use.
    incomplete: AtomicBool,
    warnings: Mutex<Vec<String>>,
    unknown: Mutex<Vec<Arc<Unknown>>>,
    found_again: Mutex<Vec<(Kind, String)>>,
    /// No command has shown the warnings yet.
    unreported: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Container,
    Network,
    Volume,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Container => "container",
            Kind::Network => "network",
            Kind::Volume => "volume",
        }
    }

    /// Where the journal has them.
    fn prefix(self) -> String {
        format!("{}/", self.as_str())
    }
}

/// Something that is there, of which this version cannot tell what it is. It is shown and left alone.
pub struct Unknown {
    pub kind: Kind,
    /// The key in the journal, or the directory's name.
    pub id: String,
    pub name: String,
    /// The record, as far as it is JSON.
    pub record: Value,
    why: String,
    /// Of a container that runs: its monitor brings no other engine back while it has this one.
    monitor: Mutex<Monitor>,
    /// Somebody removes it.
    removing: AtomicBool,
}

/// The monitor of a container that is not understood.
#[derive(Clone)]
enum Monitor {
    Linked(Arc<MonitorLink>),
    /// It is there, and has not taken a connection yet.
    Silent,
    Gone,
}

/// How often a monitor that takes no connection is asked again.
const ASKED_AGAIN: Duration = Duration::from_secs(5);

impl From<Reached> for Monitor {
    fn from(reached: Reached) -> Self {
        match reached {
            Reached::Monitor(link) => Monitor::Linked(Arc::new(link)),
            Reached::Silent => Monitor::Silent,
            Reached::Nobody => Monitor::Gone,
        }
    }
}

impl Unknown {
    fn new(kind: Kind, id: String, text: Option<&str>, why: String) -> Self {
        let record: Value = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let name = record["name"].as_str().map_or_else(|| id.chars().take(12).collect(), str::to_string);
        Unknown { kind, id, name, record, why, monitor: Mutex::new(Monitor::Gone), removing: AtomicBool::new(false) }
    }

    pub fn runs(&self) -> bool {
        !matches!(*locked(&self.monitor), Monitor::Gone)
    }

    /// Waits for the end of a container.
    async fn watch(&self, run_directory: &Path) {
        loop {
            let monitor = locked(&self.monitor).clone();
            let next = match monitor {
                Monitor::Gone => return,
                Monitor::Silent => {
                    tokio::time::sleep(ASKED_AGAIN).await;
                    MonitorLink::reach(run_directory).into()
                }
                Monitor::Linked(link) => {
                    // One whose container has ended before says so.
                    let _ = link.send(&Request::Status, &[]);
                    while let Ok(Some((event, _))) = link.receive().await {
                        if matches!(event, Event::Exited(_) | Event::Failed { .. }) {
                            // How it ended is written down, for the version that knows it.
                            let _ = link.send(&Request::Goodbye, &[]);
                            break;
                        }
                    }
                    Monitor::Gone
                }
            };
            *locked(&self.monitor) = next;
        }
    }

    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.id == name || (name.len() >= 4 && self.id.starts_with(name))
    }

    /// Whether it may use a volume, network or image.
    fn may_use(&self, name: &str) -> bool {
        fn mentions(value: &Value, name: &str) -> bool {
            match value {
                Value::String(text) => text == name,
                Value::Array(list) => list.iter().any(|value| mentions(value, name)),
                Value::Object(map) => map.iter().any(|(key, value)| key == name || mentions(value, name)),
                _ => false,
            }
        }
        self.record.is_null() || mentions(&self.record, name)
    }

    fn refusal(&self) -> EngineError {
        let remove = if self.kind == Kind::Container { ", or remove it with --force, files and all" } else { "" };
        EngineError::Conflict(format!(
            "the {} {} is unknown to this version and left alone: {}; use the version that made it{remove}",
            self.kind.as_str(),
            self.name,
            self.why
        ))
    }
}

impl Recovery {
    pub fn of(found: &Found) -> Self {
        let recovery = Recovery::default();
        if let Some(damage) = &found.damage {
            let lines: Vec<String> = damage.lines.iter().map(ToString::to_string).collect();
            recovery.lost(format!(
                "the engine's journal is damaged in line {}: what it says before and after is used, the file is kept as {}, and nothing is pruned until the engine has been started again; the disk may be failing",
                lines.join(", "),
                damage.kept.display()
            ));
        }
        recovery
    }

    fn warn(&self, warning: String) {
        tracing::error!("{warning}");
        locked(&self.warnings).push(warning);
        self.unreported.store(true, Ordering::Release);
    }

    /// The journal lacks something.
    fn lost(&self, warning: String) {
        self.incomplete.store(true, Ordering::Release);
        self.warn(warning);
    }

    fn add(&self, unknown: Arc<Unknown>) {
        self.warn(format!("the {} {} is unknown: {}", unknown.kind.as_str(), unknown.name, unknown.why));
        locked(&self.unknown).push(unknown);
    }

    fn tell_what_was_found(&self) {
        let found = std::mem::take(&mut *locked(&self.found_again));
        for kind in [Kind::Container, Kind::Network, Kind::Volume] {
            let names: Vec<&str> = found.iter().filter(|(k, _)| *k == kind).map(|(_, name)| name.as_str()).collect();
            if !names.is_empty() {
                self.lost(format!(
                    "not in the engine's journal, and found again on the disk: {}{} {}",
                    kind.as_str(),
                    if names.len() == 1 { "" } else { "s" },
                    names.join(", ")
                ));
            }
        }
    }

    fn has(&self, kind: Kind, id: &str) -> bool {
        locked(&self.unknown).iter().any(|unknown| unknown.kind == kind && unknown.id == id)
    }
}

impl Engine {
    /// What is wrong with the state.
    pub fn warnings(&self) -> Vec<String> {
        locked(&self.recovery.warnings).clone()
    }

    /// The same, once: for the first command that asks.
    pub fn unreported_warnings(&self) -> Vec<String> {
        if self.recovery.unreported.swap(false, Ordering::AcqRel) { self.warnings() } else { Vec::new() }
    }

    /// What is there and not understood.
    pub fn unknown(&self, kind: Kind) -> Vec<Arc<Unknown>> {
        locked(&self.recovery.unknown).iter().filter(|unknown| unknown.kind == kind).cloned().collect()
    }

    /// The unknown thing of a name, id or beginning of an id.
    pub fn find_unknown(&self, kind: Kind, name: &str) -> Option<Arc<Unknown>> {
        let name = name.trim_start_matches('/');
        self.unknown(kind).into_iter().find(|unknown| unknown.is_called(name))
    }

    /// Refuses to do anything with what is not understood.
    ///
    /// # Errors
    /// What it is and what can be done about it.
    pub(super) fn refuse_unknown(&self, kind: Kind, name: &str) -> Result<(), EngineError> {
        self.find_unknown(kind, name).map_or(Ok(()), |unknown| Err(unknown.refusal()))
    }

    /// Refuses to remove what a container that is not understood may use.
    ///
    /// # Errors
    /// Which container that is.
    pub(super) fn refuse_use_by_unknown(&self, what: &str, names: &[&str]) -> Result<(), EngineError> {
        let user = self.unknown(Kind::Container).into_iter().find(|unknown| names.iter().any(|name| unknown.may_use(name)));
        user.map_or(Ok(()), |user| {
            Err(EngineError::Conflict(format!("the {what} {} may be in use by the unknown container {}", names[0], user.name)))
        })
    }

    /// Refuses to remove anything for the reason that nobody is known to use it.
    ///
    /// # Errors
    /// Why that cannot be known.
    pub fn check_prunable(&self) -> Result<(), EngineError> {
        if self.recovery.incomplete.load(Ordering::Acquire) {
            return Err(EngineError::Conflict(
                "nothing is pruned, since the engine's journal was damaged and something may be missing: see `wharf system check`; after `wharf engine stop` it can be"
                    .into(),
            ));
        }
        locked(&self.recovery.unknown).first().map_or(Ok(()), |unknown| {
            Err(EngineError::Conflict(format!(
                "nothing is pruned, since what the unknown {} {} needs cannot be told: see `wharf system check`",
                unknown.kind.as_str(),
                unknown.name
            )))
        })
    }

    /// Whether the journal may lack something.
    pub(super) fn is_incomplete(&self) -> bool {
        self.recovery.incomplete.load(Ordering::Acquire)
    }

    /// Whether a container that is not understood runs.
    pub(super) fn has_unknown_running(&self) -> bool {
        locked(&self.recovery.unknown).iter().any(|unknown| unknown.runs())
    }

    /// The monitors of containers that are not understood need not bring an engine back.
    pub(super) fn leave_unknown(&self) {
        for unknown in locked(&self.recovery.unknown).iter() {
            if let Monitor::Linked(link) = &*locked(&unknown.monitor) {
                let _ = link.send(&Request::Goodbye, &[]);
            }
        }
    }

    /// Keeps a container that is not understood, and notices its end.
    fn add_unknown_container(&self, unknown: Unknown, reached: Reached) {
        let run_directory = self.run_directory(&unknown.id);
        *locked(&unknown.monitor) = reached.into();
        let unknown = Arc::new(unknown);
        self.recovery.add(unknown.clone());
        if unknown.runs() {
            tokio::spawn(async move { unknown.watch(&run_directory).await });
        }
    }

    /// Removes a container that is not understood: its processes, its files and its record. It runs to its end, also when its
    /// client goes.
    ///
    /// # Errors
    /// The disk's, or processes that do not end; it is there then.
    pub async fn remove_unknown(self: &Arc<Self>, unknown: &Arc<Unknown>) -> Result<(), EngineError> {
        if unknown.removing.swap(true, Ordering::AcqRel) {
            return Err(EngineError::Conflict(format!("the container {} is being removed already", unknown.name)));
        }
        let (engine, unknown) = (self.clone(), unknown.clone());
        let name = unknown.name.clone();
        let removal = tokio::spawn(async move {
            let result = engine.remove_all_of(&unknown).await;
            unknown.removing.store(result.is_ok(), Ordering::Release);
            result
        });
        removal.await.map_err(|error| EngineError::io(format!("removing {name}"))(std::io::Error::other(error)))?
    }

    async fn remove_all_of(&self, unknown: &Unknown) -> Result<(), EngineError> {
        let own = unknown.record["control_group"].as_str().map(str::to_string);
        for group in own.into_iter().chain(self.stray_groups(&unknown.id)) {
            self.end_group(&group).await;
            // What is left would go on writing to files that are being removed.
            if !self.cgroups.remove(&group) {
                return Err(EngineError::Conflict(format!(
                    "the container {} has processes that were killed and have not ended: remove it when they have",
                    unknown.name
                )));
            }
        }
        let doing = || EngineError::io(format!("removing the files of {}", unknown.name));
        let removal = directories::Removal::begin(&self.container_directory(&unknown.id)).map_err(doing())?;
        if let Err(error) = self.journal.delete(&format!("container/{}", unknown.id)) {
            removal.undo();
            return Err(state_error(error));
        }
        locked(&self.recovery.unknown).retain(|known| known.kind != Kind::Container || known.id != unknown.id);
        let _ = remove_files(&self.run_directory(&unknown.id));
        removal.finish().map_err(doing())?;
        self.remove_unused_network(DEFAULT_NETWORK);
        Ok(())
    }

    /// Where what every network was made with is kept.
    pub(super) fn network_manifest(&self, id: &str) -> PathBuf {
        self.network_manifests().join(format!("{id}.json"))
    }

    fn network_manifests(&self) -> PathBuf {
        self.config.data_root.join("networks")
    }

    /// Keeps what a container was made with beside it, when that has changed. It is for when the journal is damaged: that it
    /// cannot be written is no failure of what is being done.
    pub(super) fn renew_manifest(&self, record: &ContainerRecord) {
        let start = self.start_record(&record.id);
        let known = [Some(manifest_of(&self.container_directory(&record.id))), Some(start).filter(|path| path.exists())];
        for path in known.iter().flatten() {
            if let Err(error) = write_manifest(path, record) {
                tracing::warn!("writing {}: {error}", path.display());
            }
        }
    }

    /// Reads the state. Networks and volumes are known then; the containers are returned, oldest first.
    pub(super) fn load(&self) -> Vec<ContainerRecord> {
        let mut networks: IndexMap<String, NetworkRecord> = self.journaled(Kind::Network);
        self.find_networks(&mut networks);
        *locked(&self.networks) = networks;
        let mut volumes: IndexMap<String, VolumeRecord> = self.journaled(Kind::Volume);
        let parent = self.config.data_root.join("volumes");
        self.find_directories(Kind::Volume, &parent, &mut volumes, |_| true, |name| self.find_volume(name));
        *locked(&self.volumes) = volumes;
        let mut containers: IndexMap<String, ContainerRecord> = self.journaled(Kind::Container);
        let parent = self.config.data_root.join("containers");
        self.find_directories(Kind::Container, &parent, &mut containers, is_id, |id| self.find_container(id));
        self.recovery.tell_what_was_found();
        self.look_at_run_directories(&containers);
        let mut records: Vec<ContainerRecord> = containers.into_values().collect();
        records.sort_by_key(|record| record.created_at);
        records
    }

    /// The journal's records of a kind; those that this version does not understand are unknown.
    fn journaled<T: DeserializeOwned>(&self, kind: Kind) -> IndexMap<String, T> {
        let mut records = IndexMap::new();
        for (key, record) in self.journal.all(&kind.prefix()) {
            match record {
                Ok(record) => drop(records.insert(key, record)),
                Err(text) => {
                    let why = "its record in the journal was written by another version".to_string();
                    let unknown = Unknown::new(kind, key, Some(&text), why);
                    match kind {
                        Kind::Container => {
                            let reached = MonitorLink::reach(&self.run_directory(&unknown.id));
                            self.add_unknown_container(unknown, reached);
                        }
                        Kind::Network | Kind::Volume => self.recovery.add(Arc::new(unknown)),
                    }
                }
            }
        }
        records
    }

    /// Writes down what was found again.
    fn keep_found(&self, kind: Kind, id: &str, name: &str, record: &impl Serialize) {
        locked(&self.recovery.found_again).push((kind, name.to_string()));
        if self.journal.put_anyway(&format!("{}{id}", kind.prefix()), record, Room::Ending).is_err() {
            self.owing.notify_one();
        }
    }

    fn find_networks(&self, records: &mut IndexMap<String, NetworkRecord>) {
        let parent = self.network_manifests();
        let entries = directories::entries(&parent).unwrap_or_else(|error| {
            self.recovery.warn(format!("reading {}: {error}", parent.display()));
            Vec::new()
        });
        for entry in entries {
            match entry {
                Entry::Whole(file) => {
                    let Some(id) = file.strip_suffix(".json").filter(|id| is_id(id)) else { continue };
                    if records.contains_key(id) || self.recovery.has(Kind::Network, id) {
                        continue;
                    }
                    match read_manifest::<NetworkRecord>(&parent.join(&file)) {
                        Ok(record) if record.id == id => {
                            self.keep_found(Kind::Network, id, &record.name, &record);
                            records.insert(id.to_string(), record);
                        }
                        // Without its record nothing is left of a network that could be used.
                        _ if is_build_id(id) => drop(std::fs::remove_file(parent.join(&file))),
                        _ => self.recovery.lost(format!("what the network {id} was cannot be read in {}", parent.display())),
                    }
                }
                Entry::New(name) | Entry::Removing(name) => drop(directories::remove_unfinished(&parent, &name)),
            }
        }
        for record in records.values().filter(|record| !self.network_manifest(&record.id).exists()) {
            self.write_network_manifest(record);
        }
    }

    /// Keeps what a network was made with. It is for when the journal is damaged: that it cannot be written is no failure of
    /// what is being done.
    pub(super) fn write_network_manifest(&self, record: &NetworkRecord) {
        let path = self.network_manifest(&record.id);
        if let Err(error) = std::fs::create_dir_all(self.network_manifests()).and_then(|()| write_manifest(&path, record)) {
            tracing::warn!("writing {}: {error}", path.display());
        }
    }

    /// Forgets what a network was made with: with it the network would be found again.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn remove_network_manifest(&self, id: &str) -> Result<(), EngineError> {
        match std::fs::remove_file(self.network_manifest(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(EngineError::io("removing a network's manifest")(error))
            }
            _ => Ok(()),
        }
    }

    /// Compares the records of a kind with the directories that there are.
    fn find_directories<T: Serialize>(
        &self,
        kind: Kind,
        parent: &Path,
        records: &mut IndexMap<String, T>,
        is_name: impl Fn(&str) -> bool,
        find: impl Fn(&str) -> Option<T>,
    ) {
        let entries = match directories::entries(parent) {
            Ok(entries) => entries,
            Err(error) => return self.recovery.lost(format!("reading {}: {error}", parent.display())),
        };
        let mut whole: HashSet<String> = HashSet::new();
        for name in entries.iter().filter_map(|entry| if let Entry::Whole(name) = entry { Some(name) } else { None }) {
            whole.insert(name.clone());
            if is_name(name) && !records.contains_key(name) && !self.recovery.has(kind, name) {
                records.extend(find(name).map(|record| (name.clone(), record)));
            }
        }
        for entry in &entries {
            let (Entry::New(name) | Entry::Removing(name)) = entry else { continue };
            if matches!(entry, Entry::New(_)) && records.contains_key(name) && !whole.contains(name) {
                match directories::finish_making(parent, name) {
                    Ok(()) => drop(whole.insert(name.clone())),
                    Err(error) => self.recovery.warn(format!("making the {} {name}: {error}", kind.as_str())),
                }
                continue;
            }
            if matches!(entry, Entry::Removing(_)) && records.contains_key(name) && !whole.contains(name) {
                // The journal was about to hear of it.
                if let Err(error) = self.journal.delete(&format!("{}{name}", kind.prefix())) {
                    self.recovery.warn(format!("removing the {} {name}: {error}", kind.as_str()));
                    continue;
                }
                records.shift_remove(name);
            }
            if kind == Kind::Container {
                self.remove_stray_groups(name);
                let _ = remove_files(&self.run_directory(name));
            }
            if let Err(error) = directories::remove_unfinished(parent, name) {
                tracing::warn!("removing what is left of the {} {name}: {error}", kind.as_str());
            }
        }
        let missing: Vec<String> = records.keys().filter(|name| !whole.contains(*name)).cloned().collect();
        for name in &missing {
            if !directories::is_marked(parent) {
                self.recovery.lost(format!(
                    "the directory of the {} {name} is missing in {}: is the disk with it mounted?",
                    kind.as_str(),
                    parent.display()
                ));
            } else if self.journal.delete(&format!("{}{name}", kind.prefix())).is_ok() {
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
        let directory = self.config.data_root.join("volumes").join(name);
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
        self.keep_found(Kind::Volume, name, name, &record);
        Some(record)
    }

    /// A container that the journal has lost: as it was at its last start, if it runs, or as it was made.
    fn find_container(&self, id: &str) -> Option<ContainerRecord> {
        let directory = self.container_directory(id);
        if is_build_id(id) {
            // Its build has died with the engine.
            MonitorLink::kill_silent(&self.run_directory(id));
            self.remove_stray_groups(id);
            let _ = remove_files(&self.run_directory(id));
            if let Err(error) = remove_files(&directory) {
                tracing::warn!("removing the step of a build: {error}");
            }
            return None;
        }
        let at_start = read_manifest::<ContainerRecord>(&self.start_record(id));
        let found = at_start.or_else(|_| read_manifest::<ContainerRecord>(&manifest_of(&directory)));
        let mut record = match found {
            Ok(record) if record.id == id => record,
            other => {
                let error = other.err().map_or_else(|| "it is another's".to_string(), |error| error.to_string());
                let why = format!("the journal does not have it, and what it was made with cannot be read: {error}");
                self.recovery.incomplete.store(true, Ordering::Release);
                let reached = MonitorLink::reach(&self.run_directory(id));
                self.add_unknown_container(Unknown::new(Kind::Container, id.to_string(), None, why), reached);
                return None;
            }
        };
        // One that runs is seen to when it is adopted. Of another, nobody knows whether it was stopped: its policy decides, as after
        // the end of a host that it ran on.
        if self.exit_file(id).exists() {
            let exit = self.recorded_exit(id).unwrap_or_else(|| Exit::now(255));
            let verdict = verdict(&record, &exit, true);
            record.apply(&Transition::Ended { exit: &exit, verdict });
        }
        self.keep_found(Kind::Container, id, &record.name, &record);
        Some(record)
    }

    /// What a container was at its last start, while the host is up.
    pub(super) fn start_record(&self, id: &str) -> PathBuf {
        self.run_directory(id).join("record.json")
    }

    /// Run directories of containers that have nothing else: they were about to be removed, unless something still runs.
    fn look_at_run_directories(&self, containers: &IndexMap<String, ContainerRecord>) {
        for entry in std::fs::read_dir(self.config.run_root.join("containers")).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            if containers.contains_key(&id) || self.recovery.has(Kind::Container, &id) || !is_id(&id) {
                continue;
            }
            if is_build_id(&id) {
                MonitorLink::kill_silent(&entry.path());
            }
            let reached = MonitorLink::reach(&entry.path());
            if !matches!(reached, Reached::Nobody) && !is_build_id(&id) {
                let why = "it runs, and nothing else is left of it".to_string();
                self.add_unknown_container(Unknown::new(Kind::Container, id, None, why), reached);
            } else if !self.is_incomplete() {
                self.remove_stray_groups(&id);
                let _ = remove_files(&entry.path());
            }
        }
    }
}

/// Whether a name is an id as wharf gives them.
pub(super) fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}
