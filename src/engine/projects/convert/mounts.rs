//! Volumes, tmpfs mounts, configs and secrets of a service.

use super::wrong;
use crate::compose::model::{FileMount, FileObject, Project, ServiceVolume, VolumeKind};
use crate::engine::record::{FileSpec, MountKind, MountSpec};
use crate::sys::foreign_disk::ask;
use crate::sys::regular::read_regular_file;
use base64::Engine as _;
use std::path::Path;

/// Bytes of a file that becomes a config or secret with an owner or mode of its own: it is copied. Docker's limits are 1,000 and 500 kB.
pub(in crate::engine::projects) const MAX_COPIED: u64 = 16 << 20;

/// A tmpfs mount: its target, and its mount options.
type Tmpfs = (String, Vec<String>);

/// The mounts of a service, and its tmpfs mounts.
pub(super) fn mounts(project: &Project, name: &str) -> Result<(Vec<MountSpec>, Vec<Tmpfs>), String> {
    let service = &project.services[name];
    let mut mounts = Vec::new();
    let mut tmpfs: Vec<Tmpfs> = service.tmpfs.iter().map(|entry| short_tmpfs(entry)).collect();
    for volume in &service.volumes {
        if !volume.target.starts_with('/') {
            let target = &volume.target;
            return Err(format!(
                "`services.{name}` mounts `{target}`, which is no absolute path in a container; a volume's name needs two letters or more"
            ));
        }
        match volume.kind {
            VolumeKind::Tmpfs => tmpfs.push((volume.target.clone(), tmpfs_options(volume))),
            VolumeKind::Bind => mounts.push(MountSpec {
                create_host_path: volume.bind.as_ref().is_none_or(|b| b.create_host_path),
                ..mount(MountKind::Bind, volume, volume.source.clone())
            }),
            VolumeKind::Volume => {
                let source =
                    volume.source.as_ref().map(|key| project.volumes.get(key).map_or_else(|| key.clone(), |v| v.name.clone()));
                mounts.push(mount(MountKind::Volume, volume, source));
            }
            VolumeKind::Image => mounts.push(MountSpec {
                read_only: true,
                subpath: volume.image.as_ref().and_then(|i| i.subpath.clone()),
                ..mount(MountKind::Image, volume, volume.source.clone())
            }),
            other => return Err(wrong(name, "volumes.type", &other.to_string(), "`bind`, `volume`, `tmpfs` or `image`")),
        }
    }
    Ok((mounts, tmpfs))
}

/// An entry of `tmpfs:`, `PATH[:OPTIONS]`.
fn short_tmpfs(entry: &str) -> Tmpfs {
    match entry.split_once(':') {
        Some((path, options)) => (path.to_string(), options.split(',').map(str::to_string).collect()),
        None => (entry.to_string(), Vec::new()),
    }
}

/// The configs and secrets of a service. Reads those that are copied.
pub(super) fn files(project: &Project, name: &str) -> Result<Vec<FileSpec>, String> {
    let service = &project.services[name];
    let configs = service.configs.iter().map(|one| file(name, "configs", "/", one, project.configs.get(&one.source)));
    let secrets = service.secrets.iter().map(|one| file(name, "secrets", "/run/secrets/", one, project.secrets.get(&one.source)));
    configs.chain(secrets).collect()
}

fn mount(kind: MountKind, volume: &ServiceVolume, source: Option<String>) -> MountSpec {
    MountSpec {
        kind,
        anonymous: source.is_none(),
        listed: true,
        source: source.unwrap_or_default(),
        target: volume.target.clone(),
        read_only: volume.read_only,
        propagation: volume.bind.as_ref().and_then(|b| b.propagation.clone()),
        create_host_path: false,
        no_copy: volume.volume.as_ref().is_some_and(|v| v.nocopy),
        subpath: volume.volume.as_ref().and_then(|v| v.subpath.clone()),
        not_recursive: volume.bind.as_ref().is_some_and(|b| b.recursive.as_deref() == Some("disabled")),
        id_map: volume.bind.as_ref().and_then(|b| b.idmap.clone()).filter(|_| kind == MountKind::Bind),
        labels: volume.volume.as_ref().map(|v| v.labels.clone()).unwrap_or_default(),
        layers: Vec::new(),
    }
}

fn tmpfs_options(volume: &ServiceVolume) -> Vec<String> {
    let mut options = Vec::new();
    if let Some(tmpfs) = &volume.tmpfs {
        options.extend(tmpfs.size.as_ref().map(|size| format!("size={size}")));
        options.extend(tmpfs.mode.map(|mode| format!("mode={mode:o}")));
    }
    if volume.read_only {
        options.push("ro".into());
    }
    options
}

/// A config or a secret. A file of the host with an owner and mode of its own is mounted as it is, so that a change of it is
/// seen; everything else is a copy.
fn file(
    service: &str,
    what: &str,
    directory: &str,
    mounted: &FileMount,
    object: Option<&FileObject>,
) -> Result<FileSpec, String> {
    let one = what.trim_end_matches('s');
    let source = &mounted.source;
    let Some(object) = object else {
        return Err(format!("`services.{service}.{what}` names `{source}`, and the project has no such {one}"));
    };
    let number = |key: &str, text: &Option<String>| match text.as_deref() {
        None | Some("") => Ok(0),
        Some(text) => text
            .parse::<u32>()
            .map_err(|_| format!("`services.{service}.{what}`: the {key} of `{source}` is `{text}`, and must be a number")),
    };
    let target = mounted.target.clone().unwrap_or_else(|| source.clone());
    let target = if target.starts_with('/') { target } else { format!("{directory}{target}") };
    let as_it_is = mounted.uid.is_none() && mounted.gid.is_none() && mounted.mode.is_none();
    let read = |path: &String| {
        ask(|| read_regular_file(Path::new(path), MAX_COPIED))
            .map_err(|e| format!("the {one} `{source}` cannot be read from {path}: {e}"))
    };
    let copied_from = object.file.clone().filter(|_| object.content.is_none() && !as_it_is);
    let (source, content) = match (&object.content, &object.file) {
        (Some(content), _) if object.encoded => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(content);
            (None, Some(decoded.map_err(|e| format!("the content of the {one} `{source}` is not understood: {e}"))?))
        }
        (Some(content), _) => (None, Some(content.clone().into_bytes())),
        (None, Some(path)) if as_it_is => {
            ask(|| std::fs::metadata(path)).map_err(|e| format!("the {one} `{source}` cannot be read from {path}: {e}"))?;
            (Some(path.clone()), None)
        }
        (None, Some(path)) => (None, Some(read(path)?)),
        (None, None) if object.external => {
            return Err(format!(
                "the {one} `{source}` is external, and wharf keeps none of its own: give it a `file` or an `environment`"
            ));
        }
        (None, None) => return Err(format!("the {one} `{source}` has no content: give it a `file` or an `environment`")),
    };
    Ok(FileSpec {
        target,
        source,
        copied_from,
        uid: number("uid", &mounted.uid)?,
        gid: number("gid", &mounted.gid)?,
        mode: mounted.mode.unwrap_or(0o444),
        content,
    })
}
