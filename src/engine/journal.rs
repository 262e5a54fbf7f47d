//! The engine's durable state: one append-only file of checked records, read once at the start.
//!
//! A record is a line `CRC JSON`. A line that was cut off by a crash does not match its checksum, and everything from it on
//! is dropped: the state is the one before it, never a mixture. Appending costs one `write`; what must survive a power cut
//! is synced once per request with [`Journal::sync`], whatever the number of its records.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub struct Journal {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    file: File,
    live: BTreeMap<String, Box<serde_json::value::RawValue>>,
    bytes: u64,
    live_bytes: u64,
    unsynced: bool,
}

#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    #[serde(rename = "k")]
    key: std::borrow::Cow<'a, str>,
    /// Absent: the key is deleted.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    value: Option<Box<serde_json::value::RawValue>>,
}

/// The file is rewritten when it is this much larger than what it says.
const SLACK: u64 = 4 << 20;

impl Journal {
    /// Opens or begins a journal.
    ///
    /// # Errors
    /// When the file cannot be read or made.
    pub fn open(path: &Path) -> io::Result<Self> {
        let bytes = match std::fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let (live, good) = replay(&bytes);
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        if good < bytes.len() as u64 {
            file.set_len(good)?;
        }
        let live_bytes = live.iter().map(|(k, v)| (k.len() + v.get().len()) as u64).sum();
        let inner = Inner { file, live, bytes: good, live_bytes, unsynced: false };
        Ok(Journal { path: path.to_path_buf(), inner: Mutex::new(inner) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Every value under a prefix of keys.
    pub fn all<T: DeserializeOwned>(&self, prefix: &str) -> Vec<(String, T)> {
        let inner = self.lock();
        let range = inner.live.range(prefix.to_string()..).take_while(|(key, _)| key.starts_with(prefix));
        range
            .filter_map(|(key, value)| Some((key[prefix.len()..].to_string(), serde_json::from_str(value.get()).ok()?)))
            .collect()
    }

    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.lock().live.get(key).and_then(|value| serde_json::from_str(value.get()).ok())
    }

    /// Sets a key.
    ///
    /// # Errors
    /// The disk's; the state is as it was then.
    pub fn put<T: Serialize>(&self, key: &str, value: &T) -> io::Result<()> {
        let value = serde_json::value::to_raw_value(value)?;
        self.append(key, Some(value))
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As [`Journal::put`].
    pub fn delete(&self, key: &str) -> io::Result<()> {
        if self.lock().live.contains_key(key) { self.append(key, None) } else { Ok(()) }
    }

    fn append(&self, key: &str, value: Option<Box<serde_json::value::RawValue>>) -> io::Result<()> {
        let mut inner = self.lock();
        let line = encode(key, value.as_deref())?;
        let before = inner.bytes;
        if let Err(error) = inner.file.write_all(&line) {
            // A full disk may have taken half of the line.
            let _ = inner.file.set_len(before);
            return Err(error);
        }
        inner.bytes += line.len() as u64;
        inner.unsynced = true;
        let old = match value {
            Some(value) => {
                inner.live_bytes += (key.len() + value.get().len()) as u64;
                inner.live.insert(key.to_string(), value)
            }
            None => inner.live.remove(key),
        };
        if let Some(old) = old {
            inner.live_bytes -= (key.len() + old.get().len()) as u64;
        }
        if inner.bytes > 2 * inner.live_bytes + SLACK { self.compact(&mut inner) } else { Ok(()) }
    }

    fn compact(&self, inner: &mut Inner) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (key, value) in &inner.live {
            bytes.extend(encode(key, Some(value))?);
        }
        crate::image::store::write_durably(&self.path, &bytes)?;
        inner.file = OpenOptions::new().append(true).open(&self.path)?;
        inner.bytes = bytes.len() as u64;
        inner.unsynced = false;
        Ok(())
    }

    /// Makes everything that was appended survive a power cut.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync(&self) -> io::Result<()> {
        let file = {
            let mut inner = self.lock();
            if !std::mem::take(&mut inner.unsynced) {
                return Ok(());
            }
            inner.file.try_clone()?
        };
        file.sync_data()
    }
}

fn encode(key: &str, value: Option<&serde_json::value::RawValue>) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(&Entry { key: key.into(), value: value.map(ToOwned::to_owned) })?;
    let mut line = format!("{:08x} ", checksum(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

/// CRC-32 by the library that checks gzip's.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The live values, and how many bytes of the file are good.
fn replay(bytes: &[u8]) -> (BTreeMap<String, Box<serde_json::value::RawValue>>, u64) {
    let mut live = BTreeMap::new();
    let mut good = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        let Some(entry) = decode(line) else { break };
        good += line.len() as u64;
        match entry.value {
            Some(value) => live.insert(entry.key.into_owned(), value),
            None => live.remove(entry.key.as_ref()),
        };
    }
    (live, good)
}

fn decode(line: &[u8]) -> Option<Entry<'static>> {
    let line = line.strip_suffix(b"\n")?;
    let (crc, json) = line.split_at_checked(9)?;
    let expected = u32::from_str_radix(std::str::from_utf8(&crc[..8]).ok()?, 16).ok()?;
    if checksum(json) != expected {
        return None;
    }
    let entry: Entry<'_> = serde_json::from_slice(json).ok()?;
    Some(Entry { key: entry.key.into_owned().into(), value: entry.value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_tail_is_dropped_and_written_over() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("journal");
        let journal = Journal::open(&path).expect("open");
        journal.put("a/1", &1).expect("put");
        journal.put("a/2", &2).expect("put");
        journal.delete("a/1").expect("delete");
        journal.put("b/1", &3).expect("put");
        let whole = std::fs::read(&path).expect("read");
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("cut");
            let journal = Journal::open(&path).expect("open");
            journal.put("c", &9).expect("put after a crash");
            let again = Journal::open(&path).expect("open");
            assert_eq!(again.get::<i32>("c"), Some(9), "cut at {cut}");
        }
        std::fs::write(&path, &whole).expect("whole");
        let journal = Journal::open(&path).expect("open");
        assert_eq!(journal.all::<i32>("a/"), [("2".to_string(), 2)]);
    }

    #[test]
    fn compaction_keeps_what_is_live() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("journal");
        let journal = Journal::open(&path).expect("open");
        let big = "x".repeat(100_000);
        for i in 0..120 {
            journal.put("big", &format!("{i}{big}")).expect("put");
        }
        assert!(std::fs::metadata(&path).expect("file").len() < 6 << 20);
        let last: String = Journal::open(&path).expect("open").get("big").expect("value");
        assert!(last.starts_with("119"));
    }
}
