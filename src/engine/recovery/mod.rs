//! The engine's knowledge at its start: the journal's records, what the disk has and the journal has lost, and what nobody can
//! tell. Nothing is removed because nothing is known of it: docs/reliability.md.

pub(super) mod adopt;
mod boot;
pub(super) mod load;

use super::error::{EngineError, state_error};
use super::networks::DEFAULT_NETWORK;
use super::state::StateStore;
use super::{Engine, locked};
use crate::engine::containers::link::{MonitorLink, Reached};
use crate::engine::state::directories::{self};
use crate::engine::state::journal::FoundJournal;
use crate::image::store::remove_files;
use crate::runtime::control::{MonitorEvent, MonitorRequest};
use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Damage of the state, for the life of this engine.
#[derive(Default)]
pub(super) struct Recovery {
    /// The journal has lost something, or may have: nothing is removed that nobody is known to use.
    incomplete: AtomicBool,
    warnings: Mutex<Vec<String>>,
    unknown: Mutex<Vec<Arc<Unknown>>>,
    found_again: Mutex<Vec<(RecordKind, String)>>,
    /// No command has shown the warnings yet.
    unreported: AtomicBool,
}

/// An object that has a record in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    Container,
    Network,
    Volume,
}

impl RecordKind {
    fn as_str(self) -> &'static str {
        match self {
            RecordKind::Container => "container",
            RecordKind::Network => "network",
            RecordKind::Volume => "volume",
        }
    }

    /// Where the journal has them.
    fn prefix(self) -> String {
        format!("{}/", self.as_str())
    }
}

/// Something that this version does not understand. It is listed and left alone.
pub struct Unknown {
    pub kind: RecordKind,
    /// The key in the journal, or the directory's name.
    pub id: String,
    pub name: String,
    /// The record, as far as it is JSON.
    pub record: Value,
    why: String,
    /// Of a container that runs: its monitor brings no other engine back while it has this one.
    monitor: Mutex<UnknownMonitor>,
    /// Somebody removes it.
    removing: AtomicBool,
}

/// The monitor of a container that is not understood.
#[derive(Clone)]
enum UnknownMonitor {
    Linked(Arc<MonitorLink>),
    /// It is there, and has not taken a connection yet.
    Silent,
    Gone,
}

/// How often a monitor that takes no connection is asked again.
const ASKED_AGAIN: Duration = Duration::from_secs(5);

impl From<Reached> for UnknownMonitor {
    fn from(reached: Reached) -> Self {
        match reached {
            Reached::Monitor(link) => UnknownMonitor::Linked(Arc::new(link)),
            Reached::Silent => UnknownMonitor::Silent,
            Reached::Nobody => UnknownMonitor::Gone,
        }
    }
}

/// The understood parts of a container's record, each field by itself.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct KnownParts {
    #[serde(deserialize_with = "lenient")]
    pub created_at: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub image_id: String,
    #[serde(deserialize_with = "lenient")]
    pub spec: KnownSpec,
}

/// The understood parts of its specification.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct KnownSpec {
    #[serde(deserialize_with = "lenient")]
    pub image: String,
    #[serde(deserialize_with = "lenient")]
    pub labels: IndexMap<String, String>,
}

/// A value of another form is the default.
fn lenient<'de, T: DeserializeOwned + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Value::deserialize(deserializer).map(|value| serde_json::from_value(value).unwrap_or_default())
}

impl Unknown {
    /// The understood parts of a container's record.
    pub fn known(&self) -> KnownParts {
        KnownParts::deserialize(&self.record).unwrap_or_default()
    }

    fn new(kind: RecordKind, id: String, text: Option<&str>, why: String) -> Self {
        let record: Value = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let name = record["name"].as_str().map_or_else(|| id.chars().take(12).collect(), str::to_string);
        Unknown { kind, id, name, record, why, monitor: Mutex::new(UnknownMonitor::Gone), removing: AtomicBool::new(false) }
    }

    pub fn runs(&self) -> bool {
        !matches!(*locked(&self.monitor), UnknownMonitor::Gone)
    }

    /// Waits for the end of a container.
    async fn watch(&self, run_directory: &Path) {
        loop {
            let monitor = locked(&self.monitor).clone();
            let next = match monitor {
                UnknownMonitor::Gone => return,
                UnknownMonitor::Silent => {
                    tokio::time::sleep(ASKED_AGAIN).await;
                    MonitorLink::reach(run_directory).into()
                }
                UnknownMonitor::Linked(link) => {
                    // One whose container has ended before says so.
                    let _ = link.send(&MonitorRequest::Status, &[]);
                    while let Ok(Some((event, _))) = link.receive().await {
                        if matches!(event, MonitorEvent::Exited(_) | MonitorEvent::Failed { .. }) {
                            // How it ended is written down, for the version that knows it.
                            let _ = link.send(&MonitorRequest::Goodbye, &[]);
                            break;
                        }
                    }
                    UnknownMonitor::Gone
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
        let remove = if self.kind == RecordKind::Container { ", or remove it with --force, files and all" } else { "" };
        EngineError::Conflict(format!(
            "the {} {} is unknown to this version and left alone: {}; use the version that made it{remove}",
            self.kind.as_str(),
            self.name,
            self.why
        ))
    }
}

impl Recovery {
    pub fn of(found: &FoundJournal) -> Self {
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

    fn report_damage(&self) {
        let found = std::mem::take(&mut *locked(&self.found_again));
        for kind in [RecordKind::Container, RecordKind::Network, RecordKind::Volume] {
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

    fn has(&self, kind: RecordKind, id: &str) -> bool {
        locked(&self.unknown).iter().any(|unknown| unknown.kind == kind && unknown.id == id)
    }
}

impl StateStore {
    /// Damage of the state, in words.
    pub fn warnings(&self) -> Vec<String> {
        locked(&self.recovery.warnings).clone()
    }

    /// The same, once: for the first command that asks.
    pub fn unreported_warnings(&self) -> Vec<String> {
        if self.recovery.unreported.swap(false, Ordering::AcqRel) { self.warnings() } else { Vec::new() }
    }

    /// Things that are there and not understood.
    pub fn unknown(&self, kind: RecordKind) -> Vec<Arc<Unknown>> {
        locked(&self.recovery.unknown).iter().filter(|unknown| unknown.kind == kind).cloned().collect()
    }

    /// The unknown thing of a name, id or beginning of an id.
    pub fn find_unknown(&self, kind: RecordKind, name: &str) -> Option<Arc<Unknown>> {
        let name = name.trim_start_matches('/');
        self.unknown(kind).into_iter().find(|unknown| unknown.is_called(name))
    }

    /// Refuses to do anything with what is not understood.
    ///
    /// # Errors
    /// A sentence about it and the remedy.
    pub(super) fn refuse_unknown(&self, kind: RecordKind, name: &str) -> Result<(), EngineError> {
        self.find_unknown(kind, name).map_or(Ok(()), |unknown| Err(unknown.refusal()))
    }

    /// Refuses to remove what a container that is not understood may use.
    ///
    /// # Errors
    /// Which container that is.
    pub(super) fn refuse_use_by_unknown(&self, what: &str, names: &[&str]) -> Result<(), EngineError> {
        let user = self.unknown(RecordKind::Container).into_iter().find(|unknown| names.iter().any(|name| unknown.may_use(name)));
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
                "nothing is pruned, since it is not known what the unknown {} {} needs: see `wharf system check`",
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
            if let UnknownMonitor::Linked(link) = &*locked(&unknown.monitor) {
                let _ = link.send(&MonitorRequest::Goodbye, &[]);
            }
        }
    }

    /// Keeps a container that is not understood, and notices its end.
    fn add_unknown_container(&self, unknown: Unknown, reached: Reached) {
        let run_directory = self.config.run_directory(&unknown.id);
        *locked(&unknown.monitor) = reached.into();
        let unknown = Arc::new(unknown);
        self.recovery.add(unknown.clone());
        if unknown.runs() {
            tokio::spawn(async move { unknown.watch(&run_directory).await });
        }
    }
}

impl Engine {
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
        for group in own.into_iter().chain(self.launcher.groups.strays(&unknown.id)) {
            self.launcher.groups.end(&group).await;
            // What is left would go on writing to files that are being removed.
            if !self.launcher.groups.hierarchy.remove(&group) {
                return Err(EngineError::Conflict(format!(
                    "the container {} has processes that were killed and have not ended: remove it when they have",
                    unknown.name
                )));
            }
        }
        let doing = || EngineError::io(format!("removing the files of {}", unknown.name));
        let removal = directories::DirectoryRemoval::begin(&self.config.container_directory(&unknown.id)).map_err(doing())?;
        if let Err(error) = self.state.journal.delete(&format!("container/{}", unknown.id)) {
            removal.undo();
            return Err(state_error(error));
        }
        locked(&self.state.recovery.unknown).retain(|known| known.kind != RecordKind::Container || known.id != unknown.id);
        let _ = remove_files(&self.config.run_directory(&unknown.id));
        let finished = removal.finish().map_err(doing());
        self.networks.remove_unused(DEFAULT_NETWORK);
        finished
    }
}

/// Whether a name is an id as wharf gives them.
pub(super) fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}
