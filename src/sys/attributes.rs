//! Extended attributes (xattr(7)) of files and directories that are copied.
//!
//! A copy has those that belong to the file: `user.*`, capabilities and other `security.*`, and POSIX ACLs. The rest is about the disk
//! where the file lies: `trusted.*` and `user.overlay.*` say how overlayfs reads its layers, and a host's security modules label each
//! file themselves. Symlinks and devices have neither `user.*` nor capabilities.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use xattr::FileExt;

/// Bytes of all attributes of one file, which are in memory together. What is written to an archive is to be read again: an entry's
/// headers may have twice as many there.
pub const MAX_ATTRIBUTES: usize = 512 << 10;

const ACCESS_LIST: &str = "system.posix_acl_access";
const DEFAULT_LIST: &str = "system.posix_acl_default";

/// What security modules of a host give each file: labels, and signatures that hold for one inode.
const LABELS: [&str; 5] = ["security.selinux", "security.SMACK64", "security.apparmor", "security.evm", "security.ima"];

/// The attributes of one file that its copy is to have, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopiedAttributes(Vec<(OsString, Vec<u8>)>);

/// A descriptor whose attributes are read or set.
struct AttributeHolder<'a>(BorrowedFd<'a>);

impl AsRawFd for AttributeHolder<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl FileExt for AttributeHolder<'_> {}

impl CopiedAttributes {
    /// The attributes of a file or directory that is open for reading. A file system that has none is no error.
    ///
    /// # Errors
    /// The kernel's, and where they have more than [`MAX_ATTRIBUTES`] bytes.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        let file = AttributeHolder(file.as_fd());
        read(file.list_xattr(), |name| file.get_xattr(name), is_copied).map(CopiedAttributes)
    }

    /// Those that somebody says a file has: what a copy never has is left out.
    ///
    /// # Errors
    /// Where they have more than [`MAX_ATTRIBUTES`] bytes.
    pub fn given<'a>(names_and_values: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> io::Result<Self> {
        let all = names_and_values.into_iter().map(|(name, value)| (OsStr::from_bytes(name), value));
        let mut all: Vec<_> =
            all.filter(|(name, _)| is_copied(name)).map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
        all.sort_unstable();
        let all = CopiedAttributes(all);
        if all.bytes() > MAX_ATTRIBUTES { Err(too_many()) } else { Ok(all) }
    }

    /// Bytes of all names and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Those of a file whose mode is not the source's: an access list has a mode of its own, and would bring it back.
    #[must_use]
    pub fn without_access_list(mut self) -> Self {
        self.0.retain(|(name, _)| name != ACCESS_LIST);
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_slice()))
    }

    /// Sets them on an open file or directory. This comes after a change of its owner, which takes capabilities away. A file system
    /// that has no such attributes goes without them.
    ///
    /// # Errors
    /// The kernel's, with the attribute's name: what a file may do, or who may read it, must not get lost without a word.
    pub fn set_on(&self, file: impl AsFd) -> io::Result<()> {
        let file = AttributeHolder(file.as_fd());
        for (name, value) in &self.0 {
            match file.set_xattr(name, value) {
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(e) => return Err(io::Error::new(e.kind(), format!("its extended attribute {}: {e}", name.display()))),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

/// The attributes of a file that are wanted, in the order of their names. A file system that has none is no error.
///
/// # Errors
/// The kernel's, and where they have more than [`MAX_ATTRIBUTES`] bytes.
pub fn read(
    names: io::Result<xattr::XAttrs>,
    get: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>,
    is_wanted: impl Fn(&OsStr) -> bool,
) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let names = match names {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let (mut all, mut bytes) = (Vec::new(), 0);
    for name in names.filter(|name| is_wanted(name)) {
        // One that was removed meanwhile is none.
        let Some(value) = get(&name)? else { continue };
        bytes += name.len() + value.len();
        if bytes > MAX_ATTRIBUTES {
            return Err(too_many());
        }
        all.push((name, value));
    }
    all.sort_unstable();
    Ok(all)
}

fn too_many() -> io::Error {
    io::Error::other(format!(
        "the extended attributes of one file have more than {MAX_ATTRIBUTES} bytes: remove some with `setfattr -x`"
    ))
}

/// Whether a copy has the attribute of this name.
fn is_copied(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let of = |prefix: &str| name.starts_with(prefix.as_bytes());
    match name {
        _ if of("user.") => !of("user.overlay."),
        _ if of("security.") => !LABELS.into_iter().any(of),
        name => name == ACCESS_LIST.as_bytes() || name == DEFAULT_LIST.as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::path::Path;

    /// CAP_NET_BIND_SERVICE, permitted and effective.
    const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> = xattr::list(path).unwrap().map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_copy_has_what_belongs_to_the_file() {
        let outer = tempfile::tempdir().unwrap();
        let (from, to) = (outer.path().join("from"), outer.path().join("to"));
        for path in [&from, &to] {
            std::fs::write(path, "").unwrap();
        }
        let lines: &[u8] = b"two\nlines\0\xff";
        let given: [(&str, &[u8]); 5] = [
            ("user.a", lines),
            ("security.capability", &CAPABILITY),
            ("user.overlay.opaque", b"y"),
            ("trusted.overlay.opaque", b"y"),
            ("trusted.other", b"x"),
        ];
        for (name, value) in given {
            xattr::set(&from, name, value).unwrap();
        }
        let attributes = CopiedAttributes::of(File::open(&from).unwrap()).unwrap();
        chown(&to, Some(7), Some(7)).unwrap();
        attributes.set_on(File::options().write(true).open(&to).unwrap()).unwrap();
        assert_eq!(names(&to), ["security.capability", "user.a"]);
        assert_eq!(xattr::get(&to, "user.a").unwrap().unwrap(), lines);
        assert_eq!(xattr::get(&to, "security.capability").unwrap().unwrap(), CAPABILITY);
        for name in
            ["security.selinux", "security.SMACK64EXEC", "security.evm", "system.nfs4_acl", "trusted.x", "btrfs.compression"]
        {
            assert!(!is_copied(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_mode_that_was_asked_for_is_not_that_of_an_access_list() {
        let outer = tempfile::tempdir().unwrap();
        // A list of version 2: rw- for the owner and for the user 1000, --- for the group, rw- for the mask, --- for others.
        let entry = |tag: u16, permissions: u16, id: u32| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes()[..], &id.to_le_bytes()[..]].concat()
        };
        let entries = [entry(1, 6, !0), entry(2, 6, 1000), entry(4, 0, !0), entry(16, 6, !0), entry(32, 0, !0)];
        let list = [&2u32.to_le_bytes()[..], &entries.concat()].concat();
        let path = |name: &str| outer.path().join(name);
        for name in ["from", "all", "without"] {
            std::fs::write(path(name), "").unwrap();
            std::fs::set_permissions(path(name), Permissions::from_mode(0o600)).unwrap();
        }
        xattr::set(path("from"), ACCESS_LIST, &list).unwrap();
        let attributes = CopiedAttributes::of(File::open(path("from")).unwrap()).unwrap();
        attributes.set_on(File::open(path("all")).unwrap()).unwrap();
        attributes.without_access_list().set_on(File::open(path("without")).unwrap()).unwrap();
        let mode = |name: &str| std::fs::metadata(path(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("from"), mode("all"), mode("without")), (0o660, 0o660, 0o600));
        assert_eq!((names(&path("all")), names(&path("without"))), (vec![ACCESS_LIST.to_string()], vec![]));
    }

    #[test]
    fn attributes_have_a_bound_and_a_name_in_errors() {
        // tmpfs takes many large ones.
        let outer = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = outer.path().join("file");
        std::fs::write(&path, "").unwrap();
        for n in 0..9 {
            xattr::set(&path, format!("security.test{n}"), &[0; 60_000]).unwrap();
        }
        let refused = CopiedAttributes::of(File::open(&path).unwrap()).unwrap_err().to_string();
        assert!(refused.contains("524288 bytes"), "{refused}");
        let broken = CopiedAttributes(vec![("security.capability".into(), vec![1])]);
        let refused = broken.set_on(File::open(&path).unwrap()).unwrap_err().to_string();
        assert!(refused.contains("security.capability"), "{refused}");
        // procfs has none.
        assert!(CopiedAttributes::of(File::open("/proc/version").unwrap()).unwrap().is_empty());
        CopiedAttributes(vec![("user.a".into(), vec![1])]).set_on(File::open("/proc/version").unwrap()).unwrap();
    }
}
