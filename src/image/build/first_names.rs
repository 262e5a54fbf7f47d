//! The first names of files that have several: an archive has the content once, and links to it.

use nix::sys::stat::FileStat;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Bytes that they may take: four hundred thousand files.
const MAX_BYTES: usize = 32 << 20;
/// The memory of a table entry besides its name.
const ENTRY: usize = 56;

/// Names are kept apart from their directories, which many of them share.
#[derive(Default)]
pub struct FirstNames {
    files: HashMap<(u64, u64), NamePlace>,
    directories: Vec<PathBuf>,
    text: Vec<u8>,
    bytes: usize,
}

#[derive(Clone, Copy)]
struct NamePlace {
    directory: u32,
    begin: u32,
    length: u16,
}

impl FirstNames {
    /// The name that a file was met by before.
    pub fn of(&self, stat: &FileStat) -> Option<PathBuf> {
        let NamePlace { directory, begin, length } = *self.files.get(&(stat.st_dev, stat.st_ino))?;
        let name = OsStr::from_bytes(&self.text[begin as usize..][..usize::from(length)]);
        Some(self.directories[directory as usize].join(name))
    }

    /// Keeps the name of a file that has others.
    ///
    /// # Errors
    /// Where they would take more than [`MAX_BYTES`].
    pub fn keep(&mut self, stat: &FileStat, path: &Path) -> io::Result<()> {
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        if self.directories.last().is_none_or(|last| last != parent) {
            self.bytes += parent.as_os_str().len() + ENTRY;
            self.directories.push(parent.to_path_buf());
        }
        self.bytes += name.len() + ENTRY;
        if self.bytes > MAX_BYTES {
            return Err(io::Error::other(format!(
                "more than {} files have several names (hard links), which are more than {} MiB: archive fewer directories at once",
                self.files.len(),
                MAX_BYTES >> 20
            )));
        }
        let place =
            NamePlace { directory: self.directories.len() as u32 - 1, begin: self.text.len() as u32, length: name.len() as u16 };
        self.text.extend(name.as_bytes());
        self.files.insert((stat.st_dev, stat.st_ino), place);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_up_to_a_bound() {
        let mut stat = nix::sys::stat::stat("/").expect("stat");
        let mut names = FirstNames::default();
        names.keep(&stat, Path::new("a/b")).expect("room");
        assert_eq!(names.of(&stat), Some(PathBuf::from("a/b")));
        let directory = PathBuf::from("d".repeat(4000));
        let kept = (0..1_000_000u64).take_while(|n| {
            stat.st_ino = n + 1_000_000;
            names.keep(&stat, &directory.join(format!("{n}"))).is_ok()
        });
        let kept = kept.count();
        assert!((300_000..600_000).contains(&kept), "{kept}");
        let error = names.keep(&stat, Path::new("other/file")).expect_err("no room").to_string();
        assert!(error.contains("hard links") && error.contains("32 MiB"), "{error}");
        // Directories that come again and again count each time.
        let mut names = FirstNames::default();
        let kept = (0..1_000_000).take_while(|n| {
            stat.st_ino = *n;
            names.keep(&stat, &PathBuf::from(format!("{}{}/x", "d".repeat(4000), n % 2))).is_ok()
        });
        assert!(kept.count() < 10_000);
    }
}
