//! zstd, frame by frame: the memory of large windows has a bound over all streams that are read at once.
//!
//! A frame's header says how far back its references go, and the decoder allocates that window (RFC 8878, section 3.1.1.1.2).
//! Windows up to 8 MiB, which the RFC asks every decoder to support, are free. Larger ones, which `zstd --ultra`, `--long` and
//! older image tools use, share a budget: a frame waits until the others leave it enough.

use std::io::{self, BufRead, Read};
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use zstd::stream::raw::{DParameter, Decoder, Operation};

/// Bytes of a window that is not counted.
const FREE: u64 = 8 << 20;
/// The largest window: what libzstd and so Docker and containerd take without being asked.
const MAX_WINDOW_LOG: u32 = 27;
/// Bytes of a frame's header at most (`ZSTD_FRAMEHEADERSIZE_MAX`).
const MAX_HEADER: usize = 18;

/// The budget of the process.
static WINDOWS: Windows = Windows::new("zstd", 1 << MAX_WINDOW_LOG, PATIENCE);

/// How long a stream waits for its memory.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// The memory that large windows may take together.
pub struct Windows {
    /// The compression, for messages.
    name: &'static str,
    budget: u64,
    /// How long a frame waits for its memory: whoever has it may be held up by a peer.
    patience: Duration,
    taken: Mutex<u64>,
    given_back: Condvar,
}

impl Windows {
    pub const fn new(name: &'static str, budget: u64, patience: Duration) -> Self {
        Windows { name, budget, patience, taken: Mutex::new(0), given_back: Condvar::new() }
    }

    /// Waits until there is memory for a window.
    ///
    /// # Errors
    /// One that is larger than all may be together; when others keep theirs for too long.
    pub fn take(&self, bytes: u64) -> io::Result<Window<'_>> {
        if bytes > self.budget {
            let why = format!("a {} window of {bytes} bytes, and {} are allowed", self.name, self.budget);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let taken = self.taken.lock().unwrap_or_else(|e| e.into_inner());
        let full = |taken: &mut u64| *taken + bytes > self.budget;
        let (mut taken, waited) =
            self.given_back.wait_timeout_while(taken, self.patience, full).unwrap_or_else(|e| e.into_inner());
        if waited.timed_out() {
            let why = format!(
                "no memory for a {} window of {bytes} bytes became free within {} s: other layers and archives are being unpacked; try \
                 again",
                self.name,
                self.patience.as_secs_f32()
            );
            return Err(io::Error::other(why));
        }
        *taken += bytes;
        Ok(Window { of: self, bytes })
    }
}

/// Memory of a window, given back when it is dropped.
pub struct Window<'a> {
    of: &'a Windows,
    bytes: u64,
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        *self.of.taken.lock().unwrap_or_else(|e| e.into_inner()) -= self.bytes;
        self.of.given_back.notify_all();
    }
}

/// Reads the plain bytes of zstd frames that follow each other.
pub struct ZstdFrames<'a, R> {
    stream: R,
    /// Bytes that were read to see the next frame's header, and are not decoded yet.
    ahead: Vec<u8>,
    in_frame: bool,
    /// Declared before `window`, so it is dropped first: it has the memory.
    decoder: Decoder<'static>,
    /// Of the largest frame so far: the decoder keeps its buffer for the next one.
    window: Option<Window<'a>>,
    windows: &'a Windows,
}

impl<R: BufRead> ZstdFrames<'static, R> {
    /// # Errors
    /// When libzstd refuses.
    pub fn new(stream: R) -> io::Result<Self> {
        Self::within(&WINDOWS, stream)
    }
}

impl<'a, R: BufRead> ZstdFrames<'a, R> {
    fn within(windows: &'a Windows, stream: R) -> io::Result<Self> {
        Ok(ZstdFrames { stream, ahead: Vec::new(), in_frame: false, decoder: decoder()?, window: None, windows })
    }

    /// Reads the next frame's header, and takes the memory of its window. `false` at the end of the stream.
    fn begin(&mut self) -> io::Result<bool> {
        let missing = MAX_HEADER.saturating_sub(self.ahead.len()) as u64;
        self.stream.by_ref().take(missing).read_to_end(&mut self.ahead)?;
        if self.ahead.is_empty() {
            return Ok(false);
        }
        let bytes = window_of(&self.ahead).unwrap_or(0);
        let taken = self.window.as_ref().map_or(FREE, |window| window.bytes);
        if bytes > taken {
            // The old memory is given back first: two streams that grow would wait for each other.
            self.decoder = decoder()?;
            self.window = None;
            self.window = Some(self.windows.take(bytes)?);
        } else {
            self.decoder.reinit()?;
        }
        self.in_frame = true;
        Ok(true)
    }
}

impl<R: BufRead> Read for ZstdFrames<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !out.is_empty() {
            if !self.in_frame && !self.begin()? {
                break;
            }
            let is_ahead = !self.ahead.is_empty();
            let input = if is_ahead { &self.ahead } else { self.stream.fill_buf()? };
            let is_at_end = input.is_empty();
            let step = self.decoder.run_on_buffers(input, out)?;
            if is_ahead {
                self.ahead.drain(..step.bytes_read);
            } else {
                self.stream.consume(step.bytes_read);
            }
            self.in_frame = step.remaining != 0;
            if step.bytes_written > 0 {
                return Ok(step.bytes_written);
            }
            if is_at_end && self.in_frame {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the last zstd frame has no end"));
            }
        }
        Ok(0)
    }
}

fn decoder() -> io::Result<Decoder<'static>> {
    let mut decoder = Decoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
    Ok(decoder)
}

/// The bytes of a frame's window by its header (RFC 8878, section 3.1.1.1), or `None` for what is not such a frame.
fn window_of(header: &[u8]) -> Option<u64> {
    let rest = header.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?;
    let (descriptor, rest) = rest.split_first()?;
    let is_single_segment = descriptor & 0x20 != 0;
    if !is_single_segment {
        let (exponent, mantissa) = (rest.first()? >> 3, rest.first()? & 7);
        let base = 1u64 << (10 + exponent);
        return Some(base + base / 8 * u64::from(mantissa));
    }
    // Without a window, the decoder's buffer is the content's size.
    let dictionary_id = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = rest.get(dictionary_id..)?;
    let number = |length: usize| Some(size.get(..length)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)));
    match descriptor >> 6 {
        0 => number(1),
        1 => Some(number(2)? + 256),
        2 => number(4),
        _ => number(8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn frame(window_log: u32, content: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// A header that asks for a window, and nothing after it.
    fn claim(window_log: u8) -> [u8; 6] {
        [0x28, 0xb5, 0x2f, 0xfd, 0, (window_log - 10) << 3]
    }

    fn plain(windows: &Windows, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        ZstdFrames::within(windows, bytes)?.read_to_end(&mut plain)?;
        Ok(plain)
    }

    fn small() -> Windows {
        Windows::new("zstd", 128 << 20, Duration::from_millis(50))
    }

    #[test]
    fn frames_follow_each_other_whatever_their_windows() {
        let windows = small();
        // Frames shorter than a header can be, a skippable one, one of known size, and windows that grow and shrink.
        let mut skippable = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0];
        skippable.extend(b"xyz");
        let known = zstd::bulk::compress(&[5; 9 << 20], 1).unwrap();
        let parts =
            [frame(20, b""), frame(20, b"a"), skippable, frame(25, &[1; 100_000]), known, frame(27, b"b"), frame(10, b"")];
        let expected = [&b"a"[..], &[1; 100_000], &[5; 9 << 20], b"b"].concat();
        assert!(plain(&windows, &parts.concat()).unwrap() == expected);
        assert_eq!(*windows.taken.lock().unwrap(), 0, "all is given back");
        assert!(plain(&windows, b"").unwrap().is_empty());
        let mut torn = frame(25, &[1; 100_000]);
        torn.pop();
        assert_eq!(plain(&windows, &torn).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(plain(&windows, &[&frame(20, b"a")[..], b"garbage behind the frame"].concat()).is_err());
    }

    #[test]
    fn a_large_window_waits_for_the_others() {
        let windows = small();
        let begun = |log: u8| {
            let header: &'static [u8] = Box::leak(Box::new(claim(log)));
            let mut frames = ZstdFrames::within(&windows, header).unwrap();
            let began = frames.begin();
            began.map(|_| frames)
        };
        let half = begun(26).unwrap();
        let other = begun(26).unwrap();
        let refused = begun(25).err().expect("there is no more").to_string();
        assert!(refused.contains("33554432 bytes became free within 0.05 s"), "{refused}");
        let small = begun(23).expect("up to 8 MiB is free");
        drop((half, small));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| Windows::take(&windows, 1 << 26).map(drop).is_ok());
            assert!(waits.join().unwrap());
        });
        drop(other);
        assert!(begun(27).is_ok());
        assert!(begun(28).err().unwrap().to_string().contains("a zstd window of 268435456 bytes"));
    }

    #[test]
    fn headers_say_what_the_decoder_allocates() {
        let single = |flags: u8, rest: &[u8]| [&[0x28, 0xb5, 0x2f, 0xfd, 0x20 | flags], rest].concat();
        for (header, expected) in [
            (claim(25).to_vec(), Some(32 << 20)),
            (vec![0x28, 0xb5, 0x2f, 0xfd, 0, (13 << 3) | 7], Some(15 << 20)),
            (single(0, &[200]), Some(200)),
            (single(1 << 6, &[1, 1]), Some(257 + 256)),
            (single(2 << 6 | 3, &[9, 9, 9, 9, 0, 0, 0, 4]), Some(64 << 20)),
            (single(3 << 6, &[0xff; 8]), Some(u64::MAX)),
            (single(3 << 6, &[0xff; 7]), None),
            (b"\x50\x2a\x4d\x18".to_vec(), None),
        ] {
            assert_eq!(window_of(&header), expected, "{header:?}");
        }
    }
}
