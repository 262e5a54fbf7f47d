//! The volumes of a Pod and the mounts of its containers: `volumes`, `volumes_from`, `tmpfs`, `shm_size`, `configs`, `secrets`.
//!
//! [`claim`] makes the PersistentVolumeClaims of named volumes, [`objects`] ConfigMaps and Secrets, [`bind`] knows what becomes of this machine's files.

mod bind;
mod claim;
mod objects;

pub use claim::claims;

use super::context::Context;
use super::workload::Workload;
use super::{names, quantity};
use crate::compose::model::{FileMount, ServiceVolume, VolumeKind};
use crate::units::{self, ByteSize};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, ImageVolumeSource, KeyToPath, SecretVolumeSource, Volume, VolumeMount,
};
use std::collections::BTreeMap;

/// The volumes of one Pod.
#[derive(Default)]
pub struct Mounts {
    pub volumes: Vec<Volume>,
    /// Directories of one workload, by its name and the target: its init containers have the same.
    own: BTreeMap<(String, String), String>,
}

/// A mount that a service has, and where the file says so.
struct Wanted {
    path: Vec<String>,
    volume: ServiceVolume,
}

impl Mounts {
    /// The mounts of a container. Its volumes are the Pod's afterwards; what two containers share is one volume.
    pub fn of(&mut self, context: &Context<'_>, workload: &Workload<'_>) -> Vec<VolumeMount> {
        let mut mounts = Vec::new();
        for wanted in wanted(context, workload) {
            let path: Vec<&str> = wanted.path.iter().map(String::as_str).collect();
            mounts.extend(self.volume(context, workload, &wanted.volume, &path));
        }
        for (n, text) in workload.service.tmpfs.iter().enumerate() {
            mounts.push(self.tmpfs(context, workload, &workload.path(&["tmpfs", &n.to_string()]), text));
        }
        if let Some(size) = workload.service.shm_size.filter(|size| size.0 > 0) {
            mounts.push(mount(self.own(workload, "/dev/shm", memory(Some(size))), "/dev/shm"));
        }
        for (section, list) in [("configs", &workload.service.configs), ("secrets", &workload.service.secrets)] {
            for (n, file) in list.iter().enumerate() {
                mounts.extend(self.file_object(context, workload, section, n, file));
            }
        }
        mounts
    }

    fn volume(
        &mut self,
        context: &Context<'_>,
        workload: &Workload<'_>,
        volume: &ServiceVolume,
        path: &[&str],
    ) -> Option<VolumeMount> {
        let mut mount = match volume.kind {
            VolumeKind::Volume => match &volume.source {
                Some(key) => mount(self.add(key, claim::source(context, key)), &volume.target),
                None => {
                    let message = format!("the volume at `{}` has no name: its content is gone with the Pod", volume.target);
                    context.warn(path, message, "name it, `NAME:/path`, and it is a PersistentVolumeClaim");
                    mount(self.own(workload, &volume.target, disk()), &volume.target)
                }
            },
            VolumeKind::Tmpfs => {
                let options = volume.tmpfs.clone().unwrap_or_default();
                if options.mode.is_some() {
                    let message = "a volume in memory has no mode of its own in Kubernetes: everybody may write to it";
                    context.warn(path, message, "");
                }
                mount(self.own(workload, &volume.target, memory(options.size)), &volume.target)
            }
            VolumeKind::Bind => bind::bind(self, context, workload, volume, path)?,
            VolumeKind::Image => self.image(context, volume, path)?,
            VolumeKind::Cluster | VolumeKind::Npipe => {
                context.refuse(path, format!("a volume of the type `{}` has no counterpart in Kubernetes", volume.kind), "");
                return None;
            }
        };
        if volume.read_only {
            mount.read_only = Some(true);
        }
        let subpath = volume.volume.as_ref().and_then(|options| options.subpath.clone());
        let of_label = workload.label("volume.subpath").map(str::to_string);
        let subpath = subpath.or(of_label.filter(|_| volume.kind == VolumeKind::Volume));
        if let Some(subpath) = subpath {
            mount.sub_path = Some(subpath.trim_start_matches('/').to_string());
        }
        Some(mount)
    }

    fn image(&mut self, context: &Context<'_>, volume: &ServiceVolume, path: &[&str]) -> Option<VolumeMount> {
        if !context.has(33) {
            let message = format!("Kubernetes {} has no volumes of images", context.version());
            context.refuse(path, message, "`--cluster-version 1.33` or later, or copy the files in an image of your own");
            return None;
        }
        if !context.has(35) {
            context.warn(path, "volumes of images are behind the feature gate ImageVolume before Kubernetes 1.35", "");
        }
        let reference = volume.source.clone();
        let image = ImageVolumeSource { reference, pull_policy: None };
        let mut mount = mount(self.add(&volume.target, Volume { image: Some(image), ..Volume::default() }), &volume.target);
        mount.sub_path = volume.image.as_ref().and_then(|image| image.subpath.clone());
        // Nobody can write to an image.
        mount.read_only = Some(true);
        Some(mount)
    }

    /// `PATH[:OPTIONS]`.
    fn tmpfs(&mut self, context: &Context<'_>, workload: &Workload<'_>, path: &[&str], text: &str) -> VolumeMount {
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        let mut size = None;
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("size", text)) if units::bytes(text).is_some() => size = units::bytes(text).map(ByteSize),
                _ if matches!(option, "rw" | "nosuid" | "nodev" | "noexec" | "exec" | "mode=1777" | "mode=777" | "mode=0777") => {
                }
                _ => context.warn(path, format!("the option `{option}` of a tmpfs has no counterpart in Kubernetes"), ""),
            }
        }
        mount(self.own(workload, target, memory(size)), target)
    }

    fn file_object(
        &mut self,
        context: &Context<'_>,
        workload: &Workload<'_>,
        section: &'static str,
        n: usize,
        file: &FileMount,
    ) -> Option<VolumeMount> {
        let index = n.to_string();
        let path = workload.path(&[section, &index]);
        let (name, key) = objects::object(context, section, &file.source, &path)?;
        let is_owned = |id: &Option<String>| id.as_deref().is_some_and(|id| !id.is_empty() && id != "0");
        if is_owned(&file.uid) || is_owned(&file.gid) {
            let help = "`group_add: [GID]` makes it readable to a group; the mode is 0444 where the file names none";
            context.warn(&path, "files of ConfigMaps and Secrets belong to root: `uid` and `gid` are left out", help);
        }
        if file.mode.is_some_and(|mode| mode & !0o777 != 0) {
            let message = "files of ConfigMaps and Secrets have no bits for another user or group: these of `mode` are left out";
            context.warn(&path, message, "");
        }
        let items =
            file.mode.map(|mode| vec![KeyToPath { key: key.clone(), path: key.clone(), mode: i32::try_from(mode & 0o777).ok() }]);
        let volume = if section == "configs" {
            let map = ConfigMapVolumeSource { name: name.clone(), items, ..ConfigMapVolumeSource::default() };
            Volume { config_map: Some(map), ..Volume::default() }
        } else {
            let secret = SecretVolumeSource { secret_name: Some(name.clone()), items, ..SecretVolumeSource::default() };
            Volume { secret: Some(secret), ..Volume::default() }
        };
        let base = if section == "configs" { "" } else { "/run/secrets" };
        let target = match file.target.as_deref().filter(|target| !target.is_empty()) {
            Some(target) if target.starts_with('/') => target.to_string(),
            Some(target) => format!("{base}/{target}"),
            None => format!("{base}/{}", file.source),
        };
        let mut mount = mount(self.add(&name, volume), &target);
        mount.sub_path = Some(key);
        mount.read_only = Some(true);
        Some(mount)
    }

    /// The name of a directory that no other workload has.
    pub fn own(&mut self, workload: &Workload<'_>, target: &str, volume: Volume) -> String {
        let key = (workload.name.to_string(), target.to_string());
        if let Some(known) = self.own.get(&key) {
            return known.clone();
        }
        let name = self.add(target, volume);
        self.own.insert(key, name.clone());
        name
    }

    /// The name of a volume, which is new unless an equal one is there.
    pub fn add(&mut self, wanted: &str, volume: Volume) -> String {
        let same = |known: &&Volume| Volume { name: String::new(), ..(*known).clone() } == volume;
        // Two directories in memory or on a node's disk are two.
        let is_own = volume.empty_dir.is_some();
        if let Some(known) = self.volumes.iter().find(same).filter(|_| !is_own) {
            return known.name.clone();
        }
        let base = names::dns(wanted);
        let is_taken = |name: &str| self.volumes.iter().any(|volume| volume.name == name);
        let mut name = base.clone();
        let mut n = 1;
        while is_taken(&name) {
            n += 1;
            name = names::dns(&format!("{}-{n}", base.get(..58).unwrap_or(&base)));
        }
        self.volumes.push(Volume { name: name.clone(), ..volume });
        name
    }
}

pub fn mount(name: String, target: &str) -> VolumeMount {
    VolumeMount { name, mount_path: target.into(), ..VolumeMount::default() }
}

fn memory(size: Option<ByteSize>) -> Volume {
    let source = EmptyDirVolumeSource { medium: Some("Memory".into()), size_limit: size.and_then(quantity::bytes) };
    Volume { empty_dir: Some(source), ..Volume::default() }
}

fn disk() -> Volume {
    Volume { empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

/// The mounts of a service, and those of the services whose volumes it has as well.
fn wanted(context: &Context<'_>, workload: &Workload<'_>) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    let own = |section: &str, name: &str, n: usize, volume: &ServiceVolume| Wanted {
        path: vec![section.into(), name.into(), "volumes".into(), n.to_string()],
        volume: volume.clone(),
    };
    all.extend(workload.service.volumes.iter().enumerate().map(|(n, volume)| own(workload.section, workload.name, n, volume)));
    let mut next: Vec<(String, bool)> = from(workload.service);
    let mut seen = vec![workload.name.to_string()];
    while let Some((name, read_only)) = next.pop() {
        if name.starts_with("container:") {
            let message = format!("`{name}` is a container of this machine: its volumes are left out");
            context.warn(&workload.path(&["volumes_from"]), message, "");
            continue;
        }
        let Some(other) = context.project().services.get(&name).filter(|_| !seen.contains(&name)) else { continue };
        for (n, volume) in other.volumes.iter().enumerate() {
            if all.iter().any(|known| known.volume.target == volume.target) {
                continue;
            }
            if volume.kind == VolumeKind::Volume && volume.source.is_none() {
                let message = format!("the volume at `{}` of `{name}` has no name: two Pods cannot share it", volume.target);
                context.warn(&workload.path(&["volumes_from"]), message, "give it a name in `volumes`");
                continue;
            }
            let mut shared = own("services", &name, n, volume);
            shared.volume.read_only |= read_only;
            all.push(shared);
        }
        next.extend(from(other).into_iter().map(|(name, own)| (name, own || read_only)));
        seen.push(name);
    }
    all
}

fn from(service: &crate::compose::model::Service) -> Vec<(String, bool)> {
    let parsed = service.volumes_from.iter().map(|text| match text.strip_prefix("container:") {
        Some(_) => (text.clone(), false),
        None => {
            let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
            (name.to_string(), mode == "ro")
        }
    });
    parsed.collect()
}
