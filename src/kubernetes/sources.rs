//! The files of this machine that a project's objects are made of. Who exports reads them.

use super::kompose;
use crate::compose::model::{Project, VolumeKind};
use std::collections::{BTreeMap, BTreeSet};

/// The most that a ConfigMap or a Secret holds: 1 MiB, less what its names take.
pub const LARGEST: u64 = 1 << 20;

/// What a path is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Found {
    #[default]
    Absent,
    File(Content),
    /// More than [`LARGEST`].
    TooLarge,
    /// With the regular files in it, where those are asked for.
    Directory(BTreeMap<String, Content>),
    /// A socket, a device, a FIFO.
    Irregular,
    /// With the reason.
    Unreadable(String),
}

/// A regular file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub bytes: Vec<u8>,
    pub is_executable: bool,
}

/// The paths that an export asks about: sources of bind mounts, files of configs and secrets. `true`: and what is in the directory.
pub fn needed(project: &Project) -> BTreeMap<String, bool> {
    let mut needed = BTreeMap::new();
    let services = project.services.values().chain(project.jobs.values().map(|job| &job.service));
    let mut mounted: [BTreeSet<&str>; 2] = Default::default();
    for service in services {
        let opened = kompose::label(service, "volume.type").is_some_and(|kind| kind.eq_ignore_ascii_case("configMap"));
        for volume in service.volumes.iter().filter(|volume| volume.kind == VolumeKind::Bind) {
            if let Some(source) = &volume.source {
                *needed.entry(source.clone()).or_default() |= opened;
            }
        }
        mounted[0].extend(service.configs.iter().map(|mount| mount.source.as_str()));
        mounted[1].extend(service.secrets.iter().map(|mount| mount.source.as_str()));
    }
    for (objects, mounted) in [&project.configs, &project.secrets].into_iter().zip(mounted) {
        for (name, object) in objects {
            if let Some(file) = object.file.as_ref().filter(|_| mounted.contains(name.as_str()) && !object.external) {
                needed.entry(file.clone()).or_default();
            }
        }
    }
    needed
}
