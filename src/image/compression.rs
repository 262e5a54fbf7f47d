//! The compression of a layer, detected by its first bytes: gzip, zstd, or none.

use super::frames::ZstdFrames;
use std::io::{self, BufRead, BufReader, Read};

/// The memory for xz in KiB: `xz -9` needs 65 MiB, and the format allows 4 GiB.
const XZ_MEMORY: u32 = 66 << 10;

/// Reads the plain bytes of a stream that may be compressed.
///
/// # Errors
/// When the stream cannot be read or its compression is damaged.
pub fn plain<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut stream = BufReader::with_capacity(1 << 17, stream);
    let head = stream.fill_buf()?;
    Ok(if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(stream))
    } else if is_zstd(head) {
        Box::new(ZstdFrames::new(stream)?)
    } else {
        Box::new(stream)
    })
}

/// Whether a stream begins with a zstd frame or a skippable one, which pzstd and seekable zstd have at the front (RFC 8878, sections
/// 3.1.1 and 3.1.2).
fn is_zstd(head: &[u8]) -> bool {
    matches!(head, [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// As [`plain`], and bzip2 and xz besides: what ADD takes apart.
///
/// # Errors
/// As [`plain`].
pub fn plain_of_any<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut stream = BufReader::with_capacity(1 << 17, stream);
    let head = stream.fill_buf()?;
    if head.starts_with(b"BZh") {
        return Ok(Box::new(bzip2::bufread::MultiBzDecoder::new(stream)));
    }
    if head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        return Ok(Box::new(lzma_rust2::XzReader::new_mem_limit(stream, true, XZ_MEMORY)));
    }
    plain(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_takes_no_more_memory_than_it_may() {
        // A zstd frame with a window of 256 MiB.
        let refused = io::copy(&mut plain(&b"\x28\xb5\x2f\xfd\0\x90"[..]).unwrap(), &mut io::sink()).unwrap_err();
        assert!(refused.to_string().contains("window"), "{refused}");
        // An empty xz stream of which the one block says that it needs 1.5 GiB.
        let header: &[u8] = b"\xfd7zXZ\0\0\x01\x69\x22\xde\x36\x02\0\x21\x01\x25\0\0\0";
        let mut claimed = header.to_vec();
        let mut crc = flate2::Crc::new();
        crc.update(&header[12..]);
        claimed.extend(crc.sum().to_le_bytes());
        claimed.extend([0; 64]);
        let refused = io::copy(&mut plain_of_any(&claimed[..]).unwrap(), &mut io::sink()).unwrap_err();
        assert!(refused.to_string().contains("mem"), "{refused}");
    }

    #[test]
    fn a_zstd_stream_may_begin_with_a_skippable_frame() {
        let content = zstd::bulk::compress(b"content", 1).unwrap();
        for magic in [0x50, 0x5f] {
            let skippable = [&[magic, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4], &content[..]].concat();
            let mut text = String::new();
            plain_of_any(&skippable[..]).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "content");
        }
        let mut bytes = Vec::new();
        plain_of_any(&b"\x60\x2a\x4d\x18 is none"[..]).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"\x60\x2a\x4d\x18 is none");
    }

    /// The output of pbzip2: a stream for each piece.
    #[test]
    fn every_stream_of_a_bzip2_file_is_read() {
        let two: &[u8] =
            b"\x42\x5a\x68\x39\x31\x41\x59\x26\x53\x59\x78\x13\xc0\x82\x00\x00\x01\xc1\x00\x00\x10\x02\x01\xa0\x00\x21\x9a\x68\
            \x33\x4d\x0c\xbc\x5d\xc9\x14\xe1\x42\x41\xe0\x4f\x02\x08\x42\x5a\x68\x39\x31\x41\x59\x26\x53\x59\x2e\xb7\x1a\xd7\
            \x00\x00\x01\x41\x80\x00\x10\x00\x00\x84\x80\x20\x00\x21\x9a\x68\x33\x4d\x07\x3c\x5d\xc9\x14\xe1\x42\x40\xba\xdc\
            \x6b\x5c";
        let mut text = String::new();
        plain_of_any(two).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo\n");
        assert!(plain_of_any(&two[..two.len() - 4]).unwrap().read_to_string(&mut text).is_err());
    }
}
