//! Removing a tree that may be hostile: nested so deeply that a recursive removal would exhaust the stack, the descriptors or the
//! length of a path, or changed meanwhile by who made it.
//!
//! Everything is done by descriptors, and no symlink is followed. A directory that lies deeper than [`MAX_OPEN`] is moved up into
//! the topmost one, where it is removed later. What is mounted in the tree is not entered: it belongs to somebody else.

use super::quota;
use super::regular::open_regular_at;
use super::{self as sys, Beneath, open_beneath};
use nix::dir::{Dir, Type};
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Directories that are open at a time.
const MAX_OPEN: usize = 64;

/// Names of a directory that are in memory at a time.
const BATCH: usize = 256;

/// How often a directory is read again that somebody puts files into while it is removed.
const MAX_ROUNDS: u32 = 64;

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A removal under way, which can be done in parts.
pub struct Removal {
    parent: OwnedFd,
    name: OsString,
    /// From the topmost directory to the one that is being emptied.
    levels: Vec<RemovalLevel>,
    /// Directories that were moved up so far.
    moved: u64,
    done: bool,
    /// Each name is looked at before it goes: the tree is of a mount namespace in which files may be mounted.
    keeps_mounts: bool,
}

/// A name that was read, and whether it was a directory's then: what is known to be one costs no attempt to unlink it.
struct PendingRemoval {
    name: OsString,
    directory: bool,
}

struct RemovalLevel {
    directory: Dir,
    /// In the level above.
    name: OsString,
    pending: Vec<PendingRemoval>,
    /// The pending names were the last.
    read: bool,
    rounds: u32,
}

impl RemovalLevel {
    fn open(above: impl AsFd, name: OsString) -> nix::Result<Self> {
        let opened = open_beneath(above.as_fd(), Path::new(&name), DIRECTORY.bits(), 0, Beneath::OneMount);
        let directory = Dir::from_fd(opened.map_err(|error| sys::errno(&error))?)?;
        Ok(RemovalLevel { directory, name, pending: Vec::new(), read: false, rounds: 0 })
    }

    /// The next name, from the directory itself where none is pending.
    fn next(&mut self) -> nix::Result<Option<PendingRemoval>> {
        if self.pending.is_empty() && !self.read {
            self.read = true;
            for entry in self.directory.iter() {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let directory = entry.file_type() == Some(Type::Directory);
                self.pending.push(PendingRemoval { name: OsStr::from_bytes(name).to_owned(), directory });
                if self.pending.len() == BATCH {
                    self.read = false;
                    break;
                }
            }
        }
        Ok(self.pending.pop())
    }
}

/// `unlinkat(2)`; what a container has made immutable is removed as well.
fn unlink(directory: impl AsFd, name: &OsStr, what: UnlinkatFlags) -> nix::Result<()> {
    match unlinkat(&directory, name, what) {
        Err(nix::Error::EPERM) => {
            let _ = quota::allow_changes(directory.as_fd());
            // Opened only where that has no effect: neither a device nor a FIFO.
            let regular = open_regular_at(directory.as_fd(), Path::new(name)).map(OwnedFd::from);
            if let Ok(file) = regular.or_else(|_| Ok::<_, io::Error>(openat(&directory, name, DIRECTORY, Mode::empty())?)) {
                let _ = quota::allow_changes(file.as_fd());
            }
            unlinkat(&directory, name, what)
        }
        done => done,
    }
}

impl Removal {
    /// The removal of what has a name in a directory. Nothing is removed yet.
    pub fn new(parent: OwnedFd, name: &OsStr) -> Self {
        Removal { parent, name: name.to_owned(), levels: Vec::new(), moved: 0, done: false, keeps_mounts: false }
    }

    /// The removal of what is at a path; `None` where its directory does not exist.
    ///
    /// # Errors
    /// The kernel's, or `InvalidInput` for a path without a name at its end.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        match nix::fcntl::open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(parent) => Ok(Some(Removal::new(parent, name))),
            Err(nix::Error::ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes everything; what is not there is fine.
    ///
    /// # Errors
    /// The first that cannot be removed. What remains stays as it is.
    pub fn finish(&mut self) -> io::Result<()> {
        while !self.advance(1 << 16)? {}
        Ok(())
    }

    /// Takes some steps, each of which costs a few system calls. Tells whether everything is removed.
    ///
    /// # Errors
    /// As [`Removal::finish`].
    pub fn advance(&mut self, steps: u32) -> io::Result<bool> {
        for _ in 0..steps {
            if self.done {
                break;
            }
            self.step()?;
        }
        Ok(self.done)
    }

    fn step(&mut self) -> io::Result<()> {
        let keeps_mounts = self.keeps_mounts;
        let Some(level) = self.levels.last_mut() else {
            refuse_mount(keeps_mounts, self.parent.as_fd(), &self.name)?;
            match unlink(&self.parent, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(nix::Error::ENOENT) => self.done = true,
                Err(nix::Error::EISDIR) => {
                    let level = RemovalLevel::open(&self.parent, self.name.clone());
                    self.levels.push(level.map_err(|error| of_mount(error, &self.name))?);
                }
                Err(e) => return Err(e.into()),
            }
            return Ok(());
        };
        match level.next()? {
            Some(PendingRemoval { name, directory: true }) => self.descend(name),
            Some(PendingRemoval { name, directory: false }) => {
                refuse_mount(keeps_mounts, level.directory.as_fd(), &name)?;
                match unlink(&level.directory, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
                    Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
                    Err(nix::Error::EISDIR) => self.descend(name),
                    Err(e) => Err(e.into()),
                }
            }
            None => self.ascend(),
        }
    }

    fn descend(&mut self, name: OsString) -> io::Result<()> {
        let depth = self.levels.len();
        let Some(level) = self.levels.last() else { return Ok(()) };
        if depth < MAX_OPEN {
            let inner = match RemovalLevel::open(&level.directory, name.clone()) {
                // It is gone, or no directory any more: what is there now is met in the next round.
                Err(nix::Error::ENOENT | nix::Error::ENOTDIR | nix::Error::ELOOP) => return Ok(()),
                other => other.map_err(|error| of_mount(error, &name))?,
            };
            self.levels.push(inner);
            return Ok(());
        }
        loop {
            let new = format!(".wharf-removed-{}", self.moved);
            self.moved += 1;
            let (from, to) = (&level.directory, &self.levels[0].directory);
            match renameat2(from, name.as_os_str(), to, new.as_str(), RenameFlags::RENAME_NOREPLACE) {
                Err(nix::Error::EEXIST) => {}
                Ok(()) => break,
                Err(nix::Error::ENOENT) => return Ok(()),
                // overlayfs moves no directory of a lower layer.
                Err(nix::Error::EXDEV) => {
                    return Err(io::Error::other(format!("directories are nested more than {MAX_OPEN} deep on an overlay")));
                }
                Err(e) => return Err(e.into()),
            }
        }
        // It is read once more for what was moved there, and that costs no round.
        self.levels[0].read = false;
        self.levels[0].rounds = 0;
        Ok(())
    }

    fn ascend(&mut self) -> io::Result<()> {
        let Some(mut level) = self.levels.pop() else { return Ok(()) };
        let removed = match self.levels.last() {
            Some(above) => unlink(&above.directory, level.name.as_os_str(), UnlinkatFlags::RemoveDir),
            None => unlink(&self.parent, level.name.as_os_str(), UnlinkatFlags::RemoveDir),
        };
        match removed {
            Ok(()) | Err(nix::Error::ENOENT) => self.done = self.levels.is_empty(),
            Err(nix::Error::ENOTEMPTY) if level.rounds < MAX_ROUNDS => {
                level.rounds += 1;
                level.read = false;
                self.levels.push(level);
            }
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }
}

fn refuse_mount(keeps_mounts: bool, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match keeps_mounts && sys::is_mount_root(directory, Path::new(name)).unwrap_or_default() {
        true => Err(of_mount(nix::Error::EXDEV, name)),
        false => Ok(()),
    }
}

fn of_mount(error: nix::Error, name: &OsStr) -> io::Error {
    match error {
        nix::Error::EXDEV => {
            let why = format!("something is mounted on {}: change it at its source, or unmount it", name.display());
            io::Error::new(io::ErrorKind::ResourceBusy, why)
        }
        other => other.into(),
    }
}

/// Removes what has a name in a directory, with all below it. A mount in it is kept, in whatever mount namespace the directory is.
///
/// # Errors
/// As [`Removal::finish`].
pub fn remove(parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    let removal = Removal::new(parent.as_fd().try_clone_to_owned()?, name);
    Removal { keeps_mounts: true, ..removal }.finish()
}

/// Removes what is at a path, with all below it.
///
/// # Errors
/// As [`Removal::of`] and [`Removal::finish`].
pub fn remove_tree(path: &Path) -> io::Result<()> {
    Removal::of(path)?.map_or(Ok(()), |mut removal| removal.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Makes a chain of directories in the current one of a thread of its own, as `mkdir x; cd x` does.
    fn deep(path: &Path, depth: usize) {
        let mut directory: OwnedFd = fs::File::open(path).unwrap().into();
        for n in 0..depth {
            nix::sys::stat::mkdirat(&directory, "d", Mode::S_IRWXU).unwrap();
            let file = OFlag::O_CREAT | OFlag::O_WRONLY;
            if n % 50 == 0 {
                openat(&directory, "file", file, Mode::S_IRWXU).unwrap();
            }
            directory = openat(&directory, "d", DIRECTORY, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn depth_costs_neither_stack_nor_descriptors() {
        // On a disk most of the time would go to its journal.
        let outer = tempfile::tempdir_in("/dev/shm").unwrap();
        let tree = outer.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join(".wharf-removed-0"), "a name that is taken").unwrap();
        deep(&tree, 20_000);
        // Threads of the engine have two MiB; a small one shows that depth does not count.
        let removing = std::thread::Builder::new().stack_size(128 << 10).spawn(move || remove_tree(&tree).map(|()| tree));
        let tree = removing.unwrap().join().unwrap().unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn everything_goes_and_no_link_is_followed() {
        let outer = tempfile::tempdir().unwrap();
        let (tree, kept) = (outer.path().join("tree"), outer.path().join("kept"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        std::os::unix::fs::symlink(&kept, tree.join("a/link")).unwrap();
        for n in 0..1000 {
            fs::write(tree.join(format!("a/{n}")), "").unwrap();
            fs::create_dir(tree.join(format!("a/b/{n}"))).unwrap();
        }
        let mut removal = Removal::of(&tree).unwrap().unwrap();
        assert!(!removal.advance(10).unwrap(), "ten steps are not enough");
        // Somebody goes on writing.
        fs::write(tree.join("late"), "").unwrap();
        removal.finish().unwrap();
        assert!(!tree.exists() && kept.join("file").exists());
        std::os::unix::fs::symlink(&kept, &tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.is_symlink() && kept.join("file").exists());
        remove_tree(&tree).expect("what is not there is fine");
        remove_tree(&outer.path().join("none/below")).expect("nor its directory");
    }

    #[test]
    fn what_is_mounted_is_kept() {
        let outer = tempfile::tempdir().unwrap();
        let tree = outer.path().join("tree");
        let (directory, file) = (tree.join("d/mounted"), tree.join("mounted"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(&file, "").unwrap();
        let kept = outer.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "kept").unwrap();
        let bind = |from: &Path, to: &Path| {
            nix::mount::mount(Some(from), to, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>).unwrap();
        };
        bind(&kept, &directory);
        bind(&kept.join("file"), &file);
        // Of a process in another mount namespace, the kernel takes the mount away together with its name.
        let (above, within) = (fs::File::open(outer.path()).unwrap(), fs::File::open(&tree).unwrap());
        let from_elsewhere = move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            [remove(above, OsStr::new("tree")).unwrap_err(), remove(within, OsStr::new("mounted")).unwrap_err()]
        };
        let refused = std::thread::spawn(from_elsewhere).join().unwrap();
        for error in refused.into_iter().chain([remove_tree(&tree.join("d")).unwrap_err()]) {
            assert!(error.to_string().starts_with("something is mounted on mounted:"), "{error}");
        }
        assert_eq!(fs::read_to_string(kept.join("file")).unwrap(), "kept");
        assert!(directory.join("file").exists() && fs::read_to_string(&file).unwrap() == "kept", "they are mounted still");
        for mounted in [&directory, &file] {
            nix::mount::umount(mounted).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && kept.join("file").exists());
    }
}
