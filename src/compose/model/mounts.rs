//! The mounts of a service: `volumes`, `configs` and `secrets`.

use super::values::VolumeKind;
use crate::units::{ByteSize, IdMap, as_text};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// An entry of `volumes`, in its long form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceVolume {
    #[serde(rename = "type")]
    pub kind: VolumeKind,
    #[serde(default)]
    pub source: Option<String>,
    pub target: String,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub bind: Option<ServiceVolumeBind>,
    #[serde(default)]
    pub volume: Option<ServiceVolumeVolume>,
    #[serde(default)]
    pub tmpfs: Option<ServiceVolumeTmpfs>,
    #[serde(default)]
    pub image: Option<ServiceVolumeImage>,
    #[serde(default)]
    pub consistency: Option<String>,
}

/// `volumes[].bind`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceVolumeBind {
    pub create_host_path: bool,
    pub propagation: Option<String>,
    pub recursive: Option<String>,
    pub selinux: Option<String>,
    #[serde(with = "as_text")]
    pub idmap: Option<IdMap>,
}

/// `volumes[].volume`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceVolumeVolume {
    pub labels: IndexMap<String, String>,
    pub nocopy: bool,
    pub subpath: Option<String>,
}

/// `volumes[].tmpfs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceVolumeTmpfs {
    #[serde(with = "as_text")]
    pub size: Option<ByteSize>,
    pub mode: Option<u32>,
}

/// `volumes[].image`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceVolumeImage {
    pub subpath: Option<String>,
}

/// A config or a secret as a file in the container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileMount {
    pub source: String,
    pub target: Option<String>,
    pub uid: Option<String>,
    pub gid: Option<String>,
    pub mode: Option<u32>,
}
