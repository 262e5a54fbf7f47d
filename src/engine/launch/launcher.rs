//! The launcher of containers: the program that their monitors run, their profiles and limits, and how many start at once.

use super::control_groups::Groups;
use crate::engine::error::EngineError;
use crate::engine::locked;
use crate::runtime::apparmor::{DEFAULT, is_enabled, is_loaded, load_default};
use crate::runtime::capabilities::Capabilities;
use crate::runtime::{pack, seccomp};
use crate::sys::{self, Recursive};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

/// Two processors keep about so many starts going; more only wait for each other's locks in the kernel.
const STARTS_AT_ONCE: usize = 8;

/// Starts monitors.
pub struct Launcher {
    /// This program, from a read-only mount of its own: what monitors and, in them, containers' first processes run.
    program: OwnedFd,
    pub(crate) groups: Groups,
    /// The AppArmor profile of containers that name none, once it has been looked for.
    apparmor: OnceLock<Option<String>>,
    /// Compiled seccomp profiles, by the capabilities that decide them.
    seccomp: Mutex<HashMap<u64, Vec<[u32; 2]>>>,
    /// The limit of open files that the engine was started with: soft, hard.
    pub(super) nofile: (u64, u64),
    /// The processes that were started beside containers, and are this one's children.
    monitors: Arc<Mutex<HashSet<i32>>>,
    /// How many containers are started at once: more would only wait for each other in the kernel.
    pub(in crate::engine) starting: Semaphore,
}

impl Launcher {
    /// # Errors
    /// When wharf's own program cannot be opened.
    pub(in crate::engine) fn new(groups: Groups, nofile: (u64, u64)) -> Result<Self, EngineError> {
        Ok(Launcher {
            program: protected_program().map_err(EngineError::io("opening wharf's own program"))?,
            groups,
            apparmor: OnceLock::new(),
            seccomp: Mutex::default(),
            nofile,
            monitors: Arc::default(),
            starting: Semaphore::new(STARTS_AT_ONCE),
        })
    }

    /// Starts a monitor for a run directory; it has the descriptors from 3 on.
    ///
    /// # Errors
    /// The kernel's.
    pub(in crate::engine) fn spawn(&self, run_directory: &Path, fds: &[BorrowedFd<'_>]) -> Result<i32, EngineError> {
        let program = CString::new(format!("/proc/self/fd/{}", self.program.as_raw_fd())).unwrap_or_default();
        let run_argument = CString::new(run_directory.as_os_str().as_encoded_bytes()).unwrap_or_default();
        let args = [c"wharf".to_owned(), c"monitor".to_owned(), run_argument];
        let monitor = sys::spawn(&program, &args, fds).map_err(EngineError::io("starting a monitor"))?;
        locked(&self.monitors).insert(monitor);
        Ok(monitor)
    }

    /// Takes every slot for a start, once the starts under way are over.
    pub(in crate::engine) async fn no_more_starts(&self) {
        // The semaphore is never closed.
        let _none = self.starting.acquire_many(STARTS_AT_ONCE as u32).await.map(tokio::sync::SemaphorePermit::forget);
    }

    /// Monitors are this process's children while it lives. Others (git, credential helpers) are left to whoever waits for them.
    ///
    /// # Errors
    /// When SIGCHLD cannot be listened for.
    pub(in crate::engine) fn reap_monitors(&self) -> Result<(), EngineError> {
        use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
        use nix::unistd::Pid;
        let mut children = signal(SignalKind::child()).map_err(EngineError::io("listening for SIGCHLD"))?;
        let ended = |status: nix::Result<WaitStatus>| status.ok().and_then(|status| status.pid());
        let known = self.monitors.clone();
        tokio::spawn(async move {
            while children.recv().await.is_some() {
                let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
                while let Some(pid) = ended(waitid(Id::All, peek)) {
                    let mut monitors = locked(&known);
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

    /// The profile of containers that name none, loaded when the first needs it. Docker's serves where ours cannot be loaded.
    pub(super) fn apparmor_profile(&self) -> Option<String> {
        let found = || {
            if !is_enabled() {
                return None;
            }
            match load_default() {
                Ok(()) => Some(DEFAULT.to_string()),
                Err(_) if is_loaded(DEFAULT) => Some(DEFAULT.to_string()),
                Err(error) => {
                    let other = is_loaded("docker-default").then(|| "docker-default".to_string());
                    tracing::warn!(
                        "the AppArmor profile {DEFAULT} cannot be loaded: {error}; containers have {}",
                        other.as_deref().unwrap_or("none")
                    );
                    other
                }
            }
        };
        self.apparmor.get_or_init(found).clone()
    }

    /// Docker's default seccomp profile for a set of capabilities: compiled once, since almost all containers have the same set.
    pub(super) fn seccomp_program(&self, capabilities: Capabilities) -> Result<Vec<[u32; 2]>, String> {
        let mut compiled = locked(&self.seccomp);
        if let Some(program) = compiled.get(&capabilities.0) {
            return Ok(program.clone());
        }
        let program = seccomp::compile(seccomp::docker_default(), capabilities)?;
        let program: Vec<_> = program.into_iter().map(pack).collect();
        compiled.insert(capabilities.0, program.clone());
        Ok(program)
    }
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
