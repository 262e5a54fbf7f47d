//! COPY and ADD: what is copied (for the cache's key), and the copying into a layer that is being made.
//!
//! The layer is an overlay's upper directory and everything is written through the mount: the kernel resolves symlinks within the
//! root, and copies up the directories that are written into, with owner and mode.

mod mode;

use super::files::{ContentDigests, FoundFile, Tree, reading};
use super::given_up::{self, GivenUpReader};
use super::ignore::{self, Pattern, Patterns};
use crate::image::entries::Entries;
use crate::image::unpack::make_directories;
use crate::image::{ImageError, compression};
use crate::sys::beneath::place_beneath;
use crate::sys::node::FoundNode;
use crate::sys::regular::{copy_with_holes, open_regular};
use crate::sys::{self, Beneath};
pub use mode::ModeChange;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, fstatat, futimens, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, symlinkat, unlinkat};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A COPY or ADD, everything expanded.
#[derive(Debug, Clone, Default)]
pub struct Copy {
    pub sources: Vec<String>,
    /// Absolute; a `/` at its end says that it is a directory.
    pub destination: String,
    pub owner: Option<(u32, u32)>,
    /// Without an owner given: that of the source, as for what comes from a stage or an image; else root.
    pub keep_owner: bool,
    pub mode: Option<ModeChange>,
    pub exclude: Vec<String>,
    pub parents: bool,
    /// ADD takes archives apart.
    pub extract: bool,
}

/// A thing to copy: where it is, and its name below the destination (empty: it is the destination itself).
#[derive(Debug, Clone)]
pub struct Item {
    pub found: FoundFile,
    pub name: PathBuf,
}

/// The files of one source. They are looked up whenever they are needed: a list of a million files would be the engine's
/// memory.
#[derive(Debug, Clone)]
pub struct Selected {
    found: FoundFile,
    /// The part of its path that `--parents` keeps, or its own name.
    name: PathBuf,
    /// `--exclude` leaves it out.
    left_out: bool,
    /// The source is a directory, whose content is copied.
    pub directory: bool,
    /// An archive for ADD to take apart.
    pub archive: bool,
}

/// The files of the sources of one instruction.
#[derive(Debug)]
pub struct CopySelection {
    sources: Vec<Selected>,
    ignored: Patterns,
    excluded: Patterns,
}

impl CopySelection {
    /// How many files and directories it names.
    pub fn count(&self) -> usize {
        self.sources.len()
    }

    /// The name of what was selected, where that is one file.
    pub fn file(&self) -> Option<&Path> {
        self.sources.first().filter(|first| !first.directory && !first.left_out).map(|first| first.name.as_path())
    }

    /// The items of one source, parents first.
    ///
    /// # Errors
    /// When the directory cannot be read; so may each item.
    fn items<'a>(&'a self, of: &'a Selected, tree: &'a Tree) -> io::Result<impl Iterator<Item = io::Result<Item>> + 'a> {
        let first = (!of.left_out).then(|| Item { found: of.found.clone(), name: of.name.clone() });
        let top = &of.found.path;
        let below = of.directory.then(|| tree.walk(top, &self.ignored)).transpose()?;
        let below = below.into_iter().flatten().filter_map(move |found| match found {
            Ok(found) => {
                let relative = found.path.strip_prefix(top).unwrap_or(&found.path);
                let kept = self.excluded.is_empty() || !self.excluded.excludes(relative);
                let name = of.name.join(relative);
                kept.then_some(Ok(Item { name, found }))
            }
            Err(error) => Some(Err(error)),
        });
        Ok(first.into_iter().map(Ok).chain(below))
    }
}

/// Finds what the sources name.
///
/// # Errors
/// When a source matches nothing.
pub fn select(copy: &Copy, tree: &Tree, ignored: &Patterns) -> Result<CopySelection, ImageError> {
    let mut all = CopySelection { sources: Vec::new(), ignored: ignored.clone(), excluded: Patterns::of(&copy.exclude) };
    for source in &copy.sources {
        // `--parents` keeps what is behind `/./`.
        let (left_out, source) = match source.split_once("/./").filter(|_| copy.parents) {
            Some((left_out, kept)) => (inside(left_out).components().count(), format!("{left_out}/{kept}")),
            None => (0, source.clone()),
        };
        let bases = matching(&source, tree, ignored)?;
        // A pattern may match nothing, as with Docker.
        if bases.is_empty() && !ignore::is_pattern(&source) {
            return Err(ImageError::Build(format!(
                "`{source}` matches nothing in the build context{}",
                if ignored.is_empty() { "" } else { " (or .dockerignore leaves it out)" }
            )));
        }
        for base in bases {
            let name = if copy.parents { base.components().skip(left_out).collect() } else { PathBuf::new() };
            all.sources.push(select_one(copy, tree, &base, name, &all.excluded)?);
        }
    }
    Ok(all)
}

/// The files at one path; `kept_name` is the part of it that `--parents` keeps.
fn select_one(copy: &Copy, tree: &Tree, base: &Path, kept_name: PathBuf, excluded: &Patterns) -> Result<Selected, ImageError> {
    let real = tree.resolve(base).map_err(reading(base))?;
    let found = tree.find(&real).map_err(reading(base))?;
    if found.is_directory() {
        return Ok(Selected { found, name: kept_name, left_out: false, directory: true, archive: false });
    }
    let archive = copy.extract && found.kind() == SFlag::S_IFREG && is_archive(tree, &found).map_err(reading(base))?;
    let name = if copy.parents { kept_name } else { PathBuf::from(base.file_name().unwrap_or_default()) };
    let left_out = !excluded.is_empty() && excluded.excludes(base);
    Ok(Selected { found, name, left_out, directory: false, archive })
}

/// Bytes of the paths that one pattern may stand for.
const MAX_MATCHES: usize = 8 << 20;

/// The paths that a source stands for, without `.dockerignore`'s.
fn matching(source: &str, tree: &Tree, ignored: &Patterns) -> Result<Vec<PathBuf>, ImageError> {
    let clean = inside(source);
    if !ignore::is_pattern(source) {
        let there = tree.find(&clean).is_ok()
            && (clean == Path::new("") || !ignored.excludes(&clean) || ignored.may_take_back_below(&clean));
        return Ok(if there { vec![clean] } else { Vec::new() });
    }
    let parts: Vec<String> = clean.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
    let fixed = parts.iter().take_while(|part| !ignore::is_pattern(part)).count();
    let begin: PathBuf = parts[..fixed].iter().collect();
    let Ok(all) = tree.walk(&begin, ignored) else { return Ok(Vec::new()) };
    let Some(pattern) = Pattern::parse(&parts.join("/")) else { return Ok(Vec::new()) };
    let (mut matches, mut bytes) = (Vec::new(), 0);
    for found in all {
        given_up::check().map_err(reading(&begin))?;
        let path = found.map_err(reading(&begin))?.path;
        if pattern.matches(&path) {
            bytes += path.as_os_str().len() + size_of::<Selected>();
            if bytes > MAX_MATCHES {
                return Err(ImageError::Build(format!(
                    "`{source}` matches more than {} files, whose names are more than {} MiB: copy the directory that they are in",
                    matches.len(),
                    MAX_MATCHES >> 20
                )));
            }
            matches.push(path);
        }
    }
    Ok(matches)
}

/// A path from the root: no `/` at the front, no `.`; `..` stays within.
fn inside(path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

fn is_archive(tree: &Tree, found: &FoundFile) -> io::Result<bool> {
    let file = open_regular(tree.root(), &found.path)?;
    let Ok(plain) = compression::plain_of_any(file) else { return Ok(false) };
    Ok(Entries::new(plain).begin())
}

/// The digest of what is copied: names, kinds, modes and contents, not times.
///
/// # Errors
/// When a file cannot be read.
pub fn digest(copy: &Copy, selected: &CopySelection, tree: &Tree, contents: &ContentDigests) -> Result<String, ImageError> {
    let mut hash = Sha256::new();
    let mut feed = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for (source, selection) in selected.sources.iter().enumerate() {
        feed(&source.to_le_bytes());
        let top = &selection.found.path;
        for item in selected.items(selection, tree).map_err(reading(top))? {
            given_up::check().map_err(reading(top))?;
            let item = item.map_err(reading(top))?;
            let stat = &item.found.stat;
            feed(item.name.as_os_str().as_bytes());
            let root_of_directory = selection.directory && item.name == Path::new("");
            let mode = if copy.mode.is_some() || root_of_directory { stat.st_mode & libc::S_IFMT } else { stat.st_mode };
            feed(&mode.to_le_bytes());
            if copy.keep_owner {
                feed(&stat.st_uid.to_le_bytes());
                feed(&stat.st_gid.to_le_bytes());
            }
            match item.found.kind() {
                SFlag::S_IFREG => feed(&contents.digest(tree, &item.found).map_err(reading(&item.found.path))?),
                SFlag::S_IFLNK => feed(tree.link_target(&item.found.path).map_err(reading(&item.found.path))?.as_bytes()),
                _ => feed(&stat.st_rdev.to_le_bytes()),
            }
        }
    }
    Ok(data_encoding::HEXLOWER.encode(&hash.finalize()))
}

/// Copies into a layer, by its overlay's root. `seconds` is the time of what is made beside the copies.
///
/// # Errors
/// The disk's, or a destination that is a file where a directory is needed.
pub fn apply(copy: &Copy, selected: &CopySelection, tree: &Tree, root: BorrowedFd<'_>) -> Result<(), ImageError> {
    let wanted = Path::new(&copy.destination);
    let writer = Copier { copy, tree, root, selected };
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
    Ok(())
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

struct Copier<'a> {
    copy: &'a Copy,
    tree: &'a Tree,
    root: BorrowedFd<'a>,
    selected: &'a CopySelection,
}

impl Copier<'_> {
    fn selection(&self, selection: &Selected, wanted: &Path, into: bool) -> io::Result<()> {
        if selection.directory || into {
            let top = self.make_directory(wanted)?;
            drop(top);
        } else if let Some(parent) = wanted.parent() {
            self.make_directory(parent)?;
        }
        // The directories that it is in: what is made in one changes its time.
        let mut within: Vec<(PathBuf, TimeSpec)> = Vec::new();
        for item in self.selected.items(selection, self.tree)? {
            given_up::check()?;
            let item = item?;
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

    fn item(&self, item: &Item, place: &Path) -> io::Result<()> {
        let (parent, name) = self.parent_of(place)?;
        let stat = &item.found.stat;
        let existing = fstatat(&parent, &name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .ok()
            .map(|s| SFlag::from_bits_truncate(s.st_mode) & SFlag::S_IFMT);
        let directory = item.found.is_directory();
        let keeps = directory && existing == Some(SFlag::S_IFDIR);
        // What goes into a directory goes where a symlink in its place leads (/lib of a merged /usr), which stays as it is.
        if directory && existing == Some(SFlag::S_IFLNK) && self.is_directory(place) {
            return Ok(());
        }
        match existing {
            Some(SFlag::S_IFDIR) if !directory => return Err(io::Error::from_raw_os_error(libc::EISDIR)),
            Some(kind) if kind != SFlag::S_IFDIR => unlinkat(&parent, &name, UnlinkatFlags::NoRemoveDir)?,
            _ => {}
        }
        let mut mode = stat.st_mode & 0o7777;
        if let Some(change) = &self.copy.mode {
            mode = change.apply(mode, directory);
        }
        let mode = Mode::from_bits_truncate(mode);
        let own = if self.copy.keep_owner { (stat.st_uid, stat.st_gid) } else { (0, 0) };
        let (uid, gid) = self.copy.owner.unwrap_or(own);
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let time = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
        // Owner before mode, since a change of owner clears setuid; both by what was made, not by its name.
        let attributes = |made: &File| -> io::Result<()> {
            fchown(made, Some(uid), Some(gid))?;
            fchmod(made, mode)?;
            Ok(futimens(made, &time, &time)?)
        };
        match item.found.kind() {
            SFlag::S_IFREG => {
                let from = open_regular(self.tree.root(), &item.found.path)?;
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let mut to = File::from(openat(&parent, &name, flags, Mode::from_bits_truncate(0o600))?);
                copy_with_holes(&from, &mut to, given_up::check)?;
                attributes(&to)
            }
            SFlag::S_IFLNK => {
                symlinkat(Path::new(&self.tree.link_target(&item.found.path)?), &parent, &name)?;
                fchownat(&parent, &name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
                Ok(utimensat(&parent, &name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
            }
            SFlag::S_IFDIR => {
                if !keeps {
                    mkdirat(&parent, &name, Mode::from_bits_truncate(0o700))?;
                }
                attributes(&File::from(openat(&parent, &name, DIRECTORY, Mode::empty())?))
            }
            kind @ (SFlag::S_IFIFO | SFlag::S_IFCHR | SFlag::S_IFBLK) => {
                mknodat(&parent, &name, kind, Mode::empty(), stat.st_rdev)?;
                let node = FoundNode::made(&parent, &name, kind, stat.st_rdev)?;
                node.set_owner(uid, gid)?;
                node.set_mode(mode)?;
                node.set_time(time)
            }
            // A socket is of a process.
            _ => Ok(()),
        }
    }

    /// Opens a directory, symlinks followed within the root; what is missing of it is made, owned as the copies are.
    fn make_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        make_directory(self.root, path, self.copy.owner.unwrap_or((0, 0)))
    }

    fn extract(&self, selection: &Selected, wanted: &Path) -> io::Result<()> {
        let directory = self.make_directory(wanted)?;
        let readable = openat(&directory, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        for item in self.selected.items(selection, self.tree)? {
            let item = item?;
            let file = open_regular(self.tree.root(), &item.found.path)?;
            let plain = GivenUpReader(compression::plain_of_any(file)?);
            crate::image::unpack::extract(plain, readable.as_fd(), self.copy.owner).map_err(io::Error::other)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_never_leave_the_context() {
        let outer = tempfile::tempdir().expect("dir");
        let context = outer.path().join("context");
        std::fs::create_dir_all(context.join("sub")).expect("dirs");
        std::fs::write(outer.path().join("secret"), "s").expect("file");
        std::fs::write(context.join("a"), "a").expect("file");
        std::os::unix::fs::symlink("../secret", context.join("out")).expect("link");
        std::os::unix::fs::symlink("/a", context.join("abs")).expect("link");
        let tree = Tree::directory(&context).expect("tree");
        let of = |source: &str| {
            let copy = Copy { sources: vec![source.into()], destination: "/x".into(), ..Copy::default() };
            select(&copy, &tree, &Patterns::default())
                .map(|selected| selected.sources.into_iter().map(|source| source.found.path).collect::<Vec<_>>())
        };
        assert!(of("../secret").is_err() && of("out").is_err());
        assert_eq!(of("abs").expect("inside"), [PathBuf::from("a")]);
        assert_eq!(of("/sub/../a").expect("inside"), [PathBuf::from("a")]);
        assert_eq!(of("[ab]").expect("pattern"), [PathBuf::from("a")]);
    }
}
