//! The file of a command's result: whole, or as it was before.
//!
//! A regular file is written beside its place, without a name where the file system can do that, and takes the place when it is
//! whole. An older file is not lost by a mistyped name, a full disk or Ctrl-C then, and no half of a new one is left. What cannot
//! be replaced by its like is written itself: devices, FIFOs, what /dev/stdout leads to, a file in a directory that is not to be
//! written, a file of another user, a file that is a mount.

use super::signals::or_cancelled;
use super::{Failure, Outcome};
use crate::api::client::Client;
use crate::cli::output::stdout::Stdout;
use crate::random;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, Permissions};
use std::io::{self, IsTerminal, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Symlinks in a path, as the kernel has it (MAXSYMLINKS).
const MAX_LINKS: usize = 40;

/// Where the symlinks at the end of a path of this machine lead, as cp(1) follows them: to what is missing as well. `None` where one
/// of procfs is among them, which leads to an open file and not to a name.
///
/// # Errors
/// The kernel's; ELOOP for too many.
pub fn end_of_links(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut path = path.to_path_buf();
    for _ in 0..=MAX_LINKS {
        match path.symlink_metadata() {
            Ok(found) if found.is_symlink() => {}
            Ok(_) => return Ok(Some(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(path)),
            Err(error) => return Err(error),
        }
        if statfs(directory_of(&path))?.filesystem_type() == PROC_SUPER_MAGIC {
            return Ok(None);
        }
        path = path.parent().unwrap_or(Path::new("")).join(path.read_link()?);
    }
    Err(Errno::ELOOP.into())
}

/// The directory in which a path's last part is.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

/// Writes an archive that the engine sends: to a file, or to standard output unless that is a terminal.
///
/// # Errors
/// The engine's, and the disk's with the file's name. The file is as it was before, then.
pub async fn download(client: &Client, request: &str, output: Option<&Path>) -> Outcome {
    let Some(path) = output else {
        if io::stdout().is_terminal() {
            return Err(Failure::Message("an archive is nothing for a terminal: write it to a file with -o FILE".into()));
        }
        return Ok(client.download(request, &mut FileOutput::stdout()).await?);
    };
    let mut to = FileOutput::open(path)?;
    let is_named = to.has_draft();
    let loading = async { Ok(client.download(request, &mut to).await?) };
    // A file without a name goes with the process. A blocked device is ended by the signal itself.
    if is_named {
        or_cancelled(loading).await?
    } else {
        loading.await?
    }
    to.finish()
}

/// Writes a text to a file.
///
/// # Errors
/// The disk's, with the file's name. The file is as it was before, then.
pub fn write(path: &Path, text: &str) -> Outcome {
    let mut to = FileOutput::open(path)?;
    to.write_all(text.as_bytes()).map_err(|e| Failure::Message(e.to_string()))?;
    to.finish()
}

/// A command's result on its way to a file or to standard output. Errors of writing name the file.
pub struct FileOutput {
    /// The name for messages.
    shown: String,
    to: Place,
}

enum Place {
    Stdout,
    Itself(File),
    Beside(Beside),
}

/// A file that takes another's place.
struct Beside {
    file: File,
    directory: OwnedFd,
    name: OsString,
    /// Its name until then, if it has one.
    draft: Option<String>,
    replaced: Option<Replaced>,
}

/// A file whose place is taken.
struct Replaced {
    /// Opened for writing: who may not write it may not replace it either.
    file: File,
    permissions: Permissions,
}

impl FileOutput {
    pub fn stdout() -> Self {
        FileOutput { shown: "standard output".into(), to: Place::Stdout }
    }

    /// # Errors
    /// When the file cannot be written or made.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let shown = path.display().to_string();
        let to = Place::of(path).map_err(|e| Failure::Message(format!("writing {shown}: {e}")))?;
        Ok(FileOutput { shown, to })
    }

    /// Whether an unfinished file has a name.
    fn has_draft(&self) -> bool {
        matches!(&self.to, Place::Beside(Beside { draft: Some(_), .. }))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(self) -> Outcome {
        let FileOutput { shown, to } = self;
        let finished = match to {
            Place::Stdout => Stdout.flush(),
            Place::Itself(mut file) => file.flush(),
            Place::Beside(beside) => beside.take_place(),
        };
        finished.map_err(|e| Failure::Message(format!("writing {shown}: {e}")))
    }
}

impl Write for FileOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.to {
            Place::Stdout => Stdout.write(bytes),
            Place::Itself(file) => file.write(bytes),
            Place::Beside(beside) => beside.file.write(bytes),
        };
        written.map_err(|e| io::Error::new(e.kind(), format!("writing {}: {e}", self.shown)))
    }

    fn flush(&mut self) -> io::Result<()> {
        match &self.to {
            Place::Stdout => Stdout.flush().map_err(|e| io::Error::new(e.kind(), format!("writing {}: {e}", self.shown))),
            // Neither has a buffer.
            Place::Itself(_) | Place::Beside(_) => Ok(()),
        }
    }
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        let Some(end) = end_of_links(path)? else { return itself(path) };
        let found = match end.metadata() {
            Ok(found) if !found.is_file() => return itself(&end),
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if end.as_os_str().as_bytes().ends_with(b"/") {
            return Err(Errno::EISDIR.into());
        }
        let name = end.file_name().ok_or(Errno::EISDIR)?;
        let old = found.map(|found| Ok::<_, io::Error>((File::options().write(true).open(&end)?, found))).transpose()?;
        let directory = open(directory_of(&end), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Place::beside(directory, name, old, true)
    }

    /// A place in a directory, which a file may have now. `unnamed`: without a name for the time, if that can be.
    fn beside(directory: OwnedFd, name: &OsStr, old: Option<(File, Metadata)>, unnamed: bool) -> io::Result<Self> {
        // An older file's content was for those whom its mode names: nobody else reads the new one meanwhile.
        let mode = Mode::from_bits_truncate(if old.is_some() { 0o600 } else { 0o666 });
        let made = match unnamed.then(|| nameless(&directory, mode)).flatten() {
            Some(made) => made.map(|file| (file, None)),
            None => named(&directory, mode).map(|(file, draft)| (file, Some(draft))),
        };
        let (file, draft) = match (made, old.as_ref()) {
            (Ok(made), _) => made,
            (Err(error), Some((old, _))) if is_forbidden(&error) => return emptied(old.try_clone()?),
            (Err(error), _) => return Err(error),
        };
        let mut beside = Beside { file, directory, name: name.to_owned(), draft, replaced: None };
        if let Some((file, found)) = old {
            if fchown(&beside.file, Some(found.uid()), Some(found.gid())).is_err() {
                return emptied(file);
            }
            beside.replaced = Some(Replaced { file, permissions: Permissions::from_mode(found.mode() & 0o777) });
        }
        Ok(Place::Beside(beside))
    }
}

/// A file that is written where it is.
fn itself(path: &Path) -> io::Result<Place> {
    File::options().write(true).truncate(true).open(path).map(Place::Itself)
}

fn emptied(file: File) -> io::Result<Place> {
    file.set_len(0)?;
    Ok(Place::Itself(file))
}

/// Whether it is the directory that is not to be written.
fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS))
}

/// A file without a name. `None` where the file system knows none (open(2), `O_TMPFILE`).
fn nameless(directory: &OwnedFd, mode: Mode) -> Option<io::Result<File>> {
    match openat(directory, ".", OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC, mode) {
        Ok(file) => Some(Ok(file.into())),
        Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOENT) => None,
        Err(error) => Some(Err(error.into())),
    }
}

/// A file with a name that nobody guesses: nobody can lay a link or a file there before.
fn named(directory: &OwnedFd, mode: Mode) -> io::Result<(File, String)> {
    let draft = draft_name()?;
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok((openat(directory, draft.as_str(), flags, mode)?.into(), draft))
}

fn draft_name() -> io::Result<String> {
    Ok(format!(".wharf-{}.new", random::hex::<16>()?))
}

impl Beside {
    fn take_place(mut self) -> io::Result<()> {
        if let Some(Replaced { permissions, .. }) = &self.replaced {
            self.file.set_permissions(permissions.clone())?;
            // The old one is gone after this: the new one must be on the disk.
            self.file.sync_data()?;
        }
        if self.draft.is_none() {
            if self.replaced.is_none() {
                match self.link(&self.name) {
                    Err(Errno::EEXIST) => {}
                    other => return Ok(other?),
                }
            }
            let draft = draft_name()?;
            self.link(OsStr::new(&draft))?;
            self.draft = Some(draft);
        }
        let Some(draft) = &self.draft else { return Ok(()) };
        match (renameat(&self.directory, draft.as_str(), &self.directory, self.name.as_os_str()), &mut self.replaced) {
            (Ok(()), _) => {
                self.draft = None;
                Ok(())
            }
            // It is a mount, as a file that a container was given.
            (Err(Errno::EBUSY), Some(Replaced { file: old, .. })) => {
                old.set_len(0)?;
                self.file.rewind()?;
                io::copy(&mut self.file, old).map(drop)
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Gives a file without a name one (open(2), `O_TMPFILE`).
    fn link(&self, name: &OsStr) -> nix::Result<()> {
        let file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        linkat(AT_FDCWD, file.as_str(), &self.directory, name, AtFlags::AT_SYMLINK_FOLLOW)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(draft) = &self.draft {
            let _ = unlinkat(self.directory.as_fd(), draft.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            directory.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_older_file_stays_until_the_new_one_is_whole() {
        for unnamed in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            fs::write(&path, "old").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
            let begin = || {
                let old = (File::options().write(true).open(&path).unwrap(), path.metadata().unwrap());
                let at = File::open(directory.path()).unwrap().into();
                FileOutput { shown: "file".into(), to: Place::beside(at, OsStr::new("file"), Some(old), unnamed).unwrap() }
            };
            let mut given_up = begin();
            given_up.write_all(b"half").unwrap();
            assert_eq!((given_up.has_draft(), fs::read_to_string(&path).unwrap()), (!unnamed, "old".into()));
            drop(given_up);
            assert_eq!((names(directory.path()), fs::read_to_string(&path).unwrap()), (vec!["file".into()], "old".into()));
            let mut whole = begin();
            whole.write_all(b"new").unwrap();
            assert!(whole.finish().is_ok());
            assert_eq!((names(directory.path()), fs::read_to_string(&path).unwrap()), (vec!["file".into()], "new".into()));
            assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o640);
        }
    }

    #[test]
    fn links_stay_and_what_they_lead_to_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("d")).unwrap();
        for (text, link) in
            [("d/chain", "link"), ("../real", "d/chain"), ("none", "dangling"), ("loop", "loop"), ("no/x", "lost")]
        {
            symlink(text, at(link)).unwrap();
        }
        fs::write(at("real"), "old").unwrap();
        for (link, end) in [("link", "real"), ("dangling", "none")] {
            assert!(write(&at(link), "new").is_ok(), "{link}");
            assert_eq!((at(link).is_symlink(), fs::read_to_string(at(end)).unwrap()), (true, "new".into()), "{link}");
        }
        for wrong in ["loop", "lost", "d", "new/", "no/x", "real/x"] {
            let failure = write(&at(wrong), "new").expect_err(wrong).to_string();
            assert!(failure.contains(&format!("writing {}", at(wrong).display())), "{failure}");
        }
        assert_eq!(names(directory.path()), ["d", "dangling", "link", "loop", "lost", "none", "real"]);
    }

    #[test]
    fn a_descriptor_is_written_and_not_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::create(directory.path().join("file")).unwrap();
        let before = file.metadata().unwrap().ino();
        write(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), "text").map_err(|e| e.to_string()).unwrap();
        let found = directory.path().join("file").metadata().unwrap();
        assert_eq!((found.ino(), found.len()), (before, 4));
    }
}
