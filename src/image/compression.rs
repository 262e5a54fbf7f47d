//! The compression of a layer, told by its first bytes: gzip, zstd, or none.

use super::frames::Frames;
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
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(Frames::new(stream)?)
    } else {
        Box::new(stream)
    })
}

/// As [`plain`], and bzip2 and xz besides: what ADD takes apart.
///
/// # Errors
/// As [`plain`].
pub fn plain_of_any<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut stream = BufReader::with_capacity(1 << 17, stream);
    let head = stream.fill_buf()?;
    if head.starts_with(b"BZh") {
        return Ok(Box::new(bzip2_rs::DecoderReader::new(stream)));
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
}
