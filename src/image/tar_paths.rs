//! Tar archives that are written: paths of any bytes, links as they are, and an end only where nothing went wrong.

use super::entries::{EntryHead, EntryKind};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// Bytes of the name in a header, and of a link's target.
const ROOM: usize = 100;

/// Writes an archive. One that cannot be written to its end has none: who reads it must not take it for whole.
///
/// # Errors
/// Those of `fill`, and the writer's.
pub fn write_archive<W: Write, T>(mut out: W, fill: impl FnOnce(&mut Builder<&mut W>) -> io::Result<T>) -> io::Result<T> {
    // A builder that is dropped writes the end.
    let mut builder = ManuallyDrop::new(Builder::new(&mut out));
    let filled = fill(&mut builder)?;
    ManuallyDrop::into_inner(builder).finish()?;
    out.flush()?;
    Ok(filled)
}

/// A content that is as long as its header says, or an error: what is too short would make the next header part of it.
pub struct SizedReader<R> {
    pub inner: R,
    /// Bytes that are still to come.
    pub left: u64,
}

impl<R: Read> Read for SizedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.inner.read(&mut buffer[..wanted])?;
        if n == 0 && wanted > 0 {
            let why = "a part of the archive is not as long as was said";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

/// Appends an entry, as [`Builder::append_data`] does. That refuses a long path of which no beginning is UTF-8, such as
/// a directory's in Latin-1 whose first letter has an accent.
///
/// # Errors
/// The reader's and the writer's.
pub fn append_data(builder: &mut Builder<impl Write>, header: &mut Header, path: &Path, data: impl Read) -> io::Result<()> {
    if !is_refused(path) {
        return builder.append_data(header, path, data);
    }
    name(builder, header, path)?;
    header.set_cksum();
    builder.append(header, data)
}

/// The same of a link, whose target is kept as it is: [`Builder::append_link`] makes `a/b` of `a//b`.
///
/// # Errors
/// The writer's.
pub fn append_link(builder: &mut Builder<impl Write>, header: &mut Header, path: &Path, target: &Path) -> io::Result<()> {
    let bytes = target.as_os_str().as_bytes();
    if bytes.len() <= ROOM {
        header.set_link_name_literal(bytes)?;
        return append_data(builder, header, path, io::empty());
    }
    let cleaned: PathBuf = target.components().collect();
    if !is_refused(path) && cleaned.as_os_str().len() > ROOM {
        // It keeps those that are long. Layers were written so, and are to be the same again.
        return builder.append_link(header, path, target);
    }
    long(builder, EntryType::GNULongLink, bytes)?;
    append_data(builder, header, path, io::empty())
}

/// Writes the extended attributes of the entry that comes next, as PAX records.
///
/// # Errors
/// The writer's.
pub fn append_attributes(builder: &mut Builder<impl Write>, attributes: &[(OsString, Vec<u8>)]) -> io::Result<()> {
    let mut records = Vec::new();
    for (name, value) in attributes {
        // A space, `=` and the line feed.
        let body = [b" SCHILY.xattr.", name.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = body.len() + 1;
        while body.len() + length.to_string().len() != length {
            length = body.len() + length.to_string().len();
        }
        records.extend(length.to_string().bytes().chain(body));
    }
    if records.is_empty() {
        return Ok(());
    }
    let mut header = Header::new_ustar();
    header.set_size(records.len() as u64);
    header.set_entry_type(EntryType::XHeader);
    header.set_cksum();
    builder.append(&header, &records[..])
}

/// Appends what another archive has under another name.
///
/// # Errors
/// The reader's and the writer's.
pub fn append_entry(
    builder: &mut Builder<impl Write>,
    head: &EntryHead,
    (path, link): (&Path, &Path),
    content: impl Read,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(match head.kind {
        EntryKind::Regular => EntryType::Regular,
        EntryKind::Directory => EntryType::Directory,
        EntryKind::Symlink => EntryType::Symlink,
        EntryKind::HardLink => EntryType::Link,
        EntryKind::Character => EntryType::Char,
        EntryKind::Block => EntryType::Block,
        EntryKind::Fifo => EntryType::Fifo,
        EntryKind::Other(kind) => EntryType::new(kind),
    });
    let wrong = |_| io::Error::new(io::ErrorKind::InvalidData, format!("{} has a negative number", head.path.display()));
    header.set_mode(head.mode);
    header.set_uid(head.uid.try_into().map_err(wrong)?);
    header.set_gid(head.gid.try_into().map_err(wrong)?);
    header.set_size(head.size);
    set_time(&mut header, head.mtime.0);
    if matches!(head.kind, EntryKind::Character | EntryKind::Block) {
        header.set_device_major(head.device.0.try_into().map_err(wrong)?)?;
        header.set_device_minor(head.device.1.try_into().map_err(wrong)?)?;
    }
    append_attributes(builder, &head.attributes)?;
    match head.kind {
        EntryKind::Symlink | EntryKind::HardLink => append_link(builder, &mut header, path, link),
        _ => append_data(builder, &mut header, path, content),
    }
}

/// Sets the time of modification, in seconds from 1970. Earlier ones are in GNU's numbers of base 256, as large ones are.
pub fn set_time(header: &mut Header, seconds: i64) {
    match u64::try_from(seconds) {
        Ok(seconds) => header.set_mtime(seconds),
        Err(_) => {
            let (sign, number) = header.as_old_mut().mtime.split_at_mut(4);
            sign.fill(0xff);
            number.copy_from_slice(&seconds.to_be_bytes());
        }
    }
}

fn is_refused(path: &Path) -> bool {
    let path = path.as_os_str().as_bytes();
    path.get(..ROOM).is_some_and(|first| path.len() > ROOM && std::str::from_utf8(first).is_err_and(|e| e.valid_up_to() == 0))
}

/// Puts a long path before the entry, and what there is room for into its header.
fn name(builder: &mut Builder<impl Write>, header: &mut Header, path: &Path) -> io::Result<()> {
    let path = path.as_os_str().as_bytes();
    long(builder, EntryType::GNULongName, path)?;
    header.as_old_mut().name.copy_from_slice(&path[..ROOM]);
    Ok(())
}

/// An entry of GNU's whose content is a text for the next one, with a NUL at its end.
fn long(builder: &mut Builder<impl Write>, kind: EntryType, text: &[u8]) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(text.len() as u64 + 1);
    header.set_cksum();
    builder.append(&header, text.chain(&b"\0"[..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::entries::Entries;
    use std::ffi::OsStr;

    #[test]
    fn a_path_of_any_bytes_is_kept() {
        let long = |begin: &[u8]| [begin, &b"x".repeat(120)[..]].concat();
        let target = long(b"\xe9/");
        for path in
            [long(b"\xe9t\xe9/"), long(b"\xc3\xa9/"), long(b"a\xe9/"), b"\xe9".to_vec(), b"\xff".repeat(100), b"\xff".repeat(101)]
        {
            let place = Path::new(OsStr::from_bytes(&path));
            let mut builder = Builder::new(Vec::new());
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Regular);
            header.set_size(2);
            append_data(&mut builder, &mut header, place, &b"hi"[..]).expect("a file");
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            append_link(&mut builder, &mut header, place, Path::new(OsStr::from_bytes(&target))).expect("a link");
            let bytes = builder.into_inner().expect("an archive");
            let mut found = Vec::new();
            let read = Entries::new(&bytes[..]).each(std::convert::identity, |entry| {
                let mut content = String::new();
                entry.read_to_string(&mut content)?;
                found.push((entry.head.path.clone(), entry.head.link.clone(), content));
                Ok(())
            });
            read.expect("an archive");
            let target = PathBuf::from(OsStr::from_bytes(&target));
            assert_eq!(found, [(place.into(), PathBuf::new(), "hi".into()), (place.into(), target, String::new())]);
        }
    }
}
