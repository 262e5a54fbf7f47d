//! COPY and ADD: what is copied (for the cache's key), and the copying into a layer that is being made.
//!
//! The layer is an overlay's upper directory and everything is written through the mount: the kernel resolves symlinks within the
//! root, and copies up the directories that are written into, with owner and mode.

use super::files::{Contents, Found, Tree, reading};
use super::ignore::{self, Pattern, Patterns};
use crate::image::entries::Entries;
use crate::image::unpack::make_directories;
use crate::image::{ImageError, compression};
use crate::sys::node::Node;
use crate::sys::regular::open_regular;
use crate::sys::{self, Beneath};
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

/// What a COPY or ADD asks for, everything expanded.
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

/// `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModeChange {
    Octal(u32),
    /// chmod(1)'s words: `u+x,go=r`.
    Symbolic(Vec<Clause>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    who: u32,
    operator: char,
    permissions: String,
}

impl ModeChange {
    /// # Errors
    /// When it is neither octal nor chmod's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(mode) = u32::from_str_radix(text, 8)
            && mode <= 0o7777
        {
            return Ok(ModeChange::Octal(mode));
        }
        let wrong = || format!("`{text}` is not a mode: write `755` or `u+x,go=r`");
        let mut clauses = Vec::new();
        for clause in text.split(',') {
            let at = clause.find(['+', '-', '=']).ok_or_else(wrong)?;
            let mut who = 0;
            for c in clause[..at].chars() {
                who |= match c {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o1007,
                    'a' => 0o7777,
                    _ => return Err(wrong()),
                };
            }
            let permissions = &clause[at + 1..];
            if permissions.chars().any(|c| !"rwxXst".contains(c)) {
                return Err(wrong());
            }
            let who = if who == 0 { 0o7777 } else { who };
            let operator = clause[at..].chars().next().unwrap_or('+');
            clauses.push(Clause { who, operator, permissions: permissions.to_string() });
        }
        Ok(ModeChange::Symbolic(clauses))
    }

    fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            ModeChange::Octal(mode) => *mode,
            ModeChange::Symbolic(clauses) => clauses.iter().fold(mode & 0o7777, |mode, clause| {
                let mut bits = 0;
                for c in clause.permissions.chars() {
                    bits |= match c {
                        'r' => 0o444,
                        'w' => 0o222,
                        'x' => 0o111,
                        'X' if directory || mode & 0o111 != 0 => 0o111,
                        's' => 0o6000,
                        't' => 0o1000,
                        _ => 0,
                    };
                }
                let bits = bits & clause.who;
                match clause.operator {
                    '+' => mode | bits,
                    '-' => mode & !bits,
                    _ => (mode & !clause.who & 0o7777) | bits,
                }
            }),
        }
    }
}

/// A thing to copy: where it is, and its name below the destination (empty: it is the destination itself).
#[derive(Debug, Clone)]
pub struct Item {
    pub found: Found,
    pub name: PathBuf,
}

/// The items of one source, parents first.
#[derive(Debug, Clone)]
pub struct Selected {
    pub items: Vec<Item>,
    /// The source is a directory, whose content is copied.
    pub directory: bool,
    /// An archive for ADD to take apart.
    pub archive: bool,
}

/// Finds what the sources name.
///
/// # Errors
/// When a source matches nothing.
pub fn select(copy: &Copy, tree: &Tree, ignored: &Patterns) -> Result<Vec<Selected>, ImageError> {
    let excluded = Patterns::of(&copy.exclude);
    let mut all = Vec::new();
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
            all.push(select_one(copy, tree, &base, &name, ignored, &excluded)?);
        }
    }
    Ok(all)
}

/// What one path brings; `kept_name` is what `--parents` keeps of it.
fn select_one(
    copy: &Copy,
    tree: &Tree,
    base: &Path,
    kept_name: &Path,
    ignored: &Patterns,
    excluded: &Patterns,
) -> Result<Selected, ImageError> {
    let real = tree.resolve(base).map_err(reading(base))?;
    let found = tree.find(&real).map_err(reading(base))?;
    let kept = |path: &Path, from: &Path| {
        let relative = path.strip_prefix(from).unwrap_or(path);
        excluded.is_empty() || !excluded.excludes(relative)
    };
    if found.is_directory() {
        let mut items = vec![Item { found: found.clone(), name: kept_name.to_path_buf() }];
        for below in tree.walk(&real, ignored).map_err(reading(base))? {
            let below = below.map_err(reading(base))?;
            let relative = below.path.strip_prefix(&real).unwrap_or(&below.path).to_path_buf();
            if kept(&below.path, &real) {
                let name = kept_name.join(&relative);
                items.push(Item { found: below, name });
            }
        }
        return Ok(Selected { items, directory: true, archive: false });
    }
    let archive = copy.extract && found.kind() == SFlag::S_IFREG && is_archive(tree, &found).map_err(reading(base))?;
    let name = if copy.parents { kept_name.to_path_buf() } else { PathBuf::from(base.file_name().unwrap_or_default()) };
    let items = if kept(base, Path::new("")) { vec![Item { found, name }] } else { Vec::new() };
    Ok(Selected { items, directory: false, archive })
}

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
    let found = all.filter_map(|found| found.map(|found| Some(found.path).filter(|path| pattern.matches(path))).transpose());
    found.collect::<io::Result<_>>().map_err(reading(&begin))
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

fn is_archive(tree: &Tree, found: &Found) -> io::Result<bool> {
    let file = open_regular(tree.root(), &found.path)?;
    let Ok(plain) = compression::plain_of_any(file) else { return Ok(false) };
    Ok(Entries::new(plain).begin())
}

/// The digest of what is copied: names, kinds, modes and contents, not times.
///
/// # Errors
/// When a file cannot be read.
pub fn digest(copy: &Copy, selected: &[Selected], tree: &Tree, contents: &Contents) -> Result<String, ImageError> {
    let mut hash = Sha256::new();
    let mut feed = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for (source, selection) in selected.iter().enumerate() {
        feed(&source.to_le_bytes());
        for item in &selection.items {
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
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Copies into a layer, by its overlay's root. `seconds` is the time of what is made beside the copies.
///
/// # Errors
/// The disk's, or a destination that is a file where a directory is needed.
pub fn apply(copy: &Copy, selected: &[Selected], tree: &Tree, root: BorrowedFd<'_>) -> Result<(), ImageError> {
    let wanted = Path::new(&copy.destination);
    let writer = Writer { copy, tree, root };
    let several = copy.sources.len() > 1 || selected.len() > 1;
    let into = copy.destination.ends_with('/')
        || copy.destination.ends_with("/.")
        || several
        || copy.parents
        || writer.is_directory(wanted);
    for selection in selected {
        let result =
            if selection.archive { writer.extract(selection, wanted) } else { writer.selection(selection, wanted, into) };
        result.map_err(|e| match e.raw_os_error() {
            Some(libc::ENOTDIR | libc::EEXIST) => {
                ImageError::Build(format!("`{}` is a file in the image, not a directory", wanted.display()))
            }
            _ => ImageError::store(format!("copying to {}", wanted.display()))(e),
        })?;
    }
    Ok(())
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

struct Writer<'a> {
    copy: &'a Copy,
    tree: &'a Tree,
    root: BorrowedFd<'a>,
}

impl Writer<'_> {
    fn selection(&self, selection: &Selected, wanted: &Path, into: bool) -> io::Result<()> {
        if selection.directory || into {
            let top = self.make_directory(wanted)?;
            drop(top);
        } else if let Some(parent) = wanted.parent() {
            self.make_directory(parent)?;
        }
        let mut directories: Vec<(PathBuf, &Item)> = Vec::new();
        for item in &selection.items {
            let place = match (selection.directory || into, item.name == Path::new("")) {
                (true, true) => continue,
                (true, false) => wanted.join(&item.name),
                (false, _) => wanted.to_path_buf(),
            };
            self.item(item, &place)?;
            if item.found.is_directory() {
                directories.push((place, item));
            }
        }
        // Last: what is made in a directory changes its time.
        for (place, item) in directories.iter().rev() {
            let (parent, name) = self.parent_of(place)?;
            let time = TimeSpec::new(item.found.stat.st_mtime, item.found.stat.st_mtime_nsec);
            match openat(&parent, &name, DIRECTORY, Mode::empty()) {
                // A symlink that stayed.
                Err(nix::Error::ELOOP | nix::Error::ENOTDIR) => {}
                made => futimens(made?, &time, &time)?,
            }
        }
        Ok(())
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
                io::copy(&mut &from, &mut to)?;
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
                let node = Node::made(&parent, &name, kind, stat.st_rdev)?;
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
        for item in &selection.items {
            let file = open_regular(self.tree.root(), &item.found.path)?;
            let plain = compression::plain_of_any(file)?;
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
    fn modes() {
        let table = [
            ("755", 0o644, 0o755),
            ("u+x", 0o644, 0o744),
            ("go=r,u=rw", 0o777, 0o644),
            ("a+X", 0o644, 0o644),
            ("+t", 0o755, 0o1755),
            ("go-w", 0o666, 0o644),
        ];
        for (text, before, after) in table {
            assert_eq!(ModeChange::parse(text).expect(text).apply(before, false), after, "{text}");
        }
        assert!(ModeChange::parse("nine").is_err() && ModeChange::parse("99999").is_err());
    }

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
                .map(|s| s.into_iter().flat_map(|s| s.items).map(|i| i.found.path).collect::<Vec<_>>())
        };
        assert!(of("../secret").is_err() && of("out").is_err());
        assert_eq!(of("abs").expect("inside"), [PathBuf::from("a")]);
        assert_eq!(of("/sub/../a").expect("inside"), [PathBuf::from("a")]);
        assert_eq!(of("[ab]").expect("pattern"), [PathBuf::from("a")]);
    }
}
