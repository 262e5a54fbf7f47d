//! Id-mapped bind mounts: the owner of a mount's source is a user of the container there, and the reverse. Nobody else is mapped:
//! the files of others are nobody's in the container, and whoever is not that user makes none (EOVERFLOW), as with Docker.

use super::mounts::is_directory;
use crate::runtime::error::{Doing, InStep, SetupStep, StepFailed};
use crate::runtime::user::{self, Identity};
use crate::sys::userns::{self, MappedId};
use crate::sys::{self, Recursive};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use oci_spec::runtime::Mount;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The users whom the owners of bind mounts become, by the mounts' destinations.
pub(super) struct IdMaps {
    users: Vec<(PathBuf, Identity)>,
    /// The container's own user, where one of them is.
    own: Option<(u32, u32)>,
}

impl IdMaps {
    /// Looks the users up in the image's own files, before anything is mounted, as Docker does.
    pub(super) fn find(root: BorrowedFd<'_>, id_maps: &[(PathBuf, String)], own_user: &str) -> Result<Self, StepFailed> {
        let mut maps = IdMaps { users: Vec::new(), own: None };
        for (destination, user) in id_maps {
            let name = if user.is_empty() { own_user } else { user };
            let identity = user::lookup(root, name, &[]).in_step(SetupStep::User)?;
            if user.is_empty() {
                maps.own = Some((identity.uid, identity.gid));
            }
            maps.users.push((destination.clone(), identity));
        }
        Ok(maps)
    }

    /// Refuses a container whose user is another one by a passwd that is mounted: the mounts have been made for the image's.
    pub(super) fn check(&self, identity: &Identity) -> Result<(), StepFailed> {
        match self.own {
            Some((uid, gid)) if (uid, gid) != (identity.uid, identity.gid) => Err(StepFailed::because(
                "mapping the owner of a bind mount to the container's user",
                format!(
                    "that is {uid}:{gid} in the image, and {}:{} by the /etc/passwd or /etc/group that is mounted: write `idmap: match-user:UID:GID`",
                    identity.uid, identity.gid
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Maps the tree of a bind mount that is attached nowhere yet, if it is one of them.
    pub(super) fn apply(&self, entry: &Mount, tree: BorrowedFd<'_>, recursive: Recursive) -> Result<(), StepFailed> {
        let Some((_, user)) = self.users.iter().find(|(destination, _)| destination == entry.destination()) else {
            return Ok(());
        };
        let source = entry.source().as_deref().unwrap_or(Path::new(""));
        // Of what is mounted, and not of the path, which may be another file by now.
        let doing = |owner: &str| {
            let (source, destination) = (source.display(), entry.destination().display());
            format!("mapping the owner of {source}{owner} to {}:{} on {destination}", user.uid, user.gid)
        };
        let owner = fstat(tree).doing(doing(""))?;
        let doing = doing(&format!(" ({}:{})", owner.st_uid, owner.st_gid));
        let uid = MappedId { stored: owner.st_uid, seen: user.uid };
        let gid = MappedId { stored: owner.st_gid, seen: user.gid };
        let namespace = userns::of_one(uid, gid).map_err(|error| match sys::errno(&error) {
            Errno::ENOSPC | Errno::EPERM => {
                StepFailed::because(&doing, format!("no user namespace can be made ({error}); see user.max_user_namespaces"))
            }
            _ => StepFailed::new(&doing, error),
        })?;
        sys::map_ids(tree, namespace.as_fd(), recursive).map_err(|error| match sys::errno(&error) {
            Errno::EINVAL | Errno::EPERM => StepFailed::because(&doing, refusal(source, tree, &namespace, recursive)),
            _ => StepFailed::new(&doing, error),
        })
    }
}

/// Which file system refuses to be mapped.
fn refusal(source: &Path, tree: BorrowedFd<'_>, namespace: &OwnedFd, recursive: Recursive) -> String {
    const HINT: &str = "ext4, XFS, Btrfs and others can, tmpfs since Linux 6.3";
    let whole = std::fs::canonicalize(source).unwrap_or_else(|_| source.into());
    let mounts = mounts_of_this_process();
    let on = |path: &Path| mounts.iter().rev().find(|mount| path.starts_with(&mount.point));
    let of = |mount: Option<&Mounted>| mount.map_or_else(|| "its file system".to_string(), |mount| mount.kind.clone());
    if let Err(error) = try_map(&whole, namespace) {
        return match sys::errno(&error) {
            Errno::EPERM => "it is an id-mapped mount already, which the kernel maps once".into(),
            _ => format!("{} cannot map owners; {HINT}", of(on(&whole))),
        };
    }
    let below = mounts.iter().filter(|mount| recursive == Recursive::Yes && mount.point.starts_with(&whole));
    let culprit = below.into_iter().find(|mount| mount.point != whole && try_map(&mount.point, namespace).is_err());
    match culprit {
        Some(mount) => format!(
            "{} on {}, below it, cannot map owners; {HINT}: unmount it, or write `bind: {{recursive: disabled}}` to leave it out",
            mount.kind,
            mount.point.display()
        ),
        None if is_directory(tree).unwrap_or(true) => format!("a mount below it cannot map owners; {HINT}"),
        None => format!("its file system cannot map owners; {HINT}"),
    }
}

fn try_map(path: &Path, namespace: &OwnedFd) -> io::Result<()> {
    let whole = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let tree = sys::open_tree(whole.as_fd(), Path::new(""), Recursive::No)?;
    sys::map_ids(tree.as_fd(), namespace.as_fd(), Recursive::No)
}

struct Mounted {
    point: PathBuf,
    kind: String,
}

/// The mounts that this process sees, in the order in which they were made.
fn mounts_of_this_process() -> Vec<Mounted> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|byte| *byte == b'\n').filter_map(mounted).collect()
}

/// A line of mountinfo: `ID PARENT DEVICE ROOT POINT OPTIONS... - TYPE SOURCE OPTIONS`.
fn mounted(line: &[u8]) -> Option<Mounted> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(fields.get(dash + 1)?).into_owned();
    Some(Mounted { point: unescaped(fields.get(4)?), kind })
}

/// A path without its octal escapes.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn mountinfo_is_read() {
        let line = br"36 35 98:0 / /mnt/with\040space\134x rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let mount = mounted(line).expect("a line");
        assert_eq!((mount.point.as_os_str().as_bytes(), mount.kind.as_str()), (br"/mnt/with space\x".as_slice(), "ext3"));
        assert!(mounted(b"").is_none() && mounted(b"1 2 3 4 5 -").is_none());
    }
}
