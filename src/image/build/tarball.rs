//! A layer's directory as the tar stream that its diff id is the digest of: the same bytes each time.

use crate::image::digest::{DiffId, Hashing};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// What a directory holds, counted while it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Bytes of the files.
    pub bytes: u64,
    pub entries: u64,
}

/// Writes the tar of a layer's directory: names in order, overlayfs's whiteouts as those of the OCI image specification.
///
/// # Errors
/// The disk's, or the writer's.
pub fn write(directory: &Path, out: impl Write) -> io::Result<Counted> {
    let mut builder = Builder::new(out);
    builder.mode(tar::HeaderMode::Complete);
    let mut writer = Writer { root: directory, links: HashMap::new(), counted: Counted::default() };
    writer.directory(&mut builder, Path::new(""))?;
    builder.finish()?;
    Ok(writer.counted)
}

/// The archive that [`write`] would write.
#[derive(Clone, Debug)]
pub struct Archive {
    pub diff_id: DiffId,
    /// Bytes.
    pub length: u64,
    pub counted: Counted,
}

/// What the tar of a layer's directory would be, without keeping it.
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

struct Writer<'a> {
    root: &'a Path,
    /// The first name of a file that has several.
    links: HashMap<(u64, u64), PathBuf>,
    counted: Counted,
}

impl Writer<'_> {
    fn directory(&mut self, builder: &mut Builder<impl Write>, path: &Path) -> io::Result<()> {
        let place = self.root.join(path);
        if matches!(xattr::get(&place, "trusted.overlay.opaque"), Ok(Some(value)) if value == b"y") && path != Path::new("") {
            self.marker(builder, &path.join(".wh..wh..opq"))?;
        }
        let mut names: Vec<OsString> =
            fs::read_dir(&place)?.map(|entry| entry.map(|e| e.file_name())).collect::<Result<_, _>>()?;
        names.sort();
        for name in names {
            let child = path.join(&name);
            let metadata = fs::symlink_metadata(self.root.join(&child))?;
            let kind = metadata.file_type();
            if kind.is_char_device() && metadata.rdev() == 0 {
                let mut hidden = OsString::from(".wh.");
                hidden.push(&name);
                self.marker(builder, &path.join(hidden))?;
            } else if kind.is_dir() {
                self.entry(builder, &child, &metadata, EntryType::Directory, None)?;
                self.directory(builder, &child)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(self.root.join(&child))?;
                self.entry(builder, &child, &metadata, EntryType::Symlink, Some(&target))?;
            } else if metadata.nlink() > 1 && self.links.contains_key(&(metadata.dev(), metadata.ino())) {
                let first = self.links[&(metadata.dev(), metadata.ino())].clone();
                self.entry(builder, &child, &metadata, EntryType::Link, Some(&first))?;
            } else {
                if metadata.nlink() > 1 {
                    self.links.insert((metadata.dev(), metadata.ino()), child.clone());
                }
                let kind = match () {
                    () if kind.is_file() => EntryType::Regular,
                    () if kind.is_fifo() => EntryType::Fifo,
                    () if kind.is_char_device() => EntryType::Char,
                    () if kind.is_block_device() => EntryType::Block,
                    // A socket is of a process that is gone.
                    () => continue,
                };
                self.entry(builder, &child, &metadata, kind, None)?;
            }
        }
        Ok(())
    }

    fn marker(&mut self, builder: &mut Builder<impl Write>, path: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0);
        header.set_size(0);
        self.counted.entries += 1;
        builder.append_data(&mut header, path, io::empty())
    }

    fn entry(
        &mut self,
        builder: &mut Builder<impl Write>,
        path: &Path,
        metadata: &Metadata,
        kind: EntryType,
        target: Option<&Path>,
    ) -> io::Result<()> {
        let place = self.root.join(path);
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(metadata.permissions().mode() & 0o7777);
        header.set_uid(u64::from(metadata.uid()));
        header.set_gid(u64::from(metadata.gid()));
        header.set_mtime(metadata.mtime().max(0) as u64);
        header.set_size(if kind == EntryType::Regular { metadata.size() } else { 0 });
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(nix::sys::stat::major(metadata.rdev()) as u32)?;
            header.set_device_minor(nix::sys::stat::minor(metadata.rdev()) as u32)?;
        }
        if kind != EntryType::Link {
            let extended = extended_attributes(xattr::list(&place), |name| xattr::get(&place, name))?;
            if !extended.is_empty() {
                builder.append_pax_extensions(extended.iter().map(|(name, value)| (name.as_str(), value.as_slice())))?;
            }
        }
        self.counted.entries += 1;
        self.counted.bytes += header.size().unwrap_or(0);
        match (kind, target) {
            (_, Some(target)) => builder.append_link(&mut header, path, target),
            (EntryType::Regular, None) => builder.append_data(&mut header, path, File::open(&place)?.take(metadata.size())),
            (EntryType::Directory, None) => {
                let mut name = path.as_os_str().to_owned();
                name.push("/");
                builder.append_data(&mut header, Path::new(&name), io::empty())
            }
            _ => builder.append_data(&mut header, path, io::empty()),
        }
    }
}

/// Capabilities and the like, as PAX records; overlayfs's own are about this disk alone.
///
/// # Errors
/// The file system's; one that has no such attributes is none.
pub fn extended_attributes(
    names: io::Result<xattr::XAttrs>,
    get: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>,
) -> io::Result<Vec<(String, Vec<u8>)>> {
    let names = match names {
        Ok(names) => names,
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut all = Vec::new();
    for name in names {
        let text = String::from_utf8_lossy(name.as_bytes()).into_owned();
        if text.starts_with("trusted.overlay.") || text.starts_with("user.overlay.") || text == "security.selinux" {
            continue;
        }
        if let Some(value) = get(&name)? {
            all.push((format!("{}{text}", crate::image::unpack::XATTR), value));
        }
    }
    all.sort();
    Ok(all)
}

/// Makes the times of a layer no later than one: what was built at another time is then the same.
///
/// # Errors
/// The disk's.
pub fn clamp_times(directory: &Path, epoch: i64) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = fs::symlink_metadata(entry.path())?;
        if metadata.is_dir() {
            clamp_times(&entry.path(), epoch)?;
        }
        if metadata.mtime() >= epoch {
            let time = nix::sys::time::TimeSpec::new(epoch, 0);
            nix::sys::stat::utimensat(
                nix::fcntl::AT_FDCWD,
                &entry.path(),
                &time,
                &time,
                nix::sys::stat::UtimensatFlags::NoFollowSymlink,
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
