//! The container's first process, from clone to execve: a child of the monitor that becomes the user's program.

use super::apparmor::Confinement;
use super::capabilities::Capabilities;
use super::error::{Doing, FailureReport, InStep, SetupStep, StepFailed};
use super::hand_on::hand_on;
use super::launch::{JoinedNamespaces, Launch};
use super::rootfs::Entered;
use super::user::Identity;
use super::{control, control::Handed, rootfs};
use crate::sys::shared::SharedReport;
use crate::sys::{self, BpfInstruction, CapabilitySets, Forked, procfs};
use nix::fcntl::{OFlag, open};
use nix::sched::CloneFlags;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::stat::Mode;
use oci_spec::runtime::PosixRlimitType as R;
use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The descriptors that the child inherits from the monitor.
pub struct Inherited {
    /// Standard input, output and error; none of them with a terminal.
    pub stdio: Option<[OwnedFd; 3]>,
    /// The network namespace (the host's where there is none), and what is shared with another container.
    pub joined: JoinedNamespaces,
    /// Reports a failure. It closes on exec.
    pub status: OwnedFd,
    /// Where descriptors are handed to the monitor ([`control::Handed`]).
    pub monitor: OwnedFd,
    /// The monitor's process id.
    pub parent: u32,
}

/// Sets the container up and runs its program. Never returns: a failure goes to the monitor.
///
/// A container that joins another's processes is set up outside of their pid namespace, where none of them sees it: its program
/// is another process, made by [`hand_on`], of which `successor` tells.
pub fn run(launch: &Launch, inherited: Inherited, successor: Option<&SharedReport>) -> ! {
    let Inherited { stdio, joined, status, monitor, parent } = inherited;
    // A start is broken off by its monitor's end. In a pid namespace of its own, this process has no parent that it could name.
    let bound = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0);
    if bound.is_err() || ![0, parent].contains(&std::os::unix::process::parent_id()) {
        sys::exit_now(128);
    }
    let Err(failure) = set_up(launch, stdio, joined, &monitor).and_then(|(program, confinement)| {
        if let Some(successor) = successor {
            if let Some(confinement) = confinement {
                confinement.enter().doing("confining the init by AppArmor").in_step(SetupStep::Privileges)?;
            }
            let Err(failure) = hand_on(&program, launch.terminal, launch.init, successor);
            // The way to the monitor is closed by now.
            successor.write(&reported(&failure));
            sys::exit_now(failure.exit_code());
        }
        // Who ends from here on has been set up.
        nix::unistd::write(&status, READY).doing("reporting to the monitor")?;
        program.drop_privileges().in_step(SetupStep::Privileges)?;
        program.limit_processes().in_step(SetupStep::Limits)?;
        program.run(launch.init, confinement).in_step(SetupStep::Program)
    });
    report(&status, &failure);
    sys::exit_now(failure.exit_code())
}

/// Read by the monitor before a program is run, beside no report: a process that was killed while it was set up has not written it.
pub const READY: &[u8] = b" ";

/// Bytes of a reported failure.
pub const MAX_FAILURE: usize = 4000;

/// Reports to the monitor why the program does not run, in the words that the user will read.
pub fn report(status: &OwnedFd, failure: &StepFailed) {
    if let Ok(copy) = status.try_clone() {
        let _ = std::fs::File::from(copy).write_all(&reported(failure));
    }
}

/// A failure as the monitor reads it: at most [`MAX_FAILURE`] bytes, since a program's name may be longer.
pub fn reported(failure: &StepFailed) -> Vec<u8> {
    let mut report = FailureReport { step: failure.step, message: failure.to_string() };
    loop {
        let text = serde_json::to_vec(&report).unwrap_or_default();
        if text.len() <= MAX_FAILURE {
            return text;
        }
        let half = (0..=report.message.len() / 2).rev().find(|at| report.message.is_char_boundary(*at));
        report.message.truncate(half.unwrap_or_default());
    }
}

/// The program, and the confinement of wharf's init, which stays beside it as it is.
type Ready = (ReadyProgram, Option<Confinement>);

/// Has AppArmor confine the program. Returns the confinement of wharf's init, where there is one.
fn confine(launch: &Launch, joins_processes: bool) -> Result<Option<Confinement>, StepFailed> {
    let Some(profile) = &launch.apparmor else { return Ok(None) };
    // An init that was confined before it was forked hands its confinement on.
    if !(launch.init && joins_processes) {
        super::apparmor::confine_at_exec(profile)?;
    }
    if launch.init { Confinement::prepare(profile).map(Some) } else { Ok(None) }
}

fn set_up(
    launch: &Launch,
    stdio: Option<[OwnedFd; 3]>,
    joined: JoinedNamespaces,
    monitor: &OwnedFd,
) -> Result<Ready, StepFailed> {
    nix::unistd::setsid().doing("starting a session")?;
    sys::reset_signals();
    // Modes of what is made for the container are meant as they are written.
    nix::sys::stat::umask(Mode::empty());
    let joins_processes = joined.pid.is_some();
    let confinement = confine(launch, joins_processes).in_step(SetupStep::Privileges)?;
    let oci = &launch.oci;
    let process = oci.process().as_ref().ok_or_else(|| StepFailed::because("reading the launch file", "it names no process"))?;
    let linux = oci.linux().as_ref();
    set_oom_score(process).in_step(SetupStep::Limits)?;
    if launch.init {
        forget_arguments();
    }
    launch.cgroup.enter_new(&launch.group, linux.and_then(|l| l.resources().as_ref())).in_step(SetupStep::ControlGroup)?;
    if launch.cgroup_namespace {
        nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP).doing("making a cgroup namespace").in_step(SetupStep::Namespaces)?;
    }
    let mut premade = rootfs::remote(launch).in_step(SetupStep::Mounts)?;
    if let Some(process) = &joined.pid {
        premade.extend(rootfs::procfs_of(launch, process).in_step(SetupStep::Mounts)?);
    }
    if let Some(network) = joined.network {
        nix::sched::setns(network, CloneFlags::CLONE_NEWNET).doing("joining the network").in_step(SetupStep::Network)?;
    }
    if let Some(ipc) = joined.ipc {
        nix::sched::setns(ipc, CloneFlags::CLONE_NEWIPC)
            .doing("joining the other container's IPC namespace")
            .in_step(SetupStep::Namespaces)?;
    }
    let shared = rootfs::shared(launch, joined.mount_namespaces, joined.mounts).in_step(SetupStep::Mounts)?;
    for (name, value) in linux.and_then(|l| l.sysctl().as_ref()).into_iter().flatten() {
        // The host's procfs: nothing of the image is mounted yet, so nothing of it can stand in the file's place.
        let path = Path::new("sys").join(name.replace('.', "/"));
        procfs::write(&path, value).doing(format_args!("setting the sysctl {name} to `{value}`")).in_step(SetupStep::Sysctls)?;
    }
    if let Some(hostname) = oci.hostname() {
        nix::unistd::sethostname(hostname).doing("setting the host name").in_step(SetupStep::HostName)?;
    }
    if let Some(domain) = oci.domainname() {
        procfs::write(Path::new("sys/kernel/domainname"), domain)
            .doing("setting the domain name")
            .in_step(SetupStep::HostName)?;
    }
    sys::new_session_keyring();
    let Entered { identity, console, kept } = rootfs::enter(launch, &shared, &premade).in_step(SetupStep::Mounts)?;
    hand_over_mounts(monitor, kept)?;
    let owner = if joins_processes { TerminalOwner::Successor } else { TerminalOwner::ThisProcess };
    open_streams(process, console, stdio, (monitor, owner)).in_step(SetupStep::Streams)?;
    own_stdio(&identity);
    set_rlimits(process).in_step(SetupStep::Limits)?;
    let capabilities = process
        .capabilities()
        .as_ref()
        .and_then(|c| c.bounding().as_ref())
        .map(|set| Capabilities(0).adjusted(&set.iter().map(ToString::to_string).collect::<Vec<_>>(), &[]).unwrap_or_default())
        .unwrap_or_default();
    let cwd = process.cwd().to_str().unwrap_or("/").to_string();
    rootfs::make_and_enter_directory(&cwd).in_step(SetupStep::WorkingDirectory)?;
    rootfs::seal(launch).in_step(SetupStep::Mounts)?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    if let Some(process) = joined.pid {
        // For children alone: this process stays where it is.
        nix::sched::setns(process, CloneFlags::CLONE_NEWPID).doing("joining the other container's processes")?;
    }
    let program = ReadyProgram {
        args: process.args().clone().unwrap_or_default(),
        env: process.env().clone().unwrap_or_default(),
        identity,
        capabilities,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        seccomp: launch.seccomp.clone(),
        processes: process_limit(process),
    };
    Ok((program, confinement))
}

/// The process whose controlling terminal the container's becomes.
#[derive(PartialEq)]
enum TerminalOwner {
    ThisProcess,
    /// The one that [`hand_on`] makes.
    Successor,
}

/// Standard input, output and error: a terminal of the container's, or what the monitor has made.
fn open_streams(
    process: &oci_spec::runtime::Process,
    console: Option<(OwnedFd, OwnedFd)>,
    stdio: Option<[OwnedFd; 3]>,
    (monitor, owner): (&OwnedFd, TerminalOwner),
) -> Result<(), StepFailed> {
    match (console, stdio) {
        (Some((master, peer)), _) => {
            if let Some(size) = process.console_size() {
                let _ = sys::set_window_size(master.as_fd(), size.height() as u16, size.width() as u16);
            }
            control::send(monitor.as_fd(), &Handed::Terminal, &[master.as_fd()]).doing("handing over the terminal")?;
            become_stdio([peer.as_fd(), peer.as_fd(), peer.as_fd()])?;
            if owner == TerminalOwner::ThisProcess {
                sys::set_controlling_terminal(std::io::stdin().as_fd()).doing("taking the terminal")?;
            }
            Ok(())
        }
        (None, Some(stdio)) => become_stdio([stdio[0].as_fd(), stdio[1].as_fd(), stdio[2].as_fd()]),
        (None, None) => Ok(()),
    }
}

/// Gives the monitor what it keeps for other containers. It need not read meanwhile: the socket has room for it.
pub fn hand_over_mounts(monitor: &OwnedFd, mounts: Vec<OwnedFd>) -> Result<(), StepFailed> {
    let fds: Vec<BorrowedFd<'_>> = mounts.iter().map(AsFd::as_fd).collect();
    let mut parts = fds.chunks(control::MAX_DESCRIPTORS);
    parts.try_for_each(|part| control::send(monitor.as_fd(), &Handed::Mounts, part)).doing("handing over the mounts")
}

/// Makes descriptors the standard streams.
pub fn become_stdio(streams: [BorrowedFd<'_>; 3]) -> Result<(), StepFailed> {
    nix::unistd::dup2_stdin(streams[0]).doing("setting standard input")?;
    nix::unistd::dup2_stdout(streams[1]).doing("setting standard output")?;
    nix::unistd::dup2_stderr(streams[2]).doing("setting standard error")
}

/// Gives the streams to the user, so that /dev/stdout can be opened anew, as log files linked to it are.
pub fn own_stdio(identity: &Identity) {
    for fd in [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
        let null = nix::sys::stat::fstat(fd).is_ok_and(|s| s.st_rdev == nix::sys::stat::makedev(1, 3));
        if !null {
            let _ = nix::unistd::fchown(fd, Some(identity.uid.into()), None);
        }
    }
}

/// Has the kernel choose a container's process by its score when memory runs out. The procfs has to be the host's.
pub fn set_oom_score(process: &oci_spec::runtime::Process) -> Result<(), StepFailed> {
    let score = process.oom_score_adj().unwrap_or(0).to_string();
    procfs::write(Path::new("self/oom_score_adj"), &score).doing("setting oom_score_adj")
}

/// Sets the limits of a container's process, its first or a further one. That of processes is lowered as the last step, by
/// [`ReadyProgram::limit_processes`]; what is raised is raised here, while there is the privilege.
pub fn set_rlimits(process: &oci_spec::runtime::Process) -> Result<(), StepFailed> {
    process.rlimits().iter().flatten().try_for_each(set_rlimit)?;
    if process_limit(process).is_some() {
        // Where that is not allowed, the limit of the process may still be lowered.
        let _ = setrlimit(Resource::RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY);
    }
    Ok(())
}

/// RLIMIT_NPROC of a container's process, soft and hard.
pub fn process_limit(process: &oci_spec::runtime::Process) -> Option<(u64, u64)> {
    let limit = process.rlimits().iter().flatten().find(|limit| limit.typ() == R::RlimitNproc)?;
    Some((limit.soft(), limit.hard()))
}

fn set_rlimit(limit: &oci_spec::runtime::PosixRlimit) -> Result<(), StepFailed> {
    let resource = match limit.typ() {
        R::RlimitAs => Resource::RLIMIT_AS,
        R::RlimitCore => Resource::RLIMIT_CORE,
        R::RlimitCpu => Resource::RLIMIT_CPU,
        R::RlimitData => Resource::RLIMIT_DATA,
        R::RlimitFsize => Resource::RLIMIT_FSIZE,
        R::RlimitLocks => Resource::RLIMIT_LOCKS,
        R::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        R::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        R::RlimitNice => Resource::RLIMIT_NICE,
        R::RlimitNofile => Resource::RLIMIT_NOFILE,
        R::RlimitNproc => return Ok(()),
        R::RlimitRss => Resource::RLIMIT_RSS,
        R::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        R::RlimitRttime => Resource::RLIMIT_RTTIME,
        R::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        R::RlimitStack => Resource::RLIMIT_STACK,
    };
    let (soft, hard) = (limit.soft(), limit.hard());
    let shown = |value: u64| if value == u64::MAX { "unlimited".to_string() } else { value.to_string() };
    let name = format!("{:?}", limit.typ()).trim_start_matches("Rlimit").to_lowercase();
    let doing = format!("setting the ulimit {name} to {}:{}", shown(soft), shown(hard));
    match setrlimit(resource, soft, hard) {
        Err(nix::errno::Errno::EPERM) => {
            let most = nix::sys::resource::getrlimit(resource).map_or(0, |(_, most)| most);
            let why = format!("it is {} at most here: wharf may not raise the limit of the engine", shown(most));
            Err(StepFailed::because(doing, why))
        }
        other => other.doing(doing),
    }
}

/// A program that is ready to run inside a container.
pub struct ReadyProgram {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub identity: Identity,
    pub capabilities: Capabilities,
    pub no_new_privileges: bool,
    pub seccomp: Vec<[u32; 2]>,
    /// RLIMIT_NPROC, soft and hard: it would count against the fork of a user's process.
    pub processes: Option<(u64, u64)>,
}

impl ReadyProgram {
    /// Executes, once the privileges are dropped. Returns only a failure. With an init of wharf's, `confinement` is that one's.
    ///
    /// # Errors
    /// The step that failed; code 127 where the program is missing, 126 where it may not be executed.
    pub fn run(&self, with_init: bool, confinement: Option<Confinement>) -> Result<std::convert::Infallible, StepFailed> {
        let mut env = self.env.clone();
        if !env.iter().any(|v| v.starts_with("HOME=")) {
            env.push(format!("HOME={}", self.identity.home));
        }
        let name = self.args.first().cloned().unwrap_or_default();
        let c = |list: &[String]| list.iter().map(|t| CString::new(t.as_str())).collect::<Result<Vec<_>, _>>();
        let (Ok(args), Ok(variables)) = (c(&self.args), c(&env)) else {
            return Err(StepFailed::because(format!("running `{name}`"), "an argument or a variable holds a NUL byte"));
        };
        // A container whose monitor is gone has nobody to read its output and to record its end.
        sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0).doing("binding the process to its monitor")?;
        let path = find_program(&name, &env)?;
        sys::close_on_exec_from(3).doing("closing descriptors")?;
        if with_init {
            if let Forked::Parent(child) = sys::fork_into(0).doing("starting the init's child")? {
                let _ = nix::sys::prctl::set_name(c"wharf-init");
                if let Some(Err(error)) = confinement.map(Confinement::enter) {
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL);
                    return Err(StepFailed::new("confining the init by AppArmor", error).in_step(SetupStep::Privileges));
                }
                let null = open("/dev/null", OFlag::O_RDWR, Mode::empty());
                let _ = null.map(|null| become_stdio([null.as_fd(), null.as_fd(), null.as_fd()]));
                let _ = sys::close_from(3);
                super::tiny_init::run(child);
            }
            let _ = nix::unistd::setpgid(nix::unistd::Pid::from_raw(0), nix::unistd::Pid::from_raw(0));
            sys::take_foreground(std::io::stdin().as_fd());
        }
        let error = sys::exec(&path, &args, &variables);
        let step = match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => SetupStep::ProgramMissing,
            Some(libc::EACCES | libc::EISDIR) => SetupStep::ProgramNotExecutable,
            _ => SetupStep::Program,
        };
        let doing = match error.raw_os_error() {
            Some(libc::ENOENT) => format!("running {}: its interpreter is missing", path.display()),
            Some(libc::ENOEXEC) => {
                format!("running {}: it is no program for this machine, or a script without `#!`", path.display())
            }
            _ => format!("running {}", path.display()),
        };
        Err(StepFailed::new(doing, error).in_step(step))
    }

    /// The process keeps the capabilities of its container alone, is its user and has its filter.
    ///
    /// # Errors
    /// The step that failed.
    pub fn drop_privileges(&self) -> Result<(), StepFailed> {
        let mut keep = Capabilities(0);
        // What the engine has: inside a container of somebody else's that may be less than all.
        for (capability, held) in (0..u64::BITS).map_while(|number| Some((number, sys::bounding_capability(number)?))) {
            if held && self.capabilities.0 >> capability & 1 == 1 {
                keep.0 |= 1 << capability;
            } else {
                sys::prctl(libc::PR_CAPBSET_DROP, u64::from(capability), 0).doing("dropping a capability")?;
            }
        }
        if self.no_new_privileges {
            sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).doing("setting no_new_privs")?;
        }
        if !self.seccomp.is_empty() {
            let program: Vec<BpfInstruction> = self.seccomp.iter().map(|[head, k]| unpack(*head, *k)).collect();
            sys::install_seccomp(&program).doing("installing the seccomp filter")?;
        }
        sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).doing("keeping capabilities")?;
        let Identity { uid, gid, groups, .. } = &self.identity;
        sys::become_user(*uid, *gid, groups).doing(format_args!("becoming the user {uid}:{gid}"))?;
        // As Docker has it: a user other than root begins without capabilities, but may gain those of the bounding set.
        let held = if *uid == 0 { keep.0 } else { 0 };
        sys::set_capabilities(CapabilitySets { effective: held, permitted: held, inheritable: 0 }).doing("setting capabilities")
    }

    /// Sets the limit of processes, which [`set_rlimits`] has left open.
    ///
    /// # Errors
    /// The kernel's.
    pub fn limit_processes(&self) -> Result<(), StepFailed> {
        let Some((soft, hard)) = self.processes else { return Ok(()) };
        setrlimit(Resource::RLIMIT_NPROC, soft, hard).doing("setting the limit RlimitNproc")
    }
}

/// Blanks this process's command line, which names a directory of the host: an init that stays shows it to the container.
fn forget_arguments() {
    const ARG_START: usize = 45;
    // The fields after the program's name, which ends with the last parenthesis; `arg_start` is the 48th of all (proc(5)).
    let mut stat = String::new();
    if let Ok(file) = procfs::open_file(Path::new("self/stat"), libc::O_RDONLY) {
        let _ = std::fs::File::from(file).read_to_string(&mut stat);
    }
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap_or_default().split(' ').skip(1).map(|f| f.parse().unwrap_or(0)).collect();
    if let Some(&[start, end]) = fields.get(ARG_START..ARG_START + 2)
        && let Ok(memory) = procfs::open_file(Path::new("self/mem"), libc::O_WRONLY).map(std::fs::File::from)
    {
        let mut name = b"wharf-init".to_vec();
        name.resize(end.saturating_sub(start) as usize, 0);
        let _ = std::os::unix::fs::FileExt::write_at(&memory, &name, start);
    }
}

/// One instruction as two words, the form it has in the launch file.
pub fn pack(instruction: BpfInstruction) -> [u32; 2] {
    let BpfInstruction { code, jt, jf, k } = instruction;
    [u32::from(code) | u32::from(jt) << 16 | u32::from(jf) << 24, k]
}

fn unpack(head: u32, k: u32) -> BpfInstruction {
    BpfInstruction { code: head as u16, jt: (head >> 16) as u8, jf: (head >> 24) as u8, k }
}

/// Looks a program up as execvp does, in the container's PATH.
fn find_program(name: &str, env: &[String]) -> Result<PathBuf, StepFailed> {
    let missing = |why: &str| StepFailed::because(format!("running `{name}`"), why).in_step(SetupStep::ProgramMissing);
    let cannot = |why: &str| StepFailed::because(format!("running `{name}`"), why).in_step(SetupStep::ProgramNotExecutable);
    if name.is_empty() {
        return Err(missing("there is no command: the image has none, and neither has the service"));
    }
    if name.contains('/') {
        return match std::fs::metadata(name) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                Err(missing("no such file or directory in the container"))
            }
            Ok(_) if nix::unistd::access(name, nix::unistd::AccessFlags::X_OK).is_err() => {
                Err(cannot("permission denied: it is not executable"))
            }
            Ok(meta) if meta.is_dir() => Err(cannot("it is a directory")),
            _ => Ok(PathBuf::from(name)),
        };
    }
    let path = env.iter().rev().find_map(|v| v.strip_prefix("PATH=")).unwrap_or(super::DEFAULT_PATH);
    let mut denied = None;
    for directory in path.split(':') {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        if candidate.is_file() {
            match nix::unistd::access(&candidate, nix::unistd::AccessFlags::X_OK) {
                Ok(()) => return Ok(candidate),
                Err(_) => denied = Some(candidate),
            }
        }
    }
    Err(match denied {
        Some(path) => StepFailed::because(format!("running {}", path.display()), "permission denied: it is not executable")
            .in_step(SetupStep::ProgramNotExecutable),
        None => missing("executable file not found in $PATH"),
    })
}
