//! Mounts of a container: its own files, volumes, directories of the host, images.

use super::LaunchFiles;
use crate::engine::error::EngineError;
use crate::engine::record::{ContainerRecord, MountKind, MountSpec};
use crate::runtime::error::SetupStep;
use crate::runtime::launch::{CopyUp, ImageMount, OwnMounts};
use crate::runtime::{copy_up, spec, targets};
use crate::units::IdMap;
use oci_spec::runtime::Mount;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Refuses mounts on what the kernel shows.
///
/// # Errors
/// The destination.
pub(super) fn check_destinations(mounts: &OwnMounts, tmpfs: &[(String, Vec<String>)]) -> Result<(), String> {
    let none = Path::new("");
    let binds = mounts.binds.iter().map(|mount| (mount.destination().as_path(), mount.source().as_deref().unwrap_or(none)));
    let images = mounts.images.iter().map(|image| (image.destination.as_path(), none));
    let tmpfs = tmpfs.iter().map(|(path, _)| (Path::new(path), none));
    binds.chain(images).chain(tmpfs).try_for_each(|(destination, source)| check_destination(destination, source))
}

impl LaunchFiles<'_> {
    /// The mounts of a container, in the order of their definition. Makes directories of volumes, and sources of bind mounts that
    /// are not there where the file wants that.
    ///
    /// # Errors
    /// A source that does not exist, a subpath that is none, or the disk's.
    pub(in crate::engine) fn mounts(&self, record: &ContainerRecord) -> Result<OwnMounts, EngineError> {
        let mut all = OwnMounts { binds: self.own_files(record), ..OwnMounts::default() };
        for mount in &record.spec.mounts {
            if let Some(subpath) = &mount.subpath {
                self.check_subpath(mount, subpath)?;
                all.subpaths.insert(mount.target.clone(), PathBuf::from(subpath));
            }
            match mount.kind {
                MountKind::Image => {
                    // overlayfs wants two layers at least; these are empty.
                    let empty = ["proc", "sys"].map(|empty| self.config.base_layer().join(empty));
                    let layers = empty.into_iter().chain(mount.layers.iter().map(|layer| self.images.store.layer(layer)));
                    all.images.push(ImageMount { destination: mount.target.clone().into(), layers: layers.collect() });
                }
                MountKind::Bind => {
                    if let Some(message) = self.config.refusal_of_bind(&mount.source) {
                        return Err(EngineError::Start { name: record.name.clone(), message, step: SetupStep::Mounts });
                    }
                    let source = self.config.bind_source(&mount.source);
                    make_source(record, mount, &source)?;
                    if let Some(IdMap::MatchUser(user)) = &mount.id_map {
                        all.id_maps.push((mount.target.clone().into(), user.clone().unwrap_or_default()));
                    }
                    all.binds.push(bind(mount, &source));
                }
                MountKind::Volume => {
                    let (bound, directory) = self.volume_mount(mount)?;
                    if directory.is_some_and(|directory| self.takes_content(mount, &directory)) {
                        let beside = self.config.volume_directory(&mount.source);
                        all.copy_up.push(CopyUp { destination: mount.target.clone().into(), beside });
                    }
                    all.binds.push(bound);
                }
            }
        }
        Ok(all)
    }

    /// Whether a volume takes the image's content: one that is empty, or half filled.
    fn takes_content(&self, mount: &MountSpec, directory: &Path) -> bool {
        let is_empty = || fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
        let half_filled = || self.config.volume_directory(&mount.source).join(copy_up::MARK).exists();
        !mount.no_copy && mount.subpath.is_none() && (is_empty() || half_filled())
    }

    /// /etc/hosts and the like, configs and secrets.
    fn own_files(&self, record: &ContainerRecord) -> Vec<Mount> {
        let etc = self.config.etc_directory(&self.containers.named_as(record).id);
        let mut binds = Vec::new();
        for file in ["resolv.conf", "hostname", "hosts"] {
            let destination = format!("/etc/{file}");
            if !record.spec.mounts.iter().any(|m| m.target == destination) && etc.join(file).exists() {
                let mut options = vec!["bind".to_string()];
                options.extend(record.spec.read_only.then(|| "ro".to_string()));
                binds.push(spec::mount(&destination, "bind", etc.join(file), options));
            }
        }
        let copies = self.config.container_directory(&record.id).join("files");
        for (n, file) in record.spec.files.iter().enumerate() {
            let source = file.source.as_ref().map_or_else(|| copies.join(n.to_string()), PathBuf::from);
            binds.push(spec::mount(&file.target, "bind", source, vec!["bind".into(), "ro".into()]));
        }
        binds
    }

    fn check_subpath(&self, mount: &MountSpec, subpath: &str) -> Result<(), EngineError> {
        if Path::new(subpath).components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(EngineError::Invalid(format!("the subpath `{subpath}` must be a relative path without `..`")));
        }
        // Containers share the mount of a file system: the subpath of the first one would be the whole for the others.
        if mount.kind == MountKind::Volume && self.volumes.is_file_system(&mount.source) {
            return Err(EngineError::Invalid(format!(
                "the volume {} is a file system of its own and has no subpath `{subpath}` for a container: mount it whole",
                mount.source
            )));
        }
        Ok(())
    }

    /// The mount of a volume; and its directory, unless it is a file system of its own.
    fn volume_mount(&self, mount: &MountSpec) -> Result<(Mount, Option<PathBuf>), EngineError> {
        let volume = self.volumes.get(&mount.source);
        if let Some(volume) = volume.filter(|volume| volume.has_device()) {
            let mounted = driver_mount(&mount.source, &volume.options, mount)?;
            let directory = mounted.source().clone().filter(|_| mounted.typ().as_deref() == Some("bind"));
            return Ok((mounted, directory));
        }
        let data = self.config.volume_data(&mount.source);
        fs::create_dir_all(&data).map_err(EngineError::io(format!("making the volume {}", mount.source)))?;
        Ok((bind(mount, &data), Some(data)))
    }
}

/// Makes the source of a bind mount that is not there, or refuses it.
fn make_source(record: &ContainerRecord, mount: &MountSpec, source: &Path) -> Result<(), EngineError> {
    if source.exists() {
        return Ok(());
    }
    if !mount.create_host_path {
        let message = format!("the bind mount's source {} does not exist; create it, or correct the path", mount.source);
        return Err(EngineError::Start { name: record.name.clone(), message, step: SetupStep::Mounts });
    }
    fs::create_dir_all(source).map_err(EngineError::io(format!("making the bind mount's source {}", mount.source)))
}

fn bind(mount: &MountSpec, source: &Path) -> Mount {
    let mut options = vec![if mount.not_recursive { "bind" } else { "rbind" }.to_string()];
    options.extend(mount.read_only.then(|| "ro".to_string()));
    options.extend(mount.propagation.clone());
    spec::mount(&mount.target, "bind", source, options)
}

/// Refuses mounts on /proc, which would take the place of what is masked there; but for those files of it that lxcfs and the
/// like stand in for. Where symlinks lead is known when they are followed: the runtime refuses what then is the kernel's.
fn check_destination(destination: &Path, source: &Path) -> Result<(), String> {
    let clean = targets::clean(destination);
    let Ok(inside) = clean.strip_prefix("proc") else { return Ok(()) };
    let whole = inside == Path::new("") && source == Path::new("/proc");
    if whole || targets::STAND_INS.iter().any(|file| Path::new(file) == inside) {
        return Ok(());
    }
    Err(format!("nothing can be mounted on `{}`: it would take the place of what the kernel shows there", destination.display()))
}

/// A volume of the driver `local` with options: what mount(8) would do with them, in the container's own mount namespace.
fn driver_mount(name: &str, options: &indexmap::IndexMap<String, String>, mount: &MountSpec) -> Result<Mount, EngineError> {
    let option = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    let (fstype, device) = (option("type"), option("device"));
    let mut words: Vec<String> = option("o").split(',').filter(|o| !o.is_empty()).map(str::to_string).collect();
    words.extend(mount.read_only.then(|| "ro".to_string()));
    let is_bind = words.iter().any(|o| o == "bind" || o == "rbind");
    if is_bind && !Path::new(device).exists() {
        return Err(EngineError::Invalid(format!("the volume {name} is {device}, which does not exist; create it")));
    }
    if !is_bind && fstype.starts_with("nfs") {
        // The kernel wants the server's address; mount.nfs would look its name up.
        let server = device.split_once(":/").map_or(device, |(server, _)| server);
        if !words.iter().any(|o| o.starts_with("addr=")) {
            words.push(format!("addr={server}"));
        }
    }
    Ok(spec::mount(&mount.target, if is_bind { "bind" } else { fstype }, device, words))
}
