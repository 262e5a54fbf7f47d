//! A part of the control groups that systemd has handed over: a scope with `Delegate=yes`.
//!
//! systemd looks after the whole tree but for such parts, and ends what it finds in a session's when its user leaves. So where
//! it runs, on cgroup v2, containers' groups are in a scope of wharf's own: `/wharf.slice/wharf.scope/ID`, with the monitors in
//! `monitors` beside them, since a group with controllers for others holds no processes itself. (systemd's documents
//! "Control Group APIs and Delegation", systemd.scope(5).) On v1, which systemd delegates in part only, nothing is asked for.
//!
//! A scope is there as long as a process is in it, and has to be asked for with one: a [`Keeper`].

use super::cgroup::{Hierarchy, enable_controllers, write};
use super::error::{Doing, StepFailed};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const SLICE: &str = "wharf.slice";
const MONITORS: &str = "monitors";

/// Whether systemd is this host's init, as sd_booted(3) tells it.
pub fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A scope in which containers may be.
#[derive(Debug)]
pub struct Scope {
    /// Its path from the root of the hierarchy, with `/` before it.
    path: String,
    /// Where the hierarchy is mounted.
    point: PathBuf,
    keeper: Option<Keeper>,
}

impl Scope {
    /// An engine's scope in wharf's slice: the one that is there, or a new one. `None` where systemd does not run, or has cgroup v1.
    ///
    /// # Errors
    /// systemd's words.
    pub fn open(hierarchy: &Hierarchy, engine: &str) -> Result<Option<Self>, StepFailed> {
        let (Hierarchy::V2(point), true) = (hierarchy, systemd_runs()) else { return Ok(None) };
        let unit = format!("{engine}.scope");
        // It may end between the look and the request, or begin.
        let mut tries = 3;
        loop {
            tries -= 1;
            match Self::join(point, format!("/{SLICE}/{unit}")) {
                Ok(scope) => return Ok(Some(scope)),
                Err(_) => match Self::request(point, SLICE, &unit) {
                    Err(_) if tries > 0 => {}
                    result => return result.map(Some),
                },
            }
        }
    }

    /// Puts a keeper into a scope that is there.
    fn join(point: &Path, path: String) -> Result<Self, StepFailed> {
        if !point.join(&path[1..]).join(MONITORS).is_dir() {
            return Err(StepFailed::because("looking for the scope", "there is none"));
        }
        let scope = Scope { keeper: Some(Keeper::start(&mut Command::new("cat"))?), path, point: point.to_path_buf() };
        scope.hold_keeper()?;
        Ok(scope)
    }

    /// Asks systemd for a scope of that name in a slice, which is there as long as a container is in it, or this value.
    ///
    /// # Errors
    /// systemd's words.
    pub fn request(point: &Path, slice: &str, unit: &str) -> Result<Self, StepFailed> {
        let mut command = Command::new("systemd-run");
        command.args(["--scope", "--quiet", "--collect", "--slice", slice, "--unit", unit]);
        // At a shutdown the engine goes first, which stops the containers as each wants to be stopped.
        for property in ["Delegate=yes", "TasksMax=infinity", "Before=wharf.service"] {
            command.args(["--property", property]);
        }
        let keeper = Keeper::start(command.args(["--description", "Containers of wharf", "cat"]))?;
        let group = format!("/proc/{}/cgroup", keeper.child.id());
        let text = fs::read_to_string(&group).doing("finding the scope")?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_string();
        if !path.ends_with(unit) {
            return Err(StepFailed::because("finding the scope", format!("systemd has put its process into `{path}`")));
        }
        let scope = Scope { path, point: point.to_path_buf(), keeper: Some(keeper) };
        let monitors = scope.directory().join(MONITORS);
        fs::create_dir(&monitors).doing(format_args!("making the cgroup {}", monitors.display()))?;
        scope.hold_keeper()?;
        enable_controllers(&scope.directory());
        Ok(scope)
    }

    fn hold_keeper(&self) -> Result<(), StepFailed> {
        self.keeper.as_ref().map_or(Ok(()), |keeper| self.take_in(&keeper.child.id().to_string()))
    }

    /// Moves a process to the monitors; `0` is this one.
    fn take_in(&self, pid: &str) -> Result<(), StepFailed> {
        write(&self.directory().join(MONITORS).join("cgroup.procs"), pid)
    }

    fn directory(&self) -> PathBuf {
        self.point.join(&self.path[1..])
    }

    /// Moves this process into the scope, which then needs no keeper any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter(&mut self) -> Result<(), StepFailed> {
        self.take_in("0")?;
        self.keeper = None;
        Ok(())
    }

    /// The name of a container's group, as [`Hierarchy::directories`] takes it.
    pub fn group_of(&self, container: &str) -> String {
        format!("{}/{container}", self.path)
    }

    /// The name of the monitors' group.
    pub fn monitors(&self) -> String {
        self.group_of(MONITORS)
    }
}

/// A process that does nothing until its input ends, as it does with the one who started it.
#[derive(Debug)]
struct Keeper {
    child: Child,
}

impl Keeper {
    /// Starts it, and waits until `cat` runs: systemd-run becomes it when the scope is there.
    fn start(command: &mut Command) -> Result<Self, StepFailed> {
        let doing = format!("starting {}", command.get_program().display());
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().doing(&doing)?;
        let mut echo = [0];
        let sent = child.stdin.as_mut().map(|input| input.write_all(b"\n"));
        let heard = child.stdout.as_mut().map(|output| output.read_exact(&mut echo));
        if let (Some(Ok(())), Some(Ok(()))) = (sent, heard) {
            return Ok(Keeper { child });
        }
        let output = child.wait_with_output().doing(&doing)?;
        Err(StepFailed::because(doing, String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
