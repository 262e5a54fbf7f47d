//! The step by which a process appears among those of a container: the last one, without anything that those could take.

use super::error::{Doing, InStep, SetupStep, StepFailed};
use super::init::{self, ReadyProgram};
use crate::sys::shared::SharedReport;
use crate::sys::{self, Forked};
use std::convert::Infallible;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long a program may take to be executed. One of the container that holds its process up, or keeps its report open, gains
/// nothing beyond that.
const EXECUTION_MAY_TAKE: Duration = Duration::from_secs(10);

/// Drops the privileges, and only then makes the process that the container sees, a child of the monitor. A container with
/// SYS_PTRACE opens the descriptors of every process in its pid namespace and changes its memory, so that process never holds a
/// descriptor of the monitor's (its run directory leads to the host's files), a capability that the container does not have, or a
/// word that the monitor believes: what it says goes to the caller, which is not seen.
///
/// # Errors
/// The step that failed. Does not return otherwise: when the caller ends, the report has the process's id, and the failure where
/// the program does not run.
pub fn hand_on(program: &ReadyProgram, tty: bool, with_init: bool, report: &SharedReport) -> Result<Infallible, StepFailed> {
    sys::close_from(3).doing("closing the monitor's descriptors")?;
    report.hide_from_children().doing("hiding the report")?;
    let (failure, said) = UnixStream::pair().doing("making a socket")?;
    failure.set_read_timeout(Some(EXECUTION_MAY_TAKE)).doing("making a socket")?;
    program.drop_privileges().in_step(SetupStep::Privileges)?;
    match sys::fork_into(libc::CLONE_PARENT as u64) {
        Ok(Forked::Parent(pid)) => {
            report.set_pid(pid);
            drop(said);
            report.write(&read_failure(failure));
            sys::exit_now(0)
        }
        Ok(Forked::Child) => {
            let Err(failure) =
                begin_session(program, tty).and_then(|()| program.run(with_init, None).in_step(SetupStep::Program));
            init::report(&said.into(), &failure);
            sys::exit_now(failure.exit_code())
        }
        Err(error) if !program.seccomp.is_empty() => {
            Err(StepFailed::new("starting the process: the container's seccomp profile has to allow `clone`", error))
        }
        Err(error) => Err(StepFailed::new("starting the process", error)),
    }
}

/// The report of the process up to the execution of its program, which closes its end.
fn read_failure(mut from: UnixStream) -> Vec<u8> {
    let begun = Instant::now();
    let (mut said, mut buffer) = (Vec::new(), [0; 512]);
    while said.len() < init::MAX_FAILURE && begun.elapsed() < EXECUTION_MAY_TAKE {
        match from.read(&mut buffer) {
            Ok(n) if n > 0 => said.extend_from_slice(&buffer[..n]),
            _ => break,
        }
    }
    said
}

fn begin_session(program: &ReadyProgram, tty: bool) -> Result<(), StepFailed> {
    nix::unistd::setsid().doing("starting a session")?;
    if tty {
        sys::set_controlling_terminal(std::io::stdin().as_fd()).doing("taking the terminal")?;
    }
    program.limit_processes().in_step(SetupStep::Limits)
}
