//! The launch file: a container's description for its monitor.

use crate::logs::holds::Hold;
use oci_spec::runtime::Mount;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file `launch.json` in the container's run directory: an OCI runtime configuration, and what OCI has no word for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Launch {
    pub id: String,
    /// The container's group in the control groups' hierarchies, as [`super::cgroup::Hierarchy::directories`] names it.
    pub group: String,
    /// The group that the monitor goes to; absent where it stays where it was started.
    pub monitors: Option<String>,
    /// CLONE_NEW* of the namespaces to make.
    pub clone_flags: u64,
    /// Namespaces and mounts of other containers that it joins: the monitor inherits a descriptor for each, in this order, after the engine's.
    pub joins: Vec<Join>,
    /// The OCI runtime that runs the container; wharf's own where it is absent.
    pub runtime: Option<PathBuf>,
    /// A cgroup namespace of its own.
    pub cgroup_namespace: bool,
    pub terminal: bool,
    pub cgroup: super::cgroup::Hierarchy,
    /// The OCI runtime specification (`config.json` of a bundle).
    pub oci: oci_spec::runtime::Spec,
    pub rootfs: Rootfs,
    /// `user[:group]` by name or number, looked up in the container's own /etc/passwd and /etc/group.
    pub user: String,
    /// Groups to join besides, by name or number.
    pub group_add: Vec<String>,
    /// Mounts of images' files: read-only overlays.
    pub images: Vec<ImageMount>,
    /// Mount destinations of which not the source is mounted but what is at a path in it. It is resolved beneath the source.
    pub subpaths: Subpaths,
    /// Bind mounts in which the source's owner is a user of the container: the destination, and `user[:group]`, empty for the
    /// container's own.
    pub id_maps: Vec<(PathBuf, String)>,
    /// Empty volumes that take the image's content first.
    pub copy_up: Vec<CopyUp>,
    /// Destinations of mounts that are another container's as well.
    pub shared: Vec<PathBuf>,
    /// Destinations of mounts that other containers may share: the monitor keeps a descriptor of each.
    pub kept: Vec<PathBuf>,
    /// An init of wharf's own as process 1, which forwards signals and reaps.
    pub init: bool,
    /// The AppArmor profile of the container's processes; absent for none.
    pub apparmor: Option<String>,
    /// The seccomp program, compiled; empty for none.
    pub seccomp: Vec<[u32; 2]>,
    pub log: LogTarget,
    /// Keep the standard input open for `attach`; otherwise it is /dev/null.
    pub stdin: bool,
    /// Where the exit is recorded.
    pub exit_file: PathBuf,
    /// The command by which a monitor restarts an engine that has died: the engine's program and arguments.
    pub revive: Vec<String>,
    /// One lock for all monitors of an engine: who holds it starts the engine.
    pub revive_lock: PathBuf,
}

/// A container's own mounts, beside those that every container has.
#[derive(Default)]
pub struct OwnMounts {
    pub binds: Vec<Mount>,
    /// Destinations of empty volumes, which take the image's content.
    pub copy_up: Vec<CopyUp>,
    pub images: Vec<ImageMount>,
    pub subpaths: Subpaths,
    /// Destinations of binds whose source's owner is a user of the container, and `user[:group]`; empty for the container's own.
    pub id_maps: Vec<(PathBuf, String)>,
}

/// What is mounted of a source, by the destination, where it is not all.
pub type Subpaths = HashMap<String, PathBuf>;

/// A mount destination whose source is an empty volume that takes the image's content first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CopyUp {
    pub destination: PathBuf,
    /// The volume's directory, which no container sees.
    pub beside: PathBuf,
}

/// A namespace that is joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Join {
    Network,
    Ipc,
    Pid,
    /// The mount namespace in which a shared mount is; it is not joined itself. One for each of [`Launch::shared`].
    MountNamespace,
    /// The shared mount itself; one for each of [`Launch::shared`].
    Mount,
}

/// Descriptors of what is joined.
#[derive(Debug, Default)]
pub struct JoinedNamespaces {
    pub network: Option<OwnedFd>,
    pub ipc: Option<OwnedFd>,
    /// The other container's first process, by a pidfd; its pid namespace where another runtime runs the container.
    pub pid: Option<OwnedFd>,
    pub mount_namespaces: Vec<OwnedFd>,
    pub mounts: Vec<OwnedFd>,
}

impl JoinedNamespaces {
    pub fn set(&mut self, join: Join, fd: OwnedFd) {
        let place = match join {
            Join::Network => &mut self.network,
            Join::Ipc => &mut self.ipc,
            Join::Pid => &mut self.pid,
            Join::MountNamespace => return self.mount_namespaces.push(fd),
            Join::Mount => return self.mounts.push(fd),
        };
        *place = Some(fd);
    }
}

/// An image's files, mounted at a path in the container.
#[derive(Debug, Serialize, Deserialize)]
pub struct ImageMount {
    pub destination: PathBuf,
    /// The lowest layer first.
    pub layers: Vec<PathBuf>,
}

/// The layers of an image and the container's own writable one, to be mounted by overlayfs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rootfs {
    /// The top layer first.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// Where it is mounted, in the container's mount namespace alone.
    pub mountpoint: PathBuf,
}

/// Where output goes, and how the file is rotated.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogTarget {
    pub path: PathBuf,
    /// Bytes at which a new file is begun; 0 is never.
    pub max_size: u64,
    /// How many files are kept, the current one included.
    pub max_files: u32,
    /// The files that its readers need, from before the start.
    #[serde(default)]
    pub holds: Vec<Hold>,
    /// Readers that are about to come.
    #[serde(default)]
    pub expected: Vec<u64>,
}

/// How a container's first process ended; the content of `exit.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code, or 128 + the signal's number.
    pub code: i32,
    #[serde(default)]
    pub oom_killed: bool,
    pub finished_at: jiff::Timestamp,
    #[serde(default)]
    pub started_at: Option<jiff::Timestamp>,
}

impl Exit {
    /// An end that nobody has recorded.
    pub fn now(code: i32) -> Self {
        Exit { code, oom_killed: false, finished_at: jiff::Timestamp::now(), started_at: None }
    }

    /// More than any exit takes.
    const SIZE: usize = 512;

    /// Makes the file in which the end will be recorded, with the space for it, so that it can be when the disk is full.
    ///
    /// # Errors
    /// The disk's.
    pub fn reserve(path: &Path) -> io::Result<()> {
        Self::fill(&File::options().write(true).create(true).truncate(false).custom_flags(libc::O_NOFOLLOW).open(path)?, b"")
    }

    /// Records the end in place: one write within one block, so that a reader sees it whole or not at all. Not synced: after a
    /// power cut nothing runs whose exit would matter.
    ///
    /// # Errors
    /// The disk's.
    pub fn record(&self, path: &Path) -> io::Result<()> {
        let file = File::options().write(true).create(true).truncate(false).custom_flags(libc::O_NOFOLLOW).open(path)?;
        Self::fill(&file, &serde_json::to_vec(self)?)
    }

    fn fill(file: &File, text: &[u8]) -> io::Result<()> {
        let mut block = [b' '; Self::SIZE];
        let place = block.get_mut(..text.len()).ok_or_else(|| io::Error::other("the exit is too long"))?;
        place.copy_from_slice(text);
        file.write_all_at(&block, 0)
    }

    /// The recorded exit.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }
}

/// A process to run inside a container that is running.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The engine's number for it, returned in every event about it.
    pub id: u64,
    pub args: Vec<String>,
    /// The whole environment, `NAME=VALUE`.
    pub env: Vec<String>,
    pub cwd: String,
    pub user: String,
    pub tty: bool,
    /// Every capability, no seccomp filter.
    pub privileged: bool,
    /// Rows and columns of the terminal.
    pub size: Option<(u16, u16)>,
}
