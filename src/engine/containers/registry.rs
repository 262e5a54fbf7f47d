//! Which containers there are, by id and by name, and what nobody may remove since somebody is about to use it.

use super::container::Container;
use crate::engine::error::EngineError;
use crate::engine::locked;
use indexmap::IndexMap;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex};

/// Every container, oldest first. A name belongs to one container, or to one that is being made.
#[derive(Default)]
pub(in crate::engine) struct Containers(Mutex<Known>);

#[derive(Default)]
struct Known {
    by_id: IndexMap<String, Arc<Container>>,
    by_name: HashMap<String, Holder>,
}

/// Who has a name.
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
        let mut known = locked(&self.containers.0);
        if known.by_name.get(&self.name) == Some(&Holder::Reserved) {
            known.by_name.remove(&self.name);
        }
    }
}

impl Containers {
    pub fn all(&self) -> Vec<Arc<Container>> {
        locked(&self.0).by_id.values().cloned().collect()
    }

    pub fn contains(&self, id: &str) -> bool {
        locked(&self.0).by_id.contains_key(id)
    }

    /// A container by its name, its id or the beginning of its id.
    ///
    /// # Errors
    /// When there is none, or an abbreviation means several.
    pub fn find(&self, name: &str) -> Result<Arc<Container>, EngineError> {
        let known = locked(&self.0);
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
    pub fn reserve(&self, name: &str) -> Result<NameReservation<'_>, EngineError> {
        let mut known = locked(&self.0);
        match known.by_name.get(name) {
            Some(Holder::Container(id)) => {
                Err(EngineError::Conflict(format!("the name {name} is taken by the container {}", &id[..12.min(id.len())])))
            }
            Some(Holder::Reserved) => {
                Err(EngineError::Conflict(format!("the name {name} is taken by a container that is being made")))
            }
            None => {
                known.by_name.insert(name.to_string(), Holder::Reserved);
                Ok(NameReservation { containers: self, name: name.to_string() })
            }
        }
    }

    /// Makes a new container known, by the name that it has reserved.
    pub fn insert(&self, container: Arc<Container>, name: NameReservation<'_>) {
        let mut known = locked(&self.0);
        known.by_name.insert(name.name.clone(), Holder::Container(container.id.clone()));
        known.by_id.insert(container.id.clone(), container);
    }

    /// Makes a container of an earlier engine known. Of two of one name, which an older version could make, the first has it.
    pub fn restore(&self, container: Arc<Container>) {
        let name = container.name();
        let mut known = locked(&self.0);
        known.by_name.entry(name).or_insert_with(|| Holder::Container(container.id.clone()));
        known.by_id.insert(container.id.clone(), container);
    }

    /// Gives a container the name that was reserved for it, and frees its old one.
    pub fn rename(&self, container: &Container, old: &str, name: NameReservation<'_>) {
        let mut known = locked(&self.0);
        let holder = Holder::Container(container.id.clone());
        if known.by_name.get(old) == Some(&holder) {
            known.by_name.remove(old);
        }
        known.by_name.insert(name.name.clone(), holder);
    }

    /// Forgets a container, and frees its name.
    pub fn remove(&self, container: &Container) {
        let name = container.name();
        let mut known = locked(&self.0);
        known.by_id.shift_remove(&container.id);
        if known.by_name.get(&name) == Some(&Holder::Container(container.id.clone())) {
            known.by_name.remove(&name);
        }
    }
}

/// Names of things of which one at a time may be made or removed: who comes second waits. What is done meanwhile is short.
#[derive(Default)]
pub(in crate::engine) struct Reservations {
    taken: Mutex<HashSet<String>>,
    freed: Condvar,
}

pub(in crate::engine) struct Reservation<'a> {
    of: &'a Reservations,
    name: String,
}

impl Reservations {
    pub fn reserve(&self, name: &str) -> Reservation<'_> {
        let taken = locked(&self.taken);
        let mut taken = self.freed.wait_while(taken, |taken| taken.contains(name)).unwrap_or_else(|e| e.into_inner());
        taken.insert(name.to_string());
        Reservation { of: self, name: name.to_string() }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        locked(&self.of.taken).remove(&self.name);
        self.of.freed.notify_all();
    }
}

/// Names of things that are about to be used: they are not removed, though no record tells yet that they are needed.
#[derive(Default)]
pub(in crate::engine) struct Uses(Mutex<HashMap<String, usize>>);

pub(in crate::engine) struct Use<'a> {
    of: &'a Uses,
    name: String,
}

impl Uses {
    pub fn announce(&self, name: &str) -> Use<'_> {
        *locked(&self.0).entry(name.to_string()).or_default() += 1;
        Use { of: self, name: name.to_string() }
    }

    pub fn are_announced(&self, name: &str) -> bool {
        locked(&self.0).contains_key(name)
    }
}

impl Drop for Use<'_> {
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

    #[test]
    fn a_name_has_one_holder() {
        let containers = Containers::default();
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
        let containers = Containers::default();
        containers.restore(container("one", "same"));
        containers.restore(container("two", "same"));
        assert_eq!(containers.find("same").expect("container").id, "one");
        containers.remove(&containers.find("two").expect("by id"));
        assert_eq!(containers.find("same").expect("container").id, "one");
    }

    #[test]
    fn a_reservation_is_waited_for() {
        let names = Arc::new(Reservations::default());
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
