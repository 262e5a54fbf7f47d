//! Docker's events, and notifications that a log has grown.

use super::images::build::is_build_id;
use indexmap::IndexMap;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, broadcast};

/// An event in the form of Docker's API.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    #[serde(rename = "Type")]
    pub kind: &'static str,
    #[serde(rename = "Action")]
    pub action: String,
    #[serde(rename = "Actor")]
    pub actor: Actor,
    pub scope: &'static str,
    /// Seconds and nanoseconds since 1970.
    pub time: i64,
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// `Actor` of an event.
#[derive(Clone, Debug, Serialize)]
pub struct Actor {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "Attributes")]
    pub attributes: IndexMap<String, String>,
}

/// How many events are kept for who asks what has been: Docker's number.
const KEPT: usize = 256;

/// The subscribers of events, and the last events.
pub struct Events {
    listeners: broadcast::Sender<Arc<Event>>,
    last: Mutex<VecDeque<Arc<Event>>>,
    /// Whoever follows a log waits for its growth here.
    pub logs: LogWatcher,
}

impl Default for Events {
    fn default() -> Self {
        Events { listeners: broadcast::Sender::new(1024), last: Mutex::default(), logs: LogWatcher::default() }
    }
}

impl Events {
    pub fn emit(&self, kind: &'static str, action: impl Into<String>, id: &str, attributes: IndexMap<String, String>) {
        // Containers and the network of builds are nobody's business.
        if is_build_id(id) || attributes.get("container").is_some_and(|id| is_build_id(id)) {
            return;
        }
        self.publish(Event::now(kind, action.into(), id, attributes));
    }

    /// That unused things of a kind were removed.
    pub fn emit_prune(&self, kind: &'static str, bytes: u64) {
        self.emit(kind, "prune", "", [("reclaimed".to_string(), bytes.to_string())].into());
    }

    /// An event about an image under a name.
    pub fn emit_image(&self, action: &str, id: &crate::image::Digest, name: &crate::image::ImageRef) {
        self.emit("image", action, id.as_str(), [("name".to_string(), name.familiar())].into());
    }

    /// An event about an image by its id, whatever its names.
    pub fn emit_image_id(&self, action: &str, id: &crate::image::Digest) {
        self.emit("image", action, id.as_str(), [("name".to_string(), id.to_string())].into());
    }

    fn publish(&self, event: Event) {
        let event = Arc::new(event);
        let mut last = super::locked(&self.last);
        if last.len() == KEPT {
            last.pop_front();
        }
        last.push_back(event.clone());
        // Under the lock: who subscribes has each event once, as one that was or as one that comes.
        let _ = self.listeners.send(event);
    }

    /// The last events, and those from now on.
    pub fn subscribe(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let last = super::locked(&self.last);
        (last.iter().cloned().collect(), self.listeners.subscribe())
    }
}

impl Event {
    pub fn now(kind: &'static str, action: String, id: &str, attributes: IndexMap<String, String>) -> Self {
        let now = jiff::Timestamp::now();
        let time_nano = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
        Event { kind, action, actor: Actor { id: id.into(), attributes }, scope: "local", time: now.as_second(), time_nano }
    }
}

/// Watched directories: whom to notify, and how many watch each.
type WatchedDirectories = HashMap<PathBuf, (Arc<Notify>, usize)>;

/// Tells readers that a log has grown: one inotify instance for all logs that are followed.
pub struct LogWatcher {
    inner: Mutex<Option<notify::RecommendedWatcher>>,
    waiting: Arc<Mutex<WatchedDirectories>>,
}

impl Default for LogWatcher {
    fn default() -> Self {
        LogWatcher { inner: Mutex::new(None), waiting: Arc::default() }
    }
}

/// A directory that is watched as long as this lives.
pub struct Watch<'a> {
    watcher: &'a LogWatcher,
    directory: PathBuf,
    pub changed: Arc<Notify>,
}

impl LogWatcher {
    /// Watches the directory of a log.
    ///
    /// # Errors
    /// When inotify has no watches left (`fs.inotify.max_user_watches`).
    pub fn watch(&self, directory: &Path) -> notify::Result<Watch<'_>> {
        use notify::Watcher;
        let mut inner = self.inner.lock().unwrap_or_else(|e| e.into_inner());
        if inner.is_none() {
            let waiting = self.waiting.clone();
            let tell = move |event: notify::Result<notify::Event>| {
                let waiting = waiting.lock().unwrap_or_else(|e| e.into_inner());
                for path in event.iter().flat_map(|event| &event.paths) {
                    if let Some((changed, _)) = waiting.get(path).or_else(|| path.parent().and_then(|p| waiting.get(p))) {
                        changed.notify_waiters();
                    }
                }
            };
            *inner = Some(notify::recommended_watcher(tell)?);
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(|e| e.into_inner());
        let entry = waiting.entry(directory.to_path_buf()).or_insert_with(|| (Arc::new(Notify::new()), 0));
        entry.1 += 1;
        let changed = entry.0.clone();
        let first = entry.1 == 1;
        drop(waiting);
        if let Some(watcher) = inner.as_mut().filter(|_| first) {
            watcher.watch(directory, notify::RecursiveMode::NonRecursive)?;
        }
        Ok(Watch { watcher: self, directory: directory.to_path_buf(), changed })
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        use notify::Watcher;
        let mut inner = self.watcher.inner.lock().unwrap_or_else(|e| e.into_inner());
        let mut waiting = self.watcher.waiting.lock().unwrap_or_else(|e| e.into_inner());
        let Some(entry) = waiting.get_mut(&self.directory) else { return };
        entry.1 -= 1;
        if entry.1 == 0 {
            waiting.remove(&self.directory);
            drop(waiting);
            if let Some(watcher) = inner.as_mut() {
                let _ = watcher.unwatch(&self.directory);
            }
        }
    }
}
