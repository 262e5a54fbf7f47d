//! A container's files from outside: `cp` both ways, `export`, `commit`, `diff`.
//!
//! Every path is resolved beneath the container's root by openat2, so that no link in the container leads to the host's files
//! (CVE-2018-15664, CVE-2019-14271), and nothing of the container is ever executed.

use super::path_stat::refuse_kernel_files;
use crate::engine::error::EngineError;
use crate::engine::launch::LaunchFiles;
use crate::engine::record::{ContainerRecord, Status};
use crate::engine::volumes::Volumes;
use crate::engine::{Config, Container, Engine};
use crate::image::Store;
use crate::image::build::files::{FoundFile, Tree};
use crate::image::build::ignore::Patterns;
use crate::image::build::tarball;
use crate::image::documents::{ConfigDocument, ImageSettings};
use crate::image::pack::Packer;
use crate::image::tar_paths::write_archive;
use crate::image::unpack::UnpackError;
use crate::image::{Image, ImageRef, is_full};
use crate::runtime::targets::clean;
use crate::runtime::view::{ViewParts, mount_view};
use crate::runtime::{overlay, user};
use crate::sys::removal;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A file that `diff` lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathChange {
    pub path: String,
    pub kind: ChangeKind,
}

/// How a path differs from the image's: `Kind` 0, 1, 2 of Docker's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Modified,
    Added,
    Deleted,
}

/// Containers' files, from outside.
pub struct ContainerFiles<'a> {
    config: &'a Config,
    store: &'a Store,
    volumes: &'a Volumes,
    launch: LaunchFiles<'a>,
}

impl Engine {
    #[must_use]
    pub fn files(&self) -> ContainerFiles<'_> {
        ContainerFiles { config: &self.config, store: &self.images.store, volumes: &self.volumes, launch: self.launch_files() }
    }
}

/// Whether files are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl ContainerFiles<'_> {
    /// The files of a container as its processes see them: by the mount namespace of a running one, otherwise by a view of what it
    /// would have mounted, but for tmpfs mounts. It stays as it is when the container ends or starts meanwhile. On a thread that may
    /// be held up.
    ///
    /// # Errors
    /// What could not be mounted, such as a source that is gone.
    pub(super) fn tree_of(&self, container: &Container, access: Access) -> Result<Tree, EngineError> {
        let record = container.record();
        if let Some(tree) = running_tree(container, record.state.pid) {
            return Ok(tree);
        }
        let doing = || EngineError::io(format!("opening the files of {}", record.name));
        let mounts = self.launch.mounts(&record)?;
        let shared = tokio::runtime::Handle::current().block_on(self.volumes.shared_volumes(&record))?;
        let directory = self.config.container_directory(&record.id);
        let (upper, work) = (directory.join("upper"), directory.join("work"));
        let mut layers = self.lower_layers(&record);
        let upper = match access {
            Access::Write => Some((upper.as_path(), work.as_path())),
            Access::Read => {
                layers.push(upper);
                None
            }
        };
        let view = mount_view(&ViewParts {
            layers,
            upper,
            read_only: record.spec.read_only,
            mountpoint: &self.config.run_root.join("rootfs"),
            mounts,
            shared: shared.iter().map(|shared| (shared.destination.clone(), &*shared.namespace, &*shared.mount)).collect(),
            user: record.user(),
        });
        let view = view.map_err(io::Error::other).map_err(doing())?;
        Ok(Tree::of(view.root).in_namespace(view.namespace))
    }

    /// The layers of a container, read-only, whether or not it runs.
    fn readable_root(&self, record: &ContainerRecord) -> io::Result<OwnedFd> {
        let mut layers = self.lower_layers(record);
        layers.push(self.config.container_directory(&record.id).join("upper"));
        overlay::mount_inert(&layers, None)
    }

    /// The lowest first, with the one below every image.
    fn lower_layers(&self, record: &ContainerRecord) -> Vec<PathBuf> {
        [self.config.base_layer()].into_iter().chain(record.layers.iter().map(|layer| self.store.layer(layer))).collect()
    }

    /// Writes what is at a path as a tar whose entries begin with the path's last part.
    ///
    /// # Errors
    /// When there is nothing, or the writer's.
    pub fn read(&self, container: &Container, path: &str, out: impl Write) -> Result<(), EngineError> {
        let (tree, inside) = (self.tree_of(container, Access::Read)?, clean(Path::new(path)));
        let found = find(&tree, &inside, follows(path)).map_err(|e| missing(container, path, &e))?;
        let name = match Path::new(path).file_name() {
            // `DIR/.` is the directory's content.
            Some(name) if !path.ends_with("/.") => PathBuf::from(name),
            _ => PathBuf::from("."),
        };
        let (found, left_out) = match inside.file_name() {
            Some(_) => (found, Patterns::default()),
            // Of the whole root, what the kernel shows in it is no file of the container: Docker does not see it either.
            None => (FoundFile { path: PathBuf::new(), ..found }, Patterns::parse("proc/*\nsys/*\ndev/*")),
        };
        pack(&tree, &found, &name, &left_out, out).map_err(EngineError::io(format!("copying {path} of {}", container.name())))?;
        still_whole(container)
    }

    /// Takes a tar apart in a directory of a container. With `owner`, everything is the container's user's.
    ///
    /// # Errors
    /// When the directory is not there or read-only, or the archive is not one; what was written by then stays.
    pub fn write(&self, container: &Container, path: &str, tar: impl Read, own: bool) -> Result<(), EngineError> {
        let (tree, inside) = (self.tree_of(container, Access::Write)?, clean(Path::new(path)));
        let directory = tree.open(&inside, libc::O_RDONLY | libc::O_DIRECTORY).map_err(|e| missing(container, path, &e))?;
        refuse_kernel_files(container, path, directory.as_fd())?;
        if fstatvfs(&directory).is_ok_and(|mount| mount.flags().contains(FsFlags::ST_RDONLY)) {
            return Err(missing(container, path, &Errno::EROFS.into()));
        }
        let owner = if own {
            let record = container.record();
            let user = record.user();
            let read = |name: &str| tree.read_text(Path::new(name), user::MAX_FILE).unwrap_or_default();
            let found = user::resolve_in(&read("etc/passwd"), &read("etc/group"), user);
            Some(found.map_err(EngineError::Invalid)?)
        } else {
            None
        };
        crate::image::unpack::merge(tar, directory.as_fd(), owner).map(drop).map_err(|error| match error {
            UnpackError::Write { path, source } if is_full(&source) => container.with_record(|record| {
                let name = &record.name;
                EngineError::Invalid(match record.spec.storage_opt.get("size") {
                    Some(size) => format!("copying {path} into {name}: {source}; `storage_opt` gives its layer {size}"),
                    None => format!("copying {path} into {name}: {source}; free some space"),
                })
            }),
            other => EngineError::Image(other.into()),
        })
    }

    /// Removes what is at a path of a container, with all below it.
    ///
    /// # Errors
    /// When there is nothing, or it cannot be removed.
    pub fn remove(&self, container: &Container, path: &str) -> Result<(), EngineError> {
        let (tree, inside) = (self.tree_of(container, Access::Write)?, clean(Path::new(path)));
        let failed = |e: io::Error| missing(container, path, &e);
        let name = inside.file_name().ok_or_else(|| EngineError::Invalid("the root itself stays".into()))?;
        let parent = inside.parent().unwrap_or(Path::new(""));
        let parent = tree.open(parent, libc::O_RDONLY | libc::O_DIRECTORY).map_err(failed)?;
        fstatat(&parent, Path::new(name), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| failed(e.into()))?;
        removal::remove(&parent, name).map_err(failed)
    }

    /// Writes a container's whole root file system as a tar, without what is mounted in it.
    ///
    /// # Errors
    /// The disk's or the writer's.
    pub fn export(&self, container: &Container, out: impl Write) -> Result<(), EngineError> {
        let doing = || EngineError::io(format!("exporting {}", container.name()));
        let tree = Tree::of(self.readable_root(&container.record()).map_err(doing())?);
        pack_all(&tree, out).map_err(doing())?;
        still_whole(container)
    }

    /// Writes an image's files as a tar, and nothing else.
    ///
    /// # Errors
    /// The disk's or the writer's.
    pub fn export_image(&self, image: &Image, out: impl Write) -> Result<(), EngineError> {
        let doing = || EngineError::io("writing the files of an image");
        let layers: Vec<PathBuf> = image.layers.iter().map(|layer| self.store.layer(layer)).collect();
        let tree = self.store.tree(&layers).map_err(doing())?;
        pack_all(&tree, out).map_err(doing())
    }

    /// A container's changes to its image, one after the other.
    ///
    /// # Errors
    /// The disk's, and those of `each`.
    pub fn changes(
        &self,
        container: &Container,
        mut each: impl FnMut(&PathChange) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let doing = || EngineError::io(format!("comparing {} with its image", container.name()));
        let record = container.record();
        let upper = Tree::directory(&self.config.container_directory(&record.id).join("upper")).map_err(doing())?;
        let image = Tree::of(overlay::mount_inert(&self.lower_layers(&record), None).map_err(doing())?);
        let none = Patterns::default();
        for found in upper.walk(Path::new(""), &none).map_err(doing())? {
            let found = found.map_err(doing())?;
            let kind = match found.kind() {
                SFlag::S_IFCHR if found.stat.st_rdev == 0 => ChangeKind::Deleted,
                _ if find(&image, &found.path, false).is_ok() => ChangeKind::Modified,
                _ => ChangeKind::Added,
            };
            each(&PathChange { path: format!("/{}", found.path.display()), kind })?;
        }
        Ok(())
    }

    /// Makes an image of a container: its own image's layers, and what it has written as one more.
    ///
    /// # Errors
    /// A change that is not understood, or the disk's.
    pub fn commit(&self, container: &Container, commit: &CommitRequest) -> Result<Image, EngineError> {
        let record = container.record();
        let spec = &record.spec;
        let doing = || EngineError::io(format!("committing {}", record.name));
        let id = record.image_id_text();
        let base = self.store.find_loosely(&id)?.map(|(_, image)| image);
        let base = base.ok_or(EngineError::NoSuch { what: "image", name: id })?;
        // The archive is a file for the time: its digest is known when it has been written.
        let draft = self.store.blob_draft()?;
        let file = File::create(draft.path()).map_err(doing())?;
        let upper = self.config.container_directory(&record.id).join("upper");
        tarball::write(&upper, io::BufWriter::with_capacity(1 << 18, file)).map_err(doing())?;
        still_whole(container)?;
        let mut config = ConfigDocument::parse(&self.store.configuration(&base)?)
            .map_err(|e| EngineError::Invalid(format!("the image of {} is damaged: {e}", record.name)))?;
        let of_container = ImageSettings {
            cmd: spec.command.clone(),
            entrypoint: spec.entrypoint.clone(),
            user: spec.user.clone().unwrap_or_default(),
            working_dir: spec.working_dir.clone().unwrap_or_default(),
            ..ImageSettings::default()
        };
        config.config.extend(&of_container);
        config.config.env = record.env();
        config.config.extend(&commit.config);
        if !commit.author.is_empty() {
            config.author = Some(commit.author.clone());
        }
        let step = crate::image::archive::Added { archive: draft, comment: &commit.comment, changes: &commit.changes };
        Ok(crate::image::archive::add_layer(self.store, commit.name.as_ref(), &base, config, step)?)
    }
}

/// A request to `commit`.
#[derive(Clone, Debug)]
pub struct CommitRequest {
    pub name: Option<ImageRef>,
    pub author: String,
    pub comment: String,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// Settings to be other than the container's. Empty ones stay as they are.
    pub config: ImageSettings,
}

/// The files of a running container. Its mounts stay as long as the mount namespace is held, when its processes have ended as well.
fn running_tree(container: &Container, pid: i32) -> Option<Tree> {
    if pid == 0 {
        return None;
    }
    let namespace = File::open(format!("/proc/{pid}/ns/mnt")).ok()?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(format!("/proc/{pid}/root").as_str(), flags, Mode::empty()).ok()?;
    // The process is the container's as long as the record says so after its files were opened.
    (container.record().state.pid == pid).then(|| Tree::of(root).in_namespace(namespace.into()))
}

/// Whether a path means what a symlink at its end leads to.
pub(super) fn follows(path: &str) -> bool {
    path.ends_with('/') || path.ends_with("/.")
}

/// Of a container that has been removed, files may be missing without a word.
fn still_whole(container: &Container) -> Result<(), EngineError> {
    match container.status() {
        Status::Removing => Err(EngineError::Conflict(format!(
            "the archive is not whole: {} was removed while its files were read",
            container.name()
        ))),
        _ => Ok(()),
    }
}

pub(super) fn missing(container: &Container, path: &str, error: &io::Error) -> EngineError {
    match error.raw_os_error() {
        Some(libc::ENOENT) => EngineError::NoSuch { what: "file", name: format!("{path} in {}", container.name()) },
        Some(libc::ENOTDIR) => {
            EngineError::Invalid(format!("{path} in {} is not a directory, or leads through a file", container.name()))
        }
        Some(libc::EROFS) => EngineError::Conflict(format!("{path} in {} is read-only", container.name())),
        _ => EngineError::Invalid(format!("{path} in {}: {error}", container.name())),
    }
}

/// The file at a path; a symlink at its end is followed only where that is asked for, and then what it leads to has to be a directory.
pub(super) fn find(tree: &Tree, path: &Path, follow: bool) -> io::Result<FoundFile> {
    let Some(name) = path.file_name().filter(|_| !follow) else {
        let path = if path == Path::new("") { Path::new(".") } else { path };
        let found = tree.find(path)?;
        return if found.is_directory() { Ok(found) } else { Err(Errno::ENOTDIR.into()) };
    };
    let parent = tree.open(path.parent().unwrap_or(Path::new("")), libc::O_PATH | libc::O_DIRECTORY)?;
    let stat = fstatat(&parent, Path::new(name), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(FoundFile { path: path.to_path_buf(), stat })
}

/// A tree from its root, as a tar.
fn pack_all(tree: &Tree, out: impl Write) -> io::Result<()> {
    let root = tree.find(Path::new("."))?;
    pack(tree, &FoundFile { path: PathBuf::new(), ..root }, Path::new(""), &Patterns::default(), out)
}

/// Writes a file, or a directory with all below it but what is left out, as a tar. Names begin with `name` in the place of the path's.
fn pack(tree: &Tree, top: &FoundFile, name: &Path, left_out: &Patterns, out: impl Write) -> io::Result<()> {
    write_archive(out, |builder| {
        let mut packer = Packer::of_container(builder);
        if name != Path::new("") {
            let above = tree.open(top.path.parent().unwrap_or(Path::new("")), libc::O_PATH | libc::O_DIRECTORY)?;
            let own = Path::new(top.path.file_name().unwrap_or(OsStr::new(".")));
            packer.add((above.as_fd(), own), &top.stat, name)?.or_missing(&top.path)?;
        }
        if top.is_directory() { packer.below(tree, &top.path, name, left_out) } else { Ok(()) }
    })
}
