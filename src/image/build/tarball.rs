//! A layer's directory as the tar stream that its diff id is the digest of: the same bytes each time.

use super::files::FoundFile;
use super::first_names::FirstNames;
use super::ignore::Patterns;
use super::walk::Walk;
use crate::image::digest::{DiffId, Hashing};
use crate::image::pack::{append_content, header_of, unless_changed, with_slash};
use crate::image::tar_paths::{append_attributes, append_data, append_link, write_archive};
use crate::sys::attributes;
use crate::sys::regular::open_regular_at;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstat, utimensat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tar::{Builder, EntryType, Header};
use xattr::FileExt;

/// Entries and bytes of a directory, counted while it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TarballSize {
    /// Bytes of the files.
    pub bytes: u64,
    pub entries: u64,
}

/// Writes the tar of a layer's directory: names in order, overlayfs's whiteouts as those of the OCI image specification.
///
/// # Errors
/// The disk's, or the writer's.
pub fn write(directory: &Path, out: impl Write) -> io::Result<TarballSize> {
    let root = File::open(directory)?;
    write_archive(out, |builder| {
        let mut writer = TarWriter { builder, links: FirstNames::default(), counted: TarballSize::default() };
        let none = Patterns::default();
        let mut walk = Walk::new(root.as_fd(), Path::new(""), &none)?;
        while let Some(found) = walk.next().transpose()? {
            if let Some(place) = unless_changed(walk.place(&found))? {
                writer.file(place, &found)?;
            }
        }
        Ok(writer.counted)
    })
}

/// The archive that [`write`] would write.
#[derive(Clone, Debug)]
pub struct Archive {
    pub diff_id: DiffId,
    /// Bytes.
    pub length: u64,
    pub counted: TarballSize,
}

/// The digest and size of the tar of a layer's directory, without keeping it.
///
/// # Errors
/// The disk's.
pub fn digest(directory: &Path) -> io::Result<Archive> {
    let mut hashing = Hashing::sha256(io::sink());
    let counted = write(directory, io::BufWriter::with_capacity(1 << 18, &mut hashing))?;
    let length = hashing.length();
    let diff_id = hashing.finish().1.try_into().map_err(io::Error::other)?;
    Ok(Archive { diff_id, length, counted })
}

struct TarWriter<'a, W: Write> {
    builder: &'a mut Builder<W>,
    links: FirstNames,
    counted: TarballSize,
}

impl<W: Write> TarWriter<'_, W> {
    /// What was there, or was of another kind, a moment ago is left out: a container that an image is made of may go on.
    fn file(&mut self, (directory, name): (BorrowedFd<'_>, &Path), found: &FoundFile) -> io::Result<()> {
        let stat = &found.stat;
        let kind = match found.kind() {
            SFlag::S_IFDIR => EntryType::Directory,
            SFlag::S_IFLNK => EntryType::Symlink,
            SFlag::S_IFREG => EntryType::Regular,
            SFlag::S_IFIFO => EntryType::Fifo,
            SFlag::S_IFBLK => EntryType::Block,
            SFlag::S_IFCHR if stat.st_rdev == 0 => {
                let mut hidden = OsString::from(".wh.");
                hidden.push(name);
                return self.marker(&found.path.with_file_name(hidden));
            }
            SFlag::S_IFCHR => EntryType::Char,
            // A socket is of a process that is gone.
            _ => return Ok(()),
        };
        let mut header = header_of(kind, stat)?;
        let has_names = !matches!(kind, EntryType::Directory | EntryType::Symlink) && stat.st_nlink > 1;
        if let Some(first) = self.links.of(stat).filter(|_| has_names) {
            header.set_entry_type(EntryType::Link);
            self.counted.entries += 1;
            return append_link(self.builder, &mut header, &found.path, &first);
        }
        match kind {
            EntryType::Regular => {
                let Some(file) = unless_changed(open_regular_at(directory, name))? else { return Ok(()) };
                // Another one may be in its place by now.
                let stat = fstat(&file)?;
                let mut header = header_of(kind, &stat)?;
                let attributes = extended_attributes(file.list_xattr(), |name| file.get_xattr(name))?;
                self.opened(&FoundFile { stat, ..found.clone() }, has_names)?;
                self.counted.bytes += stat.st_size.max(0) as u64;
                append_attributes(self.builder, &attributes)?;
                append_content(self.builder, &mut header, &found.path, (&file, &stat))
            }
            EntryType::Directory => {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = openat(directory, name, flags, Mode::empty()).map_err(io::Error::from);
                let Some(file) = unless_changed(file)?.map(File::from) else { return Ok(()) };
                self.opened(found, false)?;
                append_attributes(self.builder, &extended_attributes(file.list_xattr(), |name| file.get_xattr(name))?)?;
                append_data(self.builder, &mut header, Path::new(&with_slash(&found.path)), io::empty())?;
                match file.get_xattr("trusted.overlay.opaque") {
                    Ok(Some(value)) if value == b"y" => self.marker(&found.path.join(".wh..wh..opq")),
                    _ => Ok(()),
                }
            }
            _ => {
                // Neither a symlink nor a device is opened; procfs's link leads to what was found.
                let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let node = openat(directory, name, flags, Mode::empty()).map_err(io::Error::from);
                let Some(node) = unless_changed(node)? else { return Ok(()) };
                let target = match kind {
                    // Of the node that was opened: it has no other target.
                    EntryType::Symlink => Some(readlinkat(&node, "")?),
                    _ => None,
                };
                self.opened(found, has_names)?;
                let link = format!("/proc/self/fd/{}", node.as_raw_fd());
                let attributes = extended_attributes(xattr::list_deref(&link), |name| xattr::get_deref(&link, name))?;
                append_attributes(self.builder, &attributes)?;
                if let Some(target) = target {
                    return append_link(self.builder, &mut header, &found.path, Path::new(&target));
                }
                append_data(self.builder, &mut header, &found.path, io::empty())
            }
        }
    }

    /// Takes note of an entry that will be in the archive.
    fn opened(&mut self, found: &FoundFile, has_names: bool) -> io::Result<()> {
        self.counted.entries += 1;
        if has_names { self.links.keep(&found.stat, &found.path) } else { Ok(()) }
    }

    fn marker(&mut self, path: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0);
        header.set_size(0);
        self.counted.entries += 1;
        append_data(self.builder, &mut header, path, io::empty())
    }
}

/// Capabilities and the like, in the order of their names; overlayfs's own are about this disk alone.
///
/// # Errors
/// The file system's; one that has no such attributes is none.
pub fn extended_attributes(
    names: io::Result<xattr::XAttrs>,
    get: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>,
) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    attributes::read(names, get, |name| {
        let name = name.as_bytes();
        !(name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") || name == b"security.selinux")
    })
}

/// Makes the times of a layer no later than one: what was built at another time is then the same.
///
/// # Errors
/// The disk's.
pub fn clamp_times(directory: &Path, epoch: i64) -> io::Result<()> {
    let (root, none) = (File::open(directory)?, Patterns::default());
    let time = nix::sys::time::TimeSpec::new(epoch, 0);
    let mut walk = Walk::new(root.as_fd(), Path::new(""), &none)?;
    while let Some(found) = walk.next().transpose()? {
        if found.stat.st_mtime >= epoch {
            let (directory, name) = walk.place(&found)?;
            utimensat(directory, name, &time, &time, UtimensatFlags::NoFollowSymlink)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_layer_is_the_same_after_a_tar_and_back() {
        let outer = tempfile::tempdir().expect("dir");
        let one = outer.path().join("one");
        fs::create_dir_all(one.join("d/e")).expect("dirs");
        fs::write(one.join("d/file"), "content").expect("file");
        fs::hard_link(one.join("d/file"), one.join("d/link")).expect("link");
        std::os::unix::fs::symlink("../x", one.join("d/symlink")).expect("symlink");
        fs::set_permissions(one.join("d/file"), fs::Permissions::from_mode(0o4750)).expect("mode");
        let hidden = one.join("gone");
        nix::sys::stat::mknod(&hidden, nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::empty(), 0).expect("whiteout");
        xattr::set(one.join("d/e"), "trusted.overlay.opaque", b"y").expect("opaque");
        let mut first = Vec::new();
        let counted = write(&one, &mut first).expect("tar");
        assert_eq!(counted.bytes, 7);
        let two = outer.path().join("two");
        fs::create_dir(&two).expect("dir");
        let root = File::open(&two).expect("open");
        crate::image::unpack::apply(first.as_slice(), std::os::fd::AsFd::as_fd(&root)).expect("unpacks");
        let mut second = Vec::new();
        write(&two, &mut second).expect("tar");
        assert!(first == second, "the same bytes");
    }
}
