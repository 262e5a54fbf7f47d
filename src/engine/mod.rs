//! The engine: owns every decision and all state.
//!
//! [`record`] is what is known, [`journal`] how it survives; [`containers`] starts, stops and removes; [`supervise`] follows
//! what monitors say and restarts; [`health`] probes; [`projects`] executes plans; [`adopt`] takes over what an earlier
//! engine left; [`lifecycle`] is the process itself.

pub mod adopt;
pub mod build;
mod cdi;
pub mod containers;
mod control_groups;
pub mod convert;
pub mod devices;
pub mod error;
mod etc;
pub mod events;
pub mod exec;
pub mod files;
mod health;
mod hooks;
mod journal;
mod launching;
pub mod lifecycle;
mod link;
mod locks;
pub mod networks;
pub mod projects;
pub mod record;
pub mod revival;
mod sharing;
mod shutdown;
mod supervise;
pub mod usage;
pub mod volumes;

pub use error::EngineError;
pub use events::Event;

use crate::image::Store;
use crate::image::registry::Registry;
use crate::image::turns::Turns;
use crate::network::dns::{Names, Serving};
use crate::network::firewall::Firewall;
use crate::runtime::cgroup::Hierarchy;
use crate::runtime::scope::Scope;
use indexmap::IndexMap;
use journal::{Journal, Room};
use link::MonitorLink;
use record::{ContainerRecord, NetworkRecord, VolumeRecord};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{mpsc, oneshot, watch};

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
    cgroups: Hierarchy,
    /// The part of them that systemd has delegated, where it does.
    scope: Option<Scope>,
    firewall: Arc<Firewall>,
    names: Arc<Names>,
    containers: Mutex<IndexMap<String, Arc<Container>>>,
    networks: Mutex<IndexMap<String, NetworkRecord>>,
    volumes: Mutex<IndexMap<String, VolumeRecord>>,
    execs: Mutex<HashMap<String, Arc<exec::Exec>>>,
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

/// A container, and what of it lives in this engine.
pub struct Container {
    pub id: String,
    record: Mutex<ContainerRecord>,
    /// Held by whoever starts, stops or removes it.
    operation: tokio::sync::Mutex<()>,
    live: Mutex<Live>,
    /// Counts the changes of the record.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Live {
    link: Option<Arc<MonitorLink>>,
    /// Keeps the network namespace over restarts.
    namespace: Option<Arc<OwnedFd>>,
    resolver: Option<Serving>,
    published: networks::Published,
    execs: HashMap<u64, mpsc::UnboundedSender<crate::runtime::control::Event>>,
    input: Vec<oneshot::Sender<Option<OwnedFd>>>,
    /// Whether the monitor hands out the container's mounts: one of an earlier version does not.
    keeps_mounts: bool,
    /// Who waits for such a mount, in the order of the requests.
    mounts: std::collections::VecDeque<oneshot::Sender<Vec<OwnedFd>>>,
    /// The next restart's delay.
    backoff: Option<std::time::Duration>,
    health: Option<tokio::task::AbortHandle>,
    restart: Option<tokio::task::AbortHandle>,
}

/// The flag of an engine that a monitor starts.
pub const REVIVED: &str = "--revived";

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Container {
    /// Its control group.
    fn group(&self) -> String {
        self.with_record(ContainerRecord::group)
    }

    fn new(record: ContainerRecord) -> Arc<Self> {
        Arc::new(Container {
            id: record.id.clone(),
            record: Mutex::new(record),
            operation: tokio::sync::Mutex::new(()),
            live: Mutex::default(),
            changed: watch::Sender::new(0),
        })
    }

    /// A copy of what is known of it.
    pub fn record(&self) -> ContainerRecord {
        locked(&self.record).clone()
    }

    /// Looks at what is known of it, without a copy: for questions that are asked of every container.
    fn with_record<T>(&self, look: impl FnOnce(&ContainerRecord) -> T) -> T {
        look(&locked(&self.record))
    }

    fn has_label(&self, key: &str, value: &str) -> bool {
        self.with_record(|record| record.spec.labels.get(key).is_some_and(|label| label == value))
    }

    pub fn status(&self) -> record::Status {
        locked(&self.record).state.status
    }

    pub fn name(&self) -> String {
        locked(&self.record).name.clone()
    }

    fn link(&self) -> Option<Arc<MonitorLink>> {
        locked(&self.live).link.clone()
    }

    /// Waits until the record fulfils a condition.
    pub async fn wait_until(&self, mut fulfilled: impl FnMut(&ContainerRecord) -> bool) {
        let mut changes = self.changed.subscribe();
        loop {
            changes.borrow_and_update();
            if fulfilled(&locked(&self.record)) || changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Engine {
    /// Keeps a record of what has happened already. Where the disk is full, it is in memory until there is room.
    fn keep_what_happened(&self, record: &ContainerRecord, room: Room) {
        if let Err(error) = self.journal.put_anyway(&format!("container/{}", record.id), record, room) {
            tracing::error!("writing the state of container {}: {error}; it is written when that can be", record.name);
            self.owing.notify_one();
        }
    }

    /// Changes a container's record, keeps it, and wakes whoever waits for it.
    fn update<T>(&self, container: &Container, change: impl FnOnce(&mut ContainerRecord) -> T) -> T {
        let result = {
            let mut record = locked(&container.record);
            let result = change(&mut record);
            self.keep_what_happened(&record, Room::Ordinary);
            result
        };
        container.changed.send_modify(|count| *count += 1);
        result
    }

    fn container_directory(&self, id: &str) -> PathBuf {
        self.config.data_root.join("containers").join(id)
    }

    /// Where what a container has written is: its own layer.
    pub fn written_by(&self, id: &str) -> PathBuf {
        self.container_directory(id).join("upper")
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

    /// Every container, oldest first.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        locked(&self.containers).values().cloned().collect()
    }

    /// A container by its name, its id or the beginning of its id.
    ///
    /// # Errors
    /// When there is none, or an abbreviation means several.
    pub fn container(&self, name: &str) -> Result<Arc<Container>, EngineError> {
        let wanted = name.trim_start_matches('/');
        let containers = locked(&self.containers);
        if let Some(container) = containers.get(wanted).or_else(|| containers.values().find(|c| c.name() == wanted)) {
            return Ok(container.clone());
        }
        let mut matching = containers.values().filter(|c| !wanted.is_empty() && c.id.starts_with(wanted));
        match (matching.next(), matching.next()) {
            (Some(container), None) => Ok(container.clone()),
            (Some(_), Some(_)) => Err(EngineError::Invalid(format!("`{wanted}` is the beginning of several containers' ids"))),
            (None, _) => Err(EngineError::no_container(wanted)),
        }
    }

    fn emit(&self, kind: &'static str, action: impl Into<String>, id: &str, attributes: IndexMap<String, String>) {
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
fn new_id() -> std::io::Result<String> {
    crate::random::hex::<32>()
}
