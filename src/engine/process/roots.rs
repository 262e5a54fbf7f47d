//! The two directories of an engine: root's alone, whatever was there before.

use crate::engine::{Config, EngineError};
use crate::sys;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fchmod, fstat};
use std::fs::{self, DirBuilder};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// Makes an engine's two directories, and gives those that are there the modes that they have to have.
///
/// # Errors
/// When one of them is somebody else's, or the file system refuses.
pub fn prepare(config: &Config) -> Result<(), EngineError> {
    prepare_run_root(&config.run_root)?;
    refuse_foreign(&config.data_root, &["containers", "volumes", "images", "state.journal", "engine.lock", "lost+found"])?;
    // Containers' files are owned by anybody: nobody else on the host may get at them.
    own(&config.data_root, 0o710).map(drop)
}

/// The same of the directories in them.
///
/// # Errors
/// As [`prepare`].
pub(in crate::engine) fn prepare_inside(config: &Config) -> Result<(), EngineError> {
    for directory in ["containers", "networks", "rootfs"] {
        own(&config.run_root.join(directory), 0o700)?;
    }
    note_data_root(config)?;
    sys::spread_directories(own(&config.data_root.join("containers"), 0o710)?);
    own(&config.data_root.join("volumes"), 0o711).map(drop)
}

/// The link to the data root of the engine that has a run root.
const DATA_ROOT: &str = "data-root";

fn note_data_root(config: &Config) -> Result<(), EngineError> {
    let link = config.run_root.join(DATA_ROOT);
    // A run root that somebody else has filled keeps no engine from coming back.
    if fs::read_link(&link).is_ok_and(|known| known == config.data_root) {
        return Ok(());
    }
    let _ = fs::remove_file(&link);
    symlink(&config.data_root, &link).map_err(EngineError::io(format!("linking {}", link.display())))
}

/// The data root of the engine of a run root, where it is another than the one that is meant. An engine of an earlier version has
/// not noted it.
pub fn other_data_root(run_root: &Path, meant: &Path) -> Option<PathBuf> {
    let link = run_root.join(DATA_ROOT);
    let place = |path: &Path| fs::metadata(path).map(|directory| (directory.dev(), directory.ino())).ok();
    let used = fs::read_link(&link).ok()?;
    (place(&used) != place(meant)).then_some(used)
}

/// The run root alone, before there is an engine.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_run_root(run_root: &Path) -> Result<(), EngineError> {
    refuse_foreign(run_root, &["containers", "engine.lock", "engine.log"])?;
    own(run_root, 0o700).map(drop)
}

/// A directory with other things in it, such as /tmp for a run root, would be closed to those whose they are.
fn refuse_foreign(path: &Path, known: &[&str]) -> Result<(), EngineError> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    let names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    if names.is_empty() || names.iter().any(|name| known.contains(&name.as_str())) {
        return Ok(());
    }
    Err(EngineError::Invalid(format!(
        "{} has files in it that are not wharf's, such as {}: give wharf a directory of its own",
        path.display(),
        names[0]
    )))
}

/// A directory that is root's, with a mode.
fn own(path: &Path, mode: u32) -> Result<OwnedFd, EngineError> {
    let doing = || EngineError::io(format!("making {}", path.display()));
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(doing())?;
    let directory =
        open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map_err(|e| doing()(e.into()))?;
    let stat = fstat(&directory).map_err(|e| doing()(e.into()))?;
    if stat.st_uid != 0 {
        return Err(EngineError::Invalid(format!(
            "{} belongs to the user {}, who could put anything there: give wharf a directory of root's",
            path.display(),
            stat.st_uid
        )));
    }
    if stat.st_mode & 0o7777 != mode {
        fchmod(&directory, Mode::from_bits_truncate(mode)).map_err(|e| doing()(e.into()))?;
    }
    Ok(directory)
}
