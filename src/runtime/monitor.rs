//! The monitor: one small process beside each running container.
//!
//! It sets the container up and is its parent; it holds the container's streams, writes the log, records the exit. It is
//! single-threaded, keeps next to nothing in memory, and needs nobody: when the engine dies, nothing is lost, and the first
//! monitor that notices starts a new one.

use super::cgroup::{Frozen, Hierarchy};
use super::control::{self, Event, Handed, Request};
use super::error::{Doing, StepFailed};
use super::external::{self, Runtime};
use super::init::Inherited;
use super::launch::{ExecSpec, Exit, Join, Joined, Launch, LogTarget};
use super::{exec, init};
use crate::logs::{Stream, holds::ALL, writer::Writer};
use crate::sys::{self, Ended, Forked};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket, socketpair};
use nix::sys::stat::Mode;
use nix::unistd::{pipe2, read};
use serde::Deserialize;
use std::ffi::CString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The descriptor that the engine gives a monitor: its end of the control socket. After it come those of what is joined.
pub const ENGINE_FD: i32 = 3;

/// What the monitor itself keeps of the launch file. The rest is read by the child, which forgets it by execve.
#[derive(Deserialize)]
struct Brief {
    group: String,
    monitors: Option<String>,
    cgroup: Hierarchy,
    id: String,
    runtime: Option<PathBuf>,
    clone_flags: u64,
    joins: Vec<Join>,
    #[serde(default)]
    kept: Vec<PathBuf>,
    terminal: bool,
    stdin: bool,
    log: LogTarget,
    exit_file: PathBuf,
    revive: Vec<String>,
    revive_lock: PathBuf,
}

/// The monitor's `main`: `wharf monitor RUN_DIRECTORY`. Returns the process's exit code.
pub fn main(run_directory: &Path) -> i32 {
    match run(run_directory) {
        Ok(()) => 0,
        // Nobody reads a monitor's standard error: what matters has been told to the engine.
        Err(_) => 1,
    }
}

fn run(directory: &Path) -> Result<(), StepFailed> {
    let Some(engine) = sys::inherited(ENGINE_FD) else { return Err(StepFailed::because("starting", "there is no engine")) };
    sys::set_process_name();
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).doing("hiding the process")?;
    // The kernel shall rather kill the container than the one who tells why it died.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
    nix::unistd::chdir(directory).doing("entering the run directory")?;
    let mut monitor = match Monitor::start(&engine) {
        Ok(monitor) => monitor,
        Err(failure) => {
            let _ = control::send(engine.as_fd(), &Event::Failed { message: failure.to_string(), code: failure.code }, &[]);
            return Err(failure);
        }
    };
    monitor.engine = Some(engine);
    monitor.supervise()
}

/// A stream of the container on its way to the log.
struct Output {
    fd: OwnedFd,
    stream: Stream,
}

/// A process that was started by `exec`.
struct Exec {
    id: u64,
    pid: Option<i32>,
    /// Open until the program runs or has failed to.
    status: Option<OwnedFd>,
    said: Vec<u8>,
}

struct Monitor {
    brief: Brief,
    init: i32,
    pidfd: OwnedFd,
    signals: SignalFd,
    listener: OwnedFd,
    engine: Option<OwnedFd>,
    outputs: Vec<Output>,
    log: Writer,
    /// The log could not be written (a full disk): nothing more is read until it can.
    stalled: bool,
    input: Option<OwnedFd>,
    /// The terminal's master, once the child has sent it.
    terminal: Option<OwnedFd>,
    /// On which the child hands descriptors over, until its program runs.
    handing: Option<OwnedFd>,
    /// What other containers may share, in the order of the launch file.
    kept: Vec<OwnedFd>,
    /// The mount namespace in which those are, where it is not the container's own.
    kept_in: Option<OwnedFd>,
    status: Option<OwnedFd>,
    said: Vec<u8>,
    started_at: Option<jiff::Timestamp>,
    execs: Vec<Exec>,
    unmatched: Vec<(i32, i32)>,
    paused: bool,
    goodbye: bool,
    /// The container's run directory is this monitor's alone while it writes the log.
    alone: Option<Flock<File>>,
    reviving: Option<Flock<File>>,
    message: Vec<u8>,
}

const CHUNK: usize = 128 * 1024;
const PIPE_SIZE: i32 = 256 * 1024;

impl Monitor {
    /// Sets the container up. One that is late must not go on beside another: its engine may have died, and the next may have
    /// started the container again.
    fn start(engine: &OwnedFd) -> Result<Self, StepFailed> {
        let text = std::fs::read("launch.json").doing("reading the launch file")?;
        let brief: Brief = serde_json::from_slice(&text).map_err(std::io::Error::from).doing("reading the launch file")?;
        if let Some(monitors) = &brief.monitors {
            brief.cgroup.enter(monitors)?;
        }
        let mut joined = Joined::default();
        for (fd, join) in (ENGINE_FD + 1..).zip(&brief.joins) {
            let fd = sys::inherited(fd).ok_or_else(|| StepFailed::because("starting", "a namespace to join is missing"))?;
            joined.set(*join, fd);
        }
        let alone = lock_run_directory(&brief.log.path)?;
        let mut log = Writer::open(brief.log.path.clone(), brief.log.max_size, brief.log.max_files)
            .doing(format_args!("opening the log {}", brief.log.path.display()))?
            .at_once(brief.terminal || brief.stdin);
        brief.log.holds.iter().for_each(|hold| log.holds.set(*hold));
        brief.log.expected.iter().for_each(|reader| log.holds.expect(*reader, Instant::now()));
        let cloexec = OFlag::O_CLOEXEC;
        let (status, status_child) = pipe2(cloexec).doing("making a pipe")?;
        let (handing, handing_child) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).doing("making a socket")?;
        let mut outputs = Vec::new();
        let mut input = None;
        let stdio = if brief.terminal {
            None
        } else {
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
                outputs.push(Output { fd, stream });
            }
            Some([in_child, out_child, err_child])
        };
        let mut chld = SigSet::empty();
        chld.add(Signal::SIGCHLD);
        chld.thread_block().doing("blocking SIGCHLD")?;
        let signals = SignalFd::with_flags(&chld, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).doing("opening a signalfd")?;
        let _ = std::fs::remove_file("control");
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
            .doing("making the control socket")?;
        let address = UnixAddr::new("control").doing("naming the control socket")?;
        bind(listener.as_raw_fd(), &address).doing("binding the control socket")?;
        listen(&listener, Backlog::new(4).unwrap_or(Backlog::MAXCONN)).doing("listening on the control socket")?;
        // An engine that comes from here on finds the control socket, and takes the container over.
        if closed(engine) {
            return Err(StepFailed::because("starting", "the engine that wanted the container has gone"));
        }
        let inherited = Inherited { stdio, joined, status: status_child, monitor: handing_child };
        let init = match &brief.runtime {
            Some(program) => {
                let launch: Launch =
                    serde_json::from_slice(&text).map_err(std::io::Error::from).doing("reading the launch file")?;
                external::start(&launch, Runtime { program, id: &brief.id }, inherited)?
            }
            None => fork_init(&brief, &text, inherited)?,
        };
        let pidfd = sys::pidfd_open(init).doing("opening the container's process")?;
        Ok(Monitor {
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
            said: Vec::new(),
            started_at: None,
            execs: Vec::new(),
            unmatched: Vec::new(),
            paused: false,
            goodbye: false,
            alone: Some(alone),
            reviving: None,
            message: Vec::new(),
        })
    }

    fn supervise(&mut self) -> Result<(), StepFailed> {
        let mut chunk = vec![0; CHUNK];
        loop {
            self.wait()?;
            if self.stalled {
                self.stalled = self.log.flush().is_err();
            }
            if self.log.is_full() {
                self.catch_up();
            }
            if self.brief.terminal {
                self.take_handed();
            }
            self.read_status();
            self.read_exec_status();
            if !self.stalled {
                self.pump(&mut chunk);
            }
            if let Some(code) = self.reap() {
                return self.finish(code, &mut chunk);
            }
            self.accept();
            self.serve();
            if self.engine.is_none() {
                // Readers come back by the next engine, or not.
                self.log.holds.orphan(Instant::now());
                if !self.goodbye {
                    self.revive();
                }
            }
        }
    }

    /// Readers have come further, or have left: the log may go on.
    fn catch_up(&mut self) {
        if !self.stalled {
            self.stalled = self.log.catch_up().is_err();
        }
    }

    /// Sleeps until something happens. A stalled log or a missing engine is looked after every second, and a log whose readers
    /// are behind, in case that one of them does not come back.
    fn wait(&self) -> Result<(), StepFailed> {
        let waits = self.stalled || self.log.is_full();
        let outputs = if waits { &[][..] } else { &self.outputs[..] };
        let mut fds: Vec<PollFd<'_>> = [self.signals.as_fd(), self.listener.as_fd()]
            .into_iter()
            .chain([&self.engine, &self.status].into_iter().flatten().map(AsFd::as_fd))
            .chain(self.handing.as_ref().filter(|_| self.brief.terminal).map(AsFd::as_fd))
            .chain(outputs.iter().map(|output| output.fd.as_fd()))
            .chain(self.execs.iter().filter_map(|exec| exec.status.as_ref()).map(AsFd::as_fd))
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let timeout =
            if waits || (self.engine.is_none() && !self.goodbye) { PollTimeout::from(1000u16) } else { PollTimeout::NONE };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno).doing("waiting"),
        }
    }

    fn tell(&mut self, event: &Event) {
        if let Some(engine) = &self.engine
            && control::send(engine.as_fd(), event, &[]).is_err()
        {
            self.engine = None;
        }
    }

    /// Takes what the child has handed over by now. Without a terminal that is looked for once, when the program runs.
    fn take_handed(&mut self) {
        const LARGEST: usize = 64;
        while let Some(socket) = self.handing.as_ref().filter(|socket| readable(socket)) {
            match control::receive_into::<Handed>(socket.as_fd(), &mut [0; LARGEST]) {
                Ok(Some((Handed::Terminal, fds))) => {
                    let Some(master) = fds.into_iter().next() else { continue };
                    let _ = fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
                    if let Ok(copy) = master.try_clone() {
                        self.outputs.push(Output { fd: copy, stream: Stream::Stdout });
                    }
                    self.terminal = Some(master);
                }
                Ok(Some((Handed::MountNamespace, fds))) => self.kept_in = fds.into_iter().next(),
                Ok(Some((Handed::Mounts, fds))) => self.kept.extend(fds),
                Ok(None) | Err(_) => self.handing = None,
            }
        }
    }

    /// The child's last word before its program runs: nothing, when it does.
    fn read_status(&mut self) {
        let Some(status) = &self.status else { return };
        if !readable(status) {
            return;
        }
        let mut buffer = [0; 4096];
        match read(status, &mut buffer) {
            Ok(0) | Err(_) => self.status = None,
            Ok(n) => {
                self.said.extend_from_slice(&buffer[..n]);
                return;
            }
        }
        self.take_handed();
        self.handing = None;
        if self.said.is_empty() {
            let at = jiff::Timestamp::now();
            self.started_at = Some(at);
            self.tell(&Event::Started { pid: self.init, at, keeps_mounts: true, holds_log: true });
        }
    }

    fn read_exec_status(&mut self) {
        let mut events = Vec::new();
        for exec in &mut self.execs {
            let Some(status) = exec.status.as_ref().filter(|s| readable(s)) else { continue };
            let mut buffer = [0; 4096];
            match read(status, &mut buffer) {
                Ok(n) if n > 0 => exec.said.extend_from_slice(&buffer[..n]),
                _ => exec.status = None,
            }
            if exec.pid.is_none() && exec.said.first() == Some(&exec::PID_MARK) && exec.said.len() >= 5 {
                let rest = exec.said.split_off(5);
                let word = std::mem::replace(&mut exec.said, rest);
                exec.pid = word[1..].try_into().ok().map(i32::from_ne_bytes);
            }
            if exec.status.is_none() {
                events.push(match (exec.pid, serde_json::from_slice::<(i32, String)>(&exec.said)) {
                    (_, Ok((code, message))) => Event::ExecFailed { id: exec.id, message, code },
                    (Some(pid), Err(_)) => Event::ExecStarted { id: exec.id, pid },
                    (None, Err(_)) => Event::ExecFailed {
                        id: exec.id,
                        message: "the process ended before it could be set up".into(),
                        code: 128,
                    },
                });
            }
        }
        let failed: Vec<u64> =
            events.iter().filter_map(|e| if let Event::ExecFailed { id, .. } = e { Some(*id) } else { None }).collect();
        self.execs.retain(|exec| !failed.contains(&exec.id));
        events.iter().for_each(|event| self.tell(event));
        // A process that ended before its id was known has been reaped already.
        let matched: Vec<_> = self.execs.iter().filter(|e| e.status.is_none()).filter_map(|e| Some((e.id, e.pid?))).collect();
        for (id, pid) in matched {
            if let Some(at) = self.unmatched.iter().position(|(p, _)| *p == pid) {
                let (_, code) = self.unmatched.swap_remove(at);
                self.execs.retain(|exec| exec.id != id);
                self.tell(&Event::ExecExited { id, code });
            }
        }
        if self.execs.is_empty() {
            self.unmatched.clear();
        }
    }

    /// Moves what the container has written into the log.
    fn pump(&mut self, chunk: &mut [u8]) {
        let mut i = 0;
        while i < self.outputs.len() && !self.log.is_full() {
            let output = &self.outputs[i];
            match read(&output.fd, chunk) {
                Ok(n) if n > 0 => {
                    if self.log.write(output.stream, &chunk[..n]).is_err() {
                        self.stalled = true;
                        return;
                    }
                    i += 1;
                }
                Err(Errno::EAGAIN | Errno::EINTR) => i += 1,
                _ => {
                    self.outputs.swap_remove(i);
                }
            }
        }
    }

    /// Reaps every child that has ended. Returns the exit code of the container's own process.
    fn reap(&mut self) -> Option<i32> {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        let mut ended = None;
        while let Some(Ended { pid, code }) = sys::reap() {
            if pid == self.init {
                ended = Some(code);
            } else if let Some(at) = self.execs.iter().position(|e| e.pid == Some(pid) && e.status.is_none()) {
                let exec = self.execs.swap_remove(at);
                self.tell(&Event::ExecExited { id: exec.id, code });
            } else if !self.execs.is_empty() {
                self.unmatched.push((pid, code));
            }
        }
        ended
    }

    fn accept(&mut self) {
        let Ok(fd) = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else { return };
        self.engine = Some(sys::received(fd));
        self.reviving = None;
    }

    fn serve(&mut self) {
        while let Some(engine) = self.engine.as_ref().filter(|e| readable(e)) {
            match control::receive::<Request>(engine.as_fd(), &mut self.message) {
                Ok(Some((request, fds))) => self.answer(request, fds),
                Ok(None) | Err(_) => self.engine = None,
            }
        }
        self.message = Vec::new();
    }

    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) {
        match request {
            Request::Signal(signal) => match self.runtime() {
                Some(runtime) => runtime.kill(signal),
                None => drop(sys::pidfd_signal(self.pidfd.as_fd(), signal)),
            },
            Request::Exec(spec) => self.exec(&spec, &fds),
            Request::SignalExec { id, signal } => {
                if let Some(pid) = self.execs.iter().find(|e| e.id == id).and_then(|e| e.pid) {
                    // The process is our child and not reaped yet, so the id cannot have been given to another.
                    if let Ok(pidfd) = sys::pidfd_open(pid) {
                        sys::pidfd_signal(pidfd.as_fd(), signal);
                    }
                }
            }
            Request::Resize { rows, columns } => {
                if let Some(terminal) = &self.terminal {
                    let _ = sys::set_window_size(terminal.as_fd(), rows, columns);
                }
            }
            Request::Input => {
                let input = self.terminal.as_ref().or(self.input.as_ref());
                let fds: Vec<_> = input.into_iter().map(AsFd::as_fd).collect();
                if let Some(engine) = &self.engine {
                    let _ = control::send(engine.as_fd(), &Event::Input, &fds);
                }
            }
            Request::CloseInput => self.input = None,
            Request::Hold(hold) => {
                self.log.holds.set(hold);
                if hold.file == ALL {
                    self.tell(&Event::Held { reader: hold.reader });
                } else {
                    self.catch_up();
                }
            }
            Request::Release { reader } => {
                self.log.holds.release(reader);
                self.catch_up();
            }
            Request::Mount(destination) => self.answer_mount(&destination),
            Request::Pause(pause) => {
                let frozen = if pause { Frozen::Yes } else { Frozen::No };
                if self.brief.cgroup.set_frozen(&self.brief.group, frozen).is_ok() {
                    self.paused = pause;
                }
            }
            Request::Goodbye => self.goodbye = true,
            Request::Status => {
                self.goodbye = false;
                let started_at = self.started_at.unwrap_or_default();
                self.tell(&Event::Status {
                    pid: self.init,
                    started_at,
                    paused: self.paused,
                    keeps_mounts: true,
                    holds_log: true,
                });
            }
        }
    }

    /// Hands out a mount that the container may share, and the mount namespace in which it is.
    fn answer_mount(&mut self, destination: &Path) {
        let position = self.brief.kept.iter().position(|kept| kept == destination);
        let mount = position.and_then(|at| self.kept.get(at));
        let mut own = None;
        if mount.is_some() && self.kept_in.is_none() {
            // The process is our child and not reaped yet, so the id cannot have been given to another.
            let path = format!("/proc/{}/ns/mnt", self.init);
            own = nix::fcntl::open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok();
        }
        let namespace = self.kept_in.as_ref().or(own.as_ref());
        let both: Vec<_> = namespace.zip(mount).into_iter().flat_map(|(a, b)| [a.as_fd(), b.as_fd()]).collect();
        if let Some(engine) = &self.engine
            && control::send(engine.as_fd(), &Event::Mount, &both).is_err()
        {
            self.engine = None;
        }
    }

    /// The runtime of somebody else's that runs the container.
    fn runtime(&self) -> Option<Runtime<'_>> {
        self.brief.runtime.as_ref().map(|program| Runtime { program, id: &self.brief.id })
    }

    fn exec(&mut self, spec: &ExecSpec, streams: &[OwnedFd]) {
        let started = (|| -> Result<OwnedFd, StepFailed> {
            let (status, child) = pipe2(OFlag::O_CLOEXEC).doing("making a pipe")?;
            let text = std::fs::read("launch.json").doing("reading the launch file")?;
            let launch: Launch = serde_json::from_slice(&text).map_err(std::io::Error::from).doing("reading the launch file")?;
            match self.runtime() {
                Some(runtime) => external::exec(&launch, runtime, self.init, spec, streams, &child),
                None => exec::start(&launch, &self.pidfd, spec, streams, &child),
            }
            .doing("starting the process")?;
            Ok(status)
        })();
        match started {
            Ok(status) => self.execs.push(Exec { id: spec.id, pid: None, status: Some(status), said: Vec::new() }),
            Err(failure) => self.tell(&Event::ExecFailed { id: spec.id, message: failure.to_string(), code: failure.code }),
        }
    }

    /// Starts an engine, unless another monitor is at it.
    fn revive(&mut self) {
        if self.reviving.is_none() {
            let options = File::options().create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).clone();
            let Ok(file) = options.open(&self.brief.revive_lock) else { return };
            self.reviving = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok();
        }
        if self.reviving.is_some() {
            let args: Vec<CString> = self.brief.revive.iter().filter_map(|a| CString::new(a.as_str()).ok()).collect();
            let _ = sys::spawn(c"/proc/self/exe", &args, &[]);
        }
    }

    /// Reads the last output, records the exit and leaves nothing behind.
    fn finish(&mut self, code: i32, chunk: &mut [u8]) -> Result<(), StepFailed> {
        self.read_status();
        // The mounts are to be gone when the exit is told.
        (self.kept, self.kept_in) = (Vec::new(), None);
        self.drain(chunk);
        let oom_killed = self.brief.cgroup.oom_killed(&self.brief.group);
        if let Some(runtime) = self.runtime() {
            runtime.delete();
        }
        self.remove_cgroups();
        let event = if self.started_at.is_none() {
            let (code, message) = serde_json::from_slice(&self.said)
                .unwrap_or((code, format!("the container's process ended with code {code} before its program ran")));
            Event::Failed { message, code }
        } else {
            let exit = Exit { code, oom_killed, finished_at: jiff::Timestamp::now(), started_at: self.started_at };
            Event::Exited(exit)
        };
        let recorded = if let Event::Exited(exit) = &event { exit.record(&self.brief.exit_file) } else { Ok(()) };
        if !self.stalled {
            self.alone = None;
        }
        // The engine is told in any case: it writes down the exit, too.
        self.tell(&event);
        if self.stalled {
            let _ = std::fs::remove_file("control");
            self.engine = None;
            self.write_last_lines(chunk);
        } else {
            self.part(&event)?;
        }
        recorded.doing("recording the exit")
    }

    /// Stays until the engine has taken note of the end. One that restarts the container does so with the next start: until then
    /// this is the process that brings an engine back, if no other container has one.
    fn part(&mut self, event: &Event) -> Result<(), StepFailed> {
        (self.input, self.terminal, self.handing) = (None, None, None);
        (self.outputs, self.execs) = (Vec::new(), Vec::new());
        let mut seconds = 0;
        // The exit is on the disk: an engine that does not come back, or is of an earlier version, reads it there.
        while !self.goodbye && seconds < ALONE_SECONDS {
            if self.engine.is_none() {
                seconds += 1;
                self.revive();
            }
            self.wait()?;
            while let Ok(Some(_)) = self.signals.read_signal() {}
            self.accept();
            while let Some(engine) = self.engine.as_ref().filter(|engine| readable(engine)) {
                match control::receive::<Request>(engine.as_fd(), &mut self.message) {
                    Ok(Some((Request::Goodbye, _))) => self.goodbye = true,
                    Ok(Some((Request::Status, _))) => self.tell(event),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => self.engine = None,
                }
            }
            self.message = Vec::new();
        }
        Ok(())
    }

    /// Moves what is left of the output into the log, until the log refuses it.
    fn drain(&mut self, chunk: &mut [u8]) {
        self.log.end();
        let mut pumps = 0;
        while !self.stalled && self.outputs.iter().any(|output| readable(&output.fd)) {
            self.pump(chunk);
            pumps += 1;
            if pumps == FULL_PIPE {
                // Processes outside of the container's pid namespace may have outlived the first, and go on writing.
                self.brief.cgroup.kill(&self.brief.group);
            }
        }
        if !self.stalled {
            self.stalled = self.log.finish().is_err();
        }
    }

    /// The log refuses lines: the exit is known by now, and they are kept until a full disk has room for them, or nobody wants
    /// them any more since the container was removed. A disk with another trouble is not waited for as long.
    fn write_last_lines(&mut self, chunk: &mut [u8]) {
        let mut tries = 0;
        while self.stalled && self.log.is_wanted() && tries < OTHER_TROUBLE_SECONDS {
            std::thread::sleep(std::time::Duration::from_secs(1));
            match self.log.flush() {
                Ok(()) => {
                    self.stalled = false;
                    self.drain(chunk);
                }
                Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {}
                Err(_) => tries += 1,
            }
        }
    }

    /// Processes that exec started may take a moment longer to die than the container's first.
    fn remove_cgroups(&mut self) {
        for _ in 0..200 {
            if self.brief.cgroup.remove(&self.brief.group) {
                return;
            }
            self.brief.cgroup.kill(&self.brief.group);
            self.reap();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// Starts the container's first process, which sets itself up by the launch file.
fn fork_init(brief: &Brief, launch_file: &[u8], inherited: Inherited) -> Result<i32, StepFailed> {
    // Only children enter another pid namespace, and only the container is to: an engine that is revived must not.
    let own_pid = nix::fcntl::open("/proc/self/ns/pid", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
    if let Some(pid) = &inherited.joined.pid {
        nix::sched::setns(pid, CloneFlags::CLONE_NEWPID).doing("joining the other container's processes")?;
    }
    let init = match sys::fork_into(brief.clone_flags).doing("making the container's namespaces")? {
        Forked::Parent(pid) => pid,
        Forked::Child => match serde_json::from_slice::<Launch>(launch_file) {
            Ok(launch) => init::run(&launch, inherited),
            Err(error) => {
                init::report(&inherited.status, &StepFailed::new("reading the launch file", error.into()));
                sys::exit_now(128)
            }
        },
    };
    if inherited.joined.pid.is_some() {
        let own = own_pid.doing("finding the monitor's own pid namespace")?;
        nix::sched::setns(own, CloneFlags::CLONE_NEWPID).doing("leaving the other container's processes")?;
    }
    Ok(init)
}

/// How long the last lines of a container wait for a log that fails otherwise than by a full disk.
const OTHER_TROUBLE_SECONDS: u32 = 5;
/// So long a monitor whose container has ended tries to bring an engine back.
const ALONE_SECONDS: u32 = 60;
/// A monitor that has just told an exit may hold the lock for so long.
const LOCK_TRIES: u32 = 100;
/// After so many chunks the largest pipe is empty, unless somebody writes.
const FULL_PIPE: usize = (1 << 20) / CHUNK;
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

/// Whether a read would not block.
fn readable(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}
