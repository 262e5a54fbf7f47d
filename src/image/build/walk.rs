//! A tree from its top to its leaves, by descriptors: how deep it is costs neither stack nor descriptors, and no symlink that is
//! put there meanwhile leads out of it.

use super::files::FoundFile;
use super::ignore::Patterns;
use crate::sys::{self, Beneath};
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Directories that are open at a time. Those further up are opened again when the walk comes back to them.
const MAX_OPEN: usize = 32;

/// Everything below a directory, parents first, in the order of names.
pub struct Walk<'a> {
    root: BorrowedFd<'a>,
    excluded: &'a Patterns,
    /// From the directory where the walk began to the one that it is in.
    levels: Vec<WalkLevel>,
    /// A directory that was given out and is to be entered next.
    next: Option<PathBuf>,
    /// Entries that come before anything else.
    queue: VecDeque<FoundFile>,
}

struct WalkLevel {
    path: PathBuf,
    /// The directory itself, where it is left out but for something in it that has not been met yet.
    withheld: Option<FoundFile>,
    directory: Option<OwnedFd>,
    names: WalkNames,
}

/// Bytes that the names in all directories of one walk may take: a million of some twenty letters.
const MAX_NAMES: usize = 32 << 20;

/// The names in a directory, the last one first, end to end: a vector of its own for each would be three times as much.
#[derive(Default)]
struct WalkNames {
    text: Vec<u8>,
    /// Where each begins, and its length.
    places: Vec<(u32, u16)>,
}

impl WalkNames {
    /// Reads a directory; an error where that would be more than `room` bytes.
    fn of(directory: &OwnedFd, room: usize) -> io::Result<Self> {
        let copy = openat(directory, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut names = WalkNames::default();
        for entry in nix::dir::Dir::from_fd(copy)?.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.places.push((names.text.len() as u32, name.len() as u16));
                names.text.extend(name);
                if names.bytes() > room {
                    return Err(io::Error::other(format!(
                        "a directory and those above it have more than {} MiB of names, with {} in this one: have its files in \
                         several directories, or in an archive",
                        MAX_NAMES >> 20,
                        names.places.len()
                    )));
                }
            }
        }
        names.text.shrink_to_fit();
        let WalkNames { text, places } = &mut names;
        places.sort_unstable_by(|a, b| name_at(text, *b).cmp(name_at(text, *a)));
        places.shrink_to_fit();
        Ok(names)
    }

    fn bytes(&self) -> usize {
        self.text.len() + self.places.len() * size_of::<(u32, u16)>()
    }

    fn pop(&mut self) -> Option<OsString> {
        let place = self.places.pop()?;
        Some(OsStr::from_bytes(name_at(&self.text, place)).to_owned())
    }
}

fn name_at(text: &[u8], (begin, length): (u32, u16)) -> &[u8] {
    &text[begin as usize..][..usize::from(length)]
}

impl<'a> Walk<'a> {
    /// Begins at a directory, to which symlinks are followed within the root. `excluded` gets paths from the root.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn new(root: BorrowedFd<'a>, top: &Path, excluded: &'a Patterns) -> io::Result<Self> {
        let directory = sys::open_beneath(root, top, libc::O_RDONLY | libc::O_DIRECTORY, 0, Beneath::AsRoot)?;
        let top = WalkLevel {
            path: top.to_path_buf(),
            withheld: None,
            names: WalkNames::of(&directory, MAX_NAMES)?,
            directory: Some(directory),
        };
        Ok(Walk { root, excluded, levels: vec![top], next: None, queue: VecDeque::new() })
    }

    /// The directory in which what was given out last is, and its name there.
    pub fn place<'b>(&'b self, found: &'b FoundFile) -> io::Result<(BorrowedFd<'b>, &'b Path)> {
        let parent = found.path.parent().unwrap_or(Path::new(""));
        let level = self.levels.iter().rev().find(|level| level.path == parent).and_then(|level| level.directory.as_ref());
        let directory = level.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        Ok((directory.as_fd(), Path::new(found.path.file_name().unwrap_or_default())))
    }

    fn enter(&mut self, path: PathBuf, withheld: Option<FoundFile>) -> io::Result<()> {
        let Some(above) = self.levels.last().and_then(|level| level.directory.as_ref()) else { return Ok(()) };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory = match openat(above, path.file_name().unwrap_or_default(), flags, Mode::empty()) {
            // It was there a moment ago: somebody is at work in the tree.
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR | nix::Error::ELOOP) => return Ok(()),
            other => other?,
        };
        let held: usize = self.levels.iter().map(|level| level.names.bytes()).sum();
        let names = WalkNames::of(&directory, MAX_NAMES.saturating_sub(held))?;
        let level = WalkLevel { path, withheld, names, directory: Some(directory) };
        self.levels.push(level);
        if let Some(far) = self.levels.len().checked_sub(MAX_OPEN + 1) {
            self.levels[far].directory = None;
        }
        Ok(())
    }

    fn step(&mut self) -> io::Result<Option<FoundFile>> {
        if let Some(found) = self.queue.pop_front() {
            return Ok(Some(found));
        }
        if let Some(path) = self.next.take() {
            self.enter(path, None)?;
        }
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let Some(name) = level.names.pop() else {
                self.levels.pop();
                continue;
            };
            let directory = match &level.directory {
                Some(open) => open,
                None => {
                    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
                    match sys::open_beneath(self.root, &level.path, flags, 0, Beneath::AsRoot) {
                        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                            self.levels.pop();
                            continue;
                        }
                        other => level.directory.insert(other?),
                    }
                }
            };
            let path = level.path.join(&name);
            // Nobody could open it by its name again, nor could an archive give it to anybody.
            if path.as_os_str().len() >= libc::PATH_MAX as usize {
                return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
            }
            let stat = match fstatat(directory, Path::new(&name), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(nix::Error::ENOENT) => continue,
                other => other?,
            };
            let found = FoundFile { path, stat };
            let out = !self.excluded.is_empty() && self.excluded.excludes(&found.path);
            if found.is_directory() && (!out || self.excluded.may_take_back_below(&found.path)) {
                if out {
                    self.enter(found.path.clone(), Some(found))?;
                    continue;
                }
                self.next = Some(found.path.clone());
            }
            if !out {
                // What is taken back brings the directories that it is in, with their modes.
                self.queue.extend(self.levels.iter_mut().filter_map(|level| level.withheld.take()));
                self.queue.push_back(found);
                return Ok(self.queue.pop_front());
            }
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = io::Result<FoundFile>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.step().transpose();
        if matches!(found, Some(Err(_))) {
            // An error is the end.
            self.levels.clear();
            self.next = None;
            self.queue.clear();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    fn paths(root: &Path, top: &str, excluded: &str) -> Vec<String> {
        let (directory, excluded) = (File::open(root).unwrap(), Patterns::parse(excluded));
        let walk = Walk::new(directory.as_fd(), Path::new(top), &excluded).unwrap();
        walk.map(|found| found.unwrap().path.display().to_string()).collect()
    }

    #[test]
    fn parents_come_first_and_names_in_order() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("b/d")).unwrap();
        for file in ["c", "a", "b/z", "b/d/e", "b-"] {
            fs::write(root.path().join(file), "").unwrap();
        }
        std::os::unix::fs::symlink("b", root.path().join("link")).unwrap();
        assert_eq!(paths(root.path(), "", ""), ["a", "b", "b/d", "b/d/e", "b/z", "b-", "c", "link"]);
        assert_eq!(paths(root.path(), "b", ""), ["b/d", "b/d/e", "b/z"]);
        assert_eq!(paths(root.path(), "", "b\n!b/d/e\nc"), ["a", "b", "b/d", "b/d/e", "b-", "link"]);
    }

    #[test]
    fn a_deep_tree_needs_few_descriptors() {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut path = PathBuf::new();
        for n in 0..1500 {
            path.push("d");
            fs::create_dir(root.path().join(&path)).unwrap();
            if n % 100 == 0 {
                fs::write(root.path().join(&path).join("file"), "").unwrap();
            }
        }
        let top = root.path().to_path_buf();
        let walking = std::thread::Builder::new().stack_size(128 << 10).spawn(move || {
            let (directory, none) = (File::open(&top).unwrap(), Patterns::default());
            let mut walk = Walk::new(directory.as_fd(), Path::new(""), &none).unwrap();
            let (mut files, mut most) = (0, 0);
            while let Some(found) = walk.next() {
                let found = found.unwrap();
                most = most.max(walk.levels.iter().filter(|level| level.directory.is_some()).count());
                if !found.is_directory() {
                    let (parent, name) = walk.place(&found).unwrap();
                    openat(parent, name, OFlag::O_RDONLY, Mode::empty()).unwrap();
                    files += 1;
                }
            }
            (files, most)
        });
        assert_eq!(walking.unwrap().join().unwrap(), (15, MAX_OPEN));
    }
}
