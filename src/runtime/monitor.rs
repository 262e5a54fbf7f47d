//! The monitor: one small process beside each running container.
//!
//! It sets the container up and is its parent; it holds the container's streams, writes the log, records the exit. It is
//! single-threaded, keeps next to nothing in memory, and needs nobody: when the engine dies, nothing is lost, and the first
//! monitor that notices starts a new one.

mod exit;
mod requests;
mod start;

use super::cgroup::Hierarchy;
use super::control::{self, Event, Handed};
use super::error::{Doing, StepFailed};
use super::exec;
use super::external::{self, Runtime};
use super::launch::{ExecSpec, Join, Launch, LogTarget};
use crate::logs::{Stream, writer::Writer};
use crate::sys::{self, Ended};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{pipe2, read};
use serde::Deserialize;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The descriptor that the engine gives a monitor: its end of the control socket. After it come those of what is joined.
pub const ENGINE_FD: i32 = 3;

/// The fields of the launch file that the monitor keeps. The child reads the rest, and drops it by execve.
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

/// A pipe of the container that is copied to the log.
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
    /// Helpers that start the processes of `exec`: their ends say nothing.
    helpers: Vec<i32>,
    /// Children that ended while a process of `exec` was being started, and their exit codes.
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

    /// Readers have advanced or left: rotation may continue.
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

    /// Receives the descriptors that the child has sent. Without a terminal this is done once, when the program runs.
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

    /// Reads the child's status pipe: EOF without a message once its program runs.
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
                events.push(match (exec.pid, failure_in(&exec.said)) {
                    (_, Some((code, message))) => Event::ExecFailed { id: exec.id, message, code },
                    (Some(pid), None) => Event::ExecStarted { id: exec.id, pid },
                    (None, None) => Event::ExecFailed {
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
        // Ids are used again: what is kept longer than the start it belongs to would be taken for another's end.
        if self.execs.iter().all(|exec| exec.status.is_none()) {
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
            } else if let Some(at) = self.helpers.iter().position(|helper| *helper == pid) {
                self.helpers.swap_remove(at);
            } else if self.execs.iter().any(|exec| exec.status.is_some()) {
                self.unmatched.push((pid, code));
            }
        }
        ended
    }

    /// The runtime that runs the container, where it is not wharf's own.
    fn runtime(&self) -> Option<Runtime<'_>> {
        self.brief.runtime.as_ref().map(|program| Runtime { program, id: &self.brief.id })
    }

    fn exec(&mut self, spec: &ExecSpec, streams: &[OwnedFd]) {
        let started = (|| -> Result<(OwnedFd, i32), StepFailed> {
            let (status, child) = pipe2(OFlag::O_CLOEXEC).doing("making a pipe")?;
            let text = std::fs::read("launch.json").doing("reading the launch file")?;
            let launch: Launch = serde_json::from_slice(&text).map_err(std::io::Error::from).doing("reading the launch file")?;
            let helper = match self.runtime() {
                Some(runtime) => external::exec(&launch, runtime, self.init, spec, streams, &child),
                None => exec::start(&launch, &self.pidfd, spec, streams, &child),
            }
            .doing("starting the process")?;
            Ok((status, helper))
        })();
        match started {
            Ok((status, helper)) => {
                self.helpers.push(helper);
                self.execs.push(Exec { id: spec.id, pid: None, status: Some(status), said: Vec::new() });
            }
            Err(failure) => self.tell(&Event::ExecFailed { id: spec.id, message: failure.to_string(), code: failure.code }),
        }
    }

    /// Starts an engine, unless another monitor is at it, or the container was removed while this one could not answer: nobody
    /// needs an engine for it.
    fn revive(&mut self) {
        if !Path::new("launch.json").exists() {
            self.goodbye = true;
            return;
        }
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
}

/// The failure that a further process has told of; its helper may tell its id only then.
fn failure_in(said: &[u8]) -> Option<(i32, String)> {
    serde_json::Deserializer::from_slice(said).into_iter().next()?.ok()
}

/// Whether a read would not block.
fn readable(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}
