//! Disk usage of a tree of files.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes that a directory takes on disk. A file with several names counts once.
pub fn disk_usage(directory: &Path) -> u64 {
    fn walk(directory: &Path, seen: &mut HashSet<(u64, u64)>) -> u64 {
        let mut total = 0;
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            total += if metadata.is_dir() { walk(&entry.path(), seen) } else { metadata.len() };
        }
        total
    }
    walk(directory, &mut HashSet::new())
}
