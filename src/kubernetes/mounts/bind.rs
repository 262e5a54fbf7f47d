//! Bind mounts: a file of this machine is a ConfigMap; a directory has no counterpart, and the label `kompose.volume.type` chooses one.

use super::super::context::Context;
use super::super::labels::shortened;
use super::super::names;
use super::super::sources::{Content, Found};
use super::super::workload::Workload;
use super::{Mounts, claim, disk, mount, objects};
use crate::compose::model::{ServiceVolume, VolumeKind};
use crate::compose::paths::cleaned;
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, HostPathVolumeSource, KeyToPath, PersistentVolumeClaimVolumeSource, Volume, VolumeMount,
};
use std::collections::BTreeMap;
use std::path::Path;

/// The sockets of container engines: nothing in a cluster answers there.
const ENGINES: [&str; 4] =
    ["/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock"];

pub fn bind(
    mounts: &mut Mounts,
    context: &Context<'_>,
    workload: &Workload<'_>,
    volume: &ServiceVolume,
    path: &[&str],
) -> Option<VolumeMount> {
    let source = volume.source.as_deref().unwrap_or_default();
    if let Some(options) = &volume.bind
        && options.propagation.as_deref().is_some_and(|propagation| !matches!(propagation, "private" | "rprivate"))
    {
        context.warn(path, "propagation of mounts is left out", "");
    }
    let kind = workload.label("volume.type").map(str::to_ascii_lowercase);
    match kind.as_deref() {
        Some("hostpath") => {
            let host_path = HostPathVolumeSource { path: source.into(), type_: None };
            let host_path = Volume { host_path: Some(host_path), ..Volume::default() };
            return Some(mount(mounts.add(&volume.target, host_path), &volume.target));
        }
        Some("emptydir") => return Some(mount(mounts.own(workload, &volume.target, disk()), &volume.target)),
        Some("persistentvolumeclaim") if !matches!(context.file(source), Found::File(_)) => {
            let name = name_of(context, workload, source);
            claim::of_directory(
                context,
                source,
                &name,
                workload.service.labels.get("kompose.volume.size").map(String::as_str),
                context.place(path),
            );
            let claim = PersistentVolumeClaimVolumeSource { claim_name: name, read_only: None };
            let claim = Volume { persistent_volume_claim: Some(claim), ..Volume::default() };
            return Some(mount(mounts.add(last(source), claim), &volume.target));
        }
        None | Some("configmap" | "persistentvolumeclaim") => {}
        Some(other) => {
            let message = format!("`{other}` is no type of a volume that is written");
            context.refuse(path, message, "write configMap, emptyDir, hostPath or persistentVolumeClaim");
            return None;
        }
    }
    if ENGINES.iter().any(|engine| Path::new(engine) == cleaned(Path::new(source))) {
        let message = format!("{source} is the socket of this machine's engine, and a cluster has none");
        context.refuse(
            path,
            message,
            "leave this service out of the cluster (a profile of its own does), or ask the cluster's API instead",
        );
        return None;
    }
    match context.file(source) {
        Found::File(content) => Some(file(mounts, context, workload, volume, content, path)),
        Found::Directory(files) if kind.as_deref() == Some("configmap") => {
            Some(directory(mounts, context, workload, volume, files, path))
        }
        found => {
            let what = match found {
                Found::Directory(_) | Found::Absent => {
                    format!("`{source}` is a directory of this machine, which a cluster does not have")
                }
                Found::TooLarge => format!("`{source}` is larger than 1 MiB, which is the most that a ConfigMap holds"),
                Found::Irregular => {
                    format!("`{source}` is a socket, a device or a FIFO of this machine, which a cluster does not have")
                }
                Found::Unreadable(why) => format!("`{source}` cannot be read: {why}"),
                Found::File(_) => return None,
            };
            let help = "copy the files into the image, make it a named volume (`data:/path`), or choose by the service's label `kompose.volume.type`: persistentVolumeClaim (empty at first), configMap (the directory's files, up to 1 MiB), emptyDir, or hostPath (the node's own)";
            context.refuse(path, what, help);
            None
        }
    }
}

fn last(source: &str) -> &str {
    source.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("files")
}

/// One file: a ConfigMap of which the one key is mounted over the target.
fn file(
    mounts: &mut Mounts,
    context: &Context<'_>,
    workload: &Workload<'_>,
    volume: &ServiceVolume,
    content: &Content,
    path: &[&str],
) -> VolumeMount {
    let source = volume.source.as_deref().unwrap_or_default();
    if !volume.read_only {
        let message = format!("{source} is a ConfigMap in Kubernetes: the container reads it and cannot write to it");
        context.warn(path, message, "add `:ro` where that is meant");
    }
    let key = names::key(last(source));
    let name = name_of(context, workload, source);
    context.share(objects::config_map(
        context,
        &name,
        [(key.clone(), content.bytes.clone())].into(),
        context.place(path),
        &indexmap::IndexMap::new(),
    ));
    let map =
        ConfigMapVolumeSource { name: name.clone(), default_mode: objects::mode(content), ..ConfigMapVolumeSource::default() };
    let mut mount = mount(mounts.add(last(source), Volume { config_map: Some(map), ..Volume::default() }), &volume.target);
    mount.sub_path = Some(key);
    mount.read_only = Some(true);
    mount
}

/// The name of the object of a file or a directory. Where a service mounts several of one name, the first has the short one.
fn name_of(context: &Context<'_>, workload: &Workload<'_>, source: &str) -> String {
    let name = names::dns(&format!("{}-{}", workload.object, last(source)));
    let own = names::dns(last(source));
    let binds = workload.service.volumes.iter().filter(|volume| volume.kind == VolumeKind::Bind);
    let first = binds.filter_map(|volume| volume.source.as_deref()).find(|source| names::dns(last(source)) == own);
    if first.is_none_or(|first| first == source) {
        return name;
    }
    let relative =
        Path::new(source).strip_prefix(&context.loaded.directory).map_or_else(|_| source.into(), Path::to_string_lossy);
    names::dns(&format!("{name}-{}", relative.trim_start_matches('/').replace('/', "-")))
}

fn directory(
    mounts: &mut Mounts,
    context: &Context<'_>,
    workload: &Workload<'_>,
    volume: &ServiceVolume,
    files: &BTreeMap<String, Content>,
    path: &[&str],
) -> VolumeMount {
    let source = volume.source.as_deref().unwrap_or_default();
    let name = name_of(context, workload, source);
    let mut contents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut items = Vec::new();
    for (file, content) in files {
        let key = names::key(file);
        items.push(KeyToPath { key: key.clone(), path: file.clone(), mode: objects::mode(content) });
        if contents.insert(key.clone(), content.bytes.clone()).is_some() {
            let message =
                format!("two files of {source} would both be the key `{key}` of a ConfigMap: one is `{}`", shortened(file));
            context.refuse(path, message, "give one of them another name");
        }
    }
    let is_plain = items.iter().all(|item| item.key == item.path && item.mode.is_none());
    context.share(objects::config_map(context, &name, contents, context.place(path), &indexmap::IndexMap::new()));
    let map = ConfigMapVolumeSource { name, items: (!is_plain).then_some(items), ..ConfigMapVolumeSource::default() };
    let mut mount = mount(mounts.add(last(source), Volume { config_map: Some(map), ..Volume::default() }), &volume.target);
    mount.read_only = Some(true);
    mount
}
