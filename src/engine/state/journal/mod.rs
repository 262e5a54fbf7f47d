//! The engine's durable state: one append-only file of checked records, read once at the start.
//!
//! [`format`] is what its lines are and what a damaged file still says. Appending costs one `write`; what must survive a power
//! cut is synced once per request with [`Journal::sync`], whatever the number of its records. The file has disk blocks beyond
//! its end, so that removals and exits can be written when the disk is full: docs/reliability.md.

mod format;

use format::{FORMAT, LiveRecords, Replayed, encode, header, replay};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// Why the journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("reading the engine's state in {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the engine's state in {} was written by a newer wharf (format {found}, this version reads up to {FORMAT}): run that version, or give this one another --data-root",
        path.display()
    )]
    Newer { path: PathBuf, found: u32 },
}

/// The file `state.journal`: records by their keys, each change appended.
pub struct Journal {
    path: PathBuf,
    inner: Mutex<Inner>,
    /// Held by whoever syncs the file: how many appends are on the disk.
    synced: Mutex<u64>,
}

struct Inner {
    file: File,
    live: LiveRecords,
    /// Where the next line goes.
    bytes: u64,
    live_bytes: u64,
    /// The file is rewritten when it is larger.
    limit: u64,
    /// Appends since the start.
    appends: u64,
    /// Half of a line may be beyond the end: another that was written over it would make it damage.
    torn: bool,
    /// A write to the disk has failed, so nobody knows what of the file is there: it is written anew before anything is synced.
    doubtful: bool,
    /// Keys whose newest value is in memory alone, since the disk was full; how far into the reserve each may go.
    owed: BTreeMap<String, Room>,
    reserve: Reserve,
}

/// Blocks that the file has beyond its end.
struct Reserve {
    /// Where they end; `None` where the file system keeps no such blocks.
    until: Option<u64>,
    /// How many bytes are taken at once.
    unit: u64,
}

/// How far into the reserve a record may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Leaves it to the others.
    Ordinary,
    /// The end of something, and what a user has asked for to bring it about.
    Ending,
    /// A removal, which makes room.
    Removal,
}

/// The result of opening a journal.
#[derive(Debug, Default)]
pub struct FoundJournal {
    pub damage: Option<Damage>,
}

/// Lines that are not as they were written.
#[derive(Debug)]
pub struct Damage {
    /// Their numbers.
    pub lines: Vec<usize>,
    /// Where the file is now.
    pub kept: PathBuf,
}

/// The file is rewritten when it is this much larger than what it says.
const SLACK: u64 = 4 << 20;
const LARGEST_UNIT: u64 = 256 << 10;
const SMALLEST_UNIT: u64 = 16 << 10;
/// How many units are kept beyond the end.
const UNITS: u64 = 4;

impl Room {
    /// The part of the reserve that has to be left, for one of so many bytes a unit.
    fn leaves(self, unit: u64) -> u64 {
        match self {
            Room::Ordinary => 2 * unit,
            Room::Ending => unit / 2,
            Room::Removal => 0,
        }
    }
}

impl Journal {
    /// Opens or begins a journal. A damaged file is kept beside it, and what is good of it goes on.
    ///
    /// # Errors
    /// When the file cannot be read or made, or is a newer version's: it is left as it is then.
    pub fn open(path: &Path) -> Result<(Self, FoundJournal), JournalError> {
        Self::try_open(path).map_err(|source| JournalError::Io { path: path.to_path_buf(), source })?.map_err(|found| {
            // Not read as what it is not.
            JournalError::Newer { path: path.to_path_buf(), found }
        })
    }

    /// As [`Journal::open`]; the inner error is a newer format.
    fn try_open(path: &Path) -> io::Result<Result<(Self, FoundJournal), u32>> {
        let mut file =
            File::options().read(true).write(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let Replayed { live, used, unended, format, damaged } = replay(&bytes);
        if let Some(newer) = format.filter(|format| *format > FORMAT) {
            return Ok(Err(newer));
        }
        if used < bytes.len() as u64 && damaged.is_empty() {
            file.set_len(used)?;
        }
        let empty = used == 0;
        let live_bytes: u64 = live.iter().map(|(k, v)| (k.len() + v.get().len()) as u64).sum();
        let reserve = Reserve { until: Some(used), unit: unit(&file) };
        let mut inner = Inner {
            file,
            live,
            bytes: used,
            live_bytes,
            limit: 2 * live_bytes + SLACK,
            appends: 0,
            torn: false,
            doubtful: false,
            owed: BTreeMap::new(),
            reserve,
        };
        let journal = |inner| Journal { path: path.to_path_buf(), inner: Mutex::new(inner), synced: Mutex::new(0) };
        let mut found = FoundJournal::default();
        if !damaged.is_empty() {
            found.damage = Some(Damage { lines: damaged, kept: inner.keep_aside(path)? });
        } else if empty {
            inner.append(&header()?, Room::Removal)?;
        } else if format.is_none() {
            // On a full disk it stays as it is for now.
            let _ = inner.compact(path);
        } else if unended {
            inner.append(b"\n", Room::Removal)?;
        }
        inner.extend_reserve(0);
        Ok(Ok((journal(inner), found)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Every value under a prefix of keys; the text where it is not understood: another version may have written it.
    pub fn all<T: DeserializeOwned>(&self, prefix: &str) -> Vec<(String, Result<T, String>)> {
        let inner = self.lock();
        let range = inner.live.range(prefix.to_string()..).take_while(|(key, _)| key.starts_with(prefix));
        let read = |value: &RawValue| serde_json::from_str(value.get()).map_err(|_| value.get().to_string());
        range.map(|(key, value)| (key[prefix.len()..].to_string(), read(value))).collect()
    }

    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.lock().live.get(key).and_then(|value| serde_json::from_str(value.get()).ok())
    }

    /// Sets a key.
    ///
    /// # Errors
    /// The disk's; the state is as it was then.
    pub fn put<T: Serialize>(&self, key: &str, value: &T) -> io::Result<()> {
        self.put_within(key, value, Room::Ordinary)
    }

    /// As [`Journal::put`], into the reserve where that has to be.
    ///
    /// # Errors
    /// As [`Journal::put`].
    pub fn put_within<T: Serialize>(&self, key: &str, value: &T, room: Room) -> io::Result<()> {
        let value = serde_json::value::to_raw_value(value)?;
        let mut inner = self.lock();
        inner.write(key, Some(&value), room)?;
        inner.remember(key, Some(value));
        self.tidy(&mut inner);
        Ok(())
    }

    /// Sets a key to what has happened already. Where the disk refuses, it is kept in memory: [`Journal::write_deferred`] writes it.
    ///
    /// # Errors
    /// The disk's, so that somebody tries again.
    pub fn put_anyway<T: Serialize>(&self, key: &str, value: &T, room: Room) -> io::Result<()> {
        let value = serde_json::value::to_raw_value(value)?;
        let mut inner = self.lock();
        // What an earlier change of it needs, this value needs as well: it has both.
        let room = inner.owed.get(key).map_or(room, |owed| room.max(*owed));
        let written = inner.write(key, Some(&value), room);
        inner.remember(key, Some(value));
        if written.is_err() {
            inner.owed.insert(key.to_string(), room);
        }
        self.tidy(&mut inner);
        written
    }

    /// Writes what [`Journal::put_anyway`] could not, each as far into the reserve as it may go.
    ///
    /// # Errors
    /// The disk's, for the last of those that it still refuses.
    pub fn write_deferred(&self) -> io::Result<()> {
        let mut inner = self.lock();
        let mut result = Ok(());
        for (key, room) in inner.owed.clone() {
            let value = inner.live.get(&key).cloned();
            match inner.write(&key, value.as_deref(), room) {
                Ok(()) => drop(inner.owed.remove(&key)),
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As [`Journal::put`].
    pub fn delete(&self, key: &str) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.live.contains_key(key) {
            inner.write(key, None, Room::Removal)?;
            inner.remember(key, None);
            self.tidy(&mut inner);
        }
        Ok(())
    }

    /// Writes the file anew when most of it is history. What was appended is in the old one: that it cannot be is no failure of
    /// what is being done.
    fn tidy(&self, inner: &mut Inner) {
        if inner.bytes <= inner.limit {
            return;
        }
        if let Err(error) = inner.compact(&self.path) {
            tracing::warn!("writing {} anew: {error}; it goes on growing", self.path.display());
            inner.limit = inner.bytes + SLACK;
        }
    }

    /// Makes everything that was appended survive a power cut. Who comes while another does that waits for it, and has it done
    /// along.
    ///
    /// # Errors
    /// The disk's: what was appended since the last success may be lost. The next call writes all of it anew.
    pub fn sync(&self) -> io::Result<()> {
        let wanted = self.lock().appends;
        let mut synced = self.synced.lock().unwrap_or_else(|e| e.into_inner());
        if *synced >= wanted {
            return Ok(());
        }
        let (file, appends) = {
            let mut inner = self.lock();
            if inner.doubtful {
                inner.compact(&self.path)?;
                *synced = inner.appends;
                return Ok(());
            }
            (inner.file.try_clone()?, inner.appends)
        };
        match file.sync_data() {
            Ok(()) => {
                *synced = appends;
                Ok(())
            }
            Err(error) => {
                // The kernel says so once, and drops what it could not write: asked again, it would say that all is well.
                self.lock().doubtful = true;
                Err(error)
            }
        }
    }
}

impl Inner {
    /// Appends a record.
    fn write(&mut self, key: &str, value: Option<&RawValue>, room: Room) -> io::Result<()> {
        self.append(&encode(key, value)?, room)
    }

    /// Appends whole lines, or nothing.
    fn append(&mut self, lines: &[u8], room: Room) -> io::Result<()> {
        if self.torn {
            self.cut()?;
        }
        let length = lines.len() as u64;
        self.extend_reserve(length);
        if self.reserve.until.is_some_and(|until| until < self.bytes + length + room.leaves(self.reserve.unit)) {
            return Err(Errno::ENOSPC.into());
        }
        if let Err(error) = self.file.write_all_at(lines, self.bytes) {
            self.torn = true;
            // Nothing is appended until it works.
            let _ = self.cut();
            return Err(error);
        }
        self.bytes += length;
        self.appends += 1;
        Ok(())
    }

    /// Takes half of a line away. This gives the reserve back, too.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.torn = false;
        self.reserve.until = self.reserve.until.map(|_| self.bytes);
        Ok(())
    }

    /// Has the record in memory as it is in the file.
    fn remember(&mut self, key: &str, value: Option<Box<RawValue>>) {
        self.owed.remove(key);
        let size = |value: &RawValue| (key.len() + value.get().len()) as u64;
        self.live_bytes += value.as_deref().map_or(0, size);
        let old = match value {
            Some(value) => self.live.insert(key.to_string(), value),
            None => self.live.remove(key),
        };
        self.live_bytes -= old.as_deref().map_or(0, size);
        self.limit = self.limit.max(2 * self.live_bytes + SLACK);
    }

    /// Takes blocks beyond the end of what is about to be written, while the disk has any. Each step alone: one that fails
    /// leaves those of before as they are.
    fn extend_reserve(&mut self, length: u64) {
        let unit = self.reserve.unit;
        while let Some(until) = self.reserve.until.filter(|until| *until < self.bytes + length + UNITS * unit) {
            match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, until as i64, unit as i64) {
                Ok(()) => self.reserve.until = Some(until + unit),
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => self.reserve.until = None,
                Err(_) => return,
            }
        }
    }

    /// Writes the file anew, durably: the old one or the new one is there at any instant.
    fn compact(&mut self, path: &Path) -> io::Result<()> {
        let directory = self.replace(path)?;
        self.keep_name(&directory)
    }

    /// Writes the file anew, or leaves the old one in its place where it fails. The new one is open before it gets the old one's
    /// name, so that nothing can be appended to a file that has none. Returns the directory, which is to be synced.
    fn replace(&mut self, path: &Path) -> io::Result<File> {
        let mut bytes = header()?;
        for (key, value) in &self.live {
            bytes.extend(encode(key, Some(value))?);
        }
        let temporary = path.with_extension("journal.new");
        let _ = fs::remove_file(&temporary);
        let written = (|| {
            let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all_at(&bytes, 0)?;
            file.sync_all()?;
            let directory = File::open(path.parent().unwrap_or(Path::new(".")))?;
            fs::rename(&temporary, path)?;
            Ok::<_, io::Error>((file, directory))
        })();
        let (file, directory) = written.inspect_err(|_| drop(fs::remove_file(&temporary)))?;
        self.file = file;
        self.bytes = bytes.len() as u64;
        self.limit = 2 * self.live_bytes + SLACK;
        self.owed.clear();
        self.torn = false;
        self.reserve.until = self.reserve.until.map(|_| self.bytes);
        self.extend_reserve(0);
        // Until the name is on the disk, a power cut brings back the old file.
        self.doubtful = true;
        Ok(directory)
    }

    /// Makes the name of a file that was written anew survive a power cut; the next sync tries again.
    fn keep_name(&mut self, directory: &File) -> io::Result<()> {
        directory.sync_all()?;
        self.doubtful = false;
        Ok(())
    }

    /// Keeps a damaged file under a name of its own and begins another. Where the disk has no room for that, the damaged file
    /// goes on. Returns where it is.
    fn keep_aside(&mut self, path: &Path) -> io::Result<PathBuf> {
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let names = (0..100).map(|n| if n == 0 { now.clone() } else { format!("{now}-{n}") });
        let names = names.map(|name| path.with_extension(format!("journal.damaged-{name}")));
        let Some(kept) = names.map(|kept| keep(path, &kept).map(|()| kept)).find(|result| !is_taken(result)).and_then(Result::ok)
        else {
            self.cut()?;
            return Ok(path.to_path_buf());
        };
        match self.replace(path) {
            // The damaged file has this name alone by now, whatever fails from here on.
            Ok(directory) => {
                if let Err(error) = self.keep_name(&directory) {
                    tracing::warn!("writing {} anew: {error}; it is tried again", path.display());
                }
                Ok(kept)
            }
            Err(_) => {
                let _ = fs::remove_file(kept);
                self.cut()?;
                Ok(path.to_path_buf())
            }
        }
    }
}

/// Gives a file a second name or, where the file system has no such thing, makes a copy that is on the disk.
fn keep(path: &Path, kept: &Path) -> io::Result<()> {
    match fs::hard_link(path, kept) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let mut copy = File::options().write(true).create_new(true).mode(0o600).open(kept)?;
            let copied = File::open(path).and_then(|mut file| io::copy(&mut file, &mut copy)).and_then(|_| copy.sync_all());
            copied.inspect_err(|_| drop(fs::remove_file(kept)))
        }
        result => result,
    }
}

fn is_taken<T>(result: &io::Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
}

/// How much of the reserve is taken at once: little on a small file system.
fn unit(file: &File) -> u64 {
    let size = nix::sys::statvfs::fstatvfs(file).map_or(0, |found| found.blocks() * found.fragment_size());
    (size / 256).clamp(SMALLEST_UNIT, LARGEST_UNIT)
}

#[cfg(test)]
mod tests;
