//! The engine: owns every decision and all state.
//!
//! [`record`] is what is known, [`state`] how it survives; [`containers`] finds, starts, supervises and removes them, [`launch`]
//! makes what a monitor starts from; [`projects`] executes plans; [`recovery`] takes over what an earlier engine left;
//! [`process`] is the process itself.
//!
//! Locks are taken in this order: a project's turn, a container's turn, networks, the registry of containers, a container's record,
//! what lives beside it, the journal.

pub mod containers;
pub mod error;
pub mod events;
mod images;
pub mod launch;
pub mod networks;
pub mod process;
pub mod projects;
pub mod record;
pub mod recovery;
mod state;
pub mod volumes;

pub use containers::container::Container;
pub use error::EngineError;
pub use events::Event;

use crate::image::Store;
use crate::image::registry::Registry;
use crate::image::turns::Turns;
use crate::network::dns::Names;
use crate::network::firewall::Firewall;
use crate::runtime::cgroup::Hierarchy;
use crate::runtime::scope::Scope;
use indexmap::IndexMap;
use record::{ContainerRecord, NetworkRecord, Status, Transition, VolumeRecord};
use state::journal::{Journal, Room};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

/// Where an engine keeps its things. Two engines with different roots know nothing of each other.
#[derive(Clone, Debug)]
pub struct Config {
    /// Images, volumes, containers, state: survives a reboot. `/var/lib/wharf` by default.
    pub data_root: PathBuf,
    /// Sockets and locks: `/run/wharf` by default.
    pub run_root: PathBuf,
}

pub struct Engine {
    pub config: Config,
    pub images: Arc<Store>,
    pub registry: Registry,
    journal: Journal,
    recovery: recovery::Recovery,
    cgroups: Hierarchy,
    /// The part of them that systemd has delegated, where it does.
    scope: Option<Scope>,
    firewall: Arc<Firewall>,
    flows: Arc<networks::Flows>,
    names: Arc<Names>,
    containers: containers::registry::Containers,
    networks: Mutex<IndexMap<String, NetworkRecord>>,
    volumes: Mutex<IndexMap<String, VolumeRecord>>,
    /// Names of volumes that are being made or removed.
    volume_names: containers::registry::Reservations,
    /// Names of volumes and networks that a container which is being made is about to have.
    volume_uses: containers::registry::Uses,
    network_uses: containers::registry::Uses,
    /// Who changes which project.
    projects: projects::Queues,
    execs: containers::exec::Execs,
    pub events: events::Events,
    /// This program, from a read-only mount of its own: what monitors and, in them, containers' first processes run.
    program: OwnedFd,
    /// The AppArmor profile of containers that name none, once it has been looked for.
    apparmor: std::sync::OnceLock<Option<String>>,
    /// Compiled seccomp profiles, by the capabilities that decide them.
    seccomp: Mutex<HashMap<u64, Vec<[u32; 2]>>>,
    /// The limit of open files that the engine was started with: soft, hard.
    nofile: (u64, u64),
    /// Of the next exec, and of the next interface. It begins where no earlier engine can have come, whose execs may still run:
    /// at the nanoseconds since the machine's start.
    next_number: AtomicU64,
    /// The processes that were started beside containers, and are this one's children.
    monitors: Mutex<std::collections::HashSet<i32>>,
    /// How many containers are started at once: more would only wait for each other in the kernel.
    starting: tokio::sync::Semaphore,
    /// Held by whoever pulls an image: another who wants the same one waits, and finds it there.
    pulls: Turns,
    /// By whoever mounts a volume that is a file system of its own.
    mounting: Turns,
    /// By whoever runs the `pre_start` hooks of a service.
    preparing: Turns,
    /// The same of builds' steps.
    steps: Turns,
    stopping: watch::Sender<bool>,
    /// What the journal could not take is to be written again.
    owing: tokio::sync::Notify,
    /// The host goes down: nothing is restarted any more.
    going_down: std::sync::atomic::AtomicBool,
    /// How many steps of builds are on the builds' network.
    build_network_users: Mutex<usize>,
    /// Digests of what builds have copied.
    contents: crate::image::build::files::Contents,
    watcher: crate::engine::events::LogWatcher,
}

/// The flag of an engine that a monitor starts.
pub const REVIVED: &str = "--revived";

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Engine {
    /// Keeps a record of what has happened already. Where the disk is full, it is in memory until there is room.
    fn keep_what_happened(&self, record: &ContainerRecord, room: Room) {
        if let Err(error) = self.journal.put_anyway(&format!("container/{}", record.id), record, room) {
            tracing::error!("writing the state of container {}: {error}; it is written when that can be", record.name);
            self.owing.notify_one();
        }
    }

    /// Changes a container's record, keeps it, and wakes whoever waits for it. What was removed is not kept. On a full disk the
    /// end of a container is written, and everything else is in memory until there is room.
    fn update<T>(&self, container: &Container, change: impl FnOnce(&mut ContainerRecord) -> T) -> T {
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
    fn transition(&self, container: &Container, transition: &Transition<'_>) {
        self.update(container, |record| record.apply(transition));
        self.emit_transition(container, transition);
    }

    fn emit_transition(&self, container: &Container, transition: &Transition<'_>) {
        for (action, attributes) in transition.events() {
            self.emit_container(container, action, &attributes);
        }
    }

    fn container_directory(&self, id: &str) -> PathBuf {
        self.config.data_root.join("containers").join(id)
    }

    /// Its /etc/hosts, /etc/hostname and /etc/resolv.conf. The container may write them, so they are where its layer is, and limited
    /// with it: a tmpfs of the host's could be filled.
    fn etc_directory(&self, id: &str) -> PathBuf {
        self.container_directory(id).join("etc")
    }

    /// Where what a container has written is: its own layer.
    pub fn written_by(&self, id: &str) -> PathBuf {
        self.container_directory(id).join("upper")
    }

    /// What its monitor writes at its end.
    fn exit_file(&self, id: &str) -> PathBuf {
        self.container_directory(id).join("exit.json")
    }

    fn run_directory(&self, id: &str) -> PathBuf {
        self.config.run_root.join("containers").join(id)
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.container_directory(id).join("log")
    }

    /// Where what a container writes can be read as it comes: its log or, with the driver `none`, the last of it in memory (the
    /// run root is a tmpfs), for who attaches.
    pub fn output_path(&self, record: &ContainerRecord) -> PathBuf {
        if record.spec.log.none { self.run_directory(&record.id).join("output/log") } else { self.log_path(&record.id) }
    }

    /// How a monitor brings an engine back: this program with this engine's roots.
    fn revive_arguments(&self) -> Vec<String> {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        vec![
            "wharf".into(),
            "--data-root".into(),
            text(&self.config.data_root),
            "--run-root".into(),
            text(&self.config.run_root),
            "engine".into(),
            "--background".into(),
            REVIVED.into(),
        ]
    }

    /// Changes a container's record as a user has asked for, and wakes whoever waits for it.
    ///
    /// # Errors
    /// The disk's, or that it was removed meanwhile; nothing is changed then.
    fn change<T>(&self, container: &Container, change: impl FnOnce(&mut ContainerRecord) -> T) -> Result<T, EngineError> {
        let result = {
            let mut record = locked(&container.record);
            if record.state.status() == Status::Removing {
                return Err(EngineError::no_container(&record.name));
            }
            let mut changed = record.clone();
            let result = change(&mut changed);
            self.journal
                .put_within(&format!("container/{}", container.id), &changed, Room::Ending)
                .map_err(error::state_error)?;
            *record = changed;
            result
        };
        container.changed.send_modify(|count| *count += 1);
        Ok(result)
    }

    /// Every container, oldest first.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.containers.all()
    }

    /// A container by its name, its id or the beginning of its id.
    ///
    /// # Errors
    /// When there is none, or an abbreviation means several.
    pub fn container(&self, name: &str) -> Result<Arc<Container>, EngineError> {
        let name = name.trim_start_matches('/');
        self.containers.find(name).or_else(|error| {
            self.refuse_unknown(recovery::Kind::Container, name)?;
            Err(error)
        })
    }

    fn emit(&self, kind: &'static str, action: impl Into<String>, id: &str, attributes: IndexMap<String, String>) {
        // Containers and the network of builds are nobody's business.
        if images::build::is_build_id(id) || attributes.get("container").is_some_and(|id| images::build::is_build_id(id)) {
            return;
        }
        self.events.tell(Event::now(kind, action.into(), id, attributes));
    }

    fn emit_container(&self, container: &Container, action: &str, extra: &[(&str, String)]) {
        let record = locked(&container.record);
        let mut attributes = record.spec.labels.clone();
        attributes.insert("image".into(), record.spec.image.clone());
        attributes.insert("name".into(), record.name.clone());
        attributes.extend(extra.iter().map(|(k, v)| ((*k).to_string(), v.clone())));
        self.emit("container", action, &record.id, attributes);
    }
}

/// 256 random bits in hexadecimal: an id of a container or a network.
pub(crate) fn new_id() -> std::io::Result<String> {
    crate::random::hex::<32>()
}
