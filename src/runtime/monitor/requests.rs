//! Requests of the engine to a monitor, and their answers.

use super::{Monitor, readable};
use crate::logs::holds::ALL;
use crate::runtime::cgroup::Frozen;
use crate::runtime::control::{self, MonitorEvent, MonitorRequest};
use crate::sys::{self};
use nix::fcntl::OFlag;
use nix::sys::socket::{SockFlag, accept4};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

impl Monitor {
    pub(super) fn accept(&mut self) {
        let Ok(fd) = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else { return };
        self.engine = Some(sys::received(fd));
        self.reviving = None;
    }

    pub(super) fn serve(&mut self) {
        while let Some(engine) = self.engine.as_ref().filter(|e| readable(e)) {
            match control::receive::<MonitorRequest>(engine.as_fd(), &mut self.message) {
                Ok(Some((request, fds))) => self.answer(request, fds),
                Err(error) if control::is_of_another_version(&error) => {}
                Ok(None) | Err(_) => self.engine = None,
            }
        }
        self.message = Vec::new();
    }

    fn answer(&mut self, request: MonitorRequest, fds: Vec<OwnedFd>) {
        match request {
            MonitorRequest::Signal(signal) => match self.runtime() {
                Some(runtime) => runtime.kill(signal),
                None => drop(sys::pidfd_signal(self.pidfd.as_fd(), signal)),
            },
            MonitorRequest::Exec(spec) => self.exec(&spec, &fds),
            MonitorRequest::SignalExec { id, signal } => self.signal_exec(id, signal),
            MonitorRequest::Resize { rows, columns } => {
                if let Some(terminal) = &self.terminal {
                    let _ = sys::set_window_size(terminal.as_fd(), rows, columns);
                }
            }
            MonitorRequest::Input => {
                let input = self.terminal.as_ref().or(self.input.as_ref());
                let fds: Vec<_> = input.into_iter().map(AsFd::as_fd).collect();
                if let Some(engine) = &self.engine {
                    let _ = control::send(engine.as_fd(), &MonitorEvent::Input, &fds);
                }
            }
            MonitorRequest::CloseInput => self.input = None,
            MonitorRequest::Hold(hold) => {
                self.log.holds.set(hold);
                if hold.file == ALL {
                    self.report(&MonitorEvent::Held { reader: hold.reader });
                } else {
                    self.catch_up();
                }
            }
            MonitorRequest::Release { reader } => {
                self.log.holds.release(reader);
                self.catch_up();
            }
            MonitorRequest::Mount(destination) => self.answer_mount(&destination),
            MonitorRequest::Pause(pause) => {
                let frozen = if pause { Frozen::Yes } else { Frozen::No };
                if self.brief.cgroup.set_frozen(&self.brief.group, frozen).is_ok() {
                    self.paused = pause;
                }
            }
            MonitorRequest::Goodbye => self.goodbye = true,
            MonitorRequest::Status => {
                self.goodbye = false;
                let started_at = self.started_at.unwrap_or_default();
                let starting = self.started_at.is_none();
                self.report(&MonitorEvent::Status {
                    pid: self.init,
                    started_at,
                    paused: self.paused,
                    keeps_mounts: true,
                    holds_log: true,
                    starting,
                });
            }
        }
    }

    /// Sends the descriptor of a shared mount, and of the mount namespace in which it is.
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
            && control::send(engine.as_fd(), &MonitorEvent::Mount, &both).is_err()
        {
            self.engine = None;
        }
    }
}
