//! Paths of any bytes in tar archives that are written.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tar::{Builder, EntryType, Header};

/// Bytes of the name in a header, and of a link's target.
const ROOM: usize = 100;

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

/// The same of a link.
///
/// # Errors
/// The writer's.
pub fn append_link(builder: &mut Builder<impl Write>, header: &mut Header, path: &Path, target: &Path) -> io::Result<()> {
    if !is_refused(path) {
        return builder.append_link(header, path, target);
    }
    name(builder, header, path)?;
    let target = target.as_os_str().as_bytes();
    if target.len() > ROOM {
        long(builder, EntryType::GNULongLink, target)?;
    } else {
        header.set_link_name_literal(target)?;
    }
    header.set_cksum();
    builder.append(header, io::empty())
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
            let mut archive = tar::Archive::new(&bytes[..]);
            let mut entries = archive.entries().expect("entries");
            let mut file = entries.next().expect("a file").expect("right");
            let mut content = String::new();
            file.read_to_string(&mut content).expect("content");
            assert_eq!((file.path_bytes().as_ref(), content.as_str()), (&path[..], "hi"));
            let link = entries.next().expect("a link").expect("right");
            assert_eq!(
                (link.path_bytes().as_ref(), link.link_name_bytes().expect("a target").as_ref()),
                (&path[..], &target[..])
            );
        }
    }
}
