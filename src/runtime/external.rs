//! A container that another OCI runtime runs (`runtime: crun`): wharf makes the bundle, its mounts, the network and
//! the log; the runtime makes the container of it. The monitor stays the one who waits for it.
//!
//! The commands and their options are those that runc has and its like share: `create`, `start`, `exec`, `kill`, `delete`.

use super::capabilities::Capabilities;
use super::control::{self, Handed};
use super::error::{Doing, StepFailed};
use super::init::{self, Inherited};
use super::launch::{ExecSpec, JoinedNamespaces, Launch};
use super::rootfs::{self, Staged};
use super::{DEFAULT_PATH, spec, user};
use crate::runtime::error::{FailureReport, InStep, SetupStep};
use crate::sys::regular::open_regular;
use crate::sys::shared::SharedReport;
use crate::sys::{self, Forked};
use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxNamespace, LinuxNamespaceType, Process, User};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashSet;
use std::convert::Infallible;
use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Names of the runtime's files for a monitor, in the container's run directory, which is the bundle and everybody's working
/// directory: a socket's path may have only 107 bytes.
const STATE: &str = "runtime";
const LOG: &str = "runtime.log";
const PID: &str = "runtime.pid";
const CONSOLE: &str = "console.sock";
/// Milliseconds that a runtime has to hand its terminal over.
const CONSOLE_TIMEOUT: u16 = 10_000;

/// A runtime and the container that it is to run.
#[derive(Clone, Copy)]
pub struct Runtime<'a> {
    pub program: &'a Path,
    pub id: &'a str,
}

impl Runtime<'_> {
    fn arguments(&self, command: &[&str]) -> Vec<CString> {
        let program = self.program.to_string_lossy();
        let common = [program.as_ref(), "--root", STATE, "--log", LOG, "--log-format", "json"];
        common.iter().chain(command).filter_map(|text| CString::new(*text).ok()).collect()
    }

    /// Runs a command of the runtime's to its end.
    fn run(&self, command: &[&str]) -> io::Result<i32> {
        let program = CString::new(self.program.as_os_str().as_bytes())?;
        let pid = sys::spawn(&program, &self.arguments(command), &[])?;
        Ok(sys::wait_for(pid).unwrap_or(128))
    }

    /// Becomes a command of the runtime's. Returns only a failure.
    fn become_command(&self, command: &[&str]) -> StepFailed {
        let environment: Vec<CString> = CString::new(format!("PATH={DEFAULT_PATH}")).into_iter().collect();
        let _ = sys::close_on_exec_from(3);
        let error = sys::exec(self.program, &self.arguments(command), &environment);
        StepFailed::new(format!("running the runtime {}", self.program.display()), error)
    }

    /// Sends a signal to the container's process, wherever the runtime keeps that.
    pub fn kill(&self, signal: i32) {
        let _ = self.run(&["kill", self.id, &signal.to_string()]);
    }

    /// Removes what the runtime knows of the container.
    pub fn delete(&self) {
        let _ = self.run(&["delete", "--force", self.id]);
        let _ = sys::removal::remove_tree(Path::new("staged"));
    }

    /// The runtime's own last word.
    fn stderr(&self) -> String {
        let text = std::fs::read_to_string(LOG).unwrap_or_default();
        let message = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?["msg"].as_str()?.to_string());
        text.lines().rev().find_map(message).unwrap_or_else(|| text.trim().to_string())
    }
}

/// Has the runtime make and start the container. Returns its process, which is the caller's child from then on. The end of
/// `inherited.status` is the word that the program runs.
///
/// # Errors
/// The step that failed, or the runtime's own words; nothing of the container is left.
pub fn start(launch: &Launch, runtime: Runtime<'_>, inherited: Inherited) -> Result<i32, StepFailed> {
    // The container's process is the runtime's child, and the runtime does not stay.
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).doing("becoming the container's parent")?;
    let started = create(launch, runtime, inherited).and_then(|pid| match runtime.run(&["start", runtime.id]) {
        Ok(0) => Ok(pid),
        _ => Err(failed("starting the container", runtime)),
    });
    if started.is_err() {
        runtime.delete();
        launch.cgroup.kill(&launch.group);
        launch.cgroup.remove(&launch.group);
    }
    started
}

fn failed(doing: &str, runtime: Runtime<'_>) -> StepFailed {
    let stderr = runtime.stderr();
    // Its words are all that another runtime gives.
    let step = match () {
        () if stderr.contains("executable file") || stderr.contains("No such file") => SetupStep::ProgramMissing,
        () if stderr.contains("ermission denied") => SetupStep::ProgramNotExecutable,
        () => SetupStep::OtherRuntime,
    };
    let why = if stderr.is_empty() { "it gives no reason".into() } else { stderr };
    StepFailed::because(format!("{doing} by the runtime {}", runtime.program.display()), why).in_step(step)
}

fn create(launch: &Launch, runtime: Runtime<'_>, inherited: Inherited) -> Result<i32, StepFailed> {
    let Inherited { stdio, joined, status: _status, monitor: handing, .. } = inherited;
    for file in [LOG, PID, CONSOLE] {
        let _ = std::fs::remove_file(file);
    }
    let console = match launch.terminal {
        true => Some(UnixListener::bind(CONSOLE).doing("making the terminal's socket")?),
        false => None,
    };
    let (stderr, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).doing("making a pipe")?;
    let monitor = std::process::id();
    // In a mount namespace of its own: what is mounted for the bundle is the container's alone, and goes with it.
    let helper = match sys::fork_into(libc::CLONE_NEWNS as u64).doing("making a mount namespace")? {
        Forked::Parent(pid) => pid,
        Forked::Child => {
            let Err(failure) = bundle(launch, joined, monitor, &handing).and_then(|()| become_create(launch, runtime, stdio));
            init::report(&writer, &failure);
            sys::exit_now(failure.exit_code())
        }
    };
    drop((writer, stdio));
    let code = sys::wait_for(helper).unwrap_or(128);
    let mut text = String::new();
    let _ = io::Read::read_to_string(&mut std::fs::File::from(stderr), &mut text);
    if let Ok(FailureReport { step, message }) = serde_json::from_str(&text) {
        return Err(StepFailed::because("preparing the bundle", message).in_step(step));
    }
    if code != 0 {
        return Err(failed("making the container", runtime));
    }
    if let Some(console) = console {
        let size = launch.oci.process().as_ref().and_then(|p| p.console_size());
        hand_over(&console, size.map(|size| (size.height() as u16, size.width() as u16)), &handing, &Handed::Terminal)?;
    }
    read_pid(PID).ok_or_else(|| StepFailed::because("making the container", "the runtime has written no process id"))
}

/// Becomes the runtime that makes the container of the bundle. Returns only a failure.
fn become_create(launch: &Launch, runtime: Runtime<'_>, stdio: Option<[OwnedFd; 3]>) -> Result<Infallible, StepFailed> {
    sys::reset_signals();
    if let Some([input, output, error]) = stdio {
        init::become_stdio([input.as_fd(), output.as_fd(), error.as_fd()])?;
    }
    let console = if launch.terminal { &["--console-socket", CONSOLE][..] } else { &[] };
    Err(runtime.become_command(&[&["create", "--bundle", ".", "--pid-file", PID], console, &[runtime.id]].concat()))
}

/// A process as a runtime has written it down.
fn read_pid(file: &str) -> Option<i32> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Mounts what the bundle is made of and writes its configuration. The monitor gets what it keeps for other containers, and the
/// mount namespace in which that is: without it the mounts would be gone when the runtime has made the container.
fn bundle(launch: &Launch, joined: JoinedNamespaces, monitor: u32, handing: &OwnedFd) -> Result<(), StepFailed> {
    let descriptor = |fd: &OwnedFd| format!("/proc/{monitor}/fd/{}", fd.as_raw_fd());
    let mut namespaces = vec![namespace(LinuxNamespaceType::Mount, None)];
    for (kind, own, other) in [
        (LinuxNamespaceType::Pid, libc::CLONE_NEWPID, &joined.pid),
        (LinuxNamespaceType::Ipc, libc::CLONE_NEWIPC, &joined.ipc),
        (LinuxNamespaceType::Uts, libc::CLONE_NEWUTS, &None),
        (LinuxNamespaceType::Network, 0, &joined.network),
    ] {
        match other {
            Some(fd) => namespaces.push(namespace(kind, Some(descriptor(fd).into()))),
            None if launch.clone_flags & own as u64 != 0 => namespaces.push(namespace(kind, None)),
            None => {}
        }
    }
    if launch.cgroup_namespace {
        namespaces.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    let mut shared = rootfs::shared(launch, joined.mount_namespaces, joined.mounts)?;
    shared.extend(rootfs::remote(launch)?);
    let Staged { root, mounts, kept } = rootfs::stage(launch, shared)?;
    if !kept.is_empty() {
        let own = std::fs::File::open("/proc/self/ns/mnt").doing("opening the bundle's mount namespace")?;
        control::send(handing.as_fd(), &Handed::MountNamespace, &[own.as_fd()]).doing("handing over the mounts")?;
        init::hand_over_mounts(handing, kept)?;
    }
    refuse_special_files(root.as_fd())?;
    let identity = user::lookup(root.as_fd(), &launch.user, &launch.group_add)?;
    let mut config = launch.oci.clone();
    let mut root = config.root().clone().unwrap_or_default();
    root.set_path((&launch.rootfs.mountpoint).into());
    let mut linux = config.linux().clone().unwrap_or_default();
    linux.set_namespaces(Some(namespaces)).set_cgroups_path(Some(launch.cgroup.path_of(&launch.group).into()));
    let mut process = config.process().clone().unwrap_or_default();
    describe(&mut process, &identity);
    // Nothing newer is used, and older runtimes refuse a version that they do not know.
    config.set_version("1.0.2".into()).set_root(Some(root)).set_mounts(Some(mounts));
    config.set_linux(Some(linux)).set_process(Some(process));
    let text = serde_json::to_vec(&config).map_err(io::Error::from).doing("writing the bundle")?;
    std::fs::write("config.json", text).doing("writing the bundle's configuration")
}

fn namespace(kind: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path);
    namespace
}

/// Refuses what a runtime would wait for: it opens these by itself, and a FIFO has no other end.
fn refuse_special_files(root: BorrowedFd<'_>) -> Result<(), StepFailed> {
    for path in ["etc/passwd", "etc/group"] {
        if let Err(error) = open_regular(root, Path::new(path))
            && error.kind() == io::ErrorKind::InvalidInput
        {
            return Err(StepFailed::new(format!("looking at /{path} of the image"), error));
        }
    }
    Ok(())
}

/// User, groups, home and capabilities of a process. Inside a container of somebody else's the engine may have less than all
/// capabilities, and a runtime gives up over one that it cannot give.
fn describe(process: &mut Process, identity: &user::Identity) {
    let held = spec::capabilities(Capabilities::held()).bounding().clone().unwrap_or_default();
    let within = |set: &Option<HashSet<Capability>>| set.as_ref().map(|set| set & &held);
    let asked = process.capabilities().clone().unwrap_or_default();
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(within(asked.bounding())).set_inheritable(within(asked.inheritable())).set_ambient(within(asked.ambient()));
    sets.set_effective(within(asked.effective())).set_permitted(within(asked.permitted()));
    if identity.uid != 0 {
        // As Docker has it: a user other than root begins without capabilities.
        sets.set_effective(Some(HashSet::new())).set_permitted(Some(HashSet::new()));
    }
    let mut user = User::default();
    user.set_uid(identity.uid).set_gid(identity.gid).set_umask(Some(0o022));
    user.set_additional_gids(Some(identity.groups.clone()));
    let mut env = process.env().clone().unwrap_or_default();
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
    }
    process.set_user(user).set_env(Some(env)).set_capabilities(Some(sets));
}

/// Passes a terminal on from the runtime to who asked for it, with its rows and columns.
fn hand_over<T: Serialize>(
    console: &UnixListener,
    size: Option<(u16, u16)>,
    to: &OwnedFd,
    message: &T,
) -> Result<(), StepFailed> {
    let master = receive_terminal(console).doing("taking the terminal")?;
    if let Some((rows, columns)) = size {
        let _ = sys::set_window_size(master.as_fd(), rows, columns);
    }
    control::send(to.as_fd(), message, &[master.as_fd()]).doing("handing over the terminal")
}

/// The terminal's master, as a runtime hands it over.
fn receive_terminal(console: &UnixListener) -> io::Result<OwnedFd> {
    let mut fds = [PollFd::new(console.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::from(CONSOLE_TIMEOUT))? == 0 {
        return Err(io::Error::other("the runtime has sent none"));
    }
    let (stream, _) = console.accept()?;
    let _ = std::fs::remove_file(console.local_addr()?.as_pathname().unwrap_or(Path::new(CONSOLE)));
    let mut name = [0; 256];
    let mut space = cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut name)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part
            && let Some(fd) = raw.into_iter().map(sys::received).next()
        {
            return Ok(fd);
        }
    }
    Err(io::Error::other("the runtime has sent no terminal"))
}

/// Starts a further process in the container, which becomes the caller's child. Returns the id of the helper that does so.
///
/// # Errors
/// When nothing can be forked.
pub fn exec(
    launch: &Launch,
    runtime: Runtime<'_>,
    init_pid: i32,
    spec: &ExecSpec,
    streams: &[OwnedFd],
    report: &SharedReport,
) -> io::Result<i32> {
    if let Forked::Parent(helper) = sys::fork_into(0)? {
        return Ok(helper);
    }
    match exec_in_child(launch, runtime, init_pid, spec, streams) {
        Ok(pid) => {
            report.set_pid(pid);
            sys::exit_now(0)
        }
        Err(failure) => {
            report.write(&init::reported(&failure));
            sys::exit_now(failure.exit_code())
        }
    }
}

/// Has the runtime start the process, and tells which it is.
fn exec_in_child(
    launch: &Launch,
    runtime: Runtime<'_>,
    init_pid: i32,
    exec: &ExecSpec,
    streams: &[OwnedFd],
) -> Result<i32, StepFailed> {
    sys::reset_signals();
    let root = std::fs::File::open(format!("/proc/{init_pid}/root")).doing("opening the container's root")?;
    refuse_special_files(root.as_fd())?;
    let who = if exec.user.is_empty() { &launch.user } else { &exec.user };
    let identity = user::lookup(root.as_fd(), who, &launch.group_add)?;
    let mut process = launch.oci.process().clone().unwrap_or_default();
    let cwd = if exec.cwd.is_empty() { "/" } else { &exec.cwd };
    process.set_args(Some(exec.args.clone())).set_env(Some(exec.env.clone())).set_cwd(cwd.into()).set_terminal(Some(exec.tty));
    if exec.privileged {
        process.set_capabilities(Some(spec::capabilities(Capabilities::all())));
    }
    describe(&mut process, &identity);
    let (file, socket) = (format!("exec-{}.json", exec.id), format!("exec-{}.sock", exec.id));
    let text = serde_json::to_vec(&process).map_err(io::Error::from).doing("describing the process")?;
    std::fs::write(&file, text).doing("describing the process")?;
    let pid_file = format!("exec-{}.pid", exec.id);
    let mut command = vec!["exec", "--detach", "--process", &file, "--pid-file", &pid_file];
    let console = match (exec.tty, streams) {
        (true, [_]) => {
            command.extend(["--console-socket", &socket]);
            Some(UnixListener::bind(&socket).doing("making the terminal's socket")?)
        }
        (false, [input, output, error]) => {
            init::become_stdio([input.as_fd(), output.as_fd(), error.as_fd()])?;
            None
        }
        _ => return Err(StepFailed::because("starting the process", "its streams are missing")),
    };
    command.push(runtime.id);
    // The runtime leaves, and its child becomes the monitor's.
    let child = match sys::fork_into(0).doing("starting the process")? {
        Forked::Child => sys::exit_now(runtime.become_command(&command).exit_code()),
        Forked::Parent(child) => child,
    };
    let code = sys::wait_for(child).unwrap_or(128);
    let pid = read_pid(&pid_file);
    let _ = (std::fs::remove_file(&file), std::fs::remove_file(&pid_file));
    let (Some(pid), 0) = (pid, code) else {
        let _ = std::fs::remove_file(&socket);
        return Err(failed("starting the process", runtime));
    };
    if let (Some(console), [terminal, ..]) = (console, streams) {
        hand_over(&console, exec.size, terminal, &())?;
    }
    Ok(pid)
}
