//! The monitor: one small process beside each running container.
//!
//! It sets the container up and is its parent; it holds the container's streams, writes the log, records the exit. It is
//! single-threaded, keeps next to nothing in memory, and needs nobody: when the engine dies, nothing is lost, and the first
//! monitor that notices starts a new one.

mod execs;
mod exit;
mod requests;
mod start;

use execs::MonitorExecs;

use super::cgroup::Hierarchy;
use super::control::{self, Handed, MonitorEvent};
use super::error::{Doing, StepFailed};
use super::external::Runtime;
use super::init;
use super::launch::{Join, LogTarget};
use crate::logs::{Stream, writer::LogWriter};
use crate::sys;
use crate::sys::shared::SharedReport;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::unistd::read;
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
        // Nobody reads a monitor's stderr: errors are reported to the engine.
        Err(_) => 1,
    }
}

fn run(directory: &Path) -> Result<(), StepFailed> {
    let Some(engine) = sys::inherited(ENGINE_FD) else { return Err(StepFailed::because("starting", "there is no engine")) };
    sys::set_process_name();
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).doing("hiding the process")?;
    // The OOM killer should choose the container, not the monitor that reports its end.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
    nix::unistd::chdir(directory).doing("entering the run directory")?;
    let mut monitor = match Monitor::start(&engine) {
        Ok(monitor) => monitor,
        Err(failure) => {
            let (message, code) = (failure.to_string(), failure.exit_code());
            let _ = control::send(engine.as_fd(), &MonitorEvent::Failed { message, code, step: Some(failure.step) }, &[]);
            return Err(failure);
        }
    };
    monitor.engine = Some(engine);
    monitor.supervise()
}

/// A pipe of the container that is copied to the log.
struct OutputPipe {
    fd: OwnedFd,
    stream: Stream,
}

/// A process that sets a container up, and then makes its first process in another's pid namespace.
struct Joining {
    helper: i32,
    /// Of the first process, and why its program does not run.
    report: SharedReport,
    /// The exit code of a first process that has ended before the helper.
    ended: Option<i32>,
}

struct Monitor {
    brief: Brief,
    /// The container's first process, or the one that will make it.
    init: i32,
    pidfd: OwnedFd,
    signals: SignalFd,
    listener: OwnedFd,
    engine: Option<OwnedFd>,
    outputs: Vec<OutputPipe>,
    log: LogWriter,
    /// The log could not be written (a full disk): nothing more is read until it can.
    stalled: bool,
    input: Option<OwnedFd>,
    /// The terminal's master, once the child has sent it.
    terminal: Option<OwnedFd>,
    /// Until the first process has been made by another one, of a container that joins another's processes.
    joining: Option<Joining>,
    /// On which the child hands descriptors over, until its program runs.
    handing: Option<OwnedFd>,
    /// Mounts that other containers may share, in the order of the launch file.
    kept: Vec<OwnedFd>,
    /// The mount namespace in which those are, where it is not the container's own.
    kept_in: Option<OwnedFd>,
    status: Option<OwnedFd>,
    reported: Vec<u8>,
    started_at: Option<jiff::Timestamp>,
    /// Before the time of the first line: output may come before it is known that the program runs.
    first_output: Option<jiff::Timestamp>,
    execs: MonitorExecs,
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
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let timeout =
            if waits || (self.engine.is_none() && !self.goodbye) { PollTimeout::from(1000u16) } else { PollTimeout::NONE };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno).doing("waiting"),
        }
    }

    fn report(&mut self, event: &MonitorEvent) {
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
                        self.outputs.push(OutputPipe { fd: copy, stream: Stream::Stdout });
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
                self.reported.extend_from_slice(&buffer[..n]);
                return;
            }
        }
        self.take_handed();
        self.handing = None;
        if self.joining.is_none() && (self.brief.runtime.is_some() || self.reported == init::READY) {
            self.reported.clear();
            self.has_started();
        }
    }

    /// Reports that the program runs, unless it was said why it does not.
    fn has_started(&mut self) {
        if self.reported.is_empty() && self.started_at.is_none() {
            // Not after its first line, which would not be of this run then.
            let at = self.first_output.unwrap_or_else(jiff::Timestamp::now);
            self.started_at = Some(at);
            self.report(&MonitorEvent::Started { pid: self.init, at, keeps_mounts: true, holds_log: true });
        }
    }

    /// Moves what the container has written into the log.
    fn pump(&mut self, chunk: &mut [u8]) {
        let mut i = 0;
        while i < self.outputs.len() && !self.log.is_full() {
            let output = &self.outputs[i];
            match read(&output.fd, chunk) {
                Ok(n) if n > 0 => {
                    self.first_output.get_or_insert_with(jiff::Timestamp::now);
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
        while let Some(child) = sys::reap() {
            if let Some(joining) = self.joining.as_mut().filter(|joining| joining.report.pid() == Some(child.pid)) {
                joining.ended = Some(child.code);
            } else if self.joining.as_ref().is_some_and(|joining| joining.helper == child.pid) {
                ended = self.joined(child.code);
            } else if child.pid == self.init {
                ended = Some(child.code);
            } else {
                let events = self.execs.ended(&child);
                events.iter().for_each(|event| self.report(event));
            }
        }
        ended
    }

    /// The process has ended that has set the container up outside of the pid namespace. Returns the exit code where it is the
    /// container's end.
    fn joined(&mut self, code: i32) -> Option<i32> {
        // A failure of before the first process was made is in the pipe, and what is handed over in the socket.
        self.read_status();
        let Some(Joining { report, ended, .. }) = &self.joining else { return None };
        self.reported.extend(report.text());
        let Some(init) = report.pid() else { return Some(code) };
        let ended = *ended;
        (self.joining, self.init) = (None, init);
        if ended.is_none()
            && let Ok(pidfd) = sys::pidfd_open(init)
        {
            self.pidfd = pidfd;
            if !self.reported.is_empty() {
                end_failed(&self.pidfd);
            }
        }
        self.has_started();
        ended
    }

    /// The runtime that runs the container, where it is not wharf's own.
    fn runtime(&self) -> Option<Runtime<'_>> {
        self.brief.runtime.as_ref().map(|program| Runtime { program, id: &self.brief.id })
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

/// Ends a process that is said not to run its program. It ends by itself, unless one that may trace it has said so in its place.
fn end_failed(process: &OwnedFd) {
    sys::pidfd_signal(process.as_fd(), libc::SIGKILL);
}

/// Whether a read would not block.
fn readable(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}
