//! Control groups, v1 (also hybrid) and v2: one for each container, with the limits that OCI names. They are below `/wharf`, or
//! in the [`super::scope`] that systemd has delegated.

use super::error::{Doing, StepFailed};
use super::subgroups;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The parent of every container's group, in each hierarchy.
const PARENT: &str = "wharf";

/// The host's cgroup mounts, found once by the engine.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub enum Hierarchy {
    /// Mount points with their controllers (`name=systemd` included).
    V1(Vec<(Vec<String>, PathBuf)>),
    V2(PathBuf),
}

impl Hierarchy {
    /// Finds the mounts of this host.
    ///
    /// # Errors
    /// When no cgroup file system is mounted.
    pub fn find() -> io::Result<Self> {
        Self::from_mountinfo(&fs::read_to_string("/proc/self/mountinfo")?)
            .ok_or_else(|| io::Error::other("no cgroup file system is mounted: mount cgroup2 on /sys/fs/cgroup"))
    }

    fn from_mountinfo(mountinfo: &str) -> Option<Self> {
        let mut v1: Vec<(Vec<String>, PathBuf)> = Vec::new();
        let mut v2 = None;
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(point) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup") => {
                    let options = right.nth(1).unwrap_or_default();
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|o| !matches!(*o, "rw" | "ro" | "xattr") && !o.starts_with("release_agent"))
                        .map(str::to_string)
                        .collect();
                    if !v1.iter().any(|(known, _)| *known == controllers) {
                        v1.push((controllers, PathBuf::from(point)));
                    }
                }
                Some("cgroup2") if v2.is_none() => v2 = Some(PathBuf::from(point)),
                _ => {}
            }
        }
        if v1.is_empty() { v2.map(Hierarchy::V2) } else { Some(Hierarchy::V1(v1)) }
    }

    pub fn is_v2(&self) -> bool {
        matches!(self, Hierarchy::V2(_))
    }

    /// The directories of a group, with the controllers of each (none for v2). A group is named by its container's id, or by
    /// its path, which begins with `/`, where that is not in `/wharf`.
    pub fn directories<'a>(&'a self, group: &'a str) -> impl Iterator<Item = (&'a [String], PathBuf)> {
        let pairs: Vec<(&[String], &PathBuf)> = match self {
            Hierarchy::V1(mounts) => mounts.iter().map(|(c, p)| (c.as_slice(), p)).collect(),
            Hierarchy::V2(point) => vec![(&[][..], point)],
        };
        pairs.into_iter().map(move |(controllers, point)| {
            let path = match group.strip_prefix('/') {
                Some(path) => point.join(path),
                None => point.join(PARENT).join(group),
            };
            (controllers, path)
        })
    }

    /// A group's path from the root of the hierarchies.
    pub fn path_of(&self, group: &str) -> String {
        if group.starts_with('/') { group.to_string() } else { format!("/{PARENT}/{group}") }
    }

    /// The directory in which a controller's files of a group lie.
    pub fn directory(&self, controller: &str, group: &str) -> Option<PathBuf> {
        self.directories(group).find(|(c, _)| c.is_empty() || c.iter().any(|c| c == controller)).map(|(_, path)| path)
    }

    /// Makes the parent groups. Their first child in a hierarchy is slow to make, so the engine does this at its start.
    ///
    /// # Errors
    /// The kernel's, with the directory.
    pub fn make_parents(&self) -> Result<(), StepFailed> {
        for (controllers, path) in self.directories("") {
            make_parent(&path, controllers)?;
        }
        Ok(())
    }

    /// Removes the parents where no container of any engine is left in them.
    pub fn remove_parents(&self) {
        for (_, path) in self.directories("") {
            let _ = fs::remove_dir(path);
        }
    }

    /// Makes a container's groups, sets its limits and moves the calling process into them.
    ///
    /// # Errors
    /// The step that failed; nothing is removed, the caller does that.
    pub fn enter_new(&self, group: &str, resources: Option<&LinuxResources>) -> Result<(), StepFailed> {
        for (controllers, path) in self.directories(group) {
            match make(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    match path.parent() {
                        Some(parent) if group.starts_with('/') => make_parent(parent, controllers)?,
                        _ => self.make_parents()?,
                    }
                    make(&path).doing(format_args!("making the cgroup {}", path.display()))?;
                }
                other => other.doing(format_args!("making the cgroup {}", path.display()))?,
            }
            if let Some(resources) = resources {
                match self {
                    Hierarchy::V1(_) => super::limits::apply_v1(&path, controllers, resources)?,
                    Hierarchy::V2(_) => super::limits::apply_v2(&path, resources)?,
                }
            }
            if controllers.iter().any(|c| c == "cpuset") {
                inherit_cpuset(&path)?;
            }
            write(&path.join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// Changes the limits of a group that exists.
    ///
    /// # Errors
    /// The kernel's, with the file.
    pub fn apply(&self, group: &str, resources: &LinuxResources) -> Result<(), StepFailed> {
        self.directories(group).try_for_each(|(controllers, path)| match self {
            Hierarchy::V1(_) => super::limits::apply_v1(&path, controllers, resources),
            Hierarchy::V2(_) => super::limits::apply_v2(&path, resources),
        })
    }

    /// Moves the calling process into a container's groups.
    ///
    /// # Errors
    /// ENOENT when the container is gone.
    pub fn enter(&self, group: &str) -> Result<(), StepFailed> {
        self.directories(group).try_for_each(|(_, path)| write(&path.join("cgroup.procs"), "0"))
    }

    /// Removes a container's groups; false while a process is left in one.
    pub fn remove(&self, group: &str) -> bool {
        let removed = self.directories(group).fold(true, |gone, (_, path)| subgroups::remove(&path) && gone);
        if let (true, Some((parent, _))) = (removed, group.rsplit_once('/')) {
            for (_, path) in self.directories(parent) {
                remove_made(&path);
            }
        }
        removed
    }

    /// Kills every process of a group.
    pub fn kill(&self, group: &str) {
        if let Hierarchy::V2(_) = self
            && let Some((_, path)) = self.directories(group).next()
            && fs::write(path.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        // A process that forks faster than they are listed would get away.
        let frozen = self.set_frozen(group, Frozen::Yes).is_ok();
        for _ in 0..FREEZING_TRIES {
            if !frozen || self.is_frozen(group) {
                break;
            }
            std::thread::sleep(FREEZING_PAUSE);
        }
        // One that was stopped while it entered the groups is in some of them.
        let pids: BTreeSet<i32> = self.directories(group).flat_map(|(_, path)| subgroups::processes(&path)).collect();
        for pid in pids {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        if frozen {
            let _ = self.set_frozen(group, Frozen::No);
        }
    }

    /// The processes of a group and of those that were made in it, by their ids on the host.
    pub fn processes(&self, group: &str) -> Vec<i32> {
        let Some(path) = self.directory("pids", group).or_else(|| self.directory("name=systemd", group)) else {
            return Vec::new();
        };
        subgroups::processes(&path)
    }

    /// Whether the kernel has killed a process of the group for want of memory.
    pub fn oom_killed(&self, group: &str) -> bool {
        let Some(path) = self.directory("memory", group) else { return false };
        let file = path.join(if self.is_v2() { "memory.events" } else { "memory.oom_control" });
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count.trim() != "0")
    }

    /// Freezes or thaws every process of the group.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_frozen(&self, group: &str, frozen: Frozen) -> Result<(), StepFailed> {
        let (controller, file, value) = match (self, frozen) {
            (Hierarchy::V1(_), Frozen::Yes) => ("freezer", "freezer.state", "FROZEN"),
            (Hierarchy::V1(_), Frozen::No) => ("freezer", "freezer.state", "THAWED"),
            (Hierarchy::V2(_), Frozen::Yes) => ("", "cgroup.freeze", "1"),
            (Hierarchy::V2(_), Frozen::No) => ("", "cgroup.freeze", "0"),
        };
        match self.directory(controller, group) {
            Some(path) => write(&path.join(file), value),
            None => Err(StepFailed::because("pausing the container", "the kernel's freezer is not mounted")),
        }
    }
}

impl Hierarchy {
    /// Whether the group is there: one whose processes have ended is removed.
    pub fn exists(&self, group: &str) -> bool {
        self.directories(group).any(|(_, path)| path.exists())
    }

    /// Whether every process of the group is frozen by now: the kernel takes a moment.
    pub fn is_frozen(&self, group: &str) -> bool {
        let (controller, file, word) = match self {
            Hierarchy::V1(_) => ("freezer", "freezer.state", "FROZEN"),
            Hierarchy::V2(_) => ("", "cgroup.events", "frozen 1"),
        };
        let text = self.directory(controller, group).and_then(|path| fs::read_to_string(path.join(file)).ok());
        text.is_some_and(|text| text.lines().any(|line| line == word))
    }
}

/// The kernel freezes processes at once, but for one that waits for a disk.
const FREEZING_TRIES: u32 = 20;
const FREEZING_PAUSE: Duration = Duration::from_micros(100);

/// The state that a freezer is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frozen {
    Yes,
    No,
}

/// Makes a group that nobody but root may change, whatever the caller's umask: who makes groups in it decides when it goes.
fn make(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(path)
}

/// Marks a parent group that wharf has made: it goes with its last container. One that was there is its maker's.
const MADE: &str = "trusted.wharf";

/// Makes a group for containers' groups, with what leads to it, and turns its controllers on for them.
fn make_parent(path: &Path, controllers: &[String]) -> Result<(), StepFailed> {
    let Some(above) = path.parent() else { return Ok(()) };
    match make(path) {
        Ok(()) => drop(xattr::set(path, MADE, b"")),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_parent(above, controllers)?;
            return make_parent(path, controllers);
        }
        Err(e) => return Err(e).doing(format_args!("making the cgroup {}", path.display())),
    }
    if controllers.iter().any(|c| c == "cpuset") {
        inherit_cpuset(path)?;
        write(&path.join("cgroup.clone_children"), "1")?;
    }
    if controllers.is_empty() {
        enable_controllers(above);
        enable_controllers(path);
    }
    Ok(())
}

/// Enables the controllers of a v2 group for the groups below it.
pub(super) fn enable_controllers(group: &Path) {
    let available = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace().filter(|c| matches!(*c, "cpu" | "cpuset" | "io" | "memory" | "pids")) {
        // One at a time: a controller that a v1 mount or the distribution keeps must not take the others along.
        let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Removes a parent group, and what led to it, where wharf has made it and nothing is left in it.
fn remove_made(path: &Path) {
    if xattr::get(path, MADE).is_ok_and(|mark| mark.is_some())
        && fs::remove_dir(path).is_ok()
        && let Some(above) = path.parent()
    {
        remove_made(above);
    }
}

/// A v1 cpuset is empty until it is given the parent's processors and memory nodes; no process can enter an empty one. The
/// parent may be as empty, where another engine has made it this very moment.
fn inherit_cpuset(path: &Path) -> Result<(), StepFailed> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).doing(format_args!("reading {}", path.display()))?;
        Ok::<_, StepFailed>(text.trim().to_string())
    };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !read(path.join(file))?.is_empty() {
            continue;
        }
        let mut value = read(parent.join(file))?;
        if value.is_empty() {
            inherit_cpuset(parent)?;
            value = read(parent.join(file))?;
        }
        write(&path.join(file), &value)?;
    }
    Ok(())
}

/// Which attribute of a service a control file is, for the message that the kernel has refused its value.
fn attribute_of(path: &Path) -> String {
    const ATTRIBUTES: [(&str, &str); 15] = [
        ("memory.memsw", "memswap_limit"),
        ("memory.swap.", "memswap_limit"),
        ("memory.swappiness", "mem_swappiness"),
        ("memory.soft_limit", "mem_reservation"),
        ("memory.low", "mem_reservation"),
        ("memory.", "mem_limit"),
        ("cpuset.", "cpuset"),
        ("cpu.rt_", "cpu_rt_runtime"),
        ("cpu.cfs_period", "cpu_period"),
        ("cpu.shares", "cpu_shares"),
        ("cpu.weight", "cpu_shares"),
        ("cpu.", "cpus"),
        ("pids.", "pids_limit"),
        ("blkio.", "blkio_config"),
        ("io.", "blkio_config"),
    ];
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let named = ATTRIBUTES.iter().find(|(start, _)| file.starts_with(start));
    named.map(|(_, attribute)| format!("setting `{attribute}`: ")).unwrap_or_default()
}

/// Writes a control file.
pub fn write(path: &Path, value: &str) -> Result<(), StepFailed> {
    fs::write(path, value).doing(format_args!("{}writing `{value}` to {}", attribute_of(path), path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_both_versions() {
        let hybrid = "36 24 0:31 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                      37 24 0:32 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,name=systemd\n\
                      38 24 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let expected = Hierarchy::V1(vec![
            (vec!["cpu".into(), "cpuacct".into()], "/sys/fs/cgroup/cpu".into()),
            (vec!["name=systemd".into()], "/sys/fs/cgroup/systemd".into()),
        ]);
        assert_eq!(Hierarchy::from_mountinfo(hybrid), Some(expected));
        let unified = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(Hierarchy::from_mountinfo(unified), Some(Hierarchy::V2("/sys/fs/cgroup".into())));
        assert_eq!(Hierarchy::from_mountinfo(""), None);
    }
}
