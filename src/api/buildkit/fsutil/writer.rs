//! A directory made of the packets of a sender, who may be hostile: every name is resolved beneath the new directory without
//! following a link, and what has to be remembered is bounded.

use super::{Packet, PacketType, Stat, go_mode};
use crate::printable;
use crate::sys::attributes::CopiedAttributes;
use crate::sys::{Beneath, open_beneath};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{LinkatFlags, linkat, symlinkat};
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Files whose content is on its way at a time, each an open file.
pub const AT_ONCE: usize = 32;
/// Entries of a directory, with all that is below it.
const MAX_ENTRIES: u32 = 2_000_000;
/// Bytes of the names and extended attributes that wait for their content.
const MAX_WAITING: usize = 32 << 20;
/// Bytes that one entry which waits takes besides its name.
const ENTRY: usize = 48;
const MAX_PATH: usize = 4095;

/// Why a directory was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{}: {why}", printable::line(.path))]
    Refused { path: String, why: String },
    #[error("writing {}: {source}", printable::line(.path))]
    Write { path: String, source: io::Error },
    #[error("the client says: {}", printable::line(.0))]
    Sender(String),
    #[error("{0}")]
    Protocol(&'static str),
    #[error("the client has left in the middle")]
    Cut,
}

/// A file whose content is on its way.
struct Arriving {
    file: File,
    path: PathBuf,
    time: TimeSpec,
    attributes: CopiedAttributes,
}

/// A file whose content is to be asked for.
struct Awaited {
    id: u32,
    path: PathBuf,
    time: i64,
    attributes: CopiedAttributes,
}

/// A directory that is being written.
pub struct Writer {
    root: OwnedFd,
    /// The directory of the entry before, which most entries lie beside.
    parent: Option<(PathBuf, OwnedFd)>,
    /// The directories that the walk is in, whose times are set when it leaves them.
    open_directories: Vec<(PathBuf, TimeSpec)>,
    waiting: VecDeque<Awaited>,
    waiting_bytes: usize,
    arriving: HashMap<u32, Arriving>,
    entries: u32,
    /// All STATs have come.
    walked: bool,
}

impl Writer {
    /// `root` is an empty directory.
    #[must_use]
    pub fn new(root: OwnedFd) -> Self {
        Writer {
            root,
            parent: None,
            open_directories: Vec::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            arriving: HashMap::new(),
            entries: 0,
            walked: false,
        }
    }

    /// Makes the directory of what a sender says, and asks for the content of files. Gives the number of entries.
    ///
    /// # Errors
    /// When a packet cannot be, a file cannot be written, or the packets or the asking end too early.
    pub fn run(
        mut self,
        packets: impl Iterator<Item = Packet>,
        mut ask: impl FnMut(Packet) -> Result<(), WriteError>,
    ) -> Result<u32, WriteError> {
        let mut finished = false;
        let mut ask = |kind: PacketType, id: u32| ask(Packet { r#type: kind.into(), id, ..Packet::default() });
        for packet in packets {
            match PacketType::try_from(packet.r#type) {
                Ok(PacketType::PacketStat) if self.walked => return Err(WriteError::Protocol("a file comes after the last")),
                Ok(PacketType::PacketStat) => match packet.stat {
                    Some(stat) => self.entry(stat)?,
                    None => {
                        self.walked = true;
                        self.leave_directories(Path::new(""), true)?;
                    }
                },
                Ok(PacketType::PacketData) => self.data(packet.id, &packet.data)?,
                Ok(PacketType::PacketErr) => return Err(WriteError::Sender(String::from_utf8_lossy(&packet.data).into_owned())),
                Ok(PacketType::PacketFin) if finished => return Ok(self.entries),
                Ok(PacketType::PacketFin) => return Err(WriteError::Protocol("the end comes too early")),
                Ok(PacketType::PacketReq) | Err(_) => return Err(WriteError::Protocol("a packet that no sender has")),
            }
            while self.arriving.len() < AT_ONCE
                && let Some(next) = self.waiting.pop_front()
            {
                let id = next.id;
                self.begin(next)?;
                ask(PacketType::PacketReq, id)?;
            }
            if self.walked && self.arriving.is_empty() && !finished {
                finished = true;
                ask(PacketType::PacketFin, 0)?;
            }
        }
        Err(WriteError::Cut)
    }

    /// Makes a file; its content comes later.
    fn entry(&mut self, stat: Stat) -> Result<(), WriteError> {
        let refuse = |why: &str| WriteError::Refused { path: shown(&stat.path), why: why.into() };
        if self.entries >= MAX_ENTRIES {
            return Err(refuse("there are too many files: leave some out with a .dockerignore"));
        }
        let id = self.entries;
        self.entries += 1;
        let path = inside(&stat.path).ok_or_else(|| refuse("it is no name of a file below the directory"))?;
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        self.leave_directories(&path, false)?;
        let failed = |e: nix::Error| match e {
            nix::Error::EEXIST => WriteError::Refused { path: shown(&stat.path), why: "it comes twice".into() },
            e => WriteError::Write { path: shown(&stat.path), source: e.into() },
        };
        self.enter(parent).map_err(|source| WriteError::Write { path: shown(&stat.path), source })?;
        let Some((_, directory)) = &self.parent else { return Err(refuse("it has no directory")) };
        let name = Path::new(name);
        let (time, mode) = (time_of(stat.mod_time), mode_of(stat.mode));
        let given = stat.attributes.iter().map(|one| (one.name.as_slice(), one.value.as_slice()));
        let attributes = CopiedAttributes::given(given).map_err(|e| refuse(&e.to_string()))?;
        let set =
            |made: &OwnedFd| attributes.set_on(made).map_err(|source| WriteError::Write { path: shown(&stat.path), source });
        match stat.mode & go_mode::TYPE {
            0 if !stat.linkname.is_empty() => self.hard_link(&stat, directory.as_fd(), name)?,
            0 => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = openat(directory, name, flags, Mode::from_bits_truncate(0o600)).map_err(failed)?;
                fchmod(&file, mode).map_err(failed)?;
                if stat.size <= 0 {
                    set(&file)?;
                    return futimens(&file, &time, &time).map_err(failed);
                }
                // What is written to a file takes its capabilities away: they are set at its end.
                self.waiting_bytes += path.as_os_str().len() + attributes.bytes() + ENTRY;
                if self.waiting_bytes > MAX_WAITING {
                    return Err(refuse("there are too many files: leave some out with a .dockerignore"));
                }
                self.waiting.push_back(Awaited { id, path, time: stat.mod_time, attributes });
            }
            go_mode::DIRECTORY => {
                mkdirat(directory, name, Mode::from_bits_truncate(0o700)).map_err(failed)?;
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let made = openat(directory, name, flags, Mode::empty()).map_err(failed)?;
                fchmod(&made, mode).map_err(failed)?;
                set(&made)?;
                self.open_directories.push((path, time));
            }
            go_mode::SYMLINK => {
                if stat.linkname.is_empty() || stat.linkname.len() > MAX_PATH {
                    return Err(refuse("it is a symlink to nothing"));
                }
                symlinkat(Path::new(OsStr::from_bytes(&stat.linkname)), directory, name).map_err(failed)?;
                utimensat(directory, name, &time, &time, UtimensatFlags::NoFollowSymlink).map_err(failed)?;
            }
            go_mode::FIFO => nix::unistd::mkfifoat(directory, name, mode).map_err(failed)?,
            // A socket is of a process of the client.
            go_mode::SOCKET => {}
            _ => return Err(refuse("devices are no files of a build context")),
        }
        Ok(())
    }

    /// A further name of a file that has come before.
    fn hard_link(&self, stat: &Stat, directory: BorrowedFd<'_>, name: &Path) -> Result<(), WriteError> {
        let refuse = |why: String| WriteError::Refused { path: shown(&stat.path), why };
        let target = inside(&stat.linkname).ok_or_else(|| refuse("it links to what is not in the directory".into()))?;
        let above = target.parent().unwrap_or(Path::new(""));
        let above = self.directory(above).map_err(|e| refuse(format!("what it links to: {e}")))?;
        let file = Path::new(target.file_name().unwrap_or_default());
        linkat(&above, file, directory, name, LinkatFlags::empty()).map_err(|e| refuse(format!("what it links to: {e}")))
    }

    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        open_beneath(self.root.as_fd(), path, libc::O_PATH | libc::O_DIRECTORY, 0, Beneath::NoSymlinks)
    }

    fn enter(&mut self, parent: &Path) -> io::Result<()> {
        if self.parent.as_ref().is_none_or(|(known, _)| known != parent) {
            self.parent = Some((parent.to_path_buf(), self.directory(parent)?));
        }
        Ok(())
    }

    /// Sets the times of the directories that the walk has left.
    fn leave_directories(&mut self, next: &Path, all: bool) -> Result<(), WriteError> {
        while let Some((path, time)) = self.open_directories.pop_if(|(path, _)| all || !next.starts_with(path)) {
            let set = || -> io::Result<()> {
                let flags = libc::O_RDONLY | libc::O_DIRECTORY;
                let directory = open_beneath(self.root.as_fd(), &path, flags, 0, Beneath::NoSymlinks)?;
                Ok(futimens(&directory, &time, &time)?)
            };
            set().map_err(|source| WriteError::Write { path: shown(path.as_os_str().as_bytes()), source })?;
        }
        Ok(())
    }

    /// Opens a file for the content that is asked for.
    fn begin(&mut self, next: Awaited) -> Result<(), WriteError> {
        self.waiting_bytes -= next.path.as_os_str().len() + next.attributes.bytes() + ENTRY;
        let file = open_beneath(self.root.as_fd(), &next.path, libc::O_WRONLY | libc::O_NOFOLLOW, 0, Beneath::NoSymlinks)
            .map_err(|source| WriteError::Write { path: shown(next.path.as_os_str().as_bytes()), source })?;
        let time = time_of(next.time);
        self.arriving.insert(next.id, Arriving { file: file.into(), path: next.path, time, attributes: next.attributes });
        Ok(())
    }

    /// Writes a part of a file; an empty one is its end.
    fn data(&mut self, id: u32, data: &[u8]) -> Result<(), WriteError> {
        let unknown = WriteError::Protocol("content comes that nobody has asked for");
        let Some(arriving) = self.arriving.get_mut(&id) else { return Err(unknown) };
        let failed = |source| WriteError::Write { path: shown(arriving.path.as_os_str().as_bytes()), source };
        if !data.is_empty() {
            return arriving.file.write_all(data).map_err(failed);
        }
        arriving.attributes.set_on(&arriving.file).map_err(failed)?;
        futimens(&arriving.file, &arriving.time, &arriving.time).map_err(|e| failed(e.into()))?;
        self.arriving.remove(&id);
        Ok(())
    }
}

/// A path below the directory, as the protocol has it: names, and nothing else.
fn inside(path: &[u8]) -> Option<PathBuf> {
    let found = Path::new(OsStr::from_bytes(path));
    let named = !path.is_empty() && path.len() <= MAX_PATH && !path.contains(&0);
    (named && found.components().all(|part| matches!(part, Component::Normal(_)))).then(|| found.to_path_buf())
}

/// A name for messages: of one that is long, the beginning.
fn shown(path: &[u8]) -> String {
    const SHOWN: usize = 256;
    let short = path[..path.len().min(SHOWN)]
        .utf8_chunks()
        .fold(String::new(), |shown, chunk| shown + chunk.valid() + &chunk.invalid().escape_ascii().to_string());
    if path.len() > SHOWN { short + "..." } else { short }
}

/// A time in nanoseconds, as Go has them. What a file system cannot have, the kernel clamps.
fn time_of(nanoseconds: i64) -> TimeSpec {
    const SECOND: i64 = 1_000_000_000;
    TimeSpec::new(nanoseconds.div_euclid(SECOND), nanoseconds.rem_euclid(SECOND))
}

fn mode_of(mode: u32) -> Mode {
    let special = go_mode::SPECIAL.iter().filter(|(bit, _)| mode & bit != 0).fold(0, |bits, (_, bit)| bits | bit);
    Mode::from_bits_truncate(mode & 0o777 | special)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn stat(path: &str, mode: u32, size: i64, link: &str) -> Packet {
        let stat = Stat { path: path.into(), mode, size, linkname: link.into(), mod_time: 5_000_000_007, ..Stat::default() };
        Packet { r#type: PacketType::PacketStat.into(), stat: Some(stat), ..Packet::default() }
    }

    fn packet(kind: PacketType, id: u32, data: &[u8]) -> Packet {
        Packet { r#type: kind.into(), id, data: data.to_vec(), ..Packet::default() }
    }

    fn write(root: &Path, packets: Vec<Packet>) -> Result<u32, WriteError> {
        Writer::new(File::open(root).expect("a directory").into()).run(packets.into_iter(), |_| Ok(()))
    }

    fn ended() -> Vec<Packet> {
        vec![packet(PacketType::PacketStat, 0, b"")]
    }

    #[test]
    fn a_directory_is_written_as_it_is_sent() {
        let outer = tempfile::tempdir().expect("a directory");
        let packets = [
            vec![
                stat("a", go_mode::DIRECTORY | 0o751, 0, ""),
                stat("a/b", go_mode::SETUID | 0o755, 3, ""),
                stat("a/link", 0o644, 3, "a/b"),
            ],
            vec![stat("empty", 0o600, 0, ""), stat("symlink", go_mode::SYMLINK | 0o777, 0, "../../x")],
            ended(),
            vec![
                packet(PacketType::PacketData, 1, b"ab"),
                packet(PacketType::PacketData, 1, b"c"),
                packet(PacketType::PacketData, 1, b""),
            ],
            vec![packet(PacketType::PacketFin, 0, b"")],
        ];
        assert_eq!(write(outer.path(), packets.concat()).expect("written"), 5);
        let at = |path: &str| std::fs::symlink_metadata(outer.path().join(path)).expect("a file");
        assert_eq!(std::fs::read(outer.path().join("a/link")).expect("content"), b"abc");
        assert_eq!(
            (at("a/b").permissions().mode() & 0o7777, at("a/b").nlink(), at("a/b").mtime(), at("a/b").mtime_nsec()),
            (0o4755, 2, 5, 7)
        );
        assert_eq!((at("a").permissions().mode() & 0o7777, at("a").mtime()), (0o751, 5));
        assert_eq!(std::fs::read_link(outer.path().join("symlink")).expect("a link"), Path::new("../../x"));
    }

    #[test]
    fn files_have_the_extended_attributes_that_are_sent() {
        use crate::api::buildkit::fsutil::SentAttribute;
        // CAP_NET_BIND_SERVICE, permitted and effective.
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let outer = tempfile::tempdir().expect("a directory");
        let with = |path: &str, mode: u32, size: i64| {
            let mut packet = stat(path, mode, size, "");
            packet.stat.as_mut().expect("it").attributes = ["user.a", "trusted.overlay.opaque", "user.overlay.opaque"]
                .map(|name| SentAttribute { name: name.into(), value: b"y".to_vec() })
                .into();
            packet
        };
        let mut tool = with("d/tool", 0o755, 1);
        let given = &mut tool.stat.as_mut().expect("it").attributes;
        given.push(SentAttribute { name: b"security.capability".to_vec(), value: capability.to_vec() });
        let packets = [
            vec![with("d", go_mode::DIRECTORY | 0o755, 0), with("d/empty", 0o644, 0), tool.clone()],
            ended(),
            vec![packet(PacketType::PacketData, 2, b"x"), packet(PacketType::PacketData, 2, b"")],
            vec![packet(PacketType::PacketFin, 0, b"")],
        ];
        write(outer.path(), packets.concat()).expect("written");
        let names = |path: &str| {
            let names = xattr::list(outer.path().join(path)).expect(path);
            let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
            names.retain(|name| name != "security.selinux");
            names.sort();
            names
        };
        assert_eq!((names("d"), names("d/empty")), (vec!["user.a".to_string()], vec!["user.a".to_string()]));
        assert_eq!(names("d/tool"), ["security.capability", "user.a"]);
        tool.stat.as_mut().expect("it").attributes = vec![SentAttribute { name: b"user.a".to_vec(), value: vec![0; 600_000] }];
        let root = tempfile::tempdir().expect("a directory");
        let error = write(root.path(), vec![with("d", go_mode::DIRECTORY | 0o755, 0), tool]).expect_err("too large").to_string();
        assert!(error.contains("d/tool") && error.contains("524288 bytes"), "{error}");
    }

    #[test]
    fn names_are_bytes() {
        let outer = tempfile::tempdir().expect("a directory");
        let odd = |path: &[u8], mode: u32, link: &[u8]| {
            let mut packet = stat("", mode, 0, "");
            let given = packet.stat.as_mut().expect("it");
            (given.path, given.linkname) = (path.to_vec(), link.to_vec());
            packet
        };
        let packets = [
            vec![odd(b"odd\xffbad", 0o644, b""), odd(b"symlink", go_mode::SYMLINK | 0o777, b"odd\xffbad")],
            ended(),
            vec![packet(PacketType::PacketFin, 0, b"")],
        ];
        assert_eq!(write(outer.path(), packets.concat()).expect("written"), 2);
        let at = outer.path().join(OsStr::from_bytes(b"odd\xffbad"));
        let target = std::fs::read_link(outer.path().join("symlink")).expect("a link");
        assert!(at.exists() && target.as_os_str().as_bytes() == b"odd\xffbad", "{target:?}");
        let error = write(outer.path(), vec![odd(b"../\xff\x1b", 0o644, b"")]).expect_err("refused").to_string();
        assert!(error.starts_with("../\\xff") && !error.contains('\x1b'), "{error}");
    }

    #[test]
    fn no_value_of_a_stat_ends_the_writer() {
        let extremes = [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX - 1, i64::MAX];
        let modes = [0, u32::MAX, 0o7777, go_mode::DIRECTORY | 0o7777, go_mode::SYMLINK, go_mode::FIFO, go_mode::SOCKET];
        for (number, mode) in (0..36).flat_map(|number| modes.map(|mode| (number, mode))) {
            let (time, size) = (extremes[number / 6], extremes[number % 6]);
            let root = tempfile::tempdir().expect("a directory");
            let mut one = stat("a", mode, size, if mode == go_mode::SYMLINK { "b" } else { "" });
            let given = one.stat.as_mut().expect("it");
            (given.mod_time, given.uid, given.gid) = (time, u32::MAX, u32::MAX);
            let error = write(root.path(), vec![one]).expect_err("it has no end");
            assert!(matches!(error, WriteError::Cut | WriteError::Refused { .. }), "{time} {size} {mode:o}: {error}");
        }
        for (nanoseconds, seconds) in [(-1, -1), (i64::MIN, -9_223_372_037), (i64::MAX, 9_223_372_036)] {
            assert_eq!(time_of(nanoseconds).tv_sec(), seconds);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let outer = tempfile::tempdir().expect("a directory");
        std::fs::write(outer.path().join("victim"), "v").expect("a file");
        let directory = go_mode::DIRECTORY | 0o755;
        let cases: Vec<(Vec<Packet>, &str)> = vec![
            (vec![stat("../x", 0o644, 1, "")], "no name of a file below"),
            (vec![stat("/x", 0o644, 1, "")], "no name of a file below"),
            (vec![stat("", 0o644, 1, "")], "no name of a file below"),
            (vec![stat("a\0b", 0o644, 1, "")], "no name of a file below"),
            (vec![stat(&"x".repeat(5000), 0o644, 1, "")], "no name of a file below"),
            (vec![stat("a/b", 0o644, 1, "")], "No such file"),
            (vec![stat("a", directory, 0, ""), stat("a", directory, 0, "")], "it comes twice"),
            (vec![stat("l", go_mode::SYMLINK | 0o777, 0, ".."), stat("l/victim2", 0o644, 1, "")], "writing l/victim2"),
            (vec![stat("l", go_mode::SYMLINK | 0o777, 0, "../victim"), stat("l", 0o644, 1, "")], "it comes twice"),
            (vec![stat("h", 0o644, 1, "../victim")], "links to what is not in the directory"),
            (vec![stat("l", go_mode::SYMLINK | 0o777, 0, ".."), stat("h", 0o644, 1, "l/victim")], "what it links to"),
            (vec![stat("d", go_mode::DEVICE | 0o644, 0, "")], "devices are no files"),
            (vec![packet(PacketType::PacketData, 7, b"x")], "nobody has asked for"),
            (vec![packet(PacketType::PacketReq, 7, b"x")], "no sender has"),
            (vec![packet(PacketType::PacketFin, 0, b"")], "too early"),
            (vec![packet(PacketType::PacketErr, 0, b"lost\x1b[2J")], "the client says: lost"),
            ([ended(), vec![stat("a", 0o644, 1, "")]].concat(), "after the last"),
            (vec![stat("a", 0o644, 1, ""), packet(PacketType::PacketData, 0, b"x")], "left in the middle"),
        ];
        for (number, (packets, words)) in cases.into_iter().enumerate() {
            let root = outer.path().join(number.to_string());
            std::fs::create_dir(&root).expect("a directory");
            let error = write(&root, packets).expect_err(words).to_string();
            assert!(error.contains(words) && !error.contains('\x1b'), "{words}: {error}");
        }
        assert!(!outer.path().join("victim2").exists());
        assert_eq!(std::fs::metadata(outer.path().join("victim")).expect("a file").nlink(), 1);
    }
}
