//! PAX records: `LENGTH KEY=VALUE` and a line feed, whose length is of the whole record. POSIX.1-2001, pax, Extended Header.

use super::damaged;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;

/// The prefix of an extended attribute's key; the attribute's name follows.
const ATTRIBUTE: &[u8] = b"SCHILY.xattr.";

/// The records about one entry. Of several with a key, the last.
#[derive(Default)]
pub struct PaxRecords {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl PaxRecords {
    /// # Errors
    /// A record that is not as long as it says, or is none.
    pub fn parse(mut bytes: &[u8]) -> io::Result<Self> {
        let mut records = BTreeMap::new();
        // The offsets and lengths of GNU's first form for sparse files, in the form of the second.
        let (mut map, mut pieces) = (Vec::new(), 0);
        while !bytes.is_empty() {
            let (key, value, rest) = split(bytes).ok_or_else(|| damaged("a PAX record is not as long as it says"))?;
            bytes = rest;
            let expected = [&b"GNU.sparse.offset"[..], b"GNU.sparse.numbytes"];
            if expected.contains(&key) {
                if key != expected[pieces % 2] || value.contains(&b',') {
                    return Err(damaged("the records of a sparse file are in a wrong order"));
                }
                if pieces > 0 {
                    map.push(b',');
                }
                map.extend(value);
                pieces += 1;
                continue;
            }
            let text = if matches!(key, b"path" | b"linkpath" | b"uname" | b"gname") { value } else { key };
            if key.is_empty() || text.contains(&0) {
                return Err(damaged("a name in a PAX record is empty, or has a NUL"));
            }
            records.insert(key.to_vec(), value.to_vec());
        }
        if pieces > 0 {
            records.insert(b"GNU.sparse.map".to_vec(), map);
        }
        Ok(PaxRecords { records })
    }

    pub fn get(&self, key: &[u8]) -> &[u8] {
        self.records.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn remove(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.records.remove(key)
    }

    /// A decimal number; an empty one is as if it was not there.
    ///
    /// # Errors
    /// Where it is none.
    pub fn number(&self, key: &[u8]) -> io::Result<Option<i64>> {
        match self.get(key) {
            [] => Ok(None),
            text => decimal(text).map(Some),
        }
    }

    /// Seconds and nanoseconds behind them, of decimal seconds with a fraction.
    ///
    /// # Errors
    /// Where it is none.
    pub fn time(&self, key: &[u8]) -> io::Result<Option<(i64, u32)>> {
        let mut parts = self.get(key).splitn(2, |byte| *byte == b'.');
        let whole = match parts.next().unwrap_or_default() {
            [] => return Ok(None),
            whole => whole,
        };
        let (mut seconds, fraction) = (decimal(whole)?, parts.next().unwrap_or_default());
        if !fraction.iter().all(u8::is_ascii_digit) {
            return Err(damaged("a time in a PAX record is none"));
        }
        let digit = |at: usize| u32::from(fraction.get(at).map_or(0, |digit| digit - b'0'));
        let mut nanoseconds = (0..9).fold(0, |sum, at| sum * 10 + digit(at));
        if whole.starts_with(b"-") && nanoseconds > 0 {
            (seconds, nanoseconds) = (seconds.saturating_sub(1), 1_000_000_000 - nanoseconds);
        }
        Ok(Some((seconds, nanoseconds)))
    }

    /// The extended attributes, without the prefix of their keys.
    pub fn attributes(self) -> Vec<(OsString, Vec<u8>)> {
        let named = |(key, value): (Vec<u8>, Vec<u8>)| Some((OsString::from_vec(key.strip_prefix(ATTRIBUTE)?.to_vec()), value));
        self.records.into_iter().filter_map(named).collect()
    }
}

/// The key and the value of the first record, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space]).ok()?).ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

/// # Errors
/// Where it is no decimal number.
pub fn decimal(text: &[u8]) -> io::Result<i64> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| damaged("a number in a PAX record is none"))
}
