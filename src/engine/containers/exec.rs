//! Further processes in running containers, for users (`exec`) and for health checks.

mod excerpt;

use super::registry::Containers;
pub(in crate::engine) use excerpt::Excerpt;

use crate::engine::error::EngineError;
use crate::engine::numbers::Numbers;
use crate::engine::record::Status;
use crate::engine::{Container, locked, new_id};
use crate::network::dns::Names;
use crate::runtime::control::{self, MonitorEvent, MonitorRequest};
use crate::runtime::error::SetupStep;
use crate::runtime::launch::ExecSpec;
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::pipe2;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, watch};

/// The request for an exec.
#[derive(Clone, Debug, Default)]
pub struct NewExec {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub tty: bool,
    pub privileged: bool,
    pub stdin: bool,
    /// Output and error output that nobody wants are thrown away.
    pub stdout: bool,
    pub stderr: bool,
    pub detach_keys: String,
    pub size: Option<(u16, u16)>,
}

impl NewExec {
    /// Whether a client gets a stream: 1 is standard output, 2 standard error. A terminal has one.
    pub fn is_attached(&self, stream: u8) -> bool {
        if stream == 1 { self.stdout } else { self.stderr && !self.tty }
    }
}

/// A process that was asked for, is running, or has ended.
pub struct Exec {
    pub id: String,
    pub container: Arc<Container>,
    pub new: NewExec,
    number: u64,
    pub state: watch::Sender<ExecState>,
    terminal: Mutex<Option<OwnedFd>>,
}

/// The state of an exec; the exit code is absent while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExecState {
    pub pid: i32,
    pub running: bool,
    pub exit_code: Option<i32>,
}

/// Where the events of execs that run in a container go, by the number of each.
pub(in crate::engine) type Running = HashMap<u64, mpsc::UnboundedSender<MonitorEvent>>;

/// Clients ask soon how an exec has ended. Docker keeps them for some minutes as well.
const KEPT_FOR: Duration = Duration::from_secs(300);
const KEPT_AT_MOST: usize = 1000;
/// A monitor that has not started an exec by then is asked whether it is there.
const PATIENCE: Duration = Duration::from_secs(1);
/// One that has not answered by then hangs.
pub(in crate::engine) const SILENCE: Duration = Duration::from_secs(5);

/// Execs by id.
pub struct Execs {
    pub(super) containers: Arc<Containers>,
    numbers: Arc<Numbers>,
    pub(super) names: Arc<Names>,
    known: Mutex<KnownExecs>,
}

#[derive(Default)]
struct KnownExecs {
    by_id: HashMap<String, Arc<Exec>>,
    /// Those that have ended or never will begin, the longest ago first.
    over: VecDeque<(Instant, String)>,
}

impl Execs {
    pub(in crate::engine) fn new(containers: Arc<Containers>, numbers: Arc<Numbers>, names: Arc<Names>) -> Self {
        Execs { containers, numbers, names, known: Mutex::default() }
    }

    fn insert(&self, exec: Arc<Exec>) {
        let mut known = locked(&self.known);
        known.expire(Instant::now());
        known.by_id.insert(exec.id.clone(), exec);
    }

    fn get(&self, id: &str) -> Option<Arc<Exec>> {
        locked(&self.known).by_id.get(id).cloned()
    }

    fn forget_id(&self, id: &str) {
        locked(&self.known).by_id.remove(id);
    }

    fn ended(&self, id: &str) {
        let mut known = locked(&self.known);
        if known.by_id.contains_key(id) {
            known.over.push_back((Instant::now(), id.to_string()));
        }
        known.expire(Instant::now());
    }

    /// Execs that were never started in a container that has ended never will be.
    pub(in crate::engine) fn container_ended(&self, container: &str) {
        let mut known = locked(&self.known);
        let unstarted = |exec: &&Arc<Exec>| exec.container.id == container && *exec.state.borrow() == ExecState::default();
        let unstarted: Vec<String> = known.by_id.values().filter(unstarted).map(|exec| exec.id.clone()).collect();
        let now = Instant::now();
        known.over.extend(unstarted.into_iter().map(|id| (now, id)));
    }
}

impl KnownExecs {
    fn expire(&mut self, now: Instant) {
        while let Some((since, _)) = self.over.front()
            && (now.duration_since(*since) > KEPT_FOR || self.over.len() > KEPT_AT_MOST)
            && let Some((_, id)) = self.over.pop_front()
        {
            self.by_id.remove(&id);
        }
    }
}

/// An exec that a monitor was asked for; its events go nowhere when it is not started.
struct Unstarted<'a> {
    container: &'a Container,
    number: u64,
}

impl Unstarted<'_> {
    fn started(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unstarted<'_> {
    fn drop(&mut self) {
        locked(&self.container.live).execs.remove(&self.number);
    }
}

/// The first event about an exec; `None` when the container ends before.
///
/// # Errors
/// When the monitor hangs.
async fn first_event(
    container: &Container,
    events: &mut mpsc::UnboundedReceiver<MonitorEvent>,
) -> Result<Option<MonitorEvent>, EngineError> {
    loop {
        if let Ok(event) = tokio::time::timeout(PATIENCE, events.recv()).await {
            return Ok(event);
        }
        // It may answer with the event itself.
        if !container.monitor_answers(SILENCE).await {
            return match events.try_recv() {
                Ok(event) => Ok(Some(event)),
                Err(TryRecvError::Disconnected) => Ok(None),
                Err(TryRecvError::Empty) => Err(EngineError::Unresponsive { name: container.name() }),
            };
        }
    }
}

/// The engine's ends of a process's streams.
pub enum ProcessStreams {
    Pipes { input: Option<pipe::Sender>, output: pipe::Receiver, error: pipe::Receiver },
    Terminal(OwnedFd),
}

impl Execs {
    /// Notes a process to run; nothing is started yet.
    ///
    /// # Errors
    /// When the container does not run.
    pub fn create(&self, container: &Arc<Container>, new: NewExec) -> Result<Arc<Exec>, EngineError> {
        match container.status() {
            Status::Running => {}
            Status::Paused => {
                return Err(EngineError::Conflict(format!(
                    "container {} is paused, unpause the container before exec",
                    container.name()
                )));
            }
            _ => return Err(container.not_running()),
        }
        if new.args.is_empty() {
            return Err(EngineError::Invalid("there is no command to run".into()));
        }
        let exec = Arc::new(Exec {
            id: new_id().map_err(EngineError::io("making an id"))?,
            container: container.clone(),
            new,
            number: self.numbers.next(),
            state: watch::Sender::new(ExecState::default()),
            terminal: Mutex::new(None),
        });
        self.insert(exec.clone());
        Ok(exec)
    }

    /// Ids of the processes of a container that run or are yet to be started, in the order of their making.
    pub fn of_container(&self, container: &str) -> Vec<String> {
        let known = locked(&self.known);
        let open = |exec: &&Arc<Exec>| exec.container.id == container && exec.state.borrow().exit_code.is_none();
        let mut execs: Vec<&Arc<Exec>> = known.by_id.values().filter(open).collect();
        execs.sort_by_key(|exec| exec.number);
        execs.into_iter().map(|exec| exec.id.clone()).collect()
    }

    /// # Errors
    /// When there is none of that id.
    pub fn find(&self, id: &str) -> Result<Arc<Exec>, EngineError> {
        self.get(id).ok_or_else(|| EngineError::NoSuch { what: "exec", name: id.into() })
    }

    /// Starts the process, and follows it to its end.
    ///
    /// # Errors
    /// Why it cannot run: code 127 where the program is missing, 126 where it cannot be executed.
    pub async fn start(self: &Arc<Self>, exec: &Arc<Exec>) -> Result<ProcessStreams, EngineError> {
        let container = &exec.container;
        let record = container.record();
        let doing = || EngineError::io("making a pipe");
        let hostname = self.containers.host_name(&record);
        let spec = ExecSpec {
            id: exec.number,
            args: exec.new.args.clone(),
            env: record.process_env(&exec.new.env, &hostname, exec.new.tty),
            cwd: exec.new.cwd.clone().unwrap_or_else(|| record.working_dir().to_string()),
            user: exec.new.user.clone().unwrap_or_default(),
            tty: exec.new.tty,
            privileged: exec.new.privileged,
            size: exec.new.size,
        };
        let (sender, mut events) = mpsc::unbounded_channel();
        locked(&container.live).execs.insert(exec.number, sender);
        let number = exec.number;
        // Nobody waits for it any more if this is dropped or fails.
        let unstarted = Unstarted { container, number };
        let pending = if exec.new.tty {
            let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|e| doing()(e.into()))?;
            container.ask(&MonitorRequest::Exec(spec), &[theirs.as_fd()])?;
            Pending::Terminal(ours)
        } else {
            let (output, output_child) = pipe2(OFlag::O_CLOEXEC).map_err(|e| doing()(e.into()))?;
            let (error, error_child) = pipe2(OFlag::O_CLOEXEC).map_err(|e| doing()(e.into()))?;
            let (input_child, input) = if exec.new.stdin {
                let (child, ours) = pipe2(OFlag::O_CLOEXEC).map_err(|e| doing()(e.into()))?;
                (child, Some(ours))
            } else {
                (std::fs::File::open("/dev/null").map_err(doing())?.into(), None)
            };
            container.ask(&MonitorRequest::Exec(spec), &[input_child.as_fd(), output_child.as_fd(), error_child.as_fd()])?;
            Pending::Pipes { input, output, error }
        };
        match first_event(container, &mut events).await? {
            Some(MonitorEvent::ExecStarted { pid, .. }) => {
                exec.state.send_modify(|state| *state = ExecState { pid, running: true, exit_code: None })
            }
            Some(MonitorEvent::ExecFailed { message, code, step, .. }) => {
                let step = step.unwrap_or_else(|| SetupStep::of_code(code));
                exec.state.send_modify(|state| state.exit_code = Some(code));
                let (command, container) = (exec.new.args[0].clone(), record.name.clone());
                return Err(EngineError::Exec { command, container, message, step });
            }
            _ => return Err(EngineError::NotRunning { name: record.name.clone() }),
        }
        unstarted.started();
        let (execs, ended) = (self.clone(), exec.clone());
        tokio::spawn(async move {
            let code = match events.recv().await {
                Some(MonitorEvent::ExecExited { code, .. }) => code,
                _ => 137,
            };
            ended.state.send_modify(|state| *state = ExecState { running: false, exit_code: Some(code), ..*state });
            execs.ended(&ended.id);
        });
        Ok(match pending {
            Pending::Terminal(socket) => {
                let mut buffer = Vec::new();
                let received =
                    control::receive::<()>(socket.as_fd(), &mut buffer).map_err(EngineError::io("taking the terminal"))?;
                let master = received.and_then(|((), fds)| fds.into_iter().next());
                let master = master.ok_or_else(|| EngineError::Conflict("the process has no terminal".into()))?;
                *locked(&exec.terminal) = master.try_clone().ok();
                ProcessStreams::Terminal(master)
            }
            Pending::Pipes { input, output, error } => ProcessStreams::Pipes {
                input: input.map(pipe::Sender::from_owned_fd).transpose().map_err(doing())?,
                output: pipe::Receiver::from_owned_fd(output).map_err(doing())?,
                error: pipe::Receiver::from_owned_fd(error).map_err(doing())?,
            },
        })
    }

    /// Runs a command to its end and returns its exit code and what `excerpt` keeps of its output, standard error with it; `None`
    /// when the container is gone. Both streams are read all the time, so that no command waits for a reader. A process that the
    /// command has left behind may hold them open: the exit of the command is the end.
    pub(in crate::engine) async fn run(
        self: &Arc<Self>,
        container: &Arc<Container>,
        new: NewExec,
        mut excerpt: Excerpt,
    ) -> Option<(i32, String)> {
        let exec = self.create(container, new).ok()?;
        let ended = EndExec { execs: self, exec: &exec };
        let (mut output, mut error) = match self.start(&exec).await {
            Ok(ProcessStreams::Pipes { output, error, .. }) => (output, error),
            Ok(ProcessStreams::Terminal(_)) => return None,
            Err(EngineError::Exec { message, step, .. }) => return Some((step.exit_code(), message)),
            Err(error @ EngineError::Unresponsive { .. }) => return Some((-1, error.to_string())),
            Err(_) => return None,
        };
        let mut state = exec.state.subscribe();
        let exited = async { state.wait_for(|state| state.exit_code.is_some()).await.map(|state| state.exit_code) };
        tokio::pin!(exited);
        let (mut out, mut err) = (vec![0; READ], vec![0; READ]);
        let (mut out_open, mut err_open) = (true, true);
        let code = loop {
            tokio::select! {
                n = output.read(&mut out), if out_open => out_open = excerpt.take(1, &out, n).await,
                n = error.read(&mut err), if err_open => err_open = excerpt.take(2, &err, n).await,
                code = &mut exited => break code.ok()?,
            }
        };
        drop(ended);
        // What it had written by then is in the pipes, which a container may have made larger, and may go on to fill. The pipe
        // itself is read: tokio's `try_read` does not ask the kernel until it has heard that something is there.
        for (stream, pipe) in [(1, &output), (2, &error)] {
            let mut left = PIPE;
            while left > 0
                && let Ok(n @ 1..) = nix::unistd::read(pipe, &mut out)
            {
                excerpt.take(stream, &out, Ok(n)).await;
                left = left.saturating_sub(n);
            }
        }
        Some((code.unwrap_or(137), excerpt.text()))
    }

    /// Sets the size of a process's terminal.
    pub fn resize(&self, exec: &Exec, rows: u16, columns: u16) {
        if let Some(terminal) = &*locked(&exec.terminal) {
            let _ = crate::sys::set_window_size(terminal.as_fd(), rows, columns);
        }
    }

    /// A process that could not be started is known for a while, with its exit code.
    pub fn end_exec(&self, exec: &Exec) {
        exec.state.send_modify(|state| state.exit_code = state.exit_code.or(Some(126)));
        self.ended(&exec.id);
    }

    /// Forgets a process that has ended.
    pub fn forget(&self, exec: &Exec) {
        self.forget_id(&exec.id);
    }
}

/// Bytes that are read of a pipe at once, and that it holds at most (`fs.pipe-max-size`).
const READ: usize = 8 * 1024;
const PIPE: usize = 1024 * 1024;

enum Pending {
    Pipes { input: Option<OwnedFd>, output: OwnedFd, error: OwnedFd },
    Terminal(OwnedFd),
}

/// Ends a health check's process when its time is over: the future that waits for it is dropped then.
struct EndExec<'a> {
    execs: &'a Execs,
    exec: &'a Arc<Exec>,
}

impl Drop for EndExec<'_> {
    fn drop(&mut self) {
        if self.exec.state.borrow().running {
            let _ = self.exec.container.ask(&MonitorRequest::SignalExec { id: self.exec.number, signal: libc::SIGKILL }, &[]);
        }
        self.execs.forget(self.exec);
    }
}
