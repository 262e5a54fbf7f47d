//! The compression of a layer, told by its first bytes: gzip, zstd, or none.

use std::io::{self, BufRead, BufReader, Read};

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
        Box::new(zstd::stream::read::Decoder::with_buffer(stream)?)
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
        return Ok(Box::new(lzma_rust2::XzReader::new(stream, true)));
    }
    plain(stream)
}
