//! The engine as a process: one for each data root, started on demand, gone when there is nothing left to watch.

use super::locks::{self, Locks};
use super::surroundings::{self, Starters};
use super::tcp::{self, TcpDoor};
use super::{docker_socket, revival, roots, shutdown};
use crate::engine::containers::exec::Execs;
use crate::engine::containers::incarnations::Incarnations;
use crate::engine::containers::registry::Containers;
use crate::engine::events::Events;
use crate::engine::images::Images;
use crate::engine::launch::control_groups::Groups;
use crate::engine::launch::launcher::Launcher;
use crate::engine::launch::make_base_layer;
use crate::engine::networks::Networks;
use crate::engine::numbers::Numbers;
use crate::engine::state::StateStore;
use crate::engine::volumes::Volumes;
use crate::engine::{Config, Engine, EngineError};
use crate::network::dns::Names;
use crate::network::firewall::{Firewall, keep_through};
use crate::sys;
use crate::sys::socket::short_name;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// How long an engine without containers waits for another request.
const IDLE: Duration = Duration::from_secs(60);
/// On SIGTERM the engine waits this long for starts in progress.
const STARTS_MAY_TAKE: Duration = Duration::from_secs(10);

/// Whether an engine that has had nothing to do for a while ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenIdle {
    /// Somebody runs it: a service manager, or a person in a terminal.
    Stay,
    /// A command started it, and the next will start another.
    Leave,
}

/// A place where clients come in.
pub enum Door {
    Unix(UnixListener),
    Tcp(TcpDoor),
}

/// The beginning of the names of damaged journals, in the data root.
pub const DAMAGED: &str = "state.journal.damaged-";

/// The socket on which an engine with this run root listens.
pub fn socket_path(run_root: &Path) -> std::path::PathBuf {
    run_root.join("engine.sock")
}

/// Looks whether an engine could run as it is wanted, before the one is ended whose place it is to take.
///
/// # Errors
/// Why not: another engine has the data root, somebody else has Docker's socket, an address or a certificate is wrong.
pub fn check(config: &Config) -> Result<(), EngineError> {
    let listening = &config.listening;
    locks::check(config)?;
    if let Some(path) = &listening.docker_socket {
        docker_socket::check(path, &config.run_root)?;
    }
    tcp::check(&listening.tcp, listening.tls.as_ref())
}

/// Runs an engine until SIGTERM or, where it may leave, until it has nothing left to watch. `serve_api` answers the connections of its
/// socket, whose number it keeps; `ready` is called when it listens.
///
/// # Errors
/// When another engine has one of the roots, or what it needs cannot be set up.
pub fn run<F>(
    config: Config,
    when_idle: WhenIdle,
    starters: Starters,
    serve_api: impl Fn(Arc<Engine>, Door, Arc<watch::Sender<usize>>) -> F,
    ready: impl FnOnce(),
) -> Result<(), EngineError>
where
    F: Future<Output = ()> + Send + 'static,
{
    sys::set_process_name();
    surroundings::prepare();
    if starters == Starters::Forgotten {
        surroundings::forget_starter();
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(EngineError::Invalid("the engine needs root: run it with sudo, or as a systemd service".into()));
    }
    roots::prepare(&config)?;
    let _locks = Locks::take(&config)?;
    roots::prepare_inside(&config)?;
    let nofile = raise_open_files()?;
    revival::keep(&config, nofile, starters)?;
    sys::few_malloc_arenas();
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().min(4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .map_err(EngineError::io("starting the async runtime"))?;
    let result = runtime.block_on(serve(config, nofile, when_idle, serve_api, ready));
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

async fn serve<F>(
    config: Config,
    nofile: (u64, u64),
    when_idle: WhenIdle,
    serve_api: impl Fn(Arc<Engine>, Door, Arc<watch::Sender<usize>>) -> F,
    ready: impl FnOnce(),
) -> Result<(), EngineError>
where
    F: Future<Output = ()> + Send + 'static,
{
    // Before anybody can know that there is an engine: one that is ended then leaves its sockets otherwise.
    let ends = Ends::listen().map_err(EngineError::io("listening to signals"))?;
    let socket = socket_path(&config.run_root);
    let _ = fs::remove_file(&socket);
    let directory = File::open(&config.run_root).map_err(EngineError::io("opening the run root"))?;
    let short = short_name(&directory, "engine.sock");
    let listener = UnixListener::bind(short).map_err(EngineError::io(format!("listening on {}", socket.display())))?;
    let _ = fs::set_permissions(&socket, fs::Permissions::from_mode(0o600));
    let docker = config.listening.docker_socket.clone();
    let besides = docker.as_deref().map(docker_socket::listen).transpose()?;
    let ports = tcp::listen(&config.listening.tcp, config.listening.tls.as_ref());
    // A container needs its engine more than somebody elsewhere needs a port of it.
    let ports = ports.or_else(|error| match when_idle {
        WhenIdle::Stay => Err(error),
        WhenIdle::Leave => {
            tracing::error!("the API is on no port: {error}");
            Ok(Vec::new())
        }
    })?;
    let engine = Arc::new(Engine::open(config, nofile, when_idle)?);
    make_base_layer(&engine.config.base_layer())?;
    engine.adopt().await;
    let connections = Arc::new(watch::Sender::new(0usize));
    let firewall = Arc::downgrade(&engine.networks.firewall);
    let keeping = move || {
        if let Err(error) = keep_through(&firewall) {
            tracing::warn!("changes of others' firewall rules are not noticed: {error}");
        }
    };
    let thread = std::thread::Builder::new().name("firewall".into()).stack_size(128 * 1024).spawn(keeping);
    thread.map_err(EngineError::io("starting a thread"))?;
    let doors = std::iter::once(listener).chain(besides).map(Door::Unix).chain(ports.into_iter().map(Door::Tcp));
    let servers: Vec<_> = doors.map(|door| tokio::spawn(serve_api(engine.clone(), door, connections.clone()))).collect();
    engine.launcher.reap_monitors()?;
    tokio::spawn(engine.state.clone().write_deferred_entries());
    tokio::spawn(engine.clone().follow_schedules());
    ready();
    tracing::info!("the engine listens on {}", socket.display());
    engine.clone().until_done(ends, &connections, when_idle).await;
    servers.iter().for_each(tokio::task::JoinHandle::abort);
    // A monitor that has not been heard of yet would miss the goodbye, and bring an engine back. No other start begins.
    let _late = tokio::time::timeout(STARTS_MAY_TAKE, engine.launcher.no_more_starts()).await;
    engine.leave();
    for path in std::iter::once(&socket).chain(&docker) {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// The signals that end an engine.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn listen() -> std::io::Result<Self> {
        Ok(Ends { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
}

/// Descriptors without which an engine answers nobody: its own, those of a container, and some clients'.
const LEAST_OPEN_FILES: u64 = 64;

/// The engine keeps a few descriptors for each container. Returns the limit as it was, which containers get.
fn raise_open_files() -> Result<(u64, u64), EngineError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    if hard < LEAST_OPEN_FILES {
        return Err(EngineError::Invalid(format!(
            "the engine may have {hard} open files (`ulimit -Hn`), and needs {LEAST_OPEN_FILES} at least: raise the limit"
        )));
    }
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    Ok((soft, hard))
}

impl Engine {
    fn open(config: Config, nofile: (u64, u64), when_idle: WhenIdle) -> Result<Self, EngineError> {
        let config = Arc::new(config);
        let name = instance_name(&config.run_root);
        let numbers = Arc::new(Numbers::default());
        let groups = Groups::open(&name, when_idle, numbers.clone())?;
        let state = Arc::new(StateStore::open(config.clone())?);
        let firewall = Arc::new(Firewall::new(&name).map_err(crate::network::NetworkError::Firewall)?);
        let events = Arc::new(Events::default());
        let containers = Arc::new(Containers::new(state.clone(), events.clone()));
        let names = Arc::new(Names::default());
        let images = Images::open(state.clone(), events.clone(), containers.clone())?;
        Ok(Engine {
            execs: Arc::new(Execs::new(containers.clone(), numbers.clone(), names.clone())),
            incarnations: Incarnations::new(config.clone()),
            volumes: Volumes::new(state.clone(), events.clone(), containers.clone()),
            networks: Networks::new(state.clone(), events.clone(), containers.clone(), numbers, firewall, names),
            launcher: Launcher::new(groups, nofile)?,
            projects: Default::default(),
            image_updates: Default::default(),
            schedules: Default::default(),
            jobs: Default::default(),
            shutdown: Default::default(),
            config,
            events,
            state,
            containers,
            images,
        })
    }

    async fn until_done(self: Arc<Self>, ends: Ends, connections: &watch::Sender<usize>, when_idle: WhenIdle) {
        let mut stopping = self.shutdown.requested.subscribe();
        let mut connected = connections.subscribe();
        let Ends { mut terminate, mut interrupt } = ends;
        loop {
            let idle = async {
                // Counted from the last request: every connection that comes or goes begins the time anew.
                while tokio::time::timeout(IDLE, connected.changed()).await.is_ok_and(|r| r.is_ok()) {}
            };
            tokio::select! {
                _ = terminate.recv() => {
                    if tokio::task::spawn_blocking(shutdown::host_goes_down).await.unwrap_or_default() {
                        self.stop_everything().await;
                    }
                    return;
                }
                _ = interrupt.recv() => return,
                _ = stopping.wait_for(|stop| *stop) => return,
                () = idle, if when_idle == WhenIdle::Leave => {}
            }
            let busy = *connections.borrow() > 0 || self.containers.all().iter().any(|c| c.status().is_alive());
            let busy = busy || self.state.has_unknown_running() || self.jobs_need_the_engine();
            if !busy {
                return;
            }
        }
    }

    /// Says goodbye to the monitors, which restart no engine then, and removes what no container needs.
    fn leave(&self) {
        for container in self.containers.all() {
            container.say_goodbye();
        }
        self.state.leave_unknown();
        if let Err(error) = self.state.journal.sync() {
            tracing::error!("writing the state: {error}");
        }
        self.networks.leave();
        self.launcher.groups.hierarchy.remove_parents();
    }
}

/// The name of an engine's firewall table and scope: `wharf` for the default one; one with another run root has its own.
fn instance_name(run_root: &Path) -> String {
    if run_root == Path::new("/run/wharf") {
        return "wharf".into();
    }
    format!("wharf-{}", crate::image::Digest::of(run_root.as_os_str().as_encoded_bytes()).short())
}
