//! The copying of a COPY or ADD into a layer that is being made.
//!
//! The layer is an overlay's upper directory and everything is written through the mount: the kernel resolves symlinks within the
//! root, and copies up the directories that are written into, with owner and mode.

use super::links::CopiedLinks;
use super::{Copy, CopySelection, Item, SeenVersions, Selected};
use crate::image::build::files::Tree;
use crate::image::build::given_up::{self, GivenUpReader};
use crate::image::unpack::make_directories;
use crate::image::{ImageError, compression};
use crate::sys::attributes::CopiedAttributes;
use crate::sys::beneath::place_beneath;
use crate::sys::node::FoundNode;
use crate::sys::regular::{copy_with_holes, open_regular};
use crate::sys::{self, Beneath};
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, symlinkat, unlinkat};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Copies into a layer, by its overlay's root. Returns which files it has copied.
///
/// # Errors
/// The disk's, or a destination that is a file where a directory is needed.
pub fn apply(copy: &Copy, selected: &CopySelection, tree: &Tree, root: BorrowedFd<'_>) -> Result<SeenVersions, ImageError> {
    let wanted = Path::new(&copy.destination);
    let mut writer = Copier { copy, tree, root, selected, links: CopiedLinks::default(), seen: SeenVersions::default() };
    let several = copy.sources.len() > 1 || selected.count() > 1;
    let into = copy.destination.ends_with('/')
        || copy.destination.ends_with("/.")
        || several
        || copy.parents
        || writer.is_directory(wanted);
    let failed = |e: io::Error| match e.raw_os_error() {
        Some(libc::ENOTDIR | libc::EEXIST) => {
            ImageError::Build(format!("`{}` is a file in the image, not a directory", wanted.display()))
        }
        _ => ImageError::store(format!("copying to {}", wanted.display()))(e),
    };
    // A symlink in the destination's place stays: the file is written to where it leads (`Copy` of tonistiigi/fsutil).
    let resolved = match into {
        true => wanted.to_path_buf(),
        false => Path::new("/").join(place_beneath(root, relative(wanted)).map_err(failed)?.path),
    };
    for selection in &selected.sources {
        let result =
            if selection.archive { writer.extract(selection, wanted) } else { writer.selection(selection, &resolved, into) };
        result.map_err(failed)?;
    }
    Ok(writer.seen)
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Owner, mode and time of a copy.
struct NewMetadata {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    time: TimeSpec,
}

struct Copier<'a> {
    copy: &'a Copy,
    tree: &'a Tree,
    root: BorrowedFd<'a>,
    selected: &'a CopySelection,
    /// Of all sources of the instruction.
    links: CopiedLinks,
    seen: SeenVersions,
}

impl Copier<'_> {
    fn selection(&mut self, selection: &Selected, wanted: &Path, into: bool) -> io::Result<()> {
        if selection.directory || into {
            let top = self.make_directory(wanted)?;
            drop(top);
        } else if let Some(parent) = wanted.parent() {
            self.make_directory(parent)?;
        }
        // The directories that it is in: what is made in one changes its time.
        let mut within: Vec<(PathBuf, TimeSpec)> = Vec::new();
        let (selected, tree) = (self.selected, self.tree);
        for item in selected.items(selection, tree)? {
            given_up::check()?;
            let item = item?;
            self.seen.see(&item.found.stat);
            let place = match (selection.directory || into, item.name == Path::new("")) {
                (true, true) => continue,
                (true, false) => wanted.join(&item.name),
                (false, _) => wanted.to_path_buf(),
            };
            while let Some((left, time)) = within.pop_if(|(directory, _)| !place.starts_with(directory)) {
                self.set_time(&left, time)?;
            }
            self.item(&item, &place)?;
            if item.found.is_directory() {
                within.push((place, TimeSpec::new(item.found.stat.st_mtime, item.found.stat.st_mtime_nsec)));
            }
        }
        within.into_iter().rev().try_for_each(|(left, time)| self.set_time(&left, time))
    }

    fn set_time(&self, place: &Path, time: TimeSpec) -> io::Result<()> {
        let (parent, name) = self.parent_of(place)?;
        match openat(&parent, &name, DIRECTORY, Mode::empty()) {
            // A symlink that stayed.
            Err(nix::Error::ELOOP | nix::Error::ENOTDIR) => Ok(()),
            made => Ok(futimens(made?, &time, &time)?),
        }
    }

    /// Whether there is a directory in the image, symlinks followed.
    fn is_directory(&self, path: &Path) -> bool {
        sys::open_beneath(self.root, relative(path), libc::O_PATH | libc::O_DIRECTORY, 0, Beneath::AsRoot).is_ok()
    }

    /// The directory of a path and its name in it; what is missing of the directory is made.
    fn parent_of(&self, place: &Path) -> io::Result<(OwnedFd, PathBuf)> {
        let parent = self.make_directory(place.parent().unwrap_or(Path::new("/")))?;
        Ok((parent, PathBuf::from(place.file_name().unwrap_or_default())))
    }

    fn item(&mut self, item: &Item, place: &Path) -> io::Result<()> {
        let (parent, name) = self.parent_of(place)?;
        let existing = fstatat(&parent, &name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .ok()
            .map(|s| SFlag::from_bits_truncate(s.st_mode) & SFlag::S_IFMT);
        let directory = item.found.is_directory();
        // What goes into a directory goes where a symlink in its place leads (/lib of a merged /usr), which stays as it is.
        if directory && existing == Some(SFlag::S_IFLNK) && self.is_directory(place) {
            return Ok(());
        }
        match existing {
            Some(SFlag::S_IFDIR) if !directory => return Err(io::Error::from_raw_os_error(libc::EISDIR)),
            Some(kind) if kind != SFlag::S_IFDIR => unlinkat(&parent, &name, UnlinkatFlags::NoRemoveDir)?,
            _ => {}
        }
        let new = self.metadata(item);
        match item.found.kind() {
            SFlag::S_IFREG => self.regular(item, place, (&parent, &name), &new),
            SFlag::S_IFLNK => {
                symlinkat(Path::new(&self.tree.link_target(&item.found.path)?), &parent, &name)?;
                fchownat(&parent, &name, Some(new.uid), Some(new.gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
                Ok(utimensat(&parent, &name, &new.time, &new.time, UtimensatFlags::NoFollowSymlink)?)
            }
            SFlag::S_IFDIR => {
                if existing != Some(SFlag::S_IFDIR) {
                    mkdirat(&parent, &name, Mode::from_bits_truncate(0o700))?;
                }
                let from = self.tree.open(&item.found.path, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW)?;
                self.set(&new, &File::from(from), &File::from(openat(&parent, &name, DIRECTORY, Mode::empty())?))
            }
            kind @ (SFlag::S_IFIFO | SFlag::S_IFCHR | SFlag::S_IFBLK) => {
                let device = item.found.stat.st_rdev;
                mknodat(&parent, &name, kind, Mode::empty(), device)?;
                let node = FoundNode::made(&parent, &name, kind, device)?;
                node.set_owner(new.uid, new.gid)?;
                node.set_mode(new.mode)?;
                node.set_time(new.time)
            }
            // A socket is of a process.
            _ => Ok(()),
        }
    }

    fn metadata(&self, item: &Item) -> NewMetadata {
        let stat = &item.found.stat;
        let mode = stat.st_mode & 0o7777;
        let mode = self.copy.mode.as_ref().map_or(mode, |change| change.apply(mode, item.found.is_directory()));
        let own = if self.copy.keep_owner { (stat.st_uid, stat.st_gid) } else { (0, 0) };
        let (uid, gid) = self.copy.owner.unwrap_or(own);
        NewMetadata {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            mode: Mode::from_bits_truncate(mode),
            time: TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec),
        }
    }

    /// Copies a file, or links it to the copy of another of its names.
    fn regular(&mut self, item: &Item, place: &Path, (parent, name): (&OwnedFd, &Path), new: &NewMetadata) -> io::Result<()> {
        let stat = &item.found.stat;
        if stat.st_nlink > 1 && self.links.link(self.root, stat, parent, name)? {
            return Ok(());
        }
        let from = open_regular(self.tree.root(), &item.found.path)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut to = File::from(openat(parent, name, flags, Mode::from_bits_truncate(0o600))?);
        copy_with_holes(&from, &mut to, given_up::check)?;
        self.see_changes(&from, stat)?;
        self.set(new, &from, &to)?;
        if stat.st_nlink > 1 { self.links.keep(stat, place, &to) } else { Ok(()) }
    }

    /// Sees a file again that was written while it was read.
    fn see_changes(&mut self, file: &File, before: &FileStat) -> io::Result<()> {
        let now = fstat(file)?;
        let version = |stat: &FileStat| (stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime, stat.st_ctime_nsec);
        if version(&now) != version(before) {
            self.seen.see(&now);
        }
        Ok(())
    }

    /// Owner before mode and attributes, since a change of owner clears setuid and capabilities; all by what was made, not by its
    /// name.
    fn set(&self, new: &NewMetadata, from: &File, made: &File) -> io::Result<()> {
        fchown(made, Some(new.uid), Some(new.gid))?;
        fchmod(made, new.mode)?;
        let attributes = CopiedAttributes::of(from)?;
        let attributes = if self.copy.mode.is_some() { attributes.without_access_list() } else { attributes };
        attributes.set_on(made)?;
        Ok(futimens(made, &new.time, &new.time)?)
    }

    /// Opens a directory, symlinks followed within the root; what is missing of it is made, owned as the copies are.
    fn make_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        make_directory(self.root, path, self.copy.owner.unwrap_or((0, 0)))
    }

    fn extract(&mut self, selection: &Selected, wanted: &Path) -> io::Result<()> {
        let directory = self.make_directory(wanted)?;
        let readable = openat(&directory, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let (selected, tree) = (self.selected, self.tree);
        for item in selected.items(selection, tree)? {
            let item = item?;
            self.seen.see(&item.found.stat);
            let file = open_regular(tree.root(), &item.found.path)?;
            let plain = GivenUpReader(compression::plain_of_any(file.try_clone()?)?);
            crate::image::unpack::extract(plain, readable.as_fd(), self.copy.owner).map_err(io::Error::other)?;
            self.see_changes(&file, &item.found.stat)?;
        }
        Ok(())
    }
}

/// Opens a directory beneath a root, symlinks followed within it, making what is missing with mode 0755.
///
/// # Errors
/// ENOTDIR where a file is in the way.
pub fn make_directory(root: BorrowedFd<'_>, path: &Path, owner: (u32, u32)) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    match sys::open_beneath(root, relative(path), flags, 0, Beneath::AsRoot) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    make_directories(root, relative(path), |made| Ok(fchown(made, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?))
}
