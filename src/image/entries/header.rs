//! A header of 512 bytes: of V7, POSIX (ustar), GNU or star. `man 5 tar` has the fields' places.

use super::damaged;
use std::io;

/// Bytes of a header, to whose multiples contents are padded.
pub const BLOCK: usize = 512;

/// A header's fields.
pub struct RawHeader {
    pub kind: u8,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub size: i64,
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    pub mtime: i64,
    pub device: (i64, i64),
}

const MAGIC: std::ops::Range<usize> = 257..265;

impl RawHeader {
    /// # Errors
    /// A wrong checksum, or a number that is none.
    pub fn parse(block: &[u8; BLOCK]) -> io::Result<Self> {
        check(block)?;
        let mut header = RawHeader {
            kind: block[156],
            path: up_to_nul(&block[..100]).to_vec(),
            link: up_to_nul(&block[157..257]).to_vec(),
            mode: number(&block[100..108])?,
            uid: number(&block[108..116])?,
            gid: number(&block[116..124])?,
            size: number(&block[124..136])?,
            mtime: number(&block[136..148])?,
            device: (0, 0),
        };
        let (posix, gnu) = (block[MAGIC].starts_with(b"ustar\0"), is_gnu(block));
        if posix || gnu {
            header.device = (number(&block[329..337])?, number(&block[337..345])?);
        }
        let prefix = match (posix, gnu) {
            (true, _) if block[508..] == *b"tar\0" => up_to_nul(&block[345..476]),
            (true, _) => up_to_nul(&block[345..500]),
            // GNU has times here. Go wrote a prefix all the same before 1.8, and so did Docker.
            (_, true) if has_times(block) => &[],
            (_, true) => Some(up_to_nul(&block[345..500])).filter(|prefix| prefix.is_ascii()).unwrap_or_default(),
            _ => &[],
        };
        if !prefix.is_empty() {
            header.path = [prefix, b"/", &header.path].concat();
        }
        Ok(header)
    }
}

/// Whether a header is one of GNU's.
pub fn is_gnu(block: &[u8; BLOCK]) -> bool {
    block[MAGIC] == *b"ustar  \0"
}

fn has_times(block: &[u8; BLOCK]) -> bool {
    [345..357, 357..369].into_iter().all(|place| block[place.start] == 0 || number(&block[place]).is_ok())
}

/// The sum of the bytes is in the header, itself taken for spaces. Some old writers add signed bytes.
fn check(block: &[u8; BLOCK]) -> io::Result<()> {
    const SUM: std::ops::Range<usize> = 148..156;
    let bytes = || block.iter().enumerate().map(|(at, byte)| if SUM.contains(&at) { b' ' } else { *byte });
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    match octal(&block[SUM])? {
        sum if sum == unsigned || sum == signed => Ok(()),
        _ => Err(damaged("the checksum of a header is wrong")),
    }
}

/// A text that ends at a NUL, or with its field.
pub fn up_to_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number of a header: octal digits, or two's complement in base 256 behind a set highest bit.
///
/// # Errors
/// Where it is neither, or does not fit.
pub fn number(field: &[u8]) -> io::Result<i64> {
    let Some(first) = field.first().filter(|first| **first & 0x80 != 0) else { return octal(field) };
    let inverted: u8 = if first & 0x40 != 0 { 0xff } else { 0 };
    let mut value: u64 = 0;
    for (at, byte) in field.iter().enumerate() {
        let byte = (byte ^ inverted) & if at == 0 { 0x7f } else { 0xff };
        if value >> 56 != 0 {
            return Err(damaged("a number in a header is too large"));
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).map_err(|_| damaged("a number in a header is too large"))?;
    Ok(if inverted == 0 { value } else { !value })
}

/// Octal digits between spaces and NULs; none are 0.
fn octal(field: &[u8]) -> io::Result<i64> {
    let is_space = |byte: &u8| matches!(byte, b' ' | 0);
    let begin = field.iter().position(|byte| !is_space(byte)).unwrap_or(field.len());
    let end = field.iter().rposition(|byte| !is_space(byte)).map_or(begin, |last| last + 1);
    let mut value: i64 = 0;
    for digit in up_to_nul(&field[begin..end]) {
        if !(b'0'..=b'7').contains(digit) {
            return Err(damaged("a number in a header is none"));
        }
        value = value.checked_mul(8).ok_or_else(|| damaged("a number in a header is too large"))? + i64::from(digit - b'0');
    }
    Ok(value)
}
