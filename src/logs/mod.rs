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
