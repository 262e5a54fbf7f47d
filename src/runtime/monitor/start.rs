//! The start of a monitor: the run directory's lock, the log, the pipes, the control socket, the container's first process.

use super::execs::MonitorExecs;
use super::{Brief, ENGINE_FD, Joining, Monitor, OutputPipe, PIPE_SIZE};
use crate::logs::{Stream, writer::LogWriter};
use crate::runtime::error::{Doing, StepFailed};
use crate::runtime::external::{self, Runtime};
use crate::runtime::init;
use crate::runtime::init::Inherited;
use crate::runtime::launch::{JoinedNamespaces, Launch};
use crate::sys::shared::SharedReport;
use crate::sys::{self, Forked};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket, socketpair};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

impl Monitor {
    /// Sets the container up. One that is late must not go on beside another: its engine may have died, and the next may have
    /// started the container again.
    pub(super) fn start(engine: &OwnedFd) -> Result<Self, StepFailed> {
        let text = std::fs::read("launch.json").doing("reading the launch file")?;
        let brief: Brief = serde_json::from_slice(&text).map_err(std::io::Error::from).doing("reading the launch file")?;
        if let Some(monitors) = &brief.monitors {
            brief.cgroup.enter(monitors)?;
        }
        let mut joined = JoinedNamespaces::default();
        for (fd, join) in (ENGINE_FD + 1..).zip(&brief.joins) {
            let fd = sys::inherited(fd).ok_or_else(|| StepFailed::because("starting", "a namespace to join is missing"))?;
            joined.set(*join, fd);
        }
        let alone = lock_run_directory(&brief.log.path)?;
        let mut log = LogWriter::open(brief.log.path.clone(), brief.log.max_size, brief.log.max_files)
            .doing(format_args!("opening the log {}", brief.log.path.display()))?
            .at_once(brief.terminal || brief.stdin);
        brief.log.holds.iter().for_each(|hold| log.holds.set(*hold));
        // Who has left since the file was written is known to the engine alone: it says again who is there.
        log.holds.orphan(Instant::now());
        brief.log.expected.iter().for_each(|reader| log.holds.expect(*reader, Instant::now()));
        let (status, status_child) = pipe2(OFlag::O_CLOEXEC).doing("making a pipe")?;
        let (handing, handing_child) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).doing("making a socket")?;
        let Standard { stdio, outputs, input } = Standard::of(&brief)?;
        let signals = child_signals()?;
        let listener = control_socket()?;
        // An engine that comes from here on finds the control socket, and takes the container over.
        if closed(engine) {
            return Err(StepFailed::because("starting", "the engine that wanted the container has gone"));
        }
        let joining = match &joined.pid {
            Some(_) if brief.runtime.is_none() => Some(SharedReport::new().doing("making room for the process's report")?),
            _ => None,
        };
        let inherited = Inherited { stdio, joined, status: status_child, monitor: handing_child, parent: std::process::id() };
        let init = match &brief.runtime {
            Some(program) => {
                let launch: Launch =
                    serde_json::from_slice(&text).map_err(std::io::Error::from).doing("reading the launch file")?;
                external::start(&launch, Runtime { program, id: &brief.id }, inherited)?
            }
            None => fork_init(&brief, &text, inherited, joining.as_ref())?,
        };
        let pidfd = sys::pidfd_open(init).doing("opening the container's process")?;
        Ok(Monitor {
            joining: joining.map(|report| Joining { helper: init, report, ended: None }),
            handing: Some(handing),
            kept: Vec::new(),
            kept_in: None,
            brief,
            init,
            pidfd,
            signals,
            listener,
            engine: None,
            outputs,
            log,
            stalled: false,
            input,
            terminal: None,
            status: Some(status),
            reported: Vec::new(),
            started_at: None,
            first_output: None,
            execs: MonitorExecs::default(),
            paused: false,
            goodbye: false,
            alone: Some(alone),
            reviving: None,
            message: Vec::new(),
        })
    }
}

/// The standard streams of the container: its ends, and the monitor's. A terminal has others.
#[derive(Default)]
struct Standard {
    stdio: Option<[OwnedFd; 3]>,
    outputs: Vec<OutputPipe>,
    input: Option<OwnedFd>,
}

impl Standard {
    fn of(brief: &Brief) -> Result<Self, StepFailed> {
        let cloexec = OFlag::O_CLOEXEC;
        let (mut outputs, mut input) = (Vec::new(), None);
        if brief.terminal {
            return Ok(Standard::default());
        }
        let (out, out_child) = pipe2(cloexec).doing("making a pipe")?;
        let (err, err_child) = pipe2(cloexec).doing("making a pipe")?;
        let in_child = if brief.stdin {
            let (in_child, writer) = pipe2(cloexec).doing("making a pipe")?;
            input = Some(writer);
            in_child
        } else {
            nix::fcntl::open("/dev/null", OFlag::O_RDONLY | cloexec, Mode::empty()).doing("opening /dev/null")?
        };
        for (fd, stream) in [(out, Stream::Stdout), (err, Stream::Stderr)] {
            sys::set_pipe_size(&fd, PIPE_SIZE);
            fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).doing("preparing a pipe")?;
            outputs.push(OutputPipe { fd, stream });
        }
        Ok(Standard { stdio: Some([in_child, out_child, err_child]), outputs, input })
    }
}

fn child_signals() -> Result<SignalFd, StepFailed> {
    let mut chld = SigSet::empty();
    chld.add(Signal::SIGCHLD);
    chld.thread_block().doing("blocking SIGCHLD")?;
    SignalFd::with_flags(&chld, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).doing("opening a signalfd")
}

fn control_socket() -> Result<OwnedFd, StepFailed> {
    let _ = std::fs::remove_file("control");
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
        .doing("making the control socket")?;
    let address = UnixAddr::new("control").doing("naming the control socket")?;
    bind(listener.as_raw_fd(), &address).doing("binding the control socket")?;
    listen(&listener, Backlog::new(4).unwrap_or(Backlog::MAXCONN)).doing("listening on the control socket")?;
    Ok(listener)
}

/// Starts the process that sets the container up by the launch file: its first one, or that one's maker.
fn fork_init(
    brief: &Brief,
    launch_file: &[u8],
    inherited: Inherited,
    successor: Option<&SharedReport>,
) -> Result<i32, StepFailed> {
    let init = match sys::fork_into(brief.clone_flags).doing("making the container's namespaces")? {
        Forked::Parent(pid) => pid,
        Forked::Child => match serde_json::from_slice::<Launch>(launch_file) {
            Ok(launch) => init::run(&launch, inherited, successor),
            Err(error) => {
                init::report(&inherited.status, &StepFailed::new("reading the launch file", error.into()));
                sys::exit_now(128)
            }
        },
    };
    // The helpers of `exec` must not have it.
    if let Some(successor) = successor {
        successor.hide_from_children().doing("hiding the process's report")?;
    }
    Ok(init)
}

/// Tries, 10 ms apart: a monitor that has just reported an exit holds the lock a little longer.
const LOCK_TRIES: u32 = 100;

/// A disk with no more than this takes no lines.
const NEARLY_FULL: u64 = 64 << 10;

/// One monitor at a time runs a container. The container's processes have the lock as well until their programs run.
fn lock_run_directory(log: &Path) -> Result<Flock<File>, StepFailed> {
    let mut directory = File::open(".").doing("opening the run directory")?;
    for _ in 0..LOCK_TRIES {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EWOULDBLOCK | Errno::EINTR)) => directory = again,
            Err((_, errno)) => return Err(errno).doing("locking the run directory"),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let disk = log.parent().and_then(|directory| nix::sys::statvfs::statvfs(directory).ok());
    let is_full = disk.is_some_and(|disk| disk.blocks_available() * disk.fragment_size() < NEARLY_FULL);
    let why = if is_full {
        "No space left on device: the last lines of its last run wait for room on the disk; make room, and start it again"
    } else {
        "another monitor runs the container: that of its last run has not ended, since it is stopped or waits for its disk; start it again once it has"
    };
    Err(StepFailed::because("opening the log", why))
}

/// Whether the other side of a socket is gone.
fn closed(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}
