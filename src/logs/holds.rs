//! Which files of a log its readers still need. The writer removes none of those, so a reader loses no line to rotation.
//!
//! A reader whose engine has died has [`GRACE`] to come back by the next one.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// The files that a reader of a log still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Chosen at random by the client, so that it is the same reader after a reconnection.
    pub reader: u64,
    /// The inode of the oldest file that it has not read; [`ALL`] for every file.
    pub file: u64,
}

/// No file has this inode.
pub const ALL: u64 = 0;

/// How long a reader that is expected, or whose engine has died, is waited for.
pub const GRACE: Duration = Duration::from_secs(10);

/// The holds on a log, each with the end of its validity where it has one.
#[derive(Debug, Default)]
pub struct Holds(Vec<(Hold, Option<Instant>)>);

impl Holds {
    /// Sets what a reader needs, until it says otherwise.
    pub fn set(&mut self, hold: Hold) {
        self.release(hold.reader);
        self.0.push((hold, None));
    }

    /// Keeps every file for a reader that is about to come.
    pub fn expect(&mut self, reader: u64, now: Instant) {
        self.release(reader);
        self.0.push((Hold { reader, file: ALL }, Some(now + GRACE)));
    }

    /// The reader has left.
    pub fn release(&mut self, reader: u64) {
        self.0.retain(|(known, _)| known.reader != reader);
    }

    /// The engine has died, and with it all who read by it.
    pub fn orphan(&mut self, now: Instant) {
        for (_, until) in &mut self.0 {
            until.get_or_insert(now + GRACE);
        }
    }

    /// Whether a reader needs a file.
    pub fn need(&mut self, file: u64, now: Instant) -> bool {
        self.0.retain(|(_, until)| until.is_none_or(|until| until > now));
        self.0.iter().any(|(hold, _)| hold.file == ALL || hold.file == file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_does_not_come_back_is_given_up() {
        let (mut holds, now) = (Holds::default(), Instant::now());
        let late = now + GRACE;
        holds.set(Hold { reader: 1, file: 7 });
        assert!(holds.need(7, late) && !holds.need(8, late));
        holds.set(Hold { reader: 1, file: 8 });
        assert!(!holds.need(7, late) && holds.need(8, late));
        holds.expect(2, now);
        assert!(holds.need(7, now) && !holds.need(7, late));
        holds.orphan(now);
        assert!(holds.need(8, now) && !holds.need(8, late));
        holds.set(Hold { reader: 1, file: ALL });
        holds.orphan(now);
        holds.set(Hold { reader: 1, file: 9 });
        assert!(holds.need(9, late), "it has come back");
        holds.release(1);
        assert!(!holds.need(9, now));
    }
}
