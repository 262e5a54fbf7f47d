//! A container's log: CRI's format (`TIME STREAM F|P text`), written by its monitor, read by the engine.
//!
//! `F` ends a line; `P` is a part of one, because the line is longer than [`writer::MAX_LINE`] or because the container
//! ended in the middle of it. Files are `log`, and `log.1`, `log.2`, ... the older ones. Rotation keeps what a reader needs
//! ([`holds`]): where that is too much, the writer takes no more output, and the container waits as for a full pipe.

pub mod holds;
pub mod reader;
pub mod writer;

/// Bytes of a file of a log whose container says nothing: no container may fill the disk with it. Those of Docker's driver `local`.
pub const DEFAULT_FILE: u64 = 20 << 20;

/// The path of the n-th older file.
pub fn rotated(path: &std::path::Path, n: u32) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// How many files a log has.
fn count_files(path: &std::path::Path) -> u32 {
    // A monitor that was killed at a rotation has left a gap.
    let is_last = |n: &u32| !rotated(path, *n).exists() && !rotated(path, *n + 1).exists();
    (1..u32::MAX - 1).find(is_last).unwrap_or(1)
}

/// Whether a log has more files than it should: rotation has kept them for its readers.
pub fn has_late_files(path: &std::path::Path, max_files: u32) -> bool {
    count_files(path) > max_files.max(1)
}

/// Removes the oldest files of a log that nobody writes, until so many are left.
///
/// # Errors
/// The kernel's.
pub fn drop_late_files(path: &std::path::Path, max_files: u32) -> std::io::Result<()> {
    for n in (max_files.max(1)..count_files(path)).rev() {
        match std::fs::remove_file(rotated(path, n)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A standard stream of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}
