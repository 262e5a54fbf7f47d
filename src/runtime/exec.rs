//! A further process in a running container: joins its namespaces and cgroups, then runs as its first process did.

use super::capabilities::Capabilities;
use super::control;
use super::error::{Doing, InStep, SetupStep, StepFailed};
use super::hand_on::hand_on;
use super::init::{self, ReadyProgram};
use super::launch::{ExecSpec, Launch};
use super::rootfs;
use super::user::{self, Identity};
use crate::sys::shared::SharedReport;
use crate::sys::{self, Beneath, Forked};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Starts the process from the monitor, which becomes its parent. Returns the process id of the helper that starts it, a child of the
/// monitor as well: when it ends, the report has the process's id, and the failure where the program does not run.
///
/// `streams` are standard input, output and error; with a terminal, one socket on which its master is sent.
///
/// # Errors
/// When not even the helper can be forked.
pub fn start(
    launch: &Launch,
    init: &OwnedFd,
    spec: &ExecSpec,
    streams: &[OwnedFd],
    report: &SharedReport,
) -> std::io::Result<i32> {
    // A helper joins the namespaces (a process cannot enter a pid namespace itself, only its children can), and its child
    // is made the monitor's own by CLONE_PARENT.
    match sys::fork_into(0)? {
        Forked::Parent(helper) => Ok(helper),
        Forked::Child => {
            let Err(failure) = ready(launch, init, spec, streams).and_then(|program| hand_on(&program, spec.tty, false, report));
            report.write(&init::reported(&failure));
            sys::exit_now(failure.exit_code())
        }
    }
}

/// All that takes privileges, done by the helper: the container's processes do not see it.
fn ready(launch: &Launch, init: &OwnedFd, spec: &ExecSpec, streams: &[OwnedFd]) -> Result<ReadyProgram, StepFailed> {
    if let Some(profile) = launch.apparmor.as_ref().filter(|_| !spec.privileged) {
        super::apparmor::confine_at_exec(profile).in_step(SetupStep::Privileges)?;
    }
    let identity = look_up(launch, init, spec).in_step(SetupStep::User)?;
    join(launch, init).in_step(SetupStep::Namespaces)?;
    prepare(launch, spec, streams, identity).in_step(SetupStep::Streams)
}

fn join(launch: &Launch, init: &OwnedFd) -> Result<(), StepFailed> {
    launch.cgroup.enter(&launch.group)?;
    if let Some(process) = launch.oci.process() {
        init::set_oom_score(process)?;
    }
    // All of them, whether they are the container's own or another's or the host's: they are those of its first process.
    let flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWCGROUP;
    sys::join_namespaces(init.as_fd(), flags).doing("joining the container's namespaces")
}

/// Looks the user up in the container's files, while /proc is still the host's.
fn look_up(launch: &Launch, init: &OwnedFd, spec: &ExecSpec) -> Result<Identity, StepFailed> {
    let who = if spec.user.is_empty() { &launch.user } else { &spec.user };
    let root = rootfs::root_of(init).doing("opening the container's root")?;
    user::lookup(root.as_fd(), who, &launch.group_add)
}

fn prepare(launch: &Launch, spec: &ExecSpec, streams: &[OwnedFd], identity: Identity) -> Result<ReadyProgram, StepFailed> {
    sys::reset_signals();
    sys::new_session_keyring();
    match (spec.tty, streams) {
        (true, [socket]) => {
            let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC;
            let root = nix::fcntl::open("/", flags, Mode::empty()).doing("opening the root")?;
            let flags = libc::O_RDWR | libc::O_NOCTTY;
            let master = sys::open_beneath(root.as_fd(), Path::new("dev/pts/ptmx"), flags, 0, Beneath::NoSymlinks)
                .doing("opening a terminal")?;
            let peer = sys::pty_peer(master.as_fd()).doing("opening the terminal's other end")?;
            if let Some((rows, columns)) = spec.size {
                let _ = sys::set_window_size(master.as_fd(), rows, columns);
            }
            control::send(socket.as_fd(), &(), &[master.as_fd()]).doing("handing over the terminal")?;
            init::become_stdio([peer.as_fd(), peer.as_fd(), peer.as_fd()])?;
        }
        (false, [input, output, error]) => init::become_stdio([input.as_fd(), output.as_fd(), error.as_fd()])?,
        _ => return Err(StepFailed::because("starting the process", "its streams are missing")),
    }
    init::own_stdio(&identity);
    rootfs::enter_directory(&spec.cwd).in_step(SetupStep::WorkingDirectory)?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    let own = launch.oci.process().as_ref();
    if let Some(process) = own {
        init::set_rlimits(process).in_step(SetupStep::Limits)?;
    }
    let bounding = own.and_then(|p| p.capabilities().as_ref()).and_then(|c| c.bounding().as_ref());
    let names: Vec<String> = bounding.into_iter().flatten().map(ToString::to_string).collect();
    let capabilities = Capabilities(0).adjusted(&names, &[]).unwrap_or_default();
    Ok(ReadyProgram {
        args: spec.args.clone(),
        env: spec.env.clone(),
        identity,
        capabilities: if spec.privileged { Capabilities::all() } else { capabilities },
        no_new_privileges: own.and_then(|p| p.no_new_privileges()).unwrap_or(false),
        // Also of the privileged, as with Docker: the filter is the container's.
        seccomp: launch.seccomp.clone(),
        processes: own.and_then(init::process_limit),
    })
}
