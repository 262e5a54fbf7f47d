//! A path of a container looked at from outside: what is there, and where its symlinks lead.

use super::files::{Access, ContainerFiles, find, follows, missing};
use crate::engine::Container;
use crate::engine::error::EngineError;
use crate::runtime::targets::clean;
use crate::sys::beneath::{is_of_kernel, place_beneath};
use nix::sys::stat::SFlag;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// A file in a container.
#[derive(Clone, Debug)]
pub struct PathStat {
    pub name: String,
    pub size: u64,
    /// As the kernel has it, type included.
    pub mode: u32,
    pub modified: jiff::Timestamp,
    /// Where a symlink leads once all are followed, as an absolute path of the container, of what is missing too: `linkTarget` of
    /// Docker's API.
    pub link: String,
}

impl ContainerFiles<'_> {
    /// The file at a path of a container; a symlink at its end is not followed.
    ///
    /// # Errors
    /// When there is nothing, when symlinks lead in a circle, and for what is the kernel's own: `cp` would make empty files of it.
    pub fn stat(&self, container: &Container, path: &str) -> Result<PathStat, EngineError> {
        let failed = |e: io::Error| missing(container, path, &e);
        let (tree, inside) = (self.tree_of(container, Access::Read)?, clean(Path::new(path)));
        let found = find(&tree, &inside, follows(path)).map_err(failed)?;
        let above = if found.kind() == SFlag::S_IFLNK { inside.parent().unwrap_or(Path::new("")) } else { &inside };
        refuse_kernel_files(container, path, tree.open(above, libc::O_PATH).map_err(failed)?.as_fd())?;
        let link = match found.kind() {
            SFlag::S_IFLNK => {
                let end = place_beneath(tree.root(), &inside).map_err(failed)?.path;
                Path::new("/").join(end).to_string_lossy().into_owned()
            }
            _ => String::new(),
        };
        let name = clean(Path::new(path)).file_name().map_or_else(|| "/".into(), |name| name.to_string_lossy().into_owned());
        let modified = jiff::Timestamp::new(found.stat.st_mtime, found.stat.st_mtime_nsec as i32).unwrap_or_default();
        Ok(PathStat { name, size: found.stat.st_size.max(0) as u64, mode: found.stat.st_mode, modified, link })
    }
}

/// Refuses the kernel's own files: their size is not that of their content, so an archive would hold an empty file or zeros. Docker
/// does not see them.
pub(super) fn refuse_kernel_files(container: &Container, path: &str, file: BorrowedFd<'_>) -> Result<(), EngineError> {
    match is_of_kernel(file) {
        Ok(false) => Ok(()),
        Ok(true) => Err(EngineError::Invalid(format!(
            "{path} in {name} is the kernel's own (procfs, sysfs or a control group), which cannot be copied; `wharf container exec {name} cat` reads such a file",
            name = container.name()
        ))),
        Err(error) => Err(missing(container, path, &error)),
    }
}
