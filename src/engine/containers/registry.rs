//! The registry of containers by id and by name, and reservations of what an operation is about to use.

use super::container::Container;
use crate::engine::error::{EngineError, state_error};
use crate::engine::events::Events;
use crate::engine::locked;
use crate::engine::record::{ContainerRecord, Status, Transition};
use crate::engine::recovery::RecordKind;
use crate::engine::state::StateStore;
use crate::engine::state::journal::Room;
use crate::image::keyed_mutex::KeyedMutex;
use indexmap::IndexMap;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex};
use tokio::sync::watch;

/// Every container, oldest first, and every change of a record. A name belongs to one container, or to one that is being made.
pub struct Containers {
    pub(super) state: Arc<StateStore>,
    events: Arc<Events>,
    known: Mutex<KnownContainers>,
    /// Held by whoever runs the `pre_start` hooks of a service.
    pub(in crate::engine) preparing: KeyedMutex,
    /// Whether all that an earlier engine has left is taken over.
    pub(in crate::engine) adopted: watch::Sender<bool>,
}

#[derive(Default)]
struct KnownContainers {
    by_id: IndexMap<String, Arc<Container>>,
    by_name: HashMap<String, Holder>,
}

/// The holder of a name.
#[derive(PartialEq)]
enum Holder {
    Reserved,
    Container(String),
}

/// A name that nobody else gets; it is free again when this is dropped before a container has it.
pub(in crate::engine) struct NameReservation<'a> {
    containers: &'a Containers,
    name: String,
}

impl Drop for NameReservation<'_> {
    fn drop(&mut self) {
        let mut known = locked(&self.containers.known);
        if known.by_name.get(&self.name) == Some(&Holder::Reserved) {
            known.by_name.remove(&self.name);
        }
    }
}

impl Containers {
    pub(in crate::engine) fn new(state: Arc<StateStore>, events: Arc<Events>) -> Self {
        Containers {
            state,
            events,
            known: Mutex::default(),
            preparing: KeyedMutex::default(),
            adopted: watch::Sender::new(false),
        }
    }

    pub fn all(&self) -> Vec<Arc<Container>> {
        locked(&self.known).by_id.values().cloned().collect()
    }

    pub(in crate::engine) fn contains(&self, id: &str) -> bool {
        locked(&self.known).by_id.contains_key(id)
    }

    /// A container by its name, its id or the beginning of its id.
    ///
    /// # Errors
    /// When there is none, or an abbreviation means several.
    pub fn find(&self, name: &str) -> Result<Arc<Container>, EngineError> {
        let name = name.trim_start_matches('/');
        self.find_known(name).or_else(|error| {
            self.state.refuse_unknown(RecordKind::Container, name)?;
            Err(error)
        })
    }

    fn find_known(&self, name: &str) -> Result<Arc<Container>, EngineError> {
        let known = locked(&self.known);
        if let Some(container) = known.by_id.get(name) {
            return Ok(container.clone());
        }
        if let Some(Holder::Container(id)) = known.by_name.get(name)
            && let Some(container) = known.by_id.get(id)
        {
            return Ok(container.clone());
        }
        let mut matching = known.by_id.iter().filter(|(id, _)| !name.is_empty() && id.starts_with(name));
        match (matching.next(), matching.next()) {
            (Some((_, container)), None) => Ok(container.clone()),
            (Some(_), Some(_)) => Err(EngineError::Invalid(format!("`{name}` is the beginning of several containers' ids"))),
            (None, _) => Err(EngineError::no_container(name)),
        }
    }

    /// Takes a name for a container that is about to be made or renamed.
    ///
    /// # Errors
    /// When another has it.
    pub(in crate::engine) fn reserve(&self, name: &str) -> Result<NameReservation<'_>, EngineError> {
        let mut known = locked(&self.known);
        match known.by_name.get(name) {
            Some(Holder::Container(id)) => Err(EngineError::Conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
            ))),
            Some(Holder::Reserved) => Err(EngineError::Conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container that is being made or renamed"
            ))),
            None => {
                known.by_name.insert(name.to_string(), Holder::Reserved);
                Ok(NameReservation { containers: self, name: name.to_string() })
            }
        }
    }

    /// Makes a new container known, by the name that it has reserved.
    pub(in crate::engine) fn insert(&self, container: Arc<Container>, name: NameReservation<'_>) {
        let mut known = locked(&self.known);
        known.by_name.insert(name.name.clone(), Holder::Container(container.id.clone()));
        known.by_id.insert(container.id.clone(), container);
    }

    /// Makes a container of an earlier engine known. Of two of one name, which an older version could make, the first has it.
    pub(in crate::engine) fn restore(&self, container: Arc<Container>) {
        let name = container.name();
        let mut known = locked(&self.known);
        known.by_name.entry(name).or_insert_with(|| Holder::Container(container.id.clone()));
        known.by_id.insert(container.id.clone(), container);
    }

    /// Gives a container the name that was reserved for it, and frees its old one.
    pub(in crate::engine) fn rename(&self, container: &Container, old: &str, name: NameReservation<'_>) {
        let mut known = locked(&self.known);
        let holder = Holder::Container(container.id.clone());
        if known.by_name.get(old) == Some(&holder) {
            known.by_name.remove(old);
        }
        known.by_name.insert(name.name.clone(), holder);
    }

    /// Forgets a container, and frees its name.
    pub(in crate::engine) fn remove(&self, container: &Container) {
        let name = container.name();
        let mut known = locked(&self.known);
        known.by_id.shift_remove(&container.id);
        if known.by_name.get(&name) == Some(&Holder::Container(container.id.clone())) {
            known.by_name.remove(&name);
        }
    }
}

impl Containers {
    /// Keeps a record of what has happened already. Where the disk is full, it is in memory until there is room.
    fn keep_what_happened(&self, record: &ContainerRecord, room: Room) {
        if let Err(error) = self.state.journal.put_anyway(&format!("container/{}", record.id), record, room) {
            tracing::error!("writing the state of container {}: {error}; it is written when that can be", record.name);
            self.state.owing.notify_one();
        }
    }

    /// Changes a container's record, keeps it, and wakes whoever waits for it. What was removed is not kept. On a full disk the
    /// end of a container is written, and everything else is in memory until there is room.
    pub(in crate::engine) fn update<T>(&self, container: &Container, change: impl FnOnce(&mut ContainerRecord) -> T) -> T {
        let result = {
            let mut record = locked(&container.record);
            let was_alive = record.state.status().is_alive();
            let result = change(&mut record);
            let ends = was_alive && !record.state.status().is_alive();
            if record.state.status() != Status::Removing {
                self.keep_what_happened(&record, if ends { Room::Ending } else { Room::Ordinary });
            }
            result
        };
        container.changed.send_modify(|count| *count += 1);
        result
    }

    /// Notes what has happened to a container, and emits Docker's events of it.
    pub(in crate::engine) fn transition(&self, container: &Container, transition: &Transition<'_>) {
        self.update(container, |record| record.apply(transition));
        self.emit_transition(container, transition);
    }

    pub(in crate::engine) fn emit_transition(&self, container: &Container, transition: &Transition<'_>) {
        for (action, attributes) in transition.events() {
            self.emit(container, action, &attributes);
        }
    }

    /// A container could not be stopped: as long as it runs, it is restarted as before.
    pub(in crate::engine) fn take_back_stop(&self, container: &Container, was_stopped: bool) {
        self.update(container, |record| record.take_back_stop(was_stopped));
    }

    /// The user wants a container to run which does: a stop that has not ended it, such as a signal that it ignores, is taken
    /// back, so that it is restarted as before. The caller holds its guard.
    ///
    /// # Errors
    /// As [`Containers::change`].
    pub(in crate::engine) fn take_back_stale_stop(&self, container: &Container) -> Result<(), EngineError> {
        if container.with_record(|record| record.stopped_by_user && record.state.status().has_process()) {
            self.change(container, |record| record.take_back_stop(false))?;
        }
        Ok(())
    }

    /// The same, unless somebody starts or stops it at this moment: it is left to them.
    ///
    /// # Errors
    /// As [`Containers::change`].
    pub fn take_back_stale_stop_of(&self, id: &str) -> Result<(), EngineError> {
        let Ok(container) = self.find(id) else { return Ok(()) };
        let Some(_guard) = container.try_begin_operation() else { return Ok(()) };
        self.take_back_stale_stop(&container)
    }

    /// Changes a container's record as a user has asked for, and wakes whoever waits for it.
    ///
    /// # Errors
    /// The disk's, or that it was removed meanwhile; nothing is changed then.
    pub(in crate::engine) fn change<T>(
        &self,
        container: &Container,
        change: impl FnOnce(&mut ContainerRecord) -> T,
    ) -> Result<T, EngineError> {
        let result = {
            let mut record = locked(&container.record);
            if record.state.status() == Status::Removing {
                return Err(EngineError::no_container(&record.name));
            }
            let mut changed = record.clone();
            let result = change(&mut changed);
            self.state.journal.put_within(&format!("container/{}", container.id), &changed, Room::Ending).map_err(state_error)?;
            *record = changed;
            result
        };
        container.changed.send_modify(|count| *count += 1);
        Ok(result)
    }

    /// An event about a container, with its labels and further attributes.
    pub(crate) fn emit(&self, container: &Container, action: &str, extra: &[(&str, String)]) {
        let record = locked(&container.record);
        let mut attributes = record.spec.labels.clone();
        attributes.insert("image".into(), record.spec.image.clone());
        attributes.insert("name".into(), record.name.clone());
        attributes.extend(extra.iter().map(|(k, v)| ((*k).to_string(), v.clone())));
        self.events.emit("container", action, &record.id, attributes);
    }
}

/// Names of things of which one at a time may be made or removed: who comes second waits. What is done meanwhile is short.
#[derive(Default)]
pub(in crate::engine) struct NameReservations {
    taken: Mutex<HashSet<String>>,
    freed: Condvar,
}

/// A name that nobody else takes while this lives.
pub(in crate::engine) struct ReservedName<'a> {
    of: &'a NameReservations,
    name: String,
}

impl NameReservations {
    pub fn reserve(&self, name: &str) -> ReservedName<'_> {
        let taken = locked(&self.taken);
        let mut taken = self.freed.wait_while(taken, |taken| taken.contains(name)).unwrap_or_else(|e| e.into_inner());
        taken.insert(name.to_string());
        ReservedName { of: self, name: name.to_string() }
    }
}

impl Drop for ReservedName<'_> {
    fn drop(&mut self) {
        locked(&self.of.taken).remove(&self.name);
        self.of.freed.notify_all();
    }
}

/// Names of things that are about to be used: they are not removed, though no record tells yet that they are needed.
#[derive(Default)]
pub(in crate::engine) struct Uses(Mutex<HashMap<String, usize>>);

/// A name that is in use while this lives.
pub(in crate::engine) struct NameUse<'a> {
    of: &'a Uses,
    name: String,
}

impl Uses {
    pub fn announce(&self, name: &str) -> NameUse<'_> {
        *locked(&self.0).entry(name.to_string()).or_default() += 1;
        NameUse { of: self, name: name.to_string() }
    }

    pub fn are_announced(&self, name: &str) -> bool {
        locked(&self.0).contains_key(name)
    }
}

impl Drop for NameUse<'_> {
    fn drop(&mut self) {
        let mut uses = locked(&self.of.0);
        if let Some(count) = uses.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                uses.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, name: &str) -> Arc<Container> {
        let text = format!(
            r#"{{"id": "{id}", "name": "{name}", "created_at": "2026-01-01T00:00:00Z", "image_id": "", "layers": [], "spec": {{}}, "state": {{}}}}"#
        );
        Container::new(serde_json::from_str(&text).expect("record"))
    }

    fn registry(directory: &std::path::Path) -> Containers {
        let config =
            crate::engine::Config { data_root: directory.into(), run_root: directory.into(), listening: Default::default() };
        Containers::new(Arc::new(StateStore::open(Arc::new(config)).expect("journal")), Arc::default())
    }

    #[test]
    fn a_name_has_one_holder() {
        let directory = tempfile::tempdir().expect("directory");
        let containers = registry(directory.path());
        let reserved = containers.reserve("a").expect("free");
        assert!(matches!(containers.reserve("a"), Err(EngineError::Conflict(_))));
        assert!(containers.find("a").is_err(), "there is no container yet");
        drop(reserved);
        containers.insert(container("id-of-the-first", "a"), containers.reserve("a").expect("free again"));
        assert_eq!(containers.find("a").expect("by name").id, "id-of-the-first");
        assert_eq!(containers.find("id-of-t").expect("by abbreviation").id, "id-of-the-first");
        let error = containers.reserve("a").err().expect("taken");
        assert!(error.to_string().contains("id-of-the-fi"), "{error}");
        let first = containers.find("a").expect("container");
        containers.rename(&first, "a", containers.reserve("b").expect("free"));
        drop(containers.reserve("a").expect("the old name is free"));
        assert!(containers.reserve("b").is_err());
        first.record.lock().expect("lock").name = "b".into();
        containers.remove(&first);
        assert!(containers.reserve("b").is_ok() && !containers.contains("id-of-the-first"));
    }

    #[test]
    fn of_two_with_one_name_the_first_has_it() {
        let directory = tempfile::tempdir().expect("directory");
        let containers = registry(directory.path());
        containers.restore(container("one", "same"));
        containers.restore(container("two", "same"));
        assert_eq!(containers.find("same").expect("container").id, "one");
        containers.remove(&containers.find("two").expect("by id"));
        assert_eq!(containers.find("same").expect("container").id, "one");
    }

    #[test]
    fn a_reservation_is_waited_for() {
        let names = Arc::new(NameReservations::default());
        let held = names.reserve("a");
        drop(names.reserve("b"));
        let (waiting, order) = (names.clone(), Arc::new(Mutex::new(Vec::new())));
        let theirs = order.clone();
        let other = std::thread::spawn(move || {
            let _second = waiting.reserve("a");
            locked(&theirs).push("second");
        });
        locked(&order).push("first");
        drop(held);
        other.join().expect("thread");
        assert_eq!(*locked(&order), ["first", "second"]);
    }
}
