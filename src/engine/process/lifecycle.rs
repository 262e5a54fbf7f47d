//! The engine as a process: one for each data root, started on demand, gone when there is nothing left to watch.

use super::locks::Locks;
use super::{revival, roots, shutdown};
use crate::engine::events::{Events, LogWatcher};
use crate::engine::launch::control_groups;
use crate::engine::{Config, Engine, EngineError, locked};
use crate::image::Store;
use crate::image::registry::Registry;
use crate::network::firewall::{Firewall, keep_through};
use crate::runtime::cgroup::Hierarchy;
use crate::runtime::sys::{self, Recursive};
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};

/// How long an engine without containers waits for another request.
const IDLE: Duration = Duration::from_secs(60);
/// Two processors keep about so many starts going; more only wait for each other's locks in the kernel.
const STARTS_AT_ONCE: usize = 8;

/// An engine that is told to end waits this long for the starts that are under way.
const STARTS_MAY_TAKE: Duration = Duration::from_secs(10);

/// Whether an engine that has had nothing to do for a while ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenIdle {
    /// Somebody runs it: a service manager, or a person in a terminal.
    Stay,
    /// A command started it, and the next will start another.
    Leave,
}

/// The beginning of the names of damaged journals, in the data root.
pub const DAMAGED: &str = "state.journal.damaged-";

/// The socket on which an engine with this run root listens.
pub fn socket_path(run_root: &Path) -> std::path::PathBuf {
    run_root.join("engine.sock")
}

/// Runs an engine until it is told to stop or, if it is to, has nothing left to watch. `ready` is called when it listens.
///
/// # Errors
/// When another engine has one of the roots, or what it needs cannot be set up.
pub fn run(config: Config, when_idle: WhenIdle, ready: impl FnOnce()) -> Result<(), EngineError> {
    sys::set_process_name();
    if !nix::unistd::geteuid().is_root() {
        return Err(EngineError::Invalid("the engine needs root: run it with sudo, or as a systemd service".into()));
    }
    roots::prepare(&config)?;
    let _locks = Locks::take(&config)?;
    roots::prepare_inside(&config)?;
    let nofile = raise_open_files();
    revival::keep(&config.run_root, nofile)?;
    sys::few_malloc_arenas();
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().min(4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .map_err(EngineError::io("starting the async runtime"))?;
    let result = runtime.block_on(serve(config, nofile, when_idle, ready));
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

async fn serve(config: Config, nofile: (u64, u64), when_idle: WhenIdle, ready: impl FnOnce()) -> Result<(), EngineError> {
    let socket = socket_path(&config.run_root);
    let _ = fs::remove_file(&socket);
    let directory = File::open(&config.run_root).map_err(EngineError::io("opening the run root"))?;
    // Through a descriptor, since a socket's path may have only 107 bytes.
    let short = format!("/proc/self/fd/{}/engine.sock", std::os::fd::AsRawFd::as_raw_fd(&directory));
    let listener = UnixListener::bind(short).map_err(EngineError::io(format!("listening on {}", socket.display())))?;
    let _ = fs::set_permissions(&socket, fs::Permissions::from_mode(0o600));
    let engine = Arc::new(Engine::open(config, nofile, when_idle)?);
    engine.make_base_layer()?;
    engine.adopt().await;
    let connections = Arc::new(watch::Sender::new(0usize));
    let firewall = Arc::downgrade(&engine.firewall);
    let keeping = move || {
        if let Err(error) = keep_through(&firewall) {
            tracing::warn!("changes of others' firewall rules are not noticed: {error}");
        }
    };
    let thread = std::thread::Builder::new().name("firewall".into()).stack_size(128 * 1024).spawn(keeping);
    thread.map_err(EngineError::io("starting a thread"))?;
    let server = tokio::spawn(crate::api::server::serve(engine.clone(), listener, connections.clone()));
    engine.clone().reap_monitors()?;
    tokio::spawn(engine.clone().write_what_is_owed());
    ready();
    tracing::info!("the engine listens on {}", socket.display());
    engine.clone().until_done(&connections, when_idle).await;
    server.abort();
    // A monitor that has not been heard of yet would miss the goodbye, and bring an engine back. No other start begins.
    let starts = engine.starting.acquire_many(STARTS_AT_ONCE as u32);
    let _none = tokio::time::timeout(STARTS_MAY_TAKE, starts).await;
    engine.leave();
    let _ = fs::remove_file(&socket);
    Ok(())
}

/// The engine keeps a few descriptors for each container. Returns the limit as it was, which containers get.
fn raise_open_files() -> (u64, u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    (soft, hard)
}

fn nanoseconds_since_boot() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    now.as_nanos() as u64
}

/// This program on a read-only mount that is attached nowhere: a container that gets hold of /proc/PID/exe of a process
/// that is still wharf's cannot open it for writing (CVE-2019-5736), and it costs no memory, unlike a sealed copy.
///
/// The program is opened through its own magic link and not by a path: the file may have been replaced or removed, and an
/// engine that a monitor has started runs from such a mount itself, where its path is `/`.
fn protected_program() -> std::io::Result<OwnedFd> {
    use nix::fcntl::open;
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let running = open("/proc/self/exe", flags, Mode::empty())?;
    match sys::open_tree(running.as_fd(), Path::new(""), Recursive::No) {
        Ok(tree) => {
            sys::set_mount_attributes(tree.as_fd(), sys::ATTR_RDONLY, 0, Recursive::No)?;
            Ok(nix::fcntl::openat(tree.as_fd(), "", flags, Mode::empty()).map_or(tree, |fd| fd))
        }
        // Kernels before 6.15 do not clone a mount that is attached nowhere. It is the read-only one of an earlier engine.
        Err(_) if is_read_only(&running) => Ok(running),
        Err(error) => Err(error),
    }
}

fn is_read_only(file: &OwnedFd) -> bool {
    nix::sys::statvfs::fstatvfs(file).is_ok_and(|mount| mount.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY))
}

impl Engine {
    fn open(config: Config, nofile: (u64, u64), when_idle: WhenIdle) -> Result<Self, EngineError> {
        let cgroups = Hierarchy::find().map_err(EngineError::io("finding the control groups"))?;
        let scope = control_groups::delegated(&cgroups, &instance_name(&config.run_root), when_idle);
        if scope.is_none() {
            cgroups.make_parents().map_err(|e| EngineError::Invalid(e.to_string()))?;
        }
        let (journal, found) = crate::engine::Journal::open(&config.data_root.join("state.journal"))?;
        let name = instance_name(&config.run_root);
        let firewall = Arc::new(Firewall::new(&name).map_err(crate::network::NetworkError::Firewall)?);
        Ok(Engine {
            images: Arc::new(Store::open(&config.data_root.join("images"))?),
            registry: Registry::new()?,
            build_network_users: std::sync::Mutex::new(0),
            contents: crate::image::build::files::Contents::default(),
            journal,
            recovery: crate::engine::recovery::Recovery::of(&found),
            cgroups,
            scope,
            flows: crate::engine::networks::Flows::new(firewall.clone()),
            firewall,
            names: Arc::default(),
            containers: Default::default(),
            networks: Default::default(),
            volumes: Default::default(),
            volume_names: Default::default(),
            volume_uses: Default::default(),
            network_uses: Default::default(),
            projects: Default::default(),
            execs: Default::default(),
            events: Events::default(),
            program: protected_program().map_err(EngineError::io("opening wharf's own program"))?,
            apparmor: Default::default(),
            seccomp: Default::default(),
            nofile,
            next_number: AtomicU64::new(nanoseconds_since_boot()),
            monitors: Default::default(),
            starting: Semaphore::new(STARTS_AT_ONCE),
            pulls: Default::default(),
            preparing: Default::default(),
            mounting: Default::default(),
            steps: Default::default(),
            stopping: watch::Sender::new(false),
            owing: Default::default(),
            going_down: Default::default(),
            watcher: LogWatcher::default(),
            config,
        })
    }

    /// Monitors are this process's children while it lives. Others (git, credential helpers) are left to whoever waits for them.
    fn reap_monitors(self: Arc<Self>) -> Result<(), EngineError> {
        use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
        use nix::unistd::Pid;
        let mut children = signal(SignalKind::child()).map_err(EngineError::io("listening for SIGCHLD"))?;
        let ended = |status: nix::Result<WaitStatus>| status.ok().and_then(|status| status.pid());
        tokio::spawn(async move {
            while children.recv().await.is_some() {
                let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
                while let Some(pid) = ended(waitid(Id::All, peek)) {
                    let mut monitors = locked(&self.monitors);
                    if monitors.remove(&pid.as_raw()) {
                        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
                        continue;
                    }
                    // Somebody else's stands before ours, or one of ours that is not noted yet.
                    monitors.retain(|pid| ended(waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG))).is_none());
                    break;
                }
            }
        });
        Ok(())
    }

    /// Writes what the disk has refused, once it does not any more.
    async fn write_what_is_owed(self: Arc<Self>) {
        loop {
            self.owing.notified().await;
            while self.journal.write_owed().is_err() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Asks the engine to end; containers go on.
    pub fn request_stop(&self) {
        self.stopping.send_replace(true);
    }

    async fn until_done(self: Arc<Self>, connections: &watch::Sender<usize>, when_idle: WhenIdle) {
        let mut stopping = self.stopping.subscribe();
        let mut connected = connections.subscribe();
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
            return;
        };
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
            let busy = *connections.borrow() > 0 || self.containers().iter().any(|c| c.status().is_alive());
            let busy = busy || self.has_unknown_running();
            if !busy {
                return;
            }
        }
    }

    /// Lets go: monitors are told not to bring an engine back, and what no container needs is taken away.
    fn leave(&self) {
        for container in self.containers() {
            container.say_goodbye();
        }
        self.leave_unknown();
        if let Err(error) = self.journal.sync() {
            tracing::error!("writing the state: {error}");
        }
        self.flows.forget();
        if locked(&self.networks).is_empty() {
            self.firewall.clear();
        }
        self.cgroups.remove_parents();
    }
}

/// What an engine's firewall table and scope are called: `wharf` for the default one; one with another run root has its own.
fn instance_name(run_root: &Path) -> String {
    if run_root == Path::new("/run/wharf") {
        return "wharf".into();
    }
    format!("wharf-{}", crate::image::Digest::of(run_root.as_os_str().as_encoded_bytes()).short())
}
