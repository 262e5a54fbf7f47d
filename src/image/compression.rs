//! The compression of a layer, told by its first bytes: gzip, zstd, or none.

use std::io::{self, BufRead, BufReader, Read};

/// The largest window of zstd, 8 MiB: what RFC 8878 asks of everybody, what `zstd -19` and the image tools use. The format would
/// have a stranger's layer take 128 MiB of memory and more.
const ZSTD_WINDOW_LOG: u32 = 23;
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
        let mut decoder = zstd::stream::read::Decoder::with_buffer(stream)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        Box::new(decoder)
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
    use std::io::Write;

    #[test]
    fn a_window_takes_no_more_memory_than_it_may() {
        let compressed = |log: u32| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            (0..48).for_each(|_| encoder.write_all(&[7; 1 << 20]).unwrap());
            encoder.finish().unwrap()
        };
        let unpacked = |bytes: Vec<u8>| io::copy(&mut plain(&bytes[..]).unwrap(), &mut io::sink());
        assert_eq!(unpacked(compressed(ZSTD_WINDOW_LOG)).unwrap(), 48 << 20);
        assert!(unpacked(compressed(ZSTD_WINDOW_LOG + 1)).is_err());
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
