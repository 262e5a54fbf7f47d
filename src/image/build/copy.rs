//! COPY and ADD: what is copied, and the digest of it for the cache's key. [`apply`] copies it into a layer.

mod links;
mod mode;
mod write;

use super::files::{ContentDigests, FoundFile, Tree, digest_of_attributes, reading};
use super::given_up;
use super::ignore::{self, Pattern, Patterns};
use crate::image::entries::Entries;
use crate::image::{ImageError, compression};
use crate::printable;
use crate::sys::attributes::CopiedAttributes;
use crate::sys::regular::open_regular;
pub use mode::ModeChange;
use nix::sys::stat::{FileStat, SFlag};
use sha2::{Digest, Sha256};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
pub use write::{apply, make_directory};

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

/// Finds what the sources name. `within` names the tree in messages, as in `the stage x`.
///
/// # Errors
/// When a source matches nothing.
pub fn select(copy: &Copy, tree: &Tree, within: &str, ignored: &Patterns) -> Result<CopySelection, ImageError> {
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
            return Err(ImageError::Build(nothing_at(&source, tree, within, ignored)));
        }
        for base in bases {
            let name = if copy.parents { base.components().skip(left_out).collect() } else { PathBuf::new() };
            all.sources.push(select_one(copy, tree, &base, name, &all.excluded)?);
        }
    }
    Ok(all)
}

/// Says that a source is not there, and what is there instead.
fn nothing_at(source: &str, tree: &Tree, within: &str, ignored: &Patterns) -> String {
    let clean = inside(source);
    if tree.find(&clean).is_err()
        && let Ok(target) = tree.link_target(&clean)
    {
        let target = printable::line(&target.to_string_lossy()).into_owned();
        return format!("`{source}` is a symlink to `{target}`, which is not in {within}");
    }
    let ignored = if ignored.is_empty() { "" } else { " (or .dockerignore leaves it out)" };
    format!("`{source}` matches nothing in {within}{ignored}")
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

/// Stands in a key before extended attributes. No name has a NUL, so it is not taken for one.
const ATTRIBUTES: &[u8] = b"\0attributes";

/// The digest of what is copied.
#[derive(Debug)]
pub struct CopyDigest {
    /// For the cache's key: names, kinds, modes, contents and extended attributes, not times.
    pub content: String,
    /// The files that it is of. [`apply`] says which ones it has copied: a context's may be written meanwhile.
    pub versions: SeenVersions,
}

/// Files as they were when they were looked at: another content has another time of change. Of a directory only the mode and the owner
/// count, since files come and go in it that are not copied.
#[derive(Debug, Default)]
pub struct SeenVersions(Sha256);

impl SeenVersions {
    fn see(&mut self, stat: &FileStat) {
        let directory = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
        let (size, seconds, nanos) = if directory { (0, 0, 0) } else { (stat.st_size, stat.st_ctime, stat.st_ctime_nsec) };
        for number in [stat.st_dev, stat.st_ino, size as u64, seconds as u64, nanos as u64] {
            self.0.update(number.to_le_bytes());
        }
        for number in [stat.st_mode, stat.st_uid, stat.st_gid] {
            self.0.update(number.to_le_bytes());
        }
    }

    /// Whether these are the same files, none of them changed.
    #[must_use]
    pub fn are(&self, others: &Self) -> bool {
        self.0.clone().finalize() == others.0.clone().finalize()
    }
}

/// The digest of what is copied.
///
/// # Errors
/// When a file cannot be read.
pub fn digest(copy: &Copy, selected: &CopySelection, tree: &Tree, contents: &ContentDigests) -> Result<CopyDigest, ImageError> {
    let mut versions = SeenVersions::default();
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
            versions.see(stat);
            feed(item.name.as_os_str().as_bytes());
            let root_of_directory = selection.directory && item.name == Path::new("");
            let mode = if copy.mode.is_some() || root_of_directory { stat.st_mode & libc::S_IFMT } else { stat.st_mode };
            feed(&mode.to_le_bytes());
            if copy.keep_owner {
                feed(&stat.st_uid.to_le_bytes());
                feed(&stat.st_gid.to_le_bytes());
            }
            match item.found.kind() {
                SFlag::S_IFREG => {
                    let file = contents.digest(tree, &item.found).map_err(reading(&item.found.path))?;
                    feed(&file.content);
                    if let Some(attributes) = &file.attributes {
                        feed(ATTRIBUTES);
                        feed(&attributes[..]);
                    }
                }
                SFlag::S_IFDIR => {
                    feed(&stat.st_rdev.to_le_bytes());
                    let attributes = if root_of_directory { None } else { directory_attributes(tree, &item.found)? };
                    if let Some(attributes) = attributes {
                        feed(ATTRIBUTES);
                        feed(&attributes[..]);
                    }
                }
                SFlag::S_IFLNK => feed(tree.link_target(&item.found.path).map_err(reading(&item.found.path))?.as_bytes()),
                _ => feed(&stat.st_rdev.to_le_bytes()),
            }
        }
    }
    Ok(CopyDigest { content: data_encoding::HEXLOWER.encode(&hash.finalize()), versions })
}

fn directory_attributes(tree: &Tree, found: &FoundFile) -> Result<Option<Box<[u8; 32]>>, ImageError> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let attributes = tree.open(&found.path, flags).and_then(CopiedAttributes::of).map_err(reading(&found.path))?;
    Ok(digest_of_attributes(&attributes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_of_what_its_digest_is_of() {
        let outer = tempfile::tempdir().expect("dir");
        let (context, layer) = (outer.path().join("context"), outer.path().join("layer"));
        std::fs::create_dir_all(context.join("sub")).expect("dirs");
        for name in ["sub/a", "sub/b"] {
            std::fs::write(context.join(name), "old").expect("file");
        }
        let tree = Tree::directory(&context).expect("tree");
        let copy = Copy { sources: vec![".".into()], destination: "/".into(), ..Copy::default() };
        let as_digested = |meanwhile: &dyn Fn()| {
            let items = select(&copy, &tree, "the build context", &Patterns::default()).expect("selected");
            let digest = digest(&copy, &items, &tree, &ContentDigests::default()).expect("digest");
            meanwhile();
            let _ = std::fs::remove_dir_all(&layer);
            std::fs::create_dir(&layer).expect("directory");
            let root = Tree::directory(&layer).expect("tree");
            apply(&copy, &items, &tree, root.root()).expect("copied").are(&digest.versions)
        };
        assert!(as_digested(&|| {}));
        assert!(!as_digested(&|| std::fs::write(context.join("sub/b"), "new").expect("file")));
        assert!(!as_digested(&|| std::fs::write(context.join("sub/c"), "").expect("file")));
        assert!(!as_digested(&|| std::fs::remove_file(context.join("sub/a")).expect("removed")));
        assert!(as_digested(&|| {}));
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
            select(&copy, &tree, "the build context", &Patterns::default())
                .map(|selected| selected.sources.into_iter().map(|source| source.found.path).collect::<Vec<_>>())
        };
        assert!(of("../secret").is_err() && of("out").is_err());
        let why = |source: &str| of(source).expect_err(source).to_string();
        assert!(why("gone").contains("`gone` matches nothing in the build context"), "{}", why("gone"));
        assert!(why("out").contains("`out` is a symlink to `../secret`, which is not in the build context"), "{}", why("out"));
        assert_eq!(of("abs").expect("inside"), [PathBuf::from("a")]);
        assert_eq!(of("/sub/../a").expect("inside"), [PathBuf::from("a")]);
        assert_eq!(of("[ab]").expect("pattern"), [PathBuf::from("a")]);
    }
}
