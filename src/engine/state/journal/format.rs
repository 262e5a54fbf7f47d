//! The journal's lines: `CRC JSON`, and what is read from a file in which some of them are wrong.
//!
//! The first line is the format's version. It is a record as any other, of the key [`FORMAT_KEY`], so that versions which know
//! no format carry it along.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

/// The newest format that this version reads, and the one that it writes. 1 is a file without a first line of its own.
pub const FORMAT: u32 = 2;
pub const FORMAT_KEY: &str = "format";
/// The checksum in hexadecimal and a space.
const CHECKSUM: usize = 9;
const BEGIN: &[u8] = br#"{"k":""#;

/// The records of a journal that count, by their keys.
pub type LiveRecords = BTreeMap<String, Box<RawValue>>;

#[derive(Serialize, Deserialize)]
struct JournalLine<'a> {
    #[serde(rename = "k", borrow)]
    key: Cow<'a, str>,
    /// Absent: the key is deleted.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, RawValue>>,
}

/// The records of a file.
#[derive(Default)]
pub struct Replayed {
    pub live: LiveRecords,
    /// How many bytes of the file are lines; what follows is a torn tail.
    pub used: u64,
    /// The last record is whole, and lacks the end of its line alone.
    pub unended: bool,
    /// The file's format, where it names one.
    pub format: Option<u32>,
    /// Numbers of the lines that are not as they were written, from 1.
    pub damaged: Vec<usize>,
}

/// Reads a whole journal. An unterminated last line is the torn tail of a crash and says nothing. Any other line that does not
/// match its checksum is damage: the records before, after and, where a line's end is what was damaged, in it are used.
pub fn replay(bytes: &[u8]) -> Replayed {
    let mut replayed = Replayed::default();
    for (n, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        let (record, ended) = line.strip_suffix(b"\n").map_or((line, false), |record| (record, true));
        let intact = record.split_at_checked(CHECKSUM).filter(|(sum, json)| *sum == checksum_text(json));
        match intact.and_then(|(_, json)| serde_json::from_slice(json).ok()) {
            Some(entry) => {
                replayed.apply(entry);
                replayed.unended = !ended;
            }
            // With a whole record in it, it was not torn: the end of the line is what is wrong.
            None if replayed.salvage(record) > 0 || ended => replayed.damaged.push(n + 1),
            None => break,
        }
        replayed.used += line.len() as u64;
    }
    replayed
}

impl Replayed {
    fn apply(&mut self, entry: JournalLine<'_>) {
        if entry.key == FORMAT_KEY {
            // Of several the newest, since that one wrote last.
            self.format = self.format.max(entry.value.and_then(|value| value.get().parse().ok()));
            return;
        }
        match entry.value {
            Some(value) => self.live.insert(entry.key.into_owned(), value.into_owned()),
            None => self.live.remove(entry.key.as_ref()),
        };
    }

    /// Applies the records that are whole within a line that is not. Returns how many there are.
    fn salvage(&mut self, line: &[u8]) -> usize {
        let mut found = 0;
        let mut from = CHECKSUM;
        while let Some(at) = memchr::memmem::find(line.get(from..).unwrap_or_default(), BEGIN).map(|at| from + at) {
            let mut values = serde_json::Deserializer::from_slice(&line[at..]).into_iter::<&RawValue>();
            let text = values.next().and_then(Result::ok).map(|value| value.get().as_bytes());
            from = at + BEGIN.len();
            if let Some(text) = text
                && is_checksum(&line[at - CHECKSUM..at - 1], text)
                && let Ok(entry) = serde_json::from_slice(text)
            {
                self.apply(entry);
                found += 1;
                from = at + text.len() + CHECKSUM;
            }
        }
        found
    }
}

/// A record as a line.
///
/// # Errors
/// JSON's.
pub fn encode(key: &str, value: Option<&RawValue>) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(&JournalLine { key: key.into(), value: value.map(Cow::Borrowed) })?;
    let mut line = checksum_text(&json);
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

/// The first line of a file.
///
/// # Errors
/// As [`encode`].
pub fn header() -> io::Result<Vec<u8>> {
    encode(FORMAT_KEY, Some(&serde_json::value::to_raw_value(&FORMAT)?))
}

/// CRC-32 by the library that checks gzip's.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn checksum_text(json: &[u8]) -> Vec<u8> {
    format!("{:08x} ", checksum(json)).into_bytes()
}

/// Whether eight digits, in either case, are a text's checksum.
fn is_checksum(digits: &[u8], text: &[u8]) -> bool {
    std::str::from_utf8(digits).is_ok_and(|digits| u32::from_str_radix(digits, 16) == Ok(checksum(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Values = Vec<(String, String)>;

    fn values(live: &LiveRecords) -> Values {
        live.iter().map(|(key, value)| (key.clone(), value.get().to_string())).collect()
    }

    /// About twenty records as an engine writes them: made, changed, deleted; texts with quotes, braces, escapes and records.
    fn lines() -> Vec<Vec<u8>> {
        let raw = |text: &str| RawValue::from_string(text.to_string()).expect("JSON");
        let mut lines = vec![header().expect("header")];
        let mut put = |key: &str, text: &str| lines.push(encode(key, Some(&raw(text))).expect("line"));
        for n in 0..5 {
            put(&format!("container/{n}"), &format!(r#"{{"name":"c{n}","state":"created","v":{{"k":"x"}}}}"#));
            put(&format!("container/{n}"), &format!(r#"{{"name":"c{n}","state":"running","text":"a \"quoted\" }} {{"}}"#));
        }
        put("network/1", r#"{"pool":"10.0.0.0/24"}"#);
        put("volume/v", r#"{"labels":{"k":"00000000 {\"k\":\"container/1\"}"}}"#);
        put("volume/w", "{}");
        put("project/p", r#"{"services":[]}"#);
        lines.push(encode("container/0", None).expect("line"));
        lines.push(encode("volume/w", None).expect("line"));
        let again = lines[7].clone();
        lines.push(again);
        lines
    }

    fn replay_lines(lines: &[Vec<u8>]) -> Values {
        values(&replay(&lines.concat()).live)
    }

    #[test]
    fn every_single_bit_costs_its_own_line_at_most() {
        let lines = lines();
        let whole = lines.concat();
        let all = values(&replay(&whole).live);
        assert_eq!(all.len(), 7, "{all:?}");
        let mut begin = 0;
        for (n, line) in lines.iter().enumerate() {
            let without = replay_lines(&[&lines[..n], &lines[n + 1..]].concat());
            // Of the line's end, of the space, and of the case of a digit: all of the record can be told still.
            let is_told = |byte: usize, bit: usize| {
                byte == line.len() - 1
                    || byte == CHECKSUM - 1
                    || (byte < CHECKSUM && bit == 5 && line[byte].is_ascii_alphabetic())
            };
            for bit in 0..line.len() * 8 {
                let mut flipped = whole.clone();
                flipped[begin + bit / 8] ^= 1 << (bit % 8);
                let got = replay(&flipped);
                let at = format!("line {}, byte {}, bit {}", n + 1, bit / 8, bit % 8);
                let told = is_told(bit / 8, bit % 8);
                assert_eq!(values(&got.live), if told { &all } else { &without }[..], "{at}");
                assert!(!got.damaged.is_empty(), "{at}: not noticed");
                assert_eq!(got.format, (n > 0 || told).then_some(FORMAT), "{at}");
            }
            begin += line.len();
        }
    }

    #[test]
    fn every_truncation_is_the_state_of_before() {
        let lines = lines();
        let whole = lines.concat();
        let ends: Vec<usize> = lines
            .iter()
            .scan(0, |sum, line| {
                Some({
                    *sum += line.len();
                    *sum
                })
            })
            .collect();
        for cut in 0..=whole.len() {
            let got = replay(&whole[..cut]);
            let complete = ends.iter().filter(|end| **end <= cut).count();
            // All of a record without its line's end is the record.
            let unended = usize::from(ends.iter().any(|end| *end == cut + 1));
            assert_eq!(values(&got.live), replay_lines(&lines[..complete + unended]), "cut at {cut}");
            assert_eq!((got.unended, got.damaged), (unended == 1, vec![]), "cut at {cut}");
        }
    }

    #[test]
    fn what_a_power_cut_leaves_behind_is_a_tail() {
        let lines = lines();
        let whole = lines.concat();
        let all = values(&replay(&whole).live);
        let got = replay(&[&whole[..], &[0; 4096]].concat());
        assert_eq!((values(&got.live), got.used, got.damaged), (all.clone(), whole.len() as u64, vec![]));
        // A block of zeros within costs the line that it is in, wherever that is.
        let (head, rest) = lines.split_at(9);
        let middle = [head.concat(), vec![0; 4096], rest.concat()].concat();
        let got = replay(&middle);
        assert_eq!((values(&got.live), got.damaged), (all.clone(), vec![10]));
        let windows: Vec<u8> = lines.iter().flat_map(|line| [&line[..line.len() - 1], b"\r\n"].concat()).collect();
        assert_eq!(values(&replay(&windows).live), all);
    }

    #[test]
    fn a_record_of_another_version_is_carried_byte_for_byte() {
        let text = r#"{"b" : 1.0e2, "a":  [ 18446744073709551617 ], "z":"\u00e9é"}"#;
        let raw = RawValue::from_string(text.into()).expect("JSON");
        let line = encode("container/x", Some(&raw)).expect("line");
        assert_eq!(replay(&line).live["container/x"].get(), text);
        assert_eq!(encode("container/x", Some(&replay(&line).live["container/x"])).expect("line"), line);
    }
}
