//! The lines of a container's log as the API server sends them, each with its time before it, and how they are printed. A long line comes in
//! pieces, and is printed as one where nothing else comes between.

use crate::cli::{Failure, Outcome};
use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use http_body_util::BodyExt;
use jiff::Timestamp;
use kube::client::Body;
use std::collections::VecDeque;
use std::io::Write;

/// The most of a line that is kept until its end comes, in bytes.
const LONGEST: usize = 1 << 20;

/// A time in RFC 3339 with nanoseconds and an offset has 35.
const LONGEST_TIME: usize = 64;

/// A piece of a line.
#[derive(Clone, Debug, PartialEq)]
pub struct LogPiece {
    /// The time of its line; empty where the server has sent none.
    pub time: Bytes,
    /// What is behind the time, with the line's end if it has one.
    pub text: Bytes,
    /// Whether its line begins with it, and whether it ends with it.
    pub starts: bool,
    pub ends: bool,
}

/// The lines of an answer.
pub struct LogLines {
    body: http_body_util::BodyDataStream<Body>,
    cutter: LineCutter,
}

impl LogLines {
    pub fn new(body: Body) -> Self {
        LogLines { body: body.into_data_stream(), cutter: LineCutter::default() }
    }

    /// The next line, or piece of one; `None` at the end.
    ///
    /// # Errors
    /// When the answer ends before its end.
    pub async fn next(&mut self) -> Result<Option<LogPiece>, String> {
        loop {
            if let Some(piece) = self.cutter.whole.pop_front() {
                return Ok(Some(piece));
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.cutter.take(&bytes),
                Some(Err(error)) => return Err(super::cluster_error::chain(&error)),
                None if self.cutter.is_between() => return Ok(None),
                None => self.cutter.cut(true),
            }
        }
    }
}

#[derive(Default)]
struct LineCutter {
    begun: BytesMut,
    /// The time of the line whose first piece was cut; `None` between lines.
    time: Option<Bytes>,
    whole: VecDeque<LogPiece>,
}

impl LineCutter {
    fn is_between(&self) -> bool {
        self.begun.is_empty() && self.time.is_none()
    }

    fn take(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part);
            let ends = part.ends_with(b"\n");
            if ends || self.begun.len() > LONGEST {
                self.cut(ends);
            }
        }
    }

    fn cut(&mut self, ends: bool) {
        let mut text = self.begun.split().freeze();
        let starts = self.time.is_none();
        let time = self.time.take().unwrap_or_else(|| {
            let time = text.slice(..time_of(&text).len());
            text.advance(if time.is_empty() { 0 } else { time.len() + 1 });
            time
        });
        self.time = (!ends).then(|| time.clone());
        self.whole.push_back(LogPiece { time, text, starts, ends });
    }
}

/// The time that begins a line, with a space behind it; empty where there is none.
fn time_of(line: &[u8]) -> &[u8] {
    let end = memchr::memchr(b' ', &line[..line.len().min(LONGEST_TIME)]).unwrap_or_default();
    let is_time = std::str::from_utf8(&line[..end]).is_ok_and(|text| text.parse::<Timestamp>().is_ok());
    if is_time { &line[..end] } else { &[] }
}

/// Where in a log somebody has come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogPlace {
    /// The time of the last whole line; empty before the first.
    last: String,
    /// The time of a line that is not whole yet, and how many bytes of its text have been seen.
    begun: Option<(String, usize)>,
}

impl LogPlace {
    /// The time to ask for what is behind it; `None` at the beginning.
    pub fn since(&self) -> Option<&str> {
        let begun = self.begun.as_ref().map(|(time, _)| time.as_str());
        begun.or(Some(self.last.as_str())).filter(|time| !time.is_empty())
    }

    /// Goes on over a piece that was shown.
    pub fn pass(&mut self, piece: &LogPiece) {
        let time = String::from_utf8_lossy(&piece.time);
        if time.is_empty() {
            return;
        }
        if piece.ends {
            *self = LogPlace { last: time.into_owned(), begun: None };
            return;
        }
        let seen = self.begun.as_ref().filter(|(begun, _)| *begun == time && !piece.starts).map_or(0, |(_, seen)| *seen);
        self.begun = Some((time.into_owned(), seen + piece.text.len()));
    }
}

/// Leaves out of a log that is read again what was seen of it.
pub struct SeenLog(LogPlace);

impl SeenLog {
    pub fn before(place: LogPlace) -> Self {
        SeenLog(place)
    }

    /// What is new of a piece.
    pub fn new_of(&mut self, mut piece: LogPiece) -> Option<LogPiece> {
        let Some((time, seen)) = &mut self.0.begun else {
            let is_old = !self.0.last.is_empty() && piece.time <= self.0.last.as_bytes();
            // A line without a time is nobody's to judge.
            return (!is_old || piece.time.is_empty()).then_some(piece);
        };
        if piece.time < time.as_bytes() {
            return None;
        }
        if piece.time > time.as_bytes() {
            // The rest of the line is gone from the server.
            self.0.begun = None;
            return Some(piece);
        }
        if *seen >= piece.text.len() && !piece.ends {
            *seen -= piece.text.len();
            return None;
        }
        piece.text.advance((*seen).min(piece.text.len()));
        piece.starts = false;
        self.0.begun = None;
        Some(piece)
    }
}

/// Prints the lines of several logs.
pub struct LinePrinter {
    timestamps: bool,
    /// The log whose line is not whole yet.
    open: Option<usize>,
}

impl LinePrinter {
    pub fn new(timestamps: bool) -> Self {
        LinePrinter { timestamps, open: None }
    }

    /// Prints a piece of the log of that number.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub fn print(&mut self, number: usize, prefix: &str, piece: &LogPiece) -> Outcome {
        let mut out = Vec::with_capacity(prefix.len() + piece.time.len() + piece.text.len() + 3);
        let goes_on = self.open == Some(number) && !piece.starts;
        if !goes_on {
            out.extend_from_slice(if self.open.is_some() { b"\n" } else { b"" });
            out.extend_from_slice(prefix.as_bytes());
            if self.timestamps && !piece.time.is_empty() {
                out.extend_from_slice(&piece.time);
                out.push(b' ');
            }
        }
        out.extend_from_slice(&piece.text);
        if piece.ends && !piece.text.ends_with(b"\n") {
            out.push(b'\n');
        }
        self.open = (!piece.ends).then_some(number);
        written(&out)
    }

    /// Ends a line that is not whole.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub fn finish(&mut self) -> Outcome {
        if self.open.take().is_some() { written(b"\n") } else { Ok(()) }
    }
}

fn written(bytes: &[u8]) -> Outcome {
    let mut stdout = crate::cli::output::stdout::Stdout;
    let done = stdout.write_all(bytes).and_then(|()| stdout.flush());
    done.map_err(|error| Failure::Message(format!("writing to standard output: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-01T00:00:01.000000000Z";

    fn pieces(chunks: &[&[u8]]) -> Vec<LogPiece> {
        let mut cutter = LineCutter::default();
        chunks.iter().for_each(|chunk| cutter.take(chunk));
        if !cutter.is_between() {
            cutter.cut(true);
        }
        cutter.whole.into()
    }

    #[test]
    fn long_lines_keep_all_of_their_text_and_have_one_time() {
        let text = "word ".repeat(700_000);
        let all = pieces(&[format!("{TIME} {text}\n{TIME} b\n").as_bytes()]);
        assert_eq!((all.len(), all[0].starts, all[0].ends, all[1].starts), (2, true, true, true), "one chunk is one piece");
        let line = format!("{TIME} {text}\n");
        let chunks: Vec<&[u8]> = line.as_bytes().chunks(100_000).collect();
        let all = pieces(&chunks);
        assert!(all.len() > 3 && all.iter().all(|piece| piece.time == TIME));
        let joined: Vec<u8> = all.iter().flat_map(|piece| piece.text.to_vec()).collect();
        assert_eq!(joined, format!("{text}\n").into_bytes());
        assert!(all[0].starts && !all[0].ends && !all[1].starts && all[all.len() - 1].ends);
    }

    #[test]
    fn what_is_no_time_is_text() {
        for line in ["", "x", "no time\n", "12 x", &"A".repeat(100), " x"] {
            for piece in pieces(&[line.as_bytes()]) {
                assert_eq!((piece.time.len(), &piece.text[..]), (0, line.as_bytes()));
            }
        }
    }

    /// A log that was cut anywhere and is read again has every byte once.
    #[test]
    fn a_log_that_was_cut_is_read_on() {
        let time = |n: u32| format!("2026-01-01T00:00:0{n}.000000000Z");
        let text = format!("{} a\n{} {}\n{} c\n", time(1), time(2), "b".repeat(2_500_000), time(3));
        let bare = |all: &[LogPiece]| all.iter().flat_map(|piece| piece.text.to_vec()).collect::<Vec<u8>>();
        let cut = |bytes: &[u8]| {
            let mut cutter = LineCutter::default();
            bytes.chunks(65_536).for_each(|chunk| cutter.take(chunk));
            Vec::from(cutter.whole)
        };
        let expected = bare(&cut(text.as_bytes()));
        for end in [5, 34, 100, 1_000_000, 1_200_000, 2_200_000, text.len() - 40, text.len() - 3, text.len()] {
            let mut place = LogPlace::default();
            let mut shown = cut(&text.as_bytes()[..end]);
            shown.iter().for_each(|piece| place.pass(piece));
            let mut seen = SeenLog::before(place.clone());
            let from = place.since().map_or(0, |since| text.find(since).expect("a time of it"));
            shown.extend(cut(&text.as_bytes()[from..]).into_iter().filter_map(|piece| seen.new_of(piece)));
            assert!(bare(&shown) == expected, "cut at {end}: {} bytes of {}", bare(&shown).len(), expected.len());
        }
    }
}
