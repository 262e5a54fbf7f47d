//! The compression of a layer or an archive, detected by its first bytes: gzip, zstd, bzip2, xz, or none.

use super::frames::{PATIENCE, Window, Windows, ZstdFrames};
use std::io::{self, BufRead, BufReader, Read};

/// The memory for xz in KiB: `xz -9` needs 65 MiB, and the format allows 4 GiB.
const XZ_MEMORY: u32 = 66 << 10;
/// All xz streams that are read at a time: fifteen of `xz -9`.
static XZ_WINDOWS: Windows = Windows::new("xz", 1 << 30, PATIENCE);

/// Compressions by the first bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

/// Bytes that tell a compression.
const HEAD: usize = 10;

impl Compression {
    fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            // A frame, or a skippable one, which pzstd and seekable zstd have at the front (RFC 8878, sections 3.1.1 and 3.1.2).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            // The magic of the first block, or that of the end: a tar archive may begin with a file whose name begins with `BZh`.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90] => Compression::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            _ => Compression::None,
        }
    }
}

type HeadedStream<R> = BufReader<io::Chain<io::Cursor<Vec<u8>>, R>>;

/// A stream and its compression. What comes byte by byte is waited for.
fn recognized<R: Read>(mut stream: R) -> io::Result<(Compression, HeadedStream<R>)> {
    let mut head = Vec::with_capacity(HEAD);
    stream.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    let compression = Compression::of(&head);
    Ok((compression, BufReader::with_capacity(1 << 17, io::Cursor::new(head).chain(stream))))
}

/// Reads the plain bytes of a layer: the media types of the OCI image specification have gzip, zstd and no compression.
///
/// # Errors
/// When the stream cannot be read, its compression is damaged, or is another one.
pub fn plain<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let (compression, stream) = recognized(stream)?;
    let refused = |name| io::Error::new(io::ErrorKind::InvalidData, format!("it is {name}: a layer is plain, gzip or zstd"));
    match compression {
        Compression::Bzip2 => Err(refused("bzip2")),
        Compression::Xz => Err(refused("xz")),
        other => decoder(other, stream),
    }
}

/// As [`plain`], and bzip2 and xz besides: archives that users have, which Docker takes with any of the four.
///
/// # Errors
/// When the stream cannot be read or its compression is damaged.
pub fn plain_of_any<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let (compression, stream) = recognized(stream)?;
    decoder(compression, stream)
}

/// An xz stream with its memory, which is given back after it.
struct XzStream<R: Read> {
    reader: lzma_rust2::XzReader<R>,
    _memory: Window<'static>,
}

impl<R: Read> Read for XzStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

fn decoder<'a>(compression: Compression, stream: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(stream),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stream)),
        Compression::Zstd => Box::new(ZstdFrames::new(stream)?),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(stream)),
        Compression::Xz => {
            let memory = XZ_WINDOWS.take(u64::from(XZ_MEMORY) << 10)?;
            Box::new(XzStream { reader: lzma_rust2::XzReader::new_mem_limit(stream, true, XZ_MEMORY), _memory: memory })
        }
    })
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

    /// Gives one byte at a time, as a slow client does.
    struct ByteByByte<'a>(&'a [u8]);

    impl Read for ByteByByte<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let portion = buffer.len().min(1);
            self.0.read(&mut buffer[..portion])
        }
    }

    #[test]
    fn every_compression_is_recognized_however_it_comes() {
        use std::io::Write;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"content").unwrap();
        // The output of xz(1).
        let xz: &[u8] = b"\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3\
            \x01\x00\x06\x63\x6f\x6e\x74\x65\x6e\x74\x00\x00\xdc\x8d\x35\x22\xff\xc1\x47\x7b\x00\x01\x1f\x07\
            \x16\x2e\xb8\x73\x1f\xb6\xf3\x7d\x01\x00\x00\x00\x00\x04\x59\x5a";
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(b"content").unwrap();
        let empty = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast()).finish().unwrap();
        let table = [
            ("plain", b"content".to_vec(), "content"),
            ("gzip", gzip.finish().unwrap(), "content"),
            ("zstd", zstd::bulk::compress(b"content", 1).unwrap(), "content"),
            ("bzip2", bzip2.finish().unwrap(), "content"),
            ("empty bzip2", empty, ""),
            ("xz", xz.to_vec(), "content"),
            ("short", b"BZ".to_vec(), "BZ"),
            ("a name", b"BZh9 is a file's name".to_vec(), "BZh9 is a file's name"),
            ("nothing", Vec::new(), ""),
        ];
        for (name, bytes, expected) in table {
            let mut text = String::new();
            plain_of_any(ByteByByte(&bytes)).unwrap().read_to_string(&mut text).expect(name);
            assert_eq!(text, expected, "{name}");
            let layer = plain(&bytes[..]).map(drop).map_err(|e| e.to_string());
            let refused = format!("it is {name}: a layer is plain, gzip or zstd");
            match name {
                "bzip2" | "xz" => assert_eq!(layer, Err(refused)),
                "empty bzip2" => assert!(layer.is_err()),
                _ => assert_eq!(layer, Ok(()), "{name}"),
            }
        }
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
